package trust

// This file is the source form of a rule, as people write it in a relay's
// projects and programs write it into a responder's pins:
//
//	- provider: github
//	  repository_id: "9384267"
//	  repository_owner_id: "13409222"
//	  workflow_ref: electron/electron/.github/workflows/release.yml@refs/heads/main
//	  environment: npm
//	  ref: {pattern: 'refs/tags/v[0-9]+\.[0-9]+\.[0-9]+'}
//	  event_name: [push, workflow_dispatch]
//	  allow: [self-hosted]
//
// It is read from YAML's nodes, so that every error has its line, a value stays
// as it was written, and nothing is taken that only looks like a value: a rule
// that says something else than its writer meant is an open door.

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/continuousauth/action/internal/wire"
)

// Rule is one rule: all of its claims must fit a job.
type Rule struct {
	// Provider is the name of the issuer, as configuration calls it.
	Provider string
	// Claims are the accepted values by claim name: the full name, or its last
	// part where that is unambiguous (org-id for oidc.circleci.com/org-id).
	Claims map[string][]Value
	// Allow names the dangers that are meant.
	Allow []string
	// Line is where the rule stands in its file; 0 if in none.
	Line int

	allowLine int
}

// Value is one accepted value of a claim.
type Value struct {
	Text string
	// Pattern says that Text is a regular expression (RE2), which must match
	// the whole of the claim.
	Pattern bool
	// Line is where it stands in its file; 0 if in none.
	Line int

	boolean bool // written as true or false without quotes
}

// Limits of a rule.
const (
	maxRules   = 100  // of a project
	maxValues  = 50   // of a claim
	maxPattern = 500  // bytes
	maxValue   = 1000 // bytes
	maxClaims  = 40   // of a rule
)

func at(n *yaml.Node, format string, args ...any) error {
	return fmt.Errorf("line %d: "+format, append([]any{n.Line}, args...)...)
}

// UnmarshalYAML reads a rule strictly. Which claims and words there are depends
// on the provider and is checked by [Compile].
func (r *Rule) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return at(n, "a rule is a mapping of claims to values, beginning with `provider:`")
	}
	*r = Rule{Claims: map[string][]Value{}, Line: n.Line}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		name := key.Value
		switch {
		case key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" || name == "":
			// Also YAML's merge key, by which part of a rule would stand
			// somewhere else.
			return at(key, "a rule's names are plain words, such as repository_id")
		case seen[name]:
			return at(key, "%s stands twice in this rule; give one list of values", quote(wire.CleanName(name, 60)))
		}
		seen[name] = true
		var err error
		switch name {
		case "provider":
			r.Provider, err = word(value)
		case "allow":
			r.allowLine = key.Line
			r.Allow, err = words(value)
		default:
			if len(r.Claims) == maxClaims {
				return at(key, "more than %d claims in one rule", maxClaims)
			}
			r.Claims[name], err = values(name, value)
		}
		if err != nil {
			return err
		}
	}
	if r.Provider == "" {
		return at(n, "the rule has no `provider:`, so it does not say whose tokens it is about")
	}
	return nil
}

func word(n *yaml.Node) (string, error) {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" || n.Value == "" || len(n.Value) > 100 {
		return "", at(n, "one plain word is expected here")
	}
	return n.Value, nil
}

func words(n *yaml.Node) ([]string, error) {
	if n.Kind != yaml.SequenceNode || len(n.Content) == 0 || len(n.Content) > maxValues {
		return nil, at(n, "`allow` is a list of words, such as [self-hosted]; leave it out to allow nothing")
	}
	var out []string
	for _, item := range n.Content {
		w, err := word(item)
		if err != nil {
			return nil, err
		}
		out = append(out, w)
	}
	return out, nil
}

func values(name string, n *yaml.Node) ([]Value, error) {
	if n.Kind != yaml.SequenceNode {
		v, err := value(name, n)
		if err != nil {
			return nil, err
		}
		return []Value{v}, nil
	}
	if len(n.Content) == 0 {
		return nil, at(n, "%s has an empty list of values, which nothing fits; leave the claim out or give a value", wire.CleanName(name, 60))
	}
	if len(n.Content) > maxValues {
		return nil, at(n, "%s has %d values; at most %d are allowed", wire.CleanName(name, 60), len(n.Content), maxValues)
	}
	var out []Value
	for _, item := range n.Content {
		v, err := value(name, item)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// decimal is the only spelling of a number of which YAML's readers agree what it
// is: 0777, 0x1F and 1_000 are different numbers to different readers.
var decimal = regexp.MustCompile(`^(0|[1-9][0-9]{0,30})$`)

func value(name string, n *yaml.Node) (Value, error) {
	name = wire.CleanName(name, 60)
	v := Value{Line: n.Line}
	switch n.Kind {
	case yaml.ScalarNode:
		switch n.ShortTag() {
		case "!!str":
		case "!!bool":
			if n.Value != "true" && n.Value != "false" {
				return v, at(n, "%s: write true or false", name)
			}
			v.boolean = true
		case "!!int":
			if !decimal.MatchString(n.Value) {
				return v, at(n, "%s: put this number in quotes; without them it can be read in several ways", name)
			}
		case "!!null":
			return v, at(n, "%s has no value", name)
		default:
			return v, at(n, "%s: put this value in quotes; without them YAML takes it for something else than text", name)
		}
		v.Text = n.Value
	case yaml.MappingNode:
		if len(n.Content) != 2 || n.Content[0].Value != "pattern" || n.Content[1].Kind != yaml.ScalarNode || n.Content[1].ShortTag() != "!!str" {
			return v, at(n, "%s: a value is a text, a list of texts, or {pattern: 'a regular expression'}", name)
		}
		v.Text, v.Pattern = n.Content[1].Value, true
	case yaml.AliasNode:
		return v, at(n, "%s: write the value itself, not a YAML alias of another", name)
	default:
		return v, at(n, "%s: a value is a text, a list of texts, or {pattern: 'a regular expression'}", name)
	}
	return v, nil
}

// MarshalYAML writes the rule as [Rule.UnmarshalYAML] reads it, in one order, so
// that a program can write a pins file that a person can compare with the last.
func (r Rule) MarshalYAML() (any, error) {
	text := func(s string) *yaml.Node {
		n := &yaml.Node{}
		n.SetString(s) // quotes what would be read as something else
		return n
	}
	out := &yaml.Node{Kind: yaml.MappingNode}
	out.Content = append(out.Content, text("provider"), text(r.Provider))
	for _, name := range slices.SortedFunc(maps.Keys(r.Claims), byName) {
		list := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, v := range r.Claims[name] {
			n := text(v.Text)
			switch {
			case v.Pattern:
				n = &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle, Content: []*yaml.Node{text("pattern"), n}}
			case v.boolean:
				n = &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: v.Text}
			}
			list.Content = append(list.Content, n)
		}
		one := list
		if len(list.Content) == 1 {
			one = list.Content[0]
		}
		out.Content = append(out.Content, text(name), one)
	}
	if len(r.Allow) > 0 {
		list := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, w := range r.Allow {
			list.Content = append(list.Content, text(w))
		}
		out.Content = append(out.Content, text("allow"), list)
	}
	return out, nil
}

// byName puts ids first: they decide, the rest narrows down.
func byName(a, b string) int {
	if x, y := isID(a), isID(b); x != y {
		if x {
			return -1
		}
		return 1
	}
	return strings.Compare(a, b)
}

func isID(name string) bool { return strings.HasSuffix(name, "_id") || strings.HasSuffix(name, "-id") }
