package answer

// A front is the desks of several relays before one human, and the same ways to
// ask for all of them.
//
// The rule it keeps: a relay can say nothing about another's prompts. Each desk
// keeps its own keys' connection, its own state and its own judgement; here they
// are only numbered together, and a decision goes back to the desk from which
// its prompt came. Two relays that pass on the same request are two prompts (and
// only at the relay that it names can it be answered).

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// Front is one or more desks. Make it with [NewFront], and run it once.
type Front struct {
	askers []Asker
	desks  map[string]*Desk // by relay
	relays []string         // in order
	abort  chan struct{}    // closed: leave at once, whatever is on its way

	mu       sync.Mutex
	couriers []*Courier
	number   int
	numbers  map[string]int     // by the front's id of a prompt
	waits    map[string]Prompt  // last told and not over
	away     map[string]Absence // by relay
	toldAway Absence
	quit     bool
	err      error // of an asker
	aborted  bool
}

// NewFront makes a front of desks that have no askers of their own, each for
// another relay.
func NewFront(configs []Config, askers []Asker) (*Front, error) {
	f := &Front{
		askers: askers, desks: map[string]*Desk{}, abort: make(chan struct{}),
		numbers: map[string]int{}, waits: map[string]Prompt{},
	}
	if len(configs) == 0 || len(askers) == 0 {
		return nil, errors.New("a front needs a relay and a way to ask")
	}
	for _, c := range configs {
		if c.Relay == nil {
			return nil, errors.New("a desk needs a relay")
		}
		name := c.Relay.Name()
		if f.desks[name] != nil {
			return nil, fmt.Errorf("the relay %s is named twice", wire.CleanName(name, 253))
		}
		c.Askers = []Asker{feed{f, name}}
		d, err := New(c)
		if err != nil {
			return nil, err
		}
		f.desks[name], f.relays = d, append(f.relays, name)
	}
	return f, nil
}

// Run answers until ctx ends, an asker quits, or no relay can be used any more;
// then it returns why. A relay that cannot be used ends that relay's desk only. It
// stays until what is on its way has arrived, as [Desk.Run] does.
func (f *Front) Run(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	asking := make(chan struct{}, len(f.askers))
	f.mu.Lock()
	for _, a := range f.askers {
		f.couriers = append(f.couriers, courierFor(a))
	}
	f.mu.Unlock()
	for i, a := range f.askers {
		c := f.couriers[i]
		go c.deliver(work)
		go func() {
			f.askerEnded(a.Ask(work, c.out, f))
			asking <- struct{}{}
		}()
	}

	type end struct {
		relay string
		err   error
	}
	ends := make(chan end, len(f.desks))
	for name, d := range f.desks {
		go func() { ends <- end{name, d.Run(ctx)} }()
	}
	var failed []error
	for range f.desks {
		e := <-ends
		f.closed(e.relay, e.err)
		if e.err != nil {
			failed = append(failed, e.err)
		}
	}

	f.mu.Lock()
	for _, c := range f.couriers {
		c.close()
	}
	err := f.err
	f.mu.Unlock()
	if err == nil && len(failed) == len(f.desks) {
		err = failed[0]
		if len(failed) > 1 {
			err = errors.Join(failed...)
		}
	}
	// As in Desk.Run: one more second by each of two words, then it is left behind.
	patience := time.NewTimer(time.Second)
	defer patience.Stop()
	for left := len(f.askers); left > 0; {
		select {
		case <-asking:
			left--
		case <-patience.C:
			if work.Err() != nil {
				return err
			}
			stop()
			patience.Reset(time.Second)
		}
	}
	return err
}

// Quit ends all desks, after what is on its way has arrived.
func (f *Front) Quit() {
	f.mu.Lock()
	f.quit = true
	f.mu.Unlock()
	for _, d := range f.desks {
		d.Quit()
	}
}

// Notice tells every asker something that a person should know. It must be safe
// to show.
func (f *Front) Notice(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notice(text)
}

func (f *Front) notice(text string) {
	for _, c := range f.couriers {
		c.notice(text)
	}
}

// SetTrust replaces what is believed of one relay's jobs; see [Desk.SetTrust].
func (f *Front) SetTrust(relay string, t Trust) {
	if d := f.desks[relay]; d != nil {
		d.SetTrust(t)
	}
}

// Lines gives the state of each connection, in the order of the configurations.
func (f *Front) Lines() []Line {
	var all []Line
	for _, name := range f.relays {
		all = append(all, f.desks[name].Line())
	}
	return all
}

func (f *Front) askerEnded(err error) {
	f.mu.Lock()
	if err != nil && f.quit && !f.aborted {
		// Told to quit, and then this: the human will not wait for an arrival.
		f.aborted = true
		close(f.abort)
	}
	if err != nil && f.err == nil {
		f.err = err
	}
	f.mu.Unlock()
	f.Quit()
}

// closed takes off what a desk that has ended had shown.
func (f *Front) closed(relay string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, p := range f.waits {
		if p.Relay != relay {
			continue
		}
		p.Phase, p.Answerable, p.Why = Over, false, "this responder has left its relay"
		delete(f.waits, id)
		delete(f.numbers, id)
		for _, c := range f.couriers {
			c.prompt(p)
		}
	}
	if err != nil && len(f.desks) > 1 {
		f.notice("nothing is shown of the relay " + wire.Clean(relay, 253) + " any more: " + cleanLines(err.Error(), 400))
	}
}

// feed is the one asker of each desk.
type feed struct {
	front *Front
	relay string
}

// Discreet is [Discreet]'s: each way decides for itself.
func (d feed) Discreet() {}

