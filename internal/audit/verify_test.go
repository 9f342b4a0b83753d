package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

func TestWhatARelayWritesIsFoundGood(t *testing.T) {
	t.Parallel()
	s := told(t)
	v := verified(s, s.messages)
	for _, p := range v.Problems {
		t.Error(p)
	}
	if v.Messages != len(s.messages) || v.Requests != 7 || v.Refusals != 2 || v.Left != 4 || v.Wrong != 0 {
		t.Errorf("%+v", v)
	}
	events := map[lifecycle.Event]bool{}
	for _, m := range s.messages {
		if rec, err := lifecycle.Decode(m.Data); err == nil {
			events[rec.Event] = true
		}
	}
	if len(events) != 13 {
		t.Errorf("the story has only the events %v", events)
	}
}

func TestARestoredRecordIsGoodAndSaysSo(t *testing.T) {
	t.Parallel()
	s := toldAgain(t)
	v := verified(s, s.messages)
	for _, p := range v.Problems {
		t.Error(p)
	}
	if len(v.Restores) != 2 || v.Restores[0].Seq+1 != v.Restores[1].Seq || v.Restores[0].Backup != lifecycle.Hash([]byte("backup")) {
		t.Fatalf("%+v", v.Restores)
	}
	if text := v.Restores[0].String(); !strings.Contains(text, fmt.Sprintf("reaches to sequence %d,", v.Restores[0].Seq-1)) || !strings.Contains(text, v.Restores[0].At.UTC().Format(time.RFC3339)) {
		t.Error(text)
	}
	rows := Rows{Most: 100, Filter: Filter{Outcome: lifecycle.WhyRestored}}
	for _, m := range s.messages {
		rows.Add(m)
	}
	if taken := rows.Taken(); len(taken) != 2 || taken[0].State != string(lifecycle.StateCancelled) || taken[1].Outcome != lifecycle.OutcomeUnknown {
		t.Errorf("%d rows are of what a restore has ended", len(taken))
	}
	// What was so before the backup is so after the restore.
	before := told(t)
	if d := ledger(extent(before.messages), before.messages).Compare(checkpoint(t, before.messages), begin); d.Wrong != 0 {
		t.Error(d.Problems)
	}
}

func TestNobodyButARestoreEndsRequestsAsRestored(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		tamper func(*story) []Message
		want   string
	}{
		"no note": {func(s *story) []Message {
			i := slices.IndexFunc(s.messages, func(m Message) bool { return m.Subject == RestoredSubject })
			return renumbered(slices.Delete(s.messages, i, i+2))
		}, "no note before it says so"},
		"the note comes after": {func(s *story) []Message {
			i := slices.IndexFunc(s.messages, func(m Message) bool { return m.Subject == RestoredSubject })
			notes := slices.Clone(s.messages[i : i+2])
			return renumbered(append(slices.Delete(s.messages, i, i+2), notes...))
		}, "no note before it says so"},
		"the note is elsewhere": {func(s *story) []Message {
			i := slices.IndexFunc(s.messages, func(m Message) bool { return m.Subject == RestoredSubject })
			s.messages[i].Subject = Prefix + "restored." + lifecycle.Hash([]byte("backup"))
			return s.messages
		}, "not about what its subject says"},
		"a note of another kind": {func(s *story) []Message {
			s.note(RestoredSubject, lifecycle.Note{About: lifecycle.AboutDropped, Name: "state", Key: "U"})
			return s.messages
		}, "not about what its subject says"},
		"a note is missing": {func(s *story) []Message {
			i := slices.IndexFunc(s.messages, func(m Message) bool { return m.Subject == RestoredSubject })
			return renumbered(slices.Delete(s.messages, i, i+1))
		}, "names one before it, which is missing"},
		"a code that was had is called cancelled": {func(s *story) []Message {
			return rewritten(t, s.messages, at(t, s.messages, lifecycle.EventRestored, 0), func(f map[string]json.RawMessage) { f["why"] = json.RawMessage(`"stopped"`) })
		}, "it differs in why"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := toldAgain(t)
			v := verified(s, tc.tamper(s))
			if !slices.ContainsFunc(v.Problems, func(p Problem) bool { return strings.Contains(p.What, tc.want) }) {
				t.Errorf("found %v", v.Problems)
			}
		})
	}
}

