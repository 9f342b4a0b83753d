//go:build !unix

package broker

import "net"

// listenPrivate relies on the data directory's access list, where there are no
// file modes.
func listenPrivate(path string) (net.Listener, error) { return net.Listen("unix", path) }
