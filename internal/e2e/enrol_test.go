package e2e

// From a link to an answered prompt, and out again, with the real programs.

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// newcomer is somebody with nothing yet: no keys, no pins, no settings.
type newcomer struct {
	w    *world
	home string
}

func (w *world) newcomer(name string) *newcomer {
	return &newcomer{w, filepath.Join(w.dir, "home-"+name)}
}

// start runs cfa-responder with files of their own.
func (n *newcomer) start(args ...string) *process {
	n.w.t.Helper()
	return startIn(n.w.t, "", []string{"PATH=" + os.Getenv("PATH"), "HOME=" + n.home, "CFA_TEST_CODE=" + testCode, "CFA_SOCKET=" + filepath.Join(n.home, "s")}, "cfa-responder", args...)
}

func (n *newcomer) file(name string) string { return filepath.Join(n.home, ".config", "cfa", name) }

// invite gives a link.
func (w *world) invite(name string, args ...string) string {
	w.t.Helper()
	p := run(w.t, nil, "cfa-relay", append([]string{"invite", "--config", w.config, "--project", project, "--name", name}, args...)...)
	if p.code != 0 || !strings.HasPrefix(p.out.String(), "cfa-join:") || strings.Count(p.out.String(), "\n") != 1 {
		w.t.Fatalf("exit code %d: %s", p.code, p.out)
	}
	return strings.TrimSpace(p.out.String())
}

func (w *world) responders(args ...string) *process {
	w.t.Helper()
	return run(w.t, nil, "cfa-relay", append([]string{"responders", args[0], "--config", w.config}, args[1:]...)...)
}

const fingerprint = `\b[0-9A-HJKMNP-TV-Z]{4}(?:-[0-9A-HJKMNP-TV-Z]{4}){3}\b`

func TestFromAnInvitationToAnAnswerAndOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ben := w.newcomer("Ben")
	link := w.invite("Ben")

	// The human confirms what stands behind the project by their own knowledge; a
	// wrong word changes nothing.
	wrong := ben.start("join", "--in", "plain", link, "--confirm", "1234")
	if code := wrong.wait(); code != 64 || !strings.Contains(wrong.err.String(), "that is not the repository_id, so nothing was changed and nothing was sent") {
		t.Errorf("exit code %d", code)
	}
	if _, err := os.Stat(ben.home); err == nil {
		t.Error("something was written")
	}
	join := ben.start("join", "--in", "plain", "--confirm", w.claim("repository_id"))
	fmt.Fprintln(join.in, link)
	join.waitFor(`invited to the relay localhost \(nats://127\.0\.0\.1:\d+\), as Ben, to answer for the project rocket`)
	shown := join.waitFor(`(?m)^(` + fingerprint + `)$`)[1]
	join.waitFor(`Waiting for them to approve it`)
	list := w.responders("list")
	list.waitFor(`rocket +Ana +enrolled +file`)
	list.waitFor(`rocket +Ben +waiting +record +- +\S+Z +` + shown)

	if r := w.responders("approve", "Ben"); r.code != 64 || !strings.Contains(r.err.String(), "give --fingerprint") {
		t.Errorf("exit code %d", r.code)
	}
	if r := w.responders("approve", "Ben", "--fingerprint", "AAAA-AAAA-AAAA-AAAA"); r.code != 1 || !strings.Contains(r.err.String(), "somebody else may have used the invitation") {
		t.Errorf("exit code %d", r.code)
	}
	sign := w.responders("approve", "Ben", "--fingerprint", strings.ToLower(shown)).waitFor(`Ben answers for rocket now; signing key, .*: (A[A-Z2-7]{55})`)[1]
	if code := join.wait(); code != 0 || !strings.HasSuffix(join.out.String(), "\n"+sign+"\n") {
		t.Fatalf("exit code %d", code)
	}
	// A second comes by the same link.
	if p := w.newcomer("Eve").start("join", "--in", "plain", link, "--confirm", w.claim("repository_id")); p.wait() != 77 || !strings.Contains(p.err.String(), "somebody else has read the link") {
		t.Errorf("exit code %d", p.code)
	}

	// All that is needed is there: one command, without a flag.
	background := ben.start("run")
	background.waitFor(`cfa-responder list shows what waits`)
	// In the repository there is a file of whose answers count.
	pinned := filepath.Join(w.dir, "responders")
	if err := os.WriteFile(pinned, []byte("# ours\n"+w.humans[0].sign+" Ana\n"+sign+" Ben\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	job := w.job("--output", "stdout", "--responders", pinned)
	job.waitFor(`1 of 2 responders on call: Ben`)
	var id string
	for id == "" {
		p := ben.start("list")
		p.wait()
		if m := regexp.MustCompile(`(?m)^#?(\d+) `).FindStringSubmatch(p.out.String()); m != nil && strings.Contains(p.out.String(), project) {
			id = m[1]
		}
	}
	answer := ben.start("answer", id)
	fmt.Fprintln(answer.in, testCode)
	if code := job.wait(); code != 0 || job.out.String() != testCode+"\n" {
		t.Fatalf("exit code %d", code)
	}
	background.signal(os.Interrupt)
	background.wait()

	// Enrolled over a restart, and out within seconds.
	w.restart()
	listening := ben.start(append([]string{"listen"}, w.flags...)...)
	listening.waitFor(`connected to the relay`)
	w.responders("list").waitFor(`rocket +Ben +enrolled +record +yes`)
	gone := w.responders("remove", "Ben")
	gone.waitFor(`Ben is removed from rocket; workflows that pin ` + sign + ` still take its word`)
	listening.waitFor(`does not let this responder in any more`)
	if r := w.responders("remove", "Ana"); r.code != 1 || !strings.Contains(r.err.String(), "stands in the relay's file, which wins") {
		t.Errorf("exit code %d", r.code)
	}

	events := run(t, nil, "cfa-relay", "audit", "list", "--config", w.config, "--events")
	for _, e := range []string{`invited +until \S+Z +rocket .* Ben `, `joined +until \S+Z +rocket .* Ben `, `enrolled .*rocket .* Ben `, `removed .*rocket .* Ben `} {
		events.waitFor(e)
	}
	if v := run(t, nil, "cfa-relay", "audit", "verify", "--config", w.config); v.code != 0 {
		t.Error("the record does not verify")
	}
	if text := w.relay.err.String() + w.relay.out.String(); regexp.MustCompile(`\bS[UAX][A-Z2-7]{56}\b|cfa-join:`).MatchString(text) {
		t.Error("the relay's log has a secret")
	}
}

// A workflow that pins a key takes the answers of the one that it vouches for, and so
// does who checks a receipt years later.
func TestAKeyIsRotatedAndTheWorkflowStaysAsItIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ben := w.newcomer("Ben")
	join := ben.start("join", "--in", "plain", w.invite("Ben"), "--confirm", w.claim("repository_id"))
	shown := join.waitFor(`(?m)^(` + fingerprint + `)$`)[1]
	old := w.responders("approve", "Ben", "--fingerprint", shown).waitFor(`: (A[A-Z2-7]{55})`)[1]
	if code := join.wait(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for range 2 { // and once more, over both
		rotate := ben.start("rotate")
		rotate.waitFor(`localhost: takes the new key`)
		if code := rotate.wait(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		if again := ben.start("rotate", "--again"); again.wait() != 0 || again.out.String() != rotate.out.String() {
			t.Errorf("exit code %d", again.code)
		}
	}
	w.restart()
	listening := ben.start(append([]string{"listen"}, w.flags...)...)
	listening.waitFor(`connected to the relay`)
	now := ben.start("keys")
	now.waitFor(`sign: (A[A-Z2-7]{55})\n  former: \[` + old + `, A[A-Z2-7]{55}\]`)
	sign := now.waitFor(`sign: (A[A-Z2-7]{55})`)[1]
	if sign == old {
		t.Fatal("the key is the same")
	}

	job := w.job("--output", "stdout", "--responders", old)
	job.waitFor(`1 of 1 responders on call: Ben`)
	listening.waitFor(`#1 your turn: type 1`)
	fmt.Fprintf(listening.in, "1\n%s\n", testCode)
	if code := job.wait(); code != 0 || job.out.String() != testCode+"\n" {
		t.Fatalf("exit code %d", code)
	}
	artifact, receipt := filepath.Join(w.dir, "artifact"), filepath.Join(w.dir, "receipt")
	if err := os.WriteFile(artifact, []byte("bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := start(t, w.issuer.GitHubEnv("release"), "cfa", append([]string{"approve", "--project", project, "--artifact", artifact, "--responders", old, "--receipt", receipt}, w.flags...)...)
	match := a.waitFor(`match code:\s+(\S+)`)[1]
	listening.waitFor(`#2 your turn`)
	fmt.Fprintf(listening.in, "2\n%s\n", match)
	if code := a.wait(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	for key, want := range map[string]int{old: 0, sign: 0, w.humans[0].sign: 77} {
		if v := run(t, nil, "cfa", "verify-receipt", receipt, "--key", key, "--artifact", artifact); v.code != want {
			t.Errorf("checked with %s: exit code %d", key, v.code)
		}
	}
	if v := run(t, nil, "cfa-relay", "audit", "verify", "--config", w.config); v.code != 0 {
		t.Error("the record does not verify")
	}
	// Whom the file names, its administrator changes.
	ana := run(t, nil, "cfa-responder", append([]string{"rotate", "--key-file", w.humans[0].keys}, w.flags...)...)
	if ana.code != 77 || !strings.Contains(ana.err.String(), "stands in the relay's file, which its administrator changes; give them the lines that `cfa-responder keys` prints") {
		t.Errorf("exit code %d", ana.code)
	}
}

// A relay with a certificate of its own is known by what the invitation holds.
func TestAnInvitationBringsTheRelaysCertificate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(w *world) {
		certificate(w.t, w.dir, "")
		w.top += "tls: {cert: ca.pem, key: key.pem}\nlisten: {nats: \"127.0.0.1:0\", websocket: \"127.0.0.1:0\"}\n"
	})
	for name, url := range map[string]string{"tls": w.url, "wss": w.wss} {
		t.Run(name, func(t *testing.T) {
			n := w.newcomer("Cleo " + name)
			at := regexp.MustCompile(`127\.0\.0\.1|localhost`).ReplaceAllString(url, "localhost")
			join := n.start("join", "--in", "plain", w.invite("Cleo "+name, "--url", at, "--qr"), "--confirm", w.claim("repository_id"), "--no-wait")
			if code := join.wait(); code != 0 {
				t.Fatalf("exit code %d", code)
			}
			own, err := os.ReadFile(n.file("relay-localhost.pem"))
			if err != nil {
				t.Fatal(err)
			}
			if served, err := os.ReadFile(filepath.Join(w.dir, "ca.pem")); err != nil || string(served) != string(own) {
				t.Errorf("another certificate was kept: %v", err)
			}
			w.responders("approve", "Cleo "+name, "--fingerprint", strings.TrimSpace(join.out.String())).waitFor(`answers for rocket now`)
			background := n.start("run")
			background.waitFor(`cfa-responder list shows what waits`)
			w.responders("list") // whoever is not connected yet is not listed as such
			job := w.job("--output", "stdout")
			job.waitFor(`on call: .*Cleo ` + name)
			job.signal(os.Interrupt)
			job.wait()
			background.signal(os.Interrupt)
			background.wait()
			w.claims["run_attempt"] = name
		})
	}
}