func TestARecordOutlivesTheRelaysName(t *testing.T) {
	t.Parallel()
	s := told(t)
	x := extent(s.messages)
	c := checkpoint(t, s.messages)
	x.Relay = "new.test"
	for _, former := range [][]string{nil, {"older.test"}, {"older.test", relay}} {
		v, l := NewVerifier(x, s.enrolled), ledger(x, s.messages)
		v.Former, l.Former = former, former
		for _, m := range s.messages {
			v.Add(m)
		}
		known := len(former) == 2
		if d := l.Compare(c, begin); (v.Wrong == 0) != known || (d.Wrong == 0) != known {
			t.Errorf("with %v: %d and %d problems", former, v.Wrong, d.Wrong)
		}
	}
}

// at is the index of the nth record of an event.
func at(t testing.TB, messages []Message, e lifecycle.Event, nth int) int {
	t.Helper()
	for i, m := range messages {
		if rec, err := lifecycle.Decode(m.Data); err == nil && rec.Event == e {
			if nth--; nth < 0 {
				return i
			}
		}
	}
	t.Fatalf("no %s", e)
	return -1
}

func TestWhatIsWrongInARecordIsFoundWhereItIs(t *testing.T) {
	t.Parallel()
	s := told(t)
	set := func(name, value string) func(map[string]json.RawMessage) {
		return func(f map[string]json.RawMessage) { f[name] = json.RawMessage(value) }
	}
	for _, tc := range []struct {
		name   string
		tamper func([]Message) []Message
		want   string // in the problem that is found
	}{
		{"a byte", func(m []Message) []Message {
			i := at(t, m, lifecycle.EventDeclined, 0)
			m[i].Data = bytes.Replace(m[i].Data, []byte(`"why":"not mine"`), []byte(`"why":"not mind"`), 1)
			return m
		}, `it differs in why`},
		{"the outcome, consistently", func(m []Message) []Message {
			return rewritten(t, m, at(t, m, lifecycle.EventDone, 0), set("outcome", `"failed"`))
		}, `"done" does not make this of the record before: it differs in outcome`},
		{"the project, consistently", func(m []Message) []Message {
			return rewritten(t, m, at(t, m, lifecycle.EventAsked, 1), set("project", `"boat"`))
		}, "project is not that of the request which the job signed"},
		{"the rule, in the middle", func(m []Message) []Message {
			return rewritten(t, m, at(t, m, lifecycle.EventGot, 0), set("rule", `"another"`))
		}, "it differs in rule"},
		{"an expiry before its time", func(m []Message) []Message {
			return rewritten(t, m, at(t, m, lifecycle.EventExpired, 0), set("at", "1700000000000"))
		}, "the record before does not allow it"},
		{"a record left out, and the store numbered anew", func(m []Message) []Message {
			i := at(t, m, lifecycle.EventOpened, 0)
			return renumbered(slices.Delete(m, i, i+1))
		}, "is not that of the record before"},
		{"the beginning left out, and the store numbered anew", func(m []Message) []Message {
			return renumbered(slices.Delete(m, 1, 2))
		}, "first on its subject and names one before it"},
		{"a record left out", func(m []Message) []Message { return slices.Delete(m, 3, 4) }, "sequence 4 is missing in the store"},
		{"two that changed places", func(m []Message) []Message {
			i, j := at(t, m, lifecycle.EventOpened, 0), at(t, m, lifecycle.EventAnswered, 0)
			m[i].Data, m[j].Data = m[j].Data, m[i].Data
			return m
		}, "is not that of the record before"},
		{"a request's record under another's subject", func(m []Message) []Message {
			m[1].Subject = RequestPrefix + wire.PublicKey(key(t, wire.NewConnectKey))
			return m
		}, "another request's than its subject says"},
		{"another responder's signature", func(m []Message) []Message {
			eve := key(t, wire.NewSigningKey)
			other := newStory(t)
			other.ana = eve
			j := other.ask(nil)
			j.answer(eve, "Ana", 1)
			return slices.Concat(m, renumberedFrom(other.messages, len(m)+1))
		}, "is not enrolled for the project rocket"},
		{"an enrolled one that the job does not accept", func(m []Message) []Message {
			s.now = begin
			more := &story{t: t, now: begin, ana: s.ana, bob: s.bob, last: map[string]lifecycle.Record{}, hash: map[string]string{}}
			j := more.ask(func(q *wire.Request) { q.Responders = []string{wire.PublicKey(s.bob)} })
			j.answer(s.ana, "Ana", 1)
			return slices.Concat(m, renumberedFrom(more.messages, len(m)+1))
		}, "none of those that the job accepts"},
		{"a step that another job signed", func(m []Message) []Message {
			i, j := at(t, m, lifecycle.EventCancelled, 0), at(t, m, lifecycle.EventNext, 0)
			next, err := lifecycle.Decode(m[j].Data)
			if err != nil {
				t.Fatal(err)
			}
			return rewritten(t, m, i, set("cause", string(next.Cause)))
		}, "the job did not sign what caused it"},
		{"a request of another relay", func(m []Message) []Message {
			more := newStory(t)
			more.ask(func(q *wire.Request) { q.Relay = "other.test" })
			return slices.Concat(m, renumberedFrom(more.messages, len(m)+1))
		}, `made to the relay "other.test"`},
		{"more after the end", func(m []Message) []Message {
			last := m[at(t, m, lifecycle.EventDeclined, 0)]
			last.Seq = uint64(len(m) + 1)
			return append(m, last)
		}, "after an end that nothing comes after"},
		{"a token's note under another hash", func(m []Message) []Message {
			i := subject(t, m, UnboundPrefix)
			m[i].Subject = UnboundPrefix + lifecycle.Hash([]byte("other"))
			return m
		}, "the note is not about what its subject says"},
		{"a note of absence changed", func(m []Message) []Message {
			i := subject(t, m, AwayPrefix)
			m[i].Data = bytes.Replace(m[i].Data, []byte(`"person":"Ana"`), []byte(`"person":"Bob"`), 1)
			return m
		}, "is not that of the record before"},
		{"an absence that ends later than was said", func(m []Message) []Message {
			return append(m, absence(t, s, s.ana, m, func(n *lifecycle.Note) { n.Until += 1000 }, time.Hour, 0)...)
		}, "does not end when the responder said"},
		{"an absence that another signed", func(m []Message) []Message {
			return append(m, absence(t, s, s.bob, m, func(n *lifecycle.Note) { n.Key, n.Name = wire.PublicKey(s.ana), wire.PublicKey(s.ana) }, time.Hour, 0)...)
		}, "did not sign that it is away, or back"},
		{"an absence said to another relay", func(m []Message) []Message {
			return append(m, absence(t, s, s.ana, m, func(n *lifecycle.Note) {
				env, err := wire.SignAway(s.ana, "other.test", time.UnixMilli(n.At), time.UnixMilli(n.Until), time.Time{})
				if err != nil {
					t.Fatal(err)
				}
				n.Envelope = env.Encode()
			}, time.Hour, 0)...)
		}, `said it to the relay "other.test"`},
		{"an absence said long before", func(m []Message) []Message {
			return append(m, absence(t, s, s.ana, m, nil, time.Hour, -wire.AwayWithin-2*time.Second)...)
		}, "did not say it when it was recorded"},
		{"an absence recorded again, after a return", func(m []Message) []Message {
			old, err := lifecycle.DecodeNote(m[subject(t, m, AwayPrefix)].Data)
			if err != nil {
				t.Fatal(err)
			}
			return append(m, absence(t, s, s.ana, m, func(n *lifecycle.Note) { n.At, n.Until, n.Envelope = old.At, old.Until, old.Envelope }, time.Hour, 0)...)
		}, "said it before what is recorded before it"},
		{"a run barred in the name of another", func(m []Message) []Message {
			i := subject(t, m, DeclinedPrefix)
			m[i].Data = bytes.Replace(m[i].Data, []byte(`"person":"Bob"`), []byte(`"person":"Ana"`), 1)
			return m
		}, "is not what the decline was"},
		{"another run barred", func(m []Message) []Message {
			i := subject(t, m, DeclinedPrefix)
			m[i].Subject = DeclinedPrefix + lifecycle.Hash([]byte("rocket\x001/78/1"))
			return m
		}, "is not what the decline was"},
		{"a run barred that nobody declined", func(m []Message) []Message {
			i := subject(t, m, DeclinedPrefix)
			asked, err := lifecycle.Decode(m[0].Data)
			if err != nil {
				t.Fatal(err)
			}
			declined, err := lifecycle.Decode(m[1].Data)
			if err != nil {
				t.Fatal(err)
			}
			m[i].Data = bytes.Replace(m[i].Data, []byte(declined.Key), []byte(asked.Key), 1)
			return m
		}, "was not declined before"},
		{"a refusal changed", func(m []Message) []Message {
			i := subject(t, m, RefusedPrefix)
			m[i].Data = bytes.Replace(m[i].Data, []byte(`expired`), []byte(`expirex`), 1)
			return m
		}, "is not that of the record before"},
		{"nonsense", func(m []Message) []Message { m[4].Data = []byte("{}"); return m }, "damaged record"},
		{"a subject of nothing", func(m []Message) []Message {
			return append(m, Message{Seq: uint64(len(m) + 1), Subject: "cfa.store.v1.x", Time: begin, Data: []byte("{}")})
		}, "no message of the record has such a subject"},
		{"an unknown family", func(m []Message) []Message {
			return append(m, Message{Seq: uint64(len(m) + 1), Subject: Prefix + "new.x", Time: begin, Data: m[0].Data})
		}, "not a note"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := verified(s, tc.tamper(cloned(s.messages)))
			if !slices.ContainsFunc(v.Problems, func(p Problem) bool { return strings.Contains(p.String(), tc.want) }) {
				t.Errorf("not found: %s\nfound: %v", tc.want, v.Problems)
			}
			if v.Wrong > 4 {
				t.Errorf("%d problems for one change: %v", v.Wrong, v.Problems)
			}
			for _, p := range v.Problems {
				if p.Seq == 0 || strings.Contains(p.String(), sealed.String()) {
					t.Errorf("no place, or too much said: %s", p)
				}
			}
		})
	}
}

