package broker

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func TestTheMarkOfAStoreIsReadAsItIsWritten(t *testing.T) {
	t.Parallel()
	others := map[string]string{"_nats.ver": "2.15.0", "team": "release"}
	for _, m := range []mark{{}, {format: 1}, {format: 7, restored: 1}, {format: 1, restored: 1795001800123, restoring: "ab"}} {
		metadata := mark{format: 3, restored: 5, restoring: "before"}.in(others)
		back, err := markOf(m.in(metadata))
		if err != nil || back != m {
			t.Errorf("%+v became %+v: %v", m, back, err)
		}
		if in := m.in(metadata); in["team"] != "release" || in["_nats.ver"] != "2.15.0" {
			t.Errorf("what others have put there is gone: %v", in)
		}
	}
	for key, values := range map[string][]string{formatKey: {"", "0", "-1", "1.0", "x", "99999999999999999999"}, restoredKey: {"", "0", "-5", "soon"}} {
		for _, v := range values {
			if m, err := markOf(map[string]string{key: v}); err == nil || !strings.Contains(err.Error(), "was its stream edited?") {
				t.Errorf("%s of %q is %+v: %v", key, v, m, err)
			}
		}
	}
}

// setMark edits the mark of a store, as another version of this program would.
func setMark(t testing.TB, js jetstream.JetStream, m mark) {
	t.Helper()
	stream, err := js.Stream(t.Context(), streamName)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.Metadata = m.in(config.Metadata)
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
}

