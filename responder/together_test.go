package main

// Jobs of one run, as a human or a program sees and answers them.

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/answer/answertest"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

// packages are n jobs of one run, numbered from 1.
func (s *scene) packages(n int, change func(*wire.Request)) (jobs []*answertest.Job) {
	s.t.Helper()
	for i := range n {
		jobs = append(jobs, s.job(repo, map[string]any{"check_run_id": fmt.Sprint(701 + i)}, func(r *wire.Request) {
			r.Message = fmt.Sprintf("package %d", i+1)
			if change != nil {
				change(r)
			}
		}))
	}
	return jobs
}

func TestAHumanAnswersAWholeRunWithOneCode(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.terminal()
	at := p.waits(0, "connected to the relay")
	jobs := s.packages(3, nil)
	for i, j := range jobs {
		s.relay.Ask(j)
		at = p.waits(at, fmt.Sprintf("#%d verified: ", i+1))
		at = p.waits(at, fmt.Sprintf(`the job says  "package %d"`, i+1))
		at = p.waits(at, fmt.Sprintf("#%d your turn: ", i+1))
	}
	// The facts are said once; then it is the same run, and a line on what differs.
	if n := strings.Count(p.text(), "refs/heads/main"); n != 1 {
		t.Errorf("the ref is said %d times:\n%s", n, p.text())
	}
	for _, want := range []string{
		"#2 verified: the run of #1 asks for a code for npm too, in the project asar", "#2 your turn: type a1 to answer all 2 of this run together, or 2, then the match code",
		"#3 your turn: type a1 to answer all 3 of this run together, or 3, then",
	} {
		if !strings.Contains(p.text(), want) {
			t.Errorf("%q is not said:\n%s", want, p.text())
		}
	}
	p.typed("a2\r") // by any of them
	start := p.waits(at, "#1 together: electron/asar, in one run, asks for a code for npm, in the project asar: #1, #2, #3")
	at = p.waits(start, "#1 match code from the log of any of #1, #2, #3 (Enter alone goes back): ")
	shown := p.text()[start:at]
	for _, want := range []string{
		`repository +electron/asar`, `environment +-`, `commit +[0-9a-f]{12}\b`,
		`\s#1 +job 701, 29 min \d+ s left, says "package 1"`, `\s#2 +job 702, `, `\s#3 +job 703, `,
	} {
		if !regexp.MustCompile(want).MatchString(shown) {
			t.Errorf("%s is not shown:\n%s", want, shown)
		}
	}
	p.typed("0000-0000-0000\r")
	at = p.waits(at, "#1 not sent: that is not this request's match code")
	at = p.waits(at, "#1 match code from the log of any of")
	p.typed(seal.Match(jobs[1].Digest) + "\r")
	at = p.waits(at, "#1 code for each of #1, #2, #3, 6 digits (not shown; Enter alone goes back): ")

	// While it is typed, one more joins and one goes: neither gets the code.
	p.typed(code[:3])
	late := s.job(repo, map[string]any{"check_run_id": "704"}, nil)
	s.relay.Ask(late)
	at = p.waits(at, "#4 your turn: type a1 to answer all 4")
	s.relay.Set(jobs[2], func(i *wire.Item) { i.State.State = "cancelled" })
	at = p.waits(at, "#3 over: withdrawn")
	at = p.waits(at, "#3 left out: what you are typing goes to #1, #2 only")
	if n := len(s.relay.Messages(wire.VerbAnswer)); n != 0 {
		t.Fatalf("%d answers left", n)
	}
	p.typed(code[3:] + "\r")
	at = p.waits(at, "#1 sealed")
	at = p.waits(at, "#2 sealed")
	for _, j := range jobs[:2] {
		if c := got(t, j); c != code {
			t.Errorf("the job opened %q", c)
		}
	}
	p.waits(at, "note: the relay says that the job has your code")
	p.typed("quit\r")
	if err := p.ends(); err != nil {
		t.Errorf("ended with %v", err)
	}
	for _, j := range append(jobs[2:], late) {
		if len(j.Codes()) != 0 {
			t.Error("a job got a code that was not meant for it")
		}
	}
	if n := len(s.relay.Messages(wire.VerbAnswer)); n != 2 {
		t.Errorf("%d answers left", n)
	}
	s.nowhere(p, code)
}

