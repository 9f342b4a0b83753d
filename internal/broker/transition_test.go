package broker

// What happens to a request between being asked and its end: who wins, what time
// does, and that two who decide at once never both have it their way.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

// history is every record of a request, oldest first, as bytes.
func history(t testing.TB, r *Relay, key string) [][]byte {
	t.Helper()
	info, err := r.store.stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for seq := info.State.FirstSeq; seq <= info.State.LastSeq; seq++ {
		m, err := r.store.stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		if m.Subject == requestPrefix+key {
			out = append(out, m.Data)
		}
	}
	return out
}

func records(t testing.TB, r *Relay, key string) []lifecycle.Record {
	t.Helper()
	var out []lifecycle.Record
	for _, data := range history(t, r, key) {
		rec, err := lifecycle.Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, rec)
	}
	return out
}

// asDesk and asJob hand a message to one relay of several.
func asDesk(t testing.TB, r *Relay, h *human, verb string, msg any) wire.Reply {
	t.Helper()
	data, err := json.Marshal(msg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	reply, err := r.deskMessage(ctx, h.key(), verb, data)
	if err != nil {
		return wire.Reply{Refused: r.refusal(err)}
	}
	return reply
}

func TestOfTwoRespondersOneWinsAndTheOtherIsToldWho(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		ana, bob := f.sit(f.ana), f.sit(f.bob)
		for range 8 {
			j := f.accepted(rocketRepo, "rocket")
			type outcome struct {
				who   *seat
				m     wire.AnswerMessage
				reply *nats.Msg
				err   error
			}
			start, outcomes := make(chan struct{}), make(chan outcome, 2)
			for _, s := range []*seat{ana, bob} {
				m := s.answerMessage(t, j, 1)
				data, err := json.Marshal(m)
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					<-start
					reply, err := s.nc.Request(wire.DeskSubject(s.key(), wire.VerbAnswer), data, 10*time.Second)
					outcomes <- outcome{s, m, reply, err}
				}()
			}
			close(start)
			var won, lost *outcome
			for range 2 {
				o := <-outcomes
				if o.err != nil {
					t.Fatal(o.err)
				}
				var r wire.Reply
				if err := wire.Decode(o.reply.Data, wire.MaxMessage, &r); err != nil {
					t.Fatal(err)
				}
				if r.Refused == nil {
					if won != nil {
						t.Fatal("both have won")
					}
					won = &o
					continue
				}
				lost = &o
				defer func() {
					refused(t, r, wire.RefusedTaken, won.who.name+" answered first")
				}()
			}
			if won == nil || lost == nil {
				t.Fatal("nobody has won")
			}
			hint(t, j.hints, answerOf(won.m))
			if s := must(t, j.got(1, won.m.Sealed.Hash())); s.By != won.who.name {
				t.Errorf("answered by %s, not %s", s.By, won.who.name)
			}
			refused(t, j.got(1, lost.m.Sealed.Hash()), wire.RefusedAttempt, "must not be used")
			n := 0
			for _, rec := range records(t, f.relay, j.pub) {
				if rec.Event == lifecycle.EventAnswered {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%d answers are recorded", n)
			}
			must(t, j.done(1))
			j.nc.Close()
		}
	})
}

