package wire

// The bodies that envelopes hold, and the messages that carry envelopes. Every
// time is in Unix seconds. Field names are lower-case ASCII.

import (
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// What a request asks its human for.
const (
	AskCode     = "code"     // a code, sealed to the job
	AskLink     = "link"     // to follow a link; the job sees for itself when it is done
	AskApproval = "approval" // a signed yes
)

// Why an attempt is asked for, as the job signs it.
const (
	ReasonFirst       = "first"
	ReasonRejected    = "rejected"    // the code of the attempt before was refused
	ReasonUndelivered = "undelivered" // the answer of the attempt before never came
	ReasonNext        = "next"        // the attempt before was good; one more is needed
)

// Proof names one CI job by claims of its ID token: issuer (as "iss"), ids of
// repository and owner, workflow, commit, run, job; which claims, the provider's
// row says (internal/ci). Each ID token that the job shows must hold the same.
type Proof map[string]string

// Request is what a job asks. Its envelope is signed by the job's key, made for
// this one request, whose name it is.
type Request struct {
	Key        string   `json:"key"`     // the job's public key, U…
	Relay      string   `json:"relay"`   // the relay's name, as in the token's audience
	Project    string   `json:"project"` // the project at that relay
	Ask        string   `json:"ask"`     // AskCode, AskLink or AskApproval
	Service    string   `json:"service"` // what it is for: npm, rubygems, …
	Format     string   `json:"format"`  // the code's form, see Format
	Message    string   `json:"message"` // the job's own words; may be empty
	Made       int64    `json:"made"`
	Deadline   int64    `json:"deadline"`
	HPKE       Bytes    `json:"hpke"`                 // X25519 public key, 32 bytes (RFC 9180)
	Responders []string `json:"responders,omitempty"` // accepted signing keys; empty: any enrolled one
	Approvals  int      `json:"approvals,omitempty"`  // people who must agree; 0 is 1
	TypeMatch  bool     `json:"type_match,omitempty"` // the human must type the match code
	// What is to be approved or followed a link for: files by their digest.
	Artifacts []Artifact `json:"artifacts,omitempty"`
	Proof     Proof      `json:"proof"`
}

// Artifact is one file that a request is about. All but name, digest and size
// is the job's own word; what counts is the digest.
type Artifact struct {
	Name    string `json:"name"`   // the file's base name
	SHA256  Digest `json:"sha256"` // of its bytes
	Size    int64  `json:"size"`   // in bytes
	Package string `json:"package,omitempty"`
	Version string `json:"version,omitempty"`
	Stage   string `json:"stage,omitempty"` // id of the staged version at npm, a UUID
}

// Alive answers a responder's challenge: the job is running, asks for this
// attempt, and why. A fresh ID token travels beside it.
type Alive struct {
	Key       string `json:"key"`
	Digest    Digest `json:"digest"`
	Attempt   int    `json:"attempt"`
	Reason    string `json:"reason"`
	Nonce     Bytes  `json:"nonce"`             // of the challenge
	Connect   string `json:"connect"`           // the challenger's connecting key
	Responder string `json:"responder"`         // the challenger's signing key
	Link      string `json:"link,omitempty"`    // to follow, where a link is asked for; see CheckLink
	Details   string `json:"details,omitempty"` // the job's own words, for a human who wants to read more; several lines
}

// Got is the receipt: the answer of this attempt opened.
type Got struct {
	Key     string `json:"key"`
	Digest  Digest `json:"digest"`
	Attempt int    `json:"attempt"`
	Sealed  Digest `json:"sealed"` // hash of what opened
}

// Why a code was rejected.
const (
	RejectedRefused  = "refused"  // the service did not take it
	RejectedUnusable = "unusable" // it did not open, or has not the form asked for
)

// Rejected sends the request back to the humans as the next attempt.
type Rejected struct {
	Key     string `json:"key"`
	Digest  Digest `json:"digest"`
	Attempt int    `json:"attempt"`
	Why     string `json:"why"`
	Shut    string `json:"shut,omitempty"` // signing key whose answer was unusable: shut out of this request
}

// Next asks for one more answer after a good one.
type Next struct {
	Key     string `json:"key"`
	Digest  Digest `json:"digest"`
	Attempt int    `json:"attempt"`
}

// How a request ended, as the job says it.
const (
	OutcomeOK     = "ok"
	OutcomeFailed = "failed"
)

// Done ends the request: the code was handed over, the link was followed.
type Done struct {
	Key     string `json:"key"`
	Digest  Digest `json:"digest"`
	Attempt int    `json:"attempt"`
	Outcome string `json:"outcome"`
}

// Cancel withdraws the request.
type Cancel struct {
	Key    string `json:"key"`
	Digest Digest `json:"digest"`
	Why    string `json:"why"`
}

// Challenge is sent when a human opens a prompt. Its signer is the responder's
// signing key.
type Challenge struct {
	Key     string `json:"key"`     // the responder's signing key, A…
	Connect string `json:"connect"` // its connecting key, U…
	Digest  Digest `json:"digest"`
	Nonce   Bytes  `json:"nonce"` // 16 random bytes
	// Of a key that succeeds others: how, up to Key.
	Chain []Succession `json:"chain,omitempty"`
}

// What a responder decides.
const (
	DecisionCode = "code" // a sealed code
	DecisionYes  = "yes"  // an approval
)

// Answer is a responder's answer to one attempt. The sealed code travels beside
// the envelope; only its hash is in it.
type Answer struct {
	Key      string `json:"key"` // the responder's signing key
	Digest   Digest `json:"digest"`
	Attempt  int    `json:"attempt"`
	Ask      string `json:"ask"`
	Decision string `json:"decision"`
	Sealed   Digest `json:"sealed"` // zero for an approval
	// With a yes to an approval, and then always: when it was said, and the
	// signature over the receipt's statement (internal/receipt), which the job
	// can make by itself.
	At      int64 `json:"at,omitempty"`
	Receipt Bytes `json:"receipt,omitempty"`
	// As in a challenge.
	Chain []Succession `json:"chain,omitempty"`
}

// Decline is a human's no. It is final.
type Decline struct {
	Key     string `json:"key"`
	Digest  Digest `json:"digest"`
	Attempt int    `json:"attempt"`
	Reason  string `json:"reason"`
	// As in a challenge.
	Chain []Succession `json:"chain,omitempty"`
}

func (*Request) kind() Kind   { return KindRequest }
func (*Alive) kind() Kind     { return KindAlive }
func (*Got) kind() Kind       { return KindGot }
func (*Rejected) kind() Kind  { return KindRejected }
func (*Next) kind() Kind      { return KindNext }
func (*Done) kind() Kind      { return KindDone }
func (*Cancel) kind() Kind    { return KindCancel }
func (*Challenge) kind() Kind { return KindChallenge }
func (*Answer) kind() Kind    { return KindAnswer }
func (*Decline) kind() Kind   { return KindDecline }

func (b *Request) signer() string   { return b.Key }
func (b *Alive) signer() string     { return b.Key }
func (b *Got) signer() string       { return b.Key }
func (b *Rejected) signer() string  { return b.Key }
func (b *Next) signer() string      { return b.Key }
func (b *Done) signer() string      { return b.Key }
func (b *Cancel) signer() string    { return b.Key }
func (b *Challenge) signer() string { return b.Key }
func (b *Answer) signer() string    { return b.Key }
func (b *Decline) signer() string   { return b.Key }

var (
	relayName   = regexp.MustCompile(`^[a-z0-9.-]{1,253}$`)
	projectName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)
	serviceName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	stageID     = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
	proofName   = regexp.MustCompile(`^[a-z0-9._/-]{1,64}$`)
)

