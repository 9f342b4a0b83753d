package broker

// How many requests may be open at once. A responder shows a bounded number of
// prompts, so without these a workflow gone bad could hide what others ask.

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// askedBy is a connected job of a given run, with its request made.
func (f *fixture) askedBy(project, run string) *job {
	f.t.Helper()
	repo := map[string]string{"rocket": rocketRepo, "boat": boatRepo}[project]
	j := f.job(repo, project)
	j.token = f.token(repo, wire.Audience(relayName, j.pub), map[string]any{"run_id": run})
	j.ask(project, nil)
	j.connect()
	return j
}

func TestOneRunHasSixteenRequestsOpenAndNoMore(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	var jobs []*job
	for range wire.MaxOpenRun {
		j := f.askedBy("rocket", "77")
		must(t, j.send(j.nc))
		jobs = append(jobs, j)
	}
	more := f.askedBy("rocket", "77")
	refused(t, more.send(more.nc), wire.RefusedLimit, "this run of the CI has 16 requests open", "let some of them end")
	// The same request again is the same request, however many there are.
	must(t, jobs[0].send(jobs[0].nc))
	// Others are not held up: another run of the project, and the same number
	// of a run in another repository.
	for _, j := range []*job{f.askedBy("rocket", "78"), f.askedBy("boat", "77")} {
		must(t, j.send(j.nc))
	}
	// What has ended counts no more.
	must(t, jobs[0].cancel())
	must(t, more.send(more.nc))
	last := f.askedBy("rocket", "77")
	refused(t, last.send(last.nc), wire.RefusedLimit)
	// Also of what has ended the state is still told.
	must(t, jobs[0].send(jobs[0].nc))
}

func TestOneProjectHasSixtyFourRequestsOpenAndNoMore(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	many := onLoopback + fmt.Sprintf("limits: {open: %d, per-hour: 1000}\n", wire.MaxOpenProject)
	f.start(f.configText(dir, many), Options{})
	// The last ones all at once: each must count for the next before it is on record.
	// Not all of them, because a job that has not asked yet is closed after 10 s.
	const extra, together = 8, 16
	for i := range wire.MaxOpenProject + extra - together {
		j := f.askedBy("rocket", fmt.Sprint(1000+i))
		must(t, j.send(j.nc))
	}
	var jobs []*job
	for i := range together {
		jobs = append(jobs, f.askedBy("rocket", fmt.Sprint(2000+i)))
	}
	replies := make([]wire.Reply, len(jobs))
	var wait sync.WaitGroup
	for i, j := range jobs {
		wait.Go(func() { replies[i] = j.send(j.nc) })
	}
	wait.Wait()
	over := 0
	for _, r := range replies {
		if r.Refused == nil {
			continue
		}
		over++
		refused(t, r, wire.RefusedLimit, "the project has 64 requests open", "answer or decline some")
	}
	if over != extra {
		t.Errorf("%d of %d were refused", over, len(jobs))
	}
	boat := f.askedBy("boat", "1")
	must(t, boat.send(boat.nc))
	if page := f.sit(f.ana).pending(); len(page.Items) == 0 {
		t.Error("nothing waits")
	}
	// A relay that starts anew counts what is on record.
	f.relay.Close()
	f.start(f.configText(dir, many), Options{})
	late := f.askedBy("rocket", "9")
	refused(t, late.send(late.nc), wire.RefusedLimit, "the project has 64 requests open")
}

// linkOf is askedBy for a link, which is another question than a code.
func (f *fixture) linkOf(project, run string) *job {
	f.t.Helper()
	j := f.askedBy(project, run)
	j.ask(project, func(q *wire.Request) { q.Ask, q.Format = wire.AskLink, "any" })
	return j
}

