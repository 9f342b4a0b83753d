package dial

// Connecting to real servers on loopback, to hostile ones, and through a proxy.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/wire"
)

const (
	// relayHost is a name that only this test's resolver knows (see TestMain).
	relayHost = "relay.test"
	// token stands in for an ID token: where it must not go, this text is looked for.
	token = "planted.id.token"
)

func connectKey(t testing.TB) nkeys.KeyPair {
	t.Helper()
	kp, err := wire.NewConnectKey()
	if err != nil {
		t.Fatal(err)
	}
	return kp
}

// relayServer is a NATS server that lets key in, with the rights that a relay
// grants to a responder of the project "widgets", and answers as a relay.
type relayServer struct {
	*server.Server
	options *server.Options
	relay   *nats.Conn // the relay's own connection
}

type serverOption func(*server.Options)

func withTLS(a *authority, names ...string) serverOption {
	return func(o *server.Options) {
		o.TLSConfig, o.TLSHandshakeFirst, o.TLSTimeout = a.serverConfig(names...), true, 10
	}
}

func withWebSocket(a *authority) serverOption {
	return func(o *server.Options) {
		o.Websocket = server.WebsocketOpts{Host: "127.0.0.1", Port: -1, NoTLS: a == nil}
		if a != nil {
			o.Websocket.TLSConfig = a.serverConfig(relayHost)
		}
	}
}

func startServer(t *testing.T, key nkeys.KeyPair, opts ...serverOption) *relayServer {
	t.Helper()
	own := connectKey(t)
	public := wire.PublicKey(key)
	account := server.NewAccount("CFA")
	o := &server.Options{
		Host: "127.0.0.1", Port: -1, NoSigs: true, NoLog: true, AlwaysEnableNonce: true, Accounts: []*server.Account{account},
		Nkeys: []*server.NkeyUser{
			{Nkey: wire.PublicKey(own), Account: account},
			{Nkey: public, Account: account, Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Allow: []string{"cfa.v1.job." + public + ".>", "cfa.v1.desk." + public + ".>"}},
				Subscribe: &server.SubjectPermission{Allow: []string{wire.InboxPrefix(public) + ".>", wire.ProjectSubject("widgets")}},
			}},
		},
	}
	for _, opt := range opts {
		opt(o)
	}
	srv, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.Nkey(wire.PublicKey(own), own.Sign))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return &relayServer{srv, o, nc}
}

