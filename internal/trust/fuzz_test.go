package trust

// This file fuzzes what reads bytes of strangers (tokens, key sets) and what
// reads the rules that people write.

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// A token that is read is one that reads in one way only: written again from its
// parts it is the same bytes, and its claims survive being written as JSON.
func FuzzToken(f *testing.F) {
	b64 := base64.RawURLEncoding.EncodeToString
	compact := func(header, payload, sig string) string {
		return b64([]byte(header)) + "." + b64([]byte(payload)) + "." + b64([]byte(sig))
	}
	const header = `{"alg":"RS256","kid":"a","typ":"JWT"}`
	for _, seed := range []string{
		compact(header, `{"iss":"https://ci.example","aud":"cfa:v1:relay.example:U","iat":1795435200,"exp":1795435500}`, "sig"),
		compact(header, `{"aud":["a"],"n":1e3,"x":{"y":[null,true]}}`, ""),
		compact(header, `{"a":1,"a":2}`, "x"),
		compact(header, `{"sub":"a","SUB":"b"}`, "x"),
		compact(`{"alg":"none","kid":"a"}`, `{}`, ""),
		compact(`{"alg":"RS256","kid":"a","crit":["b64"],"b64":false}`, `{}`, "x"),
		"", ".", "..", "...", "e30.e30.", "e30.e31.", " e30.e30.", "e30.e30.\n", `{"payload":"e30","protected":"e30","signature":""}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		tok, err := readToken(raw)
		if err != nil {
			refused(t, err, CodeForm, "")
			return
		}
		parts := strings.Split(raw, ".")
		if len(parts) != 3 || b64(tok.payload) != parts[1] {
			t.Fatalf("%q is not what was read", raw)
		}
		again, err := json.Marshal(map[string]any(tok.claims))
		if err != nil {
			t.Fatal(err)
		}
		other, err := readToken(parts[0] + "." + b64(again) + "." + parts[2])
		if err != nil {
			if len(again) > len(tok.payload) {
				return // escapes made it too long
			}
			t.Fatalf("written again it is refused: %v", err)
		}
		if twice, _ := json.Marshal(map[string]any(other.claims)); string(twice) != string(again) {
			t.Fatalf("claims changed: %s, %s", again, twice)
		}
		if issued, expires, err := tok.times(start, true); err == nil {
			if issued.After(start.Add(time.Minute)) || issued.Before(start.Add(-10*time.Minute)) || !expires.After(start) || expires.Sub(issued) > 24*time.Hour {
				t.Fatalf("times %v, %v", issued, expires)
			}
		}
		if issued, expires, err := tok.times(start, false); err == nil {
			if issued.After(start.Add(time.Minute)) || !expires.After(start) || expires.Sub(issued) > 24*time.Hour {
				t.Fatalf("times of a token that was given %v, %v", issued, expires)
			}
		}
		if aud, err := tok.audience(); err == nil && aud == "" {
			t.Fatal("an empty audience")
		}
	})
}

// Every key that is taken can verify, and a set that gives none is an error.
func FuzzKeySet(f *testing.F) {
	f.Add([]byte(set(jwk(&stranger.PublicKey, "a", nil))))
	f.Add([]byte(set(jwk(&stranger.PublicKey, "a", map[string]any{"x5c": []string{"MIIB"}}), map[string]any{"kty": "oct", "k": "AAAA", "kid": "b"})))
	f.Add([]byte(`{"keys":[]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","kid":"a","x":"","y":""}]}`))
	f.Add([]byte(`{"keys":[null,{},{"kty":null}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		keys, err := readKeys(body, Issuer{Algs: []string{"RS256", "ES256"}})
		if (err == nil) != (len(keys) > 0) {
			t.Fatalf("%v, %v", keys, err)
		}
		for kid, list := range keys {
			if kid == "" || len(list) == 0 || len(list) > maxKeys {
				t.Fatalf("%q: %d keys", kid, len(list))
			}
		}
	})
}

// A rule that is read and written again is the same rule, and one that compiles
// pins its ids.
func FuzzRules(f *testing.F) {
	for _, seed := range []string{
		"- provider: github\n  repository_id: \"1\"\n  repository_owner_id: 2\n  ref: {pattern: 'refs/tags/v[0-9]+'}\n  event_name: [push, workflow_dispatch]\n  allow: [self-hosted]\n",
		"- provider: circleci\n  org-id: a\n  oidc.circleci.com/project-id: b\n  ssh-rerun: false\n  context-ids: [x, {pattern: 'y+'}]\n",
		"- provider: static\n  project_id: \"1\"\n  owner_id: \"1\"\n  allow: [unbound]\n",
		"- provider: github\n  repository_id: &a 1\n  repository_owner_id: *a\n",
		"- {provider: github, <<: {repository_id: 1}}\n",
		"- provider: github\n  ref: \"a\\nb\"\n  x: !!binary aGk=\n",
		"[]", "{}", "- 1", "- provider: ~",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, source []byte) {
		if len(source) > 4<<10 {
			return
		}
		var before []Rule
		if yaml.Unmarshal(source, &before) != nil || len(before) == 0 {
			return
		}
		for _, r := range before {
			if r.Provider == "" { // a null in the list gives an empty rule
				if _, err := Compile(map[string][]Rule{"p": {r}}, table()); err == nil {
					t.Fatal("an empty rule compiles")
				}
				return
			}
		}
		written, err := yaml.Marshal(before)
		if err != nil {
			t.Fatal(err)
		}
		var after []Rule
		if err := yaml.Unmarshal(written, &after); err != nil || !sameRules(before, after) {
			t.Fatalf("%v\nbefore %q\nafter  %q", err, source, written)
		}
		p, err := Compile(map[string][]Rule{"p": before}, table())
		if err != nil {
			return
		}
		for _, r := range p.projects["p"] {
			for _, id := range r.issuer.Provider.IDs {
				if !r.names[id] {
					t.Fatalf("a rule without %s compiles: %q", id, source)
				}
			}
		}
		for _, stranger := range []*Job{githubJob(map[string]any{"repository_owner_id": "no such id"}), circleJob(map[string]any{"org-id": "no such id"})} {
			if rule, err := p.Match("p", stranger); err == nil && !strings.Contains(string(source), "no such id") {
				t.Fatalf("%s lets a stranger in: %q", rule, source)
			}
		}
	})
}
