package answer

// Links and approvals: what a human is shown, what can be said, and what leaves.

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/continuousauth/action/internal/answer/answertest"
	"github.com/continuousauth/action/internal/receipt"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

const npmLink = "https://www.npmjs.com/auth/cli/2b1e6d0c-9c0f-4f0a-8f60-3a1d5e0f7a11"

func linkPath(service, host string) (path string, known bool) {
	if service == "npm" && host == "www.npmjs.com" {
		return "/auth/cli/", true
	}
	return "", false
}

// approval makes a request one, of the office's own responder.
func (o *office) approval(change func(*wire.Request)) func(*wire.Request) {
	return func(r *wire.Request) {
		r.Ask, r.Format, r.Message = wire.AskApproval, "any", "publish 1.2.3"
		r.Responders = []string{wire.PublicKey(o.keys.sign)}
		r.Artifacts = []wire.Artifact{{Name: "asar-1.2.3.tgz", SHA256: wire.Digest{8}, Size: 4321, Package: "@electron/asar", Version: "1.2.3", Stage: "2b1e6d0c-9c0f-4f0a-8f60-3a1d5e0f7a11"}}
		if change != nil {
			change(r)
		}
	}
}

func link(r *wire.Request) { r.Ask, r.Format = wire.AskLink, "any" }

// links makes a job hand out links, one after the other.
func links(j *answertest.Job, links ...string) {
	n := 0
	j.OnAlive = func(a *wire.Alive) bool {
		a.Link = links[min(n, len(links)-1)]
		n++
		return true
	}
}

func TestAYesIsSignedWithItsReceipt(t *testing.T) {
	t.Parallel()
	o, issuer := onTheWire(t)
	o.run()
	j := devJob(t, issuer, repo, nil, o.approval(nil))
	o.relay.Ask(j)
	p := o.human.wait(t, j.ID(), "verified", standing(Verified))
	want := Artifact{Name: "asar-1.2.3.tgz", SHA256: "08" + strings.Repeat("0", 62), Size: 4321, Package: "@electron/asar", Version: "1.2.3", Stage: "2b1e6d0c-9c0f-4f0a-8f60-3a1d5e0f7a11"}
	if len(p.Artifacts) != 1 || p.Artifacts[0] != want || p.Approvals != 1 || p.Message != "publish 1.2.3" || !p.Answerable {
		t.Fatalf("prompt is %+v", p)
	}
	// An approval is typed, always: the match code is not there to be copied.
	if !p.TypeMatch || p.Match != "" {
		t.Errorf("match %q, to be typed: %v", p.Match, p.TypeMatch)
	}
	match := seal.Match(j.Digest)
	say := func(a Answer) error {
		a.ID, a.Attempt = j.ID(), 1
		return o.desk.Answer(context.Background(), a)
	}
	for _, a := range []Answer{{}, {Match: "0000-0000-0000"}, {Match: match[:9]}} {
		if err := say(a); !errors.Is(err, ErrMatch) {
			t.Errorf("%+v: %v", a, err)
		}
	}
	if err := say(Answer{Match: match, Code: code}); !errors.Is(err, ErrNotAnswerable) {
		t.Errorf("a code for a yes: %v", err)
	}
	if _, err := o.desk.Follow(context.Background(), Answer{ID: j.ID(), Attempt: 1, Match: match}); !errors.Is(err, ErrNotAnswerable) {
		t.Errorf("a yes was followed as a link: %v", err)
	}
	if n := len(o.relay.Messages(wire.VerbAnswer)); n != 0 {
		t.Fatalf("%d answers left before there was one", n)
	}
	before := time.Now().Unix()
	if err := say(Answer{Match: strings.ToLower(match)}); err != nil {
		t.Fatal(err)
	}
	over := o.human.wait(t, j.ID(), "over", phase(Over))
	if over.Why != "the relay says that it is approved" || over.Note != "your yes is on record" {
		t.Errorf("the human is told %q, %q", over.Why, over.Note)
	}
	yes := o.relay.Yeses(j)
	if len(yes) != 1 || yes[0].At < before || yes[0].At > time.Now().Unix() || yes[0].Digest != j.Digest {
		t.Fatalf("%+v", yes)
	}
	// The job's own statement is what was signed.
	statement, err := receipt.Statement(j.Request, j.Digest, 1, yes[0].At, o.desk.sign)
	if err != nil {
		t.Fatal(err)
	}
	if err := receipt.Verify(statement, yes[0].Receipt, o.desk.sign); err != nil {
		t.Error(err)
	}
	if log := o.log.String(); !strings.Contains(log, `"outcome":"approved"`) || strings.Contains(log, match) {
		t.Errorf("the log has no decision, or the match code:\n%s", log)
	}
}

