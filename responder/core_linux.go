package main

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// noCoreDump keeps a crash from writing this process's memory, with the private
// keys and perhaps a code in it, to a file, and other programs of the same user
// from reading it while it runs. What it starts is as any other program.
func noCoreDump() {
	_ = unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_CORE, &l) == nil {
		l.Cur = 0
		_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &l)
	}
}
