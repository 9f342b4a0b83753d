// The inputs: everything that can happen to a request, and what each does to it. A side that has lost an acknowledgement
// says the same again, so each input looks for its own repetition before it looks for reasons to refuse.

package lifecycle

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Ask begins a request. Applied to one that exists it is ErrSame for the same digest, else ErrKeyUsed.
type Ask struct {
	Key, Digest, Project, Rule, Group, Kind string
	Request                                 json.RawMessage // the signed request envelope, at most MaxRequest bytes
	Deadline                                int64           // unix milliseconds: later than now, by LongestWait at most
	Attempts                                int             // 1 to MaxRefused for a code: the refused code with this number ends it
	Approvals                               int             // 0 to 2
}

func (in Ask) step() (Event, json.RawMessage) { return EventAsked, nil }

func (in Ask) apply(r *Record, at time.Time) (err error) {
	if r.V != 0 {
		if r.Key != in.Key {
			return fmt.Errorf("%w: the last record is another key's", ErrInput)
		}
		if r.Digest != in.Digest {
			return ErrKeyUsed
		}
		return ErrSame
	}
	if in.Deadline <= at.UnixMilli() {
		return &EndedError{State: StateExpired, Why: WhyDeadline}
	}
	if in.Deadline > at.Add(LongestWait).UnixMilli() {
		return fmt.Errorf("%w: the deadline is more than %s away: ask for less", ErrInput, LongestWait)
	}
	r.V, r.State, r.Attempt, r.Reason = Version, StatePending, 1, ReasonFirst
	r.Key, r.Digest, r.Project, r.Rule, r.Group, r.Kind = in.Key, in.Digest, in.Project, in.Rule, in.Group, in.Kind
	r.Deadline, r.Attempts, r.Approvals = in.Deadline, in.Attempts, in.Approvals
	if r.Request, err = object(in.Request); err != nil {
		return fmt.Errorf("%w: request: %w", ErrInput, err)
	}
	return nil
}

// Open records that a responder has opened the prompt of an attempt; the state stays. A renewal is ErrSame, as are more
// than MaxOpenings of one attempt (ErrOpenings): both are to be served without a record. A key that could not answer
// anyway is told so here, before its human has typed anything.
type Open struct {
	Key, Name string
	Attempt   int
	Envelope  json.RawMessage // may be nil
}

func (in Open) step() (Event, json.RawMessage) { return EventOpened, in.Envelope }

func (in Open) apply(r *Record, at time.Time) error {
	if err := r.live(at); err != nil {
		return err
	}
	if slices.Contains(r.Shut, in.Key) {
		return ErrShut
	}
	if in.Attempt != r.Attempt {
		return ErrAttempt
	}
	if r.State == StateDelivered {
		return r.taken()
	}
	this := 0
	for _, o := range r.Opened {
		if o.Attempt == in.Attempt {
			if o.Key == in.Key {
				return ErrSame
			}
			this++
		}
	}
	if r.agreed(in.Key) {
		return ErrSamePerson
	}
	if this >= MaxOpenings {
		return ErrOpenings
	}
	if len(r.Opened) >= MaxOpenings {
		// The oldest is of an earlier attempt, and has a record of its own in the stream.
		r.Opened = without(r.Opened, 0)
	}
	r.Opened = append(r.Opened, Opening{Key: in.Key, Name: plain(in.Name, MaxName), Attempt: in.Attempt, At: r.At})
	return nil
}

// Answer is a responder's sealed code for an attempt. The very same again (key, attempt, hash) is ErrSame until the
// request ends; anything else for an attempt that has an answer is *TakenError.
type Answer struct {
	Key, Name string
	Attempt   int
	Sealed    string          // SHA-256 of enc ‖ ciphertext, 64 lower-case hex digits
	Envelope  json.RawMessage // the signed answer, which names the hash, not the sealed code
}

func (in Answer) step() (Event, json.RawMessage) { return EventAnswered, in.Envelope }

func (in Answer) apply(r *Record, at time.Time) error {
	if r.Kind != KindCode {
		return fmt.Errorf("%w: it takes no code", ErrKind)
	}
	// Before the deadline is looked at: a responder that repeats itself must learn that its answer is in.
	if !r.State.Final() && r.AnswerAttempt != 0 && in.Attempt == r.AnswerAttempt && in.Sealed == r.Sealed && in.Key == r.By {
		return ErrSame
	}
	if err := r.turn(in.Key, in.Attempt, at); err != nil {
		return err
	}
	if r.short() {
		return ErrApproval
	}
	r.State, r.Answer, r.AnswerAttempt, r.Sealed = StateAnswered, r.Cause, in.Attempt, in.Sealed
	r.By, r.ByName, r.Answered = in.Key, plain(in.Name, MaxName), r.At
	return nil
}

