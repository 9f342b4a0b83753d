package wire

// What a responder shows when it connects, and a job that connects again. A NATS
// server chooses the nonce that its clients sign, and nothing in it says which
// server that is: one that a client dials could open a connection of its own at
// another relay, pass that one's nonce on, and be the client there. So each also
// signs which relay it means. A job's ID token says that too, which it shows at
// its first connect; once its request is open, its key is known by that.

import (
	"fmt"
	"time"

	"github.com/nats-io/nkeys"
)

// Connect says that its signer connects to this relay, now. Its signer is the
// connecting key of a responder, or of a job whose request is open.
type Connect struct {
	Key   string `json:"key"`   // its signer's connecting key, U…
	Relay string `json:"relay"` // the relay that it means
	At    int64  `json:"at"`
}

func (*Connect) kind() Kind       { return KindConnect }
func (b *Connect) signer() string { return b.Key }

func (b *Connect) check() error {
	if err := CheckConnectKey(b.Key); err != nil {
		return err
	}
	if b.At <= 0 {
		return malformed("a connection without its time")
	}
	return CheckRelayName(b.Relay)
}

// SignConnect is what a client shows the relay of that name beside the nonce's
// signature, as CONNECT's auth_token.
func SignConnect(key nkeys.KeyPair, relay string, now time.Time) (string, error) {
	e, err := Sign(&Connect{Key: PublicKey(key), Relay: relay, At: now.Unix()}, key)
	if err != nil {
		return "", err
	}
	return string(e.Encode()), nil
}

// CheckConnect says whether shown is key's word that it connects to this relay
// about now. It proves no possession: who has seen it can show it again, so the
// nonce's signature is needed beside it.
func CheckConnect(shown, key, relay string, now time.Time) error {
	e, err := DecodeEnvelope([]byte(shown))
	if err != nil {
		return err
	}
	b, err := Open[Connect](e, key)
	if err != nil {
		return err
	}
	if b.Relay != relay {
		return fmt.Errorf("the client means the relay %s, and this is %s", b.Relay, relay)
	}
	switch age := now.Sub(time.Unix(b.At, 0)); {
	case age > ConnectWithin:
		return fmt.Errorf("the client signed %s ago that it connects, at most %s are allowed; is a clock wrong?", age.Round(time.Second), ConnectWithin)
	case age < -ConnectWithin:
		return fmt.Errorf("the client signed that it connects %s from now, at most %s are allowed; is a clock wrong?", (-age).Round(time.Second), ConnectWithin)
	}
	return nil
}
