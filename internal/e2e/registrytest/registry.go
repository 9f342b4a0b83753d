// Package registrytest is a package registry for tests: one that demands a
// second factor in each way in which real ones do, and fails in the ways in
// which they fail. It is imported by tests only.
//
// The rule it keeps: it is a real server, so that real package managers talk to
// it unchanged, and what it says is what the registries say, to the header and
// the sentence, because that is all that a client, and who watches one, can
// decide by. What no test needs of a registry (search, teams, audits) is a 404.
//
// It speaks npm's protocol as far as publishing needs it, staging included, and
// RubyGems' as far as `gem push` does. How it demands a factor and how it fails
// is set per test; what is asked of it, and with which code, is in its journal,
// where a code is a mark that can be compared and not read: a test that fails
// prints its journal.
//
// What it is not: a judge of packages. It takes what it is sent if the digests
// are right.
package registrytest

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxBody is what a request may carry: the largest package of our tests is a
// few kilobytes, and a client gone wild must not fill the memory.
const maxBody = 32 << 20

// A Factor is what a registry demands for what is public at once: a publish, a
// staged package's approval or rejection.
type Factor string

const (
	None Factor = ""
	Code Factor = "code" // a one-time code
	Link Factor = "link" // a visit to a page; what comes of it is a token, which goes where a code goes
	Both Factor = "both" // a link for who can follow it; a code is taken too
)

// Config says how a registry behaves. The zero value demands no factor.
type Config struct {
	Factor Factor
	// Codes are the one-time codes that are right. More: [Registry.AddCode].
	Codes []string
	// Uses is how many requests one code, or one link's token, is good for; 0: as many as come.
	Uses int
	// WrongLimit is how many wrong codes are called wrong: after them each one is
	// answered by 429, as npm's registry does. 0: no limit.
	WrongLimit int
	// RetryAfter is what doneUrl tells a client to wait, in seconds; 0: the header is missing.
	RetryAfter int
	// LinkLife is how long a link can be visited and asked about; 0: until [Registry.ExpireLinks].
	LinkLife time.Duration
	// Spoiled is how many of the links that are visited give a token that is refused.
	Spoiled int
	// LinkBase is where authUrl and doneUrl point to, for a registry whose pages
	// are elsewhere or that lies; empty: this registry itself.
	LinkBase string
	// Notice is the npm-notice header of each answer that demands a factor.
	Notice string
	// Trusts is the repository (on CircleCI, the vcs-origin) whose CI may publish by an ID token, without a factor;
	// empty: none. The token's signature is not looked at: who can make one is what
	// the tests of this project are about elsewhere.
	Trusts string
	// TLS: the registry's certificate is in [Registry.CA].
	TLS bool
}

// A Registry is a running registry. All its methods may be called at once from
// several goroutines.
type Registry struct {
	server *httptest.Server
	config Config
	token  string
	ca     []byte
	key    []byte // of the marks in the journal
	lives  context.Context
	stop   context.CancelFunc

	mu       sync.Mutex
	changed  chan struct{} // closed at each change of what follows
	journal  []Request
	packages map[string]*document // npm, by name
	gems     map[string][]Version
	staged   []*Staged
	codes    map[string]int // one-time codes and tokens that are right → how often used
	wrong    int
	links    map[string]*link
	tokens   map[string]bool // given for ID tokens: each publishes by itself
	faults   faults
}

// faults are the failures that are still to come.
type faults struct {
	limited    int
	retryAfter int
	lost       []Lost
	forbidden  string
}

// Start starts a registry on loopback.
func Start(c Config) *Registry {
	r := &Registry{
		config: c, token: "npm_" + random(18), key: []byte(random(16)), changed: make(chan struct{}),
		packages: map[string]*document{}, gems: map[string][]Version{}, codes: map[string]int{}, links: map[string]*link{}, tokens: map[string]bool{},
	}
	for _, code := range c.Codes {
		r.codes[code] = 0
	}
	r.lives, r.stop = context.WithCancel(context.Background())
	r.server = httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	// A client that does not trust the certificate says so itself.
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if c.TLS {
		certificate, ca, err := issue()
		if err != nil {
			panic(err) // no randomness, or a template of ours that is wrong
		}
		r.ca, r.server.TLS = ca, &tls.Config{Certificates: []tls.Certificate{certificate}}
		r.server.StartTLS()
	} else {
		r.server.Start()
	}
	return r
}

// Close ends the registry and whatever it has not yet answered.
func (r *Registry) Close() {
	r.stop()
	r.server.CloseClientConnections()
	r.server.Close()
}

// URL is the registry's address, without a slash at its end.
func (r *Registry) URL() string { return r.server.URL }

