package arch

// The files that people copy or use as they are: each is linted or run by the closest
// thing to its real runner that works offline. One that no test looks at is wrong as
// soon as something else changes, and nobody knows.

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A trial is how such files are tried: the files, as path.Match has it, and the tests that run them,
// as "package: name". Tests that only `make test-clients` runs count.
type trial struct {
	files string
	by    []string
}

var trials = []trial{
	{"examples/github/*.yml", []string{"e2e: TestEachGitHubWorkflowThatPeopleCopyPublishes"}},
	{"examples/circleci/config.yml", []string{"orb: TestTheOrbsExamplesUseItAsItIs", "e2e: TestEachCircleCIConfigurationThatPeopleCopyWorks"}},
	{"orb/src/examples/*.yml", []string{"e2e: TestEachCircleCIConfigurationThatPeopleCopyWorks"}},
	{"examples/gitlab/.gitlab-ci.yml", []string{"e2e: TestTheExampleOfEachCIAsksBeforeItPublishes", "e2e: TestTheRuleInEachExampleIsOneThatARelayTakes"}},
	{"examples/forgejo/release.yml", []string{"e2e: TestTheExampleOfEachCIAsksBeforeItPublishes", "e2e: TestTheRuleInEachExampleIsOneThatARelayTakes"}},
	{"examples/cloudbuild.yaml", []string{"e2e: TestTheExampleOfEachCIAsksBeforeItPublishes", "e2e: TestTheRuleInEachExampleIsOneThatARelayTakes"}},
	{"examples/Jenkinsfile", []string{"e2e: TestTheExampleOfEachCIAsksBeforeItPublishes", "e2e: TestTheRuleInEachExampleIsOneThatARelayTakes"}},
	{"examples/azure-pipelines.yml", []string{"e2e: TestTheExampleOfEachCIAsksBeforeItPublishes", "e2e: TestTheRuleInEachExampleIsOneThatARelayTakes"}},
	{"examples/bitbucket-pipelines.yml", []string{"e2e: TestTheExampleOfEachCIAsksBeforeItPublishes", "e2e: TestTheRuleInEachExampleIsOneThatARelayTakes"}},
	{"examples/semaphore.yml", []string{"e2e: TestTheExampleOfEachCIAsksBeforeItPublishes", "e2e: TestTheRuleInEachExampleIsOneThatARelayTakes"}},
	{"examples/buildkite/pipeline.yml", []string{"e2e: TestTheBuildkitePluginPutsCFAOnThePath", "e2e: TestTheRuleInEachExampleIsOneThatARelayTakes"}},
	{"ci/cfa-buildkite-plugin/hooks/pre-*", []string{"e2e: TestTheBuildkitePluginPutsCFAOnThePath"}},
	{"ci/cfa-buildkite-plugin/plugin.yml", []string{"e2e: TestTheBuildkitePluginPutsCFAOnThePath"}},
	{"ci/cfa-buildkite-plugin/README.md", []string{"e2e: TestTheBuildkitePluginPutsCFAOnThePath"}},
	{"ci/gitlab/templates/cfa.yml", []string{"e2e: TestTheGitLabComponentRunsItsCommandWithCFA"}},
	{"examples/cfa.yaml", []string{"broker: TestTheREADMEsFullExampleHasEveryKey"}},
	{"examples/responder.yaml", []string{"responder: TestTheExampleOfAResponderExplainsEveryKeyAndWorks"}},
}

func TestEachFileThatPeopleCopyIsRunByATest(t *testing.T) {
	t.Parallel()
	dir := root(t)
	var files []string
	for _, top := range []string{"examples", "ci", filepath.Join("orb", "src", "examples")} {
		err := filepath.WalkDir(filepath.Join(dir, top), func(file string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				rel, _ := filepath.Rel(dir, file)
				files = append(files, filepath.ToSlash(rel))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, problem := range untried(files, trials, sources(t)) {
		t.Error(problem)
	}
}

// untried gives one line for each file that no trial is for, and for each trial that
// is for no file, or whose test is not there, or says nothing of the file. sources are
// the texts in which the tests stand, by "package: name".
func untried(files []string, trials []trial, sources map[string]string) []string {
	var problems []string
	used := make([]bool, len(trials))
	for _, file := range files {
		seen := false
		for i, c := range trials {
			if ok, _ := path.Match(c.files, file); !ok {
				continue
			}
			seen, used[i] = true, true
		}
		if !seen {
			problems = append(problems, file+" is run by no test: write one that lints or runs it by the closest thing to its real runner, and name it in `trials`")
		}
	}
	for i, c := range trials {
		if !used[i] {
			problems = append(problems, c.files+" is no file that is there; take its line out of `trials`")
		}
		if len(c.by) == 0 {
			problems = append(problems, c.files+" names no test")
		}
		for _, name := range c.by {
			text, there := sources[name]
			switch last := path.Base(c.files); {
			case !there:
				problems = append(problems, fmt.Sprintf("%s is run by `%s`, which is not there", c.files, name))
			case !strings.Contains(text, strings.TrimSuffix(last, "*")):
				problems = append(problems, fmt.Sprintf("%s is run by `%s`, whose file says nothing of %s", c.files, name, last))
			}
		}
	}
	return problems
}

// sources gives the text of the file in which each test of the module stands, also of
// those that a build tag keeps out of a plain run.
func sources(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{}
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
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, text, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, decl := range parsed.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Test") {
				texts[filepath.Base(filepath.Dir(file))+": "+fn.Name.Name] = string(text)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return texts
}

func TestAFileThatNoTestRunsIsFound(t *testing.T) {
	t.Parallel()
	files := []string{"examples/a.yml", "examples/b/one.yml", "examples/b/two.yml"}
	good := []trial{{"examples/a.yml", []string{"e2e: TestA"}}, {"examples/b/*.yml", []string{"e2e: TestB"}}}
	texts := map[string]string{"e2e: TestA": `run("a.yml")`, "e2e: TestB": `filepath.Glob("b/*.yml")`}
	for name, c := range map[string]struct {
		files  []string
		trials []trial
		want   string
	}{
		"nothing":                {files, good, ""},
		"a new file":             {append(slices.Clone(files), "examples/c.yml"), good, "examples/c.yml is run by no test"},
		"a file in a new folder": {append(slices.Clone(files), "examples/c/a.yml"), good, "examples/c/a.yml is run by no test"},
		"a file that is gone":    {files[1:], good, "examples/a.yml is no file that is there"},
		"a test that is gone":    {files, []trial{{"examples/a.yml", []string{"e2e: TestC"}}, good[1]}, "`e2e: TestC`, which is not there"},
		"another file's test":    {files, []trial{{"examples/a.yml", []string{"e2e: TestB"}}, good[1]}, "says nothing of a.yml"},
		"no test":                {files, []trial{{"examples/a.yml", nil}, good[1]}, "names no test"},
	} {
		problems := untried(c.files, c.trials, texts)
		switch {
		case c.want == "" && len(problems) == 0:
		case c.want == "" || len(problems) != 1 || !strings.Contains(problems[0], c.want):
			t.Errorf("%s: found %q", name, problems)
		}
	}
}
