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
	"path/filepath"
	"regexp"
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

type execCmd struct {
	askFlags
	Variable  string `name:"env" placeholder:"NAME" help:"The environment variable that the command reads its code from."`
	Stdin     bool   `help:"The command reads its code from standard input."`
	FD        int    `name:"fd" placeholder:"N" help:"The command reads its code from file descriptor N, 3 to 9."`
	PtyPrompt string `placeholder:"REGEXP" help:"The command asks for its code on a terminal: it is given one, and the code is typed when the end of what it shows matches."`
	Refused   string `placeholder:"REGEXP" help:"What a failed command writes whose code was missing or refused."`
	Link      string `placeholder:"REGEXP" help:"The command shows a link to follow, and goes on by itself when that was done: what it shows of it; a group, if there is one, is the link. A human is asked first, and the command is run when they open the prompt."`
	Retries   int    `default:"-1" placeholder:"N" help:"How often a code that was refused is asked for again. Default: what the service takes without locking itself."`
	Script    string `name:"run" placeholder:"LINES" help:"The command, or a script, as a step of a workflow has it: instead of what stands behind --. Plain words are run as they are, so that the tool is known by its name; anything else needs --service."`
	Shell     string `placeholder:"SHELL" help:"What runs a script of --run: bash, sh, pwsh, powershell, python or cmd, each as GitHub's runner does, or a command line with {0} where the file with the script goes. Default: bash."`
	NoPack    bool   `help:"Run npm publish as it stands, scripts and all, as often as it takes, instead of packing first and publishing the tarball."`

	Command []string `arg:"" optional:"" passthrough:"" placeholder:"COMMAND" help:"The command and its arguments, behind --."`

	row     service.Service
	refused *regexp.Regexp
	foreign bool   // the row is not known by the command, which may be anything
	shell   *shell // runs Script; nil: there is none
}

// AfterApply refuses what is wrong before anything is run.
func (x *execCmd) AfterApply() error {
	if len(x.Command) > 0 && x.Command[0] == "--" {
		x.Command = x.Command[1:]
	}
	script, as := strings.TrimSpace(x.Script), strings.TrimSpace(x.Shell)
	switch {
	case script != "" && len(x.Command) > 0:
		return errors.New("--run and a command behind -- are two commands; give one")
	case script == "" && as != "":
		return errors.New("--shell is what runs a script of --run, and there is none; give both")
	case script != "":
		if as == "" {
			as = shells[0].name
		}
		by, err := newShell(as)
		switch {
		case err != nil:
			return err
		case by.words && plainWords.MatchString(script):
			x.Command = strings.Fields(script)
		default:
			x.shell, x.Command = by, by.argv
		}
	}
	if len(x.Command) == 0 {
		return errors.New("no command was given; say for example: cfa exec -- npm publish")
	}
	ways := 0
	for _, given := range []bool{x.Variable != "", x.Stdin, x.FD != 0, x.PtyPrompt != "", x.Link != ""} {
		if given {
			ways++
		}
	}
	guess, named := service.Guess(x.Command), service.Find(x.Service)
	switch {
	case ways > 1:
		return errors.New("--env, --stdin, --fd, --pty-prompt and --link are five ways; give one")
	case named != nil && named.Login != nil:
		x.row = *named // its code is for another command, and this may be any
	case guess != nil:
		// The command says how, --service at most what for: npm's code for
		// semantic-release is npm's, and semantic-release must not be run twice.
		x.row = *guess
	case named != nil:
		x.row, x.foreign = *named, named.Name != service.Default
	case x.Service != "":
		x.row = *service.Find(service.Default)
		x.row.Name, x.row.Title = x.Service, x.Service
	case ways == 0:
		return fmt.Errorf("which tool is %q? Say it with --service (%s), or say how its code goes in: --env NAME, --stdin, --fd N, --pty-prompt REGEXP or --link REGEXP",
			wire.Clean(x.Command[0], 80), strings.Join(names(), ", "))
	default:
		x.row = *service.Find(service.Default)
	}
	if x.Service == "" {
		x.Service = x.row.Name
	}
	if x.Format == "" {
		x.Format = x.row.Format
	}
	if err := x.check(); err != nil {
		return err
	}
	return x.ways(ways)
}

