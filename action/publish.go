package main

// A plan at work: pack first, then publish each tarball with a factor of its own.

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/child"
	"github.com/continuousauth/action/internal/service"
	"github.com/continuousauth/action/internal/wire"
)

// tarball is one that is to be published.
type tarball struct {
	path          string
	name, version string
	registry      string // where it says that it is published to; "": nowhere
	scope         string // where it says that all of its scope are
	private       bool
	integrity     string // as npm's registry has it: sha512-, base64
	sha256        string // hex
	size          int64
}

// viewWithin bounds one look at a registry that may hang.
const viewWithin = 30 * time.Second

// maxManifest bounds a package.json, in bytes.
const maxManifest = 1 << 20

// publish runs a plan.
func (e *execution) publish(ctx context.Context, p *service.Plan) error {
	paths, drop, err := e.pack(ctx, p)
	if err != nil {
		return err
	}
	defer drop()
	var all []tarball
	for _, path := range paths {
		t, err := readTarball(path)
		if err != nil {
			return &exit{exitCancelled, fmt.Errorf("%s is no package's tarball: %w; nothing was published", filepath.Base(path), err)}
		}
		if t.private && p.Many {
			// As npm publish does with a workspace that is not to be published.
			e.say.line("%s is private, and not published", t.name)
			continue
		}
		all = append(all, t)
	}
	unsaid := e.Message == ""
	for i, t := range all {
		if ctx.Err() != nil {
			return &exit{exitCancelled, fmt.Errorf("stopped before %s was published", filepath.Base(t.path))}
		}
		if unsaid {
			e.Message = announced(all[i:])
		}
		if err := e.publishOne(ctx, p, t, len(all)); err != nil {
			return err
		}
	}
	return e.each(ctx, p.After)
}

// each runs commands, the first of which that fails ends it.
func (e *execution) each(ctx context.Context, commands [][]string) error {
	for _, argv := range commands {
		res, err := e.run(ctx, argv, "", nil)
		if err != nil {
			return err
		}
		if err := ended(res.Code); err != nil {
			return err
		}
	}
	return nil
}

// pack runs what a plan runs before it publishes, and gives the tarballs. drop
// removes those that it made.
func (e *execution) pack(ctx context.Context, p *service.Plan) (paths []string, drop func(), err error) {
	if !p.Many {
		p.Before, p.After = having(p.Dir, p.Before), having(p.Dir, p.After)
	}
	if p.Ignores != nil && len(p.Before)+len(p.After) > 0 {
		// A file of the user's may say so, which only the tool finds.
		res, err := child.Run(ctx, child.Command{Argv: p.Ignores, Env: e.io.environ()})
		if err != nil {
			return nil, nil, startFailure(err)
		}
		if strings.TrimSpace(string(res.Out)) == "true" {
			p.Before, p.After = nil, nil
		}
	}
	if err := e.each(ctx, p.Before); err != nil {
		return nil, nil, err
	}
	if p.Pack == nil {
		return e.tarballs(), func() {}, nil
	}
	// Nobody else may put a tarball there, or another in a tarball's place.
	dir, err := os.MkdirTemp(e.io.getenv("RUNNER_TEMP"), "cfa-pack-")
	if err != nil {
		return nil, nil, &exit{exitCancelled, fmt.Errorf("there is no folder to pack into: %w; nothing was published", err)}
	}
	drop = func() { _ = os.RemoveAll(dir) }
	argv := slices.Clone(p.Pack)
	for i := range argv {
		argv[i] = strings.ReplaceAll(argv[i], service.Folder, dir)
	}
	if err := e.each(ctx, [][]string{argv}); err != nil {
		drop()
		return nil, nil, err
	}
	if paths, err = filepath.Glob(filepath.Join(dir, "*.tgz")); err != nil || len(paths) == 0 {
		drop()
		return nil, nil, &exit{exitCancelled, errors.New("packing made no tarball, so there is nothing to publish")}
	}
	if !p.Many && len(paths) > 1 {
		// A script that npm runs while it packs is told of the folder.
		drop()
		return nil, nil, &exit{exitCancelled, fmt.Errorf("packing one package made %d tarballs: a script of its own, or of something that it builds with, has put others beside it; look for which one before you publish anything. (Or npm's configuration names workspaces: then say --workspaces in the command.) Nothing was published", len(paths))}
	}
	return paths, drop, nil
}