func (s *relayServer) port(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

func (s *relayServer) webSocket(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(strings.TrimPrefix(s.WebsocketURL(), "wss://"), "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// answers makes the relay reply to verb.
func (s *relayServer) answers(t *testing.T, subject string, reply []byte) {
	t.Helper()
	if _, err := s.relay.Subscribe(subject, func(m *nats.Msg) { _ = m.Respond(reply) }); err != nil {
		t.Fatal(err)
	}
	if err := s.relay.Flush(); err != nil {
		t.Fatal(err)
	}
}

func parse(t *testing.T, target Target) *Relay {
	t.Helper()
	r, err := Parse(target)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func connect(t *testing.T, r *Relay, key nkeys.KeyPair, token string) *Conn {
	t.Helper()
	c, err := r.Connect(t.Context(), key, token)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// talks shows that c is a connection that works both ways.
func talks(t *testing.T, s *relayServer, c *Conn, key nkeys.KeyPair) {
	t.Helper()
	public := wire.PublicKey(key)
	s.answers(t, wire.JobSubject(public, wire.VerbState), []byte(`{"v":1,"state":{"rev":7,"state":"pending","attempt":1,"reason":"first","deadline":9,"ready":0,"enrolled":0}}`))
	reply, err := c.Request(t.Context(), wire.JobSubject(public, wire.VerbState), wire.StateQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if reply.State == nil || reply.State.Rev != 7 {
		t.Fatalf("reply %+v", reply)
	}
	if err := s.relay.Publish(wire.HintSubject(public), []byte(`{"hint":"state","key":"x","rev":8}`)); err != nil {
		t.Fatal(err)
	}
	if h := receive(t, "hint", c.Hints()); h.Hint != wire.HintState || h.Rev != 8 {
		t.Fatalf("hint %+v", h)
	}
}

// receive waits for what must come, so that a failure is one, and no hang.
func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(30 * time.Second):
		t.Fatalf("waited in vain: %s", what)
		panic("unreachable")
	}
}

func TestAnAddressThatIsNotSafeIsRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name   string
		target Target
		want   string // part of the error; "" means that it is good
		url    string
		relay  string
	}{
		{"TLS", Target{URL: "tls://relay.example.com:4223"}, "", "tls://relay.example.com:4223", "relay.example.com"},
		{"TLS, no port", Target{URL: "tls://relay.example.com"}, "", "tls://relay.example.com:4222", "relay.example.com"},
		{"no scheme is TLS", Target{URL: "relay.example.com"}, "", "tls://relay.example.com:4222", "relay.example.com"},
		{"no scheme, port", Target{URL: "relay.example.com:443"}, "", "tls://relay.example.com:443", "relay.example.com"},
		{"no scheme on loopback is TLS too", Target{URL: "localhost:4222"}, "", "tls://localhost:4222", "localhost"},
		{"white space around", Target{URL: " relay.example.com\n"}, "", "tls://relay.example.com:4222", "relay.example.com"},
		{"upper case is the same name", Target{URL: "tls://Relay.Example.COM"}, "", "tls://Relay.Example.COM:4222", "relay.example.com"},
		{"WebSocket", Target{URL: "wss://relay.example.com/nats"}, "", "wss://relay.example.com/nats", "relay.example.com"},
		{"a name of its own", Target{URL: "tls://10.0.0.1:4222", Name: "relay.example.com"}, "", "tls://10.0.0.1:4222", "relay.example.com"},
		{"IPv6 with a name", Target{URL: "tls://[2001:db8::1]", Name: "relay.example.com"}, "", "tls://[2001:db8::1]:4222", "relay.example.com"},
		{"plain on 127.0.0.1", Target{URL: "nats://127.0.0.1"}, "", "nats://127.0.0.1:4222", "127.0.0.1"},
		{"plain on 127.8.8.8", Target{URL: "nats://127.8.8.8:1"}, "", "nats://127.8.8.8:1", "127.8.8.8"},
		{"plain on ::1", Target{URL: "nats://[::1]:1", Name: "relay"}, "", "nats://[::1]:1", "relay"},
		{"plain on localhost", Target{URL: "ws://localhost:8080"}, "", "ws://localhost:8080", "localhost"},
		{"a CA file", Target{URL: "tls://relay.example.com", CAFile: a.file}, "", "tls://relay.example.com:4222", "relay.example.com"},

		{"nothing", Target{}, "no relay given", "", ""},
		{"white space", Target{URL: " \n"}, "no relay given", "", ""},
		{"plain text to a name", Target{URL: "nats://relay.example.com"}, "nats:// is plain text, which is for loopback only; use tls://", "", ""},
		{"plain WebSocket to a name", Target{URL: "ws://relay.example.com"}, "use wss://", "", ""},
		{"plain text to a private address", Target{URL: "nats://10.0.0.1:4222"}, "plain text", "", ""},
		{"plain text to every address", Target{URL: "nats://0.0.0.0:4222"}, "plain text", "", ""},
		{"plain text to a name that begins like loopback", Target{URL: "nats://127.0.0.1.example.com"}, "plain text", "", ""},
		{"plain text to a name below localhost", Target{URL: "nats://localhost.example.com"}, "plain text", "", ""},
		{"loopback written as a number", Target{URL: "nats://2130706433"}, "plain text", "", ""},
		{"a user", Target{URL: "tls://planted@relay.example.com"}, "user name or password", "", ""},
		{"a user that looks like the host", Target{URL: "tls://relay.example.com@evil.example"}, "user name or password", "", ""},
		{"a password", Target{URL: "tls://user:planted@relay.example.com"}, "user name or password", "", ""},
		{"a query", Target{URL: "wss://relay.example.com/?planted=1"}, "query", "", ""},
		{"a fragment", Target{URL: "wss://relay.example.com/#planted"}, "fragment", "", ""},
		{"no host", Target{URL: "tls://"}, "not a URL with a host", "", ""},
		{"no host, port", Target{URL: "tls://:4222"}, "not a URL with a host", "", ""},
		{"not a URL", Target{URL: "tls://relay planted"}, "not a URL with a host", "", ""},
		{"https", Target{URL: "https://relay.example.com"}, `begins with "https://"; use tls:// or wss://`, "", ""},
		{"a scheme in capitals", Target{URL: "TLS://relay.example.com"}, "", "tls://relay.example.com:4222", "relay.example.com"},
		{"a terminal's escape as scheme", Target{URL: "\x1b[2J://relay.example.com"}, "not a URL", "", ""},
		{"a relay name with a port", Target{URL: "tls://relay.example.com", Name: "relay.example.com:4222"}, "set relay-name", "", ""},
		{"a relay name with a terminal's escape", Target{URL: "tls://relay.example.com", Name: "\x1b[2J"}, "<U+001B>", "", ""},
		{"IPv6 without a name", Target{URL: "tls://[2001:db8::1]"}, "set relay-name", "", ""},
		{"a CA file for plain text", Target{URL: "nats://127.0.0.1", CAFile: a.file}, "uses no TLS", "", ""},
		{"a CA file that is not there", Target{URL: "tls://relay.example.com", CAFile: a.file + "x"}, "CA file", "", ""},
		{"a CA file without a certificate", Target{URL: "tls://relay.example.com", CAFile: empty}, "holds no PEM certificate", "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, err := Parse(tc.target)
			if tc.want != "" {
				if err == nil {
					t.Fatalf("accepted as %s", r)
				}
				if !strings.Contains(err.Error(), tc.want) {
					t.Errorf("%q does not say %q", err, tc.want)
				}
				if strings.Contains(err.Error(), "planted") || strings.ContainsRune(err.Error(), '\x1b') {
					t.Errorf("%q holds what it must not", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.String() != tc.url || r.Name() != tc.relay {
				t.Errorf("%s, named %s; want %s, named %s", r, r.Name(), tc.url, tc.relay)
			}
			plain := strings.HasPrefix(tc.url, "nats:") || strings.HasPrefix(tc.url, "ws:")
			if (r.tls == nil) != plain {
				t.Errorf("TLS configuration %v", r.tls)
			}
			if r.tls != nil && (r.tls.ServerName != tc.relay || r.tls.InsecureSkipVerify || r.tls.MinVersion < tls.VersionTLS12) {
				t.Errorf("expects a certificate for %q, at least version %#x", r.tls.ServerName, r.tls.MinVersion)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"tls://relay.example.com:4222", "relay.example.com", "nats://127.0.0.1", "nats://relay.example.com", "ws://[::1]:80", "wss://u:p@relay.example.com/?q#f", "", "://", "nats://0x7f.1", "nats://127.0.0.1@relay.example.com", "nats://localhost.:4222",
	} {
		f.Add(s, "relay.example.com")
	}
	f.Fuzz(func(t *testing.T, url, name string) {
		r, err := Parse(Target{URL: url, Name: name})
		if err != nil {
			return
		}
		if r.tls == nil {
			if host := r.url.Hostname(); host != "localhost" && !net.ParseIP(host).IsLoopback() {
				t.Fatalf("%q: plain text to %q", url, host)
			}
		} else if r.tls.ServerName != r.name || r.tls.InsecureSkipVerify {
			t.Fatalf("%q as %q: certificate for %q", url, r.name, r.tls.ServerName)
		}
		if r.url.User != nil || r.url.RawQuery != "" || wire.CheckRelayName(r.name) != nil {
			t.Fatalf("%q gave %s, named %q", url, r, r.name)
		}
	})
}

func TestTheCertificatesNameCanBeGivenApart(t *testing.T) {
	t.Parallel()
	r := parse(t, Target{URL: "tls://relay.example.com", TLSName: "edge.example.net"})
	if r.Name() != "relay.example.com" || r.tls.ServerName != "edge.example.net" {
		t.Errorf("relay %s, certificate %s", r.Name(), r.tls.ServerName)
	}
}

func TestAJobConnectsOverTLSWithTheRelaysOwnAuthority(t *testing.T) {
	t.Parallel()
	a, key := newAuthority(t), connectKey(t)
	s := startServer(t, key, withTLS(a, relayHost))
	for _, target := range []Target{
		{URL: "tls://" + relayHost + ":" + s.port(t), CAFile: a.file},
		{URL: "tls://127.0.0.1:" + s.port(t), Name: relayHost, CAFile: a.file},
		{URL: "127.0.0.1:" + s.port(t), TLSName: relayHost, CAFile: a.file},
	} {
		talks(t, s, connect(t, parse(t, target), key, token), key)
	}
}

func TestAJobConnectsOnLoopbackInPlainText(t *testing.T) {
	t.Parallel()
	key := connectKey(t)
	s := startServer(t, key, withWebSocket(nil))
	talks(t, s, connect(t, parse(t, Target{URL: "nats://127.0.0.1:" + s.port(t)}), key, token), key)
	talks(t, s, connect(t, parse(t, Target{URL: "ws://127.0.0.1:" + s.webSocket(t)}), key, ""), key)
}

func TestAJobConnectsOverWebSocket(t *testing.T) {
	t.Parallel()
	a, key := newAuthority(t), connectKey(t)
	s := startServer(t, key, withWebSocket(a))
	talks(t, s, connect(t, parse(t, Target{URL: "wss://" + relayHost + ":" + s.webSocket(t), CAFile: a.file}), key, token), key)
}

func TestACertificateThatIsNotTheRelaysIsRefused(t *testing.T) {
	t.Parallel()
	a, stranger, key := newAuthority(t), newAuthority(t), connectKey(t)
	old := *a
	old.expired = true
	for _, tc := range []struct {
		name string
		opt  serverOption
		ca   string
		want []string
	}{
		{"another name", withTLS(a, "other.test"), a.file, []string{"another name", relayHost, "relay-name"}},
		{"an unknown authority", withTLS(a, relayHost), stranger.file, []string{"unknown authority", "ca-file"}},
		{"an unknown authority to the system", withTLS(a, relayHost), "", []string{"unknown authority", "ca-file"}},
		{"expired", withTLS(&old, relayHost), a.file, []string{"expired", "current time 20", "set this computer's clock right"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := startServer(t, key, tc.opt)
			c, err := parse(t, Target{URL: "tls://127.0.0.1:" + s.port(t), Name: relayHost, CAFile: tc.ca}).Connect(t.Context(), key, token)
			if err == nil {
				c.Close()
				t.Fatal("connected")
			}
			if !errors.Is(err, ErrTLS) {
				t.Errorf("%v is not ErrTLS", err)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
	t.Run("WebSocket", func(t *testing.T) {
		t.Parallel()
		s := startServer(t, key, withWebSocket(a))
		_, err := parse(t, Target{URL: "wss://" + relayHost + ":" + s.webSocket(t), CAFile: stranger.file}).Connect(t.Context(), key, token)
		if !errors.Is(err, ErrTLS) || !strings.Contains(err.Error(), "unknown authority") {
			t.Errorf("%v", err)
		}
	})
}

func TestAKeyThatTheRelayDoesNotKnowIsRefused(t *testing.T) {
	t.Parallel()
	s := startServer(t, connectKey(t))
	_, err := parse(t, Target{URL: "nats://127.0.0.1:" + s.port(t)}).Connect(t.Context(), connectKey(t), token)
	if !errors.Is(err, ErrRefused) {
		t.Errorf("%v is not ErrRefused", err)
	}
}

func TestAPortWithoutARelayIsSaidToBeOne(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	for _, scheme := range []string{"tls", "wss", "nats"} {
		_, err := parse(t, Target{URL: scheme + "://" + address}).Connect(t.Context(), connectKey(t), token)
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "refused") || !strings.Contains(err.Error(), address) {
			t.Errorf("%s: %v", scheme, err)
		}
	}
	_, err = parse(t, Target{URL: "tls://no-such-host.test"}).Connect(t.Context(), connectKey(t), token)
	if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("unknown host: %v", err)
	}
}

// hostile is a bare TCP server that speaks as its script says. It notes all that
// the client sent, until the client hangs up.
type hostile struct {
	address string
	heard   chan string
}

func hostileServer(t *testing.T, script func(net.Conn)) *hostile {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &hostile{address: l.Addr().String(), heard: make(chan string, 1)}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		script(conn)
		var all []byte
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			all = append(all, buf[:n]...)
			if err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error("the client never hung up")
				}
				break
			}
		}
		h.heard <- string(all)
	}()
	return h
}

func info(nonce string) string {
	return `INFO {"server_id":"X","server_name":"X","version":"2.15.2","proto":1,"headers":true,"auth_required":true,"max_payload":65536,"nonce":"` + nonce + `","connect_urls":["evil.test:4222"]}` + "\r\n"
}

// forged is what the job's key would sign for a request of its own, made by the
// documented rule rather than by package wire: the attacker's work.
func forged(t *testing.T, key nkeys.KeyPair) string {
	t.Helper()
	body, err := json.Marshal(wire.Request{Key: wire.PublicKey(key), Project: "widgets"})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256Sum(body)
	return "\xFFcfa/v1/request\x00" + string(sum)
}

func TestAHostileServerGetsNothingSignedButANonce(t *testing.T) {
	t.Parallel()
	key := connectKey(t)
	request := forged(t, key)
	escaped := func(s string) string { // each byte as a JSON escape, so that it arrives as that code point
		var b strings.Builder
		for i := range len(s) {
			b.WriteString(`\u00`)
			b.WriteByte("0123456789abcdef"[s[i]>>4])
			b.WriteByte("0123456789abcdef"[s[i]&15])
		}
		return b.String()
	}
	for name, nonce := range map[string]string{
		"a forged request, raw":                        request,
		"a forged request, escaped":                    escaped(request),
		"a forged request without its first byte":      escaped(request[1:]),
		"NUL in a nonce":                               `abcdefgh\u0000ijklmno`,
		"a nonce behind the first byte":                "\xFFabcdefghijklmno",
		"a nonce too short":                            "abcdefghij",
		"a nonce too long":                             strings.Repeat("a", 65),
		"no nonce, so that the key proves nothing":     "",
		"text with a meaning":                          "cfa/v1/request",
		"a nonce with white space, as text would have": "abcdefgh ijklmno",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := hostileServer(t, func(c net.Conn) { _, _ = c.Write([]byte(info(nonce))) })
			c, err := parse(t, Target{URL: "nats://" + h.address}).Connect(t.Context(), key, token)
			if err == nil {
				c.Close()
				t.Fatal("connected")
			}
			// A raw control character is not JSON, and no nonce is none: these end
			// before the key is asked.
			if !errors.Is(err, wire.ErrNonce) && nonce != "" && nonce != request {
				t.Errorf("%v is not ErrNonce", err)
			}
			if strings.Contains(err.Error(), token) {
				t.Errorf("the error holds the ID token: %v", err)
			}
			if heard := receive(t, "the end of the connection", h.heard); heard != "" {
				t.Errorf("the client sent %q", heard)
			}
		})
	}
}

// TestAHonestNonceIsSigned is the floor of the test above: the same bare server, a
// nonce like NATS's own.
func TestAHonestNonceIsSigned(t *testing.T) {
	t.Parallel()
	key := connectKey(t)
	const nonce = "Xm3kQ9_abc-DEF1"
	h := hostileServer(t, func(c net.Conn) { _, _ = c.Write([]byte(info(nonce) + "PONG\r\n")) })
	c := connect(t, parse(t, Target{URL: "nats://" + h.address}), key, token)
	// The server named another one; whoever follows it would show it the next token.
	if got := c.nc.DiscoveredServers(); len(got) != 0 {
		t.Errorf("discovered %v", got)
	}
	if got := c.nc.Servers(); len(got) != 1 || !strings.Contains(got[0], h.address) {
		t.Errorf("would connect to %v", got)
	}
	c.Close()
	receive(t, "closed", c.Closed())
	heard := receive(t, "the end of the connection", h.heard)
	line, _, _ := strings.Cut(strings.TrimPrefix(heard, "CONNECT "), "\r\n")
	var sent struct {
		Nkey  string `json:"nkey"`
		Sig   string `json:"sig"`
		Token string `json:"auth_token"`
		JWT   string `json:"jwt"`
		User  string `json:"user"`
		Pass  string `json:"pass"`
	}
	if err := json.Unmarshal([]byte(line), &sent); err != nil {
		t.Fatalf("%v in %q", err, heard)
	}
	sig, err := base64.RawURLEncoding.DecodeString(sent.Sig)
	if err != nil {
		t.Fatal(err)
	}
	if err := key.Verify([]byte(nonce), sig); err != nil {
		t.Errorf("the signature is not over the nonce: %v", err)
	}
	if sent.Nkey != wire.PublicKey(key) || sent.Token != token || sent.JWT+sent.User+sent.Pass != "" {
		t.Errorf("sent %+v", sent)
	}
	if seed, err := key.Seed(); err != nil || strings.Contains(heard, string(seed)) {
		t.Errorf("the private key was sent, or: %v", err)
	}
}

// TestAResponderSaysWhichRelayItMeans: the nonce's signature alone would be as good
// at any relay that a hostile one has a nonce of.
func TestAResponderSaysWhichRelayItMeans(t *testing.T) {
	t.Parallel()
	key := connectKey(t)
	h := hostileServer(t, func(c net.Conn) { _, _ = c.Write([]byte(info("Xm3kQ9_abc-DEF1") + "PONG\r\n")) })
	c := connect(t, parse(t, Target{URL: "nats://" + h.address, Name: relayHost}), key, "")
	c.Close()
	heard := receive(t, "the end of the connection", h.heard)
	line, _, _ := strings.Cut(strings.TrimPrefix(heard, "CONNECT "), "\r\n")
	var sent struct {
		Token string `json:"auth_token"`
	}
	if err := json.Unmarshal([]byte(line), &sent); err != nil {
		t.Fatalf("%v in %q", err, heard)
	}
	if err := wire.CheckConnect(sent.Token, wire.PublicKey(key), relayHost, time.Now()); err != nil {
		t.Errorf("%v: %s", err, sent.Token)
	}
}

func TestNothingIsSaidBeforeTLS(t *testing.T) {
	t.Parallel()
	key := connectKey(t)
	for _, scheme := range []string{"tls", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			// The server speaks NATS at once, as one without TLS does.
			h := hostileServer(t, func(c net.Conn) { _, _ = c.Write([]byte(info("Xm3kQ9_abc-DEF1") + "PONG\r\n")) })
			_, err := parse(t, Target{URL: scheme + "://" + h.address}).Connect(t.Context(), key, token)
			if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "does not answer with TLS") {
				t.Errorf("%v", err)
			}
			heard := receive(t, "the end of the connection", h.heard)
			if !strings.HasPrefix(heard, "\x16\x03") { // a TLS handshake record
				t.Errorf("the client began with %q", heard[:min(len(heard), 20)])
			}
			if strings.Contains(heard, token) || strings.Contains(heard, wire.PublicKey(key)) || strings.Contains(heard, "CONNECT") {
				t.Error("the client named its key or token in plain text")
			}
		})
	}
}

