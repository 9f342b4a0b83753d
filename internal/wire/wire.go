// Package wire is what travels between a CI job, a relay and a responder:
// signed envelopes, the messages around them, the subjects they go to, the
// limits of each, and the strict decoding of all of it.
//
// The rule it keeps: bytes are verified first and decoded second, exactly as
// they came, and what was signed is passed on unchanged. There is no canonical
// JSON to get wrong. A request is named by its [Digest], never by the bytes of
// its envelope, because those can be altered without breaking the signature
// (white space, for one).
//
// The whole format is described, with a worked example whose bytes the tests
// of this package verify, in PROTOCOL.md.
package wire

import (
	"errors"
	"fmt"
	"time"
)

// Version is the protocol's version, `v` in each envelope.
const Version = 1

// Limits of the protocol. Sizes are in bytes.
const (
	// MaxMessage bounds any one NATS message. The relay sets the same limit in
	// the accounts it mints users into, so a larger one never reaches it.
	MaxMessage = 64 << 10
	// MaxEnvelope bounds one encoded envelope: small enough that a message can
	// hold a request, an alive answer and an ID token together.
	MaxEnvelope = 16 << 10
	// MaxBody bounds the body inside an envelope.
	MaxBody = 11 << 10
	// MaxToken bounds an ID token. GitHub's are about 1.5 KiB; repositories with
	// many custom properties have longer ones.
	MaxToken = 16 << 10
	// MaxText bounds the job's message and a human's reason.
	MaxText = 1000
	// MaxLink bounds a URL shown to a human.
	MaxLink = 2048
	// MaxDetails bounds what a job adds for a human who wants to read more. With
	// JSON's escapes it must fit MaxBody; who writes it sees to that.
	MaxDetails = 6000
	// MaxArtifacts bounds the files that one request is about: more than a human
	// reads before saying yes.
	MaxArtifacts = 32
	// MaxOpenRun and MaxOpenProject bound the requests that are open at once, of
	// one run of a CI and of a project: a workflow gone bad must not bury what
	// others ask under its own.
	MaxOpenRun     = 16
	MaxOpenProject = 64
	// MaxAwayHour bounds how often a responder can say within an hour that it is
	// away: each is a record. That it is back it can always say.
	MaxAwayHour = 10
)

// Times of the protocol, the same for every program.
const (
	// ReRead is how often a client reads the state again, hint or no hint.
	ReRead = 15 * time.Second
	// AliveWithin is how long a responder waits for the job's alive answer.
	AliveWithin = 30 * time.Second
	// OpeningLasts is how long an opening counts as verified.
	OpeningLasts = 10 * time.Minute
	// ChallengeEvery is the least time between two challenges of one responder
	// to one request.
	ChallengeEvery = 5 * time.Second
	// KeepAnswer is how long a responder holds a sealed answer that the job has
	// not confirmed.
	KeepAnswer = 75 * time.Second
	// ConnectWithin is how far the time in a client's `connect` may be from the
	// relay's own, ahead or back.
	ConnectWithin = 10 * time.Minute
	// LongestAway is the longest absence that a responder can announce at once. The
	// record keeps what was said for as long at least.
	LongestAway = 30 * 24 * time.Hour
	// AwayWithin is how far the time in a responder's `away` may be from the relay's
	// own, ahead or back.
	AwayWithin = 10 * time.Minute
	// LongestWait is the longest that a request may wait for its human.
	LongestWait = 6 * time.Hour
)

var (
	// ErrMalformed says that bytes do not have the form this protocol demands.
	ErrMalformed = errors.New("malformed message")
	// ErrSignature says that a signature does not fit its body and signer.
	ErrSignature = errors.New("signature does not verify")
	// ErrVersion says that the other side speaks another version.
	ErrVersion = errors.New("unknown protocol version")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
}
