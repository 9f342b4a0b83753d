package trust

// This file shows which jobs rules let through, which not, and why.

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/devissuer"
)

// rules reads a project's rules.
func rules(t testing.TB, source string) []Rule {
	t.Helper()
	var out []Rule
	if err := yaml.Unmarshal([]byte(source), &out); err != nil {
		t.Fatalf("%v in:\n%s", err, source)
	}
	return out
}

func table() []Issuer {
	return append(Known(), Issuer{Provider: static, URL: "https://static.example"})
}

func compile(t testing.TB, source string) *Policy {
	t.Helper()
	p, err := Compile(map[string][]Rule{"octo": rules(t, source)}, table())
	if err != nil {
		t.Fatalf("%v in:\n%s", err, source)
	}
	return p
}

// ruleSource is a rule that fits the job, with more lines.
func ruleSource(job *Job, more []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "- provider: %s\n", job.Issuer.Provider.Name)
	for _, id := range job.Issuer.Provider.IDs {
		fmt.Fprintf(&b, "  %s: %q\n", id, job.Claims.Text(id))
	}
	for _, line := range more {
		b.WriteString("  " + line + "\n")
	}
	return b.String()
}

// unverified is a job as Verify would give it for these claims.
func unverified(issuer Issuer, claims map[string]any) *Job {
	issuer = issuer.named()
	claims["iss"] = issuer.URL
	return &Job{Issuer: issuer, Claims: ci.Claims(claims), Bound: issuer.Provider.Bound}
}

func githubJob(over map[string]any) *Job {
	return unverified(Known()[0], devissuer.GitHubClaims("octo-org/octo-repo", over))
}

func circleJob(over map[string]any) *Job {
	return unverified(Known()[1], devissuer.CircleCIClaims(over))
}

