package broker

// A human's no is the run's: what runs on asks nobody again.

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/wire"
)

// runOf is a connected job of rocket's, of a given run attempt.
func (f *fixture) runOf(run, attempt string) *job {
	f.t.Helper()
	j := f.job(rocketRepo, "rocket")
	j.token = f.token(rocketRepo, wire.Audience(relayName, j.pub), map[string]any{"run_id": run, "run_attempt": attempt})
	j.ask("rocket", nil)
	j.connect()
	return j
}

func TestARunThatWasDeclinedCannotAskAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	f.start(f.configText(dir, onLoopback), Options{})
	bob := f.sit(f.bob)
	j := f.runOf("77", "1")
	must(t, j.send(j.nc))
	must(t, bob.say(wire.VerbDecline, f.bob.declineMessage(t, j, 1, "it is a Friday")))

	again := f.runOf("77", "1")
	r := again.send(again.nc)
	refused(t, r, wire.RefusedDeclined, "Bob declined what this run asked (", "UTC), and said: it is a Friday", "ask them why", "a re-run that a person starts can")
	// Who was declined still learns how its own request ended.
	if s := must(t, j.send(j.nc)); s.State != "declined" {
		t.Errorf("%+v", s)
	}
	// A person's re-run may ask, and so may another run.
	for _, other := range []*job{f.runOf("77", "2"), f.runOf("78", "1")} {
		must(t, other.send(other.nc))
	}
	// A no that comes too late is none.
	late := f.runOf("79", "1")
	must(t, late.send(late.nc))
	must(t, late.cancel())
	refused(t, bob.say(wire.VerbDecline, f.bob.declineMessage(t, late, 1, "")), wire.RefusedEnded)
	more := f.runOf("79", "1")
	must(t, more.send(more.nc))

	// It is in the record, not in a relay's memory; and where names are hidden,
	// so is what somebody said.
	f.relay.Close()
	f.start(f.configText(dir, onLoopback+"names: hidden\n"), Options{})
	again = f.runOf("77", "1")
	r = again.send(again.nc)
	refused(t, r, wire.RefusedDeclined, "a responder declined what this run asked")
	if strings.Contains(r.Refused.Error(), "Bob") || strings.Contains(r.Refused.Error(), "Friday") {
		t.Errorf("hidden, and yet: %v", r.Refused)
	}
}

// What the relay that took the decline did not come to note, another does: here
// the first one's note never reaches the store.
func TestADeclinedRunIsBarredOnEachRelay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		lost bool
	}{{"noted", false}, {"its note is lost", true}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := newExternal(t, false)
			x.run(t)
			f := newFixture(t)
			f.server = x.server
			f.start(f.configText(t.TempDir(), x.section(0)), held(func(_ context.Context, m *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
				if c.lost && strings.HasPrefix(m.Subject, declinePrefix) {
					return nil, errors.New("the relay ends here")
				}
				return next()
			}))
			first := f.relay
			j := f.runOf("77", "1")
			must(t, j.send(j.nc))
			decline := f.bob.declineMessage(t, j, 1, "no")
			switch r := asDesk(t, first, f.bob, wire.VerbDecline, decline); {
			case !c.lost:
				must(t, r)
			default:
				// Not acknowledged, so the responder says it again.
				refused(t, r, wire.RefusedBusy)
				if s := must(t, j.state()); s.State != "declined" {
					t.Fatalf("%+v", s)
				}
			}
			second := f.second(f.configText(t.TempDir(), x.section(1)), Options{}).relay
			ask := func(run string) wire.Reply {
				again := f.runOf(run, "1")
				data, err := json.Marshal(wire.RequestMessage{Request: again.env, Token: again.token})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				reply, err := second.jobMessage(ctx, again.pub, wire.VerbRequest, data)
				if err != nil {
					return wire.Reply{Refused: second.refusal(err)}
				}
				return reply
			}
			if c.lost {
				eventually(t, "it is noted by who follows the record", func() bool {
					_, is, err := second.store.declined(t.Context(), "rocket", records(t, second, j.pub)[0].Group)
					return err == nil && is
				})
			}
			refused(t, ask("77"), wire.RefusedDeclined, "Bob declined what this run asked")
			must(t, ask("78"))
		})
	}
}
