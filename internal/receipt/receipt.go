// Package receipt makes and checks what is left of an approval: a human's signed
// yes about named files, which anybody can check later, without a relay and
// without a network, who knows the human's key.
//
// A receipt is an in-toto Statement v1 in a DSSE envelope, so that tools which
// know neither this project nor its protocol can store and read it.
//
// The rule it keeps: **the statement is a pure function** of the request as it
// was signed, the attempt, the time and the responder's key. The responder
// builds it from what it has verified, the job builds the same bytes from what
// it has asked, and only the time and the signature travel. So neither a relay
// nor a job can have a human sign words that the human's own program did not
// make; and what a receipt says of the job is what the responder compared with
// the job's ID token.
package receipt

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/wire"
)

// The types that stand in a receipt.
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PayloadType   = "application/vnd.in-toto+json"
	PredicateType = "https://github.com/continuousauth/action/blob/main/PROTOCOL.md#receipt-v1"
)

// RequestSubject is the subject of an approval without artifacts: the request
// itself, by its digest.
const RequestSubject = "cfa-request"

// Limits, in bytes.
const (
	// MaxStatement has room for what a request's body can hold, the names of its
	// artifacts twice, and for the names of its own fields.
	MaxStatement = 3 * wire.MaxBody
	// MaxLine bounds one receipt as it is written.
	MaxLine = 2*MaxStatement + 1024
	// MaxReceipts is how many receipts one request can bring: one a person.
	MaxReceipts = 2
	// MaxFile bounds a file of receipts: each with the chain of its key.
	MaxFile = MaxReceipts * (MaxLine + 2 + wire.MaxChain*2048)
)

var (
	// ErrForm says that bytes are no receipt in the one form that this package
	// writes.
	ErrForm = errors.New("not a receipt")
	// ErrSignature says that a receipt is not signed by the key it names.
	ErrSignature = errors.New("the receipt's signature does not verify")
)

// Content is a receipt's statement.
type Content struct {
	Type          string    `json:"_type"`
	Subject       []Subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     Predicate `json:"predicate"`
}

// Subject is one thing that was approved.
type Subject struct {
	Name   string `json:"name"`
	Digest struct {
		SHA256 wire.Digest `json:"sha256"`
	} `json:"digest"`
}

// Predicate says who approved it, when, and for which job.
type Predicate struct {
	Responder string          `json:"responder"` // the signing key of who said yes
	At        string          `json:"at"`        // when, by the responder's clock: RFC 3339, UTC
	Relay     string          `json:"relay"`
	Project   string          `json:"project"`
	Service   string          `json:"service"`
	Message   string          `json:"message"` // the job's own words
	Artifacts []wire.Artifact `json:"artifacts"`
	Job       wire.Proof      `json:"job"` // claims of the job's ID token
	Key       string          `json:"key"` // the request's
	Digest    wire.Digest     `json:"digest"`
	Attempt   int             `json:"attempt"`
	Approvals int             `json:"approvals"` // people who had to agree, 1 or 2
}

// Time is when the yes was said.
func (p Predicate) Time() time.Time {
	t, _ := time.Parse(time.RFC3339, p.At) // Read has checked it
	return t
}

// latest is the last second that RFC 3339 can spell.
const latest = 253402300799

// Statement gives the bytes that a responder signs for its yes to an attempt of
// req, whose digest is digest, at that time.
func Statement(req wire.Request, digest wire.Digest, attempt int, at int64, responder string) ([]byte, error) {
	if req.Ask != wire.AskApproval {
		return nil, errors.New("receipt: the request asks for no approval")
	}
	if at <= 0 || at > latest || attempt < 1 {
		return nil, errors.New("receipt: time or attempt out of range")
	}
	if err := wire.CheckSigningKey(responder); err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	c := Content{Type: StatementType, PredicateType: PredicateType, Predicate: Predicate{
		Responder: responder, At: time.Unix(at, 0).UTC().Format(time.RFC3339),
		Relay: req.Relay, Project: req.Project, Service: req.Service, Message: req.Message,
		Artifacts: req.Artifacts, Job: req.Proof, Key: req.Key, Digest: digest,
		Attempt: attempt, Approvals: max(req.Approvals, 1),
	}}
	if c.Predicate.Artifacts == nil {
		c.Predicate.Artifacts = []wire.Artifact{} // as [], for there is one form only
	}
	c.Subject = c.subjects()
	return encode(c)
}

