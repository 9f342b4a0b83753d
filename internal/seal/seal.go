// Package seal closes a code to one job and opens it there, and computes the
// match code that a human compares.
//
// The rule it keeps: only these two ends import it. The relay does not, and a
// test holds it to that, so that "the relay cannot read a code" can be seen from
// the import graph alone.
package seal

import (
	"crypto/ecdh"
	"crypto/hpke"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/continuousauth/action/internal/wire"
)

// HPKE base mode (RFC 9180): DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
// ChaCha20-Poly1305, info "cfa/v1/seal".
var (
	info = []byte("cfa/v1/seal")
	kdf  = hpke.HKDFSHA256()
	aead = hpke.ChaCha20Poly1305()
)

func kem() hpke.KEM { return hpke.DHKEM(ecdh.X25519()) }

// padded is the one size of every plaintext: two bytes of length, the code,
// zeros. Without it the ciphertext's length would tell a relay the code's.
const padded = 2 + wire.MaxCode

// ErrUnusable says that a sealed answer does not open for this job, request,
// attempt and responder.
var ErrUnusable = errors.New("the answer does not open")

// Key is a job's HPKE private key, made in memory for one request.
type Key struct{ private hpke.PrivateKey }

// NewKey makes a key from the system's randomness.
func NewKey() (*Key, error) {
	k, err := kem().GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("make HPKE key: %w", err)
	}
	return &Key{k}, nil
}

// Public is the public half: 32 bytes, as in a request's `hpke`.
func (k *Key) Public() []byte { return k.private.PublicKey().Bytes() }

// To is what a code is sealed for. All of it is authenticated: a sealed code
// moved to another request, attempt, kind or responder does not open.
type To struct {
	Digest    wire.Digest
	Attempt   int
	Ask       string // wire.AskCode
	Responder string // signing key of who seals
}

// aad is digest ‖ attempt (8 bytes, big-endian) ‖ length-prefixed kind ‖ signing key.
func (t To) aad() []byte {
	out := append([]byte{}, t.Digest[:]...)
	out = binary.BigEndian.AppendUint64(out, uint64(t.Attempt))
	out = append(out, byte(len(t.Ask)))
	out = append(out, t.Ask...)
	return append(out, t.Responder...)
}

// Close seals code to the job's public key.
func Close(public []byte, to To, code string) (wire.Sealed, error) {
	if len(code) == 0 || len(code) > wire.MaxCode {
		return wire.Sealed{}, fmt.Errorf("a code has 1 to %d characters", wire.MaxCode)
	}
	pk, err := kem().NewPublicKey(public)
	if err != nil {
		return wire.Sealed{}, fmt.Errorf("the job's HPKE key: %w", err)
	}
	enc, sender, err := hpke.NewSender(pk, kdf, aead, info)
	if err != nil {
		return wire.Sealed{}, fmt.Errorf("seal: %w", err)
	}
	plain := make([]byte, padded)
	binary.BigEndian.PutUint16(plain, uint16(len(code)))
	copy(plain[2:], code)
	defer clear(plain)
	ct, err := sender.Seal(to.aad(), plain)
	if err != nil {
		return wire.Sealed{}, fmt.Errorf("seal: %w", err)
	}
	return wire.Sealed{Enc: enc, Ciphertext: ct}, nil
}

// Open gives the code back, or [ErrUnusable].
func (k *Key) Open(s wire.Sealed, to To) (string, error) {
	if err := s.Check(); err != nil {
		return "", fmt.Errorf("%w: %w", ErrUnusable, err)
	}
	r, err := hpke.NewRecipient(s.Enc, k.private, kdf, aead, info)
	if err != nil {
		return "", fmt.Errorf("%w: encapsulated key: %w", ErrUnusable, err)
	}
	plain, err := r.Open(to.aad(), s.Ciphertext)
	if err != nil {
		return "", fmt.Errorf("%w: not sealed for this request, attempt and responder", ErrUnusable)
	}
	defer clear(plain)
	if len(plain) != padded {
		return "", fmt.Errorf("%w: wrong size", ErrUnusable)
	}
	n := int(binary.BigEndian.Uint16(plain))
	if n == 0 || n > wire.MaxCode {
		return "", fmt.Errorf("%w: wrong length", ErrUnusable)
	}
	for _, c := range plain[2+n:] {
		if c != 0 {
			return "", fmt.Errorf("%w: wrong padding", ErrUnusable)
		}
	}
	return string(plain[2 : 2+n]), nil
}

// matchRounds makes a search for a request with a wanted match code cost about
// 16 ms a try.
const matchRounds = 100_000

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// Match is the match code of a request: 12 Crockford base32 characters (60 bits)
// in three groups, K7QF-2MXT-9RBD, of PBKDF2-SHA256(digest, "cfa/v1/match",
// 100,000 rounds). Both ends compute it; it is never sent.
func Match(d wire.Digest) string {
	raw, err := pbkdf2.Key(sha256.New, string(d[:]), []byte("cfa/v1/match"), matchRounds, 8)
	if err != nil {
		panic(fmt.Sprintf("seal: match code: %v", err)) // only a wrong key length could
	}
	bits := binary.BigEndian.Uint64(raw) >> 4
	out := make([]byte, 0, 14)
	for i := range 12 {
		if i == 4 || i == 8 {
			out = append(out, '-')
		}
		out = append(out, crockford[bits>>(55-5*i)&31])
	}
	return string(out)
}

// SameMatch compares a typed match code with the right one, forgiving what
// Crockford's alphabet forgives: case, dashes and spaces, O for 0, I and L for 1.
func SameMatch(typed, match string) bool {
	return normal(typed) == normal(match)
}

func normal(s string) string {
	out := make([]byte, 0, 12)
	for _, c := range []byte(s) {
		switch {
		case c == '-' || c == ' ':
			continue
		case c >= 'a' && c <= 'z':
			c -= 'a' - 'A'
		}
		switch c {
		case 'O':
			c = '0'
		case 'I', 'L':
			c = '1'
		}
		out = append(out, c)
	}
	return string(out)
}
