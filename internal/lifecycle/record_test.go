// The record's bytes: one form, bounded, chained, and the same in every version of Go.

package lifecycle

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write testdata anew")

// history is one request in which every kind of field is filled at some time.
func history(t testing.TB) [][]byte {
	t.Helper()
	return after(t,
		ask(KindCode, 2), Open{Key: ann, Name: `Ann "<&>" Ünal`, Attempt: 1}, approve(ann, 1), next(1),
		open(bob, 2), answer(bob, 2), unusable(2, bob),
		answer(cyd, 3), wait(time.Minute), Undelivered{}, got(cyd, 3), refused(3),
		answer(cyd, 4), Lost{}, got(cyd, 4),
	).lines
}

// A stream outlives the binary that wrote it, so its bytes may not change with our code or with Go's encoder.
func TestTheStreamsBytesStayAsTheyAre(t *testing.T) {
	t.Parallel()
	const file = "testdata/history.jsonl"
	got := append(bytes.Join(history(t), []byte("\n")), '\n')
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("records are written differently than in %s: raise Version, or undo the change; they are now\n%s", file, got)
	}
	for i, line := range bytes.Split(bytes.TrimSpace(want), []byte("\n")) {
		if _, err := Decode(line); err != nil {
			t.Errorf("line %d: %v", i+1, err)
		}
	}
}

func TestEachRecordNamesTheHashOfTheOneBefore(t *testing.T) {
	t.Parallel()
	prev := ""
	for i, line := range history(t) {
		r := decode(t, line)
		if r.Prev != prev {
			t.Errorf("record %d follows %q, want %q", i, r.Prev, prev)
		}
		prev = Hash(line)
	}
}

func TestHashIsHexSHA256(t *testing.T) {
	t.Parallel()
	// FIPS 180-2, appendix B.1.
	if got := Hash([]byte("abc")); got != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Error(got)
	}
}

func TestASignedWordStandsInEveryRecordThatSomebodyCaused(t *testing.T) {
	t.Parallel()
	for _, line := range history(t) {
		r := decode(t, line)
		clock := r.Event == EventUndelivered || r.Event == EventLost
		if want := r.Event != EventAsked && !clock; r.Event != EventOpened && want != (r.Cause != nil) {
			t.Errorf("%s: cause is %s", r.Event, r.Cause)
		}
		if len(r.Request) == 0 {
			t.Errorf("%s: the request is missing, the record is not whole", r.Event)
		}
	}
}

func TestARecordOfANewerRelaySaysToUpgrade(t *testing.T) {
	t.Parallel()
	for _, data := range []string{`{"v":2}`, `{"v":7,"what":{"ever":[]}}`, strings.Replace(string(history(t)[0]), `"v":1`, `"v":2`, 1)} {
		if _, err := Decode([]byte(data)); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "upgrade") {
			t.Errorf("%.40s: %v", data, err)
		}
	}
}

