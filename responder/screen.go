package main

// screen: the full-screen list. What waits above, the chosen prompt with all of its
// facts below, and one question at a time.
//
// The rule it keeps is the line mode's: a code is taken only for a prompt that the
// human has named, and what is typed for one that has changed or ended meanwhile is
// thrown away, by a question that stays open until Enter, so that no digit of a
// code becomes a command.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

type screenCmd struct {
	listenCmd `embed:""`
}

func (c *screenCmd) Run(ctx context.Context, std stdio, env environ) error {
	c.full = true
	return c.listenCmd.Run(ctx, std, env)
}

// screen is a way to ask.
type screen struct {
	dev    *device
	env    environ
	browse func(link string) error
	// past gives what ended before this screen was there; nil: nothing did.
	past func() []answer.Past
}

// Discreet is answer.Discreet's.
func (s *screen) Discreet() {}

// Ask is answer.Asker's.
func (s *screen) Ask(ctx context.Context, news <-chan answer.News, desk answer.Decisions) error {
	defer s.dev.Close()
	m := &sheet{
		desk: desk, browse: s.browse, now: time.Now, prompts: map[string]answer.Prompt{},
		colour: s.env.get("NO_COLOR") == "" && s.env.get("TERM") != "dumb", width: 80, height: 24,
	}
	if s.past != nil {
		m.past = s.past()
	}
	program := tea.NewProgram(m, tea.WithContext(ctx), tea.WithInput(s.dev.in), tea.WithOutput(s.dev.out),
		tea.WithEnvironment(s.env), tea.WithoutSignalHandler())
	go func() {
		for n := range news {
			program.Send(n)
		}
		program.Send(over{})
	}()
	_, err := program.Run()
	switch {
	case m.givenUp:
		return errGivenUp
	case errors.Is(err, tea.ErrProgramKilled) && ctx.Err() != nil:
		return nil
	}
	return err
}

type (
	over   struct{} // no more news will come
	second struct{} // a second has passed
	// result is what became of a decision.
	result struct {
		number int
		id     string
		said   string // if it went well
		err    error
		code   bool // it was a code that was sent
		source bool // a source was asked
		link   string
	}
)

// sheet is the screen's state; only its program's goroutine touches it.
type sheet struct {
	desk    answer.Decisions
	browse  func(string) error
	now     func() time.Time
	colour  bool
	width   int
	height  int
	prompts map[string]answer.Prompt
	known   answer.Known
	past    []answer.Past
	chosen  string // id
	scroll  int    // lines of the lower part
	page    page
	notice  string
	field   *field
	leaving bool
	givenUp bool
	away    time.Time // until when; zero: the human is here
}

type page int

const (
	pageWaiting page = iota
	pagePast
	pageHelp
)

// field is the question that is open.
type field struct {
	kind    entryKind
	id      string
	number  int
	attempt int
	text    []byte
	match   string
	busy    bool   // it was sent, and the reply is not there
	void    string // why what is typed goes nowhere; Enter closes it
	wrong   string // what was wrong with the last try
	all     []answer.Prompt
	source  bool // the code comes from the prompt's source
}

// hidden says whether what is typed is shown as dots.
func (f *field) hidden() bool { return f.kind == enterCode }

func (f *field) wipe() {
	clear(f.text)
	f.text = f.text[:0]
}

// Init is tea.Model's.
func (m *sheet) Init() tea.Cmd { return tick() }

func tick() tea.Cmd { return tea.Tick(time.Second, func(time.Time) tea.Msg { return second{} }) }

// Update is tea.Model's.
func (m *sheet) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = max(msg.Width, 20), max(msg.Height, 8)
	case second:
		return m, tick()
	case over:
		return m, tea.Quit
	case answer.News:
		m.news(msg)
	case result:
		return m, m.done(msg)
	case tea.PasteMsg:
		m.typed(msg.Content)
	case tea.KeyPressMsg:
		return m, m.key(msg)
	}
	return m, nil
}

