package answer

// A human who is away is not disturbed, and loses nothing.

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/continuousauth/action/internal/answer/answertest"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

func (o *office) away(until time.Time) {
	o.t.Helper()
	if err := o.desk.Away(context.Background(), until); err != nil {
		o.t.Fatal(err)
	}
	synctest.Wait()
}

func (o *office) wantTold(want ...Absence) {
	o.t.Helper()
	same := func(a, b Absence) bool { return a.Until.Equal(b.Until) }
	if got := o.human.told(); !slices.EqualFunc(got, want, same) {
		o.t.Errorf("told %v, want %v", got, want)
	}
}

// ask is a request that has arrived at the desk.
func (o *office) ask() *answertest.Job {
	o.t.Helper()
	j := gullibleJob(o.t, project, repo, nil)
	o.relay.Ask(j)
	time.Sleep(time.Second)
	synctest.Wait()
	return j
}

func TestWhatComesWhileAwayIsQuietUntilTheReturn(t *testing.T) {
	t.Parallel()
	for _, back := range []string{"said", "by itself", "looked at", "said elsewhere"} {
		t.Run(back, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := inMemory(t)
				o.run()
				before := o.ask()
				o.human.wait(t, before.ID(), "verified", standing(Verified))
				until := time.Now().Add(20 * time.Minute).Truncate(time.Second)
				o.away(until)
				o.wantTold(Absence{until})
				j := o.ask()
				time.Sleep(time.Minute)
				if p := o.human.wait(t, j.ID(), "there", phase(Asking)); !p.Quiet || p.Standing != Unopened {
					t.Errorf("%+v", p)
				}
				// What was shown already stays.
				if p := o.human.wait(t, before.ID(), "verified", standing(Verified)); p.Quiet {
					t.Errorf("%+v", p)
				}
				opened := func() (n int) {
					for _, m := range o.relay.Messages(wire.VerbOpen) {
						if strings.Contains(string(m.Data), j.ID()) {
							n++
						}
					}
					return n
				}
				if opened() != 0 {
					t.Error("it was opened")
				}
				switch back {
				case "said":
					o.away(time.Time{})
					o.wantTold(Absence{until}, Absence{})
				case "by itself":
					time.Sleep(time.Until(until) - time.Millisecond)
					synctest.Wait()
					o.wantTold(Absence{until})
					time.Sleep(time.Millisecond)
					synctest.Wait()
					o.wantTold(Absence{until}, Absence{})
				case "looked at":
					o.desk.Open(j.ID())
				case "said elsewhere":
					env, err := wire.SignAway(o.keys.sign, relayName, time.Now(), time.Time{}, time.Time{})
					if err != nil {
						t.Fatal(err)
					}
					conn := o.relay.Dial(o.desk.connect)
					if _, err := conn.Request(t.Context(), wire.DeskSubject(o.desk.connect, wire.VerbAway), wire.AwayMessage{Away: &env}); err != nil {
						t.Fatal(err)
					}
					time.Sleep(2 * wire.ReRead)
					synctest.Wait()
					o.wantTold(Absence{until}, Absence{})
				}
				p := o.human.wait(t, j.ID(), "verified", standing(Verified))
				if p.Quiet || opened() == 0 {
					t.Errorf("%+v", p)
				}
				// Away or not.
				if err := o.desk.Answer(t.Context(), Answer{ID: j.ID(), Attempt: 1, Code: code, Match: seal.Match(j.Digest)}); err != nil {
					t.Error(err)
				}
				if got := received(t, j); got != code {
					t.Errorf("the job has %q", got)
				}
			})
		})
	}
}

func TestARestartedResponderLearnsThatItsHumanIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		until := time.Now().Add(time.Hour)
		env, err := wire.SignAway(o.keys.sign, relayName, time.Now(), until, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		conn := o.relay.Dial(o.desk.connect)
		if _, err := conn.Request(t.Context(), wire.DeskSubject(o.desk.connect, wire.VerbAway), wire.AwayMessage{Away: &env}); err != nil {
			t.Fatal(err)
		}
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j) // with the same page
		o.run()
		if p := o.human.wait(t, j.ID(), "there", phase(Asking)); !p.Quiet {
			t.Errorf("%+v", p)
		}
		o.wantTold(Absence{until})
	})
}

