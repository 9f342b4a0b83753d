package answer

// What the desk does as time passes, in fake time (testing/synctest), at a
// relay in memory.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/continuousauth/action/internal/answer/answertest"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

func TestAProofLastsTenMinutesAndIsRenewedByItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.run()
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "verified", standing(Verified))
		time.Sleep(25 * time.Minute)
		for _, p := range o.human.shown(j.ID())[1:] {
			if p.Standing != Verified && p.Standing != Checking {
				t.Errorf("between renewals it was shown as %s", p.Standing)
			}
		}
		if n := len(o.relay.Messages(wire.VerbOpen)); n != 3 {
			t.Errorf("%d challenges in 25 minutes, want 3", n)
		}
		mustAnswer(t, o, j, 1)
		if got := received(t, j); got != code {
			t.Errorf("the job opened %q", got)
		}
	})
}

func TestAJobThatFallsSilentIsNotAnswerableAfterTenMinutes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.run()
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "verified", standing(Verified))
		since := time.Now()
		o.relay.Do(func() { o.relay.OnAlive = func(*wire.Hint) bool { return false } })
		p := o.human.wait(t, j.ID(), "unproven", standing(Unproven))
		if lasted := time.Since(since); lasted < 9*time.Minute || lasted > wire.OpeningLasts {
			t.Errorf("it counted as verified for %s", lasted)
		}
		if p.Facts != (Facts{}) || !strings.Contains(p.Why, "did not answer") {
			t.Errorf("prompt is %+v", p)
		}
		if err := o.answer(j, 1); !errors.Is(err, ErrNotAnswerable) {
			t.Errorf("answering gave %v", err)
		}
		// It comes back by itself when the job does.
		o.relay.Do(func() { o.relay.OnAlive = nil })
		o.human.wait(t, j.ID(), "verified", standing(Verified))
	})
}

func TestChallengesAreFiveSecondsApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.desk.trust.Verifier.(*gullible).fail = errors.New("no")
		o.run()
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "unproven", standing(Unproven))
		for range 100 { // an impatient human
			o.desk.Open(j.ID())
			time.Sleep(300 * time.Millisecond)
		}
		opens := o.relay.Messages(wire.VerbOpen)
		if len(opens) < 3 {
			t.Fatalf("%d challenges", len(opens))
		}
		for i, m := range opens[1:] {
			if gap := m.At.Sub(opens[i].At); gap < wire.ChallengeEvery {
				t.Errorf("two challenges %s apart", gap)
			}
		}
		// Left alone, it is tried ever less often.
		time.Sleep(10 * time.Minute)
		if n := len(o.relay.Messages(wire.VerbOpen)) - len(opens); n < 5 || n > 16 {
			t.Errorf("%d challenges in ten minutes", n)
		}
	})
}

// A laptop that slept, or a clock that was set, must not stretch a proof.
func TestAProofIsTimedByTheWallClock(t *testing.T) {
	t.Parallel()
	at := now()
	p := &prompt{state: wire.State{Attempt: 1}, proof: &proof{at: at, alive: wire.Alive{Attempt: 1}}}
	for _, test := range []struct {
		age  time.Duration
		good bool
	}{
		{0, true}, {wire.OpeningLasts - time.Second, true}, {wire.OpeningLasts, false}, {9 * time.Hour, false},
		{-time.Second, true}, {-time.Hour, false},
	} {
		if good := p.proved(at.Add(test.age)) != nil; good != test.good {
			t.Errorf("at the age of %s it counts: %v", test.age, good)
		}
	}
	if at != at.Round(0) {
		t.Error("the desk's time has a monotonic reading, which stands still while a machine sleeps")
	}
}

func TestAnAnswerIsSentAgainAsTheSameBytesUntilTheJobHasIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.relay.Hold = true
		o.run()
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "verified", standing(Verified))
		mustAnswer(t, o, j, 1)
		o.human.wait(t, j.ID(), "sending", phase(Sending))
		time.Sleep(9*time.Second + time.Millisecond)
		synctest.Wait()
		sent := o.relay.Messages(wire.VerbAnswer)
		if len(sent) < 5 {
			t.Errorf("sent %d times in 9 s", len(sent))
		}
		for _, m := range sent {
			if !bytes.Equal(m.Data, sent[0].Data) {
				t.Error("two different answers were sent")
			}
		}
		o.relay.Do(func() { o.relay.Hold = false })
		if got := received(t, j); got != code {
			t.Errorf("the job opened %q", got)
		}
		o.human.wait(t, j.ID(), "delivered", func(p Prompt) bool {
			return p.Phase == Resting && p.Note == "the relay says that the job has your code"
		})
		n := len(o.relay.Messages(wire.VerbAnswer))
		time.Sleep(time.Minute)
		if again := len(o.relay.Messages(wire.VerbAnswer)); again != n {
			t.Errorf("sent %d more times after the job had it", again-n)
		}
	})
}

