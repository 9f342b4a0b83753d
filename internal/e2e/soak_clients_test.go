//go:build unix && (clients || soak)

package e2e

// Everything at once, at random, for as long as one likes: `make soak`. A real
// relay that is killed, restarted and made to die at its records; jobs and
// responders, most of them in this process over real TCP, some real programs; and
// between them a network that tears, resets, holds up and slows what passes. An
// issuer that is down for a while, and whose keys are replaced.
//
// What each job and each human is to do follows from the seed, which is printed;
// when the faults fall, the machine has a say in. In the end the relay's record
// says what became of each request (see readRecord), and a ledger that the relay
// never sees says whose code went where: which codes were given, to whom, for
// which attempt, and which codes the jobs have got. It holds their hashes.

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
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

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/ask"
	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

// shortSoak is what it takes without SOAK, as one test among others.
const shortSoak = 20 * time.Second

// longSoak is from when on it also does what takes minutes to be noticed: jobs
// that vanish, connections that hang.
const longSoak = 3 * time.Minute

// soakJobs run at once.
const soakJobs = 10

// entry of the ledger: one code, for one attempt of one request.
type soakSlot struct {
	id      string
	attempt int
	by      string // signing key of who gave it
}

// soakLedger is who gave what to whom, and who got what.
type soakLedger struct {
	mu    sync.Mutex
	given map[soakSlot]map[string]bool // hashes of codes
	got   map[soakSlot]string          // of what a job took
	gone  map[string]bool              // jobs that ended before they had to say so
	count map[string]int               // how jobs ended, by their own word
	fault map[string]int
	wrong []string
}

func hashOf(code string) string {
	sum := sha256.Sum256([]byte(code))
	return hex.EncodeToString(sum[:])
}

func (l *soakLedger) gives(s soakSlot, hash string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.given[s] == nil {
		l.given[s] = map[string]bool{}
	}
	l.given[s][hash] = true
}

func (l *soakLedger) gets(s soakSlot, code string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if was, twice := l.got[s]; twice && was != hashOf(code) {
		l.wrong = append(l.wrong, fmt.Sprintf("a job got two codes for attempt %d of %s", s.attempt, s.id))
	}
	l.got[s] = hashOf(code)
}

func (l *soakLedger) ended(how string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.count[how]++
}

// left notes a job that was stopped, and may have had no time to say what it got.
func (l *soakLedger) left(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gone[id] = true
}

func (l *soakLedger) fails(what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault[what]++
}

// soakPlan is what one job is to do, and its humans for it. It follows from the
// seed and the job's number.
type soakPlan struct {
	n         int
	kind      string
	approvals int
	steps     []string // after each code but the last: "reject" or "next"
	end       string   // "ok", "failed", "decline", "silent", "cancel", "vanish", "kill", "stop"
	after     time.Duration
	timeout   time.Duration
	joins     bool // the run of the job before it
	program   bool
}

func planOf(seed uint64, n int, long bool) *soakPlan {
	r := rand.New(rand.NewPCG(seed, uint64(n)))
	p := &soakPlan{n: n, kind: wire.AskCode, approvals: 1, end: wire.OutcomeOK, timeout: 4 * time.Minute}
	switch x := r.IntN(10); {
	case x < 1:
		p.kind = wire.AskLink
	case x < 3:
		p.kind = wire.AskApproval
	}
	if p.kind != wire.AskLink && r.IntN(4) == 0 {
		p.approvals = 2
	}
	if p.kind == wire.AskCode {
		for r.IntN(3) == 0 {
			p.steps = append(p.steps, []string{"reject", "next"}[r.IntN(2)])
		}
	}
	p.after = time.Duration(r.IntN(3000)) * time.Millisecond
	switch x := r.IntN(20); {
	case x < 2:
		p.end = wire.OutcomeFailed
	case x < 5:
		p.end = "decline"
	case x < 6:
		p.end, p.timeout = "silent", time.Duration(3+r.IntN(5))*time.Second
	case x < 8:
		p.end = "cancel"
	case x < 9 && long:
		p.end = "vanish"
	}
	if p.kind == wire.AskCode && len(p.steps) == 0 && p.approvals == 1 && r.IntN(4) == 0 {
		p.program = true
		if p.end == "cancel" {
			p.end = "stop"
		} else if p.end == "vanish" {
			p.end = "kill"
		} else if p.end == wire.OutcomeFailed {
			p.end = wire.OutcomeOK // cfa request says nothing else
		}
	}
	p.joins = r.IntN(5) == 0
	return p
}

