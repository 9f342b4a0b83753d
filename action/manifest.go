package main

// What a package's tarball says of itself.
//
// The rule it keeps: what a human is shown is what npm reads. Where another reader
// could find another name or version, the tarball is refused.

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/continuousauth/action/internal/service"
)

var errManifests = errors.New("it has more than one package.json, of which npm and another reader may take different ones")

// isManifest says whether npm, on whichever machine, might unpack an entry as the
// package.json of its package: without the first part of the name, in any spelling
// that a file system takes for the same.
func isManifest(entry string) bool {
	_, name, inFolder := strings.Cut(strings.ReplaceAll(entry, `\`, "/"), "/")
	return inFolder && strings.EqualFold(path.Clean("/"+name), "/package.json")
}

// published is what a tool's row wants to know of it.
func (t *tarball) published() service.Package {
	return service.Package{Name: t.name, Version: t.version, Registry: t.registry, ScopeRegistry: t.scope}
}

// describe takes in a package.json. Its keys are compared as npm compares them:
// encoding/json would take "Name" for "name".
func (t *tarball) describe(data []byte) error {
	var fields, config map[string]json.RawMessage
	err := json.Unmarshal(data, &fields)
	if fields["publishConfig"] != nil && err == nil {
		err = json.Unmarshal(fields["publishConfig"], &config)
	}
	for _, f := range []struct {
		value json.RawMessage
		to    any
	}{{fields["name"], &t.name}, {fields["version"], &t.version}, {fields["private"], &t.private}} {
		if f.value != nil && err == nil {
			err = json.Unmarshal(f.value, f.to)
		}
	}
	from := func(key string) (registry string) {
		if config[key] != nil && json.Unmarshal(config[key], &registry) != nil {
			return ""
		}
		return registry
	}
	t.registry = from("registry")
	if scope := t.published().Scope(); scope != "" {
		t.scope = from(scope + ":registry")
	}
	switch {
	case err != nil:
		return fmt.Errorf("its package.json cannot be read: %w", err)
	case t.name == "" || t.version == "":
		return errors.New("its package.json has no name or no version")
	}
	return nil
}
