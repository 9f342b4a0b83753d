package main

// The way phone: the page for phones of this human's own, and the commands by which
// a phone gets its passkey and loses it. The page itself is internal/page.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rsc.io/qr"

	"github.com/continuousauth/action/internal/answer"
	web "github.com/continuousauth/action/internal/page"
	"github.com/continuousauth/action/internal/wire"
)

// phoneSettings is its part of responder.yaml.
type phoneSettings struct {
	Listen string `yaml:"listen"`
	Name   string `yaml:"name"`
	Cert   string `yaml:"cert"`
	Key    string `yaml:"key"`
}

const maxPhoneFile = 256 << 10

// phoneWay is the page with what this user's commands ask of it.
type phoneWay struct{ *web.Page }

func openPhoneWay(s surroundings, part func(any) error) (answer.Asker, error) {
	var set phoneSettings
	if err := part(&set); err != nil {
		return nil, err
	}
	if set.Listen == "" || set.Name == "" {
		return nil, errors.New("say where phones reach it: `phone: {listen: ADDRESS:PORT, name: cfa.home.example, cert: FILE, key: FILE}`")
	}
	if err := apart(s, set.Name, net.DefaultResolver.LookupHost); err != nil {
		return nil, err
	}
	file := filepath.Join(s.dir, "phones.json")
	p, err := web.New(web.Config{Describe: describePage, Log: s.log, Phone: &web.Phone{
		Listen: set.Listen, Name: set.Name, Cert: set.Cert, Key: set.Key,
		Load: func() ([]byte, error) {
			data, err := readOwn(file, maxPhoneFile, 0o077)
			if errors.Is(err, fs.ErrNotExist) {
				return nil, nil
			}
			return data, err
		},
		Save: func(data []byte) error { return savePhones(file, data) },
	}})
	if err != nil {
		return nil, err
	}
	return phoneWay{p}, nil
}

// apart refuses to serve phones where a relay is served: whoever runs that machine
// could put a page of their own there, which takes codes.
func apart(s surroundings, name string, lookup func(context.Context, string) ([]string, error)) error {
	host, _, err := net.SplitHostPort(name)
	if err != nil {
		host = name
	}
	var hosts []string
	for _, link := range s.relays {
		u, err := url.Parse(link)
		if err != nil {
			continue
		}
		hosts = append(hosts, u.Hostname())
		if strings.EqualFold(strings.TrimSuffix(u.Hostname(), "."), strings.TrimSuffix(host, ".")) {
			return fmt.Errorf("%s is the relay's host, too; a relay must be unable to read codes, and whoever runs that host could put a page there that takes them: run the responder for your phone on a machine of your own, under a name of its own", wire.CleanName(u.Hostname(), 253))
		}
	}
	ctx, stop := context.WithTimeout(context.Background(), resolveWithin)
	defer stop()
	mine, _ := lookup(ctx, host) // a name that only the private network knows is no mistake
	for _, relay := range hosts {
		theirs, _ := lookup(ctx, relay)
		for _, a := range theirs {
			if slices.Contains(mine, a) {
				fmt.Fprintf(s.std.err, "warning: %s and the relay %s are at the same address, %s; a relay must be unable to read codes, so serve your phone from a machine of your own that is not the relay's\n", wire.CleanName(host, 253), wire.CleanName(relay, 253), a)
				return nil
			}
		}
	}
	return nil
}

const resolveWithin = 3 * time.Second

// savePhones replaces the file as a whole: half a list of passkeys would lock its
// human out.
func savePhones(path string, data []byte) error {
	if err := replace(path, data); err != nil {
		return fmt.Errorf("write phones: %w", err)
	}
	return nil
}

const (
	wishPhoneAdd    = "phone-add"
	wishPhoneList   = "phone-list"
	wishPhoneRemove = "phone-remove"
)