// CheckRelayName says whether s can name a relay: [a-z0-9.-]{1,253}, no port.
func CheckRelayName(s string) error {
	if !relayName.MatchString(s) {
		return malformed("not a relay name ([a-z0-9.-], 1 to 253 characters, no port)")
	}
	return nil
}

// CheckProject says whether s can name a project: [a-z0-9][a-z0-9_-]{0,62}.
func CheckProject(s string) error {
	if !projectName.MatchString(s) {
		return malformed("not a project name (a-z, 0-9, _ and -, 1 to 63 characters, beginning with a letter or digit)")
	}
	return nil
}

func (b *Request) check() error {
	if err := CheckConnectKey(b.Key); err != nil {
		return err
	}
	if err := CheckRelayName(b.Relay); err != nil {
		return err
	}
	if err := CheckProject(b.Project); err != nil {
		return err
	}
	if !slices.Contains([]string{AskCode, AskLink, AskApproval}, b.Ask) {
		return malformed("asks for neither a code, a link nor an approval")
	}
	if !serviceName.MatchString(b.Service) {
		return malformed("not a service name (a-z, 0-9, ., _ and -, 1 to 63 characters)")
	}
	if _, err := ParseFormat(b.Format); err != nil {
		return err
	}
	if err := checkText("message", b.Message); err != nil {
		return err
	}
	if b.Made <= 0 || b.Deadline <= b.Made || b.Deadline-b.Made > int64(LongestWait.Seconds())+600 {
		return malformed("deadline is not within %s of when the request was made", LongestWait)
	}
	if len(b.HPKE) != 32 {
		return malformed("HPKE public key is not 32 bytes")
	}
	if len(b.Responders) > 32 {
		return malformed("more than 32 responders")
	}
	for i, r := range b.Responders {
		if err := CheckSigningKey(r); err != nil {
			return err
		}
		if slices.Contains(b.Responders[:i], r) {
			return malformed("a responder stands there twice")
		}
	}
	if b.Approvals < 0 || b.Approvals > 2 {
		return malformed("approvals is neither 1 nor 2")
	}
	// Without pinned keys a relay could enrol a second "person" of its own.
	if (b.Approvals == 2 || b.Ask == AskApproval) && len(b.Responders) == 0 {
		return malformed("approvals need pinned responders")
	}
	if b.Ask != AskCode && b.Format != "any" {
		return malformed("a format other than any, though no code is asked for")
	}
	// A yes must be a yes to something.
	if b.Ask == AskApproval && b.Message == "" && len(b.Artifacts) == 0 {
		return malformed("an approval of nothing: neither a message nor artifacts")
	}
	if err := checkArtifacts(b.Ask, b.Artifacts); err != nil {
		return err
	}
	if b.Proof["iss"] == "" || len(b.Proof) < 2 || len(b.Proof) > 24 {
		return malformed("proof names no job")
	}
	for name, value := range b.Proof {
		if !proofName.MatchString(name) || len(value) > 1024 {
			return malformed("proof has a claim of a wrong form")
		}
	}
	return nil
}

