package wire

// Envelopes: a body, what kind of body it is, and its signer's signature.

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/nats-io/nkeys"
)

// Kind says what an envelope states. It is part of what is signed, so that a
// signed statement of one kind can never pass as another.
type Kind string

// The kinds, and who signs each.
const (
	KindRequest   Kind = "request"   // job: I ask this
	KindAlive     Kind = "alive"     // job: I am running, and this is my fresh ID token's key
	KindGot       Kind = "got"       // job: the answer opened
	KindRejected  Kind = "rejected"  // job: the code was refused, or did not open
	KindNext      Kind = "next"      // job: one more, please
	KindDone      Kind = "done"      // job: it is over
	KindCancel    Kind = "cancel"    // job: withdrawn
	KindChallenge Kind = "challenge" // responder: show me that you are running
	KindAnswer    Kind = "answer"    // responder: here is the sealed code, or my yes
	KindDecline   Kind = "decline"   // responder: no
	KindAway      Kind = "away"      // responder: away until then, or back
	KindSuccessor Kind = "successor" // responder: another key is mine from now on
	KindJoin      Kind = "join"      // responder: enrol me, by this invitation
	KindConnect   Kind = "connect"   // connecting key, of a responder or of a job that is known: I connect to this relay
)

// Envelope is a signed body as it travels: {"v":1,"kind":…,"body":…,"sig":…}.
// Body and Sig are canonical base64. Nothing in it may be believed before
// [Open] has verified it.
type Envelope struct {
	V    int   `json:"v"`
	Kind Kind  `json:"kind"`
	Body Bytes `json:"body"`
	Sig  Bytes `json:"sig"`
}

// Body is what an envelope can hold: the messages of this package.
type Body interface {
	kind() Kind
	signer() string
	check() error
}

// DecodeEnvelope reads one envelope strictly, without verifying it.
func DecodeEnvelope(data []byte) (Envelope, error) {
	var e Envelope
	if err := Decode(data, MaxEnvelope, &e); err != nil {
		return Envelope{}, err
	}
	return e, e.check()
}

func (e Envelope) check() error {
	if err := CheckVersion(e.V); err != nil {
		return err
	}
	if e.Kind == "" || len(e.Body) == 0 || len(e.Sig) != 64 {
		return malformed("incomplete envelope")
	}
	if len(e.Body) > MaxBody {
		return malformed("body of %d bytes, at most %d are allowed", len(e.Body), MaxBody)
	}
	return nil
}

// Encode gives the envelope's JSON.
func (e Envelope) Encode() []byte {
	out, err := json.Marshal(e)
	if err != nil {
		panic(fmt.Sprintf("wire: envelope does not encode: %v", err)) // it holds strings and bytes only
	}
	return out
}

// signed is what a signature covers: 0xFF ‖ "cfa/v1/<kind>" ‖ 0x00 ‖ SHA-256(body).
// The first byte keeps it apart from any nonce a NATS server can ask to be
// signed (see [SignNonce]); the zero byte ends the kind, so that no kind can be
// a prefix of another.
func signed(kind Kind, body []byte) []byte {
	sum := sha256.Sum256(body)
	out := append([]byte{0xFF}, "cfa/v1/"+string(kind)...)
	out = append(out, 0)
	return append(out, sum[:]...)
}

// Sign puts body into an envelope, signed by kp, whose public half the body must
// name as its signer.
func Sign(body Body, kp nkeys.KeyPair) (Envelope, error) {
	if err := body.check(); err != nil {
		return Envelope{}, fmt.Errorf("sign %s: %w", body.kind(), err)
	}
	if pub := PublicKey(kp); body.signer() != pub {
		return Envelope{}, fmt.Errorf("sign %s: body names another signer than the key that signs", body.kind())
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return Envelope{}, fmt.Errorf("sign %s: %w", body.kind(), err)
	}
	if len(raw) > MaxBody {
		return Envelope{}, malformed("%s body of %d bytes, at most %d are allowed", body.kind(), len(raw), MaxBody)
	}
	sig, err := kp.Sign(signed(body.kind(), raw))
	if err != nil {
		return Envelope{}, fmt.Errorf("sign %s: %w", body.kind(), err)
	}
	return Envelope{V: Version, Kind: body.kind(), Body: raw, Sig: sig}, nil
}

