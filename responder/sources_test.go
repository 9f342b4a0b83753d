package main

// Codes from a program of the human's own, with stand-ins for it.

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

// manager writes a stand-in for a password manager, and gives the settings that name
// it and a file that is there once it has been run.
func (s *scene) manager(script string) (settings, ran string) {
	s.t.Helper()
	path := filepath.Join(s.dir, "manager")
	ran = filepath.Join(s.dir, "ran")
	text := fmt.Sprintf("#!/bin/sh\nenv >'%s.new'; printf '%%s|' \"$#\" \"$@\" >>'%[1]s.new'; if read line; then echo \"stdin: $line\" >>'%[1]s.new'; fi; mv '%[1]s.new' '%[1]s'\n%s\n", ran, script)
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("ask: []\ncodes: {npm: {name: 1Password, command: [%q, item, get, \"the npm; $(one) 'x'\", --otp], env: [CFA_TEST_PASSED]}}\n", path), ran
}

func TestACommandHasTheCodeFromAPasswordManager(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	settings, ran := s.manager("echo 'Touch your YubiKey 12345678 now: " + code + "' >&2\nprintf '" + code + "\\r\\n'")
	p := s.background(settings)
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	until(t, func() bool { out, _, _ := s.says("", "list"); return strings.Contains(out, "#1") })
	if _, complaint, exit := s.says("", "answer", "1", "--source"); exit != 0 || !strings.Contains(complaint, "#1: 1Password is asked for the code") || !strings.Contains(complaint, "#1 sealed") {
		t.Fatalf("answer --source: %d %q", exit, complaint)
	}
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}
	p.waits(0, "1Password: Touch your YubiKey ... now: ...")
	env, err := os.ReadFile(ran)
	if err != nil {
		t.Fatal(err)
	}
	if want := "5|item|get|the npm; $(one) 'x'|--otp|"; !strings.HasSuffix(string(env), strings.Replace(want, "5|", "4|", 1)) {
		t.Errorf("it was called with other words, or had something to read:\n%s", env)
	}
	if !strings.Contains(string(env), "PATH=") || strings.Contains(string(env), "CFA_") {
		t.Errorf("its environment:\n%s", env)
	}
	s.nowhere(p, code)

	// What one is not named for, says so.
	k := s.job(repo, nil, func(r *wire.Request) { r.Service = "hex" })
	s.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
	s.relay.Ask(k)
	until(t, func() bool { out, _, _ := s.says("", "list"); return strings.Contains(out, "#2") })
	if _, complaint, exit := s.says("", "answer", "2", "--source"); exit != exitUsage || !strings.Contains(complaint, "no program is named for the codes of hex") {
		t.Errorf("for hex: %d %q", exit, complaint)
	}
	// And which there is, a script can read.
	l := s.job(repo, nil, nil)
	s.relay.Set(k, func(i *wire.Item) { i.State.State = "done" })
	s.relay.Ask(l)
	until(t, func() bool { out, _, _ := s.says("", "list"); return strings.Contains(out, "#3") })
	if out, complaint, exit := s.says(code+"\n", "answer", "3", "--json"); exit != 0 || !strings.Contains(out, `"source": "1Password"`) {
		t.Errorf("answer --json: %d %q %q", exit, out, complaint)
	}
}

func TestAtATerminalOneWordHasTheCodeFromAPasswordManager(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	settings, ran := s.manager("echo " + code)
	s.background(settings)
	cmd := exec.Command("cfa-responder", "listen", "--socket", s.socket)
	a := s.piped(cmd)
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	at := a.waits(0, "#1 your turn: type 1, then the code (6 digits); or u1 to have it from 1Password; or d1 to decline")
	if _, err := os.Stat(ran); err == nil {
		t.Error("it was run before anybody said so")
	}
	a.typed("u1\n")
	at = a.waits(at, "#1 asked: 1Password is asked for the code")
	at = a.waits(at, "#1 sealed")
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}
	s.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })

	// The match code is still typed, where it must be.
	_ = os.Remove(ran)
	k := s.job(repo, nil, func(r *wire.Request) { r.TypeMatch = true })
	s.relay.Ask(k)
	at = a.waits(at, "#2 your turn")
	a.typed("u2\n")
	at = a.waits(at, "#2 next line: match code from the job's log; the code then comes from 1Password")
	a.typed(seal.Match(j.Digest) + "\n")
	at = a.waits(at, "#2 not sent: that is not this request's match code")
	if _, err := os.Stat(ran); err == nil {
		t.Error("it was run for a wrong match code")
	}
	a.typed("u2\n")
	at = a.waits(at, "#2 next line")
	a.typed(seal.Match(k.Digest) + "\n")
	a.waits(at, "#2 sealed")
	if c := got(t, k); c != code {
		t.Errorf("the job opened %q", c)
	}
	s.nowhere(a, code)
}

