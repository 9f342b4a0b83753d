package trust

// This file reads a token before any library sees it, and decides nothing but
// that it can be read in one way only. go-oidc takes the JSON serialisation,
// white space, several spellings of one token, and the last of two equal
// claims; whatever another reader could read differently ends here.

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/wire"
)

// maxKeyID bounds a kid, in bytes. Those of the known issuers have 20 to 64.
const maxKeyID = 256

// token is a compact JWS (RFC 7515 section 7.1) that has the right form, and of
// which nothing is verified.
type token struct {
	raw     string
	alg     string
	kid     string
	payload []byte
	signed  bool // it has a signature at all
	claims  ci.Claims
	// id is the hex SHA-256 of header.payload. The signature is left out: of an
	// ES256 signature anybody can make a second valid one, and the token would
	// count as a new one.
	id string
}

const asGiven = "send the ID token exactly as the CI gave it"

// readToken checks the form and reads header and payload.
func readToken(raw string) (*token, error) {
	switch {
	case raw == "":
		return nil, refuse(CodeForm, "there is no ID token", "send one")
	case len(raw) > wire.MaxToken:
		return nil, refuse(CodeForm, fmt.Sprintf("the ID token has %d bytes; at most %d are read", len(raw), wire.MaxToken), asGiven)
	}
	// Counted before it is split: a million dots would become a million strings.
	if dots := strings.Count(raw, "."); dots != 2 {
		return nil, refuse(CodeForm, fmt.Sprintf("the ID token is not three parts with a dot between them: it has %d dots", dots), asGiven)
	}
	var parts [3][]byte
	for i, part := range strings.Split(raw, ".") {
		what := [3]string{"header", "payload", "signature"}[i]
		// The decoder skips line breaks, and the last character of a part can
		// carry bits that mean nothing: both give one token many spellings.
		decoded, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil || base64.RawURLEncoding.EncodeToString(decoded) != part {
			return nil, refuse(CodeForm, "the ID token's "+what+" is not canonical base64url", asGiven)
		}
		parts[i] = decoded
	}
	t := &token{raw: raw, payload: parts[1], signed: len(parts[2]) > 0}
	if err := t.readHeader(parts[0]); err != nil {
		return nil, err
	}
	claims, err := ci.Decode(t.payload)
	if err != nil {
		return nil, refuse(CodeForm, "the ID token does not read in one way only: "+err.Error(), asGiven)
	}
	t.claims = claims
	sum := sha256.Sum256([]byte(raw[:strings.LastIndexByte(raw, '.')]))
	t.id = hex.EncodeToString(sum[:])
	return t, nil
}

func (t *token) readHeader(raw []byte) error {
	// The reader of payloads is as strict as a header needs; its errors speak of
	// a payload, so they are not passed on.
	header, err := ci.Decode(raw)
	if err != nil {
		return refuse(CodeForm, "the ID token's header is not a JSON object in which each name stands once", asGiven)
	}
	// A token does not choose the key it is checked with, nor rules of its own.
	for _, name := range []string{"jku", "x5u", "jwk", "x5c", "crit", "b64"} {
		if _, there := header[name]; there {
			return refuse(CodeForm, fmt.Sprintf("the ID token's header has %q, by which a token would choose its own key or rules", name), asGiven)
		}
	}
	if typ, there := header["typ"]; there {
		// Issuers mark tokens for other purposes (access, logout) here.
		if s, ok := typ.(string); !ok || !strings.EqualFold(s, "JWT") {
			return refuse(CodeForm, "the ID token's header says that it is another kind of token (typ is not JWT)", asGiven)
		}
	}
	t.alg, _ = header.String("alg")
	if t.alg == "" {
		return refuse(CodeForm, "the ID token's header names no algorithm", asGiven)
	}
	// Without a key id every key of the issuer would have to be tried.
	t.kid, _ = header.String("kid")
	if t.kid == "" || len(t.kid) > maxKeyID {
		return refuse(CodeForm, fmt.Sprintf("the ID token's header names no key (kid, a string of 1 to %d bytes)", maxKeyID), asGiven)
	}
	return nil
}

// issuer is the iss claim.
func (t *token) issuer() (string, error) {
	iss, ok := t.claims.String("iss")
	if !ok || iss == "" {
		return "", refuse(CodeIssuer, "the ID token names no issuer (iss)", asGiven)
	}
	return iss, nil
}

