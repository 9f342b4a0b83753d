// What each input does in each state: the full table, then the cases that the table is too coarse for.

package lifecycle

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var start = time.UnixMilli(1_800_000_000_000)

const (
	jobKey = "UJOB"
	ann    = "UANN"
	bob    = "UBOB"
	cyd    = "UCYD"
)

func hash(s string) string { return Hash([]byte(s)) }

func signed(what string) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"v":1,"kind":%q,"body":"e30","sig":"c2ln"}`, what))
}

func ask(kind string, approvals int) Ask {
	return Ask{
		Key: jobKey, Digest: hash("request"), Project: "left-pad", Rule: "release", Group: "42/7/1", Kind: kind,
		Request: signed("request"), Deadline: start.Add(30 * time.Minute).UnixMilli(), Attempts: 2, Approvals: approvals,
	}
}

// Inputs by people whose name is their key, about an attempt n.
func open(key string, n int) Open {
	return Open{Key: key, Name: key, Attempt: n, Envelope: signed("open")}
}
func answer(key string, n int) Answer {
	return Answer{Key: key, Name: key, Attempt: n, Sealed: sealed(key, n), Envelope: signed("answer")}
}
func approve(key string, n int) Approve {
	return Approve{Key: key, Name: key, Attempt: n, Envelope: signed("yes")}
}
func decline(key string, n int) Decline {
	return Decline{Key: key, Name: key, Attempt: n, Reason: "not now", Envelope: signed("decline")}
}
func got(key string, n int) Got {
	return Got{Attempt: n, Sealed: sealed(key, n), Envelope: signed("got")}
}
func refused(n int) Reject { return Reject{Attempt: n, Why: Refused, Envelope: signed("rejected")} }
func unusable(n int, key string) Reject {
	return Reject{Attempt: n, Why: Unusable, Shut: key, Envelope: signed("rejected")}
}
func next(n int) Next               { return Next{Attempt: n, Envelope: signed("next")} }
func done(outcome string) Done      { return Done{Outcome: outcome, Envelope: signed("done")} }
func cancel(why string) Cancel      { return Cancel{Why: why, Envelope: signed("cancel")} }
func sealed(k string, n int) string { return hash(fmt.Sprint("sealed", k, n)) }

// wait lets time pass between the inputs of a history.
type wait time.Duration

// at is a request after a history, its records' bytes, and the time then.
type at struct {
	r     *Record
	lines [][]byte
	now   time.Time
}

// after replays a history; each record goes through its bytes, so what is not in them is not relied on.
func after(t testing.TB, history ...any) at {
	t.Helper()
	h := at{now: start}
	var last []byte
	for i, step := range history {
		if d, ok := step.(wait); ok {
			h.now = h.now.Add(time.Duration(d))
			continue
		}
		r, err := Apply(h.r, step.(Input), h.now)
		if err != nil {
			t.Fatalf("step %d, %T: %v", i, step, err)
		}
		last = encode(t, r.After(hashOf(last), fmt.Sprint("op-", i)))
		r = decode(t, last)
		h.r, h.lines, h.now = &r, append(h.lines, last), h.now.Add(time.Second)
	}
	return h
}

func encode(t testing.TB, r Record) []byte {
	t.Helper()
	b, err := r.Encode()
	if err != nil {
		t.Fatalf("encode %s/%s: %v", r.Event, r.State, err)
	}
	return b
}

func decode(t testing.TB, b []byte) Record {
	t.Helper()
	r, err := Decode(b)
	if err != nil {
		t.Fatalf("decode: %v", err)
	}
	return r
}

// verdict is the outcome of an input in a word: the state and attempt that it leads to, or the error.
func verdict(r Record, err error) string {
	var taken *TakenError
	var ended *EndedError
	switch {
	case err == nil && r.State == StateDone:
		return "done:" + r.Outcome
	case err == nil && r.State.Final():
		return string(r.State)
	case err == nil:
		return fmt.Sprintf("%s:%d", r.State, r.Attempt)
	case errors.As(err, &taken):
		return "Taken"
	case errors.As(err, &ended):
		return "Ended"
	}
	for name, sentinel := range map[string]error{
		"Same": ErrSame, "Unknown": ErrUnknown, "KeyUsed": ErrKeyUsed, "Attempt": ErrAttempt, "Shut": ErrShut,
		"SamePerson": ErrSamePerson, "Approval": ErrApproval, "NotYet": ErrNotYet, "State": ErrState, "Kind": ErrKind,
		"Hash": ErrHash, "Input": ErrInput,
	} {
		if errors.Is(err, sentinel) {
			return name
		}
	}
	return "unexpected: " + err.Error()
}

// The columns of the table: each input as the side that takes it would make it, from the record that it has read.
var columns = []struct {
	name string
	make func(r *Record) Input
}{
	{"ask", func(r *Record) Input {
		if r == nil {
			return ask(KindCode, 1)
		}
		return ask(r.Kind, r.Approvals)
	}},
	{"open", func(r *Record) Input { return open(bob, attempt(r)) }},
	{"answer", func(r *Record) Input { return answer(bob, attempt(r)) }},
	{"undelivered", func(*Record) Input { return Undelivered{} }},
	{"got", func(*Record) Input { return got(ann, 1) }},
	{"refused", func(r *Record) Input { return refused(held(r)) }},
	{"unusable", func(r *Record) Input { return unusable(held(r), "") }},
	{"next", func(r *Record) Input { return next(held(r)) }},
	{"approve", func(r *Record) Input { return approve(bob, attempt(r)) }},
	{"done", func(*Record) Input { return done(OutcomeOK) }},
	{"decline", func(r *Record) Input { return decline(bob, attempt(r)) }},
	{"cancel", func(*Record) Input { return cancel("stop") }},
	{"expire", func(*Record) Input { return Expire{} }},
	{"lost", func(*Record) Input { return Lost{} }},
	{"restored", func(*Record) Input { return Restored{} }},
}

func attempt(r *Record) int {
	if r == nil {
		return 1
	}
	return r.Attempt
}

func held(r *Record) int {
	if r == nil || r.AnswerAttempt == 0 {
		return attempt(r)
	}
	return r.AnswerAttempt
}

// rows are the states to start from, with what makes them differ for some input.
var rows = map[string][]any{
	"none":            {},
	"pending":         {ask(KindCode, 1)},
	"answered":        {ask(KindCode, 1), answer(ann, 1)},
	"answered+60s":    {ask(KindCode, 1), answer(ann, 1), wait(time.Minute)},
	"undelivered":     {ask(KindCode, 1), answer(ann, 1), wait(time.Minute), Undelivered{}},
	"answered-again":  {ask(KindCode, 1), answer(ann, 1), wait(time.Minute), Undelivered{}, answer(cyd, 2)},
	"delivered":       {ask(KindCode, 1), answer(ann, 1), got(ann, 1)},
	"delivered-late":  {ask(KindCode, 1), answer(ann, 1), wait(time.Minute), Undelivered{}, got(ann, 1)},
	"rejected":        {ask(KindCode, 1), answer(ann, 1), got(ann, 1), refused(1)},
	"one-more":        {ask(KindCode, 1), answer(ann, 1), got(ann, 1), next(1)},
	"last-code":       {ask(KindCode, 1), answer(cyd, 1), got(cyd, 1), refused(1), answer(ann, 2), got(ann, 2)},
	"shut":            {ask(KindCode, 1), answer(bob, 1), unusable(1, bob)},
	"overdue":         {ask(KindCode, 1), wait(time.Hour)},
	"answered-over":   {ask(KindCode, 1), answer(ann, 1), wait(time.Hour)},
	"delivered-over":  {ask(KindCode, 1), answer(ann, 1), got(ann, 1), wait(time.Hour)},
	"done":            {ask(KindCode, 1), answer(ann, 1), got(ann, 1), done(OutcomeOK)},
	"failed":          {ask(KindCode, 1), answer(ann, 1), got(ann, 1), done(OutcomeFailed)},
	"gone-after-got":  {ask(KindCode, 1), answer(ann, 1), got(ann, 1), Lost{}},
	"declined":        {ask(KindCode, 1), decline(ann, 1)},
	"no-after-lapse":  {ask(KindCode, 1), answer(ann, 1), wait(time.Minute), Undelivered{}, decline(cyd, 2)},
	"expired":         {ask(KindCode, 1), wait(time.Hour), Expire{}},
	"expired-holding": {ask(KindCode, 1), answer(ann, 1), wait(time.Hour), Expire{}},
	"expired-lapsed":  {ask(KindCode, 1), answer(ann, 1), wait(time.Minute), Undelivered{}, wait(time.Hour), Expire{}},
	"cancelled":       {ask(KindCode, 1), cancel("stop")},
	"cancel-holding":  {ask(KindCode, 1), answer(ann, 1), cancel("stop")},
	"lost":            {ask(KindCode, 1), Lost{}},
	"lost-holding":    {ask(KindCode, 1), answer(ann, 1), Lost{}},
	"lost-lapsed":     {ask(KindCode, 1), answer(ann, 1), wait(time.Minute), Undelivered{}, Lost{}},
	"restored":        {ask(KindCode, 1), Restored{}},
	"restored-holds":  {ask(KindCode, 1), answer(ann, 1), Restored{}},
	"restored-got":    {ask(KindCode, 1), answer(ann, 1), got(ann, 1), Restored{}},
	"out-of-codes":    {ask(KindCode, 1), answer(ann, 1), got(ann, 1), refused(1), answer(ann, 2), got(ann, 2), refused(2)},
	"code-of-two":     {ask(KindCode, 2)},
	"code-of-two-yes": {ask(KindCode, 2), approve(ann, 1)},
	"code-of-two-2nd": {ask(KindCode, 2), approve(ann, 1), next(1)},
	"code-of-two-bob": {ask(KindCode, 2), approve(bob, 1), next(1)},
	"link":            {ask(KindLink, 1)},
	"link-done":       {ask(KindLink, 1), done(OutcomeOK)},
	"link-of-two":     {ask(KindLink, 2)},
	"link-of-two-yes": {ask(KindLink, 2), approve(ann, 1)},
	"link-of-two-2nd": {ask(KindLink, 2), approve(ann, 1), next(1)},
	"approval":        {ask(KindApproval, 0)},
	"approved":        {ask(KindApproval, 1), approve(ann, 1)},
	"approval-of-two": {ask(KindApproval, 2)},
	"first-yes":       {ask(KindApproval, 2), approve(ann, 1)},
	"first-yes-next":  {ask(KindApproval, 2), approve(ann, 1), next(1)},
	"first-yes-bob":   {ask(KindApproval, 2), approve(bob, 1), next(1)},
	"both-yes":        {ask(KindApproval, 2), approve(ann, 1), next(1), approve(bob, 2)},
}

// Undelivered in a row that is younger than 60 s is NotYet; Expire before the deadline too.
const table = `
                 ask       open       answer     undelivered got        refused    unusable   next      approve    done         decline  cancel       expire       lost         restored
