package broker

// The store: one JetStream stream, a subject per request. Each transition is one
// append that names the sequence it was decided on, and each record is whole.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

const (
	streamName    = "CFA"
	requestPrefix = "cfa.store.v1.request."
	unboundPrefix = "cfa.store.v1.unbound."
	droppedPrefix = "cfa.store.v1.dropped."
	declinePrefix = "cfa.store.v1.declined."
)

// errNoRoom is JetStream's word for a stream that may grow beyond its disk.
const errNoRoom jetstream.ErrorCode = 10047

var (
	// errUnknown says that there is no such request.
	errUnknown = errors.New("no such request on this relay")
	// errStore says that the store cannot take or give a record now.
	errStore = errors.New("the relay's store does not answer")
	// errTokenUsed says that an unbound ID token came with another key before.
	errTokenUsed = errors.New("this ID token was used with another key")
)

// entry is the last record of a request, with what the next append needs.
type entry struct {
	rec  lifecycle.Record
	seq  uint64
	hash string // of the record's bytes, for the next one's Prev
	// accepts is who may answer, from the request's envelope, which never
	// changes: nil while that has not been read.
	accepts *acceptable
	asked   int64 // when the request was recorded, unix milliseconds; 0: not known here
}

// acceptable is the signing keys whose answers a request takes; none: any.
type acceptable struct{ keys []string }

var anybody = &acceptable{}

// takes says whether the answers of a signing key count, or of one that another
// vouches for. The job holds that against the chain itself.
func (a *acceptable) takes(signer string, former []string) bool {
	return len(a.keys) == 0 || slices.Contains(a.keys, signer) || slices.ContainsFunc(former, func(key string) bool { return slices.Contains(a.keys, key) })
}

func acceptableOf(q *wire.Request) *acceptable {
	if len(q.Responders) == 0 {
		return anybody
	}
	return &acceptable{q.Responders}
}

// answerers reads who may answer, once.
func (e *entry) answerers() (*acceptable, error) {
	if e.accepts == nil {
		env, err := wire.DecodeEnvelope(e.rec.Request)
		if err != nil {
			return nil, err
		}
		q, err := wire.Open[wire.Request](env, e.rec.Key)
		if err != nil {
			return nil, err
		}
		e.accepts = acceptableOf(&q)
	}
	return e.accepts, nil
}

type store struct {
	js     jetstream.JetStream
	stream jetstream.Stream
	now    func() time.Time
	log    *slog.Logger

	mu       sync.Mutex
	mark     mark              // of the stream, as this relay has left it
	outdated error             // why this relay may not go on with the stream; nil: it may
	open     map[string]*entry // the index: open requests, for lists and clocks; an entry is never changed, only replaced
	ended    map[string]uint64
	// How many of the index each run and project has, and who is about to be
	// added to it: many ask at once, and each must count for the next.
	runs, projects map[string]int
	questions      map[string]map[question]int     // by project: what counts once, and how many requests it has
	asked          map[string]map[string]time.Time // by project: what was asked within the last hour, and when
	refreshed      map[string]time.Time            // by project, see refresh; of those in the file
	coming         map[string]place
	perRun         int // the most that may be open of a run
	perProject     int
	limits         func(project string) Limits
	own            map[string]*flight   // our own appends that follow has not seen, by operation id
	absent         map[string]*absences // by signing key
	enrolments     enrolments
	disk           func() (free uint64, known bool) // of what the stream is on; nil: not this process's
	short          bool                             // the disk has no room for new requests
	filled         bool                             // the disk was full, and the store has not been opened anew since
	most           int64                            // bytes that the stream may take
	full           int                              // percent of them that are taken
	report         storeReport                      // see measureRoom
	failed         time.Time                        // when an append last failed for another reason than that someone was first
	lag            func(context.Context) (uint64, error)
	ready          chan struct{} // closed when the index has caught up
	until          uint64        // the sequence to catch up with
	newest         time.Time     // when the last record before this relay's start was written; zero: there is none

	// recorded is told each transition that this relay has appended; nil: nobody.
	recorded func(before *lifecycle.Record, after lifecycle.Record, asked int64)
	// turned is told whose absence another relay has recorded; nil: nobody.
	turned func(sign string)
	// enrolled is told what another relay has recorded of an invitation or an
	// enrolment; nil: nobody.
	enrolled func(lifecycle.Note)
	// clock is the time of the stream's leader, by which records are stamped.
	clock func(context.Context) (time.Time, error)
}

