package broker

// Metrics and health over real HTTP, of a relay that does real work.

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/metrics"
	"github.com/continuousauth/action/internal/wire"
)

const withMetrics = "listen: {nats: \"127.0.0.1:0\", metrics: \"127.0.0.1:0\"}\n"

// read gets a page of the relay's metrics listener.
func (f *fixture) read(path string) (int, string) {
	f.t.Helper()
	resp, err := http.Get(f.relay.HealthURL() + path)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

var metricLine = regexp.MustCompile(`^([a-z][a-z0-9_]*)(\{(?:[a-z]+="(?:[^"\\\n]|\\.)*",?)+\})? (\S+)$`)

// served is every series of the relay's, as it stands in the text.
func (f *fixture) served() map[string]float64 {
	f.t.Helper()
	status, text := f.read("/metrics")
	if status != http.StatusOK {
		f.t.Fatalf("status %d: %s", status, text)
	}
	all := map[string]float64{}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "# HELP ") || strings.HasPrefix(line, "# TYPE ") {
			continue
		}
		m := metricLine.FindStringSubmatch(line)
		if m == nil {
			f.t.Fatalf("not a line of Prometheus's: %q", line)
		}
		v, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			f.t.Fatal(err)
		}
		if _, twice := all[m[1]+m[2]]; twice {
			f.t.Errorf("twice: %s", line)
		}
		all[m[1]+m[2]] = v
	}
	return all
}

// busy starts a relay with metrics and has it do all that it can: an answer, a
// decline, an end by the job, refusals of each sort.
func busy(t *testing.T) (f *fixture, secrets []string) {
	t.Helper()
	f = newFixture(t)
	f.start(f.configText(t.TempDir(), withMetrics), Options{Version: "1.2.3"})
	ana, bob := f.sit(f.ana), f.sit(f.bob)
	waits, answered, declined, cancelled := f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket"), f.accepted(boatRepo, "boat")
	m, r := ana.answer(answered, 1)
	must(t, r)
	must(t, answered.got(1, m.Sealed.Hash()))
	must(t, answered.done(1))
	must(t, bob.say(wire.VerbDecline, f.bob.declineMessage(t, declined, 1, "not today")))
	must(t, cancelled.cancel())
	// Refused: no rule fits; a message of a name of the client's own; a token that
	// is for another key.
	j := f.job(otherRepo, "rocket")
	j.connect()
	refused(t, j.send(j.nc), wire.RefusedPolicy)
	refused(t, request(t, waits.nc, wire.JobSubject(waits.pub, "evil-"+waits.pub), wire.StateQuery{}), wire.RefusedMalformed)
	if nc, err := f.connect(newKey(t), waits.token); err == nil {
		nc.Close()
		t.Fatal("it was let in")
	}
	// Asked to reply to another's inbox.
	if err := waits.nc.PublishRequest(wire.JobSubject(waits.pub, wire.VerbState), "_INBOX_x.y", []byte("{}")); err != nil {
		t.Fatal(err)
	}
	must(t, waits.state())
	return f, []string{waits.token, answered.token, waits.pub, answered.pub, f.ana.key(), f.ana.signer(), "evil", rocketRepo, "not today", m.Sealed.Hash().String(), "Ana", "Bob"}
}

