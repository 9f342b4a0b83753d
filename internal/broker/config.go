package broker

// The relay's file: read strictly, checked whole, turned into values that are
// never changed afterwards. A reload makes new ones.

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/mail"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/continuousauth/action/internal/acme"
	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

// MaxConfig bounds the file, in bytes.
const MaxConfig = 4 << 20

// Config is the relay's file, cfa.yaml.
type Config struct {
	Host     string             `yaml:"host"`
	Listen   Listen             `yaml:"listen"`
	TLS      TLS                `yaml:"tls"`
	Data     string             `yaml:"data"`
	Names    string             `yaml:"names"`
	Limits   Limits             `yaml:"limits"`
	NATS     *NATS              `yaml:"nats"`
	Issuers  []IssuerEntry      `yaml:"issuers"`
	Projects map[string]Project `yaml:"projects"`

	policy  *trust.Policy
	issuers []trust.Issuer
	desks   map[string]*desk // by connecting key
}

// Listen holds every address that the relay listens on, as host:port.
type Listen struct {
	NATS      string   `yaml:"nats"`
	WebSocket string   `yaml:"websocket"`
	Origins   []string `yaml:"origins"` // browsers' Origin headers that may use the WebSocket
	// Plain lets the WebSocket listener speak without TLS on loopback, behind
	// a proxy that does TLS.
	Plain bool `yaml:"plain-websocket"`
	// Metrics is where metrics and health are served, by HTTP.
	Metrics string `yaml:"metrics"`
	// PublicMetrics lets Metrics be off loopback.
	PublicMetrics bool `yaml:"public-metrics"`
}

// TLS names the files of the relay's certificate and key, in PEM, or says of whom
// it gets one by itself.
type TLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
	ACME *ACME  `yaml:"acme"`
}

func (t TLS) on() bool { return t.Cert != "" || t.ACME != nil }

// ACME is a certificate authority that is asked for the relay's certificate.
type ACME struct {
	Agree     bool   `yaml:"agree-to-terms"` // of the authority; must be true
	Email     string `yaml:"email"`
	Directory string `yaml:"directory"` // default Let's Encrypt's
	CAFile    string `yaml:"ca-file"`
	EAB       *EAB   `yaml:"eab"`
}

// EAB is an account that an authority knows already (external account binding).
type EAB struct {
	KeyID string `yaml:"key-id"`
	Key   string `yaml:"key"` // file with the MAC key, in base64url as the authority shows it
}

// Limits bound what projects may ask of the relay.
type Limits struct {
	Wait      Duration `yaml:"wait"`      // the longest that a request may wait; default and maximum 6h
	Retention Duration `yaml:"retention"` // how long the record is kept; default and minimum 720h, because it is the replay protection
	Store     int64    `yaml:"store"`     // bytes that the record may take; default 1 GiB. A full store accepts nothing new

	// The rest is for each project, which may have numbers of its own.
	Open       int `yaml:"open"`         // what may be open at once, where what one run asks for counts once; default 5
	OpenPerRun int `yaml:"open-per-run"` // of that, how much one run of a CI may have open; default 1
	PerHour    int `yaml:"per-hour"`     // requests within an hour; default 120
	Attempts   int `yaml:"attempts"`     // codes that may be refused before a request ends; default 5
}

// NATS is an external server that the relay joins instead of running its own.
type NATS struct {
	URL        string     `yaml:"url"`
	CAFile     string     `yaml:"ca-file"`
	Callout    Credential `yaml:"callout"`     // user of the account that the callout is asked in
	Client     Credential `yaml:"client"`      // user of the account that jobs and responders are placed in
	Store      Credential `yaml:"store"`       // user of the account that holds the stream
	System     Credential `yaml:"system"`      // user of the system account
	Issuer     string     `yaml:"issuer"`      // file with the seed (SA…) that signs the callout's answers
	UserIssuer string     `yaml:"user-issuer"` // operator mode: file with the seed (SA…) that signs the users in Account
	XKey       string     `yaml:"xkey"`        // file with the curve seed (SX…) that the callout is encrypted to
	Account    string     `yaml:"account"`     // the clients' account: its name, default CFA; in operator mode its key
	Replicas   int        `yaml:"replicas"`    // copies of the stream; default 3
}

// Credential names one file: an nkey seed, or, in operator mode, a .creds file
// with a user JWT.
type Credential struct {
	NKey  string `yaml:"nkey"`
	Creds string `yaml:"creds"`
}