func (m *sheet) news(n answer.News) {
	if n.Away != nil {
		m.away = n.Away.Until
		m.notice = "you are back; what waits is opened"
		if !m.away.IsZero() {
			m.notice = "you are away " + untilWords(m.away, m.now()) + "; b ends it"
		}
		return
	}
	if n.Prompt == nil {
		m.notice = n.Notice
		return
	}
	p := *n.Prompt
	before, seen := m.prompts[p.ID]
	past, ended := m.known.Tell(p)
	if ended {
		if seen {
			m.past = slices.Insert(m.past, 0, past)
			m.past = m.past[:min(len(m.past), 100)]
			m.notice = fmt.Sprintf("#%d is over: %s", p.Number, firstLine(p.Why))
		}
		at := m.index()
		delete(m.prompts, p.ID)
		if m.chosen == p.ID {
			m.chosen, m.scroll = "", 0
			if list := m.list(); len(list) > 0 {
				m.chosen = list[min(at, len(list)-1)].ID
			}
		}
	} else {
		m.prompts[p.ID] = p
		if (!seen || before.Quiet) && !p.Quiet {
			m.desk.Open(p.ID) // it is in the list, before a human's eyes
		}
		if m.chosen == "" {
			m.chosen = p.ID
		}
	}
	m.touch(p)
}

