package e2e

// Connections that are cut at each step of a request, between the real relay, a
// real job and a real responder, and at each step the request is finished: with
// the right code or the right end, once, and nobody types anything twice.
//
// A cut happens at one message: before it arrives, so that it is lost; at the
// relay's reply, so that it is done but its sender does not know; or right after
// the reply. Each case also shows that its cut has happened.

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/ask"
	"github.com/continuousauth/action/internal/broker"
	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/wire"
)

// cutAt is one message at which connections are cut.
type cutAt struct {
	name string
	job  bool // it travels between job and relay, not between responder and relay
	is   func(c *cutCase, f frame) bool
	how  verdict
	who  cutWho
}

type cutWho int

const (
	its   cutWho = iota // the connection that the message travels on
	both                // that and the other side's
	other               // the other side's only; the message arrives
)

func (w cutWho) String() string { return [...]string{"", ", both", ", the other side"}[w] }

// lost: what a client sends does not arrive.
func lost(job bool, verb string) cutAt {
	return cutAt{verb + " is lost", job, func(_ *cutCase, f frame) bool { return f.up && f.verb == verb }, lose, its}
}

// unheard: it arrives, and the reply does not.
func unheard(job bool, verb string) cutAt {
	return cutAt{verb + " is unheard", job, func(_ *cutCase, f frame) bool { return f.reply && f.verb == verb }, lose, its}
}

// heard: the reply arrives, and nothing after it.
func heard(job bool, verb string) cutAt {
	return cutAt{"after " + verb, job, func(_ *cutCase, f frame) bool { return f.reply && f.verb == verb }, last, its}
}

// unpushed: what the relay pushes does not arrive.
func unpushed(job bool, kind string) cutAt {
	return cutAt{"the hint " + kind + " is lost", job, func(_ *cutCase, f frame) bool { return f.pushed(kind) }, lose, its}
}

// pushed: it arrives, and nothing after it.
func pushed(job bool, kind string) cutAt {
	return cutAt{"after the hint " + kind, job, func(_ *cutCase, f frame) bool { return f.pushed(kind) }, last, its}
}

// connecting: the connection is lost in its handshake.
func connecting(job bool) cutAt {
	return cutAt{"connecting", job, func(_ *cutCase, f frame) bool { return f.op == "CONNECT" }, lose, its}
}

// nudged: the word that something changed in the project does not arrive, once
// the job has sent verb.
func nudged(after string, job bool) cutAt {
	return cutAt{"the hint after " + after + " is lost", false, func(c *cutCase, f frame) bool {
		return !f.up && f.subject == wire.ProjectSubject(c.project) && c.sent[sent{job, after}]
	}, lose, its}
}

// listed: the page with the request does not arrive.
func listed() cutAt {
	return cutAt{"the page is lost", false, func(c *cutCase, f frame) bool {
		return f.reply && f.verb == wire.VerbPending && bytes.Contains(f.payload, []byte(c.job.id()))
	}, lose, its}
}

func (c cutAt) of(who cutWho) cutAt {
	c.who = who
	return c
}

// of is cuts of other connections at the same messages.
func of(who cutWho, cuts ...cutAt) (out []cutAt) {
	for _, c := range cuts {
		out = append(out, c.of(who))
	}
	return out
}

// cutCase is one request whose connections are cut.
type cutCase struct {
	name string
	cuts []cutAt // in the order in which they happen
	ends ending

	project     string
	job         *ciJob
	ana         *responder
	bell        *bell
	jobs, desks *tap

	mu   sync.Mutex
	next int
	sent map[sent]bool // what has passed
}

// sent is a message of a job or a responder.
type sent struct {
	job  bool
	verb string
}

// ending is how a request ends.
type ending int

const (
	withCode ending = iota
	declined
	withdrawn
)

