//go:build clients && unix

package e2e

// A cluster of real processes, started from the very files of deploy/cluster:
// three NATS servers, two relays, and jobs and responders that know one address.
// What is killed is killed with -9 in the middle of requests, and has died there;
// then the record is asked whether anything was lost, given twice, or to another.

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/deploy/cluster"
	"github.com/continuousauth/action/internal/devissuer"
)

var natsBuilt struct {
	sync.Once
	err error
}

// natsServer builds nats-server's own program, of the version that go.mod names.
func natsServer(t *testing.T) string {
	t.Helper()
	dir := filepath.Dir(program(t, "cfa-relay"))
	natsBuilt.Do(func() {
		out, err := exec.Command("go", "build", "-o", filepath.Join(dir, "nats-server"), "github.com/nats-io/nats-server/v2").CombinedOutput()
		if err != nil {
			natsBuilt.err = fmt.Errorf("build: %w\n%s", err, out)
		}
	})
	if natsBuilt.err != nil {
		t.Fatal(natsBuilt.err)
	}
	return "nats-server"
}

// manyServers is a cluster and everybody around it.
type manyServers struct {
	*world
	plan   cluster.Plan
	files  string
	nodes  map[string]*process
	relays map[string]*process
	door   *door
	js     jetstream.JetStream // as a relay's user of the record sees it
	system *nats.Conn
}

// projects are more than one, so that no human has to type a match code to tell
// the requests of one from each other.
var clusterProjects = []string{"waits", "answered", "delivered"}

func newCluster(t *testing.T) *manyServers {
	t.Helper()
	natsServer(t)
	dir, err := os.MkdirTemp("", "cfa-cl-") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	issuer, err := devissuer.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(issuer.Close)
	w := &world{t: t, dir: dir, issuer: issuer, claims: devissuer.GitHubClaims(repository, nil)}
	c := &manyServers{world: w, files: filepath.Join(dir, "files"), nodes: map[string]*process{}, relays: map[string]*process{}}
	ana := w.person("Ana") // with pins for `project`
	rest := "host: localhost\nlisten: {metrics: \"127.0.0.1:0\"}\nlimits: {open: 64, open-per-run: 16, per-hour: 10000}\n" +
		fmt.Sprintf("issuers:\n  - {name: development, provider: github, url: %q}\nprojects:\n", issuer.URL())
	for _, p := range append(slices.Clone(clusterProjects), project) {
		rest += fmt.Sprintf("  %s:\n    ci: [{provider: development, repository_id: %q, repository_owner_id: %q}]\n    responders: [{name: Ana, connect: %s, sign: %s}]\n",
			p, w.claim("repository_id"), w.claim("repository_owner_id"), ana.connect, ana.sign)
		if p != project {
			if a := run(t, nil, "cfa-responder", "pins", "--pins", ana.pins, "add", p, "--provider", "development", "--repository", w.claim("repository"),
				"--repository-id", w.claim("repository_id"), "--repository-owner-id", w.claim("repository_owner_id"), "--confirm", w.claim("repository")); a.code != 0 {
				t.Fatal("pins add failed")
			}
		}
	}
	if c.plan, err = cluster.OnThisMachine(dir); err != nil {
		t.Fatal(err)
	}
	c.plan.Rest = rest
	if err := c.plan.Write(c.files); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.plan.Nodes {
		c.startNode(n.Name)
	}
	for _, n := range c.nodes {
		n.waitFor(`metadata leader`)
	}
	for _, name := range c.plan.Relays {
		c.startRelay(name)
	}
	c.door = newDoor(t, c.plan.Nodes)
	ca := filepath.Join(c.files, "ca.pem")
	w.flags = []string{"--relay", c.door.url(), "--relay-name", "localhost", "--ca-file", ca}
	connect := func(user string) *nats.Conn {
		nc, err := nats.Connect(c.plan.URL, nkeyOf(t, filepath.Join(c.files, "relay-1", user+".nk")), nats.RootCAs(ca), nats.TLSHandshakeFirst(),
			nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond), nats.IgnoreAuthErrorAbort())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	c.system = connect("system")
	if c.js, err = jetstream.New(connect("store")); err != nil {
		t.Fatal(err)
	}
	c.whole()
	return c
}

