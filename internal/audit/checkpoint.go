package audit

// Checkpoints: a signed statement of everything so far. A record that was written
// anew, with all that follows it, is consistent in itself; only who has kept what
// it was before can tell.
//
// The messages are the leaves of a binary tree, each at the place of its sequence,
// and a checkpoint names the tree's nodes at the lowest height at which there are
// few enough of them. So a small record is compared message by message, a large
// one in blocks; and when the oldest messages have aged out, as they do, the other
// blocks can still be compared.

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/wire"
)

// KindCheckpoint is what the signature of a checkpoint is over, beside its body.
const KindCheckpoint wire.Kind = "checkpoint"

const (
	mostBlocks = 4096 // of a checkpoint
	// MaxCheckpoint bounds a checkpoint's file, in bytes.
	MaxCheckpoint = 1 << 20
	// ageSlack is how long before its time a message may seem to have aged out:
	// two machines' clocks.
	ageSlack = 10 * time.Minute
)

// Checkpoint says what a stream held.
type Checkpoint struct {
	V      int     `json:"v"`      // 1
	Key    string  `json:"key"`    // the audit key that signs it, O…
	Stream string  `json:"stream"` // its name
	Relay  string  `json:"relay"`
	Made   int64   `json:"made"`   // unix seconds, as all times here
	First  uint64  `json:"first"`  // the oldest sequence
	Last   uint64  `json:"last"`   // the newest; First-1: there is none
	Count  uint64  `json:"count"`  // how many messages there are
	Hash   string  `json:"hash"`   // over (sequence, subject, hash) of all, in order
	Keep   int64   `json:"keep"`   // for how long messages were kept then, in seconds
	Block  uint64  `json:"block"`  // sequences of a block, a power of two; blocks begin at its multiples
	Blocks []Block `json:"blocks"` // in order, from the one that First is in
}

// Block is what some sequences held.
type Block struct {
	At   int64  `json:"at"`   // when its newest message was taken; 0: it has none
	Hash string `json:"hash"` // the tree's node
}

// NewAuditKey makes a key that signs checkpoints. Its kind (O…) is none that
// anybody connects or answers with.
func NewAuditKey() (nkeys.KeyPair, error) { return nkeys.CreateOperator() }

// CheckAuditKey says whether s is the public half of an audit key.
func CheckAuditKey(s string) error {
	if len(s) != 56 || !nkeys.IsValidPublicOperatorKey(s) {
		return errors.New("not an audit key (56 characters, beginning with O)")
	}
	return nil
}

// node is a hash of the tree; all zero where there is nothing.
type node [sha256.Size]byte

func (n node) String() string { return hex.EncodeToString(n[:]) }

// leaf is a message without its place, so that one that was moved is known again.
func leaf(subject string, data []byte) node {
	sum := sha256.Sum256(data)
	h := sha256.New()
	h.Write([]byte{0})
	h.Write([]byte(subject))
	h.Write([]byte{0})
	h.Write(sum[:])
	return node(h.Sum(nil))
}

func join(a, b node) node {
	if a == (node{}) && b == (node{}) {
		return node{}
	}
	h := sha256.New()
	h.Write([]byte{1})
	h.Write(a[:])
	h.Write(b[:])
	return node(h.Sum(nil))
}

// Ledger notes what a stream holds, to make a checkpoint of or to compare with
// one.
type Ledger struct {
	Former   []string // other names that the relay had
	extent   Extent
	leaves   []held            // by sequence, from extent.First
	subjects map[string]string // one copy of each
}

type held struct {
	node
	at      int64
	subject string
}

// NewLedger is for a stream that reaches from x.First to x.Last.
func NewLedger(x Extent) *Ledger { return &Ledger{extent: x, subjects: map[string]string{}} }

