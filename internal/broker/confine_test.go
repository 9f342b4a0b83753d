package broker

// What a client cannot do: reach past its own subjects, by itself or through the
// relay, or come in as somebody else. Each refusal stands beside the same deed
// by whom it belongs to, so that a test that refuses everything fails as well.

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

func TestAJobCannotPublishButBelowItsOwnKey(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		bad := make(errs, 64)
		a, b := f.job(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket")
		a.connect(bad.option())
		must(t, a.send(a.nc))
		ana := f.sit(f.ana, bad.option())
		told := listen(t, ana.nc, wire.ProjectSubject("rocket"))
		net := f.relay.net
		arrives := func(sub *nats.Subscription, subject string) func() error {
			return func() error {
				if err := net.client.Publish(subject, []byte("control")); err != nil {
					return err
				}
				for {
					m, err := sub.NextMsg(10 * time.Second)
					if err != nil || string(m.Data) == "control" {
						return err
					}
				}
			}
		}
		answers := func(nc *nats.Conn, subject string, msg any) func() error {
			return func() error {
				data, err := json.Marshal(msg)
				if err != nil {
					return err
				}
				_, err = nc.Request(subject, data, 10*time.Second)
				return err
			}
		}
		before := b.state()
		for _, c := range []struct {
			subject  string
			rightful func() error
		}{
			{wire.JobSubject(b.pub, wire.VerbState), answers(b.nc, wire.JobSubject(b.pub, wire.VerbState), wire.StateQuery{})},
			{wire.JobSubject(b.pub, wire.VerbCancel), answers(b.nc, wire.JobSubject(b.pub, wire.VerbCancel), wire.StateQuery{})},
			{wire.DeskSubject(f.ana.key(), wire.VerbPending), answers(ana.nc, wire.DeskSubject(f.ana.key(), wire.VerbPending), wire.PendingQuery{})},
			{wire.DeskSubject(a.pub, wire.VerbPending), answers(ana.nc, wire.DeskSubject(f.ana.key(), wire.VerbPending), wire.PendingQuery{})},
			{wire.HintSubject(b.pub), arrives(b.hints, wire.HintSubject(b.pub))},
			{wire.HintSubject(a.pub), arrives(a.hints, wire.HintSubject(a.pub))},
			{wire.InboxPrefix(b.pub) + ".reply", answers(b.nc, wire.JobSubject(b.pub, wire.VerbState), wire.StateQuery{})},
			{wire.ProjectSubject("rocket"), arrives(told, wire.ProjectSubject("rocket"))},
			{requestPrefix + a.pub, func() error {
				_, err := f.relay.store.js.Publish(t.Context(), "cfa.store.v1.control", []byte("{}"))
				return err
			}},
			{"$JS.API.INFO", answers(net.store, "$JS.API.INFO", struct{}{})},
			{"$JS.API.STREAM.PURGE." + streamName, answers(net.store, "$JS.API.STREAM.INFO."+streamName, struct{}{})},
			{"$SYS.REQ.SERVER.PING", answers(net.system, "$SYS.REQ.SERVER.PING", struct{}{})},
			{"$SYS.REQ.USER.INFO", answers(net.system, "$SYS.REQ.USER.INFO", struct{}{})},
			{"$SYS.REQ.SERVER." + f.natsServer().ID() + ".KICK", answers(net.system, "$SYS.REQ.SERVER."+f.natsServer().ID()+".IDZ", struct{}{})},
			{calloutSubject, func() error {
				nc, err := f.connect(f.bob.connect, "") // who is let in was asked about there
				if err == nil {
					nc.Close()
				}
				return err
			}},
		} {
			if err := c.rightful(); err != nil {
				t.Errorf("%s: the control fails: %v", c.subject, err)
			}
			if err := a.nc.Publish(c.subject, []byte("{}")); err != nil {
				t.Fatal(err)
			}
			bad.violation(t, fmt.Sprintf("Publish to %q", c.subject))
		}
		if after := b.state(); after.State.Rev != before.State.Rev {
			t.Errorf("the other job's request has changed: %+v", after.State)
		}
		// A responder neither: not as a job, not as another responder, not to
		// its own project.
		for _, subject := range []string{
			wire.JobSubject(b.pub, wire.VerbCancel), wire.JobSubject(f.ana.key(), wire.VerbState), wire.DeskSubject(f.bob.key(), wire.VerbAnswer),
			wire.ProjectSubject("rocket"), wire.HintSubject(b.pub), requestPrefix + b.pub, "$JS.API.INFO", "$SYS.REQ.SERVER.PING",
		} {
			if err := ana.nc.Publish(subject, []byte("{}")); err != nil {
				t.Fatal(err)
			}
			bad.violation(t, fmt.Sprintf("Publish to %q", subject))
		}
		must(t, a.state())
	})
}

