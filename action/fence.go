package main

// Hiding a secret in a log in which a command has told the runner to take no
// commands: the line that hides it would then be shown.
//
// Hence all that goes to the log is read here as GitHub's runner reads it
// (actions/runner: ActionCommand.cs, ActionCommandManager.cs, OutputManager.cs), and
// the mask goes in between: commands are switched on, the secret is hidden, they are
// switched off again. Where it is not certain what the runner made of a line, no
// secret is asked for any more. What errs, errs towards "switched off": switching on
// what is on does nothing.

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// errFenced says that a secret could not be hidden any more.
var errFenced = errors.New("what was written to the log may have told the runner to take no commands (stop-commands) in a way that cannot be undone here, so a code could not be masked; no code was used. Let the command write `::stop-commands::TOKEN` as a line of its own, with a TOKEN of letters and digits that is no command's name, or not at all")

// maxLogLine bounds how much of a line is kept.
const maxLogLine = 64 << 10

// fences follows what is written to a log.
type fences struct {
	github bool // the runner is GitHub's own; others are made like it, more or less

	mu       sync.Mutex
	out, err *fenced
	token    string // with which commands are switched on again; "": they are on
	by       *fenced
	lost     bool // what the runner does is not known
}

// fenced is one of the two streams that make the log.
type fenced struct {
	all  *fences
	to   io.Writer
	line []byte // that has not ended
	long bool   // it is longer than what is kept
}

func newFences(github bool, out, err io.Writer) *fences {
	f := &fences{github: github}
	f.out, f.err = &fenced{all: f, to: out}, &fenced{all: f, to: err}
	return f
}

func (s *fenced) Write(p []byte) (int, error) {
	s.all.mu.Lock()
	defer s.all.mu.Unlock()
	s.read(p)
	return s.to.Write(p)
}

// read takes in what is about to be written. The runner ends a line at a carriage
// return too.
func (s *fenced) read(p []byte) {
	for len(p) > 0 {
		i := bytes.IndexAny(p, "\r\n")
		if i < 0 {
			s.part(p)
			return
		}
		s.part(p[:i])
		if s.long {
			s.all.lost = s.all.lost || holdsStop(s.line)
		} else {
			s.all.came(s, string(s.line))
		}
		s.line, s.long = s.line[:0], false
		p = p[i+1:]
	}
}

// part takes in a piece of a line. Of one that is too long only this is of
// interest: whether the name of that command is in it, which makes it doubtful.
func (s *fenced) part(p []byte) {
	s.line = append(s.line, p...)
	if len(s.line) <= maxLogLine {
		return
	}
	s.long = true
	s.all.lost = s.all.lost || holdsStop(s.line)
	s.line = append(s.line[:0], s.line[len(s.line)-len(stopCommands):]...)
}

const stopCommands = "stop-commands"

func holdsStop(line []byte) bool { return bytes.Contains(bytes.ToLower(line), []byte(stopCommands)) }

// came takes in a whole line.
func (f *fences) came(s *fenced, line string) {
	if f.token != "" {
		switch {
		case f.by == s && resumes(line, f.token):
			f.token, f.by = "", nil
		case f.by == s:
		default:
			// The runner reads both streams at once, so which of two lines came first
			// is not known: one that switches on is not believed, and one that switches
			// off with another token may be the one that counts.
			if token, stops := f.stops(line); stops && token != f.token {
				f.lost = true
			}
		}
		return
	}
	token, stops := f.stops(line)
	switch {
	case !stops:
	case !switchesOn(token):
		f.lost = true
	default:
		f.token, f.by = token, s
	}
}

// stops says whether a line switches commands off; token is "" where it cannot be
// told how they are switched on again.
func (f *fences) stops(line string) (token string, stops bool) {
	if !strings.Contains(strings.ToLower(printable(line)), stopCommands) {
		return "", false
	}
	name, data, is := command(line)
	stops = is && strings.EqualFold(name, stopCommands)
	if !f.github && !plainStop.MatchString(line) {
		return "", true // or not
	}
	if stops {
		return data, true
	}
	// The runner compares as its language has it, to which some characters are none.
	if name, _, is = command(printable(line)); is && strings.EqualFold(name, stopCommands) {
		return "", true
	}
	return "", false
}

// plainStop is what every runner takes in the same way.
var plainStop = regexp.MustCompile(`^(?:::stop-commands::|##\[stop-commands\])[A-Za-z0-9_.-]+$`)

// printable is text without what is no printable ASCII.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' && c != '\t' || c > '~' {
			return -1
		}
		return c
	}, text)
}