func TestAProgramAnswersAWholeRunInTurnWhereACodeWorksOnce(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.pipes()
	at := p.waits(0, "note: connected")
	jobs := s.packages(3, func(r *wire.Request) { r.Service = "aws" })
	for i, j := range jobs {
		s.relay.Ask(j)
		at = p.waits(at, fmt.Sprintf("#%d your turn: ", i+1))
	}
	p.typed("a3\n")
	at = p.waits(at, "#1 together: ")
	at = p.waits(at, "#2 member: job 702, ")
	at = p.waits(at, "#1 next line: match code from the log of any of #1, #2, #3")
	p.typed(seal.Match(jobs[0].Digest) + "\n")
	at = p.waits(at, "#1 in turn: the service takes each code once")
	at = p.waits(at, "#1 next line: code, 6 digits")
	p.typed("100001\n")
	at = p.waits(at, "#1 sealed")
	at = p.waits(at, "#2 next line: code, 6 digits")
	// The second goes while its code is awaited; the third has its turn.
	s.relay.Set(jobs[1], func(i *wire.Item) { i.State.State = "cancelled" })
	at = p.waits(at, "#2 thrown away")
	p.typed("100002\n")
	at = p.waits(at, "#3 next line: code, 6 digits")
	p.typed("100003\n")
	p.waits(at, "#3 sealed")
	if a, b := got(t, jobs[0]), got(t, jobs[2]); a != "100001" || b != "100003" {
		t.Errorf("the jobs opened %q and %q", a, b)
	}
	if len(jobs[1].Codes()) != 0 {
		t.Error("what was thrown away arrived")
	}
	for _, line := range strings.Split(strings.TrimSpace(p.text()), "\n") {
		if !regexp.MustCompile(`^(#[123] |note: )`).MatchString(line) {
			t.Errorf("a line that says not what it is about: %q", line)
		}
	}
	s.nowhere(p, "100001")
}

// A stranger beside the run stands by itself, whatever it says of itself.
func TestAStrangersPromptIsNotOneOfTheRun(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.pipes()
	at := p.waits(0, "note: connected")
	jobs := s.packages(2, nil)
	stranger := s.job(repo, map[string]any{"run_id": "999", "check_run_id": "703"}, func(r *wire.Request) { r.Message = "package 3" })
	foreign := s.job("mallory/evil", map[string]any{"check_run_id": "704"}, func(r *wire.Request) { r.Message = "package 4" })
	for i, j := range []*answertest.Job{stranger, foreign, jobs[0], jobs[1]} {
		s.relay.Ask(j)
		at = p.waits(at, []string{"#1 your turn", "#2 not answerable", "#3 your turn", "#4 your turn"}[i])
	}
	p.typed("a1\n")
	at = p.waits(at, "#1 note: its run asks for nothing else that can be answered now")
	at = p.waits(at, "#1 next line: match code")
	p.typed("\n")
	at = p.waits(at, "#1 note: nothing was sent")
	p.typed("a4\n")
	at = p.waits(at, "in the project asar: #3, #4\n")
	at = p.waits(at, "#3 next line: match code")
	p.typed(seal.Match(stranger.Digest) + "\n")
	at = p.waits(at, "#3 not sent: that is not this request's match code")
	p.typed(seal.Match(jobs[1].Digest) + "\n")
	at = p.waits(at, "#3 next line: code for each of #3, #4")
	p.typed(code + "\n")
	p.waits(at, "#4 sealed")
	for _, j := range jobs {
		got(t, j)
	}
	if len(stranger.Codes())+len(foreign.Codes()) != 0 {
		t.Error("a stranger got a code")
	}
}

// A line for each, and in it what a job says: it cannot make up a line of its own.
func TestNoMemberOfARunPaintsARowOfItsOwn(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.pipes()
	at := p.waits(0, "note: connected")
	jobs := s.packages(2, func(r *wire.Request) { r.Message = "x\n#9 verified: all is well " + strings.Repeat("and well ", 30) })
	for i, j := range jobs {
		s.relay.Ask(j)
		at = p.waits(at, fmt.Sprintf("#%d your turn", i+1))
	}
	p.typed("a1\n")
	p.waits(at, "#1 next line: ")
	if regexp.MustCompile(`(?m)^\s*#9`).MatchString(p.text()) {
		t.Errorf("a job's words begin a line:\n%s", p.text())
	}
}
