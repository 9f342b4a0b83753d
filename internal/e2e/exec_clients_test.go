//go:build clients

package e2e

// cfa exec around the real package managers, against a registry that demands a
// second factor, through the real relay and a real responder.

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/e2e/clientstest"
	"github.com/continuousauth/action/internal/e2e/registrytest"
)

// shop is a world whose human gives codes one after the other, and a registry.
type shop struct {
	*world
	reg  *registrytest.Registry
	home *clientstest.Home
	desk *process
}

// newShop starts one. Each prompt is answered with the next of codes; the last one
// stands for all that follow.
func newShop(t *testing.T, c registrytest.Config, codes ...string) *shop {
	t.Helper()
	s := &shop{world: newWorld(t), reg: registrytest.Start(c)}
	t.Cleanup(s.reg.Close)
	s.home = clientstest.NewHome(t, s.reg)
	if len(codes) > 0 {
		s.desk = s.gives(codes...)
	}
	return s
}

// exec runs cfa exec with a client's command in a folder.
func (s *shop) exec(c clientstest.Client, dir string, flags []string, argv ...string) ended {
	s.t.Helper()
	// The client's environment and the CI job's.
	like := s.home.Command(c, dir, s.issuer.GitHubEnv("release"), argv...)
	return s.world.exec(dir, like.Env, flags, argv...)
}

// there says whether a version is at the registry, npm's or RubyGems'.
func (s *shop) there(name, version string) bool {
	_, npm := s.reg.Published(name, version)
	_, gem := s.reg.Pushed(name, version)
	return npm || gem
}

func (s *shop) wantPublished(name, version string) {
	s.t.Helper()
	if !s.there(name, version) {
		s.t.Errorf("%s %s is not published; the registry saw %v", name, version, s.reg.Journal())
	}
}

var npms = []clientstest.Client{clientstest.NPM10, clientstest.NPM11, clientstest.NPM12}

func TestNPMPublishesWithACodeThatIsAskedForWhenItIsWanted(t *testing.T) {
	for _, c := range npms {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, "246810")
			dir := s.home.Package("left-pad-"+string(c), "1.0.0")
			e := s.exec(c, dir, nil, "npm", "publish")
			if n, _ := e.asks(); e.code != 0 || n != 1 {
				t.Errorf("exit code %d, %d requests", e.code, n)
			}
			s.wantPublished("left-pad-"+string(c), "1.0.0")
			if !strings.Contains(e.out, "+ left-pad-"+string(c)+"@1.0.0") {
				t.Error("npm's own words are not passed on")
			}
			e.wantNoCode(t, "246810")
		})
	}
}

// The tool runs once to show what it wants, a human is asked, it runs with that.
func TestGemPushesWithACodeThatIsAskedForWhenItIsWanted(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, "246810")
	dir, argv := s.project(clientstest.Gem, "asked")
	e := s.exec(clientstest.Gem, dir, nil, argv...)
	if n, attempts := e.asks(); e.code != 0 || n != 1 || attempts != 1 {
		t.Errorf("exit code %d, %d requests, %d attempts", e.code, n, attempts)
	}
	s.wantPublished("asked", "1.0.0")
	if !strings.Contains(e.out, "Successfully registered gem: asked (1.0.0)") {
		t.Error("gem's own words are not passed on")
	}
	e.wantNoCode(t, "246810")
}

func TestARegistryThatWantsNoFactorAsksNobody(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{}) // nobody is on call
	e := s.exec(clientstest.NPM11, s.home.Package("free", "1.0.0"), nil, "npm", "publish")
	if n, _ := e.asks(); e.code != 0 || n != 0 {
		t.Errorf("exit code %d, %d requests", e.code, n)
	}
	s.wantPublished("free", "1.0.0")
}

func TestARefusedCodeIsAskedAgain(t *testing.T) {
	for _, c := range []clientstest.Client{clientstest.NPM10, clientstest.NPM12, clientstest.PNPM11, clientstest.PNPM12, clientstest.Yarn1, clientstest.Yarn4, clientstest.Changesets, clientstest.Gem} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, "111111", "246810")
			name := "again-" + string(c)
			dir, argv := s.project(c, name)
			e := s.exec(c, dir, nil, argv...)
			if n, attempts := e.asks(); e.code != 0 || n != 1 || attempts != 2 {
				t.Errorf("exit code %d, %d requests, %d attempts", e.code, n, attempts)
			}
			s.wantPublished(name, "1.0.0")
			e.wantNoCode(t, "111111", "246810")
		})
	}
}

