package receipt

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/wire"
)

func fixedKey(prefix nkeys.PrefixByte, fill byte) nkeys.KeyPair {
	kp, err := nkeys.FromRawSeed(prefix, bytes.Repeat([]byte{fill}, ed25519.SeedSize))
	if err != nil {
		panic(err)
	}
	return kp
}

var (
	jobKey = fixedKey(nkeys.PrefixByteUser, 1)
	ada    = fixedKey(nkeys.PrefixByteAccount, 4)
	ben    = fixedKey(nkeys.PrefixByteAccount, 5)
	eve    = fixedKey(nkeys.PrefixByteAccount, 6)
)

const at = 1_795_000_600

// request is an approval, with its digest.
func request(t testing.TB, change func(*wire.Request)) (wire.Request, wire.Digest) {
	t.Helper()
	r := wire.Request{
		Key: wire.PublicKey(jobKey), Relay: "relay.example.com", Project: "widgets", Ask: wire.AskApproval, Service: "npm", Format: "any",
		Message: "publish <1.4.0> & \"go\"\non", Made: at - 600, Deadline: at + 1200, HPKE: bytes.Repeat([]byte{9}, 32),
		Responders: []string{wire.PublicKey(ada), wire.PublicKey(ben)},
		Proof:      wire.Proof{"iss": "https://token.example.com", "repository_id": "1234", "workflow_ref": "acme/widgets/.github/workflows/release.yml@refs/tags/v1.4.0"},
		Artifacts: []wire.Artifact{
			{Name: "acme-widgets-1.4.0.tgz", SHA256: wire.Digest{8}, Size: 48_211, Package: "@acme/widgets", Version: "1.4.0", Stage: "2b1e6d0c-9c0f-4f0a-8f60-3a1d5e0f7a11"},
			{Name: "SHA256SUMS", SHA256: wire.Digest{9}},
		},
	}
	if change != nil {
		change(&r)
	}
	env, err := wire.Sign(&r, jobKey)
	if err != nil {
		t.Fatal(err)
	}
	d, err := wire.DigestOf(env, r.Key)
	if err != nil {
		t.Fatal(err)
	}
	return r, d
}

// signed is one receipt as it is written.
func signed(t testing.TB, kp nkeys.KeyPair, attempt int, change func(*wire.Request)) []byte {
	t.Helper()
	r, d := request(t, change)
	s, err := Statement(r, d, attempt, at, wire.PublicKey(kp))
	if err != nil {
		t.Fatal(err)
	}
	sig, err := Sign(s, kp)
	if err != nil {
		t.Fatal(err)
	}
	return Encode(s, sig, wire.PublicKey(kp))
}

func two(r *wire.Request) { r.Approvals = 2 }

func TestTheEncodingThatIsSignedIsDSSEs(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ kind, payload, want string }{
		{"http://example.com/HelloWorld", "hello world", "DSSEv1 29 http://example.com/HelloWorld 11 hello world"}, // the specification's
		{"", "", "DSSEv1 0  0 "},
		{"a b", "\x00 é", "DSSEv1 3 a b 4 \x00 é"}, // lengths are bytes
	} {
		if got := string(PAE(tc.kind, []byte(tc.payload))); got != tc.want {
			t.Errorf("%q, %q: %q, want %q", tc.kind, tc.payload, got, tc.want)
		}
	}
}

