package main

// What rings, by itself: when, what it says, and what it does where nobody takes it.

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

// parlour is a room that writes down what is said in it.
type parlour struct {
	fails func(n int) error // the n-th try, from 1

	mu    sync.Mutex
	tries []time.Time
	said  []string // "1: text", "1= text"
}

func (r *parlour) try() error {
	r.mu.Lock()
	r.tries = append(r.tries, time.Now())
	n := len(r.tries)
	r.mu.Unlock()
	if r.fails != nil {
		return r.fails(n)
	}
	return nil
}

func (r *parlour) say(_ context.Context, n note) (string, error) {
	if err := r.try(); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	handle := string(rune('a' + len(r.said)))
	r.said = append(r.said, handle+": "+n.Text)
	return handle, nil
}

func (r *parlour) change(_ context.Context, handle string, n note) error {
	if err := r.try(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, handle+"= "+n.Text)
	return nil
}

func (r *parlour) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.said)
}

// openings is a desk of which only Open is called; anything else is a nil pointer.
type openings struct {
	answer.Decisions
	mu  sync.Mutex
	ids []string
}

func (o *openings) Open(id string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ids = append(o.ids, id)
}

// ringer runs a bell; complaints are what a person was told.
func ringer(t *testing.T, r room) (b *chime, news chan answer.News, desk *openings, complaints func() []string, end func()) {
	t.Helper()
	var mu sync.Mutex
	var told []string
	b = newChime("the chat", surroundings{log: slog.New(slog.DiscardHandler), std: stdio{err: io.Discard}}, r)
	b.tell = func(s string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, s)
	}
	news, desk = make(chan answer.News), &openings{}
	done := make(chan error, 1)
	go func() { done <- b.Ask(t.Context(), news, desk) }()
	complaints = func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(told)
	}
	return b, news, desk, complaints, func() {
		close(news)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func asksForACode(id string, number int) answer.Prompt {
	return answer.Prompt{
		ID: id, Number: number, Phase: answer.Asking, Standing: answer.Verified, Answerable: true, Attempt: 1, Ask: wire.AskCode,
		Service: "npm", Project: project, Relay: relayName, Format: "6 digits", Match: "K7QF-2MXT-9RBD", Message: "come to https://evil.example",
		Facts: answer.Facts{Repository: repo, Workflow: "Release", Ref: "refs/heads/main", Actor: "octocat"},
		Since: time.Now().Add(-12 * time.Second), Deadline: time.Now().Add(30 * time.Minute),
	}
}

func tells(news chan<- answer.News, p answer.Prompt) { news <- answer.News{Prompt: &p} }

func TestOnlyWhatIsVerifiedRingsAndItsEndIsSaid(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &parlour{}
		_, news, desk, _, end := ringer(t, r)
		p := asksForACode("A", 1)
		for _, s := range []answer.Standing{answer.Unopened, answer.Checking, answer.Unproven, answer.Unpinned, answer.Foreign} {
			q := p
			q.Standing, q.Answerable = s, false
			tells(news, q)
		}
		synctest.Wait()
		if said := r.all(); len(said) != 0 {
			t.Errorf("said of what is not verified: %q", said)
		}
		if len(desk.ids) != 1 {
			t.Errorf("it was opened %d times", len(desk.ids))
		}
		tells(news, p)
		tells(news, p)
		synctest.Wait()
		want := "a: electron/asar wants a code for npm, in its workflow \"Release\" on branch main, started by octocat, 12 s ago\n30 min 0 s left, until " + p.Deadline.Local().Format("15:04") + "; #1: answer it in your responder (cfa-responder listen)"
		if said := r.all(); len(said) != 1 || said[0] != want {
			t.Fatalf("said %q", said)
		}
		for _, not := range []string{p.Message, p.Match, "evil"} {
			if strings.Contains(r.all()[0], not) {
				t.Errorf("it says %q", not)
			}
		}
		p.Phase, p.Answerable = answer.Sending, false // that may come to nothing
		tells(news, p)
		p.Phase, p.By = answer.Resting, "grace"
		tells(news, p)
		synctest.Wait()
		over := answer.Prompt{ID: "A", Number: 1, Phase: answer.Over, Attempt: 1, By: "grace", Relay: relayName, Why: "the relay says that the job has what it asked for: see https://evil.example"}
		tells(news, over)
		synctest.Wait()
		said := r.all()
		if len(said) != 3 || !strings.HasSuffix(said[1], "\nanswered by grace") || !strings.HasSuffix(said[2], "\nanswered by grace; the relay says that the job has what it asked for") {
			t.Errorf("said %q", said)
		}
		end()
	})
}

