//go:build clients

package main

// Codes from real programs: pass with its otp extension, behind a real gpg-agent, and
// oathtool, which says whether what the job got is right.

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/wire"
)

func TestRealProgramsGiveTheCode(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"pass", "gpg", "oathtool"} {
		if _, err := exec.LookPath(program); err != nil {
			if os.Getenv("CI") != "" {
				t.Fatalf("%s is missing", program)
			}
			t.Skipf("%s is missing: apt-get install pass pass-extension-otp oathtool", program)
		}
	}
	s := newScene(t)
	s.pin()
	const secret = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
	// gpg's socket is below its home, and its path has a hundred bytes at most.
	home, err := os.MkdirTemp("", "cfa")
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"GNUPGHOME=" + home, "PASSWORD_STORE_DIR=" + filepath.Join(home, "store")}
	do := func(in string, args ...string) {
		t.Helper()
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env, cmd.Stdin = append(os.Environ(), env...), strings.NewReader(in)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	t.Cleanup(func() {
		do("", "gpgconf", "--kill", "all")
		os.RemoveAll(home)
	})
	do("", "gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", "ada@example.com", "future-default", "default", "never")
	do("", "pass", "init", "ada@example.com")
	do("otpauth://totp/npm:ada?secret="+secret+"&issuer=npm\n", "pass", "otp", "insert", "npm")
	key := filepath.Join(home, "key")
	if err := os.WriteFile(key, []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct{ name, command string }{
		{"pass", "[env, \"" + env[0] + "\", \"" + env[1] + "\", pass, otp, npm]"},
		{"oathtool", "[oathtool, --totp, --base32, \"@" + key + "\"]"},
	} {
		p := s.background("ask: []\ncodes: {npm: {name: " + test.name + ", command: " + test.command + "}}\n")
		j := s.job(repo, nil, nil)
		s.relay.Ask(j)
		until(t, func() bool { out, _, _ := s.says("", "list"); return strings.Contains(out, "#1") })
		if _, complaint, exit := s.says("", "answer", "1", "--source"); exit != 0 {
			t.Fatalf("%s: %d %q", test.name, exit, complaint)
		}
		// With the time steps before: one may have ended meanwhile.
		c := got(t, j)
		do("", "oathtool", "--totp", "--base32", "--window=3", "--now=60 seconds ago", "@"+key, c)
		s.nowhere(p, c)
		if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := p.ends(); err != nil {
			t.Errorf("ended with %v", err)
		}
		s.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
	}
}
