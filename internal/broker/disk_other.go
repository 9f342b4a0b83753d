//go:build !darwin && !linux

package broker

// diskFree cannot be told here.
func diskFree(string) (uint64, bool) { return 0, false }
