// Package answertest is the other end of a responder, for tests: a relay that
// does as it is told, honest or hostile, and jobs that ask through it.
//
// It is no relay: it checks nothing, keeps its state in memory, and knows one
// kind of request. What it is for is that a test can lay hands on each message
// on its way, which an honest relay does not allow. It is imported by tests
// only.
package answertest

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// Relay is a scripted relay. Its hooks may be set before it is used, or with
// [Relay.Do] while it runs.
type Relay struct {
	Name string

	// OnMessage sees each message of a responder and its reply, and may change
	// the reply; false: no reply at all.
	OnMessage func(m Message, reply *wire.Reply) bool
	// Refuse sees each message first; what it returns is the reply, and the
	// message counts for nothing.
	Refuse func(m Message) *wire.Refusal
	// OnAlive may change a job's answer to a challenge on its way; false drops it.
	OnAlive func(h *wire.Hint) bool
	// Hold keeps answers from reaching their jobs.
	Hold bool

	mu       sync.Mutex
	desks    map[string]string        // connecting key → name
	away     map[string]wire.Envelope // newest words about absences, by connecting key
	requests map[string]*request
	messages []Message
	rev      uint64
	push     func(subject string, h wire.Hint)
	conns    map[*Conn]bool
	changed  chan struct{} // closed at each message or change
	front    *front
}

// Message is one message of a responder.
type Message struct {
	Desk string // connecting key
	Verb string
	Data []byte
	At   time.Time
}

type request struct {
	job   *Job
	item  wire.Item
	over  bool
	yes   []wire.Answer
	names map[string]bool // who opened
}

// NewRelay makes a relay that is reached in memory only; see [Relay.Dial].
func NewRelay(name string) *Relay {
	r := &Relay{Name: name, desks: map[string]string{}, away: map[string]wire.Envelope{}, requests: map[string]*request{}, conns: map[*Conn]bool{}, changed: make(chan struct{})}
	r.push = r.pushInMemory
	return r
}

// Enrol lets a responder's connecting key in.
func (r *Relay) Enrol(connect, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.desks[connect] = name
}

func (r *Relay) enrolled(connect string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.desks[connect] != ""
}

// Do runs f while the relay handles nothing.
func (r *Relay) Do(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// Ask puts a job's request before the responders.
func (r *Relay) Ask(j *Job) {
	r.mu.Lock()
	r.rev++
	r.requests[j.ID()] = &request{job: j, names: map[string]bool{}, item: wire.Item{Key: j.ID(), Request: j.Envelope, State: wire.State{
		Rev: r.rev, State: "pending", Attempt: 1, Reason: wire.ReasonFirst, Deadline: j.Request.Deadline,
	}}}
	r.mu.Unlock()
	r.Hint(j)
}

// Hint says that something changed in j's project.
func (r *Relay) Hint(j *Job) {
	r.push(wire.ProjectSubject(j.Request.Project), wire.Hint{Hint: wire.HintState, Key: j.ID()})
}

// Set changes what the relay says of j's request, and hints.
func (r *Relay) Set(j *Job, change func(*wire.Item)) {
	r.mu.Lock()
	r.set(r.requests[j.ID()], func(s *wire.State) { change(&r.requests[j.ID()].item) })
	r.mu.Unlock()
	r.Hint(j)
}

func (r *Relay) set(q *request, change func(*wire.State)) {
	r.rev++
	q.item.State.Rev = r.rev
	change(&q.item.State)
	switch q.item.State.State {
	case "done", "declined", "expired", "cancelled":
		q.over = true
	}
	r.ring()
}

func (r *Relay) ring() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// State is what the relay says of j's request now.
func (r *Relay) State(j *Job) wire.State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests[j.ID()].item.State
}

// Messages gives all messages of that verb so far; "" is every one.
func (r *Relay) Messages(verb string) []Message {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen(verb)
}

func (r *Relay) seen(verb string) []Message {
	var out []Message
	for _, m := range r.messages {
		if verb == "" || m.Verb == verb {
			out = append(out, m)
		}
	}
	return out
}

