package main

// Keys that a passphrase seals: at a terminal, at a boot without a human, and
// handed over later.

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creack/pty"

	"github.com/continuousauth/action/internal/wire"
)

const passphrase = "correct horse battery"

// passphraseFile has the passphrase in a file that only its owner can read.
func passphraseFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// seal moves the scene's keys behind the passphrase.
func (s *scene) seal() {
	s.t.Helper()
	cmd := exec.Command("cfa-responder", "keys", "move", "--to", "file", "--key-file", s.keys())
	cmd.Env = append(os.Environ(), "CFA_PASSPHRASE_FILE="+passphraseFile(s.t, passphrase))
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%v\n%s", err, out)
	}
}

// seeds are the scene's private keys.
func (s *scene) seeds() [][]byte {
	s.t.Helper()
	k, err := loadKeys(s.t.Context(), keyStore{path: s.keys()})
	if err != nil {
		s.t.Fatal(err)
	}
	connect, err1 := k.connect.Seed()
	sign, err2 := k.sign.Seed()
	if err1 != nil || err2 != nil {
		s.t.Fatal(err1, err2)
	}
	return [][]byte{connect, sign}
}

// starts starts the background program as a boot does, whatever becomes of it.
func (s *scene) starts(env ...string) *player {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "cfa")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { os.RemoveAll(dir) })
	s.socket = filepath.Join(dir, "s")
	file := filepath.Join(s.dir, "responder.yaml")
	text := "relays: [{url: \"" + s.relay.URL() + "\", name: " + relayName + "}]\nask: []\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command("cfa-responder", "run", "--settings", file, "--key-file", s.keys(), "--pins", s.pins(), "--socket", s.socket, "--log", s.logs())
	cmd.Env = append(os.Environ(), env...)
	return s.piped(cmd)
}

// at gives the state that the background program tells.
func (s *scene) at() (st state) {
	s.t.Helper()
	out, complaint, code := s.says("", "status", "--json")
	if err := json.Unmarshal([]byte(out), &st); err != nil || code != 0 {
		s.t.Fatalf("status: %d %v %s%s", code, err, out, complaint)
	}
	return st
}

func TestABootWithoutAHumanWaitsForTheKeys(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	seeds := s.seeds()
	s.seal()
	p := s.starts()
	at := p.waits(0, "the background program's keys are locked (the keys in "+s.keys()+" are sealed, and nobody gave the passphrase); cfa-responder unlock hands them over")
	if st := s.at(); !strings.Contains(st.Locked, "nobody gave the passphrase") || st.PID != p.cmd.Process.Pid {
		t.Errorf("status: %+v", st)
	}
	if out, _, code := s.says("", "status"); code != 0 || !strings.Contains(out, "locked    ") || !strings.Contains(out, "cfa-responder unlock") {
		t.Errorf("status: %d %s", code, out)
	}
	for _, do := range [][]string{{"list"}, {"decline", "1"}, {"listen"}, {"away", "--until", "2h"}} {
		if _, complaint, code := s.says("", do...); code != exitLocked || !strings.Contains(complaint, "cfa-responder unlock") {
			t.Errorf("%s: %d %s", do[0], code, complaint)
		}
	}

	// Neither a wrong passphrase nor somebody else's keys open it.
	unlock := []string{"unlock", "--key-file", s.keys()}
	if _, complaint, code := s.says("not the passphrase\n", unlock...); code != exitLocked || !strings.Contains(complaint, "the passphrase on standard input is wrong") {
		t.Errorf("a wrong passphrase: %d %s", code, complaint)
	}
	if _, complaint, code := s.says("", unlock...); code != exitLocked || !strings.Contains(complaint, "write it to standard input") {
		t.Errorf("no passphrase: %d %s", code, complaint)
	}
	other := filepath.Join(s.dir, "other.key")
	s.run("keygen", "--key-file", other)
	if _, complaint, code := s.says("", "unlock", "--key-file", other); code == 0 || !strings.Contains(complaint, "not the keys that the background program's key file names") {
		t.Errorf("another's keys: %d %s", code, complaint)
	}
	if st := s.at(); st.Locked == "" {
		t.Fatal("it is not locked any more")
	}

	if _, complaint, code := s.says(passphrase+"\n", unlock...); code != 0 || !strings.Contains(complaint, "has its keys") {
		t.Fatalf("unlock: %d %s", code, complaint)
	}
	p.waits(at, "connected to the relay")
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	until(t, func() bool { out, _, _ := s.says("", "list"); return strings.Contains(out, "#1") })
	if _, complaint, code := s.says("493817\n", "answer", "1"); code != 0 {
		t.Errorf("answer: %d %s", code, complaint)
	}
	if c := got(t, j); c != "493817" {
		t.Errorf("the job opened %q", c)
	}
	if st := s.at(); st.Locked != "" || len(st.Relays) != 1 {
		t.Errorf("unlocked: %+v", st)
	}
	if _, complaint, code := s.says("", unlock...); code != 0 || !strings.Contains(complaint, "nothing is locked") {
		t.Errorf("unlocked twice: %d %s", code, complaint)
	}
	for _, seed := range seeds {
		s.nowhere(p, string(seed))
	}
	s.nowhere(p, passphrase)
}

