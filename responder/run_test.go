package main

// The background program, as a process, and the commands that talk to it.

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
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

// background starts the background program at the scene's relay, with more
// environment.
func (s *scene) background(settings string, env ...string) *player {
	s.t.Helper()
	// The path of a socket has a hundred bytes at most, which a test's own
	// directory can exceed.
	dir, err := os.MkdirTemp("", "cfa")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { os.RemoveAll(dir) })
	s.socket = filepath.Join(dir, "s")
	file := filepath.Join(s.dir, "responder.yaml")
	text := "relays: [{url: \"" + s.relay.URL() + "\", name: " + relayName + "}]\n" + settings
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command("cfa-responder", "run", "--settings", file, "--key-file", s.keys(), "--pins", s.pins(), "--socket", s.socket, "--log", s.logs())
	cmd.Env = append(os.Environ(), env...)
	p := s.piped(cmd)
	p.waits(0, "connected to the relay")
	return p
}

// says runs a command of the background program's user, with this on its standard
// input, and gives what it wrote.
func (s *scene) says(in string, args ...string) (out, complaint string, code int) {
	s.t.Helper()
	cmd := exec.Command("cfa-responder", append(args, "--socket", s.socket)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &stdout, &stderr
	_ = cmd.Run()
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

func TestTheBackgroundProgramIsAnsweredByCommands(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.background("ask: []\n")
	if out, complaint, exit := s.says("", "list"); exit != 0 || out != "nothing waits\n" {
		t.Errorf("list: %d %q %q", exit, out, complaint)
	}
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	until(t, func() bool { out, _, _ := s.says("", "list"); return strings.Contains(out, "#1") })

	out, _, _ := s.says("", "list", "--json")
	var list []answer.Prompt
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 || list[0].ID != j.ID() {
		t.Fatalf("list --json: %v %s", err, out)
	}
	if _, complaint, exit := s.says("12345\n", "answer", "1"); exit == 0 || !strings.Contains(complaint, "the code has 5 characters, not 6") {
		t.Errorf("a code of the wrong form: %d %q", exit, complaint)
	}
	if _, complaint, exit := s.says("", "answer", "1"); exit != exitUsage || !strings.Contains(complaint, "no code on standard input") {
		t.Errorf("no code: %d %q", exit, complaint)
	}
	if _, complaint, exit := s.says("", "answer", "7"); exit != exitUsage || !strings.Contains(complaint, "nothing waits that is called 7") {
		t.Errorf("no such prompt: %d %q", exit, complaint)
	}
	if out, complaint, exit := s.says(code+"\n", "answer", j.ID()[:12]); exit != 0 || out != "" {
		t.Errorf("answer: %d %q %q", exit, out, complaint)
	}
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}
	s.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
	until(t, func() bool { out, _, _ := s.says("", "list"); return out == "nothing waits\n" })

	k := s.job(repo, nil, func(r *wire.Request) { r.TypeMatch = true })
	s.relay.Ask(k)
	until(t, func() bool { out, _, _ := s.says("", "list"); return strings.Contains(out, "#2") })
	if _, complaint, exit := s.says(code+"\n", "answer", "2"); exit != exitUsage || !strings.Contains(complaint, "--match CODE") {
		t.Errorf("without its match code: %d %q", exit, complaint)
	}
	if _, complaint, exit := s.says(code+"\n", "answer", "#2", "--match", seal.Match(j.Digest)); exit == 0 || !strings.Contains(complaint, "not this request's match code") {
		t.Errorf("with another's match code: %d %q", exit, complaint)
	}
	if _, complaint, exit := s.says("", "decline", "2", "--reason", "not now"); exit != 0 {
		t.Errorf("decline: %d %q", exit, complaint)
	}
	until(t, func() bool { return len(s.relay.Messages(wire.VerbDecline)) > 0 })

	out, _, _ = s.says("", "status", "--json")
	var st state
	if err := json.Unmarshal([]byte(out), &st); err != nil || len(st.Relays) != 1 || !st.Relays[0].Connected || st.PID != p.cmd.Process.Pid {
		t.Errorf("status: %v %s", err, out)
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.ends(); err != nil {
		t.Errorf("ended with %v", err)
	}
	if _, err := os.Lstat(s.socket); err == nil {
		t.Error("the socket was left behind")
	}
	if _, complaint, exit := s.says("", "list"); exit != exitUnavailable || !strings.Contains(complaint, "no background program runs") {
		t.Errorf("list without it: %d %q", exit, complaint)
	}
	s.nowhere(p, code)
}

func TestATerminalAttachesToTheBackgroundProgram(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.background("ask: []\n")
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	cmd := exec.Command("cfa-responder", "listen", "--socket", s.socket)
	a := s.piped(cmd)
	at := a.waits(0, "#1 verified: electron/asar asks for a code for npm")
	a.typed("1\n")
	at = a.waits(at, "next line: code, 6 digits")
	a.typed(code + "\n")
	a.waits(at, "#1 sealed")
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}
	a.typed("quit\n")
	if err := a.ends(); err != nil {
		t.Errorf("it left with %v", err)
	}
	if out, _, exit := s.says("", "status"); exit != 0 || !strings.Contains(out, "connected since") {
		t.Errorf("it took the background program with it: %d %q", exit, out)
	}
	b := s.piped(exec.Command("cfa-responder", "listen", "--socket", s.socket))
	b.waits(0, "connected to the relay")
	_ = p.cmd.Process.Kill()
	if err := b.ends(); err == nil || b.cmd.ProcessState.ExitCode() != exitUnavailable {
		t.Errorf("it ended with %v when the background program was killed", err)
	}
}

func TestASecondBackgroundProgramIsRefusedAndADeadOnesSocketIsNot(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	p := s.background("ask: []\n")
	args := append([]string{}, p.cmd.Args[1:]...)
	out, err := exec.Command("cfa-responder", args...).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "runs already") {
		t.Errorf("a second one: %v %s", err, out)
	}
	_ = p.cmd.Process.Kill()
	_ = p.ends()
	if _, err := os.Lstat(s.socket); err != nil {
		t.Fatal("the fault did not happen: the killed program left no socket")
	}
	again := s.piped(exec.Command("cfa-responder", args...))
	again.waits(0, "connected to the relay")
}

