package e2e

// Tools that take a factor and cannot be here, by stand-ins that behave as their
// documents, their sources and their runs against a test's server show: gem 4, mix
// hex, fastlane and aws, each around the real cfa, relay and responder. A stand-in is
// this test program under the tool's name. It notes how it was started, and whether
// any process of this machine has the code among its arguments while it has it too.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/term"

	"github.com/continuousauth/action/internal/e2e/registrytest"
)

// standIns are the tools, by the names under which they are started.
var standIns = map[string]func(*standIn) int{
	"gem": (*standIn).gem, "mix": (*standIn).mix, "fastlane": (*standIn).fastlane, "aws": (*standIn).aws, "deploy": (*standIn).deploy,
}

// standIn is one run of a tool.
type standIn struct {
	Tool    string
	Args    []string
	Given   string   // the code that reached it, or what was wrong with how it came
	Exposed []string // processes that have it among their arguments
	Vars    []string // deploy: its variables of AWS
	Parent  bool     // deploy: cfa's own environment has them too
}

// standInForTools makes this test program one of them, if it was started as one.
func standInForTools() {
	tool, ok := standIns[filepath.Base(os.Args[0])]
	if !ok {
		return
	}
	s := &standIn{Tool: filepath.Base(os.Args[0]), Args: os.Args[1:]}
	code := tool(s)
	line, err := json.Marshal(s)
	if err == nil {
		err = appendLine(os.Getenv("TEST_RUNS"), line)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(99)
	}
	os.Exit(code)
}

func appendLine(name string, line []byte) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// take notes a code that has come, and looks for it where every user could read it.
func (s *standIn) take(code string) string {
	s.Given = code
	if code == "" {
		return ""
	}
	// Not as a part of a longer number: a temporary folder's name is one.
	shown := regexp.MustCompile(`(^|[^0-9])` + regexp.QuoteMeta(code) + `([^0-9]|$)`)
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range all {
		if text, err := os.ReadFile(file); err == nil && shown.Match(text) {
			s.Exposed = append(s.Exposed, file)
		}
	}
	return code
}

// toolbox is a world with the stand-ins, and what they noted.
type toolbox struct {
	*world
	dir string
	bin string // of the stand-ins
	env []string
}

