package child

// What a terminal shows of a code that is typed there.

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// What comes back after a reply is not shown at all for so long, nor for more
	// bytes: a program that never ends its line would seem to hang.
	silentTime  = 2 * time.Second
	silentBytes = 4 << 10
	// For so long, and so many bytes, a program may go back to a line that it has
	// ended, as those do that draw all they show anew at each key.
	redrawTime  = 30 * time.Second
	redrawBytes = 64 << 10
	// screen is how many lines there are at most to go back.
	screen = 50
)

// An echo takes out of what a command shows on a terminal what that shows of one
// reply: the terminal's own echo, or what a program draws that reads key by key.
// Such a program shows a code's beginning, or its characters one by one with spaces
// and escape sequences between, so looking for the code does not find it. Hence
// nothing passes that a code could be made of, until the line that it was typed on
// has ended, however long that takes; and again where the program goes back to it.
// That is not only this code's own characters: a line that shows some digits and
// hides others says of which the code is made.
//
// The zero value takes out nothing.
type echo struct {
	text   string          // the reply; "": there was none
	madeOf func(byte) bool // what a code like this one is made of
	begun  time.Time
	came   int // bytes since then

	silent bool // nothing at all is shown
	lines  int  // line ends until what follows is shown as it is
	held   []byte
}

func newEcho(text string, now time.Time) echo {
	return echo{text: text, madeOf: alphabet(text), begun: now, silent: true, lines: 1}
}

// alphabet is what codes of the kind of text are made of.
func alphabet(text string) func(byte) bool {
	for _, set := range []string{"0123456789", "0123456789abcdefABCDEF"} {
		if strings.Trim(text, set) == "" {
			return func(c byte) bool { return strings.IndexByte(set, c) >= 0 }
		}
	}
	return func(c byte) bool { return c > ' ' && c != 0x7f }
}

// open says that the line of the reply has not ended.
func (e *echo) open() bool { return e.lines > 0 }

var (
	// steps are what decides which line a terminal is on, and what has no width.
	steps = regexp.MustCompile(`\n|` + escapes.String())
	// unfinished is an escape sequence that is to go on.
	unfinished = regexp.MustCompile("\x1b(?:\\[[0-?]*[ -/]*|\\][^\x07\x1b]*\x1b?)?$")
	// back is a cursor that goes up, or to a place that was named or kept before.
	back = regexp.MustCompile("^\x1b(?:\\[([0-9]*)[AF]|\\[[0-9;]*[Hfdu]|8|M)$")
)

// without is what is shown of b.
func (e *echo) without(b []byte, now time.Time) (shown []byte) {
	if e.text == "" {
		return b
	}
	b = slices.Concat(e.held, b)
	e.held = nil
	e.came += len(b)
	late := now.Sub(e.begun)
	if late > silentTime || e.came > silentBytes {
		e.silent = false
	}
	over := late > redrawTime || e.came > redrawBytes
	if over {
		e.lines = min(e.lines, 1)
	}
	// Half an escape sequence: what it is, the next bytes say.
	if at := unfinished.FindIndex(b); at != nil && !over {
		b, e.held = b[:at[0]], bytes.Clone(b[at[0]:])
	}
	for len(b) > 0 {
		if over && !e.open() {
			*e = echo{}
			return append(shown, b...)
		}
		at := steps.FindIndex(b)
		if at == nil {
			at = []int{len(b), len(b)}
		}
		text, step := b[:at[0]], b[at[0]:at[1]]
		b = b[at[1]:]
		shown = append(shown, e.plain(text)...)
		switch {
		case len(step) == 0:
		case step[0] == '\n':
			if e.silent {
				shown = append(shown, '\r') // which was not shown
			}
			shown = append(shown, '\n')
			e.silent, e.lines = false, max(e.lines-1, 0)
		default:
			if !over {
				e.lines = min(e.lines+goesUp(step), screen)
			}
			// A window's title is text that somebody reads.
			if !e.silent && (!e.open() || step[1] != ']') {
				shown = append(shown, step...)
			}
		}
	}
	return shown
}

// plain is what is shown of text, in which the terminal stays on its line.
func (e *echo) plain(text []byte) []byte {
	switch {
	case e.silent:
		return nil
	case e.open():
		text = bytes.Clone(text)
		for i, c := range text {
			if e.madeOf(c) {
				text[i] = '*'
			}
		}
		return text
	}
	return withoutBeginnings(text, e.text)
}

// goesUp is how many lines an escape sequence goes up, at most.
func goesUp(step []byte) int {
	m := back.FindSubmatch(step)
	switch {
	case m == nil:
		return 0
	case bytes.HasSuffix(step, []byte("M")):
		return 1
	case !bytes.HasSuffix(step, []byte("A")) && !bytes.HasSuffix(step, []byte("F")):
		return screen
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		return 1 // no number
	}
	return min(max(n, 1), screen)
}

// rest is what is held back at the end.
func (e *echo) rest() []byte {
	defer func() { e.held = nil }()
	return e.plain(e.held)
}

// withoutBeginnings takes out all that a text begins with, of three characters at
// least: fewer tell nothing, and stand everywhere.
func withoutBeginnings(b []byte, text string) []byte {
	for n := len(text); n >= 3; n-- {
		b = bytes.ReplaceAll(b, []byte(text[:n]), []byte(stars))
	}
	return b
}
