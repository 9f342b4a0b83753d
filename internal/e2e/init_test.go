package e2e

// From nothing to the first accepted request, as docs/operating.md has it: what
// cfa-relay init writes is what cfa-relay serve takes.

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestFromInitToTheFirstAcceptedRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t) // for its issuer and its human: its relay makes room
	w.relay.signal(syscall.SIGTERM)
	w.relay.wait()
	certificate(t, w.dir, "")
	w.config = filepath.Join(t.TempDir(), "etc", "cfa.yaml")
	ana := w.humans[0]
	i := run(t, nil, "cfa-relay", "init", "--config", w.config, "--host", "localhost", "--nats", "127.0.0.1:0", "--websocket", "127.0.0.1:0", "--metrics", "127.0.0.1:0",
		"--cert", filepath.Join(w.dir, "ca.pem"), "--key", filepath.Join(w.dir, "key.pem"), "--data", filepath.Join(w.dir, "record"),
		"--project", project, "--provider", "github", "--claim", "repository_id="+w.claim("repository_id"), "--claim", "repository_owner_id="+w.claim("repository_owner_id"),
		"--responder", ana.name, "--connect", ana.connect, "--sign", ana.sign)
	if i.code != 0 || !strings.Contains(i.out.String(), "wrote "+w.config) {
		t.Fatalf("init ended with %d", i.code)
	}
	if c := run(t, nil, "cfa-relay", "check", "--config", w.config); c.code != 0 {
		t.Fatal("check refuses what init wrote")
	}
	// GitHub's issuer cannot be here; nothing else of the file is changed.
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	github, dev := `issuers: ["github"]`, `issuers: [{name: github, provider: github, url: "`+w.issuer.URL()+`"}]`
	if !strings.Contains(string(text), github) {
		t.Fatalf("no %s in\n%s", github, text)
	}
	if err := os.WriteFile(w.config, []byte(strings.Replace(string(text), github, dev, 1)), 0o640); err != nil {
		t.Fatal(err)
	}
	w.startRelay()
	wss := w.relay.waitFor(`serving (wss://\S+)\n`)[1]
	if s := run(t, nil, "cfa-relay", "status", "--config", w.config); s.code != 0 || strings.Contains(s.out.String(), "missing") {
		t.Errorf("status ended with %d: %s", s.code, s.out)
	}
	// Through a TCP proxy, which has an address of its own and not the relay's name.
	// By WebSocket, for which port 443 alone is enough.
	w.flags = append([]string{"--relay", "wss://" + forwarder(t, strings.TrimPrefix(wss, "wss://")), "--relay-name", "localhost"}, w.tlsFlags()...)
	j := w.job("--output", "stdout")
	j.waitFor(`request accepted for project rocket`)
	w.robot(ana)
	if code := j.wait(); code != 0 || strings.TrimSpace(j.out.String()) != testCode {
		t.Errorf("the job ended with %d", code)
	}
}