func TestADeclineIsSaidWithoutItsReason(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ by, why, want string }{
		{"grace", "grace declined: https://evil.example", "declined by grace"},
		{"ada", "you declined: not mine", "declined by ada"},
		{"", "you declined", "declined by a responder of " + relayName},
		{"", "nobody answered in time", "nobody answered in time"},
		{"", "withdrawn: by @channel", "withdrawn"},
	} {
		if got := ended(answer.Prompt{Phase: answer.Over, By: test.by, Why: test.why, Relay: relayName}); got != test.want {
			t.Errorf("%q: %q", test.why, got)
		}
	}
}

func TestARunRingsOnceAndEachNewAttemptAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &parlour{}
		_, news, _, _, end := ringer(t, r)
		for i, id := range []string{"A", "B", "C"} {
			p := asksForACode(id, i+1)
			p.Group = "g"
			tells(news, p)
			synctest.Wait()
		}
		said := r.all()
		if len(said) != 3 || !strings.HasPrefix(said[0], "a: ") || !strings.HasPrefix(said[2], "a= ") || !strings.Contains(said[2], "; and 2 more of its run") {
			t.Fatalf("said %q", said)
		}
		// One of them was given a wrong code.
		p := asksForACode("B", 2)
		p.Attempt, p.Reason = 2, wire.ReasonRejected
		tells(news, p)
		synctest.Wait()
		said = r.all()[3:]
		if len(said) != 2 || !slices.ContainsFunc(said, func(s string) bool {
			return !strings.HasPrefix(s, "a= ") && strings.Contains(s, "the last code was refused; this is attempt 2")
		}) {
			t.Errorf("said %q", said)
		}
		end()
	})
}

// What does not take a message is tried again ever less often, no sooner than it
// says, of what is true then; and whoever asks is not held up.
func TestAChatThatFailsIsTriedLessAndLessOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &parlour{fails: func(n int) error {
			switch {
			case n == 3:
				return &unsent{why: "it wants fewer messages", wait: time.Minute}
			case n < 8:
				return &unsent{why: "it is ill"}
			}
			return nil
		}}
		_, news, _, complaints, end := ringer(t, r)
		gone, stays := asksForACode("A", 1), asksForACode("B", 2)
		tells(news, gone)
		tells(news, stays)
		tells(news, answer.Prompt{ID: "A", Number: 1, Phase: answer.Over, Attempt: 1, Why: "withdrawn"})
		time.Sleep(20 * time.Minute)
		synctest.Wait()
		if said := r.all(); len(said) != 1 || !strings.Contains(said[0], "#2") || !strings.Contains(said[0], " ago\n2") {
			t.Errorf("said %q", said)
		}
		var gaps []time.Duration
		for i := 1; i < len(r.tries); i++ {
			gaps = append(gaps, r.tries[i].Sub(r.tries[i-1]))
		}
		want := []time.Duration{2 * time.Second, 4 * time.Second, time.Minute, 16 * time.Second, 32 * time.Second, 64 * time.Second, 128 * time.Second}
		if !slices.Equal(gaps, want) {
			t.Errorf("tried after %v", gaps)
		}
		if c := complaints(); len(c) != 2 || !strings.Contains(c[0], "does not take messages: it is ill") || !strings.Contains(c[1], "takes messages again") {
			t.Errorf("a person was told %q", c)
		}
		end()
	})
}

