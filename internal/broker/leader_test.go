package broker

// A store whose leader is gone: what is sent to it is answered by nobody, and the
// next leader answers the same.

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/wire"
)

func TestWhatADeadLeaderWasSentIsSentToTheNext(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var tries atomic.Int64
	f.start(f.configText(t.TempDir(), onLoopback), held(func(ctx context.Context, _ *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
		if tries.Add(1) == 1 {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		return next()
	}))
	j := f.job(rocketRepo, "rocket")
	j.connect()
	began := time.Now()
	if s := must(t, j.send(j.nc)); s.State != "pending" {
		t.Errorf("%+v", s)
	}
	// Its client had not given up the reply by then; see storeWithin.
	if took := time.Since(began); took < storeWithin {
		t.Errorf("it took %s", took)
	}
	if n := tries.Load(); n != 2 {
		t.Errorf("%d tries", n)
	}
	if n := len(history(t, f.relay, j.pub)); n != 1 {
		t.Errorf("%d records", n)
	}
}

// What is noted beside requests is answered as soon: to an absence, and to a decline,
// whose note keeps its run from asking again.
func TestWhatADeadLeaderWasToldBesideRequestsIsToldToTheNext(t *testing.T) {
	t.Parallel()
	for _, subject := range []string{awayPrefix, declinePrefix} {
		t.Run(subject, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			var tries atomic.Int64
			f.start(f.configText(t.TempDir(), onLoopback), held(func(ctx context.Context, m *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
				if strings.HasPrefix(m.Subject, subject) && tries.Add(1) == 1 {
					<-ctx.Done()
					return nil, context.Cause(ctx)
				}
				return next()
			}))
			bob := f.sit(f.bob)
			j := f.accepted(rocketRepo, "rocket")
			began := time.Now()
			if subject == awayPrefix {
				bob.away(began, began.Add(time.Hour))
			} else {
				no := f.bob.declineMessage(t, j, 1, "")
				refused(t, bob.say(wire.VerbDecline, no), wire.RefusedBusy) // the decline is on record, and its note is not
				must(t, bob.say(wire.VerbDecline, no))
			}
			if took := time.Since(began); took > 5*time.Second || tries.Load() != 2 {
				t.Errorf("it took %s and %d tries; its client gives up after 5 s", took, tries.Load())
			}
		})
	}
}
