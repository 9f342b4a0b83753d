package main

// How a prompt is put into words, for every way to ask that is made of lines:
// in a fixed order, only what was verified, in ASCII.

import (
	"fmt"
	"slices"
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

// absence says that the human is away, or is back.
func (t *teller) absence(a answer.Absence) {
	if a.Until.IsZero() {
		t.say(0, "away", "no longer; what waits is shown, and new requests are brought to you")
		return
	}
	t.say(0, "away", untilWords(a.Until, t.now())+"; new requests are not brought to you until then. list shows what waits, back ends it")
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
		if p.Link != "" && p.Link != old.prompt.Link {
			t.say(p.Number, "new link", p.Link)
		}
		next.typeMatch = p.TypeMatch
		return
	}
	next.standing, next.attempt, next.why, next.typeMatch = p.Standing, p.Attempt, p.Why, p.TypeMatch
	if first, kin := t.kin(p); kin > 0 {
		t.joins(p, first)
		if p.Answerable && !t.mute {
			t.say(p.Number, "your turn", fmt.Sprintf("type a%d to answer all %d of this run together, or %s", first.Number, kin+1, strings.TrimPrefix(t.turn(p), "type ")))
			return
		}
	} else {
		t.describe(p)
	}
	switch {
	case t.mute || !known(p.Standing):
	case p.Answerable:
		t.say(p.Number, "your turn", t.turn(p))
	default:
		t.obstacle(p)
	}
}

// turn says what a human can do with a prompt now.
func (t *teller) turn(p answer.Prompt) string {
	n := p.Number
	how := ""
	switch {
	case p.Yes && p.Ask == wire.AskCode:
		how = fmt.Sprintf("type %d, then the match code from the job's log, which is your yes; another person gives the code", n)
	case p.Yes:
		how = fmt.Sprintf("type %d, then the match code from the job's log, which is your yes", n)
	case p.Ask == wire.AskLink && p.LinkHost == "":
		how = "run the command above, on a computer of your own; the job sees by itself when that is done"
	case p.Ask == wire.AskLink && p.TypeMatch:
		how = fmt.Sprintf("type %d, then the match code from the job's log; then the link is shown", n)
	case p.Ask == wire.AskLink && t.plain:
		how = "follow the link; the job sees by itself when that is done"
	case p.Ask == wire.AskLink:
		how = fmt.Sprintf("follow the link, or type o%d to open it in your browser; the job sees by itself when that is done", n)
	case p.TypeMatch:
		how = fmt.Sprintf("type %d, then the match code from the job's log, then the code (%s)", n, p.Format)
	default:
		how = fmt.Sprintf("type %d, then the code (%s)", n, p.Format)
	}
	if p.Source != "" {
		how += fmt.Sprintf("; or u%d to have it from %s", n, p.Source)
	}
	if p.Details != "" {
		how += fmt.Sprintf("; i%d for details", n)
	}
	return how + fmt.Sprintf("; or d%d to decline", n)
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
		t.say(p.Number, "verified", fmt.Sprintf("%s %s %s, in the project %s", p.Facts.Repository, asks(asked(p)), p.Service, p.Project))
	case answer.Foreign:
		t.say(p.Number, "mismatch", p.Why)
	case answer.Unpinned:
		t.say(p.Number, "not pinned", p.Why)
	default:
		t.say(p.Number, string(p.Standing), p.Why)
		return
	}
	if said := firstSight(p); said != "" {
		t.say(p.Number, "first sight", said)
	}
	t.details(p)
}

// firstSight says which facts of a verified prompt its human meets for the first
// time; "" where there are none.
func firstSight(p answer.Prompt) string {
	if len(p.New) == 0 {
		return ""
	}
	var names []string
	for _, name := range p.New {
		names = append(names, map[string]string{
			answer.NewRepository: "the repository", answer.NewWorkflow: "the workflow", answer.NewRef: "the ref", answer.NewEnvironment: "the environment", answer.NewActor: "who started it",
		}[name])
	}
	list := names[len(names)-1]
	if n := len(names) - 1; n > 0 {
		list = strings.Join(names[:n], ", ") + " and " + list
	}
	return "not in anything that you have answered of this project before: " + list
}

