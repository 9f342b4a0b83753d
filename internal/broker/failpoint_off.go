//go:build !failpoints || !unix

package broker

import "time"

// failpoint does nothing: see failpoint_on.go.
func failpoint(_, _ string) {}

// relayTime is the time by which a relay goes.
func relayTime() time.Time { return time.Now() }