// One message that is refused for ever, because somebody has deleted it, holds up no
// other, and is let be in the end.
func TestAMessageThatCannotBeChangedHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &parlour{}
		_, news, _, complaints, end := ringer(t, &deleted{r, "a"})
		tells(news, asksForACode("A", 1))
		synctest.Wait()
		tells(news, answer.Prompt{ID: "A", Number: 1, Phase: answer.Over, Attempt: 1, Why: "withdrawn"})
		synctest.Wait()
		tells(news, asksForACode("B", 2))
		time.Sleep(4 * firstPause) // one more try of the first
		synctest.Wait()
		if said := r.all(); len(said) != 2 || !strings.Contains(said[1], "#2") {
			t.Errorf("said %q", said)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(r.tries); n != 2+mostChanges {
			t.Errorf("tried %d times", n)
		}
		if c := complaints(); len(c) == 0 || !strings.Contains(c[0], "message_not_found") {
			t.Errorf("a person was told %q", c)
		}
		end()
	})
}

// deleted is a room in which one message is gone.
type deleted struct {
	*parlour
	handle string
}

func (d *deleted) change(ctx context.Context, handle string, n note) error {
	if handle != d.handle {
		return d.parlour.change(ctx, handle, n)
	}
	_ = d.try()
	return &slackError{"chat.update", "message_not_found"}
}

func TestAFloodRingsSoOftenAndNoMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := &parlour{}
		_, news, _, complaints, end := ringer(t, r)
		for i := range 3 * mostTolls {
			tells(news, asksForACode(string(rune('A'+i)), i+1))
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if said := r.all(); len(said) != mostTolls {
			t.Errorf("%d messages", len(said))
		}
		for i := range 2*mostTolls - 5 { // most of the others end meanwhile
			tells(news, answer.Prompt{ID: string(rune('A' + mostTolls + i)), Phase: answer.Over, Attempt: 1, Why: "withdrawn"})
		}
		time.Sleep(tollsWithin + time.Second)
		synctest.Wait()
		if said := r.all(); len(said) != mostTolls+5 {
			t.Errorf("%d messages in the end", len(said))
		}
		if c := complaints(); len(c) != 1 || !strings.Contains(c[0], "messages within 10 min 0 s are enough") {
			t.Errorf("a person was told %q", c)
		}
		end()
	})
}

// A chat is told nothing of what comes while its human is away: it cannot be shown to
// them without disturbing them.
func TestChatsAreNotDiscreet(t *testing.T) {
	t.Parallel()
	for _, a := range []answer.Asker{&chime{}, chorus{}, &slackCodes{}} {
		if _, discreet := a.(answer.Discreet); discreet {
			t.Errorf("%T rings while its human is away", a)
		}
	}
}

func TestNothingInAMessageBecomesALinkOrAMention(t *testing.T) {
	t.Parallel()
	p := asksForACode("A", 1)
	p.Facts.Workflow, p.Facts.Actor, p.Facts.Ref = "https://evil.example/login now", "@everyone", "refs/heads/www.evil.com.br/x"
	p.Service = "evil.example"
	said := sentence(defused(p), time.Now())
	if want := `electron/asar wants a code for evil[.]example, in its workflow "https[:]//evil[.]example/login now" on branch www[.]evil[.]com[.]br/x, started by (at)everyone, 12 s ago`; said != want {
		t.Errorf("said %s", said)
	}
	if s := markdown("[a](b) *c* `d` <e> |f| _g_ #h"); s != "\\[a\\]\\(b\\) \\*c\\* \\`d\\` \\<e\\> \\|f\\| \\_g\\_ \\#h" {
		t.Errorf("Markdown: %s", s)
	}
	m := slackText(note{Text: "<!channel> & <https://evil.example|here>"})
	if m.Text != "&lt;!channel&gt; &amp; &lt;https://evil.example|here&gt;" || m.Blocks[0].Elements[0].Elements[0].Type != "text" {
		t.Errorf("Slack: %+v", m)
	}
}

// received is a request that a server of a test was sent.
type received struct {
	method, path, body string
	header             http.Header
}

