package broker

// What an administrator is told before it is too late.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// watching is a relay as far as watch looks at it.
func watching(end time.Time) (*Relay, *syncBuffer) {
	log := &syncBuffer{}
	r := &Relay{log: slog.New(slog.NewTextHandler(log, nil)), now: time.Now, net: &network{}, store: &store{}, meters: &meters{}}
	r.said.offset = map[string]bool{}
	if !end.IsZero() {
		r.net.certificate = func() (*tls.Certificate, error) {
			return &tls.Certificate{Leaf: &x509.Certificate{NotAfter: end}}, nil
		}
	}
	return r, log
}

func TestACertificatesEndIsSaidAtEachMarkOnce(t *testing.T) {
	t.Parallel()
	end := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	r, log := watching(end)
	lines := func() int { return strings.Count(log.String(), "\n") }
	for _, tc := range []struct {
		left time.Duration
		want string // of the newest line; "": nothing new
	}{
		{90 * 24 * time.Hour, ""},
		{30*24*time.Hour + time.Second, ""},
		{30 * 24 * time.Hour, "level=WARN msg=\"the certificate expires soon\" days=30"},
		{29 * 24 * time.Hour, ""},
		{7 * 24 * time.Hour, "level=WARN msg=\"the certificate expires soon\" days=7"},
		{25 * time.Hour, ""},
		{24 * time.Hour, "level=ERROR msg=\"the certificate expires within a day\" expires=2027-03-01T12:00:00Z"},
		{time.Hour, ""},
		{0, "level=ERROR msg=\"the certificate has expired; nobody can connect\""},
		{-time.Hour, ""},
	} {
		before := lines()
		r.watchCertificate(end.Add(-tc.left))
		r.watchCertificate(end.Add(-tc.left))
		switch {
		case tc.want == "" && lines() != before:
			t.Errorf("%s before: %s", tc.left, log)
		case tc.want != "" && (lines() != before+1 || !strings.Contains(log.String(), tc.want)):
			t.Errorf("%s before, want %s:\n%s", tc.left, tc.want, log)
		}
	}
	// A new certificate begins anew, with the mark that it has reached alone.
	before := lines()
	now := end
	end = end.AddDate(0, 0, 5)
	r.net.certificate = func() (*tls.Certificate, error) {
		return &tls.Certificate{Leaf: &x509.Certificate{NotAfter: end}}, nil
	}
	r.watchCertificate(now)
	if lines() != before+1 || !strings.Contains(log.String(), "days=5") {
		t.Errorf("a new one:\n%s", log)
	}
	r.net.certificate = func() (*tls.Certificate, error) { return nil, errors.New("gone") }
	r.watchCertificate(now)
	r.net.certificate = nil
	r.watchCertificate(now)
}

func TestTheCertificateThatIsServedIsTheOneWhoseEndIsMeasured(t *testing.T) {
	t.Parallel()
	f, _, _ := startTLS(t, "metrics: \"127.0.0.1:0\"")
	left := time.Until(time.Unix(int64(f.served()["cfa_certificate_expiry_timestamp_seconds"]), 0))
	if left < 50*time.Minute || left > time.Hour {
		t.Errorf("%s left of an hour", left)
	}
	f.log.line(t, "ERROR", "the certificate expires within a day")
}

func TestAClockThatIsOffTheStreamsIsSaidOnce(t *testing.T) {
	t.Parallel()
	r, log := watching(time.Time{})
	now := time.Now()
	for _, tc := range []struct {
		skew time.Duration
		said int
	}{{0, 0}, {2 * time.Second, 0}, {-2500 * time.Millisecond, 1}, {3 * time.Second, 1}, {0, 1}, {time.Hour, 2}} {
		r.store.report = storeReport{at: now, skew: tc.skew}
		r.watchClock(now)
		if n := strings.Count(log.String(), "this relay's clock and the store's drift apart"); n != tc.said {
			t.Errorf("%s off: said %d times, want %d", tc.skew, n, tc.said)
		}
	}
}

func TestTheStreamsClockIsComparedWithThisOne(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := &clock{}
	f.start(f.configText(t.TempDir(), onLoopback), Options{Now: c.now})
	c.move(-20 * time.Second)
	f.relay.store.measureRoom(t.Context())
	f.relay.watch(c.now())
	if skew := f.relay.store.health().skew; (skew + 20*time.Second).Abs() > 2*time.Second {
		t.Errorf("20 s behind: %s", skew)
	}
	f.log.line(t, "this relay's clock and the store's drift apart", "by=-")
}

func TestAClockThatIsOffTheIssuersIsSeenByTheirTokens(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for _, tc := range []struct {
		name string
		ages []time.Duration
		want string
	}{
		{"none", nil, ""},
		{"fresh", []time.Duration{time.Second, 0, 2 * time.Second}, ""},
		{"an issuer's clock runs a little ahead", []time.Duration{-5 * time.Second}, ""},
		{"behind", []time.Duration{-11 * time.Second}, "clock is behind"},
		{"behind, and one job was slow", []time.Duration{30 * time.Second, -11 * time.Second}, "clock is behind"},
		{"one slow job", []time.Duration{5 * time.Minute}, ""},
		{"slow jobs, and one that is not", []time.Duration{5 * time.Minute, 4 * time.Minute, 3 * time.Minute, time.Second}, ""},
		{"ahead", []time.Duration{90 * time.Second, 91 * time.Second, 95 * time.Second}, "clock is ahead of"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, log := watching(time.Time{})
			for _, age := range tc.ages {
				r.meters.offsets.note("https://issuer.test", age, now)
			}
			r.watchClock(now)
			r.watchClock(now)
			want := 1
			if tc.want == "" {
				want = 0
			}
			if n := strings.Count(log.String(), "\n"); n != want || !strings.Contains(log.String(), tc.want) {
				t.Errorf("%d lines: %s", n, log)
			}
			// What was long ago says nothing of now.
			r.watchClock(now.Add(2 * offsetWindow))
			if got := r.meters.offsets.now(now.Add(2 * offsetWindow)); len(got) != 0 || len(r.said.offset) != 0 {
				t.Errorf("%v %v", got, r.said.offset)
			}
		})
	}
}

