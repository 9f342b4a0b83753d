//go:build clients

package e2e

// Each configuration of CircleCI's that people copy out of this repository (the orb's
// examples, the README's, examples/circleci), run step by step in the environment of a
// job, with the real npm and gem against a registry that demands a second factor. A
// job has what its context says and nothing else, so that a name of a variable which
// no tool reads is a test that fails.

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/continuousauth/action/internal/e2e/clientstest"
	"github.com/continuousauth/action/internal/e2e/registrytest"
	"github.com/continuousauth/action/orb/orbtest"
)

// rocketFiles are a repository from which each of them can be run.
var rocketFiles = map[string]string{
	"package.json":      `{"name":"rocket","version":"1.2.3","license":"MIT","main":"index.js","files":["index.js"],"scripts":{"test":"node index.js"}}`,
	"package-lock.json": `{"name":"rocket","version":"1.2.3","lockfileVersion":3,"packages":{"":{"name":"rocket","version":"1.2.3","license":"MIT"}}}`,
	"index.js":          "",
	"rocket.gemspec": "Gem::Specification.new do |s|\n  s.name = 'rocket'\n  s.version = '1.2.3'\n  s.summary = 'a test'\n  s.authors = ['a test']\n" +
		"  s.files = []\n  s.license = 'MIT'\n  s.homepage = 'https://example.com'\nend\n",
	"build.sh": "#!/bin/sh\nset -e\nmkdir -p \"$(dirname \"$1\")\"\necho built >\"$1\"\n",
	"sign.sh":  "#!/bin/sh\nprintf %s \"$SIGNING_PIN\" | sha256sum >\"$1.sig\"\n",
}

// circleConfigs are what people copy, by a name for each.
func circleConfigs(t *testing.T) map[string]string {
	t.Helper()
	texts := map[string]string{"examples/circleci/config.yml": read(t, filepath.Join(examples, "circleci", "config.yml"))}
	for n, block := range regexp.MustCompile("(?s)\n```yaml\n(version: 2.1\n.*?)\n```\n").FindAllStringSubmatch(read(t, "../../README.md"), -1) {
		texts[fmt.Sprintf("README %d", n+1)] = block[1]
	}
	files, err := filepath.Glob(filepath.Join("..", "..", "orb", "src", "examples", "*.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		usage, err := yaml.Marshal(node(t, document(t, file), "usage"))
		if err != nil {
			t.Fatal(err)
		}
		texts[filepath.Base(file)] = string(usage)
	}
	if len(texts) < 8 {
		t.Fatalf("only %d configurations were found", len(texts))
	}
	return texts
}

// contexts gives each job's context, as the workflows say.
func contexts(t *testing.T, config map[string]any) map[string]string {
	t.Helper()
	found := map[string]string{}
	for _, w := range config["workflows"].(map[string]any) {
		for _, entry := range node(t, w, "jobs").([]any) {
			if m, ok := entry.(map[string]any); ok {
				for job, args := range m {
					found[job], _ = args.(map[string]any)["context"].(string)
				}
			}
		}
	}
	return found
}

func TestEachCircleCIConfigurationThatPeopleCopyWorks(t *testing.T) {
	t.Parallel()
	for name, text := range circleConfigs(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			two, approval := strings.Contains(text, "approvals: 2"), strings.Contains(text, "cfa/approve:")
			w := newCircleWorld(t, secure, func(w *world) {
				if two {
					w.circlePerson("Ben")
				}
			})
			demands := registrytest.Config{Factor: registrytest.Code, Codes: []string{testCode}}
			if approval {
				demands.Trusts = "github.com/octo/rocket"
			}
			reg := registrytest.Start(demands)
			t.Cleanup(reg.Close)
			s := w.circleJob()
			source, sum := s.release()
			// As it is written, but for what is the reader's own, and for npm's address.
			for from, to := range map[string]string{
				`tls://cfa\.example\.com:4222`:                             strings.Replace(w.url, "127.0.0.1", "localhost", 1),
				`wss://cfa\.example\.com`:                                  strings.Replace(w.wss, "127.0.0.1", "localhost", 1),
				`ADSO7U2ULPZJRG2RNYTW7ZX2ZUM6VJ6W3T46R4A5KDB5AV76DAJ4OUTX`: w.humans[0].sign,
				`AAL4W6P3FNASB4VR5RS6IGMNNYELFDUBH7VQDZFEACBZXBPBQCAM5GPA`: w.humans[len(w.humans)-1].sign,
				`sha256: [0-9a-f]{64}`:                                     "sha256: " + sum,
				`//registry\.npmjs\.org/:`:                                 "//" + reg.Host() + "/:",
				`"npm:registry\.npmjs\.org`:                                `"npm:127.0.0.1`,
				// In a text that was marshalled anew.
				`\\"npm:registry\.npmjs\.org`: `\"npm:127.0.0.1`,
			} {
				text = regexp.MustCompile(from).ReplaceAllString(text, to)
			}
			var config map[string]any
			if err := yaml.Unmarshal([]byte(text), &config); err != nil {
				t.Fatal(err)
			}
			jobs, err := s.orb.ConfigJobs(config, "v1.2.3")
			if err != nil {
				t.Fatal(err)
			}
			home := clientstest.NewHome(t, reg)
			asked := 0
			for _, job := range slices.Sorted(maps.Keys(jobs)) {
				context := contexts(t, config)[job]
				s.checkout(t, jobs[job], context, source, reg, home)
				asks := strings.Contains(fmt.Sprint(jobs[job]), "cfa exec") || strings.Contains(fmt.Sprint(jobs[job]), "cfa request") || strings.Contains(fmt.Sprint(jobs[job]), "cfa approve")
				if !asks {
					if code := s.play(jobs[job]); code != 0 {
						t.Errorf("job %s ended with %d\n%s", job, code, &s.log)
					}
					continue
				}
				asked++
				if context == "" {
					t.Errorf("job %s has no context, which the relay's rule holds it to", job)
				}
				s.answered(t, jobs[job], two, approval)
			}
			if asked != 1 {
				t.Errorf("%d jobs asked somebody", asked)
			}
			switch {
			case strings.Contains(text, "sign.sh"):
				if got := read(t, filepath.Join(s.dir, "dist", "installer.bin.sig")); !strings.HasPrefix(got, digestOf(testCode)) {
					t.Errorf("not signed with the PIN: %s", got)
				}
			case strings.Contains(text, "gem push"):
				if _, there := reg.Pushed("rocket", "1.2.3"); !there {
					t.Errorf("not pushed; the registry saw %v", reg.Journal())
				}
			default:
				if _, there := reg.Published("rocket", "1.2.3"); !there {
					t.Errorf("not published; the registry saw %v", reg.Journal())
				}
				for _, q := range reg.Journal() {
					if q.Known && q.Trusted != approval {
						t.Errorf("%v came by an ID token: %v", q, q.Trusted)
					}
				}
			}
			if strings.Contains(text, "store_artifacts") {
				kept := node(t, stored(t, config), "path").(string)
				if _, err := os.Stat(filepath.Join(s.dir, kept)); err != nil {
					t.Errorf("what is to be kept is not there: %v", err)
				}
			}
			s.clean()
			if t.Failed() {
				t.Logf("the job:\n%s", &s.log)
			}
		})
	}
}

