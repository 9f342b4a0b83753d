package trust

// This file shows what the person who runs a relay is told of a token.

import (
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/wire"
)

func TestAnInspectionSaysWhichCheckFailedAndWhichRuleFits(t *testing.T) {
	t.Parallel()
	w := github(t)
	source := func(ref string) []Rule { return rules(t, ruleSource(w.job(t, nil), []string{"ref: " + ref})) }
	p, err := Compile(map[string][]Rule{"fits": source("refs/heads/main"), "other": source("refs/heads/other")}, Known())
	if err != nil {
		t.Fatal(err)
	}
	_, other := newKey(t)
	for _, test := range []struct {
		name     string
		token    string
		accepted bool
		projects bool
		has      []string
		hasNot   []string
	}{
		{"good", w.token(t, nil), true, true, []string{"ok    signature", "ok    audience", "ok    time", "ok    claim"}, []string{"FAIL"}},
		{"good for another key, from a file", w.token(t, map[string]any{"aud": wire.Audience(relay, other)}) + "\n", true, true, []string{other}, []string{"FAIL"}},
		{"wrong audience", w.token(t, map[string]any{"aud": "sts.amazonaws.com"}), false, true, []string{"ok    signature", `FAIL  audience   the ID token's audience is "sts.amazonaws.com"`, "<key>", "ok    time"}, []string{"FAIL  signature"}},
		{"the relay's name and no key", w.token(t, map[string]any{"aud": wire.UnboundAudience(relay)}), false, true, []string{"FAIL  binding"}, nil},
		{"the relay's name and what is no key", w.token(t, map[string]any{"aud": wire.Audience(relay, "x")}), false, true, []string{"FAIL  audience"}, nil},
		{"old", w.token(t, map[string]any{"iat": in(-time.Hour), "exp": in(-30 * time.Minute)}), false, true, []string{"FAIL  time", "issued 60 min ago", "ok    audience", "ok    claim"}, []string{"go-oidc"}},
		{"wrong audience and broken signature", w.token(t, map[string]any{"aud": "sts.amazonaws.com"}, devissuer.Key(stranger)), false, false, []string{"ok    issuer", "FAIL  signature"}, []string{"audience"}},
		{"old and broken signature", w.token(t, map[string]any{"exp": in(-time.Hour)}, devissuer.Key(stranger)), false, false, []string{"FAIL  signature"}, []string{"expired"}},
		{"unknown issuer", w.token(t, map[string]any{"iss": w.URL() + "/"}), false, false, []string{"ok    form", "FAIL  issuer", "compared exactly"}, []string{"signature"}},
		{"algorithm", w.token(t, nil, devissuer.Alg("none")), false, false, []string{"ok    issuer", "FAIL  algorithm"}, []string{"signature"}},
		{"form", "not a token", false, false, []string{"FAIL  form"}, []string{"issuer"}},
		{"a claim is missing", w.token(t, map[string]any{"run_id": nil}), false, false, []string{`FAIL  claim      the ID token is not a job's: claim "run_id" is missing`}, nil},
		{"a claim that go-oidc cannot read", w.token(t, map[string]any{"nonce": 5}), false, true, []string{"FAIL  claim      the ID token's claims are refused by go-oidc"}, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			in := w.v.Inspect(t.Context(), test.token, p)
			text := in.String()
			for _, s := range test.has {
				if !strings.Contains(text, s) {
					t.Errorf("does not say %q:\n%s", s, text)
				}
			}
			for _, s := range test.hasNot {
				if strings.Contains(text, s) {
					t.Errorf("says %q:\n%s", s, text)
				}
			}
			if in.Accepted != test.accepted {
				t.Errorf("accepted %v:\n%s", in.Accepted, text)
			}
			if !test.projects {
				if len(in.Projects) != 0 {
					t.Errorf("compares claims with rules that nobody vouches for:\n%s", text)
				}
				return
			}
			for _, want := range []string{
				"project fits: fits/ci[0] line 1 fits\n",
				"project other: no rule fits\n",
				`  rule 1 (line 1): ref is "refs/heads/main", the rule wants "refs/heads/other"`,
			} {
				if !strings.Contains(text, want) {
					t.Errorf("does not say %q:\n%s", want, text)
				}
			}
			if parts := strings.Split(test.token, "."); strings.Contains(text, parts[2]) || strings.Contains(text, parts[1]) {
				t.Error("the inspection holds the token")
			}
		})
	}
	if in := w.v.Inspect(t.Context(), w.token(t, nil), nil); !in.Accepted || len(in.Projects) != 0 {
		t.Errorf("without a policy: %v", in)
	}
}

// An inspection is an explanation of Verify and must not drift from it.
func TestAnInspectionAndVerifyAgree(t *testing.T) {
	t.Parallel()
	w := github(t)
	if err := w.keys.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, a := range attacks {
		token := a.token(t, w)
		if a.name == "replay under another key" || strings.TrimSpace(token) != token {
			continue // it knows no key, and takes the line break that a file ends with
		}
		in := w.v.Inspect(t.Context(), token, nil)
		var failed []Code
		for _, s := range in.Steps {
			if !s.OK {
				failed = append(failed, s.Code)
			}
		}
		if in.Accepted || len(failed) == 0 || failed[0] != a.code {
			t.Errorf("%s: Verify says %s, the inspection %v", a.name, a.code, failed)
		}
	}
	if in := w.v.Inspect(t.Context(), w.token(t, nil), nil); !in.Accepted {
		t.Errorf("an honest token:\n%s", in)
	}
}
