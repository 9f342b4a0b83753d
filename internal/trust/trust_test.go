package trust

// This file is what the tests stand on: a real issuer on loopback, one job with
// its key, and a clock that only moves when told to.

import (
	"errors"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/wire"
)

const relay = "relay.example"

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: start} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// static is a CI that cannot choose the audience at run time.
var static = &ci.Provider{
	Name: "static", Title: "Static CI", Algs: []string{"RS256"},
	Claims: []ci.Claim{{Name: "iss"}, {Name: "project_id"}, {Name: "owner_id"}, {Name: "run_id"}},
	Proof:  []string{"project_id", "run_id"},
	IDs:    []string{"project_id", "owner_id"},
	Owner:  "owner_id",
}

// world is one issuer, one relay's verifier, and one job.
type world struct {
	*devissuer.Issuer
	clock *clock
	keys  *Keys
	v     *Verifier
	kp    nkeys.KeyPair
	key   string
	row   *ci.Provider
}

func newWorld(t *testing.T, issuer Issuer, o Options) *world {
	t.Helper()
	w := &world{clock: newClock(), row: issuer.Provider}
	dev, err := devissuer.Start(t.Context(), devissuer.Clock(w.clock.now))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(dev.Close)
	w.Issuer = dev
	issuer.URL = dev.URL()
	if w.keys, err = NewKeys([]Issuer{issuer}, KeysOptions{Now: w.clock.now}); err != nil {
		t.Fatal(err)
	}
	o.Now = w.clock.now
	w.v = NewVerifier(relay, w.keys, o)
	w.kp, w.key = newKey(t)
	return w
}

func github(t *testing.T) *world {
	t.Helper()
	return newWorld(t, Issuer{Provider: ci.Find("github")}, Options{})
}

func newKey(t testing.TB) (nkeys.KeyPair, string) {
	t.Helper()
	kp, err := wire.NewConnectKey()
	if err != nil {
		t.Fatal(err)
	}
	return kp, wire.PublicKey(kp)
}

// claims are those of the world's job, for its key; over replaces some.
func (w *world) claims(over map[string]any) map[string]any {
	base := map[string]any{"iss": w.URL(), "aud": wire.Audience(relay, w.key)}
	maps.Copy(base, over)
	switch w.row.Name {
	case "github":
		return devissuer.GitHubClaims("octo-org/octo-repo", base)
	case "circleci":
		return devissuer.CircleCIClaims(base)
	}
	out := map[string]any{"project_id": "7", "owner_id": "8", "run_id": "9"}
	maps.Copy(out, base)
	if _, set := over["aud"]; !set {
		out["aud"] = wire.UnboundAudience(relay)
	}
	return out
}

func (w *world) token(t testing.TB, over map[string]any, opts ...devissuer.MintOption) string {
	t.Helper()
	token, err := w.Mint(w.claims(over), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// request is an honest request of the world's job; change may make it another.
func (w *world) request(t testing.TB, change func(*wire.Request)) *wire.Envelope {
	t.Helper()
	claims := w.claims(nil)
	proof := wire.Proof{"iss": w.URL()}
	for _, name := range w.row.Proof {
		if s, ok := claims[name].(string); ok {
			proof[name] = s
		}
	}
	r := &wire.Request{
		Key: w.key, Relay: relay, Project: "octo", Ask: wire.AskCode, Service: "npm", Format: "digits:6", Message: "release 1.2.3",
		Made: w.clock.now().Unix(), Deadline: w.clock.now().Unix() + 1800, HPKE: make([]byte, 32), Proof: proof,
	}
	if change != nil {
		change(r)
	}
	return sign(t, r, w.kp)
}

func sign(t testing.TB, body wire.Body, kp nkeys.KeyPair) *wire.Envelope {
	t.Helper()
	e, err := wire.Sign(body, kp)
	if err != nil {
		t.Fatal(err)
	}
	return &e
}

// job verifies an honest token with these claims, for tests of policy.
func (w *world) job(t testing.TB, over map[string]any) *Job {
	t.Helper()
	job, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: w.token(t, over)})
	if err != nil {
		t.Fatalf("an honest token is refused: %v", err)
	}
	return job
}

// refused checks that err is a refusal of that code for that reason.
func refused(t testing.TB, err error, code Code, why string) {
	t.Helper()
	var e *Error
	switch {
	case err == nil:
		t.Fatalf("accepted; want refusal %q", code)
	case !errors.As(err, &e):
		t.Fatalf("error is %T (%v), want *Error", err, err)
	case e.Code != code || !strings.Contains(e.Why, why) && !strings.Contains(e.Inside, why):
		t.Fatalf("refused with %q: %s\nwant %q with %q in it", e.Code, e.Error(), code, why)
	case len(e.Error()) > 1200:
		t.Errorf("the refusal is %d bytes long", len(e.Error()))
	}
}

// seconds from the start of the world, as a claim.
func in(d time.Duration) int64 { return start.Add(d).Unix() }
