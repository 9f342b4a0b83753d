package main

// Slack, as the real program meets it: a server that speaks the documented shapes of
// Slack's methods, of Socket Mode and of an incoming webhook.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

const (
	botToken  = "xoxb-1-s3cret"
	appToken  = "xapp-1-s3cret"
	hookPath  = "/services/T1/B1/s3cret"
	channel   = "C0123456"
	slackAda  = "U0123456"
	slackEve  = "U0EVE666"
	wsTicket  = "t1cket"
	userWrote = "1700000000.9"
)

// fakeSlack is that server.
type fakeSlack struct {
	t   *testing.T
	srv *httptest.Server

	mu      sync.Mutex
	calls   []slackCall
	replies map[string][]string // what a method answers next: "429 SECONDS", or JSON; then it is well
	socket  *websocket.Conn
	acks    []string
	posted  int
	changed chan struct{}
}

type slackCall struct {
	method string
	auth   string
	m      slackMessage
	raw    string
}

func newFakeSlack(t *testing.T) *fakeSlack {
	t.Helper()
	f := &fakeSlack{t: t, replies: map[string][]string{}, changed: make(chan struct{})}
	f.srv = httptest.NewServer(f)
	t.Cleanup(func() {
		f.hangUp()
		f.srv.Close()
	})
	return f
}

func (f *fakeSlack) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/link" {
		f.link(w, r)
		return
	}
	body, _ := io.ReadAll(r.Body)
	c := slackCall{method: strings.TrimPrefix(r.URL.Path, "/api/"), auth: r.Header.Get("Authorization"), raw: string(body)}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &c.m); err != nil {
			f.t.Errorf("%s: %v", r.URL.Path, err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	defer f.stir()
	if r.URL.Path == hookPath {
		c.method = "webhook"
	}
	f.calls = append(f.calls, c)
	if next := f.replies[c.method]; len(next) > 0 {
		f.replies[c.method] = next[1:]
		var seconds int
		if n, _ := fmt.Sscanf(next[0], "429 %d", &seconds); n == 1 {
			w.Header().Set("Retry-After", fmt.Sprint(seconds))
			w.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(w, `{"ok":false,"error":"ratelimited"}`)
			return
		}
		_, _ = io.WriteString(w, next[0])
		return
	}
	want := "Bearer " + botToken
	if c.method == "apps.connections.open" {
		want = "Bearer " + appToken
	}
	switch {
	case c.method == "webhook":
		_, _ = io.WriteString(w, "ok")
	case c.auth != want:
		_, _ = io.WriteString(w, `{"ok":false,"error":"invalid_auth"}`)
	case c.method == "apps.connections.open":
		fmt.Fprintf(w, `{"ok":true,"url":"ws%s/link?ticket=%s&app_id=a"}`, strings.TrimPrefix(f.srv.URL, "http"), wsTicket)
	case c.method == "chat.postMessage":
		f.posted++
		fmt.Fprintf(w, `{"ok":true,"channel":%q,"ts":"1700000000.%06d","message":{"type":"message","bot_id":"B1","text":"…"}}`, c.m.Channel, f.posted)
	case c.method == "chat.update", c.method == "chat.delete":
		fmt.Fprintf(w, `{"ok":true,"channel":%q,"ts":%q}`, c.m.Channel, c.m.TS)
	default:
		_, _ = io.WriteString(w, `{"ok":false,"error":"unknown_method"}`)
	}
}

// link is Socket Mode's websocket.
func (f *fakeSlack) link(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("ticket") != wsTicket {
		http.Error(w, "no ticket", http.StatusForbidden)
		return
	}
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = c.CloseNow() }()
	_ = c.Write(r.Context(), websocket.MessageText, []byte(`{"type":"hello","num_connections":1,"debug_info":{"host":"applink-1","approximate_connection_time":18060},"connection_info":{"app_id":"A1"}}`))
	f.mu.Lock()
	f.socket = c
	f.stir()
	f.mu.Unlock()
	for {
		_, data, err := c.Read(context.Background())
		if err != nil {
			return
		}
		var ack struct {
			Envelope string `json:"envelope_id"`
		}
		if err := json.Unmarshal(data, &ack); err != nil {
			f.t.Errorf("an acknowledgement: %v", err)
		}
		f.mu.Lock()
		f.acks = append(f.acks, ack.Envelope)
		f.stir()
		f.mu.Unlock()
	}
}