// A relay can keep prompts from a human anyway; it cannot do it in their name.
func TestOnlyItsOwnWordSilencesAResponder(t *testing.T) {
	t.Parallel()
	stranger := newOffice(t).keys.sign
	for name, c := range map[string]func(o *office) (wire.Envelope, error){
		"another's": func(*office) (wire.Envelope, error) {
			return wire.SignAway(stranger, relayName, time.Now(), time.Now().Add(time.Hour), time.Time{})
		},
		"said to another relay": func(o *office) (wire.Envelope, error) {
			return wire.SignAway(o.keys.sign, "other.test", time.Now(), time.Now().Add(time.Hour), time.Time{})
		},
		"over": func(o *office) (wire.Envelope, error) {
			return wire.SignAway(o.keys.sign, relayName, time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour), time.Time{})
		},
		"older than the return": func(o *office) (wire.Envelope, error) {
			return wire.SignAway(o.keys.sign, relayName, time.Now().Add(-time.Minute), time.Now().Add(time.Hour), time.Time{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := inMemory(t)
				o.run()
				time.Sleep(time.Second)
				o.away(time.Time{})
				time.Sleep(time.Minute)
				env, err := c(o)
				if err != nil {
					t.Fatal(err)
				}
				if name == "older than the return" {
					o.away(time.Time{})
				}
				o.relay.Do(func() {
					o.relay.OnMessage = func(m answertest.Message, r *wire.Reply) bool {
						if r.Page != nil {
							r.Page.Away = &env
						}
						return true
					}
				})
				time.Sleep(time.Minute)
				j := o.ask()
				o.human.wait(t, j.ID(), "verified", standing(Verified))
				o.wantTold()
			})
		})
	}
}

// As one does whose record was restored from a backup: it passes over a human who is
// back, and says nothing of it.
func TestARelayThatHasForgottenTheReturnIsToldAgain(t *testing.T) {
	t.Parallel()
	for _, name := range []string{relayName, "older.test"} { // or whose relay had another name then
		synctest.Test(t, func(t *testing.T) { toldAgain(t, name) })
	}
}

