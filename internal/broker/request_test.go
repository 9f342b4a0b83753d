package broker

// What is checked where a job asks, and what it is told.

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

// signRaw signs any body at all, as wire.Sign would not.
func signRaw(t testing.TB, kind wire.Kind, body any, key nkeys.KeyPair) wire.Envelope {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	sig, err := key.Sign(append([]byte("\xFFcfa/v1/"+string(kind)+"\x00"), sum[:]...))
	if err != nil {
		t.Fatal(err)
	}
	return wire.Envelope{V: wire.Version, Kind: kind, Body: data, Sig: sig}
}

func TestARefusedRequestSaysWhatWasFound(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(f.configText(t.TempDir(), onLoopback+"limits: {wait: 1h}\n"), Options{})
	ask := func(change func(*wire.Request)) func(*job) { return func(j *job) { j.ask("rocket", change) } }
	for _, c := range []struct {
		name  string
		repo  string
		set   func(*job)
		code  string
		parts []string
	}{
		{"a bad signature", rocketRepo, func(j *job) { j.env.Sig[3] ^= 1 }, wire.RefusedSignature, []string{"not one that this key signed", "signature does not verify"}},
		{"another body than was signed", rocketRepo, func(j *job) { j.env.Body = bytes.Replace(j.env.Body, []byte("npm"), []byte("gem"), 1) }, wire.RefusedSignature, []string{"signature does not verify"}},
		{"another's request", rocketRepo, func(j *job) { j.env = j.f.job(rocketRepo, "rocket").env }, wire.RefusedSignature, []string{"signature does not verify"}},
		{"another's key in the body", rocketRepo, func(j *job) {
			q := j.req
			q.Key = j.f.ana.key()
			j.env = signRaw(j.f.t, wire.KindRequest, &q, j.key)
		}, wire.RefusedSignature, []string{"the body names another signer"}},
		{"another kind", rocketRepo, func(j *job) {
			j.env = sign(j.f.t, &wire.Cancel{Key: j.pub, Digest: j.dig}, j.key)
		}, wire.RefusedMalformed, []string{`an envelope of another kind where "request" was expected`}},
		{"version 2", rocketRepo, func(j *job) { j.env.V = 2 }, wire.RefusedVersion, []string{"of version 2 of the protocol, and this relay speaks version 1", "upgrade the relay"}},
		{"version 0", rocketRepo, func(j *job) { j.env.V = 0 }, wire.RefusedVersion, []string{"of version 0 of the protocol, and this relay speaks version 1", "upgrade the program that sent it"}},
		{"another relay", rocketRepo, ask(func(q *wire.Request) { q.Relay = "other.test" }), wire.RefusedToken, []string{`the request is for the relay "other.test", and this is "relay.test"`, "set relay-name"}},

		{"another commit", rocketRepo, ask(func(q *wire.Request) { q.Proof["sha"] = strings.Repeat("0", 40) }), wire.RefusedToken, []string{"the ID token is of another job than the request: its sha is"}},
		{"another run", rocketRepo, func(j *job) {
			j.token = j.f.token(rocketRepo, wire.Audience(relayName, j.pub), map[string]any{"run_id": "999"})
		}, wire.RefusedToken, []string{`its run_id is "999"`}},
		{"another repository's token", rocketRepo, func(j *job) {
			j.token = j.f.token(boatRepo, wire.Audience(relayName, j.pub), nil)
		}, wire.RefusedToken, []string{"its repository_id is"}},
		{"a proof that leaves something out", rocketRepo, ask(func(q *wire.Request) { delete(q.Proof, "run_attempt") }), wire.RefusedToken, []string{"the request does not name it"}},
		{"a proof of something more", rocketRepo, ask(func(q *wire.Request) { q.Proof["actor"] = "octocat" }), wire.RefusedToken, []string{`the request names the claim "actor"`}},

		{"no token", rocketRepo, func(j *job) { j.token = "" }, wire.RefusedToken, []string{"there is no ID token"}},
		{"a token of another key", rocketRepo, func(j *job) { j.token = j.f.job(rocketRepo, "rocket").token }, wire.RefusedToken, []string{"a token is worth something only with the key that it names"}},
		{"an expired token", rocketRepo, func(j *job) {
			now := time.Now().Unix()
			j.token = j.f.token(rocketRepo, wire.Audience(relayName, j.pub), map[string]any{"iat": now - 400, "exp": now - 10})
		}, wire.RefusedToken, []string{"the ID token expired", "fetch a fresh ID token"}},
		{"a token that is too long", rocketRepo, func(j *job) { j.token += strings.Repeat("x", wire.MaxToken) }, wire.RefusedToken, []string{"at most 16384 are read"}},

		{"no rule fits, of a known owner", "example/other", func(*job) {}, wire.RefusedPolicy, []string{"no rule of the project \"rocket\" fits this job: rule 1 (line 7): repository_id is", "the rule wants", "change a rule under projects.rocket.ci in the relay's file, or add one"}},
		{"a danger that no rule allows", rocketRepo, func(j *job) {
			j.token = j.f.token(rocketRepo, wire.Audience(relayName, j.pub), map[string]any{"event_name": "pull_request_target"})
		}, wire.RefusedPolicy, []string{"pull_request_target", "add `allow: [pull_request_target]`"}},

		{"a deadline beyond the relay's limit", rocketRepo, ask(func(q *wire.Request) { q.Deadline = q.Made + 7200 }), wire.RefusedLimit, []string{"longer than this relay allows (1h0m0s)", "set a timeout of at most 1h0m0s"}},
		{"a deadline beyond the protocol's limit", rocketRepo, func(j *job) {
			q := j.req
			q.Deadline = q.Made + 7*3600
			j.env = signRaw(j.f.t, wire.KindRequest, &q, j.key)
		}, wire.RefusedMalformed, []string{"deadline is not within 6h0m0s"}},
		{"a deadline that has passed", rocketRepo, ask(func(q *wire.Request) { q.Made -= 600; q.Deadline = q.Made + 590 }), wire.RefusedLimit, []string{"the request's deadline has passed", "is the job's clock right?"}},
		{"made long ago", rocketRepo, ask(func(q *wire.Request) { q.Made -= 1200 }), wire.RefusedLimit, []string{"was not made just now"}},
		{"made in the future", rocketRepo, ask(func(q *wire.Request) { q.Made += 600 }), wire.RefusedLimit, []string{"was not made just now"}},

		{"answers of nobody who is enrolled", rocketRepo, ask(func(q *wire.Request) { q.Responders = []string{f.eve.signer()} }), wire.RefusedPolicy, []string{"too few of the responders that this request accepts are enrolled", "projects.rocket.responders"}},
		{"two people of whom one is enrolled", rocketRepo, ask(func(q *wire.Request) { q.Responders, q.Approvals = []string{f.ana.signer(), f.eve.signer()}, 2 }), wire.RefusedPolicy, []string{"too few of the responders"}},

		{"a message that is too long", rocketRepo, func(j *job) {
			q := j.req
			q.Message = strings.Repeat("m", wire.MaxText+1)
			j.env = signRaw(j.f.t, wire.KindRequest, &q, j.key)
		}, wire.RefusedMalformed, []string{"message is longer than 1000 bytes"}},
		{"a body that is too long", rocketRepo, func(j *job) {
			q := j.req
			q.Message = strings.Repeat("m", wire.MaxBody)
			j.env = signRaw(j.f.t, wire.KindRequest, &q, j.key)
		}, wire.RefusedMalformed, []string{"at most 11264 are allowed"}},
		{"a project that is no name", rocketRepo, func(j *job) {
			q := j.req
			q.Project = "rocket.>"
			j.env = signRaw(j.f.t, wire.KindRequest, &q, j.key)
		}, wire.RefusedMalformed, []string{"not a project name"}},
		{"approvals without pinned keys", rocketRepo, func(j *job) {
			q := j.req
			q.Approvals = 2
			j.env = signRaw(j.f.t, wire.KindRequest, &q, j.key)
		}, wire.RefusedMalformed, []string{"approvals need pinned responders"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			j := f.job(c.repo, "rocket")
			j.connect()
			c.set(j)
			r := j.send(j.nc)
			refused(t, r, c.code, c.parts...)
			if r.State != nil || r.Page != nil {
				t.Errorf("beside the refusal: %+v", r)
			}
			f.log.line(t, "what=request", "outcome=refused", "code="+c.code, j.pub)
			if _, open := f.relay.store.recent(j.pub); open {
				t.Error("it is recorded all the same")
			}
		})
	}
	// The control.
	f.accepted(rocketRepo, "rocket")
}

