package main

// The line mode: prompts as lines of text, decisions as short commands. It is
// the way to ask that works everywhere (a terminal, ssh, a screen reader, a pipe
// to another program), so it repaints nothing and says everything in words.
//
// The rule it keeps: a code is taken only for a prompt that the human has named,
// and what is typed for one that has changed or ended meanwhile is thrown away.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

// maxLine bounds a line that is read, in bytes: the longest code, or a reason.
const maxLine = 2 << 10

// surface is where lines are written and read.
type surface interface {
	// write writes whole lines, above what is being typed.
	write(text string)
	// ask asks for one line with this question; hidden: without echo. It is not
	// called again before that line has come out of lines.
	ask(question string, hidden bool)
	// lines gives what was typed; it is closed when there is nothing more to
	// read.
	lines() <-chan typed
	// close gives the terminal back.
	close()
}

// typed is one line, or the wish to leave the question.
type typed struct {
	line string
	left bool // Ctrl-C
}

// lineMode asks by lines.
type lineMode struct {
	surface surface
	tell    teller
	browse  func(link string) error // opens a link; nil: it is only shown

	desk    answer.Decisions
	ctx     context.Context          // Ask's
	prompts map[string]answer.Prompt // that are not over
	entry   *entry                   // what the next line is for; nil: a command
	used    chan used                // what became of a source that was asked
	away    time.Time                // until when; zero: the human is here
	leaving bool
}

// entry is a question that is open.
type entry struct {
	kind    entryKind
	ask     string // wire.AskCode, …
	id      string
	number  int
	attempt int
	match   string
	void    bool // what is being typed is for nothing

	// all are those that one code answers together, in order; id is "" then. turn
	// are those that are asked next, each for a code of its own.
	all, turn []answer.Prompt

	source bool // the code comes from the prompt's source
}

// used is what became of a source that was asked.
type used struct {
	e   *entry
	err error
}

type entryKind int

const (
	enterMatch entryKind = iota
	enterCode
	enterReason
	enterOpen
	enterUntil // the screen's
)

// newLineMode makes a line mode; plain: for a program at the other end.
func newLineMode(s surface, plain bool) *lineMode {
	return &lineMode{surface: s, tell: teller{write: s.write, plain: plain, now: time.Now}, prompts: map[string]answer.Prompt{}, used: make(chan used)}
}

// Discreet is answer.Discreet's.
func (m *lineMode) Discreet() {}

// Ask is answer.Asker's.
func (m *lineMode) Ask(ctx context.Context, news <-chan answer.News, desk answer.Decisions) error {
	defer m.surface.close()
	ctx, stop := context.WithCancel(ctx)
	defer stop() // and with it a source that is being asked
	m.desk, m.ctx = desk, ctx
	lines := m.surface.lines()
	m.question()
	for {
		select {
		case n, ok := <-news:
			switch {
			case !ok:
				return nil
			case n.Away != nil:
				m.away = n.Away.Until
				m.tell.absence(*n.Away)
			case n.Prompt == nil:
				m.tell.say(0, "note", n.Notice)
			default:
				m.news(*n.Prompt)
			}
		case l, ok := <-lines:
			if !ok {
				lines, m.entry = nil, nil
				// Without a terminal there may be nothing to read from the
				// start (</dev/null), and still somebody who watches.
				if !m.tell.plain {
					m.leave()
				}
				continue
			}
			switch {
			case l.left && m.leaving:
				return errGivenUp
			case m.entry != nil:
				m.enter(l)
			default:
				m.command(l)
			}
			m.question()
		case u := <-m.used:
			m.sourceUsed(u)
		}
	}
}

var errGivenUp = errors.New("given up before what was on its way had arrived")

func (m *lineMode) leave() {
	if !m.leaving {
		m.leaving = true
		m.desk.Quit()
	}
}