// touch voids the open question if its prompt cannot be answered by it any more.
func (m *sheet) touch(p answer.Prompt) {
	f := m.field
	if f == nil || f.void != "" {
		return
	}
	gone := func(attempt int) bool {
		return p.Phase == answer.Over || p.Attempt != attempt || f.kind != enterReason && !p.Answerable
	}
	if f.all != nil {
		i := slices.IndexFunc(f.all, func(q answer.Prompt) bool { return q.ID == p.ID })
		if i < 0 || !gone(f.all[i].Attempt) && p.Group == f.all[i].Group {
			return
		}
		f.all = slices.Delete(slices.Clone(f.all), i, i+1)
		f.wrong = fmt.Sprintf("#%d is left out: it cannot be answered any more", p.Number)
		if len(f.all) == 0 {
			f.void = "nothing of its run can be answered any more"
		}
		return
	}
	if f.id != p.ID || f.busy || !gone(f.attempt) {
		return
	}
	f.wipe()
	f.void = firstLine(p.Why)
	if f.void == "" {
		f.void = "it has changed"
	}
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

func (m *sheet) list() []answer.Prompt {
	return slices.SortedFunc(maps.Values(m.prompts), byNumber)
}

func (m *sheet) index() int {
	return max(0, slices.IndexFunc(m.list(), func(p answer.Prompt) bool { return p.ID == m.chosen }))
}

// key is what a key does: typing, where a question is open.
func (m *sheet) key(k tea.KeyPressMsg) tea.Cmd {
	name := k.String()
	if m.field != nil {
		return m.fieldKey(k, name)
	}
	if name == "ctrl+c" || name == "q" {
		if m.leaving && name == "ctrl+c" {
			m.givenUp = true
			return tea.Quit
		}
		m.leaving = true
		m.notice = "leaving as soon as what is on its way has arrived"
		return func() tea.Msg { m.desk.Quit(); return nil }
	}
	if m.page != pageWaiting {
		switch name {
		case "up", "k":
			m.scroll = max(0, m.scroll-1)
		case "down", "j":
			m.scroll++
		default:
			m.page, m.scroll = pageWaiting, 0
		}
		return nil
	}
	switch name {
	case "h":
		m.page, m.scroll = pagePast, 0
		return nil
	case "w":
		m.field = &field{kind: enterUntil}
		return nil
	case "b":
		if m.away.IsZero() {
			m.notice = "you are not away; w says until when you are"
			return nil
		}
		return func() tea.Msg {
			if err := m.desk.Away(context.Background(), time.Time{}); err != nil {
				return answer.News{Notice: firstLine(plain(err))}
			}
			return nil
		}
	case "?":
		m.page, m.scroll = pageHelp, 0
		return nil
	case "pgdown", "space":
		m.scroll += max(1, m.height/3)
		return nil
	case "pgup":
		m.scroll = max(0, m.scroll-max(1, m.height/3))
		return nil
	}
	list := m.list()
	if len(list) == 0 {
		return nil
	}
	p := list[m.index()]
	switch name {
	case "up", "k":
		m.choose(list, m.index()-1)
	case "down", "j":
		m.choose(list, m.index()+1)
	case "home":
		m.choose(list, 0)
	case "end":
		m.choose(list, len(list)-1)
	case "enter":
		return m.begin(p)
	case "a":
		return m.beginAll(p)
	case "u":
		return m.beginSource(p)
	case "d":
		m.field = &field{kind: enterReason, id: p.ID, number: p.Number, attempt: p.Attempt}
	case "v":
		m.desk.Open(p.ID)
		m.notice = fmt.Sprintf("#%d: its job is asked again to prove itself, at most every 5 seconds", p.Number)
	}
	return nil
}

func (m *sheet) choose(list []answer.Prompt, i int) {
	m.chosen, m.scroll = list[max(0, min(i, len(list)-1))].ID, 0
}

// begin opens the question by which p is answered.
func (m *sheet) begin(p answer.Prompt) tea.Cmd {
	f := &field{kind: enterCode, id: p.ID, number: p.Number, attempt: p.Attempt}
	switch {
	case p.Quiet:
		m.desk.Open(p.ID)
		m.notice = fmt.Sprintf("#%d came while you are away and was not opened; its job is asked to prove itself now", p.Number)
		return nil
	case !p.Answerable:
		m.notice = fmt.Sprintf("#%d cannot be answered: %s", p.Number, firstLine(p.Why))
		return nil
	case p.Ask == wire.AskLink && p.LinkHost == "":
		m.notice = "run the command above, on a computer of your own; the job sees by itself when that is done"
		return nil
	case p.TypeMatch || p.Yes:
		f.kind = enterMatch
	case p.Ask == wire.AskLink:
		f.kind = enterOpen
	}
	m.field = f
	return nil
}

// beginAll opens it for all that p's run asks for together.
func (m *sheet) beginAll(p answer.Prompt) tea.Cmd {
	var all []answer.Prompt
	for _, q := range m.list() {
		if q.Answerable && q.Group != "" && q.Group == p.Group {
			all = append(all, q)
		}
	}
	if len(all) < 2 || !all[0].Reusable {
		m.notice = fmt.Sprintf("#%d is to be answered by itself: Enter", p.Number)
		return nil
	}
	m.field = &field{kind: enterCode, id: p.ID, number: all[0].Number, all: all}
	if slices.ContainsFunc(all, func(p answer.Prompt) bool { return p.TypeMatch }) {
		m.field.kind = enterMatch
	}
	return nil
}

// beginSource has p's source asked, after the match code where it must be typed.
func (m *sheet) beginSource(p answer.Prompt) tea.Cmd {
	f := &field{kind: enterMatch, id: p.ID, number: p.Number, attempt: p.Attempt, source: true}
	switch {
	case !p.Answerable:
		m.notice = fmt.Sprintf("#%d cannot be answered: %s", p.Number, firstLine(p.Why))
	case p.Source == "":
		m.notice = fmt.Sprintf("#%d: %s", p.Number, noSource(p))
	case p.TypeMatch:
		m.field = f
	default:
		return m.useSource(f)
	}
	return nil
}

// useSource asks f's source. The screen goes on meanwhile: it may take a minute.
func (m *sheet) useSource(f *field) tea.Cmd {
	m.field = nil
	m.notice = fmt.Sprintf("#%d: %s is asked for the code; it may want something of you, in a window of its own or by a touch", f.number, m.prompts[f.id].Source)
	desk, ask := m.desk, answer.Answer{ID: f.id, Attempt: f.attempt, Match: f.match}
	r := result{number: f.number, id: f.id, source: true, said: "sealed: only this job can open it; it is on its way"}
	return func() tea.Msg {
		r.err = desk.UseSource(context.Background(), ask)
		return r
	}
}

func (m *sheet) typed(text string) {
	f := m.field
	if f == nil || f.busy || f.void != "" || f.kind == enterOpen {
		return
	}
	text = strings.TrimRight(text, "\r\n")
	if strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		f.wrong = "what was pasted has other characters than printable ones; nothing of it was taken"
		return
	}
	if len(f.text)+len(text) > maxLine {
		return
	}
	if cap(f.text) == 0 {
		f.text = make([]byte, 0, maxLine) // so that no copy of a code is left behind by growing
	}
	f.text = append(f.text, text...)
}

func (m *sheet) fieldKey(k tea.KeyPressMsg, name string) tea.Cmd {
	f := m.field
	switch {
	case name == "ctrl+c" || name == "esc":
		if f.busy {
			return nil
		}
		f.wipe()
		m.field, m.notice = nil, "nothing was sent"
	case name == "enter":
		return m.enter(f)
	case name == "backspace" && len(f.text) > 0:
		_, n := utf8.DecodeLastRune(f.text)
		clear(f.text[len(f.text)-n:])
		f.text = f.text[:len(f.text)-n]
	case name == "ctrl+u":
		f.wipe()
	case k.Key().Text != "":
		m.typed(k.Key().Text)
	}
	return nil
}