// audience is the one audience. A token with several is worth something to each
// of them, so that any of them could present it here.
func (t *token) audience() (string, error) {
	const one = "ask the CI for a token with the one audience that is wanted here"
	switch aud := t.claims["aud"].(type) {
	case string:
		if aud != "" {
			return aud, nil
		}
	case []any:
		if len(aud) > 1 {
			return "", refuse(CodeAudience, fmt.Sprintf("the ID token has %d audiences; exactly one is accepted", len(aud)), one)
		}
		if len(aud) == 1 {
			if s, ok := aud[0].(string); ok && s != "" {
				return s, nil
			}
		}
	}
	return "", refuse(CodeAudience, "the ID token has no audience", one)
}

// Bounds on a token's times. The issuers' clocks run seconds ahead of ours, and
// their tokens live from five minutes to six hours.
const (
	aheadMost = 60 * time.Second  // iat and nbf may lie this far ahead
	ageMost   = 600 * time.Second // and iat this far back, whatever exp says, where a job can ask for a fresh one
	lifeMost  = 24 * time.Hour    // exp after iat: an issuer that gives more is not understood here
)

// times checks iat, nbf and exp, and returns iat and exp. There is no leeway on
// exp: a job fetches a token just before it uses it. Where it cannot, because its
// CI makes the token before the job runs, the token's own time limit holds: a job
// that has built for an hour has no younger one.
func (t *token) times(now time.Time, bound bool) (issued, expires time.Time, err error) {
	issued, there, err := t.seconds("iat")
	if err == nil && !there {
		err = refuse(CodeTime, "the ID token does not say when it was issued (iat)", asGiven)
	}
	if err != nil {
		return issued, expires, err
	}
	expires, there, err = t.seconds("exp")
	if err == nil && !there {
		err = refuse(CodeTime, "the ID token does not say when it expires (exp)", asGiven)
	}
	if err != nil {
		return issued, expires, err
	}
	notBefore, there, err := t.seconds("nbf")
	if err != nil {
		return issued, expires, err
	}
	const clocks = "compare the clocks of this machine and of the CI"
	const fresh = "fetch a fresh ID token just before it is used"
	switch {
	case issued.After(now.Add(aheadMost)):
		return issued, expires, refuse(CodeTime, fmt.Sprintf("the ID token was issued %s from now; at most %s are accepted", span(issued.Sub(now)), span(aheadMost)), clocks)
	case bound && issued.Before(now.Add(-ageMost)):
		return issued, expires, refuse(CodeTime, fmt.Sprintf("the ID token was issued %s ago; at most %s are accepted, whenever it expires", span(now.Sub(issued)), span(ageMost)), fresh)
	case there && notBefore.After(now.Add(aheadMost)):
		return issued, expires, refuse(CodeTime, fmt.Sprintf("the ID token is valid only %s from now (nbf)", span(notBefore.Sub(now))), clocks)
	case !expires.After(now):
		return issued, expires, refuse(CodeTime, fmt.Sprintf("the ID token expired %s ago", span(now.Sub(expires))), fresh)
	case expires.After(issued.Add(lifeMost)):
		return issued, expires, refuse(CodeTime, fmt.Sprintf("the ID token would be valid for %s; at most %s are accepted", span(expires.Sub(issued)), span(lifeMost)), "")
	}
	return issued, expires, nil
}

// wholeSeconds keeps out strings, fractions, signs and exponents, which readers
// of JSON turn into different times, and what is no time of this age.
var wholeSeconds = regexp.MustCompile(`^[1-9][0-9]{8,10}$`)

func (t *token) seconds(name string) (at time.Time, there bool, err error) {
	v, there := t.claims[name]
	if !there {
		return time.Time{}, false, nil
	}
	n, ok := v.(json.Number)
	if !ok || !wholeSeconds.MatchString(n.String()) {
		return time.Time{}, true, refuse(CodeTime, fmt.Sprintf("claim %q is not a whole number of seconds", name), asGiven)
	}
	s, err := n.Int64()
	if err != nil {
		return time.Time{}, true, refuse(CodeTime, fmt.Sprintf("claim %q is not a whole number of seconds", name), asGiven)
	}
	return time.Unix(s, 0), true, nil
}

// span is a length of time as a person says it.
func span(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return strconv.Itoa(int(d/time.Second)) + " s"
	case d < 2*time.Hour:
		return strconv.Itoa(int(d/time.Minute)) + " min"
	case d < 48*time.Hour:
		return strconv.Itoa(int(d/time.Hour)) + " h"
	}
	return strconv.Itoa(int(d/(24*time.Hour))) + " days"
}

// quote puts text that is already clean between quotation marks.
func quote(clean string) string { return strconv.Quote(clean) }

func join(names []string) string {
	names = slices.Clone(names)
	for i := range names {
		names[i] = wire.CleanName(names[i], 120)
	}
	return strings.Join(names, ", ")
}
