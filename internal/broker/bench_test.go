package broker

// What the relay costs, as ratios in one run against a floor that is measured
// between its own iterations: bare NATS, bare forced writes, on the same server
// and disk.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

// BenchmarkDelivery is an answer's way: sent by the responder, recorded by the
// relay with a forced write, pushed to the job, verified and opened there. The
// floor is one bare NATS round trip plus one bare forced append.
func BenchmarkDelivery(b *testing.B) {
	f := startFixture(b)
	f.relay.traffic.most = 1 << 30 // one key sends what thousands of jobs would
	deliver(b, f, bareAppender(b, f.relay.store.js, 1))
}

// deliver measures answers to one job, each beside a bare round trip and bare, one
// bare append.
func deliver(b *testing.B, f *fixture, bare func(), opts ...nats.Option) {
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
	// Derived once, as in the programs: a key pair computes it anew each time.
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

// report prints a percentile of both, in microseconds, and their ratio.
func report(b *testing.B, name string, ours, floor []time.Duration, q float64) {
	at := func(d []time.Duration) float64 {
		d = slices.Clone(d)
		slices.Sort(d)
		return float64(d[int(q*float64(len(d)-1))].Nanoseconds()) / 1000
	}
	b.ReportMetric(0, "ns/op") // the loop's own figure holds both and more
	b.ReportMetric(at(ours), name+"-µs")
	b.ReportMetric(at(floor), "floor-"+name+"-µs")
	b.ReportMetric(at(ours)/at(floor), name+"-ratio")
}

// bareAppender appends 2 KiB with the expected sequence, as a transition does.
//
// It is to a stream of its own, like the record and not in it: what is in the record
// must verify at the end.
func bareAppender(b *testing.B, js jetstream.JetStream, replicas int) func() {
	if _, err := js.CreateStream(b.Context(), jetstream.StreamConfig{Name: "BARE", Subjects: []string{"bare.>"}, Storage: jetstream.FileStorage, Replicas: replicas}); err != nil {
		b.Fatal(err)
	}
	var seq uint64
	data := make([]byte, 2048)
	return func() {
		ack, err := js.PublishMsg(b.Context(), &nats.Msg{Subject: "bare.x", Data: data}, jetstream.WithExpectLastSequencePerSubject(seq))
		if err != nil {
			b.Fatal(err)
		}
		seq = ack.Sequence
	}
}

// BenchmarkRead is what each waiting job does every 15 s: read its state. The floor
// is a bare NATS round trip and a bare read of a record.
func BenchmarkRead(b *testing.B) {
	f := startFixture(b)
	f.relay.traffic.most = 1 << 30 // one key sends what thousands of jobs would
	j := f.accepted(rocketRepo, "rocket")
	echo := wire.JobSubject(j.pub, "bench.echo")
	if _, err := f.relay.net.client.Subscribe(echo, func(m *nats.Msg) { m.Respond(m.Data) }); err != nil {
		b.Fatal(err)
	}
	if err := f.relay.net.client.Flush(); err != nil {
		b.Fatal(err)
	}
	var ours, floor []time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := j.nc.Request(echo, make([]byte, 1500), 5*time.Second); err != nil {
			b.Fatal(err)
		}
		if _, err := f.relay.store.stream.GetLastMsgForSubject(b.Context(), requestPrefix+j.pub); err != nil {
			b.Fatal(err)
		}
		floor = append(floor, time.Since(start))
		start = time.Now()
		if r := j.state(); r.Refused != nil {
			b.Fatal(r.Refused)
		}
		ours = append(ours, time.Since(start))
	}
	report(b, "p50", ours, floor, 0.50)
}

// BenchmarkAdmission is what a job's start costs the relay: CONNECT with an ID
// token, and its request, until it is accepted, as admissions a second. The
// floor is a CONNECT of a configured nkey user plus one bare forced append, on a
// server with the same settings. The callout's floor is the same with a callout
// that lets everybody in, with the permissions that ours gives: what the ratio to
// the first one holds of NATS's way of asking.
func BenchmarkAdmission(b *testing.B) {
	for _, atOnce := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("%dAtOnce", atOnce), func(b *testing.B) {
			f := newFixture(b)
			f.start(f.configText(b.TempDir(), onLoopback), crowded)
			bare := startBare(b)
			asking := startAsking(b)
			const batch = 256
			var ours, floor, callout time.Duration
			n := 0
			for b.Loop() {
				jobs := make([]*job, batch)
				for i := range jobs {
					jobs[i] = f.job(rocketRepo, "rocket")
				}
				floor += together(batch, atOnce, func(i int) {
					nc, err := bare.connect()
					if err != nil {
						b.Error(err)
						return
					}
					defer nc.Close()
					bare.append(b, i)
				})
				callout += together(batch, atOnce, func(i int) {
					nc, err := nats.Connect(asking.url, nats.Nkey(jobs[i].pub, jobs[i].key.Sign), nats.Token(jobs[i].token), nats.NoReconnect(), nats.Timeout(20*time.Second))
					if err != nil {
						b.Error(err)
						return
					}
					defer nc.Close()
					asking.append(b, i)
				})
				ours += together(batch, atOnce, func(i int) {
					nc, err := f.connect(jobs[i].key, jobs[i].token)
					if err != nil {
						b.Error(err)
						return
					}
					defer nc.Close()
					if r := jobs[i].send(nc); r.Refused != nil {
						b.Error(r.Refused)
					}
				})
				n += batch
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(n)/ours.Seconds(), "jobs/s")
			b.ReportMetric(float64(n)/floor.Seconds(), "floor-jobs/s")
			b.ReportMetric(floor.Seconds()/ours.Seconds(), "ratio")
			b.ReportMetric(float64(n)/callout.Seconds(), "callout-floor-jobs/s")
			b.ReportMetric(callout.Seconds()/ours.Seconds(), "callout-ratio")
		})
	}
}

