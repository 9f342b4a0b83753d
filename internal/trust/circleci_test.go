package trust

// This file shows that a rule can pin each claim that says which job on CircleCI
// it is, and that a claim which is missing, empty or of another kind fits nothing.

import (
	"errors"
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/ci"
)

func TestEachClaimOfACircleCIJobCanBePinnedAndAMissingOneFitsNothing(t *testing.T) {
	t.Parallel()
	const rule = `
- provider: circleci
  org-id: c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e
  project-id: 3a2f5b1c-7d4e-4f6a-9b8c-0d1e2f3a4b5c
  vcs-origin: github.com/octo-org/octo-repo
  vcs-ref: refs/heads/main
  context-ids: 7b6a5c4d-3e2f-4a1b-8c9d-0e1f2a3b4c5d
  ssh-rerun: false
`
	const other = "0a0a0a0a-0b0b-4c0c-8d0d-0e0e0e0e0e0e"
	policies := map[string]*Policy{
		"as it is": compile(t, rule),
		// What is pinned is not lifted by a word that allows its danger.
		"with every danger allowed": compile(t, rule+"  allow: [ssh-rerun, no-vcs, any-origin]\n"),
	}
	for name, p := range policies {
		if _, err := p.Match("octo", circleJob(nil)); err != nil {
			t.Errorf("%s: the job that is meant: %v", name, err)
		}
		several := circleJob(map[string]any{"context-ids": []any{other, "7b6a5c4d-3e2f-4a1b-8c9d-0e1f2a3b4c5d"}})
		if _, err := p.Match("octo", several); err != nil {
			t.Errorf("%s: a job with a second context: %v", name, err)
		}
	}
	for claim, wrong := range map[string][]any{
		"org-id":      {other, "", nil, []any{other}, true},
		"project-id":  {other, "", nil, true},
		"vcs-origin":  {"github.com/mallory/octo-repo", "github.com/octo-org/octo-repo2", "github.com/Octo-Org/octo-repo", "", nil, false},
		"vcs-ref":     {"refs/heads/main-attacker", "refs/tags/main", "main", "", nil, false},
		"context-ids": {[]any{other}, []any{}, []any{"7b6a5c4d-3e2f-4a1b-8c9d-0e1f2a3b4c5d," + other}, []any{[]any{"7b6a5c4d-3e2f-4a1b-8c9d-0e1f2a3b4c5d"}}, other, nil},
		"ssh-rerun":   {true, "true", "", nil, []any{true}},
	} {
		for _, value := range wrong {
			for name, p := range policies {
				_, err := p.Match("octo", circleJob(map[string]any{claim: value}))
				var m *Mismatch
				if !errors.As(err, &m) || !strings.Contains(m.Error(), claim) {
					t.Errorf("%s: %s is %v: %v", name, claim, value, err)
				}
				if value == nil && !strings.Contains(m.Error(), "the ID token has no "+claim) {
					t.Errorf("%s: no %s: %v", name, claim, err)
				}
			}
		}
	}
	// CircleCI sends a boolean. A text is what somebody else sends.
	if _, err := policies["as it is"].Match("octo", circleJob(map[string]any{"ssh-rerun": "false"})); err == nil {
		t.Error("the text false fits")
	}
}

// A rule that says nothing of it must not let it in: these are the two dangers of
// CircleCI's tokens that a rule's writer does not think of.
func TestAnSSHRerunAndAMissingRepositoryNeedTheRulesWord(t *testing.T) {
	t.Parallel()
	ids := ruleSource(circleJob(nil), nil)
	for _, c := range []struct {
		word string
		over map[string]any
	}{
		{"ssh-rerun", map[string]any{"ssh-rerun": true}},
		{"ssh-rerun", map[string]any{"ssh-rerun": nil}},
		{"ssh-rerun", map[string]any{"ssh-rerun": "false"}},
		{"no-vcs", map[string]any{"vcs-origin": nil, "vcs-ref": nil}},
		{"no-vcs", map[string]any{"vcs-ref": nil}},
		{"no-vcs", map[string]any{"vcs-origin": ""}},
	} {
		without, with := compile(t, ids+"  allow: [any-origin]\n"), compile(t, ids+"  allow: [any-origin, "+c.word+"]\n")
		if _, err := without.Match("octo", circleJob(c.over)); err == nil || !strings.Contains(err.Error(), "add `allow: ["+c.word+"]`") {
			t.Errorf("%v without the word: %v", c.over, err)
		}
		if _, err := with.Match("octo", circleJob(c.over)); err != nil {
			t.Errorf("%v with the word: %v", c.over, err)
		}
	}
}

// What not each job has may be missing from a token; what each has may not, not
// even where no rule asks for it.
func TestACircleCITokenWithoutWhatEachHasIsNotVerified(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Issuer{Provider: ci.Find("circleci")}, Options{})
	verify := func(over map[string]any) error {
		_, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, over)})
		return err
	}
	for _, over := range []map[string]any{nil, {"vcs-origin": nil, "vcs-ref": nil}, {"context-ids": nil}, {"context-ids": []any{}}, {"ssh-rerun": true}} {
		if err := verify(over); err != nil {
			t.Errorf("%v: %v", over, err)
		}
	}
	for _, claim := range []string{"org-id", "project-id", "pipeline-id", "workflow-id", "job-id", "ssh-rerun"} {
		if err := verify(map[string]any{claim: nil}); err == nil {
			t.Errorf("a token without %s was verified", claim)
		}
	}
	for name, over := range map[string]map[string]any{
		"a text for a boolean": {"ssh-rerun": "false"}, "a number for a boolean": {"ssh-rerun": 0},
		"a text for a list": {"context-ids": "a"}, "numbers in a list": {"context-ids": []any{1}},
		"a boolean for a text": {"vcs-ref": true}, "the default audience": {"aud": "c9035eb6-6eb2-4c85-8a81-d9ed6a1d1d1e"},
	} {
		if err := verify(over); err == nil {
			t.Errorf("%s: verified", name)
		}
	}
}
