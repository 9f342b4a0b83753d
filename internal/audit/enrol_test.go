package audit

// Enrolments in the record: who had come by which invitation, and whose answers
// count by that.

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

// newcomer is somebody who comes by an invitation.
type newcomer struct{ sign, connect, invitation nkeys.KeyPair }

func comes(t testing.TB) newcomer {
	return newcomer{key(t, wire.NewSigningKey), key(t, wire.NewConnectKey), key(t, wire.NewConnectKey)}
}

func (n newcomer) said(t testing.TB, relay string, at time.Time) json.RawMessage {
	t.Helper()
	m, err := wire.SignJoin(n.sign, n.connect, n.invitation, relay, at)
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func (s *story) invitation(n newcomer, joined bool, change func(*lifecycle.Note)) {
	s.t.Helper()
	note := lifecycle.Note{About: lifecycle.AboutInvitation, Name: wire.PublicKey(n.invitation), Person: "Cleo", Project: "rocket", Until: s.now.Add(time.Hour).UnixMilli()}
	if joined {
		note.Key, note.Connect, note.Envelope = wire.PublicKey(n.sign), wire.PublicKey(n.connect), n.said(s.t, relay, s.now)
	}
	subject := InvitationPrefix + note.Name
	if change != nil {
		change(&note)
	}
	s.note(subject, note)
}

func (s *story) enrol(n newcomer, change func(*lifecycle.Note)) {
	s.t.Helper()
	note := lifecycle.Note{About: lifecycle.AboutEnrolment, Name: "rocket", Person: "Cleo", Key: wire.PublicKey(n.sign), Connect: wire.PublicKey(n.connect), Envelope: n.said(s.t, relay, s.now), At: s.now.UnixMilli()}
	subject := EnrolmentPrefix + "rocket." + note.Connect
	if change != nil {
		change(&note)
	}
	s.note(subject, note)
}

func removed(n *lifecycle.Note) { n.Until = n.At }

// answers has somebody answer a request that pins nobody.
func (s *story) answers(n newcomer) {
	s.t.Helper()
	j := s.ask(nil)
	j.answer(n.sign, "Cleo", 1)
	j.got(1)
	j.done(1, wire.OutcomeOK)
}

func TestWhoIsEnrolledByTheRecordMayAnswerWhileItIs(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		tell func(*story, newcomer)
		want string // in the one problem that is found; "": there is none
	}{
		"enrolled, and answers": {func(s *story, n newcomer) {
			s.invitation(n, false, nil)
			s.invitation(n, true, nil)
			s.enrol(n, nil)
			s.answers(n)
			s.enrol(n, nil) // renewed
			s.answers(n)
			s.enrol(n, removed)
		}, ""},
		"answers before": {func(s *story, n newcomer) {
			s.answers(n)
			s.enrol(n, nil)
		}, "is not enrolled for the project rocket"},
		"is only invited": {func(s *story, n newcomer) {
			s.invitation(n, false, nil)
			s.invitation(n, true, nil)
			s.answers(n)
		}, "is not enrolled for the project rocket"},
		"answers after": {func(s *story, n newcomer) {
			s.enrol(n, nil)
			s.enrol(n, removed)
			s.now = s.now.Add(2 * stillIn)
			s.answers(n)
		}, "is not enrolled for the project rocket"},
		"answers in the moment of the removal": {func(s *story, n newcomer) {
			s.enrol(n, nil)
			s.enrol(n, removed)
			s.answers(n)
		}, ""},
		"is enrolled for another project": {func(s *story, n newcomer) {
			s.note(EnrolmentPrefix+"boat."+wire.PublicKey(n.connect), lifecycle.Note{About: lifecycle.AboutEnrolment, Name: "boat", Person: "Cleo", Key: wire.PublicKey(n.sign), Connect: wire.PublicKey(n.connect), Envelope: n.said(s.t, relay, s.now)})
			s.answers(n)
		}, "is not enrolled for the project rocket"},
		"withdrawn": {func(s *story, n newcomer) {
			s.invitation(n, false, nil)
			s.invitation(n, false, func(n *lifecycle.Note) { n.At = begin.UnixMilli(); n.Until = n.At })
		}, ""},
		"two by one invitation": {func(s *story, n newcomer) {
			s.invitation(n, true, nil)
			other := comes(s.t)
			other.invitation = n.invitation
			s.invitation(other, true, nil)
		}, "two have come by one invitation"},
		"enrolled by nobody's word": {func(s *story, n newcomer) {
			s.enrol(n, func(n *lifecycle.Note) { n.Envelope = json.RawMessage(`{"v":1}`) })
		}, "what the responder signed when it joined: malformed"},
		"enrolled with another's signing key": {func(s *story, n newcomer) {
			s.enrol(n, func(n *lifecycle.Note) { n.Key = wire.PublicKey(s.ana) })
		}, "is about other keys"},
		"enrolled under another's connecting key": {func(s *story, n newcomer) {
			s.enrol(n, func(n *lifecycle.Note) { n.Connect = wire.PublicKey(key(s.t, wire.NewConnectKey)) })
		}, "the note is not about what its subject says"},
		"joined another relay": {func(s *story, n newcomer) {
			s.invitation(n, true, func(note *lifecycle.Note) { note.Envelope = n.said(s.t, "other.test", s.now) })
		}, `said it to the relay "other.test"`},
		"joined by another's invitation": {func(s *story, n newcomer) {
			other := n
			other.invitation = key(s.t, wire.NewConnectKey)
			s.invitation(n, true, func(note *lifecycle.Note) { note.Envelope = other.said(s.t, relay, s.now) })
		}, "it is by another invitation"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStory(t)
			c.tell(s, comes(t))
			v := verified(s, s.messages)
			switch {
			case c.want == "" && v.Wrong != 0, c.want != "" && (v.Wrong != 1 || !strings.Contains(v.Problems[0].What, c.want)):
				t.Errorf("%d problems: %v", v.Wrong, v.Problems)
			}
		})
	}
}

