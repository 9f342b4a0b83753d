//go:build unix && clients

package e2e

// kill -9, where it takes real minutes: of the relay at the records that time
// makes, at those of two people, of codes that are refused and of what is noted
// beside the requests; of the job at each of its own steps. How each ended is read
// from the relay's record.

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/wire"
)

// fatal is a world whose relay dies at a failpoint, and what its test needs.
type fatal struct {
	*world
	t  *testing.T
	at string
	// ana is the first person's responder.
	ana *process
	// story is what must be on record in the end.
	story string
}

// back waits for the relay to die where it was told to, and starts another.
func (f *fatal) back() {
	f.t.Helper()
	died(f.t, f.relay)
	if !strings.Contains(f.relay.err.String(), "failpoint: "+f.at) {
		f.t.Fatalf("the relay died elsewhere than %s", f.at)
	}
	f.startRelay()
}

// ends waits for the job's end and holds what it wrote against it.
func (f *fatal) ends(j *process, code int, out string) {
	f.t.Helper()
	if got := j.wait(); got != code {
		f.t.Errorf("cfa ended with %d, not %d", got, code)
	}
	if got := j.out.String(); got != out {
		f.t.Errorf("cfa wrote %q", got)
	}
}

// execs starts cfa exec with a tool that takes testCode and no other.
func (f *fatal) execs(args ...string) *process {
	f.t.Helper()
	tool := filepath.Join(f.dir, "tool")
	if err := os.WriteFile(tool, []byte("#!/bin/sh\ntest \"$TOOL_OTP\" = "+testCode+" || { echo 'bad code' >&2; exit 3; }\necho run >>\"$0.good\"\n"), 0o700); err != nil {
		f.t.Fatal(err)
	}
	all := append([]string{"exec", "--project", project, "--env", "TOOL_OTP", "--refused", "bad code", "--format", "digits:6", "--retries", "3"}, f.flags...)
	return start(f.t, f.issuer.GitHubEnv("release"), "cfa", append(append(all, args...), "--", tool)...)
}

// ran is how often the tool took its code.
func (f *fatal) ran() int {
	data, _ := os.ReadFile(filepath.Join(f.dir, "tool.good"))
	return strings.Count(string(data), "run")
}

