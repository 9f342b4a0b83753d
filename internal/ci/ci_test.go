// This file shows that the table is whole and that the two questions asked of a
// row (is this our CI, are these its claims) are answered in words that help.

package ci

import (
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
)

func env(kv ...string) Env {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return Env{Getenv: func(name string) string { return m[name] }}
}

func TestEveryRowIsWhole(t *testing.T) {
	t.Parallel()
	names := map[string]bool{}
	for _, p := range Providers {
		if names[p.Name] || p.Name == "" || p.Title == "" || p.looks == "" || len(p.Algs) == 0 {
			t.Errorf("%q: a name twice, or something missing", p.Name)
		}
		names[p.Name] = true
		if u, err := url.Parse(p.Issuer); p.Issuer != "" && (err != nil || u.Scheme != "https" || strings.HasSuffix(p.Issuer, "/")) {
			t.Errorf("%s: issuer %q", p.Name, p.Issuer)
		}
		// Else a row that names no key could be used for it.
		if p.Bound && (p.serves == nil || p.Issuer != "" && !p.serves(p.Issuer)) {
			t.Errorf("%s: nothing says which issuers are its own", p.Name)
		}
		if p.Bound && p.Unusable != "" {
			t.Errorf("%s: bound, and no use", p.Name)
		}
		if p.Detect == nil || p.Token == nil || p.Facts == nil || p.Mask == nil {
			t.Errorf("%s: a function is missing", p.Name)
		}
		var claims, required []string
		for _, c := range p.Claims {
			claims = append(claims, c.Name)
			if !c.Optional {
				required = append(required, c.Name)
			}
		}
		if s := slices.Sorted(slices.Values(claims)); len(slices.Compact(s)) != len(claims) {
			t.Errorf("%s: a claim is listed twice", p.Name)
		}
		for what, list := range map[string][]string{"Proof": p.Proof, "Fold": p.Fold} {
			for _, name := range list {
				if !slices.Contains(claims, name) {
					t.Errorf("%s: %s has %s, which Check knows nothing of", p.Name, what, name)
				}
			}
		}
		// Without the ids in the proof, a relay could show one repository's
		// token for another's request.
		for _, name := range append([]string{p.Owner}, p.IDs...) {
			if !slices.Contains(required, name) || !slices.Contains(p.Proof, name) {
				t.Errorf("%s: id %s is optional or no part of the proof", p.Name, name)
			}
		}
		if (p.IDForm == nil) != (p.IDLooks == "") {
			t.Errorf("%s: the form of its ids is not said in words, or only there", p.Name)
		}
		words := map[string]bool{}
		for _, h := range p.Hazards {
			if words[h.Word] || h.Word == "" || h.Why == "" || h.In == nil {
				t.Errorf("%s: hazard %q: a word twice, or something missing", p.Name, h.Word)
			}
			words[h.Word] = true
			if h.Lifts != "" && !slices.Contains(claims, h.Lifts) {
				t.Errorf("%s: hazard %s is lifted by unknown claim %s", p.Name, h.Word, h.Lifts)
			}
		}
		if Find(p.Name) != p {
			t.Errorf("Find(%q) is another row", p.Name)
		}
	}
	for _, name := range []string{"", "GitHub", "github ", "gitlab-ci"} {
		if Find(name) != nil {
			t.Errorf("Find(%q) found something", name)
		}
	}
}

