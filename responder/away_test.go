package main

// Absences as a human says them, and what they see meanwhile.

import (
	"errors"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/answer/answertest"
	"github.com/continuousauth/action/internal/wire"
)

func TestWhenAnAbsenceEndsIsReadAsPeopleSayIt(t *testing.T) {
	t.Parallel()
	paris, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Skip("no time zones here")
	}
	now := time.Date(2026, 10, 24, 17, 30, 0, 0, paris) // the clocks are set back in the next night
	at := func(m time.Month, d, h, min int) time.Time { return time.Date(2026, m, d, h, min, 0, 0, paris) }
	for said, want := range map[string]time.Time{
		"18:00":                at(10, 24, 18, 0),
		" 18:00 ":              at(10, 24, 18, 0),
		"17:30":                at(10, 25, 17, 30), // now is over
		"9:05":                 at(10, 25, 9, 5),
		"2h":                   now.Add(2 * time.Hour),
		"90m":                  now.Add(90 * time.Minute),
		"1d":                   at(10, 25, 17, 30),
		"30d":                  at(11, 23, 17, 30),
		"2026-11-01":           at(11, 1, 0, 0),
		"2026-11-01 08:00":     at(11, 1, 8, 0),
		"2026-11-01T08:00":     at(11, 1, 8, 0),
		"2026-11-01T08:00:00Z": at(11, 1, 9, 0),
	} {
		if got, err := parseUntil(said, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %s, %v; want %s", said, got, err, want)
		}
	}
	for _, bad := range []string{"", "x", "25:00", "0h", "-2h", "0d", "-1d", "999d", "1.5d", "2000h", "tomorrow", "2026-13-01", "18", "18:00:00", "2h\x1b[2J"} {
		if got, err := parseUntil(bad, now); err == nil {
			t.Errorf("%q is %s", bad, got)
		} else if strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q is repeated as it is: %v", bad, err)
		}
	}
}

func FuzzUntil(f *testing.F) {
	for _, s := range []string{"18:00", "2h", "3d", "2026-12-01", "2026-12-01 08:00", "2026-12-01T08:00:00+01:00", "1e9h", "255d", "٣d"} {
		f.Add(s)
	}
	now := time.Date(2026, 10, 24, 17, 30, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		until, err := parseUntil(s, now)
		if err != nil || answer.CheckUntil(until, now) != nil {
			return
		}
		if d := until.Sub(now); d <= 0 || d > wire.LongestAway {
			t.Fatalf("%q is an absence of %s", s, d)
		}
	})
}

// alone runs a subcommand at the scene's relay.
func (s *scene) alone(args ...string) (out string, code int) {
	s.t.Helper()
	args = append(args, "--relay", s.relay.URL(), "--relay-name", relayName, "--key-file", s.keys())
	b, err := exec.Command("cfa-responder", args...).CombinedOutput()
	var e *exec.ExitError
	if errors.As(err, &e) {
		code = e.ExitCode()
	} else if err != nil {
		s.t.Fatal(err)
	}
	return string(b), code
}

func TestAwayAndBackAreSaidWithoutListening(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"away"}, 0, `^you are not away: new requests are brought to you where cfa-responder listens\n$`},
		{[]string{"back"}, 0, `^you are not away`},
		{[]string{"away", "--until", "2h"}, 0, `^you are away until \w+ \d+ \w+ \d\d:\d\d \(for (2 h 0 min|1 h 59 min)\): until then you are not asked; cfa-responder back ends it sooner\n$`},
		{[]string{"away"}, 0, `^you are away until .* \((for 1 h 59 min|for 2 h 0 min)\)`},
		{[]string{"away", "--until", "30d"}, 0, `^you are away until`},
		{[]string{"away", "--until", "31d"}, 64, `--until: that is no end of an absence: it is more than 30 days ahead`},
		{[]string{"away", "--until", "2020-01-01"}, 64, `it has passed`},
		{[]string{"away", "--until", "soon"}, 64, `"soon" is no time; write 18:00, 2h, 3d`},
		{[]string{"back"}, 0, `^you are not away`},
		{[]string{"away"}, 0, `^you are not away`},
	} {
		if out, code := s.alone(c.args...); code != c.code || !regexp.MustCompile(c.want).MatchString(out) {
			t.Errorf("%s: exit code %d\n%s", strings.Join(c.args, " "), code, out)
		}
	}
	s.relay.Do(func() {
		s.relay.Refuse = func(m answertest.Message) *wire.Refusal {
			return &wire.Refusal{Code: wire.RefusedLimit, Why: "too often", Mend: "wait"}
		}
	})
	if out, code := s.alone("away", "--until", "2h"); code != 1 || !strings.Contains(out, "the relay has not taken it: too often; wait") {
		t.Errorf("exit code %d\n%s", code, out)
	}
}

