//go:build unix

package main

// Whose file it is, where files have owners and modes.

import (
	"io/fs"
	"os"
	"syscall"
)

const modesCount = true

func owned(info fs.FileInfo) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(s.Uid) == os.Geteuid()
}
