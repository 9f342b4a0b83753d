//go:build clients

package page_test

// The page in a real Chromium, served by the real responder, with a relay that does
// as it is told at the other end.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/chromedp/cdproto/accessibility"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/continuousauth/action/internal/answer/answertest"
	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

const (
	relayName = "relay.test"
	project   = "asar"
	repo      = "electron/asar"
	code      = "493817"
	npmLink   = "https://www.npmjs.com/auth/cli/11111111-2222-3333-4444-555555555555"
	// within is for what takes a moment: a slow machine is no failure.
	within = time.Minute
)

var built struct {
	sync.Once
	dir string
	err error
}

func TestMain(m *testing.M) {
	result := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(result)
}

// responder builds the program once.
func responder(t testing.TB) string {
	t.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "cfa"); built.err != nil {
			return
		}
		cmd := exec.Command("go", "build", "-o", built.dir, "./responder")
		cmd.Dir = "../.."
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return filepath.Join(built.dir, "responder")
}

// chromium is the path of a Chromium.
func chromium(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("chromium is missing: apt-get install chromium")
	}
	t.Skip("chromium is missing: apt-get install chromium")
	return ""
}

// scene is a relay, an issuer and a responder that runs.
type scene struct {
	t      testing.TB
	relay  *answertest.Relay
	issuer *devissuer.Issuer
	dir    string
	socket string
	logs   string
	said   *bytes.Buffer
}

func newScene(t testing.TB, settings string) *scene {
	t.Helper()
	dir, err := os.MkdirTemp("", "cfa") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &scene{t: t, dir: dir, socket: filepath.Join(dir, "s"), logs: filepath.Join(dir, "log"), said: &bytes.Buffer{}}
	if s.issuer, err = devissuer.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.issuer.Close)
	if s.relay, err = answertest.Listen(relayName); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.relay.Close)
	keys, pins, file := filepath.Join(dir, "responder.key"), filepath.Join(dir, "pins.yaml"), filepath.Join(dir, "responder.yaml")
	public := s.run("keygen", "--key-file", keys, "--name", "ada")
	connect := ""
	for _, word := range strings.FieldsFunc(public, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		if len(word) == 56 && word[0] == 'U' {
			connect = word
		}
	}
	s.relay.Enrol(connect, "ada")
	claims := devissuer.GitHubClaims(repo, nil)
	s.run("pins", "--pins", pins, "issuer", "--name", "dev", "--url", s.issuer.URL())
	s.run("pins", "--pins", pins, "add", project, "--provider", "dev", "--repository", repo, "--repository-id", claims["repository_id"].(string),
		"--repository-owner-id", claims["repository_owner_id"].(string), "--workflow", "release.yml", "--confirm", repo)
	write(t, file, "relays: [{url: \""+s.relay.URL()+"\", name: "+relayName+"}]\n"+settings)
	cmd := exec.Command(responder(t), "run", "--settings", file, "--key-file", keys, "--pins", pins, "--socket", s.socket, "--log", s.logs)
	cmd.Stderr = s.said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		timer := time.AfterFunc(within, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the responder ended with %v:\n%s", err, s.said)
		}
		for _, secret := range []string{code, "271828"} {
			if log, err := os.ReadFile(s.logs); err != nil || bytes.Contains(log, []byte(secret)) || bytes.Contains(s.said.Bytes(), []byte(secret)) {
				t.Errorf("a code is in the log, or there is none: %v", err)
			}
		}
	})
	waits(t, func() bool {
		out, err := exec.Command(responder(t), "status", "--socket", s.socket).Output()
		return err == nil && strings.Contains(string(out), "connected since") && !strings.Contains(string(out), "not connected")
	})
	return s
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *scene) run(args ...string) string {
	s.t.Helper()
	out, err := exec.Command(responder(s.t), args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("cfa-responder %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (s *scene) link() string {
	s.t.Helper()
	return strings.TrimSpace(s.run("open", "--print", "--socket", s.socket))
}

func (s *scene) job(over map[string]any, change func(*wire.Request)) *answertest.Job {
	s.t.Helper()
	j, err := answertest.GitHubJob(s.issuer, relayName, project, repo, over, change)
	if err != nil {
		s.t.Fatal(err)
	}
	return j
}

func waits(t testing.TB, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it did not come to that")
		}
	}
}

