package wire

// Strict decoding: what encoding/json lets through and this package does not.

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func TestDecodeRefusesWhatTwoReadersCouldReadDifferently(t *testing.T) {
	t.Parallel()
	deep := func(levels int) string {
		return `{"deep":` + strings.Repeat("[", levels-1) + strings.Repeat("]", levels-1) + `}`
	}
	type inner struct {
		Name string `json:"name"`
		List []any  `json:"list"`
	}
	type message struct {
		Text  string            `json:"text"`
		Count int64             `json:"count"`
		Big   uint64            `json:"big"`
		Flag  bool              `json:"flag"`
		Data  Bytes             `json:"data"`
		ID    Digest            `json:"id"`
		Inner inner             `json:"inner"`
		List  []inner           `json:"list"`
		Map   map[string]string `json:"map"`
		Deep  any               `json:"deep"`
	}
	for _, tc := range []struct{ name, in, want string }{
		{"nothing", ``, "not JSON"},
		{"white space only", " \n\t ", "not JSON"},
		{"an array", `["PLANTED"]`, "not a JSON object"},
		{"a string", `"PLANTED"`, "not a JSON object"},
		{"a number", `915624`, "not a JSON object"},
		{"null", `null`, "not a JSON object"},
		{"cut short", `{"text":"PLANTED"`, "not JSON"},
		{"cut inside a string", `{"text":"PLANTED`, "not JSON"},
		{"a bare word", `{"text":PLANTED}`, "not JSON"},
		{"a comma too many", `{"text":"PLANTED",}`, "not JSON"},
		{"a comma too many in an array", `{"list":[{"name":"PLANTED"},]}`, "not JSON"},
		{"a missing comma", `{"text":"PLANTED" "count":1}`, "not JSON"},
		{"a missing colon", `{"text" "PLANTED"}`, "not JSON"},
		{"a comment", `{"text":"PLANTED"/*x*/}`, "not JSON"},
		{"single quotes", `{'text':'PLANTED'}`, "not JSON"},
		{"a byte order mark", "\uFEFF" + `{"text":"PLANTED"}`, "not JSON"},
		{"a raw control character", "{\"text\":\"PLANTED\x01\"}", "not JSON"},

		{"the same name twice", `{"text":"a","text":"PLANTED"}`, "stands there twice"},
		{"the same name twice, once escaped", `{"text":"a","\u0074ext":"PLANTED"}`, "lower-case ASCII"},
		{"an escaped name", `{"\u0074ext":"PLANTED"}`, "lower-case ASCII"},
		{"twice in an inner object", `{"inner":{"name":"a","name":"PLANTED"}}`, "stands there twice"},
		{"twice in an object of an array", `{"list":[{"name":"a"},{"name":"a","name":"PLANTED"}]}`, "stands there twice"},
		{"twice in a map", `{"map":{"a":"1","a":"PLANTED"}}`, "stands there twice"},
		{"twice, far down", `{"deep":[[[[{"a":1,"a":"PLANTED"}]]]]}`, "stands there twice"},

		{"an upper-case name", `{"Text":"PLANTED"}`, "lower-case ASCII"},
		{"an upper-case name beside the right one", `{"text":"a","TEXT":"PLANTED"}`, "lower-case ASCII"},
		{"an upper-case name inside", `{"inner":{"nAme":"PLANTED"}}`, "lower-case ASCII"},
		{"an upper-case name in a map", `{"map":{"Iss":"PLANTED"}}`, "lower-case ASCII"},
		{"a long s, which folds to s", `{"li\u017ft":[],"text":"PLANTED"}`, "lower-case ASCII"},
		{"a Kelvin sign, which folds to k", `{"\u212aey":"PLANTED"}`, "lower-case ASCII"},
		{"half a surrogate pair as a name", `{"\ud800":"PLANTED"}`, "lower-case ASCII"},

		{"a name nobody knows", `{"planted-one-time-code-915624":1}`, "does not know"},
		{"a name nobody knows, inside", `{"inner":{"planted-one-time-code-915624":1}}`, "does not know"},

		{"null for a string", `{"text":null}`, "null is not a value"},
		{"null inside", `{"inner":{"name":null}}`, "null is not a value"},
		{"null in an array", `{"list":[null]}`, "null is not a value"},
		{"null for an object", `{"inner":null}`, "null is not a value"},

		{"something after the object", `{"text":"a"} "PLANTED"`, "stands after the object"},
		{"a second object", `{"text":"a"}{"text":"PLANTED"}`, "stands after the object"},
		{"garbage after the object", `{"text":"a"}PLANTED`, "not JSON"},
		{"a NUL after the object", "{\"text\":\"a\"}\x00", "not JSON"},
		{"a closing brace too many", `{"text":"a"}}`, "not JSON"},

		{"nine levels", deep(9), "nested too deep"},
		{"a thousand levels", deep(1000), "nested too deep"},
		{"more bytes than allowed", `{"text":"` + strings.Repeat("x", 4096) + `PLANTED"}`, "at most 4096 are allowed"},
		{"invalid UTF-8", "{\"text\":\"PLANTED\xFF\"}", "not UTF-8"},
		{"overlong UTF-8", "{\"text\":\"PLANTED\xC0\xAF\"}", "not UTF-8"},
		{"a surrogate in UTF-8", "{\"text\":\"PLANTED\xED\xA0\x80\"}", "not UTF-8"},

		{"a number for a string", `{"text":915624}`, "field text is not a string"},
		{"a string for a number", `{"count":"PLANTED"}`, "field count is not a int64"},
		{"a fraction for an integer", `{"count":1.5}`, "field count is not a int64"},
		{"an exponent for an integer", `{"count":1e3}`, "field count is not a int64"},
		{"an integer too large", `{"count":9223372036854775808}`, "field count is not a int64"},
		{"a negative revision", `{"big":-1}`, "field big is not a uint64"},
		{"a string for a truth value", `{"flag":"true"}`, "field flag is not a bool"},
		{"a claim's name and type in a map", `{"map":{"planted-one-time-code-915624":1}}`, "is not a string"},
		{"a number for bytes", `{"data":915624}`, "field data is not a slice"},

		{"base64 without padding", `{"data":"AA"}`, "not canonical base64"},
		{"base64 with unused bits set", `{"data":"AB=="}`, "not canonical base64"},
		{"base64url", `{"data":"-_-_"}`, "not canonical base64"},
		{"base64 with a line break", `{"data":"AA\nAA"}`, "line break"},
		{"base64 with a carriage return", `{"data":"AAAA\r"}`, "line break"},
		{"base64 with a space", `{"data":"AA AA"}`, "not canonical base64"},
		{"not base64", `{"data":"PLANTED"}`, "not canonical base64"},
		{"an upper-case digest", `{"id":"` + strings.Repeat("AB", 32) + `"}`, "not a digest"},
		{"a short digest", `{"id":"00"}`, "not a digest"},
		{"a long digest", `{"id":"` + strings.Repeat("0", 66) + `"}`, "not a digest"},
		{"no digest", `{"id":"PLANTED"}`, "not a digest"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var m message
			err := Decode([]byte(strings.ReplaceAll(tc.in, "PLANTED", planted)), 4096, &m)
			refused(t, err, tc.want)
			if strings.Contains(err.Error(), "915624") {
				t.Errorf("error %q holds the input", err)
			}
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%v is not ErrMalformed", err)
			}
		})
	}
	for _, tc := range []struct{ name, in string }{
		{"an empty object", `{}`},
		{"white space around", " \r\n{\t\"text\" : \"a\" }\n"},
		{"escapes in a value", `{"text":"\u0061\"\\\n"}`},
		{"eight levels", deep(8)},
		{"the same name in two objects", `{"list":[{"name":"a"},{"name":"a"}],"inner":{"name":"a"}}`},
		{"exactly as many bytes as allowed", `{"text":"` + strings.Repeat("x", 4096-len(`{"text":""}`)) + `"}`},
		{"empty bytes", `{"data":""}`},
	} {
		t.Run("accepts "+tc.name, func(t *testing.T) {
			t.Parallel()
			var m message
			if err := Decode([]byte(tc.in), 4096, &m); err != nil {
				t.Fatal(err)
			}
			if !json.Valid([]byte(tc.in)) {
				t.Error("accepted what is not JSON")
			}
		})
	}
}

