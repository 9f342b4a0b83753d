package answer

// The desk's loop: one goroutine owns all state, whatever waits (the relay, a
// verification, a human) runs beside it and comes back as a function to run.

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/wire"
)

const (
	replyWithin   = 5 * time.Second        // for the relay's reply to anything
	readGap       = 50 * time.Millisecond  // between two reads at least, however many hints come
	missingFor    = 20 * time.Second       // that the relay may leave a prompt out before it counts as gone
	firstBackoff  = 250 * time.Millisecond // between two attempts to connect, doubled up to lastBackoff
	lastBackoff   = 10 * time.Second
	patientWait   = 30 * time.Second // between two attempts of a patient desk that is refused, or does not find its relay
	steady        = 30 * time.Second // a connection that lived longer was a good one
	sleptAtLeast  = 10 * time.Second // by which the wall clock gets ahead of this program while the machine sleeps
	refusedTries  = 3                // refusals of a first connection before it is final
	refusedWithin = time.Minute      // how long a desk that was let in before is refused until it gives up

	maxPrompts = 256    // shown at once
	maxTombs   = 10_000 // of requests that have ended
	// maxAhead is how much later than now a request may say that it was made:
	// clocks differ, and the relay allows as much.
	maxAhead = 5 * time.Minute
	// maxWait is how far from now the deadline of an honest request can be, as
	// wire bounds it.
	maxWait = wire.LongestWait + 10*time.Minute
	// maxListens is what the relay allows one connection in subscriptions, with
	// room for replies and its own hints. Other projects are read every 15 s.
	maxListens = 32
	// maxPages has room for 32 projects with all that they may have open, in pages
	// of the largest requests, of which three fit.
	maxPages = 32*wire.MaxOpenProject/3 + 1
	maxKnown = 64 // keys in one wire.PendingQuery
)

// now is the wall clock. A monotonic reading stands still while a laptop
// sleeps, and a proof would outlive its ten minutes by a night.
func now() time.Time { return time.Now().Round(0) }

// Run answers until ctx ends, an asker quits, or the relay cannot be used:
// ErrNotEnrolled, or an error of dial's for a first connection. It stays until
// what is on its way has arrived, 75 seconds at most. It can be called once.
func (d *Desk) Run(ctx context.Context) error {
	defer close(d.done)
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	d.work = work

	askers := make(chan struct{}, len(d.config.Askers))
	for _, a := range d.config.Askers {
		c := courierFor(a)
		d.couriers = append(d.couriers, c)
		go c.deliver(work)
		go func() {
			err := a.Ask(work, c.out, d)
			d.post(func() { d.askerEnded(err) })
			askers <- struct{}{}
		}()
	}
	d.since = now()
	d.redial()

	told := ctx.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !d.ended {
		select {
		case f := <-d.do:
			f()
		case <-timer.C:
		case <-told:
			told = nil
			d.beginQuit()
		}
		due := d.tick()
		d.publish()
		timer.Reset(max(0, due.Sub(now())))
	}

	if d.conn != nil {
		d.conn.Close()
	}
	d.publish()
	for _, c := range d.couriers {
		c.close()
	}
	// What is left to show is shown; an asker that does not come back by then is
	// told once more, by its context, and then left behind.
	patience := time.NewTimer(time.Second)
	defer patience.Stop()
	for left := len(d.config.Askers); left > 0; {
		select {
		case <-askers:
			left--
		case f := <-d.do: // so that no asker waits for us while we wait for it
			f()
		case <-patience.C:
			if work.Err() != nil {
				return d.err
			}
			stop()
			patience.Reset(time.Second)
		}
	}
	return d.err
}

// end makes Run return err.
func (d *Desk) end(err error) {
	if !d.ended {
		// Quit as well: what is decided from now on could not be sent.
		d.ended, d.quit, d.err = true, true, err
	}
}

// Quit ends the desk, after what is on its way has arrived.
func (d *Desk) Quit() { d.post(d.beginQuit) }

func (d *Desk) askerEnded(err error) {
	if err != nil && d.quit {
		// Told to quit, and then this: the human will not wait for an arrival.
		d.end(err)
	}
	if err != nil && d.err == nil {
		d.err = err
	}
	d.beginQuit()
}

func (d *Desk) beginQuit() {
	if d.quit {
		return
	}
	d.quit = true
	if n := d.onTheirWay(); n > 0 {
		d.notice(fmt.Sprintf("ending as soon as what is on its way has arrived (%d), in %s at the latest", n, wire.KeepAnswer))
	}
}

