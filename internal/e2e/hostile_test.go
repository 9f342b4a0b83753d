package e2e

// A relay that lies. It is built from our own packages: the same messages, the
// same state machine, a NATS server that lets everybody in. It keeps every key
// and every byte that it ever saw, and each test tells it what to lie about.
//
// Four things hold in each test. What the human is shown as verified is true. No
// code is readable by the relay. The job never takes another code than the one
// that its human gave for its attempt, and never ends well without one. And the
// same script without the lie succeeds, so that it is the lie that was stopped.
//
// What such a relay can do in spite of all is stated in PROTOCOL.md, and shown
// here by the tests whose names say what it can.

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/ask"
	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

// lies are where a liar leaves the truth. Each hook runs while the relay handles
// nothing else, and may use the relay's fields. nil: no lie.
type lies struct {
	// take sees a client's message first; handled: nothing else is done with it,
	// and reply is the reply (nil: none).
	take func(m message) (reply *wire.Reply, handled bool)
	// item may change a request on its way to a responder; false leaves it out.
	item func(desk string, it *wire.Item) bool
	// more are further requests for a responder.
	more func(desk string) []wire.Item
	// state may change what is said of a request, to whom (a connecting key).
	state func(to, id string, s *wire.State)
	// hint may change what is pushed to a client; false drops it.
	hint func(to string, h *wire.Hint) bool
}

// message is one message of a client.
type message struct {
	desk bool
	key  string // of the sender
	verb string
	data []byte
}

// asked is one request at the liar.
type asked struct {
	rec     lifecycle.Record
	env     wire.Envelope
	request wire.Request
	digest  wire.Digest
	rev     uint64
}

// shownAlive is one proof of life that passed through.
type shownAlive struct {
	env   wire.Envelope
	token string
	body  wire.Alive
}

// box is one sealed answer that passed through.
type box struct {
	env    wire.Envelope
	sealed wire.Sealed
	body   wire.Answer
}

// liar is the hostile relay.
type liar struct {
	t      testing.TB
	bell   *bell
	server *server.Server
	nc     *nats.Conn

	mu       sync.Mutex
	lies     lies
	rev      uint64
	requests map[string]*asked
	desks    map[string]*responder // enrolled, by connecting key
	messages []message
	tokens   map[string]string // the newest of each job
	alives   []shownAlive
	boxes    []box
	openings map[string]wire.OpenMessage // the newest of each desk
	hpke     []*seal.Key                 // every sealing key that it made
	names    map[string]bool             // every signing key that it knows of, A…
	own      []string                    // codes of its own making
}

func newLiar(t testing.TB, b *bell) *liar {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		ServerName: "liar", Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true, AlwaysEnableNonce: true,
		MaxPayload: wire.MaxMessage, CustomClientAuthentication: anybody{},
	})
	if err != nil {
		t.Fatal(err)
	}
	go s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patience) {
		t.Fatal("the NATS server does not start")
	}
	r := &liar{
		t: t, bell: b, server: s, requests: map[string]*asked{}, desks: map[string]*responder{},
		tokens: map[string]string{}, openings: map[string]wire.OpenMessage{}, names: map[string]bool{},
	}
	if r.nc, err = nats.Connect("", nats.InProcessServer(s), nats.NoEcho(), nats.Timeout(patience)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.nc.Close)
	if _, err := r.nc.Subscribe("cfa.v1.>", r.receive); err != nil {
		t.Fatal(err)
	}
	if err := r.nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return r
}

// anybody lets everybody in, to everything.
type anybody struct{}

// Check is server.Authentication's.
func (anybody) Check(c server.ClientAuthentication) bool {
	c.RegisterUser(&server.User{Username: c.GetOpts().Nkey})
	return true
}

// do runs f while the relay handles nothing.
func (r *liar) do(f func()) {
	r.mu.Lock()
	f()
	r.mu.Unlock()
	r.bell.ring()
}

// awaits waits until ok, which is asked while the relay handles nothing.
func (r *liar) awaits(t testing.TB, what string, ok func() bool) {
	t.Helper()
	r.bell.await(t, what, func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return ok()
	})
}

func (r *liar) enrols(p *responder) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.desks[p.key()] = p
	r.names[p.signer()] = true
}

// counts messages of that verb from a client.
func (r *liar) heard(key, verb string) (n int) {
	for _, m := range r.messages {
		if m.key == key && m.verb == verb {
			n++
		}
	}
	return n
}

func (r *liar) receive(m *nats.Msg) {
	desk, key, verb, ok := wire.ParseSubject(m.Subject)
	if !ok {
		return
	}
	r.mu.Lock()
	reply := r.handle(message{desk, key, verb, bytes.Clone(m.Data)})
	r.mu.Unlock()
	if reply != nil && m.Reply != "" {
		reply.V = wire.Version
		if data, err := json.Marshal(reply); err == nil {
			_ = m.Respond(data)
		}
	}
	r.bell.ring()
}

// handle does with a message what an honest relay does, but for the lies.
func (r *liar) handle(m message) *wire.Reply {
	r.messages = append(r.messages, m)
	r.remember(m)
	if r.lies.take != nil {
		if reply, handled := r.lies.take(m); handled {
			return reply
		}
	}
	var reply wire.Reply
	var err error
	if m.desk {
		reply, err = r.fromDesk(m)
	} else {
		reply, err = r.fromJob(m)
	}
	if err != nil {
		return &wire.Reply{Refused: refusalOf(err)}
	}
	return &reply
}

// remember keeps whatever could ever be of use.
func (r *liar) remember(m message) {
	switch m.verb {
	case wire.VerbRequest:
		var b wire.RequestMessage
		if wire.Decode(m.data, wire.MaxMessage, &b) == nil {
			r.tokens[m.key] = b.Token
		}
	case wire.VerbAlive:
		var b wire.AliveMessage
		if wire.Decode(m.data, wire.MaxMessage, &b) == nil {
			if a, err := wire.Open[wire.Alive](b.Alive, m.key); err == nil {
				r.alives = append(r.alives, shownAlive{b.Alive, b.Token, a})
				r.tokens[m.key] = b.Token
			}
		}
	case wire.VerbAnswer:
		var b wire.AnswerMessage
		if wire.Decode(m.data, wire.MaxMessage, &b) == nil && b.Sealed != nil {
			r.keep(b.Answer, *b.Sealed)
		}
	case wire.VerbOpen:
		var b wire.OpenMessage
		if wire.Decode(m.data, wire.MaxMessage, &b) == nil {
			r.openings[m.key] = b
		}
	}
}

func (r *liar) keep(env wire.Envelope, sealed wire.Sealed) {
	signer, err := wire.ClaimedSigner(env)
	if err != nil {
		return
	}
	a, err := wire.Open[wire.Answer](env, signer)
	known := func(b box) bool { return b.sealed.Hash() == sealed.Hash() }
	if err == nil && !slices.ContainsFunc(r.boxes, known) { // answers are sent again and again
		r.boxes = append(r.boxes, box{env, sealed, a})
	}
}

func refusalOf(err error) *wire.Refusal {
	code := wire.RefusedMalformed
	var taken *lifecycle.TakenError
	var ended *lifecycle.EndedError
	switch {
	case errors.As(err, &taken):
		code = wire.RefusedTaken
	case errors.As(err, &ended):
		code = wire.RefusedEnded
	case errors.Is(err, errNotHere):
		code = wire.RefusedUnknown
	case errors.Is(err, lifecycle.ErrAttempt), errors.Is(err, lifecycle.ErrState):
		code = wire.RefusedAttempt
	case errors.Is(err, lifecycle.ErrShut):
		code = wire.RefusedNotYours
	}
	return &wire.Refusal{Code: code, Why: err.Error()}
}

var errNotHere = errors.New("no such request")

func (r *liar) fromJob(m message) (wire.Reply, error) {
	if m.verb == wire.VerbRequest {
		var b wire.RequestMessage
		if err := wire.Decode(m.data, wire.MaxMessage, &b); err != nil {
			return wire.Reply{}, err
		}
		return r.takeIn(m.key, b.Request)
	}
	q := r.requests[m.key]
	if q == nil {
		return wire.Reply{}, errNotHere
	}
	switch m.verb {
	case wire.VerbState:
		if q.rec.State == lifecycle.StateAnswered {
			r.nudge(q.request.Project) // who holds the answer sends it again
		}
		return r.reply(m.key, q), nil
	case wire.VerbAlive:
		var b wire.AliveMessage
		if err := wire.Decode(m.data, wire.MaxMessage, &b); err != nil {
			return wire.Reply{}, err
		}
		a, err := wire.Open[wire.Alive](b.Alive, m.key)
		if err != nil {
			return wire.Reply{}, err
		}
		r.send(a.Connect, wire.Hint{Hint: wire.HintAlive, Key: m.key, Rev: q.rev, Envelope: &b.Alive, Token: b.Token})
		return r.reply(m.key, q), nil
	}
	var b wire.StepMessage
	if err := wire.Decode(m.data, wire.MaxMessage, &b); err != nil {
		return wire.Reply{}, err
	}
	in, err := stepOf(m.verb, b.Step, m.key)
	if err != nil {
		return wire.Reply{}, err
	}
	return r.apply(m.key, q, in)
}

func stepOf(verb string, env wire.Envelope, key string) (lifecycle.Input, error) {
	raw := json.RawMessage(env.Encode())
	switch verb {
	case wire.VerbGot:
		b, err := wire.Open[wire.Got](env, key)
		return lifecycle.Got{Attempt: b.Attempt, Sealed: b.Sealed.String(), Envelope: raw}, err
	case wire.VerbRejected:
		b, err := wire.Open[wire.Rejected](env, key)
		return lifecycle.Reject{Attempt: b.Attempt, Why: b.Why, Shut: b.Shut, Envelope: raw}, err
	case wire.VerbNext:
		b, err := wire.Open[wire.Next](env, key)
		return lifecycle.Next{Attempt: b.Attempt, Envelope: raw}, err
	case wire.VerbDone:
		b, err := wire.Open[wire.Done](env, key)
		return lifecycle.Done{Outcome: b.Outcome, Envelope: raw}, err
	case wire.VerbCancel:
		b, err := wire.Open[wire.Cancel](env, key)
		return lifecycle.Cancel{Why: b.Why, Envelope: raw}, err
	}
	return nil, errNotHere
}

