package broker

// Two relays, each in the gap between deciding on a request's last record and
// appending the next, at the same time: at each transition one of them wins, and
// what both say is true.

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

// asJob gives a job's message to one relay, past the group that shares them.
func asJob(t testing.TB, r *Relay, j *job, verb string, msg any) wire.Reply {
	t.Helper()
	data, err := json.Marshal(msg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	reply, err := r.jobMessage(ctx, j.pub, verb, data)
	if err != nil {
		return wire.Reply{Refused: r.refusal(err)}
	}
	return reply
}

// ofItsOwnRun is a job that is no other's of its run of the CI.
func (f *fixture) ofItsOwnRun() *job {
	f.t.Helper()
	j := f.job(rocketRepo, "rocket")
	n, err := rand.Int(rand.Reader, big.NewInt(1<<50))
	if err != nil {
		f.t.Fatal(err)
	}
	j.token = f.token(rocketRepo, wire.Audience(relayName, j.pub), map[string]any{"run_id": n.String()})
	j.ask("rocket", nil)
	return j
}

// gate stops a relay's first append of an event to a request.
type gate struct {
	event            string
	arrived, through chan struct{}
	once             sync.Once
}

// gates are those of one relay, by request.
type gates struct {
	mu sync.Mutex
	of map[string]*gate
}

func (g *gates) set(key, event string) *gate {
	next := &gate{event: event, arrived: make(chan struct{}), through: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.of[key] = next
	return next
}

func (g *gates) publish(_ context.Context, m *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
	g.mu.Lock()
	at := g.of[strings.TrimPrefix(m.Subject, requestPrefix)]
	g.mu.Unlock()
	if at != nil && strings.Contains(string(m.Data), `"event":"`+at.event+`"`) {
		at.once.Do(func() { close(at.arrived); <-at.through })
	}
	return next()
}

// racers are two relays whose gaps can be held open, and whose clock can be moved.
type racers struct {
	f     *fixture
	relay [2]*Relay
	gates [2]*gates
	clock *clock
}

// race makes racers of the two relays that start starts.
func race(f *fixture, start func(n int, o Options) *Relay) *racers {
	r := &racers{f: f, clock: &clock{}}
	for i := range r.relay {
		g := &gates{of: map[string]*gate{}}
		o := held(g.publish)
		hold := o.opened
		o.opened = func(s *store) { crowded.opened(s); hold(s); r.clock.store(s) }
		o.Now = r.clock.now
		r.relay[i], r.gates[i] = start(i, o), g
	}
	return r
}

// onOneServer starts two relays on a server that holds the record alone.
func onOneServer(t testing.TB, f *fixture) *racers {
	t.Helper()
	x := newExternal(t, false)
	x.run(t)
	f.server = x.server
	return race(f, func(n int, o Options) *Relay {
		text := f.configText(t.TempDir(), x.section(n))
		if n > 0 {
			return f.second(text, o).relay
		}
		f.start(text, o)
		return f.relay
	})
}

// side is what one relay is made to do, and the record that it is about to write
// then.
type side struct {
	event string
	do    func(t testing.TB, r *racers, relay *Relay, c *contest) wire.Reply
}

// contest is one request that is raced for.
type contest struct {
	j        *job
	ana, bob wire.AnswerMessage // what each answers, if they do: the same bytes each time
}

func step(verb string, body func(*contest) wire.Body) func(testing.TB, *racers, *Relay, *contest) wire.Reply {
	return func(t testing.TB, _ *racers, relay *Relay, c *contest) wire.Reply {
		t.Helper()
		return asJob(t, relay, c.j, verb, wire.StepMessage{Step: sign(t, body(c), c.j.key)})
	}
}

func asking(t testing.TB, _ *racers, relay *Relay, c *contest) wire.Reply {
	t.Helper()
	return asJob(t, relay, c.j, wire.VerbRequest, wire.RequestMessage{Request: c.j.env, Token: c.j.token})
}

// agreeing is the first of two people's yes.
func agreeing(who func(*fixture) *human) func(testing.TB, *racers, *Relay, *contest) wire.Reply {
	return func(t testing.TB, r *racers, relay *Relay, c *contest) wire.Reply {
		t.Helper()
		h := who(r.f)
		return asDesk(t, relay, h, wire.VerbAnswer, wire.AnswerMessage{Key: c.j.pub, Answer: sign(t, &wire.Answer{
			Key: h.signer(), Digest: c.j.dig, Attempt: 1, Ask: wire.AskApproval, Decision: wire.DecisionYes, At: 1_795_000_600, Receipt: make([]byte, 64)}, h.sign)})
	}
}

var (
	asks       = side{"asked", asking}
	asksForTwo = side{"asked", func(t testing.TB, r *racers, relay *Relay, c *contest) wire.Reply {
		c.j.ask("rocket", func(q *wire.Request) {
			q.Ask, q.Format, q.Approvals, q.Responders = wire.AskApproval, "any", 2, []string{r.f.ana.signer(), r.f.bob.signer()}
			q.Message, q.Artifacts = "publish 1.2.3", []wire.Artifact{{Name: "rocket-1.2.3.tgz", SHA256: wire.Digest{7}, Size: 5}}
		})
		return asking(t, r, relay, c)
	}}
	anaAgrees = side{"approved", agreeing(func(f *fixture) *human { return f.ana })}
	bobAgrees = side{"approved", agreeing(func(f *fixture) *human { return f.bob })}
	anaOpens  = side{"opened", func(t testing.TB, r *racers, relay *Relay, c *contest) wire.Reply {
		return asDesk(t, relay, r.f.ana, wire.VerbOpen, r.f.ana.openMessage(t, c.j))
	}}
	bobOpens = side{"opened", func(t testing.TB, r *racers, relay *Relay, c *contest) wire.Reply {
		return asDesk(t, relay, r.f.bob, wire.VerbOpen, r.f.bob.openMessage(t, c.j))
	}}
	anaAnswers = side{"answered", func(t testing.TB, r *racers, relay *Relay, c *contest) wire.Reply {
		return asDesk(t, relay, r.f.ana, wire.VerbAnswer, c.ana)
	}}
	bobAnswers = side{"answered", func(t testing.TB, r *racers, relay *Relay, c *contest) wire.Reply {
		return asDesk(t, relay, r.f.bob, wire.VerbAnswer, c.bob)
	}}
	anaDeclines = side{"declined", func(t testing.TB, r *racers, relay *Relay, c *contest) wire.Reply {
		return asDesk(t, relay, r.f.ana, wire.VerbDecline, r.f.ana.declineMessage(t, c.j, 1, "Ana says no"))
	}}
	bobDeclines = side{"declined", func(t testing.TB, r *racers, relay *Relay, c *contest) wire.Reply {
		return asDesk(t, relay, r.f.bob, wire.VerbDecline, r.f.bob.declineMessage(t, c.j, 1, "Bob says no"))
	}}
	cancels = side{"cancelled", step(wire.VerbCancel, func(c *contest) wire.Body {
		return &wire.Cancel{Key: c.j.pub, Digest: c.j.dig, Why: "the run was stopped"}
	})}
	gets = side{"got", step(wire.VerbGot, func(c *contest) wire.Body {
		return &wire.Got{Key: c.j.pub, Digest: c.j.dig, Attempt: 1, Sealed: c.ana.Sealed.Hash()}
	})}
	rejects = side{"rejected", step(wire.VerbRejected, func(c *contest) wire.Body {
		return &wire.Rejected{Key: c.j.pub, Digest: c.j.dig, Attempt: 1, Why: wire.RejectedRefused}
	})}
	goesOn = side{"next", step(wire.VerbNext, func(c *contest) wire.Body {
		return &wire.Next{Key: c.j.pub, Digest: c.j.dig, Attempt: 1}
	})}
	ends = side{"done", step(wire.VerbDone, func(c *contest) wire.Body {
		return &wire.Done{Key: c.j.pub, Digest: c.j.dig, Attempt: 1, Outcome: wire.OutcomeOK}
	})}
)

// sweeps is a relay's clock, once it has come to event.
func sweeps(event string) side {
	return side{event, func(t testing.TB, r *racers, relay *Relay, _ *contest) wire.Reply {
		relay.sweep(t.Context(), r.clock.now())
		return wire.Reply{}
	}}
}

// loses is a relay's clock, once it takes the job for gone.
var loses = side{"lost", func(t testing.TB, r *racers, relay *Relay, _ *contest) wire.Reply {
	relay.sweep(t.Context(), r.clock.now()) // asks whether it is there
	relay.sweep(t.Context(), r.clock.now().Add(lifecycle.LostAfter+time.Second))
	return wire.Reply{}
}}

// ran is how a race may end: the records, and what the two sides hear.
type ran struct {
	events string
	says   [2]string // of the reply: its state, or why not; "" for a clock, which hears nothing
}

// raced is one transition that two relays attempt, or two of which one can be.
type raced struct {
	name   string
	before []side // what is so before, by the first relay
	after  time.Duration
	sides  [2]side
	ends   []ran // that of the first relay's win, and that of the second's
}

var races = []raced{
	{"the same request", nil, 0, [2]side{asks, asks}, []ran{{"asked", [2]string{"pending", "pending"}}}},
	{"two open it", []side{asks}, 0, [2]side{anaOpens, bobOpens}, []ran{{"asked opened opened", [2]string{"pending", "pending"}}}},
	{"one opens it twice", []side{asks}, 0, [2]side{anaOpens, anaOpens}, []ran{{"asked opened", [2]string{"pending", "pending"}}}},
	{"two answers", []side{asks}, 0, [2]side{anaAnswers, bobAnswers}, []ran{
		{"asked answered", [2]string{"answered by Ana", "Ana answered first"}}, {"asked answered", [2]string{"Bob answered first", "answered by Bob"}}}},
	{"the same answer", []side{asks}, 0, [2]side{anaAnswers, anaAnswers}, []ran{{"asked answered", [2]string{"answered by Ana", "answered by Ana"}}}},
	{"an answer and a decline", []side{asks}, 0, [2]side{anaAnswers, bobDeclines}, []ran{
		{"asked answered", [2]string{"answered by Ana", "Ana answered first"}}, {"asked declined", [2]string{`this request was declined ("Bob says no")`, "declined by Bob"}}}},
	{"two declines", []side{asks}, 0, [2]side{anaDeclines, bobDeclines}, []ran{
		{"asked declined", [2]string{"declined", `this request was declined ("Ana says no")`}}, {"asked declined", [2]string{`this request was declined ("Bob says no")`, "declined by Bob"}}}},
	{"an answer and the job's cancel", []side{asks}, 0, [2]side{anaAnswers, cancels}, []ran{
		{"asked answered cancelled", [2]string{"answered by Ana", "cancelled"}}, {"asked cancelled", [2]string{`this request was cancelled ("the run was stopped")`, "cancelled"}}}},
	{"the same cancel", []side{asks}, 0, [2]side{cancels, cancels}, []ran{{"asked cancelled", [2]string{"cancelled", "cancelled"}}}},
	{"the same receipt", []side{asks, anaAnswers}, 0, [2]side{gets, gets}, []ran{{"asked answered got", [2]string{"delivered", "delivered"}}}},
	{"the same refusal of a code", []side{asks, anaAnswers, gets}, 0, [2]side{rejects, rejects}, []ran{{"asked answered got rejected", [2]string{"pending", "pending"}}}},
	{"the same wish for one more", []side{asks, anaAnswers, gets}, 0, [2]side{goesOn, goesOn}, []ran{{"asked answered got next", [2]string{"pending", "pending"}}}},
	{"the same end", []side{asks, anaAnswers, gets}, 0, [2]side{ends, ends}, []ran{{"asked answered got done", [2]string{"done", "done"}}}},
	{"an end and a cancel", []side{asks, anaAnswers, gets}, 0, [2]side{ends, cancels}, []ran{
		{"asked answered got done", [2]string{"done", "this request is done"}}, {"asked answered got cancelled", [2]string{"this request is done", "done"}}}},
	{"two people's first yes", []side{asksForTwo}, 0, [2]side{anaAgrees, bobAgrees}, []ran{
		{"asked approved", [2]string{"pending by Ana", "Ana answered first"}}, {"asked approved", [2]string{"Bob answered first", "pending by Bob"}}}},
	// What time does, each relay does.
	{"two clocks over a job that is gone", []side{asks}, lifecycle.LostAsk + time.Second, [2]side{loses, loses}, []ran{{"asked lost", [2]string{}}}},
	{"a clock at the deadline and the end", []side{asks, anaAnswers, gets}, 31 * time.Minute, [2]side{sweeps("expired"), ends}, []ran{
		{"asked answered got expired", [2]string{"", "done"}}, {"asked answered got done", [2]string{"", "done"}}}},
	{"two clocks at the deadline", []side{asks}, 31 * time.Minute, [2]side{sweeps("expired"), sweeps("expired")}, []ran{{"asked expired", [2]string{}}}},
	{"two clocks over what never came", []side{asks, anaAnswers}, lifecycle.UndeliveredAfter + time.Second, [2]side{sweeps("undelivered"), sweeps("undelivered")}, []ran{{"asked answered undelivered", [2]string{}}}},
	{"a clock and the receipt", []side{asks, anaAnswers}, lifecycle.UndeliveredAfter + time.Second, [2]side{sweeps("undelivered"), gets}, []ran{
		{"asked answered undelivered got", [2]string{"", "delivered"}}, {"asked answered got", [2]string{"", "delivered"}}}},
}

func TestOfTwoRelaysInTheGapOneWinsAndBothTellTheTruth(t *testing.T) {
	t.Parallel()
	for _, c := range races {
		for _, order := range []string{"the first is first", "the second is first", "both at once"} {
			t.Run(c.name+" "+order, func(t *testing.T) {
				t.Parallel()
				contested(t, onOneServer(t, newFixture(t)), c, order)
			})
		}
	}
}

func contested(t *testing.T, r *racers, race raced, order string) {
	c := &contest{j: r.f.ofItsOwnRun()} // a declined run asks no more
	c.ana, c.bob = r.f.ana.answerMessage(t, c.j, 1), r.f.bob.answerMessage(t, c.j, 1)
	for _, s := range race.before {
		must(t, s.do(t, r, r.relay[0], c))
	}
	for _, relay := range r.relay {
		eventually(t, "each relay knows how it stands", func() bool {
			have, _ := r.relay[0].store.last(t.Context(), c.j.pub)
			e, ok := relay.store.recent(c.j.pub)
			return ok == (len(race.before) > 0) && e.seq == have.seq
		})
	}
	r.clock.move(race.after)
	var at [2]*gate
	var replies [2]chan wire.Reply
	for i, s := range race.sides {
		at[i], replies[i] = r.gates[i].set(c.j.pub, s.event), make(chan wire.Reply, 1)
		go func() { replies[i] <- s.do(t, r, r.relay[i], c) }()
	}
	// Both have read the same and decided on it.
	for _, g := range at {
		<-g.arrived
	}
	var said [2]wire.Reply
	switch order {
	case "the first is first":
		close(at[0].through)
		said[0] = <-replies[0]
		close(at[1].through)
		said[1] = <-replies[1]
	case "the second is first":
		close(at[1].through)
		said[1] = <-replies[1]
		close(at[0].through)
		said[0] = <-replies[0]
	default:
		close(at[0].through)
		close(at[1].through)
		said[0], said[1] = <-replies[0], <-replies[1]
	}
	var events []string
	for _, rec := range records(t, r.relay[0], c.j.pub) {
		events = append(events, string(rec.Event))
	}
	got := ran{events: strings.Join(events, " ")}
	for i, s := range said {
		switch {
		case s.Refused != nil:
			got.says[i] = s.Refused.Error()
		case s.State != nil:
			got.says[i] = s.State.State
			if s.State.By != "" {
				got.says[i] += " by " + s.State.By
			}
		}
	}
	may := race.ends
	switch {
	case order == "the first is first":
		may = may[:1]
	case order == "the second is first" && len(may) == 2:
		may = may[1:]
	}
	for _, m := range may {
		if m.events == got.events && strings.Contains(got.says[0], m.says[0]) && strings.Contains(got.says[1], m.says[1]) {
			return
		}
	}
	t.Errorf("it ended with %s, and the relays said %q", got.events, got.says)
}
