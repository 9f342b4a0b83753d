package ask

// A session in simulated time, at a relay that keeps the protocol's own state
// machine, over a network that loses, doubles, delays and cuts. What the humans
// gave is written down beside it, and held against what came out.

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nkeys"
	"pgregory.net/rapid"

	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

// The same plans in each run, as a gate must be; -rapid.seed=0 -rapid.checks=20000
// looks further. What fails is printed, and leaves no file.
func init() {
	for name, value := range map[string]string{"seed": "20", "checks": "200", "nofailfile": "true", "shrinktime": "2s"} {
		if os.Getenv("RAPID_"+strings.ToUpper(name)) == "" {
			if err := flag.Set("rapid."+name, value); err != nil {
				panic(err)
			}
		}
	}
}

// mishap is what the network does to one message or hint.
type mishap struct {
	Kind string
	Late int // seconds
}

var (
	onMessages = []string{"", "lost", "reply lost", "twice", "again later", "cut before", "cut after", "busy"}
	onHints    = []string{"", "lost", "twice", "late"}
)

// act is what somebody does, and how much later.
type act struct {
	Who   string
	After int // seconds
}

// plan is one run, drawn before it begins: it is drawn by one goroutine, and played
// by several.
type plan struct {
	Messages, Hints []mishap
	Acts            []act
	Decisions       []string // of the job's, for each code: refused, next; then ok
	Limit           int
}

func drawPlan(t *rapid.T) plan {
	mishaps := func(kinds []string, most int, label string) []mishap {
		one := rapid.Custom(func(t *rapid.T) mishap {
			return mishap{rapid.SampledFrom(kinds).Draw(t, "kind"), rapid.IntRange(1, 90).Draw(t, "late")}
		})
		return rapid.SliceOfN(one, 0, most).Draw(t, label)
	}
	acts := rapid.Custom(func(t *rapid.T) act {
		return act{
			rapid.SampledFrom([]string{"answer", "other answers", "answer", "again", "spoilt", "cut", "restart", "two at once", "answer and die", "outage", "open", "decline", "withdraw"}).Draw(t, "who"),
			rapid.IntRange(0, 70).Draw(t, "after"),
		}
	})
	return plan{
		Messages:  mishaps(onMessages, 40, "messages"),
		Hints:     mishaps(onHints, 20, "hints"),
		Acts:      rapid.SliceOfN(acts, 0, 14).Draw(t, "acts"),
		Decisions: rapid.SliceOfN(rapid.SampledFrom([]string{"refused", "next"}), 0, 4).Draw(t, "decisions"),
		Limit:     rapid.IntRange(1, 5).Draw(t, "limit"),
	}
}

// ring is a relay, its humans, and the network to one job.
type ring struct {
	plan   plan
	people []person
	codes  int

	mu       sync.Mutex
	recs     []lifecycle.Record
	conns    []*thread
	heard    time.Time // of the job, the last time
	lost     bool
	healed   bool      // no more mishaps
	outage   time.Time // until then nothing gets through
	request  wire.Request
	digest   wire.Digest
	key      string
	sealed   map[string]wire.Hint // by hash: what a responder still holds
	until    map[string]time.Time
	given    map[int][]string  // every code by attempt
	said     map[string]string // what was signed, by what it is about
	wrongs   []string
	declined bool
	spoilt   bool // an answer that does not open was given
	mishaps  int

	meddle func(verb string, m *wire.StepMessage) (swallow bool) // a wrong job, for the test of this test
}

func (r *ring) wrong(format string, args ...any) {
	r.wrongs = append(r.wrongs, fmt.Sprintf(format, args...))
}

func (r *ring) last() *lifecycle.Record {
	if len(r.recs) == 0 {
		return nil
	}
	return &r.recs[len(r.recs)-1]
}

// apply is the relay's one way to change anything; r.mu is held.
func (r *ring) apply(in lifecycle.Input) error {
	next, err := lifecycle.Apply(r.last(), in, time.Now())
	if err == nil {
		r.recs = append(r.recs, next)
		r.push(wire.Hint{Hint: wire.HintState, Key: r.key})
	}
	return err
}

