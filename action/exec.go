package main

// cfa exec: run a command, and give it a human's second factor where it wants one.
//
// The rule it keeps: the command decides. It is run as it was given; a human is
// asked when its own words show that it wants a factor (or just before it, where a
// tool shows nothing); and what it ends with is what exec ends with. A run is
// repeated only where the table of services is sure that the factor alone was
// missing, so that no repetition turns a failure into a success.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/continuousauth/action/internal/ask"
	"github.com/continuousauth/action/internal/child"
	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/service"
	"github.com/continuousauth/action/internal/wire"
)

// execution is one cfa exec under way.
type execution struct {
	*execCmd
	io       stdio
	say      *log
	to       *handover
	relay    *dial.Relay
	provider *ci.Provider
	env      ci.Env

	session *ask.Session // of the code in hand; nil before the first
	fences  *fences      // nil: the log takes no commands
	code    string
	given   time.Time // when it came
	more    []string  // variables of what is run, besides the job's own
	linked  bool      // it came of a link
	proven  bool      // the tool has taken it at least once
	asks    int       // codes that were refused, in a row
}

// ended is how the command ended, as this program's own end.
func ended(code int) error {
	if code == 0 {
		return nil
	}
	return &exit{code, nil}
}

// Run is the job, in the order in which it happens.
func (x *execCmd) Run(ctx context.Context, io stdio) error {
	e := &execution{execCmd: x, io: io, say: io.say, env: ci.Env{Getenv: io.getenv}}
	var err error
	if e.relay, err = dial.Parse(dial.Target{URL: x.Relay, Name: x.RelayName, TLSName: x.TLSName, CAFile: x.CAFile, Getenv: io.getenv}); err != nil {
		return usage("%s", plain(err))
	}
	if e.provider, err = ci.Detect(e.env); err != nil {
		return &exit{exitUsage, err}
	}
	// Nothing is handed over but to the command; this masks.
	if e.to, err = newHandover(outputStdout, e.provider, io); err != nil {
		return err
	}
	e.fence()
	if e.shell != nil {
		argv, remove, err := e.shell.write(e.Script, io.getenv("RUNNER_TEMP"))
		if err != nil {
			return &exit{exitCancelled, fmt.Errorf("%w; nothing was run", err)}
		}
		defer remove()
		e.Command = argv
	}
	if e.row.Ruby != "" {
		remove, err := e.ruby()
		if err != nil {
			return err
		}
		defer remove()
	}
	// What the command reads is read once: a second run would find nothing.
	err = e.steps(ctx)
	e.leave(ctx, err == nil)
	return err
}

// steps runs the command, or what it is made of.
func (e *execution) steps(ctx context.Context) error {
	switch {
	case e.row.Login != nil:
		return e.login(ctx)
	case e.row.Plan != nil:
		if p := e.row.Plan(e.Command, e.io.getenv); p != nil {
			return e.publish(ctx, p)
		}
	}
	return e.until(ctx, &task{argv: e.Command})
}

// A task is one command that is run until it has what it wants.
type task struct {
	argv   []string
	exists func(ctx context.Context) presence // of what it publishes; nil: that cannot be told

	limited int // too many tries, in a row
	unsure  int // failures after which it may be published

	waited *waitedOut // how the tool ended that waited for its link by itself
	again  int        // links that only came to too many tries
}

// until runs a task: first without a factor, where the tool shows that it wants
// one; with one then; and again where the factor was refused.
func (e *execution) until(ctx context.Context, t *task) error {
	switch {
	case e.row.Prompt != nil:
		return e.typed(ctx, t)
	case e.row.Link != nil && e.row.Link.Shown != nil && e.row.Env == nil:
		return e.shown(ctx, t)
	}
	code, err := e.before(ctx)
	if err != nil {
		return err
	}
	for {
		given := code != "" || t.waited != nil // what it did not take came of a human
		res, err := e.attempt(ctx, t, code)
		switch {
		case err != nil:
			return err
		case res.Code == 0:
			if code != "" {
				e.proven, e.asks = true, 0
			}
			return nil
		case ctx.Err() != nil:
			return ended(res.Code) // it was stopped, and so was its run
		}
		wants, res, err := e.wants(ctx, t, res, code)
		if err != nil {
			return err
		}
		byLink := t.waited != nil
		t.waited = nil
		switch wants {
		case done:
			return nil
		case service.WantsCode:
			code, err = e.another(ctx, t, given, res.Code)
		case service.WantsLink:
			code, err = e.byLink(ctx, t, given, res.Code)
			if waited, is := errors.AsType[*waitedOut](err); is {
				t.waited = waited
				continue
			}
			if err == nil && code == "" {
				return nil // it went on by itself, and ended well
			}
		case service.Limited:
			err = e.calm(ctx, t, byLink, res.Code)
			code = e.usable()
		case service.Exists:
			return e.already(ctx, t, res.Code)
		case service.Unsure:
			var published bool
			if published, err = e.published(ctx, t, res.Code); published {
				return nil
			}
			code = e.usable()
		default:
			return ended(res.Code)
		}
		if err != nil {
			return err
		}
	}
}

