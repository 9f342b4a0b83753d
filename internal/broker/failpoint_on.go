//go:build failpoints && unix

package broker

// A relay that kills itself where it is told to, for tests of what is left then.
// No released program has this: it needs a build tag.

import (
	"fmt"
	"os"
	"syscall"
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
