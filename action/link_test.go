package main

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// A registry that gives a link, and whatever it likes for a token. Its npm is a
// shell's script.
func linkRegistry(t *testing.T) (url string, visits *atomic.Int32) {
	t.Helper()
	visits = &atomic.Int32{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, "/auth/cli/"):
			visits.Add(1)
		case visits.Load() == 0:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusAccepted)
		default:
			fmt.Fprint(w, `{"token":"a-token-of-the-link"}`)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL, visits
}

// publishes runs cfa exec around that npm, which takes no token but good.
func publishes(t *testing.T, good string) (ran, *atomic.Int32) {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("the npm of this test is a shell's script")
	}
	url, visits := linkRegistry(t)
	bin := t.TempDir()
	npm := `#!/bin/sh
if [ "$NPM_CONFIG_OTP" = "$GOOD" ]; then echo "+ x@1.0.0"; exit 0; fi
echo 'npm error code EOTP' >&2
echo 'npm error Open this URL in your browser to authenticate:' >&2
if [ "$NPM_CONFIG_JSON" = true ]; then echo '{"error":{"code":"EOTP","authUrl":"'$REGISTRY'/auth/cli/1","doneUrl":"'$REGISTRY'/done/secret-id"}}'; fi
exit 1
`
	if err := os.WriteFile(filepath.Join(bin, "npm"), []byte(npm), 0o700); err != nil {
		t.Fatal(err)
	}
	r := startRelay(t, t.TempDir())
	e := &environment{lines: append(r.job(t), "CFA_PROJECT=follows")}
	var out, log bytes.Buffer
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	code := run(t.Context(), []string{"exec", "--no-pack", "--", "npm", "publish"}, stdio{out: &out, err: &log, getenv: e.get, environ: func() []string {
		return append(os.Environ(), "GOOD="+good, "REGISTRY="+url)
	}})
	return ran{code: code, out: out.String(), err: log.String(), env: e}, visits
}

func TestALinkIsFollowedAndWhatComesOfItIsTreatedAsACode(t *testing.T) {
	got, visits := publishes(t, "a-token-of-the-link")
	if got.code != 0 || visits.Load() != 1 || got.out != "+ x@1.0.0\n" {
		t.Errorf("exit code %d, %d visits, %q\n%s", got.code, visits.Load(), got.out, got.err)
	}
	if !strings.Contains(got.err, "::add-mask::a-token-of-the-link") || strings.Contains(got.err, "secret-id") {
		t.Errorf("the token is not masked, or where to ask for it is in the log:\n%s", got.err)
	}
}

// A registry that never takes what it gave must not have a human follow link after
// link.
func TestRefusedLinksAreLimitedAsCodesAre(t *testing.T) {
	got, visits := publishes(t, "nothing")
	if n := strings.Count(got.err, "request accepted for project"); got.code != 1 || n != 3 || visits.Load() != 3 {
		t.Errorf("exit code %d, %d requests, %d visits\n%s", got.code, n, visits.Load(), got.err)
	}
	if !strings.Contains(got.err, "npm has refused 3 codes: giving up") {
		t.Errorf("nothing says why:\n%s", got.err)
	}
}

// An older npm prints no address, and waits for its link at a terminal of its own.
// How it ends then is read as any other end: a limit is waited for, a token that was
// refused is followed by the next link, and a failure stays one.
func TestHowAToolEndsThatWaitedForItsLinkIsReadAsAnyEnd(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the npm of this test is a shell's script")
	}
	for _, c := range []struct {
		ends  string // of the runs at a terminal, one after the other
		code  int
		links int
		want  []string
	}{
		{"E429 EOTP ok", 0, 3, []string{"no word on the code: waiting", "npm refused what came of the link: asking for another (1 of 2)"}},
		{"E403 ok", 1, 1, nil},
		{"EOTP EOTP EOTP ok", 1, 3, []string{"npm has refused 3 codes: giving up"}},
		// Each costs a human a link.
		{"E429 E429 E429 ok", 1, 3, []string{"still answers that there were too many tries: giving up"}},
	} {
		t.Run(c.ends, func(t *testing.T) {
			url, visits := linkRegistry(t)
			bin := t.TempDir()
			npm := `#!/bin/sh
if [ -t 0 ]; then
	printf 'Authenticate your account at:\n%s/auth/cli/1\n' "$REGISTRY"
	read -r first rest <"$ENDS"
	echo "$rest" >"$ENDS"
	# As npm, it goes on when somebody has been there.
	until grep -q . "$VISITED" 2>/dev/null; do sleep 0.01; done
	: >"$VISITED"
	[ "$first" != ok ] || { echo "+ x@1.0.0"; exit 0; }
	echo "npm error code $first"
	exit 1
fi
echo 'npm error code EOTP' >&2
echo 'npm error Open this URL in your browser to authenticate:' >&2
exit 1
`
			ends, visited := filepath.Join(bin, "ends"), filepath.Join(bin, "visited")
			for file, text := range map[string]string{"npm": npm, "ends": c.ends + "\n"} {
				if err := os.WriteFile(filepath.Join(bin, file), []byte(text), 0o700); err != nil {
					t.Fatal(err)
				}
			}
			done := make(chan struct{})
			gone := make(chan struct{})
			go func() {
				defer close(gone)
				for seen := int32(0); ; {
					if n := visits.Load(); n > seen {
						seen = n
						_ = os.WriteFile(visited, []byte("yes"), 0o600)
					}
					select {
					case <-done:
						return
					case <-time.After(5 * time.Millisecond):
					}
				}
			}()
			r := startRelay(t, t.TempDir())
			e := &environment{lines: append(r.job(t), "CFA_PROJECT=follows")}
			var out, log bytes.Buffer
			t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
			code := run(t.Context(), []string{"exec", "--no-pack", "--", "npm", "publish"}, stdio{
				out: &out, err: &log, getenv: e.get,
				pause:   func(time.Duration) time.Duration { return time.Millisecond },
				environ: func() []string { return append(os.Environ(), "REGISTRY="+url, "ENDS="+ends, "VISITED="+visited) },
			})
			close(done)
			<-gone
			if n := strings.Count(log.String(), "request accepted for project"); code != c.code || n != c.links {
				t.Errorf("exit code %d, %d requests\n%s", code, n, &log)
			}
			for _, want := range c.want {
				if !strings.Contains(log.String(), want) {
					t.Errorf("the log has no %q:\n%s", want, &log)
				}
			}
		})
	}
}

