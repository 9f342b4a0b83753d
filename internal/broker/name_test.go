package broker

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/continuousauth/action/internal/audit"
	"github.com/continuousauth/action/internal/wire"
)

// What docs/operating.md says of a relay's name: with another one it is another
// relay to everybody, by what they sign and by what their tokens are for; the keys
// of responders, the rules and the record stay.
func TestARelayWithAnotherNameIsAnotherRelay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	text := f.configText(t.TempDir(), onLoopback)
	f.start(text, Options{})
	waits := f.accepted(rocketRepo, "rocket")
	must(t, f.accepted(rocketRepo, "rocket").cancel())
	f.relay.Close()

	const name = "new.test"
	f.start(strings.Replace(text, "host: "+relayName, "host: "+name, 1), Options{})
	if nc, err := f.connect(waits.key, waits.token); err == nil {
		nc.Close()
		t.Error("a token for the old name is taken")
	}
	f.log.line(t, "what=connect", "outcome=refused", "audience")
	if nc, err := f.connect(f.ana.connect, ""); err == nil { // hello names the old one
		nc.Close()
		t.Error("a responder that means the old name is let in")
	}
	// The same keys, told of the new name, and the same rules.
	shown, err := wire.SignConnect(f.ana.connect, name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect(f.relay.ClientURL(), nats.Nkey(f.ana.key(), f.ana.connect.Sign), nats.Token(shown), nats.CustomInboxPrefix(wire.InboxPrefix(f.ana.key())), nats.Timeout(20*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	j := f.job(rocketRepo, "rocket")
	j.token = f.token(rocketRepo, wire.Audience(name, j.pub), nil)
	j.connect()
	// By the request's own word too, whatever the token says.
	refused(t, j.send(j.nc), wire.RefusedToken, relayName)
	j.ask("rocket", func(q *wire.Request) { q.Relay = name })
	must(t, j.send(j.nc))
	page := request(t, nc, wire.DeskSubject(f.ana.key(), wire.VerbPending), wire.PendingQuery{}).Page
	if page == nil || len(page.Items) != 2 {
		t.Errorf("of two requests that are open are listed: %+v", page)
	}
	must(t, j.cancel())

	// The record is one; who reads it says that the relay had another name.
	c := f.relay.rules.Load().config
	a, all := whole(t, c, AuditQuery{})
	defer a.Close()
	for _, former := range [][]string{nil, {relayName}} {
		v := audit.NewVerifier(a.Extent, c.Enrolled)
		v.Former = former
		for _, m := range all {
			v.Add(m)
		}
		v.End()
		if good := v.Wrong == 0; good != (former != nil) {
			t.Errorf("with %q: %v", former, v.Problems)
		}
	}
	f.relay.Close() // so that the fixture does not verify it by the new name alone
}