// IssuerEntry is one issuer: the name of a CI that has one for all (github,
// circleci), or a mapping for one of its own.
type IssuerEntry struct {
	Name     string   `yaml:"name"`
	Provider string   `yaml:"provider"`
	URL      string   `yaml:"url"`
	Algs     []string `yaml:"algs"`
	IDs      []string `yaml:"ids"` // generic, jenkins: further claims that every rule has to name
}

// UnmarshalYAML takes a word or a mapping.
func (e *IssuerEntry) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		*e = IssuerEntry{Name: n.Value, Provider: n.Value}
		return nil
	}
	for i := 0; n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
		if k := n.Content[i]; !slices.Contains([]string{"name", "provider", "url", "algs", "ids"}, k.Value) {
			return fmt.Errorf("line %d: an issuer has name, provider, url, algs and ids, not %q", k.Line, wire.Clean(k.Value, 40))
		}
	}
	type plain IssuerEntry
	return n.Decode((*plain)(e))
}

// Project is what one project's jobs and humans may do.
type Project struct {
	CI         []trust.Rule `yaml:"ci"`
	Responders []Responder  `yaml:"responders"`
	// In the place of the relay's limits of these names.
	Open       int      `yaml:"open"`
	OpenPerRun int      `yaml:"open-per-run"`
	PerHour    int      `yaml:"per-hour"`
	Attempts   int      `yaml:"attempts"`
	Approvals  int      `yaml:"approvals"` // people who must agree to each request, 1 or 2; default 1
	Links      []string `yaml:"links"`     // hosts that its jobs' links may lead to, beside those of their service
}

// Responder is a human's machine, enrolled for a project.
type Responder struct {
	Name    string `yaml:"name"`
	Connect string `yaml:"connect"` // its connecting key, U…
	Sign    string `yaml:"sign"`    // its signing key, A…
	// Former are the signing keys that vouch for Sign, the oldest first: workflows that
	// pin one of them take its answers. The responder proves it to each job.
	Former []string `yaml:"former,omitempty"`
	// After is how long a request of the project must have waited without an
	// answer before this responder is asked too; 0: asked at once.
	After Duration `yaml:"after,omitempty"`
}

// Duration is a time span as Go spells it: 30m, 720h.
type Duration time.Duration

// UnmarshalYAML reads a duration.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v <= 0 {
		return fmt.Errorf("line %d: %q is not a time span; write 30m or 720h", n.Line, wire.Clean(n.Value, 40))
	}
	*d = Duration(v)
	return nil
}

// MarshalYAML writes it as it is read.
func (d Duration) MarshalYAML() (any, error) { return time.Duration(d).String(), nil }

// desk is one connecting key: one human's machine, on call for some projects.
type desk struct {
	connect, sign, name string
	former              []string // signing keys that vouch for sign
	projects            []string
}

