//go:build clients

package broker

// The storms at their full size: too much for each run of the suite under the race
// detector.

import (
	"context"
	"fmt"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/audit"
	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

// With nats-server's own time limit for authentication two thirds of so many are
// refused: it counts the time in the queue before the callout.
func TestThreeThousandJobsAtOnceAreAllLetIn(t *testing.T) {
	storm(t, startFixture(t), 3000)
}

// All are back after a relay that was killed, and after one that was told to end,
// nobody was asked anything anew, and what each is told is so: to the jobs, to the
// responders, and in the record.
func TestThreeThousandJobsAndAHundredRespondersComeBack(t *testing.T) {
	const jobs, responders = 3000, 100
	ctx, cancel := context.WithCancel(t.Context())
	s := newSiege(t, jobs, responders)
	wait := s.gather(ctx)
	defer wait()
	defer cancel()
	revs := map[string]uint64{}
	for _, j := range s.jobs {
		revs[j.pub] = j.told().Rev
	}
	for _, how := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		before := s.counts()
		s.process.stop(how)
		s.serve()
		s.back(before, 5*time.Minute)
		t.Logf("%s: back after %s, of which the relay took %s to serve", how, time.Since(s.began).Round(time.Millisecond), s.ready.Round(time.Millisecond))
		for _, j := range s.jobs {
			if st := j.told(); st.State != "pending" || st.Attempt != 1 || st.Rev != revs[j.pub] {
				t.Fatalf("after %s one is %s, attempt %d, revision %d, and was %d", how, st.State, st.Attempt, st.Rev, revs[j.pub])
			}
		}
	}
	// A responder is listed what waits in its projects, each once (pages have it by
	// key), and nothing else.
	listed := map[string]bool{}
	for _, d := range s.desks {
		items, err := d.pages(d.on())
		if err != nil {
			t.Fatal(err)
		}
		var mine []*siegeJob
		for _, j := range s.jobs {
			if d.projects[j.project] {
				mine = append(mine, j)
				listed[j.pub] = true
				if _, there := items[j.pub]; !there {
					t.Fatalf("%s is not listed to %s", j.pub, d.name)
				}
			}
		}
		if len(items) != len(mine) {
			t.Errorf("%s is listed %d requests, and %d wait", d.name, len(items), len(mine))
		}
		// One of them gets its answer: from this responder to that job.
		k := slices.IndexFunc(mine, func(j *siegeJob) bool { return !j.answered })
		if k < 0 {
			t.Fatalf("%s has nothing to answer", d.name)
		}
		j := mine[k]
		j.answered = true
		m := d.answerMessage(t, j.job, 1)
		if _, err := say(d.on(), wire.DeskSubject(d.key(), wire.VerbAnswer), m); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-j.answers:
			if got.Sealed.Hash() != m.Sealed.Hash() {
				t.Error("another answer came")
			}
		case <-time.After(time.Minute):
			t.Fatal("an answer did not come")
		}
		receipt := wire.StepMessage{Step: sign(t, &wire.Got{Key: j.pub, Digest: j.dig, Attempt: 1, Sealed: m.Sealed.Hash()}, j.key)}
		if _, err := say(j.on(), wire.JobSubject(j.pub, wire.VerbGot), receipt); err != nil {
			t.Fatal(err)
		}
	}
	if len(listed) != jobs {
		t.Errorf("%d of %d are listed to somebody", len(listed), jobs)
	}
	s.process.stop(syscall.SIGTERM)
	cancel()
	wait()

	// What was written is that each was asked once, and what was answered now; and it
	// all follows from what was signed.
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.start(string(text), crowded)
	if n := s.relay.store.count(); n != jobs {
		t.Errorf("%d requests are open", n)
	}
	events := map[string]int{}
	var v *audit.Verifier
	if err := readRecord(t.Context(), s.relay.store.stream, s.relay.rules.Load().config, AuditQuery{}, func(e auditEvent) error {
		switch {
		case e.Extent != nil:
			v = audit.NewVerifier(*e.Extent, func(string, string) bool { return true })
		case e.Message != nil:
			v.Add(*e.Message)
			rec, err := lifecycle.Decode(e.Message.Data)
			if err != nil {
				return fmt.Errorf("%s: %w", e.Message.Subject, err)
			}
			events[string(rec.Event)]++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	v.End()
	if len(v.Problems) > 0 {
		t.Errorf("%d problems of the record, such as %s", len(v.Problems), v.Problems[0])
	}
	if fmt.Sprint(events) != fmt.Sprintf("map[answered:%[1]d asked:%[2]d got:%[1]d]", responders, jobs) {
		t.Errorf("the record has %v", events)
	}
}
