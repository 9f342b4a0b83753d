//go:build linux

package main

// What a crash leaves behind.

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"golang.org/x/sys/unix"
)

func TestACrashWritesNoKeyToAFile(t *testing.T) {
	t.Parallel()
	if exec.Command("sh", "-c", "ulimit -S -c 1").Run() != nil {
		t.Skip("no core can be dumped here")
	}
	s := newScene(t)
	cmd := s.command()
	p := s.piped(exec.Command("sh", append([]string{"-c", `ulimit -S -c 1; exec cfa-responder "$@"`, "sh"}, cmd.Args[1:]...)...))
	p.waits(0, "connected")
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?m)^Max core file size +0 `).Match(limits) {
		t.Errorf("a core can be dumped:\n%s", limits)
	}
}

// A debugger of the same user's would find the keys in a program that runs all day.
func TestNobodyElseReadsTheMemory(t *testing.T) {
	t.Parallel()
	noCoreDump()
	if n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || n != 0 {
		t.Errorf("dumpable: %d (%v)", n, err)
	}
}
