// The record: what one append to the stream holds, its exact bytes, and what a sound one looks like. Bytes that Encode
// would not have written are refused, so a record has one form, and its hash one value.

package lifecycle

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Version of the stream's format, in Record.V.
const Version = 1

// Limits of a record. Together they keep every record below MaxRecord, whatever happens to the request: one that had
// grown too large to append could not even expire.
const (
	MaxRecord   = 64 << 10 // bytes of an encoded record
	MaxRequest  = 16 << 10 // bytes of the signed request envelope
	MaxCause    = 16 << 10 // bytes of the signed envelope behind a record: any that the protocol allows
	MaxAnswer   = 2 << 10  // bytes of a signed answer or yes: a record keeps several
	MaxOpenings = 32       // openings kept; those of earlier attempts make room
	MaxShut     = 32       // keys shut out before the request ends
	MaxPast     = 3        // earlier answers kept
	MaxAttempt  = 1000     // attempts of one request: a machine that answers its own job must not fill the stream
	MaxRefused  = 100      // the highest limit of refused codes
	MaxName     = 64       // bytes of a person's name; longer ones are cut
	MaxWhy      = 1000     // bytes of a reason; longer ones are cut, the signed envelope has the whole
	maxYes      = 2
	maxText     = 256 // bytes of project, rule and group
)

// State of a request.
type State string

// The states. The last four are final.
const (
	StatePending   State = "pending"
	StateAnswered  State = "answered"
	StateDelivered State = "delivered"
	StateDone      State = "done"
	StateDeclined  State = "declined"
	StateExpired   State = "expired"
	StateCancelled State = "cancelled"
)

// Final says that the request has ended. The only input that still changes a final request is a late Got, and only
// after the relay's clock had ended it.
func (s State) Final() bool {
	switch s {
	case StatePending, StateAnswered, StateDelivered:
		return false
	default:
		// An unknown state too: nothing may be answered in it.
		return true
	}
}

// Event is what a record records.
type Event string

// The events, one for each Input.
const (
	EventAsked       Event = "asked"
	EventOpened      Event = "opened"
	EventAnswered    Event = "answered"
	EventUndelivered Event = "undelivered"
	EventGot         Event = "got"
	EventRejected    Event = "rejected"
	EventNext        Event = "next"
	EventApproved    Event = "approved"
	EventDone        Event = "done"
	EventDeclined    Event = "declined"
	EventExpired     Event = "expired"
	EventCancelled   Event = "cancelled"
	EventLost        Event = "lost"
	EventRestored    Event = "restored"
)

// leads is the states that each event can leave behind.
var leads = map[Event][]State{
	EventAsked:       {StatePending},
	EventOpened:      {StatePending, StateAnswered},
	EventAnswered:    {StateAnswered},
	EventUndelivered: {StatePending, StateCancelled},
	EventGot:         {StateDelivered, StateDone},
	EventRejected:    {StatePending, StateAnswered, StateDelivered, StateCancelled},
	EventNext:        {StatePending},
	EventApproved:    {StatePending, StateDone},
	EventDone:        {StateDone},
	EventDeclined:    {StateDeclined},
	EventExpired:     {StateExpired, StateDone},
	EventCancelled:   {StateCancelled, StateDone},
	EventLost:        {StateCancelled, StateDone},
	EventRestored:    {StateCancelled, StateDone},
}

// byClock says that the relay by itself, and no signed word, makes such a record: its clock, or a restore.
func (e Event) byClock() bool {
	return e == EventUndelivered || e == EventExpired || e == EventLost || e == EventRestored
}

// Kinds of request, in Record.Kind.
const (
	KindCode     = "code"     // a code travels, sealed
	KindLink     = "link"     // the human follows a link; the job polls the outcome
	KindApproval = "approval" // a signed yes is all
)

// Reasons of an attempt, in Record.Reason; the last three also say how an earlier answer ended, in Given.End.
const (
	ReasonFirst       = "first"
	ReasonUndelivered = "undelivered"
	ReasonRejected    = "rejected"
	ReasonNext        = "next"
)