func TestTheWindowOfTokensTurns(t *testing.T) {
	t.Parallel()
	o := &tokenOffsets{}
	now := time.Now()
	o.note("a", 5*time.Second, now)
	o.note("a", 3*time.Second, now.Add(offsetWindow-1))
	o.note("a", 9*time.Second, now.Add(offsetWindow))
	if got := o.now(now.Add(offsetWindow))["a"]; got.least != 3*time.Second || got.of != 3 {
		t.Errorf("%+v", got)
	}
	if got := o.now(now.Add(2 * offsetWindow))["a"]; got.least != 9*time.Second || got.of != 1 {
		t.Errorf("%+v", got)
	}
	// A clock that goes back must not keep the window open for ever.
	if got := o.now(now.Add(-time.Hour)); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestAStoreThatFillsIsSaidAtEachMark(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	s := f.relay.store
	for range 20 {
		must(t, f.accepted(rocketRepo, "rocket").cancel())
	}
	info, err := s.stream.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	fill := func(percent uint64) int {
		s.mu.Lock()
		s.most = int64(info.State.Bytes*100/percent) - 1
		s.mu.Unlock()
		s.measureRoom(context.Background())
		return strings.Count(f.log.String(), "the store fills; from 80 percent on")
	}
	for _, tc := range []struct {
		percent uint64
		said    int
		room    bool
	}{{50, 0, true}, {61, 1, true}, {65, 1, true}, {71, 2, true}, {81, 3, false}, {90, 3, false}} {
		if got := fill(tc.percent); got != tc.said || s.room() != tc.room {
			t.Errorf("at %d percent it was said %d times, want %d; room %v", tc.percent, got, tc.said, s.room())
		}
	}
}

func TestADiskThatIsSmallerThanTheLimitIsSaid(t *testing.T) {
	t.Parallel()
	r, log := watching(time.Time{})
	for _, tc := range []struct {
		free, record uint64
		said         int
	}{{1000, 0, 0}, {500, 500, 0}, {499, 500, 1}, {10, 0, 1}, {1 << 63, 1 << 63, 1}, {0, 0, 2}} {
		r.sayDisk(tc.free, tc.record, 1000)
		if n := strings.Count(log.String(), "the disk has less room than limits.store"); n != tc.said {
			t.Errorf("%d free, %d taken: said %d times, want %d", tc.free, tc.record, n, tc.said)
		}
	}
	if free, ok := diskFree(t.TempDir()); ok && free == 0 {
		t.Error("no room at all, and the test has a folder")
	}
	if _, ok := diskFree("/nowhere/at/all"); ok {
		t.Error("a disk that is not there has room")
	}
	// A running relay looks by itself.
	f := startFixture(t)
	rules := *f.relay.rules.Load()
	config := *rules.config
	config.Limits.Store = 1 << 60
	rules.config = &config
	f.relay.rules.Store(&rules)
	f.relay.watch(time.Now())
	f.log.line(t, "the disk has less room than limits.store lets the record take", "mend=")
	// Far too small is found at the start.
	f = newFixture(t)
	c, err := ParseConfig([]byte(f.configText(t.TempDir(), onLoopback+fmt.Sprintf("limits: {store: %d}\n", int64(1)<<60))), "/")
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Start(t.Context(), c, Options{}); err == nil || !strings.Contains(err.Error(), "lower limits.store") {
		if err == nil {
			r.Close()
		}
		t.Errorf("%v", err)
	}
}

func TestWhoWasFirstIsNoFailureOfTheStore(t *testing.T) {
	t.Parallel()
	for _, code := range []jetstream.ErrorCode{10071, 10164} { // of one server, and of several
		if !wasFirst(fmt.Errorf("append: %w", &jetstream.APIError{ErrorCode: code})) {
			t.Errorf("a wrong last sequence, %d", code)
		}
	}
	if wasFirst(&jetstream.APIError{ErrorCode: jetstream.JSErrCodeStreamNotFound}) || wasFirst(errors.New("disk full")) {
		t.Error("another error")
	}
}

// IPv6 is one more address.
func TestARelayListensOnIPv6(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c, err := ParseConfig([]byte(f.configText(t.TempDir(), "listen: {nats: \"[::1]:0\", websocket: \"[::1]:0\", metrics: \"[::1]:0\"}\n")), "/")
	if err != nil {
		t.Fatal(err)
	}
	r, err := Start(t.Context(), c, Options{})
	if err != nil && strings.Contains(err.Error(), "cannot assign requested address") {
		t.Skip("this machine has no IPv6")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	f.relay = r
	for _, u := range []string{r.ClientURL(), r.WebSocketURL(), r.HealthURL()} {
		if !strings.Contains(u, "://[::1]:") {
			t.Errorf("%s", u)
		}
	}
	ana := f.sit(f.ana)
	j := f.accepted(rocketRepo, "rocket")
	m, reply := ana.answer(j, 1)
	must(t, reply)
	must(t, j.got(1, m.Sealed.Hash()))
	if status, _ := f.read("/readyz"); status != 200 {
		t.Errorf("readyz: %d", status)
	}
}
