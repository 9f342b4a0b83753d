// Package devissuer is an OpenID Connect issuer for the demo and for tests: it
// gives jobs that do not exist the ID tokens that a CI would give real ones.
//
// The rule it keeps: it is a real issuer, so that everything which trusts a CI's
// issuer is run against it unchanged (discovery document, key set, RS256
// signatures, GitHub's token endpoint), and it is a development issuer, so it
// listens on loopback only, its keys live in memory and end with it, and no
// configuration names it unless somebody writes its address there.
//
// Because a verifier is known by what it refuses, it also makes what no honest
// issuer makes: tokens with any header, any payload and somebody else's
// signature ([Issuer.Mint]), and key sets that fail ([Issuer.Break]). Signing is
// therefore done by hand here (RFC 7515) and not with a library, which would
// rightly refuse.
package devissuer

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// An Issuer is a running issuer. All its methods may be called at once from
// several goroutines.
type Issuer struct {
	url    string
	server *http.Server
	now    func() time.Time
	done   chan struct{} // closed by Close: ends answers that hang
	stop   func()        // ends the server, once
	unhook func() bool   // lets go of the context given to Start

	mu      sync.Mutex
	keys    keys
	jobs    map[string]*job // by name
	broken  Mode
	mended  chan struct{} // closed when broken changes: ends answers that hang
	fetches int
}

type job struct {
	token  string // the job's bearer token for the token endpoint
	claims map[string]any
}

type keys struct {
	rsa *rsa.PrivateKey
	ec  *ecdsa.PrivateKey
}

// A Mode is a way in which the issuer fails; see [Issuer.Break].
type Mode string

const (
	Works     Mode = ""
	Down      Mode = "down"       // discovery and key set answer 500
	Empty     Mode = "empty"      // the key set has no keys
	Hang      Mode = "hang"       // discovery and key set are not answered until mended
	Huge      Mode = "huge"       // the key set is good, and 16 MiB long
	Redirect  Mode = "redirect"   // the key set redirects to another host name, which has the good one
	TokenDown Mode = "token-down" // the token endpoint answers 500
	TokenHang Mode = "token-hang" // the token endpoint does not answer until mended
)

// An Option changes what [Start] starts.
type Option func(*options)

type options struct {
	addr string
	now  func() time.Time
}

// Addr makes the issuer listen there instead of on a free port of 127.0.0.1.
// The host must be a loopback address.
func Addr(hostport string) Option { return func(o *options) { o.addr = hostport } }

// Clock makes the issuer take the time of its tokens from now.
func Clock(now func() time.Time) Option { return func(o *options) { o.now = now } }

// Start starts an issuer with keys of its own. It ends with ctx, or at Close.
func Start(ctx context.Context, opts ...Option) (*Issuer, error) {
	o := options{addr: "127.0.0.1:0", now: time.Now}
	for _, opt := range opts {
		opt(&o)
	}
	host, _, err := net.SplitHostPort(o.addr)
	if err != nil {
		return nil, fmt.Errorf("development issuer: address %q: %w", o.addr, err)
	}
	// Anybody who reaches its token endpoint with a job's token is that job.
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("development issuer: %q is not a loopback address; it listens on nothing else", host)
	}
	k, err := newKeys()
	if err != nil {
		return nil, fmt.Errorf("development issuer: keys: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", o.addr)
	if err != nil {
		return nil, fmt.Errorf("development issuer: %w", err)
	}
	i := &Issuer{
		url:    "http://" + l.Addr().String(),
		now:    o.now,
		done:   make(chan struct{}),
		keys:   k,
		jobs:   map[string]*job{},
		mended: make(chan struct{}),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", i.discovery)
	mux.HandleFunc("GET /jwks", i.jwks)
	mux.HandleFunc("GET /jwks-elsewhere", func(w http.ResponseWriter, _ *http.Request) { i.writeKeys(w, "") })
	mux.HandleFunc("GET /token", i.token)
	i.server = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: 64 << 10}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = i.server.Serve(l) // ends with Close
	}()
	i.stop = sync.OnceFunc(func() {
		close(i.done)
		_ = i.server.Close()
		<-served
	})
	i.unhook = context.AfterFunc(ctx, i.stop)
	return i, nil
}

