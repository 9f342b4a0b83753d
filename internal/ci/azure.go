// This file is Azure Pipelines. It is a row that refuses: the audience of its ID
// tokens is always api://AzureADTokenExchange, which names no relay. Such a token
// is also what Entra ID takes for the pipeline's service connection, so whoever a
// job sends one to can sign in to Azure in its place.
//
// Sources: learn.microsoft.com, REST API "Oidctoken - Create" (there is no
// parameter for an audience); sigstore/fulcio, issue 1803 (a token's claims).

package ci

import (
	"regexp"
	"strings"
)

const azureUnusable = "ID tokens of Azure Pipelines are always for the audience api://AzureADTokenExchange, which names no relay and lets who has one sign in to Azure; have another issuer vouch for the job (such as a Vault role that knows the pipeline), with a token in " + givenToken + ", and name that issuer with the provider generic"

var azure = &Provider{
	Name:     "azure-pipelines",
	Title:    "Azure Pipelines",
	Unusable: azureUnusable,
	Algs:     []string{"RS256"},
	looks:    "TF_BUILD=True",
	Detect:   func(env Env) bool { return strings.EqualFold(env.get("TF_BUILD"), "true") },
	Token:    noToken(azureUnusable),
	Claims: []Claim{
		{Name: "iss"}, // https://vstoken.dev.azure.com/ORGANIZATION_ID
		{Name: "sub"},
		{Name: "aud"},
		{Name: "jti"},
		{Name: "org_id"},
		{Name: "prj_id"},
		{Name: "def_id"},
		{Name: "rpo_id"},
		{Name: "rpo_uri"},
		{Name: "rpo_ver"},
		{Name: "rpo_ref"},
		{Name: "run_id"},
	},
	Proof: []string{"org_id", "prj_id", "def_id", "rpo_id", "rpo_ref", "rpo_ver", "run_id"},
	IDs:   []string{"org_id", "prj_id", "def_id", "rpo_id"},
	Owner: "org_id",
	Hazards: []Hazard{
		{
			Word: "pull_request",
			Why:  "the run is for a pull request, whose code nobody has merged yet",
			In: func(c Claims) bool {
				ref, ok := c.String("rpo_ref")
				return !ok || strings.HasPrefix(ref, "refs/pull/")
			},
		},
	},
	Facts: func(c Claims) Facts {
		return Facts{
			Repository: azureRepo.FindString(c.str("rpo_uri")),
			Ref:        c.str("rpo_ref"),
			SHA:        c.str("rpo_ver"),
			RunID:      c.str("run_id"),
			Group:      c.str("run_id"),
		}
	},
	Mask: azureMask,
}

var azureRepo = regexp.MustCompile(`^https://[A-Za-z0-9.-]+/[A-Za-z0-9._~/-]+$`)

// azureMask is the task.setsecret logging command. Agents of different ages turn
// a % back differently, so that there is no spelling of one that all mask.
func azureMask(code string) (string, bool) {
	if strings.TrimSpace(code) == "" || strings.ContainsAny(code, "%\r\n") {
		return "", false
	}
	return "##vso[task.setsecret]" + code, true
}