// ways takes in what the flags say of the tool.
func (x *execCmd) ways(given int) (err error) {
	if x.Retries < -1 || x.Retries > 10 {
		return fmt.Errorf("--retries is %d; it must be from 0 to 10", x.Retries)
	}
	if x.Retries >= 0 {
		x.row.Retries = x.Retries
	}
	if x.Refused != "" {
		if x.refused, err = regexp.Compile(x.Refused); err != nil {
			return fmt.Errorf("--refused: %w", err)
		}
	}
	if x.NoPack || x.foreign {
		x.row.Plan = nil // what is no npm must not be run as npm is
	}
	switch {
	case given == 0 && x.row.Env == nil && x.row.Prompt == nil && x.row.Login == nil && (x.row.Link == nil || x.row.Link.Shown == nil):
		return fmt.Errorf("nothing says how a code reaches %s: --env NAME, --stdin, --fd N, --pty-prompt REGEXP or --link REGEXP", x.row.Title)
	case given == 0:
		return nil
	}
	// What the flags say stands in the place of what the row says of ways.
	x.row.Env, x.row.Prompt, x.row.Login, x.row.Link, x.row.Plan = nil, nil, nil, nil, nil
	switch {
	case x.Variable != "":
		if !variableName.MatchString(x.Variable) {
			return fmt.Errorf("--env %q is no name of an environment variable", wire.Clean(x.Variable, 80))
		}
		x.row.Env = []string{x.Variable}
	case x.FD != 0 && (x.FD < 3 || x.FD > 9):
		return fmt.Errorf("--fd is %d; it must be from 3 to 9", x.FD)
	case x.PtyPrompt != "":
		// At the end: what a tool is to answer is the last thing that it shows.
		if x.row.Prompt, err = regexp.Compile(`(?:` + x.PtyPrompt + `)\s*$`); err != nil {
			return fmt.Errorf("--pty-prompt: %w", err)
		}
	case x.Link != "" && x.Approvals > 1:
		return errors.New("--approvals: two people can agree to a code, not to a link; to have two people agree, ask them with cfa approve first")
	case x.Link != "":
		shown, err := regexp.Compile(x.Link)
		if err != nil {
			return fmt.Errorf("--link: %w", err)
		}
		x.row.Link = &service.Link{Shown: shown, Pipe: true}
	}
	return nil
}

// plainWords are one line of words in which a shell would change nothing.
var plainWords = regexp.MustCompile(`^[A-Za-z0-9_./@:,+%-][A-Za-z0-9_./@:,+%=-]*(?:[ \t]+[A-Za-z0-9_./@:,+%=-]+)*$`)

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func names() (list []string) {
	for _, s := range service.Table {
		if s.Name != service.Default {
			list = append(list, s.Name)
		}
	}
	return list
}

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

