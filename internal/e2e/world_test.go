// Package e2e runs the real programs as processes, each built once: a job, a
// relay with its embedded server, responders, and a development issuer in the
// place of the CI's. Nothing is faked but what cannot be here.
package e2e

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/devissuer"
)

// within bounds every wait for something that must happen. It is generous: it
// only ever passes when a test fails.
const within = 60 * time.Second

// longWithin is for what time alone brings about: a job that is lost, to a relay
// that starts to count anew when it is started anew.
const longWithin = 6 * time.Minute

var (
	buildOnce sync.Once
	binDir    string
	errBuild  error
)

// program gives the path of one of our programs, building all three the first
// time.
func program(t testing.TB, name string) string {
	t.Helper()
	buildOnce.Do(func() {
		binDir, errBuild = os.MkdirTemp("", "cfa-e2e-")
		for name, pkg := range map[string]string{"cfa": "action", "cfa-relay": "relay", "cfa-responder": "responder"} {
			if errBuild != nil {
				return
			}
			out, err := exec.Command("go", "build", "-o", filepath.Join(binDir, name), "github.com/continuousauth/action/"+pkg).CombinedOutput()
			if err != nil {
				errBuild = fmt.Errorf("build %s: %w\n%s", name, err, out)
			}
		}
	})
	if errBuild != nil {
		t.Fatal(errBuild)
	}
	return filepath.Join(binDir, name)
}

func TestMain(m *testing.M) {
	standInForCircleCI()
	standInForTools()
	code := m.Run()
	if binDir != "" {
		os.RemoveAll(binDir)
	}
	os.Exit(code)
}

// output collects what a process writes and lets a test wait for a part of it.
type output struct {
	mu    sync.Mutex
	b     bytes.Buffer
	wrote chan struct{} // closed at each write, and made anew
}

func newOutput() *output { return &output{wrote: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b.Write(p)
	close(o.wrote)
	o.wrote = make(chan struct{})
	return len(p), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// process is a program that runs.
type process struct {
	t        testing.TB
	name     string
	cmd      *exec.Cmd
	out, err *output
	in       *os.File
	done     chan struct{}
	code     int
	within   time.Duration // how long it is waited for; 0: within
}

// start runs one of our programs with exactly this environment.
func start(t testing.TB, env []string, name string, args ...string) *process {
	t.Helper()
	return startIn(t, "", append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}, env...), name, args...)
}

// startIn is start in a folder, with this environment and no other.
func startIn(t testing.TB, dir string, env []string, name string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(program(t, name), args...)
	cmd.Dir, cmd.Env = dir, env
	return startCmd(t, name, cmd)
}

// startCmd starts what is one of our programs, under that name.
func startCmd(t testing.TB, name string, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, name: name, cmd: cmd, out: newOutput(), err: newOutput(), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdin, p.in = r, w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	go func() {
		err := p.cmd.Wait()
		var e *exec.ExitError
		if errors.As(err, &e) {
			p.code = e.ExitCode()
		} else if err != nil {
			p.code = -1
		}
		close(p.done)
	}()
	t.Cleanup(func() {
		w.Close()
		p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			p.cmd.Process.Kill()
			<-p.done
		}
		if t.Failed() {
			t.Logf("%s wrote to stdout:\n%s\nto stderr:\n%s", name, p.out, p.err)
		}
	})
	return p
}

// waitFor waits until the process has written what matches, to either stream,
// and gives the match. It fails when the process ends without.
func (p *process) waitFor(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	timeout := time.After(p.patience())
	for {
		p.out.mu.Lock()
		outWrote := p.out.wrote
		m := re.FindStringSubmatch(p.out.b.String())
		p.out.mu.Unlock()
		p.err.mu.Lock()
		errWrote := p.err.wrote
		if m == nil {
			m = re.FindStringSubmatch(p.err.b.String())
		}
		p.err.mu.Unlock()
		if m != nil {
			return m
		}
		select {
		case <-outWrote:
		case <-errWrote:
		case <-p.done:
			select { // its last words may come with its end
			case <-outWrote:
				continue
			case <-errWrote:
				continue
			default:
			}
			p.t.Fatalf("%s ended with %d and never wrote %q", p.name, p.code, pattern)
		case <-timeout:
			p.t.Fatalf("%s did not write %q", p.name, pattern)
		}
	}
}

func (p *process) patience() time.Duration { return cmp.Or(p.within, within) }

// wait waits for the process's end and gives its exit code.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.code
	case <-time.After(p.patience()):
		p.t.Fatalf("%s did not end", p.name)
		return -1
	}
}

// exited says whether it has.
func (p *process) exited() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

func (p *process) signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// run runs a program to its end.
func run(t testing.TB, env []string, name string, args ...string) *process {
	t.Helper()
	p := start(t, env, name, args...)
	p.in.Close()
	p.wait()
	return p
}

const (
	repository = "example/rocket"
	project    = "rocket"
)

// world is an issuer, a relay and what is needed to talk to it.
type world struct {
	t      testing.TB
	dir    string
	issuer *devissuer.Issuer
	claims map[string]any
	humans []*person
	config string // the relay's file
	top    string // further top-level lines of it
	relay  *process
	url    string
	wss    string
	flags  []string // how programs reach the relay
}