func (m *lineMode) news(p answer.Prompt) {
	if _, told := m.tell.told[p.ID]; p.Quiet && !told {
		// The human is away: it is in the list, and makes no noise.
		m.prompts[p.ID] = p
		if p.Phase == answer.Over {
			delete(m.prompts, p.ID)
		}
		return
	}
	if m.tell.news(p) {
		// It is before a human's eyes now.
		m.desk.Open(p.ID)
	}
	m.prompts[p.ID] = p
	if p.Phase == answer.Over {
		delete(m.prompts, p.ID)
	}
	e := m.entry
	if e != nil && !e.void && e.all != nil {
		m.newsOfAll(e, p)
		return
	}
	if e == nil || e.id != p.ID || e.void {
		return
	}
	if p.Phase == answer.Over || p.Attempt != e.attempt || e.kind != enterReason && !p.Answerable {
		// The question stays open, unseen as before, until Enter: the next
		// digits of a code must not land on the command line and be shown.
		e.void = true
		m.tell.say(p.Number, "thrown away", "what you are typing for it goes nowhere; press Enter")
	}
}

// question asks for the next line.
func (m *lineMode) question() {
	e := m.entry
	if e == nil {
		m.surface.ask(commandPrompt, false)
		return
	}
	ask := func(what, hint string, hidden bool) {
		if m.tell.plain {
			m.tell.say(e.number, "next line", what)
		}
		m.surface.ask(fmt.Sprintf("#%d %s (%s): ", e.number, what, hint), hidden)
	}
	if e.all != nil {
		m.questionAll(e, ask)
		return
	}
	switch e.kind {
	case enterMatch:
		what := "match code from the job's log"
		switch {
		case e.ask == wire.AskApproval:
			what += ", which is your yes"
		case e.source:
			what += "; the code then comes from " + m.prompts[e.id].Source
		}
		ask(what, "Enter alone goes back", false)
	case enterOpen:
		ask("open "+m.prompts[e.id].LinkHost+" in your browser", "Enter opens it; Ctrl-C goes back", false)
	case enterCode:
		ask("code, "+m.prompts[e.id].Format, "not shown; Enter alone goes back", true)
	case enterReason:
		ask("why you decline", "Enter alone: no reason; Ctrl-C: do not decline", false)
	}
}

// enter takes the line that a question was open for.
func (m *lineMode) enter(l typed) {
	e := m.entry
	if e.void {
		m.entry = nil
		m.next(e)
		return
	}
	line := strings.TrimSpace(l.line)
	if l.left || line == "" && e.kind != enterReason && e.kind != enterOpen || line != "" && e.kind == enterOpen {
		m.entry = nil
		said := "nothing was sent"
		if len(e.turn) > 0 {
			said += "; nor is the code asked for of " + numbers(e.turn)
		}
		m.tell.say(e.number, "note", said)
		return
	}
	if e.all != nil {
		m.enterAll(e, line)
		return
	}
	switch e.kind {
	case enterOpen:
		m.follow(e)
	case enterMatch:
		e.match = line
		switch e.ask {
		case wire.AskLink:
			m.follow(e)
			return
		case wire.AskApproval:
			if err := m.answer(e, ""); err != nil {
				m.failed(e, err)
				return
			}
			m.entry = nil
			m.tell.say(e.number, "approved", "your yes is signed, and on its way")
			return
		}
		if e.source {
			m.entry = nil
			m.useSource(e)
			return
		}
		// Asked with no code yet, which cannot be answered: whoever reads the
		// wrong log shall find out before typing a code.
		if err := m.answer(e, ""); !errors.Is(err, answer.ErrCode) {
			m.failed(e, err)
			return
		}
		e.kind = enterCode
	case enterCode:
		if err := m.answer(e, line); err != nil {
			m.failed(e, err)
			return
		}
		m.entry = nil
		m.tell.say(e.number, "sealed", "only this job can open it; it is on its way")
		m.next(e)
	case enterReason:
		m.entry = nil
		m.decline(e.id, e.number, line)
	}
}