func TestARuleLetsThroughWhatItNamesAndNothingElse(t *testing.T) {
	t.Parallel()
	const reusable = "octo-org/shared/.github/workflows/publish.yml@refs/heads/main"
	for _, test := range []struct {
		name string
		rule []string
		job  *Job
		why  string // "" fits
	}{
		{"ids alone", nil, githubJob(nil), ""},
		{"account resurrection: same names, another owner", nil, githubJob(map[string]any{"repository_owner_id": "666"}), `repository_owner_id is "666", the rule wants "`},
		{"repository deleted and made again", nil, githubJob(map[string]any{"repository_id": "666"}), `repository_id is "666"`},
		{"ref", []string{"ref: refs/heads/main"}, githubJob(nil), ""},
		{"another ref", []string{"ref: refs/heads/main"}, githubJob(map[string]any{"ref": "refs/heads/x"}), `ref is "refs/heads/x", the rule wants "refs/heads/main"`},
		{"ref as prefix", []string{"ref: refs/heads/main"}, githubJob(map[string]any{"ref": "refs/heads/main-attacker"}), `ref is "refs/heads/main-attacker"`},
		{"one of a list", []string{"event_name: [push, workflow_dispatch]"}, githubJob(map[string]any{"event_name": "workflow_dispatch"}), ""},
		{"none of a list", []string{"event_name: [push, workflow_dispatch]"}, githubJob(map[string]any{"event_name": "schedule"}), `event_name is "schedule", the rule wants "push" or "workflow_dispatch"`},
		{"alternation", []string{"ref: {pattern: 'refs/heads/main|refs/heads/release'}"}, githubJob(map[string]any{"ref": "refs/heads/release"}), ""},
		{"unanchored alternation, end", []string{"ref: {pattern: 'refs/heads/main|refs/heads/release'}"}, githubJob(map[string]any{"ref": "refs/heads/main-attacker"}), "what matches"},
		{"unanchored alternation, start", []string{"ref: {pattern: 'refs/heads/main|release'}"}, githubJob(map[string]any{"ref": "refs/heads/attacker/release"}), "what matches"},
		{"line break after a match", []string{"ref: {pattern: 'refs/heads/main'}"}, githubJob(map[string]any{"ref": "refs/heads/main\n"}), "<U+000A>"},
		{"multi-line mode does not unanchor", []string{"ref: {pattern: '(?m)^refs/heads/main$'}"}, githubJob(map[string]any{"ref": "refs/heads/main\nevil"}), "what matches"},
		{"version tags", []string{`ref: {pattern: 'refs/tags/v[0-9]+\.[0-9]+\.[0-9]+'}`}, githubJob(map[string]any{"ref": "refs/tags/v1.20.3"}), ""},
		{"no version tag", []string{`ref: {pattern: 'refs/tags/v[0-9]+\.[0-9]+\.[0-9]+'}`}, githubJob(map[string]any{"ref": "refs/tags/v1.20.3-evil"}), "what matches"},
		{"environment case: the CI compares without", []string{"environment: npm"}, githubJob(map[string]any{"environment": "NPM"}), ""},
		{"environment pattern, other case", []string{"environment: {pattern: 'npm-.*'}"}, githubJob(map[string]any{"environment": "NPM-Prod"}), ""},
		{"repository case", []string{"repository: Octo-Org/octo-repo"}, githubJob(nil), ""},
		{"ref case counts", []string{"ref: refs/heads/Main"}, githubJob(nil), `ref is "refs/heads/main"`},
		{"Kelvin is no k", []string{"environment: key"}, githubJob(map[string]any{"environment": "\u212aey"}), "<U+212A>ey"},
		{"nor in the rule", []string{"environment: \u212aey"}, githubJob(map[string]any{"environment": "key"}), `environment is "key"`},
		{"Kelvin is no k in a pattern", []string{"environment: {pattern: 'key|x'}"}, githubJob(map[string]any{"environment": "\u212aey"}), "<U+212A>ey"},
		{"no environment", []string{"environment: npm"}, githubJob(nil), `the ID token has no environment, the rule wants "npm"`},
		{"an actor is not enough", []string{"actor: octocat"}, githubJob(map[string]any{"repository_id": "666"}), `repository_id is "666"`},
		{"an actor can narrow down", []string{"actor: octocat"}, githubJob(map[string]any{"actor": "mallory"}), `actor is "mallory"`},

		{"self-hosted runner", nil, githubJob(map[string]any{"runner_environment": "self-hosted"}), "add `allow: [self-hosted]`"},
		{"self-hosted runner, meant", []string{"allow: [self-hosted]"}, githubJob(map[string]any{"runner_environment": "self-hosted"}), ""},
		{"runner that does not say", nil, githubJob(map[string]any{"runner_environment": nil}), "add `allow: [self-hosted]`"},
		{"pull_request_target", nil, githubJob(map[string]any{"event_name": "pull_request_target"}), "add `allow: [pull_request_target]`"},
		{"pull_request_target that the rule names as event", []string{"event_name: pull_request_target"}, githubJob(map[string]any{"event_name": "pull_request_target"}), "add `allow: [pull_request_target]`"},
		{"pull_request_target, meant", []string{"allow: [pull_request_target]"}, githubJob(map[string]any{"event_name": "pull_request_target"}), ""},
		{"workflow_run", nil, githubJob(map[string]any{"event_name": "workflow_run"}), "add `allow: [workflow_run]`"},
		{"pull_request", nil, githubJob(map[string]any{"event_name": "pull_request"}), "add `allow: [pull_request]`"},
		{"a stranger's comment", nil, githubJob(map[string]any{"event_name": "issue_comment"}), "add `allow: [outsider-event]`"},
		{"reusable workflow", nil, githubJob(map[string]any{"job_workflow_ref": reusable}), "add `allow: [reusable-workflow]`"},
		{"reusable workflow, named", []string{"job_workflow_ref: " + reusable}, githubJob(map[string]any{"job_workflow_ref": reusable}), ""},
		{"reusable workflow, another than named", []string{"job_workflow_ref: " + reusable}, githubJob(nil), "job_workflow_ref is"},
		{"one allowance is not another", []string{"allow: [self-hosted]"}, githubJob(map[string]any{"event_name": "workflow_run", "runner_environment": "self-hosted"}), "add `allow: [workflow_run]`"},

		{"CircleCI", []string{"vcs-origin: github.com/octo-org/octo-repo"}, circleJob(nil), ""},
		{"fork origin", []string{"vcs-origin: github.com/octo-org/octo-repo"}, circleJob(map[string]any{"vcs-origin": "github.com/mallory/octo-repo"}), `vcs-origin is "github.com/mallory/octo-repo"`},
		{"any origin", nil, circleJob(nil), "add `allow: [any-origin]`"},
		{"another organization at the shared issuer", []string{"vcs-origin: github.com/octo-org/octo-repo"}, circleJob(map[string]any{"org-id": "666"}), `oidc.circleci.com/org-id is "666"`},
		{"ssh rerun", []string{"vcs-origin: github.com/octo-org/octo-repo"}, circleJob(map[string]any{"ssh-rerun": true}), "add `allow: [ssh-rerun]`"},
		{"ssh rerun, as a text", []string{"vcs-origin: github.com/octo-org/octo-repo"}, circleJob(map[string]any{"ssh-rerun": "false"}), "add `allow: [ssh-rerun]`"},
		{"ssh-rerun named", []string{"vcs-origin: github.com/octo-org/octo-repo", "ssh-rerun: false"}, circleJob(nil), ""},
		{"ssh-rerun named and not so", []string{"vcs-origin: github.com/octo-org/octo-repo", "ssh-rerun: false", "allow: [ssh-rerun]"}, circleJob(map[string]any{"ssh-rerun": true}), `ssh-rerun is "true", the rule wants "false"`},
		{"one of the contexts", []string{"vcs-origin: github.com/octo-org/octo-repo", "context-ids: [b]"}, circleJob(map[string]any{"context-ids": []any{"a", "b"}}), ""},
		{"none of the contexts", []string{"vcs-origin: github.com/octo-org/octo-repo", "context-ids: ['a,b']"}, circleJob(map[string]any{"context-ids": []any{"a", "b"}}), `context-ids is "a,b"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			honest := githubJob(nil)
			if test.job.Issuer.Name == "circleci" {
				honest = circleJob(nil)
			}
			p := compile(t, ruleSource(honest, test.rule))
			rule, err := p.Match("octo", test.job)
			if test.why == "" {
				if err != nil || rule != "octo/ci[0] line 1" {
					t.Fatalf("rule %q, %v", rule, err)
				}
				return
			}
			var m *Mismatch
			if rule != "" || !errors.As(err, &m) || !strings.Contains(m.Error(), test.why) || !strings.Contains(m.Error(), "rule 1 (line 1): ") {
				t.Fatalf("rule %q, %v\nwant a mismatch with %q", rule, err, test.why)
			}
		})
	}
}

func TestOneServersIDsNeverPassForAnothers(t *testing.T) {
	t.Parallel()
	ghes := Issuer{Name: "ghes", Provider: ci.Find("github"), URL: "https://ghes.example/_services/token"}
	issuers := append(Known(), ghes)
	source := ruleSource(githubJob(nil), nil)
	p, err := Compile(map[string][]Rule{
		"public":  rules(t, source),
		"private": rules(t, strings.Replace(source, "provider: github", "provider: ghes", 1)),
	}, issuers)
	if err != nil {
		t.Fatal(err)
	}
	there := unverified(ghes, devissuer.GitHubClaims("octo-org/octo-repo", nil))
	if _, err := p.Match("private", there); err != nil {
		t.Error(err)
	}
	for project, job := range map[string]*Job{"public": there, "private": githubJob(nil)} {
		_, err := p.Match(project, job)
		var m *Mismatch
		if !errors.As(err, &m) || m.Owner || !strings.Contains(m.Error(), "the rule is for") {
			t.Errorf("%s: %v", project, err)
		}
	}
	ghes.Name = "" // as its CI is called
	if _, err := Compile(nil, append(Known(), ghes)); err == nil || !strings.Contains(err.Error(), `both named "github"`) {
		t.Errorf("two servers under one name: %v", err)
	}
}

func TestAnUnboundCINeedsTheRulesWord(t *testing.T) {
	t.Parallel()
	job := unverified(table()[len(table())-1], map[string]any{"project_id": "7", "owner_id": "8", "run_id": "9"})
	_, err := Compile(map[string][]Rule{"octo": rules(t, ruleSource(job, nil))}, table())
	if err == nil || !strings.Contains(err.Error(), "add `allow: [unbound]`") {
		t.Errorf("without: %v", err)
	}
	if _, err := compile(t, ruleSource(job, []string{"allow: [unbound]"})).Match("octo", job); err != nil {
		t.Errorf("with: %v", err)
	}
}

func TestTheFirstRuleThatFitsIsNamedForTheRecord(t *testing.T) {
	t.Parallel()
	job := githubJob(nil)
	source := ruleSource(job, []string{"ref: refs/heads/other"}) + ruleSource(job, []string{"ref: refs/heads/main"}) + ruleSource(job, nil)
	if rule, err := compile(t, source).Match("octo", job); err != nil || rule != "octo/ci[1] line 5" {
		t.Errorf("rule %q, %v", rule, err)
	}
	// Rules that no file holds have no line.
	p, err := Compile(map[string][]Rule{"octo": {{Provider: "github", Claims: map[string][]Value{
		"repository_id":       {{Text: job.Claims.Text("repository_id")}},
		"repository_owner_id": {{Text: job.Claims.Text("repository_owner_id")}},
	}}}}, Known())
	if err != nil {
		t.Fatal(err)
	}
	if rule, err := p.Match("octo", job); err != nil || rule != "octo/ci[0]" {
		t.Errorf("rule %q, %v", rule, err)
	}
}

func TestAStrangerLearnsNeitherProjectsNorRules(t *testing.T) {
	t.Parallel()
	job := githubJob(nil)
	second := strings.Replace(ruleSource(githubJob(map[string]any{"repository_owner_id": "4242"}), nil), "\n", "\n  ref: refs/heads/secret-plan\n", 1)
	p := compile(t, ruleSource(job, []string{"ref: refs/heads/other"})+second)

	mismatch := func(project string, job *Job) *Mismatch {
		_, err := p.Match(project, job)
		var m *Mismatch
		if !errors.As(err, &m) {
			t.Fatalf("%v", err)
		}
		return m
	}
	stranger := githubJob(map[string]any{"repository_owner_id": "666"})
	unknown, nomatch := mismatch("no-such-project", stranger), mismatch("octo", stranger)
	if unknown.Known || !nomatch.Known || nomatch.Owner {
		t.Errorf("%+v, %+v", unknown, nomatch)
	}
	if unknown.Mend() != "" || nomatch.Mend() != "" || mismatch("no-such-project", job).Mend() != "" {
		t.Errorf("a stranger is told what would fit: %q", nomatch.Mend())
	}
	if unknown.ToJob() != nomatch.ToJob() || strings.Contains(nomatch.ToJob(), "rule 1") || strings.Contains(nomatch.ToJob(), "octo") {
		t.Errorf("a stranger can tell %q from %q", unknown.ToJob(), nomatch.ToJob())
	}
	// An owner's project that there is not reads the same to that owner.
	if mismatch("no-such-project", job).ToJob() != unknown.ToJob() {
		t.Error("an unknown project has two texts")
	}
	own := mismatch("octo", job)
	if !own.Owner || !strings.Contains(own.ToJob(), `rule 1 (line 1): ref is "refs/heads/main", the rule wants "refs/heads/other"`) {
		t.Errorf("the project's own job is told %q", own.ToJob())
	}
	if strings.Contains(own.ToJob(), "secret-plan") {
		t.Errorf("one owner's job is told of another's rule: %q", own.ToJob())
	}
	if !strings.Contains(own.Error(), "secret-plan") {
		t.Errorf("the relay's log does not say it all: %q", own.Error())
	}
	// The same number at another CI is not the same owner.
	if m := mismatch("octo", unverified(Issuer{Name: "ghes", Provider: ci.Find("github"), URL: "https://ghes.example"}, devissuer.GitHubClaims("octo-org/octo-repo", nil))); m.Owner {
		t.Error("another server's owner passes for the project's")
	}
}

func TestAMismatchIsBoundedAndClean(t *testing.T) {
	t.Parallel()
	var source strings.Builder
	for range maxRules {
		source.WriteString(ruleSource(githubJob(map[string]any{"repository_id": "99"}), []string{"repository: " + strings.Repeat("x", 900), "ref: {pattern: '" + strings.Repeat("[x-z]", 100) + "'}", "environment: [" + strings.Repeat("e,", 49) + "f]"}))
	}
	_, err := compile(t, source.String()).Match("octo", githubJob(map[string]any{"ref": "\x1b]0;owned\a" + strings.Repeat("y", 5000)}))
	text := err.Error()
	if len(text) > 10_000 || !strings.Contains(text, "and 92 more that fit even less") || !strings.Contains(text, "or 45 more") {
		t.Errorf("%d bytes: %.300s", len(text), text)
	}
	if strings.ContainsAny(text, "\x1b\a") {
		t.Error("control characters reach the reader")
	}
}

func TestCircleCIsIssuersFollowFromTheRules(t *testing.T) {
	t.Parallel()
	source := ruleSource(circleJob(nil), []string{"vcs-origin: github.com/octo-org/octo-repo"})
	p, err := Compile(map[string][]Rule{"a": rules(t, source), "b": rules(t, source)}, Known())
	if err != nil {
		t.Fatal(err)
	}
	got := p.Issuers()
	want := "https://oidc.circleci.com/org/" + circleJob(nil).Claims.Text("oidc.circleci.com/org-id")
	if len(got) != 1 || got[0].URL != want || got[0].Name != "circleci" {
		t.Fatalf("%+v, want only %s", got, want)
	}
	if _, err := NewKeys(append(Known(), got...), KeysOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := p.Match("a", unverified(got[0], devissuer.CircleCIClaims(nil))); err != nil {
		t.Errorf("a token of the organization's own issuer: %v", err)
	}
	// A server of one's own has no organizations at circleci.com.
	own := Issuer{Provider: ci.Find("circleci"), URL: "https://circleci.example"}
	if p, err = Compile(map[string][]Rule{"a": rules(t, source)}, []Issuer{own}); err != nil || len(p.Issuers()) != 0 {
		t.Errorf("%v, %v", p.Issuers(), err)
	}
	// One that is configured already is not named again.
	org := Issuer{Name: "org", Provider: ci.Find("circleci"), URL: want}
	if p, err = Compile(map[string][]Rule{"a": rules(t, source)}, append(Known(), org)); err != nil || len(p.Issuers()) != 0 {
		t.Errorf("%v, %v", p.Issuers(), err)
	}
}

func TestAPolicyDoesNotChangeWithItsSource(t *testing.T) {
	t.Parallel()
	job := githubJob(nil)
	source := rules(t, ruleSource(job, []string{"allow: [self-hosted]"}))
	p, err := Compile(map[string][]Rule{"octo": source}, Known())
	if err != nil {
		t.Fatal(err)
	}
	source[0].Claims["repository_id"][0].Text = "666"
	source[0].Claims["ref"] = []Value{{Text: "x"}}
	source[0].Allow[0] = "workflow_run"
	if _, err := p.Match("octo", githubJob(map[string]any{"runner_environment": "self-hosted"})); err != nil {
		t.Error(err)
	}
}

func TestTheProjectsOwnJobIsToldWhatWouldFit(t *testing.T) {
	t.Parallel()
	const change = "have the relay's administrator change "
	with := func(s string) []string {
		return []string{"run the job with " + s + ", as rule 1 (line 1) wants it", change + "that rule, under projects.octo.ci"}
	}
	other := []string{change + "a rule under projects.octo.ci in the relay's file, or add one"}
	job := githubJob(nil)
	for _, tc := range []struct {
		name   string
		rule   []string // beside the ids
		claims map[string]any
		want   []string
	}{
		{"an environment", []string{"environment: npm"}, nil, with(`environment "npm"`)},
		{"two claims", []string{"environment: [npm, gem]", "ref: {pattern: 'refs/tags/v.+'}"}, nil, with(`environment "npm" or "gem" and ref what matches "refs/tags/v.+"`)},
		{"another repository", []string{"environment: npm"}, map[string]any{"repository_id": "999"}, other},
		{"a danger", []string{"environment: npm"}, map[string]any{"runner_environment": "self-hosted"}, other},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := compile(t, ruleSource(job, tc.rule)).Match("octo", githubJob(tc.claims))
			m, ok := errors.AsType[*Mismatch](err)
			if !ok {
				t.Fatal(err)
			}
			for _, want := range tc.want {
				if !strings.Contains(m.Mend(), want) {
					t.Errorf("told %q, want %q", m.Mend(), want)
				}
			}
			if len(tc.want) == 1 && strings.Contains(m.Mend(), "run the job") {
				t.Errorf("sent to do what does not help: %q", m.Mend())
			}
		})
	}
	// Of several rules, the nearest; and none of another owner's.
	two := ruleSource(job, []string{"environment: npm", "ref: refs/heads/other"}) + ruleSource(job, []string{"environment: gem"}) +
		ruleSource(githubJob(map[string]any{"repository_owner_id": "5"}), nil)
	_, err := compile(t, two).Match("octo", job)
	if m, ok := errors.AsType[*Mismatch](err); !ok || !strings.Contains(m.Mend(), `run the job with environment "gem", as rule 2`) {
		t.Errorf("%v", err)
	}
}
