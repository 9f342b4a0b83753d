package audit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

func ledger(x Extent, messages []Message) *Ledger {
	l := NewLedger(x)
	for _, m := range messages {
		l.Add(m)
	}
	return l
}

func checkpoint(t testing.TB, messages []Message) Checkpoint {
	t.Helper()
	kp := key(t, NewAuditKey)
	file, made, err := ledger(extent(messages), messages).Checkpoint(kp, begin)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ReadCheckpoint(file, wire.PublicKey(kp))
	if err != nil {
		t.Fatal(err)
	}
	if c.Hash != made.Hash || c.Count != uint64(len(messages)) || c.Relay != relay || c.Stream != "CFA" || c.Made != begin.Unix() {
		t.Fatalf("%+v", c)
	}
	return c
}

// plain is a stream of n messages whose content is no matter.
func plain(n int) []Message {
	var out []Message
	for i := range n {
		out = append(out, Message{Seq: uint64(i + 1), Subject: fmt.Sprintf("%sx%d", RequestPrefix, i%3), Time: begin.Add(time.Duration(i) * time.Second), Data: fmt.Appendf(nil, "%d", i)})
	}
	return out
}

func TestACheckpointFindsWhatChangedSince(t *testing.T) {
	t.Parallel()
	s := told(t)
	c := checkpoint(t, s.messages)
	if c.Block != 1 {
		t.Fatalf("blocks of %d", c.Block)
	}
	n := len(s.messages)
	for _, tc := range []struct {
		name   string
		tamper func([]Message) []Message
		want   []string // in one of the problems each; none: no problem
	}{
		{"nothing", func(m []Message) []Message { return m }, nil},
		{"more since", func(m []Message) []Message {
			return append(m, Message{Seq: uint64(n + 1), Subject: "x", Data: []byte("x")})
		}, nil},
		{"changed", func(m []Message) []Message { m[4].Data = []byte("x"); return m }, []string{"sequence 5, request.", "changed: "}},
		{"a subject changed", func(m []Message) []Message { m[4].Subject += "x"; return m }, []string{"changed: "}},
		{"dropped", func(m []Message) []Message { return slices.Delete(m, 4, 5) }, []string{"sequence 5: dropped"}},
		{"dropped, and numbered anew", func(m []Message) []Message { return renumbered(slices.Delete(m, 4, 5)) },
			[]string{"what the checkpoint has at sequence 6 now stands here", "at this sequence is nowhere in the store", fmt.Sprintf("sequence %d is cut off", n)}},
		{"reordered", func(m []Message) []Message { m[2], m[3] = m[3], m[2]; return renumbered(m) },
			[]string{"sequence 3, request.", "what the checkpoint has at sequence 4 now stands here", "what the checkpoint has at sequence 3 now stands here"}},
		{"cut off", func(m []Message) []Message { return m[:n-3] }, []string{fmt.Sprintf("sequences %d to %d are cut off at the end", n-2, n)}},
		{"cut off, and something else since", func(m []Message) []Message {
			m = m[:n-3]
			for i := range 5 {
				m = append(m, Message{Seq: uint64(len(m) + 1), Subject: "x", Time: begin, Data: fmt.Appendf(nil, "%d", i)})
			}
			return m
		}, []string{fmt.Sprintf("sequence %d, x", n-2), "changed: "}},
		{"all of it", func([]Message) []Message { return nil }, []string{"cut off at the end"}},
		// Consistent in itself: a relay that never asked.
		{"a request's whole chain left out", func(m []Message) []Message {
			subject := m[1].Subject
			return renumbered(slices.DeleteFunc(m, func(m Message) bool { return m.Subject == subject }))
		}, []string{"nowhere in the store"}},
		{"a rewritten chain", func(m []Message) []Message {
			i := at(t, m, lifecycle.EventAsked, 0)
			return rewritten(t, m, i, func(f map[string]json.RawMessage) { f["rule"] = json.RawMessage(`"another"`) })
		}, []string{"sequence 1, request.", "changed: "}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := tc.tamper(cloned(s.messages))
			x := extent(m)
			d := ledger(x, m).Compare(c, begin.Add(time.Hour))
			if len(tc.want) == 0 && d.Wrong != 0 || len(tc.want) == 0 && d.Same != uint64(n) {
				t.Errorf("%+v", d)
			}
			for _, want := range tc.want {
				if !slices.ContainsFunc(d.Problems, func(p Problem) bool { return strings.Contains(p.String(), want) }) {
					t.Errorf("not found: %s\nfound: %v", want, d.Problems)
				}
			}
		})
	}
}

