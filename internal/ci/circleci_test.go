// This file shows CircleCI's row against a `circleci` program of our own.

package ci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

var discard = log.New(io.Discard, "", 0)

// program is a CircleCI environment in which the n-th call gives answers[n].
func program(w *waits, calls *[]string, answers ...func() ([]byte, error)) Env {
	e := env("CIRCLECI", "true", "CIRCLE_OIDC_TOKEN", leak, "CIRCLE_OIDC_TOKEN_V2", leak)
	e.Wait = w.wait
	e.Run = func(_ context.Context, name string, args ...string) ([]byte, error) {
		*calls = append(*calls, strings.Join(append([]string{name}, args...), " "))
		return answers[min(len(*calls), len(answers))-1]()
	}
	return e
}

func prints(s string) func() ([]byte, error) { return func() ([]byte, error) { return []byte(s), nil } }
func fails(err error) func() ([]byte, error) { return func() ([]byte, error) { return nil, err } }

var circleJWT = compact(`{"alg":"RS256"}`, circleJob, "the-signature-of-the-token")

func TestCircleCIsTokenIsAskedForWithOurAudience(t *testing.T) {
	t.Parallel()
	inArray := compact(`{"alg":"RS256"}`, `{"aud":["`+aud+`"]}`, "s")
	for _, token := range []string{circleJWT, inArray} {
		var w waits
		var calls []string
		got, err := circleCI.Token(t.Context(), program(&w, &calls, prints(token+"\n")), aud)
		if err != nil || got != token {
			t.Fatalf("%q, %v", got, err)
		}
		if want := []string{`circleci run oidc get --claims {"aud":"` + aud + `"}`}; !slices.Equal(calls, want) {
			t.Errorf("ran %q", calls)
		}
	}
	// An audience cannot add claims of its own.
	var calls []string
	circleCI.Token(t.Context(), program(new(waits), &calls, prints("")), `x","sub":"y`)
	if want := `circleci run oidc get --claims {"aud":"x\",\"sub\":\"y"}`; calls[0] != want {
		t.Errorf("ran %s", calls[0])
	}
}

func TestCircleCIsTokenCommandIsRetriedWhereThatHelps(t *testing.T) {
	t.Parallel()
	broken := fails(errors.New("exit status 1: " + leak))
	for _, tt := range []struct {
		name    string
		answers []func() ([]byte, error)
		calls   int
		want    string // "" for success
	}{
		{"fails once", []func() ([]byte, error){broken, prints(circleJWT)}, 2, ""},
		{"fails three times", []func() ([]byte, error){broken, broken, broken, prints(circleJWT)}, 4, ""},
		{"fails for good", []func() ([]byte, error){broken}, 4, "4 times"},
		{"is not there", []func() ([]byte, error){fails(&exec.Error{Name: "circleci", Err: exec.ErrNotFound})}, 1, "not on the PATH"},
		{"prints nothing", []func() ([]byte, error){prints(" \n")}, 1, "printed no token"},
		{"prints something else", []func() ([]byte, error){prints(leak)}, 1, "not an ID token"},
		{"prints a notice and a token", []func() ([]byte, error){prints("new version!\n" + circleJWT)}, 1, "not an ID token"},
		{"prints too much", []func() ([]byte, error){prints(strings.Repeat("x", maxAnswer+1))}, 1, "more than 65536 bytes"},
		{"gives the default audience", []func() ([]byte, error){prints(compact(`{}`, `{"aud":"c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e"}`, leak))}, 1, "another audience"},
		{"gives several audiences", []func() ([]byte, error){prints(compact(`{}`, `{"aud":["`+aud+`","x"]}`, leak))}, 1, "another audience"},
	} {
		var w waits
		var calls []string
		token, err := circleCI.Token(t.Context(), program(&w, &calls, tt.answers...), aud)
		noSecret(t, err)
		if tt.want == "" && (err != nil || token != circleJWT) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if tt.want != "" && (err == nil || token != "" || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
		if len(calls) != tt.calls || len(w) != tt.calls-1 {
			t.Errorf("%s: %d calls, waited %v", tt.name, len(calls), w)
		}
	}
}

func TestAHungTokenCommandIsGivenUpInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		e := Env{Run: func(ctx context.Context, _ string, _ ...string) ([]byte, error) {
			calls++
			<-ctx.Done()
			return nil, errors.New("signal: killed")
		}}
		began := time.Now()
		_, err := circleCI.Token(t.Context(), e, aud)
		if took := time.Since(began); took < 67*time.Second || took > 69*time.Second || calls != 4 {
			t.Errorf("%d calls, given up after %v", calls, took)
		}
		if err == nil || !strings.Contains(err.Error(), "within 15s") {
			t.Errorf("%v", err)
		}
	})
}

// TestMain makes this test program a stand-in for others, for the tests of the
// real way to run one.
func TestMain(m *testing.M) {
	switch os.Getenv("CFA_TEST_PROGRAM") {
	case "args":
		fmt.Printf("%q", os.Args[1:])
	case "fail":
		fmt.Println(leak)
		fmt.Fprintln(os.Stderr, leak)
		os.Exit(3)
	case "endless":
		for b := bytes.Repeat([]byte("x"), 4096); ; {
			if _, err := os.Stdout.Write(b); err != nil {
				os.Exit(1)
			}
		}
	case "redact":
		in, err := io.ReadAll(os.Stdin)
		if err == nil {
			err = os.WriteFile(os.Getenv("CFA_TEST_OUT"), fmt.Appendf(nil, "%q %s", os.Args[1:], in), 0o600)
		}
		if err != nil {
			os.Exit(1)
		}
	case "hang":
		time.Sleep(time.Hour) // until it is killed
	default:
		os.Exit(m.Run())
	}
}

