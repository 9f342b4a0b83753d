package trust

// A job shows the same token when it connects and, a moment later, when it asks.
// What was found the first time is kept for the second: the form and the
// signature, which cannot change while the issuer's keys are the same ones.
// Audience, times and claims are checked each time.

import (
	"crypto/sha256"
	"sync"
	"time"
)

// mostRecent bounds what is kept, at about 4 KiB a token. A storm of jobs only
// makes the second check cost what the first one did.
const mostRecent = 1024

// keepRecent is how long. A job asks right after it has connected; what is kept
// for longer is room that every waiting job takes for nothing.
const keepRecent = 15 * time.Second

type recent struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]signed // by the token's hash: no token is kept
	due   bool                         // forget runs when the oldest is that old
}

type signed struct {
	t   *token
	set *keySet
	got time.Time // when the keys that verified it had been fetched
	at  time.Time // when it was kept
}

func (r *recent) find(raw string) (*token, *keySet, bool) {
	r.mu.Lock()
	s, ok := r.known[sha256.Sum256([]byte(raw))]
	r.mu.Unlock()
	if !ok || !s.got.Equal(s.set.fetched()) {
		return nil, nil, false
	}
	return s.t, s.set, true
}

func (r *recent) add(raw string, t *token, set *keySet, got time.Time) {
	kept := *t
	kept.raw, kept.payload = "", nil
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || len(r.known) >= mostRecent {
		r.known = map[[sha256.Size]byte]signed{}
	}
	r.known[sha256.Sum256([]byte(raw))] = signed{&kept, set, got, time.Now()}
	if !r.due {
		r.due = true
		time.AfterFunc(keepRecent, r.forget)
	}
}

// forget drops what is old, and comes again while there is something left.
func (r *recent) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := map[[sha256.Size]byte]signed{} // a map never shrinks
	oldest := time.Time{}
	for hash, s := range r.known {
		if time.Since(s.at) >= keepRecent {
			continue
		}
		left[hash] = s
		if oldest.IsZero() || s.at.Before(oldest) {
			oldest = s.at
		}
	}
	r.known, r.due = left, len(left) > 0
	if r.due {
		time.AfterFunc(max(time.Second, keepRecent-time.Since(oldest)), r.forget)
	}
}

func (s *keySet) fetched() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got
}
