package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/audit"
	"github.com/continuousauth/action/internal/broker"
	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

// ledger is a record in the making, and the store that it is put into.
type ledger struct {
	t        *testing.T
	config   string // the relay's file
	ana      nkeys.KeyPair
	messages []audit.Message
	last     map[string]lifecycle.Record
	metadata map[string]string // of the store's stream
}

func newLedger(t *testing.T) *ledger {
	t.Helper()
	ana, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	connect, err := wire.NewConnectKey()
	if err != nil {
		t.Fatal(err)
	}
	l := &ledger{t: t, ana: ana, last: map[string]lifecycle.Record{}, config: filepath.Join(t.TempDir(), "cfa.yaml")}
	text := fmt.Sprintf(`host: relay.test
listen: {nats: "127.0.0.1:0"}
data: data
issuers: [github]
projects:
  rocket:
    ci: [{provider: github, repository_id: "1", repository_owner_id: "2"}]
    responders: [{name: Ana, connect: %s, sign: %s}]
`, wire.PublicKey(connect), wire.PublicKey(ana))
	if err := os.WriteFile(l.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *ledger) apply(key string, in lifecycle.Input) {
	l.t.Helper()
	var prev *lifecycle.Record
	hash := ""
	if p, ok := l.last[key]; ok {
		prev = &p
		data, err := p.Encode()
		if err != nil {
			l.t.Fatal(err)
		}
		hash = lifecycle.Hash(data)
	}
	next, err := lifecycle.Apply(prev, in, time.Now())
	if err != nil {
		l.t.Fatal(err)
	}
	next = next.After(hash, fmt.Sprintf("op%d", len(l.messages)))
	l.last[key] = next
	data, err := next.Encode()
	if err != nil {
		l.t.Fatal(err)
	}
	l.messages = append(l.messages, audit.Message{Subject: audit.RequestPrefix + key, Data: data})
}

func (l *ledger) sign(b wire.Body, kp nkeys.KeyPair) json.RawMessage {
	l.t.Helper()
	env, err := wire.Sign(b, kp)
	if err != nil {
		l.t.Fatal(err)
	}
	return env.Encode()
}

// request asks, and is answered or declined.
func (l *ledger) request(rule, reason string) {
	l.t.Helper()
	kp, err := wire.NewConnectKey()
	if err != nil {
		l.t.Fatal(err)
	}
	pub, now := wire.PublicKey(kp), time.Now().Unix()
	q := wire.Request{Key: pub, Relay: "relay.test", Project: "rocket", Ask: wire.AskCode, Service: "npm", Format: "any", Message: "release",
		Made: now, Deadline: now + 600, HPKE: make([]byte, 32), Proof: wire.Proof{"iss": "x", "repository": "example/rocket"}}
	raw := l.sign(&q, kp)
	env, err := wire.DecodeEnvelope(raw)
	if err != nil {
		l.t.Fatal(err)
	}
	dig, err := wire.DigestOf(env, pub)
	if err != nil {
		l.t.Fatal(err)
	}
	l.apply(pub, lifecycle.Ask{Key: pub, Digest: dig.String(), Project: "rocket", Rule: rule, Group: "1/77/1", Kind: "code", Request: raw, Deadline: q.Deadline * 1000, Attempts: 5, Approvals: 1})
	ana := wire.PublicKey(l.ana)
	if reason != "" {
		l.apply(pub, lifecycle.Decline{Key: ana, Name: "Ana", Attempt: 1, Reason: reason, Envelope: l.sign(&wire.Decline{Key: ana, Digest: dig, Attempt: 1, Reason: reason}, l.ana)})
		return
	}
	hash := wire.Sealed{Enc: make([]byte, 32), Ciphertext: make([]byte, 600)}.Hash()
	l.apply(pub, lifecycle.Answer{Key: ana, Name: "Ana", Attempt: 1, Sealed: hash.String(), Envelope: l.sign(&wire.Answer{Key: ana, Digest: dig, Attempt: 1, Ask: "code", Decision: "code", Sealed: hash}, l.ana)})
	l.apply(pub, lifecycle.Got{Attempt: 1, Sealed: hash.String(), Envelope: l.sign(&wire.Got{Key: pub, Digest: dig, Attempt: 1, Sealed: hash}, kp)})
	l.apply(pub, lifecycle.Done{Outcome: "ok", Envelope: l.sign(&wire.Done{Key: pub, Digest: dig, Attempt: 1, Outcome: "ok"}, kp)})
}

func (l *ledger) refused(why string) {
	l.t.Helper()
	f := lifecycle.Refusal{V: 1, Op: "r1", At: time.Now().UnixMilli(), Code: "policy", Verb: "request", Project: "rocket", Why: why, Left: 3}
	data, err := f.Encode()
	if err != nil {
		l.t.Fatal(err)
	}
	l.messages = append(l.messages, audit.Message{Subject: audit.RefusedPrefix + "outside.run1", Data: data})
}

// store makes the relay's store of messages, in place of the one before. Those
// whose number stands in without are taken out again, which leaves a gap.
func (l *ledger) store(messages []audit.Message, without ...uint64) {
	l.t.Helper()
	data := filepath.Join(filepath.Dir(l.config), "data")
	if err := os.RemoveAll(data); err != nil {
		l.t.Fatal(err)
	}
	opts := &server.Options{NoSigs: true, NoLog: true, DontListen: true, JetStream: true, StoreDir: filepath.Join(data, "store")}
	if err := opts.ProcessConfigString("accounts { SYS {}, STORE { jetstream: enabled, users: [{user: s, password: s}] } }\nsystem_account: SYS"); err != nil {
		l.t.Fatal(err)
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		l.t.Fatal(err)
	}
	srv.Start()
	defer func() { srv.Shutdown(); srv.WaitForShutdown() }()
	if !srv.ReadyForConnections(20 * time.Second) {
		l.t.Fatal("no server")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv), nats.UserInfo("s", "s"))
	if err != nil {
		l.t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(l.t.Context(), 30*time.Second)
	defer cancel()
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "CFA", Subjects: []string{"cfa.store.v1.>"}, MaxAge: 720 * time.Hour, Metadata: l.metadata})
	if err != nil {
		l.t.Fatal(err)
	}
	for _, m := range messages {
		if _, err := js.Publish(ctx, m.Subject, m.Data); err != nil {
			l.t.Fatal(err)
		}
	}
	for _, seq := range without {
		if err := stream.DeleteMsg(ctx, seq); err != nil {
			l.t.Fatal(err)
		}
	}
}

