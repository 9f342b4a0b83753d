package wire

// Strict decoding of JSON and base64. encoding/json alone takes the last of two
// equal names, matches names without regard to case, ignores unknown ones and
// accepts several spellings of the same base64: each is a way to make two
// readers of one message disagree about what it says.

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"reflect"
	"strings"
	"unicode/utf8"
)

const (
	maxDepth = 8
	maxNames = 64
)

// Decode reads exactly one JSON object of at most limit bytes into v, a pointer
// to a struct. It refuses unknown, repeated and upper-case names, nesting beyond
// 8, null, invalid UTF-8 and anything after the object. Errors wrap [ErrMalformed],
// or [ErrVersion] where what does not decode is of another version, and never hold
// the input.
func Decode(data []byte, limit int, v any) error {
	if len(data) > limit {
		return malformed("%d bytes, at most %d are allowed", len(data), limit)
	}
	if !utf8.Valid(data) {
		return malformed("not UTF-8")
	}
	err := decode(data, v)
	if err != nil {
		if other := foreign(data); other != nil {
			return other
		}
	}
	return err
}

func decode(data []byte, v any) error {
	if err := checkNames(data); err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return malformed("%s", describe(err))
	}
	return nil
}

// describe keeps the input out of an error: encoding/json quotes parts of it,
// and the input may be a code or a token.
func describe(err error) string {
	switch e := err.(type) {
	case *json.UnmarshalTypeError:
		return "field " + e.Field + " is not a " + kindName(e.Type)
	case *json.SyntaxError:
		return "not JSON"
	}
	if strings.HasPrefix(err.Error(), "json: unknown field") {
		return "a field that this version does not know"
	}
	if e := err; e != nil && strings.HasPrefix(e.Error(), ErrMalformed.Error()) {
		return strings.TrimPrefix(e.Error(), ErrMalformed.Error()+": ")
	}
	return "not the message that was expected"
}

func kindName(t reflect.Type) string {
	if t == nil {
		return "value of the right type"
	}
	return t.Kind().String()
}

// checkNames refuses what encoding/json would let through: a name twice, a name
// that is not lower-case ASCII as it stands, null, more than maxDepth levels,
// anything but one object. json.Valid has said that the syntax is right, so one
// pass over the bytes suffices.
func checkNames(data []byte) error {
	if !json.Valid(data) {
		return malformed("not JSON, or something stands after the object")
	}
	type level struct {
		object bool
		names  [][]byte
	}
	var stack []level
	name := false // the next string is a name
	for i := 0; i < len(data); i++ {
		switch c := data[i]; c {
		case ' ', '\t', '\r', '\n', ':':
		case '{', '[':
			if len(stack) == 0 && c == '[' {
				return malformed("not a JSON object")
			}
			if len(stack) == maxDepth {
				return malformed("nested too deep")
			}
			stack = append(stack, level{object: c == '{'})
			name = c == '{'
		case '}', ']':
			stack = stack[:len(stack)-1]
		case ',':
			name = stack[len(stack)-1].object
		case '"':
			start := i + 1
			for i++; data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
			if !name {
				if len(stack) == 0 {
					return malformed("not a JSON object")
				}
				continue
			}
			name = false
			top := &stack[len(stack)-1]
			this := data[start:i]
			for _, c := range this {
				// encoding/json folds case, so SUB would overwrite sub; and an
				// escape would be another spelling of a name.
				if c >= 0x80 || c == '\\' || 'A' <= c && c <= 'Z' {
					return malformed("a field name is not lower-case ASCII")
				}
			}
			// Comparing each with each is quick for few; no message has many.
			if len(top.names) == maxNames {
				return malformed("an object with more than %d fields", maxNames)
			}
			for _, other := range top.names {
				if bytes.Equal(other, this) {
					return malformed("a field stands there twice")
				}
			}
			top.names = append(top.names, this)
		case 'n':
			if len(stack) == 0 {
				return malformed("not a JSON object")
			}
			// null would leave a field at its zero value, as if it were absent.
			return malformed("null is not a value here")
		default: // of a number, true or false
			if len(stack) == 0 {
				return malformed("not a JSON object")
			}
		}
	}
	return nil
}

// Bytes is a byte string that JSON carries as base64 (RFC 4648 section 4, with
// padding) in its one canonical spelling.
type Bytes []byte

// MarshalText gives the canonical spelling.
func (b Bytes) MarshalText() ([]byte, error) {
	return []byte(base64.StdEncoding.EncodeToString(b)), nil
}

// UnmarshalText refuses line breaks and non-zero unused bits, which
// encoding/base64 lets through by default.
func (b *Bytes) UnmarshalText(text []byte) error {
	if bytes.ContainsAny(text, "\r\n") {
		return malformed("base64 with a line break")
	}
	out, err := base64.StdEncoding.Strict().DecodeString(string(text))
	if err != nil {
		return malformed("not canonical base64")
	}
	*b = out
	return nil
}