// Outcomes of a done request, in Record.Outcome.
const (
	OutcomeOK      = "ok"
	OutcomeFailed  = "failed"
	OutcomeUnknown = "unknown" // the job had the code and went without a word
)

// Machine words in Record.Why. A decline and a job's own cancel carry free text there instead.
const (
	WhyDeadline = "deadline"
	WhyLost     = "lost"
	WhyRestored = "restored" // open in a backup that the record was restored from
	WhyRefused  = "too many refused codes"
	WhyUnusable = "too many unusable answers"
	WhyAttempts = "too many attempts"
)

// Opening says that a responder has opened the prompt.
type Opening struct {
	Key     string `json:"key"`  // signing key
	Name    string `json:"name"` // may be empty
	Attempt int    `json:"attempt"`
	At      int64  `json:"at"` // unix milliseconds
}

// Yes is one person's signed consent, under two approvals also an answer that the job has gone beyond.
type Yes struct {
	Key      string          `json:"key"` // signing key
	Name     string          `json:"name"`
	Attempt  int             `json:"attempt"`
	At       int64           `json:"at"` // unix milliseconds
	Envelope json.RawMessage `json:"envelope"`
}

// Given is an answer to an earlier attempt, kept so that a late or repeated word of the job about it is understood.
type Given struct {
	Attempt int             `json:"attempt"`
	Sealed  string          `json:"sealed"` // as Record.Sealed
	By      string          `json:"by"`
	ByName  string          `json:"by_name"`
	At      int64           `json:"at"`               // when it was recorded, unix milliseconds
	End     string          `json:"end"`              // ReasonUndelivered: the job may still have it; rejected, next: it is over
	Answer  json.RawMessage `json:"answer,omitempty"` // the signed answer, only while undelivered
}

// Record is the whole state of one request after one event. Its JSON is the stream's format.
type Record struct {
	V    int    `json:"v"`    // Version
	Op   string `json:"op"`   // id of this append, [A-Za-z0-9_-]{1,64}: a re-read finds out by it who has written
	Prev string `json:"prev"` // Hash of the record before on this subject; "" for the first
	At   int64  `json:"at"`   // the writing relay's time, unix milliseconds

	Event   Event  `json:"event"`
	State   State  `json:"state"`
	Attempt int    `json:"attempt"` // the newest attempt, from 1; never falls
	Reason  string `json:"reason"`  // why there is this attempt: ReasonFirst, …

	Key       string `json:"key"`       // the job's nkey, which is the request's name
	Digest    string `json:"digest"`    // of the request, 64 hex digits
	Project   string `json:"project"`   // whose humans are asked
	Rule      string `json:"rule"`      // the relay's rule that let it in
	Group     string `json:"group"`     // the run attempt it belongs to
	Kind      string `json:"kind"`      // KindCode, KindLink, KindApproval
	Deadline  int64  `json:"deadline"`  // unix milliseconds, one for the whole request
	Attempts  int    `json:"attempts"`  // the refused code with this number ends the request; at least 1 for a code
	Approvals int    `json:"approvals"` // 0 and 1: one person; 2: two

	Request json.RawMessage `json:"request"`         // the signed request envelope
	Cause   json.RawMessage `json:"cause,omitempty"` // the signed envelope behind this record; none: Request (asked), the relay's clock, or a restore

	// The answer that the request holds, empty while pending: a final record keeps the one that it ended with.
	Answer        json.RawMessage `json:"answer,omitempty"`         // the signed answer, without the sealed code
	AnswerAttempt int             `json:"answer_attempt,omitempty"` // its attempt; below Attempt only after a late got
	Sealed        string          `json:"sealed,omitempty"`         // SHA-256 of enc ‖ ciphertext, 64 hex digits
	By            string          `json:"by,omitempty"`             // signing key of who answered, said the last yes, or declined
	ByName        string          `json:"by_name,omitempty"`        // their name
	Answered      int64           `json:"answered,omitempty"`       // when it was recorded, unix milliseconds

	Opened []Opening `json:"opened,omitempty"` // newest last
	Yes    []Yes     `json:"yes,omitempty"`    // in the order of attempts
	Shut   []string  `json:"shut,omitempty"`   // keys whose answers were unusable
	Past   []Given   `json:"past,omitempty"`   // earlier answers, by attempt

	Rejected int    `json:"rejected,omitempty"` // refused codes so far
	Outcome  string `json:"outcome,omitempty"`  // of done: OutcomeOK, …
	Why      string `json:"why,omitempty"`      // of an end: a machine word (WhyDeadline, …) or a person's reason
}

