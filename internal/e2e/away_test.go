package e2e

// Who is away, with the real programs: what the job's log says, who is asked in
// their place, and what the record has of it afterwards.

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// away runs cfa-responder away or back for somebody.
func (w *world) away(p *person, args ...string) *process {
	w.t.Helper()
	r := run(w.t, nil, "cfa-responder", append(append(args, "--key-file", p.keys), w.flags...)...)
	if r.code != 0 {
		w.t.Fatalf("%s: exit code %d", strings.Join(args, " "), r.code)
	}
	return r
}

func TestWhoIsAwayIsPassedOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.person("Ben") })
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	later := strings.Replace(string(text), "name: Ben,", "name: Ben, after: 20m,", 1)
	if err := os.WriteFile(w.config, []byte(later), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := run(t, nil, "cfa-relay", "reload", "--config", w.config); r.code != 0 {
		t.Fatal("the relay does not take the file")
	}
	ana, ben := w.humans[0], w.humans[1]
	first, second := w.listen(ana), w.listen(ben)
	first.waitFor(`connected to the relay`)
	second.waitFor(`connected to the relay`)

	// Where she listens: the next tier is asked at once, and its time is 20 minutes.
	fmt.Fprintln(first.in, "away 2h")
	first.waitFor(`away: until .*; new requests are not brought to you until then`)
	one := w.job("--output", "stdout")
	one.waitFor(`1 of 2 responders on call: Ben; Ana is away until \d+ \w+ \d\d:\d\d UTC;`)
	one.waitFor(`Ana is away until \d+ \w+ \d\d:\d\d UTC; asking the next tier now: Ben`)
	second.waitFor(`#1 your turn`)
	fmt.Fprintf(second.in, "1\n%s\n", testCode)
	if code := one.wait(); code != 0 || one.out.String() != testCode+"\n" {
		t.Fatalf("exit code %d", code)
	}
	if strings.Contains(first.out.String(), "#1") {
		t.Errorf("Ana was disturbed:\n%s", first.out.String())
	}

	// Both are, and the relay is restarted: the log says at once that nobody is on
	// call, and it waits.
	w.away(ben, "away", "--until", "3h").waitFor(`you are away until`)
	for _, r := range []*process{first, second} {
		r.signal(os.Interrupt)
		r.wait()
	}
	w.restart()
	first = w.listen(ana)
	first.waitFor(`away: until .*; new requests are not brought to you until then`)
	w.away(ana, "away").waitFor(`you are away until`)
	two := w.job("--output", "stdout")
	two.waitFor(`0 of 2 responders on call; Ana is away until .* UTC, Ben is away until .* UTC;`)
	two.waitFor(`nobody is on call \(2 could be\); Ana is away until .* UTC, Ben is away until .* UTC; waiting for one of them to start cfa-responder, or to be back`)
	w.away(ana, "back").waitFor(`you are not away`)
	two.waitFor(`1 of 2 responders on call: Ana; Ben is away until`)
	first.waitFor(`away: no longer; what waits is shown`)
	first.waitFor(`#1 your turn: type 1`)
	fmt.Fprintf(first.in, "1\n%s\n", testCode)
	if code := two.wait(); code != 0 || two.out.String() != testCode+"\n" {
		t.Fatalf("exit code %d", code)
	}

	list := run(t, nil, "cfa-relay", "audit", "list", "--config", w.config, "--events")
	list.waitFor(`away +until \S+Z +.* Ana `)
	list.waitFor(`away +until \S+Z +.* Ben `)
	list.waitFor(`back +.* Ana `)
	if v := run(t, nil, "cfa-relay", "audit", "verify", "--config", w.config); v.code != 0 {
		t.Error("the record does not verify")
	}
	status := run(t, nil, "cfa-relay", "status", "--config", w.config)
	status.waitFor(`"away":\[\{"name":"Ben","until":"`)
}

// Two people for one code, and one of them goes.
func TestALogSaysThatTooFewForTwoPeopleAreThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) { w.person("Ben") })
	ana, ben := w.humans[0], w.humans[1]
	for _, p := range w.humans {
		w.listen(p).waitFor(`connected to the relay`)
	}
	job := w.job("--output", "stdout", "--approvals", "2", "--responders", ana.sign+","+ben.sign)
	job.waitFor(`2 of 2 responders on call: Ana, Ben;`)
	w.away(ben, "away", "--until", "2h")
	job.waitFor(`warning: two people must agree, and 1 of 2 is on call: Ana; Ben is away until .* UTC; this waits for another to start cfa-responder, or to be back`)
	w.away(ben, "back")
	job.waitFor(`2 of 2 responders on call: Ana, Ben\n`)
	job.signal(os.Interrupt)
	job.wait()
}
