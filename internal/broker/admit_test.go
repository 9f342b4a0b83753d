package broker

// Who is let in, and how long. A refused client is told nothing, so each reason
// is looked for in the relay's log.

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/wire"
)

func newKey(t testing.TB) nkeys.KeyPair {
	t.Helper()
	kp, err := wire.NewConnectKey()
	if err != nil {
		t.Fatal(err)
	}
	return kp
}

func TestWhoProvesNothingIsRefusedAndTheLogSaysWhy(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		stranger, err := devissuer.Start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer stranger.Close()
		mint := func(over map[string]any, opts ...devissuer.MintOption) func(string) string {
			return func(pub string) string {
				claims := claimsOf(rocketRepo)
				claims["aud"] = wire.Audience(relayName, pub)
				for k, v := range over {
					claims[k] = v
				}
				tok, err := f.issuer.Mint(claims, opts...)
				if err != nil {
					t.Fatal(err)
				}
				return tok
			}
		}
		now := time.Now().Unix()
		for _, c := range []struct {
			name  string
			token func(pub string) string
			why   string
		}{
			{"no token, not enrolled", func(string) string { return "" }, "no such connecting key is enrolled, and no request is open under it"},
			{"a token of another key", mint(map[string]any{"aud": wire.Audience(relayName, f.ana.key())}), "speaks for the key"},
			{"for another relay", func(pub string) string {
				return mint(map[string]any{"aud": wire.Audience("other.test", pub)})(pub)
			}, "the ID token's audience is"},
			{"the CI's default audience", mint(map[string]any{"aud": "https://github.com/example"}), "the ID token's audience is"},
			{"no key in the audience", mint(map[string]any{"aud": wire.UnboundAudience(relayName)}), "names no key"},
			{"several audiences", func(pub string) string {
				return mint(map[string]any{"aud": []any{wire.Audience(relayName, pub), "sts.example.com"}})(pub)
			}, "2 audiences"},
			{"expired", mint(map[string]any{"iat": now - 400, "exp": now - 100}), "the ID token expired"},
			{"issued long ago", mint(map[string]any{"iat": now - 900, "exp": now + 900}), "issued 15 min ago"},
			{"issued in the future", mint(map[string]any{"iat": now + 300, "exp": now + 900}), "from now"},
			{"unknown issuer", func(pub string) string {
				claims := claimsOf(rocketRepo)
				claims["aud"] = wire.Audience(relayName, pub)
				tok, err := stranger.Mint(claims)
				if err != nil {
					t.Fatal(err)
				}
				return tok
			}, "which is not configured here"},
			{"a stranger's signature", func(pub string) string {
				return mint(map[string]any{"iss": f.issuer.URL()}, devissuer.Alg("HS256"))(pub)
			}, "algorithm"},
			{"no signature", mint(nil, devissuer.Alg("none")), "algorithm"},
			{"no token at all", func(string) string { return "hello" }, "not three parts"},
			{"no repository", mint(map[string]any{"repository_id": nil}), `claim \"repository_id\" is missing`},
		} {
			key := newKey(t)
			token := c.token(wire.PublicKey(key))
			nc, err := f.connect(key, token)
			if err == nil {
				nc.Close()
				t.Errorf("%s: let in", c.name)
				continue
			}
			if !errors.Is(err, nats.ErrAuthorization) {
				t.Errorf("%s: %v", c.name, err)
			}
			line := f.log.line(t, "what=connect", wire.PublicKey(key), "outcome=refused", c.why)
			if token != "" && token != "hello" && strings.Contains(line, token[:40]) {
				t.Errorf("%s: the token is in the log", c.name)
			}
		}
		if stranger.Fetches() != 0 {
			t.Error("an issuer that only a token names was asked for its keys")
		}
		// A good token, and the nonce signed by somebody else's key.
		j := f.job(rocketRepo, "rocket")
		thief := newKey(t)
		if nc, err := f.connect(j.key, j.token, nats.Nkey(j.pub, thief.Sign)); err == nil {
			nc.Close()
			t.Error("a stolen token was worth something")
		}
		f.log.line(t, "what=connect", j.pub, "outcome=refused", "the nonce is not signed by the key that was shown")
		if nc, err := f.connect(f.ana.connect, "", nats.Nkey(f.ana.key(), thief.Sign)); err == nil {
			nc.Close()
			t.Error("a responder's public key was enough")
		}
		// No nkey at all, with and without a token.
		for _, opts := range [][]nats.Option{{}, {nats.Token(j.token)}, {nats.UserInfo("a", "b")}} {
			nc, err := nats.Connect(f.relay.ClientURL(), append(opts, nats.NoReconnect())...)
			if err == nil {
				nc.Close()
				t.Error("let in without a key")
			} else if !errors.Is(err, nats.ErrAuthorization) {
				t.Error(err)
			}
		}
		// The controls.
		f.mustConnect(j.key, j.token)
		f.sit(f.ana)
	})
}

