package broker

// What the relay counts and measures of itself. No label holds what a client
// says: projects and issuers are the file's, codes and outcomes the program's.
// deploy/grafana and deploy/prometheus name these metrics, and a test compares.

import (
	"errors"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/metrics"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

type meters struct {
	registry *metrics.Registry

	requests, ended, refusals, connects, dropped *metrics.Counter
	answer, connect, request                     *metrics.Histogram

	offsets tokenOffsets
}

// verbs are all that a label may say of a message: its real verb is a client's
// word.
var verbs = []string{
	wire.VerbRequest, wire.VerbState, wire.VerbAlive, wire.VerbGot, wire.VerbRejected, wire.VerbNext, wire.VerbDone, wire.VerbCancel,
	wire.VerbPending, wire.VerbOpen, wire.VerbAnswer, wire.VerbDecline, wire.VerbAway,
}

// quick is for what a machine does, patient for what a human does.
var (
	quick   = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20}
	patient = []float64{1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600}
)

func newMeters(r *Relay, version string) *meters {
	reg := &metrics.Registry{}
	m := &meters{registry: reg}
	started := r.now()
	if version == "" {
		version = "unknown"
	}
	always := func(f func() float64) func(func(float64, ...string)) {
		return func(set func(float64, ...string)) { set(f()) }
	}
	reg.Gauge("cfa_build_info", "Always 1; the labels say what runs.", []string{"version", "go"}, func(set func(float64, ...string)) { set(1, version, runtime.Version()) })
	reg.Gauge("process_start_time_seconds", "When the relay was started, in Unix time.", nil, always(func() float64 { return float64(started.UnixMilli()) / 1000 }))
	reg.Gauge("go_goroutines", "Goroutines.", nil, always(func() float64 { return float64(runtime.NumGoroutine()) }))
	reg.Gauge("cfa_ready", "1 where /readyz says so.", nil, always(func() float64 { return truth(len(r.unready()) == 0) }))
	reg.Gauge("cfa_draining", "1 from the moment on in which the relay has been told to end.", nil, always(func() float64 { return truth(r.draining.Load()) }))

	m.requests = reg.Counter("cfa_requests_total", "Requests that this relay has accepted.", "project")
	m.ended = reg.Counter("cfa_requests_ended_total", "Requests that this relay has recorded the end of, by how they ended: done, failed, unknown, declined, expired, cancelled, lost.", "project", "outcome")
	m.refusals = reg.Counter("cfa_refusals_total", "Messages that were refused, by what they were and by the refusal's code (PROTOCOL.md 7.4).", "what", "code")
	m.connects = reg.Counter("cfa_connects_total", "Connections that were judged, by what came, and accepted or refused.", "as", "outcome")
	m.dropped = reg.Counter("cfa_messages_dropped_total", "Messages that were dropped without a reply.", "why")
	m.answer = reg.Histogram("cfa_answer_seconds", "From a request to its first answer, which is a human's time.", patient, "project")
	m.connect = reg.Histogram("cfa_connect_seconds", "Admission, its first half: to judge a connection, from the server's question to the answer.", quick, "as")
	m.request = reg.Histogram("cfa_request_seconds", "Admission, its second half: to accept a request, from its message to its record.", quick)

	reg.Gauge("cfa_requests_open", "Requests that wait now. On a cluster each relay sees all of them.", []string{"project"}, func(set func(float64, ...string)) {
		rules := r.rules.Load()
		if rules == nil {
			return
		}
		open := r.opened.Load().byProject()
		for name := range rules.config.Projects {
			set(float64(open[name]), name)
		}
	})
	reg.Gauge("cfa_connections", "Connections of jobs and of responders. On a cluster each relay sees all of them.", []string{"as"}, func(set func(float64, ...string)) {
		if r.rules.Load() == nil {
			return
		}
		jobs, responders := r.count()
		set(float64(jobs), "job")
		set(float64(responders), "responder")
	})
	reg.Gauge("cfa_responders_away", "Responders that have said that they are away. On a cluster each relay sees all of them.", nil, func(set func(float64, ...string)) {
		if r.opened.Load() != nil {
			set(float64(len(r.absentees())))
		}
	})
	reg.Gauge("cfa_issuer_keys_age_seconds", "Since when the relay has an issuer's keys as they are. Missing where they never came.", []string{"issuer"}, func(set func(float64, ...string)) {
		r.eachIssuer(func(url string, age time.Duration, there bool) {
			if there {
				set(age.Seconds(), url)
			}
		})
	})
	reg.Gauge("cfa_issuer_keys_missing", "1 where an issuer's keys never came: its jobs are refused.", []string{"issuer"}, func(set func(float64, ...string)) {
		r.eachIssuer(func(url string, _ time.Duration, there bool) { set(truth(!there), url) })
	})
	reg.Gauge("cfa_token_age_least_seconds", "The age of the freshest ID token of each issuer in the last ten minutes or so, by this relay's clock. Below 0: this clock is behind the issuer's; never near 0: it is ahead.", []string{"issuer"}, func(set func(float64, ...string)) {
		for url, o := range m.offsets.now(r.now()) {
			set(o.least.Seconds(), url)
		}
	})

	stored := func(f func(h storeHealth) (float64, bool)) func(func(float64, ...string)) {
		return func(set func(float64, ...string)) {
			if s := r.opened.Load(); s != nil {
				if v, known := f(s.health()); known {
					set(v)
				}
			}
		}
	}
	reg.Gauge("cfa_store_bytes", "What the record takes.", nil, stored(func(h storeHealth) (float64, bool) { return float64(h.bytes), h.known }))
	reg.Gauge("cfa_store_limit_bytes", "What it may take (limits.store). From 80 percent on no new request is taken.", nil, stored(func(h storeHealth) (float64, bool) { return float64(h.most), true }))
	reg.Gauge("cfa_store_writable", "1 where the record can be written.", nil, func(set func(float64, ...string)) {
		if r.opened.Load() != nil {
			set(truth(r.unwritable() == ""))
		}
	})
	reg.Gauge("cfa_store_lag_records", "Records of the stream that this relay has not seen yet.", nil, func(set func(float64, ...string)) {
		if s := r.opened.Load(); s != nil {
			if n, known := s.behind(r.ctx); known {
				set(float64(n))
			}
		}
	})
	reg.Gauge("cfa_clock_skew_seconds", "This relay's clock minus the stream's. More than 5 s off, the relay ends nothing by time.", nil, stored(func(h storeHealth) (float64, bool) { return h.skew.Seconds(), h.known }))
	reg.Gauge("cfa_disk_free_bytes", "Free on the disk that the data directory is on.", nil, func(set func(float64, ...string)) {
		if rules := r.rules.Load(); rules != nil {
			if free, ok := diskFree(rules.config.Data); ok {
				set(float64(free))
			}
		}
	})
	reg.Gauge("cfa_certificate_expiry_timestamp_seconds", "When the certificate that new connections get expires, in Unix time.", nil, func(set func(float64, ...string)) {
		if end, ok := r.certificateEnd(); ok {
			set(float64(end.Unix()))
		}
	})
	return m
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// eachIssuer goes over the issuers of the file, and those that follow from it.
func (r *Relay) eachIssuer(f func(url string, age time.Duration, there bool)) {
	rules := r.rules.Load()
	if rules == nil {
		return
	}
	ages := rules.keys.Ages()
	for _, i := range rules.config.allIssuers() {
		age, there := ages[i.URL]
		f(i.URL, age, there)
	}
}

// projects has each project's series there before anything happens, so that its
// first event shows as a change.
func (m *meters) projects(c *Config) {
	for name := range c.Projects {
		m.requests.Add(0, name)
		for _, outcome := range outcomes {
			m.ended.Add(0, name, outcome)
		}
	}
	for _, as := range []string{"job", "responder"} {
		m.connects.Add(0, as, "accepted")
		m.connects.Add(0, as, "refused")
	}
}

var outcomes = []string{"done", "failed", "unknown", "declined", "expired", "cancelled", "lost"}

// outcomeOf is how a request that is over ended, in one word.
func outcomeOf(r lifecycle.Record) string {
	switch {
	case r.State == lifecycle.StateDone && (r.Outcome == lifecycle.OutcomeFailed || r.Outcome == lifecycle.OutcomeUnknown):
		return r.Outcome
	case r.State == lifecycle.StateCancelled && r.Event == lifecycle.EventLost:
		return "lost"
	}
	return string(r.State)
}

// recorded counts one transition that this relay has appended: of a cluster one
// relay does, so that sums over the relays are right.
func (m *meters) recorded(before *lifecycle.Record, after lifecycle.Record, asked int64) {
	if before == nil && after.Event == lifecycle.EventAsked {
		m.requests.Add(1, after.Project)
	}
	if (after.Event == lifecycle.EventAnswered || after.Event == lifecycle.EventApproved) && after.Attempt == 1 && asked > 0 {
		m.answer.Observe(max(0, float64(after.At-asked)/1000), after.Project)
	}
	if after.State.Final() && (before == nil || !before.State.Final()) {
		m.ended.Add(1, after.Project, outcomeOf(after))
	}
}

// refused counts a refusal.
func (m *meters) refused(verb, code string) {
	if !slices.Contains(verbs, verb) {
		verb = metrics.Other
	}
	m.refusals.Add(1, verb, code)
}

// judged counts a connection that the callout has decided on.
func (m *meters) judged(as string, took time.Duration, err error) {
	outcome := "accepted"
	if err != nil {
		outcome = "refused"
	}
	m.connects.Add(1, as, outcome)
	m.connect.Observe(took.Seconds(), as)
	if err == nil {
		return
	}
	code := metrics.Other
	if e, ok := errors.AsType[*trust.Error](err); ok {
		code = string(e.Code)
	}
	m.refusals.Add(1, "connect", code)
}

// tokenOffsets is the age of the freshest token of each issuer, in this window
// and the one before: what a job fetches just before it connects is seconds old,
// so an age that is below zero, or never small, is a clock that is off.
type tokenOffsets struct {
	mu     sync.Mutex
	since  time.Time
	last   map[string]offset
	before map[string]offset
}

type offset struct {
	least time.Duration
	of    int // tokens
}

const offsetWindow = 5 * time.Minute

func (o *tokenOffsets) turn(now time.Time) {
	switch d := now.Sub(o.since); {
	case o.last == nil || d >= 2*offsetWindow || d < 0:
		o.last, o.before, o.since = map[string]offset{}, nil, now
	case d >= offsetWindow:
		o.last, o.before, o.since = map[string]offset{}, o.last, now
	}
}

// note takes in a token of an issuer that is configured.
func (o *tokenOffsets) note(issuer string, age time.Duration, now time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.turn(now)
	o.last[issuer] = merge(o.last[issuer], offset{age, 1})
}

func merge(a, b offset) offset {
	switch {
	case a.of == 0:
		return b
	case b.of == 0:
		return a
	}
	return offset{min(a.least, b.least), a.of + b.of}
}

func (o *tokenOffsets) now(now time.Time) map[string]offset {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.turn(now)
	all := maps.Clone(o.last)
	for issuer, x := range o.before {
		all[issuer] = merge(all[issuer], x)
	}
	return all
}
