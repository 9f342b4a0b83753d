package broker

// Who is asked later than others, and who says so.

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

func TestWhoseTurnItIs(t *testing.T) {
	t.Parallel()
	asked := time.UnixMilli(1_800_000_000_000)
	at := func(d time.Duration) int64 { return asked.Add(d).UnixMilli() }
	for _, c := range []struct {
		name     string
		state    lifecycle.State
		answered int64
		after    time.Duration
		now      time.Duration
		want     bool
	}{
		{"at once", lifecycle.StatePending, 0, 0, 0, true},
		{"too early", lifecycle.StatePending, 0, 5 * time.Minute, 5*time.Minute - time.Millisecond, false},
		{"in time", lifecycle.StatePending, 0, 5 * time.Minute, 5 * time.Minute, true},
		{"answered before their turn", lifecycle.StateDelivered, at(4 * time.Minute), 5 * time.Minute, time.Hour, false},
		{"answered after it came", lifecycle.StateAnswered, at(6 * time.Minute), 5 * time.Minute, 7 * time.Minute, true},
		{"answered, and asked again", lifecycle.StatePending, 0, 5 * time.Minute, 6 * time.Minute, true},
	} {
		e := &entry{asked: asked.UnixMilli(), rec: lifecycle.Record{State: c.state, Answered: c.answered}}
		if got := e.due(Responder{After: Duration(c.after)}, asked.Add(c.now)); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
	if (&entry{rec: lifecycle.Record{State: lifecycle.StatePending}}).due(Responder{After: 1}, asked) {
		t.Error("nothing says since when it waits, and it is somebody's turn")
	}
}

// quiet says that no hint of j has come to sub; what comes in order comes before
// the reply to a request that was made after it.
func quiet(t *testing.T, s *seat, sub *nats.Subscription, j *job) {
	t.Helper()
	s.pending()
	for {
		m, err := sub.NextMsg(time.Millisecond)
		if err != nil {
			return
		}
		if strings.Contains(string(m.Data), j.pub) {
			t.Fatalf("a hint came: %s", m.Data)
		}
	}
}

func TestALaterTierIsAskedWhenNobodyHasAnswered(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var c clock
	o := Options{Now: c.now, opened: func(s *store) { c.store(s) }}
	dir := t.TempDir()
	text := strings.Replace(f.configText(dir, onLoopback), f.bob.yaml(), strings.TrimSuffix(f.bob.yaml(), "}")+", after: 3m}", 1)
	f.start(text, o)
	ana, bob := f.sit(f.ana), f.sit(f.bob)
	project := listen(t, bob.nc, wire.ProjectSubject("rocket"))
	ana.pending()
	bob.pending()
	j := f.accepted(rocketRepo, "rocket")
	hint(t, ana.hints, changeOf(j))
	// It does not exist for him, whatever he says.
	if p := bob.pending(); len(p.Items) != 0 {
		t.Errorf("listed: %+v", p.Items)
	}
	refused(t, bob.say(wire.VerbOpen, f.bob.openMessage(t, j)), wire.RefusedUnknown)
	_, r := bob.answer(j, 1)
	refused(t, r, wire.RefusedUnknown)
	refused(t, bob.say(wire.VerbDecline, f.bob.declineMessage(t, j, 1, "")), wire.RefusedUnknown)
	must(t, ana.say(wire.VerbOpen, f.ana.openMessage(t, j)))
	quiet(t, bob, bob.hints, j)
	quiet(t, bob, project, j)
	if s := must(t, j.state()); s.Ready != 1 || s.Enrolled != 2 || len(s.OnCall) != 1 || s.OnCall[0] != "Ana" || s.After != 0 {
		t.Errorf("%+v", s)
	}

	c.move(3 * time.Minute) // an ID token lives for five
	hint(t, bob.hints, changeOf(j))
	hint(t, j.hints, func(h wire.Hint) bool { return changeOf(j)(h) && h.Rev != 0 })
	ana.pending()
	if p := bob.pending(); len(p.Items) != 1 {
		t.Fatalf("%d requests are listed", len(p.Items))
	}
	if s := must(t, j.state()); s.Ready != 2 || s.After != 180 || len(s.Then) != 1 || s.Then[0] != "Bob" {
		t.Errorf("%+v", s)
	}

	// After a restart it is still his turn, and not that of what came since.
	f.relay.Close()
	f.start(strings.Replace(text, "projects:", "names: hidden\nprojects:", 1), o)
	j.connect()
	bob = f.sit(f.bob)
	fresh := f.runOf("9", "1")
	must(t, fresh.send(fresh.nc))
	if p := bob.pending(); len(p.Items) != 1 || p.Items[0].Key != j.pub {
		t.Errorf("%+v", p.Items)
	}
	if s := must(t, j.state()); s.After != 180 || len(s.Then) != 0 {
		t.Errorf("%+v", s)
	}
	m, r := bob.answer(j, 1)
	must(t, r)
	must(t, j.got(1, m.Sealed.Hash()))
	must(t, j.done(1))
}
