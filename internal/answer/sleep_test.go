package answer

// A laptop that sleeps with a connection open, in fake time: the wall clock goes
// on, and nothing else does.

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// halfOpen is a connection whose other side may go without a word.
type halfOpen struct {
	relayConn
	gone *atomic.Bool
}

func (c halfOpen) Request(ctx context.Context, subject string, msg any) (wire.Reply, error) {
	if c.gone.Load() {
		<-ctx.Done()
		return wire.Reply{}, ctx.Err()
	}
	return c.relayConn.Request(ctx, subject, msg)
}

func TestAfterASleepADeskReconnectsAndHasJobsProveThemselvesAgain(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		sleeps  time.Duration // by which the wall clock gets ahead
		redials int
	}{
		"a night":              {9 * time.Hour, 1},
		"a minute":             {time.Minute, 1},
		"no sleep":             {0, 0},
		"a clock set a little": {sleptAtLeast - time.Millisecond, 0},
		"a clock set back":     {-time.Hour, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := inMemory(t)
				var ahead atomic.Int64
				running := o.desk.clock
				o.desk.clock = func() (time.Time, time.Duration) {
					wall, ran := running()
					return wall.Add(time.Duration(ahead.Load())), ran
				}
				dialled := o.desk.dial
				var dials atomic.Int64
				var gone atomic.Bool // the first connection's other side
				o.desk.dial = func(ctx context.Context) (relayConn, error) {
					c, err := dialled(ctx)
					if dials.Add(1) > 1 {
						return c, err
					}
					return halfOpen{c, &gone}, err
				}
				o.run()
				j := gullibleJob(t, project, repo, nil)
				o.relay.Ask(j)
				o.human.wait(t, j.ID(), "verified", standing(Verified))
				time.Sleep(time.Minute) // awake
				opens, at := len(o.relay.Messages(wire.VerbOpen)), time.Now()

				ahead.Add(int64(tc.sleeps))
				gone.Store(tc.redials > 0) // while it slept
				time.Sleep(20 * time.Second)
				if n := int(dials.Load()) - 1; n != tc.redials {
					t.Errorf("%d new connections within 20 s, want %d", n, tc.redials)
				}
				if n := len(o.relay.Messages(wire.VerbOpen)) - opens; n != tc.redials {
					t.Errorf("the job had to prove itself %d times more, want %d", n, tc.redials)
				}
				o.human.mu.Lock()
				said := slices.ContainsFunc(o.human.notices, func(n string) bool { return strings.Contains(n, "this computer slept") })
				o.human.mu.Unlock()
				if said != (tc.redials > 0) {
					t.Errorf("that it slept was said: %v", said)
				}
				p := o.human.wait(t, j.ID(), "verified", standing(Verified))
				mustAnswer(t, o, j, p.Attempt)
				if got := received(t, j); got != code {
					t.Errorf("the job opened %q", got)
				}
				if took := time.Since(at); took > 25*time.Second {
					t.Errorf("it took %s", took)
				}
			})
		})
	}
}

// Two relays, one machine: each desk finds out by itself.
func TestAfterASleepEachRelayIsDialledAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f, _, _, _ := twoRelays(t, newScribe())
		time.Sleep(time.Minute)
		var ahead, dials [2]atomic.Int64
		for i, name := range f.relays {
			d := f.desks[name]
			d.post(func() {
				running, dialled := d.clock, d.dial
				d.clock = func() (time.Time, time.Duration) {
					wall, ran := running()
					return wall.Add(time.Duration(ahead[i].Load())), ran
				}
				d.dial = func(ctx context.Context) (relayConn, error) {
					dials[i].Add(1)
					return dialled(ctx)
				}
			})
		}
		for i := range ahead {
			ahead[i].Store(int64(9 * time.Hour))
		}
		time.Sleep(20 * time.Second)
		for i, l := range f.Lines() {
			if n := dials[i].Load(); n != 1 || !l.Connected {
				t.Errorf("%s was dialled %d times after the sleep: %+v", l.Relay, n, l)
			}
		}
	})
}
