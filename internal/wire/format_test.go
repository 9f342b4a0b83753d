package wire

// The form of a code.

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

func TestACodeMustHaveTheFormAskedFor(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		format, says string
		good, bad    []string
	}{
		{"digits:6", "6 digits", []string{"000000", "123456"}, []string{"", "12345", "1234567", "12345a", " 12345", "12345\n", "12345٣", "１２３４５６", "-12345"}},
		{"digits:6-8", "6 to 8 digits", []string{"123456", "1234567", "12345678"}, []string{"12345", "123456789", "abcdef"}},
		{"digits:1", "1 digits", []string{"0"}, []string{"", "00"}},
		{"hex:4", "4 hex digits", []string{"09af", "AF09"}, []string{"09ag", "09a", "0x9a", "09a\x00"}},
		{"alnum:3", "3 letters or digits", []string{"aZ9"}, []string{"a-9", "aé", "a_9", "a b"}},
		{"any", "any code", []string{"a", "x y", "~!@#$%^&*()", strings.Repeat("x", MaxCode)}, []string{"", strings.Repeat("x", MaxCode+1), "a\nb", "a\rb", "a\tb", "a\x1b[0m", "a\x7f", "é", "\xff", "a\x00"}},
		{"any", "any code", []string{"::set-output name=x::y"}, nil}, // the output's delimiter is the hand-over's business
		{"digits:512", "512 digits", []string{strings.Repeat("1", 512)}, []string{strings.Repeat("1", 511)}},
	} {
		t.Run(tc.format, func(t *testing.T) {
			t.Parallel()
			f, err := ParseFormat(tc.format)
			if err != nil {
				t.Fatal(err)
			}
			if f.String() != tc.says {
				t.Errorf("reads %q, want %q", f, tc.says)
			}
			for _, code := range tc.good {
				if err := f.Check(code); err != nil {
					t.Errorf("%q: %v", code, err)
				}
			}
			for _, code := range tc.bad {
				if err := f.Check(code); err == nil {
					t.Errorf("%q was accepted", code)
				} else if !formatError.MatchString(err.Error()) {
					t.Errorf("%q: the error is not one of the known ones, so it may hold the code: %v", code, err)
				}
			}
		})
	}
}

// formatError matches each error of Check whole: nothing in it can be the code.
var formatError = regexp.MustCompile(`^the code (has \d+ characters, not \d+( to \d+)?|holds a character that is (not printable ASCII|not a digit|not a hex digit|neither letter nor digit))$`)

func TestAnUnknownFormatIsRefused(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", "digits", "digits:", "digits:0", "digits:513", "digits:6-", "digits:-6", "digits:8-6", "digits:6-513", "digits:6-8-9", "digits:+6", "digits: 6", "digits:6 ",
		"digits:6_0", "digits:0x6", "digits:1e1", "digits:99999999999999999999", "Digits:6", "any:6", "ANY", "letters:6", "digits;6", "digits:6,hex:4", "digits:٦",
	} {
		if f, err := ParseFormat(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q is %v, %v", bad, f, err)
		} else if !strings.Contains(err.Error(), "digits:6") {
			t.Errorf("%q: the error does not say what to write: %v", bad, err)
		}
	}
}

func TestTheFormatThatWasNeverParsedTakesNoCode(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"1", "123456"} {
		if err := (Format{}).Check(code); err == nil {
			t.Errorf("%q was accepted", code)
		}
	}
}

func FuzzParseFormat(f *testing.F) {
	seed(f, func(s [2]string) { f.Add(s[0], s[1]) }, [][2]string{
		{"digits:6", "123456"}, {"digits:6-8", "1234567"}, {"hex:64", strings.Repeat("af", 32)}, {"alnum:8", "abcd1234"}, {"any", "x\n"}, {"digits:0", ""}, {"any", strings.Repeat("x", 513)},
	})
	f.Fuzz(func(t *testing.T, format, code string) {
		form, err := ParseFormat(format)
		if err != nil {
			if strings.Contains(format, ":") && len(format) > 40 && strings.Contains(err.Error(), format) {
				t.Fatalf("error %q holds the input", err)
			}
			return
		}
		if form.min < 1 || form.max > MaxCode || form.min > form.max {
			t.Fatalf("%q allows %d to %d", format, form.min, form.max)
		}
		if err := form.Check(code); err != nil {
			if !formatError.MatchString(err.Error()) {
				t.Fatalf("error %q may hold the code", err)
			}
			return
		}
		if len(code) < form.min || len(code) > form.max {
			t.Fatalf("%q took %d characters", format, len(code))
		}
		for i := range len(code) {
			if code[i] < 0x20 || code[i] > 0x7E {
				t.Fatalf("%q took %q", format, code)
			}
		}
	})
}
