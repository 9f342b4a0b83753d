//go:build !failpoints || !unix

package broker

import "github.com/continuousauth/action/internal/lifecycle"

// failpoint does nothing: see failpoint_on.go.
func failpoint(string, lifecycle.Event) {}
