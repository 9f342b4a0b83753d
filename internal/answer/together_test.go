package answer

// Several prompts of one run, answered together: who belongs to them, what each
// gets, and who tries to slip in.

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/continuousauth/action/internal/answer/answertest"
	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

// group is a desk for services of which npm's codes can be used again.
func group(t *testing.T) *office {
	t.Helper()
	o := inMemory(t)
	o.desk.config.Reusable = func(service string) bool { return service == "npm" }
	o.run()
	return o
}

// of makes a job with claims of its own, in a run of the repository.
func of(t *testing.T, repo string, over map[string]any, change func(*wire.Request)) *answertest.Job {
	t.Helper()
	claims := devissuer.GitHubClaims(repo, over)
	j, err := answertest.NewJob(relayName, project, wire.Proof{"iss": "https://token.example", "run_id": "1"}, func(string) (string, error) {
		payload, err := json.Marshal(claims)
		b64 := base64.RawURLEncoding.EncodeToString
		return b64([]byte(`{"alg":"none"}`)) + "." + b64(payload) + "." + b64([]byte("nobody")), err
	}, change)
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// muted are jobs that prove themselves no more.
var muted sync.Map

// packages are n jobs of one run, verified.
func (o *office) packages(t *testing.T, n int, change func(*wire.Request)) (jobs []*answertest.Job) {
	t.Helper()
	for i := range n {
		j := of(t, repo, map[string]any{"check_run_id": fmt.Sprint(100 + i)}, func(r *wire.Request) {
			r.Message = fmt.Sprintf("package %d", i)
			if change != nil {
				change(r)
			}
		})
		j.OnAlive = func(*wire.Alive) bool { _, mute := muted.Load(j); return !mute }
		jobs = append(jobs, j)
		o.relay.Ask(j)
	}
	for _, j := range jobs {
		o.human.wait(t, j.ID(), "answerable", func(p Prompt) bool { return p.Answerable })
	}
	return jobs
}

func together(match string, jobs ...*answertest.Job) Together {
	a := Together{Code: code, Match: match}
	for _, j := range jobs {
		a.Members = append(a.Members, Member{j.ID(), 1})
	}
	return a
}

// quiet says that no answer has left.
func (o *office) quiet(t *testing.T) {
	t.Helper()
	synctest.Wait()
	if n := len(o.relay.Messages(wire.VerbAnswer)); n != 0 {
		t.Fatalf("%d answers left", n)
	}
}

func TestTwelveJobsOfOneRunTakeOneCodeAndOneMatchCode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := group(t)
		jobs := o.packages(t, 12, nil)
		first := o.human.wait(t, jobs[0].ID(), "answerable", func(p Prompt) bool { return p.Answerable })
		if first.Group == "" || !first.Reusable {
			t.Fatalf("no group: %+v", first)
		}
		for _, j := range jobs {
			p := o.human.wait(t, j.ID(), "answerable", func(p Prompt) bool { return p.Answerable })
			if p.Group != first.Group || !p.TypeMatch || p.Match != "" {
				t.Errorf("%q: group %q, match code %q to be typed: %v", p.Message, p.Group, p.Match, p.TypeMatch)
			}
		}
		// Alone, each is as it was: its own match code.
		if err := o.desk.Answer(t.Context(), Answer{ID: jobs[0].ID(), Attempt: 1, Code: code, Match: seal.Match(jobs[1].Digest)}); !errors.Is(err, ErrMatch) {
			t.Errorf("one alone, by another's match code: %v", err)
		}
		for _, match := range []string{"", "0000-0000-0000"} {
			if _, err := o.desk.AnswerAll(t.Context(), together(match, jobs...)); !errors.Is(err, ErrMatch) {
				t.Errorf("match code %q: %v", match, err)
			}
		}
		short := together(seal.Match(jobs[3].Digest), jobs...)
		short.Code = "1"
		if _, err := o.desk.AnswerAll(t.Context(), short); !errors.Is(err, ErrCode) {
			t.Errorf("a code of the wrong form: %v", err)
		}
		o.quiet(t)
		// Named twice, it is answered once.
		left, err := o.desk.AnswerAll(t.Context(), together(strings.ToLower(seal.Match(jobs[3].Digest)), append(jobs, jobs[0])...))
		if err != nil || len(left) != 0 {
			t.Fatalf("%v, left out %v", err, left)
		}
		sealed := map[string]bool{}
		for _, j := range jobs {
			if got := received(t, j); got != code || len(j.Codes()) != 1 {
				t.Errorf("the job opened %q", j.Codes())
			}
			sealed[o.relay.State(j).Sealed] = true
		}
		if len(sealed) != len(jobs) {
			t.Errorf("%d sealed forms for %d jobs", len(sealed), len(jobs))
		}
		if strings.Contains(o.log.String(), code) {
			t.Error("the code is in the log")
		}
	})
}

