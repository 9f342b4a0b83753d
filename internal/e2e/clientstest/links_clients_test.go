//go:build clients

package clientstest

import (
	"encoding/json"
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/e2e/registrytest"
)

// challenge is what npm and pnpm print on stdout when they are to speak JSON.
type challenge struct {
	Error struct{ Code, AuthURL, DoneURL string }
}

// last reads the last JSON object of an output, which a script's output may precede.
func last(t *testing.T, stdout string) challenge {
	t.Helper()
	at := strings.LastIndex("\n"+stdout, "\n{")
	if at < 0 {
		t.Fatalf("no JSON in %q", stdout)
	}
	var c challenge
	if err := json.Unmarshal([]byte(stdout[at:]), &c); err != nil {
		t.Fatalf("%v in %q", err, stdout)
	}
	return c
}

// done asks doneUrl once.
func done(t *testing.T, reg *registrytest.Registry, url string) (status int, token string) {
	t.Helper()
	resp, err := reg.Client().Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var answer struct{ Token string }
	if err := json.Unmarshal(data, &answer); err != nil && resp.StatusCode == http.StatusOK {
		t.Fatal(err)
	}
	return resp.StatusCode, answer.Token
}

// The link comes out by JSON, somebody follows it, its token goes in as a code does.
func TestALinkComesOutByJSONAndItsTokenGoesInAsACode(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		client Client
		env    []string
		args   []string
		token  string
		refuse string
	}{
		{NPM11, []string{"NPM_CONFIG_JSON=true"}, []string{"npm", "publish"}, "NPM_CONFIG_OTP", "EOTP"},
		{NPM12, []string{"NPM_CONFIG_JSON=true"}, []string{"npm", "publish"}, "NPM_CONFIG_OTP", "EOTP"},
		{PNPM11, nil, []string{"pnpm", "publish", "--no-git-checks", "--json"}, "PNPM_CONFIG_OTP", "ERR_PNPM_OTP_NON_INTERACTIVE"},
		{PNPM12, nil, []string{"pnpm", "publish", "--no-git-checks", "--json"}, "PNPM_CONFIG_OTP", "ERR_PNPM_OTP_NON_INTERACTIVE"},
	} {
		t.Run(string(tc.client), func(t *testing.T) {
			t.Parallel()
			reg, h := start(t, registrytest.Config{Factor: registrytest.Link, Uses: 1, RetryAfter: 1, TLS: true})
			dir := h.Package("@scope/one", "1.0.0")
			got := h.Run(tc.client, dir, tc.env, tc.args...)
			c := last(t, got.Stdout)
			if got.Code != 1 || c.Error.Code != tc.refuse || !strings.HasPrefix(c.Error.AuthURL, reg.URL()+"/auth/") || !strings.HasPrefix(c.Error.DoneURL, reg.URL()+"/done/") {
				t.Fatalf("the challenge is %+v, exit code %d\n%s", c, got.Code, got.Stderr)
			}
			if regexp.MustCompile(`/(auth/cli|done)/[0-9a-f]{8}-`).MatchString(got.Stderr) {
				t.Error("stderr shows a whole link")
			}
			if status, _ := done(t, reg, c.Error.DoneURL); status != http.StatusAccepted {
				t.Errorf("doneUrl answers %d before anybody went to the page", status)
			}
			if err := reg.Visit(c.Error.AuthURL); err != nil {
				t.Fatal(err)
			}
			_, token := done(t, reg, c.Error.DoneURL)
			if got := h.Run(tc.client, dir, append(tc.env, tc.token+"="+token), tc.args...); got.Code != 0 || !h.published("@scope/one") {
				t.Errorf("with the token: %+v", got)
			}
			if puts := reg.Puts("@scope/one"); puts[len(puts)-1].OTP != reg.Mark(token) {
				t.Errorf("the token is not where a code is: %v", puts)
			}
			// Used up: a new challenge, with another link.
			second := last(t, h.Run(tc.client, h.Package("two", "1.0.0"), append(tc.env, tc.token+"="+token), tc.args...).Stdout)
			if second.Error.AuthURL == "" || second.Error.AuthURL == c.Error.AuthURL {
				t.Errorf("a token used twice gives %+v", second)
			}
		})
	}
}

