package page

// The page as a stranger meets it, and as its owner's browser does: over HTTP, with
// what each of them can send.

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/answer"
)

const within = 30 * time.Second

// desk is a desk that writes down what it is told.
type desk struct {
	mu    sync.Mutex
	calls []string
	err   error
	left  []answer.LeftOut
	heard chan struct{} // rings at each
}

func (d *desk) note(format string, args ...any) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.calls = append(d.calls, fmt.Sprintf(format, args...))
	select {
	case d.heard <- struct{}{}:
	default:
	}
	return d.err
}

func (d *desk) all() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

func (d *desk) fails(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *desk) Open(id string) { _ = d.note("open %s", id) }
func (d *desk) Answer(_ context.Context, a answer.Answer) error {
	return d.note("answer %s %d %s %s", a.ID, a.Attempt, a.Code, a.Match)
}
func (d *desk) AnswerAll(_ context.Context, a answer.Together) ([]answer.LeftOut, error) {
	return d.left, d.note("all %v %s %s", a.Members, a.Code, a.Match)
}
func (d *desk) UseSource(_ context.Context, a answer.Answer) error {
	return d.note("source %s %d %s", a.ID, a.Attempt, a.Match)
}
func (d *desk) Follow(_ context.Context, a answer.Answer) (string, error) {
	return "https://www.npmjs.com/auth/cli/x", d.note("follow %s %d %s", a.ID, a.Attempt, a.Match)
}
func (d *desk) Decline(_ context.Context, id, reason string) error {
	return d.note("decline %s %s", id, reason)
}
func (d *desk) Away(_ context.Context, until time.Time) error {
	return d.note("away %s", until.UTC().Format(time.RFC3339))
}
func (d *desk) Quit() { _ = d.note("quit") }

// stand is a page that is served, with a desk behind it.
type stand struct {
	t    *testing.T
	page *Page
	desk *desk
	news chan answer.News
	log  *record
	// where is the listener's address.
	where *record
	done  chan error
	time  *clock
}

// clock is the page's own, which a test moves.
type clock struct {
	mu  sync.Mutex
	off time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += d
}

func words(p answer.Prompt, now time.Time) Words {
	if p.Standing != answer.Verified {
		return Words{}
	}
	return Words{Sentence: p.Facts.Repository + " wants a code", Rows: [][2]string{{"repository", p.Facts.Repository}}}
}

func newStand(t *testing.T, change ...func(*Page)) *stand {
	t.Helper()
	return newStandOf(t, nil, change...)
}

func newStandOf(t *testing.T, phone *Phone, change ...func(*Page)) *stand {
	t.Helper()
	s := &stand{t: t, desk: &desk{heard: make(chan struct{}, 1)}, news: make(chan answer.News), log: &record{}, where: &record{}, done: make(chan error, 1), time: &clock{}}
	var err error
	s.page, err = New(Config{Describe: words, Log: slog.New(slog.NewJSONHandler(s.log, nil)), Phone: phone})
	if err != nil {
		t.Fatal(err)
	}
	s.page.now, s.page.tick = s.time.now, 20*time.Millisecond
	for _, c := range change {
		c(s.page)
	}
	listen := s.page.listen
	s.page.listen = func() (net.Listener, error) {
		l, err := listen()
		if err == nil {
			_, _ = s.where.Write([]byte(l.Addr().String()))
		}
		return l, err
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() { s.done <- s.page.Ask(ctx, s.news, s.desk) }()
	t.Cleanup(func() {
		close(s.news)
		if err := <-s.done; err != nil {
			t.Errorf("it ended with %v", err)
		}
		stop()
	})
	s.waits(func() bool { return s.page.at.Load() != nil })
	return s
}

// record is a log that is read while it is written.
type record struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (r *record) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.text.Write(b)
}

func (s *stand) logged() string {
	s.log.mu.Lock()
	defer s.log.mu.Unlock()
	return s.log.text.String()
}

// address is where it listens, whatever its name is.
func (s *stand) address() string {
	s.where.mu.Lock()
	defer s.where.mu.Unlock()
	return s.where.text.String()
}

func (s *stand) waits(ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal("it did not come to that")
		}
	}
}

func (s *stand) tell(p answer.Prompt) { s.news <- answer.News{Prompt: &p} }