// Undelivered is the clock's: no got within UndeliveredAfter. The next attempt opens; the answer is remembered in Past.
type Undelivered struct{}

func (in Undelivered) step() (Event, json.RawMessage) { return EventUndelivered, nil }

func (in Undelivered) apply(r *Record, at time.Time) error {
	if err := r.live(at); err != nil {
		return err
	}
	if r.State != StateAnswered {
		return fmt.Errorf("%w: no answer is on its way", ErrState)
	}
	if at.UnixMilli()-r.Answered < UndeliveredAfter.Milliseconds() {
		return ErrNotYet
	}
	r.retire(ReasonUndelivered)
	r.again(r.Attempt, ReasonUndelivered)
	return nil
}

// Got is the job's word that it holds the answer to an attempt: verified and opened. It counts in any state, see the
// package's essay. Repeated, or about an answer that the job has itself rejected or gone beyond, it is ErrSame.
type Got struct {
	Attempt  int
	Sealed   string // the hash of what the job received
	Envelope json.RawMessage
}

func (in Got) step() (Event, json.RawMessage) { return EventGot, in.Envelope }

func (in Got) apply(r *Record, _ time.Time) error {
	if r.Kind != KindCode {
		return fmt.Errorf("%w: it takes no code", ErrKind)
	}
	// Ended by the clock and not by a signed word, so the job's word is the better one. The caller's Event is still that
	// of the last record.
	late := r.State.Final() && r.State != StateDone && r.Event.byClock()
	current := r.AnswerAttempt != 0 && in.Attempt == r.AnswerAttempt
	past := r.past(in.Attempt)
	switch {
	case current && in.Sealed != r.Sealed, past >= 0 && in.Sealed != r.Past[past].Sealed:
		return ErrHash
	case current && (r.State == StateDelivered || r.State == StateDone):
		return ErrSame
	case r.State.Final() && !late:
		return r.ended()
	case current:
	case past < 0:
		return ErrAttempt
	case r.Past[past].End != ReasonUndelivered:
		return ErrSame
	case r.State == StateDelivered:
		return fmt.Errorf("%w: the job holds the answer to attempt %d, and has not rejected it", ErrAttempt, r.AnswerAttempt)
	case slices.ContainsFunc(r.Past[past+1:], func(g Given) bool { return g.End != ReasonUndelivered }):
		return fmt.Errorf("%w: the job has since rejected a later one", ErrAttempt)
	default:
		g := r.Past[past]
		r.Past = without(r.Past, past)
		if r.AnswerAttempt != 0 {
			// The later answer is on its way: should the job reject this one, it may still take that.
			r.retire(ReasonUndelivered)
		}
		r.Answer, r.AnswerAttempt, r.Sealed = g.Answer, g.Attempt, g.Sealed
		r.By, r.ByName, r.Answered = g.By, g.ByName, g.At
	}
	if late {
		r.State, r.Outcome = StateDone, OutcomeUnknown
		return nil
	}
	r.State = StateDelivered
	return nil
}

// Why a job rejects an answer, in Reject.Why.
const (
	Refused  = "refused"  // the service did not take the code: needs a got, counts against Attempts
	Unusable = "unusable" // it did not open, or is not acceptable: does not count, shuts its key out
)

// Reject is the job's word that the answer to an attempt was no good: the next attempt opens, or the request ends as
// cancelled (WhyRefused, WhyUnusable). A late unusable, for an answer that was given up as undelivered, shuts the key
// out and leaves the state as it is, because the next attempt is open already. A yes can be unusable too: it is taken
// back. Repeated it is ErrSame.
type Reject struct {
	Attempt  int
	Why      string // Refused or Unusable
	Shut     string // Unusable: the key of who answered, or "" for just that; Refused: ""
	Envelope json.RawMessage
}

func (in Reject) step() (Event, json.RawMessage) { return EventRejected, in.Envelope }

