package ask

// The protocol, in its order: get an ID token, connect, ask, then listen, read
// the state again and again, and send what was signed until it is confirmed;
// after a lost connection from the connect on.

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

const (
	firstWindow  = 2 * time.Minute        // how long an unreachable relay is tried before anything was accepted
	refusedFor   = 45 * time.Second       // how long refused credentials are tried before anything was accepted, see [Session.patience]
	replyWithin  = 5 * time.Second        // for one message
	farewell     = 5 * time.Second        // for taking a request back
	readGap      = 250 * time.Millisecond // between reads, however many hints come
	steady       = 30 * time.Second       // how long a connection lives that ends the back-off
	remindEvery  = 25 * time.Second
	backoffFirst = 250 * time.Millisecond
	backoffMost  = 10 * time.Second
	maxAttempt   = 1000 // what wire lets an attempt be
)

var (
	// errLost: the connection is gone or as good as gone; a new one is needed.
	errLost = errors.New("connection lost")
	// errSilent: one message was not answered.
	errSilent = errors.New("no reply")
	// errNotLetIn: the relay refused the credentials.
	errNotLetIn = errors.New("the relay refused this job's ID token")
	// errUnread: the relay answers with something else than this program knows.
	errUnread = errors.New("what it answers cannot be read")
	// errLate: the job's own deadline has passed.
	errLate = errors.New("deadline passed")
)

// progress is what the session's goroutine knows.
type progress struct {
	began, own time.Time // when it began, and the job's own deadline

	envelope wire.Envelope // the request; its zero value: not made yet
	digest   wire.Digest
	issuer   string

	asked     bool      // the relay may know the request
	fails     int       // connects that failed and connections that were lost, since a steady one
	refusals  int       // refused connects before acceptance, since one that was not
	refusedAt time.Time // the first of them
	silent    int       // unanswered messages in a row
	unread    error     // why the relay's last reply could not be read; nil: it could, or none came

	attempt int
	reason  string
	held    *held
	shut    map[string]bool // signing keys whose answer was unusable
	spent   map[string]bool // signing keys that agreed, where two people must
	after   time.Duration   // of the newest tier that is asked, as last told
	backed  bool            // somebody has agreed that another gives the code

	outbox   []*step
	done     bool // Done was confirmed, or could not be any more
	stale    bool // a hint or a refusal says: read again
	lastRead time.Time
	openings map[string]*opening
	ready    chan ready

	rev   uint64
	state string // the last that the relay told
	told  error  // the relay says that it is over, and how
	seen  map[string]bool
	level int    // how many are on call of those that it needs, as last told
	away  string // who is away, as last told
	drops int
	news  int // how often the relay changed what is so, as told
}

// run is the session's goroutine.
func (s *Session) run(ctx context.Context) {
	ctx, stop := context.WithCancel(ctx)
	s.work.Go(func() { s.remind(ctx) })
	s.end = s.protocol(ctx)
	stop()
	s.work.Wait()
	close(s.over)
}

func (s *Session) protocol(ctx context.Context) error {
	for {
		conn, err := s.reach(ctx)
		if err != nil {
			return s.leave(ctx, nil, err)
		}
		since := time.Now()
		err = s.converse(ctx, conn)
		if errors.Is(err, errLost) {
			conn.Close()
			if time.Since(since) >= steady {
				// Not at any reply: a relay that replies once and hangs up would
				// be back at once, for hours.
				s.fails = 0
			}
			s.fails++
			s.silent = 0
			s.report(Reconnecting{})
			continue
		}
		err = s.leave(ctx, conn, err)
		conn.Close()
		return err
	}
}