func (b *Alive) check() error {
	if err := checkStep(b.Key, b.Attempt); err != nil {
		return err
	}
	if err := CheckConnectKey(b.Connect); err != nil {
		return err
	}
	if err := CheckSigningKey(b.Responder); err != nil {
		return err
	}
	if len(b.Nonce) != 16 {
		return malformed("challenge is not 16 bytes")
	}
	if !slices.Contains([]string{ReasonFirst, ReasonRejected, ReasonUndelivered, ReasonNext}, b.Reason) {
		return malformed("unknown reason for an attempt")
	}
	if (b.Reason == ReasonFirst) != (b.Attempt == 1) {
		return malformed("reason does not fit the attempt")
	}
	if len(b.Details) > MaxDetails || !utf8.ValidString(b.Details) {
		return malformed("details are longer than %d bytes or not UTF-8", MaxDetails)
	}
	if b.Link != "" {
		return CheckLink(b.Link)
	}
	return nil
}

func (b *Got) check() error  { return checkStep(b.Key, b.Attempt) }
func (b *Next) check() error { return checkStep(b.Key, b.Attempt) }

func (b *Rejected) check() error {
	if err := checkStep(b.Key, b.Attempt); err != nil {
		return err
	}
	switch b.Why {
	case RejectedRefused:
		if b.Shut != "" {
			return malformed("a refused code shuts nobody out")
		}
		return nil
	case RejectedUnusable:
		return CheckSigningKey(b.Shut)
	}
	return malformed("unknown reason for a rejection")
}