func newToolbox(t *testing.T) *toolbox {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a stand-in is started by a symbolic link, and asks on a terminal")
	}
	w := newWorld(t)
	b := &toolbox{world: w, dir: t.TempDir(), bin: t.TempDir()}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name := range standIns {
		if err := os.Symlink(self, filepath.Join(b.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	b.env = append(w.issuer.GitHubEnv("release"), "PATH="+b.bin+string(os.PathListSeparator)+os.Getenv("PATH"), "HOME="+t.TempDir(), "RUNNER_TEMP="+t.TempDir(),
		"TEST_RUNS="+filepath.Join(b.dir, "runs"))
	return b
}

// exec runs cfa exec with the stand-ins first on the PATH.
func (b *toolbox) exec(flags []string, argv ...string) ended {
	b.t.Helper()
	e := b.world.exec(b.dir, b.env, flags, argv...)
	left, err := os.ReadDir(strings.TrimPrefix(b.env[slices.IndexFunc(b.env, func(v string) bool { return strings.HasPrefix(v, "RUNNER_TEMP=") })], "RUNNER_TEMP="))
	if err != nil || len(left) > 0 {
		b.t.Errorf("left behind: %v, %v", left, err)
	}
	return e
}

// runs are those of the stand-ins that have ended by themselves, in order. None may
// have found its code where it can be read.
func (b *toolbox) runs() (list []standIn) {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, "runs"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.t.Fatal(err)
	}
	for _, line := range bytes.Split(bytes.TrimSpace(text), []byte("\n")) {
		var s standIn
		if len(line) == 0 {
			continue
		}
		if err := json.Unmarshal(line, &s); err != nil {
			b.t.Fatal(err)
		}
		if len(s.Exposed) > 0 {
			b.t.Errorf("%s: the code is among the arguments of %v", s.Tool, s.Exposed)
		}
		list = append(list, s)
	}
	return list
}

// handed are the codes that reached the stand-ins, run by run.
func handed(runs []standIn) (codes []string) {
	for _, s := range runs {
		codes = append(codes, s.Given)
	}
	return codes
}

// ---- gem 4, after lib/rubygems/gemcutter_utilities.rb and webauthn_poller.rb of
// rubygems/rubygems at 4.0.0.dev.

// gemWaits is how long it waits for a visit. gem's own is 5 minutes, of which no test
// may wait for the end.
const gemWaits = 5 * time.Minute

// rubyOut is Ruby's standard output: on a pipe it is kept back until the end, unless
// a file that RUBYOPT has Ruby read first says otherwise.
func rubyOut() (w io.Writer, end func()) {
	sync := term.IsTerminal(int(os.Stdout.Fd()))
	for _, option := range strings.Fields(os.Getenv("RUBYOPT")) {
		if file, ok := strings.CutPrefix(option, "-r"); ok && filepath.IsAbs(file) {
			text, err := os.ReadFile(file)
			sync = sync || err == nil && strings.TrimSpace(string(text)) == "$stdout.sync = true"
		}
	}
	if sync {
		return os.Stdout, func() {}
	}
	b := bufio.NewWriterSize(os.Stdout, 64<<10)
	return b, func() { b.Flush() }
}

func (s *standIn) gem() int {
	out, end := rubyOut()
	defer end()
	if len(s.Args) != 2 || s.Args[0] != "push" {
		fmt.Fprintf(os.Stderr, "ERROR:  Invalid command %q\n", s.Args)
		return 1
	}
	file, err := os.ReadFile(s.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "ERROR:  ", err)
		return 1
	}
	host := os.Getenv("RUBYGEMS_HOST")
	ask := func(method, path, otp string, body []byte) (int, string) {
		req, err := http.NewRequest(method, host+path, bytes.NewReader(body))
		if err != nil {
			return 0, err.Error()
		}
		req.Header.Set("Authorization", os.Getenv("GEM_HOST_API_KEY"))
		if otp != "" {
			req.Header.Set("OTP", otp)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, err.Error()
		}
		return resp.StatusCode, string(text)
	}
	fmt.Fprintf(out, "Pushing gem to %s...\n", host)
	otp := s.take(os.Getenv("GEM_HOST_OTP_CODE"))
	status, text := ask(http.MethodPost, "/api/v1/gems", otp, file)
	if status == http.StatusUnauthorized && strings.HasPrefix(text, "You have enabled multifactor authentication") {
		if status, link := ask(http.MethodPost, "/api/v1/webauthn_verification", otp, nil); status == http.StatusOK {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				fmt.Fprintln(os.Stderr, "ERROR:  ", err)
				return 1
			}
			defer l.Close()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			fmt.Fprintf(out, "You have enabled multi-factor authentication. Please visit the following URL to authenticate via security device. If you can't verify using WebAuthn but have OTP enabled, you can re-run the gem signin command with the `--otp [your_code]` option.\n\n%s?port=%s\n\n", link, port)
			token := link[strings.LastIndexByte(link, '/')+1:]
			for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
				if time.Since(began) > gemWaits {
					fmt.Fprintln(os.Stderr, "ERROR:  execution expired")
					return 1
				}
				var v struct{ Status, Message, Code string }
				status, text := ask(http.MethodGet, "/api/v1/webauthn_verification/"+token+"/status.json", otp, nil)
				if status != http.StatusOK || json.Unmarshal([]byte(text), &v) != nil || v.Status != "pending" && v.Status != "success" {
					fmt.Fprintln(os.Stderr, "ERROR:  "+v.Message)
					return 1
				}
				if v.Status == "success" {
					otp = s.take(v.Code)
					break
				}
			}
			fmt.Fprintln(out, "You are verified with a security device. You may close the browser window.")
		} else {
			// And then "Code: ", which gets no answer where there is no terminal.
			fmt.Fprintln(out, "You have enabled multi-factor authentication. Please enter OTP code.")
		}
		status, text = ask(http.MethodPost, "/api/v1/gems", otp, file)
	}
	fmt.Fprintln(out, text)
	if status != http.StatusOK {
		return 1
	}
	return 0
}

