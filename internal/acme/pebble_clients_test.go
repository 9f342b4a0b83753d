//go:build clients

package acme

// Against Pebble: the name is proved by a handshake on the listener that the relay
// uses for everything else, the certificate is renewed under it, and a refusal says
// what to do.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/acme/acmetest"
)

const within = 60 * time.Second

// logged is a log that can be waited for.
type logged struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatalf("not in %s: %s", within, what)
}

func (l *logged) waitFor(t *testing.T, parts ...string) {
	t.Helper()
	eventually(t, strings.Join(parts, " … "), func() bool {
	lines:
		for line := range strings.Lines(l.String()) {
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

// served is a manager with a listener that it answers on.
type served struct {
	*Manager
	log     *logged
	address string
}

func open(t *testing.T, o Options) (*Manager, *logged) {
	t.Helper()
	log := &logged{}
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	if o.Dir == "" {
		o.Dir = filepath.Join(t.TempDir(), "acme")
	}
	m, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		if t.Failed() {
			t.Logf("the log:\n%s", log)
		}
	})
	return m, log
}

func serve(t *testing.T, a *acmetest.Authority, o Options) (s *served, end func()) {
	t.Helper()
	m, log := open(t, o)
	l, err := tls.Listen("tcp", "127.0.0.1:0", m.TLS())
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(within))
				if c.(*tls.Conn).Handshake() == nil {
					c.Read(make([]byte, 1)) // until the other side goes
				}
			})
		}
	})
	a.Port443(l.Addr().String())
	ctx, cancel := context.WithCancel(t.Context())
	work.Go(func() { m.Run(ctx, l.Addr().(*net.TCPAddr)) })
	var once sync.Once
	end = func() { once.Do(func() { cancel(); l.Close(); work.Wait() }) }
	t.Cleanup(end)
	return &served{m, log, l.Addr().String()}, end
}

// shown is what a client gets, which trusts the authority alone.
func (s *served) shown(root []byte, name string, protocols ...string) (*x509.Certificate, error) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	c, err := tls.Dial("tcp", s.address, &tls.Config{RootCAs: pool, ServerName: name, NextProtos: protocols, MinVersion: tls.VersionTLS12})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0], nil
}

func TestACertificateIsGotThroughTheRelaysOwnPortKeptAndRenewed(t *testing.T) {
	t.Parallel()
	const name = "renewed.acme.test"
	a := acmetest.Start(t, acmetest.Options{Life: 15 * time.Second})
	o := Options{Name: name, Dir: filepath.Join(t.TempDir(), "data", "acme"), Directory: a.Directory, CAFile: a.CAFile, Email: "ops@acme.test", every: 200 * time.Millisecond}
	s, end := serve(t, a, o)
	s.log.waitFor(t, "WARN", "there is no certificate yet, and nobody can connect", `"it comes to"=`+name+":443")
	s.log.waitFor(t, "INFO", "the authority gave a certificate", "renewal=false")
	var first *x509.Certificate
	eventually(t, "it is shown", func() (ok bool) {
		var err error
		first, err = s.shown(a.Root(), name)
		return err == nil
	})
	// A client that has a protocol of its own is no validation, and one that knows
	// the relay by another name gets the certificate, which it may then check.
	if _, err := s.shown(a.Root(), name, "h2", "http/1.1"); err != nil {
		t.Errorf("a client that speaks HTTP: %v", err)
	}
	if _, err := s.shown(a.Root(), "other.acme.test"); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("by another name: %v", err)
	}
	// A stranger that poses as the authority gets nothing, and no line of the log.
	before := s.log.String()
	if _, err := s.shown(a.Root(), name, Protocol); err == nil {
		t.Error("a validation that was not asked for is answered")
	}
	if after := s.log.String(); strings.Contains(after[len(before):], "validation") {
		t.Errorf("a stranger writes into the log: %s", after[len(before):])
	}
	// Nobody but the relay's user may read what is kept.
	files := 0
	if err := filepath.WalkDir(o.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil // renewed just now
		}
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		} else {
			files++
		}
		if info.Mode().Perm() != want {
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
		return nil
	}); err != nil || files < 4 { // certificate, key, account, its key
		t.Errorf("%d files are kept: %v", files, err)
	}
	// Renewed without a restart.
	eventually(t, "another one is shown", func() bool {
		next, err := s.shown(a.Root(), name)
		return err == nil && next.SerialNumber.Cmp(first.SerialNumber) != 0
	})
	s.log.waitFor(t, "INFO", "the authority gave a certificate", "renewal=true")
	root := a.Root()
	end()

	// Without the authority: what is kept is used, and then it says why not renewed.
	a.Stop()
	s, _ = serve(t, a, o)
	s.log.waitFor(t, "INFO", "the certificate that was kept is used")
	if _, err := s.shown(root, name); err != nil && !strings.Contains(err.Error(), "expired") {
		t.Error(err)
	}
	s.log.waitFor(t, "ERROR", "the certificate could not be renewed; the old one is used", "this machine needs HTTPS outward")
	if why := s.Failed(); !strings.Contains(why, "this machine needs HTTPS outward") {
		t.Errorf("failed: %q", why)
	}
}

