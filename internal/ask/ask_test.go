package ask

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

func TestACodeComesBackSealedAndEachStepIsSigned(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		if g.request.Relay != relayName || g.request.Project != "demo" || g.request.Message != "please" ||
			g.request.Proof["iss"] != "https://issuer.test" || g.request.Proof["repository_id"] != "42" || len(g.request.Proof) != 2 {
			t.Fatalf("asked %+v", g.request)
		}
		if got := time.Unix(g.request.Deadline, 0).Sub(time.Unix(g.request.Made, 0)); got != 30*time.Minute {
			t.Errorf("deadline after %s", got)
		}
		var rm wire.RequestMessage
		if err := wire.Decode(g.sent(wire.VerbRequest)[0].data, wire.MaxMessage, &rm); err != nil {
			t.Fatal(err)
		}
		claims, err := ci.Unverified(rm.Token)
		if err != nil {
			t.Fatal(err)
		}
		if aud, _ := claims.String("aud"); aud != wire.Audience(relayName, g.job.ID()) {
			t.Errorf("token for audience %q", aud)
		}
		if !g.told.has("Match:" + seal.Match(g.digest)) {
			t.Error("the match code was not told")
		}
		alice := newPerson(t)
		g.does(wire.VerbGot, func(int, message) (wire.Reply, bool) {
			g.state.State, g.state.By = stateDelivered, "Al\x1bice"
			g.state.Rev++
			return g.now(), true
		})
		alice.answers(g.script, 1, "012345")
		if code := w.code(t); code != "012345" {
			t.Errorf("code %q", code)
		}
		if w.answer.Responder != alice.key || w.answer.Attempt != 1 {
			t.Errorf("answer %v", w.answer)
		}
		if err := g.job.Done(t.Context(), wire.OutcomeOK); err != nil {
			t.Fatal(err)
		}
		if name := g.job.Name(); name != "Al<U+001B>ice" {
			t.Errorf("name %q", name)
		}
		if got := step1[wire.Got](t, g.script, wire.VerbGot, 0); got.Attempt != 1 || got.Digest != g.digest || got.Sealed == (wire.Digest{}) {
			t.Errorf("got %+v", got)
		}
		if done := step1[wire.Done](t, g.script, wire.VerbDone, 0); done.Outcome != wire.OutcomeOK || done.Attempt != 1 {
			t.Errorf("done %+v", done)
		}
		if n := len(g.sent(wire.VerbCancel)); n != 0 {
			t.Error("a request that is done was cancelled too")
		}
		if _, err := g.job.Await(t.Context()); err == nil {
			t.Error("Await after Done gave an answer")
		}
	})
}

func TestAnAnswerIsOpenBeforeItsReceiptIsConfirmed(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		g.does(wire.VerbGot, func(int, message) (wire.Reply, bool) { return wire.Reply{}, false })
		start := time.Now()
		newPerson(t).answers(g.script, 1, "123456")
		w.code(t)
		if d := time.Since(start); d != 0 {
			t.Errorf("the code came after %s", d)
		}
	})
}

func TestAnswersThatDoNotCountAreDropped(t *testing.T) {
	t.Parallel()
	alice, mallory := newPerson(t), newPerson(t)
	for name, c := range map[string]struct {
		hint func(g *stage) wire.Hint
		says string
	}{
		"of a key that is not pinned": {func(g *stage) wire.Hint { return mallory.seals(g.script, 1, "666666", nil) }, "does not accept"},
		"with another's signature": {func(g *stage) wire.Hint {
			h, forged := alice.seals(g.script, 1, "666666", nil), mallory.seals(g.script, 1, "666666", nil)
			h.Envelope.Sig = forged.Envelope.Sig
			return h
		}, "signature"},
		"signed as another kind": {func(g *stage) wire.Hint {
			e, err := wire.Sign(&wire.Decline{Key: alice.key, Digest: g.digest, Attempt: 1}, alice.sign)
			if err != nil {
				g.t.Fatal(err)
			}
			return wire.Hint{Hint: wire.HintAnswer, Envelope: &e}
		}, "well-formed"},
		"to another request": {func(g *stage) wire.Hint {
			return alice.seals(g.script, 1, "666666", func(a *wire.Answer) { a.Digest[0] ^= 1 })
		}, "another request"},
		"to an attempt not asked for": {func(g *stage) wire.Hint { return alice.seals(g.script, 2, "666666", nil) }, "attempt 2"},
		"with another sealed code": {func(g *stage) wire.Hint {
			h, other := alice.seals(g.script, 1, "123123", nil), alice.seals(g.script, 1, "666666", nil)
			h.Sealed = other.Sealed
			return h
		}, "sealed code"},
		"without the sealed code": {func(g *stage) wire.Hint {
			h := alice.seals(g.script, 1, "123123", nil)
			h.Sealed = nil
			return h
		}, "sealed code"},
		"without an envelope":  {func(g *stage) wire.Hint { return wire.Hint{Hint: wire.HintAnswer} }, "envelope"},
		"without a valid form": {func(g *stage) wire.Hint { return wire.Hint{Hint: wire.HintAnswer, Envelope: &wire.Envelope{}} }, "no signer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, func(c *Config) { c.Responders = []string{alice.key} }, func(t *testing.T, g *stage) {
				w := g.awaits(t.Context())
				g.hint(c.hint(g))
				w.waiting(t)
				if g.told.count("Dropped") != 1 || !g.told.has(c.says) {
					t.Errorf("told: %+v", g.told.all())
				}
				for _, verb := range []string{wire.VerbGot, wire.VerbRejected} {
					if len(g.sent(verb)) != 0 {
						t.Errorf("signed %q over it", verb)
					}
				}
				alice.answers(g.script, 1, "123456")
				if code := w.code(t); code != "123456" {
					t.Errorf("code %q", code)
				}
			})
		})
	}
}

func TestAnAnswerToAnAttemptThatIsOverIsDropped(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		alice := newPerson(t)
		w := g.awaits(t.Context())
		first := alice.seals(g.script, 1, "111111", nil)
		g.hint(first)
		w.code(t)
		if err := g.job.Reject(t.Context()); err != nil {
			t.Fatal(err)
		}
		w = g.awaits(t.Context())
		g.hint(first)
		w.waiting(t)
		if !g.told.has("attempt 1, which is over") {
			t.Errorf("told: %+v", g.told.all())
		}
		alice.answers(g.script, 2, "222222")
		if code := w.code(t); code != "222222" || w.answer.Attempt != 2 {
			t.Errorf("code %q, %v", code, w.answer)
		}
		if r := step1[wire.Rejected](t, g.script, wire.VerbRejected, 0); r.Attempt != 1 || r.Why != wire.RejectedRefused || r.Shut != "" {
			t.Errorf("rejected %+v", r)
		}
	})
}

func TestAnUnusableAnswerGoesBackWithoutItsKey(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(g *stage, p person) wire.Hint{
		"sealed to another attempt": func(g *stage, p person) wire.Hint {
			return p.seals(g.script, 2, "123456", func(a *wire.Answer) { a.Attempt = 1 })
		},
		"of the wrong form": func(g *stage, p person) wire.Hint { return p.seals(g.script, 1, "12345x", nil) },
		"with a line break": func(g *stage, p person) wire.Hint { return p.seals(g.script, 1, "12345\n", nil) },
		"a yes without a code": func(g *stage, p person) wire.Hint {
			return p.seals(g.script, 1, "123456", func(a *wire.Answer) { a.Decision, a.Sealed = wire.DecisionYes, wire.Digest{} })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, nil, func(t *testing.T, g *stage) {
				mallory, alice := newPerson(t), newPerson(t)
				w := g.awaits(t.Context())
				g.hint(spoil(g, mallory))
				w.waiting(t)
				r := step1[wire.Rejected](t, g.script, wire.VerbRejected, 0)
				if r.Attempt != 1 || r.Why != wire.RejectedUnusable || r.Shut != mallory.key {
					t.Errorf("rejected %+v", r)
				}
				if len(g.sent(wire.VerbGot)) != 0 {
					t.Error("signed a receipt for it")
				}
				mallory.answers(g.script, 2, "666666")
				mallory.opens(g.script, 'n')
				w.waiting(t)
				if alives, _ := g.alives(); len(alives) != 0 {
					t.Error("answered a challenge of a key that is shut out")
				}
				alice.answers(g.script, 2, "123456")
				if code := w.code(t); code != "123456" {
					t.Errorf("code %q", code)
				}
			})
		})
	}
}

func TestARelayThatInventsARejectionIsNotFollowed(t *testing.T) {
	t.Parallel()
	for _, reason := range []string{wire.ReasonRejected, wire.ReasonNext, "other\x1b"} {
		play(t, nil, func(t *testing.T, g *stage) {
			alice := newPerson(t)
			w := g.awaits(t.Context())
			g.set(func(st *wire.State) { st.Attempt, st.Reason = 2, reason })
			w.waiting(t)
			if !g.told.has("never signed") {
				t.Errorf("%s: told: %+v", reason, g.told.all())
			}
			alice.opens(g.script, 'n')
			w.waiting(t)
			if a, _ := g.alives(); len(a) != 1 || a[0].Attempt != 1 || a[0].Reason != wire.ReasonFirst {
				t.Errorf("%s: alive %+v", reason, a)
			}
			alice.answers(g.script, 1, "123456")
			w.code(t)
		})
	}
}