// person is a human with a responder.
type person struct {
	name, dir, keys, pins string
	connect, sign         string
}

type option func(*world)

// with adds top-level lines to the relay's file.
func with(lines string) option { return func(w *world) { w.top += lines + "\n" } }

func newWorld(t testing.TB, opts ...option) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	issuer, err := devissuer.Start(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(issuer.Close)
	w.issuer = issuer
	w.claims = devissuer.GitHubClaims(repository, nil)
	issuer.AddJob("release", w.claims)
	w.person("Ana")
	for _, o := range opts {
		o(w)
	}
	if !strings.Contains(w.top, "listen:") {
		w.top += "listen: {nats: \"127.0.0.1:0\"}\n"
	}
	w.config = filepath.Join(w.dir, "cfa.yaml")
	w.writeConfig("")
	w.startRelay()
	return w
}

func (w *world) claim(name string) string { s, _ := w.claims[name].(string); return s }

// person makes somebody with keys and pins.
func (w *world) person(name string) *person {
	w.t.Helper()
	p := &person{name: name, dir: filepath.Join(w.dir, "home-"+name)}
	p.keys, p.pins = filepath.Join(p.dir, "responder.key"), filepath.Join(p.dir, "pins.yaml")
	k := run(w.t, nil, "cfa-responder", "keygen", "--key-file", p.keys, "--name", name)
	if k.code != 0 {
		w.t.Fatal("keygen failed")
	}
	p.connect = k.waitFor(`\bU[A-Z2-7]{55}\b`)[0]
	p.sign = k.waitFor(`\bA[A-Z2-7]{55}\b`)[0]
	w.humans = append(w.humans, p)
	w.pin(p, w.claims)
	return p
}

func (w *world) pin(p *person, claims map[string]any) {
	w.t.Helper()
	if _, err := os.Stat(p.pins); err != nil {
		if i := run(w.t, nil, "cfa-responder", "pins", "--pins", p.pins, "issuer", "--name", "development", "--url", w.issuer.URL()); i.code != 0 {
			w.t.Fatal("pins issuer failed")
		}
	}
	text := func(n string) string { s, _ := claims[n].(string); return s }
	if a := run(w.t, nil, "cfa-responder", "pins", "--pins", p.pins, "add", project, "--provider", "development", "--repository", text("repository"),
		"--repository-id", text("repository_id"), "--repository-owner-id", text("repository_owner_id"), "--confirm", text("repository")); a.code != 0 {
		w.t.Fatal("pins add failed")
	}
}

// writeConfig writes the relay's file; more goes under the project's name.
func (w *world) writeConfig(more string) {
	w.t.Helper()
	var people strings.Builder
	for _, p := range w.humans {
		fmt.Fprintf(&people, "      - {name: %s, connect: %s, sign: %s}\n", p.name, p.connect, p.sign)
	}
	text := fmt.Sprintf(`host: localhost
data: data
%sissuers:
  - {name: development, provider: github, url: "%s"}
projects:
  %s:
%s    ci:
      - provider: development
        repository_id: "%s"
        repository_owner_id: "%s"
    responders:
%s`, w.top, w.issuer.URL(), project, more, w.claim("repository_id"), w.claim("repository_owner_id"), people.String())
	if err := os.WriteFile(w.config, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) startRelay() {
	w.t.Helper()
	w.relay = start(w.t, nil, "cfa-relay", "serve", "--config", w.config)
	w.url = w.relay.waitFor(`serving ((?:nats|tls)://\S+)\n`)[1]
	if strings.Contains(w.top, "websocket:") {
		w.wss = w.relay.waitFor(`serving (wss?://\S+)\n`)[1]
	}
	w.flags = append([]string{"--relay", w.url, "--relay-name", "localhost"}, w.tlsFlags()...)
}

func (w *world) tlsFlags() []string {
	if ca := filepath.Join(w.dir, "ca.pem"); strings.HasPrefix(w.url, "tls://") {
		return []string{"--ca-file", ca}
	}
	return nil
}

// listen starts a person's responder and waits until it has read what waits.
func (w *world) listen(p *person, args ...string) *process {
	w.t.Helper()
	all := append([]string{"listen", "--key-file", p.keys, "--pins", p.pins}, w.flags...)
	r := start(w.t, []string{"CFA_TEST_CODE=" + testCode}, "cfa-responder", append(all, args...)...)
	r.waitFor(`(?i)connected`)
	return r
}

// robot is a responder that answers by itself with testCode.
func (w *world) robot(p *person) *process {
	w.t.Helper()
	return w.listen(p, "--answer-command", `printf %s "$CFA_TEST_CODE"`, "--unattended")
}

const testCode = "918273"

// job starts cfa request as a step of the job that the issuer knows.
func (w *world) job(args ...string) *process {
	w.t.Helper()
	return w.jobIn(nil, args...)
}

func (w *world) jobIn(env []string, args ...string) *process {
	w.t.Helper()
	all := append([]string{"request", "--project", project, "--service", "npm"}, w.flags...)
	return start(w.t, append(w.issuer.GitHubEnv("release"), env...), "cfa", append(all, args...)...)
}
