package broker

// A relay that was told to end: nothing new, and what is under way to its end.

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/wire"
)

func TestADrainingRelayTakesNothingNewAndEndsWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var hold sync.Mutex
	reached := make(chan struct{}, 1)
	holding := false
	o := held(func(_ context.Context, _ *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
		if holding {
			reached <- struct{}{}
			hold.Lock()
			defer hold.Unlock()
		}
		return next()
	})
	text := f.configText(t.TempDir(), withMetrics)
	f.start(text, o)
	ana := f.sit(f.ana)
	lost, closes := closed()
	waits, answered, handed := f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket")
	waits.nc.Close()
	waits.connect(lost)
	late := f.job(rocketRepo, "rocket")
	late.connect()
	// One code is between its human and its job, which is about to say that it has
	// it; one answer is being written.
	m, r := ana.answer(handed, 1)
	must(t, r)
	hint(t, handed.hints, answerOf(m))
	holding = true
	hold.Lock()
	release := sync.OnceFunc(hold.Unlock)
	t.Cleanup(release) // before the relay's own, which would wait for it
	reply := make(chan wire.Reply, 1)
	go func() { _, r := ana.answer(answered, 1); reply <- r }()
	<-reached
	holding = false

	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.relay.Drain()
		f.relay.Close()
	}()
	eventually(t, "it drains", func() bool { return f.relay.draining.Load() })
	if status, body := f.read("/readyz"); status != 503 || !strings.Contains(body, "draining") {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := f.read("/livez"); status != 200 {
		t.Errorf("livez: %d", status)
	}
	refused(t, late.send(late.nc), wire.RefusedBusy, "being shut down", "another relay")
	// The same request again is nothing new.
	if s := must(t, waits.send(waits.nc)); s.State != "pending" {
		t.Errorf("%s", s.State)
	}
	must(t, handed.got(1, m.Sealed.Hash()))
	select {
	case <-ended:
		t.Fatal("it ended with an answer under way")
	case <-time.After(100 * time.Millisecond): // it may not end now, whenever it is looked at
	}
	release()
	if s := must(t, <-reply); s.State != "answered" {
		t.Errorf("the answer that was under way: %s", s.State)
	}
	<-ended
	waitClosed(t, closes, 5*time.Second)

	f.start(text, Options{})
	waits.connect()
	handed.connect()
	answered.connect()
	for j, want := range map[*job]string{waits: "pending", handed: "delivered", answered: "answered"} {
		if s := must(t, j.state()); s.State != want {
			t.Errorf("afterwards it is %s, not %s", s.State, want)
		}
	}
	late.connect()
	if s := must(t, late.send(late.nc)); s.State != "pending" {
		t.Errorf("asked again: %s", s.State)
	}
}

// On servers that go on, another relay takes over without anybody noticing.
func TestTheOtherRelayTakesOverFromOneThatDrains(t *testing.T) {
	t.Parallel()
	onEachServer(t, func(t *testing.T, x *external) {
		x.run(t)
		f := newFixture(t)
		f.server = x.server
		f.start(f.configText(t.TempDir(), x.section(0)), Options{})
		other := f.second(f.configText(t.TempDir(), x.section(1)), Options{})
		j := f.accepted(rocketRepo, "rocket")
		f.relay.Drain()
		// Also at the door: whoever knocks is let in and asks.
		k := f.accepted(rocketRepo, "rocket")
		for range 20 {
			must(t, j.state())
			must(t, k.state())
		}
		f.relay.Close()
		must(t, j.cancel())
		must(t, k.state())
		if why := other.relay.unready(); len(why) > 0 {
			t.Errorf("the second one: %q", why)
		}
	})
}

func TestARelayThatNeverServedHasNothingToDrain(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	f.relay.Close()
	done := make(chan struct{})
	go func() { f.relay.Drain(); f.relay.Drain(); close(done) }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("it drains for ever")
	}
}