func (r *ring) state() *wire.State {
	rec := r.last()
	s := &wire.State{
		Rev: uint64(len(r.recs)), State: string(rec.State), Attempt: rec.Attempt, Reason: rec.Reason, Deadline: rec.Deadline / 1000,
		Ready: 2, Enrolled: 2, By: rec.ByName, Why: rec.Why, Sealed: rec.Sealed,
	}
	if rec.State == lifecycle.StateDeclined {
		var e wire.Envelope
		if json.Unmarshal(rec.Cause, &e) == nil {
			s.Decline = &e
		}
	}
	return s
}

// tick is the relay's clock, and the responders', who say again what is not
// confirmed; r.mu is held.
func (r *ring) tick() {
	rec := r.last()
	if rec == nil {
		return
	}
	now := time.Now()
	if !rec.State.Final() && now.Sub(r.heard) > lifecycle.LostAsk+lifecycle.LostAfter {
		r.lost = true
		_ = r.apply(lifecycle.Lost{})
	}
	if due, in := rec.Clock(now); in != nil && !now.Before(due) {
		_ = r.apply(in)
	}
	for hash, until := range r.until {
		if now.After(until) {
			delete(r.until, hash)
			delete(r.sealed, hash)
		}
	}
}

// handle is what the relay does with one message.
func (r *ring) handle(verb string, data []byte) (wire.Reply, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard = time.Now()
	r.tick()
	reply := func(err error) (wire.Reply, error) {
		var ended *lifecycle.EndedError
		code := wire.RefusedAttempt
		switch {
		case err == nil || errors.Is(err, lifecycle.ErrSame):
			return wire.Reply{V: wire.Version, State: r.state()}, nil
		case errors.As(err, &ended):
			code = wire.RefusedEnded
		case errors.Is(err, lifecycle.ErrUnknown):
			code = wire.RefusedUnknown
		case errors.Is(err, lifecycle.ErrKeyUsed):
			code = wire.RefusedKeyUsed
		}
		return wire.Reply{}, &wire.Refusal{Code: code, Why: err.Error()}
	}
	switch verb {
	case wire.VerbRequest:
		var m wire.RequestMessage
		if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
			r.wrong("request: %v", err)
			return reply(lifecycle.ErrInput)
		}
		key, _ := wire.ClaimedSigner(m.Request)
		req, err := wire.Open[wire.Request](m.Request, key)
		if err != nil {
			r.wrong("request: %v", err)
			return reply(lifecycle.ErrInput)
		}
		r.signs("request", m.Request)
		digest, _ := wire.DigestOf(m.Request, key)
		r.key, r.request, r.digest = key, req, digest
		return reply(r.apply(lifecycle.Ask{
			Key: key, Digest: digest.String(), Project: req.Project, Group: "1/1/1", Kind: req.Ask, Request: m.Request.Encode(),
			Deadline: req.Deadline * 1000, Attempts: r.plan.Limit,
		}))
	case wire.VerbState:
		if r.last() == nil {
			return reply(lifecycle.ErrUnknown)
		}
		if rec := r.last(); rec.State == lifecycle.StateAnswered {
			if h, ok := r.sealed[rec.Sealed]; ok {
				r.push(h)
			}
		}
		return reply(nil)
	case wire.VerbAlive:
		return reply(nil)
	}
	var m wire.StepMessage
	if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
		r.wrong("%s: %v", verb, err)
		return reply(lifecycle.ErrInput)
	}
	var in lifecycle.Input
	var about string
	var digest wire.Digest
	var err error
	raw := m.Step.Encode()
	switch verb {
	case wire.VerbGot:
		var b wire.Got
		b, err = wire.Open[wire.Got](m.Step, r.key)
		about, digest, in = fmt.Sprint("got ", b.Attempt), b.Digest, lifecycle.Got{Attempt: b.Attempt, Sealed: b.Sealed.String(), Envelope: raw}
	case wire.VerbRejected:
		var b wire.Rejected
		b, err = wire.Open[wire.Rejected](m.Step, r.key)
		about, digest, in = fmt.Sprint("end of ", b.Attempt), b.Digest, lifecycle.Reject{Attempt: b.Attempt, Why: b.Why, Shut: b.Shut, Envelope: raw}
	case wire.VerbNext:
		var b wire.Next
		b, err = wire.Open[wire.Next](m.Step, r.key)
		about, digest, in = fmt.Sprint("end of ", b.Attempt), b.Digest, lifecycle.Next{Attempt: b.Attempt, Envelope: raw}
	case wire.VerbDone:
		var b wire.Done
		b, err = wire.Open[wire.Done](m.Step, r.key)
		about, digest, in = "done", b.Digest, lifecycle.Done{Outcome: b.Outcome, Envelope: raw}
	case wire.VerbCancel:
		var b wire.Cancel
		b, err = wire.Open[wire.Cancel](m.Step, r.key)
		about, digest, in = "cancel", b.Digest, lifecycle.Cancel{Why: b.Why, Envelope: raw}
	default:
		r.wrong("a message %q", verb)
		return reply(lifecycle.ErrInput)
	}
	if err != nil || digest != r.digest {
		r.wrong("%s: %v, about %s", verb, err, digest)
		return reply(lifecycle.ErrInput)
	}
	r.signs(about, m.Step)
	return reply(r.apply(in))
}

