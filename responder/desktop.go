package main

// desktop: a notification that rings, and windows that ask.
//
// The rule it keeps: no key that was meant for another window does anything here.
// A notification takes no answer. A window comes when its human clicks that
// notification, or by itself only where no click can be heard of; and it begins
// with the facts and buttons of which the one that Enter presses is Later. A field
// to type in is opened by a button alone, one window at a time, and is closed, with
// what was typed into it, when its prompt has changed.
//
// Whatever becomes of the desktop's own programs, this way to ask goes on: it says
// so in the log, and rings again later.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

// desktop is a way to ask.
type desktop struct {
	log    *slog.Logger
	bell   bell
	panes  panes
	browse func(link string) error
	atOnce bool // a window comes by itself, with the notification
	now    func() time.Time
}

// bell shows notifications. It is used by one goroutine.
type bell interface {
	// ring shows n, in the place of what is shown of its kind. heard: when a human
	// clicks it, that will be told.
	ring(ctx context.Context, n notice) (heard bool, err error)
	// hush takes away what is shown of what waits.
	hush(ctx context.Context)
	// touched tells what a human did with what is shown of what waits.
	touched() <-chan touch
}

// notice is one notification: plain text, that its medium escapes.
type notice struct {
	title, body string
	remark      bool // it says what became of something; what waits is shown beside it
	calm        bool // it replaces what is shown without a sound
	minor       bool // nothing in it can be answered
}

type touch int

const (
	clicked touch = iota
	dismissed
)

// panes shows windows.
type panes interface {
	// show shows a text and buttons until one is pressed; Enter presses Later.
	show(ctx context.Context, s sheetOf) (choice, error)
	// enter asks for one line. errBack: the human left it.
	enter(ctx context.Context, f fieldOf) (string, error)
}

// sheetOf is a window with a text.
type sheetOf struct {
	title, text string
	proceed     string // the label of the button that goes on; "": there is none
	decline     bool   // there is a button for that
}

// fieldOf is a window with a field. Its text is short and says nothing of the job:
// where it is an argument, every user of the machine can read it.
type fieldOf struct {
	title, text, proceed string
	hidden               bool // what is typed is shown as dots
}

type choice int

const (
	chosenLater choice = iota
	chosenClose        // leave me alone with all of them, for now
	chosenProceed
	chosenDecline
)

var errBack = errors.New("left")

// desktopSettings is this way's part of responder.yaml.
type desktopSettings struct {
	// Window says when a window comes: click (the notification was clicked) or
	// at-once.
	Window string `yaml:"window"`
}

func openDesktop(s surroundings, part func(any) error) (answer.Asker, error) {
	set := desktopSettings{Window: "click"}
	if err := part(&set); err != nil {
		return nil, err
	}
	if set.Window != "click" && set.Window != "at-once" {
		return nil, fmt.Errorf("window: %s is neither click (a window comes when you click the notification) nor at-once", wire.CleanName(set.Window, 40))
	}
	return &desktop{
		log: s.log, bell: newBell(s.env), panes: newPanes(s.env), browse: browser(runtime.GOOS, s.env),
		atOnce: set.Window == "at-once", now: time.Now,
	}, nil
}

// Discreet is answer.Discreet's: nothing rings while its human is away.
func (d *desktop) Discreet() {}

const (
	// ringEvery is how soon after a notification another may follow, so that a burst
	// is one that grows.
	ringEvery = time.Second
	// minorEvery is how often what cannot be answered makes itself heard: a relay can
	// make up as much of that as it likes.
	minorEvery = 10 * time.Minute
	// maxRemarks bounds what waits to be said.
	maxRemarks = 8
	// bellWithin is how long a notification may take to be shown.
	bellWithin = 10 * time.Second
)

// Ask is answer.Asker's.
func (d *desktop) Ask(ctx context.Context, news <-chan answer.News, desk answer.Decisions) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	r := &round{desktop: d, ctx: ctx, desk: desk, ended: make(chan outcome), rang: make(chan ringing), notes: map[string]string{}}
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case n, ok := <-news:
			if !ok {
				stop() // which closes the window
				r.end()
				return nil
			}
			r.news(n)
		case t := <-d.bell.touched():
			r.touched(t)
		case o := <-r.ended:
			r.sat(o)
		case g := <-r.rang:
			r.rung(g)
		case <-timer.C:
		}
		r.turn()
		timer.Reset(r.wait())
	}
}

