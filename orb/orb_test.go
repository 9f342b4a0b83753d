// Package orb holds the CircleCI orb's sources, in src; these are its tests. They
// look at what `circleci orb pack` makes of them, which is what is published.
package orb

import (
	"bytes"
	"fmt"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/continuousauth/action/orb/orbtest"
)

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func pack(t *testing.T) *orbtest.Orb {
	t.Helper()
	return orbtest.Pack(t, root(t), filepath.Join(root(t), "orb", "src"))
}

// review is the list that CircleCI reviews orbs by, a rule each. Whether an
// address answers cannot be asked here; what it must be can.
var review = []struct {
	name  string
	check func(o *orbtest.Orb) []string
}{
	{"RC001 source_url is set", func(o *orbtest.Orb) []string { return address(o, "source_url") }},
	{"RC002 each component has a description", func(o *orbtest.Orb) (wrong []string) {
		for name, text := range descriptions(o) {
			if strings.TrimSpace(text) == "" {
				wrong = append(wrong, name+" has no description")
			}
		}
		return wrong
	}},
	{"RC003 there are examples", func(o *orbtest.Orb) []string {
		if len(o.Examples) < 3 {
			return []string{fmt.Sprintf("%d examples; three are wanted here", len(o.Examples))}
		}
		return nil
	}},
	{"RC004 an example is not named example", func(o *orbtest.Orb) (wrong []string) {
		for name := range o.Examples {
			if strings.Contains(name, "example") {
				wrong = append(wrong, name)
			}
		}
		return wrong
	}},
	{"RC005 the orb's description says something", func(o *orbtest.Orb) []string {
		if n := len(strings.TrimSpace(o.Description)); n < 64 {
			return []string{fmt.Sprintf("it has %d characters, 64 are wanted", n)}
		}
		return nil
	}},
	{"RC006 source_url is an address", func(o *orbtest.Orb) []string { return address(o, "source_url") }},
	{"RC007 home_url is an address", func(o *orbtest.Orb) []string { return address(o, "home_url") }},
	{"RC008 each run step has a name", func(o *orbtest.Orb) (wrong []string) {
		for where, r := range runs(o) {
			if name, _ := r["name"].(string); strings.TrimSpace(name) == "" {
				wrong = append(wrong, where+" has no name")
			}
		}
		return wrong
	}},
	{"RC009 what is long is included from scripts", func(o *orbtest.Orb) (wrong []string) {
		scripts, _ := filepath.Glob("src/scripts/*.sh")
		for where, r := range runs(o) {
			command, _ := r["command"].(string)
			included := slices.ContainsFunc(scripts, func(file string) bool {
				text, err := os.ReadFile(file)
				return err == nil && strings.ReplaceAll(string(text), "<<", `\<<`) == command
			})
			if command == "" || len(command) > 64 && !included {
				wrong = append(wrong, where+" has a long command that is no file of scripts/")
			}
		}
		return wrong
	}},
	{"RC010 names are in snake case", func(o *orbtest.Orb) (wrong []string) {
		snake := regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
		names := slices.Collect(maps.Keys(o.Examples))
		for name, c := range components(o) {
			names = append(names, name[strings.LastIndexByte(name, ' ')+1:])
			names = slices.AppendSeq(names, maps.Keys(c.Parameters))
		}
		for _, name := range names {
			if !snake.MatchString(name) {
				wrong = append(wrong, name)
			}
		}
		return wrong
	}},
}

func address(o *orbtest.Orb, key string) []string {
	u, err := url.Parse(o.Display[key])
	if err != nil || u.Scheme != "https" || u.Host != "github.com" || u.Path != "/continuousauth/action" || u.RawQuery != "" {
		return []string{fmt.Sprintf("%s is %q", key, o.Display[key])}
	}
	return nil
}

func components(o *orbtest.Orb) map[string]*orbtest.Component {
	all := map[string]*orbtest.Component{}
	for kind, list := range map[string]map[string]*orbtest.Component{"command": o.Commands, "job": o.Jobs, "executor": o.Executors} {
		for name, c := range list {
			all[kind+" "+name] = c
		}
	}
	return all
}