// stored are the arguments of the step store_artifacts.
func stored(t *testing.T, config map[string]any) map[string]any {
	t.Helper()
	for _, j := range config["jobs"].(map[string]any) {
		for _, step := range node(t, j, "steps").([]any) {
			if m, ok := step.(map[string]any); ok && m["store_artifacts"] != nil {
				return m["store_artifacts"].(map[string]any)
			}
		}
	}
	t.Fatal("store_artifacts is no step of a job")
	return nil
}

// checkout gives a job its folder, and the environment that its image and its context
// make up.
func (s *circleSteps) checkout(t *testing.T, runs []orbtest.Run, context, source string, reg *registrytest.Registry, home *clientstest.Home) {
	t.Helper()
	s.dir = t.TempDir()
	for name, text := range rocketFiles {
		mode := os.FileMode(0o600)
		if strings.HasSuffix(name, ".sh") {
			mode = 0o700
		}
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	var env []string
	for _, v := range s.env {
		if !strings.HasPrefix(v, "PATH=") && !strings.HasPrefix(v, "NPM_TOKEN=") && !strings.HasPrefix(v, "GEM_HOST_API_KEY=") {
			env = append(env, v)
		}
	}
	path := s.bin
	installs := false
	for _, r := range runs {
		if r.Environment["CFA_ORB_VERSION"] != "" {
			r.Environment["CFA_ORB_SOURCE"], installs = source, true
		}
	}
	if !installs { // the image has one, as long as the orb has no release
		path += string(os.PathListSeparator) + filepath.Dir(program(t, "cfa"))
	}
	client := clientstest.NPM11
	if strings.Contains(fmt.Sprint(runs), "gem push") {
		client = clientstest.Gem
	}
	for _, v := range home.Env(client) {
		name, value, _ := strings.Cut(v, "=")
		switch name {
		case "HOME", "GEM_HOST_API_KEY": // the job's own
		case "PATH":
			env = append(env, "PATH="+path+string(os.PathListSeparator)+value)
		default:
			env = append(env, v)
		}
	}
	switch context {
	case "npm-release":
		env = append(env, "NPM_TOKEN="+reg.Token())
	case "rubygems-release":
		env = append(env, "GEM_HOST_API_KEY="+reg.Token())
	}
	s.env = append(env, "SSL_CERT_FILE="+filepath.Join(s.world.dir, "ca.pem"))
}

// answered runs a job while its humans do what it wants of them.
func (s *circleSteps) answered(t *testing.T, runs []orbtest.Run, two, approval bool) {
	t.Helper()
	s.live = newOutput()
	defer func() { s.live = nil }()
	job := &process{t: t, name: "the job", out: s.live, err: newOutput(), done: make(chan struct{})}
	first := s.listen(s.humans[0])
	go func() {
		defer close(job.done)
		job.code = s.play(runs)
	}()
	match := job.waitFor(`match code: +(\S+)`)[1]
	first.waitFor(`#1 your turn`)
	switch {
	case two:
		second := s.listen(s.humans[1])
		fmt.Fprintf(first.in, "1\n%s\n", match)
		second.waitFor(`#1 your turn: type 1, then the code`)
		fmt.Fprintf(second.in, "1\n%s\n", testCode)
	case approval:
		fmt.Fprintf(first.in, "1\n%s\n", match)
	default:
		fmt.Fprintf(first.in, "1\n%s\n", testCode)
	}
	if code := job.wait(); code != 0 {
		t.Fatalf("the job ended with %d\n%s", code, s.live)
	}
}
