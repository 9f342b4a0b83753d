package wire_test

// Holds PROTOCOL.md to the code: each byte of its worked example, each field of
// each message, each number. The example is checked with the standard library
// where that can be done, so that it shows what another implementation needs.

import (
	"bytes"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

func document(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("../../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// exampleBlocks are the example's fenced blocks: all that have a name after the language.
func exampleBlocks(t *testing.T) map[string]string {
	t.Helper()
	blocks := map[string]string{}
	for _, m := range regexp.MustCompile("(?ms)^```(?:json|text) ([a-z-]+)\n(.*?)\n```$").FindAllStringSubmatch(document(t), -1) {
		if _, twice := blocks[m[1]]; twice {
			t.Fatalf("two blocks are called %s", m[1])
		}
		blocks[m[1]] = m[2]
	}
	return blocks
}

func TestTheWorkedExampleIsExact(t *testing.T) {
	t.Parallel()
	blocks := exampleBlocks(t)
	want := []string{
		"keys", "audience", "connect-body", "connect-envelope", "request-body", "request-signed", "request-envelope", "digest", "match", "reply", "hint", "challenge-body", "open-message", "alive-body",
		"alive-envelope", "aad", "sealed", "sealed-hash", "answer-body", "answer-message", "code", "got-body", "got-envelope", "done-body", "done-envelope",
	}
	if got := slices.Sorted(maps.Keys(blocks)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Fatalf("the example has the blocks %v", got)
	}
	if err := verifyExample(blocks); err != nil {
		t.Error(err)
	}
}

// TestAChangedExampleIsFound: each block, with one character changed, must fail.
func TestAChangedExampleIsFound(t *testing.T) {
	t.Parallel()
	blocks := exampleBlocks(t)
	for name, text := range blocks {
		for _, at := range []int{0, len(text) / 2} {
			changed := maps.Clone(blocks)
			b := []byte(text)
			if b[at]++; name == "reply" || name == "hint" {
				b[at] = 0x01 // these are samples: only their form is checked
			}
			changed[name] = string(b)
			if verifyExample(changed) == nil {
				t.Errorf("%s: character %d can be changed from %q to %q", name, at, text[at], b[at])
			}
		}
	}
}

// verifyExample follows the example from its keys to its end.
func verifyExample(blocks map[string]string) (err error) {
	var problems []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	defer func() {
		if err == nil {
			err = errors.Join(problems...)
		}
	}()

	// Keys, from 32 equal bytes each.
	keys := map[string]string{}
	for line := range strings.Lines(blocks["keys"]) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		keys[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	pair := func(name string, prefix nkeys.PrefixByte, fill byte) nkeys.KeyPair {
		kp, err := nkeys.FromRawSeed(prefix, bytes.Repeat([]byte{fill}, 32))
		if err != nil {
			panic(err)
		}
		seed, err := kp.Seed()
		check(err == nil && string(seed) == keys[name+"_seed"] && wire.PublicKey(kp) == keys[name], "%s: the key is %s, its seed %s", name, wire.PublicKey(kp), seed)
		return kp
	}
	job, sign := pair("job", nkeys.PrefixByteUser, 0x11), pair("sign", nkeys.PrefixByteAccount, 0x33)
	connecting := pair("connect", nkeys.PrefixByteUser, 0x22)
	jobKey, connectKey, signKey := wire.PublicKey(job), wire.PublicKey(connecting), wire.PublicKey(sign)
	raw := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{0x11}, 32)).Public().(ed25519.PublicKey)
	check(keys["job_raw"] == hex.EncodeToString(raw), "job_raw")
	kem := hpke.DHKEM(ecdh.X25519())
	private, err := kem.NewPrivateKey(bytes.Repeat([]byte{0x44}, 32))
	if err != nil {
		return err
	}
	check(keys["hpke_private"] == strings.Repeat("44", 32), "hpke_private")
	check(keys["hpke_public"] == hex.EncodeToString(private.PublicKey().Bytes()), "hpke_public is %x", private.PublicKey().Bytes())
	check(len(keys) == 9, "%d keys", len(keys))
	check(blocks["audience"] == wire.Audience("relay.example.com", jobKey), "audience")

	connect, _, err := opened[wire.Connect](blocks["connect-body"], blocks["connect-envelope"], connecting)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	check(connect.Relay == "relay.example.com", "connect names another relay")

	// The request, its signature by the rule of section 3, its digest by that of 4.1.
	request, envelope, err := opened[wire.Request](blocks["request-body"], blocks["request-envelope"], job)
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	check(request.Relay == "relay.example.com" && bytes.Equal(request.HPKE, private.PublicKey().Bytes()) && slices.Equal(request.Responders, []string{signKey}), "request names other keys")
	sum := sha256.Sum256([]byte(blocks["request-body"]))
	toSign := append([]byte("\xFFcfa/v1/request\x00"), sum[:]...)
	check(blocks["request-signed"] == hex.EncodeToString(toSign), "request-signed is %x", toSign)
	check(ed25519.Verify(raw, toSign, envelope.Sig), "the request's signature is over something else")
	digest := sha256.Sum256(slices.Concat([]byte("cfa/v1/request\x00"), raw, sum[:]))
	check(blocks["digest"] == hex.EncodeToString(digest[:]), "digest is %x", digest)
	own, err := wire.DigestOf(envelope, jobKey)
	check(err == nil && own == wire.Digest(digest), "DigestOf gives %s, %v", own, err)
	check(blocks["match"] == match(digest), "match is %s", match(digest))

	var reply wire.Reply
	check(wire.Decode([]byte(blocks["reply"]), wire.MaxMessage, &reply) == nil && reply.V == wire.Version && reply.State != nil && reply.State.Deadline == request.Deadline, "reply")
	var hint wire.Hint
	check(wire.Decode([]byte(blocks["hint"]), wire.MaxMessage, &hint) == nil && hint.Hint == wire.HintState && hint.Key == jobKey, "hint")

	// The opening.
	var open wire.OpenMessage
	if err := wire.Decode([]byte(blocks["open-message"]), wire.MaxMessage, &open); err != nil {
		return fmt.Errorf("open-message: %w", err)
	}
	check(blocks["open-message"] == encode(open) && open.Key == jobKey, "open-message")
	challenge, _, err := opened[wire.Challenge](blocks["challenge-body"], string(open.Challenge.Encode()), sign)
	if err != nil {
		return fmt.Errorf("challenge: %w", err)
	}
	check(challenge.Connect == connectKey && challenge.Digest == digest && bytes.Equal(challenge.Nonce, bytes.Repeat([]byte{0x55}, 16)), "challenge names something else")
	alive, _, err := opened[wire.Alive](blocks["alive-body"], blocks["alive-envelope"], job)
	if err != nil {
		return fmt.Errorf("alive: %w", err)
	}
	check(alive.Digest == digest && alive.Attempt == 1 && alive.Connect == connectKey && alive.Responder == signKey && bytes.Equal(alive.Nonce, challenge.Nonce), "alive answers another challenge")

	// The answer, opened with the standard library alone.
	aad := slices.Concat(digest[:], []byte{0, 0, 0, 0, 0, 0, 0, 1}, []byte("\x04code"), []byte(signKey))
	check(blocks["aad"] == hex.EncodeToString(aad), "aad is %x", aad)
	var sealed wire.Sealed
	if err := wire.Decode([]byte(blocks["sealed"]), wire.MaxMessage, &sealed); err != nil {
		return fmt.Errorf("sealed: %w", err)
	}
	check(blocks["sealed"] == encode(sealed) && len(sealed.Ciphertext) == 530, "sealed")
	recipient, err := hpke.NewRecipient(sealed.Enc, private, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), []byte("cfa/v1/seal"))
	if err != nil {
		return fmt.Errorf("sealed: %w", err)
	}
	plain, err := recipient.Open(aad, sealed.Ciphertext)
	if err != nil {
		return fmt.Errorf("sealed: %w", err)
	}
	check(string(plain) == "\x00\x06"+blocks["code"]+strings.Repeat("\x00", 506), "sealed holds %q", plain)
	format, err := wire.ParseFormat(request.Format)
	check(err == nil && format.Check(blocks["code"]) == nil, "the code has not the form")
	hash := sha256.Sum256(slices.Concat(sealed.Enc, sealed.Ciphertext))
	check(blocks["sealed-hash"] == hex.EncodeToString(hash[:]), "sealed-hash is %x", hash)
	var message wire.AnswerMessage
	if err := wire.Decode([]byte(blocks["answer-message"]), wire.MaxMessage, &message); err != nil {
		return fmt.Errorf("answer-message: %w", err)
	}
	check(blocks["answer-message"] == encode(message) && message.Key == jobKey && message.Sealed != nil && encode(message.Sealed) == blocks["sealed"], "answer-message")
	answer, _, err := opened[wire.Answer](blocks["answer-body"], string(message.Answer.Encode()), sign)
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	check(answer.Digest == digest && answer.Attempt == 1 && answer.Sealed == hash, "answer is about something else")

	// The end.
	got, _, err := opened[wire.Got](blocks["got-body"], blocks["got-envelope"], job)
	if err != nil {
		return fmt.Errorf("got: %w", err)
	}
	check(got.Digest == digest && got.Attempt == 1 && got.Sealed == hash, "got is about something else")
	done, _, err := opened[wire.Done](blocks["done-body"], blocks["done-envelope"], job)
	if err != nil {
		return fmt.Errorf("done: %w", err)
	}
	check(done.Digest == digest && done.Outcome == wire.OutcomeOK, "done is about something else")
	return nil
}

// match is seal.Match, slow by design, once a digest.
func match(digest wire.Digest) string {
	if known, ok := matches.Load(digest); ok {
		return known.(string)
	}
	m := seal.Match(digest)
	matches.Store(digest, m)
	return m
}

var matches sync.Map

// body is a pointer to a body type.
type body[B any] interface {
	*B
	wire.Body
}

// opened verifies an envelope of the example and that this implementation makes
// the same bytes: ed25519 gives one signature for one message.
func opened[B any, P body[B]](text, envelope string, kp nkeys.KeyPair) (B, wire.Envelope, error) {
	var none B
	e, err := wire.DecodeEnvelope([]byte(envelope))
	if err != nil {
		return none, e, err
	}
	if string(e.Body) != text {
		return none, e, errors.New("the envelope holds another body")
	}
	b, err := wire.Open[B, P](e, wire.PublicKey(kp))
	if err != nil {
		return none, e, err
	}
	again, err := wire.Sign(P(&b), kp)
	if err != nil {
		return none, e, err
	}
	if string(again.Encode()) != envelope {
		return none, e, fmt.Errorf("this implementation makes %s", again.Encode())
	}
	return b, e, nil
}

func encode(v any) string {
	out, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(out)
}

// table gives the first two cells of each row of the first table below a heading
// or paragraph, by the first cell.
func table(t *testing.T, below string) map[string]string {
	t.Helper()
	_, rest, ok := strings.Cut(document(t), below)
	if !ok {
		t.Fatalf("PROTOCOL.md has no %q", below)
	}
	rows := map[string]string{}
	started := false
	for line := range strings.Lines(rest) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		switch {
		case len(cells) >= 4 && cells[0] == "":
			started = true
			rows[strings.TrimSpace(cells[1])] = strings.TrimSpace(cells[2])
		case started:
			return rows
		case strings.HasPrefix(line, "#"):
			t.Fatalf("no table below %q", below)
		}
	}
	return rows
}

