package ask

// Keys that succeed the one that a workflow pins.

import (
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/receipt"
	"github.com/continuousauth/action/internal/wire"
)

// next is the same human with another key, and how it succeeds the first.
func (p person) next(t testing.TB) (person, []wire.Succession) {
	t.Helper()
	n := newPerson(t)
	n.desk = p.desk
	s, err := wire.SignSuccession(p.sign, n.sign, time.Unix(saidAt, 0))
	if err != nil {
		t.Fatal(err)
	}
	return n, []wire.Succession{s}
}

func with(chain []wire.Succession) func(*wire.Answer) {
	return func(a *wire.Answer) { a.Chain = chain }
}

func pins(people ...person) func(*Config) {
	return func(c *Config) {
		for _, p := range people {
			c.Responders = append(c.Responders, p.key)
		}
	}
}

func TestAKeyThatAPinnedOneVouchesForCounts(t *testing.T) {
	t.Parallel()
	alice, mallory := newPerson(t), newPerson(t)
	later, chain := alice.next(t)
	_, stolen := mallory.next(t)
	play(t, pins(alice), func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		_, _, digest := g.asked()
		c := wire.Challenge{Key: later.key, Connect: wire.PublicKey(later.desk), Digest: digest, Nonce: []byte(strings.Repeat("n", 16)), Chain: chain}
		e, err := wire.Sign(&c, later.sign)
		if err != nil {
			t.Fatal(err)
		}
		g.hint(wire.Hint{Hint: wire.HintChallenge, Envelope: &e})
		w.waiting(t)
		if alives, _ := g.alives(); len(alives) != 1 || alives[0].Responder != later.key {
			t.Errorf("%+v", alives)
		}
		// Without the chain, and by whom nobody vouches for, it does not.
		g.hint(later.seals(g.script, 1, "111111", nil))
		g.hint(mallory.seals(g.script, 1, "222222", nil))
		bad := mallory.seals(g.script, 1, "333333", nil)
		a := wire.Answer{Key: mallory.key, Digest: digest, Attempt: 1, Ask: wire.AskCode, Decision: wire.DecisionCode, Sealed: bad.Sealed.Hash(), Chain: stolen}
		if _, err := wire.Sign(&a, mallory.sign); err == nil {
			t.Error("a chain that ends with another key is signed")
		}
		w.waiting(t)
		if g.told.count("Dropped") != 2 {
			t.Errorf("%+v", g.told.all())
		}
		g.hint(later.seals(g.script, 1, "493817", with(chain)))
		if code := w.code(t); code != "493817" || w.answer.Responder != later.key {
			t.Errorf("%q of %s", code, w.answer.Responder)
		}
	})
}

// Two people are not one of them with two keys.
func TestOnePersonWithTwoKeysIsOnePerson(t *testing.T) {
	t.Parallel()
	alice, bob := newPerson(t), newPerson(t)
	later, chain := alice.next(t)
	// Also where somebody has pinned both.
	play(t, approval(func(c *Config) { c.Approvals = 2 }, alice, bob, later), func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		first := alice.approves(g.script, 1, nil)
		g.set(func(st *wire.State) { st.Answer = first })
		w.code(t)
		list := w.answer.Receipt()
		g.does(wire.VerbNext, func(int, message) (wire.Reply, bool) {
			g.state.Rev++
			g.state.Attempt, g.state.Reason, g.state.Answer, g.state.By = 2, wire.ReasonNext, nil, ""
			return g.now(), true
		})
		if err := g.job.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		w = g.awaits(t.Context())
		again := later.approves(g.script, 2, with(chain))
		g.set(func(st *wire.State) { st.Answer = again })
		w.waiting(t)
		g.does(wire.VerbState, func(int, message) (wire.Reply, bool) { return g.now(), true })
		bobs, bobsChain := bob.next(t)
		second := bobs.approves(g.script, 2, with(bobsChain))
		g.set(func(st *wire.State) { st.State, st.Answer, st.By = stateDone, second, "Bob" })
		w.code(t)
		both, err := receipt.Read(append(append(append([]byte{}, list...), '\n'), w.answer.Receipt()...))
		if err != nil {
			t.Fatal(err)
		}
		if err := receipt.Check(both, []string{alice.key, bob.key}, nil); err != nil {
			t.Error(err)
		}
	})
}

// Whose answer could not be used is out with each of their keys.
func TestWhoIsShutOutIsSoWithTheNextKeyToo(t *testing.T) {
	t.Parallel()
	alice := newPerson(t)
	later, chain := alice.next(t)
	play(t, pins(alice), func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		g.does(wire.VerbRejected, func(int, message) (wire.Reply, bool) {
			g.state.Rev++
			g.state.Attempt, g.state.Reason = 2, wire.ReasonRejected
			return g.now(), true
		})
		g.hint(alice.seals(g.script, 1, "no digits", nil))
		w.waiting(t)
		g.hint(later.seals(g.script, 2, "493817", with(chain)))
		w.waiting(t)
		if g.told.count("Dropped") != 1 {
			t.Errorf("%+v", g.told.all())
		}
	})
}
