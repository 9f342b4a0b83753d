package main

// listen, as a process: with a human at a real terminal, with a program at the
// other end of two pipes, and with a command that answers.

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/continuousauth/action/internal/answer/answertest"
	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

const (
	relayName = "relay.test"
	project   = "asar"
	repo      = "electron/asar"
	code      = "493817"
)

// scene is a relay, an issuer and a responder's files.
type scene struct {
	t       testing.TB
	relay   *answertest.Relay
	issuer  *devissuer.Issuer
	dir     string
	connect string
	sign    string
	socket  string // of the background program
}

func newScene(t testing.TB) *scene {
	t.Helper()
	s := &scene{t: t, dir: t.TempDir()}
	var err error
	if s.issuer, err = devissuer.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.issuer.Close)
	if s.relay, err = answertest.Listen(relayName); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.relay.Close)
	s.run("keygen", "--key-file", s.keys(), "--name", "ada")
	k, err := loadKeys(t.Context(), keyStore{path: s.keys()})
	if err != nil {
		t.Fatal(err)
	}
	s.connect, s.sign = wire.PublicKey(k.connect), wire.PublicKey(k.sign)
	s.relay.Enrol(s.connect, "ada")
	s.run("pins", "--pins", s.pins(), "issuer", "--name", "dev", "--url", s.issuer.URL())
	return s
}

func (s *scene) keys() string { return filepath.Join(s.dir, "responder.key") }
func (s *scene) pins() string { return filepath.Join(s.dir, "pins.yaml") }
func (s *scene) logs() string { return filepath.Join(s.dir, "log") }

func (s *scene) run(args ...string) {
	s.t.Helper()
	if out, err := exec.Command("cfa-responder", args...).CombinedOutput(); err != nil {
		s.t.Fatalf("cfa-responder %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// pin pins the repository to the project.
func (s *scene) pin() {
	s.t.Helper()
	claims := devissuer.GitHubClaims(repo, nil)
	s.run("pins", "--pins", s.pins(), "add", project, "--provider", "dev", "--repository", repo,
		"--repository-id", claims["repository_id"].(string), "--repository-owner-id", claims["repository_owner_id"].(string),
		"--workflow", "release.yml", "--confirm", repo)
}

func (s *scene) job(repo string, over map[string]any, change func(*wire.Request)) *answertest.Job {
	s.t.Helper()
	j, err := answertest.GitHubJob(s.issuer, relayName, project, repo, over, change)
	if err != nil {
		s.t.Fatal(err)
	}
	return j
}

func (s *scene) command(more ...string) *exec.Cmd {
	args := append([]string{"listen", "--relay", s.relay.URL(), "--relay-name", relayName, "--key-file", s.keys(), "--pins", s.pins(), "--log", s.logs()}, more...)
	return exec.Command("cfa-responder", args...)
}

// player is a responder that runs, and all that it has written.
type player struct {
	t    testing.TB
	cmd  *exec.Cmd
	in   io.Writer
	done chan error

	mu      sync.Mutex
	out     bytes.Buffer
	changed chan struct{}
}

func (p *player) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out.Write(b)
	close(p.changed)
	p.changed = make(chan struct{})
	return len(b), nil
}

func (p *player) text() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// terminal starts the responder on a terminal of its own.
func (s *scene) terminal(more ...string) *player {
	s.t.Helper()
	return s.onTerminal(nil, more...)
}

// onTerminal is terminal with more environment.
func (s *scene) onTerminal(env []string, more ...string) *player {
	s.t.Helper()
	cmd := s.command(more...)
	cmd.Env = append(os.Environ(), env...)
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 40, Cols: 120})
	if err != nil {
		s.t.Fatal(err)
	}
	return s.played(cmd, f)
}

// played is the program at a terminal, whose other end is f.
func (s *scene) played(cmd *exec.Cmd, f *os.File) *player {
	p := &player{t: s.t, cmd: cmd, in: f, done: make(chan error, 1), changed: make(chan struct{})}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(p, f) // ends with an error when the terminal is gone
	}()
	go func() {
		err := cmd.Wait()
		<-copied
		_ = f.Close()
		p.done <- err
	}()
	s.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return p
}

// pipes starts the responder between two pipes.
func (s *scene) pipes(more ...string) *player {
	s.t.Helper()
	return s.piped(s.command(more...))
}

func (s *scene) piped(cmd *exec.Cmd) *player {
	s.t.Helper()
	p := &player{t: s.t, cmd: cmd, done: make(chan error, 1), changed: make(chan struct{})}
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = p, p
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { p.done <- cmd.Wait() }()
	s.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return p
}