// Errors of the record's bytes.
var (
	// ErrVersion: a later format. Nothing in the record is to be trusted to mean what it does in this one.
	ErrVersion = errors.New("this record was written by a newer cfa-relay: upgrade this one to read it")
	// ErrRecord: bytes that Encode cannot have written.
	ErrRecord = errors.New("damaged record")
	// ErrTooLarge: more than MaxRecord bytes.
	ErrTooLarge = fmt.Errorf("%w: larger than %d bytes", ErrRecord, MaxRecord)
)

// After returns r as the record that follows the one of that Hash ("" for none), written by operation op.
func (r Record) After(prev, op string) Record {
	r.Op, r.Prev = op, prev
	return r
}

// Hash of an encoded record: hex SHA-256, as it stands in Prev of the next one.
func Hash(encoded []byte) string {
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:])
}

// Encode gives the record's one form: JSON without spaces, the fields in the order of the type. It refuses (ErrRecord)
// a record that is not sound, or that lacks the operation or the link to the record before.
func (r Record) Encode() ([]byte, error) {
	if err := r.linked(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	if err := r.sound(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	return r.marshal()
}

func (r Record) marshal() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	// Else < > & in a name or an envelope would each take six bytes, and the limits would not add up.
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	out := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if len(out) > MaxRecord {
		return nil, ErrTooLarge
	}
	return out, nil
}

// Decode reads what Encode wrote, and nothing else: unknown, repeated or reordered fields, spaces, and values that no
// request can have are ErrRecord; another version is ErrVersion.
func Decode(data []byte) (Record, error) {
	if len(data) > MaxRecord {
		return Record{}, ErrTooLarge
	}
	// The version first, and leniently: a later format may have anything else in it.
	var head struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Record{}, fmt.Errorf("%w: not a JSON record with a version", ErrRecord)
	}
	if head.V > Version {
		return Record{}, fmt.Errorf("%w (format %d, known %d)", ErrVersion, head.V, Version)
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	again, err := r.Encode()
	if err != nil {
		return Record{}, err
	}
	// encoding/json takes unknown, repeated and wrongly cased names and bytes that are not UTF-8, so two readers could
	// see two records.
	if !bytes.Equal(again, data) {
		return Record{}, fmt.Errorf("%w: not in the one form that a record has", ErrRecord)
	}
	return r, nil
}

// clone shares no memory with r, so whoever still holds r sees it unchanged.
func (r Record) clone() Record {
	r.Request, r.Cause, r.Answer = bytes.Clone(r.Request), bytes.Clone(r.Cause), bytes.Clone(r.Answer)
	r.Opened, r.Shut = slices.Clone(r.Opened), slices.Clone(r.Shut)
	r.Yes, r.Past = slices.Clone(r.Yes), slices.Clone(r.Past)
	for i := range r.Yes {
		r.Yes[i].Envelope = bytes.Clone(r.Yes[i].Envelope)
	}
	for i := range r.Past {
		r.Past[i].Answer = bytes.Clone(r.Past[i].Answer)
	}
	return r
}

// linked checks what the caller adds to the result of Apply.
func (r *Record) linked() error {
	switch {
	case !isID(r.Op):
		return errors.New("op is not an id")
	case (r.Event == EventAsked) != (r.Prev == ""):
		return errors.New("only the first record has none before it")
	case r.Prev != "" && !isHash(r.Prev):
		return errors.New("prev is not a hash")
	}
	return nil
}

// sound checks everything else that is true of every record that Apply makes. It is the strict half of Decode, and the
// reason why Apply need not doubt the record that it is given.
func (r *Record) sound() error {
	for _, check := range []func() error{r.soundRequest, r.soundState, r.soundAnswer, r.soundLists} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func (r *Record) soundRequest() error {
	switch {
	case r.V != Version:
		return fmt.Errorf("version is not %d", Version)
	case r.At <= 0:
		return errors.New("no time")
	case !isID(r.Key):
		return errors.New("key is not an id")
	case !isHash(r.Digest):
		return errors.New("digest is not 64 lower-case hex digits")
	case !isText(r.Project, 1, maxText), !isText(r.Rule, 0, maxText), !isText(r.Group, 0, maxText):
		return errors.New("project, rule or group is missing, too long or not plain text")
	case r.Kind != KindCode && r.Kind != KindLink && r.Kind != KindApproval:
		return errors.New("unknown kind")
	case r.Deadline <= 0:
		return errors.New("no deadline")
	case r.Attempts < 0 || r.Attempts > MaxRefused || r.Kind == KindCode && r.Attempts < 1:
		return errors.New("limit of refused codes out of range")
	case r.Approvals < 0 || r.Approvals > maxYes:
		return errors.New("approvals out of range")
	case !isObject(r.Request, MaxRequest):
		return errors.New("the request's envelope is missing, too large or not a JSON object")
	}
	return nil
}

func (r *Record) soundState() error {
	signed := r.Event != EventAsked && !r.Event.byClock()
	switch {
	case !slices.Contains(leads[r.Event], r.State):
		return errors.New("unknown event or state, or the one cannot lead to the other")
	case r.Attempt < 1 || r.Attempt > MaxAttempt:
		return errors.New("attempt out of range")
	case r.Reason != ReasonFirst && !isEnd(r.Reason) || (r.Reason == ReasonFirst) != (r.Attempt == 1):
		return errors.New("the attempt's reason is unknown or does not fit its number")
	// What an opening carries proves nothing about the request, so it may come without.
	case r.Cause == nil && signed && r.Event != EventOpened:
		return errors.New("the envelope that caused it is missing")
	case r.Cause != nil && (!signed || !isObject(r.Cause, MaxCause)):
		return errors.New("the envelope that caused it is too large, not a JSON object, or out of place")
	case (r.State == StateDone) != (r.Outcome != ""):
		return errors.New("outcome and state do not fit")
	case r.Outcome != "" && r.Outcome != OutcomeOK && r.Outcome != OutcomeFailed && r.Outcome != OutcomeUnknown:
		return errors.New("unknown outcome")
	case !isText(r.Why, 0, MaxWhy) || r.Why != "" && !r.State.Final():
		return errors.New("why is too long, not plain text or out of place")
	case r.Rejected < 0 || r.Rejected > MaxRefused:
		return errors.New("refused codes out of range")
	}
	return nil
}

func (r *Record) soundAnswer() error {
	holds := r.AnswerAttempt != 0
	switch {
	case holds != (r.State == StateAnswered || r.State == StateDelivered) && !r.State.Final():
		return errors.New("answer and state do not fit")
	case holds != (r.Sealed != "") || holds != (r.Answer != nil) || holds != (r.Answered != 0):
		return errors.New("half an answer")
	case holds && (r.Kind != KindCode || r.AnswerAttempt < 1 || r.AnswerAttempt > r.Attempt || r.Answered <= 0):
		return errors.New("the answer's kind, attempt or time is out of range")
	case holds && (!isHash(r.Sealed) || !isObject(r.Answer, MaxAnswer) || r.By == ""):
		return errors.New("malformed answer")
	case r.By != "" && (!isID(r.By) || r.State == StatePending) || !isText(r.ByName, 0, MaxName) || r.By == "" && r.ByName != "":
		return errors.New("who answered is malformed or out of place")
	case r.State == StateAnswered && r.AnswerAttempt != r.Attempt:
		return errors.New("the answer is not to the open attempt")
	}
	return nil
}

func (r *Record) soundLists() error {
	if len(r.Opened) > MaxOpenings || len(r.Yes) > r.people() || len(r.Shut) > MaxShut || len(r.Past) > MaxPast {
		return errors.New("a list is too long")
	}
	for i, o := range r.Opened {
		if !isID(o.Key) || !isText(o.Name, 0, MaxName) || o.Attempt < 1 || o.Attempt > r.Attempt ||
			slices.ContainsFunc(r.Opened[:i], func(p Opening) bool { return p.Key == o.Key && p.Attempt == o.Attempt }) {
			return errors.New("malformed or repeated opening")
		}
	}
	for i, y := range r.Yes {
		if !isID(y.Key) || !isText(y.Name, 0, MaxName) || y.Attempt < 1 || y.Attempt > r.Attempt || !isObject(y.Envelope, MaxAnswer) ||
			slices.ContainsFunc(r.Yes[:i], func(p Yes) bool { return p.Key == y.Key || p.Attempt >= y.Attempt }) {
			return errors.New("malformed or repeated yes")
		}
	}
	for i, k := range r.Shut {
		if !isID(k) || slices.Contains(r.Shut[:i], k) {
			return errors.New("malformed or repeated shut key")
		}
	}
	last := 0
	for _, g := range r.Past {
		if r.Kind != KindCode || g.Attempt <= last || g.Attempt > r.Attempt || g.Attempt == r.AnswerAttempt || g.At <= 0 ||
			!isHash(g.Sealed) || !isID(g.By) || !isText(g.ByName, 0, MaxName) || !isEnd(g.End) ||
			(g.Answer != nil) != (g.End == ReasonUndelivered) || g.Answer != nil && !isObject(g.Answer, MaxAnswer) {
			return errors.New("malformed or unordered past answer")
		}
		last = g.Attempt
	}
	// The open attempt is a number that nobody has answered under.
	if r.State == StatePending && last == r.Attempt {
		return errors.New("the open attempt has a past answer")
	}
	return nil
}

// people is how many yeses the request can hold: codes and links need none unless two people are asked for.
func (r *Record) people() int {
	if r.Approvals == 2 {
		return 2
	}
	if r.Kind == KindApproval {
		return 1
	}
	return 0
}

func isEnd(s string) bool { return s == ReasonUndelivered || s == ReasonRejected || s == ReasonNext }

// isID: a public key, or an operation's id.
func isID(s string) bool {
	return len(s) >= 1 && len(s) <= 64 && strings.IndexFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-')
	}) < 0
}