// Of two people the first says yes, by the match code, and is asked for no code;
// another is asked for the code alone.
func TestOfTwoPeopleOneAgreesAndTheOtherGivesTheCode(t *testing.T) {
	t.Parallel()
	other, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.run()
		two := func(r *wire.Request) { r.Approvals, r.Responders = 2, []string{o.desk.sign, wire.PublicKey(other)} }
		j := gullibleJob(t, project, repo, two)
		match := seal.Match(j.Digest)
		o.relay.Ask(j)
		p := o.human.wait(t, j.ID(), "verified", standing(Verified))
		// Nor is it one of several that one code answers.
		if p.Group != "" || !p.Yes || p.Approvals != 2 || p.Agreed != 0 || !p.TypeMatch || p.Match != "" || !p.Answerable {
			t.Errorf("%+v", p)
		}
		for _, a := range []Answer{{Code: "123456", Match: match}, {Match: "AAAA-AAAA-AAAA"}, {}} {
			a.ID, a.Attempt = j.ID(), 1
			if err := o.desk.Answer(t.Context(), a); err == nil {
				t.Errorf("taken: %+v", a)
			}
		}
		if n := len(o.relay.Messages(wire.VerbAnswer)); n != 0 {
			t.Fatalf("%d answers left", n)
		}
		if err := o.desk.Answer(t.Context(), Answer{ID: j.ID(), Attempt: 1, Match: match}); err != nil {
			t.Fatal(err)
		}
		waits := func(p Prompt) bool { return p.Phase == Asking && !p.Answerable && p.Why == agreed }
		o.human.wait(t, j.ID(), "agreed to", waits)
		yes := o.relay.Yeses(j)
		if len(yes) != 1 || yes[0].Key != o.desk.sign || yes[0].Decision != wire.DecisionYes || yes[0].Ask != wire.AskCode || yes[0].Attempt != 1 {
			t.Fatalf("said: %+v", yes)
		}
		opened := len(o.relay.Messages(wire.VerbOpen))
		j.At(2, wire.ReasonNext)
		o.relay.Set(j, func(i *wire.Item) { i.State.Attempt, i.State.Reason, i.State.Answer = 2, wire.ReasonNext, nil })
		o.human.wait(t, j.ID(), "at the second attempt", func(p Prompt) bool { return p.Attempt == 2 && waits(p) })
		time.Sleep(20 * time.Minute)
		if n := len(o.relay.Messages(wire.VerbOpen)); n != opened {
			t.Errorf("asked %d times more", n-opened)
		}
		if err := o.desk.Answer(t.Context(), Answer{ID: j.ID(), Attempt: 2, Code: "123456", Match: match}); !errors.Is(err, ErrNotAnswerable) {
			t.Errorf("a yes and a code by one person: %v", err)
		}

		// The same from the other's side.
		k := gullibleJob(t, project, repo, two)
		k.At(2, wire.ReasonNext)
		o.relay.Set(j, func(i *wire.Item) { i.State.State = "cancelled" })
		o.relay.Ask(k)
		o.relay.Set(k, func(i *wire.Item) { i.State.Attempt, i.State.Reason = 2, wire.ReasonNext })
		p = o.human.wait(t, k.ID(), "verified", standing(Verified))
		if p.Group == "" || p.Yes || p.Approvals != 2 || p.Agreed != 1 || !p.Answerable {
			t.Errorf("%+v", p)
		}
		if err := o.desk.Answer(t.Context(), Answer{ID: k.ID(), Attempt: 2, Code: "123456", Match: seal.Match(k.Digest)}); err != nil {
			t.Error(err)
		}
	})
}

