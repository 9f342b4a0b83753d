package broker

// Relays that join a server in operator mode: what an operator's tools write is
// written here with the library that they use. Each account has a signing key,
// and a strict operator's servers take nothing else.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/wire"
)

// account is one of an operator's, with the key that signs its users.
type account struct {
	claims *jwt.AccountClaims
	key    nkeys.KeyPair
}

// operatorSide is what the operator of a server has. Tests change an account's
// claims before the server runs.
type operatorSide struct {
	claims   *jwt.OperatorClaims
	own, key nkeys.KeyPair // its identity, and what signs accounts
	accounts map[string]*account
	Sentinel string
}

func createKey(t testing.TB, create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	kp, err := create()
	if err != nil {
		t.Fatal(err)
	}
	return kp
}

func seedOf(t testing.TB, kp nkeys.KeyPair) []byte {
	t.Helper()
	s, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// encode signs a statement.
func encode(t testing.TB, c jwt.Claims, key nkeys.KeyPair) string {
	t.Helper()
	token, err := c.Encode(key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// newOperator makes an operator with its accounts, and the files of two relays.
// Nothing runs yet.
func newOperator(t testing.TB) *external {
	t.Helper()
	o := &operatorSide{own: createKey(t, nkeys.CreateOperator), key: createKey(t, nkeys.CreateOperator), accounts: map[string]*account{}}
	x := &external{Name: "nats-1", Port: -1, Timeout: 30, dir: t.TempDir(), Operator: o}
	x.Store = filepath.Join(x.dir, "store")
	for _, name := range []string{"SYS", "AUTH", "CFA", "STORE", "OTHER"} {
		c := jwt.NewAccountClaims(wire.PublicKey(createKey(t, nkeys.CreateAccount)))
		a := &account{c, createKey(t, nkeys.CreateAccount)}
		c.Name = name
		c.SigningKeys.Add(wire.PublicKey(a.key))
		o.accounts[name] = a
	}
	o.claims = jwt.NewOperatorClaims(wire.PublicKey(o.own))
	o.claims.SigningKeys.Add(wire.PublicKey(o.key))
	o.claims.StrictSigningKeyUsage = true
	o.claims.SystemAccount = o.accounts["SYS"].claims.Subject

	store, clients, auth := o.accounts["STORE"].claims, o.accounts["CFA"].claims, o.accounts["AUTH"].claims
	store.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
	clients.Limits.Payload, clients.Limits.Subs = wire.MaxMessage, clientSubscriptions
	xkey := createKey(t, nkeys.CreateCurveKeys)
	x.XKey = wire.PublicKey(xkey)
	auth.Authorization.XKey = x.XKey
	auth.Authorization.AllowedAccounts.Add(clients.Subject)
	write(t, filepath.Join(x.dir, "xkey.nk"), seedOf(t, xkey))
	write(t, filepath.Join(x.dir, "issuer.nk"), seedOf(t, o.accounts["AUTH"].key))
	write(t, filepath.Join(x.dir, "user-issuer.nk"), seedOf(t, o.accounts["CFA"].key))
	for i := range 2 {
		for user, name := range map[string]string{"system": "SYS", "callout": "AUTH", "client": "CFA", "store": "STORE"} {
			pub := x.creds(t, fmt.Sprintf("%s-%d.creds", user, i), name, nil)
			if user == "callout" {
				auth.Authorization.AuthUsers.Add(pub)
			}
		}
	}
	o.Sentinel = encode(t, sentinel(o), o.accounts["AUTH"].key)
	return x
}

func sentinel(o *operatorSide) *jwt.UserClaims {
	u := jwt.NewUserClaims(o.anyUser())
	u.Name, u.IssuerAccount, u.BearerToken = "sentinel", o.accounts["AUTH"].claims.Subject, true
	u.Permissions.Pub.Deny.Add(">")
	u.Permissions.Sub.Deny.Add(">")
	return u
}

// anyUser is a user's key of which nobody has the seed.
func (o *operatorSide) anyUser() string {
	kp, err := nkeys.CreateUser()
	if err != nil {
		panic(err)
	}
	return wire.PublicKey(kp)
}

// creds makes a user of an account and its file, and gives its key.
func (x *external) creds(t testing.TB, file, name string, change func(*jwt.UserClaims)) string {
	t.Helper()
	a, kp := x.Operator.accounts[name], createKey(t, nkeys.CreateUser)
	u := jwt.NewUserClaims(wire.PublicKey(kp))
	u.Name, u.IssuerAccount = file, a.claims.Subject
	if change != nil {
		change(u)
	}
	text, err := jwt.FormatUserConfig(encode(t, u, a.key), seedOf(t, kp))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(x.dir, file), text)
	return u.Subject
}

// conf is what nsc generate config --mem-resolver writes.
func (o *operatorSide) conf(t testing.TB) []byte {
	t.Helper()
	text := fmt.Sprintf("operator: %s\nsystem_account: %s\nresolver: MEMORY\nresolver_preload: {\n", encode(t, o.claims, o.own), o.claims.SystemAccount)
	for _, a := range o.accounts {
		text += fmt.Sprintf("  %s: %s\n", a.claims.Subject, encode(t, a.claims, o.key))
	}
	return []byte(text + "}\n")
}

func (x *external) operatorSection(n int) string {
	return fmt.Sprintf(`nats:
  url: %q
  issuer: %[2]s/issuer.nk
  user-issuer: %[2]s/user-issuer.nk
  xkey: %[2]s/xkey.nk
  account: %[4]s
  system: {creds: %[2]s/system-%[3]d.creds}
  callout: {creds: %[2]s/callout-%[3]d.creds}
  client: {creds: %[2]s/client-%[3]d.creds}
  store: {creds: %[2]s/store-%[3]d.creds}
  replicas: 1
`, x.server.ClientURL(), x.dir, n, x.Operator.accounts["CFA"].claims.Subject)
}

// names are the accounts' names, by what the server calls them.
func (o *operatorSide) names() map[string]string {
	names := map[string]string{}
	for name, a := range o.accounts {
		names[a.claims.Subject] = name
	}
	return names
}

func startOperator(t testing.TB) *fixture {
	t.Helper()
	x := newOperator(t)
	x.run(t)
	f := newFixture(t)
	f.server, f.names = x.server, x.Operator.names()
	f.start(f.configText(t.TempDir(), x.section(0)), Options{})
	return f
}

// start gives what a relay that cannot start says.
func (f *fixture) startError(section string) error {
	f.t.Helper()
	c, err := ParseConfig([]byte(f.configText(f.t.TempDir(), section)), "/")
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
	defer cancel()
	r, err := Start(ctx, c, Options{})
	if err == nil {
		r.Close()
	}
	return err
}

// What the servers' side says of the accounts is known at the start, and what
// would otherwise be silence is said then, with the key and what mends it.
func TestARelayThatTheAccountsDoNotFitDoesNotStart(t *testing.T) {
	t.Parallel()
	key := func(a *account) string { return wire.PublicKey(a.key) }
	for _, c := range []struct {
		name   string
		change func(t *testing.T, x *external, o *operatorSide)
		why    func(o *operatorSide) []string
	}{
		{"users signed by another key", func(t *testing.T, x *external, o *operatorSide) {
			write(t, filepath.Join(x.dir, "user-issuer.nk"), seedOf(t, o.accounts["OTHER"].key))
		}, func(o *operatorSide) []string {
			return []string{"nats.client's account " + o.accounts["CFA"].claims.Subject + " (CFA) does not have the key " + key(o.accounts["OTHER"]) + " of nats.user-issuer among its signing keys",
				"give the relay the seed of one of [" + key(o.accounts["CFA"]) + "], or run: nsc edit account --sk " + key(o.accounts["OTHER"]) + ", then: nsc push"}
		}},
		// An encrypted answer's signature is not looked at: it would be the day on
		// which a server begins to.
		{"answers signed by another key", func(t *testing.T, x *external, o *operatorSide) {
			write(t, filepath.Join(x.dir, "issuer.nk"), seedOf(t, o.accounts["OTHER"].key))
		}, func(o *operatorSide) []string {
			return []string{"nats.callout's account " + o.accounts["AUTH"].claims.Subject + " (AUTH) does not have the key " + key(o.accounts["OTHER"]) + " of nats.issuer among its signing keys",
				"give the relay the seed of one of [" + key(o.accounts["AUTH"]) + "], or run: nsc edit account --sk "}
		}},
		{"the two issuers changed round", func(t *testing.T, x *external, o *operatorSide) {
			write(t, filepath.Join(x.dir, "issuer.nk"), seedOf(t, o.accounts["CFA"].key))
			write(t, filepath.Join(x.dir, "user-issuer.nk"), seedOf(t, o.accounts["AUTH"].key))
		}, func(*operatorSide) []string { return []string{"of nats.issuer among its signing keys"} }},
		{"a key with a role", func(t *testing.T, x *external, o *operatorSide) {
			kp, scope := createKey(t, nkeys.CreateAccount), jwt.NewUserScope()
			scope.Key, scope.Role = wire.PublicKey(kp), "everything"
			scope.Template.Permissions.Pub.Allow.Add(">")
			o.accounts["CFA"].claims.SigningKeys.AddScopedSigner(scope)
			write(t, filepath.Join(x.dir, "user-issuer.nk"), seedOf(t, kp))
		}, func(*operatorSide) []string {
			return []string{"of nats.user-issuer with a role, whose permissions the server would put in the place of each client's own; use a plain signing key: nsc edit account --sk generate"}
		}},
		{"another xkey", func(t *testing.T, x *external, o *operatorSide) {
			write(t, filepath.Join(x.dir, "xkey.nk"), seedOf(t, createKey(t, nkeys.CreateCurveKeys)))
		}, func(o *operatorSide) []string {
			return []string{"encrypts the callout to " + o.accounts["AUTH"].claims.Authorization.XKey + ", but the seed in nats.xkey is that of X", "nsc edit authcallout --curve X"}
		}},
		{"no xkey", func(_ *testing.T, _ *external, o *operatorSide) { o.accounts["AUTH"].claims.Authorization.XKey = "" }, func(*operatorSide) []string {
			return []string{"(AUTH) does not encrypt the callout; run: nsc edit authcallout --curve X"}
		}},
		{"no callout", func(_ *testing.T, _ *external, o *operatorSide) {
			o.accounts["AUTH"].claims.Authorization = jwt.ExternalAuthorization{}
		}, func(*operatorSide) []string {
			return []string{"asks no callout, so whoever comes without a JWT would be let into it"}
		}},
		{"any account", func(_ *testing.T, _ *external, o *operatorSide) {
			o.accounts["AUTH"].claims.Authorization.AllowedAccounts = jwt.StringList{jwt.AnyAccount}
		}, func(o *operatorSide) []string {
			return []string{"lets the callout place users in [*]; it must be nats.account alone", "nsc edit authcallout --allowed-account " + o.accounts["CFA"].claims.Subject}
		}},
		{"the system account too", func(_ *testing.T, _ *external, o *operatorSide) {
			o.accounts["AUTH"].claims.Authorization.AllowedAccounts.Add(o.accounts["SYS"].claims.Subject)
		}, func(*operatorSide) []string { return []string{"it must be nats.account alone"} }},
		{"no account", func(_ *testing.T, _ *external, o *operatorSide) {
			o.accounts["AUTH"].claims.Authorization.AllowedAccounts = nil
		}, func(*operatorSide) []string {
			return []string{"lets the callout place users in []; it must be nats.account alone"}
		}},
		{"no bearers", func(_ *testing.T, _ *external, o *operatorSide) {
			o.accounts["AUTH"].claims.Limits.DisallowBearer = true
		}, func(*operatorSide) []string {
			return []string{"takes no bearer JWT, but default_sentinel is one"}
		}},
		{"no limits", func(_ *testing.T, _ *external, o *operatorSide) {
			o.accounts["CFA"].claims.Limits.Payload, o.accounts["CFA"].claims.Limits.Subs = jwt.NoLimit, jwt.NoLimit
		}, func(*operatorSide) []string {
			return []string{"(CFA) limits messages to -1 bytes and a connection to -1 subscriptions, in the place of 65536 and 40; run: nsc edit account --payload 65536 --subscriptions 40, then: nsc push"}
		}},
		{"JetStream for clients", func(_ *testing.T, _ *external, o *operatorSide) {
			o.accounts["CFA"].claims.Limits.JetStreamLimits = o.accounts["STORE"].claims.Limits.JetStreamLimits
		}, func(*operatorSide) []string { return []string{"(CFA) has JetStream"} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			x := newOperator(t)
			c.change(t, x, x.Operator)
			x.run(t)
			err := newFixture(t).startError(x.section(0))
			if err == nil {
				t.Fatal("started")
			}
			for _, w := range c.why(x.Operator) {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v\ndoes not say: %s", err, w)
				}
			}
		})
	}
}

// What the files alone show is said by `check` too.
func TestCredentialsThatDoNotFitAreRefusedBeforeTheStart(t *testing.T) {
	t.Parallel()
	x := newOperator(t)
	x.run(t)
	f := newFixture(t)
	o := x.Operator
	path := func(name string) string { return filepath.Join(x.dir, name) }
	replace := func(old, file string) string {
		return strings.Replace(x.section(0), path(old), path(file), 1)
	}
	whole, err := os.ReadFile(path("store-0.creds"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(path("store-1.creds"))
	if err != nil {
		t.Fatal(err)
	}
	const seam = "-----BEGIN USER NKEY SEED-----"
	statement, _, _ := bytes.Cut(whole, []byte(seam))
	_, seed, _ := bytes.Cut(other, []byte(seam))
	write(t, path("mixed.creds"), append(append(bytes.Clone(statement), seam...), seed...))
	write(t, path("half.creds"), statement)
	write(t, path("long.creds"), append(bytes.Clone(whole), make([]byte, maxSecretFile)...))
	write(t, path("open.creds"), whole)
	if err := os.Chmod(path("open.creds"), 0o640); err != nil {
		t.Fatal(err)
	}
	write(t, path("user.nk"), seedOf(t, createKey(t, nkeys.CreateUser)))
	x.creds(t, "expired.creds", "STORE", func(u *jwt.UserClaims) { u.Expires = time.Now().Add(-time.Minute).Unix() })
	x.creds(t, "foreign.creds", "OTHER", nil)
	// The account's own key: the account of the files is then named as it.
	own := createKey(t, nkeys.CreateAccount)
	write(t, path("own.nk"), seedOf(t, own))
	o.accounts["OWN"] = &account{jwt.NewAccountClaims(wire.PublicKey(own)), createKey(t, nkeys.CreateAccount)}
	x.creds(t, "own.creds", "OWN", nil)

	for _, c := range []struct{ name, section, why string }{
		{"two halves", replace("store-0.creds", "mixed.creds"), "nats.store.creds: the JWT in " + path("mixed.creds") + " is of the user U"},
		{"no seed", replace("store-0.creds", "half.creds"), "is no credentials file with a user's JWT and seed; make it with: nsc generate creds"},
		{"an nkey seed", replace("store-0.creds", "user.nk"), "is no credentials file"},
		{"none", replace("store-0.creds", "nowhere.creds"), "no such file"},
		{"too long", replace("store-0.creds", "long.creds"), "has more than 65536 bytes"},
		{"for others to read", replace("store-0.creds", "open.creds"), "can be read by others (mode 0640); run: chmod 600"},
		{"expired", replace("store-0.creds", "expired.creds"), "has expired at "},
		{"another account's", replace("client-0.creds", "foreign.creds"), "nats.client.creds: is a user of the account " + o.accounts["OTHER"].claims.Subject + ", but jobs and responders are placed in " + o.accounts["CFA"].claims.Subject + " (nats.account)"},
		{"one account twice", replace("store-0.creds", "callout-1.creds"), "nats.callout and nats.store are both users of the account " + o.accounts["AUTH"].claims.Subject + "; each needs one of its own"},
		{"a user's seed as issuer", replace("issuer.nk", "user.nk"), "nats.issuer: " + path("user.nk") + " holds the seed of the key U"},
		{"an account's seed as xkey", replace("xkey.nk", "issuer.nk"), "which is of the kind account; here belongs one of the kind x25519 (SX…)"},
		{"a curve seed as user issuer", replace("user-issuer.nk", "xkey.nk"), "here belongs one of the kind account (SA…)"},
		{"the callout's account's own key", strings.Replace(replace("issuer.nk", "own.nk"), path("callout-0.creds"), path("own.creds"), 1), "nats.issuer: is the key of the account " + wire.PublicKey(own) + " itself; give a signing key of the account: nsc edit account --sk generate"},
		{"the clients' account's own key", strings.NewReplacer(path("user-issuer.nk"), path("own.nk"), path("client-0.creds"), path("own.creds"), o.accounts["CFA"].claims.Subject, wire.PublicKey(own)).Replace(x.section(0)), "nats.user-issuer: is the key of the account " + wire.PublicKey(own) + " itself"},
	} {
		config, err := ParseConfig([]byte(f.configText(t.TempDir(), c.section)), "/")
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if err := config.CheckFiles(); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v\ndoes not say: %s", c.name, err, c.why)
		} else if strings.Contains(err.Error(), "eyJ") || strings.Contains(err.Error(), "SUA") {
			t.Errorf("%s: quotes what it read: %v", c.name, err)
		}
		if err := f.startError(c.section); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: the start: %v", c.name, err)
		}
	}
	config, err := ParseConfig([]byte(f.configText(t.TempDir(), x.section(0))), "/")
	if err != nil {
		t.Fatal(err)
	}
	if err := config.CheckFiles(); err != nil {
		t.Errorf("the control: %v", err)
	}
}

func TestARelayAndAServerOfTwoModesDoNotMeet(t *testing.T) {
	t.Parallel()
	operator, config := newOperator(t), newExternal(t, true)
	// Nobody answers either callout, and the servers wait for as long, also when
	// they are told to end. Their first PING, after 2 s, comes before.
	operator.Timeout, config.Timeout = 4, 4
	operator.run(t)
	config.run(t)
	f := newFixture(t)
	swap := func(x, of *external) string {
		return strings.Replace(x.section(0), x.server.ClientURL(), of.server.ClientURL(), 1)
	}
	for name, c := range map[string]struct{ section, why string }{
		"operator mode on a config server": {swap(operator, config), "is the server in operator mode, and does it have this user's account (nsc push)?"},
		"config mode on an operator's":     {swap(config, operator), "is the server in config mode?"},
	} {
		// On a busy machine the server's PING comes before its refusal, and then the
		// relay can only guess what the server waits for.
		const guess = "expected 'PONG', got 'PING'"
		if err := f.startError(c.section); err == nil || !strings.Contains(err.Error(), c.why) && !strings.Contains(err.Error(), guess) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A callout's user whom the account does not list would be asked about.
	x := newOperator(t)
	x.Timeout = 1
	x.Operator.accounts["AUTH"].claims.Authorization.AuthUsers = jwt.StringList{x.Operator.anyUser()}
	x.run(t)
	if err := f.startError(x.section(0)); err == nil || !strings.Contains(err.Error(), "does the JWT that the server has of this user's account list the user (nsc edit authcallout --auth-user)") {
		t.Error(err)
	}
}

// A JWT is the operator's word about somebody, and no client's way to the relay.
func TestAJWTOfItsOwnGetsNobodyToTheRelay(t *testing.T) {
	t.Parallel()
	x := newOperator(t)
	x.Timeout = 5
	x.run(t)
	f := newFixture(t)
	f.server, f.names = x.server, x.Operator.names()
	f.start(f.configText(t.TempDir(), x.section(0)), Options{})
	o := x.Operator
	unknown := createKey(t, nkeys.CreateAccount)
	user := func(pub, account string, bearer bool, key nkeys.KeyPair) string {
		u := jwt.NewUserClaims(pub)
		u.IssuerAccount, u.BearerToken = o.accounts[account].claims.Subject, bearer
		return encode(t, u, key)
	}
	for _, c := range []struct {
		name   string
		change func(j *job, connect map[string]any)
		in     string // the account, or "" for refused
		log    string // of the refusal, where the callout is asked
	}{
		{"the control, none", func(*job, map[string]any) {}, "CFA", ""},
		{"none, and no key either", func(_ *job, c map[string]any) { delete(c, "nkey"); delete(c, "sig") }, "", "no connecting key was shown"},
		{"nothing at all", func(_ *job, c map[string]any) { clear(c) }, "", "no connecting key was shown"},
		{"the sentinel's, alone", func(_ *job, c map[string]any) { clear(c); c["jwt"] = o.Sentinel }, "", "no connecting key was shown"},
		{"the sentinel's, beside the rest", func(_ *job, c map[string]any) { c["jwt"] = o.Sentinel }, "CFA", ""},
		{"what is none", func(_ *job, c map[string]any) { c["jwt"] = "eyJ.eyJ.x" }, "CFA", ""},
		// Of the same key: the signature is then good for both.
		{"of another account", func(j *job, c map[string]any) { c["jwt"] = user(j.pub, "OTHER", false, o.accounts["OTHER"].key) }, "OTHER", ""},
		{"of another account, a bearer", func(j *job, c map[string]any) {
			c["jwt"] = user(o.anyUser(), "OTHER", true, o.accounts["OTHER"].key)
		}, "OTHER", ""},
		{"for the clients' account, by another's key", func(j *job, c map[string]any) { c["jwt"] = user(j.pub, "CFA", false, o.accounts["OTHER"].key) }, "", ""},
		{"for the clients' account, by the callout's key", func(j *job, c map[string]any) { c["jwt"] = user(j.pub, "CFA", true, o.accounts["AUTH"].key) }, "", ""},
		{"for the system account, by the clients' key", func(j *job, c map[string]any) { c["jwt"] = user(j.pub, "SYS", false, o.accounts["CFA"].key) }, "", ""},
		{"for the store, by an unknown key", func(j *job, c map[string]any) { c["jwt"] = user(j.pub, "STORE", true, unknown) }, "", ""},
		// The server has no account yet to ask these two's callout in, and asks
		// where nobody answers (2.15.2).
		{"for the callout's account, by an unknown key", func(j *job, c map[string]any) { c["jwt"] = user(j.pub, "AUTH", true, unknown) }, "", ""},
		{"the same, and nothing else", func(j *job, c map[string]any) { clear(c); c["jwt"] = user(j.pub, "AUTH", true, unknown) }, "", ""},
		{"as a relay's callout user, by an unknown key", func(j *job, c map[string]any) {
			c["jwt"] = user(o.accounts["AUTH"].claims.Authorization.AuthUsers[0], "AUTH", true, unknown)
		}, "", ""},
		{"a relay's user's, which the job does not hold", func(j *job, c map[string]any) {
			c["jwt"] = user(o.accounts["AUTH"].claims.Authorization.AuthUsers[0], "AUTH", false, o.accounts["AUTH"].key)
		}, "", ""},
	} {
		j := f.job(rocketRepo, "rocket")
		e := f.knock(f.address())
		fields := map[string]any{"nkey": j.pub, "sig": e.signature(j.key), "auth_token": j.token}
		c.change(j, fields)
		maps.Copy(fields, map[string]any{"verbose": false, "pedantic": false, "lang": "test", "version": "0", "protocol": 1})
		got := e.say(fields)
		for got == "PING" {
			if got, _ = e.next(); got == "-ERR 'Authentication Timeout'" {
				got = "-ERR 'Authorization Violation'"
			}
		}
		switch {
		case c.in == "" && !strings.Contains(got, "Authorization Violation"):
			t.Errorf("%s: %s", c.name, got)
		case c.in == "" && c.log != "":
			f.log.line(t, "what=connect", "outcome=refused", c.log)
		case c.in == "":
			if strings.Contains(f.log.String(), j.pub) {
				t.Errorf("%s: the callout was asked", c.name)
			}
		case got != "PONG":
			t.Errorf("%s: %s", c.name, got)
		case f.placedIn(e.ID) != c.in:
			t.Errorf("%s: placed in %s, not in %s", c.name, f.placedIn(e.ID), c.in)
		}
	}

	// Who is let into another account by its owner hears and reaches nothing here.
	x.creds(t, "other.creds", "OTHER", nil)
	nc, err := nats.Connect(x.server.ClientURL(), nats.UserCredentials(filepath.Join(x.dir, "other.creds")))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	j := f.accepted(rocketRepo, "rocket")
	if _, err := nc.Request(wire.JobSubject(j.pub, wire.VerbState), []byte("{}"), 10*time.Second); !errors.Is(err, nats.ErrNoResponders) {
		t.Errorf("the relay was asked from another account: %v", err)
	}
	all := listen(t, nc, ">")
	must(t, f.sit(f.ana).say(wire.VerbOpen, f.ana.openMessage(t, j)))
	hint(t, j.hints, func(h wire.Hint) bool { return h.Hint == wire.HintChallenge })
	// What was sent to this connection comes before the server's PONG.
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if n, _, err := all.Pending(); err != nil || n != 0 {
		t.Errorf("%d messages heard in another account (%v)", n, err)
	}
}

// Which is why the server needs one: it says nothing of it when it starts.
func TestWithoutADefaultSentinelNoJobIsHeardOf(t *testing.T) {
	t.Parallel()
	x := newOperator(t)
	x.Operator.Sentinel = ""
	x.run(t)
	f := newFixture(t)
	f.server, f.names = x.server, x.Operator.names()
	f.start(f.configText(t.TempDir(), x.section(0)), Options{Log: debugLog(f.log)})
	j := f.job(rocketRepo, "rocket")
	if nc, err := f.connect(j.key, j.token); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("%v %v", nc, err)
	}
	if strings.Contains(f.log.String(), "what=connect") {
		t.Error("the callout was asked")
	}
}

// What a relay that has been taken over can place, with the keys that it has: in
// the clients' account, and in no other.
func TestNoKeyOfARelayPlacesAnybodyElsewhere(t *testing.T) {
	t.Parallel()
	x := newOperator(t)
	x.run(t)
	f := newFixture(t)
	f.server, f.names = x.server, x.Operator.names()
	f.start(f.configText(t.TempDir(), x.section(0)), Options{})
	own := f.relay.net.account
	for _, name := range []string{"SYS", "STORE", "OTHER"} {
		for _, key := range []nkeys.KeyPair{f.relay.net.users, f.relay.net.issuer} {
			j := f.job(rocketRepo, "rocket")
			e := f.knock(f.address())
			f.relay.net.account = x.Operator.accounts[name].claims.Subject // what no configuration can do
			users := f.relay.net.users
			f.relay.net.users = key
			got := e.say(map[string]any{"verbose": false, "nkey": j.pub, "sig": e.signature(j.key), "auth_token": j.token})
			f.relay.net.account, f.relay.net.users = own, users
			if !strings.Contains(got, "Authorization Violation") {
				t.Errorf("%s: %s", name, got)
			}
		}
	}
	j := f.job(rocketRepo, "rocket")
	j.connect()
	must(t, j.send(j.nc))
}
