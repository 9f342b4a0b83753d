package clientstest

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// A Client is a package manager, or what publishes through one, in one version.
type Client string

const (
	NPM10           Client = "npm-10"
	NPM11           Client = "npm-11"
	NPM12           Client = "npm-12"
	PNPM11          Client = "pnpm-11"
	PNPM12          Client = "pnpm-12"
	Yarn1           Client = "yarn-1"
	Yarn4           Client = "yarn-4"
	Lerna           Client = "lerna-9"
	Changesets      Client = "changesets-2"
	SemanticRelease Client = "semantic-release"
	Gem             Client = "gem" // the machine's own: no registry of ours has it

	node Client = "node-22" // runs them all: the machine's own may be older than what npm 12 takes
)

// Each client's version stands in a lock file with the digests of all that it
// consists of, and without any registry's address: where it comes from is the
// machine's own npm configuration.
//
//go:embed testdata
var locks embed.FS

// installing lets one client be installed at a time: they are downloads and
// small files by the thousand, and more at once are slower.
var installing sync.Mutex

// install gives the folder with the client's node_modules: from the cache, or
// made now. Runs share the cache, also at the same time, because a folder comes
// into it whole, by its renaming.
func install(t testing.TB, c Client) string {
	t.Helper()
	installing.Lock()
	defer installing.Unlock()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatalf("there is no cache folder to install %s into: %v", c, err)
	}
	cache = filepath.Join(cache, "cfa-test-clients")
	hash := sha256.New()
	fmt.Fprintf(hash, "%s/%s\n", runtime.GOOS, runtime.GOARCH)
	files := map[string][]byte{}
	for _, name := range []string{"package.json", "package-lock.json"} {
		data, err := locks.ReadFile(path.Join("testdata", string(c), name))
		if err != nil {
			t.Fatalf("no client is called %s: %v", c, err)
		}
		files[name] = data
		fmt.Fprintf(hash, "%d\n%s", len(data), data)
	}
	dir := filepath.Join(cache, string(c)+"-"+hex.EncodeToString(hash.Sum(nil)[:12]))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	npm, err := exec.LookPath("npm")
	if err != nil {
		missing(t, "npm is missing, which installs the package managers that are tested: apt-get install npm")
	}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		t.Fatal(err)
	}
	sweep(cache)
	fresh, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(fresh)
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(fresh, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Nobody's install script runs here: nothing that is tested needs one.
	cmd := exec.CommandContext(t.Context(), npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier")
	cmd.Dir = fresh
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm cannot install %s (%v), by this machine's own npm configuration:\n%s", c, err, out)
	}
	// Another run may have been faster; then its folder stays, and this one goes.
	if err := os.Rename(fresh, dir); err != nil {
		if _, there := os.Stat(dir); there != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// sweep removes what runs that were killed have left half made.
func sweep(cache string) {
	old, err := filepath.Glob(filepath.Join(cache, "new-*"))
	if err != nil {
		return
	}
	for _, dir := range old {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > time.Hour {
			_ = os.RemoveAll(dir)
		}
	}
}

// missing skips a test on a developer's machine, and fails it in CI, where a
// skipped test would pass for one that has shown something.
func missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// bin gives the folders with the client's commands, and node.
func bin(t testing.TB, c Client) []string {
	t.Helper()
	arch, ok := map[string]string{"amd64": "x64", "arm64": "arm64"}[runtime.GOARCH]
	if runtime.GOOS != "linux" || !ok {
		missing(t, "the package managers that are tested run on Linux, amd64 or arm64, only")
	}
	dirs := []string{filepath.Join(install(t, node), "node_modules", "node-linux-"+arch, "bin")}
	if c == PNPM12 {
		// A program of its own, without the package that would choose it by an install script.
		return append([]string{filepath.Join(install(t, c), "node_modules", "@pnpm", "exe.linux-"+arch)}, dirs...)
	}
	if c == Gem {
		if _, err := exec.LookPath("gem"); err != nil {
			missing(t, "gem is missing, which is tested: apt-get install ruby")
		}
		return nil
	}
	dirs = append([]string{filepath.Join(install(t, c), "node_modules", ".bin")}, dirs...)
	if c == Changesets || c == Lerna || c == SemanticRelease {
		// They run the npm that they find; the machine's own may be any.
		dirs = append(dirs, filepath.Join(install(t, NPM11), "node_modules", ".bin"))
	}
	return dirs
}

// searchPath joins what the machine's commands (git, sh) are found by to a client's.
func searchPath(dirs []string) string {
	return strings.Join(append(dirs, os.Getenv("PATH")), string(os.PathListSeparator))
}
