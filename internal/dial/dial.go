// Package dial connects a job or a responder to a relay, the same way for both:
// NATS over TLS, or over WebSocket where only HTTPS gets out.
//
// The rule it keeps: nothing a server says before TLS is believed, nothing but a
// nonce is ever signed for it, and no other server is followed. Plain text is
// for loopback only.
package dial

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"golang.org/x/net/http/httpproxy"

	"github.com/continuousauth/action/internal/wire"
)

var (
	// ErrUnreachable says that the relay cannot be reached now.
	ErrUnreachable = errors.New("relay unreachable")
	// ErrRefused says that the relay refused the connection's credentials. NATS
	// carries no reason at this point; the relay's log has it.
	ErrRefused = errors.New("relay refused the connection")
	// ErrTLS says that the server did not show a certificate for the relay.
	ErrTLS = errors.New("relay's certificate is not accepted")
)

// Relay is where a relay is and how it proves that it is that relay.
type Relay struct {
	url  *url.URL
	name string
	tls  *tls.Config // nil: plain, on loopback
	http httpproxy.Config
	wait time.Duration // bounds a dial, and the handshakes after it
}

// Target says which relay is meant, as a person configures it.
type Target struct {
	URL     string // tls://host:port, wss://host[:port][/path], or host[:port] for tls; nats:// and ws:// on loopback
	Name    string // the relay's name; empty: the URL's host
	TLSName string // the certificate's name, if not Name
	CAFile  string // PEM file with the certificates to trust; empty: the system's
	Getenv  func(string) string
}

// Parse checks t and gives the relay it means.
func Parse(t Target) (*Relay, error) {
	raw := strings.TrimSpace(t.URL)
	if raw == "" {
		return nil, errors.New("no relay given; say where it is, for example tls://relay.example.com:4222")
	}
	if !strings.Contains(raw, "://") {
		raw = "tls://" + raw
	}
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" {
		return nil, fmt.Errorf("relay address is not a URL with a host; write tls://host:port or wss://host")
	}
	if u.User != nil {
		return nil, fmt.Errorf("relay address holds a user name or password; a relay takes none")
	}
	if u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("relay address holds a query or fragment; write tls://host:port or wss://host")
	}
	r := &Relay{url: u, name: t.Name, wait: dialTimeout}
	if r.name == "" {
		r.name = strings.ToLower(u.Hostname())
	}
	if err := wire.CheckRelayName(r.name); err != nil {
		return nil, fmt.Errorf("relay name %q: %w; set relay-name to the `host` of the relay's configuration", wire.Clean(r.name, 80), err)
	}
	secure := true
	switch u.Scheme {
	case "tls":
		if u.Port() == "" {
			u.Host = net.JoinHostPort(u.Hostname(), "4222")
		}
	case "wss":
	case "nats", "ws":
		if !loopback(u.Hostname()) {
			return nil, fmt.Errorf("relay address %s:// is plain text, which is for loopback only; use %s://", u.Scheme, map[string]string{"nats": "tls", "ws": "wss"}[u.Scheme])
		}
		secure = false
		if u.Scheme == "nats" && u.Port() == "" {
			u.Host = net.JoinHostPort(u.Hostname(), "4222")
		}
	default:
		return nil, fmt.Errorf("relay address begins with %q; use tls:// or wss://", wire.Clean(u.Scheme, 20)+"://")
	}
	if secure {
		name := t.TLSName
		if name == "" {
			name = r.name
		}
		r.tls = &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12}
	}
	if t.CAFile != "" {
		if !secure {
			return nil, fmt.Errorf("a CA file was given, but %s:// uses no TLS", u.Scheme)
		}
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("CA file: %w", err)
		}
		r.tls.RootCAs = x509.NewCertPool()
		if !r.tls.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("CA file %s holds no PEM certificate", t.CAFile)
		}
	}
	if t.Getenv != nil {
		// The job's environment, not the process's: net/http caches the latter
		// at its first use, and nats.go reads neither.
		r.http = httpproxy.Config{HTTPSProxy: first(t.Getenv, "HTTPS_PROXY", "https_proxy"), NoProxy: first(t.Getenv, "NO_PROXY", "no_proxy")}
		if r.http.HTTPSProxy != "" && u.Scheme == "wss" {
			// httpproxy connects directly where it cannot read the proxy's URL.
			always := httpproxy.Config{HTTPSProxy: r.http.HTTPSProxy}
			if proxy, err := always.ProxyFunc()(&url.URL{Scheme: "https", Host: "relay.invalid"}); proxy == nil || err != nil {
				return nil, errors.New("HTTPS_PROXY is not a proxy's URL; write http://host:port")
			}
		}
	}
	return r, nil
}