// reach connects, as often as it takes, in the time there is.
func (s *Session) reach(ctx context.Context) (link, error) {
	ctx, stop := s.within(ctx)
	defer stop()
	var last error
	switch {
	case s.unread != nil:
		last = s.unread
	case s.asked && !s.isAccepted():
		last = errors.New("it lets this job connect, but does not answer")
	}
	for {
		if s.fails > 0 {
			wait := s.patience(backoff(s.fails))
			if last != nil {
				s.tell(Trying{Try: s.fails, Why: wire.Clean(last.Error(), 600), Wait: wait})
			}
			if err := sleep(ctx, wait); err != nil {
				return nil, s.unreached(err, last)
			}
		}
		conn, err := s.try(ctx)
		if err == nil {
			s.refusals = 0
			s.report(Connected{Relay: s.cfg.Relay.Name(), Again: s.isAccepted()})
			return conn, nil
		}
		if ctx.Err() != nil {
			f, ours := errors.AsType[*Failure](err)
			if ours && last == nil && !s.isAccepted() && errors.Is(context.Cause(ctx), errLate) {
				return nil, f // nothing was ever sent to the relay: it is not to blame
			}
			return nil, s.unreached(context.Cause(ctx), last)
		}
		s.log.Debug("connect failed", "err", err)
		s.fails++
		last = err
		if errors.Is(err, dial.ErrRefused) {
			if s.refusals++; s.refusals == 1 {
				s.refusedAt = time.Now()
			}
			s.tokens.forget(ctx)
			if !s.isAccepted() {
				last = s.notLetIn()
			}
		} else {
			s.refusals = 0
		}
		if s.isAccepted() {
			continue // it let us in before: whatever this is may pass
		}
		switch f, final := errors.AsType[*Failure](err); {
		case final:
			return nil, f
		case s.refusals > 0 && time.Since(s.refusedAt) >= refusedFor:
			return nil, s.turnedAway()
		case errors.Is(err, dial.ErrTLS), errors.Is(err, wire.ErrNonce):
			return nil, s.notReached(err)
		}
	}
}

// patience is the wait before the next connect: none reaches beyond the time for
// which refused credentials are tried, so that a job which is refused for good ends
// on time. They are tried for longer than a relay that could not fetch an issuer's
// keys needs until it has asked again (10 s and 30 s): at the door it can give no
// reason, and that one passes by itself.
func (s *Session) patience(wait time.Duration) time.Duration {
	if s.refusals == 0 || s.isAccepted() {
		return wait
	}
	return max(0, min(wait, refusedFor-time.Since(s.refusedAt)))
}

// notLetIn says for the log that this job was refused at the door: at the first
// time for how long it is tried.
func (s *Session) notLetIn() error {
	if s.refusals > 1 {
		return fmt.Errorf("%w again", errNotLetIn)
	}
	return fmt.Errorf("%w, and NATS lets it give no reason here; it may only be without the keys of this job's issuer for a moment, so this is tried for %s", errNotLetIn, refusedFor)
}

// within bounds ctx by the time there is to connect.
func (s *Session) within(ctx context.Context) (context.Context, context.CancelFunc) {
	switch {
	case s.held != nil:
		return context.WithCancel(ctx) // an answer in hand has no deadline
	case s.isAccepted():
		return context.WithDeadlineCause(ctx, s.own, errLate)
	}
	return context.WithDeadlineCause(ctx, s.window(), errLate)
}

// try is one connect. Once the request was accepted, its key says who this is, and
// no token is fetched: thousands of jobs that have lost the same relay would else
// all ask their CI for one, and have it verified, before they are back. A relay
// that does not know the request any more, or not yet this way of coming back, is
// shown a token at once.
func (s *Session) try(ctx context.Context) (link, error) {
	if s.isAccepted() {
		conn, err := s.connect(ctx, s.key, "")
		if !errors.Is(err, dial.ErrRefused) {
			return conn, err
		}
		s.log.Debug("not known by its key, so a token is shown")
	}
	return s.tryToken(ctx)
}

// tryToken connects with a token that is fresh. It is fetched before, because NATS
// asks for it inside its handshake, where nothing may take long or fail.
func (s *Session) tryToken(ctx context.Context) (link, error) {
	token, err := s.tokens.get(ctx)
	if err != nil {
		return nil, noToken(s.cfg.Provider, err)
	}
	if s.envelope.V == 0 {
		if err := s.compose(token); err != nil {
			return nil, err
		}
	}
	return s.connect(ctx, s.key, token)
}

