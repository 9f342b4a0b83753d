package e2e

// A relay that passes its clients' credentials on. A responder that is enrolled
// at two relays dials a hostile one, which opens a connection of its own at the
// honest one, gives the responder that one's nonce to sign, and hands in what it
// signed: it would be that human there, read each waiting prompt, and close the
// human's own connection, which is older than its own.

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/wire"
)

// forwarder passes each connection on to another address, byte by byte.
func forwarder(t *testing.T, to string) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	t.Cleanup(func() { l.Close(); work.Wait() })
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{c, up}, {up, c}} {
				work.Go(func() {
					io.Copy(way[0], way[1])
					c.Close()
					up.Close()
				})
			}
		}
	})
	return l.Addr().String()
}

// Promise 2, against a relay that a responder trusts with another project.
func TestARelayCannotLogInAtAnotherAsItsResponder(t *testing.T) {
	t.Parallel()
	var connect nkeys.KeyPair
	w := newWorld(t, func(w *world) {
		sign, err := wire.NewSigningKey()
		if err != nil {
			t.Fatal(err)
		}
		if connect, err = wire.NewConnectKey(); err != nil {
			t.Fatal(err)
		}
		w.humans = append(w.humans, &person{name: "Bo", connect: wire.PublicKey(connect), sign: wire.PublicKey(sign)})
	})
	hostile := "nats://" + forwarder(t, strings.TrimPrefix(w.url, "nats://"))
	token := "" // that the hostile server brings; "": none
	dials := func(relay string) error {
		t.Helper()
		r, err := dial.Parse(dial.Target{URL: hostile, Name: relay})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		c, err := r.Connect(ctx, connect, token)
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Request(ctx, wire.DeskSubject(wire.PublicKey(connect), wire.VerbPending), wire.PendingQuery{})
		return err
	}
	if err := dials("hostile.example"); !errors.Is(err, dial.ErrRefused) {
		t.Errorf("through the relay hostile.example, the responder's credentials were good at localhost: %v", err)
	}
	// Neither is told why; the log of the relay that was to be deceived has it.
	w.relay.waitFor(wire.PublicKey(connect) + `.*the client means the relay hostile\.example`)
	// In the place of her statement the hostile server puts an ID token that it had
	// minted, by any job of any repository, for the key that it has seen: as if she
	// were a job.
	claims := devissuer.GitHubClaims("hostile/anything", nil)
	claims["aud"] = wire.Audience("localhost", wire.PublicKey(connect))
	var err error
	if token, err = w.issuer.Mint(claims); err != nil {
		t.Fatal(err)
	}
	if err := dials("localhost"); !errors.Is(err, dial.ErrRefused) {
		t.Errorf("by an ID token for her key, somebody is let in as the responder: %v", err)
	}
	w.relay.waitFor(wire.PublicKey(connect) + `.*an ID token came with an enrolled responder's key`)
	token = ""
	// The control: the same bytes on the same way, meant for this relay.
	if err := dials("localhost"); err != nil {
		t.Errorf("meant for this relay: %v", err)
	}
}
