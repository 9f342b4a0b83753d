package wire

// Envelopes: what a signature binds, and what it does not.

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
)

func TestASignedBodyOpensForItsSignerOnly(t *testing.T) {
	t.Parallel()
	for _, c := range everyKind() {
		t.Run(string(c.kind), func(t *testing.T) {
			t.Parallel()
			e, err := DecodeEnvelope(mustSign(t, c.body, c.kp).Encode())
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.open(e, PublicKey(c.kp))
			if err != nil {
				t.Fatal(err)
			}
			if want, have := mustJSON(t, c.body), mustJSON(t, got); !bytes.Equal(want, have) {
				t.Errorf("signed %s, opened %s", want, have)
			}
			if signer, err := ClaimedSigner(e); err != nil || signer != PublicKey(c.kp) {
				t.Errorf("claimed signer %q, %v", signer, err)
			}
			for _, other := range []nkeys.KeyPair{jobKey, otherJob, connectKey, signKey, otherSign} {
				if other == c.kp {
					continue
				}
				if _, err := c.open(e, PublicKey(other)); !errors.Is(err, ErrSignature) {
					t.Errorf("opened as another's: %v", err)
				}
			}
		})
	}
}

func TestASignatureOfOneKindNeverOpensAsAnother(t *testing.T) {
	t.Parallel()
	for _, signedAs := range everyKind() {
		for _, openedAs := range everyKind() {
			if signedAs.kind == openedAs.kind {
				continue
			}
			// Also in the other kind's own shape, which would decode as it.
			for _, shape := range []kindCase{signedAs, openedAs} {
				e := signRaw(t, signedAs.kind, mustJSON(t, shape.body), shape.kp)
				if _, err := openedAs.open(e, PublicKey(shape.kp)); !errors.Is(err, ErrMalformed) {
					t.Errorf("%s body signed as %s opened as %s: %v", shape.kind, signedAs.kind, openedAs.kind, err)
				}
				e.Kind = openedAs.kind // the relay relabels it
				if _, err := openedAs.open(e, PublicKey(shape.kp)); !errors.Is(err, ErrSignature) {
					t.Errorf("%s body signed as %s, relabelled, opened as %s: %v", shape.kind, signedAs.kind, openedAs.kind, err)
				}
			}
		}
	}
}

func TestABodyMustNameTheKeyThatSigned(t *testing.T) {
	t.Parallel()
	others := map[nkeys.KeyPair]nkeys.KeyPair{jobKey: otherJob, signKey: otherSign}
	for _, c := range everyKind() {
		if _, err := Sign(c.body, others[c.kp]); err == nil {
			t.Errorf("%s: signed with another key than the body names", c.kind)
		}
		e := signRaw(t, c.kind, mustJSON(t, c.body), others[c.kp])
		for _, key := range []nkeys.KeyPair{c.kp, others[c.kp]} {
			if _, err := c.open(e, PublicKey(key)); !errors.Is(err, ErrSignature) {
				t.Errorf("%s: %v", c.kind, err)
			}
		}
	}
}

// TestAKeyThatConnectsSignsNoAnswer: the two keys of a responder must not stand in
// for each other, since a NATS server gets signatures of the connecting one.
func TestAKeyThatConnectsSignsNoAnswer(t *testing.T) {
	t.Parallel()
	swapped := map[nkeys.KeyPair]nkeys.KeyPair{jobKey: signKey, signKey: connectKey}
	for _, c := range everyKind() {
		wrong := swapped[c.kp]
		var fields map[string]any
		if err := json.Unmarshal(mustJSON(t, c.body), &fields); err != nil {
			t.Fatal(err)
		}
		fields["key"] = PublicKey(wrong)
		e := signRaw(t, c.kind, mustJSON(t, fields), wrong)
		if _, err := c.open(e, PublicKey(wrong)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s signed by a %.1s key: %v", c.kind, PublicKey(wrong), err)
		}
	}
}

