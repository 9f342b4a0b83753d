package main

// How a prompt is put into words, for every way to ask that is made of lines:
// in a fixed order, only what was verified, in ASCII.

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

// teller writes what happens to prompts.
type teller struct {
	write func(text string) // whole lines
	plain bool              // for a program: every line begins with what it is about
	mute  bool              // nobody can type: say nothing of how to answer
	now   func() time.Time
	told  map[string]telling
	block *strings.Builder // gathers what belongs together; nil: nothing is gathered
}

// together writes what f says in one piece, so that nothing comes between and a
// terminal repaints its question once.
func (t *teller) together(f func()) {
	if t.block != nil {
		f()
		return
	}
	t.block = &strings.Builder{}
	f()
	text := t.block.String()
	t.block = nil
	if text != "" {
		t.write(text)
	}
}

func (t *teller) put(text string) {
	if t.block != nil {
		t.block.WriteString(text)
		return
	}
	t.write(text)
}

// telling is what was last said of a prompt.
type telling struct {
	prompt    answer.Prompt // the newest
	standing  answer.Standing
	attempt   int
	why       string
	typeMatch bool
}

// say writes one statement about a prompt, or about nothing if number is 0.
func (t *teller) say(number int, label, text string) {
	about := ""
	if number > 0 {
		about = fmt.Sprintf("#%d ", number)
	}
	var b strings.Builder
	for i, line := range strings.Split(text, "\n") {
		switch {
		case i == 0 || t.plain:
			fmt.Fprintf(&b, "%s%s: %s\n", about, label, line)
		default:
			fmt.Fprintf(&b, "    %s\n", line)
		}
	}
	t.put(b.String())
}

// news says what has changed about a prompt. It reports whether the prompt is
// seen for the first time.
func (t *teller) news(p answer.Prompt) (first bool) {
	t.together(func() { first = t.changed(p) })
	return first
}

func (t *teller) changed(p answer.Prompt) (first bool) {
	if t.told == nil {
		t.told = map[string]telling{}
	}
	old, seen := t.told[p.ID]
	next := old
	next.prompt = p
	if p.Note != "" && p.Note != old.prompt.Note {
		t.say(p.Number, "note", p.Note)
	}
	switch p.Phase {
	case answer.Over:
		t.say(p.Number, "over", p.Why)
		delete(t.told, p.ID)
		return false
	case answer.Resting:
		if old.prompt.Phase != answer.Resting && p.Note == old.prompt.Note {
			t.say(p.Number, "answered", p.Why)
		}
		next.standing = "" // should it come back, it is told anew
	case answer.Asking:
		t.asking(p, seen, old, &next)
	case answer.Sending:
	}
	t.told[p.ID] = next
	return !seen
}

func (t *teller) asking(p answer.Prompt, seen bool, old telling, next *telling) {
	if !seen {
		t.say(p.Number, "new", "a request in the project "+p.Project+"; "+p.Why)
		next.why = p.Why
	}
	switch p.Standing {
	case answer.Unopened, answer.Checking:
		return
	}
	if p.Standing == old.standing && p.Attempt == old.attempt && p.Why == old.why {
		if p.TypeMatch && !old.typeMatch {
			t.say(p.Number, "careful", "another request of the project is open too: for this one you now have to type the match code that its job's log shows")
		}
		next.typeMatch = p.TypeMatch
		return
	}
	next.standing, next.attempt, next.why, next.typeMatch = p.Standing, p.Attempt, p.Why, p.TypeMatch
	t.describe(p)
	switch {
	case t.mute || !known(p.Standing):
	case p.Answerable && p.TypeMatch:
		t.say(p.Number, "your turn", fmt.Sprintf("type %d, then the match code from the job's log, then the code (%s); or d%d to decline", p.Number, p.Format, p.Number))
	case p.Answerable:
		t.say(p.Number, "your turn", fmt.Sprintf("type %d, then the code (%s); or d%d to decline", p.Number, p.Format, p.Number))
	default:
		t.obstacle(p)
	}
}

// obstacle says that a prompt which is shown with its facts cannot be answered
// all the same.
func (t *teller) obstacle(p answer.Prompt) {
	switch {
	case p.Answerable || !known(p.Standing):
	case p.Standing == answer.Verified:
		t.say(p.Number, "not answerable", p.Why)
	default: // the why has just been said
		t.say(p.Number, "not answerable", fmt.Sprintf("d%d declines it", p.Number))
	}
}

// known says whether anything is known of a prompt's job.
func known(s answer.Standing) bool {
	return s == answer.Verified || s == answer.Foreign || s == answer.Unpinned
}

// describe says all that may be said of a prompt.
func (t *teller) describe(p answer.Prompt) {
	switch p.Standing {
	case answer.Verified:
		t.say(p.Number, "verified", fmt.Sprintf("%s asks for a code for %s, in the project %s", p.Facts.Repository, p.Service, p.Project))
	case answer.Foreign:
		t.say(p.Number, "mismatch", p.Why)
	case answer.Unpinned:
		t.say(p.Number, "not pinned", p.Why)
	default:
		t.say(p.Number, string(p.Standing), p.Why)
		return
	}
	t.details(p)
}