// round is Ask's state; only its goroutine touches it.
type round struct {
	*desktop
	ctx  context.Context
	desk answer.Decisions
	pile pile

	sitting *sitting // the window that is open; nil: none
	wanted  bool     // windows are to come, one after the other
	pause   time.Time
	fails   int
	ended   chan outcome

	notes   map[string]string // last said of what became of an answer
	remarks []notice          // to be shown
	ringing bool              // one is on its way to the screen
	last    time.Time         // when it last rang
	minor   time.Time         // when it last rang for what cannot be answered
	shown   string            // what is shown of what waits, as pile.key; "": nothing
	hushes  bool              // what is shown of what waits is to be taken away
	pending string            // what is on its way
	rang    chan ringing
	mute    string // why nothing can be shown
}

type ringing struct {
	n     notice
	hush  bool
	heard bool
	err   error
}

// sitting is one prompt in a window.
type sitting struct {
	prompt    answer.Prompt
	close     context.CancelCauseFunc
	declining atomic.Bool
}

// outcome is how a sitting ended.
type outcome struct {
	how  choice // chosenProceed: it was answered, or declined
	said string // why not
	err  error  // what the windows failed with
}

func (r *round) news(n answer.News) {
	switch {
	case n.Away != nil:
		r.pile.away = !n.Away.Until.IsZero()
		return
	case n.Prompt == nil:
		return // of connections; the log and status have it
	}
	p := *n.Prompt
	was := r.pile.known(p.ID)
	if r.pile.take(p, r.now()) {
		r.desk.Open(p.ID)
	}
	if p.Facts.Repository == "" {
		p.Facts.Repository = was.Facts.Repository // to name it by, once it has ended
	}
	if p.Note != "" && p.Note != r.notes[p.ID] && !p.Quiet {
		r.remark(p, p.Note)
	}
	r.notes[p.ID] = p.Note
	if p.Phase == answer.Over {
		delete(r.notes, p.ID)
	}
	if s := r.sitting; s != nil && s.prompt.ID == p.ID && s.stale(p) {
		s.close(errChanged)
	}
}

var errChanged = errors.New("the prompt has changed")

// stale says whether what the window shows cannot be acted on any more, or can be
// only now.
func (s *sitting) stale(p answer.Prompt) bool {
	was := s.prompt
	switch {
	case p.Phase == answer.Over || p.Attempt != was.Attempt:
		return true
	case s.declining.Load():
		return false
	}
	return p.Answerable != was.Answerable || p.Standing != was.Standing && !p.Answerable
}

// remark shows what became of something.
func (r *round) remark(p answer.Prompt, text string) {
	if len(r.remarks) < maxRemarks {
		title := fmt.Sprintf("Request #%d", p.Number)
		if p.Facts.Repository != "" {
			title += ", " + p.Facts.Repository
		}
		r.remarks = append(r.remarks, notice{remark: true, title: harmless(title), body: harmless(upper(text))})
	}
}

func (r *round) touched(t touch) {
	r.shown = ""
	if t == dismissed {
		r.pile.layAside(r.now())
		return
	}
	// It has done what it was for, and would only say what was true when it came.
	r.hushes = true
	r.pile.takeUp()
	r.wanted, r.pause = true, time.Time{}
}

// sat takes in how a sitting ended.
func (r *round) sat(o outcome) {
	s := r.sitting
	r.sitting = nil
	now := r.now()
	switch {
	case errors.Is(o.err, errChanged):
		p, here := r.pile.waits[s.prompt.ID]
		switch {
		case !here:
			r.remark(s.prompt, "The window was closed: "+reason(r.pile.ended(s.prompt.ID))+".")
		case !s.prompt.Answerable:
			// It says more now than it did: the human who looks at it sees that.
		default:
			r.remark(s.prompt, "The window was closed, and what was typed went nowhere: "+reason(firstLine(p.prompt.Why))+".")
		}
	case r.ctx.Err() != nil:
	case o.err != nil:
		r.fails++
		r.pause = now.Add(min(time.Second<<min(r.fails, 6), time.Minute))
		r.wanted = false
		r.pile.lay(s.prompt.ID, now)
		r.log.Error("desktop window", "err", wire.Clean(o.err.Error(), 300), "fails", r.fails)
		r.remark(s.prompt, "Its window could not be shown; it rings again. cfa-responder list shows what waits.")
	case o.how == chosenClose:
		r.wanted = false
		r.pile.layAside(now)
	case o.how == chosenLater:
		r.pile.lay(s.prompt.ID, now)
	default:
		r.pile.lay(s.prompt.ID, now)
		if o.said != "" {
			r.remark(s.prompt, o.said)
		}
	}
	if o.err == nil {
		r.fails, r.pause = 0, time.Time{}
	}
}

