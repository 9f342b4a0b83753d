//go:build darwin || linux

package broker

import "golang.org/x/sys/unix"

// diskFree is what a user without rights may still write to the disk that dir is
// on.
func diskFree(dir string) (uint64, bool) {
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) != nil {
		return 0, false
	}
	return s.Bavail * uint64(s.Bsize), true
}
