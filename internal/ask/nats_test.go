package ask

// The same over a real NATS server and real TCP: what simulated time cannot
// show.

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/wire"
)

// gate stands where a relay's callout does: it knows each user's signature, and
// gives a job the rights that a job has.
type gate struct {
	mu     sync.Mutex
	refuse bool
	tokens []string
}

func (g *gate) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	if o.Username == "relay" {
		c.RegisterUser(&server.User{Username: "relay"})
		return true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tokens = append(g.tokens, o.Token)
	pub, err := nkeys.FromPublicKey(o.Nkey)
	if err != nil || g.refuse {
		return false
	}
	sig, err := decode64(o.Sig)
	if err != nil || pub.Verify(c.GetNonce(), sig) != nil {
		return false
	}
	c.RegisterUser(&server.User{Username: o.Nkey, Permissions: &server.Permissions{
		Publish:   &server.SubjectPermission{Allow: []string{"cfa.v1.job." + o.Nkey + ".>"}},
		Subscribe: &server.SubjectPermission{Allow: []string{wire.InboxPrefix(o.Nkey) + ".>"}},
	}})
	return true
}

// wired is a session against the script behind a NATS server, through a wire
// that can be cut.
type wired struct {
	*script
	gate   *gate
	issuer *issuer
	told   *told
	job    *Session
	wire   *cuttable
}

func wireUp(t *testing.T, change func(*Config)) *wired {
	t.Helper()
	w := &wired{script: newScript(t), gate: &gate{}, issuer: &issuer{}, told: &told{}}
	ns, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		AlwaysEnableNonce: true, CustomClientAuthentication: w.gate, MaxPayload: wire.MaxMessage,
	})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not start")
	}
	relay, err := nats.Connect(ns.ClientURL(), nats.UserInfo("relay", ""))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(relay.Close)
	if _, err := relay.Subscribe("cfa.v1.job.*.*", func(m *nats.Msg) {
		reply, ok := w.handle(0, m.Subject, m.Data)
		if !ok {
			return
		}
		data, err := json.Marshal(reply)
		if err == nil {
			err = m.Respond(data)
		}
		if err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if err := relay.Flush(); err != nil {
		t.Fatal(err)
	}
	w.push = func(h wire.Hint) {
		data, err := json.Marshal(h)
		if err == nil {
			err = relay.Publish(wire.HintSubject(h.Key), data)
		}
		if err != nil {
			t.Error(err)
		}
	}
	w.wire = newCuttable(t, ns.Addr().String())
	cfg := testConfig(t, w.issuer, w.told)
	if cfg.Relay, err = dial.Parse(dial.Target{URL: "nats://" + w.wire.addr, Name: relayName}); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&cfg)
	}
	if w.job, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.job.Withdraw("the test is over") })
	return w
}

// asked begins and waits until the relay has the request.
func (w *wired) asked(t *testing.T) chan awaited {
	t.Helper()
	out := make(chan awaited, 1)
	go func() {
		a, err := w.job.Await(t.Context())
		out <- awaited{answer: a, err: err}
	}()
	until(t, "the request is accepted", func() bool { return w.told.has("Accepted {") })
	return out
}

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited for: %s", what)
		}
	}
}

func (w *wired) code(t *testing.T, out chan awaited) string {
	t.Helper()
	select {
	case a := <-out:
		if a.err != nil {
			t.Fatal(a.err)
		}
		return a.answer.Code()
	case <-time.After(20 * time.Second):
		t.Fatal("no answer came")
		return ""
	}
}

// cuttable is a TCP proxy whose connections can be cut, and that can be made to
// lead nowhere.
type cuttable struct {
	addr string
	mu   sync.Mutex
	down bool
	open []net.Conn
}

func newCuttable(t *testing.T, to string) *cuttable {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cuttable{addr: l.Addr().String()}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			c.mu.Lock()
			if err != nil || c.down {
				in.Close()
				if err == nil {
					out.Close()
				}
				c.mu.Unlock()
				continue
			}
			c.open = append(c.open, in, out)
			c.mu.Unlock()
			work.Go(func() { io.Copy(out, in); out.Close() })
			work.Go(func() { io.Copy(in, out); in.Close() })
		}
	})
	t.Cleanup(func() { l.Close(); c.cut(false); work.Wait() })
	return c
}

// cut ends all connections; down: no new ones come through.
func (c *cuttable) cut(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
	for _, conn := range c.open {
		conn.Close()
	}
	c.open = nil
}

