package main

// Codes from a program of the human's own: a password manager, a key with a button.
// responder.yaml names it for a service, as a list of words:
//
//	codes:
//	  npm: {name: 1Password, command: [op, item, get, npm, --otp]}
//
// The rules it keeps. It is run because a human has just chosen it for one prompt,
// and never else. No shell: a list of words is what the program gets, and nothing in
// it comes from a job. It gets no terminal, no standard input and few variables, so
// that whatever it asks, it asks in a window of its own, by a touch or a finger. What
// it prints is a code and goes nowhere but to the desk; what it complains of is shown
// without whatever could be one.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/continuousauth/action/internal/wire"
)

const (
	// sourceWithin is how long a source may take: somebody looks for a phone.
	sourceWithin  = time.Minute
	mostSources   = 64
	mostWords     = 64
	mostWordBytes = 1 << 10
	// mostSaid and mostSaidLines bound what a source says to its human.
	mostSaid      = 4 << 10
	mostSaidLines = 8
)

// sourceSettings is one entry of `codes`.
type sourceSettings struct {
	Name    string   `yaml:"name"`
	Command words    `yaml:"command"`
	Env     []string `yaml:"env,omitempty"` // variables that it gets besides sourceEnv
}

// words is a command, as a list.
type words []string

// UnmarshalYAML is yaml.Unmarshaler's.
func (w *words) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind != yaml.SequenceNode {
		return errors.New("command: write it as a list of words, [op, item, get, npm, --otp]; no shell runs it, which would do more with a quote or a $ in it than you meant")
	}
	return node.Decode((*[]string)(w))
}

var (
	variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
	sourceOf     = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
)

// checkSources says what is wrong with `codes`.
func checkSources(all map[string]sourceSettings) error {
	if len(all) > mostSources {
		return fmt.Errorf("there are %d, and at most %d can be", len(all), mostSources)
	}
	for _, service := range slices.Sorted(maps.Keys(all)) {
		if err := checkSource(service, all[service]); err != nil {
			return fmt.Errorf("%s: %w", wire.CleanName(service, 63), err)
		}
	}
	return nil
}

func checkSource(service string, s sourceSettings) error {
	switch {
	case !sourceOf.MatchString(service):
		return errors.New("that is no service's name; it stands in a prompt after \"a code for\", as npm does")
	case s.Name == "" || wire.Clean(s.Name, mostName) != s.Name || strings.TrimSpace(s.Name) != s.Name:
		return fmt.Errorf("name: say in 1 to %d characters what you call it, as the button shows it (1Password)", mostName)
	case len(s.Command) == 0 || len(s.Command) > mostWords:
		return fmt.Errorf("command: there are %d words, and there must be 1 to %d", len(s.Command), mostWords)
	}
	for _, w := range s.Command {
		if len(w) > mostWordBytes || strings.ContainsFunc(w, unicode.IsControl) {
			return fmt.Errorf("command: a word has at most %d bytes, and no control characters", mostWordBytes)
		}
	}
	// By a path below the current directory, whoever can write there says what runs.
	if program := s.Command[0]; program == "" || filepath.Base(program) != program && !filepath.IsAbs(program) {
		return errors.New("command: the first word is the program, by its name or its whole path")
	}
	for _, name := range s.Env {
		if !variableName.MatchString(name) {
			return fmt.Errorf("env: %s is no variable's name", wire.CleanName(name, 64))
		}
	}
	return nil
}

// sources are answer.Sources.
type sources struct {
	all    map[string]sourceSettings
	env    environ
	within time.Duration

	asking sync.Mutex // one at a time: a human has two hands, and one key
}

// newSources gives those of the settings; nil if there are none.
func newSources(set settings, env environ) *sources {
	if len(set.Codes) == 0 {
		return nil
	}
	return &sources{all: set.Codes, env: env, within: sourceWithin}
}

// Name is answer.Sources'.
func (s *sources) Name(service string) string { return s.all[service].Name }