// place is what an open request counts for.
type place struct{ run, project, kind string }

// question is what counts once, because its humans see it as one: all that a run
// asks of one kind. Where a CI's tokens name no run, each request is one.
type question struct{ run, kind, alone string }

func (p place) question(key string) question {
	if p.run == "" {
		return question{kind: p.kind, alone: key}
	}
	return question{run: p.run, kind: p.kind}
}

func placeOf(rec lifecycle.Record) place {
	return place{run: rec.Group, project: rec.Project, kind: rec.Kind}
}

// flight is an append of ours on its way.
type flight struct {
	at    time.Time
	acked bool
	seq   uint64 // what follow saw it as, before the acknowledgement came
}

// gatherWithin is how long servers that have just started may take to find each
// other and a leader: relays start at the same time after a power cut.
const gatherWithin = 30 * time.Second

// gathering says whether an error is that of servers that do so.
func gathering(err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return api.ErrorCode == 10008 || api.ErrorCode == 10005 // no leader yet; too few servers are known yet
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrNoResponders) || errors.Is(err, nats.ErrTimeout)
}

// streamConfig is the stream as the file wants it.
func streamConfig(c *Config) jetstream.StreamConfig {
	replicas := 1
	if c.NATS != nil {
		replicas = c.NATS.Replicas
	}
	return jetstream.StreamConfig{
		Name:     streamName,
		Subjects: []string{"cfa.store.v1.>"},
		Storage:  jetstream.FileStorage,
		Replicas: replicas,
		// A full store refuses new requests; it never forgets old ones to make
		// room, since the record is what refuses a replay.
		Discard:    jetstream.DiscardNew,
		MaxAge:     time.Duration(c.Limits.Retention),
		MaxBytes:   c.Limits.Store,
		MaxMsgSize: 2 * lifecycle.MaxRecord,
		DenyDelete: true,
		DenyPurge:  true,
		// Direct gets may come from a replica that lags.
		AllowDirect: false,
	}
}

// noRoom says what to do where the disk is smaller than what the file lets the
// record take.
func noRoom(err error, c *Config) error {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok && api.ErrorCode == errNoRoom {
		return fmt.Errorf("there is less room for the record than limits.store (%d bytes) lets it take, with a reserve of a quarter of the disk; make room, or lower limits.store: %w", c.Limits.Store, err)
	}
	return err
}

func openStore(ctx context.Context, nc *nats.Conn, c *Config, now func() time.Time, log *slog.Logger) (*store, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	stream, m, err := openStream(ctx, js, streamConfig(c), upgrades)
	for late := time.Now().Add(gatherWithin); c.NATS != nil && gathering(err) && time.Now().Before(late) && pause(ctx, 250*time.Millisecond) == nil; {
		stream, m, err = openStream(ctx, js, streamConfig(c), upgrades)
	}
	if errors.Is(err, ErrNewerStore) || errors.Is(err, ErrHalfRestored) {
		return nil, err
	}
	if err := noRoom(err, c); err != nil {
		return nil, fmt.Errorf("store: stream %s: %w", streamName, err)
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	var disk func() (uint64, bool)
	if c.NATS == nil {
		disk = func() (uint64, bool) { return diskFree(filepath.Join(c.Data, "store")) }
	}
	return &store{
		js: js, stream: stream, now: now, log: log, mark: m, disk: disk,
		open: map[string]*entry{}, ended: map[string]uint64{}, own: map[string]*flight{},
		runs: map[string]int{}, projects: map[string]int{}, coming: map[string]place{},
		questions: map[string]map[question]int{}, refreshed: map[string]time.Time{}, asked: map[string]map[string]time.Time{},
		absent: map[string]*absences{}, enrolments: enrolments{map[string]noted{}, map[string]noted{}},
		perRun: wire.MaxOpenRun, perProject: wire.MaxOpenProject,
		most: c.Limits.Store, ready: make(chan struct{}), until: info.State.LastSeq, newest: info.State.LastTime,
		clock: func(ctx context.Context) (time.Time, error) {
			info, err := stream.Info(ctx)
			if err != nil {
				return time.Time{}, fmt.Errorf("%w: %w", errStore, err)
			}
			return info.TimeStamp, nil
		},
	}, nil
}

// storeWithin bounds one message to the stream. Of a cluster the leader may have
// died a moment ago: what was sent to it is answered by nobody, while the next
// leader would answer the same at once. Longer than a slow disk takes to write,
// and an append with the read after it ends before a client has given up the reply
// (5 s), so that it hears to try again.
const storeWithin = 2 * time.Second

// newestOf reads the last message of a subject from the stream's leader.
func (s *store) newestOf(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, storeWithin)
	defer cancel()
	return s.stream.GetLastMsgForSubject(ctx, subject)
}

