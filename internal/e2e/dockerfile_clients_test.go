//go:build clients

// Shows that the relay's image is what the Dockerfile claims, where no container engine is at hand: the file is read, its
// build steps are run by hand on just the files that it copies, and what comes out is inspected.

package e2e

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"encoding/json"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// dockerStep is one instruction of a Dockerfile: its name in capitals and the rest of its line, continuations joined.
type dockerStep struct{ name, args string }

// dockerStage is what stands between one FROM and the next. The first step is the FROM itself.
type dockerStage []dockerStep

// args returns the arguments of each step of that name, in order.
func (s dockerStage) args(name string) []string {
	var found []string
	for _, step := range s {
		if step.name == name {
			found = append(found, step.args)
		}
	}
	return found
}

// parseDockerfile splits a Dockerfile into stages. It knows comments, continued lines and nothing else: what our file does
// not use (heredocs, ARG before FROM, an escape directive) fails the test, rather than being read as something it is not.
func parseDockerfile(t *testing.T, text string) []dockerStage {
	t.Helper()
	known := []string{"FROM", "ARG", "WORKDIR", "COPY", "RUN", "USER", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD"}
	var stages []dockerStage
	text = strings.ReplaceAll(text, "\\\n", " ")
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, args, _ := strings.Cut(line, " ")
		step := dockerStep{strings.ToUpper(name), strings.TrimSpace(args)}
		if !slices.Contains(known, step.name) || strings.Contains(step.args, "<<") {
			t.Fatalf("Dockerfile: this test does not know %q; teach it, so that it checks what is built", line)
		}
		if step.name == "FROM" {
			stages = append(stages, nil)
		}
		if len(stages) == 0 {
			t.Fatalf("Dockerfile: %q stands before the first FROM", line)
		}
		last := len(stages) - 1
		stages[last] = append(stages[last], step)
	}
	return stages
}

func readDockerfile(t *testing.T) (root string, build, final dockerStage) {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	stages := parseDockerfile(t, string(text))
	if len(stages) != 2 {
		t.Fatalf("Dockerfile: %d stages, want one that builds and one that is shipped", len(stages))
	}
	return root, stages[0], stages[1]
}

