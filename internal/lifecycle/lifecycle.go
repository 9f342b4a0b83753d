// Package lifecycle is the state machine of one request, and nothing else: no NATS, no goroutine, no clock, no file.
//
// The rule it keeps: **what happens to a request is decided here, from one record and one input.** A [Record] is whole:
// the last one of a request says all that the next decision needs, so a relay that has just started, or has lost a
// race, decides the same as any other. [Apply] turns the last record and an [Input] into the next record or into an
// error that says why not; it never changes the record it was given, and time comes in as an argument. The caller
// appends the result with compare-and-swap on the record it started from, and applies the input anew when it lost.
//
//	             ┌───────────────── attempt + 1 ────────────────┐
//	             │                        │                     │
//	             │               undelivered, unusable    rejected, next
//	             ▼                        │                     │
//	ask ─────▶ pending ───answer───▶ answered ───got(n)───▶ delivered ───done───▶ done
//	             │                        │                                        ▲
//	          decline              expire, cancel, lost                      late got(n):
//	   expire, cancel, lost               │                                 outcome unknown
//	             ▼                        ▼                                        │
//	declined, expired, cancelled     expired, cancelled ── ended by the clock ─────┘
//
//	from               input                               to         remark
//	pending            open; a yes that is not the last    the same   a record only
//	answered           open                                the same   a record only
//	pending            next after a yes; an unusable yes   pending    attempt + 1
//	pending            done of a link; the last yes        done
//	pending, answered  got(n), n given up as undelivered   delivered  the attempt does not fall back
//	any not final      unusable(n), n given up likewise    the same   the key is shut out
//	delivered          rejected at the limit of codes      cancelled
//	delivered          expire, cancel, lost, restored      done       outcome unknown
//	pending, answered  restored                            cancelled  like lost: a late got still counts
//
// # Attempts
//
// An attempt is one chance for one human to answer. Its number only rises, and at most one answer is ever recorded
// under it. The job is the arbiter: only its signed `rejected(n)` or `next` ends an attempt whose answer it holds. The
// relay's clock ends one by itself in a single case: nothing came back for [UndeliveredAfter] after the answer.
//
// `got(n)` counts in any state, as the job's word about what it holds outweighs the relay's guess: each answer that was
// given up as undelivered is remembered in [Record.Past] (the last [MaxPast] of them), and a got that names its attempt
// and hash makes it the request's answer again. The attempt number does not fall back then; [Record.AnswerAttempt] says
// which attempt the answer belongs to, and the job's `rejected` and `next` are about that number. They open the attempt
// after it, which the clock had opened already: so it is open again under the same number, and both sides count alike.
//
// Two limits. An attempt older than one that the job has since rejected or gone beyond is over. And what ended by a
// **signed** word (declined, cancelled by the job, too many refused codes) stays ended; what ended by the relay's
// **clock** (expired, lost) or by a restore does not: the late got turns it into `done` with outcome unknown, by one more record. That is
// the only way out of a final state, because a job that holds a code may have used it, and an audit trail must not say
// otherwise.
//
// A job that goes after got (lost, its deadline, or its own cancel) leaves `done`, outcome unknown, never `cancelled`.
//
// # Refused and unusable
//
// A code that the service refused counts against the project's limit ([Record.Attempts]): the refusal that reaches it
// ends the request as cancelled, [WhyRefused]. An answer that did not open, or that the job may not accept, is unusable:
// it says nothing about the human's code, so it does not count, but its key is shut out of the request: it can neither
// open, answer nor approve any more. It can still decline, since a human's no is always heard.
//
// # Two people
//
// With two approvals, approval n is attempt n, and the job signs `next` in between, having checked the first one. For a
// request of kind approval, both are a signed yes and the second ends it as done. For a code or a link the first is a
// yes, and the second is the code or the link, so no code reaches a job before another person has agreed ([ErrApproval]).
// No key counts twice ([ErrSamePerson]). That two keys are one person is for the job to find, by its pins: it rejects
// such an answer as unusable. Once two people stand behind a request, any further code may come from either.
//
// # Time
//
// A request has one deadline, whatever the attempt. From then on nothing new is taken from humans; the job may still say
// what has happened (got, rejected, done, cancel). [Record.Clock] names the next thing that time does to a request.
// Whether a job is lost is not in its record: the relay listens for [LostAsk], asks, waits [LostAfter], applies [Lost].
package lifecycle

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// The times of a request. DESIGN.md, "Life of a job" and "Delivery".
const (
	// UndeliveredAfter is how long an answer waits for the job's got before its attempt is given up. It is shorter than
	// the 75 s for which a responder keeps the code, so that the responder still learns what became of it.
	UndeliveredAfter = 60 * time.Second
	// LostAsk is how long a job may be silent before the relay asks it for a sign of life.
	LostAsk = 90 * time.Second
	// LostAfter is how long the relay then waits before it applies Lost.
	LostAfter = 20 * time.Second
	// LongestWait bounds every deadline. A relay finds open requests by reading the stream from this long ago, so one
	// that lived longer would be forgotten.
	LongestWait = 6 * time.Hour
)

// An Input is something that happens to a request: Ask, Open, Answer, Undelivered, Got, Reject, Next, Approve, Done,
// Decline, Cancel, Expire, Lost or Restored. Signatures, digests and enrolment are the caller's to check, before Apply.
type Input interface {
	// step is the event to record and the signed envelope that causes it, nil where the relay's clock does.
	step() (Event, json.RawMessage)
	// apply changes r, a private copy of the last record, or refuses.
	apply(r *Record, at time.Time) error
}

