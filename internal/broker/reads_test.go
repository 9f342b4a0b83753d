package broker

// What is not done twice: reading who may answer a request, and telling a job
// what it has just been told.

import (
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/wire"
)

// The request's signature is verified when it is asked. Each read of its state
// did so again, for the list of who may answer.
func TestAReadVerifiesNoRequestAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	f.start(f.configText(dir, onLoopback), Options{})
	j := f.accepted(rocketRepo, "rocket")
	reads := func(what string) {
		t.Helper()
		e, err := f.relay.store.last(t.Context(), j.pub)
		if err != nil {
			t.Fatal(err)
		}
		if e.accepts == nil {
			t.Errorf("%s: the next read of the state verifies the request again", what)
		}
	}
	reads("asked")
	m, r := f.sit(f.ana).answer(j, 1)
	must(t, r)
	must(t, j.got(1, m.Sealed.Hash()))
	reads("delivered")
	// A relay that starts anew, as one that another relay's record reaches,
	// verifies it at the first look, be that a list.
	f.relay.Close()
	f.start(f.configText(dir, onLoopback), Options{})
	if page := f.sit(f.ana).pending(); len(page.Items) != 1 || page.Items[0].State.Enrolled != 2 {
		t.Fatalf("%+v", page)
	}
	reads("listed")
}

// Each hint is one more read.
func TestAJobIsNotToldWhatItHasJustSaid(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	ana := f.sit(f.ana)
	told := listen(t, ana.nc, wire.ProjectSubject("rocket"))
	j := f.accepted(rocketRepo, "rocket")
	m, r := ana.answer(j, 1)
	must(t, r)
	must(t, j.got(1, m.Sealed.Hash()))
	must(t, j.step(&wire.Next{Key: j.pub, Digest: j.dig, Attempt: 1}))
	must(t, j.cancel())
	// The relay has pushed all that it would before it replied.
	states := 0
	for k, _, _ := j.hints.Pending(); k > 0; k-- {
		if m, err := j.hints.NextMsg(0); err != nil {
			t.Fatal(err)
		} else if strings.Contains(string(m.Data), `"hint":"state"`) {
			states++
		}
	}
	if states != 0 {
		t.Errorf("the job was told %d times to read what it knows", states)
	}
	// Its humans are told of each.
	for range 5 {
		hint(t, told, changeOf(j))
	}
	// And the job of what others cause.
	other := f.accepted(rocketRepo, "rocket")
	must(t, ana.say(wire.VerbDecline, f.ana.declineMessage(t, other, 1, "no")))
	hint(t, other.hints, changeOf(other))
}
