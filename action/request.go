package main

// cfa request: ask for a code, wait, hand it over.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/continuousauth/action/internal/ask"
	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/service"
	"github.com/continuousauth/action/internal/wire"
)

// relayFlags say which relay is meant. Every subcommand that asks has them.
type relayFlags struct {
	Relay     string `placeholder:"URL" required:"" help:"Where the relay is: tls://host:port, or wss://host where only HTTPS gets out."`
	RelayName string `placeholder:"NAME" help:"The relay's own name, its file's host. Default: the host of --relay."`
	TLSName   string `name:"tls-name" placeholder:"NAME" help:"The name in the relay's certificate. Default: the relay's name."`
	CAFile    string `name:"ca-file" placeholder:"FILE" help:"PEM file with the authority that signed the relay's certificate. Default: the system's authorities."`
	Project   string `placeholder:"NAME" required:"" help:"The project at the relay, whose humans are asked."`
}

// askFlags say what is asked for, and of whom.
type askFlags struct {
	relayFlags
	Timeout    time.Duration `default:"30m" placeholder:"TIME" help:"How long to wait for an answer, at most 6h and the relay's own limit. Default: 30m."`
	Message    string        `placeholder:"TEXT" help:"Words of the job to the human, shown as such."`
	Service    string        `placeholder:"NAME" help:"What the code is for: npm, rubygems, or any other name of a-z, 0-9, ., _ and -."`
	Format     string        `placeholder:"FORM" help:"The form of the code: digits:6, digits:6-8, hex:64, alnum:8 or any. Default: what the service takes."`
	Responders string        `placeholder:"KEYS" help:"Signing keys (A...) that may answer, separated by commas or spaces, or a file of the repository that holds them, such as .github/responders: a key a line, with a name after it. Default: any that the relay accepts."`
	Approvals  int           `default:"1" placeholder:"N" help:"How many people must agree, 1 or 2: with 2 one says yes, and another gives the code. 2 needs --responders. Default: 1."`
}

type requestCmd struct {
	askFlags
	Output string `placeholder:"WHERE" help:"Where the code goes: github (outputs of the step: code, responder, request-id) or stdout (the code alone). What goes to stdout must be captured, as in code=$(cfa request ...): in the log it can be read before it is masked, and for good on a CI that cannot mask, such as CircleCI. Default: github in a GitHub step, else stdout."`
}

// AfterApply refuses what is wrong before anything is done.
func (r *requestCmd) AfterApply() error { return r.check() }

// check refuses what is wrong, in the words of the flags, and fills in what was
// not given.
func (r *askFlags) check() error {
	if err := wire.CheckProject(r.Project); err != nil {
		return fmt.Errorf("--project is %s", plain(err))
	}
	if r.RelayName != "" {
		if err := wire.CheckRelayName(r.RelayName); err != nil {
			return fmt.Errorf("--relay-name %q is %s", wire.Clean(r.RelayName, 80), plain(err))
		}
	}
	if r.Timeout < time.Second || r.Timeout > wire.LongestWait {
		return fmt.Errorf("--timeout is %s; it must be from 1s to %s", r.Timeout, wire.LongestWait)
	}
	if len(r.Message) > wire.MaxText || !utf8.ValidString(r.Message) {
		return fmt.Errorf("--message is longer than %d bytes, or not UTF-8", wire.MaxText)
	}
	if r.Service == "" {
		r.Service = service.Default
	}
	if err := checkField(func(q *wire.Request) { q.Service = r.Service }); err != nil {
		return fmt.Errorf("--service %q: %s", wire.Clean(r.Service, 80), plain(err))
	}
	if r.Format == "" {
		r.Format = service.Format(r.Service)
	}
	if _, err := wire.ParseFormat(r.Format); err != nil {
		return fmt.Errorf("--format: %s", plain(err))
	}
	given := r.Responders
	var err error
	if r.Responders, err = pinnedKeys(given); err != nil {
		return fmt.Errorf("--responders: %w", err)
	}
	pinned := keys(r.Responders)
	if given != "" && len(pinned) == 0 {
		// Somebody meant to pin: a list whose variables were all empty must not
		// let every key answer.
		return errors.New("--responders holds separators but no key; give the keys, or nothing at all to let any key answer that the relay accepts")
	}
	for _, key := range pinned {
		if err := wire.CheckSigningKey(key); err != nil {
			return fmt.Errorf("--responders: %q is %s; `cfa-responder keys` prints it", wire.Clean(key, 60), plain(err))
		}
	}
	if err := checkField(func(q *wire.Request) { q.Responders = pinned }); err != nil {
		return fmt.Errorf("--responders: %s", plain(err))
	}
	switch {
	case r.Approvals < 0 || r.Approvals > 2: // 0 is for whoever makes these flags without
		return fmt.Errorf("--approvals is %d; it must be 1 or 2", r.Approvals)
	case r.Approvals > 1 && len(pinned) < r.Approvals:
		return fmt.Errorf("--approvals is %d, and --responders names %d: name the signing keys (A...) of all who may agree, or a relay could enrol a second person of its own", r.Approvals, len(pinned))
	}
	return nil
}

