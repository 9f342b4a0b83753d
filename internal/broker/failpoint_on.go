//go:build failpoints && unix

package broker

// A relay that kills itself where it is told to, for tests of what is left then.
// No released program has this: it needs a build tag.

import (
	"fmt"
	"os"
	"syscall"
	"time"
)

// failpoint kills this process, as kill -9 does, before or after it appends what
// CFA_FAILPOINT names: a record of that event ("before answered"), or what is
// noted beside the requests ("after note declined", "before note refused").
func failpoint(when, what string) {
	if here := when + " " + what; here == os.Getenv("CFA_FAILPOINT") {
		fmt.Fprintf(os.Stderr, "failpoint: %s\n", here)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // nothing more happens here until it comes
	}
}

// moved is how far CFA_CLOCK moves the relay's clock ("-5m"). The NATS server in
// this process goes by the system's, as one on another machine would.
var moved = func() time.Duration {
	text := os.Getenv("CFA_CLOCK")
	if text == "" {
		return 0
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		panic("CFA_CLOCK: " + err.Error())
	}
	return d
}()

// relayTime is the time by which a relay goes.
func relayTime() time.Time { return time.Now().Add(moved) }
