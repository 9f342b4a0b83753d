package e2e

// The files under examples/ that people copy into a CI, run by the closest thing
// to its runner that needs no network: the file is read as YAML, the job's lines
// are run with the shell and in the environment that the CI gives them, and what
// they would fetch or call outside is a stand-in that notes how it was used. What
// is asserted is what makes the file work: that cfa is installed after its
// script's digest was checked, that it finds the CI, the relay and the token, and
// that no token is in an argument.

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/wire"
)

// exampleJob is what a CI's file comes down to.
type exampleJob struct {
	file     string
	provider string            // what cfa has to find
	env      map[string]string // as the file says
	given    map[string]string // as the CI adds
	shell    []string
	steps    []string // each a shell of its own
	aud      string   // of the token that the file asks for; "" where cfa asks itself
	home     string   // the variable that names a folder to write to, where HOME is none
}

// node walks down a YAML document by keys and indices.
func node(t *testing.T, v any, path ...any) any {
	t.Helper()
	for _, step := range path {
		switch s := step.(type) {
		case string:
			m, ok := v.(map[string]any)
			if !ok || m[s] == nil {
				t.Fatalf("no %v in %v of %v", step, path, v)
			}
			v = m[s]
		case int:
			l, ok := v.([]any)
			if !ok || len(l) <= s {
				t.Fatalf("no %v in %v of %v", step, path, v)
			}
			v = l[s]
		}
	}
	return v
}

