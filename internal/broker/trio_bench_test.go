package broker

// What an answer's way costs where three servers hold the record: the relay's
// against the same servers' own, in one run.

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go"

	"github.com/continuousauth/action/internal/wire"
)

// BenchmarkCluster is an answer's way, as in BenchmarkDelivery, with two relays on
// three servers that each force each record to the disk, TLS everywhere, while
// others wait. The floor is one bare round trip between the same two connections'
// servers and one bare append to a stream that is replicated and synced likewise.
func BenchmarkCluster(b *testing.B) {
	for _, others := range []int{0, 1_000, 10_000} {
		b.Run(fmt.Sprintf("%dWaiting", others), func(b *testing.B) {
			f := newFixture(b)
			x := newTrio(b, f)
			x.spawn(b)
			g := *f
			x.start(b, f, 0, crowded)
			x.start(b, &g, 1, crowded)
			for _, r := range []*Relay{f.relay, g.relay} {
				r.traffic.most = 1 << 30 // one key sends what thousands of jobs would
			}
			tls := x.tls(b)
			f.waiting(b, others, tls)
			deliver(b, f, bareAppender(b, f.relay.store.js, 3), tls...)
			// They say nothing while they wait, and are given up after 110 s of that.
			if n := f.relay.store.count(); n <= others {
				b.Fatalf("%d requests are open at the end: this machine is too slow for so many to wait meanwhile", n)
			}
		})
	}
}

// waiting connects n jobs whose requests are accepted, and which then wait.
func (f *fixture) waiting(b *testing.B, n int, opts []nats.Option) {
	b.Helper()
	work := make(chan int)
	var wg sync.WaitGroup
	var failed atomic.Int64
	for range 16 {
		wg.Go(func() {
			for range work {
				j := f.job(boatRepo, "boat")
				nc, err := f.connect(j.key, j.token, append([]nats.Option{nats.NoCallbacksAfterClientClose()}, opts...)...)
				if err != nil {
					failed.Add(1)
					continue
				}
				b.Cleanup(nc.Close)
				if _, err := nc.SubscribeSync(wire.HintSubject(j.pub)); err != nil || j.send(nc).Refused != nil {
					failed.Add(1)
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	if k := failed.Load(); k > 0 {
		b.Fatalf("%d of %d jobs do not wait", k, n)
	}
}
