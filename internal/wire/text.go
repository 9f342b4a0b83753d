package wire

// Text from outside, on its way to a person's terminal or a public log.

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// SomeResponder stands where a relay that hides names would have one.
const SomeResponder = "a responder"

// Clean makes s safe to show on one line: control and formatting characters
// (which move a cursor, recolour, reverse the writing direction or hide) and
// letters that look like ASCII ones without being them (which make a strange
// repository look like one's own) are written out as <U+XXXX>, and a run of
// spaces becomes one, so that no text can lay itself out as lines of ours where
// a terminal wraps it. It is cut at limit characters. Letters of Latin-1 and
// Latin Extended-A, Han, kana and Hangul stay, because no ASCII character can be
// taken for them: without those few that are drawn as one, or as two (see
// [strokes] and [plain]).
func Clean(s string, limit int) string {
	var b strings.Builder
	n := 0
	var last rune
	for i, r := range s {
		if r == ' ' && last == ' ' {
			continue
		}
		last = r
		if n == limit {
			b.WriteString("…")
			break
		}
		n++
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size <= 1 {
				fmt.Fprintf(&b, "<0x%02X>", s[i])
				continue
			}
		}
		if plain(r) {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "<U+%04X>", r)
		}
	}
	return b.String()
}

// CleanName is Clean for identifiers (repositories, refs, workflows, actors):
// ASCII stays, all else is written out.
func CleanName(s string, limit int) string {
	var b strings.Builder
	for _, r := range Clean(s, limit) {
		if r < utf8.RuneSelf || r == '…' {
			b.WriteRune(r)
		} else {
			fmt.Fprintf(&b, "<U+%04X>", r)
		}
	}
	return b.String()
}

// strokes are letters of Han and kana that are one stroke or two, as a dash, a
// slash, a bar and their like are: acme一widgets, acmeノwidgets.
const strokes = "一ー" + "二ニ" + "丨亅" + "ノ丿" + "丶ヽ乀乁" + "くゝ" + "へヘ" + "十" + "匚匸" + "丅丁" + "乚" + "乂メ" + "工エ" + "口ロ" + "丫" + "乙" + "レし" + "凵" + "卜ト" // - = | / \ <> ^ + [ T L X I O Y Z L U |-

func plain(r rune) bool {
	switch {
	case r >= 0x20 && r < 0x7F:
		return true
	case r == 'ı' || r == 'ſ' || r == 'ĸ' || r == 'ŉ' || r == '×' || r == '÷': // i, f, k, 'n, x, -
		return false
	case r == 'Ĳ' || r == 'ĳ' || r == 'Ŀ' || r == 'ŀ': // IJ, ij, L·, l·
		return false
	case strings.ContainsRune(strokes, r):
		return false
	case r >= 0x00C0 && r <= 0x017E:
		return true
	case r >= 0x3041 && r <= 0x30FF, r >= 0x4E00 && r <= 0x9FFF, r >= 0xAC00 && r <= 0xD7A3:
		return unicode.IsLetter(r)
	}
	return false
}