func TestAnEnvelopesSpellingChangesNothing(t *testing.T) {
	t.Parallel()
	key := PublicKey(jobKey)
	e := mustSign(t, validRequest(), jobKey)
	want, err := DigestOf(e, key)
	if err != nil {
		t.Fatal(err)
	}
	body, sig := base64.StdEncoding.EncodeToString(e.Body), base64.StdEncoding.EncodeToString(e.Sig)
	for name, spelled := range map[string]string{
		"as encoded":     string(e.Encode()),
		"white space":    fmt.Sprintf("\n{ \"v\" : 1,\t\"kind\":\"request\" ,\r\n \"body\":%q, \"sig\":%q }  ", body, sig),
		"another order":  fmt.Sprintf(`{"sig":%q,"body":%q,"kind":"request","v":1}`, sig, body),
		"escaped letter": fmt.Sprintf(`{"v":1,"kind":"\u0072equest","body":"\u%04x%s","sig":%q}`, body[0], body[1:], sig),
	} {
		got, err := DecodeEnvelope([]byte(spelled))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := Open[Request](got, key); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d, err := DigestOf(got, key); err != nil || d != want {
			t.Errorf("%s: digest %v, %v; want %v", name, d, err, want)
		}
	}
}

func TestAChangedBodyOrSignatureDoesNotOpen(t *testing.T) {
	t.Parallel()
	key := PublicKey(jobKey)
	e := mustSign(t, validRequest(), jobKey)
	digest, err := DigestOf(e, key)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(e.Body); i += 3 {
		changed := e
		changed.Body = slices.Clone(e.Body)
		changed.Body[i] ^= 1
		if _, err := Open[Request](changed, key); !errors.Is(err, ErrSignature) {
			t.Fatalf("byte %d of the body changed: %v", i, err)
		}
		if d, err := DigestOf(changed, key); err != nil || d == digest {
			t.Fatalf("byte %d of the body changed, the digest did not: %v", i, err)
		}
	}
	for i := range e.Sig {
		changed := e
		changed.Sig = slices.Clone(e.Sig)
		changed.Sig[i] ^= 1
		if _, err := Open[Request](changed, key); !errors.Is(err, ErrSignature) {
			t.Fatalf("byte %d of the signature changed: %v", i, err)
		}
	}
	for name, body := range map[string][]byte{
		"white space":         append(slices.Clone(e.Body), ' '),
		"another field order": reordered(t, e.Body),
		"nothing":             nil,
	} {
		changed := e
		changed.Body = body
		if _, err := Open[Request](changed, key); err == nil {
			t.Errorf("%s in the body: opened", name)
		}
	}
	// The other signature that satisfies the same equation, S + L, where a
	// verifier forgets that S must be below the group's order.
	changed := e
	changed.Sig = slices.Clone(e.Sig)
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := slices.Clone(e.Sig[32:])
	slices.Reverse(s)
	sum := new(big.Int).Add(new(big.Int).SetBytes(s), order).FillBytes(make([]byte, 32))
	slices.Reverse(sum)
	copy(changed.Sig[32:], sum)
	if _, err := Open[Request](changed, key); !errors.Is(err, ErrSignature) {
		t.Errorf("S + L: %v", err)
	}
}

func reordered(t *testing.T, body []byte) []byte {
	t.Helper()
	var fields map[string]any // encodes in alphabetical order
	if err := json.Unmarshal(body, &fields); err != nil {
		t.Fatal(err)
	}
	out := mustJSON(t, fields)
	if bytes.Equal(out, body) {
		t.Fatal("the order did not change")
	}
	return out
}

func TestTheDigestNamesKeyAndBody(t *testing.T) {
	t.Parallel()
	a, b := mustSign(t, validRequest(), jobKey), validRequest()
	b.Message = "publish 1.2.4"
	da, err := DigestOf(a, PublicKey(jobKey))
	if err != nil {
		t.Fatal(err)
	}
	db, err := DigestOf(mustSign(t, b, jobKey), PublicKey(jobKey))
	if err != nil {
		t.Fatal(err)
	}
	dk, err := DigestOf(a, PublicKey(otherJob))
	if err != nil {
		t.Fatal(err)
	}
	if da == db || da == dk {
		t.Error("two requests have one digest")
	}
	for _, key := range []string{"", "U", PublicKey(jobKey) + "\n", PublicKey(jobKey)[1:], "SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU"} {
		if _, err := DigestOf(a, key); !errors.Is(err, ErrMalformed) {
			t.Errorf("digest under key %q: %v", key, err)
		}
	}
}

