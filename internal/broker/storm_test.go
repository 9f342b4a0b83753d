package broker

// A relay that ends, by itself or not, and all who waited there at once back at
// its door: jobs that come back by their keys, responders that read what waits.
// The relay is a process of its own, so that it can be killed and its memory
// counts alone.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

// crowd is many clients of one server that come back whenever they have lost it,
// as the programs do: after the same pauses, and with the same first message.
type crowd struct {
	t     testing.TB
	enter []func(ctx context.Context) (*nats.Conn, error) // what each does to be back
	again []func(nc *nats.Conn) error                     // every 15 s; nil: nothing

	mu    sync.Mutex
	came  []int // how often each was let in and had its first reply
	in    []bool
	moved chan struct{} // closed when either changes, and made anew
	lost  map[string]int
}

// run keeps them all there until ctx ends.
func (c *crowd) run(ctx context.Context) (wait func()) {
	c.came, c.in, c.moved, c.lost = make([]int, len(c.enter)), make([]bool, len(c.enter)), make(chan struct{}), map[string]int{}
	var all sync.WaitGroup
	for i := range c.enter {
		all.Go(func() { c.stay(ctx, i) })
	}
	return all.Wait
}

func (c *crowd) stay(ctx context.Context, i int) {
	fails := 0
	for ctx.Err() == nil {
		if fails > 0 {
			// As jobs do: 0.25 s, doubled up to 10 s, of which half by chance.
			d := min(10*time.Second, 250*time.Millisecond<<min(fails-1, 7))
			if pause(ctx, d/2+rand.N(d/2)) != nil {
				return
			}
		}
		fails++
		nc, err := c.enter[i](ctx)
		if err != nil {
			c.mark(i, false, err)
			continue
		}
		since := time.Now()
		gone := nc.StatusChanged(nats.CLOSED)
		if !nc.IsClosed() {
			c.mark(i, true, nil)
			err = c.wait(ctx, i, nc, gone)
		}
		if time.Since(since) > 30*time.Second {
			fails = 1
		}
		nc.Close()
		c.mark(i, false, err)
	}
}

// wait is what a client does while nothing happens.
func (c *crowd) wait(ctx context.Context, i int, nc *nats.Conn, gone <-chan nats.Status) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-gone:
			return nil
		case <-time.After(wire.ReRead*4/5 + rand.N(wire.ReRead*2/5)):
			if c.again == nil {
				continue
			}
			if err := c.again[i](nc); err != nil {
				return err
			}
		}
	}
}

func (c *crowd) mark(i int, in bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if in {
		c.came[i]++
	}
	c.in[i] = in
	if err != nil {
		c.lost[err.Error()]++
	}
	close(c.moved)
	c.moved = make(chan struct{})
}

// counts is how often each has come, by now.
func (c *crowd) counts() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.came)
}

// back waits until each is there and has come once more than before.
func (c *crowd) back(before []int, within time.Duration) {
	c.t.Helper()
	late := time.After(within)
	for {
		missing := 0
		c.mu.Lock()
		for i := range c.in {
			if !c.in[i] || before != nil && c.came[i] <= before[i] {
				missing++
			}
		}
		moved, lost := c.moved, fmt.Sprint(c.lost)
		c.mu.Unlock()
		if missing == 0 {
			return
		}
		select {
		case <-moved:
			// Not at each of ten thousand: looking at all of them takes time from
			// those who are on their way.
			time.Sleep(5 * time.Millisecond)
		case <-late:
			c.t.Fatalf("%d of %d are not back after %s; what failed: %s", missing, len(c.in), within, wire.Clean(lost, 2000))
		}
	}
}

// dialed connects without the buffers for what is to be sent later.
func dialed(url string, opts ...nats.Option) (*nats.Conn, error) {
	// 30 s, as the programs wait.
	return nats.Connect(url, append([]nats.Option{nats.ReconnectBufSize(-1), nats.NoReconnect(), nats.Timeout(30 * time.Second),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})}, opts...)...)
}

// siege is a relay in a process of its own, on a port that stays, with jobs and
// responders who wait there.
type siege struct {
	*fixture
	t       testing.TB
	dir     string
	config  string
	url     string
	process *memoryProcess
	desks   []*siegeDesk
	jobs    []*siegeJob
	crowd
	ready time.Duration // how long the last start took, until the relay served
	began time.Time     // of that start
}

// seen is what a client that comes back has now.
type seen struct {
	mu   sync.Mutex
	nc   *nats.Conn
	last wire.State // as told, to a job
}