// Whoever is not of the run, by its verified token, has another group or none, and
// an asker that names it all the same sends nothing.
func TestNobodySlipsIntoARun(t *testing.T) {
	t.Parallel()
	run := map[string]any{"check_run_id": "7"}
	with := func(name string, value any) map[string]any {
		m := map[string]any{"check_run_id": "7"}
		m[name] = value
		return m
	}
	for name, tc := range map[string]struct {
		repo   string
		over   map[string]any
		change func(*wire.Request)
		spoil  func(o *office, j *answertest.Job)
	}{
		"another run":              {over: with("run_id", "999")},
		"another attempt":          {over: with("run_attempt", "2")},
		"another commit":           {over: with("sha", strings.Repeat("ab", 20))},
		"another environment":      {over: with("environment", "staging")},
		"another runner":           {over: with("runner_environment", "self-hosted")},
		"another person's run":     {over: with("actor", "mallory")},
		"another service":          {over: run, change: func(r *wire.Request) { r.Service = "rubygems" }},
		"another form":             {over: run, change: func(r *wire.Request) { r.Format = "digits:8" }},
		"one that wants it typed":  {over: run, change: func(r *wire.Request) { r.TypeMatch = true }},
		"a link":                   {over: run, change: link},
		"another repository":       {repo: "mallory/evil", over: run},
		"a message that claims so": {over: with("run_id", "999"), change: func(r *wire.Request) { r.Message = "package 0" }},
		"one that proves nothing": {over: run, spoil: func(_ *office, j *answertest.Job) {
			j.OnAlive = func(*wire.Alive) bool { return false }
		}},
		"one of another project": {over: run, change: func(r *wire.Request) { r.Project = "other" }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := group(t)
				from := repo
				if tc.repo != "" {
					from = tc.repo
				}
				over := tc.over
				if tc.repo != "" { // it says that it is the same run
					over = map[string]any{"check_run_id": "7", "run_id": devissuer.GitHubClaims(repo, nil)["run_id"]}
				}
				stranger := of(t, from, over, tc.change)
				if stranger.Request.Ask == wire.AskLink {
					links(stranger, npmLink)
				}
				if tc.spoil != nil {
					tc.spoil(o, stranger)
				}
				o.relay.Ask(stranger)
				o.human.wait(t, stranger.ID(), "opened", func(p Prompt) bool { return p.Standing != Unopened && (p.Standing != Checking || tc.spoil != nil) })
				jobs := o.packages(t, 2, nil)
				a := o.human.wait(t, jobs[0].ID(), "grouped", func(p Prompt) bool { return p.Group != "" })
				b := o.human.wait(t, stranger.ID(), "known", func(Prompt) bool { return true })
				if b.Group == a.Group {
					t.Fatalf("it is shown as one of the run: %+v", b)
				}
				match := seal.Match(jobs[0].Digest)
				members := []*answertest.Job{stranger, jobs[0], jobs[1]}
				left, err := o.desk.AnswerAll(t.Context(), together(match, members...))
				if b.Answerable && b.Group != "" {
					if !errors.Is(err, ErrNotAnswerable) {
						t.Errorf("named together with the run: %v, left out %v", err, left)
					}
					o.quiet(t)
					// Nor by its own match code, whichever is named first.
					_, err = o.desk.AnswerAll(t.Context(), together(seal.Match(stranger.Digest), jobs[0], stranger))
					if !errors.Is(err, ErrNotAnswerable) {
						t.Errorf("named last: %v", err)
					}
					_, err = o.desk.AnswerAll(t.Context(), together(seal.Match(stranger.Digest), jobs...))
					if !errors.Is(err, ErrMatch) {
						t.Errorf("its match code answers the run: %v", err)
					}
					o.quiet(t)
				} else {
					if err != nil || len(left) != 1 || left[0].ID != stranger.ID() || !errors.Is(left[0].Err, ErrNotAnswerable) {
						t.Fatalf("%v, left out %+v", err, left)
					}
					for _, j := range jobs {
						received(t, j)
					}
				}
				synctest.Wait()
				if got := stranger.Codes(); len(got) != 0 {
					t.Errorf("it got %d codes", len(got))
				}
			})
		})
	}
}