// put appends one message where the last one of its subject is the one with that
// sequence. An error does not say that it is not there.
func (s *store) put(ctx context.Context, subject string, data []byte, last uint64) (*jetstream.PubAck, error) {
	ctx, cancel := context.WithTimeout(ctx, storeWithin)
	defer cancel()
	return s.js.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: data}, jetstream.WithExpectLastSequencePerSubject(last), jetstream.WithRetryAttempts(0))
}

// last reads the last record of a request from the stream's leader.
func (s *store) last(ctx context.Context, key string) (entry, error) {
	m, err := s.newestOf(ctx, requestPrefix+key)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return entry{}, errUnknown
	}
	if err != nil {
		return entry{}, fmt.Errorf("%w: read: %w", errStore, err)
	}
	rec, err := lifecycle.Decode(m.Data)
	if err != nil {
		return entry{}, fmt.Errorf("%w: record %d: %w", errStore, m.Sequence, err)
	}
	e := firstAsked(entry{rec: rec, seq: m.Sequence, hash: lifecycle.Hash(m.Data)})
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.open[key]; known != nil {
		e.accepts, e.asked = known.accepts, known.asked
	}
	return e, nil
}

// firstAsked is e with since when it waits, where its record is the first.
func firstAsked(e entry) entry {
	if e.rec.Event == lifecycle.EventAsked {
		e.asked = e.rec.At
	}
	return e
}

// recent is the last record as the index has it, if it has it.
func (s *store) recent(key string) (entry, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.open[key]; e != nil {
		return *e, true
	}
	return entry{}, false
}

// transition applies in to a request and appends the outcome. It is the only way
// that a request changes.
//
// The first try decides on the index's record, without a read: the append names
// that record's sequence, so a stale one cannot win. A refusal, though, is said
// only after a read from the leader: "someone was first" must name who.
func (s *store) transition(ctx context.Context, key string, in lifecycle.Input) (entry, error) {
	e, cached := s.recent(key)
	for try := 0; ; try++ {
		if !cached {
			var err error
			if e, err = s.last(ctx, key); err != nil && !errors.Is(err, errUnknown) {
				return entry{}, err
			}
		}
		var prev *lifecycle.Record
		if e.seq != 0 {
			prev = &e.rec
		}
		next, err := lifecycle.Apply(prev, in, s.now())
		if err != nil && cached {
			cached = false
			continue
		}
		if errors.Is(err, lifecycle.ErrUnknown) {
			return entry{}, errUnknown
		}
		if err != nil {
			return e, err
		}
		next = next.After(e.hash, operationID())
		appended, err := s.append(ctx, requestPrefix+key, next, e.seq)
		if err == nil {
			appended.accepts = e.accepts
			if appended.rec.Event != lifecycle.EventAsked { // whose time it is itself
				appended.asked = e.asked
			}
			s.see(appended)
			s.tell(prev, appended)
			return appended, nil
		}
		// The append may have happened all the same: a time-out can hide a
		// success, and three replicas give "wrong last sequence" now and then
		// with no other writer. The record says which.
		again, readErr := s.last(ctx, key)
		switch {
		case readErr == nil && again.rec.Op == next.Op:
			s.see(again)
			s.tell(prev, again)
			return again, nil
		case ctx.Err() != nil || try == 8:
			return entry{}, fmt.Errorf("%w: append: %w", errStore, err)
		case readErr != nil && !errors.Is(readErr, errUnknown):
			return entry{}, readErr
		case again.seq == e.seq:
			if err := pause(ctx, time.Duration(try+1)*5*time.Millisecond); err != nil {
				return entry{}, fmt.Errorf("%w: append: %w", errStore, err)
			}
		}
		e, cached = again, false
		if readErr == nil {
			cached = true // read from the leader just now: decide on it
			if _, err := lifecycle.Apply(&e.rec, in, s.now()); err != nil {
				return e, err
			}
		}
	}
}