// visitor is a browser, as far as a server sees it.
type visitor struct {
	t      *testing.T
	at     place
	cookie string
	token  string
}

func (s *stand) visitor() *visitor { return &visitor{t: s.t, at: *s.page.at.Load()} }

// request makes one as the page's own script does; change makes it somebody else's.
func (v *visitor) request(method, path, body string, change func(*http.Request)) *http.Request {
	v.t.Helper()
	r, err := http.NewRequestWithContext(v.t.Context(), method, v.at.origin()+path, strings.NewReader(body))
	if err != nil {
		v.t.Fatal(err)
	}
	if method == http.MethodPost {
		r.Header.Set("Origin", v.at.origin())
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	if v.cookie != "" {
		r.AddCookie(&http.Cookie{Name: v.at.cookie, Value: v.cookie})
	}
	if v.token != "" {
		r.Header.Set(tokenHeader, v.token)
	}
	if change != nil {
		change(r)
	}
	return r
}

func (v *visitor) do(method, path, body string, change func(*http.Request)) (*http.Response, string) {
	v.t.Helper()
	r, err := http.DefaultClient.Do(v.request(method, path, body, change))
	if err != nil {
		v.t.Fatal(err)
	}
	defer r.Body.Close()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	return r, string(data)
}

func (v *visitor) post(path, body string) (int, string) {
	v.t.Helper()
	r, text := v.do(http.MethodPost, path, body, nil)
	return r.StatusCode, text
}

func (s *stand) link() (link, ticket string) {
	s.t.Helper()
	link, err := s.page.Link()
	if err != nil {
		s.t.Fatal(err)
	}
	u, err := url.Parse(link)
	if err != nil || u.RawQuery != "" || u.Path != "/" || u.Fragment == "" {
		s.t.Fatalf("its secret is in what a browser sends: %s", link)
	}
	return link, u.Fragment
}

// owner is a visitor who is in.
func (s *stand) owner() *visitor {
	s.t.Helper()
	v := s.visitor()
	_, ticket := s.link()
	v.enters(ticket)
	return v
}

func (v *visitor) enters(ticket string) {
	v.t.Helper()
	r, text := v.do(http.MethodPost, "/api/enter", `{"ticket":"`+ticket+`"}`, nil)
	var got struct{ Token string }
	if err := json.Unmarshal([]byte(text), &got); err != nil || r.StatusCode != http.StatusOK {
		v.t.Fatalf("not let in: %d %s", r.StatusCode, text)
	}
	for _, c := range r.Cookies() {
		if c.Name == v.at.cookie {
			v.cookie = c.Value
			if !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" || c.MaxAge != 0 {
				v.t.Errorf("the cookie is %+v", c)
			}
		}
	}
	v.token = got.Token
}

// stream reads the news.
func (v *visitor) stream() (events <-chan [2]string) {
	v.t.Helper()
	r, err := http.DefaultClient.Do(v.request(http.MethodPost, "/api/news", "{}", nil))
	if err != nil {
		v.t.Fatal(err)
	}
	if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != "text/event-stream" {
		v.t.Fatalf("no stream: %d", r.StatusCode)
	}
	c := make(chan [2]string, 1024)
	go func() {
		defer close(c)
		defer r.Body.Close()
		lines, name := bufio.NewScanner(r.Body), ""
		for lines.Scan() {
			if n, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
				name = n
			}
			if d, ok := strings.CutPrefix(lines.Text(), "data: "); ok && name != "clock" {
				c <- [2]string{name, d}
			}
		}
	}()
	return c
}

func (v *visitor) next(events <-chan [2]string, name, part string) string {
	v.t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				v.t.Fatalf("the stream ended before %s %s", name, part)
			}
			if e[0] == name && strings.Contains(e[1], part) {
				return e[1]
			}
		case <-timer.C:
			v.t.Fatalf("never told of %s %s", name, part)
		}
	}
}

func ended(t *testing.T, events <-chan [2]string) {
	t.Helper()
	timer := time.NewTimer(within)
	defer timer.Stop()
	for {
		select {
		case _, ok := <-events:
			if !ok {
				return
			}
		case <-timer.C:
			t.Fatal("the stream goes on")
		}
	}
}