func isHash(s string) bool {
	return len(s) == 2*sha256.Size && strings.IndexFunc(s, func(c rune) bool {
		return !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f')
	}) < 0
}

// breaks: control characters and line separators. Their JSON escapes have changed between versions of Go, so a record
// that had some could be unreadable after an upgrade; and they take six bytes each.
func breaks(c rune) bool { return unicode.IsControl(c) || c == '\u2028' || c == '\u2029' }

func isText(s string, least, most int) bool {
	return len(s) >= least && len(s) <= most && utf8.ValidString(s) && strings.IndexFunc(s, breaks) < 0
}

// plain makes text of what a person or a configuration wrote, cut to most bytes. It cuts rather than refuses: a no must
// not be lost because its reason is long.
func plain(s string, most int) string {
	if len(s) > 4*most {
		s = s[:4*most]
	}
	s = strings.TrimSpace(strings.Map(func(c rune) rune {
		if breaks(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(s, "\uFFFD")))
	if len(s) > most {
		for !utf8.RuneStart(s[most]) {
			most--
		}
		s = s[:most]
	}
	return s
}

// object returns a compact copy of a JSON object, nil for none.
func object(raw json.RawMessage) (json.RawMessage, error) {
	if len(raw) == 0 {
		return nil, nil
	}
	// Twice what is ever allowed leaves room for spaces, and bounds the work.
	if len(raw) > 2*MaxRequest {
		return nil, errors.New("too large")
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil || !utf8.Valid(b.Bytes()) || b.Bytes()[0] != '{' {
		return nil, errors.New("not a JSON object")
	}
	return b.Bytes(), nil
}

func isObject(raw json.RawMessage, most int) bool {
	return len(raw) >= 2 && len(raw) <= most && raw[0] == '{' && utf8.Valid(raw) && json.Valid(raw)
}