// Wait waits until ok, which is asked again after each message and change.
func (r *Relay) Wait(ctx context.Context, ok func() bool) error {
	for {
		r.mu.Lock()
		changed := r.changed
		r.mu.Unlock()
		if ok() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// handle answers one message of a responder; ok is false for no answer.
func (r *Relay) handle(desk, verb string, data []byte) (reply wire.Reply, ok bool) {
	var after func()
	r.mu.Lock()
	m := Message{Desk: desk, Verb: verb, Data: slices.Clone(data), At: time.Now()}
	r.messages = append(r.messages, m)
	if r.Refuse != nil {
		reply.Refused = r.Refuse(m)
	}
	if reply.Refused != nil {
		// Nothing else happens.
	} else if r.desks[desk] == "" {
		reply.Refused = &wire.Refusal{Code: wire.RefusedNotYours, Why: "this key is enrolled nowhere"}
	} else {
		reply, after = r.decide(desk, verb, data)
	}
	reply.V = wire.Version
	ok = r.OnMessage == nil || r.OnMessage(m, &reply)
	r.ring()
	r.mu.Unlock()
	if after != nil {
		after()
	}
	return reply, ok
}

func refused(code, why string) wire.Reply {
	return wire.Reply{Refused: &wire.Refusal{Code: code, Why: why}}
}

func (r *Relay) decide(desk, verb string, data []byte) (wire.Reply, func()) {
	state := func(q *request) wire.Reply { s := q.item.State; return wire.Reply{State: &s} }
	switch verb {
	case wire.VerbPending:
		var q wire.PendingQuery
		if wire.Decode(data, wire.MaxMessage, &q) != nil {
			break
		}
		page := &wire.Page{Away: r.inForce(desk)}
		for _, key := range slices.Sorted(maps.Keys(r.requests)) {
			if req := r.requests[key]; key > q.After && !req.over {
				if len(page.Items) == 8 {
					page.More = true
					break
				}
				page.Items = append(page.Items, req.item)
			}
		}
		for _, key := range q.Known {
			if req := r.requests[key]; req != nil && req.over {
				page.Ended = append(page.Ended, wire.Ended{Key: key, State: req.item.State})
			}
		}
		return wire.Reply{Page: page}, nil
	case wire.VerbOpen:
		var m wire.OpenMessage
		q := r.requests[keyOf(data, &m, func() string { return m.Key })]
		if q == nil {
			return refused(wire.RefusedUnknown, "no such request"), nil
		}
		signer, _ := wire.ClaimedSigner(m.Challenge)
		ch, err := wire.Open[wire.Challenge](m.Challenge, signer)
		if err != nil {
			return refused(wire.RefusedSignature, err.Error()), nil
		}
		if !q.names[r.desks[desk]] {
			q.names[r.desks[desk]] = true
			r.set(q, func(s *wire.State) { s.Opened = append(s.Opened, r.desks[desk]) })
		}
		return state(q), func() { r.challenge(q, desk, ch) }
	case wire.VerbAnswer:
		var m wire.AnswerMessage
		q := r.requests[keyOf(data, &m, func() string { return m.Key })]
		if q == nil || m.Sealed == nil && q.job.Request.Ask != wire.AskApproval && q.job.Request.Approvals < 2 || m.Sealed != nil && q.job.Request.Ask == wire.AskApproval {
			return refused(wire.RefusedUnknown, "no such request"), nil
		}
		if m.Sealed == nil {
			return r.approve(q, desk, m)
		}
		signer, _ := wire.ClaimedSigner(m.Answer)
		a, err := wire.Open[wire.Answer](m.Answer, signer)
		s := q.item.State
		hash := m.Sealed.Hash().String()
		switch {
		case err != nil:
			return refused(wire.RefusedSignature, err.Error()), nil
		case s.Sealed == hash:
		case q.over:
			return refused(wire.RefusedEnded, "the request is over"), nil
		case a.Attempt != s.Attempt:
			return refused(wire.RefusedAttempt, "another attempt is open"), nil
		case s.State != "pending":
			return refused(wire.RefusedTaken, s.By+" answered first"), nil
		default:
			r.set(q, func(s *wire.State) {
				s.State, s.Sealed, s.By, s.Answer = "answered", hash, r.desks[desk], &m.Answer
			})
		}
		return state(q), func() { r.deliver(q, m) }
	case wire.VerbDecline:
		var m wire.DeclineMessage
		q := r.requests[keyOf(data, &m, func() string { return m.Key })]
		if q == nil {
			return refused(wire.RefusedUnknown, "no such request"), nil
		}
		signer, _ := wire.ClaimedSigner(m.Decline)
		no, err := wire.Open[wire.Decline](m.Decline, signer)
		switch {
		case err != nil:
			return refused(wire.RefusedSignature, err.Error()), nil
		case q.over && q.item.State.State != "declined":
			return refused(wire.RefusedEnded, "the request is over"), nil
		case !q.over:
			r.set(q, func(s *wire.State) {
				s.State, s.By, s.Why, s.Decline = "declined", r.desks[desk], no.Reason, &m.Decline
			})
		}
		return state(q), nil
	case wire.VerbAway:
		var m wire.AwayMessage
		if wire.Decode(data, wire.MaxMessage, &m) != nil {
			break
		}
		last, said := r.away[desk]
		if m.Away != nil {
			signer, _ := wire.ClaimedSigner(*m.Away)
			a, err := wire.Open[wire.Away](*m.Away, signer)
			if err != nil {
				return refused(wire.RefusedSignature, err.Error()), nil
			}
			if old, err := wire.Open[wire.Away](last, signer); err == nil && a.At < old.At {
				return refused(wire.RefusedTaken, "a later word is on record"), nil
			}
			r.away[desk], last, said = *m.Away, *m.Away, true
		}
		if !said {
			return wire.Reply{}, nil
		}
		return wire.Reply{Away: &last}, nil
	}
	return refused(wire.RefusedMalformed, "not understood"), nil
}

// inForce is a responder's absence, while it is one.
func (r *Relay) inForce(desk string) *wire.Envelope {
	env, said := r.away[desk]
	signer, _ := wire.ClaimedSigner(env)
	a, err := wire.Open[wire.Away](env, signer)
	if !said || err != nil || a.Back() || !a.End().After(time.Now()) {
		return nil
	}
	return &env
}

// approve takes a yes: the last one that the request needs ends it, another
// waits for the job to go on.
func (r *Relay) approve(q *request, desk string, m wire.AnswerMessage) (wire.Reply, func()) {
	signer, _ := wire.ClaimedSigner(m.Answer)
	a, err := wire.Open[wire.Answer](m.Answer, signer)
	s := q.item.State
	state := func() (wire.Reply, func()) { now := q.item.State; return wire.Reply{State: &now}, nil }
	switch {
	case err != nil:
		return refused(wire.RefusedSignature, err.Error()), nil
	case slices.ContainsFunc(q.yes, func(y wire.Answer) bool { return y.Key == signer && y.Attempt == a.Attempt }):
		return state()
	case slices.ContainsFunc(q.yes, func(y wire.Answer) bool { return y.Key == signer }):
		return refused(wire.RefusedNotYours, "this key has already agreed to it"), nil
	case q.over:
		return refused(wire.RefusedEnded, "the request is over"), nil
	case a.Attempt != s.Attempt:
		return refused(wire.RefusedAttempt, "another attempt is open"), nil
	}
	q.yes = append(q.yes, a)
	r.set(q, func(s *wire.State) {
		s.Answer = &m.Answer
		if len(q.yes) == max(q.job.Request.Approvals, 1) {
			s.State, s.By = "done", r.desks[desk]
		}
	})
	return state()
}

// Yeses are the approvals of j's request so far.
func (r *Relay) Yeses(j *Job) []wire.Answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests[j.ID()].yes)
}

