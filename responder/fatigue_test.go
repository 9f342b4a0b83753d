package main

// Against mistakes and fatigue, with the real program: what is new stands out, and
// who wants to type match codes does.

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

func TestWhatIsNewIsMarkedAndRemembered(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	p := s.terminal()
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	at := p.waits(0, "#1 first sight: not in anything that you have answered of this project before: the repository, the workflow, the ref and who started it")
	at = p.waits(at, "electron/asar (new)")
	at = p.waits(at, "octocat (new)")
	at = p.waits(at, "#1 your turn")
	p.typed("1\r")
	at = p.waits(at, "#1 code")
	p.typed(code + "\r")
	got(t, j)
	s.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
	p.waits(at, "#1 over")
	p.typed("quit\r")
	if err := p.ends(); err != nil {
		t.Fatal(err)
	}

	// Another program of this human's knows it, and says it to scripts too.
	b := s.background("ask: []\n")
	usual := s.job(repo, nil, nil)
	s.relay.Ask(usual)
	marks := func(number string) []string {
		until(t, func() bool { out, _, _ := s.says("", "list"); return strings.Contains(out, "#"+number) })
		_, _, _ = s.says("", "answer", number) // shows it, and is given no code
		out, _, _ := s.says("", "list", "--json")
		var list []answer.Prompt
		if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 || list[0].Standing != answer.Verified {
			t.Fatalf("%v %s", err, out)
		}
		return list[0].New
	}
	if m := marks("1"); m != nil {
		t.Errorf("the usual is marked: %q", m)
	}
	s.relay.Set(usual, func(i *wire.Item) { i.State.State = "cancelled" })
	until(t, func() bool { out, _, _ := s.says("", "list"); return out == "nothing waits\n" })
	s.relay.Ask(s.job(repo, map[string]any{"actor": "mallory", "environment": "npm"}, nil))
	if m := marks("2"); strings.Join(m, " ") != "environment actor" {
		t.Errorf("marked: %q", m)
	}
	s.nowhere(b, code)
}

func TestWhoseCodesAreAlwaysTypedIsAskedForThem(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.pin()
	s.run("pins", "--pins", s.pins(), "match", project, "type")
	p := s.terminal()
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	at := p.waits(0, "match code    to be typed: read it off the job's log")
	at = p.waits(at, "#1 your turn: type 1, then the match code from the job's log, then the code")
	p.typed("1\r")
	at = p.waits(at, "#1 match code from the job's log")
	p.typed(seal.Match(j.Digest) + "\r")
	p.waits(at, "#1 code, 6 digits")
	p.typed(code + "\r")
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}
}