// enter takes what was typed.
func (m *sheet) enter(f *field) tea.Cmd {
	line := strings.TrimSpace(string(f.text))
	switch {
	case f.busy:
		return nil
	case f.void != "":
		f.wipe()
		m.field = nil
		return nil
	case line == "" && f.kind != enterReason && f.kind != enterOpen:
		m.field, m.notice = nil, "nothing was sent"
		return nil
	}
	f.wrong = ""
	desk, ask := m.desk, answer.Answer{ID: f.id, Attempt: f.attempt, Match: f.match}
	r := result{number: f.number, id: f.id}
	p := m.prompts[f.id]
	if f.kind == enterMatch {
		f.match, ask.Match = line, line
	}
	f.wipe()
	if f.source {
		return m.useSource(f)
	}
	f.busy = true
	if f.kind == enterUntil {
		until, err := parseUntil(line, m.now())
		return func() tea.Msg {
			if r.err = err; err == nil {
				r.err = desk.Away(context.Background(), until)
			}
			return r
		}
	}
	if f.all != nil {
		together := answer.Together{Match: f.match}
		for _, p := range f.all {
			together.Members = append(together.Members, answer.Member{ID: p.ID, Attempt: p.Attempt})
		}
		if f.kind == enterCode {
			together.Code, r.code = line, true
		}
		return func() tea.Msg {
			left, err := desk.AnswerAll(context.Background(), together)
			r.err, r.said = err, "sealed, for each job by itself; on its way"
			for _, l := range left {
				r.said += "; left out: " + plain(l.Err)
			}
			return r
		}
	}
	switch {
	case f.kind == enterReason:
		return func() tea.Msg {
			r.err, r.said = desk.Decline(context.Background(), r.id, line), "declined: your no is on its way"
			return r
		}
	case p.Ask == wire.AskLink:
		return func() tea.Msg {
			r.link, r.err = desk.Follow(context.Background(), ask)
			return r
		}
	case f.kind == enterMatch && p.Yes:
		return func() tea.Msg {
			r.err, r.said = desk.Answer(context.Background(), ask), "your yes is signed, and on its way"
			return r
		}
	case f.kind == enterMatch:
		// Asked with no code yet, which cannot be answered: see the line mode.
		return func() tea.Msg { r.err = desk.Answer(context.Background(), ask); return r }
	}
	ask.Code, r.code = line, true
	return func() tea.Msg {
		r.err, r.said = desk.Answer(context.Background(), ask), "sealed: only this job can open it; it is on its way"
		return r
	}
}

// done takes in what became of a decision.
func (m *sheet) done(r result) tea.Cmd {
	f := m.field
	if r.source {
		m.notice = fmt.Sprintf("#%d: %s", r.number, r.said)
		if r.err != nil {
			m.notice = fmt.Sprintf("#%d: not sent: %s", r.number, plain(r.err))
		}
		if p := m.prompts[r.id]; f == nil && p.TypeMatch && errors.Is(r.err, answer.ErrMatch) {
			return m.beginSource(p)
		}
		return nil
	}
	if f == nil || f.id != r.id {
		return nil
	}
	f.busy = false
	switch {
	case errors.Is(r.err, answer.ErrCode):
		if r.code {
			f.wrong = plain(r.err)
		}
		f.kind = enterCode
		return nil
	case errors.Is(r.err, answer.ErrMatch):
		f.kind, f.wrong = enterMatch, plain(r.err)
		return nil
	case f.kind == enterUntil:
		m.field = nil
		if r.err != nil {
			m.notice = "not said: " + firstLine(plain(r.err))
		}
		return nil
	case r.err != nil:
		m.field, m.notice = nil, fmt.Sprintf("#%d: not sent: %s", r.number, plain(r.err))
		return nil
	}
	m.field, m.notice = nil, fmt.Sprintf("#%d: %s", r.number, r.said)
	if r.link == "" {
		return nil
	}
	m.notice = fmt.Sprintf("#%d: %s", r.number, r.link)
	if m.browse != nil {
		if err := m.browse(r.link); err != nil {
			m.notice = fmt.Sprintf("#%d: not opened: %s; follow it by hand: %s", r.number, wire.Clean(err.Error(), 200), r.link)
		} else {
			m.notice = fmt.Sprintf("#%d: opened in your browser: %s", r.number, r.link)
		}
	}
	return nil
}

// View is tea.Model's.
func (m *sheet) View() tea.View {
	v := tea.NewView(strings.Join(m.paint(), "\n"))
	v.AltScreen = true
	v.WindowTitle = "cfa-responder"
	if n := len(m.prompts); n > 0 {
		v.WindowTitle = fmt.Sprintf("(%d) cfa-responder", n)
	}
	return v
}

