package wire

// The bodies' fields and the unsigned messages around them.

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/nats-io/nkeys"
)

// TestABodyOutOfRangeIsNeitherSignedNorOpened: the signer's check saves its user a
// riddle, the opener's check is the one that protects.
func TestABodyOutOfRangeIsNeitherSignedNorOpened(t *testing.T) {
	t.Parallel()
	job, connect, sign := PublicKey(jobKey), PublicKey(connectKey), PublicKey(signKey)
	request := func(change func(*Request)) *Request { r := validRequest(); change(r); return r }
	alive := func(change func(*Alive)) *Alive { a := validAlive(); change(a); return a }
	approval := func(change func(*Request)) *Request { r := validApproval(); change(r); return r }
	artifact := func(change func(*Artifact)) *Request { r := validApproval(); change(&r.Artifacts[0]); return r }
	yes := func(change func(*Answer)) *Answer { a := validYes(); change(a); return a }
	long := strings.Repeat("x", MaxText+1)
	artifacts := func(n int) (list []Artifact) {
		for i := range n {
			list = append(list, Artifact{Name: fmt.Sprint(i, ".tgz"), SHA256: Digest{byte(i + 1)}})
		}
		return list
	}
	many := func(n int) []string {
		var keys []string
		for i := range n {
			keys = append(keys, PublicKey(fixedKey(nkeys.PrefixByteAccount, byte(i+10))))
		}
		return keys
	}
	proof := func(n int) Proof {
		p := Proof{"iss": "https://token.example.com"}
		for i := range n - 1 {
			p[fmt.Sprint("claim-", i)] = "x"
		}
		return p
	}
	for _, tc := range []struct {
		name string
		body Body
		want string // "" means that it is good
	}{
		{"request as it is", validRequest(), ""},
		{"request without a key", request(func(r *Request) { r.Key = "" }), "connecting key"},
		{"request of a signing key", request(func(r *Request) { r.Key = sign }), "connecting key"},
		{"request without a relay", request(func(r *Request) { r.Relay = "" }), "relay name"},
		{"relay with a port", request(func(r *Request) { r.Relay = "relay.example.com:4222" }), "relay name"},
		{"project that is a wildcard", request(func(r *Request) { r.Project = "*" }), "project name"},
		{"project with a dot", request(func(r *Request) { r.Project = "a.b" }), "project name"},
		{"nothing asked", request(func(r *Request) { r.Ask = "" }), "asks for neither"},
		{"password asked", request(func(r *Request) { r.Ask = "password" }), "asks for neither"},
		{"link asked", request(func(r *Request) { r.Ask, r.Format = AskLink, "any" }), ""},
		{"link asked, in the form of a code", request(func(r *Request) { r.Ask = AskLink }), "format other than any"},
		{"service with a space", request(func(r *Request) { r.Service = "np m" }), "service name"},
		{"no service", request(func(r *Request) { r.Service = "" }), "service name"},
		{"no format", request(func(r *Request) { r.Format = "" }), "unknown format"},
		{"message as long as allowed", request(func(r *Request) { r.Message = long[1:] }), ""},
		{"message too long", request(func(r *Request) { r.Message = long }), "longer than"},
		{"never made", request(func(r *Request) { r.Made = 0 }), "deadline"},
		{"made before 1970", request(func(r *Request) { r.Made = -1 }), "deadline"},
		{"deadline when made", request(func(r *Request) { r.Deadline = r.Made }), "deadline"},
		{"deadline before made", request(func(r *Request) { r.Deadline = r.Made - 1 }), "deadline"},
		{"longest wait and ten minutes", request(func(r *Request) { r.Deadline = r.Made + 6*3600 + 600 }), ""},
		{"a second longer", request(func(r *Request) { r.Deadline = r.Made + 6*3600 + 601 }), "deadline"},
		{"deadline at the end of time", request(func(r *Request) { r.Deadline = 1<<63 - 1 }), "deadline"},
		{"no HPKE key", request(func(r *Request) { r.HPKE = nil }), "HPKE"},
		{"short HPKE key", request(func(r *Request) { r.HPKE = r.HPKE[:31] }), "HPKE"},
		{"no responders", request(func(r *Request) { r.Responders = nil }), ""},
		{"32 responders", request(func(r *Request) { r.Responders = many(32) }), ""},
		{"33 responders", request(func(r *Request) { r.Responders = many(33) }), "more than 32"},
		{"the same responder twice", request(func(r *Request) { r.Responders = []string{sign, sign} }), "twice"},
		{"the same responder twice, once with a line break", request(func(r *Request) { r.Responders = []string{sign, sign + "\n"} }), "signing key"},
		{"a connecting key as responder", request(func(r *Request) { r.Responders = []string{connect} }), "signing key"},
		{"approvals not said", request(func(r *Request) { r.Approvals = 0 }), ""},
		{"two approvals", request(func(r *Request) { r.Approvals = 2 }), ""},
		{"three approvals", request(func(r *Request) { r.Approvals = 3 }), "neither 1 nor 2"},
		{"minus one approval", request(func(r *Request) { r.Approvals = -1 }), "neither 1 nor 2"},
		{"two approvals of anybody", request(func(r *Request) { r.Approvals, r.Responders = 2, nil }), "pinned responders"},
		{"an approval of anybody", request(func(r *Request) { r.Ask, r.Responders = AskApproval, nil }), "pinned responders"},
		{"an approval of a message", approval(func(r *Request) { r.Artifacts = nil }), ""},
		{"an approval of artifacts", approval(func(r *Request) { r.Message = "" }), ""},
		{"an approval of nothing", approval(func(r *Request) { r.Message, r.Artifacts = "", nil }), "approval of nothing"},
		{"an approval in the form of a code", approval(func(r *Request) { r.Format = "digits:6" }), "format other than any"},
		{"artifacts with a link", approval(func(r *Request) { r.Ask = AskLink }), ""},
		{"artifacts with a code", approval(func(r *Request) { r.Ask = AskCode }), "though a code"},
		{"32 artifacts", approval(func(r *Request) { r.Artifacts = artifacts(32) }), ""},
		{"33 artifacts", approval(func(r *Request) { r.Artifacts = artifacts(33) }), "more than 32"},
		{"two artifacts of one name", approval(func(r *Request) { r.Artifacts[1].Name = r.Artifacts[0].Name }), "one name"},
		{"the same bytes under two names", approval(func(r *Request) { r.Artifacts[1].SHA256 = r.Artifacts[0].SHA256 }), ""},
		{"an artifact without a name", artifact(func(a *Artifact) { a.Name = "" }), "base name"},
		{"an artifact with a name of 200", artifact(func(a *Artifact) { a.Name = long[:200] }), ""},
		{"an artifact with a name of 201", artifact(func(a *Artifact) { a.Name = long[:201] }), "base name"},
		{"an artifact with a path", artifact(func(a *Artifact) { a.Name = "dist/x.tgz" }), "base name"},
		{"an artifact with a Windows path", artifact(func(a *Artifact) { a.Name = `dist\x.tgz` }), "base name"},
		{"an artifact that is a folder", artifact(func(a *Artifact) { a.Name = ".." }), "base name"},
		{"an artifact with a line break", artifact(func(a *Artifact) { a.Name = "x\ny" }), "base name"},
		{"an artifact with a look-alike letter", artifact(func(a *Artifact) { a.Name = "w\u0456dgets.tgz" }), "base name"},
		{"an artifact without a digest", artifact(func(a *Artifact) { a.SHA256 = Digest{} }), "without a digest"},
		{"an artifact of less than nothing", artifact(func(a *Artifact) { a.Size = -1 }), "size"},
		{"an artifact of nothing", artifact(func(a *Artifact) { a.Size = 0 }), ""},
		{"an artifact beyond a double", artifact(func(a *Artifact) { a.Size = 1 << 53 }), "size"},
		{"an artifact of a package without a version", artifact(func(a *Artifact) { a.Version = "" }), ""},
		{"an artifact of a version without a package", artifact(func(a *Artifact) { a.Package = "" }), "stands alone"},
		{"an artifact with a long package", artifact(func(a *Artifact) { a.Package = long[:215] }), "package or version"},
		{"an artifact with an escape in its version", artifact(func(a *Artifact) { a.Version = "1\x1b[2K" }), "package or version"},
		{"a stage that is a command", artifact(func(a *Artifact) { a.Stage = "$(id)" }), "UUID"},
		{"a stage in upper case", artifact(func(a *Artifact) { a.Stage = "2B1E6D0C-9C0F-4F0A-8F60-3A1D5E0F7A11" }), "UUID"},
		{"a stage with a line break", artifact(func(a *Artifact) { a.Stage += "\n" }), "UUID"},
		{"no proof", request(func(r *Request) { r.Proof = Proof{} }), "proof"},
		{"proof without issuer", request(func(r *Request) { r.Proof = Proof{"sub": "x", "run_id": "1"} }), "proof"},
		{"proof of the issuer alone", request(func(r *Request) { r.Proof = proof(1) }), "proof"},
		{"24 claims", request(func(r *Request) { r.Proof = proof(24) }), ""},
		{"25 claims", request(func(r *Request) { r.Proof = proof(25) }), "proof"},
		{"a claim of 1024 bytes", request(func(r *Request) { r.Proof["x"] = strings.Repeat("x", 1024) }), ""},
		{"a claim of 1025 bytes", request(func(r *Request) { r.Proof["x"] = strings.Repeat("x", 1025) }), "proof"},
		{"a claim with a path for its name", request(func(r *Request) { r.Proof["oidc.circleci.com/org-id"] = "x" }), ""},
		{"a claim without a name", request(func(r *Request) { r.Proof[""] = "x" }), "proof"},

		{"alive as it is", validAlive(), ""},
		{"alive of a signing key", alive(func(a *Alive) { a.Key = sign }), "connecting key"},
		{"attempt 0", alive(func(a *Alive) { a.Attempt = 0 }), "attempt out of range"},
		{"attempt 1000", alive(func(a *Alive) { a.Attempt = 1000 }), ""},
		{"attempt 1001", alive(func(a *Alive) { a.Attempt = 1001 }), "attempt out of range"},
		{"no reason", alive(func(a *Alive) { a.Reason = "" }), "unknown reason"},
		{"an invented reason", alive(func(a *Alive) { a.Reason = "urgent" }), "unknown reason"},
		{"first attempt", alive(func(a *Alive) { a.Attempt, a.Reason = 1, ReasonFirst }), ""},
		{"first attempt for another reason", alive(func(a *Alive) { a.Attempt = 1 }), "does not fit"},
		{"second attempt called first", alive(func(a *Alive) { a.Reason = ReasonFirst }), "does not fit"},
		{"short nonce", alive(func(a *Alive) { a.Nonce = a.Nonce[:15] }), "16 bytes"},
		{"long nonce", alive(func(a *Alive) { a.Nonce = filled(17, 1) }), "16 bytes"},
		{"challenger without a connecting key", alive(func(a *Alive) { a.Connect = "" }), "connecting key"},
		{"challenger's keys swapped", alive(func(a *Alive) { a.Connect, a.Responder = a.Responder, a.Connect }), "connecting key"},
		{"challenger without a signing key", alive(func(a *Alive) { a.Responder = connect }), "signing key"},
		{"longest link", alive(func(a *Alive) { a.Link = "https://a.example/" + strings.Repeat("x", MaxLink-18) }), ""},
		{"link too long", alive(func(a *Alive) { a.Link = "https://a.example/" + strings.Repeat("x", MaxLink-17) }), "link"},
		{"no link", alive(func(a *Alive) { a.Link = "" }), ""},
		{"link that is none", alive(func(a *Alive) { a.Link = "javascript:alert(1)" }), "link"},
		{"longest details", alive(func(a *Alive) { a.Details = strings.Repeat("x\n", MaxDetails/2) }), ""},
		{"details too long", alive(func(a *Alive) { a.Details = strings.Repeat("x", MaxDetails+1) }), "details"},

		{"got of attempt 0", &Got{Key: job}, "attempt out of range"},
		{"got of a signing key", &Got{Key: sign, Attempt: 1}, "connecting key"},
		{"next of attempt -1", &Next{Key: job, Attempt: -1}, "attempt out of range"},

		{"rejected: refused", &Rejected{Key: job, Attempt: 1, Why: RejectedRefused}, ""},
		{"rejected: refused, shutting someone out", &Rejected{Key: job, Attempt: 1, Why: RejectedRefused, Shut: sign}, "shuts nobody out"},
		{"rejected: unusable, shutting nobody out", &Rejected{Key: job, Attempt: 1, Why: RejectedUnusable}, "signing key"},
		{"rejected: unusable, shutting out a connecting key", &Rejected{Key: job, Attempt: 1, Why: RejectedUnusable, Shut: connect}, "signing key"},
		{"rejected without a reason", &Rejected{Key: job, Attempt: 1}, "unknown reason"},
		{"rejected in attempt 0", &Rejected{Key: job, Why: RejectedRefused}, "attempt out of range"},

		{"done: failed", &Done{Key: job, Attempt: 1, Outcome: OutcomeFailed}, ""},
		{"done without an outcome", &Done{Key: job, Attempt: 1}, "unknown outcome"},
		{"done in attempt 0", &Done{Key: job, Outcome: OutcomeOK}, "attempt out of range"},

		{"cancel without a reason", &Cancel{Key: job}, ""},
		{"cancel with a long reason", &Cancel{Key: job, Why: long}, "longer than"},
		{"cancel of a signing key", &Cancel{Key: sign}, "connecting key"},

		{"challenge of a connecting key", &Challenge{Key: connect, Connect: connect, Nonce: filled(16, 1)}, "signing key"},
		{"challenge without a connecting key", &Challenge{Key: sign, Nonce: filled(16, 1)}, "connecting key"},
		{"challenge with a short nonce", &Challenge{Key: sign, Connect: connect, Nonce: filled(8, 1)}, "16 bytes"},

		{"answer of a connecting key", &Answer{Key: connect, Attempt: 1, Ask: AskCode, Decision: DecisionCode, Sealed: Digest{1}}, "signing key"},
		{"answer to attempt 0", &Answer{Key: sign, Ask: AskCode, Decision: DecisionCode, Sealed: Digest{1}}, "attempt out of range"},
		{"answer to attempt 1001", &Answer{Key: sign, Attempt: 1001, Ask: AskCode, Decision: DecisionCode, Sealed: Digest{1}}, "attempt out of range"},
		{"code without a sealed form", &Answer{Key: sign, Attempt: 1, Ask: AskCode, Decision: DecisionCode}, "does not fit"},
		{"code where a link was asked for", &Answer{Key: sign, Attempt: 1, Ask: AskLink, Decision: DecisionCode, Sealed: Digest{1}}, "does not fit"},
		{"code where an approval was asked for", &Answer{Key: sign, Attempt: 1, Ask: AskApproval, Decision: DecisionCode, Sealed: Digest{1}}, "does not fit"},
		{"yes", validYes(), ""},
		{"yes to a link, of one of two people", &Answer{Key: sign, Attempt: 1, Ask: AskLink, Decision: DecisionYes}, ""},
		{"yes with a sealed form", yes(func(a *Answer) { a.Sealed = Digest{1} }), "does not fit"},
		{"yes without a receipt", yes(func(a *Answer) { a.Receipt = nil }), "without its time and receipt"},
		{"yes with half a receipt", yes(func(a *Answer) { a.Receipt = a.Receipt[:63] }), "without its time and receipt"},
		{"yes without a time", yes(func(a *Answer) { a.At = 0 }), "without its time and receipt"},
		{"yes before 1970", yes(func(a *Answer) { a.At = -1 }), "without its time and receipt"},
		{"yes to a code with a receipt", yes(func(a *Answer) { a.Ask = AskCode }), "no approval"},
		{"yes to a code with a time", yes(func(a *Answer) { a.Ask, a.Receipt = AskCode, nil }), "no approval"},
		{"code with a receipt", &Answer{Key: sign, Attempt: 1, Ask: AskCode, Decision: DecisionCode, Sealed: Digest{1}, Receipt: filled(64, 1)}, "no approval"},
		{"yes to nothing", &Answer{Key: sign, Attempt: 1, Decision: DecisionYes}, "does not fit"},
		{"no decision", &Answer{Key: sign, Attempt: 1, Ask: AskApproval}, "does not fit"},
		{"a no that is not a decline", &Answer{Key: sign, Attempt: 1, Ask: AskApproval, Decision: "no"}, "does not fit"},

		{"decline of a connecting key", &Decline{Key: connect, Attempt: 1}, "signing key"},
		{"decline of attempt 0", &Decline{Key: sign}, "attempt out of range"},
		{"decline without a reason", &Decline{Key: sign, Attempt: 1}, ""},
		{"connect of a signing key", &Connect{Key: sign, Relay: "relay.example.com", At: 1}, "connecting key"},
		{"connect to no relay", &Connect{Key: connect, At: 1}, "not a relay name"},
		{"connect to a relay's port", &Connect{Key: connect, Relay: "relay.example.com:4222", At: 1}, "not a relay name"},
		{"connect at no time", &Connect{Key: connect, Relay: "relay.example.com"}, "without its time"},
		{"connect", &Connect{Key: connect, Relay: "relay.example.com", At: 1}, ""},
		{"decline with a long reason", &Decline{Key: sign, Attempt: 1, Reason: long}, "longer than"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			// Whoever the body names signs, so that only the field at test can be wrong.
			signer := jobKey
			switch tc.body.signer() {
			case connect:
				signer = connectKey
			case sign:
				signer = signKey
			}
			var open func(Envelope, string) (Body, error)
			for _, c := range everyKind() {
				if c.kind == tc.body.kind() {
					open = c.open
				}
			}
			_, signErr := Sign(tc.body, signer)
			_, openErr := open(signRaw(t, tc.body.kind(), mustJSON(t, tc.body), signer), PublicKey(signer))
			for side, err := range map[string]error{"sign": signErr, "open": openErr} {
				switch {
				case tc.want == "" && err != nil:
					t.Errorf("%s: %v", side, err)
				case tc.want != "" && (!errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), tc.want)):
					t.Errorf("%s: %v, want %q", side, err, tc.want)
				}
			}
		})
	}
}

