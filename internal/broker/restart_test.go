package broker

// A relay that ends, and what is left of it: nothing that runs, and a store from
// which the next one goes on.

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

func TestARequestOutlivesTheRelay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	text := f.configText(t.TempDir(), onLoopback)
	f.start(text, Options{})
	ana := f.sit(f.ana)
	waits, answered, over := f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket")
	m, r := ana.answer(answered, 1)
	must(t, r)
	must(t, over.cancel())
	rev := must(t, waits.state()).Rev
	f.relay.Close()

	f.start(text, Options{})
	for _, j := range []*job{waits, answered, over} {
		j.connect()
	}
	ana = f.sit(f.ana)
	if p := ana.pending(); len(p.Items) != 2 {
		t.Errorf("%d requests are listed", len(p.Items))
	}
	if s := must(t, waits.state()); s.State != "pending" || s.Rev != rev {
		t.Errorf("%+v", s)
	}
	// The code was in nobody's store; its responder still has it.
	if s := must(t, answered.state()); s.State != "answered" || s.Sealed != m.Sealed.Hash().String() {
		t.Errorf("%+v", s)
	}
	must(t, ana.say(wire.VerbAnswer, m))
	hint(t, answered.hints, answerOf(m))
	must(t, answered.got(1, m.Sealed.Hash()))
	_, r = ana.answer(waits, 1)
	must(t, r)
	if s := must(t, over.send(over.nc)); s.State != "cancelled" {
		t.Errorf("asked again, it is %s", s.State)
	}
}

// A relay that was down over a weekend: what was open when it died ends then, and
// is not open for ever on record.
func TestWhatWasOpenIsEndedHoweverLongNoRelayRan(t *testing.T) {
	t.Parallel()
	c := &clock{}
	f := newFixture(t)
	text := f.configText(t.TempDir(), onLoopback)
	o := Options{Now: c.now, opened: c.store}
	f.start(text, o)
	j := f.accepted(rocketRepo, "rocket")
	f.relay.Close()
	c.move(60 * time.Hour)
	f.start(text, o)
	f.sweep(c)
	if e, err := f.relay.store.last(t.Context(), j.pub); err != nil || e.rec.State != lifecycle.StateExpired {
		t.Errorf("it is %q, %v", e.rec.State, err)
	}
	if n := f.relay.store.count(); n != 0 {
		t.Errorf("%d requests are open", n)
	}
}

func TestASecondRelayOnTheSameDataIsRefused(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	text := f.configText(dir, onLoopback)
	f.start(text, Options{})
	j := f.accepted(rocketRepo, "rocket")
	store := func() map[string]time.Time {
		t.Helper()
		files := map[string]time.Time{}
		err := filepath.Walk(filepath.Join(dir, "store"), func(path string, info os.FileInfo, err error) error {
			if err == nil {
				files[path] = info.ModTime()
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	before := store()
	for range 3 {
		c, err := ParseConfig([]byte(text), "/")
		if err != nil {
			t.Fatal(err)
		}
		r, err := Start(t.Context(), c, Options{})
		if err == nil {
			r.Close()
			t.Fatal("two relays on one store")
		}
		if !strings.Contains(err.Error(), "another relay runs with the data directory "+dir) {
			t.Error(err)
		}
	}
	// It was refused before it touched anything.
	after := store()
	for path, at := range before {
		if !after[path].Equal(at) {
			t.Errorf("%s was changed", path)
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files, before %d", len(after), len(before))
	}
	must(t, j.state())
	if _, err := Admin(t.Context(), dir, "GET", "/v1/status"); err != nil {
		t.Errorf("the first one's socket: %v", err)
	}
	// The control: when it has ended, there is room for another.
	f.relay.Close()
	f.start(text, Options{})
}

// In the middle of everything, a relay that is told to end ends.
func TestARelayEndsUnderLoad(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	slow, err := devissuer.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(slow.Close)
	f.start(strings.Replace(f.configText(t.TempDir(), onLoopback), "issuers:\n", "issuers:\n  - {name: slow, provider: github, url: \""+slow.URL()+"\"}\n", 1), Options{})
	f.relay.traffic.most = 1 << 30 // the load is meant
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 8 {
		j := f.accepted(rocketRepo, "rocket")
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := j.nc.Request(wire.JobSubject(j.pub, wire.VerbState), []byte(`{"rev":0}`), 100*time.Millisecond); err != nil && j.nc.IsClosed() {
					return
				}
			}
		})
	}
	// Some at the door, whose issuer does not answer; and some who come just now.
	slow.Rotate()
	slow.Break(devissuer.Hang)
	for i := range calloutWorkers + 8 {
		key := newKey(t)
		claims := claimsOf(rocketRepo)
		claims["aud"] = wire.Audience(relayName, wire.PublicKey(key))
		mint := slow.Mint
		if i%3 == 0 {
			mint = f.issuer.Mint
		}
		token, err := mint(claims)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if nc, err := f.connect(key, token, nats.Timeout(2*time.Second)); err == nil {
				nc.Close()
			}
		})
	}
	eventually(t, "they are at the door", func() bool { return f.natsServer().NumClients() >= 4+8+calloutWorkers/2 })
	began := time.Now()
	f.relay.Close()
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	close(stop)
	wg.Wait()
	// Messages that come when all is over do nothing.
	f.relay.dispatch(&nats.Msg{Subject: wire.JobSubject(f.ana.key(), wire.VerbState)})
	f.relay.Close()
}