func nkeyOf(t *testing.T, seed string) nats.Option {
	t.Helper()
	opt, err := nats.NkeyOptionFromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	return opt
}

func (c *manyServers) startNode(name string) {
	c.t.Helper()
	c.nodes[name] = start(c.t, nil, "nats-server", "-c", filepath.Join(c.files, name, "nats.conf"))
	c.nodes[name].waitFor(`Server is ready`)
}

func (c *manyServers) startRelay(name string) {
	c.t.Helper()
	c.relays[name] = start(c.t, nil, "cfa-relay", "serve", "--config", filepath.Join(c.files, name, "cfa.yaml"))
	c.relays[name].waitFor(`serving tls://`)
}

// info is the stream as its leader sees it.
func (c *manyServers) info() *jetstream.StreamInfo {
	c.t.Helper()
	var last error
	for late := time.Now().Add(within); time.Now().Before(late); time.Sleep(50 * time.Millisecond) {
		s, err := c.js.Stream(c.t.Context(), "CFA")
		if err == nil && s.CachedInfo().Cluster != nil && s.CachedInfo().Cluster.Leader != "" {
			return s.CachedInfo()
		}
		last = err
	}
	c.t.Fatalf("the record has no leader: %v", last)
	return nil
}

// whole waits until all three servers hold all of the record: only then may the
// next of them die.
func (c *manyServers) whole() {
	c.t.Helper()
	for late := time.Now().Add(within); ; time.Sleep(50 * time.Millisecond) {
		i := c.info()
		current := 0
		for _, r := range i.Cluster.Replicas {
			if r.Current && !r.Offline {
				current++
			}
		}
		if current == 2 {
			return
		}
		if time.Now().After(late) {
			c.t.Fatalf("the servers do not come together: %+v", i.Cluster)
		}
	}
}

// nodeOf is the server that a client's key is connected to; "" while it is to none.
func (c *manyServers) nodeOf(key string) string {
	c.t.Helper()
	inbox := nats.NewInbox()
	sub, err := c.system.SubscribeSync(inbox)
	if err != nil {
		c.t.Fatal(err)
	}
	defer sub.Unsubscribe()
	if err := c.system.PublishRequest("$SYS.REQ.SERVER.PING.CONNZ", inbox, []byte(`{"auth":true,"acc":"CFA"}`)); err != nil {
		c.t.Fatal(err)
	}
	for range len(c.nodes) {
		m, err := sub.NextMsg(time.Second)
		if err != nil {
			return ""
		}
		var r struct {
			Server struct {
				Name string `json:"name"`
			} `json:"server"`
		}
		if err := json.Unmarshal(m.Data, &r); err != nil {
			c.t.Fatal(err)
		}
		if bytes.Contains(m.Data, []byte(key)) {
			return r.Server.Name
		}
	}
	return ""
}

// door is the one address that jobs and responders know, as a load balancer or a
// name with three addresses is: it passes bytes on to a server that takes the
// connection, the next one each time.
type door struct {
	l  net.Listener
	to []string

	mu   sync.Mutex
	next int
}

func newDoor(t *testing.T, nodes []cluster.Node) *door {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{l: l}
	for _, n := range nodes {
		d.to = append(d.to, n.Clients)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			work.Go(func() { d.pass(conn) })
		}
	})
	t.Cleanup(func() { l.Close(); work.Wait() }) // both ends of each are gone by then
	return d
}

func (d *door) url() string { return fmt.Sprintf("tls://localhost:%d", d.l.Addr().(*net.TCPAddr).Port) }

func (d *door) pass(c net.Conn) {
	defer c.Close()
	for range d.to {
		d.mu.Lock()
		to := d.to[d.next%len(d.to)]
		d.next++
		d.mu.Unlock()
		s, err := net.Dial("tcp", to)
		if err != nil {
			continue
		}
		defer s.Close()
		done := make(chan struct{})
		go func() { _, _ = io.Copy(s, c); s.Close(); close(done) }()
		_, _ = io.Copy(c, s)
		c.Close()
		<-done
		return
	}
}

