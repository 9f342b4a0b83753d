package e2e

// Both ends of the protocol in this process, over real TCP: a job (package ask),
// a responder with its human (package answer), the real verifier and a real
// issuer's tokens. Between them and whatever relay a test puts there runs a tap,
// which sees each NATS message on its way and can lose it, cut the connection or
// let it hang.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/ask"
	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

const (
	hostName    = "relay.test"
	homeRepo    = "example/rocket"
	homeProject = "rocket"
	codeFormat  = "alnum:26" // of freshCode
	// patience bounds every wait for what must happen; it only passes when a
	// test fails.
	patience = 90 * time.Second
)

// freshCode is a second factor that occurs nowhere else, so that finding it in
// some bytes is no accident.
func freshCode() string { return rand.Text() }

// ground is what all tests here stand on: one issuer, and its keys as a relay or
// a responder holds them. It lives as long as the test process, because an
// issuer's RSA keys take a second to make under the race detector.
type ground struct {
	issuer *devissuer.Issuer
	keys   *trust.Keys
	jobs   atomic.Int64
}

var grounds = sync.OnceValues(func() (*ground, error) {
	issuer, err := devissuer.Start(context.Background())
	if err != nil {
		return nil, err
	}
	g := &ground{issuer: issuer}
	if g.keys, err = trust.NewKeys(g.issuers(), trust.KeysOptions{}); err != nil {
		return nil, err
	}
	return g, g.keys.Warm(context.Background())
})

func theGround(t testing.TB) *ground {
	t.Helper()
	g, err := grounds()
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func (g *ground) issuers() []trust.Issuer {
	return []trust.Issuer{{Name: "dev", Provider: ci.Find("github"), URL: g.issuer.URL()}}
}

// pins are one human's: the home repository's release workflow stands behind
// each of the projects.
func (g *ground) pins(t testing.TB, projects ...string) *trust.Policy {
	t.Helper()
	claims := devissuer.GitHubClaims(homeRepo, nil)
	rule := trust.Rule{Provider: "dev", Claims: map[string][]trust.Value{}}
	for _, name := range []string{"repository_id", "repository_owner_id", "workflow_ref"} {
		rule.Claims[name] = []trust.Value{{Text: claims[name].(string)}}
	}
	rules := map[string][]trust.Rule{}
	for _, p := range projects {
		rules[p] = []trust.Rule{rule}
	}
	pins, err := trust.Compile(rules, g.issuers())
	if err != nil {
		t.Fatal(err)
	}
	return pins
}

// bell wakes whoever waits for something to become true.
type bell struct {
	mu sync.Mutex
	c  chan struct{}
}

func newBell() *bell { return &bell{c: make(chan struct{})} }

func (b *bell) ring() {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.c)
	b.c = make(chan struct{})
}

// await waits until ok, which is asked again at each ring.
func (b *bell) await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		b.mu.Lock()
		c := b.c
		b.mu.Unlock()
		if ok() {
			return
		}
		select {
		case <-c:
		case <-timer.C:
			t.Fatalf("this never came: %s", what)
		}
	}
}

// frame is one message of the NATS protocol.
type frame struct {
	up      bool   // from client to server
	op      string // CONNECT, PUB, MSG, …
	subject string
	payload []byte
	// verb is what the message is about: of a client's message the last part of
	// its subject, of the server's reply to it the same.
	verb  string
	reply bool // it is the server's reply
}

// pushed says whether the server pushes that kind of hint with it.
func (f frame) pushed(kind string) bool {
	var h wire.Hint
	return !f.up && !f.reply && f.op == "MSG" && wire.Decode(f.payload, wire.MaxMessage, &h) == nil && h.Hint == kind
}