func TestASealedAnswerIsKept75Seconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.relay.Hold = true
		o.run()
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "verified", standing(Verified))
		mustAnswer(t, o, j, 1)
		since := time.Now()
		o.human.wait(t, j.ID(), "thrown away", func(p Prompt) bool { return strings.Contains(p.Note, "thrown away") })
		if kept := time.Since(since); kept != wire.KeepAnswer {
			t.Errorf("kept %s", kept)
		}
		n := len(o.relay.Messages(wire.VerbAnswer))
		time.Sleep(time.Minute)
		if len(o.relay.Messages(wire.VerbAnswer)) != n {
			t.Error("sent after it was thrown away")
		}
	})
}

func TestADeskToldToQuitStaysUntilTheAnswerArrives(t *testing.T) {
	t.Parallel()
	for _, arrives := range []bool{true, false} {
		t.Run(fmt.Sprintf("arrives=%v", arrives), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := inMemory(t)
				o.relay.Hold = true
				o.run()
				j := gullibleJob(t, project, repo, nil)
				o.relay.Ask(j)
				o.human.wait(t, j.ID(), "verified", standing(Verified))
				mustAnswer(t, o, j, 1)
				since := time.Now()
				o.stop()
				time.Sleep(20 * time.Second)
				select {
				case <-o.done:
					t.Fatal("it left with the answer")
				default:
				}
				o.relay.Cut() // and it still reconnects
				want := wire.KeepAnswer
				if arrives {
					o.relay.Do(func() { o.relay.Hold = false })
					if got := received(t, j); got != code {
						t.Errorf("the job opened %q", got)
					}
					want = 25 * time.Second
				}
				if err := <-o.done; err != nil {
					t.Errorf("ended with %v", err)
				}
				if stayed := time.Since(since); stayed > want+time.Second {
					t.Errorf("stayed %s", stayed)
				}
			})
		})
	}
}

func TestWhoeverIsFirstIsNamedAndWhatWasTypedIsThrownAway(t *testing.T) {
	t.Parallel()
	t.Run("before our answer", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			o := inMemory(t)
			o.run()
			j := gullibleJob(t, project, repo, nil)
			o.relay.Ask(j)
			o.human.wait(t, j.ID(), "verified", standing(Verified))
			o.relay.Set(j, func(i *wire.Item) {
				i.State.State, i.State.By, i.State.Sealed = "answered", "grace", strings.Repeat("ab", 32)
			})
			p := o.human.wait(t, j.ID(), "resting", phase(Resting))
			if p.Answerable || p.Why != "grace answered" {
				t.Errorf("prompt is %+v", p)
			}
			if err := o.answer(j, 1); !errors.Is(err, ErrNotAnswerable) || !strings.Contains(err.Error(), "grace answered") {
				t.Errorf("answering gave %v", err)
			}
			if n := len(o.relay.Messages(wire.VerbAnswer)); n != 0 {
				t.Errorf("%d answers left", n)
			}
		})
	})
	t.Run("while ours is on its way", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			o := inMemory(t)
			o.run()
			j := gullibleJob(t, project, repo, nil)
			o.relay.Ask(j)
			o.human.wait(t, j.ID(), "verified", standing(Verified))
			o.relay.Do(func() {
				o.relay.Refuse = func(m answertest.Message) *wire.Refusal {
					if m.Verb != wire.VerbAnswer {
						return nil
					}
					return &wire.Refusal{Code: wire.RefusedTaken, Why: "grace answered first"}
				}
			})
			mustAnswer(t, o, j, 1)
			p := o.human.wait(t, j.ID(), "resting", phase(Resting))
			if p.Answerable || !strings.Contains(p.Note, "grace answered first; what you answered is thrown away") {
				t.Errorf("prompt is %+v", p)
			}
			time.Sleep(2 * time.Minute)
			if n := len(o.relay.Messages(wire.VerbAnswer)); n != 1 {
				t.Errorf("sent %d times", n)
			}
		})
	})
}

func TestAnAnswerTheRelayWillNotTakeIsNotAskedForAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.relay.Refuse = func(m answertest.Message) *wire.Refusal {
			if m.Verb != wire.VerbAnswer {
				return nil
			}
			return &wire.Refusal{Code: wire.RefusedNotYours, Why: "your key is shut out of this request"}
		}
		o.run()
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "verified", standing(Verified))
		mustAnswer(t, o, j, 1)
		p := o.human.wait(t, j.ID(), "barred", func(p Prompt) bool { return p.Note != "" && p.Standing == Verified })
		if p.Answerable || !strings.Contains(p.Why, "shut out") {
			t.Errorf("prompt is %+v", p)
		}
	})
}

