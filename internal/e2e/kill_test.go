//go:build unix

package e2e

// Real programs, and kill -9 in the middle of a request: of the relay before and
// after each record that it writes, of the job, of the responder. What is left goes
// on by itself, and each request ends in one way that both sides hear of. Each case
// shows first that what it kills has died, there.

import (
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

var fragile struct {
	sync.Once
	path string
	err  error
}

// fragileRelay builds a relay that can be told where to die.
func fragileRelay(t *testing.T) string {
	t.Helper()
	fragile.Do(func() {
		fragile.path = filepath.Join(filepath.Dir(program(t, "cfa-relay")), "cfa-relay-fragile")
		out, err := exec.Command("go", "build", "-tags", "failpoints", "-o", fragile.path, "github.com/continuousauth/action/relay").CombinedOutput()
		if err != nil {
			fragile.err = fmt.Errorf("build: %w\n%s", err, out)
		}
	})
	if fragile.err != nil {
		t.Fatal(fragile.err)
	}
	return "cfa-relay-fragile"
}

// onPort is a world whose relay comes back at the address that it had, and dies at
// the failpoint.
func onPort(t *testing.T, failpoint string, opts ...option) *world {
	t.Helper()
	relay := fragileRelay(t)
	w := newWorld(t, append(opts, with(fmt.Sprintf("listen: {nats: %q}", freeAddress(t))))...)
	if failpoint != "" {
		w.relay.signal(syscall.SIGTERM)
		w.relay.wait()
		w.relay = start(t, []string{"CFA_FAILPOINT=" + failpoint}, relay, "serve", "--config", w.config)
		w.relay.waitFor(`serving`)
	}
	return w
}

// say types lines at a responder.
func say(t testing.TB, at *process, format string, args ...any) {
	t.Helper()
	if _, err := fmt.Fprintf(at.in, format, args...); err != nil {
		t.Fatal(err)
	}
}

// died waits for a process to be killed, and says if it ended otherwise.
func died(t *testing.T, p *process) {
	t.Helper()
	p.wait()
	if s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !s.Signaled() || s.Signal() != syscall.SIGKILL {
		t.Fatalf("%s ended by itself, with %d", p.name, p.code)
	}
}

func TestARelayThatIsKilledAtAnyRecordLosesNothingAndGivesNothingTwice(t *testing.T) {
	t.Parallel()
	for _, event := range []string{"asked", "opened", "answered", "got", "done", "declined", "cancelled"} {
		for _, when := range []string{"before", "after"} {
			at := when + " " + event
			t.Run(at, func(t *testing.T) {
				t.Parallel()
				w := onPort(t, at)
				h := w.listen(w.humans[0])
				j := w.job("--output", "stdout")
				say := func(lines string) {
					t.Helper()
					if _, err := io.WriteString(h.in, lines); err != nil {
						t.Fatal(err)
					}
				}
				back := func() {
					t.Helper()
					died(t, w.relay)
					if !strings.Contains(w.relay.err.String(), "failpoint: "+at) {
						t.Fatalf("the relay died elsewhere than %s", at)
					}
					w.startRelay()
				}
				if event == "asked" || event == "opened" {
					back()
				}
				h.waitFor(`#1 your turn`)
				switch event {
				case "declined":
					say("d1 not today\n")
					back()
				case "cancelled":
					j.signal(syscall.SIGTERM)
					back()
				default:
					say("1\n" + testCode + "\n")
					if event == "answered" || event == "got" || event == "done" {
						back()
					}
				}
				want := map[string]int{"declined": 80, "cancelled": 82}[event]
				if code := j.wait(); code != want {
					t.Errorf("cfa ended with %d, not %d", code, want)
				}
				// Once, and the right one; none where there was none.
				codes := testCode + "\n"
				if want != 0 {
					codes = ""
				}
				if got := j.out.String(); got != codes {
					t.Errorf("cfa wrote %q", got)
				}
				// Both sides hear of the one end.
				over := map[string]string{"declined": `#1 over: you declined: not today`, "cancelled": `#1 over: withdrawn`}[event]
				if over == "" {
					over = `#1 over: the relay says that the job (has what it asked for|is done)`
				}
				h.waitFor(over)
				if n := strings.Count(h.out.String(), "#1 over"); n != 1 {
					t.Errorf("the human heard of %d ends", n)
				}
				if strings.Contains(h.out.String(), "attempt 2") {
					t.Error("the human was asked a second time")
				}
				// And so it stands on record.
				story := map[string]string{"declined": "asked declined: declined", "cancelled": "asked cancelled: cancelled"}[event]
				if story == "" {
					story = "asked answered got done: done ok"
				}
				w.tells(story)
			})
		}
	}
}

// What a responder that dies has not sent is sent by nobody; whoever is on call
// answers instead.
func TestAResponderThatIsKilledWithACodeInItsHandsSendsNothing(t *testing.T) {
	t.Parallel()
	w := onPort(t, "before answered")
	h := w.listen(w.humans[0])
	j := w.job("--output", "stdout")
	h.waitFor(`#1 your turn`)
	if _, err := io.WriteString(h.in, "1\n111111\n"); err != nil {
		t.Fatal(err)
	}
	// The relay dies with the answer unwritten, and the responder before it can send
	// it again: typed, sealed, and nowhere.
	died(t, w.relay)
	h.waitFor(`#1 sealed`)
	h.signal(syscall.SIGKILL)
	died(t, h)
	w.startRelay()
	again := w.listen(w.humans[0])
	again.waitFor(`#1 your turn`)
	if _, err := io.WriteString(again.in, "1\n"+testCode+"\n"); err != nil {
		t.Fatal(err)
	}
	if code := j.wait(); code != 0 {
		t.Fatalf("cfa ended with %d", code)
	}
	if got := j.out.String(); got != testCode+"\n" {
		t.Errorf("cfa wrote %q", got)
	}
	again.waitFor(`#1 over`)
	w.tells("asked answered got done: done ok")
}