func (d *Desk) onTheirWay() (n int) {
	for _, p := range d.prompts {
		if p.held != nil {
			n++
		}
	}
	return n
}

// Notice tells every asker something that a person should know. It must be safe
// to show.
func (d *Desk) Notice(text string) { d.post(func() { d.notice(text) }) }

func (d *Desk) notice(text string) {
	for _, c := range d.couriers {
		c.notice(text)
	}
}

// tick does what is due and says when to look again.
func (d *Desk) tick() time.Time {
	t := now()
	due := t.Add(time.Minute)
	sooner := func(at time.Time) {
		if at.Before(due) {
			due = at
		}
	}
	if d.slept() {
		d.woke()
	}
	if d.conn != nil && !d.reading {
		if !d.nextRead.After(t) || d.nextRead.Sub(t) > 2*wire.ReRead { // or the clock was set back
			d.read()
		} else {
			sooner(d.nextRead)
		}
	}
	sooner(d.tickAway(t)) // before the prompts, which it may end the silence of
	for _, p := range d.prompts {
		sooner(d.tickPrompt(p, t))
	}
	for key, o := range d.over {
		if t.After(o.deadline.Add(time.Hour)) {
			delete(d.over, key)
		}
	}
	if d.quit && d.onTheirWay() == 0 {
		d.end(d.err)
	}
	return due
}

// clock gives the time on the wall, and for how long this program has run: the
// monotonic clock, which stands still while the machine sleeps. (Where a system
// lets it go on, timers do so too, and the next read finds out.)
func clock() func() (wall time.Time, ran time.Duration) {
	began := time.Now()
	return func() (time.Time, time.Duration) { return now(), time.Since(began) }
}

// slept says whether the machine has slept since the last look, or the clock was
// set forward, which is taken for the same.
func (d *Desk) slept() bool {
	wall, ran := d.clock()
	gone := wall.Sub(d.lookedAt) - (ran - d.lookedRan)
	first := d.lookedAt.IsZero()
	d.lookedAt, d.lookedRan = wall, ran
	return !first && gone >= sleptAtLeast
}

// woke makes the connection anew: after a night it is gone on the other side, and
// no packet says so here. Whoever opens the lid sees what waits now, and each job
// that was looked at proves that it still runs.
func (d *Desk) woke() {
	for _, p := range d.prompts {
		p.anew = true
	}
	if d.conn != nil {
		d.lost(d.conn, "this computer slept")
	}
}

// redial connects, after the back-off that is due. Its goroutine ends with the
// desk or with a result.
func (d *Desk) redial() {
	wait := time.Duration(0)
	if d.backoff > 0 {
		// Responders that lost one relay together must not come back together.
		wait = time.Duration(float64(d.backoff) * (0.8 + 0.4*rand.Float64()))
	}
	d.backoff = min(max(firstBackoff, 2*d.backoff), lastBackoff)
	work := d.work
	go func() {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-work.Done():
			return
		}
		conn, err := d.dial(work)
		if !d.post(func() { d.dialed(conn, err) }) && conn != nil {
			conn.Close()
		}
	}()
}

func (d *Desk) dialed(conn relayConn, err error) {
	if err != nil {
		d.notDialed(err)
		return
	}
	if d.ended {
		conn.Close()
		return
	}
	if d.told || !d.wasUp {
		d.notice("connected to the relay " + wire.Clean(d.relay, 253))
	}
	d.log.Info("connected", "relay", d.relay)
	d.line.Store(&Line{Relay: d.relay, Connected: true, Since: now()})
	d.conn, d.wasUp, d.told, d.upAt = conn, true, false, now()
	d.refusals, d.unanswered, d.waits, d.distrusts = 0, 0, "", false
	d.listens = map[string]bool{}
	d.listen()
	d.reading, d.readAgain, d.nextRead = false, false, now()
	for _, p := range d.prompts {
		if p.held != nil {
			p.held.next, p.held.sending = now(), false
		}
	}
	go func() {
		for {
			select {
			case h := <-conn.Hints():
				if !d.post(func() { d.hint(conn, h) }) {
					return
				}
			case <-conn.Closed():
				d.post(func() { d.lost(conn, "the connection was closed") })
				return
			}
		}
	}()
}

