// Package ask is the job's side of the protocol: it makes a request, keeps it
// alive through lost connections, shows each responder that the job runs, and
// opens the one answer that counts.
//
// The rule it keeps: the job is the arbiter. What a relay says without a
// signature (that a code was refused, that someone declined, which attempt is
// open) never makes the job give up an answer that it holds, sign something it
// did not decide, or end well. What it signs, it signs once for all: each
// signed step is sent again, byte for byte, until the relay has confirmed it.
//
// One goroutine owns a session's state and runs the protocol in its order (see
// run.go); the methods of [Session] only talk to it.
package ask

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

// Config says what is asked, of whom, and who asks.
type Config struct {
	Relay    *dial.Relay
	Provider *ci.Provider // where this job runs
	Env      ci.Env

	Project string // the project at the relay
	Ask     string // wire.AskCode, wire.AskLink or wire.AskApproval; empty: a code
	Service string // what the answer is for: npm, rubygems, …
	Format  string // the code's form, see [wire.Format]
	Message string // the job's own words to the human; may be empty

	Artifacts []wire.Artifact // the files that it is about; not for a code

	Responders []string // accepted signing keys (A…); empty: any that the relay accepts
	Approvals  int      // people who must agree; 0 is 1
	TypeMatch  bool     // the human must type the match code

	// Link makes the link of a wire.AskLink request, anew each time that a
	// responder opens the prompt: links die within minutes, and one that was made
	// with the request would be dead before its human came. It runs beside the
	// session; what it gives is signed into the proof that goes to that responder
	// only. It has 25 s, because the responder waits 30. It may be called again
	// while an earlier call still runs.
	Link func(ctx context.Context) (string, error)
	// Details is what a human may read on request: several lines, at most
	// wire.MaxDetails bytes. It is called when a prompt is opened, as Link is; nil,
	// or "": nothing.
	Details func(ctx context.Context) string

	Timeout time.Duration // from the first Await, at most wire.LongestWait

	// Tell is called with each thing that a reader of the log needs to know,
	// one at a time, and must not call the session. nil: nobody is told.
	Tell func(Event)
	// Log takes what only someone who mends this package needs. nil: nothing.
	Log *slog.Logger
}

// Answer is one accepted answer. However it is printed or logged, its code does
// not show.
type Answer struct {
	Responder string // signing key that the answer's signature was verified with; for a name see [Session.Name]
	Attempt   int    // 1 for the first

	receipt []byte

	// Behind a pointer, so that a formatting verb which reads fields of a struct
	// that holds an Answer finds an address.
	code *string
}

// Code is the code as the human gave it, in the form that was asked for; "" for
// an approval. It is printable ASCII.
func (a Answer) Code() string {
	if a.code == nil {
		return ""
	}
	return *a.code
}

// Receipt is the signed approval as a DSSE envelope, one line of JSON without a
// line break (see internal/receipt); nil for a code. Its signature was verified
// with the key that [Answer.Responder] names.
func (a Answer) Receipt() []byte { return a.receipt }

// String describes the answer without its code.
func (a Answer) String() string {
	return fmt.Sprintf("answer to attempt %d by %s", a.Attempt, a.Responder)
}

// GoString is String: %#v shows no code either.
func (a Answer) GoString() string { return a.String() }

// Format is String for every verb: %x or %d would otherwise go around it.
func (a Answer) Format(f fmt.State, _ rune) { io.WriteString(f, a.String()) }

// LogValue is String for slog.
func (a Answer) LogValue() slog.Value { return slog.StringValue(a.String()) }

// link is a connection to the relay: a *dial.Conn.
type link interface {
	Request(ctx context.Context, subject string, msg any) (wire.Reply, error)
	Hints() <-chan wire.Hint
	Closed() <-chan struct{}
	Close()
}

// Session is one request, from its keys to its end. Its methods may be called
// from several goroutines, but one at a time makes sense: await, then decide.
type Session struct {
	cfg     Config
	log     *slog.Logger
	connect func(ctx context.Context, key nkeys.KeyPair, token string) (link, error)
	tokens  *tokens

	key    nkeys.KeyPair
	id     string
	hpke   *seal.Key
	format wire.Format

	stop    context.CancelCauseFunc
	steps   chan *step
	answers chan Answer   // holds the accepted answer until Await takes it
	over    chan struct{} // closed at the end, when end is set
	end     error         // nil: ended by Done
	work    sync.WaitGroup

	telling sync.Mutex

	mu     sync.Mutex
	begun  bool
	handed bool // Await gave out an answer that was neither rejected nor followed by Next
	shared

	progress // the session's goroutine's own
}

