package child

// What is taken out of a command's output, and what is looked for in it.

import (
	"bytes"
	"regexp"
	"sync"
)

// stars stand for what was taken out.
const stars = "***"

// A hider takes texts out of a stream. What could be the beginning of one is held
// back until it is known to be none: only then does it cost a delay.
type hider struct {
	texts [][]byte
	held  []byte
}

func newHider(texts []string) *hider {
	h := &hider{}
	for _, t := range texts {
		h.add(t)
	}
	return h
}

func (h *hider) add(text string) {
	if text != "" {
		h.texts = append(h.texts, []byte(text))
	}
}

// next is what can be passed on now that p has come.
func (h *hider) next(p []byte) []byte {
	if len(h.texts) == 0 {
		return p
	}
	in := append(h.held, p...)
	var out []byte
	for len(in) > 0 {
		at, end, whole := h.find(in)
		out = append(out, in[:at]...)
		if !whole {
			in = in[at:]
			break
		}
		out = append(out, stars...)
		in = in[end:]
	}
	h.held = bytes.Clone(in)
	return out
}

// find gives where the first hidden text in b begins and ends, or, not whole,
// where the longest end of b begins that could become one.
func (h *hider) find(b []byte) (at, end int, whole bool) {
	at = len(b)
	for _, t := range h.texts {
		if i := bytes.Index(b, t); i >= 0 && (!whole || i < at) {
			at, end, whole = i, i+len(t), true
		}
	}
	if whole {
		return at, end, true
	}
	for _, t := range h.texts {
		for n := min(len(t)-1, len(b)); n > 0; n-- {
			if bytes.HasSuffix(b, t[:n]) {
				at = min(at, len(b)-n)
				break
			}
		}
	}
	return at, len(b), false
}

func (h *hider) rest() []byte {
	rest := h.held
	h.held = nil
	return rest
}

// maxLook is how much of the end of the output is looked at.
const maxLook = 64 << 10

// A look shows what was written lately as plain text.
type look struct {
	mu   sync.Mutex
	text []byte
	see  func(string)
}

func newLook(see func(string)) *look {
	if see == nil {
		return nil
	}
	return &look{see: see}
}

func (l *look) write(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	if len(l.text) > 2*maxLook {
		l.text = append(l.text[:0], l.text[len(l.text)-maxLook:]...)
	}
	l.see(string(Plain(l.text)))
}

// escapes are the control sequences of ECMA-48 that colours and cursors are made
// of, and operating system commands (links, titles).
var escapes = regexp.MustCompile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)|[@-Z\\\\^_=>78])")

// Plain is text without escape sequences: a tool that colours what it says is to be
// read the same as one that does not.
func Plain(b []byte) []byte {
	if !bytes.ContainsRune(b, '\x1b') {
		return b
	}
	return escapes.ReplaceAll(b, nil)
}