// signs writes down what the job signed about something: it must never sign twice.
func (r *ring) signs(about string, e wire.Envelope) {
	b := string(e.Encode())
	if was, ok := r.said[about]; ok && was != b {
		r.wrong("about %q the job signed two things:\n%s\n%s", about, was, b)
	}
	r.said[about] = b
}

// mishap takes the next of the plan's.
func (r *ring) mishap(from *[]mishap) mishap {
	if r.healed || len(*from) == 0 {
		return mishap{}
	}
	m := (*from)[0]
	*from = (*from)[1:]
	if m.Kind != "" {
		r.mishaps++
	}
	return m
}

// push hands a hint to the network; r.mu is held.
func (r *ring) push(h wire.Hint) {
	if len(r.conns) == 0 || time.Now().Before(r.outage) {
		return
	}
	give := func() {
		// To whatever connection there is then.
		select {
		case r.conns[len(r.conns)-1].hints <- h:
		default:
		}
	}
	switch m := r.mishap(&r.plan.Hints); m.Kind {
	case "lost":
	case "twice":
		give()
		give()
	case "late":
		time.AfterFunc(time.Duration(m.Late)*time.Second, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			give()
		})
	default:
		give()
	}
}

// answers has a human answer the attempt that is open by the relay's word.
func (r *ring) answers(p person, spoilt bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer(p, spoilt)
}

// answer is answers; r.mu is held.
func (r *ring) answer(p person, spoilt bool) {
	r.tick()
	rec := r.last()
	if rec == nil || rec.State.Final() {
		return
	}
	r.codes++
	code := fmt.Sprintf("%06d", r.codes)
	to := seal.To{Digest: r.digest, Attempt: rec.Attempt, Ask: wire.AskCode, Responder: p.key}
	if spoilt {
		to.Attempt++
	}
	sealed, err := seal.Close(r.request.HPKE, to, code)
	if err != nil {
		r.wrong("seal: %v", err)
		return
	}
	env, err := wire.Sign(&wire.Answer{Key: p.key, Digest: r.digest, Attempt: rec.Attempt, Ask: wire.AskCode, Decision: wire.DecisionCode, Sealed: sealed.Hash()}, p.sign)
	if err != nil {
		r.wrong("sign: %v", err)
		return
	}
	attempt := rec.Attempt
	if r.apply(lifecycle.Answer{Key: p.key, Name: "somebody", Attempt: attempt, Sealed: sealed.Hash().String(), Envelope: env.Encode()}) != nil {
		return // somebody was first; what was typed is thrown away
	}
	if spoilt {
		r.spoilt = true
	} else {
		r.given[attempt] = append(r.given[attempt], code)
	}
	h := wire.Hint{Hint: wire.HintAnswer, Key: r.key, Envelope: &env, Sealed: &sealed}
	r.sealed[sealed.Hash().String()], r.until[sealed.Hash().String()] = h, time.Now().Add(wire.KeepAnswer)
	r.push(h)
}