// story is a request as `audit list` tells it.
type story struct {
	Key, State, Outcome, Project string
	Attempt                      int
	By                           []string
}

// audited verifies the record, and gives each request's last state and events.
func (c *manyServers) audited(relay string) (map[string]story, map[string][]string) {
	c.t.Helper()
	audit := func(args ...string) string {
		c.t.Helper()
		args = append(append([]string{"audit"}, args...), "--config", filepath.Join(c.files, relay, "cfa.yaml"))
		for late := time.Now().Add(within); ; {
			p := run(c.t, nil, "cfa-relay", args...)
			// A server that is back needs its time until it gives the record.
			if p.code == 69 && time.Now().Before(late) {
				continue
			}
			if p.code != 0 {
				c.t.Fatalf("audit: exit code %d", p.code)
			}
			return p.out.String()
		}
	}
	if said := audit("verify"); !strings.Contains(said, "good: each record follows from the one before and from what was signed") {
		c.t.Errorf("audit verify: %s", said)
	}
	stories, events := map[string]story{}, map[string][]string{}
	for line := range strings.Lines(audit("list", "--format", "jsonl")) {
		var s story
		if err := json.Unmarshal([]byte(line), &s); err != nil {
			c.t.Fatal(err)
		}
		stories[s.Key] = s
	}
	for line := range strings.Lines(audit("list", "--format", "jsonl", "--events")) {
		var e struct{ Key, Event string }
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			c.t.Fatal(err)
		}
		events[e.Key] = append(events[e.Key], e.Event)
	}
	return stories, events
}

// untilEvent waits until a request's record has an event.
func (c *manyServers) untilEvent(key, event string) {
	c.t.Helper()
	for late := time.Now().Add(within); time.Now().Before(late); time.Sleep(20 * time.Millisecond) {
		s, err := c.js.Stream(c.t.Context(), "CFA")
		if err != nil {
			continue
		}
		m, err := s.GetLastMsgForSubject(c.t.Context(), "cfa.store.v1.request."+key)
		if err == nil && bytes.Contains(m.Data, []byte(`"event":"`+event+`"`)) {
			return
		}
	}
	c.t.Fatalf("%s never came to %s", key, event)
}

// newest is the key of a project's newest request, which no log of a program says.
func (c *manyServers) newest(project string) string {
	c.t.Helper()
	for late := time.Now().Add(within); time.Now().Before(late); time.Sleep(20 * time.Millisecond) {
		s, err := c.js.Stream(c.t.Context(), "CFA")
		if err != nil {
			continue
		}
		for seq := s.CachedInfo().State.LastSeq; seq > 0; seq-- {
			m, err := s.GetMsg(c.t.Context(), seq)
			if err != nil {
				break
			}
			var rec struct{ Key, Project, Event string }
			if err := json.Unmarshal(m.Data, &rec); err != nil {
				c.t.Fatal(err)
			}
			if rec.Project == project && rec.Event == "asked" {
				return rec.Key
			}
		}
	}
	c.t.Fatalf("no request of %s is on record", project)
	return ""
}

// three are requests that are open when something dies, each at another point:
// one waits, the code of one is on its way, and one has its code.
type three struct {
	c     *manyServers
	human *process
	keys  map[string]string
	codes map[string]string
	jobs  map[string]*process
	n     map[string]int // what the human's screen calls them
	tool  string         // the folder of the one that runs a command
}

