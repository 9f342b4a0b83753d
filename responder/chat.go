package main

// chat: what every chat has in common. It rings: it says what asks, and where that is
// answered.
//
// The rules it keeps. Only what is verified is said, since a message looks the same
// to everybody who reads it, and none of them has a proof. A chat's company, and all
// who read along, learn what is said: which repository wants a factor, when, and who
// answered; so no message of the job, no link of its making, no code and no match code
// is in it. And a chat that is slow, or gone, holds up nothing: there is one message
// for each thing that asks, made when it can be sent, of what is true then.
//
// What it must never do: take a chat's word. Nothing that comes back from a server
// decides anything here; for the one exception, which a human has to ask for by a
// sentence, see slackcodes.go.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

const (
	// firstPause and longestPause are between tries at a server that does not take
	// what it is sent.
	firstPause   = 2 * time.Second
	longestPause = 5 * time.Minute
	// mostTolls is how many new messages there are within tollsWithin: beyond that a
	// human would not read them. The others wait, and are said if they still ask then.
	mostTolls   = 20
	tollsWithin = 10 * time.Minute
	// mostChanges is how often it is tried to change a message: somebody may have
	// deleted it.
	mostChanges = 5
	// keptTolls bounds the messages that are remembered.
	keptTolls = 512
	maxPage   = 200
)

// note is what a message says. All of it is text of ours, verified facts and names
// that a human chose; nothing in it reads as a link (see defused), and each medium
// escapes it for itself.
type note struct {
	Title      string // what rings, in a few words
	Text       string // all that is said, in lines
	Sentence   string // what asks
	State      string // asks, or what became of it
	What       string // a code, a link, a yes
	Repository string
	Workflow   string
	Ref        string
	Actor      string
	Service    string
	Project    string
	Asked      string // how long ago
	Left       string // how long it waits
	Until      string // the same, on the clock
	Where      string // where it is answered
	Page       string // the human's own page, a URL; "" if there is none
	Number     int    // the prompt's
	More       int    // others of its run

	id string // the message's: equal for each try
}

// room is where messages go.
type room interface {
	// say posts a message and gives what names it there, "" where nothing does.
	say(ctx context.Context, n note) (handle string, err error)
	// change replaces it. Rooms in which that cannot be done are not asked to.
	change(ctx context.Context, handle string, n note) error
}

// tolling is one message: about a prompt's attempt, or one of a run's.
type tolling struct {
	id      string
	members []answer.Prompt // newest snapshots, the first one's facts as it was verified
	tried   bool            // to say it
	said    string          // the state that stands there; "": none
	handle  string
	fails   int // tries to change it, in a row
}

// chime is a way to ask that rings.
type chime struct {
	name  string // of the way, for people
	room  room
	fixed bool   // what was said cannot be changed
	alone bool   // a message for each prompt, and not one for a run
	page  string // where the human's own page is
	tail  func(p answer.Prompt) string
	log   *slog.Logger
	tell  func(string) // something a person should know
	now   func() time.Time
	pause time.Duration // firstPause

	wake chan struct{}

	mu      sync.Mutex
	rings   []*tolling
	opened  map[string]bool
	times   []time.Time   // of the last new messages
	saying  chan struct{} // closed when the message that is being made has its name; nil: none is
	ill     bool          // that it does not work was said
	crowded bool
}

func newChime(name string, sur surroundings, r room) *chime {
	return &chime{
		name: name, room: r, log: sur.log, now: time.Now, pause: firstPause, opened: map[string]bool{}, wake: make(chan struct{}, 1),
		tell: func(s string) { fmt.Fprintln(sur.std.err, harmless(s)) },
	}
}

// Ask is answer.Asker's.
func (b *chime) Ask(ctx context.Context, news <-chan answer.News, desk answer.Decisions) error {
	ctx, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.work(ctx)
	}()
	defer func() {
		stop()
		<-done
	}()
	for n := range news {
		if n.Prompt == nil {
			continue
		}
		if b.news(*n.Prompt) {
			desk.Open(n.Prompt.ID)
		}
	}
	return nil
}

// news takes in a snapshot. It reports whether the prompt is to be opened: it will be
// said if it proves itself.
func (b *chime) news(p answer.Prompt) (open bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.Phase == answer.Over {
		delete(b.opened, p.ID)
	} else if p.Phase == answer.Asking && !b.opened[p.ID] {
		b.opened[p.ID] = true
		open = true
	}
	var mine *tolling
	for _, r := range b.rings {
		i := slices.IndexFunc(r.members, func(q answer.Prompt) bool { return q.ID == p.ID })
		if i < 0 {
			continue
		}
		old := &r.members[i]
		if old.Phase == answer.Over { // of an attempt that is past
			continue
		}
		if p.Attempt != old.Attempt {
			old.Phase, old.Why = answer.Over, againWhy
			continue
		}
		mine = r
		if p.Standing != answer.Verified { // it is known by its last proof
			old.Phase, old.Why, old.By, old.Answerable = p.Phase, p.Why, p.By, false
		} else {
			*old = p
		}
	}
	if mine == nil && p.Phase == answer.Asking && p.Standing == answer.Verified && p.Answerable {
		b.ring(p)
	}
	b.stir()
	return open
}

