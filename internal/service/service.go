// Package service knows the tools that take a second factor: a package manager, a
// cloud's command line, a signing tool.
//
// The rule it keeps: everything in which they differ stands in one row of one
// table, in one file per tool, and `cfa exec` names none of them: how a code
// reaches the tool, by what the tool shows that it wants one, how long a code is
// good for and whether twice, where a link of it may lead. A row decides
// nothing and runs nothing: it reads what a finished command wrote.
//
// What it must never do: take a failure for something that a code mends. Where a
// row is not sure, the answer is [Failed], and the tool's own words stand.
package service

import (
	"bytes"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A Service is a row of the table.
type Service struct {
	// Name is what --service and the prompt call it; Title is for sentences.
	Name, Title string

	// Format is the form of its codes (wire.Format).
	Format string
	// Retries is how often a code that was refused is asked for again without
	// anybody saying so. 0 for what locks itself after a few wrong ones.
	Retries int
	// Reuse says that a code can be used again while it lives; Life is how long it
	// does, counted from when it was given. A guess that is too long costs one
	// refusal, one that is too short a question to a human.
	Reuse bool
	Life  time.Duration

	// Is says whether a command line is this tool's, so that --service need not
	// name it. The first word is a base name without extension. nil: never.
	Is func(argv []string) bool

	// How a code goes in: one of Env and Prompt. A row with neither is told by
	// flags (generic).
	Env []string // environment variables that the tool reads it from
	// Once says that a command line must not be run again: what it did before it
	// failed makes a second run end well with nothing done, or nothing is known of
	// what it shows. A human is then asked before it runs. nil: it can.
	Once func(argv []string) bool
	// Prompt is what the tool shows on a terminal when it waits for a code, as the
	// last thing it wrote. For tools that otherwise take a code as an argument only,
	// where every user of the machine could read it.
	Prompt *regexp.Regexp

	// Took is what it shows there when it took a code and goes on: a prompt after
	// that asks for the next code. Any other prompt after a code means that it was
	// refused.
	Took *regexp.Regexp
	// Answers are questions that it asks there besides, and what to say.
	Answers map[*regexp.Regexp]string
	// Set are variables that are set where the job did not set them itself.
	Set []string
	// Ruby is a line of Ruby that the tool, being written in it, runs before all else.
	Ruby string
	// Login gives the code to a command of its own, whose credentials the command
	// gets that was asked for.
	Login *Login

	// Read says what a finished command shows. nil: nothing can be told from it.
	Read func(Run) Verdict

	// Link is how a link is got from the tool. nil: it has none.
	Link *Link
	// Pages are the only places that a link of it may lead to.
	Pages []Page

	// Plan takes a command apart into what runs once and what is run again with a
	// factor. nil, or nil of it: all of it is run again.
	Plan func(argv []string, env func(string) string) *Plan
}

// A Run is what is known of a finished command.
type Run struct {
	Code     int    // exit code, not 0
	Out, Err []byte // the ends of what it wrote
}

// A Verdict is what a failed command wants.
type Verdict int

const (
	// Failed: nothing that a factor mends.
	Failed Verdict = iota
	// WantsCode: a code is missing, or was refused if one had been given; tools do
	// not tell the two apart.
	WantsCode
	// WantsLink: a human must follow a link.
	WantsLink
	// Limited: too many tries; it says nothing of the code.
	Limited
	// Exists: what was to be published is there already, or seems to be.
	Exists
	// Unsure: the service failed after it was given everything; it may have done it.
	Unsure
)

// A Link is how a link comes out of a tool.
type Link struct {
	// Set are variables under which the tool, run without a terminal, prints where
	// to go and where to ask whether it was done; Pair finds both in its standard
	// output. What then comes of it is a code. nil: it never does.
	Set  []string
	Args []string // arguments for the same, added at the end
	// Blind says that without these the tool's words are the same whether it wants a
	// code or a link.
	Blind bool
	Pair  func(out []byte) (auth, done string, ok bool)

	// Shown finds the link in what the tool shows on a terminal, where it then
	// waits by itself until the link was followed; Terminal are variables for that.
	// A tool that shows it without a terminal too says Pipe.
	Shown *regexp.Regexp
	// Enter is what it shows there instead when it wants a code. A row that has it
	// does not tell the two apart without a terminal, in older versions: those of
	// which Tells says no, being given what Version makes the tool print. Version is
	// nil where that is not known of the command line.
	Enter    *regexp.Regexp
	Version  func(argv []string) []string
	Tells    func(version string) bool
	Terminal []string
	Pipe     bool
	// Died says that a tool which waited by itself has ended because nobody followed its
	// link in time. Whatever else it ends with says what came of the link. nil: that it
	// died is not to be seen.
	Died func(r Run) bool
	// Unasked says that it does so on a pipe too, whether a human is there or not: so
	// each run is watched, and ended as soon as it shows a link. It would wait for
	// minutes for somebody whom nobody has asked yet.
	Unasked bool
}

// A Page is where a service asks for a factor. The host alone would not do: at the
// same host stands the login, whose page looks much the same, and a human who
// confirms one that somebody else has begun gives them a session.
type Page struct {
	Host  string // as wire.LinkHost gives it
	Under string // a path with a slash at both ends, see wire.LinkUnder
}

// A Login is a command that turns a code into credentials.
type Login struct {
	Argv    func(env func(string) string) ([]string, error)
	Input   func(code string) (stdin string)
	Refused *regexp.Regexp // what it writes to standard error when the code was refused
	// Vars reads its standard output: NAME=value for the command, and the values
	// that are secret.
	Vars func(out []byte) (vars, secrets []string, err error)
}

// A Plan is a command in steps. Each is an argument list.
type Plan struct {
	// Ignores makes the tool say, as true, that it runs no scripts: Before and After
	// are then left out. nil: it does.
	Ignores []string
	// Many says that it packs what it finds, private packages too, which are then
	// not published.
	Many bool
	// Dir is the folder of the package that is packed, for who wants to know which
	// scripts there are: each command of Before and After ends with the name of one.
	Dir    string
	Before [][]string // once, before all else; the first that fails ends it
	Pack   []string   // writes one or more .tgz files into the folder that is put in the place of [Folder]
	// Publish makes the command for one of them.
	Publish func(tarball string) []string
	After   [][]string // once, at the end
	// View makes the command that prints the integrity of a published version as
	// JSON, a string or a list of one, if it is there, and variables for it.
	View func(p Package) (argv, env []string)
}

// A Package is one that is published, and where it says itself that it is.
type Package struct {
	Name, Version string
	// Registry and ScopeRegistry are its publishConfig's registry and @scope:registry;
	// "": it has none.
	Registry, ScopeRegistry string
}

// Scope is the scope of the package's name, with its @; "": it has none.
func (p Package) Scope() string {
	if scope, _, scoped := strings.Cut(p.Name, "/"); scoped && strings.HasPrefix(scope, "@") {
		return scope
	}
	return ""
}

// Folder stands in a [Plan] for a folder that is not known yet.
const Folder = "{folder}"

// Table is the table. The first row whose Is says yes wins.
var Table = []*Service{npm, pnpm, yarnBerry, yarn, lerna, changesets, semanticRelease, rubygems, hex, aws, fastlane, generic}

// Default is the name of the row that stands for a service nobody knows.
const Default = "generic"

// Find returns the row of that name, or nil.
func Find(name string) *Service {
	for _, s := range Table {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Guess returns the row whose tool a command line runs, or nil.
func Guess(argv []string) *Service {
	argv = bare(argv)
	if len(argv) == 0 {
		return nil
	}
	for _, s := range Table {
		if s.Is != nil && s.Is(argv) {
			return s
		}
	}
	return nil
}

// Format is the form of a service's codes: "any" for one that nobody knows.
func Format(name string) string {
	if s := Find(name); s != nil {
		return s.Format
	}
	return Find(Default).Format
}

// LinkPath is the path under which a service asks for a factor at a host: "", false
// for a host, or a service, that is not known for that.
func LinkPath(name, host string) (path string, known bool) {
	if s := Find(name); s != nil {
		for _, p := range s.Pages {
			if p.Host == host {
				return p.Under, true
			}
		}
	}
	return "", false
}

// Reusable says whether a code of the service can be used more than once while it
// lives: not of one that nobody knows.
func Reusable(name string) bool {
	s := Find(name)
	return s != nil && s.Reuse
}

// bare is a command line whose first word is a base name, without what starts a
// tool of an npm project: npx lerna publish is lerna publish.
func bare(argv []string) []string {
	argv = slices.Clone(argv)
	for len(argv) > 0 {
		name := argv[0]
		if !strings.HasPrefix(name, "@") { // a package, which npx runs
			name = filepath.Base(strings.ReplaceAll(name, `\`, "/"))
		}
		for _, ext := range []string{".exe", ".cmd", ".bat", ".ps1"} {
			name = strings.TrimSuffix(name, ext)
		}
		argv[0] = name
		runner := ""
		if len(argv) > 1 {
			runner = name + " " + argv[1]
		}
		switch {
		case name == "npx" || name == "bunx" || name == "pnpx":
			argv = argv[1:]
		case slices.Contains([]string{"npm exec", "pnpm exec", "pnpm dlx", "yarn exec", "yarn dlx", "yarn run", "bundle exec"}, runner):
			argv = argv[2:]
		default:
			return argv
		}
		for len(argv) > 0 && strings.HasPrefix(argv[0], "-") { // --yes, --no-install, --
			argv = argv[1:]
		}
		if len(argv) > 0 {
			argv[0] = versioned.ReplaceAllString(argv[0], "$1")
		}
	}
	return argv
}

// versioned is a package name with a version: npx lerna@9, npx @changesets/cli@2.
var versioned = regexp.MustCompile(`^(@?[^@]+)@[^@]*$`)

// runs says whether argv is that program with these words first among its
// arguments, flags aside. A flag's value that stands alone can pass for a word;
// what is at stake is which row is guessed.
func runs(argv []string, program string, words ...string) bool {
	if len(argv) == 0 || argv[0] != program {
		return false
	}
	var plain []string
	for _, a := range argv[1:] {
		if !strings.HasPrefix(a, "-") {
			plain = append(plain, a)
		}
	}
	return len(plain) >= len(words) && slices.Equal(plain[:len(words)], words)
}

// has says whether either stream of a run has the pattern.
func (r Run) has(p *regexp.Regexp) bool { return p.Match(r.Err) || p.Match(r.Out) }

// last is the last JSON object that a tool wrote to its standard output: scripts
// that it ran may have written before it.
func last(out []byte) []byte {
	end := bytes.LastIndexByte(out, '}')
	if end < 0 {
		return nil
	}
	depth, quoted := 0, false
	for i := end; i >= 0; i-- {
		switch c := out[i]; {
		case c == '"' && !escaped(out, i):
			quoted = !quoted
		case quoted:
		case c == '}':
			depth++
		case c == '{':
			if depth--; depth == 0 {
				return out[i : end+1]
			}
		}
	}
	return nil
}

// escaped says whether an odd number of backslashes stands before i.
func escaped(b []byte, i int) bool {
	n := 0
	for i--; i >= 0 && b[i] == '\\'; i-- {
		n++
	}
	return n%2 == 1
}