// opens opens three requests; first is what the human's screen will call the
// first of them. None has its end yet, and each is where it should be.
func (c *manyServers) opens(human *process, first int) *three {
	c.t.Helper()
	r := &three{c: c, human: human, keys: map[string]string{}, codes: map[string]string{}, jobs: map[string]*process{}, n: map[string]int{}, tool: c.t.TempDir()}
	c.issuer.AddJob("release", c.claims)
	for i, p := range clusterProjects {
		r.n[p], r.codes[p] = first+i, fmt.Sprintf("%06d", 100_000*(i+1)+first)
		args := append([]string{"--project", p, "--responders", c.humans[0].sign}, c.flags...)
		if p == "delivered" {
			// It is told its code, and goes on when it is let.
			const command = `test "$OTP" || { echo wanted; exit 1; }; while ! test -e go; do sleep 0.05; done; printf %s "$OTP" >got`
			args = append(append([]string{"exec", "--service", "tool", "--env", "OTP", "--format", "digits:6", "--refused", "wanted"}, args...), "--", "sh", "-c", command)
			r.jobs[p] = startIn(c.t, r.tool, append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + r.tool}, c.issuer.GitHubEnv("release")...), "cfa", args...)
		} else {
			args = append([]string{"request", "--service", "npm", "--output", "stdout"}, args...)
			r.jobs[p] = start(c.t, c.issuer.GitHubEnv("release"), "cfa", args...)
		}
		human.waitFor(fmt.Sprintf(`#%d your turn`, r.n[p]))
		r.keys[p] = c.newest(p)
	}
	// It hears nothing any more; what is sent to it waits in the kernel, or is lost.
	r.jobs["answered"].signal(syscall.SIGSTOP)
	r.answers("answered")
	c.untilEvent(r.keys["answered"], "answered")
	r.answers("delivered")
	c.untilEvent(r.keys["delivered"], "got")
	return r
}

func (r *three) answers(p string) {
	r.c.t.Helper()
	if _, err := fmt.Fprintf(r.human.in, "%d\n%s\n", r.n[p], r.codes[p]); err != nil {
		r.c.t.Fatal(err)
	}
}