// What asks for a yes and what for the code follows from what the job signed.
func TestTheJobsWordSaysWhetherAYesIsWanted(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		ask       string
		approvals int
		attempt   int
		reason    string
		want      bool
	}{
		{wire.AskCode, 2, 1, wire.ReasonFirst, true},
		{wire.AskCode, 2, 2, wire.ReasonRejected, true}, // the yes was of no use
		{wire.AskCode, 2, 2, wire.ReasonNext, false},
		{wire.AskCode, 2, 3, wire.ReasonRejected, false},
		{wire.AskCode, 2, 3, wire.ReasonUndelivered, false},
		{wire.AskCode, 1, 1, wire.ReasonFirst, false},
		{wire.AskCode, 0, 2, wire.ReasonRejected, false},
		{wire.AskApproval, 2, 1, wire.ReasonFirst, false}, // whose yes is a receipt
	} {
		if got := wantsYes(wire.Request{Ask: c.ask, Approvals: c.approvals}, wire.Alive{Attempt: c.attempt, Reason: c.reason}); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}

// One who has agreed is not asked again, and the prompt says whom it waits for.
func TestTheFirstOfTwoIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	other, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.run()
		j := gullibleJob(t, project, repo, o.approval(func(r *wire.Request) {
			r.Approvals = 2
			r.Responders = append(r.Responders, wire.PublicKey(other))
		}))
		o.relay.Ask(j)
		p := o.human.wait(t, j.ID(), "verified", standing(Verified))
		if p.Approvals != 2 {
			t.Errorf("%d people must agree", p.Approvals)
		}
		match := seal.Match(j.Digest)
		if err := o.desk.Answer(t.Context(), Answer{ID: j.ID(), Attempt: 1, Match: match}); err != nil {
			t.Fatal(err)
		}
		waits := func(p Prompt) bool { return p.Phase == Asking && !p.Answerable && p.Why == agreed }
		o.human.wait(t, j.ID(), "agreed to", waits)
		opened := len(o.relay.Messages(wire.VerbOpen))
		j.At(2, wire.ReasonNext)
		o.relay.Set(j, func(i *wire.Item) { i.State.Attempt, i.State.Reason, i.State.Answer = 2, wire.ReasonNext, nil })
		o.human.wait(t, j.ID(), "at the second attempt", func(p Prompt) bool { return p.Attempt == 2 && waits(p) })
		time.Sleep(20 * time.Minute)
		if n := len(o.relay.Messages(wire.VerbOpen)); n != opened {
			t.Errorf("the job was asked %d times more to prove itself to somebody who has answered", n-opened)
		}
		if err := o.desk.Answer(t.Context(), Answer{ID: j.ID(), Attempt: 2, Match: match}); !errors.Is(err, ErrNotAnswerable) {
			t.Errorf("agreed twice: %v", err)
		}
		// A no is still possible.
		if err := o.desk.Decline(t.Context(), j.ID(), "no, wait"); err != nil {
			t.Error(err)
		}
		o.human.wait(t, j.ID(), "over", phase(Over))
	})
}

