// This file is Google Cloud Build. A build gets ID tokens with any audience, for
// the service account that it runs as. They name that account and nothing else:
// no repository, no ref, no build. Whoever may act as the account can get one
// too, in a build or anywhere else. So a rule has to say that this is meant, and
// an account that one trigger alone runs as is what makes it mean something.
//
// Sources: cloud.google.com/build/docs, "Authorize service-to-service access";
// cloud.google.com/docs, "Get an ID token" (metadata server).

package ci

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

const (
	googleIssuer = "https://accounts.google.com"

	// googleIdentity is the build's metadata server. It is plain HTTP to an
	// address that never leaves the machine.
	googleIdentity = "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/identity"
	googleHeader   = "Metadata-Flavor"
)

var googleCloudBuild = &Provider{
	Name:   "google-cloud-build",
	Title:  "Google Cloud Build",
	Issuer: googleIssuer,
	Bound:  true,
	Algs:   []string{"RS256"},
	looks:  "BUILDER_OUTPUT=/builder/outputs",
	Detect: func(env Env) bool { return env.get("BUILDER_OUTPUT") == "/builder/outputs" },
	Token:  googleToken,
	Claims: []Claim{
		{Name: "iss"},
		{Name: "sub"}, // the account's number, which is never given out again
		{Name: "aud"},
		{Name: "azp"},
		{Name: "email"},
		{Name: "email_verified", Kind: Bool},
	},
	Proof: []string{"sub", "email"},
	// An account's address can be given up and taken by somebody else.
	IDs:   []string{"sub"},
	Owner: "sub",
	Hazards: []Hazard{
		{
			Word: "service-account",
			Why:  "the token names a service account and no repository, ref or build, so that everything which may run as the account fits",
			In:   func(Claims) bool { return true },
		},
		{
			Word: "person",
			Why:  "the token is not a service account's",
			In:   func(c Claims) bool { return !strings.HasSuffix(c.str("email"), "gserviceaccount.com") },
		},
	},
	Facts: func(c Claims) Facts {
		f := Facts{Repository: c.str("email")}
		if f.Repository == "" {
			f.Repository = c.str("sub")
		}
		return f
	},
	Mask:   noMask,
	serves: func(issuer string) bool { return issuer == googleIssuer },
}

// googleToken asks the build's metadata server, which prints the token. What it
// gives may be some minutes old: it keeps tokens.
func googleToken(ctx context.Context, env Env, audience string) (string, error) {
	if audience == "" {
		return "", errors.New("an ID token needs an audience: Google gives none without")
	}
	const who = "the build's metadata server"
	s := tokenService{
		who:    who,
		denied: "run the build as a service account of your own (`serviceAccount:` in cloudbuild.yaml, not the default one) that has the role roles/iam.serviceAccountOpenIdTokenCreator on itself",
		deny: func(code int) bool {
			return code == http.StatusBadRequest || code == http.StatusUnauthorized || code == http.StatusForbidden || code == http.StatusNotFound
		},
		client: tokenClient(env.HTTP, nil), // a proxy would see the token
		request: func(ctx context.Context) (*http.Request, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, googleIdentity+"?format=full&audience="+url.QueryEscape(audience), nil)
			if err != nil {
				return nil, errors.New("the metadata server's address is not one")
			}
			req.Header.Set(googleHeader, "Google")
			return req, nil
		},
		read: func(h http.Header, body []byte) (string, error) {
			// Else it is something else that has the name in this network.
			if h.Get(googleHeader) != "Google" {
				return "", errors.New("what answers as metadata.google.internal is not Google's metadata server")
			}
			token := strings.TrimSpace(string(body))
			if token == "" {
				return "", errors.New(who + " answered without a token")
			}
			return token, nil
		},
	}
	return s.ask(ctx, env, audience)
}
