package dial

// The certificate of a relay that no authority vouches for, by its hash: what an
// invitation holds in the place of a file.

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
)

// Certificate gives the certificate with this hash (SHA-256, in hex) that the relay
// shows, in PEM, as Target.CAFile takes it. Nothing is sent: what else the server
// shows is not looked at, and the certificate is trusted for nothing here.
func (r *Relay) Certificate(ctx context.Context, hash string) ([]byte, error) {
	if r.tls == nil {
		return nil, fmt.Errorf("%w: %s is without TLS, and the relay's certificate is to be known by its hash", ErrTLS, r.url)
	}
	address := r.url.Host
	if r.url.Port() == "" {
		address = net.JoinHostPort(r.url.Hostname(), "443")
	}
	ctx, cancel := context.WithTimeout(ctx, r.wait)
	defer cancel()
	d := &dialer{ctx: ctx, relay: r}
	conn, err := d.dial(ctx, "tcp", address)
	if err != nil {
		return nil, r.explain(err)
	}
	defer conn.Close()
	config := r.tls.Clone()
	// The hash is what is verified. Whether the name is right is seen at each
	// connection, with this certificate as the authority.
	config.InsecureSkipVerify = true
	client := tls.Client(conn, config)
	if err := client.HandshakeContext(ctx); err != nil {
		return nil, r.explain(err)
	}
	for _, cert := range client.ConnectionState().PeerCertificates {
		if sum := sha256.Sum256(cert.Raw); hex.EncodeToString(sum[:]) == hash {
			return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), nil
		}
	}
	return nil, fmt.Errorf("%w: %s does not show the certificate that the invitation names: its certificate was changed since, or this is another server; %w", ErrTLS, r.url.Host, errAsk)
}

var errAsk = errors.New("ask for a new invitation")
