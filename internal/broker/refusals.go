package broker

// What was refused, on record. Refusals are for strangers to cause, so there are
// limits at each end: how many in a minute, for all and for one project; how many
// that wait to be written; and how much of the store they may fill, half of it for
// those who have proved nothing that counts here, so that these cannot hide the
// others. What is left out is counted, and the count is on record.

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/audit"
	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

const (
	refusalsPerMinute  = 30 // on record, of each side
	refusalsPerProject = 10 // of those, of one project; of none at all together as many
	// refusalShare of the store is the most that each side's may fill.
	refusalShare = 40
	// leftOut is the code of a record that has nothing but a count.
	leftOut = "left-out"
)

// sides are who was refused, as it stands in the subject.
var sides = []string{audit.RefusedOutside, audit.RefusedInside}

// refusalLog writes a relay's refusals on subjects that are its own from its start
// to its end, one for each side: nobody else writes between, so each is a chain.
type refusalLog struct {
	store *store
	run   string // names this run of this relay
	queue chan refusedOne

	mu     sync.Mutex
	minute time.Time
	counts map[string]int // of this minute, by side and by side and project
	left   map[string]int64

	chain map[string]*refusalChain // the writer's alone
}

type refusedOne struct {
	side string
	rec  lifecycle.Refusal
}

type refusalChain struct {
	seq      uint64
	hash     string
	unsure   bool      // the last append failed: it may have happened all the same
	kept     int64     // how many there are on this side, of all relays
	measured time.Time // when that was asked
}

func newRefusalLog(s *store) *refusalLog {
	f := &refusalLog{store: s, run: operationID(), queue: make(chan refusedOne, 2*refusalsPerMinute), counts: map[string]int{}, left: map[string]int64{}, chain: map[string]*refusalChain{}}
	for _, side := range sides {
		f.chain[side] = &refusalChain{}
	}
	return f
}

// note puts a refusal on record, or counts it. It never waits.
func (f *refusalLog) note(side, project string, known bool, rec lifecycle.Refusal) {
	now := f.store.now()
	bucket := side + "."
	if known { // else it is a name that a stranger has made up
		bucket += project
	}
	rec.V, rec.Op, rec.At, rec.Project = lifecycle.Version, operationID(), now.UnixMilli(), project
	f.mu.Lock()
	defer f.mu.Unlock()
	if d := now.Sub(f.minute); d >= time.Minute || d < 0 {
		f.minute = now
		clear(f.counts)
	}
	if f.counts[side] >= refusalsPerMinute || f.counts[bucket] >= refusalsPerProject || !f.store.room() {
		f.left[side]++
		return
	}
	select {
	case f.queue <- refusedOne{side, rec.Cut()}:
		f.counts[side]++
		f.counts[bucket]++
	default:
		f.left[side]++
	}
}

// write is the one writer, until ctx ends; what waits then is still written.
func (f *refusalLog) write(ctx context.Context) {
	tick := time.NewTicker(time.Minute)
	defer tick.Stop()
	for {
		select {
		case one := <-f.queue:
			f.append(ctx, one)
		case <-tick.C:
			f.sum(ctx)
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			for {
				select {
				case one := <-f.queue:
					f.append(ctx, one)
				default:
					f.sum(ctx)
					return
				}
			}
		}
	}
}

// sum puts on record how many were left out, where nothing came after them that
// could say so.
func (f *refusalLog) sum(ctx context.Context) {
	for _, side := range sides {
		f.mu.Lock()
		n := f.left[side]
		f.mu.Unlock()
		if n > 0 && f.store.room() {
			f.append(ctx, refusedOne{side, lifecycle.Refusal{V: lifecycle.Version, Op: operationID(), At: f.store.now().UnixMilli(), Code: leftOut, Verb: "any", Why: "refusals that were left out of the record"}})
		}
	}
}