func (m *lineMode) answer(e *entry, code string) error {
	return m.desk.Answer(context.Background(), answer.Answer{ID: e.id, Attempt: e.attempt, Code: code, Match: e.match})
}

// follow shows a link and opens it. It is asked for now, since the one that was
// shown may have been followed by a newer one.
func (m *lineMode) follow(e *entry) {
	link, err := m.desk.Follow(context.Background(), answer.Answer{ID: e.id, Attempt: e.attempt, Match: e.match})
	if err != nil {
		m.failed(e, err)
		return
	}
	m.entry = nil
	m.tell.together(func() {
		m.tell.say(e.number, "link host", wire.LinkHost(link))
		m.tell.say(e.number, "link", link)
	})
	if m.browse == nil {
		return
	}
	if err := m.browse(link); err != nil {
		m.tell.say(e.number, "not opened", wire.Clean(err.Error(), 200)+"; follow it by hand, in a browser of your own")
		return
	}
	m.tell.say(e.number, "opened", "in your browser; the job sees by itself when that is done")
}

// failed says why an answer was not taken, and asks again where it was a typing
// error.
func (m *lineMode) failed(e *entry, err error) {
	m.tell.say(e.number, "not sent", plain(err))
	switch {
	case errors.Is(err, answer.ErrCode):
		e.kind = enterCode
	case errors.Is(err, answer.ErrMatch):
		e.kind = enterMatch
	default:
		m.entry = nil
		m.next(e)
	}
}

func (m *lineMode) decline(id string, number int, reason string) {
	if err := m.desk.Decline(context.Background(), id, reason); err != nil {
		m.tell.say(number, "not sent", plain(err))
		return
	}
	m.tell.say(number, "declined", "your no is on its way")
}

var (
	allCommand     = regexp.MustCompile(`^(?:a|all)\s*#?([0-9]+)$`)
	openCommand    = regexp.MustCompile(`^#?([0-9]+)$`)
	declineCommand = regexp.MustCompile(`^(?:d|decline)\s*#?([0-9]+)(?:\s+(.*))?$`)
	followCommand  = regexp.MustCompile(`^(?:o|open)\s*#?([0-9]+)$`)
	detailsCommand = regexp.MustCompile(`^(?:i|info|details)\s*#?([0-9]+)$`)
	awayCommand    = regexp.MustCompile(`^away(?:\s+(?:until\s+)?(.*))?$`)
	sourceCommand  = regexp.MustCompile(`^(?:u|use)\s*#?([0-9]+)$`)
	verifyCommand  = regexp.MustCompile(`^(?:v|verify)\s*#?([0-9]+)$`)
)

const help = `1          show prompt #1, and answer it
a1         show it with all that its run asks for too, and answer them together
d1         decline it; the reason is asked for
d1 REASON  decline it for this reason
u1         have the code from the program that you have named for it (codes: in responder.yaml)
o1         open its link
i1         show what its job adds, such as how its files differ from the last release's
v1         have the job of #1 prove itself again; a link is made anew with that
list       list what waits
away 18:00 do not disturb me until then, or for 2h, 3d, until 2026-12-01; back ends it
quit       end, after what is on its way has arrived
`

