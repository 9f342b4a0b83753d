package answer

// The chain of proof at the desk, over a real NATS server, with a real issuer's
// tokens: what a human is shown as verified, and what can be answered.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/answer/answertest"
	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

func TestACodeReachesTheJobThatProvedItself(t *testing.T) {
	t.Parallel()
	o, issuer := onTheWire(t)
	o.run()
	j := devJob(t, issuer, repo, map[string]any{"environment": "npm"}, func(r *wire.Request) { r.Message = "release v1.2.3" })
	o.relay.Ask(j)
	p := o.human.wait(t, j.ID(), "verified", standing(Verified))
	claims := devissuer.GitHubClaims(repo, nil)
	want := Facts{
		Repository: repo, Workflow: "Release", WorkflowFile: ".github/workflows/release.yml", Ref: "refs/heads/main",
		SHA: claims["sha"].(string), Environment: "npm", Event: "push", Actor: "octocat",
		RunID: claims["run_id"].(string), RunAttempt: "1", Job: p.Facts.Job, Runner: "github-hosted", Group: p.Facts.Group, RunURL: p.Facts.RunURL,
	}
	if p.Facts != want {
		t.Errorf("facts are %+v, want %+v", p.Facts, want)
	}
	if p.Match != seal.Match(j.Digest) || p.TypeMatch {
		t.Errorf("match code is %q, to be typed: %v", p.Match, p.TypeMatch)
	}
	if !p.Answerable || p.Why != "" || p.Message != "release v1.2.3" || p.Service != "npm" || p.Format != "6 digits" || p.Project != project || p.Number != 1 {
		t.Errorf("prompt is %+v", p)
	}
	mustAnswer(t, o, j, p.Attempt)
	if got := received(t, j); got != code {
		t.Fatalf("the job opened %q", got)
	}
	o.human.wait(t, j.ID(), "delivered", func(p Prompt) bool {
		return p.Phase == Resting && p.Note == "the relay says that the job has your code"
	})
	o.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
	o.human.wait(t, j.ID(), "over", phase(Over))

	o.stop()
	if err := <-o.done; err != nil {
		t.Errorf("the desk ended with %v", err)
	}
	// The code, the keys and the tokens are in nothing that was sent or logged.
	for _, m := range o.relay.Messages("") {
		if bytes.Contains(m.Data, []byte(code)) {
			t.Errorf("a %s message holds the code", m.Verb)
		}
	}
	for _, k := range []interface{ Seed() ([]byte, error) }{o.keys.connect, o.keys.sign} {
		if seed, _ := k.Seed(); strings.Contains(o.log.String(), string(seed)) {
			t.Error("the log holds a private key")
		}
	}
	if log := o.log.String(); strings.Contains(log, code) || strings.Contains(log, "eyJ") || !strings.Contains(log, `"outcome":"verified"`) {
		t.Errorf("the log holds the code or a token, or no decision:\n%s", log)
	}
}

// unanswerable checks that a prompt was never shown as verified, cannot be
// answered, and that no answer left.
func unanswerable(t *testing.T, o *office, j *answertest.Job) {
	t.Helper()
	for _, p := range o.human.shown(j.ID()) {
		if p.Standing == Verified || p.Answerable {
			t.Errorf("shown as verified: %+v", p)
		}
	}
	if err := o.answer(j, 1); !errors.Is(err, ErrNotAnswerable) {
		t.Errorf("answering gave %v", err)
	}
	if n := len(o.relay.Messages(wire.VerbAnswer)); n != 0 {
		t.Errorf("%d answers left", n)
	}
}