func (s *seen) on() *nats.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nc
}

func (s *seen) told() wire.State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *seen) came(nc *nats.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nc = nc
}

type siegeJob struct {
	*job
	seen
	project         string
	asked, answered bool
	answers         chan wire.Hint
}

type siegeDesk struct {
	*human
	seen
	projects map[string]bool
}

const (
	jobsPerProject       = 50 // a project may have 64 open
	projectsPerResponder = 4  // so that each project has some two
)

// newSiege starts a relay of which jobs and responders are about to wait.
func newSiege(t testing.TB, jobs, responders int) *siege {
	t.Helper()
	if _, err := os.Stat("/proc/self/statm"); err != nil {
		t.Skip("resident memory is read from /proc")
	}
	s := &siege{fixture: newFixture(t), t: t, dir: t.TempDir()}
	addr := free(t)
	s.url = "nats://" + addr
	projects := max(projectsPerResponder, (jobs+jobsPerProject-1)/jobsPerProject)
	people := make([]string, projects)
	for i := range responders {
		d := &siegeDesk{human: newHuman(t, fmt.Sprintf("Human%d", i)), projects: map[string]bool{}}
		s.desks = append(s.desks, d)
		for k := range projectsPerResponder {
			p := (i*projectsPerResponder + k) % projects
			people[p] += "      - " + d.yaml() + "\n"
			d.projects[projectOf(p)] = true
		}
	}
	var text strings.Builder
	fmt.Fprintf(&text, "host: %s\ndata: %s\nlisten: {nats: %q}\nissuers:\n  - {name: dev, provider: github, url: %q}\nprojects:\n", relayName, filepath.Join(s.dir, "data"), addr, s.issuer.URL())
	for i, p := range people {
		if p == "" {
			d := s.desks[i%responders]
			p = "      - " + d.yaml() + "\n"
			d.projects[projectOf(i)] = true
		}
		fmt.Fprintf(&text, "  %s:\n    ci: [%s]\n    responders:\n%s", projectOf(i), ruleOf(rocketRepo), p)
	}
	s.config = filepath.Join(s.dir, "cfa.yaml")
	if err := os.WriteFile(s.config, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range jobs {
		s.jobs = append(s.jobs, &siegeJob{project: projectOf(i / jobsPerProject), answers: make(chan wire.Hint, 4)})
	}
	s.serve()
	return s
}

func projectOf(i int) string { return fmt.Sprintf("project%d", i) }

// free is an address that nobody listens on, for a server that must come back at it.
func free(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (s *siege) serve(env ...string) {
	s.t.Helper()
	s.began = time.Now()
	s.process = startForMemory(s.t, append(env, memoryServer+"=relay", memoryServer+"_CONFIG="+s.config)...)
	s.ready = time.Since(s.began)
}

// stop ends the process by a signal, and waits for that.
func (p *memoryProcess) stop(signal os.Signal) {
	p.b.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.b.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil && signal != syscall.SIGKILL {
		p.b.Fatalf("the server ended with %v", err)
	}
}

// peak is the most memory that the process has had.
func (p *memoryProcess) peak() float64 {
	p.b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		p.b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.Atoi(strings.Fields(rest)[0])
			if err != nil {
				p.b.Fatal(err)
			}
			return float64(kib) * 1024
		}
	}
	p.b.Fatal("no peak in /proc")
	return 0
}

// cpu is the processor time that the process has taken.
func (p *memoryProcess) cpu() time.Duration {
	p.b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		p.b.Fatal(err)
	}
	// After the name in parentheses: the 12th and 13th are user's and system's, in
	// hundredths of a second on each Linux there is.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	var ticks int
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			p.b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// say sends one message and gives the reply, or the refusal as an error.
func say(nc *nats.Conn, subject string, msg any) (wire.Reply, error) {
	data, err := json.Marshal(msg)
	if err != nil {
		return wire.Reply{}, err
	}
	m, err := nc.Request(subject, data, 10*time.Second)
	if err != nil {
		return wire.Reply{}, err
	}
	var r wire.Reply
	if err := wire.Decode(m.Data, wire.MaxMessage, &r); err != nil {
		return r, err
	}
	if r.Refused != nil {
		return r, r.Refused
	}
	return r, nil
}