// A rewritten record passes every check of its own, and is found all the same.
func TestOnlyACheckpointFindsAConsistentForgery(t *testing.T) {
	t.Parallel()
	s := told(t)
	c := checkpoint(t, s.messages)
	forged := rewritten(t, cloned(s.messages), at(t, s.messages, lifecycle.EventAsked, 0), func(f map[string]json.RawMessage) { f["rule"] = json.RawMessage(`"another"`) })
	if v := verified(s, forged); v.Wrong != 0 {
		t.Fatalf("the forgery is not consistent: %v", v.Problems)
	}
	if d := ledger(extent(forged), forged).Compare(c, begin); d.Wrong == 0 {
		t.Error("and no checkpoint finds it")
	}
}

func TestACheckpointOfMuchIsSmall(t *testing.T) {
	t.Parallel()
	m := plain(50_000)
	kp := key(t, NewAuditKey)
	file, c, err := ledger(extent(m), m).Checkpoint(kp, begin)
	if err != nil || len(file) > MaxCheckpoint || len(c.Blocks) > mostBlocks || c.Block != 16 {
		t.Fatalf("%d bytes, %d blocks of %d: %v", len(file), len(c.Blocks), c.Block, err)
	}
	if c, err = ReadCheckpoint(file, ""); err != nil {
		t.Fatal(err)
	}
	l := ledger(extent(m), m)
	if d := l.Compare(c, begin); d.Wrong != 0 || d.Same != 50_000 {
		t.Errorf("%+v", d)
	}
	for name, change := range map[string]func([]Message) []Message{
		"changed":   func(m []Message) []Message { m[20_000].Data = []byte("x"); return m },
		"reordered": func(m []Message) []Message { m[20_000], m[20_001] = m[20_001], m[20_000]; return renumbered(m) },
		"dropped":   func(m []Message) []Message { return slices.Delete(m, 20_000, 20_001) },
	} {
		other := change(slices.Clone(m))
		d := ledger(extent(other), other).Compare(c, begin)
		if d.Wrong != 1 || d.Problems[0].Seq != 20_000 || !strings.Contains(d.Problems[0].What, "sequences 20000 to 20015") || d.Same != 50_000-16 {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestWhatAgedOutIsNoProblemAndWhatWasRemovedIs(t *testing.T) {
	t.Parallel()
	m := plain(50_000)
	c := checkpoint(t, m)
	left := m[30_001:] // in the middle of a block
	x := extent(left)
	long := begin.Add(31 * 24 * time.Hour)
	if d := ledger(x, left).Compare(c, long); d.Wrong != 0 || d.Gone != 30_001 || d.Unknown == 0 || d.Gone+d.Unknown+d.Same != 50_000 {
		t.Errorf("after the time: %+v", d)
	}
	d := ledger(x, left).Compare(c, begin.Add(20*24*time.Hour))
	if d.Wrong != 1 || !strings.Contains(d.Problems[0].String(), "before the 720h0m0s were over") {
		t.Errorf("before it: %+v", d)
	}
	all := Extent{Stream: "CFA", Relay: relay, First: 60_000, Last: 59_999, Keep: x.Keep}
	if d := ledger(all, nil).Compare(c, long); d.Wrong != 0 || d.Gone != 50_000 {
		t.Errorf("all of it, after the time: %+v", d)
	}
	if d := ledger(all, nil).Compare(c, begin); d.Wrong == 0 {
		t.Error("all of it, before: nothing found")
	}
}

func TestACheckpointIsItsSigners(t *testing.T) {
	t.Parallel()
	m := plain(5)
	kp, other := key(t, NewAuditKey), key(t, NewAuditKey)
	file, _, err := ledger(extent(m), m).Checkpoint(kp, begin)
	if err != nil {
		t.Fatal(err)
	}
	good, err := ReadCheckpoint(file, wire.PublicKey(kp))
	if err != nil {
		t.Error(err)
	}
	if _, err := ReadCheckpoint(file, wire.PublicKey(other)); err == nil || !strings.Contains(err.Error(), "is not signed by") {
		t.Errorf("with another key: %v", err)
	}
	if _, err := ReadCheckpoint(file, wire.PublicKey(key(t, wire.NewSigningKey))); err == nil {
		t.Error("a responder's key is taken for an audit key")
	}
	if _, _, err := ledger(extent(m), m).Checkpoint(key(t, wire.NewSigningKey), begin); err == nil {
		t.Error("a responder's key signs checkpoints")
	}
	for i := range file {
		changed := bytes.Clone(file)
		changed[i] ^= 1
		if c, err := ReadCheckpoint(changed, wire.PublicKey(kp)); err == nil && !reflect.DeepEqual(c, good) {
			t.Errorf("byte %d changed: it says %+v", i, c)
		}
	}
	// Of another relay or stream.
	c, err := ReadCheckpoint(file, "")
	if err != nil {
		t.Fatal(err)
	}
	x := extent(m)
	x.Relay = "other.test"
	if d := ledger(x, m).Compare(c, begin); d.Wrong == 0 {
		t.Error("another relay's stream passes")
	}
}

func TestAnEmptyRecordHasACheckpoint(t *testing.T) {
	t.Parallel()
	c := checkpoint(t, nil)
	m := plain(3)
	if d := ledger(extent(m), m).Compare(c, begin); d.Wrong != 0 {
		t.Errorf("%+v", d)
	}
}

// A checkpoint whose signer says nonsense costs nothing but a refusal.
func TestACheckpointThatMakesNoSenseIsRefused(t *testing.T) {
	t.Parallel()
	kp := key(t, NewAuditKey)
	good := checkpoint(t, plain(5))
	good.Key = wire.PublicKey(kp)
	for name, change := range map[string]func(*Checkpoint){
		"version":   func(c *Checkpoint) { c.V = 2 },
		"key":       func(c *Checkpoint) { c.Key = wire.PublicKey(key(t, NewAuditKey)) },
		"zero":      func(c *Checkpoint) { c.First = 0 },
		"backwards": func(c *Checkpoint) { c.Last = 1; c.First = 4 },
		"far":       func(c *Checkpoint) { c.Last = 1 << 63 },
		"block":     func(c *Checkpoint) { c.Block = 3 },
		"none":      func(c *Checkpoint) { c.Block = 0 },
		"few":       func(c *Checkpoint) { c.Blocks = c.Blocks[1:] },
		"hash":      func(c *Checkpoint) { c.Blocks = slices.Clone(c.Blocks); c.Blocks[0].Hash = "x" },
		"count":     func(c *Checkpoint) { c.Count = 9 },
	} {
		c := good
		change(&c)
		body, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		env, err := wire.SignStatement(KindCheckpoint, body, kp)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadCheckpoint(env.Encode(), wire.PublicKey(kp)); err == nil {
			t.Errorf("%s: read", name)
		}
	}
	// One that speaks of more than there can be is compared in no time.
	huge := good
	huge.Block, huge.Last = 1<<60, 1<<62-1
	huge.Blocks = []Block{{1, good.Hash}, {1, good.Hash}, {1, good.Hash}, {1, good.Hash}}
	m := plain(5)
	if d := ledger(extent(m), m).Compare(huge, begin); d.Wrong == 0 {
		t.Error("and is found good")
	}
}

// Also one that its signer has made to hurt: the signature is good, whatever the
// body is.
func FuzzReadCheckpoint(f *testing.F) {
	m := plain(3)
	seed, err := nkeys.FromRawSeed(nkeys.PrefixByteOperator, bytes.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	file, _, err := ledger(extent(m), m).Checkpoint(seed, begin)
	if err != nil {
		f.Fatal(err)
	}
	var env wire.Envelope
	if err := json.Unmarshal(file, &env); err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(env.Body))
	f.Add(bytes.Replace(env.Body, []byte(`"last":3`), []byte(`"last":4611686018427387903`), 1))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := ReadCheckpoint(body, ""); err == nil {
			t.Fatal("a body alone is read as a checkpoint")
		}
		env, err := wire.SignStatement(KindCheckpoint, body, seed)
		if err != nil {
			return
		}
		c, err := ReadCheckpoint(env.Encode(), wire.PublicKey(seed))
		if err != nil {
			return
		}
		d := ledger(extent(m), m).Compare(c, begin)
		if d.Same+d.Gone+d.Unknown > 3+c.Last+1-c.First {
			t.Errorf("%+v", d)
		}
	})
}