// A relay that keeps answers back, and says that the attempt is open as before,
// must not be given one code after the other.
func TestASecondCodeForAnAttemptNeedsANewProof(t *testing.T) {
	t.Parallel()
	notAnswers := func(code string) func(answertest.Message) *wire.Refusal {
		return func(m answertest.Message) *wire.Refusal {
			if m.Verb != wire.VerbAnswer {
				return nil
			}
			return &wire.Refusal{Code: code, Why: "no"}
		}
	}
	again := func(o *office, j *answertest.Job) {
		t := o.t
		t.Helper()
		p := o.human.wait(t, j.ID(), "asking again", func(p Prompt) bool { return p.Phase == Asking && p.Note != "" })
		if p.Answerable || p.Attempt != 1 {
			t.Errorf("prompt is %+v", p)
		}
		if err := o.answer(j, 1); !errors.Is(err, ErrNotAnswerable) {
			t.Errorf("a second code without a new proof: %v", err)
		}
		o.relay.Do(func() { o.relay.OnAlive, o.relay.Refuse = nil, nil })
		o.human.wait(t, j.ID(), "verified again", standing(Verified))
		mustAnswer(t, o, j, 1)
	}
	t.Run("after a silence", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			o := inMemory(t)
			o.relay.Refuse = notAnswers(wire.RefusedBusy)
			o.run()
			j := gullibleJob(t, project, repo, nil)
			o.relay.Ask(j)
			o.human.wait(t, j.ID(), "verified", standing(Verified))
			o.relay.Do(func() { o.relay.OnAlive = func(*wire.Hint) bool { return false } })
			mustAnswer(t, o, j, 1)
			again(o, j)
		})
	})
	t.Run("with a proof that was kept back too", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			o := inMemory(t)
			o.relay.Refuse = notAnswers(wire.RefusedAttempt)
			o.run()
			j := gullibleJob(t, project, repo, nil)
			o.relay.Ask(j)
			o.human.wait(t, j.ID(), "verified", standing(Verified))
			kept := make(chan wire.Hint, 8)
			o.relay.Do(func() { o.relay.OnAlive = func(h *wire.Hint) bool { kept <- *h; return false } })
			renewal := <-kept // asked for before the answer is given
			mustAnswer(t, o, j, 1)
			o.human.wait(t, j.ID(), "thrown away", func(p Prompt) bool { return p.Phase == Asking && p.Note != "" })
			o.relay.Alive(o.desk.connect, renewal)
			synctest.Wait()
			again(o, j)
		})
	})
}

func TestADeclineIsSaidUntilItIsHeard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.relay.OnMessage = func(m answertest.Message, _ *wire.Reply) bool { return m.Verb != wire.VerbDecline }
		o.human.blind = true // also what is not verified can be declined
		o.run()
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "asking", phase(Asking))
		if err := o.desk.Decline(context.Background(), j.ID(), "not mine"); err != nil {
			t.Fatal(err)
		}
		p := o.human.wait(t, j.ID(), "over", phase(Over))
		if p.Why != "you declined: not mine" {
			t.Errorf("ended as %q", p.Why)
		}
		var m wire.DeclineMessage
		sent := o.relay.Messages(wire.VerbDecline)
		if err := json.Unmarshal(sent[0].Data, &m); err != nil {
			t.Fatal(err)
		}
		no, err := wire.Open[wire.Decline](m.Decline, o.desk.sign)
		if err != nil || no.Digest != j.Digest || no.Attempt != 1 || no.Reason != "not mine" {
			t.Errorf("the decline is %+v, %v", no, err)
		}
		if len(sent) < 2 || !bytes.Equal(sent[0].Data, sent[1].Data) {
			t.Errorf("said %d times, or in different words", len(sent))
		}
	})
}

// With and without names, and whether or not the relay shows what was signed.
func TestWhoeverDeclinedReadsThatItWasThem(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		mine   bool
		hidden bool // names
		pages  bool // the reply is lost; a page says it, without the decline
		want   string
	}{
		{"you", true, false, false, "you declined: no"},
		{"you, names hidden", true, true, false, "you declined: no"},
		{"you, names hidden, by a page", true, true, true, "you declined: no"},
		{"another", false, false, false, "bob declined: no"},
		{"another, names hidden", false, true, false, "a responder declined: no"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := inMemory(t)
				hide := func(s *wire.State) {
					if tc.hidden {
						s.By = ""
					}
				}
				o.relay.OnMessage = func(m answertest.Message, reply *wire.Reply) bool {
					if reply.State != nil {
						hide(reply.State)
					}
					if reply.Page != nil {
						for i := range reply.Page.Ended {
							hide(&reply.Page.Ended[i].State)
							reply.Page.Ended[i].State.Decline = nil
						}
					}
					return m.Verb != wire.VerbDecline || !tc.pages
				}
				o.run()
				j := gullibleJob(t, project, repo, nil)
				o.relay.Ask(j)
				o.human.wait(t, j.ID(), "verified", standing(Verified))
				if tc.mine {
					if err := o.desk.Decline(context.Background(), j.ID(), "no"); err != nil {
						t.Fatal(err)
					}
				} else {
					o.relay.Set(j, func(i *wire.Item) { i.State.State, i.State.By, i.State.Why = "declined", "bob", "no" })
				}
				if p := o.human.wait(t, j.ID(), "over", phase(Over)); p.Why != tc.want {
					t.Errorf("ended as %q, want %q", p.Why, tc.want)
				}
			})
		})
	}
}

