package main

// cfa approve: ask humans for a signed yes about files, wait, keep the receipt.
//
// The rule it keeps: what was approved is what is there. Files are named by their
// digests from before anybody is asked; they are read again when the yes has
// come, and one that has changed meanwhile makes it a failure.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/ask"
	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/receipt"
	"github.com/continuousauth/action/internal/service"
	"github.com/continuousauth/action/internal/wire"
)

type approveCmd struct {
	relayFlags
	Timeout    time.Duration `default:"30m" placeholder:"TIME" help:"How long to wait for an answer, at most 6h and the relay's own limit. Default: 30m."`
	Message    string        `placeholder:"TEXT" help:"Words of the job to the human, shown as such. Needed without --artifact."`
	Artifact   []string      `placeholder:"FILES" sep:"none" help:"A file to approve, or a pattern such as dist/*.tgz; again for more. Each must be there; at most 32 files."`
	Service    string        `placeholder:"NAME" help:"What it is for: npm, rubygems, or any other name. Default: npm where every file is a package for npm."`
	Responders string        `placeholder:"KEYS" help:"Signing keys (A...) that may approve, separated by commas or spaces, or a file of the repository that holds them: a key a line, with a name after it. Needed: an approval of anybody is none."`
	Approvals  int           `default:"1" placeholder:"N" help:"How many people must approve, 1 or 2. Default: 1."`
	Receipt    string        `placeholder:"FILE" help:"Where the receipt goes: one line for each person. Default: stdout."`
	Details    bool          `help:"Offer the human how each npm package's files differ from those of its latest published version, as the registry has it (NPM_CONFIG_REGISTRY, or npm's)."`

	files []approvable
}

// approvable is a file that is to be approved.
type approvable struct {
	path string
	wire.Artifact
	tarball tarball // its zero value: no npm package
}

// AfterApply refuses what is wrong before anybody is asked.
func (a *approveCmd) AfterApply() error {
	if len(keys(a.Responders)) == 0 {
		return errors.New("--responders is missing: say whose yes counts, by the signing keys (A...) that `cfa-responder keys` prints")
	}
	common := askFlags{relayFlags: a.relayFlags, Timeout: a.Timeout, Message: a.Message, Service: a.Service, Format: "any", Responders: a.Responders}
	if err := common.check(); err != nil {
		return err
	}
	a.Responders = common.Responders // of a file, what was in it
	if a.Approvals != 1 && a.Approvals != 2 {
		return fmt.Errorf("--approvals is %d; it must be 1 or 2", a.Approvals)
	}
	if n := len(keys(a.Responders)); n < a.Approvals {
		return fmt.Errorf("--approvals is %d, and --responders names %d key: so many people cannot approve", a.Approvals, n)
	}
	if a.Message == "" && len(a.Artifact) == 0 {
		return errors.New("there is nothing to approve: give --artifact, --message, or both")
	}
	var err error
	if a.files, err = approvables(a.Artifact); err != nil {
		return err
	}
	if a.Service == "" {
		a.Service = service.Default
		if len(a.files) > 0 && !slices.ContainsFunc(a.files, func(f approvable) bool { return f.Package == "" }) {
			a.Service = "npm"
		}
	}
	err = checkField(func(q *wire.Request) {
		q.Ask, q.Message, q.Artifacts, q.Responders, q.Approvals = wire.AskApproval, a.Message, artifacts(a.files), keys(a.Responders), a.Approvals
	})
	if err != nil {
		return fmt.Errorf("--artifact: %s", plain(err))
	}
	return nil
}

func artifacts(files []approvable) (list []wire.Artifact) {
	for _, f := range files {
		list = append(list, f.Artifact)
	}
	return list
}