const (
	bold    = "\x1b[1m"
	dim     = "\x1b[2m"
	reverse = "\x1b[7m"
	green   = "\x1b[32m"
	red     = "\x1b[31m"
	yellow  = "\x1b[33m"
	plainly = "\x1b[0m"
)

// line is text that fits the screen's width, harmless, in a style.
func (m *sheet) line(style, text string) string {
	text = ansi.Truncate(harmless(strings.ReplaceAll(text, "\n", " ")), m.width, "…")
	if !m.colour && style != reverse || style == "" {
		return text
	}
	return style + text + plainly
}

// lines wraps text to the screen's width: the parts that follow are set in, so that
// none can be taken for a line of ours.
func (m *sheet) lines(style, text string) (out []string) {
	for i, l := range strings.Split(ansi.Wrap(harmless(text), max(10, m.width-2), "/-"), "\n") {
		if i > 0 {
			l = "  " + l
		}
		out = append(out, m.line(style, l))
	}
	return out
}

// paint gives exactly height lines.
func (m *sheet) paint() []string {
	var head, body, foot []string
	list := m.list()
	title := fmt.Sprintf(" cfa-responder   %d waiting", len(list))
	if !m.away.IsZero() {
		title += "   away " + untilWords(m.away, m.now())
	}
	head = append(head, m.line(reverse, title+strings.Repeat(" ", max(0, m.width-len(title)))))
	foot = m.question()
	if m.notice != "" {
		lines := m.lines("", m.notice)
		foot = append(lines[:min(len(lines), 4)], foot...)
	}
	foot = append([]string{m.line(dim, strings.Repeat("─", m.width))}, foot...)
	switch m.page {
	case pageHelp:
		for l := range strings.SplitSeq(screenHelp, "\n") {
			body = append(body, m.lines("", l)...)
		}
	case pagePast:
		body = append(body, m.line(bold, "what is over, the newest first"))
		for _, p := range m.past {
			what := "a request in the project " + p.Project
			if p.Facts.Repository != "" {
				what = p.Facts.Repository + ", for " + p.Service
			}
			body = append(body, m.lines("", fmt.Sprintf("%s  #%d %s: %s", p.Ended.Local().Format("15:04:05"), p.Number, what, firstLine(p.Why)))...)
		}
		if len(m.past) == 0 {
			body = append(body, m.line(dim, "nothing yet"))
		}
	default:
		if len(list) == 0 {
			body = append(body, "", m.line(dim, "nothing waits; leave this open, or go: what asks is shown when it asks"))
			break
		}
		rows := m.rows(list)
		most := max(3, (m.height-len(head)-len(foot))/3)
		at := m.index()
		from := max(0, min(at-most/2, len(rows)-most))
		shown := rows[from:min(len(rows), from+most)]
		head = append(head, shown...)
		if left := len(rows) - len(shown); left > 0 {
			head = append(head, m.line(dim, fmt.Sprintf("  … and %d more", left)))
		}
		head = append(head, m.line(dim, strings.Repeat("─", m.width)))
		body = m.facts(list[at])
	}
	room := max(1, m.height-len(head)-len(foot))
	m.scroll = max(0, min(m.scroll, len(body)-room))
	more := len(body) - room - m.scroll
	body = body[m.scroll:min(len(body), m.scroll+room)]
	if more > 0 {
		body[len(body)-1] = m.line(reverse, fmt.Sprintf(" %d more lines: PgDn ", more+1))
	}
	for len(body) < room {
		body = append(body, "")
	}
	all := append(append(head, body...), foot...)
	return all[:min(len(all), m.height)]
}

// rows are the list's.
func (m *sheet) rows(list []answer.Prompt) (out []string) {
	for _, p := range list {
		mark, style := "  ", ""
		if p.ID == m.chosen {
			mark, style = "> ", bold
		}
		state := string(p.Standing)
		if p.Phase != answer.Asking {
			state = string(p.Phase)
		}
		what := "a request in the project " + p.Project
		if p.Facts.Repository != "" {
			what = fmt.Sprintf("%s, for %s", p.Facts.Repository, p.Service)
		}
		out = append(out, m.line(style, fmt.Sprintf("%s#%-3d %-9s %s, %s left", mark, p.Number, state, what, span(p.Deadline.Sub(m.now())))))
	}
	return out
}

