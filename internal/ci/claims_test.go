// This file shows that a payload is read in one way only, or not at all.

package ci

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestAPayloadThatCanBeReadTwoWaysIsRefused(t *testing.T) {
	t.Parallel()
	deep := func(n int) string {
		return `{"a":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `}`
	}
	for _, tt := range []struct{ name, payload, want string }{
		{"nothing", ``, "not JSON"},
		{"an array", `["sub"]`, "an array"},
		{"a string", `"sub"`, "a string"},
		{"null", `null`, "null"},
		{"cut off", `{"sub":"a"`, "not JSON"},
		{"data behind", `{"sub":"a"}{"sub":"b"}`, "not JSON"},
		{"text behind", `{"sub":"a"} x`, "not JSON"},
		{"comma behind", `{"sub":"a",}`, "not JSON"},
		{"comment", `{"sub":"a"/**/}`, "not JSON"},
		{"byte order mark", "\ufeff" + `{"sub":"a"}`, "not JSON"},
		{"bare line break in a string", "{\"sub\":\"a\nb\"}", "not JSON"},
		{"not a number", `{"exp":NaN}`, "not JSON"},
		{"leading zero", `{"exp":010}`, "not JSON"},
		{"not UTF-8", "{\"sub\":\"\xff\"}", "not UTF-8"},
		{"overlong UTF-8", "{\"sub\":\"\xc0\xaf\"}", "not UTF-8"},
		{"lone surrogate", `{"sub":"\ud800"}`, "U+FFFD"},
		{"lone surrogate in a name", `{"su\udfff":"a"}`, "U+FFFD"},
		{"a name twice", `{"sub":"a","sub":"b"}`, `"sub" stands twice`},
		{"a name twice, same value", `{"sub":"a","sub":"a"}`, `"sub" stands twice`},
		{"a name twice, once escaped", `{"sub":"a","s\u0075b":"b"}`, `"sub" stands twice`},
		{"a name twice, deeper", `{"a":[{"x":{"y":1,"y":2}}]}`, `"y" stands twice`},
		{"a name twice, null first", `{"sub":null,"sub":"b"}`, `"sub" stands twice`},
		{"names that differ by case", `{"sub":"a","SUB":"b"}`, `"SUB" and "sub" differ by case only`},
		{"names that differ by one letter's case", `{"repository_id":"1","repository_Id":"2"}`, "differ by case only"},
		{"long s", `{"sub":"a","ſub":"b"}`, "differ by case only"},
		{"Kelvin sign", `{"kid":"a","Kid":"b"}`, "differ by case only"},
		{"too deep", deep(9), "levels deep"},
		{"far too deep", deep(5000), "levels deep"},
		{"too long", `{"a":"` + strings.Repeat("a", MaxPayload) + `"}`, "at most"},
	} {
		c, err := Decode([]byte(tt.payload))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, %v; want %q", tt.name, c, err, tt.want)
		}
		if err != nil && len(err.Error()) > 400 {
			t.Errorf("%s: the error is %d bytes long", tt.name, len(err.Error()))
		}
	}
	for _, tt := range []string{
		` {"sub":"a"} ` + "\r\n",
		`{}`,
		deep(8),
		`{"a":{"x":1,"X":2}}`, // no claim: nothing of ours reads it
		`{"a":{"x":1},"b":{"x":1}}`,
		`{"a":[{"x":1},{"x":1}]}`,
		`{"sub":"\ud83d\ude00"}`,
		`{"a":"` + strings.Repeat("a", MaxPayload-8) + `"}`,
		githubJob, circleJob,
	} {
		if _, err := Decode([]byte(tt)); err != nil {
			t.Errorf("%.40s: %v", tt, err)
		}
	}
}

func TestAnErrorShowsNoRawNameFromOutside(t *testing.T) {
	t.Parallel()
	long := "\u202e\u001b[31m" + strings.Repeat("é", 1000)
	b, err := json.Marshal(long)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Decode([]byte(`{` + string(b) + `:1,` + string(b) + `:2}`))
	if err == nil || len(err.Error()) > 400 {
		t.Fatalf("error of %d bytes", len(err.Error()))
	}
	for _, r := range err.Error() {
		if r < ' ' || (r > '~' && r != '…') {
			t.Errorf("the error has %U", r)
		}
	}
}

func TestAClaimIsReadAsWhatItIs(t *testing.T) {
	t.Parallel()
	c, err := Decode([]byte(`{"s":"x","e":"","t":true,"f":false,"n":1.50,"big":123456789012345678901234567890,` +
		`"l":["a","b"],"l0":[],"m":["a",1],"o":{"x":1},"z":null}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"s": "x", "e": "", "t": "true", "f": "false", "n": "1.50", "big": "123456789012345678901234567890",
		"l": "a,b", "l0": "", "m": "", "o": "", "z": "", "absent": "", "S": "",
	} {
		if got := c.Text(name); got != want {
			t.Errorf("Text(%s) = %q, want %q", name, got, want)
		}
		_, ok := c.String(name)
		if want := name == "s" || name == "e"; ok != want {
			t.Errorf("String(%s): ok = %v", name, ok)
		}
	}
	if c["n"] != json.Number("1.50") {
		t.Errorf("a number is not as it was written: %v", c["n"])
	}
}

