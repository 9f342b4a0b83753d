package audit

// Verification: each message against the one before it, against whoever signed
// its cause, and against the state machine.

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

// mostProblems are kept; the others are counted. A store that was damaged as a
// whole has one for each message.
const mostProblems = 1000

// straddles is how much younger than the oldest message of all the first one of
// a request may be whose beginning was kept long enough: it has aged out, and a
// request does not last longer than this.
const straddles = lifecycle.LongestWait + time.Hour

// Verifier checks a stream, message by message, in order.
type Verifier struct {
	// Enrolled says whether a signing key may answer in a project.
	Enrolled func(project, key string) bool
	// Former are other names that the relay had.
	Former []string

	Problems []Problem // the first of them
	Wrong    int       // how many there are
	Messages int
	Requests int // subjects of requests
	Refusals int
	Left     int64 // refusals that were left out, as the others say
	Begun    int   // requests whose beginning was kept long enough
	Restores []Restore

	extent Extent
	next   uint64    // the sequence that is to come
	oldest time.Time // of the first message
	chains map[string]*chain
	places map[string]placed // by project and signing key: whom the record has enrolled
	unsure []doubt
}

// placed is whether somebody is enrolled by the record, and since when.
type placed struct {
	in    bool
	since time.Time
}

// doubt is somebody's word of whom it is not known yet whether they were enrolled:
// the note that says so can have aged out, and a later one has it again.
type doubt struct {
	place string
	m     Message
	err   error
}

// notEnrolled says that somebody answered who is not.
type notEnrolled struct{ project, key string }

func (e notEnrolled) Error() string {
	return fmt.Sprintf("the responder %s is not enrolled for the project %s; if it was at the time, say so with --former", e.key, e.project)
}

func (e notEnrolled) place() string { return e.project + " " + e.key }

// Restore is that the record was restored from a backup: what happened between
// Made and At is not in it.
type Restore struct {
	Seq      uint64 // of its note: what the backup held is before it
	Made, At time.Time
	Backup   string // the hash that ends it
}

// String says what that means for whoever reads the record.
func (r Restore) String() string {
	return fmt.Sprintf("restored at %s from the backup %s, made at %s: it reaches to sequence %d, and what was recorded after it is lost",
		r.At.UTC().Format(time.RFC3339), r.Backup, r.Made.UTC().Format(time.RFC3339), r.Seq-1)
}

// chain is what is known of a subject.
type chain struct {
	hash string
	rec  []byte // the last record; nil where none can follow it
	over bool   // ended by a signed word, or a subject of one message
	bad  bool   // the last message could not be read: what follows it is checked by its hash only
	q    *asking
	no   *lifecycle.Record // how it was declined, without its envelopes
	at   int64             // of the last absence that was read
	of   string            // whom the last note of an invitation or enrolment was about
}

// asking is what a request's own envelope says, which never changes.
type asking struct {
	project    string
	digest     wire.Digest
	responders []string
}

// NewVerifier is for a stream that reaches from x.First to x.Last.
func NewVerifier(x Extent, enrolled func(project, key string) bool) *Verifier {
	return &Verifier{Enrolled: enrolled, extent: x, next: x.First, chains: map[string]*chain{}, places: map[string]placed{}}
}

func (v *Verifier) wrong(m Message, format string, args ...any) {
	v.report(Problem{Seq: m.Seq, Subject: wire.CleanName(m.Subject, 120), Time: m.Time, What: wire.Clean(fmt.Sprintf(format, args...), 500)})
}

func (v *Verifier) report(p Problem) {
	v.Wrong++
	if len(v.Problems) < mostProblems {
		v.Problems = append(v.Problems, p)
	}
}

// Add checks the next message.
func (v *Verifier) Add(m Message) {
	v.Messages++
	if v.oldest.IsZero() {
		v.oldest = m.Time
	}
	v.sequence(m.Seq)
	c, before := v.chains[m.Subject]
	if !before {
		c = &chain{}
		v.chains[m.Subject] = c
	}
	family, rest, _ := strings.Cut(strings.TrimPrefix(m.Subject, Prefix), ".")
	switch {
	case !strings.HasPrefix(m.Subject, Prefix) || rest == "":
		v.wrong(m, "no message of the record has such a subject")
	case family == "request":
		if !before {
			v.Requests++
		}
		v.request(m, rest, c, before)
	case family == "refused":
		v.Refusals++
		v.refused(m, c, before)
	default:
		v.note(m, family, rest, c, before)
	}
	c.hash = lifecycle.Hash(m.Data)
}

