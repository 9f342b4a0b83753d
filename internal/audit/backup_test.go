package audit

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/continuousauth/action/internal/lifecycle"
)

func headOf(messages []Message) Head {
	h := Head{V: 1, Format: 1, Relay: relay, Stream: "CFA", Created: begin, Made: begin.Add(time.Hour).UnixMilli(), Keep: 2592000, First: 1}
	if len(messages) > 0 {
		h.First, h.Last = messages[0].Seq, messages[len(messages)-1].Seq
	}
	h.Count = h.Last + 1 - h.First
	return h
}

func backup(t testing.TB, h Head, messages []Message) (file []byte, sum string) {
	t.Helper()
	var b bytes.Buffer
	sum = write(t, gzip.NewWriter(&b), h, messages)
	return b.Bytes(), sum
}

type open struct{ *bytes.Buffer }

func (open) Close() error { return nil }

func plainBackup(t testing.TB, h Head, messages []Message) (text []byte, sum string) {
	t.Helper()
	var b bytes.Buffer
	sum = write(t, open{&b}, h, messages)
	return b.Bytes(), sum
}

func write(t testing.TB, to io.WriteCloser, h Head, messages []Message) (sum string) {
	t.Helper()
	w, err := writePlain(to, h)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if err := w.Add(m); err != nil {
			t.Fatal(err)
		}
	}
	if sum, err = w.Close(); err != nil {
		t.Fatal(err)
	}
	return sum
}

// readAll reads a backup to its end.
func readAll(r io.Reader) (h Head, messages []Message, sum string, err error) {
	b, err := NewBackupReader(r)
	if err != nil {
		return h, nil, "", err
	}
	return restOf(b)
}

func restOf(b *BackupReader) (h Head, messages []Message, sum string, err error) {
	for {
		m, err := b.Next()
		if errors.Is(err, io.EOF) {
			return b.Head, messages, b.Sum, nil
		}
		if err != nil {
			return b.Head, nil, b.Sum, err
		}
		messages = append(messages, m)
	}
}

func plainOf(t testing.TB, file []byte) []byte {
	t.Helper()
	gz, err := gzip.NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(gz)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func zipped(t testing.TB, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	gz := gzip.NewWriter(&b)
	if _, err := gz.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := gz.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestABackupIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	s := toldAgain(t)
	for name, messages := range map[string][]Message{"all": s.messages, "the old end is gone": s.messages[7:], "one": s.messages[:1], "none": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := headOf(messages)
			file, sum := backup(t, h, messages)
			got, read, again, err := readAll(bytes.NewReader(file))
			if err != nil || !reflect.DeepEqual(got, h) || !reflect.DeepEqual(read, messages) || again != sum {
				t.Errorf("%v: %+v, %d messages, %s", err, got, len(read), again)
			}
		})
	}
}

// Whoever has only zcat and sha256sum can read and check it.
func TestABackupIsTextThatSaysWhatItIs(t *testing.T) {
	t.Parallel()
	s := told(t)
	file, sum := backup(t, headOf(s.messages), s.messages)
	lines := bytes.SplitAfter(plainOf(t, file), []byte("\n"))
	lines = lines[:len(lines)-1]
	if len(lines) != 2*len(s.messages)+2 {
		t.Fatalf("%d lines of %d messages", len(lines), len(s.messages))
	}
	if want := `{"cfa-backup":1,"format":1,"relay":"relay.test","stream":"CFA","created":"2026-11-20T03:00:00Z",`; !strings.HasPrefix(string(lines[0]), want) {
		t.Errorf("%s", lines[0])
	}
	if !bytes.Equal(bytes.TrimSuffix(lines[2], []byte("\n")), s.messages[0].Data) {
		t.Errorf("%s", lines[2])
	}
	body, end := bytes.Join(lines[:len(lines)-1], nil), lines[len(lines)-1]
	if want := fmt.Sprintf("{\"sha256\":%q}\n", lifecycle.Hash(body)); string(end) != want || !strings.Contains(want, sum) {
		t.Errorf("%s, not %s", end, want)
	}
}

