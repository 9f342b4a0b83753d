package main

// What is remembered of what was answered: what counts as new, and what becomes of
// a file that is damaged, somebody else's, or too full.

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/answer"
)

var (
	usualFacts = answer.Facts{Repository: "electron/asar", WorkflowFile: ".github/workflows/release.yml", Ref: "refs/heads/main", Environment: "npm", Actor: "ada"}
	allNew     = []string{answer.NewRepository, answer.NewWorkflow, answer.NewRef, answer.NewEnvironment, answer.NewActor}
)

func TestWhatWasNeverAnsweredIsNew(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*answer.Facts)
		want   []string
	}{
		{"the same", func(*answer.Facts) {}, nil},
		{"another run and commit", func(f *answer.Facts) { f.RunID, f.SHA, f.Job, f.RunURL = "2", "b", "3", "https://x" }, nil},
		{"another actor", func(f *answer.Facts) { f.Actor = "mallory" }, []string{answer.NewActor}},
		{"another workflow", func(f *answer.Facts) { f.WorkflowFile = "x.yml" }, []string{answer.NewWorkflow}},
		{"another environment", func(f *answer.Facts) { f.Environment = "prod" }, []string{answer.NewEnvironment}},
		{"no environment", func(f *answer.Facts) { f.Environment = "" }, []string{answer.NewEnvironment}},
		{"another branch", func(f *answer.Facts) { f.Ref = "refs/heads/x" }, []string{answer.NewRef}},
		{"a branch that begins the same", func(f *answer.Facts) { f.Ref = "refs/heads/main2" }, []string{answer.NewRef}},
		{"a tag", func(f *answer.Facts) { f.Ref = "refs/tags/v1" }, []string{answer.NewRef}},
		{"a branch that is called like one", func(f *answer.Facts) { f.Ref = "a tag" }, []string{answer.NewRef}},
		{"another repository", func(f *answer.Facts) { f.Repository = "electron/Asar" }, []string{answer.NewRepository}},
		{"several", func(f *answer.Facts) { f.Actor, f.Ref = "mallory", "refs/pull/3/merge" }, []string{answer.NewRef, answer.NewActor}},
	} {
		m := newMemory("", slog.New(slog.DiscardHandler))
		if got := m.New("r", "asar", usualFacts); !slices.Equal(got, allNew) {
			t.Errorf("%s: before anything: %q", c.name, got)
		}
		m.Answered("r", "asar", usualFacts)
		f := usualFacts
		c.change(&f)
		if got := m.New("r", "asar", f); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q", c.name, got)
		}
		for _, other := range [][2]string{{"r2", "asar"}, {"r", "asar2"}} {
			if got := m.New(other[0], other[1], usualFacts); !slices.Equal(got, allNew) {
				t.Errorf("%s: another relay or project: %q", c.name, got)
			}
		}
	}
	m := newMemory("", slog.New(slog.DiscardHandler))
	f := usualFacts
	f.Ref, f.Environment = "refs/tags/v1", ""
	if got := m.New("r", "asar", f); !slices.Equal(got, []string{answer.NewRepository, answer.NewWorkflow, answer.NewRef, answer.NewActor}) {
		t.Errorf("that there is no environment is news only where there was one: %q", got)
	}
	m.Answered("r", "asar", f)
	f.Ref = "refs/tags/v2"
	if got := m.New("r", "asar", f); got != nil {
		t.Errorf("each tag is new, so none is: %q", got)
	}
}

func TestWhatWasAnsweredIsKnownToTheNextProgram(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	log := slog.New(slog.DiscardHandler)
	one, two := newMemory(dir, log), newMemory(dir, log) // at once
	one.Answered("r", "asar", usualFacts)
	one.settled()
	f := usualFacts
	f.Actor = "bob"
	two.Answered("r", "asar", f)
	two.Answered("r", "other", f)
	two.settled()
	three := newMemory(dir, log)
	if three.said() != "" {
		t.Error(three.said())
	}
	for _, actor := range []string{"ada", "bob"} {
		f.Actor = actor
		if got := three.New("r", "asar", f); got != nil {
			t.Errorf("%s: %q", actor, got)
		}
	}
	info, err := os.Stat(filepath.Join(dir, seenFile))
	if err != nil || modesCount && info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
}