// readFrame reads one frame and gives its bytes as they came.
func readFrame(r *bufio.Reader, up bool) (f frame, raw []byte, respond string, err error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return f, nil, "", err
	}
	fields := strings.Fields(string(line))
	if len(fields) == 0 {
		return f, line, "", nil
	}
	f.up, f.op = up, strings.ToUpper(fields[0])
	if f.op == "CONNECT" || f.op == "INFO" {
		f.payload = line
	}
	if !slices.Contains([]string{"PUB", "MSG", "HPUB", "HMSG"}, f.op) || len(fields) < 3 {
		return f, line, "", nil
	}
	size, err := strconv.Atoi(fields[len(fields)-1])
	if err != nil || size < 0 || size > 1<<20 {
		return f, nil, "", fmt.Errorf("not a frame of NATS: %q", line)
	}
	raw = append(line, make([]byte, size+2)...)
	if _, err := io.ReadFull(r, raw[len(line):]); err != nil {
		return f, nil, "", err
	}
	f.subject, f.payload = fields[1], raw[len(line):len(raw)-2]
	if f.op == "PUB" && len(fields) == 4 {
		respond = fields[2]
		f.verb = f.subject[strings.LastIndexByte(f.subject, '.')+1:]
	}
	return f, raw, respond, nil
}

// verdict is what becomes of a frame.
type verdict int

const (
	pass verdict = iota
	lose         // it never arrives, and the connection is cut
	last         // it arrives, and then the connection is cut
	torn         // half of it arrives, and the connection is cut in the middle of it
	rst          // it never arrives, and the connection is reset
	late         // of a client's: its connection is cut, and it arrives once the next one has had a reply
)

// tap is a TCP proxy before a NATS server.
type tap struct {
	t        testing.TB
	listener net.Listener
	server   string
	bell     *bell
	work     sync.WaitGroup

	judging sync.Mutex // one frame is judged at a time

	mu       sync.Mutex
	judge    func(frame) verdict
	lines    map[*tapped]bool
	closed   bool
	accepted int // connections so far
	cuts     int // connections that were cut on purpose
	held     int // frames that went nowhere since they were frozen
	behind   int // late frames that were sent on
	shut     int // of them, those whose connection the server had closed by then
	waiting  []*tapped
	forgets  bool    // what passes is not kept
	once     verdict // what is to become of one frame, whichever comes next
	seen     bytes.Buffer

	// A slow network: each frame takes latency, and a second for each of rate bytes.
	latency, rate atomic.Int64
}

// tapped is one connection through the tap.
type tapped struct {
	client, server net.Conn
	once           sync.Once
	n              int           // counts from 1
	up, down       atomic.Bool   // frozen in that direction
	left           atomic.Bool   // the client is gone, and the server does not know
	next           chan struct{} // closed when a later connection has had a reply
	gone           chan struct{} // closed with the connection
	// asked is which verb each reply subject answers.
	mu    sync.Mutex
	asked map[string]string
}

func (l *tapped) close() {
	l.once.Do(func() {
		_, _ = l.client.Close(), l.server.Close()
		close(l.gone)
	})
}

// reset is close as it looks when a machine on the way has lost its memory.
func (l *tapped) reset() {
	l.once.Do(func() {
		for _, c := range []net.Conn{l.client, l.server} {
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
			_ = c.Close()
		}
		close(l.gone)
	})
}

func (l *tapped) frozen(up bool) bool {
	if up {
		return l.up.Load()
	}
	return l.down.Load()
}

// newTap puts a tap before server (host:port).
func newTap(t testing.TB, b *bell, server string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &tap{t: t, listener: l, server: server, bell: b, lines: map[*tapped]bool{}}
	p.work.Go(p.accept)
	t.Cleanup(p.close)
	return p
}

func (p *tap) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	p.closed = true
	lines := p.lines
	p.lines = map[*tapped]bool{}
	waiting := p.waiting
	p.waiting = nil
	p.mu.Unlock()
	for _, l := range waiting {
		close(l.next)
	}
	for l := range lines {
		l.close()
	}
	p.work.Wait()
}

// relay is the tap as the address of a relay of that name.
func (p *tap) relay(t testing.TB, name string) *dial.Relay {
	t.Helper()
	r, err := dial.Parse(dial.Target{URL: "nats://" + p.listener.Addr().String(), Name: name})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (p *tap) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		l := &tapped{client: client, server: server, asked: map[string]string{}, next: make(chan struct{}), gone: make(chan struct{})}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			l.close()
			return
		}
		p.accepted++
		l.n = p.accepted
		p.lines[l] = true
		p.mu.Unlock()
		p.work.Go(func() { p.pump(l, client, server, true) })
		p.work.Go(func() { p.pump(l, server, client, false) })
		p.bell.ring()
	}
}