// compose signs the request, once: it names the job by the claims of its token.
func (s *Session) compose(token string) error {
	claims, err := ci.Unverified(token) // our own, to know what it says of us
	if err != nil {
		return fail(ErrRefused, fmt.Sprintf("the ID token that %s gave cannot be read: %s", s.cfg.Provider.Title, wire.Clean(err.Error(), 300)), "")
	}
	proof := wire.Proof{}
	for _, name := range append([]string{"iss"}, s.cfg.Provider.Proof...) {
		if v, ok := claims.String(name); ok {
			proof[name] = v
		}
	}
	s.issuer = proof["iss"]
	// Up to a whole second: where little time is left, the request would else end
	// in the second in which it is made, and be no request.
	deadline := s.own.Add(time.Second - 1).Truncate(time.Second)
	envelope, err := s.sign(time.Now(), deadline, proof)
	if err != nil {
		return fail(ErrRefused, fmt.Sprintf("the ID token that %s gave does not say which job this is: %s", s.cfg.Provider.Title, wire.Clean(inWords(err), 300)), "")
	}
	digest, err := wire.DigestOf(envelope, s.id)
	if err != nil {
		return fmt.Errorf("digest of the request: %w", err)
	}
	s.envelope, s.digest = envelope, digest
	return nil
}

// window ends the time in which the relay must have accepted the request.
func (s *Session) window() time.Time {
	if end := s.began.Add(firstWindow); end.Before(s.own) {
		return end
	}
	return s.own
}

func (s *Session) unreached(why, last error) error {
	switch {
	case !errors.Is(why, errLate):
		return why
	case s.isAccepted():
		return s.late()
	case errors.Is(last, errNotLetIn):
		return s.turnedAway()
	}
	return s.notReached(last)
}

func (s *Session) late() *Failure {
	return fail(ErrTimedOut, fmt.Sprintf("timed out: no answer within %s", s.cfg.Timeout),
		"see that a responder is connected (`cfa-responder listen`), or give more time with timeout")
}

// converse is one connection's part of the protocol. It returns errLost for
// another connection, and the request's end otherwise: nil after Done.
func (s *Session) converse(ctx context.Context, conn link) error {
	if err := s.greet(ctx, conn); err != nil {
		return err
	}
	reread := time.NewTimer(nextRead())
	defer reread.Stop()
	late := time.NewTimer(time.Until(s.own))
	defer late.Stop()
	for {
		again, err := s.flush(ctx, conn)
		if err != nil {
			return err
		}
		if s.stale && len(conn.Hints()) == 0 && time.Since(s.lastRead) >= readGap {
			// After the hints that are already here: one read covers them all.
			err := s.read(ctx, conn)
			if errors.Is(err, errSilent) {
				continue // at once: the second silence shows a half-open connection
			} else if err != nil {
				return err
			}
			reread.Reset(nextRead())
		}
		switch {
		case s.done:
			return nil
		case s.held == nil && s.told != nil:
			return s.told
		case len(s.outbox) > 0 && again == 0:
			continue
		}
		var deadline, retry, calm <-chan time.Time
		if s.held == nil {
			deadline = late.C
		}
		if again > 0 {
			retry = time.After(again)
		}
		if s.stale {
			calm = time.After(readGap - time.Since(s.lastRead))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-conn.Closed():
			return errLost
		case <-deadline:
			if err := s.read(ctx, conn); s.told != nil || ctx.Err() != nil {
				continue
			} else if err != nil {
				s.log.Debug("last read failed", "err", err)
			}
			return s.late()
		case h := <-conn.Hints():
			s.hint(ctx, h)
		case r := <-s.ready:
			err = s.alive(ctx, conn, r)
		case st := <-s.steps:
			s.decide(st)
		case <-reread.C:
			s.stale = true
		case <-retry:
		case <-calm:
		}
		if err != nil && !errors.Is(err, errSilent) {
			return err
		}
	}
}

// greet asks, or, once accepted, reads what was missed.
func (s *Session) greet(ctx context.Context, conn link) error {
	for {
		var err error
		if s.isAccepted() {
			err = s.read(ctx, conn)
		} else {
			err = s.ask(ctx, conn)
		}
		if !errors.Is(err, errSilent) {
			return err
		}
	}
}