// npm 10 knows the links and prints them nowhere but on a terminal; nor does
// pnpm 12 take the wish for JSON from its environment, as pnpm 11 does.
func TestWhereNoLinkComesOut(t *testing.T) {
	t.Parallel()
	reg, h := start(t, registrytest.Config{Factor: registrytest.Link, RetryAfter: 1})
	dir := h.Package("one", "1.0.0")
	got := h.Run(NPM10, dir, []string{"NPM_CONFIG_JSON=true"}, "npm", "publish")
	if c := last(t, got.Stdout); c.Error.Code != "EOTP" || c.Error.AuthURL != "" {
		t.Errorf("npm 10 prints %+v", c)
	}
	if got := h.Run(PNPM12, dir, []string{"PNPM_CONFIG_JSON=true"}, "pnpm", "publish", "--no-git-checks"); strings.Contains(got.Stdout+got.Stderr, "authUrl") {
		t.Errorf("pnpm 12 prints %+v", got)
	}
	if c := last(t, h.Run(PNPM11, dir, []string{"PNPM_CONFIG_JSON=true"}, "pnpm", "publish", "--no-git-checks").Stdout); c.Error.AuthURL == "" {
		t.Error("pnpm 11 prints no link")
	}
	if got := h.Run(Lerna, several(h, "two"), nil, "lerna", "publish", "from-package", "--yes"); got.Code != 1 || strings.Contains(got.Stdout+got.Stderr, "/auth/") {
		t.Errorf("lerna prints %+v", got)
	}
	// Changesets prints each package's, whole.
	got = h.Run(Changesets, several(h, "three"), nil, "changeset", "publish")
	if links := regexp.MustCompile(regexp.QuoteMeta(reg.URL())+`/auth/cli/[0-9a-f-]{36}`).FindAllString(got.Stderr, -1); got.Code != 1 || len(links) != 2 {
		t.Errorf("changesets prints %v", links)
	}
}

// On a terminal npm polls by itself, also npm 10.
func TestNPMOnATerminalWaitsForTheLink(t *testing.T) {
	t.Parallel()
	for _, c := range []Client{NPM10, NPM11, NPM12} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			reg, h := start(t, registrytest.Config{Factor: registrytest.Link, RetryAfter: 1})
			term := OnTerminal(t, h.Command(c, single(h, "one"), []string{"NPM_CONFIG_BROWSER=false"}, "npm", "publish"))
			link := term.Expect(`Authenticate your account at:\s+(http\S+)`)[1]
			if err := reg.Visit(link); err != nil {
				t.Fatal(err)
			}
			if got := term.Wait(); got.Code != 0 || !h.published("one") {
				t.Errorf("after the visit: %+v", got)
			}
		})
	}
}

func TestNPMStagesAndApproves(t *testing.T) {
	t.Parallel()
	for _, c := range []Client{NPM11, NPM12} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			reg, h := start(t, registrytest.Config{Factor: registrytest.Both, Codes: []string{right}, RetryAfter: 1})
			dir := h.Package("@scope/one", "1.0.0")
			got := h.Run(c, dir, nil, "npm", "stage", "publish")
			m := regexp.MustCompile(`(?m)^\+ @scope/one@1\.0\.0 \(staged with id ([0-9a-f-]{36})\)$`).FindStringSubmatch(got.Stdout)
			if got.Code != 0 || m == nil || h.published("@scope/one") {
				t.Fatalf("stage: %+v", got)
			}
			id := m[1]
			expect(t, "list", h.Run(c, dir, nil, "npm", "stage", "list", "--json"), 0, `"id": "`+id+`"`)
			expect(t, "view", h.Run(c, dir, nil, "npm", "stage", "view", id, "--json"), 0, `"packageName": "@scope/one"`)
			expect(t, "download", h.Run(c, t.TempDir(), nil, "npm", "stage", "download", id), 0, regexp.QuoteMeta("scope-one-1.0.0-"+id+".tgz"))
			expect(t, "approve without a code", h.Run(c, dir, nil, "npm", "stage", "approve", id), 1, `(?m)^npm error code EOTP$`)
			if c := last(t, h.Run(c, dir, []string{"NPM_CONFIG_JSON=true"}, "npm", "stage", "approve", id).Stdout); c.Error.AuthURL == "" {
				t.Error("approve prints no link")
			}
			reg.RateLimit(1, 0)
			expect(t, "approve at a limit", h.Run(c, dir, []string{"NPM_CONFIG_OTP=" + right}, "npm", "stage", "approve", id), 1, `(?m)^npm error code E429$`)
			expect(t, "approve", h.Run(c, dir, []string{"NPM_CONFIG_OTP=" + right}, "npm", "stage", "approve", id), 0, `(?m)^Staged package `+id+` approved and published successfully\.$`)
			if !h.published("@scope/one") {
				t.Error("it is not public")
			}
			got = h.Run(c, h.Package("two", "1.0.0"), []string{"NPM_CONFIG_JSON=true"}, "npm", "stage", "publish")
			var staged map[string]struct{ StageID string }
			if err := json.Unmarshal([]byte(got.Stdout), &staged); err != nil || staged["two"].StageID == "" {
				t.Fatalf("stage with JSON: %v, %+v", err, got)
			}
			expect(t, "reject", h.Run(c, dir, []string{"NPM_CONFIG_OTP=" + right}, "npm", "stage", "reject", staged["two"].StageID), 0, `has been rejected`)
			if left := reg.Staged(); len(left) != 0 || h.published("two") {
				t.Errorf("left: %v", left)
			}
		})
	}
}
