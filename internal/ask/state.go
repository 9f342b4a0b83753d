package ask

// What the relay says of the request, and how much of it is believed: what can
// be verified decides, the rest is told to the log's reader.

import (
	"fmt"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// States as the relay spells them.
const (
	statePending   = "pending"
	stateAnswered  = "answered"
	stateDelivered = "delivered"
	stateDone      = "done"
	stateDeclined  = "declined"
	stateExpired   = "expired"
	stateCancelled = "cancelled"
)

// learn takes in a state.
func (s *Session) learn(st *wire.State) {
	if st == nil || st.Rev < s.rev {
		return // a reply that was overtaken
	}
	s.rev = st.Rev
	s.limit(st.Deadline)
	yes := s.cfg.Ask == wire.AskApproval || s.wantsYes() && st.State == statePending
	if st.Answer != nil && yes && s.held == nil {
		// A yes has no hint of its own: the state holds it, and with the last one
		// of an approval the request is over at once.
		s.answer(st.Answer, nil)
		if s.held == nil && s.told != nil {
			return // it was signed, and is no good: the relay's own word says less
		}
	}
	s.present(st)
	switch st.State {
	case statePending, stateAnswered, stateDelivered:
	case stateDeclined:
		s.told = s.declined(st)
		return
	case stateExpired:
		s.told = s.late()
		return
	case stateCancelled:
		why := wire.Clean(st.Why, 300)
		switch why {
		case "":
			why = "no reason given"
		case "lost":
			why = "it had not heard of this job for too long"
		}
		s.told = fail(ErrCancelled, "the relay cancelled the request: "+why, "run the job again when somebody is to answer it")
		return
	case stateDone:
		// Only this job ends a request well. Whoever says so without it brings
		// no code.
		s.told = fail(ErrCancelled, "the relay says that the request is over, though no answer was accepted here", "run the job again")
		return
	default:
		s.once("state", Warning{fmt.Sprintf("the relay speaks of a state %q, which this version does not know", wire.Clean(st.State, 40))})
		return
	}
	if s.held != nil {
		if st.State != stateDelivered {
			s.receipt()
		}
	} else if s.follow(st) && st.State != s.state && st.State != statePending {
		s.report(Changed{State: st.State, By: wire.Clean(st.By, 64)})
	}
	s.state = st.State
}

// follow takes in which attempt the relay holds open, and says whether that is
// now this job's too. The job goes along only with "undelivered", which only the
// relay can know, and only while nothing is in hand; every other attempt begins
// with the job's own signature.
func (s *Session) follow(st *wire.State) bool {
	switch {
	case st.Attempt < s.attempt:
		return false // what was signed here has not reached it yet
	case st.Attempt == s.attempt:
		return true
	case st.Reason != wire.ReasonUndelivered || st.Attempt > maxAttempt:
		s.once("attempt", Warning{fmt.Sprintf("the relay says that attempt %d is open because of %q, which this job never signed; this job stays at attempt %d",
			st.Attempt, wire.Clean(st.Reason, 40), s.attempt)})
		return false
	}
	s.begins(st.Attempt, wire.ReasonUndelivered)
	return true
}

// begins makes attempt the current one.
func (s *Session) begins(attempt int, reason string) {
	s.attempt, s.reason = attempt, reason
	s.tell(NewAttempt{Attempt: attempt, Reason: reason})
}

// present tells who is there: on call, with the prompt, and who answered.
func (s *Session) present(st *wire.State) {
	if s.held != nil {
		if st.Attempt == s.held.attempt && st.By != "" {
			name := wire.Clean(st.By, 64)
			s.mu.Lock()
			same := s.name == name
			s.name = name
			s.mu.Unlock()
			if !same {
				s.tell(Named{Who: name})
			}
		}
		return
	}
	if level, away := s.levelOf(st), fmt.Sprint(st.Away); level != s.level || away != s.away {
		s.level, s.away = level, away
		s.report(s.onCall(st))
	}
	if after := time.Duration(min(max(st.After, 0), int64(wire.LongestWait/time.Second))) * time.Second; after > s.after {
		s.after = after
		s.report(Escalated{After: after, Then: names(st.Then), Early: st.Skipped, Away: absent(st.Away)})
	}
	for _, who := range st.Opened[:min(len(st.Opened), maxNames)] {
		who = wire.Clean(who, 64)
		if s.first("opened " + who) {
			s.report(Opened{Who: who})
		}
	}
}

// declined is the end by a human's no. It is believed without proof too, since
// it ends nothing well; but then it is called the relay's word.
func (s *Session) declined(st *wire.State) *Failure {
	who := wire.Clean(st.By, 64)
	if who == "" {
		who = wire.SomeResponder
	}
	const next = "ask them why before you run the job again"
	if st.Decline != nil {
		signer, err := wire.ClaimedSigner(*st.Decline)
		if _, ok := s.accepts(signer, *st.Decline); err == nil && ok {
			d, err := wire.Open[wire.Decline](*st.Decline, signer)
			if err == nil && d.Digest == s.digest {
				what := fmt.Sprintf("declined by %s", who)
				if d.Reason != "" {
					what += fmt.Sprintf(", who says: %s", wire.Clean(d.Reason, 500))
				}
				return fail(ErrDeclined, what, next)
			}
		}
	}
	return fail(ErrDeclined, fmt.Sprintf("the relay says that %s declined, but shows no decline that is signed by a key this job accepts: it is the relay's word only", who), next)
}

// once tells e the first time that something is so.
func (s *Session) once(what string, e Event) {
	if s.first(what) {
		s.tell(e)
	}
}

// first says whether something is so for the first time. What a relay can make
// it remember is bounded.
func (s *Session) first(what string) bool {
	if s.seen[what] || len(s.seen) >= 64 {
		return false
	}
	s.seen[what] = true
	return true
}

// report tells e, which a relay can bring about as often as it likes: like drop,
// it fills no log.
func (s *Session) report(e Event) {
	const most = 100
	s.news++
	if s.news > most {
		return
	}
	s.tell(e)
	if s.news == most {
		s.tell(Warning{fmt.Sprintf("the relay, or the way to it, has changed %d times; further changes are not listed", most)})
	}
}