func TestAJobHearsOnlyItsOwnInbox(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		bad := make(errs, 64)
		a, b := f.job(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket")
		a.connect(bad.option())
		must(t, a.send(a.nc))
		ana := f.sit(f.ana)
		net := f.relay.net
		type row struct {
			subject string
			by      *nats.Conn // who may
			hears   bool       // and hears of what follows
			own, as *nats.Subscription
		}
		rows := []*row{
			{subject: wire.InboxPrefix(b.pub) + ".>", by: b.nc, hears: true},
			{subject: wire.HintSubject(b.pub), by: b.nc, hears: true},
			{subject: "_INBOX_*.>", by: net.client},
			{subject: "_INBOX_*.hint", by: net.client},
			{subject: wire.ProjectSubject("rocket"), by: ana.nc, hears: true},
			{subject: "cfa.v1.hint.*", by: net.client},
			{subject: "cfa.v1.job.>", by: net.client, hears: true},
			{subject: wire.JobSubject(b.pub, "*"), by: net.client, hears: true},
			{subject: wire.JobSubject(a.pub, "*"), by: net.client},
			{subject: "cfa.v1.desk.>", by: net.client, hears: true},
			{subject: "cfa.>", by: net.client, hears: true},
			{subject: ">", by: net.client, hears: true},
			{subject: "*.>", by: net.client, hears: true},
			{subject: "cfa.store.>", by: net.store},
			{subject: "$JS.>", by: net.store},
			{subject: "$JS.API.>", by: net.store},
			{subject: "$SYS.>", by: net.system, hears: true},
			{subject: "$SYS.ACCOUNT.*.CONNECT", by: net.system, hears: true},
			{subject: calloutSubject, by: net.callout, hears: true},
		}
		for _, r := range rows {
			r.own = listen(t, r.by, r.subject)
			var err error
			if r.as, err = a.nc.SubscribeSync(r.subject); err != nil {
				t.Fatal(err)
			}
			bad.violation(t, fmt.Sprintf("Subscription to %q", r.subject))
		}
		// Nor may it take the relay's place in the queue.
		if _, err := a.nc.QueueSubscribeSync(wire.JobSubject(b.pub, "*"), "relay"); err != nil {
			t.Fatal(err)
		}
		bad.violation(t, fmt.Sprintf("Subscription to %q", wire.JobSubject(b.pub, "*")))

		// What there is to hear.
		must(t, ana.say(wire.VerbOpen, f.ana.openMessage(t, b)))
		must(t, b.state())
		f.accepted(rocketRepo, "rocket")
		for _, r := range rows {
			if r.hears {
				if _, err := r.own.NextMsg(10 * time.Second); err != nil {
					t.Errorf("%s: the control: who may listen there hears nothing: %v", r.subject, err)
				}
			}
			if r.by != ana.nc && r.by != b.nc {
				if err := r.own.Unsubscribe(); err != nil {
					t.Error(err)
				}
			}
		}
		must(t, a.state()) // all that was sent to it before has come
		for _, r := range rows {
			if n, _, err := r.as.Pending(); err == nil && n != 0 {
				t.Errorf("%s: the job has heard %d messages", r.subject, n)
			}
		}
	})
}

