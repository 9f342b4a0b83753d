package ask

// How a request fails: the five ways that a caller tells apart, and the words
// for a person.

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/wire"
)

var (
	// ErrUnreachable says that the relay, or the CI's token service, was not
	// reached in time.
	ErrUnreachable = errors.New("not reached")
	// ErrRefused says that the relay does not let this job ask, or that the CI
	// does not let it prove who it is.
	ErrRefused = errors.New("refused")
	// ErrDeclined says that a human said no.
	ErrDeclined = errors.New("declined")
	// ErrTimedOut says that no usable answer came in time.
	ErrTimedOut = errors.New("timed out")
	// ErrCancelled says that the request was taken back: by this job, or by the
	// relay.
	ErrCancelled = errors.New("cancelled")
)

// Failure is the end of a request that brought no answer.
type Failure struct {
	Kind error  // one of the errors above
	What string // what happened and why
	Next string // what to do about it; may be empty
}

func (f *Failure) Error() string {
	if f.Next == "" {
		return f.What
	}
	return f.What + "; " + f.Next
}

// Unwrap is Kind.
func (f *Failure) Unwrap() error { return f.Kind }

func fail(kind error, what, next string) *Failure {
	return &Failure{Kind: kind, What: what, Next: next}
}

// refusal is what a person reads of the relay's refusal. The relay's words are
// text from outside.
func refusal(r *wire.Refusal) *Failure {
	why, mend := wire.Clean(r.Why, 2500), wire.Clean(r.Mend, 1500)
	if r.Code == wire.RefusedDeclined {
		// By its word alone, and yet no other end: somebody's no must not look
		// like a mistake in a file, which is what a refusal is mended in.
		if why == "" {
			why = "a responder declined what this run asked before"
		}
		if mend == "" {
			mend = "ask them why before a person starts the run again"
		}
		return fail(ErrDeclined, "the relay asks nobody: "+why, mend)
	}
	if why == "" {
		why = "it gave no reason"
	}
	if mend == "" {
		mend = "ask the relay's administrator"
	}
	return fail(ErrRefused, "the relay refused the request: "+why, mend)
}

// inWords is err for a person: wire's word for what it checks says nothing to them.
func inWords(err error) string {
	return strings.ReplaceAll(err.Error(), wire.ErrMalformed.Error()+": ", "")
}

// temporary says whether asking again later can end otherwise.
func temporary(r *wire.Refusal) bool {
	return r.Code == wire.RefusedBusy || r.Code == wire.RefusedTooSoon
}

// noToken is the failure to get an ID token from the CI.
func noToken(p *ci.Provider, err error) *Failure {
	if errors.Is(err, ci.ErrNotGranted) || errors.Is(err, ci.ErrGiven) {
		return fail(ErrRefused, "no ID token: "+wire.Clean(err.Error(), 600), "")
	}
	if errors.Is(err, ci.ErrNoCommand) {
		// No status page mends that; the error says what does.
		return fail(ErrUnreachable, "no ID token: "+wire.Clean(err.Error(), 600), "")
	}
	return fail(ErrUnreachable, "no ID token: "+wire.Clean(err.Error(), 600),
		fmt.Sprintf("see the status page of %s, and run the job again", p.Title))
}

// notReached is the failure of the first connect.
func (s *Session) notReached(err error) *Failure {
	what := fmt.Sprintf("the relay was not reached at %s", wire.Clean(s.cfg.Relay.String(), 300))
	if err != nil {
		what += ": " + wire.Clean(err.Error(), 600)
	}
	switch {
	case errors.Is(err, dial.ErrTLS):
		return fail(ErrUnreachable, what, "nothing was sent to that server; see that relay, relay-name, tls-name and ca-file say what the relay's administrator says")
	case errors.Is(err, errUnread):
		return fail(ErrUnreachable, what, "is that address a relay's? If it is, it may be of another version: upgrade the older of the two, cfa or the relay")
	case errors.Is(err, wire.ErrNonce):
		return fail(ErrUnreachable, what, "nothing was signed for that server; see that relay names a relay's port, and ask its administrator")
	}
	return fail(ErrUnreachable, what, "see that the address is right, that the relay runs, and that this job's network lets the connection out (wss:// goes through HTTPS_PROXY)")
}

// turnedAway is the refusal of this job's credentials when it connects. It
// carries no reason, so the likely ones are listed.
func (s *Session) turnedAway() *Failure {
	issuer := s.issuer
	if issuer == "" {
		issuer = "?"
	}
	times := "once"
	if s.refusals > 1 {
		times = fmt.Sprintf("%d times within %s", s.refusals, time.Since(s.refusedAt).Round(time.Second))
	}
	return fail(ErrRefused,
		fmt.Sprintf("the relay refused this job's ID token, %s, and NATS lets it give no reason here", times),
		fmt.Sprintf("likely causes: its own `host` is not %q, the name that this job used (set relay-name); it does not know the issuer %s; it has not got that issuer's keys, as when the issuer is down for longer (then a later run gets in); its clock is off. "+
			"Its log has the reason; its administrator can run `cfa-relay check --token-file` on a token of such a job",
			s.cfg.Relay.Name(), wire.Clean(issuer, 200)))
}
