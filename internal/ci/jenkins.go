// This file is Jenkins with the OpenID Connect Provider plugin. A token is made
// when a step's credentials are bound, with the audience that stands in the
// credentials, so that it cannot name the job's key.
//
// What a token says is the administrator's choice (claim templates): by default
// the job's address, as its subject, and the build's number. So rules may name
// any claim. There are no ids; the subject stands in their place, because who can
// make a job of some name on a controller is up to the controller's
// administrators, and they are its issuer.
//
// Source: jenkinsci/oidc-provider-plugin, README and IdTokenConfiguration.

package ci

import (
	"context"
	"net/url"
	"strings"
)

var jenkins = &Provider{
	Name:   "jenkins",
	Title:  "Jenkins",
	Algs:   []string{"RS256"},
	looks:  "JENKINS_URL",
	Detect: func(env Env) bool { return env.get("JENKINS_URL") != "" },
	Token: func(_ context.Context, env Env, audience string) (string, error) {
		return staticToken(env, audience, "bind credentials of the kind \"OpenID Connect id token\" to "+givenToken+" (or, as a file, to "+givenFile+")")
	},
	Claims: []Claim{
		{Name: "iss"},
		{Name: "sub"},
		{Name: "build_number", Kind: Scalar, Optional: true}, // a number unless a template says otherwise
	},
	Open:  true,
	Proof: []string{"sub"},
	IDs:   []string{"sub"},
	Owner: "sub",
	Hazards: []Hazard{
		{
			Word:  "no-build",
			Why:   "the token does not say which build it was made for, so it may be for none (credentials that are used outside of builds get such tokens)",
			In:    func(c Claims) bool { return !githubNumber.MatchString(c.Text("build_number")) },
			Lifts: "build_number",
		},
	},
	Facts: jenkinsFacts,
	Mask:  noMask, // the plugins mask what was bound, and nothing that comes later
}

func jenkinsFacts(c Claims) Facts {
	job := c.str("sub")
	f := Facts{Repository: job, RunID: c.Text("build_number")}
	if !githubNumber.MatchString(f.RunID) {
		f.RunID = ""
	}
	if job == "" || f.RunID == "" {
		return f
	}
	f.Group = job + f.RunID
	// Only an address of the issuer's own host is one to click on.
	u, err := url.Parse(job)
	iss, issErr := url.Parse(c.str("iss"))
	if err == nil && issErr == nil && u.Scheme == "https" && iss.Scheme == "https" && u.Host == iss.Host && u.Host != "" && u.User == nil &&
		plainAddress.MatchString(strings.TrimSuffix(job, "/")) && strings.HasSuffix(job, "/") && !strings.Contains(u.Path, "..") {
		f.RunURL = job + f.RunID + "/"
	}
	return f
}