// judge cuts where the case says so.
func (c *cutCase) judge(job bool) func(frame) verdict {
	return func(f frame) verdict {
		c.mu.Lock()
		defer c.mu.Unlock()
		if f.up && f.verb != "" {
			c.sent[sent{job, f.verb}] = true
		}
		if c.next == len(c.cuts) {
			return pass
		}
		at := c.cuts[c.next]
		if at.job != job || !at.is(c, f) {
			return pass
		}
		c.next++
		if at.who != its {
			if job {
				c.desks.cut()
			} else {
				c.jobs.cut()
			}
		}
		if at.who == other {
			return pass
		}
		return at.how
	}
}

// cutRelay is the real relay, with a project for each case.
type cutRelay struct {
	relay *broker.Relay
	log   *lockedBuffer
}

func newCutRelay(t *testing.T, cases []*cutCase) *cutRelay {
	t.Helper()
	g := theGround(t)
	// Its socket's path has to be short.
	dir, err := os.MkdirTemp("", "cfa-cut-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	claims := devissuer.GitHubClaims(homeRepo, nil)
	var file strings.Builder
	fmt.Fprintf(&file, "host: %s\ndata: %s\nlisten: {nats: \"127.0.0.1:0\"}\nissuers:\n  - {name: dev, provider: github, url: %q}\nprojects:\n",
		hostName, filepath.Join(dir, "data"), g.issuer.URL())
	for i, c := range cases {
		c.project, c.bell, c.sent = fmt.Sprintf("cut-%d", i), newBell(), map[sent]bool{}
		c.ana = newResponder(t, c.bell, "Ana")
		fmt.Fprintf(&file, "  %s:\n    ci: [{provider: dev, repository_id: %q, repository_owner_id: %q}]\n    responders: [{name: Ana, connect: %s, sign: %s}]\n",
			c.project, claims["repository_id"], claims["repository_owner_id"], c.ana.key(), c.ana.signer())
	}
	config, err := broker.ParseConfig([]byte(file.String()), dir)
	if err != nil {
		t.Fatal(err)
	}
	r := &cutRelay{log: &lockedBuffer{}}
	if r.relay, err = broker.Start(context.Background(), config, broker.Options{Log: slog.New(slog.NewJSONHandler(r.log, nil))}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.relay.Close)
	return r
}

// decisions are how often the relay has recorded each step of a request, and
// where that left it.
func (r *cutRelay) decisions(t *testing.T, id string) map[string]int {
	t.Helper()
	out := map[string]int{}
	for line := range strings.Lines(r.log.String()) {
		var d struct{ Msg, What, Key, Outcome string }
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			t.Fatal(err)
		}
		if d.Msg == "decision" && d.Key == id && d.Outcome != "" && d.Outcome != "refused" {
			out[d.What+" → "+d.Outcome]++
		}
	}
	return out
}

// sets puts the taps and both ends before the relay. The job asks nothing yet.
func (c *cutCase) sets(t *testing.T, r *cutRelay) {
	t.Helper()
	g := theGround(t)
	server := strings.TrimPrefix(r.relay.ClientURL(), "nats://")
	if _, _, err := net.SplitHostPort(server); err != nil {
		t.Fatal(err)
	}
	c.jobs, c.desks = newTap(t, c.bell, server), newTap(t, c.bell, server)
	c.job = g.job(t, c.bell, c.jobs.relay(t, hostName), homeRepo, func(a *ask.Config) {
		a.Project, a.Responders = c.project, []string{c.ana.signer()}
	})
	c.jobs.judgeBy(c.judge(true))
	c.desks.judgeBy(c.judge(false))
	c.ana.listens(t, g, c.desks.relay(t, hostName), g.pins(t, c.project))
}