// dies is answers by a responder that is gone before its code is: the relay has it
// on record, and nobody can send it any more.
func (r *ring) dies(p person) {
	r.mu.Lock()
	defer r.mu.Unlock()
	conns := r.conns
	r.conns = nil
	r.answer(p, false)
	r.conns = conns
	clear(r.sealed)
	clear(r.until)
}

func (r *ring) again() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.sealed {
		r.push(h)
	}
}

func (r *ring) declines(p person) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec := r.last()
	if rec == nil {
		return
	}
	env, err := wire.Sign(&wire.Decline{Key: p.key, Digest: r.digest, Attempt: rec.Attempt, Reason: "no"}, p.sign)
	if err != nil {
		r.wrong("sign: %v", err)
		return
	}
	if r.apply(lifecycle.Decline{Key: p.key, Name: "somebody", Attempt: rec.Attempt, Reason: "no", Envelope: env.Encode()}) == nil {
		r.declined = true
	}
}

func (r *ring) opens(p person, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last() == nil {
		return
	}
	c := wire.Challenge{Key: p.key, Connect: wire.PublicKey(p.desk), Digest: r.digest, Nonce: fmt.Appendf(nil, "%016d", n)}
	if env, err := wire.Sign(&c, p.sign); err == nil {
		r.push(wire.Hint{Hint: wire.HintChallenge, Key: r.key, Envelope: &env})
	}
}

func (r *ring) cut(all bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := len(r.conns) - 1; i >= 0; i-- {
		r.conns[i].Close()
		if !all {
			return
		}
	}
}

// thread is one connection.
type thread struct {
	ring   *ring
	hints  chan wire.Hint
	closed chan struct{}
	once   sync.Once
}

func (c *thread) Hints() <-chan wire.Hint { return c.hints }
func (c *thread) Closed() <-chan struct{} { return c.closed }
func (c *thread) Close()                  { c.once.Do(func() { close(c.closed) }) }

