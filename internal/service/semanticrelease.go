package service

// semantic-release 25 with its npm plugin, tried out. It pushes the tag before it
// publishes: after a failed publish, a second run finds no new commits, publishes
// nothing, and ends well. So a human is asked before it runs, and it is never run
// again by itself. Source: semantic-release/npm, lib/publish.js.

import "time"

var semanticRelease = &Service{
	Name: "semantic-release", Title: "semantic-release",
	Format: "digits:6", Retries: 0, Life: 50 * time.Second,
	Is:   func(argv []string) bool { return len(argv) > 0 && argv[0] == "semantic-release" },
	Env:  []string{"NPM_CONFIG_OTP"},
	Once: func([]string) bool { return true },
	// It passes npm's own words on.
	Read: readNPM,
}