// project makes one for a client, and gives the command that publishes it.
func (s *shop) project(c clientstest.Client, name string) (dir string, argv []string) {
	s.t.Helper()
	switch c {
	case clientstest.PNPM11, clientstest.PNPM12:
		return s.home.Package(name, "1.0.0"), []string{"pnpm", "publish", "--no-git-checks"}
	case clientstest.Yarn1:
		return s.home.Package(name, "1.0.0"), []string{"yarn", "publish", "--new-version", "1.0.0"}
	case clientstest.Yarn4:
		return s.yarn(name), []string{"yarn", "npm", "publish"}
	case clientstest.Changesets:
		return s.monorepo(name), []string{"changeset", "publish"}
	case clientstest.Lerna:
		return s.monorepo(name), []string{"lerna", "publish", "from-package", "--yes"}
	case clientstest.SemanticRelease:
		return s.home.Released(name), []string{"semantic-release", "--no-ci"}
	case clientstest.Gem:
		return s.home.GemPackage(name), []string{"gem", "push", "it.gem"}
	}
	return s.home.Package(name, "1.0.0"), []string{"npm", "publish"}
}

// yarn makes a project of yarn 4's, which must be installed to be published.
func (s *shop) yarn(name string) string {
	s.t.Helper()
	dir := s.home.Package(name, "1.0.0")
	if err := os.WriteFile(filepath.Join(dir, "yarn.lock"), nil, 0o600); err != nil {
		s.t.Fatal(err)
	}
	if got := s.home.Run(clientstest.Yarn4, dir, nil, "yarn", "install"); got.Code != 0 {
		s.t.Fatalf("yarn install: %+v", got)
	}
	return dir
}

// monorepo makes one with a single package, for lerna and changesets.
func (s *shop) monorepo(name string) string {
	s.t.Helper()
	root := filepath.Dir(s.home.Write("repo/package.json", `{"name":"root","private":true,"version":"0.0.0","workspaces":["packages/*"]}`))
	s.home.Write("repo/packages/"+name+"/package.json", `{"name":"`+name+`","version":"1.0.0","license":"MIT"}`)
	s.home.Write("repo/lerna.json", `{"version":"1.0.0","npmClient":"npm"}`)
	s.home.Write("repo/.changeset/config.json", `{"changelog":false,"commit":false,"access":"public","baseBranch":"main"}`)
	s.home.Write("repo/package-lock.json", `{"name":"root","lockfileVersion":3,"packages":{}}`)
	s.home.Write("repo/.gitignore", "node_modules\n.nx\n")
	s.home.Git(root, "init", "-q")
	s.home.Git(root, "add", "-A")
	s.home.Git(root, "commit", "-qm", "feat: first")
	return root
}

func TestTooManyRefusedCodesEndWithTheToolsOwnFailure(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, "111111", "222222", "333333", "444444")
	e := s.exec(clientstest.NPM11, s.home.Package("never", "1.0.0"), nil, "npm", "publish")
	if _, attempts := e.asks(); e.code != 1 || attempts != 3 || !strings.Contains(e.err, "npm has refused 3 codes: giving up") {
		t.Errorf("exit code %d, %d attempts", e.code, attempts)
	}
	if _, there := s.reg.Published("never", "1.0.0"); there {
		t.Error("published")
	}
}

