//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package main

// Raw mode takes away more than the line mode needs.

import "golang.org/x/sys/unix"

// keepNewlines has the terminal go on to turn a newline into a new line, for
// whoever else writes to it.
func keepNewlines(fd int) {
	t, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return
	}
	t.Oflag |= unix.OPOST | unix.ONLCR
	_ = unix.IoctlSetTermios(fd, setTermios, t)
}
