//go:build clients && linux

package keyring

// The responder with its keys in the real GNOME Keyring.

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"filippo.io/age/armor"

	"github.com/continuousauth/action/internal/answer/answertest"
)

// responder builds the program.
func responder(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "cfa-responder")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/continuousauth/action/responder").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

func TestAResponderKeepsItsKeysInTheKeyringAndWaitsForIt(t *testing.T) {
	t.Parallel()
	program := responder(t)
	s := newSession(t)
	bus := s.withBus(true)
	s.withKeyring(bus)
	home := t.TempDir()
	s.env = append(s.env, "XDG_CONFIG_HOME="+home, "USER=ada")
	dir := filepath.Join(home, "cfa")
	run := func(stdin string, args ...string) (out, complaint string, code int) {
		t.Helper()
		var stdout, stderr bytes.Buffer
		cmd := exec.Command(program, args...)
		cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = s.env, strings.NewReader(stdin), &stdout, &stderr
		_ = cmd.Run()
		return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	}
	enrolment, complaint, code := run("", "keygen")
	if code != 0 || !strings.Contains(complaint, "in the system's keyring") {
		t.Fatalf("keygen: %d %s", code, complaint)
	}
	private := regexp.MustCompile(`S[UA][A-Z2-7]{56}`)
	file, err := os.ReadFile(filepath.Join(dir, "responder.key"))
	if err != nil {
		t.Fatal(err)
	}
	sign := regexp.MustCompile(`\bA[A-Z2-7]{55}\b`).FindString(enrolment)
	if private.Match(file) || private.MatchString(enrolment+complaint) || !bytes.Contains(file, []byte("in: keyring\n")) || !bytes.Contains(file, []byte(sign)) {
		t.Fatalf("the file:\n%s", file)
	}
	// And there they are, under the name that documents give.
	if tool, err := exec.LookPath("secret-tool"); err == nil {
		cmd := exec.Command(tool, "lookup", "service", "cfa-responder", "username", sign)
		cmd.Env = s.env
		if out, err := cmd.Output(); err != nil || len(private.FindAll(out, -1)) != 2 {
			t.Errorf("secret-tool finds no two keys (%v)", err)
		}
	}

	relay, err := answertest.Listen("relay.test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(relay.Close)
	relay.Enrol(regexp.MustCompile(`\bU[A-Z2-7]{55}\b`).FindString(enrolment), "ada")
	if err := os.WriteFile(filepath.Join(dir, "responder.yaml"), fmt.Appendf(nil, "relays: [{url: %q, name: relay.test}]\nask: []\n", relay.URL()), 0o600); err != nil {
		t.Fatal(err)
	}

	lock(t, bus)
	// What is public can be seen all the same; what is not says what to do.
	if again, complaint, code := run("", "keys"); code != 0 || again != enrolment {
		t.Errorf("keys: %d %s %s", code, again, complaint)
	}
	for _, args := range [][]string{{"listen"}, {"keys", "move", "--to", "plain"}} {
		if _, complaint, code := run("", args...); code != 75 || !strings.Contains(complaint, "keyring, which is locked, and nobody unlocked it") || !strings.Contains(complaint, "Unlock it on your desktop") {
			t.Errorf("%s with a locked keyring: %d %s", args[0], code, complaint)
		}
	}
	background := exec.Command(program, "run")
	background.Env = s.env
	said, err := background.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := background.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = background.Process.Kill(); _ = background.Wait() })
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		for l := bufio.NewScanner(said); l.Scan(); {
			lines <- l.Text()
		}
	}()
	waits := func(want string) {
		t.Helper()
		timer := time.NewTimer(time.Minute)
		defer timer.Stop()
		for {
			select {
			case line, ok := <-lines:
				if !ok {
					t.Fatalf("it ended without %q", want)
				}
				if strings.Contains(line, want) {
					return
				}
			case <-timer.C:
				t.Fatalf("it never said %q", want)
			}
		}
	}
	waits("keys are locked (the keyring is locked); cfa-responder unlock hands them over")
	if out, _, code := run("", "status"); code != 0 || !strings.Contains(out, "locked    the keyring is locked") {
		t.Errorf("status: %d %s", code, out)
	}
	if _, complaint, code := run("", "unlock"); code != 75 || !strings.Contains(complaint, "nobody unlocked it") {
		t.Errorf("unlock without a window: %d %s", code, complaint)
	}
	unlock(t, bus) // as a login does; nobody tells the program
	waits("connected to the relay")

	// Its own memory has what it needs: the keyring may be locked again.
	lock(t, bus)
	if out, _, code := run("", "status"); code != 0 || !strings.Contains(out, "connected since") {
		t.Errorf("status: %d %s", code, out)
	}
	unlock(t, bus)

	// Out of the keyring, nothing stays in it.
	if _, complaint, code := run("", "keys", "move", "--to", "plain"); code != 0 {
		t.Errorf("move: %d %s", code, complaint)
	}
	if said := s.does("", "look"); said != "fine|" {
		t.Errorf("look: %s", said)
	}
	if tool, err := exec.LookPath("secret-tool"); err == nil {
		cmd := exec.Command(tool, "lookup", "service", "cfa-responder", "username", sign)
		cmd.Env = s.env
		if out, _ := cmd.Output(); len(out) != 0 {
			t.Error("the keys are still in the keyring")
		}
	}
	// Behind a passphrase, each try costs what it should.
	words := filepath.Join(home, "words")
	if err := os.WriteFile(words, []byte("correct horse battery"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.env = append(s.env, "CFA_PASSPHRASE_FILE="+words)
	if _, complaint, code := run("", "keys", "move", "--to", "file"); code != 0 {
		t.Errorf("move behind a passphrase: %d %s", code, complaint)
	}
	if file, err = os.ReadFile(filepath.Join(dir, "responder.key")); err != nil {
		t.Fatal(err)
	}
	header, err := io.ReadAll(io.LimitReader(armor.NewReader(bytes.NewReader(file[max(0, bytes.Index(file, []byte(armor.Header))):])), 200))
	if err != nil || !regexp.MustCompile(`(?m)^-> scrypt \S+ 18$`).Match(header) {
		t.Errorf("sealed as %q (%v)", header, err)
	}
	// And back in, the file is wiped: see the responder's own tests.
	if _, complaint, code := run("", "keys", "move", "--to", "keyring"); code != 0 {
		t.Errorf("move back: %d %s", code, complaint)
	}
	if again, complaint, code := run("", "keys"); code != 0 || again != enrolment {
		t.Errorf("keys: %d %s %s", code, again, complaint)
	}

	// Who removes them from the keyring is told that it was not the relay.
	cmd := exec.Command("keyring-probe", "60s", "remove", sign)
	cmd.Env = s.env
	if out, err := cmd.CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "fine") {
		t.Fatalf("%v %s", err, out)
	}
	if _, complaint, code := run("", "keys", "move", "--to", "plain"); code != 64 || !strings.Contains(complaint, "are not there any more") {
		t.Errorf("without them: %d %s", code, complaint)
	}
	// Over ssh the session's keyring is out of reach.
	s.env = append(s.env, "DBUS_SESSION_BUS_ADDRESS=unix:path="+filepath.Join(home, "nothing"))
	if _, complaint, code := run("", "keys", "move", "--to", "plain"); code != 75 || !strings.Contains(complaint, "this session does not reach it") {
		t.Errorf("without a session: %d %s", code, complaint)
	}
}
