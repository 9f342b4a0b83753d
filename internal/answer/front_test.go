package answer

// Several relays before one human, and guests who come and go.

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/continuousauth/action/internal/answer/answertest"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/wire"
)

// twoRelays starts a front at two relays in memory.
func twoRelays(t *testing.T, askers ...Asker) (f *Front, one, two *answertest.Relay, done chan error) {
	t.Helper()
	o := newOffice(t)
	f = &Front{askers: askers, desks: map[string]*Desk{}, abort: make(chan struct{}), numbers: map[string]int{}, waits: map[string]Prompt{}}
	for _, name := range []string{relayName, "other.test"} {
		r := answertest.NewRelay(name)
		r.Enrol(wire.PublicKey(o.keys.connect), "ada")
		c := o.config(Trust{Verifier: &gullible{bound: true}, Pins: pins(t, "github", repo)})
		c.Askers = []Asker{feed{f, name}}
		d := newDesk(c, name)
		d.dial = func(context.Context) (relayConn, error) {
			refuse := false
			r.Do(func() { refuse = r.Refuse != nil })
			if refuse {
				return nil, dial.ErrRefused
			}
			return r.Dial(wire.PublicKey(o.keys.connect)), nil
		}
		f.desks[name], f.relays = d, append(f.relays, name)
		if one == nil {
			one = r
		} else {
			two = r
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	done = make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		for _, d := range f.desks {
			<-d.done
		}
	})
	return f, one, two, done
}

func TestAFrontSendsEachAnswerToTheRelayThatAsked(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		human := newScribe()
		f, one, two, _ := twoRelays(t, human)
		a := gullibleJob(t, project, repo, nil)
		b := gullibleJob(t, project, repo, func(r *wire.Request) { r.Relay = "other.test" })
		one.Ask(a)
		pa := human.wait(t, a.ID()+"@"+relayName, "verified", standing(Verified))
		two.Ask(b)
		pb := human.wait(t, b.ID()+"@other.test", "verified", standing(Verified))
		if pa.Number == pb.Number {
			t.Errorf("both are #%d", pa.Number)
		}
		if err := f.Answer(t.Context(), Answer{ID: pa.ID, Attempt: 1, Code: code}); err != nil {
			t.Fatal(err)
		}
		if got := received(t, a); got != code {
			t.Errorf("the job got %q", got)
		}
		synctest.Wait()
		if got := b.Codes(); len(got) != 0 {
			t.Errorf("the other relay's job got %q", got)
		}
		if err := f.Decline(t.Context(), pb.ID, "not mine"); err != nil {
			t.Fatal(err)
		}
		human.wait(t, pb.ID, "over", phase(Over))
		if n := len(one.Messages(wire.VerbDecline)); n != 0 {
			t.Errorf("the decline went to the wrong relay")
		}
	})
}

// A relay that repeats another's request gets a prompt of its own, which cannot be
// answered, and takes nothing from the true one.
func TestARelayThatRepeatsAnothersRequestGetsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		human := newScribe()
		f, one, two, _ := twoRelays(t, human)
		j := gullibleJob(t, project, repo, nil)
		two.Ask(j)
		theirs := human.wait(t, j.ID()+"@other.test", "shown", func(p Prompt) bool { return strings.Contains(p.Why, "made for another relay") })
		one.Ask(j)
		human.wait(t, j.ID()+"@"+relayName, "verified", standing(Verified))
		if err := f.Answer(t.Context(), Answer{ID: theirs.ID, Attempt: 1, Code: code}); !errors.Is(err, ErrNotAnswerable) {
			t.Errorf("answering the repeated one: %v", err)
		}
		for _, id := range []string{j.ID(), j.ID() + "@third.test", "@", ""} {
			if err := f.Answer(t.Context(), Answer{ID: id, Attempt: 1, Code: code}); !errors.Is(err, ErrNotAnswerable) {
				t.Errorf("answering %q: %v", id, err)
			}
		}
		if _, err := f.AnswerAll(t.Context(), Together{Members: []Member{{theirs.ID, 1}, {j.ID() + "@" + relayName, 1}}, Code: code}); !errors.Is(err, ErrNotAnswerable) {
			t.Errorf("answering at two relays at once: %v", err)
		}
		if got := j.Codes(); len(got) != 0 {
			t.Errorf("the job got %q", got)
		}
	})
}

func TestARelayThatRefusesEndsItsOwnDeskOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		human := newScribe()
		f, one, two, done := twoRelays(t, human)
		j := gullibleJob(t, project, repo, func(r *wire.Request) { r.Relay = "other.test" })
		two.Ask(j)
		p := human.wait(t, j.ID()+"@other.test", "verified", standing(Verified))
		two.Do(func() { two.Refuse = func(answertest.Message) *wire.Refusal { return nil } })
		two.Cut()
		over := human.wait(t, p.ID, "over", phase(Over))
		if over.Why != "this responder has left its relay" {
			t.Errorf("why: %q", over.Why)
		}
		human.noticed(t, func(n string) bool { return strings.Contains(n, "nothing is shown of the relay other.test any more") })
		k := gullibleJob(t, project, repo, nil)
		one.Ask(k)
		human.wait(t, k.ID()+"@"+relayName, "verified", standing(Verified))
		if l := f.Lines(); !l[0].Connected || l[1].Connected || l[1].Why == "" {
			t.Errorf("lines: %+v", l)
		}
		select {
		case err := <-done:
			t.Errorf("ended with %v", err)
		default:
		}
		human.leave <- nil
		if err := <-done; err != nil {
			t.Errorf("ended with %v", err)
		}
	})
}

