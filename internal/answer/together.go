package answer

// Together: jobs of one run that ask at once (twelve packages of one repository)
// are one question to a human, and one code can be the answer to all of them.
//
// The rule it keeps: **who belongs together is what verified tokens say, never a
// message, and each prompt is answered as if it stood alone.** Of what a human is
// shown of a run, everything must be the same for all: they read it once. Each
// answer is sealed to its own job, for its own attempt, after its own checks.
//
// What it must never do: take in what the human has not seen. A code goes to the
// members that were named with it, not to what has joined their run since.

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

// kin names those that p is asked for together with: equal for all of them, "" if
// it is to be judged alone. That is so for what is not verified now; for links and
// approvals, of which each is to be looked at; and where its job, or a token that
// names no key, asks for its own match code, since another's says nothing of it.
func (p *prompt) kin(t time.Time) string {
	proof := p.proved(t)
	switch {
	case proof == nil || proof.standing != Verified:
		return ""
	case p.request.Ask != wire.AskCode || p.request.TypeMatch || !proof.job.Bound:
		return ""
	case wantsYes(p.request, proof.alive):
		return "" // a yes, and no code yet
	case proof.job.Facts.Group == "":
		return "" // its CI does not say which run it is
	}
	// As the token says it, not as it is cut to be shown.
	facts := proof.job.Facts
	facts.Job = ""
	return fmt.Sprintf("%q", []any{
		proof.job.Issuer.URL, facts, proof.rule, p.request.Project, p.request.Service, p.request.Format,
	})
}

// reusable says whether one code can answer p and its kin.
func (d *Desk) reusable(p *prompt) bool {
	return d.config.Reusable != nil && d.config.Reusable(p.request.Service)
}

// AnswerAll gives one code to several prompts; see [Decisions].
func (d *Desk) AnswerAll(ctx context.Context, a Together) (left []LeftOut, err error) {
	err = d.call(ctx, func() error {
		left, err = d.answerAll(a)
		return err
	})
	return left, err
}

func (d *Desk) answerAll(a Together) (left []LeftOut, err error) {
	t := now()
	var ready []*prompt
	kin, asked := "", map[string]bool{}
	for _, m := range a.Members {
		if asked[m.ID] {
			continue // sealed twice, it would be two answers to one attempt
		}
		asked[m.ID] = true
		p, err := d.answerableBut(m.ID, m.Attempt, t)
		if err == nil && p.kin(t) == "" {
			err = fmt.Errorf("%w together with others: it is to be judged alone", ErrNotAnswerable)
		}
		if err != nil {
			left = append(left, LeftOut{m.ID, err})
			continue
		}
		switch k := p.kin(t); kin {
		case "":
			kin = k
		case k:
		default:
			// Which of them the human meant, nobody knows.
			return nil, fmt.Errorf("%w: they are not of one run of one workflow, so each is to be answered by itself", ErrNotAnswerable)
		}
		ready = append(ready, p)
	}
	if len(ready) == 0 {
		if len(left) == 1 {
			return nil, left[0].Err
		}
		return nil, fmt.Errorf("%w: of these %d, none can be answered now", ErrNotAnswerable, len(left))
	}
	// The match code of one shows that the human reads the log of this run, which
	// is what all of their tokens name.
	typed := slices.ContainsFunc(ready, func(p *prompt) bool { return seal.SameMatch(a.Match, p.proof.match) })
	if !typed && slices.ContainsFunc(ready, d.typeMatch) {
		return nil, ErrMatch
	}
	if !d.reusable(ready[0]) {
		if typed {
			for _, p := range ready {
				p.vouchedAt = p.state.Attempt
			}
		}
		return left, ErrOneEach
	}
	format, err := wire.ParseFormat(ready[0].request.Format)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotAnswerable, err)
	}
	if err := format.Check(a.Code); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCode, err)
	}
	sent := 0
	for _, p := range ready {
		if err := d.seal(p, a.Code, t); err != nil {
			left = append(left, LeftOut{p.key, err})
			continue
		}
		sent++
	}
	if sent == 0 {
		return nil, left[0].Err
	}
	return left, nil
}