// command takes a line apart as the runner does: ::name properties::data, with
// white space before it; or the old ##[name properties]data, which stands anywhere.
func command(line string) (name, data string, is bool) {
	if rest, ok := strings.CutPrefix(strings.TrimLeftFunc(line, unicode.IsSpace), "::"); ok {
		if info, data, ok := strings.Cut(rest, "::"); ok {
			name, _, _ = strings.Cut(info, " ")
			if name != "" && (knownCommands[strings.ToLower(name)] || strings.EqualFold(name, stopCommands)) {
				return name, data, true
			}
		}
	}
	if _, rest, ok := strings.Cut(line, "##["); ok {
		if info, data, ok := strings.Cut(rest, "]"); ok {
			name, _, _ = strings.Cut(info, " ")
			return name, data, true
		}
	}
	return "", "", false
}

// knownCommands are the runner's. One that is missing here does no harm: a line
// with it may be taken for one that switches off, and is not taken for one that
// switches on.
var knownCommands = map[string]bool{
	"add-mask": true, "add-matcher": true, "add-path": true, "debug": true, "echo": true, "endgroup": true, "error": true, "group": true,
	"internal-set-repo-path": true, "notice": true, "pause-logging": true, "remove-matcher": true, "save-state": true, "set-env": true,
	"set-output": true, "warning": true,
}

// switchesOn says whether a line made of token alone surely switches on what was
// switched off with it. (A token that is a command's name the runner refuses, and
// fails the step; or it does not, where the job says so.)
func switchesOn(token string) bool {
	return aToken.MatchString(token) && !knownCommands[strings.ToLower(token)] && !strings.EqualFold(token, stopCommands)
}

// aToken is a name in which neither form of a command ends, and nothing stands for
// something else.
var aToken = regexp.MustCompile(`^:?(?:[!-$&-9;-\\^-~]:?)*[!-$&-9;-\\^-~]$`)

// resumes says whether a line surely is the command that token names.
func resumes(line, token string) bool {
	if line != printable(line) || !utf8.ValidString(line) {
		return false
	}
	if rest, ok := strings.CutPrefix(strings.TrimLeft(line, " \t"), "::"); ok {
		info, _, ok := strings.Cut(rest, "::")
		name, _, _ := strings.Cut(info, " ")
		return ok && strings.EqualFold(name, token)
	}
	if _, rest, ok := strings.Cut(line, "##["); ok {
		info, _, ok := strings.Cut(rest, "]")
		name, _, _ := strings.Cut(info, " ")
		return ok && strings.EqualFold(name, token)
	}
	return false
}

// sure says whether a secret can be hidden. It is asked before a human is.
func (f *fences) sure() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost {
		return errFenced
	}
	return nil
}

// fresh ends the line that a command has left.
func (s *fenced) fresh() error {
	if len(s.line) == 0 && !s.long {
		return nil
	}
	_, err := io.WriteString(s.to, "\n")
	s.read([]byte("\n"))
	return err
}

// ours is where lines of our own go: behind "::debug::", which a command had left
// there, the runner would take one for that command's, and not show it.
type ours struct{ *fenced }

func (o ours) Write(p []byte) (int, error) {
	o.all.mu.Lock()
	defer o.all.mu.Unlock()
	if err := o.fresh(); err != nil {
		return 0, err
	}
	o.read(p)
	return o.to.Write(p)
}

// open calls hide where a line on standard error is a command for the runner, and
// nothing comes in between.
func (f *fences) open(hide func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.err.fresh(); err != nil {
		return err // the mask would stand behind what the command left there, and be shown
	}
	if f.lost {
		return errFenced
	}
	if f.token != "" {
		if _, err := fmt.Fprintf(f.err.to, "::%s::\n", f.token); err != nil {
			return err
		}
		defer fmt.Fprintf(f.err.to, "::stop-commands::%s\n", f.token)
	}
	return hide()
}

// fence has all that goes to the log from here on read on its way.
func (e *execution) fence() {
	if !e.provider.Outputs {
		return // its log takes no such commands
	}
	e.fences = newFences(e.provider.Name == "github", e.io.out, e.io.err)
	e.io.out, e.io.err = e.fences.out, e.fences.err
	e.say.to(ours{e.fences.err})
}

// sure says whether a secret can be hidden in the log as it is now.
func (e *execution) sure() error {
	if e.fences == nil {
		return nil
	}
	return e.fences.sure()
}

// conceal has the CI hide a secret from now on.
func (e *execution) conceal(secret string) error {
	hide := func() error {
		_, err := e.to.conceal(secret)
		return err
	}
	if e.fences == nil {
		return hide()
	}
	return e.fences.open(hide)
}