// keyOf decodes a message and gives the key in it, "" if it does not decode.
func keyOf(data []byte, into any, key func() string) string {
	if wire.Decode(data, wire.MaxMessage, into) != nil {
		return ""
	}
	return key()
}

// challenge takes a challenge to its job and the job's answer back.
func (r *Relay) challenge(q *request, desk string, ch wire.Challenge) {
	env, token, err := q.job.Alive(ch)
	if err != nil {
		return
	}
	h := wire.Hint{Hint: wire.HintAlive, Key: q.job.ID(), Envelope: &env, Token: token}
	r.mu.Lock()
	pass := r.OnAlive == nil || r.OnAlive(&h)
	r.mu.Unlock()
	if pass {
		r.push(wire.HintSubject(desk), h)
	}
}

// Alive pushes what may be a job's answer to a challenge.
func (r *Relay) Alive(desk string, h wire.Hint) { r.push(wire.HintSubject(desk), h) }

// deliver takes an answer to its job.
func (r *Relay) deliver(q *request, m wire.AnswerMessage) {
	r.mu.Lock()
	hold := r.Hold
	r.mu.Unlock()
	if hold || q.job.Receive(m.Answer, *m.Sealed) != nil {
		return
	}
	r.mu.Lock()
	if q.item.State.State == "answered" {
		r.set(q, func(s *wire.State) { s.State = "delivered" })
	}
	r.mu.Unlock()
	r.Hint(q.job)
}

