//go:build unix

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// starts runs the program as a process, and waits until the relay has the request.
func starts(t *testing.T, project string) (job *exec.Cmd, r *relay, log *bytes.Buffer) {
	t.Helper()
	dir := t.TempDir()
	r = startRelay(t, dir)
	job = exec.Command("cfa", "request", "--project", project)
	job.Env = append(r.job(t), "PATH="+os.Getenv("PATH"))
	log = &bytes.Buffer{}
	job.Stdout, job.Stderr = log, log
	if err := job.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { job.Process.Kill() })
	r.waitFor(t, "request")
	return job, r, log
}

// waitFor waits until the relay has got a message of that verb.
func (r *relay) waitFor(t testing.TB, verb string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !strings.Contains(r.signed(t), verb); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the job sends no %s", verb)
		}
	}
}

func (r *relay) signed(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Clean(r.file))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestASignalWithdrawsTheRequest(t *testing.T) {
	t.Parallel()
	for s, name := range map[syscall.Signal]string{syscall.SIGTERM: "terminated", syscall.SIGINT: "interrupt"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job, r, log := starts(t, "waits")
			if err := job.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
			job.Wait()
			if code := job.ProcessState.ExitCode(); code != exitCancelled {
				t.Errorf("exit code %d\n%s", code, log)
			}
			if signed := r.signed(t); !strings.Contains(signed, "cancel ") || !strings.Contains(signed, "the job was stopped ("+name+")") {
				t.Errorf("signed:\n%s", signed)
			}
		})
	}
}

func TestASecondSignalEndsAtOnce(t *testing.T) {
	t.Parallel()
	// Unconfirmed, a withdrawal takes its five seconds.
	job, r, _ := starts(t, "deaf")
	if err := job.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	r.waitFor(t, "cancel")
	start := time.Now()
	if err := job.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	job.Wait()
	if code := job.ProcessState.ExitCode(); code != exitCancelled || time.Since(start) > 3*time.Second {
		t.Errorf("exit code %d after %s", code, time.Since(start))
	}
}

func TestNoCoreIsDumped(t *testing.T) {
	noCoreDump()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_CORE, &l); err != nil || l.Cur != 0 {
		t.Errorf("core limit %d, %v", l.Cur, err)
	}
}
