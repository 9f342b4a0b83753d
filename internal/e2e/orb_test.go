package e2e

// The CircleCI orb's packed scripts in the environment of a CircleCI job: the
// steps are those that CircleCI would run, by the shell that it runs them with.
// Stand-ins are the `circleci` command, which takes the real one's arguments, and
// the issuer behind it, with CircleCI's claims. The relay's rule is the README's.

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/orb/orbtest"
)

// standInForCircleCI makes this test program the `circleci` command of a job, if
// it was started under that name.
func standInForCircleCI() {
	if filepath.Base(os.Args[0]) != "circleci" {
		return
	}
	token, err := circleci(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "Error:", err)
		os.Exit(255)
	}
	fmt.Println(token)
	os.Exit(0)
}

// circleci is `circleci run oidc get --claims '{"aud":"X"}'`. Of the claims, only
// the audience can be chosen.
func circleci(args []string) (string, error) {
	if len(args) != 5 || !slices.Equal(args[:4], []string{"run", "oidc", "get", "--claims"}) {
		return "", fmt.Errorf("unknown command %q", args)
	}
	var claims map[string]string
	if err := json.Unmarshal([]byte(args[4]), &claims); err != nil {
		return "", err
	}
	audience := claims["aud"]
	if len(claims) != 1 || audience == "" {
		return "", fmt.Errorf("claims %s: aud alone can be set", args[4])
	}
	req, err := http.NewRequest(http.MethodGet, os.Getenv("TEST_TOKEN_URL")+"&audience="+url.QueryEscape(audience), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "bearer "+os.Getenv("TEST_TOKEN_BEARER"))
	resp, err := (&http.Client{Timeout: within}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var answer struct{ Value string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&answer); err != nil || answer.Value == "" {
		return "", fmt.Errorf("no token: %s, %v", resp.Status, err)
	}
	return answer.Value, nil
}

const circleJob = "publish"

// circleClaims are those of a job that the README's rule is for.
func circleClaims(over map[string]any) map[string]any {
	claims := map[string]any{"vcs-origin": "github.com/octo/rocket", "vcs-ref": "refs/tags/v1.2.3"}
	maps.Copy(claims, over)
	return devissuer.CircleCIClaims(claims)
}

// circleRule is what the README tells people to write into the relay's file.
func circleRule(t testing.TB) string {
	t.Helper()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`(?s)(      - provider: )circleci\n(        org-id: .*?)\x60\x60\x60`).FindStringSubmatch(string(text))
	if m == nil {
		t.Fatal("the README shows no rule for CircleCI")
	}
	return m[1] + "development\n" + m[2]
}

// newCircleWorld is a world whose CI is CircleCI. Ana is there; options add others.
func newCircleWorld(t testing.TB, opts ...option) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	issuer, err := devissuer.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(issuer.Close)
	w.issuer = issuer
	issuer.AddJob(circleJob, circleClaims(nil))
	w.circlePerson("Ana")
	for _, o := range opts {
		o(w)
	}
	if !strings.Contains(w.top, "listen:") {
		w.top += "listen: {nats: \"127.0.0.1:0\"}\n"
	}
	var people strings.Builder
	for _, p := range w.humans {
		fmt.Fprintf(&people, "      - {name: %s, connect: %s, sign: %s}\n", p.name, p.connect, p.sign)
	}
	w.config = filepath.Join(w.dir, "cfa.yaml")
	text := fmt.Sprintf(`host: localhost
data: data
%sissuers:
  - {name: development, provider: circleci, url: "%s"}
projects:
  %s:
    ci:
%s    responders:
%s`, w.top, issuer.URL(), project, circleRule(t), people.String())
	if err := os.WriteFile(w.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	w.startRelay()
	return w
}

