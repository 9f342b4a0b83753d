// The state machine against a second telling of the same rules, under random interleavings, duplicates and crashes.
//
// The reference knows no record: it keeps the story as PROTOCOL.md, section 8.4, tells it, one list of answers with what
// became of each, and is read in the order of that table. Around both stand two relays that decide from what they last
// read, and lose their memory; a stream that takes a record only after the one it was decided on; and senders that say
// everything again, at once or much later. TestAWrongRuleIsFound shows that this would find a mistake.

package lifecycle

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The same walks in each run, as a gate must be; -rapid.seed=0 -rapid.checks=100000 looks further. What fails is printed,
// and leaves no file.
func init() {
	for name, value := range map[string]string{"seed": "20", "steps": "60", "checks": "800", "nofailfile": "true", "shrinktime": "5s"} {
		if os.Getenv("RAPID_"+strings.ToUpper(name)) == "" {
			if err := flag.Set("rapid."+name, value); err != nil {
				panic(err)
			}
		}
	}
}

// fate is what became of an answer.
type fate string

const (
	underWay    fate = "under way"   // answered, and nothing more is known
	inHand      fate = "in hand"     // the job has it
	undelivered fate = "undelivered" // the clock gave it up
	sentBack    fate = "sent back"   // the job rejected it
	gone        fate = "gone on"     // the job asked for one more
)

// given is one answer of the story.
type given struct {
	attempt  int
	key, sum string
	fate     fate
}

// story is what has happened to a request.
type story struct {
	ask      Ask
	state    State
	attempt  int
	reason   string
	outcome  string
	answers  []given // that are remembered, by attempt
	yes      []given // by attempt
	shut     []string
	opened   map[string]bool // key and attempt
	refused  int
	decliner string
	last     string // what ended it: clock, cancel, ""
}

func (s *story) over() bool {
	return slices.Contains([]State{StateDone, StateDeclined, StateExpired, StateCancelled}, s.state)
}

func (s *story) late(now time.Time) bool { return now.UnixMilli() >= s.ask.Deadline }

// people is how many must agree; 0: none.
func (s *story) people() int {
	switch {
	case s.ask.Approvals == 2:
		return 2
	case s.ask.Kind == KindApproval:
		return 1
	}
	return 0
}

// to gives the remembered answer to an attempt.
func (s *story) to(attempt int) *given {
	for i := range s.answers {
		if s.answers[i].attempt == attempt {
			return &s.answers[i]
		}
	}
	return nil
}

// present gives the answer that the request has now.
func (s *story) present() *given {
	for i := range s.answers {
		if s.answers[i].fate == underWay || s.answers[i].fate == inHand {
			return &s.answers[i]
		}
	}
	return nil
}

func (s *story) said(attempt int) int {
	return slices.IndexFunc(s.yes, func(y given) bool { return y.attempt == attempt })
}

// ends an answer. Of what is past, only the last few are remembered.
func (s *story) retire(a *given, f fate) {
	a.fate = f
	slices.SortFunc(s.answers, func(a, b given) int { return cmp.Compare(a.attempt, b.attempt) })
	past := 0
	for _, a := range s.answers {
		if a.fate != underWay && a.fate != inHand {
			past++
		}
	}
	for i := 0; past > MaxPast; i++ {
		if f := s.answers[i].fate; f != underWay && f != inHand {
			s.answers = slices.Delete(s.answers, i, i+1)
			return
		}
	}
}

// reopen opens the attempt after n, which the job counts from its own word.
func (s *story) reopen(n int, reason string) {
	used := s.to(s.attempt) != nil // the attempt that is open now has been answered, and that is past
	if s.attempt > n && (used || s.attempt > n+1) {
		reason = ReasonUndelivered
	}
	if s.attempt == n || used {
		s.attempt++
	}
	s.state, s.reason = StatePending, reason
}

