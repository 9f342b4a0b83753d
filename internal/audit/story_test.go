package audit

// A record to check, made as a relay makes it: by the state machine, from what
// jobs and responders have signed.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

const relay = "relay.test"

var begin = time.Date(2026, 11, 20, 3, 0, 0, 0, time.UTC)

// story is a stream in the making.
type story struct {
	t        testing.TB
	now      time.Time
	messages []Message
	ana, bob nkeys.KeyPair
	last     map[string]lifecycle.Record
	hash     map[string]string
	ops      int
}

func newStory(t testing.TB) *story {
	t.Helper()
	return &story{t: t, now: begin, ana: key(t, wire.NewSigningKey), bob: key(t, wire.NewSigningKey), last: map[string]lifecycle.Record{}, hash: map[string]string{}}
}

func key(t testing.TB, make func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	kp, err := make()
	if err != nil {
		t.Fatal(err)
	}
	return kp
}

func (s *story) enrolled(project, key string) bool {
	return project == "rocket" && (key == wire.PublicKey(s.ana) || key == wire.PublicKey(s.bob))
}

func (s *story) append(subject string, data []byte) {
	s.messages = append(s.messages, Message{Seq: uint64(len(s.messages) + 1), Subject: subject, Time: s.now, Data: data})
	s.hash[subject] = lifecycle.Hash(data)
	s.now = s.now.Add(time.Second)
}

// asker is a job.
type asker struct {
	s   *story
	kp  nkeys.KeyPair
	pub string
	dig wire.Digest
}

func (s *story) ask(change func(*wire.Request)) *asker {
	s.t.Helper()
	j := &asker{s: s, kp: key(s.t, wire.NewConnectKey)}
	j.pub = wire.PublicKey(j.kp)
	q := wire.Request{Key: j.pub, Relay: relay, Project: "rocket", Ask: wire.AskCode, Service: "npm", Format: "any", Made: s.now.Unix(), Deadline: s.now.Unix() + 1800,
		HPKE: make([]byte, 32), Proof: wire.Proof{"iss": "https://ci.test", "repository": "example/rocket"}}
	if change != nil {
		change(&q)
	}
	env := j.sign(&q, j.kp)
	var err error
	if j.dig, err = wire.DigestOf(env, j.pub); err != nil {
		s.t.Fatal(err)
	}
	j.apply(lifecycle.Ask{Key: j.pub, Digest: j.dig.String(), Project: q.Project, Rule: "rocket/ci[0] line 7", Group: "1/77/1", Kind: q.Ask,
		Request: env.Encode(), Deadline: q.Deadline * 1000, Attempts: 5, Approvals: max(q.Approvals, 1)})
	return j
}

func (j *asker) sign(b wire.Body, kp nkeys.KeyPair) wire.Envelope {
	j.s.t.Helper()
	env, err := wire.Sign(b, kp)
	if err != nil {
		j.s.t.Fatal(err)
	}
	return env
}

func (j *asker) apply(in lifecycle.Input) {
	s := j.s
	s.t.Helper()
	var prev *lifecycle.Record
	if r, ok := s.last[j.pub]; ok {
		prev = &r
	}
	next, err := lifecycle.Apply(prev, in, s.now)
	if err != nil {
		s.t.Fatal(err)
	}
	s.ops++
	next = next.After(s.hash[RequestPrefix+j.pub], fmt.Sprintf("op%d", s.ops))
	data, err := next.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	s.last[j.pub] = next
	s.append(RequestPrefix+j.pub, data)
}

func (j *asker) open(by nkeys.KeyPair, name string) {
	b := wire.Challenge{Key: wire.PublicKey(by), Connect: j.pub, Digest: j.dig, Nonce: make([]byte, 16)}
	j.apply(lifecycle.Open{Key: b.Key, Name: name, Attempt: j.s.last[j.pub].Attempt, Envelope: j.sign(&b, by).Encode()})
}

var sealed = wire.Sealed{Enc: make([]byte, 32), Ciphertext: make([]byte, 600)}.Hash()

func (j *asker) answer(by nkeys.KeyPair, name string, attempt int) {
	b := wire.Answer{Key: wire.PublicKey(by), Digest: j.dig, Attempt: attempt, Ask: wire.AskCode, Decision: wire.DecisionCode, Sealed: sealed}
	j.apply(lifecycle.Answer{Key: b.Key, Name: name, Attempt: attempt, Sealed: sealed.String(), Envelope: j.sign(&b, by).Encode()})
}