func TestOthersSocketsAndWishesAreRefused(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.background("ask: []\n")
	for _, line := range []string{"not json\n", `{"id":1,"do":"list","more":1}` + "\n", strings.Repeat("x", maxWish+1) + "\n"} {
		c, err := net.Dial("unix", s.socket)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		_, _ = c.Write([]byte(line))
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Errorf("%.20q was answered", line)
		}
		c.Close()
	}
	if out, _, exit := s.says("", "list"); exit != 0 {
		t.Errorf("it was the end of it: %d %s", exit, out)
	}
	if !modesCount {
		return
	}
	open := filepath.Dir(s.socket)
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, complaint, exit := s.says("", "list"); exit != exitUsage || !strings.Contains(complaint, "chmod 700") {
		t.Errorf("a socket where others can write: %d %q", exit, complaint)
	}
}

func TestSettingsAreStrict(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"relays: [{url: wss://a.example}]": "",
		"":                                 "",
		"relays: [{url: wss://a.example, nam: b}]": "nam",
		"relay: [x]":    "relay is nothing that is set here",
		"ask: [pigeon]": "pigeon is no way to ask",
		"relays: [":     "relays",
		"- a":           "map",
	} {
		_, err := parseSettings([]byte(text))
		switch {
		case want == "" && err != nil:
			t.Errorf("%q: %v", text, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want) && want != "relays" && want != "map"):
			t.Errorf("%q: %v", text, err)
		}
	}
}

// until waits for what another process does.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatal("it did not come to that")
		case <-time.After(20 * time.Millisecond):
		}
	}
}
