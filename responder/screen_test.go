package main

// The screen, as a process on a real terminal that a terminal emulator watches.

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

// glass is what a human sees.
type glass struct {
	t    testing.TB
	cmd  *exec.Cmd
	pty  *os.File
	mu   sync.Mutex // the emulator's
	see  *vt.Emulator
	all  *player // every byte, in order
	done chan error
}

func (s *scene) screen(cols, rows int, more ...string) *glass {
	s.t.Helper()
	args := append([]string{"screen", "--relay", s.relay.URL(), "--relay-name", relayName, "--key-file", s.keys(), "--pins", s.pins(), "--log", s.logs()}, more...)
	return s.glassOf(exec.Command("cfa-responder", args...), cols, rows)
}

func (s *scene) glassOf(cmd *exec.Cmd, cols, rows int) *glass {
	s.t.Helper()
	cmd.Env = append(os.Environ(), "TERM=xterm-256color", "DISPLAY=", "WAYLAND_DISPLAY=")
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: uint16(rows), Cols: uint16(cols)})
	if err != nil {
		s.t.Fatal(err)
	}
	g := &glass{t: s.t, cmd: cmd, pty: f, see: vt.NewEmulator(cols, rows), all: &player{t: s.t, cmd: cmd, changed: make(chan struct{})}, done: make(chan error, 1)}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(io.MultiWriter(writing(g.draw), g.all), f)
	}()
	go func() { _, _ = io.Copy(f, g.see) }() // what a terminal answers when it is asked
	go func() {
		err := cmd.Wait()
		<-copied
		if w, ok := g.see.InputPipe().(io.Closer); ok {
			_ = w.Close() // ends the copying of its answers; Close would race with it
		}
		_ = f.Close()
		g.done <- err
	}()
	s.t.Cleanup(func() { _ = cmd.Process.Kill() })
	return g
}

// writing is an io.Writer.
type writing func([]byte) (int, error)

func (w writing) Write(p []byte) (int, error) { return w(p) }

func (g *glass) draw(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.see.Write(p)
}

// text is the screen as it stands.
func (g *glass) text() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var b strings.Builder
	for y := range g.see.Height() {
		var row strings.Builder
		for x := range g.see.Width() {
			if c := g.see.CellAt(x, y); c != nil && c.Content != "" {
				row.WriteString(c.Content)
			} else if c == nil {
				row.WriteByte(' ')
			}
		}
		b.WriteString(strings.TrimRight(row.String(), " ") + "\n")
	}
	return b.String()
}

func (g *glass) shows(what string) string {
	g.t.Helper()
	return g.until(what, func(s string) bool { return strings.Contains(s, what) })
}

func (g *glass) until(what string, ok func(string) bool) string {
	g.t.Helper()
	limit := time.After(30 * time.Second)
	for {
		g.all.mu.Lock()
		changed := g.all.changed
		g.all.mu.Unlock()
		text := g.text()
		if ok(text) {
			return text
		}
		select {
		case <-changed:
		case <-time.After(50 * time.Millisecond): // the emulator may be behind the bytes
		case <-limit:
			g.t.Fatalf("never showed %q; shows:\n%s", what, text)
		}
	}
}

func (g *glass) press(keys string) {
	g.t.Helper()
	if _, err := io.WriteString(g.pty, keys); err != nil {
		g.t.Fatal(err)
	}
}

func (g *glass) ends() error {
	g.t.Helper()
	select {
	case err := <-g.done:
		return err
	case <-time.After(30 * time.Second):
		g.t.Fatalf("still runs; shows:\n%s", g.text())
		return nil
	}
}