// Packing first: the project's scripts run once, though the publish runs three
// times, and none of them sees a code.
func TestScriptsRunOnceAndSeeNoCode(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, "111111", "246810")
	dir := s.home.Package("scripted", "1.0.0")
	script := `node -e "require('fs').appendFileSync('scripts.log', process.env.npm_lifecycle_event+' '+(process.env.NPM_CONFIG_OTP||process.env.npm_config_otp||'none')+'\\n')"`
	manifest := fmt.Sprintf(`{"name":"scripted","version":"1.0.0","scripts":{"prepublishOnly":%[1]q,"prepack":%[1]q,"prepare":%[1]q,"postpack":%[1]q,"publish":%[1]q,"postpublish":%[1]q},"files":["index.js"]}`, script)
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(manifest), 0o600); err != nil {
		t.Fatal(err)
	}
	e := s.exec(clientstest.NPM11, dir, nil, "npm", "publish")
	if e.code != 0 {
		t.Fatalf("exit code %d", e.code)
	}
	s.wantPublished("scripted", "1.0.0")
	ran, err := os.ReadFile(filepath.Join(dir, "scripts.log"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(ran), "prepublishOnly none\nprepack none\nprepare none\npostpack none\npublish none\npostpublish none\n"; got != want {
		t.Errorf("scripts ran as\n%s\nwant\n%s", got, want)
	}
}

// Without packing, the scripts run at each publish: one shows that a factor is
// wanted, one takes it. An older npm runs once more, to show which.
func TestScriptsOfAPublishThatIsNotPackedRunAsOftenAsItTakes(t *testing.T) {
	for c, want := range map[clientstest.Client]int{clientstest.NPM10: 3, clientstest.NPM12: 2} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, "246810")
			dir := s.home.Package("unpacked", "1.0.0")
			const manifest = `{"name":"unpacked","version":"1.0.0","scripts":{"prepublishOnly":"node -e \"require('fs').appendFileSync('scripts.log','x')\""},"files":["index.js"]}`
			if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(manifest), 0o600); err != nil {
				t.Fatal(err)
			}
			e := s.exec(c, dir, []string{"--no-pack"}, "npm", "publish")
			ran, err := os.ReadFile(filepath.Join(dir, "scripts.log"))
			if n, attempts := e.asks(); e.code != 0 || n != 1 || attempts != 1 || err != nil || len(ran) != want {
				t.Errorf("exit code %d, %d requests, %d attempts, scripts ran as %q, %v", e.code, n, attempts, ran, err)
			}
			s.wantPublished("unpacked", "1.0.0")
		})
	}
}

func TestManyPackagesTakeOneCodeWhileItLives(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, "246810")
	e := s.exec(clientstest.NPM11, s.workspaces("a", "b", "c"), nil, "npm", "publish", "--workspaces")
	if n, attempts := e.asks(); e.code != 0 || n != 1 || attempts != 1 {
		t.Errorf("exit code %d, %d requests, %d attempts", e.code, n, attempts)
	}
	for _, name := range []string{"a", "b", "c"} {
		s.wantPublished("ws-"+name, "1.0.0")
	}
}

func TestManyPackagesTakeTheNextCodeWhenOneIsUsedUp(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810", "135790", "112358"}, Uses: 1}, "246810", "135790", "112358")
	e := s.exec(clientstest.NPM11, s.workspaces("a", "b", "c"), nil, "npm", "publish", "--workspaces")
	if n, attempts := e.asks(); e.code != 0 || n != 1 || attempts != 3 {
		t.Errorf("exit code %d, %d requests, %d attempts", e.code, n, attempts)
	}
	for _, name := range []string{"a", "b", "c"} {
		s.wantPublished("ws-"+name, "1.0.0")
	}
	if !strings.Contains(e.err, "one more answer is needed") {
		t.Error("the humans were told of a refusal, which it was not")
	}
}

func TestACodeThatDiesBetweenTwoPackagesIsFollowedByTheNext(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, "246810", "135790")
	died := make(chan struct{})
	go func() {
		defer close(died)
		if _, err := s.reg.Wait(t.Context(), func([]registrytest.Request) bool { return s.there("ws-a", "1.0.0") }); err == nil {
			s.reg.ExpireCodes()
			s.reg.AddCode("135790")
		}
	}()
	e := s.exec(clientstest.NPM11, s.workspaces("a", "b"), nil, "npm", "publish", "--workspaces")
	<-died
	if n, attempts := e.asks(); e.code != 0 || n != 1 || attempts != 2 || !strings.Contains(e.err, "one more answer is needed") {
		t.Errorf("exit code %d, %d requests, %d attempts", e.code, n, attempts)
	}
	for name, code := range map[string]string{"ws-a": "246810", "ws-b": "135790"} {
		s.wantPublished(name, "1.0.0")
		if puts := s.reg.Puts(name); puts[len(puts)-1].OTP != s.reg.Mark(code) {
			t.Errorf("%s: %v, want the code %s", name, puts, s.reg.Mark(code))
		}
	}
	e.wantNoCode(t, "246810", "135790")
}