// matching expands patterns, each of which must name a file.
func matching(patterns []string) (paths []string, err error) {
	// One a line too: an input of the Action is one text.
	patterns = strings.FieldsFunc(strings.Join(patterns, "\n"), func(r rune) bool { return r == '\n' || r == '\r' })
	for _, pattern := range patterns {
		if pattern = strings.TrimSpace(pattern); pattern == "" {
			continue
		}
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, fmt.Errorf("--artifact %q is no pattern", wire.Clean(pattern, 200))
		}
		if _, err := os.Lstat(pattern); err == nil {
			found = []string{pattern} // a name with brackets in it is a name first
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("--artifact %q: there is no such file", wire.Clean(pattern, 200))
		}
		for _, path := range found {
			if !slices.Contains(paths, path) {
				paths = append(paths, path)
			}
		}
	}
	if len(paths) > wire.MaxArtifacts {
		return nil, fmt.Errorf("--artifact: %d files; at most %d can be approved at once, because a human is to read them. Approve a file with their checksums instead", len(paths), wire.MaxArtifacts)
	}
	return paths, nil
}

// approvables reads the files that patterns name.
func approvables(patterns []string) (files []approvable, err error) {
	paths, err := matching(patterns)
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		f, err := receipt.Hash(path)
		if err != nil {
			return nil, fmt.Errorf("--artifact: %w", err)
		}
		if i := slices.IndexFunc(files, func(g approvable) bool { return g.Name == f.Name }); i >= 0 {
			return nil, fmt.Errorf("--artifact: %s and %s have one name, and a receipt tells files apart by theirs", wire.Clean(files[i].path, 200), wire.Clean(path, 200))
		}
		a := approvable{path: path, Artifact: wire.Artifact{Name: f.Name, SHA256: f.SHA256, Size: f.Size}}
		// What a tarball says of itself is shown as the job's word; one that says
		// nothing is a file like any other.
		t, err := readTarball(path)
		if errors.Is(err, errManifests) {
			return nil, fmt.Errorf("--artifact %q: %w, so nobody can say what would be approved", wire.Clean(path, 200), err)
		}
		if err == nil && t.sha256 == f.SHA256.String() && len(t.name) <= 214 && len(t.version) <= 256 {
			a.Package, a.Version, a.tarball = t.name, t.version, t
		}
		files = append(files, a)
	}
	return files, nil
}

// Run is the job, in the order in which it happens.
func (a *approveCmd) Run(ctx context.Context, io stdio) error {
	say := io.say
	relay, err := dial.Parse(dial.Target{URL: a.Relay, Name: a.RelayName, TLSName: a.TLSName, CAFile: a.CAFile, Getenv: io.getenv})
	if err != nil {
		return usage("%s", plain(err))
	}
	env := ci.Env{Getenv: io.getenv}
	provider, err := ci.Detect(env)
	if err != nil {
		return &exit{exitUsage, err}
	}
	keep, err := newKeeper(a.Receipt, io.out)
	if err != nil {
		return err
	}
	defer keep.drop()
	common := askFlags{relayFlags: a.relayFlags, Timeout: a.Timeout, Message: a.Message, Service: a.Service, Format: "any", Responders: a.Responders}
	config := common.config(relay, provider, env, say)
	config.Ask, config.Artifacts, config.Approvals = wire.AskApproval, artifacts(a.files), a.Approvals
	if a.Details {
		config.Details = offer(ctx, io.getenv, a.files)
	}
	session, err := ask.New(config)
	if err != nil {
		return usage("%s", plain(err))
	}
	say.line("asking for an approval as a job on %s", provider.Title)
	for _, f := range a.files {
		what := ""
		if f.Package != "" {
			what = fmt.Sprintf(" (%s %s)", wire.CleanName(f.Package, 214), wire.CleanName(f.Version, 256))
		}
		say.line("    %s%s, %d bytes, sha256 %s", wire.CleanName(f.Name, 200), what, f.Size, f.SHA256)
	}

	var lines []byte
	var last ask.Answer
	for n := 1; ; n++ {
		answer, err := session.Await(ctx)
		if err != nil {
			return err
		}
		last = answer
		lines = append(append(lines, answer.Receipt()...), '\n')
		say.line("approved by %s (%d of %d)", answer.Responder, n, a.Approvals)
		if n == a.Approvals {
			break
		}
		if err := session.Next(ctx); err != nil {
			if ctx.Err() != nil {
				return err
			}
			say.line("the relay did not confirm that one more is needed: %s", err)
		}
	}
	failed := a.same()
	outcome := wire.OutcomeOK
	if failed == nil {
		failed = keep.write(lines)
	}
	if failed != nil {
		outcome = wire.OutcomeFailed
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), handoverTime)
	defer cancel()
	if err := session.Done(ending, outcome); err != nil {
		say.line("the relay did not confirm the end of the request: %s", err) // the yes is as good
	}
	if failed != nil {
		return &exit{exitCancelled, fmt.Errorf("it was approved, and yet: %w", failed)}
	}
	say.sum.receipts(lines)
	say.sum.answered(session.Name())
	if a.Receipt != "" {
		say.line("the receipt is in %s", a.Receipt)
	}
	if to := githubOutputs(provider, io); to != nil {
		who := tame(harmless(session.Name()))
		if who == "" {
			who = last.Responder
		}
		if err := to.set("responder", who, "request-id", session.ID(), "receipt", a.Receipt); err != nil {
			say.line("warning: the step's outputs were not written: %s", err) // the receipt was
		}
	}
	return nil
}