// listener is such a server.
func listener(t *testing.T, reply func(w http.ResponseWriter, r *http.Request)) (*httptest.Server, chan received) {
	t.Helper()
	all := make(chan received, 16)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		all <- received{r.Method, r.URL.EscapedPath(), string(body), r.Header}
		if reply != nil {
			reply(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	return srv, all
}

// nearby are surroundings with a directory of a test's.
func nearby(t *testing.T, files map[string]string) surroundings {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return surroundings{dir: dir, env: environ{"TOKEN=tok3n", "NOTHING="}, log: slog.New(slog.DiscardHandler), std: stdio{err: io.Discard}}
}

// part gives a way its part of these settings.
func part(t *testing.T, name, text string) func(any) error {
	t.Helper()
	s, err := parseSettings([]byte(name + ": " + text))
	if err != nil {
		t.Fatal(err)
	}
	return func(v any) error { return strictly(s.Ways[name], v) }
}

func TestEachPresetSaysTheSameInItsServersWords(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, settings string
		want           received
	}{
		{"ntfy", `[{preset: ntfy, url: {file: url}, page: "https://me.example/"}]`, received{"POST", "/x", "", http.Header{"Title": {"A release waits for you"}, "Priority": {"high"}, "Click": {"https://me.example/"}}}},
		{"ntfy with a token", `[{preset: ntfy, url: URL, token: {env: TOKEN}}]`, received{"POST", "/x", "", http.Header{"Authorization": {"Bearer tok3n"}}}},
		{"gotify", `[{preset: gotify, url: URL, token: {env: TOKEN}, page: "https://me.example/"}]`, received{"POST", "/x/message", "message", http.Header{"X-Gotify-Key": {"tok3n"}, "Content-Type": {"application/json"}}}},
		{"discord", `[{preset: discord, url: {file: url}}]`, received{"POST", "/x", "content", http.Header{"Content-Type": {"application/json"}}}},
		{"matrix", `[{preset: matrix, url: URL, token: {env: TOKEN}, room: "!a/b:example.org"}]`, received{"PUT", "/x/_matrix/client/v3/rooms/%21a%2Fb:example.org/send/m.room.message/", "body", http.Header{"Authorization": {"Bearer tok3n"}}}},
		{"a template", `[{url: {file: url}, template: '{"t": {{json .Sentence}}, "n": {{.Number}}, "r": {{json .Repository}}}'}]`, received{"POST", "/x", "t", http.Header{"Content-Type": {"application/json"}}}},
		{"a template of text", `[{url: {file: url}, type: text/plain, template: "{{.Text}}"}]`, received{"POST", "/x", "", http.Header{"Content-Type": {"text/plain"}}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			srv, all := listener(t, nil)
			sur := nearby(t, map[string]string{"url": srv.URL + "/x"})
			a, err := openWebhook(sur, part(t, "webhook", strings.ReplaceAll(test.settings, "URL", "\""+srv.URL+"/x\"")))
			if err != nil {
				t.Fatal(err)
			}
			news, done := make(chan answer.News), make(chan error, 1)
			go func() { done <- a.Ask(t.Context(), news, &openings{}) }()
			p := asksForACode("A", 7)
			p.Facts.Workflow = `a "quoted" *name*`
			tells(news, p)
			got := <-all
			close(news)
			if err := <-done; err != nil {
				t.Error(err)
			}
			if got.method != test.want.method || got.path != test.want.path && !(strings.HasSuffix(test.want.path, "/") && strings.HasPrefix(got.path, test.want.path)) {
				t.Errorf("%s %s", got.method, got.path)
			}
			for name, v := range test.want.header {
				if !slices.Equal(got.header[name], v) {
					t.Errorf("%s is %q", name, got.header[name])
				}
			}
			text := got.body
			if test.want.body != "" {
				var m map[string]any
				if err := json.Unmarshal([]byte(got.body), &m); err != nil {
					t.Fatalf("%v: %s", err, got.body)
				}
				text, _ = m[test.want.body].(string)
			}
			if !strings.HasPrefix(strings.ReplaceAll(text, `\`, ""), `electron/asar wants a code for npm, in its workflow "a `) || strings.Contains(text, p.Match) || strings.Contains(text, "evil") {
				t.Errorf("it says %s", text)
			}
		})
	}
}

// What is wrong with settings is said when the program starts, and no secret with it.
func TestChatSettingsAreStrict(t *testing.T) {
	t.Parallel()
	sur := nearby(t, map[string]string{"url": "https://ntfy.sh/s3cret", "empty": "", "two": "s3cret a\nb", "token": "s3cret"})
	if err := os.WriteFile(filepath.Join(sur.dir, "open"), []byte("s3cret"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ way, settings, want string }{
		{"webhook", `[{preset: ntfy, url: {file: url}}]`, ""},
		{"webhook", `[]`, "name 1 to 8"},
		{"webhook", `[{preset: pigeon, url: {file: url}}]`, "none that is known (discord, gotify, matrix, ntfy)"},
		{"webhook", `[{preset: ntfy, url: "https://ntfy.sh/s3cret"}]`, "it is a secret"},
		{"webhook", `[{preset: discord, url: "https://discord.com/api/webhooks/1/s3cret"}]`, "it is a secret"},
		{"webhook", `[{preset: gotify, url: "https://g.example", token: s3cret}]`, "it is a secret"},
		{"webhook", `[{preset: gotify, url: "https://g.example"}]`, "gotify needs one"},
		{"webhook", `[{preset: discord, url: {file: url}, token: {file: token}}]`, "discord takes none"},
		{"webhook", `[{preset: matrix, url: "https://m.example", token: {file: token}, room: "#a:b"}]`, "the room's id"},
		{"webhook", `[{preset: ntfy, url: {file: none}}]`, "there is no file"},
		{"webhook", `[{preset: ntfy, url: {file: empty}}]`, "it is empty"},
		{"webhook", `[{preset: ntfy, url: {file: two}}]`, "more than one word"},
		{"webhook", `[{preset: ntfy, url: {file: token}}]`, "that is no URL"},
		{"webhook", `[{preset: ntfy, url: {env: NOTHING}}]`, "it is empty"},
		{"webhook", `[{preset: ntfy, url: {env: TOKEN, file: url}}]`, "either"},
		{"webhook", `[{preset: ntfy, url: {fil: url}}]`, "either"},
		{"webhook", `[{preset: ntfy, url: "http://ntfy.example/x", token: {file: token}}]`, "must begin with https://"},
		{"webhook", `[{preset: ntfy, url: "https://a:s3cret@ntfy.example/x", token: {file: token}}]`, "password"},
		{"webhook", `[{preset: ntfy, url: {file: url}, private: [router]}]`, "no address"},
		{"webhook", `[{preset: ntfy, url: {file: url}, page: "javascript:alert(1)"}]`, "page"},
		{"webhook", `[{preset: ntfy, url: {file: url}, sound: loud}]`, "sound"},
		{"webhook", `[{preset: ntfy, url: {file: url}, template: x}]`, "leave one of the two out"},
		{"webhook", `[{url: {file: url}}]`, "a preset or a template"},
		{"webhook", `[{url: {file: url}, template: '{"t": "{{.Text}}"}'}]`, "write {{json .Text}}"},
		{"webhook", `[{url: {file: url}, template: '{{json .Message}}'}]`, "Message"},
		{"webhook", `[{url: {file: url}, template: '{{'}]`, "template"},
		{"webhook", `[{url: {file: url}, type: text/plain, template: '{{range 100000}}x{{end}}'}]`, "more than"},
		{"slack", `{webhook: {file: url}}`, ""},
		{"slack", `{token: {file: token}, channel: C0123456}`, ""},
		{"slack", `{}`, "it needs either"},
		{"slack", `{webhook: {file: url}, token: {file: token}}`, "it needs either"},
		{"slack", `{webhook: "https://hooks.slack.com/services/s3cret"}`, "it is a secret"},
		{"slack", `{token: s3cret, channel: C0123456}`, "it is a secret"},
		{"slack", `{token: {file: token}, channel: "#releases"}`, "the channel's id"},
		{"slack", `{webhook: {file: url}, channel: C0123456}`, "can only ring"},
		{"slack", `{token: {file: token}, channel: C0123456, codes-in-chat: true}`, "exactly this sentence: \"slack can read every code\""},
		{"slack", `{token: {file: token}, channel: C0123456, codes-in-chat: Slack can read every code}`, "exactly this sentence"},
		{"slack", `{token: {file: token}, channel: C0123456, codes-in-chat: slack can read every code}`, "users: name 1 to"},
		{"slack", `{token: {file: token}, channel: C0123456, codes-in-chat: slack can read every code, users: [ada]}`, "no user's id"},
		{"slack", `{token: {file: token}, channel: C0123456, codes-in-chat: slack can read every code, users: [U0123456]}`, "app-token"},
		{"slack", `{token: {file: token}, channel: C0123456, users: [U0123456]}`, "does not say that you want that"},
		{"slack", `{token: {file: token}, channel: C0123456, codes-in-chat: slack can read every code, users: [U0123456], app-token: {file: token}}`, ""},
	} {
		_, err := findWay(test.way).open(sur, part(t, test.way, test.settings))
		switch {
		case test.want == "" && err != nil, test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s: %v", test.settings, err)
		case err != nil && strings.Contains(err.Error(), "s3cret"):
			t.Errorf("%s: the secret is in the error: %v", test.settings, err)
		}
	}
	if modesCount {
		_, err := openSlack(sur, part(t, "slack", `{webhook: {file: open}}`))
		if err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("a file that others can read: %v", err)
		}
	}
	for _, w := range ways {
		if (w.name == "slack" || w.name == "webhook") && w.byItself {
			t.Errorf("%s tells somebody's server of a prompt without being named", w.name)
		}
	}
}

func TestNoRedirectIsFollowedAndNoErrorNamesTheAddress(t *testing.T) {
	t.Parallel()
	elsewhere, reached := listener(t, nil)
	for name, test := range map[string]struct {
		reply func(w http.ResponseWriter, r *http.Request)
		want  string
		wait  time.Duration
	}{
		"it redirects": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, "not followed", 0},
		"it is busy": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Retry-After", "30"); w.WriteHeader(429) }, "fewer messages", 30 * time.Second},
		"for very long": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "999999")
			w.WriteHeader(429)
		}, "fewer messages", longestWait},
		"it refuses":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404); _, _ = io.WriteString(w, "s3cret") }, "status 404", 0},
		"it floods":   {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 1<<20)) }, "more than can be read", 0},
		"it hangs up": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "cannot be reached", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv, _ := listener(t, test.reply)
			_, err := newOutbound(nil, nil).send(t.Context(), "POST", srv.URL+"/s3cret", http.Header{"Authorization": {"s3cret"}}, nil)
			u, ok := errors.AsType[*unsent](err)
			if !ok || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "s3cret") || u.wait != test.wait {
				t.Errorf("%v, %+v", err, u)
			}
		})
	}
	t.Cleanup(func() {
		if len(reached) > 0 {
			t.Error("a redirect was followed")
		}
	})
	srv, _ := listener(t, nil)
	srv.Close()
	if _, err := newOutbound(nil, nil).send(t.Context(), "POST", srv.URL+"/s3cret", http.Header{}, nil); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("nobody there: %v", err)
	}
}