// deaths are the records at which a relay is killed here, each with a request
// that brings them about and what is on record in the end.
var deaths = []struct {
	what   string
	people int // who are enrolled beside Ana
	plays  func(f *fatal)
	story  string
}{
	{"lost", 0, func(f *fatal) {
		j := f.job("--output", "stdout")
		f.ana.waitFor(`#1 your turn`)
		j.signal(syscall.SIGKILL)
		died(f.t, j)
		f.patient(f.relay)
		f.back()
		f.patient(f.ana).waitFor(`#1 over: the relay says that the job is gone`)
	}, "asked lost: cancelled"},
	{"undelivered", 0, func(f *fatal) {
		// A job that is asleep: its runner is, and its connection stays.
		j := f.job("--output", "stdout")
		f.ana.waitFor(`#1 your turn`)
		j.stops()
		say(f.t, f.ana, "1\n%s\n", testCode)
		f.patient(f.relay)
		f.back()
		f.ana.waitFor(`#1 note: your answer did not reach the job in time and is thrown away; it asks anew`)
		j.signal(syscall.SIGCONT)
		// If the answer still waits in its connection it takes it, and if it was
		// lost with the relay it needs another.
		code := testCode
		if f.ana.waitFor(`asks anew[\s\S]*#1 (your turn|over)`)[1] == "your turn" {
			f.story = "asked answered undelivered answered got done: done ok"
			code = "222222"
			say(f.t, f.ana, "1\n%s\n", code)
		}
		f.ends(j, 0, code+"\n")
		f.ana.waitFor(`#1 over: the relay says that the job (has what it asked for|is done)`)
	}, "asked answered undelivered got done: done ok"},
	{"expired", 0, func(f *fatal) {
		j := f.job("--output", "stdout", "--timeout", "6s")
		f.ana.waitFor(`#1 your turn`)
		// Alive it would withdraw the request itself.
		j.signal(syscall.SIGKILL)
		died(f.t, j)
		f.back()
		f.ana.waitFor(`#1 over: nobody answered in time`) // by her own clock, too
		if f.at == "before expired" {
			f.relay.waitFor(`what=clock .*outcome=expired`)
		}
	}, "asked expired: expired"},
	{"rejected", 0, func(f *fatal) {
		j := f.execs()
		f.ana.waitFor(`#1 your turn`)
		say(f.t, f.ana, "1\n111111\n")
		f.back()
		f.ana.waitFor(`#1 again: the last code was refused; this is attempt 2`)
		f.ana.waitFor(`attempt 2[\s\S]*#1 your turn`)
		say(f.t, f.ana, "1\n%s\n", testCode)
		f.ends(j, 0, "")
		if f.ran() != 1 {
			f.t.Errorf("the tool took a code %d times", f.ran())
		}
		f.ana.waitFor(`#1 over: `)
	}, "asked answered got rejected answered got done: done ok"},
	{"approved", 1, twoPeople, "asked approved next answered got done: done ok"},
	{"next", 1, twoPeople, "asked approved next answered got done: done ok"},
	{"approved", 0, func(f *fatal) { // the last yes, which is the end
		kept := filepath.Join(f.dir, "receipt.jsonl")
		j := f.approve(nil, "--message", "publish 1.2.3", "--responders", f.humans[0].sign, "--receipt", kept)
		f.ana.waitFor(`#1 your turn`)
		say(f.t, f.ana, "1\n%s\n", j.waitFor(`match code: +(\S+)`)[1])
		f.back()
		f.ends(j, 0, "")
		f.ana.waitFor(`#1 over: the relay says that it is approved`)
		if p := run(f.t, nil, "cfa", "verify-receipt", "--key", f.humans[0].sign, kept); p.code != 0 {
			f.t.Errorf("the receipt is refused with %d", p.code)
		}
	}, "asked approved: done ok"},
	{"note declined", 0, func(f *fatal) {
		j := f.job("--output", "stdout")
		f.ana.waitFor(`#1 your turn`)
		say(f.t, f.ana, "d1 not today\n")
		f.back()
		f.ends(j, 80, "")
		f.ana.waitFor(`#1 over: you declined: not today`)
		// The run stays declined, though the relay had not said so when it died.
		again := f.job("--output", "stdout")
		f.ends(again, 80, "")
		again.waitFor(`Ana declined what this run asked`)
	}, "asked declined: declined"},
	{"note refused", 0, func(f *fatal) {
		f.issuer.AddJob("stranger", devissuer.GitHubClaims("stranger/thing", nil))
		args := append([]string{"request", "--project", project, "--output", "stdout"}, f.flags...)
		stranger := start(f.t, f.issuer.GitHubEnv("stranger"), "cfa", args...)
		f.back()
		f.ends(stranger, 77, "")
		j := f.job("--output", "stdout")
		f.ana.waitFor(`#1 your turn`)
		say(f.t, f.ana, "1\n%s\n", testCode)
		f.ends(j, 0, testCode+"\n")
		f.ana.waitFor(`#1 over: `)
	}, "asked answered got done: done ok"},
}

// twoPeople lets Ana agree and Ben give the code, and the relay die on the way.
func twoPeople(f *fatal) {
	ana, ben := f.humans[0], f.humans[1]
	second := f.listen(ben)
	j := f.job("--output", "stdout", "--approvals", "2", "--responders", ana.sign+","+ben.sign)
	f.ana.waitFor(`#1 your turn`)
	say(f.t, f.ana, "1\n%s\n", j.waitFor(`match code: +(\S+)`)[1])
	f.back()
	second.waitFor(`#1 again: one person has agreed, and another must give the code`)
	second.waitFor(`again: one person[\s\S]*#1 your turn: type 1, then the code`)
	say(f.t, second, "1\n%s\n", testCode)
	f.ends(j, 0, testCode+"\n")
	for _, h := range []*process{f.ana, second} {
		h.waitFor(`#1 over: `)
	}
}

// stops puts a process to sleep, and waits until all of it is.
func (p *process) stops() {
	p.t.Helper()
	p.signal(syscall.SIGSTOP)
	for deadline := time.Now().Add(within); ; {
		out, err := exec.Command("ps", "-o", "state=", "-p", strconv.Itoa(p.cmd.Process.Pid)).Output()
		if err == nil && strings.HasPrefix(strings.TrimSpace(string(out)), "T") {
			return
		}
		if time.Now().After(deadline) {
			p.t.Fatalf("%s does not stop: %s, %v", p.name, out, err)
		}
		time.Sleep(10 * time.Millisecond) // nothing announces it
	}
}

// patient lets a process be waited for as long as the relay's clock takes for a
// job that is gone: it starts anew with the relay.
func (f *fatal) patient(p *process) *process {
	p.within = longWithin
	return p
}

