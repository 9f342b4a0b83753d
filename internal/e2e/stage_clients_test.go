//go:build clients

package e2e

// cfa stage around the real npm: what is staged becomes public when a human has
// approved it at the registry, and the job sees that by what everybody can see.

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/e2e/clientstest"
	"github.com/continuousauth/action/internal/e2e/registrytest"
)

// stages starts cfa stage in a folder.
func (s *shop) stages(c clientstest.Client, dir string, env ...string) *process {
	s.t.Helper()
	like := s.home.Command(c, dir, append(s.issuer.GitHubEnv("release"), env...), "npm")
	args := append([]string{"stage", "--project", project}, s.flags...)
	return startIn(s.t, dir, like.Env, "cfa", append(args, "--", "npm", "stage", "publish")...)
}

func TestAStagedPackageIsWaitedForUntilAHumanApprovesItAtTheRegistry(t *testing.T) {
	for _, c := range []clientstest.Client{clientstest.NPM11, clientstest.NPM12} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			s := newShop(t, registrytest.Config{Factor: registrytest.Link})
			desk := s.listen(s.humans[0])
			summary := filepath.Join(t.TempDir(), "summary.md")
			job := s.stages(c, s.home.Package("staged", "1.0.0"), "GITHUB_STEP_SUMMARY="+summary)
			id := desk.waitFor(`npm stage approve ([0-9a-f-]{36})`)[1]
			if _, there := s.reg.Published("staged", "1.0.0"); there {
				t.Error("published before anybody approved")
			}
			if !s.reg.Approve(id) {
				t.Fatalf("%s is not staged", id)
			}
			code := job.wait()
			if text := read(t, summary); !strings.Contains(text, "| opened by | `"+s.humans[0].sign+"` at ") {
				t.Errorf("the summary does not say who was shown it:\n%s", text)
			}
			if code != 0 || !strings.Contains(job.err.String(), "is published, with the bytes that were staged") {
				t.Errorf("exit code %d", code)
			}
			desk.waitFor(`#1 over: `)
		})
	}
}

func TestADeclineOfAStagedPackageEndsTheJob(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{Factor: registrytest.Link})
	desk := s.listen(s.humans[0])
	job := s.stages(clientstest.NPM12, s.home.Package("staged", "1.0.0"))
	desk.waitFor(`#1 your turn`)
	if _, err := desk.in.WriteString("d1 not this one\n"); err != nil {
		t.Fatal(err)
	}
	if code := job.wait(); code != 80 || !strings.Contains(job.err.String(), "npm stage reject") {
		t.Errorf("exit code %d", code)
	}
}

func TestOtherBytesThanThoseThatWereStagedAreAFailure(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{Factor: registrytest.Link})
	desk := s.listen(s.humans[0])
	job := s.stages(clientstest.NPM12, s.home.Package("staged", "1.0.0"))
	desk.waitFor(`npm stage approve`)
	s.reg.Publish("staged", "1.0.0", []byte("somebody else's"))
	if code := job.wait(); code != 82 || !strings.Contains(job.err.String(), "with OTHER bytes than those that were staged here") {
		t.Errorf("exit code %d", code)
	}
}

// A registry, or an npm, without staging fails by its own words, and asks nobody.
func TestStagingThatFailsAsksNobody(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{Factor: registrytest.Link})
	job := s.stages(clientstest.NPM10, s.home.Package("staged", "1.0.0"))
	begun := time.Now()
	if code := job.wait(); code != 1 || strings.Contains(job.err.String(), "request accepted") {
		t.Errorf("exit code %d after %s", code, time.Since(begun))
	}
}
