package broker

// Absences: who is not to be asked, until when.
//
// The rule it keeps: an absence is on record before it counts, so that each relay
// knows it, after a restart too, and it takes nothing away from anybody. Who is
// away is not rung and not counted on; who looks all the same sees what waits and
// may answer.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

const awayPrefix = "cfa.store.v1.away."

// absences are a responder's, as far back as an open request can have waited: by
// them it is known whose turn has come, also when who was away is back.
type absences struct {
	seq   uint64 // of the last note
	spans []span // in order; none overlaps another
	said  []time.Time
	env   wire.Envelope // what was signed last
}

// span is one absence: from is in it, until is not.
type span struct{ from, until time.Time }

func (a *absences) at(now time.Time) (until time.Time, away bool) {
	if a == nil {
		return time.Time{}, false
	}
	for _, s := range a.spans {
		if !now.Before(s.from) && now.Before(s.until) {
			return s.until, true
		}
	}
	return time.Time{}, false
}

// add takes in a note that was recorded after all the others.
func (a *absences) add(seq uint64, n lifecycle.Note) error {
	env, err := wire.DecodeEnvelope(n.Envelope)
	if err != nil {
		return err
	}
	at, until := time.UnixMilli(n.At), time.UnixMilli(n.Until)
	// The newest word is all that counts from then on.
	if k := len(a.spans); k > 0 && a.spans[k-1].until.After(at) {
		a.spans[k-1].until = at
	}
	a.spans = slices.DeleteFunc(a.spans, func(s span) bool {
		return !s.until.After(s.from) || at.Sub(s.until) > wire.LongestWait+time.Hour
	})
	a.said = slices.DeleteFunc(a.said, func(t time.Time) bool { return at.Sub(t) >= time.Hour })
	if until.After(at) {
		a.spans = append(a.spans, span{at, until})
		a.said = append(a.said, at)
	}
	a.seq, a.env = seq, env
	return nil
}

// seeAway puts a note into the index, unless a newer one is there. It says whether
// it did.
func (s *store) seeAway(seq uint64, n lifecycle.Note) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.absent[n.Key]
	if a == nil {
		a = &absences{}
		s.absent[n.Key] = a
	}
	if seq <= a.seq {
		return false
	}
	if err := a.add(seq, n); err != nil {
		s.log.Error("a note of an absence cannot be read", "sequence", seq, "error", err)
		return false
	}
	return true
}

// awayUntil says whether a responder is away, and until when.
func (s *store) awayUntil(sign string, now time.Time) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.absent[sign].at(now)
}

// ownAway is what a responder has signed, while it is away by that.
func (s *store) ownAway(sign string, now time.Time) *wire.Envelope {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.absent[sign]
	if _, away := a.at(now); !away {
		return nil
	}
	env := a.env
	return &env
}

// awayAmong says whether one of them is.
func (s *store) awayAmong(list []Responder, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(list, func(p Responder) bool {
		_, away := s.absent[p.Sign].at(now)
		return away
	})
}

// fewer says whether there was a moment, from the first to the last of these, at
// which fewer than n of them were there.
func (s *store) fewer(n int, list []Responder, first, last time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Who is there grows fewer only where an absence begins.
	moments := []time.Time{first}
	for _, p := range list {
		if a := s.absent[p.Sign]; a != nil {
			for _, sp := range a.spans {
				if sp.from.After(first) && !sp.from.After(last) {
					moments = append(moments, sp.from)
				}
			}
		}
	}
	return slices.ContainsFunc(moments, func(t time.Time) bool {
		there := 0
		for _, p := range list {
			if _, away := s.absent[p.Sign].at(t); !away {
				there++
			}
		}
		return there < n
	})
}

// turning gives the responders of whom an absence began or ended after before, and
// not after now.
func (s *store) turning(before, now time.Time) []string {
	within := func(t time.Time) bool { return t.After(before) && !t.After(now) }
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for sign, a := range s.absent {
		if slices.ContainsFunc(a.spans, func(s span) bool { return within(s.from) || within(s.until) }) {
			out = append(out, sign)
		}
	}
	return out
}