func got(t *testing.T, j *answertest.Job) string {
	t.Helper()
	select {
	case c := <-j.Got():
		return c
	case <-time.After(within):
		t.Fatal("the job got no code")
		return ""
	}
}

// browserTab is a Chromium with nothing in it but a tab.
type browserTab struct {
	t       testing.TB
	ctx     context.Context
	mu      sync.Mutex
	trouble []string // what it says at its console
}

func newBrowser(t testing.TB, more ...chromedp.ExecAllocatorOption) *browserTab {
	t.Helper()
	path := chromium(t)
	home, err := os.MkdirTemp("", "cfa-chromium")
	if err != nil {
		t.Fatal(err)
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(path), chromedp.UserDataDir(home), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WSURLReadTimeout(within),
		chromedp.Flag("disable-quic", true), chromedp.Flag("no-first-run", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true), chromedp.Flag("lang", "en-GB"))
	alloc, stopAll := chromedp.NewExecAllocator(context.Background(), append(options, more...)...)
	ctx, stop := chromedp.NewContext(alloc)
	b := &browserTab{t: t, ctx: ctx}
	t.Cleanup(func() {
		ending, cancel := context.WithTimeout(ctx, within)
		defer cancel()
		_ = chromedp.Cancel(ending)
		stop()
		stopAll()
		// Its processes may write a moment longer.
		for range 100 {
			if os.RemoveAll(home) == nil {
				break
			}
			time.Sleep(50 * time.Millisecond)
		}
	})
	err = chromedp.Listen(ctx, func(e any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := e.(type) {
		case *runtime.EventExceptionThrown:
			b.trouble = append(b.trouble, fmt.Sprintf("%s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception))
		case *page.EventJavascriptDialogOpening:
			b.trouble = append(b.trouble, "a dialog: "+e.Message)
			go func() { _, _ = chromedp.Call(ctx, page.HandleJavaScriptDialog, page.HandleJavaScriptDialogParams{}) }()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	b.do(chromedp.EmulateViewport(1100, 900))
	return b
}

// do does this in the browser.
func (b *browserTab) do(steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, stop := context.WithTimeout(b.ctx, within)
	defer stop()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.t.Fatalf("%v\n%s", err, b.text())
	}
}

// calls is a command of the browser's.
func calls[P, R any](b *browserTab, cmd cdp.Command[P, R], params P) R {
	b.t.Helper()
	ctx, stop := context.WithTimeout(b.ctx, within)
	defer stop()
	r, err := chromedp.Call(ctx, cmd, params)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// eval gives what an expression, or what it promises, comes to.
func (b *browserTab) eval(js string, v any) {
	b.t.Helper()
	ctx, stop := context.WithTimeout(b.ctx, within)
	defer stop()
	said, err := chromedp.Run(ctx, chromedp.Evaluate[string]("(async () => JSON.stringify(await ("+js+")))()", chromedp.EvalAwaitPromise))
	if err == nil {
		err = json.Unmarshal([]byte(said), v)
	}
	if err != nil {
		b.t.Fatalf("%s: %v", js, err)
	}
}

// text is all that a human can read.
func (b *browserTab) text() string {
	ctx, stop := context.WithTimeout(b.ctx, within)
	defer stop()
	s, _ := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText`))
	return s
}

// sees waits for text.
func (b *browserTab) sees(what string) {
	b.t.Helper()
	for end := time.Now().Add(within); !strings.Contains(b.text(), what); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatalf("never shown: %q; shown:\n%s", what, b.text())
		}
	}
}

func (b *browserTab) has(js string) {
	b.t.Helper()
	waits(b.t, func() bool { var ok bool; b.eval(js, &ok); return ok })
}

func (b *browserTab) types(keys string) { b.t.Helper(); b.do(chromedp.KeyEvent(keys)) }

// enters opens the page and is let in.
func (b *browserTab) enters(s *scene) {
	b.t.Helper()
	b.do(chromedp.Navigate(s.link()))
	b.has(`document.getElementById('room')?.hidden === false`)
}

// quiet says what the browser complained of.
func (b *browserTab) quiet() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.trouble) > 0 {
		b.t.Errorf("the browser complains: %q", b.trouble)
	}
}

// picture keeps what it looks like, where CFA_PICTURES names a directory.
func (b *browserTab) picture(name string, width, height int64, scheme string) {
	b.t.Helper()
	dir := os.Getenv("CFA_PICTURES")
	if dir == "" {
		return
	}
	b.do(chromedp.EmulateViewport(width, height))
	calls(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
	png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func aLink(r *wire.Request) { r.Ask, r.Service, r.Format = wire.AskLink, "npm", "any" }

func linked(j *answertest.Job, link string) {
	j.OnAlive = func(a *wire.Alive) bool { a.Link = link; return true }
}

func anApproval(keys ...string) func(*wire.Request) {
	return func(r *wire.Request) {
		r.Ask, r.Format, r.Responders = wire.AskApproval, "any", keys
		r.Message = "publish @electron/asar 1.2.3"
		r.Artifacts = []wire.Artifact{{Name: "asar-1.2.3.tgz", SHA256: wire.Digest{0xab, 0xcd}, Size: 43210, Package: "@electron/asar", Version: "1.2.3"}}
	}
}

func TestAHumanAnswersInABrowserByTheKeyboardAlone(t *testing.T) {
	t.Parallel()
	s := newScene(t, "ask: [browser]\n")
	b := newBrowser(t)
	b.enters(s)
	var where string
	b.eval(`location.href`, &where)
	if strings.Contains(where, "#") {
		t.Errorf("the link's secret is still in the address: %s", where)
	}
	b.sees("Nothing waits")
	b.do(chromedp.Reload())
	b.sees("Nothing waits")
	j := s.job(map[string]any{"environment": "npm"}, func(r *wire.Request) { r.Message = "release v1.2.3" })
	s.relay.Ask(j)
	b.sees("electron/asar wants a code for npm, in its workflow \"Release\" on branch main, started by octocat")
	b.sees(seal.Match(j.Digest))
	shown := b.text()
	order := 0
	for _, want := range []string{"repository", "workflow", "file", "ref", "commit", "environment", "event", "started by", "run", "asked at", "the job says", "match code", "time left"} {
		at := strings.Index(shown[order:], "\n"+want+"\n")
		if at < 0 {
			t.Fatalf("%s is not shown, or out of order:\n%s", want, shown)
		}
		order += at
	}
	b.picture("page-light", 1100, 900, "light")
	b.picture("page-360-dark", 360, 740, "dark")

	// Tab reaches all there is, in the order in which it is read, and each place shows.
	var reached []string
	for range 20 {
		b.types(kb.Tab)
		var at struct {
			What    string
			Outline float64
		}
		b.eval(`(() => { const e = document.activeElement, c = getComputedStyle(e); return {What: e.id || e.textContent.slice(0, 12), Outline: c.outlineStyle === 'none' ? 0 : parseFloat(c.outlineWidth)}; })()`, &at)
		if at.Outline < 2 && at.What != "" {
			t.Errorf("where the keyboard is does not show at %q", at.What)
		}
		reached = append(reached, at.What)
		if at.What == "code" {
			break
		}
	}
	if !slices.Contains(reached, "code") || !slices.Contains(reached, "leave") {
		t.Fatalf("Tab reaches %q", reached)
	}
	// Only the format goes in.
	b.types("49a 3-8b17999")
	var value string
	b.eval(`document.activeElement.value`, &value)
	if value != code {
		t.Errorf("the field holds %q", value)
	}
	b.types(kb.Enter)
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}
	b.sees("the relay says that the job has your code")
	b.eval(`document.documentElement.outerHTML + JSON.stringify(sessionStorage) + [...document.querySelectorAll('input')].map((i) => i.value)`, &value)
	if strings.Contains(value, code) {
		t.Error("the code is still in the page")
	}
	s.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
	b.sees("#1 over")
	b.quiet()
}

func TestEachKindOfPromptHasItsForm(t *testing.T) {
	t.Parallel()
	s := newScene(t, "ask: [browser]\n")
	b := newBrowser(t)
	b.enters(s)
	focus := func(id string) { b.t.Helper(); b.do(chromedp.Focus(chromedp.CSS("#" + id))) }

	// A link: its host first.
	first := s.job(nil, aLink)
	linked(first, npmLink)
	s.relay.Ask(first)
	b.sees("Open www.npmjs.com")
	b.sees(npmLink)
	var link struct{ Href, Target, Rel string }
	b.eval(`(() => { const a = document.querySelector('#act a'); return {Href: a.href, Target: a.target, Rel: a.rel}; })()`, &link)
	if link.Href != npmLink || link.Target != "_blank" || link.Rel != "noopener noreferrer" {
		t.Errorf("the link is %+v", link)
	}
	b.picture("page-link", 360, 740, "light")
	// And declined, with the reason that is typed.
	b.do(chromedp.Click(chromedp.CSS("#no summary")))
	focus("reason")
	b.types("not mine" + kb.Enter)
	b.sees("you declined: not mine")

	// An approval: the typed match code is the yes.
	yes := s.job(nil, anApproval(s.signing()))
	s.relay.Ask(yes)
	b.sees("wants your yes for npm")
	b.sees("asar-1.2.3.tgz")
	b.sees("abcd" + strings.Repeat("0", 60))
	b.picture("page-approval", 1100, 900, "dark")
	focus("match")
	b.types("K7QF-2MXT-9RBD" + kb.Enter)
	b.sees("that is not this request's match code")
	focus("match")
	b.eval(`document.getElementById('match').select() || true`, new(bool))
	b.types(strings.ToLower(seal.Match(yes.Digest)) + kb.Enter)
	b.sees("the relay says that it is approved")

	// A code whose match code is typed first.
	typed := s.job(nil, func(r *wire.Request) { r.TypeMatch = true })
	s.relay.Ask(typed)
	b.sees("Then the code is asked for.")
	if strings.Contains(b.text(), seal.Match(typed.Digest)) {
		t.Error("the match code that is to be typed is shown")
	}
	focus("match")
	b.types(seal.Match(typed.Digest) + kb.Enter)
	b.has(`document.activeElement.id === 'code'`)
	b.types(code + kb.Enter)
	if c := got(t, typed); c != code {
		t.Errorf("the job opened %q", c)
	}
	// Refused: the next one.
	b.sees("the relay says that the job has your code")
	typed.At(2, wire.ReasonRejected)
	s.relay.Set(typed, func(i *wire.Item) {
		i.State.State, i.State.Attempt, i.State.Reason = "pending", 2, wire.ReasonRejected
	})
	b.sees("the last code was refused; this is attempt 2")
	// What is being typed for one that ends goes nowhere.
	focus("match")
	b.types("K7Q")
	s.relay.Set(typed, func(i *wire.Item) { i.State.State, i.State.Why = "cancelled", "the run was stopped" })
	b.sees("What you were typing was thrown away")
	b.sees("withdrawn: the run was stopped")

	// Another job than the pins allow has no form at all.
	foreign, err := answertest.GitHubJob(s.issuer, relayName, project, "electron/other", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.relay.Ask(foreign)
	b.sees("another job than your pins allow")
	var inputs int
	b.eval(`document.querySelectorAll('#act input, #act a').length`, &inputs)
	if inputs != 0 {
		t.Error("what does not fit the pins can be answered")
	}
	b.picture("page-foreign", 1100, 900, "light")

	// Logged out: nothing of it is left.
	b.do(chromedp.Click(chromedp.CSS("#leave")))
	b.sees("You are logged out")
	var rest string
	b.eval(`document.documentElement.outerHTML + JSON.stringify(sessionStorage)`, &rest)
	if strings.Contains(rest, "electron") {
		t.Error("what was shown is still in the page")
	}
	b.quiet()
}

// signing is the responder's signing key.
func (s *scene) signing() string {
	s.t.Helper()
	out := s.run("keys", "--key-file", filepath.Join(s.dir, "responder.key"))
	for _, word := range strings.FieldsFunc(out, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		if len(word) == 56 && word[0] == 'A' {
			return word
		}
	}
	s.t.Fatalf("no signing key in %s", out)
	return ""
}

func TestOneCodeAnswersAllThatARunAsksFor(t *testing.T) {
	t.Parallel()
	s := newScene(t, "ask: [browser]\n")
	b := newBrowser(t)
	b.enters(s)
	var jobs []*answertest.Job
	for i := range 3 {
		j := s.job(map[string]any{"check_run_id": fmt.Sprint(100 + i)}, nil)
		jobs = append(jobs, j)
		s.relay.Ask(j)
	}
	b.sees("3 waiting")
	b.sees("Answer all 3 of its run with one code")
	b.do(chromedp.Click(chromedp.Search(`//button[contains(., 'Answer all 3')]`)))
	b.has(`document.activeElement.id === 'match'`)
	b.types(seal.Match(jobs[1].Digest) + kb.Enter)
	b.has(`document.activeElement.id === 'code'`)
	b.types("271828" + kb.Enter)
	for _, j := range jobs {
		if c := got(t, j); c != "271828" {
			t.Errorf("a job opened %q", c)
		}
	}
	b.quiet()
}

// What comes while its human is away is there, and its job is left alone until they say
// that they are back.
func TestWhatComesWhileItsHumanIsAwayWaits(t *testing.T) {
	t.Parallel()
	s := newScene(t, "ask: [browser]\n")
	b := newBrowser(t)
	b.enters(s)
	s.run("away", "--until", "2h", "--socket", s.socket)
	b.sees("away until ")
	s.relay.Ask(s.job(nil, nil))
	b.sees("came while you are away")
	if n := len(s.relay.Messages(wire.VerbOpen)); n != 0 {
		t.Errorf("its job was asked %d times to prove itself", n)
	}
	b.do(chromedp.Click(chromedp.CSS("#back")))
	b.sees("electron/asar wants a code for npm")
	b.quiet()
}

func TestThePageFitsAPhoneAndTellsAScreenReaderWhatIsWhat(t *testing.T) {
	t.Parallel()
	s := newScene(t, "ask: [browser]\n")
	b := newBrowser(t)
	b.do(chromedp.EmulateViewport(360, 740))
	b.enters(s)
	yes := s.job(nil, func(r *wire.Request) {
		anApproval(s.signing())(r)
		r.Artifacts[0].Name = strings.Repeat("a-long-name", 15)
		r.Message = strings.Repeat("wide", 60)
	})
	yes.OnAlive = func(a *wire.Alive) bool { a.Details = strings.Repeat("x", 900); return true }
	s.relay.Ask(yes)
	b.sees("wants your yes")
	b.do(chromedp.Click(chromedp.CSS("#no summary")), chromedp.Click(chromedp.CSS("#more summary")))
	var wide []string
	b.eval(`[...document.querySelectorAll('*')].filter((e) => e.getBoundingClientRect().right > 360.5 && !e.closest('.unseen')).map((e) => e.tagName + '#' + e.id)`, &wide)
	if len(wide) > 0 {
		t.Errorf("wider than the screen: %q", wide)
	}
	var small []string
	b.eval(`[...document.querySelectorAll('button, a, input, summary')].filter((e) => e.offsetParent && e.getBoundingClientRect().height < 44).map((e) => e.tagName + '#' + e.id + ' ' + e.textContent + ' ' + e.getBoundingClientRect().height)`, &small)
	if len(small) > 0 {
		t.Errorf("too small for a thumb: %q", small)
	}
	nodes := calls(b, accessibility.GetFullAXTree, accessibility.GetFullAXTreeParams{}).Nodes
	named := 0
	for _, n := range nodes {
		if n.Ignored || n.Role == nil {
			continue
		}
		var role, name string
		_ = json.Unmarshal(n.Role.Value, &role)
		if n.Name != nil {
			_ = json.Unmarshal(n.Name.Value, &name)
		}
		switch role {
		case "button", "link", "textbox", "heading", "navigation", "region", "DisclosureTriangle":
			named++
			if name == "" {
				t.Errorf("a %s has no name", role)
			}
		}
	}
	if named < 8 {
		t.Errorf("only %d parts have a role: does this test still see them?", named)
	}
	b.quiet()
}

// What a job writes is text, wherever it comes to stand.
func TestHostileTextStaysText(t *testing.T) {
	t.Parallel()
	s := newScene(t, "ask: [browser]\n")
	b := newBrowser(t)
	b.enters(s)
	const bad = `<img src=x onerror="alert(1)"><script>alert(2)</script>&#0;` + "\u202egnp.exe\u200b\x1b[31m\a"
	j := s.job(map[string]any{"workflow": bad, "actor": "<b>octocat</b>"}, func(r *wire.Request) {
		anApproval(s.signing())(r)
		r.Message = bad
	})
	j.OnAlive = func(a *wire.Alive) bool { a.Details = "one\n" + bad; return true }
	s.relay.Ask(j)
	b.sees("wants your yes")
	b.do(chromedp.Click(chromedp.CSS("#more summary")))
	shown := b.text()
	if !strings.Contains(shown, "<img src=x") {
		t.Errorf("the fault did not happen:\n%s", shown)
	}
	for _, r := range shown {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			t.Errorf("%U is shown", r)
		}
	}
	// And what the desk would let past it is nothing that a browser obeys.
	var last string
	b.eval(`(text(document.getElementById('spoken'), 'a\u202eb\u0007c\u2028d\ne') || document.getElementById('spoken').textContent) + el('p', {}, '\u200bx').textContent`, &last)
	if last != "a?b?c?d\ne?x" {
		t.Errorf("what slips past the desk is shown as %q", last)
	}
	var strange int
	b.eval(`document.querySelectorAll('img, b, i, script:not([src="/page.js"])').length`, &strange)
	if strange != 0 {
		t.Errorf("%d elements were made of text", strange)
	}
	b.quiet()
}

// Other pages in the same browser: in a frame, by another name, from another port.
func TestOtherPagesInTheSameBrowserGetNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t, "ask: [browser]\n")
	b := newBrowser(t, chromedp.Flag("host-resolver-rules", "MAP evil.example 127.0.0.1"),
		// So that a frame of another site is seen from the page that it is in.
		chromedp.Flag("disable-site-isolation-trials", true), chromedp.Flag("disable-features", "IsolateOrigins,site-per-process"))
	b.enters(s)
	j := s.job(nil, nil)
	s.relay.Ask(j)
	b.sees("electron/asar wants a code")
	var at string
	b.eval(`location.origin`, &at)
	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	cookies := ""
	evil := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		cookies += r.Header.Get("Cookie")
		mu.Unlock()
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<!doctype html><iframe src="%s/" id="f"></iframe>`, at)
	}))
	defer evil.Close()
	attack := func(from string) {
		t.Helper()
		var said []string
		b.eval(`(async () => {
			const said = [];
			for (const path of ['/api/open', '/api/decline', '/api/answer', '/api/news', '/api/leave', '/api/enter']) {
				for (const type of ['application/json', 'text/plain']) {
					for (const mode of ['cors', 'no-cors']) {
						try {
							const r = await fetch('`+at+`' + path, {method: 'POST', mode, credentials: 'include', headers: {'Content-Type': type}, body: '{"id":"`+j.ID()+`","reason":"evil","ids":[],"attempt":1,"code":"","match":""}'});
							said.push(r.type + ' ' + r.status);
						} catch (e) { said.push('refused'); }
					}
				}
			}
			for (const path of ['/', '/page.js']) {
				try { said.push((await (await fetch('`+at+`' + path, {credentials: 'include'})).text()).slice(0, 20)); } catch (e) { said.push('refused'); }
			}
			return said;
		})()`, &said)
		for _, one := range said {
			if one != "refused" && one != "opaque 0" {
				t.Errorf("from %s: %q", from, said)
				break
			}
		}
	}
	for _, from := range []string{evil.URL, strings.Replace(evil.URL, "127.0.0.1", "evil.example", 1)} {
		b.do(chromedp.Navigate(from))
		attack(from)
		tree := calls(b, page.GetFrameTree, cdp.Empty{}).FrameTree
		for _, f := range tree.ChildFrames {
			if !strings.HasPrefix(f.Frame.URL, "chrome-error:") && f.Frame.UnreachableURL == "" {
				t.Errorf("it is in a frame of %s: %s", from, f.Frame.URL)
			}
		}
		if len(tree.ChildFrames) != 1 {
			t.Errorf("%d frames in %s: does this test still see it?", len(tree.ChildFrames), from)
		}
	}
	// The cookie did reach the other port, which is why it is not enough.
	mu.Lock()
	if !strings.Contains(cookies, "cfa-"+u.Port()+"=") {
		t.Errorf("the fault did not happen: %q", cookies)
	}
	mu.Unlock()
	// A name that was pointed here.
	_, port, _ := net.SplitHostPort(u.Host)
	b.do(chromedp.Navigate("http://evil.example:" + port + "/"))
	if text := b.text(); !strings.Contains(text, "this is not where this page is") || strings.Contains(text, "electron") {
		t.Errorf("by another name: %s", text)
	}
	if n := len(s.relay.Messages(wire.VerbDecline)) + len(s.relay.Messages(wire.VerbAnswer)); n != 0 {
		t.Errorf("%d decisions left", n)
	}
	// And whoever was in is in still.
	b.do(chromedp.Navigate(at + "/"))
	b.sees("electron/asar wants a code")
}

// A page whose responder has gone takes nothing from whoever has its port next.
func TestAPageWhoseResponderHasGoneStaysShut(t *testing.T) {
	t.Parallel()
	s := newScene(t, "ask: [browser]\n")
	b := newBrowser(t)
	b.enters(s)
	s.relay.Ask(s.job(nil, nil))
	b.sees("electron/asar wants a code")
	var status struct{ PID int }
	if err := json.Unmarshal([]byte(s.run("status", "--json", "--socket", s.socket)), &status); err != nil {
		t.Fatal(err)
	}
	p, err := os.FindProcess(status.PID)
	if err != nil {
		t.Fatal(err)
	}
	var at string
	b.eval(`location.host`, &at)
	if err := p.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	b.sees("The responder has ended")
	if text := b.text(); strings.Contains(text, "electron") {
		t.Errorf("it still shows %s", text)
	}
	var asked []string
	var mu sync.Mutex
	var l net.Listener
	waits(t, func() bool { l, err = net.Listen("tcp4", at); return err == nil })
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.URL.Path)
	})}
	go func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	}()
	defer server.Close()
	b.eval(`new Promise((f) => setTimeout(f, 3000)).then(() => true)`, new(bool))
	mu.Lock()
	defer mu.Unlock()
	if len(asked) > 0 {
		t.Errorf("it asked the next one for %q", asked)
	}
}

// BenchmarkPage is the time from a prompt that is published to what a human sees of it.
func BenchmarkPage(b *testing.B) {
	s := newScene(b, "ask: [browser]\n")
	w := newBrowser(b)
	w.enters(s)
	var took time.Duration
	for i := range b.N {
		j := s.job(map[string]any{"run_id": fmt.Sprint(1000 + i)}, nil)
		// When it is painted, by the clock of this machine.
		w.eval(fmt.Sprintf(`(() => { window.seen = new Promise((f) => { const look = () => document.getElementById('list').innerText.includes('#%d ') ? requestAnimationFrame(() => f(performance.timeOrigin + performance.now())) : requestAnimationFrame(look); look(); }); return true; })()`, i+1), new(bool))
		asked := time.Now()
		s.relay.Ask(j)
		var at float64
		w.eval(`window.seen`, &at)
		took += time.UnixMicro(int64(at * 1000)).Sub(asked)
		s.relay.Set(j, func(i *wire.Item) { i.State.State = "cancelled" })
		w.sees("Nothing waits")
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(took.Microseconds())/1000/float64(b.N), "ms/visible")
	b.ReportMetric(100, "ms/aim")
}
