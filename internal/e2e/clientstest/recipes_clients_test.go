//go:build clients

package clientstest

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/e2e/registrytest"
)

const (
	right = "012345" // with its leading zero, which a number would lose
	wrong = "999999"
)

// recipe is how one client takes a code from its environment, and what it says.
// The texts are regular expressions for stdout and stderr together.
type recipe struct {
	client    Client
	args      []string
	prepare   func(h *Home, name string) string // makes what is published, with that name; gives the folder
	code      string                            // the variable that takes the code
	noRetries []string                          // keeps it from repeating what failed

	missing, wrong  string
	limited         string
	lost            string // the publish was taken, the answer was a 500
	lostCode        int
	again           string // the version is there
	againCode       int
	done            string
	forgetsTheLimit bool // it cannot be told by its own code that it was a rate limit
}

func single(h *Home, name string) string { return h.Package(name, "1.0.0") }

// several is a repository with two packages, the first of them with that name.
func several(h *Home, name string) string { return h.Repository(name, name, name+"-two") }

// alone is a repository with one package.
func alone(h *Home, name string) string { return h.Repository(name, name) }

const npmAgain = `You cannot publish over the previously published versions: 1\.0\.0\.`

func npmRecipe(c Client) recipe {
	return recipe{
		client: c, args: []string{"npm", "publish"}, prepare: single, code: "NPM_CONFIG_OTP", noRetries: []string{"NPM_CONFIG_FETCH_RETRIES=0"},
		missing: `(?m)^npm error code EOTP$`, wrong: `(?m)^npm error code EOTP$`, limited: `(?m)^npm error code E429$`,
		lost: `(?m)^npm error code E403\n.*` + npmAgain, lostCode: 1, again: npmAgain, againCode: 1, done: `(?m)^\+ right@1\.0\.0$`,
	}
}