// plays plays the case to its end.
func (c *cutCase) plays(t *testing.T, r *cutRelay) {
	c.sets(t, r)
	c.job.asks()
	id := c.job.id()
	want := map[string]int{"request → accepted": 1, "open → pending": 1}
	switch c.ends {
	case withCode:
		c.delivers(t)
		want["answer → answered"], want["got → delivered"], want["done → done"] = 1, 1, 1
	case declined:
		c.ana.sees(t, id, "it can be answered", func(s answer.Prompt) bool { return s.Answerable })
		if err := c.ana.desk.Decline(t.Context(), id, "not today"); err != nil {
			t.Fatal(err)
		}
		if f := c.job.fails(t, ask.ErrDeclined); !strings.Contains(f.What, "declined by Ana, who says: not today") {
			t.Errorf("the job says: %v", f)
		}
		want["decline → declined"] = 1
	case withdrawn:
		c.ana.sees(t, id, "it can be answered", func(s answer.Prompt) bool { return s.Answerable })
		c.job.stop()
		c.job.fails(t, ask.ErrCancelled)
		want["cancel → cancelled"] = 1
	}
	over := c.ana.sees(t, id, "it is over", func(s answer.Prompt) bool { return s.Phase == answer.Over })
	if says := [...]string{"the relay says that the job has what it asked for", "you declined: not today", "withdrawn"}[c.ends]; !strings.HasPrefix(over.Why, says) {
		t.Errorf("the human reads at last: %q", over.Why)
	}
	got := r.decisions(t, id)
	for what, n := range want {
		if got[what] != n {
			t.Errorf("%q was recorded %d times", what, got[what])
		}
		delete(got, what)
	}
	if len(got) > 0 {
		t.Errorf("the relay also recorded %v", got)
	}
	c.happened(t)
}

// delivers lets the human answer once, and the job end well.
func (c *cutCase) delivers(t *testing.T) {
	t.Helper()
	id := c.job.id()
	code := c.ana.answers(t, id, 1)
	if a := c.job.takes(t); a.Code() != code || a.Attempt != 1 {
		t.Errorf("the job took an answer to attempt %d, and the human's code: %v", a.Attempt, a.Code() == code)
	}
	c.ana.sees(t, id, "it has arrived", func(s answer.Prompt) bool { return s.Note == "the relay says that the job has your code" })
	c.job.finishes(t)
	if n := len(c.ana.gave()); n != 1 {
		t.Errorf("the human gave %d codes", n)
	}
}

// happened checks that every cut was made, and that who was cut came back.
func (c *cutCase) happened(t *testing.T) {
	t.Helper()
	// Both sides may have read of the end before the reply that is to be cut has
	// come by.
	c.bell.await(t, "the last of its cuts", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.next == len(c.cuts)
	})
	job, desk := 0, 0
	for _, at := range c.cuts {
		if at.job == (at.who != other) || at.who == both {
			job++
		}
		if at.job == (at.who == other) || at.who == both {
			desk++
		}
	}
	for _, side := range []struct {
		name string
		tap  *tap
		cuts int
	}{{"job", c.jobs, job}, {"responder", c.desks, desk}} {
		// Where many cuts follow each other, one may find the other side on its
		// way back.
		var cuts int
		c.bell.await(t, fmt.Sprintf("the %s's connection is cut %d times", side.name, side.cuts), func() bool {
			_, cuts, _ = side.tap.tally()
			return cuts >= (side.cuts+1)/2
		})
		c.bell.await(t, "the "+side.name+" comes back", func() bool { accepted, _, _ := side.tap.tally(); return accepted > cuts })
	}
}

