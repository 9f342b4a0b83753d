// Package acme gets the relay's certificate from a certificate authority that
// speaks ACME (RFC 8555), such as Let's Encrypt, and renews it.
//
// The rule it keeps: **the relay's TLS port is all that is needed.** The name is
// proved by TLS-ALPN-01 (RFC 8737), which is a handshake on port 443, on the very
// listener that jobs and responders use; nothing listens on port 80, and nothing
// is ever served in plain text or under a certificate that nobody vouches for. As
// long as there is no certificate, handshakes fail.
//
// The work is certmagic's, which has done it in Caddy for years: orders in the
// background with a back-off, a trial at the authority's test directory before
// each further attempt, so that a closed port does not use up its limits, and
// renewal when the authority says (ARI). It costs the relay 2.4 MB (a tenth) and
// nine modules, and the other programs nothing: none of them reaches this package.
// golang.org/x/crypto's autocert would cost a fifth of that, and orders in the handshake of
// whoever comes first, who waits for it or is sent away, forgets after a minute
// that it failed, and tells nobody why.
//
// Where to read: [Open] and [Manager.Run] are its life; what an authority's
// refusal means, and what mends it, is explain.go.
package acme

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	acmewire "github.com/mholt/acmez/v3/acme"

	"github.com/continuousauth/action/internal/wire"
)

// LetsEncrypt is the directory that is asked where the file names none.
const LetsEncrypt = certmagic.LetsEncryptProductionCA

// Options say whose certificate is wanted, and of whom.
type Options struct {
	Name      string // the relay's, which the certificate is for
	Dir       string // where account and certificate are kept
	Directory string // the authority's
	Email     string // where it reaches the relay's administrator; may be empty
	CAFile    string // whom to trust when asking it, in PEM; "": the system's
	// KeyID and Key bind the account to one that the authority knows already
	// (EAB); both empty where it wants none.
	KeyID, Key string
	Log        *slog.Logger

	every time.Duration // between two looks at whether it is time to renew; 0: certmagic's ten minutes
}

// Manager has the certificate.
type Manager struct {
	o      Options
	cache  *certmagic.Cache
	config *certmagic.Config
	issuer *certmagic.ACMEIssuer

	mu     sync.Mutex
	failed string // why the last attempt failed; "": it did not
	once   sync.Once
}

// Close ends what goes on in the background. The certificate stays usable.
func (m *Manager) Close() {
	m.once.Do(func() {
		stopped := make(chan struct{})
		go func() {
			m.cache.Stop() // waits for an authority that it is just asking
			close(stopped)
		}()
		select {
		case <-stopped:
		case <-time.After(patience):
		}
	})
}

func init() { certmagic.UserAgent = "cfa-relay" }

// Usable says why an authority cannot certify a name; "": it may.
func Usable(name, directory string) string {
	switch {
	case certmagic.SubjectIsIP(name):
		return "is an address, and certificates are for names"
	case cmp.Or(directory, LetsEncrypt) == LetsEncrypt && !certmagic.SubjectQualifiesForPublicCert(name):
		return "is no name of the public DNS, which is all that Let's Encrypt certifies"
	}
	return ""
}

// Check reads what Open reads and changes nothing.
func Check(o Options) error {
	_, err := roots(o.CAFile)
	return err
}

// Open takes up what is in the directory. It asks nobody yet.
func Open(ctx context.Context, o Options) (*Manager, error) {
	pool, err := roots(o.CAFile)
	if err != nil {
		return nil, err
	}
	m := &Manager{o: o}
	log := zapLog(o.Log)
	m.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return m.config, nil },
		RenewCheckInterval: o.every, Logger: log,
	})
	m.config = certmagic.New(m.cache, certmagic.Config{
		Storage: &storage{Storage: &certmagic.FileStorage{Path: o.Dir}, held: map[string]chan struct{}{}},
		// It would be one more party that hears of the relay, over plain HTTP, and no
		// client of ours asks for it.
		OCSP:    certmagic.OCSPConfig{DisableStapling: true},
		OnEvent: m.event, Logger: log,
		Issuers: []certmagic.Issuer{nil}, // set below: it needs this
	})
	issuer := certmagic.ACMEIssuer{
		CA: cmp.Or(o.Directory, LetsEncrypt), Email: o.Email, Agreed: true, TrustedRoots: pool,
		DisableHTTPChallenge: true,
		// The challenge is answered by this process, from memory.
		DisableDistributedSolvers: true,
		Logger:                    log,
	}
	if o.KeyID != "" {
		issuer.ExternalAccount = &acmewire.EAB{KeyID: o.KeyID, MACKey: o.Key}
	}
	m.issuer = certmagic.NewACMEIssuer(m.config, issuer)
	m.config.Issuers[0] = m.issuer
	if _, err := m.config.CacheManagedCertificate(ctx, o.Name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.cache.Stop()
		return nil, fmt.Errorf("tls.acme: the certificate in %s cannot be read: %w; see that this user may read it, or move %s away to get a new one", o.Dir, err, filepath.Join(o.Dir, "certificates"))
	}
	return m, nil
}

// maxRoots bounds a file of certificates to trust, in bytes.
const maxRoots = 1 << 20

func roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("tls.acme.ca-file: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxRoots+1))
	if err != nil {
		return nil, fmt.Errorf("tls.acme.ca-file: %w", err)
	}
	pool := x509.NewCertPool()
	if len(data) > maxRoots || !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("tls.acme.ca-file: %s holds no certificates in PEM (at most %d bytes)", file, maxRoots)
	}
	return pool, nil
}

// ErrNone says that there is no certificate yet.
var ErrNone = errors.New("there is no certificate yet")

