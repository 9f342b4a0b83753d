package main

// Pins: which repository, by its ids, stands behind a project. They are this
// human's own knowledge, kept in a file of their own, so that a relay which puts
// somebody else's request under a project is found out. Only this subcommand
// writes the file, and only after a human has typed the repository's name.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

const (
	maxPins    = 1 << 20
	pinsHeader = "# Written by `cfa-responder pins`, which is how to change it.\n"
)

// pinsFile is the file's content.
type pinsFile struct {
	Issuers []issuerEntry           `yaml:"issuers,omitempty"`
	Pins    map[string][]trust.Rule `yaml:"pins"`
	// Links are hosts that a project's links may lead to, beside those that
	// their service is known by.
	Links map[string][]string `yaml:"links,omitempty"`
	// Match says of a project how its match codes are compared: matchType, always
	// typed. A project that is not named has them shown, unless a job or what it asks
	// for demands more.
	Match map[string]string `yaml:"match,omitempty"`
}

// How match codes are compared.
const (
	matchType  = "type"
	matchShown = "shown"
)

// typed are the projects whose match codes are always typed.
func (f pinsFile) typed() map[string]bool {
	all := map[string]bool{}
	for project, how := range f.Match {
		all[project] = how == matchType
	}
	return all
}

func (f pinsFile) checkMatch() error {
	for _, project := range slices.Sorted(maps.Keys(f.Match)) {
		name := wire.CleanName(project, 63)
		switch how := f.Match[project]; {
		case len(f.Pins[project]) == 0:
			return fmt.Errorf("match of %s: the project has no pins, so nothing of it is ever answered", name)
		case how != matchType && how != matchShown:
			return fmt.Errorf("match of %s: %q is neither %s nor %s", name, wire.Clean(how, 40), matchType, matchShown)
		}
	}
	return nil
}

// withMatch is f's match with another word for a project.
func (f pinsFile) withMatch(project, how string) map[string]string {
	all := maps.Clone(f.Match)
	if how == "" {
		return all
	}
	if all == nil {
		all = map[string]string{}
	}
	if all[project] = how; how == matchShown {
		delete(all, project)
	}
	return all
}

// issuerEntry is an issuer that no CI's name stands for: an enterprise server,
// a development issuer.
type issuerEntry struct {
	Name     string   `yaml:"name"`
	Provider string   `yaml:"provider"`
	URL      string   `yaml:"url"`
	IDs      []string `yaml:"ids,omitempty,flow"` // generic, jenkins: further claims that every pin has to name
}

func (e issuerEntry) issuer() (trust.Issuer, error) {
	p := ci.Find(e.Provider)
	if p == nil {
		var known []string
		for _, p := range ci.Providers {
			known = append(known, p.Name)
		}
		return trust.Issuer{}, fmt.Errorf("issuer %s: %q is no CI that is known here (%s)", wire.CleanName(e.Name, 63), wire.CleanName(e.Provider, 40), strings.Join(known, ", "))
	}
	p, err := p.Requiring(e.IDs)
	if err != nil {
		return trust.Issuer{}, fmt.Errorf("issuer %s: ids: %s", wire.CleanName(e.Name, 63), wire.Clean(err.Error(), 300))
	}
	return trust.Issuer{Name: e.Name, Provider: p, URL: e.URL}, nil
}

// parseIssuer reads NAME=URL or NAME:CI=URL. Without a CI, NAME is one, or
// GitHub is meant, whose enterprise server is what most people need this for.
func parseIssuer(s string) (issuerEntry, error) {
	name, url, ok := strings.Cut(s, "=")
	name, provider, _ := strings.Cut(name, ":")
	if !ok || name == "" || url == "" {
		return issuerEntry{}, usage("issuer %q: write NAME=URL or NAME:CI=URL, for example ghes:github=https://github.example.com/_services/token", wire.Clean(s, 200))
	}
	if provider == "" {
		if provider = "github"; ci.Find(name) != nil {
			provider = name
		}
	}
	e := issuerEntry{Name: name, Provider: provider, URL: url}
	if _, err := e.issuer(); err != nil {
		return e, usage("%w", err)
	}
	return e, nil
}