// Host is the registry's host and port, as an .npmrc names it.
func (r *Registry) Host() string {
	return strings.TrimPrefix(strings.TrimPrefix(r.URL(), "https://"), "http://")
}

// Token is the first factor: npm's bearer token, RubyGems' API key.
func (r *Registry) Token() string { return r.token }

// CA is the authority that clients of a registry with TLS must trust, as PEM; of
// one without, nothing.
func (r *Registry) CA() []byte { return r.ca }

// Client is an HTTP client that trusts the registry.
func (r *Registry) Client() *http.Client { return r.server.Client() }

// AddCode makes a code right.
func (r *Registry) AddCode(code string) {
	r.change(func() { r.codes[code] = 0 })
}

// ExpireCodes makes all codes and all tokens wrong, as time would.
func (r *Registry) ExpireCodes() {
	r.change(func() { clear(r.codes) })
}

// RateLimit lets the next n requests that would change something be answered by
// 429, with that retry-after in seconds; below 0: without the header.
func (r *Registry) RateLimit(n, retryAfter int) {
	r.change(func() { r.faults.limited, r.faults.retryAfter = n, retryAfter })
}

// Lost is how the answer to a publish that was taken gets lost.
type Lost string

const (
	Lost500  Lost = "500"  // the answer is a 500
	LostConn Lost = "conn" // the connection is cut instead
)

// Lose makes the next publishes lose their answers: they are taken, and the
// client does not hear of it.
func (r *Registry) Lose(lost ...Lost) {
	r.change(func() { r.faults.lost = append(r.faults.lost, lost...) })
}

// NeedsBypass is what npm's registry says to a token that no code can help.
const NeedsBypass = "Two-factor authentication or granular access token with bypass 2fa enabled is required to publish packages."

// Forbid lets each request that would change something be answered by 403 with
// that text; empty: no longer.
func (r *Registry) Forbid(text string) {
	r.change(func() { r.faults.forbidden = text })
}

func (r *Registry) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	r.tell()
}

// tell wakes who waits for a change; r.mu is held.
func (r *Registry) tell() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Wait waits until the journal satisfies ok, and gives it.
func (r *Registry) Wait(ctx context.Context, ok func([]Request) bool) ([]Request, error) {
	for {
		r.mu.Lock()
		journal, changed := slices.Clone(r.journal), r.changed
		r.mu.Unlock()
		if ok(journal) {
			return journal, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return journal, ctx.Err()
		}
	}
}

// A Request is one request in the journal.
type Request struct {
	At       time.Time
	Method   string
	Path     string // as it was sent, still escaped, with its query
	OTP      string // the mark of the code that came with it, or nothing; see [Registry.Mark]
	AuthType string // npm-auth-type
	Command  string // npm-command
	Agent    string // user-agent
	Known    bool   // it came with the registry's token, or one that was given for an ID token
	Trusted  bool   // the latter
	Status   int    // of the answer; 0: the connection was cut
}

// Publishes says whether it asked for a version to become public at once.
func (q Request) Publishes() bool {
	return q.Method == http.MethodPut && !strings.HasPrefix(q.Path, "/-/") || q.Method == http.MethodPost && q.Path == gemsPath
}

// String is one line for a failed test; what could be a code is not in it.
func (q Request) String() string {
	line := q.Method + " " + q.Path + " → " + strconv.Itoa(q.Status)
	for _, f := range []struct{ name, value string }{{"otp", q.OTP}, {"auth-type", q.AuthType}, {"command", q.Command}} {
		if f.value != "" {
			line += " " + f.name + "=" + f.value
		}
	}
	return line
}

// Journal is every request that was answered, in the order of the answers.
func (r *Registry) Journal() []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.journal)
}

// Puts are the requests that asked to publish that package of npm.
func (r *Registry) Puts(name string) []Request {
	return slices.DeleteFunc(r.Journal(), func(q Request) bool {
		path, err := url.PathUnescape(q.Path)
		return !q.Publishes() || err != nil || path != "/"+name
	})
}

// Mark is how the journal shows a code: the same one gives the same mark, and
// from the mark alone nobody finds the code.
func (r *Registry) Mark(code string) string {
	if code == "" {
		return ""
	}
	mac := hmac.New(sha256.New, r.key)
	mac.Write([]byte(code))
	return "otp-" + hex.EncodeToString(mac.Sum(nil)[:6])
}

// reply is what a handler decided; it is sent when the lock is free again.
type reply struct {
	status int
	header map[string]string
	body   any // a string is sent as text, bytes as they are, all else as JSON
	cut    bool
}

func problem(status int, text string) reply {
	return reply{status: status, body: map[string]string{"error": text}}
}

var notFound = problem(http.StatusNotFound, "Not found")

