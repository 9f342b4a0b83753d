package trust

// This file shows that keys come only from where they should, and that no
// stranger and no bad minute of an issuer takes them away.

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/wire"
)

func TestAnIssuerThatCouldBeMisreadIsRefused(t *testing.T) {
	t.Parallel()
	row := ci.Find("github")
	for url, why := range map[string]string{
		"":                                       "not an address",
		"ci.example":                             "not an address",
		"https://":                               "not an address",
		"https:///path":                          "not an address",
		"https:ci.example":                       "not an address",
		"ftp://ci.example":                       "does not begin with https://",
		"file:///etc/passwd":                     "not an address",
		"http://ci.example":                      "plain http",
		"http://localhost.example":               "plain http",
		"http://127.0.0.1.example":               "plain http",
		"http://10.0.0.1":                        "plain http",
		"http://[::2]":                           "plain http",
		"https://ci.example@evil.example":        "user name",
		"https://ci.example:x@evil.example":      "user name",
		"https://@ci.example":                    "user name",
		"https://ci.example/":                    "slash",
		"https://ci.example/org/":                "slash",
		"https://ci.example?x":                   "query",
		"https://ci.example?":                    "query",
		"https://ci.example/#":                   "query, fragment",
		"https://ci.example/%2e":                 "escapes",
		"https://ci.example/a//b":                "dotted parts",
		"https://ci.example/a/../b":              "dotted parts",
		"https://CI.example":                     "plain form",
		"HTTPS://ci.example":                     "plain form",
		"https://ci.example:":                    "plain form",
		"https://ci.example:port":                "not an address",
		" https://ci.example":                    "space",
		"https://ci.example\n":                   "space",
		"https://ci.exämple":                     "not ASCII",
		"https://" + strings.Repeat("x", 500):    "500 characters",
		`https://ci.example\@evil.example`:       "",
		"https://ci.example/a b":                 "space",
		"https://token.actions.example/..":       "dotted parts",
		"https://ci.example/org?issuer=https://": "query",
	} {
		if _, err := NewKeys([]Issuer{{Provider: row, URL: url}}, KeysOptions{}); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v, want %q", url, err, why)
		}
	}
	for _, url := range []string{"https://ci.example", "https://ci.example:8443/org/7", "http://127.0.0.1:1", "http://localhost:1/x", "http://[::1]:1", "https://token.actions.githubusercontent.com/my-enterprise"} {
		if _, err := NewKeys([]Issuer{{Provider: row, URL: url}}, KeysOptions{}); err != nil {
			t.Errorf("%q: %v", url, err)
		}
	}
	for name, test := range map[string]struct {
		issuers []Issuer
		why     string
	}{
		"twice":                       {[]Issuer{{Provider: row, URL: "https://a.example"}, {Name: "b", Provider: row, URL: "https://a.example"}}, "stands there twice"},
		"no provider":                 {[]Issuer{{URL: "https://a.example"}}, "no CI provider"},
		"a name that no rule can say": {[]Issuer{{Name: "A b", Provider: row, URL: "https://a.example"}}, "not a name"},
		"HS256":                       {[]Issuer{{Provider: row, URL: "https://a.example", Algs: []string{"HS256"}}}, `"HS256" is not accepted`},
		"none":                        {[]Issuer{{Provider: row, URL: "https://a.example", Algs: []string{"none"}}}, `"none" is not accepted`},
		"plain key set":               {[]Issuer{{Provider: row, URL: "https://a.example", KeySet: "http://a.example/keys"}}, "plain http"},
		"a row that refuses":          {[]Issuer{{Provider: ci.Find("bitbucket"), URL: "https://a.example"}}, "its workspace's own audience"},
		"a bound CI as any issuer":    {[]Issuer{{Name: "x", Provider: ci.Find("generic"), URL: "https://token.actions.githubusercontent.com"}}, "write github for the provider"},
		"a bound CI as another":       {[]Issuer{{Name: "x", Provider: ci.Find("gitlab"), URL: "https://forge.example.org/api/actions"}}, "write forgejo for the provider"},
		"key set on loopback":         {[]Issuer{{Provider: row, URL: "https://a.example", KeySet: "http://127.0.0.1/keys"}}, "the issuer is not"},
	} {
		if _, err := NewKeys(test.issuers, KeysOptions{}); err == nil || !strings.Contains(err.Error(), test.why) {
			t.Errorf("%s: %v, want %q", name, err, test.why)
		}
	}
}

