// Package child runs a command for somebody who is to see of it what they would
// have seen without us.
//
// The rules it keeps: what the command writes goes on as it comes, byte for byte;
// what it is given in secret reaches it by its environment, its standard input, a
// file descriptor or a terminal's keyboard, and never by its arguments, which
// every user of the machine can read; and of what it writes back, the secret alone
// is taken out, because a terminal echoes what is typed. How it ended is its own
// exit code.
package child

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"time"
)

const (
	// MaxTail is how much of the end of each stream a [Result] holds, in bytes:
	// what a tool says about why it failed stands there.
	MaxTail = 256 << 10
	// patience is how long a command may take that was told to stop, and how long
	// its output is waited for when it has ended: a process that it left running may
	// hold the pipe open for ever.
	patience = 5 * time.Second
)

// A Command says what runs, and what is done while it does.
type Command struct {
	Argv []string // the program, by name or path, and its arguments
	Dir  string   // "": where we are
	Env  []string // all of it, NAME=value

	// Stdin is what it reads; nil: nothing. An *os.File is handed over as it is.
	Stdin io.Reader
	// Out and Err get what it writes, as it comes. nil: nobody does.
	Out, Err io.Writer

	// FD and Handed: what can be read from that file descriptor (3 to 9), once.
	// 0: nothing. Not on Windows.
	FD     int
	Handed string

	// Hide are texts that are taken out of what it writes.
	Hide []string

	// Terminal gives it a terminal of its own, as standard input, output and
	// error; Err then gets nothing, and Stdin must be nil. Not on Windows.
	Terminal bool
	// Prompt, with Terminal: when what it has shown since the last reply matches,
	// Reply is called with that, and what it gives is typed, with Enter. n counts
	// from 1. An error of Reply ends the command and is what [Run] returns.
	Prompt *regexp.Regexp
	Reply  func(ctx context.Context, n int, shown string) (string, error)
	// Say is what is typed, with Enter, where what it has shown since the last
	// reply matches: questions that are no secret.
	Say []Said

	// See is called with the end of what it has written so far (at most 64 KiB,
	// without escape sequences) each time that there is more, standard error after
	// standard output. It must be quick.
	See func(text string)
}

// Said is a question that a tool asks on a terminal, and what to say to it.
type Said struct {
	Question *regexp.Regexp
	Answer   string
}

// A Result is how a command ended.
type Result struct {
	Code     int    // its exit code; 128 + n where signal n ended it
	Out, Err []byte // the ends of what it wrote, at most [MaxTail] each, nothing taken out
}

// ErrNotFound says that there is no such program, or that it cannot be run.
var ErrNotFound = errors.New("cannot be run")

// A Process is a command that runs.
type Process struct {
	cmd    *exec.Cmd
	group  bool // it leads a process group of its own
	out    *stream
	err    *stream
	tty    *terminal
	done   chan struct{}
	result Result
	fault  error
	stop   context.CancelCauseFunc
}

// Start starts c. When ctx ends, the command is told to stop, and killed if it
// has not ended after 5 s.
func Start(ctx context.Context, c Command) (*Process, error) {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return nil, fmt.Errorf("%w: no command was given", ErrNotFound)
	}
	ctx, stop := context.WithCancelCause(ctx)
	p := &Process{done: make(chan struct{}), stop: stop}
	p.cmd = exec.CommandContext(ctx, c.Argv[0], c.Argv[1:]...)
	p.cmd.Dir, p.cmd.Env = c.Dir, c.Env
	p.cmd.WaitDelay = patience
	p.cmd.Cancel = func() error { return p.Signal(terminate) }
	look := newLook(c.See)
	p.out = newStream(c.Out, c.Hide, look)
	p.err = newStream(c.Err, c.Hide, look)
	var err error
	if c.Terminal {
		err = p.startTerminal(ctx, c)
	} else {
		err = p.startPipes(c)
	}
	if err != nil {
		stop(nil)
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%q %w: %w", c.Argv[0], ErrNotFound, err)
		}
		return nil, err
	}
	go p.wait(ctx)
	return p, nil
}