func (p *player) typed(s string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, s); err != nil {
		p.t.Fatal(err)
	}
}

// waits waits for text in what was written after position from, and gives the
// position behind it.
func (p *player) waits(from int, what string) int {
	p.t.Helper()
	timer := time.NewTimer(30 * time.Second)
	defer timer.Stop()
	for {
		p.mu.Lock()
		out, changed := p.out.String(), p.changed
		p.mu.Unlock()
		if i := strings.Index(out[from:], what); i >= 0 {
			return from + i + len(what)
		}
		select {
		case <-changed:
		case <-timer.C:
			p.t.Fatalf("never wrote %q; wrote:\n%s", what, out[from:])
		}
	}
}

func (p *player) ends() error {
	p.t.Helper()
	select {
	case err := <-p.done:
		return err
	case <-time.After(30 * time.Second):
		p.t.Fatalf("still runs; wrote:\n%s", p.text())
		return nil
	}
}

func got(t *testing.T, j *answertest.Job) string {
	t.Helper()
	select {
	case c := <-j.Got():
		return c
	case <-time.After(30 * time.Second):
		t.Fatal("the job got no code")
		return ""
	}
}

// nowhere checks that a secret stands in nothing that the responder wrote.
func (s *scene) nowhere(p *player, secret string) {
	s.t.Helper()
	if strings.Contains(p.text(), secret) {
		s.t.Errorf("the secret was shown:\n%s", p.text())
	}
	log, err := os.ReadFile(s.logs())
	if err != nil {
		s.t.Fatal(err)
	}
	if bytes.Contains(log, []byte(secret)) {
		s.t.Error("the secret is in the log")
	}
}

func TestAHumanAtATerminalSeesTheFactsAndTypesTheCodeUnseen(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.terminal()
	at := p.waits(0, "connected to the relay")
	j := s.job(repo, map[string]any{"environment": "npm"}, func(r *wire.Request) { r.Message = "release v1.2.3" })
	s.relay.Ask(j)
	at = p.waits(at, "#1 verified: electron/asar asks for a code for npm, in the project asar")
	end := p.waits(at, "#1 your turn: type 1")
	shown := p.text()[at:end]
	order := 0
	for _, want := range []string{
		`repository +electron/asar`, `workflow +Release`, `file +\.github/workflows/release\.yml`, `ref +refs/heads/main`,
		`commit +[0-9a-f]{12}\b`, `environment +npm`, `event +push`, `started by +octocat`, `run +-`, `asked at +\d\d:\d\d:\d\d \(\d+ s ago, by the job's clock\)`,
		`the job says +"release v1\.2\.3" \(its own words`, `match code +` + seal.Match(j.Digest), `time left +(29|30) min`,
	} {
		loc := regexp.MustCompile(want).FindStringIndex(shown)
		if loc == nil {
			t.Errorf("%s is not shown:\n%s", want, shown)
			continue
		}
		if loc[0] < order {
			t.Errorf("%s stands out of order:\n%s", want, shown)
		}
		order = loc[0]
	}
	// A typing error is found out before anything leaves.
	p.typed("1\r")
	at = p.waits(end, "#1 code, 6 digits (not shown; Enter alone goes back): ")
	p.typed("12345\r")
	at = p.waits(at, "the code has 5 characters, not 6")
	at = p.waits(at, "#1 code, 6 digits")
	p.typed(code + "\r")
	at = p.waits(at, "#1 sealed")
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}
	at = p.waits(at, "#1 note: the relay says that the job has your code")
	s.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
	at = p.waits(at, "#1 over: the relay says that the job has what it asked for")
	p.typed("quit\r")
	if err := p.ends(); err != nil {
		t.Errorf("ended with %v", err)
	}
	s.nowhere(p, code)
	s.nowhere(p, "12345")
	_ = at
}