func TestWhatAServerSaysReachesAnErrorOnlyCleaned(t *testing.T) {
	t.Parallel()
	h := hostileServer(t, func(c net.Conn) {
		_, _ = c.Write([]byte(info("Xm3kQ9_abc-DEF1") + "-ERR 'no\x1b[2J\u202e" + strings.Repeat("x", 5000) + "'\r\n"))
	})
	_, err := parse(t, Target{URL: "nats://" + h.address}).Connect(t.Context(), connectKey(t), token)
	if !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
	if strings.ContainsAny(err.Error(), "\x1b\u202e") || len(err.Error()) > 600 || !strings.Contains(err.Error(), "<U+001B>") {
		t.Errorf("%q", err)
	}
}

func TestACancelledDialReturnsAtOnce(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"tls", "wss", "nats", "ws"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancelCause(t.Context())
			stopped := errors.New("stopped by the test")
			// Accepted, and then silence. The relay's own limit is far away.
			h := hostileServer(t, func(c net.Conn) {
				if scheme != "nats" { // where the client speaks first: it is in the middle of the handshake
					_, _ = c.Read(make([]byte, 1))
				}
				cancel(stopped)
			})
			r := parse(t, Target{URL: scheme + "://" + h.address})
			start := time.Now()
			_, err := r.Connect(ctx, connectKey(t), token)
			if !errors.Is(err, stopped) {
				t.Errorf("%v", err)
			}
			receive(t, "the end of the connection", h.heard)
			if took := time.Since(start); took > dialTimeout/2 {
				t.Errorf("took %v", took)
			}
		})
	}
}

