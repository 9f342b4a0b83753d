// Package answer is the responder's side of the protocol: what waits for its
// human, whether that is what it says it is, and the human's answer on its way.
//
// The rule it keeps: **nothing that the relay says is shown as true, and no code
// leaves for a job that has not just proved itself.** What a relay passes on is
// a key, a signed request and a claim about its state. The desk opens it: it
// sends the job a challenge, and verifies the ID token and the signed *alive*
// that come back (trust.Verify) against the CI's published keys and against
// this human's own pins. Only what that token says becomes a fact in a prompt,
// and only for that attempt, and only for ten minutes; then the job is asked
// anew.
//
// A way to ask a human (a terminal, a dialog, a chat) is an [Asker]. It knows
// no cryptography: it is handed snapshots and hands back what the human
// decided, and [Desk.Answer] judges by itself whether that may be answered. So
// a way to ask that is wrong, old or confused can show a prompt badly, but it
// cannot answer one that is not verified.
//
// A code lives in this process until it is sealed, which is at once. What is
// sealed is kept until the job has confirmed it, 75 seconds at most, and the
// same bytes are sent again until then.
package answer

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

// Asker is a way to ask a human. Several can run at once.
type Asker interface {
	// Ask shows what news brings and passes decisions on, until news is closed.
	// ctx ends a moment later, for an asker that holds something which does not
	// end by itself. If Ask returns before news is closed, the desk quits: nil
	// for a human who had enough, an error for what went wrong. An error from an
	// asker of a desk that is quitting already ends it at once, with whatever
	// was on its way.
	//
	// An asker that cannot show a prompt, or cannot take what it needs (a typed
	// match code, a link), leaves it alone: nobody is asked, nothing is answered.
	Ask(ctx context.Context, news <-chan News, desk Decisions) error
}

// Discreet is an [Asker] that can know of what comes while its human is away
// without disturbing them: it is told of it ([Prompt].Quiet), and of absences. Any
// other hears nothing of either until the human is back.
type Discreet interface {
	Asker
	Discreet()
}

// News is what an asker is told: a prompt's newest snapshot, or a notice.
// Snapshots in between may be left out when an asker is slow.
type News struct {
	Prompt *Prompt  // new, changed or over
	Away   *Absence // the human is away, or is back
	Notice string   // something a person should know; safe to show
}

// Decisions is what an asker can do. All of it may be called at any time from
// any goroutine.
type Decisions interface {
	// Open says that a human is shown this prompt: the job is asked to prove
	// itself now, and again before each proof runs out, until the prompt is
	// over. Called again it asks anew, at most every 5 seconds.
	Open(id string)
	// Answer gives a code or, where Prompt.Yes is set, the human's yes: no code, and
	// the match code as typed. nil means that it is signed and on its way, and the
	// prompt's snapshots say what becomes of it. ErrCode and ErrMatch are a
	// human's typing errors; any other error says why this cannot be answered.
	Answer(ctx context.Context, a Answer) error
	// AnswerAll gives one code to several prompts of one group, sealed for each
	// job by itself. What cannot be answered now is left out, and left says why;
	// with an error nothing was sent at all. It is Answer's, and ErrOneEach where
	// the service takes a code only once: then the match code counts for each of
	// them, at this attempt, and Answer is called for one after the other.
	AnswerAll(ctx context.Context, a Together) (left []LeftOut, err error)
	// UseSource has the program that Prompt.Source names give the code, because the
	// human has chosen that for this attempt; a.Code is "". It returns when the code is
	// sealed and on its way, which may take a human's touch of a key: a minute. It is
	// Answer's otherwise, and ErrSource where no code came of it. The program is
	// stopped when ctx ends, or the prompt cannot be answered any more.
	UseSource(ctx context.Context, a Answer) error
	// Follow gives the link that a human is to follow, where that is what is
	// asked, after the same checks as Answer. Nothing is sent: the job sees for
	// itself what becomes of it.
	Follow(ctx context.Context, a Answer) (link string, err error)
	// Decline says no. It is final for the request, and may also be said to
	// what is not verified.
	Decline(ctx context.Context, id, reason string) error
	// Away says to the relay that this human is away until then, or with the zero
	// time, back. nil means that it is signed and on its way; News says when the
	// relay has it, or why not. ErrUntil is a human's typing error.
	Away(ctx context.Context, until time.Time) error
	// Quit ends the desk, after what is on its way has arrived.
	Quit()
}

// Answer is a human's answer to one attempt of one prompt.
type Answer struct {
	ID      string `json:"id"`      // the prompt's
	Attempt int    `json:"attempt"` // as shown: a code meant for one attempt is not used for the next
	Code    string `json:"code"`    // "" for an approval and a link
	Match   string `json:"match"`   // the match code as typed, where the prompt demands it
}

