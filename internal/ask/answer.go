package ask

// Answers: which one counts, and what becomes of one that does not open.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/continuousauth/action/internal/receipt"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

// held is the answer in hand. While it is held, no other counts, and no
// challenge is answered: nobody is to give a second factor for nothing.
type held struct {
	attempt   int
	responder string
	person    string // the pinned key behind it
	sealed    wire.Digest
	got       *step // nil for an approval, which has no receipt
}

// hint takes in what the relay pushed.
func (s *Session) hint(ctx context.Context, h wire.Hint) {
	switch h.Hint {
	case wire.HintState:
		s.stale = true
	case wire.HintChallenge:
		s.challenged(ctx, h.Envelope)
	case wire.HintAnswer:
		s.answer(h.Envelope, h.Sealed)
	}
}

// answer takes the first answer that is signed by an accepted key, for this
// request and attempt, and opens. An answer that an accepted key signed but that
// cannot be used goes back to the humans without that key; anything else is the
// relay's doing, and dropped.
func (s *Session) answer(envelope *wire.Envelope, sealed *wire.Sealed) {
	if envelope == nil {
		s.drop("an answer without its envelope")
		return
	}
	signer, err := wire.ClaimedSigner(*envelope)
	person, accepted := s.accepts(signer, *envelope)
	switch {
	case err != nil:
		s.drop("an answer that names no signer")
		return
	case !accepted:
		s.drop("an answer of a key that this job does not accept (" + wire.Clean(signer, 56) + ")")
		return
	case s.shut[person]:
		s.drop("another answer of a key whose answer could not be used")
		return
	case s.spent[person]:
		s.drop("a second approval of a key that has given one; two people must agree")
		return
	}
	a, err := wire.Open[wire.Answer](*envelope, signer)
	switch {
	case errors.Is(err, wire.ErrSignature):
		s.drop("an answer whose signature is not by the key it names")
		return
	case err != nil:
		s.drop("an answer that is not well-formed")
		return
	case a.Digest != s.digest:
		s.drop("an answer to another request")
		return
	case s.held != nil && a.Attempt == s.held.attempt && a.Sealed == s.held.sealed && signer == s.held.responder:
		s.receipt() // it is what the relay misses
		return
	case s.held != nil:
		s.drop("another answer, though one is in hand")
		return
	case a.Attempt < s.attempt:
		s.drop(fmt.Sprintf("an answer to attempt %d, which is over", a.Attempt))
		return
	case a.Attempt > s.attempt:
		s.stale = true // perhaps an attempt was undelivered, and its hint lost
		s.drop(fmt.Sprintf("an answer to attempt %d, which this job has not asked for", a.Attempt))
		return
	}
	var code *string
	var line []byte
	switch {
	case s.cfg.Ask == wire.AskLink:
		s.drop("an answer, though a link is followed and not answered")
		return
	case a.Ask != s.cfg.Ask:
		s.unusable(signer, person, "it answers another question")
		return
	case s.wantsYes() && a.Decision == wire.DecisionYes:
		s.agree(a, person)
		return
	case s.wantsYes():
		// No relay that keeps to the protocol has taken it, and its signer is not
		// to blame for what the relay passes on.
		s.drop("a code, though another person must agree first")
		return
	case s.cfg.Ask == wire.AskApproval && a.Decision == wire.DecisionYes:
		if line, err = s.approval(a); err != nil {
			s.unproved(signer, person, wire.Clean(err.Error(), 200))
			return
		}
	case a.Decision != wire.DecisionCode:
		s.unusable(signer, person, "it holds no code")
		return
	case sealed == nil || sealed.Hash() != a.Sealed:
		// Its signer meant something else: the relay lost or changed it.
		s.drop("an answer without the sealed code that was signed")
		return
	default:
		plain, err := s.hpke.Open(*sealed, seal.To{Digest: s.digest, Attempt: a.Attempt, Ask: a.Ask, Responder: signer})
		if err != nil {
			s.unusable(signer, person, wire.Clean(inWords(err), 200))
			return
		}
		if err := s.format.Check(plain); err != nil {
			s.unusable(signer, person, wire.Clean(err.Error(), 200))
			return
		}
		code = &plain
	}
	s.hold(a, person, code, line)
}