// The second of three fails for something that no code mends: that is how it ends,
// the first stays published, and the third is not begun.
func TestAFailureInTheMiddleOfManyPackagesStands(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, "246810", "135790")
	root := s.workspaces("a", "b", "c")
	// Nobody is signed in there, which npm knows before it asks anybody.
	s.home.Write("mono/packages/b/package.json", `{"name":"ws-b","version":"1.0.0","license":"MIT","publishConfig":{"registry":"http://127.0.0.1:9/"}}`)
	e := s.exec(clientstest.NPM11, root, nil, "npm", "publish", "--workspaces")
	if n, attempts := e.asks(); e.code != 1 || n != 1 || attempts != 1 || !strings.Contains(e.err, "npm error code ENEEDAUTH") {
		t.Errorf("exit code %d, %d requests, %d attempts", e.code, n, attempts)
	}
	s.wantPublished("ws-a", "1.0.0")
	if s.there("ws-b", "1.0.0") || s.there("ws-c", "1.0.0") {
		t.Error("more than the first is published")
	}
}

// A tool that is told to show nothing shows nothing to go by: it fails as it would
// have, and nobody is asked.
func TestANPMThatIsSilentAsksNobody(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, "246810")
	e := s.exec(clientstest.NPM11, s.home.Package("silent", "1.0.0"), nil, "npm", "publish", "--loglevel", "silent")
	if n, _ := e.asks(); e.code != 1 || n != 0 || s.there("silent", "1.0.0") {
		t.Errorf("exit code %d, %d requests", e.code, n)
	}
	if len(s.reg.Puts("silent")) != 1 {
		t.Error("it was run again")
	}
}

// workspaces makes a monorepo of npm's.
func (s *shop) workspaces(names ...string) string {
	s.t.Helper()
	root := filepath.Dir(s.home.Write("mono/package.json", `{"name":"mono","version":"0.0.0","private":true,"workspaces":["packages/*"]}`))
	for _, n := range names {
		s.home.Write("mono/packages/"+n+"/package.json", `{"name":"ws-`+n+`","version":"1.0.0","license":"MIT","main":"index.js"}`)
		s.home.Write("mono/packages/"+n+"/index.js", "")
	}
	s.home.Write("mono/packages/secret/package.json", `{"name":"ws-secret","version":"1.0.0","private":true}`)
	return root
}

func TestARateLimitIsWaitedForAndIsNoRefusal(t *testing.T) {
	for c, limit := range map[clientstest.Client]int{
		// As many as it tries by itself, once.
		clientstest.NPM11: 3, clientstest.PNPM11: 3, clientstest.PNPM12: 1, clientstest.Yarn4: 1, clientstest.Changesets: 3, clientstest.Gem: 1,
	} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, "246810")
			name := "limited-" + string(c)
			dir, argv := s.project(c, name)
			s.reg.RateLimit(limit, 1)
			e := s.exec(c, dir, nil, argv...)
			if n, attempts := e.asks(); e.code != 0 || n != 1 || attempts != 1 || !strings.Contains(e.err, "no word on the code: waiting") {
				t.Errorf("exit code %d, %d requests, %d attempts", e.code, n, attempts)
			}
			s.wantPublished(name, "1.0.0")
		})
	}
}

// yarn asks for its code before it sends anything, so that the limit comes after it:
// the same code is typed again.
func TestARateLimitAfterACodeWasTypedCostsNoSecondCode(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, "246810", "135790")
	dir, argv := s.project(clientstest.Yarn4, "typed")
	limited := make(chan struct{})
	go func() { // when the first publish, without a code, was answered
		defer close(limited)
		if _, err := s.reg.Wait(t.Context(), func([]registrytest.Request) bool { return len(s.reg.Puts("typed")) > 0 }); err == nil {
			s.reg.RateLimit(1, 1)
		}
	}()
	e := s.exec(clientstest.Yarn4, dir, nil, argv...)
	<-limited
	if n, attempts := e.asks(); e.code != 0 || n != 1 || attempts != 1 || !strings.Contains(e.err, "no word on the code: waiting") {
		t.Errorf("exit code %d, %d requests, %d attempts", e.code, n, attempts)
	}
	s.wantPublished("typed", "1.0.0")
	e.wantNoCode(t, "246810")
}