// Add notes the next message. A sequence that does not rise is the Verifier's to
// report.
func (l *Ledger) Add(m Message) {
	if m.Seq < l.extent.First || m.Seq > l.extent.Last || m.Seq < l.extent.First+uint64(len(l.leaves)) {
		return
	}
	for uint64(len(l.leaves)) < m.Seq-l.extent.First {
		l.leaves = append(l.leaves, held{})
	}
	subject, ok := l.subjects[m.Subject]
	if !ok {
		subject = m.Subject
		l.subjects[subject] = subject
	}
	l.leaves = append(l.leaves, held{leaf(m.Subject, m.Data), m.Time.Unix(), subject})
}

// at is what stands at a sequence.
func (l *Ledger) at(seq uint64) held {
	if seq < l.extent.First || seq-l.extent.First >= uint64(len(l.leaves)) {
		return held{}
	}
	return l.leaves[seq-l.extent.First]
}

// tree is the node over size sequences from start on, of which those after last
// do not count, and the time of its newest message.
func (l *Ledger) tree(start, size, last uint64) (node, int64) {
	if start > min(last, l.extent.Last) || start+size-1 < l.extent.First {
		return node{}, 0 // also what ends this for a checkpoint that speaks of more than there can be
	}
	if size == 1 {
		h := l.at(start)
		return h.node, h.at
	}
	a, first := l.tree(start, size/2, last)
	b, second := l.tree(start+size/2, size/2, last)
	return join(a, b), max(first, second)
}

// total is the hash over all from first to last, and their count.
func (l *Ledger) total(first, last uint64) (string, uint64) {
	h, n := sha256.New(), uint64(0)
	for seq := first; seq <= last; seq++ {
		if at := l.at(seq); at.node != (node{}) {
			h.Write(binary.BigEndian.AppendUint64(nil, seq))
			h.Write(at.node[:])
			n++
		}
	}
	return hex.EncodeToString(h.Sum(nil)), n
}

// Checkpoint is a signed statement of what the ledger has, as a file holds it.
func (l *Ledger) Checkpoint(kp nkeys.KeyPair, now time.Time) ([]byte, Checkpoint, error) {
	pub, err := kp.PublicKey()
	if err == nil {
		err = CheckAuditKey(pub)
	}
	if err != nil {
		return nil, Checkpoint{}, fmt.Errorf("checkpoint: %w", err)
	}
	c := Checkpoint{V: 1, Key: pub, Stream: l.extent.Stream, Relay: l.extent.Relay, Made: now.Unix(), First: l.extent.First, Last: l.extent.Last, Keep: l.extent.Keep, Block: 1, Blocks: []Block{}}
	for c.Last >= c.First && c.Last/c.Block-c.First/c.Block >= mostBlocks {
		c.Block *= 2
	}
	c.Hash, c.Count = l.total(c.First, c.Last)
	if c.Last >= c.First {
		for b := c.First / c.Block; b <= c.Last/c.Block; b++ {
			n, at := l.tree(b*c.Block, c.Block, c.Last)
			c.Blocks = append(c.Blocks, Block{at, n.String()})
		}
	}
	body, err := json.Marshal(c)
	if err != nil {
		return nil, Checkpoint{}, err
	}
	env, err := wire.SignStatement(KindCheckpoint, body, kp)
	if err != nil {
		return nil, Checkpoint{}, err
	}
	return append(env.Encode(), '\n'), c, nil
}

// ReadCheckpoint reads and verifies a checkpoint. key is the audit key that it
// must be signed by; "" takes the one that it names, which shows only that it is
// undamaged.
func ReadCheckpoint(data []byte, key string) (Checkpoint, error) {
	var env wire.Envelope
	if err := wire.Decode(data, MaxCheckpoint, &env); err != nil {
		return Checkpoint{}, fmt.Errorf("not a checkpoint: %w", err)
	}
	var c Checkpoint
	if key == "" {
		if json.Unmarshal(env.Body, &c) != nil {
			return Checkpoint{}, errors.New("not a checkpoint")
		}
		key = c.Key
	}
	if err := CheckAuditKey(key); err != nil {
		return Checkpoint{}, fmt.Errorf("the checkpoint's key is %w", err)
	}
	body, err := wire.OpenStatement(env, KindCheckpoint, key)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("this checkpoint is not signed by %s, or was changed since: %w", key, err)
	}
	c = Checkpoint{}
	if err := wire.Decode(body, MaxCheckpoint, &c); err != nil {
		return Checkpoint{}, err
	}
	return c, c.check(key)
}