func (f *fakeSlack) stir() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeSlack) hangUp() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.socket != nil {
		_ = f.socket.CloseNow()
		f.socket = nil
	}
}

func (f *fakeSlack) answers(method string, replies ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replies[method] = replies
}

// until waits for what has been called, or done, so far.
func (f *fakeSlack) until(what string, ok func() bool) {
	f.t.Helper()
	limit := time.After(30 * time.Second)
	for {
		f.mu.Lock()
		fits, changed := ok(), f.changed
		f.mu.Unlock()
		if fits {
			return
		}
		select {
		case <-changed:
		case <-limit:
			f.mu.Lock()
			defer f.mu.Unlock()
			for _, c := range f.calls {
				f.t.Logf("%s %s %q", c.method, c.m.TS+c.m.ThreadTS, firstLine(c.m.Text))
			}
			f.t.Fatalf("it did not come to that: %s", what)
		}
	}
}

// call waits for the first call of a method whose text holds this, after the first n
// calls, and gives the count behind it.
func (f *fakeSlack) call(n int, method, holds string) (c slackCall, next int) {
	f.t.Helper()
	f.until(method+" "+holds, func() bool {
		for i := n; i < len(f.calls); i++ {
			if f.calls[i].method == method && strings.Contains(f.calls[i].m.Text, mrkdwn(holds)) {
				c, next = f.calls[i], i+1
				return true
			}
		}
		return false
	})
	return c, next
}

// writes has somebody write a message, and waits until it is acknowledged.
func (f *fakeSlack) writes(id string, event map[string]any) {
	f.t.Helper()
	f.until("a socket", func() bool { return f.socket != nil })
	e := map[string]any{"type": "message", "channel": channel, "channel_type": "channel", "event_ts": event["ts"]}
	for k, v := range event {
		e[k] = v
	}
	data, err := json.Marshal(map[string]any{
		"envelope_id": id, "type": "events_api", "accepts_response_payload": false, "retry_attempt": 0, "retry_reason": "",
		"payload": map[string]any{"token": "x", "team_id": "T1", "api_app_id": "A1", "event": e, "type": "event_callback", "event_id": "Ev1", "event_time": 1700000000},
	})
	if err != nil {
		f.t.Fatal(err)
	}
	f.mu.Lock()
	c := f.socket
	f.mu.Unlock()
	if err := c.Write(f.t.Context(), websocket.MessageText, data); err != nil {
		f.t.Fatal(err)
	}
	f.until("an acknowledgement of "+id, func() bool {
		for _, a := range f.acks {
			if a == id {
				return true
			}
		}
		return false
	})
}

// slack starts the background program with this part of the settings.
func (s *scene) slack(f *fakeSlack, more string) *player {
	s.t.Helper()
	for name, text := range map[string]string{"bot": botToken, "app": appToken, "hook": f.srv.URL + hookPath} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	return s.background("ask: [slack]\nslack: {" + more + "}\n")
}

func (f *fakeSlack) bot() string {
	return fmt.Sprintf("token: {file: bot}, channel: %s, api: %q", channel, f.srv.URL+"/api/")
}

func (s *scene) noSecrets(p *player, f *fakeSlack) {
	s.t.Helper()
	for _, secret := range []string{"s3cret", wsTicket} {
		s.nowhere(p, secret)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if strings.Contains(c.raw, "s3cret") {
			s.t.Errorf("a token was sent in a message: %s", c.raw)
		}
	}
}

