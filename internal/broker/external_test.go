package broker

// Relays that join a NATS server instead of running one: the server is started
// from a configuration file as its administrator would write it.

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/wire"
)

// relayUsers are one relay's users on an external server.
type relayUsers struct{ System, Callout, Client, StoreUser string }

// external is a NATS server that is no relay's own, for two relays.
type external struct {
	Name, Issuer, XKey, Store, Extra string
	Port, Timeout                    int
	Relays                           []relayUsers
	Operator                         *operatorSide // nil: config mode

	dir    string
	server *server.Server
	before func(*server.Server) // is called before the server starts; nil: nothing
}

// newExternal makes keys and seed files. Nothing runs yet.
func newExternal(t testing.TB, xkey bool) *external {
	t.Helper()
	x := &external{Name: "nats-1", Port: -1, Timeout: 30, dir: t.TempDir()}
	x.Store = filepath.Join(x.dir, "store")
	seed := func(name string, make func() (nkeys.KeyPair, error)) string {
		t.Helper()
		kp, err := make()
		if err != nil {
			t.Fatal(err)
		}
		s, err := kp.Seed()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(x.dir, name), append(s, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
		pub, err := kp.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return pub
	}
	x.Issuer = seed("issuer.nk", nkeys.CreateAccount)
	if xkey {
		x.XKey = seed("xkey.nk", nkeys.CreateCurveKeys)
	}
	for i := range 2 {
		user := func(name string) string { return seed(fmt.Sprintf("%s-%d.nk", name, i), nkeys.CreateUser) }
		x.Relays = append(x.Relays, relayUsers{user("system"), user("callout"), user("client"), user("store")})
	}
	return x
}

func (x *external) run(t testing.TB) {
	t.Helper()
	file := "testdata/nats.conf.tmpl"
	if x.Operator != nil {
		file = "testdata/nats-operator.conf.tmpl"
		if x.Operator.claims != nil { // else nsc has written it
			write(t, filepath.Join(x.dir, "accounts.conf"), x.Operator.conf(t))
		}
	}
	tmpl, err := template.ParseFiles(file)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(x.dir, "nats.conf")
	conf, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := tmpl.Execute(conf, x); err != nil {
		t.Fatal(err)
	}
	if err := conf.Close(); err != nil {
		t.Fatal(err)
	}
	x.runFile(t, path)
}

func (x *external) runFile(t testing.TB, path string) {
	t.Helper()
	opts, err := server.ProcessConfigFile(path)
	if err != nil {
		t.Fatal(err)
	}
	opts.NoSigs, opts.NoLog = true, true
	if x.server, err = server.NewServer(opts); err != nil {
		t.Fatal(err)
	}
	if x.before != nil {
		x.before(x.server)
	}
	x.server.Start()
	t.Cleanup(func() { x.server.Shutdown(); x.server.WaitForShutdown() })
	if !x.server.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not listen")
	}
}

// section is the relay's `nats:` for relay n.
func (x *external) section(n int) string {
	if x.Operator != nil {
		return x.operatorSection(n)
	}
	url := x.server.ClientURL()
	text := fmt.Sprintf(`nats:
  url: %q
  issuer: %[2]s/issuer.nk
  system: {nkey: %[2]s/system-%[3]d.nk}
  callout: {nkey: %[2]s/callout-%[3]d.nk}
  client: {nkey: %[2]s/client-%[3]d.nk}
  store: {nkey: %[2]s/store-%[3]d.nk}
  replicas: 1
`, url, x.dir, n)
	if x.XKey != "" {
		text += fmt.Sprintf("  xkey: %s/xkey.nk\n", x.dir)
	}
	return text
}

func startExternal(t testing.TB) *fixture {
	t.Helper()
	x := newExternal(t, true)
	x.run(t)
	f := newFixture(t)
	f.server = x.server
	f.start(f.configText(t.TempDir(), x.section(0)), Options{})
	return f
}

// second starts another relay beside f's on the same server, and gives f with
// that one in its place.
func (f *fixture) second(text string, o Options) *fixture {
	f.t.Helper()
	other := *f
	other.log = &syncBuffer{}
	other.start(text, o)
	return &other
}

