package main

// A world for the scripts: an issuer in the place of the CI's, a NATS server, and
// behind it a relay that does what the project's name says.

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/receipt"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

const testCode = "918273"

type everyone struct{}

func (everyone) Check(c server.ClientAuthentication) bool {
	c.RegisterUser(&server.User{Username: c.GetOpts().Nkey})
	return true
}

// relay is the scripted one. Its projects:
//
//	answers    a human answers at once with testCode
//	second     … with 111111 first, and with testCode when that was rejected
//	many       … with testCode, and with 222222 as the next one
//	follows    a human opens the prompt, and follows the link by fetching it
//	percent    … with a code that a runner would unescape
//	blank      … with a code of spaces
//	poisoned   … and has a name that tries to write outputs and commands
//	nameless   … and names are hidden
//	declines   a human declines
//	refuses    no rule fits
//	barred     a human has declined what the run asked before
//	waits      nobody answers
//	deaf       … and a withdrawal is not confirmed
//
// An approval is given at once too, by one person or by a second one after her:
//
//	forges     … with a receipt for another file
//	meddles    … while somebody changes the file SHA256SUMS
type relay struct {
	url  string
	sign nkeys.KeyPair
	key  string
	ben  nkeys.KeyPair // the second person's
	file string        // what the job signed is listed here

	mu     sync.Mutex
	asked  map[string]wire.Request
	digest map[string]wire.Digest
	states map[string]*wire.State
}

func startRelay(t testing.TB, dir string) *relay {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ns, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true,
		AlwaysEnableNonce: true, CustomClientAuthentication: everyone{},
	})
	must(err)
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(10 * time.Second) {
		t.Fatal("the NATS server does not start")
	}
	sign, err := wire.NewSigningKey()
	must(err)
	ben, err := wire.NewSigningKey()
	must(err)
	r := &relay{url: ns.ClientURL(), sign: sign, ben: ben, key: wire.PublicKey(sign), file: filepath.Join(dir, "signed"),
		asked: map[string]wire.Request{}, digest: map[string]wire.Digest{}, states: map[string]*wire.State{}}
	must(os.WriteFile(r.file, nil, 0o600))
	nc, err := nats.Connect(ns.ClientURL())
	must(err)
	t.Cleanup(nc.Close)
	_, err = nc.Subscribe("cfa.v1.job.*.*", func(m *nats.Msg) {
		_, key, verb, _ := wire.ParseSubject(m.Subject)
		reply, hint := r.handle(t, key, verb, m.Data)
		if reply == nil {
			return
		}
		reply.V = wire.Version
		data, err := json.Marshal(reply)
		if err == nil {
			err = m.Respond(data)
		}
		if err == nil && hint != nil {
			if data, err = json.Marshal(hint); err == nil {
				err = nc.Publish(wire.HintSubject(key), data)
			}
		}
		if err != nil {
			t.Error(err)
		}
	})
	must(err)
	must(nc.Flush())
	return r
}

func (r *relay) handle(t testing.TB, key, verb string, data []byte) (*wire.Reply, *wire.Hint) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if verb != wire.VerbState && verb != wire.VerbAlive {
		f, err := os.OpenFile(r.file, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
			return nil, nil
		}
		defer f.Close()
		line := verb
		if verb != wire.VerbRequest {
			var m wire.StepMessage
			if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
				t.Error(err)
			}
			line += " " + string(m.Step.Body)
		}
		if _, err := f.WriteString(line + "\n"); err != nil {
			t.Error(err)
		}
	}
	st := r.states[key]
	if verb != wire.VerbRequest {
		if st == nil {
			return &wire.Reply{Refused: &wire.Refusal{Code: wire.RefusedUnknown, Why: "no such request"}}, nil
		}
		st.Rev++
		switch verb {
		case wire.VerbRejected, wire.VerbNext:
			st.State, st.Attempt, st.Reason = "pending", st.Attempt+1, map[string]string{wire.VerbRejected: wire.ReasonRejected, wire.VerbNext: wire.ReasonNext}[verb]
			if r.asked[key].Ask == wire.AskApproval {
				r.approve(t, key, st, r.ben)
				return &wire.Reply{State: st}, nil
			}
			code := testCode
			if verb == wire.VerbNext {
				code = "222222"
			}
			return &wire.Reply{State: st}, r.answer(t, key, st.Attempt, code)
		case wire.VerbAlive:
			var m wire.AliveMessage
			if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
				t.Error(err)
			}
			a, err := wire.Open[wire.Alive](m.Alive, key)
			if err != nil {
				t.Error(err)
			}
			go r.follow(t, a.Link)
			return &wire.Reply{State: st}, nil
		case wire.VerbGot:
			st.State, st.By = "delivered", "Ana"
			switch r.asked[key].Project {
			case "poisoned":
				st.By = "Ana\ncode=666666\n::set-output name=code::666666 ##[add-mask]x"
			case "nameless":
				st.By = ""
			}
		case wire.VerbDone:
			st.State = "done"
		case wire.VerbCancel:
			if r.asked[key].Project == "deaf" {
				return nil, nil
			}
			st.State = "cancelled"
		}
		return &wire.Reply{State: st}, nil
	}
	var m wire.RequestMessage
	if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
		t.Error(err)
	}
	q, err := wire.Open[wire.Request](m.Request, key)
	if err != nil {
		t.Error(err)
	}
	digest, err := wire.DigestOf(m.Request, key)
	if err != nil {
		t.Error(err)
	}
	if q.Project == "barred" {
		return &wire.Reply{Refused: &wire.Refusal{Code: wire.RefusedDeclined, Why: "Ana declined what this run asked, and said: not today", Mend: "a re-run that a person starts can ask"}}, nil
	}
	if q.Project == "refuses" {
		return &wire.Reply{Refused: &wire.Refusal{Code: wire.RefusedPolicy, Why: "no rule\nof ##[error]refuses fits", Mend: "::add-mask::ask"}}, nil
	}
	st = &wire.State{Rev: 1, State: "pending", Attempt: 1, Reason: wire.ReasonFirst, Deadline: q.Deadline, OnCall: []string{"Ana"}, Ready: 1, Enrolled: 2}
	r.asked[key], r.digest[key], r.states[key] = q, digest, st
	code := testCode
	switch q.Project {
	case "waits", "deaf":
		return &wire.Reply{State: st}, nil
	case "declines":
		e, err := wire.Sign(&wire.Decline{Key: r.key, Digest: digest, Attempt: 1, Reason: "not today"}, r.sign)
		if err != nil {
			t.Error(err)
		}
		st.State, st.By, st.Decline = "declined", "Ana", &e
		return &wire.Reply{State: st}, nil
	}
	if q.Ask == wire.AskApproval {
		r.approve(t, key, st, r.sign)
		return &wire.Reply{State: st}, nil
	}
	switch q.Project {
	case "percent":
		code = "50%0Aoff%25"
	case "blank":
		code = "   "
	case "second":
		code = "111111"
	case "follows":
		desk, err := wire.NewConnectKey()
		if err != nil {
			t.Error(err)
		}
		e, err := wire.Sign(&wire.Challenge{Key: r.key, Connect: wire.PublicKey(desk), Digest: digest, Nonce: make([]byte, 16)}, r.sign)
		if err != nil {
			t.Error(err)
		}
		return &wire.Reply{State: st}, &wire.Hint{Hint: wire.HintChallenge, Key: key, Envelope: &e}
	}
	return &wire.Reply{State: st}, r.answer(t, key, 1, code)
}

