package acme

// What needs no authority: what its refusals mean, and that nothing is served
// without a certificate. The rest is in pebble_clients_test.go.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	acmewire "github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
)

func TestEachRefusalNamesWhatMendsIt(t *testing.T) {
	t.Parallel()
	problem := func(kind, detail string) error {
		return fmt.Errorf("[relay.test] Obtain: %w", acmewire.Problem{Type: acmewire.ProblemTypeNamespace + kind, Detail: detail, Status: 400})
	}
	compound := acmewire.Problem{Type: acmewire.ProblemTypeCompound, Detail: "several", Subproblems: []acmewire.Subproblem{{Problem: acmewire.Problem{Type: acmewire.ProblemTypeCAA, Detail: "CAA record for relay.test prevents issuance"}}}}
	for _, tc := range []struct {
		err       error
		why, mend string
	}{
		{problem("connection", "192.0.2.1: Connection refused"), "the authority says: 192.0.2.1: Connection refused (connection)", "reach this relay at relay.test:443: open the port"},
		{problem("dns", "NXDOMAIN looking up A for relay.test"), "NXDOMAIN", "give relay.test an A record"},
		{problem("unauthorized", "Cannot negotiate ALPN protocol \"acme-tls/1\""), "ALPN", "who answers at relay.test:443 is not this relay"},
		{problem("unauthorized", "Failed to connect to 127.0.0.1:1 for the tls-alpn-01 challenge"), "Failed", "open the port"},
		{problem("malformed", "Could not resolve URL \"relay.test\""), "resolve", "give relay.test an A record"},
		{problem("malformed", "something else"), "something else (malformed)", "see what the authority says"},
		{problem("tls", "remote error: internal error"), "(tls)", "is not this relay"},
		{problem("rateLimited", "too many failed authorizations (5) for \"relay.test\" in the last 1h0m0s, retry after 2027-01-01 10:00:00 UTC"), "retry after 2027-01-01", "wait as long as it says"},
		{compound, "CAA record for relay.test prevents issuance (compound)", "lets other authorities alone certify it"},
		{problem("externalAccountRequired", "x"), "x", "tls.acme.eab"},
		{problem("rejectedIdentifier", "x"), "x", "does not certify relay.test"},
		{problem("invalidContact", "x"), "x", "tls.acme.email"},
		{problem("serverInternal", "x"), "x", "trouble of its own"},
		{fmt.Errorf("get: %w", x509.UnknownAuthorityError{}), "unknown authority", "tls.acme.ca-file"},
		{fmt.Errorf("get: %w", &net.OpError{Op: "dial", Err: &net.DNSError{Name: "acme.test", Err: "no such host"}}), "no such host", "this machine's DNS"},
		{fmt.Errorf("get: %w", &net.OpError{Op: "dial", Err: errors.New("refused")}), "refused", "HTTPS outward"},
		{errors.New("[relay.test] solving challenges: no solvers available for remaining challenges (configured=[tls-alpn-01] offered=[dns-01])"), "offered=[dns-01]", "does not offer TLS-ALPN-01"},
		{errors.New("failed storage check: write: no space left on device"), "no space", "room"},
		{nil, "no reason", "examples/cfa.yaml"},
	} {
		why, mend := explain(tc.err, "relay.test")
		if !strings.Contains(why, tc.why) || !strings.Contains(mend, tc.mend) {
			t.Errorf("%v:\n%s\n%s", tc.err, why, mend)
		}
	}
	// An authority's words are of any length, and whatever they like.
	if why, _ := explain(problem("connection", strings.Repeat("\x1b[2J", 10_000)), "relay.test"); strings.Contains(why, "\x1b") || len(why) > 4*maxSaid {
		t.Errorf("%d bytes: %.80q", len(why), why)
	}
}

