//go:build !unix

package main

// noCoreDump has nothing to do: a Go program writes no dump here by itself.
func noCoreDump() {}
