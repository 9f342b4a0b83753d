package main

// list, answer, decline, status: the background program by single commands, for
// scripts and for who has no other way at hand. A code comes from the terminal,
// unseen, or from standard input; never from an argument, which every user of the
// machine can read.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

// replyWithin is how long the background program may take for one decision.
const replyWithin = 15 * time.Second

type listCmd struct {
	place `embed:""`
	JSON  bool `name:"json" help:"As JSON."`
}

func (c *listCmd) Run(ctx context.Context, std stdio, env environ) error {
	t, err := c.once(ctx, env, wish{Do: "list"})
	if err != nil {
		return err
	}
	if c.JSON {
		return asJSON(std.out, append([]answer.Prompt{}, t.List...))
	}
	if s, err := c.once(ctx, env, wish{Do: "status"}); err == nil && s.Status != nil && !s.Status.Away.IsZero() {
		fmt.Fprintf(std.out, "you are away %s; cfa-responder back ends it\n", untilWords(s.Status.Away, time.Now()))
	}
	if len(t.List) == 0 {
		_, err := io.WriteString(std.out, "nothing waits\n")
		return err
	}
	tell := teller{write: func(s string) { _, _ = io.WriteString(std.out, harmless(s)) }, plain: true, mute: true, now: time.Now}
	for _, p := range t.List {
		tell.summary(p)
	}
	return nil
}

type statusCmd struct {
	place `embed:""`
	JSON  bool `name:"json" help:"As JSON."`
}

func (c *statusCmd) Run(ctx context.Context, std stdio, env environ) error {
	t, err := c.once(ctx, env, wish{Do: "status"})
	if errors.Is(err, errNotRunning) {
		return errors.Join(c.absent(ctx, std, env), err)
	}
	if err != nil {
		return err
	}
	s := t.Status
	if s == nil {
		return errors.New("the background program did not say how it is; restart it")
	}
	if c.JSON {
		return asJSON(std.out, s)
	}
	if s.Locked != "" {
		fmt.Fprintf(std.out, "running   %s, process %d, since %s\nlocked    %s; cfa-responder unlock hands it its keys\n", s.Version, s.PID, s.Since.Local().Format("2006-01-02 15:04:05"), harmless(s.Locked))
		return nil
	}
	asks := strings.Join(s.Ways, ", ")
	if asks == "" {
		asks = "nothing rings; cfa-responder list shows what waits"
	}
	fmt.Fprintf(std.out, "running   %s, process %d, since %s\nasks by   %s\nwaiting   %d\n", s.Version, s.PID, s.Since.Local().Format("2006-01-02 15:04:05"), asks, s.Waiting)
	if !s.Away.IsZero() {
		fmt.Fprintf(std.out, "away      %s\n", untilWords(s.Away, time.Now()))
	}
	for _, l := range s.Relays {
		how := "connected since "
		if !l.Connected {
			how = "not connected since "
		}
		how += l.Since.Local().Format("2006-01-02 15:04:05")
		if l.Why != "" {
			how += ": " + l.Why
		}
		fmt.Fprintf(std.out, "relay     %s: %s\n", l.Relay, harmless(how))
	}
	return nil
}

type declineCmd struct {
	place  `embed:""`
	ID     string `arg:"" help:"The prompt's number, or its request's key or the beginning of that."`
	Reason string `help:"Why, as the job's log and colleagues will read it." placeholder:"TEXT"`
}

func (c *declineCmd) Run(ctx context.Context, std stdio, env environ) error {
	a, err := c.attach(env)
	if err != nil {
		return err
	}
	defer a.close()
	ctx, stop := context.WithTimeoutCause(ctx, replyWithin, errSlow)
	defer stop()
	p, err := a.find(ctx, c.ID)
	if err != nil {
		return err
	}
	if err := a.Decline(ctx, p.ID, c.Reason); err != nil {
		return err
	}
	fmt.Fprintf(std.err, "#%d declined: your no is on its way\n", p.Number)
	return nil
}

type answerCmd struct {
	place  `embed:""`
	ID     string `arg:"" help:"The prompt's number, or its request's key or the beginning of that."`
	Match  string `help:"The match code, read off the job's log, where the prompt demands it. It is no secret." placeholder:"CODE"`
	JSON   bool   `name:"json" help:"Print the prompt as JSON as it was answered."`
	Source bool   `help:"Have the code from the program that responder.yaml names for the prompt's service (codes)."`
}