func TestAnUndeliveredAttemptIsFollowed(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		alice := newPerson(t)
		w := g.awaits(t.Context())
		late := alice.seals(g.script, 1, "111111", nil)
		g.set(func(st *wire.State) { st.Attempt, st.Reason = 2, wire.ReasonUndelivered })
		alice.opens(g.script, 'n')
		w.waiting(t)
		if a, _ := g.alives(); len(a) != 1 || a[0].Attempt != 2 || a[0].Reason != wire.ReasonUndelivered {
			t.Errorf("alive %+v", a)
		}
		g.hint(late)
		// Back to an earlier attempt the relay cannot take it.
		for _, attempt := range []int{3, 2} {
			time.Sleep(readGap)
			g.set(func(st *wire.State) { st.Attempt = attempt })
			w.waiting(t)
		}
		alice.answers(g.script, 2, "333333")
		alice.answers(g.script, 3, "222222")
		if code := w.code(t); code != "222222" {
			t.Errorf("code %q", code)
		}
	})
}

func TestAnAnswerInHandOutlivesWhatTheRelaySays(t *testing.T) {
	t.Parallel()
	for name, lie := range map[string]func(*wire.State){
		"undelivered": func(st *wire.State) { st.State, st.Attempt, st.Reason = statePending, 2, wire.ReasonUndelivered },
		"expired":     func(st *wire.State) { st.State = stateExpired },
		"declined":    func(st *wire.State) { st.State = stateDeclined },
		"cancelled":   func(st *wire.State) { st.State = stateCancelled },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, nil, func(t *testing.T, g *stage) {
				alice, bob := newPerson(t), newPerson(t)
				w := g.awaits(t.Context())
				alice.answers(g.script, 1, "123456")
				w.code(t)
				synctest.Wait()
				g.does(wire.VerbGot, func(int, message) (wire.Reply, bool) { return g.now(), true }) // and it insists
				g.set(lie)
				synctest.Wait()
				bob.opens(g.script, 'n')
				bob.answers(g.script, 2, "222222")
				time.Sleep(time.Hour) // far past the deadline
				if a, _ := g.alives(); len(a) != 0 {
					t.Error("answered a challenge with an answer in hand")
				}
				if name == "undelivered" && len(g.sent(wire.VerbGot)) < 2 {
					t.Error("the receipt that the relay seems to miss was not sent again")
				}
				if n := len(g.sent(wire.VerbGot)); n > 12 {
					t.Errorf("%d receipts", n)
				}
				if err := g.job.Done(t.Context(), wire.OutcomeOK); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestADeclineEndsTheRequestAndSaysWhoseWordItIs(t *testing.T) {
	t.Parallel()
	alice, mallory := newPerson(t), newPerson(t)
	sign := func(g *stage, p person, change func(*wire.Decline)) *wire.Envelope {
		d := wire.Decline{Key: p.key, Digest: g.digest, Attempt: 1, Reason: "not \u202e now"}
		if change != nil {
			change(&d)
		}
		e, err := wire.Sign(&d, p.sign)
		if err != nil {
			g.t.Fatal(err)
		}
		return &e
	}
	for name, c := range map[string]struct {
		decline func(g *stage) *wire.Envelope
		says    string
	}{
		"signed":              {func(g *stage) *wire.Envelope { return sign(g, alice, nil) }, "declined by Alice, who says: not <U+202E> now"},
		"without proof":       {func(g *stage) *wire.Envelope { return nil }, "the relay's word only"},
		"by a stranger":       {func(g *stage) *wire.Envelope { return sign(g, mallory, nil) }, "the relay's word only"},
		"of another request":  {func(g *stage) *wire.Envelope { return sign(g, alice, func(d *wire.Decline) { d.Digest[3] ^= 1 }) }, "the relay's word only"},
		"with a wrong signer": {func(g *stage) *wire.Envelope { e := sign(g, alice, nil); e.Sig = sign(g, mallory, nil).Sig; return e }, "the relay's word only"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, func(c *Config) { c.Responders = []string{alice.key} }, func(t *testing.T, g *stage) {
				w := g.awaits(t.Context())
				g.set(func(st *wire.State) { st.State, st.By, st.Decline = stateDeclined, "Alice", c.decline(g) })
				if f := w.fails(t, ErrDeclined); !strings.Contains(f.Error(), c.says) {
					t.Errorf("%v", f)
				}
				if len(g.sent(wire.VerbCancel)) != 0 {
					t.Error("a request that is over was cancelled")
				}
			})
		})
	}
}

func TestNoEndByTheRelayIsAGoodOne(t *testing.T) {
	t.Parallel()
	for state, kind := range map[string]error{stateDone: ErrCancelled, stateCancelled: ErrCancelled, stateExpired: ErrTimedOut, stateDeclined: ErrDeclined} {
		play(t, nil, func(t *testing.T, g *stage) {
			w := g.awaits(t.Context())
			g.set(func(st *wire.State) { st.State, st.Why = state, "lost" })
			f := w.fails(t, kind)
			if state == stateCancelled && f.What != "the relay cancelled the request: it had not heard of this job for too long" {
				t.Errorf("the job says: %s", f.What)
			}
			if err := g.job.Reject(t.Context()); err == nil {
				t.Errorf("%s: Reject after the end", state)
			}
		})
	}
}

func TestALostReceiptIsSentAgainByteForByte(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		g.does(wire.VerbGot, func(n int, _ message) (wire.Reply, bool) {
			if n <= 3 {
				return wire.Reply{}, false
			}
			g.state.State, g.state.By = stateDelivered, "Alice"
			g.state.Rev++
			return g.now(), true
		})
		w := g.awaits(t.Context())
		newPerson(t).answers(g.script, 1, "123456")
		w.code(t)
		time.Sleep(time.Minute)
		got := g.sent(wire.VerbGot)
		if len(got) != 4 {
			t.Fatalf("%d receipts", len(got))
		}
		for _, m := range got[1:] {
			if !bytes.Equal(m.data, got[0].data) {
				t.Error("the receipt was signed again")
			}
		}
		if got[3].conn == got[0].conn {
			t.Error("two unanswered messages did not end the connection")
		}
		if g.job.Name() != "Alice" {
			t.Errorf("name %q", g.job.Name())
		}
	})
}

func TestARefusedStepIsSentAgainOnlyIfThatCanHelp(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		g.does(wire.VerbRejected, func(n int, _ message) (wire.Reply, bool) {
			if n < 3 {
				return refuse(wire.RefusedBusy, "no quorum", "")
			}
			g.state.Attempt, g.state.Reason, g.state.State = 2, wire.ReasonRejected, statePending
			g.state.Rev++
			return g.now(), true
		})
		alice := newPerson(t)
		w := g.awaits(t.Context())
		alice.answers(g.script, 1, "123456")
		w.code(t)
		if err := g.job.Reject(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(g.sent(wire.VerbRejected)); n != 3 {
			t.Errorf("sent %d times", n)
		}
		g.does(wire.VerbNext, func(int, message) (wire.Reply, bool) { return refuse(wire.RefusedAttempt, "no\nsuch attempt", "") })
		w = g.awaits(t.Context())
		alice.answers(g.script, 2, "123456")
		w.code(t)
		err := g.job.Next(t.Context())
		if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "no<U+000A>such attempt") {
			t.Errorf("Next: %v", err)
		}
		if n := len(g.sent(wire.VerbNext)); n != 1 {
			t.Errorf("sent %d times", n)
		}
	})
}

func TestALostConnectionComesBackAndReadsWhatItMissed(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		g.cut()
		g.mu.Lock()
		g.state.Rev, g.state.Attempt, g.state.Reason = 9, 2, wire.ReasonUndelivered
		g.mu.Unlock()
		time.Sleep(time.Second)
		if g.connected() != 2 || len(g.sent(wire.VerbRequest)) != 1 {
			t.Fatalf("%d connects, %d requests", g.connected(), len(g.sent(wire.VerbRequest)))
		}
		var q wire.StateQuery
		states := g.sent(wire.VerbState)
		if len(states) != 1 {
			t.Fatalf("%d reads", len(states))
		}
		if err := wire.Decode(states[0].data, wire.MaxMessage, &q); err != nil || q.Rev != 1 {
			t.Errorf("read after revision %d, %v", q.Rev, err)
		}
		if !g.told.has("Reconnecting") || !g.told.has("NewAttempt {Attempt:2") {
			t.Errorf("told: %+v", g.told.all())
		}
		// Its key is known by now: no token is needed, however old the last one is.
		time.Sleep(2 * time.Minute)
		g.cut()
		time.Sleep(time.Second)
		if g.connected() != 3 || g.issuer.count() != 1 {
			t.Errorf("%d connects, %d tokens", g.connected(), g.issuer.count())
		}
		newPerson(t).answers(g.script, 2, "123456")
		w.code(t)
	})
}

