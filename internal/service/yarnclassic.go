package service

// yarn 1 ("classic"), tried out with 1.22. It takes a code as an argument only, or on
// a terminal, where it shows what is typed. Source: yarnpkg/yarn,
// src/cli/commands/publish.js, src/registries/npm-registry.js.

import (
	"regexp"
	"time"
)

var yarn = &Service{
	Name: "yarn-classic", Title: "yarn",
	Format: "digits:6", Retries: 2, Reuse: true, Life: 50 * time.Second,
	Is:     func(argv []string) bool { return runs(argv, "yarn", "publish") },
	Prompt: regexp.MustCompile(`npm one-time password:\s*$`),
	Took:   regexp.MustCompile(`success Published\.`),
	Read: func(r Run) Verdict {
		switch {
		case r.has(yarnClassicWants):
			return WantsCode
		case r.has(pnpmExists):
			return Exists
		}
		// A rate limit has no word of its own there, only the registry's.
		return Failed
	},
}

var yarnClassicWants = regexp.MustCompile(`error Couldn't publish package: "(?:Incorrect one-time password|Can't answer a question unless a user TTY)`)