func document(t *testing.T, path string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := yaml.Unmarshal(data, &v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return v
}

func texts(t *testing.T, v any) map[string]string {
	t.Helper()
	out := map[string]string{}
	for k, x := range v.(map[string]any) {
		s, ok := x.(string)
		if !ok {
			t.Fatalf("%s is %v, which a CI may write as something else: put it in quotes", k, x)
		}
		out[k] = s
	}
	return out
}

func lines(t *testing.T, v any) string {
	t.Helper()
	var out []string
	for _, l := range v.([]any) {
		s, ok := l.(string)
		if !ok {
			t.Fatalf("the line %v is no text: put it in quotes", l)
		}
		out = append(out, s)
	}
	return strings.Join(out, "\n")
}

var (
	bash     = []string{"bash", "-eo", "pipefail", "-c"}
	posix    = []string{"sh", "-e", "-c"}
	examples = filepath.Join("..", "..", "examples")
)

// vaulted is what an Azure, Bitbucket or Semaphore job has: a token that is no
// use here, and a Vault.
const vaulted = "cfa:v1:cfa.example.com"

func exampleJobs(t *testing.T) []exampleJob {
	t.Helper()
	gitlab := node(t, document(t, filepath.Join(examples, "gitlab", ".gitlab-ci.yml")), "publish")
	forgejo := document(t, filepath.Join(examples, "forgejo", "release.yml"))
	if node(t, forgejo, "enable-openid-connect") != true {
		t.Error("forgejo: the job gets no ID token")
	}
	google := document(t, filepath.Join(examples, "cloudbuild.yaml"))
	googleEnv := map[string]string{}
	for _, line := range node(t, google, "steps", 0, "env").([]any) {
		k, v, _ := strings.Cut(line.(string), "=")
		googleEnv[k] = v
	}
	googleScript := node(t, google, "steps", 0, "script").(string)
	if !strings.HasPrefix(googleScript, "#!/usr/bin/env bash\n") {
		t.Error("google: the script does not say which shell it is for")
	}
	azure := document(t, filepath.Join(examples, "azure-pipelines.yml"))
	bitbucket := node(t, document(t, filepath.Join(examples, "bitbucket-pipelines.yml")), "pipelines", "tags", "v*", 0, "step")
	if fmt.Sprint(node(t, bitbucket, "oidc", "audiences", 0)) != "https://vault.example.com" {
		t.Error("bitbucket: the step's token is not for the Vault")
	}
	semaphore := node(t, document(t, filepath.Join(examples, "semaphore.yml")), "blocks", 0, "task")
	semaphoreEnv := map[string]string{}
	for _, v := range node(t, semaphore, "env_vars").([]any) {
		semaphoreEnv[node(t, v, "name").(string)] = node(t, v, "value").(string)
	}
	jenkins, err := os.ReadFile(filepath.Join(examples, "Jenkinsfile"))
	if err != nil {
		t.Fatal(err)
	}
	jenkinsEnv := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^\s+([A-Z0-9_]+) = '([^']*)'$`).FindAllStringSubmatch(string(jenkins), -1) {
		jenkinsEnv[m[1]] = m[2]
	}
	body := regexp.MustCompile(`(?s)sh '''#!/bin/bash\n(.*?)'''`).FindSubmatch(jenkins)
	bound := regexp.MustCompile(`string\(credentialsId: 'cfa-id-token', variable: 'CFA_ID_TOKEN'\)`)
	if body == nil || !bound.Match(jenkins) {
		t.Fatal("Jenkinsfile: no script, or no token for it")
	}
	jenkinsAud := regexp.MustCompile(`audience (cfa:v1:[a-z.]+)`).FindSubmatch(jenkins)
	if jenkinsAud == nil {
		t.Fatal("Jenkinsfile: it does not say which audience the credentials need")
	}

	return []exampleJob{
		{
			file: "gitlab/.gitlab-ci.yml", provider: "gitlab", env: texts(t, node(t, gitlab, "variables")),
			given: map[string]string{"GITLAB_CI": "true"},
			shell: bash, steps: []string{lines(t, node(t, gitlab, "script"))},
			aud: node(t, gitlab, "id_tokens", "CFA_ID_TOKEN", "aud").(string),
		},
		{
			file: "forgejo/release.yml", provider: "forgejo", env: texts(t, node(t, forgejo, "jobs", "publish", "env")),
			given: map[string]string{"GITHUB_ACTIONS": "true", "FORGEJO_ACTIONS": "true", "GITEA_ACTIONS": "true"},
			shell: bash, steps: []string{node(t, forgejo, "jobs", "publish", "steps", 1, "run").(string), node(t, forgejo, "jobs", "publish", "steps", 2, "run").(string)},
		},
		{
			file: "cloudbuild.yaml", provider: "google-cloud-build", env: googleEnv,
			given: map[string]string{"BUILDER_OUTPUT": "/builder/outputs"},
			shell: []string{"bash", "-c"}, steps: []string{googleScript}, // it says itself that it stops at failures
		},
		{
			file: "Jenkinsfile", provider: "jenkins", env: jenkinsEnv,
			given: map[string]string{"JENKINS_URL": "https://ci.example.com/"}, home: "WORKSPACE_TMP",
			shell: []string{"bash", "-c"}, steps: []string{string(body[1])}, aud: string(jenkinsAud[1]),
		},
		{
			file: "azure-pipelines.yml", provider: "generic", env: texts(t, node(t, azure, "variables")),
			given: map[string]string{"TF_BUILD": "True", "SYSTEM_ACCESSTOKEN": secretOfTheCI, "SYSTEM_OIDCREQUESTURI": "https://dev.azure.com/octo/x/oidctoken"},
			shell: []string{"bash", "-c"}, steps: []string{node(t, azure, "steps", 0, "bash").(string), node(t, azure, "steps", 1, "bash").(string)}, aud: vaulted,
		},
		{
			file: "bitbucket-pipelines.yml", provider: "generic",
			env:   map[string]string{}, // its script sets them
			given: map[string]string{"BITBUCKET_BUILD_NUMBER": "7", "BITBUCKET_STEP_OIDC_TOKEN": secretOfTheCI},
			shell: posix, steps: []string{lines(t, node(t, bitbucket, "script"))}, aud: vaulted,
		},
		{
			file: "semaphore.yml", provider: "generic", env: semaphoreEnv,
			given: map[string]string{"SEMAPHORE": "true", "SEMAPHORE_OIDC_TOKEN": secretOfTheCI},
			shell: bash, steps: []string{"checkout() { :; }\nsem-version() { [ \"$*\" = 'node 24' ]; }\n" + lines(t, node(t, semaphore, "jobs", 0, "commands"))}, aud: vaulted,
		},
	}
}

