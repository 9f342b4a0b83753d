// Package broker is the relay: it admits CI jobs and responders to NATS, checks
// each request against policy, passes prompts on and answers back, and keeps the
// record of it all.
//
// The rule it keeps: **it cannot read what it carries, and it believes nothing
// that is not signed by the side it is about.** A code comes sealed to a key of
// the job; this package does not import the package that could open it, and a
// test holds it to that. Every transition is decided by package lifecycle from
// the last record of the stream and appended with the sequence it was decided
// on, so that any number of relays can serve the same stream and none of them
// holds state that is lost with it.
//
// Where to read: a job's messages are handled in job.go, a responder's in
// desk.go, both down to one transition in store.go; who may connect, and where
// to, is callout.go.
package broker

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

// Options are what a relay needs beside its configuration.
type Options struct {
	Log *slog.Logger     // nil: none
	Now func() time.Time // nil: time.Now
	// Reread gives the configuration anew for a reload; nil: reload is refused.
	Reread func() (*Config, error)
	// LinkPath gives the path under which a service's links lead to a host, if they
	// do; nil: none does. What else a project's links may lead to, its `links` in the
	// file say, by the host alone.
	LinkPath func(service, host string) (path string, known bool)
	// Version is this program's, for cfa_build_info.
	Version string

	// opened is called with the store before anything uses it: tests step in
	// there, between reading and appending.
	opened func(*store)
	// embed is called with the embedded server's options before it starts.
	embed func(*server.Options)
}

// rules is everything that a reload replaces, as one value.
type rules struct {
	config   *Config // with those that the record has enrolled
	file     *Config // as it was read
	verifier *trust.Verifier
	keys     *trust.Keys
	stop     context.CancelFunc // ends the keys' background refresh
}

// Relay is a running relay.
type Relay struct {
	log   *slog.Logger
	now   func() time.Time
	opts  Options
	rules atomic.Pointer[rules]

	net   *network
	store *store
	heard *heard
	conns *connections

	traffic    *traffic
	challenges *throttle // at most one challenge per responder and request per ChallengeEvery
	alives     *throttle
	dropped    *throttle // notes of dropped messages
	reopens    *throttle // of the store
	refusals   *refusalLog

	meters      *meters
	opened      atomic.Pointer[store]  // store, for who reads it while the relay starts
	probed      atomic.Pointer[string] // why the last trial to write failed; "": it did not
	serving     atomic.Bool            // all that Start does is done
	failed      atomic.Pointer[error]  // why it has ended by itself
	judging     atomic.Bool            // there is all that a connection is judged by
	draining    atomic.Bool            // no new request is taken any more
	drained     sync.Once
	takes       []*nats.Subscription // by which it shares work with other relays
	said        watched              // by watch, to the log
	healthAddr  string
	closeHealth func()

	ctx     context.Context // ends with the relay
	cancel  context.CancelFunc
	release func() // lets go of the data directory
	work    sync.WaitGroup
	gate    sync.Mutex // nothing new begins once Close waits for the rest
	closing bool
	slots   chan struct{} // bounds the messages handled at once
	// questions of the callout that wait for a worker
	door   chan atDoor
	reload sync.Mutex
	swap   sync.Mutex // held while rules are replaced, and not while keys are fetched for them

	reloaded atomic.Pointer[LastReload] // nil: never
}

// handlersAtOnce bounds concurrent message handling: enough to hide the wait for
// forced writes, few enough that a flood stays in NATS's own queues.
const handlersAtOnce = 256