// soakJob is one that runs.
type soakJob struct {
	plan     *soakPlan
	match    func() string
	followed func() // a human did
}

type soak struct {
	*world
	t      *testing.T
	g      *ground
	seed   uint64
	long   bool
	faults *rand.Rand
	ledger *soakLedger
	addr   string
	humans []*soakHuman
	robot  *robot
	begun  atomic.Int64
	quiet  atomic.Bool // no more faults

	mu   sync.Mutex
	jobs map[string]*soakJob // by request
	taps map[*tap]bool
	run  map[string]any // claims of the newest run, for who joins it
}

func (s *soak) job(id string) *soakJob {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.jobs[id]
}

// way is a tap of its own before the relay, until done is called.
func (s *soak) way() (p *tap, done func()) {
	p = newTap(s.t, newBell(), s.addr)
	p.forgets = true
	s.mu.Lock()
	s.taps[p] = true
	s.mu.Unlock()
	return p, func() {
		s.mu.Lock()
		delete(s.taps, p)
		s.mu.Unlock()
		p.close()
	}
}

// soakHuman is a human and a responder, which dies now and then.
type soakHuman struct {
	s     *soak
	name  string
	keys  *responder
	way   *tap
	pins  *trust.Policy
	links map[string][]string
	ended chan struct{}

	mu      sync.Mutex
	kill    context.CancelFunc // of the responder that runs
	random  *rand.Rand
	decided map[string]bool
}

// life keeps the responder running, and starts it anew when it was killed.
func (h *soakHuman) life(ctx context.Context) {
	h.ended = make(chan struct{})
	go func() {
		defer close(h.ended)
		for ctx.Err() == nil {
			if err := h.listens(ctx); err != nil {
				h.s.t.Errorf("%s: %v", h.name, err)
				return
			}
		}
	}()
}

// listens is one responder, until it is killed.
func (h *soakHuman) listens(ctx context.Context) error {
	relay, err := dial.Parse(dial.Target{URL: "nats://" + h.way.listener.Addr().String(), Name: "localhost"})
	if err != nil {
		return err
	}
	ctx, kill := context.WithCancel(ctx)
	defer kill()
	h.mu.Lock()
	h.decided, h.kill = map[string]bool{}, kill
	h.mu.Unlock()
	desk, err := answer.New(answer.Config{
		Relay: relay, Connect: h.keys.connect, Sign: h.keys.sign, Askers: []answer.Asker{h},
		Trust: answer.Trust{Verifier: trust.NewVerifier("localhost", h.s.g.keys, trust.Options{}), Pins: h.pins, Links: h.links},
		Log:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	_ = desk.Run(ctx) // how it ends is of no matter: another begins
	return nil
}

// Ask is answer.Asker's: it opens what comes, and decides after a while.
func (h *soakHuman) Ask(ctx context.Context, news <-chan answer.News, desk answer.Decisions) error {
	opened := map[string]bool{}
	var work sync.WaitGroup
	defer work.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for n := range news {
		if n.Prompt == nil {
			continue
		}
		p := *n.Prompt
		if !opened[p.ID] {
			opened[p.ID] = true
			desk.Open(p.ID)
		}
		key := fmt.Sprintf("%s %d", p.ID, p.Attempt)
		h.mu.Lock()
		decides := p.Answerable && !h.decided[key]
		if decides {
			h.decided[key] = true
		}
		wait := time.Duration(h.random.IntN(1500)) * time.Millisecond
		h.mu.Unlock()
		if !decides {
			continue
		}
		work.Go(func() {
			timer := time.NewTimer(wait) // a human takes their time
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
				return
			}
			if !h.decides(ctx, desk, p) {
				h.mu.Lock()
				delete(h.decided, key) // it is tried again at the next snapshot
				h.mu.Unlock()
			}
		})
	}
	return nil
}

func (h *soakHuman) decides(ctx context.Context, desk answer.Decisions, p answer.Prompt) bool {
	j := h.s.job(p.ID)
	if j == nil {
		return false // its job has not been noted yet
	}
	switch {
	case j.plan.end == "silent":
		return true
	case j.plan.end == "decline" && p.Attempt > len(j.plan.steps):
		return desk.Decline(ctx, p.ID, "not today") == nil
	}
	a := answer.Answer{ID: p.ID, Attempt: p.Attempt}
	if p.TypeMatch || p.Yes {
		if a.Match = j.match(); a.Match == "" {
			return false
		}
	}
	if p.Ask == wire.AskLink {
		if _, err := desk.Follow(ctx, a); err != nil {
			return false
		}
		j.followed()
		return true
	}
	if !p.Yes {
		a.Code = freshCode()
		// Noted before it leaves: what arrives must have been given.
		h.s.ledger.gives(soakSlot{p.ID, p.Attempt, h.keys.signer()}, hashOf(a.Code))
	}
	return desk.Answer(ctx, a) == nil
}

// claims are those of a job of that plan.
func (s *soak) claims(p *soakPlan) map[string]any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.joins && s.run != nil {
		c := maps.Clone(s.run)
		c["check_run_id"] = strconv.Itoa(500_000 + p.n)
		return c
	}
	s.run = devissuer.GitHubClaims(homeRepo, map[string]any{"run_id": strconv.Itoa(9_000_000 + p.n), "environment": "npm", "check_run_id": strconv.Itoa(500_000 + p.n)})
	return maps.Clone(s.run)
}