// gather has everybody come and stay; n at a time, so that the first admission is
// not what is measured.
func (s *siege) gather(ctx context.Context) (wait func()) {
	s.t.Helper()
	door := make(chan struct{}, 32)
	s.crowd.t = s.t
	for _, j := range s.jobs {
		s.enter = append(s.enter, func(ctx context.Context) (*nats.Conn, error) {
			if !j.asked {
				door <- struct{}{}
				defer func() { <-door }()
				if j.job == nil {
					j.job = s.job(rocketRepo, j.project)
				}
			}
			return j.come(s)
		})
		s.again = append(s.again, j.read)
	}
	for _, h := range s.desks {
		s.enter = append(s.enter, func(ctx context.Context) (*nats.Conn, error) {
			nc, err := s.dialAs(h.connect, hello(s.t, h.connect))
			if err != nil {
				return nil, err
			}
			if _, err := h.pages(nc); err != nil {
				nc.Close()
				return nil, err
			}
			h.came(nc)
			return nc, nil
		})
		s.again = append(s.again, func(nc *nats.Conn) error { _, err := h.pages(nc); return err })
	}
	wait = s.run(ctx)
	s.back(nil, 10*time.Minute)
	return wait
}

func (s *siege) dialAs(key nkeys.KeyPair, token string) (*nats.Conn, error) {
	pub := wire.PublicKey(key)
	return dialed(s.url, nats.Nkey(pub, key.Sign), nats.Token(token), nats.CustomInboxPrefix(wire.InboxPrefix(pub)))
}