// onEachServer runs a test on a server of each mode, which two relays can join.
func onEachServer(t *testing.T, test func(*testing.T, *external)) {
	t.Helper()
	for name, make := range map[string]func(testing.TB) *external{
		"config mode":   func(t testing.TB) *external { return newExternal(t, true) },
		"operator mode": newOperator,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, make(t))
		})
	}
}

func TestTwoRelaysOnOneServerShareTheWorkAndTheStream(t *testing.T) {
	t.Parallel()
	onEachServer(t, twoRelays)
}

func twoRelays(t *testing.T, x *external) {
	x.run(t)
	f := newFixture(t)
	f.server = x.server
	f.start(f.configText(t.TempDir(), x.section(0)), Options{Log: debugLog(f.log)})
	log2 := &syncBuffer{}
	g := f.second(f.configText(t.TempDir(), x.section(1)), Options{Log: debugLog(log2)})

	ana := f.sit(f.ana)
	const jobs = 16
	var wg sync.WaitGroup
	for i := range jobs {
		j := f.job(rocketRepo, "rocket")
		j.connect()
		must(t, j.send(j.nc))
		m, r := ana.answer(j, 1)
		must(t, r)
		hint(t, j.hints, answerOf(m))
		if s := must(t, j.got(1, m.Sealed.Hash())); s.State != "delivered" || s.By != "Ana" {
			t.Fatalf("job %d: %+v", i, s)
		}
		wg.Go(func() { must(t, j.done(1)) })
	}
	wg.Wait()
	// Which relay gets a message is the server's choice; that one of them got
	// all of 16 × 4 would be a group that is none.
	for name, log := range map[string]*syncBuffer{"first": f.log, "second": log2} {
		text := log.String()
		if n := strings.Count(text, "what=request"); n == 0 || n == jobs {
			t.Errorf("the %s relay took %d of %d requests", name, n, jobs)
		}
		if n := strings.Count(text, "what=connect as=job"); n == 0 || n == jobs {
			t.Errorf("the %s relay let in %d of %d jobs", name, n, jobs)
		}
	}
	// Seeds and statements stay in their files, ID tokens nowhere.
	for _, text := range []string{f.log.String(), log2.String()} {
		if found := regexp.MustCompile(`eyJ|\bS[UAX][A-Z2-7]{56}`).FindString(text); found != "" {
			t.Errorf("a log has a secret that begins with %.3s", found)
		}
	}
	// Each knows what the other has done, without having been asked.
	j := f.accepted(rocketRepo, "rocket")
	for _, r := range []*Relay{f.relay, g.relay} {
		eventually(t, "the request is in each relay's index", func() bool { _, ok := r.store.recent(j.pub); return ok })
	}
	must(t, j.cancel())
	for _, r := range []*Relay{f.relay, g.relay} {
		eventually(t, "and its end too", func() bool { _, ok := r.store.recent(j.pub); return !ok })
	}
}

func debugLog(w *syncBuffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// eventually waits for what no event tells.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for late := time.Now().Add(20 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatalf("never came true: %s", what)
		}
	}
}

func TestTheCalloutIsEncryptedToTheRelay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ encrypted, operator bool }{{true, false}, {false, false}, {true, true}} {
		encrypted := c.encrypted
		t.Run(fmt.Sprintf("xkey %v operator mode %v", encrypted, c.operator), func(t *testing.T) {
			t.Parallel()
			var x *external
			if c.operator {
				x = newOperator(t)
			} else {
				x = newExternal(t, encrypted)
			}
			x.run(t)
			f := newFixture(t)
			f.server = x.server
			f.start(f.configText(t.TempDir(), x.section(0)), Options{})
			// The second relay's user listens in on the callout's account.
			as := nats.UserCredentials(filepath.Join(x.dir, "callout-1.creds"))
			if !c.operator {
				as = nkeyOption(t, filepath.Join(x.dir, "callout-1.nk"))
			}
			spy, err := nats.Connect(x.server.ClientURL(), as)
			if err != nil {
				t.Fatal(err)
			}
			defer spy.Close()
			all := listen(t, spy, ">")
			j := f.job(rocketRepo, "rocket")
			j.connect()
			reply := ""
			for answered := false; !answered; {
				m, err := all.NextMsg(10 * time.Second)
				if err != nil {
					t.Fatal(err)
				}
				switch m.Subject {
				case calloutSubject:
					reply = m.Reply
					_, err = jwt.DecodeAuthorizationRequestClaims(string(m.Data))
				case reply:
					answered = true
					_, err = jwt.DecodeAuthorizationResponseClaims(string(m.Data))
				default:
					continue
				}
				if readable := err == nil; readable == encrypted {
					t.Errorf("%s can be read: %v (%v)", m.Subject, readable, err)
				}
			}
		})
	}
}

