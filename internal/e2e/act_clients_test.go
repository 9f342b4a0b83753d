//go:build clients

package e2e

// The GitHub Action under act in host mode: the real composite action, from its
// own checkout, in a real workflow; only GitHub's token service is a stand-in.

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// checkout copies the files of this repository, as they are now, into a
// repository of its own.
func checkout(t *testing.T) string {
	t.Helper()
	root, err := exec.Command("git", "rev-parse", "--show-toplevel").Output()
	if err != nil {
		t.Fatal("the test copies this checkout with git: ", err)
	}
	from, to := strings.TrimSpace(string(root)), t.TempDir()
	list := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = from
	files, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range strings.Split(strings.TrimRight(string(files), "\x00"), "\x00") {
		data, err := os.ReadFile(filepath.Join(from, f))
		if os.IsNotExist(err) {
			continue // deleted, but not yet committed
		}
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(from, f))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(to, filepath.Dir(f)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, f), data, info.Mode().Perm()); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func git(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "init.defaultBranch=main"}, args...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

const actWorkflow = `name: Release
on: push
permissions:
  contents: read
  id-token: write
jobs:
  publish:
    runs-on: ubuntu-latest
    steps:
      - name: Ask
        id: otp
        uses: continuousauth/action@main
        with:
          relay: ${{ env.TEST_RELAY }}
          relay-name: localhost
          project: rocket
          service: npm
          message: publish 1.2.3
      - name: Use
        env:
          CODE: ${{ steps.otp.outputs.code }}
          WHO: ${{ steps.otp.outputs.responder }}
          ID: ${{ steps.otp.outputs.request-id }}
        run: |
          echo "the code is $CODE"
          printf '%s\n%s\n%s\n' "$CODE" "$WHO" "$ID" > "$TEST_RESULT"
`

func TestTheActionHandsAMaskedCodeToTheNextStep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.robot(w.humans[0])
	repo := checkout(t)
	user := t.TempDir() // the repository that is released
	if err := os.MkdirAll(filepath.Join(user, ".github/workflows"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(user, ".github/workflows/release.yml"), []byte(actWorkflow), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{repo, user} {
		git(t, dir, "init", "-q")
		git(t, dir, "add", "-A")
		git(t, dir, "commit", "-qm", "as it is now")
	}

	act := filepath.Join(t.TempDir(), "act")
	build := exec.Command("go", "build", "-modfile=../../tools/go.mod", "-o", act, "github.com/nektos/act")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build act: %v\n%s", err, out)
	}
	result := filepath.Join(w.dir, "result")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, act, "push", "--local-repository", "continuousauth/action@main="+repo, "-P", "ubuntu-latest=-self-hosted",
		"--env", "ACTIONS_ID_TOKEN_REQUEST_URL="+w.issuer.RequestURL("release"),
		"--env", "ACTIONS_ID_TOKEN_REQUEST_TOKEN="+w.issuer.RequestToken("release"),
		"--env", "TEST_RELAY="+w.url, "--env", "TEST_RESULT="+result)
	cmd.Dir = user
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(w.dir, "cache"), "XDG_CONFIG_HOME="+filepath.Join(w.dir, "config"))
	log, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("act: %v\n%s", err, log)
	}
	got, err := os.ReadFile(result)
	if err != nil {
		t.Fatalf("the next step wrote nothing: %v\n%s", err, log)
	}
	lines := strings.Split(string(got), "\n")
	if len(lines) < 3 || lines[0] != testCode || lines[1] != "Ana" || !strings.HasPrefix(lines[2], "U") {
		t.Fatalf("the next step got %q", got)
	}
	if !strings.Contains(string(log), "the code is ***") {
		t.Errorf("the log does not show the code masked:\n%s", log)
	}
	for _, line := range strings.Split(string(log), "\n") {
		// act itself prints the command that masks, which GitHub's runner does not.
		if strings.Contains(line, testCode) && !strings.Contains(line, "::add-mask::") {
			t.Errorf("the code stands in the log: %s", line)
		}
	}
	if !strings.Contains(string(log), "match code") {
		t.Error("the log shows no match code")
	}
}
