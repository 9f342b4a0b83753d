// Package trust decides whether an ID token speaks for a job, for a key and for
// a request ([Verifier.Verify]), and whether that job may do what it asks
// ([Policy.Match]).
//
// The rule it keeps: there is one function that verifies and one type that
// holds policy. The relay calls Verify when a job connects and when it asks, a
// responder calls it when a human opens the prompt, with more evidence each
// time; the relay's rules and the responder's pins are the same [Rule], compiled
// into the same [Policy]. So what the relay believes, each responder can believe
// for itself, and nobody has to keep two readings of one token in step.
//
// Nothing is believed before it is verified, and nothing is fetched because a
// token says so. A token is first read strictly (token.go): one size, one form,
// one meaning, an algorithm and an issuer that configuration names. Only then
// may its issuer's keys be asked for (keys.go), and only go-oidc says whether
// the signature is good. Audience, times and claims are looked at after that:
// what an unsigned token claims is not worth a reason.
//
// A refusal is an [*Error] or a [*Mismatch]: which check failed, what was found,
// and what would mend it. Claims that are quoted in it are cleaned and cut;
// tokens never are quoted.
package trust

import (
	"regexp"
	"slices"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/wire"
)

// Code says which check refused: what a program decides on.
type Code string

// The codes, in the order in which Verify checks.
const (
	CodeBinding   Code = "binding"   // what should be bound to a key is not, or to nothing that is one
	CodeForm      Code = "form"      // not one canonical compact token that reads in one way only
	CodeIssuer    Code = "issuer"    // not an issuer of the configuration
	CodeAlgorithm Code = "algorithm" // not an algorithm of that issuer
	CodeKeys      Code = "keys"      // the issuer's keys are not there now: temporary
	CodeSignature Code = "signature" // not signed by the issuer
	CodeAudience  Code = "audience"  // for somebody else
	CodeTime      Code = "time"      // not valid now, or its times are not times
	CodeClaim     Code = "claim"     // a claim is missing or has the wrong type
	CodeRequest   Code = "request"   // the request is not one that this key made for this relay
	CodeProof     Code = "proof"     // the token is of another job than the request
	CodeAlive     Code = "alive"     // not this job's answer to this challenge
)

// Error is a refusal by [Verifier.Verify].
type Error struct {
	Code Code
	Why  string // what was found
	Mend string // what would mend it; may be empty
	// Inside is what only our own side should read, such as what went wrong in
	// its network; may be empty. A stranger is sent Why and Mend alone.
	Inside string
	// cause is what errors.Is and errors.As look into; it is not printed.
	cause error
}

// Error is Why, Inside in brackets, and Mend after a semicolon: for our own
// side's people and logs.
func (e *Error) Error() string {
	text := e.Why
	if e.Inside != "" {
		text += " (" + e.Inside + ")"
	}
	if e.Mend != "" {
		text += "; " + e.Mend
	}
	return text
}

// Unwrap gives the error below, for example wire.ErrVersion.
func (e *Error) Unwrap() error { return e.cause }

func refuse(code Code, why, mend string) error { return &Error{Code: code, Why: why, Mend: mend} }

// Issuer is one issuer whose ID tokens are accepted.
type Issuer struct {
	// Name is what rules call it. Two servers of one CI have two names, because
	// they give out ids of their own: repository 1234 on an enterprise server is
	// not repository 1234 on github.com. Empty is the provider's name.
	Name     string
	Provider *ci.Provider
	// URL is the exact iss claim.
	URL string
	// Algs are the signature algorithms that its tokens may have: RS256, ES256.
	// nil is the provider's.
	Algs []string
	// KeySet is where its keys are, if not where its discovery document says.
	KeySet string
}

// Known gives the issuers that a CI's name alone stands for.
func Known() []Issuer {
	var known []Issuer
	for _, p := range ci.Providers {
		if p.Issuer != "" {
			known = append(known, Issuer{Name: p.Name, Provider: p, URL: p.Issuer})
		}
	}
	return known
}

var issuerName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// named is i with its name filled in.
func (i Issuer) named() Issuer {
	if i.Name == "" && i.Provider != nil {
		i.Name = i.Provider.Name
	}
	return i
}

func (i Issuer) algs() []string {
	switch {
	case len(i.Algs) > 0:
		return i.Algs
	case i.Provider != nil && len(i.Provider.Algs) > 0:
		return i.Provider.Algs
	}
	return []string{"RS256"}
}

func (i Issuer) allows(alg string) bool { return slices.Contains(i.algs(), alg) }

// shown makes a claim or any other text from outside fit for an error.
func shown(s string) string { return quote(wire.CleanName(s, 120)) }
