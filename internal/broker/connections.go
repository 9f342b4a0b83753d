package broker

// Which connections there are, as the servers report it. One connection per key:
// the newest wins, so that a half-dead one cannot take hints meant for its
// successor. A job's connection without an accepted request is closed.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// idleAfter is how long a job may be connected without an accepted request.
const idleAfter = 10 * time.Second

type connection struct {
	server string
	id     uint64
	start  time.Time
}

type connections struct {
	mu    sync.Mutex
	live  map[string]connection
	ended map[string]time.Time // keys whose last connection has ended, and when
}

func newConnections() *connections {
	return &connections{live: map[string]connection{}, ended: map[string]time.Time{}}
}

// gone says whether key's last connection ended after at.
func (c *connections) gone(key string, at time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	t, ok := c.ended[key]
	return ok && !t.Before(at)
}

// has says whether key is connected.
func (c *connections) has(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.live[key]
	return ok
}

// event is the part of a server's connect and disconnect advisories that counts.
type event struct {
	Server struct {
		ID string `json:"id"`
	} `json:"server"`
	Client struct {
		Start *time.Time `json:"start"`
		ID    uint64     `json:"id"`
		User  string     `json:"user"`
	} `json:"client"`
}

func (r *Relay) watchConnections() error {
	for subject, f := range map[string]func(event){
		"$SYS.ACCOUNT." + r.net.account + ".CONNECT":    r.connected,
		"$SYS.ACCOUNT." + r.net.account + ".DISCONNECT": r.disconnected,
	} {
		if _, err := r.net.system.Subscribe(subject, func(m *nats.Msg) {
			var e event
			if json.Unmarshal(m.Data, &e) != nil {
				return
			}
			var ours bool
			if e.Client.User, ours = strings.CutPrefix(e.Client.User, placed); ours {
				f(e)
			}
		}); err != nil {
			return fmt.Errorf("subscribe %s: %w", subject, err)
		}
	}
	return r.net.system.Flush()
}

func (r *Relay) connected(e event) {
	key := e.Client.User
	c := connection{server: e.Server.ID, id: e.Client.ID, start: r.now()}
	if e.Client.Start != nil {
		c.start = *e.Client.Start
	}
	r.conns.mu.Lock()
	delete(r.conns.ended, key)
	old, had := r.conns.live[key]
	if had && old.start.After(c.start) {
		old, c = c, old // the reports came out of order
	}
	r.conns.live[key] = c
	r.conns.mu.Unlock()
	if had && (old.server != c.server || old.id != c.id) {
		r.log.Info("decision", "what", "connection closed", "key", key, "why", "a newer connection with the same key")
		r.kickConnection(old)
	}
	if r.rules.Load().config.desks[key] != nil {
		return
	}
	time.AfterFunc(idleAfter, func() { r.closeIdle(key, c) })
}

// closeIdle closes a job's connection that has brought no accepted request.
func (r *Relay) closeIdle(key string, c connection) {
	if r.ctx.Err() != nil {
		return
	}
	r.conns.mu.Lock()
	still := r.conns.live[key] == c
	r.conns.mu.Unlock()
	if !still {
		return
	}
	if _, open := r.store.recent(key); open {
		return
	}
	ctx, cancel := context.WithTimeout(r.ctx, 5*time.Second)
	defer cancel()
	switch _, err := r.store.last(ctx, key); {
	case err == nil:
		return
	case !errors.Is(err, errUnknown):
		// Not known now is no reason to let a stranger stay.
		time.AfterFunc(time.Second, func() { r.closeIdle(key, c) })
		return
	}
	r.log.Info("decision", "what", "connection closed", "key", key, "why", "no accepted request within "+idleAfter.String())
	r.kickConnection(c)
}

func (r *Relay) disconnected(e event) {
	r.conns.mu.Lock()
	defer r.conns.mu.Unlock()
	c, ok := r.conns.live[e.Client.User]
	if !ok || c.server != e.Server.ID || c.id != e.Client.ID {
		return
	}
	delete(r.conns.live, e.Client.User)
	if r.rules.Load().config.desks[e.Client.User] != nil {
		r.conns.ended[e.Client.User] = r.now()
	}
}

// kick closes the connection of key, if there is one.
func (r *Relay) kick(key string) {
	r.conns.mu.Lock()
	c, ok := r.conns.live[key]
	r.conns.mu.Unlock()
	if ok {
		r.kickConnection(c)
	}
}

func (r *Relay) kickConnection(c connection) {
	data, err := json.Marshal(map[string]uint64{"cid": c.id})
	if err == nil {
		// The server does nothing about a request that asks for no reply.
		err = r.net.system.PublishRequest("$SYS.REQ.SERVER."+c.server+".KICK", nats.NewInbox(), data)
	}
	if err != nil {
		r.log.Warn("connection not closed", "error", err)
	}
}

// count says how many jobs and responders are connected.
func (r *Relay) count() (jobs, responders int) {
	desks, now := r.rules.Load().config.desks, r.now()
	r.conns.mu.Lock()
	defer r.conns.mu.Unlock()
	for key := range r.conns.live {
		if desks[key] != nil {
			responders++
		} else if _, invited := r.store.invitation(key, now); !invited {
			jobs++
		}
	}
	return jobs, responders
}