func TestAMessageThatReadsInTwoWaysIsRefused(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	j := f.job(rocketRepo, "rocket")
	j.connect()
	good, err := json.Marshal(wire.RequestMessage{Request: j.env, Token: j.token})
	if err != nil {
		t.Fatal(err)
	}
	say := func(verb, data string) wire.Reply {
		t.Helper()
		m, err := j.nc.Request(wire.JobSubject(j.pub, verb), []byte(data), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var r wire.Reply
		if err := wire.Decode(m.Data, wire.MaxMessage, &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	tail := func(s string) string { return strings.TrimSuffix(string(good), "}") + s }
	for _, c := range []struct{ name, verb, data, why string }{
		{"a field twice", wire.VerbRequest, tail(`,"token":"x"}`), "a field stands there twice"},
		{"a field in other letters", wire.VerbRequest, tail(`,"TOKEN":"x"}`), "a field name is not lower-case ASCII"},
		{"an unknown field", wire.VerbRequest, tail(`,"x":1}`), "a field that this version does not know"},
		{"more than one object", wire.VerbRequest, string(good) + "{}", "something stands after the object"},
		{"null", wire.VerbRequest, `{"request":null,"token":""}`, "null is not a value here"},
		{"no object", wire.VerbState, `[]`, "not a JSON object"},
		{"nothing", wire.VerbGot, ``, "not JSON"},
		{"an unknown message", "dance", `{}`, "this relay knows no such message of a job"},
		{"a responder's message", wire.VerbAnswer, `{}`, "this relay knows no such message of a job"},
	} {
		t.Run(c.name, func(t *testing.T) { refused(t, say(c.verb, c.data), wire.RefusedMalformed, c.why) })
	}
	refused(t, say(wire.VerbState, `{"rev":0}`), wire.RefusedUnknown, "no such request on this relay")
	must(t, say(wire.VerbRequest, string(good)))
}

// Whether a project exists, and what its rules say, is nobody's business but its
// own.
func TestAStrangerCannotTellAProjectFromNone(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	raw := func(repo, project string) string {
		t.Helper()
		j := f.job(repo, project)
		j.connect()
		data, err := json.Marshal(wire.RequestMessage{Request: j.env, Token: j.token})
		if err != nil {
			t.Fatal(err)
		}
		m, err := j.nc.Request(wire.JobSubject(j.pub, wire.VerbRequest), data, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return string(m.Data)
	}
	none := raw(otherRepo, "nowhere")
	if !strings.Contains(none, `"code":"policy"`) || !strings.Contains(none, "there is no such project here, or none of its rules fits this job") {
		t.Error(none)
	}
	for name, got := range map[string]string{
		"a project of others":                  raw(otherRepo, "rocket"),
		"no project, from a known owner":       raw(rocketRepo, "nowhere"),
		"another owner's, from a known owner":  raw(rocketRepo, "other"),
		"no project, from its would-be rulers": raw(boatRepo, "nowhere"),
	} {
		if got != none {
			t.Errorf("%s:\n%s, not\n%s", name, got, none)
		}
	}
	// The control: an owner's own job is told more.
	if own := raw(boatRepo, "rocket"); own == none || !strings.Contains(own, "repository_id is") {
		t.Error(own)
	}
	// The log has it all.
	f.log.line(t, "what=request", "code=policy", `there is no project \"nowhere\"`)
	f.log.line(t, "what=request", "code=policy", `no rule of the project \"rocket\" fits this job`, "repository_owner_id is")
}

func TestOneKeyIsOneRequest(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		ana := f.sit(f.ana)
		told := listen(t, ana.nc, wire.ProjectSubject("rocket"))
		j := f.accepted(rocketRepo, "rocket")
		hint(t, told, changeOf(j))
		first := must(t, j.state())

		// The same again is no other, also spelt in another way and with another
		// token.
		if s := must(t, j.send(j.nc)); s.Rev != first.Rev {
			t.Errorf("the same request again: revision %d after %d", s.Rev, first.Rev)
		}
		j.token = f.token(rocketRepo, wire.Audience(relayName, j.pub), nil)
		respelt := fmt.Sprintf("{ \"token\" :%q,\n\t\"request\": {\"sig\":%s,\"body\":%s , \"kind\":\"request\",\"v\":1 } }", j.token, quoted(t, j.env.Sig), quoted(t, j.env.Body))
		m, err := j.nc.Request(wire.JobSubject(j.pub, wire.VerbRequest), []byte(respelt), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var r wire.Reply
		if err := wire.Decode(m.Data, wire.MaxMessage, &r); err != nil {
			t.Fatal(err)
		}
		if s := must(t, r); s.Rev != first.Rev || s.State != "pending" {
			t.Errorf("the same request in other words: %+v", s)
		}

		// Another one under the same key is refused, before and after the end.
		same := j.env
		j.ask("rocket", nil)
		refused(t, j.send(j.nc), wire.RefusedKeyUsed, "this key has already made another request", "make a new key")
		if s := must(t, j.state()); s.Rev != first.Rev {
			t.Errorf("%+v", s)
		}
		dig, err := wire.DigestOf(same, j.pub)
		if err != nil {
			t.Fatal(err)
		}
		other := j.env
		j.env, j.dig = same, dig
		must(t, j.cancel())
		j.env = other
		refused(t, j.send(j.nc), wire.RefusedKeyUsed)
		// And the first, which is over, stays over: that is the replay
		// protection.
		j.env = same
		if s := must(t, j.send(j.nc)); s.State != "cancelled" {
			t.Errorf("asked again, it is %s", s.State)
		}
		if p := ana.pending(); len(p.Items) != 0 {
			t.Errorf("%+v", p.Items)
		}
	})
}

// everything is all that has come, in one text.
func everything(t testing.TB, sub *nats.Subscription) string {
	t.Helper()
	var b strings.Builder
	for n, _, err := sub.Pending(); n > 0; n-- {
		if err != nil {
			t.Fatal(err)
		}
		m, err := sub.NextMsg(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(m.Data)
	}
	return b.String()
}

func quoted(t testing.TB, b wire.Bytes) string {
	t.Helper()
	data, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// A CI that cannot name the job's key in its token makes tokens that are good
// for whoever has one, so that the relay lets each be used with one key only.
func TestAnUnboundTokenWorksWithOneKeyOnly(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	c, err := ParseConfig([]byte(f.configText(t.TempDir(), onLoopback)), "/")
	if err != nil {
		t.Fatal(err)
	}
	c.issuers[0].Provider = ci.Find("gitlab")
	claims := devissuer.Claims("gitlab", nil)
	rules := map[string][]trust.Rule{}
	for name, p := range c.Projects {
		for _, r := range p.CI {
			rules[name] = append(rules[name], trust.Rule{Provider: r.Provider, Allow: []string{"unbound"}, Claims: map[string][]trust.Value{
				"project_id": {{Text: claims["project_id"].(string)}}, "namespace_id": {{Text: claims["namespace_id"].(string)}},
			}})
		}
	}
	if c.policy, err = trust.Compile(rules, c.issuers); err != nil {
		t.Fatal(err)
	}
	var ahead atomic.Int64 // of the relay's clock
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	f.startConfig(c, Options{Now: now})

	mint := func() string {
		token, err := f.issuer.Mint(devissuer.Claims("gitlab", map[string]any{
			"aud": wire.UnboundAudience(relayName), "exp": time.Now().Add(24 * time.Hour).Unix(),
		}))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	token := mint()
	job := func() *job {
		j := f.job(rocketRepo, "rocket")
		j.token = token
		proof := wire.Proof{"iss": f.issuer.URL()}
		for _, name := range ci.Find("gitlab").Proof {
			proof[name] = claims[name].(string)
		}
		j.ask("rocket", func(q *wire.Request) {
			q.Proof, q.Made, q.Deadline = proof, now().Unix(), now().Add(10*time.Minute).Unix()
		})
		j.connect()
		return j
	}
	first, second := job(), job()
	must(t, first.send(first.nc))
	refused(t, second.send(second.nc), wire.RefusedToken, "this ID token was used with another key", "ask with a new token")
	must(t, first.send(first.nc)) // its own key may use it again
	second.token = mint()
	must(t, second.send(second.nc))

	// What a responder is shown, as proof that the job runs, is the job's too.
	shown := mint()
	alive := wire.AliveMessage{Token: shown, Alive: sign(t, &wire.Alive{
		Key: first.pub, Digest: first.dig, Attempt: 1, Reason: wire.ReasonFirst, Nonce: make([]byte, 16), Connect: f.ana.key(), Responder: f.ana.signer(),
	}, first.key)}
	must(t, request(t, first.nc, wire.JobSubject(first.pub, wire.VerbAlive), alive))
	thief := job()
	thief.token = shown
	refused(t, thief.send(thief.nc), wire.RefusedToken, "this ID token was used with another key")

	// It is remembered for as long as it is good...
	ahead.Store(int64(24*time.Hour - time.Minute))
	third := job()
	refused(t, third.send(third.nc), wire.RefusedToken, "this ID token was used with another key", "")
	// ...and then it is good for nobody.
	ahead.Store(int64(24*time.Hour + time.Second))
	refused(t, third.send(third.nc), wire.RefusedToken, "expired", "")
}

func TestAnAcceptedRequestIsLoggedOnceWithWhoAndWhichRule(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	j := f.accepted(rocketRepo, "rocket")
	must(t, j.send(j.nc))
	line := f.log.line(t, "what=request", "outcome=accepted", j.pub)
	claims := claimsOf(rocketRepo)
	for _, part := range []string{"digest=" + j.dig.String(), "project=rocket", `rule="rocket/ci[0] line 7"`, "repository=example/rocket", "run=" + claims["run_id"].(string), "ref=refs/heads/main", "issuer=" + f.issuer.URL()} {
		if !strings.Contains(line, part) {
			t.Errorf("the log's line does not say %s: %s", part, line)
		}
	}
	if n := strings.Count(f.log.String(), "outcome=accepted"); n != 1 {
		t.Errorf("%d decisions", n)
	}
}

func TestAJobsProofOfLifeGoesToWhoAskedForIt(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	ana, bob, eve := f.sit(f.ana), f.sit(f.bob), f.sit(f.eve)
	j := f.accepted(rocketRepo, "rocket")
	challenge := f.ana.openMessage(t, j)
	must(t, ana.say(wire.VerbOpen, challenge))
	h := hint(t, j.hints, func(h wire.Hint) bool { return h.Hint == wire.HintChallenge })
	ch, err := wire.Open[wire.Challenge](*h.Envelope, f.ana.signer())
	if err != nil || h.Key != j.pub {
		t.Fatalf("%v %+v", err, h)
	}
	alive := func(connect, signer string, nonce []byte) wire.AliveMessage {
		return wire.AliveMessage{Token: j.token, Alive: sign(t, &wire.Alive{Key: j.pub, Digest: j.dig, Attempt: 1, Reason: wire.ReasonFirst, Nonce: nonce, Connect: connect, Responder: signer}, j.key)}
	}
	say := func(m wire.AliveMessage) wire.Reply {
		t.Helper()
		return request(t, j.nc, wire.JobSubject(j.pub, wire.VerbAlive), m)
	}
	// To whom the project is not, and to halves of two people, nothing goes: it
	// holds an ID token.
	refused(t, say(alive(f.eve.key(), f.eve.signer(), ch.Nonce)), wire.RefusedNotYours, "no responder of this project has asked for that")
	refused(t, say(alive(f.bob.key(), f.ana.signer(), ch.Nonce)), wire.RefusedNotYours)
	refused(t, say(alive(newHuman(t, "x").key(), f.ana.signer(), ch.Nonce)), wire.RefusedNotYours)
	bad := alive(ch.Connect, ch.Key, ch.Nonce)
	bad.Alive.Sig[0] ^= 1
	refused(t, say(bad), wire.RefusedSignature)
	long := alive(ch.Connect, ch.Key, ch.Nonce)
	long.Token = strings.Repeat("x", wire.MaxToken+1)
	refused(t, say(long), wire.RefusedMalformed, "too long")
	wrong := *j
	wrong.dig[0] ^= 1
	refused(t, say(wire.AliveMessage{Alive: sign(t, &wire.Alive{Key: j.pub, Digest: wrong.dig, Attempt: 1, Reason: wire.ReasonFirst, Nonce: ch.Nonce, Connect: ch.Connect, Responder: ch.Key}, j.key)}), wire.RefusedKeyUsed)

	m := alive(ch.Connect, ch.Key, ch.Nonce)
	must(t, say(m))
	got := hint(t, ana.hints, func(h wire.Hint) bool { return h.Hint == wire.HintAlive })
	if got.Token != j.token || got.Key != j.pub || !bytes.Equal(got.Envelope.Body, m.Alive.Body) || !bytes.Equal(got.Envelope.Sig, m.Alive.Sig) {
		t.Errorf("it was not passed on as it is: %+v", got)
	}
	refused(t, say(m), wire.RefusedTooSoon)
	for _, s := range []*seat{bob, eve} {
		s.pending()
		if n, _, err := s.hints.Pending(); err != nil || n != 0 {
			t.Errorf("%s got %d hints", s.name, n)
		}
	}
}

// Names of people stand in public logs of CI jobs unless the relay hides them.
func TestHiddenNamesAreInNothingThatAJobIsSent(t *testing.T) {
	t.Parallel()
	for _, hidden := range []bool{true, false} {
		t.Run(fmt.Sprintf("hidden %v", hidden), func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			// Long enough that no key or signature holds them by chance.
			f.ana.name, f.bob.name = "Anastasia", "Bartholomew"
			text := f.configText(t.TempDir(), onLoopback)
			if hidden {
				text += "names: hidden\n"
			}
			f.start(text, Options{})
			ana, bob := f.sit(f.ana), f.sit(f.bob)
			ana.pending()
			bob.pending()
			j := f.job(rocketRepo, "rocket")
			j.connect()
			all := listen(t, j.nc, wire.InboxPrefix(j.pub)+".>")
			s := must(t, j.send(j.nc))
			if s.Ready != 2 || s.Enrolled != 2 {
				t.Errorf("%+v", s)
			}
			must(t, bob.say(wire.VerbOpen, f.bob.openMessage(t, j)))
			s = must(t, j.state())
			if len(s.Opened) != 1 {
				t.Errorf("%+v", s)
			}
			m, r := ana.answer(j, 1)
			must(t, r)
			_, r = bob.answer(j, 1)
			text = "Anastasia answered first"
			if hidden {
				text = "another responder answered first"
			}
			refused(t, r, wire.RefusedTaken, text)
			must(t, j.state())
			must(t, j.got(1, m.Sealed.Hash()))
			must(t, j.done(1))
			declined := f.job(rocketRepo, "rocket")
			declined.connect()
			inbox := listen(t, declined.nc, wire.InboxPrefix(declined.pub)+".>")
			must(t, declined.send(declined.nc))
			must(t, bob.say(wire.VerbDecline, f.bob.declineMessage(t, declined, 1, "no")))
			if s := must(t, declined.state()); s.State != "declined" || s.Why != "no" {
				t.Errorf("%+v", s)
			}
			sent := everything(t, all) + everything(t, inbox)
			for _, name := range []string{f.ana.name, f.bob.name} {
				if strings.Contains(sent, name) == hidden {
					t.Errorf("%s in what the jobs were sent: %v", name, !hidden)
				}
			}
		})
	}
}

// Two people is what a project can demand: a job asks for them itself, because it
// is the job that checks them.
func TestAProjectThatWantsTwoPeopleRefusesToAskOne(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(strings.Replace(f.configText(t.TempDir(), onLoopback), "  rocket:\n", "  rocket:\n    approvals: 2\n", 1), Options{})
	j := f.job(rocketRepo, "rocket")
	j.connect()
	refused(t, j.send(j.nc), wire.RefusedPolicy, "in this project 2 people must agree, and the request asks for 1", "cfa --approvals 2")
	// Nothing is used up by that.
	j.ask("rocket", func(q *wire.Request) { q.Approvals, q.Responders = 2, []string{f.ana.signer(), f.bob.signer()} })
	must(t, j.send(j.nc))
	ana, bob := f.sit(f.ana), f.sit(f.bob)
	_, r := ana.answer(j, 1)
	refused(t, r, wire.RefusedNotYours, "another person must agree to it first")
	yes := wire.AnswerMessage{Key: j.pub, Answer: sign(t, &wire.Answer{Key: f.ana.signer(), Digest: j.dig, Attempt: 1, Ask: wire.AskCode, Decision: wire.DecisionYes}, f.ana.sign)}
	if s := must(t, ana.say(wire.VerbAnswer, yes)); s.State != "pending" || s.Attempt != 1 || s.Answer == nil {
		t.Fatalf("%+v", s)
	}
	// The job is told at once, and is shown what it can verify.
	hint(t, j.hints, changeOf(j))
	s := must(t, j.state())
	if a, err := wire.Open[wire.Answer](*s.Answer, f.ana.signer()); err != nil || a.Decision != wire.DecisionYes || a.Digest != j.dig {
		t.Fatalf("%+v, %v", a, err)
	}
	_, r = bob.answer(j, 1)
	refused(t, r, wire.RefusedTaken, "Ana answered first")
	if s := must(t, j.step(&wire.Next{Key: j.pub, Digest: j.dig, Attempt: 1})); s.Attempt != 2 || s.Reason != wire.ReasonNext || s.Answer != nil {
		t.Errorf("%+v", s)
	}
	_, r = ana.answer(j, 2)
	refused(t, r, wire.RefusedNotYours, "this key has already agreed to it")
	m, r := bob.answer(j, 2)
	must(t, r)
	must(t, j.got(2, m.Sealed.Hash()))
	if s := must(t, j.done(2)); s.State != "done" || s.By != "Bob" {
		t.Errorf("%+v", s)
	}
}
