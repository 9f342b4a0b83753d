//go:build unix

package child

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/term"
)

// passesFiles: a command can be handed a file descriptor.
const passesFiles = true

// terminate asks a command to end.
var terminate os.Signal = syscall.SIGTERM

// ownGroup lets the command lead a process group, so that a signal reaches what it
// started too: npx, say, passes none on. Not where a human sits at the terminal
// that it reads from: the terminal would stop a group that is not in front.
func ownGroup(cmd *exec.Cmd, stdin io.Reader) bool {
	if f, ok := stdin.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return false
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return true
}

func signal(p *os.Process, group bool, s os.Signal) error {
	n, ok := s.(syscall.Signal)
	if p == nil || !group || !ok {
		return p.Signal(s)
	}
	err := syscall.Kill(-p.Pid, n)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// exitCode is what a shell would say.
func exitCode(s *os.ProcessState) int {
	if s == nil {
		return -1
	}
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}
