package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// agent is a buildkite-agent in PATH: it gives tokens as the real one does, and
// notes what its redactor is given, in the arguments and on standard input.
const agent = `#!/bin/sh
case "$1 $2" in
"oidc request-token")
	[ "$3" = --audience ] && [ "$5" = --claim ] && [ "$6" = organization_id,pipeline_id,build_id ] || exit 2
	b64() { base64 | tr '+/' '-_' | tr -d '=\n'; }
	printf '%s.%s.c2ln\n' "$(printf '{"typ":"JWT","alg":"RS256","kid":"k"}' | b64)" "$(printf '{
		"iss":"https://agent.buildkite.com","sub":"s","aud":"%s","iat":1795000300,"nbf":1795000300,"exp":1795000600,
		"organization_slug":"octo","pipeline_slug":"rocket","build_number":1,"build_branch":"main","build_commit":"c","step_key":null,
		"job_id":"j","agent_id":"a","build_source":"webhook","runner_environment":"buildkite-hosted",
		"organization_id":"o","pipeline_id":"p","build_id":"b"}' "$4" | b64)"
	;;
"redactor add")
	[ -z "$BROKEN" ] || { cat; exit 1; }
	shift 2
	printf '%s|' "$*" >> "$SEEN"
	cat >> "$SEEN"
	echo "added: $(tail -c 6 "$SEEN")" # a newer agent could say it
	;;
*) exit 2 ;;
esac
`

func TestBuildkiteHidesTheCodeByItsOwnCommand(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "buildkite-agent"), []byte(agent), 0o700); err != nil {
		t.Fatal(err)
	}
	seen := filepath.Join(dir, "seen")
	path := os.Getenv("PATH")
	t.Setenv("PATH", dir+string(os.PathListSeparator)+path)
	t.Setenv("SEEN", seen)
	job := []string{"GITHUB_ACTIONS=", "BUILDKITE=true"}

	r := runs(t, "", job, "--project", "answers")
	if r.code != 0 || r.out != testCode+"\n" || r.file != "" {
		t.Fatalf("exit code %d, stdout %q, outputs %q\n%s", r.code, r.out, r.file, r.err)
	}
	// Nothing but standard input: no argument, and no word of it in the log.
	if got, err := os.ReadFile(seen); err != nil || string(got) != "|"+testCode {
		t.Errorf("the redactor was given %q, %v", got, err)
	}
	if strings.Contains(r.err, testCode) || strings.Contains(r.err, "cannot hide") {
		t.Errorf("the log: %s", r.err)
	}

	// What cannot be hidden is not printed.
	t.Setenv("BROKEN", "1")
	r = runs(t, "", job, "--project", "answers")
	if r.code != exitCancelled || r.out != "" || strings.Contains(r.err, testCode) || !strings.Contains(r.err, "`buildkite-agent redactor add` ended with status 1") {
		t.Errorf("exit code %d, stdout %q\n%s", r.code, r.out, r.err)
	}

	// Nobody is asked where it could not be.
	t.Setenv("PATH", path)
	r = runs(t, "", job, "--project", "answers")
	if r.code != exitUsage || !strings.Contains(r.err, "`buildkite-agent` is not on the PATH") || strings.Contains(r.err, "asking") {
		t.Errorf("exit code %d\n%s", r.code, r.err)
	}
}

func TestAStepOfForgejoHandsTheCodeOnAsOneOfGitHubDoes(t *testing.T) {
	t.Parallel()
	r := runs(t, "", []string{"FORGEJO_ACTIONS=true", "GITEA_ACTIONS=true"}, "--project", "answers")
	if r.code != 0 || !strings.Contains(r.err, "as a job on Forgejo Actions") {
		t.Fatalf("exit code %d\n%s", r.code, r.err)
	}
	if got := outputs(t, r.file)["code"]; got != testCode {
		t.Errorf("outputs %q", r.file)
	}
	if !strings.Contains(r.out, "::add-mask::"+testCode+"\n") {
		t.Errorf("stdout %q", r.out)
	}
	// Elsewhere there is nothing of the kind.
	r = runs(t, "", []string{"GITHUB_ACTIONS=", "GITLAB_CI=true"}, "--project", "answers", "--output", "github")
	if r.code != exitUsage || !strings.Contains(r.err, "this is a job on GitLab CI/CD") {
		t.Errorf("exit code %d\n%s", r.code, r.err)
	}
}