// checkField says what is wrong with one field of a request whose others are
// good. Signing the real one says the same, but only after the CI was looked
// for, and without the flag's name.
func checkField(set func(*wire.Request)) error {
	key, err := wire.NewConnectKey()
	if err != nil {
		return err
	}
	q := &wire.Request{
		Key: wire.PublicKey(key), Relay: "relay", Project: "project", Ask: wire.AskCode, Service: service.Default, Format: "any",
		Made: 1, Deadline: 2, HPKE: make([]byte, 32), Proof: wire.Proof{"iss": "-", "job": "-"},
	}
	set(q)
	_, err = wire.Sign(q, key)
	return err
}

// config is what these flags ask.
func (r *askFlags) config(relay *dial.Relay, provider *ci.Provider, env ci.Env, say *log) ask.Config {
	return ask.Config{
		Relay: relay, Provider: provider, Env: env,
		Project: r.Project, Service: r.Service, Format: r.Format, Message: r.Message,
		Responders: keys(r.Responders), Approvals: r.Approvals, Timeout: r.Timeout, Tell: say.event,
	}
}

// keys takes a list of keys apart.
func keys(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) })
}

// plain is an error about what the user gave, which to them is neither a message
// nor signed.
func plain(err error) string {
	return strings.NewReplacer(wire.ErrMalformed.Error()+": ", "", "sign request: ", "").Replace(err.Error())
}

// handoverTime is how long the end of a request may take to confirm. Where it is
// not confirmed, the record says of a code that was used that it never came, and
// its human is asked again: a relay may take this long to restart, or a cluster to
// choose another leader for its record (10 s) and the job to be back after it, on
// a busy machine.
const handoverTime = 30 * time.Second

// Run is the job, in the order in which it happens.
func (r *requestCmd) Run(ctx context.Context, io stdio) error {
	say := io.say
	relay, err := dial.Parse(dial.Target{URL: r.Relay, Name: r.RelayName, TLSName: r.TLSName, CAFile: r.CAFile, Getenv: io.getenv})
	if err != nil {
		return usage("%s", plain(err))
	}
	env := ci.Env{Getenv: io.getenv}
	provider, err := ci.Detect(env)
	if err != nil {
		return &exit{exitUsage, err}
	}
	to, err := newHandover(r.Output, provider, io)
	if err != nil {
		return err
	}
	session, err := ask.New(r.config(relay, provider, env, say))
	if err != nil {
		return usage("%s", plain(err))
	}
	say.line("asking for a code (service %s) as a job on %s", r.Service, provider.Title)
	if !to.masks() {
		say.line("warning: %s cannot hide a code in its log: keep what cfa writes to stdout out of it", provider.Title)
	}

	answer, err := session.Await(ctx)
	if err != nil {
		return err
	}
	outcome := wire.OutcomeOK
	failed := to.code(answer.Code(), session.ID())
	if failed != nil {
		outcome = wire.OutcomeFailed
	}
	// Signed whether or not the job is being stopped by now: the code is out of
	// the human's hands.
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), handoverTime)
	defer cancel()
	ended := session.Done(ending, outcome)
	if failed != nil {
		return fmt.Errorf("a code came, but it was not handed over: %w", failed)
	}
	if ended != nil {
		// The code is good all the same. Its humans may see the prompt for a while.
		reason := ended.Error()
		if errors.Is(ended, context.DeadlineExceeded) {
			reason = "no reply"
		}
		say.line("the relay did not confirm the end of the request: %s", reason)
	}
	who := session.Name()
	if who == "" {
		who = answer.Responder
	} else {
		say.line("answered by %s", who)
		say.sum.answered(who)
	}
	if err := to.responder(who); err != nil {
		say.line("warning: who answered was not handed over: %s", err) // the code was
	}
	say.line("the code was handed over")
	return nil
}
