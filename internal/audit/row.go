package audit

// What people are shown of the record: who asked, by which rule, who saw, who
// answered, and how it ended. There is no field for a sealed code's hash, nor for
// an envelope, which has it in it.

import (
	"slices"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

// Row is one request.
type Row struct {
	Key     string            `json:"key"`
	Digest  string            `json:"digest"`
	Asked   time.Time         `json:"asked"`
	Changed time.Time         `json:"changed"` // when its last record was made
	Project string            `json:"project"`
	Rule    string            `json:"rule"` // that let it in
	Run     string            `json:"run"`
	Kind    string            `json:"kind"`
	Service string            `json:"service,omitempty"`
	Message string            `json:"message,omitempty"` // the job's own words
	Claims  map[string]string `json:"claims,omitempty"`  // of the job's ID token, as it has signed them
	State   string            `json:"state"`
	Outcome string            `json:"outcome,omitempty"` // of what is done: ok, failed, unknown
	Why     string            `json:"why,omitempty"`
	Attempt int               `json:"attempt"`
	Refused int               `json:"refused_codes,omitempty"`
	Opened  []string          `json:"opened,omitempty"` // whose responders have shown it
	By      []string          `json:"by,omitempty"`     // who answered, agreed or declined
	First   uint64            `json:"first"`            // sequences of its first and last record
	Last    uint64            `json:"last"`
}

// Word is how it ended, or how it stands.
func (r *Row) Word() string {
	if r.Outcome != "" {
		return r.Outcome
	}
	return r.State
}

// The words for a responder's absence, as an event's.
const (
	EventAway = "away"
	EventBack = "back"
)

// The words for what becomes of an invitation and of an enrolment.
const (
	EventInvited   = "invited"
	EventJoined    = "joined"
	EventWithdrawn = "withdrawn"
	EventEnrolled  = "enrolled" // also once more, before the record of it ages out
	EventRemoved   = "removed"
)

// Event is one record of a request, a responder's word that it is away or back, or
// what became of an invitation or enrolment.
type Event struct {
	Seq     uint64    `json:"seq"`
	At      time.Time `json:"at"`
	Event   string    `json:"event"`
	State   string    `json:"state"`
	Project string    `json:"project"`
	Run     string    `json:"run"`
	Rule    string    `json:"rule"`
	Key     string    `json:"key"`
	Attempt int       `json:"attempt"`
	By      string    `json:"by,omitempty"` // whose word it records, where it is a responder's
	Outcome string    `json:"outcome,omitempty"`
	Why     string    `json:"why,omitempty"`
	Until   time.Time `json:"until,omitzero"` // of an absence: when it ends by itself
}

// OfResponder says whether it is about a responder, and no request.
func (e Event) OfResponder() bool {
	return e.Event == EventAway || e.Event == EventBack || e.OfEnrolment()
}

// OfEnrolment says whether it is about who may answer.
func (e Event) OfEnrolment() bool {
	return slices.Contains([]string{EventInvited, EventJoined, EventWithdrawn, EventEnrolled, EventRemoved}, e.Event)
}

// Refused is one refusal.
type Refused struct {
	Seq     uint64    `json:"seq"`
	At      time.Time `json:"at"`
	Code    string    `json:"code"`
	Verb    string    `json:"verb"`
	Key     string    `json:"key,omitempty"`
	Project string    `json:"project,omitempty"`
	Why     string    `json:"why"`
	Left    int64     `json:"left_out,omitempty"` // how many before it were left out, because there were too many
	Outside bool      `json:"outside"`            // it was to somebody who had proved nothing that counts here
}

// Filter chooses among requests and refusals. What is zero takes all.
type Filter struct {
	Project, Run, Outcome string
	Since, Until          time.Time // of when it was asked: Since itself is in, Until is not
}

// Outcomes are the words that Filter.Outcome may be.
var Outcomes = []string{
	"open", string(lifecycle.StatePending), string(lifecycle.StateAnswered), string(lifecycle.StateDelivered), string(lifecycle.StateDone),
	lifecycle.OutcomeOK, lifecycle.OutcomeFailed, lifecycle.OutcomeUnknown,
	string(lifecycle.StateDeclined), string(lifecycle.StateExpired), string(lifecycle.StateCancelled), lifecycle.WhyLost, lifecycle.WhyRestored,
}

func (f Filter) during(at time.Time) bool {
	return !at.Before(f.Since) && (f.Until.IsZero() || at.Before(f.Until))
}

// run takes a run by the whole of its name or by the part of it that the CI shows.
func (f Filter) run(group string) bool {
	return f.Run == "" || f.Run == group || slices.Contains(strings.FieldsFunc(group, func(c rune) bool { return c == '/' || c == ' ' || c == '#' || c == ':' }), f.Run)
}

// Takes says whether a request, as it stands, is among those wanted.
func (f Filter) Takes(r *Row) bool {
	if f.Project != "" && f.Project != r.Project || !f.run(r.Run) || !f.during(r.Asked) {
		return false
	}
	switch f.Outcome {
	case "", r.State, r.Outcome:
		return true
	case "open":
		return !lifecycle.State(r.State).Final()
	}
	return (f.Outcome == lifecycle.WhyLost || f.Outcome == lifecycle.WhyRestored) && r.Why == f.Outcome
}

// TakesEvent says whether one record is: by its own time, and its own state.
func (f Filter) TakesEvent(e Event) bool {
	if e.OfEnrolment() {
		return (f.Project == "" || f.Project == e.Project) && f.Run == "" && f.Outcome == "" && f.during(e.At)
	}
	if e.OfResponder() { // of no project, no run, and no outcome
		return f.Project == "" && f.Run == "" && f.Outcome == "" && f.during(e.At)
	}
	return f.Takes(&Row{Project: e.Project, Run: e.Run, Asked: e.At, State: e.State, Outcome: e.Outcome, Why: e.Why})
}

// TakesRefused says whether a refusal is.
func (f Filter) TakesRefused(r Refused) bool {
	return (f.Project == "" || f.Project == r.Project) && f.during(r.At)
}

// name is a person's, or the key where there is none.
func name(n, key string) string {
	if n == "" {
		return key
	}
	return n
}

// who is whose word a record is, where it is a responder's.
func who(rec lifecycle.Record) string {
	switch rec.Event {
	case lifecycle.EventOpened:
		if n := len(rec.Opened); n > 0 {
			return name(rec.Opened[n-1].Name, rec.Opened[n-1].Key)
		}
	case lifecycle.EventAnswered, lifecycle.EventDeclined:
		return name(rec.ByName, rec.By)
	case lifecycle.EventApproved:
		if n := len(rec.Yes); n > 0 {
			return name(rec.Yes[n-1].Name, rec.Yes[n-1].Key)
		}
	}
	return ""
}

// EventOf reads one record; ok is false for any other message.
func EventOf(m Message) (e Event, ok bool, err error) {
	if strings.HasPrefix(m.Subject, AwayPrefix) {
		return awayOf(m)
	}
	if strings.HasPrefix(m.Subject, InvitationPrefix) || strings.HasPrefix(m.Subject, EnrolmentPrefix) {
		return enrolmentOf(m)
	}
	if !strings.HasPrefix(m.Subject, RequestPrefix) {
		return Event{}, false, nil
	}
	rec, err := lifecycle.Decode(m.Data)
	if err != nil {
		return Event{}, true, err
	}
	return Event{
		Seq: m.Seq, At: time.UnixMilli(rec.At).UTC(), Event: string(rec.Event), State: string(rec.State), Project: rec.Project, Run: rec.Group,
		Rule: rec.Rule, Key: rec.Key, Attempt: rec.Attempt, By: who(rec), Outcome: rec.Outcome, Why: rec.Why,
	}, true, nil
}

func enrolmentOf(m Message) (e Event, ok bool, err error) {
	n, err := lifecycle.DecodeNote(m.Data)
	if err != nil {
		return Event{}, true, err
	}
	e = Event{Seq: m.Seq, At: time.UnixMilli(n.At).UTC(), Project: n.Name, Key: n.Key, By: name(n.Person, n.Key)}
	over := n.Until != 0 && n.Until <= n.At
	switch {
	case n.About == lifecycle.AboutEnrolment && over:
		e.Event = EventRemoved
	case n.About == lifecycle.AboutEnrolment:
		e.Event = EventEnrolled
	case over:
		e.Event, e.Project = EventWithdrawn, n.Project
	case n.Key != "":
		e.Event, e.Project, e.Until = EventJoined, n.Project, time.UnixMilli(n.Until).UTC()
	default:
		e.Event, e.Project, e.Until = EventInvited, n.Project, time.UnixMilli(n.Until).UTC()
	}
	return e, true, nil
}

func awayOf(m Message) (e Event, ok bool, err error) {
	n, err := lifecycle.DecodeNote(m.Data)
	if err != nil {
		return Event{}, true, err
	}
	e = Event{Seq: m.Seq, At: time.UnixMilli(n.At).UTC(), Event: EventBack, Key: n.Key, By: name(n.Person, n.Key)}
	if n.Until > n.At {
		e.Event, e.Until = EventAway, time.UnixMilli(n.Until).UTC()
	}
	return e, true, nil
}

// RefusedOf reads one refusal; ok is false for any other message.
func RefusedOf(m Message) (r Refused, ok bool, err error) {
	rest, ok := strings.CutPrefix(m.Subject, RefusedPrefix)
	if !ok {
		return Refused{}, false, nil
	}
	f, err := lifecycle.DecodeRefusal(m.Data)
	if err != nil {
		return Refused{}, true, err
	}
	return Refused{
		Seq: m.Seq, At: time.UnixMilli(f.At).UTC(), Code: f.Code, Verb: f.Verb, Key: f.Key, Project: f.Project, Why: f.Why, Left: f.Left,
		Outside: strings.HasPrefix(rest, RefusedOutside+"."),
	}, true, nil
}

// Rows gathers the records of each request into one row, the newest Most of them.
type Rows struct {
	Most    int // rows that are kept at once; the oldest go first
	Filter  Filter
	Whole   bool // with claims and the job's words, which take most of the room
	Damaged int  // records that could not be read
	Dropped int  // rows that had to go

	rows  []*Row          // by first sequence
	byKey map[string]*Row // nil: it was there, and is not wanted or had to go
}

// Add reads the next message.
func (l *Rows) Add(m Message) {
	if !strings.HasPrefix(m.Subject, RequestPrefix) {
		return
	}
	rec, err := lifecycle.Decode(m.Data)
	if err != nil {
		l.Damaged++
		return
	}
	if l.byKey == nil {
		l.byKey = map[string]*Row{}
	}
	r, known := l.byKey[rec.Key]
	if known && r == nil {
		return
	}
	if !known {
		r = &Row{Key: rec.Key, Digest: rec.Digest, Asked: time.UnixMilli(rec.At).UTC(), Project: rec.Project, Rule: rec.Rule, Run: rec.Group, Kind: rec.Kind, First: m.Seq}
		// What never changes decides at once.
		fixed := l.Filter
		if fixed.Outcome = ""; !fixed.Takes(r) {
			l.byKey[rec.Key] = nil
			return
		}
		l.describe(r, rec)
		l.byKey[rec.Key] = r
		if l.rows = append(l.rows, r); len(l.rows) > 2*l.Most {
			l.shed()
		}
	}
	r.Changed, r.Last = time.UnixMilli(rec.At).UTC(), m.Seq
	r.State, r.Outcome, r.Why, r.Attempt, r.Refused = string(rec.State), rec.Outcome, rec.Why, rec.Attempt, rec.Rejected
	if p := who(rec); p != "" {
		list := &r.By
		if rec.Event == lifecycle.EventOpened {
			list = &r.Opened
		}
		if !slices.Contains(*list, p) {
			*list = append(*list, p)
		}
	}
}

// describe takes what the job has signed. A request that does not verify is the
// Verifier's to report; the row is then without it.
func (l *Rows) describe(r *Row, rec lifecycle.Record) {
	env, err := wire.DecodeEnvelope(rec.Request)
	if err != nil {
		return
	}
	q, err := wire.Open[wire.Request](env, rec.Key)
	if err != nil {
		return
	}
	r.Service = q.Service
	if l.Whole {
		r.Message, r.Claims = q.Message, q.Proof
	}
}

// shed keeps the newest rows of those that are wanted.
func (l *Rows) shed() {
	kept := l.rows[:0]
	for _, r := range l.rows {
		// An open one can still become one that is wanted.
		if l.Filter.Takes(r) || !lifecycle.State(r.State).Final() {
			kept = append(kept, r)
		} else {
			l.byKey[r.Key] = nil
		}
	}
	for ; len(kept) > l.Most; kept = kept[1:] {
		l.byKey[kept[0].Key] = nil
		l.Dropped++
	}
	l.rows = slices.Clone(kept)
}

// Taken gives the rows that are wanted, oldest first.
func (l *Rows) Taken() []*Row {
	var out []*Row
	for _, r := range l.rows {
		if l.Filter.Takes(r) {
			out = append(out, r)
		}
	}
	if extra := len(out) - l.Most; extra > 0 {
		l.Dropped += extra
		out = out[extra:]
	}
	return out
}
