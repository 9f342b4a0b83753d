package registrytest

// npm's trusted publishing: a CI's ID token is exchanged for one that publishes.

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
)

const exchangePath = "/-/npm/v1/oidc/token/exchange/package/"

// exchange gives a token for an ID token of the repository that is trusted; r.mu is
// held.
func (r *Registry) exchange(req *http.Request) reply {
	refused := problem(http.StatusUnauthorized, "OIDC token exchange error - package not found")
	parts := strings.Split(strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "), ".")
	if req.Method != http.MethodPost || len(parts) != 3 {
		return refused
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return refused
	}
	var claims struct {
		Audience   string `json:"aud"`
		Repository string `json:"repository"`
		Origin     string `json:"oidc.circleci.com/vcs-origin"`
	}
	at, err := url.Parse(r.URL())
	if err != nil || json.Unmarshal(payload, &claims) != nil || claims.Audience != "npm:"+at.Hostname() ||
		claims.Repository != r.config.Trusts && claims.Origin != r.config.Trusts {
		return refused
	}
	token := "npm_" + random(18)
	r.tokens[token] = true
	return reply{status: http.StatusCreated, body: map[string]string{"token_type": "oidc", "token": token}}
}