// noDigest stands in a file where its reader writes one.
var noDigest = strings.Repeat("0", 64)

const (
	secretOfTheCI = "token-of-the-CI-itself"
	secretOfVault = "token-for-the-Vault"
	tokenForCFA   = "token-for-cfa"
)

// released stands in for the cfa of a release, which the real install.sh finds and
// checks: it notes what it was called with.
const released = `#!/bin/sh
printf '%s\n' "$@" > "$SEEN/cfa-args"
env > "$SEEN/cfa-env"
pwd > "$SEEN/cfa-dir"
`

// installer is the project's own install.sh.
func installer(t *testing.T) string {
	t.Helper()
	return read(t, filepath.Join("..", "..", "install.sh"))
}

// commands are stand-ins for what a job calls outside. Each notes its arguments.
var commands = map[string]string{
	"curl": `
out= ; url=
while [ $# -gt 0 ]; do
	case "$1" in
	-o|--output) out=$2; shift ;;
	-H) [ "$2" != @- ] || cat > "$SEEN/sent"; shift ;;
	-d|--data-binary) [ "$2" != @- ] || cat > "$SEEN/sent"; shift ;;
	-X|--proto|--retry|--max-time|--max-filesize) shift ;;
	-*) ;;
	*) url=$1 ;;
	esac
	shift
done
case "$url" in
https://raw.githubusercontent.com/continuousauth/action/v1.2.3/install.sh) cp "$SEEN/install.sh" "$out" ;;
https://github.com/continuousauth/action/releases/download/v1.2.3/cfa_1.2.3_linux_*) cp "$SEEN/released" "$out" ;;
https://dev.azure.com/*) [ "$(cat "$SEEN/sent")" = "Authorization: Bearer token-of-the-CI-itself" ] && printf '{"oidcToken":"%s"}' token-of-the-CI-itself ;;
https://vault.example.com/v1/auth/jwt/login) [ "$(cat "$SEEN/sent")" = '{"role":"release","jwt":"token-of-the-CI-itself"}' ] && printf '{"auth":{"client_token":"%s"}}' token-for-the-Vault ;;
https://vault.example.com/v1/identity/oidc/token/cfa) [ "$(cat "$SEEN/sent")" = "X-Vault-Token: token-for-the-Vault" ] && printf '{"data":{"token":"%s"}}' token-for-cfa ;;
*) echo "curl: unexpected $url" >&2; exit 22 ;;
esac
`,
	"npm": ` [ "$*" = 'config set //registry.npmjs.org/:_authToken ${NPM_TOKEN}' ] || { echo "npm: unexpected $*" >&2; exit 1; }
`,
}