// Apply is the one transition function. prev is the request's last record, nil only where there is none yet (for Ask).
// The record it returns lacks Op and Prev; [Record.After] sets them.
//
// An error means that nothing is to be appended. ErrSame is a success that is already recorded. The others say why the
// input does not count: see the sentinels, *TakenError and *EndedError.
func Apply(prev *Record, in Input, at time.Time) (next Record, err error) {
	if in == nil {
		return Record{}, fmt.Errorf("%w: no input", ErrInput)
	}
	event, cause := in.step()
	if prev == nil && event != EventAsked {
		return Record{}, ErrUnknown
	}
	if prev != nil {
		next = prev.clone()
	}
	next.Op, next.Prev = "", ""
	next.At = at.UnixMilli()
	if next.Cause, err = object(cause); err != nil {
		return Record{}, fmt.Errorf("%w: envelope: %w", ErrInput, err)
	}
	if err := in.apply(&next, at); err != nil {
		return Record{}, err
	}
	// Set last: apply decides by the event of the record before.
	next.Event = event
	if err := next.sound(); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrInput, err)
	}
	return next, nil
}

// Clock says what time does to the request next, and when: Undelivered or Expire; nil when the request is final. A due
// time that has passed means now. Once the deadline has passed it is always Expire, which Apply then accepts.
func (r Record) Clock(at time.Time) (due time.Time, in Input) {
	if r.State.Final() {
		return time.Time{}, nil
	}
	deadline := time.UnixMilli(r.Deadline)
	if r.State == StateAnswered && at.Before(deadline) {
		if undelivered := time.UnixMilli(r.Answered).Add(UndeliveredAfter); undelivered.Before(deadline) {
			return undelivered, Undelivered{}
		}
	}
	return deadline, Expire{}
}

// Errors of Apply. Each text may be shown to a user as it stands.
var (
	// ErrSame: this very thing is recorded already. Acknowledge it; append nothing.
	ErrSame = errors.New("already recorded, nothing has changed")
	// ErrOpenings is an ErrSame: MaxOpenings people have opened this attempt, so one more opening is not recorded. It
	// is still to be served: the list is for the audit trail, and must not keep a human from answering.
	ErrOpenings = fmt.Errorf("%w: enough openings of this attempt are recorded", ErrSame)
	// ErrUnknown: there is no record for this key, so there is nothing to act on.
	ErrUnknown = errors.New("there is no such request: ask first, or check the request id")
	// ErrKeyUsed: one key is one request, and this key has made another one.
	ErrKeyUsed = errors.New("this key has already made another request: make a new key and ask again")
	// ErrAttempt: the input names an attempt that is over, or not open yet.
	ErrAttempt = errors.New("this is about another attempt than the open one: read the request again")
	// ErrShut: an answer of this key was unusable to the job.
	ErrShut = errors.New("an earlier answer from this key was of no use to the job, so the key is shut out of this request:" +
		" let someone else answer, and check this responder's set-up")
	// ErrSamePerson: two people are needed, and this key is the one that has agreed.
	ErrSamePerson = errors.New("this request needs two people, and this key has already agreed to it: another person must go on")
	// ErrApproval: two people are needed, and the first yes is missing.
	ErrApproval = errors.New("this request needs two people: another person must agree to it first")
	// ErrNotYet: the clock's input came before its time.
	ErrNotYet = errors.New("too early: the time for this has not come")
	// ErrState: the state does not allow the input.
	ErrState = errors.New("not possible in the request's present state")
	// ErrKind: the input is not for requests of this kind (a code for an approval, a yes for a code).
	ErrKind = errors.New("not possible for a request of this kind")
	// ErrHash: the job confirms other bytes than those that were recorded for the attempt.
	ErrHash = errors.New("what was received is not what was recorded as the answer: it must not be used")
	// ErrDeadline: the request's time is over. Apply returns it inside an *EndedError, also in the moment before the
	// clock has recorded the end.
	ErrDeadline = errors.New("the deadline of this request has passed: start the job again to ask once more")
	// ErrInput: a part of the input is missing, malformed or too large.
	ErrInput = errors.New("malformed input")
)

// TakenError: this attempt has an answer, by someone else or with another content.
type TakenError struct {
	ByName string // the name of who answered; may be empty
	By     string // their signing key
}

func (e *TakenError) Error() string {
	who := fmt.Sprintf("%q", e.ByName)
	if e.ByName == "" {
		who = "the responder with key " + e.By
	}
	return who + " has already answered this attempt: there is nothing to do unless the job asks again"
}

// EndedError: the request is final, or past its deadline.
type EndedError struct {
	State State
	Why   string // as in Record.Why; may be empty
}

func (e *EndedError) Error() string {
	why := ""
	if e.Why != "" {
		// Quoted, as it may be a human's or the job's free text.
		why = fmt.Sprintf(" (%q)", e.Why)
	}
	switch e.State {
	case StateDone:
		return "this request is done" + why + ": nothing is left to do"
	case StateExpired:
		return ErrDeadline.Error()
	default:
		return "this request was " + string(e.State) + why + ": start the job again to ask once more"
	}
}

// Is makes an expired request match ErrDeadline.
func (e *EndedError) Is(target error) bool { return target == ErrDeadline && e.State == StateExpired }
