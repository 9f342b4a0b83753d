//go:build !windows

package main

import "errors"

// runKey stands for the registry, which is elsewhere.
type runKey struct{}

var errNoRegistry = errors.New("there is no registry here")

func (runKey) read() (string, error) { return "", errNoRegistry }
func (runKey) write(string) error    { return errNoRegistry }
func (runKey) remove() error         { return errNoRegistry }

func detach([]string) error {
	return usage("--detach is for Windows, where a program that starts with the session would have a window; elsewhere `cfa-responder install` has it started")
}
