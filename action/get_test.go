package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// hasBash says whether scripts of the composite action can run here as a runner
// runs them.
func hasBash() bool {
	_, err := exec.LookPath("bash")
	return err == nil && runtime.GOOS != "windows"
}

// An input that stands in a script is run as part of it.
func TestTheActionPassesEveryInputAsAVariableAndNoOtherWay(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../action.yml")
	if err != nil {
		t.Fatal(err)
	}
	var action struct {
		Inputs map[string]struct {
			Description string
			Required    bool
			Default     string
		}
		Outputs map[string]struct{ Description, Value string }
		Runs    struct {
			Using string
			Steps []struct {
				ID, Shell, Run string
				Env            map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(data, &action); err != nil {
		t.Fatal(err)
	}
	if action.Runs.Using != "composite" || len(action.Runs.Steps) != 2 {
		t.Fatalf("runs: %+v", action.Runs)
	}
	for _, step := range action.Runs.Steps {
		if strings.Contains(step.Run, "${{") {
			t.Errorf("step %s has an expression in its script", step.ID)
		}
	}
	request := action.Runs.Steps[1]
	if !strings.HasPrefix(request.Run, "exec ") {
		t.Error("a shell between the runner and cfa keeps the runner's signal to itself")
	}
	for name, in := range action.Inputs {
		as := variable(name)
		if name == "artifacts" {
			as = "CFA_ARTIFACT" // a flag that is given once for each
		}
		if got := request.Env[as]; got != "${{ inputs."+name+" }}" {
			t.Errorf("%s is %q", as, got)
		}
		if name == "details" && in.Default != "true" {
			t.Error("whoever approves is not offered what has changed")
		}
		if in.Description == "" || in.Required != (name == "relay" || name == "project") {
			t.Errorf("input %s: %+v", name, in)
		}
	}
	if request.Env["CFA_OUTPUT"] != outputGitHub {
		t.Error("a job's own CFA_OUTPUT would take the code elsewhere")
	}
	for name, out := range action.Outputs {
		if out.Description == "" || out.Value != "${{ steps.request.outputs."+name+" }}" {
			t.Errorf("output %s: %+v", name, out)
		}
	}
	if len(action.Outputs) != 4 {
		t.Errorf("%d outputs", len(action.Outputs))
	}

	// The inputs are the flags of cfa request, and the other way round.
	parser, err := kong.New(&cli{}, kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	for _, flag := range parser.Model.Children[0].Flags {
		_, there := action.Inputs[flag.Name]
		if _, set := request.Env[variable(flag.Name)]; flag.Name != "help" && flag.Name != "output" && (!there || !set) {
			t.Errorf("--%s is no input", flag.Name)
		}
	}
	others := []string{"run", "stage", "approve", "artifacts", "approvals", "details", "receipt"} // of exec and approve
	for _, name := range others {
		if _, there := action.Inputs[name]; !there {
			t.Errorf("there is no input %s", name)
		}
	}
	// So are those of cfa approve; its words are the input approve.
	for _, flag := range parser.Model.Children[slices.IndexFunc(parser.Model.Children, func(n *kong.Node) bool { return n.Name == "approve" })].Flags {
		if _, set := request.Env[variable(flag.Name)]; flag.Name != "help" && !set {
			t.Errorf("--%s of cfa approve is no input", flag.Name)
		}
	}
	if n := len(parser.Model.Children[0].Flags); n != len(action.Inputs)-len(others)+1 {
		t.Errorf("%d flags, %d inputs", n, len(action.Inputs))
	}
}

// Which subcommand the inputs ask for. The program is a stand-in that says how it
// was called.
func TestTheInputsSayWhichSubcommandRuns(t *testing.T) {
	t.Parallel()
	if !hasBash() {
		t.Skip("bash is missing")
	}
	cfa := filepath.Join(t.TempDir(), "cfa")
	if err := os.WriteFile(cfa, []byte("#!/bin/sh\necho \"$*|$CFA_MESSAGE|$CFA_RECEIPT\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env  []string
		want string
		code int
	}{
		"nothing":           {nil, "request||", 0},
		"a command":         {[]string{"CFA_RUN=npm publish", "CFA_MESSAGE=hello"}, "exec|hello|", 0},
		"a staging":         {[]string{"CFA_STAGE=npm stage publish"}, "stage||", 0},
		"staging, too":      {[]string{"CFA_STAGE=x", "CFA_RUN=y"}, "are steps of their own", 64},
		"an approval":       {[]string{"CFA_APPROVE=publish 1.0"}, "approve|publish 1.0|/tmp/r/cfa-receipt-me.jsonl", 0},
		"its own receipt":   {[]string{"CFA_APPROVE=publish 1.0", "CFA_RECEIPT=here"}, "approve|publish 1.0|here", 0},
		"both":              {[]string{"CFA_APPROVE=x", "CFA_RUN=y"}, "are steps of their own", 64},
		"two texts":         {[]string{"CFA_APPROVE=x", "CFA_MESSAGE=y"}, "leave one out", 64},
		"files, no words":   {[]string{"CFA_ARTIFACT=x"}, "add the input `approve`", 64},
		"no words, a space": {[]string{"CFA_APPROVE=", "CFA_RUN="}, "request||", 0},
	} {
		cmd := exec.Command("bash", "step.sh")
		cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "CFA_BINARY=" + cfa, "RUNNER_TEMP=/tmp/r", "GITHUB_ACTION=me"}, c.env...)
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: exit code %d, %q", name, code, out)
		}
	}
}