func TestAPublishWhoseAnswerWasLostIsASuccess(t *testing.T) {
	for _, c := range clientsOfLinks {
		for _, way := range []struct {
			by   registrytest.Factor
			lost registrytest.Lost
		}{{registrytest.Code, registrytest.Lost500}, {registrytest.Code, registrytest.LostConn}, {registrytest.Link, registrytest.Lost500}} {
			t.Run(fmt.Sprint(c, " ", way.by, " ", way.lost), func(t *testing.T) {
				t.Parallel()
				s := newShop(t, registrytest.Config{Factor: way.by, Codes: []string{"246810"}, RetryAfter: 1})
				if way.by == registrytest.Code {
					s.gives("246810")
				} else {
					s.follower(s.reg, 1)
				}
				s.reg.Lose(way.lost)
				dir, argv := s.project(c, "lost")
				e := s.exec(c, dir, nil, argv...)
				if e.code != 0 || !strings.Contains(e.err, "with the same bytes: it was published") {
					t.Errorf("exit code %d", e.code)
				}
				s.wantPublished("lost", "1.0.0")
			})
		}
	}
}

// A scope's registry, of the user's or the package's own, counts for more than the
// one that an option or the package names, and not in every tool alike.
func TestAVersionIsLookedForWhereItWasPublished(t *testing.T) {
	for _, c := range []clientstest.Client{clientstest.NPM12, clientstest.PNPM11, clientstest.PNPM12} {
		// Where each says so: here is the shop's registry, there another.
		for name, w := range map[string]struct{ user, scope, config, option string }{
			"by the package's scope":        {user: "there", scope: "here", config: "there"},
			"by the user's scope":           {user: "here", option: "there"},
			"by the package, or that scope": {user: "there", config: "here"}, // pnpm, npm
		} {
			t.Run(fmt.Sprint(c, " ", name), func(t *testing.T) {
				t.Parallel()
				s := newShop(t, registrytest.Config{})
				other := registrytest.Start(registrytest.Config{})
				t.Cleanup(other.Close)
				both := map[string]*registrytest.Registry{"here": s.reg, "there": other}
				config, flags := map[string]any{"access": "public"}, []string{}
				rc := "fetch-retry-mintimeout=50\nfetch-retry-maxtimeout=100\n"
				for _, r := range both {
					rc += "//" + r.Host() + "/:_authToken=" + r.Token() + "\n"
					r.Lose(registrytest.Lost500)
				}
				if r := both[w.user]; r != nil {
					rc += "@scoped:registry=" + r.URL() + "/\n"
				}
				if r := both[w.scope]; r != nil {
					config["@scoped:registry"] = r.URL() + "/"
				}
				if r := both[w.config]; r != nil {
					config["registry"] = r.URL() + "/"
				}
				if r := both[w.option]; r != nil {
					flags = append(flags, "--registry="+r.URL()+"/")
				}
				s.home.Write(".npmrc", rc)
				argv := []string{"npm", "publish"}
				if c == clientstest.PNPM11 || c == clientstest.PNPM12 {
					argv = []string{"pnpm", "publish", "--no-git-checks"}
				}
				dir := s.home.Package("@scoped/x", "1.0.0")
				manifest, err := json.Marshal(map[string]any{"name": "@scoped/x", "version": "1.0.0", "publishConfig": config})
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, "package.json"), manifest, 0o600); err != nil {
					t.Fatal(err)
				}
				// The machine's own registry is a third one, where nobody is.
				like := s.home.Command(c, dir, append(s.issuer.GitHubEnv("release"), "npm_config_registry=http://127.0.0.1:9/"), argv...)
				e := s.world.exec(dir, like.Env, nil, append(argv, flags...)...)
				if e.code != 0 || !strings.Contains(e.err, "with the same bytes: it was published") {
					t.Errorf("exit code %d", e.code)
				}
				// (npm tries again by itself, where it has been published by then.)
				here, there := len(s.reg.Puts("@scoped/x")) > 0, len(other.Puts("@scoped/x")) > 0
				if here == there || here != (w.config != "here" || c != clientstest.NPM12) {
					t.Errorf("it was published here: %v, there: %v", here, there)
				}
			})
		}
	}
}

