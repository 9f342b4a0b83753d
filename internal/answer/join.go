package answer

// Joining a relay by an invitation, before there is a desk there.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/wire"
)

// ErrJoin says that the relay does not take these keys by this invitation.
var ErrJoin = errors.New("the relay does not enrol this responder")

// Join says once, over a connection of its own, that the holder of these keys wants
// to be enrolled by an invitation, and gives how that stands. The same again changes
// nothing. Who is still [wire.JoinedWaiting] asks again later.
func Join(ctx context.Context, relay *dial.Relay, connect, sign, invitation nkeys.KeyPair, chain []wire.Succession) (wire.Joined, error) {
	m, err := wire.SignJoin(sign, connect, invitation, relay.Name(), now())
	if err != nil {
		return wire.Joined{}, err
	}
	m.Chain = chain
	conn, err := relay.Connect(ctx, invitation, "")
	if err != nil {
		return wire.Joined{}, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, replyWithin)
	defer cancel()
	reply, err := conn.Request(ctx, wire.DeskSubject(wire.PublicKey(invitation), wire.VerbJoin), m)
	refused, ok := errors.AsType[*wire.Refusal](err)
	switch {
	case ok && (refused.Code == wire.RefusedBusy || refused.Code == wire.RefusedTooSoon):
		return wire.Joined{}, fmt.Errorf("%w: %s", dial.ErrUnreachable, wire.Clean(refused.Error(), 300))
	case ok:
		return wire.Joined{}, fmt.Errorf("%w: %s", ErrJoin, wire.Clean(refused.Error(), 300))
	case err != nil:
		return wire.Joined{}, err
	case reply.Joined == nil || reply.Joined.State != wire.JoinedWaiting && reply.Joined.State != wire.JoinedEnrolled:
		return wire.Joined{}, fmt.Errorf("%w: its reply does not say how the invitation stands", ErrJoin)
	}
	return *reply.Joined, nil
}

// How often somebody who waits to be approved asks: the administrator may be at the
// other end of a telephone, or asleep.
const (
	joinSoon    = 3 * time.Second
	joinSoonFor = 2 * time.Minute
	joinLater   = 30 * time.Second
)

// JoinWait is how long to wait before asking again.
func JoinWait(waited time.Duration) time.Duration {
	if waited < joinSoonFor {
		return joinSoon
	}
	return joinLater
}

// ErrRotate says that the relay does not take a new signing key.
var ErrRotate = errors.New("the relay does not take the new signing key")

// Rotate tells a relay by which chain the signing key that counts from now on
// succeeds the one that is enrolled there. The same again changes nothing.
func Rotate(ctx context.Context, relay *dial.Relay, connect nkeys.KeyPair, chain []wire.Succession) error {
	keys, err := wire.OpenChain(chain)
	if err != nil {
		return err
	}
	reply, err := exchange(ctx, relay, connect, wire.VerbRotate, wire.RotateMessage{Chain: chain})
	if refused, ok := errors.AsType[*wire.Refusal](err); ok {
		return fmt.Errorf("%w: %s", ErrRotate, wire.Clean(refused.Error(), 300))
	}
	if err == nil && reply.Rotated != keys[len(keys)-1] {
		return fmt.Errorf("%w: its reply does not name it", ErrRotate)
	}
	return err
}
