package main

// run: the background program. It is at all relays of responder.yaml at once, asks
// in every way that is there, and listens at a socket for the other commands of
// its user.

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/wire"
)

// place is where a responder's files are.
type place struct {
	Settings string `help:"The settings file: relays, and how you are asked." or:"CFA_SETTINGS" type:"path" placeholder:"FILE"`
	KeyFile  string `help:"The key file." or:"CFA_KEY_FILE" type:"path" placeholder:"FILE"`
	Pins     string `help:"The pins file." or:"CFA_PINS" type:"path" placeholder:"FILE"`
	Socket   string `help:"The background program's socket." or:"CFA_SOCKET" type:"path" placeholder:"FILE"`
	Log      string `help:"Append what happens, as JSON lines, to this file. It holds no code, no token and no key." or:"CFA_LOG" type:"path" placeholder:"FILE"`

	Issuer []string `help:"Also accept ID tokens of this issuer, in the place of one of the same name: NAME=URL or NAME:CI=URL. For development; cfa-responder pins issuer keeps one for good." placeholder:"NAME=URL" sep:"none"`
}

// settings reads responder.yaml.
func (p place) settings(env environ) (settings, string, error) {
	path, err := env.file(p.Settings, "responder.yaml")
	if err != nil {
		return settings{}, "", err
	}
	s, err := readSettings(path)
	return s, path, err
}

// outfit loads keys and pins.
func (p place) outfit(ctx context.Context, std stdio, env environ) (o outfit, end func(), err error) {
	store, err := keyStoreAt(std, env, p.KeyFile)
	if err != nil {
		return o, nil, err
	}
	k, err := loadKeys(ctx, store)
	if err != nil {
		return o, nil, err
	}
	return p.outfitWith(k, env)
}

// outfitWith loads the pins.
func (p place) outfitWith(k keys, env environ) (o outfit, end func(), err error) {
	o.keys = k
	if o.chain, err = readChain(env, p.KeyFile, wire.PublicKey(k.sign)); err != nil {
		return o, nil, err
	}
	if o.pins, err = env.file(p.Pins, "pins.yaml"); err != nil {
		return o, nil, err
	}
	for _, s := range p.Issuer {
		e, err := parseIssuer(s)
		if err != nil {
			return o, nil, err
		}
		o.given = append(o.given, e)
	}
	set, _, err := p.settings(env)
	if err != nil {
		return o, nil, err
	}
	o.codes = newSources(set, env)
	o.log, end, err = openLog(p.Log)
	return o, end, err
}

// relays are those of the settings, ready to be dialled.
func (s settings) relays(env environ, path string) ([]*dial.Relay, error) {
	if len(s.Relays) == 0 {
		return nil, usage("%s names no relay; write `relays: [{url: wss://cfa.example.com}]` into it", path)
	}
	var all []*dial.Relay
	for _, one := range s.Relays {
		r, err := dial.Parse(one.target(env))
		if err != nil {
			return nil, usage("%s: %w", path, err)
		}
		all = append(all, r)
	}
	return all, nil
}

type runCmd struct {
	place  `embed:""`
	Detach bool `help:"Windows: go on without a window." hidden:""`
}

func (c *runCmd) Run(ctx context.Context, std stdio, env environ) error {
	if c.Detach {
		args, err := c.flags()
		if err != nil {
			return err
		}
		return detach(args)
	}
	set, path, err := c.settings(env)
	if path != "" {
		defer func() { noteEnding(filepath.Join(filepath.Dir(path), ending), err) }()
	}
	if err != nil {
		return err
	}
	err = c.run(ctx, std, env, set, path)
	return err
}

func (c *runCmd) run(ctx context.Context, std stdio, env environ, set settings, path string) error {
	relays, err := set.relays(env, path)
	if err != nil {
		return err
	}
	socket, err := socketPath(env, c.Socket)
	if err != nil {
		return err
	}
	store, err := keyStoreAt(std, env, c.KeyFile)
	if err != nil {
		return err
	}
	var front *answer.Front
	var names []string
	since := time.Now()
	ctl, err := newControl(socket, func() state {
		s := state{Version: version(), PID: os.Getpid(), Since: since, Ways: names}
		if front != nil { // else the keys are locked
			s.Relays = front.Lines()
		}
		return s
	})
	if err != nil {
		return err
	}
	defer ctl.listener.Close()
	k, err := store.whenUnlocked(ctx, ctl, func(why string) { fmt.Fprintln(std.err, harmless(why)) })
	if err != nil || ctx.Err() != nil {
		return err
	}
	o, end, err := c.outfitWith(k, env)
	if err != nil {
		return err
	}
	defer end()

	var urls []string
	for _, r := range set.Relays {
		urls = append(urls, r.URL)
	}
	var askers []answer.Asker
	if names, askers, err = chosen(surroundings{env: env, std: std, log: o.log, dir: filepath.Dir(path), relays: urls}, set); err != nil {
		return err
	}
	for _, a := range askers {
		if o, ok := a.(obliging); ok {
			ctl.obliging = append(ctl.obliging, o)
		}
	}
	watching, stop := context.WithCancel(ctx)
	front, watched, err := o.front(watching, relays, append(askers, ctl, journal{std}), func(c *answer.Config) { c.Patient = true })
	if err != nil {
		stop()
		return err
	}
	defer func() {
		stop()
		<-watched
	}()
	if len(names) == 0 {
		fmt.Fprintf(std.err, "nothing rings on this machine; cfa-responder list shows what waits (socket: %s)\n", socket)
	} else {
		fmt.Fprintf(std.err, "asking by %s; cfa-responder list shows what waits (socket: %s)\n", strings.Join(names, ", "), socket)
	}
	return front.Run(ctx)
}

// journal writes notices to standard error, which is where a service's log comes
// from. No prompt is in it: who may read a log need not know what asks.
type journal struct{ std stdio }

// Discreet is answer.Discreet's.
func (j journal) Discreet() {}

// Ask is answer.Asker's.
func (j journal) Ask(_ context.Context, news <-chan answer.News, _ answer.Decisions) error {
	for n := range news {
		switch {
		case n.Away != nil:
			tell := teller{write: func(s string) { fmt.Fprint(j.std.err, harmless(s)) }, plain: true, mute: true, now: time.Now}
			tell.absence(*n.Away)
		case n.Prompt == nil:
			fmt.Fprintln(j.std.err, harmless(n.Notice))
		}
	}
	return nil
}

// attach connects to the background program of this user.
func (p place) attach(env environ) (*attached, error) {
	path, err := socketPath(env, p.Socket)
	if err != nil {
		return nil, err
	}
	return attach(path)
}
