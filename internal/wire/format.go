package wire

// The form of a code, checked by the responder before it seals and by the job
// after it opened, so that a typing error costs no attempt.

import (
	"fmt"
	"strconv"
	"strings"
)

// MaxCode bounds a code. 64 hex characters of a recovery code fit, and a web
// login's token.
const MaxCode = 512

// Format is the form that a code must have:
//
//	digits:6      exactly six digits
//	digits:6-8    six to eight
//	hex:64        hex digits, as npm's recovery codes
//	alnum:8       ASCII letters and digits
//	any           1 to 512 printable ASCII characters
type Format struct {
	set      string
	min, max int
}

// ParseFormat reads a format.
func ParseFormat(s string) (Format, error) {
	if s == "any" {
		return Format{"any", 1, MaxCode}, nil
	}
	set, length, ok := strings.Cut(s, ":")
	if ok && (set == "digits" || set == "hex" || set == "alnum") {
		low, high, ranged := strings.Cut(length, "-")
		if !ranged {
			high = low
		}
		lo, err1 := strconv.ParseUint(low, 10, 16)
		hi, err2 := strconv.ParseUint(high, 10, 16)
		if err1 == nil && err2 == nil && lo >= 1 && lo <= hi && hi <= MaxCode {
			return Format{set, int(lo), int(hi)}, nil
		}
	}
	return Format{}, malformed("unknown format: use digits:6, digits:6-8, hex:64, alnum:8 or any")
}

// Check says what is wrong with code, without repeating it.
func (f Format) Check(code string) error {
	for i := 0; i < len(code); i++ {
		// A control character could end the line a code is written on and
		// write another output of the job, or drive a terminal.
		if c := code[i]; c < 0x20 || c >= 0x7F {
			return fmt.Errorf("the code holds a character that is not printable ASCII")
		}
	}
	if n := len(code); n < f.min || n > f.max {
		if f.min == f.max {
			return fmt.Errorf("the code has %d characters, not %d", n, f.min)
		}
		return fmt.Errorf("the code has %d characters, not %d to %d", n, f.min, f.max)
	}
	for i := 0; i < len(code); i++ {
		c := code[i]
		digit := c >= '0' && c <= '9'
		switch f.set {
		case "digits":
			if !digit {
				return fmt.Errorf("the code holds a character that is not a digit")
			}
		case "hex":
			if !digit && (c < 'a' || c > 'f') && (c < 'A' || c > 'F') {
				return fmt.Errorf("the code holds a character that is not a hex digit")
			}
		case "alnum":
			if !digit && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return fmt.Errorf("the code holds a character that is neither letter nor digit")
			}
		}
	}
	return nil
}

// String describes the format to a person.
func (f Format) String() string {
	if f.set == "any" {
		return "any code"
	}
	n := strconv.Itoa(f.min)
	if f.max != f.min {
		n += " to " + strconv.Itoa(f.max)
	}
	return n + " " + map[string]string{"digits": "digits", "hex": "hex digits", "alnum": "letters or digits"}[f.set]
}
