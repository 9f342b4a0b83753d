//go:build !(darwin || dragonfly || freebsd || linux || netbsd || openbsd)

package broker

import (
	"fmt"
	"os"
)

// locks says that hold keeps others out.
const locks = false

// hold makes the data directory. Without locks, a second relay is found out by
// the administration socket of the first.
func hold(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	return func() {}, nil
}

// ownDirectory is for systems that know owners.
func ownDirectory(string) error { return nil }
