//go:build clients

package e2e

// The GitHub Action under act in host mode: the real composite action, from its
// own checkout, in a real workflow; only GitHub's token service is a stand-in.

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
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
		if os.IsNotExist(err) || f == "checksums.txt" {
			continue // deleted, but not yet committed; or a release's, whose program is not what is tested
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

// Built once: it is hundreds of packages.
var actProgram = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "cfa-act-")
	if err != nil {
		return "", err
	}
	act := filepath.Join(dir, "act")
	if out, err := exec.Command("go", "build", "-modfile=../../tools/go.mod", "-o", act, "github.com/nektos/act").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build act: %w\n%s", err, out)
	}
	return act, nil
})

// act gives the command that runs a workflow in a repository of its own, with this
// checkout as continuousauth/action@main.
func (w *world) act(workflow string, files map[string]string, env ...string) *exec.Cmd {
	t := w.t.(*testing.T)
	t.Helper()
	repo, user := checkout(t), t.TempDir() // the action, and the repository that is released
	files[".github/workflows/release.yml"] = workflow
	for name, text := range files {
		name = filepath.Join(user, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{repo, user} {
		git(t, dir, "init", "-q")
		git(t, dir, "add", "-A")
		git(t, dir, "commit", "-qm", "as it is now")
	}
	act, err := actProgram()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	t.Cleanup(cancel)
	args := []string{"push", "--local-repository", "continuousauth/action@main=" + repo, "-P", "ubuntu-latest=-self-hosted",
		"--env", "ACTIONS_ID_TOKEN_REQUEST_URL=" + w.issuer.RequestURL("release"),
		"--env", "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + w.issuer.RequestToken("release"),
		"--env", "TEST_RELAY=" + w.url}
	for _, e := range env {
		args = append(args, "--env", e)
	}
	cmd := exec.CommandContext(ctx, act, args...)
	cmd.Dir = user
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(w.dir, "cache"), "XDG_CONFIG_HOME="+filepath.Join(w.dir, "config"))
	return cmd
}

func TestTheActionHandsAMaskedCodeToTheNextStep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.robot(w.humans[0])
	result := filepath.Join(w.dir, "result")
	cmd := w.act(actWorkflow, map[string]string{}, "TEST_RESULT="+result)
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

const actRunWorkflow = `name: Release
on: push
permissions:
  contents: read
  id-token: write
jobs:
  publish:
    runs-on: ubuntu-latest
    steps:
      - name: Publish
        uses: continuousauth/action@main
        env:
          TOOL: ${{ env.TEST_TOOL }}
          CFA_ENV: OTP
          CFA_REFUSED: a code is wanted
        with:
          relay: ${{ env.TEST_RELAY }}
          relay-name: localhost
          project: rocket
          service: signer
          run: |
            echo "signing with $TOOL"
            sh "$TOOL"
`

func TestTheActionRunsACommandWithItsFactor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.robot(w.humans[0])
	tool := filepath.Join(w.dir, "tool.sh")
	if err := os.WriteFile(tool, []byte("test \"$OTP\" = "+testCode+" || { echo a code is wanted >&2; exit 1; }\n: >\""+filepath.Join(w.dir, "signed")+"\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := w.act(actRunWorkflow, map[string]string{}, "TEST_TOOL="+tool).CombinedOutput()
	if err != nil {
		t.Fatalf("act: %v\n%s", err, log)
	}
	if _, err := os.Stat(filepath.Join(w.dir, "signed")); err != nil {
		t.Errorf("the tool was not run with its code:\n%s", log)
	}
	for _, line := range strings.Split(string(log), "\n") {
		if strings.Contains(line, testCode) && !strings.Contains(line, "::add-mask::") {
			t.Errorf("the code stands in the log: %s", line)
		}
	}
}

const actApproveWorkflow = `name: Release
on: push
permissions:
  contents: read
  id-token: write
jobs:
  publish:
    runs-on: ubuntu-latest
    steps:
      - run: mkdir dist && printf one > dist/a.txt && printf two > dist/b.txt
      - name: Ask
        id: yes
        uses: continuousauth/action@main
        with:
          relay: ${{ env.TEST_RELAY }}
          relay-name: localhost
          project: rocket
          approve: publish 1.2.3
          artifacts: |
            dist/a.txt
            dist/b*
          responders: ${{ env.TEST_KEY }}
      - name: Use
        env:
          RECEIPT: ${{ steps.yes.outputs.receipt }}
          SUMMARY: ${{ github.workspace }}
        run: cp "$RECEIPT" "$TEST_RESULT"
`

func TestTheActionAsksForAnApprovalAndLeavesAReceipt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	desk := w.listen(w.humans[0])
	result := filepath.Join(w.dir, "receipt")
	cmd := w.act(actApproveWorkflow, map[string]string{}, "TEST_RESULT="+result, "TEST_KEY="+w.humans[0].sign)
	log := newOutput()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	code := regexp.MustCompile(`match code:\s+(\S+)`)
	var match string
	for match == "" {
		log.mu.Lock()
		wrote := log.wrote
		if m := code.FindStringSubmatch(log.b.String()); m != nil {
			match = m[1]
		}
		log.mu.Unlock()
		if match != "" {
			break
		}
		select {
		case <-wrote:
		case err := <-ended:
			t.Fatalf("act: %v\n%s", err, log)
		}
	}
	desk.waitFor(`#1 your turn`)
	if _, err := desk.in.WriteString("1\n" + match + "\n"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Fatalf("act: %v\n%s", err, log)
	}
	dist := filepath.Join(w.dir, "dist")
	if err := os.Mkdir(dist, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"a.txt": "one", "b.txt": "two"} {
		if err := os.WriteFile(filepath.Join(dist, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if v := run(t, nil, "cfa", "verify-receipt", "--key", w.humans[0].sign, "--artifact", filepath.Join(dist, "*"), result); v.code != 0 {
		t.Errorf("the receipt is not good: %s", v.err)
	}
}