// ask sends the request. It is the same envelope each time, so that asking again
// after a lost reply asks nothing twice.
func (s *Session) ask(ctx context.Context, conn link) error {
	for try := 1; ; try++ {
		token, err := s.tokens.get(ctx)
		if err != nil {
			if s.isAccepted() && ctx.Err() == nil {
				return errLost // back off, and get it before the next connect
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return noToken(s.cfg.Provider, err)
		}
		s.asked = true
		state, err := s.call(ctx, conn, wire.VerbRequest, wire.RequestMessage{Request: s.envelope, Token: token})
		r, refused := errors.AsType[*wire.Refusal](err)
		switch {
		case err == nil:
			s.accept(state)
			return nil
		case !refused:
			return err
		case !temporary(r):
			s.asked = s.isAccepted()
			return refusal(r)
		case s.isAccepted():
			return nil // the next read asks again, and the deadline has its turn before
		}
		wait := backoff(try)
		why := "the relay says: " + wire.Clean(r.Error(), 600)
		if time.Now().Add(wait).After(s.window()) {
			return fail(ErrUnreachable, "the relay could not take the request: "+wire.Clean(r.Error(), 600), "try again later, or ask the relay's administrator")
		}
		s.tell(Trying{Try: try, Why: why, Wait: wait})
		if err := sleepOn(ctx, conn, wait); err != nil {
			return err
		}
	}
}

// accept takes in that the relay has the request.
func (s *Session) accept(state *wire.State) {
	first := !s.isAccepted()
	s.mu.Lock()
	s.accepted = true
	s.mu.Unlock()
	if !first {
		s.learn(state)
		return
	}
	s.limit(state.Deadline)
	s.level, s.away, s.state = s.levelOf(state), fmt.Sprint(state.Away), state.State
	// Not before: it costs 16 ms, and nobody is to compare a code of a request
	// that no human will see.
	s.tell(Accepted{
		Project: s.cfg.Project, ID: s.id, Match: seal.Match(s.digest),
		OnCall: names(state.OnCall), Ready: state.Ready, Enrolled: state.Enrolled, Left: s.left(), Away: absent(state.Away),
	})
	if len(s.cfg.Responders) == 0 {
		s.tell(Warning{"no responders are pinned: any key that the relay accepts can answer"})
	}
	if s.level < s.need() {
		s.tell(s.onCall(state))
	}
	s.learn(state)
}

// read asks for the state, and asks the request again where the relay does not
// know it.
func (s *Session) read(ctx context.Context, conn link) error {
	s.lastRead = time.Now()
	state, err := s.call(ctx, conn, wire.VerbState, wire.StateQuery{Rev: s.rev})
	r, refused := errors.AsType[*wire.Refusal](err)
	switch {
	case err == nil:
		s.stale = false
		s.learn(state)
		return nil
	case !refused:
		return err
	case temporary(r):
		s.stale = false // the next read is due soon enough
		return nil
	case r.Code == wire.RefusedUnknown:
		s.stale = false
		return s.ask(ctx, conn)
	case s.held != nil:
		s.stale = false // what is in hand counts; Done will hear the same
		return nil
	}
	s.stale = false
	s.told = refusal(r)
	return nil
}

// call sends one message and waits for the reply. Its errors: errSilent once,
// errLost at the second silence and for a dead connection, a *wire.Refusal, a
// *Failure for a relay of another version, or ctx's cause.
func (s *Session) call(ctx context.Context, conn link, verb string, msg any) (*wire.State, error) {
	one, cancel := context.WithTimeout(ctx, replyWithin)
	defer cancel()
	reply, err := conn.Request(one, wire.JobSubject(s.id, verb), msg)
	// A reply to these that holds no state says nothing.
	empty := err == nil && reply.State == nil && (verb == wire.VerbRequest || verb == wire.VerbState)
	if _, refused := errors.AsType[*wire.Refusal](err); (err == nil && !empty) || refused {
		s.silent, s.unread = 0, nil
		return reply.State, err
	}
	if errors.Is(err, wire.ErrMalformed) {
		s.unread = fmt.Errorf("%w: %s", errUnread, wire.Clean(inWords(err), 300))
	}
	s.log.Debug("message not answered", "verb", verb, "err", err)
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, wire.ErrVersion):
		return nil, fail(ErrRefused, wire.Clean(err.Error(), 300), "")
	}
	select {
	case <-conn.Closed():
		return nil, errLost
	default:
	}
	if s.silent++; s.silent >= 2 {
		return nil, errLost
	}
	// "No responders" comes back at once; without a pause both tries would be
	// over before a restarting relay is back.
	if err := sleepOn(ctx, conn, backoffFirst); err != nil {
		return nil, err
	}
	return nil, errSilent
}

