package e2e

// A CI that cannot name the job's key in its tokens: GitLab, through the real
// programs. Each of the three that must agree can keep it out (the relay's rule,
// the human's pin, the match code that the human types), and a token that was
// seen works for nobody else.

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/wire"
)

// gitlab is a world whose CI is GitLab.
type gitlab struct {
	*world
	ana *person
}

func newGitLab(t *testing.T) *gitlab {
	t.Helper()
	w := &world{t: t, dir: t.TempDir()}
	issuer, err := devissuer.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(issuer.Close)
	w.issuer = issuer
	w.claims = devissuer.Claims("gitlab", nil)
	p := &person{name: "Ana", dir: filepath.Join(w.dir, "home-Ana")}
	p.keys, p.pins = filepath.Join(p.dir, "responder.key"), filepath.Join(p.dir, "pins.yaml")
	k := run(t, nil, "cfa-responder", "keygen", "--key-file", p.keys, "--name", p.name)
	if k.code != 0 {
		t.Fatal("keygen failed")
	}
	p.connect, p.sign = k.waitFor(`\bU[A-Z2-7]{55}\b`)[0], k.waitFor(`\bA[A-Z2-7]{55}\b`)[0]
	w.humans = append(w.humans, p)
	w.config = filepath.Join(w.dir, "cfa.yaml")
	return &gitlab{world: w, ana: p}
}

