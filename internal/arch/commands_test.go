package arch

// Commands that messages and documents tell people to run. One that is not there
// sends somebody who is stuck to a second dead end.

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// programs are the directories of our programs, by what each is called.
var programs = map[string]string{"cfa": "action", "cfa-relay": "relay", "cfa-responder": "responder"}

var named = regexp.MustCompile("`(cfa|cfa-relay|cfa-responder) ([a-z][a-z-]*)")

// inner is where a word begins in a field's name: VerifyReceipt is verify-receipt.
var inner = regexp.MustCompile(`([a-z])([A-Z])`)

// unknownCommands gives each command in text that is not among commands
// ("cfa-relay check").
func unknownCommands(text string, commands []string) []string {
	var unknown []string
	for _, m := range named.FindAllStringSubmatch(text, -1) {
		if !slices.Contains(commands, m[1]+" "+m[2]) {
			unknown = append(unknown, m[1]+" "+m[2])
		}
	}
	return unknown
}

// commandsThere reads the subcommands off the `cli` struct of each program.
func commandsThere(t *testing.T) []string {
	t.Helper()
	var commands []string
	for program, dir := range programs {
		before := len(commands)
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root(t), dir, "main.go"), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if f, ok := n.(*ast.Field); ok && f.Tag != nil && strings.HasPrefix(f.Tag.Value, "`cmd:") && len(f.Names) == 1 {
				commands = append(commands, program+" "+strings.ToLower(inner.ReplaceAllString(f.Names[0].Name, "$1-$2")))
			}
			return true
		})
		if len(commands) == before {
			t.Fatalf("no subcommand of %s found: does this test still see them?", program)
		}
	}
	return commands
}

func TestEachCommandThatPeopleAreToldOfIsThere(t *testing.T) {
	t.Parallel()
	commands, dir, found := commandsThere(t), root(t), 0
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && file != dir || d.Name() == "testdata" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if ext := filepath.Ext(file); ext != ".go" && ext != ".md" && ext != ".yml" && ext != ".yaml" || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		found += len(named.FindAllString(string(text), -1))
		for _, c := range unknownCommands(string(text), commands) {
			t.Errorf("%s tells of `%s`, which is no command", file, c)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if found == 0 {
		t.Error("no command found in any text")
	}
}

func TestACommandThatIsNotThereIsFound(t *testing.T) {
	t.Parallel()
	commands := []string{"cfa request", "cfa-relay check"}
	for text, want := range map[string]string{
		"see `cfa-relay check --token-file`, or `cfa request`": "[]",
		"see `cfa-relay audit`":                                "[cfa-relay audit]",
		"see `cfa check`":                                      "[cfa check]",
		"what `cfa` does, and cfa-relay audit":                 "[]",
	} {
		if got := fmt.Sprint(unknownCommands(text, commands)); got != want {
			t.Errorf("%q: found %s, not %s", text, got, want)
		}
	}
}
