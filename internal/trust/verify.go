package trust

// This file is the chain of proof: one function, in the order of the protocol.

import (
	"bytes"
	"context"
	"crypto"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/wire"
)

// Options are what a Verifier needs from outside.
type Options struct {
	Now func() time.Time // nil: time.Now
	// AllowUnbound accepts tokens of CIs that cannot name the job's key in the
	// audience, with wire.UnboundAudience. Rules and pins must allow it as well.
	AllowUnbound bool
}

// Verifier verifies evidence for one relay name. Its methods may be called at
// once from several goroutines.
type Verifier struct {
	relay   string
	keys    *Keys
	now     func() time.Time
	unbound bool
	recent  recent
}

// NewVerifier makes a verifier of ID tokens for the relay of that name.
func NewVerifier(relayName string, keys *Keys, o Options) *Verifier {
	v := &Verifier{relay: relayName, keys: keys, now: o.Now, unbound: o.AllowUnbound}
	if v.now == nil {
		v.now = time.Now
	}
	return v
}

// Evidence is what a job has shown. Key and Token are always needed; Request is
// when it asks; Alive and Challenge (both or neither) when a responder opens its
// prompt.
type Evidence struct {
	// Key is the job's public key, known from the connection or the subject.
	Key   string
	Token string
	// Request is the envelope that Key signed.
	Request *wire.Envelope
	// Alive is the envelope by which Key answered Challenge.
	Alive     *wire.Envelope
	Challenge *wire.Challenge
}

// Job is what was proved.
type Job struct {
	Issuer Issuer
	Claims ci.Claims
	Facts  ci.Facts
	// Bound says that the token names the job's key. Where it does not, nothing
	// but the relay's word ties the key to the job.
	Bound bool
	// TokenID is the hex SHA-256 of the token's header and payload: what an
	// unbound token is remembered by.
	TokenID           string
	IssuedAt, Expires time.Time

	Request wire.Request // zero unless there was one
	Digest  wire.Digest
	Alive   wire.Alive // zero unless there was one
}

// Verify says which job the evidence proves, or why none. At connect it says
// that the job's token is good, is for this relay and for this key; with a
// request, also that the key made that request for this relay and that the token
// is of the very job that the request names; with an alive answer and the
// challenge it answers, also that this job is running now and still asks. Every
// error is an [*Error].
func (v *Verifier) Verify(ctx context.Context, e Evidence) (*Job, error) {
	if wire.CheckConnectKey(e.Key) != nil {
		return nil, refuse(CodeBinding, "there is no key that the ID token could speak for", "connect with a key that begins with U")
	}
	if (e.Alive == nil) != (e.Challenge == nil) || e.Alive != nil && e.Request == nil {
		return nil, refuse(CodeAlive, "an alive answer, the challenge that it answers and the request belong together, and one of them is missing", "")
	}

	// The token: form, issuer, algorithm, signature, and only then its claims.
	t, set, second, err := v.authentic(ctx, e.Token)
	if err != nil {
		return nil, err
	}
	if err := v.audience(t, set.issuer, e.Key); err != nil {
		return nil, err
	}
	issued, expires, err := t.times(v.now(), set.issuer.Provider.Bound)
	if err != nil {
		return nil, err
	}
	if err := checkClaims(t, set.issuer); err != nil {
		return nil, err
	}
	// Never accept what the library refuses, even where it is thought to be
	// less strict: then one of the two is misunderstood.
	if second != nil {
		return nil, &Error{Code: CodeClaim, Why: "the ID token's claims are refused by go-oidc", Mend: asGiven, cause: second}
	}
	job := &Job{
		Issuer: set.issuer, Claims: t.claims, Bound: set.issuer.Provider.Bound,
		TokenID: t.id, IssuedAt: issued, Expires: expires,
	}
	if facts := set.issuer.Provider.Facts; facts != nil {
		job.Facts = facts(t.claims)
	}
	if e.Request == nil {
		return job, nil
	}

	// The request: made by this key, for this relay, by this very job.
	if job.Request, err = wire.Open[wire.Request](*e.Request, e.Key); err != nil {
		return nil, &Error{Code: CodeRequest, Why: "the request is not one that this key signed: " + err.Error(), cause: err}
	}
	if job.Digest, err = wire.DigestOf(*e.Request, e.Key); err != nil {
		return nil, &Error{Code: CodeRequest, Why: err.Error(), cause: err}
	}
	if job.Request.Relay != v.relay {
		return nil, refuse(CodeRequest, fmt.Sprintf("the request is for the relay %s, and this is %s", shown(job.Request.Relay), shown(v.relay)), "set relay-name in the job to the name in the relay's configuration")
	}
	if err := checkProof(t.claims, set.issuer.Provider, job.Request.Proof); err != nil {
		return nil, err
	}
	if e.Alive == nil {
		return job, nil
	}

	// The alive answer: by this key, to this challenge, for this request.
	if job.Alive, err = wire.Open[wire.Alive](*e.Alive, e.Key); err != nil {
		return nil, &Error{Code: CodeAlive, Why: "the alive answer is not one that the job's key signed: " + err.Error(), cause: err}
	}
	a, c := job.Alive, e.Challenge
	switch {
	case c.Digest != job.Digest:
		return nil, refuse(CodeAlive, "the challenge is for another request", "")
	case a.Digest != job.Digest:
		return nil, refuse(CodeAlive, "the alive answer is for another request of this key", "")
	case !bytes.Equal(a.Nonce, c.Nonce):
		return nil, refuse(CodeAlive, "the alive answer is to another challenge; an old one may have been sent again", "open the prompt again")
	case a.Connect != c.Connect || a.Responder != c.Key:
		return nil, refuse(CodeAlive, "the alive answer is to another responder's challenge", "open the prompt again")
	case a.Link != "" && job.Request.Ask != wire.AskLink:
		// A link that nobody asked to follow is bait.
		return nil, refuse(CodeAlive, "the alive answer holds a link, and the request asks for none", "")
	case job.Request.Deadline <= v.now().Unix():
		return nil, refuse(CodeRequest, "the request's deadline has passed", "")
	}
	return job, nil
}