func TestEachFieldIsDescribed(t *testing.T) {
	t.Parallel()
	for heading, kind := range map[string]reflect.Type{
		"`request`": reflect.TypeFor[wire.Request](), "`alive`": reflect.TypeFor[wire.Alive](), "`got`": reflect.TypeFor[wire.Got](), "`rejected`": reflect.TypeFor[wire.Rejected](),
		"`next`": reflect.TypeFor[wire.Next](), "`done`": reflect.TypeFor[wire.Done](), "`cancel`": reflect.TypeFor[wire.Cancel](), "`challenge`": reflect.TypeFor[wire.Challenge](),
		"`answer`": reflect.TypeFor[wire.Answer](), "`decline`": reflect.TypeFor[wire.Decline](), "`connect`": reflect.TypeFor[wire.Connect](),
		"`away`": reflect.TypeFor[wire.Away](), "AwayMessage": reflect.TypeFor[wire.AwayMessage](), "`successor`": reflect.TypeFor[wire.Successor](), "Succession": reflect.TypeFor[wire.Succession](), "RotateMessage": reflect.TypeFor[wire.RotateMessage](), "`join`": reflect.TypeFor[wire.Join](), "JoinMessage": reflect.TypeFor[wire.JoinMessage](), "Joined": reflect.TypeFor[wire.Joined](), "Invitation": reflect.TypeFor[wire.Invitation](), "Absent": reflect.TypeFor[wire.Absent](),
		"Artifact": reflect.TypeFor[wire.Artifact](), "RequestMessage": reflect.TypeFor[wire.RequestMessage](), "StateQuery": reflect.TypeFor[wire.StateQuery](), "AliveMessage": reflect.TypeFor[wire.AliveMessage](),
		"StepMessage": reflect.TypeFor[wire.StepMessage](), "PendingQuery": reflect.TypeFor[wire.PendingQuery](), "OpenMessage": reflect.TypeFor[wire.OpenMessage](),
		"AnswerMessage": reflect.TypeFor[wire.AnswerMessage](), "DeclineMessage": reflect.TypeFor[wire.DeclineMessage](), "Reply": reflect.TypeFor[wire.Reply](),
		"State": reflect.TypeFor[wire.State](), "Page": reflect.TypeFor[wire.Page](), "Item": reflect.TypeFor[wire.Item](), "Ended": reflect.TypeFor[wire.Ended](),
		"Hint": reflect.TypeFor[wire.Hint](), "Refusal": reflect.TypeFor[wire.Refusal](),
	} {
		rows := table(t, "\n#### "+heading+"\n")
		delete(rows, "field")
		for name := range rows {
			if strings.Trim(name, "-") == "" {
				delete(rows, name)
			}
		}
		for i := range kind.NumField() {
			name, _, _ := strings.Cut(kind.Field(i).Tag.Get("json"), ",")
			if _, ok := rows["`"+name+"`"]; !ok {
				t.Errorf("%s: field %s is not described", heading, name)
			}
			delete(rows, "`"+name+"`")
		}
		for name := range rows {
			t.Errorf("%s: there is no field %s", heading, name)
		}
	}
}

