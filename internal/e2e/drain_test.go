package e2e

// The relay is told to end while a job waits, and another one starts in its
// place, as at an upgrade.

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// handedOut are the ports that freeAddress has given: by the time that a relay
// listens at one of them, and while it is down, another test must not get it.
var handedOut sync.Map

// freeAddress is an address that nobody listens on, for a relay that must come
// back at the same one. It is below those that systems give out by themselves: one
// of those could be a stranger's while there is no relay.
func freeAddress(t testing.TB) string {
	t.Helper()
	for range 100 {
		port := 20_000 + rand.IntN(12_000)
		if _, taken := handedOut.LoadOrStore(port, true); taken {
			continue
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		defer l.Close()
		return l.Addr().String()
	}
	t.Fatal("no free port")
	return ""
}

func TestAWaitingJobLivesThroughARestartOfTheRelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t, with(fmt.Sprintf("listen: {nats: %q, metrics: %q}", freeAddress(t), freeAddress(t))))
	metrics := w.relay.waitFor(`metrics (http://\S+)/metrics\n`)[1]
	j := w.job("--output", "stdout")
	j.waitFor(`request accepted`)
	if open := page(t, metrics+"/metrics"); !strings.Contains(open, `cfa_requests_open{project="`+project+`"} 1`) {
		t.Errorf("it does not wait:\n%s", open)
	}

	w.relay.signal(syscall.SIGTERM)
	if code := w.relay.wait(); code != 0 {
		t.Errorf("the relay ended with %d", code)
	}
	for _, said := range []string{"relay drains", "relay has drained", "open=1"} {
		if !strings.Contains(w.relay.err.String(), said) {
			t.Errorf("the relay did not say %q", said)
		}
	}
	j.waitFor(`connection lost, connecting again`)
	w.startRelay()
	if ready := page(t, metrics+"/readyz"); !strings.HasPrefix(ready, "ready\n") {
		t.Errorf("readyz: %s", ready)
	}
	j.waitFor(`connected to relay localhost again`)
	w.robot(w.humans[0])
	if code := j.wait(); code != 0 || strings.TrimSpace(j.out.String()) != testCode {
		t.Errorf("the job ended with %d", code)
	}
	// It was one request all along, not asked anew.
	if strings.Contains(w.relay.err.String(), "what=request") {
		t.Error("a request was accepted after the restart, and none came")
	}

	// One that comes while there is no relay waits for it.
	w.relay.signal(syscall.SIGTERM)
	w.relay.wait()
	late := w.job("--output", "stdout")
	late.waitFor(`try 1 failed: relay unreachable`)
	w.startRelay()
	if code := late.wait(); code != 0 || strings.TrimSpace(late.out.String()) != testCode {
		t.Errorf("the late job ended with %d", code)
	}
}

func page(t testing.TB, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}