// One decides on what it has read, and before it has appended another has: the
// append names what it was decided on, so it fails, and what is said then is
// read anew.
func TestWhoWasOvertakenBetweenReadingAndAppendingIsToldTheTruth(t *testing.T) {
	t.Parallel()
	relays := map[string]func(t *testing.T, o Options) (f *fixture, first, second *Relay){
		"in one relay": func(t *testing.T, o Options) (*fixture, *Relay, *Relay) {
			f := newFixture(t)
			f.start(f.configText(t.TempDir(), onLoopback), o)
			return f, f.relay, f.relay
		},
		"in two": func(t *testing.T, o Options) (*fixture, *Relay, *Relay) {
			x := newExternal(t, false)
			x.run(t)
			f := newFixture(t)
			f.server = x.server
			f.start(f.configText(t.TempDir(), x.section(0)), o)
			g := f.second(f.configText(t.TempDir(), x.section(1)), Options{})
			return f, f.relay, g.relay
		},
	}
	for name, start := range relays {
		for _, c := range []struct {
			name string
			// overtake is what happens in the gap; slow is who is in it.
			overtake func(t *testing.T, f *fixture, r *Relay, j *job)
			then     func(t *testing.T, f *fixture, r wire.Reply)
			events   []lifecycle.Event
		}{
			{"by another answer", func(t *testing.T, f *fixture, r *Relay, j *job) {
				must(t, asDesk(t, r, f.bob, wire.VerbAnswer, f.bob.answerMessage(t, j, 1)))
			}, func(t *testing.T, _ *fixture, r wire.Reply) {
				refused(t, r, wire.RefusedTaken, "Bob answered first")
			}, []lifecycle.Event{"asked", "answered"}},
			{"by a decline", func(t *testing.T, f *fixture, r *Relay, j *job) {
				must(t, asDesk(t, r, f.bob, wire.VerbDecline, f.bob.declineMessage(t, j, 1, "not now")))
			}, func(t *testing.T, _ *fixture, r wire.Reply) {
				refused(t, r, wire.RefusedEnded, "declined", "not now")
			}, []lifecycle.Event{"asked", "declined"}},
			{"by the job's cancel", func(t *testing.T, _ *fixture, _ *Relay, j *job) {
				must(t, j.cancel())
			}, func(t *testing.T, _ *fixture, r wire.Reply) {
				refused(t, r, wire.RefusedEnded, "cancelled")
			}, []lifecycle.Event{"asked", "cancelled"}},
			{"by what changes nothing for it", func(t *testing.T, f *fixture, r *Relay, j *job) {
				must(t, asDesk(t, r, f.bob, wire.VerbOpen, f.bob.openMessage(t, j)))
			}, func(t *testing.T, _ *fixture, r wire.Reply) {
				if s := must(t, r); s.State != "answered" || s.By != "Ana" || len(s.Opened) != 1 {
					t.Errorf("%+v", s)
				}
			}, []lifecycle.Event{"asked", "opened", "answered"}},
		} {
			t.Run(name+" "+c.name, func(t *testing.T) {
				t.Parallel()
				inGap, goOn := make(chan struct{}), make(chan struct{})
				var once atomic.Bool
				f, first, second := start(t, held(func(_ context.Context, m *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
					if strings.Contains(string(m.Data), `"event":"answered"`) && once.CompareAndSwap(false, true) {
						close(inGap)
						<-goOn
					}
					return next()
				}))
				j := f.accepted(rocketRepo, "rocket")
				eventually(t, "each relay knows of it", func() bool {
					_, a := first.store.recent(j.pub)
					_, b := second.store.recent(j.pub)
					return a && b
				})
				done := make(chan wire.Reply, 1)
				m := f.ana.answerMessage(t, j, 1)
				go func() { done <- asDesk(t, first, f.ana, wire.VerbAnswer, m) }()
				<-inGap
				c.overtake(t, f, second, j)
				close(goOn)
				c.then(t, f, <-done)
				var events []lifecycle.Event
				for _, rec := range records(t, first, j.pub) {
					events = append(events, rec.Event)
				}
				if fmt.Sprint(events) != fmt.Sprint(c.events) {
					t.Errorf("the record is %v, not %v", events, c.events)
				}
			})
		}
	}
}

// A failed append says little: it may have happened, and three replicas say
// "wrong last sequence" now and then with nobody else writing.
func TestAnAppendThatFailsIsReadAgainBeforeAnythingIsSaid(t *testing.T) {
	t.Parallel()
	wrong := &jetstream.APIError{ErrorCode: 10164, Code: 400, Description: "wrong last sequence"}
	for _, c := range []struct {
		name    string
		publish func(n int, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) // n: the try, from 1
		tries   int
		code    string // "" for accepted
	}{
		{"wrong last sequence, with no other writer", func(n int, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
			if n <= 3 {
				return nil, wrong
			}
			return next()
		}, 4, ""},
		{"a time-out that has appended", func(n int, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
			if _, err := next(); err != nil {
				return nil, err
			}
			return nil, context.DeadlineExceeded
		}, 1, ""},
		{"a time-out that has not", func(n int, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
			if n == 1 {
				return nil, nats.ErrTimeout
			}
			return next()
		}, 2, ""},
		{"no response from the stream, for good", func(int, func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
			return nil, jetstream.ErrNoStreamResponse
		}, 9, wire.RefusedBusy},
		{"a full store", func(int, func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
			return nil, &jetstream.APIError{ErrorCode: 10077, Code: 503, Description: "maximum bytes exceeded"}
		}, 9, wire.RefusedBusy},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			tries := make(chan int, 1)
			tries <- 0
			f.start(f.configText(t.TempDir(), onLoopback), held(func(_ context.Context, m *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
				n := <-tries + 1
				tries <- n
				return c.publish(n, next)
			}))
			j := f.job(rocketRepo, "rocket")
			j.connect()
			r := j.send(j.nc)
			if n := <-tries; n != c.tries {
				t.Errorf("%d tries, not %d", n, c.tries)
			}
			if c.code != "" {
				refused(t, r, c.code, "the relay cannot reach its store", "tried again by itself")
				tries <- -1000
				if s := j.state(); s.Refused == nil || s.Refused.Code != wire.RefusedUnknown {
					t.Errorf("%+v", s)
				}
				return
			}
			if s := must(t, r); s.State != "pending" {
				t.Errorf("%+v", s)
			}
			if n := len(history(t, f.relay, j.pub)); n != 1 {
				t.Errorf("%d records", n)
			}
			if p := f.sit(f.ana).pending(); len(p.Items) != 1 {
				t.Errorf("it is listed %d times", len(p.Items))
			}
		})
	}
}

// deafStream answers no reads while it is deaf.
type deafStream struct {
	jetstream.Stream
	deaf atomic.Bool
}

func (d *deafStream) GetLastMsgForSubject(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	if d.deaf.Load() {
		return nil, nats.ErrTimeout
	}
	return d.Stream.GetLastMsgForSubject(ctx, subject)
}