// What another implementation of in-toto and DSSE sees: read with the standard
// library alone.
func TestAReceiptIsWhatOtherToolsRead(t *testing.T) {
	t.Parallel()
	var e struct {
		PayloadType, Payload string
		Signatures           []struct{ KeyID, Sig string }
	}
	if err := json.Unmarshal(signed(t, ada, 1, nil), &e); err != nil {
		t.Fatal(err)
	}
	payload, err := base64.StdEncoding.DecodeString(e.Payload)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := base64.StdEncoding.DecodeString(e.Signatures[0].Sig)
	if err != nil {
		t.Fatal(err)
	}
	public := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{4}, 32)).Public().(ed25519.PublicKey)
	if e.PayloadType != "application/vnd.in-toto+json" || !ed25519.Verify(public, append([]byte("DSSEv1 28 application/vnd.in-toto+json "+itoa(len(payload))+" "), payload...), sig) {
		t.Fatalf("%+v does not verify", e)
	}
	want := `{"_type":"https://in-toto.io/Statement/v1","subject":[` +
		`{"name":"acme-widgets-1.4.0.tgz","digest":{"sha256":"08` + strings.Repeat("0", 62) + `"}},` +
		`{"name":"SHA256SUMS","digest":{"sha256":"09` + strings.Repeat("0", 62) + `"}}],` +
		`"predicateType":"https://github.com/continuousauth/action/blob/main/PROTOCOL.md#receipt-v1","predicate":{` +
		`"responder":"` + wire.PublicKey(ada) + `","at":"2026-11-18T11:16:40Z","relay":"relay.example.com","project":"widgets","service":"npm",` +
		`"message":"publish <1.4.0> & \"go\"\non","artifacts":[` +
		`{"name":"acme-widgets-1.4.0.tgz","sha256":"08` + strings.Repeat("0", 62) + `","size":48211,"package":"@acme/widgets","version":"1.4.0","stage":"2b1e6d0c-9c0f-4f0a-8f60-3a1d5e0f7a11"},` +
		`{"name":"SHA256SUMS","sha256":"09` + strings.Repeat("0", 62) + `","size":0}],` +
		`"job":{"iss":"https://token.example.com","repository_id":"1234","workflow_ref":"acme/widgets/.github/workflows/release.yml@refs/tags/v1.4.0"},` +
		`"key":"` + wire.PublicKey(jobKey) + `","digest":"`
	if !strings.HasPrefix(string(payload), want) || !strings.HasSuffix(string(payload), `","attempt":1,"approvals":1}}`) {
		t.Errorf("the statement is\n%s\nwant\n%s", payload, want)
	}
}

func itoa(n int) string { b, _ := json.Marshal(n); return string(b) }