// oblige is obliging's.
func (p phoneWay) oblige(_ context.Context, do string, args []string) (string, bool, error) {
	one := func() string {
		if len(args) != 1 {
			return ""
		}
		return args[0]
	}
	switch do {
	case wishPhoneAdd:
		link, err := p.AddPhone(one())
		return link, true, err
	case wishPhoneRemove:
		return "", true, p.RemovePhone(one())
	case wishPhoneList:
		var b strings.Builder
		for _, k := range p.Phones() {
			used, rings := "never used", "not rung"
			if !k.Used.IsZero() {
				used = "last used " + k.Used.Local().Format("2006-01-02 15:04")
			}
			if k.Rings {
				rings = "rung"
			}
			fmt.Fprintf(&b, "%s: added %s, %s, %s\n", k.Name, k.Added.Local().Format("2006-01-02 15:04"), used, rings)
		}
		return b.String(), true, nil
	}
	return "", false, nil
}

type phoneCmd struct {
	Add    phoneAddCmd    `cmd:"" help:"Print a link, as a QR code too, by which a phone gets its passkey. It works once, for ten minutes."`
	List   phoneListCmd   `cmd:"" help:"The phones that have a passkey."`
	Remove phoneRemoveCmd `cmd:"" help:"Forget a phone's passkey, and end its session: it was lost, or given away."`
}

type phoneAddCmd struct {
	place `embed:""`
	Name  string `arg:"" help:"What you call it."`
}

// Run prints the link.
func (c *phoneAddCmd) Run(ctx context.Context, std stdio, env environ) error {
	t, err := c.once(ctx, env, wish{Do: wishPhoneAdd, Args: []string{c.Name}})
	if err != nil {
		return err
	}
	fmt.Fprintln(std.err, "Open this on the phone within ten minutes. It works once, and gives whoever opens it a passkey by which to answer in your place: show it to your phone alone.")
	// At a terminal alone: elsewhere its colours would be in somebody's file.
	if dev, err := std.terminal(); err == nil {
		code, err := squares(t.Text)
		if err == nil {
			_, err = io.WriteString(dev.out, code)
		}
		dev.Close()
		if err != nil {
			return err
		}
	}
	_, err = fmt.Fprintln(std.out, t.Text)
	return err
}

// squares is a QR code as text, two rows of it in each line, dark on light whatever
// the terminal's colours are, with the margin that cameras want.
func squares(text string) (string, error) {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return "", fmt.Errorf("the link as a QR code: %w", err)
	}
	const margin = 2
	var b strings.Builder
	for y := -margin; y < code.Size+margin; y += 2 {
		b.WriteString("\x1b[30;107m")
		for x := -margin; x < code.Size+margin; x++ {
			b.WriteString([]string{" ", "▄", "▀", "█"}[2*bit(code.Black(x, y))+bit(code.Black(x, y+1))])
		}
		b.WriteString("\x1b[0m\n")
	}
	return b.String(), nil
}

func bit(b bool) int {
	if b {
		return 1
	}
	return 0
}

type phoneListCmd struct {
	place `embed:""`
}

// Run lists them.
func (c *phoneListCmd) Run(ctx context.Context, std stdio, env environ) error {
	t, err := c.once(ctx, env, wish{Do: wishPhoneList})
	if err != nil {
		return err
	}
	if t.Text == "" {
		t.Text = "no phone has a passkey\n"
	}
	_, err = fmt.Fprint(std.out, harmless(t.Text))
	return err
}

type phoneRemoveCmd struct {
	place `embed:""`
	Name  string `arg:"" help:"What you called it."`
}

// Run forgets one.
func (c *phoneRemoveCmd) Run(ctx context.Context, std stdio, env environ) error {
	if _, err := c.once(ctx, env, wish{Do: wishPhoneRemove, Args: []string{c.Name}}); err != nil {
		return err
	}
	fmt.Fprintf(std.err, "%s is forgotten, and out\n", harmless(c.Name))
	return nil
}