func TestASwappedSealingKeyIsNeverSealedTo(t *testing.T) {
	t.Parallel()
	other, err := seal.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	t.Run("in the signed body", func(t *testing.T) {
		t.Parallel()
		o, issuer := onTheWire(t)
		o.run()
		j := devJob(t, issuer, repo, nil, nil)
		var body wire.Request
		if err := json.Unmarshal(j.Envelope.Body, &body); err != nil {
			t.Fatal(err)
		}
		body.HPKE = other.Public()
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		j.Envelope.Body = raw
		o.relay.Ask(j)
		o.human.noticed(t, func(s string) bool { return strings.Contains(s, "signature does not verify") })
		unanswerable(t, o, j)
		if n := len(o.human.shown(j.ID())); n != 0 {
			t.Errorf("shown %d times", n)
		}
	})
	t.Run("in a request signed by the relay's own key", func(t *testing.T) {
		t.Parallel()
		o, issuer := onTheWire(t)
		o.run()
		honest := devJob(t, issuer, repo, nil, nil)
		forged := devJob(t, issuer, repo, nil, nil)
		// The relay has the honest job's token, and nothing else of it.
		forged.Token = func(string) (string, error) {
			return honest.Token(wire.Audience(relayName, honest.ID()))
		}
		o.relay.Ask(forged)
		p := o.human.wait(t, forged.ID(), "unproven", standing(Unproven))
		if !strings.Contains(p.Why, "speaks for the key") || p.Facts != (Facts{}) || p.Message != "" || p.Match != "" {
			t.Errorf("prompt is %+v", p)
		}
		unanswerable(t, o, forged)
	})
	t.Run("after the first look", func(t *testing.T) {
		t.Parallel()
		o, issuer := onTheWire(t)
		o.run()
		j := devJob(t, issuer, repo, nil, nil)
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "verified", standing(Verified))
		second := j.Request
		second.HPKE = other.Public()
		env, err := wire.Sign(&second, j.Key) // even one that the key signed
		if err != nil {
			t.Fatal(err)
		}
		o.relay.Set(j, func(i *wire.Item) { i.Request = env })
		o.human.noticed(t, func(s string) bool { return strings.Contains(s, "another request") })
		mustAnswer(t, o, j, 1)
		if got := received(t, j); got != code {
			t.Errorf("the job of the first request opened %q", got)
		}
	})
}

func TestAnotherRepositorysHonestRequestIsShownAndNotAnswerable(t *testing.T) {
	t.Parallel()
	o, issuer := onTheWire(t)
	o.run()
	j := devJob(t, issuer, "mallory/asar", nil, nil)
	o.relay.Ask(j)
	p := o.human.wait(t, j.ID(), "foreign", standing(Foreign))
	if p.Facts.Repository != "mallory/asar" || !strings.Contains(p.Why, "repository_id") || !strings.Contains(p.Why, "not what your pins say") {
		t.Errorf("prompt is %+v", p)
	}
	unanswerable(t, o, j)
}

func TestWithoutPinsNothingCanBeAnsweredUntilThereAreSome(t *testing.T) {
	t.Parallel()
	o, issuer := onTheWire(t)
	with := o.desk.trust
	o.desk.trust.Pins = nil
	o.run()
	j := devJob(t, issuer, repo, nil, nil)
	o.relay.Ask(j)
	p := o.human.wait(t, j.ID(), "unpinned", standing(Unpinned))
	if p.Facts.Repository != repo || !strings.Contains(p.Why, "pins add") {
		t.Errorf("prompt is %+v", p)
	}
	unanswerable(t, o, j)
	o.desk.SetTrust(with)
	o.human.wait(t, j.ID(), "verified", standing(Verified))
	mustAnswer(t, o, j, 1)
	if got := received(t, j); got != code {
		t.Errorf("the job opened %q", got)
	}
}

