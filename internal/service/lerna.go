package service

// lerna 9, tried out. It publishes by itself, and knows no links. Source:
// lerna/lerna, libs/core/src/lib/otplease.ts.

import (
	"regexp"
	"time"
)

var lerna = &Service{
	Name: "lerna", Title: "lerna",
	Format: "digits:6", Retries: 0, Reuse: true, Life: 50 * time.Second,
	Is:  func(argv []string) bool { return runs(argv, "lerna", "publish") },
	Env: []string{"NPM_CONFIG_OTP"},
	Read: func(r Run) Verdict {
		if r.has(lernaWants) {
			return WantsCode
		}
		return Failed
	},
	// What fails leaves changed package.json files behind, which the next run refuses;
	// and without from-package it has made, tagged and pushed a version before it
	// publishes, after which a second run finds nothing to do and ends well.
	Once: func([]string) bool { return true },
}

var lernaWants = regexp.MustCompile(`(?m)^lerna ERR! EOTP\b`)
