package main

// The shell that runs a script of --run, as GitHub's runner would run a step with
// `shell:`. A composite action cannot see what the workflow says for its own steps
// (defaults.run.shell), so it must be said.

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"

	"github.com/continuousauth/action/internal/wire"
)

// scriptFile stands for the file with the script.
const scriptFile = "{0}"

// A shell is how a script is run: by which command, from a file with which ending,
// between which lines.
type shell struct {
	name          string
	argv          []string
	ending        string
	before, after string
	words         bool // plain words are the same to it as to nobody
}

// shells are those that the runner knows by name.
var shells = []shell{
	{name: "bash", argv: []string{"bash", "--noprofile", "--norc", "-eo", "pipefail", scriptFile}, ending: ".sh", words: true},
	{name: "sh", argv: []string{"sh", "-e", scriptFile}, ending: ".sh", words: true},
	powershell("pwsh"),
	powershell("powershell"),
	{name: "python", argv: []string{"python", scriptFile}, ending: ".py"},
	{name: "cmd", argv: []string{"cmd", "/D", "/E:ON", "/V:OFF", "/S", "/C", "CALL " + scriptFile}, ending: ".cmd", before: "@echo off\n"},
}

// powershell ends at the first failure only if it is told to, and with the exit code
// of the last program likewise.
func powershell(name string) shell {
	return shell{name: name, argv: []string{name, "-command", ". '" + scriptFile + "'"}, ending: ".ps1",
		before: "$ErrorActionPreference = 'stop'\n", after: "\nif ((Test-Path -LiteralPath variable:\\LASTEXITCODE)) { exit $LASTEXITCODE }\n"}
}

// word is one of a command line: double quotes keep spaces together.
var word = regexp.MustCompile(`(?:[^\s"]|"[^"]*")+`)

// newShell is the shell of a name, or of a command line that holds {0}.
func newShell(as string) (*shell, error) {
	var names []string
	for _, s := range shells {
		if strings.EqualFold(s.name, as) {
			return &s, nil
		}
		names = append(names, s.name)
	}
	argv := word.FindAllString(as, -1)
	for i, w := range argv {
		argv[i] = strings.ReplaceAll(w, `"`, "")
	}
	if len(argv) < 2 || argv[0] == "" || strings.Count(as, `"`)%2 != 0 || strings.Contains(argv[0], scriptFile) ||
		!slices.ContainsFunc(argv[1:], func(w string) bool { return strings.Contains(w, scriptFile) }) {
		return nil, fmt.Errorf("--shell is %q; it is one of %s, or a command line with {0} where the file with the script goes: perl {0}", wire.Clean(as, 80), strings.Join(names, ", "))
	}
	return &shell{name: as, argv: argv}, nil
}

// write writes a script to a file, and gives the command that runs it. remove is for
// its end.
func (s *shell) write(script, temp string) (argv []string, remove func(), err error) {
	// Nobody else may put a file there: it is run.
	dir, err := os.MkdirTemp(temp, "cfa-run-")
	if err != nil {
		return nil, nil, fmt.Errorf("there is no folder for the file that %s is to run: %w", s.name, err)
	}
	remove = func() { _ = os.RemoveAll(dir) }
	file := filepath.Join(dir, "script"+s.ending)
	if s.name == "cmd" && strings.ContainsAny(file, " &%") || strings.Contains(file, "'") {
		remove()
		return nil, nil, errors.New("the folder for temporary files has a name that the shell would not take for one; set RUNNER_TEMP to another")
	}
	text := s.before + script + s.after
	if runtime.GOOS == "windows" {
		text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\n", "\r\n")
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		remove()
		return nil, nil, err
	}
	for _, w := range s.argv {
		argv = append(argv, strings.ReplaceAll(w, scriptFile, file))
	}
	return argv, remove, nil
}
