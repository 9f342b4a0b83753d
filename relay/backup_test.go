package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/audit"
)

// program runs cfa-relay.
func (l *ledger) program(args ...string) (code int, out, errs string) {
	l.t.Helper()
	var o, e strings.Builder
	code = run(l.t.Context(), args, stdio{nil, &o, &e, func(string) string { return "" }})
	return code, o.String(), e.String()
}

// elsewhere is the relay's file on a machine that has nothing else of it.
func (l *ledger) elsewhere(change ...string) string {
	l.t.Helper()
	text, err := os.ReadFile(l.config)
	if err != nil {
		l.t.Fatal(err)
	}
	path := filepath.Join(l.t.TempDir(), "cfa.yaml")
	if err := os.WriteFile(path, []byte(strings.NewReplacer(change...).Replace(string(text))), 0o600); err != nil {
		l.t.Fatal(err)
	}
	return path
}

// names is what is in a directory.
func names(t *testing.T, dir string) (out []string) {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for _, e := range all {
		out = append(out, e.Name())
	}
	return out
}

func TestABackupIsTakenElsewhereAndWhatWasSignedOfItHolds(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.request("rocket/ci[0] line 6", "")
	l.request("rocket/ci[0] line 6", "no")
	l.refused("no rule fits")
	l.store(l.messages)
	n := len(l.messages)
	dir := t.TempDir()
	key, before, after := filepath.Join(dir, "audit.nk"), filepath.Join(dir, "before.json"), filepath.Join(dir, "after.json")
	_, pub, _ := l.run("keygen", "--out", key)
	if code, _, errs := l.withConfig("checkpoint", "--key", key, "--out", before); code != exitOK {
		t.Fatal(errs)
	}
	file := filepath.Join(dir, "cfa.backup")
	code, out, errs := l.program("backup", "--config", l.config, "--out", file)
	if code != exitOK || !strings.Contains(out, fmt.Sprintf("%d messages of the relay relay.test, sequences 1 to %d; sha256 ", n, n)) || !strings.Contains(errs, "no relay runs") {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if code, _, errs := l.program("backup", "--config", l.config, "--out", file); code != exitUsage || !strings.Contains(errs, "is not overwritten") {
		t.Errorf("%d %s", code, errs)
	}
	if got := names(t, dir); len(got) != 3 {
		t.Errorf("beside the backup there is something else: %q", got)
	}
	// What comes after the backup will be lost.
	l.request("rocket/ci[0] line 6", "")
	l.store(l.messages)
	if code, _, errs := l.withConfig("checkpoint", "--key", key, "--out", after); code != exitOK {
		t.Fatal(errs)
	}

	there := l.elsewhere()
	code, out, errs = l.program("restore", "--config", there, "--check", file)
	if code != exitOK || !strings.Contains(out, "good: it can be restored; of its requests 0 are open") {
		t.Errorf("%d %s %s", code, out, errs)
	}
	if got := names(t, filepath.Dir(there)); len(got) != 1 {
		t.Errorf("a check has written %q", got)
	}
	code, out, errs = l.program("restore", "--config", there, file)
	if code != exitOK || !strings.Contains(out, "restored; 0 requests that were open are cancelled") {
		t.Fatalf("%d %s %s", code, out, errs)
	}
	verify := func(args ...string) (int, string) {
		t.Helper()
		code, out, _ := l.run(append([]string{"verify", "--config", there}, args...)...)
		return code, out
	}
	said := fmt.Sprintf("it reaches to sequence %d, and what was recorded after it is lost", n)
	if code, out := verify("--checkpoint", before, "--checkpoint-key", strings.TrimSpace(pub)); code != exitOK || !strings.Contains(out, said) || !strings.Contains(out, fmt.Sprintf("%d are as they were", n)) {
		t.Errorf("with a checkpoint of before the backup: %d %s", code, out)
	}
	if code, out := verify("--checkpoint", after); code != exitWrong || !strings.Contains(out, fmt.Sprintf("younger than the backup that the record was restored from: from sequence %d on", n+1)) {
		t.Errorf("with one of after it: %d %s", code, out)
	}
	if code, _, errs := l.program("restore", "--config", there, file); code != exitUsage || !strings.Contains(errs, "none is overwritten") {
		t.Errorf("once more: %d %s", code, errs)
	}
}

func TestADamagedBackupIsRefusedByWhatItIs(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.request("rocket/ci[0] line 6", "")
	l.store(l.messages)
	dir := t.TempDir()
	file := filepath.Join(dir, "cfa.backup")
	if code, _, errs := l.program("backup", "--config", l.config, "--out", file); code != exitOK {
		t.Fatal(errs)
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	// A record that was changed, in a file whose hash is right.
	forged, r := newLedger(t), bytes.NewBuffer(nil)
	forged.request("rocket/ci[0] line 6", "")
	changed := forged.messages
	changed[1].Data = bytes.Replace(changed[1].Data, []byte(`"by_name":"Ana"`), []byte(`"by_name":"Eve"`), 1)
	in, err := audit.NewBackupReader(bytes.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	w, err := audit.NewBackupWriter(r, in.Head)
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range changed {
		m.Seq, m.Time = uint64(i+1), in.Head.Created
		if err := w.Add(m); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		file   []byte
		config string
		args   []string
		code   int
		out    string
	}{
		"a byte":         {append(append([]byte{}, good[:60]...), append([]byte{good[60] ^ 1}, good[61:]...)...), "", nil, exitWrong, "damaged backup"},
		"cut off":        {good[:len(good)-1], "", nil, exitWrong, "it breaks off; nothing was written"},
		"more":           {append(append([]byte{}, good...), '\n'), "", nil, exitWrong, "something follows its end"},
		"not one":        {[]byte("host: relay.test\n"), "", nil, exitWrong, "it does not begin as one"},
		"forged":         {r.Bytes(), "", nil, exitWrong, "sequence 2, request."},
		"another name":   {good, l.elsewhere("host: relay.test", "host: new.test"), nil, exitUnavailable, "--former-name"},
		"no name at all": {good, "", []string{"--former-name", "no name"}, exitUsage, "--former-name"},
		"no key at all":  {good, "", []string{"--former", "x"}, exitUsage, "--former"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := &ledger{t: t, config: l.config}
			file := filepath.Join(t.TempDir(), "cfa.backup")
			if err := os.WriteFile(file, tc.file, 0o600); err != nil {
				t.Fatal(err)
			}
			config := tc.config
			if config == "" {
				config = l.elsewhere()
			}
			code, out, errs := l.program(append([]string{"restore", "--config", config, file}, tc.args...)...)
			if code != tc.code || !strings.Contains(out+errs, tc.out) {
				t.Errorf("%d %s %s", code, out, errs)
			}
			if got := names(t, filepath.Dir(config)); len(got) != 1 {
				t.Errorf("it has written %q", got)
			}
		})
	}
	// A relay that has another name since then has its record all the same.
	renamed := l.elsewhere("host: relay.test", "host: new.test")
	if code, _, errs := l.program("restore", "--config", renamed, "--former-name", "relay.test", file); code != exitOK {
		t.Fatal(errs)
	}
	if code, out, _ := l.run("verify", "--config", renamed); code != exitWrong || !strings.Contains(out, `made to the relay "relay.test"`) {
		t.Errorf("%d %s", code, out)
	}
	if code, out, _ := l.run("verify", "--config", renamed, "--former-name", "relay.test"); code != exitOK {
		t.Errorf("%d %s", code, out)
	}
}

func TestAStoreThatHasAGapIsNoBackup(t *testing.T) {
	t.Parallel()
	l := newLedger(t)
	l.request("rocket/ci[0] line 6", "")
	l.store(l.messages, 2)
	dir := t.TempDir()
	code, _, errs := l.program("backup", "--config", l.config, "--out", filepath.Join(dir, "cfa.backup"))
	if code != exitWrong || !strings.Contains(errs, "sequence 2 is missing in the store") {
		t.Errorf("%d %s", code, errs)
	}
	if got := names(t, dir); len(got) != 0 {
		t.Errorf("it has left %q", got)
	}
}

// What a newer version wrote is not told, nor gone on with, by an older one.
func TestAStoreThatThisProgramCannotHaveEndsItWith78(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		metadata map[string]string
		say      string
	}{
		"of a newer format": {map[string]string{"cfa-format": "2"}, "written by a newer cfa-relay"},
		"half restored":     {map[string]string{"cfa-format": "1", "cfa-restoring": "ab"}, "a restore of this store did not end"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLedger(t)
			l.metadata = tc.metadata
			l.request("rocket/ci[0] line 6", "")
			// An issuer that nobody has to be asked for.
			text, err := os.ReadFile(l.config)
			if err != nil {
				t.Fatal(err)
			}
			changed := strings.Replace(string(text), "issuers: [github]", `issuers: [{name: github, provider: github, url: "http://127.0.0.1:1"}]`, 1)
			if err := os.WriteFile(l.config, []byte(changed), 0o600); err != nil {
				t.Fatal(err)
			}
			l.store(l.messages)
			dir := t.TempDir()
			for _, args := range [][]string{
				{"serve", "--config", l.config}, {"audit", "verify", "--config", l.config}, {"backup", "--config", l.config, "--out", filepath.Join(dir, "cfa.backup")},
			} {
				if code, _, errs := l.program(args...); code != exitConfig || !strings.Contains(errs, tc.say) {
					t.Errorf("%s: %d %s", args[0], code, errs)
				}
			}
			if got := names(t, dir); len(got) != 0 {
				t.Errorf("there is %q", got)
			}
		})
	}
}