// before is the code for the first run: none, where a tool that has none shows that
// it wants one.
func (e *execution) before(ctx context.Context) (string, error) {
	if e.row.Env != nil && !e.once() && (e.row.Read != nil || e.refused != nil) {
		return e.usable(), nil
	}
	return e.obtain(ctx)
}

// attempt is one run of a task, or the end of one that is over: of a tool that waited
// for its link by itself.
func (e *execution) attempt(ctx context.Context, t *task, code string) (child.Result, error) {
	if t.waited != nil {
		e.linked, e.proven = true, false
		return t.waited.res, nil
	}
	return e.run(ctx, t.argv, code, nil)
}

// run runs one command with a code, or without, and passes signals on to it.
func (e *execution) run(ctx context.Context, argv []string, code string, change func(*child.Command)) (child.Result, error) {
	c := child.Command{Argv: argv, Env: append(set(e.io.environ(), e.row.Set), e.more...), Out: e.io.out, Err: e.io.err}
	if e.io.in != nil {
		c.Stdin = e.io.in
	}
	if code != "" {
		c.Hide = []string{code}
		for _, name := range e.row.Env {
			c.Env = append(c.Env, name+"="+code)
		}
		switch {
		case e.Stdin:
			c.Stdin = strings.NewReader(code + "\n")
		case e.FD != 0:
			c.FD, c.Handed = e.FD, code+"\n"
		}
	}
	if change != nil {
		change(&c)
	}
	shown := make(chan struct{})
	if l := e.row.Link; l != nil && l.Unasked {
		once := sync.OnceFunc(func() { close(shown) })
		c.See = func(text string) {
			if l.Shown.MatchString(text) {
				once()
			}
		}
	}
	// Not ctx: a signal that stops this job is the command's to act on.
	p, err := child.Start(context.WithoutCancel(ctx), c)
	if err != nil {
		return child.Result{}, startFailure(err)
	}
	end := e.io.signals.pass(func(s os.Signal) { _ = p.Signal(s) })
	defer end()
	if by, ok := errors.AsType[stoppedBy](context.Cause(ctx)); ok {
		_ = p.Signal(by.signal) // it came before there was anybody to pass it on to
	}
	select {
	case <-shown: // it waits for a human, and so far none was asked
		p.Stop()
	case <-p.Done():
	}
	res, err := p.Wait()
	if err != nil {
		return res, fmt.Errorf("%s: %w", wire.Clean(argv[0], 80), err)
	}
	return res, nil
}

// startFailure gives the exit codes of a shell.
func startFailure(err error) error {
	if errors.Is(err, child.ErrNotFound) {
		return &exit{127, err}
	}
	return &exit{126, err}
}

// set is an environment with further variables, each only where it is not set.
func set(env, more []string) []string {
	env = slices.Clone(env)
	for _, v := range more {
		name, _, _ := strings.Cut(v, "=")
		if !slices.ContainsFunc(env, func(have string) bool {
			return len(have) > len(name) && strings.EqualFold(have[:len(name)+1], name+"=")
		}) {
			env = append(env, v)
		}
	}
	return env
}

// usable is the code in hand, if the tool takes a code more than once and this one
// lives. Else "": the tool is to show again what it wants.
func (e *execution) usable() string {
	if e.row.Reuse && time.Since(e.given) < e.row.Life {
		return e.code
	}
	return ""
}

// obtain asks a human for a code: the first, or one more.
func (e *execution) obtain(ctx context.Context) (string, error) {
	if err := e.sure(); err != nil {
		return "", err
	}
	if e.session == nil {
		s, err := ask.New(e.config(e.relay, e.provider, e.env, e.say))
		if err != nil {
			return "", usage("%s", plain(err))
		}
		e.session = s
		e.say.line("%s wants a code: asking for one (service %s) as a job on %s", e.row.Title, e.row.Name, e.provider.Title)
	} else if e.code != "" {
		// The one before did its work; this is the next of the same request.
		ctx, cancel := context.WithTimeout(ctx, handoverTime)
		err := e.session.Next(ctx)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			return "", err
		}
	}
	e.code = ""
	answer, err := e.session.Await(ctx)
	if err != nil {
		e.session = nil // it has ended
		return "", err
	}
	code := answer.Code()
	if err := e.conceal(code); err != nil {
		return "", err
	}
	e.code, e.given, e.proven, e.linked = code, time.Now(), false, false
	return code, nil
}