func TestAProgramIsRunWithinBounds(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(t *testing.T, as string) ([]byte, error) {
		t.Setenv("CFA_TEST_PROGRAM", as)
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if as == "hang" {
			cancel()
			ctx, cancel = context.WithTimeout(t.Context(), 200*time.Millisecond)
		}
		defer cancel()
		out, err := Env{}.run(ctx, self, "a", `{"aud":"x y"}`)
		if over := ctx.Err() != nil; over != (as == "hang") {
			t.Errorf("%s: ended by its time: %v", as, over)
		}
		return out, err
	}
	if out, err := run(t, "args"); err != nil || string(out) != `["a" "{\"aud\":\"x y\"}"]` {
		t.Errorf("args: %s, %v", out, err)
	}
	out, err := run(t, "fail")
	if x, ok := errors.AsType[*exec.ExitError](err); !ok || x.ExitCode() != 3 || len(out) != 0 {
		t.Errorf("fail: %s, %v", out, err)
	}
	noSecret(t, err)
	if out, err := run(t, "endless"); err == nil || len(out) != 0 {
		t.Errorf("endless: %d bytes, %v", len(out), err)
	}
	_, err = run(t, "hang")
	if x, ok := errors.AsType[*exec.ExitError](err); !ok || x.Exited() {
		t.Errorf("hang: not killed: %v", err)
	}
	if _, err := (Env{}).run(t.Context(), filepath.Join(t.TempDir(), "circleci")); err == nil {
		t.Error("a program that does not exist ran")
	}
}

func TestTheExitStatusIsSaid(t *testing.T) {
	t.Setenv("CFA_TEST_PROGRAM", "fail")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	e := Env{Wait: new(waits).wait}
	e.Run = func(ctx context.Context, _ string, args ...string) ([]byte, error) {
		return Env{}.run(ctx, self, args...)
	}
	_, err = circleCI.Token(t.Context(), e, aud)
	if err == nil || !strings.Contains(err.Error(), "status 3") {
		t.Errorf("%v", err)
	}
	noSecret(t, err)
}

func TestHazardsAreSeenInCircleCIsClaims(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		over map[string]any
		want string
	}{
		// Every token is of some origin: the rule has to say which.
		{"a push", nil, "any-origin"},
		{"rerun with SSH", map[string]any{"oidc.circleci.com/ssh-rerun": true}, "ssh-rerun any-origin"},
		{"the word false", map[string]any{"oidc.circleci.com/ssh-rerun": "false"}, "ssh-rerun any-origin"},
		{"no word on SSH", map[string]any{"oidc.circleci.com/ssh-rerun": nil}, "ssh-rerun any-origin"},
		{"a custom webhook", map[string]any{"oidc.circleci.com/vcs-origin": nil, "oidc.circleci.com/vcs-ref": nil}, "no-vcs"},
		{"empty origin", map[string]any{"oidc.circleci.com/vcs-origin": ""}, "no-vcs"},
		{"no ref", map[string]any{"oidc.circleci.com/vcs-ref": nil}, "no-vcs any-origin"},
	} {
		c := job(t, circleJob, tt.over)
		var got []string
		for _, h := range circleCI.Hazards {
			if h.In(c) {
				got = append(got, h.Word)
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %v, want %q", tt.name, got, tt.want)
		}
	}
}

func TestIssuersFollowFromOrganizationIDsOnly(t *testing.T) {
	t.Parallel()
	const id = "c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e"
	got := circleCI.Issuers(map[string][]string{
		"oidc.circleci.com/org-id": {
			id, "", "*", "../x", id + "/../y", strings.ToUpper(id), id + "\n", "@evil.example", strings.Replace(id, "c", "ｃ", 1),
		},
		"oidc.circleci.com/project-id": {"3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c"},
	})
	if want := []string{"https://oidc.circleci.com/org/" + id}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if got := circleCI.Issuers(nil); len(got) != 0 {
		t.Errorf("of no rule: %q", got)
	}
}

func TestAHumanIsShownWhatCircleCIsClaimsSay(t *testing.T) {
	t.Parallel()
	const run = "2b3c4d5e-6f7a-4b8c-9d0e-1f2a3b4c5d6e"
	want := Facts{
		Repository: "github.com/octo-org/octo-repo", Ref: "refs/heads/main",
		RunURL: "https://app.circleci.com/pipelines/workflows/" + run,
		RunID:  run, Job: "1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9", Group: run,
	}
	if got := circleCI.Facts(job(t, circleJob, nil)); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := circleCI.Facts(Claims{}); got != (Facts{}) {
		t.Errorf("of nothing: %+v", got)
	}
	for _, over := range []map[string]any{
		{"iss": "https://oidc.circleci.com.evil.example"},
		{"iss": "http://127.0.0.1:4711"},
		{"oidc.circleci.com/workflow-id": "../" + run},
	} {
		if got := circleCI.Facts(job(t, circleJob, over)).RunURL; got != "" {
			t.Errorf("%v: run link %q", over, got)
		}
	}
}

func TestCircleCICannotMask(t *testing.T) {
	t.Parallel()
	if line, ok := circleCI.Mask("123456"); ok || line != "" {
		t.Errorf("Mask = %q, %v", line, ok)
	}
}