func TestTheCIIsKnownByItsEnvironment(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		env  Env
		want string
	}{
		{env("GITHUB_ACTIONS", "true", "CI", "true"), "github"},
		{env("CIRCLECI", "true", "CI", "true"), "circleci"},
		// Forgejo's runner says all three; the issuer decides later which it is.
		{env("GITHUB_ACTIONS", "true", "FORGEJO_ACTIONS", "true", "GITEA_ACTIONS", "true", "CI", "true"), "forgejo"},
		{env("GITHUB_ACTIONS", "true", "GITEA_ACTIONS", "true"), "forgejo"},
		{env("GITLAB_CI", "true", "CFA_ID_TOKEN", "x"), "gitlab"},
		{env("BUILDKITE", "true"), "buildkite"},
		{env("BUILDER_OUTPUT", "/builder/outputs"), "google-cloud-build"},
		{env("JENKINS_URL", "https://ci.example.org/", "CFA_ID_TOKEN", "x"), "jenkins"},
		{env("TF_BUILD", "True"), "azure-pipelines"},
		{env("BITBUCKET_BUILD_NUMBER", "7"), "bitbucket"},
		{env("SEMAPHORE", "true"), "semaphore"},
		{env("CFA_ID_TOKEN", "x"), "generic"},
		{env("CFA_ID_TOKEN_FILE", "/x"), "generic"},
		// What cannot vouch for its jobs leaves that to another issuer.
		{env("TF_BUILD", "True", "CFA_ID_TOKEN", "x"), "generic"},
		{env("SEMAPHORE", "true", "CFA_ID_TOKEN_FILE", "/x"), "generic"},
		// Those that can, do not: a variable is set more easily than a job is made.
		{env("GITHUB_ACTIONS", "true", "CFA_ID_TOKEN", "x"), "github"},
		{env("BUILDKITE", "true", "CFA_ID_TOKEN", "x"), "buildkite"},
	} {
		if p, err := Detect(tt.env); err != nil || p.Name != tt.want {
			t.Errorf("Detect = %v, %v; want %s", p, err, tt.want)
		}
	}
	p, err := Detect(env("CI", "true", "GITHUB_ACTIONS", "false"))
	if p != nil || !errors.Is(err, ErrNoCI) {
		t.Fatalf("outside of any CI: %v, %v", p, err)
	}
	for _, want := range []string{"GitHub Actions", "GITHUB_ACTIONS=true", "CircleCI", "CIRCLECI=true"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q: %v", want, err)
		}
	}
}

// githubJob and circleJob are payloads in the shape of the real ones.
const githubJob = `{
	"jti": "6f4762ed-0758-4ccb-808d-ee3af5d723a8", "sub": "repo:octo-org@65/octo-repo@74:environment:npm",
	"aud": "cfa:v1:relay.example:UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
	"environment": "npm", "environment_node_id": "EN_kwDOABC123", "ref": "refs/tags/v1.2.0",
	"sha": "c040cae0f0dc81641728557b80f09cfa23b83fe5", "repository": "octo-org/octo-repo", "repository_owner": "octo-org",
	"actor_id": "12", "repository_visibility": "public", "repository_id": "74", "repository_owner_id": "65",
	"run_id": "22259804324", "run_number": "10", "run_attempt": "2", "actor": "octocat", "workflow": "Release",
	"head_ref": "", "base_ref": "", "event_name": "push", "ref_protected": "true", "ref_type": "tag",
	"workflow_ref": "octo-org/octo-repo/.github/workflows/release.yml@refs/tags/v1.2.0",
	"workflow_sha": "c040cae0f0dc81641728557b80f09cfa23b83fe5",
	"job_workflow_ref": "octo-org/octo-repo/.github/workflows/release.yml@refs/tags/v1.2.0",
	"job_workflow_sha": "c040cae0f0dc81641728557b80f09cfa23b83fe5", "runner_environment": "github-hosted",
	"check_run_id": "64242424", "iss": "https://token.actions.githubusercontent.com",
	"nbf": 1795000000, "exp": 1795000600, "iat": 1795000300}`

