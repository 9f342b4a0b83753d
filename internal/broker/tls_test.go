package broker

// TLS first, a certificate that changes under a running relay, and WebSocket.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/continuousauth/action/internal/wire"
)

// pair is a certificate and its key, in PEM.
type pair struct{ cert, key []byte }

func newPair(t testing.TB, serial int64, addresses ...net.IP) pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: relayName}, DNSNames: []string{relayName}, IPAddresses: addresses,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pair{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})}
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// startTLS starts a relay with TLS, and WebSocket.
func startTLS(t testing.TB, listen string) (f *fixture, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	p := newPair(t, 1)
	write(t, cert, p.cert)
	write(t, key, p.key)
	f = newFixture(t)
	f.start(f.configText(t.TempDir(), fmt.Sprintf("tls: {cert: %q, key: %q}\nlisten: {nats: \"127.0.0.1:0\", %s}\n", cert, key, listen)), Options{})
	return f, cert, key
}

func trusting(t testing.TB, file string) *tls.Config {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(data) {
		t.Fatal("no certificate")
	}
	return &tls.Config{RootCAs: pool, ServerName: relayName, MinVersion: tls.VersionTLS12}
}

func (f *fixture) secureAddress() string { return strings.TrimPrefix(f.relay.ClientURL(), "tls://") }

func TestTLSComesFirst(t *testing.T) {
	t.Parallel()
	f, cert, _ := startTLS(t, `websocket: "127.0.0.1:0"`)
	if !strings.HasPrefix(f.relay.ClientURL(), "tls://") || !strings.HasPrefix(f.relay.WebSocketURL(), "wss://") {
		t.Errorf("%s %s", f.relay.ClientURL(), f.relay.WebSocketURL())
	}
	// A server that speaks before TLS can be spoken for by anybody on the way.
	conn, err := net.Dial("tcp", f.secureAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Error("it speaks before TLS")
	}
	if nc, err := f.connect(f.ana.connect, "", nats.Secure(trusting(t, cert)), nats.Timeout(500*time.Millisecond)); err == nil {
		nc.Close()
		t.Error("a client that waits for a plain greeting gets one")
	}
	// The control.
	f.sit(f.ana, nats.Secure(trusting(t, cert)), nats.TLSHandshakeFirst())
	old := trusting(t, cert)
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if c, err := tls.Dial("tcp", f.secureAddress(), old); err == nil {
		c.Close()
		t.Error("TLS 1.1 is spoken")
	}
}

func TestACertificateThatChangesOnDiskIsPickedUp(t *testing.T) {
	t.Parallel()
	f, cert, key := startTLS(t, `websocket: "127.0.0.1:0"`)
	addrs := []string{f.secureAddress(), strings.TrimPrefix(f.relay.WebSocketURL(), "wss://")}
	serial := func(addr string) int64 {
		t.Helper()
		c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	both := func(want int64) func() bool {
		return func() bool { return serial(addrs[0]) == want && serial(addrs[1]) == want }
	}
	if !both(1)() {
		t.Fatal("not the certificate that was given")
	}
	stays := f.sit(f.ana, nats.Secure(trusting(t, cert)), nats.TLSHandshakeFirst())

	// Half of a new pair is no pair: the old one stays, and the log says so.
	next := newPair(t, 2)
	write(t, cert, next.cert)
	f.log.lineAfter(t, func() { serial(addrs[0]) }, "the new certificate cannot be read; the old one stays")
	if !both(1)() {
		t.Error("half a pair was taken")
	}
	write(t, key, next.key)
	eventually(t, "the new certificate is shown", both(2))
	f.log.line(t, "the certificate changed on disk; new connections get the new one")
	stays.pending() // who is connected stays

	// So does one that is rubbish.
	write(t, key, []byte("rubbish"))
	f.log.lineAfter(t, func() { serial(addrs[0]) }, "the old one stays", "failed to find any PEM data in key input")
	if !both(2)() {
		t.Error("the old certificate is gone")
	}
	last := newPair(t, 3)
	write(t, cert, last.cert)
	write(t, key, last.key)
	eventually(t, "and then the next one", both(3))
}

// lineAfter repeats what causes a line of the log until it is there.
func (s *syncBuffer) lineAfter(t testing.TB, do func(), parts ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("the log says %q", parts), func() bool {
		do()
	lines:
		for line := range strings.Lines(s.String()) {
			for _, p := range parts {
				if !strings.Contains(line, p) {
					continue lines
				}
			}
			return true
		}
		return false
	})
}

