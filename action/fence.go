package main

// Hiding a secret in a log in which a command has told GitHub's runner to take no
// commands.

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
)

// conceal has the CI hide a secret from now on, also where the command has told
// GitHub's runner to take no commands: the line that hides would then be shown.
func (e *execution) conceal(secret string) error {
	if token := e.fences.token(); token != "" {
		fmt.Fprintf(e.io.err, "::%s::\n", token)
		defer fmt.Fprintf(e.io.err, "::stop-commands::%s\n", token)
	}
	_, err := e.to.conceal(secret)
	return err
}

// fences follows what a command told GitHub's runner: ::stop-commands::TOKEN, and
// ::TOKEN:: when it takes commands again.
type fences struct {
	mu  sync.Mutex
	now string
}

var fence = regexp.MustCompile(`(?m)^\s*(?:::|##\[)(?:stop-commands(?:::|\])([^\r\n]+)|([^\r\n:\]]+)(?:::|\]))\s*$`)

func (f *fences) see(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range fence.FindAllStringSubmatch(text, -1) {
		switch {
		case m[1] != "":
			f.now = strings.TrimSpace(m[1])
		case m[2] == f.now:
			f.now = ""
		}
	}
}

func (f *fences) token() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}