// Ask is [Asker]'s.
func (d feed) Ask(_ context.Context, news <-chan News, _ Decisions) error {
	for {
		select {
		case n, ok := <-news:
			if !ok {
				return nil
			}
			d.front.take(d.relay, n)
		case <-d.front.abort:
			return errLeft
		}
	}
}

var errLeft = errors.New("left before what was on its way had arrived")

// take passes a desk's news on, as the front's own.
func (f *Front) take(relay string, n News) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n.Away != nil {
		f.absence(relay, *n.Away)
		return
	}
	if n.Prompt == nil {
		if len(f.desks) > 1 && !strings.Contains(n.Notice, relay) {
			n.Notice = wire.Clean(relay, 253) + ": " + n.Notice
		}
		f.notice(n.Notice)
		return
	}
	p := *n.Prompt
	p.ID = f.id(relay, p.ID)
	if p.Group != "" && len(f.desks) > 1 {
		p.Group += "@" + relay // a run's facts are the same at each relay; its answers are not
	}
	if f.numbers[p.ID] == 0 {
		f.number++
		f.numbers[p.ID] = f.number
	}
	p.Number = f.numbers[p.ID]
	f.waits[p.ID] = p
	if p.Phase == Over {
		delete(f.waits, p.ID)
		delete(f.numbers, p.ID)
	}
	for _, c := range f.couriers {
		c.prompt(p)
	}
}

// absence takes in that the human is away at a relay, or back. They are away where
// they are at each, until the first of these ends; who is at some only is told so.
func (f *Front) absence(relay string, a Absence) {
	if f.away == nil {
		f.away = map[string]Absence{}
	}
	if a.Until.IsZero() {
		delete(f.away, relay)
	} else {
		f.away[relay] = a
	}
	all := Absence{}
	if len(f.away) == len(f.desks) {
		for _, a := range f.away {
			if all.Until.IsZero() || a.Until.Before(all.Until) {
				all = a
			}
		}
	}
	if len(f.away) > 0 && len(f.away) < len(f.desks) && all.Until.Equal(f.toldAway.Until) && !a.Until.IsZero() {
		f.notice(wire.Clean(relay, 253) + ": you are away at this relay until " + a.Until.Local().Format("Mon 2 Jan 15:04") + "; its new requests are not brought to you until then")
	}
	if all.Until.Equal(f.toldAway.Until) {
		return
	}
	f.toldAway = all
	for _, c := range f.couriers {
		c.absence(all)
	}
}

// id names a prompt of one of several relays: a relay can repeat the key of
// another's request.
func (f *Front) id(relay, key string) string {
	if len(f.desks) == 1 {
		return key
	}
	return key + "@" + relay
}

// find gives the desk of a prompt, and the request's key.
func (f *Front) find(id string) (*Desk, string, error) {
	key, relay, several := strings.Cut(id, "@")
	if !several && len(f.relays) == 1 {
		relay = f.relays[0]
	}
	d := f.desks[relay]
	if d == nil {
		return nil, "", fmt.Errorf("%w: it is unknown here", ErrNotAnswerable)
	}
	return d, key, nil
}

// Open is [Decisions]'.
func (f *Front) Open(id string) {
	if d, key, err := f.find(id); err == nil {
		d.Open(key)
	}
}

// Answer is [Decisions]'.
func (f *Front) Answer(ctx context.Context, a Answer) error {
	d, key, err := f.find(a.ID)
	if err != nil {
		return err
	}
	a.ID = key
	return d.Answer(ctx, a)
}

// AnswerAll is [Decisions]'. All members must be of one relay.
func (f *Front) AnswerAll(ctx context.Context, a Together) (left []LeftOut, err error) {
	var desk *Desk
	ids := map[string]string{}
	a.Members = slices.Clone(a.Members)
	for i, m := range a.Members {
		d, key, err := f.find(m.ID)
		switch {
		case err != nil:
			return nil, err
		case desk != nil && desk != d:
			return nil, fmt.Errorf("%w: they are of several relays, so each is to be answered by itself", ErrNotAnswerable)
		}
		desk, ids[key], a.Members[i].ID = d, m.ID, key
	}
	if desk == nil {
		return nil, fmt.Errorf("%w: there are none", ErrNotAnswerable)
	}
	left, err = desk.AnswerAll(ctx, a)
	for i := range left {
		left[i].ID = ids[left[i].ID]
	}
	return left, err
}

// UseSource is [Decisions]'.
func (f *Front) UseSource(ctx context.Context, a Answer) error {
	d, key, err := f.find(a.ID)
	if err != nil {
		return err
	}
	a.ID = key
	return d.UseSource(ctx, a)
}

// Follow is [Decisions]'.
func (f *Front) Follow(ctx context.Context, a Answer) (link string, err error) {
	d, key, err := f.find(a.ID)
	if err != nil {
		return "", err
	}
	a.ID = key
	return d.Follow(ctx, a)
}

// Decline is [Decisions]'.
func (f *Front) Decline(ctx context.Context, id, reason string) error {
	d, key, err := f.find(id)
	if err != nil {
		return err
	}
	return d.Decline(ctx, key, reason)
}

// Away is [Decisions]': at each relay.
func (f *Front) Away(ctx context.Context, until time.Time) error {
	var all []error
	for _, name := range f.relays {
		if err := f.desks[name].Away(ctx, until); err != nil && !errors.Is(err, errGone) {
			if errors.Is(err, ErrUntil) { // the same at each
				return err
			}
			all = append(all, fmt.Errorf("%s: %w", wire.CleanName(name, 253), err))
		}
	}
	return errors.Join(all...)
}
