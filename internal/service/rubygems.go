package service

// RubyGems. Tried out: gem 3.3 with a code, gem 4 with a link. Source:
// rubygems/rubygems, lib/rubygems/gemcutter_utilities.rb.

import (
	"regexp"
	"time"
)

var rubygems = &Service{
	Name: "rubygems", Title: "gem",
	Format: "digits:6", Retries: 2, Reuse: true, Life: 50 * time.Second,
	Is: func(argv []string) bool {
		return runs(argv, "gem", "push") || runs(argv, "gem", "yank") || runs(argv, "gem", "owner")
	},
	Env: []string{"GEM_HOST_OTP_CODE"},
	Read: func(r Run) Verdict {
		switch {
		case r.has(gemLink):
			return WantsLink
		case r.has(gemWants):
			return WantsCode
		case r.has(gemLimited):
			return Limited
		}
		return Failed
	},
	// gem 4 shows the link, and waits for it by itself for five minutes. On a pipe Ruby
	// would keep back what it shows until it ends.
	Link: &Link{Shown: regexp.MustCompile(`(https?://\S+/webauthn_verification/[^\s?]+(?:\?port=[0-9]+)?)\s`), Unasked: true,
		Died: func(r Run) bool { return r.has(gemLink) && !r.has(gemWrong) }},
	Ruby:  "$stdout.sync = true",
	Pages: []Page{{Host: "rubygems.org", Under: "/webauthn_verification/"}},
}

var (
	gemLink    = regexp.MustCompile(`/webauthn_verification/`)
	gemWants   = regexp.MustCompile(`You have enabled multi-?factor authentication|Your OTP code is incorrect`)
	gemWrong   = regexp.MustCompile(`Your OTP code is incorrect`)
	gemLimited = regexp.MustCompile(`(?i)Too Many Requests|Retry later`)
)