// ReadConfig reads and checks the file. Relative paths in it are relative to it.
func ReadConfig(path string) (*Config, error) {
	data, err := readFile(path)
	if err != nil {
		return nil, err
	}
	c, err := ParseConfig(data, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return c, nil
}

// DataDir is the data directory that the file names, whatever else is wrong with
// it: a relay that runs well must not be out of its administrator's reach because
// the file, which it will not take, has a mistake in it since.
func DataDir(path string) (string, error) {
	data, err := readFile(path)
	if err != nil {
		return "", err
	}
	// Line by line where the file as a whole is no YAML.
	for i, part := range append([]string{string(data)}, strings.Split(string(data), "\n")...) {
		var root yaml.Node
		if i > 0 && strings.HasPrefix(part, " ") {
			continue // some other thing's
		}
		if yaml.Unmarshal([]byte(part), &root) != nil || len(root.Content) == 0 || root.Content[0].Kind != yaml.MappingNode {
			continue
		}
		for pairs := root.Content[0].Content; len(pairs) > 1; pairs = pairs[2:] {
			if dir := pairs[1].Value; pairs[0].Value == "data" && pairs[1].Kind == yaml.ScalarNode && dir != "" {
				return within(filepath.Dir(path), dir), nil
			}
		}
	}
	return "", fmt.Errorf("%s does not say where the relay's `data` is", path)
}

func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if info.Size() > MaxConfig {
		return nil, fmt.Errorf("configuration %s has %d bytes, at most %d are allowed", path, info.Size(), MaxConfig)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return data, nil
}

// What the library says of Go's types is of no use to who wrote the file.
var (
	yamlUnknown = regexp.MustCompile(`field (\S+) not found in type broker\.(\w+)`)
	yamlType    = regexp.MustCompile(` in type \S+`)
	yamlInto    = regexp.MustCompile(` into \S*broker\.\S+`)
)

var yamlLine = regexp.MustCompile(`^yaml: (unmarshal errors:\n\s*)?`)

// ParseConfig checks a configuration file's content. dir is what relative paths
// in it are relative to. Errors carry line numbers.
func ParseConfig(data []byte, dir string) (*Config, error) {
	if len(data) > MaxConfig {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(data), MaxConfig)
	}
	c := &Config{}
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	dec.KnownFields(true)
	if err := dec.Decode(c); errors.Is(err, io.EOF) {
		return nil, errors.New("the file is empty")
	} else if err != nil {
		text := yamlLine.ReplaceAllString(err.Error(), "")
		text = yamlUnknown.ReplaceAllStringFunc(text, unknownKey)
		text = yamlType.ReplaceAllString(text, "")
		text = yamlInto.ReplaceAllString(text, " where something else belongs")
		if !strings.HasPrefix(text, "line ") {
			text = "line 1: " + text // the library leaves out the first line's number
		}
		return nil, errors.New(wire.Clean(strings.ReplaceAll(text, "\n", ";"), 600))
	}
	var second any
	if err := dec.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("a second YAML document stands in the file; one relay, one document")
	}
	lines := keyLines(data)
	for _, p := range []*string{&c.Data, &c.TLS.Cert, &c.TLS.Key} {
		*p = within(dir, *p)
	}
	if a := c.TLS.ACME; a != nil {
		a.CAFile = within(dir, a.CAFile)
		if a.EAB != nil {
			a.EAB.Key = within(dir, a.EAB.Key)
		}
	}
	if n := c.NATS; n != nil {
		for _, p := range []*string{&n.CAFile, &n.Issuer, &n.UserIssuer, &n.XKey, &n.Callout.NKey, &n.Callout.Creds, &n.Client.NKey, &n.Client.Creds, &n.Store.NKey, &n.Store.Creds, &n.System.NKey, &n.System.Creds} {
			*p = within(dir, *p)
		}
	}
	if err := c.compile(lines); err != nil {
		return nil, err
	}
	return c, nil
}

// unknownKey is what the library says of a key that it does not know, with those
// that there are in its place.
func unknownKey(text string) string {
	m := yamlUnknown.FindStringSubmatch(text)
	var keys []string
	for _, t := range []reflect.Type{
		reflect.TypeFor[Config](), reflect.TypeFor[Listen](), reflect.TypeFor[TLS](), reflect.TypeFor[ACME](), reflect.TypeFor[EAB](), reflect.TypeFor[Limits](),
		reflect.TypeFor[NATS](), reflect.TypeFor[Credential](), reflect.TypeFor[Project](), reflect.TypeFor[Responder](),
	} {
		for i := 0; t.Name() == m[2] && i < t.NumField(); i++ {
			if key, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); key != "" {
				keys = append(keys, key)
			}
		}
	}
	hint := trust.Suggest(m[1], keys)
	if hint == "" && len(keys) > 0 {
		hint = " (there are " + strings.Join(keys, ", ") + ")"
	}
	return fmt.Sprintf("field %s not found%s", m[1], hint)
}

func within(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// keyLines says on which line each key of the document stands, by its dotted
// path, so that a check made after decoding can still name a line.
func keyLines(data []byte) map[string]int {
	lines := map[string]int{}
	var root yaml.Node
	if yaml.Unmarshal(data, &root) != nil || len(root.Content) == 0 {
		return lines
	}
	var walk func(path string, n *yaml.Node)
	walk = func(path string, n *yaml.Node) {
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				p := strings.TrimPrefix(path+"."+n.Content[i].Value, ".")
				lines[p] = n.Content[i].Line
				walk(p, n.Content[i+1])
			}
		case yaml.SequenceNode:
			for i, item := range n.Content {
				p := fmt.Sprintf("%s[%d]", path, i)
				lines[p] = item.Line
				walk(p, item)
			}
		}
	}
	walk("", root.Content[0])
	return lines
}