// authentic reads a token and verifies its signature, or remembers that it has.
func (v *Verifier) authentic(ctx context.Context, raw string) (t *token, set *keySet, second, err error) {
	if t, set, known := v.recent.find(raw); known {
		return t, set, nil, nil
	}
	if t, err = readToken(raw); err != nil {
		return nil, nil, nil, err
	}
	if set, err = v.issuer(t); err != nil {
		return nil, nil, nil, err
	}
	if err = checkAlgorithm(t, set.issuer); err != nil {
		return nil, nil, nil, err
	}
	// Before: keys that come in between are not those that verified it.
	got := set.fetched()
	if second, err = v.signature(ctx, t, set); err != nil {
		return nil, nil, nil, err
	}
	if second == nil {
		v.recent.add(raw, t, set, got)
	}
	return t, set, second, nil
}

// issuer finds the token's issuer in the configuration, before anything is asked
// of any network: else a stranger's token could send us to a host of its choice.
func (v *Verifier) issuer(t *token) (*keySet, error) {
	iss, err := t.issuer()
	if err != nil {
		return nil, err
	}
	set := v.keys.sets[iss]
	if set == nil {
		return nil, refuse(CodeIssuer, fmt.Sprintf("the ID token's issuer is %s, which is not configured here", shown(iss)), v.keys.like(iss))
	}
	return set, nil
}

func checkAlgorithm(t *token, issuer Issuer) error {
	if !issuer.allows(t.alg) {
		return refuse(CodeAlgorithm, fmt.Sprintf("the ID token's algorithm is %s; from this issuer only %s is accepted", shown(t.alg), strings.Join(issuer.algs(), " or ")), asGiven)
	}
	return nil
}

// like is the advice for an issuer that is not configured: whether it only looks
// like one that is.
func (k *Keys) like(iss string) string {
	plain := func(s string) string { return strings.TrimRight(strings.ToLower(s), "/") }
	for url := range k.sets {
		if plain(url) == plain(iss) {
			return "issuers are compared exactly, and the configured one is " + quote(url)
		}
	}
	return "use a CI that is configured here, or name the issuer in the configuration if its jobs are meant to ask"
}

// signature has go-oidc verify the signature with the issuer's keys. second is
// what go-oidc had to say of the claims of a token that is well signed.
func (v *Verifier) signature(ctx context.Context, t *token, set *keySet) (second, err error) {
	broken := func(why string) error {
		return refuse(CodeSignature, why+", so nothing that it says can be believed", asGiven)
	}
	if !t.signed {
		return nil, broken("the ID token has no signature")
	}
	keys, err := v.keys.find(ctx, set, t.kid)
	if err != nil {
		return nil, err
	}
	seen := &verified{keys: keys}
	_, second = oidc.NewVerifier(set.issuer.URL, seen, &oidc.Config{
		SupportedSigningAlgs: set.issuer.algs(), // else what the token says would count
		SkipClientIDCheck:    true,              // it accepts one of several; ours is stricter
		Now:                  v.now,
	}).Verify(ctx, t.raw)
	if !seen.good {
		return nil, broken(fmt.Sprintf("the ID token's signature does not verify with the key of its issuer %s", set.issuer.URL))
	}
	// What was verified must be what was read.
	if !bytes.Equal(seen.payload, t.payload) {
		return nil, broken("the ID token's signature is over another payload")
	}
	return second, nil
}