// command takes a line that no question was open for. It never repeats the
// line: it may be a code, typed too early.
func (m *lineMode) command(l typed) {
	line := strings.TrimSpace(l.line)
	if l.left {
		m.leave()
		return
	}
	if s := openCommand.FindStringSubmatch(line); s != nil {
		if p, ok := m.find(s[1]); ok {
			m.open(p)
		}
		return
	}
	if s := allCommand.FindStringSubmatch(line); s != nil {
		if p, ok := m.find(s[1]); ok {
			m.openAll(p)
		}
		return
	}
	if s := declineCommand.FindStringSubmatch(line); s != nil {
		if p, ok := m.find(s[1]); ok {
			if s[2] != "" {
				m.decline(p.ID, p.Number, s[2])
			} else {
				m.entry = &entry{kind: enterReason, id: p.ID, number: p.Number, attempt: p.Attempt}
			}
		}
		return
	}
	if s := followCommand.FindStringSubmatch(line); s != nil {
		if p, ok := m.find(s[1]); ok {
			m.openLink(p)
		}
		return
	}
	if s := sourceCommand.FindStringSubmatch(line); s != nil {
		if p, ok := m.find(s[1]); ok {
			m.openSource(p)
		}
		return
	}
	if s := detailsCommand.FindStringSubmatch(line); s != nil {
		if p, ok := m.find(s[1]); ok {
			m.tell.more(p)
		}
		return
	}
	if s := verifyCommand.FindStringSubmatch(line); s != nil {
		if p, ok := m.find(s[1]); ok {
			m.desk.Open(p.ID)
			m.tell.say(p.Number, "note", "the job is asked again, at most every 5 seconds")
		}
		return
	}
	if s := awayCommand.FindStringSubmatch(line); s != nil {
		m.goAway(s[1])
		return
	}
	switch strings.ToLower(line) {
	case "":
	case "back":
		if err := m.desk.Away(context.Background(), time.Time{}); err != nil {
			m.tell.say(0, "away", plain(err))
		} else if m.away.IsZero() {
			m.tell.say(0, "away", "you are not")
		}
	case "l", "ls", "list":
		m.list()
	case "h", "?", "help":
		m.surface.write(help)
	case "q", "quit", "exit":
		m.leave()
	default:
		m.tell.say(0, "note", "that is no command; help lists them. A code is asked for, unseen, once you have typed its prompt's number")
	}
}

// goAway tells the relay; what is said is told when the relay has it.
func (m *lineMode) goAway(until string) {
	now := m.tell.now()
	if until == "" {
		said := "you are not; away 18:00, away 2h or away 2026-12-01 says until when you are not to be asked"
		if !m.away.IsZero() {
			said = untilWords(m.away, now)
		}
		m.tell.say(0, "away", said)
		return
	}
	t, err := parseUntil(until, now)
	if err == nil {
		err = m.desk.Away(context.Background(), t)
	}
	if err != nil {
		m.tell.say(0, "away", "not said: "+plain(err))
	}
}

func (m *lineMode) find(number string) (answer.Prompt, bool) {
	if n, err := strconv.Atoi(number); err == nil {
		for _, p := range m.prompts {
			if p.Number == n {
				return p, true
			}
		}
	}
	m.tell.say(0, "note", "no prompt with that number waits; list shows those that do. (If that was a code: type its prompt's number first, then it is asked for unseen)")
	return answer.Prompt{}, false
}

func (m *lineMode) open(p answer.Prompt) {
	if p.Quiet {
		m.desk.Open(p.ID)
		m.tell.say(p.Number, "note", "it came while you are away and was not opened; its job is asked to prove itself now")
		return
	}
	if p.Phase != answer.Asking {
		m.tell.say(p.Number, "not answerable", p.Why)
		return
	}
	m.tell.together(func() {
		m.tell.describe(p)
		m.tell.obstacle(p)
	})
	if !p.Answerable {
		return
	}
	e := &entry{kind: enterCode, ask: asked(p), id: p.ID, number: p.Number, attempt: p.Attempt}
	switch {
	case p.Ask == wire.AskLink && p.LinkHost == "": // a command is to be run, elsewhere
		m.tell.say(p.Number, "your turn", m.tell.turn(p))
		return
	case p.TypeMatch:
		e.kind = enterMatch
	case p.Ask == wire.AskLink && m.browse == nil: // it has been shown
		return
	case p.Ask == wire.AskLink:
		e.kind = enterOpen
	}
	m.entry = e
}

