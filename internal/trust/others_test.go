package trust

// This file shows the chain of proof on tokens of each CI of the table, and what
// is different where a token cannot name the job's key.

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/wire"
)

func TestAnHonestTokenOfEachCIProvesItsJob(t *testing.T) {
	t.Parallel()
	for _, name := range devissuer.Shapes() {
		row := ci.Find(name)
		if row.Unusable != "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, Issuer{Provider: row}, Options{AllowUnbound: true})
			aud := wire.UnboundAudience(relay)
			if row.Bound {
				aud = wire.Audience(relay, w.key)
			}
			mint := func(over map[string]any) string {
				all := map[string]any{"aud": aud}
				maps.Copy(all, over)
				token, err := w.Mint(devissuer.Claims(name, all))
				if err != nil {
					t.Fatal(err)
				}
				return token
			}
			job, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: mint(nil)})
			if err != nil {
				t.Fatal(err)
			}
			if job.Bound != row.Bound || job.Facts.Repository == "" {
				t.Errorf("bound %v, facts %+v", job.Bound, job.Facts)
			}
			// The request that such a job makes.
			proof := wire.Proof{}
			for _, claim := range append([]string{"iss"}, row.Proof...) {
				if v, ok := job.Claims.String(claim); ok {
					proof[claim] = v
				}
			}
			if err := checkProof(job.Claims, row, proof); err != nil {
				t.Errorf("its own proof: %v", err)
			}
			if _, err := wire.Sign(&wire.Request{
				Key: w.key, Relay: relay, Project: "octo", Ask: wire.AskCode, Service: "npm", Format: "any",
				Made: 1, Deadline: 2, HPKE: make([]byte, 32), Proof: proof,
			}, w.kp); err != nil {
				t.Errorf("a request with its proof: %v", err)
			}
			for claim := range proof {
				if claim == "iss" {
					continue
				}
				other := maps.Clone(proof)
				other[claim] += "x"
				if err := checkProof(job.Claims, row, other); err == nil {
					t.Errorf("a request of another %s is proved by it", claim)
				}
			}
			for _, id := range row.IDs {
				if _, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: mint(map[string]any{id: nil})}); err == nil {
					t.Errorf("without %s it is accepted", id)
				}
			}
			// The other kind of audience is never taken.
			swapped := wire.Audience(relay, w.key)
			if row.Bound {
				swapped = wire.UnboundAudience(relay)
			}
			if _, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: mint(map[string]any{"aud": swapped})}); err == nil {
				t.Errorf("the audience %s is accepted", swapped)
			}
		})
	}
}

// A job that cannot ask for a fresh token has the one that it began with.
func TestATokenThatWasGivenLastsAsLongAsItSays(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Issuer{Provider: ci.Find("gitlab")}, Options{AllowUnbound: true})
	token, err := w.Mint(devissuer.Claims("gitlab", map[string]any{"aud": wire.UnboundAudience(relay), "exp": in(3 * time.Hour)}))
	if err != nil {
		t.Fatal(err)
	}
	w.clock.forward(3*time.Hour - time.Second)
	if _, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: token}); err != nil {
		t.Errorf("a second before its end: %v", err)
	}
	w.clock.forward(time.Second)
	_, err = w.v.Verify(t.Context(), Evidence{Key: w.key, Token: token})
	refused(t, err, CodeTime, "expired 0 s ago")

	for _, over := range []map[string]any{{"exp": in(28 * time.Hour)}, {"iat": in(4 * time.Hour), "exp": in(5 * time.Hour)}} {
		over["aud"] = wire.UnboundAudience(relay)
		token, err := w.Mint(devissuer.Claims("gitlab", over))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: token}); err == nil {
			t.Errorf("%v: accepted", over)
		}
	}
}