// heard says how an input is to be taken: "new", "same", or "no".
func (s *story) heard(in Input, now time.Time) string {
	const isNew, isSame, no = "new", "same", "no"
	present := s.present()
	live := !s.over() && !s.late(now)
	// waits says whether a human may still say something to an attempt; speaks whether this one may.
	waits := func(n int) bool { return live && present == nil && n == s.attempt }
	speaks := func(key string, n int) bool {
		same := func(y given) bool { return y.key == key }
		one := s.ask.Approvals == 2 && len(s.yes) < 2 && slices.ContainsFunc(s.yes, same)
		return waits(n) && !slices.Contains(s.shut, key) && !one && s.said(n) < 0
	}
	leaves := func(state State) { // without an outcome
		if s.state == StateDelivered {
			state, s.outcome = StateDone, OutcomeUnknown
		}
		s.state = state
	}
	switch in := in.(type) {
	case Ask:
		if in.Digest == s.ask.Digest {
			return isSame
		}
		return no

	case Open:
		mark := fmt.Sprint(in.Key, in.Attempt)
		switch {
		case !live || slices.Contains(s.shut, in.Key) || in.Attempt != s.attempt || s.state == StateDelivered:
			return no
		case s.opened[mark]:
			return isSame
		case s.ask.Approvals == 2 && len(s.yes) < 2 && slices.ContainsFunc(s.yes, func(y given) bool { return y.key == in.Key }):
			return no
		}
		s.opened[mark] = true
		return isNew

	case Answer:
		switch {
		case s.ask.Kind != KindCode:
			return no
		case !s.over() && present != nil && *present == (given{in.Attempt, in.Key, in.Sealed, present.fate}):
			return isSame
		case !speaks(in.Key, in.Attempt) || s.ask.Approvals == 2 && len(s.yes) == 0:
			return no
		}
		s.answers = append(s.answers, given{in.Attempt, in.Key, in.Sealed, underWay})
		s.state = StateAnswered
		return isNew

	case Undelivered: // its time is checked by the test
		if !live || s.state != StateAnswered {
			return no
		}
		n := present.attempt
		s.retire(present, undelivered)
		s.reopen(n, ReasonUndelivered)
		return isNew

	case Got:
		a := s.to(in.Attempt)
		byClock := s.over() && s.state != StateDone && s.last == "clock"
		switch {
		case s.ask.Kind != KindCode || a == nil || a.sum != in.Sealed:
			return no
		case a.fate == inHand && !(s.over() && s.state != StateDone):
			return isSame
		case s.over() && !byClock:
			return no
		case a == present:
		case a.fate != undelivered:
			return isSame
		case present != nil && present.fate == inHand:
			return no
		case slices.ContainsFunc(s.answers, func(b given) bool { return b.attempt > a.attempt && (b.fate == sentBack || b.fate == gone) }):
			return no
		case present != nil:
			present.fate = undelivered
		}
		s.to(in.Attempt).fate = inHand
		if s.state = StateDelivered; byClock {
			s.state, s.outcome = StateDone, OutcomeUnknown
		}
		return isNew

	case Reject:
		a, yes := s.to(in.Attempt), s.said(in.Attempt)
		names := func(key string) bool { return in.Shut == "" || in.Shut == key }
		shut := func(key string) {
			if !slices.Contains(s.shut, key) {
				s.shut = append(s.shut, key)
			}
		}
		switch {
		case s.over():
			return no
		case a != nil && a.fate == sentBack:
			return isSame
		case in.Why == Refused:
			if a == nil || a.fate != inHand {
				return no
			}
			s.retire(a, sentBack)
			if s.refused++; s.refused == s.ask.Attempts {
				s.state = StateCancelled
				return isNew
			}
			s.reopen(in.Attempt, ReasonRejected)
		case a != nil && a == present:
			if !names(a.key) {
				return no
			}
			shut(a.key)
			s.retire(a, sentBack)
			s.reopen(in.Attempt, ReasonRejected)
		case a != nil && a.fate == undelivered:
			if !names(a.key) {
				return no
			}
			shut(a.key)
			a.fate = sentBack
			if s.state == StatePending && s.attempt == in.Attempt+1 {
				s.reason = ReasonRejected
			}
		case yes >= 0 && s.state == StatePending && in.Attempt == s.attempt && names(s.yes[yes].key):
			shut(s.yes[yes].key)
			s.yes = slices.Delete(s.yes, yes, yes+1)
			s.reopen(in.Attempt, ReasonRejected)
		default:
			return no
		}
		return isNew

	case Next:
		a, yes := s.to(in.Attempt), s.said(in.Attempt)
		switch {
		case s.over():
			return no
		case a != nil && a.fate == gone || yes >= 0 && in.Attempt < s.attempt:
			return isSame
		case !live:
			return no
		case a != nil && a.fate == inHand:
			if s.ask.Approvals == 2 && len(s.yes) < 2 {
				s.yes = append(s.yes, given{attempt: in.Attempt, key: a.key})
			}
			s.retire(a, gone)
		case s.state != StatePending || yes < 0 || in.Attempt != s.attempt:
			return no
		}
		s.reopen(in.Attempt, ReasonNext)
		return isNew

	case Approve:
		again := slices.ContainsFunc(s.yes, func(y given) bool { return y.key == in.Key && y.attempt == in.Attempt })
		switch {
		case s.people() == 0:
			return no
		case again && (!s.over() || s.state == StateDone):
			return isSame
		case !speaks(in.Key, in.Attempt) || len(s.yes) == s.people():
			return no
		}
		s.yes = append(s.yes, given{attempt: in.Attempt, key: in.Key})
		if s.ask.Kind == KindApproval && len(s.yes) == s.people() {
			s.state, s.outcome = StateDone, OutcomeOK
		}
		return isNew

	case Done:
		followed := s.ask.Kind == KindLink && s.state == StatePending
		switch {
		case s.state == StateDone && s.outcome == in.Outcome:
			return isSame
		case s.over() || s.state != StateDelivered && !followed:
			return no
		case followed && in.Outcome == OutcomeOK && (s.ask.Approvals == 2 && len(s.yes) == 0 || s.said(s.attempt) >= 0):
			return no
		}
		s.state, s.outcome = StateDone, in.Outcome
		return isNew

	case Decline:
		switch {
		case s.state == StateDeclined && s.decliner == in.Key:
			return isSame
		case !waits(in.Attempt):
			return no
		}
		s.state, s.decliner = StateDeclined, in.Key
		return isNew

	case Cancel:
		switch {
		case s.last == "cancel":
			return isSame
		case s.over():
			return no
		}
		leaves(StateCancelled)
		s.last = "cancel"
		return isNew

	case Expire:
		if s.over() || !s.late(now) {
			return no
		}
		leaves(StateExpired)
		s.last = "clock"
		return isNew

	case Lost, Restored:
		if s.over() {
			return no
		}
		leaves(StateCancelled)
		s.last = "clock"
		return isNew
	}
	panic(fmt.Sprintf("no rule for %T", in))
}

