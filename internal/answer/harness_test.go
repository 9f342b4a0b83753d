package answer

// What the tests share: a human who writes everything down, a verifier without
// a CI for tests in fake time, and the set-up of both.

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/answer/answertest"
	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

const (
	relayName = "relay.test"
	project   = "asar"
	repo      = "electron/asar"
	code      = "493817"
)

// scribe is a human who opens every prompt (unless told not to) and writes down
// all that is shown.
type scribe struct {
	blind bool // opens nothing

	mu      sync.Mutex
	all     []Prompt
	last    map[string]Prompt
	notices []string
	changed chan struct{}
	leave   chan error

	absences []Absence
}

func newScribe() *scribe {
	return &scribe{last: map[string]Prompt{}, changed: make(chan struct{}), leave: make(chan error, 1)}
}

func (s *scribe) Discreet() {}

func (s *scribe) Ask(_ context.Context, news <-chan News, desk Decisions) error {
	for {
		select {
		case n, ok := <-news:
			if !ok {
				return nil
			}
			s.mu.Lock()
			if n.Away != nil {
				s.absences = append(s.absences, *n.Away)
			} else if n.Prompt != nil {
				if last, old := s.last[n.Prompt.ID]; (!old || last.Quiet) && !n.Prompt.Quiet && !s.blind {
					desk.Open(n.Prompt.ID)
				}
				s.all = append(s.all, *n.Prompt)
				s.last[n.Prompt.ID] = *n.Prompt
			} else {
				s.notices = append(s.notices, n.Notice)
			}
			close(s.changed)
			s.changed = make(chan struct{})
			s.mu.Unlock()
		case err := <-s.leave:
			return err
		}
	}
}

// wait gives the first snapshot of a request that fits, from now on.
func (s *scribe) wait(t *testing.T, id string, what string, ok func(Prompt) bool) Prompt {
	t.Helper()
	timer := time.NewTimer(20 * time.Second)
	if inBubble(t) {
		timer.Reset(24 * time.Hour)
	}
	defer timer.Stop()
	for {
		s.mu.Lock()
		p, known := s.last[id]
		changed := s.changed
		s.mu.Unlock()
		if known && ok(p) {
			return p
		}
		select {
		case <-changed:
		case <-timer.C:
			s.mu.Lock()
			defer s.mu.Unlock()
			t.Fatalf("no prompt that is %s; the last one is %+v; notices %q", what, s.last[id], s.notices)
		}
	}
}

func (s *scribe) noticed(t *testing.T, ok func(string) bool) string {
	t.Helper()
	timer := time.NewTimer(20 * time.Second)
	if inBubble(t) {
		timer.Reset(24 * time.Hour)
	}
	defer timer.Stop()
	for {
		s.mu.Lock()
		changed := s.changed
		for _, n := range s.notices {
			if ok(n) {
				s.mu.Unlock()
				return n
			}
		}
		s.mu.Unlock()
		select {
		case <-changed:
		case <-timer.C:
			t.Fatalf("no such notice among %q", s.notices)
		}
	}
}

// told gives how absences went so far.
func (s *scribe) told() []Absence {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.absences)
}

// shown gives every snapshot so far.
func (s *scribe) shown(id string) []Prompt {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Prompt
	for _, p := range s.all {
		if p.ID == id {
			out = append(out, p)
		}
	}
	return out
}

func standing(want Standing) func(Prompt) bool {
	return func(p Prompt) bool { return p.Standing == want }
}
func phase(want Phase) func(Prompt) bool { return func(p Prompt) bool { return p.Phase == want } }

// inBubble says whether the clock is synctest's, which begins at 2000.
func inBubble(*testing.T) bool { return time.Now().Year() < 2010 }