func first(getenv func(string) string, names ...string) string {
	for _, n := range names {
		if v := getenv(n); v != "" {
			return v
		}
	}
	return ""
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Name is the relay's name.
func (r *Relay) Name() string { return r.name }

// String is the relay's address, for people.
func (r *Relay) String() string { return r.url.String() }

// Conn is one connection. It does not reconnect by itself: whoever holds it
// decides what to prove at the next one (a job needs a fresh ID token).
type Conn struct {
	nc     *nats.Conn
	key    string
	hints  chan wire.Hint
	closed chan struct{}
}

const dialTimeout = 15 * time.Second

// Connect dials r as key, with an ID token for a job, and "" for a responder and
// for a job whose request is open, which sign instead which relay they mean. It has subscribed to the key's own hints when it returns, and, for a responder, to
// those of the projects that the relay let it listen to.
func (r *Relay) Connect(ctx context.Context, key nkeys.KeyPair, token string) (*Conn, error) {
	public := wire.PublicKey(key)
	c := &Conn{key: public, hints: make(chan wire.Hint, 256), closed: make(chan struct{})}
	d := &dialer{ctx: ctx, relay: r}
	var once sync.Once
	opts := []nats.Option{
		nats.Name("cfa"),
		nats.NoReconnect(),
		nats.IgnoreDiscoveredServers(),
		nats.NoEcho(),
		// Longer than a dial: after a restart thousands wait to be let in. Who gives
		// up sooner than the server does leaves it work for nobody, comes again, and
		// so on, until it does nothing else.
		nats.Timeout(2 * r.wait),
		// nats.go would look the name up itself, without a context, and hand the
		// dialer an address: a proxy that goes by names would refuse it, and
		// NO_PROXY would not know it.
		nats.SkipHostLookup(),
		nats.PingInterval(20 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.CustomInboxPrefix(wire.InboxPrefix(public)),
		nats.Nkey(public, func(nonce []byte) ([]byte, error) { return wire.SignNonce(key, nonce) }),
		nats.SetCustomDialer(d),
		nats.ClosedHandler(func(*nats.Conn) { once.Do(func() { close(c.closed) }) }),
		// Errors end a connection and show there; the default handler would
		// write what the server says onto the job's stderr, unclean.
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}),
	}
	if token == "" {
		var err error
		if token, err = wire.SignConnect(key, r.name, time.Now()); err != nil {
			return nil, err
		}
	}
	opts = append(opts, nats.TokenHandler(func() string { return token }))
	if r.tls != nil {
		opts = append(opts, nats.Secure(r.tls.Clone()))
		if r.url.Scheme == "tls" {
			opts = append(opts, nats.TLSHandshakeFirst())
		}
	}
	if p := r.url.Path; p != "" && p != "/" {
		opts = append(opts, nats.ProxyPath(p))
	}
	type result struct {
		nc  *nats.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		nc, err := nats.Connect(r.url.Scheme+"://"+r.url.Host, opts...)
		done <- result{nc, err}
	}()
	var res result
	select {
	case res = <-done:
	case <-ctx.Done():
		go func() { // nats.Connect knows no context; close what it may still bring
			if late := <-done; late.nc != nil {
				late.nc.Close()
			}
		}()
		return nil, context.Cause(ctx)
	}
	if d.conn != nil && !d.detach() { // the context ended in this very moment
		if res.nc != nil {
			res.nc.Close()
		}
		return nil, context.Cause(ctx)
	}
	if res.err != nil {
		if d.conn != nil {
			d.conn.Close()
		}
		if ctx.Err() != nil { // it failed because of that, whichever of the two was seen first
			return nil, context.Cause(ctx)
		}
		if errors.Is(res.err, nats.ErrNoServers) && d.err != nil {
			res.err = d.err // nats.go forgets who refused the connection, the relay or the proxy
		}
		return nil, r.explain(res.err)
	}
	c.nc = res.nc
	if err := c.Listen(wire.HintSubject(public)); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (r *Relay) explain(err error) error {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked), strings.Contains(strings.ToLower(err.Error()), "authorization violation"):
		return ErrRefused
	case errors.As(err, &unknown):
		return fmt.Errorf("%w: %s shows a certificate of an unknown authority; if the relay has one of its own, give it as ca-file", ErrTLS, r.url.Host)
	case errors.As(err, &host):
		return fmt.Errorf("%w: %s shows a certificate for another name than %q; is relay-name right?", ErrTLS, r.url.Host, r.tls.ServerName)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return fmt.Errorf("%w: %s: %w; if that is not the time, set this computer's clock right, else the relay's administrator must renew it", ErrTLS, r.url.Host, err)
	case errors.As(err, &invalid):
		return fmt.Errorf("%w: %s: %w", ErrTLS, r.url.Host, err)
	case errors.As(err, &record):
		return fmt.Errorf("%w: %s does not answer with TLS; is it the relay's port?", ErrUnreachable, r.url.Host)
	case errors.Is(err, wire.ErrNonce):
		return wire.ErrNonce
	}
	return fmt.Errorf("%w: %s: %s", ErrUnreachable, r.url.Host, wire.Clean(err.Error(), 300))
}