func (c Checkpoint) check(key string) error {
	blocks := uint64(0)
	switch {
	case c.V != 1:
		return fmt.Errorf("the checkpoint is of format %d; this program knows 1: upgrade it", c.V)
	case c.Key != key:
		return errors.New("the checkpoint names another key than the one that signed it")
	case c.First < 1 || c.Last < c.First-1 || c.Last > 1<<62 || c.Block < 1 || c.Block&(c.Block-1) != 0 || c.Block > 1<<62:
		return errors.New("the checkpoint's sequences make no sense")
	}
	if c.Last >= c.First {
		blocks = c.Last/c.Block - c.First/c.Block + 1
	}
	if uint64(len(c.Blocks)) != blocks || blocks > mostBlocks || c.Count > c.Last+1-c.First {
		return errors.New("the checkpoint has not as many blocks as it has sequences for")
	}
	for _, b := range c.Blocks {
		if raw, err := hex.DecodeString(b.Hash); err != nil || len(raw) != sha256.Size {
			return errors.New("the checkpoint has a block without a hash")
		}
	}
	return nil
}

// Compared is how a stream stands to a checkpoint of it.
type Compared struct {
	Problems []Problem
	Wrong    int    // how many there are; Problems has the first of them
	Same     uint64 // sequences of blocks that are as they were
	Gone     uint64 // sequences that have aged out since
	Unknown  uint64 // that cannot be compared, because the rest of their block has aged out
}

func (d *Compared) wrong(p Problem) {
	d.Wrong++
	if len(d.Problems) < mostProblems {
		d.Problems = append(d.Problems, p)
	}
}

// Compare says what of c is not so any more.
func (l *Ledger) Compare(c Checkpoint, now time.Time) Compared {
	var d Compared
	if c.Stream != l.extent.Stream || c.Relay != l.extent.Relay && !slices.Contains(l.Former, c.Relay) {
		d.wrong(Problem{What: fmt.Sprintf("the checkpoint is of the stream %q of the relay %q, not of this one", wire.CleanName(c.Stream, 80), wire.CleanName(c.Relay, 253))})
		return d
	}
	if c.Last < c.First {
		return d
	}
	if l.extent.Last < c.Last {
		d.wrong(Problem{Seq: max(l.extent.Last+1, c.First), What: fmt.Sprintf("%s cut off at the end: the checkpoint has what stood there", sequences(max(l.extent.Last+1, c.First), c.Last))})
	}
	if l.extent.First < c.First {
		d.wrong(Problem{Seq: l.extent.First, What: fmt.Sprintf("%s in the store, and were not when the checkpoint was made", sequences(l.extent.First, c.First-1))})
	}
	l.aged(c, now, &d)
	var differ []uint64 // beginnings of blocks
	for i, b := range c.Blocks {
		start := (c.First/c.Block + uint64(i)) * c.Block
		from, to := max(start, c.First), min(start+c.Block-1, c.Last)
		switch {
		case to < l.extent.First || from > l.extent.Last: // all of it gone, or cut off
			continue
		case from < l.extent.First: // its hash is over what is not there any more
			d.Unknown += to - l.extent.First + 1
			continue
		}
		if n, _ := l.tree(start, c.Block, c.Last); n.String() == b.Hash {
			d.Same += to - from + 1
		} else if c.Block == 1 {
			differ = append(differ, start)
		} else {
			subject := l.at(from).subject
			d.wrong(Problem{Seq: from, Subject: wire.CleanName(subject, 120), What: fmt.Sprintf("%s not as the checkpoint has them: among them something was changed, dropped or reordered", sequences(from, min(to, l.extent.Last)))})
		}
	}
	if c.Block == 1 {
		l.moved(c, differ, &d)
	}
	if d.Wrong == 0 && l.extent.First == c.First {
		if hash, count := l.total(c.First, c.Last); hash != c.Hash || count != c.Count {
			d.wrong(Problem{What: "the hash over everything is not the checkpoint's"})
		}
	}
	return d
}