// tell tells who counts of a transition of this relay's.
func (s *store) tell(before *lifecycle.Record, after entry) {
	if s.recorded != nil {
		s.recorded(before, after.rec, after.asked)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *store) append(ctx context.Context, subject string, rec lifecycle.Record, last uint64) (entry, error) {
	data, err := rec.Encode()
	if err != nil {
		return entry{}, err
	}
	f := &flight{at: s.now()}
	s.mu.Lock()
	if err := s.outdated; err != nil {
		s.mu.Unlock()
		return entry{}, err
	}
	for op, f := range s.own { // acknowledged, and never seen again
		if s.now().Sub(f.at) > time.Minute {
			delete(s.own, op)
		}
	}
	s.own[rec.Op] = f
	s.mu.Unlock()
	failpoint("before", string(rec.Event))
	ack, err := s.put(ctx, subject, data, last)
	failpoint("after", string(rec.Event))
	s.mu.Lock()
	f.acked = err == nil
	seen := f.seq
	switch {
	case err == nil:
		s.failed = time.Time{}
	case seen == 0 && ctx.Err() == nil && !wasFirst(err):
		s.failed = s.now()
	}
	if err != nil || seen != 0 {
		delete(s.own, rec.Op)
	}
	s.mu.Unlock()
	switch {
	case err == nil:
		seen = ack.Sequence
	case seen == 0:
		return entry{}, err
	}
	// Where follow has seen it, an error was about the acknowledgement only.
	return firstAsked(entry{rec: rec, seq: seen, hash: lifecycle.Hash(data)}), nil
}

// see puts a record into the index, unless a newer one is there.
func (s *store) see(e entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := time.UnixMilli(e.rec.At); e.rec.Event == lifecycle.EventAsked && s.now().Sub(at) < time.Hour {
		if s.asked[e.rec.Project] == nil {
			s.asked[e.rec.Project] = map[string]time.Time{}
		}
		s.asked[e.rec.Project][e.rec.Key] = at
	}
	old, was := s.open[e.rec.Key]
	if was && old.seq >= e.seq || s.ended[e.rec.Key] >= e.seq {
		return
	}
	if was && e.accepts == nil {
		e.accepts = old.accepts
	}
	switch {
	case e.rec.Event == lifecycle.EventAsked:
		e.asked = e.rec.At
	case was && e.asked == 0:
		e.asked = old.asked
	}
	if e.rec.State.Final() {
		if was {
			s.tally(*old, -1)
		}
		delete(s.open, e.rec.Key)
		s.ended[e.rec.Key] = e.seq
		return
	}
	if !was {
		s.tally(e, 1)
		delete(s.coming, e.rec.Key)
	}
	s.open[e.rec.Key] = &e
}

// tally adds n to what e counts for.
func (s *store) tally(e entry, n int) {
	for _, c := range []struct {
		of   map[string]int
		name string
	}{{s.runs, e.rec.Group}, {s.projects, e.rec.Project}} {
		if c.of[c.name] += n; c.of[c.name] <= 0 {
			delete(c.of, c.name)
		}
	}
	p := placeOf(e.rec)
	of := s.questions[p.project]
	if of == nil {
		of = map[question]int{}
		s.questions[p.project] = of
	}
	q := p.question(e.rec.Key)
	if of[q] += n; of[q] <= 0 {
		delete(of, q)
	}
	if len(of) == 0 {
		delete(s.questions, p.project)
	}
}

// reserve makes room for a request that is not on record, or refuses it. What
// it returns is to be called when the request is there, or is not coming.
func (s *store) reserve(key string, p place) (release func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, twice := s.coming[key]; twice {
		return func() {}, nil // the same message again, while the first is on its way
	}
	if _, open := s.open[key]; open {
		return func() {}, nil
	}
	limits := s.limits(p.project)
	run, project := s.runs[p.run], s.projects[p.project]
	questions := maps.Clone(s.questions[p.project])
	if questions == nil {
		questions = map[question]int{}
	}
	hour, first := 0, s.now() // how many were asked within the last one, and when the first of them
	for _, at := range s.asked[p.project] {
		if s.now().Sub(at) >= time.Hour {
			continue
		}
		if hour++; at.Before(first) {
			first = at
		}
	}
	for k, c := range s.coming {
		if c.run == p.run {
			run++
		}
		if c.project == p.project {
			project++
			questions[c.question(k)]++
			if _, counted := s.asked[p.project][k]; !counted {
				hour++
			}
		}
	}
	own := p.question(key)
	_, joins := questions[own]
	others := 0 // what this run has open beside
	for q := range questions {
		if q.run == p.run && q != own && p.run != "" {
			others++
		}
	}
	switch {
	// A CI whose tokens name no run has the project's limit alone.
	case p.run != "" && run >= s.perRun:
		return nil, refuse(wire.RefusedLimit, fmt.Sprintf("this run of the CI has %d requests open, as many as one run may", run),
			"let some of them end before asking for more")
	case project >= s.perProject:
		return nil, refuse(wire.RefusedLimit, fmt.Sprintf("the project has %d requests open, as many as it may", project),
			"ask its responders to answer or decline some, or cancel the jobs that nobody needs")
	case !joins && others >= limits.OpenPerRun:
		return nil, refuse(wire.RefusedLimit, fmt.Sprintf("this run of the CI has %s of another kind open, as many as one run may", count(limits.OpenPerRun, "question")),
			fmt.Sprintf("let one end before asking for more; or raise `limits.open-per-run` (or `projects.%s.open-per-run`) in the relay's file", p.project))
	case !joins && len(questions) >= limits.Open:
		return nil, refuse(wire.RefusedLimit, fmt.Sprintf("the project has %s open (what one run asks for counts once), as many as it may", count(limits.Open, "question")),
			fmt.Sprintf("ask its responders to answer or decline some, or cancel the jobs that nobody needs; or raise `limits.open` (or `projects.%s.open`) in the relay's file", p.project))
	case hour >= limits.PerHour:
		return nil, refuse(wire.RefusedLimit, fmt.Sprintf("the project has asked %s within an hour, as often as it may; it may again in %s", count(hour, "time"), max(time.Minute, time.Hour-s.now().Sub(first)).Round(time.Minute)),
			fmt.Sprintf("see what asks so often; or raise `limits.per-hour` (or `projects.%s.per-hour`) in the relay's file", p.project))
	}
	s.coming[key] = p
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.coming, key)
	}, nil
}