func TestMetricsSayWhatHappened(t *testing.T) {
	t.Parallel()
	f, _ := busy(t)
	for name, want := range map[string]float64{
		`cfa_requests_total{project="rocket"}`:                          3,
		`cfa_requests_total{project="boat"}`:                            1,
		`cfa_requests_total{project="other"}`:                           0,
		`cfa_requests_open{project="rocket"}`:                           1,
		`cfa_requests_open{project="boat"}`:                             0,
		`cfa_requests_ended_total{project="rocket",outcome="done"}`:     1,
		`cfa_requests_ended_total{project="rocket",outcome="declined"}`: 1,
		`cfa_requests_ended_total{project="rocket",outcome="expired"}`:  0,
		`cfa_requests_ended_total{project="boat",outcome="cancelled"}`:  1,
		`cfa_refusals_total{what="request",code="policy"}`:              1,
		`cfa_refusals_total{what="other",code="malformed"}`:             1,
		`cfa_refusals_total{what="connect",code="audience"}`:            1,
		`cfa_messages_dropped_total{why="reply subject"}`:               1,
		`cfa_connects_total{as="job",outcome="accepted"}`:               5,
		`cfa_connects_total{as="job",outcome="refused"}`:                1,
		`cfa_connects_total{as="responder",outcome="accepted"}`:         2,
		`cfa_answer_seconds_count{project="rocket"}`:                    1,
		`cfa_answer_seconds_bucket{project="rocket",le="+Inf"}`:         1,
		`cfa_request_seconds_count`:                                     4,
		`cfa_connect_seconds_count{as="job"}`:                           6,
		`cfa_issuer_keys_missing{issuer="` + f.issuer.URL() + `"}`:      0,
		`cfa_store_limit_bytes`:                                         1 << 30,
		`cfa_store_writable`:                                            1,
		`cfa_store_lag_records`:                                         0,
		`cfa_ready`:                                                     1,
		`cfa_draining`:                                                  0,
	} {
		eventually(t, fmt.Sprintf("%s is %g", name, want), func() bool { got, there := f.served()[name]; return there && got == want })
	}
	eventually(t, "who is connected is counted", func() bool {
		s := f.served()
		return s[`cfa_connections{as="job"}`] == 5 && s[`cfa_connections{as="responder"}`] == 2
	})
	s := f.served()
	for name, below := range map[string]float64{
		`cfa_issuer_keys_age_seconds{issuer="` + f.issuer.URL() + `"}`: 3600, `cfa_clock_skew_seconds`: 1, `cfa_store_bytes`: 1 << 20,
		`cfa_token_age_least_seconds{issuer="` + f.issuer.URL() + `"}`: 300, `cfa_answer_seconds_sum{project="rocket"}`: 60,
	} {
		if v, there := s[name]; !there || v > below {
			t.Errorf("%s is %g (there: %v)", name, v, there)
		}
	}
	eventually(t, "the store holds some records", func() bool { return f.served()[`cfa_store_bytes`] > 1000 })
	if at := s["process_start_time_seconds"]; time.Since(time.Unix(int64(at), 0)) > time.Hour {
		t.Errorf("started at %g", at)
	}
	found := false
	for name := range s {
		found = found || strings.HasPrefix(name, `cfa_build_info{version="1.2.3",go="go`)
	}
	if !found {
		t.Error("no cfa_build_info")
	}
}

func TestMetricsHoldNothingOfWhoAsksOrAnswers(t *testing.T) {
	t.Parallel()
	f, secrets := busy(t)
	_, text := f.read("/metrics")
	_, ready := f.read("/readyz")
	for _, s := range secrets {
		if strings.Contains(text+ready, s) {
			t.Errorf("%q stands in\n%s", s, text)
		}
	}
}

// What deploy/ and the documents name must be what a relay serves: a dashboard
// over a metric that is not there shows a calm line.
func TestEachMetricThatIsNamedIsServed(t *testing.T) {
	t.Parallel()
	f, _ := busy(t)
	labels := map[string][]string{} // by metric
	for name := range f.served() {
		m := metricLine.FindStringSubmatch(name + " 0")
		of := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(m[1], "")
		if !slices.Contains(f.relay.meters.registry.Names(), of) {
			of = m[1]
		}
		for _, l := range regexp.MustCompile(`([a-z]+)="`).FindAllStringSubmatch(m[2], -1) {
			labels[of] = append(labels[of], l[1])
		}
		labels[of] = append(labels[of], "instance", "job") // Prometheus's own
	}
	// The certificate's is served where there is TLS.
	labels["cfa_certificate_expiry_timestamp_seconds"] = []string{"instance", "job"}
	for _, name := range f.relay.meters.registry.Names() {
		if labels[name] == nil {
			t.Errorf("%s is not served", name)
		}
	}
	word := regexp.MustCompile(`\b(?:cfa|process|go)_[a-z_]+\b`)
	var named []string
	for _, file := range []string{"deploy/grafana/cfa-relay.json", "deploy/prometheus/cfa-relay.rules.yml", "docs/operating.md"} {
		data, err := os.ReadFile(filepath.Join("..", "..", file))
		if err != nil {
			t.Fatal(err)
		}
		found := 0
		for line := range strings.Lines(string(data)) {
			names := word.FindAllString(line, -1)
			for _, name := range names {
				name = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
				if labels[name] == nil {
					t.Errorf("%s names %s, which no relay serves", file, name)
				}
				found++
				named = append(named, file+" "+name)
			}
			if len(names) != 1 || strings.HasSuffix(file, ".md") {
				continue
			}
			name := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(names[0], "")
			for _, m := range regexp.MustCompile(`(?:by|on) ?\(([a-z, ]+)\)|\{([a-z]+)[=!]`).FindAllStringSubmatch(line, -1) {
				for _, l := range strings.Split(m[1]+m[2], ",") {
					if l = strings.TrimSpace(l); l != "le" && !slices.Contains(labels[name], l) {
						t.Errorf("%s: %s has no label %s", file, name, l)
					}
				}
			}
		}
		if found < 8 {
			t.Errorf("%s names %d metrics: does this test still see them?", file, found)
		}
	}
	for _, name := range f.relay.meters.registry.Names() {
		if !slices.Contains(named, "docs/operating.md "+name) {
			t.Errorf("docs/operating.md does not explain %s", name)
		}
	}
}

