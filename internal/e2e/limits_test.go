package e2e

// What bounds how often a human is asked, by the real programs.

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// attempt makes the issuer's job one of another run attempt.
func (w *world) attempt(n string) {
	w.t.Helper()
	claims := maps.Clone(w.claims)
	claims["run_attempt"] = n
	w.issuer.AddJob("release", claims)
}

func TestADeclinedRunEndsWith80UntilAPersonRunsItAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.listen(w.humans[0])
	j := w.job("--output", "stdout")
	h.waitFor(regexp.QuoteMeta(repository))
	fmt.Fprintln(h.in, "d 1 not today")
	if code := j.wait(); code != 80 {
		t.Fatalf("cfa ended with %d", code)
	}
	again := w.job("--output", "stdout")
	if code := again.wait(); code != 80 || again.out.String() != "" {
		t.Fatalf("the same run attempt: cfa ended with %d", code)
	}
	again.waitFor(`the relay asks nobody: Ana declined what this run asked \([-0-9]+ [:0-9]+ UTC\), and said: not today`)
	again.waitFor(`what to do: ask them why`)
	w.attempt("2")
	rerun := w.job("--output", "stdout")
	h.waitFor(`#2 your turn`)
	fmt.Fprintln(h.in, "d 2 no")
	if code := rerun.wait(); code != 80 || !strings.Contains(rerun.err.String(), "declined by Ana, who says: no") {
		t.Fatalf("a person's re-run: cfa ended with %d", code)
	}
}

// The relay's limit counts whatever the job would try, and the job's own retries
// are not used up.
func TestTheProjectsLimitOfRefusedCodesEndsTheRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, with("limits: {attempts: 2}"))
	h := w.listen(w.humans[0])
	tool := filepath.Join(w.dir, "tool")
	// It takes no code, and counts.
	if err := os.WriteFile(tool, []byte("#!/bin/sh\necho run >>\"$0.runs\"\necho 'bad code' >&2\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	args := append([]string{"exec", "--project", project, "--env", "TOOL_OTP", "--refused", "bad code", "--format", "digits:6", "--retries", "9"}, w.flags...)
	j := start(t, w.issuer.GitHubEnv("release"), "cfa", append(args, "--", tool)...)
	h.waitFor(`#1 your turn`)
	fmt.Fprintln(h.in, "1\n111111")
	h.waitFor(`#1 again: .*refused`)
	h.waitFor(`#1 your turn[\s\S]*#1 your turn`)
	fmt.Fprintln(h.in, "1\n222222")
	if code := j.wait(); code != 82 {
		t.Fatalf("cfa ended with %d", code)
	}
	j.waitFor(`the relay cancelled the request: too many refused codes`)
	runs, err := os.ReadFile(tool + ".runs")
	if err != nil || strings.Count(string(runs), "run") != 3 {
		t.Errorf("%v, the tool ran %q", err, runs)
	}
}
