package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/wire"
)

const (
	adaKey = "AAL4W6P3FNASB4VR5RS6IGMNNYELFDUBH7VQDZFEACBZXBPBQCAM5GPA"
	benKey = "ADSO7U2ULPZJRG2RNYTW7ZX2ZUM6VJ6W3T46R4A5KDB5AV76DAJ4OUTX"
)

func TestKeysComeFromAListOrFromAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	both := file("both", "# who answers\n"+adaKey+"  Ada Lovelace\n\n  "+benKey+"\tBen # on leave\r\n")
	ada := file("ada", adaKey)
	for name, c := range map[string]struct{ list, want string }{
		"nothing":             {"", ""},
		"keys":                {adaKey + ", " + benKey, adaKey + " " + benKey},
		"what is no key":      {"nonsense", "nonsense"}, // refused where keys are, in their words
		"a file":              {both, adaKey + " " + benKey},
		"a file and a key":    {ada + " " + benKey, adaKey + " " + benKey},
		"from where it runs":  {"./testdata/responders", adaKey + " " + benKey},
		"the same without ./": {"testdata/responders", adaKey + " " + benKey},
	} {
		if got, err := pinnedKeys(c.list); err != nil || got != c.want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	long := file("long", strings.Repeat("#\n", maxKeysFile))
	for name, c := range map[string]struct{ list, want string }{
		"no such file":         {filepath.Join(dir, "none"), "there is no such file"},
		"a directory":          {dir, "it is not a file"},
		"an empty file":        {file("empty", "# nobody yet\n"), "it holds no key"},
		"another kind of key":  {file("user", "UCQJVJPUPJTVTABP7FK7RXBNFIKKLSM5EO7JP6DECJ77SOBUKWSPAMIX"), "line 1 begins with"},
		"a name alone":         {file("name", adaKey+"\nBen\n"), `line 2 begins with "Ben"`},
		"a name first":         {file("first", "Ada "+adaKey), `line 1 begins with "Ada"`},
		"twice in it":          {file("twice", adaKey+"\n"+adaKey), "line 2: " + adaKey + " stands there twice"},
		"twice with the list":  {adaKey + " " + ada, "is named beside the file"},
		"too long":             {long, "more than"},
		"control characters":   {file("control", "\x1b[2J"), "line 1 begins with"},
		"no text":              {file("binary", "\xff\xfe"), "no text"},
		"a key spelt like one": {"./" + adaKey, "there is no such file"},
	} {
		if got, err := pinnedKeys(c.list); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func FuzzKeysFile(f *testing.F) {
	for _, s := range []string{"", adaKey, "# x\n" + adaKey + " Ada\r\n" + benKey, adaKey + "\n" + adaKey, "\xff"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := parseKeys(data)
		if err != nil {
			return
		}
		for i, key := range list {
			if wire.CheckSigningKey(key) != nil || slices.Contains(list[:i], key) {
				t.Fatalf("%q gives %v", data, list)
			}
		}
		if again, err := parseKeys([]byte(strings.Join(list, "\n"))); err != nil || !slices.Equal(again, list) {
			t.Fatalf("%v became %v, %v", list, again, err)
		}
	})
}