func (r *ring) connect(ctx context.Context, _ nkeys.KeyPair, _ string) (link, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	c := &thread{ring: r, hints: make(chan wire.Hint, 256), closed: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conns = append(r.conns, c)
	return c, nil
}

func (c *thread) Request(ctx context.Context, subject string, msg any) (wire.Reply, error) {
	_, _, verb, _ := wire.ParseSubject(subject)
	r := c.ring
	if m, ok := msg.(wire.StepMessage); ok && r.meddle != nil {
		if r.meddle(verb, &m) {
			r.mu.Lock()
			defer r.mu.Unlock()
			return wire.Reply{V: wire.Version, State: r.state()}, nil
		}
		msg = m
	}
	data, err := json.Marshal(msg)
	if err != nil {
		return wire.Reply{}, err
	}
	select {
	case <-c.closed:
		return wire.Reply{}, dial.ErrUnreachable
	default:
	}
	silence := func() (wire.Reply, error) {
		select {
		case <-ctx.Done():
			return wire.Reply{}, fmt.Errorf("%w: no reply: %w", dial.ErrUnreachable, context.Cause(ctx))
		case <-c.closed:
			return wire.Reply{}, dial.ErrUnreachable
		}
	}
	r.mu.Lock()
	m := r.mishap(&r.plan.Messages)
	if time.Now().Before(r.outage) {
		m.Kind = "lost"
	}
	r.mu.Unlock()
	switch m.Kind {
	case "lost":
		return silence()
	case "reply lost":
		_, _ = r.handle(verb, data)
		return silence()
	case "twice":
		_, _ = r.handle(verb, data)
	case "again later":
		time.AfterFunc(time.Duration(m.Late)*time.Second, func() { _, _ = r.handle(verb, data) })
	case "cut before":
		c.Close()
		return wire.Reply{}, dial.ErrUnreachable
	case "cut after":
		_, _ = r.handle(verb, data)
		c.Close()
		return wire.Reply{}, dial.ErrUnreachable
	case "busy":
		return wire.Reply{}, &wire.Refusal{Code: wire.RefusedBusy, Why: "not now"}
	}
	return r.handle(verb, data)
}

// outcome is what came of one run.
type outcome struct {
	codes     []Answer
	refused   int
	end       error // of Await, or nil after Done
	confirmed error // what Done said
	withdrawn bool
	lost      bool
}

// tally counts how runs went, so that tame plans are noticed.
type tally map[string]int

// playPlan plays a plan in the bubble that it is called in, and says what is wrong
// with what came of it.
func playPlan(t *testing.T, p plan, people []person, count tally, wrongJob func(*Session) func(string, *wire.StepMessage) bool) []string {
	r := &ring{plan: p, people: people, sealed: map[string]wire.Hint{}, until: map[string]time.Time{}, given: map[int][]string{}, said: map[string]string{}, heard: time.Now()}
	events := &told{}
	job, err := prepare(testConfig(t, &issuer{}, events))
	if err != nil {
		t.Fatal(err)
	}
	job.connect = r.connect
	if wrongJob != nil {
		r.meddle = wrongJob(job)
	}
	var o outcome
	over := make(chan struct{})
	go func() { // the job's own script: take a code, use it, say what became of it
		defer close(over)
		for decisions := p.Decisions; ; {
			a, err := job.Await(context.Background())
			if err != nil {
				o.end = err
				return
			}
			o.codes = append(o.codes, a)
			if len(decisions) == 0 {
				ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
				defer cancel()
				o.confirmed = job.Done(ctx, wire.OutcomeOK)
				if a, err := job.Await(ctx); err == nil {
					o.codes = append(o.codes, a)
					o.end = errors.New("a code was handed out after it was done")
				}
				return
			}
			say := job.Next
			if decisions[0] == "refused" {
				o.refused++
				say = job.Reject
			}
			decisions = decisions[1:]
			for signed := false; !signed; { // in an outage nobody is there to sign it
				ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
				err := say(ctx)
				cancel()
				signed = err == nil || !strings.Contains(err.Error(), "not signed")
			}
		}
	}()
	ticking, stop := context.WithCancel(context.Background())
	ticked := make(chan struct{})
	go func() {
		defer close(ticked)
		for sleep(ticking, time.Second) == nil {
			r.mu.Lock()
			r.tick()
			r.mu.Unlock()
		}
	}()
	for i, a := range p.Acts {
		_ = sleepUntil(over, time.Duration(a.After)*time.Second)
		switch a.Who {
		case "answer":
			r.answers(people[0], false)
		case "other answers":
			r.answers(people[1], false)
		case "spoilt":
			r.answers(people[2], true)
		case "two at once":
			var both sync.WaitGroup
			both.Go(func() { r.answers(people[0], false) })
			both.Go(func() { r.answers(people[1], false) })
			both.Wait()
		case "answer and die":
			r.dies(people[0])
		case "outage":
			r.mu.Lock()
			r.outage = time.Now().Add(100 * time.Second)
			r.mu.Unlock()
		case "again":
			r.again()
		case "cut":
			r.cut(false)
		case "restart":
			r.cut(true)
		case "open":
			r.opens(people[i%2], i)
		case "decline":
			r.declines(people[1])
		case "withdraw":
			if i >= 8 { // else most runs would end so
				o.withdrawn = true
				job.Withdraw("no more")
			}
		}
	}
	// From now on all is well, and somebody answers whatever waits.
	r.mu.Lock()
	r.healed, r.outage = true, time.Time{}
	r.mu.Unlock()
	for n := 0; sleepUntil(over, 10*time.Second) && n < 1000; n++ {
		r.answers(people[n%2], false)
	}
	<-over
	r.mu.Lock()
	o.lost = r.lost // while it ran
	r.mu.Unlock()
	// A job that went without a word is lost; whatever happened, the request ends.
	for n := 0; n < 60 && !r.ended(); n++ {
		time.Sleep(time.Minute)
	}
	stop()
	<-ticked
	job.Withdraw("the test is over")
	return r.verdict(&o, events, count)
}

func (r *ring) ended() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last() == nil || r.last().State.Final()
}

