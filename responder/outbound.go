package main

// What a chat's server is told, and how: the only HTTP requests of this program that
// a human's settings alone send somewhere.
//
// The rules they keep. TLS, or this machine. No redirect is followed: the one who is
// redirected to would get the token too. An address inside a private network is
// spoken to only if the settings name it, so that a name which somebody else resolves
// leads to nobody's router. Addresses and tokens of such servers are secrets: they
// come from a file of their own or the environment, and stand in no error and no log.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/net/http/httpproxy"

	"github.com/continuousauth/action/internal/wire"
)

const (
	outboundWithin = 15 * time.Second
	maxReply       = 64 << 10
	maxSecret      = 4 << 10
	// longestWait bounds what a server may ask to be waited for.
	longestWait = 10 * time.Minute
)

// secret is a setting that others must not read: {file: NAME} or {env: NAME}. As a
// text, it is not one.
type secret struct{ text, file, env string }

// UnmarshalYAML is yaml.Unmarshaler's.
func (s *secret) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		return node.Decode(&s.text)
	}
	var m map[string]string
	if err := node.Decode(&m); err != nil {
		return errors.New("write {file: NAME} or {env: NAME}")
	}
	s.file, s.env = m["file"], m["env"]
	if (s.file == "") == (s.env == "") || len(m) != 1 {
		return errors.New("write either {file: NAME} or {env: NAME}")
	}
	return nil
}

func (s secret) given() bool { return s != secret{} }

// read gives its value. open: it may stand in the settings themselves.
func (s secret) read(sur surroundings, open bool) (value string, err error) {
	switch {
	case s.file != "":
		path := s.file
		if !filepath.IsAbs(path) {
			path = filepath.Join(sur.dir, path)
		}
		data, err := readOwn(path, maxSecret, 0o077)
		defer clear(data)
		if errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("there is no file %s to read it from", path)
		}
		if err != nil {
			return "", err
		}
		value = strings.TrimSpace(string(data))
	case s.env != "":
		value = sur.env.get(s.env)
	case !open && s.text != "":
		return "", errors.New("it is a secret, and responder.yaml is shown to people who help; write {file: NAME}, a file that only you can read (mode 0600), or {env: NAME}")
	default:
		value = s.text
	}
	if value == "" {
		return "", errors.New("it is empty")
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", errors.New("it is more than one word of printable ASCII")
	}
	return value, nil
}

// hookURL reads the address of a server, without ever repeating it.
func hookURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return nil, errors.New("that is no URL; write https://HOST/PATH")
	case u.User != nil:
		return nil, errors.New("a URL with a password in it is not taken; there is `token` for that")
	case u.Fragment != "":
		return nil, errors.New("what follows the # of a URL is never sent; leave it out")
	case u.Scheme == "https", u.Scheme == "http" && local(u.Hostname()):
		return u, nil
	}
	return nil, errors.New("it must begin with https://; http:// is for this machine itself")
}

// local says whether host is this machine, by its spelling.
func local(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// privately reads which private addresses may be spoken to.
func privately(list []string) (all []netip.Prefix, err error) {
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			ip, err := netip.ParseAddr(s)
			if err != nil {
				return nil, fmt.Errorf("private: %s is no address and no network such as 192.168.1.0/24", wire.CleanName(s, 60))
			}
			p = netip.PrefixFrom(ip, ip.BitLen())
		}
		all = append(all, p)
	}
	return all, nil
}

var sharedSpace = netip.MustParsePrefix("100.64.0.0/10")

// reachable says whether what host resolved to may be spoken to.
func reachable(host string, ip netip.Addr, private []netip.Prefix) bool {
	ip = ip.Unmap().WithZone("")
	if named, err := netip.ParseAddr(host); err == nil && named.Unmap() == ip {
		return true // the setting names it
	}
	if slices.ContainsFunc(private, func(p netip.Prefix) bool { return p.Contains(ip) }) {
		return true
	}
	if host == "localhost" {
		return ip.IsLoopback()
	}
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !sharedSpace.Contains(ip)
}

// outbound sends.
type outbound struct{ client *http.Client }

