package service

// changesets 2, tried out. It has npm publish each package that the registry has not
// got, several at a time, so that running it again goes on where it stopped. Source:
// changesets/changesets, packages/cli/src/commands/publish.

import (
	"bytes"
	"regexp"
	"time"
)

var changesets = &Service{
	Name: "changesets", Title: "changesets",
	Format: "digits:6", Retries: 2, Reuse: true, Life: 50 * time.Second,
	Is: func(argv []string) bool {
		return runs(argv, "changeset", "publish") || runs(argv, "@changesets/cli", "publish")
	},
	Env:  []string{"NPM_CONFIG_OTP"},
	Read: readChangesets,
}

var (
	changesetsFailed = regexp.MustCompile(`(?m)an error occurred while publishing [^\n]*`)
	changesetsWants  = regexp.MustCompile(`\bEOTP\b|requires a one-time password`)
	changesetsLimit  = regexp.MustCompile(`\bE429\b`)
)

// readChangesets looks at each package that failed: all of them for want of a code,
// or it is something else.
func readChangesets(r Run) Verdict {
	text := bytes.Join([][]byte{r.Out, r.Err}, []byte("\n"))
	failed := changesetsFailed.FindAll(text, -1)
	if len(failed) == 0 {
		return Failed
	}
	if npmOpen.Match(text) {
		return WantsLink
	}
	wants, limited := 0, 0
	for _, line := range failed {
		switch {
		case changesetsWants.Match(line):
			wants++
		case changesetsLimit.Match(line):
			limited++
		}
	}
	switch len(failed) {
	case wants:
		return WantsCode
	case limited, wants + limited:
		return Limited
	}
	return Failed
}
