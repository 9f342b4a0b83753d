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

type recent struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]signed // by the token's hash: no token is kept
}

type signed struct {
	t   *token
	set *keySet
	got time.Time // when the keys that verified it had been fetched
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
	r.known[sha256.Sum256([]byte(raw))] = signed{&kept, set, got}
}

func (s *keySet) fetched() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got
}
