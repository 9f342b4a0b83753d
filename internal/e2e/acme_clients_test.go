//go:build clients

package e2e

// The same with a certificate of an authority, which comes through port 443 to see
// whose the name is: Pebble, as a process.

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/continuousauth/action/internal/acme/acmetest"
)

func TestFromInitToTheFirstAcceptedRequestWithoutACertificateToBeginWith(t *testing.T) {
	t.Parallel()
	const name = "relay.acme.test"
	a := acmetest.Start(t, acmetest.Options{})
	w := newWorld(t)
	// The authority, which may be there by then, waits in front of port 443.
	w.setUp(func() { a.Port443(strings.TrimPrefix(w.wss, "wss://")) },
		"--host", name, "--nats", "127.0.0.1:0", "--websocket", "127.0.0.1:0",
		"--agree-to-terms", "--email", "ops@acme.test", "--directory", a.Directory, "--ca-file", a.CAFile)
	w.relay.waitFor(`there is no certificate yet, and nobody can connect until there is; one is asked for now`)
	w.relay.waitFor(`the authority gave a certificate`)
	if err := os.WriteFile(filepath.Join(w.dir, "ca.pem"), a.Root(), 0o600); err != nil {
		t.Fatal(err)
	}
	// Jobs and responders come the same way as the authority, and no other.
	w.through(a.Forwarder(), name)
	human := w.robot(w.humans[0])
	w.accepted()
	now := func() (s status) {
		t.Helper()
		p := run(t, nil, "cfa-relay", "status", "--config", w.config)
		if err := json.Unmarshal([]byte(p.out.String()), &s); err != nil || p.code != 0 {
			t.Fatalf("status ended with %d: %v", p.code, err)
		}
		return s
	}
	first := now().Certificate
	if first.Expires.IsZero() || first.Error != "" {
		t.Errorf("%+v", first)
	}
	if err := filepath.WalkDir(filepath.Join(w.dir, "record", "acme"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
		return err
	}); err != nil {
		t.Error(err)
	}

	// Killed, and started while the authority is away: it has what it was given.
	w.relay.signal(syscall.SIGKILL)
	w.relay.wait()
	a.Stop()
	w.relay = start(t, nil, "cfa-relay", "serve", "--config", w.config)
	a.Port443(strings.TrimPrefix(w.relay.waitFor(`serving (wss://\S+)\n`)[1], "wss://"))
	w.relay.waitFor(`the certificate that was kept is used`)
	if again := now().Certificate; !again.Expires.Equal(first.Expires) {
		t.Errorf("%+v, then %+v", first, again)
	}
	human.signal(syscall.SIGTERM)
	human.wait()
	w.robot(w.humans[0])
	w.accepted()
}