// book is the pins, checked and compiled.
type book struct {
	file    pinsFile
	policy  *trust.Policy  // nil: no pins
	issuers []trust.Issuer // those that the pins name or the human has configured
}

// unbound says whether a pin accepts tokens that name no key.
func (b book) unbound() bool {
	for _, rules := range b.file.Pins {
		for _, r := range rules {
			if slices.Contains(r.Allow, "unbound") {
				return true
			}
		}
	}
	return false
}

// compile checks f. given are issuers from the command line, which replace
// others of their name.
func (f pinsFile) compile(given []issuerEntry) (book, error) {
	b := book{file: f}
	all := map[string]trust.Issuer{}
	for _, i := range trust.Known() {
		all[i.Name] = i
	}
	for _, e := range f.Issuers {
		i, err := e.issuer()
		if err != nil {
			return b, err
		}
		if _, twice := all[e.Name]; twice {
			return b, fmt.Errorf("issuer %s: that name is taken; give yours another", wire.CleanName(e.Name, 63))
		}
		all[e.Name] = i
	}
	needed := map[string]bool{}
	for _, e := range given {
		i, err := e.issuer()
		if err != nil {
			return b, err
		}
		all[e.Name], needed[e.Name] = i, true
	}
	for _, rules := range f.Pins {
		for _, r := range rules {
			needed[r.Provider] = true
		}
	}
	list := func(keep func(string) bool) (out []trust.Issuer) {
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if keep(name) {
				out = append(out, all[name])
			}
		}
		return out
	}
	everyone := list(func(string) bool { return true })
	if len(f.Pins) > 0 {
		var err error
		if b.policy, err = trust.Compile(f.Pins, everyone); err != nil {
			return b, err
		}
	}
	if err := f.checkLinks(); err != nil {
		return b, err
	}
	if err := f.checkMatch(); err != nil {
		return b, err
	}
	// Only whose tokens can matter: the keys of a CI that nobody here uses need
	// not be fetched.
	if b.issuers = everyone; len(needed) > 0 {
		b.issuers = list(func(name string) bool { return needed[name] })
	}
	if b.policy != nil {
		b.issuers = append(b.issuers, b.policy.Issuers()...)
	}
	// The form of the issuers' addresses is checked where their keys are kept.
	if _, err := trust.NewKeys(everyone, trust.KeysOptions{}); err != nil {
		return b, err
	}
	return b, nil
}

const maxLinkHosts = 50 // of a project

func (f pinsFile) checkLinks() error {
	for _, project := range slices.Sorted(maps.Keys(f.Links)) {
		hosts := f.Links[project]
		name := wire.CleanName(project, 63)
		switch {
		case len(f.Pins[project]) == 0:
			return fmt.Errorf("links of %s: the project has no pins, so nothing of it is ever followed", name)
		case len(hosts) > maxLinkHosts:
			return fmt.Errorf("links of %s: more than %d hosts", name, maxLinkHosts)
		}
		for i, host := range hosts {
			if err := wire.CheckLinkHost(host); err != nil {
				return fmt.Errorf("links of %s: %q is %w", name, wire.Clean(host, 80), err)
			}
			if slices.Contains(hosts[:i], host) {
				return fmt.Errorf("links of %s: %s stands there twice", name, host)
			}
		}
	}
	return nil
}

func readPins(path string) (pinsFile, error) {
	data, err := readOwn(path, maxPins, 0o022)
	if errors.Is(err, fs.ErrNotExist) {
		return pinsFile{}, nil
	}
	if err != nil {
		return pinsFile{}, err
	}
	f, err := parsePins(data)
	if err != nil {
		return f, usage("%s: %w", path, err)
	}
	return f, nil
}

var yamlNoise = regexp.MustCompile(`^yaml: (unmarshal errors:\n\s*)?`)

func parsePins(data []byte) (pinsFile, error) {
	var f pinsFile
	if len(data) > maxPins {
		return f, fmt.Errorf("%d bytes, at most %d are read", len(data), maxPins)
	}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		text := yamlNoise.ReplaceAllString(err.Error(), "")
		text = strings.ReplaceAll(text, " in type main.pinsFile", "")
		return pinsFile{}, errors.New(wire.Clean(strings.ReplaceAll(text, "\n", ";"), 600))
	}
	var second any
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return pinsFile{}, errors.New("a second YAML document stands in the file")
	}
	return f, nil
}