// machine is Apply, or a wrong one.
type machine func(prev *Record, in Input, at time.Time) (Record, error)

// stage is a request at two relays that share a stream.
type stage struct {
	t        *rapid.T
	apply    machine
	story    story
	stream   [][]byte
	read     [2]int // how many records each relay has read
	now      time.Time
	given    time.Time // when the present answer came
	sent     []Input
	trail    []string
	careless bool // relays append without the condition
	events   map[Event]int
}

func newStage(t *rapid.T, apply machine, events map[Event]int) *stage {
	a := ask(rapid.SampledFrom([]string{KindCode, KindCode, KindCode, KindLink, KindApproval}).Draw(t, "kind"), rapid.IntRange(0, 2).Draw(t, "approvals"))
	a.Attempts = rapid.IntRange(1, 4).Draw(t, "limit")
	a.Deadline = start.Add(time.Duration(rapid.SampledFrom([]int{30, 3, 10}).Draw(t, "minutes")) * time.Minute).UnixMilli()
	r, err := apply(nil, a, start)
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, apply: apply, now: start, sent: []Input{a}, events: events}
	s.story = story{ask: a, state: StatePending, attempt: 1, reason: ReasonFirst, opened: map[string]bool{}}
	s.append(r)
	s.read = [2]int{1, 1}
	return s
}

func (s *stage) append(r Record) {
	var before []byte
	if len(s.stream) > 0 {
		before = s.stream[len(s.stream)-1]
	}
	b, err := r.After(hashOf(before), fmt.Sprint("op-", len(s.stream))).Encode()
	if err != nil {
		s.t.Fatalf("after %q: encode: %v", s.trail, err)
	}
	s.stream = append(s.stream, b)
}

