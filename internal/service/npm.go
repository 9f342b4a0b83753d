package service

// npm, 10 and later. What it says and takes was tried out against a stand-in
// registry with 10.9, 11.6, 11.15, 11.19 and 12.2; its source: npm/cli,
// lib/utils/auth.js and lib/commands/publish.js, npm/npm-registry-fetch.

import (
	"encoding/json"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

var npm = &Service{
	Name: "npm", Title: "npm",
	// Six digits of an authenticator; a recovery code has 64 hex digits.
	Format: "digits:6", Retries: 2,
	// The registry takes a code of its half minute, and of the one before.
	Reuse: true, Life: 50 * time.Second,
	Is:   func(argv []string) bool { return runs(argv, "npm", "publish") },
	Env:  []string{"NPM_CONFIG_OTP"},
	Read: readNPM,
	Link: &Link{
		// From 11.11 on the error has both addresses as JSON; what goes to stderr
		// has them redacted.
		Set: []string{"NPM_CONFIG_JSON=true"}, Pair: npmPair,
		// Before, only a terminal shows it, and npm waits there by itself.
		Terminal: []string{"NPM_CONFIG_BROWSER=false", "NPM_CONFIG_JSON=false"},
		Enter:    regexp.MustCompile(`Enter OTP:`),
		Version: func(argv []string) []string {
			if words := bare(argv); len(words) != len(argv) || !runs(words, "npm") {
				return nil // who knows which npm that starts
			}
			return []string{argv[0], "--version"}
		},
		Tells: func(version string) bool {
			m := npmVersion.FindStringSubmatch(version)
			if m == nil {
				return false
			}
			major, _ := strconv.Atoi(m[1])
			minor, _ := strconv.Atoi(m[2])
			return major > 11 || major == 11 && minor >= 11
		},
		Died:  func(r Run) bool { return r.has(npmDied) },
		Shown: regexp.MustCompile(`(?m)^(?:Authenticate your account at:|Open this URL in your browser to authenticate:)\r?\n(https?://\S+?)\r?$`),
	},
	Pages: []Page{npmPage},
	Plan:  planNPM,
}

// npmPage is where an authUrl leads. What npm login shows must not fit it.
var npmPage = Page{Host: "www.npmjs.com", Under: "/auth/cli/"}

var npmVersion = regexp.MustCompile(`^([0-9]{1,4})\.([0-9]{1,4})\.[0-9]`)

var (
	npmCode   = regexp.MustCompile(`(?m)^npm (?:error|ERR!) code (E[A-Z0-9]+)\r?$`)
	npmExists = regexp.MustCompile(`(?i)cannot publish over (?:the )?(?:previously|existing)`)
	// Where it asks whether the link was followed is gone.
	npmDied = regexp.MustCompile(`(?m)^npm (?:error|ERR!) 404 .*\bGET \S+/done\b`)
	npmOpen = regexp.MustCompile(`(?m)Open this URL in your browser to authenticate:|Authenticate your account at:`)
)

// npmErrors are the codes of errors that npm printed, as lines or as JSON.
func npmErrors(r Run) []string {
	var codes []string
	for _, stream := range [][]byte{r.Err, r.Out} {
		for _, m := range npmCode.FindAllSubmatch(stream, -1) {
			codes = append(codes, string(m[1]))
		}
	}
	var v struct {
		Error struct {
			Code string `json:"code"`
		} `json:"error"`
	}
	if json.Unmarshal(last(r.Out), &v) == nil && v.Error.Code != "" {
		codes = append(codes, v.Error.Code)
	}
	return codes
}

func readNPM(r Run) Verdict {
	codes := npmErrors(r)
	only := func(code string) bool {
		return len(codes) > 0 && !slices.ContainsFunc(codes, func(c string) bool { return c != code })
	}
	switch {
	case only("EOTP"):
		if _, _, ok := npmPair(r.Out); ok || r.has(npmOpen) {
			return WantsLink
		}
		return WantsCode
	case only("E429"):
		return Limited
	case r.has(npmExists) && (len(codes) == 0 || only("E403") || only("E409") || only("EPUBLISHCONFLICT")):
		return Exists
	case slices.ContainsFunc(codes, func(c string) bool { return npmServer.MatchString(c) }) && len(codes) == 1:
		return Unsure
	}
	return Failed
}

// npmServer are errors after which the registry may have taken what it was sent.
var npmServer = regexp.MustCompile(`^(?:E5[0-9][0-9]|ECONNRESET|ETIMEDOUT|EPIPE|ESOCKETTIMEDOUT|ERR_SOCKET_TIMEOUT|E409)$`)

// npmPair reads the error that npm prints as JSON.
func npmPair(out []byte) (auth, done string, ok bool) {
	var v struct {
		Error struct {
			Code string `json:"code"`
			Auth string `json:"authUrl"`
			Done string `json:"doneUrl"`
		} `json:"error"`
	}
	if json.Unmarshal(last(out), &v) != nil || v.Error.Code != "EOTP" || v.Error.Auth == "" || v.Error.Done == "" {
		return "", "", false
	}
	return v.Error.Auth, v.Error.Done, true
}

// A packer is a package manager that packs, and publishes a tarball.
type packer struct {
	program string
	// flags are the options of publish that a plan understands; true: with a value,
	// which may stand in the next argument.
	flags map[string]bool
	// pack are those of them that say what is packed, and how; many those of them
	// that name packages, so that publish must not hear them.
	pack, many []string
	// run is what runs one script, without those that go before and after it.
	run           []string
	before, after []string // scripts, in the order in which publish runs them
	folder        string   // the option of run that names the package's folder; "": none
	// where makes view look where publish publishes: given is the registry that
	// publish is given as an option, if it is.
	where func(p Package, given string) (flags, env []string)
}

// npmPacker is npm. Source of the scripts' order: npm/cli, lib/commands/publish.js.
var npmPacker = packer{
	program: "npm",
	flags: map[string]bool{
		"--access": true, "--tag": true, "--registry": true, "--userconfig": true, "--loglevel": true, "--provenance-file": true,
		"--workspace": true, "-w": true, "--cache": true, "--fetch-retries": true, "--fetch-timeout": true,
		"--workspaces": false, "-ws": false, "--ws": false, "--include-workspace-root": false, "-iwr": false,
		"--provenance": false, "--no-provenance": false, "--force": false, "-f": false, "--ignore-scripts": false,
		"--quiet": false, "-q": false, "--verbose": false, "-d": false, "--foreground-scripts": false, "--json": false,
	},
	pack: []string{"--ignore-scripts", "--foreground-scripts", "--userconfig", "--loglevel", "--cache"},
	many: []string{"--workspace", "-w", "--workspaces", "-ws", "--ws", "--include-workspace-root", "-iwr"},
	run:  []string{"--if-present", "--ignore-scripts"}, folder: "--prefix",
	before: []string{"prepublishOnly"}, after: []string{"publish", "postpublish"},
	where: npmWhere,
}

// npmWhere: both commands take a scope's registry before any other, the user's own
// too; but view does not read publishConfig. (So a scope's must not be named by
// what publishConfig says of every package: publish passes that over.)
func npmWhere(p Package, given string) (flags, env []string) {
	if given == "" {
		given = p.Registry
	}
	if given != "" {
		flags = append(flags, "--registry="+given)
	}
	if scope := p.Scope(); scope != "" && p.ScopeRegistry != "" {
		flags = append(flags, "--"+scope+":registry="+p.ScopeRegistry)
	}
	return flags, nil
}

func planNPM(argv []string, env func(string) string) *Plan { return npmPacker.plan(argv, env) }

// PlanStage takes npm stage publish apart as npm publish is. nil: it is another
// command, or has options that are not understood.
func PlanStage(argv []string, env func(string) string) *Plan {
	words := bare(argv)
	if !runs(words, "npm", "stage", "publish") {
		return nil
	}
	i := slices.Index(argv, "stage")
	p := npmPacker.plan(slices.Concat(argv[:i], argv[i+1:]), env)
	if p == nil {
		return nil
	}
	publish := p.Publish
	p.Publish = func(tarball string) []string { return slices.Insert(publish(tarball), 1, "stage") }
	return p
}

// npmStaged is what npm stage publish writes at its end, plain or as JSON.
var npmStaged = regexp.MustCompile(`\(staged with id ([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})\)|"stageId":\s*"([0-9a-f-]{36})"`)

// Staged gives the id under which npm stage publish staged a package, out of what
// it wrote; "": it shows none, or more than one.
func Staged(out []byte) string {
	all := npmStaged.FindAllSubmatch(out, -1)
	if len(all) != 1 {
		return ""
	}
	return string(all[0][1]) + string(all[0][2])
}

// plan packs first and publishes the tarballs. So the project's scripts run once
// however often a factor is asked for, they never see a code (a package manager
// hands its configuration to them), the link is made from something that is ready,
// many packages are published one by one, and the bytes are known whose
// publication is checked. It leaves alone what it does not understand.
func (p packer) plan(argv []string, env func(string) string) *Plan {
	// By its own program, and nothing that stands around it.
	if words := bare(argv); len(argv) == 0 || len(words) != len(argv) || words[0] != p.program {
		return nil
	}
	var pack, publish []string // flags of each
	var at []string            // what is published
	words, many := 0, false
	ignore := env("NPM_CONFIG_IGNORE_SCRIPTS") == "true" || env("npm_config_ignore_scripts") == "true"
	for i := 1; i < len(argv); i++ {
		a := argv[i]
		if !strings.HasPrefix(a, "-") {
			if words++; words > 1 {
				at = append(at, a)
			} else if a != "publish" {
				return nil
			}
			continue
		}
		flag, _, valued := strings.Cut(a, "=")
		wants, known := p.flags[flag]
		if !known || valued && !wants && !strings.HasSuffix(a, "=true") {
			return nil
		}
		all := []string{a}
		if wants && !valued {
			if i++; i == len(argv) {
				return nil
			}
			all = append(all, argv[i])
		}
		ignore = ignore || flag == "--ignore-scripts"
		if slices.Contains(p.many, flag) {
			many = true
			pack = append(pack, all...)
			continue
		}
		if slices.Contains(p.pack, flag) {
			pack = append(pack, all...)
		}
		if flag != "--foreground-scripts" {
			publish = append(publish, all...)
		}
	}
	if words == 0 {
		return nil
	}
	// One folder at most, and it must be one: anything else than a path is
	// something that is fetched.
	if len(at) > 1 || many && len(at) > 0 || many && env("NPM_CONFIG_WORKSPACE")+env("npm_config_workspace") != "" {
		return nil
	}
	if len(at) == 1 && !strings.HasPrefix(at[0], ".") && !filepath.IsAbs(at[0]) {
		return nil
	}
	program := argv[0]
	plan := &Plan{
		Publish: func(tarball string) []string {
			return slices.Concat([]string{program, "publish", tarball}, publish)
		},
		View: func(pkg Package) (view, env []string) {
			flags, env := p.where(pkg, option(publish, "--registry"))
			if file := option(publish, "--userconfig"); file != "" {
				flags = append(flags, "--userconfig="+file)
			}
			return slices.Concat([]string{program, "view", pkg.Name + "@" + pkg.Version, "dist.integrity", "--json"}, flags), env
		},
	}
	if len(at) == 1 && (strings.HasSuffix(at[0], ".tgz") || strings.HasSuffix(at[0], ".tar.gz")) {
		return plan // a tarball is ready, and no scripts are run for it
	}
	if len(at) == 1 && p.folder == "" {
		return nil
	}
	var userconfig []string
	if file := option(pack, "--userconfig"); file != "" {
		userconfig = []string{"--userconfig=" + file}
	}
	plan.Many = many
	if plan.Dir = "."; len(at) == 1 {
		plan.Dir = at[0]
	}
	plan.Pack = slices.Concat([]string{program, "pack"}, at, []string{"--pack-destination", Folder}, pack)
	if ignore {
		return plan
	}
	in := func(scripts []string) (list [][]string) {
		for _, script := range scripts {
			// The options first: pnpm takes those behind the name for the script's.
			c := slices.Concat([]string{program, "run"}, p.run, pack)
			if len(at) == 1 {
				c = append(c, p.folder, at[0])
			}
			list = append(list, append(c, script))
		}
		return list
	}
	plan.Before, plan.After = in(p.before), in(p.after)
	plan.Ignores = slices.Concat([]string{program, "config", "get", "ignore-scripts"}, userconfig)
	return plan
}

// option is the value of an option among flags, the last one; "": it is not there.
func option(flags []string, name string) (value string) {
	for i, a := range flags {
		if v, ok := strings.CutPrefix(a, name+"="); ok {
			value = v
		} else if a == name && i+1 < len(flags) {
			value = flags[i+1]
		}
	}
	return value
}
