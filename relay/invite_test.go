package main

import (
	"strings"
	"testing"

	"rsc.io/qr"
)

// What is drawn is read back as a camera would: module by module, with the white
// around it without which no code is found.
func TestAPictureIsTheCodeOfTheLink(t *testing.T) {
	t.Parallel()
	const link = "cfa-join:eyJ2IjoxfQ"
	drawn, err := picture(link)
	if err != nil {
		t.Fatal(err)
	}
	code, err := qr.Encode(link, qr.L)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(drawn, "\n"), "\n")
	if len(lines) != (code.Size+8+1)/2 {
		t.Fatalf("%d lines for %d modules", len(lines), code.Size)
	}
	for n, line := range lines {
		line, ok := strings.CutPrefix(line, "\x1b[30;107m")
		line, ended := strings.CutSuffix(line, "\x1b[0m")
		modules := []rune(line)
		if !ok || !ended || len(modules) != code.Size+8 {
			t.Fatalf("line %d is not in black on white, or has %d modules", n, len(modules))
		}
		for x, r := range modules {
			upper, lower := r == '▀' || r == '█', r == '▄' || r == '█'
			if upper != code.Black(x-4, 2*n-4) || lower != code.Black(x-4, 2*n-3) {
				t.Fatalf("module %d of line %d is %q", x, n, r)
			}
		}
	}
	if _, err := picture(strings.Repeat("x", 5000)); err == nil {
		t.Error("more than a code holds was drawn")
	}
}
