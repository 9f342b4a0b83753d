// This file reads a token's payload: strictly, and by exact claim name.

package ci

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// MaxToken is the longest compact token that is read, in bytes. Tokens of
	// the known CIs are 1 to 3 KiB long.
	MaxToken = 16 << 10

	// MaxPayload is the longest payload that is read, in bytes: what fits into
	// the longest token.
	MaxPayload = MaxToken / 4 * 3

	maxDepth = 8
)

// Claims is the payload of an ID token, by exact claim name. A value is a
// string, bool, json.Number (as written), []any, map[string]any, or nil for
// null.
//
// It is never decoded into a struct: encoding/json matches field names without
// case there, so that a claim "SUB" would be read as "sub".
type Claims map[string]any

// String returns a claim that is a JSON string. ok is false where it is absent
// or anything else, so that a number or boolean never passes for its text.
func (c Claims) String(name string) (value string, ok bool) {
	value, ok = c[name].(string)
	return value, ok
}

// str is String without ok: "" where there is no such string.
func (c Claims) str(name string) string {
	s, _ := c.String(name)
	return s
}

// Text returns a claim for showing: strings and numbers as they stand, booleans
// as true and false, the strings of an array joined with commas; "" for
// everything else. Different claims can read the same (["a,b"] and ["a","b"]):
// nothing is decided on it.
func (c Claims) Text(name string) string {
	switch v := c[name].(type) {
	case string:
		return v
	case bool:
		return strconv.FormatBool(v)
	case json.Number:
		return v.String()
	case []any:
		texts := make([]string, 0, len(v))
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return ""
			}
			texts = append(texts, s)
		}
		return strings.Join(texts, ",")
	}
	return ""
}

// A Kind is the JSON type that a claim has.
type Kind int

const (
	String  Kind = iota
	Bool         // true or false, not the strings
	Strings      // an array of strings
	Number       // a number, as it is written
	Scalar       // a string, a boolean or a number
	Any          // whatever it is, null too
)

// String names the kind for an error: "a string".
func (k Kind) String() string {
	switch k {
	case String:
		return "a string"
	case Bool:
		return "a boolean"
	case Strings:
		return "an array of strings"
	case Number:
		return "a number"
	case Scalar:
		return "a string, a boolean or a number"
	case Any:
		return "anything"
	}
	return "of an unknown kind"
}

func (k Kind) of(v any) bool {
	if k == Any {
		return true
	}
	switch v := v.(type) {
	case string:
		return k == String || k == Scalar
	case bool:
		return k == Bool || k == Scalar
	case json.Number:
		return k == Number || k == Scalar
	case []any:
		for _, e := range v {
			if _, ok := e.(string); !ok {
				return false
			}
		}
		return k == Strings
	}
	return false
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case string:
		return "a string"
	case bool:
		return "a boolean"
	case json.Number:
		return "a number"
	case []any:
		return "an array"
	}
	return "an object"
}

// A Claim is what a provider's row says of one claim.
type Claim struct {
	Name     string
	Kind     Kind
	Optional bool // may be absent; if present it has Kind
}

// Decode reads the payload of an ID token (RFC 7519: a JSON object). It refuses
// whatever another JSON reader could read as something else:
//
//   - more than [MaxPayload] bytes, more than 8 levels, data after the object;
//   - text that is not UTF-8, or that has U+FFFD, as which readers show text
//     that they could not read (so different tokens would read the same);
//   - the same name twice in an object, at any depth: some readers take the
//     first, some the last;
//   - two claims that differ by case only ("sub" and "SUB", and "ſub" with a
//     long s): readers that match names without case take either.
//
// Numbers stay as they are written. What is inside is not verified by this.
func Decode(payload []byte) (Claims, error) { return decode(payload, MaxPayload) }

