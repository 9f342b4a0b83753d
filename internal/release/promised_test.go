package release

// What README.md and CONTRIBUTING.md say that a release consists of and that each
// change is asked: a part that is taken out of a file leaves a promise behind.

import (
	"maps"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestAReleaseConsistsOfWhatIsPromised(t *testing.T) {
	t.Parallel()
	type part struct {
		ID, Name     string
		Binary       string
		IDs, Formats []string
		Goos, Goarch []string
		Flags        []string
		Artifacts    string
		Skip         string `yaml:"skip_upload"`
	}
	var c struct {
		Builds   []part
		Checksum struct {
			Name      string `yaml:"name_template"`
			Algorithm string
		}
		SBOMs  []part
		NFPMs  []part
		Casks  []part `yaml:"homebrew_casks"`
		Scoops []part
		AURs   []part
	}
	if err := yaml.Unmarshal([]byte(read(t, ".goreleaser.yaml")), &c); err != nil {
		t.Fatal(err)
	}
	desktop, both := []string{"linux", "darwin", "windows"}, []string{"amd64", "arm64"}
	for program, systems := range map[string][]string{"cfa": desktop, "cfa-responder": desktop, "cfa-relay": {"linux"}} {
		i := slices.IndexFunc(c.Builds, func(b part) bool { return b.Binary == program })
		if i < 0 {
			t.Errorf("%s is not built", program)
			continue
		}
		b := c.Builds[i]
		if !slices.Equal(b.Goos, systems) || !slices.Equal(b.Goarch, both) {
			t.Errorf("%s is built for %v, %v", program, b.Goos, b.Goarch)
		}
		for _, flag := range []string{"-trimpath", "-buildvcs=false"} {
			if !slices.Contains(b.Flags, flag) {
				t.Errorf("%s is built without %s: its bytes depend on the machine", program, flag)
			}
		}
		if !slices.ContainsFunc(c.NFPMs, func(n part) bool {
			return slices.Contains(n.IDs, program) && slices.Contains(n.Formats, "deb") && slices.Contains(n.Formats, "rpm")
		}) {
			t.Errorf("there is no deb or rpm of %s", program)
		}
		if program == "cfa-relay" {
			continue // a server's
		}
		named := func(list []part, suffix string) bool {
			return slices.ContainsFunc(list, func(p part) bool { return p.Name == program+suffix && p.Skip == "true" })
		}
		if !named(c.Casks, "") || !named(c.Scoops, "") || !named(c.AURs, "-bin") {
			t.Errorf("%s has no cask, no manifest for Scoop or no PKGBUILD that waits for the approval", program)
		}
	}
	if c.Checksum.Name != "checksums.txt" || c.Checksum.Algorithm != "sha256" {
		t.Errorf("checksums: %+v", c.Checksum)
	}
	if len(c.SBOMs) == 0 || c.SBOMs[0].Artifacts != "binary" {
		t.Errorf("a list of parts: %+v", c.SBOMs)
	}
}

// Attested before it is public, compared while it is a draft, and found immutable.
func TestAReleaseIsAttestedBeforeItIsPublicAndThenCannotChange(t *testing.T) {
	t.Parallel()
	var w struct {
		Jobs map[string]struct {
			Needs yaml.Node
			Steps []step
		}
	}
	if err := yaml.Unmarshal([]byte(read(t, ".github/workflows/release.yml")), &w); err != nil {
		t.Fatal(err)
	}
	publish := w.Jobs["publish"]
	if !names(&publish.Needs, "attest") || !names(&publish.Needs, "approve") {
		t.Error("the job publish waits neither for the attestation nor for the approval, or not for both")
	}
	attests := func(job, key string) bool {
		return slices.ContainsFunc(w.Jobs[job].Steps, func(s step) bool {
			v := s.With[key]
			return strings.HasPrefix(s.Uses, "actions/attest@") && v.Value != ""
		})
	}
	if !attests("attest", "subject-checksums") || !attests("image", "subject-digest") {
		t.Error("the files, or the image, are not attested")
	}
	last := publish.Steps[len(publish.Steps)-1].Run
	at := -1
	for _, want := range []string{"gh release create", "--draft", "gh release download", "diff -r release back", "--draft=false", "--jq .immutable"} {
		next := strings.Index(last, want)
		if next <= at {
			t.Errorf("publishing has no %q after what comes before it:\n%s", want, last)
		}
		at = next
	}
	for job, j := range w.Jobs {
		for _, s := range j.Steps {
			if job != "publish" && regexp.MustCompile(`gh release (create|edit|upload)`).MatchString(s.Run) {
				t.Errorf("job %s changes a release", job)
			}
		}
	}
}

// The script of that job as it stands, with a gh that notes how it was called.
func TestAReleaseThatCouldChangeIsSaid(t *testing.T) {
	t.Parallel()
	var w workflow
	if err := yaml.Unmarshal([]byte(read(t, ".github/workflows/release.yml")), &w); err != nil {
		t.Fatal(err)
	}
	steps := w.Jobs["publish"].Steps
	script := steps[len(steps)-1].Run
	for name, c := range map[string]struct {
		immutable, changelog, back string
		good                       bool
	}{
		"good":                  {"true", "## 1.2.3\n\n- new\n", "bytes", true},
		"not immutable":         {"false", "## 1.2.3\n\n- new\n", "bytes", false},
		"other bytes came up":   {"true", "## 1.2.3\n\n- new\n", "others", false},
		"nothing is said of it": {"true", "## 1.2.2\n\n- old\n", "bytes", false},
	} {
		dir := t.TempDir()
		gh := `#!/bin/sh
printf '%s\n' "$*" >>gh.log
case "$1 $2" in
"release download") mkdir back && printf '%s' "$BACK" >back/cfa ;;
"api repos/o/r/releases/tags/v1.2.3") echo "$IMMUTABLE" ;;
esac
`
		for file, text := range map[string]string{"bin/gh": gh, "release/cfa": "bytes", "CHANGELOG.md": "# Changes\n\n" + c.changelog} {
			file = dir + "/" + file
			if err := os.MkdirAll(file[:strings.LastIndexByte(file, '/')], 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		out, err := bash(t, dir, script, "PATH="+dir+"/bin:"+os.Getenv("PATH"), "TAG=v1.2.3", "GITHUB_REPOSITORY=o/r", "BACK="+c.back, "IMMUTABLE="+c.immutable)
		if (err == nil) != c.good {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		log, _ := os.ReadFile(dir + "/gh.log")
		if public := strings.Contains(string(log), "--draft=false"); public != (name == "good" || name == "not immutable") {
			t.Errorf("%s: public: %v\n%s", name, public, log)
		}
	}
}

// What each change is asked, and by what.
func TestTheWorkflowsAskWhatIsPromised(t *testing.T) {
	t.Parallel()
	type asked struct {
		file, job string
		on        []string
		run, uses string
	}
	for _, c := range []asked{
		{"ci.yml", "linux", []string{"push", "pull_request"}, ".ci/run", ""},
		{"ci.yml", "desktop", []string{"push", "pull_request"}, "go test ./action ./responder", ""},
		{"ci.yml", "release", []string{"push", "pull_request"}, "make release-snapshot", ""},
		{"security.yml", "govulncheck", []string{"pull_request", "schedule"}, "govulncheck ./...", ""},
		{"security.yml", "codeql", []string{"pull_request", "schedule"}, "", "github/codeql-action/analyze@"},
		{"fuzz.yml", "fuzz", []string{"pull_request", "schedule"}, "make fuzz", ""},
	} {
		var w struct {
			On   map[string]any
			Jobs map[string]struct {
				Strategy struct{ Matrix map[string]any }
				Steps    []step
			}
		}
		if err := yaml.Unmarshal([]byte(read(t, ".github/workflows/"+c.file)), &w); err != nil {
			t.Fatal(err)
		}
		for _, event := range c.on {
			if _, there := w.On[event]; !there {
				t.Errorf("%s does not run on %s (on %v)", c.file, event, slices.Collect(maps.Keys(w.On)))
			}
		}
		j := w.Jobs[c.job]
		if !slices.ContainsFunc(j.Steps, func(s step) bool {
			return c.run != "" && strings.Contains(s.Run, c.run) || c.uses != "" && strings.HasPrefix(s.Uses, c.uses)
		}) {
			t.Errorf("%s: job %s does not run %s%s", c.file, c.job, c.run, c.uses)
		}
		if c.job == "desktop" {
			systems, _ := yaml.Marshal(j.Strategy.Matrix["os"])
			if !strings.Contains(string(systems), "macos-") || !strings.Contains(string(systems), "windows-") {
				t.Errorf("the desktop's systems are %s", systems)
			}
		}
	}
}

// bash runs a step's script as GitHub's runner does.
func bash(t *testing.T, dir, script string, env ...string) (string, error) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the release workflow runs on Linux")
	}
	cmd := exec.CommandContext(t.Context(), "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script)
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.CombinedOutput()
	return string(out), err
}
