package main

// A relay's first file. What it asks, it also takes as flags; what it writes has
// been read back by the same code that `serve` reads it with.

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/term"

	"github.com/continuousauth/action/internal/broker"
	"github.com/continuousauth/action/internal/wire"
)

type initCmd struct {
	Config string `required:"" placeholder:"FILE" env:"CFA_RELAY_CONFIG" help:"The file to write. One that is there is never overwritten."`

	Host      string `placeholder:"NAME" help:"The relay's name, as clients reach it: cfa.example.com."`
	NATS      string `placeholder:"HOST:PORT" default:"0.0.0.0:4222" help:"Where jobs and responders connect."`
	Websocket string `placeholder:"HOST:PORT" default:"0.0.0.0:443" help:"Where they connect by WebSocket; empty: nowhere."`

	Certificate  string `enum:",acme,files" default:"" placeholder:"acme|files" help:"acme: got from a certificate authority, and renewed, by itself; files: named by --cert and --key. None on loopback."`
	AgreeToTerms bool   `help:"You agree to the terms of the authority: https://letsencrypt.org/repository/, or those of --directory."`
	Email        string `placeholder:"ADDRESS" help:"Where the authority reaches you; optional."`
	Directory    string `placeholder:"URL" help:"The ACME directory of another authority than Let's Encrypt."`
	CAFile       string `placeholder:"FILE" help:"Whom to trust when asking it, in PEM, if it is a private one."`
	Cert         string `placeholder:"FILE" help:"The certificate with its chain, in PEM."`
	Key          string `placeholder:"FILE" help:"Its key."`

	Data    string `placeholder:"DIR" default:"/var/lib/cfa" help:"The directory for the record."`
	Metrics string `placeholder:"HOST:PORT" default:"127.0.0.1:9464" help:"Where metrics and health are served; empty: nowhere."`

	Project  string   `placeholder:"NAME" help:"The first project."`
	Provider string   `placeholder:"CI" help:"The CI that its jobs run on: github, circleci, gitlab, buildkite or google-cloud-build."`
	Claim    []string `placeholder:"NAME=VALUE" sep:"none" help:"A claim that its jobs' ID tokens must have (repeat): repository_id=612345678."`
	Pattern  []string `placeholder:"NAME=REGEXP" sep:"none" help:"The same with a regular expression that must match the whole value (repeat)."`

	Responder string `placeholder:"NAME" help:"Who answers."`
	Connect   string `placeholder:"KEY" help:"Their connecting key, U…, as cfa-responder keygen prints it."`
	Sign      string `placeholder:"KEY" help:"Their signing key, A…."`

	NoResponder bool `help:"Nobody answers yet: they are invited once the relay runs, with cfa-relay invite."`

	Group string `placeholder:"GROUP" help:"The group that may read the file. Default: cfa, where there is one and root runs this."`
}

// question is one thing that the file needs.
type question struct {
	flag, text, proposal string
	value                *string
	check                func(string) error
}

// need says that a value is missing.
func need(check func(string) error) func(string) error {
	return func(s string) error {
		if s == "" {
			return errors.New("is needed")
		}
		if check == nil {
			return nil
		}
		return check(s)
	}
}

// asked is the claims that are asked for, by CI: those that say whose job it is.
var asked = map[string][]question{
	"github": {
		{flag: "repository_id", text: "The repository's id (gh api repos/OWNER/NAME --jq .id)"},
		{flag: "repository_owner_id", text: "Its owner's id (gh api repos/OWNER/NAME --jq .owner.id)"},
	},
	"circleci": {
		{flag: "org-id", text: "The organization's id (Organization Settings > Overview)"},
		{flag: "project-id", text: "The project's id (Project Settings > Overview)"},
		{flag: "vcs-origin", text: "The repository (github.com/OWNER/NAME)"},
	},
	"gitlab":             {{flag: "project_id", text: "The project's id"}, {flag: "namespace_id", text: "Its namespace's id"}},
	"buildkite":          {{flag: "organization_id", text: "The organization's id"}, {flag: "pipeline_id", text: "The pipeline's id"}},
	"google-cloud-build": {{flag: "sub", text: "The service account's id"}},
}

// tags is what a release is, where the CI's tokens say a ref: proposed on a
// terminal.
var tags = map[string]string{"github": "ref", "circleci": "vcs-ref"}