// Together is a human's answer to several prompts that one run asks for together.
type Together struct {
	// Members are the prompts, as shown: what has come since gets nothing.
	Members []Member `json:"members"`
	Code    string   `json:"code"`
	Match   string   `json:"match"` // the match code of any of them, as typed
}

// Member is one attempt of one prompt.
type Member struct {
	ID      string `json:"id"`
	Attempt int    `json:"attempt"`
}

// LeftOut is a member that got nothing.
type LeftOut struct {
	ID  string
	Err error // as Answer's
}

var (
	// ErrOneEach says that prompts of a group must each have a code of their own.
	ErrOneEach = errors.New("the service takes each code once, so that each needs one of its own")
	// ErrCode says that the code has not the form that the job asked for.
	ErrCode = errors.New("the code has not the form that was asked for")
	// ErrMatch says that the typed match code is not the request's.
	ErrMatch = errors.New("that is not this request's match code")
	// ErrNotAnswerable says that this prompt cannot be answered (now).
	ErrNotAnswerable = errors.New("this prompt cannot be answered")
	// ErrNotEnrolled says that the relay does not let this responder in.
	ErrNotEnrolled = errors.New("the relay refuses this responder's connecting key")
)

// Phase is where a prompt is for its humans.
type Phase string

// The phases.
const (
	Asking  Phase = "asking"  // it waits for a human
	Sending Phase = "sending" // this responder's answer or decline is on its way
	Resting Phase = "resting" // it has an answer; it may come back
	Over    Phase = "over"    // it has ended
)

// Standing is how far a prompt is proved.
type Standing string

// The standings. Only Verified can be answered.
const (
	Unopened Standing = "unopened" // nobody has asked the job to prove itself
	Checking Standing = "checking" // the job was asked and has not answered yet
	Unproven Standing = "unproven" // the proof failed, or never came: the why says how
	Unpinned Standing = "unpinned" // the token is genuine, but this human's pins do not know the project
	Foreign  Standing = "foreign"  // the token is genuine, but of another job than the pins allow
	Verified Standing = "verified" // the token is genuine and fits the pins
)

// Facts is what the verified ID token says, as ci.Facts, with each text made
// safe to show. What the token does not say is "".
type Facts struct {
	Repository   string `json:"repository,omitempty"`
	Workflow     string `json:"workflow,omitempty"` // the name it gives itself
	WorkflowFile string `json:"workflow_file,omitempty"`
	Ref          string `json:"ref,omitempty"`
	SHA          string `json:"sha,omitempty"`
	Environment  string `json:"environment,omitempty"`
	Event        string `json:"event,omitempty"`
	Actor        string `json:"actor,omitempty"`
	RunURL       string `json:"run_url,omitempty"`
	RunID        string `json:"run_id,omitempty"`
	RunAttempt   string `json:"run_attempt,omitempty"`
	Job          string `json:"job,omitempty"`
	Runner       string `json:"runner,omitempty"`
	Group        string `json:"group,omitempty"` // equal for what one run asks together
}