func TestAResponderHearsOnlyItsOwnProjects(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		bad := make(errs, 64)
		eve := f.sit(f.eve, bad.option())
		own := listen(t, eve.nc, wire.ProjectSubject("other"))
		heard := map[string]*nats.Subscription{}
		for _, subject := range []string{
			wire.ProjectSubject("rocket"), "cfa.v1.hint.*", "cfa.v1.hint.>", "cfa.v1.>", ">",
			wire.HintSubject(f.ana.key()), "cfa.v1.job.>", "$JS.API.>", "$SYS.>",
		} {
			s, err := eve.nc.SubscribeSync(subject)
			if err != nil {
				t.Fatal(err)
			}
			bad.violation(t, fmt.Sprintf("Subscription to %q", subject))
			heard[subject] = s
		}
		f.accepted(rocketRepo, "rocket")
		f.accepted(otherRepo, "other")
		if _, err := own.NextMsg(10 * time.Second); err != nil {
			t.Fatalf("the control, its own project: %v", err)
		}
		for subject, s := range heard {
			if n, _, err := s.Pending(); err == nil && n != 0 {
				t.Errorf("%s: heard %d messages", subject, n)
			}
		}
	})
}

// NATS looks at where a client publishes and listens, not at where it asks a
// reply to go: whoever answers writes there with its own rights.
func TestTheRelayRepliesIntoNobodyElsesInbox(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		a, b := f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket")
		ana := f.sit(f.ana)
		others := listen(t, b.nc, wire.InboxPrefix(b.pub)+".>")
		told := listen(t, ana.nc, wire.ProjectSubject("rocket"))
		ask := func(reply string) {
			t.Helper()
			if err := a.nc.PublishRequest(wire.JobSubject(a.pub, wire.VerbState), reply, []byte(`{"rev":0}`)); err != nil {
				t.Fatal(err)
			}
			if err := a.nc.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		before, err := f.relay.store.stream.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, reply := range []string{
			wire.InboxPrefix(b.pub) + ".reply", wire.HintSubject(b.pub), wire.HintSubject(a.pub), wire.HintSubject(a.pub) + ".x",
			wire.ProjectSubject("rocket"), wire.JobSubject(b.pub, wire.VerbCancel), wire.JobSubject(a.pub, wire.VerbCancel),
			requestPrefix + a.pub, "$JS.API.STREAM.PURGE." + streamName, "$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.KICK",
			wire.InboxPrefix(a.pub), wire.InboxPrefix(a.pub) + "x.reply", calloutSubject,
		} {
			ask(reply)
			n++
			f.log.line(t, "message dropped", a.pub, "its reply subject is not in its sender's own inbox")
		}
		// The control: into its own, it does.
		own := listen(t, a.nc, wire.InboxPrefix(a.pub)+".reply.1")
		ask(wire.InboxPrefix(a.pub) + ".reply.1")
		if _, err := own.NextMsg(10 * time.Second); err != nil {
			t.Fatalf("no reply in its own inbox: %v", err)
		}
		eventually(t, "each is in the log", func() bool { return strings.Count(f.log.String(), "message dropped") == n })
		must(t, b.state())
		if m, err := others.NextMsg(10 * time.Second); err != nil || !strings.Contains(string(m.Data), `"rev"`) {
			t.Fatalf("%v", err) // its own reply, which it has asked for
		}
		for name, s := range map[string]*nats.Subscription{"another's inbox": others, "another's hints": b.hints, "the project's hints": told, "its own hints": a.hints} {
			for k, _, _ := s.Pending(); k > 0; k-- {
				if m, err := s.NextMsg(time.Second); err != nil || !strings.Contains(string(m.Data), `"hint":"state"`) {
					t.Errorf("%s: a reply came: %q", name, m.Data)
				}
			}
		}
		// On record is one note of it, however often it was tried, and nothing else.
		var note *jetstream.RawStreamMsg
		eventually(t, "it is on record", func() bool {
			note, err = f.relay.store.stream.GetLastMsgForSubject(t.Context(), droppedPrefix+a.pub)
			return err == nil
		})
		if n, err := lifecycle.DecodeNote(note.Data); err != nil || n.About != lifecycle.AboutDropped || n.Key != a.pub || n.Name != wire.VerbState {
			t.Errorf("on record: %v %+v", err, n)
		}
		after, err := f.relay.store.stream.Info(t.Context())
		if err != nil || after.State.LastSeq != before.State.LastSeq+1 {
			t.Errorf("the stream has changed: %v %d %d", err, before.State.LastSeq, after.State.LastSeq)
		}

		// That the trap is there: who answers without a look at the reply
		// subject writes into the other's inbox.
		echo := wire.JobSubject(a.pub, "careless.echo") // one level below what the relay handles
		if _, err := f.relay.net.client.Subscribe(echo, func(m *nats.Msg) { _ = m.Respond([]byte("trap")) }); err != nil {
			t.Fatal(err)
		}
		if err := f.relay.net.client.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := a.nc.PublishRequest(echo, wire.InboxPrefix(b.pub)+".reply", nil); err != nil {
			t.Fatal(err)
		}
		if m, err := others.NextMsg(10 * time.Second); err != nil || string(m.Data) != "trap" {
			t.Errorf("nothing came the careless way (%v); then the check above shows nothing", err)
		}
	})
}