// refreshEvery bounds what a flood of refused requests costs in reads.
const refreshEvery = time.Second

// refresh reads from the leader what counts against a project's limits. The index
// follows the stream and may be behind it, as while the server that it listens to
// is gone; a refusal must not rest on requests that have ended. False: it was done
// a moment ago.
func (s *store) refresh(ctx context.Context, p place) bool {
	s.mu.Lock()
	now := s.now()
	if at, done := s.refreshed[p.project]; done && now.Sub(at) < refreshEvery && !now.Before(at) {
		s.mu.Unlock()
		return false
	}
	s.refreshed[p.project] = now
	var keys []string
	for key, e := range s.open {
		if e.rec.Project == p.project || p.run != "" && e.rec.Group == p.run {
			keys = append(keys, key)
		}
	}
	s.mu.Unlock()
	for _, key := range keys {
		e, err := s.last(ctx, key)
		if err != nil {
			return false // what is not known counts
		}
		s.see(e)
	}
	return true
}

// count is n of a thing, in words.
func count(n int, of string) string {
	if n == 1 {
		return "1 " + of
	}
	return fmt.Sprintf("%d %ss", n, of)
}

// know notes who may answer a request, so that no later message of it has to
// verify the request again.
func (s *store) know(key string, a *acceptable) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.open[key]; e != nil && e.accepts == nil {
		knowing := *e
		knowing.accepts = a
		s.open[key] = &knowing
	}
}

// follow keeps the index: all records since the longest wait ago, as they come.
// It goes on until ctx ends, over failures of the store. Where no relay ran for
// longer than that, what was open then is still to be ended: nothing of it is older
// than the longest wait before the last record.
func (s *store) follow(ctx context.Context, each func(entry)) {
	next := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartTimePolicy, FilterSubjects: []string{requestPrefix + "*", awayPrefix + "*", invitationPrefix + "*", enrolmentPrefix + "*.*"}}
	since := s.now()
	if !s.newest.IsZero() && s.newest.Before(since) {
		since = s.newest
	}
	since = since.Add(-wire.LongestWait - time.Hour)
	next.OptStartTime = &since
	s.caught(0)
	for ctx.Err() == nil {
		if err := s.followOnce(ctx, &next, each); err != nil && ctx.Err() == nil {
			s.log.Warn("following the store is interrupted; it goes on by itself", "error", err)
			if pause(ctx, time.Second) != nil {
				return
			}
		}
	}
}

