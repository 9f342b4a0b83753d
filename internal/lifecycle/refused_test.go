package lifecycle

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func aRefusal() Refusal {
	return Refusal{V: Version, Op: "op1", Prev: strings.Repeat("ab", 32), At: 1, Code: "policy", Verb: "request", Key: "UKEY", Project: "rocket", Why: "no rule <fits>", Left: 3}
}

func TestARefusalHasOneForm(t *testing.T) {
	t.Parallel()
	data, err := aRefusal().Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := DecodeRefusal(data)
	if err != nil || back != aRefusal() {
		t.Errorf("%+v: %v", back, err)
	}
	for _, other := range []string{string(data) + " ", strings.Replace(string(data), `"v":1`, `"V":1`, 1), strings.Replace(string(data), `"at":1`, `"at":1,"at":1`, 1), strings.Replace(string(data), `"at":1`, `"at":1,"token":"1"`, 1), "", "{}"} {
		if _, err := DecodeRefusal([]byte(other)); !errors.Is(err, ErrRecord) {
			t.Errorf("%s is read: %v", other, err)
		}
	}
	if _, err := DecodeRefusal(bytes.Replace(data, []byte(`"v":1`), []byte(`"v":2`), 1)); !errors.Is(err, ErrVersion) {
		t.Errorf("a later format: %v", err)
	}
}

func TestAnUnsoundRefusalIsRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Refusal){
		"version":     func(f *Refusal) { f.V = 2 },
		"operation":   func(f *Refusal) { f.Op = "" },
		"link":        func(f *Refusal) { f.Prev = "x" },
		"time":        func(f *Refusal) { f.At = 0 },
		"left":        func(f *Refusal) { f.Left = -1 },
		"code":        func(f *Refusal) { f.Code = "a b" },
		"key":         func(f *Refusal) { f.Key = "a\nb" },
		"verb":        func(f *Refusal) { f.Verb = "" },
		"line break":  func(f *Refusal) { f.Why = "a\nb" },
		"long reason": func(f *Refusal) { f.Why = strings.Repeat("x", 2000) },
	} {
		f := aRefusal()
		change(&f)
		if _, err := f.Encode(); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever a stranger makes the relay say, a refusal can be recorded, and takes no more room than is counted for it.
func TestTheLongestRefusalFits(t *testing.T) {
	t.Parallel()
	long := strings.Repeat(`"\<&`, 4000)
	f := Refusal{V: Version, Op: strings.Repeat("a", 64), Prev: strings.Repeat("ab", 32), At: 1 << 60, Code: strings.Repeat("a", 64), Verb: long, Key: strings.Repeat("U", 64), Project: long, Why: long + "\x00\u2028", Left: 1 << 60}.Cut()
	if _, err := f.Encode(); err != nil {
		t.Fatal(err)
	}
	for _, why := range []string{long, strings.Repeat("\xff", 4000), strings.Repeat("é", 4000), strings.Repeat("\\", 4000), strings.Repeat("\t", 4000)} {
		f.Why, f.Project, f.Verb = why, "rocket", "request"
		if _, err := f.Cut().Encode(); err != nil {
			t.Errorf("%.8q…: %v", why, err)
		}
	}
}

func FuzzDecodeRefusal(f *testing.F) {
	data, err := aRefusal().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"v":2}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeRefusal(data)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%s then %s: %v", data, again, err)
		}
	})
}