// The note by which somebody was enrolled ages out; that it is written again in
// time says that they were all along.
func TestAnEnrolmentThatAgedOutIsSeenFromTheNextNote(t *testing.T) {
	t.Parallel()
	s, n, stranger := newStory(t), comes(t), comes(t)
	s.enrol(n, nil)
	s.answers(n)
	s.answers(stranger)
	s.enrol(n, nil)
	s.answers(n)
	left := s.messages[1:]
	v := verified(s, left)
	if v.Wrong != 1 || !strings.Contains(v.Problems[0].What, wire.PublicKey(stranger.sign)) {
		t.Errorf("%v", v.Problems)
	}
	// Nobody is taken for enrolled by a note that begins only then.
	s = newStory(t)
	s.ask(nil)
	s.answers(n)
	s.enrol(n, nil)
	if v := verified(s, s.messages[1:]); v.Wrong == 0 {
		t.Error("who answered before being enrolled was taken for enrolled")
	}
}

func TestEventsTellOfEnrolments(t *testing.T) {
	t.Parallel()
	s, n := newStory(t), comes(t)
	s.invitation(n, false, nil)
	s.invitation(n, true, nil)
	s.enrol(n, nil)
	s.enrol(n, removed)
	s.invitation(comes(t), false, func(n *lifecycle.Note) { n.At = s.now.UnixMilli(); n.Until = n.At })
	var said []string
	for _, m := range s.messages {
		e, ok, err := EventOf(m)
		if err != nil || !ok || !e.OfResponder() || e.By != "Cleo" || e.Project != "rocket" {
			t.Fatalf("%+v, %t, %v", e, ok, err)
		}
		if !(Filter{Project: "rocket"}).TakesEvent(e) || (Filter{Project: "boat"}).TakesEvent(e) || (Filter{Outcome: "open"}).TakesEvent(e) || (Filter{Since: e.At.Add(1)}).TakesEvent(e) {
			t.Errorf("it is among others' events, or not among its own: %+v", e)
		}
		said = append(said, e.Event)
	}
	if !slices.Equal(said, []string{EventInvited, EventJoined, EventEnrolled, EventRemoved, EventWithdrawn}) {
		t.Error(said)
	}
}

