package main

// Ways for a factor to go in besides a variable of the command's: typed on a
// terminal, given to another command for credentials, through a line of Ruby.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/continuousauth/action/internal/child"
	"github.com/continuousauth/action/internal/service"
	"github.com/continuousauth/action/internal/wire"
)

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