func descriptions(o *orbtest.Orb) map[string]string {
	all := map[string]string{}
	for name, c := range components(o) {
		all[name] = c.Description
		for p, declared := range c.Parameters {
			all[name+" parameter "+p] = declared.Description
		}
	}
	for name, e := range o.Examples {
		all["example "+name] = e.Description
	}
	return all
}

// runs are all run steps, however deep.
func runs(o *orbtest.Orb) map[string]map[string]any {
	found := map[string]map[string]any{}
	var walk func(where string, steps []any)
	walk = func(where string, steps []any) {
		for i, step := range steps {
			at := fmt.Sprintf("%s step %d", where, i+1)
			m, _ := step.(map[string]any)
			for name, body := range m {
				inner, isMap := body.(map[string]any)
				switch {
				case name == "run" && !isMap: // a bare text has no name
					found[at] = map[string]any{"command": body}
				case name == "run":
					found[at] = inner
				case isMap:
					list, _ := inner["steps"].([]any)
					walk(at, list)
				}
			}
		}
	}
	for name, c := range components(o) {
		walk(name, c.Steps)
	}
	return found
}

func TestTheOrbPassesEachRuleOfTheReview(t *testing.T) {
	t.Parallel()
	o := pack(t)
	if len(runs(o)) < 4 || len(o.Commands) < 4 || len(o.Jobs) < 1 || len(o.Executors) < 1 {
		t.Fatalf("the packed orb holds %d run steps, %d commands, %d jobs, %d executors", len(runs(o)), len(o.Commands), len(o.Jobs), len(o.Executors))
	}
	for _, rule := range review {
		t.Run(rule.name, func(t *testing.T) {
			for _, wrong := range rule.check(o) {
				t.Error(wrong)
			}
		})
	}
}

// A review that finds nothing passes for ever.
func TestEachRuleOfTheReviewFindsWhatBreaksIt(t *testing.T) {
	t.Parallel()
	packed := orbtest.PackYAML(t, root(t), filepath.Join(root(t), "orb", "src"))
	run := func(o *orbtest.Orb) map[string]any {
		for _, r := range runs(o) {
			return r
		}
		return nil
	}
	breaks := map[string]func(o *orbtest.Orb){
		"RC001": func(o *orbtest.Orb) { delete(o.Display, "source_url") },
		"RC002": func(o *orbtest.Orb) { o.Executors["default"].Description = " " },
		"RC003": func(o *orbtest.Orb) { clear(o.Examples) },
		"RC004": func(o *orbtest.Orb) { o.Examples["simple_example"] = &orbtest.Example{Description: "x"} },
		"RC005": func(o *orbtest.Orb) { o.Description = strings.Repeat("x", 63) },
		"RC006": func(o *orbtest.Orb) { o.Display["source_url"] = "http://github.com/continuousauth/action" },
		"RC007": func(o *orbtest.Orb) { o.Display["home_url"] = "soon" },
		"RC008": func(o *orbtest.Orb) { delete(run(o), "name") },
		"RC009": func(o *orbtest.Orb) { run(o)["command"] = strings.Repeat("x", 65) },
		"RC010": func(o *orbtest.Orb) { o.Jobs["publish"].Parameters["env-var"] = &orbtest.Parameter{Description: "x"} },
	}
	for _, rule := range review {
		var o orbtest.Orb
		if err := yaml.Unmarshal(packed, &o); err != nil {
			t.Fatal(err)
		}
		id, _, _ := strings.Cut(rule.name, " ")
		if breaks[id] == nil {
			t.Errorf("nothing breaks %s", id)
			continue
		}
		breaks[id](&o)
		if len(rule.check(&o)) == 0 {
			t.Errorf("%s does not see what breaks it", rule.name)
		}
	}
}

