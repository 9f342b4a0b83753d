package broker

// What the other side may see of an error, in one place: a fixed text outside,
// the detail in the log.

import (
	"errors"
	"fmt"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

// refusal translates err for the job or responder that caused it.
func (r *Relay) refusal(err error) *wire.Refusal {
	var refused *wire.Refusal
	var taken *lifecycle.TakenError
	var ended *lifecycle.EndedError
	var token *trust.Error
	var mismatch *trust.Mismatch
	var version *wire.VersionError
	switch {
	case errors.As(err, &refused):
		return refused
	case errors.As(err, &version):
		mend := "upgrade the relay, or use an older release of this program until it is"
		if version.OtherIsOlder() {
			mend = "upgrade the program that sent it: the Action, the orb, cfa or cfa-responder"
		}
		return &wire.Refusal{Code: wire.RefusedVersion, Why: fmt.Sprintf("the message is of version %d of the protocol, and this relay speaks version %d", version.Got, wire.Version), Mend: mend}
	case errors.As(err, &mismatch):
		return &wire.Refusal{Code: wire.RefusedPolicy, Why: wire.Clean(mismatch.ToJob(), 2000), Mend: wire.Clean(mismatch.Mend(), 1000)}
	case errors.As(err, &token) && token.Code == trust.CodeRequest && errors.Is(err, wire.ErrSignature):
		return &wire.Refusal{Code: wire.RefusedSignature, Why: wire.Clean(token.Why, 1000)}
	case errors.As(err, &token) && token.Code == trust.CodeRequest && errors.Is(err, wire.ErrMalformed):
		return &wire.Refusal{Code: wire.RefusedMalformed, Why: wire.Clean(token.Why, 1000)}
	case errors.As(err, &token):
		if token.Code == trust.CodeKeys {
			return &wire.Refusal{Code: wire.RefusedBusy, Why: token.Why, Mend: token.Mend}
		}
		return &wire.Refusal{Code: wire.RefusedToken, Why: wire.Clean(token.Why, 1000), Mend: wire.Clean(token.Mend, 1000)}
	case errors.As(err, &taken):
		who := taken.ByName
		if who == "" || r.rules.Load().config.Names == "hidden" {
			who = "another responder"
		}
		return &wire.Refusal{Code: wire.RefusedTaken, Why: wire.Clean(who, 64) + " answered first"}
	case errors.As(err, &ended):
		return &wire.Refusal{Code: wire.RefusedEnded, Why: wire.Clean(ended.Error(), 1000)}
	case errors.Is(err, lifecycle.ErrKeyUsed):
		return &wire.Refusal{Code: wire.RefusedKeyUsed, Why: lifecycle.ErrKeyUsed.Error()}
	case errors.Is(err, lifecycle.ErrAttempt), errors.Is(err, lifecycle.ErrHash):
		return &wire.Refusal{Code: wire.RefusedAttempt, Why: wire.Clean(err.Error(), 500)}
	case errors.Is(err, lifecycle.ErrShut), errors.Is(err, lifecycle.ErrSamePerson), errors.Is(err, lifecycle.ErrApproval), errors.Is(err, lifecycle.ErrKind):
		return &wire.Refusal{Code: wire.RefusedNotYours, Why: wire.Clean(err.Error(), 500)}
	case errors.Is(err, lifecycle.ErrState), errors.Is(err, lifecycle.ErrNotYet):
		return &wire.Refusal{Code: wire.RefusedAttempt, Why: wire.Clean(err.Error(), 500)}
	case errors.Is(err, errUnknown):
		return &wire.Refusal{Code: wire.RefusedUnknown, Why: errUnknown.Error()}
	case errors.Is(err, errTokenUsed):
		return &wire.Refusal{Code: wire.RefusedToken, Why: errTokenUsed.Error(), Mend: "ask with a new token; one that the CI gave the job before it ran is good for one request (on GitLab, a second entry of `id_tokens` is a second token)"}
	case errors.Is(err, wire.ErrSignature):
		return &wire.Refusal{Code: wire.RefusedSignature, Why: wire.Clean(err.Error(), 300)}
	case errors.Is(err, wire.ErrMalformed), errors.Is(err, lifecycle.ErrInput):
		return &wire.Refusal{Code: wire.RefusedMalformed, Why: wire.Clean(err.Error(), 300)}
	case errors.Is(err, errStore):
		return &wire.Refusal{Code: wire.RefusedBusy, Why: "the relay cannot reach its store", Mend: "this is tried again by itself; the relay's log says more"}
	}
	return &wire.Refusal{Code: wire.RefusedBusy, Why: "the relay failed to handle this", Mend: "its log says more"}
}

// logged is the whole error for the relay's own log. Its parts hold claims and
// names from outside, so it is cleaned; none hold a token or a code.
func logged(err error) string { return wire.Clean(err.Error(), 2000) }

func refuse(code, why, mend string) error {
	return &wire.Refusal{Code: code, Why: why, Mend: mend}
}
