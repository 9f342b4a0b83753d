//go:build clients

package clientstest

import (
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/e2e/registrytest"
)

// prompts are for `cfa exec --pty-prompt`, and for who takes a code in no other way.
var prompts = []struct {
	client  Client
	args    []string
	prepare func(h *Home, name string) string
	env     []string
	prompt  string
	refused string // after a wrong code
	echoes  bool
}{
	{client: NPM10, args: []string{"npm", "publish"}, prepare: single, prompt: `Enter OTP:`, refused: `npm error code EOTP`, echoes: true},
	{client: NPM11, args: []string{"npm", "publish"}, prepare: single, prompt: `Enter OTP:`, refused: `npm error code EOTP`, echoes: true},
	{client: NPM12, args: []string{"npm", "publish"}, prepare: single, prompt: `Enter OTP:`, refused: `npm error code EOTP`, echoes: true},
	{client: PNPM11, args: []string{"pnpm", "publish", "--no-git-checks"}, prepare: single, prompt: `Enter OTP:`, refused: `ERR_PNPM_OTP_SECOND_CHALLENGE`, echoes: true},
	{client: PNPM12, args: []string{"pnpm", "publish", "--no-git-checks"}, prepare: single, prompt: `Enter OTP:`, refused: `ERR_PNPM_OTP_SECOND_CHALLENGE`, echoes: true},
	{client: Yarn1, args: []string{"yarn", "publish", "--new-version", "1.0.0"}, prepare: single, prompt: `npm one-time password:`, refused: `Incorrect one-time password\.`, echoes: true},
	{client: Yarn4, args: []string{"yarn", "npm", "publish"}, prepare: (*Home).Berry, prompt: `One-time password:`, refused: `YN0041: Invalid OTP token`},
	{client: Lerna, args: []string{"lerna", "publish", "from-package", "--yes"}, prepare: alone, prompt: `This operation requires a one-time password:`, refused: `lerna ERR! EOTP`, echoes: true},
	{client: Changesets, args: []string{"changeset", "publish"}, prepare: alone, prompt: `Enter OTP:`, refused: `npm error code EOTP`, echoes: true},
	{client: Gem, args: []string{"gem", "push", "it.gem"}, prepare: (*Home).GemPackage, prompt: `Code: `, refused: `Your OTP code is incorrect`, echoes: true},
}

func TestEachClientAsksOnATerminal(t *testing.T) {
	t.Parallel()
	for _, p := range prompts {
		t.Run(string(p.client), func(t *testing.T) {
			t.Parallel()
			_, h := start(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{right}})
			term := OnTerminal(t, h.Command(p.client, p.prepare(h, "right"), nil, p.args...))
			term.Expect(p.prompt)
			term.Type(right)
			got := term.Wait()
			if got.Code != 0 || !h.published("right") {
				t.Errorf("with the right code: %+v", got)
			}
			if strings.Contains(got.Stdout, right) != p.echoes {
				t.Errorf("whether the terminal shows the code: %v\n%q", !p.echoes, got.Stdout)
			}
			term = OnTerminal(t, h.Command(p.client, p.prepare(h, "wrong"), nil, p.args...))
			term.Expect(p.prompt)
			term.Type(wrong)
			// None of them asks again: whoever has a better code runs it again.
			term.Expect(p.refused)
			if got := term.Wait(); got.Code != 1 || h.published("wrong") {
				t.Errorf("with a wrong code: %+v", got)
			}
		})
	}
}

// Without a terminal neither yarn can be given a code but as an argument, where
// every user of the machine reads it.
func TestNeitherYarnTakesACodeFromItsEnvironment(t *testing.T) {
	t.Parallel()
	reg, h := start(t, registrytest.Config{Factor: registrytest.Code, Codes: []string{right}})
	env := []string{"NPM_CONFIG_OTP=" + right, "npm_config_otp=" + right, "YARN_OTP=" + right, "yarn_otp=" + right}
	expect(t, "yarn 1", h.Run(Yarn1, single(h, "one"), env, "yarn", "publish", "--non-interactive"), 1, `Can't answer a question unless a user TTY`)
	env = []string{"NPM_CONFIG_OTP=" + right, "npm_config_otp=" + right}
	dir := h.Berry("two")
	expect(t, "yarn 4", h.Run(Yarn4, dir, env, "yarn", "npm", "publish"), 1, `YN0033: .*not running in an interactive terminal`)
	expect(t, "yarn 4 with a variable of its own", h.Run(Yarn4, dir, []string{"YARN_NPM_OTP=" + right}, "yarn", "npm", "publish"), 1, `Usage Error: Unrecognized or legacy configuration settings found: npmOtp`)
	for _, q := range publishes(reg) {
		if q.OTP != "" {
			t.Errorf("a code was sent: %v", q)
		}
	}
}

// How the yarns say what else can happen: as they do with a code that was typed.
func TestWhatTheYarnsSay(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		client               Client
		args                 []string
		prepare              func(h *Home, name string) string
		limited, lost, again string
	}{
		{Yarn1, []string{"yarn", "publish", "--non-interactive"}, single,
			`Couldn't publish package: "http://\S+: .*rate limited`, `Request failed "500 Internal Server Error"`, `Couldn't publish package: "http://\S+: ` + npmAgain},
		{Yarn4, []string{"yarn", "npm", "publish"}, (*Home).Berry,
			`YN0035:   Response Code: 429 `, `YN0035:   Response Code: 500 `, `YN0035: ` + npmAgain},
	} {
		t.Run(string(tc.client), func(t *testing.T) {
			t.Parallel()
			reg, h := start(t, registrytest.Config{})
			reg.RateLimit(100, 1)
			expect(t, "limited", h.Run(tc.client, tc.prepare(h, "limited"), nil, tc.args...), 1, tc.limited)
			if puts := reg.Puts("limited"); len(puts) != 1 {
				t.Errorf("%d publishes at a rate limit", len(puts))
			}
			reg.RateLimit(0, 0)
			reg.Lose(registrytest.Lost500)
			dir := tc.prepare(h, "lost")
			expect(t, "lost", h.Run(tc.client, dir, nil, tc.args...), 1, tc.lost)
			expect(t, "again", h.Run(tc.client, dir, nil, tc.args...), 1, tc.again)
			if !h.published("lost") {
				t.Error("nothing was published")
			}
		})
	}
}

// A notice with an address makes yarn 4 ask about it before it asks for the code.
func TestYarn4AsksFirstWhetherToOpenANotice(t *testing.T) {
	t.Parallel()
	_, h := start(t, registrytest.Config{Factor: registrytest.Both, Codes: []string{right}, Notice: "Open https://example.com/login to use your security key"})
	term := OnTerminal(t, h.Command(Yarn4, h.Berry("one"), nil, "yarn", "npm", "publish"))
	term.Expect(`Do you want to try to open this url now\?`)
	term.Type("n")
	term.Expect(`One-time password:`)
	term.Type(right)
	if got := term.Wait(); got.Code != 0 || !h.published("one") {
		t.Errorf("%+v", got)
	}
}