func TestAServiceManagersCredentialUnlocks(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.seal()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, credential), []byte(passphrase), 0o400); err != nil {
		t.Fatal(err)
	}
	p := s.starts("CREDENTIALS_DIRECTORY=" + dir)
	p.waits(0, "connected to the relay")
	if strings.Contains(p.text(), "locked") {
		t.Errorf("it said that it was locked:\n%s", p.text())
	}
}

// What can be signalled while it waits for its keys must be: a service that cannot
// be stopped holds up the machine's.
func TestALockedProgramEndsWhenItIsTold(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.seal()
	p := s.starts()
	p.waits(0, "keys are locked")
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.ends(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if _, err := os.Lstat(s.socket); err == nil {
		t.Error("the socket was left behind")
	}
}

func TestAPassphraseIsTypedUnseenAndTwice(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	cmd := exec.Command("cfa-responder", "keys", "move", "--to", "file", "--key-file", s.keys())
	f, err := pty.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	p := s.played(cmd, f)
	at := p.waits(0, "new passphrase, at least 12 characters")
	p.typed("short\r")
	at = p.waits(at, "too short")
	at = p.waits(at, "new passphrase")
	p.typed(passphrase + "\r")
	at = p.waits(at, "the same again")
	p.typed(passphrase + "x\r")
	at = p.waits(at, "those two differ")
	at = p.waits(at, "new passphrase")
	p.typed(passphrase + "\r")
	at = p.waits(at, "the same again")
	p.typed(passphrase + "\r")
	p.waits(at, "sealed by your passphrase")
	if err := p.ends(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	q := s.terminal()
	at = q.waits(0, "passphrase (not shown): ")
	q.typed("something else\r")
	at = q.waits(at, "that is not it")
	at = q.waits(at, "passphrase (not shown): ")
	q.typed(passphrase + "\r")
	q.waits(at, "connected to the relay")
	for _, out := range []string{p.text(), q.text()} {
		if strings.Contains(out, "correct") || strings.Contains(out, "something") {
			t.Errorf("a passphrase was shown:\n%s", out)
		}
	}
}

// What stood in a plain file must not be found in its blocks.
func TestMovedKeysAreWipedWhereTheyWere(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	seeds := s.seeds()
	link := filepath.Join(s.dir, "same-file")
	if err := os.Link(s.keys(), link); err != nil {
		t.Skipf("no hard links here: %v", err)
	}
	s.seal()
	old, err := os.ReadFile(link)
	if err != nil {
		t.Fatal(err)
	}
	if len(old) == 0 || len(bytes.Trim(old, "\x00")) != 0 {
		t.Errorf("the old file holds %q", old)
	}
	now, err := os.ReadFile(s.keys())
	if err != nil {
		t.Fatal(err)
	}
	for _, seed := range seeds {
		if bytes.Contains(now, seed) {
			t.Error("a private key is in the sealed file")
		}
	}
	if rest, _ := filepath.Glob(s.keys() + ".*"); len(rest) != 0 {
		t.Errorf("left behind: %v", rest)
	}
}

// A file whose public halves were changed must not make its human answer with
// keys that they do not know of.
func TestASealedFileWithOtherPublicKeysIsRefused(t *testing.T) {
	t.Parallel()
	k, err := newKeys()
	if err != nil {
		t.Fatal(err)
	}
	other, err := newKeys()
	if err != nil {
		t.Fatal(err)
	}
	plain, err := encodeKeys(k)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := sealBy(plain, passphrase)
	if err != nil {
		t.Fatal(err)
	}
	env := environ{"CFA_PASSPHRASE_FILE=" + passphraseFile(t, passphrase)}
	for name, tc := range map[string]struct {
		data []byte
		want string
	}{
		"as it was":  {encodeElsewhere(inFile, k.public(), sealed), ""},
		"other keys": {encodeElsewhere(inFile, other.public(), sealed), "not the keys that the file names"},
		"one other":  {encodeElsewhere(inFile, publicKeys{k.public().connect, other.public().sign}, sealed), "not the keys that the file names"},
		"cut off":    {encodeElsewhere(inFile, k.public(), sealed[:len(sealed)-40]), "it is damaged"},
	} {
		path := filepath.Join(t.TempDir(), "responder.key")
		if err := os.WriteFile(path, tc.data, 0o600); err != nil {
			t.Fatal(err)
		}
		back, err := loadKeys(t.Context(), keyStore{path: path, pass: passphrases{env: env}})
		switch {
		case tc.want == "" && (err != nil || wire.PublicKey(back.sign) != k.public().sign):
			t.Errorf("%s: %v", name, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: %v", name, err)
		}
	}
}