// runExample runs a job's script, in which it puts these digests in the place of
// the zeros, and gives what it did: its exit code, its output and the folder with
// the stand-ins' notes.
func runExample(t *testing.T, j exampleJob, script, program string) (code int, log, seen string) {
	t.Helper()
	dir := t.TempDir()
	bin, seen, home, work := filepath.Join(dir, "bin"), filepath.Join(dir, "seen"), filepath.Join(dir, "home"), filepath.Join(dir, "work")
	for _, d := range []string{bin, seen, home, work} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"install.sh": installer(t), "released": released} {
		if err := os.WriteFile(filepath.Join(seen, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, body := range commands {
		text := "#!/bin/sh\nset -eu\nprintf '%s\\n' \"" + name + " $*\" >> \"$SEEN/args\"\n" + body
		if err := os.WriteFile(filepath.Join(bin, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	env := map[string]string{"CI": "true", "NPM_TOKEN": "npm-token", "HOME": home, "SEEN": seen, "PATH": bin + string(os.PathListSeparator) + os.Getenv("PATH")}
	for _, more := range []map[string]string{j.env, j.given} {
		for k, v := range more {
			env[k] = v
		}
	}
	env["CFA_INSTALL_SHA256"], env["CFA_SHA256"] = script, program
	if j.home != "" {
		env[j.home], env["HOME"] = home, "/"
	}
	if j.aud != "" && j.provider != "generic" {
		env["CFA_ID_TOKEN"] = tokenForCFA
	}
	for _, step := range j.steps {
		text := strings.NewReplacer(
			"/tmp/cfa-install.sh", filepath.Join(dir, "cfa-install.sh"),
			"CFA_INSTALL_SHA256="+noDigest, "CFA_INSTALL_SHA256="+script, "CFA_SHA256="+noDigest, "CFA_SHA256="+program,
		).Replace(step)
		cmd := exec.Command(j.shell[0], append(slices.Clone(j.shell[1:]), text)...)
		cmd.Dir = work
		for k, v := range env {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		out, err := cmd.CombinedOutput()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		log += string(out)
		if code = cmd.ProcessState.ExitCode(); code != 0 {
			break
		}
	}
	return code, log, seen
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func digestOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func TestTheExampleOfEachCIAsksBeforeItPublishes(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the examples are for Linux")
	}
	if _, err := exec.LookPath("node"); err != nil {
		// The machine of a job that publishes to npm has it; three of the files read JSON with it.
		if os.Getenv("CI") == "true" {
			t.Fatal("Node.js is missing: apt-get install nodejs")
		}
		t.Skip("Node.js is missing: apt-get install nodejs")
	}
	for _, j := range exampleJobs(t) {
		t.Run(j.file, func(t *testing.T) {
			t.Parallel()
			script, program := digestOf(installer(t)), digestOf(released)
			code, log, seen := runExample(t, j, script, program)
			if code != 0 {
				t.Fatalf("ended with %d\n%s", code, log)
			}
			if got := read(t, filepath.Join(seen, "cfa-args")); got != "exec\n--\nnpm\npublish\n" {
				t.Errorf("cfa was run with %q", got)
			}
			env := map[string]string{}
			for _, l := range strings.Split(read(t, filepath.Join(seen, "cfa-env")), "\n") {
				k, v, _ := strings.Cut(l, "=")
				env[k] = v
			}
			found, err := ci.Detect(ci.Env{Getenv: func(k string) string { return env[k] }})
			if err != nil || found.Name != j.provider {
				t.Errorf("cfa would find %v, %v", found, err)
			}
			relay, err := url.Parse(env["CFA_RELAY"])
			if err != nil || relay.Scheme != "wss" || env["CFA_PROJECT"] != "rocket" || env["CFA_SERVICE"] != "" {
				// cfa knows the tool by the command; who copies the file for another tool
				// and leaves a service there has it run as that one.
				t.Errorf("cfa is told the relay %q, the project %q, the service %q", env["CFA_RELAY"], env["CFA_PROJECT"], env["CFA_SERVICE"])
			}
			if found.Bound != (j.aud == "") {
				t.Errorf("bound %v, and the file names the audience %q", found.Bound, j.aud)
			}
			if j.aud != "" && (j.aud != wire.UnboundAudience(relay.Hostname()) || env["CFA_ID_TOKEN"] != tokenForCFA) {
				t.Errorf("the audience is %q, and the token %q", j.aud, env["CFA_ID_TOKEN"])
			}
			// The child of cfa has no business with what the job proved itself with.
			for _, name := range []string{"VAULT_TOKEN", "SYSTEM_ACCESSTOKEN", "BITBUCKET_STEP_OIDC_TOKEN", "SEMAPHORE_OIDC_TOKEN"} {
				if env[name] != "" {
					t.Errorf("%s is left in the environment of the command", name)
				}
			}
			args := read(t, filepath.Join(seen, "args"))
			for _, secret := range []string{secretOfTheCI, secretOfVault, tokenForCFA, "npm-token"} {
				if strings.Contains(args, secret) || strings.Contains(log, secret) {
					t.Errorf("%s is in an argument or in the log", secret)
				}
			}
			// What is published is the project's folder.
			if got, _ := os.ReadDir(strings.TrimSpace(read(t, filepath.Join(seen, "cfa-dir")))); len(got) != 0 {
				t.Errorf("in the project's folder there is %v now", got)
			}

			// Another script, or another program, than the one whose digest stands
			// in the file.
			for _, digests := range [][2]string{{digestOf("another"), program}, {script, digestOf("another")}, {noDigest, noDigest}} {
				code, log, seen = runExample(t, j, digests[0], digests[1])
				if _, err := os.Stat(filepath.Join(seen, "cfa-args")); code == 0 || err == nil {
					t.Errorf("with the digests %v: ended with %d, cfa ran: %v\n%s", digests, code, err == nil, log)
				}
			}
		})
	}
}

// Each example's comments say which rule it needs: a relay takes that rule.
func TestTheRuleInEachExampleIsOneThatARelayTakes(t *testing.T) {
	t.Parallel()
	for _, file := range []string{"gitlab/.gitlab-ci.yml", "buildkite/pipeline.yml", "forgejo/release.yml", "cloudbuild.yaml", "Jenkinsfile", "azure-pipelines.yml", "bitbucket-pipelines.yml", "semaphore.yml"} {
		text := read(t, filepath.Join(examples, file))
		var rule []string
		for _, l := range strings.Split(text, "\n") {
			l, ok := strings.CutPrefix(strings.TrimPrefix(l, "//"), "#")
			if !ok && file != "Jenkinsfile" {
				break
			}
			if file == "Jenkinsfile" && !strings.HasPrefix(l, " ") && l != "" {
				break
			}
			if l = strings.TrimPrefix(l, " "); strings.HasPrefix(l, "  ") || l == "" {
				rule = append(rule, l)
			}
		}
		part := strings.Join(rule, "\n")
		at := regexp.MustCompile(`(?m)^  (issuers|ci):`).FindStringIndex(part)
		if at == nil {
			t.Errorf("%s: no rule in its comments", file)
			continue
		}
		part = regexp.MustCompile(`(?m)^  `).ReplaceAllString(part[at[0]:], "")
		provider := regexp.MustCompile(`provider: ([a-z-]+)`).FindStringSubmatch(part[strings.Index(part, "ci:"):])
		config := "host: cfa.example.com\ndata: data\nlisten: {nats: \"127.0.0.1:0\"}\n"
		people := "responders: [{name: Ana, connect: UDEMAAJSLL5KBPQBWKP6XL5IZ4RHV54DRNGBI5RS2XKLJWVD45KGAT7P, sign: ADSO7U2ULPZJRG2RNYTW7ZX2ZUM6VJ6W3T46R4A5KDB5AV76DAJ4OUTX}]\n"
		if strings.HasPrefix(part, "issuers:") {
			config += part + "\n    " + people
		} else {
			config += "issuers: [" + provider[1] + "]\nprojects:\n  rocket:\n    " + people + regexp.MustCompile(`(?m)^`).ReplaceAllString(part, "    ") + "\n"
		}
		path := filepath.Join(t.TempDir(), "cfa.yaml")
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		if p := run(t, nil, "cfa-relay", "check", "--config", path); p.code != 0 {
			t.Errorf("%s: %s\n%s", file, p.err, config)
		}
	}
}

// The Buildkite plugin, as the agent runs it: its hooks in the step's own shell,
// its settings as variables.
func TestTheBuildkitePluginPutsCFAOnThePath(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the hooks are for Linux and macOS, and what stands in here is Linux's")
	}
	step := node(t, document(t, filepath.Join(examples, "buildkite", "pipeline.yml")), "steps", 0)
	plugin := filepath.Join("..", "..", "ci", "cfa-buildkite-plugin")
	schema := document(t, filepath.Join(plugin, "plugin.yml"))
	var settings map[string]string
	for name, v := range node(t, step, "plugins", 0).(map[string]any) {
		// continuousauth/cfa is the repository continuousauth/cfa-buildkite-plugin.
		if !strings.HasPrefix(name, "continuousauth/cfa#v") {
			t.Errorf("the plugin is %s", name)
		}
		settings = texts(t, v)
	}
	known := node(t, schema, "configuration", "properties").(map[string]any)
	for name := range settings {
		if known[name] == nil {
			t.Errorf("the plugin has no setting %s", name)
		}
	}
	for _, name := range node(t, schema, "configuration", "required").([]any) {
		if settings[name.(string)] == "" {
			t.Errorf("the example does not set %v", name)
		}
	}

	// What its README shows, and says of each setting.
	readme := read(t, filepath.Join(plugin, "README.md"))
	shown := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindStringSubmatch(readme)
	if shown == nil {
		t.Fatal("the plugin's README shows no step")
	}
	var pipeline map[string]any
	if err := yaml.Unmarshal([]byte(shown[1]), &pipeline); err != nil {
		t.Fatal(err)
	}
	for name, v := range node(t, pipeline, "steps", 0, "plugins", 0).(map[string]any) {
		given := texts(t, v)
		for setting := range given {
			if known[setting] == nil {
				t.Errorf("README.md: %s has no setting %s", name, setting)
			}
		}
		for _, required := range node(t, schema, "configuration", "required").([]any) {
			if given[required.(string)] == "" {
				t.Errorf("README.md does not set %v", required)
			}
		}
	}
	for setting := range known {
		if !regexp.MustCompile("(?m)^\\|.*`" + setting + "`.*\\|").MatchString(readme) {
			t.Errorf("README.md says nothing of the setting %s", setting)
		}
	}

	// A release of the plugin: its folder, and install.sh in it.
	dir := t.TempDir()
	published := filepath.Join(dir, "plugin")
	if err := os.CopyFS(published, os.DirFS(plugin)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(published, "install.sh"), []byte(installer(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	settings["sha256"] = digestOf(released)
	seen, tmp := filepath.Join(dir, "seen"), filepath.Join(dir, "tmp")
	for _, d := range []string{seen, tmp} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	play := func(plugin string, change map[string]string) (int, string) {
		// `$$` is what the upload of the pipeline makes one dollar of.
		command := strings.ReplaceAll(lines(t, node(t, step, "command")), "$$", "$")
		cmd := exec.Command("bash", "-c", `. "$P/hooks/pre-command"; (bash -e -c "$COMMAND"); code=$?; . "$P/hooks/pre-exit"; exit $code`)
		env := map[string]string{
			"PATH": filepath.Join(dir, "bin") + string(os.PathListSeparator) + os.Getenv("PATH"), "HOME": dir, "TMPDIR": tmp, "SEEN": seen,
			"BUILDKITE": "true", "NPM_TOKEN": "npm-token", "P": plugin, "COMMAND": command,
		}
		for k, v := range settings {
			env["BUILDKITE_PLUGIN_CFA_"+strings.ToUpper(strings.ReplaceAll(k, "-", "_"))] = v
		}
		for k, v := range change {
			env[k] = v
		}
		for k, v := range env {
			cmd.Env = append(cmd.Env, k+"="+v)
		}
		out, _ := cmd.CombinedOutput()
		return cmd.ProcessState.ExitCode(), string(out)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"npm", "curl"} {
		if err := os.WriteFile(filepath.Join(dir, "bin", name), []byte("#!/bin/sh\nset -eu\n"+commands[name]), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(seen, "released"), []byte(released), 0o600); err != nil {
		t.Fatal(err)
	}

	// In a checkout of the project, too, from which it can be taken as a folder.
	checkout, err := filepath.Abs(plugin)
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{checkout, published} {
		if code, log := play(from, nil); code != 0 {
			t.Fatalf("%s: ended with %d\n%s", from, code, log)
		}
	}
	if got := read(t, filepath.Join(seen, "cfa-args")); got != "exec\n--\nnpm\npublish\n" {
		t.Errorf("cfa was run with %q", got)
	}
	env := read(t, filepath.Join(seen, "cfa-env"))
	for _, want := range []string{"CFA_RELAY=wss://cfa.example.com\n", "CFA_PROJECT=rocket\n"} {
		if !strings.Contains(env, want) {
			t.Errorf("cfa is not told %s", want)
		}
	}
	if strings.Contains(env, "CFA_RELAY_NAME=") || strings.Contains(env, "CFA_RESPONDERS=") || strings.Contains(env, "CFA_SERVICE=") {
		t.Error("cfa is told what nobody set")
	}
	if left, _ := os.ReadDir(tmp); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}

	for name, change := range map[string]map[string]string{
		"no digest":      {"BUILDKITE_PLUGIN_CFA_SHA256": "0"},
		"another digest": {"BUILDKITE_PLUGIN_CFA_SHA256": noDigest},
		"no version":     {"BUILDKITE_PLUGIN_CFA_VERSION": "latest"},
	} {
		if err := os.Remove(filepath.Join(seen, "cfa-args")); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		code, log := play(published, change)
		if _, err := os.Stat(filepath.Join(seen, "cfa-args")); code == 0 || err == nil {
			t.Errorf("%s: ended with %d, cfa ran: %v\n%s", name, code, err == nil, log)
		}
	}
	bare := filepath.Join(dir, "a", "b", "plugin")
	if err := os.MkdirAll(filepath.Dir(bare), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(bare, os.DirFS(plugin)); err != nil {
		t.Fatal(err)
	}
	if code, log := play(bare, nil); code == 0 || !strings.Contains(log, "install.sh is not in the plugin") {
		t.Errorf("without install.sh: ended with %d\n%s", code, log)
	}
}

// The GitLab component, with its inputs put in as GitLab does: into the strings of
// the document, after each was checked.
func TestTheGitLabComponentRunsItsCommandWithCFA(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the component's image is Linux")
	}
	parts := strings.Split(read(t, filepath.Join("..", "..", "ci", "gitlab", "templates", "cfa.yml")), "\n---\n")
	if len(parts) != 2 {
		t.Fatalf("%d YAML documents; a component is a spec and a configuration", len(parts))
	}
	var spec, body map[string]any
	for text, into := range map[string]*map[string]any{parts[0]: &spec, parts[1]: &body} {
		if err := yaml.Unmarshal([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	// As its own comment uses it.
	inputs := map[string]string{}
	for _, m := range regexp.MustCompile(`(?m)^#         ([a-z0-9-]+): (.+)$`).FindAllStringSubmatch(parts[0], -1) {
		inputs[m[1]] = strings.ReplaceAll(m[2], "...", strings.Repeat("0", 64))
	}
	for name, v := range node(t, spec, "spec", "inputs").(map[string]any) {
		input := v.(map[string]any)
		if d, ok := input["description"].(string); !ok || d == "" {
			t.Errorf("the input %s has no description", name)
		}
		if _, given := inputs[name]; !given {
			def, ok := input["default"].(string)
			if !ok {
				t.Errorf("the comment does not give the input %s", name)
			}
			inputs[name] = def
		}
		if re, ok := input["regex"].(string); ok {
			for value, want := range map[string]bool{inputs[name]: true, "": input["default"] == "", "x\ny: z": false, "$(id)": false} {
				if regexp.MustCompile(re).MatchString(value) != want {
					t.Errorf("the input %s and %q: want %v", name, value, want)
				}
			}
		}
	}
	holder := regexp.MustCompile(`\$\[\[ inputs\.([a-z0-9-]+) \]\]`)
	var fill func(any) any
	fill = func(v any) any {
		switch v := v.(type) {
		case string:
			return holder.ReplaceAllStringFunc(v, func(s string) string {
				name := holder.FindStringSubmatch(s)[1]
				if _, ok := inputs[name]; !ok {
					t.Errorf("there is no input %s", name)
				}
				return inputs[name]
			})
		case []any:
			out := make([]any, len(v))
			for i := range v {
				out[i] = fill(v[i])
			}
			return out
		case map[string]any:
			out := map[string]any{}
			for k, x := range v {
				out[fill(k).(string)] = fill(x)
			}
			return out
		}
		return v
	}
	job := node(t, fill(body), "cfa")
	j := exampleJob{
		provider: "gitlab", env: texts(t, node(t, job, "variables")), given: map[string]string{"GITLAB_CI": "true"},
		shell: bash, steps: []string{lines(t, node(t, job, "script"))}, aud: node(t, job, "id_tokens", "CFA_ID_TOKEN", "aud").(string),
	}
	code, log, seen := runExample(t, j, digestOf(installer(t)), digestOf(released))
	if code != 0 {
		t.Fatalf("ended with %d\n%s", code, log)
	}
	if got := read(t, filepath.Join(seen, "cfa-args")); got != "exec\n--\nnpm\npublish\n" {
		t.Errorf("cfa was run with %q", got)
	}
	env := read(t, filepath.Join(seen, "cfa-env"))
	for _, want := range []string{"CFA_RELAY=wss://cfa.example.com\n", "CFA_RELAY_NAME=cfa.example.com\n", "CFA_PROJECT=rocket\n", "CFA_SERVICE=\n", "CFA_RESPONDERS=ADSO7U2ULPZJRG2RNYTW7ZX2ZUM6VJ6W3T46R4A5KDB5AV76DAJ4OUTX\n", "CFA_ID_TOKEN=" + tokenForCFA + "\n"} {
		if !strings.Contains(env, want) {
			t.Errorf("cfa is not told %s", want)
		}
	}
	if j.aud != wire.UnboundAudience("cfa.example.com") {
		t.Errorf("the token is for %q", j.aud)
	}
	if code, _, seen := runExample(t, j, digestOf("another"), digestOf(released)); code == 0 {
		t.Errorf("a script with another digest was run: %v", read(t, filepath.Join(seen, "cfa-args")))
	}
}

// CircleCI's files, the README's and the orb's examples among them: npm looks at no
// variable by itself, and without this line the job of each would end with ENEEDAUTH
// as soon as its human had been asked. The approval's example has npm trust the job.
func TestEachCircleCIJobThatPublishesGivesNpmItsToken(t *testing.T) {
	t.Parallel()
	jobs := map[string]any{} // in which something of the orb's publishes
	collect := func(name string, doc map[string]any) {
		for id, job := range doc["jobs"].(map[string]any) {
			jobs[name+", job "+id] = node(t, job, "steps")
		}
	}
	for n, block := range regexp.MustCompile("(?s)\n```yaml\n(version: 2.1\n.*?)\n```\n").FindAllStringSubmatch(read(t, "../../README.md"), -1) {
		var doc map[string]any
		if err := yaml.Unmarshal([]byte(block[1]), &doc); err != nil {
			t.Fatal(err)
		}
		collect(fmt.Sprintf("README.md %d", n+1), doc)
	}
	collect("config.yml", document(t, filepath.Join(examples, "circleci", "config.yml")))
	files, err := filepath.Glob(filepath.Join("..", "..", "orb", "src", "examples", "*.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		usage := node(t, document(t, file), "usage").(map[string]any)
		if usage["jobs"] != nil {
			collect(filepath.Base(file), usage)
			continue
		}
		for _, job := range node(t, usage, "workflows", "release", "jobs").([]any) {
			used := node(t, job, "cfa/publish").(map[string]any)
			// The orb's job runs these, and then the command by cfa exec.
			jobs[filepath.Base(file)] = append(node(t, used, "setup").([]any), map[string]any{"cfa/exec": used})
		}
	}
	const token = "npm config set //registry.npmjs.org/:_authToken '${NPM_TOKEN}'"
	publishing := 0
	for name, steps := range jobs {
		given := false
		for _, s := range steps.([]any) {
			step, ok := s.(map[string]any)
			if !ok {
				continue // checkout
			}
			run := step["run"]
			if m, ok := run.(map[string]any); ok {
				run = m["command"]
			}
			given = given || run == token
			if exec, ok := step["cfa/exec"].(map[string]any); ok && exec["command"] == "npm publish" {
				publishing++
				if !given {
					t.Errorf("%s: npm has no token: %s", name, token)
				}
			}
		}
	}
	if publishing != 4 {
		t.Errorf("%d jobs publish to npm by cfa", publishing)
	}
}