func (b *Done) check() error {
	if b.Outcome != OutcomeOK && b.Outcome != OutcomeFailed {
		return malformed("unknown outcome")
	}
	return checkStep(b.Key, b.Attempt)
}

func (b *Cancel) check() error {
	if err := CheckConnectKey(b.Key); err != nil {
		return err
	}
	return checkText("reason", b.Why)
}

func (b *Challenge) check() error {
	if err := CheckSigningKey(b.Key); err != nil {
		return err
	}
	if len(b.Nonce) != 16 {
		return malformed("challenge is not 16 bytes")
	}
	if err := checkChain(b.Chain, b.Key); err != nil {
		return err
	}
	return CheckConnectKey(b.Connect)
}

func (b *Answer) check() error {
	if err := CheckSigningKey(b.Key); err != nil {
		return err
	}
	if b.Attempt < 1 || b.Attempt > maxAttempt {
		return malformed("attempt out of range")
	}
	switch {
	case b.Decision == DecisionCode && b.Ask == AskCode && b.Sealed != (Digest{}):
	case b.Decision == DecisionYes && b.Sealed == (Digest{}) && slices.Contains([]string{AskCode, AskLink, AskApproval}, b.Ask):
	default:
		return malformed("the decision does not fit what was asked")
	}
	switch approved := b.Decision == DecisionYes && b.Ask == AskApproval; {
	case approved && (b.At <= 0 || len(b.Receipt) != 64):
		return malformed("an approval without its time and receipt")
	case !approved && (b.At != 0 || len(b.Receipt) != 0):
		return malformed("a receipt of what is no approval")
	}
	return checkChain(b.Chain, b.Key)
}

func (b *Decline) check() error {
	if err := CheckSigningKey(b.Key); err != nil {
		return err
	}
	if b.Attempt < 1 || b.Attempt > maxAttempt {
		return malformed("attempt out of range")
	}
	if err := checkChain(b.Chain, b.Key); err != nil {
		return err
	}
	return checkText("reason", b.Reason)
}