// Certificate is the one that new connections get. Whatever name a client asks
// for, it gets this: the relay has one name, and clients may know it by another.
func (m *Manager) Certificate() (*tls.Certificate, error) {
	all := m.cache.AllMatchingCertificates(m.o.Name)
	all = slices.DeleteFunc(all, func(c certmagic.Certificate) bool { return c.Leaf == nil })
	if len(all) == 0 {
		if why := m.Failed(); why != "" {
			return nil, fmt.Errorf("%w; the last attempt to get one failed: %s", ErrNone, why)
		}
		return nil, ErrNone
	}
	best := slices.MaxFunc(all, func(a, b certmagic.Certificate) int { return a.Leaf.NotAfter.Compare(b.Leaf.NotAfter) })
	return &best.Certificate, nil
}

// Failed says why the last attempt failed; "": it did not.
func (m *Manager) Failed() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

// TLS is the configuration of a listener that the authority may come to, whose
// own clients speak the application protocols in next, if any.
func (m *Manager) TLS(next ...string) *tls.Config {
	c := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: m.answer, NextProtos: next}
	// Offered to those alone who want nothing else: clients that name a protocol of
	// their own would otherwise be sent away for naming it. A server that has a use of
	// its own for this hook (nats-server's WebSocket) lists the protocols instead.
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if !validation(hello) {
			return nil, nil
		}
		return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: m.answer, NextProtos: []string{Protocol}}, nil
	}
	return c
}

// Protocol is what an authority asks for in the handshake that proves the name.
const Protocol = acmez.ACMETLS1Protocol

func validation(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == Protocol
}

func (m *Manager) answer(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if !validation(hello) {
		return m.Certificate()
	}
	// Before certmagic hears of it, which would log each stranger that tries.
	if _, ok := certmagic.GetACMEChallenge(hello.ServerName); !ok {
		return nil, errors.New("an ACME validation that was not asked for")
	}
	return m.config.GetCertificate(hello)
}

const (
	// patience is how long an end waits for what is under way with the authority.
	patience = 3 * time.Second
	// again is how long to wait where not even an order could be tried.
	again = time.Minute
)

// Run gets a certificate if there is none, and renews the one that there is, until
// ctx ends. at is a listener of [Manager.TLS].
func (m *Manager) Run(ctx context.Context, at *net.TCPAddr) {
	// Where certmagic sees that somebody listens already: it would open a port of
	// its own for the validation.
	m.issuer.ListenHost, m.issuer.AltTLSALPNPort = at.IP.String(), at.Port
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.get(ctx)
	}()
	<-ctx.Done()
	select {
	case <-done:
	case <-time.After(patience):
	}
	m.Close()
}

func (m *Manager) get(ctx context.Context) {
	if c, err := m.Certificate(); err == nil {
		m.o.Log.Info("the certificate that was kept is used", "name", m.o.Name, "expires", c.Leaf.NotAfter.UTC().Format(time.RFC3339))
		// It may have become time while no relay ran.
		if err := m.cache.RenewManagedCertificates(ctx); err != nil {
			m.fail(err, true)
		}
		return
	}
	m.o.Log.Warn("there is no certificate yet, and nobody can connect until there is; one is asked for now",
		"name", m.o.Name, "of", m.issuer.CA, "it comes to", net.JoinHostPort(m.o.Name, "443"))
	for {
		err := m.config.ObtainCertAsync(ctx, m.o.Name) // tries again by itself, for 30 days
		if err == nil {
			_, err = m.config.CacheManagedCertificate(ctx, m.o.Name)
		}
		if err == nil || ctx.Err() != nil {
			return
		}
		m.fail(err, false)
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return
		}
	}
}

// event is told by certmagic what it does.
func (m *Manager) event(ctx context.Context, event string, data map[string]any) error {
	switch event {
	case "cert_obtained":
		m.mu.Lock()
		m.failed = ""
		m.mu.Unlock()
		renewal, _ := data["renewal"].(bool)
		m.o.Log.Info("the authority gave a certificate; new connections get it", "name", m.o.Name, "of", m.issuer.CA, "renewal", renewal)
	case "cert_failed":
		err, _ := data["error"].(error)
		renewal, _ := data["renewal"].(bool)
		if ctx.Err() == nil { // else it was this relay that broke it off
			m.fail(err, renewal)
		}
	}
	return nil
}

// fail says why there is no certificate, or no new one, and what mends it.
func (m *Manager) fail(err error, renewal bool) {
	why, mend := explain(err, m.o.Name)
	m.mu.Lock()
	m.failed = why + ": " + mend
	m.mu.Unlock()
	what := "no certificate could be got; nobody can connect"
	if renewal {
		what = "the certificate could not be renewed; the old one is used"
	}
	m.o.Log.Error(what, "name", m.o.Name, "of", m.issuer.CA, "why", why, "mend", mend,
		"next", "it is tried again by itself: within minutes at first, later every six hours")
}

// storage keeps certmagic's files (mode 0600, directories 0700), and its locks in
// memory: one relay has the directory, by a lock of its own, and files that a dead
// one left behind would be waited for.
type storage struct {
	certmagic.Storage
	mu   sync.Mutex
	held map[string]chan struct{} // closed when let go
}

func (s *storage) Lock(ctx context.Context, name string) error {
	for {
		s.mu.Lock()
		held, taken := s.held[name]
		if !taken {
			s.held[name] = make(chan struct{})
		}
		s.mu.Unlock()
		if !taken {
			return nil
		}
		select {
		case <-held:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *storage) Unlock(_ context.Context, name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	held, taken := s.held[name]
	if !taken {
		return fmt.Errorf("%s is not locked", wire.Clean(name, 200))
	}
	close(held)
	delete(s.held, name)
	return nil
}