func TestOnlyListedPagesMayUseTheWebSocket(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		origins string
		want    map[string]int // by the Origin that is sent
	}{
		{"with a list", `origins: ["https://desk.example.com"]`, map[string]int{
			"": http.StatusSwitchingProtocols, "https://desk.example.com": http.StatusSwitchingProtocols,
			"https://evil.example": http.StatusForbidden, "http://desk.example.com": http.StatusForbidden,
			"https://desk.example.com:444": http.StatusForbidden, "https://desk.example.com.evil.example": http.StatusForbidden, "null": http.StatusForbidden,
		}},
		{"without one", ``, map[string]int{
			"": http.StatusSwitchingProtocols, "https://evil.example": http.StatusForbidden, "https://desk.example.com": http.StatusForbidden, "null": http.StatusForbidden,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			listen := `websocket: "127.0.0.1:0"`
			if c.origins != "" {
				listen += ", " + c.origins
			}
			f, cert, _ := startTLS(t, listen)
			addr := strings.TrimPrefix(f.relay.WebSocketURL(), "wss://")
			for origin, want := range c.want {
				conn, err := tls.Dial("tcp", addr, trusting(t, cert))
				if err != nil {
					t.Fatal(err)
				}
				header := map[string]string{}
				if origin != "" {
					header["Origin"] = origin
				}
				if got := shake(t, conn, addr, "/", header); got != want {
					t.Errorf("Origin %q: status %d, not %d", origin, got, want)
				}
				conn.Close()
			}
			// In the clear there is nothing.
			plain, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer plain.Close()
			fmt.Fprintf(plain, "GET / HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\n\r\n", addr)
			if answer, _ := io.ReadAll(io.LimitReader(plain, 100)); strings.Contains(string(answer), " 101 ") {
				t.Errorf("%q", answer)
			}
			// The control: a whole request through it.
			pub := f.ana.key()
			nc, err := nats.Connect(f.relay.WebSocketURL(), nats.Nkey(pub, f.ana.connect.Sign), nats.Token(hello(t, f.ana.connect)), nats.CustomInboxPrefix(wire.InboxPrefix(pub)), nats.Secure(trusting(t, cert)), nats.NoReconnect())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			if r := request(t, nc, wire.DeskSubject(pub, wire.VerbPending), wire.PendingQuery{}); r.Page == nil {
				t.Error(r.Refused)
			}
		})
	}
}

func TestARelayJoinsAServerOverTLSOnly(t *testing.T) {
	t.Parallel()
	x := newExternal(t, true)
	p := newPair(t, 1, net.IPv4(127, 0, 0, 1))
	ca, key := filepath.Join(x.dir, "cert.pem"), filepath.Join(x.dir, "key.pem")
	write(t, ca, p.cert)
	write(t, key, p.key)
	x.Extra = fmt.Sprintf("tls { cert_file: %q, key_file: %q, handshake_first: true }\n", ca, key)
	x.run(t)
	f := newFixture(t)
	f.server = x.server
	port := x.server.Addr().(*net.TCPAddr).Port
	text := func(url, caFile string) string {
		return f.configText(t.TempDir(), strings.Replace(x.section(0), x.server.ClientURL(), fmt.Sprintf("%s:%d", url, port), 1)+caFile)
	}
	caFile := fmt.Sprintf("  ca-file: %q\n", ca)
	for name, c := range map[string]struct{ text, why string }{
		"without its authority": {text("tls://127.0.0.1", ""), "x509: certificate signed by unknown authority"},
		"by another name":       {text("tls://localhost", caFile), "x509: certificate is valid for relay.test, not localhost"},
		"in the clear":          {text("nats://127.0.0.1", caFile), "join NATS at nats://127.0.0.1"},
	} {
		c2, err := ParseConfig([]byte(c.text), "/")
		if err != nil {
			t.Fatal(err)
		}
		r, err := Start(t.Context(), c2, Options{})
		if err == nil {
			r.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The control, and a job over it.
	f.start(text("tls://127.0.0.1", caFile), Options{})
	j := f.job(rocketRepo, "rocket")
	j.connect(nats.Secure(&tls.Config{RootCAs: trusting(t, ca).RootCAs, MinVersion: tls.VersionTLS12}), nats.TLSHandshakeFirst())
	must(t, j.send(j.nc))
}
