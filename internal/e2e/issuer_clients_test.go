//go:build unix && clients

package e2e

// The CI's issuer fails: down, hanging, or with a key set that is none, when the
// relay starts, when a job connects, when a responder opens; and its keys are
// replaced in between. Each side says what is wrong, and the request goes on once
// that is over.

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/devissuer"
)

// issuerFaults are ways in which there are no keys, with what is said of each.
var issuerFaults = []struct {
	mode devissuer.Mode
	says string
}{
	{devissuer.Down, `500`},
	{devissuer.Empty, `no.*keys?`},
	{devissuer.Huge, `larger|too large|more than`},
	{devissuer.Redirect, `redirect`},
	{devissuer.Hang, `deadline|answer|time`},
}

func TestAnIssuerThatFailsIsWaitedFor(t *testing.T) {
	t.Parallel()
	program(t, "cfa")
	var scenes []scene
	for _, f := range issuerFaults {
		scenes = append(scenes, scene{"the relay starts while it is " + string(f.mode), func(t *testing.T) {
			metrics := freeAddress(t)
			w := newWorld(t, with(fmt.Sprintf("listen: {nats: %q, metrics: %q}", freeAddress(t), metrics)))
			h := w.listen(w.humans[0])
			w.relay.signal(syscall.SIGTERM)
			w.relay.wait()
			w.issuer.Break(f.mode)
			w.startRelay()
			w.relay.waitFor(`some issuers' keys are missing; their jobs are refused until they come.*` + f.says)
			if ready := page(t, "http://"+metrics+"/readyz"); !strings.Contains(ready, "missing: the keys of "+w.issuer.URL()) {
				t.Errorf("readyz: %s", ready)
			}
			// NATS lets a relay give no reason at the door: the job can only say what
			// may be, and try for as long as a relay needs to ask for the keys again.
			j := w.job("--output", "stdout")
			j.waitFor(`the relay refused this job's ID token, .* without the keys of this job's issuer for a moment, so this is tried for 45s`)
			w.relay.waitFor(`what=connect as=job .*outcome=refused why="the keys of issuer .* cannot be fetched now`)
			w.issuer.Break(devissuer.Works)
			// By itself, within the half minute after which it asks again.
			for deadline := time.Now().Add(within); strings.Contains(page(t, "http://"+metrics+"/readyz"), "missing"); {
				if time.Now().After(deadline) {
					t.Fatal("the relay does not get the keys")
				}
				time.Sleep(100 * time.Millisecond) // an HTTP page announces nothing
			}
			h.waitFor(`#1 your turn`)
			say(t, h, "1\n%s\n", testCode)
			if code := j.wait(); code != 0 || j.out.String() != testCode+"\n" {
				t.Errorf("cfa ended with %d and wrote %q", code, j.out)
			}
			h.waitFor(`#1 over: `)
			w.tells("asked answered got done: done ok")
		}}, scene{"a responder opens while it is " + string(f.mode), func(t *testing.T) {
			w := newWorld(t)
			j := w.job("--output", "stdout")
			j.waitFor(`request accepted`)
			w.issuer.Break(f.mode)
			h := w.listen(w.humans[0])
			j.within, h.within = 100e9, 100e9
			h.waitFor(`#1 unproven: .*the keys of issuer .* cannot be fetched now`)
			w.issuer.Break(devissuer.Works)
			h.waitFor(`#1 your turn`)
			say(t, h, "1\n%s\n", testCode)
			if code := j.wait(); code != 0 || j.out.String() != testCode+"\n" {
				t.Errorf("cfa ended with %d and wrote %q", code, j.out)
			}
			h.waitFor(`#1 over: `)
			w.tells("asked answered got done: done ok")
		}})
	}
	scenes = append(scenes, scene{"its keys are replaced between connect and opening", func(t *testing.T) {
		w := newWorld(t)
		j := w.job("--output", "stdout")
		j.waitFor(`request accepted`)
		w.issuer.Rotate()
		h := w.listen(w.humans[0])
		j.within, h.within = 100e9, 100e9
		// A token of a moment ago is shown again, and its key is not there any
		// more; the next one is new.
		h.waitFor(`#1 unproven: `)
		h.waitFor(`#1 your turn`)
		say(t, h, "1\n%s\n", testCode)
		if code := j.wait(); code != 0 || j.out.String() != testCode+"\n" {
			t.Errorf("cfa ended with %d and wrote %q", code, j.out)
		}
		h.waitFor(`#1 over: `)
		w.tells("asked answered got done: done ok")
	}})
	together(t, len(scenes), scenes)
}
