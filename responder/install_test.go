package main

// What install writes on each system, whichever runs this; and what it does with
// systemd's and launchd's commands, which are stand-ins that keep a record.

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

var rewrite = flag.Bool("rewrite", false, "write testdata/install anew; look at the difference")

var tasks = map[string]struct {
	system string
	task   task
}{
	"desktop.service": {"linux", task{program: "/usr/bin/cfa-responder", home: "/home/ada", desktop: true}},
	"login.service":   {"linux", task{program: "/opt/a b/cfa-responder", args: []string{"--key-file=/home/ada/100% $HOME \"k\"\\"}, home: "/home/ada", config: "/home/ada/$conf %h"}},
	"agent.plist":     {"darwin", task{program: "/opt/homebrew/bin/cfa-responder", args: []string{"--pins=/Users/ada/a <b> & c"}, home: "/Users/ada", config: "/Users/ada/conf", uid: 501}},
	"run.reg":         {"windows", task{program: `C:\Program Files\cfa\cfa-responder.exe`, args: []string{`--pins=C:\Users\Ada L\`, `--log=C:\l`}, home: `C:\Users\ada`}},
}

func TestEachSystemsTextIsAsItWasLookedAt(t *testing.T) {
	t.Parallel()
	for name, tc := range tasks {
		k, err := keeperOf(tc.system, tc.task)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		golden := filepath.Join("testdata", "install", name)
		if *rewrite {
			if err := errors.Join(os.MkdirAll(filepath.Dir(golden), 0o755), os.WriteFile(golden, []byte(k.text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got := k.text; got != strings.TrimRight(string(want), "\n") && got != string(want) {
			t.Errorf("%s is not as in %s (go test -run EachSystemsText -rewrite, and look):\n%s", name, golden, got)
		}
		if !k.isOurs(k.text) {
			t.Errorf("%s: install does not know what it has written", name)
		}
	}
}

func TestTheAgentIsXMLThatSaysWhatWasMeant(t *testing.T) {
	t.Parallel()
	tc := tasks["agent.plist"]
	var words []string
	for d := xml.NewDecoder(strings.NewReader(plist(tc.task))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok {
			words = append(words, string(text))
		}
	}
	for _, want := range append(tc.task.args, tc.task.program, tc.task.config) {
		if !slices.Contains(words, want) {
			t.Errorf("%q is not in it", want)
		}
	}
}

// Windows' own rules, as CommandLineToArgvW has them for what is written here.
func TestTheStartupLineComesApartAsItWasMeant(t *testing.T) {
	t.Parallel()
	apart := func(line string) (words []string) {
		for line != "" {
			if line[0] != '"' {
				word, rest, _ := strings.Cut(line, " ")
				words, line = append(words, word), rest
				continue
			}
			var word strings.Builder
			i := 1
			for i < len(line) {
				slashes := 0
				for i < len(line) && line[i] == '\\' {
					slashes, i = slashes+1, i+1
				}
				if i < len(line) && line[i] == '"' {
					word.WriteString(strings.Repeat(`\`, slashes/2))
					if slashes%2 == 0 {
						i++
						break
					}
					word.WriteByte('"')
					i++
					continue
				}
				word.WriteString(strings.Repeat(`\`, slashes))
				if i < len(line) {
					word.WriteByte(line[i])
					i++
				}
			}
			words, line = append(words, word.String()), strings.TrimPrefix(line[i:], " ")
		}
		return words
	}
	for _, words := range [][]string{
		{`C:\cfa-responder.exe`, "run", "--detach"},
		{`C:\Program Files\cfa\cfa-responder.exe`, "run", `--pins=C:\a b\`, `--log=\\server\a\\`},
	} {
		if got := apart(startupLine(words)); !slices.Equal(got, words) {
			t.Errorf("%q became %q", words, got)
		}
	}
	long := task{program: `C:\` + strings.Repeat("a", maxStartup) + ".exe", home: `C:\`}
	if _, err := keeperOf("windows", long); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("a command that Windows would not start: %v", err)
	}
}

func TestWhatCannotBeWrittenDownIsRefused(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		system string
		task   task
		want   string
	}{
		{"linux", task{program: "/a$b/cfa-responder", home: "/h"}, "install it elsewhere"},
		{"linux", task{program: "/a\nExecStartPre=/bin/evil/cfa-responder", home: "/h"}, "control character"},
		{"darwin", task{program: "/a", home: "/h", args: []string{"--log=\x01"}}, "control character"},
		{"windows", task{program: `C:\a"b`, home: "/h"}, "quotation mark"},
		{"plan9", task{program: "/a", home: "/h"}, "not known here how plan9"},
	} {
		if _, err := keeperOf(tc.system, tc.task); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %q: %v", tc.system, tc.task.program, err)
		}
	}
}

// systemd itself looks at the units.
func TestSystemdTakesTheUnits(t *testing.T) {
	t.Parallel()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("CI") == "true" && runtime.GOOS == "linux" {
			t.Fatal("systemd-analyze is missing")
		}
		t.Skip("systemd-analyze is missing: apt-get install systemd")
	}
	dir := t.TempDir()
	odd := filepath.Join(dir, "a b")
	if err := os.MkdirAll(odd, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{dir, odd} {
		if err := os.WriteFile(filepath.Join(d, "cfa-responder"), []byte("#!/bin/sh\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	verify := func(text string) string {
		t.Helper()
		file := filepath.Join(t.TempDir(), unitName)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(analyze, "verify", "--user", "--man=no", file)
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir(), "HOME="+dir)
		out, err := cmd.CombinedOutput()
		if err != nil || strings.Contains(string(out), unitName) {
			return string(out)
		}
		return ""
	}
	for name, tc := range map[string]task{
		"desktop": {program: filepath.Join(dir, "cfa-responder"), desktop: true},
		"login":   {program: filepath.Join(dir, "cfa-responder")},
		"odd":     {program: filepath.Join(odd, "cfa-responder"), args: tasks["login.service"].task.args, config: tasks["login.service"].task.config},
	} {
		if said := verify(unit(tc)); said != "" {
			t.Errorf("%s: %s", name, said)
		}
	}
	// So it does with what the documents have people add.
	doc, err := os.ReadFile(filepath.Join("..", "docs", "responder.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, more, found := strings.Cut(string(doc), "```ini\n")
	more, _, _ = strings.Cut(more, "```")
	if said := verify(unit(task{program: filepath.Join(dir, "cfa-responder")}) + more); !found || said != "" {
		t.Errorf("with the lines of docs/responder.md: %v %s", found, said)
	}
	if verify(strings.ReplaceAll(unit(task{program: filepath.Join(dir, "cfa-responder")}), "KillMode=process", "KillMode=some")) == "" {
		t.Error("a mistake is not found, so this test shows nothing")
	}
}

// ledger is a text that is in no file.
type ledger struct{ text *string }

func (m ledger) read() (string, error) {
	if *m.text == "" {
		return "", fs.ErrNotExist
	}
	return *m.text, nil
}
func (m ledger) write(s string) error { *m.text = s; return nil }
func (m ledger) remove() error        { *m.text = ""; return nil }

// Each system's own, through a life: put, put again, another program's path, taken
// away, taken away again.
func TestEachKeeperIsPutAndTakenAwayWithNothingLeft(t *testing.T) {
	t.Parallel()
	if runtime.GOOS == "windows" {
		t.Skip("the stand-ins are shell scripts")
	}
	for system, want := range map[string]struct{ first, same, again, stop string }{
		"linux": {
			"--user daemon-reload; --user enable --now cfa-responder.service",
			"--user enable --now cfa-responder.service",
			"--user daemon-reload; --user reenable cfa-responder.service; --user restart cfa-responder.service",
			"--user disable --now cfa-responder.service; --user daemon-reload; --user reset-failed cfa-responder.service",
		},
		"darwin": {
			"bootout gui/501/io.github.continuousauth.cfa-responder; enable gui/501/io.github.continuousauth.cfa-responder; bootstrap gui/501 HOME/Library/LaunchAgents/io.github.continuousauth.cfa-responder.plist",
			"enable gui/501/io.github.continuousauth.cfa-responder; bootstrap gui/501 HOME/Library/LaunchAgents/io.github.continuousauth.cfa-responder.plist",
			"bootout gui/501/io.github.continuousauth.cfa-responder; enable gui/501/io.github.continuousauth.cfa-responder; bootstrap gui/501 HOME/Library/LaunchAgents/io.github.continuousauth.cfa-responder.plist",
			"bootout gui/501/io.github.continuousauth.cfa-responder",
		},
		"windows": {"run --detach", "run --detach", "run --detach", ""},
	} {
		t.Run(system, func(t *testing.T) {
			t.Parallel()
			home, bin := t.TempDir(), t.TempDir()
			record := filepath.Join(bin, "record")
			fake := filepath.Join(bin, "fake")
			if err := os.WriteFile(fake, []byte("#!/bin/sh\necho \"$*\" >> "+shellWord(record)+"\n"), 0o755); err != nil {
				t.Fatal(err)
			}
			kept := ""
			make := func(program string) keeper {
				k, err := keeperOf(system, task{program: program, home: home, uid: 501})
				if err != nil {
					t.Fatal(err)
				}
				for _, list := range [][]command{k.first, k.again, k.same, k.stop, k.after} {
					for i := range list {
						list[i].args = append([]string{fake}, list[i].args[1:]...)
					}
				}
				if system == "windows" {
					k.store = ledger{&kept}
				}
				return k
			}
			did := func() string {
				data, err := os.ReadFile(record)
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
				_ = os.Remove(record)
				return strings.ReplaceAll(strings.ReplaceAll(strings.TrimSpace(string(data)), home, "HOME"), "\n", "; ")
			}
			var out bytes.Buffer
			step := func(name, want string, do func() error) {
				t.Helper()
				if err := do(); err != nil {
					t.Fatalf("%s: %v\n%s", name, err, out.String())
				}
				if got := did(); got != want {
					t.Errorf("%s ran %q, want %q", name, got, want)
				}
			}
			k := make("/usr/bin/cfa-responder")
			step("take nothing", "", func() error { return k.take(t.Context(), &out) })
			step("put", want.first, func() error { return k.put(t.Context(), &out) })
			step("put again", want.same, func() error { return k.put(t.Context(), &out) })
			other := make("/opt/cfa-responder")
			step("put another", want.again, func() error { return other.put(t.Context(), &out) })
			if text, _, err := other.found(); err != nil || text != other.text {
				t.Errorf("it stands there as %q (%v)", text, err)
			}
			step("take", want.stop, func() error { return other.take(t.Context(), &out) })
			step("take again", "", func() error { return other.take(t.Context(), &out) })
			if _, there, err := k.found(); there || err != nil {
				t.Errorf("it is still there (%v)", err)
			}
			if system == "linux" {
				if left, _ := os.ReadDir(home); len(left) != 1 || left[0].Name() != ".config" {
					t.Errorf("left behind: %v", left)
				}
				if left, _ := os.ReadDir(filepath.Join(home, ".config")); len(left) != 0 {
					t.Errorf("left behind: %v", left)
				}
			}

			// What somebody else has written is neither replaced nor removed.
			const others = "somebody else's\n"
			if err := k.store.write(others); err != nil {
				t.Fatal(err)
			}
			for name, do := range map[string]func() error{
				"put": func() error { return k.put(t.Context(), &out) }, "take": func() error { return k.take(t.Context(), &out) },
			} {
				if err := do(); !errors.Is(err, errNotOurs) || !strings.Contains(err.Error(), "left as it is") {
					t.Errorf("%s: %v", name, err)
				}
			}
			if text, err := k.store.read(); err != nil || text != others || did() != "" {
				t.Errorf("it is %q now (%v)", text, err)
			}
		})
	}
}

func TestEachTaskHasAText(t *testing.T) {
	t.Parallel()
	entries, err := os.ReadDir(filepath.Join("testdata", "install"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if _, ok := tasks[e.Name()]; !ok {
			t.Errorf("%s is held to nothing; there are %v", e.Name(), slices.Sorted(maps.Keys(tasks)))
		}
	}
}