// TestTextThatIsNotUTF8IsNotSigned: encoding/json would sign another text than the
// one given.
func TestTextThatIsNotUTF8IsNotSigned(t *testing.T) {
	t.Parallel()
	r := validRequest()
	r.Message = "a\xff"
	if _, err := Sign(r, jobKey); !errors.Is(err, ErrMalformed) {
		t.Errorf("%v", err)
	}
}

func TestARefusalReadsWhyAndWhatToDo(t *testing.T) {
	t.Parallel()
	var err error = &Refusal{Code: RefusedTaken, Why: "Ada answered"}
	if err.Error() != "Ada answered" {
		t.Errorf("%q", err)
	}
	err = &Refusal{Code: RefusedPolicy, Why: "claim ref does not match", Mend: "allow the tag in rule 1"}
	if err.Error() != "claim ref does not match; allow the tag in rule 1" {
		t.Errorf("%q", err)
	}
}

// FuzzBody decodes any bytes as each kind of body, as Open does once the signature
// is good (signing here too would leave the fuzzer a few tries a second). What is
// accepted must survive encoding and decoding again, or two programs would hold
// two statements of one signature.
func FuzzBody(f *testing.F) {
	type pair struct {
		kind uint8
		body []byte
	}
	var seeds []pair
	for i, c := range everyKind() {
		seeds = append(seeds, pair{uint8(i), mustJSON(f, c.body)})
	}
	job := PublicKey(jobKey)
	seeds = append(seeds, pair{0, mustJSON(f, validApproval())}, pair{8, mustJSON(f, validYes())},
		pair{6, []byte(`{"why":"\ud800","digest":"` + strings.Repeat("0", 64) + `","key":"` + job + `"}`)},
		pair{6, []byte(`{"key":"` + job + `","key":"` + job + `"}`)},
		pair{2, []byte(`{"key":"` + job + `","attempt":1}`)},
		pair{0, []byte(`{"key":"` + job + `","responders":[],"approvals":0}`)},
	)
	seed(f, func(p pair) { f.Add(p.kind, p.body) }, seeds)
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		kinds := everyKind()
		fresh := kinds[int(kind)%len(kinds)].fresh
		body := fresh()
		if Decode(data, MaxBody, body) != nil || body.check() != nil {
			return
		}
		encoded := mustJSON(t, body)
		if len(encoded) > MaxBody {
			return // "<" and its like grow when encoded
		}
		again := fresh()
		if err := Decode(encoded, MaxBody, again); err != nil {
			t.Fatalf("what was decoded does not decode again: %v\n%s", err, encoded)
		}
		if err := again.check(); err != nil {
			t.Fatalf("what was accepted is not accepted again: %v\n%s", err, encoded)
		}
		if second := mustJSON(t, again); !bytes.Equal(encoded, second) {
			t.Fatalf("%s became %s", encoded, second)
		}
	})
}