// circlePerson makes somebody with keys, and with pins for the job on CircleCI.
func (w *world) circlePerson(name string) {
	w.t.Helper()
	p := &person{name: name, dir: filepath.Join(w.dir, "home-"+name)}
	p.keys, p.pins = filepath.Join(p.dir, "responder.key"), filepath.Join(p.dir, "pins.yaml")
	keygen := run(w.t, nil, "cfa-responder", "keygen", "--key-file", p.keys, "--name", p.name)
	p.connect, p.sign = keygen.waitFor(`\bU[A-Z2-7]{55}\b`)[0], keygen.waitFor(`\bA[A-Z2-7]{55}\b`)[0]
	w.humans = append(w.humans, p)
	origin := "github.com/octo/rocket"
	claims := circleClaims(nil)
	for _, args := range [][]string{
		{"issuer", "--name", "development", "--provider", "circleci", "--url", w.issuer.URL()},
		{"add", project, "--provider", "development", "--claim", fmt.Sprintf("org-id=%v", claims["oidc.circleci.com/org-id"]),
			"--claim", fmt.Sprintf("project-id=%v", claims["oidc.circleci.com/project-id"]), "--claim", "vcs-origin=" + origin, "--confirm", origin},
	} {
		if r := run(w.t, nil, "cfa-responder", append([]string{"pins", "--pins", p.pins}, args...)...); r.code != 0 {
			w.t.Fatalf("pins %s ended with %d", args[0], r.code)
		}
	}
}

// circleSteps is a job on CircleCI, whose steps share a home, a PATH and BASH_ENV.
type circleSteps struct {
	*world
	orb  *orbtest.Orb
	home string
	dir  string // where the steps run; "": the home
	bin  string // first on the PATH
	env  []string
	log  strings.Builder
	live *output // what the steps write, as they write it; nil: nobody reads along
}

func (w *world) circleJob() *circleSteps {
	w.t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := exec.LookPath("bash"); err != nil || runtime.GOOS == "windows" {
		w.t.Skip("no bash, which CircleCI runs the steps of this job by")
	}
	s := &circleSteps{world: w, orb: orbtest.Pack(w.t, root, filepath.Join(root, "orb", "src")), home: w.t.TempDir(), bin: w.t.TempDir()}
	self, err := os.Executable()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(s.bin, "circleci")); err != nil {
		w.t.Fatal(err)
	}
	// The tokens that stand in each job's environment: whoever takes them for
	// CFA's is told by the relay that their audience is another.
	standing, err := w.issuer.Mint(circleClaims(nil))
	if err != nil {
		w.t.Fatal(err)
	}
	s.env = []string{
		"PATH=" + s.bin + string(os.PathListSeparator) + os.Getenv("PATH"), "HOME=" + s.home, "BASH_ENV=" + filepath.Join(s.home, "bash_env"),
		"CI=true", "CIRCLECI=true", "CIRCLE_JOB=" + circleJob, "CIRCLE_TAG=v1.2.3",
		"CIRCLE_WORKFLOW_ID=2b3c4d5e-6f7a-4b8c-9d0e-1f2a3b4c5d6e", "CIRCLE_WORKFLOW_JOB_ID=1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9",
		"CIRCLE_OIDC_TOKEN=" + standing, "CIRCLE_OIDC_TOKEN_V2=" + standing,
		"TEST_TOKEN_URL=" + w.issuer.RequestURL(circleJob), "TEST_TOKEN_BEARER=" + w.issuer.RequestToken(circleJob),
	}
	return s
}

// step runs a command of the orb and gives the exit code that the job would have.
func (s *circleSteps) step(command string, args map[string]any) int {
	s.t.Helper()
	runs, err := s.orb.Runs(command, args)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.play(runs)
}