// reason is a sentence's end.
func reason(s string) string {
	if s == "" {
		return "it has changed"
	}
	return strings.ToLower(s[:1]) + s[1:]
}

func upper(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// turn does what is to be done now.
func (r *round) turn() {
	now := r.now()
	sits := ""
	if r.sitting != nil {
		sits = r.sitting.prompt.ID
	}
	if !r.ringing && (r.hushes || r.shown != "" && r.pile.key() == "") {
		r.shown, r.hushes, r.ringing = "", false, true
		go func() {
			ctx, stop := context.WithTimeout(r.ctx, bellWithin)
			defer stop()
			r.bell.hush(ctx)
			r.rang <- ringing{hush: true}
		}()
	}
	if !r.ringing && !now.Before(r.last.Add(ringEvery)) {
		switch key := r.pile.key(); {
		case r.pile.due(now, sits):
			r.pile.ring(now)
			r.last, r.pending = now, r.pile.key()
			n := r.pile.notice(now)
			if n.minor && now.Before(r.minor.Add(minorEvery)) {
				n.calm = true
			} else if n.minor {
				r.minor = now
			}
			r.start(n)
		case r.shown != "" && key != r.shown:
			r.last, r.pending = now, key
			n := r.pile.notice(now)
			n.calm = true
			r.start(n)
		}
	}
	if !r.ringing && len(r.remarks) > 0 {
		n := r.remarks[0]
		r.remarks = r.remarks[1:]
		r.start(n)
	}
	if r.sitting == nil && r.wanted && !now.Before(r.pause) {
		p, others, ok := r.pile.first()
		if !ok {
			r.wanted = false
			return
		}
		r.sit(p, others)
	}
}

// wait is how long nothing is to be done.
func (r *round) wait() time.Duration {
	at := r.now().Add(time.Hour)
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(at) {
			at = t
		}
	}
	sits := ""
	if r.sitting != nil {
		sits = r.sitting.prompt.ID
	}
	if due := r.pile.nextDue(sits); !r.ringing && !due.IsZero() {
		if again := r.last.Add(ringEvery); due.Before(again) {
			due = again
		}
		sooner(due)
	}
	if !r.ringing && r.shown != "" && r.pile.key() != r.shown {
		sooner(r.last.Add(ringEvery))
	}
	if r.sitting == nil && r.wanted {
		sooner(r.pause)
	}
	return max(0, at.Sub(r.now()))
}

// start shows a notification, one at a time.
func (r *round) start(n notice) {
	r.ringing = true
	go func() {
		ctx, stop := context.WithTimeout(r.ctx, bellWithin)
		defer stop()
		heard, err := r.bell.ring(ctx, n)
		r.rang <- ringing{n: n, heard: heard, err: err}
	}()
}

// rung takes in what became of a notification.
func (r *round) rung(g ringing) {
	r.ringing = false
	if g.hush || r.ctx.Err() != nil {
		return
	}
	why := ""
	if g.err != nil {
		why = wire.Clean(g.err.Error(), 300)
	}
	if why != r.mute {
		if r.mute = why; why != "" {
			r.log.Error("desktop notification", "err", why)
		} else {
			r.log.Info("desktop notification", "shown", true)
		}
	}
	if g.n.remark {
		return
	}
	if r.shown = r.pending; g.err != nil {
		r.shown = "" // whoever showed it is gone
	}
	// What cannot be clicked must not wait for a click.
	if !g.n.calm && (r.atOnce || !g.heard) {
		r.wanted = true
	}
}