func (in Reject) apply(r *Record, _ time.Time) error {
	if in.Why != Refused && in.Why != Unusable {
		return fmt.Errorf("%w: an answer is %s or %s", ErrInput, Refused, Unusable)
	}
	if in.Why == Refused && in.Shut != "" {
		return fmt.Errorf("%w: a refused code shuts nobody out", ErrInput)
	}
	if r.State.Final() {
		return r.ended()
	}
	unusable := in.Why == Unusable
	past := r.past(in.Attempt)
	yes := r.saidAt(in.Attempt)
	current := r.AnswerAttempt != 0 && in.Attempt == r.AnswerAttempt
	late := false
	switch {
	case past >= 0 && r.Past[past].End == ReasonRejected:
		return ErrSame
	case current && (unusable || r.State == StateDelivered):
		by := r.By
		r.retire(ReasonRejected)
		if unusable {
			if err := r.shut(by, in.Shut); err != nil {
				return err
			}
		} else {
			r.Rejected++
		}
	case unusable && past >= 0 && r.Past[past].End == ReasonUndelivered:
		if err := r.shut(r.Past[past].By, in.Shut); err != nil {
			return err
		}
		late = true
		r.Past[past].End, r.Past[past].Answer = ReasonRejected, nil
		if r.State == StatePending && r.Attempt == in.Attempt+1 {
			r.Reason = ReasonRejected
		}
	case unusable && yes >= 0 && r.State == StatePending && in.Attempt == r.Attempt:
		if err := r.shut(r.Yes[yes].Key, in.Shut); err != nil {
			return err
		}
		r.Yes = without(r.Yes, yes)
	case current:
		return fmt.Errorf("%w: a code is refused after got, never before", ErrState)
	case in.Attempt != r.Attempt:
		return ErrAttempt
	default:
		return fmt.Errorf("%w: this attempt has no answer to reject", ErrState)
	}
	switch {
	case late:
		// The next attempt is open, and a human may be answering it.
	case !unusable && r.Rejected >= r.Attempts:
		r.end(StateCancelled, WhyRefused)
	case len(r.Shut) >= MaxShut:
		r.end(StateCancelled, WhyUnusable)
	default:
		r.again(in.Attempt, ReasonRejected)
	}
	return nil
}

// Next is the job's wish for one more, after an answer that it holds or a yes that it has checked. Repeated it is
// ErrSame.
type Next struct {
	Attempt  int
	Envelope json.RawMessage
}

func (in Next) step() (Event, json.RawMessage) { return EventNext, in.Envelope }

func (in Next) apply(r *Record, at time.Time) error {
	if r.State.Final() {
		return r.ended()
	}
	yes := r.saidAt(in.Attempt) >= 0
	if past := r.past(in.Attempt); past >= 0 && r.Past[past].End == ReasonNext || yes && in.Attempt < r.Attempt {
		return ErrSame
	}
	if err := r.live(at); err != nil {
		return err
	}
	delivered := r.State == StateDelivered && in.Attempt == r.AnswerAttempt
	switch {
	case !delivered && in.Attempt != r.Attempt:
		return ErrAttempt
	case !delivered && (r.State != StatePending || !yes):
		return fmt.Errorf("%w: the job does not hold an answer to this attempt", ErrState)
	case r.Attempt >= MaxAttempt:
		return fmt.Errorf("%w: %d attempts are the most: start another request", ErrState, MaxAttempt)
	}
	if delivered {
		if r.Approvals == 2 && len(r.Yes) < r.people() {
			// Whoever has given a code stands behind the request as much as who has said yes.
			r.Yes = append(r.Yes, Yes{Key: r.By, Name: r.ByName, Attempt: in.Attempt, At: r.Answered, Envelope: r.Answer})
		}
		r.retire(ReasonNext)
	}
	r.again(in.Attempt, ReasonNext)
	return nil
}

// Approve is a responder's signed yes to an attempt. The last one that an approval needs ends it as done; any other is
// a record that leaves the state, until the job signs Next. The same key and attempt again is ErrSame, the same key for
// a later attempt ErrSamePerson, another key before the job's Next *TakenError.
type Approve struct {
	Key, Name string
	Attempt   int
	Envelope  json.RawMessage
}

func (in Approve) step() (Event, json.RawMessage) { return EventApproved, in.Envelope }

func (in Approve) apply(r *Record, at time.Time) error {
	if r.people() == 0 {
		return fmt.Errorf("%w: it takes no approval", ErrKind)
	}
	if slices.ContainsFunc(r.Yes, func(y Yes) bool { return y.Key == in.Key && y.Attempt == in.Attempt }) &&
		(r.State == StateDone || !r.State.Final()) {
		return ErrSame
	}
	if err := r.turn(in.Key, in.Attempt, at); err != nil {
		return err
	}
	if len(r.Yes) >= r.people() {
		return fmt.Errorf("%w: enough people have agreed", ErrState)
	}
	name := plain(in.Name, MaxName)
	r.Yes = append(r.Yes, Yes{Key: in.Key, Name: name, Attempt: in.Attempt, At: r.At, Envelope: r.Cause})
	if r.Kind == KindApproval && len(r.Yes) == r.people() {
		r.State, r.Outcome, r.By, r.ByName = StateDone, OutcomeOK, in.Key, name
	}
	return nil
}