var recipes = []recipe{
	npmRecipe(NPM10), npmRecipe(NPM11), npmRecipe(NPM12),
	{
		client: PNPM11, args: []string{"pnpm", "publish", "--no-git-checks"}, prepare: single, code: "PNPM_CONFIG_OTP",
		noRetries: []string{"PNPM_CONFIG_FETCH_RETRIES=0"},
		missing:   `(?m)^\[ERR_PNPM_OTP_NON_INTERACTIVE\]`, wrong: `(?m)^\[ERR_PNPM_OTP_NON_INTERACTIVE\]`, limited: `(?m)^\[E429\]`,
		lost: `(?m)^\[E403\].*` + npmAgain, lostCode: 1, again: `(?m)^\[E403\].*` + npmAgain, againCode: 1, done: `Published package right@1\.0\.0`,
	},
	{
		// Its lines end at column 80, wherever that is in a sentence.
		client: PNPM12, args: []string{"pnpm", "publish", "--no-git-checks"}, prepare: single, code: "PNPM_CONFIG_OTP",
		missing: `(?m)^Error: ERR_PNPM_OTP_NON_INTERACTIVE$`, wrong: `(?m)^Error: ERR_PNPM_OTP_NON_INTERACTIVE$`,
		limited: `(?m)^Error: ERR_PNPM_FAILED_TO_PUBLISH\n(?s:.*)\(status\s+(?:│\s+)?429\b`,
		lost:    `(?m)^Error: ERR_PNPM_FAILED_TO_PUBLISH\n(?s:.*)\(status\s+(?:│\s+)?500\b`, lostCode: 1,
		again: `(?m)^Error: ERR_PNPM_FAILED_TO_PUBLISH\n(?s:.*)\(status\s+(?:│\s+)?403\b`, againCode: 1, done: `Published package right@1\.0\.0`,
	},
	{
		client: Lerna, args: []string{"lerna", "publish", "from-package", "--yes"}, prepare: several, code: "NPM_CONFIG_OTP",
		noRetries: []string{"NPM_CONFIG_FETCH_RETRIES=0"},
		missing:   `(?m)^lerna ERR! EOTP `, wrong: `(?m)^lerna ERR! EOTP `, limited: `(?m)^lerna ERR! E429 `,
		lost: `(?m)^lerna ERR! E500 `, lostCode: 1, again: `No unpublished release found`, againCode: 0, done: `(?m)^lerna success published right 1\.0\.0$`,
	},
	{
		client: Changesets, args: []string{"changeset", "publish"}, prepare: several, code: "NPM_CONFIG_OTP",
		noRetries: []string{"NPM_CONFIG_FETCH_RETRIES=0"},
		missing:   `(?m)error npm error code EOTP$`, wrong: `(?m)error npm error code EOTP$`, limited: `(?m)error npm error code E429$`,
		// Taken for published without a look at what is there.
		lost: `packages published successfully`, lostCode: 0, again: `No unpublished projects to publish`, againCode: 0, done: `(?s)published successfully:.*right@1\.0\.0`,
	},
	{
		client: SemanticRelease, args: []string{"semantic-release", "--no-ci"}, prepare: (*Home).Released, code: "NPM_CONFIG_OTP",
		noRetries: []string{"NPM_CONFIG_FETCH_RETRIES=0"},
		missing:   `(?m)^npm error code EOTP$`, wrong: `(?m)^npm error code EOTP$`, limited: `(?m)^npm error code E429$`,
		// See TestSemanticReleaseRunAgainSaysSuccessAndPublishesNothing for what again is worth.
		lost: npmAgain, lostCode: 1, again: `no new version is released`, againCode: 0, done: `Published release 1\.0\.0`,
	},
	{
		client: Gem, args: []string{"gem", "push", "it.gem"}, prepare: (*Home).GemPackage, code: "GEM_HOST_OTP_CODE",
		missing: regexp.QuoteMeta(registrytest.GemMissing), wrong: regexp.QuoteMeta(registrytest.GemWrong), limited: `(?m)^Retry later$`, forgetsTheLimit: true,
		lost: `Internal server error`, lostCode: 1, again: `Repushing of gem versions is not allowed`, againCode: 1, done: `Successfully registered gem: right \(1\.0\.0\)`,
	},
}

func publishes(reg *registrytest.Registry) []registrytest.Request {
	return slices.DeleteFunc(reg.Journal(), func(q registrytest.Request) bool { return !q.Publishes() })
}

func (h *Home) published(name string) bool {
	_, npm := h.reg.Published(name, "1.0.0")
	_, gem := h.reg.Pushed(name, "1.0.0")
	return npm || gem
}

func start(t *testing.T, c registrytest.Config) (*registrytest.Registry, *Home) {
	t.Helper()
	reg := registrytest.Start(c)
	t.Cleanup(func() {
		reg.Close()
		if t.Failed() {
			for _, q := range reg.Journal() {
				t.Log(q)
			}
		}
	})
	return reg, NewHome(t, reg)
}

func expect(t *testing.T, what string, got Result, code int, pattern string) {
	t.Helper()
	if all := got.Stdout + got.Stderr; got.Code != code || !regexp.MustCompile(pattern).MatchString(all) {
		t.Errorf("%s: exit code %d, not %d, or no %s in\n%s", what, got.Code, code, pattern, all)
	}
}

