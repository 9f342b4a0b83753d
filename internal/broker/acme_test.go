package broker

// A certificate that the relay gets by itself, as far as no authority is needed:
// package acme and internal/e2e have those with one.

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/continuousauth/action/internal/acme"
	"github.com/continuousauth/action/internal/wire"
)

func TestARelayWithoutACertificateYetLetsNobodyInAndSaysWhy(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	// Nobody listens on port 1.
	f.start(f.configText(t.TempDir(), "tls: {acme: {agree-to-terms: true, directory: 'https://127.0.0.1:1/dir'}}\nlisten: {nats: \"127.0.0.1:0\", websocket: \"127.0.0.1:0\", metrics: \"127.0.0.1:0\"}\n"), Options{})
	if !strings.HasPrefix(f.relay.ClientURL(), "tls://") || !strings.HasPrefix(f.relay.WebSocketURL(), "wss://") {
		t.Errorf("%s %s", f.relay.ClientURL(), f.relay.WebSocketURL())
	}
	const mend = "this machine needs HTTPS outward"
	f.log.lineAfter(t, func() {}, "WARN", "there is no certificate yet, and nobody can connect until there is", "of=https://127.0.0.1:1/dir", relayName+":443")
	f.log.lineAfter(t, func() {}, "ERROR", "no certificate could be got; nobody can connect", mend, "it is tried again by itself")
	for _, addr := range []string{f.secureAddress(), strings.TrimPrefix(f.relay.WebSocketURL(), "wss://")} {
		for _, protocols := range [][]string{nil, {"http/1.1"}, {acme.Protocol}} {
			if c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, ServerName: relayName, NextProtos: protocols, MinVersion: tls.VersionTLS12}); err == nil {
				c.Close()
				t.Errorf("%s %s: a certificate is shown", addr, protocols)
			}
		}
		plain, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		if err := plain.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(plain, "GET / HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\n\r\n", addr)
		if answer, _ := io.ReadAll(io.LimitReader(plain, 400)); strings.Contains(string(answer), "INFO") || strings.Contains(string(answer), " 101 ") {
			t.Errorf("%s: in plain text: %q", addr, answer)
		}
	}
	if status, text := f.read("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(text, "the certificate: there is no certificate yet") || !strings.Contains(text, mend) {
		t.Errorf("%d %s", status, text)
	}
	if s := f.relay.Status().Certificate; s == nil || s.Expires != nil || !strings.Contains(s.Error, mend) {
		t.Errorf("%+v", s)
	}
	if _, there := f.served()["cfa_certificate_expiry_timestamp_seconds"]; there {
		t.Error("a certificate's end is served, and there is none")
	}
}

func TestTheCertificatesStateStandsInTheStatus(t *testing.T) {
	t.Parallel()
	f, _, _ := startTLS(t, "")
	if s := f.relay.Status().Certificate; s == nil || s.Expires == nil || time.Until(*s.Expires) > time.Hour || s.Error != "" {
		t.Errorf("%+v", s)
	}
	if s := startFixture(t).relay.Status().Certificate; s != nil {
		t.Errorf("without TLS: %+v", s)
	}
}

func TestACertificateThatRenewsItselfIsLateByItsOwnLife(t *testing.T) {
	t.Parallel()
	for _, life := range []time.Duration{90 * day, 6 * day} {
		end := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
		r, log := watching(end)
		r.net.acme = &acme.Manager{}
		r.net.certificate = func() (*tls.Certificate, error) {
			return &tls.Certificate{Leaf: &x509.Certificate{NotBefore: end.Add(-life), NotAfter: end}}, nil
		}
		for _, tc := range []struct {
			left time.Duration
			said int
		}{
			{life / 3, 0}, // it is just renewed
			{life/6 + time.Second, 0},
			{life / 6, 1},
			{life/18 + time.Second, 1},
			{life / 18, 2},
			{time.Minute, 2},
			{0, 3},
		} {
			r.watchCertificate(end.Add(-tc.left))
			if n := strings.Count(log.String(), "it should have been renewed by itself"); n != tc.said {
				t.Errorf("%s of %s left: said %d times, want %d\n%s", tc.left, life, n, tc.said, log)
			}
		}
		if strings.Contains(log.String(), "tls.cert") {
			t.Errorf("files that there are not:\n%s", log)
		}
	}
}

