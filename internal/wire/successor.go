package wire

// Succession: a responder's signing key vouches for the next one, so that what was
// pinned by the old one goes on with the new.
//
// The rule it keeps: a chain proves itself. Each link is signed by the older key,
// about the newer, and by the newer, that it is that person's: nobody can put
// another's key at the end of their own. So it does not matter who shows it, and
// nothing else is believed of it. What it cannot do is take anything back: a key
// that was stolen vouches for its thief's as well, and is to be taken out of the
// pins.

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nkeys"
)

// MaxChain bounds a chain: so often a key can change before pins of the oldest one
// have to be changed.
const MaxChain = 6

// Successor says that another key is its signer's from now on. Its signer is a
// responder's signing key.
type Successor struct {
	Key  string `json:"key"`  // the older signing key, A…
	Next string `json:"next"` // the newer, A…
	At   int64  `json:"at"`
}

func (*Successor) kind() Kind       { return KindSuccessor }
func (b *Successor) signer() string { return b.Key }

func (b *Successor) check() error {
	if err := CheckSigningKey(b.Key); err != nil {
		return err
	}
	if err := CheckSigningKey(b.Next); err != nil {
		return err
	}
	if b.Key == b.Next || b.At <= 0 {
		return malformed("a key that succeeds itself, or at no time")
	}
	return nil
}

// Succession is one link of a chain. The signature beside the envelope is over the
// same bytes as its own.
type Succession struct {
	Successor Envelope `json:"successor"`
	Next      Bytes    `json:"next"` // by the newer key
}

// SignSuccession has old vouch for next.
func SignSuccession(old, next nkeys.KeyPair, now time.Time) (Succession, error) {
	e, err := Sign(&Successor{Key: PublicKey(old), Next: PublicKey(next), At: now.Unix()}, old)
	if err != nil {
		return Succession{}, err
	}
	sig, err := next.Sign(signed(KindSuccessor, e.Body))
	if err != nil {
		return Succession{}, fmt.Errorf("sign %s: %w", KindSuccessor, err)
	}
	return Succession{Successor: e, Next: sig}, nil
}

// OpenChain verifies a chain, the oldest link first, and gives its keys in that
// order. It has at most [MaxChain] links and no key twice.
func OpenChain(chain []Succession) ([]string, error) {
	if len(chain) == 0 || len(chain) > MaxChain {
		return nil, malformed("a chain of %d keys that succeed another, at most %d are allowed", len(chain), MaxChain)
	}
	var keys []string
	for _, link := range chain {
		key, err := ClaimedSigner(link.Successor)
		if err != nil {
			return nil, err
		}
		if len(keys) > 0 && keys[len(keys)-1] != key {
			return nil, malformed("a chain in which one key does not follow the other")
		}
		b, err := Open[Successor](link.Successor, key)
		if err != nil {
			return nil, err
		}
		next, err := nkeys.FromPublicKey(b.Next)
		if err != nil {
			return nil, malformed("not a key")
		}
		if next.Verify(signed(KindSuccessor, link.Successor.Body), link.Next) != nil {
			return nil, fmt.Errorf("%s: %w: not signed by the newer key", KindSuccessor, ErrSignature)
		}
		if len(keys) == 0 {
			keys = append(keys, key)
		}
		if slices.Contains(keys, b.Next) {
			return nil, malformed("a chain that comes back to a key")
		}
		keys = append(keys, b.Next)
	}
	return keys, nil
}

// checkChain says whether a chain, where there is one, ends with key.
func checkChain(chain []Succession, key string) error {
	if len(chain) == 0 {
		return nil
	}
	keys, err := OpenChain(chain)
	if err != nil {
		return err
	}
	if keys[len(keys)-1] != key {
		return malformed("a chain that ends with another key")
	}
	return nil
}

// Former are the keys before key in a chain that ends with it; none where it is no
// such chain.
func Former(key string, chain []Succession) []string {
	if len(chain) == 0 || checkChain(chain, key) != nil {
		return nil
	}
	keys, err := OpenChain(chain)
	if err != nil {
		return nil
	}
	return keys[:len(keys)-1]
}

// Vouched is the pinned key that stands behind signer: the oldest one of its chain
// that is pinned, else its own. So one person is one key, whichever of theirs is
// used. Where nothing is pinned each key stands for itself.
func Vouched(signer string, chain []Succession, pinned []string) (string, bool) {
	if len(pinned) == 0 {
		return signer, CheckSigningKey(signer) == nil
	}
	for _, key := range Former(signer, chain) {
		if slices.Contains(pinned, key) {
			return key, true
		}
	}
	return signer, slices.Contains(pinned, signer)
}

// ClaimedChain is the chain that an envelope's body holds, unverified: good only for
// [Vouched], which verifies it.
func ClaimedChain(e Envelope) []Succession {
	var b struct {
		Chain []Succession `json:"chain"`
	}
	if e.check() != nil || json.Unmarshal(e.Body, &b) != nil {
		return nil
	}
	return b.Chain
}

// RotateMessage goes to a responder's `rotate` subject: the chain from the key that
// the relay knows to the one that is to count.
type RotateMessage struct {
	Chain []Succession `json:"chain"`
}
