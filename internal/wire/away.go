package wire

// Absence: a responder says, signed, until when its human is not to be asked.
//
// The rule it keeps: an absence is its human's own word, and the newest one
// counts. It names the relay that it is said to, so that another relay cannot
// put it on its record; and when it was said, in milliseconds, so that one that
// comes late (a repetition, a message that waited in a network) never undoes what
// was said after it, and none can be kept and shown again later.

import (
	"time"

	"github.com/nats-io/nkeys"
)

// Away says that its signer is not to be asked until a time, or is back. Its
// signer is the responder's signing key.
type Away struct {
	Key   string `json:"key"`   // the responder's signing key, A…
	Relay string `json:"relay"` // the relay that it is said to
	At    int64  `json:"at"`    // when it was signed, in Unix milliseconds
	Until int64  `json:"until"` // in Unix seconds; what is not after At: back
}

func (*Away) kind() Kind       { return KindAway }
func (b *Away) signer() string { return b.Key }

func (b *Away) check() error {
	if err := CheckSigningKey(b.Key); err != nil {
		return err
	}
	if b.At <= 0 || b.At > maxSize || b.Until < 0 || b.Until > maxSize/1000 {
		return malformed("an absence's time is missing or out of range")
	}
	// What is recorded is kept for longer than that, so that a relay that starts
	// again finds each absence that is still in force.
	if b.Until*1000-b.At > LongestAway.Milliseconds() {
		return malformed("an absence of more than %d days", int(LongestAway/(24*time.Hour)))
	}
	return CheckRelayName(b.Relay)
}

// Back says whether it ends an absence, or begins none.
func (b *Away) Back() bool { return b.Until*1000 <= b.At }

// End is when the absence ends by itself; of a return, when it was said.
func (b *Away) End() time.Time { return time.UnixMilli(max(b.Until*1000, b.At)) }

// SignAway is a responder's word to the relay of that name: away until then, or,
// with the zero time, back. after is when it has said something before, as far as
// is known; zero: never. This one must be later, also by a clock that was set back.
func SignAway(key nkeys.KeyPair, relay string, now, until, after time.Time) (Envelope, error) {
	b := &Away{Key: PublicKey(key), Relay: relay, At: now.UnixMilli()}
	if !after.IsZero() {
		b.At = max(b.At, after.UnixMilli()+1)
	}
	if !until.IsZero() {
		b.Until = until.Unix()
	}
	return Sign(b, key)
}

// AwayMessage goes to a responder's `away` subject. Without a statement it asks
// for the one that is on record.
type AwayMessage struct {
	Away *Envelope `json:"away,omitempty"`
}

// Absent is a responder that could answer and is away, as the relay says it.
type Absent struct {
	Name  string `json:"name,omitempty"` // empty where names are hidden
	Until int64  `json:"until"`
}