// Where the bytes are not known that the tool sent, nobody looks them up: what the
// tool itself makes of a lost answer stands, and no second factor is asked for.
func TestALostAnswerIsWhatTheToolSaysWhereNothingWasPacked(t *testing.T) {
	for c, want := range map[clientstest.Client]int{
		clientstest.Yarn1: 1, clientstest.Yarn4: 1, clientstest.Gem: 1,
		clientstest.Changesets: 0, // takes what is there for published
	} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, "246810")
			s.reg.Lose(registrytest.Lost500)
			name := "gone-" + string(c)
			dir, argv := s.project(c, name)
			e := s.exec(c, dir, nil, argv...)
			if n, attempts := e.asks(); e.code != want || n != 1 || attempts != 1 {
				t.Errorf("exit code %d, %d requests, %d attempts", e.code, n, attempts)
			}
			s.wantPublished(name, "1.0.0")
		})
	}
}

func TestAVersionWithOtherBytesIsAFailureThatSaysSo(t *testing.T) {
	for _, c := range npms {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, "246810")
			s.reg.Publish("taken", "1.0.0", []byte("somebody else's"))
			e := s.exec(c, s.home.Package("taken", "1.0.0"), nil, "npm", "publish")
			if e.code != 1 || !strings.Contains(e.err, "with OTHER bytes than these") {
				t.Errorf("exit code %d", e.code)
			}
		})
	}
}

func TestAFailureThatNoCodeMendsAsksNobody(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, "246810")
	s.reg.Forbid("Two-factor authentication or granular access token with bypass 2fa enabled is required to publish packages.")
	e := s.exec(clientstest.NPM12, s.home.Package("forbidden", "1.0.0"), nil, "npm", "publish")
	if n, _ := e.asks(); e.code != 1 || n != 0 {
		t.Errorf("exit code %d, %d requests", e.code, n)
	}
}

// lerna and semantic-release must not be run twice: a human is asked before, once. A
// second run of semantic-release, with the right code, would end well with nothing
// published (clientstest shows it).
func TestWhatMustNotRunTwiceIsAskedForBefore(t *testing.T) {
	for _, c := range []clientstest.Client{clientstest.Lerna, clientstest.SemanticRelease} {
		for _, right := range []bool{true, false} {
			t.Run(fmt.Sprint(c, " right ", right), func(t *testing.T) {
				t.Parallel()
				code := map[bool]string{true: "246810", false: "111111"}[right]
				// The next one would be right: it must not be asked for.
				s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}}, code, "246810")
				dir, argv := s.project(c, "once")
				e := s.exec(c, dir, nil, argv...)
				there := s.there("once", "1.0.0")
				if n, attempts := e.asks(); n != 1 || attempts != 1 || (e.code == 0) != right || there != right {
					t.Errorf("exit code %d, %d requests, %d attempts, published: %v", e.code, n, attempts, there)
				}
				if puts := s.reg.Puts("once"); len(puts) != 1 || puts[0].OTP != s.reg.Mark(code) {
					t.Errorf("published as %v", puts)
				}
				if !right && !strings.Contains(e.err, "is not run again by itself") {
					t.Error("nothing says why")
				}
				e.wantNoCode(t, code)
			})
		}
	}
}

func TestADeclineIsNoPublish(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{"246810"}})
	desk := s.listen(s.humans[0])
	type result struct{ e ended }
	done := make(chan result, 1)
	go func() {
		done <- result{s.exec(clientstest.NPM11, s.home.Package("declined", "1.0.0"), nil, "npm", "publish")}
	}()
	desk.waitFor(`#1 your turn`)
	if _, err := desk.in.WriteString("d1 not today\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case r := <-done:
		if r.e.code != 80 || !strings.Contains(r.e.err, "not today") {
			t.Errorf("exit code %d", r.e.code)
		}
	case <-time.After(within):
		t.Fatal("the job did not end")
	}
	if _, there := s.reg.Published("declined", "1.0.0"); there {
		t.Error("published")
	}
}

