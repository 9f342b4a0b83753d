package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
		switch name {
		case "artifacts":
			as = "CFA_ARTIFACT" // a flag that is given once for each
		case "env-name":
			as = "CFA_ENV" // an input `env` would be taken for a step's own env
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

	// Each flag is an input, or is set here, so that what an earlier step has left in
	// the job's environment steers nothing: where a code goes, least of all.
	parser, err := kong.New(&cli{}, kong.Vars{"version": ""})
	if err != nil {
		t.Fatal(err)
	}
	flags := map[string]bool{"CFA_APPROVE": true, "CFA_STAGE": true, "CFA_RUN": true} // step.sh's, which looks at them first
	for _, sub := range parser.Model.Children {
		if sub.Name == "verify-receipt" {
			continue
		}
		for _, flag := range sub.Flags {
			if flag.Name == "help" || flag.Name == "version" {
				continue
			}
			flags[variable(flag.Name)] = true
			if _, set := request.Env[variable(flag.Name)]; !set {
				t.Errorf("cfa %s would take --%s from the job's environment", sub.Name, flag.Name)
			}
		}
	}
	fixed := map[string]string{"CFA_BINARY": "${{ steps.get.outputs.cfa }}", "CFA_OUTPUT": outputGitHub}
	for _, not := range []string{"CFA_STDIN", "CFA_FD", "CFA_LINK", "CFA_RETRIES", "CFA_NO_PACK"} {
		fixed[not] = ""
	}
	inputs := 0
	for name, value := range request.Env {
		if strings.HasPrefix(value, "${{ inputs.") {
			inputs++
		} else if want, known := fixed[name]; !known || value != want {
			t.Errorf("%s is %q", name, value)
		}
		if !flags[name] && name != "CFA_BINARY" {
			t.Errorf("nothing reads %s", name)
		}
	}
	if inputs != len(action.Inputs) || inputs < 20 {
		t.Errorf("%d inputs, of which %d are passed", len(action.Inputs), inputs)
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