func TestOnlyOneFormOfARecordIsRead(t *testing.T) {
	t.Parallel()
	first := string(history(t)[0])
	second := string(history(t)[2])
	swap := func(old, new string) string {
		if strings.Count(first, old) == 0 {
			t.Fatalf("no %s in %s", old, first)
		}
		return strings.Replace(first, old, new, 1)
	}
	for name, data := range map[string]string{
		"empty":                 "",
		"no object":             `[]`,
		"no version":            `{}`,
		"version zero":          swap(`"v":1`, `"v":0`),
		"version as text":       swap(`"v":1`, `"v":"1"`),
		"a space":               swap(`"v":1`, `"v": 1`),
		"a trailing newline":    first + "\n",
		"a second record":       first + first,
		"an unknown field":      swap(`{"v":1`, `{"x":1,"v":1`),
		"a repeated field":      swap(`"state":"pending"`, `"state":"done","state":"pending"`),
		"a field in upper case": swap(`"state"`, `"State"`),
		"another order":         swap(`"v":1,"op":"op-0"`, `"op":"op-0","v":1`),
		"an escaped letter":     swap(`"left-pad"`, `"left\u002dpad"`),
		"an empty field":        swap(`"approvals":2,`, `"approvals":2,"cause":null,`),
		"invalid UTF-8":         swap(`"left-pad"`, "\"left-pad\xff\""),
		"a control character":   swap(`"left-pad"`, `"left\u0007pad"`),
		"a fraction":            swap(`"attempt":1`, `"attempt":1.0`),
		"no operation":          swap(`"op":"op-0"`, `"op":""`),
		"an unknown state":      swap(`"state":"pending"`, `"state":"waiting"`),
		"an unknown event":      swap(`"event":"asked"`, `"event":"begged"`),
		"a state it cannot be":  swap(`"event":"asked"`, `"event":"got"`),
		"an unknown kind":       swap(`"kind":"code"`, `"kind":"tap"`),
		"attempt zero":          swap(`"attempt":1`, `"attempt":0`),
		"a reason out of place": swap(`"reason":"first"`, `"reason":"next"`),
		"a short digest":        swap(hash("request"), hash("request")[1:]),
		"digest in upper case":  swap(hash("request"), strings.ToUpper(hash("request"))),
		"an outcome too early":  swap(`}}`, `},"outcome":"ok"}`),
		"a why too early":       swap(`}}`, `},"why":"lost"}`),
		"half an answer":        swap(`}}`, `},"sealed":"`+hash("x")+`"}`),
		"first with a previous": swap(`"prev":""`, `"prev":"`+hash("x")+`"`),
		"later without one":     strings.Replace(second, decode(t, []byte(second)).Prev, "", 1),
		"a missing cause":       strings.Replace(second, `"cause":`+string(signed("yes"))+`,`, "", 1),
		"a doubled yes":         strings.Replace(second, `"yes":[`, `"yes":[`+second[strings.Index(second, `"yes":[`)+7:strings.LastIndex(second, `]`)]+`,`, 1),
		"too much":              first + strings.Repeat(" ", MaxRecord),
	} {
		if data == first || data == second {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, err := Decode([]byte(data)); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v, want ErrRecord", name, err)
		}
	}
	if _, err := Decode([]byte(first)); err != nil {
		t.Errorf("the record that the others were made of: %v", err)
	}
}