// End says what is missing at the end.
func (v *Verifier) End() {
	for _, d := range v.unsure {
		v.wrong(d.m, "%v", d.err)
	}
	v.unsure = nil
	if v.next <= v.extent.Last {
		v.report(Problem{Seq: v.next, What: fmt.Sprintf("%s missing at the end, of which the store says that it holds them", sequences(v.next, v.extent.Last))})
	}
}

// sequence finds gaps: the store removes from its old end only, and nothing else
// is allowed to.
func (v *Verifier) sequence(seq uint64) {
	switch {
	case seq < v.next:
		v.report(Problem{Seq: seq, What: "the sequence does not rise"})
		return
	case seq > v.next:
		v.report(Problem{Seq: v.next, What: fmt.Sprintf("%s missing in the store", sequences(v.next, seq-1))})
	}
	v.next = seq + 1
}

// sequences begins a sentence about one or several.
func sequences(a, b uint64) string {
	if a == b {
		return fmt.Sprintf("sequence %d is", a)
	}
	return fmt.Sprintf("sequences %d to %d are", a, b)
}

// link checks the hash of the message before. It says whether all is well so far.
func (v *Verifier) link(m Message, prev string, c *chain, before bool) bool {
	switch {
	case before && c.over:
		v.wrong(m, "it comes after an end that nothing comes after")
	case before && prev == "":
		v.wrong(m, "it says that it is the first on its subject, and there is one before it")
	case before && prev != c.hash:
		v.wrong(m, "the hash of the record before, which it holds, is not that of the record before: one of them was changed, or one between them is missing")
	case !before && prev != "" && !v.aged(m):
		v.wrong(m, "it is the first on its subject and names one before it, which is missing and was not old enough to go")
	default:
		return true
	}
	return false
}

// aged says whether what came before m on its subject can have aged out.
func (v *Verifier) aged(m Message) bool {
	return v.extent.First > 1 && m.Time.Sub(v.oldest) < straddles
}

func (v *Verifier) request(m Message, key string, c *chain, before bool) {
	if wire.CheckConnectKey(key) != nil {
		v.wrong(m, "its subject names no request")
	}
	rec, err := lifecycle.Decode(m.Data)
	if err != nil {
		v.wrong(m, "%v", err)
		c.rec, c.bad, c.over = nil, true, false
		return
	}
	linked := v.link(m, rec.Prev, c, before)
	if rec.Key != key {
		v.wrong(m, "it is another request's than its subject says")
	}
	if c.q == nil {
		if c.q, err = v.asked(rec, key); err != nil {
			v.wrong(m, "%v", err)
		}
	}
	in, err := v.cause(rec, c.q)
	if out, ok := errors.AsType[notEnrolled](err); ok {
		v.stranger(m, out)
	} else if err != nil {
		v.wrong(m, "%v", err)
	}
	switch {
	case in == nil || !linked || c.bad:
	case before || rec.Event == lifecycle.EventAsked:
		if err := follows(c.rec, m.Data, rec, in); err != nil {
			v.wrong(m, "%v", err)
		}
	default:
		v.Begun++
	}
	if rec.State == lifecycle.StateDeclined {
		c.no = &lifecycle.Record{Project: rec.Project, Group: rec.Group, ByName: rec.ByName, Why: rec.Why, At: rec.At}
	}
	c.bad, c.rec = false, m.Data
	// A relay that could end requests so at will would need no clock for it.
	if rec.Event == lifecycle.EventRestored && len(v.Restores) == 0 && !v.aged(m) {
		v.wrong(m, "it says that the record was restored from a backup, and no note before it says so")
	}
	// Only what no signed word has ended can go on, by a late word of the job.
	c.over = rec.State.Final() && (rec.State == lifecycle.StateDone || rec.Event != lifecycle.EventExpired && rec.Event != lifecycle.EventLost &&
		rec.Event != lifecycle.EventUndelivered && rec.Event != lifecycle.EventRestored)
	if c.over {
		c.rec = nil
	}
}