func prompt(id string) answer.Prompt {
	return answer.Prompt{
		ID: id, Number: 1, Phase: answer.Asking, Standing: answer.Verified, Answerable: true, Project: "asar", Ask: "code", Service: "npm", Format: "6 digits",
		Facts: answer.Facts{Repository: "electron/asar"}, Attempt: 1, Since: time.Now(), Deadline: time.Now().Add(time.Hour),
	}
}

func TestWhoHasTheLinkSeesWhatWaitsAndDecides(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	s.tell(prompt("A"))
	v := s.owner()
	events := v.stream()
	v.next(events, "hello", "now")
	if got := v.next(events, "prompt", `"id":"A"`); !strings.Contains(got, `"sentence":"electron/asar wants a code"`) || !strings.Contains(got, `"rows":[["repository","electron/asar"]]`) {
		t.Errorf("told %s", got)
	}
	s.news <- answer.News{Notice: "connected"}
	v.next(events, "notice", "connected")
	s.news <- answer.News{Away: &answer.Absence{Until: time.Now().Add(time.Hour)}}
	v.next(events, "away", `"until":"2`)
	later := prompt("B")
	s.tell(later)
	v.next(events, "prompt", `"id":"B"`)
	s.desk.left = []answer.LeftOut{{ID: "B", Err: errors.New("too late")}}
	for _, c := range []struct{ path, body, want, reply string }{
		{"/api/open", `{"ids":["A"]}`, "open A", "{}"},
		{"/api/answer", `{"id":"A","attempt":2,"code":"493817","match":"K7"}`, "answer A 2 493817 K7", "{}"},
		{"/api/answer-all", `{"members":[{"id":"A","attempt":1},{"id":"B","attempt":3}],"code":"493817","match":""}`, "all [{A 1} {B 3}] 493817 ", `{"left":[{"id":"B","error":"too late"}]}`},
		{"/api/follow", `{"id":"A","attempt":1,"code":"","match":"K7"}`, "follow A 1 K7", `{"link":"https://www.npmjs.com/auth/cli/x","host":"www.npmjs.com"}`},
		{"/api/decline", `{"id":"A","reason":"not mine"}`, "decline A not mine", "{}"},
		{"/api/away", `{"until":"2026-12-01T18:00:00+01:00"}`, "away 2026-12-01T17:00:00Z", "{}"},
		{"/api/away", `{"until":"0001-01-01T00:00:00Z"}`, "away 0001-01-01T00:00:00Z", "{}"},
	} {
		if status, text := v.post(c.path, c.body); status != http.StatusOK || strings.TrimSpace(text) != c.reply {
			t.Errorf("%s: %d %s", c.path, status, text)
		}
		if calls := s.desk.all(); calls[len(calls)-1] != c.want {
			t.Errorf("%s told the desk %q", c.path, calls[len(calls)-1])
		}
	}
	for err, want := range map[error]string{
		fmt.Errorf("%w: it has 5 characters", answer.ErrCode): `"kind":"code"`, answer.ErrMatch: `"kind":"match"`, answer.ErrOneEach: `"kind":"one-each"`,
		answer.ErrNotAnswerable: `"error":"this prompt cannot be answered"}`,
	} {
		s.desk.fails(err)
		if status, text := v.post("/api/answer", `{"id":"A","attempt":1,"code":"1","match":""}`); status != http.StatusConflict || !strings.Contains(text, want) {
			t.Errorf("%v: %d %s", err, status, text)
		}
	}
	over := prompt("B")
	over.Phase, over.Standing, over.Facts, over.Why = answer.Over, answer.Unopened, answer.Facts{}, "you answered"
	s.tell(over)
	v.next(events, "prompt", `"phase":"over"`)
	if log := s.logged(); strings.Contains(log, "493817") {
		t.Errorf("a code is in the log: %s", log)
	}
}

