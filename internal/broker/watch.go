package broker

// What an administrator wants to know before it is too late: a certificate that
// expires, a clock that drifts, a store that cannot be written, a disk that is
// smaller than what the file lets the record take.

import (
	"context"
	"crypto/x509"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// storeReport is what the stream's leader last said.
type storeReport struct {
	at    time.Time // zero: nothing yet
	bytes uint64
	skew  time.Duration // this relay's clock minus the stream's
}

// storeHealth is how the store is now.
type storeHealth struct {
	storeReport
	known bool
	most  int64
}

func (s *store) health() storeHealth {
	s.mu.Lock()
	defer s.mu.Unlock()
	return storeHealth{storeReport: s.report, known: !s.report.at.IsZero(), most: s.most}
}

// behind is how many records of the stream follow has not seen yet.
func (s *store) behind(ctx context.Context) (uint64, bool) {
	s.mu.Lock()
	lag := s.lag
	s.mu.Unlock()
	if lag == nil {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	n, err := lag(ctx)
	return n, err == nil
}

// byProject is how many requests are open of each project.
func (s *store) byProject() map[string]int {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.projects)
}

const (
	// silentStore is how old the stream's last word may be.
	silentStore = 10 * time.Second
	// failedStore is how long a failed append counts, where no later one has
	// gone well.
	failedStore = 30 * time.Second
)

// unwritable says why nothing can be appended; "": it can.
func (s *store) unwritable(now time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.full >= 100:
		return "it is full (limits.store)"
	case !s.failed.IsZero() && now.Sub(s.failed).Abs() < failedStore:
		return "the last record could not be written"
	case now.Sub(s.report.at) > silentStore:
		return "it does not answer"
	}
	return ""
}

// wasFirst says whether an append was refused because another was there first.
func wasFirst(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	// Where several servers hold the record they say it with another number.
	return ok && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// watchEvery is how often a trial is written, and the rest looked at.
const watchEvery = 5 * time.Second

func (r *Relay) runWatch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			r.watch(r.now())
		case <-ctx.Done():
			return
		}
	}
}

// watched is what was said already.
type watched struct {
	end        time.Time // the certificate's, whose marks were said
	marks      int       // how many of its marks
	skew, disk bool
	offset     map[string]bool // by issuer
}

// watch looks at what changes by itself, and says what is new.
func (r *Relay) watch(now time.Time) {
	c := r.rules.Load().config
	if c.NATS == nil {
		why := ""
		if err := tryWrite(c.Data); err != nil {
			why = "its disk cannot be written: " + err.Error()
		}
		if before := r.probed.Swap(&why); why != "" && (before == nil || *before == "") {
			r.log.Error("the store's disk cannot be written; no request can be taken or ended", "error", why)
		}
	}
	r.watchDisk(c)
	r.watchCertificate(now)
	r.watchClock(now)
	r.renewEnrolments(r.ctx, now)
}

// leastFree is the least that a disk must have free to be one that can be written.
const leastFree = 1 << 20

// tryWrite writes as much as a record, down to the disk: one that is full or
// read-only takes small writes into its cache for a while. The file stays, so that
// a relay that is killed leaves one behind and not one each time.
func tryWrite(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "trial"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 4096))
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	// The trial itself may have got what it gave up a moment before.
	if free, ok := diskFree(dir); ok && free < leastFree {
		return errors.New("it is full")
	}
	return nil
}

// watchDisk compares what the record may still take with what there is.
func (r *Relay) watchDisk(c *Config) {
	if c.NATS != nil {
		return
	}
	if free, ok := diskFree(c.Data); ok {
		if h := r.store.health(); h.known {
			r.sayDisk(free, h.bytes, c.Limits.Store)
		}
	}
}

func (r *Relay) sayDisk(free, record uint64, limit int64) {
	short := free < uint64(limit) && record+free < uint64(limit)
	if short && !r.said.disk {
		r.log.Warn("the disk has less room than limits.store lets the record take; it would be full before the record is", "free", free, "record", record, "limit", limit,
			"mend", "make room on the disk of `data`, or lower limits.store")
	}
	r.said.disk = short
}