func TestARelayThatIsKilledAtTheOtherRecordsLosesNothingEither(t *testing.T) {
	t.Parallel()
	fragileRelay(t)
	var scenes []scene
	for _, d := range deaths {
		for _, when := range []string{"before", "after"} {
			at := when + " " + d.what
			scenes = append(scenes, scene{fmt.Sprintf("%s, %s", at, d.story), func(t *testing.T) {
				var others []option
				for range d.people {
					others = append(others, func(w *world) { w.person("Ben") })
				}
				f := &fatal{world: onPort(t, at, others...), t: t, at: at, story: d.story}
				f.ana = f.listen(f.humans[0])
				d.plays(f)
				e := f.tells(f.story)
				// A refusal is written after it was said, so one that is not written
				// yet is lost with its relay; a job that had not heard it asks again.
				if most, ok := map[string]int{"before note refused": 1, "after note refused": 2}[at]; ok {
					if n := len(e.refusals); n > most || n < most-1 {
						t.Errorf("%d refusals are on record", n)
					}
				}
				if want := map[string]int{"note declined": 1}[d.what]; e.notes["declined"] != want {
					t.Errorf("%d notes of declined runs are on record", e.notes["declined"])
				}
			}})
		}
	}
	together(t, 8, scenes)
}

// tapped puts a tap before the relay, on the way of whoever uses the flags that
// it gives.
func (w *world) tapped() (*tap, []string) {
	w.t.Helper()
	p := newTap(w.t, newBell(), strings.TrimPrefix(w.url, "nats://"))
	return p, []string{"--relay", "nats://" + p.listener.Addr().String(), "--relay-name", "localhost"}
}

// jobBy starts cfa request on that way.
func (w *world) jobBy(flags []string, args ...string) *process {
	w.t.Helper()
	all := append([]string{"request", "--project", project, "--service", "npm", "--output", "stdout"}, flags...)
	return start(w.t, w.issuer.GitHubEnv("release"), "cfa", append(all, args...)...)
}

func TestAJobThatIsKilledAtAnyStepLeavesOneEnd(t *testing.T) {
	t.Parallel()
	program(t, "cfa")
	const gone = `#1 over: the relay says that the job is gone`
	var scenes []scene
	for _, tc := range []struct {
		name  string
		at    func(f frame) bool // the message at which it dies, which is lost
		types bool               // the human answers
		hears string             // at last, by the responder
		story string             // ": " alone: nothing is on record
	}{
		{"before it is accepted", func(f frame) bool { return f.up && f.verb == wire.VerbRequest }, false, "", ": "},
		{"before it hears that it is accepted", func(f frame) bool { return f.reply && f.verb == wire.VerbRequest }, false, "#1 over: ", "asked lost: cancelled"},
		{"while it waits", func(f frame) bool { return f.up && f.verb == wire.VerbAlive }, false, "#1 over: ", "asked lost: cancelled"},
		{"with the code on its way to it", func(f frame) bool { return f.pushed(wire.HintAnswer) }, true, gone, "asked answered undelivered lost: cancelled"},
		{"with the code, before it says so", func(f frame) bool { return f.up && f.verb == wire.VerbGot }, true, gone, "asked answered undelivered lost: cancelled"},
		{"with the code, before it is done", func(f frame) bool { return f.up && f.verb == wire.VerbDone }, true, "#1 over: the relay says that the job has what it asked for, and was not heard of again", "asked answered got lost: done unknown"},
	} {
		scenes = append(scenes, scene{tc.name, func(t *testing.T) {
			w := newWorld(t)
			h := w.listen(w.humans[0])
			h.within = longWithin
			way, flags := w.tapped()
			var once sync.Once
			at := make(chan struct{})
			begun := make(chan *process, 1)
			way.judgeBy(func(f frame) verdict {
				v := pass
				if tc.at(f) {
					once.Do(func() {
						j := <-begun
						_ = j.cmd.Process.Signal(syscall.SIGKILL)
						<-j.done
						close(at)
						v = lose
					})
				}
				return v
			})
			j := w.jobBy(flags)
			begun <- j
			if tc.types {
				h.waitFor(`#1 your turn`)
				say(t, h, "1\n%s\n", testCode)
			}
			select {
			case <-at:
			case <-t.Context().Done():
			}
			died(t, j)
			if tc.hears == "" {
				if e := w.ended(); len(e.histories) != 0 {
					t.Errorf("on record is %q", e.histories[0].story())
				}
				return
			}
			h.waitFor(tc.hears)
			w.tells(tc.story)
			// Who has a code hands it over at once: what the relay knows of that is
			// not worth the half minute that a code lives.
			if got := j.out.String(); got != "" && !(strings.HasPrefix(tc.name, "with the code,") && got == testCode+"\n") {
				t.Errorf("cfa wrote %q", got)
			}
		}})
	}
	together(t, len(scenes), scenes)
}
