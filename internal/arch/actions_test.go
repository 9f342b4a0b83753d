package arch

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

var (
	actionShown = regexp.MustCompile(`uses: (actions/[a-z-]+)@(v[0-9]+)\n`)
	actionUsed  = regexp.MustCompile(`uses: (actions/[a-z-]+)@[0-9a-f]{40} # (v[0-9]+)\.`)
)

// The README's workflow is copied. What it uses should be what we see work.
func TestTheREADMEsWorkflowUsesWhatOurOwnDoes(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(root(t), ".github", "workflows", "*.yml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no workflows: %v", err)
	}
	used := map[string]string{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range actionUsed.FindAllStringSubmatch(string(text), -1) {
			used[m[1]] = m[2]
		}
	}
	text, err := os.ReadFile(filepath.Join(root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	shown := actionShown.FindAllStringSubmatch(string(text), -1)
	if len(shown) == 0 {
		t.Error("the README uses no action of GitHub's: does this test still see them?")
	}
	for _, m := range shown {
		if own := used[m[1]]; own != "" && own != m[2] {
			t.Errorf("the README uses %s@%s, our own workflows %s", m[1], m[2], own)
		}
	}
}