// end waits for what still runs.
func (r *round) end() {
	for r.sitting != nil || r.ringing {
		select {
		case <-r.ended:
			r.sitting = nil
		case <-r.rang:
			r.ringing = false
		}
	}
	// Nobody answers any more: what waits is not to be left on the screen.
	if r.shown != "" {
		ctx, stop := context.WithTimeout(context.Background(), time.Second)
		defer stop()
		r.bell.hush(ctx)
	}
}

// sit shows a prompt in a window, and what follows from that.
func (r *round) sit(p answer.Prompt, others []answer.Prompt) {
	ctx, cancel := context.WithCancelCause(r.ctx)
	s := &sitting{prompt: p, close: cancel}
	r.sitting = s
	go func() {
		defer cancel(nil)
		o := r.converse(ctx, r.desk, s, others)
		if o.err != nil && errors.Is(context.Cause(ctx), errChanged) {
			o.err = errChanged
		}
		r.ended <- o
	}()
}

// converse is what happens in windows about one prompt, in order.
func (d *desktop) converse(ctx context.Context, desk answer.Decisions, s *sitting, others []answer.Prompt) outcome {
	p := s.prompt
	sheet := sheetOf{title: windowTitle(p, ""), decline: true}
	if p.Answerable {
		switch {
		case p.Ask == wire.AskLink && p.LinkHost == "": // a command is to be run, elsewhere
		case p.Ask == wire.AskLink && !p.TypeMatch:
			sheet.proceed = "Open the link"
		case p.Yes:
			sheet.proceed = "Agree…"
		default:
			sheet.proceed = "Answer…"
		}
	}
	for {
		sheet.text = d.factsOf(p, others)
		c, err := d.panes.show(ctx, sheet)
		if err != nil {
			return outcome{err: err}
		}
		o := outcome{how: c}
		switch c {
		case chosenProceed:
			o = d.answerIn(ctx, desk, p)
		case chosenDecline:
			s.declining.Store(true)
			o = d.declineIn(ctx, desk, p)
			s.declining.Store(false)
		}
		if !errors.Is(o.err, errBack) {
			return o
		}
	}
}

// answerIn asks for what answers p. errBack: back to the facts.
func (d *desktop) answerIn(ctx context.Context, desk answer.Decisions, p answer.Prompt) outcome {
	a := answer.Answer{ID: p.ID, Attempt: p.Attempt}
	kind := enterCode
	switch {
	case p.TypeMatch || p.Yes:
		kind = enterMatch
	case p.Ask == wire.AskLink:
		kind = enterOpen
	}
	wrong := ""
	// What was decided is done, whatever becomes of the window meanwhile.
	deciding := context.WithoutCancel(ctx)
	for {
		var err error
		tried := false
		switch kind {
		case enterMatch:
			f := fieldOf{title: windowTitle(p, "match code"), text: fieldText(wrong, "Match code from the job's log"), proceed: "Go on"}
			if p.Yes {
				f.text, f.proceed = fieldText(wrong, "Match code from the job's log, which is your yes"), "Agree"
			}
			if a.Match, err = d.panes.enter(ctx, f); err != nil {
				return outcome{err: err}
			}
			if p.Ask == wire.AskLink {
				kind, wrong = enterOpen, ""
				continue
			}
			// For a code asked with none yet, which cannot be answered: whoever reads
			// the wrong log shall find out before typing a code.
			err = desk.Answer(deciding, a)
		case enterOpen:
			var link string
			if link, err = desk.Follow(deciding, a); err == nil {
				return d.follow(ctx, p, link)
			}
		default:
			tried = true
			f := fieldOf{title: windowTitle(p, "code"), text: fieldText(wrong, "Code, "+p.Format), proceed: "Send", hidden: true}
			if a.Code, err = d.panes.enter(ctx, f); err != nil {
				return outcome{err: err}
			}
			err = desk.Answer(deciding, a)
			a.Code = ""
		}
		switch {
		case err == nil:
			return outcome{how: chosenProceed}
		case errors.Is(err, answer.ErrCode):
			kind, wrong = enterCode, ""
			if tried {
				wrong = plain(err)
			}
		case errors.Is(err, answer.ErrMatch):
			kind, wrong = enterMatch, plain(err)
		default:
			return outcome{how: chosenProceed, said: "Nothing was sent: " + plain(err)}
		}
	}
}

