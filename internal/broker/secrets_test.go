package broker

// What a relay must not keep: after a whole run, everything that it wrote is
// searched for whatever it was shown.

import (
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/wire"
)

// secrets are texts to look for, by what they are.
type secrets map[string]string

func (s secrets) seed(t testing.TB, name string, kp nkeys.KeyPair) {
	t.Helper()
	seed, err := kp.Seed()
	if err != nil {
		t.Fatal(err)
	}
	_, raw, err := nkeys.DecodeSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	s[name+"'s seed"] = string(seed)
	s[name+"'s raw seed"] = string(raw)
}

func TestNothingThatTheRelayWroteHoldsATokenACodeOrAPrivateKey(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	f.start(f.configText(dir, "listen: {nats: \"127.0.0.1:0\", websocket: \"127.0.0.1:0\"}\n"), Options{Log: debugLog(f.log)})
	s := secrets{}
	keep := func(name string, value string) { s[name] = value }
	token := func(name, tok string) {
		keep(name, tok)
		for i, part := range strings.Split(tok, ".") {
			if i > 0 { // the header is the same in all
				keep(fmt.Sprintf("%s, part %d", name, i), part)
			}
		}
	}
	for _, h := range []*human{f.ana, f.bob, f.eve} {
		s.seed(t, h.name+" connecting", h.connect)
		s.seed(t, h.name+" signing", h.sign)
	}
	callout, err := nkeys.FromRawSeed(nkeys.PrefixByteAccount, f.relay.net.issuer.(*signer).private.Seed())
	if err != nil {
		t.Fatal(err)
	}
	s.seed(t, "the callout's issuer", callout)

	// A whole request.
	ana, bob := f.sit(f.ana), f.sit(f.bob)
	j := f.job(rocketRepo, "rocket")
	s.seed(t, "the job", j.key)
	token("the job's token", j.token)
	j.connect()
	must(t, j.send(j.nc))
	must(t, ana.say(wire.VerbOpen, f.ana.openMessage(t, j)))
	fresh := f.token(rocketRepo, wire.Audience(relayName, j.pub), nil)
	token("the fresh token", fresh)
	must(t, request(t, j.nc, wire.JobSubject(j.pub, wire.VerbAlive), wire.AliveMessage{Token: fresh, Alive: sign(t, &wire.Alive{
		Key: j.pub, Digest: j.dig, Attempt: 1, Reason: wire.ReasonFirst, Nonce: make([]byte, 16), Connect: f.ana.key(), Responder: f.ana.signer()}, j.key)}))
	sealed := func(name string, m wire.AnswerMessage) {
		keep(name+", raw", string(m.Sealed.Ciphertext))
		keep(name+", in base64", base64.StdEncoding.EncodeToString(m.Sealed.Ciphertext))
		keep(name+", its key in base64", base64.StdEncoding.EncodeToString(m.Sealed.Enc))
	}
	m, r := ana.answer(j, 1)
	must(t, r)
	sealed("the sealed code", m)
	late, r := bob.answer(j, 1)
	refused(t, r, wire.RefusedTaken)
	sealed("the late code", late)
	must(t, j.got(1, m.Sealed.Hash()))
	must(t, j.done(1))

	// Whatever goes wrong, with secrets in the wrong places.
	wrong := f.job(otherRepo, "rocket")
	token("a refused job's token", wrong.token)
	wrong.connect()
	refused(t, wrong.send(wrong.nc), wire.RefusedPolicy)
	expired := newKey(t)
	tok := f.token(rocketRepo, wire.Audience(relayName, wire.PublicKey(expired)), map[string]any{"exp": 1})
	token("an expired token", tok)
	if nc, err := f.connect(expired, tok); err == nil {
		nc.Close()
		t.Error("let in")
	}
	for _, opts := range [][]nats.Option{{nats.Token(j.token)}, {nats.UserInfo(j.token, j.token)}, {nats.UserInfo("", j.token)}} {
		if nc, err := nats.Connect(f.relay.ClientURL(), append(opts, nats.NoReconnect())...); err == nil {
			nc.Close()
			t.Error("let in")
		}
	}
	seed, err := f.ana.sign.Seed()
	if err != nil {
		t.Fatal(err)
	}
	for _, data := range []string{
		fmt.Sprintf(`{"token":%q}`, wrong.token), fmt.Sprintf(`{"request":{"v":1,"kind":%q,"body":"","sig":""},"token":""}`, seed),
		fmt.Sprintf(`{%q:1}`, wrong.token), wrong.token, fmt.Sprintf(`{"rev":%q}`, seed), fmt.Sprintf(`{"request":{"v":1,"kind":"request","body":%q,"sig":"AA=="},"token":%q}`, seed, wrong.token),
	} {
		for _, verb := range []string{wire.VerbRequest, wire.VerbState, wire.VerbGot} {
			if _, err := wrong.nc.Request(wire.JobSubject(wrong.pub, verb), []byte(data), 10e9); err != nil {
				t.Fatal(err)
			}
		}
	}
	// A line that is too long, and one that is none: nats-server quotes the
	// beginning of such lines, so the token does not stand there.
	for _, line := range []string{
		"CONNECT {\"verbose\":false,\"pedantic\":false,\"nkey\":\"" + j.pub + "\",\"name\":\"" + strings.Repeat("x", 40<<10) + "\",\"auth_token\":\"" + j.token + "\"}\r\n",
		"CONNECT {\"verbose\":false,\"auth_token\":\"" + j.token + "\"}\r\n",
		"CONNECT {\"verbose\":false,\"auth_token\":\"" + j.token + "\r\n",
		"CONNECT {\"verbose\":false,\"nkey\":\"" + string(seed) + "\"}\r\n",
		"CONNECT {\"verbose\":false,\"name\":\"" + string(seed) + "\",\"nkey\":\"" + j.token + "\"}\r\n",
	} {
		e := f.knock(f.address())
		if _, err := io.WriteString(e.conn, line); err != nil {
			continue // closed before all of it was read
		}
		_, _ = io.ReadAll(e.lines)
	}
	f.relay.Close()

	written := map[string]string{"the log": f.log.String()}
	err = filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		written[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	find := func(in map[string]string) (found []string) {
		for where, text := range in {
			for what, secret := range s {
				if strings.Contains(text, secret) {
					found = append(found, what+" in "+where)
				}
			}
		}
		return found
	}
	// First that the search finds what is there: a planted token, and what the
	// record must hold.
	planted := map[string]string{"plant": "level=INFO msg=x token=" + j.token + " seed=" + string(seed) + " " + string(m.Sealed.Ciphertext)}
	if found := find(planted); len(found) < 5 {
		t.Fatalf("the search finds nothing: %v", found)
	}
	whole := ""
	for _, text := range written {
		whole += text
	}
	for _, there := range []string{j.dig.String(), m.Sealed.Hash().String(), j.pub, `"event":"answered"`, "outcome=accepted"} {
		if !strings.Contains(whole, there) {
			t.Errorf("%s is nowhere in what was written; then the search shows nothing", there)
		}
	}
	if len(s) < 25 || len(written) < 4 {
		t.Errorf("%d secrets, %d files", len(s), len(written))
	}
	for _, f := range find(written) {
		t.Error(f)
	}
}
