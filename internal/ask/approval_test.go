package ask

// Approvals: a signed yes with its receipt, of one person or two.

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/receipt"
	"github.com/continuousauth/action/internal/wire"
)

const saidAt = 1_795_000_600

// approves makes an honest yes; change may spoil it before it is signed.
func (p person) approves(s *script, attempt int, change func(*wire.Answer)) *wire.Envelope {
	s.t.Helper()
	_, asked, digest := s.asked()
	statement, err := receipt.Statement(asked, digest, attempt, saidAt, p.key)
	if err != nil {
		s.t.Fatal(err)
	}
	sig, err := receipt.Sign(statement, p.sign)
	if err != nil {
		s.t.Fatal(err)
	}
	a := wire.Answer{Key: p.key, Digest: digest, Attempt: attempt, Ask: wire.AskApproval, Decision: wire.DecisionYes, At: saidAt, Receipt: sig}
	if change != nil {
		change(&a)
	}
	e, err := wire.Sign(&a, p.sign)
	if err != nil {
		s.t.Fatal(err)
	}
	return &e
}

// artifacts are what the tests' approvals are about.
var artifacts = []wire.Artifact{{Name: "widgets-1.2.3.tgz", SHA256: wire.Digest{8}, Size: 4321, Package: "widgets", Version: "1.2.3"}}

func approval(change func(*Config), people ...person) func(*Config) {
	return func(c *Config) {
		c.Ask, c.Format, c.Artifacts = wire.AskApproval, "any", artifacts
		for _, p := range people {
			c.Responders = append(c.Responders, p.key)
		}
		if change != nil {
			change(c)
		}
	}
}

// checked reads an answer's receipt as somebody does who has only that.
func checked(t *testing.T, a Answer, key string) receipt.Receipt {
	t.Helper()
	list, err := receipt.Read(a.Receipt())
	if err != nil {
		t.Fatalf("receipt: %v\n%s", err, a.Receipt())
	}
	if err := receipt.Verify(list[0].Statement, list[0].Sig, key); err != nil {
		t.Error(err)
	}
	return list[0]
}

func TestAnApprovalIsASignedYesOfAPinnedKey(t *testing.T) {
	t.Parallel()
	alice, mallory := newPerson(t), newPerson(t)
	play(t, approval(nil, alice), func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		if _, asked, _ := g.asked(); len(asked.Artifacts) != 1 || asked.Artifacts[0] != artifacts[0] {
			t.Errorf("asked about %+v", asked.Artifacts)
		}
		g.hint(wire.Hint{Hint: wire.HintAnswer, Envelope: mallory.approves(g.script, 1, nil)})
		w.waiting(t)
		// The relay ends the request at once; its hint was lost.
		honest := alice.approves(g.script, 1, nil)
		g.set(func(st *wire.State) { st.State, st.Answer = stateDone, honest })
		if code := w.code(t); code != "" || w.answer.Responder != alice.key {
			t.Errorf("answer %v", w.answer)
		}
		p := checked(t, w.answer, alice.key).Predicate
		if p.At != "2026-11-18T11:16:40Z" || p.Digest != g.digest || p.Key != g.key || p.Artifacts[0] != artifacts[0] || p.Job["repository_id"] != "42" || p.Approvals != 1 {
			t.Errorf("the receipt says %+v", p)
		}
		g.does(wire.VerbDone, func(int, message) (wire.Reply, bool) { return g.now(), true })
		if err := g.job.Done(t.Context(), wire.OutcomeOK); err != nil {
			t.Error(err)
		}
	})
}

func TestACodeHasNoReceipt(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		newPerson(t).answers(g.script, 1, "123456")
		w.code(t)
		if w.answer.Receipt() != nil {
			t.Errorf("%s", w.answer.Receipt())
		}
	})
}

// spoilt are a responder's yeses whose receipt is not over what was asked.
func spoilt(p person) map[string]func(s *script) *wire.Envelope {
	return map[string]func(s *script) *wire.Envelope{
		"of another time": func(s *script) *wire.Envelope { return p.approves(s, 1, func(a *wire.Answer) { a.At++ }) },
		"of no time":      func(s *script) *wire.Envelope { return p.approves(s, 1, func(a *wire.Answer) { a.At = 1 << 50 }) },
		"of nothing": func(s *script) *wire.Envelope {
			return p.approves(s, 1, func(a *wire.Answer) { a.Receipt = bytes.Repeat([]byte{1}, 64) })
		},
		"for other files": func(s *script) *wire.Envelope {
			return p.approves(s, 1, func(a *wire.Answer) {
				_, asked, digest := s.asked()
				asked.Artifacts = []wire.Artifact{{Name: "widgets-1.2.3.tgz", SHA256: wire.Digest{9}}}
				statement, err := receipt.Statement(asked, digest, 1, saidAt, p.key)
				if err != nil {
					s.t.Fatal(err)
				}
				if a.Receipt, err = receipt.Sign(statement, p.sign); err != nil {
					s.t.Fatal(err)
				}
			})
		},
	}
}

