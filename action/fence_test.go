package main

import (
	"bytes"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"
)

// runner is GitHub's, as its source has it, for one stream.
type runner struct {
	token   *string // switched off with it
	known   map[string]bool
	masked  []string
	visible []string
}

func (r *runner) line(text string) {
	name, data, is := r.newForm(text)
	if !is {
		name, data, is = r.oldForm(text)
	}
	name = strings.ToLower(name)
	switch {
	case !is:
	case r.token != nil:
		if *r.token != "" && name == strings.ToLower(*r.token) {
			delete(r.known, name)
			r.token = nil
		}
	case name == "stop-commands":
		r.token = &data
		r.known[strings.ToLower(data)] = true
	case name == "add-mask":
		r.masked = append(r.masked, data)
		return
	}
	r.visible = append(r.visible, text)
}

func (r *runner) newForm(text string) (name, data string, is bool) {
	text = strings.TrimSpace(text + "|")
	text = text[:len(text)-1]
	if !strings.HasPrefix(text, "::") {
		return "", "", false
	}
	end := strings.Index(text[2:], "::")
	if end < 0 {
		return "", "", false
	}
	name, _, _ = strings.Cut(text[2:2+end], " ")
	return name, strings.NewReplacer("%0D", "\r", "%0A", "\n", "%25", "%").Replace(text[2+end+2:]), r.known[strings.ToLower(name)]
}

func (r *runner) oldForm(text string) (name, data string, is bool) {
	begin := strings.Index(text, "##[")
	if begin < 0 {
		return "", "", false
	}
	end := strings.Index(text[begin:], "]")
	if end < 0 {
		return "", "", false
	}
	name, _, _ = strings.Cut(text[begin+3:begin+end], " ")
	return name, strings.NewReplacer("%3B", ";", "%0D", "\r", "%0A", "\n", "%5D", "]", "%25", "%").Replace(text[begin+end+1:]), r.known[strings.ToLower(name)]
}

func read(log string) *runner {
	r := &runner{known: map[string]bool{"add-mask": true, "debug": true, "error": true, "group": true, "stop-commands": true}}
	log = strings.ReplaceAll(log, "\r\n", "\n")
	for _, line := range strings.FieldsFunc(log, func(c rune) bool { return c == '\r' || c == '\n' }) {
		r.line(line)
	}
	return r
}

const fencedSecret = "918273"

// hides writes text to a log on standard error, and then a mask. It gives what the
// log says, and whether the mask was written.
func hides(github bool, text string) (log string, masked bool) {
	var out, err bytes.Buffer
	f := newFences(github, &out, &err)
	_, _ = io.WriteString(f.err, text)
	masked = f.sure() == nil && f.open(func() error {
		_, err := io.WriteString(&err, "::add-mask::"+fencedSecret+"\n")
		return err
	}) == nil
	return err.String(), masked
}