// A parameter that stands in a script is run as part of it.
func TestParametersReachScriptsByTheEnvironmentAlone(t *testing.T) {
	t.Parallel()
	o := pack(t)
	for where, r := range runs(o) {
		command, _ := r["command"].(string)
		if strings.Contains(command, "<<") {
			t.Errorf("%s has << in its script, which CircleCI would expand", where)
		}
		vars, _ := r["environment"].(map[string]any)
		for name, v := range vars {
			value, _ := v.(string)
			if !regexp.MustCompile(`^(?:<< parameters\.[a-z0-9_]+ >>|[a-z]+)$`).MatchString(value) {
				t.Errorf("%s: %s is %q", where, name, v)
			}
			// What cfa itself does not read, the script must.
			if strings.HasPrefix(name, "CFA_ORB_") && !regexp.MustCompile(`\b`+name+`\b`).MatchString(command) {
				t.Errorf("%s: the script does not use %s", where, name)
			}
		}
		for _, name := range regexp.MustCompile(`\bCFA_ORB_[A-Z0-9_]+`).FindAllString(command, -1) {
			if _, ok := vars[name]; !ok {
				t.Errorf("%s: the script uses %s, which nothing sets", where, name)
			}
		}
	}
	// And each parameter reaches something.
	for name, c := range components(o) {
		data, err := yaml.Marshal(map[string]any{"steps": c.Steps, "executor": c.Executor, "docker": c.Docker})
		if err != nil {
			t.Fatal(err)
		}
		for p := range c.Parameters {
			if !bytes.Contains(data, []byte("<< parameters."+p+" >>")) {
				t.Errorf("%s: the parameter %s is used nowhere", name, p)
			}
		}
	}
	// The compiler reads descriptions too.
	for name, text := range descriptions(o) {
		if strings.Contains(text, "<<") {
			t.Errorf("%s has << in its description", name)
		}
	}
}