// Run starts c and waits for its end.
func Run(ctx context.Context, c Command) (Result, error) {
	p, err := Start(ctx, c)
	if err != nil {
		return Result{}, err
	}
	return p.Wait()
}

func (p *Process) startPipes(c Command) error {
	p.cmd.Stdin = c.Stdin
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.err
	p.group = ownGroup(p.cmd, c.Stdin)
	var give, take *os.File
	if c.FD != 0 {
		if c.FD < 3 || c.FD > 9 {
			return fmt.Errorf("file descriptor %d: it is one from 3 to 9", c.FD)
		}
		if !passesFiles {
			return errors.New("this system hands no file descriptors to a command")
		}
		var err error
		if take, give, err = os.Pipe(); err != nil {
			return err
		}
		defer take.Close()
		// Those below are not open in the child: exec takes nil for that.
		p.cmd.ExtraFiles = make([]*os.File, c.FD-2)
		p.cmd.ExtraFiles[c.FD-3] = take
	}
	if err := p.cmd.Start(); err != nil {
		if give != nil {
			give.Close()
		}
		return err
	}
	if give != nil {
		// A code fits the pipe, so this does not wait for the command to read.
		_, _ = io.WriteString(give, c.Handed)
		_ = give.Close()
	}
	return nil
}

// Done is closed when the command has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for its end.
func (p *Process) Wait() (Result, error) {
	<-p.done
	return p.result, p.fault
}

// Stop tells it to stop, and kills it if it has not ended after 5 s.
func (p *Process) Stop() {
	p.stop(nil)
	<-p.done
}

// Signal passes a signal on. It is for what the command started too, where it
// leads a process group of its own.
func (p *Process) Signal(s os.Signal) error { return signal(p.cmd.Process, p.group, s) }

func (p *Process) wait(ctx context.Context) {
	defer close(p.done)
	defer p.stop(nil)
	var err error
	if p.tty != nil {
		err = p.tty.wait(p)
	} else {
		err = p.cmd.Wait()
	}
	if ctx.Err() != nil && p.group {
		_ = p.Signal(os.Kill) // what it started, and what did not stop with it
	}
	p.out.flush()
	p.err.flush()
	p.result.Out, p.result.Err = p.out.tail.bytes(), p.err.tail.bytes()
	p.result.Code = exitCode(p.cmd.ProcessState)
	var ended *exec.ExitError
	switch {
	case p.tty != nil && p.tty.fault() != nil:
		p.fault = p.tty.fault()
	case err == nil, errors.As(err, &ended), errors.Is(err, exec.ErrWaitDelay), ctx.Err() != nil && errors.Is(err, ctx.Err()):
	default:
		p.fault = err // what it wrote could not be passed on
	}
}

// A stream passes on what is written to it, without what is to be hidden, and
// keeps its end.
type stream struct {
	mu   sync.Mutex
	to   io.Writer
	hide *hider
	tail tail
	look *look
}

func newStream(to io.Writer, hide []string, l *look) *stream {
	return &stream{to: to, hide: newHider(hide), look: l}
}

func (s *stream) Write(p []byte) (int, error) {
	if err := s.wrote(p, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// wrote keeps what the command wrote, and passes on what is to be shown of it.
func (s *stream) wrote(p, shown []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p) > 0 {
		s.tail.write(p)
		if s.look != nil {
			s.look.write(p)
		}
	}
	if s.to == nil || len(shown) == 0 {
		return nil
	}
	_, err := s.to.Write(s.hide.next(shown))
	return err
}

// hides hides one more text from now on.
func (s *stream) hides(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hide.add(text)
}

// flush passes on what was held back as the possible beginning of a hidden text.
func (s *stream) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if rest := s.hide.rest(); s.to != nil && len(rest) > 0 {
		_, _ = s.to.Write(rest)
	}
}

// tail keeps the last MaxTail bytes.
type tail struct{ b []byte }

func (t *tail) write(p []byte) {
	t.b = append(t.b, p...)
	if len(t.b) > 2*MaxTail {
		t.b = append(t.b[:0], t.b[len(t.b)-MaxTail:]...)
	}
}

func (t *tail) bytes() []byte {
	if len(t.b) > MaxTail {
		return t.b[len(t.b)-MaxTail:]
	}
	return t.b
}
