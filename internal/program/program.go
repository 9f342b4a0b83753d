// Package program is what the mains of the three programs have in common: reading
// their arguments, and telling their version.
//
// The rule it keeps: nothing here ends the process. A program's run gives its exit
// code to main, so that a test can call it.
package program

import (
	"runtime/debug"

	"github.com/alecthomas/kong"
)

// exited carries kong's exit (after --help) out of its parser.
type exited int

// Parse reads args into grammar. If ended, what was asked for has been printed, and
// the program ends with that exit code.
func Parse(grammar any, args []string, options ...kong.Option) (ctx *kong.Context, code int, ended bool, err error) {
	defer func() {
		switch r := recover().(type) {
		case nil:
		case exited:
			code, ended = int(r), true
		default:
			panic(r)
		}
	}()
	parser, err := kong.New(grammar, append(options, kong.Exit(func(code int) { panic(exited(code)) }))...)
	if err != nil {
		panic(err) // a wrong struct tag: no input can cause it
	}
	ctx, err = parser.Parse(args)
	return ctx, 0, false, err
}

// Version is what --version prints: the release, which is set when one is linked,
// else what the go command knows.
func Version(release string) string {
	if release != "" {
		return release
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "unknown"
}
