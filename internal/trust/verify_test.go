package trust

// This file shows what is refused, and that the refusal says why.

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/wire"
)

func TestAnHonestTokenProvesItsJobAndKey(t *testing.T) {
	t.Parallel()
	w := github(t)
	token := w.token(t, map[string]any{"environment": "npm"})
	job, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	if job.Facts.Repository != "octo-org/octo-repo" || job.Facts.Environment != "npm" || !job.Bound || job.Issuer.Name != "github" {
		t.Errorf("job = %+v", job)
	}
	if !job.IssuedAt.Equal(start) || !job.Expires.Equal(start.Add(5*time.Minute)) || len(job.TokenID) != 64 {
		t.Errorf("times %v, %v, id %q", job.IssuedAt, job.Expires, job.TokenID)
	}
	// An audience array of one is the same audience, where the row does not
	// demand a string.
	c := newWorld(t, Issuer{Provider: ci.Find("circleci")}, Options{})
	if _, err := c.v.Verify(t.Context(), Evidence{Key: c.key, Token: c.token(t, map[string]any{"aud": []any{wire.Audience(relay, c.key)}})}); err != nil {
		t.Errorf("audience array of one: %v", err)
	}
}

// attack is one token that must be refused.
type attack struct {
	name  string
	token func(t *testing.T, w *world) string
	code  Code
	why   string
	// early: refused before the issuer's keys are asked for
	early bool
}

// with is a token whose claims differ from an honest one's.
func with(over map[string]any, opts ...devissuer.MintOption) func(*testing.T, *world) string {
	return func(t *testing.T, w *world) string { return w.token(t, over, opts...) }
}

// iss is a token by the true issuer's key that names another issuer.
func iss(change func(url string) any) func(*testing.T, *world) string {
	return func(t *testing.T, w *world) string {
		return w.token(t, map[string]any{"iss": change(w.URL())})
	}
}

// edited is an honest token whose text was changed afterwards.
func edited(change func(header, payload, sig string) string) func(*testing.T, *world) string {
	return func(t *testing.T, w *world) string {
		p := strings.Split(w.token(t, nil), ".")
		return change(p[0], p[1], p[2])
	}
}

// payload is a well-signed token whose payload is an honest one's JSON, changed
// as text.
func payload(change func(json string) string) func(*testing.T, *world) string {
	return func(t *testing.T, w *world) string {
		honest, err := base64.RawURLEncoding.DecodeString(strings.Split(w.token(t, nil), ".")[1])
		if err != nil {
			t.Fatal(err)
		}
		return w.token(t, nil, devissuer.Payload([]byte(change(string(honest)))))
	}
}

// claim puts one more claim in front of an honest payload.
func claim(text string) func(*testing.T, *world) string {
	return payload(func(json string) string { return "{" + text + "," + json[1:] })
}

// raw replaces one claim of an honest payload by JSON text.
func raw(name, text string) func(*testing.T, *world) string {
	return func(t *testing.T, w *world) string {
		p := w.claims(nil)
		p["iat"], p["nbf"], p["exp"], p["jti"] = in(0), in(-5*time.Minute), in(5*time.Minute), "x"
		p[name] = json.RawMessage(text)
		b, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		// Marshal would compact a number such as 1e9 no further, but let the
		// test say exactly what travels.
		if !bytes.Contains(b, []byte(text)) {
			t.Fatalf("payload does not hold %s", text)
		}
		return w.token(t, nil, devissuer.Payload(b))
	}
}

func header(name string, value any) func(*testing.T, *world) string {
	return with(nil, devissuer.Header(name, value))
}

