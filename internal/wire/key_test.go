package wire

// Keys, and the one signature that a server gets to ask for.

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
)

func sha256Of(data []byte) []byte { sum := sha256.Sum256(data); return sum[:] }

func TestAKeyHasOneSpellingAndOnePurpose(t *testing.T) {
	t.Parallel()
	connect, err := NewConnectKey()
	if err != nil {
		t.Fatal(err)
	}
	signing, err := NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	u, a := PublicKey(connect), PublicKey(signing)
	if err := CheckConnectKey(u); err != nil {
		t.Error(err)
	}
	if err := CheckSigningKey(a); err != nil {
		t.Error(err)
	}
	if CheckConnectKey(a) == nil || CheckSigningKey(u) == nil {
		t.Error("a key for one purpose passes for the other")
	}
	seed, err := connect.Seed()
	if err != nil {
		t.Fatal(err)
	}
	small, err := nkeys.Encode(nkeys.PrefixByteUser, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]string{
		"nothing":               "",
		"cut":                   u[:55],
		"longer":                u + "A",
		"lower case":            strings.ToLower(u),
		"wrong checksum":        u[:54] + map[bool]string{true: "BA", false: "AA"}[strings.HasSuffix(u, "AA")],
		"a line break after it": u + "\n",
		"a line break in it":    u[:7] + "\n" + u[7:],
		"CR LF in it":           u[:7] + "\r\n" + u[7:],
		"a space in it":         u[:7] + " " + u[7:],
		"a NUL after it":        u + "\x00",
		"padding":               u + "====",
		"the private half":      string(seed),
		"an account's":          a,
		"a server's":            PublicKey(fixedKey(nkeys.PrefixByteServer, 1)),
		"an operator's":         PublicKey(fixedKey(nkeys.PrefixByteOperator, 1)),
		"a point of low order":  string(small),
	} {
		if err := CheckConnectKey(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPublicKeyPanicsOnAWipedKey(t *testing.T) {
	t.Parallel()
	kp, err := NewConnectKey()
	if err != nil {
		t.Fatal(err)
	}
	kp.Wipe()
	defer func() {
		if recover() == nil {
			t.Error("went on with a wiped key")
		}
	}()
	PublicKey(kp)
}

func TestOnlyANonceIsSignedForAServer(t *testing.T) {
	t.Parallel()
	forged := signed(KindRequest, mustJSON(t, validRequest()))
	// What a NATS client makes of these bytes on their way through INFO's JSON.
	throughJSON := func(b []byte) []byte {
		var s string
		if err := json.Unmarshal([]byte(`"`+string(b)+`"`), &s); err != nil {
			t.Fatal(err)
		}
		return []byte(s)
	}
	for _, tc := range []struct {
		name  string
		nonce []byte
	}{
		{"nothing", nil},
		{"10 characters", []byte("abcdefghij")},
		{"65 characters", bytes.Repeat([]byte("a"), 65)},
		{"a forged request", forged},
		{"a forged request without its first byte", forged[1:]},
		{"the first byte alone, then a nonce", []byte("\xFFabcdefghijklmno")},
		{"the first byte as JSON turns it", throughJSON([]byte("\xFFabcdefghijklmno"))},
		{"NUL inside", []byte("abcdefgh\x00ijklmno")},
		{"NUL at the end", []byte("abcdefghijklmno\x00")},
		{"a line break at the end", []byte("abcdefghijklmno\n")},
		{"a space", []byte("abcdefgh ijklmno")},
		{"the kind's text", []byte("cfa/v1/request")},
		{"base64 with +", []byte("abcdefgh+ijklmn")},
		{"base64 with padding", []byte("abcdefghijklmn==")},
		{"letters that are not ASCII", []byte("abcdefghіjklmno")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if sig, err := SignNonce(jobKey, tc.nonce); !errors.Is(err, ErrNonce) || sig != nil {
				t.Errorf("signed: %v", err)
			}
		})
	}
	for _, nonce := range []string{"abcdefghijk", "AZaz09-_AZaz09-_", strings.Repeat("x", 64)} {
		sig, err := SignNonce(jobKey, []byte(nonce))
		if err != nil {
			t.Errorf("%q: %v", nonce, err)
			continue
		}
		if err := jobKey.Verify([]byte(nonce), sig); err != nil {
			t.Errorf("%q: %v", nonce, err)
		}
	}
}

func TestNoStatementCanPassForANonce(t *testing.T) {
	t.Parallel()
	for _, c := range everyKind() {
		msg := signed(c.kind, mustJSON(t, c.body))
		if msg[0] != 0xFF {
			t.Errorf("%s: what is signed begins with %#x", c.kind, msg[0])
		}
		if _, err := SignNonce(c.kp, msg); !errors.Is(err, ErrNonce) {
			t.Errorf("%s: a server gets it signed as a nonce: %v", c.kind, err)
		}
	}
}

func FuzzSignNonce(f *testing.F) {
	seed(f, func(s []byte) { f.Add(s) }, [][]byte{
		[]byte("abcdefghijk"), []byte("\xFFcfa/v1/request\x00"), signed(KindRequest, []byte("{}")), []byte("abcdefghij\x00"), bytes.Repeat([]byte("_"), 64), {},
	})
	f.Fuzz(func(t *testing.T, nonce []byte) {
		if _, err := SignNonce(jobKey, nonce); err != nil {
			return
		}
		if len(nonce) < 11 || len(nonce) > 64 || strings.Trim(string(nonce), "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			t.Fatalf("signed %q", nonce)
		}
	})
}

// FuzzSigned looks for a kind and a body whose signed bytes a server could call a nonce.
func FuzzSigned(f *testing.F) {
	seed(f, func(k Kind) { f.Add(string(k), []byte(`{}`)) }, []Kind{KindRequest, KindGot, KindAnswer, "", "a\x00b"})
	f.Fuzz(func(t *testing.T, kind string, body []byte) {
		if _, err := SignNonce(jobKey, signed(Kind(kind), body)); err == nil {
			t.Fatalf("%q with body %q passes for a nonce", kind, body)
		}
	})
}