func TestTheScreenShowsTheFactsAndTakesTheCodeUnseen(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	g := s.screen(100, 40)
	g.shows("nothing waits")
	j := s.job(repo, map[string]any{"environment": "npm"}, func(r *wire.Request) { r.Message = "release v1.2.3" })
	s.relay.Ask(j)
	g.shows("verified: electron/asar wants a code for npm")
	seen := g.until("all facts", func(text string) bool { return strings.Contains(text, "time left") })
	for _, want := range []string{`in its workflow "Release" on branch main, started by octocat`, "environment   npm", "match code    " + seal.Match(j.Digest), `"release v1.2.3" (its own words`} {
		if !strings.Contains(strings.Join(strings.Fields(seen), " "), strings.Join(strings.Fields(want), " ")) {
			t.Errorf("%q is not shown:\n%s", want, seen)
		}
	}
	g.press("\r")
	g.shows("#1 code, 6 digits:")
	g.press("12345\r")
	g.shows("the code has 5 characters, not 6")
	g.press(code)
	g.shows("> ••••••")
	g.press("\r")
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}
	g.shows("note: the relay says that the job has your code")
	s.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
	g.shows("nothing waits")
	g.press("h")
	g.shows("#1 electron/asar, for npm: the relay says that the job has what it asked for")
	g.press("xw")
	g.shows("away until (18:00, 2h, 3d, 2026-12-01):")
	g.press("yesterday\r")
	g.shows("not said: ")
	g.press("w2h\r")
	g.shows("b ends it")
	g.press("b")
	g.shows("you are back")
	g.press("?")
	g.shows("leave; a background program goes on")
	g.press("q")
	if err := g.ends(); err != nil {
		t.Errorf("ended with %v", err)
	}
	s.nowhere(g.all, code)
	s.nowhere(g.all, "12345")
}

func TestWhatIsTypedOnTheScreenForAPromptThatChangesIsThrownAway(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	g := s.screen(80, 24)
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	g.shows("verified: electron/asar wants a code")
	g.press("\r")
	g.shows("#1 code, 6 digits:")
	g.press(code[:4])
	g.shows("> ••••")
	s.relay.Set(j, func(i *wire.Item) {
		i.State.State, i.State.By, i.State.Sealed = "answered", "grace", strings.Repeat("ab", 32)
	})
	g.shows("what you type goes nowhere")
	g.press(code[4:] + "dq") // neither a decline nor the end
	g.press("\r")
	g.shows("Enter answer")
	if n := len(s.relay.Messages(wire.VerbAnswer)) + len(s.relay.Messages(wire.VerbDecline)); n != 0 {
		t.Errorf("%d messages were sent", n)
	}
	s.relay.Set(j, func(i *wire.Item) {
		i.State = wire.State{Rev: i.State.Rev, State: "pending", Attempt: 1, Deadline: i.State.Deadline}
	})
	g.until("asked again", func(text string) bool { return strings.Contains(text, "verified ") })
	g.press("d")
	g.shows("#1 why you decline:")
	g.press("not mine\r")
	until(t, func() bool { return len(s.relay.Messages(wire.VerbDecline)) == 1 })
	if strings.Contains(g.all.text(), code[:4]) { // four digits stand in a log's times by chance
		t.Errorf("what was typed was shown:\n%s", g.all.text())
	}
	s.nowhere(g.all, code)
}

func TestTheScreenAsksForEachKindOfAnswer(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	g := s.screen(100, 45)
	typed := s.job(repo, nil, func(r *wire.Request) { r.TypeMatch = true })
	s.relay.Ask(typed)
	g.shows("verified: electron/asar wants a code")
	g.press("\r")
	g.shows("#1 match code from the job's log:")
	g.press("AAAA-BBBB-CCCC\r")
	g.shows("that is not this request's match code")
	g.press(seal.Match(typed.Digest) + "\r")
	g.shows("#1 code, 6 digits:")
	g.press(code + "\r")
	if c := got(t, typed); c != code {
		t.Errorf("the job opened %q", c)
	}
	s.relay.Set(typed, func(i *wire.Item) { i.State.State = "done" })
	g.shows("nothing waits")

	yes := s.job(repo, nil, func(r *wire.Request) {
		r.Ask, r.Format, r.Approvals, r.Responders = wire.AskApproval, "any", 1, []string{s.sign}
		r.Artifacts = []wire.Artifact{{Name: "asar-1.2.3.tgz", SHA256: wire.Digest{0xab, 0xcd}, Size: 1234, Package: "@electron/asar", Version: "1.2.3"}}
	})
	s.relay.Ask(yes)
	g.shows("verified: electron/asar wants your yes")
	g.shows("asar-1.2.3.tgz")
	g.press("\r")
	g.shows("which is your yes:")
	g.press(seal.Match(yes.Digest) + "\r")
	until(t, func() bool { return len(s.relay.Yeses(yes)) == 1 })
}

