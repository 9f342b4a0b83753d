package broker

// What an answer's way costs where three servers hold the record: the relay's
// against the same servers' own, in one run.

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/seal"
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
			deliver(b, f, tls)
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

// deliver measures answers to one job.
func deliver(b *testing.B, f *fixture, opts []nats.Option) {
	hk, err := seal.NewKey()
	if err != nil {
		b.Fatal(err)
	}
	j := f.job(rocketRepo, "rocket")
	j.ask("rocket", func(q *wire.Request) { q.HPKE = hk.Public(); q.Responders = []string{f.ana.signer()} })
	nc := f.mustConnect(j.key, j.token, opts...)
	desk := f.mustConnect(f.ana.connect, "", opts...)
	if r := j.send(nc); r.Refused != nil {
		b.Fatal(r.Refused)
	}
	signer, connect := f.ana.signer(), f.ana.key()
	opened := make(chan string, 1)
	attempt := 1
	if _, err := nc.Subscribe(wire.HintSubject(j.pub), func(m *nats.Msg) {
		var h wire.Hint
		if wire.Decode(m.Data, wire.MaxMessage, &h) != nil || h.Hint != wire.HintAnswer {
			return
		}
		a, err := wire.Open[wire.Answer](*h.Envelope, signer)
		if err != nil || a.Attempt != attempt || a.Sealed != h.Sealed.Hash() {
			return
		}
		code, err := hk.Open(*h.Sealed, seal.To{Digest: j.dig, Attempt: a.Attempt, Ask: wire.AskCode, Responder: signer})
		if err != nil {
			code = "!"
		}
		opened <- code
	}); err != nil {
		b.Fatal(err)
	}
	echo := wire.JobSubject(j.pub, "bench.echo") // one level below what the relay handles
	if _, err := f.relay.net.client.Subscribe(echo, func(m *nats.Msg) { m.Respond(m.Data) }); err != nil {
		b.Fatal(err)
	}
	if err := f.relay.net.client.Flush(); err != nil {
		b.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		b.Fatal(err)
	}
	// The servers of a cluster hear of a subscription one after the other.
	eventually(b, "the echo is heard of", func() bool { _, err := nc.Request(echo, nil, time.Second); return err == nil })
	// Like the record, and not in it, where it would be no message of it.
	if _, err := f.relay.store.js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "BARE", Subjects: []string{"bare.>"}, Storage: jetstream.FileStorage, Replicas: 3}); err != nil {
		b.Fatal(err)
	}
	bare := bareAppender(b, f.relay.store.js, "bare.x")
	step := func(verb string, body wire.Body) {
		env, err := wire.Sign(body, j.key)
		if err != nil {
			b.Fatal(err)
		}
		if r := request(b, nc, wire.JobSubject(j.pub, verb), wire.StepMessage{Step: env}); r.Refused != nil {
			b.Fatal(verb, r.Refused)
		}
	}
	payload := make([]byte, 1500)
	var ours, floor []time.Duration
	for b.Loop() {
		if attempt == 900 {
			break
		}
		start := time.Now()
		if _, err := nc.Request(echo, payload, 5*time.Second); err != nil {
			b.Fatal(err)
		}
		bare()
		floor = append(floor, time.Since(start))

		sealed, err := seal.Close(hk.Public(), seal.To{Digest: j.dig, Attempt: attempt, Ask: wire.AskCode, Responder: signer}, "123456")
		if err != nil {
			b.Fatal(err)
		}
		env, err := wire.Sign(&wire.Answer{Key: signer, Digest: j.dig, Attempt: attempt, Ask: wire.AskCode, Decision: wire.DecisionCode, Sealed: sealed.Hash()}, f.ana.sign)
		if err != nil {
			b.Fatal(err)
		}
		data, err := json.Marshal(wire.AnswerMessage{Key: j.pub, Answer: env, Sealed: &sealed})
		if err != nil {
			b.Fatal(err)
		}
		start = time.Now()
		if err := desk.PublishMsg(&nats.Msg{Subject: wire.DeskSubject(connect, wire.VerbAnswer), Data: data}); err != nil {
			b.Fatal(err)
		}
		if code := <-opened; code != "123456" {
			b.Fatal("the code did not open")
		}
		ours = append(ours, time.Since(start))
		step(wire.VerbGot, &wire.Got{Key: j.pub, Digest: j.dig, Attempt: attempt, Sealed: sealed.Hash()})
		step(wire.VerbNext, &wire.Next{Key: j.pub, Digest: j.dig, Attempt: attempt})
		attempt++
	}
	report(b, "p50", ours, floor, 0.50)
	report(b, "p99", ours, floor, 0.99)
}