// A reply that never comes is asked for again, with the same bytes.
func TestAYesIsSentUntilItIsOnRecord(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		lost := 0
		o.relay.OnMessage = func(m answertest.Message, _ *wire.Reply) bool {
			if m.Verb == wire.VerbAnswer {
				lost++
			}
			return m.Verb != wire.VerbAnswer || lost > 2
		}
		o.run()
		j := gullibleJob(t, project, repo, o.approval(nil))
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "verified", standing(Verified))
		if err := o.desk.Answer(t.Context(), Answer{ID: j.ID(), Attempt: 1, Match: seal.Match(j.Digest)}); err != nil {
			t.Fatal(err)
		}
		o.human.wait(t, j.ID(), "over", phase(Over))
		sent := o.relay.Messages(wire.VerbAnswer)
		for _, m := range sent {
			if string(m.Data) != string(sent[0].Data) {
				t.Errorf("another yes was signed: %s", m.Data)
			}
		}
	})
}

func TestALinkIsShownAndFollowed(t *testing.T) {
	t.Parallel()
	o, issuer := onTheWire(t)
	o.desk.config.LinkPath = linkPath
	o.run()
	j := devJob(t, issuer, repo, nil, link)
	links(j, npmLink)
	o.relay.Ask(j)
	p := o.human.wait(t, j.ID(), "verified", standing(Verified))
	if p.Link != npmLink || p.LinkHost != "www.npmjs.com" || !p.Answerable || p.Ask != wire.AskLink {
		t.Errorf("prompt is %+v", p)
	}
	a := Answer{ID: j.ID(), Attempt: 1}
	if got, err := o.desk.Follow(context.Background(), a); err != nil || got != npmLink {
		t.Errorf("followed to %q, %v", got, err)
	}
	for _, a := range []Answer{a, {ID: j.ID(), Attempt: 1, Code: code}} {
		if err := o.desk.Answer(context.Background(), a); !errors.Is(err, ErrNotAnswerable) {
			t.Errorf("a link was answered: %v", err)
		}
	}
	if _, err := o.desk.Follow(context.Background(), Answer{ID: j.ID(), Attempt: 2}); !errors.Is(err, ErrNotAnswerable) {
		t.Errorf("another attempt's: %v", err)
	}
	if n := len(o.relay.Messages(wire.VerbAnswer)); n != 0 {
		t.Errorf("%d answers left", n)
	}
	o.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
	if over := o.human.wait(t, j.ID(), "over", phase(Over)); over.Why != "the relay says that the job is done with it" || over.Link != "" {
		t.Errorf("%+v", over)
	}
	// Whoever has a link can be who the human is for a moment: it is in no log.
	if log := o.log.String(); strings.Contains(log, npmLink) || !strings.Contains(log, `"host":"www.npmjs.com"`) {
		t.Errorf("the log holds the link, or no decision:\n%s", log)
	}
}

// The browser that a link opens in is logged in to everything.
func TestALinkToAStrangeHostIsNeitherShownNorFollowed(t *testing.T) {
	t.Parallel()
	for _, strange := range []string{
		"https://evil.example/auth/cli/1", "https://npmjs.com/auth/cli/1", "https://a.www.npmjs.com/auth/cli/1", "https://www.npmjs.com.evil.example/auth/cli/1",
		"https://www.npmjs.com/login?next=/login/cli/1", "https://www.npmjs.com/auth/cli/../../login", "https://www.npmjs.com/", "https://www.npmjs.com:8443/auth/cli/1", "http://127.0.0.1:4873/", "", "https://private.example/other/project",
	} {
		t.Run(strange, func(t *testing.T) {
			t.Parallel()
			aStrangeLink(t, strange)
		})
	}
}