func TestASecretIsHiddenWhateverTheLogWasTold(t *testing.T) {
	t.Parallel()
	const stop = "::stop-commands::"
	for name, c := range map[string]struct {
		text  string
		token string // "": commands are on
		lost  bool
	}{
		"nothing":                     {"hello\n", "", false},
		"plain":                       {"hello\n" + stop + "abc\nmore\n", "abc", false},
		"another command":             {stop + "abc\n::other::\n::error::x\n", "abc", false},
		"on again":                    {stop + "abc\n::abc::\nmore\n", "", false},
		"on again, in capitals":       {stop + "abc\n ::ABC a=b::x\r\nmore\n", "", false},
		"on again, the old form":      {stop + "abc\nso ##[abc]x\n", "", false},
		"twice":                       {stop + "abc\n" + stop + "def\n::def::\n", "abc", false},
		"off again":                   {stop + "abc\n::abc::\n" + stop + "def\n", "def", false},
		"capitals":                    {"::Stop-Commands::abc\n", "abc", false},
		"properties":                  {"::stop-commands a=b,c=d::abc\n", "abc", false},
		"white space":                 {" \t\u00a0\v::stop-commands::abc\r\n", "abc", false},
		"the old form":                {"##[stop-commands]abc\n", "abc", false},
		"the old form, in a line":     {"2026 build: ##[STOP-commands a=b;c=d]abc\n", "abc", false},
		"after a carriage return":     {"50%\r::stop-commands::abc\r\n", "abc", false},
		"no command":                  {"see ::stop-commands::abc\n", "", false},
		"no command, in colour":       {"\x1b[1m::stop-commands::abc\n", "", false},
		"data of another":             {"::debug::##[stop-commands]abc\n", "", false},
		"on, in data of another":      {stop + "abc\n::debug::##[abc]\n", "abc", false},
		"a line that is not over":     {"::stop-commands::abc", "abc", false},
		"something left":              {"code wanted: ", "", false},
		"a token with a colon":        {stop + "a:b\n", "a:b", false},
		"a token of two words":        {stop + "a b\n", "", true},
		"a token with a space behind": {stop + "abc \n", "", true},
		"a token that ends a command": {stop + "a::b\n", "", true},
		"no token":                    {stop + "\n", "", true},
		"an escaped one":              {"##[stop-commands]a%3Bb\n", "", true},
		"a command's name":            {stop + "add-mask\n", "", true},
		"its own name":                {stop + "Stop-Commands\n", "", true},
		"no ASCII":                    {stop + "ä\n", "", true},
		"a character of no width":     {"\u00ad::stop-commands::abc\n", "", true},
		"one within":                  {"::stop-\u200dcommands::abc\n", "", true},
		"a very long line":            {strings.Repeat("x", 2*maxLogLine) + "##[stop-commands]abc\n", "", true},
		"a long line":                 {strings.Repeat("x", 2*maxLogLine) + "\n", "", false},
		"a long line, cut":            {strings.Repeat("x", maxLogLine-3) + "stop-commands" + strings.Repeat("x", maxLogLine), "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			log, masked := hides(true, c.text)
			if masked == c.lost {
				t.Fatalf("hidden: %v; the log is %q", masked, log)
			}
			r := read(log)
			if !c.lost && (len(r.masked) != 1 || r.masked[0] != fencedSecret) || strings.Contains(strings.Join(r.visible, "\n"), fencedSecret) {
				t.Errorf("the log shows %q", r.visible)
			}
			// And it is left as it was.
			if c.token != "" && (r.token == nil || *r.token != c.token) || c.token == "" && !c.lost && r.token != nil {
				t.Errorf("switched off with %v, want %q", r.token, c.token)
			}
		})
	}
}

// Other runners that take these commands read less of them, and differ.
func TestAnotherRunnerIsNotTakenForGitHubs(t *testing.T) {
	t.Parallel()
	for text, able := range map[string]bool{
		"hello\n": true, "::stop-commands::abc\n": true, "##[stop-commands]abc\n": true, "::stop-commands::abc\n::abc::\n": true,
		"::Stop-Commands::abc\n": false, " ::stop-commands::abc\n": false, "::stop-commands a=b::abc\n": false, "x ##[stop-commands]abc\n": false,
	} {
		if log, masked := hides(false, text); masked != able {
			t.Errorf("%q: hidden %v, the log is %q", text, masked, log)
		}
	}
}

