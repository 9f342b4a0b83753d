package broker

// What a responder sees and may do: its own projects, as the relay's file says
// now.

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/continuousauth/action/internal/wire"
)

func TestAResponderSeesAndAnswersItsOwnProjectsOnly(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		ana, bob, eve := f.sit(f.ana), f.sit(f.bob), f.sit(f.eve)
		rocket, boat, other := f.accepted(rocketRepo, "rocket"), f.accepted(boatRepo, "boat"), f.accepted(otherRepo, "other")
		for _, c := range []struct {
			seat *seat
			sees []*job
		}{{ana, []*job{rocket, boat}}, {bob, []*job{rocket}}, {eve, []*job{other}}} {
			page := c.seat.pending()
			if len(page.Items) != len(c.sees) {
				t.Errorf("%s sees %d requests, not %d", c.seat.name, len(page.Items), len(c.sees))
			}
			for _, j := range c.sees {
				found := false
				for _, item := range page.Items {
					found = found || item.Key == j.pub
				}
				if !found {
					t.Errorf("%s does not see %s", c.seat.name, j.req.Project)
				}
			}
		}

		// To Eve a request of another project is one that there is not, down to
		// the last byte, whatever she says about it.
		ghost := f.job(rocketRepo, "rocket")
		wrong := *rocket
		wrong.dig[0] ^= 1
		for _, verb := range []string{wire.VerbOpen, wire.VerbAnswer, wire.VerbDecline} {
			raw := func(j *job) string {
				t.Helper()
				var m any
				switch verb {
				case wire.VerbOpen:
					m = f.eve.openMessage(t, j)
				case wire.VerbAnswer:
					m = f.eve.answerMessage(t, j, 1)
				case wire.VerbDecline:
					m = f.eve.declineMessage(t, j, 1, "")
				}
				data, err := json.Marshal(m)
				if err != nil {
					t.Fatal(err)
				}
				reply, err := eve.nc.Request(wire.DeskSubject(f.eve.key(), verb), data, 10*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				return string(reply.Data)
			}
			unknown := raw(ghost)
			if !strings.Contains(unknown, `"code":"unknown","why":"no such request on this relay"`) {
				t.Errorf("%s of a request that there is not: %s", verb, unknown)
			}
			for what, j := range map[string]*job{"another project's": rocket, "another project's, by a wrong digest": &wrong} {
				if got := raw(j); got != unknown {
					t.Errorf("%s of %s request:\n%s, not\n%s", verb, what, got, unknown)
				}
			}
			if verb != wire.VerbOpen {
				continue
			}
			must(t, eve.say(verb, f.eve.openMessage(t, other))) // the control
		}
		if r := eve.say(wire.VerbPending, wire.PendingQuery{Known: []string{rocket.pub, ghost.pub}}); len(r.Page.Ended) != 0 {
			t.Errorf("Eve is told of the end of %+v", r.Page.Ended)
		}
		if s := must(t, rocket.state()); s.State != "pending" || s.Attempt != 1 {
			t.Errorf("Eve has changed it: %+v", s)
		}
		// Nor does an answer with somebody else's name on it count.
		m := f.eve.answerMessage(t, rocket, 1)
		refused(t, ana.say(wire.VerbAnswer, m), wire.RefusedSignature, "signature does not verify")
		m, r := ana.answer(rocket, 1)
		must(t, r)
		hint(t, rocket.hints, answerOf(m))
	})
}

