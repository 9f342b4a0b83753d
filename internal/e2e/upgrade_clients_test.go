//go:build clients && unix

package e2e

// A rolling upgrade: programs of an earlier commit with those of this one, in each
// mixture, through whole requests; and a relay that is upgraded under those who
// wait. They are built from the repository's own history.

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// before is the commit that the older programs are of: the first one in which cfa
// asks for codes, links and approvals and a responder must sign `connect`. What was
// before that cannot connect any more (CHANGELOG.md says so).
const before = "ab8c73838234f4ec1f5d2d359bbf937c6dc3838e"

// older is what ends the name of a program of that commit.
const older = "-older"

var olderPrograms struct {
	sync.Once
	skip string
	err  error
}

// buildOlder builds the programs of that commit beside ours, once.
func buildOlder(t *testing.T) {
	t.Helper()
	ours := filepath.Dir(program(t, "cfa"))
	olderPrograms.Do(func() { olderPrograms.skip, olderPrograms.err = buildCommit(before, ours) })
	if olderPrograms.err != nil {
		t.Fatal(olderPrograms.err)
	}
	if olderPrograms.skip != "" {
		t.Skip(olderPrograms.skip)
	}
}

func buildCommit(commit, to string) (skip string, err error) {
	git := func(args ...string) ([]byte, error) {
		out, err := exec.Command("git", args...).Output()
		return out, err
	}
	top, err := git("rev-parse", "--show-toplevel")
	if err != nil {
		return "this is no git checkout, so there is no earlier commit to build", nil
	}
	root := strings.TrimSpace(string(top))
	if _, err := git("-C", root, "cat-file", "-e", commit+"^{commit}"); err != nil {
		if shallow, err := git("-C", root, "rev-parse", "--is-shallow-repository"); err == nil && strings.TrimSpace(string(shallow)) == "true" {
			return "this checkout is shallow and lacks the commit " + commit + ": git fetch --unshallow", nil
		}
		return "", fmt.Errorf("this checkout has no commit %s, and is not shallow; which one are the older programs of?", commit)
	}
	dir, err := os.MkdirTemp(to, "older-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	sources, err := git("-C", root, "archive", "--format=tar", commit, "go.mod", "go.sum", "action", "relay", "responder", "internal")
	if err != nil {
		return "", fmt.Errorf("git archive %s: %w", commit, err)
	}
	unpack := exec.Command("tar", "-x", "-C", dir)
	unpack.Stdin = bytes.NewReader(sources)
	if out, err := unpack.CombinedOutput(); err != nil {
		return "", fmt.Errorf("tar: %w\n%s", err, out)
	}
	for name, pkg := range map[string]string{"cfa": "./action", "cfa-relay": "./relay", "cfa-responder": "./responder"} {
		// Its folder is in nobody's repository, and the commit is named above.
		build := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(to, name+older), pkg)
		build.Dir = dir
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s of %s: %w\n%s", name, commit, err, out)
		}
	}
	return "", nil
}

// mixture is a world in which each program is of this commit or of the earlier one:
// "" or older.
type mixture struct {
	*world
	job, desk, relay string
}

func (m mixture) String() string {
	of := func(s string) string {
		if s == older {
			return "older"
		}
		return "new"
	}
	return of(m.job) + " job, " + of(m.desk) + " responder, " + of(m.relay) + " relay"
}

func newMixture(t *testing.T, job, desk, relay string, more string) mixture {
	t.Helper()
	buildOlder(t)
	m := mixture{newWorld(t, with(fmt.Sprintf("listen: {nats: %q}", freeAddress(t)))), job, desk, relay}
	m.writeConfig(more)
	// The first relay has written its store with this commit's format, which an
	// older one need not read: each mixture begins with nothing.
	m.stop(syscall.SIGTERM)
	if err := os.RemoveAll(filepath.Join(m.dir, "data")); err != nil {
		t.Fatal(err)
	}
	m.serve()
	return m
}

func (m mixture) stop(s syscall.Signal) {
	m.t.Helper()
	m.world.relay.signal(s)
	m.world.relay.wait()
}

// serve starts the relay of the mixture, at the address that it has had.
func (m mixture) serve() {
	m.t.Helper()
	m.world.relay = start(m.t, nil, "cfa-relay"+m.relay, "serve", "--config", m.config)
	m.world.relay.waitFor(`serving nats://`)
}

func (m mixture) listens() *process {
	m.t.Helper()
	p := m.humans[0]
	all := append([]string{"listen", "--key-file", p.keys, "--pins", p.pins}, m.flags...)
	r := start(m.t, nil, "cfa-responder"+m.desk, all...)
	r.waitFor(`(?i)connected`)
	return r
}

func (m mixture) cfa(command string, args ...string) *process {
	m.t.Helper()
	all := append([]string{command, "--project", project}, m.flags...)
	return start(m.t, m.issuer.GitHubEnv("release"), "cfa"+m.job, append(all, args...)...)
}

func (m mixture) types(desk *process, lines string) {
	m.t.Helper()
	if _, err := io.WriteString(desk.in, lines); err != nil {
		m.t.Fatal(err)
	}
}