// Close ends the issuer and every connection to it. It may be called again.
func (i *Issuer) Close() {
	i.unhook()
	i.stop()
}

// URL is the issuer (iss): http://127.0.0.1:PORT.
func (i *Issuer) URL() string { return i.url }

// AddJob registers a job, whose tokens have these claims (and those that
// [Issuer.Mint] adds). Adding it again replaces its claims and leaves its
// request token as it is.
func (i *Issuer) AddJob(name string, claims map[string]any) {
	i.mu.Lock()
	defer i.mu.Unlock()
	j := i.jobs[name]
	if j == nil {
		j = &job{token: rand.Text()}
		i.jobs[name] = j
	}
	j.claims = maps.Clone(claims)
}

// RequestURL is what ACTIONS_ID_TOKEN_REQUEST_URL is in that job. Like GitHub's
// it has a query already, to which the audience is added.
func (i *Issuer) RequestURL(name string) string {
	return i.url + "/token?job=" + url.QueryEscape(name) + "&api-version=2.0"
}

// RequestToken is what ACTIONS_ID_TOKEN_REQUEST_TOKEN is in that job; "" if
// there is no such job.
func (i *Issuer) RequestToken(name string) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if j := i.jobs[name]; j != nil {
		return j.token
	}
	return ""
}

// GitHubEnv is the environment of that job on GitHub Actions, as NAME=value
// lines that agree with the job's claims; nil if there is no such job.
func (i *Issuer) GitHubEnv(name string) []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	j := i.jobs[name]
	if j == nil {
		return nil
	}
	env := []string{
		"CI=true",
		"GITHUB_ACTIONS=true",
		"GITHUB_JOB=" + name,
		"GITHUB_SERVER_URL=https://github.com",
		"GITHUB_API_URL=https://api.github.com",
		"ACTIONS_ID_TOKEN_REQUEST_URL=" + i.RequestURL(name),
		"ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + j.token,
	}
	for _, claim := range []string{
		"actor", "actor_id", "base_ref", "event_name", "head_ref", "ref", "ref_protected", "ref_type", "repository",
		"repository_id", "repository_owner", "repository_owner_id", "run_attempt", "run_id", "run_number", "sha",
		"workflow", "workflow_ref", "workflow_sha",
	} {
		if v, ok := j.claims[claim].(string); ok {
			env = append(env, "GITHUB_"+strings.ToUpper(claim)+"="+v)
		}
	}
	if v, ok := j.claims["runner_environment"].(string); ok {
		env = append(env, "RUNNER_ENVIRONMENT="+v)
	}
	return env
}

// Rotate makes new keys; the old ones are gone from the key set. It panics if
// the system has no randomness.
func (i *Issuer) Rotate() {
	k, err := newKeys()
	if err != nil {
		panic("devissuer: keys: " + err.Error())
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = k
}

// Break makes the issuer fail in that way until the next call; Break("") mends
// it and lets hanging answers go on.
func (i *Issuer) Break(m Mode) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.broken = m
	close(i.mended)
	i.mended = make(chan struct{})
}

// Fetches says how often the key set was asked for, however it was answered.
func (i *Issuer) Fetches() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.fetches
}

// fails answers a request if the issuer is broken in the mode down, and holds it
// up in the mode hang. It says whether the request is dealt with.
func (i *Issuer) fails(w http.ResponseWriter, r *http.Request, down, hang Mode) bool {
	for {
		i.mu.Lock()
		broken, mended := i.broken, i.mended
		i.mu.Unlock()
		switch broken {
		case down:
			http.Error(w, "the development issuer is broken on purpose", http.StatusInternalServerError)
			return true
		case hang:
			select {
			case <-mended:
			case <-i.done:
				return true
			case <-r.Context().Done():
				return true
			}
		default:
			return false
		}
	}
}

