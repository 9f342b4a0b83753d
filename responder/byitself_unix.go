//go:build unix

package main

// A program that is run by itself has no terminal, and ends with all that it started.

import (
	"os/exec"
	"syscall"
)

func byItself(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}