// play runs a job's scripts up to the first that fails, and gives the exit code that
// the job would have.
func (s *circleSteps) play(runs []orbtest.Run) int {
	s.t.Helper()
	for _, r := range runs {
		if r.NoOutputTimeout != "" {
			if _, err := time.ParseDuration(r.NoOutputTimeout); err != nil {
				s.t.Errorf("%s: no_output_timeout: %v", r.Name, err)
			}
		}
		script := filepath.Join(s.t.TempDir(), "step.sh")
		if err := os.WriteFile(script, []byte(r.Command), 0o600); err != nil {
			s.t.Fatal(err)
		}
		cmd := exec.CommandContext(s.t.Context(), "bash", "-eo", "pipefail", script)
		cmd.Dir, cmd.Env = s.home, slices.Clone(s.env)
		if s.dir != "" {
			cmd.Dir = s.dir
		}
		for name, value := range r.Environment {
			cmd.Env = append(cmd.Env, name+"="+value)
		}
		out := s.live
		if out == nil {
			out = newOutput()
		}
		cmd.Stdout, cmd.Stderr = out, out
		err := cmd.Run()
		fmt.Fprintf(&s.log, "== %s\n%s", r.Name, out)
		if err != nil && cmd.ProcessState == nil {
			s.t.Fatal(err)
		}
		if code := cmd.ProcessState.ExitCode(); code != 0 {
			return code
		}
	}
	return 0
}

// ask are the arguments of each command that asks.
func (s *circleSteps) ask(more map[string]any) map[string]any {
	args := map[string]any{
		"relay": s.url, "relay_name": "localhost", "project": project, "responders": s.humans[0].sign,
		"message": "publish v1.2.3", "timeout": "1m", "install": false,
	}
	maps.Copy(args, more)
	return args
}

// clean says that the code is nowhere where the job leaves something.
func (s *circleSteps) clean() {
	s.t.Helper()
	if strings.Contains(s.log.String(), testCode) {
		s.t.Error("the code stands in the log")
	}
	files := 0
	look := func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		files++
		if strings.Contains(string(data), testCode) {
			s.t.Errorf("%s holds the code", path)
		}
		return err
	}
	err := filepath.WalkDir(s.home, look)
	if err == nil && s.dir != "" {
		err = filepath.WalkDir(s.dir, look)
	}
	if err != nil || files == 0 {
		s.t.Errorf("%d files were looked through: %v", files, err)
	}
}

// release serves cfa as a release would, by HTTPS, and gives the address and the
// digest.
func (s *circleSteps) release() (source, sum string) {
	s.t.Helper()
	if _, err := exec.LookPath("curl"); err != nil {
		if os.Getenv("CI") == "true" {
			s.t.Fatal("curl is missing: apt-get install curl")
		}
		s.t.Skip("curl is missing: apt-get install curl")
	}
	binary, err := os.ReadFile(program(s.t, "cfa"))
	if err != nil {
		s.t.Fatal(err)
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != fmt.Sprintf("/v1.2.3/cfa_1.2.3_%s_%s", runtime.GOOS, runtime.GOARCH) {
			http.NotFound(w, r)
			return
		}
		w.Write(binary)
	}))
	s.t.Cleanup(server.Close)
	authority := filepath.Join(s.t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		s.t.Fatal(err)
	}
	s.env = append(s.env, "CURL_CA_BUNDLE="+authority)
	digest := sha256.Sum256(binary)
	return server.URL, hex.EncodeToString(digest[:])
}

