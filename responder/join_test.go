package main

// What an invitation may change, and what it may not.

import (
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

func TestARelayIsWrittenIntoTheSettingsThatThereAre(t *testing.T) {
	t.Parallel()
	r := relaySettings{URL: "wss://new.example.com", CAFile: "/x/relay.pem"}
	const entry = "  - url: wss://new.example.com\n    ca-file: /x/relay.pem\n"
	for name, c := range map[string]struct{ before, after string }{
		"nothing":         {"", "relays:\n" + entry},
		"only comments":   {"# mine\n", "# mine\n"},
		"another relay":   {"# mine\nrelays:\n  - url: wss://old.example.com # work\n", "# mine\nrelays:\n  - url: wss://old.example.com # work\n" + entry},
		"an empty list":   {"relays: []\nask: []\n", "relays:\n" + entry + "ask: []\n"},
		"no list":         {"ask: []\n", "ask: []\nrelays:\n" + entry},
		"there already":   {"relays: [{url: wss://new.example.com, ca-file: /x/relay.pem}]\n", "relays: [{url: wss://new.example.com, ca-file: /x/relay.pem}]\n"},
		"with less of it": {"relays:\n  - url: wss://new.example.com\n  - url: wss://old.example.com\n", "relays:\n" + entry + "  - url: wss://old.example.com\n"},
	} {
		out, changed, err := withRelay([]byte(c.before), r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if name == "only comments" { // where the library leaves them is its own business
			if !strings.Contains(string(out), "relays:\n"+entry) {
				t.Errorf("%s:\n%s", name, out)
			}
			continue
		}
		if string(out) != c.after || changed != (c.before != c.after) {
			t.Errorf("%s, changed %t:\n%s", name, changed, out)
		}
	}
	many := "relays:\n" + strings.Repeat("  - url: wss://old.example.com\n", maxRelays)
	for name, bad := range map[string]string{"nothing that it knows": "x: 1\n", "no YAML": "relays: [", "too many": many, "a word": "relays\n"} {
		if out, _, err := withRelay([]byte(bad), r); err == nil {
			t.Errorf("%s was changed:\n%s", name, out)
		}
	}
}

func FuzzWithRelay(f *testing.F) {
	r := relaySettings{URL: "wss://new.example.com", Name: "relay"}
	for _, s := range []string{"", "# x\n", "relays: []", "relays:\n  - url: wss://a # b\n", "ask: []\n", "relays: &a [{url: x}]\n", "---\n...\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before, err := parseSettings(data)
		if err != nil {
			return
		}
		out, _, err := withRelay(data, r)
		if err != nil {
			return
		}
		after, err := parseSettings(out)
		if err != nil {
			t.Fatalf("%q became %q, which is not read: %v", data, out, err)
		}
		if len(after.Relays) < len(before.Relays) || len(after.Ask) != len(before.Ask) || len(after.Ways) != len(before.Ways) {
			t.Fatalf("%q became %q", data, out)
		}
	})
}

func TestAnInvitationProposesAndChangesNothingThatIsThere(t *testing.T) {
	t.Parallel()
	rule := func(id string) trust.Rule {
		return trust.Rule{Provider: "github", Claims: map[string][]trust.Value{"repository_id": {{Text: id}}, "repository_owner_id": {{Text: "9"}}}}
	}
	own := pinsFile{
		Issuers: []issuerEntry{{Name: "ghes", Provider: "github", URL: "https://ghes.example.com/_services/token"}},
		Pins:    map[string][]trust.Rule{"asar": {rule("1")}, "other": {rule("7")}},
	}
	const head = "pins:\n  asar:\n"
	one := "    - {provider: github, repository_id: \"1\", repository_owner_id: \"9\"}\n"
	two := "    - {provider: github, repository_id: \"2\", repository_owner_id: \"9\"}\n"
	for name, c := range map[string]struct {
		pins  string
		added int
		want  string // of the error
	}{
		"what is pinned already":             {head + one, 0, ""},
		"one more":                           {head + one + two, 1, ""},
		"nothing":                            {"", 0, ""},
		"another issuer":                     {"issuers: [{name: new, provider: github, url: https://new.example.com/_services/token}]\n" + head + "    - {provider: new, repository_id: \"2\", repository_owner_id: \"9\"}\n", 1, ""},
		"the same issuer":                    {"issuers: [{name: ghes, provider: github, url: https://ghes.example.com/_services/token}]\n" + head + "    - {provider: ghes, repository_id: \"2\", repository_owner_id: \"9\"}\n", 1, ""},
		"another issuer under an own's name": {"issuers: [{name: ghes, provider: github, url: https://evil.example.com/_services/token}]\n" + head + "    - {provider: ghes, repository_id: \"2\", repository_owner_id: \"9\"}\n", 0, "which is the name of another issuer in your pins"},
		"another issuer as github":           {"issuers: [{name: github, provider: github, url: https://evil.example.com/_services/token}]\n" + head + two, 0, "name is taken"},
		"pins of another project":            {"pins:\n  other:\n" + two, 0, "proposes pins for other, too"},
		"a rule that fits too much":          {head + "    - {provider: github, repository_id: \"2\"}\n", 0, "would not be good ones"},
		"no YAML":                            {"pins: [", 0, "cannot be read"},
		"something else":                     {"code: x\n", 0, "cannot be read"},
	} {
		next, added, err := own.proposed(wire.Invitation{Project: "asar", Pins: c.pins})
		switch {
		case c.want != "":
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil || len(added) != c.added:
			t.Errorf("%s: %d added, %v", name, len(added), err)
		case c.added > 0 && (len(next.Pins["asar"]) != 1+c.added || len(next.Pins["other"]) != 1):
			t.Errorf("%s: %+v", name, next)
		}
		if len(own.Pins["asar"]) != 1 || len(own.Issuers) != 1 {
			t.Fatalf("%s: what was there was changed", name)
		}
	}
}

func TestWhatIsTypedSaysWhatStandsBehindAProject(t *testing.T) {
	t.Parallel()
	rule := func(provider string, claims ...string) trust.Rule {
		r := trust.Rule{Provider: provider, Claims: map[string][]trust.Value{}}
		for i := 0; i < len(claims); i += 2 {
			r.Claims[claims[i]] = append(r.Claims[claims[i]], trust.Value{Text: claims[i+1]})
		}
		return r
	}
	for name, c := range map[string]struct {
		r     trust.Rule
		value string // "": it cannot be said
		what  string
	}{
		"a repository's name": {rule("github", "repository", "electron/asar", "repository_id", "1"), "electron/asar", "the repository's name"},
		"its id alone":        {rule("github", "repository_id", "1", "repository_owner_id", "2"), "1", "the repository_id"},
		"CircleCI's":          {rule("circleci", "org-id", "x", "project-id", "y"), "y", "the project-id"},
		"an account":          {rule("google-cloud-build", "sub", "123"), "123", "the repository's name"},
		"one of two":          {rule("github", "repository_id", "1", "repository_id", "2"), "", ""},
		"no CI":               {rule("nowhere", "repository_id", "1"), "", ""},
	} {
		value, what, err := stands(c.r, pinsFile{})
		if value != c.value || what != c.what || (err == nil) != (c.value != "") {
			t.Errorf("%s: %q, %q, %v", name, value, what, err)
		}
	}
}