// The last word of a subject is the client's own, and goes into the log.
func TestAClientsWordIsCutAndCleanedInTheLog(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	j := f.accepted(rocketRepo, "rocket")
	for _, reply := range []string{wire.InboxPrefix(j.pub) + ".r", wire.InboxPrefix(f.ana.key()) + ".r"} {
		for _, verb := range []string{"\u202eevil", "\x1b[2Jevil", strings.Repeat("evil", 3000)} {
			if err := j.nc.PublishRequest(wire.JobSubject(j.pub, verb), reply, []byte("{}")); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, what := range []string{"what=<U+202E>evil", "what=<U+001B>[2Jevil", "verb=<U+202E>evil", "what=evilevil"} {
		f.log.line(t, "decision", j.pub, "outcome=refused", what)
	}
	eventually(t, "each is in the log", func() bool { return strings.Count(f.log.String(), "evil…") == 2 })
	for line := range strings.Lines(f.log.String()) {
		if len(line) > 1000 || strings.ContainsAny(line, "\u202e\x1b") || strings.Contains(line, `\u202e`) || strings.Contains(line, `\x1b`) {
			t.Errorf("a line of %d bytes: %.200s", len(line), line)
		}
	}
}

// userOf finds which account a connection was placed in.
func (f *fixture) placedIn(id uint64) string {
	f.t.Helper()
	z, err := f.natsServer().Connz(&server.ConnzOptions{Username: true, CID: id})
	if err != nil || len(z.Conns) != 1 {
		f.t.Fatalf("connection %d: %v %+v", id, err, z)
	}
	return f.nameOf(z.Conns[0].Account)
}

// nameOf is the name of an account that the server may call by its key.
func (f *fixture) nameOf(account string) string {
	if name, ok := f.names[account]; ok {
		return name
	}
	return account
}

// relayKeys are the public keys of the relay's own users, by account.
func (f *fixture) relayKeys() map[string]string {
	f.t.Helper()
	z, err := f.natsServer().Connz(&server.ConnzOptions{Username: true, Limit: 100})
	if err != nil {
		f.t.Fatal(err)
	}
	keys := map[string]string{}
	for _, c := range z.Conns {
		if strings.HasPrefix(c.Name, "cfa-relay ") {
			keys[f.nameOf(c.Account)] = c.AuthorizedUser
		}
	}
	if len(keys) != 4 {
		f.t.Fatalf("the relay's users: %v", keys)
	}
	return keys
}

func TestNoClientChoosesItsAccount(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		own := f.relayKeys()
		account, err := nkeys.CreateAccount()
		if err != nil {
			t.Fatal(err)
		}
		forged := func(user, audience string, bearer bool) string {
			u := jwt.NewUserClaims(user)
			u.Name, u.Audience, u.BearerToken = "SYS", audience, bearer
			tok, err := u.Encode(account)
			if err != nil {
				t.Fatal(err)
			}
			return tok
		}
		for _, c := range []struct {
			name    string
			change  func(e *entrance, j *job, connect map[string]any)
			refused string // in the log; "" for let in, as the job that it is
		}{
			{"as a job does", func(*entrance, *job, map[string]any) {}, ""},
			{"asks for the account", func(_ *entrance, _ *job, c map[string]any) { c["account"] = "SYS" }, "-"},
			{"asks for a new account", func(_ *entrance, _ *job, c map[string]any) { c["account"], c["new_account"] = "STORE", true }, "-"},
			{"user and password", func(_ *entrance, _ *job, c map[string]any) { c["user"], c["pass"] = "SYS", "SYS" }, "a user name or password was given"},
			{"user without key", func(_ *entrance, _ *job, c map[string]any) {
				delete(c, "nkey")
				delete(c, "sig")
				c["user"], c["pass"] = own["SYS"], "x"
			}, "a user name or password was given"},
			{"user is a relay's key", func(_ *entrance, _ *job, c map[string]any) { c["user"] = own["SYS"] }, "a user name or password was given"},
			{"a relay's key, signed with its own", func(_ *entrance, _ *job, c map[string]any) { c["nkey"] = own["SYS"] }, "-"},
			{"the store's key, signed with its own", func(_ *entrance, _ *job, c map[string]any) { c["nkey"] = own["STORE"] }, "-"},
			{"a relay's key, unsigned", func(_ *entrance, _ *job, c map[string]any) { c["nkey"] = own["CFA"]; delete(c, "sig") }, "-"},
			{"the callout's key without a token", func(_ *entrance, _ *job, c map[string]any) { c["nkey"] = own["AUTH"]; delete(c, "auth_token") }, "-"},
			{"a user JWT beside it", func(_ *entrance, j *job, c map[string]any) { c["jwt"] = forged(j.pub, "SYS", false) }, ""},
			{"a user JWT of a relay's user", func(_ *entrance, _ *job, c map[string]any) { c["jwt"] = forged(own["SYS"], "SYS", false) }, ""},
			{"a bearer JWT alone", func(_ *entrance, j *job, c map[string]any) {
				for _, n := range []string{"nkey", "sig", "auth_token"} {
					delete(c, n)
				}
				c["jwt"] = forged(j.pub, "SYS", true)
			}, "no connecting key was shown"},
			{"the ID token alone", func(_ *entrance, _ *job, c map[string]any) { delete(c, "nkey"); delete(c, "sig") }, "no connecting key was shown"},
			{"the relay's client name", func(_ *entrance, _ *job, c map[string]any) { c["name"] = "cfa-relay SYS" }, ""},
		} {
			j := f.job(rocketRepo, "rocket")
			e := f.knock(f.address())
			fields := map[string]any{"verbose": false, "pedantic": false, "lang": "test", "version": "0", "protocol": 1,
				"nkey": j.pub, "sig": e.signature(j.key), "auth_token": j.token}
			c.change(e, j, fields)
			if f.names != nil && fields["jwt"] != nil {
				c.refused = "-" // by a server in operator mode, which believes no stranger's JWT
			}
			got := e.say(maps.Clone(fields))
			if c.refused != "" {
				if !strings.Contains(got, "Authorization Violation") {
					t.Errorf("%s: %s", c.name, got)
				}
				if c.refused != "-" {
					f.log.line(t, "what=connect", "outcome=refused", c.refused)
				}
				continue
			}
			if got != "PONG" {
				t.Errorf("%s: %s", c.name, got)
				continue
			}
			if in := f.placedIn(e.ID); in != "CFA" {
				t.Errorf("%s: placed in %s", c.name, in)
			}
			if _, err := fmt.Fprintf(e.conn, "SUB $SYS.> 1\r\nPING\r\n"); err != nil {
				t.Fatal(err)
			}
			if line, err := e.next(); err != nil || !strings.Contains(line, "Permissions Violation for Subscription to \"$SYS.>\"") {
				t.Errorf("%s: %q %v", c.name, line, err)
			}
		}
	})
}

