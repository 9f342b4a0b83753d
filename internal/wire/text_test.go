package wire

// Text from outside, as it reaches a terminal or a log.

import (
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestTextFromOutsideCannotDriveATerminalOrPassForAnother(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ name, in, want string }{
		{"plain ASCII", "publish @scope/widgets 1.2.3 (~3 MB)", "publish @scope/widgets 1.2.3 (~3 MB)"},
		{"nothing", "", ""},
		{"ANSI colour", "\x1b[31mred\x1b[0m", "<U+001B>[31mred<U+001B>[0m"},
		{"ANSI cursor", "a\x1b[2J\x1b[H", "a<U+001B>[2J<U+001B>[H"},
		{"window title", "\x1b]0;owned\x07", "<U+001B>]0;owned<U+0007>"},
		{"C1 control sequence introducer", "\u009b31m", "<U+009B>31m"},
		{"a raw C1 byte", "\x9b31m", "<0x9B>31m"},
		{"line break", "one\ntwo", "one<U+000A>two"},
		{"carriage return", "evil\rgood", "evil<U+000D>good"},
		{"tab", "a\tb", "a<U+0009>b"},
		{"backspace", "evil\b\b\b\bgood", "evil<U+0008><U+0008><U+0008><U+0008>good"},
		{"delete", "a\x7fb", "a<U+007F>b"},
		{"NUL", "a\x00b", "a<U+0000>b"},
		{"line separator", "a\u2028b\u2029c", "a<U+2028>b<U+2029>c"},
		{"right-to-left override", "a\u202egnp.exe", "a<U+202E>gnp.exe"},
		{"bidi isolates", "\u2066a\u2069\u2067b\u2068c", "<U+2066>a<U+2069><U+2067>b<U+2068>c"},
		{"bidi marks", "\u200ea\u200fb\u061cc", "<U+200E>a<U+200F>b<U+061C>c"},
		{"Hebrew, which turns what follows", "\u05d0bc", "<U+05D0>bc"},
		{"Cyrillic look-alikes", "\u0430\u0441me/wid\u0433ets", "<U+0430><U+0441>me/wid<U+0433>ets"},
		{"Greek look-alikes", "\u03bfmega", "<U+03BF>mega"},
		{"Cherokee look-alike", "\u13aa", "<U+13AA>"},
		{"fullwidth", "\uff41cme\uff0fwidgets", "<U+FF41>cme<U+FF0F>widgets"},
		{"mathematical letters", "\U0001d41acme", "<U+1D41A>cme"},
		{"Roman numeral", "\u2170", "<U+2170>"},
		{"dotless i, long s, kra", "\u0131\u017f\u0138", "<U+0131><U+017F><U+0138>"},
		{"multiplication and division signs", "\u00d7\u00f7", "<U+00D7><U+00F7>"},
		{"two letters in one", "\u0132\u0133 \u013f\u0140 \u0149", "<U+0132><U+0133> <U+013F><U+0140> <U+0149>"},
		{"Han as a bar and a dash", "a\u4e28b\u4e00c", "a<U+4E28>b<U+4E00>c"},
		{"kana as a dash and a slash", "acme\u30cewidgets\u30fc1", "acme<U+30CE>widgets<U+30FC>1"},
		{"Han as slashes", "\u4e3f\u4e36\u4e40", "<U+4E3F><U+4E36><U+4E40>"},
		{"as an equals sign", "\u4e8c\u30cb", "<U+4E8C><U+30CB>"},
		{"as an arrow", "\u304f\u309d\u3078\u30d8", "<U+304F><U+309D><U+3078><U+30D8>"},
		{"combining marks", "e\u0301", "e<U+0301>"},
		{"division slash", "acme\u2215widgets", "acme<U+2215>widgets"},
		{"zero width", "ac\u200bme\u200c\u200d\ufeff\u2060", "ac<U+200B>me<U+200C><U+200D><U+FEFF><U+2060>"},
		{"soft hyphen", "ac\u00adme", "ac<U+00AD>me"},
		{"spaces that are none", "a\u00a0b\u3000c\u2003d", "a<U+00A0>b<U+3000>c<U+2003>d"},
		{"Hangul filler", "a\u3164\u115fb", "a<U+3164><U+115F>b"},
		{"tag characters", "a\U000e0041b", "a<U+E0041>b"},
		{"variation selector", "a\ufe0fb", "a<U+FE0F>b"},
		{"private use", "\ue000", "<U+E000>"},
		{"noncharacter", "\ufffe", "<U+FFFE>"},
		{"emoji", "\U0001f600", "<U+1F600>"},
		{"the replacement character itself", "\ufffd", "<U+FFFD>"},
		{"invalid bytes", "a\xff\xfeb", "a<0xFF><0xFE>b"},
		{"overlong slash", "\xc0\xaf", "<0xC0><0xAF>"},
		{"half a rune", "a\xe2\x82", "a<0xE2><0x82>"},
		{"Latin-1 and Latin Extended-A", "Zürich Łódź Čeština Þórr", "Zürich Łódź Čeština Þórr"},
		{"Han, kana and Hangul", "東京 ひらがな カタカナ 한국", "東京 ひらがな カタカナ 한국"},
		{"katakana middle dot", "a\u30fbb", "a<U+30FB>b"},
		{"padding up to a line of ours", "Release" + strings.Repeat(" ", 60) + "    ref           refs/tags/v1.2.3", "Release ref refs/tags/v1.2.3"},
		{"spaces around", "  a  ", " a "},
		{"spaces and what is none", "a \u00a0 b", "a <U+00A0> b"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got := Clean(tc.in, 200); got != tc.want {
				t.Errorf("Clean(%+q) = %q, want %q", tc.in, got, tc.want)
			}
		})
	}
}