// No byte can be changed, left out or added.
func TestADamagedBackupIsRefusedWhereverTheDamageIs(t *testing.T) {
	t.Parallel()
	s := told(t)
	messages := s.messages[:4]
	file, _ := backup(t, headOf(messages), messages)
	refused := func(what string, file []byte) {
		t.Helper()
		if _, _, _, err := readAll(bytes.NewReader(file)); !errors.Is(err, ErrBackup) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range file {
		changed := slices.Clone(file)
		changed[i] ^= 0xff
		refused(fmt.Sprintf("byte %d of the file", i), changed)
		refused(fmt.Sprintf("%d bytes of the file", i), file[:i])
	}
	refused("one byte more", append(slices.Clone(file), 0))
	refused("twice", append(slices.Clone(file), file...))
	plain := plainOf(t, file)
	for i := 0; i < len(plain); i += 5 {
		changed := slices.Clone(plain)
		changed[i] ^= 1
		if _, _, _, err := readAll(bytes.NewReader(zipped(t, changed))); !errors.Is(err, ErrBackup) && !errors.Is(err, ErrBackupVersion) {
			t.Errorf("byte %d: %v", i, err)
		}
		if i%15 == 0 {
			refused(fmt.Sprintf("%d bytes", i), zipped(t, plain[:i]))
		}
	}
	refused("one line more", zipped(t, append(slices.Clone(plain), '\n')))
}

// withSum is a backup's text with the hash that it should have: what is refused
// then is refused for what it says.
func withSum(body string) []byte {
	return fmt.Appendf([]byte(body), "{\"sha256\":%q}\n", lifecycle.Hash([]byte(body)))
}

func TestABackupHasOneForm(t *testing.T) {
	t.Parallel()
	const head = `{"cfa-backup":1,"format":1,"relay":"relay.test","stream":"CFA","created":"2026-11-20T03:00:00Z","made":5,"keep":9,"first":3,"last":3,"count":1}` + "\n"
	const one = `{"seq":3,"subject":"cfa.store.v1.request.UA","time":"2026-11-20T03:00:00.5Z","size":2}` + "\n{}\n"
	if _, _, _, err := readAll(bytes.NewReader(zipped(t, withSum(head+one)))); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ from, to string }{
		"a field more":            {`"keep":9`, `"keep":9,"more":1`},
		"a field twice":           {`"keep":9`, `"keep":9,"keep":9`},
		"another case":            {`"keep"`, `"Keep"`},
		"a space":                 {`"keep":9`, `"keep": 9`},
		"made at another place":   {`"created":"2026-11-20T03:00:00Z"`, `"created":"2026-11-20T04:00:00+01:00"`},
		"a time of another place": {`"time":"2026-11-20T03:00:00.5Z"`, `"time":"2026-11-20T04:00:00.5+01:00"`},
		"zeros in a time":         {`00.5Z`, `00.500Z`},
		"no relay":                {`"relay":"relay.test"`, `"relay":""`},
		"a relay of two lines":    {`relay.test`, `relay\ntest`},
		"a count of none":         {`"count":1`, `"count":0`},
		"sequences backwards":     {`"first":3,"last":3,"count":1`, `"first":3,"last":1,"count":18446744073709551615`},
		"sequence 0":              {`"first":3,"last":3,"count":1`, `"first":0,"last":0,"count":1`},
		"all sequences there are": {`"first":3,"last":3,"count":1`, `"first":3,"last":18446744073709551615,"count":18446744073709551613`},
		"a time before all":       {`"made":5`, `"made":0`},
		"a format below all":      {`"format":1`, `"format":-1`},
		"a store of its own":      {`cfa.store.v1.request.UA`, `other.store.v1.request.UA`},
		"a wildcard":              {`request.UA`, `request.*`},
		"an empty word":           {`request.UA`, `request..UA`},
		"another sequence":        {`"seq":3`, `"seq":4`},
		"a size below nothing":    {`"size":2`, `"size":-1`},
		"a size of too much":      {`"size":2`, `"size":131073`},
		"another size":            {`"size":2`, `"size":1`},
		"no message":              {one, ""},
		"a message more":          {one, one + one},
		"a very long line":        {`relay.test`, strings.Repeat("r", 5000)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(head+one, tc.from, tc.to, 1)
			if text == head+one {
				t.Fatal("nothing was changed")
			}
			if _, _, _, err := readAll(bytes.NewReader(zipped(t, withSum(text)))); !errors.Is(err, ErrBackup) {
				t.Error(err)
			}
		})
	}
	newer := strings.Replace(head, `"cfa-backup":1`, `"cfa-backup":2,"what":{"ever":[]}`, 1)
	if _, _, _, err := readAll(bytes.NewReader(zipped(t, withSum(newer)))); !errors.Is(err, ErrBackupVersion) || !strings.Contains(err.Error(), "upgrade") {
		t.Error(err)
	}
}