func TestKeysThatWereRotatedAreFoundAndOldOnesForgotten(t *testing.T) {
	t.Parallel()
	w := github(t)
	w.job(t, nil)
	old := w.token(t, nil)
	w.Rotate()
	w.clock.forward(2 * time.Minute)
	fetches := w.Fetches()
	w.job(t, nil)
	if got := w.Fetches() - fetches; got != 1 {
		t.Errorf("a new key was fetched for %d times", got)
	}
	_, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: old})
	refused(t, err, CodeSignature, "does not publish")
}

func TestAStormOfMadeUpKeysAsksTheIssuerOnceAMinute(t *testing.T) {
	t.Parallel()
	w := github(t)
	if err := w.keys.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	for minute := range 3 {
		before := w.Fetches()
		var wg sync.WaitGroup
		for i := range 50 {
			token := w.token(t, nil, devissuer.Header("kid", fmt.Sprintf("made-up-%d", i)))
			wg.Go(func() {
				_, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: token})
				var e *Error
				if !errors.As(err, &e) || e.Code != CodeSignature {
					t.Errorf("%v", err)
				}
			})
		}
		wg.Wait()
		if got := w.Fetches() - before; got != 1 {
			t.Errorf("minute %d: %d fetches", minute, got)
		}
		w.job(t, nil) // and honest jobs get in meanwhile
		w.clock.forward(61 * time.Second)
	}
}

func TestABadSignatureFetchesNothing(t *testing.T) {
	t.Parallel()
	w := github(t)
	w.job(t, nil)
	w.clock.forward(time.Hour)
	before := w.Fetches()
	for range 20 {
		_, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, nil, devissuer.Key(stranger))})
		refused(t, err, CodeSignature, "does not verify")
	}
	if got := w.Fetches() - before; got != 0 {
		t.Errorf("%d fetches", got)
	}
}

func TestAnIssuersBadMinuteKeepsTheOldKeys(t *testing.T) {
	t.Parallel()
	for _, mode := range []devissuer.Mode{devissuer.Down, devissuer.Empty, devissuer.Huge, devissuer.Redirect} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			w := github(t)
			w.job(t, nil)
			w.Break(mode)
			w.clock.forward(time.Hour)
			if err := w.keys.Warm(t.Context()); err == nil {
				t.Error("the broken answer was taken")
			}
			w.job(t, nil)
			if age := w.keys.Ages()[w.URL()]; age != time.Hour {
				t.Errorf("age %v", age)
			}
			// What cannot be known now is not called a bad signature.
			w.Rotate()
			_, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, nil)})
			refused(t, err, CodeKeys, "cannot be fetched now")
			w.Break(devissuer.Works)
			w.clock.forward(2 * time.Minute)
			w.job(t, nil)
		})
	}
}

func TestNoKeysYetIsTemporaryAndSaysWhy(t *testing.T) {
	t.Parallel()
	for mode, why := range map[devissuer.Mode]string{
		devissuer.Down:     "discovery: answered 500",
		devissuer.Empty:    "key set: no key in it can be used",
		devissuer.Huge:     "key set: answered with more than 262144 bytes",
		devissuer.Redirect: "key set: redirected to another host",
	} {
		w := github(t)
		w.Break(mode)
		_, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, nil)})
		refused(t, err, CodeKeys, why)
		if len(w.keys.Ages()) != 0 {
			t.Errorf("%s: %v", mode, w.keys.Ages())
		}
	}
}