// checkArtifacts refuses what a human could misread, or a receipt could not name.
func checkArtifacts(ask string, list []Artifact) error {
	switch {
	case len(list) > MaxArtifacts:
		return malformed("more than %d artifacts", MaxArtifacts)
	case len(list) > 0 && ask == AskCode:
		return malformed("artifacts, though a code is asked for")
	}
	for i, a := range list {
		switch {
		// A path would say where a file was at the job, and nothing of what it is.
		case !printable(a.Name, 1, 200) || strings.ContainsAny(a.Name, `/\`) || a.Name == "." || a.Name == "..":
			return malformed("not an artifact's name (a file's base name, 1 to 200 printable ASCII characters)")
		// Two subjects of one name could be told apart by nobody who reads a receipt.
		case slices.ContainsFunc(list[:i], func(b Artifact) bool { return a.Name == b.Name }):
			return malformed("two artifacts of one name")
		case a.SHA256 == Digest{}:
			return malformed("an artifact without a digest")
		case a.Size < 0 || a.Size > maxSize:
			return malformed("an artifact's size is out of range")
		case !printable(a.Package, 0, 214) || !printable(a.Version, 0, 256) || a.Version != "" && a.Package == "":
			return malformed("an artifact's package or version is too long or not printable ASCII, or a version stands alone")
		case a.Stage != "" && CheckStage(a.Stage) != nil:
			return CheckStage(a.Stage)
		}
	}
	return nil
}

// maxSize is what each JSON reader can hold exactly.
const maxSize = 1<<53 - 1

// CheckStage says whether s can be the id of a staged version: a lower-case
// UUID, so that it can stand in a command as it is.
func CheckStage(s string) error {
	if !stageID.MatchString(s) {
		return malformed("not the id of a staged version (a UUID in lower case)")
	}
	return nil
}

// printable says whether s is least to most characters of ASCII that show.
func printable(s string, least, most int) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] >= 0x7F {
			return false
		}
	}
	return len(s) >= least && len(s) <= most
}

const maxAttempt = 1000

func checkStep(key string, attempt int) error {
	if attempt < 1 || attempt > maxAttempt {
		return malformed("attempt out of range")
	}
	return CheckConnectKey(key)
}

func checkText(what, s string) error {
	if len(s) > MaxText || !utf8.ValidString(s) {
		return malformed("%s is longer than %d bytes or not UTF-8", what, MaxText)
	}
	return nil
}

// What follows carries envelopes. None of it is signed, so none of it is
// believed: it only says where to look.

// RequestMessage goes to a job's `request` subject.
type RequestMessage struct {
	Request Envelope `json:"request"`
	Token   string   `json:"token"` // ID token, compact serialisation
}

// StateQuery goes to a job's `state` subject: "I am here, and have revision Rev".
type StateQuery struct {
	Rev uint64 `json:"rev"`
}

// AliveMessage goes to a job's `alive` subject.
type AliveMessage struct {
	Alive Envelope `json:"alive"`
	Token string   `json:"token"`
}

// StepMessage goes to a job's `got`, `rejected`, `next`, `done` and `cancel`.
type StepMessage struct {
	Step Envelope `json:"step"`
}

// PendingQuery goes to a responder's `pending` subject.
type PendingQuery struct {
	After string   `json:"after,omitempty"` // the last request key of the page before
	Known []string `json:"known,omitempty"` // request keys the responder still shows (at most 64): how did they end?
}

// OpenMessage goes to a responder's `open` subject.
type OpenMessage struct {
	Key       string   `json:"key"` // the request's
	Challenge Envelope `json:"challenge"`
}

// AnswerMessage goes to a responder's `answer` subject.
type AnswerMessage struct {
	Key    string   `json:"key"`
	Answer Envelope `json:"answer"`
	Sealed *Sealed  `json:"sealed,omitempty"` // absent for an approval
}

// DeclineMessage goes to a responder's `decline` subject.
type DeclineMessage struct {
	Key     string   `json:"key"`
	Decline Envelope `json:"decline"`
}

// State is what the relay says of a request. Envelopes in it can be verified;
// the rest is the relay's word.
type State struct {
	Rev      uint64    `json:"rev"` // grows with each change
	State    string    `json:"state"`
	Attempt  int       `json:"attempt"`
	Reason   string    `json:"reason"`
	Deadline int64     `json:"deadline"`
	OnCall   []string  `json:"on_call,omitempty"` // names; empty where names are hidden
	Ready    int       `json:"ready"`             // how many responders are connected
	Enrolled int       `json:"enrolled"`          // how many could answer
	After    int64     `json:"after,omitempty"`   // seconds without an answer, for which more are asked by now; 0: nobody more
	Then     []string  `json:"then,omitempty"`    // names of those; empty where names are hidden
	Skipped  bool      `json:"skipped,omitempty"` // those are asked before their time, because too few of those before them could answer
	Away     []Absent  `json:"away,omitempty"`    // who is asked by now, could answer, and is away
	Opened   []string  `json:"opened,omitempty"`  // whose responders show it
	By       string    `json:"by,omitempty"`      // who answered or declined
	Why      string    `json:"why,omitempty"`     // how it ended
	Answer   *Envelope `json:"answer,omitempty"`
	Decline  *Envelope `json:"decline,omitempty"`
	Sealed   string    `json:"sealed,omitempty"` // hex hash of the current answer's sealed form
}

// Item is one request as a responder is told of it.
type Item struct {
	Key     string   `json:"key"`
	Request Envelope `json:"request"`
	State   State    `json:"state"`
}

// Ended is the end of a request that a responder asked after.
type Ended struct {
	Key   string `json:"key"`
	State State  `json:"state"`
}

// Page is the answer to a PendingQuery.
type Page struct {
	Items []Item  `json:"items,omitempty"`
	Ended []Ended `json:"ended,omitempty"`
	More  bool    `json:"more,omitempty"` // ask again after the last key
	// Away is the responder's own word, while it is in force.
	Away *Envelope `json:"away,omitempty"`
}

// Codes of a refusal: what a program decides on. The text is for people.
const (
	RefusedMalformed = "malformed"   // the message has not the right form
	RefusedSignature = "signature"   // it is not signed by whom it says
	RefusedVersion   = "version"     // one side must be upgraded
	RefusedToken     = "token"       // the ID token is not accepted
	RefusedPolicy    = "policy"      // no rule fits, or there is no such project
	RefusedLimit     = "limit"       // too long, too many, too often
	RefusedKeyUsed   = "key-used"    // this key already names another request
	RefusedUnknown   = "unknown"     // no such request here
	RefusedTaken     = "taken"       // someone was first
	RefusedEnded     = "ended"       // the request is over
	RefusedAttempt   = "attempt"     // another attempt is open
	RefusedNotYours  = "not-yours"   // this key may not do that here
	RefusedTooSoon   = "too-soon"    // ask again later
	RefusedDeclined  = "declined"    // a human has said no to this run of the CI
	RefusedBusy      = "unavailable" // the relay cannot say now; try again
)

// Refusal says what the relay would not do, why, and what would mend it.
type Refusal struct {
	Code string `json:"code"`
	Why  string `json:"why"`
	Mend string `json:"mend,omitempty"`
}

func (r *Refusal) Error() string {
	if r.Mend == "" {
		return r.Why
	}
	return r.Why + "; " + r.Mend
}

// Reply is the relay's reply to any of the messages above.
type Reply struct {
	V       int       `json:"v"`
	State   *State    `json:"state,omitempty"`
	Page    *Page     `json:"page,omitempty"`
	Joined  *Joined   `json:"joined,omitempty"`
	Rotated string    `json:"rotated,omitempty"` // to a RotateMessage: the signing key that counts now
	Away    *Envelope `json:"away,omitempty"`    // to an AwayMessage: the responder's newest statement on record, if there is one
	Refused *Refusal  `json:"refused,omitempty"`
}

// Kinds of hint.
const (
	HintState     = "state"     // to a job or on a project's subject: something changed, read again
	HintAnswer    = "answer"    // to a job: a signed answer with its sealed code
	HintChallenge = "challenge" // to a job: a responder wants to see that it runs
	HintAlive     = "alive"     // to a responder: the job's answer to its challenge
)

// Hint is what the relay pushes. A lost one costs at most one re-read.
type Hint struct {
	Hint     string    `json:"hint"`
	Key      string    `json:"key"` // the request's
	Rev      uint64    `json:"rev,omitempty"`
	Envelope *Envelope `json:"envelope,omitempty"` // answer, challenge or alive
	Sealed   *Sealed   `json:"sealed,omitempty"`
	Token    string    `json:"token,omitempty"`
}

// Check says whether s has the form of a sealed answer.
func (s Sealed) Check() error { return s.check() }