func (s *soak) projectOf(n int) string { return fmt.Sprintf("soak-%d", n%4) }

// pinned are the keys that a job accepts where it has to name them.
func (s *soak) pinned() (keys []string) {
	for _, h := range s.humans {
		keys = append(keys, h.keys.signer())
	}
	return keys
}

// plays runs one job to its end.
func (s *soak) plays(ctx context.Context, p *soakPlan) {
	way, done := s.way()
	defer done()
	if p.program {
		s.playsProgram(ctx, p, way)
		return
	}
	relay, err := dial.Parse(dial.Target{URL: "nats://" + way.listener.Addr().String(), Name: "localhost"})
	if err != nil {
		s.t.Error(err)
		return
	}
	claims := s.claims(p)
	name := fmt.Sprintf("soak-job-%d", p.n)
	s.issuer.AddJob(name, claims)
	env := map[string]string{}
	for _, line := range s.issuer.GitHubEnv(name) {
		k, v, _ := strings.Cut(line, "=")
		env[k] = v
	}
	var match atomic.Value
	match.Store("")
	followed := make(chan struct{}, 1)
	c := ask.Config{
		Relay: relay, Provider: ci.Find("github"), Env: ci.Env{Getenv: func(k string) string { return env[k] }}, Project: s.projectOf(p.n), Ask: p.kind, Service: "npm",
		Format: codeFormat, Message: fmt.Sprintf("soak %d", p.n), Timeout: p.timeout, Approvals: p.approvals,
		Tell: func(e ask.Event) {
			if a, ok := e.(ask.Accepted); ok {
				match.Store(a.Match)
			}
		},
	}
	switch p.kind {
	case wire.AskLink:
		c.Format = "any"
		c.Link = func(context.Context) (string, error) { return fmt.Sprintf("https://links.example/%d", p.n), nil }
	case wire.AskApproval:
		c.Format = "any"
	}
	if p.kind == wire.AskApproval || p.approvals > 1 {
		c.Responders = s.pinned()
	}
	session, err := ask.New(c)
	if err != nil {
		s.t.Error(err)
		return
	}
	s.mu.Lock()
	s.jobs[session.ID()] = &soakJob{plan: p, match: func() string { m, _ := match.Load().(string); return m }, followed: func() {
		select {
		case followed <- struct{}{}:
		default:
		}
	}}
	s.mu.Unlock()
	defer func() { // a late human finds nobody
		s.mu.Lock()
		delete(s.jobs, session.ID())
		s.mu.Unlock()
	}()
	way.judgeBy(func(frame) verdict { return s.chance(way) })
	life, stop := context.WithCancel(ctx)
	defer stop()
	if p.end == "cancel" {
		timer := time.AfterFunc(p.after, stop)
		defer timer.Stop()
	}
	if p.end == "vanish" {
		// Its runner is switched off: nothing of it is heard again.
		timer := time.AfterFunc(p.after, func() {
			s.ledger.fails("a job vanishes")
			way.close()
			stop()
		})
		defer timer.Stop()
	}
	how := s.runs(life, session, p, followed)
	if life.Err() != nil {
		s.ledger.left(session.ID())
	}
	s.ledger.ended(how)
}

