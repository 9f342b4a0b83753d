package main

// The desktop without one: what rings and when, what the windows say, and what is
// done with what comes out of them. Real windows are in desktop_clients_test.go.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

const rightMatch = "K7QF-2MXT-9RBD"

// paper is a desktop of fakes in a bubble: each window and notification is a value
// on a channel, and stays until the test answers it.
type paper struct {
	t       *testing.T
	news    chan answer.News
	rings   chan notice
	sheets  chan *paperSheet
	fields  chan *paperField
	touches chan touch
	hushed  chan bool
	done    chan error
	desk    *paperDesk
	deaf    atomic.Bool // no click is heard of
	broken  atomic.Bool // no window can be shown
	opened  chan string // links
}

type paperSheet struct {
	sheetOf
	chosen chan choice
	ctx    context.Context
}

type paperField struct {
	fieldOf
	typed chan string // closed: left
	ctx   context.Context
}

func (p *paper) ring(_ context.Context, n notice) (bool, error) {
	p.rings <- n
	return !p.deaf.Load(), nil
}
func (p *paper) hush(context.Context)  { p.hushed <- true }
func (p *paper) touched() <-chan touch { return p.touches }

func (p *paper) show(ctx context.Context, s sheetOf) (choice, error) {
	if p.broken.Load() {
		return 0, errors.New("zenity: killed")
	}
	w := &paperSheet{s, make(chan choice), ctx}
	p.sheets <- w
	select {
	case c := <-w.chosen:
		return c, nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

func (p *paper) enter(ctx context.Context, f fieldOf) (string, error) {
	w := &paperField{f, make(chan string), ctx}
	p.fields <- w
	select {
	case line, ok := <-w.typed:
		if !ok {
			return "", errBack
		}
		return line, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// paperDesk judges as the desk does, for one right code and match code.
type paperDesk struct {
	answer.Decisions
	prompts map[string]answer.Prompt
	opened  []string
	did     []string
	link    string
}

func (d *paperDesk) Open(id string) { d.opened = append(d.opened, id) }

func (d *paperDesk) Answer(_ context.Context, a answer.Answer) error {
	p := d.prompts[a.ID]
	switch {
	case (p.TypeMatch || p.Yes) && a.Match != rightMatch:
		return fmt.Errorf("%w; read it off the log", answer.ErrMatch)
	case !p.Yes && len(a.Code) != 6:
		return fmt.Errorf("%w: the code has %d characters, not 6", answer.ErrCode, len(a.Code))
	}
	d.did = append(d.did, fmt.Sprintf("answer %s %d %s", a.ID, a.Attempt, a.Code))
	return nil
}

func (d *paperDesk) Follow(_ context.Context, a answer.Answer) (string, error) {
	if d.prompts[a.ID].TypeMatch && a.Match != rightMatch {
		return "", answer.ErrMatch
	}
	d.did = append(d.did, "follow "+a.ID)
	return d.link, nil
}

func (d *paperDesk) Decline(_ context.Context, id, reason string) error {
	if len(reason) > 20 {
		return fmt.Errorf("%w: reason is too long", wire.ErrMalformed)
	}
	d.did = append(d.did, "decline "+id+" "+reason)
	return nil
}

// onPaper runs f in a bubble with a desktop of paper.
func onPaper(t *testing.T, f func(p *paper)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &paper{
			t: t, news: make(chan answer.News), rings: make(chan notice, 100), sheets: make(chan *paperSheet, 10), fields: make(chan *paperField, 10),
			touches: make(chan touch), hushed: make(chan bool, 100), done: make(chan error, 1), opened: make(chan string, 10),
			desk: &paperDesk{prompts: map[string]answer.Prompt{}},
		}
		d := &desktop{log: slog.New(slog.NewTextHandler(io.Discard, nil)), bell: p, panes: p, now: time.Now, browse: func(link string) error { p.opened <- link; return nil }}
		go func() { p.done <- d.Ask(t.Context(), p.news, p.desk) }()
		f(p)
		close(p.news)
		if err := <-p.done; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
}

func (p *paper) tell(q answer.Prompt) {
	synctest.Wait()
	p.desk.prompts[q.ID] = q
	p.news <- answer.News{Prompt: &q}
	synctest.Wait()
}

func (p *paper) sheet() *paperSheet {
	p.t.Helper()
	synctest.Wait()
	select {
	case w := <-p.sheets:
		return w
	default:
		p.t.Fatal("no window came")
		return nil
	}
}

func (p *paper) field() *paperField {
	p.t.Helper()
	synctest.Wait()
	select {
	case w := <-p.fields:
		return w
	default:
		p.t.Fatal("no field came")
		return nil
	}
}

func (p *paper) rung() notice {
	p.t.Helper()
	synctest.Wait()
	select {
	case n := <-p.rings:
		return n
	default:
		p.t.Fatal("nothing rang")
		return notice{}
	}
}

// still checks that nothing came up.
func (p *paper) still(what string) {
	p.t.Helper()
	synctest.Wait()
	select {
	case n := <-p.rings:
		p.t.Fatalf("%s: it rang: %+v", what, n)
	case w := <-p.sheets:
		p.t.Fatalf("%s: a window came: %s", what, w.text)
	case w := <-p.fields:
		p.t.Fatalf("%s: a field came: %s", what, w.text)
	default:
	}
}

// asking is a verified prompt for a code.
func asking(n int) answer.Prompt {
	return answer.Prompt{
		ID: fmt.Sprintf("U%d", n), Number: n, Phase: answer.Asking, Standing: answer.Verified, Answerable: true, Project: "asar",
		Facts: answer.Facts{Repository: "electron/asar", Workflow: "Release", WorkflowFile: ".github/workflows/release.yml", Ref: "refs/heads/main", SHA: "0123456789abcdef", Actor: "octocat", Event: "push"},
		Ask:   wire.AskCode, Service: "npm", Format: "6 digits", Match: rightMatch, Attempt: 1, Since: time.Now(), Deadline: time.Now().Add(30 * time.Minute),
	}
}

func changed(p answer.Prompt, f func(*answer.Prompt)) answer.Prompt {
	f(&p)
	return p
}

func fresh(n int) answer.Prompt {
	return answer.Prompt{ID: fmt.Sprintf("U%d", n), Number: n, Phase: answer.Asking, Standing: answer.Unopened, Project: "asar", Deadline: time.Now().Add(time.Hour)}
}

func TestANotificationRingsAndAWindowComesWithItsClick(t *testing.T) {
	onPaper(t, func(p *paper) {
		p.tell(fresh(1))
		if len(p.desk.opened) != 1 {
			t.Fatalf("opened: %v", p.desk.opened)
		}
		p.still("nothing is known yet")
		p.tell(asking(1))
		n := p.rung()
		for _, want := range []string{"electron/asar wants a code for npm", `"Release" on branch main, started by octocat`, "Match code: " + rightMatch, "Time left: 30 min 0 s"} {
			if !strings.Contains(n.body, want) {
				t.Errorf("the notification does not say %q: %s", want, n.body)
			}
		}
		p.still("nobody has clicked")
		p.touches <- clicked
		w := p.sheet()
		if w.proceed != "Answer…" || !w.decline || !strings.Contains(w.text, "repository    electron/asar") || !strings.Contains(w.text, rightMatch) {
			t.Errorf("the window is %+v", w.sheetOf)
		}
		w.chosen <- chosenProceed
		f := p.field()
		if !f.hidden || !strings.Contains(f.text, "Code, 6 digits:") {
			t.Errorf("the field is %+v", f.fieldOf)
		}
		f.typed <- "12345"
		f = p.field()
		if !strings.Contains(f.text, "the code has 5 characters, not 6") {
			t.Errorf("the field does not say what was wrong: %s", f.text)
		}
		close(f.typed) // back to the facts
		w = p.sheet()
		w.chosen <- chosenProceed
		p.field().typed <- "493817"
		p.tell(changed(asking(1), func(q *answer.Prompt) { q.Phase, q.Answerable = answer.Sending, false }))
		if got := strings.Join(p.desk.did, ";"); got != "answer U1 1 493817" {
			t.Errorf("it did %s", got)
		}
		p.tell(changed(asking(1), func(q *answer.Prompt) {
			q.Phase, q.Answerable, q.Note = answer.Resting, false, "the relay says that the job has your code"
		}))
		if n := p.rung(); !n.remark || !strings.HasPrefix(n.body, "The relay says that the job has your code") {
			t.Errorf("it said %+v", n)
		}
		p.still("it was answered")
	})
}

func TestWithoutClicksTheWindowComesByItselfOneAtATime(t *testing.T) {
	onPaper(t, func(p *paper) {
		p.deaf.Store(true)
		p.tell(asking(1))
		p.rung()
		w := p.sheet()
		p.tell(asking(2))
		time.Sleep(2 * ringEvery)
		if n := p.rung(); n.title != "2 requests wait for you" {
			t.Errorf("it rang for %+v", n)
		}
		p.still("a window is open")
		w.chosen <- chosenLater
		w = p.sheet()
		if !strings.Contains(w.title, "#2") || !strings.Contains(w.text, "1 more wait: #1") {
			t.Errorf("the next window is %s: %s", w.title, w.text)
		}
		w.chosen <- chosenClose
		p.still("both were laid aside")
		time.Sleep(3 * time.Minute)
		p.rung()
		p.sheet()
	})
}

func TestAWindowWhosePromptHasChangedIsClosedAndThatIsSaid(t *testing.T) {
	onPaper(t, func(p *paper) {
		p.tell(asking(1))
		p.rung()
		p.touches <- clicked
		p.sheet().chosen <- chosenProceed
		f := p.field()
		p.tell(changed(asking(1), func(q *answer.Prompt) { q.Phase, q.Answerable, q.Why = answer.Resting, false, "grace answered" }))
		if f.ctx.Err() == nil {
			t.Fatal("the field is still open")
		}
		if n := p.rung(); !n.remark || !strings.Contains(n.body, "what was typed went nowhere: grace answered") {
			t.Errorf("it said %+v", n)
		}
		p.still("nothing waits")
		// The next attempt rings anew; while a reason is typed, only the end counts.
		p.tell(changed(asking(1), func(q *answer.Prompt) { q.Attempt, q.Reason = 2, wire.ReasonRejected }))
		time.Sleep(2 * ringEvery)
		if n := p.rung(); n.title != "A code is wanted again" || !strings.Contains(n.body, "the last code was refused; this is attempt 2") {
			t.Errorf("it rang for %+v", n)
		}
		p.touches <- clicked
		p.sheet().chosen <- chosenDecline
		f = p.field()
		p.tell(changed(asking(1), func(q *answer.Prompt) {
			q.Attempt, q.Standing, q.Answerable, q.Why = 2, answer.Unproven, false, "it did not answer"
		}))
		if f.ctx.Err() != nil {
			t.Fatal("the reason's field was closed, though what is not proved can be declined")
		}
		f.typed <- strings.Repeat("no", 20)
		f = p.field()
		if !strings.Contains(f.text, "Not taken: reason is too long.") {
			t.Errorf("the field does not say what was wrong: %s", f.text)
		}
		p.tell(changed(asking(1), func(q *answer.Prompt) { q.Attempt, q.Phase, q.Why = 2, answer.Over, "Withdrawn" }))
		if f.ctx.Err() == nil {
			t.Fatal("the field of what is over is still open")
		}
		time.Sleep(2 * ringEvery)
		synctest.Wait()
		for len(p.rings) > 1 {
			<-p.rings
		}
		if n := p.rung(); !n.remark || !strings.Contains(n.body, "closed: withdrawn") {
			t.Errorf("it said %+v", n)
		}
		if len(p.desk.did) != 0 {
			t.Errorf("it did %v", p.desk.did)
		}
	})
}

func TestEachKindOfPromptHasItsWindows(t *testing.T) {
	t.Parallel()
	t.Run("a typed match code before a code", func(t *testing.T) {
		onPaper(t, func(p *paper) {
			p.tell(changed(asking(1), func(q *answer.Prompt) { q.TypeMatch, q.Match = true, "" }))
			if n := p.rung(); strings.Contains(n.body, rightMatch) || !strings.Contains(n.body, "is to be typed") {
				t.Errorf("it rang with %s", n.body)
			}
			p.touches <- clicked
			p.sheet().chosen <- chosenProceed
			f := p.field()
			if f.hidden || !strings.Contains(f.text, "Match code") {
				t.Errorf("the field is %+v", f.fieldOf)
			}
			f.typed <- "WRONG"
			f = p.field()
			if !strings.Contains(f.text, "not this request's match code") {
				t.Errorf("the field says %s", f.text)
			}
			f.typed <- rightMatch
			f = p.field()
			if !f.hidden || strings.Contains(f.text, "Not taken") {
				t.Errorf("the field is %+v", f.fieldOf)
			}
			f.typed <- "493817"
			synctest.Wait()
			if got := strings.Join(p.desk.did, ";"); got != "answer U1 1 493817" {
				t.Errorf("it did %s", got)
			}
		})
	})
	t.Run("a yes", func(t *testing.T) {
		onPaper(t, func(p *paper) {
			p.tell(changed(asking(1), func(q *answer.Prompt) {
				q.Ask, q.Yes, q.TypeMatch, q.Match, q.Approvals = wire.AskApproval, true, true, "", 2
				q.Artifacts = []answer.Artifact{{Name: "asar-1.2.3.tgz", SHA256: strings.Repeat("ab", 32), Size: 7}}
				q.Details = "+ lib/new.js"
			}))
			if n := p.rung(); n.title != "Your yes is wanted" {
				t.Errorf("it rang with %+v", n)
			}
			p.touches <- clicked
			w := p.sheet()
			if w.proceed != "Agree…" || !strings.Contains(w.text, strings.Repeat("ab", 32)) || !strings.Contains(w.text, "2 must agree") || !strings.Contains(w.text, "| + lib/new.js") {
				t.Errorf("the window is %+v", w.sheetOf)
			}
			w.chosen <- chosenProceed
			p.field().typed <- rightMatch
			synctest.Wait()
			if got := strings.Join(p.desk.did, ";"); got != "answer U1 1 " {
				t.Errorf("it did %s", got)
			}
		})
	})
	link := func(q *answer.Prompt) { q.Ask, q.LinkHost, q.Link = wire.AskLink, "www.npmjs.com", npmLink }
	t.Run("a link that was shown", func(t *testing.T) {
		onPaper(t, func(p *paper) {
			p.desk.link = npmLink
			p.tell(changed(asking(1), link))
			p.rung()
			p.touches <- clicked
			w := p.sheet()
			if w.proceed != "Open the link" || !strings.Contains(w.text, "link host     www.npmjs.com\n    link          "+npmLink) {
				t.Errorf("the window is %+v", w.sheetOf)
			}
			w.chosen <- chosenProceed
			if l := <-p.opened; l != npmLink {
				t.Errorf("it opened %s", l)
			}
		})
	})
	t.Run("a link that was not shown is shown first", func(t *testing.T) {
		onPaper(t, func(p *paper) {
			p.desk.link = npmLink + "b"
			p.tell(changed(asking(1), link))
			p.rung()
			p.touches <- clicked
			p.sheet().chosen <- chosenProceed
			w := p.sheet()
			if !strings.Contains(w.text, npmLink+"b") || len(p.opened) != 0 {
				t.Errorf("the window is %+v", w.sheetOf)
			}
			w.chosen <- chosenProceed
			if l := <-p.opened; l != npmLink+"b" {
				t.Errorf("it opened %s", l)
			}
		})
	})
	t.Run("what cannot be answered can be declined", func(t *testing.T) {
		onPaper(t, func(p *paper) {
			p.tell(changed(asking(1), func(q *answer.Prompt) {
				q.Standing, q.Answerable, q.Match, q.Why = answer.Foreign, false, "", "this is not what your pins say:\nanother repository"
			}))
			if n := p.rung(); n.title != "A request that cannot be answered" {
				t.Errorf("it rang with %+v", n)
			}
			p.touches <- clicked
			w := p.sheet()
			if w.proceed != "" || !strings.Contains(w.text, "another repository") || !strings.Contains(w.text, "electron/asar") {
				t.Errorf("the window is %+v", w.sheetOf)
			}
			w.chosen <- chosenDecline
			p.field().typed <- "not mine"
			synctest.Wait()
			if got := strings.Join(p.desk.did, ";"); got != "decline U1 not mine" {
				t.Errorf("it did %s", got)
			}
		})
	})
	t.Run("what never proves itself rings once, without facts", func(t *testing.T) {
		onPaper(t, func(p *paper) {
			p.tell(fresh(1))
			time.Sleep(proveWithin + time.Second)
			if n := p.rung(); n.title != "A request that has not proved itself yet" {
				t.Errorf("it rang with %+v", n)
			}
			time.Sleep(time.Hour)
			p.still("it cannot be answered")
		})
	})
}

func TestABurstIsOneNotificationAndRepeatsBackOff(t *testing.T) {
	onPaper(t, func(p *paper) {
		for i := 1; i <= 200; i++ {
			p.tell(asking(i))
		}
		time.Sleep(2 * ringEvery)
		synctest.Wait()
		if n := len(p.rings); n != 2 {
			t.Fatalf("200 requests at once rang %d times", n)
		}
		p.rung()
		if n := p.rung(); n.title != "200 requests wait for you" || strings.Count(n.body, "\n") != mostRings || !strings.Contains(n.body, "and 196 more") {
			t.Errorf("it rang for %+v", n)
		}
		for i := 2; i <= 200; i++ {
			p.tell(changed(asking(i), func(q *answer.Prompt) { q.Phase = answer.Over }))
		}
		time.Sleep(2 * ringEvery)
		synctest.Wait()
		for len(p.rings) > 0 {
			if n := <-p.rings; !n.calm {
				t.Errorf("it rang for what is over: %+v", n)
			}
		}
		p.touches <- dismissed
		start := time.Now()
		var at []string
		for len(at) < 6 {
			time.Sleep(time.Second)
			synctest.Wait()
			for len(p.rings) > 0 {
				<-p.rings
				at = append(at, time.Since(start).Round(time.Minute).String())
			}
		}
		if got := strings.Join(at, " "); got != "1m0s 3m0s 7m0s 15m0s 30m0s 45m0s" {
			t.Errorf("it rang after %s", got)
		}
		p.tell(changed(asking(1), func(q *answer.Prompt) { q.Phase = answer.Over }))
		time.Sleep(2 * ringEvery)
		synctest.Wait()
		if len(p.hushed) != 1 {
			t.Errorf("the notification of what is over was taken away %d times", len(p.hushed))
		}
	})
}

// A relay can make up requests without end; only what is proved may ring for each.
func TestWhatCannotBeAnsweredIsHeardRarely(t *testing.T) {
	onPaper(t, func(p *paper) {
		loud, calm := 0, 0
		for i := range 100 {
			p.tell(changed(fresh(i+1), func(q *answer.Prompt) { q.Standing, q.Why = answer.Unproven, "it did not answer" }))
			time.Sleep(2 * ringEvery)
			synctest.Wait()
			for len(p.rings) > 0 {
				switch n := <-p.rings; {
				case !n.minor:
					t.Fatalf("it rang as loud as for a code: %+v", n)
				case n.calm:
					calm++
				default:
					loud++
				}
			}
		}
		if loud != 1 || calm != 99 {
			t.Errorf("100 requests in 200 seconds rang %d times, and %d times without a sound", loud, calm)
		}
		p.tell(asking(101))
		if n := p.rung(); n.minor || n.calm {
			t.Errorf("what is proved rang like this: %+v", n)
		}
	})
}

func TestNothingRingsWhileItsHumanIsAway(t *testing.T) {
	onPaper(t, func(p *paper) {
		p.tell(asking(1))
		p.rung()
		p.news <- answer.News{Away: &answer.Absence{Until: time.Now().Add(2 * time.Hour)}}
		p.tell(changed(fresh(2), func(q *answer.Prompt) { q.Quiet = true }))
		time.Sleep(time.Hour)
		p.still("the human is away")
		if len(p.desk.opened) != 1 {
			t.Errorf("opened: %v", p.desk.opened)
		}
		p.news <- answer.News{Away: &answer.Absence{}}
		p.tell(asking(2))
		if len(p.desk.opened) != 2 {
			t.Errorf("opened: %v", p.desk.opened)
		}
		time.Sleep(2 * ringEvery)
		synctest.Wait()
		if len(p.rings) == 0 {
			t.Error("nothing rang for a human who is back")
		}
	})
}

func TestWindowsThatFailAreSaidAndTriedAgainLater(t *testing.T) {
	onPaper(t, func(p *paper) {
		p.deaf.Store(true)
		p.broken.Store(true)
		p.tell(asking(1))
		p.rung()
		time.Sleep(time.Second)
		if n := p.rung(); !n.remark || !strings.Contains(n.body, "could not be shown") || !strings.Contains(n.body, "cfa-responder list") {
			t.Errorf("it said %+v", n)
		}
		p.still("it waits")
		synctest.Wait()
		p.broken.Store(false)
		time.Sleep(2 * time.Minute)
		p.rung()
		p.sheet().chosen <- chosenLater
	})
}

// What asks and what is shown is hostile; the desk's cleaning is not relied upon.
func TestHostileTextReachesNoWindowRaw(t *testing.T) {
	t.Parallel()
	evil := hostile + strings.Repeat("<b>bold</b> &amp; \\n _x ", 30) + "\n    repository    electron/asar"
	p := asking(1)
	p.Facts = answer.Facts{Repository: evil, Workflow: evil, WorkflowFile: evil, Ref: evil, SHA: evil, Environment: evil, Event: evil, Actor: evil, RunURL: evil, Job: evil}
	p.Service, p.Format, p.Message, p.Match, p.Why, p.Note, p.Details, p.Project = evil, evil, evil, evil, evil, evil, evil, evil
	p.Artifacts = []answer.Artifact{{Name: evil, Package: evil, Version: evil}}
	d := &desktop{now: time.Now}
	for _, standing := range []answer.Standing{answer.Verified, answer.Foreign, answer.Unpinned, answer.Unproven, answer.Unopened, answer.Checking} {
		p.Standing, p.Answerable = standing, standing == answer.Verified
		q := p
		q.ID, q.Number, q.Group = "U2", 2, "g"
		p.Group = "g"
		l := pile{}
		l.take(p, time.Now())
		l.take(q, time.Now())
		l.ring(time.Now().Add(time.Minute))
		n := noticeOf(p, time.Now())
		both := l.notice(time.Now())
		for _, text := range []string{d.factsOf(p, []answer.Prompt{q}), fieldText(evil, "Code, "+p.Format), n.title, n.body, both.title, both.body, windowTitle(p, "")} {
			for _, r := range text {
				if r != '\n' && !unicode.IsPrint(r) {
					t.Errorf("%s: %U is shown raw in %q", standing, r, text)
					break
				}
			}
		}
	}
}

func TestTheDesktopIsSetStrictly(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"desktop: {window: at-once}":   "",
		"desktop: {window: click}":     "",
		"ask: [desktop]":               "",
		"desktop: {window: sometimes}": "sometimes is neither click",
		"desktop: {windows: click}":    "windows",
	} {
		set, err := parseSettings([]byte(text))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		node := set.Ways["desktop"]
		_, err = openDesktop(surroundings{}, func(v any) error { return strictly(node, v) })
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
