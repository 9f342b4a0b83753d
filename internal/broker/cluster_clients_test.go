//go:build clients

package broker

// The record on three servers, one of which dies: what relays rely on there is
// shown where it can fail.

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestNoRequestIsLostWhenAServerOfTheClusterDies(t *testing.T) {
	// One after the other: each is three servers that write to disk at each step.
	t.Run("config mode", func(t *testing.T) { aServerDies(t, newExternal(t, true)) })
	t.Run("operator mode", func(t *testing.T) { aServerDies(t, newOperator(t)) })
}

func aServerDies(t *testing.T, x *external) {
	base := x.dir
	var routes, clients []string
	ports := make([]int, 3)
	for i := range ports {
		ports[i] = freePort(t)
		routes = append(routes, fmt.Sprintf(`"nats://127.0.0.1:%d"`, ports[i]))
	}
	var servers []*server.Server
	for i := range ports {
		x.Name, x.Store = fmt.Sprintf("nats-%d", i+1), filepath.Join(base, fmt.Sprintf("store-%d", i+1))
		x.Extra = fmt.Sprintf("cluster { name: cfa, listen: \"127.0.0.1:%d\", routes: [ %s ] }\n", ports[i], strings.Join(routes, ", "))
		x.run(t)
		servers = append(servers, x.server)
		clients = append(clients, x.server.ClientURL())
	}
	eventually(t, "the three have a leader", func() bool {
		return slices.ContainsFunc(servers, func(s *server.Server) bool { return s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == 3 })
	})
	section := func(n int) string {
		text := strings.Replace(x.section(n), x.server.ClientURL(), strings.Join(clients, ","), 1)
		return strings.Replace(text, "replicas: 1", "replicas: 3", 1)
	}
	f := newFixture(t)
	f.start(f.configText(t.TempDir(), section(0)), Options{})
	g := f.second(f.configText(t.TempDir(), section(1)), Options{})

	alive := slices.Clone(clients)
	connect := func(pub string, opts ...nats.Option) *nats.Conn {
		t.Helper()
		nc, err := nats.Connect(strings.Join(alive, ","), append(opts, nats.CustomInboxPrefix(wire.InboxPrefix(pub)), nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.IgnoreAuthErrorAbort(), nats.Timeout(10*time.Second), nats.RetryOnFailedConnect(true))...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	// until says the same again for as long as a client would.
	until := func(nc *nats.Conn, subject string, msg any) wire.State {
		t.Helper()
		data, err := json.Marshal(msg)
		if err != nil {
			t.Fatal(err)
		}
		var last string
		for late := time.Now().Add(60 * time.Second); time.Now().Before(late); time.Sleep(20 * time.Millisecond) {
			m, err := nc.Request(subject, data, 5*time.Second)
			if err != nil {
				last = err.Error()
				continue
			}
			var r wire.Reply
			if err := wire.Decode(m.Data, wire.MaxMessage, &r); err != nil {
				t.Fatal(err)
			}
			if r.Refused == nil {
				return *r.State
			}
			if r.Refused.Code != wire.RefusedBusy {
				t.Fatalf("%s: %v", subject, r.Refused)
			}
			last = r.Refused.Error()
		}
		t.Fatalf("%s: %s", subject, last)
		return wire.State{}
	}
	ana := connect(f.ana.key(), nats.Nkey(f.ana.key(), f.ana.connect.Sign), nats.TokenHandler(func() string { return hello(t, f.ana.connect) }))
	var jobs []*job
	const n, dies = 60, 20
	for i := range n {
		if i == dies {
			// The one that leads the stream, and so has most to lose.
			info, err := f.relay.store.stream.Info(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			k := slices.IndexFunc(servers, func(s *server.Server) bool { return s.Name() == info.Cluster.Leader })
			alive = slices.Delete(slices.Clone(clients), k, k+1)
			go servers[k].Shutdown()
		}
		j := f.job(rocketRepo, "rocket")
		j.nc = connect(j.pub, nats.Nkey(j.pub, j.key.Sign), nats.Token(j.token))
		until(j.nc, wire.JobSubject(j.pub, wire.VerbRequest), wire.RequestMessage{Request: j.env, Token: j.token})
		m := f.ana.answerMessage(t, j, 1)
		until(ana, wire.DeskSubject(f.ana.key(), wire.VerbAnswer), m)
		until(j.nc, wire.JobSubject(j.pub, wire.VerbGot), wire.StepMessage{Step: sign(t, &wire.Got{Key: j.pub, Digest: j.dig, Attempt: 1, Sealed: m.Sealed.Hash()}, j.key)})
		until(j.nc, wire.JobSubject(j.pub, wire.VerbDone), wire.StepMessage{Step: sign(t, &wire.Done{Key: j.pub, Digest: j.dig, Attempt: 1, Outcome: wire.OutcomeOK}, j.key)})
		j.nc.Close()
		jobs = append(jobs, j)
	}
	for i, j := range jobs {
		var events []lifecycle.Event
		for _, rec := range records(t, f.relay, j.pub) {
			events = append(events, rec.Event)
		}
		if fmt.Sprint(events) != "[asked answered got done]" {
			t.Errorf("request %d: %v", i, events)
		}
	}
	for _, r := range []*Relay{f.relay, g.relay} {
		eventually(t, "both indexes have caught up", func() bool { return r.store.count() == 0 })
	}
}