// follows runs the state machine again: the cause, applied to the record before,
// must give this record to the byte.
func follows(before, data []byte, rec lifecycle.Record, in lifecycle.Input) error {
	var prev *lifecycle.Record
	if before != nil {
		p, err := lifecycle.Decode(before)
		if err != nil {
			return err
		}
		prev = &p
	}
	next, err := lifecycle.Apply(prev, in, time.UnixMilli(rec.At))
	if err != nil {
		return fmt.Errorf("the record before does not allow it: %w", err)
	}
	again, err := next.After(rec.Prev, rec.Op).Encode()
	if err != nil {
		return err
	}
	if !bytes.Equal(again, data) {
		return fmt.Errorf("%q does not make this of the record before: %s", rec.Event, differs(again, data))
	}
	return nil
}

// differs names the fields that do, never what is in them.
func differs(a, b []byte) string {
	var x, y map[string]json.RawMessage
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return "it is another record"
	}
	var names []string
	for name := range x {
		if !bytes.Equal(x[name], y[name]) {
			names = append(names, name)
		}
	}
	for name := range y {
		if _, ok := x[name]; !ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return "it differs in " + strings.Join(names, ", ")
}

// asked verifies the job's own request, and that the record says of it what it
// says.
func (v *Verifier) asked(rec lifecycle.Record, key string) (*asking, error) {
	env, err := wire.DecodeEnvelope(rec.Request)
	if err != nil {
		return nil, fmt.Errorf("the request: %w", err)
	}
	q, err := wire.Open[wire.Request](env, key)
	if err != nil {
		return nil, fmt.Errorf("the request is not signed by the key that it is named after: %w", err)
	}
	digest, err := wire.DigestOf(env, key)
	if err != nil {
		return nil, err
	}
	a := &asking{q.Project, digest, q.Responders}
	for _, c := range []struct {
		what string
		same bool
	}{
		{"digest", rec.Digest == digest.String()},
		{"project", rec.Project == q.Project},
		{"kind", rec.Kind == q.Ask},
		{"number of approvals", rec.Approvals == max(q.Approvals, 1)},
		{"deadline", rec.Deadline <= q.Deadline*1000},
	} {
		if !c.same {
			return a, fmt.Errorf("its %s is not that of the request which the job signed", c.what)
		}
	}
	if q.Relay != v.extent.Relay && !slices.Contains(v.Former, q.Relay) {
		return a, fmt.Errorf("the request was made to the relay %q", q.Relay)
	}
	return a, nil
}

// cause verifies the envelope that caused a record and gives the input that it
// was for the state machine; nil where that cannot be said.
func (v *Verifier) cause(rec lifecycle.Record, q *asking) (lifecycle.Input, error) {
	switch rec.Event {
	case lifecycle.EventAsked:
		return lifecycle.Ask{
			Key: rec.Key, Digest: rec.Digest, Project: rec.Project, Rule: rec.Rule, Group: rec.Group, Kind: rec.Kind,
			Request: rec.Request, Deadline: rec.Deadline, Attempts: rec.Attempts, Approvals: rec.Approvals,
		}, nil
	case lifecycle.EventUndelivered:
		return lifecycle.Undelivered{}, nil
	case lifecycle.EventExpired:
		return lifecycle.Expire{}, nil
	case lifecycle.EventLost:
		return lifecycle.Lost{}, nil
	case lifecycle.EventRestored:
		return lifecycle.Restored{}, nil
	}
	if q == nil {
		return nil, nil // what it is about is not known, and that was said
	}
	env, err := wire.DecodeEnvelope(rec.Cause)
	if err != nil {
		return nil, fmt.Errorf("the envelope that caused it: %w", err)
	}
	var in lifecycle.Input
	var digest wire.Digest
	switch rec.Event {
	case lifecycle.EventGot:
		b, e := wire.Open[wire.Got](env, rec.Key)
		err, digest, in = e, b.Digest, lifecycle.Got{Attempt: b.Attempt, Sealed: b.Sealed.String(), Envelope: rec.Cause}
	case lifecycle.EventRejected:
		b, e := wire.Open[wire.Rejected](env, rec.Key)
		err, digest, in = e, b.Digest, lifecycle.Reject{Attempt: b.Attempt, Why: b.Why, Shut: b.Shut, Envelope: rec.Cause}
	case lifecycle.EventNext:
		b, e := wire.Open[wire.Next](env, rec.Key)
		err, digest, in = e, b.Digest, lifecycle.Next{Attempt: b.Attempt, Envelope: rec.Cause}
	case lifecycle.EventDone:
		b, e := wire.Open[wire.Done](env, rec.Key)
		err, digest, in = e, b.Digest, lifecycle.Done{Outcome: b.Outcome, Envelope: rec.Cause}
	case lifecycle.EventCancelled:
		b, e := wire.Open[wire.Cancel](env, rec.Key)
		err, digest, in = e, b.Digest, lifecycle.Cancel{Why: b.Why, Envelope: rec.Cause}
	case lifecycle.EventOpened, lifecycle.EventAnswered, lifecycle.EventApproved, lifecycle.EventDeclined:
		return v.responders(rec, env, q)
	default:
		return nil, fmt.Errorf("the event %q is not known here; a newer cfa-relay may have written it", rec.Event)
	}
	if err != nil {
		return nil, fmt.Errorf("the job did not sign what caused it: %w", err)
	}
	if digest != q.digest {
		return nil, errors.New("what caused it is about another request")
	}
	return in, nil
}

