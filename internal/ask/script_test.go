package ask

// A scripted relay, in memory or behind a real NATS server, and the people who
// answer through it. It keeps no promises of its own: each test says what it
// does.

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

const relayName = "relay.test"

// script is a relay that does what it is told.
type script struct {
	t *testing.T

	mu       sync.Mutex
	state    wire.State
	key      string
	request  wire.Request
	digest   wire.Digest
	seen     []message
	connects int
	conns    []*memory
	silent   bool // answers nothing at all
	// on replaces what is done with a verb; n counts its messages from 1.
	on map[string]func(n int, m message) (wire.Reply, bool)
	// admit decides on each connect, counted from 1; nil lets everyone in.
	admit func(n int, token string) error
	push  func(wire.Hint) // set by the NATS set-up; nil: to the newest memory connection
}

// message is one that the job sent.
type message struct {
	verb string
	data []byte
	at   time.Time
	conn int
}

func newScript(t *testing.T) *script {
	return &script{t: t, on: map[string]func(int, message) (wire.Reply, bool){},
		state: wire.State{Rev: 1, State: statePending, Attempt: 1, Reason: wire.ReasonFirst, OnCall: []string{"Alice", "Bob"}, Ready: 2, Enrolled: 3}}
}

// handle is what the relay does with one message; false: no reply.
func (s *script) handle(conn int, subject string, data []byte) (wire.Reply, bool) {
	_, key, verb, ok := wire.ParseSubject(subject)
	if !ok {
		s.t.Errorf("message to %q", subject)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	m := message{verb, data, time.Now(), conn}
	s.seen = append(s.seen, m)
	if s.silent {
		return wire.Reply{}, false
	}
	n := 0
	for _, x := range s.seen {
		if x.verb == verb {
			n++
		}
	}
	if verb == wire.VerbRequest {
		var rm wire.RequestMessage
		if err := wire.Decode(data, wire.MaxMessage, &rm); err != nil {
			s.t.Errorf("request: %v", err)
		}
		r, err := wire.Open[wire.Request](rm.Request, key)
		if err != nil {
			s.t.Errorf("request: %v", err)
		}
		s.key, s.request = key, r
		if s.digest, err = wire.DigestOf(rm.Request, key); err != nil {
			s.t.Error(err)
		}
		if s.state.Deadline == 0 {
			s.state.Deadline = r.Deadline
		}
	}
	if f := s.on[verb]; f != nil {
		return f(n, m)
	}
	switch verb {
	case wire.VerbGot:
		s.state.State = stateDelivered
		s.state.Rev++
	case wire.VerbDone:
		s.state.State = stateDone
		s.state.Rev++
	case wire.VerbCancel:
		s.state.State = stateCancelled
		s.state.Rev++
	case wire.VerbRejected, wire.VerbNext:
		s.state.State, s.state.Attempt = statePending, s.state.Attempt+1
		s.state.Reason = map[string]string{wire.VerbRejected: wire.ReasonRejected, wire.VerbNext: wire.ReasonNext}[verb]
		s.state.Rev++
	}
	return s.now(), true
}

// does replaces what is done with a verb.
func (s *script) does(verb string, f func(n int, m message) (wire.Reply, bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.on[verb] = f
}

func (s *script) admits(f func(n int, token string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admit = f
}

// falls makes the relay answer nothing, or again.
func (s *script) falls(silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = silent
}

func (s *script) connected() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.connects
}

// asked is what the job asked.
func (s *script) asked() (key string, request wire.Request, digest wire.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key, s.request, s.digest
}

// now is the state as a reply; s.mu is held.
func (s *script) now() wire.Reply {
	st := s.state
	return wire.Reply{V: wire.Version, State: &st}
}

func refuse(code, why, mend string) (wire.Reply, bool) {
	return wire.Reply{V: wire.Version, Refused: &wire.Refusal{Code: code, Why: why, Mend: mend}}, true
}

// set changes the state and lets the job know.
func (s *script) set(change func(*wire.State)) {
	s.mu.Lock()
	s.state.Rev++
	change(&s.state)
	s.mu.Unlock()
	s.hint(wire.Hint{Hint: wire.HintState})
}

func (s *script) hint(h wire.Hint) {
	h.Key, _, _ = s.asked()
	if s.push != nil {
		s.push(h)
		return
	}
	s.mu.Lock()
	c := s.conns[len(s.conns)-1]
	s.mu.Unlock()
	select {
	case c.hints <- h:
	default:
	}
}

// sent lists what the job sent with a verb.
func (s *script) sent(verb string) []message {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []message
	for _, m := range s.seen {
		if m.verb == verb {
			out = append(out, m)
		}
	}
	return out
}

// cut ends the newest connection.
func (s *script) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[len(s.conns)-1].Close()
}

// step opens the i-th signed step of a verb.
func step1[B any, P interface {
	*B
	wire.Body
}](t *testing.T, s *script, verb string, i int) B {
	t.Helper()
	all := s.sent(verb)
	if len(all) <= i {
		t.Fatalf("%d messages %q were sent, want more than %d", len(all), verb, i)
	}
	var m wire.StepMessage
	if err := wire.Decode(all[i].data, wire.MaxMessage, &m); err != nil {
		t.Fatal(err)
	}
	key, _, _ := s.asked()
	b, err := wire.Open[B, P](m.Step, key)
	if err != nil {
		t.Fatalf("%s: %v", verb, err)
	}
	return b
}

// memory is a connection without a network, so that time can be simulated.
type memory struct {
	relay  *script
	n      int
	hints  chan wire.Hint
	closed chan struct{}
	once   sync.Once
}

func (c *memory) Hints() <-chan wire.Hint { return c.hints }
func (c *memory) Closed() <-chan struct{} { return c.closed }
func (c *memory) Close()                  { c.once.Do(func() { close(c.closed) }) }

func (c *memory) Request(ctx context.Context, subject string, msg any) (wire.Reply, error) {
	select {
	case <-c.closed:
		return wire.Reply{}, dial.ErrUnreachable
	default:
	}
	data, err := json.Marshal(msg)
	if err != nil {
		return wire.Reply{}, err
	}
	reply, ok := c.relay.handle(c.n, subject, data)
	if !ok {
		select {
		case <-ctx.Done():
			return wire.Reply{}, fmt.Errorf("%w: no reply: %w", dial.ErrUnreachable, context.Cause(ctx))
		case <-c.closed:
			return wire.Reply{}, dial.ErrUnreachable
		}
	}
	if reply.V != wire.Version {
		return wire.Reply{}, fmt.Errorf("relay's reply: %w %d", wire.ErrVersion, reply.V)
	}
	if reply.Refused != nil {
		return reply, reply.Refused
	}
	return reply, nil
}

// connect stands in for dial.
func (s *script) connect(ctx context.Context, key nkeys.KeyPair, token string) (link, error) {
	s.mu.Lock()
	s.connects++
	n, admit := s.connects, s.admit
	s.mu.Unlock()
	if admit != nil {
		if err := admit(n, token); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	c := &memory{relay: s, n: n, hints: make(chan wire.Hint, 256), closed: make(chan struct{})}
	s.mu.Lock()
	s.conns = append(s.conns, c)
	s.mu.Unlock()
	return c, nil
}

// issuer makes tokens that only their own job reads.
type issuer struct {
	mu     sync.Mutex
	minted []string
	slow   func(n int) time.Duration
	fail   func(n int) error
}

func (i *issuer) provider() *ci.Provider {
	return &ci.Provider{Name: "test", Title: "Test CI", Bound: true, Proof: []string{"repository_id", "absent"},
		Token: func(ctx context.Context, _ ci.Env, audience string) (string, error) {
			i.mu.Lock()
			n := len(i.minted) + 1
			claims := fmt.Sprintf(`{"iss":"https://issuer.test","aud":%q,"repository_id":"42","jti":"%d"}`, audience, n)
			token := "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
			i.minted = append(i.minted, token)
			slow, failing := i.slow, i.fail
			i.mu.Unlock()
			if slow != nil {
				if err := sleep(ctx, slow(n)); err != nil {
					return "", err
				}
			}
			if failing != nil {
				if err := failing(n); err != nil {
					return "", err
				}
			}
			return token, nil
		}}
}

func (i *issuer) slows(d time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.slow = func(int) time.Duration { return d }
}

func (i *issuer) fails(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fail = func(int) error { return err }
}

func (i *issuer) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.minted)
}