func (j *asker) approve(by nkeys.KeyPair, name string, attempt int) {
	b := wire.Answer{Key: wire.PublicKey(by), Digest: j.dig, Attempt: attempt, Ask: j.s.last[j.pub].Kind, Decision: wire.DecisionYes, At: j.s.now.Unix(), Receipt: make([]byte, 64)}
	if b.Ask != wire.AskApproval {
		b.At, b.Receipt = 0, nil
	}
	j.apply(lifecycle.Approve{Key: b.Key, Name: name, Attempt: attempt, Envelope: j.sign(&b, by).Encode()})
}

func (j *asker) decline(by nkeys.KeyPair, name, reason string) {
	b := wire.Decline{Key: wire.PublicKey(by), Digest: j.dig, Attempt: j.s.last[j.pub].Attempt, Reason: reason}
	j.apply(lifecycle.Decline{Key: b.Key, Name: name, Attempt: b.Attempt, Reason: reason, Envelope: j.sign(&b, by).Encode()})
}

func (j *asker) got(attempt int) {
	b := wire.Got{Key: j.pub, Digest: j.dig, Attempt: attempt, Sealed: sealed}
	j.apply(lifecycle.Got{Attempt: attempt, Sealed: sealed.String(), Envelope: j.sign(&b, j.kp).Encode()})
}

func (j *asker) reject(attempt int, why, shut string) {
	b := wire.Rejected{Key: j.pub, Digest: j.dig, Attempt: attempt, Why: why, Shut: shut}
	j.apply(lifecycle.Reject{Attempt: attempt, Why: why, Shut: shut, Envelope: j.sign(&b, j.kp).Encode()})
}

func (j *asker) next(attempt int) {
	b := wire.Next{Key: j.pub, Digest: j.dig, Attempt: attempt}
	j.apply(lifecycle.Next{Attempt: attempt, Envelope: j.sign(&b, j.kp).Encode()})
}

func (j *asker) done(attempt int, outcome string) {
	b := wire.Done{Key: j.pub, Digest: j.dig, Attempt: attempt, Outcome: outcome}
	j.apply(lifecycle.Done{Outcome: outcome, Envelope: j.sign(&b, j.kp).Encode()})
}

func (j *asker) cancel() {
	b := wire.Cancel{Key: j.pub, Digest: j.dig, Why: "stopped"}
	j.apply(lifecycle.Cancel{Why: b.Why, Envelope: j.sign(&b, j.kp).Encode()})
}

func (s *story) note(subject string, n lifecycle.Note) {
	s.t.Helper()
	s.ops++
	n.V, n.Op, n.Prev = lifecycle.Version, fmt.Sprintf("op%d", s.ops), s.hash[subject]
	if n.At == 0 {
		n.At = s.now.UnixMilli()
	}
	data, err := n.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	s.append(subject, data)
}

// away has a responder say, at a time, that it is away until another; zero: back.
func (s *story) away(by nkeys.KeyPair, until, at time.Time) {
	s.t.Helper()
	env, err := wire.SignAway(by, relay, at, until, time.Time{})
	if err != nil {
		s.t.Fatal(err)
	}
	end := s.now
	if until.After(end) {
		end = until
	}
	pub := wire.PublicKey(by)
	s.note(AwayPrefix+pub, lifecycle.Note{About: lifecycle.AboutAway, Name: pub, Key: pub, Person: "Ana", Until: end.UnixMilli(), Envelope: env.Encode()})
}

func (s *story) refuse(f lifecycle.Refusal) {
	s.t.Helper()
	s.ops++
	subject := RefusedPrefix + RefusedOutside + ".run1"
	f.V, f.Op, f.At, f.Prev = lifecycle.Version, fmt.Sprintf("op%d", s.ops), s.now.UnixMilli(), s.hash[subject]
	data, err := f.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	s.append(subject, data)
}

