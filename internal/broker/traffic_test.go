package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

func TestAFloodIsDroppedAndItsConnectionClosed(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	mine := f.job(rocketRepo, "rocket") // a stranger would do: nothing is accepted of it
	opt, gone := closed()
	nc := f.mustConnect(mine.key, mine.token, opt)
	for range 3 * mostInWindow {
		if nc.Publish(wire.JobSubject(mine.pub, wire.VerbState), []byte(`{"rev":0}`)) != nil {
			break // closed already
		}
	}
	waitClosed(t, gone, 20*time.Second)
	// Everybody else is served as before.
	other := f.job(rocketRepo, "rocket")
	if r := other.send(f.mustConnect(other.key, other.token)); r.Refused != nil {
		t.Fatal(r.Refused)
	}
	if n := strings.Count(f.log.String(), "a flood of messages"); n != 1 {
		t.Errorf("the flood was logged %d times", n)
	}
}

func TestTrafficCountsByKeyAndByTime(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	tr := newTraffic()
	for i := range mostUnderWay {
		if v := tr.begin("a", now); v != takeIt {
			t.Fatalf("message %d: %v", i, v)
		}
	}
	if tr.begin("a", now) != tooMuch {
		t.Error("more are under way than may be")
	}
	if tr.begin("b", now) != takeIt {
		t.Error("one key's traffic counts for another")
	}
	tr.end("a")
	if tr.begin("a", now) != takeIt {
		t.Error("what has ended still counts")
	}
	for range mostUnderWay {
		tr.end("a")
	}
	flooded := 0
	for range 2 * mostInWindow {
		switch tr.begin("a", now) {
		case takeIt:
			tr.end("a")
		case flooding:
			flooded++
		}
	}
	if flooded != 1 {
		t.Errorf("a flood was called that %d times", flooded)
	}
	now = now.Add(window)
	if tr.begin("a", now) != takeIt {
		t.Error("a new window does not begin anew")
	}
	tr.end("a")
	tr.end("b")
	tr.forget(now.Add(window))
	if len(tr.by) != 0 {
		t.Errorf("%d keys are remembered for ever", len(tr.by))
	}
}

func TestRefusalsCannotFillTheLog(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	var b bytes.Buffer
	log := limitLog(slog.New(slog.NewTextHandler(&b, nil)), func() time.Time { return now })
	for i := range 1000 {
		log.Info("decision", "what", "connect", "outcome", "refused", "why", fmt.Sprint(i))
		log.Info(fmt.Sprintf("nats-server: cid:%d did something", i))
		log.Info("decision", "what", "request", "outcome", "accepted", "n", i)
	}
	if n := strings.Count(b.String(), "outcome=refused"); n != mostLines {
		t.Errorf("%d refusals were logged", n)
	}
	if n := strings.Count(b.String(), "nats-server"); n != mostLines {
		t.Errorf("%d lines of the server were logged", n)
	}
	if n := strings.Count(b.String(), "outcome=accepted"); n != 1000 {
		t.Errorf("%d accepted requests were logged, not all", n)
	}
	now = now.Add(window)
	log.InfoContext(context.Background(), "decision", "what", "connect", "outcome", "refused")
	if !strings.Contains(b.String(), fmt.Sprintf("%d more lines like the next were left out", 1000-mostLines)) {
		t.Error("the log does not say what it left out")
	}
}

func TestAnObjectOfManyNamesIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	many := map[string]int{}
	for i := range 5000 {
		many[fmt.Sprintf("n%d", i)] = i
	}
	data, err := json.Marshal(many)
	if err != nil {
		t.Fatal(err)
	}
	var v struct{}
	if err := wire.Decode(data, wire.MaxMessage, &v); err == nil || !strings.Contains(err.Error(), "more than 64 fields") {
		t.Errorf("%v", err)
	}
}

func TestAStoreThatIsNearlyFullKeepsTheRestForWhatIsOpen(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	open := f.accepted(rocketRepo, "rocket")
	f.relay.store.mu.Lock()
	f.relay.store.most = 1 // what is there is far more than all
	f.relay.store.mu.Unlock()
	f.relay.store.measureRoom(t.Context())
	j := f.job(rocketRepo, "rocket")
	nc := f.mustConnect(j.key, j.token)
	if r := j.send(nc); r.Refused == nil || r.Refused.Code != wire.RefusedBusy || !strings.Contains(r.Refused.Why, "nearly full") {
		t.Errorf("a new request: %+v", r.Refused)
	}
	// The one that is open can still end.
	cancel, err := wire.Sign(&wire.Cancel{Key: open.pub, Digest: open.dig, Why: "test"}, open.key)
	if err != nil {
		t.Fatal(err)
	}
	if r := request(t, open.nc, wire.JobSubject(open.pub, wire.VerbCancel), wire.StepMessage{Step: cancel}); r.Refused != nil || r.State.State != "cancelled" {
		t.Errorf("the open request cannot end: %v", r.Refused)
	}
}

// Others write to the same disk, so that it can be full long before the record is.
func TestADiskThatIsNearlyFullKeepsTheRestForWhatIsOpen(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	var free atomic.Uint64
	free.Store(diskReserve - 1)
	s := f.relay.store
	s.mu.Lock()
	s.disk = func() (uint64, bool) { return free.Load(), true }
	s.mu.Unlock()
	s.measureRoom(t.Context())
	j := f.job(rocketRepo, "rocket")
	nc := f.mustConnect(j.key, j.token)
	if r := j.send(nc); r.Refused == nil || r.Refused.Code != wire.RefusedBusy || !strings.Contains(r.Refused.Why, "the relay's disk is nearly full") {
		t.Errorf("a new request: %+v", r.Refused)
	}
	if s.stuck() {
		t.Error("a disk that was never full is one that was")
	}
	free.Store(diskReserve)
	s.measureRoom(t.Context())
	if r := j.send(nc); r.Refused != nil {
		t.Errorf("with room again: %+v", r.Refused)
	}
}

// A server that has failed to write once writes nothing more: it is ended and
// started, and what was there is there.
func TestAStoreThatIsOpenedAnewHasWhatItHad(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	open := f.accepted(rocketRepo, "rocket")
	s := f.relay.store
	for range 2 {
		if err := f.relay.net.reopenStore(); err != nil {
			t.Fatal(err)
		}
		if e, err := s.last(t.Context(), open.pub); err != nil || e.rec.State != lifecycle.StatePending {
			t.Fatalf("%+v, %v", e.rec, err)
		}
	}
	cancel, err := wire.Sign(&wire.Cancel{Key: open.pub, Digest: open.dig, Why: "test"}, open.key)
	if err != nil {
		t.Fatal(err)
	}
	if r := request(t, open.nc, wire.JobSubject(open.pub, wire.VerbCancel), wire.StepMessage{Step: cancel}); r.Refused != nil || r.State.State != "cancelled" {
		t.Errorf("the open request cannot end: %v", r.Refused)
	}
}