// person is a responder.
type person struct {
	sign, desk nkeys.KeyPair
	key        string // signing key
}

func newPerson(t testing.TB) person {
	t.Helper()
	sign, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	desk, err := wire.NewConnectKey()
	if err != nil {
		t.Fatal(err)
	}
	return person{sign, desk, wire.PublicKey(sign)}
}

// seals makes an honest answer; change may spoil it before it is signed.
func (p person) seals(s *script, attempt int, code string, change func(*wire.Answer)) wire.Hint {
	s.t.Helper()
	_, request, digest := s.asked()
	sealed, err := seal.Close(request.HPKE, seal.To{Digest: digest, Attempt: attempt, Ask: wire.AskCode, Responder: p.key}, code)
	if err != nil {
		s.t.Fatal(err)
	}
	a := wire.Answer{Key: p.key, Digest: digest, Attempt: attempt, Ask: wire.AskCode, Decision: wire.DecisionCode, Sealed: sealed.Hash()}
	if change != nil {
		change(&a)
	}
	e, err := wire.Sign(&a, p.sign)
	if err != nil {
		s.t.Fatal(err)
	}
	return wire.Hint{Hint: wire.HintAnswer, Envelope: &e, Sealed: &sealed}
}

// answers makes the relay pass on an honest answer.
func (p person) answers(s *script, attempt int, code string) { s.hint(p.seals(s, attempt, code, nil)) }

