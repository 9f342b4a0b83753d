// Random walks: what stays true whatever order things happen in.

package lifecycle

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"
)

// chance is an input that some side might send just now: mostly about the attempts that there are, by few people, so
// that walks get far, and sometimes about nothing at all.
func chance(rng *rand.Rand, r *Record) Input {
	people := []string{ann, bob, cyd, "UDAN"}
	key := people[rng.IntN(len(people))]
	n, by := attempt(r), key
	switch rng.IntN(6) {
	case 0:
		n = max(1, n-1-rng.IntN(3))
	case 1:
		n += rng.IntN(2)
	}
	about := held(r)
	if rng.IntN(4) == 0 {
		about = n
	}
	if r != nil && r.AnswerAttempt == about && rng.IntN(8) != 0 {
		by = r.By
	} else if r != nil && len(r.Past) > 0 && rng.IntN(2) == 0 {
		p := r.Past[rng.IntN(len(r.Past))]
		about, by = p.Attempt, p.By
	}
	switch rng.IntN(120) {
	case 0:
		return ask(KindCode, 1)
	case 1:
		return done([]string{OutcomeOK, OutcomeFailed}[rng.IntN(2)])
	case 2:
		return decline(key, n)
	case 3:
		return cancel("stop")
	case 4:
		return Lost{}
	case 5, 6:
		return Expire{}
	case 7:
		return Restored{}
	}
	switch rng.IntN(16) {
	case 0:
		return open(key, n)
	case 1, 2, 3:
		return answer(key, n)
	case 4, 5:
		return Undelivered{}
	case 6, 7, 8, 9:
		return got(by, about)
	case 10:
		return refused(about)
	case 11:
		return unusable(about, "")
	case 12, 13:
		return next(about)
	default:
		return approve(key, n)
	}
}