func TestTheOrbsExamplesUseItAsItIs(t *testing.T) {
	t.Parallel()
	o := pack(t)
	for name, e := range o.Examples {
		if err := o.Check(e.Usage); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	text, err := os.ReadFile(filepath.Join(root(t), "examples", "circleci", "config.yml"))
	if err != nil {
		t.Fatal(err)
	}
	read := func(text string) map[string]any {
		var config map[string]any
		if err := yaml.Unmarshal([]byte(text), &config); err != nil {
			t.Fatal(err)
		}
		return config
	}
	if err := o.Check(read(string(text))); err != nil {
		t.Errorf("examples/circleci/config.yml: %v", err)
	}
	readme, err := os.ReadFile(filepath.Join(root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?s)```yaml\n(version: 2\\.1\n.*?)```").FindAllStringSubmatch(string(readme), -1)
	if len(shown) == 0 {
		t.Error("the README shows no CircleCI configuration")
	}
	for _, s := range shown {
		if err := o.Check(read(s[1])); err != nil {
			t.Errorf("README.md: %v", err)
		}
	}
	// That the check sees what is wrong.
	for _, c := range []struct{ old, new, want string }{
		{"project: rocket", "projekt: rocket", `there is no parameter "projekt"`},
		{"project: rocket", "", "the parameter project is missing"},
		{"project: rocket", "project: 7", "is no string"},
		{"cfa/exec:", "cfa/run:", `no command "run"`},
		{"executor: cfa/node", "executor: cfa/nodes", "no executor nodes"},
		{"executor: cfa/node", "", "nothing to run on"},
		{"cfa: continuousauth/cfa@", "cfa: continuousauth/cfa@volatile-", "names no release"},
		{"- release:", "- releases:", "there is no job releases"},
	} {
		if !strings.Contains(string(text), c.old) {
			t.Fatalf("the configuration has no %q", c.old)
		}
		err := o.Check(read(strings.Replace(string(text), c.old, c.new, 1)))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q for %q: %v", c.new, c.old, err)
		}
	}
}

// What the Action can, the orb can: an input that is added to the one and forgotten
// in the other is found here.
func TestWhatTheActionTakesTheOrbTakes(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root(t), "action.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var action struct{ Inputs map[string]any }
	if err := yaml.Unmarshal(text, &action); err != nil {
		t.Fatal(err)
	}
	// By another name, or not at all; which command has the others is theirs to say.
	others := map[string]struct{ command, parameter, why string }{
		"run":        {"exec", "command", "a command of the orb's own takes it"},
		"env-name":   {"exec", "env_var", "an orb's names are in snake case, and this one says what it is"},
		"approve":    {"approve", "message", "a command of the orb's own takes it"},
		"pty-prompt": {"exec", "pty_prompt", "snake case"},
		"shell":      {"exec", "", "CircleCI has no shell that all steps share: a command that wants another than bash names it"},
		"stage":      {"install", "", "a step calls `cfa stage` after it: it needs no code, and no shell around it"},
	}
	o := pack(t)
	has := func(command, parameter string) bool { return o.Commands[command].Parameters[parameter] != nil }
	if len(action.Inputs) < 15 {
		t.Fatalf("the Action has %d inputs", len(action.Inputs))
	}
	for input := range action.Inputs {
		if other, named := others[input]; named {
			delete(others, input)
			if other.parameter != "" && !has(other.command, other.parameter) {
				t.Errorf("the orb's %s has no %s, which is the Action's %s", other.command, other.parameter, input)
			}
			continue
		}
		name := strings.ReplaceAll(input, "-", "_")
		if !has("request", name) && !has("exec", name) && !has("approve", name) {
			t.Errorf("the Action takes %s, and the orb does not", input)
		}
	}
	for input := range others {
		t.Errorf("the Action has no input %s", input)
	}
	// The job is exec with what comes before it: what it leaves out, it leaves out for a reason.
	for name := range o.Commands["exec"].Parameters {
		if slices.Contains([]string{"format", "pty_prompt", "refused", "relay_name", "tls_name", "ca_file", "install"}, name) {
			continue // for tools that cfa does not know, and relays that are set up unlike others: write the steps
		}
		if o.Jobs["publish"].Parameters[name] == nil {
			t.Errorf("the job publish has no %s", name)
		}
	}
}

// As long as there is no release, the orb must not pretend to know one; and what a
// release fills in is all that install needs.
func TestAReleaseFillsInItsVersionAndItsDigestsOrNothing(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("sh"); err != nil {
		t.Skip("no sh")
	}
	names := []string{"linux_amd64", "linux_arm64", "darwin_amd64", "darwin_arm64"}
	for p, declared := range pack(t).Commands["install"].Parameters {
		if p != "source" && (declared.Required() || declared.Default != "") {
			t.Errorf("before a release, %s is %q", p, declared.Default)
		}
	}
	sum := func(i int) string { return strings.Repeat(fmt.Sprintf("%x", 10+i), 64) }
	var checksums strings.Builder
	for i, name := range names {
		fmt.Fprintf(&checksums, "%s  cfa_1.2.3_%s\n", sum(i), name)
		fmt.Fprintf(&checksums, "%s  cfa-responder_1.2.3_%s\n%s  cfa_1.2.30_%s\n", sum(5), name, sum(5), name)
	}
	good := checksums.String()
	release := func(version, checksums string) (string, string, error) {
		dir := t.TempDir()
		file, out := filepath.Join(dir, "checksums.txt"), filepath.Join(dir, "src")
		if err := os.WriteFile(file, []byte(checksums), 0o600); err != nil {
			t.Fatal(err)
		}
		said, err := exec.Command("sh", "release.sh", version, file, out).CombinedOutput()
		return out, string(said), err
	}
	dir, said, err := release("v1.2.3", good)
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	o := orbtest.Pack(t, root(t), dir)
	install := o.Commands["install"].Parameters
	if v := install["version"].Default; v != "v1.2.3" {
		t.Errorf("version is %v", v)
	}
	for i, name := range names {
		if v := install["sha256_"+name].Default; v != sum(i) {
			t.Errorf("the digest for %s is %v", name, v)
		}
	}
	if v := install["sha256"].Default; v != "" {
		t.Errorf("sha256 is %v", v)
	}
	for name, c := range map[string]struct{ version, checksums, want string }{
		"a digest that is not there": {"v1.2.3", strings.Replace(good, "  cfa_1.2.3_darwin_arm64", "  cfa_1.2.3_darwin_ppc", 1), "cfa_1.2.3_darwin_arm64"},
		"two digests of one file":    {"v1.2.3", good + sum(5) + "  cfa_1.2.3_linux_amd64\n", "exactly one digest of cfa_1.2.3_linux_amd64"},
		"half a digest":              {"v1.2.3", strings.Replace(good, sum(0), sum(0)[1:], 1), "cfa_1.2.3_linux_amd64"},
		"no digest":                  {"v1.2.3", strings.Replace(good, sum(0), "default: &"+sum(0)[10:], 1), "cfa_1.2.3_linux_amd64"},
		"another release's":          {"v1.2.4", good, "cfa_1.2.4_linux_amd64"},
		"no version":                 {"latest", good, "no version"},
		"two lines":                  {"v1.2.3\nx", good, "no version"},
	} {
		dir, said, err := release(c.version, c.checksums)
		if err == nil || !strings.Contains(said, c.want) {
			t.Errorf("%s: %v\n%s", name, err, said)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: an orb was made", name)
		}
	}
}

// What fetches and checks a program is one text in two files, since an orb can include
// nothing from outside itself. Mended in one alone, the other goes on with the fault.
func TestTheOrbInstallsAsInstallShDoes(t *testing.T) {
	t.Parallel()
	files := []string{"install.sh", "orb/src/scripts/install.sh"}
	var parts []string
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(root(t), filepath.FromSlash(file)))
		if err != nil {
			t.Fatal(err)
		}
		part, outside, err := sharedPart(string(text))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, line := range strings.Split(outside, "\n") {
			line, _, _ = strings.Cut(line, "#")
			if m := regexp.MustCompile(`\b(curl|wget|uname|sha256sum|shasum|openssl|mktemp|mv|chmod)\b`).FindString(line); m != "" {
				t.Errorf("%s: %s stands outside of the shared part: %s", file, m, line)
			}
		}
		parts = append(parts, part)
	}
	if parts[0] != parts[1] {
		one, other := strings.Split(parts[0], "\n"), strings.Split(parts[1], "\n")
		for i := range max(len(one), len(other)) {
			if i >= len(one) || i >= len(other) || one[i] != other[i] {
				t.Fatalf("the shared parts of %s differ from their line %d on; make them the same", strings.Join(files, " and "), i+1)
			}
		}
	}
	for _, want := range []string{"--proto =https", "sha256sum", `[ "$got" = "$wanted" ]`, "mv -f"} {
		if !strings.Contains(parts[0], want) {
			t.Errorf("the shared part has no %s", want)
		}
	}
	for name, text := range map[string]string{
		"none": "a\n", "no end": "# shared: begins\na\n", "two": "# shared: begins\n# shared: ends\n# shared: begins\n# shared: ends\n",
		"turned round": "# shared: ends\n# shared: begins\n",
	} {
		if _, _, err := sharedPart(text); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// sharedPart gives what stands between the two marks, and the rest.
func sharedPart(text string) (part, outside string, err error) {
	const begins, ends = "# shared: begins\n", "# shared: ends\n"
	if strings.Count(text, begins) != 1 || strings.Count(text, ends) != 1 {
		return "", "", fmt.Errorf("there is not exactly one %q and one %q", begins, ends)
	}
	before, rest, _ := strings.Cut(text, begins)
	part, after, ok := strings.Cut(rest, ends)
	if !ok {
		return "", "", fmt.Errorf("it ends before it begins")
	}
	return part, before + after, nil
}

func TestTheScriptsPassTheirBatsTests(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("bats"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("bats is missing: apt-get install bats, or brew install bats-core")
		}
		t.Skip("bats is missing: apt-get install bats, or brew install bats-core")
	}
	cmd := exec.CommandContext(t.Context(), "bats", "--print-output-on-failure", "src/tests")
	cmd.Env = append(os.Environ(), "BATS_TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := strings.Count(string(out), "\nok "); n < 20 {
		t.Errorf("%d tests ran:\n%s", n, out)
	}
}