func TestACutConnectionIsTakenUpAgainAtEachStep(t *testing.T) {
	t.Parallel()
	const job, desk = true, false
	steps := []cutAt{
		// These take longest, and so begin first: a challenge that comes while
		// the job is away is lost, and the responder waits 30 s for its answer.
		unpushed(job, wire.HintChallenge), unheard(job, wire.VerbRequest), heard(job, wire.VerbRequest),
		connecting(job), lost(job, wire.VerbRequest),
		connecting(desk), nudged(wire.VerbRequest, job), listed(),
		lost(desk, wire.VerbOpen), unheard(desk, wire.VerbOpen),
		lost(job, wire.VerbAlive), unheard(job, wire.VerbAlive), unpushed(desk, wire.HintAlive), pushed(desk, wire.HintAlive),
		lost(desk, wire.VerbAnswer), unheard(desk, wire.VerbAnswer), heard(desk, wire.VerbAnswer),
		unpushed(job, wire.HintAnswer), pushed(job, wire.HintAnswer),
		lost(job, wire.VerbGot), unheard(job, wire.VerbGot), heard(job, wire.VerbGot), nudged(wire.VerbGot, job),
		lost(job, wire.VerbDone), unheard(job, wire.VerbDone),
	}
	var cases []*cutCase
	for _, at := range steps {
		cases = append(cases, &cutCase{cuts: []cutAt{at}})
	}
	for _, at := range []cutAt{lost(desk, wire.VerbDecline), unheard(desk, wire.VerbDecline), unheard(desk, wire.VerbDecline).of(both)} {
		cases = append(cases, &cutCase{cuts: []cutAt{at}, ends: declined})
	}
	for _, at := range []cutAt{lost(job, wire.VerbCancel), unheard(job, wire.VerbCancel), lost(job, wire.VerbCancel).of(both), nudged(wire.VerbCancel, job)} {
		cases = append(cases, &cutCase{cuts: []cutAt{at}, ends: withdrawn})
	}
	for _, c := range cases {
		c.name = c.cuts[0].name + c.cuts[0].who.String()
		if side := "responder: "; !c.cuts[0].job {
			c.name = side + c.name
		} else {
			c.name = "job: " + c.name
		}
	}
	// Requests that lose their connections again and again: both sides at once,
	// or always the one that is not concerned. Not at all steps in one request: a
	// responder waits longer and longer with a relay that keeps throwing it out.
	for name, cuts := range map[string][]cutAt{
		"both, while it is asked and opened":       of(both, lost(job, wire.VerbRequest), lost(desk, wire.VerbOpen)),
		"both, while the job proves itself":        of(both, lost(job, wire.VerbAlive), unpushed(desk, wire.HintAlive)),
		"both, while the answer travels":           of(both, lost(desk, wire.VerbAnswer), unpushed(job, wire.HintAnswer), lost(job, wire.VerbGot)),
		"both, while the job ends":                 of(both, lost(job, wire.VerbDone), unheard(job, wire.VerbDone)),
		"both, at the replies to open and alive":   of(both, unheard(desk, wire.VerbOpen), unheard(job, wire.VerbAlive)),
		"both, at the replies after that":          of(both, unheard(desk, wire.VerbAnswer), unheard(job, wire.VerbGot), unheard(job, wire.VerbDone)),
		"the responder, at what the job sends":     of(other, lost(job, wire.VerbRequest), lost(job, wire.VerbAlive), lost(job, wire.VerbGot), lost(job, wire.VerbDone)),
		"the job, at what the responder sends":     of(other, lost(desk, wire.VerbAnswer)),
		"the job, at what the responder is pushed": of(other, unpushed(desk, wire.HintAlive)),
	} {
		cases = append(cases, &cutCase{name: name, cuts: cuts})
	}
	frozen := &cutCase{name: "both hang while the human answers"}
	relay := newCutRelay(t, append(cases, frozen))
	scenes := []scene{{frozen.name, func(t *testing.T) { frozen.hangs(t, relay) }}}
	for _, c := range cases {
		scenes = append(scenes, scene{c.name, func(t *testing.T) { c.plays(t, relay) }})
	}
	together(t, 12, scenes)
}

// hangs plays a request whose connections stay open and carry nothing: only two
// unanswered re-reads show that.
func (c *cutCase) hangs(t *testing.T, r *cutRelay) {
	c.sets(t, r)
	c.job.asks()
	c.ana.sees(t, c.job.id(), "it can be answered", func(s answer.Prompt) bool { return s.Answerable })
	if c.jobs.freeze() != 1 || c.desks.freeze() != 1 {
		t.Fatal("there is not one connection on each side")
	}
	c.delivers(t)
	c.ana.sees(t, c.job.id(), "it is over", func(s answer.Prompt) bool { return s.Phase == answer.Over })
	c.ana.notice(t, "two reads without an answer")
	c.job.tells(t, "Reconnecting")
	for name, tap := range map[string]*tap{"job": c.jobs, "responder": c.desks} {
		accepted, cuts, held := tap.tally()
		if accepted != 2 || cuts != 0 || held == 0 {
			t.Errorf("%s: %d connections, %d cuts, %d messages that went nowhere", name, accepted, cuts, held)
		}
	}
}