// The main way on npm: a link to a passkey, in each generation of npm and in pnpm.
func TestALinkIsFollowedAndTheCommandGoesOn(t *testing.T) {
	for _, c := range clientsOfLinks {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			s := newShop(t, registrytest.Config{Factor: registrytest.Link, RetryAfter: 1})
			s.follower(s.reg, 1)
			name := "linked-" + string(c)
			dir, argv := s.project(c, name)
			e := s.exec(c, dir, nil, argv...)
			if n, _ := e.asks(); e.code != 0 || n != 1 || !strings.Contains(e.err, "the link was followed") {
				t.Errorf("exit code %d, %d requests", e.code, n)
			}
			s.wantPublished(name, "1.0.0")
			for _, q := range s.reg.Journal() {
				if strings.Contains(q.Path, "/done") && strings.Contains(e.out+e.err, q.Path) {
					t.Errorf("the address to ask whether the link was followed is in the log: %s", q.Path)
				}
			}
		})
	}
}

// clientsOfLinks are those that have a human follow one.
var clientsOfLinks = []clientstest.Client{clientstest.NPM10, clientstest.NPM11, clientstest.NPM12, clientstest.PNPM11, clientstest.PNPM12}

// A link was followed, and what came of it is refused: the human is told so and asked
// for the next one.
func TestALinkWhoseTokenIsRefusedIsAskedForAgain(t *testing.T) {
	for _, c := range clientsOfLinks {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			s := newShop(t, registrytest.Config{Factor: registrytest.Link, RetryAfter: 1, Spoiled: 1})
			s.follower(s.reg, 2)
			name := "refused-" + string(c)
			dir, argv := s.project(c, name)
			e := s.exec(c, dir, nil, argv...)
			if n, _ := e.asks(); e.code != 0 || n != 2 || !strings.Contains(e.err, "refused what came of the link: asking for another (1 of 2)") {
				t.Errorf("exit code %d, %d requests", e.code, n)
			}
			s.wantPublished(name, "1.0.0")
		})
	}
}

// Too many tries, before a link is wanted and after it was followed: it is waited for,
// and nobody is asked once more. But an older npm, which waits for its link by itself,
// takes what came of it to its grave.
func TestARateLimitByLinkIsWaitedForAndIsNoRefusal(t *testing.T) {
	for _, c := range clientsOfLinks {
		for _, before := range []bool{true, false} {
			if before && c != clientstest.NPM12 && c != clientstest.PNPM12 {
				continue // as by code, which is tried with each
			}
			t.Run(fmt.Sprint(c, " before ", before), func(t *testing.T) {
				t.Parallel()
				s := newShop(t, registrytest.Config{Factor: registrytest.Link, RetryAfter: 1})
				tries := map[clientstest.Client]int{clientstest.PNPM12: 1}[c]
				if tries == 0 {
					tries = 3 // as many as it makes by itself
				}
				limit, follow := sync.OnceFunc(func() { s.reg.RateLimit(tries, 1) }), 1
				if before {
					limit()
				} else if c == clientstest.NPM10 {
					follow = 2
				}
				s.follower(s.reg, follow, limit)
				name := "limited-" + string(c)
				dir, argv := s.project(c, name)
				e := s.exec(c, dir, nil, argv...)
				if n, _ := e.asks(); e.code != 0 || n != follow || !strings.Contains(e.err, "no word on the code: waiting") || strings.Contains(e.err, "refused") {
					t.Errorf("exit code %d, %d requests", e.code, n)
				}
				s.wantPublished(name, "1.0.0")
			})
		}
	}
}

func TestManyPackagesByLink(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{Factor: registrytest.Link, RetryAfter: 1, Uses: 1})
	s.follower(s.reg, 2)
	e := s.exec(clientstest.NPM12, s.workspaces("a", "b"), nil, "npm", "publish", "--workspaces")
	if n, _ := e.asks(); e.code != 0 || n != 2 {
		t.Errorf("exit code %d, %d requests", e.code, n)
	}
	s.wantPublished("ws-a", "1.0.0")
	s.wantPublished("ws-b", "1.0.0")
}