// What arrives while a code is being typed must neither show it nor mix with it.
func TestHiddenEntryStaysHiddenWhateverHappensMeanwhile(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.terminal()
	one := s.job(repo, nil, nil)
	s.relay.Ask(one)
	at := p.waits(0, "#1 your turn")
	p.typed("1\r")
	at = p.waits(at, "#1 code")
	p.typed(code[:3])

	// Another request comes, and the code for the first goes on being typed;
	// but now its match code is needed.
	two := s.job(repo, nil, nil)
	s.relay.Ask(two)
	at = p.waits(at, "#1 careful: another request of the project is open too")
	at = p.waits(at, "#2 your turn")
	p.typed(code[3:] + "\r")
	at = p.waits(at, "that is not this request's match code")
	at = p.waits(at, "#1 match code from the job's log")
	p.typed(seal.Match(two.Digest) + "\r") // the wrong log
	at = p.waits(at, "that is not this request's match code")
	p.typed(seal.Match(one.Digest) + "\r")
	at = p.waits(at, "#1 code")

	// Somebody else is first: what is typed is thrown away, unseen, and does
	// not land on the command line.
	p.typed(code[:4])
	s.relay.Set(one, func(i *wire.Item) {
		i.State.State, i.State.By, i.State.Sealed = "answered", "grace", strings.Repeat("ab", 32)
	})
	at = p.waits(at, "#1 answered: grace answered")
	at = p.waits(at, "#1 thrown away")
	thrown := at
	p.typed(code[4:] + "\r")
	p.typed("list\r")
	at = p.waits(at, "#1 resting")
	if strings.Contains(p.text()[thrown:at], "#1 not sent") {
		t.Errorf("what was thrown away was tried:\n%s", p.text()[thrown:at])
	}
	at = p.waits(at, "#2 verified")

	// Ctrl-C leaves the question and takes along what was typed.
	s.relay.Set(one, func(i *wire.Item) { i.State.State = "done" })
	at = p.waits(at, "#1 over")
	p.typed("2\r")
	at = p.waits(at, "#2 code")
	p.typed(code + "\x03")
	at = p.waits(at, "#2 note: nothing was sent")
	p.typed("help\r")
	at = p.waits(at, "have the job of #1 prove itself again")
	// And the up key does not bring it back.
	p.typed("\x1b[A\x1b[B\r2\r")
	at = p.waits(at, "#2 code")
	p.typed(code + "\x1b[A\x04") // nor Ctrl-D
	at = p.waits(at, "#2 note: nothing was sent")
	p.typed("\x1b[B\rhelp\r") // nor the down key
	at = p.waits(at, "have the job of #1 prove itself again")
	p.typed("d2\r")
	at = p.waits(at, "#2 why you decline")
	p.typed("not today\r")
	at = p.waits(at, "#2 over: you declined: not today")
	if n := len(s.relay.Messages(wire.VerbAnswer)); n != 0 {
		t.Errorf("%d answers left", n)
	}
	p.typed("\x04")
	if err := p.ends(); err != nil {
		t.Errorf("ended with %v", err)
	}
	s.nowhere(p, code)
	for i := range code[:4] {
		if strings.Contains(p.text(), code[i:i+3]) {
			t.Errorf("a part of the code was shown:\n%q", p.text())
		}
	}
	_ = at
}

// hostile is text that drives terminals, turns writing around, hides, and looks
// like something else.
const hostile = "\x1b[2J\x1b]0;owned\x07\u202etxt.exe\u2066\r#1 verified: electron/asar\n\u009b31m\u200b\u00ad\u0430sar\u0000\U000e0041\uff11\u037e"

func TestHostileTextNeverReachesATerminalRaw(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.terminal()
	at := p.waits(0, "connected")
	foreign := s.job("mallory/evil", map[string]any{"environment": hostile, "actor": hostile, "workflow": hostile, "ref": "refs/heads/" + hostile},
		func(r *wire.Request) { r.Message = hostile })
	s.relay.Ask(foreign)
	at = p.waits(at, "#1 mismatch: this is not what your pins say")
	at = p.waits(at, "#1 not answerable")
	mine := s.job(repo, map[string]any{"environment": hostile, "actor": hostile, "workflow": hostile}, func(r *wire.Request) { r.Message = hostile })
	s.relay.Ask(mine)
	at = p.waits(at, "#2 verified")
	at = p.waits(at, "#2 your turn")
	s.relay.Set(mine, func(i *wire.Item) { i.State.State, i.State.By, i.State.Why = "declined", hostile, hostile })
	at = p.waits(at, "#2 over")
	p.typed("1\r")
	at = p.waits(at, "#1 mismatch")
	at = p.waits(at, "#1 not answerable")
	if n := len(s.relay.Messages(wire.VerbAnswer)); n != 0 {
		t.Errorf("%d answers left", n)
	}
	p.typed("quit\r")
	if err := p.ends(); err != nil {
		t.Errorf("ended with %v", err)
	}
	for _, out := range []string{p.text()} {
		for _, bad := range []string{
			"\x1b[2J", "\x1b]", "\x07", "\u202e", "\u2066", "\r#1 verified", "\n#1 verified: electron/asar\n", "\x9b", "\u200b", "\u00ad",
			"\u0430", "\x00", "\U000e0041", "\uff11", "\u037e",
		} {
			if strings.Contains(out, bad) {
				t.Errorf("%q reached the terminal raw:\n%q", bad, out)
			}
		}
		if !strings.Contains(out, "<U+202E>") {
			t.Error("what was there is not written out either")
		}
	}
	_ = at
}

