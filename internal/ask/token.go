package ask

// The job's own ID token: fetched when it is needed, kept for less than a
// minute, never stored, printed or logged.

import (
	"context"
	"fmt"
	"time"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/wire"
)

// fresh is how long a token counts as fresh enough to show again: a responder
// takes it as "running now".
const fresh = time.Minute

// tokens fetches tokens for one audience, one at a time.
type tokens struct {
	fetch func(ctx context.Context) (string, error)
	busy  chan struct{} // a lock that can be waited for with a context

	token string
	at    time.Time // when it was asked for, so before it was issued
}

func newTokens(p *ci.Provider, env ci.Env, audience string) *tokens {
	return &tokens{
		fetch: func(ctx context.Context) (string, error) { return p.Token(ctx, env, audience) },
		busy:  make(chan struct{}, 1),
	}
}

// get gives a token that was asked for less than a minute ago.
func (t *tokens) get(ctx context.Context) (string, error) {
	select {
	case t.busy <- struct{}{}:
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	defer func() { <-t.busy }()
	if t.token != "" && time.Since(t.at) < fresh {
		return t.token, nil
	}
	t.token = ""
	at := time.Now()
	token, err := t.fetch(ctx)
	if err != nil {
		return "", err
	}
	if token == "" || len(token) > wire.MaxToken {
		return "", fmt.Errorf("the CI gave an ID token of %d bytes; 1 to %d can be sent", len(token), wire.MaxToken)
	}
	t.token, t.at = token, at
	return token, nil
}

// forget makes the next get fetch anew: this one was refused.
func (t *tokens) forget(ctx context.Context) {
	select {
	case t.busy <- struct{}{}:
		t.token = ""
		<-t.busy
	case <-ctx.Done():
	}
}