// A screen attached to the background program knows what was over before.
func TestTheScreenAttachesAndKnowsThePast(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	s.background("ask: []\n")
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	until(t, func() bool { _, _, exit := s.says("", "decline", "1", "--reason", "not mine"); return exit == 0 })
	until(t, func() bool { out, _, _ := s.says("", "list"); return out == "nothing waits\n" })
	g := s.glassOf(exec.Command("cfa-responder", "screen", "--socket", s.socket), 100, 30)
	g.shows("nothing waits")
	g.press("h")
	g.shows("you declined")
	g.press("x")
	k := s.job(repo, nil, nil)
	s.relay.Ask(k)
	g.shows("verified: electron/asar wants a code")
	g.press("q")
	if err := g.ends(); err != nil {
		t.Errorf("it left with %v", err)
	}
	if _, _, exit := s.says("", "status"); exit != 0 {
		t.Error("it took the background program with it")
	}
}

func TestASmallScreenShowsAllOfItByScrolling(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	g := s.screen(40, 16)
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	g.shows("more lines: PgDn")
	for range 12 {
		if strings.Contains(g.text(), "time left") {
			break
		}
		g.press("\x1b[6~")
	}
	g.shows("time left")
}

// Whatever a relay and a job say, no control character of theirs is drawn, and no
// line is longer or more than the screen.
func FuzzScreen(f *testing.F) {
	f.Add("electron/asar", "release \x1b[2Jv1\u202egpj", "why\nnot", 80, 24)
	f.Add("\u200b\u2066x", strings.Repeat("語", 300), "\x9b31m", 20, 8)
	f.Fuzz(func(t *testing.T, repository, message, why string, width, height int) {
		if len(repository)+len(message)+len(why) > 4<<10 {
			return // the desk cuts them much shorter
		}
		width, height = 20+abs(width)%200, 8+abs(height)%80
		m := &sheet{desk: deaf{}, now: time.Now, prompts: map[string]answer.Prompt{}, width: width, height: height, colour: width%2 == 0}
		for i, standing := range []answer.Standing{answer.Unopened, answer.Verified, answer.Foreign, answer.Unproven} {
			m.news(answer.News{Prompt: &answer.Prompt{
				ID: fmt.Sprint(i), Number: i + 1, Phase: answer.Asking, Standing: standing, Why: why, Message: message, Details: message,
				Answerable: standing == answer.Verified, Facts: answer.Facts{Repository: repository, Workflow: message, Ref: why}, Note: why, Opened: message,
				Link: "https://" + message, LinkHost: repository, Artifacts: []answer.Artifact{{Name: message}}, Deadline: time.Now().Add(time.Hour),
			}})
			m.chosen = fmt.Sprint(i)
			for _, field := range []*field{nil, {kind: enterCode, id: m.chosen, wrong: why}, {kind: enterOpen, id: m.chosen, void: why}} {
				m.field, m.notice = field, message
				lines := m.paint()
				if len(lines) > height {
					t.Fatalf("%d lines on a screen of %d", len(lines), height)
				}
				for _, l := range lines {
					for _, style := range []string{bold, dim, reverse, green, red, yellow, plainly} {
						l = strings.ReplaceAll(l, style, "")
					}
					if i := strings.IndexFunc(l, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
						t.Fatalf("drawn: %q", l)
					}
				}
			}
		}
	})
}

func abs(n int) int { return max(n, -(n + 1)) }

// deaf is a desk that does nothing.
type deaf struct{ answer.Decisions }

func (deaf) Open(string) {}