func compact(header, payload, signature string) string {
	e := base64.RawURLEncoding.EncodeToString
	return e([]byte(header)) + "." + e([]byte(payload)) + "." + e([]byte(signature))
}

func TestOnlyACanonicalCompactTokenIsRead(t *testing.T) {
	t.Parallel()
	good := compact(`{"alg":"RS256"}`, `{"sub":"a1"}`, "secret-signature")
	c, err := Unverified(good)
	if sub, _ := c.String("sub"); err != nil || sub != "a1" {
		t.Fatalf("%v, %v", c, err)
	}
	parts := strings.Split(good, ".")
	for _, tt := range []struct{ name, token string }{
		{"nothing", ""},
		{"two parts", parts[0] + "." + parts[1]},
		{"four parts", good + ".e30"},
		{"five parts (encrypted)", good + ".e30.e30"},
		{"only dots", strings.Repeat(".", MaxToken)},
		{"two dots", ".."},
		{"no header", "." + parts[1] + "." + parts[2]},
		{"no payload", parts[0] + ".." + parts[2]},
		{"JSON serialisation", `{"payload":"` + parts[1] + `","signatures":[]}`},
		{"space before", " " + good},
		{"line break behind", good + "\n"},
		{"line break inside", parts[0] + "." + parts[1][:4] + "\n" + parts[1][4:] + "." + parts[2]},
		{"carriage return inside", parts[0] + "." + parts[1] + "." + parts[2][:4] + "\r" + parts[2][4:]},
		{"padding", parts[0] + "." + parts[1] + "=." + parts[2]},
		{"standard alphabet", parts[0] + "." + parts[1] + ".+/+/"},
		{"unused bits set in the signature", parts[0] + "." + parts[1] + ".AB"},
		{"unused bits set in the header", "AB." + parts[1] + "." + parts[2]},
		{"payload is no object", compact(`{}`, `[]`, "s")},
		{"payload says a claim twice", compact(`{}`, `{"sub":"a","sub":"b"}`, "s")},
		{"too long", compact(`{}`, `{}`, strings.Repeat("s", MaxToken))},
	} {
		c, err := Unverified(tt.token)
		if err == nil {
			t.Errorf("%s: read as %v", tt.name, c)
			continue
		}
		for _, part := range parts {
			if strings.Contains(err.Error(), part) {
				t.Errorf("%s: the error shows the token: %v", tt.name, err)
			}
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		githubJob, circleJob, `{}`, `{"a":1,"A":2}`, `{"a":1,"a":2}`, `{"a":[{"b":null}],"c":-0.0e+1}`, `{"<&>":"\u2028\u0000"}`,
		`{"sub":"\ud800"}`, `[[[[[[[[[[]]]]]]]]]]`, "{\"ſ\":1,\"s\":2}", ` {"a" : true } `, `{"a":1}x`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Decode(b)
		if err != nil {
			return
		}
		// What is read says the same to the reader that everybody else uses.
		var plain map[string]any
		d := json.NewDecoder(bytes.NewReader(b))
		d.UseNumber()
		if err := d.Decode(&plain); err != nil || !reflect.DeepEqual(map[string]any(c), plain) {
			t.Fatalf("read as %v, by encoding/json as %v (%v)", c, plain, err)
		}
		var out bytes.Buffer
		e := json.NewEncoder(&out)
		e.SetEscapeHTML(false)
		if err := e.Encode(c); err != nil {
			t.Fatal(err)
		}
		if out.Len() > MaxPayload {
			return // escapes made it longer than what is read
		}
		again, err := Decode(out.Bytes())
		if err != nil || !reflect.DeepEqual(c, again) {
			t.Fatalf("%v, encoded and read again: %v (%v)", c, again, err)
		}
		for name := range c {
			c.Text(name)
		}
		for _, p := range Providers {
			if p.Check(c) == nil {
				p.Facts(c)
			}
			for _, h := range p.Hazards {
				h.In(c)
			}
		}
	})
}

func FuzzUnverified(f *testing.F) {
	for _, s := range []string{
		compact(`{"alg":"RS256"}`, githubJob, "signature"), compact(`{}`, `{}`, ""), compact(`{}`, circleJob, "s"),
		"e30.e30.", "e30.e30.AB", "..", "...", "e30\n.e30.AA", "e30=.e30.AA", "",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, token string) {
		if _, err := Unverified(token); err != nil {
			return
		}
		// One token, one form: what is read encodes to the same characters.
		parts := strings.Split(token, ".")
		for i, part := range parts {
			raw, err := base64.RawURLEncoding.DecodeString(part)
			if err != nil {
				t.Fatal(err)
			}
			parts[i] = base64.RawURLEncoding.EncodeToString(raw)
		}
		if again := strings.Join(parts, "."); again != token || len(parts) != 3 {
			t.Fatalf("%q was read, and %q says the same", token, again)
		}
	})
}
