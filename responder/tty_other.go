//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package main

// keepNewlines is for terminals that raw mode takes newlines from.
func keepNewlines(int) {}
