package e2e

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/release/githubtest"
)

// BenchmarkStart is the time from the start of the cfa process until the relay
// has accepted its request, as the job's log shows it. The floor is the start
// of the same program for --version.
func BenchmarkStart(b *testing.B) {
	w := newWorld(b)
	accepted := regexp.MustCompile(`accepted`)
	var ours, floor time.Duration
	n := 0
	for b.Loop() {
		start := time.Now()
		if err := exec.Command(program(b, "cfa"), "--version").Run(); err != nil {
			b.Fatal(err)
		}
		floor += time.Since(start)
		start = time.Now()
		j := w.job("--output", "stdout", "--timeout", "30s")
		j.waitFor(accepted.String())
		ours += time.Since(start)
		n++
		j.signal(os.Interrupt)
		j.wait()
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(ours.Microseconds())/float64(n)/1000, "ms")
	b.ReportMetric(float64(floor.Microseconds())/float64(n)/1000, "floor-ms")
	b.ReportMetric(ours.Seconds()/floor.Seconds(), "ratio")
}

// BenchmarkExec is what cfa exec adds to a command, beyond the wait for a human: from
// the start of the process to its end, less what the command takes by itself.
// unasked wants no code; asked wants one, which an answer command gives at once, so
// that the command runs twice, and the time from the question to the answer, as the
// job's log shows it, is taken off too.
func BenchmarkExec(b *testing.B) {
	w := newWorld(b)
	w.robot(w.humans[0])
	wants := []string{"sh", "-c", `test "$OTP" || { echo a code is wanted >&2; exit 1; }`}
	alone := func(env string, argv ...string) time.Duration {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), env)
		start := time.Now()
		_ = cmd.Run() // one of them fails, as it has to
		return time.Since(start)
	}
	// around runs cfa exec around a command, and gives how long it took and for how
	// much of that a human was asked.
	around := func(argv ...string) (took, waited time.Duration) {
		args := append([]string{"exec", "--project", project, "--service", "signer", "--env", "OTP", "--refused", "a code is wanted"}, w.flags...)
		cmd := exec.Command(program(b, "cfa"), append(append(args, "--"), argv...)...)
		cmd.Env = append(os.Environ(), w.issuer.GitHubEnv("release")...)
		log, err := cmd.StderrPipe()
		if err != nil {
			b.Fatal(err)
		}
		var asked time.Time
		start := time.Now()
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		for lines := bufio.NewScanner(log); lines.Scan(); {
			switch text := lines.Text(); {
			case strings.Contains(text, "wants a code: asking"):
				asked = time.Now()
			case strings.Contains(text, "the answer is here"):
				waited = time.Since(asked)
			}
		}
		if err := cmd.Wait(); err != nil {
			b.Fatalf("cfa exec %v: %v", argv, err)
		}
		return time.Since(start), waited
	}
	for _, c := range []struct {
		name string
		argv []string
		runs []string // of the command, each with that in its environment
	}{
		{"unasked", []string{"true"}, []string{"OTP="}},
		{"asked", wants, []string{"OTP=", "OTP=" + testCode}},
	} {
		b.Run(c.name, func(b *testing.B) {
			var ours, floor, wait time.Duration
			n := 0
			for b.Loop() {
				for _, env := range c.runs {
					floor += alone(env, c.argv...)
				}
				took, waited := around(c.argv...)
				if asked := waited > 0; asked != (len(c.runs) > 1) {
					b.Fatalf("somebody was asked: %v", asked)
				}
				ours, wait = ours+took, wait+waited
				n++
			}
			ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(n) / 1000 }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(ms(ours-floor-wait), "added-ms")
			b.ReportMetric(50, "aim-ms")
			b.ReportMetric(ms(floor), "floor-ms")
			b.ReportMetric(ms(wait), "wait-ms")
		})
	}
}