func (p *tap) pump(l *tapped, from, to net.Conn, up bool) {
	defer func() {
		l.close()
		p.mu.Lock()
		delete(p.lines, l)
		p.mu.Unlock()
		p.bell.ring()
	}()
	r := bufio.NewReaderSize(from, 64<<10)
	for {
		f, raw, respond, err := readFrame(r, up)
		if err != nil {
			return
		}
		l.mu.Lock()
		if respond != "" {
			l.asked[respond] = f.verb
		} else if verb, ok := l.asked[f.subject]; ok && !up {
			f.verb, f.reply = verb, true
			delete(l.asked, f.subject)
		}
		l.mu.Unlock()
		p.judging.Lock()
		p.mu.Lock()
		if !p.forgets {
			p.seen.Write(raw)
		}
		judge := p.judge
		p.mu.Unlock()
		v := pass
		if judge != nil && !l.frozen(up) {
			v = judge(f)
		}
		p.judging.Unlock()
		if l.frozen(up) {
			p.mu.Lock()
			p.held++
			p.mu.Unlock()
			continue
		}
		switch v {
		case lose:
			p.count(1)
			return
		case torn:
			_, _ = to.Write(raw[:len(raw)/2])
			p.count(1)
			return
		case rst:
			p.count(1)
			l.reset()
			return
		case late:
			if !p.outlive(l) {
				return
			}
		}
		if d, n := p.latency.Load(), p.rate.Load(); d > 0 || n > 0 {
			// The network is slow, whoever waits for it.
			wait := time.Duration(d)
			if n > 0 {
				wait += time.Duration(len(raw)) * time.Second / time.Duration(n)
			}
			time.Sleep(wait)
		}
		_, err = to.Write(raw)
		if v == late {
			p.mu.Lock()
			if p.behind++; err != nil {
				p.shut++
			}
			p.mu.Unlock()
			p.bell.ring()
			if err == nil {
				<-l.gone // the other direction sees the server close it
			}
			return
		}
		if err != nil {
			if !up && l.left.Load() {
				continue // the server writes to who is gone, and does not know
			}
			return
		}
		if f.reply {
			p.replied(l)
		}
		if v == last {
			p.count(1)
			// In order, so that what was written before is still read.
			if c, ok := to.(*net.TCPConn); ok {
				_ = c.CloseWrite()
			}
			_ = from.Close()
			_, _ = io.Copy(io.Discard, to) // until it has closed too
			return
		}
	}
}

// outlive cuts the client's side of l alone, and waits until another connection
// of the client's has had a reply; false: none has.
func (p *tap) outlive(l *tapped) bool {
	l.left.Store(true)
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return false
	}
	p.waiting = append(p.waiting, l)
	p.mu.Unlock()
	_ = l.client.Close()
	p.count(1)
	<-l.next
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.closed
}

// replied tells those that wait for a later connection that l is one.
func (p *tap) replied(l *tapped) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = slices.DeleteFunc(p.waiting, func(old *tapped) bool {
		if old.n < l.n {
			close(old.next)
		}
		return old.n < l.n
	})
}

func (p *tap) count(n int) {
	p.mu.Lock()
	p.cuts += n
	p.mu.Unlock()
	p.bell.ring()
}

// judgeBy replaces what decides on each frame. judge is called for one frame at a time.
func (p *tap) judgeBy(judge func(frame) verdict) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.judge = judge
}

// cut ends all connections that there are, as a network does.
func (p *tap) cut() {
	p.mu.Lock()
	lines := make([]*tapped, 0, len(p.lines))
	for l := range p.lines {
		lines = append(lines, l)
	}
	p.mu.Unlock()
	for _, l := range lines {
		l.close()
	}
	p.count(len(lines))
}

// freeze lets nothing through any more on the connections that there are, and
// keeps them open. New ones work.
func (p *tap) freeze() int { return p.freezes(true, true) }

// freezes is freeze in those directions: to the server, and from it.
func (p *tap) freezes(up, down bool) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.lines {
		if up {
			l.up.Store(true)
		}
		if down {
			l.down.Store(true)
		}
	}
	return len(p.lines)
}

// tally says how many connections there were, were cut, and how many frames went
// nowhere.
func (p *tap) tally() (accepted, cuts, held int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted, p.cuts, p.held
}

// bytesSeen is everything that passed, both ways.
func (p *tap) bytesSeen() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Clone(p.seen.Bytes())
}

