package broker

// Who acts in the tests: jobs and humans at their responders, as nothing but
// keys and raw connections; a clock that can be moved; and a store whose appends
// can be held up.

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/wire"
)

// Many tests wait for seconds that are the subject, on few processors: more of
// them at once than processors, unless -parallel says otherwise.
func init() {
	testing.Init()
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
}

// setups are the ways to run a relay; what a client may do is the same in each.
var setups = []struct {
	name  string
	start func(testing.TB) *fixture
}{
	{"embedded server", startFixture},
	{"external server", startExternal},
	{"external server in operator mode", startOperator},
}

func onEach(t *testing.T, test func(*testing.T, *fixture)) {
	t.Helper()
	for _, s := range setups {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			test(t, s.start(t))
		})
	}
}

// natsServer is the server that clients connect to, whoever runs it.
func (f *fixture) natsServer() *server.Server {
	if f.server != nil {
		return f.server
	}
	return f.relay.net.server
}

// clock is the time, moved by as much as a test likes.
type clock struct {
	mu  sync.Mutex
	off time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += d
}

// store makes c the time of a relay's store.
func (c *clock) store(s *store) {
	s.clock = func(context.Context) (time.Time, error) { return c.now(), nil }
}

// accepted is a job that has connected and whose request was accepted.
func (f *fixture) accepted(repo, project string) *job {
	f.t.Helper()
	j := f.job(repo, project)
	j.connect()
	if r := j.send(j.nc); r.Refused != nil {
		f.t.Fatalf("refused: %v", r.Refused)
	}
	return j
}

func (j *job) connect(opts ...nats.Option) {
	j.f.t.Helper()
	j.nc = j.f.mustConnect(j.key, j.token, opts...)
	j.hints = listen(j.f.t, j.nc, wire.HintSubject(j.pub))
}

func listen(t testing.TB, nc *nats.Conn, subject string) *nats.Subscription {
	t.Helper()
	s, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return s
}

func (j *job) state() wire.Reply {
	j.f.t.Helper()
	return request(j.f.t, j.nc, wire.JobSubject(j.pub, wire.VerbState), wire.StateQuery{})
}

// must is the state in a reply that is no refusal.
func must(t testing.TB, r wire.Reply) wire.State {
	t.Helper()
	if r.Refused != nil {
		t.Fatalf("refused: %s: %v", r.Refused.Code, r.Refused)
	}
	if r.State == nil {
		t.Fatalf("no state in the reply: %+v", r)
	}
	return *r.State
}

// step signs a body as the job and sends it where its kind goes.
func (j *job) step(body wire.Body) wire.Reply {
	j.f.t.Helper()
	verb := ""
	switch body.(type) {
	case *wire.Got:
		verb = wire.VerbGot
	case *wire.Rejected:
		verb = wire.VerbRejected
	case *wire.Next:
		verb = wire.VerbNext
	case *wire.Done:
		verb = wire.VerbDone
	case *wire.Cancel:
		verb = wire.VerbCancel
	}
	return request(j.f.t, j.nc, wire.JobSubject(j.pub, verb), wire.StepMessage{Step: sign(j.f.t, body, j.key)})
}