// runs is the job: it asks, and does with each answer what the plan says.
func (s *soak) runs(ctx context.Context, session *ask.Session, p *soakPlan, followed <-chan struct{}) string {
	done := func(outcome string) string {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		if err := session.Done(ctx, outcome); err != nil {
			return "done, unconfirmed"
		}
		return "done, " + outcome
	}
	if p.kind == wire.AskLink {
		// Whoever followed it is seen by the service, and the job sees that there.
		stop := make(chan struct{})
		result := make(chan string, 1)
		go func() {
			select {
			case <-followed:
				result <- done(p.outcome())
			case <-stop:
				result <- ""
			}
		}()
		err := session.Follow(ctx)
		close(stop)
		if how := <-result; err == nil {
			return how
		}
		return failure(err)
	}
	last := len(p.steps)
	if p.kind == wire.AskApproval {
		last = p.approvals - 1
	}
	for i := 0; ; i++ {
		a, err := session.Await(ctx)
		if err != nil {
			return failure(err)
		}
		if p.kind == wire.AskCode {
			s.ledger.gets(soakSlot{session.ID(), a.Attempt, a.Responder}, a.Code())
		}
		if i >= last {
			return done(p.outcome())
		}
		if p.kind == wire.AskCode && p.steps[i] == "reject" {
			err = session.Reject(ctx)
		} else {
			err = session.Next(ctx)
		}
		if err != nil && ctx.Err() == nil {
			if _, ok := errors.AsType[*ask.Failure](err); ok {
				return failure(err)
			}
		}
		if ctx.Err() != nil {
			session.Withdraw("the job was stopped")
			return "cancelled"
		}
	}
}

func (p *soakPlan) outcome() string {
	if p.end == wire.OutcomeFailed {
		return wire.OutcomeFailed
	}
	return wire.OutcomeOK
}

func failure(err error) string {
	for _, kind := range []error{ask.ErrUnreachable, ask.ErrRefused, ask.ErrDeclined, ask.ErrTimedOut, ask.ErrCancelled} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	return err.Error()
}

