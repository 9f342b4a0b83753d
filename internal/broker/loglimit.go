package broker

// A limit on the lines that strangers can cause in the relay's log.

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// mostLines is how many lines of one sort a log takes in a window. Refusals are
// for strangers to cause, and would fill a disk.
const mostLines = 50

// limitLog bounds lines about refusals, and what nats-server says of its
// clients. What was accepted is bounded by its own limits, and always logged.
func limitLog(l *slog.Logger, now func() time.Time) *slog.Logger {
	return slog.New(&limiter{next: l.Handler(), state: &limiterState{now: now, by: map[string]*flow{}}})
}

type limiter struct {
	next  slog.Handler
	state *limiterState
}

type limiterState struct {
	mu  sync.Mutex
	now func() time.Time
	by  map[string]*flow
}

func (h *limiter) Enabled(ctx context.Context, l slog.Level) bool { return h.next.Enabled(ctx, l) }

func (h *limiter) WithAttrs(a []slog.Attr) slog.Handler {
	return &limiter{h.next.WithAttrs(a), h.state}
}

func (h *limiter) WithGroup(name string) slog.Handler {
	return &limiter{h.next.WithGroup(name), h.state}
}

func (h *limiter) Handle(ctx context.Context, r slog.Record) error {
	sort := sortOf(r)
	if sort == "" {
		return h.next.Handle(ctx, r)
	}
	s := h.state
	now := s.now()
	s.mu.Lock()
	f := s.by[sort]
	if f == nil {
		f = &flow{since: now}
		s.by[sort] = f
	}
	missed := 0
	if d := now.Sub(f.since); d >= window || d < 0 {
		missed = f.count - mostLines
		f.since, f.count = now, 0
	}
	f.count++
	over := f.count > mostLines
	s.mu.Unlock()
	if missed > 0 {
		more := slog.NewRecord(r.Time, slog.LevelWarn, fmt.Sprintf("%d more lines like the next were left out", missed), 0)
		if err := h.next.Handle(ctx, more); err != nil {
			return err
		}
	}
	if over {
		return nil
	}
	return h.next.Handle(ctx, r)
}

// sortOf names the sort of a line that is limited, "" for one that is not. There
// are few sorts: none holds what a client says.
func sortOf(r slog.Record) string {
	if len(r.Message) > 12 && r.Message[:12] == "nats-server:" {
		return "nats-server"
	}
	if r.Message != "decision" {
		return ""
	}
	var what, code string
	refused := false
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "what":
			what = a.Value.String()
		case "code":
			code = a.Value.String()
		case "outcome":
			refused = a.Value.String() == "refused"
		}
		return true
	})
	switch {
	case what == "connection closed", what == "message dropped":
		return what
	case refused && code != "": // a verb is a client's word
		return "refused " + code
	case refused:
		return "refused " + what
	}
	return ""
}
