package main

// Links and approvals, as a human or a program sees them.

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/answer/answertest"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

const (
	npmLink = "https://www.npmjs.com/auth/cli/2b1e6d0c-9c0f-4f0a-8f60-3a1d5e0f7a11"
	stage   = "7c1e6d0c-9c0f-4f0a-8f60-3a1d5e0f7a99"
)

// signer is the scene's responder's signing key.
func (s *scene) signer() string {
	s.t.Helper()
	k, err := loadKeys(s.t.Context(), keyStore{path: s.keys()})
	if err != nil {
		s.t.Fatal(err)
	}
	return wire.PublicKey(k.sign)
}

func (s *scene) approval() func(*wire.Request) {
	key := s.signer()
	return func(r *wire.Request) {
		r.Ask, r.Format, r.Message, r.Responders = wire.AskApproval, "any", "publish 1.2.3", []string{key}
		r.Artifacts = []wire.Artifact{
			{Name: "asar-1.2.3.tgz", SHA256: wire.Digest{0xab, 0xcd}, Size: 43210, Package: "@electron/asar", Version: "1.2.3", Stage: stage},
			{Name: "SHA256SUMS", SHA256: wire.Digest{1}, Size: 99},
		}
	}
}

func aLink(r *wire.Request) { r.Ask, r.Format = wire.AskLink, "any" }

func linked(j *answertest.Job, link string) {
	j.OnAlive = func(a *wire.Alive) bool { a.Link = link; return true }
}

func TestAHumanApprovesByTypingTheMatchCode(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.terminal()
	at := p.waits(0, "connected to the relay")
	j := s.job(repo, nil, s.approval())
	j.OnAlive = func(a *wire.Alive) bool { a.Details = "+ lib/new.js\n- lib/\x1b[2Jold.js\n"; return true }
	s.relay.Ask(j)
	at = p.waits(at, "#1 verified: electron/asar asks for your yes, for npm, in the project asar")
	end := p.waits(at, "#1 your turn: type 1, then the match code from the job's log, which is your yes; i1 for details; or d1 to decline")
	shown := p.text()[at:end]
	for _, want := range []string{
		`artifact 1 +asar-1\.2\.3\.tgz`, `  package +@electron/asar 1\.2\.3`, `  size +43210 bytes`, `  sha256 abcd0{60}\s`, `  to publish +npm stage approve ` + stage,
		`artifact 2 +SHA256SUMS`, `  sha256 010{62}\s`, `match code +to be typed`,
	} {
		if !regexp.MustCompile(want).MatchString(shown) {
			t.Errorf("%s is not shown:\n%s", want, shown)
		}
	}
	match := seal.Match(j.Digest)
	if strings.Contains(p.text(), match) {
		t.Error("the match code is shown where it must be typed")
	}
	p.typed("i1\r")
	at = p.waits(end, "#1 details: in the job's own words")
	at = p.waits(at, "    | + lib/new.js")
	at = p.waits(at, "    | - lib/<U+001B>[2Jold.js")
	// The wrong code is no yes, and neither is a code.
	p.typed("1\r")
	at = p.waits(at, "#1 match code from the job's log, which is your yes (Enter alone goes back): ")
	p.typed("yes\r")
	at = p.waits(at, "#1 not sent: that is not this request's match code")
	at = p.waits(at, "#1 match code from the job's log")
	if n := len(s.relay.Messages(wire.VerbAnswer)); n != 0 {
		t.Fatalf("%d answers left", n)
	}
	p.typed(strings.ToLower(match) + "\r")
	at = p.waits(at, "#1 approved: your yes is signed")
	at = p.waits(at, "#1 over: the relay says that it is approved")
	if yes := s.relay.Yeses(j); len(yes) != 1 || yes[0].Digest != j.Digest {
		t.Errorf("%+v", yes)
	}
	p.typed("quit\r")
	if err := p.ends(); err != nil {
		t.Errorf("ended with %v", err)
	}
	_ = at
}

