package page

// Who is let in. Of each secret only its hash is kept: whoever could read this
// program's memory in a dump, or time a comparison, would still not be in.

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"sync"
	"time"
)

const (
	// TicketLasts is how long a link that nobody has followed lets in.
	TicketLasts = 2 * time.Minute
	// idleLasts is how long a session lasts that no human uses.
	idleLasts = 12 * time.Hour

	maxTickets  = 8
	maxSessions = 16
	maxStreams  = 4 // of a session: its tabs
)

type hash = [sha256.Size]byte

// secret makes one of 256 bits.
func secret() (text string, h hash) {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails: it would end the program
	text = base64.RawURLEncoding.EncodeToString(b)
	return text, sha256.Sum256([]byte(text))
}

// sessions are those that are let in.
type sessions struct {
	now func() time.Time

	mu      sync.Mutex
	tickets map[hash]ticket
	in      map[hash]*session // by the cookie
}

// ticket is a link that was not followed yet.
type ticket struct {
	until time.Time
	about string
}

// session is one browser that is in.
type session struct {
	about string // the passkey that let it in; "": a link did
	token hash
	used  time.Time // by a human
	ends  context.Context
	end   context.CancelFunc
	slots chan struct{} // of streams
}

// ticket makes a secret that lets one browser in, once; about comes back with it.
func (s *sessions) ticket(lasts time.Duration, about string) string {
	text, h := secret()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	if s.tickets == nil {
		s.tickets = map[hash]ticket{}
	}
	for len(s.tickets) >= maxTickets {
		drop(s.tickets, func(a, b ticket) bool { return a.until.Before(b.until) })
	}
	s.tickets[h] = ticket{s.now().Add(lasts), about}
	return text
}

// redeem uses a ticket up.
func (s *sessions) redeem(text string) (about string, ok bool) {
	h := sha256.Sum256([]byte(text))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	t, ok := s.tickets[h]
	delete(s.tickets, h)
	return t.about, ok
}

// begin lets somebody in.
func (s *sessions) begin(about string) (cookie, token string) {
	cookie, name := secret()
	token, h := secret()
	n := &session{about: about, token: h, slots: make(chan struct{}, maxStreams)}
	n.ends, n.end = context.WithCancel(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	n.used = s.now()
	if s.in == nil {
		s.in = map[hash]*session{}
	}
	for len(s.in) >= maxSessions {
		drop(s.in, func(a, b *session) bool { return a.used.Before(b.used) }).end()
	}
	s.in[name] = n
	return cookie, token
}

// find gives the session that both halves name, or nil. used: a human's doing.
func (s *sessions) find(cookie, token string, used bool) *session {
	if cookie == "" || token == "" {
		return nil
	}
	name, h := sha256.Sum256([]byte(cookie)), sha256.Sum256([]byte(token))
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
	n := s.in[name]
	if n == nil || subtle.ConstantTimeCompare(n.token[:], h[:]) != 1 {
		return nil
	}
	if used {
		n.used = s.now()
	}
	return n
}

// leave ends one.
func (s *sessions) leave(n *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, other := range s.in {
		if other == n {
			delete(s.in, name)
		}
	}
	n.end()
}

// end ends those of one passkey.
func (s *sessions) end(about string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, n := range s.in {
		if n.about == about {
			n.end()
			delete(s.in, name)
		}
	}
}

// clear ends all of them.
func (s *sessions) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.in {
		n.end()
	}
	s.in, s.tickets = nil, nil
}

// check ends what is over; a stream asks for it, which no request would.
func (s *sessions) check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sweep()
}

func (s *sessions) sweep() {
	t := s.now()
	for h, ticket := range s.tickets {
		if !t.Before(ticket.until) {
			delete(s.tickets, h)
		}
	}
	for name, n := range s.in {
		if t.Sub(n.used) >= idleLasts {
			n.end()
			delete(s.in, name)
		}
	}
}

// drop takes the first one out.
func drop[V any](all map[hash]V, before func(a, b V) bool) V {
	var first hash
	started := false
	for h, v := range all {
		if !started || before(v, all[first]) {
			first, started = h, true
		}
	}
	v := all[first]
	delete(all, first)
	return v
}

// enter lets a browser in that brings a ticket.
func enter(c *call) {
	var q struct {
		Ticket string `json:"ticket"`
	}
	if !c.takes(&q) {
		return
	}
	if _, ok := c.page.sessions.redeem(q.Ticket); !ok {
		refuse(c.w, http.StatusUnauthorized, "this link was used already, or is too old")
		return
	}
	c.letIn("")
}

func (c *call) letIn(about string) {
	if n := c.page.sessions.find(c.cookie(), c.r.Header.Get(tokenHeader), false); n != nil {
		c.page.sessions.leave(n) // the same tab, come again
	}
	cookie, token := c.page.sessions.begin(about)
	http.SetCookie(c.w, &http.Cookie{
		Name: c.at.cookie, Value: cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: c.at.scheme == "https",
	})
	reply(c.w, struct {
		Token string `json:"token"`
	}{token})
}

// leave logs out.
func leave(c *call) {
	c.page.sessions.leave(c.session)
	http.SetCookie(c.w, &http.Cookie{Name: c.at.cookie, Path: "/", MaxAge: -1, HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: c.at.scheme == "https"})
	reply(c.w, struct{}{})
}