// A NATS server chooses the nonce, so one that a responder dials can have another
// relay's signed. What names the relay is the responder's own word beside it.
func TestAResponderIsLetInWhereItMeansToBe(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		shown := func(key nkeys.KeyPair, relay string, at time.Time) string {
			t.Helper()
			s, err := wire.SignConnect(key, relay, at)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		now := time.Now()
		stranger := newKey(t)
		j := f.job(rocketRepo, "rocket")
		claims := claimsOf(rocketRepo)
		claims["aud"] = wire.Audience(relayName, f.ana.key())
		forKey, err := f.issuer.Mint(claims)
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			shown string
			why   string // in the log
		}{
			"for another relay":           {shown(f.ana.connect, "hostile.example", now), "the client means the relay hostile.example, and this is " + relayName},
			"of long ago":                 {shown(f.ana.connect, relayName, now.Add(-time.Hour)), "ago that it connects, at most 10m0s are allowed"},
			"of a time to come":           {shown(f.ana.connect, relayName, now.Add(time.Hour)), "from now, at most 10m0s are allowed"},
			"of another enrolled one":     {shown(f.bob.connect, relayName, now), "signature does not verify"},
			"of a stranger":               {shown(stranger, relayName, now), "signature does not verify"},
			"none":                        {"", "does not say which relay it means"},
			"no envelope":                 {`{"v":1}`, "incomplete envelope"},
			"another signed thing of its": {string(sign(t, &wire.Cancel{Key: f.ana.key(), Digest: j.dig}, f.ana.connect).Encode()), "another kind"},
			"an ID token of another's":    {j.token, "an ID token came with an enrolled responder's key"},
			// What a server that passes on this relay's nonce can have any job of the
			// issuer's mint for a key that it has seen.
			"an ID token for its key": {forKey, "an ID token came with an enrolled responder's key"},
		} {
			e := f.knock(f.address())
			fields := map[string]any{"verbose": false, "protocol": 1, "nkey": f.ana.key(), "sig": e.signature(f.ana.connect)}
			if c.shown != "" {
				fields["auth_token"] = c.shown
			}
			if got := e.say(fields); !strings.Contains(got, "Authorization Violation") {
				t.Errorf("%s: %s", name, got)
			}
			f.log.line(t, "what=connect", f.ana.key(), "outcome=refused", c.why)
		}
		// Its word alone proves nothing: whoever has seen it can show it.
		e := f.knock(f.address())
		if got := e.say(map[string]any{"verbose": false, "protocol": 1, "nkey": f.ana.key(), "sig": e.signature(stranger), "auth_token": hello(t, f.ana.connect)}); !strings.Contains(got, "Authorization Violation") {
			t.Errorf("the nonce signed by a stranger: %s", got)
		}
		f.log.line(t, "what=connect", f.ana.key(), "outcome=refused", "the nonce is not signed by the key that was shown")
		// Who is not enrolled is told apart in the log from who is.
		e = f.knock(f.address())
		if got := e.say(map[string]any{"verbose": false, "protocol": 1, "nkey": wire.PublicKey(stranger), "sig": e.signature(stranger), "auth_token": hello(t, stranger)}); !strings.Contains(got, "Authorization Violation") {
			t.Errorf("not enrolled: %s", got)
		}
		f.log.line(t, "what=connect", wire.PublicKey(stranger), "outcome=refused", "no such connecting key is enrolled")
		// The control.
		e = f.knock(f.address())
		if got := e.say(map[string]any{"verbose": false, "protocol": 1, "nkey": f.ana.key(), "sig": e.signature(f.ana.connect), "auth_token": hello(t, f.ana.connect)}); got != "PONG" {
			t.Errorf("the responder itself: %s", got)
		}
	})
}