// sourceEnv is what a source gets of the environment: what programs need to find
// their files, their agents and the human's desktop. What this program was started
// with besides is none of its business.
var sourceEnv = []string{
	"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "TEMP", "TMP",
	"XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_SESSION_TYPE", "XDG_CURRENT_DESKTOP",
	"DISPLAY", "WAYLAND_DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "SSH_AUTH_SOCK", "GNUPGHOME", "PASSWORD_STORE_DIR",
	"SystemRoot", "SystemDrive", "USERPROFILE", "APPDATA", "LOCALAPPDATA", "ProgramData", "ProgramFiles", "PATHEXT", "ComSpec",
}

// Code is answer.Sources'.
func (s *sources) Code(ctx context.Context, service string, tell func(string)) (code []byte, err error) {
	set, ok := s.all[service]
	if !ok {
		return nil, errors.New("no program is named for it")
	}
	if !s.asking.TryLock() {
		return nil, errors.New("a program is being asked for another prompt's code; answer that first")
	}
	defer s.asking.Unlock()
	path, err := exec.LookPath(set.Command[0])
	if err != nil {
		return nil, fmt.Errorf("there is no program %s that could be run here; the background program looks in its own PATH, so give the whole path in responder.yaml", wire.CleanName(set.Command[0], 200))
	}
	within, stop := context.WithTimeout(ctx, s.within)
	defer stop()
	cmd := exec.CommandContext(within, path, set.Command[1:]...)
	cmd.Env = s.environment(set)
	byItself(cmd)
	out := &bounded{b: make([]byte, 0, wire.MaxCode+2), left: wire.MaxCode + 2}
	defer clear(out.b[:cap(out.b)])
	said := newMurmur(tell)
	cmd.Stdout, cmd.Stderr = out, said
	// A grandchild that keeps standard output open must not hold this up.
	cmd.WaitDelay = 2 * time.Second
	err = cmd.Run()
	said.Close()
	switch {
	case out.full:
		return nil, errors.New("it printed more than a code")
	case within.Err() != nil && ctx.Err() == nil:
		return nil, fmt.Errorf("it did not end within %s", span(s.within))
	case err != nil && !errors.Is(err, exec.ErrWaitDelay): // which is an agent that it has left running
		// The error is an exit status, not what it printed.
		return nil, fmt.Errorf("it failed (%w)", err)
	}
	b := bytes.TrimSuffix(bytes.TrimSuffix(out.b, []byte("\n")), []byte("\r"))
	if len(b) == 0 {
		return nil, errors.New("it printed nothing")
	}
	return bytes.Clone(b), nil
}

func (s *sources) environment(set sourceSettings) (env []string) {
	for _, name := range slices.Concat(sourceEnv, set.Env) {
		if v := s.env.get(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// murmur passes on what a source says, line by line, as it says it: "touch your key"
// is of no use afterwards.
type murmur struct {
	w    *io.PipeWriter
	done chan struct{}
}

func newMurmur(tell func(string)) *murmur {
	r, w := io.Pipe()
	m := &murmur{w: w, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		lines := bufio.NewScanner(io.LimitReader(r, mostSaid))
		for n := 0; n < mostSaidLines && lines.Scan(); {
			if text := wire.Clean(strings.TrimSpace(concealed(lines.Text())), 200); text != "" {
				tell(text)
				n++
			}
		}
		// It may say more, and shall not be held up by nobody's reading it.
		_, _ = io.Copy(io.Discard, r)
	}()
	return m
}

// Write is io.Writer's.
func (m *murmur) Write(b []byte) (int, error) { return m.w.Write(b) }

// Close waits until what was said is passed on.
func (m *murmur) Close() {
	m.w.Close()
	<-m.done
}

var word = regexp.MustCompile(`[0-9]+(?:[ -][0-9]+)+|[A-Za-z0-9]+`)

// concealed leaves out what could be a code: some programs show theirs on standard
// error too, and from there it would go to every way to ask and to a log.
func concealed(line string) string {
	return word.ReplaceAllStringFunc(line, func(w string) string {
		digits := 0
		for _, r := range w {
			if r >= '0' && r <= '9' {
				digits++
			}
		}
		if digits >= 4 || len(w) >= 32 {
			return "..."
		}
		return w
	})
}
