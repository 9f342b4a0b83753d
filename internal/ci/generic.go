// This file is any other issuer: a CI that is not in the table, or something that
// vouches for a job in its place, such as Vault or a Kubernetes cluster. Nothing
// is known of its tokens but what every OpenID Connect token has, so there is no
// issuer by default, a rule names at least the subject, whoever configures the
// issuer says which further claims every rule has to name ([Provider.Requiring]),
// and rules may name any claim. The job finds its token where it was told to.

package ci

import "context"

var generic = &Provider{
	Name:   "generic",
	Title:  "an issuer of your own",
	Algs:   []string{"RS256"},
	looks:  givenToken + " or " + givenFile,
	Detect: Env.given,
	Token: func(_ context.Context, env Env, audience string) (string, error) {
		return staticToken(env, audience, "put an ID token into "+givenToken+", or into a file and its path into "+givenFile)
	},
	Claims: []Claim{
		{Name: "iss"},
		{Name: "sub"},
	},
	Open: true,
	// A file's token is replaced from time to time, and what else stays the same
	// is not known.
	Proof: []string{"sub"},
	IDs:   []string{"sub"},
	Owner: "sub",
	Facts: func(c Claims) Facts { return Facts{Repository: c.str("sub")} },
	Mask:  noMask,
}