// Who connects and says nothing has proved nothing, and holds one of the server's
// connections for that.
func TestAConnectionThatNeverSaysWhoItIsIsClosed(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(f.configText(t.TempDir(), onLoopback), Options{embed: func(o *server.Options) {
		if o.AuthTimeout <= 0 || o.AuthTimeout > 60 {
			t.Errorf("the server waits %v s for a CONNECT", o.AuthTimeout)
		}
		o.AuthTimeout = 2 // the same, sooner
	}})
	e := f.knock(f.address())
	began := time.Now()
	line, err := e.next()
	if err != nil || !strings.Contains(line, "Authentication Timeout") {
		t.Errorf("%q, %v", line, err)
	}
	if rest, err := io.ReadAll(e.lines); err != nil || len(rest) != 0 {
		t.Errorf("it goes on: %q, %v", rest, err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("closed after %s", took)
	}
	f.accepted(rocketRepo, "rocket") // who says it in time goes on
}

// nats-server cuts a CONNECT line off at 4 KiB by default, and repositories with
// many custom properties have longer tokens.
func TestALongIDTokenIsLetIn(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		j := f.job(rocketRepo, "rocket")
		over := map[string]any{}
		for i := range 20 {
			over[fmt.Sprintf("repo_property_%d", i)] = strings.Repeat("x", 500)
		}
		j.token = f.token(rocketRepo, wire.Audience(relayName, j.pub), over)
		if len(j.token) < 12<<10 || len(j.token) > wire.MaxToken {
			t.Fatalf("%d bytes", len(j.token))
		}
		j.connect()
		must(t, j.send(j.nc))
	})
}

func TestTheNewestConnectionOfAKeyWins(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		ana := f.sit(f.ana)
		j := f.job(rocketRepo, "rocket")
		opt, gone := closed()
		j.connect(opt)
		must(t, j.send(j.nc))
		older := j.nc
		j.connect()
		waitClosed(t, gone, 10*time.Second)
		if older.IsConnected() {
			t.Error("the older one goes on")
		}
		f.log.line(t, "connection closed", j.pub, "a newer connection with the same key")
		must(t, j.state())
		must(t, ana.say(wire.VerbOpen, f.ana.openMessage(t, j)))
		hint(t, j.hints, func(h wire.Hint) bool { return h.Hint == wire.HintChallenge })
	})
}

func TestAConnectionWithoutAnAcceptedRequestIsClosed(t *testing.T) {
	t.Parallel()
	// Two relays on one server: their users are keys as jobs' are, and taken for
	// jobs without a request each would close the other's connections.
	x := newExternal(t, false)
	x.run(t)
	f := newFixture(t)
	f.server = x.server
	f.start(f.configText(t.TempDir(), x.section(0)), Options{})
	before := x.server.NumClients()
	// One log: either relay may be the one that closes a connection.
	g := f.second(f.configText(t.TempDir(), x.section(1)), Options{Log: slog.New(slog.NewTextHandler(f.log, nil))})
	if n := x.server.NumClients(); n != before+ownConnections {
		t.Fatalf("%d connections after the second relay, %d before", n, before)
	}
	relays := make(chan struct{}, 8)
	for _, n := range []*network{f.relay.net, g.relay.net} {
		for _, nc := range []*nats.Conn{n.callout, n.client, n.store, n.system} {
			nc.SetDisconnectErrHandler(func(*nats.Conn, error) { relays <- struct{}{} })
		}
	}
	idle(t, f)
	if len(relays) != 0 {
		t.Error("a relay's own connection was closed")
	}
}