// takeIn lets any request in that its key has signed.
func (r *liar) takeIn(key string, env wire.Envelope) (wire.Reply, error) {
	if q := r.requests[key]; q != nil {
		return r.reply(key, q), nil
	}
	body, err := wire.Open[wire.Request](env, key)
	if err != nil {
		return wire.Reply{}, err
	}
	digest, err := wire.DigestOf(env, key)
	if err != nil {
		return wire.Reply{}, err
	}
	q := &asked{env: env, request: body, digest: digest}
	rec, err := lifecycle.Apply(nil, lifecycle.Ask{
		Key: key, Digest: digest.String(), Project: body.Project, Rule: "none", Group: "none", Kind: body.Ask,
		Request: env.Encode(), Deadline: body.Deadline * 1000, Attempts: 100, Approvals: max(body.Approvals, 1),
	}, time.Now())
	if err != nil {
		return wire.Reply{}, err
	}
	r.rev++
	q.rec, q.rev = rec, r.rev
	r.requests[key] = q
	r.changed(q)
	return r.reply(key, q), nil
}

// apply makes one transition and tells everyone.
func (r *liar) apply(to string, q *asked, in lifecycle.Input) (wire.Reply, error) {
	rec, err := lifecycle.Apply(&q.rec, in, time.Now())
	if err != nil && !errors.Is(err, lifecycle.ErrSame) {
		return wire.Reply{}, err
	}
	if err == nil {
		r.rev++
		q.rec, q.rev = rec, r.rev
		r.changed(q)
	}
	return r.reply(to, q), nil
}

func (r *liar) changed(q *asked) {
	r.nudge(q.request.Project)
	r.send(q.rec.Key, wire.Hint{Hint: wire.HintState, Key: q.rec.Key, Rev: q.rev})
}

// nudge makes a project's responders read.
func (r *liar) nudge(project string) {
	r.publish(wire.ProjectSubject(project), wire.Hint{Hint: wire.HintState})
}

// send pushes a hint as an honest relay does, but for the lies.
func (r *liar) send(to string, h wire.Hint) {
	if r.lies.hint == nil || r.lies.hint(to, &h) {
		r.push(to, h)
	}
}

// push pushes whatever it is given.
func (r *liar) push(to string, h wire.Hint) { r.publish(wire.HintSubject(to), h) }

func (r *liar) publish(subject string, h wire.Hint) {
	if data, err := json.Marshal(h); err == nil {
		_ = r.nc.Publish(subject, data)
	}
}

func (r *liar) reply(to string, q *asked) wire.Reply {
	s := r.view(to, q)
	return wire.Reply{State: &s}
}

func (r *liar) view(to string, q *asked) wire.State {
	s := wire.State{
		Rev: q.rev, State: string(q.rec.State), Attempt: q.rec.Attempt, Reason: q.rec.Reason, Deadline: q.rec.Deadline / 1000,
		Ready: len(r.desks), Enrolled: len(r.desks), By: q.rec.ByName, Why: q.rec.Why, Sealed: q.rec.Sealed,
	}
	if q.rec.State == lifecycle.StateDeclined {
		if env, err := wire.DecodeEnvelope(q.rec.Cause); err == nil {
			s.Decline = &env
		}
	}
	if n := len(q.rec.Yes); n > 0 && q.rec.Yes[n-1].Attempt == q.rec.Attempt {
		if env, err := wire.DecodeEnvelope(q.rec.Yes[n-1].Envelope); err == nil {
			s.Answer = &env
		}
	}
	if r.lies.state != nil {
		r.lies.state(to, q.rec.Key, &s)
	}
	return s
}

func (r *liar) fromDesk(m message) (wire.Reply, error) {
	p := r.desks[m.key]
	if p == nil {
		return wire.Reply{}, errNotHere
	}
	switch m.verb {
	case wire.VerbPending:
		var b wire.PendingQuery
		if err := wire.Decode(m.data, wire.MaxMessage, &b); err != nil {
			return wire.Reply{}, err
		}
		return r.page(m.key, b), nil
	case wire.VerbOpen:
		var b wire.OpenMessage
		if err := wire.Decode(m.data, wire.MaxMessage, &b); err != nil {
			return wire.Reply{}, err
		}
		q := r.requests[b.Key]
		if q == nil {
			return wire.Reply{}, errNotHere
		}
		r.send(b.Key, wire.Hint{Hint: wire.HintChallenge, Key: b.Key, Rev: q.rev, Envelope: &b.Challenge})
		return r.reply(m.key, q), nil
	case wire.VerbAnswer:
		var b wire.AnswerMessage
		if err := wire.Decode(m.data, wire.MaxMessage, &b); err != nil {
			return wire.Reply{}, err
		}
		return r.answered(m.key, p, b)
	case wire.VerbDecline:
		var b wire.DeclineMessage
		if err := wire.Decode(m.data, wire.MaxMessage, &b); err != nil {
			return wire.Reply{}, err
		}
		d, err := wire.Open[wire.Decline](b.Decline, p.signer())
		if err != nil {
			return wire.Reply{}, err
		}
		q := r.requests[b.Key]
		if q == nil {
			return wire.Reply{}, errNotHere
		}
		return r.apply(m.key, q, lifecycle.Decline{Key: p.signer(), Name: p.name, Attempt: d.Attempt, Reason: d.Reason, Envelope: b.Decline.Encode()})
	}
	return wire.Reply{}, errNotHere
}

func (r *liar) answered(to string, p *responder, b wire.AnswerMessage) (wire.Reply, error) {
	q := r.requests[b.Key]
	if q == nil {
		return wire.Reply{}, errNotHere
	}
	signer, err := wire.ClaimedSigner(b.Answer)
	if err != nil {
		return wire.Reply{}, err
	}
	a, err := wire.Open[wire.Answer](b.Answer, signer)
	if err != nil {
		return wire.Reply{}, err
	}
	if a.Decision == wire.DecisionYes {
		return r.apply(to, q, lifecycle.Approve{Key: signer, Name: p.name, Attempt: a.Attempt, Envelope: b.Answer.Encode()})
	}
	reply, err := r.apply(to, q, lifecycle.Answer{Key: signer, Name: p.name, Attempt: a.Attempt, Sealed: a.Sealed.String(), Envelope: b.Answer.Encode()})
	if err == nil && q.rec.State == lifecycle.StateAnswered {
		r.send(b.Key, wire.Hint{Hint: wire.HintAnswer, Key: b.Key, Rev: q.rev, Envelope: &b.Answer, Sealed: b.Sealed})
	}
	return reply, err
}

func (r *liar) page(desk string, query wire.PendingQuery) wire.Reply {
	var items []wire.Item
	for _, q := range r.requests {
		if q.rec.State.Final() {
			continue
		}
		it := wire.Item{Key: q.rec.Key, Request: q.env, State: r.view(desk, q)}
		if r.lies.item == nil || r.lies.item(desk, &it) {
			items = append(items, it)
		}
	}
	if r.lies.more != nil {
		items = append(items, r.lies.more(desk)...)
	}
	items = slices.DeleteFunc(items, func(it wire.Item) bool { return it.Key <= query.After })
	slices.SortFunc(items, func(a, b wire.Item) int { return strings.Compare(a.Key, b.Key) })
	page := &wire.Page{Items: items}
	for _, key := range query.Known {
		if q := r.requests[key]; q != nil && q.rec.State.Final() {
			page.Ended = append(page.Ended, wire.Ended{Key: key, State: r.view(desk, q)})
		}
	}
	return wire.Reply{Page: page}
}

// truce ends the lies and every request, so that nothing is left waiting.
func (r *liar) truce() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lies = lies{}
	r.rev += 1_000_000 // above any that was invented
	projects := map[string]bool{}
	for _, q := range r.requests {
		if !q.rec.State.Final() {
			q.rec.State, q.rec.Why = lifecycle.StateCancelled, "the test is over"
		}
		r.rev++
		q.rev = r.rev
		projects[q.request.Project] = true
	}
	for p := range projects {
		r.nudge(p)
	}
}

// newHPKE makes a sealing key of the relay's own.
func (r *liar) newHPKE(t testing.TB) *seal.Key {
	t.Helper()
	k, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hpke = append(r.hpke, k)
	return k
}

// sealed is a code of the relay's own making, sealed to a job and signed by
// whoever it likes.
func sealed(t testing.TB, q *asked, attempt int, by nkeys.KeyPair, code string) (wire.Envelope, wire.Sealed) {
	t.Helper()
	key := wire.PublicKey(by)
	s, err := seal.Close(q.request.HPKE, seal.To{Digest: q.digest, Attempt: attempt, Ask: q.request.Ask, Responder: key}, code)
	if err != nil {
		t.Error(err)
	}
	return signed(t, &wire.Answer{Key: key, Digest: q.digest, Attempt: attempt, Ask: q.request.Ask, Decision: wire.DecisionCode, Sealed: s.Hash()}, by), s
}

func signed(t testing.TB, body wire.Body, by nkeys.KeyPair) wire.Envelope {
	t.Helper()
	env, err := wire.Sign(body, by)
	if err != nil {
		t.Error(err)
	}
	return env
}

// forged is env's body, changed, under the signature of the old one.
func forged(t testing.TB, env wire.Envelope, change func(map[string]any)) wire.Envelope {
	t.Helper()
	var body map[string]any
	d := json.NewDecoder(bytes.NewReader(env.Body))
	d.UseNumber()
	if err := d.Decode(&body); err != nil {
		t.Error(err)
		return env
	}
	change(body)
	raw, err := json.Marshal(body)
	if err != nil {
		t.Error(err)
	}
	if bytes.Equal(raw, env.Body) {
		t.Error("the forgery changes nothing")
	}
	env.Body = raw
	return env
}

