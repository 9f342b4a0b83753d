package page

// Colours, held to what WCAG AA wants of each pair that stands on each other.

import (
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var colour = regexp.MustCompile(`--([a-z-]+): (#[0-9a-f]{6});`)

func colours(t *testing.T, css string) map[string]string {
	t.Helper()
	m := map[string]string{}
	for _, c := range colour.FindAllStringSubmatch(css, -1) {
		m[c[1]] = c[2]
	}
	return m
}

// luminance is WCAG's relative luminance.
func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	n, err := strconv.ParseUint(strings.TrimPrefix(hex, "#"), 16, 32)
	if err != nil {
		t.Fatal(err)
	}
	part := func(v uint64) float64 {
		c := float64(v&0xff) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	return 0.2126*part(n>>16) + 0.7152*part(n>>8) + 0.0722*part(n)
}

func contrast(t *testing.T, a, b string) float64 {
	t.Helper()
	x, y := luminance(t, a), luminance(t, b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

func TestEachColourStandsOutFromWhatItStandsOn(t *testing.T) {
	t.Parallel()
	if c := contrast(t, "#000000", "#ffffff"); math.Abs(c-21) > 0.01 {
		t.Fatalf("black on white is %.2f", c)
	}
	if c := contrast(t, "#777777", "#ffffff"); c < 4.4 || c >= 4.5 {
		t.Fatalf("#777 on white is %.2f, and known to just miss 4.5", c)
	}
	data, err := static.ReadFile("static/page.css")
	if err != nil {
		t.Fatal(err)
	}
	light, rest, ok := strings.Cut(string(data), "@media (prefers-color-scheme: dark) {")
	dark, rules, ok2 := strings.Cut(rest, "\n* {")
	if !ok || !ok2 {
		t.Fatal("page.css is in another order")
	}
	if strings.Contains(rules, "#") && regexp.MustCompile(`#[0-9a-fA-F]{3,8}[;,) ]`).MatchString(rules) {
		t.Error("a rule has a colour of its own, which is held to nothing")
	}
	for name, css := range map[string]string{"light": light, "dark": dark} {
		c := colours(t, css)
		if len(c) != 10 {
			t.Fatalf("%s: %d colours", name, len(c))
		}
		for _, pair := range []struct {
			fore, back string
			least      float64
		}{
			{"text", "bg", 4.5}, {"text", "soft", 4.5}, {"dim", "bg", 4.5}, {"dim", "soft", 4.5},
			{"good", "soft", 4.5}, {"warn", "soft", 4.5}, {"bad", "soft", 4.5}, {"bad", "bg", 4.5}, {"on-accent", "accent", 4.5},
			{"line", "bg", 3}, {"line", "soft", 3}, {"accent", "bg", 3}, {"accent", "soft", 3},
		} {
			if got := contrast(t, c[pair.fore], c[pair.back]); got < pair.least {
				t.Errorf("%s: %s on %s has a contrast of %.2f, less than %.1f", name, pair.fore, pair.back, got, pair.least)
			}
		}
	}
}
