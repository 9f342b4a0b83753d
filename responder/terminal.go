package main

// The terminal as a surface: the terminal device itself, not stdin and stdout,
// which may be somebody else's data. It is put into raw mode, so that nothing
// but this file decides what is echoed.

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/term"
)

var errNoTerminal = errors.New("there is no terminal")

// device is an open terminal.
type device struct {
	in, out *os.File
	own     bool // opened here
}

// openTerminal opens the human's terminal, if stdin is one. Where stdin is not,
// a program is at the other end, and a terminal that the process happens to
// have belongs to somebody who runs that program.
func openTerminal() (*device, error) {
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return nil, errNoTerminal
	}
	if tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0); err == nil {
		return &device{in: tty, out: tty, own: true}, nil
	}
	if !term.IsTerminal(int(os.Stdout.Fd())) {
		return nil, errNoTerminal
	}
	return &device{in: os.Stdin, out: os.Stdout}, nil
}

func (d *device) Close() {
	if d.own {
		_ = d.in.Close()
	}
}

// terminal is a surface on a terminal.
type terminal struct {
	dev   *device
	was   *term.State
	term  *term.Terminal
	keys  *keyboard
	asks  chan question
	typed chan typed
	once  sync.Once
	over  chan struct{}
}

type question struct {
	text   string
	hidden bool
}

func newTerminal(dev *device) (*terminal, error) {
	was, err := term.MakeRaw(int(dev.in.Fd()))
	if err != nil {
		return nil, err
	}
	// Other programs write to this terminal too, the job in the demo for one.
	keepNewlines(int(dev.in.Fd()))
	t := &terminal{
		dev: dev, was: was, keys: &keyboard{in: dev.in},
		asks: make(chan question, 1), typed: make(chan typed), over: make(chan struct{}),
	}
	t.term = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{t.keys, dev.out}, "")
	t.term.History = forgetful{}
	go t.read()
	return t, nil
}

// read reads one line for each question, until the terminal is gone. It may be
// left waiting in a read when the program ends.
func (t *terminal) read() {
	defer close(t.typed)
	for {
		var q question
		select {
		case q = <-t.asks:
		case <-t.over:
			return
		}
		t.keys.answering.Store(q.text != commandPrompt)
		var line string
		var err error
		if q.hidden {
			line, err = t.term.ReadPassword(q.text)
		} else {
			t.term.SetPrompt(q.text)
			line, err = t.term.ReadLine()
		}
		left := t.keys.left.Swap(false)
		if err != nil && !left {
			return
		}
		select {
		case t.typed <- typed{line: line, left: left}:
		case <-t.over:
			return
		}
	}
}

// commandPrompt is the question to which Ctrl-D means the end.
const commandPrompt = "> "

func (t *terminal) ask(text string, hidden bool) {
	select {
	case t.asks <- question{text, hidden}:
	case <-t.over:
	}
}

func (t *terminal) lines() <-chan typed { return t.typed }

func (t *terminal) write(text string) {
	if w, h, err := term.GetSize(int(t.dev.out.Fd())); err == nil && w > 0 && h > 0 {
		_ = t.term.SetSize(w, h)
	}
	_, _ = io.WriteString(t.term, harmless(text))
}

func (t *terminal) close() {
	t.once.Do(func() {
		close(t.over)
		_, _ = io.WriteString(t.dev.out, "\r\n")
		_ = term.Restore(int(t.dev.in.Fd()), t.was)
		t.dev.Close()
	})
}

// keyboard turns Ctrl-C, and Ctrl-D in answer to a question, into an empty line
// and a note that the question was left. x/term would end the line as it stands
// and keep what was typed: the first half of a code, to be shown as the
// beginning of the next command.
type keyboard struct {
	in        io.Reader
	rest      []byte
	answering atomic.Bool
	left      atomic.Bool
}

const (
	ctrlC = 0x03
	ctrlD = 0x04
	// clearLine goes to the end of the line (Ctrl-E), deletes back to its
	// beginning (Ctrl-U) and enters it.
	clearLine = "\x05\x15\r"
)

func (k *keyboard) Read(p []byte) (int, error) {
	if len(k.rest) == 0 {
		var buf [64]byte
		n, err := k.in.Read(buf[:])
		if n == 0 {
			return 0, err
		}
		k.rest = append(k.rest[:0], buf[:n]...)
		clear(buf[:])
	}
	// One key at a time, so that what a key means is decided when it is its turn.
	key := k.rest[0]
	k.rest[0] = 0
	if key == ctrlC || key == ctrlD && k.answering.Load() {
		if len(p) < len(clearLine) {
			return 0, io.ErrShortBuffer
		}
		k.rest = k.rest[1:]
		k.left.Store(true)
		return copy(p, clearLine), nil
	}
	k.rest = k.rest[1:]
	p[0] = key
	return 1, nil
}

// forgetful keeps no history: the up key must not bring back a code that was
// typed where a command belongs.
type forgetful struct{}

func (forgetful) Add(string)    {}
func (forgetful) Len() int      { return 0 }
func (forgetful) At(int) string { panic("there is no history") }