// marked is a fact's text, with a mark where it is met for the first time. A name
// with a space in it is quoted, so that none can bring its own mark.
func marked(p answer.Prompt, fact, text string) string {
	if !slices.Contains(p.New, fact) {
		return text
	}
	if text == "" {
		text = "-"
	}
	return text + " (new)"
}

// sentence says of a verified prompt what wants what of whom. Every way to ask
// begins with it. Nothing in it is the job's own word but the service's name, which
// is one of a list or has no spaces.
func sentence(p answer.Prompt, now time.Time) string {
	f := p.Facts
	what := "a code"
	switch asked(p) {
	case wire.AskLink:
		what = "you to follow a link"
	case wire.AskApproval:
		what = "your yes"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s wants %s for %s", quoted(f.Repository), what, p.Service)
	switch {
	case f.Workflow != "":
		fmt.Fprintf(&b, ", in its workflow %q", wire.Clean(f.Workflow, mostName))
	case f.WorkflowFile != "":
		fmt.Fprintf(&b, ", in its workflow %s", quoted(f.WorkflowFile))
	}
	if f.Ref != "" {
		ref := f.Ref
		for _, known := range [][2]string{{"refs/heads/", "branch "}, {"refs/tags/", "tag "}} {
			if name, ok := strings.CutPrefix(ref, known[0]); ok {
				ref = known[1] + name
			}
		}
		fmt.Fprintf(&b, " on %s", ref)
	}
	if f.Actor != "" {
		fmt.Fprintf(&b, ", started by %s", quoted(f.Actor))
	}
	fmt.Fprintf(&b, ", %s ago", span(now.Sub(p.Since)))
	return b.String()
}

// asks says what is asked for.
func asks(ask string) string {
	switch ask {
	case wire.AskLink:
		return "asks you to follow a link for"
	case wire.AskApproval:
		return "asks for your yes, for"
	}
	return "asks for a code for"
}

// details are the facts. Everything down to the run comes from the verified ID
// token.
func (t *teller) details(p answer.Prompt) { t.rows(p.Number, t.table(p)) }

// table is what details says.
func (t *teller) table(p answer.Prompt) [][2]string {
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
		{"repository", marked(p, answer.NewRepository, quoted(f.Repository))},
		{"workflow", quoted(wire.Clean(f.Workflow, mostName))},
		{"file", marked(p, answer.NewWorkflow, quoted(f.WorkflowFile))},
		{"ref", marked(p, answer.NewRef, quoted(f.Ref))},
		{"commit", quoted(commit)},
		{"environment", marked(p, answer.NewEnvironment, quoted(wire.Clean(f.Environment, mostName)))},
		{"event", quoted(f.Event)},
		{"started by", marked(p, answer.NewActor, quoted(f.Actor))},
		{"run", quoted(f.RunURL)},
		{"asked at", fmt.Sprintf("%s (%s ago, by the job's clock)", p.Since.Local().Format("15:04:05"), span(t.now().Sub(p.Since)))},
	}
	if why := attemptReason(p); why != "" {
		rows = append(rows, [2]string{"again", why})
	}
	rows = append(rows, [2]string{"the job says", message})
	rows = append(rows, artifactRows(p)...)
	if p.Approvals > 1 {
		people := fmt.Sprintf("%d must agree", p.Approvals)
		if p.Agreed > 0 {
			people = fmt.Sprintf("%d of %d have agreed", p.Agreed, p.Approvals)
		}
		rows = append(rows, [2]string{"people", people})
	}
	rows = append(rows,
		[2]string{"match code", match},
		[2]string{"time left", span(p.Deadline.Sub(t.now()))},
	)
	// Last, so that they stand above the question: first the host, by which a
	// human sees where the rest leads.
	if p.LinkHost != "" {
		rows = append(rows, [2]string{"link host", p.LinkHost})
	}
	if p.Link != "" {
		rows = append(rows, [2]string{"link", p.Link})
	}
	return rows
}