// loadAway reads what can still be in force, before anything is decided by it.
func (s *store) loadAway(ctx context.Context) error {
	since := s.now().Add(-wire.LongestAway - time.Hour)
	cons, err := s.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartTimePolicy, OptStartTime: &since, FilterSubjects: []string{awayPrefix + "*"}})
	if err != nil {
		return fmt.Errorf("store: absences: %w", err)
	}
	if info, err := cons.Info(ctx); err != nil {
		return fmt.Errorf("store: absences: %w", err)
	} else if info.NumPending == 0 {
		return nil
	}
	it, err := cons.Messages()
	if err != nil {
		return fmt.Errorf("store: absences: %w", err)
	}
	defer context.AfterFunc(ctx, it.Stop)()
	defer it.Stop()
	for {
		m, err := it.Next()
		if err != nil {
			return fmt.Errorf("store: absences: %w", errors.Join(err, context.Cause(ctx)))
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("store: absences: %w", err)
		}
		if n, err := lifecycle.DecodeNote(m.Data()); err != nil {
			s.log.Error("a record cannot be read", "sequence", meta.Sequence.Stream, "error", err)
		} else {
			s.seeAway(meta.Sequence.Stream, n)
		}
		if meta.NumPending == 0 {
			return nil
		}
	}
}

// lastAway reads a responder's last note from the stream's leader; seq is 0 where
// there is none.
func (s *store) lastAway(ctx context.Context, sign string) (n lifecycle.Note, seq uint64, hash string, err error) {
	m, err := s.newestOf(ctx, awayPrefix+sign)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return n, 0, "", nil
	}
	if err != nil {
		return n, 0, "", fmt.Errorf("%w: read: %w", errStore, err)
	}
	if n, err = lifecycle.DecodeNote(m.Data); err != nil {
		return n, 0, "", fmt.Errorf("%w: note %d: %w", errStore, m.Sequence, err)
	}
	return n, m.Sequence, lifecycle.Hash(m.Data), nil
}

// noteAway records what a responder has signed, if it says something new, and
// gives what is on record then.
func (s *store) noteAway(ctx context.Context, d *desk, a wire.Away, env wire.Envelope) (wire.Envelope, bool, error) {
	for try := 0; ; try++ {
		last, seq, hash, err := s.lastAway(ctx, d.sign)
		if err != nil {
			return wire.Envelope{}, false, err
		}
		now := s.now()
		// By the time that will be recorded: whoever verifies the record compares
		// the two.
		if off := now.Sub(time.UnixMilli(a.At)); off > wire.AwayWithin || off < -wire.AwayWithin {
			return wire.Envelope{}, false, refuse(wire.RefusedLimit, fmt.Sprintf("it was signed %s from now by this relay's clock, at most %s are allowed", off.Abs().Round(time.Second), wire.AwayWithin), "is a clock wrong?")
		}
		until := now
		if !a.Back() && a.End().After(now) {
			until = a.End()
		}
		away := until.After(now)
		if seq != 0 {
			said, recorded, err := signedAway(last)
			if err != nil {
				return wire.Envelope{}, false, fmt.Errorf("%w: note %d: %w", errStore, seq, err)
			}
			// An append whose acknowledgement was lost is news only here.
			isNew := s.seeAway(seq, last)
			inForce := time.UnixMilli(last.Until).After(now)
			switch {
			case a == said:
				return recorded, isNew, nil
			case a.At <= said.At:
				what := "that it is back"
				if !said.Back() {
					what = "that it is away until " + said.End().UTC().Format(time.RFC3339)
				}
				return wire.Envelope{}, false, refuse(wire.RefusedTaken, "this responder has said later "+what, "")
			case away && a.Until == said.Until, !away && !inForce:
				return recorded, false, nil // as it is already
			}
		} else if !away {
			return env, false, nil // it was never away
		}
		if away {
			if !s.room() {
				return wire.Envelope{}, false, refuse(wire.RefusedBusy, "the relay's store is nearly full, and the rest is kept for requests that are open", "tell the relay's administrator")
			}
			if err := s.awayOften(d.sign, now); err != nil {
				return wire.Envelope{}, false, err
			}
		}
		n := lifecycle.Note{V: lifecycle.Version, Op: operationID(), Prev: hash, At: now.UnixMilli(), About: lifecycle.AboutAway,
			Name: d.sign, Key: d.sign, Person: d.name, Until: until.UnixMilli(), Envelope: json.RawMessage(env.Encode())}
		data, err := n.Encode()
		if err != nil {
			return wire.Envelope{}, false, err
		}
		ack, err := s.put(ctx, awayPrefix+d.sign, data, seq)
		if err == nil {
			s.seeAway(ack.Sequence, n)
			return env, true, nil
		}
		// As with a request's records: the next reading says what has become of it.
		if ctx.Err() != nil || try == 8 {
			return wire.Envelope{}, false, fmt.Errorf("%w: append: %w", errStore, err)
		}
		if err := pause(ctx, time.Duration(try+1)*5*time.Millisecond); err != nil {
			return wire.Envelope{}, false, fmt.Errorf("%w: append: %w", errStore, err)
		}
	}
}

