package ask

// Alive: showing a responder that this job runs, for the attempt that is open,
// with an ID token of the moment.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// opening is one responder's last challenge.
type opening struct {
	challenge wire.Challenge
	person    string // the pinned key behind the challenger
	came      time.Time
	answered  time.Time // when an alive answer was last sent to it
	busy      bool      // one is being prepared, for whichever challenge is the last by then
}

// ready says that an alive answer can be signed: there is a fresh token, and what
// goes with it.
type ready struct {
	key   string // the challenger's signing key
	token string
	link  string
	text  string // details
	err   error  // no token
	dead  error  // no link
}

// linkWithin is how long making a link may take: the responder waits
// wire.AliveWithin, and the rest of the way takes time too.
const linkWithin = wire.AliveWithin - 5*time.Second

// maxOpenings bounds how many challengers are answered at a time. Without pins a
// relay can invent as many as it likes.
const maxOpenings = 64

// challenged takes in a responder's challenge.
func (s *Session) challenged(ctx context.Context, envelope *wire.Envelope) {
	if envelope == nil {
		return
	}
	signer, err := wire.ClaimedSigner(*envelope)
	person, ok := s.accepts(signer, *envelope)
	if err != nil || !ok || s.shut[person] || s.spent[person] {
		s.drop("a challenge of a key that this job does not accept")
		return
	}
	c, err := wire.Open[wire.Challenge](*envelope, signer)
	if err != nil || c.Digest != s.digest {
		s.drop("a challenge that is not signed for this request")
		return
	}
	if s.held != nil || s.told != nil {
		return // an answer is in hand: nobody is to give another for nothing
	}
	o := s.openings[signer]
	if o == nil {
		for key, old := range s.openings {
			if !old.busy && time.Since(old.came) > wire.ChallengeEvery {
				delete(s.openings, key)
			}
		}
		if len(s.openings) >= maxOpenings {
			s.drop("more challenges than this job can answer")
			return
		}
		o = &opening{}
		s.openings[signer] = o
	}
	o.challenge, o.came, o.person = c, time.Now(), person
	s.freshen(ctx, signer, o)
}

// freshen gets a fresh token for o, not before 5 s have passed since it was last
// answered. It does so beside the session's goroutine: a token service that
// hangs must not keep an answer waiting.
func (s *Session) freshen(ctx context.Context, signer string, o *opening) {
	if o.busy {
		return
	}
	o.busy = true
	wait := time.Until(o.answered.Add(wire.ChallengeEvery))
	s.work.Go(func() {
		r := ready{key: signer}
		if r.err = sleep(ctx, wait); r.err == nil {
			r.link, r.text, r.dead = s.accompany(ctx)
		}
		if r.err == nil && r.dead == nil {
			// Last: a token must be of the moment.
			r.token, r.err = s.tokens.get(ctx)
		}
		select {
		case s.ready <- r:
		case <-ctx.Done():
		}
	})
}

// accompany makes what a human is shown beside the proof.
func (s *Session) accompany(ctx context.Context) (link, details string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, linkWithin, fmt.Errorf("no link within %s", linkWithin))
	defer cancel()
	if s.cfg.Link != nil {
		if link, err = s.cfg.Link(ctx); err != nil {
			return "", "", err
		}
	}
	if s.cfg.Details != nil {
		details = s.cfg.Details(ctx)
	}
	return link, details, nil
}

// alive signs and sends. Only here, by the goroutine that accepts answers, is it
// decided that nothing is in hand.
func (s *Session) alive(ctx context.Context, conn link, r ready) error {
	o := s.openings[r.key]
	if o == nil {
		return nil
	}
	o.busy = false
	if s.held != nil || s.told != nil || s.shut[o.person] || s.spent[o.person] || time.Since(o.came) > wire.AliveWithin {
		return nil
	}
	if r.dead != nil {
		s.tell(Warning{"a responder opened the request, but there is no link to show: " + wire.Clean(r.dead.Error(), 600)})
		return nil
	}
	if r.err != nil {
		s.tell(Warning{"a responder opened the request, but cannot be shown that this job runs: " + noToken(s.cfg.Provider, r.err).What})
		return nil
	}
	envelope, err := wire.Sign(&wire.Alive{
		Key: s.id, Digest: s.digest, Attempt: s.attempt, Reason: s.reason,
		Nonce: o.challenge.Nonce, Connect: o.challenge.Connect, Responder: o.challenge.Key,
		Link: r.link, Details: r.text,
	}, s.key)
	if err != nil {
		// Link is the caller's, or a registry's.
		s.tell(Warning{"a responder opened the request, but what goes with the proof cannot be sent: " + wire.Clean(inWords(err), 300)})
		return nil
	}
	o.answered = time.Now()
	_, err = s.call(ctx, conn, wire.VerbAlive, wire.AliveMessage{Alive: envelope, Token: r.token})
	if refused, ok := errors.AsType[*wire.Refusal](err); ok {
		s.log.Debug("alive refused", "code", refused.Code)
		s.stale = true
		if refused.Code == wire.RefusedPolicy {
			// The link's host, for one: without a word a human would wait for nothing.
			s.once("alive "+refused.Code, Warning{"a responder opened the request, and the relay does not pass the proof on: " + refusal(refused).Error()})
		}
		return nil
	}
	if err != nil {
		s.freshen(ctx, r.key, o) // again, over the next connection if need be
		return err
	}
	if s.cfg.Ask == wire.AskLink && s.first("shown "+r.key) {
		s.tell(Shown{Responder: r.key})
	}
	return nil
}