func (c *Config) compile(lines map[string]int) error {
	at := func(path, format string, args ...any) error {
		text := strings.ReplaceAll(fmt.Sprintf(format, args...), wire.ErrMalformed.Error()+": ", "")
		// A missing key has no line; its nearest parent does.
		for p := path; p != ""; {
			if n, ok := lines[p]; ok {
				return fmt.Errorf("line %d: %s: %s", n, path, text)
			}
			cut := strings.LastIndexAny(p, ".[")
			if cut < 0 {
				break
			}
			p = p[:cut]
		}
		return fmt.Errorf("%s: %s", path, text)
	}
	if c.Host == "" {
		return at("host", "is missing; it is the relay's name, which stands in each ID token's audience")
	}
	if err := wire.CheckRelayName(c.Host); err != nil {
		return at("host", "%q: %v", wire.Clean(c.Host, 80), err)
	}
	if c.Data == "" && c.NATS == nil {
		return at("data", "is missing; it is the directory for the relay's record")
	}
	if c.Data == "" {
		return at("data", "is missing; it is the directory for the administration socket")
	}
	switch c.Names {
	case "", "shown", "hidden":
	default:
		return at("names", "is %q; use shown (the default) or hidden", wire.Clean(c.Names, 40))
	}
	if c.Limits.Wait == 0 {
		c.Limits.Wait = Duration(wire.LongestWait)
	}
	if time.Duration(c.Limits.Wait) > wire.LongestWait {
		return at("limits.wait", "is longer than %s, the protocol's limit", wire.LongestWait)
	}
	if c.Limits.Retention == 0 {
		c.Limits.Retention = Duration(minRetention)
	}
	if time.Duration(c.Limits.Retention) < minRetention {
		return at("limits.retention", "is shorter than %s; the record is what refuses a request the second time", minRetention)
	}
	if c.Limits.Store == 0 {
		c.Limits.Store = 1 << 30
	}
	if c.Limits.Store < 16<<20 {
		return at("limits.store", "is less than 16 MiB")
	}
	for _, l := range c.Limits.asking() {
		if *l.value == 0 {
			*l.value = l.usual
		}
		if *l.value < 1 || *l.value > l.most {
			return at("limits."+l.key, "is %d; use 1 to %d", *l.value, l.most)
		}
	}
	// A key without a value is none to the library.
	if _, there := lines["tls.acme"]; there && c.TLS.ACME == nil {
		return at("tls.acme", "is empty; write {agree-to-terms: true}")
	}
	if err := c.checkListen(at); err != nil {
		return err
	}
	if err := c.checkACME(at); err != nil {
		return err
	}
	if err := c.checkNATS(at); err != nil {
		return err
	}
	if err := c.compileIssuers(at); err != nil {
		return err
	}
	return c.compileProjects(at)
}

// limit is one number that bounds what a project's jobs ask.
type limit struct {
	key         string
	value       *int
	usual, most int
}

// maxPerHour is more than any human answers.
const maxPerHour = 10_000

func (l *Limits) asking() []limit {
	return []limit{
		{"open", &l.Open, 5, wire.MaxOpenProject},
		{"open-per-run", &l.OpenPerRun, 1, wire.MaxOpenRun},
		{"per-hour", &l.PerHour, 120, maxPerHour},
		{"attempts", &l.Attempts, 5, lifecycle.MaxRefused},
	}
}

// asking is the limits of what a project's jobs ask: its own, where the file
// says some, and the relay's.
func (c *Config) asking(project string) Limits {
	l, p := c.Limits, c.Projects[project]
	l.Open, l.OpenPerRun = cmp.Or(p.Open, l.Open), cmp.Or(p.OpenPerRun, l.OpenPerRun)
	l.PerHour, l.Attempts = cmp.Or(p.PerHour, l.PerHour), cmp.Or(p.Attempts, l.Attempts)
	return l
}

const (
	minRetention = 30 * 24 * time.Hour
	maxIssuers   = 100
	maxLinks     = 50 // of a project
)