// Where neither the acknowledgement nor the re-read comes, the relay cannot say
// whether it has appended; it must not lose sight of what it may have.
func TestWhatWasAppendedUnacknowledgedIsListedAllTheSame(t *testing.T) {
	t.Parallel()
	for _, seen := range []bool{true, false} {
		t.Run(fmt.Sprintf("seen before the error %v", seen), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			deaf := &deafStream{}
			goOn, over := make(chan struct{}), make(chan struct{})
			o := held(func(_ context.Context, _ *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
				deaf.deaf.Store(true)
				append := func() {
					if _, err := next(); err != nil {
						t.Error(err)
					}
					close(over)
				}
				if seen {
					append()
					<-goOn
				} else {
					go func() { <-goOn; append() }()
				}
				return nil, nats.ErrTimeout
			})
			hold := o.opened
			o.opened = func(s *store) {
				hold(s)
				deaf.Stream, s.stream = s.stream, deaf
			}
			f.start(f.configText(t.TempDir(), onLoopback), o)
			j := f.job(rocketRepo, "rocket")
			j.connect()
			if seen {
				go func() {
					defer close(goOn)
					for range 5000 {
						f.relay.store.mu.Lock()
						for _, w := range f.relay.store.own {
							if w.seq != 0 { // the stream has brought it
								f.relay.store.mu.Unlock()
								return
							}
						}
						f.relay.store.mu.Unlock()
						time.Sleep(2 * time.Millisecond)
					}
				}()
				if s := must(t, j.send(j.nc)); s.State != "pending" {
					t.Errorf("%+v", s)
				}
			} else {
				refused(t, j.send(j.nc), wire.RefusedBusy)
				close(goOn)
			}
			<-over
			eventually(t, "it is listed", func() bool { return f.relay.store.count() == 1 })
			deaf.deaf.Store(false)
			if p := f.sit(f.ana).pending(); len(p.Items) != 1 || p.Items[0].Key != j.pub {
				t.Errorf("%+v", p)
			}
			if s := must(t, j.send(j.nc)); s.State != "pending" {
				t.Errorf("%+v", s)
			}
			if n := len(history(t, f.relay, j.pub)); n != 1 {
				t.Errorf("%d records", n)
			}
		})
	}
}

func TestADeclineIsFinalAndTheJobCanVerifyIt(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		ana, bob := f.sit(f.ana), f.sit(f.bob)
		j := f.accepted(rocketRepo, "rocket")
		told := listen(t, bob.nc, wire.ProjectSubject("rocket"))
		m := f.ana.declineMessage(t, j, 1, "it is a Friday")
		if s := must(t, ana.say(wire.VerbDecline, m)); s.State != "declined" || s.By != "Ana" || s.Why != "it is a Friday" {
			t.Errorf("%+v", s)
		}
		hint(t, j.hints, changeOf(j))
		hint(t, told, changeOf(j))
		s := must(t, j.state())
		if s.State != "declined" || s.Decline == nil {
			t.Fatalf("%+v", s)
		}
		d, err := wire.Open[wire.Decline](*s.Decline, f.ana.signer())
		if err != nil || d.Digest != j.dig || d.Reason != "it is a Friday" {
			t.Errorf("%+v %v", d, err)
		}
		must(t, ana.say(wire.VerbDecline, m)) // again is the same
		_, r := bob.answer(j, 1)
		refused(t, r, wire.RefusedEnded, "this request was declined", "it is a Friday")
		refused(t, bob.say(wire.VerbOpen, f.bob.openMessage(t, j)), wire.RefusedEnded)
		refused(t, j.done(1), wire.RefusedEnded)
		if p := bob.pending(); len(p.Items) != 0 {
			t.Errorf("%+v", p.Items)
		}
	})
}

func TestAJobWithdrawsItsRequest(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	ana := f.sit(f.ana)
	told := listen(t, ana.nc, wire.ProjectSubject("rocket"))
	j := f.accepted(rocketRepo, "rocket")
	if s := must(t, j.cancel()); s.State != "cancelled" || s.Why != "the run was stopped" {
		t.Errorf("%+v", s)
	}
	hint(t, told, changeOf(j))
	if p := ana.pending(); len(p.Items) != 0 {
		t.Errorf("still shown: %+v", p.Items)
	}
	_, r := ana.answer(j, 1)
	refused(t, r, wire.RefusedEnded, "the run was stopped")
	must(t, j.cancel()) // again is the same
	// Nobody else can: not with a body of its own, not for another digest.
	other := f.accepted(rocketRepo, "rocket")
	env := sign(t, &wire.Cancel{Key: other.pub, Digest: other.dig}, other.key)
	j2 := f.accepted(rocketRepo, "rocket")
	refused(t, request(t, j2.nc, wire.JobSubject(j2.pub, wire.VerbCancel), wire.StepMessage{Step: env}), wire.RefusedSignature)
	refused(t, j2.step(&wire.Cancel{Key: j2.pub, Digest: other.dig}), wire.RefusedKeyUsed, "names another request")
	must(t, j2.state())
}