// Run asks for what the flags do not say, and writes the file.
func (c *initCmd) Run(io stdio) error {
	if _, err := os.Lstat(c.Config); err == nil {
		return &exit{exitConfig, fmt.Errorf("%s is there already and stays as it is; edit it, or name another file", c.Config)}
	}
	if err := c.complete(io); err != nil {
		return err
	}
	text := c.text()
	// What was answered must be what the relay understands, before anything is on
	// disk.
	config, err := broker.ParseConfig([]byte(text), filepath.Dir(c.Config))
	if err != nil {
		return &exit{exitConfig, fmt.Errorf("with these answers the relay would not start, so nothing was written: %w", err)}
	}
	if err := c.write(text); err != nil {
		return err
	}
	fmt.Fprintf(io.out, "wrote %s: relay %s, project %s\n", c.Config, config.Host, c.Project)
	if c := config.Certificate(); c != "" {
		fmt.Fprintln(io.out, c)
	}
	if err := config.CheckFiles(); err != nil {
		fmt.Fprintf(io.out, "still missing: %v\n", err)
	}
	fmt.Fprintf(io.out, "then: cfa-relay check --config %s, and: systemctl enable --now cfa-relay\n", c.Config)
	return nil
}

// complete fills in what no flag has said: by asking on a terminal, else by its
// default or not at all.
func (c *initCmd) complete(io stdio) error {
	a := &asker{err: io.err}
	if io.in != nil && term.IsTerminal(int(io.in.Fd())) {
		a.in = bufio.NewReader(io.in)
	}
	local := func() bool { return loopback(c.NATS) && (c.Websocket == "" || loopback(c.Websocket)) }
	a.ask(question{"host", "The relay's name, as clients reach it (cfa.example.com)", "", &c.Host, need(wire.CheckRelayName)})
	if err := c.certificate(a, local()); err != nil {
		return err
	}
	a.ask(question{"project", "The first project's name", "", &c.Project, need(wire.CheckProject)})
	a.ask(question{"provider", "The CI that its jobs run on", "github", &c.Provider, func(s string) error {
		if asked[s] == nil {
			return errors.New("must be github, circleci, gitlab, buildkite or google-cloud-build; other CIs are written into the file by hand, see examples/cfa.yaml")
		}
		return nil
	}})
	for _, q := range asked[c.Provider] {
		name := q.flag
		if c.claimed(name) {
			continue
		}
		value := ""
		q.flag, q.value, q.check = "claim "+name+"=", &value, need(nil)
		if a.ask(q); value != "" {
			c.Claim = append(c.Claim, name+"="+value)
		}
	}
	if ref := tags[c.Provider]; a.in != nil && ref != "" && !c.claimed(ref) {
		value := ""
		a.ask(question{"pattern " + ref + "=", "The refs that may ask, as a regular expression", `refs/tags/v[0-9]+\.[0-9]+\.[0-9]+`, &value, need(nil)})
		c.Pattern = append(c.Pattern, ref+"="+value)
	}
	if !c.NoResponder {
		a.ask(question{"responder", "Who answers: a name", "", &c.Responder, need(nil)})
		a.ask(question{"connect", "Their connecting key, U… (cfa-responder keygen prints it)", "", &c.Connect, need(wire.CheckConnectKey)})
		a.ask(question{"sign", "Their signing key, A…", "", &c.Sign, need(wire.CheckSigningKey)})
	}
	switch {
	case c.NoResponder && c.Responder+c.Connect+c.Sign != "":
		return &exit{exitUsage, errors.New("--no-responder is for nobody, and one is named; nothing was written")}
	case a.gone != nil:
		return &exit{exitUsage, fmt.Errorf("the questions were not answered to the end, so nothing was written: %w", a.gone)}
	case len(a.wrong) > 0:
		return &exit{exitUsage, errors.New("nothing was written: " + strings.Join(a.wrong, "; "))}
	case len(a.missing) > 0:
		return &exit{exitUsage, fmt.Errorf("this is no terminal to ask on, so nothing was written; give %s", strings.Join(a.missing, " "))}
	}
	for _, pair := range slices.Concat(c.Claim, c.Pattern) {
		if name, value, ok := strings.Cut(pair, "="); !ok || name == "" || value == "" {
			return &exit{exitUsage, fmt.Errorf("%q is not NAME=VALUE", wire.Clean(pair, 80))}
		}
	}
	return nil
}

