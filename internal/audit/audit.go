// Package audit reads the relay's record: the stream of transitions, which is at
// once the state of each request and the account of how it came about.
//
// The rule it keeps: **it believes nothing because the relay says so.** Whoever
// holds the store can write anything into it, so each record is held against
// what others have signed (the job its steps, a responder its answer), against
// the record before it, by the hash in it, and against what package lifecycle
// makes of that record and that cause: bytes that the machine would not have
// written are found. What is consistent in itself and yet not what was there, a
// [Checkpoint] finds, signed with a key that the relay never holds and kept where
// its administrator cannot reach.
//
// What it cannot show: that a job's ID token was good, since no token is kept;
// the record says what the request was let in by, and its signature that the one
// key asked for it all. And a relay that writes nothing at all leaves no trace.
//
// It never holds a code. Neither a code's hash nor a token's leaves it: what it
// gives to people ([Row], [Event], [Refused]) has no field for them.
package audit

import (
	"fmt"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/lifecycle"
)

// The subjects of the stream. Below Prefix each family has a word of its own.
const (
	Prefix        = "cfa.store.v1."
	RequestPrefix = Prefix + "request." // and the job's key: lifecycle.Record
	// DeclinedPrefix is of runs that were declined: lifecycle.Hash of project, zero
	// byte and run; lifecycle.Note.
	DeclinedPrefix   = Prefix + "declined."
	UnboundPrefix    = Prefix + "unbound."    // and the token's hash: lifecycle.Note
	AwayPrefix       = Prefix + "away."       // and the responder's signing key: lifecycle.Note
	InvitationPrefix = Prefix + "invitation." // and the invitation's key: lifecycle.Note
	EnrolmentPrefix  = Prefix + "enrolment."  // and the project, and the responder's connecting key: lifecycle.Note
	DroppedPrefix    = Prefix + "dropped."    // and the sender's key: lifecycle.Note
	// RefusedPrefix is of what was refused: then who was (RefusedOutside or
	// RefusedInside), and which run of which relay wrote it.
	RefusedPrefix  = Prefix + "refused."
	RefusedOutside = "outside" // who had proved nothing that counts here, or fitted no rule
	RefusedInside  = "inside"  // responders and the jobs of accepted requests
	// RestoredSubject is where it stands that the record was restored from a
	// backup: lifecycle.Note.
	RestoredSubject = Prefix + "restored.record"
)

// Message is one message of the stream.
type Message struct {
	Seq     uint64    `json:"seq"`
	Subject string    `json:"subject"`
	Time    time.Time `json:"time"` // when the store took it, by its own clock; of a restored one, when the store before did
	Data    []byte    `json:"data"`
}

// MaxMessage bounds Data: what the stream takes.
const MaxMessage = 2 * lifecycle.MaxRecord

// Extent is what a stream holds when it is read.
type Extent struct {
	Stream string `json:"stream"`
	Relay  string `json:"relay"`
	First  uint64 `json:"first"` // the oldest sequence that is there
	Last   uint64 `json:"last"`  // the newest; First-1 where there is none
	// Keep is for how long messages are kept, in seconds.
	Keep int64 `json:"keep"`
	// Format is the store's, and Created when it was made.
	Format  int       `json:"format,omitempty"`
	Created time.Time `json:"created,omitzero"`
	// Restored is when it was restored from a backup, unix milliseconds; 0: never.
	Restored int64 `json:"restored,omitempty"`
}

// Problem is one thing that is not as the relay would have written it.
type Problem struct {
	Seq     uint64    `json:"seq,omitempty"`
	Subject string    `json:"subject,omitempty"`
	Time    time.Time `json:"time,omitzero"`
	What    string    `json:"what"`
}

// String has the sequence first, by which the message is found.
func (p Problem) String() string {
	var b strings.Builder
	if p.Seq != 0 {
		fmt.Fprintf(&b, "sequence %d", p.Seq)
		if p.Subject != "" {
			fmt.Fprintf(&b, ", %s", strings.TrimPrefix(p.Subject, Prefix))
		}
		if !p.Time.IsZero() {
			fmt.Fprintf(&b, ", %s", p.Time.UTC().Format(time.RFC3339))
		}
		b.WriteString(": ")
	}
	b.WriteString(p.What)
	return b.String()
}
