package main

// The flags of cfa exec: how they, and the command itself, say which tool it is and
// how its factor goes in. What is wrong is said before anything is run.

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

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