// told is a record in which every event happens.
func told(t testing.TB) *story {
	t.Helper()
	s := newStory(t)
	one := s.ask(nil) // a code, refused once, then good
	two := s.ask(nil) // declined
	one.open(s.ana, "Ana")
	one.answer(s.ana, "Ana", 1)
	two.open(s.bob, "Bob")
	one.got(1)
	two.decline(s.bob, "Bob", "not mine")
	no := s.last[two.pub]
	s.note(DeclinedPrefix+lifecycle.Hash([]byte("rocket\x001/77/1")), lifecycle.Note{About: lifecycle.AboutDeclined, Name: no.Group, Key: two.pub, Person: no.ByName, Why: no.Why, At: no.At})
	one.reject(1, wire.RejectedRefused, "")
	one.answer(s.bob, "Bob", 2)
	one.got(2)
	one.next(2)
	one.answer(s.ana, "Ana", 3)
	one.got(3)
	one.done(3, wire.OutcomeOK)
	late := s.ask(nil) // undelivered, expired, and had after all
	late.answer(s.ana, "Ana", 1)
	s.now = s.now.Add(lifecycle.UndeliveredAfter)
	late.apply(lifecycle.Undelivered{})
	s.now = s.now.Add(time.Hour)
	late.apply(lifecycle.Expire{})
	late.got(1)
	lost := s.ask(nil)
	lost.apply(lifecycle.Lost{})
	gone := s.ask(nil)
	gone.cancel()
	bad := s.ask(nil) // unusable
	bad.answer(s.ana, "Ana", 1)
	bad.reject(1, wire.RejectedUnusable, wire.PublicKey(s.ana))
	both := s.ask(func(q *wire.Request) {
		q.Ask, q.Approvals, q.Message, q.Responders = wire.AskApproval, 2, "release 1.0", []string{wire.PublicKey(s.ana), wire.PublicKey(s.bob)}
	})
	both.approve(s.ana, "Ana", 1)
	both.next(1)
	both.approve(s.bob, "Bob", 2)
	s.note(UnboundPrefix+lifecycle.Hash([]byte("t")), lifecycle.Note{About: lifecycle.AboutToken, Name: lifecycle.Hash([]byte("t")), Key: gone.pub})
	s.note(DroppedPrefix+gone.pub, lifecycle.Note{About: lifecycle.AboutDropped, Name: "state", Key: gone.pub})
	s.away(s.ana, s.now.Add(5*time.Hour), s.now)
	s.away(s.ana, time.Time{}, s.now)
	s.refuse(lifecycle.Refusal{Code: "token", Verb: "connect", Why: "expired"})
	s.refuse(lifecycle.Refusal{Code: "policy", Verb: "request", Key: gone.pub, Project: "rocket", Why: "no rule fits", Left: 4})
	return s
}

// toldAgain is a record that was restored from a backup.
func toldAgain(t testing.TB) *story {
	t.Helper()
	s := told(t)
	waits, has := s.ask(nil), s.ask(nil) // open in the backup, and one of them had after all
	has.answer(s.ana, "Ana", 1)
	for range 2 { // restored, and what came of that restored again
		s.note(RestoredSubject, lifecycle.Note{About: lifecycle.AboutRestored, Name: lifecycle.Hash([]byte("backup")), Until: s.now.Add(-time.Hour).UnixMilli()})
	}
	waits.apply(lifecycle.Restored{})
	has.apply(lifecycle.Restored{})
	has.got(1)
	return s
}

func extent(messages []Message) Extent {
	x := Extent{Stream: "CFA", Relay: relay, First: 1, Keep: int64(30 * 24 * 3600)}
	if n := len(messages); n > 0 {
		x.First, x.Last = messages[0].Seq, messages[n-1].Seq
	}
	return x
}

func verified(s *story, messages []Message) *Verifier {
	v := NewVerifier(extent(messages), s.enrolled)
	for _, m := range messages {
		v.Add(m)
	}
	v.End()
	return v
}

// renumbered is messages as a store would have them that was built of them.
func renumbered(messages []Message) []Message {
	out := slices.Clone(messages)
	for i := range out {
		out[i].Seq = uint64(i + 1)
	}
	return out
}

// rewritten is the stream with one request's record changed and all records of
// that request after it made to follow again, as whoever holds the store can.
func rewritten(t testing.TB, messages []Message, at int, change func(map[string]json.RawMessage)) []Message {
	t.Helper()
	out := slices.Clone(messages)
	subject, before := out[at].Subject, ""
	for i := at; i < len(out); i++ {
		if out[i].Subject != subject {
			continue
		}
		rec, err := lifecycle.Decode(out[i].Data)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(out[i].Data, &fields); err != nil {
			t.Fatal(err)
		}
		change(fields)
		data, err := json.Marshal(fields)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &rec); err != nil {
			t.Fatal(err)
		}
		if before != "" {
			rec.Prev = before
		}
		if out[i].Data, err = rec.Encode(); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(out[i].Data, messages[i].Data) {
			t.Fatal("nothing was changed")
		}
		before = lifecycle.Hash(out[i].Data)
	}
	return out
}
