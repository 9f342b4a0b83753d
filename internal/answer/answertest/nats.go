package answertest

// The relay behind a real NATS server on loopback, so that what a responder
// does on the wire is what is tested.

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/wire"
)

// front is what the network sees of a relay: a TCP port that can be cut, and a
// NATS server behind it.
type front struct {
	server *server.Server
	nc     *nats.Conn
	tcp    net.Listener
	done   chan struct{}

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// Listen puts the relay behind a NATS server on loopback. Its clients need an
// enrolled nkey, and to say that they mean this relay.
func Listen(name string) (*Relay, error) {
	r := NewRelay(name)
	s, err := server.NewServer(&server.Options{
		ServerName: "answertest", Host: "127.0.0.1", Port: -1, NoLog: true, NoSigs: true, AlwaysEnableNonce: true,
		MaxPayload: wire.MaxMessage, CustomClientAuthentication: (*doorkeeper)(r),
	})
	if err != nil {
		return nil, err
	}
	go s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		s.Shutdown()
		return nil, errors.New("the NATS server does not start")
	}
	f := &front{server: s, conns: map[net.Conn]bool{}, done: make(chan struct{})}
	r.front = f
	if f.nc, err = nats.Connect("", nats.InProcessServer(s), nats.Token(relayToken)); err != nil {
		r.Close()
		return nil, err
	}
	if f.tcp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		r.Close()
		return nil, err
	}
	go f.accept()
	r.push = func(subject string, h wire.Hint) {
		if data, err := json.Marshal(h); err == nil {
			_ = f.nc.Publish(subject, data)
		}
	}
	_, err = f.nc.Subscribe("cfa.v1.desk.*.*", func(m *nats.Msg) {
		_, key, verb, ok := wire.ParseSubject(m.Subject)
		if !ok || !wire.OwnReply(key, m.Reply) {
			return
		}
		go func() {
			reply, ok := r.handle(key, verb, m.Data)
			if data, err := json.Marshal(reply); ok && err == nil {
				_ = m.Respond(data)
			}
		}()
	})
	if err == nil {
		err = f.nc.Flush()
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

const relayToken = "the relay itself"

// URL is where responders connect to.
func (r *Relay) URL() string { return "nats://" + r.front.tcp.Addr().String() }

// CutTCP ends every TCP connection, as a network does.
func (r *Relay) CutTCP() {
	f := r.front
	f.mu.Lock()
	defer f.mu.Unlock()
	for c := range f.conns {
		_ = c.Close()
	}
}

// Close ends the server.
func (r *Relay) Close() {
	f := r.front
	close(f.done)
	if f.tcp != nil {
		_ = f.tcp.Close()
		r.CutTCP()
	}
	if f.nc != nil {
		f.nc.Close()
	}
	f.server.Shutdown()
	f.server.WaitForShutdown()
}

// accept passes connections through to the NATS server.
func (f *front) accept() {
	for {
		c, err := f.tcp.Accept()
		if err != nil {
			return
		}
		up, err := net.Dial("tcp", f.server.Addr().String())
		if err != nil {
			_ = c.Close()
			continue
		}
		f.mu.Lock()
		f.conns[c], f.conns[up] = true, true
		f.mu.Unlock()
		var wg sync.WaitGroup
		wg.Go(func() { pipe(c, up) })
		wg.Go(func() { pipe(up, c) })
		go func() {
			wg.Wait()
			f.mu.Lock()
			defer f.mu.Unlock()
			delete(f.conns, c)
			delete(f.conns, up)
		}()
	}
}

func pipe(to, from net.Conn) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			_, _ = to.Close(), from.Close()
			return
		}
	}
}

// doorkeeper lets in the relay itself, and enrolled nkeys that sign the nonce
// and that they mean this relay.
type doorkeeper Relay

// Check is server.Authentication's.
func (d *doorkeeper) Check(c server.ClientAuthentication) bool {
	o := c.GetOpts()
	if o.Nkey == "" {
		return c.Kind() == server.CLIENT && o.Token == relayToken
	}
	if !(*Relay)(d).enrolled(o.Nkey) {
		return false
	}
	pub, err := nkeys.FromPublicKey(o.Nkey)
	if err != nil {
		return false
	}
	sig, err := base64.RawURLEncoding.DecodeString(o.Sig)
	if err != nil || pub.Verify(c.GetNonce(), sig) != nil {
		return false
	}
	if wire.CheckConnect(o.Token, o.Nkey, (*Relay)(d).Name, time.Now()) != nil {
		return false
	}
	list := func(subjects ...string) *server.SubjectPermission { return &server.SubjectPermission{Allow: subjects} }
	c.RegisterUser(&server.User{Username: fmt.Sprintf("desk %s", o.Nkey), Permissions: &server.Permissions{
		Publish: list(wire.DeskSubject(o.Nkey, "*")), Subscribe: list(wire.InboxPrefix(o.Nkey)+".>", wire.ProjectSubject("*")),
	}})
	return true
}
