package arch

// The promises of PROTOCOL.md, section 12.6, each with the tests that show it. A
// table that names tests which are not there, or do not run, promises in vain.

import (
	"fmt"
	"go/ast"
	"go/build"
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

// promises is how many there are.
const promises = 8

func TestEachPromiseIsShownByTestsThatAreThere(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root(t), "PROTOCOL.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, problem := range unshown(string(text), testsThere(t)) {
		t.Error(problem)
	}
}

var (
	promiseRow = regexp.MustCompile(`(?m)^\| ([0-9]+) \|[^|]+\|([^|]+)\|$`)
	shownBy    = regexp.MustCompile("`([a-z0-9]+): (Test[A-Za-z0-9_]+)`")
	anyTest    = regexp.MustCompile(`\bTest[A-Z]`)
)

// unshown gives one line for each promise in text that has no test, and for each
// test there that is not in tests ("package: name").
func unshown(text string, tests []string) []string {
	_, section, ok := strings.Cut(text, "\n### 12.6 ")
	if !ok {
		return []string{"PROTOCOL.md has no section 12.6"}
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var problems []string
	named := map[string]int{}
	for _, row := range promiseRow.FindAllStringSubmatch(section, -1) {
		shown := shownBy.FindAllStringSubmatch(row[2], -1)
		// What is spelled otherwise would not be looked for.
		if n := len(anyTest.FindAllString(row[2], -1)); n != len(shown) {
			problems = append(problems, fmt.Sprintf("promise %s names %d tests, %d of them as `package: TestName`", row[1], n, len(shown)))
		}
		named[row[1]] += len(shown)
		for _, s := range shown {
			if name := s[1] + ": " + s[2]; !slices.Contains(tests, name) {
				problems = append(problems, fmt.Sprintf("promise %s is shown by `%s`, which is not there; if it was renamed, rename it in PROTOCOL.md, section 12.6", row[1], name))
			}
		}
	}
	for n := 1; n <= promises; n++ {
		if named[fmt.Sprint(n)] == 0 {
			problems = append(problems, fmt.Sprintf("no test is named for promise %d", n))
		}
	}
	return problems
}

// testsThere gives each test of the module that plain `go test ./...` runs, as
// "package: name", with the last part of the package's path.
func testsThere(t *testing.T) []string {
	t.Helper()
	var tests []string
	dir := root(t)
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && file != dir || d.Name() == "testdata" || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(file, "_test.go") {
			return nil
		}
		// A build tag would keep it out of the run.
		if runs, err := build.Default.MatchFile(filepath.Dir(file), d.Name()); err != nil || !runs {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range parsed.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && anyTest.MatchString(fn.Name.Name) && fn.Name.Name != "TestMain" && fn.Type.Params.NumFields() == 1 {
				tests = append(tests, filepath.Base(filepath.Dir(file))+": "+fn.Name.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tests
}

func TestAPromiseWithoutItsTestIsFound(t *testing.T) {
	t.Parallel()
	there := []string{"seal: TestA", "seal: TestB"}
	whole := "# x\n\n### 12.6 Promises\n\n| | promise | shown by |\n|---|---|---|\n"
	for n := 1; n <= promises; n++ {
		whole += fmt.Sprintf("| %d | It holds. | `seal: TestA`, `seal: TestB` |\n", n)
	}
	whole += "\n## 13. More\n\n| 9 | It holds. | `seal: TestElsewhere` |\n"
	for name, c := range map[string]struct {
		old, new string
		want     string // part of the only problem; none: no problem
	}{
		"nothing":                  {"", "", ""},
		"a test that is not there": {"| 3 | It holds. | `seal: TestA`", "| 3 | It holds. | `seal: TestC`", "promise 3 is shown by `seal: TestC`, which is not there"},
		"of another package":       {"| 3 | It holds. | `seal: TestA`", "| 3 | It holds. | `trust: TestA`", "promise 3 is shown by `trust: TestA`, which is not there"},
		"spelled otherwise":        {"| 3 | It holds. | `seal: TestA`", "| 3 | It holds. | `TestA`", "promise 3 names 2 tests, 1 of them"},
		"a promise without a test": {"| 8 | It holds. | `seal: TestA`, `seal: TestB` |", "| 8 | It holds. | hope |", "no test is named for promise 8"},
		"a promise that is gone":   {"| 8 | It holds. | `seal: TestA`, `seal: TestB` |\n", "", "no test is named for promise 8"},
		"no table":                 {"### 12.6", "### 12.7", "no section 12.6"},
	} {
		problems := unshown(strings.Replace(whole, c.old, c.new, 1), there)
		switch {
		case c.want == "" && len(problems) == 0:
		case c.want == "" || len(problems) != 1 || !strings.Contains(problems[0], c.want):
			t.Errorf("%s: found %q", name, problems)
		}
	}
	tests := testsThere(t)
	if !slices.Contains(tests, "arch: TestAPromiseWithoutItsTestIsFound") {
		t.Error("this test is not found")
	}
	if slices.Contains(tests, "broker: TestThreeThousandJobsAtOnceAreAllLetIn") {
		t.Error("a test that a build tag keeps out of the run is found")
	}
}