func TestAnEnvelopeIsWholeOrRefused(t *testing.T) {
	t.Parallel()
	good := mustSign(t, validRequest(), jobKey)
	key := PublicKey(jobKey)
	for _, tc := range []struct {
		name   string
		change func(*Envelope)
		want   error
	}{
		{"no version", func(e *Envelope) { e.V = 0 }, ErrVersion},
		{"the next version", func(e *Envelope) { e.V = 2 }, ErrVersion},
		{"a negative version", func(e *Envelope) { e.V = -1 }, ErrVersion},
		{"no kind", func(e *Envelope) { e.Kind = "" }, ErrMalformed},
		{"no body", func(e *Envelope) { e.Body = nil }, ErrMalformed},
		{"no signature", func(e *Envelope) { e.Sig = nil }, ErrMalformed},
		{"a short signature", func(e *Envelope) { e.Sig = e.Sig[:63] }, ErrMalformed},
		{"a long signature", func(e *Envelope) { e.Sig = append(slices.Clone(e.Sig), 0) }, ErrMalformed},
		{"a long body", func(e *Envelope) { e.Body = make(Bytes, MaxBody+1) }, ErrMalformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			e := good
			tc.change(&e)
			if _, err := DecodeEnvelope(e.Encode()); !errors.Is(err, tc.want) {
				t.Errorf("decoded: %v", err)
			}
			// An envelope inside a message is not decoded by DecodeEnvelope.
			if _, err := Open[Request](e, key); !errors.Is(err, tc.want) {
				t.Errorf("opened: %v", err)
			}
			if _, err := ClaimedSigner(e); !errors.Is(err, tc.want) {
				t.Errorf("claimed signer: %v", err)
			}
		})
	}
	if err := func() error { _, err := DecodeEnvelope([]byte(strings.Repeat(" ", MaxEnvelope) + "{}")); return err }(); !errors.Is(err, ErrMalformed) {
		t.Errorf("too long: %v", err)
	}
	if _, err := DecodeEnvelope([]byte(`{"v":2,"kind":"got","body":"AA==","sig":"AA=="}`)); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("another version does not say what to do: %v", err)
	}
}

// TestTheLargestBodyFitsItsEnvelope: limits that contradict each other would
// refuse, on the way, what the signer was allowed to sign.
func TestTheLargestBodyFitsItsEnvelope(t *testing.T) {
	t.Parallel()
	r := validRequest()
	for i := 0; len(r.Proof) < 24 && len(mustJSON(t, r)) < MaxBody-1100; i++ {
		r.Proof[fmt.Sprintf("claim-%d", i)] = strings.Repeat("x", 1024)
	}
	r.Proof["rest"] = strings.Repeat("y", MaxBody-len(mustJSON(t, r))-len(`,"rest":""`))
	if n := len(mustJSON(t, r)); n != MaxBody {
		t.Fatalf("the body has %d bytes, not %d", n, MaxBody)
	}
	e := mustSign(t, r, jobKey)
	if got, err := DecodeEnvelope(e.Encode()); err != nil {
		t.Fatal(err)
	} else if _, err := Open[Request](got, PublicKey(jobKey)); err != nil {
		t.Fatal(err)
	}
	msg := mustJSON(t, RequestMessage{Request: e, Token: strings.Repeat("t", MaxToken)})
	if len(msg) > MaxMessage {
		t.Errorf("the largest request with the largest token is %d bytes, more than a message's %d", len(msg), MaxMessage)
	}
	r.Proof["rest"] += "y"
	if _, err := Sign(r, jobKey); !errors.Is(err, ErrMalformed) {
		t.Errorf("signed a body larger than can be opened: %v", err)
	}
}

func TestTheClaimedSignerIsAKeyOrNothing(t *testing.T) {
	t.Parallel()
	key := PublicKey(signKey)
	for _, body := range []string{
		`{}`, `{"key":""}`, `{"key":1}`, `{"key":null}`, `{"key":["` + key + `"]}`, `{"Key":"` + key + `"}`,
		`{"key":"` + key + `","key":"` + key + `"}`, `{"key":"` + key + `\n"}`, `{"key":"` + key[:20] + `\r\n` + key[20:] + `"}`,
		`{"key":"` + strings.ToLower(key) + `"}`, `{"key":"SAAML3XCS7SMGYDV2LBPTMBPUVYJIXIBVMWDX5ARDS7AKEJZ3OJMXDVWAE"}`, `"` + key + `"`, key,
	} {
		if got, err := ClaimedSigner(Envelope{V: Version, Kind: KindAnswer, Body: []byte(body), Sig: filled(64, 0)}); !errors.Is(err, ErrMalformed) || got != "" {
			t.Errorf("%s: %q, %v", body, got, err)
		}
	}
}

