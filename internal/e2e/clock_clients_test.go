//go:build unix && clients

package e2e

// Clocks that are off: the relay's against its store's, the job's, the responder's.
// Nothing ends by a wrong clock, and whoever has it is told.
//
// A relay that was built for failpoints can be told by how much its own is off. The
// job's and the responder's programs have no such door, and so are built with a
// standard library whose time.Now is off (go build -overlay): whatever they do by
// the clock, they do by that one.

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// movedPrograms builds cfa and cfa-responder for CFA_TEST_CLOCK, in seconds.
var movedPrograms = sync.OnceValues(func() (string, error) {
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return "", err
	}
	lib := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	source, err := os.ReadFile(filepath.Join(lib, "time.go"))
	if err != nil {
		return "", err
	}
	const before = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if !strings.Contains(string(source), before) {
		return "", os.ErrInvalid // this Go's time.Now reads otherwise: see what it is now
	}
	dir := filepath.Join(binDir, "moved")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	files := map[string]string{
		"time.go": strings.Replace(string(source), before, before+"\tsec += movedBy\n", 1),
		"moved.go": `package time

import "syscall"

var movedBy = func() (n int64) {
	text, _ := syscall.Getenv("CFA_TEST_CLOCK")
	sign := int64(1)
	for _, c := range text {
		if c == '-' {
			sign = -1
			continue
		}
		n = n*10 + int64(c-'0')
	}
	return sign * n
}()
`,
	}
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return "", err
		}
		overlay.Replace[filepath.Join(lib, name)] = path
	}
	data, err := json.Marshal(overlay)
	if err != nil {
		return "", err
	}
	list := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(list, data, 0o600); err != nil {
		return "", err
	}
	for name, pkg := range map[string]string{"cfa-moved": "action", "cfa-responder-moved": "responder"} {
		if out, err := exec.Command("go", "build", "-overlay", list, "-o", filepath.Join(binDir, name), "github.com/continuousauth/action/"+pkg).CombinedOutput(); err != nil {
			return "", &exec.Error{Name: name + ": " + string(out), Err: err}
		}
	}
	return binDir, nil
})

func withMovedClocks(t *testing.T) {
	t.Helper()
	program(t, "cfa")
	if _, err := movedPrograms(); err != nil {
		t.Fatalf("programs whose clock is off cannot be built; has time.Now in Go's library changed? %v", err)
	}
}

// relayAt starts the world's relay anew with a clock that is off.
func (w *world) relayAt(off string) {
	w.t.Helper()
	name := fragileRelay(w.t.(*testing.T))
	w.relay.signal(syscall.SIGTERM)
	w.relay.wait()
	w.relay = start(w.t, []string{"CFA_CLOCK=" + off}, name, "serve", "--config", w.config)
	w.relay.waitFor(`serving`)
}

func TestARelayWhoseClockIsOffEndsNothingByIt(t *testing.T) {
	t.Parallel()
	w := onPort(t, "")
	w.relayAt("+30s")
	j := w.job("--output", "stdout", "--timeout", "40s")
	j.waitFor(`request accepted`)
	// It cannot end it itself any more.
	j.signal(syscall.SIGKILL)
	died(t, j)
	// By that clock the deadline has passed when this is said, and it has not.
	w.relay.waitFor(`this relay's clock is off the store's; it ends nothing by time until it is right.*by=(30|29\.9)`)
	e := readRecord(t, w.config, true)
	if got := e.one(t).story(); got != "asked: pending" {
		t.Errorf("on record is %q", got)
	}
	w.relay.signal(syscall.SIGKILL)
	died(t, w.relay)
	w.startRelay()
	w.relay.waitFor(`what=clock .*outcome=expired`)
	e = w.tells("asked expired: expired")
	records := e.one(t).records
	if end := time.UnixMilli(records[len(records)-1].At); end.Before(time.UnixMilli(records[0].Deadline)) {
		t.Errorf("it expired at %s, before its deadline", end)
	}
}

func TestARelayWhoseClockIsFarOffTurnsJobsAwayAndSaysWhy(t *testing.T) {
	t.Parallel()
	for off, says := range map[string]string{"-5m": `issued [45] min from now.*compare the clocks`, "+15m": `issued 15 min ago; at most 10 min are accepted`} {
		t.Run(off, func(t *testing.T) {
			t.Parallel()
			w := onPort(t, "")
			w.relayAt(off)
			j := w.job("--output", "stdout")
			if code := j.wait(); code != 77 || j.out.String() != "" {
				t.Errorf("cfa ended with %d", code)
			}
			j.waitFor(`likely causes: .*its clock is off`)
			w.relay.waitFor(`this relay's clock and the store's drift apart.* by=(-5m|15m)0s mend="see that the clock is set by NTP`)
			w.relay.waitFor(`what=connect as=job .*outcome=refused why="the ID token was ` + says)
			w.relay.signal(syscall.SIGTERM)
			w.relay.wait()
			w.startRelay()
			w.robot(w.humans[0])
			again := w.job("--output", "stdout")
			if code := again.wait(); code != 0 {
				t.Errorf("with the right time: cfa ended with %d", code)
			}
		})
	}
}

func TestAJobWhoseClockIsOffIsToldSo(t *testing.T) {
	t.Parallel()
	withMovedClocks(t)
	for _, off := range []string{"600", "-1200"} {
		t.Run(off, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			args := append([]string{"request", "--project", project, "--output", "stdout"}, w.flags...)
			j := start(t, append(w.issuer.GitHubEnv("release"), "CFA_TEST_CLOCK="+off), "cfa-moved", args...)
			if code := j.wait(); code != 77 || j.out.String() != "" {
				t.Errorf("cfa ended with %d", code)
			}
			j.waitFor(`is the job's clock right\?`)
			if e := w.ended(); len(e.histories) != 0 {
				t.Error("it is on record as a request")
			}
		})
	}
}

func TestAResponderWhoseClockIsOffIsToldSo(t *testing.T) {
	t.Parallel()
	withMovedClocks(t)
	for _, off := range []string{"1200", "-300"} {
		t.Run(off, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			ana := w.humans[0]
			all := append([]string{"listen", "--key-file", ana.keys, "--pins", ana.pins}, w.flags...)
			h := start(t, []string{"CFA_TEST_CLOCK=" + off}, "cfa-responder-moved", all...)
			j := w.job("--output", "stdout")
			h.waitFor(`(?i)clock`)
			if strings.Contains(h.out.String(), "your turn") {
				t.Error("it can be answered")
			}
			h.signal(syscall.SIGTERM)
			h.wait()
			w.robot(ana)
			if code := j.wait(); code != 0 || j.out.String() != testCode+"\n" {
				t.Errorf("cfa ended with %d and wrote %q", code, j.out)
			}
			w.tells("asked answered got done: done ok")
		})
	}
}