// Where Prometheus's own tool is installed, it judges the alerts and the text.
func TestPrometheusTakesTheAlertsAndTheText(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("no promtool here")
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", "../../deploy/prometheus/cfa-relay.rules.yml").CombinedOutput(); err != nil {
		t.Errorf("check rules: %v\n%s", err, out)
	}
	f, _ := busy(t)
	_, text := f.read("/metrics")
	check := exec.CommandContext(t.Context(), promtool, "check", "metrics")
	check.Stdin = strings.NewReader(text)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("check metrics: %v\n%s", err, out)
	}
}

func TestTheMetricsListenerTakesNothingButGET(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(f.configText(t.TempDir(), withMetrics), Options{})
	for _, tc := range []struct {
		method, path string
		want         int
	}{
		{"GET", "/metrics", 200}, {"GET", "/livez", 200}, {"GET", "/readyz", 200},
		{"HEAD", "/metrics", 405}, {"POST", "/metrics", 405}, {"DELETE", "/livez", 405}, {"OPTIONS", "/readyz", 405},
		{"GET", "/", 404}, {"GET", "/v1/status", 404}, {"POST", "/v1/reload", 404}, {"GET", "/debug/pprof/", 404}, {"GET", "/metrics/x", 404},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tc.method, f.relay.HealthURL()+tc.path, strings.NewReader("body"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != tc.want {
			t.Errorf("%s %s: %d, want %d", tc.method, tc.path, resp.StatusCode, tc.want)
		}
	}
	resp, err := http.Get(f.relay.HealthURL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.Header.Get("Content-Type") != metrics.ContentType || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%v", resp.Header)
	}
	// Headers without end.
	c, err := net.Dial("tcp", strings.TrimPrefix(f.relay.HealthURL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprintf(c, "GET /metrics HTTP/1.1\r\nHost: x\r\nX: %s", strings.Repeat("x", 64<<10))
	status, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && !strings.Contains(status, "431") {
		t.Errorf("64 KiB of headers: %q", status)
	}
	// Nobody can hold the relay up by saying nothing.
	silent, err := net.Dial("tcp", strings.TrimPrefix(f.relay.HealthURL(), "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	silent.SetDeadline(time.Now().Add(20 * time.Second))
	fmt.Fprint(silent, "GET /metrics HTTP/1.1\r\n")
	if _, err := io.Copy(io.Discard, silent); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("half a request is waited for")
	}
	f.relay.Close()
	if _, err := http.Get(f.relay.HealthURL() + "/livez"); err == nil {
		t.Error("it outlives the relay")
	}
}

func TestARelayIsReadyOnceItKnowsWhoseKeysItHas(t *testing.T) {
	t.Parallel()
	f := newFrailFixture(t)
	slow, err := devissuer.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(slow.Close)
	f.issuer.Break(devissuer.Hang)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	c, err := ParseConfig([]byte(f.configText(t.TempDir(), "listen: {nats: \"127.0.0.1:0\", metrics: \""+addr+"\"}\n")), "/")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type result struct {
		r   *Relay
		err error
	}
	done := make(chan result, 1)
	go func() { r, err := Start(ctx, c, Options{}); done <- result{r, err} }()
	look := func(path string) (int, string) {
		resp, err := http.Get("http://" + addr + path)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body)
	}
	eventually(t, "it lives", func() bool { status, _ := look("/livez"); return status == 200 })
	if status, body := look("/readyz"); status != 503 || !strings.Contains(body, "not ready: the relay is starting") {
		t.Errorf("%d %s", status, body)
	}
	if status, _ := look("/metrics"); status != 200 {
		t.Errorf("metrics while it starts: %d", status)
	}
	got := <-done
	if got.err != nil {
		t.Fatal(got.err)
	}
	f.relay = got.r
	defer f.relay.Close()
	if status, body := look("/readyz"); status != 200 || !strings.Contains(body, "missing: the keys of "+f.issuer.URL()) {
		t.Errorf("%d %s", status, body)
	}
	if v := f.served()[`cfa_issuer_keys_missing{issuer="`+f.issuer.URL()+`"}`]; v != 1 {
		t.Errorf("missing: %g", v)
	}
}

func TestARelayWhoseStoreCannotBeWrittenIsNotReady(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c := &clock{}
	broken := make(chan struct{}) // closed: the store takes nothing
	o := held(func(_ context.Context, _ *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
		select {
		case <-broken:
			return nil, errors.New("no space left on device")
		default:
			return next()
		}
	})
	o.Now = c.now
	dir := t.TempDir()
	f.start(f.configText(dir, withMetrics), o)
	j := f.accepted(rocketRepo, "rocket")
	if status, body := f.read("/readyz"); status != 200 {
		t.Errorf("%d %s", status, body)
	}
	close(broken)
	refused(t, j.cancel(), wire.RefusedBusy)
	if status, body := f.read("/readyz"); status != 503 || !strings.Contains(body, "the store: the last record could not be written") {
		t.Errorf("%d %s", status, body)
	}
	if v := f.served()["cfa_store_writable"]; v != 0 {
		t.Errorf("writable: %g", v)
	}
	c.move(failedStore + time.Second)
	eventually(t, "a failure of long ago is none", func() bool { status, _ := f.read("/readyz"); return status == 200 })

	// The disk itself: a trial is written.
	for range 2 {
		if err := tryWrite(dir); err != nil {
			t.Error(err)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "trial")); err != nil || info.Size() != 4096 || info.Mode().Perm() != 0o600 {
		t.Errorf("the trial: %v %v", info, err)
	}
	if err := tryWrite(filepath.Join(dir, "gone")); err == nil {
		t.Error("written to nowhere")
	}
	if err := tryWrite("/dev/full"); err == nil {
		t.Error("written to no folder")
	}
	why := "its disk cannot be written: read-only file system"
	f.relay.probed.Store(&why)
	if status, body := f.read("/readyz"); status != 503 || !strings.Contains(body, "read-only") {
		t.Errorf("%d %s", status, body)
	}
	f.relay.watch(c.now())
	if status, body := f.read("/readyz"); status != 200 {
		t.Errorf("%d %s", status, body)
	}
}

func TestAFullStoreIsNotReady(t *testing.T) {
	t.Parallel()
	s := &store{most: 100}
	now := time.Now()
	s.report.at = now
	for full, want := range map[int]string{0: "", 99: "", 100: "it is full (limits.store)"} {
		s.full = full
		if got := s.unwritable(now); got != want {
			t.Errorf("%d percent: %q", full, got)
		}
	}
	s.full = 0
	if got := s.unwritable(now.Add(silentStore + time.Second)); got != "it does not answer" {
		t.Errorf("silent: %q", got)
	}
}

func TestMetricsStayOnLoopbackUnlessTheFileSaysOtherwise(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for _, tc := range []struct{ listen, want string }{
		{`metrics: "127.0.0.1:9464"`, ""},
		{`metrics: "[::1]:9464"`, ""},
		{`metrics: "localhost:0"`, ""},
		{`metrics: "0.0.0.0:9464"`, "can be reached from outside"},
		{`metrics: ":9464"`, "can be reached from outside"},
		{`metrics: "[::]:9464"`, "can be reached from outside"},
		{`metrics: "metrics.example.com:9464"`, "can be reached from outside"},
		{`metrics: "0.0.0.0:9464", public-metrics: true`, ""},
		{`metrics: "9464"`, "is not host:port"},
		{`public-metrics: true`, "is for listen.metrics, which is missing"},
	} {
		_, err := ParseConfig([]byte(f.configText("/x", "listen: {nats: \"127.0.0.1:0\", "+tc.listen+"}\n")), "/")
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", tc.listen, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "line ")):
			t.Errorf("%s: %v", tc.listen, err)
		}
	}
	// A port that is taken is said, and nothing is left running.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := ParseConfig([]byte(f.configText(t.TempDir(), "listen: {nats: \"127.0.0.1:0\", metrics: \""+l.Addr().String()+"\"}\n")), "/")
	if err != nil {
		t.Fatal(err)
	}
	if r, err := Start(t.Context(), c, Options{}); err == nil || !strings.Contains(err.Error(), "listen.metrics: ") {
		if err == nil {
			r.Close()
		}
		t.Errorf("%v", err)
	}
}