// The server's allowed_accounts does not keep a callout from placing a user
// anywhere, so nothing but the relay's own configuration and code do.
func TestPlacingUsersIsTheRelaysOwnDuty(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	j := f.job(rocketRepo, "rocket")
	e := f.knock(f.address())
	f.relay.net.account = "SYS" // what no configuration can do
	if got := e.say(map[string]any{"verbose": false, "nkey": j.pub, "sig": e.signature(j.key), "auth_token": j.token}); got != "PONG" {
		t.Fatal(got)
	}
	if in := f.placedIn(e.ID); in != "SYS" {
		t.Errorf("placed in %s: the server has begun to refuse this; the check of nats.account is then a second one", in)
	}
	for _, name := range []string{"SYS", "sys", "$SYS"} {
		_, err := ParseConfig([]byte(f.configText("/data", "nats: {url: 'nats://127.0.0.1:4222', callout: {nkey: a}, client: {nkey: a}, store: {nkey: a}, system: {nkey: a}, issuer: a, account: "+name+"}\n")), "/")
		if err == nil || !strings.Contains(err.Error(), "is the system account; jobs and responders must have one of their own") {
			t.Errorf("nats.account %s: %v", name, err)
		}
	}
}

func TestTheEmbeddedServerSpeaksNothingButNATS(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(f.configText(t.TempDir(), "listen: {nats: \"127.0.0.1:0\", websocket: \"127.0.0.1:0\"}\n"), Options{})
	v, err := f.natsServer().Varz(nil)
	if err != nil {
		t.Fatal(err)
	}
	if v.LeafNode.Port != 0 || v.MQTT.Port != 0 || v.Cluster.Port != 0 || v.Gateway.Port != 0 || v.HTTPPort != 0 || v.HTTPSPort != 0 || f.natsServer().MonitorAddr() != nil || f.natsServer().ProfilerAddr() != nil {
		t.Errorf("more than clients can connect: %+v", v)
	}
	if !v.AuthRequired || v.MaxControlLine < 2*wire.MaxToken {
		t.Errorf("auth %v, control line %d", v.AuthRequired, v.MaxControlLine)
	}
	if js := f.natsServer().JetStreamConfig(); js == nil || !js.SyncAlways {
		t.Error("writes are not forced to the disk")
	}

	// MQTT on the client port is no protocol.
	mqtt := mqttConnect("job", "user", "password")
	e := f.knock(f.address())
	if _, err := e.conn.Write(mqtt); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(e.lines); err == nil && !strings.Contains(string(answer), "-ERR") {
		t.Errorf("MQTT on the client port: %q", answer)
	}

	// nats-server's WebSocket listener knows MQTT and leaf nodes by the path.
	ws := f.relay.WebSocketURL()
	addr := strings.TrimPrefix(ws, "ws://")
	if _, status := upgrade(t, addr, "/mqtt", map[string]string{"Sec-WebSocket-Protocol": "mqtt"}); status == http.StatusSwitchingProtocols {
		t.Error("MQTT over WebSocket is taken")
	}
	conn, status := upgrade(t, addr, "/leafnode", nil)
	if status == http.StatusSwitchingProtocols {
		if answer, _ := io.ReadAll(conn); len(answer) != 0 {
			t.Errorf("a leaf node over WebSocket got an answer: %q", answer)
		}
	}
	// The control: a client over WebSocket.
	nc, err := nats.Connect(ws, nats.Nkey(f.ana.key(), f.ana.connect.Sign), nats.Token(hello(t, f.ana.connect)), nats.CustomInboxPrefix(wire.InboxPrefix(f.ana.key())), nats.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if r := request(t, nc, wire.DeskSubject(f.ana.key(), wire.VerbPending), wire.PendingQuery{}); r.Page == nil {
		t.Error(r.Refused)
	}
}

// mqttConnect is a CONNECT packet (MQTT 3.1.1, section 3.1).
func mqttConnect(id, user, password string) []byte {
	field := func(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }
	flags := byte(2) // clean session
	payload := field(id)
	if user != "" {
		flags |= 0xC0
		payload = append(append(payload, field(user)...), field(password)...)
	}
	body := append(append(field("MQTT"), 4, flags, 0, 60), payload...)
	return append([]byte{0x10, byte(len(body))}, body...)
}

// upgrade asks for a WebSocket (RFC 6455, section 4.1).
func upgrade(t testing.TB, addr, path string, header map[string]string) (net.Conn, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn, shake(t, conn, addr, path, header)
}

func shake(t testing.TB, conn net.Conn, host, path string, header map[string]string) int {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	text := "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	for k, v := range header {
		text += k + ": " + v + "\r\n"
	}
	if _, err := io.WriteString(conn, text+"\r\n"); err != nil {
		t.Fatal(err)
	}
	// A byte at a time: what follows the answer is for the next reader.
	var got []byte
	for one := make([]byte, 1); !bytes.HasSuffix(got, []byte("\r\n\r\n")); {
		if _, err := conn.Read(one); err != nil {
			t.Fatalf("%q: %v", got, err)
		}
		got = append(got, one[0])
	}
	var status int
	if _, err := fmt.Sscanf(string(got), "HTTP/1.1 %d", &status); err != nil {
		t.Fatalf("%q", got)
	}
	return status
}