func TestAPatientDeskIsLetInWhenItIsEnrolled(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.desk.config.Patient = true
		var in atomic.Bool
		dialled := o.desk.dial
		o.desk.dial = func(ctx context.Context) (relayConn, error) {
			if !in.Load() {
				return nil, dial.ErrRefused
			}
			return dialled(ctx)
		}
		o.run()
		o.human.noticed(t, func(n string) bool { return strings.Contains(n, "tried again every 30s") })
		in.Store(true)
		o.human.noticed(t, func(n string) bool { return strings.HasPrefix(n, "connected to the relay") })
	})
}

func TestAGuestOfTheLobbySeesWhatWaitsAndLeavesAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		l := NewLobby()
		o.desk.config.Askers = append(o.desk.config.Askers, l)
		o.run()
		j := gullibleJob(t, project, repo, nil)
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "verified", standing(Verified))
		for range 2 { // who comes late, and who comes again
			ctx, leave := context.WithCancel(context.Background())
			news, desk, err := l.Join(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for n := range news {
				if n.Prompt != nil && n.Prompt.Answerable {
					break
				}
			}
			desk.Open(j.ID())
			leave()
			synctest.Wait()
		}
		if n := len(l.guests); n != 0 {
			t.Errorf("%d guests are still there", n)
		}
		if w := l.Waiting(); len(w) != 1 || w[0].ID != j.ID() {
			t.Errorf("waiting: %+v", w)
		}
		news, _, _ := l.Join(t.Context())
		if err := o.desk.Decline(t.Context(), j.ID(), ""); err != nil {
			t.Fatal(err)
		}
		o.human.wait(t, j.ID(), "over", phase(Over))
		synctest.Wait()
		if past := l.Past(); len(past) != 1 || past[0].ID != j.ID() || past[0].Why == "" || past[0].Ended.IsZero() {
			t.Errorf("past: %+v", past)
		}
		o.stop()
		for range news {
		}
	})
}

// Who is away is away at each relay, and who joins late is told so; who is away at
// one only is quiet there only.
func TestAFrontIsAwayAtEachRelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		human, lobby, bell := newScribe(), NewLobby(), newScribe()
		f, one, two, _ := twoRelays(t, human, lobby, blunt{bell})
		synctest.Wait()
		until := time.Now().Add(time.Hour)
		said := func(want ...Absence) {
			t.Helper()
			time.Sleep(time.Second)
			synctest.Wait()
			same := func(a, b Absence) bool { return a.Until.Equal(b.Until) }
			if got := human.told(); !slices.EqualFunc(got, want, same) || len(want) > 0 && !same(lobby.Away(), want[len(want)-1]) {
				t.Errorf("told %v, want %v; the lobby %v", got, want, lobby.Away())
			}
		}
		if err := f.Away(t.Context(), time.Now()); !errors.Is(err, ErrUntil) {
			t.Errorf("%v", err)
		}
		if err := f.desks["other.test"].Away(t.Context(), until); err != nil {
			t.Fatal(err)
		}
		said()
		human.noticed(t, func(n string) bool { return strings.HasPrefix(n, "other.test: you are away at this relay until") })
		a, b := gullibleJob(t, project, repo, nil), gullibleJob(t, project, repo, func(r *wire.Request) { r.Relay = "other.test" })
		one.Ask(a)
		two.Ask(b)
		human.wait(t, a.ID()+"@"+relayName, "verified", standing(Verified))
		if p := human.wait(t, b.ID()+"@other.test", "there", phase(Asking)); !p.Quiet {
			t.Errorf("%+v", p)
		}
		synctest.Wait()
		if len(bell.shown(b.ID()+"@other.test")) != 0 {
			t.Error("a way that knows nothing of absences was told, and rings")
		}
		if err := f.Away(t.Context(), until); err != nil {
			t.Fatal(err)
		}
		said(Absence{until})
		news, _, err := lobby.Join(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for range 8 {
			if n := <-news; n.Away != nil && n.Away.Until.Equal(until) {
				found = true
				break
			}
		}
		if !found {
			t.Error("who joins late is not told")
		}
		if err := f.Away(t.Context(), time.Time{}); err != nil {
			t.Fatal(err)
		}
		said(Absence{until}, Absence{})
		human.wait(t, b.ID()+"@other.test", "verified", standing(Verified))
		bell.wait(t, b.ID()+"@other.test", "verified", standing(Verified))
		if len(bell.told()) != 0 {
			t.Errorf("told %v", bell.told())
		}
	})
}

// blunt is a way to ask that is not Discreet.
type blunt struct{ to *scribe }

func (b blunt) Ask(ctx context.Context, news <-chan News, desk Decisions) error {
	return b.to.Ask(ctx, news, desk)
}
