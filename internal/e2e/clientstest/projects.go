package clientstest

// What the clients publish: each is a folder below the home, with version 1.0.0
// of what is named.

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
)

// Package makes an npm package, and gives its folder.
func (h *Home) Package(name, version string) string {
	h.t.Helper()
	dir := filepath.Join("packages", strings.ReplaceAll(name, "/", "+"))
	h.manifest(dir, map[string]any{"name": name, "version": version, "description": "a test's", "license": "MIT", "main": "index.js",
		"publishConfig": map[string]any{"access": "public"}})
	h.Write(filepath.Join(dir, "index.js"), "module.exports = '"+name+" "+version+"'\n")
	return filepath.Join(h.dir, dir)
}

func (h *Home) manifest(dir string, m map[string]any) {
	h.t.Helper()
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		h.t.Fatal(err)
	}
	h.Write(filepath.Join(dir, "package.json"), string(data)+"\n")
}

// Berry makes a package that yarn 4 has seen: it publishes no other.
func (h *Home) Berry(name string) string {
	h.t.Helper()
	dir := h.Package(name, "1.0.0")
	if err := os.WriteFile(filepath.Join(dir, "yarn.lock"), nil, 0o600); err != nil {
		h.t.Fatal(err)
	}
	if got := h.Run(Yarn4, dir, nil, "yarn", "install"); got.Code != 0 {
		h.t.Fatalf("yarn install: %+v", got)
	}
	return dir
}

// Repository makes a repository with these packages, for workspaces, lerna and
// changesets: all is committed, so that lerna starts.
func (h *Home) Repository(name string, packages ...string) string {
	h.t.Helper()
	dir := filepath.Join("repositories", name)
	h.manifest(dir, map[string]any{"name": "root", "private": true, "version": "0.0.0", "workspaces": []string{"packages/*"}})
	for _, p := range packages {
		h.manifest(filepath.Join(dir, "packages", p), map[string]any{"name": p, "version": "1.0.0", "license": "MIT"})
	}
	h.Write(filepath.Join(dir, "lerna.json"), `{"version": "1.0.0", "npmClient": "npm"}`)
	h.Write(filepath.Join(dir, ".changeset", "config.json"), `{"changelog": false, "commit": false, "access": "public", "baseBranch": "main"}`)
	h.Write(filepath.Join(dir, "package-lock.json"), `{"name": "root", "lockfileVersion": 3, "packages": {}}`)
	h.Write(filepath.Join(dir, ".gitignore"), "node_modules\n.nx\n")
	h.commit(filepath.Join(h.dir, dir))
	return filepath.Join(h.dir, dir)
}

// Released makes a package that semantic-release finds a first release in, in a
// repository with an origin that it can push its tag to.
func (h *Home) Released(name string) string {
	h.t.Helper()
	origin := filepath.Join(h.dir, "origins", name+".git")
	if err := os.MkdirAll(origin, 0o755); err != nil {
		h.t.Fatal(err)
	}
	h.Git(origin, "init", "-q", "--bare")
	dir := filepath.Join("released", name)
	h.manifest(dir, map[string]any{"name": name, "version": "0.0.0", "license": "MIT",
		"repository": map[string]any{"type": "git", "url": "file://" + origin},
		"release": map[string]any{"branches": []string{"main"}, "repositoryUrl": "file://" + origin,
			"plugins": []string{"@semantic-release/commit-analyzer", "@semantic-release/npm"}}})
	dir = filepath.Join(h.dir, dir)
	h.commit(dir)
	h.Git(dir, "remote", "add", "origin", "file://"+origin)
	h.Git(dir, "push", "-q", "origin", "main")
	return dir
}

func (h *Home) commit(dir string) {
	h.t.Helper()
	h.Git(dir, "init", "-q")
	h.Git(dir, "add", "-A")
	h.Git(dir, "commit", "-qm", "feat: first")
}

// GemPackage makes a gem, built as it.gem, and gives its folder.
func (h *Home) GemPackage(name string) string {
	h.t.Helper()
	dir := filepath.Join("gems", name)
	h.Write(filepath.Join(dir, name+".gemspec"), "Gem::Specification.new do |s|\n  s.name = '"+name+"'\n  s.version = '1.0.0'\n"+
		"  s.summary = 'a test'\n  s.authors = ['a test']\n  s.files = []\n  s.license = 'MIT'\n  s.homepage = 'https://example.com'\nend\n")
	dir = filepath.Join(h.dir, dir)
	if built := h.Run(Gem, dir, nil, "gem", "build", name+".gemspec", "--output", "it.gem"); built.Code != 0 {
		h.t.Fatalf("gem build: %+v", built)
	}
	return dir
}
