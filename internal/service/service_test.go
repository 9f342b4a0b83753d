package service

import (
	"slices"
	"strings"
	"testing"
)

// What the tools wrote, word for word, against a stand-in registry; and by their
// sources where a row says that it was not tried out.
func TestARowReadsWhatItsToolWrites(t *testing.T) {
	t.Parallel()
	const npmClassic = "npm error code EOTP\nnpm error This operation requires a one-time password from your authenticator.\nnpm error You can provide a one-time password by passing --otp=<code> to the command you ran.\n"
	const npmWeb = "npm error code EOTP\nnpm error This operation requires a one-time password.\nnpm error Open this URL in your browser to authenticate:\nnpm error   https://www.npmjs.com/auth/cli/***\n"
	const npmJSON = `{"error":{"code":"EOTP","summary":"This operation requires a one-time password.","detail":"{} \"}\"","authUrl":"https://www.npmjs.com/auth/cli/1","doneUrl":"https://registry.npmjs.org/-/v1/done?authId=1"}}`
	for name, c := range map[string]struct {
		row      string
		out, err string
		want     Verdict
	}{
		"npm wants a code":          {"npm", "", npmClassic, WantsCode},
		"npm 10 too":                {"npm", "", "npm ERR! code EOTP\r\nnpm ERR! This operation requires a one-time password.\r\n", WantsCode},
		"npm wants a link":          {"npm", "", npmWeb, WantsLink},
		"npm wants a link, JSON":    {"npm", "> x@1.0.0 prepack\n> echo {\n\n" + npmJSON, "", WantsLink},
		"npm, rate limit":           {"npm", "", "npm error code E429\nnpm error 429 Too Many Requests - PUT http://127.0.0.1/x - slow down\n", Limited},
		"npm, there already":        {"npm", "", "npm error code E403\nnpm error 403 403 Forbidden - PUT http://127.0.0.1/x - You cannot publish over the previously published versions: 1.0.0.\n", Exists},
		"npm, there, local check":   {"npm", "", "npm error You cannot publish over the previously published versions: 1.0.0.\n", Exists},
		"npm, 500":                  {"npm", "", "npm error code E500\nnpm error 500 Internal Server Error\n", Unsure},
		"npm, 2FA by no code":       {"npm", "", "npm error code E403\nnpm error 403 403 Forbidden - PUT http://127.0.0.1/x - Two-factor authentication or granular access token with bypass 2fa enabled is required to publish packages.\n", Failed},
		"npm, not logged in":        {"npm", "", "npm error code ENEEDAUTH\n", Failed},
		"npm, a script speaks":      {"npm", "please pass a one-time password, code EOTP\n", "npm error code ELIFECYCLE\n", Failed},
		"npm, and something else":   {"npm", "", npmClassic + "npm error code E500\n", Failed},
		"npm, silent":               {"npm", "", "", Failed},
		"pnpm 11 wants a code":      {"pnpm", "[ERR_PNPM_OTP_NON_INTERACTIVE] The registry requires additional authentication", "", WantsCode},
		"pnpm 12 wants a code":      {"pnpm", "", "Error: ERR_PNPM_OTP_NON_INTERACTIVE\n", WantsCode},
		"pnpm wants a link":         {"pnpm", `{"error":{"code":"ERR_PNPM_OTP_NON_INTERACTIVE","message":"m","authUrl":"https://www.npmjs.com/a","doneUrl":"https://registry.npmjs.org/d"}}`, "", WantsLink},
		"pnpm 11, rate limit":       {"pnpm", "[E429] 429 Too Many Requests - PUT http://127.0.0.1/x", "", Limited},
		"pnpm 12, rate limit":       {"pnpm", "", "Error: ERR_PNPM_FAILED_TO_PUBLISH\n\n  × Failed to publish package n@v (status 429 Too Many\n  │ Requests): {\"error\":\"slow\"}\n", Limited},
		"pnpm 12, there already":    {"pnpm", "", "  × Failed to publish (status 403 Forbidden):\n  │ {\"error\":\"You cannot publish over the previously published versions:\n  │ 1.0.0.\"}", Exists},
		"pnpm 12, the answer a 500": {"pnpm", "", "Error: ERR_PNPM_FAILED_TO_PUBLISH\n\n  × Failed to publish package n@v (status 500 Internal\n  │ Server Error): {\"error\":\"x\"}\n", Unsure},
		"pnpm 12, the answer lost":  {"pnpm", "", "Error:   × the publish request failed: error sending request for url\n  │ (http://127.0.0.1:1/lost)\n", Unsure},
		"pnpm 10, by npm":           {"pnpm", "", npmClassic, WantsCode},
		"yarn, no terminal":         {"yarn", "➤ YN0033: The registry requires additional authentication, but Yarn is not running in an interactive terminal\n", "", WantsCode},
		"yarn, wrong":               {"yarn", "➤ YN0041: Invalid OTP token\n", "", WantsCode},
		"yarn, rate limit":          {"yarn", "➤ YN0035: slow\n➤ YN0035:   Response Code: 429 (Too Many Requests)\n", "", Limited},
		"yarn, there already":       {"yarn", "➤ YN0035: You cannot publish over the previously published versions: 1.0.0.\n", "", Exists},
		"yarn, other error":         {"yarn", "➤ YN0033: Invalid authentication (as an unknown user)\n", "", Failed},
		"yarn 1, wrong":             {"yarn-classic", "", "error Couldn't publish package: \"Incorrect one-time password.\"\n", WantsCode},
		"yarn 1, there already":     {"yarn-classic", "", "error Couldn't publish package: \"http://127.0.0.1/x: You cannot publish over the previously published versions: 1.0.0.\"\n", Exists},
		"lerna":                     {"lerna", "", "lerna ERR! EOTP You must provide a one-time pass\n", WantsCode},
		"lerna, else":               {"lerna", "", "lerna ERR! EUNCOMMIT Working tree has uncommitted changes\n", Failed},
		"changesets, all":           {"changesets", "", "🦋  error an error occurred while publishing a: EOTP This operation requires a one-time password.\n🦋  error an error occurred while publishing b: EOTP This operation requires a one-time password.\n", WantsCode},
		"changesets, one other":     {"changesets", "", "🦋  error an error occurred while publishing a: EOTP This operation requires a one-time password.\n🦋  error an error occurred while publishing b: E403 Forbidden\n", Failed},
		"changesets, rate limit":    {"changesets", "", "🦋  error an error occurred while publishing a: E429 429 Too Many Requests\n", Limited},
		"changesets, links":         {"changesets", "", "🦋  error an error occurred while publishing a: EOTP This operation requires a one-time password.\n🦋  error Open this URL in your browser to authenticate:\n🦋  error   https://www.npmjs.com/auth/cli/x\n", WantsLink},
		"changesets, a script":      {"changesets", "EOTP", "", Failed},
		"semantic-release":          {"semantic-release", npmClassic, "", WantsCode},
		"gem, missing":              {"rubygems", "You have enabled multifactor authentication but no OTP code provided. Please fill it and retry.\n", "", WantsCode},
		"gem, wrong":                {"rubygems", "Your OTP code is incorrect. Please check it and retry.\n", "", WantsCode},
		"gem, rate limit":           {"rubygems", "Retry later\n", "", Limited},
		"gem, link":                 {"rubygems", "You have enabled multi-factor authentication. Please visit https://rubygems.org/webauthn_verification/abc?port=5000 to authenticate via security device.\n", "", WantsLink},
		"gem, there already":        {"rubygems", "Repushing of gem versions is not allowed.\n", "", Failed},
		"hex says nothing we know":  {"hex", "anything", "anything", -1},
	} {
		row := Find(c.row)
		if row.Read == nil {
			if c.want != -1 {
				t.Errorf("%s: nothing reads it", name)
			}
			continue
		}
		if got := row.Read(Run{Code: 1, Out: []byte(c.out), Err: []byte(c.err)}); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

func TestACommandLineTellsItsTool(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"npm publish": "npm",
		"/usr/bin/npm --loglevel=warn publish ./pkg": "npm",
		`C:\nodejs\npm.cmd publish`:                  "npm",
		"npm install":                                "",
		"npm run publish":                            "",
		"pnpm publish -r":                            "pnpm",
		"yarn npm publish":                           "yarn",
		"yarn publish":                               "yarn-classic",
		"npx lerna publish from-package":             "lerna",
		"npx --yes lerna@9 publish":                  "lerna",
		"npm exec -- changeset publish":              "changesets",
		"npx @changesets/cli@2 publish":              "changesets",
		"pnpm exec changeset publish":                "changesets",
		"npx semantic-release":                       "semantic-release",
		"bundle exec gem push x.gem":                 "rubygems",
		"gem push x.gem":                             "rubygems",
		"gem install x":                              "",
		"mix hex.publish --yes":                      "hex",
		"mix deps.get":                               "",
		"bundle exec fastlane release":               "fastlane",
		"make release":                               "",
		"npx":                                        "",
		"aws s3 cp a s3://b/c":                       "", // not what it is for: it is asked for by --service
		"npm":                                        "",
	} {
		got := ""
		if s := Guess(strings.Fields(line)); s != nil {
			got = s.Name
		}
		if got != want {
			t.Errorf("%q is %q, want %q", line, got, want)
		}
	}
	if Guess(nil) != nil {
		t.Error("no command is a tool")
	}
}

// A row is whole: what exec needs of one is there, and no two have a name.
func TestEachRowIsWhole(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, s := range Table {
		if seen[s.Name] || s.Name == "" || s.Title == "" || s.Format == "" {
			t.Errorf("row %q: a name twice, or something is missing", s.Name)
		}
		seen[s.Name] = true
		ways := 0
		for _, way := range []bool{s.Env != nil, s.Prompt != nil, s.Login != nil} {
			if way {
				ways++
			}
		}
		if s.Name != Default && ways != 1 {
			t.Errorf("%s: %d ways for a code, want one", s.Name, ways)
		}
		if s.Env != nil && s.Read == nil && s.Once == nil {
			t.Errorf("%s: shows nothing, and may be run twice", s.Name)
		}
		if s.Link != nil && len(s.Pages) == 0 {
			t.Errorf("%s: a link to anywhere", s.Name)
		}
		for _, p := range s.Pages {
			if len(p.Under) < 3 || !strings.HasPrefix(p.Under, "/") || !strings.HasSuffix(p.Under, "/") {
				t.Errorf("%s: a link to any page of %s", s.Name, p.Host)
			}
		}
		if s.Reuse && s.Life <= 0 {
			t.Errorf("%s: a code that is used twice has a life", s.Name)
		}
		if Find(s.Name) != s {
			t.Errorf("%s is not found", s.Name)
		}
	}
	if Find("else") != nil || Format("else") != "any" || Format("npm") != "digits:6" {
		t.Error("a service that nobody knows")
	}
	for _, c := range []struct{ service, host, path string }{
		{"npm", "www.npmjs.com", "/auth/cli/"}, {"pnpm", "www.npmjs.com", "/auth/cli/"}, {"rubygems", "rubygems.org", "/webauthn_verification/"},
		{"npm", "rubygems.org", ""}, {"npm", "npmjs.com", ""}, {"npm", "", ""}, {"hex", "www.npmjs.com", ""}, {"generic", "www.npmjs.com", ""}, {"else", "www.npmjs.com", ""},
	} {
		if path, known := LinkPath(c.service, c.host); path != c.path || known != (c.path != "") {
			t.Errorf("%s at %s: %q, %v", c.service, c.host, path, known)
		}
	}
}

func TestTheLastObjectIsTakenWhateverStandsBefore(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		``: ``, `no`: ``, `}`: ``,
		`{"a":1}`:                      `{"a":1}`,
		"x {\n{\"a\":{\"b\":2}}\ntail": `{"a":{"b":2}}`,
		`{"a":1}{"b":"}{\"\\"}`:        `{"b":"}{\"\\"}`,
	} {
		if got := string(last([]byte(in))); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func FuzzLast(f *testing.F) {
	f.Add([]byte(`x {"a":{"b":"}"}}`))
	f.Add([]byte(`}}}}"\"{`))
	f.Fuzz(func(t *testing.T, out []byte) {
		if got := last(out); len(got) > 0 && (got[0] != '{' || got[len(got)-1] != '}') {
			t.Fatalf("%q", got)
		}
		for _, s := range Table {
			if s.Read != nil {
				s.Read(Run{Code: 1, Out: out, Err: out})
			}
		}
	})
}

func TestNPMPublishIsTakenApart(t *testing.T) {
	t.Parallel()
	none := func(string) string { return "" }
	join := func(argv []string) string { return strings.Join(argv, " ") }
	for line, want := range map[string][]string{ // before; pack; publish; after
		"npm publish":                              {"npm run --if-present --ignore-scripts prepublishOnly", "npm pack --pack-destination {folder}", "npm publish T", "npm run --if-present --ignore-scripts publish", "npm run --if-present --ignore-scripts postpublish"},
		"npm publish ./pkg --access public":        {"npm run --if-present --ignore-scripts --prefix ./pkg prepublishOnly", "npm pack ./pkg --pack-destination {folder}", "npm publish T --access public", "npm run --if-present --ignore-scripts --prefix ./pkg publish", "npm run --if-present --ignore-scripts --prefix ./pkg postpublish"},
		"npm publish --ignore-scripts --tag=x":     {"npm pack --pack-destination {folder} --ignore-scripts", "npm publish T --ignore-scripts --tag=x"},
		"npm publish ./x-1.0.0.tgz --tag next":     {"npm publish T --tag next"},
		"npm publish -ws":                          {"npm run --if-present --ignore-scripts -ws prepublishOnly", "npm pack --pack-destination {folder} -ws", "npm publish T", "npm run --if-present --ignore-scripts -ws publish", "npm run --if-present --ignore-scripts -ws postpublish"},
		"npm publish -w a --workspace=b":           {"npm run --if-present --ignore-scripts -w a --workspace=b prepublishOnly", "npm pack --pack-destination {folder} -w a --workspace=b", "npm publish T", "npm run --if-present --ignore-scripts -w a --workspace=b publish", "npm run --if-present --ignore-scripts -w a --workspace=b postpublish"},
		"npm --loglevel warn publish --provenance": {"npm run --if-present --ignore-scripts --loglevel warn prepublishOnly", "npm pack --pack-destination {folder} --loglevel warn", "npm publish T --loglevel warn --provenance", "npm run --if-present --ignore-scripts --loglevel warn publish", "npm run --if-present --ignore-scripts --loglevel warn postpublish"},
		"npm publish --dry-run":                    nil,
		"npm publish --otp=1":                      nil,
		"npm publish --provenance=false":           nil,
		"npm publish lodash":                       nil,
		"npm publish ./a ./b":                      nil,
		"npm publish --tag":                        nil,
		"npm stage publish":                        nil,
	} {
		p := planNPM(strings.Fields(line), none)
		if p == nil {
			if want != nil {
				t.Errorf("%q is left alone", line)
			}
			continue
		}
		var got []string
		for _, c := range p.Before {
			got = append(got, join(c))
		}
		if p.Pack != nil {
			got = append(got, join(p.Pack))
		}
		got = append(got, join(p.Publish("T")))
		for _, c := range p.After {
			got = append(got, join(c))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q:\n%s\nwant\n%s", line, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	for _, line := range []string{"release", "release publish", "make publish", "./publish.sh", "npm", "npm --json", "pnpm publish", "npx npm publish"} {
		if planNPM(strings.Fields(line), none) != nil {
			t.Errorf("%q is taken for npm publish", line)
		}
	}
	p := planPNPM(strings.Fields("pnpm publish --no-git-checks --access public"), none)
	if join(p.Before[0]) != "pnpm run --if-present --config.enable-pre-post-scripts=false prepublishOnly" || join(p.Pack) != "pnpm pack --pack-destination {folder}" ||
		join(p.Publish("T")) != "pnpm publish T --no-git-checks --access public" || planPNPM(strings.Fields("pnpm publish -r"), none) != nil {
		t.Errorf("pnpm: %q %q %q", p.Before, p.Pack, p.Publish("T"))
	}
	p = planNPM([]string{"npm", "publish", "--registry", "http://r", "--tag", "x"}, none)
	if join(p.Publish("T")) != "npm publish T --registry http://r --tag x" {
		t.Errorf("publish: %q", p.Publish("T"))
	}
	if p := planNPM([]string{"npm", "publish"}, func(name string) string { return map[string]string{"npm_config_ignore_scripts": "true"}[name] }); len(p.Before) != 0 || len(p.After) != 0 {
		t.Error("scripts are run though they are switched off")
	}
}

func TestAnOldNPMIsKnownByItsVersion(t *testing.T) {
	t.Parallel()
	for version, tells := range map[string]bool{"10.9.9": false, "11.6.0": false, "11.10.3": false, "11.11.0": true, "11.19.1": true, "12.2.0": true, "100.0.0": true, "": false, "v12.0.0": false, "11": false, "warn\n12.0.0": false} {
		if got := npm.Link.Tells(version); got != tells {
			t.Errorf("%q: %v", version, got)
		}
	}
	for line, want := range map[string]string{"npm publish --tag x": "npm --version", "/opt/npm publish": "/opt/npm --version", "npx npm@10 publish": "", "npm exec npm publish": ""} {
		if got := strings.Join(npm.Link.Version(strings.Fields(line)), " "); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// What was published is looked for where the tool publishes it. (With the real ones:
// TestAVersionIsLookedForWhereItWasPublished of internal/e2e.)
func TestAVersionIsLookedForWhereTheToolPublishesIt(t *testing.T) {
	t.Parallel()
	none := func(string) string { return "" }
	for _, c := range []struct {
		line, name, registry, scope string
		want                        string
	}{
		{"npm publish", "a", "", "", "npm view a@1.0.0 dist.integrity --json"},
		{"npm publish", "a", "http://own", "", "npm view a@1.0.0 dist.integrity --json --registry=http://own"},
		{"npm publish --registry http://r --userconfig=f", "a", "http://own", "", "npm view a@1.0.0 dist.integrity --json --registry=http://r --userconfig=f"},
		{"npm publish", "@s/a", "http://own", "", "npm view @s/a@1.0.0 dist.integrity --json --registry=http://own"},
		{"npm publish", "@s/a", "", "http://scope", "npm view @s/a@1.0.0 dist.integrity --json --@s:registry=http://scope"},
		{"npm publish --registry=http://r", "@s/a", "http://own", "http://scope", "npm view @s/a@1.0.0 dist.integrity --json --registry=http://r --@s:registry=http://scope"},
		{"pnpm publish", "a", "", "", "pnpm view a@1.0.0 dist.integrity --json"},
		{"pnpm publish --registry http://r", "a", "http://own", "", "pnpm view a@1.0.0 dist.integrity --json --registry=http://own"},
		{"pnpm publish", "@s/a", "http://own", "", "pnpm view @s/a@1.0.0 dist.integrity --json --registry=http://own --config.@s:registry=http://own"},
		{"pnpm publish", "@s/a", "http://own", "http://scope", "pnpm view @s/a@1.0.0 dist.integrity --json --registry=http://scope --config.@s:registry=http://scope"},
		{"pnpm publish --registry=http://r", "@s/a", "", "", "npm_config_registry=http://r pnpm_config_registry=http://r pnpm view @s/a@1.0.0 dist.integrity --json"},
	} {
		plan := planNPM
		if strings.HasPrefix(c.line, "pnpm") {
			plan = planPNPM
		}
		argv, env := plan(strings.Fields(c.line), none).View(Package{Name: c.name, Version: "1.0.0", Registry: c.registry, ScopeRegistry: c.scope})
		if got := strings.Join(append(env, argv...), " "); got != c.want {
			t.Errorf("%s of %+v:\n%s\nwant\n%s", c.line, c, got, c.want)
		}
	}
}

func TestStagingIsTakenApartAsPublishing(t *testing.T) {
	t.Parallel()
	none := func(string) string { return "" }
	p := PlanStage(strings.Fields("npm stage publish --tag next"), none)
	if got := strings.Join(p.Publish("T"), " "); got != "npm stage publish T --tag next" {
		t.Errorf("%q", got)
	}
	for _, line := range []string{"npm publish", "npm stage approve x", "npm stage", "npx npm stage publish --otp=1", "echo npm stage publish"} {
		if PlanStage(strings.Fields(line), none) != nil {
			t.Errorf("%q is taken for staging", line)
		}
	}
	const id = "0c5d2a1e-9f6b-4e0a-8a57-1f2e3d4c5b6a"
	for out, want := range map[string]string{
		"+ a@1.0.0 (staged with id " + id + ")\n":           id,
		`{"a": {"id": "a@1.0.0", "stageId": "` + id + `"}}`: id,
		"":            "",
		"+ a@1.0.0\n": "",
		"(staged with id " + id + ") (staged with id " + id + ")":         "",
		"(staged with id 0c5d2a1e-9f6b-4e0a-8a57-1f2e3d4c5b6a; rm -rf /)": "",
	} {
		if got := Staged([]byte(out)); got != want {
			t.Errorf("%q: %q, want %q", out, got, want)
		}
	}
}

func TestCredentialsComeOfACodeWithoutAnArgument(t *testing.T) {
	t.Parallel()
	env := func(name string) string {
		return map[string]string{"AWS_MFA_SERIAL": "arn:aws:iam::1:mfa/ana", "AWS_MFA_DURATION": "900"}[name]
	}
	argv, err := awsArgv(env)
	if err != nil || slices.ContainsFunc(argv, func(a string) bool { return strings.Contains(a, "123456") }) {
		t.Fatal(argv, err)
	}
	if in := awsInput("123456"); in != "123456" {
		t.Errorf("standard input is %q", in)
	}
	vars, secrets, err := awsVars([]byte(`{"Credentials":{"AccessKeyId":"A","SecretAccessKey":"S","SessionToken":"T","Expiration":"x"}}`))
	if err != nil || !slices.Equal(vars, []string{"AWS_ACCESS_KEY_ID=A", "AWS_SECRET_ACCESS_KEY=S", "AWS_SESSION_TOKEN=T"}) || !slices.Equal(secrets, []string{"S", "T"}) {
		t.Error(vars, secrets, err)
	}
	for _, out := range []string{``, `{}`, `{"Credentials":{"AccessKeyId":"A"}}`, `[]`} {
		if _, _, err := awsVars([]byte(out)); err == nil {
			t.Errorf("%q has credentials", out)
		}
	}
	if _, err := awsArgv(func(string) string { return "" }); err == nil {
		t.Error("no device")
	}
	if _, err := awsArgv(func(string) string { return "12" }); err == nil {
		t.Error("a session of 12 s")
	}
}

func TestOnlyWhatIsKnownToTakeACodeTwiceIsReusable(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{"npm": true, "rubygems": true, "aws": false, Default: false, "nobody-knows": false, "": false} {
		if got := Reusable(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

// A tool that waited for its link by itself: what is the end of a link that nobody
// followed, and what is a word on what came of it.
func TestALinkThatDiedIsToldFromOneThatWasRefused(t *testing.T) {
	t.Parallel()
	const shown = "Authenticate your account at:\nhttps://www.npmjs.com/auth/cli/1\n"
	for _, c := range []struct {
		row  *Service
		out  string
		died bool
		want Verdict // where it has not died
	}{
		{npm, shown + "npm error code E404\nnpm error 404 Not Found - GET https://registry.npmjs.org/-/v1/done?authId=*** - Not found\n", true, 0},
		{npm, shown + "npm ERR! code E404\nnpm ERR! 404 Not Found - GET http://127.0.0.1:4873/done/*** - Not found\n", true, 0},
		{npm, shown + "npm error code E404\nnpm error 404 Not Found - PUT https://registry.npmjs.org/done - Not found\n", false, Failed},
		{npm, shown + "npm error code EOTP\nnpm error This operation requires a one-time password.\n", false, WantsLink},
		{npm, shown + "npm error code E429\nnpm error 429 Too Many Requests - PUT https://registry.npmjs.org/x\n", false, Limited},
		{npm, shown + "npm error code E403\nnpm error You cannot publish over the previously published versions: 1.0.0.\n", false, Exists},
		{npm, shown + "npm error canceled\n", false, Failed},
		{rubygems, "visit https://rubygems.org/webauthn_verification/abc?port=1\nThe token in the link you used has either expired or been used already.\n", true, 0},
		{rubygems, "visit https://rubygems.org/webauthn_verification/abc?port=1\nYour OTP code is incorrect. Please check it and retry.\n", false, WantsLink},
		{rubygems, "Retry later\n", false, Limited},
	} {
		r := Run{Code: 1, Out: []byte(c.out)}
		if died := c.row.Link.Died(r); died != c.died {
			t.Errorf("%s, died: %v\n%s", c.row.Name, died, c.out)
		}
		if got := c.row.Read(r); !c.died && got != c.want {
			t.Errorf("%s: %v, want %v\n%s", c.row.Name, got, c.want, c.out)
		}
	}
}