func TestARefusalSaysWhatToDoAndNothingIsServed(t *testing.T) {
	t.Parallel()
	a := acmetest.Start(t, acmetest.Options{Blocked: []string{"blocked.acme.test"}})
	a.Unresolved("nowhere.acme.test")
	for _, tc := range []struct {
		name, mend string
		change     func(*Options)
		closed     bool
	}{
		{name: "nowhere.acme.test", mend: "give nowhere.acme.test an A record"},
		{name: "blocked.acme.test", mend: "this authority does not certify blocked.acme.test"},
		{name: "untrusted.acme.test", mend: "set tls.acme.ca-file", change: func(o *Options) { o.CAFile = "" }},
		{name: "gone.acme.test", mend: "this machine needs HTTPS outward", change: func(o *Options) { o.Directory = "https://127.0.0.1:1/dir" }},
		{name: "closed.acme.test", mend: "the authority must reach this relay at closed.acme.test:443: open the port", closed: true},
	} {
		// One after the other: they share one port 443.
		o := Options{Name: tc.name, Directory: a.Directory, CAFile: a.CAFile}
		if tc.change != nil {
			tc.change(&o)
		}
		s, end := serve(t, a, o)
		if tc.closed {
			a.Port443("")
		}
		s.log.waitFor(t, "ERROR", "no certificate could be got; nobody can connect", tc.mend, "it is tried again by itself")
		if _, err := s.Certificate(); !errors.Is(err, ErrNone) || !strings.Contains(err.Error(), tc.mend) {
			t.Errorf("%s: %v", tc.name, err)
		}
		if c, err := tls.Dial("tcp", s.address, &tls.Config{InsecureSkipVerify: true, ServerName: tc.name, MinVersion: tls.VersionTLS12}); err == nil {
			c.Close()
			t.Errorf("%s: there is no certificate, and something is served", tc.name)
		}
		if n := strings.Count(s.log.String(), "ERROR"); n != 1 {
			t.Errorf("%s: said %d times", tc.name, n)
		}
		end()
	}
}

func TestAnAuthorityOfItsOwnCustomers(t *testing.T) {
	t.Parallel()
	const key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	a := acmetest.Start(t, acmetest.Options{EAB: map[string]string{"kid-1": key}})
	s, end := serve(t, a, Options{Name: "stranger.acme.test", Directory: a.Directory, CAFile: a.CAFile})
	s.log.waitFor(t, "ERROR", "this authority certifies its own customers only: set tls.acme.eab")
	end()
	s, _ = serve(t, a, Options{Name: "customer.acme.test", Directory: a.Directory, CAFile: a.CAFile, KeyID: "kid-1", Key: key})
	s.log.waitFor(t, "INFO", "the authority gave a certificate")
	if strings.Contains(s.log.String(), key) {
		t.Error("the key stands in the log")
	}
}
