package main

// responder.yaml: which relays this responder is at, and how its human is asked.
// It holds no secret; keys and pins are elsewhere. The program writes it when a
// relay is joined, and a human may.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/service"
	"github.com/continuousauth/action/internal/wire"
)

const (
	maxSettings = 64 << 10
	maxRelays   = 16
)

// settings is the file's content.
type settings struct {
	Relays []relaySettings
	Ask    []string                  // names of ways; nil: those that are there
	Ways   map[string]yaml.Node      // each way's own part
	Codes  map[string]sourceSettings // by service: where its codes can come from
}

// relaySettings is how one relay is reached.
type relaySettings struct {
	URL     string `yaml:"url"`
	Name    string `yaml:"name,omitempty"`     // if it is not the URL's host
	TLSName string `yaml:"tls-name,omitempty"` // if it is not the relay's name
	CAFile  string `yaml:"ca-file,omitempty"`
}

func (r relaySettings) target(env environ) dial.Target {
	return dial.Target{URL: r.URL, Name: r.Name, TLSName: r.TLSName, CAFile: r.CAFile, Getenv: env.get}
}

// readSettings reads the file. One that is not there is empty.
func readSettings(path string) (settings, error) {
	data, err := readOwn(path, maxSettings, 0o022)
	if errors.Is(err, fs.ErrNotExist) {
		return settings{}, nil
	}
	if err != nil {
		return settings{}, usage("settings: %w", err)
	}
	s, err := parseSettings(data)
	if err != nil {
		return settings{}, usage("%s: %w", path, err)
	}
	return s, nil
}

func parseSettings(data []byte) (s settings, err error) {
	var parts map[string]yaml.Node
	if err := yaml.Unmarshal(data, &parts); err != nil {
		return s, errors.New(wire.Clean(err.Error(), 300))
	}
	for name, node := range parts {
		switch name {
		case "relays":
			err = strictly(node, &s.Relays)
		case "ask":
			err = strictly(node, &s.Ask)
		case "codes":
			if err = strictly(node, &s.Codes); err == nil {
				err = checkSources(s.Codes)
			}
		default:
			if findWay(name) == nil {
				return s, fmt.Errorf("%s is nothing that is set here; there are relays, ask, codes, and a part for each way to ask (%s)", wire.CleanName(name, 63), wayNames())
			}
			if s.Ways == nil {
				s.Ways = map[string]yaml.Node{}
			}
			s.Ways[name] = node
		}
		if err != nil {
			return s, fmt.Errorf("%s: %w", name, err)
		}
	}
	if len(s.Relays) > maxRelays {
		return s, fmt.Errorf("relays: there are %d, and at most %d can be", len(s.Relays), maxRelays)
	}
	for i, name := range s.Ask {
		if findWay(name) == nil {
			return s, fmt.Errorf("ask: %s is no way to ask that is known here (%s)", wire.CleanName(name, 63), wayNames())
		}
		if slices.Contains(s.Ask[:i], name) {
			return s, fmt.Errorf("ask: %s is named twice", name)
		}
	}
	return s, nil
}

// strictly decodes a part: what it does not know is a mistake to be told of.
func strictly(node yaml.Node, v any) error {
	if node.IsZero() {
		return nil
	}
	data, err := yaml.Marshal(&node)
	if err != nil {
		return err
	}
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	if err := d.Decode(v); err != nil {
		return errors.New(wire.Clean(strings.TrimPrefix(err.Error(), "yaml: "), 300))
	}
	return nil
}

// outfit is what a responder at work needs, whichever way it asks.
type outfit struct {
	keys  keys
	chain []wire.Succession // how the signing key succeeds older ones
	pins  string            // file
	given []issuerEntry
	codes *sources // nil: none
	log   *slog.Logger
}

// front makes the desks of these relays, and keeps what they believe up to date
// until ctx ends; watched is closed then.
func (o outfit) front(ctx context.Context, relays []*dial.Relay, askers []answer.Asker, change func(*answer.Config)) (f *answer.Front, watched <-chan struct{}, err error) {
	var configs []answer.Config
	var all []*beliefs
	defer func() {
		if err != nil {
			for _, b := range all {
				b.close()
			}
		}
	}()
	pinned := true
	memory := newMemory(filepath.Dir(o.pins), o.log) // it is of the projects that the pins are of
	for _, r := range relays {
		b := &beliefs{path: o.pins, given: o.given, relay: r.Name(), log: o.log}
		all = append(all, b)
		first, err := b.read(ctx)
		if err != nil {
			return nil, nil, err
		}
		pinned = first.Pins != nil
		c := answer.Config{
			Relay: r, Connect: o.keys.connect, Sign: o.keys.sign, Chain: o.chain, Trust: first, Log: o.log, Memory: memory,
			LinkPath: service.LinkPath, Reusable: service.Reusable,
		}
		if o.codes != nil {
			c.Sources = o.codes
		}
		change(&c)
		configs = append(configs, c)
	}
	if f, err = answer.NewFront(configs, askers); err != nil {
		return nil, nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, e := range o.given {
			f.Notice(fmt.Sprintf("ID tokens of %s are accepted as those of %q, because --issuer says so", wire.CleanName(e.URL, 200), wire.CleanName(e.Name, 63)))
		}
		if said := memory.said(); said != "" {
			f.Notice(said)
		}
		if !pinned {
			f.Notice("there are no pins in " + wire.Clean(o.pins, 300) + " yet, so nothing can be answered; cfa-responder pins add makes one")
		}
		watchPins(ctx, f, all)
		for _, b := range all {
			b.close()
		}
		memory.settled()
	}()
	return f, done, nil
}
