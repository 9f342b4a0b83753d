package main

// listen: the responder at work. It brings together the keys, the pins, one
// relay and one way to ask.

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
	"github.com/continuousauth/action/internal/service"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

type listenCmd struct {
	Relay     string `help:"The relay: tls://HOST:PORT or wss://HOST. Needed." or:"CFA_RELAY" placeholder:"URL" required:""`
	RelayName string `help:"The relay's name, if it is not the URL's host." or:"CFA_RELAY_NAME" placeholder:"NAME"`
	TLSName   string `name:"tls-name" help:"The name in the relay's certificate, if it is not the relay's name." or:"CFA_TLS_NAME" placeholder:"NAME"`
	CAFile    string `name:"ca-file" help:"Certificates to trust instead of the system's, in PEM." or:"CFA_CA_FILE" type:"path" placeholder:"FILE"`
	KeyFile   string `help:"The key file." or:"CFA_KEY_FILE" type:"path" placeholder:"FILE"`
	Pins      string `help:"The pins file." or:"CFA_PINS" type:"path" placeholder:"FILE"`

	Issuer        []string      `help:"Also accept ID tokens of this issuer, in the place of one of the same name: NAME=URL or NAME:CI=URL. For development; cfa-responder pins issuer keeps one for good." placeholder:"NAME=URL" sep:"none"`
	ConnectWithin time.Duration `help:"How long the relay is tried for at the start; 0: for ever. A connection that was lost is sought for ever. Default: 30s." default:"30s" placeholder:"TIME"`
	Log           string        `help:"Append what happens, as JSON lines, to this file. It holds no code, no token and no key." or:"CFA_LOG" type:"path" placeholder:"FILE"`

	AnswerCommand string `help:"Run this with sh -c for each verified prompt and send what it prints as the code. The prompt's facts are in CFA_ variables. Needs --unattended." placeholder:"CMD"`
	Unattended    bool   `help:"Let --answer-command answer without a human: for demonstrations and tests only."`
}

func (c *listenCmd) Run(ctx context.Context, std stdio, env environ) error {
	switch {
	case c.AnswerCommand != "" && !c.Unattended:
		return usage("--answer-command answers without a human, which takes away the second factor; if that is meant, for a demonstration or a test, say --unattended as well")
	case c.Unattended && c.AnswerCommand == "":
		return usage("--unattended is about --answer-command, and there is none")
	}
	relay, err := dial.Parse(dial.Target{URL: c.Relay, Name: c.RelayName, TLSName: c.TLSName, CAFile: c.CAFile, Getenv: env.get})
	if err != nil {
		return usage("%w", err)
	}
	store, err := keyStoreAt(env, c.KeyFile)
	if err != nil {
		return err
	}
	k, err := loadKeys(store)
	if err != nil {
		return err
	}
	pinsPath, err := env.file(c.Pins, "pins.yaml")
	if err != nil {
		return err
	}
	var given []issuerEntry
	for _, s := range c.Issuer {
		e, err := parseIssuer(s)
		if err != nil {
			return err
		}
		given = append(given, e)
	}
	log, closeLog, err := openLog(c.Log)
	if err != nil {
		return err
	}
	defer closeLog()

	believed := &beliefs{path: pinsPath, given: given, relay: relay.Name(), log: log}
	defer believed.close()
	first, err := believed.read(ctx)
	if err != nil {
		return err
	}

	asker, err := c.asker(std, env)
	if err != nil {
		return err
	}
	desk, err := answer.New(answer.Config{
		Relay: relay, Connect: k.connect, Sign: k.sign, Trust: first, Askers: []answer.Asker{asker},
		Log: log, ConnectWithin: c.ConnectWithin, LinkPath: service.LinkPath, Reusable: service.Reusable,
	})
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		believed.watch(watching, desk)
	}()
	defer func() {
		stop()
		<-watched
	}()
	go func() {
		for _, e := range given {
			desk.Notice(fmt.Sprintf("ID tokens of %s are accepted as those of %q, because --issuer says so", wire.CleanName(e.URL, 200), wire.CleanName(e.Name, 63)))
		}
		if first.Pins == nil {
			desk.Notice("there are no pins in " + wire.Clean(pinsPath, 300) + " yet, so nothing can be answered; cfa-responder pins add makes one")
		}
	}()

	switch err := desk.Run(ctx); {
	case errors.Is(err, answer.ErrNotEnrolled), errors.Is(err, dial.ErrRefused):
		return &exit{exitRefused, err}
	case errors.Is(err, dial.ErrUnreachable), errors.Is(err, dial.ErrTLS), errors.Is(err, wire.ErrNonce):
		return &exit{exitUnavailable, err}
	default:
		return err
	}
}

// asker picks the way to ask. A new one is a file of its own and a case here.
func (c *listenCmd) asker(std stdio, env environ) (answer.Asker, error) {
	if c.AnswerCommand != "" {
		fmt.Fprint(std.err, "UNATTENDED: a command answers every verified request that fits the pins, and no human is asked.\n"+
			"There is no second factor as long as this runs. It is for demonstrations and tests.\n")
		return newCommandMode(c.AnswerCommand, env, std), nil
	}
	dev, err := std.terminal()
	if errors.Is(err, errNoTerminal) {
		return newLineMode(newStream(std.in, std.out), true), nil
	}
	if err != nil {
		return nil, err
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
		Verifier: trust.NewVerifier(b.relay, keys, trust.Options{AllowUnbound: compiled.unbound()}),
		Pins:     compiled.policy,
		Links:    compiled.file.Links,
	}, nil
}

const watchEvery = 2 * time.Second

// watch takes in a changed pins file. One that cannot be read changes nothing:
// the pins that a human confirmed stay what counts.
func (b *beliefs) watch(ctx context.Context, desk *answer.Desk) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if stampOf(b.path) == b.stamp {
			continue
		}
		next, err := b.read(ctx)
		if err != nil {
			desk.Notice("the pins file has changed and cannot be used, so the pins from before still count: " + wire.Clean(err.Error(), 400))
			continue
		}
		desk.SetTrust(next)
		desk.Notice("the pins have changed; what waits is checked again")
	}
}