// encode gives the file's bytes.
func (f pinsFile) encode() ([]byte, error) {
	var b bytes.Buffer
	b.WriteString(pinsHeader)
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(f); err != nil {
		return nil, err
	}
	return b.Bytes(), enc.Close()
}

// writePins replaces the file whole, so that a responder which reads it in
// between finds the old one or the new one.
func writePins(path string, f pinsFile) (err error) {
	data, err := f.encode()
	if err != nil {
		return fmt.Errorf("write pins: %w", err)
	}
	// What could not be read back would lock its human out.
	if back, err := parsePins(data); err != nil {
		return fmt.Errorf("write pins: what would be written does not read back: %w", err)
	} else if _, err := back.compile(nil); err != nil {
		return usage("%w", err)
	}
	if err := replace(path, data); err != nil {
		return fmt.Errorf("write pins: %w", err)
	}
	return nil
}

type pinsCmd struct {
	Pins string `help:"The pins file." or:"CFA_PINS" type:"path" placeholder:"FILE"`

	List     pinsListCmd     `cmd:"" help:"Print the pins."`
	Add      pinsAddCmd      `cmd:"" help:"Pin a repository to a project."`
	Remove   pinsRemoveCmd   `cmd:"" help:"Remove a project's pins."`
	Match    pinsMatchCmd    `cmd:"" help:"Say whether you type a project's match codes, or compare those that are shown."`
	LinkHost pinsLinkHostCmd `cmd:"" name:"link-host" help:"Let links of a project's jobs lead to a host that their service is not known by."`

	Issuer pinsIssuerCmd `cmd:"" help:"Name an issuer that no CI's name stands for, such as an enterprise server, for pins to use."`
}

// open reads the pins file, wherever it is.
func (c *pinsCmd) open(env environ) (path string, f pinsFile, err error) {
	if path, err = env.file(c.Pins, "pins.yaml"); err != nil {
		return path, f, err
	}
	f, err = readPins(path)
	return path, f, err
}

type pinsListCmd struct{}

func (c *pinsListCmd) Run(parent *pinsCmd, std stdio, env environ) error {
	path, f, err := parent.open(env)
	if err != nil {
		return err
	}
	if _, err := f.compile(nil); err != nil {
		return usage("%s: %w", path, err)
	}
	if len(f.Pins) == 0 {
		fmt.Fprintf(std.err, "There are no pins in %s, so nothing can be answered; cfa-responder pins add --help says how to add one.\n", path)
		return nil
	}
	for _, e := range f.Issuers {
		fmt.Fprintf(std.out, "issuer %s: %s (%s)\n", e.Name, e.URL, e.Provider)
		if len(e.IDs) > 0 {
			fmt.Fprintf(std.out, "  %-22s %s\n", "every pin names", strings.Join(e.IDs, ", "))
		}
	}
	for _, project := range slices.Sorted(maps.Keys(f.Pins)) {
		for i, r := range f.Pins[project] {
			fmt.Fprintf(std.out, "%s, pin %d:\n", project, i+1)
			printRule(std.out, r)
		}
		printLinks(std.out, f.Links[project])
		printMatch(std.out, f.Match[project])
	}
	return nil
}

func printLinks(w io.Writer, hosts []string) {
	if len(hosts) > 0 {
		fmt.Fprintf(w, "  %-22s %s\n", "links may lead to", strings.Join(hosts, ", "))
	}
}

func printMatch(w io.Writer, how string) {
	if how == matchType {
		fmt.Fprintf(w, "  %-22s %s\n", "match code", "always typed")
	}
}

func printRule(w io.Writer, r trust.Rule) {
	fmt.Fprintf(w, "  %-22s %s\n", "provider", wire.CleanName(r.Provider, 63))
	for _, name := range slices.Sorted(maps.Keys(r.Claims)) {
		var values []string
		for _, v := range r.Claims[name] {
			text := wire.Clean(v.Text, 1000)
			if v.Pattern {
				text = "what matches " + text
			}
			values = append(values, text)
		}
		fmt.Fprintf(w, "  %-22s %s\n", wire.CleanName(name, 100), strings.Join(values, " or "))
	}
	if len(r.Allow) > 0 {
		fmt.Fprintf(w, "  %-22s %s\n", "allowed although risky", strings.Join(r.Allow, ", "))
	}
}

