package release

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/continuousauth/action/internal/release/githubtest"
)

func TestMain(m *testing.M) { testscript.Main(m, nil) }

// What fetches a program, as whole runs with the machine's own curl and wget,
// against the stand-in for github.com; and what hands a release on.
func TestScripts(t *testing.T) {
	t.Parallel()
	type hub struct{}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			www := filepath.Join(e.WorkDir, "www")
			if err := os.MkdirAll(www, 0o700); err != nil {
				return err
			}
			g := githubtest.New(e.T().(testing.TB), e.WorkDir, www)
			e.Values[hub{}], e.Values[tb{}] = g, e.T()
			e.Vars = append(e.Vars, g.Env()...)
			e.Setenv("ROOT", root(e.T().(testing.TB)))
			e.Setenv("HOME", e.WorkDir)
			return nil
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "posix":
				return runtime.GOOS != "windows", nil
			case "wget", "git":
				// Looked for here: a script's own PATH can be a narrow one.
				_, err := exec.LookPath(name)
				return err == nil, nil
			}
			return false, errors.New("unknown condition")
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// github MODE: what the stand-in does from now on
			"github": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 1 {
					ts.Fatalf("usage: github MODE")
				}
				ts.Value(hub{}).(*githubtest.Server).Set(ts.Value(tb{}).(testing.TB), args[0])
			},
			// heard TEXT: whether a request to the stand-in, or to its proxy, has TEXT
			"heard": func(ts *testscript.TestScript, neg bool, args []string) {
				if len(args) != 1 {
					ts.Fatalf("usage: [!] heard TEXT")
				}
				if log := ts.Value(hub{}).(*githubtest.Server).Heard(); strings.Contains(log, args[0]) == neg {
					ts.Fatalf("heard %q: want %v; it was asked for:\n%s", args[0], !neg, log)
				}
			},
			// digest VARIABLE FILE: sets it to the file's
			"digest": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) != 2 {
					ts.Fatalf("usage: digest VARIABLE FILE")
				}
				ts.Setenv(args[0], fmt.Sprintf("%x", sha256.Sum256([]byte(ts.ReadFile(args[1])))))
			},
			// tools NAMES...: links to those of the machine's programs that it has, in $WORK/tools
			"tools": func(ts *testscript.TestScript, neg bool, args []string) {
				ts.Check(os.MkdirAll(ts.MkAbs("tools"), 0o700))
				for _, name := range args {
					if path, err := exec.LookPath(name); err == nil {
						ts.Check(os.Symlink(path, ts.MkAbs(filepath.Join("tools", name))))
					}
				}
			},
		},
	})
}

// tb is the key of a script's test.
type tb struct{}
