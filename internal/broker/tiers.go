package broker

// Tiers: who is asked about a request only after it has waited for some time.
//
// The rule it keeps: whose turn it is follows from the record and the file alone,
// so that each relay says the same, before a restart and after it. So who is away
// is passed over, as the record says, and who is merely not connected is not: a
// relay that has just started sees nobody, and a lid that is closed for a moment
// must not wake those who are to be asked last. And a turn that has come stays, or
// who has just begun to answer would be told that there is nothing to answer.

import (
	"slices"
	"time"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

// tiered says whether somebody of a project is asked later than others.
func (c *Config) tiered(project string) bool {
	return slices.ContainsFunc(c.enrolled(project), func(p Responder) bool { return p.After > 0 })
}

// enrolment is what a project's list says of a desk.
func (c *Config) enrolment(project string, d *desk) Responder {
	for _, p := range c.enrolled(project) {
		if p.Connect == d.connect {
			return p
		}
	}
	// A file that was read since: its next message finds it so.
	return Responder{Connect: d.connect, Sign: d.sign, Name: d.name, Former: d.former}
}

// waited is from when on a request has waited, and until when for an answer. While
// the request has an answer nobody new is asked, and who could see it before still
// does, so as to hear what became of it. ok is false where nothing says since when
// it waits: not until the first record is read.
func (e *entry) waited(now time.Time) (from, to time.Time, ok bool) {
	if e.rec.State != lifecycle.StatePending && e.rec.Answered != 0 {
		now = time.UnixMilli(e.rec.Answered)
	}
	return time.UnixMilli(e.asked), now, e.asked != 0
}

// due says whether a request has waited for as long as a responder is asked after.
func (e *entry) due(p Responder, now time.Time) bool {
	from, to, ok := e.waited(now)
	return p.After == 0 || ok && to.Sub(from) >= time.Duration(p.After)
}

// turnOf says whether a responder is asked about a request by now: because it has
// waited, or because of those who are asked before fewer could answer, at some time
// since, than must agree. That would else be waited for in vain.
func (r *Relay) turnOf(e *entry, p Responder, now time.Time) bool {
	if e.due(p, now) {
		return true
	}
	from, to, ok := e.waited(now)
	if !ok || to.Before(from) {
		return false
	}
	read := e.accepts == nil
	answerers, err := e.answerers()
	if err != nil {
		return false // the store is damaged: nobody new is asked for that
	}
	if read {
		r.store.know(e.rec.Key, answerers)
	}
	var earlier []Responder
	for _, q := range r.rules.Load().config.enrolled(e.rec.Project) {
		if q.After < p.After && answerers.takes(q.Sign, q.Former) && !slices.Contains(e.rec.Shut, q.Sign) {
			earlier = append(earlier, q)
		}
	}
	return r.store.fewer(max(e.rec.Approvals, 1), earlier, from, to)
}

// escalate tells those whose turn has come since before, and the job, whose log
// says so. Each relay does: a hint too many costs a read.
func (r *Relay) escalate(before, now time.Time) {
	if signs := r.store.turning(before, now); len(signs) > 0 {
		r.turned(signs)
	}
	c := r.rules.Load().config
	for _, e := range r.store.those(func(e *entry) bool { return e.rec.State == lifecycle.StatePending && c.tiered(e.rec.Project) }) {
		came := false
		for _, p := range c.enrolled(e.rec.Project) {
			if p.After > 0 && e.due(p, now) && !e.due(p, before) {
				came = true
				if _, away := r.store.awayUntil(p.Sign, now); away {
					continue
				}
				r.push(wire.HintSubject(p.Connect), wire.Hint{Hint: wire.HintState, Key: e.rec.Key, Rev: r.store.rev(e.seq)})
			}
		}
		if came {
			r.push(wire.HintSubject(e.rec.Key), wire.Hint{Hint: wire.HintState, Key: e.rec.Key, Rev: r.store.rev(e.seq)})
		}
	}
}