// end well, each in its one way.
func (r *three) end() {
	t := r.c.t
	t.Helper()
	r.answers("waits")
	r.jobs["answered"].signal(syscall.SIGCONT)
	if err := os.WriteFile(filepath.Join(r.tool, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for p, j := range r.jobs {
		if code := j.wait(); code != 0 {
			t.Errorf("the one that %s ended with %d", p, code)
		}
		got := strings.TrimSuffix(j.out.String(), "\n")
		if p == "delivered" {
			data, err := os.ReadFile(filepath.Join(r.tool, "got"))
			if err != nil {
				t.Error(err)
			}
			got = string(data)
		}
		if got != r.codes[p] {
			t.Errorf("the one that %s got %q, not %s", p, got, r.codes[p])
		}
		r.human.waitFor(fmt.Sprintf(`#%d over: the relay says that the job (has what it asked for|is done)`, r.n[p]))
	}
	said := r.human.out.String() + r.human.err.String()
	for p, n := range r.n {
		if k := strings.Count(said, fmt.Sprintf("#%d over", n)); k != 1 {
			t.Errorf("the human heard of %d ends of the one that %s", k, p)
		}
		if k := strings.Count(said, fmt.Sprintf("#%d sealed", n)); k != 1 {
			t.Errorf("the human gave %d codes to the one that %s", k, p)
		}
	}
}

// onRecord checks what the record says of each.
func (r *three) onRecord(stories map[string]story, events map[string][]string) {
	t := r.c.t
	t.Helper()
	for p, key := range r.keys {
		if s := stories[key]; s.State != "done" || s.Outcome != "ok" || s.Attempt != 1 || s.Project != p || !slices.Equal(s.By, []string{"Ana"}) {
			t.Errorf("the record of the one that %s: %+v", p, s)
		}
		if e := slices.DeleteFunc(events[key], func(e string) bool { return e == "opened" }); !slices.Equal(e, []string{"asked", "answered", "got", "done"}) {
			t.Errorf("the record of the one that %s: %v", p, e)
		}
	}
}

// TestWhateverDiesOfAClusterEachRequestEndsOnce kills each part of a cluster while
// requests are open at each point of their way.
func TestWhateverDiesOfAClusterEachRequestEndsOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	human := c.listen(c.humans[0])
	leader := func(*three) string { return c.info().Cluster.Leader }
	var all []*three
	for i, v := range []struct {
		name string
		who  func(*three) string
	}{
		{"the server that leads the record", leader},
		{"a server that does not", func(r *three) string {
			of := r.c.nodeOf(r.keys["waits"])
			for _, n := range c.plan.Nodes {
				if n.Name != leader(r) && n.Name != of {
					return n.Name
				}
			}
			return ""
		}},
		{"the server that a job is connected to", func(r *three) string { return c.nodeOf(r.keys["waits"]) }},
		{"the one that has the answered one", func(r *three) string { return c.nodeOf(r.keys["answered"]) }},
		{"the first relay", func(*three) string { return "relay-1" }},
		{"the second relay", func(*three) string { return "relay-2" }},
		// With two of three, nothing is accepted until one is back.
		{"two servers", func(r *three) string {
			l := leader(r)
			for _, n := range c.plan.Nodes {
				if n.Name != l {
					return l + " " + n.Name
				}
			}
			return ""
		}},
	} {
		began := time.Now()
		r := c.opens(human, 3*i+1)
		all = append(all, r)
		opened := time.Since(began)
		names := strings.Fields(v.who(r))
		if len(names) == 0 {
			t.Fatalf("nothing here is %s", v.name)
		}
		for _, name := range names {
			p := c.nodes[name]
			if p == nil {
				p = c.relays[name]
			}
			p.signal(syscall.SIGKILL)
			died(t, p)
		}
		back := func() {
			for _, name := range names {
				if c.nodes[name] != nil {
					c.startNode(name)
				} else {
					c.startRelay(name)
				}
			}
		}
		if len(names) > 1 {
			back()
		}
		r.end()
		t.Logf("%s (%s): opened in %s, ended after %s", v.name, names, opened.Round(time.Millisecond), (time.Since(began) - opened).Round(time.Millisecond))
		if len(names) == 1 {
			back()
		}
		c.whole()
		if t.Failed() {
			break
		}
	}
	for _, relay := range c.plan.Relays { // each tells the same
		stories, events := c.audited(relay)
		if len(stories) != 3*len(all) {
			t.Errorf("%d requests are on record, not %d", len(stories), 3*len(all))
		}
		for _, r := range all {
			r.onRecord(stories, events)
		}
	}
}

// TestTheOtherRelayGoesOnFromAnyRecord kills one of two relays before and after
// each record, and starts nobody in its place while the request is open.
func TestTheOtherRelayGoesOnFromAnyRecord(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	fragile := fragileRelay(t)
	human := c.listen(c.humans[0])
	want := map[string]string{} // the events of each request but openings
	n := 0
	// Where what is lost is a message, and where it is the reply to one. (A relay
	// that is alone is killed at each of them, both before and after.)
	for _, at := range []string{"before asked", "before answered", "after answered", "before got", "after got", "after done", "after declined", "before cancelled"} {
		_, event, _ := strings.Cut(at, " ")
		first := c.relays["relay-1"]
		first.signal(syscall.SIGTERM)
		first.wait()
		first = start(t, []string{"CFA_FAILPOINT=" + at}, fragile, "serve", "--config", filepath.Join(c.files, "relay-1", "cfa.yaml"))
		c.relays["relay-1"] = first
		first.waitFor(`serving tls://`)
		gone := func() bool {
			select {
			case <-first.done:
				return true
			default:
				return false
			}
		}
		// Which of the two gets a message is the servers' choice.
		for try := 0; !gone(); try++ {
			if try == 40 {
				t.Fatalf("of %d requests the first relay got none to %s", try, at)
			}
			n++
			c.claims["run_id"] = fmt.Sprint(n) // a run that was declined asks no more
			c.issuer.AddJob("release", c.claims)
			j := c.job("--output", "stdout", "--responders", c.humans[0].sign)
			human.waitFor(fmt.Sprintf(`#%d your turn`, n))
			key := c.newest(project)
			exit, code, over := 0, fmt.Sprintf("%06d", 100_000+n), `the relay says that the job (has what it asked for|is done)`
			want[key] = "asked answered got done"
			switch event {
			case "declined":
				fmt.Fprintf(human.in, "d%d not today\n", n)
				exit, code, over, want[key] = 80, "", `you declined: not today`, "asked declined"
			case "cancelled":
				j.signal(syscall.SIGTERM)
				exit, code, over, want[key] = 82, "", `withdrawn`, "asked cancelled"
			default:
				fmt.Fprintf(human.in, "%d\n%s\n", n, code)
			}
			if got := j.wait(); got != exit || strings.TrimSuffix(j.out.String(), "\n") != code {
				t.Errorf("%s: cfa ended with %d, and wrote %q", at, got, j.out)
			}
			human.waitFor(fmt.Sprintf(`#%d over: %s`, n, over))
			if k := strings.Count(human.out.String()+human.err.String(), fmt.Sprintf("#%d over", n)); k != 1 {
				t.Errorf("%s: the human heard of %d ends", at, k)
			}
		}
		died(t, first)
		if !strings.Contains(first.err.String(), "failpoint: "+at) {
			t.Fatalf("the first relay died elsewhere than %s", at)
		}
		c.startRelay("relay-1")
		if t.Failed() {
			return
		}
	}
	stories, events := c.audited("relay-2")
	if len(stories) != len(want) {
		t.Errorf("%d requests are on record, not %d", len(stories), len(want))
	}
	for key, what := range want {
		e := slices.DeleteFunc(events[key], func(e string) bool { return e == "opened" })
		if got := strings.Join(e, " "); got != what || stories[key].Attempt != 1 {
			t.Errorf("%s: %s, attempt %d, not %s", key, got, stories[key].Attempt, what)
		}
	}
}

func TestTheClusterDemoOutlivesItsLeader(t *testing.T) {
	t.Parallel()
	natsServer(t)
	p := run(t, []string{"CFA_DEMO_OTP=654321"}, "cfa-relay", "cluster", "demo", "--bin", filepath.Dir(program(t, "cfa")))
	if p.code != 0 || !strings.Contains(p.out.String(), "code = 654321") || !strings.Contains(p.out.String(), "is killed: kill -9 ") {
		t.Fatalf("it ended with %d", p.code)
	}
}

// What the demo prints to ask and to answer is what a human types; Ctrl-C ends
// all of it.
func TestTheClusterDemoIsAskedAndAnsweredAndLeavesNothing(t *testing.T) {
	t.Parallel()
	natsServer(t)
	p := start(t, nil, "cfa-relay", "cluster", "demo", "--bin", filepath.Dir(program(t, "cfa")))
	dir := filepath.Dir(p.waitFor(`(\S+/ask)   # asks`)[1])
	script := func(name string) (*exec.Cmd, *output) {
		cmd, out := exec.Command(filepath.Join(dir, name)), newOutput()
		cmd.Stdout = out
		return cmd, out
	}
	answer, heard := script("answer")
	in, err := answer.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	ask, code := script("ask")
	for _, cmd := range []*exec.Cmd{answer, ask} {
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
	}
	human := &process{t: t, name: "answer", out: heard, err: newOutput(), done: make(chan struct{})}
	human.waitFor(`#1 your turn`)
	if _, err := fmt.Fprintf(in, "1\n%s\n", testCode); err != nil {
		t.Fatal(err)
	}
	if err := ask.Wait(); err != nil || code.String() != testCode+"\n" {
		t.Errorf("asked: %v, %q", err, code.String())
	}
	_ = in.Close()
	_ = answer.Process.Signal(syscall.SIGTERM)
	_ = answer.Wait()
	p.signal(syscall.SIGINT)
	if code := p.wait(); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Errorf("%s is left", dir)
	}
	for _, m := range regexp.MustCompile(`# process (\d+)`).FindAllStringSubmatch(p.out.String(), -1) {
		pid, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(pid, 0); err == nil {
			t.Errorf("process %d is left", pid)
		}
	}
}
