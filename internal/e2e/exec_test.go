package e2e

// What the tests of cfa exec share: a human who gives codes or follows links, and
// how a run ended.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/e2e/registrytest"
)

// gives starts a responder that answers each prompt with the next of codes; the last
// one stands for all that follow.
func (w *world) gives(codes ...string) *process {
	w.t.Helper()
	file := filepath.Join(w.dir, "codes")
	if err := os.WriteFile(file, []byte(strings.Join(codes, "\n")+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
	// The first line, which goes unless it is the last one.
	return w.listen(w.humans[0], "--unattended", "--answer-command",
		fmt.Sprintf(`head -n 1 %[1]s; test "$(wc -l <%[1]s)" = 1 || { tail -n +2 %[1]s >%[1]s.rest; mv %[1]s.rest %[1]s; }`, file))
}

// ended is how a cfa exec ended.
type ended struct {
	code     int
	out, err string
}

// exec runs cfa exec in a folder, with exactly this environment.
func (w *world) exec(dir string, env, flags []string, argv ...string) ended {
	w.t.Helper()
	args := slices.Concat([]string{"exec", "--project", project}, w.flags, flags, []string{"--"}, argv)
	// Longer than any of them takes, so that one that hangs shows what it wrote.
	ctx, cancel := context.WithTimeout(w.t.Context(), 3*within)
	defer cancel()
	cmd := exec.CommandContext(ctx, program(w.t, "cfa"), args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	cmd.Dir, cmd.Env = dir, env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	e := ended{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
	w.t.Cleanup(func() {
		if w.t.Failed() {
			w.t.Logf("%v ended with %d\nstdout:\n%s\nstderr:\n%s", argv, e.code, e.out, e.err)
		}
	})
	return e
}

// asks counts the requests, and says how often a code was asked for.
func (e ended) asks() (requests, attempts int) {
	requests = strings.Count(e.err, "request accepted for project")
	return requests, requests + strings.Count(e.err, "cfa: attempt ")
}

// wantNoCode looks for codes where none may be: in what was written, but for the
// line that has the CI mask it.
func (e ended) wantNoCode(t *testing.T, codes ...string) {
	t.Helper()
	for _, code := range codes {
		if !strings.Contains(e.err, "::add-mask::"+code) {
			t.Errorf("%s was never masked, so looking for it shows nothing", code)
		}
		if strings.Contains(e.out, code) || strings.Contains(strings.ReplaceAll(e.err, "::add-mask::"+code+"\n", ""), code) {
			t.Errorf("the code %s is in the log", code)
		}
	}
}

// allowLinks lets humans be shown links of a registry.
func (w *world) allowLinks(reg *registrytest.Registry) {
	w.t.Helper()
	host := strings.TrimPrefix(reg.URL(), "http://")
	if p := run(w.t, nil, "cfa-responder", "pins", "--pins", w.humans[0].pins, "link-host", project, host, "--confirm", host); p.code != 0 {
		w.t.Fatal("pins link-host failed")
	}
	w.writeConfig("    links: [\"" + host + "\"]\n")
	w.relay.signal(syscall.SIGHUP)
	w.relay.waitFor(`reload`)
}

// follower is a human who opens each prompt and, each time that it shows a new
// link, follows it until they have followed some.
func (w *world) follower(reg *registrytest.Registry, follow int, before ...func()) {
	w.t.Helper()
	w.allowLinks(reg)
	desk := w.listen(w.humans[0])
	link := regexp.MustCompile(`(?m)^#[0-9]+ (?:new )?link: (\S+)$`)
	go func() {
		seen := map[string]bool{}
		for range follow {
			for found := false; !found; {
				desk.out.mu.Lock()
				wrote := desk.out.wrote
				for _, m := range link.FindAllStringSubmatch(desk.out.b.String(), -1) {
					if !seen[m[1]] {
						seen[m[1]], found = true, true
						for _, f := range before {
							f()
						}
						if err := reg.Visit(m[1]); err != nil {
							w.t.Errorf("follow %s: %v", m[1], err)
						}
						break
					}
				}
				desk.out.mu.Unlock()
				if !found {
					select {
					case <-wrote:
					case <-desk.done:
						return
					}
				}
			}
		}
	}()
}
