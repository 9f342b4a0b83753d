package answer

// What the human decided, on its way: sealed or signed at once, kept until it has
// arrived, sent again as the same bytes.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/continuousauth/action/internal/receipt"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

const (
	resendEvery = 2 * time.Second
	// resendGap keeps a flood of hints from becoming a flood of answers.
	resendGap = 500 * time.Millisecond
	// maxRefusals is how often the relay may say that another attempt is open
	// while its own page says otherwise.
	maxRefusals = 3
)

// held is a decision that has not arrived. It holds no code: that was sealed.
type held struct {
	verb     string // wire.VerbAnswer or wire.VerbDecline
	msg      any
	hash     string // of what is sealed, hex; "" for a yes and a decline
	yes      bool   // an approval
	attempt  int
	until    time.Time
	next     time.Time // when it is sent (again)
	sent     time.Time
	sending  bool
	refusals int
}

// Answer gives a code; see [Decisions].
func (d *Desk) Answer(ctx context.Context, a Answer) error {
	return d.call(ctx, func() error { return d.answer(a) })
}

func (d *Desk) answer(a Answer) error {
	t := now()
	p, err := d.answerable(a, t)
	if err != nil {
		return err
	}
	switch p.request.Ask {
	case wire.AskCode:
		if wantsYes(p.request, p.proof.alive) {
			if a.Code != "" {
				return fmt.Errorf("%w: it asks for a yes first, and for another person's code after that", ErrNotAnswerable)
			}
			return d.agree(p, t)
		}
		return d.seal(p, a.Code, t)
	case wire.AskApproval:
		if a.Code != "" {
			return fmt.Errorf("%w: it asks for a yes, and takes no code", ErrNotAnswerable)
		}
		return d.approve(p, t)
	}
	return fmt.Errorf("%w: its link is to be followed, and the job sees by itself what becomes of it", ErrNotAnswerable)
}

// answerable finds the prompt that a is meant for, if it may be answered now.
func (d *Desk) answerable(a Answer, t time.Time) (*prompt, error) {
	p, err := d.answerableBut(a.ID, a.Attempt, t)
	if err != nil {
		return nil, err
	}
	if d.typeMatch(p) && !seal.SameMatch(a.Match, p.proof.match) {
		return nil, ErrMatch
	}
	return p, nil
}

// answerableBut is answerable but for the match code.
func (d *Desk) answerableBut(id string, attempt int, t time.Time) (*prompt, error) {
	p := d.prompts[id]
	if p == nil {
		return nil, fmt.Errorf("%w: it is over", ErrNotAnswerable)
	}
	if why := d.obstacle(p, t); why != "" {
		return nil, fmt.Errorf("%w: %s", ErrNotAnswerable, why)
	}
	if attempt != p.state.Attempt {
		return nil, fmt.Errorf("%w: the job has asked anew since; open it again", ErrNotAnswerable)
	}
	return p, nil
}

// Follow gives a link; see [Decisions].
func (d *Desk) Follow(ctx context.Context, a Answer) (link string, err error) {
	err = d.call(ctx, func() error {
		p, err := d.answerable(a, now())
		if err != nil {
			return err
		}
		if p.request.Ask != wire.AskLink {
			return fmt.Errorf("%w: it asks for no link to be followed", ErrNotAnswerable)
		}
		if link = p.proof.alive.Link; link == "" {
			return fmt.Errorf("%w: it has no link", ErrNotAnswerable)
		}
		d.remember(p)
		d.log.Info("decision", "what", "link", "request", p.key, "project", p.request.Project, "attempt", p.state.Attempt, "outcome", "shown", "host", wire.LinkHost(link), "rule", p.proof.rule)
		return nil
	})
	return link, err
}

// seal closes a code to p's job and sends it.
func (d *Desk) seal(p *prompt, code string, t time.Time) error {
	format, err := wire.ParseFormat(p.request.Format)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotAnswerable, err)
	}
	if err := format.Check(code); err != nil {
		return fmt.Errorf("%w: %w", ErrCode, err)
	}
	// The signed request's key, the signed attempt: what the proof covers.
	to := seal.To{Digest: p.digest, Attempt: p.proof.alive.Attempt, Ask: p.request.Ask, Responder: d.sign}
	sealed, err := seal.Close(p.request.HPKE, to, code)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotAnswerable, err)
	}
	hash := sealed.Hash()
	env, err := wire.Sign(&wire.Answer{
		Key: d.sign, Digest: p.digest, Attempt: to.Attempt, Ask: to.Ask, Decision: wire.DecisionCode, Sealed: hash, Chain: d.config.Chain,
	}, d.config.Sign)
	if err != nil {
		return err
	}
	p.held = &held{
		verb: wire.VerbAnswer, msg: wire.AnswerMessage{Key: p.key, Answer: env, Sealed: &sealed},
		hash: hash.String(), attempt: to.Attempt, until: t.Add(wire.KeepAnswer), next: t,
	}
	p.last, p.note = hash.String(), ""
	d.remember(p)
	d.log.Info("decision", "what", "answer", "request", p.key, "project", p.request.Project, "attempt", to.Attempt, "outcome", "sealed", "rule", p.proof.rule)
	return nil
}