// last is what a relay that remembers n records decides from: bytes only, as after a crash.
func (s *stage) last(n int) Record {
	r, err := Decode(s.stream[n-1])
	if err != nil {
		s.t.Fatalf("after %q: decode: %v", s.trail, err)
	}
	return r
}

// hears is one relay's handling of an input.
func (s *stage) hears(relay int, in Input) (event Event, err error) {
	for {
		r := s.last(s.read[relay])
		next, err := s.apply(&r, in, s.now)
		stale := s.read[relay] < len(s.stream)
		if stale && (!s.careless || err != nil) {
			s.read[relay] = len(s.stream) // the append fails, or the refusal is checked by a read
			continue
		}
		if err != nil {
			return "", err
		}
		s.append(next)
		s.read[relay] = len(s.stream)
		return next.Event, nil
	}
}

// says has an input handled by a relay, and holds what comes of it against the story.
func (s *stage) says(in Input) {
	relay := rapid.IntRange(0, 1).Draw(s.t, "relay")
	early := false
	if _, ok := in.(Undelivered); ok {
		early = s.story.state == StateAnswered && s.now.Sub(s.given) < UndeliveredAfter
	}
	want := "no"
	if !early {
		want = s.story.heard(in, s.now)
	}
	if _, ok := in.(Answer); ok && want == "new" {
		s.given = s.now
	}
	if _, ok := in.(Got); ok && want == "new" {
		s.given = time.Time{} // of no use any more: delivered
	}
	event, err := s.hears(relay, in)
	got := "no"
	switch {
	case err == nil:
		got = "new"
	case errors.Is(err, ErrSame):
		got = "same"
	}
	s.trail = append(s.trail, short(in))
	if got != want {
		s.t.Fatalf("%q: is %s (%v), and should be %s", s.trail, got, err, want)
	}
	r := s.last(len(s.stream))
	if r.State != s.story.state || r.Attempt != s.story.attempt || r.Reason != s.story.reason || r.Outcome != s.story.outcome ||
		r.Rejected != s.story.refused || len(r.Yes) != len(s.story.yes) || len(r.Shut) != len(s.story.shut) {
		s.t.Fatalf("%q: the record is %s:%d %s %s, %d refused, %d yes, %d shut; the story is %s:%d %s %s, %d, %d, %d", s.trail,
			r.State, r.Attempt, r.Reason, r.Outcome, r.Rejected, len(r.Yes), len(r.Shut),
			s.story.state, s.story.attempt, s.story.reason, s.story.outcome, s.story.refused, len(s.story.yes), len(s.story.shut))
	}
	holds := given{}
	if p := s.story.present(); p != nil {
		holds = *p
	}
	if r.AnswerAttempt != holds.attempt || r.Sealed != holds.sum {
		s.t.Fatalf("%q: the record holds the answer to %d, the story that to %d", s.trail, r.AnswerAttempt, holds.attempt)
	}
	if want != "new" {
		return
	}
	s.sent = append(s.sent, in)
	s.events[event]++
	// Whoever lost the acknowledgement says it again, to whichever relay: nothing may be recorded twice.
	if rapid.Bool().Draw(s.t, "again") {
		had := len(s.stream)
		if _, err := s.hears(1-relay, in); err == nil {
			s.t.Fatalf("%q: said again it is recorded again, as %d", s.trail, had+1)
		}
	}
}

// short is an input in a few words, for the story that a failure tells.
func short(in Input) string {
	name := strings.TrimPrefix(fmt.Sprintf("%T", in), "lifecycle.")
	switch in := in.(type) {
	case Open:
		return fmt.Sprintf("%s %s:%d", name, in.Key, in.Attempt)
	case Answer:
		return fmt.Sprintf("%s %s:%d %.4s", name, in.Key, in.Attempt, in.Sealed)
	case Approve:
		return fmt.Sprintf("%s %s:%d", name, in.Key, in.Attempt)
	case Decline:
		return fmt.Sprintf("%s %s:%d", name, in.Key, in.Attempt)
	case Got:
		return fmt.Sprintf("%s %d %.4s", name, in.Attempt, in.Sealed)
	case Reject:
		return fmt.Sprintf("%s %d %s %s", name, in.Attempt, in.Why, in.Shut)
	case Next:
		return fmt.Sprintf("%s %d", name, in.Attempt)
	case Done:
		return name + " " + in.Outcome
	}
	return name
}