// idle checks who is closed in f after ten seconds, and who is not.
func idle(t *testing.T, f *fixture) {
	t.Helper()
	watch := func() (nats.Option, func() bool) {
		o, c := closed()
		return o, func() bool {
			select {
			case <-c:
				return true
			default:
				return false
			}
		}
	}
	o1, ana := watch()
	f.sit(f.ana, o1)
	o2, waiting := watch()
	j := f.job(rocketRepo, "rocket")
	j.connect(o2)
	must(t, j.send(j.nc))
	ended := f.job(rocketRepo, "rocket")
	o3, over := watch()
	ended.connect(o3)
	must(t, ended.send(ended.nc))
	must(t, ended.cancel())
	o4, ref := watch()
	turned := f.job(otherRepo, "rocket")
	turned.connect(o4)
	refused(t, turned.send(turned.nc), wire.RefusedPolicy)
	opt5, gone := closed()
	never := f.job(rocketRepo, "rocket")
	began := time.Now()
	never.connect(opt5)

	waitClosed(t, gone, idleAfter+10*time.Second)
	if after := time.Since(began); after < idleAfter-time.Second {
		t.Errorf("closed after %s", after)
	}
	f.log.line(t, "connection closed", never.pub, "no accepted request within 10s")
	f.log.line(t, "connection closed", turned.pub, "no accepted request within 10s")
	eventually(t, "who was refused is out too", ref)
	if ana() || waiting() || over() {
		t.Errorf("closed: the responder %v, a job that waits %v, one whose request is over %v", ana(), waiting(), over())
	}
	must(t, j.state())
}

// A user's JWT says how long it is good for, and the server closes the
// connection on the second.
func TestALetInJobDoesNotStayForEver(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	// A relay whose clock is so far behind that what it grants for seven hours
	// is over in three seconds.
	long := wire.LongestWait + time.Hour
	now := func() time.Time { return time.Now().Add(-long + 3*time.Second) }
	f.start(f.configText(t.TempDir(), onLoopback), Options{Now: now})
	j := f.job(rocketRepo, "rocket")
	at := now().Unix()
	j.token = f.token(rocketRepo, wire.Audience(relayName, j.pub), map[string]any{"iat": at, "nbf": at - 300, "exp": at + 300})
	opt, gone := closed()
	bad := make(errs, 16)
	j.connect(opt, bad.option())
	waitClosed(t, gone, idleAfter-2*time.Second)
	if err := <-bad; !errors.Is(err, nats.ErrAuthExpired) {
		t.Errorf("closed with %v", err)
	}
}

// The server asks about many connections at once, and one subscription's
// messages come one by one: an issuer that does not answer must not hold up
// whoever has nothing to do with it.
func TestASlowIssuerHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	slowIssuers(t, 1, 24)
}

// Each issuer alone would leave the relay hands to spare; two of them would not.
func TestTwoSlowIssuersHoldUpNobodyElse(t *testing.T) {
	t.Parallel()
	slowIssuers(t, 2, 36)
}

