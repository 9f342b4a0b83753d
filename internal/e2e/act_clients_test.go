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

	"github.com/continuousauth/action/internal/e2e/clientstest"
	"github.com/continuousauth/action/internal/e2e/registrytest"
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
var (
	actOnce sync.Once
	errAct  error
)

// actProgram gives act's path: beside our programs, which go when the tests have run.
func actProgram(t testing.TB) string {
	t.Helper()
	act := filepath.Join(filepath.Dir(program(t, "cfa")), "act")
	actOnce.Do(func() {
		if out, err := exec.Command("go", "build", "-modfile=../../tools/go.mod", "-o", act, "github.com/nektos/act").CombinedOutput(); err != nil {
			errAct = fmt.Errorf("build act: %w\n%s", err, out)
		}
	})
	if errAct != nil {
		t.Fatal(errAct)
	}
	return act
}

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
	act := actProgram(t)
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
	// What Go keeps of earlier builds is found by XDG_CACHE_HOME too: without it each
	// job would take a minute to build cfa.
	cache, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "XDG_CACHE_HOME="+filepath.Join(w.dir, "cache"), "XDG_CONFIG_HOME="+filepath.Join(w.dir, "config"),
		"GOCACHE="+strings.TrimSpace(string(cache)))
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
      - name: What an earlier step leaves behind
        run: |
          printf '%s\n' CFA_ENV=LEAK CFA_REFUSED=never CFA_PTY_PROMPT=x CFA_STDIN=1 CFA_FD=3 CFA_LINK=x CFA_RETRIES=9 CFA_NO_PACK=1 CFA_OUTPUT=stdout >>"$GITHUB_ENV"
      - name: Publish
        uses: continuousauth/action@main
        env:
          TOOL: ${{ env.TEST_TOOL }}
        with:
          relay: ${{ env.TEST_RELAY }}
          relay-name: localhost
          project: rocket
          service: signer
          env-name: OTP
          refused: a code is wanted
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
	approves(t, desk, log, ended)
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

// approves is a human who types the match code off the job's log.
func approves(t *testing.T, desk *process, log *output, ended chan error) {
	t.Helper()
	code := regexp.MustCompile(`match code:\s+(\S+)`)
	for {
		log.mu.Lock()
		wrote, m := log.wrote, code.FindStringSubmatch(log.b.String())
		log.mu.Unlock()
		if m != nil {
			desk.waitFor(`#1 your turn`)
			if _, err := desk.in.WriteString("1\n" + m[1] + "\n"); err != nil {
				t.Fatal(err)
			}
			return
		}
		select {
		case <-wrote:
		case err := <-ended:
			t.Fatalf("act: %v\n%s", err, log)
		}
	}
}

// Actions that are other people's, and would be fetched: by the closest thing that is
// here. actions/checkout is act's own affair, which gives a job the repository's files.
var actStandIns = map[string]string{
	// The Go that runs this test.
	"actions/setup-go": `inputs: {go-version: {required: true}}
runs:
  using: composite
  steps:
    - {shell: bash, run: go version}
`,
	// The npm of clientstest, which is on the PATH; and what registry-url does, with the
	// test's registry.
	"actions/setup-node": `inputs: {node-version: {required: true}, registry-url: {required: true}}
runs:
  using: composite
  steps:
    - shell: bash
      env:
        WANTED: ${{ inputs.registry-url }}
      run: |
        test "$WANTED" = https://registry.npmjs.org
        printf '%s\n' "registry=$TEST_REGISTRY/" "${TEST_REGISTRY#http:}/:_authToken=\${NODE_AUTH_TOKEN}" update-notifier=false >"$RUNNER_TEMP/.npmrc"
        echo "NPM_CONFIG_USERCONFIG=$RUNNER_TEMP/.npmrc" >>"$GITHUB_ENV"
        echo "NODE_AUTH_TOKEN=${NODE_AUTH_TOKEN:-XXXXX-XXXXX-XXXXX-XXXXX}" >>"$GITHUB_ENV"
        npm --version
`,
	"actions/upload-artifact": `inputs: {name: {required: true}, path: {required: true}}
runs:
  using: composite
  steps:
    - shell: bash
      env:
        NAME: ${{ inputs.name }}
        FILE: ${{ inputs.path }}
      run: cp "$FILE" "$TEST_UPLOADS/$NAME"
`,
}

