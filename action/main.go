// cfa is the CI job's side of Continuous Factor Authentication: it proves which
// job it is, asks a human for a second factor, and hands the code over. The
// GitHub Action runs it, and so can any step of a job.
//
// One file per subcommand; the protocol is internal/ask.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/sethvargo/go-githubactions"

	"github.com/continuousauth/action/internal/ask"
	"github.com/continuousauth/action/internal/program"
)

func main() {
	noCoreDump()
	ctx, stop := context.WithCancelCause(context.Background())
	var passed signals
	came := make(chan os.Signal, 8)
	signal.Notify(came, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	go func() {
		for n := 1; ; n++ {
			s := <-came
			stop(stoppedBy{s})
			if !passed.on(s) && n > 1 {
				os.Exit(exitCancelled) // whoever asks twice does not want to wait
			}
		}
	}()
	os.Exit(run(ctx, os.Args[1:], stdio{
		in: os.Stdin, out: os.Stdout, err: os.Stderr, getenv: os.Getenv, environ: os.Environ, signals: &passed,
	}))
}

// stoppedBy is why a run's context ends.
type stoppedBy struct{ signal os.Signal }

func (s stoppedBy) Error() string { return fmt.Sprintf("the job was stopped (%s)", s.signal) }

// stdio is all that a subcommand touches of its process, but for the files that
// it is told to read or write, and the commands that it is told to run.
type stdio struct {
	in      *os.File // handed to the command that exec runs
	out     io.Writer
	err     io.Writer
	getenv  func(string) string
	environ func() []string // for the commands that are run
	signals *signals
	say     *log                              // made by run
	pause   func(time.Duration) time.Duration // how long to wait instead; nil: as long as that
}

// signals passes on what would stop this process, while a command runs that has
// the first right to it.
type signals struct {
	mu sync.Mutex
	to func(os.Signal)
}

// on passes s on, if there is somebody to take it.
func (p *signals) on(s os.Signal) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to == nil {
		return false
	}
	p.to(s)
	return true
}

// pass has signals passed to f until the function that it returns is called.
func (p *signals) pass(f func(os.Signal)) (end func()) {
	if p == nil {
		return func() {}
	}
	set := func(f func(os.Signal)) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.to = f
	}
	set(f)
	return func() { set(nil) }
}

// Exit codes of every subcommand; those below 80 are from sysexits.h. No end
// without a code in hand is 0. exec ends as its command did; these are for when it
// never came to that.
const (
	exitOK          = 0  // got it
	exitUsage       = 64 // what was given is wrong, or this is no CI job
	exitUnreachable = 69 // relay or token service not reached
	exitRefused     = 77 // the relay, or the CI, does not let this job ask
	exitDeclined    = 80 // a human said no
	exitTimedOut    = 81 // nobody answered in time
	exitCancelled   = 82 // stopped, withdrawn, or the code could not be handed over
)

// exit is an error that ends the program with a code of its own. An err of nil has
// been said already, by the command that was run.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

func usage(format string, args ...any) error {
	return &exit{exitUsage, fmt.Errorf(format, args...)}
}

// exitCode is the exit code of an error.
func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	if e, ok := errors.AsType[*exit](err); ok {
		return e.code
	}
	for kind, code := range map[error]int{
		ask.ErrUnreachable: exitUnreachable, ask.ErrRefused: exitRefused, ask.ErrDeclined: exitDeclined,
		ask.ErrTimedOut: exitTimedOut, ask.ErrCancelled: exitCancelled,
	} {
		if errors.Is(err, kind) {
			return code
		}
	}
	return exitCancelled
}

type cli struct {
	Request requestCmd `cmd:"" help:"Ask a human for a code, and hand it to this job."`
	Exec    execCmd    `cmd:"" help:"Run a command, and ask a human for the second factor that it wants."`
	Stage   stageCmd   `cmd:"" help:"Run npm stage publish, and wait until a human has approved it at the registry."`
	Approve approveCmd `cmd:"" help:"Ask humans for a signed yes about files, and keep the receipt."`

	VerifyReceipt verifyReceiptCmd `cmd:"" help:"Check a receipt of cfa approve: whose yes it is, and to which files. Needs no relay and no network."`

	Version kong.VersionFlag `help:"Print the version."`
}

