package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/continuousauth/action/internal/ask"
	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/wire"
)

func TestMain(m *testing.M) {
	// A program that is built with the race detector waits for a second before it
	// ends, by default, for reports that nobody here would miss.
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=20")
	}
	testscript.Main(m, map[string]func(){"cfa": main})
}

// The scripts are whole runs of the program: in testdata, one per promise.
func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			tb := e.T().(testing.TB)
			e.Vars = append(e.Vars, startRelay(tb, e.WorkDir).job(tb)...)
			root, err := filepath.Abs("..")
			if err != nil {
				return err
			}
			e.Setenv("ROOT", root)
			e.Setenv("GORACE", os.Getenv("GORACE"))
			e.Setenv("GITHUB_OUTPUT", filepath.Join(e.WorkDir, "outputs"))
			return os.WriteFile(filepath.Join(e.WorkDir, "outputs"), nil, 0o600)
		},
		Condition: func(name string) (bool, error) {
			if name == "pty" {
				return runtime.GOOS != "windows", nil
			}
			if name == "bash" {
				return hasBash(), nil
			}
			return false, errors.New("unknown condition")
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// exits CODE PROGRAM ARGS...: that exit code and no other
			"exits": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
				}
				err := ts.Exec(args[1], args[2:]...)
				code := "0"
				if m := regexp.MustCompile(`exit status (\d+)`).FindStringSubmatch(errText(err)); m != nil {
					code = m[1]
				} else if err != nil {
					code = err.Error()
				}
				if code != args[0] {
					ts.Fatalf("exit code %s, want %s", code, args[0])
				}
			},
			// tools NAMES...: links to those of the machine's programs that it has, in $WORK/tools
			"tools": func(ts *testscript.TestScript, neg bool, args []string) {
				ts.Check(os.MkdirAll(ts.MkAbs("tools"), 0o700))
				for _, name := range args {
					if path, err := exec.LookPath(name); err == nil {
						ts.Check(os.Symlink(path, ts.MkAbs(filepath.Join("tools", name))))
					}
				}
			},
		},
	})
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// outputs reads a step's outputs as GitHub's runner does.
func outputs(t testing.TB, data string) map[string]string {
	t.Helper()
	out := map[string]string{}
	lines := strings.Split(strings.TrimSuffix(data, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		if lines[i] == "" {
			continue
		}
		eq, here := strings.Index(lines[i], "="), strings.Index(lines[i], "<<")
		switch {
		case eq >= 0 && (here < 0 || eq < here):
			out[lines[i][:eq]] = lines[i][eq+1:]
		case here >= 0:
			name, delimiter := lines[i][:here], lines[i][here+2:]
			var value []string
			for i++; i < len(lines) && lines[i] != delimiter; i++ {
				value = append(value, lines[i])
			}
			if i == len(lines) {
				t.Fatalf("output %s does not end", name)
			}
			out[name] = strings.Join(value, "\n")
		default:
			t.Fatalf("a line of the outputs that a runner refuses: %q", lines[i])
		}
	}
	return out
}

// ran is one run of the program in this process.
type ran struct {
	code     int
	out, err string
	file     string // GITHUB_OUTPUT as it is afterwards
	env      *environment
}

func runs(t *testing.T, before string, env []string, args ...string) ran {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "outputs")
	if err := os.WriteFile(path, []byte(before), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startRelay(t, dir)
	e := &environment{lines: append(append(r.job(t), "GITHUB_OUTPUT="+path), env...)}
	var out, log bytes.Buffer
	code := run(t.Context(), append([]string{"request"}, args...), stdio{out: &out, err: &log, getenv: e.get})
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return ran{code, out.String(), log.String(), string(file), e}
}

func TestTheCodeIsMaskedFirstAndWrittenOnce(t *testing.T) {
	t.Parallel()
	r := runs(t, "", nil, "--project", "answers", "--service", "npm")
	if r.code != 0 {
		t.Fatalf("exit code %d\n%s", r.code, r.err)
	}
	if r.out != "::add-mask::"+testCode+"\n" {
		t.Errorf("stdout %q", r.out)
	}
	if strings.Contains(r.err, testCode) {
		t.Errorf("the code stands in the log:\n%s", r.err)
	}
	got := outputs(t, r.file)
	if got["code"] != testCode || got["responder"] != "Ana" || !strings.HasPrefix(got["request-id"], "U") || len(got) != 3 {
		t.Errorf("outputs %q", got)
	}
	delimiters := regexp.MustCompile(`<<(\S+)`).FindAllStringSubmatch(r.file, -1)
	for i, d := range delimiters {
		if len(d[1]) < 24 {
			t.Errorf("delimiter %q", d[1])
		}
		for _, other := range delimiters[:i] {
			if other[1] == d[1] {
				t.Error("a delimiter was used twice")
			}
		}
	}
}

func TestNoNameCanWriteOutputsOrCommands(t *testing.T) {
	t.Parallel()
	r := runs(t, "", nil, "--project", "poisoned", "--service", "npm")
	if r.code != 0 {
		t.Fatalf("exit code %d\n%s", r.code, r.err)
	}
	got := outputs(t, r.file)
	if got["code"] != testCode || len(got) != 3 || !strings.HasPrefix(got["responder"], "Ana_U_000A_code_") || strings.ContainsAny(got["responder"], "#[]<>+=$()`") {
		t.Errorf("outputs %q", got)
	}
	commands(t, r.err)
}

// commands fails where GitHub's runner would find a command in a log.
func commands(t *testing.T, log string) {
	t.Helper()
	for line := range strings.Lines(log) {
		if strings.HasPrefix(strings.TrimLeft(line, " \t"), "::") && !strings.HasPrefix(line, "::error title=Continuous Factor Authentication::") || strings.Contains(line, "##[") {
			t.Errorf("a runner takes this line for a command: %q", line)
		}
	}
}

func TestTheRelaysWordsAreNoCommands(t *testing.T) {
	t.Parallel()
	r := runs(t, "", nil, "--project", "refuses")
	if r.code != exitRefused || !strings.Contains(r.err, "no rule<U+000A>of ## [error]refuses fits") {
		t.Fatalf("exit code %d\n%s", r.code, r.err)
	}
	commands(t, r.err)
	if r.out != "" || r.file != "" {
		t.Errorf("stdout %q, outputs %q", r.out, r.file)
	}
	if !strings.Contains(r.err, "\n::error title=Continuous Factor Authentication::the relay refused the request: ") {
		t.Errorf("no annotation:\n%s", r.err)
	}
}

func TestAnUnfinishedLineInTheOutputsIsNotJoined(t *testing.T) {
	t.Parallel()
	r := runs(t, "version=1.2.3", nil, "--project", "answers", "--service", "npm")
	got := outputs(t, r.file)
	if r.code != 0 || got["version"] != "1.2.3" || got["code"] != testCode {
		t.Errorf("exit code %d, outputs %q", r.code, got)
	}
}

func TestACodeIsEscapedInTheMaskAndNotInTheOutput(t *testing.T) {
	t.Parallel()
	r := runs(t, "", nil, "--project", "percent")
	if r.code != 0 || r.out != "::add-mask::50%250Aoff%2525\n" || outputs(t, r.file)["code"] != "50%0Aoff%25" {
		t.Errorf("exit code %d, stdout %q, outputs %q", r.code, r.out, r.file)
	}
}

func TestACodeThatCannotBeMaskedIsNotHandedOver(t *testing.T) {
	t.Parallel()
	r := runs(t, "", nil, "--project", "blank")
	if r.code != exitCancelled || r.out != "" || r.file != "" || !strings.Contains(r.err, "blank") {
		t.Errorf("exit code %d, stdout %q, outputs %q\n%s", r.code, r.out, r.file, r.err)
	}
}

func TestHiddenNamesGiveTheSigningKey(t *testing.T) {
	t.Parallel()
	r := runs(t, "", nil, "--project", "nameless", "--service", "npm")
	if got := outputs(t, r.file); r.code != 0 || !strings.HasPrefix(got["responder"], "A") || len(got["responder"]) != 56 {
		t.Errorf("exit code %d, outputs %q", r.code, got)
	}
}

func TestEachInputHasAVariableAndAnEmptyOneCountsAsUnset(t *testing.T) {
	t.Parallel()
	r := runs(t, "", []string{
		"CFA_PROJECT=answers", "CFA_TIMEOUT=", "CFA_MESSAGE=", "CFA_SERVICE=", "CFA_FORMAT=", "CFA_RESPONDERS=", "CFA_TLS_NAME=", "CFA_CA_FILE=", "CFA_OUTPUT=",
		"CFA_HOST=wrong", "CFA_PROJECT_ID=wrong", "CFA_SECRET=wrong",
	})
	if r.code != 0 {
		t.Fatalf("exit code %d\n%s", r.code, r.err)
	}
	for _, name := range []string{"RELAY", "RELAY_NAME", "TLS_NAME", "PROJECT", "CA_FILE", "TIMEOUT", "MESSAGE", "SERVICE", "FORMAT", "RESPONDERS", "OUTPUT"} {
		if !slices.Contains(r.env.read, "CFA_"+name) {
			t.Errorf("CFA_%s has no effect", name)
		}
	}
	for _, name := range []string{"CFA_HOST", "CFA_PROJECT_ID", "CFA_SECRET"} {
		if slices.Contains(r.env.read, name) {
			t.Errorf("%s belongs to another program's clients and was read", name)
		}
	}
}

func TestAMaskThatCannotBeWrittenKeepsTheCode(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "outputs")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e := &environment{lines: append(startRelay(t, dir).job(t), "GITHUB_OUTPUT="+path)}
	var log bytes.Buffer
	code := run(t.Context(), []string{"request", "--project", "answers"}, stdio{out: broken{}, err: &log, getenv: e.get})
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if code != exitCancelled || len(file) != 0 || strings.Contains(log.String(), testCode) {
		t.Errorf("exit code %d, outputs %q\n%s", code, file, log.String())
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestALogThatIsGoneChangesNoExitCode(t *testing.T) {
	t.Parallel()
	e := &environment{lines: []string{"GITHUB_ACTIONS=true"}}
	if code := run(t.Context(), []string{"request"}, stdio{out: broken{}, err: broken{}, getenv: e.get}); code != exitUsage {
		t.Errorf("exit code %d", code)
	}
}

func TestEveryKindOfEndHasItsExitCode(t *testing.T) {
	t.Parallel()
	for kind, want := range map[error]int{
		ask.ErrUnreachable: 69, ask.ErrRefused: 77, ask.ErrDeclined: 80, ask.ErrTimedOut: 81, ask.ErrCancelled: 82,
		ci.ErrNoCI: 82, errors.New("anything else"): 82, nil: 0,
	} {
		var err error
		if kind != nil {
			err = &ask.Failure{Kind: kind, What: "x"}
		}
		if got := exitCode(err); got != want {
			t.Errorf("%v: %d, want %d", kind, got, want)
		}
	}
}

func TestAnOutputIsOneLineWhateverItsValue(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{"a\nb", "a\rb", "a\x00b"} {
		if _, err := heredoc("code", bad); err == nil || strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	a, _ := heredoc("code", "x<<y=z")
	b, _ := heredoc("code", "x<<y=z")
	if a == b {
		t.Error("the delimiter does not change")
	}
	if got := outputs(t, a); got["code"] != "x<<y=z" {
		t.Errorf("%q", got)
	}
}

func TestTheLogClaimsNoHumanWhereOnlyAProgramActed(t *testing.T) {
	t.Parallel()
	for who, want := range map[string]string{
		"Ana":              "cfa: Ana's responder shows the prompt\n",
		wire.SomeResponder: "cfa: a responder shows the prompt\n",
		"":                 "cfa: a responder shows the prompt\n",
	} {
		var b bytes.Buffer
		(&log{w: &b}).event(ask.Opened{Who: who})
		if b.String() != want {
			t.Errorf("opened by %q: %q, want %q", who, b.String(), want)
		}
	}
}

func TestTheLogSaysWhoIsOnCallAndWhoIsAway(t *testing.T) {
	t.Parallel()
	until := time.Date(2026, 11, 25, 19, 0, 0, 0, time.FixedZone("CET", 3600))
	ana := []ask.Absent{{Who: "Ana", Until: until}}
	for _, c := range []struct {
		e    ask.Event
		want string
	}{
		{ask.Accepted{Project: "p", OnCall: []string{"Bob"}, Ready: 1, Enrolled: 2, Left: time.Minute, Away: ana},
			"request accepted for project p; 1 of 2 responders on call: Bob; Ana is away until 25 Nov 18:00 UTC; 1m0s left"},
		{ask.OnCall{Enrolled: 2, Need: 1}, "nobody is on call (2 could be); waiting for one of them to start cfa-responder"},
		{ask.OnCall{Enrolled: 2, Need: 1, Away: ana}, "nobody is on call (2 could be); Ana is away until 25 Nov 18:00 UTC; waiting for one of them to start cfa-responder, or to be back"},
		{ask.OnCall{OnCall: []string{"Bob"}, Ready: 1, Enrolled: 2, Need: 2, Away: []ask.Absent{{Who: wire.SomeResponder}}},
			"warning: two people must agree, and 1 of 2 is on call: Bob; a responder is away; this waits for another to start cfa-responder, or to be back"},
		{ask.OnCall{OnCall: []string{"Ana", "Bob"}, Ready: 2, Enrolled: 3, Need: 2}, "2 of 3 responders on call: Ana, Bob"},
		{ask.Escalated{After: 5 * time.Minute, Then: []string{"Bob"}}, "nobody has answered for 5m0s; asking Bob too"},
		{ask.Escalated{After: 5 * time.Minute, Then: []string{"Bob", "Cem"}, Early: true, Away: ana}, "Ana is away until 25 Nov 18:00 UTC; asking the next tier now: Bob, Cem"},
		{ask.Escalated{After: 5 * time.Minute, Early: true}, "too few of those who are asked first can answer this request; asking the next tier now: others"},
	} {
		var b bytes.Buffer
		(&log{w: &b}).event(c.e)
		if first, _, _ := strings.Cut(b.String(), "\n"); first != "cfa: "+c.want {
			t.Errorf("%+v:\n%s\nwant\n%s", c.e, first, c.want)
		}
	}
}

// A request of two people, one of a link, and one that nobody answered.
func TestTheSummarySaysWhoAnsweredAndWhoOpened(t *testing.T) {
	t.Parallel()
	var s summary
	at := time.Date(2026, 11, 25, 17, 20, 1, 0, time.UTC)
	for _, e := range []ask.Event{
		ask.Accepted{Project: "two", Enrolled: 2}, ask.Opened{Who: "Ana"}, ask.Taken{Responder: "AANA", Attempt: 1}, ask.Named{Who: "Ana"},
		ask.NewAttempt{Attempt: 2, Reason: wire.ReasonNext}, ask.Taken{Responder: "ABEN", Attempt: 2}, ask.Named{Who: "Ben|<b>"},
		ask.Accepted{Project: "link"}, ask.Opened{Who: "Ana"}, ask.Shown{Responder: "AANA"},
		ask.Accepted{Project: "hidden"}, ask.Opened{Who: wire.SomeResponder}, ask.Taken{Responder: "AANA", Attempt: 1},
		ask.Accepted{Project: "nobody"},
	} {
		s.event(e, at)
		at = at.Add(time.Second)
		if n, ok := e.(ask.Named); ok {
			s.answered(n.Who) // said once more at the end, it does not stand there twice
		}
	}
	file := filepath.Join(t.TempDir(), "summary.md")
	if err := s.write(file, nil); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(line, "| answered") || strings.HasPrefix(line, "| opened") {
			rows = append(rows, strings.TrimSpace(line))
		}
	}
	want := []string{
		"| answered | `AANA` at 17:20:03 UTC, Ana, one more answer is needed, `ABEN` at 17:20:06 UTC, Ben\\|&lt;b\\> |",
		"| opened by | `AANA` at 17:20:10 UTC, Ana at 17:20:09 UTC |",
		"| answered | `AANA` at 17:20:13 UTC |",
	}
	if !slices.Equal(rows, want) {
		t.Errorf("rows %q\nwant %q", rows, want)
	}
}

func TestNoLineOfTheLogIsACommand(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	l := &log{w: &b}
	for _, text := range []string{"::error::x", "\n::error::x", "a\r\n::error::x", "x ###[error]y", "##[##[error]", "##vso[task.complete]"} {
		l.line("%s", text)
	}
	commands(t, b.String())
	if n := strings.Count(b.String(), "\n"); n != 6 || strings.Contains(b.String(), "##vso[") {
		t.Errorf("%q", b.String())
	}
	for line := range strings.Lines(b.String()) {
		if !strings.HasPrefix(line, "cfa: ") {
			t.Errorf("%q", line)
		}
	}
}
