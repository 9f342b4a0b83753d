//go:build clients

package broker

// What relays rely on where three servers hold the record, and where it can fail.

import (
	"testing"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// Three replicas say "wrong last sequence" now and then with nobody else writing,
// so the same races as on one server, on three.
func TestOfTwoRelaysOnThreeServersOneWins(t *testing.T) {
	f := newFixture(t)
	x := newTrio(t, f)
	x.run(t)
	r := race(f, func(n int, o Options) *Relay {
		each := *f
		x.start(t, &each, n, o)
		if n == 0 {
			*f = each
		}
		return each.relay
	})
	for _, c := range races {
		if c.after > 0 {
			continue // a clock of these two would sweep up the others' requests
		}
		for _, order := range []string{"the first is first", "the second is first", "both at once", "both at once"} {
			t.Run(c.name+" "+order, func(t *testing.T) { contested(t, r, c, order) })
		}
	}
}

// The server dies that a relay's index listens to, and what ended since counts
// against nobody: the relay asks the record's leader before it refuses.
func TestARequestThatEndedWhileTheIndexWasDeafCountsNoMore(t *testing.T) {
	f := newFixture(t)
	x := newTrio(t, f)
	servers := x.spawn(t)
	x.start(t, f, 0, Options{})
	s := f.relay.store
	ear := func() string { // the server that the first relay's index listens to
		t.Helper()
		for c := range s.stream.ListConsumers(t.Context()).Info() {
			if c.Cluster != nil && c.Cluster.Leader != "" {
				return c.Cluster.Leader
			}
		}
		return ""
	}
	leader := func() string {
		info, err := s.stream.Info(t.Context())
		if err != nil || info.Cluster == nil {
			return ""
		}
		return info.Cluster.Leader
	}
	// Neither is it the relay's own connection that dies, by which it would notice;
	// nor the record's leader, without whom nothing could end meanwhile.
	deaf := ""
	eventually(t, "the index listens to a server that is neither", func() bool {
		deaf = ear()
		switch own := f.relay.net.store.ConnectedServerName(); {
		case deaf == "" || own == "" || leader() == "":
		case own == deaf:
			if err := f.relay.net.store.ForceReconnect(); err != nil {
				t.Fatal(err)
			}
		case leader() == deaf:
			_, _ = f.relay.net.store.Request("$JS.API.STREAM.LEADER.STEPDOWN."+streamName, nil, 2*time.Second)
		default:
			return true
		}
		time.Sleep(100 * time.Millisecond) // between two looks at what announces nothing
		return false
	})
	g := *f
	x.start(t, &g, 1, Options{})

	request := func(j *job) wire.Reply {
		t.Helper()
		return asJob(t, f.relay, j, wire.VerbRequest, wire.RequestMessage{Request: j.env, Token: j.token})
	}
	var jobs []*job
	for range f.relay.rules.Load().config.asking("rocket").Open {
		j := f.ofItsOwnRun()
		must(t, request(j))
		jobs = append(jobs, j)
	}
	more := f.ofItsOwnRun()
	refused(t, request(more), wire.RefusedLimit, "as many as it may")
	eventually(t, "the flood's bound on reads is over", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.now().Sub(s.refreshed["rocket"]) >= refreshEvery
	})

	if err := servers[deaf].Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = servers[deaf].Wait()
	must(t, asJob(t, g.relay, jobs[0], wire.VerbCancel, wire.StepMessage{Step: sign(t, &wire.Cancel{Key: jobs[0].pub, Digest: jobs[0].dig, Why: "the run was stopped"}, jobs[0].key)}))
	// As the index has it, there is no room.
	if _, err := s.reserve(more.pub, place{project: "rocket", kind: wire.AskCode}); err == nil {
		// On a busy machine a second passes between the kill and this.
		t.Skip("the first relay's index has found another server already, and heard of the end: nothing was tried")
	}
	must(t, request(more))
	// And it hears again by itself.
	last := f.ofItsOwnRun()
	must(t, asJob(t, g.relay, jobs[1], wire.VerbCancel, wire.StepMessage{Step: sign(t, &wire.Cancel{Key: jobs[1].pub, Digest: jobs[1].dig, Why: "the run was stopped"}, jobs[1].key)}))
	must(t, asJob(t, g.relay, last, wire.VerbRequest, wire.RequestMessage{Request: last.env, Token: last.token}))
	for late := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, ended := s.recent(jobs[1].pub)
		_, asked := s.recent(last.pub)
		if !ended && asked {
			return
		}
		if time.Now().After(late) {
			t.Fatal("the index stays deaf")
		}
	}
}