// another is the code for the next run, after one that failed with what a human had
// given, or with nothing.
func (e *execution) another(ctx context.Context, t *task, given bool, failed int) (string, error) {
	t.limited = 0
	if given {
		if err := e.refuse(ctx, failed); err != nil {
			return "", err
		}
	}
	return e.obtain(ctx)
}

// refuse takes in that the tool did not take the code in hand. One that it took
// before has only died; any other was wrong, and how often that may happen has a
// limit.
func (e *execution) refuse(ctx context.Context, code int) error {
	if e.proven {
		e.say.line("the code is used up: asking for the next one")
		return nil // obtain says so, signed
	}
	e.asks++
	what := "the code"
	if e.linked {
		what = "what came of the link"
	}
	if e.asks > e.row.Retries {
		if e.row.Retries == 0 {
			e.say.line("%s refused %s, and it is not asked for again by itself", e.row.Title, what)
		} else {
			e.say.line("%s has refused %d codes: giving up", e.row.Title, e.asks)
		}
		return ended(code)
	}
	e.say.line("%s refused %s: asking for another (%d of %d)", e.row.Title, what, e.asks, e.row.Retries)
	if e.session == nil {
		return nil // it came of a link, whose request is over
	}
	ctx, cancel := context.WithTimeout(ctx, handoverTime)
	defer cancel()
	if err := e.session.Reject(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		e.session = nil
		return err
	}
	e.code = "" // obtain is not to say next
	return nil
}

// byLink is what comes of a link, for the next run: "" if the tool has ended well.
func (e *execution) byLink(ctx context.Context, t *task, given bool, failed int) (string, error) {
	if e.row.Link == nil {
		e.say.line("%s shows a link to follow, and neither waits for it nor takes what comes of it: publish each package by itself (cfa exec -- npm publish), or by staged publishing", e.row.Title)
		return "", ended(failed)
	}
	t.limited = 0
	if given {
		if err := e.refuse(ctx, failed); err != nil {
			return "", err
		}
		e.leave(ctx, false) // what follows is another question
	}
	return e.follow(ctx, t)
}

// pauses are how long a tool that was told of too many tries waits before the next.
var pauses = []time.Duration{15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute}

// pause waits after a rate limit. It is no refusal: the code is not to blame.
func (e *execution) pause(ctx context.Context, n, code int) error {
	if n > len(pauses) {
		e.say.line("the service still answers that there were too many tries: giving up")
		return ended(code)
	}
	wait := pauses[n-1]
	if e.io.pause != nil {
		wait = e.io.pause(wait)
	}
	e.say.line("the service says that there were too many tries, which is no word on the code: waiting %s", wait)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ended(code)
	}
}

// calm waits after too many tries, as often as they come in a row.
func (e *execution) calm(ctx context.Context, t *task, byLink bool, failed int) error {
	t.limited++
	if byLink {
		// What came of the link went with the tool, so each of these costs a human a
		// link; and the count above begins anew with it.
		if t.again++; t.again > e.row.Retries {
			t.limited = len(pauses) + 1
		}
	}
	return e.pause(ctx, t.limited, failed)
}

// published looks whether a run that failed did publish. If it did not, and the next
// run may, there is no error.
func (e *execution) published(ctx context.Context, t *task, failed int) (bool, error) {
	t.unsure++
	if t.exists == nil || t.unsure > 2 {
		return false, ended(failed)
	}
	switch t.exists(ctx) {
	case same:
		e.say.line("the registry answered with a failure, but has the version, with the same bytes: it was published")
		return true, nil
	case absent:
		e.say.line("the registry answered with a failure, and has not got the version: trying again")
		return false, nil
	}
	return false, ended(failed)
}

// leave signs how it ended.
func (e *execution) leave(ctx context.Context, well bool) {
	if e.session == nil {
		return
	}
	e.finish(ctx, e.session, well)
	e.session, e.code = nil, ""
}

func (e *execution) finish(ctx context.Context, s *ask.Session, well bool) {
	outcome := wire.OutcomeOK
	if !well {
		outcome = wire.OutcomeFailed
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handoverTime)
	defer cancel()
	if err := s.Done(ctx, outcome); errors.Is(err, context.DeadlineExceeded) {
		e.say.line("the relay did not confirm the end of the request: no reply")
	}
	if who := s.Name(); who != "" {
		e.say.line("answered by %s", who)
		e.say.sum.answered(who)
	}
}