func TestWhateverHappensTheseStayTrue(t *testing.T) {
	t.Parallel()
	const walks, steps, afterwards = 800, 80, 6
	rng := rand.New(rand.NewPCG(1, 2))
	events, states, longest := map[Event]int{}, map[State]int{}, 0
	lateGots, lateWords := 0, 0
	for walk := range walks {
		a := ask([]string{KindCode, KindCode, KindCode, KindLink, KindApproval}[rng.IntN(5)], rng.IntN(3))
		a.Attempts = 1 + rng.IntN(4)
		a.Deadline = start.Add(time.Duration(2+rng.IntN(20)) * time.Minute).UnixMilli()
		now := start
		live, err := Apply(nil, a, now)
		if err != nil {
			t.Fatal(err)
		}
		bytesNow := encode(t, live.After("", "op"))
		live = live.After("", "op")
		events[live.Event]++
		answers := map[int]string{} // attempt → hash: everything that was ever recorded as an answer
		var trail []string
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("walk %d: %s\nafter %q", walk, fmt.Sprintf(format, args...), trail)
		}
		ended := 0
		for range steps {
			if live.State.Final() {
				if ended++; ended > afterwards {
					break
				}
			}
			now = now.Add(time.Duration(rng.IntN(40_000)) * time.Millisecond)
			prev := live
			in := chance(rng, &prev)
			if _, due := prev.Clock(now); due != nil && rng.IntN(6) == 0 {
				in = due
			}
			r, err := Apply(&prev, in, now)

			// The bytes alone decide the same.
			stored := decode(t, bytesNow)
			r2, err2 := Apply(&stored, in, now)
			if !reflect.DeepEqual(r, r2) || fmt.Sprint(err) != fmt.Sprint(err2) {
				fail("%T: %s from memory, %s from the record's bytes", in, verdict(r, err), verdict(r2, err2))
			}
			if !bytes.Equal(encode(t, prev), bytesNow) {
				fail("%T changed the record that it was applied to", in)
			}
			if word := verdict(r, err); len(word) > 12 && word[:10] == "unexpected" {
				fail("%T: %s", in, word)
			}
			if err != nil {
				var taken *TakenError
				if errors.As(err, &taken) && taken.By == "" {
					fail("%T: taken by nobody", in)
				}
				continue
			}
			trail = append(trail, fmt.Sprintf("%s→%s:%d", r.Event, r.State, r.Attempt))
			r = r.After(hashOf(bytesNow), "op")

			if r.Attempt < prev.Attempt || r.Attempt > prev.Attempt+1 {
				fail("the attempt went from %d to %d", prev.Attempt, r.Attempt)
			}
			// The job counts by its own signatures, and follows the relay further only for "undelivered".
			signed := r.Event == EventRejected || r.Event == EventNext
			if about := prev.AnswerAttempt; signed && about != 0 && r.State == StatePending && r.Attempt != about+1 && r.Reason != ReasonUndelivered {
				fail("after the job's word about attempt %d, %d is open because of %s", about, r.Attempt, r.Reason)
			}
			if r.Rejected < prev.Rejected || r.Rejected > a.Attempts {
				fail("refused codes went from %d to %d of %d", prev.Rejected, r.Rejected, a.Attempts)
			}
			if prev.State.Final() {
				late := r.Event == EventGot && prev.Event.byClock() && prev.State != StateDone
				if !late || r.State != StateDone || r.Outcome != OutcomeUnknown {
					fail("left the end %s by %s for %s", prev.State, r.Event, r.State)
				}
				lateGots++
			}
			if prev.State == StateDelivered && (r.State == StateExpired || r.State == StateCancelled && r.Event != EventRejected) {
				fail("a job that had the code ended as %s", r.State)
			}
			if r.Event == EventAnswered {
				if had, ok := answers[r.Attempt]; ok {
					fail("attempt %d was answered twice: %s, %s", r.Attempt, had, r.Sealed)
				}
				answers[r.Attempt] = r.Sealed
				if slices.Contains(prev.Shut, r.By) {
					fail("a shut key answered")
				}
				if a.Approvals == 2 && !slices.ContainsFunc(r.Yes, func(y Yes) bool { return y.Key != r.By }) {
					fail("one person alone gave the code of two")
				}
				if now.UnixMilli() >= a.Deadline {
					fail("answered after the deadline")
				}
			}
			if r.AnswerAttempt != 0 && answers[r.AnswerAttempt] != r.Sealed {
				fail("holds an answer to attempt %d that was never recorded", r.AnswerAttempt)
			}
			if r.AnswerAttempt != 0 && r.AnswerAttempt < r.Attempt && r.State == StateDelivered {
				lateWords++
			}
			for i, y := range r.Yes {
				for _, z := range r.Yes[:i] {
					if y.Key == z.Key {
						fail("%s said yes twice", y.Key)
					}
				}
			}
			if r.State == StateDone && r.Kind == KindApproval && len(r.Yes) != max(1, a.Approvals) {
				fail("approved by %d of %d", len(r.Yes), a.Approvals)
			}
			if r.Key != prev.Key || r.Digest != prev.Digest || r.Deadline != prev.Deadline || !bytes.Equal(r.Request, prev.Request) ||
				r.Project != prev.Project || r.Rule != prev.Rule || r.Group != prev.Group || r.Kind != prev.Kind ||
				r.Attempts != prev.Attempts || r.Approvals != prev.Approvals {
				fail("the request itself changed")
			}
			if r.State == prev.State && reflect.DeepEqual(r.Opened, prev.Opened) && reflect.DeepEqual(r.Yes, prev.Yes) &&
				reflect.DeepEqual(r.Shut, prev.Shut) && reflect.DeepEqual(r.Past, prev.Past) && r.Attempt == prev.Attempt {
				fail("%T recorded nothing new: repeated for ever it would fill the stream", in)
			}

			bytesNow = encode(t, r)
			live = r
			events[r.Event]++
			states[r.State]++
			longest = max(longest, r.Attempt)
		}
	}
	// A walk that never gets anywhere shows nothing.
	for event := range leads {
		if events[event] < 20 {
			t.Errorf("%s happened %d times", event, events[event])
		}
	}
	for _, state := range []State{StatePending, StateAnswered, StateDelivered, StateDone, StateDeclined, StateExpired, StateCancelled} {
		if states[state] < 20 {
			t.Errorf("%s was reached %d times", state, states[state])
		}
	}
	if longest < 6 || lateGots < 20 || lateWords < 20 {
		t.Errorf("the walks were too tame: %d attempts, %d late gots after an end, %d before", longest, lateGots, lateWords)
	}
	t.Log(events, states, longest, lateGots, lateWords)
}