func TestAForgedOrStaleProofIsRefused(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		job   func(t *testing.T, j *answertest.Job, issuer *devissuer.Issuer)
		relay func(o *office, j *answertest.Job)
		why   string
	}{
		{
			name: "an old alive is replayed",
			relay: func(o *office, j *answertest.Job) {
				// A genuine answer to an earlier challenge of this very desk.
				env, token, err := j.Alive(wire.Challenge{
					Key: o.desk.sign, Connect: o.desk.connect, Digest: j.Digest, Nonce: bytes.Repeat([]byte{7}, 16),
				})
				if err != nil {
					o.t.Fatal(err)
				}
				o.relay.OnAlive = func(h *wire.Hint) bool {
					h.Envelope, h.Token = &env, token
					return true
				}
			},
			why: "another challenge",
		},
		{
			name: "the job signs another nonce",
			job: func(_ *testing.T, j *answertest.Job, _ *devissuer.Issuer) {
				j.OnAlive = func(a *wire.Alive) bool { a.Nonce = bytes.Repeat([]byte{1}, 16); return true }
			},
			why: "another challenge",
		},
		{
			name: "the proof was made for another responder",
			job: func(t *testing.T, j *answertest.Job, _ *devissuer.Issuer) {
				other, err := wire.NewSigningKey()
				if err != nil {
					t.Fatal(err)
				}
				j.OnAlive = func(a *wire.Alive) bool { a.Responder = wire.PublicKey(other); return true }
			},
			why: "another responder",
		},
		{
			name: "the job says another attempt",
			job: func(_ *testing.T, j *answertest.Job, _ *devissuer.Issuer) {
				j.At(2, wire.ReasonRejected)
			},
			why: "attempt 2",
		},
		{
			name: "the token has expired",
			job: func(_ *testing.T, j *answertest.Job, issuer *devissuer.Issuer) {
				j.Token = func(aud string) (string, error) {
					old := time.Now().Add(-7 * time.Minute).Unix()
					claims := devissuer.GitHubClaims(repo, map[string]any{"aud": aud})
					claims["iat"], claims["nbf"], claims["exp"] = old, old-300, old+300
					return issuer.Mint(claims)
				}
			},
			why: "expired",
		},
		{
			name: "the token was issued long ago and is still valid",
			job: func(_ *testing.T, j *answertest.Job, issuer *devissuer.Issuer) {
				j.Token = func(aud string) (string, error) {
					claims := devissuer.GitHubClaims(repo, map[string]any{"aud": aud})
					claims["iat"], claims["exp"] = time.Now().Add(-11*time.Minute).Unix(), time.Now().Add(6*time.Hour).Unix()
					return issuer.Mint(claims)
				}
			},
			why: "issued",
		},
		{
			name: "the token is of another run",
			job: func(_ *testing.T, j *answertest.Job, issuer *devissuer.Issuer) {
				j.Token = func(aud string) (string, error) {
					return issuer.Mint(devissuer.GitHubClaims(repo, map[string]any{"aud": aud, "run_id": "666"}))
				}
			},
			why: "run_id",
		},
		{
			name: "the alive is signed by another key",
			relay: func(o *office, j *answertest.Job) {
				o.relay.OnAlive = func(h *wire.Hint) bool {
					env := *h.Envelope
					env.Sig = slices.Clone(env.Sig)
					env.Sig[5] ^= 1
					h.Envelope = &env
					return true
				}
			},
			why: "signature",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o, issuer := onTheWire(t)
			j := devJob(t, issuer, repo, nil, nil)
			if test.job != nil {
				test.job(t, j, issuer)
			}
			if test.relay != nil {
				test.relay(o, j)
			}
			o.run()
			o.relay.Ask(j)
			p := o.human.wait(t, j.ID(), "unproven", standing(Unproven))
			if !strings.Contains(p.Why, test.why) {
				t.Errorf("the human is told %q, without %q", p.Why, test.why)
			}
			if p.Facts != (Facts{}) || p.Message != "" || p.Match != "" || p.Service != "" {
				t.Errorf("something unverified is shown: %+v", p)
			}
			unanswerable(t, o, j)
		})
	}
}

// A straggler of an older challenge must not keep the right answer out.
func TestAWrongProofDoesNotSpoilTheRightOne(t *testing.T) {
	t.Parallel()
	o, issuer := onTheWire(t)
	j := devJob(t, issuer, repo, nil, nil)
	env, token, err := j.Alive(wire.Challenge{Key: o.desk.sign, Connect: o.desk.connect, Digest: j.Digest, Nonce: bytes.Repeat([]byte{7}, 16)})
	if err != nil {
		t.Fatal(err)
	}
	o.relay.OnAlive = func(h *wire.Hint) bool {
		o.relay.Alive(o.desk.connect, wire.Hint{Hint: wire.HintAlive, Key: j.ID(), Envelope: &env, Token: token})
		return true
	}
	o.run()
	o.relay.Ask(j)
	o.human.wait(t, j.ID(), "verified", standing(Verified))
}

func TestWhatNobodyOpenedIsNotAnswerable(t *testing.T) {
	t.Parallel()
	o, issuer := onTheWire(t)
	o.human.blind = true
	o.run()
	j := devJob(t, issuer, repo, nil, func(r *wire.Request) { r.Message = "trust me" })
	o.relay.Ask(j)
	p := o.human.wait(t, j.ID(), "unopened", standing(Unopened))
	if p.Message != "" || p.Facts != (Facts{}) || p.Why == "" {
		t.Errorf("prompt is %+v", p)
	}
	unanswerable(t, o, j)
	if n := len(o.relay.Messages(wire.VerbOpen)); n != 0 {
		t.Errorf("%d challenges were sent though nobody looked", n)
	}
}