// walk lets everybody do anything.
func (s *stage) walk() {
	t := s.t
	key := func() string { return rapid.SampledFrom([]string{ann, bob, cyd}).Draw(t, "key") }
	about := func() int { // mostly something that is, or was, open
		n := s.story.attempt
		if p := s.story.present(); p != nil && rapid.Bool().Draw(t, "present") {
			return p.attempt
		}
		return rapid.IntRange(max(1, n-3), n+1).Draw(t, "attempt")
	}
	answered := func() (key string, n int) { // mostly something that was given
		n = about()
		if a := s.story.to(n); a != nil {
			return a.key, n
		}
		return ann, n
	}
	human := func(*rapid.T) {
		switch k := key(); rapid.SampledFrom([]string{"open", "answer", "answer", "approve", "other code"}).Draw(t, "human") {
		case "open":
			s.says(open(k, about()))
		case "answer":
			s.says(answer(k, s.story.attempt))
		case "approve":
			s.says(approve(k, about()))
		default:
			a := answer(k, about())
			a.Sealed = hash("another code")
			s.says(a)
		}
	}
	job := func(*rapid.T) {
		k, n := answered()
		switch rapid.SampledFrom([]string{"got", "got", "got", "refused", "unusable", "next"}).Draw(t, "job") {
		case "got":
			g := got(k, n)
			if a := s.story.to(n); a != nil && rapid.IntRange(0, 9).Draw(t, "other bytes") > 0 {
				g.Sealed = a.sum
			}
			s.says(g)
		case "refused":
			s.says(refused(n))
		case "unusable":
			s.says(unusable(n, rapid.SampledFrom([]string{"", k, bob}).Draw(t, "shut")))
		default:
			s.says(next(n))
		}
	}
	// on is what an honest side would do now, so that walks get somewhere.
	on := func(*rapid.T) {
		p := s.story.present()
		switch {
		case s.story.over() || s.story.state == StatePending && s.story.people() > len(s.story.yes) && s.story.said(s.story.attempt) < 0:
			s.says(approve(key(), s.story.attempt))
		case s.story.state == StatePending && s.story.said(s.story.attempt) >= 0:
			s.says(next(s.story.attempt))
		case s.story.state == StatePending && s.story.ask.Kind == KindLink:
			s.says(done(OutcomeOK))
		case s.story.state == StatePending:
			s.says(answer(key(), s.story.attempt))
		case s.story.state == StateAnswered:
			s.says(Got{Attempt: p.attempt, Sealed: p.sum, Envelope: signed("got")})
		default:
			s.says(rapid.SampledFrom([]Input{next(p.attempt), refused(p.attempt), unusable(p.attempt, ""), done(OutcomeOK)}).Draw(t, "on"))
		}
	}
	t.Repeat(map[string]func(*rapid.T){
		"human 1": human, "human 2": human, "job 1": job, "job 2": job, "on 1": on, "on 2": on, "on 3": on, "on 4": on,
		"time": func(*rapid.T) {
			s.now = s.now.Add(time.Duration(rapid.IntRange(0, 40).Draw(t, "seconds")) * time.Second)
		},
		"clock": func(*rapid.T) {
			// A relay that woke up early, or when it is due.
			r := s.last(len(s.stream))
			due, in := r.Clock(s.now)
			if in == nil {
				in = Expire{}
			} else if rapid.Bool().Draw(t, "due") && due.After(s.now) {
				s.now = due
			}
			s.says(in)
		},
		"undelivered": func(*rapid.T) { s.says(Undelivered{}) },
		"end": func(*rapid.T) {
			switch rapid.IntRange(0, 30).Draw(t, "end") {
			case 0:
				s.says(done(rapid.SampledFrom([]string{OutcomeOK, OutcomeFailed}).Draw(t, "outcome")))
			case 1:
				s.says(decline(key(), about()))
			case 2:
				s.says(cancel("stop"))
			case 3:
				s.says(Lost{})
			case 4, 5:
				s.says(Restored{})
			}
		},
		"much later": func(*rapid.T) { s.says(s.sent[rapid.IntRange(0, len(s.sent)-1).Draw(t, "which")]) },
		"crash": func(*rapid.T) {
			s.read[rapid.IntRange(0, 1).Draw(t, "relay")] = rapid.IntRange(1, len(s.stream)).Draw(t, "from")
		},
	})
}

