// Package orbtest packs the CircleCI orb with CircleCI's own program, and expands
// what is packed as CircleCI's configuration compiler would: for the tests that
// look at the orb, and for those that run its steps.
//
// The rule it keeps: it knows only as much of CircleCI's configuration as the orb
// and its examples use, and refuses the rest, so that nothing passes here which it
// did not understand.
package orbtest

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"go.yaml.in/yaml/v3"
)

// An Orb is a packed orb.
type Orb struct {
	Version     string
	Description string
	Display     map[string]string
	Commands    map[string]*Component
	Jobs        map[string]*Component
	Executors   map[string]*Component
	Examples    map[string]*Example
}

// A Component is a command, a job or an executor.
type Component struct {
	Description string
	Parameters  map[string]*Parameter
	Steps       []any
	Executor    any
	Docker      []map[string]any
}

// A Parameter is declared by a component.
type Parameter struct {
	Type        string
	Description string
	Default     any
	Enum        []string

	given bool // that Default is
}

// UnmarshalYAML notes whether there is a default: one that is empty is one.
func (p *Parameter) UnmarshalYAML(n *yaml.Node) error {
	type plain Parameter
	if err := n.Decode((*plain)(p)); err != nil {
		return err
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		p.given = p.given || n.Content[i].Value == "default"
	}
	return nil
}

// Required says that a step must give it.
func (p *Parameter) Required() bool { return !p.given }

// An Example shows a configuration that uses the orb.
type Example struct {
	Description string
	Usage       map[string]any
}

// A Run is a step that runs a script.
type Run struct {
	Name            string
	Command         string
	Environment     map[string]string
	NoOutputTimeout string
}

// Pack packs the orb whose sources are in dir with `circleci orb pack`, as root's
// tools/orb pins it, and reads what comes out strictly.
func Pack(t testing.TB, root, dir string) *Orb {
	t.Helper()
	packed := PackYAML(t, root, dir)
	var o Orb
	d := yaml.NewDecoder(bytes.NewReader(packed))
	d.KnownFields(true)
	if err := d.Decode(&o); err != nil {
		t.Fatalf("the packed orb: %v", err)
	}
	return &o
}

// PackYAML is the packed orb as it is published.
func PackYAML(t testing.TB, root, dir string) []byte {
	t.Helper()
	path, err := program(root)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "orb", "pack", dir)
	// It would ask its maker for a newer version, and tell that it was used.
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH"), "CIRCLECI_CLI_SKIP_UPDATE_CHECK=true", "CIRCLECI_CLI_TELEMETRY_OPTOUT=1"}
	var wrong bytes.Buffer
	cmd.Stderr = &wrong
	packed, err := cmd.Output()
	if err != nil {
		t.Fatalf("circleci orb pack: %v\n%s", err, &wrong)
	}
	return packed
}

// built is the path of circleci-cli, built once.
var built struct {
	once sync.Once
	path string
	err  error
}

// program builds circleci-cli and gives its path: run by go itself, it would need
// a home where go finds its cache, and it is to have one of its own.
func program(root string) (string, error) {
	built.once.Do(func() {
		cmd := exec.Command("go", "tool", "-modfile="+filepath.Join(root, "tools", "orb", "go.mod"), "-n", "circleci-cli")
		cmd.Dir = root
		var wrong bytes.Buffer
		cmd.Stderr = &wrong
		path, err := cmd.Output()
		if err != nil {
			built.err = fmt.Errorf("build circleci-cli: %w\n%s", err, &wrong)
		}
		built.path = strings.TrimSpace(string(path))
	})
	return built.path, built.err
}

// Runs gives the scripts that a step with this command and these arguments runs,
// in order.
func (o *Orb) Runs(command string, args map[string]any) ([]Run, error) {
	c := o.Commands[command]
	if c == nil {
		return nil, fmt.Errorf("the orb has no command %q", command)
	}
	values, err := c.bind(args)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	runs, err := o.steps(c.Steps, values)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	return runs, nil
}

