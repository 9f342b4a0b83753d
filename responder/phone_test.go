package main

// The way phone, as far as it is this program's: where it may be served, and how a
// link gets onto a phone. The page itself is tested in internal/page.

import (
	"context"
	"errors"
	"strings"
	"testing"

	"rsc.io/qr"
)

func TestAPhoneIsServedFromNoRelaysHost(t *testing.T) {
	t.Parallel()
	lookup := func(_ context.Context, host string) ([]string, error) {
		known := map[string][]string{"cfa.home.example": {"192.0.2.1", "2001:db8::1"}, "cfa.example.com": {"198.51.100.7"}, "mine.example": {"198.51.100.7"}, "127.0.0.1": {"127.0.0.1"}, "localhost": {"127.0.0.1"}}
		if a := known[host]; a != nil {
			return a, nil
		}
		return nil, errors.New("no such host")
	}
	for _, c := range []struct {
		name   string
		relays []string
		fails  string // part of the error
		warns  string
	}{
		{"cfa.home.example", []string{"wss://cfa.example.com"}, "", ""},
		{"cfa.example.com", []string{"wss://other.example", "wss://cfa.example.com"}, "cfa.example.com is the relay's host, too", ""},
		{"cfa.example.com:8443", []string{"tls://CFA.example.com.:4222"}, "is the relay's host, too", ""},
		{"unknown.example", []string{"wss://other.example"}, "", ""},
		{"mine.example:8443", []string{"wss://other.example", "wss://cfa.example.com"}, "", "warning: mine.example and the relay cfa.example.com are at the same address, 198.51.100.7;"},
		{"localhost", []string{"nats://127.0.0.1:4222"}, "", "warning: localhost and the relay 127.0.0.1 are at the same address, 127.0.0.1;"},
	} {
		var said strings.Builder
		err := apart(surroundings{std: stdio{err: &said}, relays: c.relays}, c.name, lookup)
		if c.fails == "" && err != nil || c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%s, %v: %v", c.name, c.relays, err)
		}
		if c.warns == "" && said.Len() > 0 || !strings.Contains(said.String(), c.warns) {
			t.Errorf("%s, %v: said %q", c.name, c.relays, said.String())
		}
	}
}

// Read back from what is drawn: a camera sees nothing else.
func TestTheLinkIsDrawnAsItIs(t *testing.T) {
	t.Parallel()
	const link = "https://cfa.home.example/#AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	text, err := squares(link)
	if err != nil {
		t.Fatal(err)
	}
	want, err := qr.Encode(link, qr.L)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) != (want.Size+5)/2 {
		t.Fatalf("%d lines for %d rows", len(lines), want.Size)
	}
	for i, line := range lines {
		line, ok := strings.CutPrefix(line, "\x1b[30;107m")
		line, ok2 := strings.CutSuffix(line, "\x1b[0m")
		if cells := []rune(line); !ok || !ok2 || len(cells) != want.Size+4 {
			t.Fatalf("line %d: %q", i, line)
		}
		for x, cell := range []rune(line) {
			y := 2*i - 2
			if upper, lower := cell == '▀' || cell == '█', cell == '▄' || cell == '█'; upper != want.Black(x-2, y) || lower != want.Black(x-2, y+1) {
				t.Fatalf("at %d, %d: %c", x, y, cell)
			}
		}
	}
}

func TestPhoneCommandsAreForWhoeverHasChosenThem(t *testing.T) {
	t.Parallel()
	s := newScene(t)
	s.background("ask: [browser]\n")
	for _, args := range [][]string{{"phone", "add", "pixel"}, {"phone", "list"}, {"phone", "remove", "pixel"}} {
		if out, complaint, exit := s.says("", args...); exit == 0 || out != "" || !strings.Contains(complaint, "phone is no way by which the background program asks") {
			t.Errorf("%v: %d %q %q", args, exit, out, complaint)
		}
	}
}
