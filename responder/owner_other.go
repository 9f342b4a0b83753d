//go:build !unix

package main

// Where files have access lists instead of owners and modes (Windows), a
// profile's files are its user's alone by default, and that is relied upon.

import "io/fs"

const modesCount = false

func owned(fs.FileInfo) bool { return true }