// asked is what p asks of this human now: of the first of two people a yes, though
// the job wants a code.
func asked(p answer.Prompt) string {
	if p.Yes {
		return wire.AskApproval
	}
	return p.Ask
}

// openLink is open for who has read the prompt already.
func (m *lineMode) openLink(p answer.Prompt) {
	switch {
	case p.Ask != wire.AskLink || p.LinkHost == "" && p.Answerable:
		m.tell.say(p.Number, "note", "it has no link to open")
	case !p.Answerable:
		m.tell.say(p.Number, "not answerable", p.Why)
	case p.TypeMatch:
		m.entry = &entry{kind: enterMatch, ask: p.Ask, id: p.ID, number: p.Number, attempt: p.Attempt}
	default:
		m.follow(&entry{kind: enterOpen, ask: p.Ask, id: p.ID, number: p.Number, attempt: p.Attempt})
	}
}

// openSource has p's source asked, after the match code where it must be typed.
func (m *lineMode) openSource(p answer.Prompt) {
	e := &entry{kind: enterMatch, ask: p.Ask, id: p.ID, number: p.Number, attempt: p.Attempt, source: true}
	switch {
	case !p.Answerable:
		m.tell.say(p.Number, "not answerable", p.Why)
	case p.Source == "":
		m.tell.say(p.Number, "note", noSource(p))
	case p.TypeMatch:
		m.entry = e
	default:
		m.useSource(e)
	}
}

// noSource says why nothing but a human can give p's code.
func noSource(p answer.Prompt) string {
	if p.Ask != wire.AskCode || p.Yes {
		return "it asks for no code"
	}
	return fmt.Sprintf("no program is named for the codes of %s; `codes` in responder.yaml does that", p.Service)
}

// useSource asks e's source, for as long as that takes.
func (m *lineMode) useSource(e *entry) {
	name := m.prompts[e.id].Source
	m.tell.say(e.number, "asked", name+" is asked for the code; it may want something of you, in a window of its own or by a touch")
	go func() {
		err := m.desk.UseSource(m.ctx, answer.Answer{ID: e.id, Attempt: e.attempt, Match: e.match})
		select {
		case m.used <- used{e, err}:
		case <-m.ctx.Done():
		}
	}()
}

func (m *lineMode) sourceUsed(u used) {
	if u.err == nil {
		m.tell.say(u.e.number, "sealed", "only this job can open it; it is on its way")
		return
	}
	m.tell.say(u.e.number, "not sent", plain(u.err))
}

func (m *lineMode) list() {
	if !m.away.IsZero() {
		m.tell.say(0, "away", untilWords(m.away, m.tell.now())+"; back ends it")
	}
	if len(m.prompts) == 0 {
		m.tell.say(0, "note", "nothing waits")
	}
	m.tell.together(func() {
		for _, p := range slices.SortedFunc(maps.Values(m.prompts), func(a, b answer.Prompt) int { return a.Number - b.Number }) {
			m.tell.summary(p)
		}
	})
}

// stream is a surface without a terminal: lines out, lines in. Nothing is echoed
// because nothing is there to echo it.
type stream struct {
	out io.Writer
	in  chan typed
}

func newStream(in io.Reader, out io.Writer) *stream {
	s := &stream{out: out, in: make(chan typed)}
	go func() {
		defer close(s.in)
		r := bufio.NewReaderSize(in, maxLine)
		for {
			line, err := r.ReadSlice('\n')
			if errors.Is(err, bufio.ErrBufferFull) {
				// No code and no command is that long; what follows would be
				// read as something that nobody meant.
				return
			}
			if len(line) > 0 {
				s.in <- typed{line: string(line)}
			}
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *stream) write(text string)   { _, _ = io.WriteString(s.out, harmless(text)) }
func (s *stream) ask(string, bool)    {}
func (s *stream) lines() <-chan typed { return s.in }
func (s *stream) close()              {}
