package main

// Handing the code over: to the outputs of a GitHub step, or to stdout. The mask
// comes first, so that nothing which goes wrong afterwards can log the code.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"github.com/continuousauth/action/internal/ci"
)

const (
	outputGitHub = "github"
	outputStdout = "stdout"
)

// handover is where a code goes.
type handover struct {
	github string    // path of $GITHUB_OUTPUT; empty: stdout
	out    io.Writer // stdout
	mask   io.Writer // where the CI reads the command that masks
	ci     *ci.Provider
	env    ci.Env
}

// newHandover chooses, and checks before anything is asked that a code can be
// handed over: a human's code that ends nowhere is a code given for nothing.
func newHandover(output string, p *ci.Provider, io stdio) (*handover, error) {
	path := io.getenv("GITHUB_OUTPUT")
	if output == "" {
		output = outputStdout
		if p.Outputs && path != "" {
			output = outputGitHub
		}
	}
	env := ci.Env{Getenv: io.getenv}
	if err := p.ReadyToHide(env); err != nil {
		return nil, usage("%w", err)
	}
	switch {
	case output == outputStdout:
		// The code alone stands on stdout; the runner reads commands from
		// stderr as well.
		return &handover{out: io.out, mask: io.err, ci: p, env: env}, nil
	case output != outputGitHub:
		return nil, usage("--output is github or stdout")
	case !p.Outputs:
		return nil, usage("--output github, but this is a job on %s; use --output stdout", p.Title)
	case path == "":
		return nil, usage("--output github, but GITHUB_OUTPUT is not set; run cfa in a step of the workflow, or use --output stdout")
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return nil, usage("GITHUB_OUTPUT cannot be written: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, usage("GITHUB_OUTPUT cannot be written: %w", err)
	}
	return &handover{github: path, out: io.out, mask: io.out, ci: p, env: env}, nil
}

// masks says whether this CI can hide the code in its log.
func (h *handover) masks() bool { return h.ci.Hides() }

// conceal has the CI hide a code in its log from now on, where it can.
func (h *handover) conceal(code string) (hidden bool, err error) {
	// Whether or not the job is being stopped by now: what is printed is hidden.
	hidden, err = h.ci.Hide(context.Background(), h.env, h.mask, code)
	if err != nil {
		return false, fmt.Errorf("the code could not be masked: %w", err)
	}
	return hidden, nil
}

// code hands the code over. name is the request's.
func (h *handover) code(code, name string) error {
	ok, err := h.conceal(code)
	if err != nil {
		return err
	}
	if h.github == "" {
		if _, err := io.WriteString(h.out, code+"\n"); err != nil {
			return fmt.Errorf("write the code to stdout: %w", err)
		}
		return nil
	}
	if !ok {
		return errors.New("this code cannot be masked in the log, as it is blank")
	}
	return h.set("code", code, "request-id", name)
}

// responder hands over who answered.
func (h *handover) responder(who string) error {
	if h.github == "" {
		return nil
	}
	return h.set("responder", tame(who))
}

// tame is a name with nothing in it that a shell would act on. The relay chooses
// it, and workflows write outputs into scripts, though they should not.
func tame(name string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsLetter(c) || unicode.IsDigit(c) || strings.ContainsRune(" ._@-", c) {
			return c
		}
		return '_'
	}, name)
}

// set writes outputs of the step: name and value by turns. (go-githubactions
// writes them with a delimiter that never changes, so that a value which holds it
// sets further outputs.)
func (h *handover) set(pairs ...string) error {
	var b strings.Builder
	for i := 0; i < len(pairs); i += 2 {
		block, err := heredoc(pairs[i], pairs[i+1])
		if err != nil {
			return err
		}
		b.WriteString(block)
	}
	text := b.String()
	if !endsLine(h.github) {
		// What an earlier command of the step left would swallow our first line,
		// and the runner would then quote the next one, the code, in an error.
		text = "\n" + text
	}
	f, err := os.OpenFile(h.github, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("write the step's outputs: %w", err)
	}
	if _, err := io.WriteString(f, text); err != nil {
		f.Close()
		return fmt.Errorf("write the step's outputs: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write the step's outputs: %w", err)
	}
	return nil
}

// heredoc is one output in the form of GitHub's command files:
// name<<DELIMITER, value, DELIMITER. The delimiter is 130 bits of randomness.
func heredoc(name, value string) (string, error) {
	if strings.ContainsAny(value, "\r\n\x00") {
		return "", fmt.Errorf("the output %q would have more than one line", name)
	}
	delimiter := "cfa_" + rand.Text()
	for strings.Contains(value, delimiter) {
		delimiter = "cfa_" + rand.Text()
	}
	return name + "<<" + delimiter + "\n" + value + "\n" + delimiter + "\n", nil
}

// endsLine says whether the file is empty or ends with a line feed.
func endsLine(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return true // the write that follows fails too, and says so
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return true
	}
	var last [1]byte
	_, err = f.ReadAt(last[:], size-1)
	return err != nil || last[0] == '\n'
}
