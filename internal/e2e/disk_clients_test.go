//go:build linux && clients

package e2e

// A disk that is full: the relay's store is on one of its own, of 64 MiB, in a
// mount namespace of the relay's process, so that it is gone with it. Whoever may
// make such a namespace runs this: root, and where user namespaces are allowed,
// anybody. That a record which nears limits.store takes no new request is
// internal/broker's to show, which needs no disk for it.

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// onSmallDisk starts the relay with its store on a disk of 64 MiB, and gives what
// is the store's directory there, as others see it.
func (w *world) onSmallDisk() (seen string) {
	w.t.Helper()
	store := filepath.Join(w.dir, "data", "store")
	if err := os.MkdirAll(store, 0o700); err != nil {
		w.t.Fatal(err)
	}
	const inside = `mount -t tmpfs -o size=64m,mode=0700 cfa-small "$1" && echo mounted && shift && exec "$@"`
	cmd := exec.Command("/bin/sh", "-c", inside, "sh", store, program(w.t, "cfa-relay"), "serve", "--config", w.config)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
	}
	probe := *cmd
	if out, err := (&exec.Cmd{Path: probe.Path, Args: []string{"/bin/sh", "-c", inside, "sh", store, "true"}, Env: probe.Env, SysProcAttr: probe.SysProcAttr}).CombinedOutput(); err != nil || !strings.Contains(string(out), "mounted") {
		w.t.Skipf("this user may not mount a disk of their own here: %v %s", err, out)
	}
	w.relay = startCmd(w.t, "cfa-relay", cmd)
	w.url = w.relay.waitFor(`serving ((?:nats|tls)://\S+)\n`)[1]
	w.flags = []string{"--relay", w.url, "--relay-name", "localhost"}
	return fmt.Sprintf("/proc/%d/root%s", w.relay.cmd.Process.Pid, store)
}

// fill takes all that is left of the disk.
func fill(t testing.TB, path string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; {
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
}

func TestAFullDiskTakesNothingNewAndLosesNothing(t *testing.T) {
	t.Parallel()
	addr, metrics := freeAddress(t), freeAddress(t)
	w := newWorld(t, with(fmt.Sprintf("listen: {nats: %q, metrics: %q}", addr, metrics)), with("limits: {store: 16777216}"))
	w.relay.signal(syscall.SIGTERM)
	w.relay.wait()
	if err := os.RemoveAll(filepath.Join(w.dir, "data")); err != nil {
		t.Fatal(err)
	}
	store := w.onSmallDisk()
	h := w.listen(w.humans[0])
	j := w.job("--output", "stdout")
	h.waitFor(`#1 your turn`)

	filler := filepath.Join(store, "filler")
	fill(t, filler)
	w.relay.waitFor(`the disk is nearly full; no new request is taken`)
	// What is on its way is kept by who has it.
	say(t, h, "1\n%s\n", testCode)
	h.waitFor(`#1 sealed`)
	w.relay.waitFor(`no space left on device`)
	// One that comes now is told why it waits, and waits.
	w.attempt("2")
	late := w.job("--output", "stdout")
	late.waitFor(`the relay's disk is nearly full, and the rest is kept for requests that are open`)
	if j.exited() || late.exited() {
		t.Error("a job ended while the disk was full")
	}

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	w.relay.waitFor(`the store was opened anew, after its disk was full`)
	if code := j.wait(); code != 0 || j.out.String() != testCode+"\n" {
		t.Errorf("cfa ended with %d and wrote %q", code, j.out)
	}
	h.waitFor(`#2 your turn`)
	say(t, h, "2\n%s\n", "222222")
	if code := late.wait(); code != 0 || late.out.String() != "222222\n" {
		t.Errorf("cfa ended with %d and wrote %q", code, late.out)
	}
	h.waitFor(`#2 over: `)
	e := w.ended()
	if len(e.histories) != 2 {
		t.Fatalf("%d requests are on record", len(e.histories))
	}
	for _, r := range e.histories {
		if got := r.story(); got != "asked answered got done: done ok" {
			t.Errorf("on record is %q", got)
		}
	}
}