// responders verifies what a responder signed. Names are the relay's own: a
// responder signs with its key.
func (v *Verifier) responders(rec lifecycle.Record, env wire.Envelope, q *asking) (lifecycle.Input, error) {
	key, err := wire.ClaimedSigner(env)
	if err != nil {
		return nil, err
	}
	if err := wire.CheckSigningKey(key); err != nil {
		return nil, fmt.Errorf("what caused it names no responder: %w", err)
	}
	var in lifecycle.Input
	var digest wire.Digest
	switch rec.Event {
	case lifecycle.EventOpened:
		b, e := wire.Open[wire.Challenge](env, key)
		name := ""
		if n := len(rec.Opened); n > 0 {
			name = rec.Opened[n-1].Name
		}
		err, digest, in = e, b.Digest, lifecycle.Open{Key: key, Name: name, Attempt: rec.Attempt, Envelope: rec.Cause}
	case lifecycle.EventAnswered:
		b, e := wire.Open[wire.Answer](env, key)
		err, digest, in = e, b.Digest, lifecycle.Answer{Key: key, Name: rec.ByName, Attempt: b.Attempt, Sealed: b.Sealed.String(), Envelope: rec.Cause}
		if e == nil && (b.Decision != wire.DecisionCode || b.Ask != rec.Kind) {
			err = errors.New("it is no code for a request of this kind")
		}
	case lifecycle.EventApproved:
		b, e := wire.Open[wire.Answer](env, key)
		name := ""
		if i := slices.IndexFunc(rec.Yes, func(y lifecycle.Yes) bool { return y.Key == key && y.Attempt == b.Attempt }); i >= 0 {
			name = rec.Yes[i].Name
		}
		err, digest, in = e, b.Digest, lifecycle.Approve{Key: key, Name: name, Attempt: b.Attempt, Envelope: rec.Cause}
		if e == nil && (b.Decision != wire.DecisionYes || b.Ask != rec.Kind) {
			err = errors.New("it is no yes to a request of this kind")
		}
	case lifecycle.EventDeclined:
		b, e := wire.Open[wire.Decline](env, key)
		err, digest, in = e, b.Digest, lifecycle.Decline{Key: key, Name: rec.ByName, Attempt: b.Attempt, Reason: b.Reason, Envelope: rec.Cause}
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("the responder %s did not sign what caused it: %w", key, err)
	case digest != q.digest:
		return nil, errors.New("what caused it is about another request")
	case len(q.responders) > 0 && !vouched(key, env, q.responders):
		return in, fmt.Errorf("the responder %s is none of those that the job accepts", key)
	case len(q.responders) == 0 && !v.Enrolled(q.project, key):
		// What the job has pinned it has said itself; else the file says it, or the
		// record.
		return in, notEnrolled{q.project, key}
	}
	return in, nil
}