// Where a gzip member can hold more than its content, a backup's holds nothing.
func TestABackupsFileHasNoRoomForMore(t *testing.T) {
	t.Parallel()
	s := told(t)
	file, _ := backup(t, headOf(s.messages), s.messages)
	plain := plainOf(t, file)
	for name, change := range map[string]func(*gzip.Header){
		"a name":    func(h *gzip.Header) { h.Name = "x" },
		"a comment": func(h *gzip.Header) { h.Comment = "x" },
		"an extra":  func(h *gzip.Header) { h.Extra = []byte("x") },
		"a time":    func(h *gzip.Header) { h.ModTime = begin },
		"a system":  func(h *gzip.Header) { h.OS = 3 },
	} {
		var b bytes.Buffer
		gz := gzip.NewWriter(&b)
		change(&gz.Header)
		gz.Write(plain)
		gz.Close()
		if _, _, _, err := readAll(&b); !errors.Is(err, ErrBackup) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestABackupIsWholeOrNone(t *testing.T) {
	t.Parallel()
	s := told(t)
	x := headOf(s.messages)
	for name, messages := range map[string][]Message{
		"a gap":             slices.Delete(slices.Clone(s.messages), 3, 4),
		"the end is not in": s.messages[:len(s.messages)-1],
		"one twice":         append(slices.Clone(s.messages[:4]), s.messages[3:]...),
		"one more":          append(slices.Clone(s.messages), Message{Seq: x.Last + 1, Subject: RestoredSubject, Time: begin}),
	} {
		w, err := NewBackupWriter(io.Discard, x)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if err = w.Add(m); err != nil {
				break
			}
		}
		if err == nil {
			_, err = w.Close()
		}
		if err == nil {
			t.Errorf("%s: a backup was written", name)
		}
	}
}

// full takes so many bytes and no more.
type full int

var errFull = errors.New("no space left on device")

func (f *full) Write(p []byte) (int, error) {
	if *f -= full(len(p)); *f < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestADiskThatIsFullIsSaid(t *testing.T) {
	t.Parallel()
	s := told(t)
	file, _ := backup(t, headOf(s.messages), s.messages)
	for room := 0; room < len(file); room += 1 + len(file)/100 {
		f := full(room)
		w, err := NewBackupWriter(&f, headOf(s.messages))
		for _, m := range s.messages {
			if err == nil {
				err = w.Add(m)
			}
		}
		if err == nil {
			_, err = w.Close()
		}
		if !errors.Is(err, errFull) {
			t.Fatalf("with room for %d of %d bytes: %v", room, len(file), err)
		}
	}
}

func TestAnyMessagesSurviveABackup(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.Uint64Range(1, 1<<40).Draw(t, "first")
		var messages []Message
		for i := range rapid.IntRange(0, 20).Draw(t, "messages") {
			messages = append(messages, Message{
				Seq:     first + uint64(i),
				Subject: Prefix + rapid.StringMatching(`[a-z]{1,10}(\.[A-Za-z0-9_-]{1,60}){1,3}`).Draw(t, "subject"),
				Time:    time.Unix(0, rapid.Int64Range(0, 1<<62).Draw(t, "time")).UTC(),
				Data:    rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "data"),
			})
		}
		h := headOf(messages)
		h.First, h.Last = first, first+uint64(len(messages))-1
		h.Count, h.Restored = uint64(len(messages)), rapid.Int64Range(0, 1<<50).Draw(t, "restored")
		var b bytes.Buffer
		w, err := NewBackupWriter(&b, h)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if err := w.Add(m); err != nil {
				t.Fatal(err)
			}
		}
		sum, err := w.Close()
		if err != nil {
			t.Fatal(err)
		}
		got, read, again, err := readAll(&b)
		if err != nil || got != h || again != sum || len(read) != len(messages) {
			t.Fatalf("%v: %+v", err, got)
		}
		for i := range read {
			if !reflect.DeepEqual(read[i], messages[i]) {
				t.Fatalf("%+v became %+v", messages[i], read[i])
			}
		}
	})
}

// What is read is what would be written, to the byte. The hash is put right, else
// nothing beyond it would ever be tried.
func FuzzBackup(f *testing.F) {
	s := toldAgain(f)
	for _, messages := range [][]Message{s.messages[:3], s.messages[40:], nil} {
		file, _ := backup(f, headOf(messages), messages)
		plain := plainOf(f, file)
		f.Add(plain[:bytes.LastIndexByte(plain[:len(plain)-1], '\n')+1])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		b, err := readPlain(bytes.NewReader(withSum(string(body))))
		if err != nil {
			return
		}
		h, messages, _, err := restOf(b)
		if err != nil {
			return
		}
		if again, _ := plainBackup(t, h, messages); !bytes.Equal(again, withSum(string(body))) {
			t.Fatalf("%q is read, and written as %q", body, again)
		}
	})
}

// Any file at all ends in a backup or an error, and soon.
func FuzzBackupFile(f *testing.F) {
	s := told(f)
	for _, messages := range [][]Message{s.messages[:2], nil} {
		file, _ := backup(f, headOf(messages), messages)
		f.Add(file)
		f.Add(file[:len(file)-1])
		f.Add(zipped(f, plainOf(f, file)[1:]))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		h, messages, sum, err := readAll(bytes.NewReader(file))
		if err != nil {
			return
		}
		if _, again := plainBackup(t, h, messages); again != sum {
			t.Fatalf("%s is read, and written as %s", sum, again)
		}
	})
}