// shared is what the session's goroutine tells the others, under mu.
type shared struct {
	deadline time.Time // the earlier of the job's and the relay's
	accepted bool
	holding  bool // nobody waits now
	name     string
}

// New makes the keys of one request, in memory. Its error says what is wrong
// with the configuration.
func New(cfg Config) (*Session, error) {
	if cfg.Relay == nil || cfg.Provider == nil {
		return nil, errors.New("ask: neither Relay nor Provider may be nil")
	}
	s, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	s.connect = func(ctx context.Context, key nkeys.KeyPair, token string) (link, error) {
		c, err := cfg.Relay.Connect(ctx, key, token)
		if err != nil {
			return nil, err // not a *dial.Conn of nil in a link that is not nil
		}
		return c, nil
	}
	return s, nil
}

// prepare is New but for the connection.
func prepare(cfg Config) (*Session, error) {
	if cfg.Ask == "" {
		cfg.Ask = wire.AskCode
	}
	switch {
	case cfg.Ask != wire.AskCode && cfg.Ask != wire.AskApproval && cfg.Ask != wire.AskLink:
		return nil, fmt.Errorf("ask %q: it is a code, a link or an approval", cfg.Ask)
	case (cfg.Ask == wire.AskLink) != (cfg.Link != nil):
		return nil, errors.New("ask: who asks to follow a link says how it is made, and nobody else does")
	case cfg.Ask == wire.AskLink && cfg.Approvals == 2:
		// Nobody signs that they followed it, so who did cannot be told apart.
		return nil, errors.New("approvals: two people can agree to a code or to files, and not to a link; ask one person, or have two approve the files first (cfa approve)")
	}
	if cfg.Timeout < time.Second || cfg.Timeout > wire.LongestWait {
		return nil, fmt.Errorf("timeout of %s: it must be from 1s to %s", cfg.Timeout, wire.LongestWait)
	}
	cfg.Responders, cfg.Artifacts = slices.Clone(cfg.Responders), slices.Clone(cfg.Artifacts)
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	key, err := wire.NewConnectKey()
	if err != nil {
		return nil, fmt.Errorf("make the request's key: %w", err)
	}
	hpke, err := seal.NewKey()
	if err != nil {
		return nil, err
	}
	s := &Session{
		cfg: cfg, log: log, key: key, id: wire.PublicKey(key), hpke: hpke,
		steps: make(chan *step), answers: make(chan Answer, 1), over: make(chan struct{}),
	}
	audience := wire.Audience(cfg.Relay.Name(), s.id)
	if !cfg.Provider.Bound {
		audience = wire.UnboundAudience(cfg.Relay.Name())
	}
	s.tokens = newTokens(cfg.Provider, cfg.Env, audience)
	s.progress = progress{
		attempt: 1, reason: wire.ReasonFirst,
		shut: map[string]bool{}, spent: map[string]bool{}, openings: map[string]*opening{}, seen: map[string]bool{},
		ready: make(chan ready),
	}
	if s.format, err = wire.ParseFormat(cfg.Format); err != nil {
		return nil, fmt.Errorf("format: %w", err)
	}
	// The request's own check, before a token is fetched and a human waits for
	// the error. The claims come later and stand in here.
	now := time.Now()
	if _, err := s.sign(now, now.Add(cfg.Timeout), wire.Proof{"iss": "-", "job": "-"}); err != nil {
		return nil, err
	}
	return s, nil
}

// sign makes the request's envelope.
func (s *Session) sign(made, deadline time.Time, proof wire.Proof) (wire.Envelope, error) {
	return wire.Sign(&wire.Request{
		Key: s.id, Relay: s.cfg.Relay.Name(), Project: s.cfg.Project,
		Ask: s.cfg.Ask, Service: s.cfg.Service, Format: s.cfg.Format, Message: s.cfg.Message,
		Made: made.Unix(), Deadline: deadline.Unix(), HPKE: s.hpke.Public(),
		Responders: s.cfg.Responders, Approvals: s.cfg.Approvals, TypeMatch: s.cfg.TypeMatch,
		Artifacts: s.cfg.Artifacts, Proof: proof,
	}, s.key)
}

// ID is the request's name: its public key, U….
func (s *Session) ID() string { return s.id }

// Name is who gave the answer in hand, as the relay says; "" if it hides names
// or has not said yet. It has said by the time that a step was confirmed.
func (s *Session) Name() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.name
}

