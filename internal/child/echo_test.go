package child

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// came is what a command shows, and how long after the reply.
type came struct {
	after time.Duration
	bytes string
}

func TestNothingThatACodeCouldBeMadeOfIsShownOnTheLineItWasTypedOn(t *testing.T) {
	t.Parallel()
	const long = 10 * time.Second
	for name, c := range map[string]struct {
		code  string
		came  []came
		shown string
	}{
		"the terminal's echo": {"918273", []came{{0, "918273\r\n"}, {0, "took 5 of 9\r\n"}}, "\r\ntook 5 of 9\r\n"},
		"in pieces, slowly": {"918273",
			[]came{{0, "\r\x1b[KOTP: 9"}, {long, "\r\x1b[KOTP: 9 1"}, {long, "\x1b[1m 8\x1b[0m 2"}, {2 * long, "7"}, {2 * long, " 3"}, {3 * long, "\r\n"}, {3 * long, "5 of 9"}},
			"\r\x1b[KOTP: * *\x1b[1m *\x1b[0m ** *\r\n5 of 9"},
		"a long line": {"918273",
			[]came{{0, strings.Repeat("=", silentBytes)}, {0, " 9 1 4 \x1b[3"}, {0, "1m8 4\n4"}}, " * * * \x1b[31m* *\n4"},
		"a line without an end": {"918273", []came{{0, "9"}, {2 * redrawTime, "45% of 9"}, {3 * redrawTime, ", 1 8"}}, "**% of *, * *"},
		"hex":                   {"00ff18", []came{{0, "0"}, {long, "0 0 F f done\n0"}}, "* * * * *on*\n0"},
		"words":                 {"open sesame", []came{{0, "o"}, {long, "p e\x1b[1mn\x1b[0m é 7\n"}, {long, "p e n"}}, "* *\x1b[1m*\x1b[0m ** *\np e n"},
		"a title":               {"918273", []came{{long, "\x1b]0;9 1 8\x07\x1b]0;2"}, {long, " 7 3\x1b\\\n"}}, "\n"},
		// Each frame ends its line, and the next one goes back there.
		"drawn anew, whole": {"918273",
			[]came{{0, "\x1b[2K\x1b[1A\x1b[2K\x1b[GOTP: 9\n a hint\n"}, {long, "\x1b[2K\x1b[1A\x1b[2K\x1b[1A\x1b[2K\x1b[GOTP: 91 8\n a 5 hint\n"}, {long, "now 5\n"}},
			"\r\n a hint\n\x1b[2K\x1b[1A\x1b[2K\x1b[1A\x1b[2K\x1b[GOTP: ** *\n a * hint\nnow 5\n"},
		"a place that was kept": {"918273", []came{{0, "9\n"}, {long, "\x1b"}, {long, "89 1 8 2"}, {2 * redrawTime, "\n 5"}}, "\r\n\x1b8* * * *\n 5"},
		"gone back too late":    {"918273", []came{{0, "9\n"}, {2 * redrawTime, "\x1b[1A5 of 9\n"}}, "\r\n\x1b[1A5 of 9\n"},
		"its beginning alone":   {"918273", []came{{0, "918273\r\n"}, {0, "91827 is wrong, 91\n"}}, "\r\n*** is wrong, 91\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun := time.Now()
			e := newEcho(c.code, begun)
			var shown []byte
			for _, p := range c.came {
				shown = append(shown, e.without([]byte(p.bytes), begun.Add(p.after))...)
			}
			if shown = append(shown, e.rest()...); string(shown) != c.shown {
				t.Errorf("shown %q, want %q", shown, c.shown)
			}
		})
	}
}

// Where the bytes are cut tells nothing more.
func FuzzAnEchoShowsNothingOfItsCode(f *testing.F) {
	f.Add([]byte("\r\x1b[KOTP: 9\r\x1b[K OTP: 9 1"), uint16(9), true)
	f.Add([]byte("9\x1b[1m1\x1b]0;8\x07\x1b[1A2\n7\x1b[2A"), uint16(3), false)
	f.Add([]byte("\x1b]9182\x1b\\73\x1b\n\x1b8918"), uint16(2), true)
	f.Fuzz(func(t *testing.T, b []byte, cut uint16, slowly bool) {
		begun := time.Now()
		e, late := newEcho("918273", begun), begun
		if slowly {
			late = begun.Add(silentTime + time.Second)
		}
		at := min(int(cut), len(b))
		shown := bytes.Clone(e.without(b[:at], begun))
		shown = append(shown, e.without(b[at:], late)...)
		shown = append(shown, e.rest()...)
		line, _, _ := bytes.Cut(shown, []byte("\n"))
		if line = Plain(line); bytes.ContainsAny(line, "0123456789") && !bytes.ContainsRune(line, '\x1b') {
			t.Fatalf("of %q, cut at %d: shown %q", b, at, shown)
		}
	})
}