// artifactRows are the files that a prompt is about. What a file is of is the
// job's word; its digest is what a yes is to.
func artifactRows(p answer.Prompt) (rows [][2]string) {
	for i, a := range p.Artifacts {
		rows = append(rows, [2]string{fmt.Sprintf("artifact %d", i+1), quoted(a.Name)})
		if a.Package != "" {
			rows = append(rows, [2]string{"  package", strings.TrimSpace(quoted(a.Package) + " " + quoted(a.Version))})
		}
		rows = append(rows, [2]string{"  size", fmt.Sprintf("%d bytes", a.Size)}, [2]string{sha256Row, a.SHA256})
		if wire.CheckStage(a.Stage) == nil {
			rows = append(rows, [2]string{"  to publish", "npm stage approve " + a.Stage})
		}
	}
	return rows
}

// sha256Row is set closer than the others: a digest must not be broken up at 80
// columns.
const sha256Row = "  sha256"

// more is what the job has added for who wants to read it.
func (t *teller) more(p answer.Prompt) {
	if p.Details == "" {
		t.say(p.Number, "details", "the job has added none")
		return
	}
	var b strings.Builder
	about := "    "
	if t.plain {
		about = fmt.Sprintf("#%d details ", p.Number)
	}
	for line := range strings.SplitSeq(p.Details, "\n") {
		for _, part := range wrap(line) {
			fmt.Fprintf(&b, "%s| %s\n", about, part)
		}
	}
	t.together(func() {
		t.say(p.Number, "details", "in the job's own words, which nobody has checked:")
		t.put(b.String())
	})
}

func (t *teller) rows(number int, rows [][2]string) {
	var b strings.Builder
	for _, row := range rows {
		value := row[1]
		if value == "" {
			value = "-"
		}
		for i, line := range wrap(value) {
			switch {
			case t.plain && i == 0:
				fmt.Fprintf(&b, "#%d %s: %s\n", number, strings.TrimSpace(row[0]), line)
			case t.plain:
				fmt.Fprintf(&b, "#%d %s | %s\n", number, strings.TrimSpace(row[0]), line)
			case row[0] == sha256Row:
				fmt.Fprintf(&b, "    %s %s\n", row[0], line)
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
	why := map[string]string{
		wire.ReasonRejected:    "the last code was refused",
		wire.ReasonUndelivered: "the last answer never reached the job",
		wire.ReasonNext:        "the last code was good, and one more is needed",
	}[p.Reason]
	switch {
	case p.Ask == wire.AskCode && p.Approvals > 1 && p.Yes:
		why = map[string]string{wire.ReasonRejected: "the last yes could not be used"}[p.Reason]
	case p.Ask == wire.AskCode && p.Approvals > 1 && p.Reason == wire.ReasonNext && p.Attempt == 2:
		why = "one person has agreed, and another must give the code"
	case p.Ask == wire.AskApproval:
		switch p.Reason {
		case wire.ReasonRejected:
			why = "the last yes could not be used"
		case wire.ReasonNext:
			why = "one person has agreed, and another must too"
		}
	}
	if why == "" {
		return ""
	}
	return fmt.Sprintf("%s; this is attempt %d", why, p.Attempt)
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

// span is a duration for people: 20 s, 29 min 40 s, 5 h 12 min. Rounded down: a
// deadline is a whole second, up to one later than its job asked for, and a job
// that waits 5 minutes must not be said to wait longer.
func span(d time.Duration) string {
	d = max(0, d.Truncate(time.Second))
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