// The runner reads both streams at once.
func TestWhatTheOtherStreamSaysOfIt(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		out, err string
		log      string // standard error, from where the mask stands on; "": none does
	}{
		"off":             {"::stop-commands::abc\n", "", "::abc::\n!::stop-commands::abc\n"},
		"off by both":     {"::stop-commands::abc\n", "::stop-commands::abc\n", "::stop-commands::abc\n::abc::\n!::stop-commands::abc\n"},
		"off, by others":  {"::stop-commands::abc\n", "::stop-commands::def\n", ""},
		"on by the other": {"::stop-commands::abc\n", "::abc::\n", "::abc::\n::abc::\n!::stop-commands::abc\n"},
		"on":              {"::stop-commands::abc\n::abc::\n", "x\n", "x\n!"},
	} {
		var out, err bytes.Buffer
		f := newFences(true, &out, &err)
		_, _ = io.WriteString(f.out, c.out)
		_, _ = io.WriteString(f.err, c.err)
		failed := f.open(func() error { err.WriteString("!"); return nil })
		if (failed != nil) != (c.log == "") || failed == nil && err.String() != c.log {
			t.Errorf("%s: %v, the log is %q", name, failed, &err)
		}
	}
}

func FuzzASecretIsHiddenInGitHubsLog(f *testing.F) {
	for _, text := range []string{"::stop-commands::a\n::a::\n", " ::STOP-commands a=b::x::y\n::x::\n", "x##[stop-commands]a%3Bb\n##[a;b]", "::debug::##[stop-commands]a\n::debug::##[a]\n", "::stop-commands:::a\n:::a::", "::::\r::stop-commands::"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, fencedSecret) || strings.Contains(strings.ToLower(text), "add-mask") {
			return
		}
		log, masked := hides(true, text)
		r := read(log)
		if strings.Contains(strings.Join(r.visible, "\n"), fencedSecret) || masked != (len(r.masked) == 1) {
			t.Fatalf("after %q the log shows %q", text, r.visible)
		}
	})
}

// The whole of it: the mask of a code goes between what a command told the runner,
// and nobody is asked for one that could not be hidden.
func TestAFencedLogIsOpenedForTheMask(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("there is no shell")
	}
	for name, c := range map[string]struct {
		script string
		masked bool
	}{
		"a fence":    {`echo "::Stop-Commands a=b::tok"; test "$OTP" || { printf wanted >&2; exit 1; }`, true},
		"no way out": {`echo "::stop-commands::two words"; test "$OTP" || { echo wanted; exit 1; }`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRelay(t, t.TempDir())
			e := &environment{lines: append(r.job(t), "CFA_PROJECT=answers")}
			var out, log bytes.Buffer
			code := run(t.Context(), []string{"exec", "--env", "OTP", "--refused", "wanted", "--", "sh", "-c", c.script},
				stdio{out: &out, err: &log, getenv: e.get, environ: os.Environ})
			const mask = "\n::tok::\n::add-mask::" + testCode + "\n::stop-commands::tok\n"
			switch {
			case c.masked && (code != 0 || !strings.Contains(log.String(), mask)):
				t.Errorf("exit code %d: %s", code, &log)
			case !c.masked && (code != exitCancelled || !strings.Contains(log.String(), "stop-commands") || strings.Contains(log.String(), "asking")):
				t.Errorf("exit code %d: %s", code, &log)
			}
			if !c.masked && strings.Contains(out.String()+log.String(), testCode) {
				t.Errorf("the code is in the log: %s%s", &out, &log)
			}
		})
	}
}

// A line of ours is not taken for part of a command that another program has begun.
func TestALineOfOursStandsAlone(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                       "cfa: npm wants a code\n",
		"done\n":                 "done\ncfa: npm wants a code\n",
		"::debug::":              "::debug::\ncfa: npm wants a code\n",
		"::stop-commands::":      "::stop-commands::\ncfa: npm wants a code\n",
		"##[add-mask]something ": "##[add-mask]something \ncfa: npm wants a code\n",
	} {
		var err bytes.Buffer
		f := newFences(true, io.Discard, &err)
		_, _ = io.WriteString(f.err, text)
		l := log{w: ours{f.err}}
		l.line("npm wants a code")
		if err.String() != want || len(f.err.line) != 0 {
			t.Errorf("after %q: %q", text, err.String())
		}
	}
}