// aged holds what is gone from the old end against the time for which it must
// have been kept.
func (l *Ledger) aged(c Checkpoint, now time.Time, d *Compared) {
	if l.extent.First <= c.First {
		return
	}
	d.Gone = min(l.extent.First, c.Last+1) - c.First
	keep := time.Duration(min(l.extent.Keep, c.Keep)) * time.Second
	for i, b := range c.Blocks {
		start := (c.First/c.Block + uint64(i)) * c.Block
		to := min(start+c.Block-1, c.Last)
		if to >= l.extent.First {
			return
		}
		if old := now.Sub(time.Unix(b.At, 0)); b.At != 0 && old+ageSlack < keep {
			d.wrong(Problem{Seq: max(start, c.First), Time: time.Unix(b.At, 0), What: fmt.Sprintf("gone from the store's old end, up to sequence %d, before the %s were over for which messages are kept", l.extent.First-1, keep)})
			return
		}
	}
}

// moved says of single messages whether they were changed, dropped or moved.
func (l *Ledger) moved(c Checkpoint, differ []uint64, d *Compared) {
	if len(differ) == 0 {
		return
	}
	was := map[string]uint64{} // where a message stood
	for i, b := range c.Blocks {
		was[b.Hash] = c.First + uint64(i)
	}
	is := map[string]bool{}
	for _, h := range l.leaves {
		is[h.String()] = true
	}
	run, by := uint64(0), int64(0) // sequences that hold what stood by as many away
	flush := func(end uint64) {
		if run != 0 {
			h := l.at(run)
			d.wrong(Problem{Seq: run, Subject: wire.CleanName(h.subject, 120), Time: time.Unix(h.at, 0),
				What: fmt.Sprintf("reordered: what the checkpoint has at sequence %d now stands here%s", int64(run)+by, upTo(run, end))})
		}
		run = 0
	}
	last := uint64(0)
	for _, seq := range differ {
		h := l.at(seq)
		from, known := was[h.String()]
		offset := int64(from) - int64(seq)
		if run != 0 && (!known || offset != by || seq != last+1) {
			flush(last)
		}
		switch {
		case h.node == (node{}):
			d.wrong(Problem{Seq: seq, What: "dropped: the checkpoint has a message at this sequence, and the store has none"})
		case known:
			if run == 0 {
				run, by = seq, offset
			}
		default:
			what := "changed: this is not the message that the checkpoint has at this sequence"
			if at := c.Blocks[seq-c.First]; at.At == 0 {
				what = "added: the checkpoint has nothing at this sequence"
			}
			d.wrong(Problem{Seq: seq, Subject: wire.CleanName(h.subject, 120), Time: time.Unix(h.at, 0), What: what})
		}
		if h.node != (node{}) && !is[c.Blocks[seq-c.First].Hash] && known {
			d.wrong(Problem{Seq: seq, Time: time.Unix(c.Blocks[seq-c.First].At, 0), What: "dropped or changed: what the checkpoint has at this sequence is nowhere in the store"})
		}
		last = seq
	}
	flush(last)
}

func upTo(a, b uint64) string {
	if a == b {
		return ""
	}
	return fmt.Sprintf(", and so on by the same distance up to sequence %d", b)
}
