//go:build unix && clients

package e2e

// A network that fails under real programs: connections that are torn in the
// middle of a message, reset, half open in one direction or both, slow, or that
// overtake each other. Each case shows that its fault has happened, and what became
// of the request is read from the relay's record.
//
// The tap does all that, and not a proxy of bytes such as toxiproxy: a fault here
// is at one message of the protocol, which the tap knows, and the module would
// bring twenty others into go.mod (Prometheus's client, a logger, a router, a CLI).

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// ways are the networks between a relay and both of its clients, all of them real
// programs.
type ways struct {
	*world
	t           *testing.T
	jobs, desks *tap
	job, human  *process
}

// newWays starts the relay, and its responder behind a tap.
func newWays(t *testing.T) *ways {
	t.Helper()
	s := &ways{world: newWorld(t), t: t}
	var desks []string
	s.desks, desks = s.tapped()
	direct := s.flags
	s.flags = desks
	s.human = s.listen(s.humans[0])
	s.human.within = longWithin
	s.flags = direct
	return s
}

// asks starts the job behind its own.
func (s *ways) asks() {
	s.t.Helper()
	var jobs []string
	s.jobs, jobs = s.tapped()
	s.asksBy(jobs)
}

func (s *ways) asksBy(jobs []string) {
	s.t.Helper()
	s.job = s.jobBy(jobs)
	s.job.within = longWithin
}

// answered lets the human give the code, once, and the job end with it.
func (s *ways) answered() {
	s.t.Helper()
	s.human.waitFor(`#1 your turn`)
	say(s.t, s.human, "1\n%s\n", testCode)
	s.endsWell()
}

func (s *ways) endsWell() {
	s.t.Helper()
	if code := s.job.wait(); code != 0 {
		s.t.Errorf("cfa ended with %d", code)
	}
	if got := s.job.out.String(); got != testCode+"\n" {
		s.t.Errorf("cfa wrote %q", got)
	}
	s.human.waitFor(`#1 over: the relay says that the job (has what it asked for|is done)`)
	if text := s.human.out.String(); strings.Contains(text, "attempt 2") || strings.Count(text, "#1 over") != 1 {
		s.t.Error("the human was asked twice, or heard of two ends")
	}
	s.tells("asked answered got done: done ok")
}

// answeredUnheard is answered for a job that hears and is not heard: it has its code
// and goes on with it, as a code lives for half a minute and the relay's record is
// not worth that. For the record it is gone, and nobody is asked for a second code
// in vain: its prompt does not become verified again.
func (s *ways) answeredUnheard() {
	s.t.Helper()
	s.human.waitFor(`#1 your turn`)
	say(s.t, s.human, "1\n%s\n", testCode)
	if code := s.job.wait(); code != 0 || s.job.out.String() != testCode+"\n" {
		s.t.Errorf("cfa ended with %d and wrote %q", code, s.job.out)
	}
	story := "asked answered undelivered lost: cancelled"
	if strings.Contains(s.job.err.String(), "the relay did not confirm the end of the request") {
		s.human.waitFor(`#1 over: the relay says that the job is gone`)
	} else {
		// It found out, and connected again, in the very moment in which it would
		// have given up.
		story = "asked answered got done: done ok"
		s.human.waitFor(`#1 over: `)
	}
	if strings.Contains(s.human.out.String(), "this is attempt 2") {
		s.t.Error("the human was asked a second time")
	}
	s.tells(story)
}