// gives has the human give the code, and the job end well with it, once.
func (m mixture) gives(desk, job *process) {
	m.t.Helper()
	desk.waitFor(`#1 your turn`)
	m.types(desk, "1\n"+testCode+"\n")
	if code := job.wait(); code != 0 || job.out.String() != testCode+"\n" {
		m.t.Errorf("cfa ended with %d and wrote %q", code, job.out)
	}
	desk.waitFor(`#1 over`)
}

func TestProgramsOfTwoVersionsWorkTogether(t *testing.T) {
	t.Parallel()
	for _, mix := range [][3]string{
		{older, older, ""}, {"", "", older}, // clients first, relay first
		{older, "", ""}, {"", older, ""}, {older, "", older}, {"", older, older},
		{older, older, older}, // the control: what the earlier commit does by itself
	} {
		t.Run(mixture{job: mix[0], desk: mix[1], relay: mix[2]}.String(), func(t *testing.T) {
			t.Parallel()
			m := newMixture(t, mix[0], mix[1], mix[2], "    links: [\"127.0.0.1:9\"]\n")
			if p := run(t, nil, "cfa-responder"+m.desk, "pins", "--pins", m.humans[0].pins, "link-host", project, "127.0.0.1:9", "--confirm", "127.0.0.1:9"); p.code != 0 {
				t.Fatal("pins link-host failed")
			}
			desk := m.listens()

			t.Log("a code")
			job := m.cfa("request", "--service", "npm", "--output", "stdout", "--responders", m.humans[0].sign)
			m.gives(desk, job)

			t.Log("a yes about a file")
			file, receipt := filepath.Join(m.dir, "file"), filepath.Join(m.dir, "receipt.jsonl")
			if err := os.WriteFile(file, []byte("released"), 0o600); err != nil {
				t.Fatal(err)
			}
			job = m.cfa("approve", "--message", "publish 1.2.3", "--artifact", file, "--responders", m.humans[0].sign, "--receipt", receipt)
			desk.waitFor(`#2 your turn`)
			m.types(desk, "2\n"+job.waitFor(`match code: +(\S+)`)[1]+"\n")
			if code := job.wait(); code != 0 {
				t.Errorf("cfa approve ended with %d", code)
			}
			// Each version checks what the other has signed.
			for _, of := range []string{"", older} {
				if p := run(t, nil, "cfa"+of, "verify-receipt", "--key", m.humans[0].sign, "--artifact", file, receipt); p.code != 0 {
					t.Errorf("cfa%s refuses the receipt with %d", of, p.code)
				}
			}

			t.Log("a link")
			followed := filepath.Join(m.dir, "followed")
			if err := syscall.Mkfifo(followed, 0o600); err != nil {
				t.Fatal(err)
			}
			job = m.cfa("exec", "--link", `visit (http\S+)`, "--", "sh", "-c", `echo visit http://127.0.0.1:9/auth/cli/1; read -r ok <"$1"`, "sh", followed)
			desk.waitFor(`#3 link: http://127\.0\.0\.1:9/auth/cli/1`)
			open, err := os.OpenFile(followed, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(open, "ok")
			open.Close()
			if code := job.wait(); code != 0 {
				t.Errorf("cfa exec ended with %d", code)
			}

			t.Log("a relay that is killed while a job waits, and comes back as it was")
			job = m.cfa("request", "--service", "npm", "--output", "stdout")
			desk.waitFor(`#4 your turn`)
			m.stop(syscall.SIGKILL)
			job.waitFor(`connection lost, connecting again`)
			m.serve()
			job.waitFor(`connected to relay localhost again`)

			t.Log("a decline")
			m.types(desk, "d4 not today\n")
			if code := job.wait(); code != 80 || !strings.Contains(job.err.String(), "not today") {
				t.Errorf("cfa ended with %d", code)
			}
			desk.waitFor(`#4 over`)
		})
	}
}

// The relay is upgraded under a job and a responder that stay as they are: killed,
// and the new one started on the same store.
func TestAWaitingJobLivesThroughTheUpgradeOfItsRelay(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name      string
		job, desk string
		how       syscall.Signal
	}{
		{"older clients, killed", older, older, syscall.SIGKILL},
		{"older clients, told to end", older, older, syscall.SIGTERM},
		{"new clients, killed", "", "", syscall.SIGKILL},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := newMixture(t, c.job, c.desk, older, "")
			desk := m.listens()
			job := m.cfa("request", "--service", "npm", "--output", "stdout")
			desk.waitFor(`#1 your turn`)
			m.stop(c.how)
			job.waitFor(`connection lost, connecting again`)
			m.relay = ""
			m.serve()
			job.waitFor(`connected to relay localhost again`)
			m.gives(desk, job)
			// It was one request all along, not asked anew.
			if strings.Contains(m.world.relay.err.String(), "what=request") {
				t.Error("a request was accepted after the upgrade, and none came")
			}
			// The new relay vouches for what the older one has written.
			m.stop(syscall.SIGTERM)
			if p := run(t, nil, "cfa-relay", "audit", "verify", "--config", m.config); p.code != 0 {
				t.Errorf("audit verify ended with %d", p.code)
			}
		})
	}
}
