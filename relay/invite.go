package main

// An invitation: a link for one new responder. Its secret is made here and stands
// in the link alone; the relay is told the public half.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"rsc.io/qr"

	"github.com/continuousauth/action/internal/broker"
	"github.com/continuousauth/action/internal/wire"
)

type inviteCmd struct {
	running `embed:""`

	Project string        `required:"" placeholder:"NAME" help:"The project whose prompts they are to answer."`
	Name    string        `required:"" placeholder:"NAME" help:"What they are called here, in logs and in the record."`
	Expires time.Duration `default:"24h" placeholder:"TIME" help:"How long the link is good for, 168h at most."`
	URL     string        `name:"url" placeholder:"URL" help:"How the relay is reached from outside, wss://HOST or tls://HOST:PORT. Default: what the file says."`
	QR      bool          `name:"qr" help:"Show the link as a QR code, too."`
}

// Run prints the link, and nothing else, on standard output.
func (c *inviteCmd) Run(ctx context.Context, std stdio) error {
	config, err := broker.ReadConfig(c.Config)
	if err != nil {
		return &exit{exitConfig, err}
	}
	pins, err := config.Pins(c.Project)
	if err != nil {
		return &exit{exitUsage, fmt.Errorf("--project: %w", err)}
	}
	body, err := ask(ctx, config.Data, http.MethodGet, "/v1/status")
	if err != nil {
		return err
	}
	var status broker.Status
	if err := json.Unmarshal(body, &status); err != nil {
		return errors.New("the relay's status is not what this program understands: are both of the same version?")
	}
	address := c.URL
	if address == "" {
		if address, err = config.Address(status); err != nil {
			return &exit{exitUsage, err}
		}
	}
	cert, err := config.CertificateHash(time.Now())
	if err != nil {
		return &exit{exitConfig, err}
	}
	key, err := wire.NewConnectKey()
	if err != nil {
		return err
	}
	defer key.Wipe()
	seed, err := key.Seed()
	if err != nil {
		return err
	}
	until := time.Now().Add(c.Expires)
	i := wire.Invitation{V: wire.Version, Secret: string(seed), URL: address, Relay: config.Host, Cert: cert, Project: c.Project, Name: c.Name, Until: until.Unix(), Pins: pins}
	// Before the relay knows of it: what is no link would wait there for nobody.
	link, err := i.Link()
	if err != nil {
		return &exit{exitUsage, fmt.Errorf("the invitation would not be a good one: %s", strings.ReplaceAll(err.Error(), wire.ErrMalformed.Error()+": ", ""))}
	}
	if err := noRelay(broker.AskInvite(ctx, config.Data, broker.Invite{Key: wire.PublicKey(key), Project: c.Project, Name: c.Name, Until: until})); err != nil {
		return err
	}
	fmt.Fprintf(std.err, "An invitation for %s to answer for %s at %s, good once, until %s.\n", c.Name, c.Project, address, until.UTC().Format("2006-01-02 15:04 MST"))
	fmt.Fprintln(std.err, "Whoever has the link can ask to be enrolled: hand it over where nobody else reads it. There, `cfa-responder join` takes it, and shows a fingerprint;")
	fmt.Fprintf(std.err, "have that read to you, then: cfa-relay responders approve --config %s %s\n", shellWord(c.Config), shellWord(c.Name))
	if a := config.TLS.ACME; a != nil && a.CAFile != "" || config.NATS != nil && config.NATS.CAFile != "" {
		fmt.Fprintln(std.err, "The relay's certificate is of an authority of your own: hand that one's over, too, and have it named: cfa-responder join --ca-file FILE")
	}
	if c.QR {
		code, err := picture(link)
		if err != nil {
			return err
		}
		fmt.Fprint(std.err, code)
	}
	_, err = fmt.Fprintln(std.out, link)
	return err
}

// noRelay is an error of a command that needs a running relay.
func noRelay(err error) error {
	if errors.Is(err, broker.ErrNoRelay) {
		return &exit{exitUnavailable, err}
	}
	return err
}

// picture is a QR code for a terminal: two modules to a character, in black on
// white whatever the terminal's own colours are, since not every camera reads it
// the other way round.
func picture(text string) (string, error) {
	code, err := qr.Encode(text, qr.L)
	if err != nil {
		return "", fmt.Errorf("the link is too long for a QR code; hand it over as text: %w", err)
	}
	const quiet = 4 // modules around it, without which it is not found
	var b strings.Builder
	for y := -quiet; y < code.Size+quiet; y += 2 {
		b.WriteString("\x1b[30;107m")
		for x := -quiet; x < code.Size+quiet; x++ {
			b.WriteString([]string{" ", "▄", "▀", "█"}[2*black(code, x, y)+black(code, x, y+1)])
		}
		b.WriteString("\x1b[0m\n")
	}
	return b.String(), nil
}

func black(code *qr.Code, x, y int) int {
	if code.Black(x, y) {
		return 1
	}
	return 0
}

// shellWord quotes s for a command that a person may copy.
func shellWord(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-") == "" && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