// come connects, asks if that was not done yet, and reads how it stands.
func (j *siegeJob) come(s *siege) (*nats.Conn, error) {
	token := j.token
	if j.asked {
		token = hello(s.t, j.key)
	}
	nc, err := s.dialAs(j.key, token)
	if err != nil {
		return nil, err
	}
	if _, err = nc.Subscribe(wire.HintSubject(j.pub), func(m *nats.Msg) {
		var h wire.Hint
		if wire.Decode(m.Data, wire.MaxMessage, &h) == nil && h.Hint == wire.HintAnswer {
			j.answers <- h
		}
	}); err == nil && !j.asked {
		_, err = say(nc, wire.JobSubject(j.pub, wire.VerbRequest), wire.RequestMessage{Request: j.env, Token: j.token})
	}
	if err == nil {
		j.asked = true
		err = j.read(nc)
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	j.came(nc)
	return nc, nil
}

func (j *siegeJob) read(nc *nats.Conn) error {
	r, err := say(nc, wire.JobSubject(j.pub, wire.VerbState), wire.StateQuery{})
	if err != nil {
		return err
	}
	if r.State == nil {
		return errors.New("no state")
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.last = *r.State
	return nil
}

// pages is what waits for a responder, by key.
func (h *human) pages(nc *nats.Conn) (map[string]wire.Item, error) {
	all, after := map[string]wire.Item{}, ""
	for {
		r, err := say(nc, wire.DeskSubject(h.key(), wire.VerbPending), wire.PendingQuery{After: after})
		if err != nil {
			return nil, err
		}
		if r.Page == nil {
			return nil, errors.New("no page")
		}
		for _, item := range r.Page.Items {
			all[item.Key], after = item, item.Key
		}
		if !r.Page.More {
			return all, nil
		}
	}
}

// bareCrowd is as many clients of a server without a relay, each with a user's key
// and one subscription.
func bareCrowd(t testing.TB, n int) (c *crowd, serve func() *memoryProcess) {
	t.Helper()
	user := newKey(t)
	addr := free(t)
	_, port, _ := net.SplitHostPort(addr)
	c = &crowd{t: t}
	for range n {
		c.enter = append(c.enter, func(context.Context) (*nats.Conn, error) {
			nc, err := dialed("nats://"+addr, nats.Nkey(wire.PublicKey(user), user.Sign))
			if err != nil {
				return nil, err
			}
			if _, err = nc.SubscribeSync(nats.NewInbox()); err == nil {
				err = nc.FlushTimeout(10 * time.Second)
			}
			if err != nil {
				nc.Close()
				return nil, err
			}
			return nc, nil
		})
	}
	return c, func() *memoryProcess {
		t.Helper()
		return startForMemory(t, memoryServer+"=bare", memoryServer+"_PORT="+port, memoryServer+"_USER="+wire.PublicKey(user))
	}
}

// BenchmarkRestart is a relay that is killed, and one that is told to end, with
// 10,000 jobs and 100 responders: how long until each is back and knows how it
// stands, from the start of the new process. The floor is as many bare nkey
// connections to a bare server that is killed. Clients and server share the
// machine's processors in both.
func BenchmarkRestart(b *testing.B) {
	const jobs, responders = 10_000, 100
	for b.Loop() {
		ctx, cancel := context.WithCancel(b.Context())
		bare, serve := bareCrowd(b, jobs+responders)
		p := serve()
		wait := bare.run(ctx)
		bare.back(nil, 10*time.Minute)
		before := bare.counts()
		p.stop(syscall.SIGKILL)
		began := time.Now()
		p = serve()
		bare.back(before, 10*time.Minute)
		floor := time.Since(began)
		floorCPU := p.cpu()
		cancel()
		wait()
		p.stop(syscall.SIGKILL)

		ctx, cancel = context.WithCancel(b.Context())
		s := newSiege(b, jobs, responders)
		wait = s.gather(ctx)
		waiting := s.process.settled()
		for _, how := range []struct {
			name   string
			signal syscall.Signal
		}{{"killed", syscall.SIGKILL}, {"told", syscall.SIGTERM}} {
			before := s.counts()
			s.process.stop(how.signal)
			var env []string
			if dir := os.Getenv("CFA_BENCH_PROFILE"); dir != "" {
				env = append(env, memoryServer+"_PROFILE="+filepath.Join(dir, how.name+".pprof"))
			}
			s.serve(env...)
			s.back(before, 10*time.Minute)
			took := time.Since(s.began)
			b.ReportMetric(took.Seconds(), how.name+"-s")
			b.ReportMetric(took.Seconds()/floor.Seconds(), how.name+"-ratio")
			b.ReportMetric(s.ready.Seconds(), how.name+"-serves-s")
			b.ReportMetric(s.process.cpu().Seconds(), how.name+"-cpu-s")
			b.ReportMetric(s.process.peak()/(1<<20), how.name+"-peak-MiB")
			b.Logf("%s: what failed on the way: %s", how.name, wire.Clean(fmt.Sprint(s.lost), 1000))
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(floor.Seconds(), "floor-s")
		b.ReportMetric(floorCPU.Seconds(), "floor-cpu-s")
		b.ReportMetric(waiting/(1<<20), "waiting-MiB")
		cancel()
		wait()
		s.process.stop(syscall.SIGTERM)
	}
}

// delivers has a responder answer one job again and again, and gives how long each
// answer took from being sent until it was opened and checked by its job.
func (s *siege) delivers(d *siegeDesk, j *siegeJob, hk *seal.Key, attempt *int, until func(n int) bool) ([]time.Duration, error) {
	var took []time.Duration
	for n := 0; !until(n) && *attempt < 990; n++ {
		sealed, err := seal.Close(hk.Public(), seal.To{Digest: j.dig, Attempt: *attempt, Ask: wire.AskCode, Responder: d.signer()}, "123456")
		if err != nil {
			return nil, err
		}
		env, err := wire.Sign(&wire.Answer{Key: d.signer(), Digest: j.dig, Attempt: *attempt, Ask: wire.AskCode, Decision: wire.DecisionCode, Sealed: sealed.Hash()}, d.sign)
		if err != nil {
			return nil, err
		}
		data, err := json.Marshal(wire.AnswerMessage{Key: j.pub, Answer: env, Sealed: &sealed})
		if err != nil {
			return nil, err
		}
		began := time.Now()
		if err := d.on().Publish(wire.DeskSubject(d.key(), wire.VerbAnswer), data); err != nil {
			return nil, err
		}
		select {
		case h := <-j.answers:
			a, err := wire.Open[wire.Answer](*h.Envelope, d.signer())
			if err != nil {
				return nil, err
			}
			code, err := hk.Open(*h.Sealed, seal.To{Digest: j.dig, Attempt: a.Attempt, Ask: wire.AskCode, Responder: d.signer()})
			if err != nil || code != "123456" || a.Attempt != *attempt {
				return nil, fmt.Errorf("the code to attempt %d did not open: %v", *attempt, err)
			}
		case <-time.After(30 * time.Second):
			return nil, errors.New("an answer did not come")
		}
		took = append(took, time.Since(began))
		if err := j.steps(wire.VerbGot, &wire.Got{Key: j.pub, Digest: j.dig, Attempt: *attempt, Sealed: sealed.Hash()}); err != nil {
			return nil, err
		}
		if err := j.steps(wire.VerbNext, &wire.Next{Key: j.pub, Digest: j.dig, Attempt: *attempt}); err != nil {
			return nil, err
		}
		*attempt++
	}
	return took, nil
}

func (j *siegeJob) steps(verb string, body wire.Body) error {
	env, err := wire.Sign(body, j.key)
	if err != nil {
		return err
	}
	_, err = say(j.on(), wire.JobSubject(j.pub, verb), wire.StepMessage{Step: env})
	return err
}

// pair makes one more job and its responder, who are there beside those who wait.
func (s *siege) pair(d *siegeDesk) (*siegeJob, *seal.Key, error) {
	hk, err := seal.NewKey()
	if err != nil {
		return nil, nil, err
	}
	j := &siegeJob{answers: make(chan wire.Hint, 4)}
	for p := range d.projects {
		j.project = p
	}
	j.job = s.job(rocketRepo, j.project)
	j.ask(j.project, func(q *wire.Request) { q.HPKE = hk.Public(); q.Responders = []string{d.signer()} })
	if _, err := j.come(s); err != nil {
		return nil, nil, err
	}
	return j, hk, nil
}

// BenchmarkAmong is what others who wait cost: how long an answer takes to its job
// with 0, 1,000 and 10,000 others, of which each reads its state every 15 s; how
// many answers a second one relay takes and delivers, of 32 who answer at once (an
// answer, its receipt and the word that another is wanted: three forced records);
// and the processor time that one who waits costs. The floor of the first is the
// same with nobody else. Clients and relay share the machine's processors.
func BenchmarkAmong(b *testing.B) {
	const pairs = 32
	var alone []time.Duration
	for _, others := range []int{0, 1000, 10_000} {
		b.Run(fmt.Sprintf("%dWaiting", others), func(b *testing.B) {
			for b.Loop() {
				ctx, cancel := context.WithCancel(b.Context())
				s := newSiege(b, others, pairs)
				wait := s.gather(ctx)
				type couple struct {
					d       *siegeDesk
					j       *siegeJob
					hk      *seal.Key
					attempt int
				}
				var couples []*couple
				for _, d := range s.desks {
					j, hk, err := s.pair(d)
					if err != nil {
						b.Fatal(err)
					}
					couples = append(couples, &couple{d, j, hk, 1})
				}
				if others > 0 {
					s.process.settled()
					before, began := s.process.cpu(), time.Now()
					time.Sleep(2 * wire.ReRead)
					spent := (s.process.cpu() - before).Seconds() / time.Since(began).Seconds()
					b.ReportMetric(spent/float64(others+pairs)*1e6, "cpu-µs/s/job")
				}
				first := couples[0]
				took, err := s.delivers(first.d, first.j, first.hk, &first.attempt, func(n int) bool { return n == 500 })
				if err != nil {
					b.Fatal(err)
				}
				if others == 0 {
					alone = took
				}
				report(b, "p50", took, alone, 0.50)
				report(b, "p99", took, alone, 0.99)

				var delivered atomic.Int64
				began := time.Now()
				late := began.Add(10 * time.Second)
				var all sync.WaitGroup
				for _, c := range couples[1:] {
					all.Go(func() {
						took, err := s.delivers(c.d, c.j, c.hk, &c.attempt, func(int) bool { return time.Now().After(late) })
						if err != nil {
							b.Error(err)
						}
						delivered.Add(int64(len(took)))
					})
				}
				all.Wait()
				b.ReportMetric(float64(delivered.Load())/time.Since(began).Seconds(), "answers/s")
				for _, c := range couples {
					c.j.on().Close()
				}
				cancel()
				wait()
				s.process.stop(syscall.SIGTERM)
			}
		})
	}
}

// BenchmarkDead is how long a responder goes on being shown the request of a job
// that is dead: killed, so that its connection ends, and cut off, so that it stays
// open and says nothing. Both are noticed by their silence (PROTOCOL, 8.4).
func BenchmarkDead(b *testing.B) {
	for b.Loop() {
		f := startFixture(b)
		ana := f.sit(f.ana)
		killed, cut := f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket")
		began := time.Now()
		killed.nc.Close()
		lost := map[string]time.Duration{}
		for len(lost) < 2 {
			time.Sleep(100 * time.Millisecond)
			open := map[string]bool{}
			for _, item := range ana.pending().Items {
				open[item.Key] = true
			}
			for name, j := range map[string]*job{"killed": killed, "cut-off": cut} {
				if _, done := lost[name]; !done && !open[j.pub] {
					lost[name] = time.Since(began)
					b.ReportMetric(lost[name].Seconds(), name+"-s")
				}
			}
		}
		b.ReportMetric(0, "ns/op")
	}
}