func TestTheMannersOfPolling(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]time.Duration{"": pollFirst, "2": 2 * time.Second, "0": pollLeast, "-1": pollFirst, "soon": pollFirst, "86400": pollMost, " 5 ": 5 * time.Second} {
		if got := retryAfter(header); got != want {
			t.Errorf("Retry-After %q: %s, want %s", header, got, want)
		}
	}
	for address, good := range map[string]bool{
		"https://registry.npmjs.org/-/v1/done?authId=x": true, "http://127.0.0.1:4873/done": true, "http://localhost/done": true,
		"http://registry.npmjs.org/done": false, "https://user@registry.npmjs.org/done": false, "file:///etc/passwd": false, "": false, "https://": false,
	} {
		if _, err := pollable(address); (err == nil) != good {
			t.Errorf("%q: %v", address, err)
		}
	}
	replies := make(chan func(http.ResponseWriter), 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { (<-replies)(w) }))
	defer s.Close()
	status := func(code int) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { w.WriteHeader(code) }
	}
	body := func(text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { fmt.Fprint(w, text) }
	}
	for name, c := range map[string]struct {
		reply func(http.ResponseWriter)
		token string
		dead  bool
		fails bool
	}{
		"not yet":       {status(202), "", false, false},
		"slow down":     {status(429), "", false, false},
		"gone":          {status(404), "", true, true},
		"a failure":     {status(500), "", false, true},
		"a token":       {body(`{"token":"abc","more":1}`), "abc", false, false},
		"no token":      {body(`{}`), "", true, true},
		"not JSON":      {body(`<html>`), "", true, true},
		"a line break":  {body(`{"token":"a\nb"}`), "", true, true},
		"a long one":    {body(`{"token":"` + strings.Repeat("x", 600) + `"}`), "", true, true},
		"a long answer": {body(strings.Repeat("x", pollBody+1)), "", false, true},
	} {
		replies <- c.reply
		token, _, err := pollOnce(t.Context(), s.Client(), s.URL)
		if token != c.token || (err == errLinkDead) != c.dead || (err != nil) != c.fails {
			t.Errorf("%s: %q, %v", name, token, err)
		}
	}
}

// What comes of a link is a secret, and comes from the host that the registry named.
func TestPollingIsSentToNoOtherHost(t *testing.T) {
	t.Parallel()
	token := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"token":"abc"}`) }
	other := httptest.NewServer(http.HandlerFunc(token))
	defer other.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/moved", token)
	mux.Handle("/here", http.RedirectHandler("/moved", http.StatusFound))
	mux.Handle("/away", http.RedirectHandler(other.URL, http.StatusFound))
	mux.Handle("/round", http.RedirectHandler("/round", http.StatusFound))
	s := httptest.NewServer(mux)
	defer s.Close()
	for path, want := range map[string]string{"/here": "abc", "/away": "", "/round": ""} {
		if got, _, err := pollOnce(t.Context(), pollClient(), s.URL+path); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", path, got, err)
		}
	}
}

// Nobody is asked to follow a link of which nothing that comes could be masked.
func TestNoLinkIsAskedForWhereNothingCanBeMasked(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the npm of this test is a shell's script")
	}
	bin := t.TempDir()
	npm := `#!/bin/sh
echo '::stop-commands::two words' >&2
echo 'npm error code EOTP' >&2
echo 'npm error Open this URL in your browser to authenticate:' >&2
exit 1
`
	if err := os.WriteFile(filepath.Join(bin, "npm"), []byte(npm), 0o700); err != nil {
		t.Fatal(err)
	}
	r := startRelay(t, t.TempDir())
	e := &environment{lines: append(r.job(t), "CFA_PROJECT=follows")}
	var out, log bytes.Buffer
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	code := run(t.Context(), []string{"exec", "--no-pack", "--", "npm", "publish"}, stdio{out: &out, err: &log, getenv: e.get, environ: os.Environ})
	if code != exitCancelled || strings.Contains(log.String(), "request accepted") || !strings.Contains(log.String(), "no code was used") {
		t.Errorf("exit code %d\n%s", code, &log)
	}
}