const day = 24 * time.Hour

// expiryMarks are how long before the end of a certificate in files it is said.
var expiryMarks = []time.Duration{30 * day, 7 * day, day, 0}

// acmeMarks are the same for one that is renewed by itself, which happens when a
// third of its life is left: whether that is a month or two days is the
// authority's choice.
func acmeMarks(life time.Duration) []time.Duration {
	return []time.Duration{life / 6, life / 18, 0}
}

// certificateEnd is when the certificate that new connections get expires.
func (r *Relay) certificateEnd() (time.Time, bool) {
	if !r.serving.Load() {
		return time.Time{}, false
	}
	return r.net.certificateEnd()
}

func (n *network) certificateEnd() (time.Time, bool) {
	leaf := n.leaf()
	if leaf == nil {
		return time.Time{}, false
	}
	return leaf.NotAfter, true
}

// leaf is the certificate that new connections get; nil: there is none, or it is
// another server's.
func (n *network) leaf() *x509.Certificate {
	if n.certificate == nil {
		return nil
	}
	cert, err := n.certificate()
	if err != nil || cert == nil {
		return nil
	}
	return cert.Leaf
}

// watchCertificate says at each mark how long the certificate is still good: once
// for each certificate, and again after a restart.
func (r *Relay) watchCertificate(now time.Time) {
	leaf := r.net.leaf()
	if leaf == nil {
		return
	}
	end, due, mend := leaf.NotAfter, expiryMarks, "renew the files of tls.cert and tls.key; new ones are picked up without a restart"
	if r.net.acme != nil {
		due, mend = acmeMarks(end.Sub(leaf.NotBefore)), "it should have been renewed by itself: the log says why not, and cfa-relay status"
	}
	if !end.Equal(r.said.end) {
		r.said.end, r.said.marks = end, 0
	}
	marks := 0
	for _, mark := range due {
		if end.Sub(now) <= mark {
			marks++
		}
	}
	if marks <= r.said.marks {
		return
	}
	r.said.marks = marks
	switch left := end.Sub(now); {
	case left <= 0:
		r.log.Error("the certificate has expired; nobody can connect", "expired", end.UTC().Format(time.RFC3339), "mend", mend)
	case left <= day:
		r.log.Error("the certificate expires within a day", "expires", end.UTC().Format(time.RFC3339), "mend", mend)
	default:
		r.log.Warn("the certificate expires soon", "days", int(left/day), "expires", end.UTC().Format(time.RFC3339), "mend", mend)
	}
}

const (
	// skewSaid is how far a clock is off when it is said, well before
	// [mostSkew] keeps the relay from ending anything.
	skewSaid = 2 * time.Second
	// A token's iat counts whole seconds, and issuers' clocks run a little ahead.
	tokenBehind = -10 * time.Second
	tokenAhead  = 60 * time.Second
	tokensAsked = 3 // an old one alone may be a slow job's
)

// watchClock compares this relay's clock with the stream's, and with those of the
// issuers, whose tokens are fetched just before they come here.
func (r *Relay) watchClock(now time.Time) {
	const mend = "see that the clock is set by NTP (timedatectl)"
	if h := r.store.health(); h.known {
		off := h.skew.Abs() > skewSaid
		if off && !r.said.skew {
			r.log.Warn("this relay's clock and the store's drift apart", "by", h.skew.Round(time.Millisecond).String(), "mend", mend)
		}
		r.said.skew = off
	}
	offsets := r.meters.offsets.now(now)
	for issuer := range r.said.offset {
		if _, there := offsets[issuer]; !there {
			delete(r.said.offset, issuer)
		}
	}
	for issuer, o := range offsets {
		behind := o.least < tokenBehind
		off := behind || o.least > tokenAhead && o.of >= tokensAsked
		if off && !r.said.offset[issuer] {
			what := "ahead of"
			if behind {
				what = "behind"
			}
			r.log.Warn("going by the ID tokens that come, this relay's clock is "+what+" their issuer's", "issuer", issuer, "youngest token", o.least.Round(time.Second).String(), "tokens", o.of, "mend", mend)
		}
		r.said.offset[issuer] = off
	}
}
