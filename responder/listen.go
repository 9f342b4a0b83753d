package main

// listen: the responder at work in a terminal, or for the program at the other end
// of its standard input. Where the background program runs, it asks for that one.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"runtime"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

type listenCmd struct {
	relayFlags `embed:""`

	ConnectWithin time.Duration `help:"How long the relay is tried for at the start; 0: for ever. A connection that was lost is sought for ever. Default: 30s." default:"30s" placeholder:"TIME"`

	AnswerCommand string `help:"Run this with sh -c for each verified prompt and send what it prints as the code. The prompt's facts are in CFA_ variables. Needs --unattended." placeholder:"CMD"`
	full          bool   // the screen, not the line mode
	Unattended    bool   `help:"Let --answer-command answer without a human: for demonstrations and tests only."`
}

func (c *listenCmd) Run(ctx context.Context, std stdio, env environ) error {
	switch {
	case c.AnswerCommand != "" && !c.Unattended:
		return usage("--answer-command answers without a human, which takes away the second factor; if that is meant, for a demonstration or a test, say --unattended as well")
	case c.Unattended && c.AnswerCommand == "":
		return usage("--unattended is about --answer-command, and there is none")
	}
	if c.Relay == "" {
		// The newest connection of a key closes the older one: a second program
		// with the same keys would take the first one's place, and be thrown out.
		a, err := c.attach(env)
		if err == nil {
			return c.attached(ctx, a, std, env)
		}
		if !errors.Is(err, errNotRunning) {
			return err
		}
	}
	relays, err := c.relays(env)
	if err != nil {
		return err
	}
	o, end, err := c.outfit(ctx, std, env)
	if err != nil {
		return err
	}
	defer end()
	asker, err := c.asker(std, env)
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	front, watched, err := o.front(watching, relays, []answer.Asker{asker}, func(a *answer.Config) { a.ConnectWithin = c.ConnectWithin })
	if err != nil {
		stop()
		return err
	}
	defer func() {
		stop()
		<-watched
	}()
	switch err := front.Run(ctx); {
	case errors.Is(err, answer.ErrNotEnrolled), errors.Is(err, dial.ErrRefused):
		return &exit{exitRefused, err}
	case errors.Is(err, dial.ErrUnreachable), errors.Is(err, dial.ErrTLS), errors.Is(err, wire.ErrNonce):
		return &exit{exitUnavailable, err}
	default:
		return err
	}
}

// attached asks at this terminal for the background program.
func (c *listenCmd) attached(ctx context.Context, a *attached, std stdio, env environ) error {
	if len(c.Issuer) > 0 || c.AnswerCommand != "" {
		a.close()
		return usage("the background program runs, and decides by itself which issuers it believes and who answers; end it first, or name a --relay and other keys")
	}
	asker, err := c.asker(std, env)
	if err != nil {
		a.close()
		return err
	}
	if s, ok := asker.(*screen); ok {
		s.past = func() []answer.Past {
			t, _ := a.ask(ctx, wish{Do: "past"})
			return t.Past
		}
	}
	return a.run(ctx, asker)
}

// asker picks the way to ask. A new one is a file of its own and a case here.
func (c *listenCmd) asker(std stdio, env environ) (answer.Asker, error) {
	if c.AnswerCommand != "" {
		fmt.Fprint(std.err, "UNATTENDED: a command answers every verified request that fits the pins, and no human is asked.\n"+
			"There is no second factor as long as this runs. It is for demonstrations and tests.\n")
		return newCommandMode(c.AnswerCommand, env, std), nil
	}
	dev, err := std.terminal()
	if errors.Is(err, errNoTerminal) && c.full {
		return nil, usage("a screen needs a terminal; cfa-responder listen does without")
	}
	if errors.Is(err, errNoTerminal) {
		return newLineMode(newStream(std.in, std.out), true), nil
	}
	if err != nil {
		return nil, err
	}
	if c.full {
		return newScreen(dev, env), nil
	}
	t, err := newTerminal(dev)
	if err != nil {
		dev.Close()
		return nil, fmt.Errorf("terminal: %w", err)
	}
	t.write("cfa-responder waits for what asks; help lists the commands.\n")
	m := newLineMode(t, false)
	m.browse = browser(runtime.GOOS, env)
	return m, nil
}

func openLog(path string) (*slog.Logger, func(), error) {
	if path == "" {
		return slog.New(slog.DiscardHandler), func() {}, nil
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, usage("log: %w", err)
	}
	return slog.New(slog.NewJSONHandler(io.Writer(file), nil)), func() { _ = file.Close() }, nil
}

// beliefs is what the pins file says, read again when it changes.
type beliefs struct {
	path  string
	given []issuerEntry
	relay string // name
	log   *slog.Logger

	stamp stamp
	keys  *trust.Keys
	stop  context.CancelFunc
}

// stamp tells one state of a file from another.
type stamp struct {
	there    bool
	size     int64
	modified time.Time
}

func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return stamp{}
	}
	if err != nil {
		return stamp{there: true}
	}
	return stamp{true, info.Size(), info.ModTime()}
}

func (b *beliefs) close() {
	if b.stop != nil {
		b.stop()
	}
}

// read makes of the pins file what the desk believes.
func (b *beliefs) read(ctx context.Context) (answer.Trust, error) {
	b.stamp = stampOf(b.path)
	f, err := readPins(b.path)
	if err != nil {
		return answer.Trust{}, err
	}
	compiled, err := f.compile(b.given)
	if err != nil {
		return answer.Trust{}, usage("%s: %w", b.path, err)
	}
	keys, err := trust.NewKeys(compiled.issuers, trust.KeysOptions{Log: b.log})
	if err != nil {
		return answer.Trust{}, usage("%w", err)
	}
	keys.Keep(b.keys)
	if b.stop != nil {
		b.stop()
	}
	run, stop := context.WithCancel(ctx)
	b.keys, b.stop = keys, stop
	// In the background only where something is pinned: until then no prompt
	// can be answered, and the keys can be fetched when one is looked at.
	if compiled.policy != nil {
		go keys.Run(run)
	}
	return answer.Trust{
		Verifier:  trust.NewVerifier(b.relay, keys, trust.Options{AllowUnbound: compiled.unbound()}),
		Pins:      compiled.policy,
		Links:     compiled.file.Links,
		TypeMatch: compiled.file.typed(),
	}, nil
}

const watchEvery = 2 * time.Second

// watchPins takes in a changed pins file, until ctx ends. One that cannot be read
// changes nothing: the pins that a human confirmed stay what counts.
func watchPins(ctx context.Context, front *answer.Front, all []*beliefs) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		said := ""
		for _, b := range all {
			if stampOf(b.path) == b.stamp {
				continue
			}
			next, err := b.read(ctx)
			if err != nil {
				said = "the pins file has changed and cannot be used, so the pins from before still count: " + wire.Clean(err.Error(), 400)
				continue
			}
			front.SetTrust(b.relay, next)
			said = "the pins have changed; what waits is checked again"
		}
		if said != "" {
			front.Notice(said)
		}
	}
}