// letsEncryptTerms is where the terms stand that a relay's administrator agrees to.
const letsEncryptTerms = "https://letsencrypt.org/repository/"

// certificate asks where the relay's certificate comes from.
func (c *initCmd) certificate(a *asker, local bool) error {
	files := c.Cert != "" || c.Key != ""
	acme := c.AgreeToTerms || c.Email != "" || c.Directory != "" || c.CAFile != ""
	switch {
	case files && (acme || c.Certificate == "acme") || acme && c.Certificate == "files":
		return &exit{exitUsage, errors.New("--cert and --key are for files, --agree-to-terms, --email, --directory and --ca-file for acme; give those of one of them")}
	case files:
		c.Certificate = "files"
	case acme:
		c.Certificate = "acme"
	case local && c.Certificate == "":
		return nil
	}
	a.ask(question{"certificate", "The certificate: acme (got from Let's Encrypt and renewed, by itself) or files", "acme", &c.Certificate, func(s string) error {
		if s != "acme" && s != "files" {
			return errors.New("must be acme or files")
		}
		return nil
	}})
	switch c.Certificate {
	case "files":
		a.ask(question{"cert", "The certificate with its chain, in PEM", "/etc/cfa/cert.pem", &c.Cert, need(nil)})
		a.ask(question{"key", "The certificate's key", "/etc/cfa/key.pem", &c.Key, need(nil)})
	case "acme":
		agreed, terms := "", letsEncryptTerms
		if c.Directory != "" {
			terms = "of " + c.Directory
		}
		if c.AgreeToTerms {
			agreed = "yes"
		}
		a.ask(question{"agree-to-terms (" + terms + "; or --cert … --key …)", "Do you agree to its terms, " + terms + "? (yes)", "", &agreed, func(s string) error {
			if s != "yes" {
				return errors.New("must be yes; without it, use files (Ctrl-D ends this)")
			}
			return nil
		}})
		c.AgreeToTerms = agreed == "yes"
		if a.in != nil && c.Email == "" {
			a.ask(question{"email", "An email address where it reaches you (optional)", "", &c.Email, nil})
		}
	}
	return nil
}

