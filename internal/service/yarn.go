package service

// yarn 4 ("berry"), tried out with 4.18. It takes a code as an argument only, or on
// a terminal. Source: yarnpkg/berry, plugin-npm, npmHttpUtils.

import (
	"regexp"
	"time"
)

var yarnBerry = &Service{
	Name: "yarn", Title: "yarn",
	Format: "digits:6", Retries: 2, Reuse: true, Life: 50 * time.Second,
	Is:     func(argv []string) bool { return runs(argv, "yarn", "npm", "publish") },
	Prompt: regexp.MustCompile(`One-time password:[^\n]*$`),
	Took:   regexp.MustCompile(`Package archive published`),
	Answers: map[*regexp.Regexp]string{
		// Asked first where the registry's notice has an address in it.
		regexp.MustCompile(`Do you want to try to open this url now\?[^\n]*$`): "n",
	},
	Read: func(r Run) Verdict {
		switch {
		case r.has(yarnWants):
			return WantsCode
		case r.has(yarnLimited):
			return Limited
		case r.has(pnpmExists):
			return Exists
		}
		return Failed
	},
}

var (
	yarnWants   = regexp.MustCompile(`YN0033: [^\n]*requires additional authentication|YN0041: Invalid OTP token`)
	yarnLimited = regexp.MustCompile(`Response Code: 429\b`)
)
