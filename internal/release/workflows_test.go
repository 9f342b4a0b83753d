package release

// The workflows of .github, the Action itself, and the examples that others copy.

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// workflow is what is looked at in one; the rest is actionlint's.
type workflow struct {
	On          yaml.Node
	Permissions yaml.Node
	Concurrency yaml.Node
	Jobs        map[string]job
}

type job struct {
	Permissions yaml.Node
	Timeout     int    `yaml:"timeout-minutes"`
	Uses        string // a reusable workflow
	Secrets     yaml.Node
	Steps       []step
}

type step struct {
	Uses, Run string
	With      map[string]yaml.Node
	Env       map[string]string
}

var (
	pinned   = regexp.MustCompile(`^[A-Za-z0-9_.-]+/[A-Za-z0-9_./-]+@[0-9a-f]{40}$`)
	versions = regexp.MustCompile(`^[A-Za-z0-9_.-]+/[A-Za-z0-9_./-]+@v[0-9]+(\.[0-9]+)*$`)
	// A digest says nothing to who reads it, and dependabot goes by the comment.
	commented = regexp.MustCompile(`(?m)^\s*(?:- )?uses: [^\s#]+@[0-9a-f]{40} # v[0-9]+\.[0-9]+\.[0-9]+$`)
	// What comes from outside; but inside a script, no expression has a place at all.
	expression = regexp.MustCompile(`\$\{\{`)
)

// faults gives one line for each rule of ours that a workflow breaks.
func faults(text string) (problems []string) {
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	var w workflow
	if err := yaml.Unmarshal([]byte(text), &w); err != nil {
		return []string{err.Error()}
	}
	if w.Permissions.Kind != yaml.MappingNode || len(w.Permissions.Content) != 0 {
		say("no 'permissions: {}' at the top: a job that says nothing would get the repository's default")
	}
	if w.Concurrency.IsZero() {
		say("no concurrency group")
	}
	for _, event := range []string{"pull_request_target", "workflow_run", "issue_comment"} {
		if names(&w.On, event) {
			say("on %s: it runs with secrets, for whoever opens a pull request", event)
		}
	}
	if len(w.Jobs) == 0 {
		say("no jobs")
	}
	for name, j := range w.Jobs {
		if j.Permissions.Kind != yaml.MappingNode {
			say("job %s does not list its permissions", name)
		}
		if j.Timeout == 0 {
			say("job %s has no timeout-minutes", name)
		}
		if j.Uses != "" || !j.Secrets.IsZero() {
			say("job %s hands its rights to another workflow", name)
		}
		for _, s := range j.Steps {
			if expression.MatchString(s.Run) {
				say("job %s has an expression in a script: its value would be run as part of it; hand it over in env", name)
			}
			if s.Uses != "" && s.Uses != "./" && !pinned.MatchString(s.Uses) {
				say("job %s uses %s, which is not pinned by a commit", name, s.Uses)
			}
			persist := s.With["persist-credentials"]
			if strings.HasPrefix(s.Uses, "actions/checkout@") && persist.Value != "false" {
				say("job %s leaves the token in the checkout, for every later step: persist-credentials: false", name)
			}
		}
	}
	if all, with := len(regexp.MustCompile(`@[0-9a-f]{40}`).FindAllString(text, -1)), len(commented.FindAllString(text, -1)); all != with {
		say("%d of %d digests have no comment with their version", all-with, all)
	}
	slices.Sort(problems)
	return problems
}

// names says whether a word stands anywhere in a node.
func names(n *yaml.Node, word string) bool {
	return n.Value == word || slices.ContainsFunc(n.Content, func(c *yaml.Node) bool { return names(c, word) })
}

func TestEachWorkflowIsPinnedAndHoldsNoMoreRightsThanItNeeds(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(root(t), ".github/workflows/*"))
	if err != nil || len(files) < 4 {
		t.Fatalf("%d workflows, %v", len(files), err)
	}
	for _, file := range files {
		for _, problem := range faults(read(t, ".github/workflows/"+filepath.Base(file))) {
			t.Errorf("%s: %s", filepath.Base(file), problem)
		}
	}
}