// What another page, another name, another port or another user can send.
func TestNobodyElseIsAnswered(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	v := s.owner()
	other := s.owner()
	const body = `{"id":"A","attempt":1,"code":"493817","match":""}`
	header := func(name string, values ...string) func(*http.Request) {
		return func(r *http.Request) {
			r.Header.Del(name)
			for _, v := range values {
				r.Header.Add(name, v)
			}
		}
	}
	_, port, _ := net.SplitHostPort(v.at.host)
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		want   int
	}{
		{"another site's script", func(r *http.Request) {
			r.Header.Set("Origin", "https://evil.example")
			r.Header.Set("Sec-Fetch-Site", "cross-site")
		}, http.StatusForbidden},
		{"another port of this machine", func(r *http.Request) {
			r.Header.Set("Origin", "http://127.0.0.1:1")
			r.Header.Set("Sec-Fetch-Site", "same-site")
		}, http.StatusForbidden},
		{"localhost, which is another origin", header("Origin", "http://localhost:"+port), http.StatusForbidden},
		{"a sandboxed frame or a file", header("Origin", "null"), http.StatusForbidden},
		{"no origin", header("Origin"), http.StatusForbidden},
		{"two origins", header("Origin", "https://evil.example", v.at.origin()), http.StatusForbidden},
		{"an origin that begins alike", header("Origin", v.at.origin()+".evil.example"), http.StatusForbidden},
		{"the browser says that it is another site", header("Sec-Fetch-Site", "cross-site"), http.StatusForbidden},
		{"the browser says that it is the same site", header("Sec-Fetch-Site", "same-site"), http.StatusForbidden},
		{"somebody typed it", header("Sec-Fetch-Site", "none"), http.StatusForbidden},
		{"a name that was pointed here", func(r *http.Request) { r.Host = "evil.example:" + port }, http.StatusMisdirectedRequest},
		{"a name that was pointed here, and its own origin", func(r *http.Request) {
			r.Host = "evil.example:" + port
			r.Header.Set("Origin", "http://evil.example:"+port)
		}, http.StatusMisdirectedRequest},
		{"localhost", func(r *http.Request) { r.Host = "localhost:" + port }, http.StatusMisdirectedRequest},
		{"no port", func(r *http.Request) { r.Host = "127.0.0.1" }, http.StatusMisdirectedRequest},
		{"another loopback address", func(r *http.Request) { r.Host = "127.0.0.2:" + port }, http.StatusMisdirectedRequest},
		{"a form", header("Content-Type", "application/x-www-form-urlencoded"), http.StatusUnsupportedMediaType},
		{"a form of plain text", header("Content-Type", "text/plain"), http.StatusUnsupportedMediaType},
		{"a type with more", header("Content-Type", "application/json; charset=utf-8"), http.StatusUnsupportedMediaType},
		{"the cookie alone, which each port gets", header(tokenHeader), http.StatusUnauthorized},
		{"the token alone", header("Cookie"), http.StatusUnauthorized},
		{"another session's token", header(tokenHeader, other.token), http.StatusUnauthorized},
		{"another session's cookie", header("Cookie", v.at.cookie+"="+other.cookie), http.StatusUnauthorized},
		{"a cookie of another name", header("Cookie", "cfa="+v.cookie), http.StatusUnauthorized},
		{"a guess", header(tokenHeader, strings.Repeat("A", 43)), http.StatusUnauthorized},
	} {
		for path := range deeds {
			if deeds[path].phone {
				continue // it is not there
			}
			if deeds[path].open && c.want == http.StatusUnauthorized {
				continue // it needs neither
			}
			if r, text := v.do(http.MethodPost, path, body, c.change); r.StatusCode != c.want {
				t.Errorf("%s, %s: %d %s", path, c.name, r.StatusCode, text)
			}
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodOptions, "TRACE"} {
		for path := range deeds {
			if deeds[path].phone {
				continue
			}
			r, _ := v.do(method, path, "", func(r *http.Request) { r.Header.Set("Origin", v.at.origin()) })
			if r.StatusCode != http.StatusMethodNotAllowed || r.Header.Get("Access-Control-Allow-Origin") != "" {
				t.Errorf("%s %s: %d", method, path, r.StatusCode)
			}
		}
	}
	if calls := s.desk.all(); len(calls) != 0 {
		t.Errorf("the desk was told %q", calls)
	}
	if status, text := v.post("/api/answer", body); status != http.StatusOK {
		t.Errorf("the fault did not happen: its owner is refused too: %d %s", status, text)
	}
}

