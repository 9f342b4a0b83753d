package wire

// Statements: signed bodies that are kept in files, not sent as messages. They
// may be larger than an envelope on its way may be; what their bodies hold is
// for whoever makes them to check.

import (
	"errors"
	"fmt"
	"slices"

	"github.com/nats-io/nkeys"
)

// messages are the kinds that a statement must not have: a file would be good as
// a message.
var messages = []Kind{
	KindRequest, KindAlive, KindGot, KindRejected, KindNext, KindDone, KindCancel, KindChallenge, KindAnswer, KindDecline, KindAway, KindSuccessor, KindJoin, KindConnect,
}

// SignStatement puts the bytes of a body into an envelope, signed by kp, of a kind
// that no message has.
func SignStatement(kind Kind, body []byte, kp nkeys.KeyPair) (Envelope, error) {
	if kind == "" || len(body) == 0 || slices.Contains(messages, kind) {
		return Envelope{}, errors.New("sign: a statement has a body, and a kind that is no message's")
	}
	sig, err := kp.Sign(signed(kind, body))
	if err != nil {
		return Envelope{}, fmt.Errorf("sign %s: %w", kind, err)
	}
	return Envelope{V: Version, Kind: kind, Body: body, Sig: sig}, nil
}

// OpenStatement verifies that key signed e as a statement of that kind, and only
// then gives its body.
func OpenStatement(e Envelope, kind Kind, key string) ([]byte, error) {
	if err := CheckVersion(e.V); err != nil {
		return nil, err
	}
	if e.Kind != kind || len(e.Body) == 0 || slices.Contains(messages, kind) {
		return nil, malformed("an envelope of another kind where %q was expected", kind)
	}
	pub, err := nkeys.FromPublicKey(key)
	if err != nil {
		return nil, malformed("not a key")
	}
	if err := pub.Verify(signed(kind, e.Body), e.Sig); err != nil {
		return nil, fmt.Errorf("%s: %w", kind, ErrSignature)
	}
	return e.Body, nil
}
