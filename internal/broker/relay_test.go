package broker

// The relay over real TCP with its embedded server, a real issuer, and clients
// that are nothing but keys: what a job and a responder are granted, and what
// they are not.

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/wire"
)

const relayName = "relay.test"

// fixture is a running relay and everybody around it.
type fixture struct {
	t      testing.TB
	relay  *Relay
	issuer *devissuer.Issuer
	log    *syncBuffer
	server *server.Server    // the external one, if any
	names  map[string]string // of accounts, where the server calls them by their keys
	ana    *human            // enrolled for rocket and boat
	bob    *human            // enrolled for rocket
	eve    *human            // enrolled for other
}

// syncBuffer is a log that can be waited on.
type syncBuffer struct {
	mu    sync.Mutex
	b     strings.Builder
	grown chan struct{}
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grown != nil {
		close(s.grown)
		s.grown = nil
	}
	return s.b.Write(p)
}

// line waits for a line that has all of parts.
func (s *syncBuffer) line(t testing.TB, parts ...string) string {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		text := s.b.String()
		if s.grown == nil {
			s.grown = make(chan struct{})
		}
		grown := s.grown
		s.mu.Unlock()
	lines:
		for line := range strings.Lines(text) {
			for _, p := range parts {
				if !strings.Contains(line, p) {
					continue lines
				}
			}
			return line
		}
		select {
		case <-grown:
		case <-late:
			t.Fatalf("no line of the log has %q:\n%s", parts, text)
		}
	}
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

type human struct {
	name          string
	connect, sign nkeys.KeyPair
}

func newHuman(t testing.TB, name string) *human {
	t.Helper()
	c, err := wire.NewConnectKey()
	if err != nil {
		t.Fatal(err)
	}
	s, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	return &human{name, c, s}
}

func (h *human) key() string    { return wire.PublicKey(h.connect) }
func (h *human) signer() string { return wire.PublicKey(h.sign) }

func (h *human) yaml() string {
	return fmt.Sprintf("{name: %s, connect: %s, sign: %s}", h.name, h.key(), h.signer())
}

const (
	rocketRepo = "example/rocket"
	boatRepo   = "example/boat"
	otherRepo  = "stranger/thing"
)

func claimsOf(repo string) map[string]any { return devissuer.GitHubClaims(repo, nil) }

func ruleOf(repo string) string {
	c := claimsOf(repo)
	return fmt.Sprintf("{provider: dev, repository_id: %q, repository_owner_id: %q}", c["repository_id"], c["repository_owner_id"])
}

// configText is the relay's file of the fixture; extra lines go to the top level.
func (f *fixture) configText(dir string, extra string) string {
	return fmt.Sprintf(`host: %s
data: %s
issuers:
  - {name: dev, provider: github, url: %q}
projects:
  rocket:
    ci: [%s]
    responders:
      - %s
      - %s
  boat:
    ci: [%s]
    responders: [%s]
  other:
    ci: [%s]
    responders: [%s]
%s`, relayName, dir, f.issuer.URL(), ruleOf(rocketRepo), f.ana.yaml(), f.bob.yaml(), ruleOf(boatRepo), f.ana.yaml(), ruleOf(otherRepo), f.eve.yaml(), extra)
}

// oneIssuer is every fixture's: making its keys takes longer than most tests. A
// test that breaks its issuer has one of its own.
var oneIssuer = sync.OnceValues(func() (*devissuer.Issuer, error) { return devissuer.Start(context.Background()) })

func newFixture(t testing.TB) *fixture {
	t.Helper()
	issuer, err := oneIssuer()
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{t: t, log: &syncBuffer{}, issuer: issuer, ana: newHuman(t, "Ana"), bob: newHuman(t, "Bob"), eve: newHuman(t, "Eve")}
}

// newFrailFixture has an issuer that may be broken.
func newFrailFixture(t testing.TB) *fixture {
	t.Helper()
	f := newFixture(t)
	issuer, err := devissuer.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(issuer.Close)
	f.issuer = issuer
	return f
}

func startFixture(t testing.TB) *fixture {
	t.Helper()
	f := newFixture(t)
	f.start(f.configText(t.TempDir(), "listen: {nats: \"127.0.0.1:0\"}\n"), Options{})
	return f
}