func TestAResponderThatWasStartedAnewKnowsItsAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		j := gullibleJob(t, project, repo, nil)
		env, err := wire.Sign(&wire.Answer{Key: o.desk.sign, Digest: j.Digest, Attempt: 1, Ask: wire.AskCode, Decision: wire.DecisionCode, Sealed: j.Digest}, o.keys.sign)
		if err != nil {
			t.Fatal(err)
		}
		o.run()
		o.relay.Ask(j)
		o.relay.Set(j, func(i *wire.Item) {
			i.State.State, i.State.Answer, i.State.Sealed = "delivered", &env, j.Digest.String()
		})
		if p := o.human.wait(t, j.ID(), "resting", phase(Resting)); p.Why != "the relay says that you answered, and that the job has it" {
			t.Errorf("rests as %q", p.Why)
		}
	})
}

func TestANewAttemptNeedsANewProof(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.relay.Hold = true
		o.run()
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "verified", standing(Verified))
		mustAnswer(t, o, j, 1)
		time.Sleep(time.Minute)
		// The relay gives the attempt up; the job does not know yet.
		o.relay.Set(j, func(i *wire.Item) {
			i.State.State, i.State.Attempt, i.State.Sealed, i.State.By = "pending", 2, "", ""
		})
		p := o.human.wait(t, j.ID(), "asking again", func(p Prompt) bool { return p.Phase == Asking && p.Attempt == 2 })
		if p.Answerable || p.Facts != (Facts{}) || !strings.Contains(p.Note, "thrown away") {
			t.Errorf("prompt is %+v", p)
		}
		if err := o.answer(j, 2); !errors.Is(err, ErrNotAnswerable) {
			t.Errorf("answering without the job's word gave %v", err)
		}
		p = o.human.wait(t, j.ID(), "unproven", standing(Unproven))
		if !strings.Contains(p.Why, "the job says that it asks for attempt 1") {
			t.Errorf("prompt is %+v", p)
		}
		j.At(2, wire.ReasonUndelivered)
		p = o.human.wait(t, j.ID(), "verified", standing(Verified))
		if p.Reason != wire.ReasonUndelivered || p.Attempt != 2 {
			t.Errorf("prompt is %+v", p)
		}
		if err := o.answer(j, 1); !errors.Is(err, ErrNotAnswerable) {
			t.Errorf("a code meant for the first attempt: %v", err)
		}
		o.relay.Do(func() { o.relay.Hold = false })
		mustAnswer(t, o, j, 2)
		if got := received(t, j); got != code {
			t.Errorf("the job opened %q", got)
		}
	})
}

// The job's word may arrive before the relay's page does.
func TestAProofForTheNextAttemptHoldsWhenTheRelayFollows(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.run()
		j := gullibleJob(t, project, repo, nil)
		j.At(2, wire.ReasonRejected)
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "unproven", standing(Unproven))
		n := len(o.relay.Messages(wire.VerbOpen))
		o.relay.Set(j, func(i *wire.Item) { i.State.Attempt = 2 })
		p := o.human.wait(t, j.ID(), "verified", standing(Verified))
		if p.Reason != wire.ReasonRejected || len(o.relay.Messages(wire.VerbOpen)) != n {
			t.Errorf("prompt is %+v after %d challenges", p, len(o.relay.Messages(wire.VerbOpen)))
		}
	})
}

func TestOneProjectsTwoRequestsNeedTheTypedMatchCode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.run()
		one, two := gullibleJob(t, project, repo, nil), gullibleJob(t, project, repo, nil)
		elsewhere := gullibleJob(t, "other", repo, nil)
		o.relay.Ask(one)
		o.relay.Ask(elsewhere)
		p := o.human.wait(t, one.ID(), "verified", standing(Verified))
		if p.TypeMatch || p.Match == "" {
			t.Errorf("alone: %+v", p)
		}
		o.relay.Ask(two)
		for _, j := range []*answertest.Job{one, two} {
			p := o.human.wait(t, j.ID(), "to be typed", func(p Prompt) bool { return p.Standing == Verified && p.TypeMatch })
			if p.Match != "" {
				t.Error("the match code to be typed is shown")
			}
		}
		ctx := context.Background()
		for _, wrong := range []string{"", seal.Match(two.Digest)} {
			if err := o.desk.Answer(ctx, Answer{ID: one.ID(), Attempt: 1, Code: code, Match: wrong}); !errors.Is(err, ErrMatch) {
				t.Errorf("match code %q: %v", wrong, err)
			}
		}
		if n := len(o.relay.Messages(wire.VerbAnswer)); n != 0 {
			t.Fatalf("%d answers left", n)
		}
		typed := strings.ToLower(strings.ReplaceAll(seal.Match(one.Digest), "-", " "))
		if err := o.desk.Answer(ctx, Answer{ID: one.ID(), Attempt: 1, Code: code, Match: typed}); err != nil {
			t.Fatal(err)
		}
		if got := received(t, one); got != code {
			t.Errorf("the job opened %q", got)
		}
		o.relay.Set(one, func(i *wire.Item) { i.State.State = "done" })
		o.human.wait(t, two.ID(), "alone again", func(p Prompt) bool { return !p.TypeMatch && p.Match != "" })
		if len(two.Codes()) != 0 {
			t.Error("the other job got a code")
		}
	})
}