// Run answers one prompt: with a code from the terminal or from standard input,
// with a yes, or by giving its link.
func (c *answerCmd) Run(ctx context.Context, std stdio, env environ) error {
	a, err := c.attach(env)
	if err != nil {
		return err
	}
	defer a.close()
	looking, stop := context.WithTimeoutCause(ctx, replyWithin, errSlow)
	p, err := a.verified(looking, c.ID)
	stop()
	if err != nil {
		return err
	}
	if p.TypeMatch && c.Match == "" {
		return usage("#%d needs its match code, as the job's log shows it: --match CODE", p.Number)
	}
	d := answer.Answer{ID: p.ID, Attempt: p.Attempt, Match: c.Match}
	if p.Ask == wire.AskLink {
		answering, stop := context.WithTimeoutCause(ctx, replyWithin, errSlow)
		defer stop()
		link, err := a.Follow(answering, d)
		if err != nil {
			return err
		}
		fmt.Fprintf(std.err, "#%d is answered at this page of %s:\n", p.Number, wire.LinkHost(link))
		_, err = fmt.Fprintln(std.out, link)
		return err
	}
	if c.Source && p.Source == "" {
		return usage("#%d: %s", p.Number, noSource(p))
	}
	if !p.Yes && !c.Source {
		tell := teller{write: func(s string) { _, _ = io.WriteString(std.err, harmless(s)) }, mute: true, now: time.Now}
		if d.Code, err = readCode(ctx, std, func() { tell.describe(p) }, fmt.Sprintf("#%d code, %s (not shown): ", p.Number, p.Format)); err != nil {
			return err
		}
	}
	within, send := replyWithin, a.Answer
	if c.Source {
		within, send = replyWithin+sourceWithin, a.UseSource
		fmt.Fprintf(std.err, "#%d: %s is asked for the code; it may want something of you, in a window of its own or by a touch\n", p.Number, p.Source)
	}
	answering, stop := context.WithTimeoutCause(ctx, within, errSlow)
	defer stop()
	if err := send(answering, d); err != nil {
		return err
	}
	fmt.Fprintf(std.err, "#%d sealed: only this job can open it; it is on its way\n", p.Number)
	if c.JSON {
		return asJSON(std.out, p)
	}
	return nil
}

var errSlow = errors.New("the background program does not answer; restart it")

// once sends one wish to the background program.
func (p place) once(ctx context.Context, env environ, w wish) (told, error) {
	a, err := p.attach(env)
	if err != nil {
		return told{}, err
	}
	defer a.close()
	ctx, stop := context.WithTimeoutCause(ctx, replyWithin, errSlow)
	defer stop()
	return a.ask(ctx, w)
}

// shortestKey is how much of a key must be given: less is a number or a guess.
const shortestKey = 8

// find gives the prompt that a human means.
func (a *attached) find(ctx context.Context, id string) (answer.Prompt, error) {
	t, err := a.ask(ctx, wish{Do: "list"})
	if err != nil {
		return answer.Prompt{}, err
	}
	number, _ := strconv.Atoi(strings.TrimPrefix(id, "#"))
	var found []answer.Prompt
	for _, p := range t.List {
		if number > 0 && p.Number == number || p.ID == id || len(id) >= shortestKey && strings.HasPrefix(p.ID, id) {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return answer.Prompt{}, usage("nothing waits that is called %s; cfa-responder list shows what does", wire.CleanName(id, 60))
	}
	return answer.Prompt{}, usage("%s could be %d prompts; give more of its key", wire.CleanName(id, 60), len(found))
}

// verified opens a prompt and waits until its job has proved itself, or has not.
func (a *attached) verified(ctx context.Context, id string) (answer.Prompt, error) {
	p, err := a.find(ctx, id)
	if err != nil {
		return p, err
	}
	if p.Answerable {
		return p, nil
	}
	if _, err := a.ask(ctx, wish{Do: "watch"}); err != nil {
		return p, err
	}
	if _, err := a.ask(ctx, wish{Do: "open", Prompt: p.ID}); err != nil {
		return p, err
	}
	news := a.news.News(ctx)
	for {
		n, ok := <-news
		switch {
		case !ok && ctx.Err() == nil:
			return p, &exit{exitUnavailable, errDetached}
		case !ok:
			return p, fmt.Errorf("#%d cannot be answered: %s", p.Number, p.Why)
		case n.Prompt == nil || n.Prompt.ID != p.ID:
			continue
		}
		p = *n.Prompt
		if p.Answerable {
			return p, nil
		}
		if p.Phase == answer.Asking && slices.Contains([]answer.Standing{answer.Unopened, answer.Checking}, p.Standing) {
			continue
		}
		return p, fmt.Errorf("#%d cannot be answered: %s", p.Number, p.Why)
	}
}

// readCode takes a code from the human's terminal, or one line of standard input
// where that is none. show shows what the code is for, at a terminal.
func readCode(ctx context.Context, std stdio, show func(), question string) (string, error) {
	dev, err := std.terminal()
	if errors.Is(err, errNoTerminal) {
		line, err := bufio.NewReaderSize(io.LimitReader(std.in, maxLine), maxLine).ReadString('\n')
		if err != nil && (line == "" || !errors.Is(err, io.EOF)) {
			return "", usage("there is no code on standard input: write it there, one line")
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	if err != nil {
		return "", err
	}
	defer dev.Close()
	show()
	code, err := hidden(ctx, dev, question)
	if err != nil {
		return "", errors.New("nothing was sent")
	}
	return code, nil
}

func asJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