// canRead is what the relay makes of all it saw: each of codes that it finds in
// the bytes, or by opening each sealed answer with each key that it made, for
// each request, attempt and responder that it knows of.
func (r *liar) canRead(codes []string, seen ...[]byte) (found []string) {
	for _, code := range codes {
		for _, s := range spellings(code) {
			for _, b := range seen {
				if bytes.Contains(b, s) {
					found = append(found, code)
				}
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, k := range r.hpke {
		for _, b := range r.boxes {
			for _, q := range r.requests {
				for attempt := 1; attempt <= 4; attempt++ {
					for signer := range r.names {
						code, err := k.Open(b.sealed, seal.To{Digest: q.digest, Attempt: attempt, Ask: b.body.Ask, Responder: signer})
						if err == nil && slices.Contains(codes, code) {
							found = append(found, code)
						}
					}
				}
			}
		}
	}
	return found
}

// play is one run of one script: the liar and everybody who uses it.
type play struct {
	t     *testing.T
	lying bool
	g     *ground
	bell  *bell
	relay *liar
	jobs  *tap // between jobs and the relay
	desks *tap // between responders and the relay
	ana   *responder
	bob   *responder // there but not listening yet
	job   *ciJob     // of the home repository, not asking yet

	mu   sync.Mutex
	all  []*ciJob
	here []*responder
}

// script is what a test does, with the lie and without it.
type script struct {
	name string
	// ask changes what the job asks.
	ask func(*play, *ask.Config)
	// acts plays it. p.lying says whether the relay lies.
	acts func(*testing.T, *play)
	// like names the scripts that are the same but for the lie, so that one run
	// without it is the control of them all. "": there are no others.
	like string
}

// plays runs each script with the lie, and again without it as the control.
func plays(t *testing.T, scripts []script) {
	t.Helper()
	var scenes []scene
	controls := map[string]bool{}
	for _, s := range scripts {
		for _, lying := range []bool{true, false} {
			name := s.name
			if !lying {
				if s.like != "" {
					name = s.like
				}
				if controls[name] {
					continue
				}
				controls[name] = true
				name += ", but it does not"
			}
			scenes = append(scenes, scene{name, func(t *testing.T) {
				p := newPlay(t, lying, s.ask)
				defer p.relay.truce() // so that no desk stays for an answer
				s.acts(t, p)
				p.checks()
			}})
		}
	}
	together(t, 8, scenes)
}

func newPlay(t *testing.T, lying bool, change func(*play, *ask.Config)) *play {
	t.Helper()
	p := &play{t: t, lying: lying, g: theGround(t), bell: newBell()}
	p.relay = newLiar(t, p.bell)
	p.jobs = newTap(t, p.bell, p.relay.server.Addr().String())
	p.desks = newTap(t, p.bell, p.relay.server.Addr().String())
	p.ana, p.bob = newResponder(t, p.bell, "Ana"), newResponder(t, p.bell, "Bob")
	p.ana.readsLog = func(id string) string { return p.logOf(id) }
	p.bob.readsLog = p.ana.readsLog
	p.relay.enrols(p.ana)
	p.relay.enrols(p.bob)
	p.job = p.another(homeRepo, func(c *ask.Config) {
		if change != nil {
			change(p, c)
		}
	})
	p.listens(p.ana)
	return p
}

// logOf is the match code that a human reads in the log of the job that they
// started; of a request that nobody started, in the log that they have.
func (p *play) logOf(id string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, j := range p.all {
		if j.id() == id {
			return j.match()
		}
	}
	return p.job.match()
}

// another makes one more job.
func (p *play) another(repo string, change func(*ask.Config)) *ciJob {
	p.t.Helper()
	j := p.g.job(p.t, p.bell, p.jobs.relay(p.t, hostName), repo, change)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, j)
	return j
}

func (p *play) listens(r *responder) {
	p.t.Helper()
	p.mu.Lock()
	p.here = append(p.here, r)
	p.mu.Unlock()
	r.listens(p.t, p.g, p.desks.relay(p.t, hostName), p.g.pins(p.t, homeProject))
}

// lies installs a lie, in the lying run only.
func (p *play) lies(l lies) {
	if p.lying {
		p.relay.do(func() { p.relay.lies = l })
	}
}

// succeeds plays a request from the job's asking to its end.
func (p *play) succeeds(j *ciJob) {
	p.t.Helper()
	j.asks()
	p.arrives(j, p.ana.answers(p.t, j.id(), 1), 1)
}

// arrives waits until the job has that code, and ends the request well.
func (p *play) arrives(j *ciJob, code string, attempt int) {
	p.t.Helper()
	a := j.takes(p.t)
	if a.Code() != code || a.Attempt != attempt {
		p.t.Errorf("the job took an answer to attempt %d, and the human's code: %v", a.Attempt, a.Code() == code)
	}
	j.finishes(p.t)
}

// asksInVain lets the job ask, waits until the human has seen through the lie,
// and ends it. The eager human would have answered whatever they could.
func (p *play) asksInVain(seesThrough func()) {
	p.t.Helper()
	p.ana.mu.Lock()
	p.ana.eager = true
	p.ana.mu.Unlock()
	p.job.asks()
	seesThrough()
	p.unanswered()
	p.job.waitsStill(p.t)
}

// unanswered checks that no code left the human.
func (p *play) unanswered() {
	p.t.Helper()
	for _, r := range p.here {
		for _, g := range r.gave() {
			p.t.Errorf("%s answered attempt %d of %s", r.name, g.attempt, g.id)
		}
	}
	p.relay.do(func() {
		if n := len(p.relay.boxes); n > 0 {
			p.t.Errorf("%d sealed answers left", n)
		}
	})
}

// checks holds everything that happened against what must never happen.
func (p *play) checks() {
	p.t.Helper()
	var all []given
	var codes []string
	for _, r := range p.here {
		for _, g := range r.gave() {
			if all = append(all, g); g.code != "" { // a yes is no secret
				codes = append(codes, g.code)
			}
		}
		for _, shown := range r.prompts() {
			p.isTrue(r, shown)
		}
	}
	p.relay.mu.Lock()
	own := slices.Clone(p.relay.own)
	p.relay.mu.Unlock()
	for _, j := range p.all {
		a, _, _ := j.result()
		meant := func(g given) bool { return g.id == j.id() && g.attempt == a.Attempt && g.code == a.Code() }
		if a.Code() != "" && !slices.ContainsFunc(all, meant) && !slices.Contains(own, a.Code()) {
			p.t.Error("a job took a code that nobody gave for this attempt of its request")
		}
	}
	if found := p.relay.canRead(codes, p.jobs.bytesSeen(), p.desks.bytesSeen()); len(found) > 0 {
		p.t.Errorf("the relay can read %d codes", len(found))
	}
}

// isTrue checks one snapshot against the job that it is about.
func (p *play) isTrue(r *responder, s answer.Prompt) {
	p.t.Helper()
	if s.Answerable && s.Standing != answer.Verified {
		p.t.Errorf("%s may answer a prompt that is %s", r.name, s.Standing)
	}
	switch s.Standing {
	case answer.Verified, answer.Foreign, answer.Unpinned:
	default:
		if s.Facts != (answer.Facts{}) || s.Message != "" || s.Service != "" || s.Format != "" || s.Match != "" || s.Reason != "" {
			p.t.Errorf("%s is shown something of a prompt that is %s: %+v", r.name, s.Standing, s)
		}
		return
	}
	at := slices.IndexFunc(p.all, func(j *ciJob) bool { return j.id() == s.ID })
	if at < 0 {
		p.t.Errorf("%s is shown as %s what no job asked: %+v", r.name, s.Standing, s)
		return
	}
	j := p.all[at]
	claim := func(name string) string { v, _ := j.claims[name].(string); return v }
	repo, _, _ := strings.Cut(claim("workflow_ref"), "@")
	for what, v := range map[string][2]string{
		"project":     {s.Project, j.config.Project},
		"message":     {s.Message, j.config.Message},
		"service":     {s.Service, j.config.Service},
		"repository":  {s.Facts.Repository, claim("repository")},
		"workflow":    {claim("repository") + "/" + s.Facts.WorkflowFile, repo},
		"ref":         {s.Facts.Ref, claim("ref")},
		"commit":      {s.Facts.SHA, claim("sha")},
		"environment": {s.Facts.Environment, claim("environment")},
		"event":       {s.Facts.Event, claim("event_name")},
		"actor":       {s.Facts.Actor, claim("actor")},
		"run":         {s.Facts.RunID, claim("run_id")},
	} {
		if v[0] != v[1] {
			p.t.Errorf("%s is shown the %s %q as %s; it is %q", r.name, what, v[0], s.Standing, v[1])
		}
	}
	if format, err := wire.ParseFormat(j.config.Format); err != nil || s.Format != format.String() {
		p.t.Errorf("%s is shown the format %q", r.name, s.Format)
	}
	if s.Match != "" && s.Match != j.match() || s.Match == "" && !s.TypeMatch {
		p.t.Errorf("%s is shown the match code %q; in the job's log stands %q", r.name, s.Match, j.match())
	}
	if reason, began := j.attempts()[s.Attempt]; !began || s.Reason != reason {
		p.t.Errorf("%s is shown attempt %d (%s), which the job did not begin", r.name, s.Attempt, s.Reason)
	}
	if latest := s.Since.Add(j.config.Timeout + time.Second); s.Deadline.After(latest) {
		p.t.Errorf("%s is shown that there is time until %s, long after the job's own end at %s", r.name, s.Deadline, latest)
	}
	if (s.Standing == answer.Foreign) != (claim("repository") != homeRepo) {
		p.t.Errorf("%s is shown %s as %s", r.name, claim("repository"), s.Standing)
	}
}

// raw is v as the protocol spells bytes.
func raw(v []byte) string {
	out, _ := json.Marshal(wire.Bytes(v))
	return strings.Trim(string(out), `"`)
}

func TestAHostileRelayCannotChangeWhatAJobAsks(t *testing.T) {
	t.Parallel()
	plays(t, []script{
		{"changes what the job signed", func(p *play, c *ask.Config) { c.Responders, c.TypeMatch = []string{p.ana.signer()}, true }, func(t *testing.T, p *play) {
			p.ana.leaves(t)
			p.job.asks()
			own := p.relay.newHPKE(t)
			for name, change := range map[string]func(body map[string]any){
				"swaps the sealing key":              func(b map[string]any) { b["hpke"] = raw(own.Public()) },
				"changes the message":                func(b map[string]any) { b["message"] = "nothing to see here" },
				"changes the project":                func(b map[string]any) { b["project"] = "boat" },
				"changes the service":                func(b map[string]any) { b["service"] = "rubygems" },
				"changes the format":                 func(b map[string]any) { b["format"] = "any" },
				"changes the kind":                   func(b map[string]any) { b["ask"] = wire.AskApproval },
				"changes when it was made":           func(b map[string]any) { b["made"] = time.Now().Unix() + 7 },
				"gives more time":                    func(b map[string]any) { b["deadline"] = time.Now().Add(5 * time.Hour).Unix() },
				"lets any responder answer":          func(b map[string]any) { delete(b, "responders") },
				"needs no typed match code":          func(b map[string]any) { delete(b, "type_match") },
				"names another run":                  func(b map[string]any) { b["proof"].(map[string]any)["run_id"] = "1" },
				"adds a space, for a new match code": func(b map[string]any) { b["message"] = b["message"].(string) + " " },
			} {
				if !p.lying {
					break
				}
				t.Run(name, func(t *testing.T) {
					p.lies(lies{item: func(_ string, it *wire.Item) bool {
						it.Request = forged(t, it.Request, change)
						return true
					}})
					r := p.ana.again() // who has seen nothing of it yet
					r.eager = true
					p.listens(r)
					r.notice(t, "not what a job signed: request: signature does not verify")
					if n := len(r.prompts()); n > 0 {
						t.Errorf("it was shown %d times", n)
					}
					r.leaves(t)
				})
			}
			p.unanswered()
			p.relay.do(func() { p.relay.lies = lies{} })
			p.ana = p.ana.again()
			p.listens(p.ana)
			p.arrives(p.job, p.ana.answers(t, p.job.id(), 1), 1)
		}, ""},
		{"signs a request of its own under the job's name", nil, func(t *testing.T, p *play) {
			own, mallory := p.relay.newHPKE(t), newUser(t)
			p.lies(lies{item: func(_ string, it *wire.Item) bool {
				body := p.relay.requests[it.Key].request
				body.Key, body.HPKE = wire.PublicKey(mallory), own.Public()
				it.Request = signed(t, &body, mallory)
				return true
			}})
			if !p.lying {
				p.succeeds(p.job)
				return
			}
			p.asksInVain(func() { p.ana.notice(t, "not what a job signed: request: signature does not verify") })
		}, "passes on another request"},
		{"asks under a key of its own with the job's token", nil, func(t *testing.T, p *play) {
			own, mallory := p.relay.newHPKE(t), newUser(t)
			id := wire.PublicKey(mallory)
			p.lies(lies{
				item: func(string, *wire.Item) bool { return false },
				more: func(desk string) (out []wire.Item) {
					for _, q := range p.relay.requests {
						body := q.request
						body.Key, body.HPKE = id, own.Public()
						out = append(out, wire.Item{Key: id, Request: signed(t, &body, mallory), State: p.relay.view(desk, q)})
					}
					return out
				},
				take: func(m message) (*wire.Reply, bool) {
					if !m.desk || m.verb != wire.VerbOpen {
						return nil, false
					}
					c := p.relay.challenge(m.key)
					env := signed(t, &wire.Alive{Key: id, Digest: c.Digest, Attempt: 1, Reason: wire.ReasonFirst, Nonce: c.Nonce, Connect: c.Connect, Responder: c.Key}, mallory)
					for _, token := range p.relay.tokens {
						p.relay.push(m.key, wire.Hint{Hint: wire.HintAlive, Key: id, Envelope: &env, Token: token})
					}
					return &wire.Reply{}, true
				},
			})
			if !p.lying {
				p.succeeds(p.job)
				return
			}
			p.asksInVain(func() {
				p.ana.saw(t, id, "the token speaks for another key", unproven("speaks for the key "+p.quoted()))
			})
		}, "passes on another request"},
		{"passes on a request that was made for another relay", nil, func(t *testing.T, p *play) {
			if !p.lying {
				p.succeeds(p.job)
				return
			}
			// Its own job takes it for the other one: the lie is the relay's.
			p.job = p.g.job(t, p.bell, p.jobs.relay(t, "other.test"), homeRepo, nil)
			p.all = append(p.all, p.job)
			p.asksInVain(func() {
				p.ana.saw(t, p.job.id(), "it is for another relay", func(s answer.Prompt) bool { return strings.Contains(s.Why, "made for another relay") })
			})
		}, "passes on another request"},
	})
}

func newUser(t testing.TB) nkeys.KeyPair {
	t.Helper()
	k, err := wire.NewConnectKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// quoted is how a verifier quotes the job's key.
func (p *play) quoted() string { return `"` + p.job.id() + `"` }

// challenge is a desk's newest.
func (r *liar) challenge(desk string) wire.Challenge {
	c, err := wire.Open[wire.Challenge](r.openings[desk].Challenge, r.desks[desk].signer())
	if err != nil {
		r.t.Error(err)
	}
	return c
}

// unproven says that a prompt is not proved, and that the human is told so with
// these words.
func unproven(why string) func(answer.Prompt) bool {
	return func(s answer.Prompt) bool { return s.Standing == answer.Unproven && strings.Contains(s.Why, why) }
}

func TestAHostileRelayCannotProveWhatIsNotSo(t *testing.T) {
	t.Parallel()
	// Beside the job's own proof of life.
	tokens := map[string]struct {
		claims func(p *play) map[string]any
		why    string
	}{
		"shows an old token of the same job": {func(*play) map[string]any {
			past := time.Now().Add(-20 * time.Minute).Unix()
			return map[string]any{"iat": past, "nbf": past, "exp": time.Now().Add(time.Hour).Unix()}
		}, "issued"},
		"shows an expired token of the same job": {func(*play) map[string]any {
			past := time.Now().Add(-7 * time.Minute).Unix()
			return map[string]any{"iat": past, "nbf": past, "exp": past + 60}
		}, "expired"},
		"shows a token of another run": {func(*play) map[string]any { return map[string]any{"run_id": "1"} }, "its run_id is"},
		// Anybody can have their own CI name the job's key.
		"shows a token of its own repository that names the job's key": {func(p *play) map[string]any {
			return devissuer.GitHubClaims("mallory/rocket", map[string]any{"aud": wire.Audience(hostName, p.job.id())})
		}, "of another job than the request"},
		"downgrades to a token that names no key":  {func(*play) map[string]any { return map[string]any{"aud": wire.UnboundAudience(hostName)} }, "names no key"},
		"shows a token that was made for a cloud":  {func(*play) map[string]any { return map[string]any{"aud": "sts.amazonaws.com"} }, "audience is"},
		"shows a token that was for another relay": {func(p *play) map[string]any { return map[string]any{"aud": wire.Audience("other.test", p.job.id())} }, "audience is"},
		"shows a token of another key": {func(p *play) map[string]any {
			return map[string]any{"aud": wire.Audience(hostName, wire.PublicKey(newUser(p.t)))}
		}, "speaks for the key"},
	}
	// Beside the job's own token.
	proofs := map[string]struct {
		alive func(t *testing.T, p *play, env wire.Envelope) wire.Envelope
		why   string
	}{
		"signs the proof of life itself": {func(t *testing.T, _ *play, env wire.Envelope) wire.Envelope {
			return pressed(t, env, newUser(t))
		}, "not one that the job's key signed"},
		"changes the attempt in the proof of life": {func(t *testing.T, _ *play, env wire.Envelope) wire.Envelope {
			return forged(t, env, func(b map[string]any) { b["attempt"], b["reason"] = 2, wire.ReasonRejected })
		}, "not one that the job's key signed"},
		"changes the nonce in the proof of life": {func(t *testing.T, _ *play, env wire.Envelope) wire.Envelope {
			return forged(t, env, func(b map[string]any) { b["nonce"] = raw(make([]byte, 16)) })
		}, "not one that the job's key signed"},
		"calls the job's request a proof of life": {func(_ *testing.T, p *play, env wire.Envelope) wire.Envelope {
			env = p.relay.requests[p.job.id()].env
			env.Kind = wire.KindAlive
			return env
		}, "not one that the job's key signed"},
	}
	plays(t, []script{
		{"passes on another proof than the job gave", nil, func(t *testing.T, p *play) {
			p.job.asks()
			// Each time to a responder who has not asked before, so that no
			// challenge has to wait for the one before.
			fools := func(name, why string, change func(t *testing.T, h *wire.Hint)) {
				if !p.lying {
					return
				}
				t.Run(name, func(t *testing.T) {
					r := newResponder(t, p.bell, name)
					r.readsLog, r.eager = p.logOf, true
					p.relay.enrols(r)
					p.lies(lies{hint: func(to string, h *wire.Hint) bool {
						if h.Hint == wire.HintAlive && to == r.key() {
							change(t, h)
						}
						return true
					}})
					p.listens(r)
					r.saw(t, p.job.id(), "the proof is not right", unproven(why))
					r.leaves(t)
				})
			}
			for name, c := range tokens {
				claims := maps.Clone(p.job.claims)
				claims["aud"] = wire.Audience(hostName, p.job.id())
				maps.Copy(claims, c.claims(p))
				token, err := p.g.issuer.Mint(claims)
				if err != nil {
					t.Fatal(err)
				}
				fools(name, c.why, func(_ *testing.T, h *wire.Hint) { h.Token = token })
			}
			for name, c := range proofs {
				fools(name, c.why, func(t *testing.T, h *wire.Hint) {
					env := c.alive(t, p, *h.Envelope)
					h.Envelope = &env
				})
			}
			p.unanswered()
			p.relay.do(func() { p.relay.lies = lies{} })
			p.arrives(p.job, p.ana.answers(t, p.job.id(), 1), 1)
		}, ""},
		{"proves one job with the proof of another", nil, func(t *testing.T, p *play) {
			other := p.another(homeRepo, nil)
			p.lies(lies{hint: func(to string, h *wire.Hint) bool {
				if h.Hint == wire.HintAlive && h.Key == other.id() {
					h.Key = p.job.id()
				}
				return h.Hint != wire.HintAlive || p.relay.tokens[other.id()] == h.Token
			}})
			other.asks()
			if !p.lying {
				p.arrives(other, p.ana.answers(t, other.id(), 1), 1)
				p.succeeds(p.job)
				return
			}
			p.asksInVain(func() { p.ana.saw(t, p.job.id(), "the proof is of another key", unproven("speaks for the key")) })
		}, ""},
		{"replays an old proof of life to who asked for it", nil, func(t *testing.T, p *play) {
			p.job.asks()
			p.ana.saw(t, p.job.id(), "the job proves itself", func(s answer.Prompt) bool { return s.Answerable })
			p.ana.leaves(t)
			p.lies(lies{hint: p.relay.replaysAlive(p.job.id())})
			p.ana = p.ana.again() // and opens the prompt anew
			p.ana.eager = p.lying
			p.listens(p.ana)
			if !p.lying {
				p.arrives(p.job, p.ana.answers(t, p.job.id(), 1), 1)
				return
			}
			p.ana.saw(t, p.job.id(), "the proof is old", unproven("to another challenge"))
			p.unanswered()
			p.job.waitsStill(t)
		}, ""},
		{"replays one responder's proof of life to another", nil, func(t *testing.T, p *play) {
			p.job.asks()
			p.ana.saw(t, p.job.id(), "the job proves itself", func(s answer.Prompt) bool { return s.Answerable })
			p.lies(lies{hint: p.relay.replaysAlive(p.job.id())})
			p.bob.eager = p.lying
			p.listens(p.bob)
			if !p.lying {
				p.arrives(p.job, p.bob.answers(t, p.job.id(), 1), 1)
				return
			}
			p.bob.saw(t, p.job.id(), "the proof is another's", unproven("to another challenge"))
			p.unanswered()
			p.arrives(p.job, p.ana.answers(t, p.job.id(), 1), 1) // whom it did not lie to
		}, ""},
		{"replays the request of a job that has ended", nil, func(t *testing.T, p *play) {
			p.succeeds(p.job) // all of it passes through the relay
			old := p.job
			p.ana.sees(t, old.id(), "it is over", func(s answer.Prompt) bool { return s.Phase == answer.Over })
			if !p.lying {
				p.job = p.another(homeRepo, nil)
				p.succeeds(p.job)
				return
			}
			p.lies(lies{
				more: func(string) []wire.Item {
					q := p.relay.requests[old.id()]
					return []wire.Item{{Key: old.id(), Request: q.env, State: wire.State{
						Rev: q.rev + 1000, State: "pending", Attempt: 1, Reason: wire.ReasonFirst, Deadline: q.request.Deadline,
					}}}
				},
				take: func(m message) (*wire.Reply, bool) {
					if !m.desk || m.verb != wire.VerbOpen {
						return nil, false
					}
					for _, a := range p.relay.alives {
						p.relay.push(m.key, wire.Hint{Hint: wire.HintAlive, Key: old.id(), Envelope: &a.env, Token: a.token})
					}
					return &wire.Reply{}, true
				},
			})
			again := p.ana.again()
			p.relay.do(func() { p.relay.nudge(homeProject) })
			p.ana.saw(t, old.id(), "the proof is old", unproven("to another challenge"))
			p.ana.leaves(t)
			again.eager = true
			p.listens(again)
			again.saw(t, old.id(), "the proof is old", unproven("to another challenge"))
			if n := len(again.gave()) + len(p.ana.gave()); n != 1 {
				t.Errorf("the human answered %d times", n)
			}
		}, ""},
		{"puts another repository's honest request under the project", nil, func(t *testing.T, p *play) {
			if !p.lying {
				p.succeeds(p.job)
				return
			}
			p.job = p.another("mallory/rocket", nil)
			p.asksInVain(func() {
				p.ana.saw(t, p.job.id(), "it is another repository", func(s answer.Prompt) bool {
					return s.Standing == answer.Foreign && s.Facts.Repository == "mallory/rocket" && strings.Contains(s.Why, "repository_id")
				})
			})
		}, "proves what is not so"},
		{"puts a request under a project that the human does not know", nil, func(t *testing.T, p *play) {
			if !p.lying {
				p.succeeds(p.job)
				return
			}
			p.job = p.another(homeRepo, func(c *ask.Config) { c.Project = "boat" })
			p.asksInVain(func() {
				p.relay.awaits(t, "the request", func() bool { return p.relay.requests[p.job.id()] != nil })
				p.relay.do(func() { p.relay.nudge(homeProject) }) // the desk does not listen to that project
				p.ana.saw(t, p.job.id(), "nothing is known of it", func(s answer.Prompt) bool { return s.Standing == answer.Unpinned })
			})
		}, "proves what is not so"},
	})
}

// replaysAlive is a lie: each proof of life is replaced by the first that the
// job ever gave.
func (r *liar) replaysAlive(id string) func(string, *wire.Hint) bool {
	return func(_ string, h *wire.Hint) bool {
		if h.Hint == wire.HintAlive && h.Key == id {
			h.Envelope, h.Token = &r.alives[0].env, r.alives[0].token
		}
		return true
	}
}

// pressed is env under a signature by another key, over what a signature covers.
func pressed(t testing.TB, env wire.Envelope, by nkeys.KeyPair) wire.Envelope {
	t.Helper()
	sig, err := by.Sign(coveredBy(env.Kind, env.Body))
	if err != nil {
		t.Error(err)
	}
	env.Sig = sig
	return env
}

// coveredBy is what a signature of that kind covers, as PROTOCOL.md says it: the
// relay does not need our own code to make it.
func coveredBy(kind wire.Kind, body []byte) []byte {
	sum := sha256.Sum256(body)
	return append([]byte("\xFFcfa/v1/"+string(kind)+"\x00"), sum[:]...)
}

func newSigner(t testing.TB) nkeys.KeyPair {
	t.Helper()
	k, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestAHostileRelayCannotAnswerForAPinnedResponder(t *testing.T) {
	t.Parallel()
	pinned := func(p *play, c *ask.Config) { c.Responders = []string{p.ana.signer()} }
	// In place of the genuine answer.
	forgeries := map[string]struct {
		forge func(t *testing.T, p *play, q *asked, h wire.Hint, own nkeys.KeyPair) wire.Hint
		drops string
	}{
		"seals a code of its own and signs it with a key of its own": {func(t *testing.T, p *play, q *asked, h wire.Hint, own nkeys.KeyPair) wire.Hint {
			env, s := sealed(t, q, 1, own, freshCode())
			h.Envelope, h.Sealed = &env, &s
			return h
		}, "an answer of a key that this job does not accept"},
		"signs the human's sealed code anew": {func(t *testing.T, p *play, q *asked, h wire.Hint, own nkeys.KeyPair) wire.Hint {
			env := signed(t, &wire.Answer{Key: wire.PublicKey(own), Digest: q.digest, Attempt: 1, Ask: wire.AskCode, Decision: wire.DecisionCode, Sealed: h.Sealed.Hash()}, own)
			h.Envelope = &env
			return h
		}, "an answer of a key that this job does not accept"},
		"puts a signature of its own under the human's name": {func(t *testing.T, p *play, q *asked, h wire.Hint, own nkeys.KeyPair) wire.Hint {
			_, s := sealed(t, q, 1, p.ana.sign, freshCode()) // whoever seals can name any responder
			env := forged(t, *h.Envelope, func(b map[string]any) { b["sealed"] = s.Hash().String() })
			env = pressed(t, env, own)
			h.Envelope, h.Sealed = &env, &s
			return h
		}, "an answer whose signature is not by the key it names"},
		"puts a code of its own under the human's signature": {func(t *testing.T, p *play, q *asked, h wire.Hint, own nkeys.KeyPair) wire.Hint {
			_, s := sealed(t, q, 1, p.ana.sign, freshCode())
			h.Sealed = &s
			return h
		}, "an answer without the sealed code that was signed"},
		"leaves the sealed code out": {func(t *testing.T, p *play, q *asked, h wire.Hint, own nkeys.KeyPair) wire.Hint {
			h.Sealed = nil
			return h
		}, "an answer without the sealed code that was signed"},
		"damages the sealed code": {func(t *testing.T, p *play, q *asked, h wire.Hint, own nkeys.KeyPair) wire.Hint {
			s := wire.Sealed{Enc: h.Sealed.Enc, Ciphertext: bytes.Clone(h.Sealed.Ciphertext)}
			s.Ciphertext[7] ^= 1
			h.Sealed = &s
			return h
		}, "an answer without the sealed code that was signed"},
		"changes the attempt": {func(t *testing.T, p *play, q *asked, h wire.Hint, own nkeys.KeyPair) wire.Hint {
			env := forged(t, *h.Envelope, func(b map[string]any) { b["attempt"] = 2 })
			h.Envelope = &env
			return h
		}, "an answer whose signature is not by the key it names"},
		"makes an approval of it": {func(t *testing.T, p *play, q *asked, h wire.Hint, own nkeys.KeyPair) wire.Hint {
			env := forged(t, *h.Envelope, func(b map[string]any) { b["decision"] = wire.DecisionYes })
			h.Envelope = &env
			return h
		}, "an answer whose signature is not by the key it names"},
		"calls the human's challenge an answer": {func(t *testing.T, p *play, q *asked, h wire.Hint, own nkeys.KeyPair) wire.Hint {
			env := p.relay.openings[p.ana.key()].Challenge
			env.Kind = wire.KindAnswer
			h.Envelope = &env
			return h
		}, "an answer whose signature is not by the key it names"},
		"opens the prompt itself": {func(t *testing.T, p *play, q *asked, h wire.Hint, own nkeys.KeyPair) wire.Hint {
			env := signed(t, &wire.Challenge{Key: wire.PublicKey(own), Connect: p.bob.key(), Digest: q.digest, Nonce: make([]byte, 16)}, own)
			return wire.Hint{Hint: wire.HintChallenge, Key: h.Key, Envelope: &env}
		}, "a challenge of a key that this job does not accept"},
		"lets another enrolled responder answer": {func(t *testing.T, p *play, q *asked, h wire.Hint, own nkeys.KeyPair) wire.Hint {
			env, s := sealed(t, q, 1, p.bob.sign, freshCode())
			h.Envelope, h.Sealed = &env, &s
			return h
		}, "an answer of a key that this job does not accept"},
	}
	plays(t, []script{
		{"forges an answer", pinned, func(t *testing.T, p *play) {
			own := newSigner(t)
			p.relay.do(func() { p.relay.names[wire.PublicKey(own)] = true })
			var genuine *wire.Hint
			p.lies(lies{hint: func(_ string, h *wire.Hint) bool {
				if h.Hint == wire.HintAnswer {
					genuine = h
				}
				return h.Hint != wire.HintAnswer
			}})
			p.job.asks()
			code := p.ana.answers(t, p.job.id(), 1)
			if p.lying {
				p.relay.awaits(t, "the answer", func() bool { return genuine != nil })
				for name, c := range forgeries {
					t.Run(name, func(t *testing.T) {
						before := strings.Count(p.job.log(), c.drops)
						p.relay.do(func() {
							p.relay.push(p.job.id(), c.forge(t, p, p.relay.requests[p.job.id()], *genuine, own))
						})
						p.bell.await(t, "the job drops "+c.drops, func() bool { return strings.Count(p.job.log(), c.drops) > before })
					})
				}
				p.relay.do(func() {
					p.relay.lies = lies{}
					p.relay.push(p.job.id(), *genuine)
				})
			}
			p.arrives(p.job, code, 1)
		}, ""},
		{"answers with an older attempt's answer", pinned, func(t *testing.T, p *play) {
			p.job.asks()
			p.ana.answers(t, p.job.id(), 1)
			if a := p.job.takes(t); a.Attempt != 1 {
				t.Fatalf("answer %v", a)
			}
			if err := p.job.session.Reject(t.Context()); err != nil {
				t.Fatal(err)
			}
			old := func() (wire.Envelope, wire.Sealed) { return p.relay.boxes[0].env, p.relay.boxes[0].sealed }
			p.lies(lies{hint: func(to string, h *wire.Hint) bool {
				if h.Hint == wire.HintAnswer { // the new answer with the old code
					_, s := old()
					p.relay.push(to, wire.Hint{Hint: wire.HintAnswer, Key: h.Key, Envelope: h.Envelope, Sealed: &s})
				}
				return true
			}})
			p.job.asks()
			if p.lying {
				p.relay.do(func() {
					env, s := old()
					p.relay.push(p.job.id(), wire.Hint{Hint: wire.HintAnswer, Key: p.job.id(), Envelope: &env, Sealed: &s})
				})
				p.job.tells(t, "an answer to attempt 1, which is over")
			}
			p.arrives(p.job, p.ana.answers(t, p.job.id(), 2), 2)
			if p.lying {
				p.job.tells(t, "an answer without the sealed code that was signed")
			}
		}, ""},
		{"moves a sealed code to another request", pinned, func(t *testing.T, p *play) {
			other := p.another(homeRepo, func(c *ask.Config) { c.Responders = []string{p.ana.signer()} })
			own := newSigner(t)
			p.lies(lies{hint: func(_ string, h *wire.Hint) bool {
				if h.Hint == wire.HintAnswer && h.Key == p.job.id() {
					moved := *h
					moved.Key = other.id()
					p.relay.push(other.id(), moved)
					env := signed(t, &wire.Answer{Key: wire.PublicKey(own), Digest: p.relay.requests[other.id()].digest, Attempt: 1, Ask: wire.AskCode, Decision: wire.DecisionCode, Sealed: h.Sealed.Hash()}, own)
					moved.Envelope = &env
					p.relay.push(other.id(), moved)
				}
				return true
			}})
			other.asks()
			p.relay.awaits(t, "the other request", func() bool { return p.relay.requests[other.id()] != nil })
			p.succeeds(p.job)
			if p.lying {
				other.tells(t, "an answer to another request")
				other.tells(t, "an answer of a key that this job does not accept")
			}
			p.arrives(other, p.ana.answers(t, other.id(), 1), 1)
		}, ""},
		{"replays and reorders everything", pinned, func(t *testing.T, p *play) {
			told := map[string][]wire.Hint{}
			first := map[string]wire.State{}
			states, replays := 0, 0
			p.lies(lies{
				hint: func(to string, h *wire.Hint) bool {
					p.relay.push(to, *h)
					for _, old := range slices.Backward(told[to]) {
						p.relay.push(to, old)
						replays++
					}
					told[to] = append(told[to], *h)
					return false
				},
				state: func(to, id string, s *wire.State) {
					if old, ok := first[to+id]; !ok {
						first[to+id] = *s
					} else if states++; states%2 == 0 {
						*s = old
					}
				},
			})
			p.succeeds(p.job)
			if p.lying {
				p.relay.do(func() {
					if replays < 3 || states < 2 {
						t.Errorf("%d hints were replayed and %d states reordered", replays, states/2)
					}
				})
			}
			if n := len(p.ana.gave()); n != 1 {
				t.Errorf("the human answered %d times", n)
			}
		}, ""},
	})
}

func TestAHostileRelayCannotMakeAHumanAnswerForNothing(t *testing.T) {
	t.Parallel()
	// The relay says that another attempt is open. Each time somebody else opens
	// it, who has asked nothing before, so that no job puts them off.
	invents := func(t *testing.T, p *play, reason string) *responder {
		r := newResponder(t, p.bell, reason)
		r.readsLog, r.eager = p.logOf, true
		p.relay.enrols(r)
		p.lies(lies{state: func(_, _ string, s *wire.State) {
			*s = wire.State{Rev: s.Rev + 1000, State: "pending", Attempt: 2, Reason: reason, Deadline: s.Deadline, Ready: s.Ready, Enrolled: s.Enrolled}
		}})
		p.relay.do(func() { p.relay.nudge(homeProject) })
		p.listens(r)
		if p.lying { // who has a proof, for another attempt, is told as well
			p.ana.saw(t, p.job.id(), "there is an attempt 2", func(s answer.Prompt) bool { return s.Attempt == 2 })
		}
		return r
	}
	plays(t, []script{
		{"invents that the attempt is over, though the job holds its answer", nil, func(t *testing.T, p *play) {
			p.job.asks()
			code := p.ana.answers(t, p.job.id(), 1)
			p.job.takes(t) // and uses it now
			for _, reason := range []string{wire.ReasonRejected, wire.ReasonUndelivered, wire.ReasonNext} {
				if !p.lying {
					break
				}
				t.Run(reason, func(t *testing.T) {
					r := invents(t, p, reason)
					r.saw(t, p.job.id(), "attempt 2 is being checked", func(s answer.Prompt) bool { return s.Attempt == 2 && s.Standing == answer.Checking })
					p.relay.awaits(t, "the challenge", func() bool { return p.relay.heard(r.key(), wire.VerbOpen) > 0 })
					p.settles(t, p.job)
					for _, s := range append(r.prompts(), p.ana.prompts()...) {
						if s.Attempt > 1 && s.Standing == answer.Verified {
							t.Errorf("attempt %d is shown as verified", s.Attempt)
						}
					}
					p.relay.do(func() {
						for _, a := range p.relay.alives {
							if a.body.Attempt != 1 || a.body.Connect != p.ana.key() {
								t.Errorf("the job proved itself to %s for attempt %d", a.body.Connect, a.body.Attempt)
							}
						}
					})
					r.leaves(t)
				})
			}
			p.arrives(p.job, code, 1)
			given := 0
			for _, r := range p.here {
				given += len(r.gave())
			}
			if given != 1 {
				t.Errorf("the humans gave %d codes", given)
			}
		}, ""},
		{"invents an attempt before there is an answer", nil, func(t *testing.T, p *play) {
			p.job.asks()
			p.ana.saw(t, p.job.id(), "the job proves itself", func(s answer.Prompt) bool { return s.Answerable })
			for _, reason := range []string{wire.ReasonRejected, wire.ReasonNext} {
				if !p.lying {
					break
				}
				t.Run(reason, func(t *testing.T) {
					r := invents(t, p, reason)
					r.saw(t, p.job.id(), "the two disagree", unproven("the job says that it asks for attempt 1, the relay says 2"))
					p.settles(t, p.job)
					p.job.tells(t, "which this job never signed; this job stays at attempt 1")
					r.leaves(t)
				})
			}
			p.unanswered()
			// An honest relay's word is older than those that were invented.
			p.relay.do(func() {
				p.relay.lies = lies{}
				p.relay.rev += 10_000
				p.relay.requests[p.job.id()].rev = p.relay.rev
				p.relay.nudge(homeProject)
			})
			p.arrives(p.job, p.ana.answers(t, p.job.id(), 1), 1)
		}, ""},
		// Only the relay can know that something was not delivered, so this is
		// the one reason for a new attempt that it can invent.
		{"holds an answer back, calls it undelivered, and passes it on after all", nil, func(t *testing.T, p *play) {
			var kept wire.Hint
			p.lies(lies{hint: func(_ string, h *wire.Hint) bool {
				if h.Hint != wire.HintAnswer || kept.Envelope != nil {
					return true
				}
				kept = *h
				return false
			}})
			p.job.asks()
			code := p.ana.answers(t, p.job.id(), 1)
			if !p.lying {
				p.arrives(p.job, code, 1)
				return
			}
			p.relay.awaits(t, "the first answer", func() bool { return kept.Envelope != nil })
			p.relay.do(func() {
				q := p.relay.requests[p.job.id()]
				rec, err := lifecycle.Apply(&q.rec, lifecycle.Undelivered{}, time.Now().Add(lifecycle.UndeliveredAfter))
				if err != nil {
					t.Error(err)
				}
				p.relay.rev++
				q.rec, q.rev = rec, p.relay.rev
				p.relay.changed(q)
			})
			p.ana.sees(t, p.job.id(), "it is asked again, and why", func(s answer.Prompt) bool {
				return s.Attempt == 2 && s.Standing == answer.Verified && s.Reason == wire.ReasonUndelivered
			})
			p.relay.do(func() {
				p.relay.push(p.job.id(), kept)
				mixed := kept
				p.relay.lies.hint = func(to string, h *wire.Hint) bool {
					if h.Hint == wire.HintAnswer {
						mixed.Envelope = h.Envelope
						p.relay.push(to, mixed)
					}
					return true
				}
			})
			p.job.tells(t, "an answer to attempt 1, which is over")
			p.arrives(p.job, p.ana.answers(t, p.job.id(), 2), 2)
			p.job.tells(t, "an answer without the sealed code that was signed")
		}, ""},
	})
}

// settles waits until the job has dealt with every hint that it was sent: it
// takes them in their order, and reads the state at one that says so.
func (p *play) settles(t *testing.T, j *ciJob) {
	t.Helper()
	for range 5 { // a proof of life is made beside, so some rounds more
		var before int
		p.relay.do(func() {
			before = p.relay.heard(j.id(), wire.VerbState)
			p.relay.push(j.id(), wire.Hint{Hint: wire.HintState, Key: j.id()})
		})
		p.relay.awaits(t, "the job reads", func() bool { return p.relay.heard(j.id(), wire.VerbState) > before })
	}
}

func TestAHostileRelayCannotTakeAResponderForAnother(t *testing.T) {
	t.Parallel()
	// In a name of its own, with the human's nonce.
	inItsName := func(t *testing.T, p *play, drops func()) {
		own := newSigner(t)
		p.lies(lies{hint: func(_ string, h *wire.Hint) bool {
			if h.Hint == wire.HintChallenge {
				c := p.relay.challenge(p.ana.key())
				c.Key = wire.PublicKey(own)
				env := signed(t, &c, own)
				h.Envelope = &env
			}
			return true
		}})
		if !p.lying {
			p.succeeds(p.job)
			return
		}
		p.asksInVain(drops)
	}
	forgeries := map[string]func(t *testing.T, p *play, c wire.Challenge, env wire.Envelope) wire.Envelope{
		"puts a connecting key of its own into the challenge": func(t *testing.T, p *play, _ wire.Challenge, env wire.Envelope) wire.Envelope {
			return forged(t, env, func(b map[string]any) { b["connect"] = p.bob.key() })
		},
		"puts a signing key of its own into the challenge": func(t *testing.T, p *play, _ wire.Challenge, env wire.Envelope) wire.Envelope {
			return forged(t, env, func(b map[string]any) { b["key"] = p.bob.signer() })
		},
		"changes the nonce": func(t *testing.T, _ *play, _ wire.Challenge, env wire.Envelope) wire.Envelope {
			return forged(t, env, func(b map[string]any) { b["nonce"] = raw(make([]byte, 16)) })
		},
		"passes on the challenge of another request": func(t *testing.T, p *play, c wire.Challenge, _ wire.Envelope) wire.Envelope {
			c.Digest = wire.Digest{1}
			return signed(t, &c, p.ana.sign) // as the human has signed it for that one
		},
	}
	plays(t, []script{
		{"challenges in a name of its own", nil, func(t *testing.T, p *play) {
			inItsName(t, p, func() {
				p.ana.saw(t, p.job.id(), "the proof is for another", unproven("another responder's challenge"))
			})
		}, ""},
		{"challenges in a name of its own, where responders are pinned", func(p *play, c *ask.Config) { c.Responders = []string{p.ana.signer()} }, func(t *testing.T, p *play) {
			inItsName(t, p, func() { p.job.tells(t, "a challenge of a key that this job does not accept") })
		}, ""},
		{"forges a challenge", nil, func(t *testing.T, p *play) {
			p.job.asks()
			p.ana.saw(t, p.job.id(), "the job proves itself", func(s answer.Prompt) bool { return s.Answerable })
			for name, forge := range forgeries {
				if !p.lying {
					break
				}
				t.Run(name, func(t *testing.T) {
					const drops = "a challenge that is not signed for this request"
					before := strings.Count(p.job.log(), drops)
					p.relay.do(func() {
						env := forge(t, p, p.relay.challenge(p.ana.key()), p.relay.openings[p.ana.key()].Challenge)
						p.relay.push(p.job.id(), wire.Hint{Hint: wire.HintChallenge, Key: p.job.id(), Envelope: &env})
					})
					p.bell.await(t, "the job drops it", func() bool { return strings.Count(p.job.log(), drops) > before })
				})
			}
			p.arrives(p.job, p.ana.answers(t, p.job.id(), 1), 1)
			p.relay.do(func() {
				if n := len(p.relay.alives); n != 1 {
					t.Errorf("the job proved itself %d times", n)
				}
			})
		}, ""},
	})
}

func TestAFalseEndNeverEndsAJobWell(t *testing.T) {
	t.Parallel()
	pinned := func(p *play, c *ask.Config) { c.Responders = []string{p.ana.signer()} }
	// Long enough for a busy machine to show the prompt.
	short := func(p *play, c *ask.Config) {
		if p.lying {
			c.Timeout = 20 * time.Second
		}
	}
	// These wait longest, and so begin first.
	scripts := []script{
		{"gives more time than the job has", short, func(t *testing.T, p *play) {
			p.lies(lies{state: func(_, _ string, s *wire.State) { s.Deadline += 3600 }})
			if !p.lying {
				p.succeeds(p.job)
				return
			}
			p.job.asks()
			p.ana.saw(t, p.job.id(), "the job proves itself", func(s answer.Prompt) bool { return s.Answerable })
			p.job.fails(t, ask.ErrTimedOut)
			p.unanswered()
		}, ""},
		{"hides a decline", short, func(t *testing.T, p *play) {
			p.lies(lies{state: func(to, _ string, s *wire.State) {
				if to == p.job.id() {
					s.State, s.Decline, s.By, s.Why = "pending", nil, "", ""
				}
			}})
			p.job.asks()
			p.ana.saw(t, p.job.id(), "the job proves itself", func(s answer.Prompt) bool { return s.Answerable })
			if err := p.ana.desk.Decline(t.Context(), p.job.id(), "no"); err != nil {
				t.Fatal(err)
			}
			if p.lying { // it looks like a time-out, which is no end to publish on either
				p.job.fails(t, ask.ErrTimedOut)
			} else {
				p.job.fails(t, ask.ErrDeclined)
			}
			p.unanswered()
		}, ""},
	}
	for name, c := range map[string]struct {
		lie  func(t *testing.T, p *play, s *wire.State, own nkeys.KeyPair)
		kind error
		says string
	}{
		"says that it was declined": {func(t *testing.T, p *play, s *wire.State, own nkeys.KeyPair) {
			s.State, s.By, s.Why = "declined", "Ana", "not today"
		}, ask.ErrDeclined, "it is the relay's word only"},
		"declines with a key of its own": {func(t *testing.T, p *play, s *wire.State, own nkeys.KeyPair) {
			env := signed(t, &wire.Decline{Key: wire.PublicKey(own), Digest: p.relay.requests[p.job.id()].digest, Attempt: 1, Reason: "no"}, own)
			s.State, s.By, s.Decline = "declined", "Ana", &env
		}, ask.ErrDeclined, "it is the relay's word only"},
		"declines with its own signature under the human's name": {func(t *testing.T, p *play, s *wire.State, own nkeys.KeyPair) {
			env := signed(t, &wire.Decline{Key: p.ana.signer(), Digest: p.relay.requests[p.job.id()].digest, Attempt: 1, Reason: "no"}, p.ana.sign)
			env = pressed(t, env, own)
			s.State, s.By, s.Decline = "declined", "Ana", &env
		}, ask.ErrDeclined, "it is the relay's word only"},
		"says that time is up": {func(t *testing.T, p *play, s *wire.State, own nkeys.KeyPair) {
			s.State, s.Why = "expired", "deadline"
		}, ask.ErrTimedOut, "timed out"},
		"says that it was cancelled": {func(t *testing.T, p *play, s *wire.State, own nkeys.KeyPair) {
			s.State, s.Why = "cancelled", "lost"
		}, ask.ErrCancelled, "the relay cancelled the request"},
		"says that it is done": {func(t *testing.T, p *play, s *wire.State, own nkeys.KeyPair) {
			s.State, s.By, s.Sealed = "done", "Ana", strings.Repeat("ab", 32)
		}, ask.ErrCancelled, "though no answer was accepted here"},
	} {
		scripts = append(scripts, script{name, pinned, func(t *testing.T, p *play) {
			own := newSigner(t)
			p.lies(lies{state: func(to, id string, s *wire.State) {
				if to == p.job.id() {
					c.lie(t, p, s, own)
				}
			}})
			if !p.lying {
				p.succeeds(p.job)
				return
			}
			p.ana.mu.Lock()
			p.ana.blind = true // it is the job that is lied to
			p.ana.mu.Unlock()
			p.job.asks()
			if f := p.job.fails(t, c.kind); !strings.Contains(f.What, c.says) {
				t.Errorf("the job says: %v", f)
			}
			p.unanswered()
		}, "tells of a false end"})
	}
	scripts = append(scripts,
		script{"replays the decline of another request", pinned, func(t *testing.T, p *play) {
			old := p.another(homeRepo, func(c *ask.Config) { c.Responders = []string{p.ana.signer()} })
			old.asks()
			p.ana.saw(t, old.id(), "there is a prompt", func(s answer.Prompt) bool { return s.Answerable })
			if err := p.ana.desk.Decline(t.Context(), old.id(), "wrong day"); err != nil {
				t.Fatal(err)
			}
			if f := old.fails(t, ask.ErrDeclined); !strings.Contains(f.What, "declined by Ana, who says: wrong day") {
				t.Errorf("an honest decline reads: %v", f)
			}
			p.lies(lies{state: func(to, _ string, s *wire.State) {
				if env, err := wire.DecodeEnvelope(p.relay.requests[old.id()].rec.Cause); err == nil && to == p.job.id() {
					s.State, s.By, s.Decline = "declined", "Ana", &env
				}
			}})
			if !p.lying {
				p.succeeds(p.job)
				return
			}
			p.job.asks()
			if f := p.job.fails(t, ask.ErrDeclined); !strings.Contains(f.What, "it is the relay's word only") {
				t.Errorf("the job says: %v", f)
			}
			p.unanswered()
		}, ""},
		script{"speaks of a state that there is not", pinned, func(t *testing.T, p *play) {
			p.lies(lies{state: func(to, _ string, s *wire.State) {
				if to == p.job.id() {
					s.State = "approved"
				}
			}})
			p.succeeds(p.job) // only an answer that opens counts, whatever is said
			if p.lying {
				p.job.tells(t, `the relay speaks of a state "approved"`)
			}
		}, ""},
		script{"says that a code in hand was declined", pinned, func(t *testing.T, p *play) {
			p.job.asks()
			code := p.ana.answers(t, p.job.id(), 1)
			p.job.takes(t)
			p.lies(lies{state: func(to, _ string, s *wire.State) {
				if to == p.job.id() {
					s.Rev, s.State = s.Rev+1000, "declined"
				}
			}})
			p.settles(t, p.job)
			p.arrives(p.job, code, 1)
		}, ""},
		script{"holds an answer back and says that it arrived", func(_ *play, c *ask.Config) {}, func(t *testing.T, p *play) {
			p.lies(lies{
				hint: func(_ string, h *wire.Hint) bool { return h.Hint != wire.HintAnswer },
				state: func(to, _ string, s *wire.State) {
					if to == p.ana.key() && s.State == "answered" {
						s.State = "delivered"
					}
				},
			})
			p.job.asks()
			code := p.ana.answers(t, p.job.id(), 1)
			if !p.lying {
				p.arrives(p.job, code, 1)
				return
			}
			p.ana.sees(t, p.job.id(), "it is said to have arrived", func(s answer.Prompt) bool { return s.Phase == answer.Resting })
			p.job.waitsStill(t)
		}, ""},
	)
	plays(t, scripts)
}

// Where a workflow pins no responders, whoever the relay calls one is one. The
// job's log says so; the code that a human gave stays unreadable all the same.
func TestWithoutPinnedRespondersARelayCanAnswerAndTheJobSaysSo(t *testing.T) {
	t.Parallel()
	const warning = "no responders are pinned: any key that the relay accepts can answer"
	plays(t, []script{
		{"answers with a code of its own", nil, func(t *testing.T, p *play) {
			own, code := newSigner(t), freshCode()
			p.relay.do(func() { p.relay.own, p.relay.names[wire.PublicKey(own)] = []string{code}, true })
			p.job.asks()
			p.ana.saw(t, p.job.id(), "the job proves itself", func(s answer.Prompt) bool { return s.Answerable })
			p.job.tells(t, warning)
			if !p.lying {
				p.arrives(p.job, p.ana.answers(t, p.job.id(), 1), 1)
				return
			}
			p.relay.do(func() {
				q := p.relay.requests[p.job.id()]
				env, s := sealed(t, q, 1, own, code)
				p.relay.push(p.job.id(), wire.Hint{Hint: wire.HintAnswer, Key: p.job.id(), Envelope: &env, Sealed: &s})
			})
			a := p.job.takes(t)
			if a.Code() != code || a.Responder != wire.PublicKey(own) {
				t.Errorf("the job took %v", a)
			}
			p.job.tells(t, "Taken {Responder:"+wire.PublicKey(own)) // not the human's: who reads the log can see it
			p.unanswered()
		}, ""},
		{"signs the human's sealed code anew", nil, func(t *testing.T, p *play) {
			own := newSigner(t)
			p.relay.do(func() { p.relay.names[wire.PublicKey(own)] = true })
			again := false
			p.lies(lies{take: func(m message) (*wire.Reply, bool) {
				var b wire.AnswerMessage
				if m.verb != wire.VerbAnswer || wire.Decode(m.data, wire.MaxMessage, &b) != nil {
					return nil, false
				}
				a, err := wire.Open[wire.Answer](b.Answer, p.ana.signer())
				if err != nil || a.Attempt != 1 {
					return nil, false
				}
				again = true
				a.Key = wire.PublicKey(own)
				b.Answer = signed(t, &a, own)
				reply, err := p.relay.answered(m.key, p.ana, b)
				if err != nil {
					reply.Refused = refusalOf(err)
				}
				return &reply, true
			}})
			p.job.asks()
			code := p.ana.answers(t, p.job.id(), 1)
			if !p.lying {
				p.arrives(p.job, code, 1)
				return
			}
			// It does not open, so that key is out, and the human is asked once
			// more: what such a relay can do is make humans give more codes.
			p.job.tells(t, "asking again, without that key")
			p.arrives(p.job, p.ana.answers(t, p.job.id(), 2), 2)
			p.relay.do(func() {
				if !again {
					t.Error("nothing was signed anew")
				}
			})
		}, ""},
		{"declines with a key of its own", nil, func(t *testing.T, p *play) {
			own := newSigner(t)
			p.lies(lies{state: func(to, id string, s *wire.State) {
				if to == id {
					env := signed(t, &wire.Decline{Key: wire.PublicKey(own), Digest: p.relay.requests[id].digest, Attempt: 1, Reason: "no"}, own)
					s.State, s.By, s.Decline = "declined", "Ana", &env
				}
			}})
			if !p.lying {
				p.succeeds(p.job)
				return
			}
			p.job.asks()
			p.job.fails(t, ask.ErrDeclined) // in whoever's name: it is no end to publish on
			p.job.tells(t, warning)
			p.unanswered()
		}, ""},
		{"moves a sealed code to another request under a signature of its own", nil, func(t *testing.T, p *play) {
			other, own := p.another(homeRepo, nil), newSigner(t)
			p.relay.do(func() { p.relay.names[wire.PublicKey(own)] = true })
			p.lies(lies{hint: func(_ string, h *wire.Hint) bool {
				if h.Hint == wire.HintAnswer && h.Key == p.job.id() && p.relay.requests[other.id()].rec.Attempt == 1 {
					q := p.relay.requests[other.id()]
					env := signed(t, &wire.Answer{Key: wire.PublicKey(own), Digest: q.digest, Attempt: 1, Ask: wire.AskCode, Decision: wire.DecisionCode, Sealed: h.Sealed.Hash()}, own)
					if _, err := p.relay.answered(other.id(), p.bob, wire.AnswerMessage{Key: other.id(), Answer: env, Sealed: h.Sealed}); err != nil {
						t.Error(err)
					}
				}
				return true
			}})
			other.asks()
			p.relay.awaits(t, "the other request", func() bool { return p.relay.requests[other.id()] != nil })
			p.succeeds(p.job)
			attempt := 1
			if p.lying {
				other.tells(t, "asking again, without that key")
				attempt = 2
			}
			p.arrives(other, p.ana.answers(t, other.id(), attempt), attempt)
		}, ""},
	})
}

// NATS makes clients sign what a server calls a nonce, with the very key that
// signs requests.
func TestAHostileServerGetsNothingSignedButANonce(t *testing.T) {
	t.Parallel()
	// What it would like to have signed: a request of the client's own key, with
	// a sealing key of the relay's.
	forgery := func(t *testing.T, key string) wire.Envelope {
		own, err := seal.NewKey()
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now().Unix()
		body, err := json.Marshal(&wire.Request{
			Key: key, Relay: hostName, Project: homeProject, Ask: wire.AskCode, Service: "npm", Format: codeFormat,
			Made: now, Deadline: now + 600, HPKE: own.Public(), Proof: wire.Proof{"iss": "x", "run_id": "1"},
		})
		if err != nil {
			t.Fatal(err)
		}
		return wire.Envelope{V: wire.Version, Kind: wire.KindRequest, Body: body, Sig: make([]byte, 64)}
	}
	// In the JSON of INFO, byte by byte; clients make of it what they do.
	info := func(nonce []byte) []byte {
		return fmt.Appendf(nil, `INFO {"server_id":"X","version":"2.15.2","proto":1,"headers":true,"auth_required":true,"max_payload":65536,"nonce":"%s"}`+"\r\n", nonce)
	}
	var scenes []scene
	for name, c := range map[string]struct {
		nonce  func(covered []byte) []byte
		signed bool
	}{
		"what a request's signature covers":                      {func(c []byte) []byte { return escaped(c, 1, 0) }, false},
		"the same without its first byte":                        {func(c []byte) []byte { return escaped(c[1:], 1, 0) }, false},
		"the same, as raw as JSON lets it be":                    {func(c []byte) []byte { return escaped(c, 0x80, 0xFF) }, false},
		"the same in base64url":                                  {func(c []byte) []byte { return []byte(base64.RawURLEncoding.EncodeToString(append(c, c...))) }, false},
		"a nonce with a space":                                   {func(c []byte) []byte { return []byte("aaaaaaaaaaa aaaa") }, false},
		"too short a nonce":                                      {func(c []byte) []byte { return []byte("aaaaaaaaaa") }, false},
		"but it sends a nonce, whose signature is worth nothing": {func(c []byte) []byte { return []byte("aBcDeFgHiJkLmN-_") }, true},
	} {
		for _, side := range []string{"job", "responder"} {
			scenes = append(scenes, scene{side + ": " + name, func(t *testing.T) {
				g, b := theGround(t), newBell()
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				at := &tap{listener: l}
				job := g.job(t, b, at.relay(t, hostName), homeRepo, nil)
				ana := newResponder(t, b, "Ana")
				key := job.id()
				if side == "responder" {
					key = ana.key()
				}
				env := forgery(t, key)
				nonce := c.nonce(coveredBy(env.Kind, env.Body))
				connects := make(chan []byte, 16)
				go serveInfo(l, info(nonce), connects)
				if side == "job" {
					job.asks()
				} else {
					ana.starts(t, g, at.relay(t, hostName), g.pins(t, homeProject))
				}
				if !c.signed {
					if side == "job" {
						if f := job.fails(t, ask.ErrUnreachable); !strings.Contains(f.Error(), "nothing was signed for that server") {
							t.Errorf("the job says: %v", f)
						}
					} else {
						b.await(t, "the desk's end", func() bool { ana.mu.Lock(); defer ana.mu.Unlock(); return ana.err != nil })
						if !errors.Is(ana.err, wire.ErrNonce) {
							t.Errorf("the desk ended with: %v", ana.err)
						}
					}
					select {
					case line := <-connects:
						t.Errorf("the client went on: %.40s", line)
					default:
					}
					return
				}
				var options struct {
					NKey string `json:"nkey"`
					Sig  string `json:"sig"`
				}
				if err := json.Unmarshal(<-connects, &options); err != nil {
					t.Fatal(err)
				}
				sig, err := base64.RawURLEncoding.DecodeString(options.Sig)
				if err != nil || options.NKey != key {
					t.Fatalf("CONNECT of %s: %v", options.NKey, err)
				}
				public, err := nkeys.FromPublicKey(key)
				if err != nil {
					t.Fatal(err)
				}
				if err := public.Verify(nonce, sig); err != nil {
					t.Errorf("an honest nonce was not signed: %v", err)
				}
				env.Sig = sig
				if _, err := wire.Open[wire.Request](env, key); !errors.Is(err, wire.ErrSignature) {
					t.Errorf("the nonce's signature is good for a request: %v", err)
				}
			}})
		}
	}
	together(t, 12, scenes)
}

// escaped writes bytes as JSON does characters, but for those from low to high.
func escaped(v []byte, low, high byte) []byte {
	var out []byte
	for _, c := range v {
		if c >= low && c <= high {
			out = append(out, c)
		} else {
			out = fmt.Appendf(out, `\u%04x`, c)
		}
	}
	return out
}

// serveInfo greets each client with info and passes on what it says in CONNECT.
func serveInfo(l net.Listener, info []byte, connects chan<- []byte) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := c.Write(info); err != nil {
				return
			}
			r := bufio.NewReaderSize(io.LimitReader(c, 64<<10), 64<<10)
			for {
				line, err := r.ReadBytes('\n')
				if err != nil {
					return
				}
				if options, ok := bytes.CutPrefix(line, []byte("CONNECT ")); ok {
					select {
					case connects <- options:
					default:
					}
					return
				}
			}
		}()
	}
}

// What all of the above rests on: a code that is there would be found.
func TestTheSearchForReadableCodesFindsThem(t *testing.T) {
	t.Parallel()
	b := newBell()
	relay := newLiar(t, b)
	own, responder := relay.newHPKE(t), newSigner(t)
	relay.names[wire.PublicKey(responder)] = true
	q := &asked{request: wire.Request{HPKE: own.Public(), Ask: wire.AskCode}, digest: wire.Digest{7}}
	relay.requests["one"] = q
	code := freshCode()
	if found := relay.canRead([]string{code}, []byte("nothing")); len(found) != 0 {
		t.Errorf("found %d codes where there are none", len(found))
	}
	for _, s := range []string{code, fmt.Sprintf("%x", code), base64.StdEncoding.EncodeToString([]byte(code)),
		base64.StdEncoding.EncodeToString([]byte("x" + code + "y")), base64.RawURLEncoding.EncodeToString([]byte("xy" + code)),
	} {
		if found := relay.canRead([]string{code}, []byte(`{"a":"`+s+`"}`)); len(found) == 0 {
			t.Errorf("did not find the code in %q", s)
		}
	}
	relay.keep(sealed(t, q, 3, responder, code))
	if found := relay.canRead([]string{code}, nil); len(found) == 0 {
		t.Error("did not open what was sealed to a key of the relay's own")
	}
}