func newOutbound(env environ, private []netip.Prefix) *outbound {
	proxies := httpproxy.Config{}
	for _, v := range []string{"https_proxy", "HTTPS_PROXY"} {
		if s := env.get(v); s != "" {
			proxies.HTTPSProxy = s
		}
	}
	for _, v := range []string{"no_proxy", "NO_PROXY"} {
		if s := env.get(v); s != "" {
			proxies.NoProxy = s
		}
	}
	proxy := proxies.ProxyFunc()
	through := "" // the proxy's address: whoever set it may have it in a private network
	if u, err := proxy(&url.URL{Scheme: "https", Host: "chat.invalid"}); err == nil && u != nil {
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443", "socks5": "1080"}[u.Scheme]
		}
		through = net.JoinHostPort(u.Hostname(), port)
	}
	transport := &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) { return proxy(r.URL) },
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			d := net.Dialer{Timeout: outboundWithin}
			if host, _, err := net.SplitHostPort(address); err == nil && address != through {
				d.Control = func(_, resolved string, _ syscall.RawConn) error {
					at, err := netip.ParseAddrPort(resolved)
					if err != nil || !reachable(host, at.Addr(), private) {
						return errPrivate
					}
					return nil
				}
			}
			return d.DialContext(ctx, network, address)
		},
		TLSHandshakeTimeout: outboundWithin, ResponseHeaderTimeout: outboundWithin,
		MaxResponseHeaderBytes: maxReply, MaxIdleConns: 2, IdleConnTimeout: time.Minute,
	}
	return &outbound{&http.Client{
		Transport: transport, Timeout: outboundWithin,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

var errPrivate = errors.New("its name leads to an address of a private network, which is spoken to only if `private` in responder.yaml names that")

// unsent says why something was not taken, and after which time it may be tried again
// at the earliest.
type unsent struct {
	why  string
	wait time.Duration
}

func (e *unsent) Error() string { return e.why }

// send sends one request and gives what came back. What it says of a failure holds
// nothing of the address.
func (o *outbound) send(ctx context.Context, method, to string, header http.Header, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, to, bytes.NewReader(body))
	if err != nil {
		return nil, &unsent{why: "its address cannot be used"}
	}
	r.Header = header
	r.Header.Set("User-Agent", "cfa-responder")
	reply, err := o.client.Do(r)
	if err != nil {
		return nil, &unsent{why: nameless(err)}
	}
	defer reply.Body.Close()
	got, err := io.ReadAll(io.LimitReader(reply.Body, maxReply+1))
	switch {
	case reply.StatusCode == http.StatusTooManyRequests:
		return nil, &unsent{why: "it wants fewer messages", wait: retryAfter(reply.Header)}
	case reply.StatusCode >= 300 && reply.StatusCode < 400:
		return nil, &unsent{why: "it redirects elsewhere, which is not followed; name the address that it redirects to"}
	case reply.StatusCode < 200 || reply.StatusCode >= 300:
		return nil, &unsent{why: fmt.Sprintf("it refuses with status %d (%s)", reply.StatusCode, http.StatusText(reply.StatusCode)), wait: retryAfter(reply.Header)}
	case err != nil:
		return nil, &unsent{why: nameless(err)}
	case len(got) > maxReply:
		return nil, &unsent{why: "it answers with more than can be read"}
	}
	return got, nil
}

// nameless is an error of net/http without the URL that it is about.
func nameless(err error) string {
	if errors.Is(err, errPrivate) {
		return errPrivate.Error()
	}
	if u, ok := errors.AsType[*url.Error](err); ok {
		if u.Timeout() {
			return "it does not answer in time"
		}
		err = u.Err
	}
	return "it cannot be reached: " + wire.Clean(err.Error(), 200)
}

// retryAfter reads that header: seconds, or a date.
func retryAfter(h http.Header) time.Duration {
	v := h.Get("Retry-After")
	if n, err := strconv.ParseUint(v, 10, 31); err == nil {
		return min(time.Duration(n)*time.Second, longestWait)
	}
	if at, err := http.ParseTime(v); err == nil {
		return max(0, min(time.Until(at), longestWait))
	}
	return 0
}
