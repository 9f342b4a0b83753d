package wire

// What the tests of this package share: fixed keys, one valid body of each kind,
// and a way to sign bytes that Sign would refuse to make.

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
)

// planted stands in for a code in input that must be refused: no error may say it.
const planted = "planted-one-time-code-915624"

// fixedKey is the key pair whose ed25519 seed is 32 times fill.
func fixedKey(prefix nkeys.PrefixByte, fill byte) nkeys.KeyPair {
	kp, err := nkeys.FromRawSeed(prefix, bytes.Repeat([]byte{fill}, ed25519.SeedSize))
	if err != nil {
		panic(err)
	}
	return kp
}

var (
	jobKey     = fixedKey(nkeys.PrefixByteUser, 1)
	otherJob   = fixedKey(nkeys.PrefixByteUser, 2)
	connectKey = fixedKey(nkeys.PrefixByteUser, 3)
	signKey    = fixedKey(nkeys.PrefixByteAccount, 4)
	otherSign  = fixedKey(nkeys.PrefixByteAccount, 5)
)

func filled(n int, b byte) Bytes { return bytes.Repeat([]byte{b}, n) }

func validRequest() *Request {
	return &Request{
		Key: PublicKey(jobKey), Relay: "relay.example.com", Project: "widgets", Ask: AskCode, Service: "npm",
		Format: "digits:6", Message: "publish 1.2.3", Made: 1_795_000_000, Deadline: 1_795_001_800,
		HPKE: filled(32, 9), Responders: []string{PublicKey(signKey)}, Approvals: 1, TypeMatch: true,
		Proof: Proof{"iss": "https://token.example.com", "repository_id": "1234"},
	}
}

func validAlive() *Alive {
	return &Alive{Key: PublicKey(jobKey), Digest: Digest{1}, Attempt: 2, Reason: ReasonRejected, Nonce: filled(16, 7),
		Connect: PublicKey(connectKey), Responder: PublicKey(signKey), Link: "https://example.com/login/1"}
}

func validApproval() *Request {
	r := validRequest()
	r.Ask, r.Format = AskApproval, "any"
	r.Artifacts = []Artifact{
		{Name: "acme-widgets-1.2.3.tgz", SHA256: Digest{8}, Size: 48_211, Package: "@acme/widgets", Version: "1.2.3", Stage: "2b1e6d0c-9c0f-4f0a-8f60-3a1d5e0f7a11"},
		{Name: "SHA256SUMS", SHA256: Digest{9}},
	}
	return r
}

func validYes() *Answer {
	return &Answer{Key: PublicKey(signKey), Digest: Digest{1}, Attempt: 1, Ask: AskApproval, Decision: DecisionYes, At: 1_795_000_600, Receipt: filled(64, 3)}
}

// kindCase is one kind with a body that is good, its signer, and how to open it.
type kindCase struct {
	kind  Kind
	kp    nkeys.KeyPair
	body  Body
	open  func(Envelope, string) (Body, error)
	fresh func() Body // an empty one
}

func newCase[B any, P bodyOf[B]](kind Kind, kp nkeys.KeyPair, body P) kindCase {
	open := func(e Envelope, key string) (Body, error) {
		b, err := Open[B, P](e, key)
		if err != nil {
			return nil, err
		}
		return P(&b), nil
	}
	return kindCase{kind, kp, body, open, func() Body { return P(new(B)) }}
}

func everyKind() []kindCase {
	job, sign, connect := PublicKey(jobKey), PublicKey(signKey), PublicKey(connectKey)
	return []kindCase{
		newCase(KindRequest, jobKey, validRequest()),
		newCase(KindAlive, jobKey, validAlive()),
		newCase(KindGot, jobKey, &Got{Key: job, Digest: Digest{1}, Attempt: 1, Sealed: Digest{2}}),
		newCase(KindRejected, jobKey, &Rejected{Key: job, Digest: Digest{1}, Attempt: 1, Why: RejectedUnusable, Shut: sign}),
		newCase(KindNext, jobKey, &Next{Key: job, Digest: Digest{1}, Attempt: 1}),
		newCase(KindDone, jobKey, &Done{Key: job, Digest: Digest{1}, Attempt: 1, Outcome: OutcomeOK}),
		newCase(KindCancel, jobKey, &Cancel{Key: job, Digest: Digest{1}, Why: "interrupted"}),
		newCase(KindChallenge, signKey, &Challenge{Key: sign, Connect: connect, Digest: Digest{1}, Nonce: filled(16, 7)}),
		newCase(KindAnswer, signKey, &Answer{Key: sign, Digest: Digest{1}, Attempt: 1, Ask: AskCode, Decision: DecisionCode, Sealed: Digest{2}}),
		newCase(KindDecline, signKey, &Decline{Key: sign, Digest: Digest{1}, Attempt: 1, Reason: "not today"}),
		newCase(KindAway, signKey, &Away{Key: sign, Relay: "relay.example.com", At: 1_795_000_000_123, Until: 1_795_010_000}),
		newCase(KindSuccessor, signKey, &Successor{Key: sign, Next: PublicKey(otherSign), At: 1_795_000_000}),
		newCase(KindJoin, signKey, &Join{Key: sign, Connect: connect, Invitation: job, Relay: "relay.example.com", At: 1_795_000_000}),
		newCase(KindConnect, jobKey, &Connect{Key: job, Relay: "relay.example.com", At: 1_795_000_000}),
	}
}

func mustSign(t testing.TB, body Body, kp nkeys.KeyPair) Envelope {
	t.Helper()
	e, err := Sign(body, kp)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// signRaw signs bytes as a body of that kind, whatever they are: what a hostile
// signer can do.
func signRaw(t testing.TB, kind Kind, body []byte, kp nkeys.KeyPair) Envelope {
	t.Helper()
	sig, err := kp.Sign(signed(kind, body))
	if err != nil {
		t.Fatal(err)
	}
	return Envelope{V: Version, Kind: kind, Body: body, Sig: sig}
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// seed adds each seed to a fuzz target's corpus. An empty corpus fails: a fuzz
// target without seeds runs nothing under `go test`, and shows green.
func seed[S any](f *testing.F, add func(S), seeds []S) {
	f.Helper()
	if len(seeds) == 0 {
		f.Fatal("the seed corpus is empty")
	}
	for _, s := range seeds {
		add(s)
	}
}

func refused(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil {
		t.Fatalf("accepted; want an error that says %q", want)
	}
	if !strings.Contains(err.Error(), want) {
		t.Fatalf("error %q does not say %q", err, want)
	}
	if strings.Contains(err.Error(), planted) {
		t.Fatalf("error %q holds the input", err)
	}
}

// TestTheKindsTestedAreAllThereAre keeps everyKind complete, since the tests that
// loop over it would pass with one forgotten.
func TestTheKindsTestedAreAllThereAre(t *testing.T) {
	t.Parallel()
	all := []Kind{KindRequest, KindAlive, KindGot, KindRejected, KindNext, KindDone, KindCancel, KindChallenge, KindAnswer, KindDecline, KindAway, KindSuccessor, KindJoin, KindConnect}
	var tested []Kind
	for _, c := range everyKind() {
		if c.body.kind() != c.kind {
			t.Errorf("the body for %s is of kind %s", c.kind, c.body.kind())
		}
		tested = append(tested, c.kind)
	}
	if !slices.Equal(all, tested) {
		t.Errorf("tested %v, there are %v", tested, all)
	}
}