// JobRuns does the same for a job.
func (o *Orb) JobRuns(job string, args map[string]any) ([]Run, error) {
	j := o.Jobs[job]
	if j == nil {
		return nil, fmt.Errorf("the orb has no job %q", job)
	}
	values, err := j.bind(args)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", job, err)
	}
	executor, err := substitute(j.Executor, values)
	if err != nil {
		return nil, fmt.Errorf("%s: executor: %w", job, err)
	}
	if name, ok := executor.(string); !ok || o.Executors[name] == nil {
		return nil, fmt.Errorf("%s: the orb has no executor %v", job, executor)
	}
	runs, err := o.steps(j.Steps, values)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", job, err)
	}
	return runs, nil
}

// bind gives each parameter its value.
func (c *Component) bind(args map[string]any) (map[string]any, error) {
	for name := range args {
		if c.Parameters[name] == nil {
			return nil, fmt.Errorf("there is no parameter %q (there are %s)", name, strings.Join(slices.Sorted(maps.Keys(c.Parameters)), ", "))
		}
	}
	values := map[string]any{}
	for name, p := range c.Parameters {
		v, ok := args[name]
		if !ok {
			if p.Required() {
				return nil, fmt.Errorf("the parameter %s is missing", name)
			}
			v = p.Default
		}
		if err := p.check(v); err != nil {
			return nil, fmt.Errorf("parameter %s: %w", name, err)
		}
		values[name] = v
	}
	return values, nil
}

func (p *Parameter) check(v any) error {
	ok := false
	switch p.Type {
	case "string", "executor":
		_, ok = v.(string)
	case "boolean":
		_, ok = v.(bool)
	case "integer":
		_, ok = v.(int)
	case "enum":
		s, isText := v.(string)
		ok = isText && slices.Contains(p.Enum, s)
	case "steps":
		_, ok = v.([]any)
	default:
		return fmt.Errorf("the type %q is not one that is known here", p.Type)
	}
	if !ok {
		return fmt.Errorf("%v (%T) is no %s", v, v, p.Type)
	}
	return nil
}

var (
	use  = regexp.MustCompile(`(\\?)<<\s*([^<>]*?)\s*>>`)
	only = regexp.MustCompile(`^<<\s*parameters\.([A-Za-z0-9_]+)\s*>>$`)
)

// substitute puts values in the place of `<< parameters.name >>`. A value that
// stands alone keeps its type.
func substitute(v any, values map[string]any) (any, error) {
	text, ok := v.(string)
	if !ok {
		return v, nil
	}
	if m := only.FindStringSubmatch(text); m != nil {
		value, ok := values[m[1]]
		if !ok {
			return nil, fmt.Errorf("%s is not declared", text)
		}
		return value, nil
	}
	var wrong error
	text = use.ReplaceAllStringFunc(text, func(s string) string {
		m := use.FindStringSubmatch(s)
		name, isParameter := strings.CutPrefix(m[2], "parameters.")
		value, declared := values[name]
		switch {
		case m[1] != "":
			return s
		case isParameter && declared:
			return fmt.Sprint(value)
		default:
			wrong = fmt.Errorf("%s is nothing that an orb can use", s)
			return s
		}
	})
	return strings.ReplaceAll(text, `\<<`, "<<"), wrong
}

// steps gives the scripts of a list of steps.
func (o *Orb) steps(list []any, values map[string]any) (runs []Run, err error) {
	for i, step := range list {
		more, err := o.step(step, values)
		if err != nil {
			return nil, fmt.Errorf("step %d: %w", i+1, err)
		}
		runs = append(runs, more...)
	}
	return runs, nil
}

// builtin are steps of CircleCI's own that run no script of anybody's.
var builtin = []string{"checkout", "store_artifacts", "attach_workspace", "persist_to_workspace", "setup_remote_docker"}

