package wire

// Keys. All are ed25519 in NATS's nkey spelling, and the first letter says what
// a key is for, so that one kind can never stand in for the other:
//
//	U…  connects: a job's key for one request, or a responder's connecting key
//	A…  signs answers: a responder's signing key, which no NATS server can
//	    ever get to sign a nonce, because clients connect with U keys only

import (
	"errors"
	"fmt"

	"github.com/nats-io/nkeys"
)

// NewConnectKey makes a key that connects: 32 bytes of the system's randomness.
func NewConnectKey() (nkeys.KeyPair, error) { return nkeys.CreateUser() }

// NewSigningKey makes a responder's signing key.
func NewSigningKey() (nkeys.KeyPair, error) { return nkeys.CreateAccount() }

// keyLength is the length of each key's one spelling: prefix, 32 bytes and a
// checksum in base32. nkeys skips line breaks when it decodes, so that without
// this one key had many names, and a name could begin a line of a log.
const keyLength = 56

// CheckConnectKey says whether s is the public half of a key that connects.
func CheckConnectKey(s string) error {
	if len(s) != keyLength || !nkeys.IsValidPublicUserKey(s) {
		return malformed("not a connecting key (56 characters, beginning with U)")
	}
	return nil
}

// CheckSigningKey says whether s is the public half of a responder's signing key.
func CheckSigningKey(s string) error {
	if len(s) != keyLength || !nkeys.IsValidPublicAccountKey(s) {
		return malformed("not a signing key (56 characters, beginning with A)")
	}
	return nil
}

// PublicKey is the public half of kp. It panics if kp was wiped: a program that
// goes on with a wiped key has a bug that must not be papered over.
func PublicKey(kp nkeys.KeyPair) string {
	pub, err := kp.PublicKey()
	if err != nil {
		panic(fmt.Sprintf("wire: key has no public half: %v", err))
	}
	return pub
}

// rawKey is the 32-byte ed25519 public key inside an nkey.
func rawKey(public string) ([]byte, error) {
	if len(public) != keyLength {
		return nil, malformed("not a key")
	}
	prefix := nkeys.Prefix(public)
	raw, err := nkeys.Decode(prefix, []byte(public))
	if err != nil || len(raw) != 32 {
		return nil, malformed("not a key")
	}
	return raw, nil
}

// ErrNonce says that a server asked for a signature over something that is not
// a nonce.
var ErrNonce = errors.New("the server asked to sign something that is not a nonce; it may be hostile")

// SignNonce signs a NATS server's nonce and nothing else: 11 to 64 base64url
// characters. A NATS client signs whatever bytes the server calls a nonce, with
// the very key that signs requests; a hostile server once got a forged request
// signed that way. What this protocol signs begins with the byte 0xFF (see
// [Sign]), which no nonce accepted here can.
func SignNonce(kp nkeys.KeyPair, nonce []byte) ([]byte, error) {
	if len(nonce) < 11 || len(nonce) > 64 {
		return nil, ErrNonce
	}
	for _, c := range nonce {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return nil, ErrNonce
		}
	}
	return kp.Sign(nonce)
}
