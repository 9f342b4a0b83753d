package answer

// What is met for the first time is marked, and only a yes makes it known.

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/continuousauth/action/internal/answer/answertest"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

// actors is a memory of actors alone.
type actors struct {
	mu   sync.Mutex
	seen []string
}

func (a *actors) New(relay, project string, f Facts) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if slices.Contains(a.seen, relay+project+f.Actor) {
		return nil
	}
	return []string{NewActor}
}

func (a *actors) Answered(relay, project string, f Facts) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, relay+project+f.Actor)
}

func (a *actors) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.seen)
}

func TestAFirstSightIsMarkedUntilItIsAnswered(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*wire.Request, string)
		yes    func(*office, *answertest.Job) error
	}{
		{"a code", nil, func(o *office, j *answertest.Job) error { return o.answer(j, 1) }},
		{"an approval", func(r *wire.Request, sign string) {
			r.Ask, r.Format, r.Message, r.Responders = wire.AskApproval, "any", "release 1.0", []string{sign}
		}, func(o *office, j *answertest.Job) error {
			return o.desk.Answer(context.Background(), Answer{ID: j.ID(), Attempt: 1, Match: seal.Match(j.Digest)})
		}},
		{"the first of two", func(r *wire.Request, sign string) {
			r.Approvals, r.Responders = 2, []string{sign, ""}
		}, func(o *office, j *answertest.Job) error {
			return o.desk.Answer(context.Background(), Answer{ID: j.ID(), Attempt: 1, Match: seal.Match(j.Digest)})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := inMemory(t)
				memory := &actors{}
				o.desk.config.Memory = memory
				o.run()
				other, err := wire.NewSigningKey()
				if err != nil {
					t.Fatal(err)
				}
				j := gullibleJob(t, project, repo, func(r *wire.Request) {
					if c.change != nil {
						c.change(r, o.desk.sign)
					}
					if len(r.Responders) == 2 {
						r.Responders[1] = wire.PublicKey(other)
					}
				})
				o.relay.Ask(j)
				p := o.human.wait(t, j.ID(), "verified", standing(Verified))
				if !slices.Equal(p.New, []string{NewActor}) {
					t.Errorf("new: %q", p.New)
				}
				// Before it was verified nothing was known that could be new.
				for _, p := range o.human.shown(j.ID()) {
					if p.Standing != Verified && p.New != nil {
						t.Errorf("%s, and new: %q", p.Standing, p.New)
					}
				}
				// A no makes nothing known, nor does an answer that is not taken.
				no := gullibleJob(t, "other", repo, nil)
				o.relay.Ask(no)
				o.human.wait(t, no.ID(), "foreign", func(p Prompt) bool { return p.Standing == Unpinned })
				if err := o.desk.Decline(context.Background(), no.ID(), "no"); err != nil {
					t.Fatal(err)
				}
				o.human.wait(t, no.ID(), "over", phase(Over))
				if err := o.desk.Answer(context.Background(), Answer{ID: j.ID(), Attempt: 7, Code: code}); !errors.Is(err, ErrNotAnswerable) {
					t.Fatal(err)
				}
				if n := memory.count(); n != 0 {
					t.Fatalf("%d facts are known by now", n)
				}
				if err := c.yes(o, j); err != nil {
					t.Fatal(err)
				}
				again := gullibleJob(t, project, repo, nil)
				o.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
				o.relay.Ask(again)
				if p := o.human.wait(t, again.ID(), "verified", standing(Verified)); p.New != nil {
					t.Errorf("answered before, and new: %q", p.New)
				}
			})
		})
	}
}
