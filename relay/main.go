// cfa-relay checks what CI jobs prove about themselves, passes their prompts to
// responders and streams the answers back. It cannot read the codes it carries.
//
// One file per subcommand; the relay itself is internal/broker.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/continuousauth/action/internal/program"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout, os.Stderr, os.Getenv}))
}

// stdio is all that a subcommand touches of its process.
type stdio struct {
	in     *os.File
	out    io.Writer
	err    io.Writer
	getenv func(string) string
}

// Exit codes, from sysexits.h where it has one.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 64
	exitWrong       = 65 // the record, or a checkpoint, is not as it should be
	exitUnavailable = 69
	exitRefused     = 77
	exitConfig      = 78
)

// exit is an error that ends the program with a code of its own.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string { return e.err.Error() }
func (e *exit) Unwrap() error { return e.err }

type cli struct {
	Version kong.VersionFlag `help:"Print the version."`

	Serve   serveCmd   `cmd:"" help:"Run the relay."`
	Demo    demoCmd    `cmd:"" help:"Show one whole request: the real programs, a development issuer, you as the human."`
	Init    initCmd    `cmd:"" help:"Write a first configuration: asks on a terminal, or takes flags."`
	Cluster clusterCmd `cmd:"" help:"Write what a NATS cluster and its relays start from, or try one on this machine."`
	Check   checkCmd   `cmd:"" help:"Check a configuration, and say what the relay would say of an ID token."`
	Status  statusCmd  `cmd:"" help:"Say how a running relay is."`
	Audit   auditCmd   `cmd:"" help:"Check, list and follow the record of requests."`
	Reload  reloadCmd  `cmd:"" help:"Make a running relay read its configuration anew, as SIGHUP does."`

	Invite     inviteCmd     `cmd:"" help:"Make a link by which somebody becomes a project's responder."`
	Responders respondersCmd `cmd:"" help:"List, approve and remove responders of a running relay."`

	Backup  backupCmd  `cmd:"" help:"Write all of the record into a file, from a running relay too."`
	Restore restoreCmd `cmd:"" help:"Make the record from a backup, where there is none. What was open is cancelled."`
}

// run parses args and runs one subcommand.
func run(ctx context.Context, args []string, io stdio) int {
	var c cli
	parsed, code, ended, err := program.Parse(&c, args, kong.Name("cfa-relay"), kong.Description("The relay of Continuous Factor Authentication."),
		kong.Vars{"version": version()}, kong.Writers(io.out, io.err),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.Bind(io))
	if ended {
		return code
	}
	if err == nil {
		err = parsed.Run()
	} else {
		err = &exit{exitUsage, fmt.Errorf("%w; see cfa-relay --help", err)}
	}
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(io.err, "cfa-relay: %v\n", err)
	var e *exit
	if errors.As(err, &e) {
		return e.code
	}
	return exitFailed
}

// release is the version of a release, set when it is linked.
var release string

func version() string { return program.Version(release) }