// sleepUntil sleeps, and says whether over has not come meanwhile.
func sleepUntil(over <-chan struct{}, d time.Duration) bool {
	select {
	case <-over:
		return false
	case <-time.After(d):
		return true
	}
}

// verdict holds what came out against what the humans gave and the relay recorded.
func (r *ring) verdict(o *outcome, events *told, count tally) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	handed := map[int]bool{}
	for _, a := range o.codes {
		if handed[a.Attempt] {
			r.wrong("attempt %d was handed out twice", a.Attempt)
		}
		handed[a.Attempt] = true
		if !slices.Contains(r.given[a.Attempt], a.Code()) {
			r.wrong("attempt %d: the job was handed a code that nobody gave for it", a.Attempt)
		}
	}
	taken := map[int]bool{}
	for _, e := range events.all() {
		if e, ok := e.(Taken); ok {
			if taken[e.Attempt] {
				r.wrong("two answers were accepted for attempt %d", e.Attempt)
			}
			taken[e.Attempt] = true
		}
	}
	for attempt, codes := range r.given {
		if len(codes) > 1 {
			r.wrong("the relay recorded %d answers to attempt %d", len(codes), attempt)
		}
	}
	ends := 0
	for _, kind := range []error{ErrUnreachable, ErrRefused, ErrDeclined, ErrTimedOut, ErrCancelled} {
		if errors.Is(o.end, kind) {
			ends++
			count[kind.Error()]++
		}
	}
	if o.end == nil {
		count["done"]++
	} else if ends != 1 && !o.withdrawn { // which may come between an answer and what is said of it
		r.wrong("it ended in %d ways: %v", ends, o.end)
	}
	rec := r.last()
	if rec == nil {
		rec = &lifecycle.Record{}
	}
	limit := o.refused >= r.plan.Limit
	// Nobody said no, and the network came back: then a code came, was used, and the
	// relay knows.
	if !r.declined && !o.withdrawn && !o.lost && !limit && !errors.Is(o.end, ErrUnreachable) {
		if o.end != nil || o.confirmed != nil || rec.State != lifecycle.StateDone || rec.Outcome != lifecycle.OutcomeOK {
			r.wrong("the job ended with %v (confirmed: %v), the record with %s %s %s after %d records", o.end, o.confirmed, rec.State, rec.Outcome, rec.Why, len(r.recs))
		}
		if n := len(r.plan.Decisions) + 1; len(o.codes) != n {
			r.wrong("%d codes were handed out, and the job wanted %d", len(o.codes), n)
		}
	}
	if len(r.recs) > 0 && !rec.State.Final() {
		r.wrong("an hour after the job's end the record says %s", rec.State)
	}
	finals := 0
	for i, rec := range r.recs {
		if rec.State.Final() && !(i > 0 && r.recs[i-1].State.Final() && rec.Event == lifecycle.EventGot) {
			finals++
		}
	}
	if finals > 1 {
		r.wrong("it ended %d times", finals)
	}
	// A job that took a code in an outage may use it although, behind its back, the
	// attempt was given up and the next one declined: it was given by a human. But then
	// nobody confirms that it is done.
	if rec.State == lifecycle.StateDeclined && o.end == nil && (o.confirmed == nil || len(o.codes) == 0) {
		r.wrong("it was declined, and its end was confirmed as a good one")
	}
	if r.mishaps > 3 {
		count["with mishaps"]++
	}
	if r.lost {
		count["lost"]++
	}
	if len(o.codes) > 1 {
		count["several codes"]++
	}
	for _, rec := range r.recs {
		count["record "+string(rec.Event)]++
	}
	return r.wrongs
}