// Listen adds a subject whose hints come out of [Conn.Hints].
func (c *Conn) Listen(subject string) error {
	_, err := c.nc.Subscribe(subject, func(m *nats.Msg) {
		var h wire.Hint
		if wire.Decode(m.Data, wire.MaxMessage, &h) != nil {
			return // a hint is never more than a reason to read again
		}
		select {
		case c.hints <- h:
		default: // the reader is behind; the next re-read makes up for it
		}
	})
	if err != nil {
		return fmt.Errorf("%w: subscribe: %w", ErrUnreachable, err)
	}
	return nil
}

// Hints gives what the relay pushes, unverified.
func (c *Conn) Hints() <-chan wire.Hint { return c.hints }

// Closed is closed when the connection has ended.
func (c *Conn) Closed() <-chan struct{} { return c.closed }

// Close ends the connection.
func (c *Conn) Close() { c.nc.Close() }

// Flush waits until the server has taken all that was sent.
func (c *Conn) Flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout) // nats.go refuses a context without a deadline
	defer cancel()
	return c.nc.FlushWithContext(ctx)
}

// Request sends msg and gives the relay's reply, or its refusal as an error of
// type *wire.Refusal. An error that wraps ErrUnreachable may pass; one that wraps
// wire.ErrMalformed or wire.ErrVersion is a relay that this program cannot talk to.
func (c *Conn) Request(ctx context.Context, subject string, msg any) (wire.Reply, error) {
	data, err := json.Marshal(msg)
	if err != nil {
		return wire.Reply{}, fmt.Errorf("encode message: %w", err)
	}
	if len(data) > wire.MaxMessage {
		return wire.Reply{}, fmt.Errorf("message of %d bytes, at most %d are allowed", len(data), wire.MaxMessage)
	}
	m, err := c.nc.RequestWithContext(ctx, subject, data)
	if err != nil {
		if ctx.Err() != nil {
			return wire.Reply{}, fmt.Errorf("%w: no reply: %w", ErrUnreachable, context.Cause(ctx))
		}
		return wire.Reply{}, fmt.Errorf("%w: %s", ErrUnreachable, wire.Clean(err.Error(), 200))
	}
	var reply wire.Reply
	if err := wire.Decode(m.Data, wire.MaxMessage, &reply); err != nil {
		return wire.Reply{}, fmt.Errorf("relay's reply: %w", err)
	}
	if err := wire.CheckVersion(reply.V); err != nil {
		return wire.Reply{}, fmt.Errorf("relay's reply: %w", err)
	}
	if reply.Refused != nil {
		return reply, reply.Refused
	}
	return reply, nil
}