func nkeyOption(t testing.TB, seed string) nats.Option {
	t.Helper()
	opt, err := nats.NkeyOptionFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return opt
}

func TestACalloutThatIsNotAsConfiguredLetsNobodyIn(t *testing.T) {
	t.Parallel()
	other := newExternal(t, true)
	for _, c := range []struct {
		name    string
		server  bool // the server encrypts
		section func(x *external) string
		log     string
	}{
		{"the server does not encrypt", false, func(x *external) string {
			return x.section(0) + fmt.Sprintf("  xkey: %s/xkey.nk\n", other.dir)
		}, "the server's auth callout is not encrypted, though nats.xkey is set"},
		{"to another key", true, func(x *external) string {
			return strings.Replace(x.section(0), x.dir+"/xkey.nk", other.dir+"/xkey.nk", 1)
		}, "is auth_callout.xkey the public half of nats.xkey?"},
		{"the relay has no key", true, func(x *external) string {
			return strings.Replace(x.section(0), "  xkey: "+x.dir+"/xkey.nk\n", "", 1)
		}, "the auth callout's question cannot be read"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := newExternal(t, c.server)
			x.Timeout = 1 // the server waits for as long, also when it is told to end
			x.run(t)
			f := newFixture(t)
			f.server = x.server
			f.start(f.configText(t.TempDir(), c.section(x)), Options{})
			go func() {
				if nc, err := f.connect(f.ana.connect, "", nats.Timeout(time.Second)); err == nil {
					nc.Close()
					t.Error("let in")
				}
			}()
			f.log.line(t, "ERROR", c.log)
		})
	}
}

