//go:build clients

package broker

// An authority that comes to the NATS listener itself, where there is no
// WebSocket: TLS first, and then nothing that is NATS. (internal/e2e has the
// WebSocket's.)

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/continuousauth/action/internal/acme/acmetest"
)

func TestAnAuthorityProvesTheNameOnTheNATSListener(t *testing.T) {
	t.Parallel()
	a := acmetest.Start(t, acmetest.Options{})
	f := newFixture(t)
	data := t.TempDir()
	f.start(f.configText(data, fmt.Sprintf("tls: {acme: {agree-to-terms: true, directory: %q, ca-file: %q}}\nlisten: {nats: \"127.0.0.1:0\", metrics: \"127.0.0.1:0\"}\n", a.Directory, a.CAFile)), Options{})
	// Somebody who is connected, and says nothing, does not keep the authority out.
	silent, err := net.Dial("tcp", f.secureAddress())
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	a.Port443(f.secureAddress())
	f.log.lineAfter(t, func() {}, "the authority gave a certificate")
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(a.Root()) {
		t.Fatal("no root")
	}
	trusted := &tls.Config{RootCAs: pool, ServerName: relayName, MinVersion: tls.VersionTLS12}
	eventually(t, "the certificate is shown", func() bool {
		c, err := tls.Dial("tcp", f.secureAddress(), trusted)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	j := f.job(rocketRepo, "rocket")
	j.connect(nats.Secure(trusted), nats.TLSHandshakeFirst())
	must(t, j.send(j.nc))
	if s := f.relay.Status().Certificate; s == nil || s.Expires == nil || s.Error != "" {
		t.Errorf("%+v", s)
	}
	if left := time.Until(time.Unix(int64(f.served()["cfa_certificate_expiry_timestamp_seconds"]), 0)); left < day {
		t.Errorf("%s left", left)
	}
	if status, text := f.read("/readyz"); status != 200 {
		t.Errorf("%d %s", status, text)
	}
	if entries, err := os.ReadDir(data); err != nil || !strings.Contains(fmt.Sprint(entries), "acme/") {
		t.Errorf("%v %v", entries, err)
	}
}