// run runs cfa-relay audit.
func (l *ledger) run(args ...string) (code int, out, errs string) {
	l.t.Helper()
	var o, e strings.Builder
	code = run(l.t.Context(), append([]string{"audit"}, args...), stdio{nil, &o, &e, func(string) string { return "" }})
	return code, o.String(), e.String()
}

func (l *ledger) withConfig(command string, args ...string) (int, string, string) {
	l.t.Helper()
	return l.run(append([]string{command, "--config", l.config}, args...)...)
}

// forged is the record with a rule rewritten, and all that follows from it, so
// that it is consistent in itself.
func (l *ledger) forged(subject string) []audit.Message {
	l.t.Helper()
	out, before := slices.Clone(l.messages), ""
	for i := range out {
		if out[i].Subject != subject {
			continue
		}
		rec, err := lifecycle.Decode(out[i].Data)
		if err != nil {
			l.t.Fatal(err)
		}
		rec.Rule, rec.Prev = "another", before
		if out[i].Data, err = rec.Encode(); err != nil {
			l.t.Fatal(err)
		}
		before = lifecycle.Hash(out[i].Data)
	}
	return out
}

// What somebody did to the store itself is found: most of it by the record alone,
// a consistent forgery by the checkpoint.
func TestAnAuditFindsWhatWasDoneToAStore(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.request("rocket/ci[0] line 6", "")
	l.request("rocket/ci[0] line 6", "no")
	l.refused("no rule fits")
	l.request("rocket/ci[0] line 6", "")
	l.store(l.messages)
	n := len(l.messages)

	dir := t.TempDir()
	key, statement := filepath.Join(dir, "audit.nk"), filepath.Join(dir, "checkpoint.json")
	code, pub, errs := l.run("keygen", "--out", key)
	pub = strings.TrimSpace(pub)
	if code != exitOK || audit.CheckAuditKey(pub) != nil {
		t.Fatalf("keygen: %d %s %s", code, pub, errs)
	}
	if code, _, errs := l.run("keygen", "--out", key); code != exitUsage || !strings.Contains(errs, "is not overwritten") {
		t.Errorf("keygen again: %d %s", code, errs)
	}
	if code, out, errs := l.withConfig("verify"); code != exitOK || !strings.Contains(out, fmt.Sprintf("%d messages, sequences 1 to %d: 3 requests, 1 refusal (and 3 that were left out)", n, n)) || !strings.Contains(errs, "no relay runs") {
		t.Fatalf("verify: %d %s %s", code, out, errs)
	}
	if code, _, errs := l.withConfig("checkpoint", "--key", key, "--out", statement); code != exitOK || !strings.Contains(errs, pub) {
		t.Fatalf("checkpoint: %d %s", code, errs)
	}
	with := []string{"--checkpoint", statement, "--checkpoint-key", pub}
	if code, out, errs := l.withConfig("verify", with...); code != exitOK || !strings.Contains(out, fmt.Sprintf("%d are as they were", n)) {
		t.Fatalf("verify: %d %s %s", code, out, errs)
	}

	changed := slices.Clone(l.messages)
	changed[2].Data = []byte(strings.Replace(string(changed[2].Data), `"state":"delivered"`, `"state":"done"`, 1))
	dropped := slices.Delete(slices.Clone(l.messages), 2, 3)
	swapped := slices.Clone(l.messages)
	swapped[1], swapped[2] = swapped[2], swapped[1]
	apart := slices.Clone(l.messages)
	apart[3], apart[4] = apart[4], apart[3] // of two requests: each chain stays as it was
	for _, tc := range []struct {
		name     string
		messages []audit.Message
		without  []uint64
		alone    string // what the record alone shows; "": nothing
		compared string // what the checkpoint shows
	}{
		{"changed", changed, nil, "sequence 3, request.", "sequence 3, request."},
		{"dropped", l.messages, []uint64{3}, "sequence 3: sequence 3 is missing in the store", "sequence 3: dropped"},
		{"dropped and numbered anew", dropped, nil, "the hash of the record before", "nowhere in the store"},
		{"swapped", swapped, nil, "the hash of the record before", "reordered: what the checkpoint has at sequence 3 now stands here"},
		{"two requests' records swapped", apart, nil, "", "reordered: what the checkpoint has at sequence 5 now stands here"},
		{"cut off", l.messages[:n-2], nil, "", fmt.Sprintf("sequences %d to %d are cut off at the end", n-1, n)},
		{"a forgery that is consistent in itself", l.forged(l.messages[0].Subject), nil, "", "sequence 1, request."},
		{"one request and all of its records less", slices.DeleteFunc(slices.Clone(l.messages), func(m audit.Message) bool { return m.Subject == l.messages[4].Subject }), nil, "", "nowhere in the store"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l.store(tc.messages, tc.without...)
			code, out, errs := l.withConfig("verify")
			if tc.alone == "" && code != exitOK || tc.alone != "" && (code != exitWrong || !strings.Contains(out, tc.alone)) {
				t.Errorf("alone: %d, not %q in\n%s%s", code, tc.alone, out, errs)
			}
			code, out, errs = l.withConfig("verify", with...)
			if code != exitWrong || !strings.Contains(out, tc.compared) || !strings.Contains(errs, "the record is not as it should be") {
				t.Errorf("compared: %d, not %q in\n%s%s", code, tc.compared, out, errs)
			}
		})
	}

	// What is wrong is not signed by the way.
	l.store(changed)
	again := filepath.Join(dir, "again.json")
	if code, _, errs := l.withConfig("checkpoint", "--key", key, "--out", again); code != exitWrong || !strings.Contains(errs, "nothing was signed") {
		t.Errorf("checkpoint of a changed record: %d %s", code, errs)
	}
	if _, err := os.Stat(again); err == nil {
		t.Error("and it was written")
	}
	if code, _, errs := l.withConfig("checkpoint", "--key", key, "--out", again, "--despite"); code != exitOK {
		t.Errorf("despite: %d %s", code, errs)
	}
}