func TestTheOrbInstallsByDigestAndItsCommandGetsTheCode(t *testing.T) {
	t.Parallel()
	w := newCircleWorld(t)
	w.robot(w.humans[0])
	s := w.circleJob()
	source, sum := s.release()

	wrong := strings.Repeat("0", 64)
	if code := s.step("install", map[string]any{"version": "v1.2.3", "sha256": wrong, "source": source}); code != 1 {
		t.Fatalf("a wrong digest: ended with %d\n%s", code, &s.log)
	}
	if _, err := os.Stat(filepath.Join(s.home, ".cfa", "bin", "cfa")); err == nil {
		t.Fatal("a file with another digest was installed")
	}
	if code := s.step("install", map[string]any{"version": "v1.2.3", "sha256": sum, "source": source}); code != 0 {
		t.Fatalf("install ended with %d\n%s", code, &s.log)
	}
	// install: true must find what this job has named.
	if code := s.step("request", s.ask(map[string]any{
		"install": true, "env_var": "OTP", "service": "npm", "command": `printf %s "$OTP" | sha256sum >got; env | grep -c ^OTP= >count`,
	})); code != 0 {
		t.Fatalf("request ended with %d\n%s", code, &s.log)
	}
	s.got(testCode)
	for _, want := range []string{"as a job on CircleCI", "match code", "answered by Ana"} {
		if !strings.Contains(s.log.String(), want) {
			t.Errorf("the log has no %q:\n%s", want, &s.log)
		}
	}
	s.clean()
	// A later step has nothing of it.
	if code := s.step("request", s.ask(map[string]any{"relay": "nats://127.0.0.1:1", "timeout": "2s", "env_var": "OTP", "command": "touch ran"})); code != 69 {
		t.Errorf("a relay that is not there: ended with %d\n%s", code, &s.log)
	}
	if _, err := os.Stat(filepath.Join(s.home, "ran")); err == nil {
		t.Error("the command ran without a code")
	}
}

// got checks what the command wrote of the code: its hash.
func (s *circleSteps) got(code string) {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.home, "got"))
	sum := sha256.Sum256([]byte(code))
	if err != nil || !strings.HasPrefix(string(data), hex.EncodeToString(sum[:])) {
		s.t.Errorf("the command got something else than the code: %s, %v\n%s", data, err, &s.log)
	}
}

// onPath puts the built cfa on the PATH, as an image would have it.
func (s *circleSteps) onPath() {
	s.t.Helper()
	s.env = append(s.env, "PATH="+filepath.Dir(program(s.t, "cfa"))+string(os.PathListSeparator)+strings.TrimPrefix(s.env[0], "PATH="))
}

func TestTheOrbRunsACommandByCfaExec(t *testing.T) {
	t.Parallel()
	w := newCircleWorld(t)
	w.robot(w.humans[0])
	s := w.circleJob()
	s.onPath()
	if code := s.step("exec", s.ask(map[string]any{"install": true, "env_var": "PIN", "command": "printf %s \"$PIN\" | sha256sum >got\nexit 7\n"})); code != 7 {
		t.Errorf("the command's exit code became %d\n%s", code, &s.log)
	}
	s.got(testCode)
	s.clean()
}

// A tool that nobody knows: what it writes says that it wants a code, or it asks at a
// terminal.
func TestTheOrbRunsAToolThatCfaDoesNotKnow(t *testing.T) {
	t.Parallel()
	w := newCircleWorld(t)
	w.robot(w.humans[0])
	s := w.circleJob()
	s.onPath()
	for name, args := range map[string]map[string]any{
		"by its words": {"env_var": "PIN", "refused": "a PIN is wanted", "command": `echo run >>runs; [ -n "$PIN" ] || { echo "a PIN is wanted"; exit 3; }; printf %s "$PIN" | sha256sum >got`},
		"at a terminal": {"pty_prompt": "PIN:", "format": "digits:6",
			"command": `echo run >>runs; printf 'PIN: '; read -r pin; printf %s "$pin" | sha256sum >got`},
	} {
		for _, file := range []string{"got", "runs"} {
			os.Remove(filepath.Join(s.home, file))
		}
		if code := s.step("exec", s.ask(args)); code != 0 {
			t.Fatalf("%s: ended with %d\n%s", name, code, &s.log)
		}
		s.got(testCode)
		want := map[bool]string{true: "run\nrun\n", false: "run\n"}[args["refused"] != nil]
		if runs := read(t, filepath.Join(s.home, "runs")); runs != want {
			t.Errorf("%s: ran as %q, want %q", name, runs, want)
		}
	}
}

// A gem that says what the real one says: it wants a code, and takes the right one.
const gem = `#!/bin/sh
if [ "$1 $2" != "push rocket-1.2.3.gem" ]; then echo "called with $*" >&2; exit 9; fi
echo run >>"$HOME/runs"
if [ -z "$GEM_HOST_OTP_CODE" ]; then
	echo "You have enabled multi-factor authentication. Please enter OTP code."
	exit 1
fi
printf %s "$GEM_HOST_OTP_CODE" | sha256sum >"$HOME/got"
echo "Successfully registered gem: rocket (1.2.3)"
`