// Start runs a relay until ctx ends or Close is called. It returns when the relay
// serves.
func Start(ctx context.Context, c *Config, o Options) (_ *Relay, err error) {
	if o.Now == nil {
		o.Now = relayTime
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Log = limitLog(o.Log, o.Now)
	r := &Relay{
		log: o.Log, now: o.Now, opts: o,
		heard:      newHeard(o.Now),
		conns:      newConnections(),
		traffic:    newTraffic(),
		challenges: newThrottle(wire.ChallengeEvery),
		alives:     newThrottle(time.Second),
		dropped:    newThrottle(time.Minute),
		reopens:    newThrottle(10 * time.Second),
		slots:      make(chan struct{}, handlersAtOnce),
		door:       make(chan atDoor, 8192),
	}
	r.meters, r.said.offset = newMeters(r, o.Version), map[string]bool{}
	r.ctx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	// First: a second server on one store damages it before it finds that the
	// port is taken.
	if r.release, err = hold(c.Data); err != nil {
		return nil, err
	}
	if err := r.openHealth(c); err != nil {
		return nil, err
	}
	first, err := r.prepare(c)
	if err != nil {
		return nil, err
	}
	r.rules.Store(first)
	r.meters.projects(c)
	warmed := make(chan struct{})
	r.goDo(func() { r.warm(r.ctx, first); close(warmed) })
	if r.net, err = r.openNetwork(ctx, c); err != nil {
		return nil, err
	}
	if r.store, err = openStore(ctx, r.net.store, c, r.now, r.log); err != nil {
		return nil, err
	}
	r.store.recorded = r.meters.recorded
	r.store.turned = func(sign string) { r.turned([]string{sign}) }
	r.store.enrolled = r.enrolmentSeen
	r.store.limits = func(project string) Limits { return r.rules.Load().config.asking(project) }
	if o.opened != nil {
		o.opened(r.store)
	}
	r.refusals = newRefusalLog(r.store)
	r.goDo(func() { r.refusals.write(r.ctx) })
	if err := r.store.measureRoom(ctx); err != nil {
		return nil, err
	}
	if err := r.store.loadAway(ctx); err != nil {
		return nil, err
	}
	if err := r.store.loadEnrolments(ctx); err != nil {
		return nil, err
	}
	r.reenrol()
	r.opened.Store(r.store)
	r.goDo(func() { r.store.follow(r.ctx, r.recordSeen) })
	if err := r.store.caughtUp(ctx); err != nil {
		return nil, err
	}
	if err := r.watchConnections(); err != nil {
		return nil, err
	}
	if err := r.serveMessages(); err != nil {
		return nil, err
	}
	select {
	case <-warmed:
	case <-time.After(warmWithin): // it goes on; whoever waits here already needs no key
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	// Last: nobody is let in before there is somebody to answer them.
	if err := r.serveCallout(); err != nil {
		return nil, err
	}
	// After that: the authority proves the name by the doors that are open now.
	if m := r.net.acme; m != nil {
		r.goDo(func() { m.Run(r.ctx, r.net.tlsAddress()) })
	}
	r.goDo(func() { r.runClock(r.ctx) })
	if err := r.serveAdmin(c.Data); err != nil {
		return nil, err
	}
	r.watch(r.now())
	r.goDo(func() { r.runWatch(r.ctx) })
	context.AfterFunc(ctx, func() { r.Drain(); r.Close() })
	r.serving.Store(true)
	r.log.Info("relay serves", "relay", c.Host, "nats", r.net.clientURL(), "websocket", r.net.webSocketURL(), "metrics", r.HealthURL(), "projects", len(c.Projects), "responders", len(r.rules.Load().config.desks))
	return r, nil
}

// prepare turns a configuration into what requests are judged by.
func (r *Relay) prepare(c *Config) (*rules, error) {
	keys, err := trust.NewKeys(c.allIssuers(), trust.KeysOptions{Now: r.now, Log: r.log})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(r.ctx)
	next := &rules{config: c, file: c, keys: keys, stop: stop, verifier: trust.NewVerifier(c.Host, keys, trust.Options{Now: r.now, AllowUnbound: true})}
	r.goDo(func() { keys.Run(ctx) })
	return next, nil
}

// warmWithin is how long a start waits for the issuers' keys: the first jobs then
// need not. One that hangs must not hold up those who come back.
const warmWithin = 3 * time.Second

// warm fetches the key sets, so that the first job does not wait for them. An
// issuer that is down does not stop the relay: the others' jobs can still ask.
func (r *Relay) warm(ctx context.Context, next *rules) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := next.keys.Warm(ctx); err != nil {
		r.log.Warn("some issuers' keys are missing; their jobs are refused until they come", "error", err)
	}
}

// Reload reads the configuration anew and takes all of it or nothing.
func (r *Relay) Reload() (err error) {
	r.reload.Lock()
	defer r.reload.Unlock()
	defer func() {
		last := &LastReload{At: r.now().UTC().Truncate(time.Second)}
		if err != nil {
			last.Error = err.Error()
		}
		r.reloaded.Store(last)
	}()
	if r.opts.Reread == nil {
		return errors.New("this relay has no configuration file to read again")
	}
	c, err := r.opts.Reread()
	if err != nil {
		return fmt.Errorf("reload: nothing was changed: %w", err)
	}
	old := r.rules.Load()
	if what := needsRestart(old.config, c); what != "" {
		return fmt.Errorf("reload: nothing was changed: %s differs, which takes a restart of `cfa-relay serve`; until then the old file counts", what)
	}
	next, err := r.prepare(c)
	if err != nil {
		return fmt.Errorf("reload: nothing was changed: %w", err)
	}
	// An issuer that is down now must not cost the keys that it gave before.
	next.keys.Keep(old.keys)
	r.warm(r.ctx, next)
	r.swap.Lock()
	old = r.rules.Load() // somebody may have been enrolled meanwhile
	next.config = c.with(r.store.places())
	r.rules.Store(next)
	r.swap.Unlock()
	r.meters.projects(c)
	old.stop()
	// Who was enrolled and is not, or for other projects, must not keep a
	// connection that was granted by the old file.
	r.leave(old.config, next.config)
	r.log.Info("configuration reloaded", "projects", len(c.Projects), "responders", len(next.config.desks))
	return nil
}

func sameStrings(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	seen := map[string]bool{}
	for _, s := range a {
		seen[s] = true
	}
	for _, s := range b {
		if !seen[s] {
			return false
		}
	}
	return true
}

func needsRestart(a, b *Config) string {
	same := func(x, y any) bool {
		i, _ := json.Marshal(x)
		j, _ := json.Marshal(y)
		return string(i) == string(j)
	}
	switch {
	case a.Host != b.Host:
		return "host"
	case !same(a.Listen, b.Listen):
		return "listen"
	case !same(a.TLS, b.TLS):
		return "tls"
	case a.Data != b.Data:
		return "data"
	case !same(a.NATS, b.NATS):
		return "nats"
	case a.Limits.Retention != b.Limits.Retention || a.Limits.Store != b.Limits.Store:
		return "limits"
	}
	return ""
}

// Close ends the relay and waits until nothing of it runs.
func (r *Relay) Close() {
	r.cancel()
	r.gate.Lock()
	r.closing = true
	r.gate.Unlock()
	if r.net != nil {
		r.net.quiet()
	}
	r.work.Wait()
	if r.net != nil {
		r.net.close()
	}
	if r.release != nil {
		r.release()
	}
	if r.closeHealth != nil {
		r.closeHealth()
	}
}

// Done is closed when the relay has been told to end, or ends by itself: see Err.
func (r *Relay) Done() <-chan struct{} { return r.ctx.Done() }

// Err is why the relay has ended by itself; nil where it has not.
func (r *Relay) Err() error {
	if err := r.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// end ends the relay by itself. It does not drain: what is left for it to write
// would go into a store that it does not understand. Clients go to another relay.
func (r *Relay) end(why error) {
	if !r.failed.CompareAndSwap(nil, &why) {
		return
	}
	r.log.Error("relay ends by itself", "error", why)
	r.cancel()
	go r.Close() // which waits for whoever has called this
}

// ClientURL is where jobs and responders connect: nats:// on loopback without
// TLS, else tls://.
func (r *Relay) ClientURL() string { return r.net.clientURL() }

// WebSocketURL is the same for WebSocket; "" where there is none.
func (r *Relay) WebSocketURL() string { return r.net.webSocketURL() }

func (r *Relay) goDo(f func()) {
	r.gate.Lock()
	defer r.gate.Unlock()
	if !r.closing {
		r.work.Go(f)
	}
}

// serveMessages subscribes to what jobs and responders send. Relays on one
// cluster share each message; a job's state queries all of them hear, because a
// relay that missed what others answered would end living jobs as lost.
func (r *Relay) serveMessages() error {
	for _, s := range []string{"cfa.v1.job.*.*", "cfa.v1.desk.*.*"} {
		sub, err := r.net.client.QueueSubscribe(s, "relay", r.dispatch)
		if err != nil {
			return fmt.Errorf("subscribe %s: %w", s, err)
		}
		r.takes = append(r.takes, sub)
	}
	for _, s := range []string{"cfa.v1.job.*.state", "cfa.v1.desk.*.pending"} {
		if _, err := r.net.client.Subscribe(s, func(m *nats.Msg) {
			if _, key, _, ok := wire.ParseSubject(m.Subject); ok {
				r.heard.note(key)
			}
		}); err != nil {
			return fmt.Errorf("subscribe %s: %w", s, err)
		}
	}
	return r.net.client.Flush()
}

// dispatch takes one message to its handler and its reply back.
func (r *Relay) dispatch(m *nats.Msg) {
	desk, key, verb, ok := wire.ParseSubject(m.Subject)
	if !ok {
		return
	}
	// The client's own word, of any length: as the log shows it.
	said := wire.CleanName(verb, 40)
	// NATS checks where a client publishes and listens, not where it asks a
	// reply to go: that could be another's inbox, or the store.
	if m.Reply != "" && !wire.OwnReply(key, m.Reply) {
		r.log.Warn("decision", "what", "message dropped", "key", key, "verb", said, "outcome", "refused", "why", "its reply subject is not in its sender's own inbox")
		r.meters.dropped.Add(1, "reply subject")
		r.noteDropped(key, wire.CleanName(said, 200)) // written out it can be long
		return
	}
	// Anybody with an ID token of a CI that is known here may connect for a
	// moment. What they send is dropped before it can take what others need.
	switch r.traffic.begin(key, r.now()) {
	case flooding:
		r.log.Warn("decision", "what", "connection closed", "key", key, "outcome", "refused", "why", "a flood of messages")
		r.meters.dropped.Add(1, "flood")
		r.kick(key)
		return
	case tooMuch:
		r.meters.dropped.Add(1, "flood")
		return
	}
	select {
	case r.slots <- struct{}{}:
	case <-r.ctx.Done():
		r.traffic.end(key)
		return
	}
	r.goDo(func() {
		defer func() { <-r.slots; r.traffic.end(key) }()
		r.heard.note(key)
		ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
		defer cancel()
		var reply wire.Reply
		var err error
		if desk {
			reply, err = r.deskMessage(ctx, key, verb, m.Data)
		} else {
			reply, err = r.jobMessage(ctx, key, verb, m.Data)
		}
		if err != nil {
			reply = wire.Reply{Refused: r.refusal(err)}
			r.meters.refused(verb, reply.Refused.Code)
			r.log.Info("decision", "what", said, "key", key, "outcome", "refused", "code", reply.Refused.Code, "why", logged(err))
			r.recordRefused(key, said, reply.Refused.Code, m.Data, err)
		}
		reply.V = wire.Version
		if m.Reply == "" {
			return
		}
		data, err := json.Marshal(reply)
		if err != nil {
			r.log.Error("reply does not encode", "verb", said, "error", err)
			return
		}
		if err := m.Respond(data); err != nil {
			r.log.Warn("reply not sent", "verb", said, "key", key, "error", err)
		}
	})
}

// noteDropped puts a dropped message on record: one a minute at most, because it
// is for strangers to cause and the record is kept for long. The log has more.
func (r *Relay) noteDropped(key, verb string) {
	if !r.dropped.allow("", r.now()) || !r.store.room() {
		return
	}
	r.goDo(func() {
		ctx, cancel := context.WithTimeout(r.ctx, 10*time.Second)
		defer cancel()
		if err := r.store.noteDropped(ctx, key, verb); err != nil {
			r.log.Warn("a dropped message is not on record", "key", key, "error", err)
		}
	})
}

// push sends a hint. A lost one costs its reader at most one re-read, so errors
// only show in the log.
func (r *Relay) push(subject string, h wire.Hint) {
	data, err := json.Marshal(h)
	if err == nil {
		err = r.net.client.Publish(subject, data)
	}
	if err != nil {
		r.log.Warn("hint not sent", "hint", h.Hint, "request", h.Key, "error", err)
	}
}

// tellProject tells a project's responders that a request has a new record. Its
// job is not told where it has caused that itself: the reply says it, and a hint
// beside it costs the job one more read.
func (r *Relay) tellProject(e entry) {
	h := wire.Hint{Hint: wire.HintState, Key: e.rec.Key, Rev: r.store.rev(e.seq)}
	c, now := r.rules.Load().config, r.now()
	people := c.enrolled(e.rec.Project)
	// Who is away is not rung. Of what they look at all the same they hear the rest.
	isNew := e.rec.Event == lifecycle.EventAsked
	if !c.tiered(e.rec.Project) && (!isNew || !r.store.awayAmong(people, now)) {
		r.push(wire.ProjectSubject(e.rec.Project), h)
		return
	}
	// Each by their own subject: whose turn has not come hears nothing of it.
	for _, p := range people {
		if _, away := r.store.awayUntil(p.Sign, now); away && isNew {
			continue
		}
		if r.turnOf(&e, p, now) {
			r.push(wire.HintSubject(p.Connect), h)
		}
	}
}

// changed tells everyone concerned that a request has a new record.
func (r *Relay) changed(e entry) {
	r.tellProject(e)
	r.push(wire.HintSubject(e.rec.Key), wire.Hint{Hint: wire.HintState, Key: e.rec.Key, Rev: r.store.rev(e.seq)})
}

func operationID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// heard notes when each key was last heard from.
type heard struct {
	mu    sync.Mutex
	now   func() time.Time
	start time.Time // clocks start at the relay's own start
	at    map[string]time.Time
	asked map[string]time.Time
}

func newHeard(now func() time.Time) *heard {
	return &heard{now: now, start: now(), at: map[string]time.Time{}, asked: map[string]time.Time{}}
}

func (h *heard) note(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at[key] = h.now()
	delete(h.asked, key)
}

func (h *heard) last(key string) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t, ok := h.at[key]; ok {
		return t
	}
	return h.start
}

// ask notes that key was asked for a sign of life, and since when.
func (h *heard) ask(key string) (since time.Time, first bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if t, ok := h.asked[key]; ok {
		return t, false
	}
	h.asked[key] = h.now()
	return h.asked[key], true
}

// forget drops what is older than before, so that keys that are gone take no room.
func (h *heard) forget(before time.Time, keep func(key string) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k, t := range h.at {
		if t.Before(before) && !keep(k) {
			delete(h.at, k)
			delete(h.asked, k)
		}
	}
	for k := range h.asked { // also of keys that were never heard from
		if !keep(k) {
			delete(h.asked, k)
		}
	}
}

// throttle lets one event per key through in each period.
type throttle struct {
	mu    sync.Mutex
	every time.Duration
	last  map[string]time.Time
}

func newThrottle(every time.Duration) *throttle {
	return &throttle{every: every, last: map[string]time.Time{}}
}

func (t *throttle) allow(key string, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if last, ok := t.last[key]; ok && now.Sub(last) < t.every {
		return false
	}
	if len(t.last) > 10_000 {
		for k, l := range t.last {
			if now.Sub(l) >= t.every {
				delete(t.last, k)
			}
		}
	}
	t.last[key] = now
	return true
}