// The relay has ended the request with that yes: there is nobody left to ask.
func TestAYesWhoseReceiptIsNoGoodEndsTheJobBadly(t *testing.T) {
	t.Parallel()
	alice := newPerson(t)
	for name, yes := range spoilt(alice) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, approval(nil, alice), func(t *testing.T, g *stage) {
				w := g.awaits(t.Context())
				e := yes(g.script)
				g.set(func(st *wire.State) { st.State, st.Answer = stateDone, e })
				f := w.fails(t, ErrCancelled)
				if !strings.Contains(f.Error(), "receipt cannot be used") || !strings.Contains(f.Error(), alice.key) {
					t.Errorf("%v", f)
				}
				for _, verb := range []string{wire.VerbRejected, wire.VerbDone, wire.VerbCancel} {
					if len(g.sent(verb)) != 0 {
						t.Errorf("sent %q to a request that is over", verb)
					}
				}
			})
		})
	}
}

// Of two, the first can be asked for again from somebody else.
func TestAFirstYesWhoseReceiptIsNoGoodGoesBack(t *testing.T) {
	t.Parallel()
	alice, bob, carol := newPerson(t), newPerson(t), newPerson(t)
	play(t, approval(func(c *Config) { c.Approvals = 2 }, alice, bob, carol), func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		e := spoilt(alice)["of nothing"](g.script)
		g.set(func(st *wire.State) { st.Answer = e })
		w.waiting(t)
		if r := step1[wire.Rejected](t, g.script, wire.VerbRejected, 0); r.Attempt != 1 || r.Why != wire.RejectedUnusable || r.Shut != alice.key {
			t.Errorf("rejected %+v", r)
		}
		good := bob.approves(g.script, 2, nil)
		g.set(func(st *wire.State) { st.Answer = good })
		w.code(t)
		checked(t, w.answer, bob.key)
	})
}

func TestTwoApprovalsAreTwoReceiptsOfTwoPeople(t *testing.T) {
	t.Parallel()
	alice, bob := newPerson(t), newPerson(t)
	play(t, approval(func(c *Config) { c.Approvals = 2 }, alice, bob), func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		first := alice.approves(g.script, 1, nil)
		g.set(func(st *wire.State) { st.Answer, st.By = first, "Ali\u202ece" })
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
		again := alice.approves(g.script, 2, nil)
		g.set(func(st *wire.State) { st.Answer = again })
		w.waiting(t)
		// The relay calls it done with the same person twice.
		g.does(wire.VerbState, func(int, message) (wire.Reply, bool) { return g.now(), true })
		second := bob.approves(g.script, 2, nil)
		g.set(func(st *wire.State) { st.State, st.Answer, st.By = stateDone, second, "Bob" })
		w.code(t)
		if g.told.count("Named {Who:Ali<U+202E>ce}") != 1 || g.told.count("Named {Who:Bob}") != 1 || g.told.count("Named") != 2 {
			t.Errorf("whose they are was not told: %+v", g.told.all())
		}
		both, err := receipt.Read(append(append(append([]byte{}, list...), '\n'), w.answer.Receipt()...))
		if err != nil {
			t.Fatal(err)
		}
		if err := receipt.Check(both, []string{alice.key, bob.key}, nil); err != nil {
			t.Error(err)
		}
		if err := receipt.Check(both[:1], []string{alice.key, bob.key}, nil); !errors.Is(err, receipt.ErrNotApproved) {
			t.Errorf("one of two: %v", err)
		}
	})
}

// A relay ends a request of two people with the first one's second yes.
func TestOnePersonTwiceEndsTheJobBadly(t *testing.T) {
	t.Parallel()
	alice, bob := newPerson(t), newPerson(t)
	play(t, approval(func(c *Config) { c.Approvals = 2 }, alice, bob), func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		first := alice.approves(g.script, 1, nil)
		g.set(func(st *wire.State) { st.Answer = first })
		w.code(t)
		if err := g.job.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		w = g.awaits(t.Context())
		again := alice.approves(g.script, 2, nil)
		g.set(func(st *wire.State) { st.State, st.Answer = stateDone, again })
		w.fails(t, ErrCancelled)
	})
}

// What was said yes to is one request's, attempt's and question's alone.
func TestAYesToSomethingElseIsDropped(t *testing.T) {
	t.Parallel()
	alice := newPerson(t)
	for name, change := range map[string]func(*wire.Answer){
		"to another request": func(a *wire.Answer) { a.Digest[0] ^= 1 },
		"to another attempt": func(a *wire.Answer) { a.Attempt = 2 },
	} {
		play(t, approval(nil, alice), func(t *testing.T, g *stage) {
			w := g.awaits(t.Context())
			e := alice.approves(g.script, 1, change)
			g.hint(wire.Hint{Hint: wire.HintAnswer, Envelope: e})
			g.set(func(st *wire.State) { st.Answer = e })
			w.waiting(t)
			if g.told.count("Dropped") == 0 {
				t.Errorf("%s: told %+v", name, g.told.all())
			}
			good := alice.approves(g.script, 1, nil)
			g.set(func(st *wire.State) { st.State, st.Answer = stateDone, good })
			w.code(t)
		})
	}
}