func TestAReceiptForOtherBytesIsRefused(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	ana := f.sit(f.ana)
	j := f.accepted(rocketRepo, "rocket")
	refused(t, j.got(1, wire.Digest{1}), wire.RefusedAttempt)
	m, r := ana.answer(j, 1)
	must(t, r)
	refused(t, j.got(1, wire.Digest{1}), wire.RefusedAttempt, "what was received is not what was recorded as the answer")
	refused(t, j.done(1), wire.RefusedAttempt, "the job has received nothing yet")
	must(t, j.got(1, m.Sealed.Hash()))
	must(t, j.got(1, m.Sealed.Hash()))
	// A refused code brings the next attempt, and the humans are told why.
	if s := must(t, j.step(&wire.Rejected{Key: j.pub, Digest: j.dig, Attempt: 1, Why: wire.RejectedRefused})); s.State != "pending" || s.Attempt != 2 || s.Reason != "rejected" {
		t.Errorf("%+v", s)
	}
	_, r = ana.answer(j, 1)
	refused(t, r, wire.RefusedAttempt)
	m, r = ana.answer(j, 2)
	must(t, r)
	must(t, j.got(2, m.Sealed.Hash()))
	if s := must(t, j.step(&wire.Next{Key: j.pub, Digest: j.dig, Attempt: 2})); s.Attempt != 3 || s.Reason != "next" {
		t.Errorf("%+v", s)
	}
	m, r = ana.answer(j, 3)
	must(t, r)
	// One that does not open shuts its key out.
	if s := must(t, j.step(&wire.Rejected{Key: j.pub, Digest: j.dig, Attempt: 3, Why: wire.RejectedUnusable, Shut: f.ana.signer()})); s.Attempt != 4 || s.Enrolled != 1 {
		t.Errorf("%+v", s)
	}
	_, r = ana.answer(j, 4)
	refused(t, r, wire.RefusedNotYours, "the key is shut out of this request")
	_, r = f.sit(f.bob).answer(j, 4)
	must(t, r)
	_ = m
}

func TestAnAnswerThatIsSentAgainIsPassedOnAgain(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		ana := f.sit(f.ana)
		told := listen(t, ana.nc, wire.ProjectSubject("rocket"))
		j := f.accepted(rocketRepo, "rocket")
		m, r := ana.answer(j, 1)
		rev := must(t, r).Rev
		hint(t, j.hints, answerOf(m))
		if s := must(t, ana.say(wire.VerbAnswer, m)); s.Rev != rev {
			t.Errorf("recorded again: %+v", s)
		}
		hint(t, j.hints, answerOf(m))
		// A job that has missed it and reads its state has the project told,
		// with which the responder sends the same again. So does one that comes
		// back and asks again, not knowing that it was accepted.
		for _, again := range []func() wire.Reply{j.state, func() wire.Reply { return j.send(j.nc) }} {
			everything(t, told)
			if s := must(t, again()); s.State != "answered" || s.Sealed != m.Sealed.Hash().String() {
				t.Errorf("%+v", s)
			}
			hint(t, told, changeOf(j))
		}
		must(t, j.got(1, m.Sealed.Hash()))
		eventually(t, "all hints have come", func() bool { return must(t, j.state()).State == "delivered" })
		everything(t, j.hints)
		if s := must(t, ana.say(wire.VerbAnswer, m)); s.State != "delivered" {
			t.Errorf("%+v", s)
		}
		must(t, j.state())
		if text := everything(t, j.hints); strings.Contains(text, `"sealed"`) {
			t.Error("a delivered code is passed on again")
		}
	})
}

// timed is a relay whose clock, and whose store's, are the test's.
func timed(t testing.TB) (*fixture, *clock) {
	t.Helper()
	c := &clock{}
	f := newFixture(t)
	f.start(f.configText(t.TempDir(), onLoopback), Options{Now: c.now, opened: c.store})
	return f, c
}

func (f *fixture) sweep(c *clock) { f.relay.sweep(f.t.Context(), c.now()) }

func TestAnAnswerThatIsNotConfirmedIsGivenUpAfterAMinute(t *testing.T) {
	t.Parallel()
	f, c := timed(t)
	ana := f.sit(f.ana)
	told := listen(t, ana.nc, wire.ProjectSubject("rocket"))
	j := f.accepted(rocketRepo, "rocket")
	m, r := ana.answer(j, 1)
	must(t, r)
	c.move(lifecycle.UndeliveredAfter - 5*time.Second)
	f.sweep(c)
	if s := must(t, j.state()); s.State != "answered" || s.Attempt != 1 {
		t.Errorf("%+v", s)
	}
	everything(t, told)
	everything(t, j.hints)
	c.move(6 * time.Second)
	f.sweep(c)
	hint(t, told, changeOf(j))
	hint(t, j.hints, changeOf(j))
	if s := must(t, j.state()); s.State != "pending" || s.Attempt != 2 || s.Reason != "undelivered" {
		t.Errorf("%+v", s)
	}
	// A receipt counts in any state: the job had it all along.
	if s := must(t, j.got(1, m.Sealed.Hash())); s.State != "delivered" {
		t.Errorf("%+v", s)
	}
}