// subjects are what the predicate says that was approved.
func (c Content) subjects() []Subject {
	one := func(name string, d wire.Digest) Subject {
		s := Subject{Name: name}
		s.Digest.SHA256 = d
		return s
	}
	if len(c.Predicate.Artifacts) == 0 {
		return []Subject{one(RequestSubject, c.Predicate.Digest)}
	}
	var out []Subject
	for _, a := range c.Predicate.Artifacts {
		out = append(out, one(a.Name, a.SHA256))
	}
	return out
}

// encode gives JSON in one form: no spaces, fields in the types' order, names of
// claims in bytewise order.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// decode reads what encode wrote, and nothing else. encoding/json takes repeated,
// unknown and wrongly cased names, so two readers could see two receipts.
func decode(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: it is not the JSON that is expected", ErrForm)
	}
	again, err := encode(v)
	if err != nil || !bytes.Equal(again, data) {
		return fmt.Errorf("%w: it is not in the one form that a receipt has, so it was written by something else, or changed", ErrForm)
	}
	return nil
}

// PAE is what DSSE signs of a payload (its pre-authentication encoding).
func PAE(payloadType string, payload []byte) []byte {
	var b bytes.Buffer
	b.WriteString("DSSEv1 " + strconv.Itoa(len(payloadType)) + " " + payloadType + " " + strconv.Itoa(len(payload)) + " ")
	b.Write(payload)
	return b.Bytes()
}

// Sign signs a statement with a responder's signing key. What it signs begins
// with "DSSEv1", which neither an envelope of this protocol (0xFF) nor a nonce
// of a NATS server (it holds spaces) can.
func Sign(statement []byte, kp nkeys.KeyPair) ([]byte, error) {
	if err := wire.CheckSigningKey(wire.PublicKey(kp)); err != nil {
		return nil, fmt.Errorf("receipt: %w", err)
	}
	return kp.Sign(PAE(PayloadType, statement))
}

// Verify says whether key signed a statement.
func Verify(statement, sig []byte, key string) error {
	if wire.CheckSigningKey(key) != nil || len(sig) != ed25519.SignatureSize {
		return ErrSignature
	}
	pub, err := nkeys.FromPublicKey(key)
	if err != nil || pub.Verify(PAE(PayloadType, statement), sig) != nil {
		return ErrSignature
	}
	return nil
}

// envelope is DSSE's.
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     wire.Bytes  `json:"payload"`
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string     `json:"keyid"`
	Sig   wire.Bytes `json:"sig"`
}

// Encode gives a receipt: a DSSE envelope as one line of JSON, and after it, where
// the key succeeds others, a line for each link of its chain; without the last line
// break. It does not verify; who encodes has done that, or has just signed.
func Encode(statement, sig []byte, key string, chain ...wire.Succession) []byte {
	lines := []any{envelope{PayloadType, statement, []signature{{key, sig}}}}
	for _, link := range chain {
		lines = append(lines, link)
	}
	var out [][]byte
	for _, l := range lines {
		line, err := encode(l)
		if err != nil {
			panic(fmt.Sprintf("receipt: envelope does not encode: %v", err)) // it holds strings and bytes only
		}
		out = append(out, line)
	}
	return bytes.Join(out, []byte("\n"))
}

// link begins a line that is one of a chain's.
var link = []byte(`{"successor":`)

// Receipt is one that was read and whose signature verifies with the key that it
// names. Whether that key is anybody's is for [Check] to say.
type Receipt struct {
	Content
	Statement []byte // as it was signed
	Sig       []byte
	// Chain is how its key succeeds others, up to itself; nil: it does not, or does not
	// say so.
	Chain []wire.Succession
}

