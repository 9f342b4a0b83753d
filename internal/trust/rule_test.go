package trust

// This file shows which rules are refused, on which line, and what they say.

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/continuousauth/action/internal/ci"
)

const ids = "\n  repository_id: \"1\"\n  repository_owner_id: \"2\"\n  "

func TestARuleThatIsNotExactlyUnderstoodIsRefusedWithItsLine(t *testing.T) {
	t.Parallel()
	many := "[" + strings.Repeat("x,", 50) + "x]"
	for _, test := range []struct{ name, rule, line, why string }{
		{"not a mapping", "- github", "line 1", "a rule is a mapping"},
		{"no provider", "- repository_id: \"1\"", "line 1", "no `provider:`"},
		{"provider is a number", "- provider: 5", "line 1", "one plain word"},
		{"unknown provider", "- provider: githib" + ids, "line 1", `"githib" is not the name of an issuer that is configured here; did you mean github? (configured: buildkite, circleci, github, gitlab, google-cloud-build, static)`},
		{"no ids", "- provider: github\n  repository: octo-org/octo-repo", "line 1", "does not name repository_id"},
		{"no owner id", "- provider: github\n  repository_id: \"1\"", "line 1", "does not name repository_owner_id"},
		{"only an actor", "- provider: github\n  actor: octocat", "line 1", "does not name repository_id"},
		{"an id as pattern", "- provider: github\n  repository_id: {pattern: '1.*'}\n  repository_owner_id: \"2\"", "line 2", "may not be a pattern"},
		{"an id as pattern in a list", "- provider: github\n  repository_id: [\"1\", {pattern: '2'}]\n  repository_owner_id: \"2\"", "line 2", "may not be a pattern"},
		{"a name for an id", "- provider: github\n  repository_id: octo-repo\n  repository_owner_id: \"2\"", "line 2", `repository_id is "octo-repo", which no job's id can be; an id of GitHub Actions is a number`},
		{"a name for an id in a list", "- provider: github\n  repository_id: \"1\"\n  repository_owner_id: [\"2\", octo]", "line 3", `repository_owner_id is "octo"`},
		{"an id with a space", "- provider: github\n  repository_id: \"1 \"\n  repository_owner_id: \"2\"", "line 2", "no job's id"},
		{"an id with a zero before", "- provider: github\n  repository_id: \"012\"\n  repository_owner_id: \"2\"", "line 2", "no job's id"},
		{"unknown claim", "- provider: github" + ids + "repo_id: \"5\"", "line 4", `no claim "repo_id"`},
		{"misspelt claim", "- provider: github" + ids + "enviroment: npm", "line 4", "did you mean environment?"},
		{"claim in capitals", "- provider: github" + ids + "Environment: npm", "line 4", "did you mean environment?"},
		{"another CI's claim", "- provider: github" + ids + "vcs-origin: x", "line 4", `no claim "vcs-origin"`},
		{"sub", "- provider: github" + ids + "sub: repo:o/r:ref:refs/heads/main", "line 4", "administrator can change"},
		{"aud", "- provider: github" + ids + "aud: x", "line 4", "by itself"},
		{"claim twice", "- provider: github" + ids + "ref: a\n  ref: b", "line 5", `"ref" stands twice`},
		{"claim twice by two names", "- provider: circleci\n  org-id: a\n  oidc.circleci.com/org-id: b\n  project-id: c", "line", "stands twice"},
		{"empty value", "- provider: github" + ids + "environment: ''", "line 4", "empty value"},
		{"no value", "- provider: github" + ids + "environment:", "line 4", "has no value"},
		{"tilde", "- provider: github" + ids + "environment: ~", "line 4", "has no value"},
		{"empty list", "- provider: github" + ids + "environment: []", "line 4", "empty list"},
		{"list in a list", "- provider: github" + ids + "environment: [[npm]]", "line 4", "a value is a text"},
		{"null in a list", "- provider: github" + ids + "environment: [npm, null]", "line 4", "has no value"},
		{"too many values", "- provider: github" + ids + "environment: " + many, "line 4", "51 values"},
		{"endless value", "- provider: github" + ids + "environment: " + strings.Repeat("x", 1001), "line 4", "1001 bytes"},
		{"a float", "- provider: github" + ids + "environment: 1.10", "line 4", "in quotes"},
		{"a date", "- provider: github" + ids + "environment: 2026-11-23", "line 4", "in quotes"},
		{"octal", "- provider: github\n  repository_id: 0777\n  repository_owner_id: \"2\"", "line 2", "in quotes"},
		{"hexadecimal", "- provider: github\n  repository_id: 0x1F\n  repository_owner_id: \"2\"", "line 2", "in quotes"},
		{"underscores", "- provider: github\n  repository_id: 9_384_267\n  repository_owner_id: \"2\"", "line 2", "in quotes"},
		{"true for a text", "- provider: github" + ids + "ref_protected: true", "line 4", `write "true", in quotes`},
		{"a text for a boolean", "- provider: circleci\n  org-id: a\n  project-id: b\n  ssh-rerun: never", "line 4", "write true or false"},
		{"capital True", "- provider: circleci\n  org-id: a\n  project-id: b\n  ssh-rerun: True", "line 4", "write true or false"},
		{"pattern for a boolean", "- provider: circleci\n  org-id: a\n  project-id: b\n  ssh-rerun: {pattern: 't.*'}", "line 4", "may not be a pattern"},
		{"binary", "- provider: github" + ids + "environment: !!binary bnBt", "line 4", "in quotes"},
		{"alias", "- provider: github\n  repository_id: &a \"1\"\n  repository_owner_id: *a", "line 3", "not a YAML alias"},
		{"merge", "- provider: github\n  <<: {repository_id: \"1\"}", "line 2", "plain words"},
		{"a number as a name", "- provider: github\n  5: x", "line 2", "plain words"},
		{"a mapping that is no pattern", "- provider: github" + ids + "ref: {regex: x}", "line 4", "{pattern:"},
		{"pattern and more", "- provider: github" + ids + "ref: {pattern: x, flags: i}", "line 4", "{pattern:"},
		{"pattern that is a number", "- provider: github" + ids + "ref: {pattern: 5}", "line 4", "{pattern:"},
		{"empty pattern", "- provider: github" + ids + "ref: {pattern: ''}", "line 4", "empty value"},
		{"pattern of everything", "- provider: github" + ids + "ref: {pattern: '.*'}", "line 4", "matches the empty text"},
		{"pattern of everything but nothing", "- provider: github" + ids + "ref: {pattern: '.+'}", "line 4", "matches everything"},
		{"pattern of everything, hidden", "- provider: github" + ids + `ref: {pattern: 'main|\S+'}`, "line 4", "matches everything"},
		{"pattern of nothing, hidden", "- provider: github" + ids + "ref: {pattern: 'main|'}", "line 4", "matches the empty text"},
		{"optional pattern", "- provider: github" + ids + "ref: {pattern: '(npm)?'}", "line 4", "matches the empty text"},
		{"broken pattern", "- provider: github" + ids + "ref: {pattern: '['}", "line 4", "missing closing"},
		{"pattern that leaves its group", "- provider: github" + ids + "ref: {pattern: 'main)|(?:.*'}", "line 4", "unexpected )"},
		{"pattern that swallows its group", "- provider: github" + ids + `ref: {pattern: '\Qmain'}`, "line 4", "close what it opens"},
		{"pattern that explodes", "- provider: github" + ids + "ref: {pattern: '((a{900}){900}){900}'}", "line 4", "repeat"},
		{"long pattern", "- provider: github" + ids + "ref: {pattern: '" + strings.Repeat("x", 501) + "'}", "line 4", "501 bytes"},
		{"allow is a word", "- provider: github" + ids + "allow: self-hosted", "line 4", "list of words"},
		{"allow is empty", "- provider: github" + ids + "allow: []", "line 4", "list of words"},
		{"misspelt danger", "- provider: github" + ids + "allow: [selfhosted]", "line 4", "did you mean self-hosted?"},
		{"another CI's danger", "- provider: github" + ids + "allow: [ssh-rerun]", "line 4", `"ssh-rerun" is no danger that jobs of GitHub Actions have`},
		{"danger twice", "- provider: github" + ids + "allow: [self-hosted, self-hosted]", "line 4", "stands there twice"},
		{"everything allowed", "- provider: github" + ids + "allow: ['*']", "line 4", "is no danger"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var out []Rule
			err := yaml.Unmarshal([]byte(test.rule), &out)
			if err == nil {
				_, err = Compile(map[string][]Rule{"octo": out}, table())
			}
			if err == nil || !strings.Contains(err.Error(), test.line) || !strings.Contains(err.Error(), test.why) {
				t.Fatalf("error %v\nwant %q and %q", err, test.line, test.why)
			}
		})
	}
}

func TestAllThatIsWrongIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	_, err := Compile(map[string][]Rule{
		"octo": rules(t, "- provider: github\n- provider: drone\n"),
		"none": {},
		"BAD":  rules(t, "- provider: github"+ids+"ref: x"),
		"many": make([]Rule, maxRules+1),
	}, Known())
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`project "octo": line 1: the rule does not name repository_id`, `project "octo": line 2: "drone" is not`,
		`project "none": it has no rules`, `project "BAD": `, `project "many": it has 101 rules`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}

func TestAShortNameThatCouldMeanTwoClaimsIsRefused(t *testing.T) {
	t.Parallel()
	row := &ci.Provider{Name: "two", Title: "Two", Bound: true, Claims: []ci.Claim{{Name: "a/id"}, {Name: "b/id"}, {Name: "c/x"}, {Name: "x"}}, IDs: []string{"a/id"}}
	issuers := []Issuer{{Provider: row, URL: "https://two.example"}}
	_, err := Compile(map[string][]Rule{"p": rules(t, "- provider: two\n  id: \"1\"")}, issuers)
	if err == nil || !strings.Contains(err.Error(), `line 2: "id" can mean several claims`) {
		t.Error(err)
	}
	// A full name is never ambiguous.
	if _, err := Compile(map[string][]Rule{"p": rules(t, "- provider: two\n  a/id: \"1\"\n  x: y")}, issuers); err != nil {
		t.Error(err)
	}
}