func TestARequestEndsAtItsDeadline(t *testing.T) {
	t.Parallel()
	f, c := timed(t)
	ana := f.sit(f.ana)
	j := f.accepted(rocketRepo, "rocket")
	c.move(30*time.Minute - 5*time.Second)
	must(t, j.state())
	f.sweep(c)
	if s := must(t, j.state()); s.State != "pending" {
		t.Errorf("%+v", s)
	}
	c.move(10 * time.Second)
	// Also where the clock has not come round yet.
	_, r := ana.answer(j, 1)
	if r.Refused == nil || r.Refused.Code != wire.RefusedEnded {
		t.Errorf("answered after the deadline: %+v", r)
	}
	f.sweep(c)
	if s := must(t, j.state()); s.State != "expired" {
		t.Errorf("%+v", s)
	}
	hint(t, j.hints, changeOf(j))
	if p := ana.pending(); len(p.Items) != 0 {
		t.Errorf("%+v", p)
	}
}

func TestAJobThatIsGoneIsAskedAndThenLost(t *testing.T) {
	t.Parallel()
	f, c := timed(t)
	gone, alive, had := f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket")
	ana := f.sit(f.ana)
	m, r := ana.answer(had, 1)
	must(t, r)
	must(t, had.got(1, m.Sealed.Hash()))
	state := func(j *job) lifecycle.State {
		recs := records(t, f.relay, j.pub)
		return recs[len(recs)-1].State
	}
	for _, j := range []*job{gone, alive, had} {
		everything(t, j.hints)
	}
	c.move(lifecycle.LostAsk - 5*time.Second)
	f.sweep(c)
	if text := everything(t, gone.hints); text != "" {
		t.Errorf("asked already: %s", text)
	}
	c.move(6 * time.Second)
	f.sweep(c)
	for _, j := range []*job{gone, alive} {
		hint(t, j.hints, changeOf(j)) // "are you there?"
	}
	must(t, alive.state())
	c.move(lifecycle.LostAfter - 5*time.Second)
	f.sweep(c)
	if s := state(gone); s != lifecycle.StatePending {
		t.Errorf("lost before its time: %s", s)
	}
	c.move(6 * time.Second)
	f.sweep(c)
	if s := state(gone); s != lifecycle.StateCancelled {
		t.Errorf("not lost: %s", s)
	}
	if s := state(alive); s != lifecycle.StatePending {
		t.Errorf("it has said that it is there, and is %s", s)
	}
	// Who had the code may have used it: nobody knows.
	recs := records(t, f.relay, had.pub)
	if last := recs[len(recs)-1]; last.State != lifecycle.StateDone || last.Outcome != lifecycle.OutcomeUnknown {
		t.Errorf("%s %s", last.State, last.Outcome)
	}
	if s := must(t, gone.state()); s.State != "cancelled" || s.Why != "lost" {
		t.Errorf("%+v", s)
	}
}

// Relays take turns in answering, so that most of a job's signs of life go to
// others: a relay that only counted its own would end living jobs.
func TestAJobIsHeardByEveryRelay(t *testing.T) {
	t.Parallel()
	x := newExternal(t, false)
	x.run(t)
	var c clock
	f := newFixture(t)
	f.server = x.server
	f.start(f.configText(t.TempDir(), x.section(0)), Options{Now: c.now, opened: c.store})
	g := f.second(f.configText(t.TempDir(), x.section(1)), Options{Now: c.now, opened: c.store})
	j := f.accepted(rocketRepo, "rocket")
	for _, r := range []*Relay{f.relay, g.relay} {
		eventually(t, "it is in each index", func() bool { _, ok := r.store.recent(j.pub); return ok })
	}
	for range 8 {
		c.move(lifecycle.LostAsk - 10*time.Second)
		at := c.now()
		must(t, j.state())
		for _, r := range []*Relay{f.relay, g.relay} {
			eventually(t, "each relay has heard it", func() bool { return !r.heard.last(j.pub).Before(at) })
		}
		f.sweep(&c)
		g.sweep(&c)
	}
	if s := must(t, j.state()); s.State != "pending" {
		t.Errorf("%+v", s)
	}
}

func TestARelayWhoseClockIsOffEndsNothing(t *testing.T) {
	t.Parallel()
	c, leader := &clock{}, &clock{}
	f := newFixture(t)
	dir := t.TempDir()
	var dumb atomic.Bool
	o := Options{Now: c.now, opened: func(s *store) {
		leader.store(s)
		tells := s.clock
		s.clock = func(ctx context.Context) (time.Time, error) {
			if dumb.Load() {
				return time.Time{}, errors.New("no answer")
			}
			return tells(ctx)
		}
	}}
	f.start(f.configText(dir, onLoopback), o)
	ana := f.sit(f.ana)
	waits, answered := f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket")
	_, r := ana.answer(answered, 1)
	must(t, r)
	states := func() string {
		var out []string
		for _, j := range []*job{waits, answered} {
			recs := records(t, f.relay, j.pub)
			out = append(out, string(recs[len(recs)-1].State))
		}
		return strings.Join(out, " ")
	}
	c.move(time.Hour)
	f.sweep(c)
	if s := states(); s != "pending answered" {
		t.Errorf("ended by a clock that is an hour ahead: %s", s)
	}
	f.log.line(t, "ERROR", "this relay's clock is off the store's; it ends nothing by time until it is right", "by=1h0m0")

	// Also right after its start, before it has written anything by which it
	// could have found out.
	f.relay.Close()
	f.start(f.configText(dir, onLoopback), o)
	f.sweep(c)
	if s := states(); s != "pending answered" {
		t.Errorf("ended after a start: %s", s)
	}
	// A store that does not say what time it is, is no reason to end anything.
	dumb.Store(true)
	f.sweep(c)
	if s := states(); s != "pending answered" {
		t.Errorf("ended unasked: %s", s)
	}
	// The control: the store's clock says the same.
	dumb.Store(false)
	leader.move(time.Hour)
	f.sweep(c)
	if s := states(); s != "expired expired" {
		t.Errorf("not ended by a right clock: %s", s)
	}
}