func TestTheMachineTellsTheProtocolsStory(t *testing.T) {
	t.Parallel()
	seen := map[Event]int{}
	rapid.Check(t, func(t *rapid.T) { newStage(t, Apply, seen).walk() })
	for event := range leads {
		if event != EventAsked && seen[event] < 20 {
			t.Errorf("%s happened %d times: the walks are too tame", event, seen[event])
		}
	}
	t.Log(seen)
}

// witness is a test that fails without failing this one.
type witness struct {
	*testing.T
	failed bool
}

func (w *witness) Logf(string, ...any)   {}
func (w *witness) Log(...any)            {}
func (w *witness) Errorf(string, ...any) { w.failed = true }
func (w *witness) Error(...any)          { w.failed = true }
func (w *witness) Fatalf(string, ...any) { w.failed = true }
func (w *witness) Fatal(...any)          { w.failed = true }
func (w *witness) FailNow()              { w.failed = true }
func (w *witness) Fail()                 { w.failed = true }
func (w *witness) Failed() bool          { return w.failed }

// Each rule that is turned round is noticed, and by a story short enough to be read.
func TestAWrongRuleIsFound(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		wrong    machine
		careless bool
		most     int // steps of the story that is told in the end
	}{
		"an answer that was given up stays given up, though the job has it": {most: 4, wrong: func(prev *Record, in Input, at time.Time) (Record, error) {
			if g, ok := in.(Got); ok && prev != nil && prev.past(g.Attempt) >= 0 {
				return Record{}, ErrAttempt
			}
			return Apply(prev, in, at)
		}},
		"a code that a job had ends as cancelled": {most: 8, wrong: func(prev *Record, in Input, at time.Time) (Record, error) {
			r, err := Apply(prev, in, at)
			if err == nil && r.Event == EventLost && r.State == StateDone {
				r.State, r.Outcome = StateCancelled, ""
			}
			return r, err
		}},
		"the second answer replaces the first": {most: 3, wrong: func(prev *Record, in Input, at time.Time) (Record, error) {
			if a, ok := in.(Answer); ok && prev != nil && prev.State == StateAnswered && prev.By != a.Key {
				r := prev.clone()
				r.State, r.AnswerAttempt, r.Sealed, r.By, r.Answer, r.Answered = StatePending, 0, "", "", nil, 0
				return Apply(&r, in, at)
			}
			return Apply(prev, in, at)
		}},
		"a key that was shut out answers": {most: 4, wrong: func(prev *Record, in Input, at time.Time) (Record, error) {
			if _, ok := in.(Answer); ok && prev != nil && len(prev.Shut) > 0 {
				r := prev.clone()
				r.Shut = nil
				next, err := Apply(&r, in, at)
				next.Shut = prev.Shut
				return next, err
			}
			return Apply(prev, in, at)
		}},
		"one code too many is taken": {most: 8, wrong: func(prev *Record, in Input, at time.Time) (Record, error) {
			if _, ok := in.(Reject); ok && prev != nil {
				r := prev.clone()
				r.Attempts++
				next, err := Apply(&r, in, at)
				next.Attempts = prev.Attempts
				return next, err
			}
			return Apply(prev, in, at)
		}},
		"relays append without looking at what came before": {most: 4, careless: true, wrong: Apply},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var told []string
			w := &witness{T: t}
			rapid.Check(w, func(rt *rapid.T) {
				s := newStage(rt, tc.wrong, map[Event]int{})
				s.careless = tc.careless
				defer func() { told = s.trail }() // the last that runs is the shortest that fails
				s.walk()
			})
			switch {
			case !w.failed:
				t.Error("nothing was noticed")
			case len(told) > tc.most:
				t.Errorf("it takes %d steps to tell: %q", len(told), told)
			}
			t.Logf("%q", told)
		})
	}
}
