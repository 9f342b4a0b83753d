// This file is GitHub Actions: github.com, its enterprise issuers, and GitHub
// Enterprise Server, whose tokens differ by the issuer only.
//
// Sources: docs.github.com, "OpenID Connect reference"; actions/runner for the
// escaping of workflow commands.

package ci

import (
	"context"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

var github = &Provider{
	Name:   "github",
	Title:  "GitHub Actions",
	Issuer: "https://token.actions.githubusercontent.com",
	Bound:  true,
	Algs:   []string{"RS256"},
	looks:  "GITHUB_ACTIONS=true",
	Detect: func(env Env) bool { return env.get("GITHUB_ACTIONS") == "true" },
	Token:  githubToken,
	Claims: []Claim{
		{Name: "iss"},
		{Name: "sub"},
		{Name: "aud"},
		{Name: "jti"},
		{Name: "repository"},
		{Name: "repository_id"},
		{Name: "repository_owner"},
		{Name: "repository_owner_id"},
		{Name: "ref"}, // "" on deployment events
		{Name: "sha"},
		{Name: "workflow"},
		{Name: "workflow_ref"},
		{Name: "job_workflow_ref"},
		{Name: "event_name"},
		{Name: "actor"},
		{Name: "run_id"},
		{Name: "run_attempt"},
		{Name: "runner_environment"},

		{Name: "environment", Optional: true},  // only in jobs that name one
		{Name: "check_run_id", Optional: true}, // not on every enterprise server
		// Not needed here, but a rule may name them.
		{Name: "actor_id", Optional: true},
		{Name: "base_ref", Optional: true},
		{Name: "enterprise", Optional: true},
		{Name: "enterprise_id", Optional: true},
		{Name: "environment_node_id", Optional: true},
		{Name: "head_ref", Optional: true},
		{Name: "job_workflow_sha", Optional: true},
		{Name: "ref_protected", Optional: true}, // "true" or "false", strings
		{Name: "ref_type", Optional: true},
		{Name: "repository_visibility", Optional: true},
		{Name: "run_number", Optional: true},
		{Name: "workflow_sha", Optional: true},
	},
	Proof:   []string{"repository_id", "repository_owner_id", "workflow_ref", "sha", "run_id", "run_attempt", "check_run_id"},
	IDs:     []string{"repository_id", "repository_owner_id"},
	IDForm:  regexp.MustCompile(`^[1-9][0-9]{0,19}$`),
	IDLooks: "a number, such as 612345678",
	Owner:   "repository_owner_id",
	Fold:    []string{"repository", "repository_owner", "environment"},
	Hazards: githubHazards,
	Facts:   githubFacts,
	Mask:    addMask,
	Outputs: true,
	serves:  func(issuer string) bool { return githubServer(issuer) != "" },
}

var githubHazards = []Hazard{
	{
		Word: "pull_request_target",
		Why:  "a pull_request_target run has the repository's rights while it handles a change that anybody may propose",
		In:   event("pull_request_target"),
	},
	{
		Word: "workflow_run",
		Why:  "a workflow_run run has the repository's rights and is set off by another workflow, which may be a stranger's pull request",
		In:   event("workflow_run"),
	},
	{
		Word: "pull_request",
		Why:  "the run is for a pull request, whose code nobody has merged yet",
		In: func(c Claims) bool {
			ref, ok := c.String("ref")
			return !ok || strings.HasPrefix(ref, "refs/pull/") ||
				event("pull_request", "pull_request_review", "pull_request_review_comment")(c)
		},
	},
	{
		Word: "outsider-event",
		Why:  "the run was set off by an event that anybody with an account can cause (a comment, an issue, a discussion, a fork, a star, a wiki page)",
		In:   event("issue_comment", "issues", "discussion", "discussion_comment", "fork", "watch", "gollum"),
	},
	{
		Word: "self-hosted",
		Why:  "the job runs on a self-hosted runner, which earlier jobs and other people may have changed",
		In: func(c Claims) bool {
			runner, ok := c.String("runner_environment")
			return !ok || runner != "github-hosted"
		},
	},
	{
		Word:  "reusable-workflow",
		Why:   "the job's steps come from a reusable workflow, not from the workflow that the run is named after",
		In:    githubReusable,
		Lifts: "job_workflow_ref",
	},
	{
		Word: "foreign-workflow",
		Why:  "the run's workflow file comes from another repository (a required workflow of the organization)",
		In: func(c Claims) bool {
			owner, _, _ := workflowRef(c, "workflow_ref")
			repo, ok := c.String("repository")
			return !ok || !strings.EqualFold(owner, repo)
		},
		Lifts: "workflow_ref",
	},
}

func event(names ...string) func(Claims) bool {
	return func(c Claims) bool {
		name, ok := c.String("event_name")
		return !ok || slices.Contains(names, name)
	}
}

// workflowRef takes a workflow_ref or job_workflow_ref apart:
// OWNER/NAME, .github/workflows/FILE, and the ref or commit after the @. Empty
// where it is not of that form. A workflow file cannot lie in a folder below
// .github/workflows, so the first "@refs/" ends the path even where file or
// branch have an @ of their own.
func workflowRef(c Claims, name string) (repo, file, ref string) {
	parts := strings.SplitN(c.str(name), "/", 3)
	if len(parts) != 3 {
		return "", "", ""
	}
	at := strings.Index(parts[2], "@refs/")
	if at < 0 {
		at = strings.LastIndex(parts[2], "@")
	}
	if at < 0 {
		return "", "", ""
	}
	return parts[0] + "/" + parts[1], parts[2][:at], parts[2][at+1:]
}

// githubReusable says whether the job's steps come from another file, or from
// another state of the file, than the run's workflow. For a plain job both
// claims name the same file, the job's at the run's ref or at its commit.
func githubReusable(c Claims) bool {
	runRepo, runFile, runRef := workflowRef(c, "workflow_ref")
	jobRepo, jobFile, jobRef := workflowRef(c, "job_workflow_ref")
	if runRef == "" || jobRef == "" || runRepo != jobRepo || runFile != jobFile {
		return true
	}
	return jobRef != runRef && jobRef != c.str("sha") && jobRef != c.str("workflow_sha")
}

var (
	githubRepo   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*/[A-Za-z0-9_.-]+$`)
	githubNumber = regexp.MustCompile(`^[0-9]{1,20}$`)
)

func githubFacts(c Claims) Facts {
	f := Facts{
		Repository:  c.str("repository"),
		Workflow:    c.str("workflow"),
		Ref:         c.str("ref"),
		SHA:         c.str("sha"),
		Environment: c.str("environment"),
		Event:       c.str("event_name"),
		Actor:       c.str("actor"),
		RunID:       c.str("run_id"),
		RunAttempt:  c.str("run_attempt"),
		Job:         c.str("check_run_id"),
		Runner:      c.str("runner_environment"),
	}
	repo, file, _ := workflowRef(c, "workflow_ref")
	f.WorkflowFile = file
	if file != "" && !strings.EqualFold(repo, f.Repository) {
		// A bare path would be read as a file of the repository beside it.
		f.WorkflowFile = repo + "/" + file
	}
	if id := c.str("repository_id"); id != "" && f.RunID != "" && f.RunAttempt != "" {
		f.Group = id + "/" + f.RunID + "/" + f.RunAttempt
	}
	if server := githubServer(c.str("iss")); server != "" && githubRepo.MatchString(f.Repository) &&
		githubNumber.MatchString(f.RunID) && githubNumber.MatchString(f.RunAttempt) {
		f.RunURL = server + "/" + f.Repository + "/actions/runs/" + f.RunID + "/attempts/" + f.RunAttempt
	}
	return f
}

// githubServer gives the web address that belongs to an issuer, or "":
// github.com's issuer and its form for an enterprise (…/SLUG), data residency
// (token.actions.NAME.ghe.com), and an enterprise server
// (HOST/_services/token).
func githubServer(issuer string) string {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return ""
	}
	if u.Host == "token.actions.githubusercontent.com" {
		return "https://github.com"
	}
	if rest, ok := strings.CutPrefix(u.Host, "token.actions."); ok {
		if name, ok := strings.CutSuffix(rest, ".ghe.com"); ok && name != "" && !strings.Contains(name, ".") && plainAddress.MatchString("https://"+rest) {
			return "https://" + rest
		}
	}
	if server := "https://" + u.Host; u.Path == "/_services/token" && plainAddress.MatchString(server) {
		return server
	}
	return ""
}

// githubToken asks the runner's token service.
func githubToken(ctx context.Context, env Env, audience string) (string, error) {
	return actionsToken(ctx, env, audience, "GitHub", "add `permissions: id-token: write` to the job (a pull request from a fork never gets an ID token)")
}