func TestRulesForAnyIssuerNameAnyClaim(t *testing.T) {
	t.Parallel()
	row, err := ci.Find("generic").Requiring([]string{"pipeline"})
	if err != nil {
		t.Fatal(err)
	}
	vault := Issuer{Name: "vault", Provider: row, URL: "https://vault.example.org/v1/identity/oidc"}
	job := func(over map[string]any) *Job {
		claims, err := ci.Decode([]byte(`{"sub":"7c5f1d2e","pipeline":"rocket/release","build":7,"protected":true,"groups":["a","b"],"odd":{"x":1}}`))
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(claims, over)
		return unverified(vault, claims)
	}
	for _, tt := range []struct {
		rule string
		over map[string]any
		why  string // "" fits
	}{
		{"sub: 7c5f1d2e\n  pipeline: rocket/release\n  allow: [unbound]", nil, ""},
		{"sub: 7c5f1d2e\n  pipeline: rocket/release\n  build: 7\n  protected: true\n  groups: b\n  allow: [unbound]", nil, ""},
		{"sub: 7c5f1d2e\n  pipeline: rocket/release\n  build: \"7\"\n  protected: \"true\"\n  allow: [unbound]", nil, ""},
		{"sub: 7c5f1d2e\n  pipeline: rocket/release\n  build: 8\n  allow: [unbound]", nil, `build is "7"`},
		{"sub: 7c5f1d2e\n  pipeline: rocket/release\n  protected: false\n  allow: [unbound]", nil, `protected is "true"`},
		{"sub: 7c5f1d2e\n  pipeline: rocket/release\n  odd: x\n  allow: [unbound]", nil, "the rule wants"},
		{"sub: 7c5f1d2e\n  pipeline: rocket/release\n  nowhere: x\n  allow: [unbound]", nil, "has no nowhere"},
		{"sub: other\n  pipeline: rocket/release\n  allow: [unbound]", nil, `sub is "7c5f1d2e"`},
	} {
		p, err := Compile(map[string][]Rule{"octo": rules(t, "- provider: vault\n  "+tt.rule+"\n")}, []Issuer{vault})
		if err != nil {
			t.Errorf("%s: %v", tt.rule, err)
			continue
		}
		_, err = p.Match("octo", job(tt.over))
		if (err == nil) != (tt.why == "") || err != nil && !strings.Contains(err.Error(), tt.why) {
			t.Errorf("%s: %v, want %q", tt.rule, err, tt.why)
		}
	}
	for rule, why := range map[string]string{
		"pipeline: rocket/release\n  allow: [unbound]":                           "does not name sub",
		"sub: 7c5f1d2e\n  allow: [unbound]":                                      "does not name pipeline",
		"sub: 7c5f1d2e\n  pipeline: rocket/release":                              "allow: [unbound]",
		"sub: {pattern: '7.+'}\n  pipeline: rocket/release\n  allow: [unbound]":  "may not be a pattern",
		"sub: 7c5f1d2e\n  pipeline: {pattern: 'r.+'}\n  allow: [unbound]":        "may not be a pattern",
		"sub: 7c5f1d2e\n  pipeline: x\n  jti: x\n  allow: [unbound]":             "nothing to decide on",
		"sub: 7c5f1d2e\n  pipeline: x\n  \"a b\": x\n  allow: [unbound]":         "has no claim",
		"sub: 7c5f1d2e\n  pipeline: x\n  allow: [unbound, pull_request]":         "is no danger",
		"sub: 7c5f1d2e\n  pipeline: true\n  allow: [unbound]\n  aud: cfa:v1:foo": "nothing to decide on",
	} {
		_, err := Compile(map[string][]Rule{"octo": rules(t, "- provider: vault\n  "+rule+"\n")}, []Issuer{vault})
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%s: %v, want %q", rule, err, why)
		}
	}
	// Where there are ids, sub is still nothing to decide on.
	_, err = Compile(map[string][]Rule{"octo": rules(t, "- provider: buildkite\n  organization_id: x\n  pipeline_id: y\n  sub: z\n")}, Known())
	if err == nil || !strings.Contains(err.Error(), "nothing to decide on") {
		t.Errorf("sub of buildkite: %v", err)
	}
}

