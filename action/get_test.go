package main

import (
	"os"
	"os/exec"
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
		if got := request.Env[variable(name)]; got != "${{ inputs."+name+" }}" {
			t.Errorf("%s is %q", variable(name), got)
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
	if len(action.Outputs) != 3 {
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
	if n := len(parser.Model.Children[0].Flags); n != len(action.Inputs)+1 {
		t.Errorf("%d flags, %d inputs", n, len(action.Inputs))
	}
}

// The table decides how a typing error is caught before it costs an attempt.
