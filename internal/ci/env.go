// This file is what a job has around it: its environment, an HTTP client,
// programs to run, a clock to wait by. All can be replaced, so that a row can be
// shown to work without the CI it is for.

package ci

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"time"
)

const (
	tries     = 4           // how often a token is asked for
	firstWait = time.Second // before the second try; doubled before each further one
	maxAnswer = 64 << 10    // bytes that are read of any answer
)

// Env is what a row needs of the world. The zero value is the real one.
type Env struct {
	Getenv func(string) string // nil: os.Getenv
	HTTP   *http.Client        // nil: one with its own timeout; its redirects are limited either way

	// Run runs a program and returns its standard output, at most 64 KiB. nil:
	// os/exec, which throws its standard error away (it may hold a token).
	Run func(ctx context.Context, name string, args ...string) (stdout []byte, err error)

	// Feed runs a program that is given input on its standard input. nil:
	// os/exec, which throws away what it prints (it may hold the input).
	Feed func(ctx context.Context, input, name string, args ...string) error

	// Wait waits between tries, or returns the context's error. nil: a timer.
	Wait func(ctx context.Context, d time.Duration) error
}

func (e Env) get(name string) string {
	if e.Getenv != nil {
		return e.Getenv(name)
	}
	return os.Getenv(name)
}

func (e Env) wait(ctx context.Context, d time.Duration) error {
	if e.Wait != nil {
		return e.Wait(ctx, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (e Env) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	if e.Run != nil {
		return e.Run(ctx, name, args...)
	}
	var out limited
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdout = &out
	// A grandchild that keeps standard output open would hold us past ctx.
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return nil, err
	}
	return out.buf.Bytes(), nil
}

func (e Env) feed(ctx context.Context, input, name string, args ...string) error {
	if e.Feed != nil {
		return e.Feed(ctx, input, name, args...)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = strings.NewReader(input)
	cmd.WaitDelay = time.Second
	return cmd.Run()
}

var errTooLong = errors.New("the answer is too long")

// limited keeps what is written to it and fails past maxAnswer, which stops the
// program that writes. The buffer is no embedded one: io.Copy would use its
// ReadFrom, which knows no limit.
type limited struct{ buf bytes.Buffer }

func (l *limited) Write(p []byte) (int, error) {
	if l.buf.Len()+len(p) > maxAnswer {
		return 0, errTooLong
	}
	return l.buf.Write(p)
}

// readAll reads all of r, or fails past maxAnswer.
func readAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		return nil, errTooLong
	}
	return b, err
}

// final marks an error that asking again will not mend.
type final struct{ error }

// retry calls ask until it gives a token, fails with a final error, or has been
// called four times; each call has limit, with about 1, 2 and 4 seconds
// between. Token services are known to hang and to fail for a moment.
func (e Env) retry(ctx context.Context, limit time.Duration, ask func(context.Context) (string, error)) (string, error) {
	pause := firstWait
	var last error // what the token service said is news; that time ran out is not
	givenUp := func(why error) error {
		if last != nil {
			return fmt.Errorf("%w; asking for an ID token again was given up: %w", last, why)
		}
		return fmt.Errorf("asking for an ID token was given up: %w", why)
	}
	for n := 1; ; n++ {
		one, cancel := context.WithTimeout(ctx, limit)
		token, err := ask(one)
		cancel()
		if err == nil {
			return token, nil
		}
		if ctx.Err() != nil {
			return "", givenUp(context.Cause(ctx))
		}
		if f, ok := errors.AsType[final](err); ok {
			return "", f.error
		}
		if n == tries {
			return "", fmt.Errorf("%w (asked %d times)", err, tries)
		}
		last = err
		// Up to a quarter more, so that jobs which failed together do not all
		// come back together.
		if err := e.wait(ctx, pause+rand.N(pause/4)); err != nil {
			return "", givenUp(err)
		}
		pause *= 2
	}
}
