package e2e

// From an empty server to the first accepted request, by the commands that
// README.md shows.

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// steps are those by which README.md sets a relay up.
func steps(t testing.TB) []string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)\n## A relay\n.*?\n```sh\n(.*?)```").FindSubmatch(text)
	if m == nil {
		t.Fatal("README.md shows no commands for a relay")
	}
	return strings.Split(strings.TrimSpace(string(m[1])), "\n")
}

// status is what cfa-relay status wrote.
type status struct {
	Keys        map[string]string
	Certificate struct {
		Expires time.Time
		Error   string
	}
}

// setUp goes through README's commands, with init's answers as flags. What cannot
// be here is said: packages are installed by root, from a release, and services
// started by systemd, so the unit's own command is run in its place. serving is
// called as soon as that serves.
func (w *world) setUp(serving func(), flags ...string) status {
	t := w.t
	t.Helper()
	w.relay.signal(syscall.SIGTERM)
	w.relay.wait()
	w.config = filepath.Join(t.TempDir(), "etc", "cfa.yaml")
	ana := w.humans[0]
	flags = append(flags, "--metrics", "127.0.0.1:0", "--data", filepath.Join(w.dir, "record"),
		"--project", project, "--provider", "github", "--claim", "repository_id="+w.claim("repository_id"), "--claim", "repository_owner_id="+w.claim("repository_owner_id"),
		"--responder", ana.name, "--connect", ana.connect, "--sign", ana.sign)
	here := func(words []string) []string {
		words = slices.Clone(words)
		at := slices.Index(words, "/etc/cfa/cfa.yaml")
		if at < 0 {
			t.Fatalf("%s does not name the file", words)
		}
		words[at] = w.config
		return words
	}
	var s status
	var ran []string
	for _, line := range steps(t) {
		line, _, _ = strings.Cut(line, " #")
		words := strings.Fields(line)
		switch {
		case words[0] == "apt-get":
			t.Logf("not run, it takes root and a release: %s", line)
			continue
		case strings.Join(words, " ") == "systemctl enable --now cfa-relay":
			unit, err := os.ReadFile("../../deploy/systemd/cfa-relay.service")
			if err != nil {
				t.Fatal(err)
			}
			m := regexp.MustCompile(`(?m)^ExecStart=/usr/bin/cfa-relay (.*)$`).FindSubmatch(unit)
			if m == nil {
				t.Fatal("the unit runs no cfa-relay")
			}
			t.Logf("in the place of systemd, which is not here: %s", m[1])
			w.relay = start(t, nil, "cfa-relay", here(strings.Fields(string(m[1])))...)
			w.url = w.relay.waitFor(`serving (tls://\S+)\n`)[1]
			w.wss = w.relay.waitFor(`serving (wss://\S+)\n`)[1]
			serving()
		case words[0] == "cfa-relay" && words[1] == "init":
			i := run(t, nil, words[0], append(here(words[1:]), flags...)...)
			if i.code != 0 || !strings.Contains(i.out.String(), "wrote "+w.config) {
				t.Fatalf("init ended with %d", i.code)
			}
			if c := run(t, nil, "cfa-relay", "check", "--config", w.config); c.code != 0 {
				t.Fatal("check refuses what init wrote")
			}
			w.development()
		case words[0] == "cfa-relay" && words[1] == "status":
			p := run(t, nil, words[0], here(words[1:])...)
			if err := json.Unmarshal([]byte(p.out.String()), &s); err != nil || p.code != 0 {
				t.Fatalf("status ended with %d: %v", p.code, err)
			}
		default:
			t.Fatalf("what is this command? %s", line)
		}
		ran = append(ran, words[0]+" "+words[1])
	}
	if want := []string{"cfa-relay init", "systemctl enable", "cfa-relay status"}; !slices.Equal(ran, want) {
		t.Fatalf("run were %q, not %q", ran, want)
	}
	for url, age := range s.Keys {
		if age == "missing" {
			t.Errorf("the keys of %s are missing", url)
		}
	}
	return s
}

// development has the development issuer stand in for GitHub's, which cannot be
// here; nothing else of the file is changed.
func (w *world) development() {
	w.t.Helper()
	text, err := os.ReadFile(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	github, dev := `issuers: ["github"]`, `issuers: [{name: github, provider: github, url: "`+w.issuer.URL()+`"}]`
	if !strings.Contains(string(text), github) {
		w.t.Fatalf("no %s in\n%s", github, text)
	}
	if err := os.WriteFile(w.config, []byte(strings.Replace(string(text), github, dev, 1)), 0o640); err != nil {
		w.t.Fatal(err)
	}
}

// through reaches the relay by one address alone, as wss://.
func (w *world) through(address, name string) {
	w.flags = append([]string{"--relay", "wss://" + address, "--relay-name", name}, w.tlsFlags()...)
}

// accepted has a job ask, and its human answer.
func (w *world) accepted() {
	w.t.Helper()
	j := w.job("--output", "stdout")
	j.waitFor(`request accepted for project rocket`)
	if code := j.wait(); code != 0 || strings.TrimSpace(j.out.String()) != testCode {
		w.t.Errorf("the job ended with %d", code)
	}
}

func TestFromInitToTheFirstAcceptedRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t) // for its issuer and its human: its relay makes room
	certificate(t, w.dir, "")
	s := w.setUp(func() {}, "--host", "localhost", "--nats", "127.0.0.1:0", "--websocket", "127.0.0.1:0",
		"--cert", filepath.Join(w.dir, "ca.pem"), "--key", filepath.Join(w.dir, "key.pem"))
	if s.Certificate.Expires.IsZero() || s.Certificate.Error != "" {
		t.Errorf("%+v", s)
	}
	// Through a TCP proxy, which has an address of its own and not the relay's name,
	// and leads to the WebSocket alone: job and responder need no other port.
	w.through(forwarder(t, strings.TrimPrefix(w.wss, "wss://")), "localhost")
	w.robot(w.humans[0])
	w.accepted()
}