// approve signs the human's yes: the receipt, whose statement is made here of
// what was verified, and the answer that carries it.
func (d *Desk) approve(p *prompt, t time.Time) error {
	attempt, at := p.proof.alive.Attempt, t.Unix()
	statement, err := receipt.Statement(p.proof.job.Request, p.digest, attempt, at, d.sign)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotAnswerable, err)
	}
	sig, err := receipt.Sign(statement, d.config.Sign)
	if err != nil {
		return fmt.Errorf("approve: %w", err)
	}
	env, err := wire.Sign(&wire.Answer{
		Key: d.sign, Digest: p.digest, Attempt: attempt, Ask: wire.AskApproval, Decision: wire.DecisionYes, At: at, Receipt: sig, Chain: d.config.Chain,
	}, d.config.Sign)
	if err != nil {
		return fmt.Errorf("approve: %w", err)
	}
	p.held = &held{
		verb: wire.VerbAnswer, yes: true, msg: wire.AnswerMessage{Key: p.key, Answer: env},
		attempt: attempt, until: t.Add(wire.KeepAnswer), next: t,
	}
	p.note = ""
	d.remember(p)
	d.log.Info("decision", "what", "answer", "request", p.key, "project", p.request.Project, "attempt", attempt, "outcome", "approved", "rule", p.proof.rule)
	return nil
}

// remember notes what its human has just said yes to.
func (d *Desk) remember(p *prompt) {
	if d.config.Memory != nil {
		d.config.Memory.Answered(d.relay, p.request.Project, p.proof.facts)
	}
}

// agree signs the human's yes to another person's giving the code. It has no
// receipt: what counts for the job is that code.
func (d *Desk) agree(p *prompt, t time.Time) error {
	attempt := p.proof.alive.Attempt
	env, err := wire.Sign(&wire.Answer{
		Key: d.sign, Digest: p.digest, Attempt: attempt, Ask: wire.AskCode, Decision: wire.DecisionYes, Chain: d.config.Chain,
	}, d.config.Sign)
	if err != nil {
		return fmt.Errorf("agree: %w", err)
	}
	p.held = &held{
		verb: wire.VerbAnswer, yes: true, msg: wire.AnswerMessage{Key: p.key, Answer: env},
		attempt: attempt, until: t.Add(wire.KeepAnswer), next: t,
	}
	p.note = ""
	d.remember(p)
	d.log.Info("decision", "what", "answer", "request", p.key, "project", p.request.Project, "attempt", attempt, "outcome", "agreed", "rule", p.proof.rule)
	return nil
}

// Decline says no; see [Decisions].
func (d *Desk) Decline(ctx context.Context, id, reason string) error {
	return d.call(ctx, func() error {
		p := d.prompts[id]
		switch {
		case p == nil:
			return fmt.Errorf("%w: it is over", ErrNotAnswerable)
		case p.held != nil:
			return fmt.Errorf("%w: an answer is on its way", ErrNotAnswerable)
		case d.quit:
			return fmt.Errorf("%w: this responder is ending", ErrNotAnswerable)
		}
		env, err := wire.Sign(&wire.Decline{Key: d.sign, Digest: p.digest, Attempt: p.state.Attempt, Reason: reason, Chain: d.config.Chain}, d.config.Sign)
		if err != nil {
			return fmt.Errorf("decline: %w", err)
		}
		t := now()
		p.held = &held{
			verb: wire.VerbDecline, msg: wire.DeclineMessage{Key: p.key, Decline: env},
			attempt: p.state.Attempt, until: t.Add(wire.KeepAnswer), next: t,
		}
		p.note = ""
		d.log.Info("decision", "what", "decline", "request", p.key, "project", p.request.Project, "attempt", p.state.Attempt)
		return nil
	})
}

// forget drops what p holds and says why.
func (d *Desk) forget(p *prompt, why string) {
	h := p.held
	p.held, p.note = nil, why
	if h.verb == wire.VerbAnswer {
		// An opening is good for one answer, and what was asked before it was
		// given proves nothing after it: a relay that keeps answers back would
		// else be given one code after the other for the same attempt.
		p.proof, p.challenge = nil, nil
		p.nextOpen = p.lastOpen.Add(openEvery)
	}
	d.log.Info("decision", "what", h.verb, "request", p.key, "project", p.request.Project, "attempt", h.attempt, "outcome", "forgotten", "why", why)
}