// follow opens a link: at once only if it is the one that was shown.
func (d *desktop) follow(ctx context.Context, p answer.Prompt, link string) outcome {
	if link != p.Link {
		c, err := d.panes.show(ctx, sheetOf{
			title: windowTitle(p, "link"), proceed: "Open the link",
			text: "The link of #" + fmt.Sprint(p.Number) + " leads to\n\n    host  " + harmless(wire.LinkHost(link)) + "\n    link  " + harmless(link) + "\n",
		})
		switch {
		case err != nil:
			return outcome{err: err}
		case c != chosenProceed:
			return outcome{how: c}
		}
	}
	if err := d.browse(link); err != nil {
		// Shown, so that it can be copied: the human has asked to go there.
		_, err := d.panes.show(ctx, sheetOf{
			title: windowTitle(p, "link"),
			text:  "The link was not opened: " + harmless(wire.Clean(err.Error(), 200)) + ".\nFollow it by hand, in a browser of your own:\n\n    " + harmless(link) + "\n",
		})
		return outcome{how: chosenProceed, err: err}
	}
	return outcome{how: chosenProceed, said: "Opened in your browser; the job sees by itself when that is done."}
}

// declineIn asks for a reason and declines.
func (d *desktop) declineIn(ctx context.Context, desk answer.Decisions, p answer.Prompt) outcome {
	wrong := ""
	for {
		reason, err := d.panes.enter(ctx, fieldOf{
			title: windowTitle(p, "decline"), text: fieldText(wrong, "Why you decline (may be left empty; the job's log shows it)"), proceed: "Decline",
		})
		if err != nil {
			return outcome{err: err}
		}
		if err := desk.Decline(context.WithoutCancel(ctx), p.ID, reason); err != nil {
			if errors.Is(err, wire.ErrMalformed) { // too long, or with characters that are none
				wrong = plain(err)
				continue
			}
			return outcome{how: chosenProceed, said: "Nothing was sent: " + plain(err)}
		}
		return outcome{how: chosenProceed}
	}
}

// windowTitle names a window after its prompt and what it asks for.
func windowTitle(p answer.Prompt, what string) string {
	if what != "" {
		what = ", " + what
	}
	return fmt.Sprintf("cfa-responder: request #%d%s", p.Number, what)
}

// fieldText is what stands above a field: what was wrong with the last try, and what
// is to be typed. It says nothing of the job: see fieldOf.
func fieldText(wrong, what string) string {
	var lines []string
	if wrong != "" {
		lines = append(lines, "Not taken: "+wrong+".")
	}
	return harmless(strings.Join(append(lines, what+":"), "\n"))
}

// factsOf is the text of a prompt's window. The window does not change while it is
// looked at, so it says of when it is.
func (d *desktop) factsOf(p answer.Prompt, others []answer.Prompt) string {
	var b strings.Builder
	now := d.now()
	t := teller{write: func(s string) { b.WriteString(s) }, mute: true, now: d.now}
	para := func(s string) {
		for line := range strings.SplitSeq(s, "\n") {
			for _, part := range wrapAt(line, paneWidth) {
				b.WriteString(part + "\n")
			}
		}
		b.WriteString("\n")
	}
	switch p.Standing {
	case answer.Verified:
		para(sentence(p, now) + ".")
		para(fmt.Sprintf("Verified here: the job has proved itself by its CI's token within the last %d minutes, and fits your pins.", int(wire.OpeningLasts.Minutes())))
	case answer.Foreign, answer.Unpinned:
		para("It cannot be answered. " + p.Why)
	default:
		para("It cannot be answered: nothing is known of what asks, in the project " + p.Project + ". " + p.Why)
	}
	if known(p.Standing) {
		rows := t.table(p)
		for i, row := range rows {
			if row[0] == "time left" {
				rows[i][1] += ", until " + p.Deadline.Local().Format("15:04:05")
			}
		}
		t.rows(p.Number, rows)
		b.WriteString("\n")
	}
	switch {
	case p.Standing == answer.Verified && !p.Answerable:
		para("It cannot be answered now: " + p.Why)
	case p.Answerable && p.Ask == wire.AskLink && p.LinkHost == "":
		para("Run the command above, on a computer of your own; the job sees by itself when that is done.")
	case p.Yes && p.Ask == wire.AskCode:
		para("The match code from the job's log is your yes; another person gives the code.")
	}
	var run, rest []answer.Prompt
	for _, q := range others {
		if p.Group != "" && q.Group == p.Group {
			run = append(run, q)
		} else {
			rest = append(rest, q)
		}
	}
	if len(run) > 0 {
		para("The same run asks for " + numbers(run) + " too. Each is answered in a window of its own; cfa-responder screen answers them together.")
	}
	if len(rest) > 0 {
		para(fmt.Sprintf("%d more wait: %s.", len(rest), numbers(rest)))
	}
	if p.Details != "" {
		t.more(p)
	}
	return strings.TrimRight(harmless(b.String()), "\n") + "\n"
}

