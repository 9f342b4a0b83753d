// Package keyring keeps a small secret in the system's keyring: the Secret Service
// (GNOME Keyring, KWallet, KeePassXC), the Keychain, or the Credential Manager.
//
// The rule it keeps: a program that runs in the background never makes a window
// appear, and never hangs on one that nobody answers. [Look] says whether the
// keyring could be used without asking anybody; what may ask ends with its
// context. And no secret is in an error, nor in an argument list: not even the
// Keychain's tool gets it as one.
package keyring

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/zalando/go-keyring"
)

var (
	// ErrNone says that this session has no keyring.
	ErrNone = errors.New("there is no keyring")
	// ErrLocked says that the keyring is there and must be unlocked first.
	ErrLocked = errors.New("the keyring is locked")
	// ErrNotFound says that the keyring has no such secret.
	ErrNotFound = errors.New("not in the keyring")
)

// service is what the secrets stand under. It is written into people's keyrings
// and cannot change.
const service = "cfa-responder"

// Get gives a secret. It may ask a human to unlock the keyring, and waits for them
// until ctx ends.
func Get(ctx context.Context, account string) (string, error) {
	return try(ctx, func() (string, error) { return keyring.Get(service, account) })
}

// Set keeps a secret, in the place of one of the same account. It may ask, as Get
// may, and reads back what it wrote: there are keyrings that take a secret and
// say nothing of it when a human closed their window.
func Set(ctx context.Context, account, secret string) error {
	if _, err := try(ctx, func() (string, error) { return "", keyring.Set(service, account, secret) }); err != nil {
		return err
	}
	kept, err := Get(ctx, account)
	if err == nil && kept != secret {
		err = errors.New("the keyring did not keep what it was given")
	}
	return err
}

// Delete removes a secret; ErrNotFound if there is none. It may ask, as Get may.
func Delete(ctx context.Context, account string) error {
	if _, err := try(ctx, func() (string, error) { return "", keyring.Delete(service, account) }); err != nil {
		return err
	}
	switch _, err := Get(ctx, account); {
	case errors.Is(err, ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return errors.New("the keyring still has it")
}

// try makes one call of the library, which knows no context: one that waits for a
// human who is not there is left behind.
func try(ctx context.Context, call func() (string, error)) (string, error) {
	if err := Look(ctx); err != nil && !errors.Is(err, ErrLocked) {
		return "", err
	}
	type result struct {
		secret string
		err    error
	}
	done := make(chan result, 1)
	go func() {
		secret, err := call()
		done <- result{secret, err}
	}()
	select {
	case r := <-done:
		return r.secret, explain(ctx, r.err)
	case <-ctx.Done():
		if err := Look(context.WithoutCancel(ctx)); err != nil {
			return "", err
		}
		return "", context.Cause(ctx)
	}
}

// explain is the library's error as one of ours.
func explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, keyring.ErrNotFound):
		return ErrNotFound
	case errors.Is(err, keyring.ErrUnsupportedPlatform):
		return ErrNone
	}
	// Whoever closed the window, or was shown none because there is no display,
	// has left it locked; the library only says that something failed.
	if state := Look(ctx); state != nil {
		return state
	}
	return fmt.Errorf("the keyring: %s", strings.ToValidUTF8(err.Error(), "?"))
}