func TestWhatCannotBeReadIsNotWritten(t *testing.T) {
	t.Parallel()
	lapse := []any{wait(UndeliveredAfter), Undelivered{}}
	pending := []any{ask(KindCode, 1), open(bob, 1)}
	lapsed := append([]any{ask(KindCode, 1), answer(ann, 1)}, lapse...)
	lapsedTwice := append(append(lapsed[:len(lapsed):len(lapsed)], answer(bob, 2)), lapse...)
	answered := []any{ask(KindCode, 1), answer(ann, 1)}
	agreed := []any{ask(KindApproval, 2), approve(ann, 1), next(1), approve(bob, 2)}
	shut := append(answered[:2:2], unusable(1, ann))
	for name, tt := range map[string]struct {
		history []any
		spoil   func(*Record)
	}{
		"no operation":                 {pending, func(r *Record) { r.Op = "" }},
		"no link":                      {pending, func(r *Record) { r.Prev = "" }},
		"a link that is no hash":       {pending, func(r *Record) { r.Prev = "x" }},
		"no version":                   {pending, func(r *Record) { r.V = 0 }},
		"no time":                      {pending, func(r *Record) { r.At = 0 }},
		"no key":                       {pending, func(r *Record) { r.Key = "" }},
		"a key with a dot":             {pending, func(r *Record) { r.Key = "U.A" }},
		"no project":                   {pending, func(r *Record) { r.Project = "" }},
		"a long rule":                  {pending, func(r *Record) { r.Rule = strings.Repeat("r", maxText+1) }},
		"no deadline":                  {pending, func(r *Record) { r.Deadline = 0 }},
		"a limit beyond the limit":     {pending, func(r *Record) { r.Attempts = MaxRefused + 1 }},
		"three people":                 {pending, func(r *Record) { r.Approvals = 3 }},
		"no request":                   {pending, func(r *Record) { r.Request = nil }},
		"a request that is a list":     {pending, func(r *Record) { r.Request = []byte(`[]`) }},
		"no state":                     {pending, func(r *Record) { r.State = "" }},
		"too many attempts":            {lapsed, func(r *Record) { r.Attempt = MaxAttempt + 1 }},
		"no reason":                    {lapsed, func(r *Record) { r.Reason = "" }},
		"the first reason twice":       {lapsed, func(r *Record) { r.Reason = ReasonFirst }},
		"a signed time-out":            {lapsed, func(r *Record) { r.Cause = signed("x") }},
		"an unsigned answer":           {answered, func(r *Record) { r.Cause = nil }},
		"a large cause":                {answered, func(r *Record) { r.Cause = filler(MaxCause + 1) }},
		"done without an outcome":      {agreed, func(r *Record) { r.Outcome = "" }},
		"an unknown outcome":           {agreed, func(r *Record) { r.Outcome = "fine" }},
		"a why of two lines":           {agreed, func(r *Record) { r.Why = "a\nb" }},
		"minus one refused":            {answered, func(r *Record) { r.Rejected = -1 }},
		"answered without an answer":   {answered, func(r *Record) { r.AnswerAttempt = 0 }},
		"an answer without a hash":     {answered, func(r *Record) { r.Sealed = "" }},
		"an answer without a time":     {answered, func(r *Record) { r.Answered = 0 }},
		"an answer before all time":    {answered, func(r *Record) { r.Answered = -1 }},
		"an answer to another attempt": {answered, func(r *Record) { r.AnswerAttempt = 2 }},
		"an answer by nobody":          {answered, func(r *Record) { r.By, r.ByName = "", "" }},
		"an answer that is no hash":    {answered, func(r *Record) { r.Sealed = "x" }},
		"an answer of a link":          {answered, func(r *Record) { r.Kind = KindLink }},
		"somebody before any answer":   {pending, func(r *Record) { r.By = ann }},
		"a name without a key":         {agreed, func(r *Record) { r.By = "" }},
		"a long name":                  {answered, func(r *Record) { r.ByName = strings.Repeat("n", MaxName+1) }},
		"a lapsed answer on its way": {answered, func(r *Record) {
			r.Attempt, r.Reason = 2, ReasonUndelivered
		}},
		"an opening twice":            {pending, func(r *Record) { r.Opened = append(r.Opened, r.Opened[0]) }},
		"an opening of the future":    {pending, func(r *Record) { r.Opened[0].Attempt = 2 }},
		"too many openings":           {pending, func(r *Record) { r.Opened = make([]Opening, MaxOpenings+1) }},
		"a yes twice":                 {agreed, func(r *Record) { r.Yes[1].Key = r.Yes[0].Key }},
		"two to one attempt":          {agreed, func(r *Record) { r.Yes[1].Attempt = 1 }},
		"an unsigned yes":             {agreed, func(r *Record) { r.Yes[1].Envelope = nil }},
		"a yes where none is due":     {pending, func(r *Record) { r.Yes = []Yes{{Key: ann, Attempt: 1, Envelope: signed("yes")}} }},
		"a key shut twice":            {shut, func(r *Record) { r.Shut = append(r.Shut, ann) }},
		"a past answer unordered":     {lapsedTwice, func(r *Record) { r.Past[0], r.Past[1] = r.Past[1], r.Past[0] }},
		"a past answer to the future": {lapsed, func(r *Record) { r.Past[0].Attempt = 3 }},
		"a past answer still open":    {lapsed, func(r *Record) { r.Past[0].Attempt = 2 }},
		"a past answer without end":   {lapsed, func(r *Record) { r.Past[0].End = "" }},
		"a past answer unsigned":      {lapsed, func(r *Record) { r.Past[0].Answer = nil }},
		"a past answer signed on":     {lapsed, func(r *Record) { r.Past[0].End = ReasonNext }},
		"a past answer by nobody":     {lapsed, func(r *Record) { r.Past[0].By = "" }},
	} {
		r := after(t, tt.history...).r.clone()
		tt.spoil(&r)
		if _, err := r.Encode(); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", name, err)
		}
		// Past the checks on the way out: what another program wrote is refused on the way in.
		b, err := r.marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Decode(b); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: decoded, %v", name, err)
		}
	}
}