func TestTheFileOfARelayThatGetsItsCertificateItself(t *testing.T) {
	t.Parallel()
	public := strings.Replace(exampleKeys(t, base), "127.0.0.1:4222", "0.0.0.0:4222\n  websocket: 0.0.0.0:443", 1)
	c, err := ParseConfig([]byte(public+"tls: {acme: {agree-to-terms: true}}\n"), "/etc/cfa")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CheckFiles(); err != nil {
		t.Error(err)
	}
	// The same file read again changes nothing.
	again, err := ParseConfig([]byte(public+"tls: {acme: {agree-to-terms: true}}\n"), "/etc/cfa")
	if err != nil {
		t.Fatal(err)
	}
	if what := needsRestart(c, again); what != "" {
		t.Errorf("%s differs", what)
	}
	for _, tc := range []struct{ nats, websocket, want string }{
		{"0.0.0.0:4222", "0.0.0.0:443", "comes to relay.example.com:443 to see whose that is (TLS-ALPN-01): listen.websocket is there"},
		{"0.0.0.0:443", "", "listen.nats is there"},
		{"'[::]:443'", "", "listen.nats is there"},
		{"0.0.0.0:4222", "", "NOTE: nothing here listens on port 443 for others; whatever does there must pass the bytes on to listen.nats (0.0.0.0:4222)"},
		{"127.0.0.1:443", "127.0.0.1:8443", "must pass the bytes on to listen.websocket (127.0.0.1:8443)"},
		{"0.0.0.0:4222", "127.0.0.1:443\n  plain-websocket: true", "must pass the bytes on to listen.nats (0.0.0.0:4222)"},
	} {
		listen := tc.nats
		if tc.websocket != "" {
			listen += "\n  websocket: " + tc.websocket
		}
		c, err := ParseConfig([]byte(strings.Replace(exampleKeys(t, base), "127.0.0.1:4222", listen, 1)+"tls: {acme: {agree-to-terms: true}}\n"), "/")
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Certificate(); !strings.Contains(got, tc.want) || !strings.Contains(got, acme.LetsEncrypt) {
			t.Errorf("%+v: %s", tc, got)
		}
	}
	if c, err := ParseConfig([]byte(exampleKeys(t, base)), "/"); err != nil || c.Certificate() != "" {
		t.Errorf("without: %v", err)
	}

	// The files that it names.
	dir := t.TempDir()
	write(t, filepath.Join(dir, "eab.key"), []byte(base64.RawURLEncoding.EncodeToString([]byte("a secret"))+"==\n"))
	write(t, filepath.Join(dir, "open.key"), []byte("YQ"))
	if err := os.Chmod(filepath.Join(dir, "open.key"), 0o644); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "not.key"), []byte("not base64"))
	write(t, filepath.Join(dir, "ca.pem"), newPair(t, 1).cert)
	for acme, want := range map[string]string{
		"ca-file: ca.pem, eab: {key-id: k, key: eab.key}": "",
		"ca-file: nowhere.pem":                            "tls.acme.ca-file: open " + filepath.Join(dir, "nowhere.pem"),
		"ca-file: eab.key":                                "holds no certificates in PEM",
		"eab: {key-id: k, key: open.key}":                 "can be read by others (mode 0644)",
		"eab: {key-id: k, key: not.key}":                  "holds no key in base64url",
		"eab: {key-id: k, key: nowhere.key}":              "tls.acme.eab.key",
	} {
		c, err := ParseConfig([]byte(public+"tls: {acme: {agree-to-terms: true, "+acme+"}}\n"), dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.CheckFiles(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) || err != nil && strings.Contains(err.Error(), "not base64") {
			t.Errorf("%s: %v", acme, err)
		}
	}
}

// ipv6 skips a test on a machine that has no IPv6, which containers often are.
func ipv6(t *testing.T) {
	t.Helper()
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("this machine has no IPv6: %v", err)
	}
	l.Close()
}

func TestBothListenersSpeakTLSOnIPv6(t *testing.T) {
	t.Parallel()
	ipv6(t)
	f := newFixture(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	p := newPair(t, 1, net.IPv6loopback)
	write(t, cert, p.cert)
	write(t, key, p.key)
	f.start(f.configText(t.TempDir(), fmt.Sprintf("tls: {cert: %q, key: %q}\nlisten: {nats: \"[::1]:0\", websocket: \"[::1]:0\", metrics: \"[::1]:0\"}\n", cert, key)), Options{})
	if status, text := f.read("/readyz"); status != http.StatusOK {
		t.Errorf("%d %s", status, text)
	}
	for _, url := range []string{f.relay.ClientURL(), f.relay.WebSocketURL()} {
		if !strings.Contains(url, "://[::1]:") {
			t.Errorf("%s", url)
		}
		j := f.job(rocketRepo, "rocket")
		opts := []nats.Option{nats.Nkey(j.pub, j.key.Sign), nats.Token(j.token), nats.CustomInboxPrefix(wire.InboxPrefix(j.pub)), nats.NoReconnect(), nats.Secure(&tls.Config{RootCAs: trusting(t, cert).RootCAs, MinVersion: tls.VersionTLS12})}
		if strings.HasPrefix(url, "tls://") {
			opts = append(opts, nats.TLSHandshakeFirst())
		}
		nc, err := nats.Connect(url, opts...)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		must(t, j.send(nc))
	}
}
