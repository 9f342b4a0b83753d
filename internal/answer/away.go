package answer

// Absence: a human who says that they are away is not disturbed until they are
// back.
//
// The rule it keeps: being away takes nothing away. What comes meanwhile is known
// here, is not shown by itself and not opened, and is there for a human who looks.
// And only this responder's own word silences it: what a relay says counts where
// this key has signed it, and a relay that knows of no absence ends it, because it
// counts on this human then.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/wire"
)

const (
	// awaySettles is for how long after a word of ours a page of a relay that may
	// not have heard of it yet says nothing.
	awaySettles = 5 * time.Second
	// awayTries bounds how often a word is signed anew, because a later one is on
	// record than this program knows.
	awayTries = 3
)

// Absence is until when a human is away; the zero time: they are here.
type Absence struct{ Until time.Time }

var (
	// ErrUntil says that an absence cannot end at such a time.
	ErrUntil = errors.New("that is no end of an absence")
	// ErrAway says that the relay has not taken a word about an absence.
	ErrAway = errors.New("the relay has not taken it")
)

// CheckUntil says whether an absence that is said now may end then.
func CheckUntil(until, now time.Time) error {
	switch {
	case !until.After(now):
		return fmt.Errorf("%w: it has passed", ErrUntil)
	case until.Unix()*1000-now.UnixMilli() > wire.LongestAway.Milliseconds():
		return fmt.Errorf("%w: it is more than %d days ahead; say it again when that time has passed", ErrUntil, int(wire.LongestAway.Hours()/24))
	}
	return nil
}

// saying is a word about an absence that the relay has not acknowledged.
type saying struct {
	until   time.Time // zero: back
	env     wire.Envelope
	give    time.Time // when it is given up
	next    time.Time
	sending bool
	tries   int
	asks    bool // for what is on record, to say something later than that
	again   bool // said before, and not by the human just now: what comes of it is for the log
}

// Away says that this human is away until then, or with the zero time, back; see
// [Decisions].
func (d *Desk) Away(ctx context.Context, until time.Time) error {
	return d.call(ctx, func() error {
		t := now()
		if !until.IsZero() {
			if err := CheckUntil(until, t); err != nil {
				return err
			}
		}
		s := &saying{until: until, give: t.Add(wire.KeepAnswer), next: t}
		if err := d.signAway(s, t); err != nil {
			return err
		}
		d.saying = s // the newest word is the one that is meant
		return nil
	})
}

func (d *Desk) signAway(s *saying, t time.Time) (err error) {
	s.env, err = wire.SignAway(d.config.Sign, d.relay, t, s.until, d.lastSaid())
	return err
}

// lastSaid is when this responder has last said something, as far as is known here.
func (d *Desk) lastSaid() time.Time {
	if d.away.At == 0 {
		return time.Time{}
	}
	return time.UnixMilli(d.away.At)
}

// tickAway does what is due and says when to look again.
func (d *Desk) tickAway(t time.Time) time.Time {
	due := t.Add(time.Minute)
	if d.isAway {
		if !d.away.End().After(t) {
			d.setAway(t)
		} else {
			due = minTime(due, d.away.End())
		}
	}
	s := d.saying
	switch {
	case s == nil:
		return due
	case !t.Before(s.give) || s.give.Sub(t) > 2*wire.KeepAnswer: // or the clock was set back
		d.saying = nil
		d.notTaken(s, "the relay could not be told "+s.words()+"; say it again")
		return t
	case s.sending || d.conn == nil:
		return minTime(due, s.give)
	case t.Before(s.next):
		return minTime(due, minTime(s.next, s.give))
	}
	s.sending = true
	msg := wire.AwayMessage{Away: &s.env}
	if s.asks {
		msg.Away = nil
	}
	conn, work, subject := d.conn, d.work, wire.DeskSubject(d.connect, wire.VerbAway)
	go func() {
		ctx, cancel := context.WithTimeout(work, replyWithin)
		defer cancel()
		reply, err := conn.Request(ctx, subject, msg)
		d.post(func() { d.awaySent(s, reply, err) })
	}()
	return minTime(due, s.give)
}