func TestTheScreenHasTheCodeFromAPasswordManagerByAKey(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	settings, _ := s.manager("echo " + code)
	s.background(settings)
	g := s.glassOf(exec.Command("cfa-responder", "screen", "--socket", s.socket), 110, 40)
	j := s.job(repo, nil, func(r *wire.Request) { r.TypeMatch = true })
	s.relay.Ask(j)
	g.shows("u use 1Password")
	g.press("u")
	g.shows("match code from the job's log")
	g.press(seal.Match(j.Digest) + "\r")
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}
	g.shows("sealed: only this job can open it")
	s.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
	k := s.job(repo, nil, nil)
	s.relay.Ask(k)
	g.until("the second", func(text string) bool {
		return strings.Contains(text, "> #2") && strings.Contains(text, "u use 1Password")
	})
	g.press("u")
	if c := got(t, k); c != code {
		t.Errorf("the job opened %q", c)
	}
	if strings.Contains(g.text(), code) || strings.Contains(g.all.text(), code) {
		t.Errorf("the code was shown:\n%s", g.text())
	}
}

func TestAPasswordManagerThatGivesNoCode(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ script, want string }{
		"it fails":             {"echo 493817; exit 3", "no code came of it: it failed (exit status 3)"},
		"it says too much":     {"head -c 100000 /dev/zero", "it printed more than a code"},
		"it says nothing":      {":", "it printed nothing"},
		"it says a sentence":   {"echo 'please sign in'", "has not the form that was asked for"},
		"it is not there":      {"rm -f \"$0\"; exit 1", ""},
		"it says a lot aside":  {"yes complaint | head -n 100000 >&2; exit 4", "exit status 4"},
		"it speaks a terminal": {"printf '\\033[2J\\033]0;owned\\007\\n' >&2; exit 5", "exit status 5"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t)
			s.pin()
			settings, _ := s.manager(test.script)
			p := s.background(settings)
			j := s.job(repo, nil, nil)
			s.relay.Ask(j)
			until(t, func() bool { out, _, _ := s.says("", "list"); return strings.Contains(out, "#1") })
			_, complaint, exit := s.says("", "answer", "1", "--source")
			if name == "it is not there" {
				_, complaint, exit = s.says("", "answer", "1", "--source")
				test.want = "there is no program"
			}
			if exit == 0 || !strings.Contains(complaint, test.want) || strings.Contains(complaint, code) {
				t.Errorf("%d %q", exit, complaint)
			}
			if n := len(s.relay.Messages(wire.VerbAnswer)); n != 0 {
				t.Errorf("%d answers left", n)
			}
			if n := strings.Count(p.text(), "complaint"); n > mostSaidLines {
				t.Errorf("%d lines were passed on", n)
			}
			if strings.Contains(p.text(), "\x1b") {
				t.Errorf("a control character came through: %q", p.text())
			}
			s.nowhere(p, code)
		})
	}
}

// A source that hangs is stopped, with all that it has started.
func TestAPasswordManagerThatHangsIsStopped(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	pids := filepath.Join(s.dir, "pids")
	settings, _ := s.manager(fmt.Sprintf("sleep 1000 & echo $! $$ >'%s.new'; mv '%[1]s.new' '%[1]s'; wait", pids))
	s.background(settings)
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	until(t, func() bool { out, _, _ := s.says("", "list"); return strings.Contains(out, "#1") })
	cmd := exec.Command("cfa-responder", "answer", "1", "--source", "--socket", s.socket)
	a := s.piped(cmd)
	until(t, func() bool { _, err := os.Stat(pids); return err == nil })
	if _, complaint, exit := s.says("", "decline", "1"); exit != 0 {
		t.Fatalf("decline: %d %q", exit, complaint)
	}
	if err := a.ends(); err == nil {
		t.Error("it ended well")
	}
	a.waits(0, "no code came of it")
	text, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	if modesCount {
		until(t, func() bool {
			// One that nobody has buried yet is dead all the same.
			return exec.Command("sh", "-c", "for p in "+strings.TrimSpace(string(text))+"; do case $(ps -o stat= -p $p) in ''|Z*) ;; *) exit 1 ;; esac; done").Run() == nil
		})
	}

	// By itself too.
	src := &sources{all: map[string]sourceSettings{"npm": {Name: "x", Command: words{"sleep", "1000"}}}, env: os.Environ(), within: 50 * time.Millisecond}
	if _, err := src.Code(context.Background(), "npm", func(string) {}); err == nil || !strings.Contains(err.Error(), "did not end within") {
		t.Errorf("said %v", err)
	}
}