// Prompt is a snapshot of one request, as its human may see it. All text is
// safe to show (wire.Clean). Until the standing is Verified, Foreign or
// Unpinned nothing is known of the job, and Facts, Service, Format, Message,
// Match and Reason are empty.
type Prompt struct {
	ID     string `json:"id"`     // the request's key
	Number int    `json:"number"` // counts from 1, for people

	Phase      Phase    `json:"phase"`
	Standing   Standing `json:"standing"`
	Answerable bool     `json:"answerable"`
	// Why says why it cannot be answered, or how it ended. It may have several
	// lines.
	Why string `json:"why,omitempty"`
	// Note says what became of this responder's last answer; empty while it is
	// not known, and before there is one.
	Note string `json:"note,omitempty"`

	// Quiet: it came while the human is away, and is not to be brought before them.
	// Open, which a human asks for by hand, ends that, and so does their return.
	Quiet bool `json:"quiet,omitempty"`

	Relay   string `json:"relay,omitempty"`   // the relay that passed it on
	Project string `json:"project,omitempty"` // as whose request the relay passes it on
	Rule    string `json:"rule,omitempty"`    // the pin that fits

	Facts Facts `json:"facts"`
	// New names the facts that this human meets for the first time in the project:
	// NewActor and so on. Only of what is verified, and asked.
	New     []string `json:"new,omitempty"`
	Ask     string   `json:"ask,omitempty"`     // wire.AskCode, …
	Service string   `json:"service,omitempty"` // what the code is for, by the job's own word
	Format  string   `json:"format,omitempty"`  // the code's form, in words
	Message string   `json:"message,omitempty"` // the job's own words
	Match   string   `json:"match,omitempty"`   // to compare with the job's log; empty where TypeMatch
	// TypeMatch: the human must type the match code, read off the job's log.
	TypeMatch bool `json:"type_match,omitempty"`
	// Group is equal for verified prompts that one run asks for together: all of
	// their facts are the same but the job. Empty where a prompt is to be judged
	// alone. Reusable: the service lets one code be used for each of them.
	Group    string `json:"group,omitempty"`
	Reusable bool   `json:"reusable,omitempty"`
	// Source is what the human calls the program that can give the code, if they have
	// named one: see [Decisions].UseSource.
	Source string `json:"source,omitempty"`

	// LinkHost and Link are where a human is to go, where a link is asked for and
	// its host is allowed: the newest one, for it is made anew with each opening.
	// Link is empty where TypeMatch: see [Decisions].Follow.
	LinkHost string `json:"link_host,omitempty"`
	Link     string `json:"link,omitempty"`
	// Artifacts are the files that it is about; all but digest and size are the
	// job's own words.
	Artifacts []Artifact `json:"artifacts,omitempty"`
	Approvals int        `json:"approvals,omitempty"` // people who must agree, of an approval or where they are two
	Agreed    int        `json:"agreed,omitempty"`    // how many of them have, by the job's signed word
	Yes       bool       `json:"yes,omitempty"`       // what is asked for now is a yes: no code, and the match code as typed
	Details   string     `json:"details,omitempty"`   // the job's own words for who wants to read more; several lines

	Attempt  int       `json:"attempt"`
	Reason   string    `json:"reason,omitempty"` // wire.ReasonFirst, …: why there is this attempt, signed by the job
	Since    time.Time `json:"since"`            // when it was asked, by the job's word
	Deadline time.Time `json:"deadline"`
	Opened   string    `json:"opened,omitempty"` // whose responders show it, by the relay's word
	By       string    `json:"by,omitempty"`     // who answered or declined, by the relay's word
}

// Artifact is one file that a prompt is about, safe to show.
type Artifact struct {
	Name    string `json:"name,omitempty"`
	SHA256  string `json:"sha256,omitempty"` // 64 hex digits
	Size    int64  `json:"size"`
	Package string `json:"package,omitempty"`
	Version string `json:"version,omitempty"`
	Stage   string `json:"stage,omitempty"` // id of a staged version at npm, a UUID: what `npm stage approve` takes
}

// The facts of which a first sight is marked: what Prompt.New holds.
const (
	NewRepository  = "repository"
	NewWorkflow    = "workflow"
	NewRef         = "ref"
	NewEnvironment = "environment"
	NewActor       = "actor"
)

// Memory remembers what a human has answered. It is asked in a desk's own
// goroutine, so that it must not wait for anything, and by several desks at once.
type Memory interface {
	// New names the facts of a verified job that are not among what was answered of
	// its project, in the order of the constants above.
	New(relay, project string, f Facts) []string
	// Answered notes that the human has just answered a job with these.
	Answered(relay, project string, f Facts)
}

// Verifier verifies the chain of proof; *trust.Verifier is the one there is.
type Verifier interface {
	Verify(ctx context.Context, e trust.Evidence) (*trust.Job, error)
}

// Trust is what a responder believes by itself: the CIs' keys and its human's
// pins. It is replaced as a whole ([Desk.SetTrust]).
type Trust struct {
	Verifier Verifier
	Pins     *trust.Policy // nil: no pins, so nothing can be answered
	// Links are hosts that a project's links may lead to by this human's own
	// word, to whichever page there, beside those of the service.
	Links map[string][]string
	// TypeMatch are projects whose match codes this human wants to type, whatever a
	// job says: nothing takes that back.
	TypeMatch map[string]bool
}

// Config is what a desk needs.
type Config struct {
	Relay   *dial.Relay
	Connect nkeys.KeyPair // U…
	Sign    nkeys.KeyPair // A…
	// Chain is how Sign succeeds older keys, for jobs that pin one of these.
	Chain  []wire.Succession
	Trust  Trust
	Askers []Asker
	Log    *slog.Logger // nil: none
	// Memory is what its human has answered before; nil: nothing is marked as new.
	Memory Memory
	// LinkPath gives the path under which a service's links lead to a host, if they
	// do; nil: none does.
	LinkPath func(service, host string) (path string, known bool)
	// Reusable says whether a service lets a code be used more than once; nil: no.
	Reusable func(service string) bool
	// Sources are where codes can come from besides a human's fingers; nil: none.
	Sources Sources
	// ConnectWithin is how long the first connection may take before Run fails
	// with dial.ErrUnreachable; 0: for ever. A lost one is sought for ever.
	ConnectWithin time.Duration
	// Patient: nothing about a connection is final, not even a first one: a program
	// in the background outlives a captive portal, a certificate that is renewed too
	// late, and the wait until it is enrolled.
	Patient bool
}