// slowIssuers has jobs of several issuers that hang at the door, and lets others
// in meanwhile.
func slowIssuers(t *testing.T, issuers, jobsOfEach int) {
	t.Helper()
	f := newFixture(t)
	lines := "issuers:\n"
	var slow []*devissuer.Issuer
	for i := range issuers {
		s, err := devissuer.Start(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		slow = append(slow, s)
		lines += fmt.Sprintf("  - {name: slow%d, provider: github, url: %q}\n", i, s.URL())
	}
	f.start(strings.Replace(f.configText(t.TempDir(), onLoopback), "issuers:\n", lines, 1), Options{})
	slowJobs := issuers * jobsOfEach
	const room = 56 // for tokens that wait; the rest is told to try again at once
	in := make(chan error, slowJobs)
	var wg sync.WaitGroup
	first := time.Now()
	for _, s := range slow {
		s.Rotate() // so that its tokens' key is unknown and must be asked for
		s.Break(devissuer.Hang)
		var tokens []string
		var keys []nkeys.KeyPair
		for range jobsOfEach {
			key := newKey(t)
			claims := claimsOf(rocketRepo)
			claims["aud"] = wire.Audience(relayName, wire.PublicKey(key))
			tok, err := s.Mint(claims)
			if err != nil {
				t.Fatal(err)
			}
			tokens, keys = append(tokens, tok), append(keys, key)
		}
		first = time.Now()
		for i, key := range keys {
			wg.Go(func() {
				nc, err := f.connect(key, tokens[i])
				if err == nil {
					nc.Close()
				}
				in <- err
			})
		}
	}
	eventually(t, "they are all at the door", func() bool { return f.natsServer().NumClients() >= 4+min(slowJobs, room) })
	began := time.Now()
	f.sit(f.ana)
	f.accepted(rocketRepo, "rocket")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("others wait for %s", took)
	}
	// They wait for five seconds at most, which a busy machine may have used up.
	if len(in) > max(0, slowJobs-room) && time.Since(first) < 4*time.Second {
		t.Error("the slow issuers' jobs have their answer already; then they hold up nobody")
	}
	// Whoever has queued for longer than a NATS server's first PING takes gets
	// in all the same: a client that sees it before its PONG gives up.
	time.Sleep(time.Until(began.Add(2600 * time.Millisecond)))
	for _, s := range slow {
		s.Break(devissuer.Works)
	}
	// Each waits for its key for five seconds; a machine that took most of them to
	// get here says nothing of what the relay does.
	inTime := time.Since(first) < 4*time.Second
	wg.Wait()
	var late []error
	for range slowJobs {
		if err := <-in; err != nil {
			late = append(late, err)
		}
	}
	if len(late) > max(0, slowJobs-room) && inTime {
		t.Errorf("%d of %d were not let in late: %v", len(late), slowJobs, late)
	}
}

// Keys that cannot be had now are no reason to call a token bad.
func TestAnIssuerThatIsDownIsAReasonToTryAgain(t *testing.T) {
	t.Parallel()
	var c clock
	f := newFrailFixture(t)
	f.start(f.configText(t.TempDir(), onLoopback), Options{Now: c.now})
	j := f.job(rocketRepo, "rocket")
	j.connect()
	c.move(2 * time.Minute) // the keys that the relay has are not of this minute
	f.issuer.Break(devissuer.Down)
	f.issuer.Rotate()
	j.token = f.token(rocketRepo, wire.Audience(relayName, j.pub), nil)
	r := j.send(j.nc)
	refused(t, r, wire.RefusedBusy, "cannot be fetched now; try again")
	// Why is the relay's own affair: it tells of the network that it stands in.
	if strings.Contains(r.Refused.Error(), "500") || strings.Contains(r.Refused.Error(), "discovery") {
		t.Errorf("a job is told %q", r.Refused.Error())
	}
	f.log.line(t, "decision", j.pub, "outcome=refused", "cannot be fetched now (discovery: answered 500)")
}

func TestManyJobsAtOnceAreAllLetIn(t *testing.T) {
	t.Parallel()
	storm(t, startFixture(t), 200)
}

// storm connects n jobs at once.
func storm(t *testing.T, f *fixture, n int) {
	t.Helper()
	type credentials struct {
		key   nkeys.KeyPair
		token string
	}
	all := make([]credentials, n)
	for i := range all {
		key := newKey(t)
		all[i] = credentials{key, f.token(rocketRepo, wire.Audience(relayName, wire.PublicKey(key)), nil)}
	}
	start := make(chan struct{})
	errs := make(chan error, n)
	conns := make(chan *nats.Conn, n)
	for _, c := range all {
		go func() {
			<-start
			nc, err := f.connect(c.key, c.token, nats.Timeout(60*time.Second))
			errs <- err
			conns <- nc
		}()
	}
	began := time.Now()
	close(start)
	failed := map[string]int{}
	for range all {
		if err := <-errs; err != nil {
			failed[err.Error()]++
		}
	}
	took := time.Since(began)
	for range all {
		if nc := <-conns; nc != nil {
			nc.Close()
		}
	}
	if len(failed) != 0 {
		t.Fatalf("of %d jobs were refused: %v", n, failed)
	}
	t.Logf("%d jobs were let in within %s, %.0f a second", n, took.Round(time.Millisecond), float64(n)/took.Seconds())
}