// A relay that has seen the request end, or is of before this way of coming back,
// wants a token: it has one without a wait, and a fresh one.
func TestAJobThatIsNotKnownByItsKeyShowsATokenAtOnce(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		var mu sync.Mutex
		var shown []string
		g.admits(func(_ int, token string) error {
			mu.Lock()
			defer mu.Unlock()
			shown = append(shown, token)
			if token == "" {
				return dial.ErrRefused
			}
			return nil
		})
		w := g.awaits(t.Context())
		time.Sleep(2 * time.Minute)
		g.cut()
		time.Sleep(backoffFirst) // the one wait, before the first connect
		g.issuer.mu.Lock()
		minted := slices.Clone(g.issuer.minted)
		g.issuer.mu.Unlock()
		mu.Lock()
		defer mu.Unlock()
		if len(minted) != 2 || !slices.Equal(shown, []string{minted[0], "", minted[1]}) {
			t.Fatalf("%d connects, %d tokens, shown %q", g.connected(), len(minted), shown)
		}
		newPerson(t).answers(g.script, 1, "123456")
		w.code(t)
	})
}

func TestACutBeforeTheRequestIsConfirmedAsksAgainTheSame(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		g.does(wire.VerbRequest, func(n int, _ message) (wire.Reply, bool) {
			if n == 1 {
				g.conns[0].Close()
				return wire.Reply{}, false
			}
			return g.now(), true
		})
		w := g.awaits(t.Context())
		time.Sleep(time.Second)
		w.waiting(t)
		var a, b wire.RequestMessage
		requests := g.sent(wire.VerbRequest)
		if len(requests) != 2 {
			t.Fatalf("%d requests", len(requests))
		}
		if err := errors.Join(wire.Decode(requests[0].data, wire.MaxMessage, &a), wire.Decode(requests[1].data, wire.MaxMessage, &b)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(a.Request.Encode(), b.Request.Encode()) {
			t.Error("another request was asked")
		}
		newPerson(t).answers(g.script, 1, "123456")
		w.code(t)
	})
}

func TestTheStateIsReadAgainEvery15Seconds(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		g.awaits(t.Context())
		time.Sleep(5 * time.Minute)
		reads := g.sent(wire.VerbState)
		if len(reads) < 15 || len(reads) > 25 {
			t.Errorf("%d reads in 5 minutes", len(reads))
		}
		for i := range reads[1:] {
			if d := reads[i+1].at.Sub(reads[i].at); d < 12*time.Second || d > 18*time.Second {
				t.Errorf("read again after %s", d)
			}
		}
	})
}

func TestTwoUnansweredReadsEndTheConnection(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		g.falls(true)
		time.Sleep(18 * time.Second)
		reads := g.sent(wire.VerbState)
		if len(reads) == 0 {
			t.Fatal("not read again")
		}
		time.Sleep(time.Until(reads[0].at.Add(2*replyWithin + 2*time.Second)))
		if g.connected() != 2 {
			t.Errorf("%d connects", g.connected())
		}
		g.falls(false)
		time.Sleep(15 * time.Second)
		newPerson(t).answers(g.script, 1, "123456")
		w.code(t)
	})
}

func TestARequestThatTheRelayForgotIsAskedAgain(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		g.does(wire.VerbState, func(n int, _ message) (wire.Reply, bool) {
			if n == 1 {
				return refuse(wire.RefusedUnknown, "no such request", "")
			}
			return g.now(), true
		})
		time.Sleep(40 * time.Second)
		requests := g.sent(wire.VerbRequest)
		if len(requests) != 2 || g.told.count("Accepted {") != 1 {
			t.Errorf("%d requests", len(requests))
		}
		newPerson(t).answers(g.script, 1, "123456")
		w.code(t)
	})
}

func TestARelayThatForgotAndIsBusyHoldsUpNoDeadline(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		start := time.Now()
		w := g.awaits(t.Context())
		g.does(wire.VerbState, func(int, message) (wire.Reply, bool) { return refuse(wire.RefusedUnknown, "no such request", "") })
		g.does(wire.VerbRequest, func(int, message) (wire.Reply, bool) { return refuse(wire.RefusedBusy, "no quorum", "") })
		w.fails(t, ErrTimedOut)
		if d := time.Since(start); d != 30*time.Minute {
			t.Errorf("after %s", d)
		}
		if n := len(g.sent(wire.VerbRequest)); n < 80 || n > 160 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestAChallengeIsAnsweredWithATokenOfTheMoment(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		alice, bob := newPerson(t), newPerson(t)
		w := g.awaits(t.Context())
		time.Sleep(10 * time.Second)
		alice.opens(g.script, 'a')
		bob.opens(g.script, 'b')
		w.waiting(t)
		alives, tokens := g.alives()
		if len(alives) != 2 || g.issuer.count() != 1 || tokens[0] != tokens[1] || tokens[0] != g.issuer.minted[0] {
			t.Fatalf("%d alive answers, %d tokens: a token of 10 s is fresh", len(alives), g.issuer.count())
		}
		for _, a := range alives {
			p := map[string]person{alice.key: alice, bob.key: bob}[a.Responder]
			nonce := map[string]string{alice.key: strings.Repeat("a", 16), bob.key: strings.Repeat("b", 16)}[a.Responder]
			if a.Connect != wire.PublicKey(p.desk) || string(a.Nonce) != nonce || a.Digest != g.digest || a.Attempt != 1 || a.Reason != wire.ReasonFirst || a.Key != g.key {
				t.Errorf("alive %+v", a)
			}
		}
		time.Sleep(time.Minute)
		alice.opens(g.script, 'c')
		w.waiting(t)
		alives, tokens = g.alives()
		if len(alives) != 3 || g.issuer.count() != 2 || tokens[2] != g.issuer.minted[1] || string(alives[2].Nonce) != strings.Repeat("c", 16) {
			t.Fatalf("%d alive answers, %d tokens: a token of 70 s is not fresh", len(alives), g.issuer.count())
		}
	})
}

func TestAChallengerIsAnsweredAtMostEvery5Seconds(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		alice := newPerson(t)
		w := g.awaits(t.Context())
		for i := range 20 {
			alice.opens(g.script, byte('a'+i))
			time.Sleep(500 * time.Millisecond)
		}
		w.waiting(t)
		time.Sleep(10 * time.Second)
		sent := g.sent(wire.VerbAlive)
		for i := range sent[1:] {
			if d := sent[i+1].at.Sub(sent[i].at); d < wire.ChallengeEvery {
				t.Errorf("answered again after %s", d)
			}
		}
		alives, _ := g.alives()
		if len(alives) != 3 || string(alives[2].Nonce) != strings.Repeat("t", 16) {
			t.Errorf("%d alive answers, the last to %q: the newest challenge must not be lost", len(alives), alives[len(alives)-1].Nonce)
		}
	})
}

func TestAChallengeOfAStrangerIsNotAnswered(t *testing.T) {
	t.Parallel()
	alice, mallory := newPerson(t), newPerson(t)
	play(t, func(c *Config) { c.Responders = []string{alice.key} }, func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		mallory.opens(g.script, 'm')
		// Alice's, but over another request.
		alice.challenges(g.script, 'x', func(d wire.Digest) wire.Digest { d[0] ^= 1; return d })
		w.waiting(t)
		if alives, _ := g.alives(); len(alives) != 0 || g.told.count("Dropped") != 2 {
			t.Errorf("%d alive answers; told %+v", len(alives), g.told.all())
		}
		alice.opens(g.script, 'a')
		w.waiting(t)
		if alives, _ := g.alives(); len(alives) != 1 {
			t.Errorf("%d alive answers", len(alives))
		}
	})
}

func TestChallengesOfInventedKeysAreBounded(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		for range 80 {
			newPerson(t).opens(g.script, 'm')
		}
		w.waiting(t)
		if alives, _ := g.alives(); len(alives) > maxOpenings {
			t.Errorf("%d alive answers", len(alives))
		}
		if !g.told.has("more challenges than") {
			t.Error("not told")
		}
		time.Sleep(time.Minute)
		newPerson(t).opens(g.script, 'a')
		before, _ := g.alives()
		w.waiting(t)
		if after, _ := g.alives(); len(after) != len(before)+1 {
			t.Error("an honest responder gets no answer a minute later")
		}
	})
}

func TestNobodyIsShownAJobThatHoldsAnAnswer(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		alice, bob := newPerson(t), newPerson(t)
		w := g.awaits(t.Context())
		time.Sleep(2 * time.Minute) // the token is old
		g.issuer.slows(10 * time.Second)
		bob.opens(g.script, 'b') // its token is being fetched while the answer comes
		synctest.Wait()
		alice.answers(g.script, 1, "123456")
		w.code(t)
		time.Sleep(2 * time.Minute)
		tokens := g.issuer.count()
		alice.opens(g.script, 'a')
		time.Sleep(wire.AliveWithin)
		if alives, _ := g.alives(); len(alives) != 0 {
			t.Fatalf("%d alive answers with an answer in hand", len(alives))
		}
		if g.issuer.count() != tokens {
			t.Error("fetched a token for a challenge that is not answered")
		}
		if err := g.job.Reject(t.Context()); err != nil {
			t.Fatal(err)
		}
		bob.opens(g.script, 'c')
		time.Sleep(wire.AliveWithin)
		if alives, _ := g.alives(); len(alives) != 1 || alives[0].Attempt != 2 || alives[0].Reason != wire.ReasonRejected {
			t.Fatalf("alive %+v", alives)
		}
	})
}