func TestAMessageBeyondTheLimitClosesTheConnection(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		for _, size := range []int{wire.MaxMessage, wire.MaxMessage + 1} {
			j := f.job(rocketRepo, "rocket")
			e := f.knock(f.address())
			if got := e.say(map[string]any{"verbose": false, "protocol": 1, "nkey": j.pub, "sig": e.signature(j.key), "auth_token": j.token}); got != "PONG" {
				t.Fatal(got)
			}
			inbox := wire.InboxPrefix(j.pub) + ".reply"
			if _, err := fmt.Fprintf(e.conn, "SUB %s 1\r\nPUB %s %s %d\r\n%s\r\n", inbox, wire.JobSubject(j.pub, wire.VerbState), inbox, size, bytes.Repeat([]byte(" "), size)); err != nil {
				t.Fatal(err)
			}
			line, err := e.next()
			switch over := size > wire.MaxMessage; {
			case err != nil:
				t.Fatal(err)
			case over && !strings.Contains(line, "-ERR 'Maximum Payload Violation'"):
				t.Errorf("%d bytes: %s", size, line)
			case over:
				if _, err := io.ReadAll(e.lines); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%d bytes: the connection goes on", size)
				}
			case !strings.HasPrefix(line, "MSG "+inbox):
				t.Errorf("the control, %d bytes: %s", size, line)
			}
		}
	})
}

func TestAClientHasFewSubscriptions(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	bad := make(errs, 64)
	j := f.job(rocketRepo, "rocket")
	j.connect(bad.option())
	for i := range clientSubscriptions + 10 {
		if _, err := j.nc.SubscribeSync(fmt.Sprintf("%s.x%d", wire.InboxPrefix(j.pub), i)); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-bad:
		if !strings.Contains(err.Error(), "maximum subscriptions exceeded") {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("any number of subscriptions is allowed")
	}
}