func TestSlackRingsAndIsToldTheEnd(t *testing.T) {
	t.Parallel()
	s, f := newScene(t), newFakeSlack(t)
	s.pin()
	f.answers("chat.postMessage", "429 1", `{"ok":false,"error":"not_in_channel"}`)
	p := s.slack(f, f.bot()+", page: \"https://me.example/\"")
	foreign := s.job("mallory/evil", nil, nil)
	s.relay.Ask(foreign)
	until(t, func() bool { out, _, _ := s.says("", "list"); return strings.Contains(out, "foreign") })
	j := s.job(repo, map[string]any{"workflow": "<!channel> https://evil.example"}, func(r *wire.Request) { r.Message, r.TypeMatch = "click https://evil.example", true })
	s.relay.Ask(j)
	_, n := f.call(0, "chat.postMessage", "electron/asar wants a code for npm") // refused
	_, n = f.call(n, "chat.postMessage", "electron/asar")                       // refused
	p.waits(0, "Slack does not take messages: it wants fewer messages; it is tried again")
	c, n := f.call(n, "chat.postMessage", "electron/asar")
	p.waits(0, "Slack takes messages again")
	if c.m.Channel != channel || c.auth != "Bearer "+botToken || c.m.Parse != "none" {
		t.Errorf("posted %s", c.raw)
	}
	for _, not := range []string{"https://evil", "<!channel>", "click", seal.Match(j.Digest), j.ID()} {
		if strings.Contains(c.m.Text, not) {
			t.Errorf("%q is in the message: %s", not, c.raw)
		}
	}
	if e := c.m.Blocks[0].Elements[0].Elements; len(e) != 2 || e[0].Type != "text" || e[1].Type != "link" || e[1].URL != "https://me.example/" || !strings.Contains(e[0].Text, `"<!channel> https[:]//evil[.]example"`) {
		t.Errorf("its rich text is %+v", e)
	}
	s.relay.Set(j, func(i *wire.Item) {
		i.State.State, i.State.By, i.State.Sealed = "answered", "grace", strings.Repeat("ab", 32)
	})
	c, n = f.call(n, "chat.update", "answered by grace")
	if c.m.TS != "1700000000.000001" || c.m.Channel != channel || strings.Contains(c.raw, "mrkdwn\"") {
		t.Errorf("changed %s", c.raw)
	}
	s.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
	f.call(n, "chat.update", "answered by grace; the relay says that the job has what it asked for")
	s.noSecrets(p, f)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if strings.Contains(c.raw, "mallory") {
			t.Errorf("what is not verified was said: %s", c.raw)
		}
	}
}

func TestSlackRingsByAnIncomingWebhook(t *testing.T) {
	t.Parallel()
	s, f := newScene(t), newFakeSlack(t)
	s.pin()
	p := s.slack(f, "webhook: {file: hook}")
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	if c, _ := f.call(0, "webhook", "electron/asar wants a code for npm"); c.auth != "" || c.m.Channel != "" || !strings.Contains(c.m.Text, "cfa-responder listen") {
		t.Errorf("posted %s", c.raw)
	}
	s.noSecrets(p, f)
}

// While its human is away nothing rings, and when they are back it does.
func TestSlackIsQuietWhileItsHumanIsAway(t *testing.T) {
	t.Parallel()
	s, f := newScene(t), newFakeSlack(t)
	s.pin()
	p := s.slack(f, f.bot())
	if _, complaint, exit := s.says("", "away", "--until", "2h"); exit != 0 {
		t.Fatalf("away: %d %q", exit, complaint)
	}
	p.waits(0, "away: ")
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	until(t, func() bool { out, _, _ := s.says("", "list"); return strings.Contains(out, "#1") })
	f.until("silence", func() bool { return len(f.calls) == 0 })
	if _, complaint, exit := s.says("", "back"); exit != 0 {
		t.Fatalf("back: %d %q", exit, complaint)
	}
	f.call(0, "chat.postMessage", "electron/asar")
}

func codesInChat(f *fakeSlack) string {
	return f.bot() + ", codes-in-chat: slack can read every code, users: [" + slackAda + "], app-token: {file: app}"
}