func TestAFileIsWholeOrNotThere(t *testing.T) {
	t.Parallel()
	full := errors.New("no space left on device")
	for name, tc := range map[string]struct {
		there func(dir, path string) error
		write func(dir, path string, w io.Writer) error
		want  string
	}{
		"a full disk": {nil, func(_, _ string, w io.Writer) error {
			if _, err := w.Write([]byte("half")); err != nil {
				return err
			}
			return full
		}, "was not written: no space left on device"},
		"a file is there": {func(_, path string) error { return os.WriteFile(path, []byte("mine"), 0o600) }, nil, "is not overwritten"},
		"a link is there": {func(dir, path string) error { return os.Symlink(filepath.Join(dir, "nowhere"), path) }, nil, "is not overwritten"},
		"a file comes meanwhile": {nil, func(_, path string, w io.Writer) error {
			return os.WriteFile(path, []byte("mine"), 0o600)
		}, "is not overwritten"},
		"no directory": {func(dir, _ string) error { return os.RemoveAll(dir) }, nil, "no such file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "backups")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "cfa.backup")
			if tc.there != nil {
				if err := tc.there(dir, path); err != nil {
					t.Fatal(err)
				}
			}
			called := false
			err := writeWhole(path, func(w io.Writer) error {
				called = true
				if tc.write == nil {
					return nil
				}
				return tc.write(dir, path, w)
			})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Error(err)
			}
			if called != (tc.write != nil) {
				t.Error("the work was done before the place was looked at")
			}
			for _, n := range names(t, dir) {
				if n != filepath.Base(path) {
					t.Errorf("it has left %s", n)
				}
			}
			if data, err := os.ReadFile(path); err == nil && string(data) != "mine" {
				t.Errorf("there is %q", data)
			}
		})
	}
}