func TestEachClientTakesACodeFromItsEnvironment(t *testing.T) {
	t.Parallel()
	for _, r := range recipes {
		for _, factor := range []registrytest.Factor{registrytest.Code, registrytest.Both} {
			t.Run(string(r.client)+" "+string(factor), func(t *testing.T) {
				t.Parallel()
				reg, h := start(t, registrytest.Config{Factor: factor, Codes: []string{right}, RetryAfter: 1})
				run := func(dir string, env ...string) Result {
					t.Helper()
					got := h.Run(r.client, dir, env, r.args...)
					if strings.Contains(got.Stdout+got.Stderr, right) {
						t.Errorf("%s prints the code", r.client)
					}
					return got
				}
				expect(t, "without a code", run(r.prepare(h, "missing")), 1, r.missing)
				expect(t, "with a wrong code", run(r.prepare(h, "wrong"), r.code+"="+wrong), 1, r.wrong)
				asked := publishes(reg)
				if asked[0].OTP != "" || asked[len(asked)-1].OTP != reg.Mark(wrong) {
					t.Errorf("sent: %v", asked)
				}
				if factor != registrytest.Code {
					return // a link beside the code changes what is said above, and nothing below
				}

				reg.RateLimit(100, 1)
				limited := run(r.prepare(h, "limited"), append([]string{r.code + "=" + right}, r.noRetries...)...)
				expect(t, "with too many requests", limited, 1, r.limited)
				reg.RateLimit(0, 0)
				if !r.forgetsTheLimit && regexp.MustCompile(r.missing).MatchString(limited.Stdout+limited.Stderr) {
					t.Errorf("a rate limit looks like a refusal")
				}
				if puts := reg.Puts("limited"); len(puts) > 1 {
					t.Errorf("%d publishes at a rate limit, though told not to repeat any", len(puts))
				}

				dir := r.prepare(h, "right")
				expect(t, "with the right code", run(dir, r.code+"="+right), 0, r.done)
				if !h.published("right") {
					t.Error("nothing was published")
				}
				reg.Lose(registrytest.Lost500)
				dir = r.prepare(h, "lost")
				expect(t, "with the answer lost", run(dir, r.code+"="+right), r.lostCode, r.lost)
				if !h.published("lost") {
					t.Error("nothing was published")
				}
				if r.client == Lerna {
					h.Git(dir, "checkout", "-q", ".")
				}
				expect(t, "with the version there", run(dir, r.code+"="+right), r.againCode, r.again)
			})
		}
	}
}

// Lerna leaves its mark in each package.json of a run that failed, and will not
// start on a tree with changes: a refused code cannot be mended by a second run.
func TestLernaRunAgainAfterARefusalRefusesToStart(t *testing.T) {
	t.Parallel()
	reg, h := start(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{right}})
	dir := several(h, "one")
	args := []string{"lerna", "publish", "from-package", "--yes"}
	expect(t, "first", h.Run(Lerna, dir, []string{"NPM_CONFIG_OTP=" + wrong}, args...), 1, `(?m)^lerna ERR! EOTP `)
	before := len(publishes(reg))
	expect(t, "second", h.Run(Lerna, dir, []string{"NPM_CONFIG_OTP=" + right}, args...), 1, `(?m)^lerna ERR! EUNCOMMIT `)
	if len(publishes(reg)) != before {
		t.Error("it published all the same")
	}
	h.Git(dir, "checkout", "-q", ".")
	expect(t, "third", h.Run(Lerna, dir, []string{"NPM_CONFIG_OTP=" + right}, args...), 0, `lerna success published one 1\.0\.0`)
}

// Semantic-release pushes the tag first, and takes what is tagged for released.
// So its second run must never be believed.
func TestSemanticReleaseRunAgainSaysSuccessAndPublishesNothing(t *testing.T) {
	t.Parallel()
	reg, h := start(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{right}})
	dir := h.Released("one")
	args := []string{"semantic-release", "--no-ci"}
	expect(t, "first", h.Run(SemanticRelease, dir, []string{"NPM_CONFIG_OTP=" + wrong}, args...), 1, `(?m)^npm error code EOTP$`)
	expect(t, "second", h.Run(SemanticRelease, dir, []string{"NPM_CONFIG_OTP=" + right}, args...), 0, `no new version is released`)
	if _, ok := reg.Published("one", "1.0.0"); ok || len(reg.Puts("one")) != 1 {
		t.Errorf("published: %v", reg.Puts("one"))
	}
	h.Git(dir, "tag", "-d", "v1.0.0")
	h.Git(dir, "push", "-q", "origin", ":v1.0.0")
	expect(t, "without the tag", h.Run(SemanticRelease, dir, []string{"NPM_CONFIG_OTP=" + right}, args...), 0, `Published release 1\.0\.0`)
}