// A next key is its predecessor's word, and counts where that one did.
func TestARotatedKeyIsHeldToItsChain(t *testing.T) {
	t.Parallel()
	rotated := func(s *story, n newcomer, by nkeys.KeyPair) (newcomer, []wire.Succession) {
		next := n
		next.sign = key(s.t, wire.NewSigningKey)
		link, err := wire.SignSuccession(by, next.sign, s.now)
		if err != nil {
			s.t.Fatal(err)
		}
		return next, []wire.Succession{link}
	}
	// The record's note of next: what n has proved, and the chain from there.
	renote := func(s *story, n, next newcomer, chain []wire.Succession) {
		var m wire.JoinMessage
		if err := json.Unmarshal(n.said(s.t, relay, s.now), &m); err != nil {
			s.t.Fatal(err)
		}
		m.Chain = chain
		data, err := json.Marshal(m)
		if err != nil {
			s.t.Fatal(err)
		}
		s.enrol(next, func(note *lifecycle.Note) { note.Envelope = data })
	}
	for name, c := range map[string]struct {
		tell func(*story, newcomer)
		want string
	}{
		"the next key answers": {func(s *story, n newcomer) {
			next, chain := rotated(s, n, n.sign)
			s.enrol(n, nil)
			s.answers(n)
			renote(s, n, next, chain)
			s.answers(next)
		}, ""},
		"the old key, after that": {func(s *story, n newcomer) {
			next, chain := rotated(s, n, n.sign)
			s.enrol(n, nil)
			renote(s, n, next, chain)
			s.now = s.now.Add(2 * stillIn)
			s.answers(n)
		}, "is not enrolled for the project rocket"},
		"a key that another vouches for": {func(s *story, n newcomer) {
			next, chain := rotated(s, n, s.ana)
			s.enrol(n, nil)
			renote(s, n, next, chain)
		}, "is about other keys"},
		"a key that nobody vouches for": {func(s *story, n newcomer) {
			next, _ := rotated(s, n, n.sign)
			s.enrol(n, nil)
			renote(s, n, next, nil)
		}, "is about other keys"},
		"a pinned key's successor": {func(s *story, n newcomer) {
			next, chain := rotated(s, n, n.sign)
			j := s.ask(func(q *wire.Request) { q.Responders = []string{wire.PublicKey(n.sign)} })
			sealed := wire.Sealed{Enc: make([]byte, 32), Ciphertext: make([]byte, 600)}
			b := wire.Answer{Key: wire.PublicKey(next.sign), Digest: j.dig, Attempt: 1, Ask: wire.AskCode, Decision: wire.DecisionCode, Sealed: sealed.Hash(), Chain: chain}
			j.apply(lifecycle.Answer{Key: b.Key, Name: "Cleo", Attempt: 1, Sealed: b.Sealed.String(), Envelope: j.sign(&b, next.sign).Encode()})
		}, ""},
		"its successor, which does not say so": {func(s *story, n newcomer) {
			next, _ := rotated(s, n, n.sign)
			j := s.ask(func(q *wire.Request) { q.Responders = []string{wire.PublicKey(n.sign)} })
			j.answer(next.sign, "Cleo", 1)
		}, "none of those that the job accepts"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStory(t)
			c.tell(s, comes(t))
			v := verified(s, s.messages)
			switch {
			case c.want == "" && v.Wrong != 0, c.want != "" && (v.Wrong != 1 || !strings.Contains(v.Problems[0].What, c.want)):
				t.Errorf("%d problems: %v", v.Wrong, v.Problems)
			}
		})
	}
}