// startAsking is a bare server that asks about each connection, as the relay's
// does, and an answer that looks at nothing.
func startAsking(b *testing.B) *bareServer {
	b.Helper()
	kp, err := nkeys.CreateAccount()
	if err != nil {
		b.Fatal(err)
	}
	issuer := wire.PublicKey(kp)
	signer, err := newSigner(kp)
	if err != nil {
		b.Fatal(err)
	}
	service := newKey(b)
	s, stop, err := newBare(func(o *server.Options) {
		auth := server.NewAccount("AUTH")
		o.Accounts = append(o.Accounts, auth)
		callout := &server.AuthCallout{Issuer: issuer, Account: "AUTH", AllowedAccounts: []string{"CFA"}, AuthUsers: []string{wire.PublicKey(service)}}
		for _, u := range o.Nkeys {
			callout.AuthUsers = append(callout.AuthUsers, u.Nkey)
		}
		o.Nkeys = append(o.Nkeys, &server.NkeyUser{Nkey: wire.PublicKey(service), Account: auth})
		o.AuthCallout = callout
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(stop)
	nc, err := nats.Connect(s.url, nats.Nkey(wire.PublicKey(service), service.Sign))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(nc.Close)
	work := make(chan *nats.Msg, 8192)
	for range calloutWorkers {
		go func() {
			for m := range work {
				req, err := jwt.DecodeAuthorizationRequestClaims(string(m.Data))
				if err != nil {
					continue
				}
				key := req.ConnectOptions.Nkey
				user := jwt.NewUserClaims(req.UserNkey)
				user.Name, user.Audience = placed+key, "CFA"
				user.Limits.Subs, user.Limits.Payload = clientSubscriptions, wire.MaxMessage
				user.Permissions.Sub.Allow.Add(wire.InboxPrefix(key) + ".>")
				user.Permissions.Pub.Allow.Add(wire.JobSubject(key, ">"))
				resp := jwt.NewAuthorizationResponseClaims(req.UserNkey)
				resp.Audience = req.Server.ID
				if resp.Jwt, err = user.Encode(signer); err != nil {
					continue
				}
				if out, err := resp.Encode(signer); err == nil {
					_ = m.Respond([]byte(out))
				}
			}
		}()
	}
	sub, err := nc.Subscribe(calloutSubject, func(m *nats.Msg) { work <- m })
	if err == nil {
		err = nc.Flush()
	}
	if err != nil {
		b.Fatal(err)
	}
	ended := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(work); close(ended) })
	b.Cleanup(func() { nc.Close(); <-ended })
	return s
}

// together runs f(0..n-1), atOnce at a time, and says how long all took.
func together(n, atOnce int, f func(int)) time.Duration {
	work := make(chan int)
	var wg sync.WaitGroup
	start := time.Now()
	for range atOnce {
		wg.Go(func() {
			for i := range work {
				f(i)
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	return time.Since(start)
}

// bareServer is nats-server with the relay's settings and no relay.
type bareServer struct {
	url  string
	user nkeys.KeyPair
	js   jetstream.JetStream
}

func startBare(b *testing.B) *bareServer {
	b.Helper()
	s, stop, err := newBare(func(*server.Options) {})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(stop)
	return s
}

func newBare(change func(*server.Options)) (_ *bareServer, stop func(), err error) {
	kp, err := nkeys.CreateUser()
	if err != nil {
		return nil, nil, err
	}
	storeKey, err := nkeys.CreateUser()
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "cfa-bench-")
	if err != nil {
		return nil, nil, err
	}
	clients, store := server.NewAccount("CFA"), server.NewAccount("STORE")
	opts := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, AlwaysEnableNonce: true,
		MaxControlLine: 32 << 10, AuthTimeout: 30, JetStream: true, StoreDir: dir, SyncAlways: true, Accounts: []*server.Account{clients, store},
		Nkeys: []*server.NkeyUser{{Nkey: wire.PublicKey(kp), Account: clients}, {Nkey: wire.PublicKey(storeKey), Account: store}}}
	change(opts)
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, nil, err
	}
	srv.Start()
	stop = func() { srv.Shutdown(); srv.WaitForShutdown(); os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			stop()
		}
	}()
	if !srv.ReadyForConnections(10 * time.Second) {
		return nil, nil, errors.New("bare server does not listen")
	}
	acc, err := srv.LookupAccount("STORE")
	if err != nil {
		return nil, nil, err
	}
	if err := acc.EnableJetStream(nil, nil); err != nil {
		return nil, nil, err
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.Nkey(wire.PublicKey(storeKey), storeKey.Sign))
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, nil, err
	}
	if _, err := js.CreateStream(context.Background(), jetstream.StreamConfig{Name: "BARE", Subjects: []string{"bare.>"}, Storage: jetstream.FileStorage}); err != nil {
		return nil, nil, err
	}
	closed := stop
	return &bareServer{url: srv.ClientURL(), user: kp, js: js}, func() { nc.Close(); closed() }, nil
}

func (s *bareServer) connect() (*nats.Conn, error) {
	return nats.Connect(s.url, nats.Nkey(wire.PublicKey(s.user), s.user.Sign), nats.NoReconnect(), nats.Timeout(20*time.Second))
}

var bareData = make([]byte, 2048)

func (s *bareServer) append(b *testing.B, i int) {
	subject := "bare." + operationID()
	if _, err := s.js.PublishMsg(b.Context(), &nats.Msg{Subject: subject, Data: bareData}, jetstream.WithExpectLastSequencePerSubject(0)); err != nil {
		b.Error(i, err)
	}
}