func aStrangeLink(t *testing.T, strange string) {
	o, issuer := onTheWire(t)
	o.desk.config.LinkPath = linkPath
	o.desk.trust.Links = map[string][]string{"other": {"private.example"}}
	with := o.desk.trust
	o.run()
	j := devJob(t, issuer, repo, nil, link)
	links(j, strange)
	o.relay.Ask(j)
	p := o.human.wait(t, j.ID(), "verified", standing(Verified))
	advice := "pins link-host " + project + " " + wire.LinkHost(strange)
	if wire.LinkHost(strange) == "www.npmjs.com" {
		advice = "not to a page under /auth/cli/" // the whole host is not to be allowed lightly
	}
	if p.Answerable || p.Link != "" || p.LinkHost != "" || strange != "" && !strings.Contains(p.Why, advice) {
		t.Errorf("prompt is %+v", p)
	}
	if got, err := o.desk.Follow(context.Background(), Answer{ID: j.ID(), Attempt: 1}); !errors.Is(err, ErrNotAnswerable) || got != "" {
		t.Errorf("followed to %q, %v", got, err)
	}
	if strange == "" {
		return
	}
	// By the human's own word it is good.
	with.Links = map[string][]string{project: {wire.LinkHost(strange)}}
	o.desk.SetTrust(with)
	o.human.wait(t, j.ID(), "shown", func(p Prompt) bool { return p.Answerable && p.Link == strange })
	if err := o.desk.Decline(context.Background(), j.ID(), ""); err != nil {
		t.Error(err)
	}
	o.human.wait(t, j.ID(), "over", phase(Over))
}

// What the job's log alone shows must be typed before there is a link to click.
func TestALinkWaitsForTheMatchCodeWhereItIsTyped(t *testing.T) {
	t.Parallel()
	o, issuer := onTheWire(t)
	o.desk.config.LinkPath = linkPath
	o.run()
	j := devJob(t, issuer, repo, nil, func(r *wire.Request) { link(r); r.TypeMatch = true })
	links(j, npmLink)
	o.relay.Ask(j)
	p := o.human.wait(t, j.ID(), "verified", standing(Verified))
	if p.Link != "" || p.LinkHost != "www.npmjs.com" || !p.TypeMatch || p.Match != "" {
		t.Errorf("prompt is %+v", p)
	}
	if got, err := o.desk.Follow(context.Background(), Answer{ID: j.ID(), Attempt: 1, Match: "0000-0000-0000"}); !errors.Is(err, ErrMatch) || got != "" {
		t.Errorf("followed to %q, %v", got, err)
	}
	if got, err := o.desk.Follow(context.Background(), Answer{ID: j.ID(), Attempt: 1, Match: seal.Match(j.Digest)}); err != nil || got != npmLink {
		t.Errorf("followed to %q, %v", got, err)
	}
}

// A link dies within minutes; each opening brings a new one.
func TestARenewedOpeningShowsTheNewestLink(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		o.desk.config.LinkPath = linkPath
		o.run()
		j := gullibleJob(t, project, repo, link)
		links(j, npmLink+"?n=1", npmLink+"?n=2")
		o.relay.Ask(j)
		o.human.wait(t, j.ID(), "the first", func(p Prompt) bool { return p.Link == npmLink+"?n=1" })
		o.human.wait(t, j.ID(), "the second", func(p Prompt) bool { return p.Link == npmLink+"?n=2" })
		if got, err := o.desk.Follow(t.Context(), Answer{ID: j.ID(), Attempt: 1}); err != nil || got != npmLink+"?n=2" {
			t.Errorf("followed to %q, %v", got, err)
		}
		// By hand too, for one that has died before its time.
		links(j, npmLink+"?n=3")
		time.Sleep(openEvery)
		since := time.Now()
		o.desk.Open(j.ID())
		o.human.wait(t, j.ID(), "the third", func(p Prompt) bool { return p.Link == npmLink+"?n=3" })
		if late := time.Since(since); late > openEvery {
			t.Errorf("it came after %s", late)
		}
	})
}