// spellings are the forms in which a code can stand in bytes without having been
// sealed: itself, in hex, in each of base64's alignments.
func spellings(code string) [][]byte {
	out := [][]byte{[]byte(code), []byte(hex.EncodeToString([]byte(code))), []byte(strings.ToUpper(hex.EncodeToString([]byte(code))))}
	for skip := range 3 {
		// What the neighbours' bits do not touch: whole groups of three bytes.
		part := code[skip:]
		part = part[:len(part)/3*3]
		out = append(out, []byte(base64.StdEncoding.EncodeToString([]byte(part))))
	}
	return out
}

// ciJob is one job that asks.
type ciJob struct {
	t       testing.TB
	bell    *bell
	config  ask.Config
	claims  map[string]any
	session *ask.Session

	ctx  context.Context
	stop context.CancelFunc
	work sync.WaitGroup

	mu     sync.Mutex
	events []ask.Event
	ended  bool // the last Await has returned
	answer ask.Answer
	err    error
}

// job makes a job of that repository which asks the relay behind p for a code of
// the home project. change may alter what it asks.
func (g *ground) job(t testing.TB, b *bell, relay *dial.Relay, repo string, change func(*ask.Config)) *ciJob {
	t.Helper()
	n := g.jobs.Add(1)
	name := fmt.Sprintf("job-%d", n)
	j := &ciJob{t: t, bell: b, claims: devissuer.GitHubClaims(repo, map[string]any{"run_id": strconv.FormatInt(7_000_000+n, 10), "environment": "npm"})}
	g.issuer.AddJob(name, j.claims)
	env := map[string]string{}
	for _, line := range g.issuer.GitHubEnv(name) {
		k, v, _ := strings.Cut(line, "=")
		env[k] = v
	}
	j.config = ask.Config{
		Relay: relay, Provider: ci.Find("github"), Env: ci.Env{Getenv: func(k string) string { return env[k] }},
		Project: homeProject, Service: "npm", Format: codeFormat, Message: "publish rocket 1.2.3", Timeout: 20 * time.Minute,
		Tell: func(e ask.Event) {
			j.mu.Lock()
			j.events = append(j.events, e)
			j.mu.Unlock()
			b.ring()
		},
	}
	if change != nil {
		change(&j.config)
	}
	var err error
	if j.session, err = ask.New(j.config); err != nil {
		t.Fatal(err)
	}
	j.ctx, j.stop = context.WithCancel(context.Background())
	t.Cleanup(func() {
		j.stop()
		j.session.Withdraw("the test is over")
		j.work.Wait()
	})
	return j
}

func (j *ciJob) id() string { return j.session.ID() }

// asks lets the job wait for its next answer.
func (j *ciJob) asks() {
	j.mu.Lock()
	j.ended, j.answer, j.err = false, ask.Answer{}, nil
	j.mu.Unlock()
	j.work.Go(func() {
		a, err := j.session.Await(j.ctx)
		j.mu.Lock()
		j.ended, j.answer, j.err = true, a, err
		j.mu.Unlock()
		j.bell.ring()
	})
}

func (j *ciJob) result() (a ask.Answer, ended bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.answer, j.ended, j.err
}

// takes waits for the answer and gives it.
func (j *ciJob) takes(t testing.TB) ask.Answer {
	t.Helper()
	j.bell.await(t, "the job's answer", func() bool { _, ended, _ := j.result(); return ended })
	a, _, err := j.result()
	if err != nil {
		t.Fatalf("the job ended with: %v\n%s", err, j.log())
	}
	return a
}

// fails waits for the job's end, which must be of that kind.
func (j *ciJob) fails(t testing.TB, kind error) *ask.Failure {
	t.Helper()
	j.bell.await(t, "the job's failure", func() bool { _, ended, _ := j.result(); return ended })
	a, _, err := j.result()
	f, ok := errors.AsType[*ask.Failure](err)
	if !ok || !errors.Is(err, kind) || a.Code() != "" {
		t.Fatalf("the job ended with %v and %v, not with a failure of kind %q\n%s", a, err, kind, j.log())
	}
	return f
}

// waitsStill ends a job that has no answer, which it must not have.
func (j *ciJob) waitsStill(t testing.TB) {
	t.Helper()
	if a, ended, err := j.result(); ended {
		t.Fatalf("the job has ended already: %v, %v\n%s", a, err, j.log())
	}
	j.stop()
	j.fails(t, ask.ErrCancelled)
}