var attacks = []attack{
	// The form: what go-oidc would take.
	{"nothing at all", func(*testing.T, *world) string { return "" }, CodeForm, "no ID token", true},
	{"huge", func(*testing.T, *world) string { return strings.Repeat("A", wire.MaxToken+1) }, CodeForm, "at most 16384", true},
	{"a million dots", func(*testing.T, *world) string { return strings.Repeat(".", 1_000_000) }, CodeForm, "1000000 bytes", true},
	{"ten thousand dots", func(*testing.T, *world) string { return strings.Repeat(".", 10_000) }, CodeForm, "10000 dots", true},
	{"two parts", edited(func(h, p, s string) string { return h + "." + p }), CodeForm, "1 dots", true},
	{"four parts", edited(func(h, p, s string) string { return h + "." + p + "." + s + "." }), CodeForm, "3 dots", true},
	{"JSON serialisation", edited(func(h, p, s string) string {
		return fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q}`, p, h, s)
	}), CodeForm, "0 dots", true},
	{"JSON serialisation with two dots", edited(func(h, p, s string) string {
		return fmt.Sprintf(`{"payload":%q,"protected":%q,"signature":%q,"header":{"a":".."}}`, p, h, s)
	}), CodeForm, "header is not canonical", true},
	{"white space in front", edited(func(h, p, s string) string { return " " + h + "." + p + "." + s }), CodeForm, "header is not canonical", true},
	{"line break at the end", edited(func(h, p, s string) string { return h + "." + p + "." + s + "\n" }), CodeForm, "signature is not canonical", true},
	{"line break inside", edited(func(h, p, s string) string { return h + "." + p[:8] + "\n" + p[8:] + "." + s }), CodeForm, "payload is not canonical", true},
	{"padding", edited(func(h, p, s string) string { return h + "." + p + "." + s + "==" }), CodeForm, "signature is not canonical", true},
	{"altered unused base64 bits", func(t *testing.T, w *world) string {
		// 256 bytes of signature leave four bits of the last character unused.
		token := w.token(t, nil)
		const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
		last := strings.IndexByte(alphabet, token[len(token)-1])
		other := token[:len(token)-1] + string(alphabet[last^1])
		a, errA := base64.RawURLEncoding.DecodeString(token[strings.LastIndexByte(token, '.')+1:])
		b, errB := base64.RawURLEncoding.DecodeString(other[strings.LastIndexByte(other, '.')+1:])
		if errA != nil || errB != nil || !bytes.Equal(a, b) {
			t.Fatal("the two spellings are not of one signature")
		}
		return other
	}, CodeForm, "signature is not canonical", true},
	{"standard base64", edited(func(h, p, s string) string { return h + "." + p + "." + strings.Repeat("+/", 171) }), CodeForm, "signature is not canonical", true},

	// The header.
	{"no algorithm", header("alg", nil), CodeForm, "names no algorithm", true},
	{"alg none", with(nil, devissuer.Alg("none")), CodeAlgorithm, `"none"; from this issuer only RS256`, true},
	{"alg none with a signature", header("alg", "none"), CodeAlgorithm, `"none"`, true},
	{"alg NONE", header("alg", "nOnE"), CodeAlgorithm, `"nOnE"`, true},
	{"alg HS256, signed with the public key", with(nil, devissuer.Alg("HS256")), CodeAlgorithm, `"HS256"`, true},
	{"alg RS384", with(nil, devissuer.Alg("RS384")), CodeAlgorithm, `"RS384"`, true},
	{"alg ES256, which the discovery document lists", with(nil, devissuer.Alg("ES256")), CodeAlgorithm, `"ES256"`, true},
	{"alg is a number", header("alg", 5), CodeForm, "names no algorithm", true},
	{"alg is a list", header("alg", []string{"RS256"}), CodeForm, "names no algorithm", true},
	{"no kid", header("kid", nil), CodeForm, "names no key", true},
	{"empty kid", header("kid", ""), CodeForm, "names no key", true},
	{"kid is a number", header("kid", 1), CodeForm, "names no key", true},
	{"endless kid", header("kid", strings.Repeat("k", maxKeyID+1)), CodeForm, "names no key", true},
	{"jku", header("jku", "https://evil.example/keys"), CodeForm, `"jku"`, true},
	{"x5u", header("x5u", "https://evil.example/cert"), CodeForm, `"x5u"`, true},
	{"jwk", header("jwk", map[string]any{"kty": "RSA"}), CodeForm, `"jwk"`, true},
	{"x5c", header("x5c", []string{"MIIB"}), CodeForm, `"x5c"`, true},
	{"crit", header("crit", []string{"exp"}), CodeForm, `"crit"`, true},
	{"unencoded payload", header("b64", false), CodeForm, `"b64"`, true},
	{"another type of token", header("typ", "at+jwt"), CodeForm, "another kind of token", true},
	{"header with a name twice", with(nil, devissuer.RawHeader([]byte(`{"alg":"RS256","kid":"a","alg":"none"}`))), CodeForm, "each name stands once", true},
	{"header with a name in two cases", with(nil, devissuer.RawHeader([]byte(`{"alg":"RS256","kid":"a","ALG":"none"}`))), CodeForm, "each name stands once", true},
	{"header is no object", with(nil, devissuer.RawHeader([]byte(`["RS256"]`))), CodeForm, "each name stands once", true},

	// The payload: claims that two readers read differently.
	{"a claim twice", claim(`"repository_id":"1"`), CodeForm, "stands twice", true},
	{"a claim twice, once escaped", claim(`"repository_\u0069d":"1"`), CodeForm, "stands twice", true},
	{"a claim in two cases", claim(`"SUB":"repo:victim/repo"`), CodeForm, "differ by case only", true},
	{"a claim with a long s", claim(`"\u017fub":"repo:victim/repo"`), CodeForm, "differ by case only", true},
	{"not JSON", with(nil, devissuer.Payload([]byte("iss=https://ci"))), CodeForm, "not JSON", true},
	{"data after the object", payload(func(j string) string { return j + "{}" }), CodeForm, "not JSON", true},
	{"not UTF-8", claim("\"x\":\"\xff\""), CodeForm, "not UTF-8", true},
	{"payload is an array", with(nil, devissuer.Payload([]byte("[]"))), CodeForm, "not a JSON object", true},

	// The issuer: compared exactly, before any network call.
	{"no issuer", with(map[string]any{"iss": nil}), CodeIssuer, "names no issuer", true},
	{"issuer is a list", iss(func(url string) any { return []string{url} }), CodeIssuer, "names no issuer", true},
	{"issuer of a stranger", iss(func(string) any { return "https://evil.example" }), CodeIssuer, "https://evil.example", true},
	{"issuer as prefix of a path", iss(func(url string) any { return url + "/evil" }), CodeIssuer, "not configured", true},
	{"issuer as prefix of a host", iss(func(url string) any { return url + ".evil.example" }), CodeIssuer, "not configured", true},
	{"issuer with a slash", iss(func(url string) any { return url + "/" }), CodeIssuer, "not configured", true},
	{"issuer in capitals", iss(func(url string) any { return strings.Replace(url, "http", "HTTP", 1) }), CodeIssuer, "not configured", true},
	{"issuer as user name", iss(func(url string) any { return url + "@evil.example" }), CodeIssuer, "not configured", true},
	{"issuer with a user name", iss(func(url string) any { return strings.Replace(url, "://", "://evil@", 1) }), CodeIssuer, "not configured", true},
	{"issuer with a query", iss(func(url string) any { return url + "?" }), CodeIssuer, "not configured", true},
	{"issuer with a zero byte", iss(func(url string) any { return url + "\x00" }), CodeIssuer, "<U+0000>", true},

	// The signature: called that whatever else is wrong.
	{"no signature", edited(func(h, p, s string) string { return h + "." + p + "." }), CodeSignature, "no signature", true},
	{"altered signature", edited(func(h, p, s string) string { return h + "." + p + "." + s[:40] + flip(s[40]) + s[41:] }), CodeSignature, "does not verify", false},
	{"altered payload", func(t *testing.T, w *world) string {
		a, b := strings.Split(w.token(t, nil), "."), strings.Split(w.token(t, map[string]any{"repository_id": "1"}), ".")
		return a[0] + "." + b[1] + "." + a[2]
	}, CodeSignature, "does not verify", false},
	{"signed by a stranger under the issuer's kid", with(nil, devissuer.Key(stranger)), CodeSignature, "does not verify", false},
	{"signed by a stranger, for another audience", with(map[string]any{"aud": "https://other.example"}, devissuer.Key(stranger)), CodeSignature, "does not verify", false},
	{"signed by a stranger, expired", with(map[string]any{"exp": in(-time.Hour)}, devissuer.Key(stranger)), CodeSignature, "does not verify", false},
	{"signed by a stranger, claims missing", with(map[string]any{"repository_id": nil}, devissuer.Key(stranger)), CodeSignature, "does not verify", false},
	{"unknown kid", header("kid", "elsewhere"), CodeSignature, "does not publish", false},
	{"kid as a path", header("kid", "../../dev/null"), CodeSignature, "does not publish", false},
	{"kid of the issuer's key of another type", func(t *testing.T, w *world) string {
		ec := strings.Split(w.token(t, nil, devissuer.Alg("ES256")), ".")[0]
		raw, err := base64.RawURLEncoding.DecodeString(ec)
		if err != nil {
			t.Fatal(err)
		}
		var h struct{ Kid string }
		if err := json.Unmarshal(raw, &h); err != nil {
			t.Fatal(err)
		}
		return w.token(t, nil, devissuer.Header("kid", h.Kid))
	}, CodeSignature, "does not publish", false},

	// The audience.
	{"the CI's default audience", with(map[string]any{"aud": "https://github.com/octo-org"}), CodeAudience, `"https://github.com/octo-org"`, false},
	{"no audience", with(map[string]any{"aud": nil}), CodeAudience, "no audience", false},
	{"empty audience", with(map[string]any{"aud": ""}), CodeAudience, "no audience", false},
	{"no audience in the list", with(map[string]any{"aud": []any{}}), CodeAudience, "no audience", false},
	{"a number in the list", with(map[string]any{"aud": []any{7}}), CodeAudience, "no audience", false},
	{"audience is an object", with(map[string]any{"aud": map[string]any{"a": 1}}), CodeAudience, "no audience", false},
	{"several audiences, ours among them", func(t *testing.T, w *world) string {
		return w.token(t, map[string]any{"aud": []any{wire.Audience(relay, w.key), "sts.amazonaws.com"}})
	}, CodeAudience, "2 audiences", false},
	{"ours twice", func(t *testing.T, w *world) string {
		return w.token(t, map[string]any{"aud": []any{wire.Audience(relay, w.key), wire.Audience(relay, w.key)}})
	}, CodeAudience, "2 audiences", false},
	{"another version's audience", with(map[string]any{"aud": "cfa:v2:relay.example.com:U"}), CodeAudience, "unknown protocol version 2: this program speaks version 1; upgrade this program", false},
	{"another relay's audience", func(t *testing.T, w *world) string {
		return w.token(t, map[string]any{"aud": wire.Audience("other.example", w.key)})
	}, CodeAudience, "cfa:v1:other.example", false},
	{"our audience and more", func(t *testing.T, w *world) string {
		return w.token(t, map[string]any{"aud": wire.Audience(relay, w.key) + ",x"})
	}, CodeAudience, "audience is", false},
	{"replay under another key", func(t *testing.T, w *world) string {
		_, other := newKey(t)
		return w.token(t, map[string]any{"aud": wire.Audience(relay, other)})
	}, CodeAudience, "speaks for the key", false},
	{"downgrade of a bound provider", with(map[string]any{"aud": wire.UnboundAudience(relay)}), CodeBinding, "names no key", false},

	// The times.
	{"no iat", with(map[string]any{"iat": nil}), CodeTime, "when it was issued", false},
	{"no exp", with(map[string]any{"exp": nil}), CodeTime, "when it expires", false},
	{"expired", with(map[string]any{"exp": in(-time.Second)}), CodeTime, "expired 1 s ago", false},
	{"expires now", with(map[string]any{"exp": in(0)}), CodeTime, "expired 0 s ago", false},
	{"replay of an old token that lives for hours", with(map[string]any{"iat": in(-601 * time.Second), "exp": in(6 * time.Hour)}), CodeTime, "issued 10 min ago", false},
	{"issued in the future", with(map[string]any{"iat": in(61 * time.Second)}), CodeTime, "issued 61 s from now", false},
	{"not valid yet", with(map[string]any{"nbf": in(61 * time.Second)}), CodeTime, "valid only 61 s from now", false},
	{"100-year exp", with(map[string]any{"exp": in(100 * 365 * 24 * time.Hour)}), CodeTime, "36500 days", false},
	{"25-hour exp", with(map[string]any{"exp": in(25 * time.Hour)}), CodeTime, "25 h", false},
	{"string exp", raw("exp", `"1795435500"`), CodeTime, `"exp" is not a whole number`, false},
	{"string iat", raw("iat", `"1795435200"`), CodeTime, `"iat" is not a whole number`, false},
	{"float exp", raw("exp", `1795435500.5`), CodeTime, `"exp" is not a whole number`, false},
	{"float iat without a fraction", raw("iat", `1795435200.0`), CodeTime, `"iat" is not a whole number`, false},
	{"exponent exp", raw("exp", `1.7954355e9`), CodeTime, `"exp" is not a whole number`, false},
	{"negative iat", raw("iat", `-1795435200`), CodeTime, `"iat" is not a whole number`, false},
	{"exp in milliseconds", raw("exp", `1795435500000`), CodeTime, `"exp" is not a whole number`, false},
	{"exp beyond every number", raw("exp", `1e400`), CodeTime, `"exp" is not a whole number`, false},
	{"null nbf", raw("nbf", `null`), CodeTime, `"nbf" is not a whole number`, false},
	{"string nbf", raw("nbf", `"0"`), CodeTime, `"nbf" is not a whole number`, false},

	// The claims that a job's token has.
	{"no repository id", with(map[string]any{"repository_id": nil}), CodeClaim, `"repository_id" is missing`, false},
	{"repository id is a number", with(map[string]any{"repository_id": 5}), CodeClaim, `"repository_id" is a number`, false},
	{"repository id is a list", with(map[string]any{"repository_id": []string{"5"}}), CodeClaim, `"repository_id" is an array`, false},
	{"empty owner id", with(map[string]any{"repository_owner_id": ""}), CodeClaim, `"repository_owner_id" is empty`, false},
	{"no sub", with(map[string]any{"sub": nil}), CodeClaim, `"sub" is missing`, false},
	{"SUB instead of sub", func(t *testing.T, w *world) string {
		return w.token(t, map[string]any{"sub": nil, "SUB": "repo:octo-org/octo-repo:ref:refs/heads/main"})
	}, CodeClaim, `"sub" is missing`, false},
	{"no jti, as the runner's own token", with(map[string]any{"jti": nil}), CodeClaim, `"jti" is missing`, false},
	{"environment is null", raw("environment", `null`), CodeClaim, `"environment" is null`, false},
	{"a claim that go-oidc cannot read", with(map[string]any{"nonce": 5}), CodeClaim, "refused by go-oidc", false},
}

var stranger = func() *rsa.PrivateKey {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return k
}()

func flip(c byte) string {
	if c == 'A' {
		return "B"
	}
	return "A"
}

func TestEachAttackOnTheTokenIsRefusedWithItsReason(t *testing.T) {
	t.Parallel()
	w := github(t)
	if err := w.keys.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			token := a.token(t, w)
			_, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: token})
			refused(t, err, a.code, a.why)
			if sig := token[strings.LastIndexByte(token, '.')+1:]; len(sig) > 20 && strings.Contains(err.Error(), sig) {
				t.Error("the error holds the token")
			}
		})
	}
}

func TestNothingIsFetchedForATokenThatConfigurationDoesNotKnow(t *testing.T) {
	t.Parallel()
	w := github(t) // not warmed: any need for keys would fetch
	for _, a := range attacks {
		if !a.early {
			continue
		}
		_, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: a.token(t, w)})
		if err == nil || w.Fetches() != 0 {
			t.Fatalf("%s: %v, and the key set was fetched %d times", a.name, err, w.Fetches())
		}
	}
	w.job(t, nil)
	if w.Fetches() != 1 {
		t.Errorf("an honest token fetched the key set %d times, want 1", w.Fetches())
	}
}

func TestTimesAreAcceptedUpToTheirBounds(t *testing.T) {
	t.Parallel()
	w := github(t)
	for name, over := range map[string]map[string]any{
		"iat a minute ahead":        {"iat": in(60 * time.Second), "nbf": in(60 * time.Second)},
		"iat ten minutes old":       {"iat": in(-600 * time.Second), "exp": in(time.Second)},
		"six hours, as GitHub does": {"exp": in(6 * time.Hour)},
		"24 hours":                  {"exp": in(24 * time.Hour)},
		"no nbf, as CircleCI does":  {"nbf": nil},
	} {
		if _, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, over)}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestASubOfAnyFormDecidesNothing(t *testing.T) {
	t.Parallel()
	w := github(t)
	p := compile(t, ruleSource(w.job(t, nil), nil))
	for _, sub := range []string{"repo:octo-org/octo-repo:ref:refs/heads/main", "repo:victim/victim:environment:npm", "anything by a template", ""} {
		if _, err := p.Match("octo", w.job(t, map[string]any{"sub": sub})); err != nil {
			t.Errorf("sub %q: %v", sub, err)
		}
		if _, err := p.Match("octo", w.job(t, map[string]any{"sub": sub, "repository_id": "666"})); err == nil {
			t.Errorf("sub %q let another repository in", sub)
		}
	}
}

func TestES256IsAcceptedWhereTheIssuerIsConfiguredForIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, Issuer{Provider: ci.Find("github"), Algs: []string{"ES256"}}, Options{})
	token := w.token(t, nil, devissuer.Alg("ES256"))
	job, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: token})
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, nil)})
	refused(t, err, CodeAlgorithm, "only ES256")

	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, nil, devissuer.Alg("ES256"), devissuer.Key(other))})
	refused(t, err, CodeSignature, "does not verify")

	// (r, s) and (r, n-s) are both valid: the second spelling is not a second
	// token.
	cut := strings.LastIndexByte(token, '.') + 1
	sig, err := base64.RawURLEncoding.DecodeString(token[cut:])
	if err != nil {
		t.Fatal(err)
	}
	twin := token[:cut] + base64.RawURLEncoding.EncodeToString(negate(sig))
	again, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: twin})
	if err != nil {
		t.Fatalf("the twin signature does not verify, so this test shows nothing: %v", err)
	}
	if twin == token || again.TokenID != job.TokenID {
		t.Error("one token counts as two")
	}
}

func TestAnUnboundTokenIsAcceptedOnlyWhereItIsAllowed(t *testing.T) {
	t.Parallel()
	no := newWorld(t, Issuer{Provider: static}, Options{})
	_, err := no.v.Verify(t.Context(), Evidence{Key: no.key, Token: no.token(t, nil)})
	refused(t, err, CodeBinding, "cannot name the job's key")

	yes := newWorld(t, Issuer{Provider: static}, Options{AllowUnbound: true})
	job, err := yes.v.Verify(t.Context(), Evidence{Key: yes.key, Token: yes.token(t, nil)})
	if err != nil || job.Bound {
		t.Fatalf("job %+v, %v", job, err)
	}
	for _, aud := range []string{wire.Audience(relay, yes.key), "cfa:v1", "cfa:v1:other.example"} {
		_, err = yes.v.Verify(t.Context(), Evidence{Key: yes.key, Token: yes.token(t, map[string]any{"aud": aud})})
		refused(t, err, CodeAudience, aud)
	}
	// Allowing it does not weaken those that can name the key.
	bound := newWorld(t, Issuer{Provider: ci.Find("github")}, Options{AllowUnbound: true})
	_, err = bound.v.Verify(t.Context(), Evidence{Key: bound.key, Token: bound.token(t, map[string]any{"aud": wire.UnboundAudience(relay)})})
	refused(t, err, CodeBinding, "names no key")
}

func TestATokenSpeaksForNothingThatIsNotAKey(t *testing.T) {
	t.Parallel()
	w := github(t)
	signing, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"", "U", wire.PublicKey(signing), w.key + "A", strings.ToLower(w.key)} {
		_, err := w.v.Verify(t.Context(), Evidence{Key: key, Token: w.token(t, map[string]any{"aud": wire.Audience(relay, key)})})
		refused(t, err, CodeBinding, "no key")
	}
}

func TestARequestMustBeThisKeysForThisRelayOfThisJob(t *testing.T) {
	t.Parallel()
	w := github(t)
	honest := w.request(t, nil)
	job, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, nil), Request: honest})
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := wire.DigestOf(*honest, w.key); job.Digest != want || job.Request.Message != "release 1.2.3" {
		t.Errorf("job = %+v", job)
	}

	other, otherKey := newKey(t)
	forged := *honest
	forged.Body = bytes.Replace(forged.Body, []byte("1.2.3"), []byte("6.6.6"), 1)
	done := sign(t, &wire.Done{Key: w.key, Digest: job.Digest, Attempt: 1, Outcome: wire.OutcomeOK}, w.kp)
	for _, test := range []struct {
		name    string
		token   map[string]any
		request *wire.Envelope
		code    Code
		why     string
	}{
		{"altered after signing", nil, &forged, CodeRequest, "signature does not verify"},
		{"signed by another key", nil, sign(t, change(job.Request, func(r *wire.Request) { r.Key = otherKey }), other), CodeRequest, "signature does not verify"},
		{"a signed statement of another kind", nil, done, CodeRequest, "another kind"},
		{"for another relay", nil, w.request(t, func(r *wire.Request) { r.Relay = "other.example" }), CodeRequest, `"other.example", and this is "relay.example"`},
		{"tag re-pointed since", map[string]any{"sha": strings.Repeat("a", 40)}, honest, CodeProof, "its sha is"},
		{"another run", map[string]any{"run_id": "1"}, honest, CodeProof, `its run_id is "1"`},
		{"another attempt of the run", map[string]any{"run_attempt": "2"}, honest, CodeProof, `its run_attempt is "2"`},
		{"another job of the run", map[string]any{"check_run_id": "5"}, honest, CodeProof, `its check_run_id is "5"`},
		{"another repository", map[string]any{"repository_id": "5"}, honest, CodeProof, `its repository_id is "5"`},
		{"repository taken over by a new owner", map[string]any{"repository_owner_id": "5"}, honest, CodeProof, `its repository_owner_id is "5"`},
		{"another workflow", map[string]any{"workflow_ref": "octo-org/octo-repo/.github/workflows/x.yml@refs/heads/main"}, honest, CodeProof, "its workflow_ref is"},
		{"claim only in the request", map[string]any{"check_run_id": nil}, honest, CodeProof, "the ID token has none"},
		{"claim only in the token", nil, w.request(t, func(r *wire.Request) { delete(r.Proof, "check_run_id") }), CodeProof, "the request does not name it"},
		{"claim that tells no jobs apart", nil, w.request(t, func(r *wire.Request) { r.Proof["actor"] = "octocat" }), CodeProof, `"actor"`},
		{"another issuer in the proof", nil, w.request(t, func(r *wire.Request) { r.Proof["iss"] = "https://other.example" }), CodeProof, "its iss is"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			_, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, test.token), Request: test.request})
			refused(t, err, test.code, test.why)
		})
	}
	newer := *honest
	newer.V = 2
	_, err = w.v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, nil), Request: &newer})
	if refused(t, err, CodeRequest, "version 2"); !errors.Is(err, wire.ErrVersion) {
		t.Error("who speaks another version cannot be told so")
	}
}

func change[T any](v T, by func(*T)) *T {
	by(&v)
	return &v
}

func TestAnOpenedPromptIsVerifiedOnlyByThisJobsAnswerToThisChallenge(t *testing.T) {
	t.Parallel()
	w := github(t)
	request := w.request(t, nil)
	digest, err := wire.DigestOf(*request, w.key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	_, connect := newKey(t)
	challenge := wire.Challenge{Key: wire.PublicKey(signer), Connect: connect, Digest: digest, Nonce: bytes.Repeat([]byte{7}, 16)}
	honest := wire.Alive{Key: w.key, Digest: digest, Attempt: 1, Reason: wire.ReasonFirst, Nonce: challenge.Nonce, Connect: connect, Responder: challenge.Key}
	alive := func(by func(*wire.Alive)) *wire.Envelope { return sign(t, change(honest, by), w.kp) }
	good := alive(func(*wire.Alive) {})

	job, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, nil), Request: request, Alive: good, Challenge: &challenge})
	if err != nil {
		t.Fatal(err)
	}
	if job.Alive.Attempt != 1 || job.Alive.Reason != wire.ReasonFirst {
		t.Errorf("alive = %+v", job.Alive)
	}

	stranger, strangerKey := newKey(t)
	_, elsewhere := newKey(t)
	otherSigner, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	past := w.request(t, func(r *wire.Request) { r.Made, r.Deadline = in(-time.Hour), in(0) })
	pastDigest, err := wire.DigestOf(*past, w.key)
	if err != nil {
		t.Fatal(err)
	}
	pastChallenge := change(challenge, func(c *wire.Challenge) { c.Digest = pastDigest })
	for _, test := range []struct {
		name  string
		e     Evidence
		token map[string]any
		code  Code
		why   string
	}{
		{"no alive answer", Evidence{Request: request, Challenge: &challenge}, nil, CodeAlive, "one of them is missing"},
		{"no challenge", Evidence{Request: request, Alive: good}, nil, CodeAlive, "one of them is missing"},
		{"no request", Evidence{Alive: good, Challenge: &challenge}, nil, CodeAlive, "one of them is missing"},
		{"signed by another key", Evidence{Request: request, Challenge: &challenge, Alive: sign(t, change(honest, func(a *wire.Alive) { a.Key = strangerKey }), stranger)}, nil, CodeAlive, "signature does not verify"},
		{"another kind of statement", Evidence{Request: request, Challenge: &challenge, Alive: request}, nil, CodeAlive, "another kind"},
		{"for another request", Evidence{Request: request, Challenge: &challenge, Alive: alive(func(a *wire.Alive) { a.Digest[0]++ })}, nil, CodeAlive, "for another request of this key"},
		{"an old answer again", Evidence{Request: request, Challenge: &challenge, Alive: alive(func(a *wire.Alive) { a.Nonce = make([]byte, 16) })}, nil, CodeAlive, "to another challenge"},
		{"for another machine", Evidence{Request: request, Challenge: &challenge, Alive: alive(func(a *wire.Alive) { a.Connect = elsewhere })}, nil, CodeAlive, "another responder's challenge"},
		{"for another responder", Evidence{Request: request, Challenge: &challenge, Alive: alive(func(a *wire.Alive) { a.Responder = wire.PublicKey(otherSigner) })}, nil, CodeAlive, "another responder's challenge"},
		{"the challenge was for another request", Evidence{Request: request, Challenge: change(challenge, func(c *wire.Challenge) { c.Digest[0]++ }), Alive: good}, nil, CodeAlive, "challenge is for another request"},
		{"with a link that was not asked for", Evidence{Request: request, Challenge: &challenge, Alive: alive(func(a *wire.Alive) { a.Link = "https://www.npmjs.com/auth/cli/1" })}, nil, CodeAlive, "asks for none"},
		{"past its deadline", Evidence{Request: past, Challenge: pastChallenge, Alive: alive(func(a *wire.Alive) { a.Digest = pastDigest })}, nil, CodeRequest, "deadline has passed"},
		{"token of another run", Evidence{Request: request, Challenge: &challenge, Alive: good}, map[string]any{"run_id": "1"}, CodeProof, "run_id"},
		{"token for another key", Evidence{Request: request, Challenge: &challenge, Alive: good}, map[string]any{"aud": wire.Audience(relay, elsewhere)}, CodeAudience, "speaks for the key"},
		{"token that was not fresh", Evidence{Request: request, Challenge: &challenge, Alive: good}, map[string]any{"iat": in(-11 * time.Minute)}, CodeTime, "issued 11 min ago"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.e.Key, test.e.Token = w.key, w.token(t, test.token)
			_, err := w.v.Verify(t.Context(), test.e)
			refused(t, err, test.code, test.why)
		})
	}
}

func TestAHumanWhoComesLateVerifiesAsOneAtOnce(t *testing.T) {
	t.Parallel()
	w := github(t)
	request := w.request(t, func(r *wire.Request) { r.Deadline = r.Made + 3600 })
	first := w.token(t, nil)
	w.clock.forward(40 * time.Minute)
	digest, err := wire.DigestOf(*request, w.key)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	_, connect := newKey(t)
	c := &wire.Challenge{Key: wire.PublicKey(signer), Connect: connect, Digest: digest, Nonce: make([]byte, 16)}
	alive := sign(t, &wire.Alive{Key: w.key, Digest: digest, Attempt: 2, Reason: wire.ReasonRejected, Nonce: c.Nonce, Connect: c.Connect, Responder: c.Key}, w.kp)
	if _, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, nil), Request: request, Alive: alive, Challenge: c}); err != nil {
		t.Errorf("with a fresh token: %v", err)
	}
	_, err = w.v.Verify(t.Context(), Evidence{Key: w.key, Token: first, Request: request, Alive: alive, Challenge: c})
	refused(t, err, CodeTime, "issued 40 min ago")
}

func TestWhatATokenSaysCannotSpeakToATerminal(t *testing.T) {
	t.Parallel()
	w := github(t)
	_, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, map[string]any{"aud": "\x1b[2Jaccepted\u202e" + strings.Repeat("x", 5000)})})
	refused(t, err, CodeAudience, "<U+001B>[2Jaccepted<U+202E>")
	for _, r := range err.Error() {
		if r != '…' && (r < 0x20 || r > 0x7E) {
			t.Fatalf("the error has %U in it", r)
		}
	}
}

// negate makes the other valid ES256 signature of two.
func negate(sig []byte) []byte {
	n := elliptic.P256().Params().N
	s := new(big.Int).SetBytes(sig[32:])
	out := bytes.Clone(sig)
	s.Sub(n, s).FillBytes(out[32:])
	return out
}
