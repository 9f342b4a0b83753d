// cfa-responder is the human's side: it shows what asks for a code, as far as
// that has been proved, and seals the human's answer to that one job.
//
// One file per subcommand and one per way to ask; the protocol is
// internal/answer.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/continuousauth/action/internal/program"
	"github.com/continuousauth/action/internal/wire"
)

func main() {
	noCoreDump()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// After the first signal the next one ends the program as usual: whoever
	// presses Ctrl-C twice does not want to wait until an answer has arrived.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Environ(), stdio{os.Stdin, os.Stdout, os.Stderr, openTerminal}))
}

// stdio is all that a subcommand touches of its process.
type stdio struct {
	in  io.Reader
	out io.Writer
	err io.Writer
	// terminal opens the human's terminal; errNoTerminal where there is none.
	terminal func() (*device, error)
}

// Exit codes, from sysexits.h.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 64 // what was given is wrong: flags, a key file, a pins file
	exitUnavailable = 69 // the relay cannot be reached, or is not the relay
	exitLocked      = 75 // the keys are locked
	exitRefused     = 77 // the relay does not let this responder in
)

// exit is an error that ends the program with a code of its own.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.code == exitUsage {
		return plain(e.err)
	}
	return e.err.Error()
}
func (e *exit) Unwrap() error { return e.err }

// plain is an error of wire about what a human gave, which is no message.
func plain(err error) string {
	return strings.ReplaceAll(err.Error(), wire.ErrMalformed.Error()+": ", "")
}

func usage(format string, args ...any) error {
	return &exit{exitUsage, fmt.Errorf(format, args...)}
}

type cli struct {
	Listen    listenCmd    `cmd:"" help:"Show what asks, and answer it."`
	Screen    screenCmd    `cmd:"" help:"The same on a whole screen: a list, all facts, history."`
	Run       runCmd       `cmd:"" help:"Be there in the background: all relays of responder.yaml, every way to ask that is there."`
	List      listCmd      `cmd:"" help:"What waits at the background program."`
	Answer    answerCmd    `cmd:"" help:"Answer one prompt of the background program."`
	Decline   declineCmd   `cmd:"" help:"Decline one prompt of the background program."`
	Unlock    unlockCmd    `cmd:"" help:"Hand the background program its keys, where they are locked."`
	Install   installCmd   `cmd:"" help:"Have the background program started with your session."`
	Uninstall uninstallCmd `cmd:"" help:"Undo install."`
	Status    statusCmd    `cmd:"" help:"What the background program does."`
	Away      awayCmd      `cmd:"" help:"Say until when you are not to be asked, or with no time, whether you are away."`
	Back      backCmd      `cmd:"" help:"Say that you are back."`
	Open      openCmd      `cmd:"" help:"Open the background program's page in your browser."`
	Phone     phoneCmd     `cmd:"" help:"The phones that reach the background program's page: add one, list them, remove one."`
	Join      joinCmd      `cmd:"" help:"Become a project's responder, by an invitation."`
	Keygen    keygenCmd    `cmd:"" help:"Make this responder's two keys."`
	Rotate    rotateCmd    `cmd:"" help:"Change to a new signing key, for which the old one vouches."`
	Keys      keysCmd      `cmd:"" help:"Print the public keys, as lines for the relay's configuration, or keep the private ones elsewhere."`
	Pins      pinsCmd      `cmd:"" help:"Say which repository stands behind a project. Without pins nothing can be answered."`

	Version kong.VersionFlag `help:"Print the version."`
}

// environ is the process's environment.
type environ []string

// get gives a variable's last value, or "".
func (e environ) get(name string) string {
	for i := len(e) - 1; i >= 0; i-- {
		if k := len(name); len(e[i]) > k && e[i][k] == '=' && e[i][:k] == name {
			return e[i][k+1:]
		}
	}
	return ""
}

// configDir is where this program's files are, unless a flag says otherwise.
func (e environ) configDir() (string, error) {
	for _, c := range []struct{ name, below string }{
		{"XDG_CONFIG_HOME", ""}, {"AppData", ""}, {"HOME", ".config"}, {"USERPROFILE", ".config"},
	} {
		if dir := e.get(c.name); filepath.IsAbs(dir) {
			return filepath.Join(dir, c.below, "cfa"), nil
		}
	}
	return "", usage("there is no home directory to keep keys and pins in; name the files with --key-file and --pins")
}

// file is path, or name in the configuration directory if path is empty.
func (e environ) file(path, name string) (string, error) {
	if path != "" {
		return path, nil
	}
	dir, err := e.configDir()
	return filepath.Join(dir, name), err
}

// run parses args and runs one subcommand.
func run(ctx context.Context, args, env []string, io stdio) int {
	var c cli
	parsed, code, ended, err := program.Parse(&c, args, kong.Name("cfa-responder"),
		kong.Description("The human's side of Continuous Factor Authentication: shows what asks for a code, and seals the answer to that one job."),
		kong.Writers(io.out, io.err),
		kong.Resolvers(fromEnvironment(env)), kong.ValueFormatter(namingVariable),
		kong.Vars{"version": version()},
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(io, environ(env)))
	if ended {
		return code
	}
	if err == nil {
		err = parsed.Run()
	} else {
		err = usage("%w; see cfa-responder --help", everyName(err))
	}
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(io.err, "cfa-responder: %v\n", err)
	var e *exit
	if errors.As(err, &e) {
		return e.code
	}
	return exitFailed
}

// fromEnvironment gives flags with an `or` tag that variable's value. (kong's
// own `env` tag would read the process's environment, behind run's back.)
func fromEnvironment(env environ) kong.Resolver {
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		if name := flag.Tag.Get("or"); name != "" {
			if v := env.get(name); v != "" {
				return v, nil
			}
		}
		return nil, nil
	})
}

// everyName is kong's error for flags that are missing, with the variable of each
// that has one.
func everyName(err error) error {
	p, ok := errors.AsType[*kong.ParseError](err)
	list, missing := strings.CutPrefix(err.Error(), "missing flags: ")
	if !ok || !missing {
		return err
	}
	flags := strings.Split(list, ", ")
	for _, f := range p.Context.Flags() {
		if i := slices.Index(flags, f.Summary()); i >= 0 && f.Tag.Get("or") != "" {
			flags[i] = fmt.Sprintf("--%s (%s)", f.Name, f.Tag.Get("or"))
		}
	}
	return fmt.Errorf("missing: %s", strings.Join(flags, ", "))
}

// namingVariable is a flag's help, with its variable.
func namingVariable(v *kong.Value) string {
	if name := v.Tag.Get("or"); name != "" {
		return v.Help + " ($" + name + ")"
	}
	return v.Help
}

// release is the version of a release, set when it is linked.
var release string

func version() string { return program.Version(release) }