// office is a desk with its relay and its human.
type office struct {
	t     *testing.T
	relay *answertest.Relay
	desk  *Desk
	human *scribe
	keys  struct{ connect, sign nkeys.KeyPair }
	log   *safeBuffer
	stop  context.CancelFunc
	done  chan error
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newOffice(t *testing.T) *office {
	t.Helper()
	o := &office{t: t, human: newScribe(), log: &safeBuffer{}, done: make(chan error, 1)}
	var err error
	if o.keys.connect, err = wire.NewConnectKey(); err != nil {
		t.Fatal(err)
	}
	if o.keys.sign, err = wire.NewSigningKey(); err != nil {
		t.Fatal(err)
	}
	return o
}

func (o *office) config(tr Trust) Config {
	return Config{Connect: o.keys.connect, Sign: o.keys.sign, Trust: tr, Askers: []Asker{o.human}, Log: slog.New(slog.NewJSONHandler(o.log, nil))}
}

func (o *office) run() {
	ctx, stop := context.WithCancel(context.Background())
	o.stop = stop
	go func() { o.done <- o.desk.Run(ctx) }()
	o.t.Cleanup(func() {
		stop()
		<-o.desk.done
	})
}

// inMemory starts a desk at a relay in memory, with a verifier that believes
// what a token says: for tests in fake time.
func inMemory(t *testing.T) *office {
	t.Helper()
	o := newOffice(t)
	o.relay = answertest.NewRelay(relayName)
	o.relay.Enrol(wire.PublicKey(o.keys.connect), "ada")
	o.desk = newDesk(o.config(Trust{Verifier: &gullible{bound: true}, Pins: pins(t, "github", repo)}), relayName)
	o.desk.dial = func(context.Context) (relayConn, error) {
		return o.relay.Dial(wire.PublicKey(o.keys.connect)), nil
	}
	return o
}

// pins are those of one repository for the project.
func pins(t *testing.T, issuer, repo string) *trust.Policy {
	t.Helper()
	claims := devissuer.GitHubClaims(repo, nil)
	rule := trust.Rule{Provider: issuer, Claims: map[string][]trust.Value{}}
	for _, name := range []string{"repository_id", "repository_owner_id", "workflow_ref"} {
		rule.Claims[name] = []trust.Value{{Text: claims[name].(string)}}
	}
	p, err := trust.Compile(map[string][]trust.Rule{project: {rule}}, []trust.Issuer{{Name: issuer, Provider: ci.Find("github"), URL: "https://token.example"}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// gullible is trust.Verifier without the signature of a CI. Everything that the
// desk must see to by itself is left to the desk.
type gullible struct {
	bound bool
	fail  error
}

func (g *gullible) Verify(_ context.Context, e trust.Evidence) (*trust.Job, error) {
	if g.fail != nil {
		return nil, g.fail
	}
	claims, err := ci.Unverified(e.Token)
	if err != nil {
		return nil, err
	}
	p := ci.Find("github")
	j := &trust.Job{Issuer: trust.Issuer{Name: "github", Provider: p}, Claims: claims, Facts: p.Facts(claims), Bound: g.bound}
	if j.Request, err = wire.Open[wire.Request](*e.Request, e.Key); err != nil {
		return nil, err
	}
	if j.Digest, err = wire.DigestOf(*e.Request, e.Key); err != nil {
		return nil, err
	}
	if j.Alive, err = wire.Open[wire.Alive](*e.Alive, e.Key); err != nil {
		return nil, err
	}
	if !bytes.Equal(j.Alive.Nonce, e.Challenge.Nonce) {
		return nil, errors.New("the alive answer is to another challenge")
	}
	return j, nil
}

// gullibleJob makes a job whose token only a gullible verifier believes.
func gullibleJob(t *testing.T, project, repo string, change func(*wire.Request)) *answertest.Job {
	t.Helper()
	claims := devissuer.GitHubClaims(repo, nil)
	j, err := answertest.NewJob(relayName, project, wire.Proof{"iss": "https://token.example", "run_id": "1"}, func(string) (string, error) {
		payload, err := json.Marshal(claims)
		b64 := base64.RawURLEncoding.EncodeToString
		return b64([]byte(`{"alg":"none"}`)) + "." + b64(payload) + "." + b64([]byte("nobody")), err
	}, change)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// onTheWire starts a desk at a relay behind a real NATS server, with a real
// issuer and the real verifier.
func onTheWire(t *testing.T) (*office, *devissuer.Issuer) {
	t.Helper()
	o := newOffice(t)
	issuer, err := devissuer.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(issuer.Close)
	if o.relay, err = answertest.Listen(relayName); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.relay.Close)
	o.relay.Enrol(wire.PublicKey(o.keys.connect), "ada")
	c := o.config(Trust{Verifier: verifier(t, issuer), Pins: pins(t, "dev", repo)})
	if c.Relay, err = dial.Parse(dial.Target{URL: o.relay.URL(), Name: relayName}); err != nil {
		t.Fatal(err)
	}
	if o.desk, err = New(c); err != nil {
		t.Fatal(err)
	}
	return o, issuer
}

func verifier(t *testing.T, issuer *devissuer.Issuer) *trust.Verifier {
	t.Helper()
	keys, err := trust.NewKeys([]trust.Issuer{{Name: "dev", Provider: ci.Find("github"), URL: issuer.URL()}}, trust.KeysOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := keys.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	return trust.NewVerifier(relayName, keys, trust.Options{})
}

func devJob(t *testing.T, issuer *devissuer.Issuer, repo string, over map[string]any, change func(*wire.Request)) *answertest.Job {
	t.Helper()
	j, err := answertest.GitHubJob(issuer, relayName, project, repo, over, change)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// received gives the next code that a job opened.
func received(t *testing.T, j *answertest.Job) string {
	t.Helper()
	limit := 20 * time.Second
	if inBubble(t) {
		limit = 24 * time.Hour
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case c := <-j.Got():
		return c
	case <-timer.C:
		t.Fatal("the job got no code")
		return ""
	}
}

func (o *office) answer(j *answertest.Job, attempt int) error {
	return o.desk.Answer(context.Background(), Answer{ID: j.ID(), Attempt: attempt, Code: code})
}

func mustAnswer(t *testing.T, o *office, j *answertest.Job, attempt int) {
	t.Helper()
	if err := o.answer(j, attempt); err != nil {
		t.Fatal(fmt.Errorf("answer: %w", err))
	}
}
