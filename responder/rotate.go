package main

// rotate: a new signing key, for which the old one vouches. Workflows that pin the
// old one take the answers of the new one, because each answer brings the proof; a
// relay that has enrolled this responder by an invitation is told.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/wire"
)

const maxChainFile = 32 << 10

// chainPath is beside the key file, or where that would be. It holds no secret.
func chainPath(env environ, keyFile string) (string, error) {
	path, err := env.file(keyFile, "responder.key")
	return path + ".chain", err
}

// readChain is how the signing key succeeds older ones; nil: it does not.
func readChain(env environ, keyFile, sign string) ([]wire.Succession, error) {
	path, err := chainPath(env, keyFile)
	if err != nil {
		return nil, err
	}
	data, err := readOwn(path, maxChainFile, 0o022)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, usage("chain of keys: %w", err)
	}
	var m wire.RotateMessage
	if err := wire.Decode(data, maxChainFile, &m); err != nil {
		return nil, usage("%s: %w; move it away, and have workflows pin your key as it is", path, err)
	}
	switch chain, err := upTo(m.Chain, sign); {
	case err != nil:
		return nil, usage("%s: %w; move it away, and have workflows pin your key as it is", path, err)
	default:
		return chain, nil
	}
}

// upTo is a chain as far as it leads to a key: a rotation that ended before the key
// was replaced leaves one link too many.
func upTo(chain []wire.Succession, sign string) ([]wire.Succession, error) {
	keys, err := wire.OpenChain(chain)
	if err != nil {
		return nil, err
	}
	for i := len(keys) - 1; i >= 0; i-- {
		if keys[i] == sign {
			return chain[:i], nil
		}
	}
	return nil, errors.New("it leads to another signing key than yours")
}

type rotateCmd struct {
	relayFlags `embed:""`

	Again bool `help:"Make no new key, and tell the relays once more of the one that you have."`
}

// Run makes the key before anybody is told of it: once the old one has vouched for
// it, the old one is not needed any more, and whoever was not reached can be told
// later.
func (c *rotateCmd) Run(ctx context.Context, std stdio, env environ) error {
	store, err := keyStoreAt(std, env, c.KeyFile)
	if err != nil {
		return err
	}
	k, err := loadKeys(ctx, store)
	if err != nil {
		return err
	}
	chain, err := readChain(env, c.KeyFile, wire.PublicKey(k.sign))
	if err != nil {
		return err
	}
	if c.Again && len(chain) == 0 {
		return usage("your signing key succeeds no other, so there is nothing to tell")
	}
	relays, err := c.relays(env)
	if err != nil {
		return err
	}
	if !c.Again {
		if k, chain, err = c.rotate(ctx, env, store, k, chain); err != nil {
			return err
		}
		fmt.Fprintf(std.err, "Your new signing key is in %s; the old one is gone from there, and vouches for it.\nStart cfa-responder run and listen anew: they still have the old one.\n", store)
	}
	ctx, cancel := context.WithTimeout(ctx, sayWithin)
	defer cancel()
	for _, r := range relays {
		at := wire.CleanName(r.Name(), 253)
		e := answer.Rotate(ctx, r, k.connect, chain)
		switch {
		case e == nil:
			fmt.Fprintf(std.err, "%s: takes the new key\n", at)
		case errors.Is(e, answer.ErrRotate):
			fmt.Fprintf(std.err, "%s: %v\n", at, e)
			err = errors.Join(err, &exit{exitRefused, fmt.Errorf("%s has not taken the new key", at)})
		case errors.Is(e, dial.ErrRefused):
			err = errors.Join(err, &exit{exitRefused, fmt.Errorf("%s: %w", at, e)})
		default:
			err = errors.Join(err, &exit{exitUnavailable, fmt.Errorf("%s: %w; tell it later: cfa-responder rotate --again", at, e)})
		}
	}
	if _, e := fmt.Fprintln(std.out, wire.PublicKey(k.sign)); e != nil {
		return e
	}
	return err
}

// rotate makes the key and writes it: first the chain, by which nobody loses
// anything, then the key.
func (c *rotateCmd) rotate(ctx context.Context, env environ, store keyStore, old keys, chain []wire.Succession) (keys, []wire.Succession, error) {
	next, err := wire.NewSigningKey()
	if err != nil {
		return old, nil, err
	}
	link, err := wire.SignSuccession(old.sign, next, time.Now())
	if err != nil {
		return old, nil, err
	}
	longer := append(chain[:len(chain):len(chain)], link)
	if extra := len(longer) - wire.MaxChain; extra > 0 {
		longer = longer[extra:]
	}
	data, err := json.Marshal(wire.RotateMessage{Chain: longer})
	if err != nil {
		return old, nil, err
	}
	path, err := chainPath(env, c.KeyFile)
	if err != nil {
		return old, nil, err
	}
	if err := replace(path, append(data, '\n')); err != nil {
		return old, nil, fmt.Errorf("keep the chain of keys: %w", err)
	}
	k := keys{connect: old.connect, sign: next}
	if err := store.replace(ctx, k); err != nil {
		return old, nil, fmt.Errorf("keep the new key; the old one is as it was: %w", err)
	}
	return k, longer, nil
}
