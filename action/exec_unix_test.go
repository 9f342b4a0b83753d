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

// executes starts cfa exec as a process, around a shell's script.
func executes(t *testing.T, project, script string, flags ...string) (job *exec.Cmd, r *relay, out *bytes.Buffer, dir string) {
	t.Helper()
	dir = t.TempDir()
	r = startRelay(t, dir)
	job = exec.Command("cfa", append(append([]string{"exec", "--project", project, "--service", "tool"}, flags...), "--", "sh", "-c", script)...)
	job.Env = append(r.job(t), "PATH="+os.Getenv("PATH"), "DIR="+dir)
	out = &bytes.Buffer{}
	job.Stdout, job.Stderr = out, out
	if err := job.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { job.Process.Kill() })
	return job, r, out, dir
}

// appears waits until the command has made a file.
func appears(t *testing.T, path string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s does not appear", path)
		}
	}
}

func TestASignalIsTheCommandsWhileItRuns(t *testing.T) {
	t.Parallel()
	for s, want := range map[syscall.Signal]int{syscall.SIGTERM: 5, syscall.SIGINT: 6, syscall.SIGHUP: 7, syscall.SIGQUIT: 8} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			job, _, out, dir := executes(t, "answers", `trap 'echo cleaned up; exit 5' TERM; trap 'exit 6' INT; trap 'exit 7' HUP; trap 'exit 8' QUIT; : >"$DIR/up"; while :; do sleep 0.02; done`, "--env", "OTP", "--refused", "x")
			appears(t, filepath.Join(dir, "up"))
			// Once to all that it may have to end, and once more, as a runner does that
			// loses patience: the second must not cut the command off either.
			if err := job.Process.Signal(s); err != nil {
				t.Fatal(err)
			}
			late := time.AfterFunc(time.Minute, func() { _ = job.Process.Kill() })
			defer late.Stop()
			err := job.Wait()
			if job.ProcessState.ExitCode() != want {
				t.Errorf("%v, want exit code %d; wrote %q", err, want, out)
			}
		})
	}
}

func TestASignalWhileAHumanIsAskedWithdrawsTheRequest(t *testing.T) {
	t.Parallel()
	job, r, out, _ := executes(t, "waits", `test "$OTP" || { echo code wanted >&2; exit 1; }`, "--env", "OTP", "--refused", "code wanted")
	r.waitFor(t, "request")
	if err := job.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = job.Wait()
	if code := job.ProcessState.ExitCode(); code != exitCancelled || !strings.Contains(r.signed(t), "cancel ") {
		t.Errorf("exit code %d; signed %q; wrote %q", code, r.signed(t), out)
	}
}

// A command that asks on its terminal and then ends must not leave a human's
// prompt behind.
func TestACommandThatEndsWithdrawsWhatItAskedFor(t *testing.T) {
	t.Parallel()
	job, r, out, dir := executes(t, "waits", `printf 'PIN: '; while [ ! -e "$DIR/go" ]; do sleep 0.02; done; exit 7`, "--pty-prompt", "PIN:")
	r.waitFor(t, "request")
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_ = job.Wait()
	if code := job.ProcessState.ExitCode(); code != 7 || !strings.Contains(r.signed(t), "cancel ") {
		t.Errorf("exit code %d; signed %q; wrote %q", code, r.signed(t), out)
	}
}

// While the command runs that was given a code, other users of the machine see no
// code in any argument list.
func TestTheCodeIsInNoArgumentList(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"env": {"--env", "OTP"}, "stdin": {"--stdin"}, "fd": {"--fd", "4"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			job, _, out, dir := executes(t, "answers", `: >"$DIR/up"; while [ ! -e "$DIR/go" ]; do sleep 0.02; done`, flags...)
			appears(t, filepath.Join(dir, "up"))
			ps, err := exec.Command("ps", "-e", "-o", "args").Output()
			if err != nil {
				t.Skip("there is no ps here: ", err)
			}
			if !strings.Contains(string(ps), dir) && !strings.Contains(string(ps), "cfa exec") {
				t.Fatalf("ps does not show the command, so its silence says nothing:\n%s", ps)
			}
			if strings.Contains(string(ps), testCode) {
				t.Error("the code is in an argument list")
			}
			if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := job.Wait(); err != nil {
				t.Errorf("%v: %q", err, out)
			}
		})
	}
}
