// This file is Forgejo Actions. Its jobs have GitHub's environment and its token
// service speaks as GitHub's does; that the issuer is INSTANCE/api/actions tells
// the two apart. Gitea, whose Actions are of the same family, gives out no ID
// tokens in a release yet; an instance that gives tokens of this shape is named
// with this row.
//
// Sources: forgejo.org/docs, "Security OpenID Connect"; Forgejo's own integration
// test of the token service (tests/integration, TestActionsIDToken). Instances
// that are older than the claims with ids (repository_id, repository_owner_id)
// are refused: a name there can be given up and taken by somebody else.

package ci

import (
	"context"
	"net/url"
	"regexp"
	"strings"
)

const forgejoPath = "/api/actions" // of every issuer, after the instance's address

var forgejo = &Provider{
	Name:  "forgejo",
	Title: "Forgejo Actions",
	Bound: true,
	Algs:  []string{"RS256"},
	looks: "FORGEJO_ACTIONS=true or GITEA_ACTIONS=true",
	// Both are set by Forgejo's runner, beside GITHUB_ACTIONS.
	Detect: func(env Env) bool { return env.get("FORGEJO_ACTIONS") == "true" || env.get("GITEA_ACTIONS") == "true" },
	Token: func(ctx context.Context, env Env, audience string) (string, error) {
		return actionsToken(ctx, env, audience, "Forgejo", "add `enable-openid-connect: true` to the job (a pull request from a fork gets no ID token)")
	},
	Claims: []Claim{
		{Name: "iss"},
		{Name: "sub"},
		{Name: "aud"},
		{Name: "repository"},
		{Name: "repository_id"},
		{Name: "repository_owner"},
		{Name: "repository_owner_id"},
		{Name: "ref"},
		{Name: "sha"},
		{Name: "workflow"},
		{Name: "workflow_ref"},
		{Name: "event_name"},
		{Name: "actor"},
		{Name: "run_id"},
		{Name: "run_attempt"},

		{Name: "actor_id", Optional: true},
		{Name: "base_ref", Optional: true},
		{Name: "head_ref", Optional: true},
		{Name: "jti", Optional: true},           // not in every release
		{Name: "ref_protected", Optional: true}, // "true" or "false", strings
		{Name: "ref_type", Optional: true},
		{Name: "run_number", Optional: true},
	},
	// No claim names the job in its run.
	Proof: []string{"repository_id", "repository_owner_id", "workflow_ref", "sha", "run_id", "run_attempt"},
	IDs:   []string{"repository_id", "repository_owner_id"},
	Owner: "repository_owner_id",
	Fold:  []string{"repository", "repository_owner"},
	Hazards: []Hazard{
		hazard("pull_request_target", githubHazards),
		hazard("workflow_run", githubHazards),
		hazard("pull_request", githubHazards),
		hazard("outsider-event", githubHazards),
		hazard("foreign-workflow", githubHazards),
		// No claim says on which runner the job runs: it is always somebody's own.
	},
	Facts:   forgejoFacts,
	Mask:    addMask,
	Outputs: true,
	serves:  func(issuer string) bool { return forgejoServer(issuer) != "" },
}

// hazard finds one that another row has too.
func hazard(word string, in []Hazard) Hazard {
	for _, h := range in {
		if h.Word == word {
			return h
		}
	}
	panic("ci: no hazard " + word)
}

// plainAddress is an address in which nothing hides where it leads.
var plainAddress = regexp.MustCompile(`^https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*$`)

var forgejoRepo = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+$`)

func forgejoFacts(c Claims) Facts {
	f := githubFacts(c) // the claims have GitHub's names; what it does not know is ""
	f.RunURL = ""
	number := c.str("run_number")
	if server := forgejoServer(c.str("iss")); server != "" && forgejoRepo.MatchString(f.Repository) &&
		!strings.Contains(f.Repository, "..") && githubNumber.MatchString(number) {
		f.RunURL = server + "/" + f.Repository + "/actions/runs/" + number
	}
	return f
}

// forgejoServer gives the instance's web address that belongs to an issuer, or "".
func forgejoServer(issuer string) string {
	server, ok := strings.CutSuffix(issuer, forgejoPath)
	u, err := url.Parse(server)
	if !ok || err != nil || u.Scheme != "https" || !plainAddress.MatchString(server) {
		return ""
	}
	return server
}