// having leaves out commands for scripts that the package has not got: each is a
// start of npm for nothing. All stay where that cannot be told.
func having(dir string, commands [][]string) (list [][]string) {
	var v struct {
		Scripts map[string]any `json:"scripts"`
	}
	f, err := os.Open(filepath.Join(dir, "package.json"))
	if err != nil {
		return commands
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil || json.Unmarshal(data, &v) != nil {
		return commands
	}
	for _, c := range commands {
		if _, there := v.Scripts[c[len(c)-1]]; there {
			list = append(list, c)
		}
	}
	return list
}

// tarballs are the command's own.
func (e *execution) tarballs() (paths []string) {
	for _, a := range e.Command[1:] {
		if !strings.HasPrefix(a, "-") && (strings.HasSuffix(a, ".tgz") || strings.HasSuffix(a, ".tar.gz")) {
			paths = append(paths, a)
		}
	}
	return paths
}

// announced says to a human what is published with what they give: what they gave for
// the first is good for those after it, as long as it lives.
func announced(all []tarball) string {
	said := "publish "
	for i, t := range all {
		one := wire.Clean(fmt.Sprintf("%s %s (sha256 %s)", t.name, t.version, t.sha256), wire.MaxText)
		if i > 0 {
			one = ", " + one
		}
		more := fmt.Sprintf(", and %d more", len(all)-i)
		if i > 0 && len(said)+len(one)+len(more) > wire.MaxText {
			return said + more
		}
		said += one
	}
	return said
}

func (e *execution) publishOne(ctx context.Context, p *service.Plan, t tarball, of int) error {
	if of > 1 {
		e.say.line("publishing %s %s", t.name, t.version)
	}
	// What was read a while ago is what a human is told of: others have been published
	// since, and something that a script left running may have written there.
	switch now, err := readTarball(t.path); {
	case err != nil:
		return &exit{exitCancelled, fmt.Errorf("%s is no package's tarball: %w; nothing of it was published", filepath.Base(t.path), err)}
	case now.sha256 != t.sha256:
		return &exit{exitCancelled, fmt.Errorf("%s has changed since it was packed; nothing of it was published", filepath.Base(t.path))}
	}
	return e.until(ctx, &task{argv: p.Publish(t.path), exists: func(ctx context.Context) presence {
		return e.present(ctx, p, t)
	}})
}

// presence is whether a version is at its registry.
type presence int

const (
	unknown   presence = iota // it does not say
	absent                    // it is not there
	same                      // it is there, with the same bytes
	different                 // it is there, with others
)

// already decides on a version that the tool says is there already: a publish
// whose answer was lost ends so. Only the same bytes make it a success.
func (e *execution) already(ctx context.Context, t *task, code int) error {
	if t.exists == nil {
		return ended(code)
	}
	switch t.exists(ctx) {
	case same:
		e.say.line("the version is at the registry already, with the same bytes: it was published")
		return nil
	case different:
		e.say.line("the version is at the registry already, but with OTHER bytes than these: somebody published something else under this version. Nothing was published now; compare the two before you publish a new version")
	case absent, unknown:
		e.say.line("the tool says that the version is there already, and the registry does not show its integrity, so whether it is the same cannot be told")
	}
	return ended(code)
}

// present asks the registry, by the tool itself, which bytes a version has there.
func (e *execution) present(ctx context.Context, p *service.Plan, t tarball) presence {
	var said strings.Builder
	ctx, cancel := context.WithTimeout(ctx, viewWithin)
	defer cancel()
	argv, env := p.View(t.published())
	res, err := child.Run(ctx, child.Command{Argv: argv, Env: append(e.io.environ(), env...), Out: &said})
	if err != nil {
		return unknown
	}
	if res.Code != 0 {
		if strings.Contains(string(res.Err)+string(res.Out), "E404") {
			return absent
		}
		return unknown
	}
	if strings.TrimSpace(said.String()) == "" {
		return absent // the package is there, this version is not
	}
	var have []string
	if one := ""; json.Unmarshal([]byte(said.String()), &one) == nil {
		have = []string{one}
	} else if json.Unmarshal([]byte(said.String()), &have) != nil {
		return unknown
	}
	switch {
	case len(have) != 1 || !strings.HasPrefix(have[0], "sha512-"):
		return unknown
	case have[0] == t.integrity:
		return same
	}
	return different
}

// readTarball reads what a package's tarball says of itself, and its digests.
func readTarball(path string) (t tarball, err error) {
	f, err := os.Open(path)
	if err != nil {
		return t, err
	}
	defer f.Close()
	short, long := sha256.New(), sha512.New()
	if t.size, err = io.Copy(io.MultiWriter(short, long), f); err != nil {
		return t, err
	}
	t.path, t.sha256 = path, hex.EncodeToString(short.Sum(nil))
	t.integrity = "sha512-" + base64.StdEncoding.EncodeToString(long.Sum(nil))
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return t, err
	}
	z, err := gzip.NewReader(f)
	if err != nil {
		return t, err
	}
	// To the end: npm keeps the last of two files with one name, so who reads only the
	// first could be shown another package than the one that is published.
	unpacked := &io.LimitedReader{R: z, N: maxUnpacked}
	var data []byte
	manifests := 0
	for r := tar.NewReader(unpacked); ; {
		h, err := r.Next()
		switch {
		case unpacked.N <= 0:
			return t, fmt.Errorf("it unpacks to more than %d bytes", maxUnpacked)
		case errors.Is(err, io.EOF) && manifests > 1:
			return t, errManifests
		case errors.Is(err, io.EOF) && data == nil:
			return t, errors.New("it has no package.json")
		case errors.Is(err, io.EOF):
			return t, t.describe(data)
		case err != nil:
			return t, err
		}
		if !isManifest(h.Name) {
			continue
		}
		manifests++
		// In a folder, whose name is anything: npm strips the first part.
		if _, name, _ := strings.Cut(h.Name, "/"); name != "package.json" || h.Typeflag != tar.TypeReg {
			continue
		}
		if data, err = io.ReadAll(io.LimitReader(r, maxManifest+1)); err != nil {
			return t, err
		}
		if len(data) > maxManifest {
			return t, fmt.Errorf("its package.json has more than %d bytes", maxManifest)
		}
	}
}