// leave ends the session: where the relay may still show the request to humans,
// it takes it back.
func (s *Session) leave(ctx context.Context, conn link, end error) error {
	w, withdrawn := errors.AsType[withdrawal](end)
	if withdrawn {
		end = fail(ErrCancelled, "cancelled: "+w.why, "")
	} else if errors.Is(end, errLeft) {
		return nil
	}
	if end == nil || !s.asked || s.told != nil || (conn == nil && !withdrawn) {
		return end
	}
	why := w.why
	if !withdrawn {
		why = "the job gave up"
		if errors.Is(end, ErrTimedOut) {
			why = "the job's time was over"
		}
	}
	envelope, err := wire.Sign(&wire.Cancel{Key: s.id, Digest: s.digest, Why: why}, s.key)
	if err != nil {
		s.log.Debug("sign cancel", "err", err)
		return end
	}
	// ctx has ended in most cases; this has its own time.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	own := conn
	for ctx.Err() == nil {
		if own != nil {
			// Twice in the time there is: the relay that had it may have died, of
			// several, without the connection.
			one, cancel := context.WithTimeout(ctx, farewell/2)
			_, err := s.call(one, own, wire.VerbCancel, wire.StepMessage{Step: envelope})
			cancel()
			if r, refused := errors.AsType[*wire.Refusal](err); err == nil || refused && !temporary(r) {
				s.log.Debug("withdrawn", "err", err)
				break
			}
			if !errors.Is(err, errLost) {
				sleep(ctx, backoffFirst)
				continue
			}
			own.Close()
		}
		if own, err = s.try(ctx); err != nil {
			own = nil
			sleep(ctx, 2*backoffFirst)
		}
	}
	if own != nil && own != conn {
		own.Close()
	}
	return end
}

// remind tells the time that is left while nobody has answered. It has a
// goroutine of its own: a token service that hangs holds up the session's, and
// a log that stands still looks like a job that does.
func (s *Session) remind(ctx context.Context) {
	tick := time.NewTicker(remindEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.mu.Lock()
			waiting, accepted := !s.holding, s.accepted
			s.mu.Unlock()
			if waiting {
				s.tell(Waiting{Left: s.left(), Accepted: accepted})
			}
		}
	}
}

func (s *Session) isAccepted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.accepted
}

func (s *Session) left() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, time.Until(s.deadline).Round(time.Second))
}

// limit takes in the relay's deadline, for what is told only: the relay's clock
// says when the relay ends it, the job's when the job does.
func (s *Session) limit(unix int64) {
	if unix <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := time.Now().Add(time.Until(time.Unix(unix, 0))); at.Before(s.deadline) {
		s.deadline = at
	}
}

func backoff(n int) time.Duration {
	d := backoffMost
	if n < 7 {
		d = min(d, backoffFirst<<(n-1))
	}
	// Jobs that lost the same relay must not come back at the same time.
	return d/2 + rand.N(d/2)
}

// nextRead is 15 s, a fifth more or less.
func nextRead() time.Duration { return wire.ReRead*4/5 + rand.N(wire.ReRead*2/5) }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// sleepOn is sleep that a lost connection ends.
func sleepOn(ctx context.Context, conn link, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-conn.Closed():
		return errLost
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func names(from []string) []string {
	var out []string
	for i, n := range from {
		if i == maxNames {
			return append(out, fmt.Sprintf("and %d more", len(from)-i))
		}
		out = append(out, wire.Clean(n, 64))
	}
	return out
}

const maxNames = 12

// absent is who is away, by the relay's word.
func absent(from []wire.Absent) []Absent {
	var out []Absent
	for _, a := range from[:min(len(from), maxNames)] {
		who := wire.Clean(a.Name, 64)
		if who == "" {
			who = wire.SomeResponder
		}
		b := Absent{Who: who}
		// No absence that a responder can announce is longer.
		if until := time.Unix(a.Until, 0); a.Until > 0 && a.Until < 1<<40 && time.Until(until) <= wire.LongestAway+time.Hour {
			b.Until = until
		}
		out = append(out, b)
	}
	return out
}

// need is how many people must still answer.
func (s *Session) need() int { return max(1, s.cfg.Approvals-len(s.spent)) }

// levelOf is how many of them are on call: more make no difference.
func (s *Session) levelOf(st *wire.State) int { return min(max(st.Ready, 0), s.need()) }

func (s *Session) onCall(st *wire.State) OnCall {
	return OnCall{OnCall: names(st.OnCall), Ready: st.Ready, Enrolled: st.Enrolled, Need: s.need(), Away: absent(st.Away)}
}