// playsProgram is plays with the real cfa.
func (s *soak) playsProgram(ctx context.Context, p *soakPlan, way *tap) {
	name := fmt.Sprintf("soak-job-%d", p.n)
	s.issuer.AddJob(name, s.claims(p))
	dir, err := os.MkdirTemp(s.dir, "job-")
	if err != nil {
		s.t.Error(err)
		return
	}
	env := append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, s.issuer.GitHubEnv(name)...)
	j := startIn(s.t, "", env, "cfa", "request", "--relay", "nats://"+way.listener.Addr().String(), "--relay-name", "localhost", "--project", s.projectOf(p.n),
		"--service", "npm", "--format", codeFormat, "--message", fmt.Sprintf("soak %d", p.n), "--timeout", p.timeout.String(), "--output", "stdout")
	j.in.Close()
	// Its request is known by its number, which the human sees; see known.
	match := func() string {
		_, rest, ok := strings.Cut(j.err.String(), "match code:")
		if !ok {
			return ""
		}
		code, _, _ := strings.Cut(strings.TrimSpace(rest), "\n")
		return strings.TrimSpace(code)
	}
	way.judgeBy(func(f frame) verdict {
		// The request's name is its key, which stands in the subject.
		if _, key, verb, ok := wire.ParseSubject(f.subject); ok && f.up && verb == wire.VerbRequest {
			s.mu.Lock()
			if s.jobs[key] == nil {
				s.jobs[key] = &soakJob{plan: p, match: match, followed: func() {}}
			}
			s.mu.Unlock()
			return s.chance(way)
		}
		return s.chance(way)
	})
	switch p.end {
	case "stop", "kill":
		timer := time.AfterFunc(p.after, func() {
			if p.end == "kill" {
				s.ledger.fails("a job is killed")
				_ = j.cmd.Process.Kill()
			} else {
				_ = j.cmd.Process.Signal(syscall.SIGTERM)
			}
		})
		defer timer.Stop()
	}
	select {
	case <-j.done:
	case <-ctx.Done():
		_ = j.cmd.Process.Signal(syscall.SIGTERM)
		<-j.done
	}
	var id string
	s.mu.Lock()
	for key, known := range s.jobs {
		if known.plan == p {
			id = key
			delete(s.jobs, key)
		}
	}
	s.mu.Unlock()
	// Whose it was is on record; by is filled in there.
	if code := strings.TrimSpace(j.out.String()); code != "" && id != "" {
		s.ledger.gets(soakSlot{id: id}, code)
	}
	s.ledger.ended(fmt.Sprintf("cfa exits with %d", j.code))
}

// chance lets the network fail at a message now and then, where it was told to.
func (s *soak) chance(p *tap) verdict {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.once
	p.once = pass
	return v
}

// strike does one fault. It runs in the test's own goroutine, which alone starts
// and ends the relay.
func (s *soak) strike() {
	relayFaults := []string{"asked", "opened", "answered", "got", "rejected", "next", "approved", "done", "declined", "cancelled", "expired", "note declined", "note refused"}
	s.mu.Lock()
	taps := slices.Collect(maps.Keys(s.taps))
	s.mu.Unlock()
	// In an order of their own, or the same seed would hit others.
	slices.SortFunc(taps, func(a, b *tap) int { return strings.Compare(a.listener.Addr().String(), b.listener.Addr().String()) })
	one := func() *tap { return taps[s.faults.IntN(len(taps))] }
	x := s.faults.IntN(100)
	switch {
	case len(taps) == 0:
	case x < 25:
		s.ledger.fails("a connection is cut")
		one().cut()
	case x < 60:
		v := []verdict{lose, last, torn, rst, late}[s.faults.IntN(5)]
		s.ledger.fails([]string{"", "a message is lost", "a connection ends after a message", "a message is torn", "a connection is reset", "a message comes late"}[v])
		p := one()
		p.mu.Lock()
		p.once = v
		p.mu.Unlock()
	case x < 66 && s.long:
		s.ledger.fails("a connection hangs")
		one().freezes(s.faults.IntN(2) == 0, s.faults.IntN(2) == 0)
	case x < 72:
		s.ledger.fails("a connection is slow")
		p := one()
		p.latency.Store(int64(100 * time.Millisecond))
		p.rate.Store(8 << 10)
		time.AfterFunc(5*time.Second, func() { p.latency.Store(0); p.rate.Store(0) })
	case x < 78:
		s.ledger.fails("the relay is killed")
		s.relay.signal(syscall.SIGKILL)
		s.relay.wait()
		s.serves("")
	case x < 82:
		s.ledger.fails("the relay is restarted")
		s.relay.signal(syscall.SIGTERM)
		s.relay.wait()
		s.serves("")
	case x < 90:
		at := []string{"before ", "after "}[s.faults.IntN(2)] + relayFaults[s.faults.IntN(len(relayFaults))]
		s.relay.signal(syscall.SIGKILL)
		s.relay.wait()
		s.serves(at)
	case x < 94:
		if i := s.faults.IntN(len(s.humans) + 1); i < len(s.humans) {
			h := s.humans[i]
			s.ledger.fails("a responder is restarted")
			h.mu.Lock()
			h.kill()
			h.mu.Unlock()
			break
		}
		// What it has in its hands is nowhere then.
		s.ledger.fails("a responder is killed")
		s.robot.p.signal(syscall.SIGKILL)
		s.robot.p.wait()
		s.startRobot(s.robot)
	case x < 97:
		s.ledger.fails("the issuer is down")
		s.issuer.Break([]devissuer.Mode{devissuer.Down, devissuer.Empty, devissuer.TokenDown, devissuer.TokenHang}[s.faults.IntN(4)])
		time.AfterFunc(2*time.Second, func() { s.issuer.Break(devissuer.Works) })
	default:
		s.ledger.fails("the issuer's keys are replaced")
		s.issuer.Rotate()
	}
}

