//go:build clients && linux

package keyring

// The real GNOME Keyring on a bus of its own.

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
)

const password = "correct horse"

// withBus starts a session bus; the session's environment names it. services is
// false: it offers nothing that is started on demand.
func (s *session) withBus(services bool) *dbus.Conn {
	t := s.t
	t.Helper()
	for _, tool := range []string{"dbus-daemon", "gnome-keyring-daemon"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing", tool)
			}
			t.Skipf("%s is missing: apt-get install dbus-daemon gnome-keyring", tool)
		}
	}
	// The path of a socket has a hundred bytes at most.
	dir, err := os.MkdirTemp("", "cfa")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	address := "unix:path=" + filepath.Join(dir, "bus")
	standard := ""
	if services {
		standard = "<standard_session_servicedirs/>"
	}
	config := filepath.Join(dir, "conf")
	if err := os.WriteFile(config, []byte(`<busconfig><type>session</type><listen>`+address+`</listen><auth>EXTERNAL</auth>`+standard+
		`<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`), 0o600); err != nil {
		t.Fatal(err)
	}
	s.env = append(s.env, "DBUS_SESSION_BUS_ADDRESS="+address, "XDG_RUNTIME_DIR="+dir)
	daemon := exec.Command("dbus-daemon", "--config-file="+config, "--nofork", "--nopidfile", "--print-address=1")
	daemon.Env = s.env
	ready, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // what it has started leaves with it
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	})
	if _, err := ready.Read(make([]byte, 512)); err != nil {
		t.Fatal(err)
	}
	conn, err := dbus.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// withKeyring starts the keyring as a login does, by the password.
func (s *session) withKeyring(bus *dbus.Conn) {
	s.t.Helper()
	came := make(chan *dbus.Signal, 10)
	bus.Signal(came)
	defer bus.RemoveSignal(came)
	if err := bus.AddMatchSignal(dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, secrets)); err != nil {
		s.t.Fatal(err)
	}
	daemon := exec.Command("gnome-keyring-daemon", "--foreground", "--components=secrets", "--unlock")
	daemon.Env, daemon.Stdin = s.env, strings.NewReader(password)
	if err := daemon.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	})
	timer := time.NewTimer(time.Minute)
	defer timer.Stop()
	for {
		select {
		case signal := <-came:
			if signal.Name == "org.freedesktop.DBus.NameOwnerChanged" {
				return
			}
		case <-timer.C:
			s.t.Fatal("the keyring never came")
		}
	}
}

func lock(t *testing.T, bus *dbus.Conn) {
	t.Helper()
	if err := bus.Object(secrets, secretsPath).Call("org.freedesktop.Secret.Service.Lock", 0, []dbus.ObjectPath{loginPath}).Err; err != nil {
		t.Fatal(err)
	}
}

// unlock is what the keyring's own window does.
func unlock(t *testing.T, bus *dbus.Conn) {
	t.Helper()
	service := bus.Object(secrets, secretsPath)
	var nothing dbus.Variant
	var session dbus.ObjectPath
	if err := service.Call("org.freedesktop.Secret.Service.OpenSession", 0, "plain", dbus.MakeVariant("")).Store(&nothing, &session); err != nil {
		t.Fatal(err)
	}
	secret := struct {
		Session     dbus.ObjectPath
		Parameters  []byte
		Value       []byte
		ContentType string
	}{session, nil, []byte(password), "text/plain"}
	if err := service.Call("org.gnome.keyring.InternalUnsupportedGuiltRiddenInterface.UnlockWithMasterPassword", 0, loginPath, secret).Err; err != nil {
		t.Fatal(err)
	}
}

func TestTheSecretServiceKeepsASecret(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	bus := s.withBus(true)
	s.withKeyring(bus)
	for _, step := range []struct{ do, in, want string }{
		{"look", "", "fine|"},
		{"get", "", "not in the keyring|not in the keyring\n"},
		{"delete", "", "not in the keyring|not in the keyring\n"},
		{"set", "one\ntwo\n", "fine|"},
		{"get", "", "fine|one\ntwo\n"},
		{"set", "three", "fine|"},
		{"get", "", "fine|three"},
		{"delete", "", "fine|"},
		{"get", "", "not in the keyring|not in the keyring\n"},
	} {
		if said := s.does(step.in, step.do); said != step.want {
			t.Errorf("%s: %q, want %q", step.do, said, step.want)
		}
	}
}

func TestALockedKeyringIsSaidToBeLocked(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	bus := s.withBus(true)
	s.withKeyring(bus)
	s.does("secret", "set")
	lock(t, bus)
	const locked = "the keyring is locked|the keyring is locked\n"
	// There is no display, so its window fails.
	for _, step := range []string{"look", "get", "set", "delete"} {
		if said := s.does("other", step); said != locked {
			t.Errorf("%s: %q", step, said)
		}
	}
	unlock(t, bus)
	if said := s.does("", "get"); said != "fine|secret" {
		t.Errorf("unlocked again: %q", said)
	}
}

// prompter stands in the place of the keyring's window.
type prompter func() *dbus.Error

// BeginPrompting is what the keyring calls to have its window shown.
func (p prompter) BeginPrompting(dbus.ObjectPath) *dbus.Error { return p() }

func TestAWindowThatNobodyAnswersEndsWithTheContext(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	bus := s.withBus(true)
	s.withKeyring(bus)
	s.does("secret", "set")
	lock(t, bus)
	shown := make(chan struct{}, 10)
	if err := bus.Export(prompter(func() *dbus.Error { shown <- struct{}{}; return nil }), "/org/gnome/keyring/Prompter", "org.gnome.keyring.internal.Prompter"); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.RequestName("org.gnome.keyring.SystemPrompter", 0); err != nil {
		t.Fatal(err)
	}
	if said := s.does("", "look"); said != "the keyring is locked|the keyring is locked\n" {
		t.Errorf("look: %q", said)
	}
	if len(shown) != 0 {
		t.Error("looking showed a window")
	}
	if said := s.does("", "get within 3s"); said != "the keyring is locked|the keyring is locked\n" {
		t.Errorf("get: %q", said)
	}
	if len(shown) == 0 {
		t.Error("no window was shown, so this test shows nothing")
	}
}

func TestASessionWithoutAKeyringSaysWhatItLacks(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		services bool
		want     string
	}{
		{"nothing offers one", false, "nothing offers one in this session"},
		{"one without a collection", true, "no collection yet"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			s := newSession(t)
			s.withBus(tc.services)
			for _, step := range []string{"look", "get", "set", "delete"} {
				if said := s.does("x", step); !strings.HasPrefix(said, "there is no keyring|") || !strings.Contains(said, tc.want) {
					t.Errorf("%s: %q", step, said)
				}
			}
		})
	}
}