// The human's own word of a project: also where neither the job nor anything else
// wants it typed.
func TestWhoWantsToTypeMatchCodesAlwaysDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.desk.trust.TypeMatch = map[string]bool{project: true}
		o.run()
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		p := o.human.wait(t, j.ID(), "verified", standing(Verified))
		if !p.TypeMatch || p.Match != "" {
			t.Errorf("match %q, to be typed: %v", p.Match, p.TypeMatch)
		}
		if err := o.answer(j, 1); !errors.Is(err, ErrMatch) {
			t.Errorf("answering without gave %v", err)
		}
		// Pins that say no such thing any more; what is open proves itself anew.
		tr := o.desk.trust
		tr.TypeMatch = map[string]bool{project: false}
		o.desk.SetTrust(tr)
		o.human.wait(t, j.ID(), "shown", func(p Prompt) bool { return p.Answerable && !p.TypeMatch && p.Match != "" })
		mustAnswer(t, o, j, 1)
		received(t, j)
	})
}

func TestAnUnboundTokenNeedsTheTypedMatchCode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.desk.trust.Verifier.(*gullible).bound = false
		o.run()
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		p := o.human.wait(t, j.ID(), "foreign", standing(Foreign))
		if !strings.Contains(p.Why, "unbound") || !p.TypeMatch {
			t.Errorf("without the pins' leave: %+v", p)
		}
		if err := o.desk.Answer(context.Background(), Answer{ID: j.ID(), Attempt: 1, Code: code, Match: seal.Match(j.Digest)}); !errors.Is(err, ErrNotAnswerable) {
			t.Errorf("answering gave %v", err)
		}
	})
}

func TestACodeOfTheWrongFormNeverLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.run()
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "verified", standing(Verified))
		for _, wrong := range []string{"", "12345", "1234567", "12345a", "12345\n", "１２３４５６"} {
			err := o.desk.Answer(context.Background(), Answer{ID: j.ID(), Attempt: 1, Code: wrong})
			if !errors.Is(err, ErrCode) {
				t.Errorf("%q: %v", wrong, err)
			}
			if wrong != "" && strings.Contains(err.Error(), wrong) {
				t.Errorf("the error repeats the code: %v", err)
			}
		}
		if n := len(o.relay.Messages(wire.VerbAnswer)); n != 0 {
			t.Errorf("%d answers left", n)
		}
	})
}

func TestWhatThisVersionCannotAnswerIsShownWithTheReason(t *testing.T) {
	t.Parallel()
	other, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		change func(*wire.Request)
		why    string
	}{
		{"an approval by others", func(r *wire.Request) {
			r.Ask, r.Format, r.Message, r.Responders = wire.AskApproval, "any", "yes?", []string{wire.PublicKey(other)}
		}, "other responders' keys"},
		{"two people for a link", func(r *wire.Request) {
			r.Ask, r.Format, r.Approvals, r.Responders = wire.AskLink, "any", 2, []string{wire.PublicKey(other)}
		}, "two people"},
		{"two others for a code", func(r *wire.Request) { r.Approvals, r.Responders = 2, []string{wire.PublicKey(other)} }, "other responders' keys"},
		{"others' keys", func(r *wire.Request) { r.Responders = []string{wire.PublicKey(other)} }, "other responders' keys"},
		{"a job ahead of time", func(r *wire.Request) { r.Made, r.Deadline = r.Made+420, r.Deadline+420 }, "by more than 5 minutes"},
		{"another relay", func(r *wire.Request) { r.Relay = "elsewhere.test" }, "another relay, elsewhere.test, and the one that passed it on is relay.test here; if elsewhere.test is what its administrator calls that relay, start this responder with `--relay-name elsewhere.test`"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := inMemory(t)
				o.run()
				j := gullibleJob(t, project, repo, test.change)
				o.relay.Ask(j)
				p := o.human.wait(t, j.ID(), "shown", phase(Asking))
				time.Sleep(time.Minute)
				if !strings.Contains(p.Why, test.why) {
					t.Errorf("the human is told %q", p.Why)
				}
				unanswerable(t, o, j)
			})
		})
	}
}