func TestOnlyTheFirstAnswerCounts(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		alice, bob := newPerson(t), newPerson(t)
		w := g.awaits(t.Context())
		first := alice.seals(g.script, 1, "111111", nil)
		g.hint(first)
		w.code(t)
		bob.answers(g.script, 1, "222222")
		g.hint(first) // the relay repeats it, for want of a receipt
		time.Sleep(time.Minute)
		if g.told.count("Taken") != 1 || g.told.count("Dropped") != 1 {
			t.Errorf("told %+v", g.told.all())
		}
		if got := g.sent(wire.VerbGot); len(got) != 2 || !bytes.Equal(got[0].data, got[1].data) {
			t.Errorf("%d receipts", len(got))
		}
	})
}

func TestAnAliveThatComesTooLateIsNotSent(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		g.awaits(t.Context())
		time.Sleep(2 * time.Minute)
		g.issuer.slows(wire.AliveWithin + time.Second)
		newPerson(t).opens(g.script, 'a')
		time.Sleep(time.Minute)
		if alives, _ := g.alives(); len(alives) != 0 {
			t.Error("a human who has given up waiting was answered")
		}
	})
}

func TestStepsArriveInTheOrderTheyWereSigned(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		g.does(wire.VerbGot, func(n int, _ message) (wire.Reply, bool) {
			if n < 4 {
				return refuse(wire.RefusedBusy, "no quorum", "")
			}
			return g.now(), true
		})
		w := g.awaits(t.Context())
		newPerson(t).answers(g.script, 1, "123456")
		w.code(t)
		if err := g.job.Done(t.Context(), wire.OutcomeOK); err != nil {
			t.Fatal(err)
		}
		got, done := g.sent(wire.VerbGot), g.sent(wire.VerbDone)
		if len(got) != 4 || len(done) != 1 || done[0].at.Before(got[3].at) {
			t.Errorf("%d receipts, %d done", len(got), len(done))
		}
	})
}

func TestAHangingTokenServiceHoldsUpNoAnswer(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		alice := newPerson(t)
		w := g.awaits(t.Context())
		time.Sleep(2 * time.Minute)
		g.issuer.slows(time.Hour)
		alice.opens(g.script, 'a')
		synctest.Wait()
		start := time.Now()
		alice.answers(g.script, 1, "123456")
		w.code(t)
		if d := time.Since(start); d != 0 {
			t.Errorf("the answer waited %s", d)
		}
	})
}

func TestAnAliveThatWasNotConfirmedIsSentAgain(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		g.does(wire.VerbAlive, func(n int, _ message) (wire.Reply, bool) {
			if n == 1 {
				g.conns[0].Close()
				return wire.Reply{}, false
			}
			return g.now(), true
		})
		w := g.awaits(t.Context())
		newPerson(t).opens(g.script, 'a')
		time.Sleep(10 * time.Second)
		w.waiting(t)
		if alives, _ := g.alives(); len(alives) != 2 || !bytes.Equal(alives[0].Nonce, alives[1].Nonce) {
			t.Errorf("alive %+v", alives)
		}
	})
}

func TestACancelledContextWithdrawsTheRequest(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		ctx, cancel := context.WithCancelCause(t.Context())
		w := g.awaits(ctx)
		cancel(errors.New("SIGTERM \x1b came"))
		f := w.fails(t, ErrCancelled)
		if !strings.Contains(f.Error(), "SIGTERM <U+001B> came") {
			t.Error(f)
		}
		if c := step1[wire.Cancel](t, g.script, wire.VerbCancel, 0); c.Digest != g.digest || c.Why != "SIGTERM <U+001B> came" {
			t.Errorf("cancel %+v", c)
		}
	})
}

func TestAWithdrawalTakes5SecondsAtMost(t *testing.T) {
	t.Parallel()
	hang := func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }
	for name, c := range map[string]struct {
		before func(g *stage)
		cancel int // how many cancels must have been sent
	}{
		"from a silent relay":       {func(g *stage) { g.falls(true) }, 2}, // of several, another may have died with the first
		"over a lost connection":    {func(g *stage) { g.cut() }, 1},
		"from a relay that is gone": {func(g *stage) { g.admits(func(int, string) error { return dial.ErrUnreachable }); g.cut() }, 0},
		"while a token is waited for": {func(g *stage) {
			time.Sleep(2 * time.Minute)
			g.issuer.slows(time.Hour)
			g.cut()
		}, 0},
		"while connecting never ends": {func(g *stage) { g.cut(); g.job.connect = nil }, 0},
		"while the request is refused": {func(g *stage) {
			g.does(wire.VerbCancel, func(int, message) (wire.Reply, bool) { return refuse(wire.RefusedEnded, "over", "") })
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, nil, func(t *testing.T, g *stage) {
				connect, stuck := g.job.connect, name == "while connecting never ends"
				g.job.connect = func(ctx context.Context, key nkeys.KeyPair, token string) (link, error) {
					if stuck && g.connected() > 0 {
						return nil, hang(ctx)
					}
					return connect(ctx, key, token)
				}
				ctx, cancel := context.WithCancel(t.Context())
				w := g.awaits(ctx)
				if stuck {
					g.cut()
				} else {
					c.before(g)
				}
				time.Sleep(time.Second)
				start := time.Now()
				cancel()
				w.fails(t, ErrCancelled)
				if d := time.Since(start); d > farewell+time.Second {
					t.Errorf("took %s", d)
				}
				if n := len(g.sent(wire.VerbCancel)); n < c.cancel {
					t.Errorf("%d cancels were sent", n)
				}
			})
		})
	}
}

func TestWithdrawingWhatWasNeverAskedSendsNothing(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		g.job.Withdraw("never mind")
		if _, err := g.job.Await(t.Context()); !errors.Is(err, ErrCancelled) {
			t.Error(err)
		}
		if g.connected() != 0 {
			t.Error("it connected")
		}
	})
}

func TestATimeOutIsTheJobsOwnAndTakesTheRequestBack(t *testing.T) {
	t.Parallel()
	play(t, func(c *Config) { c.Timeout = 10 * time.Minute }, func(t *testing.T, g *stage) {
		start := time.Now()
		w := g.awaits(t.Context())
		w.fails(t, ErrTimedOut)
		if d := time.Since(start); d != 10*time.Minute {
			t.Errorf("after %s", d)
		}
		if len(g.sent(wire.VerbCancel)) != 1 {
			t.Error("the prompt stays before the humans")
		}
	})
}

func TestATokenThatTakesMostOfAShortTimeoutIsNoRefusal(t *testing.T) {
	t.Parallel()
	play(t, func(c *Config) { c.Timeout = time.Second }, func(t *testing.T, g *stage) {
		time.Sleep(900 * time.Millisecond) // so that the next second begins meanwhile
		g.issuer.slows(200 * time.Millisecond)
		start := time.Now()
		g.awaits(t.Context()).fails(t, ErrTimedOut)
		if d := time.Since(start); d != time.Second {
			t.Errorf("timed out after %s", d)
		}
	})
}

func TestATimeOutComesWhileDisconnectedToo(t *testing.T) {
	t.Parallel()
	play(t, func(c *Config) { c.Timeout = 10 * time.Minute }, func(t *testing.T, g *stage) {
		start := time.Now()
		w := g.awaits(t.Context())
		g.admits(func(int, string) error { return dial.ErrUnreachable })
		g.cut()
		w.fails(t, ErrTimedOut)
		if d := time.Since(start); d != 10*time.Minute {
			t.Errorf("after %s", d)
		}
		if g.connected() < 40 {
			t.Errorf("%d connects in 10 minutes", g.connected())
		}
	})
}

func TestTheRelaysRefusalSaysWhyAndWhatMendsIt(t *testing.T) {
	t.Parallel()
	for _, code := range []string{wire.RefusedMalformed, wire.RefusedSignature, wire.RefusedVersion, wire.RefusedToken, wire.RefusedPolicy, wire.RefusedLimit, wire.RefusedKeyUsed, wire.RefusedNotYours, "what-is-this"} {
		play(t, nil, func(t *testing.T, g *stage) {
			g.does(wire.VerbRequest, func(int, message) (wire.Reply, bool) {
				return refuse(code, "claim \"ref\" is refs/heads/x\n::error::no", "\x1b[31mask for refs/heads/main")
			})
			w := g.awaits(t.Context())
			f := w.fails(t, ErrRefused)
			if !strings.Contains(f.What, `claim "ref" is refs/heads/x<U+000A>::error::no`) || f.Next != "<U+001B>[31mask for refs/heads/main" {
				t.Errorf("%s: %q; %q", code, f.What, f.Next)
			}
			if n := len(g.sent(wire.VerbRequest)); n != 1 {
				t.Errorf("%s: asked %d times", code, n)
			}
		})
	}
}

func TestARunThatWasDeclinedBeforeEndsAsDeclined(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ why, mend, what, next string }{
		{"Bob declined what this run asked, and said: not\n::now", "ask them", "the relay asks nobody: Bob declined what this run asked, and said: not<U+000A>::now", "ask them"},
		{"", "", "the relay asks nobody: a responder declined what this run asked before", "ask them why before a person starts the run again"},
	} {
		play(t, nil, func(t *testing.T, g *stage) {
			g.does(wire.VerbRequest, func(int, message) (wire.Reply, bool) { return refuse(wire.RefusedDeclined, c.why, c.mend) })
			if f := g.awaits(t.Context()).fails(t, ErrDeclined); f.What != c.what || f.Next != c.next {
				t.Errorf("%q; %q", f.What, f.Next)
			}
			if n := len(g.sent(wire.VerbRequest)); n != 1 {
				t.Errorf("asked %d times", n)
			}
		})
	}
}

