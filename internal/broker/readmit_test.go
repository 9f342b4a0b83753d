package broker

// A job that comes back: by the key of its open request, and by nothing less.

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/wire"
)

// comeBack connects as the job of an open request does, without an ID token.
func (j *job) comeBack() {
	j.f.t.Helper()
	j.nc = j.f.mustConnect(j.key, "")
	j.hints = listen(j.f.t, j.nc, wire.HintSubject(j.pub))
}

func TestAJobComesBackByTheKeyOfItsOpenRequestAndNobodyElseDoes(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		ana := f.sit(f.ana)
		j, other := f.accepted(rocketRepo, "rocket"), f.accepted(boatRepo, "boat")
		over := f.accepted(rocketRepo, "rocket")
		must(t, over.cancel())
		stranger := newKey(t)
		turned := f.job(otherRepo, "rocket")
		turned.connect()
		refused(t, turned.send(turned.nc), wire.RefusedPolicy)
		now := time.Now()
		word := func(as *job, relay string, at time.Time) string {
			t.Helper()
			s, err := wire.SignConnect(as.key, relay, at)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		good := word(j, relayName, now)
		for name, c := range map[string]struct {
			as    *job
			shown string
			why   string // in the log
		}{
			"for another relay":            {j, word(j, "hostile.example", now), "the client means the relay hostile.example, and this is " + relayName},
			"of long ago":                  {j, word(j, relayName, now.Add(-time.Hour)), "ago that it connects, at most 10m0s are allowed"},
			"of a time to come":            {j, word(j, relayName, now.Add(time.Hour)), "from now, at most 10m0s are allowed"},
			"of another job's":             {j, word(other, relayName, now), "signature does not verify"},
			"of a responder's":             {j, hello(t, f.ana.connect), "signature does not verify"},
			"another signed thing of its":  {j, string(sign(t, &wire.Cancel{Key: j.pub, Digest: j.dig}, j.key).Encode()), "another kind"},
			"its request, signed":          {j, string(j.env.Encode()), "another kind"},
			"no envelope":                  {j, `{"v":1}`, "incomplete envelope"},
			"of a request that has ended":  {over, word(over, relayName, now), "no request is open under it; a job shows its ID token"},
			"of a job that was turned off": {turned, word(turned, relayName, now), "no request is open under it; a job shows its ID token"},
		} {
			e := f.knock(f.address())
			got := e.say(map[string]any{"verbose": false, "protocol": 1, "nkey": c.as.pub, "sig": e.signature(c.as.key), "auth_token": c.shown})
			if !strings.Contains(got, "Authorization Violation") {
				t.Errorf("%s: %s", name, got)
			}
			f.log.line(t, "what=connect", c.as.pub, "outcome=refused", c.why)
		}
		// Its word alone proves nothing: whoever has seen it can show it.
		e := f.knock(f.address())
		if got := e.say(map[string]any{"verbose": false, "protocol": 1, "nkey": j.pub, "sig": e.signature(stranger), "auth_token": good}); !strings.Contains(got, "Authorization Violation") {
			t.Errorf("the nonce signed by a stranger: %s", got)
		}
		f.log.line(t, "what=connect", j.pub, "outcome=refused", "the nonce is not signed by the key that was shown")
		// Whoever comes back so may do what a job may, and what it is asked is its own.
		fails := make(errs, 8)
		j.nc.Close()
		j.nc = f.mustConnect(j.key, "", fails.option())
		j.hints = listen(t, j.nc, wire.HintSubject(j.pub))
		for _, subject := range []string{wire.JobSubject(other.pub, wire.VerbState), wire.DeskSubject(f.ana.key(), wire.VerbPending)} {
			if err := j.nc.Publish(subject, nil); err != nil {
				t.Fatal(err)
			}
			fails.violation(t, subject)
		}
		if s := must(t, j.state()); s.State != "pending" {
			t.Errorf("it is %s", s.State)
		}
		m, r := ana.answer(j, 1)
		must(t, r)
		hint(t, j.hints, answerOf(m))
		must(t, j.got(1, m.Sealed.Hash()))
		must(t, j.done(1))
		// And the one whose request has ended hears how, by its ID token.
		if nc, err := f.connect(j.key, ""); !errors.Is(err, nats.ErrAuthorization) {
			if err == nil {
				nc.Close()
			}
			t.Errorf("the key of a request that is done: %v", err)
		}
		j.connect()
		if s := must(t, j.state()); s.State != "done" {
			t.Errorf("it is %s", s.State)
		}
	})
}

// A relay that restarts while an issuer is down has nobody's keys, and those who
// wait need none: the wait goes on, and can be answered once the issuer is back.
func TestAWaitingJobComesBackThoughItsIssuerIsDown(t *testing.T) {
	t.Parallel()
	f := newFrailFixture(t)
	text := f.configText(t.TempDir(), onLoopback)
	f.start(text, Options{})
	j := f.accepted(rocketRepo, "rocket")
	f.relay.Close()
	f.issuer.Break(devissuer.Down)
	f.start(text, Options{})
	// The control: nobody's token can be verified now.
	late := f.job(rocketRepo, "rocket")
	if nc, err := f.connect(late.key, late.token); !errors.Is(err, nats.ErrAuthorization) {
		if err == nil {
			nc.Close()
		}
		t.Fatalf("a token was verified without its issuer's keys: %v", err)
	}
	j.comeBack()
	if s := must(t, j.state()); s.State != "pending" {
		t.Errorf("it is %s", s.State)
	}
	ana := f.sit(f.ana)
	m, r := ana.answer(j, 1)
	must(t, r)
	hint(t, j.hints, answerOf(m))
	must(t, j.got(1, m.Sealed.Hash()))
}
