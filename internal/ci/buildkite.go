// This file is Buildkite. Its agent gives a job ID tokens with any audience; the
// ids are not in a token unless they are asked for.
//
// Sources: buildkite.com/docs, "buildkite-agent oidc" and "buildkite-agent
// redactor".

package ci

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

const buildkiteIssuer = "https://agent.buildkite.com"

// buildkiteClaims are those that are asked for: slugs are names, which change
// hands, and the build's number is one only in its pipeline.
const buildkiteClaims = "organization_id,pipeline_id,build_id"

var buildkite = &Provider{
	Name:   "buildkite",
	Title:  "Buildkite",
	Issuer: buildkiteIssuer, // of all organizations: that organization_id is pinned by every rule keeps them apart
	Bound:  true,
	Algs:   []string{"RS256"},
	looks:  "BUILDKITE=true",
	Detect: func(env Env) bool { return env.get("BUILDKITE") == "true" },
	Token:  buildkiteToken,
	Claims: []Claim{
		{Name: "iss"},
		{Name: "sub"},
		{Name: "aud"},
		{Name: "organization_slug"},
		{Name: "organization_id"},
		{Name: "pipeline_slug"},
		{Name: "pipeline_id"},
		{Name: "build_number", Kind: Number},
		{Name: "build_id"},
		{Name: "build_branch"},
		{Name: "build_commit"},
		{Name: "job_id"},
		{Name: "agent_id"},

		{Name: "build_tag", Optional: true},           // only in builds of a tag
		{Name: "step_key", Kind: Any, Optional: true}, // null in steps without a key
		{Name: "build_source", Optional: true},
		{Name: "runner_environment", Optional: true},
	},
	Proof: []string{"organization_id", "pipeline_id", "build_id", "job_id", "build_branch", "build_tag", "build_commit"},
	IDs:   []string{"organization_id", "pipeline_id"},
	Owner: "organization_id",
	Hazards: []Hazard{
		{
			Word: "fork",
			Why:  "the build is of a fork's branch",
			// Buildkite writes OWNER:BRANCH there, and git knows no such branch.
			In: func(c Claims) bool {
				branch, ok := c.String("build_branch")
				return !ok || strings.Contains(branch, ":")
			},
		},
		{
			Word:  "any-branch",
			Why:   "the rule does not name build_branch, and no claim says that a build is for a pull request",
			In:    func(Claims) bool { return true },
			Lifts: "build_branch",
		},
		{
			Word: "chosen-commit",
			Why:  "the build was made by hand, by the API or by another pipeline, so that its branch and commit are whatever was written there",
			In: func(c Claims) bool {
				return !slices.Contains([]string{"webhook", "schedule"}, c.str("build_source"))
			},
			Lifts: "build_source",
		},
		{
			Word: "self-hosted",
			Why:  "the job runs on a self-hosted agent, which earlier jobs and other people may have changed",
			In:   func(c Claims) bool { return c.str("runner_environment") != "buildkite-hosted" },
		},
	},
	Facts:    buildkiteFacts,
	Mask:     noMask, // no line of the log does it
	Redactor: []string{"buildkite-agent", "redactor", "add"},
	serves:   func(issuer string) bool { return issuer == buildkiteIssuer },
}

var buildkiteSlug = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)

func buildkiteFacts(c Claims) Facts {
	f := Facts{
		SHA:    c.str("build_commit"),
		Event:  c.str("build_source"),
		RunID:  c.str("build_id"),
		Job:    c.str("job_id"),
		Runner: c.str("runner_environment"),
		Group:  c.str("build_id"),
	}
	organization, pipeline := c.str("organization_slug"), c.str("pipeline_slug")
	if organization != "" && pipeline != "" {
		f.Repository = organization + "/" + pipeline
	}
	if tag := c.str("build_tag"); tag != "" {
		f.Ref = "refs/tags/" + tag
	} else if branch := c.str("build_branch"); branch != "" {
		f.Ref = "refs/heads/" + branch
	}
	if step := c.str("step_key"); step != "" {
		f.Workflow = step
	}
	number := c.Text("build_number")
	if c.str("iss") == buildkiteIssuer && buildkiteSlug.MatchString(organization) && buildkiteSlug.MatchString(pipeline) && githubNumber.MatchString(number) {
		f.RunURL = "https://buildkite.com/" + organization + "/" + pipeline + "/builds/" + number
		if uuid.MatchString(f.Job) {
			f.RunURL += "#" + f.Job
		}
	}
	return f
}

// buildkiteToken runs `buildkite-agent oidc request-token`, which prints the
// token (and, in newer releases, hides it in the log).
func buildkiteToken(ctx context.Context, env Env, audience string) (string, error) {
	if audience == "" {
		return "", errors.New("an ID token needs an audience: Buildkite's default one is accepted by others too")
	}
	c := tokenCommand{
		shown:   "buildkite-agent oidc request-token",
		missing: fmt.Errorf("the `buildkite-agent` %w: it is not on the PATH; run this in a step of the job itself, and in a container mount the agent into it (mount-buildkite-agent)", ErrNoCommand),
		failed:  "the agent must be 3.67 or newer to know --claim, and must reach Buildkite's API with the job's own access token",
	}
	return c.run(ctx, env, audience, "buildkite-agent", "oidc", "request-token", "--audience", audience, "--claim", buildkiteClaims)
}