func (d *Desk) notDialed(err error) {
	d.log.Warn("not connected", "relay", d.relay, "error", err)
	d.down(cleanLines(err.Error(), 400))
	switch {
	case errors.Is(err, dial.ErrRefused):
		// A relay that has just started refuses for a moment what it will let
		// in, so one refusal is not the last word.
		d.refusals++
		if d.refusals == 1 {
			d.refusedAt = now()
			if d.wasUp && !d.config.Patient {
				d.told = true
				d.notice("the relay does not let this responder in any more; giving up unless that changes within " + refusedWithin.String())
			}
		}
		if (!d.wasUp && d.refusals >= refusedTries) || (d.wasUp && now().Sub(d.refusedAt) > refusedWithin) {
			if d.config.Patient {
				d.wait(ErrNotEnrolled.Error() + " (" + d.connect + "): it is not enrolled there, or no more (or this clock, or the name that the relay is given here, is wrong: its log says which)")
				return
			}
			d.end(fmt.Errorf("%w (%s): it is not enrolled there, or no more (or this clock, or the name that the relay is given here, is wrong: its log says which); ask who runs the relay for an invitation, or to add the lines that `cfa-responder keys` prints to a project's responders", ErrNotEnrolled, d.connect))
			return
		}
	case !d.wasUp && (errors.Is(err, dial.ErrTLS) || errors.Is(err, wire.ErrNonce)):
		if d.config.Patient {
			d.wait(cleanLines(err.Error(), 400))
			return
		}
		d.end(err)
		return
	case !d.wasUp && d.config.ConnectWithin > 0 && now().Sub(d.since) >= d.config.ConnectWithin:
		d.end(err)
		return
	}
	if !d.told || errors.Is(err, dial.ErrTLS) && !d.distrusts {
		d.told = true
		what := "not connected: " + cleanLines(err.Error(), 400)
		if d.distrusts = errors.Is(err, dial.ErrTLS); d.distrusts {
			what += ". It was accepted before, so either the relay's administrator has changed something, who can tell you, or somebody stands between you and the relay. Nothing is sent there"
		}
		d.notice(what + "; trying again")
	}
	d.redial()
}

// wait says once why there is no connection, and tries again after longer than
// after a mere cut: somebody must do something first.
func (d *Desk) wait(why string) {
	if d.waits != why {
		d.told, d.waits = true, why
		d.notice("not connected: " + why + "; it is tried again every " + patientWait.String())
	}
	d.backoff = patientWait
	d.redial()
}

// down notes since when, and why, there is no connection.
func (d *Desk) down(why string) {
	l := Line{Relay: d.relay, Since: now(), Why: why}
	if old := d.line.Load(); !old.Connected {
		l.Since = old.Since
	}
	d.line.Store(&l)
}

// Line gives the state of the connection. It can be called at any time.
func (d *Desk) Line() Line { return *d.line.Load() }

// lost drops a connection and seeks a new one.
func (d *Desk) lost(conn relayConn, why string) {
	if d.conn != conn {
		return
	}
	conn.Close()
	d.conn = nil
	d.log.Warn("connection lost", "relay", d.relay, "why", why)
	d.down(why)
	if now().Sub(d.upAt) > steady {
		d.backoff, d.brief = firstBackoff, 0
	} else if d.brief++; d.brief == 3 {
		// The newest connection of a key closes the older one, so two programs
		// with one key would throw each other out for ever, and as fast as they
		// can if the back-off began anew each time.
		d.notice("the relay keeps closing the connection; is another responder running with the same keys?")
	}
	if !d.told {
		d.told = true
		d.notice("the connection to the relay is lost (" + why + "); reconnecting")
	}
	for _, p := range d.prompts {
		if p.challenge != nil {
			// Its answer would have come to an inbox that is gone.
			p.challenge = nil
			p.nextOpen = p.lastOpen.Add(openEvery)
		}
	}
	d.redial()
}

// listen subscribes to the hints of all projects that are known, by the pins or
// by what the relay has shown. One that the relay does not grant stays silent.
func (d *Desk) listen() {
	if d.conn == nil {
		return
	}
	var projects []string
	if d.trust.Pins != nil {
		projects = d.trust.Pins.Projects()
	}
	for _, p := range d.prompts {
		projects = append(projects, p.request.Project)
	}
	for _, name := range projects {
		if wire.CheckProject(name) != nil || d.listens[name] || len(d.listens) >= maxListens {
			continue
		}
		d.listens[name] = true
		if err := d.conn.Listen(wire.ProjectSubject(name)); err != nil {
			d.log.Warn("cannot listen", "project", name, "error", err)
		}
	}
}

// hint is what the relay pushed: a reason to look, never more.
func (d *Desk) hint(conn relayConn, h wire.Hint) {
	if d.conn != conn {
		return
	}
	if h.Hint == wire.HintAlive {
		d.alive(h)
		return
	}
	d.readSoon()
}

func (d *Desk) readSoon() {
	if d.reading {
		d.readAgain = true
		return
	}
	d.nextRead = now()
}