func TestOverNATSACodeComesBack(t *testing.T) {
	t.Parallel()
	w := wireUp(t, nil)
	alice := newPerson(t)
	out := w.asked(t)
	alice.opens(w.script, 'a')
	until(t, "alive", func() bool { return len(w.sent(wire.VerbAlive)) == 1 })
	alice.answers(w.script, 1, "123456")
	if code := w.code(t, out); code != "123456" {
		t.Errorf("code %q", code)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := w.job.Done(ctx, wire.OutcomeOK); err != nil {
		t.Error(err)
	}
	if w.gate.tokens[0] != w.issuer.minted[0] {
		t.Error("connected with another token")
	}
}

func TestOverNATSACutAtEachStepLosesNothing(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{wire.VerbRequest, wire.VerbState, wire.VerbAlive, wire.VerbGot, wire.VerbRejected, wire.VerbDone} {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			w := wireUp(t, nil)
			alice := newPerson(t)
			// The first message of the verb is taken, and its reply lost.
			w.mu.Lock()
			w.on[verb] = func(n int, _ message) (wire.Reply, bool) {
				if n == 1 {
					w.wire.cut(false)
					return wire.Reply{}, false
				}
				switch verb {
				case wire.VerbGot:
					w.state.State = stateDelivered
				case wire.VerbRejected:
					w.state.State, w.state.Attempt, w.state.Reason = statePending, 2, wire.ReasonRejected
				case wire.VerbDone:
					w.state.State = stateDone
				}
				w.state.Rev++
				return w.now(), true
			}
			w.mu.Unlock()
			out := w.asked(t)
			if verb == wire.VerbState {
				w.set(func(*wire.State) {})
				until(t, "the read after the cut", func() bool { return len(w.sent(verb)) > 1 })
			}
			alice.opens(w.script, 'a')
			until(t, "alive", func() bool { return len(w.sent(wire.VerbAlive)) > map[bool]int{true: 1}[verb == wire.VerbAlive] })
			alice.answers(w.script, 1, "111111")
			if code := w.code(t, out); code != "111111" {
				t.Errorf("code %q", code)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := w.job.Reject(ctx); err != nil {
				t.Fatal(err)
			}
			out = w.asked(t)
			alice.answers(w.script, 2, "222222")
			if code := w.code(t, out); code != "222222" {
				t.Errorf("code %q", code)
			}
			if err := w.job.Done(ctx, wire.OutcomeOK); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOverNATSRefusedCredentialsAreARefusal(t *testing.T) {
	t.Parallel()
	w := wireUp(t, func(c *Config) { c.Timeout = 2 * time.Second }) // else it is tried for longer than a test should take
	w.gate.refuse = true
	_, err := w.job.Await(t.Context())
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "cfa-relay check") {
		t.Errorf("%v", err)
	}
	w.gate.mu.Lock()
	defer w.gate.mu.Unlock()
	if len(w.gate.tokens) < 3 || w.gate.tokens[0] == w.gate.tokens[1] || w.gate.tokens[1] == w.gate.tokens[2] {
		t.Errorf("%d connects", len(w.gate.tokens))
	}
}

func TestOverNATSARelayThatComesLateIsReached(t *testing.T) {
	t.Parallel()
	w := wireUp(t, nil)
	w.wire.cut(true)
	out := make(chan awaited, 1)
	go func() {
		a, err := w.job.Await(t.Context())
		out <- awaited{answer: a, err: err}
	}()
	until(t, "a try", func() bool { return w.told.has("Trying {") })
	w.wire.cut(false)
	until(t, "the request is accepted", func() bool { return w.told.has("Accepted {") })
	newPerson(t).answers(w.script, 1, "123456")
	w.code(t, out)
}

func TestOverNATSAStopWithdraws(t *testing.T) {
	t.Parallel()
	w := wireUp(t, nil)
	ctx, cancel := context.WithCancelCause(t.Context())
	out := make(chan error, 1)
	go func() {
		_, err := w.job.Await(ctx)
		out <- err
	}()
	until(t, "the request is accepted", func() bool { return w.told.has("Accepted {") })
	cancel(fmt.Errorf("stopped by SIGTERM"))
	if err := <-out; !errors.Is(err, ErrCancelled) {
		t.Error(err)
	}
	if c := step1[wire.Cancel](t, w.script, wire.VerbCancel, 0); c.Why != "stopped by SIGTERM" {
		t.Errorf("cancel %+v", c)
	}
}

func decode64(s string) ([]byte, error) { return base64.RawURLEncoding.DecodeString(s) }