func (s *saying) words() string {
	if s.until.IsZero() {
		return "that you are back"
	}
	return "that you are away"
}

// awaySent is told how the relay took a word.
func (d *Desk) awaySent(s *saying, reply wire.Reply, err error) {
	if d.saying != s {
		return // said otherwise since
	}
	t := now()
	s.sending, s.next = false, t.Add(resendEvery)
	asked := s.asks
	s.asks = false
	var refused *wire.Refusal
	switch {
	case err == nil:
		if reply.Away != nil {
			d.knowAway(*reply.Away, t)
		} else if !asked {
			d.knowAway(s.env, t)
		}
		if !asked {
			d.saying, d.saidAt = nil, t
			d.log.Info("decision", "what", wire.VerbAway, "outcome", "said", "until", d.away.End().UTC().Format(time.RFC3339))
			return
		}
		// What is on record is known now, so this is later.
		if s.tries++; s.tries <= awayTries {
			if err = d.signAway(s, t); err == nil {
				s.next = t
				return
			}
		} else {
			err = errors.New("a later word is on record each time; is another responder running with the same keys?")
		}
	case !errors.As(err, &refused), refused.Code == wire.RefusedBusy, refused.Code == wire.RefusedTooSoon:
		s.asks = asked
		return // sent again
	case refused.Code == wire.RefusedTaken:
		s.asks, s.next = true, t
		return
	}
	d.saying = nil
	d.notTaken(s, "the relay does not take "+s.words()+": "+wire.Clean(err.Error(), 300))
}

func (d *Desk) notTaken(s *saying, what string) {
	if s.again {
		d.log.Warn("the newest word about an absence was not taken", "what", what)
		return
	}
	d.notice(what)
}

// knowAway takes in a word that may be this responder's own.
func (d *Desk) knowAway(env wire.Envelope, t time.Time) bool {
	a, err := wire.Open[wire.Away](env, d.sign)
	if err != nil || a.Relay != d.relay || a.At < d.away.At {
		return false
	}
	if s := d.saying; s != nil && bytes.Equal(env.Body, s.env.Body) { // its reply was lost
		d.saying, d.saidAt = nil, t
	}
	d.away = a
	d.setAway(t)
	return true
}

// pageAway takes in what a page says: an absence, or none.
func (d *Desk) pageAway(env *wire.Envelope, began, t time.Time) {
	switch {
	case began.Sub(d.saidAt) < awaySettles && !began.Before(d.saidAt.Add(-wire.KeepAnswer)):
		// It may have been written by who had not heard it yet.
	case env != nil:
		if !d.knowAway(*env, t) {
			d.log.Warn("the relay shows an absence that is not this responder's newest word")
			d.sayAgain(*env, t)
		}
	case d.isAway:
		// It counts on this human: said elsewhere, or lost.
		d.away.Until = 0
		d.setAway(t)
	}
}

// sayAgain says what this human has said last to a relay that shows an earlier word
// of theirs, or one that was for the name that it had before: a record that was
// restored from a backup, or outlived a name, has such. The relay would else pass them
// over until that absence ends, and nobody would know.
func (d *Desk) sayAgain(env wire.Envelope, t time.Time) {
	if _, err := wire.Open[wire.Away](env, d.sign); err != nil || d.saying != nil {
		return
	}
	s := &saying{until: d.toldAway, give: t.Add(wire.KeepAnswer), next: t, again: true}
	if err := d.signAway(s, t); err != nil {
		d.log.Warn("an absence cannot be said again", "error", err)
		return
	}
	d.saying = s
}

// setAway compares what was said with the time, and tells what has changed.
func (d *Desk) setAway(t time.Time) {
	until := time.Time{}
	if !d.away.Back() && d.away.End().After(t) {
		until = d.away.End()
	}
	if until.Equal(d.toldAway) {
		return
	}
	d.isAway, d.toldAway = !until.IsZero(), until
	for _, c := range d.couriers {
		c.absence(Absence{until})
	}
	if !d.isAway {
		for _, p := range d.prompts {
			p.quiet = false
		}
	}
}