func (c *Config) checkListen(at func(string, string, ...any) error) error {
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		return at("tls", "needs both cert and key")
	}
	if c.TLS.Cert != "" && c.TLS.ACME != nil {
		return at("tls", "has files and acme; keep one of them")
	}
	secure := c.TLS.on()
	if err := c.checkMetrics(at); err != nil {
		return err
	}
	if c.NATS != nil {
		if c.Listen.NATS != "" || c.Listen.WebSocket != "" {
			return at("listen", "nats and websocket are the external server's to listen on; remove them, or remove `nats`")
		}
		if secure || len(c.Listen.Origins) > 0 || c.Listen.Plain {
			return at("nats", "an external server has its own certificate and WebSocket settings; remove tls and listen, or remove `nats`")
		}
		return nil
	}
	if c.Listen.NATS == "" {
		return at("listen.nats", "is missing; write host:port, for example 0.0.0.0:4222")
	}
	for _, l := range []struct{ key, addr string }{{"listen.nats", c.Listen.NATS}, {"listen.websocket", c.Listen.WebSocket}} {
		if l.addr == "" {
			continue
		}
		host, _, err := splitPort(l.addr)
		if err != nil {
			return at(l.key, "%q is not host:port", wire.Clean(l.addr, 80))
		}
		plain := !secure || c.Listen.Plain && l.key == "listen.websocket"
		if plain && !isLoopback(host) {
			if secure {
				return at(l.key, "plain-websocket is for a proxy on the same machine: listen on 127.0.0.1, not on %q", wire.Clean(host, 80))
			}
			return at(l.key, "%q can be reached from outside, but there is no TLS: ID tokens would travel in plain text; set tls.acme, or tls.cert and tls.key, or listen on 127.0.0.1", wire.Clean(l.addr, 80))
		}
	}
	if len(c.Listen.Origins) > 0 && c.Listen.WebSocket == "" {
		return at("listen.origins", "are for listen.websocket, which is missing")
	}
	for i, o := range c.Listen.Origins {
		// nats-server leaves out what it cannot read, and a list that is empty
		// then lets every page of every host in.
		u, err := url.Parse(o)
		if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || o != u.Scheme+"://"+u.Host {
			return at(fmt.Sprintf("listen.origins[%d]", i), "%q is not an origin as browsers send it; write https://host or https://host:port", wire.Clean(o, 80))
		}
	}
	return nil
}

const maxEmail = 254

func (c *Config) checkACME(at func(string, string, ...any) error) error {
	a := c.TLS.ACME
	if a == nil {
		return nil
	}
	directory := cmp.Or(a.Directory, acme.LetsEncrypt)
	u, err := url.Parse(directory)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil {
		return at("tls.acme.directory", "%q is not the address of an ACME directory; write https://…", wire.Clean(a.Directory, 200))
	}
	if !a.Agree {
		terms := "the authority's (" + u.Host + ")"
		if directory == acme.LetsEncrypt {
			terms = "Let's Encrypt's (https://letsencrypt.org/repository/)"
		}
		return at("tls.acme.agree-to-terms", "must be true, which says that you agree to terms of service: %s", terms)
	}
	if why := acme.Usable(c.Host, a.Directory); why != "" {
		return at("host", "%q %s; use tls.cert and tls.key, or another tls.acme.directory", wire.Clean(c.Host, 80), why)
	}
	if m, err := mail.ParseAddress(a.Email); a.Email != "" && (err != nil || m.Address != a.Email || len(a.Email) > maxEmail) {
		return at("tls.acme.email", "%q is not an address like ops@example.com", wire.Clean(a.Email, 80))
	}
	if e := a.EAB; e != nil && (e.KeyID == "" || e.Key == "") {
		return at("tls.acme.eab", "needs both key-id and key (a file)")
	}
	return nil
}

// acme gives what package acme needs.
func (c *Config) acme(log *slog.Logger) (acme.Options, error) {
	a := c.TLS.ACME
	o := acme.Options{Name: c.Host, Dir: filepath.Join(c.Data, "acme"), Directory: a.Directory, Email: a.Email, CAFile: a.CAFile, Log: log}
	if a.EAB == nil {
		return o, nil
	}
	if err := private("tls.acme.eab.key", a.EAB.Key, 0o077); err != nil {
		return o, err
	}
	data, err := readSmall(a.EAB.Key)
	if err != nil {
		return o, fmt.Errorf("tls.acme.eab.key: %w", err)
	}
	defer clear(data)
	o.KeyID, o.Key = a.EAB.KeyID, strings.TrimRight(strings.TrimSpace(string(data)), "=")
	if key, err := base64.RawURLEncoding.DecodeString(o.Key); err != nil || len(key) == 0 {
		return o, fmt.Errorf("tls.acme.eab.key: %s holds no key in base64url", a.EAB.Key)
	}
	return o, nil
}

