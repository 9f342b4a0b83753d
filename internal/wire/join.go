package wire

// Enrolment: an invitation, what somebody who holds it says to the relay, and
// the fingerprint that two people compare.
//
// The rule it keeps: a newcomer proves three keys at once. The invitation's, a
// key of one use, says that it was invited; the two of its own, that it has
// them, so that nobody is enrolled under keys that are another's. All three sign
// the same bytes, which name all three, so that no signature can be taken out
// and put beside another's. And none of that enrols: the link may have been read
// on its way, so a person compares the fingerprint first.

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nkeys"
)

// Join says that its signer wants to be enrolled by an invitation. Its signer is
// the responder's signing key.
type Join struct {
	Key        string `json:"key"`        // the responder's signing key, A…
	Connect    string `json:"connect"`    // its connecting key, U…
	Invitation string `json:"invitation"` // the invitation's key, U…
	Relay      string `json:"relay"`      // the relay that it is said to
	At         int64  `json:"at"`
}

func (*Join) kind() Kind       { return KindJoin }
func (b *Join) signer() string { return b.Key }

func (b *Join) check() error {
	if err := CheckSigningKey(b.Key); err != nil {
		return err
	}
	if err := CheckConnectKey(b.Connect); err != nil {
		return err
	}
	if err := CheckConnectKey(b.Invitation); err != nil {
		return err
	}
	if b.Connect == b.Invitation {
		return malformed("the invitation's key is no connecting key of a responder")
	}
	if b.At <= 0 {
		return malformed("a join without its time")
	}
	return CheckRelayName(b.Relay)
}

// JoinMessage goes to the `join` subject of an invitation's key. The two
// signatures beside the envelope are over the same bytes as its own.
type JoinMessage struct {
	Join       Envelope `json:"join"`
	Connect    Bytes    `json:"connect"`    // by the connecting key that the body names
	Invitation Bytes    `json:"invitation"` // by the invitation's key
	// Of a key that succeeds others: how. On a relay's record it goes on to the key
	// that counts now.
	Chain []Succession `json:"chain,omitempty"`
}

// Speaks says whether who has joined with joined speaks with key now: it is the same
// key, or one of a chain with it that ends with key.
func (m JoinMessage) Speaks(joined, key string) error {
	if len(m.Chain) == 0 {
		if joined != key {
			return malformed("another key has joined, and none vouches for this one")
		}
		return nil
	}
	keys, err := OpenChain(m.Chain)
	if err != nil {
		return err
	}
	if keys[len(keys)-1] != key || !slices.Contains(keys, joined) {
		return malformed("a chain that is of other keys")
	}
	return nil
}

// SignJoin is what a newcomer with these keys says to the relay of that name.
func SignJoin(sign, connect, invitation nkeys.KeyPair, relay string, now time.Time) (JoinMessage, error) {
	e, err := Sign(&Join{Key: PublicKey(sign), Connect: PublicKey(connect), Invitation: PublicKey(invitation), Relay: relay, At: now.Unix()}, sign)
	if err != nil {
		return JoinMessage{}, err
	}
	m := JoinMessage{Join: e}
	for kp, to := range map[nkeys.KeyPair]*Bytes{connect: &m.Connect, invitation: &m.Invitation} {
		sig, err := kp.Sign(signed(KindJoin, e.Body))
		if err != nil {
			return JoinMessage{}, fmt.Errorf("sign %s: %w", KindJoin, err)
		}
		*to = sig
	}
	return m, nil
}

// OpenJoin verifies that the keys which m names have all signed it, and that one
// of them is this invitation's.
func OpenJoin(m JoinMessage, invitation string) (Join, error) {
	// It is nobody's key yet: that its holder has it is what is shown.
	key, err := ClaimedSigner(m.Join)
	if err != nil {
		return Join{}, err
	}
	b, err := Open[Join](m.Join, key)
	if err != nil {
		return Join{}, err
	}
	if b.Invitation != invitation {
		return Join{}, fmt.Errorf("%s: %w: it is by another invitation", KindJoin, ErrSignature)
	}
	for _, by := range []struct {
		whose, key string
		sig        Bytes
	}{{"connecting key", b.Connect, m.Connect}, {"invitation", invitation, m.Invitation}} {
		pub, err := nkeys.FromPublicKey(by.key)
		if err != nil {
			return Join{}, malformed("not a key")
		}
		if pub.Verify(signed(KindJoin, m.Join.Body), by.sig) != nil {
			return Join{}, fmt.Errorf("%s: %w: not signed by the %s that it names", KindJoin, ErrSignature, by.whose)
		}
	}
	return b, nil
}

// ClaimedInvitation is the invitation that m says it is by, unverified: good only
// for [OpenJoin], which verifies it.
func ClaimedInvitation(m JoinMessage) (string, error) {
	if _, err := ClaimedSigner(m.Join); err != nil {
		return "", err
	}
	var b Join
	if err := Decode(m.Join.Body, MaxBody, &b); err != nil {
		return "", err
	}
	return b.Invitation, b.check()
}

// How an invitation stands, in [Joined].
const (
	JoinedWaiting  = "waiting"  // for an administrator, who compares the fingerprint
	JoinedEnrolled = "enrolled" // it may connect with its own key
)

// Joined is the relay's word for what became of a join.
type Joined struct {
	State   string `json:"state"`
	Project string `json:"project"`
	Name    string `json:"name"` // as the relay calls this responder
}