// ruby has what is run begin with the row's line of Ruby. Ruby takes it from a file
// only, whose name must have no space in it.
func (e *execution) ruby() (remove func(), err error) {
	// Nobody else may put a file there: it is run.
	dir, err := os.MkdirTemp(e.io.getenv("RUNNER_TEMP"), "cfa-ruby-")
	if err != nil {
		return nil, &exit{exitCancelled, fmt.Errorf("there is no folder for a file that %s is to read first: %w; nothing was run", e.row.Title, err)}
	}
	remove = func() { _ = os.RemoveAll(dir) }
	file := filepath.Join(dir, "first.rb")
	if strings.ContainsAny(file, " \t") {
		return remove, nil
	}
	if err := os.WriteFile(file, []byte(e.row.Ruby+"\n"), 0o600); err != nil {
		remove()
		return nil, &exit{exitCancelled, fmt.Errorf("%w; nothing was run", err)}
	}
	e.more = []string{"RUBYOPT=" + strings.TrimSpace(e.io.getenv("RUBYOPT")+" -r"+file)}
	return remove, nil
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

// task is one command that is run until it has what it wants.
type task struct {
	argv   []string
	exists func(ctx context.Context) presence // of what it publishes; nil: that cannot be told
}

// until runs a task: first without a factor, where the tool shows that it wants
// one; with one then; and again where the factor was refused.
func (e *execution) until(ctx context.Context, t *task) error {
	once := e.once()
	late := e.row.Env != nil && !once && (e.row.Read != nil || e.refused != nil)
	switch {
	case e.row.Prompt != nil:
		return e.typed(ctx, t)
	case e.row.Link != nil && e.row.Link.Shown != nil && e.row.Env == nil:
		return e.shown(ctx, t)
	}
	code, err := "", error(nil)
	if late {
		code = e.usable()
	} else if code, err = e.obtain(ctx); err != nil {
		return err
	}
	limited, unsure, again := 0, 0, 0
	var waited *waitedOut // how a tool ended that waited for its link by itself
	for {
		var res child.Result
		given := code != "" || waited != nil // what it did not take came of a human
		if waited != nil {
			res, e.linked, e.proven = waited.res, true, false
		} else if res, err = e.run(ctx, t.argv, code, nil); err != nil {
			return err
		}
		if res.Code == 0 {
			if code != "" {
				e.proven, e.asks = true, 0
			}
			return nil
		}
		if ctx.Err() != nil {
			return ended(res.Code) // it was stopped, and so was its run
		}
		verdict := e.read(res)
		if once && verdict != service.Failed {
			e.notAgain()
			return ended(res.Code)
		}
		if once && e.row.Read == nil && code != "" {
			e.say.line("%s does not show whether it was the code that it did not take; it is not run again by itself", e.row.Title)
		}
		// A token of a link that it did not take: the next link, not a code.
		if l := e.row.Link; verdict == service.WantsCode && (code == "" || e.linked) && !e.foreign && l != nil && l.Blind {
			if res, err = e.probe(ctx, t); err != nil {
				return err
			}
			if res.Code == 0 {
				// It did not want one after all, and this is what it said.
				_, _ = e.io.out.Write(res.Out)
				_, _ = e.io.err.Write(res.Err)
				return nil
			}
			verdict = e.read(res)
		}
		if l := e.row.Link; verdict == service.WantsCode && !given && !e.foreign && l != nil && l.Enter != nil {
			if verdict = e.look(ctx, t); verdict == done {
				return nil
			}
		}
		byLink := waited != nil
		waited = nil
		switch verdict {
		case service.Failed:
			return ended(res.Code)
		case service.WantsCode:
			limited = 0
			if given {
				if err := e.refuse(ctx, res.Code); err != nil {
					return err
				}
			}
			if code, err = e.obtain(ctx); err != nil {
				return err
			}
		case service.WantsLink:
			if e.row.Link == nil {
				e.say.line("%s shows a link to follow, and neither waits for it nor takes what comes of it: publish each package by itself (cfa exec -- npm publish), or by staged publishing", e.row.Title)
				return ended(res.Code)
			}
			limited = 0
			if given {
				if err := e.refuse(ctx, res.Code); err != nil {
					return err
				}
				e.leave(ctx, false) // what follows is another question
			}
			if code, err = e.follow(ctx, t); err != nil {
				var is bool
				if waited, is = errors.AsType[*waitedOut](err); !is {
					return err
				}
				continue
			}
			if code == "" {
				return nil // it went on by itself, and ended well
			}
		case service.Limited:
			limited++
			if byLink {
				// What came of the link went with the tool, so each of these costs a human a
				// link; and the count above begins anew with it.
				if again++; again > e.row.Retries {
					limited = len(pauses) + 1
				}
			}
			if err := e.pause(ctx, limited, res.Code); err != nil {
				return err
			}
			code = e.usable()
		case service.Exists:
			return e.already(ctx, t, res.Code)
		case service.Unsure:
			unsure++
			if t.exists == nil || unsure > 2 {
				return ended(res.Code)
			}
			switch t.exists(ctx) {
			case same:
				e.say.line("the registry answered with a failure, but has the version, with the same bytes: it was published")
				return nil
			case absent:
				e.say.line("the registry answered with a failure, and has not got the version: trying again")
				code = e.usable()
			default:
				return ended(res.Code)
			}
		}
	}
}

// once says that the command is not run a second time: the row says so, or a script,
// or a command that nothing is known of, may have done anything before it came to
// the tool. That one is run again only for who said how it shows a refusal, or how
// often it may be.
func (e *execution) once() bool {
	return e.unknown() || e.row.Once != nil && e.row.Once(e.Command)
}

func (e *execution) unknown() bool { return e.foreign && e.Retries < 1 && e.refused == nil }

// notAgain says why a failed command is not run again.
func (e *execution) notAgain() {
	if e.unknown() {
		e.say.line("%s wants another factor, and the command is not run again by itself, because nobody knows here what it did before: have %s alone run by cfa exec, or say --retries 1 if the whole of it may be run again", e.row.Title, e.row.Title)
		return
	}
	e.say.line("%s is not run again by itself: after what it has done already, it would end well with nothing published", e.row.Title)
}

// read is what the row says of a finished run.
func (e *execution) read(res child.Result) service.Verdict {
	if e.refused != nil && (e.refused.Match(res.Out) || e.refused.Match(res.Err)) {
		return service.WantsCode
	}
	if e.row.Read == nil {
		return service.Failed
	}
	return e.row.Read(service.Run{Code: res.Code, Out: child.Plain(res.Out), Err: child.Plain(res.Err)})
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

// probe runs a tool, unheard, so that it says whether it wants a code or a link.
func (e *execution) probe(ctx context.Context, t *task) (child.Result, error) {
	res, err := child.Run(ctx, child.Command{
		Argv: slices.Concat(t.argv, e.row.Link.Args), Env: append(e.io.environ(), e.row.Link.Set...),
	})
	if err != nil {
		return res, startFailure(err)
	}
	return res, nil
}

// lookWithin is how long a tool may take on a terminal to show what it wants.
const lookWithin = 30 * time.Second

// done is a verdict of look's: it wanted nothing after all.
const done service.Verdict = -1

// look runs a tool on a terminal until it shows whether it wants a code or a link,
// unheard. Where that cannot be seen it wants a code.
func (e *execution) look(ctx context.Context, t *task) service.Verdict {
	l, seen := e.row.Link, make(chan service.Verdict, 1)
	p, err := child.Start(ctx, child.Command{
		Argv: t.argv, Env: append(e.io.environ(), l.Terminal...), Terminal: true,
		See: func(text string) {
			v := service.WantsCode
			switch {
			case l.Shown.MatchString(text):
				v = service.WantsLink
			case !l.Enter.MatchString(text):
				return
			}
			select {
			case seen <- v:
			default:
			}
		},
	})
	if err != nil {
		return service.WantsCode
	}
	late := time.NewTimer(lookWithin)
	defer late.Stop()
	select {
	case v := <-seen:
		p.Stop()
		return v
	case <-p.Done():
		if res, err := p.Wait(); err == nil && res.Code == 0 {
			return done
		}
	case <-late.C:
		p.Stop()
	}
	return service.WantsCode
}

// startFailure gives the exit codes of a shell.
func startFailure(err error) error {
	if errors.Is(err, child.ErrNotFound) {
		return &exit{127, err}
	}
	return &exit{126, err}
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

// typed runs a command on a terminal of its own, and types codes there.
func (e *execution) typed(ctx context.Context, t *task) error {
	typed, limited := 0, 0
	for {
		again := ""
		if limited > 0 {
			again = e.usable() // nothing was said against it
		}
		res, err := e.run(ctx, t.argv, "", func(c *child.Command) {
			c.Terminal, c.Stdin, c.Prompt = true, nil, e.row.Prompt
			for question, answer := range e.row.Answers {
				c.Say = append(c.Say, child.Said{Question: question, Answer: answer})
			}
			c.Reply = func(gone context.Context, n int, shown string) (string, error) {
				// The command may end while a human is asked: then nobody waits.
				asking, stop := context.WithCancelCause(ctx)
				defer stop(nil)
				defer context.AfterFunc(gone, func() { stop(errors.New("the command has ended")) })()
				if n > 1 {
					e.proven = e.row.Took != nil && e.row.Took.MatchString(shown)
					if err := e.refuse(asking, exitCancelled); err != nil {
						return "", err
					}
				}
				typed++
				if n == 1 && again != "" {
					return again, nil
				}
				return e.obtain(asking)
			}
		})
		if err != nil {
			return err
		}
		if res.Code == 0 || ctx.Err() != nil {
			return ended(res.Code)
		}
		switch verdict := e.read(res); {
		case verdict != service.Failed && e.once():
			e.notAgain()
			return ended(res.Code)
		case verdict == service.WantsCode && typed > 0:
			typed, limited = 0, 0
			if err := e.refuse(ctx, res.Code); err != nil {
				return err
			}
		case verdict == service.Limited:
			typed = 0
			limited++
			if err := e.pause(ctx, limited, res.Code); err != nil {
				return err
			}
		default:
			return ended(res.Code)
		}
	}
}

// login gives the code to another command, whose credentials the command gets.
func (e *execution) login(ctx context.Context) error {
	l := e.row.Login
	argv, err := l.Argv(e.io.getenv)
	if err != nil {
		return usage("%w", err)
	}
	for {
		code, err := e.obtain(ctx)
		if err != nil {
			return err
		}
		res, err := e.run(ctx, argv, code, func(c *child.Command) {
			c.Stdin, c.Out = strings.NewReader(l.Input(code)), nil // its output is a secret
		})
		if err != nil {
			return err
		}
		if res.Code != 0 {
			if ctx.Err() != nil || l.Refused == nil || !l.Refused.Match(res.Err) {
				return ended(res.Code)
			}
			if err := e.refuse(ctx, res.Code); err != nil {
				return err
			}
			continue
		}
		vars, secrets, err := l.Vars(res.Out)
		if err != nil {
			return &exit{exitCancelled, fmt.Errorf("%s: %w", wire.Clean(argv[0], 80), err)}
		}
		for _, s := range secrets {
			if err := e.conceal(s); err != nil {
				return err
			}
		}
		e.proven = true
		if ctx.Err() != nil {
			return &exit{exitCancelled, fmt.Errorf("%w; the command was not run", context.Cause(ctx))}
		}
		res, err = e.run(ctx, e.Command, "", func(c *child.Command) {
			c.Env = append(c.Env, vars...)
			c.Hide = append(c.Hide, secrets...)
		})
		if err != nil {
			return err
		}
		return ended(res.Code)
	}
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