// newGems is a toolbox with a registry of gems, and a gem to push there.
func newGems(t *testing.T, c registrytest.Config) (*toolbox, *registrytest.Registry) {
	t.Helper()
	b, reg := newToolbox(t), registrytest.Start(c)
	t.Cleanup(reg.Close)
	b.env = append(b.env, "RUBYGEMS_HOST="+reg.URL(), "GEM_HOST_API_KEY="+reg.Token())
	if err := os.WriteFile(filepath.Join(b.dir, "it.gem"), registrytest.GemFile("it", "1.0.0"), 0o600); err != nil {
		t.Fatal(err)
	}
	return b, reg
}

func requests(reg *registrytest.Registry, method, path string) (n int) {
	for _, q := range reg.Journal() {
		if q.Method == method && q.Path == path {
			n++
		}
	}
	return n
}

// gem 4 makes a link and waits for it, whether anybody was asked or not, and keeps
// back what it shows of it. So it is stopped as soon as it shows one, a human is
// asked, and the link that they get was made when they opened the prompt.
func TestGemsLinkIsShownToAHumanAndNotWaitedForUnasked(t *testing.T) {
	t.Parallel()
	b, reg := newGems(t, registrytest.Config{Factor: registrytest.Link, Uses: 1})
	b.follower(reg, 1)
	summary := filepath.Join(t.TempDir(), "summary.md")
	b.env = append(b.env, "GITHUB_STEP_SUMMARY="+summary)
	e := b.exec(nil, "gem", "push", "it.gem")
	if n, _ := e.asks(); e.code != 0 || n != 1 || !strings.Contains(e.err, "the link was followed") {
		t.Errorf("exit code %d, %d requests", e.code, n)
	}
	if _, there := reg.Pushed("it", "1.0.0"); !there {
		t.Errorf("not pushed; the registry saw %v", reg.Journal())
	}
	// Nobody answers a link: the summary says whose responder opened it, and when.
	opened := regexp.MustCompile("\\| opened by \\| `" + b.humans[0].sign + "` at [0-9:]{8} UTC, Ana at [0-9:]{8} UTC \\|\n")
	if text := read(t, summary); !opened.MatchString(text) || strings.Contains(text, "answered") {
		t.Errorf("the summary does not say who followed:\n%s", text)
	}
	if n := requests(reg, http.MethodPost, "/api/v1/webauthn_verification"); n != 2 {
		t.Errorf("%d links were made: one is seen by nobody, one is followed", n)
	}
	// The run that nobody was asked for was ended, and notes nothing.
	runs := b.runs()
	if len(runs) != 1 || runs[0].Given == "" || strings.Contains(e.out+e.err, runs[0].Given) {
		t.Errorf("runs %v, or what came of the link is in the log", handed(runs))
	}
	if !strings.Contains(e.out, "Successfully registered gem: it (1.0.0)") {
		t.Error("gem's own words are not passed on")
	}
}

// An account with codes alone: gem 4 asks for a link first, is given none, and wants
// a code.
func TestGem4IsGivenACode(t *testing.T) {
	t.Parallel()
	for name, codes := range map[string][]string{"missing, then right": {"604812"}, "wrong, then right": {"604811", "604812"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b, reg := newGems(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"604812"}})
			b.gives(codes...)
			e := b.exec(nil, "gem", "push", "it.gem")
			if n, attempts := e.asks(); e.code != 0 || n != 1 || attempts != len(codes) {
				t.Errorf("exit code %d, %d requests, %d attempts", e.code, n, attempts)
			}
			if _, there := reg.Pushed("it", "1.0.0"); !there {
				t.Error("not pushed")
			}
			if got := handed(b.runs()); !slices.Equal(got, append([]string{""}, codes...)) {
				t.Errorf("gem was given %q", got)
			}
			e.wantNoCode(t, codes...)
		})
	}
}

// ---- hex, after lib/hex/state.ex and lib/mix/tasks/hex.ex of hexpm/hex: HEX_OTP, or
// a question that nobody answers in CI.