// Done is the job's signed outcome: after a delivered code, or of a link. The same outcome again is ErrSame, also where
// the last yes has already made an approval done.
type Done struct {
	Outcome  string // OutcomeOK or OutcomeFailed
	Envelope json.RawMessage
}

func (in Done) step() (Event, json.RawMessage) { return EventDone, in.Envelope }

func (in Done) apply(r *Record, _ time.Time) error {
	if in.Outcome != OutcomeOK && in.Outcome != OutcomeFailed {
		return fmt.Errorf("%w: an outcome is %s or %s", ErrInput, OutcomeOK, OutcomeFailed)
	}
	if r.State == StateDone && r.Outcome == in.Outcome {
		return ErrSame
	}
	if r.State.Final() {
		return r.ended()
	}
	link := r.Kind == KindLink && r.State == StatePending
	if r.State != StateDelivered && !link {
		return fmt.Errorf("%w: the job has received nothing yet", ErrState)
	}
	// After a first yes it is the second person's turn only once the job has signed Next.
	if link && in.Outcome == OutcomeOK && (r.short() || r.saidAt(r.Attempt) >= 0) {
		return ErrApproval
	}
	r.State, r.Outcome = StateDone, in.Outcome
	return nil
}

// Decline is a responder's no to the whole request. Also a shut key and a person who has agreed may say it. Once a code
// has been given it is too late (*TakenError). Repeated it is ErrSame.
type Decline struct {
	Key, Name string
	Attempt   int
	Reason    string // the human's; may be empty; cut to MaxWhy bytes
	Envelope  json.RawMessage
}

func (in Decline) step() (Event, json.RawMessage) { return EventDeclined, in.Envelope }

func (in Decline) apply(r *Record, at time.Time) error {
	if r.State == StateDeclined && r.By == in.Key {
		return ErrSame
	}
	if err := r.open(in.Attempt, at); err != nil {
		return err
	}
	r.end(StateDeclined, plain(in.Reason, MaxWhy))
	r.By, r.ByName = in.Key, plain(in.Name, MaxName)
	return nil
}

// Cancel is the job's signed withdrawal. After got the outcome is unknown instead. Repeated it is ErrSame.
type Cancel struct {
	Why      string // the job's; may be empty; cut to MaxWhy bytes
	Envelope json.RawMessage
}

func (in Cancel) step() (Event, json.RawMessage) { return EventCancelled, in.Envelope }

func (in Cancel) apply(r *Record, _ time.Time) error {
	if r.Event == EventCancelled {
		return ErrSame
	}
	return r.gone(StateCancelled, plain(in.Why, MaxWhy))
}

// Expire is the clock's, at the deadline. After got the outcome is unknown instead.
type Expire struct{}

func (in Expire) step() (Event, json.RawMessage) { return EventExpired, nil }

func (in Expire) apply(r *Record, at time.Time) error {
	if !r.State.Final() && at.UnixMilli() < r.Deadline {
		return ErrNotYet
	}
	return r.gone(StateExpired, WhyDeadline)
}

// Lost is the clock's: the job has given no sign of life for LostAsk, nor within LostAfter of being asked. After got the
// outcome is unknown instead.
type Lost struct{}

func (in Lost) step() (Event, json.RawMessage) { return EventLost, nil }

func (in Lost) apply(r *Record, _ time.Time) error { return r.gone(StateCancelled, WhyLost) }

// Restored ends what was open in a backup when the record is restored from it. What has happened since is not on record,
// so nothing of it may go on: a code could have been given, or a no been said. After got the outcome is unknown instead.
type Restored struct{}

func (in Restored) step() (Event, json.RawMessage) { return EventRestored, nil }

func (in Restored) apply(r *Record, _ time.Time) error { return r.gone(StateCancelled, WhyRestored) }

// ended is the error for a final request.
func (r *Record) ended() error { return &EndedError{State: r.State, Why: r.Why} }

// taken is the error for an attempt that has an answer.
func (r *Record) taken() error { return &TakenError{ByName: r.ByName, By: r.By} }

// live refuses what comes after the end, or after the deadline even where the clock has not recorded it yet: the
// relay's clock being late must not give anybody more time.
func (r *Record) live(at time.Time) error {
	if r.State.Final() {
		return r.ended()
	}
	if at.UnixMilli() >= r.Deadline {
		return &EndedError{State: StateExpired, Why: WhyDeadline}
	}
	return nil
}