func TestADamagedMemoryIsPutAside(t *testing.T) {
	t.Parallel()
	for name, data := range map[string]string{
		"empty": "", "cut": `{"v":1,"projects":{"r/asar":{"at":1,"fac`, "another version": `{"v":2,"projects":{}}`, "more": `{"v":1,"projects":{}}{}`,
		"unknown": `{"v":1,"projects":{},"x":1}`, "a strange fact": `{"v":1,"projects":{"a":{"at":1,"facts":{"x\u001b[2J":["1"]}}}}`,
		"too long": `{"v":1,"projects":{"a":{"at":1,"facts":{"actor":["` + strings.Repeat("a", 17*longestSeen) + `"]}}}}`, "no JSON": "\x00\x1b[2J",
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, seenFile)
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		m := newMemory(dir, slog.New(slog.DiscardHandler))
		if said := m.said(); !strings.Contains(said, "everything is marked as new once more") || !strings.Contains(said, "seen.json.damaged now") || strings.Contains(said, "\x1b") {
			t.Errorf("%s: %q", name, said)
		}
		if kept, err := os.ReadFile(path + ".damaged"); err != nil || string(kept) != data {
			t.Errorf("%s: not put aside: %v", name, err)
		}
		m.Answered("r", "asar", usualFacts)
		m.settled()
		if again := newMemory(dir, nil); again.said() != "" || again.New("r", "asar", usualFacts) != nil {
			t.Errorf("%s: it does not go on: %q", name, again.said())
		}
	}
	// What others can write is not believed, and not overwritten either.
	if !modesCount {
		return
	}
	dir := t.TempDir()
	path := filepath.Join(dir, seenFile)
	if err := os.WriteFile(path, []byte(`{"v":1,"projects":{}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	m := newMemory(dir, slog.New(slog.DiscardHandler))
	if !strings.Contains(m.said(), "chmod 600") {
		t.Error(m.said())
	}
	m.Answered("r", "asar", usualFacts)
	m.settled()
	if data, _ := os.ReadFile(path); string(data) != `{"v":1,"projects":{}}` {
		t.Errorf("%s", data)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	m := newMemory(dir, nil)
	f := usualFacts
	for i := range 3 * mostSeen {
		f.Actor = fmt.Sprintf("actor-%d-%s", i, strings.Repeat("x", longestSeen-10))
		m.Answered("r", "asar", f)
		m.Answered("r", "asar", usualFacts) // answered again and again, so never forgotten
	}
	if n := len(m.seen["r/asar"].Facts[answer.NewActor]); n != mostSeen {
		t.Errorf("%d actors", n)
	}
	for i := range 2 * mostSeenProjects {
		m.Answered("r", fmt.Sprintf("p%d", i), usualFacts)
	}
	m.settled()
	again := newMemory(dir, nil)
	if again.said() != "" || len(again.seen) != mostSeenProjects {
		t.Errorf("%d projects, %q", len(again.seen), again.said())
	}
}

func FuzzSeen(f *testing.F) {
	for _, s := range []string{`{"v":1,"projects":{}}`, `{"v":1,"projects":{"r/asar":{"at":1,"facts":{"actor":["ada"]}}}}`, `{"v":1,"projects":null}`, `{}`, `[]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		seen, err := parseSeen(data)
		if err != nil {
			return
		}
		m := &memory{seen: seen}
		m.Answered("r", "asar", usualFacts)
		if m.New("r", "asar", usualFacts) != nil || len(m.seen) > mostSeenProjects {
			t.Fatalf("%d projects", len(m.seen))
		}
	})
}