func TestASilentServerIsGivenUp(t *testing.T) {
	t.Parallel()
	for _, scheme := range []string{"tls", "wss", "nats", "ws"} {
		t.Run(scheme, func(t *testing.T) {
			t.Parallel()
			h := hostileServer(t, func(net.Conn) {})
			r := parse(t, Target{URL: scheme + "://" + h.address})
			r.wait = 100 * time.Millisecond
			// Nobody cancels: only the relay's own limit can end this.
			if _, err := r.Connect(t.Context(), connectKey(t), token); !errors.Is(err, ErrUnreachable) {
				t.Errorf("%v", err)
			}
			receive(t, "the end of the connection", h.heard)
		})
	}
}

func TestTheDialsLimitDoesNotOutliveTheDial(t *testing.T) {
	t.Parallel()
	a, key := newAuthority(t), connectKey(t)
	s := startServer(t, key, withTLS(a, relayHost), withWebSocket(a))
	for _, url := range []string{"tls://" + relayHost + ":" + s.port(t), "wss://" + relayHost + ":" + s.webSocket(t)} {
		t.Run(url[:3], func(t *testing.T) {
			t.Parallel()
			r := parse(t, Target{URL: url, CAFile: a.file})
			r.wait = time.Second
			c := connect(t, r, key, token)
			select {
			case <-c.Closed():
				t.Error("closed")
			case <-time.After(r.wait + 200*time.Millisecond): // the limit itself is what passes here
				if err := c.Flush(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestAClosedConnectionIsSeenAndNotReopened(t *testing.T) {
	t.Parallel()
	key := connectKey(t)
	s := startServer(t, key)
	c := connect(t, parse(t, Target{URL: "nats://127.0.0.1:" + s.port(t)}), key, token)
	s.Shutdown()
	receive(t, "closed", c.Closed())
	if c.nc.IsReconnecting() || !c.nc.IsClosed() {
		t.Error("reconnects by itself, with a token that may be old")
	}
	if _, err := c.Request(t.Context(), wire.JobSubject(c.key, wire.VerbState), wire.StateQuery{}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
}

func TestARequestEndsInAReplyOrSaysWhyNot(t *testing.T) {
	t.Parallel()
	key := connectKey(t)
	s := startServer(t, key)
	c := connect(t, parse(t, Target{URL: "nats://127.0.0.1:" + s.port(t)}), key, token)
	subject := func(verb string) string { return wire.JobSubject(wire.PublicKey(key), verb) }

	s.answers(t, subject("refused"), []byte(`{"v":1,"refused":{"code":"policy","why":"no rule fits","mend":"ask"}}`))
	_, err := c.Request(t.Context(), subject("refused"), wire.StateQuery{})
	var refusal *wire.Refusal
	if !errors.As(err, &refusal) || refusal.Code != wire.RefusedPolicy || refusal.Mend != "ask" {
		t.Errorf("refusal: %v", err)
	}

	s.answers(t, subject("version"), []byte(`{"v":2}`))
	if _, err := c.Request(t.Context(), subject("version"), wire.StateQuery{}); !errors.Is(err, wire.ErrVersion) || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("another version: %v", err)
	}
	for name, bad := range map[string]string{"nothing": "", "twice": `{"v":1,"v":1}`, "unknown": `{"v":1,"planted":1}`, "upper": `{"V":1}`, "array": `[]`} {
		s.answers(t, subject("bad-"+name), []byte(bad))
		if _, err := c.Request(t.Context(), subject("bad-"+name), wire.StateQuery{}); !errors.Is(err, wire.ErrMalformed) || strings.Contains(err.Error(), "planted") {
			t.Errorf("%s: %v", name, err)
		}
	}

	if _, err := c.Request(t.Context(), subject("nobody"), wire.StateQuery{}); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody there: %v", err)
	}
	if _, err := s.relay.Subscribe(subject("silent"), func(*nats.Msg) {}); err != nil {
		t.Fatal(err)
	}
	if err := s.relay.Flush(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Request(ctx, subject("silent"), wire.StateQuery{}); !errors.Is(err, ErrUnreachable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silence: %v", err)
	}
	if _, err := c.Request(t.Context(), subject("silent"), wire.AliveMessage{Token: strings.Repeat("x", wire.MaxMessage)}); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("too long: %v", err)
	}
}

func TestAHintThatIsNoneIsDroppedAndTheNextOneComes(t *testing.T) {
	t.Parallel()
	key := connectKey(t)
	s := startServer(t, key)
	c := connect(t, parse(t, Target{URL: "nats://127.0.0.1:" + s.port(t)}), key, "")
	// One project that it may listen to, and one that the server denies quietly.
	for _, project := range []string{"gadgets", "widgets"} {
		if err := c.Listen(wire.ProjectSubject(project)); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	send := func(subject, data string) {
		t.Helper()
		if err := s.relay.Publish(subject, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	send(wire.ProjectSubject("gadgets"), `{"hint":"state","key":"gadgets"}`)
	for _, bad := range []string{"", "{}x", `{"hint":null}`, `{"hint":"state","hint":"answer"}`, `{"hint":"state","more":1}`} {
		send(wire.ProjectSubject("widgets"), bad)
	}
	send(wire.ProjectSubject("widgets"), `{"hint":"state","key":"widgets"}`)
	if h := receive(t, "hint", c.Hints()); h.Key != "widgets" {
		t.Errorf("hint %+v", h)
	}
	// More than anybody reads: the connection goes on.
	for range 2 * cap(c.hints) {
		send(wire.ProjectSubject("widgets"), `{"hint":"state","key":"flood"}`)
	}
	if err := s.relay.Flush(); err != nil {
		t.Fatal(err)
	}
	s.answers(t, wire.DeskSubject(wire.PublicKey(key), wire.VerbPending), []byte(`{"v":1,"page":{}}`))
	if _, err := c.Request(t.Context(), wire.DeskSubject(wire.PublicKey(key), wire.VerbPending), wire.PendingQuery{}); err != nil {
		t.Error(err)
	}
}

// certificateOf is used by the proxy's tests to see whose certificate a tunnel ends at.
func certificateOf(t *testing.T, c *Conn) *x509.Certificate {
	t.Helper()
	state, err := c.nc.TLSConnectionState()
	if err != nil {
		t.Fatal(err)
	}
	return state.PeerCertificates[0]
}
