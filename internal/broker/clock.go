package broker

// The relay's clock: what time alone does to a request. Every relay of a cluster
// runs it; the store's compare-and-swap lets one of them win.

import (
	"context"
	"errors"
	"time"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

func (r *Relay) runClock(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	var before time.Time // at the start, every turn that has come is told once more
	for {
		select {
		case <-tick.C:
			now := r.now()
			r.escalate(before, now)
			before = now
			r.sweep(ctx, now)
		case <-ctx.Done():
			return
		}
	}
}

// sweep does what is due now.
func (r *Relay) sweep(ctx context.Context, now time.Time) {
	// First: a clock that is off ends the rest, and must still be measured.
	if err := r.store.measureRoom(ctx); err != nil {
		r.end(err)
		return
	}
	r.unstick(now)
	asked := false
	for _, e := range r.store.those(func(*entry) bool { return true }) {
		due, in := e.rec.Clock(now)
		if in == nil || now.Before(due) {
			if in = r.lost(e.rec, now); in == nil {
				continue
			}
		}
		if !asked {
			asked = true
			if by, off := r.store.clockOff(ctx); off {
				if r.challenges.allow("clock", now) {
					r.log.Error("this relay's clock is off the store's; it ends nothing by time until it is right", "by", by)
				}
				return
			}
		}
		after, err := r.store.transition(ctx, e.rec.Key, in)
		switch {
		case err == nil:
			r.decided("clock", after)
			r.changed(after)
		case errors.Is(err, errStore):
			r.log.Warn("time-out not recorded; it is tried again", "request", e.rec.Key, "error", err)
		}
	}
	r.heard.forget(now.Add(-10*time.Minute), func(key string) bool { _, open := r.store.recent(key); return open })
	r.store.forgetEnded()
	r.traffic.forget(now)
}

// unstick opens the store anew once a disk that was full has room again: else each
// open request would wait for somebody to restart the relay.
func (r *Relay) unstick(now time.Time) {
	if !r.store.stuck() || !r.reopens.allow("store", now) {
		return
	}
	if err := r.net.reopenStore(); err != nil {
		r.log.Error("the store does not open after its disk was full; it is tried again", "error", err, "mend", "if it stays so, restart the relay")
		return
	}
	r.store.reopened()
	r.log.Info("the store was opened anew, after its disk was full")
}

// lost says whether a job has gone: nothing heard for 90 s, then asked by hint,
// then nothing for another 20 s.
func (r *Relay) lost(rec lifecycle.Record, now time.Time) lifecycle.Input {
	if now.Sub(r.heard.last(rec.Key)) < lifecycle.LostAsk {
		return nil
	}
	since, first := r.heard.ask(rec.Key)
	if first {
		r.push(wire.HintSubject(rec.Key), wire.Hint{Hint: wire.HintState, Key: rec.Key})
	}
	if now.Sub(since) < lifecycle.LostAfter {
		return nil
	}
	return lifecycle.Lost{}
}

// recordSeen runs for each record that the stream brings, from whichever relay.
func (r *Relay) recordSeen(e entry) {
	// The relay that recorded it may have ended before it noted what follows.
	// After a restore this sees all of the record, of which the old is noted already.
	if e.rec.Event == lifecycle.EventDeclined && e.rec.Group != "" && r.now().Sub(time.UnixMilli(e.rec.At)) < wire.LongestWait+time.Hour {
		r.goDo(func() {
			ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
			defer cancel()
			if err := r.store.noteDeclined(ctx, e.rec); err != nil && r.ctx.Err() == nil {
				r.log.Warn("it is not on record that a run was declined", "request", e.rec.Key, "error", err)
			}
		})
	}
	// A request may have been accepted by another relay a moment ago: its clock
	// starts here too.
	if e.rec.Event == lifecycle.EventAsked && r.now().Sub(time.UnixMilli(e.rec.At)) < time.Minute {
		r.heard.note(e.rec.Key)
	}
}