// paneWidth is the columns of a window's text.
const paneWidth = 80

// wrapAt is wrap, at another width.
func wrapAt(s string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Split(s, " ") {
		if line != "" && len([]rune(line))+1+len([]rune(word)) > width {
			lines, line = append(lines, line), word
			continue
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}

// pile is what waits, and when it rings. It is pure: the time is handed in.
type pile struct {
	waits map[string]*lying
	gone  map[string]string // how those ended of which a window may be open still
	away  bool
}

// lying is a prompt that waits.
type lying struct {
	prompt answer.Prompt
	facts  answer.Prompt // the last snapshot with facts
	mark   string        // what it rang for
	rings  int
	due    time.Time // when it rings; zero: it does not
	aside  bool      // no window for it until it rings again
}

const (
	// proveWithin is how long a job has to prove itself before a prompt rings without
	// facts.
	proveWithin = 5 * time.Second
	mostRings   = 4 // that a notification names
)

// backoff is how long after its nth ring a prompt rings again.
func backoff(n int) time.Duration {
	return min(time.Minute<<max(0, min(n, 10)-1), 15*time.Minute)
}

// take takes in a snapshot. open: it is to be opened, because a human is about to
// see it.
func (l *pile) take(p answer.Prompt, now time.Time) (open bool) {
	if l.waits == nil {
		l.waits, l.gone = map[string]*lying{}, map[string]string{}
	}
	if p.Phase == answer.Over {
		if l.waits[p.ID] != nil {
			if len(l.gone) > 64 { // only the newest is ever asked for
				clear(l.gone)
			}
			l.gone[p.ID] = firstLine(p.Why)
		}
		delete(l.waits, p.ID)
		return false
	}
	w, seen := l.waits[p.ID]
	if !seen {
		w = &lying{}
		l.waits[p.ID] = w
	}
	open = !p.Quiet && (!seen || w.prompt.Quiet)
	w.prompt = p
	if known(p.Standing) {
		w.facts = p
	}
	mark := fmt.Sprintf("%s %d %t", p.Standing, p.Attempt, p.Answerable)
	switch {
	case p.Quiet || p.Phase != answer.Asking:
		w.due, w.mark, w.rings = time.Time{}, "", 0
	case p.Standing == answer.Unopened || p.Standing == answer.Checking:
		if w.mark == "" {
			w.mark, w.due = "unknown", now.Add(proveWithin)
		}
	case mark != w.mark:
		w.mark, w.due, w.rings, w.aside = mark, now, 0, false
	}
	return open
}

// known is the last snapshot with facts.
func (l *pile) known(id string) answer.Prompt {
	if w := l.waits[id]; w != nil {
		return w.facts
	}
	return answer.Prompt{}
}

// ended says how a prompt ended.
func (l *pile) ended(id string) string { return l.gone[id] }

// nextDue is when something rings; zero: nothing does. A prompt whose window is open
// does not.
func (l *pile) nextDue(sits string) (at time.Time) {
	if l.away {
		return at
	}
	for id, w := range l.waits {
		if id != sits && !w.due.IsZero() && (at.IsZero() || w.due.Before(at)) {
			at = w.due
		}
	}
	return at
}

func (l *pile) due(now time.Time, sits string) bool {
	at := l.nextDue(sits)
	return !at.IsZero() && !at.After(now)
}

// ring notes that what is due has rung. What cannot be answered rings once.
func (l *pile) ring(now time.Time) {
	for _, w := range l.waits {
		if w.due.IsZero() || w.due.After(now) {
			continue
		}
		w.rings++
		w.aside = false
		w.due = time.Time{}
		if w.prompt.Answerable {
			w.due = now.Add(backoff(w.rings))
		}
	}
}

// lay lays one aside until it rings again.
func (l *pile) lay(id string, now time.Time) {
	w := l.waits[id]
	if w == nil {
		return
	}
	w.aside = true
	if !w.due.IsZero() {
		w.due = now.Add(backoff(w.rings))
	}
}

// layAside lays all of them aside that have rung.
func (l *pile) layAside(now time.Time) {
	for id, w := range l.waits {
		if w.rings > 0 {
			l.lay(id, now)
		}
	}
}

// takeUp ends that.
func (l *pile) takeUp() {
	for _, w := range l.waits {
		w.aside = false
	}
}

// rung gives those that have rung and wait, in order.
func (l *pile) rung() (all []*lying) {
	for _, w := range l.waits {
		if w.rings > 0 && w.prompt.Phase == answer.Asking {
			all = append(all, w)
		}
	}
	slices.SortFunc(all, func(a, b *lying) int { return byNumber(a.prompt, b.prompt) })
	return all
}

// first is the prompt whose window is next, and the others that wait.
func (l *pile) first() (p answer.Prompt, others []answer.Prompt, ok bool) {
	for _, w := range l.rung() {
		if !ok && !w.aside {
			p, ok = w.prompt, true
			continue
		}
		others = append(others, w.prompt)
	}
	return p, others, ok
}

// key says what a notification is about: it is renewed when that changes.
func (l *pile) key() string {
	var b strings.Builder
	for _, w := range l.rung() {
		fmt.Fprintf(&b, "%s %s\n", w.prompt.ID, w.mark)
	}
	return b.String()
}

// notice is the notification for all that has rung.
func (l *pile) notice(now time.Time) notice {
	all := l.rung()
	if len(all) == 1 {
		return noticeOf(all[0].prompt, now)
	}
	n := notice{title: fmt.Sprintf("%d requests wait for you", len(all)), minor: true}
	var lines []string
	for i, w := range all {
		p := w.prompt
		n.minor = n.minor && !p.Answerable
		if i == mostRings {
			lines = append(lines, fmt.Sprintf("and %d more", len(all)-i))
		}
		if i >= mostRings {
			continue
		}
		what := "a request in the project " + p.Project + " that cannot be answered"
		if p.Standing == answer.Verified {
			what = fmt.Sprintf("%s %s %s", p.Facts.Repository, asks(asked(p)), p.Service)
		}
		lines = append(lines, fmt.Sprintf("#%d: %s", p.Number, what))
	}
	n.body = harmless(strings.Join(lines, "\n"))
	return n
}

// noticeOf is the notification for one prompt.
func noticeOf(p answer.Prompt, now time.Time) notice {
	if p.Standing != answer.Verified {
		n := notice{minor: true, title: "A request that cannot be answered", body: "In the project " + p.Project + ": " + firstLine(p.Why)}
		if p.Standing == answer.Unopened || p.Standing == answer.Checking {
			n.title = "A request that has not proved itself yet"
		}
		n.body = harmless(n.body)
		return n
	}
	n := notice{title: "A code is wanted", minor: !p.Answerable}
	switch asked(p) {
	case wire.AskLink:
		n.title = "A link is to be followed"
	case wire.AskApproval:
		n.title = "Your yes is wanted"
	}
	if p.Reason == wire.ReasonRejected && p.Attempt > 1 {
		n.title += " again"
	}
	lines := []string{sentence(p, now) + "."}
	if why := attemptReason(p); why != "" {
		lines = append(lines, "Again, because "+why+".")
	}
	if !p.Answerable {
		lines = append(lines, "It cannot be answered now: "+firstLine(p.Why))
	}
	match := "Match code: " + p.Match
	if p.TypeMatch || p.Match == "" {
		match = "Its match code is to be typed, read off the job's log"
	}
	lines = append(lines, fmt.Sprintf("%s. Time left: %s.", match, span(p.Deadline.Sub(now))))
	n.body = harmless(strings.Join(lines, "\n"))
	return n
}