// Await gives the next answer that can be used. The first call connects and
// asks; after [Session.Reject] or [Session.Next] it waits for the next attempt.
// When ctx ends, the request is withdrawn, because nobody waits any more.
//
// Its errors are [*Failure]; errors.Is tells [ErrUnreachable], [ErrRefused],
// [ErrDeclined], [ErrTimedOut] and [ErrCancelled] apart.
func (s *Session) Await(ctx context.Context) (Answer, error) {
	s.mu.Lock()
	handed := s.handed
	s.mu.Unlock()
	if handed {
		return Answer{}, errors.New("ask: the answer in hand must be rejected, or followed by Next, before another is awaited")
	}
	if ctx.Err() == nil {
		s.begin(ctx)
	}
	select {
	case a := <-s.answers:
		s.mu.Lock()
		s.handed = true
		s.mu.Unlock()
		return a, nil
	case <-s.over:
		if s.end == nil {
			return Answer{}, errDone
		}
		return Answer{}, s.end
	case <-ctx.Done():
		why := cause(ctx)
		s.Withdraw(why)
		return Answer{}, fail(ErrCancelled, "cancelled: "+why, "the request was withdrawn; run it again when somebody is to answer it")
	}
}

var errDone = errors.New("ask: the request is done")

// Follow is Await for a link: it asks, shows each responder that opens the
// prompt a link, and returns nil when [Session.Done] has ended the request.
// Nobody answers a link: whoever follows it is seen by the service, and the
// caller sees the outcome there.
func (s *Session) Follow(ctx context.Context) error {
	_, err := s.Await(ctx)
	if errors.Is(err, errDone) {
		return nil
	}
	return err
}

// cause says why ctx ended, clean enough to be signed and shown to a human.
func cause(ctx context.Context) string {
	err := context.Cause(ctx)
	if err == nil || errors.Is(err, context.Canceled) {
		return "the job was stopped"
	}
	return wire.Clean(err.Error(), 200)
}

// begin starts the session's goroutine, once.
func (s *Session) begin(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.begun {
		return
	}
	s.begun = true
	// It outlives the ctx of the first Await, which bounds one wait only.
	ctx, s.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	s.began = time.Now()
	s.own = s.began.Add(s.cfg.Timeout)
	s.deadline = s.own
	go s.run(ctx)
}

// Reject says that the service did not take the code in hand: the request goes
// back to the humans as the next attempt. It returns when the relay has
// confirmed that; what is signed stays signed if it does not.
func (s *Session) Reject(ctx context.Context) error { return s.take(ctx, wire.VerbRejected, "") }

// Next says that the code in hand was good and that one more is needed.
func (s *Session) Next(ctx context.Context) error { return s.take(ctx, wire.VerbNext, "") }

// Done ends the request with an outcome (wire.OutcomeOK or wire.OutcomeFailed)
// and the session with it, whether or not the relay confirmed by the end of ctx.
// An error says that it did not; the code in hand is as good as before.
func (s *Session) Done(ctx context.Context, outcome string) error {
	err := s.take(ctx, wire.VerbDone, outcome)
	s.finish(errLeft)
	return err
}

// errLeft is why a session's context ends when nothing is to be withdrawn.
var errLeft = errors.New("the session was left")

// withdrawal is why a session's context ends when the request is withdrawn.
type withdrawal struct{ why string }

func (w withdrawal) Error() string { return w.why }

// Withdraw takes the request back, so that its prompt disappears from the
// humans, and ends the session. It takes 5 s at most, and does nothing once the
// session has ended. why is shown to the humans.
func (s *Session) Withdraw(why string) { s.finish(withdrawal{wire.Clean(why, 200)}) }

func (s *Session) finish(why error) {
	s.mu.Lock()
	if !s.begun {
		s.begun = true
		s.end = fail(ErrCancelled, "cancelled before anything was asked", "")
		close(s.over)
	}
	stop := s.stop
	s.mu.Unlock()
	if stop != nil {
		stop(why)
	}
	<-s.over
}

// tell passes e on. The reminder's goroutine and the session's both tell.
func (s *Session) tell(e Event) {
	s.telling.Lock()
	defer s.telling.Unlock()
	if s.cfg.Tell != nil {
		s.cfg.Tell(e)
	}
}

// accepts says whether an answer, challenge or decline counts that signer has signed,
// and as whose: the pinned key that vouches for it, so that one person stays one
// whichever of their keys they use.
func (s *Session) accepts(signer string, e wire.Envelope) (person string, ok bool) {
	if wire.CheckSigningKey(signer) != nil {
		return "", false
	}
	return wire.Vouched(signer, wire.ClaimedChain(e), s.cfg.Responders)
}