// verified is the key set that go-oidc is given for one token: the keys that the
// token's key id names, found before, so that verifying never asks a network. It
// also notes whether it was the signature that failed, because go-oidc's error
// does not say.
type verified struct {
	keys    []crypto.PublicKey
	good    bool
	payload []byte
}

func (s *verified) VerifySignature(ctx context.Context, raw string) ([]byte, error) {
	payload, err := (&oidc.StaticKeySet{PublicKeys: s.keys}).VerifySignature(ctx, raw)
	s.good, s.payload = err == nil, payload
	return payload, err
}

// audience checks that the token is for this relay and, if its CI can say so,
// for this key. With key "" any key will do, and only [Verifier.Inspect] asks
// that.
func (v *Verifier) audience(t *token, issuer Issuer, key string) error {
	aud, err := t.audience()
	if err != nil {
		return err
	}
	if err := wire.CheckAudience(aud); err != nil {
		return refuse(CodeAudience, fmt.Sprintf("the ID token's audience is of another version of the protocol (%s): %s", shown(aud), err), "")
	}
	unbound := wire.UnboundAudience(v.relay)
	if !issuer.Provider.Bound {
		switch {
		case !v.unbound:
			return refuse(CodeBinding, fmt.Sprintf("ID tokens of %s cannot name the job's key, and such tokens are not accepted here", issuer.Provider.Title), "allow unbound tokens here only if a person who types the match code each time is protection enough")
		case aud != unbound:
			return refuse(CodeAudience, fmt.Sprintf("the ID token's audience is %s, not %s", shown(aud), quote(unbound)), "ask the CI for a token with that audience")
		}
		return nil
	}
	rest, ours := strings.CutPrefix(aud, wire.Audience(v.relay, ""))
	switch {
	case key == "" && ours && wire.CheckConnectKey(rest) == nil:
		return nil
	case key != "" && aud == wire.Audience(v.relay, key):
		return nil
	case aud == unbound:
		return refuse(CodeBinding, fmt.Sprintf("the ID token's audience names no key, and %s can name one, so whoever had the token could use it", issuer.Provider.Title), "ask the CI for a token with the audience "+v.wanted(key))
	case ours && wire.CheckConnectKey(rest) == nil:
		return refuse(CodeAudience, fmt.Sprintf("the ID token speaks for the key %s, not for %s; a token is worth something only with the key that it names", shown(rest), quote(key)), "fetch a token for this key")
	}
	return refuse(CodeAudience, fmt.Sprintf("the ID token's audience is %s, not %s", shown(aud), v.wanted(key)), "ask the CI for a token with that audience; a wrong relay name shows here too")
}

func (v *Verifier) wanted(key string) string {
	if key == "" {
		key = "<key>"
	}
	return quote(wire.Audience(v.relay, key))
}

// checkClaims keeps out what the issuer signed for another purpose.
func checkClaims(t *token, issuer Issuer) error {
	if err := issuer.Provider.Check(t.claims); err != nil {
		return &Error{Code: CodeClaim, Why: "the ID token is not a job's: " + err.Error(), Mend: "use an ID token that the CI gave to a job", cause: err}
	}
	return nil
}

// checkProof compares the token with the job that the request names: the same
// claims, each with the same value, none missing on either side. So a token of
// another run, of a tag that was moved since, or of another repository at the
// same relay never stands for this request.
func checkProof(claims ci.Claims, p *ci.Provider, proof wire.Proof) error {
	names := append([]string{"iss"}, p.Proof...)
	for _, name := range names {
		got, ok := claims.String(name)
		want, named := proof[name]
		if _, there := claims[name]; there && !ok {
			return refuse(CodeProof, fmt.Sprintf("the ID token's %s is not a string", name), "")
		}
		switch {
		case ok && !named:
			return refuse(CodeProof, fmt.Sprintf("the ID token's %s is %s, and the request does not name it", name, shown(got)), "")
		case !ok && named:
			return refuse(CodeProof, fmt.Sprintf("the request's %s is %s, and the ID token has none", name, shown(want)), "")
		case got != want:
			return refuse(CodeProof, fmt.Sprintf("the ID token is of another job than the request: its %s is %s, the request's is %s", name, shown(got), shown(want)), "")
		}
	}
	for name := range proof {
		if !slices.Contains(names, name) {
			return refuse(CodeProof, fmt.Sprintf("the request names the claim %s, by which jobs of %s are not told apart", shown(name), p.Title), "")
		}
	}
	return nil
}