func TestPrivateAddressesMustBeNamed(t *testing.T) {
	t.Parallel()
	named, err := privately([]string{"192.168.1.0/24", "fd00::5"})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		host, ip string
		private  []netip.Prefix
		want     bool
	}{
		{"ntfy.sh", "159.203.148.75", nil, true},
		{"ntfy.sh", "2604:a880::1", nil, true},
		{"evil.example", "127.0.0.1", nil, false},
		{"evil.example", "::1", nil, false},
		{"evil.example", "::ffff:127.0.0.1", nil, false},
		{"evil.example", "192.168.1.1", nil, false},
		{"evil.example", "10.0.0.1", nil, false},
		{"evil.example", "169.254.169.254", nil, false},
		{"evil.example", "100.100.1.1", nil, false},
		{"evil.example", "fe80::1", nil, false},
		{"evil.example", "fd00::5", nil, false},
		{"evil.example", "0.0.0.0", nil, false},
		{"evil.example", "224.0.0.1", nil, false},
		{"gotify.home", "192.168.1.7", named, true},
		{"gotify.home", "fd00::5", named, true},
		{"gotify.home", "192.168.2.7", named, false},
		{"192.168.1.7", "192.168.1.7", nil, true},
		{"localhost", "127.0.0.1", nil, true},
		{"localhost", "192.168.1.7", nil, false},
	} {
		if got := reachable(test.host, netip.MustParseAddr(test.ip), test.private); got != test.want {
			t.Errorf("%s at %s: %v", test.host, test.ip, got)
		}
	}
}