// absence is a note of one more that follows the ones that there are, as whoever
// holds the store could write it.
func absence(t testing.TB, s *story, by nkeys.KeyPair, m []Message, change func(*lifecycle.Note), until, said time.Duration) []Message {
	t.Helper()
	at := s.now
	more := &story{t: t, now: at, ana: by, last: map[string]lifecycle.Record{}, hash: map[string]string{}}
	more.away(by, at.Add(until), at.Add(said))
	n, err := lifecycle.DecodeNote(more.messages[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(&n)
	}
	subject := AwayPrefix + n.Key
	for _, before := range m {
		if before.Subject == subject {
			n.Prev = lifecycle.Hash(before.Data)
		}
	}
	data, err := n.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return []Message{{Seq: uint64(len(m) + 1), Subject: subject, Time: at, Data: data}}
}

func cloned(m []Message) []Message {
	out := slices.Clone(m)
	for i := range out {
		out[i].Data = bytes.Clone(out[i].Data)
	}
	return out
}

func renumberedFrom(m []Message, n int) []Message {
	out := slices.Clone(m)
	for i := range out {
		out[i].Seq = uint64(n + i)
	}
	return out
}

func subject(t testing.TB, m []Message, prefix string) int {
	t.Helper()
	i := slices.IndexFunc(m, func(m Message) bool { return strings.HasPrefix(m.Subject, prefix) })
	if i < 0 {
		t.Fatalf("no %s", prefix)
	}
	return i
}

// What retention takes is the oldest, so a request can have lost its beginning,
// and nothing is wrong then; but only with what is as old.
func TestWhatHasAgedOutIsNotCalledMissing(t *testing.T) {
	t.Parallel()
	s := told(t)
	for cut := 1; cut < len(s.messages); cut++ {
		if v := verified(s, s.messages[cut:]); v.Wrong != 0 {
			t.Fatalf("cut after %d: %v", cut, v.Problems)
		}
	}
	young := cloned(s.messages[1:])
	i := at(t, young, lifecycle.EventApproved, 1)
	young = slices.DeleteFunc(young[:i+1], func(m Message) bool { return m.Subject == young[i].Subject && m.Seq != young[i].Seq })
	young[len(young)-1].Time = begin.Add(straddles + 1e9)
	v := NewVerifier(extent(young), s.enrolled)
	for _, m := range young {
		v.Add(m)
	}
	if !slices.ContainsFunc(v.Problems, func(p Problem) bool { return strings.Contains(p.What, "was not old enough to go") }) {
		t.Errorf("found: %v", v.Problems)
	}
}

func TestAStoreThatEndsBeforeItSaysIsFound(t *testing.T) {
	t.Parallel()
	s := told(t)
	v := NewVerifier(extent(s.messages), s.enrolled)
	for _, m := range s.messages[:10] {
		v.Add(m)
	}
	v.End()
	if v.Wrong != 1 || !strings.Contains(v.Problems[0].What, "missing at the end") {
		t.Errorf("%v", v.Problems)
	}
}

// A store that is damaged as a whole is reported in bounded space.
func TestProblemsAreBounded(t *testing.T) {
	t.Parallel()
	v := NewVerifier(Extent{First: 1, Last: 5000}, func(string, string) bool { return true })
	for i := range 5000 {
		v.Add(Message{Seq: uint64(i + 1), Subject: "x\x1b[2J", Data: []byte("x")})
	}
	if v.Wrong != 5000 || len(v.Problems) != mostProblems || strings.Contains(v.Problems[0].String(), "\x1b") {
		t.Errorf("%d problems, %d kept, %q", v.Wrong, len(v.Problems), v.Problems[0])
	}
}