// bodyOf is a pointer to a body type B.
type bodyOf[B any] interface {
	*B
	Body
}

// Open verifies that key signed e as a statement of B's kind, and only then
// decodes the body. key is the signer's public nkey, known from elsewhere: the
// subject a message came on, an enrolment, a pin.
func Open[B any, P bodyOf[B]](e Envelope, key string) (B, error) {
	var body, none B
	kind := P(&body).kind()
	if err := e.check(); err != nil {
		return none, err
	}
	if e.Kind != kind {
		return none, malformed("an envelope of another kind where %q was expected", kind)
	}
	pub, err := nkeys.FromPublicKey(key)
	if err != nil {
		return none, malformed("not a key")
	}
	if err := pub.Verify(signed(kind, e.Body), e.Sig); err != nil {
		return none, fmt.Errorf("%s: %w", kind, ErrSignature)
	}
	if err := Decode(e.Body, MaxBody, P(&body)); err != nil {
		return none, fmt.Errorf("%s: %w", kind, err)
	}
	if err := P(&body).check(); err != nil {
		return none, fmt.Errorf("%s: %w", kind, err)
	}
	if P(&body).signer() != key {
		return none, fmt.Errorf("%s: %w: the body names another signer", kind, ErrSignature)
	}
	return body, nil
}

// ClaimedSigner is the key that an envelope says signed it, unverified: good
// only for choosing which key to hand to [Open].
func ClaimedSigner(e Envelope) (string, error) {
	if err := e.check(); err != nil {
		return "", err
	}
	if err := checkNames(e.Body); err != nil {
		return "", err
	}
	var b struct {
		Key string `json:"key"`
	}
	if json.Unmarshal(e.Body, &b) != nil {
		return "", malformed("envelope names no signer")
	}
	if CheckConnectKey(b.Key) != nil && CheckSigningKey(b.Key) != nil {
		return "", malformed("envelope names no signer")
	}
	return b.Key, nil
}

// Digest names a request: SHA-256("cfa/v1/request" ‖ 0x00 ‖ raw key ‖ SHA-256(body)).
// It stands wherever a request is meant; the envelope's own bytes never do,
// since they can change without the signature breaking.
type Digest [32]byte

// DigestOf is the digest of the request in e, made by key.
func DigestOf(e Envelope, key string) (Digest, error) {
	raw, err := rawKey(key)
	if err != nil {
		return Digest{}, err
	}
	body := sha256.Sum256(e.Body)
	h := sha256.New()
	h.Write([]byte("cfa/v1/request\x00"))
	h.Write(raw)
	h.Write(body[:])
	return Digest(h.Sum(nil)), nil
}

// String is the digest in hex.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText gives 64 lower-case hex characters.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText takes exactly 64 lower-case hex characters.
func (d *Digest) UnmarshalText(text []byte) error {
	out, err := hex.DecodeString(string(text))
	if err != nil || len(out) != len(d) || hex.EncodeToString(out) != string(text) {
		return malformed("not a digest")
	}
	copy(d[:], out)
	return nil
}

// Sealed is an answer sealed to a job's HPKE key (RFC 9180): it travels beside
// the signed answer, which holds only its hash, so that no record keeps it.
type Sealed struct {
	Enc        Bytes `json:"enc"` // encapsulated key, 32 bytes
	Ciphertext Bytes `json:"ct"`
}

// MaxSealed bounds a ciphertext: the padded plaintext and AEAD tag.
const MaxSealed = 4096

// Hash is SHA-256(enc ‖ ciphertext), what the responder signs and the relay records.
func (s Sealed) Hash() Digest {
	h := sha256.New()
	h.Write(s.Enc)
	h.Write(s.Ciphertext)
	return Digest(h.Sum(nil))
}

func (s Sealed) check() error {
	if len(s.Enc) != 32 || len(s.Ciphertext) < 16 || len(s.Ciphertext) > MaxSealed {
		return malformed("not a sealed answer")
	}
	return nil
}