func TestTheStoresOwnClockIsTheStreamLeaders(t *testing.T) {
	t.Parallel()
	for _, off := range []time.Duration{0, 4 * time.Second, 6 * time.Second, -6 * time.Second, -time.Hour} {
		f := newFixture(t)
		f.start(f.configText(t.TempDir(), onLoopback), Options{Now: func() time.Time { return time.Now().Add(off) }})
		by, is := f.relay.store.clockOff(t.Context())
		if want := off.Abs() > 5*time.Second; is != want {
			t.Errorf("off by %s: %v (%s)", off, is, by)
		}
	}
}

func TestTheRecordIsAChainThatHoldsWhatEachSideSigned(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	ana, bob := f.sit(f.ana), f.sit(f.bob)
	j := f.accepted(rocketRepo, "rocket")
	must(t, bob.say(wire.VerbOpen, f.bob.openMessage(t, j)))
	m, r := ana.answer(j, 1)
	must(t, r)
	must(t, j.got(1, m.Sealed.Hash()))
	must(t, j.step(&wire.Rejected{Key: j.pub, Digest: j.dig, Attempt: 1, Why: wire.RejectedRefused}))
	m2, r := ana.answer(j, 2)
	must(t, r)
	must(t, j.got(2, m2.Sealed.Hash()))
	must(t, j.done(2))

	raw := history(t, f.relay, j.pub)
	recs := records(t, f.relay, j.pub)
	ops := map[string]bool{}
	check := func(n int, event lifecycle.Event, open func(wire.Envelope) error) {
		t.Helper()
		rec := recs[n]
		if rec.Event != event {
			t.Errorf("record %d is %s, not %s", n, rec.Event, event)
		}
		want := ""
		if n > 0 {
			want = lifecycle.Hash(raw[n-1])
		}
		if rec.Prev != want {
			t.Errorf("%s: the hash of the record before is %q, not %q", event, rec.Prev, want)
		}
		if ops[rec.Op] {
			t.Errorf("%s: operation %s stands there twice", event, rec.Op)
		}
		ops[rec.Op] = true
		if !strings.Contains(string(rec.Request), quoted(t, j.env.Sig)) || rec.Digest != j.dig.String() || rec.Rule != "rocket/ci[0] line 7" || rec.Project != "rocket" {
			t.Errorf("%s: it is not whole: %+v", event, rec)
		}
		cause := rec.Cause
		if event == lifecycle.EventAsked {
			cause = rec.Request
		}
		env, err := wire.DecodeEnvelope(cause)
		if err == nil {
			err = open(env)
		}
		if err != nil {
			t.Errorf("%s: what caused it: %v", event, err)
		}
	}
	if len(recs) != 8 {
		t.Fatalf("%d records", len(recs))
	}
	check(0, "asked", opens[wire.Request](j.pub))
	check(1, "opened", opens[wire.Challenge](f.bob.signer()))
	check(2, "answered", opens[wire.Answer](f.ana.signer()))
	check(3, "got", opens[wire.Got](j.pub))
	check(4, "rejected", opens[wire.Rejected](j.pub))
	check(5, "answered", opens[wire.Answer](f.ana.signer()))
	check(6, "got", opens[wire.Got](j.pub))
	check(7, "done", opens[wire.Done](j.pub))
	if last := recs[7]; last.Outcome != lifecycle.OutcomeOK || last.ByName != "Ana" || last.Sealed != m2.Sealed.Hash().String() {
		t.Errorf("%+v", last)
	}
}

func opens[B any, P interface {
	*B
	wire.Body
}](key string) func(wire.Envelope) error {
	return func(e wire.Envelope) error {
		_, err := wire.Open[B, P](e, key)
		return err
	}
}