// Words that need no shell reach cfa as they stand, so that nobody has to say
// which tool it is.
func TestTheOrbLetsCfaKnowTheToolByItsWords(t *testing.T) {
	t.Parallel()
	w := newCircleWorld(t)
	w.robot(w.humans[0])
	s := w.circleJob()
	s.onPath()
	if err := os.WriteFile(filepath.Join(s.bin, "gem"), []byte(gem), 0o700); err != nil {
		t.Fatal(err)
	}
	if code := s.step("exec", s.ask(map[string]any{"command": "gem push rocket-1.2.3.gem\n"})); code != 0 {
		t.Fatalf("ended with %d\n%s", code, &s.log)
	}
	s.got(testCode)
	s.clean()
	runs, err := os.ReadFile(filepath.Join(s.home, "runs"))
	if err != nil || string(runs) != "run\nrun\n" || !strings.Contains(s.log.String(), "service rubygems") {
		t.Errorf("not run once without a code and once with one, as gem is: %q, %v\n%s", runs, err, &s.log)
	}
	// With a shell between them it must be said.
	s.log.Reset()
	if code := s.step("exec", s.ask(map[string]any{"command": "gem push *.gem"})); code != 64 || !strings.Contains(s.log.String(), "--service") {
		t.Errorf("ended with %d\n%s", code, &s.log)
	}
}

// The gate in front of a publish: a human types the match code off the job's log,
// and the receipt is checked offline, for the very files.
func TestTheOrbWaitsForAYesAndLeavesItsReceipt(t *testing.T) {
	t.Parallel()
	w := newCircleWorld(t)
	ana := w.humans[0]
	desk := w.listen(ana)
	s := w.circleJob()
	s.onPath()
	registry := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(registry.Close)
	s.env = append(s.env, "NPM_CONFIG_REGISTRY="+registry.URL)
	dist := filepath.Join(s.home, "dist")
	if err := os.Mkdir(dist, 0o700); err != nil {
		t.Fatal(err)
	}
	tgz := filepath.Join(dist, "rocket-1.2.3.tgz")
	npmTarball(t, tgz, "package.json", `{"name":"rocket","version":"1.2.3"}`)
	s.live = newOutput()
	job := &process{t: t, out: s.live, err: newOutput(), done: make(chan struct{})}
	go func() {
		defer close(job.done)
		job.code = s.step("approve", s.ask(map[string]any{"artifacts": "dist/*.tgz\n"}))
	}()
	desk.waitFor(`#1 verified: github\.com/octo/rocket asks for your yes, for npm`)
	desk.waitFor(`#1 sha256: ` + sha256Of(t, tgz))
	desk.waitFor(`#1 your turn: `)
	// What has changed is on offer without anybody saying so.
	fmt.Fprintln(desk.in, "i1")
	desk.waitFor(`#1 details \| rocket is not published yet, so all its 1 files are new`)
	types(t, desk, job, 1)
	<-job.done
	if job.code != 0 || !strings.Contains(s.live.String(), "approved by "+ana.sign+" (1 of 1)") {
		t.Fatalf("ended with %d\n%s", job.code, s.live)
	}
	receipt := filepath.Join(s.home, "cfa-receipt.json") // the orb's default
	v := run(t, nil, "cfa", "verify-receipt", "--key", ana.sign, "--artifact", tgz, receipt)
	if v.code != 0 || !strings.Contains(v.out.String(), `"publish v1.2.3"`) {
		t.Errorf("the receipt is refused with %d: %s", v.code, v.out)
	}

	// A no ends the step, and so the publish behind it; no receipt is left of it.
	if err := os.Remove(receipt); err != nil {
		t.Fatal(err)
	}
	s.live = nil
	done := make(chan int, 1)
	go func() { done <- s.step("approve", s.ask(map[string]any{"artifacts": "dist/*.tgz"})) }()
	desk.waitFor(`#2 your turn: `)
	fmt.Fprintln(desk.in, "d 2 not this one")
	if code := <-done; code != 80 {
		t.Errorf("a decline: ended with %d\n%s", code, &s.log)
	}
	if _, err := os.Stat(receipt); err == nil {
		t.Error("a no has left a receipt")
	}
}

