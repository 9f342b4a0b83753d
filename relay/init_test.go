package main

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/continuousauth/action/internal/broker"
)

// answers types into a terminal each line when its question has come, and gives
// what the program then wrote.
func answers(t *testing.T, lines [][2]string, args ...string) (code int, out, asked string) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("a terminal of Unix's")
	}
	human, tty, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer human.Close()
	defer tty.Close()
	r, w, err := os.Pipe() // where the questions go
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	heard := make(chan string, 1)
	go func() {
		var all bytes.Buffer
		buf := make([]byte, 4096)
		at := 0
		for {
			n, err := r.Read(buf)
			all.Write(buf[:n])
			for len(lines) > 0 && strings.Contains(all.String()[at:], lines[0][0]) {
				at = all.Len()
				human.WriteString(lines[0][1])
				lines = lines[1:]
			}
			if err != nil {
				heard <- all.String()
				return
			}
		}
	}()
	var stdout bytes.Buffer
	done := make(chan int, 1)
	go func() { done <- run(t.Context(), args, stdio{tty, &stdout, w, os.Getenv}) }()
	select {
	case code = <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("it waits for an answer")
	}
	w.Close()
	return code, stdout.String(), <-heard
}

func TestInitAsksOnATerminal(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "etc", "cfa.yaml")
	code, out, asked := answers(t, [][2]string{
		{"The relay's name", "https://cfa.example.com\n"},
		{"  that ", "\n"}, // asked again after a wrong answer, and after none
		{"  that is needed", "cfa.example.com\n"},
		{"[acme]", "none\n"},
		{"  that must be acme or files", "files\n"},
		{"[/etc/cfa/cert.pem]", "\n"},
		{"[/etc/cfa/key.pem]", "other.pem\n"},
		{"project's name", "rocket\n"},
		{"[github]", "\n"},
		{"repository's id", "612345678\n"},
		{"owner's id", "1234567\n"},
		{"regular expression", "\n"},
		{"Who answers", "Ana\n"},
		{"connecting key", "ADSO7U2ULPZJRG2RNYTW7ZX2ZUM6VJ6W3T46R4A5KDB5AV76DAJ4OUTX\n"},
		{"  that ", "UDEMAAJSLL5KBPQBWKP6XL5IZ4RHV54DRNGBI5RS2XKLJWVD45KGAT7P\n"},
		{"signing key", "ADSO7U2ULPZJRG2RNYTW7ZX2ZUM6VJ6W3T46R4A5KDB5AV76DAJ4OUTX\n"},
	}, "init", "--config", file)
	if code != exitOK || !strings.Contains(out, "wrote "+file) {
		t.Fatalf("%d %s\n%s", code, out, asked)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	c, err := broker.ReadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	p := c.Projects["rocket"]
	if c.Host != "cfa.example.com" || c.TLS.Cert != "/etc/cfa/cert.pem" || c.TLS.Key != filepath.Join(filepath.Dir(file), "other.pem") ||
		c.Listen.NATS != "0.0.0.0:4222" || c.Listen.WebSocket != "0.0.0.0:443" || c.Listen.Metrics != "127.0.0.1:9464" || c.Data != "/var/lib/cfa" ||
		len(p.CI) != 1 || len(p.Responders) != 1 || p.Responders[0].Name != "Ana" {
		t.Errorf("%+v", c)
	}
	if v := p.CI[0].Claims["ref"]; len(v) != 1 || !v[0].Pattern {
		t.Errorf("ref: %+v", p.CI[0].Claims)
	}
}

func TestInitAsksForTheTermsOfAnAuthority(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "cfa.yaml")
	code, out, asked := answers(t, [][2]string{
		{"[acme]", "\n"},
		{"Do you agree to its terms, https://letsencrypt.org/repository/?", "\n"},
		{"  that must be yes", "yes\n"},
		{"email address", "ops@example.com\n"},
	}, "init", "--config", file, "--host", "cfa.example.com", "--project", "rocket", "--provider", "github", "--claim", "repository_id=1", "--claim", "repository_owner_id=2", "--pattern", "ref=refs/tags/v.*",
		"--responder", "Ana", "--connect", "UDEMAAJSLL5KBPQBWKP6XL5IZ4RHV54DRNGBI5RS2XKLJWVD45KGAT7P", "--sign", "ADSO7U2ULPZJRG2RNYTW7ZX2ZUM6VJ6W3T46R4A5KDB5AV76DAJ4OUTX")
	if code != exitOK || !strings.Contains(out, "comes to cfa.example.com:443 to see whose that is (TLS-ALPN-01): listen.websocket is there") || strings.Contains(out, "missing") {
		t.Fatalf("%d %s\n%s", code, out, asked)
	}
	c, err := broker.ReadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	if a := c.TLS.ACME; a == nil || !a.Agree || a.Email != "ops@example.com" || a.Directory != "" || a.CAFile != "" || c.TLS.Cert != "" {
		t.Errorf("%+v", c.TLS)
	}
}

func TestInitThatIsLeftWritesNothing(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "cfa.yaml")
	code, _, asked := answers(t, [][2]string{{"The relay's name", "cfa.example.com\n"}, {"[acme]", "\n"}, {"Do you agree to its terms, https://letsencrypt.org/repository/?", "no\n"}, {"  that must be yes", "\x04"}}, "init", "--config", file)
	if code != exitUsage || !strings.Contains(asked, "nothing was written") {
		t.Errorf("%d %s", code, asked)
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("a file is there")
	}
}