func markNow(t testing.TB, js jetstream.JetStream) mark {
	t.Helper()
	stream, err := js.Stream(t.Context(), streamName)
	if err != nil {
		t.Fatal(err)
	}
	m, err := markOf(stream.CachedInfo().Config.Metadata)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// A store as relays wrote it before there were marks is marked, and goes on: what
// is open in it stays open.
func TestAStoreWithoutAFormatIsUpgraded(t *testing.T) {
	t.Parallel()
	for _, s := range setups[:2] {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			f := s.start(t)
			c := f.relay.rules.Load().config
			waits, over := f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket")
			must(t, over.cancel())
			unmarked := func(js jetstream.JetStream) {
				t.Helper()
				// To the byte what the program before this wrote.
				if _, err := js.UpdateStream(t.Context(), streamConfig(c)); err != nil {
					t.Fatal(err)
				}
				if m := markNow(t, js); m != (mark{}) {
					t.Fatalf("%+v", m)
				}
			}
			if f.server != nil { // its stream outlives the relay, and so does who edits it
				f.relay.Close()
				js, err := jetstream.New(f.storeUser(c))
				if err != nil {
					t.Fatal(err)
				}
				unmarked(js)
			} else {
				f.relay.Close()
				js, closeStore, err := serveStore(c.Data+"/store", true)
				if err != nil {
					t.Fatal(err)
				}
				unmarked(js)
				closeStore()
			}
			f.startConfig(c, Options{})
			if m := markNow(t, f.relay.store.js); m != (mark{format: storeFormat}) {
				t.Errorf("%+v", m)
			}
			waits.connect()
			over.connect()
			if s := must(t, waits.state()); s.State != "pending" {
				t.Errorf("%+v", s)
			}
			ana := f.sit(f.ana)
			m, r := ana.answer(waits, 1)
			must(t, r)
			must(t, waits.got(1, m.Sealed.Hash()))
			if s := must(t, waits.done(1)); s.State != "done" {
				t.Errorf("%+v", s)
			}
			if s := must(t, over.state()); s.State != "cancelled" {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestAStoreOfANewerFormatIsRefusedBeforeAnythingIsWritten(t *testing.T) {
	t.Parallel()
	for _, s := range setups[:2] {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			f := s.start(t)
			must(t, f.accepted(rocketRepo, "rocket").cancel())
			c := f.relay.rules.Load().config
			f.relay.Close()
			var js jetstream.JetStream
			open := func() (closeStore func()) {
				t.Helper()
				var err error
				if f.server == nil {
					if js, closeStore, err = serveStore(c.Data+"/store", true); err != nil {
						t.Fatal(err)
					}
					return closeStore
				}
				nc := f.storeUser(c)
				if js, err = jetstream.New(nc); err != nil {
					t.Fatal(err)
				}
				return nc.Close
			}
			state := func() (jetstream.StreamConfig, uint64) {
				t.Helper()
				stream, err := js.Stream(t.Context(), streamName)
				if err != nil {
					t.Fatal(err)
				}
				return stream.CachedInfo().Config, stream.CachedInfo().State.LastSeq
			}
			closeStore := open()
			setMark(t, js, mark{format: storeFormat + 1})
			before, last := state()
			closeStore()

			lower := *c // what an update of the stream would show
			lower.Limits.Store--
			for range 2 {
				r, err := Start(t.Context(), &lower, Options{})
				if err == nil {
					r.Close()
				}
				if !errors.Is(err, ErrNewerStore) || !strings.Contains(err.Error(), "upgrade") || !strings.Contains(err.Error(), "format 2, known 1") {
					t.Fatalf("it starts: %v", err)
				}
			}
			if f.server == nil {
				if a, err := OpenAudit(t.Context(), c, AuditQuery{}); !errors.Is(err, ErrNewerStore) {
					if err == nil {
						a.Close()
					}
					t.Errorf("it is read: %v", err)
				}
			}
			closeStore = open()
			defer closeStore()
			if after, now := state(); now != last || after.MaxBytes != before.MaxBytes || !maps.Equal(after.Metadata, before.Metadata) {
				t.Errorf("%+v and %d, before %+v and %d", after, now, before, last)
			}
		})
	}
}

// Two relays serve one stream. One is replaced by a version that upgrades it: the
// other sees that and ends, and says why.
func TestARelayEndsWhenAnotherHasUpgradedTheStore(t *testing.T) {
	t.Parallel()
	x := newExternal(t, true)
	x.run(t)
	f := newFixture(t)
	f.server = x.server
	f.start(f.configText(t.TempDir(), x.section(0)), Options{})
	c := f.relay.rules.Load().config
	waits := f.accepted(rocketRepo, "rocket")

	// Within one format they are replaced one after the other, and nobody ends.
	g := f.second(f.configText(t.TempDir(), x.section(1)), Options{})
	must(t, waits.state())

	nc := f.storeUser(c)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	newer := append(append([]func(context.Context, jetstream.Stream) error{}, upgrades...), func(context.Context, jetstream.Stream) error { return nil })
	if _, m, err := openStream(t.Context(), js, streamConfig(c), newer); err != nil || m.format != storeFormat+1 {
		t.Fatalf("%+v: %v", m, err)
	}
	for _, r := range []*Relay{f.relay, g.relay} {
		select {
		case <-r.Done():
		case <-time.After(20 * time.Second):
			t.Fatal("it goes on")
		}
		if err := r.Err(); !errors.Is(err, ErrNewerStore) {
			t.Errorf("it ends with %v", err)
		}
	}
	f.log.line(t, "relay ends by itself", "format 2, known 1")
	// What it has not ended it does not end now.
	if m := markNow(t, js); m.format != storeFormat+1 {
		t.Errorf("the mark is %+v", m)
	}
}

// A relay of before there were marks that starts on the same stream takes the mark
// away with its update. It is put back.
func TestAMarkThatIsGoneIsPutBack(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	c, js := f.relay.rules.Load().config, f.relay.store.js
	if _, err := js.UpdateStream(t.Context(), streamConfig(c)); err != nil {
		t.Fatal(err)
	}
	if m := markNow(t, js); m != (mark{}) {
		t.Fatalf("%+v", m)
	}
	eventually(t, "the mark is back", func() bool { return markNow(t, js) == mark{format: storeFormat} })
	if f.relay.Err() != nil {
		t.Error(f.relay.Err())
	}
}

// Each step runs once and in order; what fails is tried again from where it was.
func TestUpgradesAreTakenStepByStep(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	c := f.relay.rules.Load().config
	must(t, f.accepted(rocketRepo, "rocket").cancel())
	f.relay.Close()
	js, closeStore, err := serveStore(c.Data+"/store", true)
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore()
	setMark(t, js, mark{restored: 77})
	var taken []int
	fails := true
	step := func(n int) func(context.Context, jetstream.Stream) error {
		return func(ctx context.Context, stream jetstream.Stream) error {
			taken = append(taken, n)
			if n == 1 && fails {
				return errBroken
			}
			return nil
		}
	}
	steps := []func(context.Context, jetstream.Stream) error{step(0), step(1), step(2)}
	if _, _, err := openStream(t.Context(), js, streamConfig(c), steps); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	// Not marked as what it is not.
	if m := markNow(t, js); m != (mark{restored: 77}) {
		t.Errorf("%+v", m)
	}
	fails = false
	if _, m, err := openStream(t.Context(), js, streamConfig(c), steps); err != nil || m != (mark{format: 3, restored: 77}) || m != markNow(t, js) {
		t.Fatalf("%+v: %v", m, err)
	}
	if _, _, err := openStream(t.Context(), js, streamConfig(c), steps); err != nil {
		t.Fatal(err)
	}
	if want := []int{0, 1, 0, 1, 2}; len(taken) != len(want) || taken[2] != 0 || taken[4] != 2 {
		t.Errorf("steps %v, not %v", taken, want)
	}
	if _, _, err := openStream(t.Context(), js, streamConfig(c), upgrades); !errors.Is(err, ErrNewerStore) {
		t.Errorf("the way back: %v", err)
	}
}

func TestThereIsAStepFromEachFormatToTheNext(t *testing.T) {
	t.Parallel()
	if len(upgrades) != storeFormat {
		t.Errorf("%d steps lead to format %d", len(upgrades), storeFormat)
	}
}

// storeUser connects as the relay does to its store.
func (f *fixture) storeUser(c *Config) *nats.Conn {
	f.t.Helper()
	n, err := joinNetwork(f.t.Context(), c, slog.New(slog.DiscardHandler))
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(n.close)
	return n.store
}