// BenchmarkStep is the time from the start of the Action's first step until the
// relay has accepted the request, by each way to come by cfa: the download of a
// release's program from a server on this machine, and the build from source,
// with what Go keeps of earlier builds and without (but with the modules' sources:
// what fetching them takes is the network's). The floor is a copy of the program.
func BenchmarkStep(b *testing.B) {
	w := newWorld(b)
	root, err := filepath.Abs("../..")
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	checkout, www := filepath.Join(dir, "checkout"), filepath.Join(dir, "www")
	for _, name := range []string{"action", "internal"} {
		if err := os.CopyFS(filepath.Join(checkout, name), os.DirFS(filepath.Join(root, name))); err != nil {
			b.Fatal(err)
		}
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(checkout, name), data, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	sums, err := exec.Command(filepath.Join(root, "tools/release/binaries.sh"), "1.2.3", www, runtime.GOOS+"/"+runtime.GOARCH).Output()
	if err != nil {
		b.Fatal(err)
	}
	github := githubtest.New(b, dir, www)

	measure := func(name string, sums []byte, says string, cache func() string) {
		b.Run(name, func(b *testing.B) {
			file := filepath.Join(checkout, "checksums.txt")
			if err := os.WriteFile(file, sums, 0o644); err != nil {
				b.Fatal(err)
			}
			if sums == nil {
				os.Remove(file)
			}
			var ours, floor time.Duration
			n := 0
			for b.Loop() {
				temp := b.TempDir()
				output := filepath.Join(temp, "outputs")
				env := append(os.Environ(), github.Env()...)
				env = append(env, "GITHUB_ACTION_PATH="+checkout, "GITHUB_OUTPUT="+output, "RUNNER_TEMP="+temp, "RUNNER_OS=", "RUNNER_ARCH=", "GOCACHE="+cache())

				start := time.Now()
				get := exec.Command("bash", filepath.Join(root, "action/get.sh"))
				get.Env = env
				text, err := get.CombinedOutput()
				if err != nil || !strings.Contains(string(text), says) {
					b.Fatalf("get.sh: %v, want %q in\n%s", err, says, text)
				}
				line, err := os.ReadFile(output)
				if err != nil {
					b.Fatal(err)
				}
				cfa := strings.TrimPrefix(strings.TrimSpace(string(line)), "cfa=")
				ask := exec.Command(cfa, append([]string{"request", "--project", project, "--service", "npm", "--output", "stdout", "--timeout", "30s"}, w.flags...)...)
				ask.Env = append(os.Environ(), w.issuer.GitHubEnv("release")...)
				log, err := ask.StderrPipe()
				if err != nil {
					b.Fatal(err)
				}
				if err := ask.Start(); err != nil {
					b.Fatal(err)
				}
				accepted := false
				for lines := bufio.NewScanner(log); !accepted && lines.Scan(); {
					accepted = strings.Contains(lines.Text(), "accepted")
				}
				ours += time.Since(start)
				ask.Process.Signal(os.Interrupt)
				go io.Copy(io.Discard, log)
				ask.Wait()
				if !accepted {
					b.Fatal("the request was not accepted")
				}

				start = time.Now()
				data, err := os.ReadFile(cfa)
				if err != nil {
					b.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(temp, "copy"), data, 0o755); err != nil {
					b.Fatal(err)
				}
				floor += time.Since(start)
				n++
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(ours.Milliseconds())/float64(n)/1000, "s")
			b.ReportMetric(float64(floor.Microseconds())/float64(n)/1000, "floor-ms")
		})
	}
	out, err := exec.Command("go", "env", "GOCACHE").Output()
	if err != nil {
		b.Fatal(err)
	}
	warm := strings.TrimSpace(string(out))
	measure("downloaded", sums, "using cfa_1.2.3", func() string { return warm })
	measure("built", nil, "building from source", func() string { return warm })
	measure("built-anew", nil, "building from source", b.TempDir)
}

// BenchmarkSize is the size of cfa as it is released: stripped, without paths.
func BenchmarkSize(b *testing.B) {
	out := filepath.Join(b.TempDir(), "cfa")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", out, "github.com/continuousauth/action/action")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, text)
	}
	info, err := os.Stat(out)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(info.Size())/1e6, "MB")
	b.ReportMetric(12, "aim-MB")
}