const circleJob = `{
	"iss": "https://oidc.circleci.com/org/c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e",
	"sub": "org/c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e/project/3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c/user/5e6f7a8b-9c0d-4e1f-a2b3-c4d5e6f7a8b9",
	"aud": "cfa:v1:relay.example:UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4",
	"oidc.circleci.com/context-ids": ["7b6a5c4d-3e2f-4a1b-8c9d-0e1f2a3b4c5d"],
	"oidc.circleci.com/job-id": "1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9",
	"oidc.circleci.com/org-id": "c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e",
	"oidc.circleci.com/pipeline-definition-id": "0a1b2c3d-4e5f-5a6b-8c7d-9e0f1a2b3c4d",
	"oidc.circleci.com/pipeline-id": "9f8e7d6c-5b4a-4c3d-8e2f-1a0b9c8d7e6f",
	"oidc.circleci.com/project-id": "3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c",
	"oidc.circleci.com/ssh-rerun": false,
	"oidc.circleci.com/vcs-origin": "github.com/octo-org/octo-repo",
	"oidc.circleci.com/vcs-ref": "refs/heads/main",
	"oidc.circleci.com/workflow-id": "2b3c4d5e-6f7a-4b8c-9d0e-1f2a3b4c5d6e",
	"iat": 1795000300, "exp": 1795003900}`

// job decodes one of them with claims replaced; nil takes one out.
func job(t *testing.T, payload string, over map[string]any) Claims {
	t.Helper()
	c, err := Decode([]byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(c, over)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func TestARefusedTokenNamesTheClaim(t *testing.T) {
	t.Parallel()
	if len(realJobs) != len(Providers) {
		t.Errorf("%d rows, and tokens of %d", len(Providers), len(realJobs))
	}
	for _, row := range realJobs {
		if err := row.p.Check(job(t, row.payload, nil)); err != nil {
			t.Errorf("%s: an honest token is refused: %v", row.p.Name, err)
		}
		for _, c := range row.p.Claims {
			without := job(t, row.payload, map[string]any{c.Name: nil})
			switch err := row.p.Check(without); {
			case c.Optional && err != nil:
				t.Errorf("%s: refused without optional %s: %v", row.p.Name, c.Name, err)
			case !c.Optional && (err == nil || !strings.Contains(err.Error(), `"`+c.Name+`"`)):
				t.Errorf("%s: without %s: %v", row.p.Name, c.Name, err)
			}
			// Under another spelling it is another claim.
			upper := job(t, row.payload, map[string]any{c.Name: nil, strings.ToUpper(c.Name): "x"})
			if err := row.p.Check(upper); !c.Optional && err == nil {
				t.Errorf("%s: %s passed for %s", row.p.Name, strings.ToUpper(c.Name), c.Name)
			}
			for _, wrong := range []any{json.Number("1"), map[string]any{}, []any{json.Number("1")}, "text", true, []any{"text"}} {
				if c.Kind.of(wrong) {
					continue
				}
				err := row.p.Check(job(t, row.payload, map[string]any{c.Name: wrong}))
				if err == nil || !strings.Contains(err.Error(), `"`+c.Name+`"`) {
					t.Errorf("%s: %s = %v: %v", row.p.Name, c.Name, wrong, err)
				}
			}
			null := job(t, row.payload, nil)
			null[c.Name] = nil
			if err := row.p.Check(null); (err == nil) != (c.Kind == Any) {
				t.Errorf("%s: null for %s: %v", row.p.Name, c.Name, err)
			}
		}
		for _, id := range row.p.IDs {
			if err := row.p.Check(job(t, row.payload, map[string]any{id: ""})); err == nil || !strings.Contains(err.Error(), id) {
				t.Errorf("%s: empty %s: %v", row.p.Name, id, err)
			}
		}
	}
	// GitHub signs tokens of another purpose with the same key.
	internal := job(t, githubJob, map[string]any{"aud": nil, "sub": nil, "jti": nil, "repository": nil})
	if err := github.Check(internal); err == nil {
		t.Error("a token that is not a job's ID token passed")
	}
	if err := github.Check(job(t, githubJob, map[string]any{"ref": ""})); err != nil {
		t.Errorf("a deployment event's token, whose ref is empty, is refused: %v", err)
	}
}