// answer is an honest responder's.
func (r *relay) answer(t testing.TB, key string, attempt int, code string) *wire.Hint {
	to := seal.To{Digest: r.digest[key], Attempt: attempt, Ask: wire.AskCode, Responder: r.key}
	sealed, err := seal.Close(r.asked[key].HPKE, to, code)
	if err != nil {
		t.Error(err)
	}
	e, err := wire.Sign(&wire.Answer{Key: r.key, Digest: to.Digest, Attempt: attempt, Ask: wire.AskCode, Decision: wire.DecisionCode, Sealed: sealed.Hash()}, r.sign)
	if err != nil {
		t.Error(err)
	}
	return &wire.Hint{Hint: wire.HintAnswer, Key: key, Envelope: &e, Sealed: &sealed}
}

// approve is an honest responder's yes, but where the project says otherwise.
func (r *relay) approve(t testing.TB, key string, st *wire.State, by nkeys.KeyPair) {
	must := func(err error) {
		if err != nil {
			t.Error(err)
		}
	}
	q := r.asked[key]
	switch q.Project {
	case "meddles":
		must(os.WriteFile(filepath.Join(filepath.Dir(r.file), "SHA256SUMS"), []byte("other"), 0o600))
	case "forges":
		q.Artifacts = []wire.Artifact{{Name: "evil.tgz", SHA256: wire.Digest{6}}}
	}
	a := wire.Answer{Key: wire.PublicKey(by), Digest: r.digest[key], Attempt: st.Attempt, Ask: wire.AskApproval, Decision: wire.DecisionYes, At: time.Now().Unix()}
	statement, err := receipt.Statement(q, a.Digest, a.Attempt, a.At, a.Key)
	must(err)
	a.Receipt, err = receipt.Sign(statement, by)
	must(err)
	e, err := wire.Sign(&a, by)
	must(err)
	st.Answer = &e
	if st.Attempt == max(q.Approvals, 1) {
		st.State, st.By = "done", "Ana"
	}
}

// follow is a human who follows a link.
func (r *relay) follow(t testing.TB, link string) {
	resp, err := http.Get(link)
	if err != nil {
		t.Errorf("follow %q: %v", link, err)
		return
	}
	resp.Body.Close()
}

// job is the environment of a step on GitHub, against that relay.
func (r *relay) job(t testing.TB) []string {
	t.Helper()
	issuer, err := devissuer.Start(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(issuer.Close)
	issuer.AddJob("release", devissuer.GitHubClaims("example/rocket", nil))
	other, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	return append(issuer.GitHubEnv("release"), "OTHER="+wire.PublicKey(other), "CFA_RELAY="+r.url, "CFA_RELAY_NAME=relay.test", "KEY="+r.key, "BEN="+wire.PublicKey(r.ben), "CODE="+testCode)
}

// environment makes getenv of NAME=value lines, and notes what was asked for.
type environment struct {
	lines []string
	mu    sync.Mutex
	read  []string
}

func (e *environment) get(name string) string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !slices.Contains(e.read, name) {
		e.read = append(e.read, name)
	}
	for _, l := range slices.Backward(e.lines) {
		if v, ok := strings.CutPrefix(l, name+"="); ok {
			return v
		}
	}
	return ""
}
