package broker

import (
	"crypto/ed25519"
	"fmt"

	"github.com/nats-io/nkeys"
)

// signer is a key pair that signs without deriving its key from the seed each
// time, as nkeys does: the callout signs two statements for each connection.
type signer struct {
	nkeys.KeyPair
	public  string
	private ed25519.PrivateKey
}

func newSigner(kp nkeys.KeyPair) (*signer, error) {
	seed, err := kp.Seed()
	if err != nil {
		return nil, err
	}
	// Seed gives the pair's own bytes, so this wipes the pair: from here on it
	// signs and names itself through the methods below only.
	defer clear(seed)
	_, raw, err := nkeys.DecodeSeed(seed)
	if err != nil {
		return nil, fmt.Errorf("callout's key: %w", err)
	}
	defer clear(raw)
	public, err := kp.PublicKey()
	if err != nil {
		return nil, err
	}
	return &signer{kp, public, ed25519.NewKeyFromSeed(raw)}, nil
}

func (s *signer) PublicKey() (string, error) { return s.public, nil }

func (s *signer) Sign(data []byte) ([]byte, error) { return ed25519.Sign(s.private, data), nil }