// largest is a record with every field and list at its limit, in the characters that JSON makes longest.
func largest(t *testing.T) Record {
	quotes := func(n int) string { return strings.Repeat(`"`, n) }
	key := func(i int) string { return fmt.Sprintf("%064d", i) }
	const ms = int64(1) << 45
	r := Record{
		V: Version, Op: key(0), Prev: hash("x"), At: ms, Event: EventRejected, State: StateCancelled, Attempt: MaxAttempt,
		Reason: ReasonUndelivered, Key: key(0), Digest: hash("x"), Project: quotes(maxText), Rule: quotes(maxText), Group: quotes(maxText),
		Kind: KindCode, Deadline: ms, Attempts: MaxRefused, Approvals: 2, Request: filler(MaxRequest), Cause: filler(MaxCause),
		Answer: filler(MaxAnswer), AnswerAttempt: MaxAttempt, Sealed: hash("x"), By: key(0), ByName: quotes(MaxName), Answered: ms,
		Rejected: MaxRefused, Why: quotes(MaxWhy),
	}
	for i := range MaxOpenings {
		r.Opened = append(r.Opened, Opening{Key: key(i), Name: quotes(MaxName), Attempt: MaxAttempt, At: ms})
	}
	for i := range MaxShut {
		r.Shut = append(r.Shut, key(i))
	}
	for i := range maxYes {
		r.Yes = append(r.Yes, Yes{Key: key(i), Name: quotes(MaxName), Attempt: MaxAttempt - maxYes + i, At: ms, Envelope: filler(MaxAnswer)})
	}
	for i := range MaxPast {
		r.Past = append(r.Past, Given{Attempt: MaxAttempt - MaxPast + i, Sealed: hash("x"), By: key(i), ByName: quotes(MaxName), At: ms,
			End: ReasonUndelivered, Answer: filler(MaxAnswer)})
	}
	// A field that was added and is not filled here could break the promise unseen. Only a done record has an outcome,
	// and this one has a longer why instead.
	for i, v := 0, reflect.ValueOf(r); i < v.NumField(); i++ {
		if f := v.Type().Field(i); v.Field(i).IsZero() && f.Name != "Outcome" {
			t.Errorf("%s is empty in the largest record", f.Name)
		}
	}
	return r
}

func TestNoRequestOutgrowsItsRecord(t *testing.T) {
	t.Parallel()
	b := encode(t, largest(t))
	// NATS counts headers towards the payload limit, and the expected sequence travels in one.
	const headers = 2 << 10
	if len(b) > MaxRecord-headers {
		t.Errorf("the largest record has %d bytes, %d are allowed", len(b), MaxRecord-headers)
	}
	if len(b) < MaxRecord*3/4 {
		t.Errorf("the largest record has %d bytes only: the limits could be wider", len(b))
	}
	decode(t, b)
}

func TestNamesAndReasonsAreCutBetweenCharacters(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		in, want string
		most     int
	}{
		{"Ann", "Ann", 3},
		{"Anna", "Ann", 3},
		{"Aü", "A", 2},
		{"Aü", "Aü", 3},
		{"üüü", "üü", 5},
		{"\t A\nB \x00", "A B", 8},
		{"A\u2028B\u2029C\u0085D", "A B C D", 8},
		{"A\xffB", "A\uFFFDB", 8},
		{"\xff\xfe\xfd", "\uFFFD", 8},
		{"😀😀", "😀", 7},
		{"", "", 8},
	} {
		if got := plain(tt.in, tt.most); got != tt.want || !isText(got, 0, tt.most) {
			t.Errorf("%q cut to %d: %q, want %q", tt.in, tt.most, got, tt.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, line := range history(f) {
		f.Add(line)
	}
	for _, h := range rows {
		if len(h) > 0 {
			f.Add(encode(f, *after(f, h...).r))
		}
	}
	f.Add([]byte(`{"v":2}`))
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decode(data)
		if err != nil {
			if !errors.Is(err, ErrRecord) && !errors.Is(err, ErrVersion) {
				t.Fatalf("an error that nobody decides on: %v", err)
			}
			return
		}
		again := encode(t, r)
		if !bytes.Equal(again, data) {
			t.Fatalf("one record, two forms:\n%s\n%s", data, again)
		}
		if !reflect.DeepEqual(decode(t, again), r) {
			t.Fatal("decode, encode, decode gives another record")
		}
		// Whatever was read, no input may panic on it, change it, or make of it what cannot be written.
		for _, now := range []time.Time{start, time.UnixMilli(r.Deadline), time.UnixMilli(r.Answered).Add(UndeliveredAfter)} {
			due, in := r.Clock(now)
			if (in == nil) != r.State.Final() || in == nil != due.IsZero() {
				t.Fatalf("%s: %T is due at %s", r.State, in, due)
			}
			for _, column := range columns {
				n, err := Apply(&r, column.make(&r), now)
				if err == nil {
					encode(t, n.After(hashOf(data), "op"))
				}
			}
		}
		if !bytes.Equal(encode(t, r), data) {
			t.Fatal("an input changed the record that it was applied to")
		}
	})
}
