package service

// fastlane signs in to Apple and asks for the code on a terminal only. From its
// source (fastlane/fastlane, spaceship/lib/spaceship/two_step_or_factor_client.rb),
// not tried out.

import (
	"regexp"
	"time"
)

var fastlane = &Service{
	Name: "fastlane", Title: "fastlane",
	// A few wrong codes lock the account, so none is asked for again by itself.
	Format: "digits:6", Retries: 0, Life: 5 * time.Minute,
	Is:     func(argv []string) bool { return len(argv) > 0 && argv[0] == "fastlane" },
	Prompt: regexp.MustCompile(`(?i)Please enter the (?:[0-9] digit|4 digit|6 digit)[^\n]*code[^\n]*:\s*$`),
}