// open says whether the attempt still waits for a human.
func (r *Record) open(attempt int, at time.Time) error {
	if err := r.live(at); err != nil {
		return err
	}
	if r.AnswerAttempt != 0 && (attempt == r.Attempt || attempt == r.AnswerAttempt) {
		return r.taken()
	}
	if attempt != r.Attempt {
		return ErrAttempt
	}
	return nil
}

// turn says whether this key may answer the attempt, with a code or a yes.
func (r *Record) turn(key string, attempt int, at time.Time) error {
	if err := r.live(at); err != nil {
		return err
	}
	if slices.Contains(r.Shut, key) {
		return ErrShut
	}
	if err := r.open(attempt, at); err != nil {
		return err
	}
	if r.agreed(key) {
		return ErrSamePerson
	}
	if yes := r.saidAt(attempt); yes >= 0 {
		return &TakenError{ByName: r.Yes[yes].Name, By: r.Yes[yes].Key}
	}
	return nil
}

// agreed says that key cannot be the missing second person, being the first.
func (r *Record) agreed(key string) bool {
	return r.Approvals == 2 && len(r.Yes) < r.people() && slices.ContainsFunc(r.Yes, func(y Yes) bool { return y.Key == key })
}

// short says that the first of two people has not agreed yet.
func (r *Record) short() bool { return r.Approvals == 2 && len(r.Yes) == 0 }

// saidAt is the index of the yes to an attempt, -1 for none.
func (r *Record) saidAt(attempt int) int {
	return slices.IndexFunc(r.Yes, func(y Yes) bool { return y.Attempt == attempt })
}

// past is the index of an earlier answer, -1 for none.
func (r *Record) past(attempt int) int {
	return slices.IndexFunc(r.Past, func(g Given) bool { return g.Attempt == attempt })
}

// retire moves the request's answer to Past. Only one that the job may still turn out to hold keeps its envelope.
func (r *Record) retire(end string) {
	g := Given{Attempt: r.AnswerAttempt, Sealed: r.Sealed, By: r.By, ByName: r.ByName, At: r.Answered, End: end}
	if end == ReasonUndelivered {
		g.Answer = r.Answer
	}
	r.Past = append(r.Past, g)
	slices.SortFunc(r.Past, func(a, b Given) int { return cmp.Compare(a.Attempt, b.Attempt) })
	if len(r.Past) > MaxPast {
		r.Past = without(r.Past, 0)
	}
	r.Answer, r.AnswerAttempt, r.Sealed, r.By, r.ByName, r.Answered = nil, 0, "", "", "", 0
}

// without removes one element. An empty list is nil, so that a record is the same in memory as from its bytes.
func without[T any](list []T, i int) []T {
	if len(list) == 1 {
		return nil
	}
	return slices.Delete(list, i, i+1)
}

// again opens the attempt after n. The job counts n+1 by its own signature and goes further only for "undelivered", so
// where the clock has gone on in the meantime (n was given up and then got after all), the relay must not call a later
// attempt anything else, nor count one more: the two would wait for each other until the deadline. Past MaxAttempt it
// ends the request.
func (r *Record) again(n int, reason string) {
	spent := r.past(r.Attempt) >= 0
	if r.Attempt > n && (spent || r.Attempt > n+1) {
		reason = ReasonUndelivered
	}
	if spent || r.Attempt == n {
		if r.Attempt >= MaxAttempt {
			r.end(StateCancelled, WhyAttempts)
			return
		}
		r.Attempt++
	}
	r.State, r.Reason = StatePending, reason
}

// shut shuts by out; named is whom the job's signed word shuts out, which must be the same if it names anyone.
func (r *Record) shut(by, named string) error {
	if named != "" && named != by {
		return fmt.Errorf("%w: the key to shut out is not the one that answered", ErrInput)
	}
	// A full list ends the request at the next rejection, so a late one may leave it as it is.
	if !slices.Contains(r.Shut, by) && len(r.Shut) < MaxShut {
		r.Shut = append(r.Shut, by)
	}
	return nil
}

func (r *Record) end(s State, why string) { r.State, r.Why = s, why }

// gone ends the request without an outcome: nobody may say "cancelled" of a job that had the code.
func (r *Record) gone(s State, why string) error {
	if r.State.Final() {
		return r.ended()
	}
	if r.State == StateDelivered {
		r.Outcome = OutcomeUnknown
		s = StateDone
	}
	r.end(s, why)
	return nil
}