func (o *Orb) step(step any, values map[string]any) ([]Run, error) {
	if name, ok := step.(string); ok {
		if slices.Contains(builtin, name) {
			return nil, nil
		}
		return o.Runs(name, nil)
	}
	m, ok := step.(map[string]any)
	if !ok || len(m) != 1 {
		return nil, fmt.Errorf("%v is not one step", step)
	}
	for name, body := range m {
		switch {
		case slices.Contains(builtin, name):
			return nil, nil
		case name == "steps":
			given, err := substitute(body, values)
			if err != nil {
				return nil, err
			}
			list, ok := given.([]any)
			if !ok {
				return nil, fmt.Errorf("%v are no steps", given)
			}
			return o.steps(list, nil)
		}
		args, ok := body.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%s: %v is not understood here", name, body)
		}
		switch name {
		case "when", "unless":
			v, err := substitute(args["condition"], values)
			if err != nil {
				return nil, err
			}
			holds, ok := v.(bool)
			inner, isList := args["steps"].([]any)
			if !ok || !isList || len(args) != 2 {
				return nil, fmt.Errorf("%s: %v is not understood here", name, args)
			}
			if holds != (name == "when") {
				return nil, nil
			}
			return o.steps(inner, values)
		case "run":
			r, err := run(args, values)
			return []Run{r}, err
		}
		bound := map[string]any{}
		for k, v := range args {
			var err error
			if bound[k], err = substitute(v, values); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		return o.Runs(name, bound)
	}
	return nil, nil
}

func run(args, values map[string]any) (r Run, err error) {
	text := func(v any) string {
		var s any
		if s, err = substitute(v, values); err != nil {
			return ""
		}
		switch s := s.(type) {
		case string:
			return s
		case bool:
			return strconv.FormatBool(s)
		case int:
			return strconv.Itoa(s)
		}
		err = fmt.Errorf("%v is no text", v)
		return ""
	}
	for k, v := range args {
		switch k {
		case "name":
			r.Name = text(v)
		case "command":
			r.Command = text(v)
		case "no_output_timeout":
			r.NoOutputTimeout = text(v)
		case "environment":
			vars, ok := v.(map[string]any)
			if !ok {
				return r, fmt.Errorf("environment: %v is not understood here", v)
			}
			r.Environment = map[string]string{}
			for name, value := range vars {
				r.Environment[name] = text(value)
				if err != nil {
					return r, fmt.Errorf("environment: %s: %w", name, err)
				}
			}
		default:
			return r, fmt.Errorf("run: %s is not understood here", k)
		}
		if err != nil {
			return r, fmt.Errorf("run: %s: %w", k, err)
		}
	}
	return r, nil
}

// Check says what is wrong with a user's configuration: it must name the orb, use
// it, and give each of its commands and jobs what they take.
func (o *Orb) Check(config map[string]any) error {
	orbs, _ := config["orbs"].(map[string]any)
	alias := ""
	for name, source := range orbs {
		if s, _ := source.(string); regexp.MustCompile(`^continuousauth/cfa@\d+\.\d+\.\d+$`).MatchString(s) {
			alias = name
		}
	}
	if alias == "" {
		return fmt.Errorf("it names no release of the orb in `orbs`: %v", orbs)
	}
	if v := fmt.Sprint(config["version"]); v != "2.1" {
		return fmt.Errorf("version is %s", v)
	}
	used := 0
	own := func(step any) error {
		for name, args := range single(step) {
			command, ok := strings.CutPrefix(name, alias+"/")
			if !ok {
				continue
			}
			used++
			given, _ := args.(map[string]any)
			if _, err := o.Runs(command, plain(given)); err != nil {
				return err
			}
		}
		return nil
	}
	jobs, _ := config["jobs"].(map[string]any)
	for name, j := range jobs {
		job, _ := j.(map[string]any)
		if e, ok := job["executor"].(string); ok {
			if inner, ours := strings.CutPrefix(e, alias+"/"); ours && o.Executors[inner] == nil {
				return fmt.Errorf("job %s: the orb has no executor %s", name, inner)
			}
		} else if job["docker"] == nil && job["machine"] == nil && job["macos"] == nil {
			return fmt.Errorf("job %s has nothing to run on", name)
		}
		steps, _ := job["steps"].([]any)
		if len(steps) == 0 {
			return fmt.Errorf("job %s has no steps", name)
		}
		for _, step := range steps {
			if err := own(step); err != nil {
				return fmt.Errorf("job %s: %w", name, err)
			}
		}
	}
	workflows, _ := config["workflows"].(map[string]any)
	placed := map[string]bool{}
	for name, w := range workflows {
		workflow, _ := w.(map[string]any)
		list, _ := workflow["jobs"].([]any)
		for _, entry := range list {
			for job, a := range single(entry) {
				args, _ := a.(map[string]any)
				inner, ours := strings.CutPrefix(job, alias+"/")
				placed[job] = true
				switch {
				case ours:
					used++
					given := maps.Clone(plain(args))
					for _, k := range ofWorkflow {
						delete(given, k)
					}
					if _, err := o.JobRuns(inner, given); err != nil {
						return fmt.Errorf("workflow %s: %w", name, err)
					}
				case jobs[job] == nil:
					return fmt.Errorf("workflow %s: there is no job %s", name, job)
				}
			}
		}
	}
	for name := range jobs {
		if !placed[name] {
			return fmt.Errorf("job %s is in no workflow", name)
		}
	}
	if used == 0 {
		return fmt.Errorf("it uses nothing of the orb")
	}
	return nil
}

