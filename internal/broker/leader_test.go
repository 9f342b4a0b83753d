package broker

// A store whose leader is gone: what is sent to it is answered by nobody, and the
// next leader answers the same.

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
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