// Say says once what [Desk.Away] says, without a desk. It gives what is on record
// then.
func Say(ctx context.Context, relay *dial.Relay, connect, sign nkeys.KeyPair, until time.Time) (Absence, error) {
	if !until.IsZero() {
		if err := CheckUntil(until, now()); err != nil {
			return Absence{}, err
		}
	}
	var last time.Time
	env, err := wire.SignAway(sign, relay.Name(), now(), until, last)
	if err != nil {
		return Absence{}, err
	}
	for try := 0; ; try++ {
		reply, err := tellAway(ctx, relay, connect, wire.AwayMessage{Away: &env})
		refused, ok := errors.AsType[*wire.Refusal](err)
		switch {
		case err == nil && reply.Away != nil:
			return absenceOf(*reply.Away, relay.Name(), wire.PublicKey(sign))
		case err == nil:
			return Absence{}, fmt.Errorf("%w: its reply does not say what is on record", ErrAway)
		case !ok:
			return Absence{}, err
		case refused.Code != wire.RefusedTaken || try == awayTries:
			return Absence{}, fmt.Errorf("%w: %s", ErrAway, wire.Clean(refused.Error(), 300))
		}
		if reply, err = tellAway(ctx, relay, connect, wire.AwayMessage{}); err != nil {
			return Absence{}, err
		}
		if reply.Away != nil {
			if a, err := wire.Open[wire.Away](*reply.Away, wire.PublicKey(sign)); err == nil {
				last = time.UnixMilli(a.At)
			}
		}
		if env, err = wire.SignAway(sign, relay.Name(), now(), until, last); err != nil {
			return Absence{}, err
		}
	}
}

// Said asks what is on record of this responder's absence.
func Said(ctx context.Context, relay *dial.Relay, connect, sign nkeys.KeyPair) (Absence, error) {
	reply, err := tellAway(ctx, relay, connect, wire.AwayMessage{})
	if err != nil || reply.Away == nil {
		return Absence{}, err
	}
	return absenceOf(*reply.Away, relay.Name(), wire.PublicKey(sign))
}

func absenceOf(env wire.Envelope, relay, sign string) (Absence, error) {
	a, err := wire.Open[wire.Away](env, sign)
	if err == nil && a.Relay != relay {
		err = errors.New("it was said to another relay")
	}
	if err != nil {
		return Absence{}, fmt.Errorf("the relay shows an absence that is not this responder's: %w", err)
	}
	if a.Back() || !a.End().After(now()) {
		return Absence{}, nil
	}
	return Absence{a.End()}, nil
}

// tellAway sends one message over a connection of its own, again where that is
// lost: the newest connection of a key closes the older one, so a responder that
// listens comes back and closes this one.
func tellAway(ctx context.Context, relay *dial.Relay, connect nkeys.KeyPair, msg wire.AwayMessage) (wire.Reply, error) {
	return exchange(ctx, relay, connect, wire.VerbAway, msg)
}

// exchange is tellAway for any message of a responder's.
func exchange(ctx context.Context, relay *dial.Relay, connect nkeys.KeyPair, verb string, msg any) (wire.Reply, error) {
	wait := firstBackoff
	for try := 1; ; try++ {
		reply, err := tellOnce(ctx, relay, connect, verb, msg)
		refused, ok := errors.AsType[*wire.Refusal](err)
		passes := errors.Is(err, dial.ErrUnreachable) || ok && (refused.Code == wire.RefusedBusy || refused.Code == wire.RefusedTooSoon) ||
			// A relay that has just started refuses for a moment what it will let in.
			errors.Is(err, dial.ErrRefused) && try < refusedTries
		if !passes {
			return reply, err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return wire.Reply{}, err
		}
		wait = min(2*wait, lastBackoff)
	}
}

func tellOnce(ctx context.Context, relay *dial.Relay, connect nkeys.KeyPair, verb string, msg any) (wire.Reply, error) {
	conn, err := relay.Connect(ctx, connect, "")
	if err != nil {
		return wire.Reply{}, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, replyWithin)
	defer cancel()
	return conn.Request(ctx, wire.DeskSubject(wire.PublicKey(connect), verb), msg)
}