type pinsAddCmd struct {
	Project string `arg:"" help:"The project, as the relay calls it."`

	Provider string `help:"Whose ID tokens: github, circleci, gitlab, buildkite, google-cloud-build, or a name given with cfa-responder pins issuer. Default: github." default:"github" placeholder:"NAME"`

	Repository        string   `help:"The repository, OWNER/NAME." placeholder:"OWNER/NAME"`
	RepositoryID      string   `help:"Its id, which stays when the name changes hands: gh api repos/OWNER/NAME --jq .id" placeholder:"ID"`
	RepositoryOwnerID string   `help:"Its owner's id: gh api repos/OWNER/NAME --jq .owner.id" placeholder:"ID"`
	Workflow          string   `help:"The workflow's file in .github/workflows, such as release.yml." placeholder:"FILE" xor:"workflow"`
	WorkflowRef       string   `help:"The whole workflow_ref claim, with its ref." placeholder:"REF" xor:"workflow"`
	Environment       string   `help:"The job's environment." placeholder:"NAME"`
	Ref               string   `help:"The ref that the job runs for, such as refs/heads/main." placeholder:"REF"`
	Claim             []string `help:"Any other claim, NAME=VALUE; again for another value or claim." placeholder:"NAME=VALUE" sep:"none"`
	ClaimPattern      []string `help:"A claim that must match a regular expression (RE2) as a whole, NAME=PATTERN." placeholder:"NAME=PATTERN" sep:"none"`
	Allow             []string `help:"A danger that is meant: self-hosted, pull_request_target, unbound, ..." placeholder:"WORD"`

	LinkHost []string `help:"A host that links of the project's jobs may lead to, beside those that their service is known by; again for another." placeholder:"HOST" sep:"none"`

	Match string `help:"type: you always type the match code of the project's prompts, read off the job's log. shown: you do no more." enum:",type,shown" default:"" placeholder:"type|shown"`

	Confirm string `help:"The repository's name, typed already: for scripts." placeholder:"OWNER/NAME"`
}

func (c *pinsAddCmd) Run(ctx context.Context, parent *pinsCmd, std stdio, env environ) error {
	if err := wire.CheckProject(c.Project); err != nil {
		return usage("project %q: %w", wire.Clean(c.Project, 80), err)
	}
	path, f, err := parent.open(env)
	if err != nil {
		return err
	}
	rule, err := c.rule()
	if err != nil {
		return err
	}
	repository, err := repositoryOf(rule, f)
	if err != nil {
		return err
	}
	for i, pin := range f.Pins[c.Project] {
		if sameRule(pin, rule) {
			return usage("that is pin %d of %s already, so nothing was changed; cfa-responder pins list shows it", i+1, c.Project)
		}
	}
	next := pinsFile{Issuers: f.Issuers, Pins: maps.Clone(f.Pins), Links: f.withLinks(c.Project, c.LinkHost), Match: f.withMatch(c.Project, c.Match)}
	if next.Pins == nil {
		next.Pins = map[string][]trust.Rule{}
	}
	next.Pins[c.Project] = append(slices.Clone(f.Pins[c.Project]), rule)
	if _, err := next.compile(nil); err != nil {
		return usage("%w", err)
	}

	fmt.Fprintf(std.err, "This lets a job of %s ask you for codes in the name of the project %s:\n", wire.CleanName(repository, 200), c.Project)
	printRule(std.err, rule)
	printLinks(std.err, c.LinkHost)
	printMatch(std.err, c.Match)
	if n := len(f.Pins[c.Project]); n > 0 {
		already := "has one pin already, which stays"
		if n > 1 {
			already = fmt.Sprintf("has %d pins already, which stay", n)
		}
		fmt.Fprintf(std.err, "The project %s; a job needs to fit one.\n", already)
	}
	if wider := c.wider(); wider != "" {
		fmt.Fprintln(std.err, wider)
	}
	typed := c.Confirm
	if typed == "" {
		if typed, err = askLine(ctx, std, "Type the repository's name to pin it: "); err != nil {
			return err
		}
	}
	if typed != repository {
		return usage("that is not the repository's name as the CI writes it, so nothing was pinned")
	}
	if err := writePins(path, next); err != nil {
		return err
	}
	fmt.Fprintf(std.err, "Pinned, in %s. A responder that is running notices by itself.\n", path)
	return nil
}