// opens makes the relay pass on a challenge.
func (p person) opens(s *script, nonce byte) { p.challenges(s, nonce, nil) }

// challenges is opens with a digest that change may spoil.
func (p person) challenges(s *script, nonce byte, change func(wire.Digest) wire.Digest) {
	s.t.Helper()
	_, _, digest := s.asked()
	if change != nil {
		digest = change(digest)
	}
	c := wire.Challenge{Key: p.key, Connect: wire.PublicKey(p.desk), Digest: digest, Nonce: []byte(strings.Repeat(string(nonce), 16))}
	e, err := wire.Sign(&c, p.sign)
	if err != nil {
		s.t.Fatal(err)
	}
	s.hint(wire.Hint{Hint: wire.HintChallenge, Envelope: &e})
}

// alives opens the alive answers that the job sent.
func (s *script) alives() (out []wire.Alive, tokens []string) {
	s.t.Helper()
	for _, m := range s.sent(wire.VerbAlive) {
		var am wire.AliveMessage
		if err := wire.Decode(m.data, wire.MaxMessage, &am); err != nil {
			s.t.Fatal(err)
		}
		key, _, _ := s.asked()
		a, err := wire.Open[wire.Alive](am.Alive, key)
		if err != nil {
			s.t.Fatal(err)
		}
		out, tokens = append(out, a), append(tokens, am.Token)
	}
	return out, tokens
}

// told collects events.
type told struct {
	mu     sync.Mutex
	events []Event
	at     []time.Time
}

func (c *told) tell(e Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.events = append(c.events, e)
	c.at = append(c.at, time.Now())
}

// has says whether an event's text holds part.
func (c *told) has(part string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if strings.Contains(fmt.Sprintf("%T %+v", e, e), part) {
			return true
		}
	}
	return false
}

func (c *told) count(part string) (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.events {
		if strings.Contains(fmt.Sprintf("%T %+v", e, e), part) {
			n++
		}
	}
	return n
}

// all is every event so far.
func (c *told) all() []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.events)
}

// stage is everything of one test.
type stage struct {
	*script
	issuer *issuer
	told   *told
	job    *Session
}

// play runs f in a bubble of simulated time, with a session that is not begun.
func play(t *testing.T, change func(*Config), f func(t *testing.T, g *stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := &stage{script: newScript(t), issuer: &issuer{}, told: &told{}}
		cfg := testConfig(t, g.issuer, g.told)
		if change != nil {
			change(&cfg)
		}
		job, err := prepare(cfg)
		if err != nil {
			t.Fatal(err)
		}
		job.connect = g.script.connect
		g.job = job
		f(t, g)
		job.Withdraw("the test is over")
	})
}

func testConfig(t testing.TB, i *issuer, c *told) Config {
	t.Helper()
	relay, err := dial.Parse(dial.Target{URL: "nats://127.0.0.1:4222", Name: relayName})
	if err != nil {
		t.Fatal(err)
	}
	return Config{Relay: relay, Provider: i.provider(), Project: "demo", Service: "npm", Format: "digits:6", Message: "please", Timeout: 30 * time.Minute, Tell: c.tell}
}

// awaited is what Await will give.
type awaited struct {
	answer Answer
	err    error
	done   chan struct{}
}

// awaits calls Await beside the test, which goes on when nothing more happens.
func (g *stage) awaits(ctx context.Context) *awaited {
	a := &awaited{done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.answer, a.err = g.job.Await(ctx)
	}()
	synctest.Wait()
	return a
}

func (a *awaited) code(t *testing.T) string {
	t.Helper()
	<-a.done
	if a.err != nil {
		t.Fatalf("Await: %v", a.err)
	}
	return a.answer.Code()
}

func (a *awaited) fails(t *testing.T, kind error) *Failure {
	t.Helper()
	<-a.done
	f, ok := errors.AsType[*Failure](a.err)
	if !ok || !errors.Is(a.err, kind) {
		t.Fatalf("Await: %v, want a failure of kind %q", a.err, kind)
	}
	return f
}

func (a *awaited) waiting(t *testing.T) {
	t.Helper()
	synctest.Wait()
	select {
	case <-a.done:
		t.Fatalf("Await has ended: %v, %v", a.answer, a.err)
	default:
	}
}
