package main

// The files of deploy/ that start a relay: that they fit the program, and that
// those who read them take them.

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func deployed(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", file))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// unit gives the settings of a unit file: each key's values, in order.
func unit(t *testing.T, text string) map[string][]string {
	t.Helper()
	settings, section := map[string][]string{}, ""
	for i, line := range strings.Split(text, "\n") {
		switch key, value, ok := strings.Cut(line, "="); {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]"):
			section = strings.Trim(line, "[]")
		case !ok || section == "" || !regexp.MustCompile(`^[A-Z][A-Za-z]+$`).MatchString(key):
			t.Fatalf("line %d is no setting: %s", i+1, line)
		default:
			settings[section+"."+key] = append(settings[section+"."+key], value)
		}
	}
	return settings
}

func TestTheSystemdUnitFitsTheProgram(t *testing.T) {
	t.Parallel()
	text := deployed(t, "deploy/systemd/cfa-relay.service")
	u := unit(t, text)
	one := func(key string) string {
		if len(u[key]) != 1 {
			t.Errorf("%s stands there %d times", key, len(u[key]))
			return ""
		}
		return u[key][0]
	}
	for _, key := range []string{"Service.ExecStart", "Service.ExecReload"} {
		words := strings.Fields(one(key))
		if words[0] != "/usr/bin/cfa-relay" {
			t.Errorf("%s runs %s, which is not where the package puts it", key, words[0])
		}
		// The command is there, with these flags: it gets as far as the file.
		args := append(slices.Clone(words[1:]), "")[:len(words)-1]
		args[len(args)-1] = filepath.Join(t.TempDir(), "none.yaml")
		var errs strings.Builder
		if code := run(t.Context(), args, stdio{nil, &errs, &errs, os.Getenv}); code != exitConfig || !strings.Contains(errs.String(), "none.yaml") {
			t.Errorf("%s: %q ends with %d: %s", key, args, code, errs.String())
		}
	}
	if codes := strings.Fields(one("Service.RestartPreventExitStatus")); !slices.Equal(codes, []string{strconv.Itoa(exitUsage), strconv.Itoa(exitConfig)}) {
		t.Errorf("not started again after %s", codes)
	}
	// What init proposes is what the unit lets the relay write.
	if data := "/var/lib/" + one("Service.StateDirectory"); !strings.Contains(deployed(t, "relay/init.go"), `default:"`+data+`"`) {
		t.Errorf("init does not propose %s", data)
	}
	if users := deployed(t, "deploy/systemd/cfa-relay.sysusers"); !strings.Contains(users, "\nu "+one("Service.User")+" ") {
		t.Errorf("the package makes no user %s", one("Service.User"))
	}
	for _, key := range []string{"NoNewPrivileges", "ProtectHome", "PrivateTmp", "PrivateDevices", "RestrictNamespaces", "LockPersonality", "MemoryDenyWriteExecute"} {
		if one("Service."+key) != "yes" {
			t.Errorf("%s is not yes", key)
		}
	}
	if one("Service.ProtectSystem") != "strict" || one("Service.CapabilityBoundingSet") != "CAP_NET_BIND_SERVICE" {
		t.Error("the unit gives more than it needs to")
	}
	packaged := deployed(t, ".goreleaser.yaml")
	for _, file := range []string{"deploy/systemd/cfa-relay.service", "deploy/systemd/cfa-relay.sysusers", "deploy/systemd/postinstall.sh"} {
		if !strings.Contains(packaged, file) {
			t.Errorf("%s is in no package", file)
		}
	}

	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Log("no systemd-analyze here: it was parsed only")
		return
	}
	// On this machine the program is elsewhere.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "cfa-relay.service")
	if err := os.WriteFile(copied, []byte(strings.ReplaceAll(text, "/usr/bin/cfa-relay", self)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", copied).CombinedOutput()
	if err != nil || strings.Contains(string(out), filepath.Base(copied)) {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

// The commands of README.md are five at most, those of ours are there, and
// docs/operating.md has the same. (internal/e2e runs them.)
func TestFiveCommandsStartARelay(t *testing.T) {
	t.Parallel()
	m := regexp.MustCompile("(?s)```sh\n(.*?)```").FindStringSubmatch(deployed(t, "docs/operating.md"))
	if m == nil {
		t.Fatal("docs/operating.md shows no commands")
	}
	if !strings.Contains(deployed(t, "README.md"), m[0]) {
		t.Error("README.md has other commands")
	}
	lines := strings.Split(strings.TrimSpace(m[1]), "\n")
	if len(lines) > 5 {
		t.Errorf("%d commands", len(lines))
	}
	ours := 0
	for _, line := range lines {
		line, _, _ = strings.Cut(line, " #")
		words := strings.Fields(line)
		if words[0] != "cfa-relay" {
			continue
		}
		ours++
		args := words[1:]
		args[len(args)-1] = filepath.Join(t.TempDir(), "cfa.yaml")
		var errs strings.Builder
		in, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		// As far as it gets without answers, or without a file.
		if code := run(t.Context(), args, stdio{in, &errs, &errs, os.Getenv}); code != exitUsage && code != exitConfig || strings.Contains(errs.String(), "unexpected") || strings.Contains(errs.String(), "unknown flag") {
			t.Errorf("%s: %d %s", line, code, errs.String())
		}
	}
	if ours < 2 {
		t.Errorf("%d commands of ours: does this test still see them?", ours)
	}
}
