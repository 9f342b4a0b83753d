package seal

// Sealing to one job, and the match code.

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/binary"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/wire"
)

// code is what must never show: in no error, and in no sealed form.
const code = "planted-code-915624"

func newKey(t testing.TB) *Key {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func signingKey(fill byte) string {
	kp, err := nkeys.FromRawSeed(nkeys.PrefixByteAccount, bytes.Repeat([]byte{fill}, 32))
	if err != nil {
		panic(err)
	}
	return wire.PublicKey(kp)
}

func to() To {
	return To{Digest: wire.Digest{1, 2, 3}, Attempt: 1, Ask: wire.AskCode, Responder: signingKey(1)}
}

func closed(t testing.TB, k *Key, to To, code string) wire.Sealed {
	t.Helper()
	s, err := Close(k.Public(), to, code)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestASealedCodeOpensForItsJob(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	for _, want := range []string{"1", "000000", code, strings.Repeat("x", wire.MaxCode), "a\x00b", strings.Repeat("\x00", 3)} {
		s := closed(t, k, to(), want)
		if err := s.Check(); err != nil {
			t.Errorf("%q: a relay would refuse it: %v", want, err)
		}
		if bytes.Contains(s.Ciphertext, []byte(want)) && len(want) > 4 {
			t.Errorf("%q stands in the ciphertext", want)
		}
		got, err := k.Open(s, to())
		if err != nil || got != want {
			t.Errorf("sealed %q, opened %q, %v", want, got, err)
		}
	}
}

func TestASealedCodeMovedElsewhereDoesNotOpen(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	s := closed(t, k, to(), code)
	change := func(f func(*To)) To { x := to(); f(&x); return x }
	for name, elsewhere := range map[string]To{
		"another request":               change(func(x *To) { x.Digest[31] ^= 1 }),
		"the next attempt":              change(func(x *To) { x.Attempt = 2 }),
		"no attempt":                    change(func(x *To) { x.Attempt = 0 }),
		"another thing asked":           change(func(x *To) { x.Ask = wire.AskLink }),
		"nothing asked":                 change(func(x *To) { x.Ask = "" }),
		"another responder":             change(func(x *To) { x.Responder = signingKey(2) }),
		"no responder":                  change(func(x *To) { x.Responder = "" }),
		"a letter moved between fields": change(func(x *To) { x.Ask += x.Responder[:1]; x.Responder = x.Responder[1:] }),
	} {
		if got, err := k.Open(s, elsewhere); !errors.Is(err, ErrUnusable) || got != "" {
			t.Errorf("%s: %q, %v", name, got, err)
		} else if strings.Contains(err.Error(), code) {
			t.Errorf("%s: the error holds the code: %v", name, err)
		}
	}
	if got, err := newKey(t).Open(s, to()); !errors.Is(err, ErrUnusable) || got != "" {
		t.Errorf("another job's key: %q, %v", got, err)
	}
}

func TestATamperedSealDoesNotOpen(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	s := closed(t, k, to(), code)
	other := closed(t, k, to(), code)
	if bytes.Equal(s.Enc, other.Enc) || bytes.Equal(s.Ciphertext, other.Ciphertext) {
		t.Error("two seals of one code are equal")
	}
	try := func(name string, changed wire.Sealed) {
		t.Helper()
		if got, err := k.Open(changed, to()); !errors.Is(err, ErrUnusable) || got != "" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for i := range s.Ciphertext {
		ct := slices.Clone(s.Ciphertext)
		ct[i] ^= 1
		try("a bit of the ciphertext", wire.Sealed{Enc: s.Enc, Ciphertext: ct})
	}
	for i := range s.Enc {
		// X25519 ignores the top bit of the last byte; HPKE authenticates the bytes as sent.
		enc := slices.Clone(s.Enc)
		enc[i] ^= 0x80
		try("a bit of the encapsulated key", wire.Sealed{Enc: enc, Ciphertext: s.Ciphertext})
	}
	try("halves of two seals", wire.Sealed{Enc: s.Enc, Ciphertext: other.Ciphertext})
	try("cut", wire.Sealed{Enc: s.Enc, Ciphertext: s.Ciphertext[:len(s.Ciphertext)-1]})
	try("longer", wire.Sealed{Enc: s.Enc, Ciphertext: append(slices.Clone(s.Ciphertext), 0)})
	try("empty", wire.Sealed{})
	try("an encapsulated key of low order", wire.Sealed{Enc: make([]byte, 32), Ciphertext: s.Ciphertext})
}

// TestAWrongPlaintextDoesNotOpen: an accepted responder can seal anything; what has
// not the one form is unusable, not half read.
func TestAWrongPlaintextDoesNotOpen(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	plain := func(size, length int, fill byte) []byte {
		p := bytes.Repeat([]byte{fill}, size)
		binary.BigEndian.PutUint16(p, uint16(length))
		return p
	}
	for name, p := range map[string][]byte{
		"a length of 0":             plain(padded, 0, 0),
		"a length beyond the limit": plain(padded, wire.MaxCode+1, 'x'),
		"the greatest length":       plain(padded, 65535, 'x'),
		"padding that is not zero":  plain(padded, 6, '1'),
		"too short":                 plain(padded-1, 6, 0),
		"too long":                  plain(padded+1, 6, 0),
	} {
		enc, sender, err := hpke.NewSender(k.private.PublicKey(), kdf, aead, info)
		if err != nil {
			t.Fatal(err)
		}
		ct, err := sender.Seal(to().aad(), p)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := k.Open(wire.Sealed{Enc: enc, Ciphertext: ct}, to()); !errors.Is(err, ErrUnusable) || got != "" {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestTheSealedFormDoesNotTellTheCodesLength(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	want := len(closed(t, k, to(), "1").Ciphertext)
	for n := 1; n <= wire.MaxCode; n += 73 {
		if got := len(closed(t, k, to(), strings.Repeat("1", n)).Ciphertext); got != want {
			t.Errorf("%d characters are sealed in %d bytes, 1 in %d", n, got, want)
		}
	}
	if got := len(closed(t, k, to(), strings.Repeat("1", wire.MaxCode)).Ciphertext); got != want || want != padded+16 {
		t.Errorf("%d characters are sealed in %d bytes, 1 in %d", wire.MaxCode, got, want)
	}
}

func TestWhatCannotBeSealedIsRefused(t *testing.T) {
	t.Parallel()
	k := newKey(t)
	for name, tc := range map[string]struct {
		public []byte
		code   string
	}{
		"no code":            {k.Public(), ""},
		"a code too long":    {k.Public(), strings.Repeat("planted-code-915624", 27)},
		"no key":             {nil, code},
		"a short key":        {k.Public()[:31], code},
		"a long key":         {append(k.Public(), 0), code},
		"a key of low order": {make([]byte, 32), code}, // its shared secret would be known to everybody
	} {
		if s, err := Close(tc.public, to(), tc.code); err == nil || s.Enc != nil || s.Ciphertext != nil {
			t.Errorf("%s was sealed", name)
		} else if strings.Contains(err.Error(), code) {
			t.Errorf("%s: the error holds the code: %v", name, err)
		}
	}
}

// TestTheSuiteIsTheOneInTheProtocol opens, with the standard library alone and every
// choice spelled out, what Close made: what another implementation would do.
func TestTheSuiteIsTheOneInTheProtocol(t *testing.T) {
	t.Parallel()
	kem := hpke.DHKEM(ecdh.X25519())
	private, err := kem.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	where := To{Digest: wire.Digest(bytes.Repeat([]byte{0xAB}, 32)), Attempt: 258, Ask: "code", Responder: signingKey(1)}
	s, err := Close(private.PublicKey().Bytes(), where, "123456")
	if err != nil {
		t.Fatal(err)
	}
	r, err := hpke.NewRecipient(s.Enc, private, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte("cfa/v1/seal"))
	if err != nil {
		t.Fatal(err)
	}
	aad := strings.Repeat("\xAB", 32) + "\x00\x00\x00\x00\x00\x00\x01\x02" + "\x04code" + signingKey(1)
	plain, err := r.Open([]byte(aad), s.Ciphertext)
	if err != nil {
		t.Fatal(err)
	}
	if want := "\x00\x06123456" + strings.Repeat("\x00", 506); string(plain) != want {
		t.Errorf("plaintext %q", plain)
	}
}

func TestTheMatchCodeIsThisAndNoOther(t *testing.T) {
	t.Parallel()
	ascending := make([]byte, 32)
	for i := range ascending {
		ascending[i] = byte(i)
	}
	form := regexp.MustCompile(`^[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}$`)
	// The values were computed by another PBKDF2 (Python's hashlib).
	for _, tc := range []struct {
		digest wire.Digest
		want   string
	}{
		{wire.Digest{}, "MC7Z-QW4G-6S6Q"},
		{wire.Digest(ascending), "JB9Q-SSVB-RQGV"},
		{wire.Digest(bytes.Repeat([]byte{0xFF}, 32)), "VMR6-0BQA-FJKX"},
	} {
		got := Match(tc.digest)
		if got != tc.want {
			t.Errorf("%s: %s, want %s", tc.digest, got, tc.want)
		}
		if !form.MatchString(got) {
			t.Errorf("%s has not the form of a match code", got)
		}
	}
}

func TestATypedMatchCodeForgivesSpellingOnly(t *testing.T) {
	t.Parallel()
	const match = "K70F-2M1T-9RBD"
	for _, same := range []string{"K70F-2M1T-9RBD", "k70f-2m1t-9rbd", "K70F2M1T9RBD", " k70f 2m1t 9rbd ", "K7OF-2MIT-9RBD", "k7of-2mlt-9rbd", "K70F--2M1T--9RBD"} {
		if !SameMatch(same, match) {
			t.Errorf("%q is refused", same)
		}
	}
	for _, other := range []string{"", "-", "---", "K70F-2M1T-9RB", "K70F-2M1T-9RBDD", "K70F-2M1T-9RBE", "70F-2M1T-9RBD", "K70F_2M1T_9RBD", "K70F-2M1T-9RBD\n", "\u212a70F-2M1T-9RBD", "y", "yes"} {
		if SameMatch(other, match) {
			t.Errorf("%q passes", other)
		}
	}
}

func FuzzOpen(f *testing.F) {
	private, err := kem().NewPrivateKey(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		f.Fatal(err)
	}
	k := &Key{private}
	good := closed(f, k, to(), code)
	for _, s := range []wire.Sealed{good, {}, {Enc: good.Enc}, {Enc: make([]byte, 32), Ciphertext: good.Ciphertext}, {Enc: good.Enc, Ciphertext: good.Ciphertext[:16]}} {
		f.Add([]byte(s.Enc), []byte(s.Ciphertext))
	}
	f.Fuzz(func(t *testing.T, enc, ct []byte) {
		got, err := k.Open(wire.Sealed{Enc: enc, Ciphertext: ct}, to())
		genuine := bytes.Equal(enc, good.Enc) && bytes.Equal(ct, good.Ciphertext)
		switch {
		case genuine && err != nil:
			t.Fatalf("the genuine one did not open: %v", err)
		case err == nil && got != code: // each of the fuzzer's processes seals a genuine one of its own
			t.Fatalf("opened %q, which nobody sealed", got)
		case err != nil && (!errors.Is(err, ErrUnusable) || got != ""):
			t.Fatalf("%q, %v", got, err)
		}
	})
}

func FuzzSameMatch(f *testing.F) {
	match := Match(wire.Digest{})
	for _, s := range []string{match, strings.ToLower(match), "", "----", match + "0", "O0Il1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		if !SameMatch(typed, match) {
			return
		}
		letters := strings.NewReplacer("-", "", " ", "").Replace(typed)
		if len(letters) != 12 {
			t.Fatalf("%q passes for %s", typed, match)
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	for b.Loop() {
		Match(wire.Digest{1})
	}
}

func BenchmarkClose(b *testing.B) {
	k := newKey(b)
	for b.Loop() {
		if _, err := Close(k.Public(), to(), "123456"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	k := newKey(b)
	s := closed(b, k, to(), "123456")
	where := to()
	for b.Loop() {
		if _, err := k.Open(s, where); err != nil {
			b.Fatal(err)
		}
	}
}
