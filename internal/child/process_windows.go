package child

import (
	"io"
	"os"
	"os/exec"
)

const passesFiles = false

// terminate: Windows has no signal that asks.
var terminate = os.Kill

func ownGroup(*exec.Cmd, io.Reader) bool { return false }

// signal: only killing is there. What asks for less (Ctrl-C) reaches every process
// of the console by itself.
func signal(p *os.Process, _ bool, s os.Signal) error {
	if s != os.Kill {
		return nil
	}
	return p.Kill()
}

func exitCode(s *os.ProcessState) int {
	if s == nil {
		return -1
	}
	return s.ExitCode()
}
