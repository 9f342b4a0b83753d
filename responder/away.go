package main

// away and back: a human says until when they are not to be asked. The same two
// words work where one listens; these are for a terminal where nobody does, or for
// a calendar.

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/wire"
)

// relayFlags say which relay, where the background program does not.
type relayFlags struct {
	Relay     string `help:"The relay: tls://HOST:PORT or wss://HOST. Default: the background program's, if it runs, or those of responder.yaml." or:"CFA_RELAY" placeholder:"URL"`
	RelayName string `help:"The relay's name, if it is not the URL's host." or:"CFA_RELAY_NAME" placeholder:"NAME"`
	TLSName   string `name:"tls-name" help:"The name in the relay's certificate, if it is not the relay's name." or:"CFA_TLS_NAME" placeholder:"NAME"`
	CAFile    string `name:"ca-file" help:"Certificates to trust instead of the system's, in PEM." or:"CFA_CA_FILE" type:"path" placeholder:"FILE"`
	place     `embed:""`
}

// relays are the one that is named, or those of responder.yaml.
func (f *relayFlags) relays(env environ) ([]*dial.Relay, error) {
	if f.Relay == "" {
		set, path, err := f.settings(env)
		if err != nil {
			return nil, err
		}
		if len(set.Relays) == 0 {
			return nil, usage("missing: --relay=URL (CFA_RELAY), or `relays` in %s; see cfa-responder listen --help", path)
		}
		return set.relays(env, path)
	}
	relay, err := dial.Parse(dial.Target{URL: f.Relay, Name: f.RelayName, TLSName: f.TLSName, CAFile: f.CAFile, Getenv: env.get})
	if err != nil {
		return nil, usage("%w", err)
	}
	return []*dial.Relay{relay}, nil
}

// sayWithin is for how long the relay is tried for.
const sayWithin = 30 * time.Second

type awayCmd struct {
	relayFlags `embed:""`
	Until      string `help:"Until when: 18:00 (the next time that it is), 2h, 3d, 2026-12-01 or \"2026-12-01 08:00\", in this computer's time zone; 30 days at most. Without it this says only whether you are away." placeholder:"TIME"`
}

func (c *awayCmd) Run(ctx context.Context, std stdio, env environ) error {
	until, now := time.Time{}, time.Now()
	if c.Until != "" {
		var err error
		if until, err = parseUntil(c.Until, now); err == nil {
			err = answer.CheckUntil(until, now)
		}
		if err != nil {
			return usage("--until: %w", err)
		}
	}
	return c.say(ctx, std, env, func(ctx context.Context, r *dial.Relay, k keys) (answer.Absence, error) {
		if until.IsZero() {
			return answer.Said(ctx, r, k.connect, k.sign)
		}
		return answer.Say(ctx, r, k.connect, k.sign, until)
	}, func(ctx context.Context, a *attached) (answer.Absence, error) {
		if until.IsZero() {
			return a.absence(ctx)
		}
		return a.sayAway(ctx, until)
	})
}

type backCmd struct {
	relayFlags `embed:""`
}

func (c *backCmd) Run(ctx context.Context, std stdio, env environ) error {
	return c.say(ctx, std, env, func(ctx context.Context, r *dial.Relay, k keys) (answer.Absence, error) {
		return answer.Say(ctx, r, k.connect, k.sign, time.Time{})
	}, func(ctx context.Context, a *attached) (answer.Absence, error) { return a.sayAway(ctx, time.Time{}) })
}

// say says it through the background program, where that runs: it is at the relay
// with these keys, and a second connection would throw it out for a moment. Else at
// each relay by itself.
func (f *relayFlags) say(ctx context.Context, std stdio, env environ, to func(context.Context, *dial.Relay, keys) (answer.Absence, error), through func(context.Context, *attached) (answer.Absence, error)) error {
	ctx, cancel := context.WithTimeout(ctx, sayWithin)
	defer cancel()
	if f.Relay == "" {
		a, err := f.attach(env)
		if err == nil {
			defer a.close()
			absence, err := through(ctx, a)
			return showAbsence(std, "", absence, err)
		}
		if !errors.Is(err, errNotRunning) {
			return err
		}
	}
	relays, err := f.relays(env)
	if err != nil {
		return err
	}
	store, err := keyStoreAt(std, env, f.KeyFile)
	if err != nil {
		return err
	}
	k, err := loadKeys(ctx, store)
	if err != nil {
		return err
	}
	for _, r := range relays {
		at := ""
		if len(relays) > 1 {
			at = wire.CleanName(r.Name(), 253) + ": "
		}
		a, e := to(ctx, r, k)
		// The others are told all the same.
		err = errors.Join(err, showAbsence(std, at, a, e))
	}
	return err
}

// absence asks the background program whether its human is away.
func (a *attached) absence(ctx context.Context) (answer.Absence, error) {
	t, err := a.ask(ctx, wish{Do: "status"})
	if err != nil || t.Status == nil {
		return answer.Absence{}, err
	}
	return answer.Absence{Until: t.Status.Away}, nil
}

// sayAway has the background program say it, and waits until its relays have it.
func (a *attached) sayAway(ctx context.Context, until time.Time) (answer.Absence, error) {
	if err := a.Away(ctx, until); err != nil {
		return answer.Absence{}, err
	}
	ctx, stop := context.WithTimeoutCause(ctx, replyWithin, errNotSaid)
	defer stop()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		absence, err := a.absence(ctx)
		if err != nil {
			return absence, err
		}
		if absence.Until.Unix() == until.Unix() {
			return absence, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return absence, context.Cause(ctx)
		}
	}
}

var errNotSaid = fmt.Errorf("it is signed, and not each relay has taken it within %s; cfa-responder listen says why", replyWithin)

// showAbsence says what is on record now, and nothing else.
func showAbsence(std stdio, at string, a answer.Absence, err error) error {
	switch {
	case errors.Is(err, dial.ErrRefused):
		return &exit{exitRefused, err}
	case errors.Is(err, dial.ErrUnreachable), errors.Is(err, dial.ErrTLS), errors.Is(err, wire.ErrNonce):
		return &exit{exitUnavailable, err}
	case err != nil:
		return err
	case a.Until.IsZero():
		_, err = fmt.Fprintln(std.out, at+"you are not away: new requests are brought to you where cfa-responder listens")
	default:
		_, err = fmt.Fprintln(std.out, at+"you are away "+untilWords(a.Until, time.Now())+": until then you are not asked; cfa-responder back ends it sooner")
	}
	return err
}

func untilWords(until, now time.Time) string {
	return fmt.Sprintf("until %s (for %s)", until.Local().Format("Mon 2 Jan 15:04"), span(until.Sub(now)))
}

// parseUntil reads when an absence ends: a time of day, for how long, or a day. A
// time of day that has passed is tomorrow's.
func parseUntil(s string, now time.Time) (time.Time, error) {
	s = strings.TrimSpace(s)
	if t, err := time.ParseInLocation("15:04", s, now.Location()); err == nil {
		y, m, d := now.Date()
		at := time.Date(y, m, d, t.Hour(), t.Minute(), 0, 0, now.Location())
		if !at.After(now) {
			at = time.Date(y, m, d+1, t.Hour(), t.Minute(), 0, 0, now.Location())
		}
		return at, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 8); err == nil && n > 0 {
			return now.AddDate(0, 0, int(n)), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d > 0 && d < 1000*time.Hour {
		return now.Add(d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, s, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time; write 18:00, 2h, 3d, 2026-12-01 or \"2026-12-01 08:00\"", wire.Clean(s, 40))
}