func (c *initCmd) claimed(name string) bool {
	return slices.ContainsFunc(slices.Concat(c.Claim, c.Pattern), func(pair string) bool { return strings.HasPrefix(pair, name+"=") })
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// asker asks on a terminal, or notes what would have to be asked.
type asker struct {
	in      *bufio.Reader // nil: nobody to ask
	err     io.Writer
	gone    error
	missing []string
	wrong   []string
}

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 4096

func (a *asker) ask(q question) {
	if *q.value != "" || a.gone != nil {
		if err := q.verdict(*q.value); err != nil && a.gone == nil {
			a.wrong = append(a.wrong, fmt.Sprintf("--%s %q %v", q.flag, wire.Clean(*q.value, 80), err))
		}
		return
	}
	if a.in == nil {
		*q.value = q.proposal
		if err := q.verdict(q.proposal); err != nil {
			flag := "--" + q.flag
			if !strings.HasSuffix(flag, "=") && !strings.HasSuffix(flag, ")") {
				flag += " …"
			}
			a.missing = append(a.missing, flag)
		}
		return
	}
	for {
		fmt.Fprint(a.err, q.text)
		if q.proposal != "" {
			fmt.Fprintf(a.err, " [%s]", q.proposal)
		}
		fmt.Fprint(a.err, ": ")
		line, err := a.in.ReadString('\n')
		if err != nil || len(line) > maxAnswer {
			a.gone = errors.Join(err, errors.New("the input ended"))
			return
		}
		if line = strings.TrimSpace(line); line == "" {
			line = q.proposal
		}
		if err := q.verdict(line); err != nil {
			fmt.Fprintf(a.err, "  that %v\n", err)
			continue
		}
		*q.value = line
		return
	}
}

func (q question) verdict(s string) error {
	if q.check == nil {
		return nil
	}
	err := q.check(s)
	if err != nil {
		return errors.New(strings.ReplaceAll(err.Error(), wire.ErrMalformed.Error()+": ", "is not good: "))
	}
	return nil
}

// text is the file. Each value is quoted: none can become YAML of its own.
func (c *initCmd) text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	q := strconv.Quote
	line("# cfa-relay's file. examples/cfa.yaml in the project's sources explains every key;")
	line("# cfa-relay check --config %s says what is wrong, with its line.", wire.CleanName(c.Config, 200))
	line("")
	line("# The relay's name. It stands in each ID token's audience and in the responders' commands:")
	line("# another name here, and all of them have to be told.")
	line("host: %s", q(c.Host))
	line("")
	line("listen:")
	line("  nats: %s", q(c.NATS))
	if c.Websocket != "" {
		line("  # For jobs that only HTTPS gets out of; this port alone is enough for all of them.")
		line("  websocket: %s", q(c.Websocket))
	}
	if c.Metrics != "" {
		line("  # /metrics, /livez and /readyz, for this machine.")
		line("  metrics: %s", q(c.Metrics))
	}
	line("")
	switch c.Certificate {
	case "files":
		line("# In PEM; files that change are picked up without a restart.")
		line("tls: {cert: %s, key: %s}", q(c.Cert), q(c.Key))
		line("")
	case "acme":
		line("# The certificate is got, and renewed, by itself. The authority comes to port 443 to see whose the name is.")
		line("tls:")
		line("  acme:")
		if c.Directory == "" {
			line("    # To Let's Encrypt's, %s", letsEncryptTerms)
		}
		line("    agree-to-terms: true")
		for _, l := range [][2]string{{"email", c.Email}, {"directory", c.Directory}, {"ca-file", c.CAFile}} {
			if l[1] != "" {
				line("    %s: %s", l[0], q(l[1]))
			}
		}
		line("")
	}
	line("# The record of requests: who asked, who answered, never a code.")
	line("data: %s", q(c.Data))
	line("")
	line("# Whose ID tokens are accepted.")
	line("issuers: [%s]", q(c.Provider))
	line("")
	line("projects:")
	line("  %s:", q(c.Project))
	line("    # Rules, of which one must fit; in a rule every claim must. Ids, because a name can change hands.")
	line("    ci:")
	line("      - provider: %s", q(c.Provider))
	for _, pair := range c.Claim {
		name, value, _ := strings.Cut(pair, "=")
		line("        %s: %s", q(name), q(value))
	}
	for _, pair := range c.Pattern {
		name, value, _ := strings.Cut(pair, "=")
		line("        %s: {pattern: %s}", q(name), q(value))
	}
	if c.Provider == "gitlab" {
		line("        # Its tokens do not name the job's key, which each human's pin must allow, too.")
		line("        allow: [unbound]")
	}
	if c.NoResponder {
		line("    # Who answers is in the record: cfa-relay invite, and cfa-relay responders list.")
		line("    responders: []")
		return b.String()
	}
	line("    # Who answers; cfa-responder keygen prints the keys.")
	line("    responders:")
	line("      - {name: %s, connect: %s, sign: %s}", q(c.Responder), q(c.Connect), q(c.Sign))
	return b.String()
}

// write makes the file, for its owner and one group alone: who may answer is no
// secret, and nobody else's business.
func (c *initCmd) write(text string) (err error) {
	if err := os.MkdirAll(filepath.Dir(c.Config), 0o755); err != nil {
		return err
	}
	gid := -1
	group := c.Group
	if group == "" && os.Geteuid() == 0 {
		group = "cfa"
	}
	if group != "" {
		g, err := user.LookupGroup(group)
		if err == nil {
			gid, err = strconv.Atoi(g.Gid)
		}
		if err != nil && c.Group != "" {
			return &exit{exitUsage, fmt.Errorf("--group: %w", err)}
		}
	}
	f, err := os.OpenFile(c.Config, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return &exit{exitConfig, fmt.Errorf("%s is there already and stays as it is", c.Config)}
	}
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			os.Remove(c.Config)
		}
	}()
	if _, err := f.WriteString(text); err != nil {
		return err
	}
	if gid >= 0 {
		if err := f.Chown(-1, gid); err != nil {
			return fmt.Errorf("give %s to the group %s: %w", c.Config, group, err)
		}
	}
	// Not by OpenFile: the umask would have its say.
	if err := f.Chmod(0o640); err != nil {
		return err
	}
	return f.Sync()
}