// The image's program is built by the Dockerfile's own RUN lines, from a copy of what its COPY lines name and nothing else:
// so a package that the relay has come to need and the image lacks is found here, not at a release.
func TestTheImagesRelayIsOneStaticProgramBuiltFromWhatTheDockerfileCopies(t *testing.T) {
	t.Parallel()
	root, build, final := readDockerfile(t)

	goMod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	wanted := regexp.MustCompile(`(?m)^go (\S+)$`).FindSubmatch(goMod)
	if wanted == nil {
		t.Fatal("go.mod: no go line")
	}
	// The golang images do not fetch another toolchain by themselves, so an older one would fail at the first build.
	if from := build[0].args; !regexp.MustCompile(`^--platform=\$BUILDPLATFORM golang:` + regexp.QuoteMeta(string(wanted[1])) + `(-[a-z0-9.]+)?@sha256:[0-9a-f]{64} AS build$`).MatchString(from) {
		t.Errorf("FROM %s, want the golang image of go.mod's go %s, by its digest", from, wanted[1])
	}

	ignore, err := os.ReadFile(filepath.Join(root, ".dockerignore"))
	if err != nil {
		t.Fatal(err)
	}
	admitted := dockerignoreExceptions(t, string(ignore))

	src := filepath.Join(t.TempDir(), "src")
	if workdirs := build.args("WORKDIR"); !slices.Equal(workdirs, []string{"/src"}) {
		t.Fatalf("WORKDIR %q, want /src, which this test puts a temporary folder in place of", workdirs)
	}
	for _, args := range build.args("COPY") {
		fields := strings.Fields(args)
		sources, dest := fields[:len(fields)-1], fields[len(fields)-1]
		for _, source := range sources {
			if !slices.Contains(admitted, source) {
				t.Fatalf("COPY %s: .dockerignore does not admit %s", args, source)
			}
			to := filepath.Join(src, dest)
			if strings.HasSuffix(dest, "/") {
				to = filepath.Join(to, source)
			}
			copyInto(t, filepath.Join(root, source), to)
		}
	}

	// As the builder sets them, or the one who builds a release's image.
	const version = "1.2.3"
	given := map[string]string{"TARGETARCH": runtime.GOARCH, "VERSION": version}
	var env []string
	for _, arg := range build.args("ARG") {
		name, _, _ := strings.Cut(arg, "=")
		value, ok := given[name]
		if !ok {
			t.Fatalf("ARG %s: this test does not know its value", arg)
		}
		env = append(env, name+"="+value)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	for _, line := range build.args("RUN") {
		if line == "go mod download" {
			continue // fills a layer of its own; by hand, go build takes what it needs from the machine's cache
		}
		cmd := exec.CommandContext(ctx, "sh", "-euc", line)
		cmd.Dir = src
		cmd.Env = append(append(os.Environ(), "GOOS=linux", "GOFLAGS="), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("RUN %s: %v\n%s", line, err, out)
		}
	}

	var shipped string
	for _, args := range final.args("COPY") {
		fields := strings.Fields(args)
		if fields[len(fields)-1] == "/cfa-relay" {
			inStage, ok := strings.CutPrefix(fields[len(fields)-2], "/src/")
			if !ok {
				t.Fatalf("COPY %s: the program does not come out of /src", args)
			}
			shipped = filepath.Join(src, inStage)
		}
	}
	if shipped == "" {
		t.Fatal("the final stage has no /cfa-relay")
	}

	program, err := elf.Open(shipped)
	if err != nil {
		t.Fatalf("what the final stage copies is no ELF program: %v", err)
	}
	defer program.Close()
	for _, segment := range program.Progs {
		if segment.Type == elf.PT_INTERP {
			t.Error("the program asks for a dynamic loader, which an empty image does not have")
		}
	}
	if libs, err := program.ImportedLibraries(); err != nil || len(libs) > 0 {
		t.Errorf("shared libraries %q, %v; want none", libs, err)
	}
	if program.Section(".symtab") != nil {
		t.Error("the program is not stripped")
	}

	info, err := buildinfo.ReadFile(shipped)
	if err != nil {
		t.Fatal(err)
	}
	if want := "github.com/continuousauth/action/relay"; info.Path != want {
		t.Errorf("the image holds %s, want %s", info.Path, want)
	}
	settings := map[string]string{}
	for _, setting := range info.Settings {
		settings[setting.Key] = setting.Value
	}
	for key, want := range map[string]string{"-trimpath": "true", "CGO_ENABLED": "0"} {
		if settings[key] != want {
			t.Errorf("built with %s=%q, want %q", key, settings[key], want)
		}
	}

	if runtime.GOOS != "linux" {
		return // built for Linux, so it cannot be asked here
	}

	// The image's program is the release's, whatever image the builder itself came from.
	dir := t.TempDir()
	if out, err := exec.CommandContext(ctx, filepath.Join(root, "tools/release/binaries.sh"), version, dir, "linux/"+runtime.GOARCH).CombinedOutput(); err != nil {
		t.Fatalf("binaries.sh: %v\n%s", err, out)
	}
	released, err := os.ReadFile(filepath.Join(dir, "cfa-relay_"+version+"_linux_"+runtime.GOARCH))
	if err != nil {
		t.Fatal(err)
	}
	if inImage, err := os.ReadFile(shipped); err != nil || !bytes.Equal(inImage, released) {
		t.Errorf("the image's program is not the release's (%v)", err)
	}

	var cmd []string
	mustJSON(t, final.args("CMD"), &cmd)
	if len(cmd) != 3 {
		t.Fatalf("CMD %q, want a subcommand, a flag and its file", cmd)
	}
	// Empty, because an image from scratch has no PATH, no HOME and no other variable either.
	ask := exec.CommandContext(ctx, shipped, cmd[0], "--help")
	ask.Env = []string{}
	help, err := ask.CombinedOutput()
	if err != nil || !bytes.Contains(help, []byte(cmd[1])) {
		t.Errorf("CMD %q: %s --help: %v, and its text should name %s:\n%s", cmd, cmd[0], err, cmd[1], help)
	}
}

func TestTheImageHoldsTheRelayAloneAndRunsItWithoutRights(t *testing.T) {
	t.Parallel()
	_, _, final := readDockerfile(t)

	if from := final[0].args; from != "scratch" {
		t.Errorf("FROM %s, want scratch: a shell in the image serves only who broke in", from)
	}
	if runs := final.args("RUN"); len(runs) > 0 {
		t.Errorf("RUN %q in the image that is shipped", runs)
	}

	users := final.args("USER")
	if len(users) != 1 {
		t.Fatalf("USER %q, want one", users)
	}
	// By number: Kubernetes' runAsNonRoot refuses a name, and scratch has no passwd file to look it up in.
	user, group, _ := strings.Cut(users[0], ":")
	for _, id := range []string{user, group} {
		if n, err := strconv.ParseUint(id, 10, 32); err != nil || n == 0 {
			t.Errorf("USER %s, want two numbers other than 0", users[0])
		}
	}

	want := []string{
		// The relay fetches key sets over HTTPS.
		"--from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt",
		"--from=build /src/out/cfa-relay /cfa-relay",
		// Empty; a new volume takes its owner, without which that user could not write.
		"--from=build --chown=" + users[0] + " /src/out/data /data",
	}
	if got := final.args("COPY"); !slices.Equal(got, want) {
		t.Errorf("the image holds\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if volumes := final.args("VOLUME"); !slices.Equal(volumes, []string{"/data"}) {
		t.Errorf("VOLUME %q, want /data", volumes)
	}

	// As a JSON list: the other form is run by a shell, which is not there.
	var entrypoint, cmd []string
	mustJSON(t, final.args("ENTRYPOINT"), &entrypoint)
	mustJSON(t, final.args("CMD"), &cmd)
	if want := []string{"/cfa-relay", "serve", "--config", "/etc/cfa/cfa.yaml"}; !slices.Equal(append(entrypoint, cmd...), want) {
		t.Errorf("the image runs %q %q, want %q", entrypoint, cmd, want)
	}
}

// dockerignoreExceptions demands that everything is left out by default, and returns what is admitted.
func dockerignoreExceptions(t *testing.T, text string) []string {
	t.Helper()
	var everything bool
	var admitted []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		exception, isException := strings.CutPrefix(line, "!")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case line == "*" && len(admitted) == 0:
			everything = true
		case isException:
			admitted = append(admitted, exception)
		default:
			t.Fatalf(".dockerignore: this test does not know the pattern %q", line)
		}
	}
	if !everything {
		t.Error(".dockerignore does not begin with *: a key lying in the checkout would reach a build layer")
	}
	return admitted
}

func copyInto(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o755)
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		dest := filepath.Join(to, rel)
		if err := os.MkdirAll(filepath.Dir(dest), 0o755); err != nil {
			return err
		}
		return os.WriteFile(dest, data, 0o644)
	})
	if err != nil {
		t.Fatalf("COPY %s: %v", path.Base(from), err)
	}
}

func mustJSON(t *testing.T, args []string, list *[]string) {
	t.Helper()
	if len(args) != 1 {
		t.Fatalf("%q, want the instruction once", args)
	}
	if err := json.Unmarshal([]byte(args[0]), list); err != nil {
		t.Fatalf("%s: not a JSON list of strings: %v", args[0], err)
	}
}
