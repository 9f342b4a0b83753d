package child

// A terminal of the command's own: for tools that ask for a code in no other way.

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/creack/pty"
)

// quietTime is how long nothing may come after what looks like a prompt, on a line
// that a reply was typed on, until it is one: a program that draws its line anew at
// each key shows its prompt once more, and goes on.
const quietTime = 5 * time.Second

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

	echo  echo        // of the last reply
	quiet *time.Timer // runs while that has not ended
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
	if err := p.out.wrote(b, t.echo.without(b, time.Now())); err != nil && t.err == nil {
		t.err = err
		p.stop(err)
	}
	t.since = append(t.since, b...)
	if len(t.since) > maxLook {
		t.since = append(t.since[:0], t.since[len(t.since)-maxLook:]...)
	}
	if t.quiet != nil {
		t.quiet.Stop()
		t.quiet = nil
	}
	if !t.echo.open() {
		t.answer(p)
		return
	}
	var quiet *time.Timer
	quiet = time.AfterFunc(quietTime, func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.quiet == quiet {
			t.answer(p)
		}
	})
	t.quiet = quiet
}

// answer answers what is asked, if something is.
func (t *terminal) answer(p *Process) {
	if t.asking || t.ctx.Err() != nil {
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
		t.echo = newEcho(text, time.Now())
		// Return, as the key sends it: a program in raw mode waits for that, and in
		// cooked mode the terminal makes a line feed of it.
		_, _ = io.WriteString(t.f, text+"\r")
	})
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
	t.mu.Lock()
	if t.quiet != nil {
		t.quiet.Stop()
		t.quiet = nil
	}
	_ = p.out.wrote(nil, t.echo.rest())
	t.mu.Unlock()
	t.typed.Wait()
	var ended *exec.ExitError
	if errors.As(err, &ended) || errors.Is(err, exec.ErrWaitDelay) || p.cmd.ProcessState != nil {
		return nil
	}
	return err
}
