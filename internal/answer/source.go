package answer

// A source is a program of the human's own that knows the code: a password
// manager, a key with a button.
//
// The rule it keeps: **a source is asked only because a human has just said so, of
// this one attempt of this one prompt**, after all that stands between a human and a
// typed code has been passed: the proof, the pins, the match code where it is to be
// typed. What it gives is a code like any other: its form is checked, it is sealed
// to that one job, and it is forgotten.
//
// How a source is asked is none of a desk's business, and no asker's: they know its
// name.

import (
	"context"
	"errors"
	"fmt"

	"github.com/continuousauth/action/internal/wire"
)

// Sources are the programs that a human has named.
type Sources interface {
	// Name is what the human calls the source of a service's codes, "" if there is
	// none. It must be safe to show.
	Name(service string) string
	// Code asks it. What it has to say to the human meanwhile ("touch your key") goes
	// to tell, and must be safe to show; an error too, and holds nothing that it
	// printed. Code ends soon after ctx.
	Code(ctx context.Context, service string, tell func(string)) ([]byte, error)
}

// ErrSource says that a source gave no code that can be used. Nothing was sent.
var ErrSource = errors.New("no code came of it")

// fetch is a source that is being asked for a prompt.
type fetch struct {
	attempt int
	stop    context.CancelFunc
}

// source is the name of the source that could answer p, "" if none.
func (d *Desk) source(p *prompt, proof *proof) string {
	if d.config.Sources == nil || proof.standing != Verified || p.request.Ask != wire.AskCode || wantsYes(p.request, proof.alive) {
		return ""
	}
	return d.config.Sources.Name(p.request.Service)
}

// UseSource has a prompt's source give the code; see [Decisions].
func (d *Desk) UseSource(ctx context.Context, a Answer) error {
	var f *fetch
	var name, service string
	err := d.call(ctx, func() error {
		t := now()
		p, err := d.answerable(a, t)
		if err != nil {
			return err
		}
		service = p.request.Service
		switch name = d.source(p, p.proof); {
		case a.Code != "":
			return fmt.Errorf("%w: a code was given besides", ErrSource)
		case name == "":
			return fmt.Errorf("%w: there is no source for it", ErrSource)
		case p.fetch != nil:
			return fmt.Errorf("%w: %s is being asked for it already", ErrSource, name)
		}
		f = &fetch{attempt: p.state.Attempt}
		ctx, f.stop = context.WithDeadline(ctx, p.deadline)
		p.fetch = f
		d.log.Info("decision", "what", "source", "request", p.key, "project", p.request.Project, "attempt", f.attempt, "outcome", "asked", "source", name, "rule", p.proof.rule)
		return nil
	})
	if err != nil {
		return err
	}
	defer f.stop()
	code, err := d.config.Sources.Code(ctx, service, func(text string) {
		d.post(func() {
			for _, c := range d.couriers {
				c.notice(name + ": " + text)
			}
		})
	})
	defer clear(code)
	// Whoever asked may have gone meanwhile, and that has to be noted all the same.
	return d.call(context.WithoutCancel(ctx), func() error {
		p := d.prompts[a.ID]
		if p != nil && p.fetch == f {
			p.fetch = nil
		}
		switch {
		case ctx.Err() != nil:
			return fmt.Errorf("%w: %s", ErrSource, d.moved(p, a.Attempt))
		case err != nil:
			d.log.Info("decision", "what", "source", "request", a.ID, "attempt", a.Attempt, "outcome", "no code", "source", name, "why", err.Error())
			return fmt.Errorf("%w: %w", ErrSource, err)
		}
		a.Code = string(code)
		// As a typing error this would have a human asked for what they never typed.
		if err := d.answer(a); errors.Is(err, ErrCode) {
			return fmt.Errorf("%w: what %s gave has not the form that was asked for: %s", ErrSource, name, wire.Clean(err.Error(), 200))
		} else {
			return err
		}
	})
}

// moved says why a source was not waited for.
func (d *Desk) moved(p *prompt, attempt int) string {
	switch {
	case p == nil:
		return "it is over"
	case p.state.Attempt != attempt:
		return "the job has asked anew since"
	}
	if why := d.obstacle(p, now()); why != "" {
		return why
	}
	return "nobody waits for it any more"
}

// endFetch has a source stop for whose code there is no use any more: a human shall
// not touch a key for nothing.
func (p *prompt) endFetch(s Prompt) {
	if f := p.fetch; f != nil && (!s.Answerable || s.Attempt != f.attempt) {
		f.stop()
	}
}