func TestAHungFetchHoldsUpNobodyWhoseKeyIsKnown(t *testing.T) {
	t.Parallel()
	w := github(t)
	w.job(t, nil)
	w.Break(devissuer.Hang)
	w.clock.forward(time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	unknown := w.token(t, nil, devissuer.Header("kid", "unknown"))
	go func() {
		_, err := w.v.Verify(ctx, Evidence{Key: w.key, Token: unknown})
		done <- err
	}()
	for w.keys.flying(w.URL()) == nil {
		time.Sleep(time.Millisecond)
	}
	w.job(t, nil) // while the fetch hangs
	select {
	case err := <-done:
		t.Errorf("the unknown key did not wait: %v", err)
	default:
	}
	cancel()
	refused(t, <-done, CodeKeys, "no answer yet")
	over := w.keys.flying(w.URL())
	w.Break(devissuer.Works)
	<-over
}

func (k *Keys) flying(url string) chan struct{} {
	s := k.sets[url]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.flight
}

func TestNewConfigurationKeepsKeysThatCannotBeFetchedNow(t *testing.T) {
	t.Parallel()
	w := github(t)
	w.job(t, nil)
	w.Break(devissuer.Down)
	issuer := Issuer{Provider: ci.Find("github"), URL: w.URL()}
	next, err := NewKeys([]Issuer{issuer}, KeysOptions{Now: w.clock.now})
	if err != nil {
		t.Fatal(err)
	}
	next.Keep(w.keys)
	next.Keep(nil)
	v := NewVerifier(relay, next, Options{Now: w.clock.now})
	if _, err := v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, nil)}); err != nil {
		t.Error(err)
	}
	// But not where the keys are to come from elsewhere, or to be others.
	issuer.Algs = []string{"ES256"}
	if next, err = NewKeys([]Issuer{issuer}, KeysOptions{Now: w.clock.now}); err != nil {
		t.Fatal(err)
	}
	next.Keep(w.keys)
	if len(next.Ages()) != 0 {
		t.Error("keys of another algorithm were kept")
	}
}

// web is a network without a network: answers by URL.
type web struct {
	mu    sync.Mutex
	pages map[string]string // URL to body; "-> URL" redirects, "hang" hangs
	asked map[string]int
}

func (w *web) RoundTrip(r *http.Request) (*http.Response, error) {
	w.mu.Lock()
	if w.asked == nil {
		w.asked = map[string]int{}
	}
	w.asked[r.URL.String()]++
	body, ok := w.pages[r.URL.String()]
	w.mu.Unlock()
	resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Request: r}
	if body == "hang" {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	if to, ok := strings.CutPrefix(body, "-> "); ok {
		resp.StatusCode = http.StatusFound
		resp.Header.Set("Location", to)
	}
	if !ok {
		resp.StatusCode = http.StatusNotFound
	}
	resp.Body = io.NopCloser(strings.NewReader(body))
	return resp, nil
}

func (w *web) set(url, body string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pages[url] = body
}

func (w *web) count(url string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.asked[url]
}

const (
	ciURL     = "https://ci.example"
	discovery = ciURL + "/.well-known/openid-configuration"
	keysURL   = "https://keys.example/jwks" // another host is fine, if it is https
)

func newWeb() *web {
	return &web{pages: map[string]string{
		discovery: document(ciURL, keysURL),
		keysURL:   set(jwk(&stranger.PublicKey, "a", nil)),
	}}
}

