package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"
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