// Each workflow of GitHub's that people copy out of this repository, as it is written
// but for the relay's address and the responder's key: the relay has TLS, and its
// certificate is the system's, so to speak.
func TestEachGitHubWorkflowThatPeopleCopyPublishes(t *testing.T) {
	t.Parallel()
	workflows := map[string]string{}
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?s)\n```yaml\n(.*?)\n```\n").FindAllStringSubmatch(string(readme), -1) {
		if strings.Contains(block[1], "\non:\n") {
			workflows[fmt.Sprintf("README %d", len(workflows)+1)] = block[1]
		}
	}
	files, err := filepath.Glob(filepath.Join(examples, "github", "*.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		workflows[filepath.Base(file)] = string(text)
	}
	if len(workflows) < 4 {
		t.Fatalf("only %d workflows were found", len(workflows))
	}
	for name, text := range workflows {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, secure)
			approval, stage := strings.Contains(text, "\n          approve: "), strings.Contains(text, "\n          stage: ")
			// Where a human says yes to files, or approves at the registry, the job has no
			// token of the registry's: npm gets one for the job's ID token.
			config := registrytest.Config{Factor: registrytest.Code, Codes: []string{testCode}}
			if approval || stage {
				config.Trusts = repository
			}
			reg := registrytest.Start(config)
			t.Cleanup(reg.Close)
			for from, to := range map[string]string{
				"tls://cfa.example.com:4222":                               strings.Replace(w.url, "127.0.0.1", "localhost", 1),
				"ADSO7U2ULPZJRG2RNYTW7ZX2ZUM6VJ6W3T46R4A5KDB5AV76DAJ4OUTX": w.humans[0].sign,
			} {
				if !strings.Contains(text, from) {
					t.Fatalf("%s is not in it", from)
				}
				text = strings.ReplaceAll(text, from, to)
			}
			var desk *process
			if approval || stage {
				desk = w.listen(w.humans[0])
			} else {
				w.robot(w.humans[0])
			}
			uploads := t.TempDir()
			cmd := w.act(text, map[string]string{
				"package.json": `{"name":"rocket","version":"1.2.3","license":"MIT","main":"index.js","files":["index.js"]}`, "index.js": "",
			}, "TEST_REGISTRY="+reg.URL(), "TEST_UPLOADS="+uploads, "NPM_CONFIG_REGISTRY="+reg.URL(), "SSL_CERT_FILE="+filepath.Join(w.dir, "ca.pem"), "NPM_CONFIG_CACHE="+t.TempDir())
			git(t, cmd.Dir, "tag", "v1.2.3")
			for action, steps := range actStandIns {
				version := regexp.MustCompile(`uses: ` + action + `(@\S+)`).FindStringSubmatch(text)
				if version == nil {
					continue
				}
				dir := t.TempDir()
				if err := os.WriteFile(filepath.Join(dir, "action.yml"), []byte("name: stand-in\ndescription: of a test\n"+steps), 0o644); err != nil {
					t.Fatal(err)
				}
				git(t, dir, "init", "-q")
				git(t, dir, "add", "-A")
				git(t, dir, "commit", "-qm", "as it is now")
				cmd.Args = append(cmd.Args, "--local-repository", action+version[1]+"="+dir)
			}
			// By the environment: this test's own arguments are no place for a token either.
			cmd.Args = append(cmd.Args, "--secret", "NPM_TOKEN")
			home := clientstest.NewHome(t, reg)
			for _, v := range home.Env(clientstest.NPM11) {
				if strings.HasPrefix(v, "PATH=") {
					cmd.Env = append(cmd.Env, v)
				}
			}
			cmd.Env = append(cmd.Env, "NPM_TOKEN="+reg.Token())
			log := newOutput()
			cmd.Stdout, cmd.Stderr = log, log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			switch {
			case approval:
				approves(t, desk, log, ended)
			case stage:
				go func() { // or waitFor would not notice that act has ended
					if _, err := reg.Wait(t.Context(), func([]registrytest.Request) bool { return len(reg.Staged()) > 0 }); err == nil {
						reg.Approve(desk.waitFor(`npm stage approve ([0-9a-f-]{36})`)[1])
					}
				}()
			}
			if err := <-ended; err != nil {
				t.Fatalf("act: %v\n%s", err, log)
			}
			if _, there := reg.Published("rocket", "1.2.3"); !there {
				t.Errorf("not published; the registry saw %v\n%s", reg.Journal(), log)
			}
			for _, q := range reg.Journal() {
				if q.Known && q.Trusted != (config.Trusts != "") {
					t.Errorf("%v came by an ID token: %v", q, q.Trusted)
				}
			}
			if kept, err := os.ReadDir(uploads); err != nil || len(kept) != strings.Count(text, "actions/upload-artifact@") {
				t.Errorf("kept: %v, %v", kept, err)
			}
			for _, line := range strings.Split(log.String(), "\n") {
				if strings.Contains(line, testCode) && !strings.Contains(line, "::add-mask::") {
					t.Errorf("the code stands in the log: %s", line)
				}
			}
		})
	}
}