// TestAPlantedFaultIsFound: a check that finds nothing passes for ever.
func TestAPlantedFaultIsFound(t *testing.T) {
	t.Parallel()
	const good = `on: push
permissions: {}
concurrency: x
jobs:
  a:
    timeout-minutes: 1
    permissions:
      contents: read
    steps:
      - uses: actions/checkout@0123456789012345678901234567890123456789 # v1.2.3
        with:
          persist-credentials: false
      - run: make
        env:
          A: ${{ github.ref }}
`
	for name, c := range map[string]struct{ old, new, want string }{
		"nothing":                   {"", "", ""},
		"a tag":                     {"@0123456789012345678901234567890123456789 # v1.2.3", "@v4", "is not pinned"},
		"a short digest":            {"@0123456789012345678901234567890123456789 # v1.2.3", "@0123456", "is not pinned"},
		"no version":                {" # v1.2.3", "", "have no comment"},
		"no permissions":            {"permissions: {}\n", "", "no 'permissions: {}'"},
		"all permissions":           {"permissions: {}", "permissions: write-all", "no 'permissions: {}'"},
		"one too many":              {"permissions: {}", "permissions: {contents: read}", "no 'permissions: {}'"},
		"a job with the default's":  {"    permissions:\n      contents: read\n", "", "does not list its permissions"},
		"a job with all":            {"permissions:\n      contents: read", "permissions: write-all", "does not list its permissions"},
		"no time limit":             {"    timeout-minutes: 1\n", "", "no timeout-minutes"},
		"no concurrency":            {"concurrency: x\n", "", "no concurrency group"},
		"a title in a script":       {"run: make", "run: make ${{ github.event.pull_request.title }}", "an expression in a script"},
		"credentials that stay":     {"persist-credentials: false", "persist-credentials: true", "leaves the token"},
		"a pull request's own code": {"on: push", "on: [push, pull_request_target]", "on pull_request_target"},
		"secrets for others":        {"    steps:", "    secrets: inherit\n    steps:", "hands its rights"},
	} {
		if c.old != "" && !strings.Contains(good, c.old) {
			t.Fatalf("%s: %q is not in the good one", name, c.old)
		}
		problems := faults(strings.Replace(good, c.old, c.new, 1))
		switch {
		case c.want == "" && len(problems) == 0:
		case c.want == "" || len(problems) != 1 || !strings.Contains(problems[0], c.want):
			t.Errorf("%s: found %q, want %q", name, problems, c.want)
		}
	}
}

// Examples are copied. They name versions, so that they can be read, and the
// README says that a commit is better; but never a branch, and no expression
// stands in a script.
func TestNoExampleTeachesWhatIsDangerous(t *testing.T) {
	t.Parallel()
	texts := map[string]string{}
	for n, block := range regexp.MustCompile("(?s)\n```yaml\n(.*?)\n```\n").FindAllStringSubmatch(read(t, "README.md"), -1) {
		texts[fmt.Sprintf("README.md, block %d", n+1)] = block[1]
	}
	err := filepath.WalkDir(filepath.Join(root(t), "examples"), func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !slices.Contains([]string{".yml", ".yaml"}, filepath.Ext(file)) {
			return err
		}
		data, err := os.ReadFile(file)
		texts[file] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for name, text := range texts {
		var w workflow
		// Another CI's file has no such jobs.
		if err := yaml.Unmarshal([]byte(text), &w); err != nil || w.On.IsZero() || len(w.Jobs) == 0 {
			continue
		}
		found++
		// Forgejo's jobs have rights of another kind, and name actions by address.
		forgejo := strings.Contains(filepath.ToSlash(name), "examples/forgejo/")
		if w.Permissions.IsZero() && !forgejo {
			t.Errorf("%s: no permissions at the top", name)
		}
		for id, j := range w.Jobs {
			for _, s := range j.Steps {
				if forgejo {
					s.Uses = strings.TrimPrefix(s.Uses, "https://code.forgejo.org/")
				}
				if expression.MatchString(s.Run) {
					t.Errorf("%s: job %s has an expression in a script", name, id)
				}
				// Until there is a release, our own has no other name.
				if s.Uses != "" && !pinned.MatchString(s.Uses) && !versions.MatchString(s.Uses) && s.Uses != "continuousauth/action@main" {
					t.Errorf("%s: job %s uses %s, which is neither a version nor a commit", name, id, s.Uses)
				}
			}
		}
	}
	if found == 0 {
		t.Error("no example of a GitHub workflow was found")
	}
}

// The Action is other people's workflow: what it uses, they run.
func TestTheActionUsesNoOtherAction(t *testing.T) {
	t.Parallel()
	var action struct{ Runs struct{ Steps []step } }
	if err := yaml.Unmarshal([]byte(read(t, "action.yml")), &action); err != nil {
		t.Fatal(err)
	}
	for _, s := range action.Runs.Steps {
		if s.Uses != "" || expression.MatchString(s.Run) {
			t.Errorf("a step uses %q and runs %q", s.Uses, s.Run)
		}
	}
	if len(action.Runs.Steps) == 0 {
		t.Error("no steps")
	}
}

// What must be the same in two places.
func TestReleasesAreBuiltWithTheToolchainOfGoMod(t *testing.T) {
	t.Parallel()
	version := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(read(t, "go.mod"))
	if version == nil {
		t.Fatal("go.mod has no go line")
	}
	if want := "  - GOTOOLCHAIN=go" + version[1] + "\n"; !strings.Contains(read(t, ".goreleaser.yaml"), want) {
		t.Errorf(".goreleaser.yaml has no line %q: a build machine's newer Go makes other bytes", want)
	}
	for _, module := range []string{"tools/go.mod", "tools/release/go.mod"} {
		if !strings.Contains(read(t, module), "\ngo "+version[1]+"\n") {
			t.Errorf("%s wants another Go than go.mod", module)
		}
	}
}

// The approval is what the rest of the release workflow waits for.
func TestNothingIsPublishedBeforeAHumanHasApproved(t *testing.T) {
	t.Parallel()
	var w struct {
		Jobs map[string]struct {
			Needs       yaml.Node
			Permissions map[string]string
			Environment string
			Steps       []step
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, ".github/workflows/release.yml")), &w); err != nil {
		t.Fatal(err)
	}
	var waits func(name string) bool
	waits = func(name string) bool {
		if name == "approve" {
			return true
		}
		for other := range w.Jobs {
			if needs := w.Jobs[name].Needs; names(&needs, other) && waits(other) {
				return true
			}
		}
		return false
	}
	approvals := 0
	for name, j := range w.Jobs {
		for right, level := range j.Permissions {
			if level == "write" && !waits(name) {
				t.Errorf("job %s may write %s, and does not wait for the approval", name, right)
			}
		}
		if j.Environment != "" && !waits(name) {
			t.Errorf("job %s has the secrets of environment %s, and does not wait for the approval", name, j.Environment)
		}
		for _, s := range j.Steps {
			if s.Uses == "./" {
				approvals++
				approve, artifacts, responders := s.With["approve"], s.With["artifacts"], s.With["responders"]
				if name != "approve" || approve.Value == "" || artifacts.Value != "approve/*" || responders.Value == "" {
					t.Errorf("job %s asks for %q about %q, of %q", name, approve.Value, artifacts.Value, responders.Value)
				}
			}
		}
	}
	if approvals != 1 {
		t.Errorf("%d approvals", approvals)
	}
}