// dialer opens the TCP connection, through the environment's proxy for
// WebSocket, which nats.go does not honour by itself.
type dialer struct {
	ctx   context.Context
	relay *Relay

	// Of the last Dial. nats.go loses both where a WebSocket's handshake fails.
	conn   net.Conn
	err    error
	detach func() bool // takes conn out of the context's hands; false: too late
}

func (d *dialer) Dial(network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(d.ctx, d.relay.wait)
	defer cancel()
	conn, err := d.dial(ctx, network, address)
	if d.err = err; err != nil {
		return nil, err
	}
	d.conn = conn
	d.detach = context.AfterFunc(d.ctx, func() { conn.Close() })
	// nats.go sets a deadline only after the TLS handshake of WebSocket, so a
	// server that says nothing would hold the caller for ever. It lifts this one
	// when the connection is made.
	return conn, conn.SetDeadline(time.Now().Add(d.relay.wait))
}

func (d *dialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var direct net.Dialer
	if d.relay.url.Scheme != "wss" {
		return direct.DialContext(ctx, network, address)
	}
	proxy, err := d.relay.http.ProxyFunc()(&url.URL{Scheme: "https", Host: address})
	if err != nil {
		return nil, fmt.Errorf("HTTPS_PROXY: %w", err)
	}
	if proxy == nil {
		return direct.DialContext(ctx, network, address)
	}
	return throughProxy(ctx, proxy, address)
}

// throughProxy asks an HTTP proxy for a tunnel (CONNECT, RFC 9110 section 9.3.6).
func throughProxy(ctx context.Context, proxy *url.URL, address string) (_ net.Conn, err error) {
	if proxy.Scheme != "http" && proxy.Scheme != "https" {
		return nil, fmt.Errorf("HTTPS_PROXY is of kind %q; http and https proxies are supported", wire.Clean(proxy.Scheme, 20))
	}
	host := proxy.Host
	if proxy.Port() == "" {
		host = net.JoinHostPort(proxy.Hostname(), map[string]string{"http": "80", "https": "443"}[proxy.Scheme])
	}
	var conn net.Conn
	if proxy.Scheme == "https" {
		conn, err = (&tls.Dialer{Config: &tls.Config{ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12}}).DialContext(ctx, "tcp", host)
	} else {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", host)
	}
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", host, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		if !stop() {
			err = fmt.Errorf("proxy %s: %w", host, context.Cause(ctx)) // rather than what its closing looks like
		}
		if err != nil {
			conn.Close()
		}
	}()
	req := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if u := proxy.User; u != nil {
		pass, _ := u.Password()
		req.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(u.Username()+":"+pass)))
	}
	if err := req.Write(conn); err != nil {
		return nil, fmt.Errorf("proxy %s: %w", host, err)
	}
	// One byte at a time: what follows the answer belongs to the tunnel.
	br := bufio.NewReaderSize(&byteReader{conn: conn, left: 16 << 10}, 1)
	resp, err := http.ReadResponse(br, req)
	if err != nil {
		return nil, fmt.Errorf("proxy %s: %w", host, err)
	}
	// The body stays unread: what follows a 200 is the tunnel, whatever length
	// the headers claim (RFC 9110 section 9.3.6).
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("proxy %s refused to connect to %s: status %d", host, address, resp.StatusCode)
	}
	return conn, nil
}

// byteReader hands out one byte a call, so that bufio never reads ahead, and
// stops after 16 KiB, so that a proxy cannot feed headers for ever.
type byteReader struct {
	conn net.Conn
	left int
}

func (b *byteReader) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, errors.New("answer too long")
	}
	b.left--
	return b.conn.Read(p[:1])
}