none             pending:1 Unknown    Unknown    Unknown     Unknown    Unknown    Unknown    Unknown   Unknown    Unknown      Unknown  Unknown      Unknown      Unknown      Unknown
pending          Same      pending:1  answered:1 State       Attempt    State      State      State     Kind       State        declined cancelled    NotYet       cancelled    cancelled
answered         Same      answered:1 Taken      NotYet      delivered:1 State     pending:2  State     Kind       State        Taken    cancelled    NotYet       cancelled    cancelled
answered+60s     Same      answered:1 Taken      pending:2   delivered:1 State     pending:2  State     Kind       State        Taken    cancelled    NotYet       cancelled    cancelled
undelivered      Same      pending:2  answered:2 State       delivered:2 State     State      State     Kind       State        declined cancelled    NotYet       cancelled    cancelled
answered-again   Same      answered:2 Taken      NotYet      delivered:2 State     pending:3  State     Kind       State        Taken    cancelled    NotYet       cancelled    cancelled
delivered        Same      Taken      Taken      State       Same       pending:2  pending:2  pending:2 Kind       done:ok      Taken    done:unknown NotYet       done:unknown done:unknown
delivered-late   Same      Taken      Taken      State       Same       pending:2  pending:2  pending:2 Kind       done:ok      Taken    done:unknown NotYet       done:unknown done:unknown
rejected         Same      pending:2  answered:2 State       Same       State      State      State     Kind       State        declined cancelled    NotYet       cancelled    cancelled
one-more         Same      pending:2  answered:2 State       Same       State      State      State     Kind       State        declined cancelled    NotYet       cancelled    cancelled
last-code        Same      Taken      Taken      State       Hash       cancelled  pending:3  pending:3 Kind       done:ok      Taken    done:unknown NotYet       done:unknown done:unknown
shut             Same      Shut       Shut       State       Hash       State      State      State     Kind       State        declined cancelled    NotYet       cancelled    cancelled
overdue          Same      Ended      Ended      Ended       Attempt    State      State      Ended     Kind       State        Ended    cancelled    expired      cancelled    cancelled
answered-over    Same      Ended      Ended      Ended       delivered:1 State     pending:2  Ended     Kind       State        Ended    cancelled    expired      cancelled    cancelled
delivered-over   Same      Ended      Ended      Ended       Same       pending:2  pending:2  Ended     Kind       done:ok      Ended    done:unknown done:unknown done:unknown done:unknown
done             Same      Ended      Ended      Ended       Same       Ended      Ended      Ended     Kind       Same         Ended    Ended        Ended        Ended        Ended
failed           Same      Ended      Ended      Ended       Same       Ended      Ended      Ended     Kind       Ended        Ended    Ended        Ended        Ended        Ended
gone-after-got   Same      Ended      Ended      Ended       Same       Ended      Ended      Ended     Kind       Ended        Ended    Ended        Ended        Ended        Ended
declined         Same      Ended      Ended      Ended       Ended      Ended      Ended      Ended     Kind       Ended        Ended    Ended        Ended        Ended        Ended
no-after-lapse   Same      Ended      Ended      Ended       Ended      Ended      Ended      Ended     Kind       Ended        Ended    Ended        Ended        Ended        Ended
expired          Same      Ended      Ended      Ended       Attempt    Ended      Ended      Ended     Kind       Ended        Ended    Ended        Ended        Ended        Ended
expired-holding  Same      Ended      Ended      Ended       done:unknown Ended    Ended      Ended     Kind       Ended        Ended    Ended        Ended        Ended        Ended
expired-lapsed   Same      Ended      Ended      Ended       done:unknown Ended    Ended      Ended     Kind       Ended        Ended    Ended        Ended        Ended        Ended
cancelled        Same      Ended      Ended      Ended       Ended      Ended      Ended      Ended     Kind       Ended        Ended    Same         Ended        Ended        Ended
cancel-holding   Same      Ended      Ended      Ended       Ended      Ended      Ended      Ended     Kind       Ended        Ended    Same         Ended        Ended        Ended
lost             Same      Ended      Ended      Ended       Attempt    Ended      Ended      Ended     Kind       Ended        Ended    Ended        Ended        Ended        Ended
lost-holding     Same      Ended      Ended      Ended       done:unknown Ended    Ended      Ended     Kind       Ended        Ended    Ended        Ended        Ended        Ended
lost-lapsed      Same      Ended      Ended      Ended       done:unknown Ended    Ended      Ended     Kind       Ended        Ended    Ended        Ended        Ended        Ended
restored         Same      Ended      Ended      Ended       Attempt    Ended      Ended      Ended     Kind       Ended        Ended    Ended        Ended        Ended        Ended
restored-holds   Same      Ended      Ended      Ended       done:unknown Ended    Ended      Ended     Kind       Ended        Ended    Ended        Ended        Ended        Ended
restored-got     Same      Ended      Ended      Ended       Same       Ended      Ended      Ended     Kind       Ended        Ended    Ended        Ended        Ended        Ended
out-of-codes     Same      Ended      Ended      Ended       Ended      Ended      Ended      Ended     Kind       Ended        Ended    Ended        Ended        Ended        Ended
code-of-two      Same      pending:1  Approval   State       Attempt    State      State      State     pending:1  State        declined cancelled    NotYet       cancelled    cancelled
code-of-two-yes  Same      pending:1  Taken      State       Attempt    State      pending:2  pending:2 Taken      State        declined cancelled    NotYet       cancelled    cancelled
code-of-two-2nd  Same      pending:2  answered:2 State       Attempt    State      State      State     pending:2  State        declined cancelled    NotYet       cancelled    cancelled
code-of-two-bob  Same      SamePerson SamePerson State       Attempt    State      State      State     SamePerson State        declined cancelled    NotYet       cancelled    cancelled
link             Same      pending:1  Kind       State       Kind       State      State      State     Kind       done:ok      declined cancelled    NotYet       cancelled    cancelled
link-done        Same      Ended      Kind       Ended       Kind       Ended      Ended      Ended     Kind       Same         Ended    Ended        Ended        Ended        Ended
link-of-two      Same      pending:1  Kind       State       Kind       State      State      State     pending:1  Approval     declined cancelled    NotYet       cancelled    cancelled
link-of-two-yes  Same      pending:1  Kind       State       Kind       State      pending:2  pending:2 Taken      Approval     declined cancelled    NotYet       cancelled    cancelled
link-of-two-2nd  Same      pending:2  Kind       State       Kind       State      State      State     pending:2  done:ok      declined cancelled    NotYet       cancelled    cancelled
approval         Same      pending:1  Kind       State       Kind       State      State      State     done:ok    State        declined cancelled    NotYet       cancelled    cancelled
approved         Same      Ended      Kind       Ended       Kind       Ended      Ended      Ended     Ended      Same         Ended    Ended        Ended        Ended        Ended
approval-of-two  Same      pending:1  Kind       State       Kind       State      State      State     pending:1  State        declined cancelled    NotYet       cancelled    cancelled
first-yes        Same      pending:1  Kind       State       Kind       State      pending:2  pending:2 Taken      State        declined cancelled    NotYet       cancelled    cancelled
first-yes-next   Same      pending:2  Kind       State       Kind       State      State      State     done:ok    State        declined cancelled    NotYet       cancelled    cancelled
first-yes-bob    Same      SamePerson Kind       State       Kind       State      State      State     SamePerson State        declined cancelled    NotYet       cancelled    cancelled
both-yes         Same      Ended      Kind       Ended       Kind       Ended      Ended      Ended     Same       Same         Ended    Ended        Ended        Ended        Ended
`

func TestEveryInputInEveryState(t *testing.T) {
	t.Parallel()
	lines := strings.Split(strings.TrimSpace(table), "\n")
	names := strings.Fields(lines[0])
	if len(names) != len(columns) {
		t.Fatalf("the table has %d columns, the machine %d inputs", len(names), len(columns))
	}
	seen := map[string]bool{}
	states := map[State]bool{}
	for _, line := range lines[1:] {
		cells := strings.Fields(line)
		if len(cells) != len(columns)+1 {
			t.Fatalf("row %q has %d cells, want %d", cells[0], len(cells)-1, len(columns))
		}
		history, ok := rows[cells[0]]
		if !ok {
			t.Fatalf("row %q has no history", cells[0])
		}
		seen[cells[0]] = true
		for i, column := range columns {
			if column.name != names[i] {
				t.Fatalf("column %d is %q, want %q", i, names[i], column.name)
			}
			h := after(t, history...)
			var before []byte
			if h.r != nil {
				states[h.r.State] = true
				before = encode(t, *h.r)
			}
			r, err := Apply(h.r, column.make(h.r), h.now)
			if got := verdict(r, err); got != cells[i+1] {
				t.Errorf("%s: %s gives %s (%v), want %s", cells[0], column.name, got, err, cells[i+1])
			}
			if err != nil && !reflect.DeepEqual(r, Record{}) {
				t.Errorf("%s: %s gives an error and a record", cells[0], column.name)
			}
			if h.r != nil && string(encode(t, *h.r)) != string(before) {
				t.Errorf("%s: %s changed the record it started from", cells[0], column.name)
			}
		}
	}
	if len(seen) != len(rows) {
		t.Errorf("%d of %d histories are in the table", len(seen), len(rows))
	}
	if len(states) != 7 {
		t.Errorf("the table starts from %d of 7 states", len(states))
	}
}

func TestTheNextRecordSharesNoMemoryWithTheLast(t *testing.T) {
	t.Parallel()
	h := after(t, ask(KindCode, 2), open(ann, 1), approve(ann, 1), next(1), open(bob, 2), answer(bob, 2), unusable(2, bob),
		answer(cyd, 3), wait(time.Minute), Undelivered{}, answer(cyd, 4))
	before := encode(t, *h.r)
	r, err := Apply(h.r, open("UDAN", 4), h.now)
	if err != nil {
		t.Fatal(err)
	}
	scribble(t, reflect.ValueOf(&r).Elem())
	if string(encode(t, *h.r)) != string(before) {
		t.Error("writing to the next record changed the last one")
	}
}

// scribble overwrites every element of every slice below v, and fails if a slice is empty: an empty one shows nothing.
func scribble(t *testing.T, v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			scribble(t, v.Field(i))
		}
	case reflect.Slice:
		for i := range v.Len() {
			scribble(t, v.Index(i))
		}
	case reflect.Uint8:
		v.SetUint('!')
	case reflect.String:
		v.SetString("scribbled")
	case reflect.Int, reflect.Int64:
		v.SetInt(-1)
	default:
		t.Fatalf("a record has a %s: clone it, and scribble it here", v.Kind())
	}
}

// A story is a history and then one input, for what the table cannot tell apart.
func TestStories(t *testing.T) {
	t.Parallel()
	lapse := []any{wait(time.Minute), Undelivered{}}
	full := []any{ask(KindCode, 1)}
	for i := range MaxOpenings {
		full = append(full, open(fmt.Sprint("U", i), 1))
	}
	for _, tt := range []struct {
		name    string
		history []any
		in      Input
		want    string
		check   func(r Record) bool
	}{
		{"another request under the same key is refused", []any{ask(KindCode, 1)},
			func() Input { a := ask(KindCode, 1); a.Digest = hash("other"); return a }(), "KeyUsed", nil},
		{"another request under the same key is refused after the end too", []any{ask(KindCode, 1), cancel("")},
			func() Input { a := ask(KindCode, 1); a.Digest = hash("other"); return a }(), "KeyUsed", nil},
		{"a request of another key does not belong on this subject", []any{ask(KindCode, 1)},
			func() Input { a := ask(KindCode, 1); a.Key = "UELSE"; return a }(), "Input", nil},
		{"a request without time is over", nil,
			func() Input { a := ask(KindCode, 1); a.Deadline = start.UnixMilli(); return a }(), "Ended", nil},
		{"a request may take the longest wait", nil,
			func() Input { a := ask(KindCode, 1); a.Deadline = start.Add(LongestWait).UnixMilli(); return a }(), "pending:1", nil},
		{"a request may not take longer", nil,
			func() Input { a := ask(KindCode, 1); a.Deadline = start.Add(LongestWait).UnixMilli() + 1; return a }(), "Input", nil},
		{"a code without a limit of refusals is refused", nil,
			func() Input { a := ask(KindCode, 1); a.Attempts = 0; return a }(), "Input", nil},
		{"three approvals are refused", nil,
			func() Input { a := ask(KindCode, 1); a.Approvals = 3; return a }(), "Input", nil},
		{"an unknown kind is refused", nil, ask("tap", 1), "Input", nil},
		{"a request without its envelope is refused", nil,
			func() Input { a := ask(KindCode, 1); a.Request = nil; return a }(), "Input", nil},

		{"a renewed opening needs no record", []any{ask(KindCode, 1), open(bob, 1)}, open(bob, 1), "Same", nil},
		{"the next attempt is opened anew", append([]any{ask(KindCode, 1), open(bob, 1), answer(ann, 1)}, lapse...), open(bob, 2), "pending:2",
			func(r Record) bool { return len(r.Opened) == 2 && r.Opened[1].Attempt == 2 }},
		{"an opening of a past attempt is refused", append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), open(bob, 1), "Attempt", nil},
		{"openings beyond the limit are served without a record", full, open(bob, 1), "Same", nil},
		{"openings of a past attempt make room", append(append(full[:len(full):len(full)], answer(ann, 1)), lapse...), open(bob, 2), "pending:2",
			func(r Record) bool { return len(r.Opened) == MaxOpenings && r.Opened[MaxOpenings-1].Key == bob }},

		{"the same answer again is acknowledged", []any{ask(KindCode, 1), answer(ann, 1)}, answer(ann, 1), "Same", nil},
		{"the same answer again is acknowledged after got", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1)}, answer(ann, 1), "Same", nil},
		{"the same answer again is acknowledged after the deadline", []any{ask(KindCode, 1), answer(ann, 1), wait(time.Hour)}, answer(ann, 1), "Same", nil},
		{"another answer by the same key is not the same", []any{ask(KindCode, 1), answer(ann, 1)},
			func() Input { a := answer(ann, 1); a.Sealed = hash("else"); return a }(), "Taken", nil},
		{"the same bytes by another key are not the same", []any{ask(KindCode, 1), answer(ann, 1)},
			func() Input { a := answer(ann, 1); a.Key = bob; return a }(), "Taken", nil},
		{"an answer to a past attempt is refused", append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), answer(bob, 1), "Attempt", nil},
		{"an answer to a future attempt is refused", []any{ask(KindCode, 1)}, answer(bob, 2), "Attempt", nil},
		{"an answer to no attempt is refused", []any{ask(KindCode, 1)}, answer(bob, 0), "Attempt", nil},
		{"an answer at the deadline is too late", []any{ask(KindCode, 1), wait(30*time.Minute - time.Second)}, answer(bob, 1), "Ended", nil},
		{"an answer a moment before is not", []any{ask(KindCode, 1), wait(30*time.Minute - time.Second - time.Millisecond)}, answer(bob, 1), "answered:1", nil},
		{"an answer without its signature is refused", []any{ask(KindCode, 1)},
			func() Input { a := answer(bob, 1); a.Envelope = nil; return a }(), "Input", nil},
		{"an answer with a malformed hash is refused", []any{ask(KindCode, 1)},
			func() Input { a := answer(bob, 1); a.Sealed = "ABC"; return a }(), "Input", nil},
		{"an answer without a key is refused", []any{ask(KindCode, 1)}, answer("", 1), "Input", nil},
		{"after an undelivered answer the same person may answer again", append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), answer(ann, 2), "answered:2", nil},
		{"after a refused code the same person may answer again", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1), refused(1)}, answer(ann, 2), "answered:2", nil},

		{"undelivered a moment too early", []any{ask(KindCode, 1), answer(ann, 1), wait(UndeliveredAfter - time.Second - time.Millisecond)}, Undelivered{}, "NotYet", nil},
		{"undelivered on time forgets the answer and remembers it in past", []any{ask(KindCode, 1), answer(ann, 1), wait(UndeliveredAfter - time.Second)}, Undelivered{}, "pending:2",
			func(r Record) bool {
				return r.Reason == ReasonUndelivered && r.Answer == nil && r.Sealed == "" && r.By == "" && r.Answered == 0 && r.Cause == nil &&
					len(r.Past) == 1 && r.Past[0].Attempt == 1 && r.Past[0].Sealed == sealed(ann, 1) && r.Past[0].By == ann && r.Past[0].Answer != nil
			}},

		{"a got with another hash is refused", []any{ask(KindCode, 1), answer(ann, 1)}, got(bob, 1), "Hash", nil},
		{"a late got with another hash is refused", append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), got(bob, 1), "Hash", nil},
		{"a late got makes the answer the request's again", append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), got(ann, 1), "delivered:2",
			func(r Record) bool {
				return r.AnswerAttempt == 1 && r.By == ann && r.Sealed == sealed(ann, 1) && r.Answer != nil && len(r.Past) == 0
			}},
		{"a late got counts while a later answer is on its way", append(append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), answer(bob, 2)), got(ann, 1), "delivered:2",
			func(r Record) bool {
				return r.AnswerAttempt == 1 && r.By == ann && len(r.Past) == 1 && r.Past[0].By == bob && r.Past[0].End == ReasonUndelivered
			}},
		{"after a late got, a refusal opens the attempt that the job counts", append(append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), got(ann, 1)), refused(1), "pending:2",
			func(r Record) bool { return r.Reason == ReasonRejected && r.Rejected == 1 }},
		{"and that attempt can be answered", append(append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), got(ann, 1), refused(1)), answer(bob, 2), "answered:2", nil},
		{"an attempt that has an answer is not opened again, and the job hears why", append(append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), answer(bob, 2), got(ann, 1)), refused(1), "pending:3",
			func(r Record) bool { return r.Reason == ReasonUndelivered }},
		{"where the clock has gone further the job hears why", append(append(append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), append([]any{answer(bob, 2)}, lapse...)...), got(ann, 1)), refused(1), "pending:3",
			func(r Record) bool { return r.Reason == ReasonUndelivered }},
		{"the later answer counts once the job has rejected the first", append(append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), answer(bob, 2), got(ann, 1), refused(1)), got(bob, 2), "delivered:3",
			func(r Record) bool { return r.AnswerAttempt == 2 && r.By == bob }},
		{"the later answer does not count while the job holds the first", append(append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), answer(bob, 2), got(ann, 1)), got(bob, 2), "Attempt", nil},
		{"an answer older than one that the job has rejected is over", append(append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), answer(bob, 2), unusable(2, bob)), got(ann, 1), "Attempt", nil},
		{"a got about a rejected answer is only repeated", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1), refused(1)}, got(ann, 1), "Same", nil},
		{"a late got after expiry is one more record", append(append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), wait(time.Hour), Expire{}), got(ann, 1), "done:unknown",
			func(r Record) bool {
				return r.Event == EventGot && r.Cause != nil && r.By == ann && r.AnswerAttempt == 1 && r.Why == WhyDeadline
			}},
		{"and only one", append(append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), wait(time.Hour), Expire{}, got(ann, 1)), got(ann, 1), "Same", nil},

		{"a refused code counts and is told", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1)}, refused(1), "pending:2",
			func(r Record) bool { return r.Rejected == 1 && r.Reason == ReasonRejected && r.Shut == nil }},
		{"the refused code at the limit ends the request", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1), refused(1), answer(ann, 2), got(ann, 2)}, refused(2), "cancelled",
			func(r Record) bool { return r.Rejected == 2 && r.Attempt == 2 && r.Why == WhyRefused }},
		{"an unusable answer does not count and shuts its key out", []any{ask(KindCode, 1), answer(ann, 1)}, unusable(1, ann), "pending:2",
			func(r Record) bool { return r.Rejected == 0 && slices.Equal(r.Shut, []string{ann}) }},
		{"an unusable answer shuts out its own key only", []any{ask(KindCode, 1), answer(ann, 1)}, unusable(1, bob), "Input", nil},
		{"a refused code shuts nobody out", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1)},
			Reject{Attempt: 1, Why: Refused, Shut: ann, Envelope: signed("rejected")}, "Input", nil},
		{"a rejection has a known reason", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1)},
			Reject{Attempt: 1, Why: "bored", Envelope: signed("rejected")}, "Input", nil},
		{"a rejection of a past attempt is repeated", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1), refused(1), answer(bob, 2)}, refused(1), "Same", nil},
		{"a rejection of a future attempt is refused", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1)}, refused(2), "Attempt", nil},
		{"a late unusable shuts the key out and leaves the open attempt", append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), unusable(1, ann), "pending:2",
			func(r Record) bool {
				return slices.Equal(r.Shut, []string{ann}) && r.Reason == ReasonRejected && r.Past[0].Answer == nil
			}},
		{"a late unusable leaves the answer on its way", append(append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), answer(bob, 2)), unusable(1, ann), "answered:2",
			func(r Record) bool { return r.By == bob && r.Reason == ReasonUndelivered }},
		{"a late unusable does not change why a still later attempt is open", append(append(append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), answer(bob, 2)), lapse...), unusable(1, ann), "pending:3",
			func(r Record) bool { return slices.Equal(r.Shut, []string{ann}) && r.Reason == ReasonUndelivered }},
		{"a late unusable shuts out its own key only", append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), unusable(1, bob), "Input", nil},
		{"an unusable yes shuts out its own key only", []any{ask(KindApproval, 2), approve(ann, 1)}, unusable(1, bob), "Input", nil},
		{"a late refusal without got is refused", append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), refused(1), "Attempt", nil},
		{"a shut key cannot open", []any{ask(KindCode, 1), answer(ann, 1), unusable(1, ann)}, open(ann, 2), "Shut", nil},
		{"a shut key cannot answer", []any{ask(KindCode, 1), answer(ann, 1), unusable(1, ann)}, answer(ann, 2), "Shut", nil},
		{"a shut key can decline", []any{ask(KindCode, 1), answer(ann, 1), unusable(1, ann)}, decline(ann, 2), "declined", nil},
		{"a shut key leaves the others in", []any{ask(KindCode, 1), answer(ann, 1), unusable(1, ann)}, answer(bob, 2), "answered:2", nil},
		{"an unusable yes is taken back", []any{ask(KindApproval, 2), approve(ann, 1)}, unusable(1, ann), "pending:2",
			func(r Record) bool { return len(r.Yes) == 0 && slices.Equal(r.Shut, []string{ann}) }},
		{"a shut key cannot approve", []any{ask(KindApproval, 2), approve(ann, 1), unusable(1, ann)}, approve(ann, 2), "Shut", nil},
		{"after a yes that was taken back two more are needed", []any{ask(KindApproval, 2), approve(ann, 1), unusable(1, ann)}, approve(bob, 2), "pending:2", nil},

		{"one more after a code says so", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1)}, next(1), "pending:2",
			func(r Record) bool { return r.Reason == ReasonNext && r.Rejected == 0 && len(r.Yes) == 0 }},
		{"one more may come from the same person", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1), next(1)}, answer(ann, 2), "answered:2", nil},
		{"next is repeated", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1), next(1), answer(ann, 2)}, next(1), "Same", nil},
		{"next after a yes is repeated", []any{ask(KindApproval, 2), approve(ann, 1), next(1)}, next(1), "Same", nil},
		{"next about a future attempt is refused", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1)}, next(2), "Attempt", nil},
		{"after a late got, next is about the attempt that the job holds", append(append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), got(ann, 1)), next(1), "pending:2",
			func(r Record) bool { return r.Reason == ReasonNext }},
		{"and not about the open one", append(append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), got(ann, 1)), next(2), "State", nil},

		{"a yes is repeated", []any{ask(KindApproval, 2), approve(ann, 1)}, approve(ann, 1), "Same", nil},
		{"a last yes is repeated", []any{ask(KindApproval, 1), approve(ann, 1)}, approve(ann, 1), "Same", nil},
		{"a yes is not repeated after the job has gone", []any{ask(KindApproval, 2), approve(ann, 1), Lost{}}, approve(ann, 1), "Ended", nil},
		{"the second yes is another person's", []any{ask(KindApproval, 2), approve(ann, 1), next(1)}, approve(ann, 2), "SamePerson", nil},
		{"the second yes waits for the job's next", []any{ask(KindApproval, 2), approve(ann, 1)}, approve(bob, 2), "Attempt", nil},
		{"the last yes says who", []any{ask(KindApproval, 2), approve(ann, 1), next(1)}, approve(bob, 2), "done:ok",
			func(r Record) bool { return r.By == bob && len(r.Yes) == 2 }},
		{"whoever has agreed can still change their mind", []any{ask(KindApproval, 2), approve(ann, 1)}, decline(ann, 1), "declined", nil},
		{"of two people the first cannot give the code", []any{ask(KindCode, 2)}, answer(ann, 1), "Approval", nil},
		{"of two people the second gives the code", []any{ask(KindCode, 2), approve(ann, 1), next(1)}, answer(bob, 2), "answered:2", nil},
		{"of two people the same one does not give the code", []any{ask(KindCode, 2), approve(ann, 1), next(1)}, answer(ann, 2), "SamePerson", nil},
		{"of two people the second may try again", []any{ask(KindCode, 2), approve(ann, 1), next(1), answer(bob, 2), got(bob, 2), refused(2)}, answer(bob, 3), "answered:3", nil},
		{"of two people the first may still not", []any{ask(KindCode, 2), approve(ann, 1), next(1), answer(bob, 2), got(bob, 2), refused(2)}, answer(ann, 3), "SamePerson", nil},
		{"two people who stand behind it may both give one more", []any{ask(KindCode, 2), approve(ann, 1), next(1), answer(bob, 2), got(bob, 2), next(2)}, answer(ann, 3), "answered:3",
			func(r Record) bool { return len(r.Yes) == 2 && r.Yes[1].Key == bob && r.Yes[1].Attempt == 2 }},
		{"two people are enough", []any{ask(KindCode, 2), approve(ann, 1), next(1), approve(bob, 2), next(2)}, approve(cyd, 3), "State", nil},
		{"a link of two people may fail with one", []any{ask(KindLink, 2)}, done(OutcomeFailed), "done:failed", nil},

		{"done has an outcome", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1)}, done(""), "Input", nil},
		{"the job cannot say unknown", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1)}, done(OutcomeUnknown), "Input", nil},
		{"an outcome does not change", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1), done(OutcomeOK)}, done(OutcomeFailed), "Ended", nil},

		{"a decline is repeated", []any{ask(KindCode, 1), decline(ann, 1)}, decline(ann, 1), "Same", nil},
		{"a decline says who and why", []any{ask(KindCode, 1)}, decline(ann, 1), "declined",
			func(r Record) bool { return r.By == ann && r.ByName == ann && r.Why == "not now" }},
		{"a decline of a past attempt is refused", append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), decline(bob, 1), "Attempt", nil},
		{"a decline of the open attempt is too late after a late got", append(append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...), got(ann, 1)), decline(bob, 2), "Taken", nil},
		{"a long reason does not stop a decline", []any{ask(KindCode, 1)},
			Decline{Key: ann, Attempt: 1, Reason: "no\n\x1b[2J\u2028\xff " + strings.Repeat("ü", 40_000), Envelope: signed("decline")}, "declined",
			func(r Record) bool { return strings.HasPrefix(r.Why, "no  [2J \uFFFD ü") && len(r.Why) > MaxWhy-4 }},

		{"a cancel after got is repeated", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1), cancel("stop")}, cancel("stop"), "Same", nil},
		{"a cancel without a signature is refused", []any{ask(KindCode, 1)}, Cancel{Why: "stop"}, "Input", nil},
		{"an envelope is an object", []any{ask(KindCode, 1)}, Cancel{Envelope: json.RawMessage(`"x"`)}, "Input", nil},
		{"an envelope is one object", []any{ask(KindCode, 1)}, Cancel{Envelope: json.RawMessage(`{}{}`)}, "Input", nil},
		{"an envelope is bounded", []any{ask(KindCode, 1)}, Cancel{Envelope: filler(MaxCause + 1)}, "Input", nil},
		{"an envelope may reach its bound", []any{ask(KindCode, 1)}, Cancel{Envelope: filler(MaxCause)}, "cancelled", nil},
		{"an answer is bounded", []any{ask(KindCode, 1)}, func() Input { a := answer(bob, 1); a.Envelope = filler(MaxAnswer + 1); return a }(), "Input", nil},
		{"an answer may reach its bound", []any{ask(KindCode, 1)}, func() Input { a := answer(bob, 1); a.Envelope = filler(MaxAnswer); return a }(), "answered:1", nil},
		{"a yes is bounded", []any{ask(KindApproval, 1)}, func() Input { a := approve(bob, 1); a.Envelope = filler(MaxAnswer + 1); return a }(), "Input", nil},
		{"a request of spaces is bounded", nil, func() Input {
			a := ask(KindCode, 1)
			a.Request = json.RawMessage("{" + strings.Repeat(" ", 2*MaxRequest) + "}")
			return a
		}(), "Input", nil},
		{"a request may reach its bound", nil, func() Input { a := ask(KindCode, 1); a.Request = filler(MaxRequest); return a }(), "pending:1", nil},
		{"a request is bounded", nil, func() Input { a := ask(KindCode, 1); a.Request = filler(MaxRequest + 1); return a }(), "Input", nil},
		{"no input is no input", []any{ask(KindCode, 1)}, nil, "Input", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			h := after(t, tt.history...)
			r, err := Apply(h.r, tt.in, h.now)
			if got := verdict(r, err); got != tt.want {
				t.Fatalf("got %s (%v), want %s", got, err, tt.want)
			}
			if tt.check != nil && !tt.check(r) {
				t.Errorf("the record is not as promised: %+v", r)
			}
			if err == nil {
				var before []byte
				if h.r != nil {
					before = encode(t, *h.r)
				}
				decode(t, encode(t, r.After(hashOf(before), "op")))
			}
		})
	}
}

// filler is an envelope of exactly n bytes.
func filler(n int) json.RawMessage {
	return json.RawMessage(`{"body":"` + strings.Repeat("A", n-len(`{"body":""}`)) + `"}`)
}

func TestTakenNamesWhoWasFirst(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		history []any
		in      Input
	}{
		{[]any{ask(KindCode, 1), answer(ann, 1)}, answer(bob, 1)},
		{[]any{ask(KindCode, 1), answer(ann, 1), got(ann, 1)}, decline(bob, 1)},
		{[]any{ask(KindApproval, 2), approve(ann, 1)}, approve(bob, 1)},
		{[]any{ask(KindCode, 2), approve(ann, 1)}, answer(bob, 1)},
	} {
		h := after(t, tt.history...)
		_, err := Apply(h.r, tt.in, h.now)
		var taken *TakenError
		if !errors.As(err, &taken) || taken.By != ann || taken.ByName != ann {
			t.Errorf("%T: got %v, want it taken by %s", tt.in, err, ann)
		}
	}
}

func TestAnEndSaysWhyAndWhatToDo(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		history  []any
		state    State
		deadline bool
		text     string
	}{
		{[]any{ask(KindCode, 1), decline(ann, 1)}, StateDeclined, false, `this request was declined ("not now"): start the job again to ask once more`},
		{[]any{ask(KindCode, 1), cancel("")}, StateCancelled, false, `this request was cancelled: start the job again to ask once more`},
		{[]any{ask(KindCode, 1), Lost{}}, StateCancelled, false, `this request was cancelled ("lost"): start the job again to ask once more`},
		{[]any{ask(KindCode, 1), wait(time.Hour), Expire{}}, StateExpired, true, ErrDeadline.Error()},
		{[]any{ask(KindCode, 1), wait(time.Hour)}, StateExpired, true, ErrDeadline.Error()},
		{[]any{ask(KindLink, 1), done(OutcomeOK)}, StateDone, false, `this request is done: nothing is left to do`},
	} {
		h := after(t, tt.history...)
		_, err := Apply(h.r, decline(bob, 1), h.now)
		var ended *EndedError
		if !errors.As(err, &ended) || ended.State != tt.state || errors.Is(err, ErrDeadline) != tt.deadline || err.Error() != tt.text {
			t.Errorf("%s: got %q", tt.state, err)
		}
	}
}

func TestOpeningsBeyondTheLimitAreASuccessWithoutARecord(t *testing.T) {
	t.Parallel()
	if !errors.Is(ErrOpenings, ErrSame) {
		t.Error("a caller that knows only ErrSame would refuse the opening")
	}
}

func TestTheClockDoesWhatIsDueAndNothingElse(t *testing.T) {
	t.Parallel()
	deadline := start.Add(30 * time.Minute)
	answered := start.Add(29*time.Minute - time.Second)
	for _, tt := range []struct {
		name    string
		history []any
		due     time.Time
		in      Input
	}{
		{"pending", []any{ask(KindCode, 1)}, deadline, Expire{}},
		{"answered", []any{ask(KindCode, 1), answer(ann, 1)}, start.Add(time.Second + UndeliveredAfter), Undelivered{}},
		{"opened while answered", []any{ask(KindCode, 1), answer(ann, 1), open(bob, 1)}, start.Add(time.Second + UndeliveredAfter), Undelivered{}},
		{"answered a minute before the end", []any{ask(KindCode, 1), wait(answered.Sub(start)), answer(ann, 1)}, deadline, Expire{}},
		{"answered a moment earlier", []any{ask(KindCode, 1), wait(answered.Sub(start) - time.Millisecond), answer(ann, 1)}, deadline.Add(-time.Millisecond), Undelivered{}},
		{"answered, and the clock was late", []any{ask(KindCode, 1), answer(ann, 1), wait(time.Hour)}, deadline, Expire{}},
		{"delivered", []any{ask(KindCode, 1), answer(ann, 1), got(ann, 1)}, deadline, Expire{}},
	} {
		h := after(t, tt.history...)
		due, in := h.r.Clock(h.now)
		if !due.Equal(tt.due) || in != tt.in {
			t.Errorf("%s: %T at %s, want %T at %s", tt.name, in, due.Sub(start), tt.in, tt.due.Sub(start))
			continue
		}
		if early := due.Add(-time.Millisecond); !h.now.After(early) {
			if _, err := Apply(h.r, in, early); !errors.Is(err, ErrNotYet) {
				t.Errorf("%s: early %T gives %v", tt.name, in, err)
			}
		}
		if h.now.After(due) {
			due = h.now
		}
		if _, err := Apply(h.r, in, due); err != nil {
			t.Errorf("%s: %T when due: %v", tt.name, in, err)
		}
	}
	for name, history := range rows {
		if h := after(t, history...); h.r != nil && h.r.State.Final() {
			if due, in := h.r.Clock(h.now); in != nil || !due.IsZero() {
				t.Errorf("%s is final and has %T due", name, in)
			}
		}
	}
}

func TestKeysThatKeepFailingEndTheRequest(t *testing.T) {
	t.Parallel()
	// fail is n unusable answers, each by another key.
	fail := func(n int) []any {
		steps := []any{ask(KindCode, 1)}
		for i := 1; i <= n; i++ {
			steps = append(steps, answer(fmt.Sprint("U", i), i), unusable(i, ""))
		}
		return steps
	}
	if h := after(t, fail(MaxShut-1)...); h.r.State != StatePending {
		t.Errorf("%s before the limit", h.r.State)
	}
	lapse := []any{wait(UndeliveredAfter), Undelivered{}}
	late := fail(MaxShut - 2)
	late = append(append(late, answer(ann, MaxShut-1)), lapse...)
	late = append(append(late, answer(bob, MaxShut)), lapse...)
	late = append(late, unusable(MaxShut-1, ann), unusable(MaxShut, bob))
	if h := after(t, late...); h.r.State != StatePending || len(h.r.Shut) != MaxShut {
		t.Errorf("a late rejection ended the open attempt: %s, %d keys shut out", h.r.State, len(h.r.Shut))
	}
	for name, h := range map[string]at{
		"at the limit":   after(t, fail(MaxShut)...),
		"past the limit": after(t, append(late, answer(cyd, MaxShut+1), unusable(MaxShut+1, cyd))...),
	} {
		if h.r.State != StateCancelled || h.r.Why != WhyUnusable || h.r.Rejected != 0 || len(h.r.Shut) != MaxShut {
			t.Errorf("%s: %s, %q, %d keys shut out", name, h.r.State, h.r.Why, len(h.r.Shut))
		}
	}
}

// A job and a responder that are both machines could go on for ever; the attempts are counted.
func TestAttemptsAreBounded(t *testing.T) {
	t.Parallel()
	h := after(t, ask(KindCode, 1))
	step := func(in Input) error {
		r, err := Apply(h.r, in, h.now)
		if err == nil {
			h.r = &r
		}
		return err
	}
	for i := 1; i < MaxAttempt; i++ {
		for _, in := range []Input{answer(ann, i), got(ann, i), next(i)} {
			if err := step(in); err != nil {
				t.Fatalf("attempt %d: %v", i, err)
			}
		}
	}
	if err := step(answer(ann, MaxAttempt)); err != nil {
		t.Fatal(err)
	}
	lapsed, err := Apply(h.r, Undelivered{}, h.now.Add(time.Minute))
	if err != nil || lapsed.State != StateCancelled || lapsed.Why != WhyAttempts {
		t.Errorf("undelivered: %s, %q, %v", lapsed.State, lapsed.Why, err)
	}
	if r, err := Apply(&lapsed, got(ann, MaxAttempt), h.now.Add(time.Minute)); verdict(r, err) != "done:unknown" {
		t.Errorf("late got after the last attempt lapsed: %s", verdict(r, err))
	}
	if err := step(got(ann, MaxAttempt)); err != nil {
		t.Fatal(err)
	}
	if err := step(next(MaxAttempt)); !errors.Is(err, ErrState) {
		t.Errorf("next: %v", err)
	}
	if err := step(done(OutcomeOK)); err != nil {
		t.Errorf("done: %v", err)
	}
}

func TestErrorsTellAUserWhatToDo(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		ErrSame, ErrOpenings, ErrUnknown, ErrKeyUsed, ErrAttempt, ErrShut, ErrSamePerson, ErrApproval, ErrNotYet, ErrState, ErrKind,
		ErrHash, ErrDeadline, ErrInput, ErrVersion, ErrRecord, ErrTooLarge, &TakenError{By: ann}, &TakenError{ByName: "Ann"},
		&EndedError{State: StateCancelled},
	} {
		text := err.Error()
		if text == "" || strings.ToLower(text[:1]) != text[:1] || strings.HasSuffix(text, ".") || strings.Contains(text, "\n") {
			t.Errorf("not in the house form: %q", text)
		}
	}
	if text := (&TakenError{ByName: "A\u202enn\x1b"}).Error(); strings.ContainsAny(text, "\u202e\x1b") {
		t.Errorf("a name reaches the terminal raw: %q", text)
	}
}

// hashOf is what the record after those bytes holds of them.
func hashOf(before []byte) string {
	if before == nil {
		return ""
	}
	return Hash(before)
}