func TestAProjectHasFiveQuestionsOpenAndARunOne(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	f.start(f.configText(dir, onLoopback), Options{})
	var first *job
	// Twelve packages of one run are one question, and four other runs fit in.
	for range 12 {
		first = f.askedBy("rocket", "1")
		must(t, first.send(first.nc))
	}
	for run := 2; run <= 5; run++ {
		j := f.askedBy("rocket", fmt.Sprint(run))
		must(t, j.send(j.nc))
	}
	six := f.askedBy("rocket", "6")
	refused(t, six.send(six.nc), wire.RefusedLimit, "the project has 5 questions open (what one run asks for counts once)", "answer or decline some", "`projects.rocket.open`")
	// Whoever waits already is no further question.
	joins := f.askedBy("rocket", "5")
	must(t, joins.send(joins.nc))
	// Another project's humans are others.
	boat := f.askedBy("boat", "6")
	must(t, boat.send(boat.nc))
	// One run asks for one kind of thing at once.
	link := f.linkOf("boat", "6")
	refused(t, link.send(link.nc), wire.RefusedLimit, "this run of the CI has 1 question of another kind open, as many as one run may", "`projects.boat.open-per-run`")
	must(t, boat.cancel())
	must(t, link.send(link.nc))
	// A relay that starts anew counts what is on record; and numbers of a
	// project's own count for it alone.
	f.relay.Close()
	own := strings.Replace(f.configText(dir, onLoopback), "  boat:\n", "    open: 6\n    open-per-run: 2\n  boat:\n", 1)
	f.start(own, Options{})
	six = f.askedBy("rocket", "6")
	must(t, six.send(six.nc))
	seven := f.askedBy("rocket", "7")
	refused(t, seven.send(seven.nc), wire.RefusedLimit, "the project has 6 questions open")
	must(t, six.cancel())
	two := f.linkOf("rocket", "5")
	must(t, two.send(two.nc))
	boat = f.askedBy("boat", "6")
	refused(t, boat.send(boat.nc), wire.RefusedLimit, "this run of the CI has 1 question of another kind open")
}

func TestAProjectAsksSoManyTimesAnHour(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	var c clock
	text := f.configText(dir, onLoopback+"limits: {per-hour: 3}\n")
	o := Options{Now: c.now, opened: func(s *store) { c.store(s) }}
	f.start(text, o)
	for i := range 3 {
		j := f.askedBy("rocket", fmt.Sprint(i))
		must(t, j.send(j.nc))
		// What has ended was asked all the same.
		must(t, j.cancel())
	}
	j := f.askedBy("rocket", "3")
	refused(t, j.send(j.nc), wire.RefusedLimit, "the project has asked 3 times within an hour, as often as it may; it may again in 1h0m0s", "`projects.rocket.per-hour`")
	boat := f.askedBy("boat", "3")
	must(t, boat.send(boat.nc))
	// Also by a relay that was not there.
	f.relay.Close()
	f.start(text, o)
	j = f.askedBy("rocket", "4")
	refused(t, j.send(j.nc), wire.RefusedLimit, "asked 3 times within an hour")
	c.move(time.Hour)
	f.relay.store.mu.Lock()
	_, room := f.relay.store.asked["rocket"]
	f.relay.store.mu.Unlock()
	if !room {
		t.Fatal("nothing is remembered, so nothing was counted")
	}
	release, err := f.relay.store.reserve("key", place{run: "5", project: "rocket", kind: wire.AskCode})
	if err != nil {
		t.Fatal(err)
	}
	release()
	eventually(t, "what is an hour ago takes no room", func() bool {
		f.relay.store.mu.Lock()
		defer f.relay.store.mu.Unlock()
		return len(f.relay.store.asked) == 0
	})
}

// The index follows the stream, and may be behind it while the server that it
// listens to is gone: what has ended in truth counts against nobody.
func TestARequestThatHasEndedCountsNoMoreThoughTheIndexMissedIt(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	// The relay has seen all of them, and the end of none: as if the follower had
	// stopped after the last was asked.
	var s *store
	f.start(f.configText(t.TempDir(), onLoopback), Options{opened: func(o *store) { s = o }})
	var jobs []*job
	for range wire.MaxOpenRun {
		j := f.askedBy("rocket", "77")
		must(t, j.send(j.nc))
		jobs = append(jobs, j)
	}
	more := f.askedBy("rocket", "77")
	refused(t, more.send(more.nc), wire.RefusedLimit)
	missed, open := s.recent(jobs[0].pub)
	if !open {
		t.Fatal("the first request is not in the index")
	}
	must(t, jobs[0].cancel())
	s.mu.Lock()
	delete(s.ended, jobs[0].pub)
	s.mu.Unlock()
	s.see(missed)
	eventually(t, "the flood's bound on reads is over", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.now().Sub(s.refreshed["rocket"]) >= refreshEvery
	})
	must(t, more.send(more.nc))
}