// FuzzMessage decodes any bytes as each unsigned message.
func FuzzMessage(f *testing.F) {
	request, challenge := mustSign(f, validRequest(), jobKey), mustSign(f, everyKind()[7].body, signKey)
	answer, away := mustSign(f, everyKind()[8].body, signKey), mustSign(f, everyKind()[10].body, signKey)
	job := PublicKey(jobKey)
	sealed := &Sealed{Enc: filled(32, 1), Ciphertext: filled(530, 2)}
	state := State{Rev: 7, State: "answered", Attempt: 1, Reason: ReasonFirst, Deadline: 1_795_001_800, OnCall: []string{"Ada"}, Ready: 1, Enrolled: 2, Opened: []string{"Ada"}, By: "Ada", Answer: &answer, Sealed: Digest{2}.String()}
	samples := []any{
		RequestMessage{Request: request, Token: "a.b.c"},
		StateQuery{Rev: 1<<64 - 1},
		AliveMessage{Alive: mustSign(f, validAlive(), jobKey), Token: "a.b.c"},
		StepMessage{Step: mustSign(f, everyKind()[2].body, jobKey)},
		PendingQuery{After: job, Known: []string{job}},
		OpenMessage{Key: job, Challenge: challenge},
		AnswerMessage{Key: job, Answer: answer, Sealed: sealed},
		DeclineMessage{Key: job, Decline: mustSign(f, everyKind()[9].body, signKey)},
		Reply{V: Version, State: &state, Page: &Page{Items: []Item{{Key: job, Request: request, State: state}}, Ended: []Ended{{Key: job, State: state}}, More: true}, Refused: &Refusal{Code: RefusedTaken, Why: "Ada answered", Mend: "nothing"}},
		Hint{Hint: HintAnswer, Key: job, Rev: 3, Envelope: &answer, Sealed: sealed, Token: "a.b.c"},
		AwayMessage{Away: &away},
		JoinMessage{Join: mustSign(f, everyKind()[12].body, signKey), Connect: filled(64, 3), Invitation: filled(64, 4)},
		RotateMessage{Chain: []Succession{{Successor: mustSign(f, everyKind()[11].body, signKey), Next: filled(64, 5)}}},
		Reply{V: Version, Rotated: PublicKey(otherSign), Joined: &Joined{State: JoinedWaiting, Project: "widgets", Name: "Ada"}},
		Reply{V: Version, Away: &away, Page: &Page{Away: &away}, State: &State{Rev: 1, State: "pending", Attempt: 1, Reason: ReasonFirst, After: 300, Then: []string{"Bob"}, Skipped: true, Away: []Absent{{Name: "Ada", Until: 1_795_010_000}, {Until: 1}}}},
	}
	type pair struct {
		which uint8
		data  []byte
	}
	var seeds []pair
	for i, s := range samples {
		seeds = append(seeds, pair{uint8(i), mustJSON(f, s)})
	}
	seeds = append(seeds, pair{8, []byte(`{"v":1,"state":null}`)}, pair{9, []byte(`{"hint":"state","hint":"answer"}`)}, pair{4, []byte(`{"known":[]}`)})
	seed(f, func(p pair) { f.Add(p.which, p.data) }, seeds)
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		kind := reflect.TypeOf(samples[int(which)%len(samples)])
		first := reflect.New(kind).Interface()
		if Decode(data, MaxMessage, first) != nil {
			return
		}
		encoded := mustJSON(t, first)
		if len(encoded) > MaxMessage {
			return // escapes grew
		}
		second := reflect.New(kind).Interface()
		if err := Decode(encoded, MaxMessage, second); err != nil {
			t.Fatalf("what was decoded does not decode again: %v\n%s", err, encoded)
		}
		if again := mustJSON(t, second); !bytes.Equal(encoded, again) {
			t.Fatalf("%s became %s", encoded, again)
		}
	})
}

