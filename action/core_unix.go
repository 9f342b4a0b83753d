//go:build unix

package main

import "syscall"

// noCoreDump keeps a crash (GOTRACEBACK=crash in the job's environment) from
// writing this process's memory, with a code in it, to a file that a later step
// might upload.
func noCoreDump() {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_CORE, &l) == nil {
		l.Cur = 0
		syscall.Setrlimit(syscall.RLIMIT_CORE, &l)
	}
}