func TestALinkWorksOnceAndNotForLong(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	_, first := s.link()
	_, second := s.link()
	_, third := s.link()
	if first == second || len(first) != 43 {
		t.Errorf("tickets %q %q", first, second)
	}
	v := s.visitor()
	v.enters(first)
	if status, text := s.visitor().post("/api/enter", `{"ticket":"`+first+`"}`); status != http.StatusUnauthorized || !strings.Contains(text, "used already, or is too old") {
		t.Errorf("again: %d %s", status, text)
	}
	// Whoever tries it at the same moment gets in once.
	results := make(chan int, 8)
	for range cap(results) {
		go func() {
			r, err := http.DefaultClient.Do(s.visitor().request(http.MethodPost, "/api/enter", `{"ticket":"`+second+`"}`, nil))
			if err != nil {
				results <- 0
				return
			}
			r.Body.Close()
			results <- r.StatusCode
		}()
	}
	in := 0
	for range cap(results) {
		if <-results == http.StatusOK {
			in++
		}
	}
	if in != 1 {
		t.Errorf("one link let %d in", in)
	}
	s.time.move(TicketLasts)
	if status, _ := s.visitor().post("/api/enter", `{"ticket":"`+third+`"}`); status != http.StatusUnauthorized {
		t.Errorf("an old one: %d", status)
	}
	for _, body := range []string{`{"ticket":""}`, `{}`, `{"ticket":"` + strings.Repeat("A", 43) + `"}`} {
		if status, _ := s.visitor().post("/api/enter", body); status != http.StatusUnauthorized {
			t.Errorf("%s: %d", body, status)
		}
	}
	for range 3 * maxTickets {
		s.link()
	}
	if n := len(s.page.sessions.tickets); n > maxTickets {
		t.Errorf("%d tickets are kept", n)
	}
}

func TestASessionEndsWithIdlenessAndAtLogOut(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	idle, out := s.owner(), s.owner()
	idling, leaving := idle.stream(), out.stream()
	idle.next(idling, "hello", "")
	out.next(leaving, "hello", "")

	r, _ := out.do(http.MethodPost, "/api/leave", "{}", nil)
	if r.StatusCode != http.StatusOK || len(r.Cookies()) != 1 || r.Cookies()[0].MaxAge >= 0 {
		t.Errorf("log out: %d %v", r.StatusCode, r.Cookies())
	}
	ended(t, leaving)
	if status, _ := out.post("/api/open", `{"ids":["A"]}`); status != http.StatusUnauthorized {
		t.Errorf("after log out: %d", status)
	}

	s.time.move(idleLasts - time.Minute)
	// What the page does by itself is no sign of a human.
	if status, _ := idle.post("/api/open", `{"ids":["A"]}`); status != http.StatusOK {
		t.Errorf("before its time: %d", status)
	}
	s.time.move(time.Minute)
	ended(t, idling)
	if status, _ := idle.post("/api/open", `{"ids":["A"]}`); status != http.StatusUnauthorized {
		t.Errorf("after half a day: %d", status)
	}
	used := s.owner()
	for range 3 {
		s.time.move(idleLasts - time.Minute)
		if status, _ := used.post("/api/decline", `{"id":"A","reason":""}`); status != http.StatusOK {
			t.Errorf("one that is used: %d", status)
		}
	}
}

func TestSessionsAndStreamsAreBounded(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	first := s.owner()
	stream := first.stream()
	first.next(stream, "hello", "")
	for range maxStreams - 1 {
		first.next(first.stream(), "hello", "")
	}
	if status, text := first.post("/api/news", "{}"); status != http.StatusTooManyRequests || !strings.Contains(text, "close one") {
		t.Errorf("one stream too many: %d %s", status, text)
	}
	s.time.move(time.Second)
	for range maxSessions {
		s.owner()
	}
	if n := len(s.page.sessions.in); n != maxSessions {
		t.Errorf("%d sessions", n)
	}
	ended(t, stream) // the one that was used the longest ago has made room
	v := s.owner()
	if status, _ := v.post("/api/open", `{"ids":["`+strings.Repeat("A", maxBody)+`"]}`); status != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body: %d", status)
	}
	for _, body := range []string{"", "[]", "null", `{"ids":["A"],"more":1}`, `{"ids":["A"]}{}`, `{"ids":["A"],"ids":["B"]}`, `{"IDS":["A"]}`} {
		if status, text := v.post("/api/open", body); status != http.StatusBadRequest {
			t.Errorf("%s: %d %s", body, status, text)
		}
	}
	if calls := s.desk.all(); len(calls) != 0 {
		t.Errorf("the desk was told %q", calls)
	}
}