func TestNumbersStandAsTheyAreWritten(t *testing.T) {
	t.Parallel()
	job := githubJob(map[string]any{"repository_id": "9384267", "repository_owner_id": "13409222"})
	p := compile(t, "- provider: github\n  repository_id: 9384267\n  repository_owner_id: [1, 13409222]\n")
	if _, err := p.Match("octo", job); err != nil {
		t.Error(err)
	}
}

func TestAWrittenRuleReadsAsItself(t *testing.T) {
	t.Parallel()
	source := `- provider: github
  repository_id: "9384267"
  repository_owner_id: [1, "yes", 'no', "null", "1e3", "2026-11-23", " x ", "#", "a: b", "*a", "line\nbreak"]
  event_name: [push, workflow_dispatch]
  ref: {pattern: 'refs/tags/v[0-9]+\.[0-9]+\.[0-9]+'}
  ref_protected: "true"
  allow: [self-hosted]
- provider: circleci
  org-id: a
  ssh-rerun: false
  vcs-ref: [x, {pattern: 'refs/tags/.*'}]
`
	before := rules(t, source)
	written, err := yaml.Marshal(before)
	if err != nil {
		t.Fatal(err)
	}
	after := rules(t, string(written))
	if !sameRules(before, after) {
		t.Errorf("written as\n%s", written)
	}
	if again, _ := yaml.Marshal(after); string(again) != string(written) {
		t.Errorf("written again as\n%s", again)
	}
	if !strings.HasPrefix(string(written), "- provider: github\n  repository_id: \"9384267\"\n  repository_owner_id:") {
		t.Errorf("ids do not stand first:\n%s", written)
	}
}

// sameRules compares all but the lines.
func sameRules(a, b []Rule) bool {
	plain := func(rules []Rule) string {
		var s strings.Builder
		for _, r := range rules {
			claims := maps.Clone(r.Claims)
			for name, values := range claims {
				claims[name] = nil
				for _, v := range values {
					v.Line = 0
					claims[name] = append(claims[name], v)
				}
			}
			fmt.Fprintf(&s, "%q %q %#v\n", r.Provider, r.Allow, claims) // maps print sorted
		}
		return s.String()
	}
	return plain(a) == plain(b)
}