// againWhy is what became of an attempt that another follows.
const againWhy = "it was answered, and asks again"

func (b *chime) ring(p answer.Prompt) {
	if p.Group != "" && !b.alone {
		for _, r := range b.rings {
			first := r.members[0]
			if first.Group == p.Group && first.Attempt == p.Attempt && !r.over() {
				r.members = append(r.members, p)
				return
			}
		}
	}
	if len(b.rings) >= keptTolls {
		oldest := max(0, slices.IndexFunc(b.rings, (*tolling).over))
		b.rings = slices.Delete(b.rings, oldest, oldest+1)
	}
	b.rings = append(b.rings, &tolling{id: rand.Text(), members: []answer.Prompt{p}})
}

func (b *chime) stir() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (r *tolling) over() bool {
	return !slices.ContainsFunc(r.members, func(p answer.Prompt) bool { return p.Phase != answer.Over })
}

// state is what is to be said of it now. What is on its way is not said: nobody knows
// yet whether it arrives.
func (r *tolling) state() string {
	asking, who := 0, ""
	for _, p := range r.members {
		switch p.Phase {
		case answer.Asking, answer.Sending:
			asking++
		}
		who = ended(p)
	}
	switch {
	case asking == 1 && len(r.members) == 1 && r.members[0].TypeMatch:
		return "asks for its match code too"
	case asking == len(r.members):
		return fmt.Sprintf("asks %d", asking)
	case asking > 0:
		return fmt.Sprintf("asks %d of %d", asking, len(r.members))
	case len(r.members) > 1:
		return fmt.Sprintf("all %d of its run are answered or over", len(r.members))
	}
	return who
}

// ended says what became of p, without what anybody gave as a reason.
func ended(p answer.Prompt) string {
	why, _, _ := strings.Cut(firstLine(p.Why), ": ")
	by := p.By
	if by == "" {
		by = "a responder of " + p.Relay
	}
	switch {
	case p.Phase == answer.Resting:
		return "answered by " + by
	case p.Phase != answer.Over:
		return ""
	case strings.HasSuffix(why, " declined"):
		return "declined by " + by
	case p.By != "" && why != againWhy:
		return "answered by " + by + "; " + why
	}
	return why
}

// work sends what is to be said, until ctx ends.
func (b *chime) work(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	pause, notBefore := time.Duration(0), time.Time{}
	for {
		wait := time.Hour
		if left := notBefore.Sub(b.now()); left > 0 {
			wait = left
		} else if r, n, state, later := b.next(); r == nil {
			wait = later
		} else {
			wait = 0
			err := b.send(ctx, r, n, state)
			if err == nil {
				pause = 0
			} else if ctx.Err() == nil {
				pause = min(max(2*pause, b.pause), longestPause)
				more := time.Duration(0)
				if u, ok := errors.AsType[*unsent](err); ok {
					more = u.wait
				}
				notBefore = b.now().Add(max(pause, more))
				b.aside(r, state)
				b.failed(err)
			}
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-b.wake:
		case <-timer.C:
		}
	}
}

// next gives the first message that is not as it should be, and what it should say.
func (b *chime) next() (r *tolling, n note, state string, later time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	later = time.Hour
	b.rings = slices.DeleteFunc(b.rings, func(r *tolling) bool {
		// Of what was never said, the end is not said either. Where people reply, what is
		// over is remembered: who replies too late is told so.
		return r.over() && (r.said == "" || b.fixed || !b.alone && r.said == r.state())
	})
	now := b.now()
	b.times = slices.DeleteFunc(b.times, func(t time.Time) bool { return now.Sub(t) >= tollsWithin })
	for _, r := range b.rings {
		state := r.state()
		switch {
		case r.said == state, r.said != "" && b.fixed:
			continue
		case r.said == "" && !strings.HasPrefix(state, "asks"):
			continue
		case r.said == "" && !r.tried && len(b.times) >= mostTolls:
			later = min(later, tollsWithin-now.Sub(b.times[0]))
			if !b.crowded {
				b.crowded = true
				b.complain(fmt.Sprintf("%s: %d messages within %s are enough; what else asks is said there later, if it still does", b.name, mostTolls, span(tollsWithin)))
			}
			continue
		}
		if r.said == "" && !r.tried {
			b.times = append(b.times, now)
		}
		r.tried = true
		return r, b.note(r, state), state, 0
	}
	return nil, note{}, "", later
}

