package broker

// Limits that keep one client from taking what others need: messages in the
// relay's hands, and messages a second.

import (
	"sync"
	"time"
)

// An honest job has one message under way and sends a few a minute, a responder
// some for each of its prompts.
const (
	mostUnderWay = 16
	mostInWindow = 500
	window       = 10 * time.Second
)

type verdict int

const (
	takeIt   verdict = iota
	tooMuch          // drop it: its sender has others under way, or was told to go
	flooding         // drop it and close the connection: said once a window
)

type traffic struct {
	mu   sync.Mutex
	most int // messages of one key in a window
	by   map[string]*flow
}

type flow struct {
	underWay, count int
	since           time.Time
}

func newTraffic() *traffic { return &traffic{most: mostInWindow, by: map[string]*flow{}} }

// begin says whether a message of key is taken; end must follow if it is.
func (t *traffic) begin(key string, now time.Time) verdict {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.by[key]
	if f == nil {
		f = &flow{since: now}
		t.by[key] = f
	}
	if d := now.Sub(f.since); d >= window || d < 0 {
		f.since, f.count = now, 0
	}
	f.count++
	switch {
	case f.count == t.most+1:
		return flooding
	case f.count > t.most || f.underWay >= mostUnderWay:
		return tooMuch
	}
	f.underWay++
	return takeIt
}

func (t *traffic) end(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.by[key]; f != nil {
		f.underWay--
	}
}

// forget drops keys that have been quiet for a window.
func (t *traffic) forget(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key, f := range t.by {
		if f.underWay == 0 && now.Sub(f.since) >= window {
			delete(t.by, key)
		}
	}
}
