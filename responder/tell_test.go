package main

// A prompt's rows, as a terminal shows them: none is painted by what stands in
// another.

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

// rows gives what is written of a verified prompt.
func rows(plain bool, f answer.Facts, message string) string {
	var b strings.Builder
	t := teller{write: func(s string) { b.WriteString(s) }, plain: plain, now: time.Now}
	t.details(answer.Prompt{Number: 1, Standing: answer.Verified, Facts: f, Message: wire.Clean(message, wire.MaxText), Match: "AAAA-BBBB-CCCC"})
	return b.String()
}

// folded is text as a terminal of 80 columns shows it.
func folded(text string) (lines []string) {
	for _, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		start, columns := 0, 0
		for i, r := range line {
			width := 1
			if r > 0x1100 {
				width = 2
			}
			if columns+width > 80 {
				lines = append(lines, line[start:i])
				start, columns = i, 0
			}
			columns += width
		}
		lines = append(lines, line[start:])
	}
	return lines
}

func TestNoValuePaintsARowOfItsOwn(t *testing.T) {
	t.Parallel()
	const fake = "    ref           refs/tags/v1.2.3"
	for name, text := range map[string]string{
		"padded with spaces":    "Release" + strings.Repeat(" ", 55) + fake,
		"padded with dots":      "Release " + strings.Repeat(".", 53) + fake,
		"padded with wide ones": "Release " + strings.Repeat("東", 27) + fake,
		"at any width":          strings.Repeat(" ref refs/tags/v1.2.3", 40),
		"for a program":         strings.Repeat("-", 64) + " #1 ref: refs/tags/v1.2.3",
	} {
		for _, plain := range []bool{false, true} {
			f := answer.Facts{Ref: "refs/heads/mine", Workflow: wire.Clean(text, 100), Environment: wire.CleanName(text, 200), WorkflowFile: wire.CleanName(text, 200)}
			out := rows(plain, f, text)
			row := regexp.MustCompile(`^    (repository|workflow|file|ref|commit|environment|event|started by|run|asked at|the job says|match code|time left) +\S|^ {18}\| `)
			ref := regexp.MustCompile(`^ *(#1 )?ref\b`)
			if plain {
				row = regexp.MustCompile(`^#1 [a-z ]+(:| \|) `)
			}
			n := 0
			for _, line := range folded(out) {
				if !row.MatchString(line) {
					t.Errorf("%s: a line is no row and no continuation: %q of\n%s", name, line, out)
				}
				if ref.MatchString(line) {
					n++
				}
			}
			if n != 1 {
				t.Errorf("%s: %d lines speak of the ref:\n%s", name, n, out)
			}
		}
	}
}

func TestAMadeUpNameIsShortAndShowsItsEnd(t *testing.T) {
	t.Parallel()
	out := rows(false, answer.Facts{Workflow: "Release it", Environment: strings.Repeat("e", 50), Ref: "refs/heads/main"}, "")
	for _, want := range []string{`workflow      "Release it"`, "environment   " + strings.Repeat("e", 40) + "…", "ref           refs/heads/main"} {
		if !strings.Contains(out, "    "+want+"\n") {
			t.Errorf("%q is not shown:\n%s", want, out)
		}
	}
}

func TestAMessageCannotEndItsQuotes(t *testing.T) {
	t.Parallel()
	out := rows(true, answer.Facts{}, `x" (checked)`)
	if !strings.Contains(out, `the job says: "x\" (checked)" (its own words`) {
		t.Errorf("the message is shown as\n%s", out)
	}
}

func TestALinkStaysInOnePiece(t *testing.T) {
	t.Parallel()
	link := "https://github.com/" + strings.Repeat("o", 39) + "/" + strings.Repeat("r", 60) + "/actions/runs/12345678901/attempts/1"
	if out := rows(false, answer.Facts{RunURL: link}, ""); !strings.Contains(out, link+"\n") {
		t.Errorf("the link is broken up:\n%s", out)
	}
}

func TestALongMessageIsShownWhole(t *testing.T) {
	t.Parallel()
	words := "it says this " + strings.TrimSpace(strings.Repeat("and that ", 40)) + strings.Repeat("x", 200)
	out := rows(false, answer.Facts{}, words)
	_, said, _ := strings.Cut(out, "the job says  ")
	said, _, _ = strings.Cut(said, "\n    match code")
	joined := strings.ReplaceAll(said, "\n"+strings.Repeat(" ", 18)+"| ", "")
	if squeeze := func(s string) string { return strings.ReplaceAll(s, " ", "") }; squeeze(joined) != squeeze(`"`+words+`" (its own words, which nobody has checked)`) {
		t.Errorf("the message is shown as\n%s", out)
	}
}

func TestWhatAHumanTypedWrongIsNoMessage(t *testing.T) {
	t.Parallel()
	err := usage("project %q: %w", "Bad!", wire.CheckProject("Bad!"))
	if text := err.Error(); strings.Contains(text, "malformed message") || !strings.Contains(text, "a project name") {
		t.Errorf("the human reads %q", text)
	}
}

func TestATimeLeftIsNeverMoreThanThereIs(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second:                         "0 s",
		999 * time.Millisecond:               "0 s",
		time.Minute - time.Nanosecond:        "59 s",
		5*time.Minute + 999*time.Millisecond: "5 min 0 s", // --timeout 5m, with the deadline's whole second
		29*time.Minute + 40*time.Second:      "29 min 40 s",
		5*time.Hour + 12*time.Minute:         "5 h 12 min",
	} {
		if got := span(d); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
}
