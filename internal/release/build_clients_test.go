//go:build clients

package release

// A whole release but for its publication, with the real GoReleaser, from a
// checkout as the release workflow has it.

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// sources copies the files of this repository, as they are now, into a
// repository of its own with one commit.
func sources(t *testing.T, to string) {
	t.Helper()
	from := root(t)
	list := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = from
	files, err := list.Output()
	if err != nil {
		t.Fatal("the test copies this checkout with git: ", err)
	}
	for f := range strings.SplitSeq(strings.TrimRight(string(files), "\x00"), "\x00") {
		if f == "checksums.txt" {
			continue // in a release's own checkout: the test makes another
		}
		info, err := os.Stat(filepath.Join(from, f))
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted, but not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(from, f))
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(to, f), data, info.Mode().Perm())
	}
	git(t, to, "init", "-q")
	git(t, to, "add", "-A")
	git(t, to, "commit", "-qm", "The commit that is built")
}

func write(t *testing.T, name string, data []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, data, mode); err != nil {
		t.Fatal(err)
	}
}

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	runs(t, dir, nil, "git", append([]string{"-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "init.defaultBranch=main", "-c", "commit.gpgSign=false", "-c", "tag.gpgSign=false"}, args...)...)
}

// command is a program in a folder; env is added to ours.
func command(t *testing.T, dir string, env []string, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	return cmd
}

func runs(t *testing.T, dir string, env []string, name string, args ...string) []byte {
	t.Helper()
	cmd := command(t, dir, env, name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s\n%s", name, args, err, out, stderr.Bytes())
	}
	return out
}

func goEnv(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(string(runs(t, root(t), nil, "go", "env", name)))
}

// goreleaser runs it as the workflow does.
func goreleaser(t *testing.T, dir string, env []string, args ...string) {
	t.Helper()
	runs(t, dir, env, "go", append([]string{"tool", "-modfile=tools/release/go.mod", "goreleaser"}, args...)...)
}

func TestTheConfigurationOfReleasesIsGood(t *testing.T) {
	t.Parallel()
	goreleaser(t, root(t), nil, "check", "--quiet")
}

// The promise of checksums.txt: the commit that was built and the release's own
// commit, on two machines, with two tools, give the same bytes. The machines are
// two folders here, with a cache, a module cache, an umask, a time zone and
// settings of Go each.
func TestTwoMachinesMakeTheSameReleaseAndItsOwnCommitChangesNothing(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("releases are made on Linux")
	}
	const version = "1.2.3"
	one, other := filepath.Join(t.TempDir(), "one"), filepath.Join(t.TempDir(), "a rather longer path", "other")
	sources(t, one)

	// One machine: the commit that is built, by the go command alone. A cache of its own, or it would only be handed what
	// the other machine made. A module cache of another name, because a path in a program would be one of there.
	modules := filepath.Join(t.TempDir(), "modules")
	if err := os.Symlink(goEnv(t, "GOMODCACHE"), modules); err != nil {
		t.Fatal(err)
	}
	alone := []string{
		"GOCACHE=" + t.TempDir(), "GOMODCACHE=" + modules, "TZ=Pacific/Kiritimati", "LC_ALL=C", "HOME=" + t.TempDir(),
		// What a machine's owner may have set, and no release may show.
		"GOAMD64=v3", "GOFLAGS=-ldflags=-X=main.release=0", "CGO_ENABLED=1",
	}
	built := t.TempDir()
	sums := runs(t, one, alone, "sh", "-c", "umask 077 && exec tools/release/binaries.sh v"+version+" \"$1\" linux/amd64", "sh", built)
	// (Not with the cache of its own for Windows: a minute, to show the same again.)
	sums = append(sums, runs(t, one, nil, "tools/release/binaries.sh", version, built, "windows/amd64")...)

	// The release's own commit adds that file alone, and is cloned by the other machine.
	git(t, filepath.Dir(one), "clone", "-q", one, other)
	git(t, other, "remote", "set-url", "origin", "https://github.com/continuousauth/action.git")
	write(t, filepath.Join(other, "checksums.txt"), sums, 0o644)
	git(t, other, "add", "checksums.txt")
	git(t, other, "commit", "-qm", "Release "+version)
	git(t, other, "tag", "v"+version)

	// The configuration, but for the systems that would take minutes to compile for.
	config := read(t, ".goreleaser.yaml")
	for from, to := range map[string]string{"goos: [linux, darwin, windows]": "goos: [linux, windows]", "goarch: [amd64, arm64]": "goarch: [amd64]"} {
		if strings.Count(config, from) != 1 {
			t.Fatalf(".goreleaser.yaml has no one %q, which this test narrows", from)
		}
		config = strings.Replace(config, from, to, 1)
	}
	narrowed := filepath.Join(t.TempDir(), "narrowed.yaml")
	write(t, narrowed, []byte(config), 0o600)
	goreleaser(t, other, nil, "release", "--clean", "--skip=publish,announce", "--config", narrowed, "--parallelism=1")

	// What else is released hangs on the release's own commit, and on nothing of the machine.
	third := filepath.Join(t.TempDir(), "third")
	git(t, filepath.Dir(other), "clone", "-q", other, third)
	runs(t, third, []string{"TZ=Pacific/Kiritimati", "LC_ALL=C"}, "sh", "-c",
		"umask 077 && exec go tool -modfile=tools/release/go.mod goreleaser release --clean --skip=publish,announce --config \"$1\"", "sh", narrowed)
	same(t, filepath.Join(other, "dist", "checksums.txt"), filepath.Join(third, "dist", "checksums.txt"))

	out := filepath.Join(t.TempDir(), "out")
	runs(t, other, nil, "tools/release/collect.sh", "dist", out)
	var want []string
	for _, bare := range []string{"cfa_1.2.3_linux_amd64", "cfa-responder_1.2.3_linux_amd64", "cfa-relay_1.2.3_linux_amd64", "cfa_1.2.3_windows_amd64.exe", "cfa-responder_1.2.3_windows_amd64.exe"} {
		want = append(want, bare, bare+".cdx.json")
		same(t, filepath.Join(built, bare), filepath.Join(out, bare))
	}
	for _, program := range []string{"cfa", "cfa-responder", "cfa-relay"} {
		want = append(want, program+"_1.2.3_amd64.deb", program+"-1.2.3-1.x86_64.rpm", program+"_1.2.3_linux_amd64.tar.gz")
		if program != "cfa-relay" {
			want = append(want, program+"_1.2.3_windows_amd64.zip")
		}
	}
	want = append(want, "checksums.txt")
	slices.Sort(want)
	var got []string
	entries, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		got = append(got, e.Name())
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("released:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}

	t.Run("what a program says of itself", func(t *testing.T) {
		program := filepath.Join(out, "cfa_1.2.3_linux_amd64")
		if runtime.GOARCH == "amd64" {
			if err := os.Chmod(program, 0o755); err != nil {
				t.Fatal(err)
			}
			if got := string(runs(t, out, nil, program, "--version")); got != version+"\n" {
				t.Errorf("cfa --version: %q", got)
			}
		}
		info, err := buildinfo.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		settings := map[string]string{}
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
			if strings.HasPrefix(s.Key, "vcs") {
				t.Errorf("the commit is stamped in: %s=%s", s.Key, s.Value)
			}
		}
		for key, want := range map[string]string{"-trimpath": "true", "CGO_ENABLED": "0", "GOAMD64": "v1"} {
			if settings[key] != want {
				t.Errorf("built with %s=%q, want %q", key, settings[key], want)
			}
		}
		data, err := os.ReadFile(program)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{one, other, modules, goEnv(t, "GOMODCACHE"), goEnv(t, "GOROOT")} {
			if bytes.Contains(data, []byte(path)) {
				t.Errorf("the program holds a path of the machine: %s", path)
			}
		}
	})

	t.Run("what its list of parts says", func(t *testing.T) {
		var bom struct {
			BomFormat  string
			Components []struct{ Name, Version string }
		}
		data, err := os.ReadFile(filepath.Join(out, "cfa_1.2.3_linux_amd64.cdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &bom); err != nil {
			t.Fatal(err)
		}
		info, err := buildinfo.ReadFile(filepath.Join(out, "cfa_1.2.3_linux_amd64"))
		if err != nil {
			t.Fatal(err)
		}
		listed := map[string]string{}
		for _, c := range bom.Components {
			listed[c.Name] = c.Version
		}
		for _, d := range info.Deps {
			if listed[d.Path] != d.Version {
				t.Errorf("%s %s is in the program, and in the list as %q", d.Path, d.Version, listed[d.Path])
			}
		}
		if bom.BomFormat != "CycloneDX" || listed["std"] == "" {
			t.Errorf("%s, std %q", bom.BomFormat, listed["std"])
		}
	})

	// The other way round each of these would publish what nobody approved.
	refused := func(name, want string, change func(t *testing.T, dist string)) {
		t.Run(name, func(t *testing.T) {
			dist := filepath.Join(t.TempDir(), "dist")
			if err := os.CopyFS(dist, os.DirFS(filepath.Join(other, "dist"))); err != nil {
				t.Fatal(err)
			}
			change(t, dist)
			text, err := command(t, other, nil, "tools/release/collect.sh", dist, filepath.Join(t.TempDir(), "out")).CombinedOutput()
			if err == nil || !strings.Contains(string(text), want) {
				t.Errorf("collect.sh: %v, want %q in:\n%s", err, want, text)
			}
		})
	}
	edit := func(name, from, to string) func(*testing.T, string) {
		return func(t *testing.T, dist string) {
			data, err := os.ReadFile(filepath.Join(dist, name))
			if err != nil || !bytes.Contains(data, []byte(from)) {
				t.Fatalf("%s: %v, want %q in it", name, err, from)
			}
			write(t, filepath.Join(dist, name), bytes.Replace(data, []byte(from), []byte(to), 1), 0o644)
		}
	}
	refused("a file that was changed", "cfa_1.2.3_amd64.deb has another hash", edit("cfa_1.2.3_amd64.deb", "!<arch>", "!<arcH>"))
	refused("a program that was changed", "cfa_1.2.3_linux_amd64 has another hash", edit("cfa_linux_amd64_v1/cfa", "ELF", "elf"))
	refused("a program that is gone", "not what this commit's checksums.txt promises", func(t *testing.T, dist string) {
		text, err := os.ReadFile(filepath.Join(dist, "checksums.txt"))
		if err != nil {
			t.Fatal(err)
		}
		var kept []string
		for line := range strings.Lines(string(text)) {
			if !strings.HasSuffix(line, "  cfa_1.2.3_windows_amd64.exe\n") {
				kept = append(kept, line)
			}
		}
		write(t, filepath.Join(dist, "checksums.txt"), []byte(strings.Join(kept, "")), 0o644)
	})
	refused("a name that leads elsewhere", "is no file's name", edit("checksums.txt", "cfa_1.2.3_amd64.deb", "../other.deb"))
	write(t, filepath.Join(other, "checksums.txt"), bytes.Replace(sums, sums[:8], []byte("00000000"), 1), 0o644)
	refused("another promise", "not what this commit's checksums.txt promises", func(*testing.T, string) {})
	if err := os.Remove(filepath.Join(other, "checksums.txt")); err != nil {
		t.Fatal(err)
	}
	refused("no promise", "so it is no release", func(*testing.T, string) {})
}

func same(t *testing.T, a, b string) {
	t.Helper()
	one, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one, other) {
		t.Errorf("%s differs between the two machines", filepath.Base(a))
	}
}