// Clocks differ, and a clock that was wrong is set right.
func TestARequestIsAnswerableOnceItsTimeIsNear(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{4 * time.Minute, 6 * time.Minute} {
		t.Run(ahead.String(), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := inMemory(t)
				o.run()
				j := gullibleJob(t, project, repo, func(r *wire.Request) { r.Made += int64(ahead.Seconds()) })
				o.relay.Ask(j)
				since := time.Now()
				o.human.wait(t, j.ID(), "verified", standing(Verified))
				if late := time.Since(since); (late > 30*time.Second) != (ahead > 5*time.Minute) || late > 2*time.Minute {
					t.Errorf("verified after %s", late)
				}
			})
		})
	}
}

// Jobs and a hostile relay choose the deadlines and how many requests there are.
func TestWhatIsRememberedOfEndedRequestsIsBounded(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	d := newDesk(o.config(Trust{}), relayName)
	far := &prompt{key: "far", deadline: now().AddDate(100, 0, 0)}
	d.bury(far)
	if kept := d.over["far"].deadline.Sub(now()); kept > wire.LongestWait+10*time.Minute {
		t.Errorf("an ended request counts as open for %s more", kept)
	}
	first := &prompt{key: "first", deadline: now()}
	d.bury(first)
	for i := range maxTombs {
		d.bury(&prompt{key: fmt.Sprint(i), deadline: now().Add(time.Hour)})
	}
	if len(d.over) > maxTombs {
		t.Errorf("%d ended requests are remembered", len(d.over))
	}
	if _, ok := d.over["first"]; ok {
		t.Error("the one that had the least time left is remembered")
	}
	if _, ok := d.over["far"]; !ok {
		t.Error("the one that has the most time left is forgotten")
	}
}

func TestAStoppedAskersQueueIsBounded(t *testing.T) {
	t.Parallel()
	c := NewCourier()
	c.prompt(Prompt{ID: "told", Phase: Asking})
	if n, _, _ := c.next(); n.Prompt == nil {
		t.Fatal("no news")
	}
	c.prompt(Prompt{ID: "open", Phase: Asking})
	c.prompt(Prompt{ID: "told", Phase: Over})
	for i := range 2 * maxQueue {
		c.prompt(Prompt{ID: fmt.Sprint(i), Phase: Asking})
		c.prompt(Prompt{ID: fmt.Sprint(i), Phase: Over})
	}
	got := map[string]Phase{}
	for n, ok, _ := c.next(); ok; n, ok, _ = c.next() {
		got[n.Prompt.ID] = n.Prompt.Phase
	}
	if len(got) > maxQueue {
		t.Errorf("%d prompts were queued", len(got))
	}
	if got["told"] != Over || got["open"] != Asking {
		t.Errorf("a prompt that the asker knows, or that is open, was left out: %q, %q", got["told"], got["open"])
	}
	if len(c.told) != 1 {
		t.Errorf("%d prompts are remembered as told", len(c.told))
	}
}

func TestEveryRequestIsShownHoweverManyPagesTheyTake(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.human.blind = true
		var jobs []*answertest.Job
		for range 100 {
			j := gullibleJob(t, project, repo, nil)
			o.relay.Ask(j)
			jobs = append(jobs, j)
		}
		o.run()
		for _, j := range jobs {
			o.human.wait(t, j.ID(), "asking", phase(Asking))
		}
		// More than fit into one question are over, and all are told.
		for _, j := range jobs[:90] {
			o.relay.Set(j, func(i *wire.Item) { i.State.State, i.State.Why = "cancelled", "by the job" })
		}
		for _, j := range jobs[:90] {
			if p := o.human.wait(t, j.ID(), "over", phase(Over)); p.Why != "withdrawn: by the job" {
				t.Errorf("ended as %q", p.Why)
			}
		}
	})
}

func TestAJobThatIsGoneIsCalledThat(t *testing.T) {
	t.Parallel()
	for state, want := range map[string]string{
		"cancelled": "the relay says that the job is gone",
		"done":      "the relay says that the job has what it asked for, and was not heard of again",
	} {
		synctest.Test(t, func(t *testing.T) {
			o := inMemory(t)
			o.human.blind = true
			j := gullibleJob(t, project, repo, nil)
			o.relay.Ask(j)
			o.run()
			o.human.wait(t, j.ID(), "asking", phase(Asking))
			o.relay.Set(j, func(i *wire.Item) { i.State.State, i.State.Why = state, "lost" })
			if p := o.human.wait(t, j.ID(), "over", phase(Over)); p.Why != want {
				t.Errorf("%s: %q", state, p.Why)
			}
		})
	}
}