func sign(t testing.TB, body wire.Body, key nkeys.KeyPair) wire.Envelope {
	t.Helper()
	env, err := wire.Sign(body, key)
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func (j *job) got(attempt int, sealed wire.Digest) wire.Reply {
	j.f.t.Helper()
	return j.step(&wire.Got{Key: j.pub, Digest: j.dig, Attempt: attempt, Sealed: sealed})
}

func (j *job) done(attempt int) wire.Reply {
	j.f.t.Helper()
	return j.step(&wire.Done{Key: j.pub, Digest: j.dig, Attempt: attempt, Outcome: wire.OutcomeOK})
}

func (j *job) cancel() wire.Reply {
	j.f.t.Helper()
	return j.step(&wire.Cancel{Key: j.pub, Digest: j.dig, Why: "the run was stopped"})
}

// seat is a human at a connected responder.
type seat struct {
	*human
	f     *fixture
	nc    *nats.Conn
	hints *nats.Subscription
}

func (f *fixture) sit(h *human, opts ...nats.Option) *seat {
	f.t.Helper()
	s := &seat{human: h, f: f, nc: f.mustConnect(h.connect, "", opts...)}
	s.hints = listen(f.t, s.nc, wire.HintSubject(h.key()))
	return s
}

func (s *seat) say(verb string, msg any) wire.Reply {
	s.f.t.Helper()
	return request(s.f.t, s.nc, wire.DeskSubject(s.key(), verb), msg)
}

func (s *seat) pending() *wire.Page {
	s.f.t.Helper()
	r := s.say(wire.VerbPending, wire.PendingQuery{})
	if r.Page == nil {
		s.f.t.Fatalf("pending: %v", r.Refused)
	}
	return r.Page
}

// openMessage opens j's prompt.
func (h *human) openMessage(t testing.TB, j *job) wire.OpenMessage {
	t.Helper()
	nonce := make([]byte, 16)
	rand.Read(nonce)
	return wire.OpenMessage{Key: j.pub, Challenge: sign(t, &wire.Challenge{Key: h.signer(), Connect: h.key(), Digest: j.dig, Nonce: nonce}, h.sign)}
}

// answerMessage answers j with random bytes in place of a sealed code, which are
// the same to a relay.
func (h *human) answerMessage(t testing.TB, j *job, attempt int) wire.AnswerMessage {
	t.Helper()
	sealed := wire.Sealed{Enc: make([]byte, 32), Ciphertext: make([]byte, 600)}
	rand.Read(sealed.Enc)
	rand.Read(sealed.Ciphertext)
	return wire.AnswerMessage{Key: j.pub, Sealed: &sealed, Answer: sign(t, &wire.Answer{
		Key: h.signer(), Digest: j.dig, Attempt: attempt, Ask: wire.AskCode, Decision: wire.DecisionCode, Sealed: sealed.Hash()}, h.sign)}
}

func (h *human) declineMessage(t testing.TB, j *job, attempt int, reason string) wire.DeclineMessage {
	t.Helper()
	return wire.DeclineMessage{Key: j.pub, Decline: sign(t, &wire.Decline{Key: h.signer(), Digest: j.dig, Attempt: attempt, Reason: reason}, h.sign)}
}

// answer answers and gives what was sent beside the reply.
func (s *seat) answer(j *job, attempt int) (wire.AnswerMessage, wire.Reply) {
	s.f.t.Helper()
	m := s.answerMessage(s.f.t, j, attempt)
	return m, s.say(wire.VerbAnswer, m)
}

// hint waits for a hint that is as wanted.
func hint(t testing.TB, sub *nats.Subscription, wanted func(wire.Hint) bool) wire.Hint {
	t.Helper()
	for {
		m, err := sub.NextMsg(20 * time.Second)
		if err != nil {
			t.Fatalf("the hint never came: %v", err)
		}
		var h wire.Hint
		if err := wire.Decode(m.Data, wire.MaxMessage, &h); err != nil {
			t.Fatal(err)
		}
		if wanted(h) {
			return h
		}
	}
}

func answerOf(m wire.AnswerMessage) func(wire.Hint) bool {
	return func(h wire.Hint) bool { return h.Hint == wire.HintAnswer && h.Sealed.Hash() == m.Sealed.Hash() }
}

func changeOf(j *job) func(wire.Hint) bool {
	return func(h wire.Hint) bool { return h.Hint == wire.HintState && h.Key == j.pub }
}

// refused checks a refusal's code and that its text has all of parts.
func refused(t testing.TB, r wire.Reply, code string, parts ...string) {
	t.Helper()
	if r.Refused == nil {
		t.Fatalf("not refused: %+v", r.State)
	}
	if r.Refused.Code != code {
		t.Errorf("refused as %q (%v), not as %q", r.Refused.Code, r.Refused, code)
	}
	for _, p := range parts {
		if !strings.Contains(r.Refused.Error(), p) {
			t.Errorf("the refusal %q does not say %q", r.Refused.Error(), p)
		}
	}
}

// errs collects what the server reports on a connection.
type errs chan error

func (e errs) option() nats.Option {
	return nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { e <- err })
}

// violation waits for the server's refusal of what was just tried.
func (e errs) violation(t testing.TB, what string) {
	t.Helper()
	select {
	case err := <-e:
		if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), what) {
			t.Fatalf("not refused as a violation of %q: %v", what, err)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("not refused: %s", what)
	}
}

// closed gives an option and a channel that is closed with the connection.
func closed() (nats.Option, <-chan struct{}) {
	c := make(chan struct{})
	return nats.ClosedHandler(func(*nats.Conn) { close(c) }), c
}

func waitClosed(t testing.TB, c <-chan struct{}, within time.Duration) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(within):
		t.Fatalf("the connection was not closed within %s", within)
	}
}

// entrance is what a server says before anybody has proved anything.
type entrance struct {
	Nonce      string `json:"nonce"`
	MaxPayload int64  `json:"max_payload"`
	ID         uint64 `json:"client_id"`
	conn       net.Conn
	lines      *bufio.Reader
}

// knock opens a bare TCP connection, to try what no client library would.
func (f *fixture) knock(addr string) *entrance {
	f.t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		f.t.Fatal(err)
	}
	e := &entrance{conn: conn, lines: bufio.NewReader(conn)}
	line, err := e.lines.ReadString('\n')
	if err != nil {
		f.t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), e); err != nil {
		f.t.Fatal(err)
	}
	return e
}

// say sends a CONNECT with these fields and gives the answer: PONG or -ERR ….
func (e *entrance) say(fields map[string]any) string {
	data, err := json.Marshal(fields)
	if err != nil {
		return err.Error()
	}
	if _, err := fmt.Fprintf(e.conn, "CONNECT %s\r\nPING\r\n", data); err != nil {
		return err.Error()
	}
	line, err := e.next()
	if err != nil {
		return "closed: " + err.Error()
	}
	return line
}

// next is the next line that is no INFO.
func (e *entrance) next() (string, error) {
	for {
		line, err := e.lines.ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "INFO") {
			return strings.TrimSpace(line), err
		}
	}
}

// signature is of the entrance's nonce, as CONNECT carries it.
func (e *entrance) signature(key nkeys.KeyPair) string {
	sig, err := key.Sign([]byte(e.Nonce))
	if err != nil {
		panic(err)
	}
	return base64.RawURLEncoding.EncodeToString(sig)
}

func (f *fixture) address() string {
	return strings.TrimPrefix(f.relay.ClientURL(), "nats://")
}

// heldStore is a store between whose reading and whose appending a test can
// step in.
type heldStore struct {
	jetstream.JetStream
	// publish is called instead; next is the real one.
	publish func(ctx context.Context, m *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error)
}

func (h *heldStore) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	// Also after whoever asked has gone: so are late appends.
	return h.publish(ctx, m, func() (*jetstream.PubAck, error) {
		return h.JetStream.PublishMsg(context.WithoutCancel(ctx), m, opts...)
	})
}

// held gives the option that steps in between a relay's reading and appending.
func held(publish func(context.Context, *nats.Msg, func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error)) Options {
	return Options{opened: func(s *store) { s.js = &heldStore{s.js, publish} }}
}