func TestACheckpointOfAnotherKeyOrNoneIsRefused(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.request("rule", "")
	l.store(l.messages)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	l.run("keygen", "--out", path("a"))
	_, other, _ := l.run("keygen", "--out", path("b"))
	seed, err := os.ReadFile(path("a"))
	if err != nil {
		t.Fatal(err)
	}
	l.withConfig("checkpoint", "--key", path("a"), "--out", path("c"))
	for _, tc := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"another key", []string{"--checkpoint", path("c"), "--checkpoint-key", strings.TrimSpace(other)}, exitWrong, "is not signed by " + strings.TrimSpace(other)},
		{"no key", []string{"--checkpoint", path("c")}, exitOK, "give the one that you know"},
		{"no checkpoint", []string{"--checkpoint-key", strings.TrimSpace(other)}, exitUsage, "add --checkpoint"},
		{"no such file", []string{"--checkpoint", path("none")}, exitUsage, "no such file"},
		{"a key for a checkpoint", []string{"--checkpoint", path("a")}, exitWrong, "not a checkpoint"},
		{"no responder's key", []string{"--former", strings.TrimSpace(other)}, exitUsage, "not a signing key"},
	} {
		if code, _, errs := l.withConfig("verify", tc.args...); code != tc.code || !strings.Contains(errs, tc.want) || strings.Contains(errs, string(seed[:10])) {
			t.Errorf("%s: %d %s", tc.name, code, errs)
		}
	}
	if err := os.Chmod(path("a"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := l.withConfig("checkpoint", "--key", path("a")); code != exitUsage || !strings.Contains(errs, "chmod 600") {
		t.Errorf("a key that others can read: %d %s", code, errs)
	}
	if code, _, errs := l.withConfig("checkpoint", "--key", path("c")); code != exitUsage || !strings.Contains(errs, "chmod 600") && !strings.Contains(errs, "no audit key") {
		t.Errorf("no key: %d %s", code, errs)
	}
}

// Somebody who was enrolled and is not any more is named by who verifies.
func TestAFormerRespondersAnswersAreGoodIfThatIsSaid(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.request("rule", "")
	l.store(l.messages)
	text, err := os.ReadFile(l.config)
	if err != nil {
		t.Fatal(err)
	}
	was := wire.PublicKey(l.ana)
	now, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.config, []byte(strings.Replace(string(text), was, wire.PublicKey(now), 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out, _ := l.withConfig("verify"); code != exitWrong || !strings.Contains(out, was+" is not enrolled for the project rocket") || !strings.Contains(out, "--former") {
		t.Errorf("%d %s", code, out)
	}
	if code, out, errs := l.withConfig("verify", "--former", was); code != exitOK {
		t.Errorf("%d %s %s", code, out, errs)
	}
}

func TestTheRecordIsListed(t *testing.T) {
	t.Parallel()
	const hostile = "=cmd|'/C calc'!A0 \u202eevil\u009b2J, \"x\""
	l := newLedger(t)
	l.request("rocket/ci[0] line 6", "")
	l.request("rocket/ci[0] line 6", hostile)
	l.refused("+no rule fits")
	l.store(l.messages)
	sealed := wire.Sealed{Enc: make([]byte, 32), Ciphertext: make([]byte, 600)}.Hash().String()
	list := func(args ...string) string {
		t.Helper()
		code, out, errs := l.withConfig("list", args...)
		if code != exitOK {
			t.Fatalf("%q: %d %s", args, code, errs)
		}
		if strings.ContainsAny(out, "\u202e\u009b\x1b") || strings.Contains(out, sealed) || strings.Contains(out, `"sig"`) {
			t.Errorf("%q shows too much: %q", args, out)
		}
		return out
	}
	table := strings.Split(strings.TrimSpace(list()), "\n")
	if len(table) != 3 || !strings.HasPrefix(table[0], "ASKED") || !strings.Contains(table[1], " ok ") || !strings.Contains(table[1], "1/77/1") || !strings.Contains(table[1], "Ana") || !strings.Contains(table[2], "declined") {
		t.Errorf("%q", table)
	}
	for _, tc := range []struct {
		args []string
		want int
	}{
		{nil, 2}, {[]string{"--outcome", "ok"}, 1}, {[]string{"--outcome", "declined"}, 1}, {[]string{"--outcome", "open"}, 0},
		{[]string{"--project", "rocket"}, 2}, {[]string{"--project", "boat"}, 0}, {[]string{"--run", "77"}, 2}, {[]string{"--run", "78"}, 0},
		{[]string{"--since", "1h"}, 2}, {[]string{"--since", "7d"}, 2}, {[]string{"--until", "1h"}, 0}, {[]string{"--since", "2126-01-01"}, 0},
		{[]string{"--events"}, 6}, {[]string{"--events", "--outcome", "declined"}, 1}, {[]string{"--refusals"}, 1}, {[]string{"--refusals", "--project", "boat"}, 0},
		{[]string{"--limit", "1"}, 1}, {[]string{"--limit", "2", "--events"}, 2},
	} {
		if got := len(strings.Split(list(append(tc.args, "--format", "jsonl")...), "\n")) - 1; got != tc.want {
			t.Errorf("%q: %d, not %d", tc.args, got, tc.want)
		}
	}
	var row audit.Row
	if err := json.Unmarshal([]byte(list("--outcome", "declined", "--format", "jsonl")), &row); err != nil || row.Why != strings.ReplaceAll(hostile, "\u009b", " ") || row.Claims["repository"] != "example/rocket" || row.Message != "release" {
		t.Errorf("%+v: %v", row, err)
	}
	for _, args := range [][]string{{}, {"--refusals"}, {"--events"}} {
		cells, err := csv.NewReader(strings.NewReader(list(append(args, "--format", "csv")...))).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		quoted := 0
		for _, c := range slices.Concat(cells...) {
			if strings.ContainsAny(c[:min(1, len(c))], "=+-@\t\r") {
				t.Errorf("%q: a formula: %q", args, c)
			}
			if strings.HasPrefix(c, "'=") || strings.HasPrefix(c, "'+") {
				quoted++
			}
		}
		if quoted != 1 {
			t.Errorf("%q: %d cells were made text", args, quoted)
		}
	}
	for _, args := range [][]string{{"--outcome", "good"}, {"--since", "soon"}, {"--limit", "0"}, {"--events", "--refusals"}, {"--refusals", "--run", "1"}, {"--format", "xml"}} {
		if code, _, _ := l.withConfig("list", args...); code != exitUsage {
			t.Errorf("%q: exit code %d", args, code)
		}
	}
}

func TestACellIsNoFormula(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"=1": "'=1", "+1": "'+1", "-1": "'-1", "@x": "'@x", " =1": "' =1", "\t=1": "<U+0009>=1", "\uff1d1": "<U+FF1D>1", "plain": "plain", "": "", "a=b": "a=b",
	} {
		if got := cell(in); got != want {
			t.Errorf("%q is %q, not %q", in, got, want)
		}
	}
}

func TestARecordThatIsNotThereIsSaidToBe(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	for _, command := range []string{"verify", "list"} {
		if code, _, errs := l.withConfig(command); code != exitUnavailable || !strings.Contains(errs, "there is no record in it") {
			t.Errorf("%s: %d %s", command, code, errs)
		}
	}
	if code, _, errs := l.withConfig("tail"); code != exitUnavailable || !strings.Contains(errs, broker.ErrNoRelay.Error()) {
		t.Errorf("tail: %d %s", code, errs)
	}
}

// pipe is what is printed, line by line.
type pipe chan string

func (p pipe) Write(b []byte) (int, error) { p <- string(b); return len(b), nil }

// Of a relay that runs, the record is followed through it, and nothing opens its
// store.
func TestTheRecordOfARunningRelayIsFollowed(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.request("rule", "")
	l.store(l.messages)
	config, err := broker.ReadConfig(l.config)
	if err != nil {
		t.Fatal(err)
	}
	relay, err := broker.Start(t.Context(), config, broker.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, errs, ended := make(pipe, 10), make(pipe, 10), make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"audit", "tail", "--config", l.config}, stdio{nil, out, errs, func(string) string { return "" }})
	}()
	wait := func(p pipe, want string) {
		t.Helper()
		for {
			select {
			case s := <-p:
				if strings.Contains(s, want) {
					return
				}
			case <-time.After(20 * time.Second):
				t.Fatalf("%q never came", want)
			}
		}
	}
	wait(errs, "what comes after sequence 4")
	// Who proves nothing is not let in, and that is on record.
	nc, err := nats.Connect(relay.ClientURL(), nats.Token("nonsense"), nats.Timeout(20*time.Second))
	if err == nil {
		nc.Close()
		t.Fatal("let in")
	}
	wait(out, "not-yours  connect  outside")
	cancel()
	if code := <-ended; code != exitOK {
		t.Errorf("exit code %d", code)
	}
	if code, o, e := l.withConfig("verify"); code != exitOK || strings.Contains(e, "no relay runs") {
		t.Errorf("verify: %d %s %s", code, o, e)
	}
	if code, o, _ := l.withConfig("list", "--refusals"); code != exitOK || !strings.Contains(o, "connect") {
		t.Errorf("list: %d %s", code, o)
	}
}
