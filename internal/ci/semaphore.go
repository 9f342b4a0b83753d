// This file is Semaphore. It is a row that refuses: the audience of its ID tokens
// is always the organization's address, which names no relay and is what cloud
// roles trust. (A change that lets a job name audiences of its own is proposed:
// semaphoreio/semaphore, pull request 1008. When it is there, this row loses what
// makes it refuse.)
//
// Source: docs.semaphoreci.com, "OIDC Tokens".

package ci

import "regexp"

const semaphoreUnusable = "ID tokens of Semaphore are always for their organization's own audience, which cloud roles trust, so that who has one can take them; have another issuer vouch for the job (such as a Vault role that knows the project), with a token in " + givenToken + ", and name that issuer with the provider generic"

var semaphore = &Provider{
	Name:     "semaphore",
	Title:    "Semaphore",
	Unusable: semaphoreUnusable,
	Algs:     []string{"RS256"},
	looks:    "SEMAPHORE=true",
	Detect:   func(env Env) bool { return env.get("SEMAPHORE") == "true" },
	Token:    noToken(semaphoreUnusable),
	Claims: []Claim{
		{Name: "iss"}, // https://ORGANIZATION.semaphoreci.com
		{Name: "sub"},
		{Name: "aud"},
		{Name: "jti"},
		{Name: "org"},
		{Name: "org_id"},
		{Name: "prj"},
		{Name: "prj_id"},
		{Name: "repo"},
		{Name: "repo_slug"},
		{Name: "ref"},
		{Name: "ref_type"},
		{Name: "wf_id"},
		{Name: "ppl_id"},
		{Name: "job_id"},
		{Name: "job_type"},
		{Name: "trg"},

		{Name: "branch", Optional: true},
		{Name: "pr", Optional: true},
		{Name: "pr_branch", Optional: true},
		{Name: "tag", Optional: true},
	},
	Proof: []string{"org_id", "prj_id", "repo_slug", "ref", "wf_id", "ppl_id", "job_id"},
	IDs:   []string{"org_id", "prj_id"},
	Owner: "org_id",
	Fold:  nil,
	Hazards: []Hazard{
		{
			Word: "pull-request",
			Why:  "the job is for a pull request, whose code nobody has merged yet",
			In: func(c Claims) bool {
				kind, ok := c.String("ref_type")
				return !ok || kind == "pull-request"
			},
		},
		{
			Word: "debug-job",
			Why:  "the job was started to debug something, so a person may be typing in it",
			In:   func(c Claims) bool { return c.str("job_type") != "pipeline_job" },
		},
	},
	Facts: func(c Claims) Facts {
		f := Facts{
			Repository: c.str("repo_slug"),
			Ref:        c.str("ref"),
			Event:      c.str("ref_type"),
			RunID:      c.str("wf_id"),
			Job:        c.str("job_id"),
			Group:      c.str("wf_id"),
		}
		if iss := c.str("iss"); semaphoreIssuer.MatchString(iss) && uuid.MatchString(f.RunID) {
			f.RunURL = iss + "/workflows/" + f.RunID
		}
		return f
	},
	Mask: noMask,
}

var semaphoreIssuer = regexp.MustCompile(`^https://[a-z0-9-]+\.semaphoreci\.com$`)
