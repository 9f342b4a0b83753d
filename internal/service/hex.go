package service

// Hex (mix hex.publish). From its source, not tried out: it reads HEX_OTP (hexpm/hex,
// lib/hex/state.ex), and what it writes when that is missing or wrong is not known
// well enough to act on. So a human is asked before it runs, and it is not run again
// by itself.

import "time"

var hex = &Service{
	Name: "hex", Title: "mix hex",
	Format: "digits:6", Retries: 0, Life: 50 * time.Second,
	Is: func(argv []string) bool {
		return len(argv) > 1 && argv[0] == "mix" && (argv[1] == "hex.publish" || argv[1] == "hex.retire" || argv[1] == "hex.owner")
	},
	Env:  []string{"HEX_OTP"},
	Once: func([]string) bool { return true },
}
