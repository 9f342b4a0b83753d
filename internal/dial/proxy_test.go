package dial

// WebSocket through an HTTP proxy, as where nothing but HTTPS gets out.

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// proxy is an HTTP proxy that knows CONNECT only. It notes each request, and
// connects wherever it is asked to on this machine.
type proxy struct {
	address string
	answer  func(*http.Request) string // "": connect; else the whole answer, and no tunnel

	mu   sync.Mutex
	seen []*http.Request
}

func startProxy(t *testing.T, answer func(*http.Request) string) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{address: l.Addr().String(), answer: answer}
	var running sync.WaitGroup
	t.Cleanup(func() { l.Close(); running.Wait() })
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() { p.serve(conn) })
		}
	})
	return p
}

func (p *proxy) serve(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	br := bufio.NewReader(conn)
	req, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.seen = append(p.seen, req)
	p.mu.Unlock()
	answer := p.answer(req)
	if !strings.HasPrefix(answer, "HTTP/1.1 200") {
		_, _ = io.WriteString(conn, answer)
		_, _ = io.Copy(io.Discard, br) // until the client hangs up
		return
	}
	target, err := net.Dial("tcp", req.Host)
	if err != nil {
		return
	}
	defer target.Close()
	if _, err := io.WriteString(conn, answer); err != nil {
		return
	}
	go func() { _, _ = io.Copy(target, br); target.Close() }()
	_, _ = io.Copy(conn, target)
}

func (p *proxy) requests() []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]*http.Request(nil), p.seen...)
}

const established = "HTTP/1.1 200 Connection established\r\n\r\n"

func connects(*http.Request) string { return established }

// environment is a job's environment; the process's own is set to a proxy that
// does not exist (see TestMain).
func environment(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func TestWebSocketGoesThroughTheEnvironmentsProxy(t *testing.T) {
	t.Parallel()
	a, key := newAuthority(t), connectKey(t)
	s := startServer(t, key, withTLS(a, relayHost), withWebSocket(a))
	address := relayHost + ":" + s.webSocket(t)

	for _, tc := range []struct {
		name   string
		answer func(*http.Request) string
		env    func(proxy string) []string
		auth   string
	}{
		{"HTTPS_PROXY", connects, func(p string) []string { return []string{"HTTPS_PROXY", "http://" + p} }, ""},
		{"https_proxy", connects, func(p string) []string { return []string{"https_proxy", "http://" + p + "/"} }, ""},
		{"no scheme", connects, func(p string) []string { return []string{"HTTPS_PROXY", p} }, ""},
		{"user and password", connects, func(p string) []string { return []string{"HTTPS_PROXY", "http://ada:p%40ss@" + p} }, "Basic YWRhOnBAc3M="},
		{"another host excepted", connects, func(p string) []string {
			return []string{"HTTPS_PROXY", "http://" + p, "NO_PROXY", "example.com,10.0.0.0/8"}
		}, ""},
		{"an answer that claims a body", func(*http.Request) string { return "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" }, func(p string) []string { return []string{"HTTPS_PROXY", p} }, ""},
		{"an answer that claims chunks", func(*http.Request) string { return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" }, func(p string) []string { return []string{"HTTPS_PROXY", p} }, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := startProxy(t, tc.answer)
			start := time.Now()
			c := connect(t, parse(t, Target{URL: "wss://" + address, CAFile: a.file, Getenv: environment(tc.env(p.address)...)}), key, token)
			if err := c.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > dialTimeout/2 {
				t.Errorf("took %v: did it wait for a body?", took)
			}
			seen := p.requests()
			if len(seen) != 1 {
				t.Fatalf("the proxy saw %d requests", len(seen))
			}
			// By name: a proxy's rules are about names, and only it may be able to
			// look them up.
			if r := seen[0]; r.Method != http.MethodConnect || r.Host != address || r.RequestURI != address || r.Header.Get("Proxy-Authorization") != tc.auth {
				t.Errorf("the proxy saw %s %s for %s, Proxy-Authorization %q", r.Method, r.RequestURI, r.Host, r.Header.Get("Proxy-Authorization"))
			}
			// The tunnel ends at the relay, not at the proxy.
			if cert := certificateOf(t, c); cert.VerifyHostname(relayHost) != nil {
				t.Errorf("certificate for %v", cert.DNSNames)
			}
		})
	}
}

func TestAProxyIsLeftOutWhereTheEnvironmentSaysSo(t *testing.T) {
	t.Parallel()
	a, key := newAuthority(t), connectKey(t)
	s := startServer(t, key, withTLS(a, relayHost), withWebSocket(a))
	ws := "wss://" + relayHost + ":" + s.webSocket(t)
	for _, tc := range []struct {
		name, url string
		env       func(proxy string) []string
	}{
		{"NO_PROXY by name", ws, func(p string) []string { return []string{"HTTPS_PROXY", p, "NO_PROXY", relayHost} }},
		{"no_proxy by domain", ws, func(p string) []string { return []string{"HTTPS_PROXY", p, "no_proxy", ".test"} }},
		{"NO_PROXY for all", ws, func(p string) []string { return []string{"HTTPS_PROXY", p, "NO_PROXY", "*"} }},
		{"the proxy of plain HTTP", ws, func(p string) []string { return []string{"HTTP_PROXY", p} }},
		{"not WebSocket", "tls://" + relayHost + ":" + s.port(t), func(p string) []string { return []string{"HTTPS_PROXY", p} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := startProxy(t, connects)
			connect(t, parse(t, Target{URL: tc.url, CAFile: a.file, Getenv: environment(tc.env(p.address)...)}), key, token)
			if seen := p.requests(); len(seen) != 0 {
				t.Errorf("the proxy saw %s", seen[0].RequestURI)
			}
		})
	}
	t.Run("no environment given", func(t *testing.T) {
		t.Parallel()
		connect(t, parse(t, Target{URL: ws, CAFile: a.file}), key, token)
	})
}

func TestAProxyThatDoesNotConnectIsNamed(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().String()
	l.Close()
	says := func(s string) func(*http.Request) string { return func(*http.Request) string { return s } }
	for _, tc := range []struct {
		name   string
		answer func(*http.Request) string
		env    func(proxy string) string
		want   string
	}{
		{"forbidden", says("HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\n\r\nplanted"), nil, "refused to connect to relay.test:443: status 403"},
		{"wants a password", says("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"), nil, "status 407"},
		{"redirects", says("HTTP/1.1 302 Found\r\nLocation: http://planted.example\r\n\r\n"), nil, "status 302"},
		{"not HTTP", says("planted\x1b[2J\r\n\r\n"), nil, "proxy "},
		{"headers without end", says("HTTP/1.1 502 Bad Gateway\r\nX: " + strings.Repeat("planted", 10_000)), nil, "answer too long"},
		{"not there", connects, func(string) string { return "http://" + gone }, "proxy " + gone},
		{"SOCKS", connects, func(p string) string { return "socks5://" + p }, `"socks5"`},
		{"no TLS where the URL says https", says("HTTP/1.1 200 OK\r\n\r\n"), func(p string) string { return "https://" + p }, "proxy "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			p := startProxy(t, tc.answer)
			url := "http://ada:planted@" + p.address
			if tc.env != nil {
				url = tc.env(p.address)
			}
			_, err := parse(t, Target{URL: "wss://" + relayHost, Getenv: environment("HTTPS_PROXY", url)}).Connect(t.Context(), connectKey(t), token)
			if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v does not say %q", err, tc.want)
			}
			if err != nil && strings.ContainsRune(err.Error(), '\x1b') || tc.name != "not HTTP" && strings.Contains(err.Error(), "planted") {
				t.Errorf("%q holds what it must not", err)
			}
			for _, r := range p.requests() {
				if strings.Contains(r.RequestURI, token) || r.Header.Get("Authorization") != "" {
					t.Errorf("the proxy saw %+v", r)
				}
			}
		})
	}
}