// githubOutputs is where a step of GitHub's leaves its outputs; nil elsewhere.
func githubOutputs(p *ci.Provider, io stdio) *handover {
	if path := io.getenv("GITHUB_OUTPUT"); p.Outputs && path != "" {
		return &handover{github: path}
	}
	return nil
}

// same says whether the files are still those that were approved.
func (a *approveCmd) same() error {
	for _, f := range a.files {
		now, err := receipt.Hash(f.path)
		if err != nil {
			return fmt.Errorf("%s cannot be read any more: %w", f.Name, err)
		}
		if now.SHA256 != f.SHA256 {
			return fmt.Errorf("%s has changed while it was being approved; let nothing write there, and ask again", f.Name)
		}
	}
	return nil
}

// keeper is where receipts go. The file is made before anybody is asked: a yes
// that cannot be kept is a yes given for nothing.
type keeper struct {
	path string // "": out
	out  io.Writer
	tmp  *os.File
}

func newKeeper(path string, out io.Writer) (*keeper, error) {
	k := &keeper{path: path, out: out}
	if path == "" {
		return k, nil
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, usage("--receipt %q is no file", wire.Clean(path, 200))
	}
	var err error
	if k.tmp, err = os.CreateTemp(filepath.Dir(path), ".cfa-receipt-*"); err != nil {
		return nil, usage("--receipt: %w", err)
	}
	return k, nil
}

// drop removes what was not kept.
func (k *keeper) drop() {
	if k.tmp != nil {
		k.tmp.Close()
		os.Remove(k.tmp.Name())
	}
}

// write puts the receipts in their place, whole or not at all. Others may read
// them: that is what they are for.
func (k *keeper) write(lines []byte) error {
	if k.path == "" {
		if _, err := k.out.Write(lines); err != nil {
			return fmt.Errorf("write the receipt to stdout: %w", err)
		}
		return nil
	}
	_, err := k.tmp.Write(lines)
	if err == nil {
		err = k.tmp.Chmod(0o644)
	}
	if err == nil {
		err = k.tmp.Sync()
	}
	if err := errors.Join(err, k.tmp.Close()); err != nil {
		return fmt.Errorf("write the receipt: %w", err)
	}
	if err := os.Rename(k.tmp.Name(), k.path); err != nil {
		return fmt.Errorf("write the receipt: %w", err)
	}
	k.tmp = nil
	return nil
}
