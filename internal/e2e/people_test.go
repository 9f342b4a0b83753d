package e2e

// Two people for one code: one agrees, and another gives it.

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestOfTwoPeopleOneAgreesAndAnotherGivesTheCode(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.person("Ben") })
	ana, ben := w.humans[0], w.humans[1]
	both := ana.sign + "," + ben.sign
	w.writeConfig("    approvals: 2\n")
	if r := run(t, nil, "cfa-relay", "reload", "--config", w.config); r.code != 0 {
		t.Fatal("the relay does not take the file")
	}
	// The project's rule is the relay's, and says what to set.
	one := w.job("--output", "stdout", "--responders", both)
	if code := one.wait(); code != 77 {
		t.Errorf("one person is enough: exit code %d", code)
	}
	one.waitFor(`in this project 2 people must agree, and the request asks for 1`)
	one.waitFor("what to do: set the Action's input, or the orb's parameter, `approvals` to 2")

	first := w.listen(ana)
	job := w.job("--output", "stdout", "--approvals", "2", "--responders", both)
	job.waitFor(`warning: two people must agree, and 1 of 2 is on call`)
	first.waitFor(`#1 verified: example/rocket asks for your yes, for npm`)
	first.waitFor(`#1 people: 2 must agree`)
	first.waitFor(`#1 your turn: type 1, then the match code from the job's log, which is your yes; another person gives the code`)
	match := job.waitFor(`match code: +(\S+)`)[1]
	fmt.Fprintf(first.in, "1\n%s\n", match)
	job.waitFor(ana.sign + ` has agreed, 1 of 2; asking another person for the code`)
	first.waitFor(`#1 note: your yes is on record`)
	// Who has agreed is asked for nothing more, and can give nothing.
	fmt.Fprintln(first.in, "1")
	first.waitFor(`you have agreed to it, and another person must too`)
	// Nor after a restart, when it is the relay's record and the job that know.
	first.in.Close()
	first.signal(os.Interrupt)
	first.wait()
	first = w.listen(ana)
	first.waitFor(`this key has already agreed to it: another person must go on`)

	second := w.listen(ben)
	second.waitFor(`#1 again: one person has agreed, and another must give the code`)
	second.waitFor(`#1 people: 1 of 2 have agreed`)
	second.waitFor(`#1 your turn: type 1, then the code`)
	fmt.Fprintf(second.in, "1\n%s\n", testCode)
	if code := job.wait(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if got := job.out.String(); got != testCode+"\n" {
		t.Errorf("the job got %q", got)
	}
	job.waitFor(`answered by Ben`)
	// Both are on record, each with what they have signed.
	w.relay.waitFor(`what=answer .*outcome=pending`)
	w.relay.waitFor(`what=next .*attempt=2 outcome=pending`)
}

// cfa exec asks two people as cfa request does, and a code that was refused goes
// back to the one who has not agreed.
func TestACommandsCodeIsTwoPeoples(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.person("Ben") })
	ana, ben := w.humans[0], w.humans[1]
	tool := filepath.Join(w.dir, "tool")
	if err := os.WriteFile(tool, []byte("#!/bin/sh\ntest \"$TOOL_OTP\" = "+testCode+" || { echo 'bad code' >&2; exit 3; }\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	first, second := w.listen(ana), w.listen(ben)
	args := append([]string{"exec", "--project", project, "--env", "TOOL_OTP", "--refused", "bad code", "--format", "digits:6", "--retries", "2", "--approvals", "2", "--responders", ana.sign + " " + ben.sign}, w.flags...)
	j := start(t, w.issuer.GitHubEnv("release"), "cfa", append(args, "--", tool)...)
	match := j.waitFor(`match code: +(\S+)`)[1]
	second.waitFor(`#1 your turn`)
	fmt.Fprintf(second.in, "1\n%s\n", match)
	first.waitFor(`#1 again: one person has agreed, and another must give the code`)
	first.waitFor(`#1 your turn: type 1, then the code`)
	fmt.Fprintln(first.in, "1\n111111")
	first.waitFor(`#1 again: the last code was refused; this is attempt 3`)
	first.waitFor(`attempt 3[\s\S]*#1 your turn: type 1, then the code`)
	fmt.Fprintf(first.in, "1\n%s\n", testCode)
	if code := j.wait(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	if strings.Count(second.err.String()+second.out.String(), "#1 your turn") != 1 {
		t.Error("who has agreed was asked again")
	}
}

// Escalation, as the job's log and the second one's screen show it.
func TestAnotherIsAskedWhenTheFirstDoesNotAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.person("Ben") })
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	later := strings.Replace(string(text), "name: Ben,", "name: Ben, after: 3s,", 1)
	if err := os.WriteFile(w.config, []byte(later), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := run(t, nil, "cfa-relay", "reload", "--config", w.config); r.code != 0 {
		t.Fatal("the relay does not take the file")
	}
	first, second := w.listen(w.humans[0]), w.listen(w.humans[1])
	j := w.job("--output", "stdout")
	j.waitFor(`1 of 2 responders on call: Ana;`)
	first.waitFor(`#1 your turn`)
	if strings.Contains(second.out.String()+second.err.String(), "#1") {
		t.Error("the second one was asked at once")
	}
	j.waitFor(`nobody has answered for 3s; asking Ben too`)
	second.waitFor(`#1 your turn`)
	fmt.Fprintf(second.in, "1\n%s\n", testCode)
	if code := j.wait(); code != 0 || j.out.String() != testCode+"\n" {
		t.Fatalf("exit code %d", code)
	}
	first.waitFor(`#1 answered: Ben answered|#1 answered: the relay says that Ben answered|#1 over`)
}