// vouched says whether a key is among those pinned, or one of them vouches for it.
func vouched(key string, env wire.Envelope, pinned []string) bool {
	_, ok := wire.Vouched(key, wire.ClaimedChain(env), pinned)
	return ok
}

// note checks what is recorded beside the requests.
func (v *Verifier) note(m Message, family, name string, c *chain, before bool) {
	n, err := lifecycle.DecodeNote(m.Data)
	if err != nil {
		v.wrong(m, "%v", err)
		return
	}
	fits := false
	switch family {
	case "unbound":
		fits = n.About == lifecycle.AboutToken && n.Name == name
	case "dropped":
		fits = n.About == lifecycle.AboutDropped && n.Key == name
	case "declined":
		fits = n.About == lifecycle.AboutDeclined
		if fits {
			v.declined(m, n, name)
		}
	case "away":
		fits = n.About == lifecycle.AboutAway && n.Name == name
		if fits {
			v.away(m, n, c)
		}
		// Its chain goes on for as long as the responder is enrolled, so it can
		// have lost any part of its old end.
		if !before && n.Prev != "" && v.extent.First > 1 {
			n.Prev = ""
		}
	case "enrolment":
		fits = n.About == lifecycle.AboutEnrolment && name == n.Name+"."+n.Connect
		if fits {
			v.enrolment(m, n, c, before)
		}
		if !before && n.Prev != "" && v.extent.First > 1 { // as an absence's
			n.Prev = ""
		}
	case "invitation":
		fits = n.About == lifecycle.AboutInvitation && name == n.Name
		if fits {
			v.invitation(m, n, c)
		}
		if !before && n.Prev != "" && v.extent.First > 1 {
			n.Prev = ""
		}
	case "restored":
		fits = n.About == lifecycle.AboutRestored && m.Subject == RestoredSubject
		if fits {
			v.Restores = append(v.Restores, Restore{m.Seq, time.UnixMilli(n.Until), time.UnixMilli(n.At), n.Name})
		}
	default:
		fits = string(n.About) == family && n.About != lifecycle.AboutToken && n.About != lifecycle.AboutDropped && n.About != lifecycle.AboutDeclined && n.About != lifecycle.AboutAway && n.About != lifecycle.AboutRestored && n.About != lifecycle.AboutEnrolment && n.About != lifecycle.AboutInvitation && (name == n.Name || name == n.Key || name == n.Name+"."+n.Key)
	}
	if !fits {
		v.wrong(m, "the note is not about what its subject says")
	}
	v.link(m, n.Prev, c, before)
	// One for ever: the first key that used a token is the only one.
	c.over = family == "unbound" || family == "dropped" || family == "declined"
}

// away holds the note of an absence against what the responder signed: a relay
// could otherwise have nobody asked in the name of somebody who has said nothing,
// or say again what they said long ago.
func (v *Verifier) away(m Message, n lifecycle.Note, c *chain) {
	env, err := wire.DecodeEnvelope(n.Envelope)
	if err != nil {
		v.wrong(m, "the envelope that caused it: %v", err)
		return
	}
	a, err := wire.Open[wire.Away](env, n.Key)
	if err != nil {
		v.wrong(m, "the responder %s did not sign that it is away, or back: %v", n.Key, err)
		return
	}
	end := n.At // of a return, whatever it says
	if !a.Back() {
		end = max(a.Until*1000, n.At)
	}
	late := time.Duration(n.At-a.At) * time.Millisecond
	switch {
	case a.Relay != v.extent.Relay && !slices.Contains(v.Former, a.Relay):
		v.wrong(m, "the responder said it to the relay %q", a.Relay)
	case n.Until != end:
		v.wrong(m, "the absence does not end when the responder said")
	case late > wire.AwayWithin || late < -wire.AwayWithin:
		v.wrong(m, "the responder did not say it when it was recorded")
	case a.At <= c.at:
		v.wrong(m, "the responder said it before what is recorded before it")
	}
	c.at = max(c.at, a.At)
}

// stillIn is for how long somebody who was removed may have been let finish: of
// several relays, one hears of it a moment later.
const stillIn = time.Minute