// crowded lets a run and a project have as many requests open as a measurement
// wants.
var crowded = Options{opened: func(s *store) {
	s.perRun, s.perProject = 1<<30, 1<<30
	s.limits = func(string) Limits { return Limits{Open: 1 << 30, OpenPerRun: 1 << 30, PerHour: 1 << 30} }
}}

func (f *fixture) start(text string, o Options) {
	f.t.Helper()
	c, err := ParseConfig([]byte(text), f.t.TempDir())
	if err != nil {
		f.t.Fatal(err)
	}
	f.startConfig(c, o)
}

func (f *fixture) startConfig(c *Config, o Options) {
	f.t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(f.log, nil))
	}
	ctx, cancel := context.WithTimeout(f.t.Context(), 60*time.Second)
	defer cancel()
	r, err := Start(context.WithoutCancel(ctx), c, o)
	if err != nil {
		f.t.Fatal(err)
	}
	f.relay = r
	f.t.Cleanup(func() {
		f.audited(r)
		// A server takes its time to say goodbye to clients, of which those of the
		// test are gone, if it has noticed.
		for range 100 {
			if r.net.server == nil || r.net.server.NumClients() <= ownConnections {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
		r.Close()
	})
}

const onLoopback = "listen: {nats: \"127.0.0.1:0\"}\n"

// job is a CI job's keys and what it asks.
type job struct {
	f     *fixture
	key   nkeys.KeyPair
	pub   string
	repo  string
	token string
	env   wire.Envelope
	req   wire.Request
	dig   wire.Digest

	nc    *nats.Conn         // after connect
	hints *nats.Subscription // what the relay pushes to it
}

func (f *fixture) token(repo, audience string, over map[string]any) string {
	f.t.Helper()
	claims := claimsOf(repo)
	claims["aud"] = audience
	for k, v := range over {
		claims[k] = v
	}
	tok, err := f.issuer.Mint(claims)
	if err != nil {
		f.t.Fatal(err)
	}
	return tok
}

func (f *fixture) job(repo, project string) *job {
	f.t.Helper()
	kp, err := wire.NewConnectKey()
	if err != nil {
		f.t.Fatal(err)
	}
	j := &job{f: f, key: kp, pub: wire.PublicKey(kp), repo: repo}
	j.token = f.token(repo, wire.Audience(relayName, j.pub), nil)
	j.ask(project, nil)
	return j
}

// ask makes the job's request anew.
func (j *job) ask(project string, change func(*wire.Request)) {
	j.f.t.Helper()
	claims, err := ci.Unverified(j.token)
	if err != nil {
		j.f.t.Fatal(err)
	}
	proof := wire.Proof{"iss": claims.Text("iss")}
	for _, name := range ci.Find("github").Proof {
		if v, ok := claims.String(name); ok {
			proof[name] = v
		}
	}
	hp, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		j.f.t.Fatal(err)
	}
	now := time.Now().Unix()
	j.req = wire.Request{Key: j.pub, Relay: relayName, Project: project, Ask: wire.AskCode, Service: "npm", Format: "digits:6",
		Made: now, Deadline: now + 1800, HPKE: hp.PublicKey().Bytes(), Proof: proof}
	if change != nil {
		change(&j.req)
	}
	if j.env, err = wire.Sign(&j.req, j.key); err != nil {
		j.f.t.Fatal(err)
	}
	if j.dig, err = wire.DigestOf(j.env, j.pub); err != nil {
		j.f.t.Fatal(err)
	}
}