// tickHeld sends what is due and says when to look again.
func (d *Desk) tickHeld(p *prompt, t time.Time) time.Time {
	h := p.held
	// Until is on the wall clock; one that was set back ends it too.
	if !t.Before(h.until) || h.until.Sub(t) > 2*wire.KeepAnswer {
		again := "answer with a new code"
		if h.yes {
			again = "say it again"
		}
		d.forget(p, fmt.Sprintf("what you answered did not arrive within %s and is thrown away; if the prompt still waits, %s", wire.KeepAnswer, again))
		return t
	}
	if h.sending || d.conn == nil {
		return h.until
	}
	if t.Before(h.next) {
		return minTime(h.next, h.until)
	}
	h.sending, h.sent = true, t
	conn, work, subject, msg := d.conn, d.work, wire.DeskSubject(d.connect, h.verb), h.msg
	go func() {
		ctx, cancel := context.WithTimeout(work, replyWithin)
		defer cancel()
		reply, err := conn.Request(ctx, subject, msg)
		d.post(func() { d.heldSent(p, h, reply, err) })
	}()
	return h.until
}

// heldSent is told how the relay took what was sent.
func (d *Desk) heldSent(p *prompt, h *held, reply wire.Reply, err error) {
	if p.held != h {
		return
	}
	h.sending = false
	h.next = now().Add(resendEvery)
	if err == nil {
		if h.yes {
			// A yes has no receipt of the job's: once it is on record, it counts.
			p.agreed = p.request.Approvals > 1
			d.forget(p, "your yes is on record")
		}
		if reply.State != nil && reply.State.Rev >= p.state.Rev {
			d.setState(p, *reply.State)
		}
		return
	}
	var refused *wire.Refusal
	if !errors.As(err, &refused) {
		return // no reply: sent again when there is a connection
	}
	why := wire.Clean(refused.Error(), 300)
	switch refused.Code {
	case wire.RefusedBusy, wire.RefusedTooSoon:
		return
	case wire.RefusedTaken:
		p.taken, p.takenAt = why, h.attempt
		d.forget(p, why+"; what you answered is thrown away")
	case wire.RefusedAttempt:
		// The page says which attempt is open, and with that what becomes of
		// this one.
		if h.refusals++; h.refusals > maxRefusals {
			d.forget(p, "the relay does not take it: "+why)
		}
	case wire.RefusedEnded, wire.RefusedUnknown:
		d.forget(p, why)
	default:
		// Another code would fare no better: not to be asked for again.
		p.barred, p.barredAt = "the relay does not take your answer: "+why, p.state.Attempt
		d.forget(p, p.barred)
	}
	d.readSoon()
}

// settle decides what a new state means for what is held.
func (d *Desk) settle(p *prompt, s wire.State) {
	h := p.held
	if h == nil || h.verb == wire.VerbDecline {
		// A decline is repeated until it is refused or the request is over.
		return
	}
	if h.yes {
		d.settleYes(p, s)
		return
	}
	mine := s.Sealed == h.hash
	switch {
	case s.State == "pending" && s.Attempt == h.attempt:
		// Not there yet, or not yet known to whoever wrote this page.
	case s.State == "answered" && mine:
		// The relay has it on record, and the job has not said that it has it.
		if t := now(); !h.sending && t.Sub(h.sent) >= resendGap {
			h.next = t
		}
	case (s.State == "delivered" || s.State == "done") && mine:
		d.forget(p, "the relay says that the job has your code")
	case s.State == "pending":
		d.forget(p, "your answer did not reach the job in time and is thrown away; it asks anew")
	case s.State == "answered" || s.State == "delivered" || s.State == "done":
		d.forget(p, d.by(p)+" answered; what you answered is thrown away")
	default:
		d.forget(p, "what you answered is thrown away")
	}
}

// settleYes is settle for a yes. Whose yes is on record the relay says
// only to whom it belongs, so another state ends the waiting, and no more.
func (d *Desk) settleYes(p *prompt, s wire.State) {
	switch {
	case s.State == "pending" && s.Attempt == p.held.attempt:
	case s.State == "done" && p.request.Ask == wire.AskApproval:
		d.forget(p, "it is approved")
	case p.request.Ask == wire.AskCode && !final(s.State):
		d.forget(p, "its job has one yes, and asks another person for the code")
	case s.State == "pending" && s.Reason == wire.ReasonNext:
		d.forget(p, "its job has one yes, and asks for another person's")
	default:
		d.forget(p, "your yes is thrown away")
	}
}
