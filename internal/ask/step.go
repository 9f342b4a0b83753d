package ask

// Signed steps, each sent, byte for byte, until the relay has confirmed it or
// will never.

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// step is one signed step, or the wish for one until the session's goroutine
// has signed it.
type step struct {
	verb    string
	outcome string // of done

	envelope wire.Envelope
	tries    int
	again    time.Time  // not before
	sure     bool       // confirmed once: sent again it may be overtaken
	settled  chan error // buffered; nil for what nobody waits for
}

// take hands a step to the session's goroutine and waits until it is settled.
func (s *Session) take(ctx context.Context, verb, outcome string) error {
	st := &step{verb: verb, outcome: outcome, settled: make(chan error, 1)}
	s.mu.Lock()
	begun := s.begun
	s.mu.Unlock()
	if !begun {
		return errors.New("ask: nothing was asked yet")
	}
	select {
	case s.steps <- st:
	case <-s.over:
		return s.ended()
	case <-ctx.Done():
		return fmt.Errorf("%s not signed: %w", verb, context.Cause(ctx))
	}
	select {
	case err := <-st.settled:
		return err
	case <-s.over:
		select {
		case err := <-st.settled:
			return err
		default:
			return s.ended()
		}
	case <-ctx.Done():
		return fmt.Errorf("%s not confirmed by the relay: %w", verb, context.Cause(ctx))
	}
}

func (s *Session) ended() error {
	if s.end == nil {
		return errDone
	}
	return s.end
}

// decide signs a step that the caller wants, and goes on as it says at once: the
// relay hears of it when it can.
func (s *Session) decide(st *step) {
	var body wire.Body
	switch {
	case st.verb == wire.VerbDone:
		body = &wire.Done{Key: s.id, Digest: s.digest, Attempt: s.attempt, Outcome: st.outcome}
	case s.held == nil:
		st.settle(errors.New("ask: no answer is in hand"))
		return
	case st.verb == wire.VerbNext:
		body = &wire.Next{Key: s.id, Digest: s.digest, Attempt: s.held.attempt}
	default:
		body = &wire.Rejected{Key: s.id, Digest: s.digest, Attempt: s.held.attempt, Why: wire.RejectedRefused}
	}
	envelope, err := wire.Sign(body, s.key)
	if err != nil {
		st.settle(err)
		return
	}
	st.envelope = envelope
	s.outbox = append(s.outbox, st)
	if st.verb == wire.VerbDone {
		return
	}
	switch {
	case st.verb != wire.VerbNext || s.cfg.Approvals != 2:
	case s.cfg.Ask == wire.AskCode:
		// Two people stand behind it by now: one more code may come from either.
		clear(s.spent)
	default:
		s.spent[s.held.person] = true
	}
	s.held = nil
	select {
	case <-s.answers: // nobody took it before it was rejected
	default:
	}
	s.mu.Lock()
	s.holding, s.handed, s.name = false, false, ""
	s.mu.Unlock()
	reason := wire.ReasonRejected
	if st.verb == wire.VerbNext {
		reason = wire.ReasonNext
	}
	s.advance(reason)
}

// queue signs a step that the session itself decides on.
func (s *Session) queue(verb string, body wire.Body) *step {
	st := &step{verb: verb}
	envelope, err := wire.Sign(body, s.key)
	if err != nil {
		// Every field is this package's own and in range.
		panic(fmt.Sprintf("ask: sign %s: %v", verb, err))
	}
	st.envelope = envelope
	s.outbox = append(s.outbox, st)
	return st
}

func (s *Session) queued(st *step) bool {
	return slices.Contains(s.outbox, st)
}

func (st *step) settle(err error) {
	if st.settled != nil {
		st.settled <- err
	}
}

// flush sends what is not confirmed. again is when to come back; 0 with
// something left: at once.
func (s *Session) flush(ctx context.Context, conn link) (again time.Duration, err error) {
	for {
		st, wait := s.due()
		if st == nil || wait > 0 {
			return wait, nil
		}
		state, err := s.call(ctx, conn, st.verb, wire.StepMessage{Step: st.envelope})
		r, refused := errors.AsType[*wire.Refusal](err)
		switch {
		case err == nil:
			s.settle(st, nil)
			s.learn(state)
		case errors.Is(err, errSilent):
			return 0, nil
		case !refused:
			return 0, err
		case temporary(r):
			st.tries++
			st.again = time.Now().Add(backoff(st.tries))
		case r.Code == wire.RefusedUnknown && st.tries < 3:
			st.tries++
			st.again = time.Now().Add(backoff(st.tries))
			if err := s.ask(ctx, conn); err != nil && !errors.Is(err, errSilent) {
				return 0, err
			}
		case r.Code == wire.RefusedEnded && s.state == stateDone:
			s.settle(st, nil) // an approval, or a job that was taken for lost: done all the same
		default:
			s.stale = true // how does the relay see it?
			s.log.Debug("step refused", "verb", st.verb, "code", r.Code)
			var failure error = refusal(r)
			if s.told != nil {
				failure = s.told
			}
			s.settle(st, failure)
		}
	}
}

// due is the next step to send, and how long to wait before.
func (s *Session) due() (*step, time.Duration) {
	var first *step
	var least time.Duration
	for _, st := range s.outbox {
		wait := time.Until(st.again)
		if wait <= 0 {
			return st, 0
		}
		if first == nil || wait < least {
			first, least = st, wait
		}
		if !st.sure {
			break // what follows says more than the relay could take without it
		}
	}
	return first, least
}

// settle takes a step off the outbox: confirmed, or refused for good.
func (s *Session) settle(st *step, err error) {
	s.outbox = slices.DeleteFunc(s.outbox, func(q *step) bool { return q == st })
	st.sure = true
	if err != nil && s.held != nil && s.held.got == st {
		s.held.got = nil // never wanted
	}
	if st.verb == wire.VerbDone {
		s.done = true
	}
	st.settle(err)
}
