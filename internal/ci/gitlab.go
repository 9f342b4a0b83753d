// This file is GitLab CI/CD: gitlab.com and instances of one's own, whose tokens
// differ by the issuer only.
//
// A job's tokens are made before it runs, with the audiences that stand in the
// job's `id_tokens`, so that none can name the job's key. They last as long as
// the job may. Two entries of `id_tokens` are two tokens: a job that asks twice
// needs two, because the relay takes a token with one key only.
//
// Sources: docs.gitlab.com, "OpenID Connect (OIDC) Authentication Using ID
// Tokens"; gitlab-org/gitlab, issue 563038 (which project a token is about).

package ci

import (
	"context"
	"regexp"
	"slices"
	"strings"
)

var gitlab = &Provider{
	Name:   "gitlab",
	Title:  "GitLab CI/CD",
	Issuer: "https://gitlab.com",
	Algs:   []string{"RS256"},
	looks:  "GITLAB_CI=true",
	Detect: func(env Env) bool { return env.get("GITLAB_CI") == "true" },
	Token: func(_ context.Context, env Env, audience string) (string, error) {
		return staticToken(env, audience, "give the job `id_tokens: {"+givenToken+": {aud: ...}}` in .gitlab-ci.yml")
	},
	Claims: []Claim{
		{Name: "iss"},
		{Name: "sub"},
		{Name: "jti"},
		{Name: "namespace_id"},
		{Name: "namespace_path"},
		{Name: "project_id"},
		{Name: "project_path"},
		{Name: "pipeline_id"},
		{Name: "pipeline_source"},
		{Name: "job_id"},
		{Name: "ref"},
		{Name: "ref_type"},
		{Name: "ref_path"},
		{Name: "ref_protected"}, // "true" or "false", strings
		{Name: "sha"},
		{Name: "user_login"},

		// Where the job runs, which is not the project above when a merge
		// request comes from a fork; not in older releases.
		{Name: "job_project_id", Optional: true},
		{Name: "job_project_path", Optional: true},
		{Name: "job_namespace_id", Optional: true},
		{Name: "job_namespace_path", Optional: true},
		{Name: "environment", Optional: true}, // only in jobs that name one
		{Name: "environment_protected", Optional: true},
		{Name: "environment_action", Optional: true},
		{Name: "deployment_tier", Optional: true},
		{Name: "runner_environment", Optional: true},
		{Name: "runner_id", Kind: Number, Optional: true},
		{Name: "ci_config_ref_uri", Kind: Any, Optional: true}, // null where the configuration is not a file of the project
		{Name: "ci_config_sha", Kind: Any, Optional: true},
		{Name: "project_visibility", Optional: true},
		{Name: "user_id", Optional: true},
		{Name: "user_email", Optional: true},
		{Name: "user_access_level", Kind: Any, Optional: true},
	},
	Proof: []string{"project_id", "namespace_id", "job_project_id", "ref_path", "sha", "pipeline_id", "job_id"},
	IDs:   []string{"project_id", "namespace_id"},
	Owner: "namespace_id",
	// GitLab finds paths whatever their case. Environments it does not.
	Fold: []string{"project_path", "namespace_path", "job_project_path", "job_namespace_path"},
	Hazards: []Hazard{
		{
			Word: "merge-request",
			Why:  "the pipeline is for a merge request, whose code nobody has merged yet",
			In: func(c Claims) bool {
				source, ok := c.String("pipeline_source")
				return !ok || slices.Contains([]string{"merge_request_event", "external_pull_request_event"}, source) ||
					strings.HasPrefix(c.str("ref_path"), "refs/merge-requests/")
			},
		},
		{
			Word: "foreign-project",
			Why:  "the token does not say that the job runs in the project that it names (a merge request from a fork runs in the project it is for, and its token names the fork)",
			In: func(c Claims) bool {
				id, ok := c.String("job_project_id")
				return !ok || id != c.str("project_id")
			},
			Lifts: "job_project_id",
		},
		{
			Word:  "unprotected-ref",
			Why:   "the ref is not protected, so everybody who may push to the project can change what the job does",
			In:    func(c Claims) bool { return c.str("ref_protected") != "true" },
			Lifts: "ref_protected",
		},
		{
			Word: "foreign-config",
			Why:  "the pipeline's configuration is not a file of the project that the token names",
			In: func(c Claims) bool {
				project, file := gitlabConfig(c)
				return file == "" || !strings.EqualFold(project, c.str("project_path"))
			},
			Lifts: "ci_config_ref_uri",
		},
		{
			Word: "trigger",
			Why:  "the pipeline was set off by whoever holds a trigger token, by a chat command or by another project's pipeline",
			In: func(c Claims) bool {
				source, ok := c.String("pipeline_source")
				return !ok || slices.Contains([]string{"trigger", "chat", "pipeline"}, source)
			},
			Lifts: "pipeline_source",
		},
		{
			Word:  "self-hosted",
			Why:   "the job runs on a self-hosted runner, which earlier jobs and other people may have changed",
			In:    func(c Claims) bool { return c.str("runner_environment") != "gitlab-hosted" },
			Lifts: "runner_id",
		},
	},
	Facts: gitlabFacts,
	// Only variables of the settings are masked in the log.
	Mask:   noMask,
	serves: func(issuer string) bool { return issuer == "https://gitlab.com" },
}

// gitlabConfig takes ci_config_ref_uri apart: HOST/PROJECT//FILE@REF.
func gitlabConfig(c Claims) (project, file string) {
	_, rest, ok := strings.Cut(c.str("ci_config_ref_uri"), "/")
	project, file, found := strings.Cut(rest, "//")
	if at := strings.Index(file, "@refs/"); at >= 0 {
		file = file[:at]
	} else if at := strings.LastIndexByte(file, '@'); at >= 0 {
		file = file[:at]
	}
	if !ok || !found || project == "" || file == "" {
		return "", ""
	}
	return project, file
}

var gitlabPath = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+$`)

func gitlabFacts(c Claims) Facts {
	f := Facts{
		Repository:  c.str("project_path"),
		Ref:         c.str("ref_path"),
		SHA:         c.str("sha"),
		Environment: c.str("environment"),
		Event:       c.str("pipeline_source"),
		Actor:       c.str("user_login"),
		RunID:       c.str("pipeline_id"),
		Job:         c.str("job_id"),
		Runner:      c.str("runner_environment"),
	}
	if project, file := gitlabConfig(c); file != "" {
		f.WorkflowFile = file
		if !strings.EqualFold(project, f.Repository) {
			f.WorkflowFile = project + "/" + file
		}
	}
	in := f.Repository
	if path := c.str("job_project_path"); path != "" {
		in = path
	}
	if id := c.str("project_id"); id != "" && f.RunID != "" {
		f.Group = id + "/" + f.RunID
	}
	if iss := c.str("iss"); plainAddress.MatchString(iss) && gitlabPath.MatchString(in) && githubNumber.MatchString(f.Job) {
		f.RunURL = iss + "/" + in + "/-/jobs/" + f.Job
	}
	return f
}
