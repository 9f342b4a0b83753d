package main

// examples/responder.yaml, as people copy it.

import (
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestTheExampleOfAResponderExplainsEveryKeyAndWorks(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../examples/responder.yaml")
	if err != nil {
		t.Fatal(err)
	}
	// What stands behind # as a setting is one that excludes another.
	commented := regexp.MustCompile(`(?m)^( *)# ([a-z-]+: [^#\n]*)`)
	with := func(keys ...string) string {
		return commented.ReplaceAllStringFunc(string(data), func(line string) string {
			m := commented.FindStringSubmatch(line)
			if key, _, _ := strings.Cut(m[2], ":"); slices.Contains(keys, key) {
				return m[1] + m[2]
			}
			return line
		})
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"slack.url": "https://hooks.slack.com/services/T/B/x", "slack.token": "xoxb-1", "slack.app": "xapp-1",
		"ntfy.url": "https://ntfy.sh/topic", "matrix.token": "x", "other.url": "https://other.example/hook",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sur := surroundings{dir: dir, env: environ{"GOTIFY_TOKEN=x"}, log: slog.New(slog.DiscardHandler), std: stdio{err: io.Discard}}
	for _, text := range []string{
		string(data),
		with("api", "private", "codes-in-chat", "app-token", "users"),
		regexp.MustCompile(`(?m)^  (channel: |token: .file: slack).*$`).ReplaceAllString(with("webhook"), ""),
	} {
		set, err := parseSettings([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if len(set.Relays) != 2 || len(set.Codes) != 2 {
			t.Errorf("%d relays, %d sources of codes", len(set.Relays), len(set.Codes))
		}
		for name, into := range map[string]any{"desktop": &desktopSettings{}, "phone": &phoneSettings{}} {
			if err := strictly(set.Ways[name], into); err != nil || reflect.ValueOf(into).Elem().IsZero() {
				t.Errorf("%s: %v", name, err)
			}
		}
		for _, name := range []string{"slack", "webhook"} {
			node := set.Ways[name]
			if _, err := findWay(name).open(sur, func(v any) error { return strictly(node, v) }); err != nil {
				t.Errorf("%s: %v\n%s", name, err, text)
			}
		}
	}
	for _, of := range []any{relaySettings{}, desktopSettings{}, phoneSettings{}, sourceSettings{}, slackSettings{}, hookSettings{}} {
		s := reflect.TypeOf(of)
		for i := range s.NumField() {
			key, _, _ := strings.Cut(s.Field(i).Tag.Get("yaml"), ",")
			if key == "" || !regexp.MustCompile(`(?m)^[ -]*(# )?`+key+`:`).Match(data) {
				t.Errorf("%s of %s is not explained", key, s)
			}
		}
	}
	docs, err := os.ReadFile("../docs/responder.md")
	if err != nil {
		t.Fatal(err)
	}
	n := reflect.TypeFor[note]()
	for i := range n.NumField() {
		if f := n.Field(i); f.IsExported() && !strings.Contains(string(docs), "`."+f.Name+"`") {
			t.Errorf("a template's field %s is not in docs/responder.md", f.Name)
		}
	}
}