func (i *Issuer) discovery(w http.ResponseWriter, r *http.Request) {
	if i.fails(w, r, Down, Hang) {
		return
	}
	writeJSON(w, map[string]any{
		"issuer":                   i.url,
		"jwks_uri":                 i.url + "/jwks",
		"subject_types_supported":  []string{"public", "pairwise"},
		"response_types_supported": []string{"id_token"},
		"claims_supported":         []string{"sub", "aud", "exp", "iat", "iss", "jti", "nbf"},
		"scopes_supported":         []string{"openid"},
		// A verifier that lets the issuer choose the algorithms takes both.
		"id_token_signing_alg_values_supported": []string{"RS256", "ES256"},
	})
}

func (i *Issuer) jwks(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	i.fetches++
	i.mu.Unlock()
	if i.fails(w, r, Down, Hang) {
		return
	}
	i.mu.Lock()
	broken := i.broken
	i.mu.Unlock()
	switch broken {
	case Empty:
		writeJSON(w, map[string]any{"keys": []any{}})
	case Huge:
		// Good after all, so that who reads it to the end is found out.
		i.writeKeys(w, strings.Repeat(" ", 16<<20))
	case Redirect:
		port := i.url[strings.LastIndex(i.url, ":"):]
		http.Redirect(w, r, "http://localhost"+port+"/jwks-elsewhere", http.StatusFound)
	default:
		i.writeKeys(w, "")
	}
}

func (i *Issuer) writeKeys(w http.ResponseWriter, padding string) {
	i.mu.Lock()
	k := i.keys
	i.mu.Unlock()
	point, err := k.ec.PublicKey.Bytes() // 0x04, x, y
	if err != nil {
		http.Error(w, "no key", http.StatusInternalServerError)
		return
	}
	b64 := base64.RawURLEncoding.EncodeToString
	set, err := json.Marshal([]map[string]string{
		{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": keyID(k.rsa.Public()),
			"n": b64(k.rsa.N.Bytes()), "e": b64(big.NewInt(int64(k.rsa.E)).Bytes()),
		},
		{
			"kty": "EC", "use": "sig", "alg": "ES256", "crv": "P-256", "kid": keyID(k.ec.Public()),
			"x": b64(point[1:33]), "y": b64(point[33:]),
		},
	})
	if err != nil {
		http.Error(w, "no key", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = fmt.Fprintf(w, "{%s\"keys\":%s}", padding, set)
}

// token is GitHub's token endpoint: GET …?…&audience=A with the job's bearer
// token gives {"value": token}; without an audience the owner's default one.
func (i *Issuer) token(w http.ResponseWriter, r *http.Request) {
	if i.fails(w, r, TokenDown, TokenHang) {
		return
	}
	scheme, bearer, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	i.mu.Lock()
	var claims map[string]any
	j := i.jobs[r.URL.Query().Get("job")]
	known := j != nil && strings.EqualFold(scheme, "bearer") && bearer == j.token
	if known {
		claims = maps.Clone(j.claims)
	}
	i.mu.Unlock()
	if !known {
		http.Error(w, "unknown job or wrong bearer token", http.StatusUnauthorized)
		return
	}
	if claims == nil {
		claims = map[string]any{}
	}
	if audience := r.URL.Query().Get("audience"); audience != "" {
		claims["aud"] = audience
	}
	token, err := i.Mint(claims)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeJSON(w, map[string]any{"value": token})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // fails only if the client has gone
}

func newKeys() (keys, error) {
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return keys{}, err
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return keys{rsa: r, ec: e}, err
}

// keyID names a public key: the start of its hash, so that a new key has a new
// name and nobody has to count.
func keyID(pub crypto.PublicKey) string {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "unknown"
	}
	sum := sha256.Sum256(der)
	return strings.ToUpper(hex.EncodeToString(sum[:20]))
}

var errKey = errors.New("the key does not fit the algorithm")