// Whatever is served says the same of how it may be used, and what stands in it holds
// to that.
func TestWhatIsServedIsInNoFrameAndLoadsNothingFromElsewhere(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	v := s.visitor()
	for path, f := range files {
		r, text := v.do(http.MethodGet, path, "", nil)
		if r.StatusCode != http.StatusOK || r.Header.Get("Content-Type") != f.kind || text == "" {
			t.Errorf("%s: %d %s", path, r.StatusCode, r.Header.Get("Content-Type"))
		}
		if path == "/icon.svg" {
			text = strings.ReplaceAll(text, "http://www.w3.org/2000/svg", "")
		}
		for _, never := range []string{"http://", "https://w", "//cdn", "innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "new Function", " style=", "onclick=", "javascript:", "@import", "localStorage"} {
			if strings.Contains(text, never) {
				t.Errorf("%s holds %s", path, never)
			}
		}
	}
	for _, path := range []string{"/", "/page.js", "/none", "/api/answer", "/static/page.js", "/%2e%2e/page.go", "//evil.example"} {
		r, _ := v.do(http.MethodGet, path, "", nil)
		for name, want := range map[string]string{
			"X-Frame-Options": "DENY", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer",
			"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if got := r.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
		csp := r.Header.Get("Content-Security-Policy")
		for _, want := range []string{"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"} {
			if !strings.Contains(csp, want) {
				t.Errorf("%s: no %s in %s", path, want, csp)
			}
		}
		if strings.Contains(csp, "unsafe") || strings.Contains(csp, "*") || strings.Contains(csp, "http") {
			t.Errorf("%s: %s", path, csp)
		}
	}
	for _, c := range []struct {
		path, site, dest string
		want             int
	}{
		{"/", "none", "document", http.StatusOK},
		{"/", "cross-site", "document", http.StatusOK}, // a link, of which the file that opens the page is one
		{"/", "cross-site", "iframe", http.StatusForbidden},
		{"/", "same-site", "iframe", http.StatusForbidden},
		{"/", "cross-site", "object", http.StatusForbidden},
		{"/", "cross-site", "embed", http.StatusForbidden},
		{"/page.js", "same-origin", "script", http.StatusOK},
		{"/page.js", "same-site", "script", http.StatusForbidden},
		{"/page.js", "cross-site", "script", http.StatusForbidden},
	} {
		r, _ := v.do(http.MethodGet, c.path, "", func(r *http.Request) {
			r.Header.Set("Sec-Fetch-Site", c.site)
			r.Header.Set("Sec-Fetch-Dest", c.dest)
		})
		if r.StatusCode != c.want {
			t.Errorf("%+v: %d", c, r.StatusCode)
		}
	}
}

func TestItListensOnLoopbackOnlyAndComesBack(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var listeners []net.Listener
	failing := true
	s := newStand(t, func(p *Page) {
		listen := p.listen
		p.listen = func() (net.Listener, error) {
			mu.Lock()
			defer mu.Unlock()
			if failing {
				failing = false
				return nil, errors.New("no port is free")
			}
			l, err := listen()
			listeners = append(listeners, l)
			return l, err
		}
	})
	if a := s.page.at.Load().host; !strings.HasPrefix(a, "127.0.0.1:") {
		t.Errorf("it listens at %s", a)
	}
	v := s.owner()
	before := s.page.at.Load()
	mu.Lock()
	listeners[0].Close()
	mu.Unlock()
	s.waits(func() bool { at := s.page.at.Load(); return at != nil && at != before })
	// Another origin: the old session is none there.
	v.at = *s.page.at.Load()
	if status, _ := v.post("/api/open", `{"ids":["A"]}`); status != http.StatusUnauthorized {
		t.Errorf("the old session at the new port: %d", status)
	}
	s.owner()
}

// What is shown is JSON text to the page, whatever is in it.
func TestNoPromptBreaksOutOfItsEvent(t *testing.T) {
	t.Parallel()
	s := newStand(t)
	v := s.owner()
	events := v.stream()
	p := prompt("A")
	p.Message = "x\n\nevent: prompt\ndata: {\"id\":\"B\"}\n\n</script><img src=x onerror=alert(1)>\u2028"
	s.tell(p)
	var got answer.Prompt
	if err := json.Unmarshal([]byte(v.next(events, "prompt", "")), &got); err != nil || got.ID != "A" || got.Message != p.Message {
		t.Errorf("%v %+v", err, got)
	}
}