// A connection that breaks after the gem was taken is tried again by gem itself.
func TestGemRepeatsAPushWhoseConnectionBroke(t *testing.T) {
	t.Parallel()
	reg, h := start(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{right}})
	reg.Lose(registrytest.LostConn)
	got := h.Run(Gem, h.GemPackage("one"), []string{"GEM_HOST_OTP_CODE=" + right}, "gem", "push", "it.gem")
	expect(t, "push", got, 1, `Repushing of gem versions is not allowed`)
	if !h.published("one") || len(publishes(reg)) != 2 {
		t.Errorf("pushes: %v", publishes(reg))
	}
}

// One code for several packages of a workspace, while it lives, and the failure
// in the middle when it does not.
func TestNPMPublishesAWorkspaceWithOneCode(t *testing.T) {
	t.Parallel()
	for _, c := range []Client{NPM10, NPM11, NPM12} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			args := []string{"npm", "publish", "--workspaces"}
			_, h := start(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{right}})
			expect(t, "a code that lives", h.Run(c, several(h, "one"), []string{"NPM_CONFIG_OTP=" + right}, args...), 0, `(?s)\+ one@1\.0\.0.*\+ one-two@1\.0\.0`)
			if !h.published("one") || !h.published("one-two") {
				t.Error("not both were published")
			}
			reg, h := start(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{right}, Uses: 1})
			dir := several(h, "one")
			expect(t, "a code for one", h.Run(c, dir, []string{"NPM_CONFIG_OTP=" + right}, args...), 1, `(?m)^npm error code EOTP$`)
			if !h.published("one") || h.published("one-two") {
				t.Error("not one of two was published")
			}
			// The second run stops at the first package, which is there: each one needs a command of its own.
			reg.AddCode("543210")
			expect(t, "the rest", h.Run(c, dir, []string{"NPM_CONFIG_OTP=543210"}, args...), 1, npmAgain)
			expect(t, "the rest by name", h.Run(c, dir, []string{"NPM_CONFIG_OTP=543210"}, "npm", "publish", "--workspace", "one-two"), 0, `\+ one-two@1\.0\.0`)
		})
	}
}

// What a code cannot mend must not look like a refusal, or humans are asked for nothing.
func TestNPMTellsARefusalFromWhatACodeCannotMend(t *testing.T) {
	t.Parallel()
	for _, c := range []Client{NPM10, NPM11, NPM12} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			reg, h := start(t, registrytest.Config{Factor: registrytest.Both, Codes: []string{right}, Notice: "read https://example.com/notice"})
			reg.Forbid(registrytest.NeedsBypass)
			got := h.Run(c, single(h, "one"), []string{"NPM_CONFIG_OTP=" + right}, "npm", "publish")
			expect(t, "forbidden", got, 1, `(?m)^npm error code E403\n.*`+regexp.QuoteMeta(registrytest.NeedsBypass))
			if strings.Contains(got.Stderr, "EOTP") {
				t.Error("it looks like a refusal")
			}
			reg.Forbid("")
			expect(t, "notice", h.Run(c, single(h, "one"), nil, "npm", "publish"), 1, `(?m)^npm notice read https://example\.com/notice$`)
			// Repeated by npm itself with the same code, unless told not to.
			reg.RateLimit(100, 0)
			expect(t, "limited", h.Run(c, single(h, "two"), []string{"NPM_CONFIG_OTP=" + right}, "npm", "publish"), 1, `(?m)^npm error code E429$`)
			if puts := reg.Puts("two"); len(puts) != 3 {
				t.Errorf("%d publishes at a rate limit", len(puts))
			}
		})
	}
}
