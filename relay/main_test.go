package main

import (
	"context"
	"os"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	// A program that is built with the race detector waits for a second before it
	// ends, by default, for reports that nobody here would miss.
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=20")
	}
	testscript.Main(m, map[string]func(){
		"cfa-relay": func() {
			os.Exit(run(context.Background(), os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr, os.Getenv}))
		},
	})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{Dir: "testdata/script"})
}

func TestADemoWithAnImpossibleCodeIsWrongUsage(t *testing.T) {
	t.Parallel()
	var out, errs strings.Builder
	getenv := func(name string) string { return map[string]string{"CFA_DEMO_OTP": "12345"}[name] }
	if code := run(t.Context(), []string{"demo", "--bin", t.TempDir()}, stdio{nil, &out, &errs, getenv}); code != exitUsage || !strings.Contains(errs.String(), "six digits") {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
}

func TestAGitHubOutputFileIsReadAsTheRunnerReadsIt(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, file, want string }{
		{"a line", "code=123456\n", "123456"},
		{"a heredoc", "code<<EOF\n123456\nEOF\n", "123456"},
		{"the delimiter of another", "x<<EOF\ncode=1\nEOF\ncode<<A\n2\nA\n", "2"},
		{"nothing", "", ""},
		{"no end", "code<<A\n2\n", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := githubOutput(tc.file, "code"); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// Not in parallel: the setting is the whole process's.
func TestTheCollectorIsSetUnlessTheEnvironmentSets(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	heap(func(name string) string { return map[string]string{"GOGC": "200"}[name] })
	if got := debug.SetGCPercent(100); got != 100 {
		t.Errorf("set to %d against GOGC", got)
	}
	heap(func(string) string { return "" })
	if got := debug.SetGCPercent(100); got != 50 {
		t.Errorf("set to %d", got)
	}
}