func TestALaterTierIsToldOnce(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		if g.told.has("Escalated {") {
			t.Errorf("told %+v", g.told.all())
		}
		for range 3 {
			g.set(func(st *wire.State) { st.After, st.Then = 300, []string{"Bob\n"} })
			synctest.Wait()
			time.Sleep(time.Second)
		}
		if n := g.told.count("Escalated {After:5m0s Then:[Bob<U+000A>] Early:false Away:[]}"); n != 1 {
			t.Errorf("told %d times: %+v", n, g.told.all())
		}
		// Whatever a relay says: no time is longer than any request waits.
		g.set(func(st *wire.State) { st.After, st.Then = 1<<62, nil })
		synctest.Wait()
		time.Sleep(time.Second)
		if g.told.count("Escalated {After:6h0m0s") != 1 {
			t.Errorf("told %+v", g.told.all())
		}
		w.waiting(t)
	})
}

func TestTheReaderLearnsWhoIsAway(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		until := time.Now().Add(time.Hour).Truncate(time.Second)
		away := []wire.Absent{{Name: "Ali\u202ece", Until: until.Unix()}}
		g.state.Away, g.state.OnCall, g.state.Ready, g.state.After, g.state.Then, g.state.Skipped = away, []string{"Bob"}, 1, 300, []string{"Bob"}, true
		w := g.awaits(t.Context())
		shown := fmt.Sprintf("Away:[{Who:Ali<U+202E>ce Until:%s}]", until)
		for _, want := range []string{"Enrolled:3 Left:", shown, "Escalated {After:5m0s Then:[Bob] Early:true " + shown + "}"} {
			if !g.told.has(want) {
				t.Errorf("%q not told: %+v", want, g.told.all())
			}
		}
		if g.told.has("OnCall {OnCall:[Bob]") {
			t.Errorf("told twice: %+v", g.told.all())
		}
		settle := func(change func(*wire.State)) {
			g.set(change)
			synctest.Wait()
			time.Sleep(time.Second)
		}
		settle(func(*wire.State) {}) // nothing new is nothing to tell
		if n := g.told.count("OnCall {"); n != 0 {
			t.Errorf("told %d times: %+v", n, g.told.all())
		}
		settle(func(st *wire.State) {
			st.Away = append(st.Away, wire.Absent{Until: until.Unix()})
			st.OnCall, st.Ready = nil, 0
		})
		settle(func(st *wire.State) { st.Away = nil; st.OnCall, st.Ready = []string{"Ali\u202ece", "Bob"}, 2 })
		for _, want := range []string{"OnCall {OnCall:[] Ready:0 Enrolled:3 Need:1 Away:[{Who:Ali", "{Who:" + wire.SomeResponder + " Until:", "OnCall {OnCall:[Ali<U+202E>ce Bob] Ready:2 Enrolled:3 Need:1 Away:[]}"} {
			if g.told.count(want) != 1 {
				t.Errorf("%q told %d times: %+v", want, g.told.count(want), g.told.all())
			}
		}
		// Of a relay's nonsense no time is made.
		for _, bad := range []int64{0, -1, 1<<63 - 1, until.Add(wire.LongestAway + 2*time.Hour).Unix()} {
			settle(func(st *wire.State) { st.Away = []wire.Absent{{Name: fmt.Sprint("at ", bad), Until: bad}} })
			if want := fmt.Sprintf("{Who:at %d Until:0001-01-01 00:00:00 +0000 UTC}", bad); !g.told.has(want) {
				t.Errorf("%q not told: %+v", want, g.told.all())
			}
		}
		w.waiting(t)
	})
}

func TestTooFewForTwoPeopleIsSaidAgainWhenItChanges(t *testing.T) {
	t.Parallel()
	alice, bob := newPerson(t), newPerson(t)
	play(t, func(c *Config) { c.Approvals, c.Responders = 2, []string{alice.key, bob.key} }, func(t *testing.T, g *stage) {
		g.state.OnCall, g.state.Ready, g.state.Enrolled = []string{"Alice", "Bob"}, 2, 2
		w := g.awaits(t.Context())
		if g.told.has("OnCall {") {
			t.Errorf("told %+v", g.told.all())
		}
		for _, c := range []struct {
			on   []string
			want string
		}{
			{[]string{"Bob"}, "OnCall {OnCall:[Bob] Ready:1 Enrolled:2 Need:2 "},
			{nil, "OnCall {OnCall:[] Ready:0 Enrolled:2 Need:2 "},
			{[]string{"Alice"}, "OnCall {OnCall:[Alice] Ready:1 Enrolled:2 Need:2 "},
			{[]string{"Alice", "Bob"}, "OnCall {OnCall:[Alice Bob] Ready:2 Enrolled:2 Need:2 "},
		} {
			g.set(func(st *wire.State) { st.OnCall, st.Ready = c.on, len(c.on) })
			synctest.Wait()
			time.Sleep(time.Second)
			if g.told.count(c.want) != 1 {
				t.Errorf("%q: %+v", c.want, g.told.all())
			}
		}
		w.waiting(t)
	})
}

func TestABusyRelayIsAskedAgain(t *testing.T) {
	t.Parallel()
	for _, code := range []string{wire.RefusedBusy, wire.RefusedTooSoon} {
		play(t, nil, func(t *testing.T, g *stage) {
			g.does(wire.VerbRequest, func(n int, _ message) (wire.Reply, bool) {
				if n < 5 {
					return refuse(code, "no keys yet", "")
				}
				return g.now(), true
			})
			w := g.awaits(t.Context())
			time.Sleep(20 * time.Second)
			if !g.told.has("Accepted {") || g.told.count("no keys yet") != 4 {
				t.Errorf("%s: told %+v", code, g.told.all())
			}
			newPerson(t).answers(g.script, 1, "123456")
			w.code(t)
		})
		play(t, nil, func(t *testing.T, g *stage) {
			start := time.Now()
			g.does(wire.VerbRequest, func(int, message) (wire.Reply, bool) { return refuse(code, "no keys yet", "") })
			f := g.awaits(t.Context()).fails(t, ErrUnreachable)
			if d := time.Since(start); d > firstWindow || d < firstWindow-backoffMost || !strings.Contains(f.Error(), "no keys yet") {
				t.Errorf("%s: after %s: %v", code, d, f)
			}
		})
	}
}

func TestAnUnreachableRelayIsTriedForTwoMinutes(t *testing.T) {
	t.Parallel()
	for timeout, want := range map[time.Duration]time.Duration{time.Hour: 2 * time.Minute, 30 * time.Second: 30 * time.Second} {
		play(t, func(c *Config) { c.Timeout = timeout }, func(t *testing.T, g *stage) {
			start := time.Now()
			g.admits(func(int, string) error { return fmt.Errorf("%w: connection\nrefused", dial.ErrUnreachable) })
			f := g.awaits(t.Context()).fails(t, ErrUnreachable)
			if d := time.Since(start); d != want {
				t.Errorf("after %s, want %s", d, want)
			}
			if !strings.Contains(f.What, "connection<U+000A>refused") {
				t.Error(f)
			}
			if tries := g.told.count("Trying"); tries < 5 || tries < g.connected()-1 {
				t.Errorf("%d connects, %d told", g.connected(), tries)
			}
		})
	}
	play(t, nil, func(t *testing.T, g *stage) {
		g.admits(func(n int, _ string) error {
			if n < 5 {
				return dial.ErrUnreachable
			}
			return nil
		})
		w := g.awaits(t.Context())
		time.Sleep(time.Minute)
		newPerson(t).answers(g.script, 1, "123456")
		w.code(t)
	})
}

func TestARelayThatNeverRepliesIsUnreachable(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]func() (wire.Reply, bool){
		"silent":    func() (wire.Reply, bool) { return wire.Reply{}, false },
		"stateless": func() (wire.Reply, bool) { return wire.Reply{V: wire.Version}, true },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, nil, func(t *testing.T, g *stage) {
				start := time.Now()
				g.does(wire.VerbRequest, func(int, message) (wire.Reply, bool) { return reply() })
				f := g.awaits(t.Context()).fails(t, ErrUnreachable)
				if d := time.Since(start); d > firstWindow+2*replyWithin+time.Second {
					t.Errorf("after %s", d)
				}
				if !strings.Contains(f.Error(), "does not answer") {
					t.Error(f)
				}
				if n := len(g.sent(wire.VerbRequest)); n > 400 {
					t.Errorf("%d requests", n)
				}
			})
		})
	}
}