// rules writes the relay's file; allow is what its rule allows.
func (g *gitlab) rules(allow string) {
	g.t.Helper()
	text := fmt.Sprintf(`host: localhost
data: data
listen: {nats: "127.0.0.1:0"}
issuers:
  - {name: our-gitlab, provider: gitlab, url: %q}
projects:
  %s:
    ci:
      - provider: our-gitlab
        project_id: %q
        namespace_id: %q
        ref: {pattern: 'v[0-9]+\.[0-9]+\.[0-9]+'}
%s    responders:
      - {name: Ana, connect: %s, sign: %s}
`, g.issuer.URL(), project, g.claim("project_id"), g.claim("namespace_id"), allow, g.ana.connect, g.ana.sign)
	if err := os.WriteFile(g.config, []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// issuerPin names the issuer in Ana's pins.
func (g *gitlab) issuerPin() {
	g.t.Helper()
	if p := run(g.t, nil, "cfa-responder", "pins", "--pins", g.ana.pins, "issuer", "--name", "our-gitlab", "--provider", "gitlab", "--url", g.issuer.URL()); p.code != 0 {
		g.t.Fatal("pins issuer failed")
	}
}

// addPin adds a pin for the project, with more flags.
func (g *gitlab) addPin(more ...string) *process {
	g.t.Helper()
	args := []string{"pins", "--pins", g.ana.pins, "add", project, "--provider", "our-gitlab", "--claim", "project_path=" + g.claim("project_path"),
		"--claim", "project_id=" + g.claim("project_id"), "--claim", "namespace_id=" + g.claim("namespace_id"), "--confirm", g.claim("project_path")}
	return run(g.t, nil, "cfa-responder", append(args, more...)...)
}

// env is the environment of a job that was given that token.
func (g *gitlab) env(over map[string]any) []string {
	g.t.Helper()
	all := map[string]any{"aud": wire.UnboundAudience("localhost")}
	maps.Copy(all, over)
	env, err := g.issuer.GivenEnv("gitlab", devissuer.Claims("gitlab", all))
	if err != nil {
		g.t.Fatal(err)
	}
	return env
}

// ask starts cfa request in a job with that environment.
func (g *gitlab) ask(env []string) *process {
	g.t.Helper()
	return start(g.t, env, "cfa", append([]string{"request", "--project", project, "--service", "npm"}, g.flags...)...)
}

const matchCode = `[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}`

func TestATypedMatchCodeAnswersAJobWhoseTokenNamesNoKey(t *testing.T) {
	t.Parallel()
	g := newGitLab(t)
	g.rules("        allow: [unbound]\n")
	g.issuerPin()
	if p := g.addPin("--allow", "unbound"); p.code != 0 {
		t.Fatal("pins add failed")
	}
	g.startRelay()
	h := g.listen(g.ana)

	// The token is as old as the job, which has built for an hour.
	hourAgo := time.Now().Add(-time.Hour).Unix()
	env := g.env(map[string]any{"iat": hourAgo, "nbf": hourAgo - 5, "exp": hourAgo + 2*3600})
	j := g.ask(env)
	match := j.waitFor(matchCode)[0]
	h.waitFor(regexp.QuoteMeta(g.claim("project_path")) + ` asks for a code`)
	h.waitFor(`#1 your turn: type 1, then the match code`)
	if strings.Contains(h.out.String()+h.err.String(), match) {
		t.Error("the prompt shows the match code that it asks for")
	}

	// A request that somebody else made with the same token has another code.
	wrong := "0" + match[1:]
	if wrong == match {
		wrong = "1" + match[1:]
	}
	if _, err := io.WriteString(h.in, "1\n"+wrong+"\n"); err != nil {
		t.Fatal(err)
	}
	h.waitFor(`not sent: that is not this request's match code`)
	if strings.Contains(h.out.String()+h.err.String(), "sealed") {
		t.Error("something was sealed after a wrong match code")
	}
	if _, err := io.WriteString(h.in, strings.ToLower(match)+"\n"+testCode+"\n"); err != nil {
		t.Fatal(err)
	}
	if code := j.wait(); code != 0 {
		t.Fatalf("cfa ended with %d", code)
	}
	if got := j.out.String(); got != testCode+"\n" {
		t.Errorf("stdout is %q", got)
	}
	if !strings.Contains(j.err.String(), "warning: GitLab CI/CD cannot hide a code in its log") {
		t.Error("the log does not warn that the code cannot be hidden")
	}

	// The same token under another key: what a thief, or the relay's neighbour,
	// would try.
	again := g.ask(env)
	if code := again.wait(); code != 77 {
		t.Fatalf("the same token with another key: cfa ended with %d", code)
	}
	for _, part := range []string{"this ID token was used with another key", "id_tokens"} {
		if !strings.Contains(again.err.String(), part) {
			t.Errorf("the refusal does not say %q: %s", part, again.err)
		}
	}
	// Another token of the same job is another request.
	other := g.ask(g.env(nil))
	second := other.waitFor(matchCode)[0]
	h.waitFor(`#2 your turn`)
	if _, err := io.WriteString(h.in, "2\n"+second+"\n"+testCode+"\n"); err != nil {
		t.Fatal(err)
	}
	if code := other.wait(); code != 0 {
		t.Fatalf("the second token: cfa ended with %d", code)
	}
}

func TestARelayWithoutTheAllowanceTakesNoRuleForUnboundTokens(t *testing.T) {
	t.Parallel()
	g := newGitLab(t)
	g.rules("")
	for _, command := range [][]string{{"check", "--config", g.config}, {"serve", "--config", g.config}} {
		p := run(t, nil, "cfa-relay", command...)
		if p.code != 78 {
			t.Fatalf("cfa-relay %s ended with %d", command[0], p.code)
		}
		for _, part := range []string{"ID tokens of GitLab CI/CD cannot name the job's key", "allow: [unbound]", "line 9"} {
			if !strings.Contains(p.err.String()+p.out.String(), part) {
				t.Errorf("cfa-relay %s does not say %q", command[0], part)
			}
		}
	}
}

func TestAResponderWithoutItsOwnAllowanceShowsAndDoesNotAnswer(t *testing.T) {
	t.Parallel()
	g := newGitLab(t)
	g.rules("        allow: [unbound]\n")
	g.issuerPin()
	// A pin cannot be written without the word...
	if p := g.addPin(); p.code != 64 || !strings.Contains(p.err.String(), "allow: [unbound]") {
		t.Fatalf("a pin without the word: %d", p.code)
	}
	// ...and a responder that has pins, but none with it, takes no such token.
	other := run(t, nil, "cfa-responder", "pins", "--pins", g.ana.pins, "add", project, "--repository", "example/rocket",
		"--repository-id", "1", "--repository-owner-id", "2", "--confirm", "example/rocket")
	if other.code != 0 {
		t.Fatal("pins add failed")
	}
	g.startRelay()
	h := g.listen(g.ana, "--issuer", "our-gitlab:gitlab="+g.issuer.URL())
	j := g.ask(g.env(nil))
	match := j.waitFor(matchCode)[0]
	h.waitFor(`#1 unproven: .*ID tokens of GitLab CI/CD cannot name the job's key, and such tokens are not accepted here`)
	if _, err := io.WriteString(h.in, "1\n"+match+"\n"+testCode+"\n"); err != nil {
		t.Fatal(err)
	}
	// No code is asked for: what was typed is none of its commands.
	h.waitFor(`that is no command`)
	h.waitFor(`no prompt with that number waits`)
	select {
	case <-j.done:
		t.Fatalf("the job ended with %d", j.code)
	default:
	}
	if strings.Contains(h.out.String()+h.err.String(), "sealed") || j.out.String() != "" {
		t.Error("a code went to a job that was not verified")
	}
}

func TestATokenThatTheJobWasGivenForSomethingElseIsNotSent(t *testing.T) {
	t.Parallel()
	g := newGitLab(t)
	g.rules("        allow: [unbound]\n")
	g.startRelay()
	for name, over := range map[string]map[string]any{
		"another relay": {"aud": "cfa:v1:elsewhere"},
		"a cloud's too": {"aud": []any{wire.UnboundAudience("localhost"), "sts.amazonaws.com"}},
		"no longer":     {"exp": time.Now().Add(-time.Hour).Unix()},
	} {
		j := g.ask(g.env(over))
		if code := j.wait(); code != 77 {
			t.Errorf("%s: cfa ended with %d", name, code)
		}
		if strings.Contains(j.err.String(), "connected") || !strings.Contains(j.err.String(), "CFA_ID_TOKEN") {
			t.Errorf("%s: %s", name, j.err)
		}
	}
}

// A CI of GitHub's family, with an issuer and ids of its own: its tokens name the
// key, and nothing needs to be allowed.
func TestAJobOnForgejoGetsItsCodeWithoutAnyAllowance(t *testing.T) {
	t.Parallel()
	g := newGitLab(t)
	claims := devissuer.Claims("forgejo", nil)
	g.issuer.AddJob("release", claims)
	text := fmt.Sprintf(`host: localhost
data: data
listen: {nats: "127.0.0.1:0"}
issuers:
  - {name: forge, provider: forgejo, url: %q}
projects:
  %s:
    ci:
      - {provider: forge, repository_id: %q, repository_owner_id: %q, ref: refs/heads/main}
    responders:
      - {name: Ana, connect: %s, sign: %s}
`, g.issuer.URL(), project, claims["repository_id"], claims["repository_owner_id"], g.ana.connect, g.ana.sign)
	if err := os.WriteFile(g.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"issuer", "--name", "forge", "--provider", "forgejo", "--url", g.issuer.URL()},
		{"add", project, "--provider", "forge", "--repository", "octo/rocket", "--repository-id", "4", "--repository-owner-id", "5", "--confirm", "octo/rocket"},
	} {
		if p := run(t, nil, "cfa-responder", append([]string{"pins", "--pins", g.ana.pins}, args...)...); p.code != 0 {
			t.Fatalf("pins %s failed", args[0])
		}
	}
	g.startRelay()
	g.robot(g.ana)
	outputs := filepath.Join(g.dir, "outputs")
	if err := os.WriteFile(outputs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	j := g.ask(append(g.issuer.GitHubEnv("release"), "FORGEJO_ACTIONS=true", "GITEA_ACTIONS=true", "GITHUB_OUTPUT="+outputs))
	if code := j.wait(); code != 0 {
		t.Fatalf("cfa ended with %d", code)
	}
	if step := read(t, outputs); !regexp.MustCompile(`(?m)^code<<(\S+)\n` + testCode + `\n`).MatchString(step) {
		t.Errorf("the step's outputs: %s", step)
	}
	if !strings.Contains(j.out.String(), "::add-mask::"+testCode+"\n") {
		t.Error("the code was not masked")
	}
}