// TestNoProjectPushesAnothersPromptsOut: without a share for each, whoever asks
// first, or most often, would decide what a human sees.
func TestNoProjectPushesAnothersPromptsOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.human.blind = true
		var many []*answertest.Job
		for range maxPrompts + 40 {
			j := gullibleJob(t, "noisy", repo, nil)
			o.relay.Ask(j)
			many = append(many, j)
		}
		shown := func() (n int) {
			o.human.mu.Lock()
			defer o.human.mu.Unlock()
			for _, j := range many {
				if p, ok := o.human.last[j.ID()]; ok && p.Phase == Asking {
					n++
				}
			}
			return n
		}
		o.run()
		o.human.noticed(t, func(s string) bool {
			return strings.HasPrefix(s, "296 requests are open, and at most 256 are shown at once")
		})
		time.Sleep(time.Second)
		if n := shown(); n != maxPrompts {
			t.Errorf("%d prompts of one project, alone", n)
		}
		// Its key may come last in every page.
		var mine []*answertest.Job
		for range 3 {
			j := gullibleJob(t, project, repo, nil)
			o.relay.Ask(j)
			mine = append(mine, j)
		}
		for _, j := range mine {
			o.human.wait(t, j.ID(), "asking", phase(Asking))
		}
		if n := shown(); n != maxPrompts-len(mine) {
			t.Errorf("%d prompts of the other project are still shown", n)
		}
		// And when there is room again, it is used.
		for _, j := range many[:60] {
			o.relay.Set(j, func(i *wire.Item) { i.State.State, i.State.Why = "cancelled", "by the job" })
		}
		time.Sleep(time.Minute)
		if n := shown(); n != len(many)-60 {
			t.Errorf("%d prompts are shown, though there is room for all", n)
		}
	})
}

func TestAShareOfThePromptsIsEachProjects(t *testing.T) {
	t.Parallel()
	list := func(project string, n, shown int) (all []claim) {
		for i := range n {
			c := claim{key: fmt.Sprintf("%s-%02d", project, i), project: project}
			if n-i <= shown { // the last ones by key were shown first
				c.shown = 1 + i
			}
			all = append(all, c)
		}
		return all
	}
	for name, c := range map[string]struct {
		all  []claim
		most int
		want map[string]int
	}{
		"room for all":         {slices.Concat(list("a", 3, 0), list("b", 2, 0)), 9, map[string]int{"a": 3, "b": 2}},
		"one has many":         {slices.Concat(list("a", 90, 0), list("b", 2, 0)), 10, map[string]int{"a": 8, "b": 2}},
		"two have many":        {slices.Concat(list("a", 90, 90), list("b", 80, 0), list("c", 1, 0)), 11, map[string]int{"a": 5, "b": 5, "c": 1}},
		"more projects than n": {slices.Concat(list("a", 2, 0), list("b", 2, 0), list("c", 2, 0)), 2, map[string]int{"a": 1, "b": 1}},
		"none":                 {nil, 5, map[string]int{}},
	} {
		got := map[string]int{}
		for key := range fair(c.all, c.most) {
			got[key[:1]]++
		}
		if !maps.Equal(got, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
	// What is shown stays, the oldest first.
	chosen := fair(list("a", 10, 4), 3)
	for _, key := range []string{"a-06", "a-07", "a-08"} {
		if !chosen[key] {
			t.Errorf("%s makes room for what came later: %v", key, chosen)
		}
	}
}

func TestARelayThatNeverEndsItsPagesIsNotFollowedForEver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		j := gullibleJob(t, project, repo, nil)
		always := wire.Item{Key: j.ID(), Request: j.Envelope, State: wire.State{Rev: 1, State: "pending", Attempt: 1}}
		o.relay.OnMessage = func(_ answertest.Message, reply *wire.Reply) bool {
			if reply.Page != nil {
				reply.Page.More = true
				reply.Page.Items = append([]wire.Item{}, always)
			}
			return true
		}
		o.relay.Ask(j)
		o.run()
		o.human.wait(t, j.ID(), "verified", standing(Verified))
		time.Sleep(time.Second)
		if n := len(o.relay.Messages(wire.VerbPending)); n > 10 {
			t.Errorf("%d reads in a second", n)
		}
	})
}

// A page that was read before the end, or that a relay serves again.
func TestAStalePageDoesNotBringAPromptBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.run()
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "verified", standing(Verified))
		stale := wire.Item{Key: j.ID(), Request: j.Envelope, State: o.relay.State(j)}
		o.relay.Set(j, func(i *wire.Item) { i.State.State = "cancelled" })
		o.human.wait(t, j.ID(), "over", phase(Over))
		o.relay.Do(func() {
			o.relay.OnMessage = func(_ answertest.Message, reply *wire.Reply) bool {
				if reply.Page != nil {
					reply.Page.Items = []wire.Item{stale}
				}
				return true
			}
		})
		n := len(o.human.shown(j.ID()))
		time.Sleep(time.Minute)
		if again := len(o.human.shown(j.ID())); again != n {
			t.Errorf("shown %d times more", again-n)
		}
	})
}

func TestAPromptThatTheRelayHidesIsOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.run()
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "verified", standing(Verified))
		o.relay.Do(func() {
			o.relay.OnMessage = func(_ answertest.Message, reply *wire.Reply) bool {
				if reply.Page != nil {
					reply.Page = &wire.Page{}
				}
				return true
			}
		})
		p := o.human.wait(t, j.ID(), "over", phase(Over))
		if !strings.Contains(p.Why, "lists it no more") {
			t.Errorf("ended as %q", p.Why)
		}
	})
}

func TestAPromptEndsAtItsDeadlineWithoutTheRelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.run()
		j := gullibleJob(t, project, repo, func(r *wire.Request) { r.Deadline = r.Made + 60 })
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "verified", standing(Verified))
		since := time.Now()
		o.relay.Do(func() { o.relay.OnMessage = func(answertest.Message, *wire.Reply) bool { return false } })
		p := o.human.wait(t, j.ID(), "over", phase(Over))
		if p.Why != "nobody answered in time" || time.Since(since) > time.Minute {
			t.Errorf("ended as %q after %s", p.Why, time.Since(since))
		}
	})
}

func TestTwoUnansweredReadsMeanANewConnection(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		dials := make(chan time.Time, 100)
		dial := o.desk.dial
		o.desk.dial = func(ctx context.Context) (relayConn, error) {
			dials <- time.Now()
			return dial(ctx)
		}
		o.run()
		<-dials
		o.human.noticed(t, func(s string) bool { return strings.Contains(s, "connected") })
		o.relay.Do(func() { o.relay.OnMessage = func(answertest.Message, *wire.Reply) bool { return false } })
		since := time.Now()
		if at := <-dials; at.Sub(since) > 40*time.Second {
			t.Errorf("a dead connection was noticed after %s", at.Sub(since))
		}
		o.human.noticed(t, func(s string) bool { return strings.Contains(s, "lost") })
	})
}

// Two programs with one key throw each other out; they must not do so as fast
// as they can.
func TestABriefConnectionIsNotFollowedByAHotLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		dials := 0
		o.desk.dial = func(context.Context) (relayConn, error) {
			dials++
			c := o.relay.Dial(o.desk.connect)
			c.Close()
			return c, nil
		}
		o.run()
		o.human.noticed(t, func(s string) bool { return strings.Contains(s, "same keys") })
		time.Sleep(time.Minute)
		o.stop()
		<-o.done
		if dials > 20 {
			t.Errorf("%d connections in a minute", dials)
		}
	})
}

func TestARelayThatCannotBeReachedIsGivenUpAtStartOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		unreachable := fmt.Errorf("%w: no route", dial.ErrUnreachable)
		up := o.desk.dial
		o.desk.dial = func(context.Context) (relayConn, error) { return nil, unreachable }
		o.desk.config.ConnectWithin = 30 * time.Second
		since := time.Now()
		o.run()
		if err := <-o.done; !errors.Is(err, dial.ErrUnreachable) || time.Since(since) < 30*time.Second || time.Since(since) > 50*time.Second {
			t.Errorf("after %s: %v", time.Since(since), err)
		}

		o = inMemory(t)
		o.desk.config.ConnectWithin = 30 * time.Second
		first := true
		o.desk.dial = func(ctx context.Context) (relayConn, error) {
			if first {
				first = false
				return up(ctx)
			}
			return nil, unreachable
		}
		o.run()
		o.human.noticed(t, func(s string) bool { return strings.Contains(s, "connected") })
		time.Sleep(time.Minute)
		o.relay.Cut()
		time.Sleep(6 * time.Hour)
		select {
		case err := <-o.done:
			t.Errorf("a desk that had been connected gave up: %v", err)
		default:
		}
	})
}

// A slow human's terminal must not hold up the protocol, and gets the last word.
func TestASlowAskerMissesStepsAndNotTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		stuck := &stopped{resume: make(chan struct{})}
		o.desk.config.Askers = append(o.desk.config.Askers, stuck)
		o.run()
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "verified", standing(Verified))
		mustAnswer(t, o, j, 1)
		o.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
		o.human.wait(t, j.ID(), "over", phase(Over))
		close(stuck.resume)
		synctest.Wait()
		o.stop()
		<-o.done
		if last := stuck.last; last.Phase != Over {
			t.Errorf("the last that it saw is %+v", last)
		}
	})
}

type stopped struct {
	resume chan struct{}
	last   Prompt
}

func (s *stopped) Ask(_ context.Context, news <-chan News, _ Decisions) error {
	<-s.resume
	for n := range news {
		if n.Prompt != nil {
			s.last = *n.Prompt
		}
	}
	return nil
}