func TestTextFromOutsideIsMadeHarmless(t *testing.T) {
	t.Parallel()
	o, issuer := onTheWire(t)
	o.run()
	evil := "\x1b[2J\u202egnp.exe\r\n\u0430sar\x00\u200b"
	j := devJob(t, issuer, repo, map[string]any{"actor": evil, "environment": evil, "workflow": evil}, func(r *wire.Request) { r.Message = evil })
	o.relay.Ask(j)
	o.human.wait(t, j.ID(), "verified", standing(Verified))
	o.relay.Set(j, func(i *wire.Item) {
		i.State.State, i.State.By, i.State.Why, i.State.Opened = "declined", evil, evil, []string{evil}
	})
	o.human.wait(t, j.ID(), "over", phase(Over))
	for _, p := range o.human.shown(j.ID()) {
		raw, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, bad := range []string{`\u001b`, `\u202e`, "\u202e", `\r`, `\u0000`, "\u200b", "\u0430"} {
			if bytes.Contains(raw, []byte(bad)) {
				t.Errorf("%q reaches the human raw: %s", bad, raw)
			}
		}
	}
}

func TestARefusedResponderSaysSo(t *testing.T) {
	t.Parallel()
	o, _ := onTheWire(t)
	o.relay.Enrol(o.desk.connect, "")
	o.run()
	select {
	case err := <-o.done:
		if !errors.Is(err, ErrNotEnrolled) || !strings.Contains(err.Error(), o.desk.connect) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("still trying")
	}
}

// Nothing is missed and nothing is typed twice when the network goes at any step.
func TestACutConnectionMissesNothing(t *testing.T) {
	t.Parallel()
	for _, verb := range []string{wire.VerbPending, wire.VerbOpen, wire.VerbAnswer} {
		t.Run("while "+verb+" is answered", func(t *testing.T) {
			t.Parallel()
			o, issuer := onTheWire(t)
			cut := false
			o.relay.OnMessage = func(m answertest.Message, _ *wire.Reply) bool {
				if m.Verb != verb || cut {
					return true
				}
				cut = true
				o.relay.CutTCP()
				return false
			}
			o.run()
			j := devJob(t, issuer, repo, nil, nil)
			o.relay.Ask(j)
			p := o.human.wait(t, j.ID(), "verified", standing(Verified))
			mustAnswer(t, o, j, p.Attempt)
			if got := received(t, j); got != code {
				t.Errorf("the job opened %q", got)
			}
			o.human.wait(t, j.ID(), "delivered", func(p Prompt) bool { return p.Note == "the relay says that the job has your code" })
			if codes := j.Codes(); len(codes) != 1 {
				t.Errorf("the job got %d codes", len(codes))
			}
		})
	}
	t.Run("while a human looks", func(t *testing.T) {
		t.Parallel()
		o, issuer := onTheWire(t)
		o.run()
		first := devJob(t, issuer, repo, nil, nil)
		o.relay.Ask(first)
		o.human.wait(t, first.ID(), "verified", standing(Verified))
		o.relay.Do(func() {}) // nothing is on its way
		o.relay.CutTCP()
		second := devJob(t, issuer, repo, nil, nil) // asked while nobody is connected, maybe
		o.relay.Ask(second)
		o.relay.Set(first, func(i *wire.Item) { i.State.State = "cancelled" })
		o.human.wait(t, first.ID(), "over", phase(Over))
		p := o.human.wait(t, second.ID(), "verified", standing(Verified))
		mustAnswer(t, o, second, p.Attempt)
		if got := received(t, second); got != code {
			t.Errorf("the job opened %q", got)
		}
	})
}

func TestADeskEndsWhenItsHumanLeaves(t *testing.T) {
	t.Parallel()
	o, _ := onTheWire(t)
	o.run()
	o.human.noticed(t, func(s string) bool { return strings.Contains(s, "connected") })
	broken := errors.New("the terminal is gone")
	o.human.leave <- broken
	if err := <-o.done; !errors.Is(err, broken) {
		t.Errorf("ended with %v", err)
	}
	if err := o.desk.Answer(context.Background(), Answer{}); err == nil {
		t.Error("an ended desk takes answers")
	}
}