func TestWithoutACertificateNothingIsServed(t *testing.T) {
	t.Parallel()
	m, err := Open(t.Context(), Options{Name: "none.acme.test", Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := m.Certificate(); !errors.Is(err, ErrNone) {
		t.Error(err)
	}
	for _, protocols := range [][]string{nil, {"h2"}, {Protocol}, {Protocol, "h2"}} {
		for _, config := range []*tls.Config{m.TLS(), m.TLS("http/1.1", Protocol)} {
			client, server := net.Pipe()
			served := make(chan error, 1)
			go func() {
				defer server.Close()
				served <- tls.Server(server, config).HandshakeContext(t.Context())
			}()
			c := tls.Client(client, &tls.Config{InsecureSkipVerify: true, ServerName: "none.acme.test", NextProtos: protocols, MinVersion: tls.VersionTLS12})
			if err := c.HandshakeContext(t.Context()); err == nil {
				t.Errorf("%s: something is served", protocols)
			}
			client.Close()
			if err := <-served; err == nil {
				t.Errorf("%s: the server is content", protocols)
			}
		}
	}
}

func TestWhatIsKeptAndCannotBeReadIsNotReplaced(t *testing.T) {
	t.Parallel()
	// Asking for another one each time that a disk has trouble would use up an
	// authority's limit, and the file that could be mended.
	dir := t.TempDir()
	const name = "kept.acme.test"
	issuer := certmagic.ACMEIssuer{CA: LetsEncrypt}
	for _, key := range []string{certmagic.StorageKeys.SiteCert(issuer.IssuerKey(), name), certmagic.StorageKeys.SitePrivateKey(issuer.IssuerKey(), name), certmagic.StorageKeys.SiteMeta(issuer.IssuerKey(), name)} {
		path := filepath.Join(dir, filepath.FromSlash(key))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Open(t.Context(), Options{Name: name, Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		m.Close()
		t.Fatal("it is taken for none")
	}
	if !strings.Contains(err.Error(), filepath.Join(dir, "certificates")+" away to get a new one") {
		t.Error(err)
	}
}

func TestALockIsLetGoOrWaitedForNoLongerThanWanted(t *testing.T) {
	t.Parallel()
	s := &storage{held: map[string]chan struct{}{}}
	if err := s.Lock(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := s.Lock(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := s.Lock(short, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	got := make(chan error, 1)
	go func() { got <- s.Lock(t.Context(), "a") }()
	if err := s.Unlock(t.Context(), "a"); err != nil {
		t.Error(err)
	}
	if err := <-got; err != nil {
		t.Error(err)
	}
	if err := s.Unlock(t.Context(), "c"); err == nil {
		t.Error("what is not locked is let go")
	}
}

func TestWhatIsToldInOurOwnWordsIsNotToldTwice(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	log := zapLog(slog.New(slog.NewTextHandler(&out, nil))).Named("obtain").With(zap.String("ca", "acme.test"))
	log.Error("will retry", zap.Error(errors.New("refused")))
	log.Info("lock acquired")
	if out.Len() > 0 {
		t.Errorf("%s", &out)
	}
	log.Error("panic", zap.String("error", strings.Repeat("\x1b", 5000)))
	if got := out.String(); !strings.Contains(got, "level=WARN msg=\"certmagic: panic\" of=obtain") || !strings.Contains(got, "ca:acme.test") || strings.Contains(got, "\x1b") || len(got) > 20*maxSaid {
		t.Errorf("%d bytes: %.300s", len(got), got)
	}
}

func TestOnlyNamesThatCanBeCertifiedAreTaken(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"cfa.example.com": "", "192.0.2.1": "is an address", "localhost": "is no name of the public DNS", "relay.internal": "is no name of the public DNS", "relay.local": "public DNS"} {
		if got := Usable(name, ""); got == "" != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
	if why := Usable("relay.internal", "https://ca.internal/acme/directory"); why != "" {
		t.Errorf("a private authority: %s", why)
	}
}