func TestALinkOfWhatIsNotVerifiedIsNotShown(t *testing.T) {
	t.Parallel()
	o, issuer := onTheWire(t)
	o.desk.config.LinkPath = linkPath
	o.run()
	j := devJob(t, issuer, "mallory/asar", nil, link)
	links(j, npmLink)
	o.relay.Ask(j)
	if p := o.human.wait(t, j.ID(), "foreign", standing(Foreign)); p.Link != "" || p.LinkHost != "" {
		t.Errorf("prompt is %+v", p)
	}
	if got, err := o.desk.Follow(context.Background(), Answer{ID: j.ID(), Attempt: 1}); !errors.Is(err, ErrNotAnswerable) || got != "" {
		t.Errorf("followed to %q, %v", got, err)
	}
	unanswerable(t, o, j)
}

// What is staged is approved by its human's own command: no link is needed.
func TestWhatIsStagedNeedsNoLink(t *testing.T) {
	t.Parallel()
	o, issuer := onTheWire(t)
	o.run()
	j := devJob(t, issuer, repo, nil, func(r *wire.Request) { o.approval(nil)(r); link(r) })
	o.relay.Ask(j)
	p := o.human.wait(t, j.ID(), "verified", standing(Verified))
	if !p.Answerable || p.Link != "" || p.LinkHost != "" || len(p.Artifacts) != 1 || p.Artifacts[0].Stage == "" {
		t.Errorf("prompt is %+v", p)
	}
	if got, err := o.desk.Follow(context.Background(), Answer{ID: j.ID(), Attempt: 1}); !errors.Is(err, ErrNotAnswerable) || got != "" {
		t.Errorf("followed to %q, %v", got, err)
	}
}

// A link in a request for a code or a yes is bait.
func TestALinkThatNobodyAskedForSpoilsTheProof(t *testing.T) {
	t.Parallel()
	o, issuer := onTheWire(t)
	o.desk.config.LinkPath = linkPath
	o.run()
	for _, change := range []func(*wire.Request){nil, o.approval(nil)} {
		j := devJob(t, issuer, repo, nil, change)
		links(j, npmLink)
		o.relay.Ask(j)
		p := o.human.wait(t, j.ID(), "unproven", standing(Unproven))
		if !strings.Contains(p.Why, "asks for none") || p.Link != "" {
			t.Errorf("prompt is %+v", p)
		}
	}
}

func TestDetailsAreSafeToShowAndBounded(t *testing.T) {
	t.Parallel()
	o, issuer := onTheWire(t)
	o.run()
	evil := "+ lib/index.js\n\x1b[2J- \u202egnp.exe\r\n" + strings.Repeat("x\n", 400)
	j := devJob(t, issuer, repo, map[string]any{}, o.approval(func(r *wire.Request) { r.Artifacts[0].Package = "a <b> & c" }))
	j.OnAlive = func(a *wire.Alive) bool { a.Details = evil; return true }
	o.relay.Ask(j)
	p := o.human.wait(t, j.ID(), "verified", standing(Verified))
	lines := strings.Split(p.Details, "\n")
	if len(lines) != 201 || lines[0] != "+ lib/index.js" || lines[1] != "<U+001B>[2J- <U+202E>gnp.exe<U+000D>" || lines[200] != "(202 more lines)" {
		t.Errorf("%d lines: %q …", len(lines), lines[:3])
	}
	raw, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{`\u001b`, "\u202e", `\r`} {
		if strings.Contains(string(raw), bad) {
			t.Errorf("%q reaches the human raw", bad)
		}
	}
}

// FuzzLongText: whatever a job writes, what is shown has no more than its lines,
// and nothing that moves a terminal.
func FuzzLongText(f *testing.F) {
	for _, s := range []string{"", "a\nb", "\x1b[2J\u202e", strings.Repeat("\n", 500), "\xff\n\xfe", strings.Repeat("長", 2000)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := longText(s)
		lines := strings.Split(out, "\n")
		if len(lines) > 201 {
			t.Fatalf("%d lines", len(lines))
		}
		for _, l := range lines {
			if l = strings.TrimSuffix(l, "…"); wire.Clean(l, 1<<20) != l {
				t.Fatalf("%q is not clean", l)
			}
		}
	})
}
