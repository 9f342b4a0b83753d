package main

// The program as its user meets it: scripts for the subcommands that end, a real
// terminal and real pipes for the one that stays.

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	sealWork = 10
	// A program that is built with the race detector waits for a second before it
	// ends, by default, for reports that nobody here would miss.
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=20")
	}
	testscript.Main(m, map[string]func(){"cfa-responder": main})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// mode MODE FILE: whether the file has these permissions.
			"mode": func(ts *testscript.TestScript, _ bool, args []string) {
				if !modesCount {
					return
				}
				want, err := strconv.ParseUint(args[0], 8, 32)
				ts.Check(err)
				info, err := os.Stat(ts.MkAbs(args[1]))
				ts.Check(err)
				if got := info.Mode().Perm(); got != fs.FileMode(want) {
					ts.Fatalf("%s has mode %04o, want %04o", args[1], got, want)
				}
			},
			// fails CODE PROGRAM ARGS: the program ends with this exit code.
			"fails": func(ts *testscript.TestScript, _ bool, args []string) {
				var e *exec.ExitError
				switch err := ts.Exec(args[1], args[2:]...); {
				case !errors.As(err, &e):
					ts.Fatalf("it did not fail: %v", err)
				case strconv.Itoa(e.ExitCode()) != args[0]:
					ts.Fatalf("exit code %d, want %s", e.ExitCode(), args[0])
				}
			},
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("USER", "ada")
			e.Setenv("GORACE", os.Getenv("GORACE"))
			// A PATH of this program alone.
			program, err := exec.LookPath("cfa-responder")
			e.Setenv("PROGRAMS", filepath.Dir(program))
			return err
		},
	})
}