// The record is what refuses a request the second time, so nobody may be able to
// take anything out of it: not even a relay.
func TestNothingCanBeTakenOutOfTheRecord(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		j := f.accepted(rocketRepo, "rocket")
		s := f.relay.store.stream
		info, err := s.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if c := info.Config; c.Discard != jetstream.DiscardNew || c.MaxAge < 30*24*time.Hour || !c.DenyDelete || !c.DenyPurge || c.AllowDirect || c.AllowRollup || c.Storage != jetstream.FileStorage || c.MaxBytes <= 0 || c.MaxMsgsPerSubject > 0 || c.MaxMsgs > 0 {
			t.Errorf("%+v", c)
		}
		if err := s.DeleteMsg(t.Context(), info.State.LastSeq); err == nil || !strings.Contains(err.Error(), "message delete not permitted") {
			t.Errorf("delete: %v", err)
		}
		if err := s.SecureDeleteMsg(t.Context(), info.State.LastSeq); err == nil {
			t.Error("erased")
		}
		if err := s.Purge(t.Context()); err == nil || !strings.Contains(err.Error(), "not permitted") {
			t.Errorf("purge: %v", err)
		}
		if err := s.Purge(t.Context(), jetstream.WithPurgeSubject(requestPrefix+j.pub)); err == nil {
			t.Error("purged")
		}
		// Nor let in by a change of the stream.
		open := info.Config
		open.DenyDelete, open.DenyPurge = false, false
		if _, err := f.relay.store.js.UpdateStream(t.Context(), open); err == nil {
			t.Error("the stream was opened for deletion")
		}
		// An append that names another state of affairs is refused.
		_, err = f.relay.store.js.PublishMsg(t.Context(), &nats.Msg{Subject: requestPrefix + j.pub, Data: []byte("{}")}, jetstream.WithExpectLastSequencePerSubject(info.State.LastSeq+7))
		if err == nil || !strings.Contains(err.Error(), "wrong last sequence") {
			t.Errorf("append: %v", err)
		}
		must(t, j.state())
	})
}

func TestAnApprovalByTwoTakesTwoPeople(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	ana, bob := f.sit(f.ana), f.sit(f.bob)
	j := f.job(rocketRepo, "rocket")
	j.ask("rocket", func(q *wire.Request) {
		q.Ask, q.Format, q.Approvals, q.Responders = wire.AskApproval, "any", 2, []string{f.ana.signer(), f.bob.signer()}
		q.Message, q.Artifacts = "publish 1.2.3", []wire.Artifact{{Name: "rocket-1.2.3.tgz", SHA256: wire.Digest{7}, Size: 5}}
	})
	j.connect()
	must(t, j.send(j.nc))
	yes := func(s *seat, attempt int) wire.Reply {
		t.Helper()
		return s.say(wire.VerbAnswer, wire.AnswerMessage{Key: j.pub, Answer: sign(t, &wire.Answer{
			Key: s.signer(), Digest: j.dig, Attempt: attempt, Ask: wire.AskApproval, Decision: wire.DecisionYes, At: 1_795_000_600, Receipt: make([]byte, 64)}, s.sign)})
	}
	if s := must(t, yes(ana, 1)); s.State != "pending" || s.Attempt != 1 {
		t.Errorf("%+v", s)
	}
	// The job must see whose yes it is before it signs that it wants another.
	if s := must(t, j.state()); s.Answer == nil || s.By != "Ana" || opens[wire.Answer](f.ana.signer())(*s.Answer) != nil {
		t.Errorf("the first yes is not shown: %+v", s)
	}
	hint(t, j.hints, changeOf(j))
	refused(t, yes(bob, 1), wire.RefusedTaken, "Ana answered first")
	if s := must(t, j.step(&wire.Next{Key: j.pub, Digest: j.dig, Attempt: 1})); s.Attempt != 2 || s.Reason != "next" || s.Answer != nil || s.By != "" {
		t.Errorf("%+v", s)
	}
	refused(t, yes(ana, 2), wire.RefusedNotYours, "this key has already agreed to it")
	if s := must(t, yes(bob, 2)); s.State != "done" || s.Answer == nil || opens[wire.Answer](f.bob.signer())(*s.Answer) != nil {
		t.Errorf("%+v", s)
	}
	// What the job says after that changes nothing and is acknowledged.
	if s := must(t, j.done(2)); s.State != "done" {
		t.Errorf("%+v", s)
	}
	// The record holds what was approved, as it was signed.
	for _, rec := range records(t, f.relay, j.pub) {
		q, err := wire.Open[wire.Request](decode(t, rec.Request), j.pub)
		if err != nil || len(q.Artifacts) != 1 || q.Artifacts[0].SHA256 != (wire.Digest{7}) {
			t.Errorf("%v, %+v", err, q.Artifacts)
		}
	}
	recs := records(t, f.relay, j.pub)
	last := recs[len(recs)-1]
	if len(last.Yes) != 2 || opens[wire.Answer](f.ana.signer())(decode(t, last.Yes[0].Envelope)) != nil || opens[wire.Answer](f.bob.signer())(decode(t, last.Yes[1].Envelope)) != nil {
		t.Errorf("both signed answers are not in the record: %+v", last.Yes)
	}
}

