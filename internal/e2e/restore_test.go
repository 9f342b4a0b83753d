//go:build unix

package e2e

// A relay whose disk is gone, and what comes back from a backup of it: the record,
// and nothing that a human would be asked a second time for.

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/continuousauth/action/internal/devissuer"
)

func TestARelayComesBackFromABackup(t *testing.T) {
	t.Parallel()
	var bob *person
	w := newWorld(t, with(fmt.Sprintf("listen: {nats: %q}", freeAddress(t))), func(w *world) { bob = w.person("Bob") })
	// Each job is of a run of its own: a decline is of a whole run.
	job := func(name string) *process {
		t.Helper()
		w.issuer.AddJob(name, devissuer.GitHubClaims(repository, map[string]any{"run_id": name}))
		args := append([]string{"request", "--project", project, "--service", "npm", "--output", "stdout"}, w.flags...)
		return start(t, w.issuer.GitHubEnv(name), "cfa", args...)
	}
	h := w.listen(w.humans[0])
	say := func(lines string) {
		t.Helper()
		if _, err := io.WriteString(h.in, lines); err != nil {
			t.Fatal(err)
		}
	}
	ok := job("101")
	h.waitFor(`#1 your turn`)
	say("1\n" + testCode + "\n")
	if code := ok.wait(); code != 0 {
		t.Fatalf("cfa ended with %d", code)
	}
	declined := job("102")
	h.waitFor(`#2 your turn`)
	say("d2 not today\n")
	if code := declined.wait(); code != 80 {
		t.Fatalf("cfa ended with %d", code)
	}
	waits := job("103")
	h.waitFor(`#3 your turn`)

	relay := func(want int, args ...string) string {
		t.Helper()
		p := run(t, nil, "cfa-relay", args...)
		if p.code != want {
			t.Errorf("%q ended with %d, not %d", args, p.code, want)
		}
		return p.out.String() + p.err.String()
	}
	dir := t.TempDir()
	key, checkpoint, file := filepath.Join(dir, "audit.nk"), filepath.Join(dir, "checkpoint"), filepath.Join(dir, "cfa.backup")
	relay(0, "audit", "keygen", "--out", key)
	relay(0, "audit", "checkpoint", "--config", w.config, "--key", key, "--out", checkpoint)
	if text := relay(0, "backup", "--config", w.config, "--out", file); strings.Contains(text, "no relay runs") {
		t.Error("the backup was not made through the relay")
	}
	relay(69, "restore", "--config", w.config, file) // a relay runs
	backup, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}

	// What happens now is lost, though some know of it: another job has asked, and
	// the one that waits has seen the prompt go to Bob.
	after := job("104")
	after.waitFor(`request accepted`)
	h.waitFor(`#4 your turn`)
	w.listen(bob)
	waits.waitFor(`Bob.* shows the prompt`)
	w.relay.signal(syscall.SIGKILL)
	died(t, w.relay)
	data := filepath.Join(w.dir, "data")
	if err := os.Rename(data, filepath.Join(t.TempDir(), "gone")); err != nil {
		t.Fatal(err)
	}

	// A backup that is not whole makes no record, and a relay that finds none starts.
	broken := filepath.Join(dir, "broken.backup")
	backup[len(backup)/2] ^= 1
	if err := os.WriteFile(broken, backup, 0o600); err != nil {
		t.Fatal(err)
	}
	relay(65, "restore", "--config", w.config, broken)
	if _, err := os.Stat(filepath.Join(data, "store")); err == nil {
		t.Error("it has written something")
	}
	if text := relay(0, "restore", "--config", w.config, file); !strings.Contains(text, "restored; 1 request that was open is cancelled") {
		t.Error(text)
	}
	w.startRelay()

	// The job that waited hears of it, and so do its humans; the one that is not on
	// record is told to ask anew, and nobody is asked for it.
	if code := waits.wait(); code != 82 || !strings.Contains(waits.err.String(), "the relay cancelled the request: restored") {
		t.Errorf("the job that waited ended with %d", code)
	}
	if code := after.wait(); code != 77 || !strings.Contains(after.err.String(), "before this relay's record was restored") || !strings.Contains(after.err.String(), "run the job again") {
		t.Errorf("the job that the backup does not know ended with %d", code)
	}
	h.waitFor(`#3 over: .*restored`)
	// What a human has declined stays declined, what was done stays done.
	again := job("102")
	if code := again.wait(); code != 80 || !strings.Contains(again.err.String(), "not today") {
		t.Errorf("the run that was declined ended with %d", code)
	}
	list := relay(0, "audit", "list", "--config", w.config, "--format", "jsonl")
	for state, n := range map[string]int{`"outcome":"ok"`: 1, `"state":"declined"`: 1, `"why":"restored"`: 1} {
		if strings.Count(list, state) != n {
			t.Errorf("not %d with %s:\n%s", n, state, list)
		}
	}
	if text := relay(0, "audit", "verify", "--config", w.config, "--checkpoint", checkpoint); !strings.Contains(text, "restored at ") || !strings.Contains(text, "what was recorded after it is lost") {
		t.Error(text)
	}
	// And it works: another run asks, is answered, and gets its code.
	fresh := job("105")
	// What the backup does not know still stands in the responder, for some seconds: two
	// of one project, so that the match code is typed.
	match := fresh.waitFor(`[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}`)[0]
	h.waitFor(`#5 your turn: type 5, then the match code`)
	say("5\n" + match + "\n" + testCode + "\n")
	if code := fresh.wait(); code != 0 || fresh.out.String() != testCode+"\n" {
		t.Errorf("a new job ended with %d", code)
	}
	// No code went where it is kept.
	if data, err := os.ReadFile(file); err != nil || strings.Contains(string(data), testCode) {
		t.Errorf("the backup has a code in it (%v)", err)
	}
}