// relayConn is a connection to a relay; *dial.Conn.
type relayConn interface {
	Request(ctx context.Context, subject string, msg any) (wire.Reply, error)
	Listen(subject string) error
	Hints() <-chan wire.Hint
	Closed() <-chan struct{}
	Close()
}

// Line is the connection to one relay.
type Line struct {
	Relay     string    `json:"relay"`
	Connected bool      `json:"connected"`
	Since     time.Time `json:"since"`
	Why       string    `json:"why,omitempty"` // there is none; safe to show
}

// Desk is one responder at one relay.
type Desk struct {
	config  Config
	log     *slog.Logger
	relay   string // name
	connect string // public keys
	sign    string
	dial    func(context.Context) (relayConn, error)

	do   chan func()   // what Run's goroutine is to do
	done chan struct{} // closed when Run has ended
	work context.Context
	line atomic.Pointer[Line]

	// All that follows belongs to Run's goroutine.
	trust    Trust
	couriers []*Courier
	err      error // what Run will return
	ended    bool
	quit     bool

	conn      relayConn
	since     time.Time // when connecting began
	wasUp     bool
	upAt      time.Time
	brief     int // connections in a row that did not live long
	backoff   time.Duration
	refusals  int
	refusedAt time.Time
	told      bool   // that there is no connection
	distrusts bool   // that its certificate is not accepted any more, and that was said
	waits     string // why, where a patient desk has said so
	listens   map[string]bool

	clock     func() (wall time.Time, ran time.Duration)
	lookedAt  time.Time // both, when the machine was last seen awake
	lookedRan time.Duration

	reading    bool
	readAgain  bool
	readBegan  time.Time
	nextRead   time.Time
	unanswered int
	ill        map[string]bool // requests that were complained about
	crowded    bool            // more is open than can be shown, and that was said

	away     wire.Away // the newest word of this responder that is known; zero: none
	isAway   bool
	toldAway time.Time // the end of the absence that askers know of
	saying   *saying   // nil: nothing is on its way
	saidAt   time.Time // when the relay last took a word

	prompts map[string]*prompt
	number  int
	over    map[string]tomb
}

// tomb remembers a request that has ended, so that a page which was read before
// that does not bring it back.
type tomb struct {
	rev      uint64
	deadline time.Time
}

// New makes a desk.
func New(c Config) (*Desk, error) {
	switch {
	case c.Relay == nil || c.Connect == nil || c.Sign == nil:
		return nil, errors.New("a desk needs a relay and both keys")
	case len(c.Askers) == 0:
		return nil, errors.New("a desk needs a way to ask")
	case c.Trust.Verifier == nil:
		return nil, errors.New("a desk needs a verifier")
	}
	d := newDesk(c, c.Relay.Name())
	if err := wire.CheckConnectKey(d.connect); err != nil {
		return nil, err
	}
	if err := wire.CheckSigningKey(d.sign); err != nil {
		return nil, err
	}
	d.dial = func(ctx context.Context) (relayConn, error) {
		conn, err := c.Relay.Connect(ctx, c.Connect, "")
		if err != nil {
			return nil, err
		}
		return conn, nil
	}
	return d, nil
}

func newDesk(c Config, relay string) *Desk {
	d := &Desk{
		config: c, log: c.Log, relay: relay,
		connect: wire.PublicKey(c.Connect), sign: wire.PublicKey(c.Sign),
		do: make(chan func()), done: make(chan struct{}), clock: clock(),
		trust: c.Trust, ill: map[string]bool{},
		prompts: map[string]*prompt{}, over: map[string]tomb{},
	}
	d.line.Store(&Line{Relay: relay, Since: now(), Why: "not connected yet"})
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	return d
}

// post has f run in Run's goroutine. It reports false if Run has ended.
func (d *Desk) post(f func()) bool {
	select {
	case d.do <- f:
		return true
	case <-d.done:
		return false
	}
}

// call is post, and waits for what f returns.
func (d *Desk) call(ctx context.Context, f func() error) error {
	result := make(chan error, 1)
	select {
	case d.do <- func() { result <- f() }:
	case <-d.done:
		return errGone
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return <-result
}

var errGone = errors.New("this responder is ending; nothing was sent")

// SetTrust replaces what is believed. Every proof is void with that: what is
// open must prove itself anew against the new pins.
func (d *Desk) SetTrust(t Trust) {
	d.post(func() {
		d.trust = t
		for _, p := range d.prompts {
			p.proof, p.challenge, p.failed, p.failures = nil, nil, "", 0
			p.vouchedAt = 0
			p.nextOpen = p.lastOpen.Add(openEvery)
		}
		d.listen()
	})
}
