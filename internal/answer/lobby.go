package answer

// A lobby is for ways to ask that come and go while the desk stays: a page in a
// browser, a terminal that attaches to the background program.
//
// The rule it keeps: who joins late sees all that waits, who leaves stops
// nothing, and who is slow holds nobody up.

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Lobby is an [Asker] to which others can come. Use it once.
type Lobby struct {
	ready chan struct{} // closed when desk is set

	mu      sync.Mutex
	desk    Decisions
	waits   map[string]Prompt // that are not over
	told    Known
	past    []Past // the newest last
	guests  []*Courier
	notices []string // the last few, for who joins late
	away    Absence
	over    bool
}

// NewLobby makes a lobby.
func NewLobby() *Lobby {
	return &Lobby{ready: make(chan struct{}), waits: map[string]Prompt{}}
}

// Discreet is [Discreet]'s: what waits is there for who looks.
func (l *Lobby) Discreet() {}

// Ask is [Asker]'s.
func (l *Lobby) Ask(_ context.Context, news <-chan News, desk Decisions) error {
	l.mu.Lock()
	l.desk = desk
	l.mu.Unlock()
	close(l.ready)
	for n := range news {
		l.tell(n)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	for _, g := range l.guests {
		g.close()
	}
	return nil
}

func (l *Lobby) tell(n News) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n.Away != nil {
		l.away = *n.Away
	} else if n.Prompt == nil {
		l.notices = append(l.notices, n.Notice)
		if len(l.notices) > keptNotices {
			l.notices = slices.Delete(l.notices, 0, 1)
		}
	} else {
		l.waits[n.Prompt.ID] = *n.Prompt
		if p, ended := l.told.Tell(*n.Prompt); ended {
			delete(l.waits, n.Prompt.ID)
			l.past = append(l.past, p)
			if len(l.past) > keptPast {
				l.past = slices.Delete(l.past, 0, 1)
			}
		}
	}
	for _, g := range l.guests {
		g.Tell(n)
	}
}

// keptNotices is how many of the last notices a guest who joins late is told: the
// state of the connections is among them.
const keptNotices = 8

// Join lets a guest in, once the desk is there: the last notices, all that waits,
// then what comes. news is closed when the lobby closes, or some time after ctx has
// ended, which is how a guest leaves. Its Decisions.Quit ends the desk itself, for
// everybody: a guest who has had enough just leaves.
func (l *Lobby) Join(ctx context.Context) (news <-chan News, desk Decisions, err error) {
	select {
	case <-l.ready:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	c := NewCourier()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.notices {
		c.notice(n)
	}
	if !l.away.Until.IsZero() {
		c.absence(l.away)
	}
	for _, p := range sorted(l.waits) {
		c.prompt(p)
	}
	if l.over {
		c.close()
	} else {
		l.guests = append(l.guests, c)
	}
	go func() {
		c.deliver(ctx)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.guests = slices.DeleteFunc(l.guests, func(g *Courier) bool { return g == c })
	}()
	return c.out, l.desk, nil
}

// Past is a prompt that is over.
type Past struct {
	Prompt
	Ended time.Time `json:"ended"`
}

// Known remembers of each prompt what was last verified of it: at its end there is
// no proof any more, and that is what a human knows it by. The zero value is ready.
type Known map[string]Prompt

// Tell takes in a snapshot. With a prompt's last one it gives what to remember.
func (k *Known) Tell(p Prompt) (past Past, ended bool) {
	if *k == nil {
		*k = Known{}
	}
	if p.Phase != Over {
		if p.Facts != (Facts{}) {
			(*k)[p.ID] = p
		}
		return Past{}, false
	}
	if v, ok := (*k)[p.ID]; ok && p.Facts == (Facts{}) {
		p.Facts, p.Service, p.Message, p.Rule = v.Facts, v.Service, v.Message, v.Rule
	}
	delete(*k, p.ID)
	return Past{Prompt: p, Ended: now()}, true
}

// keptPast is how many prompts that are over are remembered, in memory only.
const keptPast = 100

// Past gives the last prompts that ended, the newest first.
func (l *Lobby) Past() []Past {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := slices.Clone(l.past)
	slices.Reverse(all)
	return all
}

// Away says whether the human is.
func (l *Lobby) Away() Absence {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.away
}

// Waiting gives what waits now, in order.
func (l *Lobby) Waiting() []Prompt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return sorted(l.waits)
}

func sorted(waits map[string]Prompt) []Prompt {
	all := make([]Prompt, 0, len(waits))
	for _, p := range waits {
		all = append(all, p)
	}
	slices.SortFunc(all, func(a, b Prompt) int { return a.Number - b.Number })
	return all
}
