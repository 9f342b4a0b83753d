package service

// pnpm 11 and 12, tried out against a stand-in registry. Up to 10 it calls npm to
// publish, so npm's variable is set too. Source: pnpm/pnpm, releasing/commands and
// auth/web-auth.

import (
	"encoding/json"
	"regexp"
	"time"
)

var pnpm = &Service{
	Name: "pnpm", Title: "pnpm",
	Format: "digits:6", Retries: 2, Reuse: true, Life: 50 * time.Second,
	Is:   func(argv []string) bool { return runs(argv, "pnpm", "publish") },
	Env:  []string{"PNPM_CONFIG_OTP", "NPM_CONFIG_OTP"},
	Read: readPNPM,
	Link: &Link{
		// An argument, because 12 takes it from no variable.
		Args: []string{"--json"}, Pair: pnpmPair, Blind: true,
	},
	Pages: []Page{npmPage},
	Plan:  planPNPM,
}

// pnpmPacker is pnpm, for one package; what -r publishes, it finds again by itself.
var pnpmPacker = packer{
	program: "pnpm",
	flags: map[string]bool{
		"--access": true, "--tag": true, "--registry": true, "--publish-branch": true, "--no-git-checks": false,
		"--ignore-scripts": false, "--provenance": false, "--force": false,
	},
	pack:   []string{"--ignore-scripts"},
	run:    []string{"--if-present", "--config.enable-pre-post-scripts=false"},
	before: []string{"prepublishOnly", "prepublish"}, after: []string{"publish", "postpublish"},
	where: pnpmWhere,
}

// pnpmWhere: publish takes publishConfig before all else, then a scope's registry,
// then --registry; view reads no publishConfig, and in 11 --registry comes after a
// scope's, in 12 before. A variable comes after it in both.
func pnpmWhere(p Package, given string) (flags, env []string) {
	own := p.ScopeRegistry
	if own == "" {
		own = p.Registry
	}
	switch {
	case own != "" && p.Scope() != "":
		return []string{"--registry=" + own, "--config." + p.Scope() + ":registry=" + own}, nil
	case own != "":
		return []string{"--registry=" + own}, nil
	case given != "":
		return nil, []string{"npm_config_registry=" + given, "pnpm_config_registry=" + given}
	}
	return nil, nil
}

func planPNPM(argv []string, env func(string) string) *Plan { return pnpmPacker.plan(argv, env) }

var (
	pnpmWants   = regexp.MustCompile(`ERR_PNPM_OTP_(?:NON_INTERACTIVE|SECOND_CHALLENGE)`)
	pnpmLimited = regexp.MustCompile(`(?m)^\s*\[E429\]|\(status 429\b`)
	// 12's own words for what npm has codes for: it may have been taken.
	pnpmUnsure = regexp.MustCompile(`\(status (?:5[0-9][0-9]|409)\b|the publish request failed: error sending request`)
	pnpmExists = regexp.MustCompile(`(?i)cannot publish over the previously published`)
	// 12 wraps its errors at 80 columns, with a bar before each further line.
	pnpmWrap = regexp.MustCompile(`\s*\n\s*│ ?\s*`)
)

func readPNPM(r Run) Verdict {
	r.Out, r.Err = pnpmWrap.ReplaceAll(r.Out, []byte(" ")), pnpmWrap.ReplaceAll(r.Err, []byte(" "))
	switch {
	case r.has(pnpmWants):
		if _, _, ok := pnpmPair(r.Out); ok {
			return WantsLink
		}
		return WantsCode
	case r.has(pnpmLimited):
		return Limited
	case r.has(pnpmExists):
		return Exists
	case r.has(pnpmUnsure):
		return Unsure
	}
	return readNPM(r)
}

func pnpmPair(out []byte) (auth, done string, ok bool) {
	var v struct {
		Error struct {
			Auth string `json:"authUrl"`
			Done string `json:"doneUrl"`
		} `json:"error"`
	}
	if json.Unmarshal(last(out), &v) != nil || v.Error.Auth == "" || v.Error.Done == "" {
		return "", "", false
	}
	return v.Error.Auth, v.Error.Done, true
}