// fakeOpener stands in for xdg-open: it writes down how it was called.
func fakeOpener(t *testing.T) (env []string, called func() string) {
	t.Helper()
	dir := t.TempDir()
	said := filepath.Join(dir, "said")
	script := "#!/bin/sh\nprintf '%s|' \"$#\" \"$@\" >'" + said + ".new' && mv '" + said + ".new' '" + said + "'\n"
	if err := os.WriteFile(filepath.Join(dir, "xdg-open"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return []string{"PATH=" + dir + string(os.PathListSeparator) + os.Getenv("PATH"), "DISPLAY=:99"}, func() string {
		data, _ := os.ReadFile(said)
		return string(data)
	}
}

func TestAHumanFollowsALinkByAKeypress(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	env, called := fakeOpener(t)
	p := s.onTerminal(env)
	at := p.waits(0, "connected to the relay")
	j := s.job(repo, nil, aLink)
	linked(j, npmLink)
	s.relay.Ask(j)
	at = p.waits(at, "#1 verified: electron/asar asks you to follow a link for npm, in the project asar")
	end := p.waits(at, "#1 your turn: follow the link, or type o1 to open it in your browser")
	if shown := p.text()[at:end]; !regexp.MustCompile(`link host +www\.npmjs\.com\s+link +` + regexp.QuoteMeta(npmLink) + `\s`).MatchString(shown) {
		t.Errorf("host and link do not stand on lines of their own:\n%s", shown)
	}
	// Ctrl-C goes back; Enter opens.
	p.typed("1\r")
	at = p.waits(end, "#1 open www.npmjs.com in your browser (Enter opens it; Ctrl-C goes back): ")
	p.typed("\x03")
	at = p.waits(at, "#1 note: nothing was sent")
	if c := called(); c != "" {
		t.Fatalf("opened already: %s", c)
	}
	p.typed("1\r")
	at = p.waits(at, "#1 open www.npmjs.com")
	p.typed("\r")
	at = p.waits(at, "#1 link host: www.npmjs.com")
	at = p.waits(at, "#1 link: "+npmLink)
	at = p.waits(at, "#1 opened: in your browser")
	if c := called(); c != "1|"+npmLink+"|" {
		t.Errorf("the opener was called with %q", c)
	}
	if n := len(s.relay.Messages(wire.VerbAnswer)); n != 0 {
		t.Errorf("%d answers left", n)
	}
	s.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
	at = p.waits(at, "#1 over: the relay says that the job is done with it")
	// One at a strange host is not shown at all.
	other := s.job(repo, nil, aLink)
	linked(other, "https://npmjs.evil.example/auth/cli/1")
	s.relay.Ask(other)
	at = p.waits(at, "#2 not answerable: its link leads to npmjs.evil.example, which is no host that the service npm is known by")
	p.typed("o2\r")
	at = p.waits(at, "#2 not answerable: its link leads to")
	if strings.Contains(p.text(), "https://npmjs.evil.example") {
		t.Error("the link is shown all the same")
	}
	s.run("pins", "--pins", s.pins(), "link-host", project, "npmjs.evil.example", "--confirm", "npmjs.evil.example")
	at = p.waits(at, "note: the pins have changed")
	p.waits(at, "#2 your turn: follow the link")
}

func TestWithoutADesktopALinkIsShownToBeFollowedByHand(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	env, called := fakeOpener(t)
	p := s.onTerminal(append(env, "DISPLAY=", "WAYLAND_DISPLAY="))
	at := p.waits(0, "connected to the relay")
	j := s.job(repo, nil, func(r *wire.Request) { aLink(r); r.TypeMatch = true })
	linked(j, npmLink)
	s.relay.Ask(j)
	at = p.waits(at, "#1 your turn: type 1, then the match code from the job's log; then the link is shown")
	if strings.Contains(p.text(), npmLink) {
		t.Error("the link is shown before the match code was typed")
	}
	p.typed("o1\r")
	at = p.waits(at, "#1 match code from the job's log (Enter alone goes back): ")
	p.typed(seal.Match(j.Digest) + "\r")
	at = p.waits(at, "#1 link: "+npmLink)
	p.waits(at, "#1 not opened: there is no desktop here to open it on; follow it by hand")
	if c := called(); c != "" {
		t.Errorf("an opener was called with %q", c)
	}
}

func TestAProgramReadsLinksAndApprovesInPlainLines(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.pipes()
	at := p.waits(0, "note: connected")
	first := s.job(repo, nil, aLink)
	linked(first, npmLink)
	s.relay.Ask(first)
	at = p.waits(at, "#1 link host: www.npmjs.com\n#1 link: "+npmLink+"\n")
	at = p.waits(at, "#1 your turn: follow the link; the job sees by itself when that is done; or d1 to decline")
	p.typed("d1 not now\n")
	at = p.waits(at, "#1 over: you declined: not now")
	j := s.job(repo, nil, s.approval())
	j.OnAlive = func(a *wire.Alive) bool { a.Details = "one\ntwo"; return true }
	s.relay.Ask(j)
	at = p.waits(at, "#2 artifact 1: asar-1.2.3.tgz\n#2 package: @electron/asar 1.2.3\n#2 size: 43210 bytes\n#2 sha256: abcd"+strings.Repeat("0", 60)+"\n#2 to publish: npm stage approve "+stage+"\n#2 artifact 2: ")
	at = p.waits(at, "#2 your turn: ")
	p.typed("i2\n")
	at = p.waits(at, "#2 details | one\n#2 details | two\n")
	p.typed("2\n" + seal.Match(j.Digest) + "\n")
	at = p.waits(at, "#2 next line: match code from the job's log, which is your yes")
	at = p.waits(at, "#2 approved: ")
	p.waits(at, "#2 over: the relay says that it is approved")
}

func TestTheSecondOfTwoPeopleIsWaitedFor(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.pipes()
	at := p.waits(0, "note: connected")
	other, err := wire.NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	j := s.job(repo, nil, func(r *wire.Request) {
		s.approval()(r)
		r.Approvals, r.Responders = 2, append(r.Responders, wire.PublicKey(other))
	})
	s.relay.Ask(j)
	at = p.waits(at, "#1 people: 2 must agree")
	at = p.waits(at, "#1 your turn: ")
	p.typed("1\n" + seal.Match(j.Digest) + "\n")
	at = p.waits(at, "#1 note: your yes is on record")
	p.typed("1\n")
	p.waits(at, "you have agreed to it, and another person must too")
}

func TestAnAnswerCommandFollowsLinksAndApprovesNothing(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	said := filepath.Join(t.TempDir(), "said")
	p := s.pipes("--unattended", "--answer-command", `printf '%s' "$CFA_ASK $CFA_LINK" >'`+said+`'`)
	at := p.waits(0, "note: connected")
	yes := s.job(repo, nil, s.approval())
	s.relay.Ask(yes)
	at = p.waits(at, "#1 left alone: its match code must be typed")
	s.relay.Set(yes, func(i *wire.Item) { i.State.State = "cancelled" })
	at = p.waits(at, "#1 over")
	j := s.job(repo, nil, aLink)
	linked(j, npmLink)
	s.relay.Ask(j)
	p.waits(at, "#2 followed: ")
	if data, err := os.ReadFile(said); err != nil || string(data) != "link "+npmLink {
		t.Errorf("the command was told %q, %v", data, err)
	}
	if n := len(s.relay.Messages(wire.VerbAnswer)); n != 0 {
		t.Errorf("%d answers left", n)
	}
}

func TestWhatOpensALinkGetsItAsOneArgumentOrNotAtAll(t *testing.T) {
	t.Parallel()
	desktop := environ{"DISPLAY=:0"}
	for _, tc := range []struct {
		system string
		env    environ
		want   []string // nil: nothing is started
	}{
		{"linux", desktop, []string{"xdg-open", npmLink}},
		{"linux", environ{"WAYLAND_DISPLAY=wayland-0"}, []string{"xdg-open", npmLink}},
		{"linux", nil, nil},
		{"freebsd", desktop, []string{"xdg-open", npmLink}},
		{"darwin", nil, []string{"open", npmLink}},
		{"windows", nil, []string{"rundll32", "url.dll,FileProtocolHandler", npmLink}},
	} {
		name, args, err := opener(tc.system, tc.env, npmLink)
		if got := append([]string{name}, args...); (err != nil) != (tc.want == nil) || err == nil && !slices.Equal(got, tc.want) {
			t.Errorf("%s %v: %q, %v", tc.system, tc.env, got, err)
		}
	}
	for _, link := range []string{
		"", "http://127.0.0.1/", "file:///etc/passwd", "-x", "https://a.example/'$(id)'", "https://a.example/$HOME", "https://a.example/;id", "https://a.example/(x)", "https://a.example/\n", "https://a.example/*", "https://a.example/!x", "https://a@b.example/",
	} {
		for _, system := range []string{"linux", "darwin", "windows"} {
			if name, args, err := opener(system, desktop, link); err == nil {
				t.Errorf("%s: %q is opened by %s %q", system, link, name, args)
			}
		}
	}
	if err := browser("linux", environ{"DISPLAY=:0"})("https://a.example/`id`"); err == nil {
		t.Error("opened")
	}
}

// What a job writes about its files paints no row of ours.
func TestNoArtifactPaintsARowOfItsOwn(t *testing.T) {
	t.Parallel()
	const fake = "    sha256 0000000000000000000000000000000000000000000000000000000000000000"
	for _, text := range []string{"x" + strings.Repeat(" ", 60) + fake, "x " + strings.Repeat(".", 53) + fake, `x" (checked)`, strings.Repeat(" sha256 00", 20)} {
		for _, plain := range []bool{false, true} {
			var b strings.Builder
			tell := teller{write: func(s string) { b.WriteString(s) }, plain: plain, now: time.Now}
			tell.details(answer.Prompt{Number: 1, Standing: answer.Verified, Ask: wire.AskApproval, TypeMatch: true, Artifacts: []answer.Artifact{
				{Name: wire.CleanName(text, 200), SHA256: strings.Repeat("a", 64), Package: wire.CleanName(text, 214), Version: wire.CleanName(text, 256), Stage: wire.CleanName(text, 36)},
			}})
			n := 0
			for _, line := range folded(b.String()) {
				if regexp.MustCompile(`^( *|#1 )sha256\b`).MatchString(line) {
					n++
				}
			}
			if n != 1 || strings.Contains(b.String(), "npm stage") {
				t.Errorf("%q, plain %v: %d digests:\n%s", text, plain, n, b.String())
			}
		}
	}
}