// TestErrorsNeverHoldTheInput plants a secret wherever a message has room for one.
func TestErrorsNeverHoldTheInput(t *testing.T) {
	t.Parallel()
	check := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Errorf("%s: accepted", what)
		} else if strings.Contains(err.Error(), planted) {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("connecting key", CheckConnectKey(planted))
	check("signing key", CheckSigningKey(planted))
	check("project", CheckProject(strings.ToUpper(planted[:1])+planted))
	check("relay", CheckRelayName(planted+"!"))
	_, err := ParseFormat(planted)
	check("format", err)
	_, err = ParseFormat("digits:" + planted)
	check("format's length", err)
	f, err := ParseFormat("digits:6")
	if err != nil {
		t.Fatal(err)
	}
	check("code", f.Check(planted))
	check("code of the right length", f.Check(planted[:6]))
	check("bytes", new(Bytes).UnmarshalText([]byte(planted)))
	check("digest", new(Digest).UnmarshalText([]byte(planted)))
	_, err = DecodeEnvelope([]byte(planted))
	check("envelope", err)
	_, err = DecodeEnvelope([]byte(`{"v":1,"kind":"` + planted + `","body":"` + planted + `","sig":""}`))
	check("envelope's fields", err)
	_, err = DigestOf(Envelope{}, planted)
	check("digest of a key", err)
	_, err = ClaimedSigner(Envelope{V: Version, Kind: KindGot, Body: []byte(`{"key":"` + planted + `"}`), Sig: filled(64, 0)})
	check("claimed signer", err)
	e := signRaw(t, Kind(planted), []byte(`{}`), jobKey)
	_, err = Open[Got](e, PublicKey(jobKey))
	check("kind", err)
	_, err = Open[Got](e, planted)
	check("opener's key", err)

	// Each field of each body in turn: the secret as its value, and as a field of its own.
	for _, c := range everyKind() {
		var fields map[string]any
		if err := json.Unmarshal(mustJSON(t, c.body), &fields); err != nil {
			t.Fatal(err)
		}
		for name, value := range fields {
			switch name {
			case "message", "reason", "why", "link":
				if c.kind != KindAlive && c.kind != KindRejected || name == "link" {
					continue // free text: there it may stand
				}
			}
			fields[name] = planted + "\n"
			_, err := c.open(signRaw(t, c.kind, mustJSON(t, fields), c.kp), PublicKey(c.kp))
			check(string(c.kind)+"."+name, err)
			fields[name] = value
		}
		fields[planted] = planted
		_, err := c.open(signRaw(t, c.kind, mustJSON(t, fields), c.kp), PublicKey(c.kp))
		check(string(c.kind)+": unknown field", err)
	}
}

func FuzzBytes(f *testing.F) {
	seed(f, func(s string) { f.Add([]byte(s)) }, []string{"", "AA==", "AB==", "AAA=", "AAAA", "AA", "A\nAA=", "AAAA\r\n", "-_-_", "/+/+", "====", "AA==AA=="})
	f.Fuzz(func(t *testing.T, text []byte) {
		var b Bytes
		if b.UnmarshalText(text) != nil {
			return
		}
		again, err := b.MarshalText()
		if err != nil || string(again) != string(text) {
			t.Fatalf("%q decodes to what is spelled %q", text, again)
		}
	})
}