// Read reads a file of receipts, at most [MaxReceipts], each a line and those of its
// chain: strictly, and each verified with the key that it names.
func Read(data []byte) ([]Receipt, error) {
	if len(data) > MaxFile {
		return nil, fmt.Errorf("%w: %d bytes are more than receipts have", ErrForm, len(data))
	}
	var out []Receipt
	for line := range bytes.Lines(data) {
		line = bytes.TrimRight(line, "\r\n")
		if len(line) == 0 {
			continue
		}
		if n := len(out); n > 0 && bytes.HasPrefix(line, link) {
			if err := out[n-1].succeeds(line); err != nil {
				return nil, err
			}
			continue
		}
		if len(out) == MaxReceipts {
			return nil, fmt.Errorf("%w: more than %d in one file", ErrForm, MaxReceipts)
		}
		r, err := readLine(line)
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: nothing stands in it", ErrForm)
	}
	for _, r := range out {
		if len(r.Chain) == 0 {
			continue
		}
		if keys, err := wire.OpenChain(r.Chain); err != nil || keys[len(keys)-1] != r.Predicate.Responder {
			return nil, fmt.Errorf("%w: the keys that stand below it do not vouch for its own", ErrForm)
		}
	}
	return out, nil
}

// succeeds takes in a line of a receipt's chain.
func (r *Receipt) succeeds(line []byte) error {
	var s wire.Succession
	if len(line) > MaxLine || len(r.Chain) == wire.MaxChain {
		return fmt.Errorf("%w: more keys than can vouch for another", ErrForm)
	}
	if err := decode(line, &s); err != nil {
		return err
	}
	r.Chain = append(r.Chain, s)
	return nil
}

func readLine(line []byte) (Receipt, error) {
	var e envelope
	if len(line) > MaxLine {
		return Receipt{}, fmt.Errorf("%w: a line of %d bytes", ErrForm, len(line))
	}
	if err := decode(line, &e); err != nil {
		return Receipt{}, err
	}
	if e.PayloadType != PayloadType || len(e.Signatures) != 1 || len(e.Payload) > MaxStatement {
		return Receipt{}, fmt.Errorf("%w: not one in-toto statement with one signature", ErrForm)
	}
	// Verified first, decoded second: nothing is read out of what nobody signed.
	s := e.Signatures[0]
	if err := Verify(e.Payload, s.Sig, s.KeyID); err != nil {
		return Receipt{}, err
	}
	r := Receipt{Statement: e.Payload, Sig: s.Sig}
	if err := decode(e.Payload, &r.Content); err != nil {
		return Receipt{}, err
	}
	return r, r.sound(s.KeyID)
}

// sound checks what is true of each statement that [Statement] makes.
func (c Content) sound(signer string) error {
	p := c.Predicate
	at, err := time.Parse(time.RFC3339, p.At)
	wrong := ""
	switch {
	case c.Type != StatementType || c.PredicateType != PredicateType:
		wrong = "it is a statement of another kind"
	case p.Responder != signer:
		wrong = "it says that another key approved than the one that signed"
	case err != nil || at.Unix() <= 0 || at.UTC().Format(time.RFC3339) != p.At:
		wrong = "its time is malformed"
	case p.Attempt < 1 || p.Approvals < 1 || p.Approvals > MaxReceipts:
		wrong = "its attempt or the people it needs are out of range"
	case p.Artifacts == nil || len(p.Artifacts) > wire.MaxArtifacts || len(p.Job) == 0 || p.Digest == wire.Digest{}:
		wrong = "it names no job, no request, or too many artifacts"
	default:
		want := c.subjects()
		if len(c.Subject) != len(want) {
			wrong = "its subjects are not what it says was approved"
		}
		for i := 0; wrong == "" && i < len(want); i++ {
			if c.Subject[i] != want[i] {
				wrong = "its subjects are not what it says was approved"
			}
		}
	}
	if wrong != "" {
		return fmt.Errorf("%w: %s", ErrForm, wrong)
	}
	return nil
}
