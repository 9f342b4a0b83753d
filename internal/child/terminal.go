package child

// A terminal of the command's own: for tools that ask for a code in no other way.

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"time"

	"github.com/creack/pty"
)

// echoTime bounds how long after a reply what comes back is taken for its echo.
const echoTime = 2 * time.Second

// maxEcho bounds it in bytes.
const maxEcho = 4 << 10

// terminal is the master side, and what is typed there.
type terminal struct {
	c     Command
	ctx   context.Context
	end   context.CancelCauseFunc
	f     *os.File
	read  chan struct{} // closed when there is nothing more to read
	typed sync.WaitGroup

	mu      sync.Mutex
	since   []byte // written since the last reply
	asking  bool
	replies int
	err     error

	echo    bool // what comes is the echo of a reply
	echoed  int
	echoEnd time.Time
	line    string // the reply on whose line the terminal still is; "": none
}

func (p *Process) startTerminal(ctx context.Context, c Command) error {
	if c.Stdin != nil || c.FD != 0 {
		return errors.New("a command with a terminal of its own reads nothing else")
	}
	// Wide, so that no tool breaks a link or a prompt over two lines; and no wider,
	// because some fill lines with spaces.
	f, err := pty.StartWithSize(p.cmd, &pty.Winsize{Rows: 50, Cols: 240})
	if errors.Is(err, pty.ErrUnsupported) {
		return errors.New("this system gives a command no terminal of its own; run this on Linux or macOS")
	}
	if err != nil {
		return err
	}
	p.group = true // it leads a session
	ctx, end := context.WithCancelCause(ctx)
	p.tty = &terminal{c: c, ctx: ctx, end: end, f: f, read: make(chan struct{})}
	go p.tty.copy(p)
	return nil
}

// copy passes on what the command writes. A read fails when the last process that
// has the terminal open is gone.
func (t *terminal) copy(p *Process) {
	defer close(t.read)
	b := make([]byte, 8<<10)
	for {
		n, err := t.f.Read(b)
		if n > 0 {
			t.came(p, b[:n])
		}
		if err != nil {
			return
		}
	}
}

func (t *terminal) came(p *Process, b []byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if b = t.withoutEcho(b); len(b) > 0 {
		if _, err := p.out.Write(b); err != nil && t.err == nil {
			t.err = err
			p.stop(err)
		}
	}
	t.since = append(t.since, b...)
	if len(t.since) > maxLook {
		t.since = append(t.since[:0], t.since[len(t.since)-maxLook:]...)
	}
	if t.asking {
		return
	}
	shown := Plain(t.since)
	for _, s := range t.c.Say {
		if s.Question.Match(shown) {
			t.since = t.since[:0]
			_, _ = io.WriteString(t.f, s.Answer+"\r")
			return
		}
	}
	if t.c.Prompt == nil || t.c.Reply == nil || !t.c.Prompt.Match(shown) {
		return
	}
	t.asking = true
	t.replies++
	n, text := t.replies, string(shown)
	// Beside the reading: a command that asks and goes on to write must not block.
	t.typed.Go(func() {
		text, err := t.c.Reply(t.ctx, n, text)
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.ctx.Err() != nil {
			return // it has ended by itself: how, is what counts
		}
		if err != nil {
			if t.err == nil {
				t.err = err
			}
			p.stop(err)
			return
		}
		p.out.hides(text)
		t.since, t.asking = t.since[:0], false
		t.echo, t.echoed, t.echoEnd, t.line = true, 0, time.Now().Add(echoTime), text
		// Return, as the key sends it: a program in raw mode waits for that, and in
		// cooked mode the terminal makes a line feed of it.
		_, _ = io.WriteString(t.f, text+"\r")
	})
}

// withoutEcho drops what a terminal, or a program that draws its own line, shows
// of a reply while it is typed: up to the end of that line. Programs that draw
// after each key would else show the code's beginning, which is not the whole
// code and so is not hidden by being looked for.
func (t *terminal) withoutEcho(b []byte) []byte {
	i := bytes.IndexByte(b, '\n')
	if !t.echo {
		if t.line == "" {
			return b
		}
		// A program that draws slowly is still at it.
		end := len(b)
		if i >= 0 {
			end = i
		}
		shown := slices.Concat(withoutBeginnings(b[:end], t.line), b[end:])
		if i >= 0 {
			t.line = ""
		}
		return shown
	}
	switch {
	case i >= 0:
		t.echo, t.line = false, ""
		return append([]byte("\r\n"), b[i+1:]...)
	case t.echoed+len(b) > maxEcho, time.Now().After(t.echoEnd):
		t.echo = false
		return withoutBeginnings(b, t.line)
	}
	t.echoed += len(b)
	return nil
}

// withoutBeginnings takes out all that a text begins with, of three characters at
// least: fewer tell nothing, and stand everywhere.
func withoutBeginnings(b []byte, text string) []byte {
	for n := len(text); n >= 3; n-- {
		b = bytes.ReplaceAll(b, []byte(text[:n]), []byte(stars))
	}
	return b
}

func (t *terminal) fault() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// wait waits for the command's end, and for what it wrote until then.
func (t *terminal) wait(p *Process) error {
	err := p.cmd.Wait()
	t.end(nil)
	select {
	case <-t.read:
	case <-time.After(patience): // something that it left running holds the terminal
	}
	_ = t.f.Close()
	<-t.read
	t.typed.Wait()
	var ended *exec.ExitError
	if errors.As(err, &ended) || errors.Is(err, exec.ErrWaitDelay) || p.cmd.ProcessState != nil {
		return nil
	}
	return err
}
