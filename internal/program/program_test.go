package program

import (
	"bytes"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

func TestAProgramEndsByItsExitCodeAlone(t *testing.T) {
	t.Parallel()
	type grammar struct {
		Version kong.VersionFlag
		Need    string `required:""`
	}
	for args, want := range map[string]struct {
		out    string
		ended  bool
		failed bool
	}{
		"--help":    {"Usage: x", true, false},
		"--version": {"1.2.3", true, false},
		"":          {"", false, true},
		"--need=x":  {"", false, false},
	} {
		var g grammar
		var out bytes.Buffer
		ctx, code, ended, err := Parse(&g, strings.Fields(args), kong.Name("x"), kong.Writers(&out, &out), kong.Vars{"version": Version("1.2.3")})
		if code != 0 || ended != want.ended || (err != nil) != want.failed || !strings.Contains(out.String(), want.out) || (ended || err != nil) == (ctx != nil && err == nil) {
			t.Errorf("%q: %v, code %d, ended %v, %v; printed %q", args, ctx, code, ended, err, &out)
		}
	}
	if Version("") == "" {
		t.Error("a program that is no release has no version")
	}
}

// What is wrong with a program itself is no matter of its arguments.
func TestAWrongGrammarIsAPanic(t *testing.T) {
	t.Parallel()
	defer func() {
		if recover() == nil {
			t.Error("it went unseen")
		}
	}()
	var g struct {
		N chan int
	}
	_, _, _, _ = Parse(&g, nil)
}
