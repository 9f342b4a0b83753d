package main

// --answer-command: a program answers instead of a human. It undoes what this
// project is for, and is there for demonstrations and tests; see --unattended.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

// commandMode asks a command for the code of each verified prompt, or has it
// follow the prompt's link, once per attempt. An approval it leaves alone: its
// match code must be typed.
type commandMode struct {
	command string
	env     environ
	tell    teller
	stderr  io.Writer
}

func newCommandMode(command string, env environ, std stdio) *commandMode {
	out := stream{out: std.out}
	return &commandMode{command: command, env: env, stderr: std.err, tell: teller{write: out.write, plain: true, mute: true, now: time.Now}}
}

// mostAttempts bounds what one request can get out of the command: a code that a
// service refuses again and again can lock the account.
const mostAttempts = 5

// running is a command that runs for a prompt.
type running struct {
	attempt int
	stop    context.CancelFunc
}

// Discreet is answer.Discreet's.
func (m *commandMode) Discreet() {}

// Ask is answer.Asker's.
func (m *commandMode) Ask(ctx context.Context, news <-chan answer.News, desk answer.Decisions) error {
	type result struct {
		p    answer.Prompt
		code string
		err  error
	}
	results := make(chan result)
	run := map[string]running{}
	tried := map[string]int{} // attempts
	defer func() {
		for _, r := range run {
			r.stop()
		}
	}()
	for {
		select {
		case n, ok := <-news:
			if !ok {
				return nil
			}
			if n.Away != nil {
				m.tell.absence(*n.Away)
				continue
			}
			if n.Prompt == nil {
				m.tell.say(0, "note", n.Notice)
				continue
			}
			p := *n.Prompt
			if p.Quiet { // whoever is away has their command do nothing either
				continue
			}
			if m.tell.news(p) {
				desk.Open(p.ID)
			}
			if r, ok := run[p.ID]; ok && (p.Phase != answer.Asking || p.Attempt != r.attempt) {
				r.stop()
				delete(run, p.ID)
			}
			if p.Phase == answer.Over {
				delete(tried, p.ID)
				continue
			}
			if !p.Answerable || p.Attempt <= tried[p.ID] {
				continue
			}
			switch {
			case p.Ask == wire.AskLink && p.Link == "" && !p.TypeMatch:
				m.tell.say(p.Number, "left alone", "it has no link that a command could follow")
				continue
			case p.TypeMatch:
				// Only a human can read the job's log. It is tried again when
				// the reason has passed.
				m.tell.say(p.Number, "left alone", "its match code must be typed, and no command can read it off the job's log")
				continue
			case p.Attempt > mostAttempts:
				m.tell.say(p.Number, "left alone", fmt.Sprintf("%d codes are enough; the command is not asked for another", mostAttempts))
				tried[p.ID] = p.Attempt
				continue
			}
			tried[p.ID] = p.Attempt
			m.tell.say(p.Number, "unattended", "the answer command is run; no human decides on this")
			one, stop := context.WithDeadline(ctx, p.Deadline)
			run[p.ID] = running{p.Attempt, stop}
			go func() {
				code, err := m.ask(one, p)
				select {
				case results <- result{p, code, err}:
				case <-one.Done():
				}
			}()
		case r := <-results:
			if now, ok := run[r.p.ID]; !ok || now.attempt != r.p.Attempt {
				continue
			}
			run[r.p.ID].stop()
			delete(run, r.p.ID)
			if r.err == nil && r.p.Ask == wire.AskLink {
				m.tell.say(r.p.Number, "followed", "the answer command has ended; the job sees by itself what became of the link")
				continue
			}
			if r.err == nil {
				r.err = desk.Answer(ctx, answer.Answer{ID: r.p.ID, Attempt: r.p.Attempt, Code: r.code})
			}
			if r.err != nil {
				m.tell.say(r.p.Number, "left alone", plain(r.err))
			} else {
				m.tell.say(r.p.Number, "sealed", "only this job can open it; it is on its way")
			}
		}
	}
}

// ask runs the command and gives what it printed, without its last newline.
func (m *commandMode) ask(ctx context.Context, p answer.Prompt) (string, error) {
	shell := []string{"sh", "-c"}
	if runtime.GOOS == "windows" {
		shell = []string{"cmd", "/c"}
	}
	out := &bounded{left: wire.MaxCode + 2}
	cmd := exec.CommandContext(ctx, shell[0], append(shell[1:], m.command)...)
	cmd.Env = append(append([]string{}, m.env...), facts(p)...)
	cmd.Stdout, cmd.Stderr = out, m.stderr
	// A grandchild that keeps standard output open must not hold this up.
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	defer clear(out.b)
	switch {
	case out.full:
		return "", errors.New("the answer command printed more than a code; nothing was sent")
	case ctx.Err() != nil:
		return "", errors.New("the answer command did not end in time; nothing was sent")
	case err != nil:
		// The error is an exit status or a missing shell, not what it printed.
		return "", fmt.Errorf("the answer command failed (%w); nothing was sent", err)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(out.b), "\n"), "\r"), nil
}

// facts is a prompt as variables for the command.
func facts(p answer.Prompt) []string {
	f := p.Facts
	return []string{
		"CFA_REQUEST=" + p.ID, "CFA_RELAY_NAME=" + p.Relay, "CFA_PROJECT=" + p.Project,
		"CFA_ASK=" + p.Ask, "CFA_LINK=" + p.Link,
		"CFA_SERVICE=" + p.Service, "CFA_FORMAT=" + p.Format, "CFA_MESSAGE=" + p.Message, "CFA_MATCH=" + p.Match,
		"CFA_REPOSITORY=" + f.Repository, "CFA_WORKFLOW=" + f.Workflow, "CFA_WORKFLOW_FILE=" + f.WorkflowFile,
		"CFA_REF=" + f.Ref, "CFA_SHA=" + f.SHA, "CFA_ENVIRONMENT=" + f.Environment, "CFA_EVENT=" + f.Event,
		"CFA_ACTOR=" + f.Actor, "CFA_RUN_URL=" + f.RunURL, "CFA_RUN_ID=" + f.RunID, "CFA_RUN_ATTEMPT=" + f.RunAttempt,
		fmt.Sprintf("CFA_ATTEMPT=%d", p.Attempt), "CFA_REASON=" + p.Reason, fmt.Sprintf("CFA_DEADLINE=%d", p.Deadline.Unix()),
	}
}

// bounded keeps the first bytes that are written to it.
type bounded struct {
	b    []byte
	left int
	full bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if len(p) > b.left {
		b.full = true
		return 0, errors.New("too much")
	}
	b.left -= len(p)
	b.b = append(b.b, p...)
	return len(p), nil
}