// fingerprintLength is in characters of five bits: 80 bits, which nobody finds a
// second pair of keys for.
const fingerprintLength = 16

const crockford = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// Fingerprint is what two people compare of a responder's two keys: 80 bits of
// SHA-256("cfa/v1/fingerprint" ‖ 0x00 ‖ signing key ‖ connecting key), in groups of four.
func Fingerprint(sign, connect string) string {
	sum := sha256.Sum256([]byte("cfa/v1/fingerprint\x00" + sign + connect))
	var b strings.Builder
	for i := range fingerprintLength {
		if i > 0 && i%4 == 0 {
			b.WriteByte('-')
		}
		v := 0
		for bit := range 5 {
			n := 5*i + bit
			v = v<<1 | int(sum[n/8]>>(7-n%8))&1
		}
		b.WriteByte(crockford[v])
	}
	return b.String()
}

// SameFingerprint says whether typed is that fingerprint, as people type: without
// case, dashes and spaces, and with O for 0, I and L for 1.
func SameFingerprint(typed, fingerprint string) bool {
	plain := strings.NewReplacer("-", "", " ", "", "O", "0", "I", "1", "L", "1")
	return plain.Replace(strings.ToUpper(typed)) == plain.Replace(fingerprint)
}

// Invitation is what a link holds. Its secret is all that there is of it: the
// relay keeps the public half.
type Invitation struct {
	V       int    `json:"v"`
	Secret  string `json:"secret"` // seed of the invitation's key, SU…
	URL     string `json:"url"`    // how the relay is reached
	Relay   string `json:"relay"`  // its name
	TLSName string `json:"tls,omitempty"`
	// Cert is the hash of a certificate that the relay shows, SHA-256 in hex, where
	// no authority vouches for it that all systems know.
	Cert    string `json:"cert,omitempty"`
	Project string `json:"project"`
	Name    string `json:"name"`  // as the relay will call the responder
	Until   int64  `json:"until"` // Unix seconds
	// Pins is a pins file in YAML: what the relay's administrator says stands behind
	// the project. It is a proposal, which the responder's human confirms.
	Pins string `json:"pins"`
}

const (
	// LinkScheme begins a link.
	LinkScheme = "cfa-join:"
	// MaxInvitation bounds a link, in bytes: what can be pasted into a terminal's line.
	MaxInvitation = 3 << 10
	// LongestInvitation is how long an invitation may be good for.
	LongestInvitation = 7 * 24 * time.Hour
)

func (i *Invitation) check() error {
	if i.V != Version {
		return fmt.Errorf("%w %d: this program speaks version %d; upgrade the older of the two sides", ErrVersion, i.V, Version)
	}
	if _, err := i.Key(); err != nil {
		return err
	}
	if err := CheckRelayName(i.Relay); err != nil {
		return err
	}
	if i.TLSName != "" {
		if err := CheckRelayName(i.TLSName); err != nil {
			return err
		}
	}
	if err := CheckProject(i.Project); err != nil {
		return err
	}
	if i.Name == "" || len(i.Name) > 64 || CleanName(i.Name, 64) != i.Name {
		return malformed("a name that could deceive a reader, or none")
	}
	if i.URL == "" || len(i.URL) > 512 || CleanName(i.URL, 512) != i.URL {
		return malformed("no address of a relay")
	}
	if sum, err := hex.DecodeString(i.Cert); i.Cert != "" && (err != nil || len(sum) != sha256.Size || hex.EncodeToString(sum) != i.Cert) {
		return malformed("not a certificate's hash")
	}
	if i.Until <= 0 || i.Until > maxSize/1000 {
		return malformed("an invitation that does not say until when it is good")
	}
	return nil
}

// Key is the invitation's key.
func (i *Invitation) Key() (nkeys.KeyPair, error) {
	kp, err := nkeys.FromSeed([]byte(i.Secret))
	if err != nil {
		return nil, malformed("an invitation without its secret") // never the library's words: they could quote it
	}
	if pub, err := kp.PublicKey(); err != nil || CheckConnectKey(pub) != nil {
		return nil, malformed("an invitation without its secret")
	}
	return kp, nil
}

// Link is the invitation as it is handed over.
func (i *Invitation) Link() (string, error) {
	if err := i.check(); err != nil {
		return "", err
	}
	data, err := json.Marshal(i)
	if err != nil {
		return "", err
	}
	link := LinkScheme + base64.RawURLEncoding.EncodeToString(data)
	if len(link) > MaxInvitation {
		return "", malformed("a link of %d bytes, at most %d are allowed", len(link), MaxInvitation)
	}
	return link, nil
}

// ParseLink reads a link as a person pastes it: white space is the terminal's, or
// a mail program's.
func ParseLink(s string) (Invitation, error) {
	if len(s) > 2*MaxInvitation {
		return Invitation{}, malformed("no invitation: it is too long")
	}
	s = strings.Join(strings.Fields(s), "")
	rest, ok := strings.CutPrefix(s, LinkScheme)
	if !ok {
		return Invitation{}, malformed("no invitation: it begins with %s", LinkScheme)
	}
	if len(s) > MaxInvitation {
		return Invitation{}, malformed("no invitation: it is too long")
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if err != nil {
		return Invitation{}, malformed("a part of the invitation is missing, or was changed on its way; copy the whole of it")
	}
	var i Invitation
	if err := Decode(data, MaxInvitation, &i); err != nil {
		return Invitation{}, err
	}
	return i, i.check()
}