func (s *store) followOnce(ctx context.Context, from *jetstream.OrderedConsumerConfig, each func(entry)) error {
	cons, err := s.stream.OrderedConsumer(ctx, *from)
	if err != nil {
		return err
	}
	if info, err := cons.Info(ctx); err != nil {
		return err
	} else if info.NumPending == 0 {
		s.caught(s.until)
	}
	s.mu.Lock()
	s.lag = func(ctx context.Context) (uint64, error) {
		info, err := cons.Info(ctx)
		if err != nil {
			return 0, err
		}
		return info.NumPending, nil
	}
	s.mu.Unlock()
	it, err := cons.Messages()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, it.Stop)
	defer stop()
	defer it.Stop()
	for {
		m, err := it.Next()
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if s.isOwn(m.Data(), meta.Sequence.Stream) {
			// The append that made it puts it into the index.
		} else if strings.HasPrefix(m.Subject(), awayPrefix) {
			if n, err := lifecycle.DecodeNote(m.Data()); err != nil {
				s.log.Error("a record cannot be read", "sequence", meta.Sequence.Stream, "error", err)
			} else if s.seeAway(meta.Sequence.Stream, n) && s.turned != nil {
				s.turned(n.Key)
			}
		} else if strings.HasPrefix(m.Subject(), invitationPrefix) || strings.HasPrefix(m.Subject(), enrolmentPrefix) {
			if n, err := lifecycle.DecodeNote(m.Data()); err != nil {
				s.log.Error("a record cannot be read", "sequence", meta.Sequence.Stream, "error", err)
			} else if s.seeEnrolment(meta.Sequence.Stream, n) && s.enrolled != nil {
				s.enrolled(n)
			}
		} else if rec, err := lifecycle.Decode(m.Data()); err != nil {
			// A record of another version, or a damaged one: it stays out of
			// the lists, and whoever asks for it is told.
			s.log.Error("a record cannot be read", "sequence", meta.Sequence.Stream, "error", err)
		} else {
			e := entry{rec: rec, seq: meta.Sequence.Stream, hash: lifecycle.Hash(m.Data())}
			s.see(e)
			each(e)
		}
		from.DeliverPolicy, from.OptStartTime, from.OptStartSeq = jetstream.DeliverByStartSequencePolicy, nil, meta.Sequence.Stream+1
		if meta.NumPending == 0 {
			s.caught(s.until)
		} else {
			s.caught(meta.Sequence.Stream)
		}
	}
}

// isOwn says whether a record is one that this relay is appending, by the
// operation id at its beginning.
func (s *store) isOwn(data []byte, seq uint64) bool {
	rest, ok := bytes.CutPrefix(data, []byte(`{"v":1,"op":"`))
	op, _, quoted := bytes.Cut(rest, []byte{'"'})
	if !ok || !quoted {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f, ok := s.own[string(op)]
	if !ok {
		return false
	}
	if f.seq = seq; f.acked {
		delete(s.own, string(op))
	}
	return true
}

// mostSkew is how far a relay's clock may be from the stream's.
const mostSkew = 5 * time.Second

// clockOff says by how much this relay's clock is off the stream's, if that is
// too much for it to decide on time-outs: it would end others' requests early.
// It asks each time, because a clock can be wrong from the start, before this
// relay has appended anything.
func (s *store) clockOff(ctx context.Context) (string, bool) {
	ctx, cancel := context.WithTimeout(ctx, mostSkew)
	defer cancel()
	before := s.now()
	stamp, err := s.clock(ctx)
	if err != nil {
		return "unknown: " + err.Error(), true
	}
	off := before.Add(s.now().Sub(before) / 2).Sub(stamp)
	return off.Round(time.Millisecond).String(), off.Abs() > mostSkew
}

func (s *store) caught(seq uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.ready:
	default:
		if seq >= s.until {
			close(s.ready)
		}
	}
}

func (s *store) caughtUp(ctx context.Context) error {
	select {
	case <-s.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("store: the index did not catch up: %w", context.Cause(ctx))
	}
}

// count is how many requests are open.
func (s *store) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// those gives the open requests that want says, under the store's lock. None of
// them may be changed.
func (s *store) those(want func(*entry) bool) []*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*entry
	for _, e := range s.open {
		if want(e) {
			out = append(out, e)
		}
	}
	return out
}

// forgetEnded drops what is remembered of ended requests beyond what a late
// redelivery could need.
func (s *store) forgetEnded() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ended) > 10_000 {
		clear(s.ended)
	}
	for project, keys := range s.asked {
		maps.DeleteFunc(keys, func(_ string, at time.Time) bool { return s.now().Sub(at) >= time.Hour })
		if len(keys) == 0 {
			delete(s.asked, project)
		}
	}
}