// finishes says that the code was used, and hears that the relay knows.
func (j *ciJob) finishes(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := j.session.Done(ctx, wire.OutcomeOK); err != nil {
		t.Errorf("done was not confirmed: %v\n%s", err, j.log())
	}
}

func (j *ciJob) told() []ask.Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.events)
}

// log is what a reader of the job's log sees, more or less.
func (j *ciJob) log() string {
	var b strings.Builder
	for _, e := range j.told() {
		fmt.Fprintf(&b, "%T %+v\n", e, e)
	}
	return b.String()
}

func (j *ciJob) tells(t testing.TB, part string) {
	t.Helper()
	j.bell.await(t, fmt.Sprintf("the job's log says %q", part), func() bool { return strings.Contains(j.log(), part) })
}

// match is the match code in the job's log; "" before it is there.
func (j *ciJob) match() string {
	for _, e := range j.told() {
		if a, ok := e.(ask.Accepted); ok {
			return a.Match
		}
	}
	return ""
}

// attempts are those that the job has begun by itself, each with its reason.
func (j *ciJob) attempts() map[int]string {
	out := map[int]string{1: wire.ReasonFirst}
	for _, e := range j.told() {
		if a, ok := e.(ask.NewAttempt); ok {
			out[a.Attempt] = a.Reason
		}
	}
	return out
}

// responder is a human's machine and the human at it.
type responder struct {
	name          string
	connect, sign nkeys.KeyPair
	desk          *answer.Desk
	bell          *bell
	log           *lockedBuffer
	// readsLog gives the match code in the log of the job that the human started.
	readsLog func(id string) string

	done chan struct{}
	stop context.CancelFunc
	err  error // of Run, once done is closed

	mu      sync.Mutex
	eager   bool // answers whatever may be answered
	blind   bool // opens nothing
	shown   []answer.Prompt
	latest  map[string]answer.Prompt
	notices []string
	given   []given
}

// given is one second factor that the human parted with.
type given struct {
	id      string
	attempt int
	number  int // of the prompt
	code    string
}

func newResponder(t testing.TB, b *bell, name string) *responder {
	t.Helper()
	r := &responder{name: name, bell: b, latest: map[string]answer.Prompt{}, log: &lockedBuffer{}, done: make(chan struct{}), readsLog: func(string) string { return "" }}
	var err error
	if r.connect, err = wire.NewConnectKey(); err != nil {
		t.Fatal(err)
	}
	if r.sign, err = wire.NewSigningKey(); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *responder) key() string    { return wire.PublicKey(r.connect) }
func (r *responder) signer() string { return wire.PublicKey(r.sign) }

// again is the same human with the same keys at a machine that was restarted.
func (r *responder) again() *responder {
	return &responder{
		name: r.name, connect: r.connect, sign: r.sign, bell: r.bell, readsLog: r.readsLog,
		latest: map[string]answer.Prompt{}, log: &lockedBuffer{}, done: make(chan struct{}),
	}
}

// listens starts the desk and waits until it is connected. The relay must have
// ended every request by the test's end, or the desk stays for its answer.
func (r *responder) listens(t testing.TB, g *ground, relay *dial.Relay, pins *trust.Policy) {
	t.Helper()
	r.starts(t, g, relay, pins)
	r.notice(t, "connected to the relay")
}

