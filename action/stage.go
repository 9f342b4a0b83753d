package main

// cfa stage: stage a package, and wait until a human has approved it at the
// registry with their own passkey, on their own machine.
//
// The rule it keeps: what appears at the registry is what was staged here. The job
// goes on only when the version has the integrity of the tarball that this job
// packed; a CI's own token can neither list nor view what is staged, so what
// everybody can see is what counts.

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/ask"
	"github.com/continuousauth/action/internal/child"
	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/service"
	"github.com/continuousauth/action/internal/wire"
)

type stageCmd struct {
	askFlags
	Line    string   `name:"run" placeholder:"LINE" help:"The command as one line of plain words, as a step of a workflow has it: instead of what stands behind --."`
	Command []string `arg:"" optional:"" passthrough:"" placeholder:"COMMAND" help:"npm stage publish and its options, behind --."`
}

// AfterApply refuses what is wrong before anything is run.
func (x *stageCmd) AfterApply() error {
	if len(x.Command) > 0 && x.Command[0] == "--" {
		x.Command = x.Command[1:]
	}
	if line := strings.TrimSpace(x.Line); line != "" && len(x.Command) > 0 {
		return errors.New("--run and a command behind -- are two commands; give one")
	} else if line != "" && !plainWords.MatchString(line) {
		return errors.New("--run is one line of plain words, without quotes or anything else of a shell's")
	} else if line != "" {
		x.Command = strings.Fields(line)
	}
	if len(x.Command) == 0 {
		return errors.New("no command was given; say: cfa stage -- npm stage publish")
	}
	if x.Service == "" {
		x.Service = "npm"
	}
	x.Format = "any"
	if x.Approvals > 1 {
		// Before anything is staged, which nobody could then be asked about.
		return errors.New("--approvals: one human approves what is staged, at the registry; to have two people agree, ask them with cfa approve first")
	}
	return x.check()
}

// lookEvery is the time between two looks at the registry. A human takes longer,
// and each look is a run of npm.
const lookEvery = 10 * time.Second

// staged is a version that waits at the registry.
type staged struct {
	tarball
	id string
}

// Run is the job, in the order in which it happens.
func (x *stageCmd) Run(ctx context.Context, io stdio) error {
	p := service.PlanStage(x.Command, io.getenv)
	if p == nil {
		return usage("cfa stage runs npm stage publish, of a folder, a tarball or workspaces, with options that it knows: %q is something else", wire.Clean(strings.Join(x.Command, " "), 200))
	}
	e := &execution{execCmd: &execCmd{askFlags: x.askFlags, Command: x.Command, row: *service.Find("npm")}, io: io, say: io.say, env: ci.Env{Getenv: io.getenv}}
	var err error
	if e.relay, err = dial.Parse(dial.Target{URL: x.Relay, Name: x.RelayName, TLSName: x.TLSName, CAFile: x.CAFile, Getenv: io.getenv}); err != nil {
		return usage("%s", plain(err))
	}
	if e.provider, err = ci.Detect(e.env); err != nil {
		return &exit{exitUsage, err}
	}
	all, err := e.stage(ctx, p)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return &exit{exitCancelled, errors.New("every package is private, so nothing was staged")}
	}
	return e.approved(ctx, p, all)
}

// stage packs and stages. Nothing is public after it.
func (e *execution) stage(ctx context.Context, p *service.Plan) (all []staged, err error) {
	paths, drop, err := e.pack(ctx, p)
	if err != nil {
		return nil, err
	}
	defer drop()
	if len(paths) > wire.MaxArtifacts {
		return nil, &exit{exitCancelled, fmt.Errorf("%d packages; a human can be asked about %d at once. Nothing was staged; stage them in groups, by --workspace", len(paths), wire.MaxArtifacts)}
	}
	for _, path := range paths {
		t, err := readTarball(path)
		if err != nil {
			return nil, &exit{exitCancelled, fmt.Errorf("%s is no package's tarball: %w; it was not staged", filepath.Base(path), err)}
		}
		if t.private && p.Many {
			e.say.line("%s is private, and not staged", t.name)
			continue
		}
		res, err := e.run(ctx, p.Publish(path), "", nil)
		if err != nil {
			return nil, err
		}
		if res.Code != 0 {
			return nil, ended(res.Code)
		}
		id := service.Staged(child.Plain(res.Out))
		if wire.CheckStage(id) != nil {
			return nil, &exit{exitCancelled, fmt.Errorf("npm staged %s %s and did not show its id, so no human can be told what to approve; see what is staged with npm stage list, and reject it", t.name, t.version)}
		}
		all = append(all, staged{t, id})
	}
	return all, e.each(ctx, p.After)
}

// approved asks, and waits until all of it is public.
func (e *execution) approved(ctx context.Context, p *service.Plan, all []staged) error {
	config := e.config(e.relay, e.provider, e.env, e.say)
	config.Ask = wire.AskLink
	// There is no link: the responder shows the command for a stage's id.
	config.Link = func(context.Context) (string, error) { return "", nil }
	for _, s := range all {
		config.Artifacts = append(config.Artifacts, artifactOf(s))
		e.say.line("staged %s %s as %s: to approve it, npm stage approve %s", s.name, s.version, s.id, s.id)
	}
	if config.Message == "" {
		config.Message = wire.Clean(fmt.Sprintf("publish %s %s", all[0].name, all[0].version), wire.MaxText)
		if len(all) > 1 {
			config.Message += fmt.Sprintf(" and %d more", len(all)-1)
		}
	}
	s, err := ask.New(config)
	if err != nil {
		return usage("%s", plain(err))
	}
	asked := make(chan error, 1)
	go func() { asked <- s.Follow(ctx) }()
	look := time.NewTicker(e.looks())
	defer look.Stop()
	for {
		select {
		case err := <-asked: // declined, timed out, stopped
			if f, ok := errors.AsType[*ask.Failure](err); ok {
				f.Next = strings.TrimPrefix(f.Next+"; what is staged stays so until somebody rejects it (npm stage reject)", "; ")
			}
			return err
		case <-look.C:
		}
		left := all[:0:0]
		for _, one := range all {
			switch e.present(ctx, p, one.tarball) {
			case same:
				e.say.line("%s %s is published, with the bytes that were staged", one.name, one.version)
			case different:
				e.finish(ctx, s, false)
				<-asked
				return &exit{exitCancelled, fmt.Errorf("%s %s is published, but with OTHER bytes than those that were staged here: find out who published it before anything depends on it", one.name, one.version)}
			case absent, unknown:
				left = append(left, one)
			}
		}
		if all = left; len(all) == 0 {
			e.finish(ctx, s, true)
			<-asked
			return nil
		}
	}
}

func (e *execution) looks() time.Duration {
	if e.io.pause != nil {
		return e.io.pause(lookEvery)
	}
	return lookEvery
}

func artifactOf(s staged) wire.Artifact {
	a := wire.Artifact{Name: filepath.Base(s.path), Size: s.size, Package: s.name, Version: s.version, Stage: s.id}
	// Of our own making, so it parses.
	_ = a.SHA256.UnmarshalText([]byte(s.sha256))
	return a
}