func TestRefusedCredentialsAreTriedForAWhileWithFreshTokens(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		began, seen := time.Now(), map[string]bool{}
		g.admits(func(_ int, token string) error { seen[token] = true; return dial.ErrRefused })
		f := g.awaits(t.Context()).fails(t, ErrRefused)
		if took := time.Since(began); took < refusedFor || took > refusedFor+time.Second {
			t.Errorf("it gives up after %s", took)
		}
		// With back-off: a relay that refuses thousands must not be kept busy by it.
		if n := g.connected(); n < 8 || n > 16 || len(seen) != n {
			t.Errorf("%d connects with %d tokens", n, len(seen))
		}
		for _, want := range []string{fmt.Sprintf("%d times within 45s", g.connected()), relayName, "relay-name", "https://issuer.test", "cfa-relay check --token-file"} {
			if !strings.Contains(f.Error(), want) {
				t.Errorf("%q is not in %q", want, f)
			}
		}
		for token := range seen {
			if strings.Contains(f.Error(), token) {
				t.Error("the error holds a token")
			}
		}
		said := 0
		for _, e := range g.told.all() {
			if e, ok := e.(Trying); ok && strings.Contains(e.Why, "so this is tried for 45s") {
				said++
			}
		}
		if said != 1 {
			t.Errorf("the log says %d times for how long it is tried", said)
		}
	})
}

// As while the relay has not got the issuer's keys: it asks for them every 30 s.
func TestAJobThatIsRefusedForHalfAMinuteIsLetInThen(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		began := time.Now()
		g.admits(func(int, string) error {
			if time.Since(began) < 31*time.Second {
				return dial.ErrRefused
			}
			return nil
		})
		w := g.awaits(t.Context())
		time.Sleep(refusedFor + time.Second)
		newPerson(t).answers(g.script, 1, "123456")
		w.code(t)
	})
}

// Where the job has less time than that, it was refused all the same, and not
// unreachable.
func TestAJobThatIsRefusedUntilItsTimeIsUpSaysSo(t *testing.T) {
	t.Parallel()
	play(t, func(c *Config) { c.Timeout = 10 * time.Second }, func(t *testing.T, g *stage) {
		g.admits(func(int, string) error { return dial.ErrRefused })
		if f := g.awaits(t.Context()).fails(t, ErrRefused); !strings.Contains(f.Error(), "likely causes") {
			t.Error(f)
		}
	})
}

func TestAWrongCertificateOrAHostileNonceIsFinalAtFirst(t *testing.T) {
	t.Parallel()
	for _, err := range []error{dial.ErrTLS, wire.ErrNonce} {
		play(t, nil, func(t *testing.T, g *stage) {
			g.admits(func(int, string) error { return err })
			g.awaits(t.Context()).fails(t, ErrUnreachable)
			if g.connected() != 1 {
				t.Errorf("%v: %d connects", err, g.connected())
			}
		})
		// Once accepted, it may be a network in between that passes.
		play(t, nil, func(t *testing.T, g *stage) {
			w := g.awaits(t.Context())
			g.admits(func(n int, _ string) error {
				if n < 4 {
					return err
				}
				return nil
			})
			g.cut()
			time.Sleep(time.Minute)
			newPerson(t).answers(g.script, 1, "123456")
			w.code(t)
		})
	}
}

func TestWithoutAnIDTokenTheReasonIsTold(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ err, kind error }{
		"not granted": {fmt.Errorf("%w: add permissions", ci.ErrNotGranted), ErrRefused},
		"hangs":       {errors.New("the token service did not answer in time"), ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, nil, func(t *testing.T, g *stage) {
				g.issuer.fails(c.err)
				f := g.awaits(t.Context()).fails(t, c.kind)
				if !strings.Contains(f.Error(), c.err.Error()) {
					t.Error(f)
				}
				if g.connected() != 0 {
					t.Error("connected without a token")
				}
			})
		})
	}
}

func TestATokenServiceThatHangsIsToBlameAndNotTheRelay(t *testing.T) {
	t.Parallel()
	play(t, func(c *Config) { c.Timeout = 5 * time.Second }, func(t *testing.T, g *stage) {
		g.issuer.slows(time.Hour)
		start := time.Now()
		f := g.awaits(t.Context()).fails(t, ErrUnreachable)
		if !strings.Contains(f.What, "no ID token") || !strings.Contains(f.Next, "status page of Test CI") || strings.Contains(f.Error(), "relay") {
			t.Error(f)
		}
		if d := time.Since(start); d != 5*time.Second || g.connected() != 0 {
			t.Errorf("after %s and %d connects", d, g.connected())
		}
	})
	// A relay that was not reached before stays the reason.
	play(t, func(c *Config) { c.Timeout = 90 * time.Second }, func(t *testing.T, g *stage) {
		g.admits(func(int, string) error { g.issuer.slows(time.Hour); return dial.ErrUnreachable })
		if f := g.awaits(t.Context()).fails(t, ErrUnreachable); !strings.Contains(f.What, "the relay was not reached") {
			t.Error(f)
		}
	})
}

func TestAMissingCircleCICommandIsNamedAndNoStatusPage(t *testing.T) {
	t.Parallel()
	play(t, func(c *Config) {
		c.Provider = ci.Find("circleci")
		c.Env.Run = func(context.Context, string, ...string) ([]byte, error) {
			return nil, &exec.Error{Name: "circleci", Err: exec.ErrNotFound}
		}
	}, func(t *testing.T, g *stage) {
		f := g.awaits(t.Context()).fails(t, ErrUnreachable)
		if !strings.Contains(f.Error(), "the `circleci` command was not found") || !strings.Contains(f.Error(), "run this in a step of the job itself") {
			t.Error(f)
		}
		if strings.Contains(f.Error(), "status page") {
			t.Errorf("sends the reader to a page that knows nothing of it: %s", f)
		}
	})
}

func TestNobodyReadsOfAMalformedMessage(t *testing.T) {
	t.Parallel()
	t.Run("a token that names no job", func(t *testing.T) {
		t.Parallel()
		play(t, nil, func(t *testing.T, g *stage) {
			g.job.cfg.Provider.Proof = nil
			f := g.awaits(t.Context()).fails(t, ErrRefused)
			if !strings.Contains(f.Error(), "proof names no job") || strings.Contains(f.Error(), wire.ErrMalformed.Error()) {
				t.Error(f)
			}
		})
	})
	t.Run("a sealed code of a wrong form", func(t *testing.T) {
		t.Parallel()
		play(t, nil, func(t *testing.T, g *stage) {
			w := g.awaits(t.Context())
			short := wire.Sealed{Enc: []byte{1}, Ciphertext: []byte{2}}
			h := newPerson(t).seals(g.script, 1, "123456", func(a *wire.Answer) { a.Sealed = short.Hash() })
			h.Sealed = &short
			g.hint(h)
			w.waiting(t)
			if !g.told.has("could not be used") || g.told.has(wire.ErrMalformed.Error()) {
				t.Errorf("told %+v", g.told.all())
			}
		})
	})
}

func TestALogReaderHearsSomethingEvery30Seconds(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(g *stage){
		"waiting":             func(*stage) {},
		"token service hangs": func(g *stage) { g.issuer.slows(time.Hour) },
		"relay is gone": func(g *stage) {
			g.admits(func(n int, _ string) error { return map[bool]error{true: dial.ErrUnreachable}[n > 1] })
		},
		"relay does not reply": func(g *stage) {
			g.does(wire.VerbState, func(int, message) (wire.Reply, bool) { return wire.Reply{}, false })
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, func(c *Config) { c.Timeout = 20 * time.Minute }, func(t *testing.T, g *stage) {
				before(g)
				start := time.Now()
				w := g.awaits(t.Context())
				if name == "relay is gone" {
					g.cut()
				}
				<-w.done
				last := start
				for _, at := range append(g.told.at, time.Now()) {
					if d := at.Sub(last); d > 30*time.Second {
						t.Errorf("nothing for %s after %s", d, last.Sub(start))
					}
					last = at
				}
			})
		})
	}
}

func TestTheTimeLeftIsTheEarlierDeadline(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		g.state.Deadline = time.Now().Add(10 * time.Minute).Unix()
		g.awaits(t.Context())
		time.Sleep(remindEvery)
		synctest.Wait()
		if !g.told.has("Left:10m0s") || !g.told.has("Waiting {Left:9m35s Accepted:true}") {
			t.Errorf("told %+v", g.told.all())
		}
	})
}

func TestTheReaderLearnsWhoIsThere(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		g.state.OnCall, g.state.Ready = nil, 0
		g.awaits(t.Context())
		if !g.told.has("no responders are pinned") || !g.told.has("OnCall {OnCall:[] Ready:0 Enrolled:3 Need:1 Away:[]}") {
			t.Errorf("told %+v", g.told.all())
		}
		g.set(func(st *wire.State) { st.OnCall, st.Ready = []string{"Ali\u202ece"}, 1 })
		g.set(func(st *wire.State) { st.Opened = []string{"Ali\u202ece", "Bob"} })
		g.set(func(st *wire.State) { st.State, st.By = stateAnswered, "Bob" })
		synctest.Wait()
		for _, want := range []string{"OnCall {OnCall:[Ali<U+202E>ce] Ready:1", "Opened {Who:Ali<U+202E>ce}", "Opened {Who:Bob}", "Changed {State:answered By:Bob}"} {
			if g.told.count(want) != 1 {
				t.Errorf("%q told %d times: %+v", want, g.told.count(want), g.told.all())
			}
		}
	})
	play(t, func(c *Config) { c.Responders = []string{newPerson(t).key} }, func(t *testing.T, g *stage) {
		g.awaits(t.Context())
		if g.told.has("no responders are pinned") {
			t.Error("warned of missing pins though there are some")
		}
	})
}

