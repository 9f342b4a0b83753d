// This file is Bitbucket Pipelines. It is a row that refuses: a step can add
// audiences of its own (`oidc: {audiences: [...]}`) to its ID token, but the
// workspace's default one always stays beside them. That one is what cloud roles
// trust, so whoever a step sends the token to can take those roles.
//
// Sources: support.atlassian.com, "Integrate Pipelines with resource servers
// using OIDC"; atlassian.com/blog, "Bitbucket Pipelines OIDC now supports
// multiple audiences"; docs.openfaas.com, on the token that comes of it.

package ci

const bitbucketUnusable = "an ID token of Bitbucket Pipelines is always for its workspace's own audience too, which cloud roles trust, so that who has one can take them; have another issuer vouch for the step (such as a Vault role that knows the repository), with a token in " + givenToken + ", and name that issuer with the provider generic"

var bitbucket = &Provider{
	Name:     "bitbucket",
	Title:    "Bitbucket Pipelines",
	Unusable: bitbucketUnusable,
	Algs:     []string{"RS256"},
	looks:    "BITBUCKET_BUILD_NUMBER",
	Detect:   func(env Env) bool { return env.get("BITBUCKET_BUILD_NUMBER") != "" },
	Token:    noToken(bitbucketUnusable),
	Claims: []Claim{
		{Name: "iss"}, // https://api.bitbucket.org/2.0/workspaces/NAME/pipelines-config/identity/oidc
		{Name: "sub"},
		{Name: "aud", Kind: Strings},
		{Name: "workspaceUuid"},
		{Name: "repositoryUuid"},
		{Name: "pipelineUuid"},
		{Name: "pipelineRunUuid"},
		{Name: "stepUuid"},

		{Name: "branchName", Optional: true},                // not where a tag is built
		{Name: "deploymentEnvironmentUuid", Optional: true}, // only in steps of a deployment
	},
	Proof: []string{"workspaceUuid", "repositoryUuid", "branchName", "pipelineUuid", "pipelineRunUuid", "stepUuid"},
	IDs:   []string{"workspaceUuid", "repositoryUuid"},
	Owner: "workspaceUuid",
	Hazards: []Hazard{
		{
			Word:  "any-branch",
			Why:   "the rule does not name branchName, and no claim says that a pipeline is for a pull request",
			In:    func(Claims) bool { return true },
			Lifts: "branchName",
		},
	},
	Facts: func(c Claims) Facts {
		f := Facts{
			Repository:  c.str("repositoryUuid"), // there is no name
			Environment: c.str("deploymentEnvironmentUuid"),
			RunID:       c.str("pipelineUuid"),
			Job:         c.str("stepUuid"),
			Group:       c.str("pipelineUuid"),
		}
		if branch := c.str("branchName"); branch != "" {
			f.Ref = "refs/heads/" + branch
		}
		return f
	},
	Mask: noMask, // only secured variables of the settings are masked
}