// reading is what one read of everything brought.
type reading struct {
	items []seen
	ended []wire.Ended
	away  *wire.Envelope
	whole bool // all pages came
	err   error
	bad   map[string]string // requests that cannot be shown, and why
}

// seen is one item whose request is known or has just been verified.
type seen struct {
	key     string
	digest  wire.Digest
	request wire.Request  // zero if it was known
	env     wire.Envelope // likewise
	state   wire.State
}

// read asks for all that waits in this responder's projects, and how what is
// shown here has ended.
func (d *Desk) read() {
	d.reading, d.readBegan = true, now()
	conn, work := d.conn, d.work
	known := map[string]wire.Digest{}
	var keys []string
	for key, p := range d.prompts {
		known[key] = p.digest
		keys = append(keys, key)
	}
	slices.Sort(keys)
	go func() {
		r := readPages(work, conn, wire.DeskSubject(d.connect, wire.VerbPending), keys, known)
		d.post(func() { d.readDone(conn, keys, r) })
	}()
}

func readPages(ctx context.Context, conn relayConn, subject string, keys []string, known map[string]wire.Digest) reading {
	r := reading{bad: map[string]string{}}
	after, more := "", true
	for range maxPages {
		q := wire.PendingQuery{After: after, Known: keys[:min(maxKnown, len(keys))]}
		keys = keys[len(q.Known):]
		one, cancel := context.WithTimeout(ctx, replyWithin)
		reply, err := conn.Request(one, subject, q)
		cancel()
		if err == nil && reply.Page == nil {
			err = errors.New("the relay answered a read without a page")
		}
		if err != nil {
			r.err = err
			return r
		}
		r.ended = append(r.ended, reply.Page.Ended...)
		r.away = reply.Page.Away
		if more {
			before := after
			for _, item := range reply.Page.Items {
				// Ascending, or a hostile relay could make this last for ever.
				if item.Key <= after {
					continue
				}
				after = item.Key
				s, why := look(item, known)
				if why != "" {
					r.bad[item.Key] = why
					continue
				}
				r.items = append(r.items, s)
			}
			more = reply.Page.More && after != before
		}
		if !more && len(keys) == 0 {
			r.whole = true
			return r
		}
	}
	return r
}

// look verifies an item's request, or finds it to be the one that is known.
func look(item wire.Item, known map[string]wire.Digest) (seen, string) {
	if wire.CheckConnectKey(item.Key) != nil {
		return seen{}, "it has no key"
	}
	s := seen{key: item.Key, state: item.State}
	digest, err := wire.DigestOf(item.Request, item.Key)
	if err != nil {
		return seen{}, err.Error()
	}
	s.digest = digest
	if old, ok := known[item.Key]; ok {
		if old != digest {
			return seen{}, "it is another request than the relay passed on before under the same key"
		}
		return s, ""
	}
	if s.request, err = wire.Open[wire.Request](item.Request, item.Key); err != nil {
		return seen{}, err.Error()
	}
	s.env = item.Request
	return s, ""
}

func (d *Desk) readDone(conn relayConn, keys []string, r reading) {
	if d.conn != conn {
		return
	}
	d.reading = false
	// ± 20 %, so that a relay's responders do not all ask at once.
	d.nextRead = now().Add(time.Duration(float64(wire.ReRead) * (0.8 + 0.4*rand.Float64())))
	if d.readAgain {
		// A relay that is slow to answer is not asked more for that.
		d.readAgain, d.nextRead = false, now().Add(max(readGap, 4*min(now().Sub(d.readBegan), time.Second)))
	}
	if r.err != nil {
		d.unanswered++
		d.log.Warn("read failed", "error", r.err)
		if d.unanswered >= 2 {
			d.lost(conn, "two reads without an answer")
		} else {
			d.nextRead = now().Add(time.Second)
		}
		return
	}
	d.unanswered = 0
	d.pageAway(r.away, d.readBegan, now()) // before what came, which it may keep quiet
	for key, why := range r.bad {
		d.complain(key, why)
	}
	listed := map[string]bool{}
	for _, s := range r.items {
		listed[s.key] = true
	}
	for _, s := range d.share(r.items) {
		d.saw(s)
	}
	for _, e := range r.ended {
		listed[e.Key] = true
		if p := d.prompts[e.Key]; p != nil && e.State.Rev >= p.state.Rev {
			d.setState(p, e.State)
		}
	}
	if r.whole {
		for _, key := range keys {
			p := d.prompts[key]
			switch {
			case p == nil:
			case listed[key]:
				p.missing = time.Time{}
			case p.missing.IsZero():
				// For a moment it can be between being open and having ended.
				p.missing = now()
			case now().Sub(p.missing) >= missingFor:
				d.finish(p, "the relay lists it no more; if you are still enrolled for this project, ask who runs the relay")
				delete(d.over, key) // should it be listed again, it is shown again
			}
		}
	}
	d.listen()
}

