package wire

// What a responder shows when it connects. A NATS server chooses the nonce that
// its clients sign, and nothing in it says which server that is: one that a
// responder dials could open a connection of its own at another relay, pass that
// one's nonce on, and be the responder there. So a responder also signs which
// relay it means; a job's ID token names its relay already.

import (
	"fmt"
	"time"

	"github.com/nats-io/nkeys"
)

// Connect says that its signer connects to this relay, now. Its signer is the
// responder's connecting key.
type Connect struct {
	Key   string `json:"key"`   // the responder's connecting key, U…
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

// SignConnect is what a responder shows the relay of that name beside the
// nonce's signature, as CONNECT's auth_token.
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
		return fmt.Errorf("the responder means the relay %s, and this is %s", b.Relay, relay)
	}
	switch age := now.Sub(time.Unix(b.At, 0)); {
	case age > ConnectWithin:
		return fmt.Errorf("the responder signed %s ago that it connects, at most %s are allowed; is a clock wrong?", age.Round(time.Second), ConnectWithin)
	case age < -ConnectWithin:
		return fmt.Errorf("the responder signed that it connects %s from now, at most %s are allowed; is a clock wrong?", (-age).Round(time.Second), ConnectWithin)
	}
	return nil
}
