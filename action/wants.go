package main

// What a command wants that has failed. Its own words say it; where an older tool's
// do not, it is run once more, unheard, in a way in which they do.

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/child"
	"github.com/continuousauth/action/internal/service"
)

// wants is what a failed run wants, and the run that shows it: the command's, or one
// more of the tool's. [done]: that one went well.
func (e *execution) wants(ctx context.Context, t *task, res child.Result, code string) (service.Verdict, child.Result, error) {
	verdict := e.read(res)
	if e.once() {
		switch {
		case verdict != service.Failed:
			e.notAgain()
		case e.row.Read == nil && code != "":
			e.say.line("%s does not show whether it was the code that it did not take; it is not run again by itself", e.row.Title)
		}
		return service.Failed, res, nil
	}
	l := e.row.Link
	asks := func() bool { return verdict == service.WantsCode && !e.foreign && l != nil }
	// A token of a link that it did not take: the next link, not a code.
	if asks() && (code == "" || e.linked) && l.Blind {
		var err error
		if res, err = e.probe(ctx, t); err != nil {
			return service.Failed, res, err
		}
		if res.Code == 0 {
			// It did not want one after all, and this is what it said.
			_, _ = e.io.out.Write(res.Out)
			_, _ = e.io.err.Write(res.Err)
			return done, res, nil
		}
		verdict = e.read(res)
	}
	if asks() && code == "" && t.waited == nil && l.Enter != nil && !e.tells(ctx, t) {
		verdict = e.look(ctx, t)
	}
	return verdict, res, nil
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

// tells says whether this version of a tool says without a terminal whether it wants
// a code or a link. It is asked for its version, because a look on a terminal is one
// more run of all that the command does.
func (e *execution) tells(ctx context.Context, t *task) bool {
	l := e.row.Link
	if l.Version == nil {
		return false
	}
	argv := l.Version(t.argv)
	if argv == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	res, err := child.Run(ctx, child.Command{Argv: argv, Env: e.io.environ()})
	return err == nil && res.Code == 0 && l.Tells(strings.TrimSpace(string(res.Out)))
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