func document(issuer, keys string) string {
	b, err := json.Marshal(map[string]string{"issuer": issuer, "jwks_uri": keys})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func set(keys ...map[string]any) string {
	b, err := json.Marshal(map[string]any{"keys": keys})
	if err != nil {
		panic(err)
	}
	return string(b)
}

// jwk is a public key as an issuer publishes it; over replaces members.
func jwk(key any, kid string, over map[string]any) map[string]any {
	b64 := base64.RawURLEncoding.EncodeToString
	out := map[string]any{"kid": kid, "use": "sig"}
	switch k := key.(type) {
	case *rsa.PublicKey:
		out["kty"], out["alg"] = "RSA", "RS256"
		out["n"], out["e"] = b64(k.N.Bytes()), b64(big.NewInt(int64(k.E)).Bytes())
	case *ecdsa.PublicKey:
		raw, err := k.Bytes()
		if err != nil {
			panic(err)
		}
		half := len(raw) / 2
		out["kty"], out["crv"] = "EC", k.Params().Name
		out["x"], out["y"] = b64(raw[1:1+half]), b64(raw[1+half:])
	}
	for name, v := range over {
		if out[name] = v; v == nil {
			delete(out, name)
		}
	}
	return out
}

func (w *web) keys(t *testing.T, now func() time.Time, issuer Issuer) *Keys {
	t.Helper()
	issuer.Provider, issuer.URL = ci.Find("github"), ciURL
	k, err := NewKeys([]Issuer{issuer}, KeysOptions{HTTP: &http.Client{Transport: w}, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeysComeOnlyFromWhereTheIssuerSaysTheyAre(t *testing.T) {
	t.Parallel()
	good := newWeb()
	if err := good.keys(t, nil, Issuer{}).Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ url, body, why string }{
		"another issuer's document":      {discovery, document("https://evil.example", keysURL), "for another issuer"},
		"issuer with a slash":            {discovery, document(ciURL+"/", keysURL), "for another issuer"},
		"no issuer":                      {discovery, `{"jwks_uri":"` + keysURL + `"}`, "not a discovery document"},
		"issuer by another case":         {discovery, `{"Issuer":"` + ciURL + `","jwks_uri":"` + keysURL + `"}`, "not a discovery document"},
		"no key set":                     {discovery, `{"issuer":"` + ciURL + `"}`, "not a discovery document"},
		"not JSON":                       {discovery, "<html>", "not a discovery document"},
		"plain key set":                  {discovery, document(ciURL, "http://ci.example/jwks"), "plain http"},
		"key set inside our own network": {discovery, document(ciURL, "http://127.0.0.1:9/jwks"), "the issuer is not"},
		"key set in a file":              {discovery, document(ciURL, "file:///etc/passwd"), "not an address"},
		"key set with a user name":       {discovery, document(ciURL, "https://ci.example@evil.example/"), "user name"},
		"redirect of the document":       {discovery, "-> https://evil.example/", "redirected to another host"},
		"redirect to plain http":         {discovery, "-> http://ci.example/", "redirected to another host"},
		"redirect of the key set":        {keysURL, "-> https://evil.example/", "redirected to another host"},
		"a key set that is none":         {keysURL, `{"keys":"none"}`, "not a JWK set"},
		"a list":                         {keysURL, `[]`, "not a JWK set"},
		"no keys":                        {keysURL, `{"keys":[]}`, "no key in it"},
		"keys by another case":           {keysURL, strings.Replace(set(jwk(&stranger.PublicKey, "a", nil)), "keys", "Keys", 1), "not a JWK set"},
		"huge document":                  {discovery, strings.Repeat(" ", maxKeySet+1), "more than"},
	} {
		w := newWeb()
		w.set(test.url, test.body)
		if err := w.keys(t, nil, Issuer{}).Warm(t.Context()); err == nil || !strings.Contains(err.Error(), test.why) {
			t.Errorf("%s: %v, want %q", name, err, test.why)
		}
		if w.count("https://evil.example/") != 0 {
			t.Errorf("%s: the other host was asked", name)
		}
	}
	// A redirect on the same host is followed, and not for ever.
	w := newWeb()
	w.set(keysURL, "-> https://keys.example/new")
	w.set("https://keys.example/new", set(jwk(&stranger.PublicKey, "a", nil)))
	if err := w.keys(t, nil, Issuer{}).Warm(t.Context()); err != nil {
		t.Error(err)
	}
	w.set("https://keys.example/new", "-> "+keysURL)
	if err := w.keys(t, nil, Issuer{}).Warm(t.Context()); err == nil || w.count(keysURL) > 5 {
		t.Errorf("a circle was followed: %v", err)
	}
	// The configuration's word replaces the document.
	w = newWeb()
	w.set(discovery, "hang")
	if err := w.keys(t, nil, Issuer{KeySet: keysURL}).Warm(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOnlyKeysThatCanVerifyTheIssuersTokensAreTaken(t *testing.T) {
	t.Parallel()
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := &stranger.PublicKey
	b64 := base64.RawURLEncoding.EncodeToString
	for name, test := range map[string]struct {
		key  map[string]any
		algs []string
		ok   bool
	}{
		"RSA":                              {jwk(public, "a", nil), nil, true},
		"RSA without alg and use":          {jwk(public, "a", map[string]any{"alg": nil, "use": nil}), nil, true},
		"with a certificate nobody parses": {jwk(public, "a", map[string]any{"x5c": []string{"MIIB"}, "x5t": "?"}), nil, true},
		"with its private half":            {jwk(public, "a", map[string]any{"d": b64(stranger.D.Bytes())}), nil, true},
		"P-256":                            {jwk(&p256.PublicKey, "a", nil), []string{"ES256"}, true},
		"P-256 where RS256 is configured":  {jwk(&p256.PublicKey, "a", nil), nil, false},
		"RSA where ES256 is configured":    {jwk(public, "a", nil), []string{"ES256"}, false},
		"P-384":                            {jwk(&p384.PublicKey, "a", nil), []string{"ES256"}, false},
		"not on the curve":                 {jwk(&p256.PublicKey, "a", map[string]any{"x": b64(make([]byte, 32))}), []string{"ES256"}, false},
		"1024 bits":                        {jwk(&small.PublicKey, "a", nil), nil, false},
		"a modulus of a million bits":      {jwk(public, "a", map[string]any{"n": b64(append([]byte{1}, make([]byte, 125_000)...))}), nil, false},
		"exponent 1":                       {jwk(public, "a", map[string]any{"e": "AQ"}), nil, false},
		"exponent 2":                       {jwk(public, "a", map[string]any{"e": "Ag"}), nil, false},
		"exponent 4":                       {jwk(public, "a", map[string]any{"e": "BA"}), nil, false},
		"for encryption":                   {jwk(public, "a", map[string]any{"use": "enc"}), nil, false},
		"for another algorithm":            {jwk(public, "a", map[string]any{"alg": "RS512"}), nil, false},
		"without an id":                    {jwk(public, "", nil), nil, false},
		"with an endless id":               {jwk(public, strings.Repeat("k", maxKeyID+1), nil), nil, false},
		"a shared secret":                  {map[string]any{"kty": "oct", "kid": "a", "k": "AAAA"}, nil, false},
		"a shared secret for HS256":        {map[string]any{"kty": "oct", "kid": "a", "k": "AAAA", "alg": "HS256"}, nil, false},
		"Ed25519":                          {map[string]any{"kty": "OKP", "crv": "Ed25519", "kid": "a", "x": b64(make([]byte, 32))}, nil, false},
		"an unknown type":                  {map[string]any{"kty": "PQC", "kid": "a"}, nil, false},
		"no type":                          {map[string]any{"kid": "a"}, nil, false},
		"members of wrong types":           {map[string]any{"kty": 5, "kid": []int{1}}, nil, false},
	} {
		keys, err := readKeys([]byte(set(test.key)), Issuer{Algs: test.algs})
		if (err == nil) != test.ok || test.ok && len(keys["a"]) != 1 {
			t.Errorf("%s: %v, %v", name, keys, err)
		}
		// One odd key does not cost the others.
		good := jwk(public, "good", nil)
		if len(test.algs) > 0 {
			good = jwk(&p256.PublicKey, "good", nil)
		}
		if keys, err := readKeys([]byte(set(test.key, good)), Issuer{Algs: test.algs}); err != nil || len(keys["good"]) != 1 {
			t.Errorf("%s beside a good one: %v, %v", name, keys, err)
		}
	}
	var many []map[string]any
	for i := range maxKeys + 1 {
		many = append(many, jwk(public, fmt.Sprint(i), nil))
	}
	if keys, err := readKeys([]byte(set(many[:maxKeys]...)), Issuer{}); err != nil || len(keys) != maxKeys {
		t.Errorf("%d keys: %v", maxKeys, err)
	}
	if _, err := readKeys([]byte(set(many...)), Issuer{}); err == nil || !strings.Contains(err.Error(), "more than 50 keys") {
		t.Errorf("%d keys: %v", len(many), err)
	}
	if keys, err := readKeys([]byte(set(jwk(public, "a", nil), jwk(public, "a", nil))), Issuer{}); err != nil || len(keys["a"]) != 2 {
		t.Errorf("one id twice: %v, %v", keys, err)
	}
}

func TestKeysAreRefreshedInTheBackground(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWeb()
		var log strings.Builder
		k := w.keys(t, nil, Issuer{})
		k.log = slog.New(slog.NewTextHandler(&log, nil))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() { k.Run(ctx); close(ended) }()
		settle := func(d time.Duration) int { time.Sleep(d); synctest.Wait(); return w.count(keysURL) }

		if got := settle(time.Second); got != 1 {
			t.Errorf("at the start: %d fetches", got)
		}
		if got := settle(freshEvery*11/10 + time.Second); got != 2 {
			t.Errorf("after a quarter of an hour: %d fetches", got)
		}
		w.set(keysURL, `{"keys":[]}`)
		settle(freshEvery*11/10 + time.Second)
		failed := w.count(keysURL)
		if got := settle(time.Minute); got < failed+1 || got > failed+3 {
			t.Errorf("in the minute after a failure: %d fetches", got-failed)
		}
		if age := k.Ages()[ciURL]; age < freshEvery {
			t.Errorf("an empty set counts as fetched: age %v", age)
		}
		w.set(keysURL, set(jwk(&stranger.PublicKey, "b", nil)))
		settle(time.Minute)
		if age := k.Ages()[ciURL]; age > time.Minute {
			t.Errorf("age %v after it was mended", age)
		}
		cancel()
		<-ended
		if !strings.Contains(log.String(), "no key in it can be used") || !strings.Contains(log.String(), "fetched again") {
			t.Errorf("the log does not tell:\n%s", &log)
		}
	})
}

func TestAHungIssuerIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWeb()
		w.set(keysURL, "hang")
		k := w.keys(t, nil, Issuer{})
		_, key := newKey(t)
		dev, err := json.Marshal(map[string]any{"iss": ciURL, "aud": wire.Audience(relay, key)})
		if err != nil {
			t.Fatal(err)
		}
		b64 := base64.RawURLEncoding.EncodeToString
		token := b64([]byte(`{"alg":"RS256","kid":"a"}`)) + "." + b64(dev) + "." + b64(make([]byte, 256))

		v := NewVerifier(relay, k, Options{})
		began := time.Now()
		_, err = v.Verify(t.Context(), Evidence{Key: key, Token: token})
		refused(t, err, CodeKeys, "no answer yet")
		if waited := time.Since(began); waited != waitAtMost {
			t.Errorf("a verification waited %v", waited)
		}
		if err := k.Warm(t.Context()); err == nil || !strings.Contains(err.Error(), "no answer within 10 s") {
			t.Errorf("%v", err)
		}
		if took := time.Since(began); took != fetchWithin {
			t.Errorf("the fetch was given up after %v", took)
		}
	})
}

func TestAClockThatWasSetBackDoesNotStopTheKeys(t *testing.T) {
	t.Parallel()
	w := github(t)
	if err := w.keys.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, nil, devissuer.Header("kid", "x"))}); err == nil {
		t.Fatal("accepted")
	}
	w.clock.forward(-24 * time.Hour)
	w.Rotate()
	w.job(t, nil)
}