// signedAway reads what a note holds. It was verified before it was recorded.
func signedAway(n lifecycle.Note) (wire.Away, wire.Envelope, error) {
	env, err := wire.DecodeEnvelope(n.Envelope)
	if err != nil {
		return wire.Away{}, env, err
	}
	a, err := wire.Open[wire.Away](env, n.Key)
	return a, env, err
}

// awayOften refuses who has said too often that it is away. That it is back is
// recorded only after an absence, and so no more often.
func (s *store) awayOften(sign string, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.absent[sign] == nil {
		return nil
	}
	said := slices.DeleteFunc(slices.Clone(s.absent[sign].said), func(t time.Time) bool { return now.Sub(t) >= time.Hour })
	if len(said) < wire.MaxAwayHour {
		return nil
	}
	again := said[len(said)-wire.MaxAwayHour].Add(time.Hour)
	return refuse(wire.RefusedLimit, fmt.Sprintf("this responder has said %d times within an hour that it is away, as often as it may", len(said)),
		fmt.Sprintf("it may again in %s", max(time.Minute, again.Sub(now)).Round(time.Minute)))
}

// away takes a responder's word that it is away, or back, or says what it is by
// the record.
func (r *Relay) away(ctx context.Context, d *desk, m wire.AwayMessage) (wire.Reply, error) {
	if m.Away == nil {
		n, seq, _, err := r.store.lastAway(ctx, d.sign)
		if err != nil || seq == 0 {
			return wire.Reply{}, err
		}
		_, env, err := signedAway(n)
		if err != nil {
			return wire.Reply{}, fmt.Errorf("%w: note %d: %w", errStore, seq, err)
		}
		return wire.Reply{Away: &env}, nil
	}
	a, err := wire.Open[wire.Away](*m.Away, d.sign)
	if err != nil {
		return wire.Reply{}, err
	}
	if host := r.rules.Load().config.Host; a.Relay != host {
		return wire.Reply{}, refuse(wire.RefusedNotYours, "it is said to the relay "+a.Relay+", and this is "+host, "")
	}
	env, changed, err := r.store.noteAway(ctx, d, a, *m.Away)
	if err != nil {
		return wire.Reply{}, err
	}
	if changed {
		outcome := "back"
		if !a.Back() {
			outcome = "until " + a.End().UTC().Format(time.RFC3339)
		}
		r.log.Info("decision", "what", wire.VerbAway, "key", d.connect, "responder", d.sign, "name", d.name, "outcome", outcome)
		r.turned([]string{d.sign})
	}
	return wire.Reply{Away: &env}, nil
}

// turned tells of absences that have begun or ended: the jobs that wait, whose log
// says so, and who is asked for that, or again. Each relay does: a hint too many
// costs a read.
func (r *Relay) turned(signs []string) {
	c, now := r.rules.Load().config, r.now()
	concerned := func(p Responder) bool { return slices.Contains(signs, p.Sign) }
	for _, e := range r.store.those(func(e *entry) bool {
		return e.rec.State == lifecycle.StatePending && slices.ContainsFunc(c.enrolled(e.rec.Project), concerned)
	}) {
		e := *e
		r.push(wire.HintSubject(e.rec.Key), wire.Hint{Hint: wire.HintState, Key: e.rec.Key, Rev: r.store.rev(e.seq)})
		for _, p := range c.enrolled(e.rec.Project) {
			if _, away := r.store.awayUntil(p.Sign, now); !away && (concerned(p) || p.After > 0) && r.turnOf(&e, p, now) {
				r.push(wire.HintSubject(p.Connect), wire.Hint{Hint: wire.HintState, Key: e.rec.Key, Rev: r.store.rev(e.seq)})
			}
		}
	}
}

// Absentee is a responder that is away.
type Absentee struct {
	Name  string    `json:"name"`
	Until time.Time `json:"until"`
}

// absentees are those of the file that are away.
func (r *Relay) absentees() []Absentee {
	now := r.now()
	var out []Absentee
	for _, d := range r.rules.Load().config.desks {
		if until, away := r.store.awayUntil(d.sign, now); away {
			out = append(out, Absentee{d.name, until.UTC()})
		}
	}
	slices.SortFunc(out, func(a, b Absentee) int { return strings.Compare(a.Name, b.Name) })
	return out
}
