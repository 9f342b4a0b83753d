// Package clientstest is the real package managers, for tests: it installs them,
// gives each test a home of its own for them, and has them publish to
// [registrytest] and nowhere else. It is imported by tests only.
//
// The rule it keeps: what `cfa exec` believes about a client is what that client
// did here. Each version is pinned by a lock file in testdata, and this package's
// own tests (tag `clients`) hold every line below against the client itself, so
// that a version which behaves otherwise fails a test before it fails a release.
// To take a newer one: change its package.json, then, in its folder,
//
//	npm install --package-lock-only --omit-lockfile-registry-resolved
//
// How a code goes in, without a terminal; a missing code and a wrong one look
// the same unless said otherwise. The exit code of each failure is 1.
//
//	client            code by               refused, in the output                   link comes out by
//	npm 10            NPM_CONFIG_OTP        err: npm error code EOTP                 a terminal only
//	npm 11, 12        NPM_CONFIG_OTP        err: npm error code EOTP                 NPM_CONFIG_JSON=true, stdout .error.authUrl, .doneUrl
//	pnpm 11           PNPM_CONFIG_OTP       out: [ERR_PNPM_OTP_NON_INTERACTIVE]      --json or PNPM_CONFIG_JSON=true, the same fields
//	pnpm 12           PNPM_CONFIG_OTP       err: Error: ERR_PNPM_OTP_NON_INTERACTIVE --json (the variable is ignored), the same fields
//	yarn 1            a terminal only       err: Can't answer a question unless …    never
//	yarn 4            a terminal only       out: YN0033: … interactive terminal      never (npm-notice is printed)
//	lerna 9           NPM_CONFIG_OTP        err: lerna ERR! EOTP                     never
//	changesets 2      NPM_CONFIG_OTP        err: 🦋  error npm error code EOTP       stderr, whole, one per package
//	semantic-release  NPM_CONFIG_OTP        err: npm error code EOTP                 never: its npm has no terminal
//	gem 3.3           GEM_HOST_OTP_CODE     out: missing: … but no OTP code provided never
//	                                        out: wrong: Your OTP code is incorrect
//
// A link's token goes in where a code does.
//
// What else a publish can end in. "Lost": it was taken, and its answer was a 500.
//
//	client            rate limit                          lost                                    the version is there
//	npm 10            npm error code E429                 repeats, then as there                  code E403 + "cannot publish over"
//	npm 11, 12        npm error code E429                 repeats, then E403 + the sentence       "cannot publish over" without a code line, nothing sent
//	pnpm 11           [E429]                              repeats, then as there                  [E403] + "cannot publish over"
//	pnpm 12           ERR_PNPM_FAILED_TO_PUBLISH … (status 429, 500 or 403: wrapped at column 80 by "\n  │ ", in the middle of sentences
//	yarn 1            the server's words, no number       Request failed "500 …"                  "cannot publish over"
//	yarn 4            YN0035: Response Code: 429          Response Code: 500                      YN0035 + "cannot publish over"
//	lerna 9           lerna ERR! E429                     lerna ERR! E500                         exit code 0, No unpublished release found
//	changesets 2      error npm error code E429           exit code 0, without a comparison       exit code 0, No unpublished projects to publish
//	semantic-release  npm error code E429                 repeats, then E403 + the sentence       exit code 0, no new version is released: see below
//	gem 3.3           Retry later                         the server's words                      Repushing of gem versions is not allowed
//
// npm and pnpm 11 repeat a publish at a rate limit by themselves, with the same
// code, unless NPM_CONFIG_FETCH_RETRIES=0 (PNPM_CONFIG_FETCH_RETRIES=0) forbids
// it; a staging's approval is not repeated. gem repeats a push whose connection broke.
//
// Whether it can be run again after a refusal:
//
//   - npm, pnpm, yarn, gem: yes. Of a workspace (npm publish --workspaces) only what
//     is missing, by --workspace NAME: the whole command stops at the first that is there.
//   - changesets: yes, it publishes what is missing.
//   - lerna from-package: not as it is. A run that failed leaves gitHead in each
//     package.json, and the next one ends with "lerna ERR! EUNCOMMIT".
//   - semantic-release: NEVER. It pushes the tag before it publishes; the second run
//     finds the tag, publishes nothing, and ends with exit code 0.
//
// On a terminal each asks once, and a wrong code ends it with exit code 1:
//
//	client            prompt                                         a wrong code        shows what is typed
//	npm 10, 11, 12    Enter OTP:                                     EOTP                yes
//	pnpm 11, 12       Enter OTP:                                     ERR_PNPM_OTP_SECOND_CHALLENGE  yes
//	yarn 1            npm one-time password:                         Incorrect one-time password.   yes
//	yarn 4            One-time password:                             YN0041: Invalid OTP token      no
//	lerna 9           This operation requires a one-time password:   lerna ERR! EOTP     yes
//	changesets 2      npm's, one package after the other
//	gem 3.3           Code:                                          Your OTP code is incorrect     yes
//
// Colours and cursor movements stand between these words, so they are to be
// taken out first. Yarn 4 asks "Do you want to try to open this url now?" before,
// if the registry's npm-notice names one: answer n. Lerna with several packages
// asks once or once for each, as their answers arrive. npm with a link, and
// NPM_CONFIG_BROWSER=false, shows "Authenticate your account at:" and the link
// whole, and polls by itself.
package clientstest