// Conn is a connection in memory.
type Conn struct {
	relay  *Relay
	key    string
	hints  chan wire.Hint
	closed chan struct{}
	once   sync.Once
	mu     sync.Mutex
	listen []string
}

// ErrCut is what a request over a cut connection fails with.
var ErrCut = errors.New("the connection was cut")

// Dial connects in memory.
func (r *Relay) Dial(connect string) *Conn {
	c := &Conn{relay: r, key: connect, hints: make(chan wire.Hint, 256), closed: make(chan struct{}), listen: []string{wire.HintSubject(connect)}}
	r.mu.Lock()
	r.conns[c] = true
	r.mu.Unlock()
	return c
}

// Cut ends every connection in memory.
func (r *Relay) Cut() {
	r.mu.Lock()
	conns := slices.Collect(maps.Keys(r.conns))
	r.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
}

func (r *Relay) pushInMemory(subject string, h wire.Hint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c := range r.conns {
		c.mu.Lock()
		if slices.Contains(c.listen, subject) {
			select {
			case c.hints <- h:
			default:
			}
		}
		c.mu.Unlock()
	}
}

// Request is dial.Conn's.
func (c *Conn) Request(ctx context.Context, subject string, msg any) (wire.Reply, error) {
	data, err := json.Marshal(msg)
	if err != nil {
		return wire.Reply{}, err
	}
	select {
	case <-c.closed:
		return wire.Reply{}, ErrCut
	default:
	}
	_, key, verb, ok := wire.ParseSubject(subject)
	if !ok || key != c.key || !strings.HasPrefix(subject, "cfa.v1.desk.") {
		return wire.Reply{}, errors.New("no permission to publish there")
	}
	reply, ok := c.relay.handle(key, verb, data)
	if !ok {
		select {
		case <-ctx.Done():
			return wire.Reply{}, context.Cause(ctx)
		case <-c.closed:
			return wire.Reply{}, ErrCut
		}
	}
	if reply.Refused != nil {
		return reply, reply.Refused
	}
	return reply, nil
}

// Listen is dial.Conn's.
func (c *Conn) Listen(subject string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listen = append(c.listen, subject)
	return nil
}

// Hints is dial.Conn's.
func (c *Conn) Hints() <-chan wire.Hint { return c.hints }

// Closed is dial.Conn's.
func (c *Conn) Closed() <-chan struct{} { return c.closed }

// Close is dial.Conn's.
func (c *Conn) Close() {
	c.once.Do(func() {
		close(c.closed)
		c.relay.mu.Lock()
		delete(c.relay.conns, c)
		c.relay.mu.Unlock()
	})
}