// facts are the chosen prompt, in the order and the words of every way to ask.
func (m *sheet) facts(p answer.Prompt) (out []string) {
	var text strings.Builder
	tell := teller{write: func(s string) { text.WriteString(s) }, mute: true, now: m.now}
	switch {
	case p.Standing == answer.Verified:
		out = append(out, m.lines(m.tint(green, p), "verified: "+sentence(p, m.now())+".")...)
	default:
		out = append(out, m.lines(m.tint(yellow, p), string(p.Standing)+": "+p.Why)...)
	}
	if p.Standing == answer.Verified && !p.Answerable {
		out = append(out, m.lines(red, "not answerable: "+p.Why)...)
	}
	if said := firstSight(p); said != "" {
		out = append(out, m.lines(yellow, "first sight: "+said)...)
	}
	if p.Note != "" {
		out = append(out, m.lines("", "note: "+p.Note)...)
	}
	if !known(p.Standing) {
		return out
	}
	tell.details(p)
	if p.Details != "" {
		tell.more(p)
	}
	if p.Opened != "" {
		tell.say(0, "seen by", p.Opened+", by the relay's word")
	}
	for l := range strings.SplitSeq(strings.TrimRight(text.String(), "\n"), "\n") {
		out = append(out, m.lines("", l)...)
	}
	return out
}

func (m *sheet) tint(style string, p answer.Prompt) string {
	if p.Standing == answer.Foreign || p.Standing == answer.Unproven {
		return red
	}
	return style
}

// question is the open question, or what the keys do.
func (m *sheet) question() (out []string) {
	f := m.field
	if f == nil {
		use := ""
		if p := m.prompts[m.chosen]; p.Source != "" && p.Answerable {
			use = "u use " + p.Source + "  "
		}
		keys := "↑↓ choose  Enter answer  " + use + "d decline  a all of its run  v verify  h history  w away  ? help  q leave"
		if m.page != pageWaiting {
			keys = "↑↓ scroll  any other key goes back"
		}
		return []string{m.line(dim, keys)}
	}
	if f.void != "" {
		return append(m.lines(red, fmt.Sprintf("#%d: %s; what you type goes nowhere", f.number, f.void)), m.line("", "press Enter"))
	}
	if f.wrong != "" {
		out = m.lines(red, f.wrong)
	}
	p := m.prompts[f.id]
	about := fmt.Sprintf("#%d ", f.number)
	if f.all != nil {
		about = numbers(f.all) + " "
	}
	ask, hint := "", "Enter sends; Esc goes back"
	switch f.kind {
	case enterUntil:
		about, ask = "", "away until (18:00, 2h, 3d, 2026-12-01)"
	case enterMatch:
		ask = "match code from the job's log"
		if p.Yes {
			ask += ", which is your yes"
		}
	case enterOpen:
		ask, hint = "open "+p.LinkHost+" in your browser", "Enter opens it; Esc goes back"
		if m.browse == nil {
			ask, hint = "show the link to "+p.LinkHost, "Enter shows it; Esc goes back"
		}
	case enterCode:
		ask = "code, " + p.Format
	case enterReason:
		ask, hint = "why you decline", "Enter declines, with or without a reason; Esc does not"
	}
	shown := string(f.text)
	if f.hidden() {
		shown = strings.Repeat("•", utf8.RuneCount(f.text))
	}
	if f.busy {
		shown = "…"
	}
	out = append(out, m.lines(bold, about+ask+":")...)
	return append(out, m.line("", "> "+ansi.TruncateLeft(shown, max(0, ansi.StringWidth(shown)-m.width+4), "")), m.line(dim, hint))
}

const screenHelp = `Enter   answer the chosen prompt: its match code where it demands one, then the code, which is shown as dots
a       answer everything that its run asks for with one code
u       have its code from the program that you have named for it (codes: in responder.yaml)
d       decline it; a reason is asked for
w       you are away until a time: nothing rings, and the job's log says so
b       you are back; what came meanwhile waits unopened until then
v       have its job prove itself again; a link is made anew with that
PgDn    more of its facts
h       what is over
q       leave; a background program goes on

What is shown of a job comes from its verified ID token. What "the job says" is its own word, which nobody has checked.
What you type for a prompt that changes or ends meanwhile is thrown away.`

// newScreen makes the screen on this terminal.
func newScreen(dev *device, env environ) *screen {
	return &screen{dev: dev, env: env, browse: browser(runtime.GOOS, env)}
}