func TestAResponderIsHeldToItsOwnTwoKeys(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	ana, j := f.sit(f.ana), f.accepted(rocketRepo, "rocket")
	for _, c := range []struct {
		name   string
		verb   string
		msg    any
		code   string
		reason string
	}{
		{"a challenge for another's connection", wire.VerbOpen,
			wire.OpenMessage{Key: j.pub, Challenge: sign(t, &wire.Challenge{Key: f.ana.signer(), Connect: f.bob.key(), Digest: j.dig, Nonce: make([]byte, 16)}, f.ana.sign)},
			wire.RefusedNotYours, "the challenge names another connecting key"},
		{"a challenge signed by another", wire.VerbOpen,
			wire.OpenMessage{Key: j.pub, Challenge: sign(t, &wire.Challenge{Key: f.bob.signer(), Connect: f.ana.key(), Digest: j.dig, Nonce: make([]byte, 16)}, f.bob.sign)},
			wire.RefusedSignature, ""},
		{"a challenge where an answer belongs", wire.VerbAnswer,
			wire.AnswerMessage{Key: j.pub, Answer: f.ana.openMessage(t, j).Challenge},
			wire.RefusedMalformed, "another kind"},
		{"another code than was signed", wire.VerbAnswer, func() any {
			m := f.ana.answerMessage(t, j, 1)
			m.Sealed.Ciphertext[0] ^= 1
			return m
		}(), wire.RefusedMalformed, "the sealed code is not the one that was signed"},
		{"no code", wire.VerbAnswer, func() any {
			m := f.ana.answerMessage(t, j, 1)
			m.Sealed = nil
			return m
		}(), wire.RefusedMalformed, "the sealed code is not the one that was signed"},
		{"an answer to another kind of request", wire.VerbAnswer, wire.AnswerMessage{Key: j.pub, Answer: sign(t,
			&wire.Answer{Key: f.ana.signer(), Digest: j.dig, Attempt: 1, Ask: wire.AskApproval, Decision: wire.DecisionYes, At: 1, Receipt: make([]byte, 64)}, f.ana.sign)},
			wire.RefusedMalformed, "another kind of request"},
		{"a yes where a code is wanted", wire.VerbAnswer, wire.AnswerMessage{Key: j.pub, Answer: sign(t,
			&wire.Answer{Key: f.ana.signer(), Digest: j.dig, Attempt: 1, Ask: wire.AskCode, Decision: wire.DecisionYes}, f.ana.sign)},
			wire.RefusedNotYours, "not possible for a request of this kind"},
		{"an attempt that is not open", wire.VerbAnswer, f.ana.answerMessage(t, j, 2), wire.RefusedAttempt, "another attempt"},
		{"a key that is none", wire.VerbAnswer, func() any {
			m := f.ana.answerMessage(t, j, 1)
			m.Key = "rocket"
			return m
		}(), wire.RefusedMalformed, "not a connecting key"},
		{"a message that there is not", "dance", wire.PendingQuery{}, wire.RefusedMalformed, "no such message of a responder"},
		{"too many asked after", wire.VerbPending, wire.PendingQuery{Known: make([]string, 65)}, wire.RefusedMalformed, "more than 64"},
		{"a key that is none, asked after", wire.VerbPending, wire.PendingQuery{Known: []string{">"}}, wire.RefusedMalformed, "not a request's key"},
	} {
		t.Run(c.name, func(t *testing.T) { refused(t, ana.say(c.verb, c.msg), c.code, c.reason) })
	}
	// The control.
	must(t, ana.say(wire.VerbOpen, f.ana.openMessage(t, j)))
	refused(t, ana.say(wire.VerbOpen, f.ana.openMessage(t, j)), wire.RefusedTooSoon, "less than 5s ago")
	_, r := ana.answer(j, 1)
	must(t, r)
}

// file is a relay's file that can be changed under it.
type file struct {
	mu   sync.Mutex
	text string
}

func (c *file) set(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = text
}

func (c *file) read() (*Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return ParseConfig([]byte(c.text), "/")
}

// startReloadable starts an embedded relay whose file is the one returned.
func startReloadable(t testing.TB) (*fixture, *file) {
	t.Helper()
	f := newFixture(t)
	c := &file{text: f.configText(t.TempDir(), onLoopback)}
	f.start(c.text, Options{Reread: c.read})
	return f, c
}

func TestAResponderThatIsRemovedIsOutAtOnce(t *testing.T) {
	t.Parallel()
	f, c := startReloadable(t)
	opt, gone := closed()
	bob := f.sit(f.bob, opt)
	stays := make(chan struct{})
	ana := f.sit(f.ana, nats.ClosedHandler(func(*nats.Conn) { close(stays) }))
	j := f.accepted(rocketRepo, "rocket")
	bob.pending()
	if s := must(t, j.state()); s.Enrolled != 2 {
		t.Errorf("%d are enrolled", s.Enrolled)
	}

	c.set(strings.Replace(c.text, "      - "+f.bob.yaml()+"\n", "", 1))
	if err := f.relay.Reload(); err != nil {
		t.Fatal(err)
	}
	waitClosed(t, gone, 10*time.Second)
	if nc, err := f.connect(f.bob.connect, ""); err == nil {
		nc.Close()
		t.Error("let in again")
	}
	f.log.line(t, "what=connect", f.bob.key(), "outcome=refused", "no such connecting key is enrolled")
	if s := must(t, j.state()); s.Enrolled != 1 {
		t.Errorf("%d are enrolled", s.Enrolled)
	}
	// Also where its connection outlives it by a moment.
	data, err := json.Marshal(f.bob.answerMessage(t, j, 1))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.relay.deskMessage(t.Context(), f.bob.key(), wire.VerbAnswer, data)
	if r := f.relay.refusal(err); r.Code != wire.RefusedNotYours || !strings.Contains(r.Why, "not enrolled here") {
		t.Errorf("%v", r)
	}
	// Whom nothing concerns is left alone.
	select {
	case <-stays:
		t.Error("Ana's connection was closed too")
	default:
	}
	_, r := ana.answer(j, 1)
	must(t, r)
}