func TestWhatIsSignedIsExactlyThis(t *testing.T) {
	t.Parallel()
	e := mustSign(t, &Next{Key: PublicKey(jobKey), Digest: Digest{1}, Attempt: 1}, jobKey)
	raw, err := rawKey(PublicKey(jobKey))
	if err != nil {
		t.Fatal(err)
	}
	// Spelled out beside the code that makes it, because another implementation
	// has only the description.
	sum := sha256Of(e.Body)
	msg := append([]byte("\xFFcfa/v1/next\x00"), sum...)
	if !ed25519.Verify(raw, msg, e.Sig) {
		t.Error("the signature is not over 0xFF, cfa/v1/next, 0x00 and the body's SHA-256")
	}
}

func TestASealedAnswersHashCoversBothParts(t *testing.T) {
	t.Parallel()
	s := Sealed{Enc: filled(32, 1), Ciphertext: filled(100, 2)}
	if err := s.Check(); err != nil {
		t.Fatal(err)
	}
	if got := s.Hash(); !bytes.Equal(got[:], sha256Of(append(slices.Clone(s.Enc), s.Ciphertext...))) {
		t.Error("not SHA-256(enc ‖ ct)")
	}
	for _, bad := range []Sealed{
		{}, {Enc: filled(31, 1), Ciphertext: filled(100, 2)}, {Enc: filled(33, 1), Ciphertext: filled(100, 2)},
		{Enc: filled(32, 1), Ciphertext: filled(15, 2)}, {Enc: filled(32, 1), Ciphertext: filled(MaxSealed+1, 2)},
	} {
		if err := bad.Check(); !errors.Is(err, ErrMalformed) {
			t.Errorf("enc of %d and ciphertext of %d bytes: %v", len(bad.Enc), len(bad.Ciphertext), err)
		}
	}
}

func TestADigestHasOneSpelling(t *testing.T) {
	t.Parallel()
	d := Digest(filled(32, 0xAB))
	text, err := d.MarshalText()
	if err != nil || string(text) != strings.Repeat("ab", 32) {
		t.Fatalf("%s, %v", text, err)
	}
	var back Digest
	if err := back.UnmarshalText(text); err != nil || back != d {
		t.Fatalf("%v, %v", back, err)
	}
	for _, bad := range []string{"", "ab", strings.Repeat("AB", 32), strings.Repeat("ab", 33), strings.Repeat("zz", 32), " " + string(text), string(text[:63]), "0x" + string(text[2:])} {
		if err := new(Digest).UnmarshalText([]byte(bad)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzDecodeEnvelope(f *testing.F) {
	var seeds [][]byte
	for _, c := range everyKind() {
		seeds = append(seeds, mustSign(f, c.body, c.kp).Encode())
	}
	seeds = append(seeds, []byte(`{}`), []byte(` {"sig":"AA==","body":"AB==","kind":"got","v":1}`), []byte(`{"v":1,"v":1}`), []byte(`{"v":2}`))
	seed(f, func(s []byte) { f.Add(s) }, seeds)
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := DecodeEnvelope(data)
		if err != nil {
			return
		}
		if e.V != Version || e.Kind == "" || len(e.Body) == 0 || len(e.Body) > MaxBody || len(e.Sig) != 64 {
			t.Fatalf("accepted %+v", e)
		}
		again, err := DecodeEnvelope(e.Encode())
		if err != nil {
			// An escaped kind can grow beyond the limit, nothing else.
			if len(e.Encode()) > MaxEnvelope {
				return
			}
			t.Fatalf("what was decoded does not decode again: %v", err)
		}
		if !bytes.Equal(again.Encode(), e.Encode()) || again.Kind != e.Kind || !bytes.Equal(again.Body, e.Body) || !bytes.Equal(again.Sig, e.Sig) {
			t.Fatalf("%+v became %+v", e, again)
		}
	})
}

func FuzzDigest(f *testing.F) {
	seed(f, func(s string) { f.Add([]byte(s)) }, []string{"", strings.Repeat("0", 64), strings.Repeat("AB", 32), strings.Repeat("ab", 32), strings.Repeat("ab", 31)})
	f.Fuzz(func(t *testing.T, text []byte) {
		var d Digest
		if d.UnmarshalText(text) != nil {
			return
		}
		if d.String() != string(text) {
			t.Fatalf("%q and %q are one digest", text, d)
		}
	})
}