func (s *standIn) mix() int {
	if len(s.Args) == 0 || s.Args[0] != "hex.publish" {
		return 1
	}
	fmt.Println("Publishing package to public repository hexpm.")
	if s.take(os.Getenv("HEX_OTP")) != "730915" {
		fmt.Print("Enter your 2FA code: ")
		if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
			fmt.Println("\nPublishing failed")
			return 1
		}
	}
	fmt.Println("Package published to https://hex.pm/packages/it/1.0.0")
	return 0
}

func TestHexIsGivenACodeOnce(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]string{"right": "730915", "wrong": "730914"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			right := name == "right"
			b := newToolbox(t)
			b.gives(code)
			e := b.exec(nil, "mix", "hex.publish", "--yes")
			if _, attempts := e.asks(); (e.code == 0) != right || !right && e.code != 1 || attempts != 1 {
				t.Errorf("exit code %d, %d attempts", e.code, attempts)
			}
			if got := handed(b.runs()); !slices.Equal(got, []string{code}) {
				t.Errorf("mix was given %q", got)
			}
			if strings.Contains(e.out, "Package published") != right {
				t.Error("mix's own words are not passed on")
			}
			if !right && !strings.Contains(e.err, "it is not run again by itself") {
				t.Error("nothing says why")
			}
			e.wantNoCode(t, code)
		})
	}
}

// ---- fastlane, after spaceship/lib/spaceship/two_step_or_factor_client.rb of
// fastlane/fastlane: a terminal, and again and again until the code is right.

func (s *standIn) fastlane() int {
	if !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(os.Stdout.Fd())) {
		fmt.Fprintln(os.Stderr, "Could not retrieve response as fastlane runs in non-interactive mode")
		return 1
	}
	fmt.Println("Two-factor Authentication (6 digits code) is enabled for account 'ana@example.com'")
	in := bufio.NewReader(os.Stdin)
	for {
		fmt.Print("\x1b[4mPlease enter the 6 digit code:\x1b[0m\n")
		line, err := in.ReadString('\n')
		if err != nil {
			return 1
		}
		code := s.take(strings.TrimSpace(line))
		if err := appendLine(filepath.Join(os.Getenv("HOME"), "typed"), []byte(code)); err != nil {
			return 99
		}
		if code == "481516" {
			break
		}
		fmt.Println("Error: Incorrect verification code")
	}
	fmt.Println("fastlane.tools finished successfully")
	return 3 // an end of its own, which is to be cfa's
}

func TestFastlaneIsTypedACodeAndNoSecond(t *testing.T) {
	t.Parallel()
	for name, code := range map[string]string{"right": "481516", "wrong": "481517"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			right := name == "right"
			b := newToolbox(t)
			b.gives(code)
			e := b.exec(nil, "fastlane", "release")
			want := 82
			if right {
				want = 3
			}
			if _, attempts := e.asks(); e.code != want || attempts != 1 {
				t.Errorf("exit code %d, not %d; %d attempts", e.code, want, attempts)
			}
			home := b.env[slices.IndexFunc(b.env, func(v string) bool { return strings.HasPrefix(v, "HOME=") })]
			typed, err := os.ReadFile(filepath.Join(strings.TrimPrefix(home, "HOME="), "typed"))
			if err != nil || string(typed) != code+"\n" {
				t.Errorf("typed: %q, %v", typed, err)
			}
			if right {
				b.runs() // looks for the code among arguments
			} else if !strings.Contains(e.err, "is not asked for again by itself") {
				t.Error("nothing says why")
			}
			e.wantNoCode(t, code)
		})
	}
}

// ---- aws, after the AWS CLI's own documentation of `sts get-session-token` and what
// it does with these arguments against a server of a test.

const (
	awsSerial = "arn:aws:iam::123456789012:mfa/ana"
	awsKey    = "ASIAIOSFODNN7EXAMPLE"
	awsSecret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY"
	awsToken  = "AQoEXAMPLEH4aoAH0gNCAPyJxz4BlCFFxWNE1OPTgk5TthT"
)