// ConfigJobs gives the scripts that each job of a user's configuration runs, in order,
// where the pipeline is that of a tag. It must have passed Check.
func (o *Orb) ConfigJobs(config map[string]any, tag string) (map[string][]Run, error) {
	if err := o.Check(config); err != nil {
		return nil, err
	}
	alias := ""
	for name := range config["orbs"].(map[string]any) {
		alias = name
	}
	all := map[string][]Run{}
	jobs, _ := config["jobs"].(map[string]any)
	for name, j := range jobs {
		steps, err := named(j.(map[string]any)["steps"], alias, tag)
		if err != nil {
			return nil, fmt.Errorf("job %s: %w", name, err)
		}
		if all[name], err = o.steps(steps.([]any), nil); err != nil {
			return nil, fmt.Errorf("job %s: %w", name, err)
		}
	}
	for _, w := range config["workflows"].(map[string]any) {
		for _, entry := range w.(map[string]any)["jobs"].([]any) {
			for name, a := range single(entry) {
				inner, ours := strings.CutPrefix(name, alias+"/")
				if !ours {
					continue
				}
				given, err := named(a, alias, tag)
				if err != nil {
					return nil, fmt.Errorf("job %s: %w", name, err)
				}
				args := maps.Clone(given.(map[string]any))
				for _, k := range ofWorkflow {
					delete(args, k)
				}
				if all[name], err = o.JobRuns(inner, args); err != nil {
					return nil, fmt.Errorf("job %s: %w", name, err)
				}
			}
		}
	}
	return all, nil
}

// named is a part of a user's configuration as an orb would have written it: with the
// orb's own names, the pipeline's values in their places, and a name for each script.
func named(v any, alias, tag string) (any, error) {
	switch v := v.(type) {
	case string:
		v = strings.ReplaceAll(v, "<< pipeline.git.tag >>", tag)
		if use.MatchString(v) {
			return nil, fmt.Errorf("%q: the pipeline's value is not one that is known here", v)
		}
		return v, nil
	case []any:
		out := make([]any, len(v))
		for i := range v {
			var err error
			if out[i], err = named(v[i], alias, tag); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			inner, err := named(x, alias, tag)
			if err != nil {
				return nil, err
			}
			if text, short := inner.(string); short && k == "run" {
				inner = map[string]any{"name": text, "command": text}
			}
			out[strings.TrimPrefix(k, alias+"/")] = inner
		}
		return out, nil
	}
	return v, nil
}

// ofWorkflow are what a workflow says of any job; a job of the orb's does not see them.
var ofWorkflow = []string{"context", "filters", "requires", "name"}

// single is a list's entry by its name: `x`, or `x: {…}`.
func single(entry any) map[string]any {
	switch e := entry.(type) {
	case string:
		return map[string]any{e: nil}
	case map[string]any:
		return e
	}
	return nil
}

// plain is arguments with some text in the place of pipeline values, which only a
// user's configuration has.
func plain(args map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range args {
		if s, ok := v.(string); ok {
			v = regexp.MustCompile(`<<\s*pipeline\.[a-z_.]+\s*>>`).ReplaceAllString(s, "of-the-pipeline")
		}
		out[k] = v
	}
	return out
}
