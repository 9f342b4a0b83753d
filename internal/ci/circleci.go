// This file is CircleCI.
//
// Sources: circleci.com/docs, "Using OpenID Connect tokens in jobs" and "OIDC
// tokens with custom claims".

package ci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

const (
	circleIssuer = "https://oidc.circleci.com"
	circlePrefix = "oidc.circleci.com/" // of every claim of CircleCI's own
)

var circleCI = &Provider{
	Name:  "circleci",
	Title: "CircleCI",
	// All organizations share this one (tokens asked for with --root-issuer);
	// that org-id is pinned by every rule keeps them apart.
	Issuer:  circleIssuer,
	Issuers: circleIssuers,
	Bound:   true,
	Algs:    []string{"RS256"},
	looks:   "CIRCLECI=true",
	Detect:  func(env Env) bool { return env.get("CIRCLECI") == "true" },
	Token:   circleToken,
	Claims: []Claim{
		{Name: "iss"},
		{Name: "sub"},
		{Name: circlePrefix + "org-id"},
		{Name: circlePrefix + "project-id"},
		{Name: circlePrefix + "pipeline-definition-id"},
		{Name: circlePrefix + "pipeline-id"},
		{Name: circlePrefix + "workflow-id"},
		{Name: circlePrefix + "job-id"},
		{Name: circlePrefix + "ssh-rerun", Kind: Bool},

		{Name: circlePrefix + "vcs-origin", Optional: true}, // not where a custom webhook set the run off
		{Name: circlePrefix + "vcs-ref", Optional: true},
		{Name: circlePrefix + "context-ids", Kind: Strings, Optional: true},
	},
	Proof: []string{
		circlePrefix + "org-id", circlePrefix + "project-id", circlePrefix + "vcs-origin", circlePrefix + "vcs-ref",
		circlePrefix + "pipeline-id", circlePrefix + "workflow-id", circlePrefix + "job-id",
	},
	IDs:   []string{circlePrefix + "org-id", circlePrefix + "project-id"},
	Owner: circlePrefix + "org-id",
	Hazards: []Hazard{
		{
			Word: "ssh-rerun",
			Why:  "the job was started again with SSH, so a person may be typing in it",
			In:   func(c Claims) bool { return c[circlePrefix+"ssh-rerun"] != false },
		},
		{
			Word: "no-vcs",
			Why:  "the token does not say which repository and ref the job runs (a custom webhook set it off)",
			In: func(c Claims) bool {
				return c.str(circlePrefix+"vcs-origin") == "" || c.str(circlePrefix+"vcs-ref") == ""
			},
		},
		{
			Word:  "any-origin",
			Why:   "the rule does not name " + circlePrefix + "vcs-origin, so a fork's build would fit it where the project gives forks its secrets",
			In:    func(c Claims) bool { return c.str(circlePrefix+"vcs-origin") != "" },
			Lifts: circlePrefix + "vcs-origin",
		},
	},
	Facts: circleFacts,
	// What is printed goes to the log as it is; only what stands in the
	// project's settings is masked there.
	Mask:   noMask,
	serves: func(issuer string) bool { return issuer == circleIssuer || strings.HasPrefix(issuer, circleIssuer+"/") },
}

// ErrNoCommand means that the command which gives ID tokens in a job is not
// there; the error around it says which, and what to do.
var ErrNoCommand = errors.New("command was not found")

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// circleIssuers gives the issuer of each organization that a rule names.
func circleIssuers(rule map[string][]string) []string {
	var issuers []string
	for _, id := range rule[circlePrefix+"org-id"] {
		if uuid.MatchString(id) {
			issuers = append(issuers, circleIssuer+"/org/"+id)
		}
	}
	return issuers
}

func circleFacts(c Claims) Facts {
	get := func(name string) string { return c.str(circlePrefix + name) }
	f := Facts{
		Repository: get("vcs-origin"),
		Ref:        get("vcs-ref"),
		RunID:      get("workflow-id"),
		Job:        get("job-id"),
		Group:      get("workflow-id"),
	}
	if iss := c.str("iss"); uuid.MatchString(f.RunID) && (iss == circleIssuer || strings.HasPrefix(iss, circleIssuer+"/")) {
		f.RunURL = "https://app.circleci.com/pipelines/workflows/" + f.RunID
	}
	return f
}

// circleToken runs `circleci run oidc get --claims '{"aud":"A"}'`, which every
// job has and which prints the token. The tokens in the job's environment are
// never used: their audience is the organization's id, which cloud roles trust.
func circleToken(ctx context.Context, env Env, audience string) (string, error) {
	if audience == "" {
		return "", errors.New("an ID token needs an audience: CircleCI's default one is accepted by others too")
	}
	claims, err := json.Marshal(map[string]string{"aud": audience})
	if err != nil {
		return "", fmt.Errorf("audience: %w", err)
	}
	c := tokenCommand{
		shown:   "circleci run oidc get",
		missing: fmt.Errorf("the `circleci` %w: it is not on the PATH; every job on CircleCI has it, so run this in a step of the job itself (not in a container or under sudo), and keep what PATH holds", ErrNoCommand),
		failed:  "builds of forked pull requests get no ID token unless the project gives them its secrets",
	}
	return c.run(ctx, env, audience, "circleci", "run", "oidc", "get", "--claims", string(claims))
}
