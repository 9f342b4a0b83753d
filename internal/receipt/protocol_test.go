package receipt

// Holds section 4.5 of PROTOCOL.md to the code: its example is made of the keys
// and of the request that it describes, byte for byte.

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/wire"
)

func TestTheReceiptInPROTOCOLIsExact(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(data), "\n### 4.5 ")
	if !ok {
		t.Fatal("PROTOCOL.md has no section 4.5")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var blocks []string
	for _, m := range regexp.MustCompile("(?ms)^```json\n(.*?)\n```$").FindAllStringSubmatch(section, -1) {
		blocks = append(blocks, m[1])
	}
	if len(blocks) != 2 {
		t.Fatalf("section 4.5 has %d blocks, not a statement and a receipt", len(blocks))
	}
	job, sign := fixedKey(nkeys.PrefixByteUser, 0x11), fixedKey(nkeys.PrefixByteAccount, 0x33) // those of section 13
	q := wire.Request{
		Key: wire.PublicKey(job), Relay: "relay.example.com", Project: "widgets", Ask: wire.AskApproval, Service: "npm", Format: "any",
		Message: "publish @acme/widgets 1.4.0", Made: 1_795_000_000, Deadline: 1_795_001_800, HPKE: bytes.Repeat([]byte{9}, 32),
		Responders: []string{wire.PublicKey(sign)}, Proof: wire.Proof{"iss": "https://token.actions.githubusercontent.com", "repository_id": "812345678", "run_id": "19876543210"},
		Artifacts: []wire.Artifact{{Name: "acme-widgets-1.4.0.tgz", SHA256: wire.Digest(bytes.Repeat([]byte{0x77}, 32)), Size: 48_211, Package: "@acme/widgets", Version: "1.4.0"}},
	}
	env, err := wire.Sign(&q, job)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := wire.DigestOf(env, q.Key)
	if err != nil {
		t.Fatal(err)
	}
	statement, err := Statement(q, digest, 1, 1_795_000_600, wire.PublicKey(sign))
	if err != nil {
		t.Fatal(err)
	}
	if blocks[0] != string(statement) {
		t.Errorf("the statement is\n%s", statement)
	}
	// With the standard library, as another implementation would.
	private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0x33}, ed25519.SeedSize))
	sig := ed25519.Sign(private, append([]byte("DSSEv1 28 application/vnd.in-toto+json "+itoa(len(statement))+" "), statement...))
	want := `{"payloadType":"application/vnd.in-toto+json","payload":"` + base64.StdEncoding.EncodeToString(statement) +
		`","signatures":[{"keyid":"` + wire.PublicKey(sign) + `","sig":"` + base64.StdEncoding.EncodeToString(sig) + `"}]}`
	if blocks[1] != want {
		t.Errorf("the receipt is\n%s", want)
	}
	list, err := Read([]byte(blocks[1]))
	if err != nil {
		t.Fatal(err)
	}
	if err := Check(list, []string{wire.PublicKey(sign)}, []File{{Name: "x", SHA256: q.Artifacts[0].SHA256, Size: q.Artifacts[0].Size}}); err != nil {
		t.Error(err)
	}
	// Each field of a statement is described.
	for _, field := range []string{"_type", "subject", "predicateType", "predicate", "responder", "at", "relay", "project", "service", "message", "artifacts", "job", "key", "digest", "attempt", "approvals"} {
		if !strings.Contains(section, "`"+field+"`") {
			t.Errorf("the field %s is not described", field)
		}
	}
}