// withLinks is f's links with some more hosts of a project.
func (f pinsFile) withLinks(project string, hosts []string) map[string][]string {
	all := maps.Clone(f.Links)
	for _, host := range hosts {
		if all == nil {
			all = map[string][]string{}
		}
		if !slices.Contains(all[project], host) {
			all[project] = append(slices.Clone(all[project]), host)
		}
	}
	return all
}

type pinsMatchCmd struct {
	Project string `arg:"" help:"The project."`
	How     string `arg:"" enum:"type,shown" help:"type: you always type the match code, read off the job's log. shown: the prompt shows it, to compare, unless the job or what it asks for wants it typed."`
}

func (c *pinsMatchCmd) Run(parent *pinsCmd, std stdio, env environ) error {
	path, f, err := parent.open(env)
	if err != nil {
		return err
	}
	f.Match = f.withMatch(c.Project, c.How)
	if len(f.Pins[c.Project]) == 0 {
		return usage("%s has no pins in %s; cfa-responder pins list shows those that there are", wire.CleanName(c.Project, 63), path)
	}
	if err := writePins(path, f); err != nil {
		return err
	}
	said := "You type the match code of each of its prompts, in %s. A responder that is running notices by itself.\n"
	if c.How == matchShown {
		said = "Its match codes are shown, where neither the job nor what it asks for wants them typed, in %s. A responder that is running notices by itself.\n"
	}
	fmt.Fprintf(std.err, said, path)
	return nil
}

type pinsLinkHostCmd struct {
	Project string `arg:"" help:"The project."`
	Host    string `arg:"" help:"The host, as a link spells it, with its port if it names one: login.example.com."`

	Confirm string `help:"The host, typed already: for scripts." placeholder:"HOST"`
	Remove  bool   `help:"Take it off again."`
}

func (c *pinsLinkHostCmd) Run(ctx context.Context, parent *pinsCmd, std stdio, env environ) error {
	path, f, err := parent.open(env)
	if err != nil {
		return err
	}
	if err := wire.CheckLinkHost(c.Host); err != nil {
		return usage("host %q: %w", wire.Clean(c.Host, 80), err)
	}
	if c.Remove {
		if !slices.Contains(f.Links[c.Project], c.Host) {
			return usage("%s is no such host of %s; cfa-responder pins list shows those that there are", c.Host, wire.CleanName(c.Project, 63))
		}
		if f.Links[c.Project] = slices.DeleteFunc(f.Links[c.Project], func(h string) bool { return h == c.Host }); len(f.Links[c.Project]) == 0 {
			delete(f.Links, c.Project)
		}
		if err := writePins(path, f); err != nil {
			return err
		}
		fmt.Fprintf(std.err, "Taken off, in %s.\n", path)
		return nil
	}
	f.Links = f.withLinks(c.Project, []string{c.Host})
	if _, err := f.compile(nil); err != nil {
		return usage("%w", err)
	}
	fmt.Fprintf(std.err, "This lets jobs of the project %s show you links to https://%s, which open in your browser, with whatever you are logged in to there.\n", c.Project, c.Host)
	typed := c.Confirm
	if typed == "" {
		if typed, err = askLine(ctx, std, "Type the host to allow it: "); err != nil {
			return err
		}
	}
	if typed != c.Host {
		return usage("that is not the host, so nothing was changed")
	}
	if err := writePins(path, f); err != nil {
		return err
	}
	fmt.Fprintf(std.err, "Allowed, in %s. A responder that is running notices by itself.\n", path)
	return nil
}

