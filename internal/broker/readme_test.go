package broker

// The files that a reader copies from: each is one that the relay takes, and the
// full example leaves no key out.

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/trust"
)

func TestTheREADMEsRelayFileIsGood(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(host: .*?)```").FindAllSubmatch(text, -1)
	if len(blocks) == 0 {
		t.Fatal("the README shows no relay's file")
	}
	for _, b := range blocks {
		if _, err := ParseConfig(b[1], t.TempDir()); err != nil {
			t.Error(err)
		}
	}
}

func TestTheREADMEsFullExampleHasEveryKey(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile("../../examples/cfa.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	own, err := ParseConfig(data, "/etc/cfa")
	if err != nil {
		t.Fatal(err)
	}
	// And as its comments say: files in the place of `acme`, and `nats` in the place of `listen` and `tls`, of which
	// there are two forms.
	rest := regexp.MustCompile(`(?m)^(listen|tls):\n(?:  .*\n)+`).ReplaceAllString(text, "")
	joined := regexp.MustCompile(`(?m)^#(nats:|  )`).ReplaceAllString(rest, "$1")
	other, err := ParseConfig([]byte(joined), "/etc/cfa")
	if err != nil {
		t.Fatal(err)
	}
	operated := regexp.MustCompile(`(?m)^##(nats:|  )`).ReplaceAllString(rest, "$1")
	third, err := ParseConfig([]byte(operated), "/etc/cfa")
	if err != nil {
		t.Fatal(err)
	}
	files := regexp.MustCompile(`(?m)^tls:\n(?:  .*\n)+`).ReplaceAllString(text, "")
	files = regexp.MustCompile(`(?m)^###`).ReplaceAllString(files, "")
	fourth, err := ParseConfig([]byte(files), "/etc/cfa")
	if err != nil {
		t.Fatal(err)
	}
	if own.TLS.ACME == nil || own.TLS.Cert != "" || fourth.TLS.ACME != nil || fourth.TLS.Cert == "" {
		t.Error("the two forms of tls are not what they should be")
	}
	if own.NATS != nil || other.NATS == nil || other.Listen.NATS != "" || other.NATS.operator() || third.NATS == nil || !third.NATS.operator() {
		t.Fatal("the three forms are not what they should be")
	}

	there := map[string]bool{}
	for _, form := range []string{text, joined, operated, files} {
		for path := range keyLines([]byte(form)) {
			there[regexp.MustCompile(`\[[0-9]+\]`).ReplaceAllString(path, "[]")] = true
		}
	}
	all := configKeys("", reflect.TypeFor[Config](), nil)
	if len(all) < 30 {
		t.Fatalf("only %d keys found: does this test still see them?", len(all))
	}
	for _, key := range all {
		if !there[key] {
			t.Errorf("%s is not in examples/cfa.yaml", key)
		}
	}

	// Rules have keys of the CI's, so what a rule can be is looked for.
	var allow, list, pattern bool
	for _, r := range own.Projects["rocket"].CI {
		allow = allow || len(r.Allow) > 0
		for _, values := range r.Claims {
			list = list || len(values) > 1
			pattern = pattern || values[0].Pattern
		}
	}
	if !allow || !list || !pattern {
		t.Errorf("a rule with: allow %v, a list %v, a pattern %v", allow, list, pattern)
	}
}

// configKeys gives the path of each key of a file of type t: projects.rocket stands
// for every project, [] for every entry of a list.
func configKeys(at string, t reflect.Type, found []string) []string {
	switch {
	case t == reflect.TypeFor[trust.Rule]():
		return append(found, at+".provider")
	case t.Kind() == reflect.Pointer:
		return configKeys(at, t.Elem(), found)
	case t.Kind() == reflect.Map:
		return configKeys(at+".rocket", t.Elem(), found)
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct:
		return configKeys(at+"[]", t.Elem(), found)
	case t.Kind() != reflect.Struct:
		return append(found, at)
	}
	for i := range t.NumField() {
		if name, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ","); name != "" {
			found = configKeys(strings.TrimPrefix(at+"."+name, "."), t.Field(i).Type, found)
		}
	}
	return found
}