// TestAProxyThatCannotBeReadIsNotPassedBy: going round it would break the rule of
// whoever set it.
func TestAProxyThatCannotBeReadIsNotPassedBy(t *testing.T) {
	t.Parallel()
	env := environment("HTTPS_PROXY", "%planted")
	if _, err := Parse(Target{URL: "wss://" + relayHost, Getenv: env}); err == nil || !strings.Contains(err.Error(), "HTTPS_PROXY is not a proxy's URL") || strings.Contains(err.Error(), "planted") {
		t.Errorf("%v", err)
	}
	if _, err := Parse(Target{URL: "tls://" + relayHost, Getenv: env}); err != nil {
		t.Errorf("a connection that uses no proxy: %v", err)
	}
}

func TestACancelledDialThroughASilentProxyReturnsAtOnce(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	stopped := errors.New("stopped by the test")
	h := hostileServer(t, func(c net.Conn) { _, _ = c.Read(make([]byte, 1)); cancel(stopped) })
	r := parse(t, Target{URL: "wss://" + relayHost, Getenv: environment("HTTPS_PROXY", "http://"+h.address)})
	start := time.Now()
	if _, err := r.Connect(ctx, connectKey(t), token); !errors.Is(err, stopped) {
		t.Errorf("%v", err)
	}
	if took := time.Since(start); took > dialTimeout/2 {
		t.Errorf("took %v", took)
	}
	if heard := receive(t, "the end of the connection", h.heard); strings.Contains(heard, token) {
		t.Errorf("the proxy was shown the ID token: %q", heard)
	}
}

func TestASilentProxyIsGivenUp(t *testing.T) {
	t.Parallel()
	h := hostileServer(t, func(net.Conn) {})
	r := parse(t, Target{URL: "wss://" + relayHost, Getenv: environment("HTTPS_PROXY", "http://"+h.address)})
	r.wait = 100 * time.Millisecond
	if _, err := r.Connect(t.Context(), connectKey(t), token); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "proxy") {
		t.Errorf("%v", err)
	}
	receive(t, "the end of the connection", h.heard)
}

// TestWhatFollowsTheProxysAnswerBelongsToTheTunnel: a reader that took more than the
// answer would swallow the first bytes of a server that speaks first.
func TestWhatFollowsTheProxysAnswerBelongsToTheTunnel(t *testing.T) {
	t.Parallel()
	h := hostileServer(t, func(c net.Conn) { _, _ = io.WriteString(c, established+"first bytes") })
	r := parse(t, Target{URL: "wss://" + relayHost, Getenv: environment("HTTPS_PROXY", "http://"+h.address)})
	conn, err := (&dialer{ctx: t.Context(), relay: r}).Dial("tcp", relayHost+":443")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got := make([]byte, len("first bytes"))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "first bytes" {
		t.Errorf("%q, %v", got, err)
	}
}