func TestACodeTypedIntoSlackIsTakenFromWhoIsListed(t *testing.T) {
	t.Parallel()
	s, f := newScene(t), newFakeSlack(t)
	s.pin()
	p := s.slack(f, codesInChat(f))
	p.waits(0, "codes that are typed into Slack are taken: Slack can read every code")
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	c, n := f.call(0, "chat.postMessage", "electron/asar wants a code")
	for _, want := range []string{"Match code " + seal.Match(j.Digest) + ": the job's log must show the same", "reply in this thread with the code (6 digits), or with: decline. Slack can read what you type here."} {
		if !strings.Contains(c.m.Text, want) {
			t.Errorf("it does not say %q: %s", want, c.m.Text)
		}
	}
	const thread = "1700000000.000001"
	ts := 0
	write := func(event map[string]any) string {
		ts++
		e := map[string]any{"user": slackAda, "thread_ts": thread, "ts": fmt.Sprintf("1700000001.%06d", ts)}
		for k, v := range event {
			e[k] = v
		}
		f.writes(fmt.Sprintf("env-%d", ts), e)
		return e["ts"].(string)
	}
	// None of these is the human's answer.
	write(map[string]any{"text": code, "thread_ts": ""})                              // not in the thread
	write(map[string]any{"text": code, "thread_ts": "1699999999.1"})                  // in another's
	write(map[string]any{"text": code, "channel": "C9999999"})                        // elsewhere
	write(map[string]any{"text": code, "bot_id": "B2"})                               // of a bot
	write(map[string]any{"text": code, "subtype": "message_changed"})                 // edited
	write(map[string]any{"text": code, "type": "reaction_added", "reaction": "eyes"}) // no message
	write(map[string]any{"text": code, "user": slackEve})
	write(map[string]any{"text": code, "user": slackEve})
	c, n = f.call(n, "chat.postMessage", "nothing was taken: whoever wrote that is not among the responder's `users`. If it was a code, Slack has read it.")
	if c.m.ThreadTS != thread {
		t.Errorf("it was answered elsewhere: %s", c.raw)
	}
	if m := len(s.relay.Messages(wire.VerbAnswer)); m != 0 {
		t.Fatalf("%d answers left", m)
	}
	f.answers("chat.delete", `{"ok":false,"error":"cant_delete_message"}`)
	write(map[string]any{"text": "12345"})
	_, n = f.call(n, "chat.postMessage", "nothing was sent: the code has not the form that was asked for: the code has 5 characters, not 6. Slack has read what you typed; this app may not delete your message: do that yourself.")
	mine := write(map[string]any{"text": "<tel:" + code + "|" + code + ">"})
	f.call(n, "chat.postMessage", "sealed: only this job can open it, and Slack has read this code. Slack has read what you typed; the message was deleted.")
	f.mu.Lock()
	var deleted []string
	told := 0
	for _, c := range f.calls {
		if c.method == "chat.delete" {
			deleted = append(deleted, c.m.Channel+" "+c.m.TS)
		}
		if strings.Contains(c.m.Text, "nothing was taken") {
			told++
		}
	}
	f.mu.Unlock()
	if len(deleted) != 2 || deleted[1] != channel+" "+mine || told != 1 {
		t.Errorf("deleted %q; somebody else was told %d times", deleted, told)
	}
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}

	// The code was wrong. Slack delivers that event again, and it is no answer to the
	// next attempt.
	_, n = f.call(0, "chat.update", "answered by")
	j.At(2, wire.ReasonRejected)
	s.relay.Set(j, func(i *wire.Item) { i.State.State, i.State.Attempt, i.State.Sealed, i.State.By = "pending", 2, "", "" })
	_, n = f.call(n, "chat.postMessage", "the last code was refused; this is attempt 2")
	f.writes("env-again", map[string]any{"user": slackAda, "thread_ts": thread, "ts": mine, "text": code})
	write(map[string]any{"text": "234567"}) // in the old thread
	_, n = f.call(n, "chat.postMessage", "nothing was sent: this prompt cannot be answered: the job has asked anew since; open it again")
	if m := len(s.relay.Messages(wire.VerbAnswer)); m != 1 {
		t.Errorf("%d answers left", m)
	}
	f.mu.Lock()
	next := fmt.Sprintf("1700000000.%06d", f.threadOf("attempt 2"))
	f.mu.Unlock()
	write(map[string]any{"text": "234567", "thread_ts": next})
	f.call(n, "chat.postMessage", "sealed: only this job can open it")
	if c := got(t, j); c != "234567" {
		t.Errorf("the job opened %q", c)
	}
	s.nowhere(p, code)
	s.nowhere(p, "234567")
	s.noSecrets(p, f)
	f.mu.Lock()
	defer f.mu.Unlock()
	anew := 0
	for _, c := range f.calls {
		if strings.Contains(c.m.Text, "asked anew") {
			anew++
		}
	}
	if anew != 1 {
		t.Errorf("an event that came twice was taken in twice: %d replies", anew)
	}
	for _, c := range f.calls {
		if strings.Contains(c.raw, code) || strings.Contains(c.raw, "234567") {
			t.Errorf("a code was sent to Slack: %s", c.raw)
		}
	}
}

