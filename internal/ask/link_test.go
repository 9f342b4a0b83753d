package ask

// Links: made when a prompt is opened, shown to who opened it, followed until the
// job has seen the outcome.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// linked makes a request ask to follow a link.
func linked(make func(context.Context) (string, error)) func(*Config) {
	return func(c *Config) { c.Ask, c.Format, c.Link = wire.AskLink, "any", make }
}

// follows calls Follow beside the test.
func (g *stage) follows(ctx context.Context) *awaited {
	a := &awaited{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.err = g.job.Follow(ctx)
	}()
	synctest.Wait()
	return a
}

func TestALinkIsMadeWhenAPromptIsOpenedAndFollowedUntilDone(t *testing.T) {
	t.Parallel()
	made := 0
	play(t, linked(func(context.Context) (string, error) {
		made++
		return fmt.Sprintf("https://www.npmjs.com/auth/cli/%d", made), nil
	}), func(t *testing.T, g *stage) {
		alice := newPerson(t)
		w := g.follows(t.Context())
		time.Sleep(20 * time.Minute)
		if w.waiting(t); made != 0 {
			t.Fatalf("%d links were made before anybody looked", made)
		}
		alice.opens(g.script, 'a')
		w.waiting(t)
		time.Sleep(time.Minute)
		alice.opens(g.script, 'b')
		w.waiting(t)
		alives, _ := g.alives()
		if len(alives) != 2 || alives[0].Link != "https://www.npmjs.com/auth/cli/1" || alives[1].Link != "https://www.npmjs.com/auth/cli/2" {
			t.Fatalf("alive answers %+v", alives)
		}
		// Once for each who signed that they open it.
		if n := g.told.count("Shown {Responder:" + alice.key + "}"); n != 1 || g.told.count("Shown") != 1 {
			t.Errorf("told %d times that it was shown: %+v", n, g.told.all())
		}
		if err := g.job.Done(t.Context(), wire.OutcomeOK); err != nil {
			t.Fatal(err)
		}
		<-w.done
		if w.err != nil {
			t.Errorf("Follow: %v", w.err)
		}
		if d := step1[wire.Done](t, g.script, wire.VerbDone, 0); d.Outcome != wire.OutcomeOK || d.Attempt != 1 {
			t.Errorf("done %+v", d)
		}
	})
}

func TestALinkThatCannotBeMadeProvesNothingAndIsTold(t *testing.T) {
	t.Parallel()
	fails := true
	play(t, linked(func(context.Context) (string, error) {
		if fails {
			return "", errors.New("npm ended with exit code 1")
		}
		return "https://www.npmjs.com/x", nil
	}), func(t *testing.T, g *stage) {
		alice := newPerson(t)
		w := g.follows(t.Context())
		alice.opens(g.script, 'a')
		w.waiting(t)
		if alives, _ := g.alives(); len(alives) != 0 || !g.told.has("npm ended with exit code 1") {
			t.Fatalf("%d alive answers; told %+v", len(alives), g.told.all())
		}
		fails = false
		time.Sleep(wire.ChallengeEvery)
		alice.opens(g.script, 'b')
		w.waiting(t)
		if alives, _ := g.alives(); len(alives) != 1 {
			t.Fatalf("%d alive answers", len(alives))
		}
	})
}

// A tool that hangs must not keep the responder waiting beyond its 30 s, nor hold
// up anything else of the session.
func TestMakingALinkIsBounded(t *testing.T) {
	t.Parallel()
	play(t, linked(func(ctx context.Context) (string, error) {
		<-ctx.Done()
		return "", context.Cause(ctx)
	}), func(t *testing.T, g *stage) {
		alice := newPerson(t)
		w := g.follows(t.Context())
		alice.opens(g.script, 'a')
		w.waiting(t)
		reads := len(g.sent(wire.VerbState))
		time.Sleep(wire.AliveWithin)
		w.waiting(t)
		if !g.told.has("no link within 25s") {
			t.Errorf("told %+v", g.told.all())
		}
		if len(g.sent(wire.VerbState)) == reads {
			t.Error("the state was not read meanwhile")
		}
	})
}

func TestALinkThatTheProtocolDoesNotCarryIsTold(t *testing.T) {
	t.Parallel()
	play(t, linked(func(context.Context) (string, error) {
		return "https://www.npmjs.com/" + strings.Repeat("x", wire.MaxLink), nil
	}), func(t *testing.T, g *stage) {
		w := g.follows(t.Context())
		newPerson(t).opens(g.script, 'a')
		w.waiting(t)
		if alives, _ := g.alives(); len(alives) != 0 || !g.told.has("what goes with the proof cannot be sent") {
			t.Errorf("%d alive answers; told %+v", len(alives), g.told.all())
		}
	})
}

// Whatever comes as an answer to a link counts for nothing, a code of an honest
// responder included: the job sees the outcome at the service.
func TestNobodyAnswersALink(t *testing.T) {
	t.Parallel()
	play(t, linked(func(context.Context) (string, error) { return "https://www.npmjs.com/x", nil }), func(t *testing.T, g *stage) {
		alice := newPerson(t)
		w := g.follows(t.Context())
		alice.answers(g.script, 1, "123456")
		yes, err := wire.Sign(&wire.Answer{Key: alice.key, Digest: g.digest, Attempt: 1, Ask: wire.AskLink, Decision: wire.DecisionYes}, alice.sign)
		if err != nil {
			t.Fatal(err)
		}
		g.hint(wire.Hint{Hint: wire.HintAnswer, Envelope: &yes})
		w.waiting(t)
		if n := g.told.count("a link is followed and not answered"); n != 2 {
			t.Errorf("%d dropped; told %+v", n, g.told.all())
		}
		g.set(func(st *wire.State) { st.State = stateDone })
		<-w.done
		if !errors.Is(w.err, ErrCancelled) {
			t.Errorf("a relay that says done ended it with %v", w.err)
		}
	})
}

// The relay's own policy may know the link's host not: whoever reads the log can
// then have it added.
func TestALinkThatTheRelayDoesNotPassOnIsTold(t *testing.T) {
	t.Parallel()
	play(t, linked(func(context.Context) (string, error) { return "https://registry.example/x", nil }), func(t *testing.T, g *stage) {
		g.does(wire.VerbAlive, func(int, message) (wire.Reply, bool) {
			return refuse(wire.RefusedPolicy, "registry.example is no host of npm's links", "add it to links")
		})
		w := g.follows(t.Context())
		newPerson(t).opens(g.script, 'a')
		w.waiting(t)
		if !g.told.has("registry.example is no host") || !g.told.has("add it to links") {
			t.Errorf("told %+v", g.told.all())
		}
	})
}

func TestDetailsGoWithTheProof(t *testing.T) {
	t.Parallel()
	play(t, func(c *Config) { c.Details = func(context.Context) string { return "+ new.js\n- old.js" } }, func(t *testing.T, g *stage) {
		g.awaits(t.Context())
		newPerson(t).opens(g.script, 'a')
		synctest.Wait()
		if alives, _ := g.alives(); len(alives) != 1 || alives[0].Details != "+ new.js\n- old.js" {
			t.Errorf("alive answers %+v", alives)
		}
	})
}