func TestAFloodFillsNoLog(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		g.awaits(t.Context())
		for i := range 200 {
			g.hint(wire.Hint{Hint: wire.HintAnswer})
			g.set(func(st *wire.State) { st.Opened = []string{fmt.Sprint("person ", i)} })
			synctest.Wait()
		}
		if n := len(g.told.all()); n > 100 {
			t.Errorf("%d lines", n)
		}
	})
}

func TestARelayThatFlickersFillsNoLog(t *testing.T) {
	t.Parallel()
	for name, flicker := range map[string]func(g *stage, i int){
		"who is on call": func(g *stage, i int) { g.set(func(st *wire.State) { st.Ready = i % 2 }) },
		"the state": func(g *stage, i int) {
			g.set(func(st *wire.State) {
				st.State, st.By = []string{statePending, stateAnswered}[i%2], fmt.Sprint("person ", i)
			})
		},
		"the connection": func(g *stage, _ int) {
			g.cut()
			time.Sleep(steady)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, func(c *Config) { c.Timeout = wire.LongestWait }, func(t *testing.T, g *stage) {
				w := g.awaits(t.Context())
				for i := range 500 {
					flicker(g, i)
					time.Sleep(2 * readGap)
				}
				n := len(g.told.all()) - g.told.count("Waiting {")
				if n < 100 || n > 110 || g.told.count("further changes are not listed") != 1 {
					t.Errorf("%d lines, %d of them that there are more", n, g.told.count("further changes are not listed"))
				}
				newPerson(t).answers(g.script, 1, "123456")
				w.code(t)
				if !g.told.has("Taken {") {
					t.Error("the answer was not told")
				}
			})
		})
	}
}

func TestAFloodOfHintsIsReadWithGaps(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		g.awaits(t.Context())
		start := time.Now()
		last := start
		for range 200 {
			last = time.Now()
			g.set(func(st *wire.State) { st.Ready = 1 - st.Ready })
			synctest.Wait()
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(readGap)
		reads := g.sent(wire.VerbState)
		if len(reads) < 4 || len(reads) > 5 {
			t.Errorf("%d reads for 200 hints in a second", len(reads))
		}
		if len(reads) > 0 && !reads[0].at.Equal(start) {
			t.Errorf("the first read came after %s", reads[0].at.Sub(start))
		}
		if len(reads) > 0 && reads[len(reads)-1].at.Before(last) {
			t.Error("what the last hint is about was not read")
		}
		for i := range reads[1:] {
			if d := reads[i+1].at.Sub(reads[i].at); d < 250*time.Millisecond {
				t.Errorf("read again after %s", d)
			}
		}
	})
}

func TestNoGapHoldsUpAChallengeOrAnAnswer(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		alice := newPerson(t)
		w := g.awaits(t.Context())
		for range 2 { // the second is to wait
			g.set(func(st *wire.State) { st.Ready = 1 - st.Ready })
			synctest.Wait()
		}
		if n := len(g.sent(wire.VerbState)); n != 1 {
			t.Fatalf("%d reads", n)
		}
		start := time.Now()
		alice.opens(g.script, 'n')
		w.waiting(t)
		if a, _ := g.alives(); len(a) != 1 {
			t.Errorf("%d alive answers within the gap", len(a))
		}
		alice.answers(g.script, 1, "123456")
		w.code(t)
		synctest.Wait()
		if d := time.Since(start); d != 0 || len(g.sent(wire.VerbGot)) != 1 {
			t.Errorf("the code came after %s, with %d receipts", d, len(g.sent(wire.VerbGot)))
		}
	})
}

func TestOnlyASteadyConnectionEndsTheBackOff(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		g.does(wire.VerbState, func(int, message) (wire.Reply, bool) {
			c := g.conns[len(g.conns)-1]
			time.AfterFunc(time.Millisecond, c.Close)
			return g.now(), true
		})
		g.cut()
		time.Sleep(5 * time.Minute)
		if n := g.connected(); n < 20 || n > 80 {
			t.Errorf("%d connects in 5 minutes to a relay that replies and hangs up", n)
		}
		g.does(wire.VerbState, func(int, message) (wire.Reply, bool) { return g.now(), true })
		time.Sleep(backoffMost + steady)
		n := g.connected()
		g.cut()
		time.Sleep(backoffFirst)
		if got := g.connected(); got != n+1 {
			t.Errorf("%d connects right after a steady connection was lost", got-n)
		}
		newPerson(t).answers(g.script, 1, "123456")
		w.code(t)
	})
}

func TestNextAsksForOneMore(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		alice := newPerson(t)
		w := g.awaits(t.Context())
		alice.answers(g.script, 1, "111111")
		w.code(t)
		if _, err := g.job.Await(t.Context()); err == nil {
			t.Error("Await gave an answer while one is in hand")
		}
		if err := g.job.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		alice.opens(g.script, 'a')
		w = g.awaits(t.Context())
		if a, _ := g.alives(); len(a) != 1 || a[0].Attempt != 2 || a[0].Reason != wire.ReasonNext {
			t.Errorf("alive %+v", a)
		}
		alice.answers(g.script, 2, "222222")
		if code := w.code(t); code != "222222" {
			t.Errorf("code %q", code)
		}
		if n := step1[wire.Next](t, g.script, wire.VerbNext, 0); n.Attempt != 1 {
			t.Errorf("next %+v", n)
		}
	})
}

// yes is a person's signed yes to somebody else's giving the code.
func (p person) yes(s *script, attempt int, change func(*wire.Answer)) *wire.Envelope {
	s.t.Helper()
	_, _, digest := s.asked()
	a := wire.Answer{Key: p.key, Digest: digest, Attempt: attempt, Ask: wire.AskCode, Decision: wire.DecisionYes}
	if change != nil {
		change(&a)
	}
	e, err := wire.Sign(&a, p.sign)
	if err != nil {
		s.t.Fatal(err)
	}
	return &e
}

func TestTwoPeopleMustBeTwoKeys(t *testing.T) {
	t.Parallel()
	alice, bob := newPerson(t), newPerson(t)
	play(t, func(c *Config) { c.Approvals, c.Responders = 2, []string{alice.key, bob.key} }, func(t *testing.T, g *stage) {
		g.state.Ready, g.state.Enrolled = 1, 2
		w := g.awaits(t.Context())
		if !g.told.has("OnCall {OnCall:[Alice Bob] Ready:1 Enrolled:2 Need:2 ") {
			t.Errorf("told %+v", g.told.all())
		}
		// A code that comes before anybody has agreed, from whomever.
		alice.answers(g.script, 1, "111111")
		bob.answers(g.script, 1, "222222")
		w.waiting(t)
		yes := alice.yes(g.script, 1, nil)
		g.set(func(st *wire.State) { st.Answer = yes })
		w.waiting(t)
		if n := step1[wire.Next](t, g.script, wire.VerbNext, 0); n.Attempt != 1 || !g.told.has("Agreed {Responder:"+alice.key) {
			t.Errorf("next %+v, told %+v", n, g.told.all())
		}
		// The yes again, which a relay shows until it has taken in what was signed.
		g.set(func(*wire.State) {})
		alice.answers(g.script, 2, "333333")
		w.waiting(t)
		if n := len(g.sent(wire.VerbNext)); n != 1 {
			t.Errorf("next was signed %d times", n)
		}
		g.set(func(st *wire.State) { st.Attempt, st.Reason, st.Answer = 2, wire.ReasonNext, nil })
		bob.answers(g.script, 2, "444444")
		if code := w.code(t); code != "444444" {
			t.Errorf("code %q", code)
		}
		// Refused by the service: still another than who has agreed.
		if err := g.job.Reject(t.Context()); err != nil {
			t.Fatal(err)
		}
		w = g.awaits(t.Context())
		alice.answers(g.script, 3, "555555")
		w.waiting(t)
		bob.answers(g.script, 3, "666666")
		w.code(t)
		// Good: both stand behind it, and either may give one more.
		if err := g.job.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		w = g.awaits(t.Context())
		alice.answers(g.script, 4, "777777")
		if code := w.code(t); code != "777777" {
			t.Errorf("code %q", code)
		}
	})
}

// A yes counts for two people only if the one who says it has signed it, for this
// request and attempt, and is accepted.
func TestAFirstYesThatIsNoneAsksNobodyForTheCode(t *testing.T) {
	t.Parallel()
	alice, bob, eve := newPerson(t), newPerson(t), newPerson(t)
	for name, yes := range map[string]func(s *script) *wire.Envelope{
		"of a key that is not accepted": func(s *script) *wire.Envelope { return eve.yes(s, 1, nil) },
		"signed by another": func(s *script) *wire.Envelope {
			return person{key: alice.key, sign: eve.sign}.yes(s, 1, func(a *wire.Answer) { a.Key = eve.key })
		},
		"to another request": func(s *script) *wire.Envelope { return alice.yes(s, 1, func(a *wire.Answer) { a.Digest[0] ^= 1 }) },
		"to another attempt": func(s *script) *wire.Envelope { return alice.yes(s, 2, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(c *Config) { c.Approvals, c.Responders = 2, []string{alice.key, bob.key} }, func(t *testing.T, g *stage) {
				w := g.awaits(t.Context())
				e := yes(g.script)
				g.set(func(st *wire.State) { st.Answer = e })
				w.waiting(t)
				bob.answers(g.script, 1, "111111")
				w.waiting(t)
				if n := len(g.sent(wire.VerbNext)); n != 0 {
					t.Errorf("next was signed %d times", n)
				}
			})
		})
	}
}