// A link that nobody followed dies; the prompt stays, and who opens it again gets a
// new one.
func TestALinkThatDiedIsMadeAnew(t *testing.T) {
	for _, c := range []clientstest.Client{clientstest.NPM10, clientstest.NPM12, clientstest.PNPM12} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			s := newShop(t, registrytest.Config{Factor: registrytest.Link, RetryAfter: 1})
			s.allowLinks(s.reg)
			dir, argv := s.project(c, "late")
			desk := s.listen(s.humans[0])
			like := s.home.Command(c, dir, s.issuer.GitHubEnv("release"), argv...)
			job := startIn(t, dir, like.Env, "cfa", slices.Concat([]string{"exec", "--project", project}, s.flags, []string{"--"}, argv)...)
			first := desk.waitFor(`(?m)^#1 link: (\S+)$`)[1]
			s.reg.ExpireLinks()
			job.waitFor(`whoever opens the prompt again gets a new one`)
			if _, err := desk.in.WriteString("v1\n"); err != nil {
				t.Fatal(err)
			}
			second := desk.waitFor(`(?m)^#1 new link: (\S+)$`)[1]
			if first == second {
				t.Error("the dead link is shown again")
			}
			if err := s.reg.Visit(second); err != nil {
				t.Fatal(err)
			}
			if code := job.wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			s.wantPublished("late", "1.0.0")
		})
	}
}

// The AWS CLI itself, where this machine has it, against a server that answers as STS
// does: how it reads the code is what no document says.
func TestTheAWSCLITakesItsCode(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("aws"); err != nil {
		t.Skip("the AWS CLI is not installed, and no package of it is pinned here; the stand-in takes its place in `make test`")
	}
	for name, code := range map[string]string{"right": "226688", "wrong": "226687"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newToolbox(t)
			if err := os.Remove(filepath.Join(b.bin, "aws")); err != nil {
				t.Fatal(err)
			}
			sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.PostFormValue("TokenCode") == "226688" && r.PostFormValue("SerialNumber") == awsSerial && r.PostFormValue("DurationSeconds") == "900" {
					fmt.Fprintf(w, `<GetSessionTokenResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetSessionTokenResult><Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>%s</SessionToken><Expiration>2026-12-25T00:00:00Z</Expiration></Credentials></GetSessionTokenResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetSessionTokenResponse>`, awsKey, awsSecret, awsToken)
					return
				}
				w.WriteHeader(http.StatusForbidden)
				fmt.Fprint(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>AccessDenied</Code><Message>MultiFactorAuthentication failed with invalid MFA one time pass code. </Message></Error><RequestId>1</RequestId></ErrorResponse>`)
			}))
			t.Cleanup(sts.Close)
			b.env = append(b.env, "AWS_MFA_SERIAL="+awsSerial, "AWS_MFA_DURATION=900", "AWS_ENDPOINT_URL_STS="+sts.URL, "AWS_ENDPOINT_URL="+sts.URL,
				"AWS_DEFAULT_REGION=us-east-1", "AWS_ACCESS_KEY_ID=AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY=of-the-first-factor")
			b.gives(code)
			e := b.exec([]string{"--service", "aws"}, "deploy", "all")
			runs := b.runs()
			if name == "wrong" {
				if e.code == 0 || len(runs) != 0 || !strings.Contains(e.err, "AWS refused the code") {
					t.Errorf("exit code %d, runs %+v", e.code, runs)
				}
			} else if e.code != 7 || len(runs) != 1 || !slices.Contains(runs[0].Vars, "AWS_SECRET_ACCESS_KEY="+awsSecret) || !slices.Contains(runs[0].Vars, "AWS_SESSION_TOKEN="+awsToken) {
				t.Errorf("exit code %d, runs %+v", e.code, runs)
			}
			e.wantNoCode(t, code)
		})
	}
}

// A package that is not to be published fails as npm has it fail, and nothing is
// run as if it had been.
func TestAPrivatePackageFailsAsByNPM(t *testing.T) {
	t.Parallel()
	s := newShop(t, registrytest.Config{})
	dir := s.home.Package("private", "1.0.0")
	if err := os.WriteFile(filepath.Join(dir, "package.json"), []byte(`{"name":"private","version":"1.0.0","private":true,"scripts":{"postpublish":"echo done > postpublish.log"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	e := s.exec(clientstest.NPM11, dir, nil, "npm", "publish")
	if e.code != 1 || !strings.Contains(e.err, "EPRIVATE") {
		t.Errorf("exit code %d", e.code)
	}
	if _, err := os.Stat(filepath.Join(dir, "postpublish.log")); err == nil {
		t.Error("postpublish was run")
	}
}
