package broker

// The end of a relay that was told to end: nothing new, what is under way to its
// end, then the connections, so that everybody comes back elsewhere, or here, at
// once. State is nowhere but in the stream, so there is nothing to save.

import (
	"context"
	"slices"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

var errDraining = refuse(wire.RefusedBusy, "this relay is being shut down and takes no new request", "this is tried again by itself, at another relay or when this one is back")

const (
	// receiptWithin bounds the wait for receipts of codes that were passed on a
	// moment ago. One that does not come is no loss: whoever typed the code has it
	// until the job does, and sends it again to the next relay.
	receiptWithin = 3 * time.Second
	// handlersWithin is longer than a message may take.
	handlersWithin = 11 * time.Second
)

// Drain has the relay take no new request, and waits until what is under way has
// ended. Close must follow.
func (r *Relay) Drain() { r.drained.Do(r.drain) }

func (r *Relay) drain() {
	if !r.serving.Load() || r.ctx.Err() != nil {
		return
	}
	r.draining.Store(true)
	r.log.Info("relay drains: it takes no new request", "open", r.store.count())
	// A code that is between its human and its job gets there in the time of a
	// round trip, if the job is still there.
	r.waitFor(receiptWithin, func() bool { return len(r.handedOver()) == 0 })
	// No more messages: on a cluster the next one goes to another relay. What has
	// come is handled, so the connection stays until it is.
	for _, sub := range r.takes {
		if err := sub.Drain(); err != nil {
			r.log.Warn("relay drains", "subject", sub.Subject, "error", err)
		}
	}
	r.waitFor(handlersWithin, func() bool {
		return !slices.ContainsFunc(r.takes, (*nats.Subscription).IsValid)
	})
	timeout := time.NewTimer(handlersWithin)
	defer timeout.Stop()
	for range handlersAtOnce {
		select {
		case r.slots <- struct{}{}: // never given back: nothing begins any more
		case <-timeout.C:
			r.log.Warn("some messages were not handled in time; they are sent again by their senders")
			return
		}
	}
	r.log.Info("relay has drained", "open", r.store.count())
}

// handedOver is the requests whose code was passed on just now and not yet
// received, and whose job is connected.
func (r *Relay) handedOver() []*entry {
	now := r.now()
	return r.store.those(func(e *entry) bool {
		return e.rec.State == lifecycle.StateAnswered && now.Sub(time.UnixMilli(e.rec.Answered)) < receiptWithin && r.conns.has(e.rec.Key)
	})
}

// waitFor waits until done says so, for a time at most.
func (r *Relay) waitFor(most time.Duration, done func() bool) {
	ctx, cancel := context.WithTimeout(r.ctx, most)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
