package broker

// Tiers: who is asked about a request only after it has waited for some time.
//
// The rule it keeps: whose turn it is follows from the record and the file alone,
// so that each relay says the same, before a restart and after it.

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
	return Responder{Connect: d.connect, Sign: d.sign, Name: d.name}
}

// turnOf says whether a responder is asked about a request by now. While the
// request has an answer nobody new is asked, and who could see it before still
// does, so as to hear what became of it.
func (e *entry) turnOf(p Responder, now time.Time) bool {
	if p.After == 0 {
		return true
	}
	if e.asked == 0 {
		return false // nothing says since when it waits: not until the first record is read
	}
	if e.rec.State != lifecycle.StatePending && e.rec.Answered != 0 {
		now = time.UnixMilli(e.rec.Answered)
	}
	return now.Sub(time.UnixMilli(e.asked)) >= time.Duration(p.After)
}

// escalate tells those whose turn has come since before, and the job, whose log
// says so. Each relay does: a hint too many costs a read.
func (r *Relay) escalate(before, now time.Time) {
	c := r.rules.Load().config
	for _, e := range r.store.those(func(e *entry) bool { return e.rec.State == lifecycle.StatePending && c.tiered(e.rec.Project) }) {
		came := false
		for _, p := range c.enrolled(e.rec.Project) {
			if p.After > 0 && e.turnOf(p, now) && !e.turnOf(p, before) {
				came = true
				r.push(wire.HintSubject(p.Connect), wire.Hint{Hint: wire.HintState, Key: e.rec.Key, Rev: e.seq})
			}
		}
		if came {
			r.push(wire.HintSubject(e.rec.Key), wire.Hint{Hint: wire.HintState, Key: e.rec.Key, Rev: e.seq})
		}
	}
}