func TestANetworkThatFailsInTheMiddleOfAMessageCostsNothing(t *testing.T) {
	t.Parallel()
	program(t, "cfa")
	up := func(verb string) func(frame) bool {
		return func(f frame) bool { return f.up && f.verb == verb }
	}
	down := func(hint string) func(frame) bool { return func(f frame) bool { return f.pushed(hint) } }
	reply := func(verb string) func(frame) bool {
		return func(f frame) bool { return f.reply && f.verb == verb }
	}
	type step struct {
		name string
		job  bool
		at   func(frame) bool
	}
	const job, desk = true, false
	sent := []step{
		{"request", job, up(wire.VerbRequest)}, {"alive", job, up(wire.VerbAlive)}, {"got", job, up(wire.VerbGot)}, {"done", job, up(wire.VerbDone)},
		{"open", desk, up(wire.VerbOpen)}, {"answer", desk, up(wire.VerbAnswer)},
	}
	received := []step{
		{"the request's reply", job, reply(wire.VerbRequest)}, {"a challenge", job, down(wire.HintChallenge)}, {"the answer", job, down(wire.HintAnswer)},
		{"the proof", desk, down(wire.HintAlive)}, {"the answer's reply", desk, reply(wire.VerbAnswer)},
	}
	var scenes []scene
	for how, of := range map[verdict]struct {
		name  string
		steps []step
	}{
		torn: {"torn in", append(sent, received...)},
		rst:  {"reset at", append(sent, received...)},
		late: {"overtaken by the next connection:", sent},
	} {
		for _, at := range of.steps {
			scenes = append(scenes, scene{fmt.Sprintf("%s %s", of.name, at.name), func(t *testing.T) {
				s := newWays(t)
				var once atomic.Bool
				judge := func(f frame) verdict {
					if at.at(f) && once.CompareAndSwap(false, true) {
						return how
					}
					return pass
				}
				var jobs []string
				s.jobs, jobs = s.tapped()
				way := s.desks
				if at.job {
					way = s.jobs
				}
				way.judgeBy(judge)
				s.asksBy(jobs)
				s.answered()
				accepted, cuts, _ := way.tally()
				if cuts != 1 || accepted < 2 && at.name != "done" {
					t.Errorf("%d cuts, %d connections", cuts, accepted)
				}
				if how == late {
					// A relay closes the older connection of a key when a newer one
					// comes, so most of them find that closed.
					way.bell.await(t, "the late message is sent on", func() bool {
						way.mu.Lock()
						defer way.mu.Unlock()
						return way.behind == 1
					})
					// It has changed nothing, whether it arrived or not.
					s.tells("asked answered got done: done ok")
				}
			}})
		}
	}
	together(t, 8, scenes)
}

func TestAHalfOpenConnectionIsFoundInEachDirection(t *testing.T) {
	t.Parallel()
	program(t, "cfa")
	var scenes []scene
	for _, dir := range []struct {
		name     string
		up, down bool
	}{{"to the relay", true, false}, {"from the relay", false, true}, {"in both directions", true, true}} {
		for _, side := range []string{"job", "responder"} {
			for _, when := range []string{"while it waits", "with the answer given"} {
				scenes = append(scenes, scene{side + ", " + dir.name + ", " + when, func(t *testing.T) {
					s := newWays(t)
					s.asks()
					way := s.jobs
					if side == "responder" {
						way = s.desks
					}
					s.human.waitFor(`#1 your turn`)
					if when == "while it waits" {
						if n := way.freezes(dir.up, dir.down); n != 1 {
							t.Fatalf("%d connections", n)
						}
						// Found by the one that is cut off alone, and before
						// anybody does anything.
						way.bell.await(t, "it connects again", func() bool { accepted, _, _ := way.tally(); return accepted == 2 })
						if side == "job" {
							s.job.waitFor(`connected to relay localhost again`)
						} else {
							s.human.waitFor(`two reads without an answer`)
						}
						s.answered()
					} else {
						var once atomic.Bool
						way.judgeBy(func(f frame) verdict {
							// The first message that the answer makes.
							if (f.up && f.verb == wire.VerbAnswer || f.pushed(wire.HintAnswer)) && once.CompareAndSwap(false, true) {
								way.freezes(dir.up, dir.down)
							}
							return pass
						})
						if side == "job" && dir.up && !dir.down {
							s.answeredUnheard()
						} else {
							s.answered()
						}
						if !once.Load() {
							t.Error("the answer went by")
						}
					}
					if _, _, held := way.tally(); held == 0 {
						t.Error("nothing was held up")
					}
				}})
			}
		}
	}
	together(t, len(scenes), scenes)
}

// 1 KiB in a second and 300 ms for each message is worse than any network that a
// job is run on. It is slow, and it works.
func TestASlowNetworkIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newWays(t)
	var jobs []string
	s.jobs, jobs = s.tapped()
	for _, way := range []*tap{s.jobs, s.desks} {
		way.latency.Store(int64(300 * time.Millisecond))
		way.rate.Store(1 << 10)
	}
	began := time.Now()
	s.asksBy(jobs)
	s.answered()
	if took := time.Since(began); took < 3*time.Second {
		t.Errorf("that took %s, which is not slow", took)
	}
}
