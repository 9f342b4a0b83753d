// Package release holds no code. Its tests hold releases, and how they are
// fetched, to what a careful user expects of them.
//
// The rule it keeps: nobody runs what nobody named. A file is fetched by its
// digest, a workflow's actions are pinned by their commit, and a program is what
// its sources make of it, in whatever folder.
package release

import (
	"os"
	"path/filepath"
	"testing"
)

func root(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func read(t testing.TB, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