// threadOf counts the messages that were made, up to the one that holds this.
func (f *fakeSlack) threadOf(holds string) (n int) {
	for _, c := range f.calls {
		if c.method == "chat.postMessage" {
			if n++; strings.Contains(c.m.Text, holds) {
				return n
			}
		}
	}
	return 0
}

func TestInSlackTooTheMatchCodeIsTypedAndANoIsTaken(t *testing.T) {
	t.Parallel()
	s, f := newScene(t), newFakeSlack(t)
	s.pin()
	p := s.slack(f, codesInChat(f))
	typed := s.job(repo, nil, func(r *wire.Request) { r.TypeMatch = true })
	s.relay.Ask(typed)
	c, n := f.call(0, "chat.postMessage", "with the match code from the job's log, a space, and the code (6 digits)")
	if strings.Contains(c.m.Text, seal.Match(typed.Digest)) {
		t.Errorf("the match code is shown where it must be typed: %s", c.m.Text)
	}
	reply := func(id, text string) {
		f.writes(id, map[string]any{"user": slackAda, "thread_ts": "1700000000.000001", "ts": "1700000002." + id, "text": text})
	}
	reply("1", code)
	_, n = f.call(n, "chat.postMessage", "nothing was sent: that is not this request's match code")
	reply("2", strings.Repeat("0", 12)+" "+code)
	_, n = f.call(n, "chat.postMessage", "nothing was sent: that is not this request's match code")
	reply("3", strings.ToLower(seal.Match(typed.Digest))+"  "+code)
	_, n = f.call(n, "chat.postMessage", "sealed: only this job can open it")
	if c := got(t, typed); c != code {
		t.Errorf("the job opened %q", c)
	}
	s.relay.Set(typed, func(i *wire.Item) { i.State.State = "done" })
	_, n = f.call(n, "chat.update", "the relay says that the job has what it asked for")
	reply("4", code)
	_, n = f.call(n, "chat.postMessage", "nothing was sent: this prompt cannot be answered: it is over")

	refused := s.job(repo, nil, nil)
	s.relay.Ask(refused)
	_, n = f.call(n, "chat.postMessage", "#2: answer it")
	f.mu.Lock()
	thread := fmt.Sprintf("1700000000.%06d", f.threadOf("#2: answer it"))
	f.mu.Unlock()
	f.writes("5", map[string]any{"user": slackAda, "thread_ts": thread, "ts": "1700000002.5", "text": "decline not mine"})
	f.call(n, "chat.postMessage", "declined: your no is on its way")
	c, _ = f.call(n, "chat.update", "declined by") // in whichever order
	if strings.Contains(c.m.Text, "not mine") {
		t.Errorf("the reason is posted: %s", c.m.Text)
	}
	s.noSecrets(p, f)
}

func TestAYesAndALinkInSlack(t *testing.T) {
	t.Parallel()
	s, f := newScene(t), newFakeSlack(t)
	s.pin()
	s.slack(f, codesInChat(f))
	yes := s.job(repo, nil, func(r *wire.Request) {
		r.Ask, r.Format, r.Responders = wire.AskApproval, "any", []string{s.sign}
		r.Artifacts = []wire.Artifact{{Name: "asar.tgz", SHA256: wire.Digest{1}, Size: 1}}
	})
	s.relay.Ask(yes)
	_, n := f.call(0, "chat.postMessage", "reply in this thread with the match code from the job's log, which is your yes")
	f.writes("1", map[string]any{"user": slackAda, "thread_ts": "1700000000.000001", "ts": "1700000002.1", "text": "yes"})
	_, n = f.call(n, "chat.postMessage", "nothing was sent: that is not this request's match code")
	f.writes("2", map[string]any{"user": slackAda, "thread_ts": "1700000000.000001", "ts": "1700000002.2", "text": seal.Match(yes.Digest)})
	_, n = f.call(n, "chat.postMessage", "your yes is signed, and on its way")
	until(t, func() bool { return len(s.relay.Yeses(yes)) == 1 })

	link := s.job(repo, nil, func(r *wire.Request) { r.Ask, r.Format = wire.AskLink, "any" })
	link.OnAlive = func(a *wire.Alive) bool {
		a.Link = "https://www.npmjs.com/auth/cli/2b1e6d0c-9c0f-4f0a-8f60-3a1d5e0f7a11"
		return true
	}
	s.relay.Ask(link)
	c, n := f.call(n, "chat.postMessage", "A link is followed from your responder only.")
	if strings.Contains(c.raw, "npmjs.com") {
		t.Errorf("the link is in the message: %s", c.raw)
	}
	f.mu.Lock()
	thread := fmt.Sprintf("1700000000.%06d", f.threadOf("A link is followed"))
	f.mu.Unlock()
	f.writes("3", map[string]any{"user": slackAda, "thread_ts": thread, "ts": "1700000002.3", "text": code})
	f.call(n, "chat.postMessage", "nothing was taken: a link is followed from your responder")
}