// serves starts a relay in the place of the one that ended.
func (s *soak) serves(failpoint string) {
	s.t.Helper()
	name, env := "cfa-relay", []string(nil)
	if failpoint != "" {
		name, env = fragileRelay(s.t), []string{"CFA_FAILPOINT=" + failpoint}
	}
	dir := filepath.Join(s.dir, "home")
	s.relay = startIn(s.t, "", append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}, env...), name, "serve", "--config", s.config)
	for {
		select {
		case <-s.relay.done:
			return // at a record, while it starts: the next round finds it
		default:
		}
		if strings.Contains(s.relay.out.String(), "serving ") {
			return
		}
		select {
		case <-s.relay.done:
		case <-time.After(20 * time.Millisecond): // its output has several writers
		}
	}
}

// robot is a real responder whose command answers by itself, and notes what.
type robot struct {
	person *person
	p      *process
	way    *tap
	notes  string
}

func (s *soak) startRobot(r *robot) {
	s.t.Helper()
	const command = `sleep 2
code=$(od -An -N13 -tx1 /dev/urandom | tr -d ' \n')
printf '%s %s %s\n' "$CFA_REQUEST" "$CFA_ATTEMPT" "$(printf %s "$code" | sha256sum | cut -d' ' -f1)" >>"$NOTES"
printf %s "$code"`
	r.p = startIn(s.t, "", []string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.person.dir, "NOTES=" + r.notes}, "cfa-responder", "listen",
		"--key-file", r.person.keys, "--pins", r.person.pins, "--relay", "nats://"+r.way.listener.Addr().String(), "--relay-name", "localhost",
		"--connect-within", "0", "--answer-command", command, "--unattended")
}

// read enters what it has noted in the ledger.
func (r *robot) read(t testing.TB, l *soakLedger) {
	t.Helper()
	f, err := os.Open(r.notes)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) != 3 {
			continue // killed while it wrote: then nothing was sent
		}
		attempt, err := strconv.Atoi(fields[1])
		if err != nil {
			t.Fatal(err)
		}
		l.gives(soakSlot{fields[0], attempt, r.person.sign}, fields[2])
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
}

// settings are how long it takes, and the seed.
func soakSettings(t *testing.T) (time.Duration, uint64) {
	t.Helper()
	d, seed := shortSoak, uint64(time.Now().UnixNano())
	var err error
	if v := os.Getenv("SOAK"); v != "" {
		if d, err = time.ParseDuration(v); err != nil || d <= 0 {
			t.Fatalf("SOAK=%s is no time; one is 10m", v)
		}
	}
	if v := os.Getenv("SEED"); v != "" {
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatalf("SEED=%s is no number", v)
		}
	}
	return d, seed
}

func TestSoak(t *testing.T) {
	t.Parallel()
	length, seed := soakSettings(t)
	t.Logf("soak: %s, seed %d (again: make soak SOAK=%s SEED=%d)", length, seed, length, seed)
	s := newSoak(t, seed, length >= longSoak)

	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	over := time.After(length)
	var jobs sync.WaitGroup
	slots := make(chan struct{}, soakJobs)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			if s.quiet.Load() {
				return
			}
			p := planOf(seed, int(s.begun.Add(1)), s.long)
			jobs.Go(func() {
				defer func() { <-slots }()
				s.plays(context.WithoutCancel(ctx), p)
			})
		}
	}()
	for going := true; going; {
		timer := time.NewTimer(time.Duration(200+s.faults.IntN(1500)) * time.Millisecond)
		select {
		case <-over:
			going = false
		case <-s.relay.done:
			died(t, s.relay)
			s.ledger.fails("the relay dies at a record")
			s.serves("")
		case <-timer.C:
			s.strike()
		}
		timer.Stop()
		if t.Failed() {
			going = false
		}
	}
	// Everything is mended, and what is open comes to its end by itself.
	s.quiet.Store(true)
	s.mends()
	all := make(chan struct{})
	go func() { <-ended; jobs.Wait(); close(all) }()
	for waits := true; waits; {
		select {
		case <-all:
			waits = false
		case <-s.relay.done: // it had a failpoint
			died(t, s.relay)
			s.serves("")
		}
	}
	s.mends()
	s.settles()
	stop()
	s.judges()
}