// Two people, by the orb's own parameter: one agrees and another gives the code, and
// two say yes, whose receipt is a line of each.
func TestTheOrbAsksTwoPeople(t *testing.T) {
	t.Parallel()
	w := newCircleWorld(t, func(w *world) { w.circlePerson("Ben") })
	ana, ben := w.humans[0], w.humans[1]
	s := w.circleJob()
	s.onPath()
	if err := os.WriteFile(filepath.Join(s.home, "package.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	// One person alone is told so before anybody is asked.
	if code := s.step("approve", s.ask(map[string]any{"approvals": 2})); code != 64 || !strings.Contains(s.log.String(), "so many people cannot approve") {
		t.Errorf("with one key: ended with %d\n%s", code, &s.log)
	}
	for _, c := range []struct {
		command string
		args    map[string]any
	}{
		{"request", map[string]any{"env_var": "OTP", "service": "npm", "command": `printf %s "$OTP" | sha256sum >got`}},
		{"exec", map[string]any{"env_var": "OTP", "format": "digits:6", "command": `printf %s "$OTP" | sha256sum >got`}},
		{"approve", map[string]any{"artifacts": "package.json"}},
	} {
		t.Run(c.command, func(t *testing.T) { // one after the other: of one project
			first, second := w.listen(ana), w.listen(ben)
			args := s.ask(c.args)
			args["approvals"], args["responders"] = 2, ana.sign+","+ben.sign
			os.Remove(filepath.Join(s.home, "got"))
			s.live = newOutput()
			job := &process{t: t, name: c.command, out: s.live, err: newOutput(), done: make(chan struct{})}
			go func() {
				defer close(job.done)
				job.code = s.step(c.command, args)
			}()
			match := job.waitFor(`match code: +(\S+)`)[1]
			first.waitFor(`#1 your turn: type 1, then the match code`)
			fmt.Fprintf(first.in, "1\n%s\n", match)
			first.waitFor(`#1 note: your yes is on record`)
			answer := testCode
			if c.command == "approve" {
				answer = match
				second.waitFor(`#1 again: one person has agreed, and another must too`)
			} else {
				second.waitFor(`#1 again: one person has agreed, and another must give the code`)
				second.waitFor(`#1 your turn: type 1, then the code`)
			}
			fmt.Fprintf(second.in, "1\n%s\n", answer)
			if code := job.wait(); code != 0 {
				t.Fatalf("ended with %d\n%s", code, s.live)
			}
			if c.command != "approve" {
				s.got(testCode)
				s.clean()
				return
			}
			receipt := filepath.Join(s.home, "cfa-receipt.json")
			if v := run(t, nil, "cfa", "verify-receipt", "--key", ana.sign+" "+ben.sign, "--artifact", filepath.Join(s.home, "package.json"), receipt); v.code != 0 {
				t.Errorf("the receipt is refused with %d", v.code)
			}
			if v := run(t, nil, "cfa", "verify-receipt", "--key", ana.sign, receipt); v.code != 77 {
				t.Errorf("the receipt is good with one of its two people: %d", v.code)
			}
		})
	}
}

// The policy that the README shows, on tokens that each lack one thing.
func TestAJobThatTheCircleCIRuleIsNotForGetsNoPrompt(t *testing.T) {
	t.Parallel()
	w := newCircleWorld(t)
	h := w.listen(w.humans[0])
	s := w.circleJob()
	s.onPath()
	for _, c := range []struct {
		name string
		over map[string]any
		want string
	}{
		{"another organization", map[string]any{"org-id": "0a0a0a0a-6eb2-4c85-8a81-d9ed6a1d1d1e"}, "none of its rules fits"},
		{"another project", map[string]any{"project-id": "0a0a0a0a-7d4e-4f6a-9b8c-0d1e2f3a4b5c"}, "project-id is"},
		{"a fork", map[string]any{"vcs-origin": "github.com/mallory/rocket"}, "vcs-origin is"},
		{"a branch", map[string]any{"vcs-ref": "refs/heads/v1.2.3"}, "vcs-ref is"},
		{"no origin", map[string]any{"vcs-origin": nil}, "the ID token has no vcs-origin"},
		{"no ref", map[string]any{"vcs-ref": nil}, "the ID token has no vcs-ref"},
		{"other contexts", map[string]any{"context-ids": []any{"0a0a0a0a-3e2f-4a1b-8c9d-0e1f2a3b4c5d"}}, "context-ids is"},
		{"no context", map[string]any{"context-ids": []any{}}, "context-ids is"},
		{"a rerun with SSH", map[string]any{"ssh-rerun": true}, "ssh-rerun is"},
		{"a rerun with SSH, as a text", map[string]any{"ssh-rerun": "false"}, ""},
	} {
		w.issuer.AddJob(circleJob, circleClaims(c.over))
		s.log.Reset()
		if code := s.step("request", s.ask(map[string]any{"command": "touch ran"})); code != 77 {
			t.Errorf("%s: ended with %d\n%s", c.name, code, &s.log)
		}
		if !strings.Contains(s.log.String(), c.want) {
			t.Errorf("%s: the log does not say %q:\n%s", c.name, c.want, &s.log)
		}
	}
	if _, err := os.Stat(filepath.Join(s.home, "ran")); err == nil {
		t.Error("a command ran")
	}
	if strings.Contains(h.out.String()+h.err.String(), "octo/rocket") {
		t.Errorf("a human was asked:\n%s%s", h.out, h.err)
	}
	// The control: the job that the rule is for is shown to the human.
	w.issuer.AddJob(circleJob, circleClaims(nil))
	done := make(chan int, 1)
	go func() { done <- s.step("request", s.ask(map[string]any{"command": "touch ran"})) }()
	h.waitFor(`github\.com/octo/rocket`)
	h.waitFor(`refs/tags/v1\.2\.3`)
	if _, err := io.WriteString(h.in, "d 1 not today\n"); err != nil {
		t.Fatal(err)
	}
	if code := <-done; code != 80 {
		t.Errorf("a decline: ended with %d\n%s", code, &s.log)
	}
	if _, err := os.Stat(filepath.Join(s.home, "ran")); err == nil {
		t.Error("a command ran though the human declined")
	}
}

// What the orb sets must be what cfa reads: a misspelt variable is silently no
// flag at all.
func TestTheOrbSetsOnlyVariablesThatCfaReads(t *testing.T) {
	t.Parallel()
	s := newCircleWorld(t).circleJob()
	commands := run(t, nil, "cfa", "--help").out.String()
	seen := 0
	for _, command := range []string{"request", "exec", "approve"} {
		if !regexp.MustCompile(`(?m)^ +` + command + `\b`).MatchString(commands) {
			continue
		}
		seen++
		help := run(t, nil, "cfa", command, "--help").out.String()
		runs, err := s.orb.Runs(command, s.ask(map[string]any{"command": "x", "message": "m"}))
		if command == "approve" {
			runs, err = s.orb.Runs(command, s.ask(nil))
		}
		if err != nil {
			t.Fatal(err)
		}
		for name := range runs[0].Environment {
			if !strings.HasPrefix(name, "CFA_ORB_") && !strings.Contains(strings.Join(strings.Fields(help), " "), "($"+name+")") {
				t.Errorf("cfa %s reads no %s", command, name)
			}
		}
	}
	if seen < 2 {
		t.Errorf("cfa --help names %d of the orb's commands:\n%s", seen, commands)
	}
}
