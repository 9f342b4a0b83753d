package dial

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestARelayIsKnownByTheHashOfItsCertificate(t *testing.T) {
	t.Parallel()
	a, key := newAuthority(t), connectKey(t)
	s := startServer(t, key, withTLS(a, relayHost), withWebSocket(a))
	hash := func(der []byte) string { sum := sha256.Sum256(der); return hex.EncodeToString(sum[:]) }
	for name, target := range map[string]Target{
		"tls": {URL: "tls://127.0.0.1:" + s.port(t), Name: relayHost},
		"wss": {URL: "wss://127.0.0.1:" + s.webSocket(t), Name: relayHost},
	} {
		r := parse(t, target)
		// What it shows is a leaf alone; which, the server's configuration says.
		config := s.options.TLSConfig
		if name == "wss" {
			config = s.options.Websocket.TLSConfig
		}
		der := config.Certificates[0].Certificate[0]
		got, err := r.Certificate(t.Context(), hash(der))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if block, rest := pem.Decode(got); block == nil || string(block.Bytes) != string(der) || len(rest) > 0 {
			t.Errorf("%s: another certificate", name)
		}
		// With it, and nothing else, the relay is reached; and by its name only.
		target.CAFile = filepath.Join(t.TempDir(), "relay.pem")
		if err := os.WriteFile(target.CAFile, got, 0o600); err != nil {
			t.Fatal(err)
		}
		talks(t, s, connect(t, parse(t, target), key, token), key)
		target.Name = "other.test"
		if _, err := parse(t, target).Connect(t.Context(), key, token); !errors.Is(err, ErrTLS) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := r.Certificate(t.Context(), hash([]byte("another"))); !errors.Is(err, ErrTLS) || !strings.Contains(err.Error(), "ask for a new invitation") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := parse(t, Target{URL: "nats://127.0.0.1:" + s.port(t)}).Certificate(t.Context(), hash(nil)); !errors.Is(err, ErrTLS) {
		t.Errorf("without TLS: %v", err)
	}
	// A server that says nothing costs no more than the time there is.
	if _, err := parse(t, Target{URL: "tls://127.0.0.1:1", Name: relayHost}).Certificate(t.Context(), hash(nil)); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody there: %v", err)
	}
}