// hello is what a responder shows of which relay it means.
func hello(t testing.TB, key nkeys.KeyPair) string {
	t.Helper()
	shown, err := wire.SignConnect(key, relayName, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return shown
}

// connect dials as key with token, or as a responder with "", over TCP, as dial does but with the raw
// client, so that a test can try what dial never would.
func (f *fixture) connect(key nkeys.KeyPair, token string, opts ...nats.Option) (*nats.Conn, error) {
	pub := wire.PublicKey(key)
	all := append([]nats.Option{
		nats.Nkey(pub, key.Sign), nats.NoReconnect(), nats.CustomInboxPrefix(wire.InboxPrefix(pub)), nats.Timeout(20 * time.Second),
	}, opts...)
	if token == "" {
		token = hello(f.t, key)
	}
	all = append(all, nats.Token(token))
	return nats.Connect(f.relay.ClientURL(), all...)
}

func (f *fixture) mustConnect(key nkeys.KeyPair, token string, opts ...nats.Option) *nats.Conn {
	f.t.Helper()
	nc, err := f.connect(key, token, opts...)
	if err != nil {
		f.t.Fatalf("connect: %v\n%s", err, f.log)
	}
	f.t.Cleanup(nc.Close)
	return nc
}

func request(t testing.TB, nc *nats.Conn, subject string, msg any) wire.Reply {
	t.Helper()
	data, err := json.Marshal(msg)
	if err != nil {
		t.Fatal(err)
	}
	m, err := nc.Request(subject, data, 10*time.Second)
	if err != nil {
		t.Fatalf("%s: %v", subject, err)
	}
	var r wire.Reply
	if err := wire.Decode(m.Data, wire.MaxMessage, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (j *job) send(nc *nats.Conn) wire.Reply {
	j.f.t.Helper()
	return request(j.f.t, nc, wire.JobSubject(j.pub, wire.VerbRequest), wire.RequestMessage{Request: j.env, Token: j.token})
}

func TestARequestIsAcceptedShownAnsweredAndConfirmed(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	desk := f.mustConnect(f.ana.connect, "")
	if p := request(t, desk, wire.DeskSubject(f.ana.key(), wire.VerbPending), wire.PendingQuery{}); p.Page == nil || len(p.Page.Items) != 0 {
		t.Fatalf("an empty relay lists something: %+v", p)
	}
	told, err := desk.SubscribeSync(wire.ProjectSubject("rocket"))
	if err != nil {
		t.Fatal(err)
	}
	j := f.job(rocketRepo, "rocket")
	nc := f.mustConnect(j.key, j.token)
	hints, err := nc.SubscribeSync(wire.HintSubject(j.pub))
	if err != nil {
		t.Fatal(err)
	}
	r := j.send(nc)
	if r.Refused != nil || r.State.State != "pending" || r.State.Attempt != 1 || r.State.Enrolled != 2 || r.State.Ready != 1 {
		t.Fatalf("refused %v, state %+v", r.Refused, r.State)
	}
	if _, err := told.NextMsg(5 * time.Second); err != nil {
		t.Fatalf("the project's responders were not told: %v", err)
	}
	page := request(t, desk, wire.DeskSubject(f.ana.key(), wire.VerbPending), wire.PendingQuery{}).Page
	if len(page.Items) != 1 || page.Items[0].Key != j.pub {
		t.Fatalf("pending: %+v", page)
	}
	sealed := wire.Sealed{Enc: make([]byte, 32), Ciphertext: make([]byte, 600)}
	answer, err := wire.Sign(&wire.Answer{Key: f.ana.signer(), Digest: j.dig, Attempt: 1, Ask: wire.AskCode, Decision: wire.DecisionCode, Sealed: sealed.Hash()}, f.ana.sign)
	if err != nil {
		t.Fatal(err)
	}
	a := request(t, desk, wire.DeskSubject(f.ana.key(), wire.VerbAnswer), wire.AnswerMessage{Key: j.pub, Answer: answer, Sealed: &sealed})
	if a.Refused != nil || a.State.State != "answered" {
		t.Fatalf("answer: %v %+v", a.Refused, a.State)
	}
	for {
		m, err := hints.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatalf("the sealed answer never came: %v", err)
		}
		var h wire.Hint
		if err := wire.Decode(m.Data, wire.MaxMessage, &h); err != nil {
			t.Fatal(err)
		}
		if h.Hint == wire.HintAnswer && h.Sealed.Hash() == sealed.Hash() {
			break
		}
	}
	got, err := wire.Sign(&wire.Got{Key: j.pub, Digest: j.dig, Attempt: 1, Sealed: sealed.Hash()}, j.key)
	if err != nil {
		t.Fatal(err)
	}
	if g := request(t, nc, wire.JobSubject(j.pub, wire.VerbGot), wire.StepMessage{Step: got}); g.Refused != nil || g.State.State != "delivered" {
		t.Fatalf("got: %v %+v", g.Refused, g.State)
	}
	done, err := wire.Sign(&wire.Done{Key: j.pub, Digest: j.dig, Attempt: 1, Outcome: wire.OutcomeOK}, j.key)
	if err != nil {
		t.Fatal(err)
	}
	if d := request(t, nc, wire.JobSubject(j.pub, wire.VerbDone), wire.StepMessage{Step: done}); d.Refused != nil || d.State.State != "done" {
		t.Fatalf("done: %v %+v", d.Refused, d.State)
	}
}
