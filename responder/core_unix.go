//go:build unix && !linux

package main

import "syscall"

// noCoreDump keeps a crash from writing this process's memory, with the signing
// key and perhaps a code in it, to a file.
func noCoreDump() {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_CORE, &l) == nil {
		l.Cur = 0
		_ = syscall.Setrlimit(syscall.RLIMIT_CORE, &l)
	}
}
