package broker

// The relay's certificate: read from disk, and again when it has changed there.

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"sync"
	"time"
)

// serverCertificate serves the certificate on disk, and picks up a new one.
func serverCertificate(t TLS, log *slog.Logger) (*tls.Config, error) {
	// A group for keys is common; everybody is not.
	if err := private("tls.key", t.Key, 0o007); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f := &certFile{t: t, log: log}
	if _, err := f.get(nil); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: f.get}, nil
}

type certFile struct {
	t   TLS
	log *slog.Logger

	mu      sync.Mutex
	cert    *tls.Certificate
	stamp   string // modification times of what cert was read from
	checked time.Time
}

// get is called at each handshake. It looks at the files at most once a second,
// and keeps the old pair while a new one is incomplete.
func (f *certFile) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cert != nil && time.Since(f.checked) < time.Second {
		return f.cert, nil
	}
	f.checked = time.Now()
	stamp := ""
	for _, p := range []struct{ key, path, what string }{
		{"tls.cert", f.t.Cert, "the certificate with its chain"}, {"tls.key", f.t.Key, "the certificate's key"},
	} {
		info, err := os.Stat(p.path)
		if errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("%s: there is no file %s; put %s there, in PEM, or say where it is (a relative path begins at the directory of the configuration): %w", p.key, p.path, p.what, err)
		}
		if err != nil {
			return f.keep(err)
		}
		stamp += info.ModTime().String() + "/" + strconv.FormatInt(info.Size(), 10) + ";"
	}
	if f.cert != nil && stamp == f.stamp {
		return f.cert, nil
	}
	cert, err := tls.LoadX509KeyPair(f.t.Cert, f.t.Key)
	if err != nil {
		return f.keep(err)
	}
	if f.cert != nil {
		f.log.Info("the certificate changed on disk; new connections get the new one")
	}
	f.cert, f.stamp = &cert, stamp
	return f.cert, nil
}

func (f *certFile) keep(err error) (*tls.Certificate, error) {
	if f.cert == nil {
		return nil, fmt.Errorf("certificate (tls.cert, tls.key): %w", err)
	}
	f.log.Error("the new certificate cannot be read; the old one stays", "error", err)
	return f.cert, nil
}