func crew(t testing.TB) []person { return []person{newPerson(t), newPerson(t), newPerson(t)} }

func TestWhateverTheNetworkDoesNoCodeIsLostOrHandedOutTwice(t *testing.T) {
	t.Parallel()
	people, count := crew(t), tally{}
	rapid.Check(t, func(rt *rapid.T) {
		p := drawPlan(rt)
		if wrongs := inBubble(t, p, people, count, nil); len(wrongs) > 0 {
			rt.Fatal(strings.Join(wrongs, "\n"))
		}
	})
	for what, least := range map[string]int{
		"done": 50, ErrDeclined.Error(): 5, ErrCancelled.Error(): 5, "with mishaps": 40, "several codes": 30,
		"record rejected": 30, "record next": 30, "record undelivered": 5, "record got": 100, "lost": 1,
	} {
		if count[what] < least {
			t.Errorf("%s: %d times, the plans are too tame", what, count[what])
		}
	}
	t.Log(count)
}

func inBubble(t *testing.T, p plan, people []person, count tally, wrongJob func(*Session) func(string, *wire.StepMessage) bool) (wrongs []string) {
	synctest.Test(t, func(t *testing.T) { wrongs = playPlan(t, p, people, count, wrongJob) })
	return wrongs
}

// witness is a test that fails without failing this one.
type witness struct {
	*testing.T
	failed bool
}

func (w *witness) Logf(string, ...any)   {}
func (w *witness) Log(...any)            {}
func (w *witness) Errorf(string, ...any) { w.failed = true }
func (w *witness) Error(...any)          { w.failed = true }
func (w *witness) Fatalf(string, ...any) { w.failed = true }
func (w *witness) Fatal(...any)          { w.failed = true }
func (w *witness) FailNow()              { w.failed = true }
func (w *witness) Fail()                 { w.failed = true }
func (w *witness) Failed() bool          { return w.failed }

// A job that breaks one rule is noticed. (How long it takes to connect and to read
// again is left to chance, so that a plan cannot always be made as short as it could
// be; the state machine's own model test shows that.)
func TestAJobThatBreaksARuleIsFound(t *testing.T) {
	t.Parallel()
	for name, wrongJob := range map[string]func(*Session) func(string, *wire.StepMessage) bool{
		"it never says that it has the code": func(*Session) func(string, *wire.StepMessage) bool {
			return func(verb string, _ *wire.StepMessage) bool { return verb == wire.VerbGot }
		},
		"it says a step again in other words": func(s *Session) func(string, *wire.StepMessage) bool {
			n := 0
			return func(verb string, m *wire.StepMessage) bool {
				if n++; verb == wire.VerbGot && n > 1 {
					b, err := wire.Open[wire.Got](m.Step, s.id)
					if err != nil {
						return false
					}
					b.Sealed[0]++
					if e, err := wire.Sign(&b, s.key); err == nil {
						m.Step = e
					}
				}
				return false
			}
		},
		"it forgets that a code was refused": func(*Session) func(string, *wire.StepMessage) bool {
			return func(verb string, _ *wire.StepMessage) bool { return verb == wire.VerbRejected }
		},
		"it says everything once only": func(*Session) func(string, *wire.StepMessage) bool {
			said := map[string]bool{}
			return func(_ string, m *wire.StepMessage) bool {
				b := string(m.Step.Encode())
				was := said[b]
				said[b] = true
				return was
			}
		},
		"it is done and tells nobody": func(*Session) func(string, *wire.StepMessage) bool {
			return func(verb string, _ *wire.StepMessage) bool { return verb == wire.VerbDone }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			people := crew(t)
			var shortest plan
			w := &witness{T: t}
			rapid.Check(w, func(rt *rapid.T) {
				p := drawPlan(rt)
				if wrongs := inBubble(t, p, people, tally{}, wrongJob); len(wrongs) > 0 {
					shortest = p // the last that fails is the shortest
					rt.Fatal(wrongs)
				}
			})
			if !w.failed {
				t.Error("nothing was noticed")
			}
			t.Logf("%+v", shortest)
		})
	}
}