// A token that names no key is not tied to its request by anything but the typed
// match code of that very request.
func TestUnboundJobsAreEachJudgedAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := group(t)
		jobs := o.packages(t, 2, nil)
		if err := o.desk.call(t.Context(), func() error {
			for _, p := range o.desk.prompts {
				p.proof.job.Bound = false
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := o.desk.AnswerAll(t.Context(), together(seal.Match(jobs[0].Digest), jobs...)); !errors.Is(err, ErrNotAnswerable) {
			t.Errorf("answered together: %v", err)
		}
		o.quiet(t)
	})
}

func TestWhoeverCannotBeAnsweredIsLeftOutAndNamed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := group(t)
		jobs := o.packages(t, 5, nil)
		gone, asked, first, silent := jobs[1], jobs[2], jobs[3], jobs[4]
		o.relay.Set(gone, func(i *wire.Item) { i.State.State = "cancelled" })
		asked.At(2, wire.ReasonRejected)
		o.relay.Set(asked, func(i *wire.Item) { i.State.Attempt, i.State.Reason = 2, wire.ReasonRejected })
		o.relay.Set(first, func(i *wire.Item) {
			i.State.State, i.State.By, i.State.Sealed = "answered", "grace", strings.Repeat("ab", 32)
		})
		o.human.wait(t, gone.ID(), "over", phase(Over))
		o.human.wait(t, first.ID(), "resting", phase(Resting))
		o.human.wait(t, asked.ID(), "at 2", func(p Prompt) bool { return p.Attempt == 2 && p.Answerable })
		muted.Store(silent, true)
		time.Sleep(12 * time.Minute) // its proof runs out, the others' are renewed
		o.human.wait(t, silent.ID(), "not proved", func(p Prompt) bool { return !p.Answerable })

		match := seal.Match(jobs[0].Digest)
		// The match code of one that is left out opens nothing.
		if _, err := o.desk.AnswerAll(t.Context(), together(seal.Match(silent.Digest), jobs...)); !errors.Is(err, ErrMatch) {
			t.Errorf("by the match code of one that proves nothing: %v", err)
		}
		left, err := o.desk.AnswerAll(t.Context(), together(match, jobs...))
		if err != nil {
			t.Fatal(err)
		}
		why := map[string]string{}
		for _, l := range left {
			if !errors.Is(l.Err, ErrNotAnswerable) {
				t.Errorf("%v", l.Err)
			}
			why[l.ID] = l.Err.Error()
		}
		for j, want := range map[*answertest.Job]string{gone: "it is over", asked: "has asked anew", first: "grace answered", silent: "job"} {
			if !strings.Contains(why[j.ID()], want) {
				t.Errorf("left out because %q, want %q", why[j.ID()], want)
			}
		}
		if len(left) != 4 {
			t.Errorf("%d are left out", len(left))
		}
		if c := received(t, jobs[0]); c != code {
			t.Errorf("the job opened %q", c)
		}
		for _, j := range jobs[1:] {
			if len(j.Codes()) != 0 {
				t.Error("one that was left out got a code")
			}
		}
		// With nobody left there is nothing to do, and that is said.
		if _, err := o.desk.AnswerAll(t.Context(), together(match, gone, first)); !errors.Is(err, ErrNotAnswerable) {
			t.Errorf("nobody is left: %v", err)
		}
		if _, err := o.desk.AnswerAll(t.Context(), Together{Code: code, Match: match}); !errors.Is(err, ErrNotAnswerable) {
			t.Errorf("nobody was named: %v", err)
		}
	})
}