// The socket ends in all the ways that it can, and replies are taken again.
func TestSlacksSocketIsMadeAnew(t *testing.T) {
	t.Parallel()
	s, f := newScene(t), newFakeSlack(t)
	s.pin()
	f.answers("apps.connections.open", `{"ok":false,"error":"invalid_auth"}`)
	p := s.slack(f, codesInChat(f))
	p.waits(0, "Slack: replies are not taken: apps.connections.open is refused: invalid_auth (the token is not valid); it is tried again")
	p.waits(0, "Slack: replies are taken again")
	opened := func() (n int) {
		for _, c := range f.calls {
			if c.method == "apps.connections.open" {
				n++
			}
		}
		return n
	}
	f.until("a socket", func() bool { return f.socket != nil && opened() == 2 })
	f.mu.Lock()
	first := f.socket
	f.mu.Unlock()
	if err := first.Write(t.Context(), websocket.MessageText, []byte(`{"type":"disconnect","reason":"refresh_requested","debug_info":{"host":"applink-1"}}`)); err != nil {
		t.Fatal(err)
	}
	f.until("another socket", func() bool { return f.socket != nil && f.socket != first && opened() == 3 })
	f.hangUp()
	f.until("a third socket", func() bool { return f.socket != nil && opened() == 4 })
	f.mu.Lock()
	third := f.socket
	f.mu.Unlock()
	if err := third.Write(t.Context(), websocket.MessageText, []byte(strings.Repeat("x", maxEnvelope+1))); err != nil {
		t.Fatal(err)
	}
	f.until("a fourth socket", func() bool { return f.socket != nil && f.socket != third && opened() == 5 })
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	_, n := f.call(0, "chat.postMessage", "electron/asar")
	f.writes("1", map[string]any{"user": slackAda, "thread_ts": "1700000000.000001", "ts": userWrote, "text": code})
	f.call(n, "chat.postMessage", "sealed")
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}
	s.noSecrets(p, f)
}

func TestAWebsocketElsewhereIsNotSpokenTo(t *testing.T) {
	t.Parallel()
	base, err := hookURL(slackAPI)
	if err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]bool{
		"wss://wss-primary.slack.com/link/?ticket=1": true,
		"wss://slack.com/link":                       true,
		"wss://slack.com.evil.example/link":          false,
		"wss://evilslack.com/link":                   false,
		"ws://wss-primary.slack.com/link":            false,
		"ws://127.0.0.1/link":                        false,
		"https://wss-primary.slack.com/link":         false,
		"wss://a:b@wss-primary.slack.com/link":       false,
		"":                                           false,
	} {
		if _, err := socketURL(raw, base); (err == nil) != want {
			t.Errorf("%q: %v", raw, err)
		}
	}
}

// What Slack's websocket says comes from outside: whatever it is, nothing of it may
// bring the program down, and no code comes of what is none.
func FuzzSlackEvents(f *testing.F) {
	for _, seed := range []string{
		`{"envelope_id":"e","type":"events_api","payload":{"event":{"type":"message","user":"U0123456","channel":"C0123456","text":"493817","ts":"1.1","thread_ts":"1.0"}}}`,
		`{"type":"hello"}`, `{"type":"disconnect","reason":"warning"}`, `[]`, `{"payload":7}`, `{"payload":{"event":{"text":"<tel:1|2>` + "`" + `&lt;"}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var e slackEnvelope
		if json.Unmarshal(data, &e) != nil {
			return
		}
		said := spoken(e.Payload.Event.Text)
		if said != strings.TrimSpace(said) {
			t.Errorf("%q", said)
		}
		if slackTime.MatchString(e.Payload.Event.TS) && len(e.Payload.Event.TS) > 22 {
			t.Errorf("%q is no message's name", e.Payload.Event.TS)
		}
	})
}