// stranger says that somebody answered who was not enrolled, by the file or by the
// record, unless that is to be seen later.
func (v *Verifier) stranger(m Message, e notEnrolled) {
	p, known := v.places[e.place()]
	switch {
	case p.in, known && m.Time.Sub(p.since) < stillIn:
	case known || v.extent.First == 1:
		v.wrong(m, "%v", e)
	case len(v.unsure) < mostProblems:
		v.unsure = append(v.unsure, doubt{e.place(), m, e})
	default:
		v.Wrong++
	}
}

// enrolment holds the note of an enrolment against what whoever is enrolled has
// proved: that the two keys are theirs. That an administrator wanted it, the relay
// alone says.
func (v *Verifier) enrolment(m Message, n lifecycle.Note, c *chain, before bool) {
	var said wire.JoinMessage
	err := wire.Decode(n.Envelope, lifecycle.MaxNote, &said)
	invitation := ""
	if err == nil {
		invitation, err = wire.ClaimedInvitation(said)
	}
	if err != nil {
		v.wrong(m, "what the responder signed when it joined: %v", err)
		return
	}
	if err := v.joined(n, said, invitation); err != nil {
		v.wrong(m, "%v", err)
		return
	}
	if before && c.of != "" && c.of != n.Key {
		v.places[notEnrolled{n.Name, c.of}.place()] = placed{since: m.Time}
	}
	c.of = n.Key
	place := notEnrolled{n.Name, n.Key}.place()
	if !before && n.Prev != "" { // it was in force before, so whoever it is about was enrolled
		v.unsure = slices.DeleteFunc(v.unsure, func(d doubt) bool { return d.place == place })
	}
	v.places[place] = placed{n.Until == 0, m.Time}
}

// invitation holds the note of one that somebody has come by against what they
// have proved.
func (v *Verifier) invitation(m Message, n lifecycle.Note, c *chain) {
	of := n.Key + n.Connect
	if c.of != "" && c.of != of {
		v.wrong(m, "two have come by one invitation")
	}
	if c.of = of; n.Envelope == nil {
		return
	}
	var said wire.JoinMessage
	if err := wire.Decode(n.Envelope, lifecycle.MaxNote, &said); err != nil {
		v.wrong(m, "what the responder signed when it joined: %v", err)
	} else if err := v.joined(n, said, n.Name); err != nil {
		v.wrong(m, "%v", err)
	}
}

// joined verifies what somebody said who came by an invitation.
func (v *Verifier) joined(n lifecycle.Note, said wire.JoinMessage, invitation string) error {
	b, err := wire.OpenJoin(said, invitation)
	switch {
	case err != nil:
		return fmt.Errorf("the responder %s did not sign that it wants to be enrolled: %w", n.Key, err)
	case b.Connect != n.Connect || said.Speaks(b.Key, n.Key) != nil:
		return errors.New("what the responder signed when it joined is about other keys")
	case b.Relay != v.extent.Relay && !slices.Contains(v.Former, b.Relay):
		return fmt.Errorf("the responder said it to the relay %q", b.Relay)
	}
	return nil
}

// declined holds the note of a declined run against the decline: a relay could
// otherwise bar a run in the name of somebody who has said nothing.
func (v *Verifier) declined(m Message, n lifecycle.Note, name string) {
	var no *lifecycle.Record
	if c := v.chains[RequestPrefix+n.Key]; c != nil {
		no = c.no
	}
	switch {
	case no == nil && !v.aged(m):
		v.wrong(m, "it says that a run was declined, and the request that it names was not declined before")
	case no == nil:
	case name != lifecycle.Hash([]byte(no.Project+"\x00"+no.Group)) || n.Name != no.Group || n.Person != no.ByName || n.Why != no.Why || n.At != no.At:
		v.wrong(m, "the note of a declined run is not what the decline was")
	}
}

func (v *Verifier) refused(m Message, c *chain, before bool) {
	f, err := lifecycle.DecodeRefusal(m.Data)
	if err != nil {
		v.wrong(m, "%v", err)
		return
	}
	v.Left += f.Left
	// Its chain is as long as a relay runs, so it can have lost any part of its
	// old end.
	if !before && f.Prev != "" && v.extent.First > 1 {
		return
	}
	v.link(m, f.Prev, c, before)
}
