//go:build failpoints && unix

package broker

// A relay that kills itself where it is told to, for tests of what is left then.
// No released program has this: it needs a build tag.

import (
	"fmt"
	"os"
	"syscall"

	"github.com/continuousauth/action/internal/lifecycle"
)

// failpoint kills this process, as kill -9 does, before or after it appends a
// record of the event that CFA_FAILPOINT names: "before answered".
func failpoint(when string, event lifecycle.Event) {
	if here := when + " " + string(event); here == os.Getenv("CFA_FAILPOINT") {
		fmt.Fprintf(os.Stderr, "failpoint: %s\n", here)
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // nothing more happens here until it comes
	}
}