// details are the facts. Everything down to the run comes from the verified ID
// token.
func (t *teller) details(p answer.Prompt) {
	f := p.Facts
	commit := f.SHA
	if len(commit) > 12 {
		commit = commit[:12]
	}
	message := "nothing"
	if p.Message != "" {
		message = fmt.Sprintf("%q (its own words, which nobody has checked)", p.Message)
	}
	match := p.Match + " (the job's log must show the same)"
	if p.TypeMatch {
		match = "to be typed: read it off the job's log"
	}
	rows := [][2]string{
		{"repository", quoted(f.Repository)},
		{"workflow", quoted(wire.Clean(f.Workflow, mostName))},
		{"file", quoted(f.WorkflowFile)},
		{"ref", quoted(f.Ref)},
		{"commit", quoted(commit)},
		{"environment", quoted(wire.Clean(f.Environment, mostName))},
		{"event", quoted(f.Event)},
		{"started by", quoted(f.Actor)},
		{"run", quoted(f.RunURL)},
		{"asked at", fmt.Sprintf("%s (%s ago, by the job's clock)", p.Since.Local().Format("15:04:05"), span(t.now().Sub(p.Since)))},
	}
	if why := attemptReason(p); why != "" {
		rows = append(rows, [2]string{"again", why})
	}
	rows = append(rows,
		[2]string{"the job says", message},
		[2]string{"match code", match},
		[2]string{"time left", span(p.Deadline.Sub(t.now()))},
	)
	var b strings.Builder
	for _, row := range rows {
		value := row[1]
		if value == "" {
			value = "-"
		}
		for i, line := range wrap(value) {
			switch {
			case t.plain && i == 0:
				fmt.Fprintf(&b, "#%d %s: %s\n", p.Number, row[0], line)
			case t.plain:
				fmt.Fprintf(&b, "#%d %s | %s\n", p.Number, row[0], line)
			case i == 0:
				fmt.Fprintf(&b, "    %-13s %s\n", row[0], line)
			default:
				fmt.Fprintf(&b, "    %-13s | %s\n", "", line)
			}
		}
	}
	t.put(b.String())
}

const (
	// mostName bounds the names that a job's author makes up freely.
	mostName = 40
	// rowWidth is the columns of a row's value: with what stands before it, a
	// row fits a terminal of 80.
	rowWidth = 60
)

// quoted shows where a value with spaces ends, so that no part of it can be taken
// for a remark of ours.
func quoted(s string) string {
	if strings.Contains(s, " ") {
		return fmt.Sprintf("%q", s)
	}
	return s
}

// wrap breaks a row's value where a terminal would break it: what the terminal
// puts at the beginning of a line could be read as a row of its own. A value
// without spaces cannot, and stays whole, so that a link can be followed.
func wrap(s string) (lines []string) {
	if !strings.Contains(s, " ") {
		return []string{s}
	}
	for {
		n := fitting(s)
		if n == len(s) {
			return append(lines, s)
		}
		if space := strings.LastIndexByte(s[:n], ' '); space > 0 {
			n = space + 1
		}
		lines = append(lines, strings.TrimSuffix(s[:n], " "))
		s = s[n:]
	}
}

// fitting gives how many bytes of s fit a row.
func fitting(s string) int {
	columns := 0
	for i, r := range s {
		columns++
		if r >= 0x1100 { // Han, kana and Hangul are twice as wide
			columns++
		}
		if columns > rowWidth {
			return i
		}
	}
	return len(s)
}

// attemptReason says why there is another attempt, as the job signed it.
func attemptReason(p answer.Prompt) string {
	switch p.Reason {
	case wire.ReasonRejected:
		return fmt.Sprintf("the last code was refused; this is attempt %d", p.Attempt)
	case wire.ReasonUndelivered:
		return fmt.Sprintf("the last answer never reached the job; this is attempt %d", p.Attempt)
	case wire.ReasonNext:
		return fmt.Sprintf("the last code was good, and one more is needed; this is attempt %d", p.Attempt)
	}
	return ""
}

// summary is a prompt on one line.
func (t *teller) summary(p answer.Prompt) {
	what := "a request in the project " + p.Project
	if p.Facts.Repository != "" {
		what = fmt.Sprintf("%s, for %s, in the project %s", p.Facts.Repository, p.Service, p.Project)
	}
	state := string(p.Standing)
	if p.Phase != answer.Asking {
		state = string(p.Phase)
	}
	t.say(p.Number, state, what+"; "+span(p.Deadline.Sub(t.now()))+" left")
}

// span is a duration for people: 20 s, 29 min 40 s, 5 h 12 min.
func span(d time.Duration) string {
	d = max(0, d.Round(time.Second))
	h, min, s := int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60
	switch {
	case h > 0:
		return fmt.Sprintf("%d h %d min", h, min)
	case min > 0:
		return fmt.Sprintf("%d min %d s", min, s)
	}
	return fmt.Sprintf("%d s", s)
}

// harmless is the last thing that happens to text on its way to a terminal. The
// desk has cleaned all that comes from outside; this is for the day on which
// something slips past it.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