// sameRule says whether a and b say the same, in the same words: one of them would
// be a second line to remove when the first is.
func sameRule(a, b trust.Rule) bool {
	x, errX := yaml.Marshal(a)
	y, errY := yaml.Marshal(b)
	return errX == nil && errY == nil && bytes.Equal(x, y)
}

// wider says what else fits the pin, and which flags that were not given narrow
// it down; "" where nothing is left to say. Claims that are given by their names
// may well do: which, only their CI knows.
func (c *pinsAddCmd) wider() string {
	anyWorkflow, anyEnvironment := c.Workflow == "" && c.WorkflowRef == "", c.Environment == ""
	switch {
	case len(c.Claim) > 0 || len(c.ClaimPattern) > 0:
	case anyWorkflow && anyEnvironment:
		return "Any workflow of the repository fits, in any environment or none; --workflow and --environment narrow it down."
	case anyWorkflow:
		return "Any workflow of the repository that uses this environment fits; --workflow narrows it down."
	case anyEnvironment:
		return "Any environment fits, and none; --environment narrows it down."
	}
	return ""

}

// rule makes a rule of the flags. Which claims there are is for Compile to say.
func (c *pinsAddCmd) rule() (trust.Rule, error) {
	r := trust.Rule{Provider: c.Provider, Claims: map[string][]trust.Value{}, Allow: c.Allow}
	exact := func(claim, value string) {
		if value != "" {
			r.Claims[claim] = append(r.Claims[claim], trust.Value{Text: value})
		}
	}
	exact("repository", c.Repository)
	exact("repository_id", c.RepositoryID)
	exact("repository_owner_id", c.RepositoryOwnerID)
	exact("environment", c.Environment)
	exact("ref", c.Ref)
	exact("workflow_ref", c.WorkflowRef)
	if c.Workflow != "" {
		if c.Repository == "" {
			return r, usage("--workflow is a file of the repository; say which with --repository OWNER/NAME")
		}
		file := c.Repository + "/.github/workflows/" + strings.TrimPrefix(c.Workflow, ".github/workflows/")
		if c.Ref != "" {
			exact("workflow_ref", file+"@"+c.Ref)
		} else {
			r.Claims["workflow_ref"] = []trust.Value{{Text: regexp.QuoteMeta(file) + "@refs/.+", Pattern: true}}
		}
	}
	for _, list := range []struct {
		flag    string
		values  []string
		pattern bool
	}{{"claim", c.Claim, false}, {"claim-pattern", c.ClaimPattern, true}} {
		for _, s := range list.values {
			name, value, ok := strings.Cut(s, "=")
			if !ok || name == "" || value == "" {
				return r, usage("--%s %q: write NAME=VALUE", list.flag, wire.Clean(s, 200))
			}
			r.Claims[name] = append(r.Claims[name], trust.Value{Text: value, Pattern: list.pattern})
		}
	}
	return r, nil
}

// repositoryOf is the repository that a rule is about, as a prompt would show it:
// what the human has to type. It comes from the CI's own reading of the claims,
// so that it is right for each.
func repositoryOf(r trust.Rule, f pinsFile) (string, error) {
	p := ci.Find(r.Provider)
	for _, e := range f.Issuers {
		if e.Name == r.Provider {
			p = ci.Find(e.Provider)
		}
	}
	if p == nil {
		return "", usage("provider %q is neither a CI that is known here nor one of your issuers; name it with cfa-responder pins issuer", wire.Clean(r.Provider, 63))
	}
	claims := ci.Claims{}
	for _, claim := range p.Claims {
		values := r.Claims[claim.Name]
		if len(values) == 0 {
			values = r.Claims[claim.Name[strings.LastIndexByte(claim.Name, '/')+1:]]
		}
		if len(values) == 1 && !values[0].Pattern {
			claims[claim.Name] = values[0].Text
		}
	}
	name := p.Facts(claims).Repository
	if name == "" {
		return "", usage("the pin does not name one repository: say which with --repository OWNER/NAME (or, where a CI has another claim for it, such as vcs-origin, with --claim)")
	}
	return name, nil
}

// askLine asks on the terminal, or reads a line of stdin where there is none.
func askLine(ctx context.Context, std stdio, question string) (string, error) {
	return askUpTo(ctx, std, question, maxLine)
}