func newSoak(t *testing.T, seed uint64, long bool) *soak {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	issuer, err := devissuer.Start(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(issuer.Close)
	w.issuer, w.claims = issuer, devissuer.GitHubClaims(homeRepo, nil)
	s := &soak{
		world: w, t: t, seed: seed, long: long, addr: freeAddress(t), faults: rand.New(rand.NewPCG(seed, 0)), g: &ground{issuer: issuer},
		ledger: &soakLedger{given: map[soakSlot]map[string]bool{}, got: map[soakSlot]string{}, gone: map[string]bool{}, count: map[string]int{}, fault: map[string]int{}},
		jobs:   map[string]*soakJob{}, taps: map[*tap]bool{},
	}
	if s.g.keys, err = trust.NewKeys(s.g.issuers(), trust.KeysOptions{}); err != nil {
		t.Fatal(err)
	}
	life, end := context.WithCancel(context.Background())
	t.Cleanup(end)
	if err := s.g.keys.Warm(life); err != nil {
		t.Fatal(err)
	}
	go s.g.keys.Run(life)
	var projects []string
	for n := range 4 {
		projects = append(projects, s.projectOf(n))
	}
	var people strings.Builder
	enrols := func(name, connect, sign string) {
		fmt.Fprintf(&people, "      - {name: %s, connect: %s, sign: %s}\n", name, connect, sign)
	}
	for i, name := range []string{"Ana", "Ben", "Cho"} {
		h := &soakHuman{s: s, name: name, keys: newResponder(t, newBell(), name), pins: s.g.pins(t, projects...), random: rand.New(rand.NewPCG(seed, 1<<32+uint64(i)))}
		s.humans = append(s.humans, h)
		enrols(name, h.keys.key(), h.keys.signer())
	}
	s.robot = &robot{person: w.person("Rob"), notes: filepath.Join(w.dir, "given")}
	enrols("Rob", s.robot.person.connect, s.robot.person.sign)
	for _, p := range projects {
		if a := run(t, nil, "cfa-responder", "pins", "--pins", s.robot.person.pins, "add", p, "--provider", "development", "--repository", w.claim("repository"),
			"--repository-id", w.claim("repository_id"), "--repository-owner-id", w.claim("repository_owner_id"), "--confirm", w.claim("repository")); a.code != 0 {
			t.Fatal("pins add failed")
		}
	}
	text := fmt.Sprintf("host: localhost\ndata: data\nlisten: {nats: %q}\nlimits: {open: 60, open-per-run: 4, per-hour: 10000, attempts: 3}\nissuers:\n  - {name: dev, provider: github, url: %q}\nprojects:\n", s.addr, issuer.URL())
	for _, p := range projects {
		text += fmt.Sprintf("  %s:\n    ci: [{provider: dev, repository_id: %q, repository_owner_id: %q}]\n    links: [links.example]\n    responders:\n%s", p, w.claim("repository_id"), w.claim("repository_owner_id"), people.String())
	}
	w.config = filepath.Join(w.dir, "cfa.yaml")
	if err := os.WriteFile(w.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	fragileRelay(t)
	s.serves("")
	for _, h := range s.humans {
		h.links = map[string][]string{}
		for _, p := range projects {
			h.links[p] = []string{"links.example"}
		}
		var done func()
		h.way, done = s.way()
		h.way.judgeBy(func(frame) verdict { return s.chance(h.way) })
		t.Cleanup(done)
		h.life(life)
		t.Cleanup(func() { end(); <-h.ended })
	}
	var done func()
	s.robot.way, done = s.way()
	s.robot.way.judgeBy(func(frame) verdict { return s.chance(s.robot.way) })
	t.Cleanup(done)
	s.startRobot(s.robot)
	return s
}

// mends ends each fault that would go on.
func (s *soak) mends() {
	s.issuer.Break(devissuer.Works)
	s.mu.Lock()
	for p := range s.taps {
		p.latency.Store(0)
		p.rate.Store(0)
		p.mu.Lock()
		p.once = pass
		p.mu.Unlock()
	}
	s.mu.Unlock()
	select {
	case <-s.relay.done:
		s.serves("")
	default:
	}
}

// settles waits until each request on record has ended: the relay's clock ends
// those whose jobs are gone.
func (s *soak) settles() {
	s.t.Helper()
	deadline := time.Now().Add(longWithin)
	for {
		p := run(s.t, nil, "cfa-relay", "audit", "list", "--config", s.config, "--outcome", "open", "--format", "jsonl")
		if p.code != 0 {
			s.t.Fatalf("audit list ended with %d", p.code)
		}
		if strings.TrimSpace(p.out.String()) == "" {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("these requests do not end:\n%s", p.out)
		}
		select {
		case <-s.relay.done:
			s.serves("")
		case <-time.After(2 * time.Second): // nothing announces it to who is outside
		}
	}
}

// judges reads the record, and holds the ledger against it.
func (s *soak) judges() {
	t, l := s.t, s.ledger
	t.Helper()
	e := s.world.ended()
	s.robot.read(t, l)
	l.mu.Lock()
	defer l.mu.Unlock()
	outcomes, delivered := map[string]int{}, map[soakSlot]bool{}
	byID := map[string]*history{}
	for _, h := range e.histories {
		byID[h.key] = h
		end := h.last()
		word := string(end.State)
		if end.Outcome != "" {
			word += " " + end.Outcome
		} else if end.Why == lifecycle.WhyLost {
			word += " " + end.Why
		}
		outcomes[word]++
		for _, r := range h.records {
			if r.Event == lifecycle.EventGot {
				delivered[soakSlot{h.key, r.AnswerAttempt, r.By}] = true
			}
		}
	}
	for slot := range delivered {
		if len(l.given[slot]) == 0 {
			t.Errorf("on record %s has an answer to attempt %d by %s, who gave none", slot.id, slot.attempt, slot.by)
		}
	}
	held := map[string]soakSlot{}
	for slot, hash := range l.got {
		if slot.attempt == 0 { // a program, which says only what it got: the record says whose
			h := byID[slot.id]
			if h == nil {
				t.Errorf("%s has a code, and is not on record", slot.id)
				continue
			}
			for _, r := range h.records {
				if r.Event == lifecycle.EventGot {
					slot.attempt, slot.by = r.AnswerAttempt, r.By
				}
			}
		}
		if other, twice := held[hash]; twice {
			t.Errorf("one code went to %s and to %s", other.id, slot.id)
		}
		held[hash] = slot
		if !l.given[slot][hash] {
			t.Errorf("%s has a code for attempt %d that %s did not give for it", slot.id, slot.attempt, slot.by)
		}
		if !delivered[slot] && !l.gone[slot.id] {
			t.Errorf("%s has a code for attempt %d, and that is not on record", slot.id, slot.attempt)
		}
	}
	for _, what := range l.wrong {
		t.Error(what)
	}
	t.Logf("soak: seed %d, %d jobs, %d requests, %d codes delivered, %d refusals\n  on record: %s\n  jobs say:  %s\n  faults:    %s",
		s.seed, s.begun.Load(), len(e.histories), len(delivered), len(e.refusals), tally(outcomes), tally(l.count), tally(l.fault))
	if len(e.histories) == 0 || len(delivered) == 0 || len(l.fault) == 0 {
		t.Error("nothing happened")
	}
}

func tally(of map[string]int) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		out = append(out, fmt.Sprintf("%s %d", name, of[name]))
	}
	return strings.Join(out, ", ")
}
