package broker

// How many requests may be open at once. A responder shows a bounded number of
// prompts, so without these a workflow gone bad could hide what others ask.

import (
	"fmt"
	"sync"
	"testing"

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
	f.start(f.configText(dir, onLoopback), Options{})
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
	f.start(f.configText(dir, onLoopback), Options{})
	late := f.askedBy("rocket", "9")
	refused(t, late.send(late.nc), wire.RefusedLimit, "the project has 64 requests open")
}