func TestEachWordOfTheProtocolIsDescribed(t *testing.T) {
	t.Parallel()
	text := document(t)
	count := 0
	for _, file := range []string{"envelope.go", "message.go", "subject.go", "away.go", "../lifecycle/record.go"} {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Values) != 1 {
				return true
			}
			for _, prefix := range []string{"Kind", "Ask", "Reason", "Rejected", "Outcome", "Decision", "Refused", "Hint", "Verb", "State", "Event"} {
				lit, ok := spec.Values[0].(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING || !strings.HasPrefix(spec.Names[0].Name, prefix) {
					continue
				}
				value, err := strconv.Unquote(lit.Value)
				if err != nil {
					t.Fatal(err)
				}
				count++
				if spec.Names[0].Name == "OutcomeUnknown" { // no message holds it
					continue
				}
				if !strings.Contains(text, "`"+value+"`") && !strings.Contains(text, "."+value+"`") {
					t.Errorf("%s (%s) is not described", spec.Names[0].Name, value)
				}
			}
			return true
		})
	}
	if count < 60 {
		t.Errorf("only %d words found: does this test still see them?", count)
	}
}

func TestTheTablesHoldTheNumbers(t *testing.T) {
	t.Parallel()
	limits, times := table(t, "\n## 10. Limits and times\n"), table(t, "| attempts | 1000 | |\n\n")
	size := func(n int) string { return fmt.Sprintf("%d bytes", n) }
	for name, want := range map[string]string{
		"NATS message": size(wire.MaxMessage), "envelope": size(wire.MaxEnvelope), "body": size(wire.MaxBody), "ID token": size(wire.MaxToken), "text": size(wire.MaxText),
		"link": size(wire.MaxLink), "code": size(wire.MaxCode), "ciphertext": size(wire.MaxSealed), "record": size(lifecycle.MaxRecord),
		"attempts": strconv.Itoa(lifecycle.MaxAttempt), "details": size(wire.MaxDetails), "artifacts": strconv.Itoa(wire.MaxArtifacts),
		"open, of a run": strconv.Itoa(wire.MaxOpenRun), "open, of a project": strconv.Itoa(wire.MaxOpenProject), "away, in an hour": strconv.Itoa(wire.MaxAwayHour), "invitation": size(wire.MaxInvitation),
	} {
		if limits[name] != want {
			t.Errorf("%s is %s; PROTOCOL.md says %q", name, want, limits[name])
		}
		delete(limits, name)
	}
	for name, want := range map[string]time.Duration{
		"re-read": wire.ReRead, "alive within": wire.AliveWithin, "opening lasts": wire.OpeningLasts, "challenge every": wire.ChallengeEvery, "keep answer": wire.KeepAnswer, "connect within": wire.ConnectWithin,
		"undelivered after": lifecycle.UndeliveredAfter, "lost: asked after": lifecycle.LostAsk, "lost: given up after": lifecycle.LostAfter, "longest wait": wire.LongestWait,
		"longest away": wire.LongestAway, "away within": wire.AwayWithin, "longest invitation": wire.LongestInvitation,
	} {
		if want := fmt.Sprintf("%d s", int(want.Seconds())); times[name] != want {
			t.Errorf("%s is %s; PROTOCOL.md says %q", name, want, times[name])
		}
		delete(times, name)
	}
	for _, rest := range []map[string]string{limits, times} {
		for name := range rest {
			if name != "limit" && name != "time" && strings.Trim(name, "-") != "" {
				t.Errorf("nothing is compared with the row %q", name)
			}
		}
	}
	// What two packages say must agree, or one refuses what the other allows.
	if lifecycle.LongestWait != wire.LongestWait || lifecycle.MaxRequest < wire.MaxEnvelope || lifecycle.MaxCause < wire.MaxEnvelope {
		t.Error("a request that may be sent cannot be kept")
	}
	// In prose the same numbers are written with a comma.
	known := []int{wire.MaxMessage, wire.MaxEnvelope, wire.MaxBody, wire.MaxToken, wire.MaxText, wire.MaxLink, wire.MaxDetails, wire.MaxSealed, wire.MaxInvitation, lifecycle.MaxAttempt, lifecycle.MaxRecord, 1024}
	for _, m := range regexp.MustCompile(`\b\d{1,3},\d{3}\b`).FindAllString(regexp.MustCompile("`[^`\n]*`").ReplaceAllString(document(t), ""), -1) {
		if n, err := strconv.Atoi(strings.ReplaceAll(m, ",", "")); err != nil || !slices.Contains(known, n) {
			t.Errorf("the number %s in the text is none of the limits", m)
		}
	}
}