// askUpTo is askLine for a line of up to so many bytes.
func askUpTo(ctx context.Context, std stdio, question string, most int64) (string, error) {
	in, out := std.in, std.err
	dev, err := std.terminal()
	switch {
	case err == nil:
		defer dev.Close()
		in, out = dev.in, dev.out
	case !errors.Is(err, errNoTerminal):
		return "", err
	}
	fmt.Fprint(out, question)
	type result struct {
		line string
		err  error
	}
	done := make(chan result, 1)
	go func() {
		line, err := bufio.NewReader(io.LimitReader(in, most)).ReadString('\n')
		if errors.Is(err, io.EOF) && line != "" {
			err = nil
		}
		done <- result{strings.TrimSpace(line), err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return "", usage("nothing was typed, so nothing was changed")
		}
		return r.line, nil
	case <-ctx.Done():
		fmt.Fprintln(out)
		return "", errors.New("interrupted; nothing was changed")
	}
}

type pinsRemoveCmd struct {
	Project string `arg:"" help:"The project."`
	Pin     int    `help:"Only the pin with this number in pins list." placeholder:"N"`
}

func (c *pinsRemoveCmd) Run(parent *pinsCmd, std stdio, env environ) error {
	path, f, err := parent.open(env)
	if err != nil {
		return err
	}
	rules, ok := f.Pins[c.Project]
	if !ok {
		return usage("%s has no pins in %s; cfa-responder pins list shows those that there are", wire.CleanName(c.Project, 63), path)
	}
	switch {
	case c.Pin < 0 || c.Pin > len(rules):
		return usage("%s has no pin %d; cfa-responder pins list shows those that there are", wire.CleanName(c.Project, 63), c.Pin)
	case c.Pin > 0 && len(rules) > 1:
		f.Pins[c.Project] = slices.Delete(rules, c.Pin-1, c.Pin)
	default:
		delete(f.Pins, c.Project)
		delete(f.Links, c.Project)
		delete(f.Match, c.Project)
	}
	if err := writePins(path, f); err != nil {
		return err
	}
	fmt.Fprintf(std.err, "Removed, in %s. A responder that is running notices by itself.\n", path)
	return nil
}

type pinsIssuerCmd struct {
	Name     string   `help:"What pins call it." required:"" placeholder:"NAME"`
	Provider string   `help:"Which CI it is: github, circleci, forgejo, gitlab, jenkins, generic, ... Default: github." default:"github" placeholder:"NAME"`
	URL      string   `help:"The exact issuer of its ID tokens, such as https://github.example.com/_services/token." placeholder:"URL"`
	ID       []string `name:"id" help:"generic and jenkins: a further claim that every pin has to name; again for another." placeholder:"CLAIM"`
	Remove   bool     `help:"Forget it."`
}

func (c *pinsIssuerCmd) Run(parent *pinsCmd, std stdio, env environ) error {
	path, f, err := parent.open(env)
	if err != nil {
		return err
	}
	kept := len(f.Issuers)
	f.Issuers = slices.DeleteFunc(slices.Clone(f.Issuers), func(e issuerEntry) bool { return e.Name == c.Name })
	switch {
	case c.Remove && kept == len(f.Issuers):
		return usage("there is no issuer %s in %s", wire.CleanName(c.Name, 63), path)
	case c.Remove:
	case c.URL == "":
		return usage("say which issuer with --url")
	case ci.Find(c.Name) != nil:
		return usage("%s alone stands for that CI's own issuer; give this one another name, such as my-%s", c.Name, c.Name)
	default:
		f.Issuers = append(f.Issuers, issuerEntry{Name: c.Name, Provider: c.Provider, URL: c.URL, IDs: c.ID})
	}
	if _, err := f.compile(nil); err != nil {
		return usage("%w", err)
	}
	if err := writePins(path, f); err != nil {
		return err
	}
	if c.Remove {
		fmt.Fprintf(std.err, "Forgotten, in %s.\n", path)
	} else {
		fmt.Fprintf(std.err, "Named, in %s. It counts for pins that say --provider %s.\n", path, c.Name)
	}
	return nil
}