// run parses args and runs one subcommand.
func run(ctx context.Context, args []string, io stdio) int {
	var c cli
	io.say = &log{w: io.err}
	parsed, code, ended, err := program.Parse(&c, args, kong.Name("cfa"),
		kong.Description("Asks a human for a second factor from within a CI job. Each flag can be given as the environment variable beside it; an empty one counts as not given."),
		kong.Writers(io.out, io.err),
		kong.Resolvers(fromEnvironment(io.getenv)), kong.ValueFormatter(namingVariable),
		kong.Vars{"version": version()},
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(io))
	if ended {
		return code
	}
	if err == nil {
		err = parsed.Run()
	} else {
		err = usage("%w; see cfa --help", everyName(err, io.getenv))
	}
	if err != nil {
		report(io, err)
	}
	if unwritten := io.say.sum.write(summaryFile(io.getenv), err); unwritten != nil {
		io.say.line("warning: the job's summary was not written: %s", unwritten)
	}
	return exitCode(err)
}

// summaryFile is where GitHub reads a step's summary; "": nowhere.
func summaryFile(getenv func(string) string) string {
	if getenv("GITHUB_ACTIONS") != "true" {
		return ""
	}
	return getenv("GITHUB_STEP_SUMMARY")
}

// report says why there is no code: in the log, and on GitHub as an annotation,
// which stands at the top of the run's page. Both go to stderr, because stdout
// may be read by a program.
func report(io stdio, err error) {
	if e, ok := errors.AsType[*exit](err); ok && e.err == nil {
		return
	}
	say := io.say
	text := err.Error()
	if f, ok := errors.AsType[*ask.Failure](err); ok {
		say.line("%s", f.What)
		if f.Next != "" {
			say.line("what to do: %s", f.Next)
		}
	} else {
		say.line("%s", text)
	}
	if io.getenv("GITHUB_ACTIONS") == "true" {
		githubactions.New(githubactions.WithWriter(unfailing{io.err}), githubactions.WithGetenv(io.getenv)).
			WithFieldsMap(map[string]string{"title": "Continuous Factor Authentication"}).Errorf("%s", harmless(text))
	}
}

// unfailing never fails: go-githubactions panics where it cannot write, and a log
// that is gone must not change the exit code.
type unfailing struct{ io.Writer }

func (u unfailing) Write(p []byte) (int, error) {
	u.Writer.Write(p)
	return len(p), nil
}

// variable is the environment variable of a flag: CFA_RELAY_NAME for relay-name.
func variable(flag string) string {
	return "CFA_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// fromEnvironment gives each flag its variable's value. An empty one counts as
// not given: a composite action passes every input, those not set as "". (kong's
// own `env` tag knows no such thing, and reads the process's environment behind
// run's back.)
func fromEnvironment(getenv func(string) string) kong.Resolver {
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		if flag.Name == "help" || flag.Name == "version" {
			return nil, nil
		}
		if v := getenv(variable(flag.Name)); v != "" {
			return v, nil
		}
		return nil, nil
	})
}

// everyName is kong's error for flags that are missing, with the other names of
// each: whoever uses the Action has never seen the flags, but its inputs.
func everyName(err error, getenv func(string) string) error {
	list, ok := strings.CutPrefix(err.Error(), "missing flags: ")
	if !ok {
		return err
	}
	var missing []string
	for _, flag := range strings.Split(list, ", ") {
		flag, _, _ = strings.Cut(flag, "=") // without what stands for its value
		name := strings.TrimPrefix(flag, "--")
		names := variable(name)
		if getenv("GITHUB_ACTIONS") == "true" {
			names += fmt.Sprintf("; input `%s` of the Action", name)
		}
		missing = append(missing, fmt.Sprintf("%s (%s)", flag, names))
	}
	return fmt.Errorf("missing: %s", strings.Join(missing, ", "))
}

// namingVariable is a flag's help, with its variable.
func namingVariable(v *kong.Value) string {
	if v.Flag == nil || v.Name == "help" || v.Name == "version" {
		return v.Help
	}
	return v.Help + " ($" + variable(v.Name) + ")"
}

// release is the version of a release, set when it is linked.
var release string

func version() string { return program.Version(release) }
