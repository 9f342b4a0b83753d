package main

// How a package's files differ from those of its latest published version: what a
// human may read before a yes. A worm that publishes through a genuine workflow
// shows here, as a file or an install script that nobody expects.
//
// It is the job's own word, made on a machine that may be anybody's by then, and
// shown as that.

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// Bounds: what a registry sends, and what a tarball unpacks to, is anybody's.
const (
	maxPackument = 4 << 20   // bytes of one version's description
	maxTarball   = 200 << 20 // bytes, packed
	maxUnpacked  = 1 << 30   // bytes
	maxEntries   = 50_000
	compareTime  = 60 * time.Second
	// offerWait is how long a human's opening waits for it: the job's proof of life
	// has 30 s in all.
	offerWait = 8 * time.Second
)

// offer gives what ask.Config takes for Details: the packages among files are
// compared when the first human opens the prompt. What nobody opens asks no
// registry.
func offer(ctx context.Context, getenv func(string) string, files []approvable) func(context.Context) string {
	registry := getenv("NPM_CONFIG_REGISTRY")
	if registry == "" {
		registry = getenv("npm_config_registry")
	}
	if registry == "" {
		registry = "https://registry.npmjs.org"
	}
	done := make(chan string, 1)
	compare := func() {
		ctx, cancel := context.WithTimeout(ctx, compareTime)
		defer cancel()
		var parts []string
		for _, f := range files {
			if f.Package == "" {
				continue
			}
			text, err := difference(ctx, http.DefaultClient, registry, f.tarball)
			if err != nil {
				text = fmt.Sprintf("%s %s could not be compared with what is published: %s", f.Package, f.Version, err)
			}
			parts = append(parts, text)
		}
		if len(parts) == 0 {
			parts = append(parts, "no file is a package for npm, so there is nothing to compare with")
		}
		done <- fit(strings.Join(parts, "\n"))
	}
	var begin sync.Once
	return func(ctx context.Context) string {
		begin.Do(func() { go compare() })
		timer := time.NewTimer(offerWait)
		defer timer.Stop()
		select {
		case known := <-done:
			done <- known // for the next opening
			return known
		case <-ctx.Done():
		case <-timer.C:
		}
		return "the comparison with what is published is not there yet; have the job prove itself again in a moment"
	}
}

// fit cuts a text to what may be sent, at a line's end.
func fit(text string) string {
	fits := func(s string) bool {
		encoded, err := json.Marshal(s)
		// A body has room for this much of JSON's escapes beside a link.
		return err == nil && len(s) <= wire.MaxDetails && len(encoded) <= wire.MaxDetails+1024
	}
	if text = strings.ToValidUTF8(text, "\uFFFD"); fits(text) {
		return text
	}
	lines := strings.Split(text, "\n")
	for n := len(lines) - 1; n > 0; n-- {
		if cut := strings.Join(lines[:n], "\n") + fmt.Sprintf("\n(and %d more lines)", len(lines)-n); fits(cut) {
			return cut
		}
	}
	return "(more than can be shown)"
}

// difference puts into words how a tarball differs from the latest version that
// the registry has.
func difference(ctx context.Context, client *http.Client, registry string, t tarball) (string, error) {
	f, err := os.Open(t.path)
	if err != nil {
		return "", errors.New("it cannot be read any more")
	}
	defer f.Close()
	now, err := contentsOf(f, maxUnpacked)
	if err != nil {
		return "", fmt.Errorf("its tarball: %w", err)
	}
	version, old, err := latest(ctx, client, registry, t.name)
	if err != nil {
		return "", err
	}
	if old == nil {
		return fmt.Sprintf("%s is not published yet, so all its %d files are new", t.name, len(now.files)), nil
	}
	return inLines(fmt.Sprintf("%s %s against %s, which is the latest published", t.name, t.version, version), old, now), nil
}

// contents is what is in a package's tarball.
type contents struct {
	files   map[string]entry
	scripts map[string]string // of package.json: those that npm runs by itself
}

type entry struct {
	size int64
	sum  [sha256.Size]byte
}

// installScripts run on the machine of whoever installs a package.
var installScripts = []string{"preinstall", "install", "postinstall", "prepare"}

// contentsOf reads a tarball that unpacks to less than most bytes, and unpacks
// nothing to disk.
func contentsOf(packed io.Reader, most int64) (*contents, error) {
	z, err := gzip.NewReader(packed)
	if err != nil {
		return nil, err
	}
	unpacked := &io.LimitedReader{R: z, N: most}
	c := &contents{files: map[string]entry{}}
	// Where the bound ends it, the tarball seems to be cut off.
	ended := func(err error) error {
		if unpacked.N <= 0 {
			return fmt.Errorf("it unpacks to more than %d bytes", most)
		}
		return err
	}
	for r := tar.NewReader(unpacked); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) && unpacked.N > 0 {
			return c, nil
		}
		if err != nil {
			return nil, ended(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		if len(c.files) == maxEntries {
			return nil, fmt.Errorf("it has more than %d files", maxEntries)
		}
		_, name, ok := strings.Cut(h.Name, "/") // npm strips the first part
		if !ok {
			name = h.Name
		}
		sum, manifest := sha256.New(), &bytes.Buffer{}
		into := io.Writer(sum)
		if name == "package.json" && h.Size <= maxManifest {
			into = io.MultiWriter(sum, manifest)
		}
		n, err := io.Copy(into, r)
		if err != nil {
			return nil, ended(err)
		}
		c.files[name] = entry{n, [sha256.Size]byte(sum.Sum(nil))}
		if manifest.Len() > 0 {
			var v struct {
				Scripts map[string]string `json:"scripts"`
			}
			if json.Unmarshal(manifest.Bytes(), &v) == nil {
				c.scripts = v.Scripts
			}
		}
	}
}