func (r *responder) starts(t testing.TB, g *ground, relay *dial.Relay, pins *trust.Policy) {
	t.Helper()
	var err error
	r.desk, err = answer.New(answer.Config{
		Relay: relay, Connect: r.connect, Sign: r.sign, Askers: []answer.Asker{r},
		// Unbound tokens are allowed, so that what keeps them out is that the
		// job's CI can do better.
		Trust: answer.Trust{Verifier: trust.NewVerifier(relay.Name(), g.keys, trust.Options{AllowUnbound: true}), Pins: pins},
		Log:   slog.New(slog.NewTextHandler(r.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() {
		err := r.desk.Run(ctx)
		r.mu.Lock()
		r.err = err
		r.mu.Unlock()
		close(r.done)
		r.bell.ring()
	}()
	t.Cleanup(func() { r.leaves(t) })
}

// leaves ends the desk.
func (r *responder) leaves(t testing.TB) {
	t.Helper()
	r.stop()
	select {
	case <-r.done:
	case <-time.After(patience):
		t.Errorf("%s's desk does not end", r.name)
	}
}

// Ask is answer.Asker's: the human opens all that there is and, if eager,
// answers whatever the desk lets them.
func (r *responder) Ask(_ context.Context, news <-chan answer.News, desk answer.Decisions) error {
	for n := range news {
		r.mu.Lock()
		if n.Prompt == nil {
			r.notices = append(r.notices, n.Notice)
			r.mu.Unlock()
			r.bell.ring()
			continue
		}
		p := *n.Prompt
		old, known := r.latest[p.ID]
		isNew := !known || old.Number != p.Number
		r.shown = append(r.shown, p)
		r.latest[p.ID] = p
		eager, blind := r.eager, r.blind
		r.mu.Unlock()
		if isNew && !blind {
			desk.Open(p.ID)
		}
		if eager && p.Answerable {
			_ = r.give(p, freshCode()) // what may go wrong shows in the prompts
		}
		r.bell.ring()
	}
	return nil
}

// give answers p as it is shown, once for each attempt of it.
func (r *responder) give(p answer.Prompt, code string) error {
	r.mu.Lock()
	for _, g := range r.given {
		if g.id == p.ID && g.attempt == p.Attempt && g.number == p.Number {
			r.mu.Unlock()
			return errors.New("this attempt was answered")
		}
	}
	r.mu.Unlock()
	if p.Ask == wire.AskApproval {
		code = ""
	}
	a := answer.Answer{ID: p.ID, Attempt: p.Attempt, Code: code}
	if p.TypeMatch {
		a.Match = r.readsLog(p.ID)
	}
	if err := r.desk.Answer(context.Background(), a); err != nil {
		return err
	}
	r.mu.Lock()
	r.given = append(r.given, given{p.ID, p.Attempt, p.Number, code})
	r.mu.Unlock()
	return nil
}

// answers waits until that attempt may be answered, and answers it.
func (r *responder) answers(t testing.TB, id string, attempt int) string {
	t.Helper()
	p := r.sees(t, id, fmt.Sprintf("attempt %d is answerable", attempt), func(p answer.Prompt) bool { return p.Answerable && p.Attempt == attempt })
	code := freshCode()
	if err := r.give(p, code); err != nil {
		t.Fatalf("%s answers attempt %d: %v", r.name, attempt, err)
	}
	return code
}

// sees waits until the newest snapshot of a prompt is so.
func (r *responder) sees(t testing.TB, id, what string, ok func(answer.Prompt) bool) answer.Prompt {
	t.Helper()
	var p answer.Prompt
	r.bell.await(t, fmt.Sprintf("%s sees that %s", r.name, what), func() bool {
		var known bool
		r.mu.Lock()
		p, known = r.latest[id]
		r.mu.Unlock()
		return known && ok(p)
	})
	return p
}

// saw waits until some snapshot of a prompt has been so.
func (r *responder) saw(t testing.TB, id, what string, ok func(answer.Prompt) bool) answer.Prompt {
	t.Helper()
	var p answer.Prompt
	r.bell.await(t, fmt.Sprintf("%s saw that %s", r.name, what), func() bool {
		for _, p = range r.prompts() {
			if p.ID == id && ok(p) {
				return true
			}
		}
		return false
	})
	return p
}

// notice waits for a notice that holds part.
func (r *responder) notice(t testing.TB, part string) {
	t.Helper()
	r.bell.await(t, fmt.Sprintf("%s is told %q", r.name, part), func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return slices.ContainsFunc(r.notices, func(n string) bool { return strings.Contains(n, part) })
	})
}

// prompts are all snapshots so far.
func (r *responder) prompts() []answer.Prompt {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.shown)
}

// gave is every second factor so far.
func (r *responder) gave() []given {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.given)
}

// lockedBuffer takes a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// scene is one case of a test that runs them together.
type scene struct {
	name string
	play func(t *testing.T)
}

// together plays scenes at the same time, more of them than there are cores:
// most of what they do is wait.
func together(t *testing.T, atOnce int, scenes []scene) {
	t.Helper()
	slots := make(chan struct{}, atOnce)
	var all sync.WaitGroup
	for _, s := range scenes { // begun in their order
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			t.Run(s.name, s.play)
		})
	}
	all.Wait()
}
