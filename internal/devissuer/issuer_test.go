// This file shows that the issuer is a real one (an independent verifier takes
// its tokens, the provider table gets them as in CI) and that each of its faults
// is the fault that it is said to be.

package devissuer_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/devissuer"
)

const audience = "cfa:v1:relay.example:UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"

func start(t *testing.T, opts ...devissuer.Option) *devissuer.Issuer {
	t.Helper()
	i, err := devissuer.Start(t.Context(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	return i
}

func mint(t *testing.T, i *devissuer.Issuer, claims map[string]any, opts ...devissuer.MintOption) string {
	t.Helper()
	token, err := i.Mint(claims, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// verify checks a token as an independent verifier does, with the key set as it
// is now.
func verify(t *testing.T, i *devissuer.Issuer, token string, algs ...string) error {
	t.Helper()
	p, err := oidc.NewProvider(t.Context(), i.URL())
	if err != nil {
		t.Fatal(err)
	}
	if len(algs) == 0 {
		algs = []string{"RS256"}
	}
	_, err = p.VerifierContext(t.Context(), &oidc.Config{ClientID: audience, SupportedSigningAlgs: algs}).Verify(t.Context(), token)
	return err
}

func environ(lines []string) func(string) string {
	env := map[string]string{}
	for _, l := range lines {
		name, value, _ := strings.Cut(l, "=")
		env[name] = value
	}
	return func(name string) string { return env[name] }
}

func TestAJobGetsItsTokenAsOnGitHubAndAnIndependentVerifierTakesIt(t *testing.T) {
	t.Parallel()
	i := start(t)
	i.AddJob("release", devissuer.GitHubClaims("octo-org/octo-repo", map[string]any{"environment": "npm"}))
	env := ci.Env{Getenv: environ(i.GitHubEnv("release"))}

	p, err := ci.Detect(env)
	if err != nil || p.Name != "github" {
		t.Fatalf("Detect = %v, %v", p, err)
	}
	token, err := p.Token(t.Context(), env, audience)
	if err != nil {
		t.Fatal(err)
	}
	if err := verify(t, i, token); err != nil {
		t.Errorf("go-oidc refuses the token: %v", err)
	}
	claims, err := ci.Unverified(token)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Check(claims); err != nil {
		t.Errorf("the claims are not those of a GitHub job: %v", err)
	}
	for _, h := range p.Hazards {
		if h.In(claims) {
			t.Errorf("the plain job has hazard %s", h.Word)
		}
	}
	for name, want := range map[string]string{
		"iss":         i.URL(),
		"aud":         audience,
		"environment": "npm",
		"sha":         env.Getenv("GITHUB_SHA"),
		"run_id":      env.Getenv("GITHUB_RUN_ID"),
		"repository":  env.Getenv("GITHUB_REPOSITORY"),
	} {
		if got, _ := claims.String(name); got != want || want == "" {
			t.Errorf("claim %s = %q, want %q", name, got, want)
		}
	}
}

func TestCircleCIClaimsAreThoseOfACircleCIJob(t *testing.T) {
	t.Parallel()
	i := start(t)
	p := ci.Find("circleci")
	for _, tt := range []struct {
		name   string
		over   map[string]any
		hazard string
	}{
		{"plain", nil, ""},
		{"rerun with SSH", map[string]any{"ssh-rerun": true}, "ssh-rerun"},
		{"custom webhook", map[string]any{"vcs-origin": nil, "oidc.circleci.com/vcs-ref": nil}, "no-vcs"},
	} {
		claims, err := ci.Unverified(mint(t, i, devissuer.CircleCIClaims(tt.over)))
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Check(claims); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		for _, absent := range []string{"jti", "nbf"} {
			if _, there := claims[absent]; there {
				t.Errorf("%s: CircleCI sends no %s", tt.name, absent)
			}
		}
		for _, h := range p.Hazards {
			if h.Lifts == "" && h.In(claims) != (h.Word == tt.hazard) {
				t.Errorf("%s: hazard %s = %v", tt.name, h.Word, h.In(claims))
			}
		}
	}
}

func TestClaimsFollowFromTheReplacedOnes(t *testing.T) {
	t.Parallel()
	a := devissuer.GitHubClaims("octo-org/octo-repo", map[string]any{"ref": "refs/tags/v1", "jti": nil, "actor": nil})
	b := devissuer.GitHubClaims("octo-org/other", nil)
	for name, want := range map[string]string{
		"ref_type":     "tag",
		"workflow_ref": "octo-org/octo-repo/.github/workflows/release.yml@refs/tags/v1",
	} {
		if a[name] != want {
			t.Errorf("%s = %v, want %s", name, a[name], want)
		}
	}
	if sub, _ := a["sub"].(string); !strings.HasSuffix(sub, ":ref:refs/tags/v1") {
		t.Errorf("sub = %q does not follow ref", sub)
	}
	if _, there := a["actor"]; there {
		t.Error("nil left actor in")
	}
	if a["repository_id"] == b["repository_id"] || a["repository_owner_id"] != b["repository_owner_id"] {
		t.Error("ids do not follow the names")
	}
	claims, err := ci.Unverified(mint(t, start(t), a))
	if err != nil {
		t.Fatal(err)
	}
	if _, there := claims["jti"]; there {
		t.Error("nil left jti in")
	}
}

func TestTheTokenEndpointKnowsItsJobs(t *testing.T) {
	t.Parallel()
	i := start(t)
	i.AddJob("a", devissuer.GitHubClaims("octo-org/a", nil))
	i.AddJob("b", devissuer.GitHubClaims("octo-org/b", nil))
	if got := i.RequestToken("c"); got != "" || i.GitHubEnv("c") != nil {
		t.Errorf("a job that does not exist has the token %q", got)
	}
	for _, tt := range []struct{ name, url, auth string }{
		{"no credential", i.RequestURL("a"), ""},
		{"another job's credential", i.RequestURL("a"), "bearer " + i.RequestToken("b")},
		{"not a bearer token", i.RequestURL("a"), "basic " + i.RequestToken("a")},
		{"no such job", i.RequestURL("c"), "bearer "},
	} {
		if code, _ := fetch(t, tt.url+"&audience=x", tt.auth); code != http.StatusUnauthorized {
			t.Errorf("%s: %d, want 401", tt.name, code)
		}
	}
	code, body := fetch(t, i.RequestURL("a"), "bearer "+i.RequestToken("a"))
	var answer struct{ Value string }
	if err := json.Unmarshal([]byte(body), &answer); err != nil || code != http.StatusOK {
		t.Fatalf("%d %v", code, err)
	}
	claims, err := ci.Unverified(answer.Value)
	if err != nil {
		t.Fatal(err)
	}
	if aud, _ := claims.String("aud"); aud != "https://github.com/octo-org" {
		t.Errorf("without an audience: aud = %q, want GitHub's default", aud)
	}

	before := i.RequestToken("a")
	i.AddJob("a", devissuer.GitHubClaims("octo-org/c", nil))
	if i.RequestToken("a") != before {
		t.Error("new claims changed the job's credential")
	}
}

func TestTokensTakeTheirTimesFromTheClock(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	i := start(t, devissuer.Clock(func() time.Time { return now }))
	claims, err := ci.Unverified(mint(t, i, map[string]any{"aud": audience}))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]int64{"iat": now.Unix(), "nbf": now.Unix() - 300, "exp": now.Unix() + 300} {
		if n, _ := claims[name].(json.Number); n.String() != jsonInt(want) {
			t.Errorf("%s = %v, want %d", name, claims[name], want)
		}
	}
}

func TestForgedTokensAreForged(t *testing.T) {
	t.Parallel()
	i := start(t)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	claims := map[string]any{"aud": audience, "sub": "s"}
	if err := verify(t, i, mint(t, i, claims)); err != nil {
		t.Fatalf("the honest token is refused: %v", err)
	}
	if err := verify(t, i, mint(t, i, claims, devissuer.Alg("ES256")), "ES256"); err != nil {
		t.Errorf("the honest ES256 token is refused: %v", err)
	}
	long := mint(t, i, claims, devissuer.Alg("RS512"), devissuer.Key(other))
	dot := strings.LastIndex(long, ".")
	signed := long[:dot]
	raw, _ := base64.RawURLEncoding.DecodeString(long[dot+1:])
	if sum := sha512.Sum512([]byte(signed)); rsa.VerifyPKCS1v15(&other.PublicKey, crypto.SHA512, sum[:], raw) != nil {
		t.Error("the RS512 token has no good signature")
	}
	for _, tt := range []struct {
		name  string
		token string
	}{
		{"another key", mint(t, i, claims, devissuer.Key(other))},
		{"an algorithm the verifier does not want", mint(t, i, claims, devissuer.Alg("ES256"))},
		{"no signature", mint(t, i, claims, devissuer.Alg("none"))},
		{"public key as secret", mint(t, i, claims, devissuer.Alg("HS256"))},
		{"header says another algorithm", mint(t, i, claims, devissuer.Header("alg", "RS384"))},
		{"unknown key id", mint(t, i, claims, devissuer.Header("kid", "nobody"), devissuer.Key(other))},
		{"another issuer", mint(t, i, map[string]any{"aud": audience, "iss": i.URL() + "/"})},
		{"expired", mint(t, i, map[string]any{"aud": audience, "exp": 1})},
		{"no expiry", mint(t, i, map[string]any{"aud": audience, "exp": nil})},
		{"another audience", mint(t, i, map[string]any{"aud": audience + "x"})},
		{"payload is no object", mint(t, i, nil, devissuer.Payload([]byte(`[]`)))},
		{"header is not JSON", mint(t, i, claims, devissuer.RawHeader([]byte(`{`)))},
	} {
		if verify(t, i, tt.token) == nil {
			t.Errorf("%s: verified", tt.name)
		}
	}

	token := mint(t, i, nil, devissuer.RawHeader([]byte(`{"alg":"RS256","alg":"none"}`)), devissuer.Payload([]byte(`{"sub":"a","sub":"b"}`)))
	parts := strings.Split(token, ".")
	for n, want := range []string{`{"alg":"RS256","alg":"none"}`, `{"sub":"a","sub":"b"}`} {
		if got, err := base64.RawURLEncoding.DecodeString(parts[n]); err != nil || string(got) != want {
			t.Errorf("part %d = %s, %v", n, got, err)
		}
	}
	if _, err := i.Mint(nil, devissuer.Alg("ES256"), devissuer.Key(other)); err == nil {
		t.Error("an RSA key made an ES256 signature")
	}
	if _, err := i.Mint(nil, devissuer.Alg("XS1")); err == nil {
		t.Error("an unknown algorithm made a signature")
	}
}

func TestARotatedKeyIsGone(t *testing.T) {
	t.Parallel()
	i := start(t)
	old := mint(t, i, map[string]any{"aud": audience})
	i.Rotate()
	if verify(t, i, old) == nil {
		t.Error("a token of the old key still verifies")
	}
	if err := verify(t, i, mint(t, i, map[string]any{"aud": audience})); err != nil {
		t.Errorf("a token of the new key: %v", err)
	}
}

func TestEachFaultIsTheOneItIsCalled(t *testing.T) {
	t.Parallel()
	i := start(t)
	good := func(body string) bool {
		var set struct{ Keys []json.RawMessage }
		return json.Unmarshal([]byte(body), &set) == nil && len(set.Keys) == 2
	}
	i.Break("down")
	for _, path := range []string{"/jwks", "/.well-known/openid-configuration"} {
		if code, _ := fetch(t, i.URL()+path, ""); code != http.StatusInternalServerError {
			t.Errorf("down: %s answers %d", path, code)
		}
	}
	i.Break("empty")
	if code, body := fetch(t, i.URL()+"/jwks", ""); code != http.StatusOK || strings.TrimSpace(body) != `{"keys":[]}` {
		t.Errorf("empty: %d %s", code, body)
	}
	i.Break("huge")
	if code, body := fetch(t, i.URL()+"/jwks", ""); code != http.StatusOK || len(body) < 16<<20 || !good(body) {
		t.Errorf("huge: %d, %d bytes", code, len(body))
	}
	i.Break("redirect")
	resp, err := (&http.Transport{}).RoundTrip(request(t, t.Context(), i.URL()+"/jwks", ""))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if to, err := resp.Location(); err != nil || to.Hostname() != "localhost" {
		t.Errorf("redirect: to %v, %v", to, err)
	}
	if code, body := fetch(t, i.URL()+"/jwks-elsewhere", ""); code != http.StatusOK || !good(body) {
		t.Errorf("redirect: who follows gets %d", code)
	}
	i.AddJob("j", nil)
	i.Break(devissuer.TokenDown)
	if code, _ := fetch(t, i.RequestURL("j"), "bearer "+i.RequestToken("j")); code != http.StatusInternalServerError {
		t.Errorf("token-down: %d", code)
	}

	for mode, path := range map[devissuer.Mode]string{devissuer.Hang: "/jwks", devissuer.TokenHang: "/token"} {
		i.Break(mode)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		resp, err := http.DefaultClient.Do(request(t, ctx, i.URL()+path, ""))
		cancel()
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s: answered", mode)
		}
		answered, asked := make(chan int), make(chan struct{})
		go func() {
			resp, err := http.DefaultClient.Do(request(t, written(t.Context(), asked), i.URL()+path, ""))
			if err != nil {
				answered <- 0
				return
			}
			resp.Body.Close()
			answered <- resp.StatusCode
		}()
		<-asked
		i.Break("")
		if code := <-answered; code == 0 {
			t.Errorf("%s: not answered after it was mended", mode)
		}
	}
	before := i.Fetches()
	if code, body := fetch(t, i.URL()+"/jwks", ""); code != http.StatusOK || !good(body) {
		t.Errorf("mended: %d", code)
	}
	if got := i.Fetches() - before; got != 1 {
		t.Errorf("one fetch counted as %d", got)
	}
}

func TestCloseEndsWhatHangs(t *testing.T) {
	t.Parallel()
	i := start(t)
	i.Break("hang")
	ended, asked := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		resp, err := http.DefaultClient.Do(request(t, written(t.Context(), asked), i.URL()+"/jwks", ""))
		if err == nil { // any end will do
			resp.Body.Close()
		}
	}()
	<-asked
	i.Close()
	<-ended
	i.Close()
}

func TestItEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	i, err := devissuer.Start(ctx)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	i.Close() // waits for the end
	if resp, err := http.Get(i.URL() + "/jwks"); err == nil {
		resp.Body.Close()
		t.Error("it still answers")
	}
}

func TestItListensOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	for _, addr := range []string{"0.0.0.0:0", ":0", "192.0.2.1:0", "[::]:0", "example.org:0", "127.0.0.1"} {
		if i, err := devissuer.Start(t.Context(), devissuer.Addr(addr)); err == nil {
			i.Close()
			t.Errorf("%s: started", addr)
		}
	}
}

func request(t *testing.T, ctx context.Context, url, auth string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Error(err)
	}
	if auth != "" {
		req.Header.Set("Authorization", auth)
	}
	return req
}

// written closes asked when a request with the context has been sent.
func written(ctx context.Context, asked chan struct{}) context.Context {
	tell := sync.OnceFunc(func() { close(asked) }) // a request can be sent twice
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(httptrace.WroteRequestInfo) { tell() },
	})
}

func fetch(t *testing.T, url, auth string) (int, string) {
	t.Helper()
	resp, err := http.DefaultClient.Do(request(t, t.Context(), url, auth))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func jsonInt(n int64) string {
	b, _ := json.Marshal(n)
	return string(b)
}

// Each CI's job gets its token as it does there, and it is one of that CI's.
func TestEachShapeIsThatOfItsCIsTokens(t *testing.T) {
	t.Parallel()
	i := start(t)
	for _, name := range devissuer.Shapes() {
		row := ci.Find(name)
		claims, err := ci.Unverified(mint(t, i, devissuer.Claims(name, nil)))
		if err != nil {
			t.Fatal(err)
		}
		for _, without := range []string{"", "a claim"} {
			if without != "" {
				delete(claims, row.IDs[0])
			} else if _, there := claims["aud"]; !there {
				claims["aud"] = audience // the rest have none by default
			}
			if err := row.Check(claims); (err == nil) != (without == "") {
				t.Errorf("%s without %q: %v", name, without, err)
			}
		}
	}
	for _, p := range ci.Providers {
		env, err := i.GivenEnv(p.Name, devissuer.Claims("generic", map[string]any{"aud": "cfa:v1:relay.example"}))
		given := slices.Contains([]string{"gitlab", "jenkins", "generic"}, p.Name)
		if (err == nil) != given {
			t.Errorf("%s: %v", p.Name, err)
		}
		if !given {
			continue
		}
		found, err := ci.Detect(ci.Env{Getenv: environ(env)})
		if err != nil || found != p {
			t.Errorf("%s: found %v, %v", p.Name, found, err)
			continue
		}
		if _, err := found.Token(t.Context(), ci.Env{Getenv: environ(env)}, "cfa:v1:relay.example"); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
}