// A cask or a PKGBUILD runs on other people's machines as a program does. The
// scripts of the workflow are run as they stand, on files of the test.
func TestWhatPackageManagersReadIsApprovedAndComparedBeforeItIsPushed(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("sha256sum"); err != nil || runtime.GOOS == "windows" {
		t.Skip("the release workflow runs on Linux")
	}
	var w workflow
	if err := yaml.Unmarshal([]byte(read(t, ".github/workflows/release.yml")), &w); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name, text string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(root(t), "tools"), filepath.Join(dir, "tools")); err != nil {
		t.Fatal(err)
	}
	outputs := map[string]string{}
	play := func(s step) error {
		cmd := exec.Command("bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", s.Run)
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "GITHUB_OUTPUT=" + filepath.Join(dir, "outputs")}
		for name, value := range s.Env {
			for output, is := range outputs {
				value = strings.ReplaceAll(value, "${{ needs.build.outputs."+output+" }}", is)
			}
			cmd.Env = append(cmd.Env, name+"="+value)
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}
	// Those scripts of a job that speak of these, in their order.
	about := func(job string, words ...string) (found []step) {
		for _, s := range w.Jobs[job].Steps {
			if slices.ContainsFunc(words, func(word string) bool { return strings.Contains(s.Run, word) }) {
				found = append(found, s)
			}
		}
		return found
	}
	given := map[string]string{"aur/cfa-bin.pkgbuild": "pkgver=1.2.3", "homebrew/Casks/cfa.rb": "cask", "scoop/cfa.json": "{}"}
	for name, text := range given {
		file("dist/"+name, text)
	}
	file("checksums.txt", "of the programs\n")
	empty := sha256.Sum256(nil)
	file("release/checksums.txt", hex.EncodeToString(empty[:])+"  notes\n")
	file("release/notes", "")
	for _, s := range about("build", "packages.sh", "GITHUB_OUTPUT") {
		if err := play(s); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range strings.Fields(readFile(t, filepath.Join(dir, "outputs"))) {
		name, value, _ := strings.Cut(line, "=")
		outputs[name] = value
	}
	for _, s := range about("approve", "sha256sum", "approve") {
		if err := play(s); err != nil {
			t.Fatal(err)
		}
	}
	everything := readFile(t, filepath.Join(dir, "approve", "everything.txt"))
	for name, text := range given {
		sum := sha256.Sum256([]byte(text))
		if !strings.Contains(everything, hex.EncodeToString(sum[:])+"  "+name+"\n") {
			t.Errorf("%s is not approved:\n%s", name, everything)
		}
	}
	if !strings.Contains(everything, "  notes\n") {
		t.Errorf("the release's files are not approved:\n%s", everything)
	}
	checks := about("packages", "sha256sum")
	if len(checks) != 1 || play(checks[0]) != nil {
		t.Fatalf("%d checks before the push", len(checks))
	}
	last := w.Jobs["packages"].Steps[len(w.Jobs["packages"].Steps)-1]
	if !strings.Contains(last.Run, `push.sh "$TAG" dist/packages.txt "$REMOTE"`) {
		t.Errorf("the push takes no list: %s", last.Run)
	}
	file("dist/homebrew/Casks/cfa.rb", "another cask")
	if play(checks[0]) == nil {
		t.Error("another cask passes")
	}
	for _, s := range about("build", "packages.sh dist >") {
		if err := play(s); err != nil { // with a list that fits it
			t.Fatal(err)
		}
	}
	if play(checks[0]) == nil {
		t.Error("another cask with a list of its own passes")
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