func TestAResponderThatMovesToAnotherProjectSeesThatOne(t *testing.T) {
	t.Parallel()
	f, c := startReloadable(t)
	opt, gone := closed()
	eve := f.sit(f.eve, opt)
	rocket, other := f.accepted(rocketRepo, "rocket"), f.accepted(otherRepo, "other")
	if p := eve.pending(); len(p.Items) != 1 || p.Items[0].Key != other.pub {
		t.Fatalf("%+v", p)
	}
	text := strings.Replace(c.text, f.eve.yaml(), "EVE", 1)
	text = strings.Replace(text, f.bob.yaml(), f.eve.yaml(), 1)
	c.set(strings.Replace(text, "EVE", f.bob.yaml(), 1))
	if err := f.relay.Reload(); err != nil {
		t.Fatal(err)
	}
	// What she may listen to was granted when she connected.
	waitClosed(t, gone, 10*time.Second)
	eve = f.sit(f.eve)
	told := listen(t, eve.nc, wire.ProjectSubject("rocket"))
	if p := eve.pending(); len(p.Items) != 1 || p.Items[0].Key != rocket.pub {
		t.Errorf("%+v", p)
	}
	refused(t, eve.say(wire.VerbOpen, f.eve.openMessage(t, other)), wire.RefusedUnknown)
	must(t, eve.say(wire.VerbOpen, f.eve.openMessage(t, rocket)))
	hint(t, told, changeOf(rocket))
}

func TestWaitingRequestsComeInPages(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	ana := f.sit(f.ana)
	want := map[string]bool{}
	for range 12 {
		j := f.job(rocketRepo, "rocket")
		j.ask("rocket", func(q *wire.Request) {
			q.Message = strings.Repeat("<", wire.MaxText) // six bytes each in JSON
		})
		j.connect()
		must(t, j.send(j.nc))
		j.nc.Close()
		want[j.pub] = true
	}
	after, pages := "", 0
	for more := true; more; pages++ {
		r := ana.say(wire.VerbPending, wire.PendingQuery{After: after})
		if r.Page == nil || len(r.Page.Items) == 0 {
			t.Fatalf("an empty page after %q: %+v", after, r)
		}
		for _, item := range r.Page.Items {
			if item.Key <= after {
				t.Errorf("out of order: %s after %s", item.Key, after)
			}
			after = item.Key
			if !want[item.Key] {
				t.Errorf("twice, or none of them: %s", item.Key)
			}
			delete(want, item.Key)
		}
		more = r.Page.More
	}
	if len(want) != 0 || pages < 2 {
		t.Errorf("%d requests are missing after %d pages", len(want), pages)
	}
}

// A page must fit in a message whatever it holds: one that does not never comes,
// and a responder that misses its pages sees nothing.
func TestAPageFitsInAMessage(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	ana := f.sit(f.ana)
	var known []string
	for i := range 64 {
		j := f.runOf(fmt.Sprint(1000+i), "1")
		must(t, j.send(j.nc))
		r := ana.say(wire.VerbDecline, f.ana.declineMessage(t, j, 1, strings.Repeat("<", wire.MaxText)))
		if s := must(t, r); s.State != "declined" {
			t.Fatalf("%+v", s)
		}
		known = append(known, j.pub)
		j.nc.Close()
	}
	open := f.accepted(rocketRepo, "rocket")
	seen := map[string]bool{}
	for range len(known) {
		data, err := json.Marshal(wire.PendingQuery{Known: known})
		if err != nil {
			t.Fatal(err)
		}
		m, err := ana.nc.Request(wire.DeskSubject(f.ana.key(), wire.VerbPending), data, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Data) > wire.MaxMessage {
			t.Fatalf("a page of %d bytes", len(m.Data))
		}
		var r wire.Reply
		if err := wire.Decode(m.Data, wire.MaxMessage, &r); err != nil {
			t.Fatal(err)
		}
		if len(r.Page.Items) != 1 || r.Page.Items[0].Key != open.pub {
			t.Fatalf("what waits is not in it: %+v", r.Page.Items)
		}
		for _, e := range r.Page.Ended {
			if e.State.State != "declined" || e.State.By != "Ana" {
				t.Errorf("%+v", e.State)
			}
			seen[e.Key] = true
		}
		var left []string
		for _, k := range known {
			if !seen[k] {
				left = append(left, k)
			}
		}
		if known = left; len(known) == 0 {
			return
		}
	}
	t.Errorf("%d ends were never told", len(known))
}

func TestHowARequestEndedIsToldToWhoStillShowsIt(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	ana := f.sit(f.ana)
	open, done, cancelled := f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket")
	m, r := ana.answer(done, 1)
	must(t, r)
	must(t, done.got(1, m.Sealed.Hash()))
	must(t, done.done(1))
	must(t, cancelled.cancel())
	p := ana.say(wire.VerbPending, wire.PendingQuery{Known: []string{open.pub, done.pub, cancelled.pub}}).Page
	if len(p.Items) != 1 || p.Items[0].Key != open.pub || len(p.Ended) != 2 {
		t.Fatalf("%+v", p)
	}
	for _, e := range p.Ended {
		want := map[string]string{done.pub: "done", cancelled.pub: "cancelled"}[e.Key]
		if e.State.State != want {
			t.Errorf("%s, not %s", e.State.State, want)
		}
	}
}