func TestPinsThatAreAddedMeanwhileCountAtOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.pipes("--issuer", "dev:github="+s.issuer.URL())
	at := p.waits(0, "cfa-responder pins add makes one")
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	at = p.waits(at, "#1 not pinned: you have no pins for the project asar")
	at = p.waits(at, "#1 repository: electron/asar")
	p.typed("1\n")
	at = p.waits(at, "#1 not answerable")
	s.pin()
	at = p.waits(at, "note: the pins have changed")
	at = p.waits(at, "#1 verified")
	at = p.waits(at, "#1 your turn")
	// A broken pins file changes nothing.
	if err := os.WriteFile(s.pins(), []byte("pins: 7\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	at = p.waits(at, "the pins from before still count")
	p.typed("1\n" + code + "\n")
	p.waits(at, "#1 note: the relay says that the job has your code")
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}
}

func TestWithoutATerminalAProgramReadsAndWritesPlainLines(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.pipes()
	at := p.waits(0, "note: connected")
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	at = p.waits(at, "#1 verified: ")
	at = p.waits(at, "#1 match code: "+seal.Match(j.Digest))
	at = p.waits(at, "#1 your turn: ")
	p.typed("list\n9\nnonsense\n1\n")
	at = p.waits(at, "#1 verified: electron/asar, for npm, in the project asar; ")
	at = p.waits(at, "note: no prompt with that number")
	at = p.waits(at, "note: that is no command")
	at = p.waits(at, "#1 next line: code, 6 digits")
	p.typed(code + "\n")
	at = p.waits(at, "#1 sealed: ")
	at = p.waits(at, "#1 note: the relay says that the job has your code")
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}
	other := s.job(repo, nil, nil)
	s.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
	s.relay.Ask(other)
	at = p.waits(at, "#2 your turn: ")
	p.typed("d2 " + strings.Repeat("no ", 500) + "\n")
	at = p.waits(at, "reason is longer than 1000 bytes")
	p.typed("d2 not mine\n")
	at = p.waits(at, "#2 over: you declined: not mine")
	if strings.Contains(p.text(), "malformed message") {
		t.Errorf("a human's mistake is called a message:\n%s", p.text())
	}
	for _, line := range strings.Split(strings.TrimSpace(p.text()), "\n") {
		if !strings.HasPrefix(line, "#1 ") && !strings.HasPrefix(line, "#2 ") && !strings.HasPrefix(line, "note: ") {
			t.Errorf("a line that says not what it is about: %q", line)
		}
	}
	// The end of the input is not the end of the program.
	if err := p.in.(io.Closer).Close(); err != nil {
		t.Fatal(err)
	}
	third := s.job(repo, nil, nil)
	s.relay.Ask(third)
	p.waits(at, "#3 your turn: ")
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.ends(); err != nil {
		t.Errorf("ended with %v", err)
	}
	s.nowhere(p, code)
}

func TestAnAnswerCommandAnswersUnattendedAndSaysSo(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	facts := filepath.Join(s.dir, "facts")
	p := s.pipes("--unattended", "--answer-command", `env > "`+facts+`"; echo `+code)
	at := p.waits(0, "UNATTENDED: a command answers")
	foreign := s.job("mallory/evil", nil, nil)
	s.relay.Ask(foreign)
	at = p.waits(at, "#1 mismatch")
	s.relay.Set(foreign, func(i *wire.Item) { i.State.State = "cancelled" })
	at = p.waits(at, "#1 over")
	j := s.job(repo, map[string]any{"environment": "npm"}, func(r *wire.Request) { r.Message = hostile })
	s.relay.Ask(j)
	at = p.waits(at, "#2 unattended: ")
	at = p.waits(at, "#2 sealed: ")
	at = p.waits(at, "#2 note: the relay says that the job has your code")
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}
	env, err := os.ReadFile(facts)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"CFA_PROJECT=asar", "CFA_SERVICE=npm", "CFA_REPOSITORY=electron/asar", "CFA_ENVIRONMENT=npm", "CFA_REF=refs/heads/main",
		"CFA_MATCH=" + seal.Match(j.Digest), "CFA_REQUEST=" + j.ID(), "CFA_ATTEMPT=1",
	} {
		if !bytes.Contains(env, []byte(want+"\n")) {
			t.Errorf("the command was not told %s", want)
		}
	}
	if bytes.ContainsAny(env, "\x1b\u202e") {
		t.Error("the command was handed hostile text raw")
	}
	// A refused code makes a new attempt, and the command is asked again.
	j.At(2, wire.ReasonRejected)
	s.relay.Set(j, func(i *wire.Item) { i.State.State, i.State.Attempt, i.State.Sealed, i.State.By = "pending", 2, "", "" })
	at = p.waits(at, "#2 again: the last code was refused; this is attempt 2")
	p.waits(at, "#2 sealed: ")
	s.nowhere(p, code)
}