// TestEachMessageSurvivesTheWire is FuzzMessage's floor: every field of each
// message filled in, none lost on the way.
func TestEachMessageSurvivesTheWire(t *testing.T) {
	t.Parallel()
	for _, kind := range []reflect.Type{
		reflect.TypeFor[RequestMessage](), reflect.TypeFor[StateQuery](), reflect.TypeFor[AliveMessage](), reflect.TypeFor[StepMessage](), reflect.TypeFor[PendingQuery](),
		reflect.TypeFor[OpenMessage](), reflect.TypeFor[AnswerMessage](), reflect.TypeFor[DeclineMessage](), reflect.TypeFor[AwayMessage](), reflect.TypeFor[JoinMessage](), reflect.TypeFor[RotateMessage](), reflect.TypeFor[Reply](), reflect.TypeFor[Hint](),
	} {
		v := reflect.New(kind)
		fill(t, v.Elem())
		data := mustJSON(t, v.Interface())
		back := reflect.New(kind)
		if err := Decode(data, MaxMessage, back.Interface()); err != nil {
			t.Errorf("%s: %v\n%s", kind, err, data)
			continue
		}
		if !reflect.DeepEqual(v.Interface(), back.Interface()) {
			t.Errorf("%s: sent %+v, got %+v", kind, v, back)
		}
	}
}

// fill sets every field of v to something that is not its zero value.
func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Int, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint64:
		v.SetUint(1)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Uint8:
		v.SetUint(1)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem())
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0))
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i))
		}
	default:
		t.Fatalf("a field of kind %s: teach fill to set it", v.Kind())
	}
}
