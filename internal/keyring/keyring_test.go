package keyring

// The library takes its bus from the process's environment, so each call is made
// in a process of its own.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"keyring-probe": probe})
}

// probe does one thing with the keyring: what ARGS say, a secret being on stdin.
func probe() {
	within, err := time.ParseDuration(os.Args[1])
	if err != nil {
		panic(err)
	}
	ctx, stop := context.WithTimeout(context.Background(), within)
	defer stop()
	account, secret := "A", ""
	switch os.Args[2] {
	case "look":
		err = Look(ctx)
	case "get":
		secret, err = Get(ctx, account)
	case "set":
		var in []byte
		if in, err = io.ReadAll(os.Stdin); err == nil {
			err = Set(ctx, account, string(in))
		}
	case "delete":
		err = Delete(ctx, account)
	case "remove":
		err = Delete(ctx, os.Args[3])
	}
	for _, kind := range []error{ErrNone, ErrLocked, ErrNotFound} {
		if errors.Is(err, kind) {
			fmt.Printf("%v|", kind)
		}
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("fine|%s", secret)
}

// session is a login session of nobody.
type session struct {
	t   *testing.T
	env []string
}

func newSession(t *testing.T) session {
	dir := t.TempDir()
	return session{t, []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH"), "XDG_RUNTIME_DIR=" + dir, "XDG_DATA_HOME=" + dir}}
}

// does gives what the probe says of one step.
func (s session) does(stdin, step string) string {
	s.t.Helper()
	within := "60s"
	if s, d, ok := strings.Cut(step, " within "); ok {
		step, within = s, d
	}
	cmd := exec.Command("keyring-probe", within, step)
	cmd.Env, cmd.Stdin = s.env, strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", step, err, out)
	}
	return string(out)
}

// A bus that was started for a question would be an empty keyring of its own, and
// stay behind.
func TestWithoutASessionNoneIsStarted(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("only the Secret Service stands on a session")
	}
	if _, err := os.Stat(fmt.Sprintf("/run/user/%d/bus", os.Getuid())); err == nil {
		t.Skip("this user has a session, which the library finds without the environment")
	}
	s := newSession(t)
	bin, called := t.TempDir(), filepath.Join(t.TempDir(), "called")
	if err := os.WriteFile(filepath.Join(bin, "dbus-launch"), []byte("#!/bin/sh\necho > "+called+"\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.env = append(s.env, "PATH="+bin+":"+os.Getenv("PATH"))
	for _, step := range []string{"look", "get", "set", "delete"} {
		if said := s.does("x", step); said != "there is no keyring|there is no keyring: this session has no D-Bus\n" {
			t.Errorf("%s: %s", step, said)
		}
	}
	if _, err := os.Stat(called); err == nil {
		t.Error("dbus-launch was called")
	}
	s.env = append(s.env, "DBUS_SESSION_BUS_ADDRESS=unix:path="+filepath.Join(bin, "nothing"))
	if said := s.does("", "look"); !strings.HasPrefix(said, "there is no keyring|") {
		t.Errorf("a bus that is not there: %s", said)
	}
}