func TestDoneIsBoundedByItsContext(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		newPerson(t).answers(g.script, 1, "123456")
		w.code(t)
		synctest.Wait()
		g.falls(true)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		if err := g.job.Done(ctx, wire.OutcomeOK); err == nil {
			t.Error("Done was not confirmed and says so to nobody")
		}
		if d := time.Since(start); d != 5*time.Second {
			t.Errorf("took %s", d)
		}
		if len(g.sent(wire.VerbDone)) == 0 || len(g.sent(wire.VerbCancel)) != 0 {
			t.Error("done was not sent, or taken back")
		}
	})
}

func TestAnOvertakenReplyChangesNothing(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		w := g.awaits(t.Context())
		g.set(func(st *wire.State) { st.Rev = 50 })
		synctest.Wait()
		g.set(func(st *wire.State) { st.Rev, st.State = 20, stateCancelled })
		w.waiting(t)
	})
}

func TestARelayOfAnotherVersionIsNamedAsThat(t *testing.T) {
	t.Parallel()
	play(t, nil, func(t *testing.T, g *stage) {
		g.does(wire.VerbRequest, func(int, message) (wire.Reply, bool) { return wire.Reply{V: 2, State: &wire.State{}}, true })
		if f := g.awaits(t.Context()).fails(t, ErrRefused); !strings.Contains(f.Error(), "version") {
			t.Error(f)
		}
	})
}

// garbled is a connection to a relay whose replies this program cannot read.
type garbled struct{ link }

func (garbled) Request(context.Context, string, any) (wire.Reply, error) {
	return wire.Reply{}, fmt.Errorf("relay's reply: %w: a field that this version does not know", wire.ErrMalformed)
}

// As that of a relay which says more than a program of before knows: before the
// request was accepted, and while it waits.
func TestRepliesThatCannotBeReadAreNamedAsThat(t *testing.T) {
	t.Parallel()
	const says = "what it answers cannot be read: relay's reply: a field that this version does not know"
	play(t, nil, func(t *testing.T, g *stage) {
		g.job.connect = func(ctx context.Context, key nkeys.KeyPair, token string) (link, error) {
			c, err := g.script.connect(ctx, key, token)
			return garbled{c}, err
		}
		if f := g.awaits(t.Context()).fails(t, ErrUnreachable); !strings.Contains(f.Error(), says) || !strings.Contains(f.Error(), "upgrade the older of the two") {
			t.Error(f)
		}
	})
	play(t, nil, func(t *testing.T, g *stage) {
		var broken atomic.Bool
		g.job.connect = func(ctx context.Context, key nkeys.KeyPair, token string) (link, error) {
			c, err := g.script.connect(ctx, key, token)
			if err == nil && broken.Load() {
				c = garbled{c}
			}
			return c, err
		}
		w := g.awaits(t.Context())
		synctest.Wait()
		broken.Store(true)
		g.cut()
		time.Sleep(time.Minute)
		if !g.told.has(says) {
			t.Error("the log does not say why it connects again and again")
		}
		broken.Store(false) // the relay was put back
		time.Sleep(time.Minute)
		newPerson(t).answers(g.script, 1, "123456")
		w.code(t)
	})
}

func TestAnAnswerNeverPrintsItsCode(t *testing.T) {
	t.Parallel()
	code := "031337"
	a := Answer{Responder: "A", Attempt: 1, code: &code}
	nested := struct {
		a Answer
		B any
		c *Answer
	}{a, a, &a}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p", "%U"} {
		for _, v := range []any{a, &a, nested, &nested, []Answer{a}, map[string]Answer{"k": a}} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("answer", "a", a, "p", &a, "n", nested)
	}
	j, err := json.Marshal(nested)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	for _, secret := range []string{code, fmt.Sprintf("%x", code), fmt.Sprintf("%X", code)} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%q was printed:\n%s", secret, out.String())
		}
	}
	if a.Code() != code {
		t.Error("and yet it must be there")
	}
}

func TestAWrongConfigurationIsRefusedBeforeAnythingIsAsked(t *testing.T) {
	t.Parallel()
	good := newPerson(t).key
	for name, change := range map[string]func(*Config){
		"no relay":            func(c *Config) { c.Relay = nil },
		"no provider":         func(c *Config) { c.Provider = nil },
		"project":             func(c *Config) { c.Project = "Demo" },
		"service":             func(c *Config) { c.Service = "npm publish" },
		"format":              func(c *Config) { c.Format = "digits" },
		"message":             func(c *Config) { c.Message = strings.Repeat("x", wire.MaxText+1) },
		"no time":             func(c *Config) { c.Timeout = 0 },
		"too long":            func(c *Config) { c.Timeout = wire.LongestWait + time.Second },
		"responder":           func(c *Config) { c.Responders = []string{"Alice"} },
		"responder twice":     func(c *Config) { c.Responders = []string{good, good} },
		"approvals, no pins":  func(c *Config) { c.Approvals = 2 },
		"a kind of its own":   func(c *Config) { c.Ask = "pin" },
		"a link, not made":    func(c *Config) { c.Ask = wire.AskLink },
		"made, not asked for": func(c *Config) { c.Link = func(context.Context) (string, error) { return "", nil } },
		"approval, no pins":   func(c *Config) { c.Ask = wire.AskApproval },
		"too many approvals":  func(c *Config) { c.Approvals, c.Responders = 3, []string{good} },
		"two for a link": func(c *Config) {
			c.Ask, c.Format, c.Approvals, c.Responders = wire.AskLink, "any", 2, []string{good, wire.PublicKey(newPerson(t).sign)}
			c.Link = func(context.Context) (string, error) { return "", nil }
		},
		"not UTF-8":           func(c *Config) { c.Message = "\xff" },
		"responder, U not A…": func(c *Config) { c.Responders = []string{wire.PublicKey(newPerson(t).desk)} },
	} {
		cfg := testConfig(t, &issuer{}, &told{})
		change(&cfg)
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := New(testConfig(t, &issuer{}, &told{})); err != nil {
		t.Error(err)
	}
}

// What a relay, or who stands in its place, can make of an honest answer's bytes
// never becomes another code, and never a receipt for one. The keys are this
// process's own, so what is fuzzed is where the bytes change and how.
func FuzzAnswer(f *testing.F) {
	alice := newPerson(f)
	cfg := testConfig(f, &issuer{}, &told{})
	cfg.Responders = []string{alice.key}
	cfg.Tell = nil
	job, err := prepare(cfg)
	if err != nil {
		f.Fatal(err)
	}
	job.own = time.Now().Add(time.Hour)
	if err := job.compose("e30." + b64(`{"iss":"https://issuer.test","repository_id":"42"}`) + ".c2ln"); err != nil {
		f.Fatal(err)
	}
	s := &script{request: wire.Request{HPKE: job.hpke.Public()}, digest: job.digest, t: &testing.T{}}
	var honest [][]byte
	for _, h := range []wire.Hint{
		alice.seals(s, 1, "123456", nil), alice.seals(s, 1, "123456", nil), alice.seals(s, 2, "123456", nil),
		alice.seals(s, 1, "12345", nil), newPerson(f).seals(s, 1, "666666", nil),
	} {
		data, err := json.Marshal(h)
		if err != nil {
			f.Fatal(err)
		}
		honest = append(honest, data)
	}
	// try says which code, if any, the job takes out of the bytes.
	try := func(t testing.TB, data []byte) string {
		var h wire.Hint
		if wire.Decode(data, wire.MaxMessage, &h) != nil {
			return ""
		}
		job.held, job.outbox, job.attempt, job.reason = nil, nil, 1, wire.ReasonFirst
		job.shut, job.drops = map[string]bool{}, 0
		job.answer(h.Envelope, h.Sealed)
		select {
		case a := <-job.answers:
			if a.Responder != alice.key {
				t.Fatalf("accepted %v", a)
			}
			return a.Code()
		default:
			if job.held != nil {
				t.Fatal("holds what was not handed over")
			}
			return ""
		}
	}
	for i, want := range []string{"123456", "123456", "", "", ""} {
		if got := try(f, honest[i]); got != want {
			f.Fatalf("answer %d gives %q, want %q", i, got, want)
		}
		f.Add(uint8(i), uint16(0), byte(0), uint16(0), []byte(nil))
		f.Add(uint8(i), uint16(40*i), byte(1), uint16(i), []byte(`"sealed":{}`))
		f.Add(uint8(i), uint16(700), byte(0x20), uint16(3), []byte(" "))
	}
	f.Fuzz(func(t *testing.T, which uint8, at uint16, flip byte, to uint16, put []byte) {
		data := bytes.Clone(honest[int(which)%len(honest)])
		data[int(at)%len(data)] ^= flip
		from := int(to) % (len(data) + 1)
		data = slices.Replace(data, from, min(from+len(put), len(data)), put...)
		if got := try(t, data); got != "" && got != "123456" {
			t.Fatalf("the bytes became the code %q", got)
		}
		// With pieces of another honest answer too.
		other := honest[(int(which)+1)%len(honest)]
		if got := try(t, append(bytes.Clone(data[:from]), other[min(from, len(other)):]...)); got != "" && got != "123456" {
			t.Fatalf("two answers became the code %q", got)
		}
	})
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