// What a human has seen is what gets the code: one that joins while it is typed
// does not.
func TestWhoJoinsLaterGetsNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := group(t)
		jobs := o.packages(t, 2, nil)
		seen := together(seal.Match(jobs[0].Digest), jobs...)
		late := o.packages(t, 1, nil)[0]
		if left, err := o.desk.AnswerAll(t.Context(), seen); err != nil || len(left) != 0 {
			t.Fatalf("%v, %v", err, left)
		}
		for _, j := range jobs {
			received(t, j)
		}
		synctest.Wait()
		if len(late.Codes()) != 0 {
			t.Error("it got a code that nobody meant for it")
		}
	})
}

func TestWhereACodeWorksOnceOneMatchCodeIsEnoughAndEachHasItsOwnCode(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := group(t)
		jobs := o.packages(t, 3, func(r *wire.Request) { r.Service = "aws" })
		if p := o.human.wait(t, jobs[0].ID(), "grouped", func(p Prompt) bool { return p.Group != "" }); p.Reusable {
			t.Error("a code of a service that takes it once is called reusable")
		}
		if _, err := o.desk.AnswerAll(t.Context(), together("", jobs...)); !errors.Is(err, ErrMatch) {
			t.Errorf("without a match code: %v", err)
		}
		if _, err := o.desk.AnswerAll(t.Context(), together(seal.Match(jobs[1].Digest), jobs...)); !errors.Is(err, ErrOneEach) {
			t.Errorf("one code for all: %v", err)
		}
		o.quiet(t)
		// One that came later has been vouched for by nobody.
		late := o.packages(t, 1, func(r *wire.Request) { r.Service = "aws" })[0]
		if err := o.answer(late, 1); !errors.Is(err, ErrMatch) {
			t.Errorf("the late one: %v", err)
		}
		for i, j := range jobs {
			one := fmt.Sprintf("10000%d", i)
			if err := o.desk.Answer(context.Background(), Answer{ID: j.ID(), Attempt: 1, Code: one}); err != nil {
				t.Fatal(err)
			}
			if got := received(t, j); got != one {
				t.Errorf("the job opened %q", got)
			}
		}
		// It counted for that attempt only.
		j := jobs[0]
		j.At(2, wire.ReasonRejected)
		o.relay.Set(j, func(i *wire.Item) { i.State.State, i.State.Attempt, i.State.Sealed, i.State.By = "pending", 2, "", "" })
		o.human.wait(t, j.ID(), "asked again", func(p Prompt) bool { return p.Attempt == 2 && p.Answerable })
		if err := o.answer(j, 2); !errors.Is(err, ErrMatch) {
			t.Errorf("the next attempt: %v", err)
		}
	})
}

// Other pins, other facts: a match code that was typed under the old ones is void.
func TestNewPinsVoidWhatWasVouchedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := group(t)
		jobs := o.packages(t, 2, func(r *wire.Request) { r.Service = "aws" })
		if _, err := o.desk.AnswerAll(t.Context(), together(seal.Match(jobs[1].Digest), jobs...)); !errors.Is(err, ErrOneEach) {
			t.Fatal(err)
		}
		o.human.wait(t, jobs[0].ID(), "vouched for", func(p Prompt) bool { return p.Answerable && !p.TypeMatch })
		o.desk.SetTrust(Trust{Verifier: &gullible{bound: true}, Pins: pins(t, "github", repo)})
		o.human.wait(t, jobs[0].ID(), "void", func(p Prompt) bool { return !p.Answerable })
		o.human.wait(t, jobs[0].ID(), "verified anew", func(p Prompt) bool { return p.Answerable && p.TypeMatch })
		if err := o.answer(jobs[0], 1); !errors.Is(err, ErrMatch) {
			t.Errorf("%v", err)
		}
	})
}