// complain says once that the relay passed on something that cannot be shown.
func (d *Desk) complain(key, why string) {
	if d.ill[key] || len(d.ill) >= maxPrompts {
		return
	}
	d.ill[key] = true
	why = wire.Clean(why, 300)
	d.log.Warn("decision", "what", "request", "request", wire.CleanName(key, 60), "outcome", "not shown", "why", why)
	d.notice("the relay passed on a request that is not shown, because it is not what a job signed: " + why)
}

// share gives of a page's items those that are to be shown: all of them, unless
// they are more than that. Then each project has an equal share, so that no
// project's jobs can push another's out, and what is shown beyond it makes room.
func (d *Desk) share(items []seen) []seen {
	var all []claim
	listed := map[string]bool{}
	for _, s := range items {
		c := claim{key: s.key, project: s.request.Project}
		if p := d.prompts[s.key]; p != nil {
			c.project, c.shown = p.request.Project, p.number
		} else if !d.isNew(s) {
			continue
		}
		all, listed[s.key] = append(all, c), true
	}
	for key, p := range d.prompts {
		if !listed[key] {
			all = append(all, claim{key, p.request.Project, p.number})
		}
	}
	if len(all) <= maxPrompts {
		d.crowded = false
		return items
	}
	if !d.crowded {
		d.crowded = true
		d.notice(fmt.Sprintf("%d requests are open, and at most %d are shown at once: as many of each project, as far as it has them", len(all), maxPrompts))
	}
	chosen := fair(all, maxPrompts)
	for key, p := range d.prompts {
		if !chosen[key] && p.held == nil { // an answer that is on its way arrives
			d.finish(p, "it makes room for other projects' requests; it is shown again when there is room")
			delete(d.over, key)
		}
	}
	return slices.DeleteFunc(items, func(s seen) bool { return !chosen[s.key] && d.prompts[s.key] == nil })
}

// claim is one request that wants to be shown, as what was shown as so many-th;
// 0: not yet.
type claim struct {
	key, project string
	shown        int
}

// fair chooses most of all: one of each project in turn, in each project what is
// shown first, the oldest first.
func fair(all []claim, most int) map[string]bool {
	slices.SortFunc(all, func(a, b claim) int {
		unseen := func(c claim) int { return min(1, c.shown) * -1 } // what is shown before what is not
		return cmp.Or(cmp.Compare(a.project, b.project), cmp.Compare(unseen(a), unseen(b)), cmp.Compare(a.shown, b.shown), cmp.Compare(a.key, b.key))
	})
	queues := slices.Collect(func(yield func([]claim) bool) {
		for len(all) > 0 {
			n := 1
			for n < len(all) && all[n].project == all[0].project {
				n++
			}
			if !yield(all[:n]) {
				return
			}
			all = all[n:]
		}
	})
	chosen := map[string]bool{}
	for turn := 0; len(chosen) < most; turn++ {
		before := len(chosen)
		for _, q := range queues {
			if turn < len(q) && len(chosen) < most {
				chosen[q[turn].key] = true
			}
		}
		if len(chosen) == before {
			break
		}
	}
	return chosen
}

// isNew says whether an item that is not shown is to be.
func (d *Desk) isNew(s seen) bool {
	if o, ok := d.over[s.key]; ok && s.state.Rev <= o.rev {
		return false
	}
	return s.request.Key != "" && !final(s.state.State) && !d.quit && s.request.Deadline > now().Unix()
}

// saw takes in one item of a page.
func (d *Desk) saw(s seen) {
	if p := d.prompts[s.key]; p != nil {
		if s.state.Rev >= p.state.Rev {
			d.setState(p, s.state)
		}
		return
	}
	if !d.isNew(s) {
		return
	}
	if len(d.prompts) >= maxPrompts { // with what is kept beyond a fair share
		return
	}
	d.number++
	p := &prompt{
		key: s.key, number: d.number, digest: s.digest, request: s.request, env: s.env,
		deadline: time.Unix(s.request.Deadline, 0), nextOpen: now(), quiet: d.isAway,
	}
	d.prompts[s.key] = p
	d.setState(p, s.state)
	d.log.Info("prompt", "request", p.key, "project", p.request.Project, "number", p.number)
}