// append writes one, with the count of those that were left out before it.
func (f *refusalLog) append(ctx context.Context, one refusedOne) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c := f.chain[one.side]
	counted := int64(1) // it is left out itself, if it cannot be written
	if one.rec.Code == leftOut {
		counted = 0
	}
	f.mu.Lock()
	taken := f.left[one.side]
	f.left[one.side] = 0
	f.mu.Unlock()
	err := f.appendNow(ctx, c, one, taken)
	if err == nil {
		return
	}
	f.mu.Lock()
	f.left[one.side] += taken + counted
	f.mu.Unlock()
	if !errors.Is(err, errShare) {
		f.store.log.Warn("a refusal is not on record", "error", err)
	}
}

// errShare says that a side's refusals fill their share of the store.
var errShare = errors.New("the refusals' share of the store is full")

func (f *refusalLog) appendNow(ctx context.Context, c *refusalChain, one refusedOne, left int64) error {
	subject := audit.RefusedPrefix + one.side + "." + f.run
	if now := f.store.now(); now.Sub(c.measured) >= time.Minute || now.Before(c.measured) {
		info, err := f.store.stream.Info(ctx, jetstream.WithSubjectFilter(audit.RefusedPrefix+one.side+".>"))
		if err != nil {
			return err
		}
		c.kept, c.measured = 0, now
		for _, n := range info.State.Subjects {
			c.kept += int64(n)
		}
	}
	if (c.kept+1)*lifecycle.MaxRefusal > f.store.most/refusalShare {
		return errShare
	}
	if c.unsure {
		m, err := f.store.newestOf(ctx, subject)
		switch {
		case err == nil:
			c.seq, c.hash = m.Sequence, lifecycle.Hash(m.Data)
		case !errors.Is(err, jetstream.ErrMsgNotFound):
			return err
		}
		c.unsure = false
	}
	one.rec.Prev, one.rec.Left = c.hash, left
	data, err := one.rec.Encode()
	if err != nil {
		return err
	}
	failpoint("before", "note refused")
	ack, err := f.store.put(ctx, subject, data, c.seq)
	failpoint("after", "note refused")
	if err != nil {
		c.unsure = true
		return err
	}
	c.seq, c.hash = ack.Sequence, lifecycle.Hash(data)
	c.kept++
	return nil
}

// onRecord are the refusals that say something about who was refused. The others
// are of the protocol's own course: too late, too soon, not now.
var onRecord = map[string]bool{
	wire.RefusedMalformed: true, wire.RefusedSignature: true, wire.RefusedVersion: true, wire.RefusedToken: true,
	wire.RefusedPolicy: true, wire.RefusedLimit: true, wire.RefusedKeyUsed: true, wire.RefusedNotYours: true,
	wire.RefusedDeclined: true,
}

// recordRefused notes that a message was refused.
func (r *Relay) recordRefused(key, verb, code string, data []byte, refused error) {
	if !onRecord[code] {
		return
	}
	config := r.rules.Load().config
	e, open := r.store.recent(key)
	side, project := audit.RefusedOutside, ""
	if open || config.desks[key] != nil || code == wire.RefusedLimit || code == wire.RefusedDeclined {
		side = audit.RefusedInside
	}
	if open {
		project = e.rec.Project
	} else if verb == wire.VerbRequest {
		// What the request says of itself, if its key has signed it.
		var m wire.RequestMessage
		if wire.Decode(data, wire.MaxMessage, &m) == nil {
			if q, err := wire.Open[wire.Request](m.Request, key); err == nil {
				project = q.Project
			}
		}
	}
	_, known := config.Projects[project]
	r.refusals.note(side, project, known, lifecycle.Refusal{Code: code, Verb: verb, Key: key, Why: logged(refused)})
}

// recordNotLetIn notes that a connection was refused. key is one that was shown,
// and perhaps not proved.
func (r *Relay) recordNotLetIn(key string, refused error) {
	var token *trust.Error
	code := wire.RefusedNotYours
	if errors.As(refused, &token) {
		if code = wire.RefusedToken; token.Code == trust.CodeKeys {
			return // the issuer's fault, or ours
		}
	}
	r.refusals.note(audit.RefusedOutside, "", false, lifecycle.Refusal{Code: code, Verb: "connect", Key: key, Why: logged(refused)})
}