// Certificate says where the relay's certificate comes from, for an administrator.
func (c *Config) Certificate() string {
	if c.TLS.ACME == nil {
		return ""
	}
	from := fmt.Sprintf("the certificate comes from %s, which comes to %s to see whose that is (TLS-ALPN-01)", cmp.Or(c.TLS.ACME.Directory, acme.LetsEncrypt), net.JoinHostPort(c.Host, "443"))
	for _, l := range []struct {
		key, addr string
		plain     bool
	}{{"listen.websocket", c.Listen.WebSocket, c.Listen.Plain}, {"listen.nats", c.Listen.NATS, false}} {
		if host, port, err := splitPort(l.addr); err == nil && port == 443 && !l.plain && !isLoopback(host) {
			return from + ": " + l.key + " is there"
		}
	}
	to := "listen.nats (" + c.Listen.NATS + ")"
	if c.Listen.WebSocket != "" && !c.Listen.Plain {
		to = "listen.websocket (" + c.Listen.WebSocket + ")"
	}
	return from + ". NOTE: nothing here listens on port 443 for others; whatever does there must pass the bytes on to " + to + ", TLS and all"
}

// checkMetrics keeps metrics on loopback: they are plain HTTP, ask for no
// password, and name the projects.
func (c *Config) checkMetrics(at func(string, string, ...any) error) error {
	if c.Listen.Metrics == "" {
		if c.Listen.PublicMetrics {
			return at("listen.public-metrics", "is for listen.metrics, which is missing")
		}
		return nil
	}
	host, _, err := splitPort(c.Listen.Metrics)
	if err != nil {
		return at("listen.metrics", "%q is not host:port", wire.Clean(c.Listen.Metrics, 80))
	}
	if !isLoopback(host) && !c.Listen.PublicMetrics {
		return at("listen.metrics", "%q can be reached from outside, and whoever reaches it reads the projects' names and how much they ask; listen on 127.0.0.1, or set public-metrics: true where a firewall keeps others out", wire.Clean(c.Listen.Metrics, 80))
	}
	return nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (c *Config) checkNATS(at func(string, string, ...any) error) error {
	n := c.NATS
	if n == nil {
		return nil
	}
	if n.URL == "" {
		return at("nats.url", "is missing; remove `nats` to run the embedded server")
	}
	network := false // somebody else's machine, or a wire between
	for _, u := range strings.Split(n.URL, ",") {
		scheme, rest, ok := strings.Cut(u, "://")
		host, _, err := net.SplitHostPort(rest)
		switch {
		case !ok || err != nil:
			return at("nats.url", "%q is not scheme://host:port", wire.Clean(u, 80))
		case scheme == "tls":
		case scheme == "nats" && isLoopback(host):
		default:
			return at("nats.url", "%q: use tls:// (nats:// is plain text, for loopback only)", wire.Clean(u, 80))
		}
		network = network || !isLoopback(host)
	}
	if n.Account == "" {
		n.Account = "CFA"
	}
	// The callout places users by this name, and the server lets it: nothing but
	// this check keeps a typing error from placing jobs into the system account.
	if strings.EqualFold(n.Account, "SYS") || strings.EqualFold(n.Account, "$SYS") {
		return at("nats.account", "is the system account; jobs and responders must have one of their own")
	}
	for _, cr := range []struct {
		key string
		c   Credential
	}{{"nats.callout", n.Callout}, {"nats.client", n.Client}, {"nats.store", n.Store}, {"nats.system", n.System}} {
		switch {
		case (cr.c.NKey == "") == (cr.c.Creds == ""):
			return at(cr.key, "needs one of nkey (a seed file) and creds (a credentials file)")
		case n.operator() && cr.c.Creds == "":
			return at(cr.key, "is an nkey, but nats.account is an account's key: servers in operator mode take users by their JWT only; give its creds file")
		case !n.operator() && cr.c.NKey == "":
			return at(cr.key, "is a creds file, which is for servers in operator mode: write the key (A…) of the account of nats.client as nats.account; or give an nkey")
		}
	}
	if n.Issuer == "" && n.operator() {
		return at("nats.issuer", "is missing; it is the file with the seed of a signing key of the account of nats.callout, which signs the callout's answers")
	}
	if n.Issuer == "" {
		return at("nats.issuer", "is missing; it is the file with the seed that signs the callout's answers (auth_callout.issuer is its public key)")
	}
	if n.UserIssuer == "" && n.operator() {
		return at("nats.user-issuer", "is missing; it is the file with the seed of a signing key of nats.account, which signs jobs' and responders' users")
	}
	if n.UserIssuer != "" && !n.operator() {
		return at("nats.user-issuer", "is for servers in operator mode: write the account's key (A…) as nats.account; or remove it, nats.issuer signs both")
	}
	// Connections and ID tokens pass each server and each user of the callout's
	// account; and in operator mode it is also what authenticates the answer.
	if n.XKey == "" && (network || n.operator()) {
		return at("nats.xkey", "is missing; it is the file with the curve seed (SX…, nk -gen curve) that the server encrypts the callout to, without which ID tokens pass other servers in the clear")
	}
	if n.Replicas == 0 {
		n.Replicas = 3
	}
	if n.Replicas != 1 && n.Replicas != 3 && n.Replicas != 5 {
		return at("nats.replicas", "is %d; use 1, 3 or 5", n.Replicas)
	}
	return nil
}

func (c *Config) compileIssuers(at func(string, string, ...any) error) error {
	if len(c.Issuers) == 0 {
		return at("issuers", "is missing; name the CIs whose ID tokens are accepted, for example [github]")
	}
	if len(c.Issuers) > maxIssuers {
		return at("issuers", "has %d entries; at most %d are allowed", len(c.Issuers), maxIssuers)
	}
	for i, e := range c.Issuers {
		path := fmt.Sprintf("issuers[%d]", i)
		p := ci.Find(e.Provider)
		if p == nil {
			var known []string
			for _, p := range ci.Providers {
				known = append(known, p.Name)
			}
			return at(path, "%q is no CI that this relay knows (%s)", wire.Clean(e.Provider, 40), strings.Join(known, ", "))
		}
		url := e.URL
		if url == "" {
			url = p.Issuer
		}
		switch {
		case p.Unusable != "":
			return at(path, "%s", p.Unusable)
		case url == "":
			return at(path, "%s has no issuer that is the same for all; write {name: ..., provider: %s, url: ...}", p.Title, p.Name)
		}
		p, err := p.Requiring(e.IDs)
		if err != nil {
			return at(path, "ids: %s", wire.Clean(err.Error(), 300))
		}
		name := e.Name
		if name == "" {
			name = e.Provider
		}
		c.issuers = append(c.issuers, trust.Issuer{Name: name, Provider: p, URL: url, Algs: e.Algs})
		// Also finds one that stands there twice; what is checked at the start
		// only would be a file that passes `check` and does not serve.
		if _, err := trust.NewKeys(c.issuers, trust.KeysOptions{}); err != nil {
			return at(path, "%v", err)
		}
	}
	return nil
}

func (c *Config) compileProjects(at func(string, string, ...any) error) error {
	if len(c.Projects) == 0 {
		return at("projects", "is missing; without a project nobody can ask")
	}
	rules := map[string][]trust.Rule{}
	c.desks = map[string]*desk{}
	bySign := map[string]string{}
	names := make([]string, 0, len(c.Projects))
	for name := range c.Projects {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		p := c.Projects[name]
		path := "projects." + name
		if err := wire.CheckProject(name); err != nil {
			return at(path, "%v", err)
		}
		if len(p.CI) == 0 {
			return at(path+".ci", "is empty; without a rule no job can ask")
		}
		own := c.asking(name)
		for _, l := range own.asking() {
			if *l.value < 1 || *l.value > l.most {
				return at(path+"."+l.key, "is %d; use 1 to %d", *l.value, l.most)
			}
		}
		if p.Approvals < 0 || p.Approvals > 2 {
			return at(path+".approvals", "is %d; use 1 or 2", p.Approvals)
		}
		if p.Approvals == 2 && len(p.Responders) == 1 {
			return at(path+".approvals", "is 2, and the project has %d responder; two people must agree, each by their own", len(p.Responders))
		}
		if len(p.Links) > maxLinks {
			return at(path+".links", "has %d hosts; at most %d are allowed", len(p.Links), maxLinks)
		}
		for i, host := range p.Links {
			where := fmt.Sprintf("%s.links[%d]", path, i)
			if err := wire.CheckLinkHost(host); err != nil {
				return at(where, "%q is %v", wire.Clean(host, 80), err)
			}
			if slices.Contains(p.Links[:i], host) {
				return at(where, "%s stands twice in this project", host)
			}
		}
		c.Projects[name] = p
		rules[name] = p.CI
		// An empty list is one that the record is to fill.
		if p.Responders == nil {
			return at(path+".responders", "is empty; without a responder nobody can answer: list them, or write [] and invite them with `cfa-relay invite`")
		}
		for i, r := range p.Responders {
			where := fmt.Sprintf("%s.responders[%d]", path, i)
			if r.Name == "" || len(r.Name) > 64 || wire.Clean(r.Name, 64) != r.Name {
				return at(where+".name", "is missing, longer than 64 characters or holds characters that could deceive a reader")
			}
			if err := wire.CheckConnectKey(r.Connect); err != nil {
				return at(where+".connect", "%v; cfa-responder keygen prints it", err)
			}
			if err := wire.CheckSigningKey(r.Sign); err != nil {
				return at(where+".sign", "%v; cfa-responder keygen prints it", err)
			}
			if len(r.Former) > wire.MaxChain {
				return at(where+".former", "has %d keys; at most %d can vouch for another", len(r.Former), wire.MaxChain)
			}
			for _, key := range r.Former {
				if err := wire.CheckSigningKey(key); err != nil {
					return at(where+".former", "%v; cfa-responder keys prints it", err)
				}
			}
			if time.Duration(r.After) >= time.Duration(c.Limits.Wait) {
				return at(where+".after", "is %s, and no request waits longer than %s: this responder would never be asked", time.Duration(r.After), time.Duration(c.Limits.Wait))
			}
			d := c.desks[r.Connect]
			if d == nil {
				d = &desk{connect: r.Connect, sign: r.Sign, name: r.Name, former: r.Former}
				c.desks[r.Connect] = d
			}
			// One person, one pair of keys: else approvals by "two people"
			// could both come from one machine.
			if d.sign != r.Sign || d.name != r.Name {
				return at(where, "the connecting key stands elsewhere with another name or signing key")
			}
			if other, ok := bySign[r.Sign]; ok && other != r.Connect {
				return at(where, "the signing key stands elsewhere with another connecting key")
			}
			bySign[r.Sign] = r.Connect
			if slices.Contains(d.projects, name) {
				return at(where, "%s stands twice in this project", r.Name)
			}
			d.projects = append(d.projects, name)
		}
	}
	for _, name := range names {
		if list := c.Projects[name].Responders; len(list) > 0 && !slices.ContainsFunc(list, func(r Responder) bool { return r.After == 0 }) {
			return at("projects."+name+".responders", "are all asked `after` a time; somebody must be asked at once")
		}
	}
	policy, err := trust.Compile(rules, c.issuers)
	if err != nil {
		return err
	}
	c.policy = policy
	return nil
}

// enrolled says who can answer in a project, in the file's order.
func (c *Config) enrolled(project string) []Responder { return c.Projects[project].Responders }

// Inspect says what a relay with this configuration would say of an ID token,
// without a relay or a job: it fetches the issuers' keys and nothing else.
func (c *Config) Inspect(ctx context.Context, token string) (trust.Inspection, error) {
	keys, err := trust.NewKeys(c.allIssuers(), trust.KeysOptions{})
	if err != nil {
		return trust.Inspection{}, err
	}
	v := trust.NewVerifier(c.Host, keys, trust.Options{AllowUnbound: true})
	return v.Inspect(ctx, token, c.policy), nil
}

// CheckFiles reads the files that the configuration names and that a relay could
// not start without.
func (c *Config) CheckFiles() error {
	if n := c.NATS; n != nil {
		if _, err := n.read(); err != nil {
			return err
		}
		if n.CAFile != "" {
			if _, err := os.Stat(n.CAFile); err != nil {
				return fmt.Errorf("nats.ca-file: %w", err)
			}
		}
		return nil
	}
	if c.TLS.ACME != nil {
		o, err := c.acme(slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		return acme.Check(o)
	}
	if c.TLS.Cert == "" {
		return nil
	}
	_, err := serverCertificate(c.TLS, slog.New(slog.DiscardHandler))
	return err
}

// allIssuers are those that the file names, and those that follow from ids in
// its rules.
func (c *Config) allIssuers() []trust.Issuer {
	return slices.Concat(c.issuers, c.policy.Issuers())
}
