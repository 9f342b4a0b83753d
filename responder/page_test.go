package main

// The command that opens the page, with a program in the desktop opener's place; the
// page itself is tested in internal/page.

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

func TestThePageIsOpenedByAFileThatOnlyItsUserCanRead(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		t.Skip("the opener's place is taken by a script called xdg-open")
	}
	s := newScene(t)
	s.background("ask: [browser]\n")
	dir := t.TempDir()
	args, held := filepath.Join(dir, "args"), filepath.Join(dir, "held")
	script := "#!/bin/sh\nprintf '%s\\n' \"$@\" >'" + args + "'\nls -l \"$1\" >'" + held + ".mode'\ncp \"$1\" '" + held + ".tmp' && mv '" + held + ".tmp' '" + held + "'\n"
	if err := os.WriteFile(filepath.Join(dir, "xdg-open"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("cfa-responder", "open", "--socket", s.socket)
	cmd.Env = append(os.Environ(), "DISPLAY=:0", "PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	p := s.piped(cmd)
	until(t, func() bool { _, err := os.Stat(held); return err == nil })
	said, err := os.ReadFile(args)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(held)
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`0; url=http://127\.0\.0\.1:\d+/#([A-Za-z0-9_-]{43})"`).FindSubmatch(page)
	if m == nil {
		t.Fatalf("the file leads nowhere: %s", page)
	}
	if strings.Contains(string(said), string(m[1])) || strings.Contains(string(said), "127.0.0.1") {
		t.Errorf("the link is in an argument: %s", said)
	}
	if mode, err := os.ReadFile(held + ".mode"); err != nil || !strings.HasPrefix(string(mode), "-rw-------") {
		t.Errorf("others can read it: %s %v", mode, err)
	}
	if !strings.HasPrefix(string(said), filepath.Dir(s.socket)+string(filepath.Separator)) {
		t.Errorf("it is not where only its user comes: %s", said)
	}
	// It goes as soon as the command is told to end.
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.ends(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if _, err := os.Stat(strings.TrimSpace(string(said))); err == nil {
		t.Error("the file was left behind")
	}
	if log, err := os.ReadFile(s.logs()); err != nil || strings.Contains(string(log), string(m[1])) {
		t.Errorf("the link is in the log: %v", err)
	}
}

func TestThePageIsForWhoeverHasChosenIt(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.background("ask: []\n")
	if out, complaint, exit := s.says("", "open", "--print"); exit == 0 || out != "" || !strings.Contains(complaint, "browser is no way by which the background program asks; name it under `ask` in responder.yaml") {
		t.Errorf("%d %q %q", exit, out, complaint)
	}
	cmd := exec.Command("cfa-responder", "open", "--socket", filepath.Join(s.dir, "none"))
	if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() != exitUnavailable {
		t.Errorf("without a background program: %v %s", err, out)
	}
}