// The job builds what the responder built, though it holds the request and the
// responder what it decoded.
func TestBothEndsMakeTheSameStatement(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*wire.Request){
		"artifacts": nil, "a message alone": func(r *wire.Request) { r.Artifacts = nil }, "no message": func(r *wire.Request) { r.Message = "" }, "two people": two,
		"a list of none": func(r *wire.Request) { r.Artifacts = []wire.Artifact{} },
	} {
		asked, d := request(t, change)
		env, err := wire.Sign(&asked, jobKey)
		if err != nil {
			t.Fatal(err)
		}
		read, err := wire.Open[wire.Request](env, asked.Key)
		if err != nil {
			t.Fatal(err)
		}
		a, err1 := Statement(asked, d, 1, at, wire.PublicKey(ada))
		b, err2 := Statement(read, d, 1, at, wire.PublicKey(ada))
		if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
			t.Errorf("%s: %v %v\n%s\n%s", name, err1, err2, a, b)
		}
		sig, err := Sign(a, ada)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Read(Encode(a, sig, wire.PublicKey(ada))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnApprovalWithoutFilesIsOfItsRequest(t *testing.T) {
	t.Parallel()
	_, d := request(t, func(r *wire.Request) { r.Artifacts = nil })
	list, err := Read(signed(t, ada, 1, func(r *wire.Request) { r.Artifacts = nil }))
	if err != nil {
		t.Fatal(err)
	}
	if s := list[0].Subject; len(s) != 1 || s[0].Name != RequestSubject || s[0].Digest.SHA256 != d {
		t.Errorf("%+v", s)
	}
}

func TestNoStatementOfWhatIsNoApproval(t *testing.T) {
	t.Parallel()
	r, d := request(t, nil)
	code := r
	code.Ask = wire.AskCode
	for name, make := range map[string]func() ([]byte, error){
		"a code":           func() ([]byte, error) { return Statement(code, d, 1, at, wire.PublicKey(ada)) },
		"attempt 0":        func() ([]byte, error) { return Statement(r, d, 0, at, wire.PublicKey(ada)) },
		"no time":          func() ([]byte, error) { return Statement(r, d, 1, 0, wire.PublicKey(ada)) },
		"the year 10000":   func() ([]byte, error) { return Statement(r, d, 1, latest+1, wire.PublicKey(ada)) },
		"a connecting key": func() ([]byte, error) { return Statement(r, d, 1, at, wire.PublicKey(jobKey)) },
	} {
		if s, err := make(); err == nil {
			t.Errorf("%s: %s", name, s)
		}
	}
	if _, err := Sign([]byte("{}"), jobKey); err == nil {
		t.Error("a connecting key signs receipts")
	}
}

// Each byte counts: whatever is changed in a receipt, it is refused.
func TestAChangedReceiptIsRefused(t *testing.T) {
	t.Parallel()
	good := signed(t, ada, 1, nil)
	if _, err := Read(good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for _, b := range []byte{good[i] ^ 1, good[i] ^ 0x20, ' '} {
			if b == good[i] {
				continue
			}
			changed := bytes.Clone(good)
			changed[i] = b
			if _, err := Read(changed); err == nil {
				t.Fatalf("byte %d can be changed from %q to %q", i, good[i], b)
			}
		}
	}
	for name, data := range map[string][]byte{
		"nothing":        nil,
		"blank lines":    []byte("\n\n"),
		"an array":       []byte("[]"),
		"cut":            good[:len(good)-2],
		"more behind it": append(bytes.Clone(good), "{}"...),
		"three":          bytes.Repeat(append(bytes.Clone(good), '\n'), 3),
		"a flood":        bytes.Repeat([]byte{' '}, MaxReceipts*(MaxLine+2)+1),
		"spaces":         bytes.Replace(good, []byte(`,"payload"`), []byte(`, "payload"`), 1),
		"another order":  []byte(`{"payload":"e30=","payloadType":"` + PayloadType + `","signatures":[]}`),
		"a second name":  bytes.Replace(good, []byte(`{"payloadType"`), []byte(`{"payload":"e30=","payloadType"`), 1),
	} {
		if _, err := Read(data); err == nil {
			t.Errorf("%s is read", name)
		}
	}
}

// A key may sign anything; what is no statement of an approval is no receipt.
func TestASignedLieIsNoReceipt(t *testing.T) {
	t.Parallel()
	r, d := request(t, nil)
	honest, err := Statement(r, d, 1, at, wire.PublicKey(ada))
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(string) string{
		"another subject": func(s string) string { return strings.Replace(s, `[{"name":"acme`, `[{"name":"evil`, 1) },
		"another digest":  func(s string) string { return strings.Replace(s, `{"sha256":"08`, `{"sha256":"07`, 1) },
		"a subject less": func(s string) string {
			return s[:strings.Index(s, `,{"name":"SHA`)] + s[strings.Index(s, `],"predicateType`):]
		},
		"another signer's name": func(s string) string { return strings.Replace(s, wire.PublicKey(ada), wire.PublicKey(ben), 1) },
		"another predicate":     func(s string) string { return strings.Replace(s, "receipt-v1", "receipt-v2", 1) },
		"another type":          func(s string) string { return strings.Replace(s, "Statement/v1", "Statement/v2", 1) },
		"no time":               func(s string) string { return strings.Replace(s, "2026-11-18T11:16:40Z", "", 1) },
		"a time with a zone":    func(s string) string { return strings.Replace(s, "11:16:40Z", "12:16:40+01:00", 1) },
		"no people":             func(s string) string { return strings.Replace(s, `"approvals":1`, `"approvals":0`, 1) },
		"attempt 0":             func(s string) string { return strings.Replace(s, `"attempt":1`, `"attempt":0`, 1) },
		"null for a list": func(s string) string {
			i := strings.Index(s, `"artifacts":[`)
			return s[:i] + `"artifacts":null` + s[strings.Index(s, `,"job"`):]
		},
		"an unknown field":   func(s string) string { return strings.Replace(s, `"attempt":1`, `"attempt":1,"x":1`, 1) },
		"spaces":             func(s string) string { return strings.Replace(s, `"attempt":1`, `"attempt": 1`, 1) },
		"a name in capitals": func(s string) string { return strings.Replace(s, `"attempt":1`, `"Attempt":1`, 1) },
		"text":               func(string) string { return "yes" },
	} {
		lie := []byte(change(string(honest)))
		if bytes.Equal(lie, honest) {
			t.Errorf("%s: nothing was changed", name)
		}
		sig, err := Sign(lie, ada)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Read(Encode(lie, sig, wire.PublicKey(ada))); !errors.Is(err, ErrForm) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Another's signature, and another's name on the envelope.
	sig, err := Sign(honest, eve)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read(Encode(honest, sig, wire.PublicKey(ada))); !errors.Is(err, ErrSignature) {
		t.Errorf("eve signs for ada: %v", err)
	}
	if _, err := Read(Encode(honest, sig, wire.PublicKey(eve))); !errors.Is(err, ErrForm) {
		t.Errorf("eve signs a statement of ada's: %v", err)
	}
	// An envelope's signature is over something else than a receipt's.
	env, err := wire.Sign(&wire.Answer{Key: wire.PublicKey(ada), Digest: d, Attempt: 1, Ask: wire.AskApproval, Decision: wire.DecisionYes, At: at, Receipt: sig}, ada)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Read(Encode(env.Body, env.Sig, wire.PublicKey(ada))); !errors.Is(err, ErrSignature) {
		t.Errorf("an answer passes as a receipt: %v", err)
	}
}

func lines(receipts ...[]byte) []byte { return append(bytes.Join(receipts, []byte("\n")), '\n') }

func TestCheckHoldsReceiptsAgainstKeysAndFiles(t *testing.T) {
	t.Parallel()
	adas, bens := wire.PublicKey(ada), wire.PublicKey(ben)
	both := []string{adas, bens}
	file := File{Name: "acme-widgets-1.4.0.tgz", SHA256: wire.Digest{8}, Size: 48_211}
	renamed := File{Name: "x.tgz", SHA256: wire.Digest{8}, Size: 48_211}
	other := File{Name: "acme-widgets-1.4.0.tgz", SHA256: wire.Digest{7}, Size: 48_211}
	alone := func(r *wire.Request) { r.Artifacts = nil }
	for _, tc := range []struct {
		name   string
		data   []byte
		pinned []string
		files  []File
		want   string // "": approved
	}{
		{"a pinned key", lines(signed(t, ada, 1, nil)), []string{adas}, nil, ""},
		{"a file that was approved", lines(signed(t, ada, 1, nil)), both, []File{file, {Name: "SHA256SUMS", SHA256: wire.Digest{9}}}, ""},
		{"under another name", lines(signed(t, ada, 1, nil)), both, []File{renamed}, ""},
		{"no pinned key", lines(signed(t, ada, 1, nil)), nil, nil, "no key"},
		{"another key", lines(signed(t, ada, 1, nil)), []string{bens}, nil, "not among the keys"},
		{"another file", lines(signed(t, ada, 1, nil)), both, []File{file, other}, "another file than"},
		{"a strange file", lines(signed(t, ada, 1, nil)), both, []File{{Name: "y", SHA256: wire.Digest{1}}}, "none of the files"},
		{"a digest of another size", lines(signed(t, ada, 1, nil)), both, []File{{Name: "y", SHA256: wire.Digest{8}, Size: 1}}, "none of the files"},
		{"a file, and a message was approved", lines(signed(t, ada, 1, alone)), both, []File{file}, "names no file"},
		{"two people", lines(signed(t, ada, 1, two), signed(t, ben, 2, two)), both, []File{file}, ""},
		{"one of two people", lines(signed(t, ada, 1, two)), both, nil, "needed 2 people"},
		{"one person twice", lines(signed(t, ada, 1, two), signed(t, ada, 2, two)), both, nil, "approved twice"},
		{"a second of another request", lines(signed(t, ada, 1, two), signed(t, ben, 2, func(r *wire.Request) { two(r); r.Message = "x" })), both, nil, "two requests"},
		{"a second who is not pinned", lines(signed(t, ada, 1, two), signed(t, eve, 2, two)), both, nil, "not among the keys"},
	} {
		list, err := Read(tc.data)
		if err != nil {
			t.Errorf("%s: %v", tc.name, err)
			continue
		}
		err = Check(list, tc.pinned, tc.files)
		if tc.want == "" && err != nil || tc.want != "" && (!errors.Is(err, ErrNotApproved) || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
	// Whoever builds a Receipt by hand is not believed either.
	list, err := Read(signed(t, ada, 1, nil))
	if err != nil {
		t.Fatal(err)
	}
	list[0].Sig = bytes.Clone(list[0].Sig)
	list[0].Sig[3] ^= 1
	if err := Check(list, both, nil); !errors.Is(err, ErrSignature) {
		t.Errorf("%v", err)
	}
}

func TestHashIsOfTheFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a.tgz")
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Hash(path)
	if err != nil || f.Name != "a.tgz" || f.Size != 3 || f.SHA256.String() != "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := Hash(filepath.Dir(path)); err == nil {
		t.Error("a folder has a digest")
	}
}

// The largest request that can be signed makes a statement that can be read.
func TestTheLargestApprovalFits(t *testing.T) {
	t.Parallel()
	big := func(r *wire.Request) {
		r.Message, r.Artifacts = strings.Repeat("m", wire.MaxText), nil
		for i := range wire.MaxArtifacts {
			r.Artifacts = append(r.Artifacts, wire.Artifact{Name: strings.Repeat("n", 150) + itoa(i), SHA256: wire.Digest{byte(i + 1)}})
		}
	}
	r, _ := request(t, big)
	raw, err := json.Marshal(r)
	if err != nil || len(raw) < wire.MaxBody*8/10 {
		t.Fatalf("%d bytes, %v", len(raw), err)
	}
	if _, err := Read(signed(t, ada, 1, big)); err != nil {
		t.Error(err)
	}
}

// FuzzRead: what is read, written again, is the same bytes and reads the same.
func FuzzRead(f *testing.F) {
	good := signed(f, ada, 1, nil)
	for _, s := range [][]byte{
		good, lines(signed(f, ada, 1, two), signed(f, ben, 2, two)), signed(f, eve, 3, func(r *wire.Request) { r.Artifacts = nil }),
		succeeded(f, eve, ada, 1, nil),
		nil, []byte("{}"), []byte(`{"payloadType":"application/vnd.in-toto+json","payload":"e30=","signatures":[{"keyid":"","sig":""}]}`), good[:len(good)/2],
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := Read(data)
		if err != nil {
			return
		}
		var out [][]byte
		for _, r := range list {
			out = append(out, Encode(r.Statement, r.Sig, r.Predicate.Responder, r.Chain...))
		}
		written := lines(out...)
		if strings.TrimSpace(string(written)) != strings.Join(strings.Fields(string(data)), "\n") {
			t.Fatalf("%q became %q", data, written)
		}
		again, err := Read(written)
		if err != nil || !reflect.DeepEqual(list, again) {
			t.Fatalf("%v\n%+v\n%+v", err, list, again)
		}
	})
}

// FuzzContent is FuzzRead without the signature, which a fuzzer cannot make.
func FuzzContent(f *testing.F) {
	r, d := request(f, nil)
	s, err := Statement(r, d, 1, at, wire.PublicKey(ada))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s)
	f.Add([]byte(`{"_type":"x"}`))
	f.Add(bytes.Replace(s, []byte(`"attempt":1`), []byte(`"attempt":1,"attempt":1`), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		var c Content
		if decode(data, &c) != nil || c.sound(c.Predicate.Responder) != nil {
			return
		}
		again, err := encode(c)
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%v: %s became %s", err, data, again)
		}
		if !reflect.DeepEqual(c.Subject, c.subjects()) {
			t.Fatalf("the subjects of %s are not what was approved", data)
		}
	})
}