func TestASourceGetsFewVariables(t *testing.T) {
	t.Parallel()
	ran := filepath.Join(t.TempDir(), "ran")
	src := &sources{
		all:    map[string]sourceSettings{"npm": {Name: "x", Command: words{"sh", "-c", "env >'" + ran + "'; echo " + code}, Env: []string{"BW_SESSION"}}},
		env:    environ{"PATH=" + os.Getenv("PATH"), "HOME=/home/ada", "CFA_LOG=x", "LD_PRELOAD_OF_NOBODY=x", "GPG_TTY=/dev/tty1", "BW_SESSION=y"},
		within: time.Minute,
	}
	got, err := src.Code(context.Background(), "npm", func(string) {})
	if err != nil || string(got) != code {
		t.Fatalf("%q, %v", got, err)
	}
	env, err := os.ReadFile(ran)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"HOME=/home/ada\n": true, "BW_SESSION=y\n": true, "CFA_LOG": false, "LD_PRELOAD": false, "GPG_TTY": false} {
		if strings.Contains(string(env), name) != want {
			t.Errorf("%q: %v\n%s", name, !want, env)
		}
	}
}

func TestOneSourceIsAskedAtATime(t *testing.T) {
	t.Parallel()
	src := &sources{all: map[string]sourceSettings{"npm": {Name: "x", Command: words{"true"}}}, env: os.Environ(), within: time.Minute}
	src.asking.Lock()
	if _, err := src.Code(context.Background(), "npm", func(string) {}); err == nil || !strings.Contains(err.Error(), "another prompt's code") {
		t.Errorf("said %v", err)
	}
}

func TestWhatCouldBeACodeIsNotPassedOn(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"Touch your YubiKey...":           "Touch your YubiKey...",
		"code: 493817":                    "code: ...",
		"code: 493 817":                   "code: ...",
		"code: 493-817.":                  "code: ....",
		"a1b2c3d4 is it":                  "... is it",
		"slot 2 of 3":                     "slot 2 of 3",
		strings.Repeat("ab", 32) + " key": "... key",
	} {
		if got := concealed(line); got != want {
			t.Errorf("%q became %q, not %q", line, got, want)
		}
	}
}

func TestCodesInTheSettingsAreStrict(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"codes: {npm: {name: 1Password, command: [op, item, get, npm, --otp]}}":            "",
		"codes: {npm: {name: YubiKey, command: [/usr/bin/ykman, oath], env: [YKMAN_DIR]}}": "",
		"codes: {npm: {name: 1Password, command: op item get npm --otp}}":                  "no shell runs it",
		"codes: {npm: {name: 1Password, command: []}}":                                     "1 to 64",
		"codes: {npm: {name: 1Password}}":                                                  "1 to 64",
		"codes: {npm: {command: [op]}}":                                                    "what you call it",
		"codes: {npm: {name: \"a\\u202eb\", command: [op]}}":                               "what you call it",
		"codes: {npm: {name: x, command: [./op]}}":                                         "by its name or its whole path",
		"codes: {npm: {name: x, command: [\"\"]}}":                                         "by its name or its whole path",
		"codes: {npm: {name: x, command: [op, \"a\\0b\"]}}":                                "control characters",
		"codes: {NPM: {name: x, command: [op]}}":                                           "no service's name",
		"codes: {npm: {name: x, command: [op], env: [\"A=B\"]}}":                           "no variable's name",
		"codes: {npm: {name: x, command: [op], shell: true}}":                              "shell",
		"codes: [npm]": "codes",
	} {
		_, err := parseSettings([]byte(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", text, err)
		}
	}
	// The button's name is what a prompt says.
	b, err := json.Marshal(answer.Prompt{Source: "1Password"})
	if err != nil || !strings.Contains(string(b), `"source":"1Password"`) {
		t.Errorf("%s, %v", b, err)
	}
}
