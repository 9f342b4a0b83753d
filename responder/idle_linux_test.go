package main

// What the background program costs while nothing asks.

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/answer/answertest"
	"github.com/continuousauth/action/internal/devissuer"
)

// idleFor is how long an idle program is looked at: longer than every timer that
// it has (the relays are asked again every 15 s).
const idleFor = 45 * time.Second

// proc reads one number of a process's own account in /proc.
func proc(b *testing.B, pid int, file, pattern string) float64 {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		b.Fatal(err)
	}
	m := regexp.MustCompile(pattern).FindSubmatch(data)
	if m == nil {
		b.Fatalf("%s does not say %s:\n%s", file, pattern, data)
	}
	n, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// spent is what all threads of a process have had of a CPU, and how often one of
// them went to sleep.
func spent(b *testing.B, pid int) (cpu time.Duration, sleeps float64) {
	b.Helper()
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		b.Fatal(err)
	}
	for _, thread := range threads {
		at := "task/" + thread.Name()
		cpu += time.Duration(proc(b, pid, at+"/schedstat", `^(\d+) `))
		sleeps += proc(b, pid, at+"/status", `(?m)^voluntary_ctxt_switches:\s+(\d+)`)
	}
	return cpu, sleeps
}

// idle starts a program, waits until ready says so, and measures it.
func idle(b *testing.B, cmd *exec.Cmd, ready func() bool) {
	b.Helper()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for end := time.Now().Add(time.Minute); !ready(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatal("it did not get that far")
		}
	}
	pid := cmd.Process.Pid
	start, before := spent(b, pid)
	time.Sleep(idleFor)
	end, after := spent(b, pid)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(proc(b, pid, "status", `VmRSS:\s+(\d+) kB`)/1024, "MiB-resident")
	b.ReportMetric((end-start).Seconds()*1000/idleFor.Minutes(), "ms-CPU/min")
	b.ReportMetric((after-before)/idleFor.Minutes(), "sleeps/min")
	b.ReportMetric(start.Seconds()*1000, "ms-CPU-start")
}

// The aim: under 30 MB, and no CPU to speak of.
func BenchmarkIdleResponder(b *testing.B) {
	dir := b.TempDir()
	program := filepath.Join(dir, "cfa-responder")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	cfa := func(args ...string) string {
		cmd := exec.Command(program, args...)
		out, err := cmd.Output()
		if err != nil {
			b.Fatalf("%v: %v", args, err)
		}
		return string(out)
	}
	key := filepath.Join(dir, "responder.key")
	connect := regexp.MustCompile(`\bU[A-Z2-7]{55}\b`).FindString(cfa("keygen", "--key-file", key))
	pins := filepath.Join(dir, "pins.yaml")
	issuer, err := devissuer.Start(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	defer issuer.Close()
	cfa("pins", "--pins", pins, "issuer", "--name", "dev", "--url", issuer.URL())
	cfa("pins", "--pins", pins, "add", project, "--provider", "dev", "--repository", repo, "--repository-id", "1", "--repository-owner-id", "2", "--workflow", "release.yml", "--confirm", repo)
	settings := "relays:\n"
	for _, name := range []string{"one.test", "two.test"} {
		relay, err := answertest.Listen(name)
		if err != nil {
			b.Fatal(err)
		}
		defer relay.Close()
		relay.Enrol(connect, "ada")
		settings += fmt.Sprintf("  - {url: %q, name: %s}\n", relay.URL(), name)
	}
	short, err := os.MkdirTemp("", "cfa") // a socket's path is short
	if err != nil {
		b.Fatal(err)
	}
	defer os.RemoveAll(short)
	for _, way := range []struct{ name, ask string }{
		{"with no way to ask", "ask: []\n"},
		{"with those that are there", ""},
	} {
		b.Run(way.name, func(b *testing.B) {
			file := filepath.Join(dir, "responder.yaml")
			if err := os.WriteFile(file, []byte(settings+way.ask), 0o600); err != nil {
				b.Fatal(err)
			}
			socket := filepath.Join(short, "s")
			cmd := exec.Command(program, "run", "--settings", file, "--key-file", key, "--pins", pins, "--socket", socket)
			idle(b, cmd, func() bool {
				out, err := exec.Command(program, "status", "--socket", socket).Output()
				return err == nil && strings.Count(string(out), "connected since") == 2
			})
		})
	}
	b.Run("floor: a Go program that sleeps", func(b *testing.B) {
		source := filepath.Join(dir, "sleep.go")
		if err := os.WriteFile(source, []byte("package main\n\nimport (\"time\"; \"os\"; \"os/signal\"; \"net\"; \"crypto/tls\"; \"fmt\")\n\nfunc main() { c := make(chan os.Signal, 1); signal.Notify(c); _ = net.Dialer{}; _ = tls.Config{}; fmt.Println(time.Now()); <-c }\n"), 0o600); err != nil {
			b.Fatal(err)
		}
		sleeper := filepath.Join(dir, "sleep")
		if out, err := exec.Command("go", "build", "-ldflags", "-s -w", "-o", sleeper, source).CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		idle(b, exec.Command(sleeper), func() bool { return true })
	})
}
