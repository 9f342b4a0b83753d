package answer

// Couriers: one per asker, so that a human's stopped terminal stops nothing
// else.

import (
	"context"
	"slices"
	"sync"
)

const (
	maxNotices = 64
	// maxQueue has room for all prompts that are open and, for all that an asker
	// has been told of, the word that they are over.
	maxQueue = 4 * maxPrompts
)

// Courier hands news to one asker. It keeps the newest snapshot of each prompt
// only, so an asker that is slow misses steps but never the last word on what it
// was told of.
type Courier struct {
	out  chan News
	wake chan struct{}

	mu      sync.Mutex
	order   []string // prompts whose newest snapshot is not handed over yet
	newest  map[string]Prompt
	told    map[string]bool // prompts that were handed over and were not over
	notices []string
	absent  *Absence // not handed over yet
	closed  bool

	blunt bool // for who is not [Discreet]
}

// NewCourier makes one. It hands out nothing until it is told to with [Courier.News].
func NewCourier() *Courier {
	return &Courier{out: make(chan News), wake: make(chan struct{}, 1), newest: map[string]Prompt{}, told: map[string]bool{}}
}

// courierFor makes one for an asker.
func courierFor(a Asker) *Courier {
	c := NewCourier()
	_, discreet := a.(Discreet)
	c.blunt = !discreet
	return c
}

// Tell gives it one more piece of news. It never blocks.
func (c *Courier) Tell(n News) {
	switch {
	case n.Away != nil:
		c.absence(*n.Away)
	case n.Prompt == nil:
		c.notice(n.Notice)
	default:
		c.prompt(*n.Prompt)
	}
}

// News hands out what it is told, until ctx ends, or it was closed and has handed
// out everything; then it closes the channel. Call it once.
func (c *Courier) News(ctx context.Context) <-chan News {
	go c.deliver(ctx)
	return c.out
}

// Close says that there will be no more news.
func (c *Courier) Close() { c.close() }

func (c *Courier) prompt(p Prompt) {
	if c.blunt && p.Quiet {
		return
	}
	c.mu.Lock()
	if !slices.Contains(c.order, p.ID) {
		if len(c.order) >= maxQueue {
			c.skip()
		}
		c.order = append(c.order, p.ID)
	}
	c.newest[p.ID] = p
	c.mu.Unlock()
	c.ring()
}

// skip drops the oldest prompt that came and ended while the asker was not
// listening: it need not be told that something is over of which it never heard.
func (c *Courier) skip() {
	i := slices.IndexFunc(c.order, func(id string) bool { return c.newest[id].Phase == Over && !c.told[id] })
	if i >= 0 {
		delete(c.newest, c.order[i])
		c.order = slices.Delete(c.order, i, i+1)
	}
}

func (c *Courier) notice(text string) {
	c.mu.Lock()
	if len(c.notices) < maxNotices {
		c.notices = append(c.notices, text)
	}
	c.mu.Unlock()
	c.ring()
}

func (c *Courier) absence(a Absence) {
	if c.blunt {
		return
	}
	c.mu.Lock()
	c.absent = &a
	c.mu.Unlock()
	c.ring()
}

func (c *Courier) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.ring()
}

func (c *Courier) ring() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// next takes the oldest news out.
func (c *Courier) next() (n News, ok, closed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case len(c.notices) > 0:
		n.Notice, c.notices = c.notices[0], c.notices[1:]
		return n, true, false
	case c.absent != nil: // before the prompts that it is about
		n.Away, c.absent = c.absent, nil
		return n, true, false
	case len(c.order) > 0:
		p := c.newest[c.order[0]]
		delete(c.newest, c.order[0])
		c.order = c.order[1:]
		if p.Phase == Over {
			delete(c.told, p.ID)
		} else {
			c.told[p.ID] = true
		}
		return News{Prompt: &p}, true, false
	}
	return n, false, c.closed
}

// deliver runs until the courier is closed and empty, or ctx ends.
func (c *Courier) deliver(ctx context.Context) {
	defer close(c.out)
	for {
		n, ok, closed := c.next()
		switch {
		case ok:
			select {
			case c.out <- n:
			case <-ctx.Done():
				return
			}
		case closed:
			return
		default:
			select {
			case <-c.wake:
			case <-ctx.Done():
				return
			}
		}
	}
}