func decode(t testing.TB, data []byte) wire.Envelope {
	t.Helper()
	env, err := wire.DecodeEnvelope(data)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func TestALinkIsDoneWhenItsJobSaysSo(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	ana := f.sit(f.ana)
	j := f.job(rocketRepo, "rocket")
	j.ask("rocket", func(q *wire.Request) { q.Ask, q.Format = wire.AskLink, "any" })
	j.connect()
	must(t, j.send(j.nc))
	_, r := ana.answer(j, 1)
	refused(t, r, wire.RefusedMalformed, "another kind of request")
	if s := must(t, j.done(1)); s.State != "done" {
		t.Errorf("%+v", s)
	}
}

func TestALinkIsPassedOnToKnownHostsOnly(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	text := strings.Replace(f.configText(t.TempDir(), onLoopback), "  rocket:\n", "  rocket:\n    open-per-run: 3\n    links: [registry.example.com]\n", 1)
	f.start(text, Options{LinkPath: func(service, host string) (string, bool) {
		path, known := map[string]string{"npm www.npmjs.com": "/auth/cli/", "rubygems rubygems.org": "/webauthn_verification/"}[service+" "+host]
		return path, known
	}})
	ana := f.sit(f.ana)
	ask := func(service, kind string) (*job, wire.Challenge) {
		t.Helper()
		j := f.job(rocketRepo, "rocket")
		j.ask("rocket", func(q *wire.Request) {
			if q.Service = service; kind != wire.AskCode {
				q.Ask, q.Format = kind, "any"
			}
			if kind == wire.AskApproval {
				q.Message, q.Responders = "yes?", []string{f.ana.signer()}
			}
		})
		j.connect()
		must(t, j.send(j.nc))
		must(t, ana.say(wire.VerbOpen, f.ana.openMessage(t, j)))
		h := hint(t, j.hints, func(h wire.Hint) bool { return h.Hint == wire.HintChallenge })
		ch, err := wire.Open[wire.Challenge](*h.Envelope, f.ana.signer())
		if err != nil {
			t.Fatal(err)
		}
		return j, ch
	}
	alive := func(j *job, ch wire.Challenge, link string) wire.Reply {
		t.Helper()
		a := &wire.Alive{Key: j.pub, Digest: j.dig, Attempt: 1, Reason: wire.ReasonFirst, Nonce: ch.Nonce, Connect: ch.Connect, Responder: ch.Key, Link: link}
		return request(t, j.nc, wire.JobSubject(j.pub, wire.VerbAlive), wire.AliveMessage{Token: j.token, Alive: sign(t, a, j.key)})
	}
	npm, ch := ask("npm", wire.AskLink)
	for _, link := range []string{
		"https://evil.example/auth/cli/1", "https://npmjs.com/auth/cli/1", "https://a.www.npmjs.com/auth/cli/1", "https://www.npmjs.com.evil.example/", "https://www.npmjs.com:8443/auth/cli/1",
		"https://rubygems.org/webauthn_verification/1",
	} {
		refused(t, alive(npm, ch, link), wire.RefusedPolicy, "which is no host of the service npm", "projects.rocket.links")
	}
	// At the host that is known, the login is another page, and no advice is to allow it.
	for _, link := range []string{"https://www.npmjs.com/login?next=/login/cli/1", "https://www.npmjs.com/auth/cli/../../login", "https://www.npmjs.com"} {
		refused(t, alive(npm, ch, link), wire.RefusedPolicy, "not to a page under /auth/cli/", "find out what in this job shows such a link")
	}
	// A link that was refused has used nothing up.
	must(t, alive(npm, ch, "https://www.npmjs.com/auth/cli/1"))
	hint(t, ana.hints, func(h wire.Hint) bool { return h.Hint == wire.HintAlive && h.Key == npm.pub })
	private, ch := ask("generic", wire.AskLink)
	refused(t, alive(private, ch, "https://www.npmjs.com/auth/cli/1"), wire.RefusedPolicy, "no host of the service generic")
	must(t, alive(private, ch, "https://registry.example.com/login/1")) // allowed by name, any page of it
	code, ch := ask("npm", wire.AskCode)
	refused(t, alive(code, ch, "https://www.npmjs.com/auth/cli/1"), wire.RefusedMalformed, "asks for none")
	yes, ch := ask("npm", wire.AskApproval)
	refused(t, alive(yes, ch, "https://www.npmjs.com/auth/cli/1"), wire.RefusedMalformed, "asks for none")
	must(t, alive(yes, ch, ""))
}

// Only the keys that the workflow pins may answer, whoever else is enrolled.
func TestAPinnedRequestTakesNobodyElsesAnswer(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	ana, bob := f.sit(f.ana), f.sit(f.bob)
	j := f.job(rocketRepo, "rocket")
	j.ask("rocket", func(q *wire.Request) { q.Responders = []string{f.bob.signer()} })
	j.connect()
	if s := must(t, j.send(j.nc)); s.Enrolled != 1 {
		t.Errorf("%+v", s)
	}
	const why = "this request accepts answers of other responders only"
	refused(t, ana.say(wire.VerbOpen, f.ana.openMessage(t, j)), wire.RefusedNotYours, why)
	_, r := ana.answer(j, 1)
	refused(t, r, wire.RefusedNotYours, why)
	refused(t, ana.say(wire.VerbDecline, f.ana.declineMessage(t, j, 1, "")), wire.RefusedNotYours, why)
	must(t, bob.say(wire.VerbOpen, f.bob.openMessage(t, j)))
	_, r = bob.answer(j, 1)
	must(t, r)
}