func TestANameHoldsNothingButASCII(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		in    string
		limit int
		want  string
	}{
		{"acme/widgets", 50, "acme/widgets"},
		{"acme/wídgets", 50, "acme/w<U+00ED>dgets"},
		{"東京", 50, "<U+6771><U+4EAC>"},
		{"\u0430cme\x1b", 50, "<U+0430>cme<U+001B>"},
		{"acme/widgets", 4, "acme…"},
		{"acme    /widgets", 50, "acme /widgets"},
		{"…", 5, "<U+2026>"},
		{"\xff", 5, "<0xFF>"},
	} {
		if got := CleanName(tc.in, tc.limit); got != tc.want {
			t.Errorf("CleanName(%+q, %d) = %q, want %q", tc.in, tc.limit, got, tc.want)
		}
	}
}

func TestTextIsCutAtItsLimit(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		in    string
		limit int
		want  string
	}{
		{"abc", 3, "abc"},
		{"abcd", 3, "abc…"},
		{"üüüü", 3, "üüü…"},
		{"\xff\xff\xff", 2, "<0xFF><0xFF>…"},
		{"\u202e\u202ea", 2, "<U+202E><U+202E>…"},
		{"a", 0, "…"},
		{"", 0, ""},
		{"a    b", 3, "a b"},
		{"a    b", 2, "a …"},
		{"a    ", 2, "a "},
	} {
		if got := Clean(tc.in, tc.limit); got != tc.want {
			t.Errorf("Clean(%+q, %d) = %q, want %q", tc.in, tc.limit, got, tc.want)
		}
	}
}

func FuzzClean(f *testing.F) {
	seed(f, func(s string) { f.Add(s, 40) }, []string{
		"plain", "\x1b[31m", "\u202e", "\u0430cme", "\uff41", "\u200b", "\xff\xc0\xaf", "Łódź 東京 한국", "ı ſ ĸ ŉ × ÷ ĳ ŀ", "一ーノ丨", "…", "<U+202E>", strings.Repeat("ü", 50), "a   b    ", "\U000e0041\ufe0f\u3164",
	})
	f.Fuzz(func(t *testing.T, s string, limit int) {
		if limit < 0 || limit > 1000 {
			limit = 1000
		}
		out := Clean(s, limit)
		if !utf8.ValidString(out) {
			t.Fatalf("%+q", out)
		}
		if strings.Contains(out, "  ") {
			t.Fatalf("a run of spaces in %q", out)
		}
		cut := strings.HasSuffix(out, "…")
		if n := utf8.RuneCountInString(spaces.ReplaceAllString(s, " ")); cut != (n > limit) {
			t.Fatalf("%d characters at a limit of %d gave %q", n, limit, out)
		}
		body := strings.TrimSuffix(out, "…")
		for _, r := range body {
			if !harmless(r) {
				t.Fatalf("%U passed in %q", r, out)
			}
		}
		if utf8.RuneCountInString(body) > limit*len("<U+10FFFF>") {
			t.Fatalf("%d characters for a limit of %d", utf8.RuneCountInString(body), limit)
		}
		if again := Clean(body, len(body)); again != body {
			t.Fatalf("%q cleaned again is %q", body, again)
		}
		for _, r := range strings.TrimSuffix(CleanName(s, limit), "…") {
			if r < 0x20 || r >= 0x7F {
				t.Fatalf("%U passed in a name", r)
			}
		}
	})
}

var spaces = regexp.MustCompile(" +")

// harmless says the same as plain in other words: by Unicode's own tables.
func harmless(r rune) bool {
	if r < utf8.RuneSelf {
		return unicode.IsPrint(r)
	}
	if !unicode.IsLetter(r) || strings.ContainsRune("ıſĸŉĲĳĿŀ", r) || strings.ContainsRune("一ー二ニ丨亅ノ丿丶ヽ乀乁くゝへヘ十匚匸丅乚乂", r) {
		return false
	}
	return r <= 0x17E || unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul)
}