func decode(b []byte, limit int) (Claims, error) {
	switch {
	case len(b) > limit:
		return nil, fmt.Errorf("the payload has %d bytes; at most %d are read", len(b), limit)
	case !utf8.Valid(b):
		return nil, errors.New("the payload is not UTF-8")
	case !json.Valid(b):
		// Also refuses data after the value. Asked first because the reader of
		// single tokens below promises less.
		return nil, errors.New("the payload is not JSON")
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := read(d, 1)
	if err != nil {
		return nil, err
	}
	claims, ok := v.(map[string]any)
	if !ok {
		return nil, fmt.Errorf("the payload is %s, not a JSON object", kindOf(v))
	}
	folded := make(map[string]string, len(claims))
	for name := range claims {
		f := fold(name)
		if other, twice := folded[f]; twice {
			return nil, fmt.Errorf("claims %s and %s differ by case only", quote(min(name, other)), quote(max(name, other)))
		}
		folded[f] = name
	}
	return claims, nil
}

// read takes one value off the decoder; depth is that of the value if it is an
// object or array.
func read(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, fmt.Errorf("the payload is not JSON: %w", err)
	}
	open, nested := t.(json.Delim)
	if !nested {
		if s, ok := t.(string); ok && strings.ContainsRune(s, utf8.RuneError) {
			return nil, errors.New("the payload has characters that are not text (U+FFFD)")
		}
		return t, nil
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("the payload is nested more than %d levels deep", maxDepth)
	}
	var v any
	if open == '[' {
		v, err = readArray(d, depth)
	} else {
		v, err = readObject(d, depth)
	}
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != nil { // the closing delimiter
		return nil, fmt.Errorf("the payload is not JSON: %w", err)
	}
	return v, nil
}

func readArray(d *json.Decoder, depth int) (any, error) {
	a := []any{}
	for d.More() {
		v, err := read(d, depth+1)
		if err != nil {
			return nil, err
		}
		a = append(a, v)
	}
	return a, nil
}

func readObject(d *json.Decoder, depth int) (any, error) {
	o := map[string]any{}
	for d.More() {
		k, err := read(d, depth+1)
		if err != nil {
			return nil, err
		}
		name, ok := k.(string)
		if !ok {
			return nil, errors.New("the payload is not JSON: a name is not a string")
		}
		if _, twice := o[name]; twice {
			return nil, fmt.Errorf("%s stands twice in the payload", quote(name))
		}
		if o[name], err = read(d, depth+1); err != nil {
			return nil, err
		}
	}
	return o, nil
}

// fold maps the names that encoding/json would match with each other to one:
// each letter becomes the least of those that Unicode simple folding joins.
func fold(s string) string {
	return strings.Map(func(r rune) rune {
		least := r
		for f := unicode.SimpleFold(r); f != r; f = unicode.SimpleFold(f) {
			least = min(least, f)
		}
		return least
	}, s)
}

// quote makes a name from outside safe and short enough for an error.
func quote(name string) string {
	const most = 64
	if len(name) > most {
		return strconv.QuoteToASCII(strings.ToValidUTF8(name[:most], "")) + "…"
	}
	return strconv.QuoteToASCII(name)
}

// Unverified reads the payload of a compact JWS (RFC 7515, section 7.1) without
// verifying it. It is there for a job to read its own token, and for tools that
// explain a token. Nothing may be decided on what it returns: anybody can write
// such a token. Its errors contain no part of the token.
func Unverified(token string) (Claims, error) {
	if len(token) > MaxToken {
		return nil, fmt.Errorf("the token has %d bytes; at most %d are read", len(token), MaxToken)
	}
	// Counted before it is split: a token of nothing but dots would otherwise
	// become as many strings.
	if n := strings.Count(token, "."); n != 2 {
		return nil, fmt.Errorf("not a compact token: %d dots, want 2", n)
	}
	var payload []byte
	for i, part := range strings.Split(token, ".") {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(part)
		// The decoder skips line breaks, so one payload would have many forms.
		if err != nil || strings.ContainsAny(part, "\r\n") || (part == "" && i < 2) {
			return nil, fmt.Errorf("not a compact token: its %s is not canonical base64url", [3]string{"header", "payload", "signature"}[i])
		}
		if i == 1 {
			payload = raw
		}
	}
	return Decode(payload)
}

// ours says that a token which the CI has just given us is a token at all and
// is for that audience only: a service that ignores the audience gives the
// default one, whose tokens others accept too.
func ours(token, audience string) error {
	claims, err := Unverified(token)
	if err != nil {
		return fmt.Errorf("what the CI gave is not an ID token: %w", err)
	}
	got, ok := claims.String("aud")
	if l, array := claims["aud"].([]any); array && len(l) == 1 {
		got, ok = l[0].(string)
	}
	if !ok || got != audience {
		return errors.New("the CI gave an ID token for another audience than the one that was asked for")
	}
	return nil
}