func toldAgain(t *testing.T, name string) {
	t.Helper()
	o := inMemory(t)
	o.run()
	time.Sleep(time.Second)
	env, err := wire.SignAway(o.keys.sign, name, time.Now(), time.Now().Add(time.Hour), time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	o.away(time.Time{})
	time.Sleep(time.Minute)
	said, heard := len(o.relay.Messages(wire.VerbAway)), false
	o.relay.Do(func() {
		o.relay.OnMessage = func(m answertest.Message, r *wire.Reply) bool {
			if heard = heard || m.Verb == wire.VerbAway; r.Page != nil && !heard {
				r.Page.Away = &env
			}
			return true
		}
	})
	time.Sleep(time.Minute)
	again := o.relay.Messages(wire.VerbAway)[said:]
	if len(again) != 1 {
		t.Fatalf("it was said %d times", len(again))
	}
	var m wire.AwayMessage
	if err := wire.Decode(again[0].Data, wire.MaxMessage, &m); err != nil {
		t.Fatal(err)
	}
	if a, err := wire.Open[wire.Away](*m.Away, wire.PublicKey(o.keys.sign)); err != nil || !a.Back() {
		t.Errorf("%+v, %v", a, err)
	}
	o.wantTold()
}

func TestAnAbsenceIsSaidUntilItIsHeard(t *testing.T) {
	t.Parallel()
	t.Run("not taken twice", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			o := inMemory(t)
			n := 0
			o.relay.Refuse = func(m answertest.Message) *wire.Refusal {
				if m.Verb != wire.VerbAway {
					return nil
				}
				if n++; n > 2 {
					return nil
				}
				return &wire.Refusal{Code: wire.RefusedBusy, Why: "not now"}
			}
			o.run()
			until := time.Now().Add(time.Hour)
			o.away(until)
			time.Sleep(time.Minute)
			o.wantTold(Absence{until})
			sent := o.relay.Messages(wire.VerbAway)
			if len(sent) != 3 || string(sent[0].Data) != string(sent[2].Data) {
				t.Errorf("said %d times, or in different words", len(sent))
			}
		})
	})
	t.Run("all replies lost, and shown in a page", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			o := inMemory(t)
			o.relay.OnMessage = func(m answertest.Message, _ *wire.Reply) bool { return m.Verb != wire.VerbAway }
			o.run()
			until := time.Now().Add(time.Hour)
			o.away(until)
			time.Sleep(5 * time.Minute)
			o.wantTold(Absence{until})
			o.human.mu.Lock()
			defer o.human.mu.Unlock()
			if len(o.human.notices) != 1 { // that it is connected
				t.Errorf("%q", o.human.notices)
			}
		})
	})
	t.Run("never", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			o := inMemory(t)
			o.relay.Refuse = func(m answertest.Message) *wire.Refusal {
				if m.Verb != wire.VerbAway {
					return nil
				}
				return &wire.Refusal{Code: wire.RefusedBusy, Why: "not now"}
			}
			o.run()
			o.away(time.Now().Add(time.Hour))
			o.human.noticed(t, func(n string) bool { return n == "the relay could not be told that you are away; say it again" })
			j := o.ask() // so nobody counts on an absence that nobody knows of
			o.human.wait(t, j.ID(), "verified", standing(Verified))
		})
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			o := inMemory(t)
			o.relay.Refuse = func(m answertest.Message) *wire.Refusal {
				if m.Verb != wire.VerbAway {
					return nil
				}
				return &wire.Refusal{Code: wire.RefusedLimit, Why: "too often"}
			}
			o.run()
			o.away(time.Now().Add(time.Hour))
			o.human.noticed(t, func(n string) bool { return n == "the relay does not take that you are away: too often" })
			o.wantTold()
		})
	})
	t.Run("after a later word that is not known here", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			o := inMemory(t)
			env, err := wire.SignAway(o.keys.sign, relayName, time.Now().Add(time.Minute), time.Now().Add(2*time.Hour), time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			conn := o.relay.Dial(o.desk.connect)
			if _, err := conn.Request(t.Context(), wire.DeskSubject(o.desk.connect, wire.VerbAway), wire.AwayMessage{Away: &env}); err != nil {
				t.Fatal(err)
			}
			pages := false
			o.relay.OnMessage = func(m answertest.Message, _ *wire.Reply) bool { return pages || m.Verb != wire.VerbPending }
			o.run()
			until := time.Now().Add(time.Hour)
			o.away(until)
			time.Sleep(time.Second)
			synctest.Wait()
			if got := o.human.told(); len(got) == 0 || !got[len(got)-1].Until.Equal(until) {
				t.Errorf("told %v", got)
			}
		})
	})
	t.Run("the newest is meant", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			o := inMemory(t)
			o.run()
			o.away(time.Now().Add(time.Hour))
			o.away(time.Time{}) // in the same millisecond
			j := o.ask()
			o.human.wait(t, j.ID(), "verified", standing(Verified))
		})
	})
}

func TestAnAbsenceEndsLaterAndNotTooLate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.run()
		for _, bad := range []time.Duration{-time.Second, 0, wire.LongestAway + time.Second, 100 * 365 * 24 * time.Hour} {
			if err := o.desk.Away(t.Context(), time.Now().Add(bad)); !errors.Is(err, ErrUntil) {
				t.Errorf("%s: %v", bad, err)
			}
		}
		if err := o.desk.Away(t.Context(), time.Now().Add(wire.LongestAway)); err != nil {
			t.Error(err)
		}
	})
}