func TestAnAnswerCommandThatFailsLeavesThePromptAlone(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ command, want string }{
		"it fails":           {"echo 493817; exit 3", "failed (exit status 3); nothing was sent"},
		"it says too much":   {"head -c 5000 /dev/zero", "printed more than a code"},
		"it says no code":    {"echo hello", "the code has 5 characters, not 6"},
		"it says two codes":  {"echo 493817; echo 493817", "not printable ASCII"},
		"it says nothing":    {"true", "the code has 0 characters"},
		"there is no such":   {"/nonexistent/otp", "failed (exit status 127)"},
		"it wants a typed m": {"echo 493817", "its match code must be typed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.pin()
			p := s.pipes("--unattended", "--answer-command", test.command)
			j := s.job(repo, nil, func(r *wire.Request) { r.TypeMatch = strings.Contains(test.want, "match") })
			s.relay.Ask(j)
			at := p.waits(0, "#1 left alone: ")
			p.waits(at, test.want)
			if n := len(s.relay.Messages(wire.VerbAnswer)); n != 0 {
				t.Errorf("%d answers left", n)
			}
			s.nowhere(p, code)
		})
	}
}

func TestAnUnknownResponderIsRefusedWithItsOwnExitCode(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.relay.Enrol(s.connect, "")
	p := s.pipes()
	err := p.ends()
	var e *exec.ExitError
	if err == nil || fmt.Sprint(err) != "exit status 77" {
		t.Errorf("ended with %v (%T)", err, e)
	}
	p.waits(0, "cfa-responder keys")
}

func TestAResponderToldToEndWaitsForTheAnswerAndTwiceDoesNot(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	s.relay.Hold = true
	for _, twice := range []bool{false, true} {
		p := s.terminal()
		j := s.job(repo, nil, nil)
		s.relay.Ask(j)
		at := p.waits(0, "your turn")
		p.typed("1\r")
		at = p.waits(at, "code, 6 digits")
		p.typed(code + "\r")
		at = p.waits(at, "sealed")
		p.typed("\x03")
		at = p.waits(at, "ending as soon as what is on its way has arrived (1)")
		if twice {
			p.typed("\x03")
			if err := p.ends(); err == nil || err.Error() != "exit status 1" {
				t.Errorf("ended with %v", err)
			}
		} else {
			s.relay.Do(func() { s.relay.Hold = false })
			if c := got(t, j); c != code {
				t.Errorf("the job opened %q", c)
			}
			if err := p.ends(); err != nil {
				t.Errorf("ended with %v", err)
			}
			s.relay.Do(func() { s.relay.Hold = true })
		}
		s.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
		_ = at
	}
}

func TestAtATerminalTheRepositorysNameIsTypedToPinIt(t *testing.T) {
	t.Parallel()
	pins := filepath.Join(t.TempDir(), "pins.yaml")
	cmd := exec.Command("cfa-responder", "pins", "--pins", pins, "add", project, "--repository", repo, "--repository-id", "1", "--repository-owner-id", "2")
	f, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := &player{t: t, cmd: cmd, in: f, done: make(chan error, 1), changed: make(chan struct{})}
	go func() { _, _ = io.Copy(p, f) }()
	p.waits(0, "Type the repository's name to pin it: ")
	p.typed(repo + "\n")
	p.waits(0, "Pinned, in ")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if f, err := readPins(pins); err != nil || len(f.Pins[project]) != 1 {
		t.Errorf("the pins are %+v, %v", f, err)
	}
}