func (b *chime) send(ctx context.Context, r *tolling, n note, state string) error {
	b.mu.Lock()
	handle, again := r.handle, r.said != ""
	saying := make(chan struct{})
	b.saying = saying
	b.mu.Unlock()
	defer close(saying)
	var err error
	if again {
		err = b.room.change(ctx, handle, n)
	} else {
		handle, err = b.room.say(ctx, n)
	}
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r.said, r.handle, r.fails = state, handle, 0
	if b.ill {
		b.ill = false
		b.complain(b.name + " takes messages again")
	}
	return nil
}

// aside has the others go first: what is wrong may be one message's alone.
func (b *chime) aside(r *tolling, state string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i := slices.Index(b.rings, r); i >= 0 {
		b.rings = append(slices.Delete(b.rings, i, i+1), r)
	}
	if r.said == "" {
		return
	}
	if r.fails++; r.fails >= mostChanges {
		r.said, r.fails = state, 0
	}
}

// failed says once that nothing rings there.
func (b *chime) failed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.log.Info("chat", "way", b.name, "outcome", "not sent", "why", err.Error())
	if !b.ill {
		b.ill = true
		b.complain(fmt.Sprintf("%s does not take messages: %s; it is tried again, and until then nothing rings there", b.name, err))
	}
}

func (b *chime) complain(text string) { b.tell(wire.Clean(text, 400)) }

// find gives the prompt that a message is about. One that is just being made may be
// seen, and replied to, before this program knows its name.
func (b *chime) find(ctx context.Context, handle string) (p answer.Prompt, ok bool) {
	if handle == "" {
		return p, false
	}
	look := func() (saying chan struct{}) {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, r := range b.rings {
			if r.handle == handle {
				p, ok = r.members[0], true
			}
		}
		return b.saying
	}
	if saying := look(); !ok && saying != nil {
		select {
		case <-saying:
			look()
		case <-ctx.Done():
		}
	}
	return p, ok
}

// note says what r is about.
func (b *chime) note(r *tolling, state string) note {
	p, now := defused(r.members[0]), b.now()
	n := note{
		Title: "A release waits for you", Sentence: sentence(p, now), State: state,
		What:       map[string]string{wire.AskLink: "a link", wire.AskApproval: "a yes"}[asked(p)],
		Repository: p.Facts.Repository, Workflow: p.Facts.Workflow, Ref: p.Facts.Ref, Actor: p.Facts.Actor,
		Service: p.Service, Project: p.Project,
		Asked: span(now.Sub(p.Since)) + " ago", Left: span(p.Deadline.Sub(now)), Until: p.Deadline.Local().Format("15:04"),
		Where: "answer it in your responder (cfa-responder listen)", Page: b.page, Number: p.Number, More: len(r.members) - 1,
		id: r.id,
	}
	if n.What == "" {
		n.What = "a code"
	}
	if b.page != "" {
		n.Where = "answer it in your responder: " + b.page
	}
	lines := []string{n.Sentence}
	if n.More > 0 {
		lines[0] += fmt.Sprintf("; and %d more of its run", n.More)
	}
	if strings.HasPrefix(state, "asks") {
		lines = append(lines, fmt.Sprintf("%s left, until %s; #%d: %s", n.Left, n.Until, p.Number, n.Where))
		if why := attemptReason(p); why != "" {
			lines = append(lines, why)
		}
		if b.tail != nil {
			lines = append(lines, b.tail(r.members[0]))
		}
	} else {
		n.Title, n.State = "It needs nothing of you any more", defuse(state)
		lines = append(lines, n.State)
	}
	n.Text = strings.Join(lines, "\n")
	return n
}

// defused is p without anything that a chat could take for a link or a mention, but
// for the repository's name, which the human has pinned.
func defused(p answer.Prompt) answer.Prompt {
	f := &p.Facts
	for _, s := range []*string{&f.Workflow, &f.WorkflowFile, &f.Ref, &f.Actor, &p.Service, &p.Project} {
		*s = defuse(*s)
	}
	return p
}

var (
	asLink    = regexp.MustCompile(`://`)
	asHost    = regexp.MustCompile(`\.(\pL{2})`)
	asMention = regexp.MustCompile(`@`)
)

// defuse spells what a chat would make a link or a mention of so that it does not: a
// workflow may be called https://login.example, and every chat would make that blue.
func defuse(s string) string {
	s = asLink.ReplaceAllString(s, "[:]//")
	s = asHost.ReplaceAllString(s, "[.]$1")
	return asMention.ReplaceAllString(s, "(at)")
}

// pageOf reads where the human's own page is.
func pageOf(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if _, err := hookURL(s); err != nil || len(s) > maxPage || !pageShape.MatchString(s) {
		return "", fmt.Errorf("page: write your own page's address, https://HOST/, in at most %d plain characters", maxPage)
	}
	return s, nil
}

var pageShape = regexp.MustCompile(`^https?://[A-Za-z0-9._~:/?&=%+,\[\]-]+$`)