func TestARelayEndsWithItsContext(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c, err := ParseConfig([]byte(f.configText(t.TempDir(), onLoopback)), "/")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, err := Start(ctx, c, Options{})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-r.Done()
	r.Close()
	if r.net.server.Running() {
		t.Error("the server goes on")
	}
}

func TestARelayThatCannotStartLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(f.configText(t.TempDir(), onLoopback), Options{})
	taken := strings.TrimPrefix(f.relay.ClientURL(), "nats://")
	dir := t.TempDir()
	start := func(text string) error {
		t.Helper()
		c, err := ParseConfig([]byte(text), "/")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		r, err := Start(ctx, c, Options{})
		if err == nil {
			r.Close()
		}
		return err
	}
	err := start(f.configText(dir, "tls: {cert: /nowhere/cert.pem, key: /nowhere/key.pem}\n"+onLoopback))
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("no certificate: %v", err)
	}
	began := time.Now()
	err = start(f.configText(dir, "listen: {nats: \""+taken+"\"}\n"))
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a port that is taken: %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s to say so", took)
	}
	if err := start(f.configText(dir, onLoopback)); err != nil {
		t.Errorf("and then: %v", err)
	}
}

// Whoever has lost a relay tries again while the next one starts. At that moment
// the server has a door and nobody behind it: a question of its callout that nobody
// hears is one it waits half a minute for.
func TestNobodyHangsAtTheDoorOfARelayThatStarts(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	tcp, ws := free(t), free(t)
	j, k := f.job(rocketRepo, "rocket"), f.job(rocketRepo, "rocket")
	in := make(chan error, 1)
	f.start(f.configText(t.TempDir(), fmt.Sprintf("listen: {nats: %q, websocket: %q}\n", tcp, ws)), Options{opened: func(*store) {
		if nc, err := net.Dial("tcp", tcp); err == nil {
			nc.Close()
			t.Error("it listens before there is anybody to answer")
		}
		// For WebSocket the server listens by itself; who comes now waits for a moment.
		said := make(chan struct{}, 64)
		go func() {
			nc, err := nats.Connect("ws://"+ws, nats.Nkey(j.pub, j.key.Sign), nats.Token(j.token), nats.CustomInboxPrefix(wire.InboxPrefix(j.pub)),
				nats.NoReconnect(), nats.Timeout(60*time.Second), nats.SetCustomDialer(overheard(said)))
			if err == nil {
				t.Cleanup(nc.Close)
			}
			in <- err
		}()
		for range 2 { // the request for a WebSocket, and CONNECT
			select {
			case <-said:
			case err := <-in:
				in <- err
				return
			}
		}
	}})
	if err := <-in; err != nil {
		t.Errorf("who came while the relay started: %v", err)
	}
	k.connect()
	must(t, k.send(k.nc))
}

// overheard dials connections that tell of each write.
type overheard chan<- struct{}

func (o overheard) Dial(network, address string) (net.Conn, error) {
	conn, err := net.Dial(network, address)
	return overheardConn{conn, o}, err
}

type overheardConn struct {
	net.Conn
	said chan<- struct{}
}

func (c overheardConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	select {
	case c.said <- struct{}{}:
	default:
	}
	return n, err
}

func TestTheAdministrationSocketIsItsOwnersAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	c := &file{text: f.configText(dir, onLoopback)}
	f.start(c.text, Options{Reread: c.read})
	info, err := os.Stat(Socket(dir))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 || info.Mode().Type() != os.ModeSocket {
		t.Errorf("mode %s", info.Mode())
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".s") {
			t.Errorf("%s is left over", e.Name())
		}
	}
	f.sit(f.ana)
	j := f.accepted(rocketRepo, "rocket")
	var s Status
	eventually(t, "both are counted", func() bool {
		data, err := Admin(t.Context(), dir, "GET", "/v1/status")
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &s); err != nil {
			t.Fatal(err)
		}
		return s.Jobs == 1 && s.Responders == 1
	})
	if s.Relay != relayName || s.NATS != f.relay.ClientURL() || s.Open != 1 || s.Keys[f.issuer.URL()] == "missing" || s.Keys[f.issuer.URL()] == "" {
		t.Errorf("%+v", s)
	}
	if _, err := Admin(t.Context(), dir, "POST", "/v1/reload"); err != nil {
		t.Error(err)
	}
	c.set("host: [")
	if _, err := Admin(t.Context(), dir, "POST", "/v1/reload"); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("%v", err)
	}
	if _, err := Admin(t.Context(), dir, "POST", "/v1/status"); err == nil {
		t.Error("a status was posted")
	}
	must(t, j.state())
	f.relay.Close()
	if _, err := Admin(t.Context(), dir, "GET", "/v1/status"); err == nil || !strings.Contains(err.Error(), "no relay answers at "+Socket(dir)) {
		t.Errorf("%v", err)
	}
	// The socket that it leaves is no relay.
	f.start(f.configText(dir, onLoopback), Options{})
	if _, err := Admin(t.Context(), dir, "POST", "/v1/reload"); err == nil || !strings.Contains(err.Error(), "no configuration file to read again") {
		t.Errorf("%v", err)
	}
}