// wantsYes says whether a code must not come yet, because two people must agree
// and nobody has.
func (s *Session) wantsYes() bool {
	return s.cfg.Ask == wire.AskCode && s.cfg.Approvals == 2 && !s.backed
}

// agree takes the first of two people's yes to a code: verified here, as a code
// is, and followed by the job's own signed wish for the code, which no relay can
// say in its place. Whoever has agreed gives no code.
func (s *Session) agree(a wire.Answer, person string) {
	s.backed, s.spent[person] = true, true
	s.tell(Agreed{Responder: a.Key})
	s.queue(wire.VerbNext, &wire.Next{Key: s.id, Digest: s.digest, Attempt: a.Attempt})
	s.advance(wire.ReasonNext)
}

// approval makes the receipt of a yes: the statement is built here, from what
// was asked, and the responder's signature must be over exactly that.
func (s *Session) approval(a wire.Answer) ([]byte, error) {
	asked, err := wire.Open[wire.Request](s.envelope, s.id)
	if err != nil {
		return nil, err
	}
	statement, err := receipt.Statement(asked, s.digest, a.Attempt, a.At, a.Key)
	if err != nil {
		return nil, err
	}
	if err := receipt.Verify(statement, a.Receipt, a.Key); err != nil {
		return nil, err
	}
	return receipt.Encode(statement, a.Receipt, a.Key, a.Chain...), nil
}

// unproved is what becomes of a yes whose receipt is no good. The relay, which
// cannot know that, has ended the request with the last yes that it needs; then
// nobody can be asked again, and the job must not end well.
func (s *Session) unproved(signer, person, why string) {
	if len(s.spent)+1 < max(s.cfg.Approvals, 1) {
		s.unusable(signer, person, why)
		return
	}
	s.shut[person] = true
	s.told = fail(ErrCancelled, fmt.Sprintf("%s said yes, but its receipt cannot be used: %s; the relay has ended the request with that", signer, why),
		"run it again without that key among the responders, or once its program was upgraded")
}

func (s *Session) hold(a wire.Answer, person string, code *string, line []byte) {
	s.held = &held{attempt: a.Attempt, responder: a.Key, person: person, sealed: a.Sealed}
	s.mu.Lock()
	s.holding, s.name = true, ""
	s.mu.Unlock()
	s.tell(Taken{Responder: a.Key, Attempt: a.Attempt})
	// Handed over before the receipt is sent: what waits for the code does not
	// wait for the relay.
	s.answers <- Answer{Responder: a.Key, Attempt: a.Attempt, code: code, receipt: line}
	if code != nil {
		s.held.got = s.queue(wire.VerbGot, &wire.Got{Key: s.id, Digest: s.digest, Attempt: a.Attempt, Sealed: a.Sealed})
	}
}

// receipt sends the receipt again, though it was confirmed: the relay acts as if
// it had never come.
func (s *Session) receipt() {
	got := s.held.got
	if got == nil || s.queued(got) || got.tries >= 10 {
		return
	}
	got.tries++
	got.again = time.Now().Add(backoff(got.tries))
	s.outbox = append(s.outbox, got)
}

// unusable sends the request back to the humans, without the key whose answer
// could not be used: a hostile responder must not keep it busy.
func (s *Session) unusable(signer, person, why string) {
	s.shut[person] = true
	s.tell(Warning{fmt.Sprintf("the answer of %s could not be used: %s; asking again, without that key", signer, why)})
	s.queue(wire.VerbRejected, &wire.Rejected{Key: s.id, Digest: s.digest, Attempt: s.attempt, Why: wire.RejectedUnusable, Shut: signer})
	s.advance(wire.ReasonRejected)
}

// advance begins the attempt after the current one, as the job's own signature
// makes it.
func (s *Session) advance(reason string) {
	if s.attempt >= maxAttempt {
		s.told = fail(ErrCancelled, fmt.Sprintf("given up after %d attempts", maxAttempt), "see who answers this project's prompts, and pin their keys with responders")
		return
	}
	s.begins(s.attempt+1, reason)
}

// drop tells of something that does not count. A relay that floods a job fills
// no log.
func (s *Session) drop(what string) {
	const most = 20
	s.drops++
	switch {
	case s.drops < most:
		s.tell(Dropped{"the relay passed on " + what})
	case s.drops == most:
		s.tell(Dropped{"the relay passed on " + what + "; further ones are not listed"})
	}
}