// latest reads the latest version that the registry has of a package; nil: none.
func latest(ctx context.Context, client *http.Client, registry, name string) (version string, c *contents, err error) {
	base, err := url.Parse(registry)
	if err != nil || base.Scheme != "https" && base.Scheme != "http" || base.Host == "" {
		return "", nil, errors.New("the registry's address is none")
	}
	// A scope's slash is part of the name: @scope%2fname.
	body, status, err := get(ctx, client, strings.TrimSuffix(registry, "/")+"/"+strings.ReplaceAll(url.PathEscape(name), "%2F", "%2f")+"/latest", maxPackument)
	switch {
	case err != nil:
		return "", nil, fmt.Errorf("the registry %s does not answer", wire.CleanName(base.Host, 100))
	case status == http.StatusNotFound:
		return "", nil, nil
	case status != http.StatusOK:
		return "", nil, fmt.Errorf("the registry %s answers with status %d", wire.CleanName(base.Host, 100), status)
	}
	var v struct {
		Version string `json:"version"`
		Dist    struct {
			Tarball   string `json:"tarball"`
			Integrity string `json:"integrity"`
		} `json:"dist"`
	}
	if err := json.Unmarshal(body, &v); err != nil || v.Version == "" || v.Dist.Tarball == "" {
		return "", nil, errors.New("the registry's description of the latest version cannot be read")
	}
	at, err := url.Parse(v.Dist.Tarball)
	if err != nil || at.Scheme != "https" && at.Scheme != base.Scheme || at.Host == "" {
		return "", nil, errors.New("the latest version's tarball is at no address to read it from")
	}
	packed, status, err := get(ctx, client, v.Dist.Tarball, maxTarball)
	if err != nil || status != http.StatusOK {
		return "", nil, errors.New("the latest version's tarball cannot be fetched")
	}
	sum := sha512.Sum512(packed)
	if want, ok := strings.CutPrefix(v.Dist.Integrity, "sha512-"); ok && want != base64.StdEncoding.EncodeToString(sum[:]) {
		return "", nil, errors.New("the latest version's tarball is not the one that the registry describes")
	}
	if c, err = contentsOf(bytes.NewReader(packed), maxUnpacked); err != nil {
		return "", nil, fmt.Errorf("the latest version's tarball: %w", err)
	}
	return v.Version, c, nil
}

// get fetches most bytes at most. It shows no credentials: what is compared with
// is public, or else not compared.
func get(ctx context.Context, client *http.Client, address string, most int64) (body []byte, status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, 0, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(io.LimitReader(res.Body, most+1))
	if err == nil && int64(len(body)) > most {
		err = errors.New("too much")
	}
	return body, res.StatusCode, err
}

// inLines puts the difference of two tarballs into lines, what runs by itself
// first.
func inLines(head string, old, now *contents) string {
	lines := []string{head + ":"}
	for _, name := range installScripts {
		before, had := old.scripts[name]
		after, has := now.scripts[name]
		switch {
		case has && !had:
			lines = append(lines, fmt.Sprintf("! the script %s is new: %q", name, after))
		case has && before != after:
			lines = append(lines, fmt.Sprintf("! the script %s was %q and is %q", name, before, after))
		case had && !has:
			lines = append(lines, fmt.Sprintf("! the script %s is gone", name))
		}
	}
	same := 0
	var added, gone, changed []string
	for _, name := range slices.Sorted(maps.Keys(now.files)) {
		a, b, had := now.files[name], old.files[name], false
		if _, had = old.files[name]; !had {
			added = append(added, fmt.Sprintf("+ %s (%d bytes)", name, a.size))
		} else if a != b {
			changed = append(changed, fmt.Sprintf("~ %s (%d -> %d bytes)", name, b.size, a.size))
		} else {
			same++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(old.files)) {
		if _, has := now.files[name]; !has {
			gone = append(gone, "- "+name)
		}
	}
	lines = append(lines, fmt.Sprintf("%d files as they were, %d new, %d changed, %d gone", same, len(added), len(changed), len(gone)))
	// A name with a line break in it is no line of its own.
	for _, l := range slices.Concat(added, changed, gone) {
		lines = append(lines, strings.NewReplacer("\n", "<U+000A>", "\r", "<U+000D>").Replace(l))
	}
	return strings.Join(lines, "\n")
}
