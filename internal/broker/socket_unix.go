//go:build unix

package broker

import (
	"net"
	"os"
	"path/filepath"
)

// listenPrivate makes the socket in a directory that only this user can enter,
// and moves it to its place when it has its mode: with a chmod alone another
// user could connect in between, and a umask is the whole process's.
func listenPrivate(path string) (net.Listener, error) {
	private, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	first := filepath.Join(private, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: first, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it would remove by the first name; the next start removes the socket
	if err = os.Chmod(first, 0o600); err == nil {
		err = os.Rename(first, path)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