func TestASeedFileThatOthersCanReadIsRefused(t *testing.T) {
	t.Parallel()
	x := newExternal(t, true)
	x.run(t)
	f := newFixture(t)
	for _, name := range []string{"issuer", "xkey", "system-0", "callout-0", "client-0", "store-0"} {
		path := filepath.Join(x.dir, name+".nk")
		start := func() error {
			c, err := ParseConfig([]byte(f.configText(t.TempDir(), x.section(0))), "/")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			r, err := Start(ctx, c, Options{})
			if err == nil {
				r.Close()
			}
			return err
		}
		if err := os.Chmod(path, 0o640); err != nil {
			t.Fatal(err)
		}
		err := start()
		if err == nil || !strings.Contains(err.Error(), "can be read by others (mode 0640); run: chmod 600") {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// In the wrong account nothing fails: nobody's messages are heard, or nobody's
// connections are closed.
func TestARelayInTheWrongAccountsDoesNotStart(t *testing.T) {
	t.Parallel()
	x := newExternal(t, false)
	x.run(t)
	f := newFixture(t)
	swap := func(text, a, b string) string {
		return strings.NewReplacer(a+"-0.nk", b+"-0.nk", b+"-0.nk", a+"-0.nk").Replace(text)
	}
	own := x.section(0)
	for _, c := range []struct{ name, section, why string }{
		{"client and store", swap(own, "client", "store"), "nats.client is a user of the account STORE, but jobs and responders are placed in CFA (nats.account)"},
		{"another account", own + "  account: JOBS\n", "nats.client is a user of the account CFA, but jobs and responders are placed in JOBS"},
		{"system and callout", swap(own, "system", "callout"), "nats.system is not a user of the server's system account, without which no connection can be closed"},
		{"one user twice", strings.Replace(own, "store-0.nk", "client-1.nk", 1), "nats.client and nats.store are both users of the account CFA; each needs one of its own"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			config, err := ParseConfig([]byte(f.configText(t.TempDir(), c.section)), "/")
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			r, err := Start(ctx, config, Options{})
			if err == nil {
				r.Close()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), c.why) {
				t.Error(err)
			}
		})
	}
}

// nats-server asks the callout about more than clients: bridges of whole other
// servers, and other protocols. Each of these is let in by what it shows and
// refused by what it is.
func TestOnlyPlainClientsAreLetIn(t *testing.T) {
	t.Parallel()
	onEachServer(t, onlyPlainClients)
}

func onlyPlainClients(t *testing.T, x *external) {
	x.Extra = `
leafnodes { listen: "127.0.0.1:-1" }
mqtt { listen: "127.0.0.1:-1" }
`
	x.run(t)
	f := newFixture(t)
	f.server = x.server
	f.start(f.configText(t.TempDir(), x.section(0)), Options{})
	j := f.job(rocketRepo, "rocket")
	ports, err := x.server.Varz(nil)
	if err != nil || ports.LeafNode.Port <= 0 || ports.MQTT.Port <= 0 {
		t.Fatalf("ports: %v %+v", err, ports)
	}
	show := func(e *entrance) map[string]any {
		return map[string]any{"verbose": false, "nkey": j.pub, "sig": e.signature(j.key), "auth_token": j.token, "protocol": 1, "version": "2.12.0", "name": "leaf", "server_id": j.pub}
	}
	e := f.knock(f.address())
	if got := e.say(show(e)); got != "PONG" {
		t.Fatalf("the control, a plain client: %s", got)
	}
	e = f.knock(fmt.Sprintf("127.0.0.1:%d", ports.LeafNode.Port))
	if got := e.say(show(e)); !strings.Contains(got, "Authorization Violation") {
		t.Errorf("a leaf node: %s", got)
	}
	f.log.line(t, "outcome=refused", `a connection of kind \"Leafnode\"`)
}

func TestWhatIsAskedOfTheCalloutIsJudgedInOrder(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	const nonce = "kDSnK0OkoUYmXQw"
	j := f.job(rocketRepo, "rocket")
	for _, c := range []struct {
		name   string
		change func(*jwt.AuthorizationRequestClaims)
		why    string // "" lets in
	}{
		{"as it should be", func(*jwt.AuthorizationRequestClaims) {}, ""},
		{"over WebSocket", func(q *jwt.AuthorizationRequestClaims) { q.ClientInformation.Type = "websocket" }, ""},
		{"a leaf node", func(q *jwt.AuthorizationRequestClaims) { q.ClientInformation.Kind = "Leafnode" }, `a connection of kind "Leafnode"`},
		{"JetStream", func(q *jwt.AuthorizationRequestClaims) { q.ClientInformation.Kind = "JetStream" }, `a connection of kind "JetStream"`},
		{"no kind", func(q *jwt.AuthorizationRequestClaims) { q.ClientInformation.Kind = "" }, `a connection of kind ""`},
		{"MQTT", func(q *jwt.AuthorizationRequestClaims) { q.ClientInformation.Type = "mqtt" }, `a connection of type "mqtt"`},
		{"a user name", func(q *jwt.AuthorizationRequestClaims) { q.ConnectOptions.Username = "SYS" }, "a user name or password was given"},
		{"a password", func(q *jwt.AuthorizationRequestClaims) { q.ConnectOptions.Password = "x" }, "a user name or password was given"},
		{"no key", func(q *jwt.AuthorizationRequestClaims) { q.ConnectOptions.Nkey = "" }, "no connecting key was shown"},
		{"a key of another kind", func(q *jwt.AuthorizationRequestClaims) { q.ConnectOptions.Nkey = f.ana.signer() }, "no connecting key was shown"},
		// An external server offers a nonce only if it has nkey users.
		{"no nonce", func(q *jwt.AuthorizationRequestClaims) { q.ClientInformation.Nonce = "" }, "the server offered no nonce; configure the callout's user as an nkey user there"},
		{"no signature", func(q *jwt.AuthorizationRequestClaims) { q.ConnectOptions.SignedNonce = "" }, "the nonce is not signed by the key that was shown"},
		{"a signature that is none", func(q *jwt.AuthorizationRequestClaims) { q.ConnectOptions.SignedNonce = "%%%" }, "the nonce's signature is not base64"},
		{"another nonce's signature", func(q *jwt.AuthorizationRequestClaims) { q.ClientInformation.Nonce = "another" }, "the nonce is not signed by the key that was shown"},
		{"no token", func(q *jwt.AuthorizationRequestClaims) { q.ConnectOptions.Token = "" }, "no such connecting key is enrolled, and no ID token came with it"},
	} {
		q := jwt.NewAuthorizationRequestClaims("server")
		user, err := nkeys.CreateUser()
		if err != nil {
			t.Fatal(err)
		}
		q.UserNkey = wire.PublicKey(user)
		q.ClientInformation = jwt.ClientInformation{Kind: "Client", Type: "nats", Nonce: nonce}
		q.ConnectOptions = jwt.ConnectOptions{Nkey: j.pub, Token: j.token, SignedNonce: (&entrance{Nonce: nonce}).signature(j.key)}
		c.change(q)
		u, _, err := f.relay.admit(t.Context(), q)
		switch {
		case c.why == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.why == "":
			if u.Audience != "CFA" || u.Subject != q.UserNkey || u.Resp != nil || u.BearerToken || u.Limits.Subs != clientSubscriptions || u.Limits.Payload != wire.MaxMessage || u.Expires == 0 {
				t.Errorf("%s: granted %+v", c.name, u)
			}
		case err == nil || !strings.Contains(err.Error(), c.why):
			t.Errorf("%s: %v, not %q", c.name, err, c.why)
		}
	}
}

// refusals counts whom a NATS server refuses, by the key that they showed.
type refusals struct {
	mu    sync.Mutex
	count map[string]int
}

func (r *refusals) Errorf(format string, v ...any) {
	_, rest, refused := strings.Cut(fmt.Sprintf(format, v...), "authentication error - Nkey \"")
	if key, _, ok := strings.Cut(rest, "\""); refused && ok {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.count[key]++
	}
}
func (r *refusals) Noticef(string, ...any) {}
func (r *refusals) Warnf(string, ...any)   {}
func (r *refusals) Fatalf(string, ...any)  {}
func (r *refusals) Debugf(string, ...any)  {}
func (r *refusals) Tracef(string, ...any)  {}

// nats.go gives a connection up for ever at its second equal refusal in a row. A
// server that comes up before its users do would leave a relay that runs and
// serves nobody.
func TestARelayThatItsServerRefusesForAWhileComesBack(t *testing.T) {
	t.Parallel()
	x := newExternal(t, false)
	x.run(t)
	f := newFixture(t)
	f.server = x.server
	f.start(f.configText(t.TempDir(), x.section(0)), Options{})
	x.Port = x.server.Addr().(*net.TCPAddr).Port
	stop := func() { x.server.Shutdown(); x.server.WaitForShutdown() }

	stop()
	seen := &refusals{count: map[string]int{}}
	other := &external{before: func(s *server.Server) { s.SetLoggerV2(seen, false, false, false) }}
	empty := filepath.Join(t.TempDir(), "nats.conf")
	write(t, empty, []byte(fmt.Sprintf("listen: \"127.0.0.1:%d\"\naccounts { CFA { users: [ { nkey: %s } ] } }\n", x.Port, f.ana.key())))
	other.runFile(t, empty)
	own := x.Relays[0]
	eventually(t, "each of the relay's connections is refused three times", func() bool {
		seen.mu.Lock()
		defer seen.mu.Unlock()
		for _, key := range []string{own.System, own.Callout, own.Client, own.StoreUser} {
			if seen.count[key] < 3 {
				return false
			}
		}
		return true
	})
	other.server.Shutdown()
	other.server.WaitForShutdown()

	x.run(t)
	f.server = x.server
	for name, nc := range map[string]*nats.Conn{"system": f.relay.net.system, "callout": f.relay.net.callout, "client": f.relay.net.client, "store": f.relay.net.store} {
		eventually(t, name+" is connected again", nc.IsConnected)
	}
	ana := f.sit(f.ana)
	j := f.accepted(rocketRepo, "rocket")
	must(t, ana.say(wire.VerbOpen, f.ana.openMessage(t, j)))
}