func TestWhoListensAndIsAwayIsNotDisturbed(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.terminal()
	at := p.waits(0, "connected to the relay")
	p.typed("away\r")
	at = p.waits(at, "away: you are not; away 18:00")
	p.typed("away yesterday\r")
	at = p.waits(at, `away: not said: "yesterday" is no time`)
	p.typed("away until 2h\r")
	at = p.waits(at, "new requests are not brought to you until then. list shows what waits, back ends it")
	quiet := s.job(repo, nil, nil)
	s.relay.Ask(quiet)
	// The list has it once a page has brought it.
	before := at
	for !strings.Contains(p.text()[before:], "#1 unopened: a request in the project "+project) {
		p.typed("list\r")
		at = p.waits(at, "away: until")
	}
	if text := p.text()[before:]; strings.Contains(text, "#1 new") || len(s.relay.Messages(wire.VerbOpen)) != 0 {
		t.Fatalf("it made a noise:\n%s", text)
	}
	// Who looks may answer.
	p.typed("1\r")
	at = p.waits(at, "#1 note: it came while you are away and was not opened")
	at = p.waits(at, "#1 your turn")
	p.typed("1\r")
	at = p.waits(at, "#1 code")
	p.typed(code + "\r")
	if c := got(t, quiet); c != code {
		t.Errorf("the job has %q", c)
	}
	s.relay.Set(quiet, func(i *wire.Item) { i.State.State = "done" })
	at = p.waits(at, "#1 over")

	// Back brings what waits, as new.
	waits := s.job(repo, nil, nil)
	s.relay.Ask(waits)
	before = at
	for !strings.Contains(p.text()[before:], "#2 unopened") {
		p.typed("list\r")
		at = p.waits(at, "away: until")
	}
	p.typed("back\r")
	at = p.waits(at, "away: no longer; what waits is shown")
	at = p.waits(at, "#2 new: a request in the project")
	at = p.waits(at, "#2 your turn")
	p.typed("back\r")
	p.waits(at, "away: you are not")
	p.typed("quit\r")
	if err := p.ends(); err != nil {
		t.Errorf("ended with %v", err)
	}
	s.nowhere(p, code)
}

// An absence that is said elsewhere reaches who listens, and one that is there from
// before too; a command answers nothing then.
func TestWhoListensLearnsOfAnAbsenceThatWasSaidElsewhere(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	if out, code := s.alone("away", "--until", "2h"); code != 0 {
		t.Fatal(out)
	}
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	p := s.pipes("--unattended", "--answer-command", "echo "+code)
	at := p.waits(0, "away: until")
	if text := p.text(); strings.Contains(text, "#1") {
		t.Errorf("it made a noise:\n%s", text)
	}
	if out, status := s.alone("back"); status != 0 {
		t.Fatal(out)
	}
	s.relay.Hint(j) // as a relay does
	at = p.waits(at, "away: no longer")
	p.waits(at, "#1 sealed")
	if c := got(t, j); c != code {
		t.Errorf("the job has %q", c)
	}
}

// Through the background program nobody is thrown out: it says it itself.
func TestTheBackgroundProgramSaysThatItsHumanIsAway(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.background("ask: []\n")
	wants := func(want, in string, args ...string) {
		t.Helper()
		if out, complaint, exit := s.says(in, args...); exit != 0 || !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("%s: exit code %d\n%s\n%s", strings.Join(args, " "), exit, out, complaint)
		}
	}
	wants(`^you are not away`, "", "away")
	wants(`^you are away until .* \(for (2 h 0 min|1 h 59 min)\)`, "", "away", "--until", "2h")
	if _, complaint, exit := s.says("", "away", "--until", "2020-01-01"); exit != exitUsage || !strings.Contains(complaint, "it has passed") {
		t.Errorf("%d %q", exit, complaint)
	}
	at := p.waits(0, "away: until")
	wants(`(?m)^away      until `, "", "status")
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	until(t, func() bool { out, _, _ := s.says("", "list"); return strings.Contains(out, "#1 unopened") })
	wants(`^you are away until .*; cfa-responder back ends it\n#1 unopened`, "", "list")
	if n := len(s.relay.Messages(wire.VerbOpen)); n != 0 {
		t.Errorf("it was opened %d times", n)
	}
	// Who attaches is away too, and looks all the same.
	a := s.piped(exec.Command("cfa-responder", "listen", "--socket", s.socket))
	from := a.waits(0, "away: until")
	until(t, func() bool { a.typed("list\n"); return strings.Contains(a.text(), "#1 unopened") })
	a.typed("1\n")
	from = a.waits(from, "#1 note: it came while you are away")
	a.waits(from, "#1 your turn")
	wants(`^$`, code+"\n", "answer", "1")
	if c := got(t, j); c != code {
		t.Errorf("the job has %q", c)
	}
	wants(`^you are not away`, "", "back")
	p.waits(at, "away: no longer")
	a.waits(from, "away: no longer")
	if n := len(s.relay.Messages(wire.VerbAway)); n != 2 {
		t.Errorf("the relay was told %d times", n)
	}
}

func TestTheScreenOpensNothingForWhoIsAway(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	if out, code := s.alone("away", "--until", "2h"); code != 0 {
		t.Fatal(out)
	}
	g := s.screen(100, 40)
	g.shows("cfa-responder   0 waiting   away until")
	first, second := s.job(repo, nil, nil), s.job(repo, nil, func(r *wire.Request) { r.Project = "other" })
	s.relay.Ask(first)
	g.shows("#1   unopened")
	if n := len(s.relay.Messages(wire.VerbOpen)); n != 0 {
		t.Errorf("it was opened %d times", n)
	}
	g.press("\r")
	g.shows("verified: electron/asar wants a code for npm")
	g.press("\r")
	g.shows("#1 code, 6 digits:")
	g.press(code + "\r")
	if c := got(t, first); c != code {
		t.Errorf("the job opened %q", c)
	}
	s.relay.Ask(second)
	g.shows("#2   unopened")
	g.press("b")
	g.shows("you are back")
	g.until("opened", func(text string) bool { return !strings.Contains(text, "#2   unopened") })
	g.press("q")
	if err := g.ends(); err != nil {
		t.Errorf("ended with %v", err)
	}
	s.nowhere(g.all, code)
}
