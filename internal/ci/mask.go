// This file hides codes in a CI's log, in the way that the CI has for it.

package ci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// hideWithin bounds the command of a CI that hides a code.
const hideWithin = 10 * time.Second

// noMask is the mask of a CI whose log hides only what its settings hold.
func noMask(string) (string, bool) { return "", false }

// addMask is the add-mask workflow command of GitHub's runner and of those that
// are made like it. The runner turns %25 back last, so % is escaped first. It
// does not mask what is blank.
func addMask(code string) (string, bool) {
	if strings.TrimSpace(code) == "" {
		return "", false
	}
	return "::add-mask::" + strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(code), true
}

// Hides says whether this CI can hide a code in its log.
func (p *Provider) Hides() bool {
	_, ok := p.Mask("x")
	return ok || len(p.Redactor) > 0
}

// ReadyToHide says whether what Hide needs is there, before a human is asked: a
// code that cannot be hidden where it could be is a code given for nothing.
func (p *Provider) ReadyToHide(env Env) error {
	if len(p.Redactor) == 0 || env.Feed != nil {
		return nil
	}
	if _, err := exec.LookPath(p.Redactor[0]); err != nil {
		return fmt.Errorf("`%s` is not on the PATH, so the code could not be hidden in the log; run this in a step of the job itself (not in a container), and keep what PATH holds", p.Redactor[0])
	}
	return nil
}

// Hide makes this CI hide code in what is logged from now on: it writes a line to
// log, which the CI must read, or gives the code to the CI's command on standard
// input. hidden is false where that cannot be done: with no error if this CI has
// no way to do it, or code is blank.
func (p *Provider) Hide(ctx context.Context, env Env, log io.Writer, code string) (hidden bool, err error) {
	if strings.TrimSpace(code) == "" {
		return false, nil
	}
	if len(p.Redactor) > 0 {
		ctx, cancel := context.WithTimeout(ctx, hideWithin)
		defer cancel()
		if err := env.feed(ctx, code, p.Redactor[0], p.Redactor[1:]...); err != nil {
			// Not its words: they can hold what it was given.
			status := "failed"
			switch x, ok := errors.AsType[*exec.ExitError](err); {
			case ctx.Err() != nil:
				status = fmt.Sprintf("did not end within %v", hideWithin)
			case errors.Is(err, exec.ErrNotFound):
				status = "was not found"
			case ok:
				status = fmt.Sprintf("ended with status %d", x.ExitCode())
			}
			return false, fmt.Errorf("`%s` %s", strings.Join(p.Redactor, " "), status)
		}
		return true, nil
	}
	line, ok := p.Mask(code)
	if !ok {
		return false, nil
	}
	if strings.ContainsAny(line, "\r\n") {
		return false, errors.New("the command that masks the code has more than one line")
	}
	if _, err := io.WriteString(log, line+"\n"); err != nil {
		return false, fmt.Errorf("write the command that masks the code: %w", err)
	}
	return true, nil
}