// A danger of a CI is let through by its word, or by a rule that has decided on
// the claim that it is about.
func TestTheDangersOfEachCIAreAllowedByName(t *testing.T) {
	t.Parallel()
	issuer := func(name string) Issuer {
		i := Issuer{Name: name, Provider: ci.Find(name), URL: "https://ci.example.org"}
		if i.Provider.Issuer != "" {
			i.URL = i.Provider.Issuer
		}
		return i
	}
	for _, tt := range []struct {
		ci    string
		rule  string // beside the ids
		over  map[string]any
		wants string // what the refusal asks for; "" fits
	}{
		{"gitlab", "allow: [unbound]", nil, ""},
		{"gitlab", "allow: [unbound]", map[string]any{"job_project_id": "21"}, "allow: [foreign-project]"},
		{"gitlab", "job_project_id: \"21\"\n  allow: [unbound]", map[string]any{"job_project_id": "21"}, ""},
		{"gitlab", "allow: [unbound]", map[string]any{"ref_protected": "false"}, "allow: [unprotected-ref]"},
		{"gitlab", "allow: [unbound]", map[string]any{"runner_environment": "self-hosted"}, "allow: [self-hosted]"},
		{"gitlab", "runner_id: 1\n  allow: [unbound]", map[string]any{"runner_environment": "self-hosted"}, ""},
		{"gitlab", "runner_id: 2\n  allow: [unbound]", map[string]any{"runner_environment": "self-hosted"}, `runner_id is "1"`},
		{"gitlab", "environment: NPM\n  allow: [unbound]", nil, "environment is"},
		{"gitlab", "project_path: Octo-Group/octo-project\n  allow: [unbound]", nil, ""},
		{"buildkite", "build_branch: v1.2.0", nil, ""},
		{"buildkite", "build_tag: v1.2.0", nil, "allow: [any-branch]"},
		{"buildkite", "build_branch: v1.2.0", map[string]any{"build_source": "ui"}, "allow: [chosen-commit]"},
		{"buildkite", "build_branch: v1.2.0\n  build_source: ui", map[string]any{"build_source": "ui"}, ""},
		{"forgejo", "ref: refs/heads/main", nil, ""},
		{"forgejo", "ref: refs/heads/main", map[string]any{"event_name": "pull_request_target"}, "allow: [pull_request_target]"},
		{"google-cloud-build", "email: release@octo-project.iam.gserviceaccount.com", nil, "allow: [service-account]"},
		{"google-cloud-build", "allow: [service-account]", nil, ""},
		{"jenkins", "allow: [unbound]", nil, ""},
		{"jenkins", "allow: [unbound]", map[string]any{"build_number": nil}, "allow: [no-build]"},
		{"jenkins", "git_branch: main\n  allow: [unbound]", map[string]any{"git_branch": "main"}, ""},
	} {
		i := issuer(tt.ci)
		// As a verifier reads them, with numbers as they are written.
		text, err := json.Marshal(devissuer.Claims(tt.ci, tt.over))
		if err != nil {
			t.Fatal(err)
		}
		claims, err := ci.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		job := unverified(i, claims)
		p, err := Compile(map[string][]Rule{"octo": rules(t, ruleSource(job, strings.Split(tt.rule, "\n  ")))}, []Issuer{i})
		if err != nil {
			t.Errorf("%s, %s: %v", tt.ci, tt.rule, err)
			continue
		}
		_, err = p.Match("octo", job)
		if (err == nil) != (tt.wants == "") || err != nil && !strings.Contains(err.Error(), tt.wants) {
			t.Errorf("%s, %s, %v: %v, want %q", tt.ci, tt.rule, tt.over, err, tt.wants)
		}
	}
}