func (r *Registry) serve(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxBody))
	if err != nil {
		http.Error(w, "the body did not come whole, or is too large", http.StatusRequestEntityTooLarge)
		return
	}
	otp := req.Header.Get("npm-otp")
	if otp == "" {
		otp = req.Header.Get("OTP") // RubyGems
	}
	auth := req.Header.Get("Authorization")
	q := Request{
		At: time.Now(), Method: req.Method, Path: req.URL.RequestURI(), OTP: r.Mark(otp),
		AuthType: req.Header.Get("npm-auth-type"), Command: req.Header.Get("npm-command"), Agent: req.UserAgent(),
		Known: auth == "Bearer "+r.token || auth == r.token,
	}
	r.mu.Lock()
	bearer, _ := strings.CutPrefix(auth, "Bearer ")
	if q.Trusted = r.tokens[bearer]; q.Trusted {
		q.Known = true
	}
	answer := r.answer(req, q, body, otp)
	if q.Status = answer.status; answer.cut {
		q.Status = 0
	}
	r.journal = append(r.journal, q)
	r.tell()
	r.mu.Unlock()
	if answer.cut {
		// The way that net/http has to cut a connection without an answer.
		panic(http.ErrAbortHandler)
	}
	for name, value := range answer.header {
		w.Header().Set(name, value)
	}
	var data []byte
	switch b := answer.body.(type) {
	case nil:
	case string:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		data = []byte(b)
	case []byte:
		w.Header().Set("Content-Type", "application/octet-stream")
		data = b
	default:
		w.Header().Set("Content-Type", "application/json")
		if data, err = json.Marshal(b); err != nil {
			panic(err) // a type of ours that cannot be encoded
		}
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(data)))
	w.WriteHeader(answer.status)
	_, _ = w.Write(data)
}

// answer decides; r.mu is held.
func (r *Registry) answer(req *http.Request, q Request, body []byte, otp string) reply {
	path := req.URL.EscapedPath()
	switch {
	case strings.HasPrefix(path, "/auth/"), strings.HasPrefix(path, "/done/"), strings.HasPrefix(path, "/webauthn_verification/"):
		return r.page(req.Method, path)
	case strings.HasPrefix(path, "/api/v1/"):
		return r.rubygems(req.Method, path, q.Known, body, otp)
	case path == "/-/ping":
		return reply{status: http.StatusOK, body: struct{}{}}
	case req.Method == http.MethodGet && strings.Contains(path, "/-/") && !strings.HasPrefix(path, "/-/"):
		return r.tarball(path) // public, as the packument is
	case req.Method == http.MethodGet && !strings.HasPrefix(path, "/-/"):
		return r.packument(path)
	case strings.HasPrefix(path, exchangePath) && r.config.Trusts != "":
		return r.exchange(req)
	case !q.Known:
		return problem(http.StatusUnauthorized, "You must be logged in to publish packages.")
	case path == "/-/whoami":
		return reply{status: http.StatusOK, body: map[string]string{"username": user}}
	case path == "/-/npm/v1/user":
		return reply{status: http.StatusOK, body: map[string]any{"name": user, "tfa": map[string]any{"mode": "auth-and-writes", "pending": false}}}
	case path == "/-/stage" || strings.HasPrefix(path, "/-/stage/"):
		return r.stage(req, path, body, otp)
	case strings.HasPrefix(path, "/-/package/") && strings.HasSuffix(path, "/dist-tags") && req.Method == http.MethodGet:
		return r.tags(path)
	case req.Method == http.MethodPut && !strings.HasPrefix(path, "/-/"):
		return r.put(path, body, otp, q.Trusted)
	}
	return notFound
}

const user = "ana"

// failure is what is to fail now, before anything is looked at; r.mu is held.
func (r *Registry) failure() (reply, bool) {
	if r.faults.limited > 0 {
		r.faults.limited--
		return limited(r.faults.retryAfter), true
	}
	if r.faults.forbidden != "" {
		return problem(http.StatusForbidden, r.faults.forbidden), true
	}
	return reply{}, false
}

func limited(retryAfter int) reply {
	answer := problem(http.StatusTooManyRequests, "Could not publish, as user "+user+": rate limited exceeded")
	if retryAfter >= 0 {
		answer.header = map[string]string{"retry-after": strconv.Itoa(retryAfter)}
	}
	return answer
}

// taken is the answer to what was taken, unless it is to get lost; r.mu is held.
func (r *Registry) taken(answer reply) reply {
	if len(r.faults.lost) == 0 {
		return answer
	}
	lost := r.faults.lost[0]
	r.faults.lost = r.faults.lost[1:]
	if lost == LostConn {
		return reply{cut: true}
	}
	return problem(http.StatusInternalServerError, "Internal server error")
}

func random(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, by its own documentation
	return hex.EncodeToString(b)
}

// names are the keys of m, for a message of a test.
func names[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