func (s *standIn) aws() int {
	if want := []string{"sts", "get-session-token", "--output", "json", "--serial-number", awsSerial, "--token-code", "file:///dev/stdin", "--duration-seconds", "900"}; !slices.Equal(s.Args, want) {
		fmt.Fprintln(os.Stderr, "usage: aws [options] <command> <subcommand> [<subcommand> ...] [parameters]")
		return 252
	}
	// Once, and all of it: a line feed would be part of the code.
	code, err := os.ReadFile(strings.TrimPrefix(s.Args[7], "file://"))
	if err != nil {
		fmt.Fprintf(os.Stderr, "\nError parsing parameter '--token-code': Unable to load paramfile %s: %v\n", s.Args[7], err)
		return 252
	}
	if s.take(string(code)) != "226688" {
		fmt.Fprint(os.Stderr, "\nAn error occurred (AccessDenied) when calling the GetSessionToken operation: MultiFactorAuthentication failed with invalid MFA one time pass code. \n")
		return 254
	}
	fmt.Printf(`{
    "Credentials": {
        "AccessKeyId": %q,
        "SecretAccessKey": %q,
        "SessionToken": %q,
        "Expiration": "2026-11-25T00:00:00+00:00"
    }
}
`, awsKey, awsSecret, awsToken)
	return 0
}

// deploy is the command that wants the credentials.
func (s *standIn) deploy() int {
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "AWS_") && !strings.HasPrefix(v, "AWS_MFA_") {
			s.Vars = append(s.Vars, v)
		}
	}
	above, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", os.Getppid()))
	s.Parent = bytes.Contains(above, []byte(awsSecret)) || bytes.Contains(above, []byte(awsToken))
	s.take(awsSecret)
	fmt.Println("deploying with", os.Getenv("AWS_SECRET_ACCESS_KEY")) // as a careless script does
	return 7
}

func TestAWSCredentialsAreTheCommandsAlone(t *testing.T) {
	t.Parallel()
	b := newToolbox(t)
	b.env = append(b.env, "AWS_MFA_SERIAL="+awsSerial, "AWS_MFA_DURATION=900")
	b.gives("226688")
	e := b.exec([]string{"--service", "aws"}, "deploy", "all")
	if _, attempts := e.asks(); e.code != 7 || attempts != 1 {
		t.Errorf("exit code %d, not the command's, or %d attempts", e.code, attempts)
	}
	runs := b.runs()
	if len(runs) != 2 || runs[0].Tool != "aws" || runs[0].Given != "226688" || runs[0].Vars != nil || runs[1].Tool != "deploy" || runs[1].Parent {
		t.Fatalf("runs: %+v", runs)
	}
	slices.Sort(runs[1].Vars)
	if want := []string{"AWS_ACCESS_KEY_ID=" + awsKey, "AWS_SECRET_ACCESS_KEY=" + awsSecret, "AWS_SESSION_TOKEN=" + awsToken}; !slices.Equal(runs[1].Vars, want) {
		t.Errorf("the command got %q", runs[1].Vars)
	}
	e.wantNoCode(t, "226688", awsSecret, awsToken)
	if !regexp.MustCompile(`(?m)^deploying with \*\*\*$`).MatchString(e.out) {
		t.Error("the command's own words are not passed on")
	}
}

func TestAWrongCodeForAWSRunsNoCommand(t *testing.T) {
	t.Parallel()
	b := newToolbox(t)
	b.env = append(b.env, "AWS_MFA_SERIAL="+awsSerial, "AWS_MFA_DURATION=900")
	b.gives("226687")
	e := b.exec([]string{"--service", "aws"}, "deploy", "all")
	if _, attempts := e.asks(); e.code != 254 || attempts != 1 || !strings.Contains(e.err, "AWS refused the code, and it is not asked for again by itself") {
		t.Errorf("exit code %d, %d attempts", e.code, attempts)
	}
	if runs := b.runs(); len(runs) != 1 || runs[0].Tool != "aws" {
		t.Errorf("runs: %+v", runs)
	}
	if !strings.Contains(e.err, "(AccessDenied)") {
		t.Error("aws's own words are not passed on")
	}
	e.wantNoCode(t, "226687")
}
