// This file shows GitHub's row against a token service that does all that the
// real one has been seen to do, and some that a hostile one would.

package ci

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const (
	aud    = "cfa:v1:relay.example:UDXU4RCSJNZOIQHZNWXHXORDPRTGNJAHAHFRGZNEEJCPQTT2M7NLCNF4"
	bearer = "bearer-credential-of-the-job"
	leak   = "what-only-the-service-says"
)

// secrets must be in no error. The payload of the token is one of them.
var jwt = compact(`{"typ":"JWT","alg":"RS256","kid":"k"}`, githubJob, "the-signature-of-the-token")
var secrets = append(strings.Split(jwt, "."), bearer, leak)

func noSecret(t *testing.T, err error) {
	t.Helper()
	for e := err; e != nil; e = errors.Unwrap(e) {
		for _, s := range secrets {
			if strings.Contains(e.Error(), s) {
				t.Errorf("the error shows %q: %v", s, e)
			}
		}
	}
}

// waits records what is waited for, and does not wait.
type waits []time.Duration

func (w *waits) wait(ctx context.Context, d time.Duration) error {
	*w = append(*w, d)
	return ctx.Err()
}

func jobEnv(service string, w *waits) Env {
	e := env("ACTIONS_ID_TOKEN_REQUEST_URL", service, "ACTIONS_ID_TOKEN_REQUEST_TOKEN", bearer)
	e.Wait = w.wait
	return e
}

func value(token string) string {
	b, _ := json.Marshal(map[string]any{"value": token})
	return string(b)
}

func TestTheTokenIsAskedForAsGitHubWantsIt(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"/token?api-version=2.0", "/token?", "/token", "/_apis/x//y%2Fz/token?a=b%26c"} {
		var got *http.Request
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = r
			io.WriteString(w, `{"count":2131,"value":"`+jwt+`"}`)
		}))
		var w waits
		token, err := github.Token(t.Context(), jobEnv(s.URL+base, &w), aud)
		s.Close()
		if err != nil || token != jwt {
			t.Fatalf("%s: %v", base, err)
		}
		before, err := url.Parse(base)
		if err != nil {
			t.Fatal(err)
		}
		want := before.Query()
		want.Set("audience", aud)
		if got.URL.EscapedPath() != before.EscapedPath() || got.URL.Query().Encode() != want.Encode() {
			t.Errorf("%s: asked for %s", base, got.URL)
		}
		if got.Method != http.MethodGet || !strings.EqualFold(got.Header.Get("Authorization"), "bearer "+bearer) {
			t.Errorf("%s: %s with %q", base, got.Method, got.Header.Get("Authorization"))
		}
		if len(w) != 0 {
			t.Errorf("%s: waited %v", base, w)
		}
	}
}

func TestAnAudienceCannotAddToTheQuery(t *testing.T) {
	t.Parallel()
	const odd = "a&api-version=9#x y+z%41"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Get("audience") != odd || len(q) != 2 || q.Get("api-version") != "2.0" {
			t.Errorf("asked for %v", q)
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	defer s.Close()
	github.Token(t.Context(), jobEnv(s.URL+"?api-version=2.0", new(waits)), odd)
}

func TestATokenServiceThatFailsForAMomentIsAskedAgain(t *testing.T) {
	t.Parallel()
	hijack := func(w http.ResponseWriter, write string) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(conn, write)
		conn.Close()
	}
	for _, tt := range []struct {
		name string
		fail http.HandlerFunc
	}{
		{"500", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, leak, http.StatusInternalServerError) }},
		{"503", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, leak, http.StatusServiceUnavailable) }},
		{"429", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, leak, http.StatusTooManyRequests) }},
		{"hangs before it answers", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }},
		{"hangs in its answer", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"value":`)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}},
		{"hangs up", func(w http.ResponseWriter, _ *http.Request) { hijack(w, "") }},
		{"hangs up in its answer", func(w http.ResponseWriter, _ *http.Request) {
			hijack(w, "HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n{\"value\":")
		}},
		{"no HTTP", func(w http.ResponseWriter, _ *http.Request) { hijack(w, "HTTP/1.1 "+leak+" "+bearer+"\r\n\r\n") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			hangs := strings.Contains(tt.name, "hangs in") || strings.Contains(tt.name, "hangs before")
			for _, failures := range []int32{1, 3, 4} {
				if hangs && failures > 1 {
					break // as long as it is, once is enough
				}
				var asked atomic.Int32
				s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if asked.Add(1) <= failures {
						tt.fail(w, r)
						return
					}
					io.WriteString(w, value(jwt))
				}))
				var w waits
				e := jobEnv(s.URL, &w)
				if hangs {
					// The real limit is shown by TestAHungTokenServiceIsGivenUpInTime.
					e.HTTP = &http.Client{Timeout: 2 * time.Second}
				}
				token, err := github.Token(t.Context(), e, aud)
				s.CloseClientConnections()
				s.Close()
				noSecret(t, err)
				if failures == 4 {
					if err == nil || asked.Load() != 4 || !strings.Contains(err.Error(), "4 times") {
						t.Errorf("failing for good: asked %d times, %v", asked.Load(), err)
					}
					continue
				}
				if err != nil || token != jwt || asked.Load() != failures+1 {
					t.Errorf("failing %d times: asked %d times, %v", failures, asked.Load(), err)
				}
				for i, d := range w {
					if low := time.Second << i; d < low || d > low+low/4 {
						t.Errorf("wait %d is %v", i+1, d)
					}
				}
				if len(w) != int(failures) {
					t.Errorf("failing %d times: waited %d times", failures, len(w))
				}
			}
		})
	}
}

func TestWhatAskingAgainCannotMendIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	answer := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			io.WriteString(w, body)
		}
	}
	for _, tt := range []struct {
		name    string
		service http.HandlerFunc
		want    string
		denied  bool
	}{
		{"400", answer(400, leak), "answered 400", false},
		{"401", answer(401, leak), "id-token: write", true},
		{"403", answer(403, leak), "id-token: write", true},
		{"404", answer(404, leak+bearer), "answered 404", false},
		{"204", answer(204, ""), "answered 204", false},
		{"no JSON", answer(200, "<html>"+leak+bearer), "JSON object", false},
		{"an array", answer(200, `["`+jwt+`"]`), "JSON object", false},
		{"a name twice", answer(200, `{"`+leak+`":1,"`+leak+`":2}`), "JSON object", false},
		{"no value", answer(200, `{"count":1}`), "without a token", false},
		{"empty value", answer(200, `{"value":""}`), "without a token", false},
		{"null value", answer(200, `{"value":null}`), "without a token", false},
		{"value under another name", answer(200, `{"Value":"`+jwt+`"}`), "without a token", false},
		{"value is no string", answer(200, `{"value":{"value":"`+jwt+`"}}`), "without a token", false},
		{"value is no token", answer(200, value(leak)), "not an ID token", false},
		{"token for another audience", answer(200, value(compact(`{}`, `{"aud":"https://github.com/octo-org"}`, leak))), "another audience", false},
		{"token for several audiences", answer(200, value(compact(`{}`, `{"aud":["`+aud+`","x"]}`, leak))), "another audience", false},
		{"token without audience", answer(200, value(compact(`{}`, `{}`, leak))), "another audience", false},
		{"too much", func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, value(jwt)+strings.Repeat(" ", maxAnswer))
		}, "more than 65536 bytes", false},
		{"without end", func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := io.WriteString(w, strings.Repeat(" ", 4096)); err != nil {
					return
				}
			}
		}, "more than 65536 bytes", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Int32
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				tt.service(w, r)
			}))
			defer s.Close()
			var w waits
			token, err := github.Token(t.Context(), jobEnv(s.URL, &w), aud)
			if err == nil || token != "" || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
			if errors.Is(err, ErrNotGranted) != tt.denied {
				t.Errorf("ErrNotGranted = %v: %v", !tt.denied, err)
			}
			noSecret(t, err)
			if asked.Load() != 1 || len(w) != 0 {
				t.Errorf("asked %d times, waited %v", asked.Load(), w)
			}
		})
	}
}

func TestTheJobsCredentialGoesToNoOtherHost(t *testing.T) {
	t.Parallel()
	thief := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("asked with %v", r.Header)
		io.WriteString(w, value(jwt))
	}))
	defer thief.Close()
	for name, to := range map[string]string{
		"another port":               thief.URL + "/?" + bearer,
		"another name":               "http://localhost:1/" + leak,
		"another scheme":             "https://SAME/" + leak,
		"an address with a password": strings.Replace(thief.URL, "http://", "http://"+bearer+":x@", 1),
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, strings.Replace(to, "SAME", r.Host, 1), http.StatusTemporaryRedirect)
		}))
		for _, client := range []*http.Client{nil, {}} {
			e := jobEnv(s.URL, new(waits))
			e.HTTP = client
			_, err := github.Token(t.Context(), e, aud)
			if err == nil || !strings.Contains(err.Error(), "redirected to another host") {
				t.Errorf("%s: %v", name, err)
			}
			noSecret(t, err)
			if client != nil && client.CheckRedirect != nil {
				t.Error("the given client was changed")
			}
		}
		s.Close()
	}

	same := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/moved" {
			http.Redirect(w, r, "/moved?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
			return
		}
		io.WriteString(w, value(jwt))
	}))
	defer same.Close()
	if token, err := github.Token(t.Context(), jobEnv(same.URL, new(waits)), aud); err != nil || token != jwt {
		t.Errorf("a redirect on the same host: %v", err)
	}

	for _, service := range []string{
		"http://token.actions.example/x?" + leak, "http://127.0.0.1.example/" + leak, "ftp://127.0.0.1/" + leak,
		"http://localhost.example/" + leak, "http://127.0.0.1@token.actions.example/" + leak, "//token.actions.example/" + leak,
		leak, "http://[::1/" + leak,
	} {
		e := jobEnv(service, new(waits))
		e.HTTP = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			t.Errorf("%s: asked", r.URL)
			return nil, errors.New("no")
		})}
		_, err := github.Token(t.Context(), e, aud)
		if err == nil {
			t.Errorf("%s: no error", service)
		}
		noSecret(t, err)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestEachTryHasAConnectionOfItsOwn(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	from := map[string]int{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		from[r.RemoteAddr]++
		mu.Unlock()
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer s.Close()
	for _, client := range []*http.Client{nil, {Transport: new(http.Transport)}} {
		clear(from)
		e := jobEnv(s.URL, new(waits))
		e.HTTP = client
		if _, err := github.Token(t.Context(), e, aud); err == nil || len(from) != 4 {
			t.Errorf("connections and requests on them: %v (%v)", from, err)
		}
	}
}

func TestWhoAsksCanGiveUp(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	asked := 0
	e := jobEnv("https://token.example", nil)
	e.Wait = func(context.Context, time.Duration) error { return nil }
	e.HTTP = &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
		asked++
		cancel()
		return nil, errors.New("no")
	})}
	if _, err := github.Token(ctx, e, aud); !errors.Is(err, context.Canceled) || asked != 1 {
		t.Errorf("asked %d times: %v", asked, err)
	}
}

func TestAServiceThatIsNotReachedIsCalledThat(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(nil)
	gone.Close()
	var w waits
	_, err := github.Token(t.Context(), jobEnv(gone.URL, &w), aud)
	if err == nil || !strings.Contains(err.Error(), "was not reached") || len(w) != 3 {
		t.Errorf("%v (waited %v)", err, w)
	}
	e := jobEnv("https://token.example", new(waits))
	e.HTTP = &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "token.example", IsNotFound: true}}
	})}
	if _, err := github.Token(t.Context(), e, aud); err == nil || !strings.Contains(err.Error(), "name was not found") {
		t.Errorf("%v", err)
	}
}

func TestAnUntrustedCertificateIsCalledThat(t *testing.T) {
	t.Parallel()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("asked with %v", r.Header)
	}))
	s.Config.ErrorLog = discard
	s.StartTLS()
	defer s.Close()
	var w waits
	_, err := github.Token(t.Context(), jobEnv(s.URL, &w), aud)
	if err == nil || !strings.Contains(err.Error(), "authority that this machine does not know") || len(w) != 0 {
		t.Errorf("%v (waited %v)", err, w)
	}
}

func TestAJobWithoutPermissionIsToldWhatToAdd(t *testing.T) {
	t.Parallel()
	for _, e := range []Env{
		env(),
		env("ACTIONS_ID_TOKEN_REQUEST_URL", "https://token.example"),
		env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", bearer),
	} {
		_, err := github.Token(t.Context(), e, aud)
		if !errors.Is(err, ErrNotGranted) || !strings.Contains(err.Error(), "`permissions: id-token: write`") || !strings.Contains(err.Error(), "fork") {
			t.Errorf("%v", err)
		}
		noSecret(t, err)
	}
	for _, p := range Providers {
		e := jobEnv("https://token.example", new(waits))
		e.Run = func(context.Context, string, ...string) ([]byte, error) {
			t.Errorf("%s: asked for a token without audience", p.Name)
			return nil, errors.New("no")
		}
		e.HTTP = &http.Client{Transport: roundTrip(func(*http.Request) (*http.Response, error) {
			t.Errorf("%s: asked for a token without audience", p.Name)
			return nil, errors.New("no")
		})}
		if _, err := p.Token(t.Context(), e, ""); err == nil {
			t.Errorf("%s: a token without audience", p.Name)
		}
	}
}

func TestWhatATokenServiceSaidIsToldWhenTimeRunsOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		e := jobEnv("https://token.example", nil)
		e.Wait = nil
		e.HTTP = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			if tries++; tries > 1 {
				<-r.Context().Done()
				return nil, r.Context().Err()
			}
			return &http.Response{StatusCode: http.StatusServiceUnavailable, Body: http.NoBody}, nil
		})}
		// Between two tries, and in the second.
		for _, limit := range []time.Duration{500 * time.Millisecond, 5 * time.Second} {
			tries = 0
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			_, err := github.Token(ctx, e, aud)
			cancel()
			if err == nil || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "answered 503") {
				t.Errorf("within %s: %v", limit, err)
			}
		}
	})
}

func TestAHungTokenServiceIsGivenUpInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		e := jobEnv("https://token.example", nil)
		e.Wait = nil
		e.HTTP = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
			tries++
			<-r.Context().Done()
			return nil, r.Context().Err()
		})}
		began := time.Now()
		_, err := github.Token(t.Context(), e, aud)
		if err == nil || !strings.Contains(err.Error(), "in time") || tries != 4 {
			t.Errorf("%d tries: %v", tries, err)
		}
		if took := time.Since(began); took < 47*time.Second || took > 49*time.Second {
			t.Errorf("given up after %v", took)
		}

		// Who asks is free to give up earlier: in a try, and between two.
		for _, limit := range []time.Duration{5 * time.Second, 10*time.Second + 500*time.Millisecond} {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			began = time.Now()
			_, err = github.Token(ctx, e, aud)
			if took := time.Since(began); took != limit || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("limit %v: after %v: %v", limit, took, err)
			}
			cancel()
		}
	})
}

func TestHazardsAreSeenInGitHubsClaims(t *testing.T) {
	t.Parallel()
	const other = "octo-org/shared/.github/workflows/release.yml@refs/heads/main"
	const own = "octo-org/octo-repo/.github/workflows/release.yml"
	for _, tt := range []struct {
		name string
		over map[string]any
		want string // the hazards, in the table's order
	}{
		{"a push", nil, ""},
		{"a release", map[string]any{"event_name": "release"}, ""},
		{"by hand", map[string]any{"event_name": "workflow_dispatch"}, ""},
		{"a deployment", map[string]any{"event_name": "deployment", "ref": ""}, ""},
		{"names in another case", map[string]any{"repository": "Octo-Org/octo-repo"}, ""},
		{"pull_request_target", map[string]any{"event_name": "pull_request_target"}, "pull_request_target"},
		{"workflow_run", map[string]any{"event_name": "workflow_run"}, "workflow_run"},
		{"pull_request", map[string]any{"event_name": "pull_request", "ref": "refs/pull/17/merge"}, "pull_request"},
		{"review", map[string]any{"event_name": "pull_request_review"}, "pull_request"},
		{"a pull request's ref", map[string]any{"ref": "refs/pull/17/head"}, "pull_request"},
		{"comment", map[string]any{"event_name": "issue_comment"}, "outsider-event"},
		{"self-hosted", map[string]any{"runner_environment": "self-hosted"}, "self-hosted"},
		{"a runner nobody knows", map[string]any{"runner_environment": "Github-Hosted"}, "self-hosted"},
		{"reusable", map[string]any{"job_workflow_ref": other}, "reusable-workflow"},
		{"reusable of the same repository", map[string]any{"job_workflow_ref": "octo-org/octo-repo/.github/workflows/sign.yml@refs/tags/v1.2.0"}, "reusable-workflow"},
		{"the same file at another ref", map[string]any{"job_workflow_ref": own + "@refs/heads/evil"}, "reusable-workflow"},
		{"the same file at the run's commit", map[string]any{"job_workflow_ref": own + "@c040cae0f0dc81641728557b80f09cfa23b83fe5"}, ""},
		{"a name that begins the same", map[string]any{"job_workflow_ref": own + "-evil@refs/tags/v1.2.0"}, "reusable-workflow"},
		{"a required workflow", map[string]any{"workflow_ref": other, "job_workflow_ref": other}, "foreign-workflow"},
		{"a repository that begins the same", map[string]any{
			"workflow_ref":     "octo-org/octo-repo-evil/.github/workflows/release.yml@refs/tags/v1.2.0",
			"job_workflow_ref": "octo-org/octo-repo-evil/.github/workflows/release.yml@refs/tags/v1.2.0",
		}, "foreign-workflow"},
		{"two at once", map[string]any{"event_name": "workflow_run", "runner_environment": "self-hosted"}, "workflow_run self-hosted"},
		{"no ref in the workflow's", map[string]any{"workflow_ref": own, "job_workflow_ref": own}, "reusable-workflow foreign-workflow"},
	} {
		c := job(t, githubJob, tt.over)
		var got []string
		for _, h := range github.Hazards {
			if h.In(c) {
				got = append(got, h.Word)
			}
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: %v, want %q", tt.name, got, tt.want)
		}
	}
	for _, h := range github.Hazards {
		if !h.In(Claims{}) {
			t.Errorf("%s is not seen where the claims do not say", h.Word)
		}
	}
}

func TestAHumanIsShownWhatGitHubsClaimsSay(t *testing.T) {
	t.Parallel()
	want := Facts{
		Repository: "octo-org/octo-repo", Workflow: "Release", WorkflowFile: ".github/workflows/release.yml",
		Ref: "refs/tags/v1.2.0", SHA: "c040cae0f0dc81641728557b80f09cfa23b83fe5", Environment: "npm", Event: "push", Actor: "octocat",
		RunURL: "https://github.com/octo-org/octo-repo/actions/runs/22259804324/attempts/2",
		RunID:  "22259804324", RunAttempt: "2", Job: "64242424", Runner: "github-hosted", Group: "74/22259804324/2",
	}
	if got := github.Facts(job(t, githubJob, nil)); got != want {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if got := github.Facts(Claims{}); got != (Facts{}) {
		t.Errorf("of nothing: %+v", got)
	}
	for issuer, want := range map[string]string{
		"https://token.actions.githubusercontent.com/octo-inc": "https://github.com/",
		"https://token.actions.octocorp.ghe.com":               "https://octocorp.ghe.com/",
		"https://token.actions.octocorp.ghe.com/octocorp":      "https://octocorp.ghe.com/",
		"https://git.example.org/_services/token":              "https://git.example.org/",
		"https://git.example.org:8443/_services/token":         "https://git.example.org:8443/",
		"http://git.example.org/_services/token":               "",
		"https://git.example.org/_services/token/x":            "",
		"https://user@git.example.org/_services/token":         "",
		"https://token.actions..ghe.com":                       "",
		"https://token.actions.a.b.ghe.com":                    "",
		"https://token.actions.githubusercontent.com.evil.org": "",
		"http://127.0.0.1:4711":                                "",
		"":                                                     "",
	} {
		got := github.Facts(job(t, githubJob, map[string]any{"iss": issuer})).RunURL
		if want != "" {
			want += "octo-org/octo-repo/actions/runs/22259804324/attempts/2"
		}
		if got != want {
			t.Errorf("%s: run link %q, want %q", issuer, got, want)
		}
	}
	for claim, v := range map[string]string{"repository": "octo-org/octo-repo/../..", "run_id": "1/../..", "run_attempt": ""} {
		if got := github.Facts(job(t, githubJob, map[string]any{claim: v})).RunURL; got != "" {
			t.Errorf("%s = %q: run link %q", claim, v, got)
		}
	}
	for ref, want := range map[string]string{
		"octo-org/octo-repo/.github/workflows/a@b.yml@refs/tags/@scope/pkg@1.0": ".github/workflows/a@b.yml",
		"octo-org/octo-repo/.github/workflows/r.yml@refs/heads/x@refs/heads/y":  ".github/workflows/r.yml",
		"octo-org/octo-repo/.github/workflows/r.yml@c040cae0":                   ".github/workflows/r.yml",
		"octo-org/shared/.github/workflows/r.yml@refs/heads/main":               "octo-org/shared/.github/workflows/r.yml",
		"octo-org/octo-repo": "",
		"":                   "",
	} {
		if got := github.Facts(job(t, githubJob, map[string]any{"workflow_ref": ref})).WorkflowFile; got != want {
			t.Errorf("%s: workflow file %q, want %q", ref, got, want)
		}
	}
}

func TestAMaskIsOneLineThatTheRunnerTurnsBack(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]string{
		"123456":        "::add-mask::123456",
		"a%b":           "::add-mask::a%25b",
		"a%0Ab":         "::add-mask::a%250Ab",
		"a\r\nb":        "::add-mask::a%0D%0Ab",
		" 1 2 ":         "::add-mask:: 1 2 ",
		"::set-env::x]": "::add-mask::::set-env::x]",
	} {
		got, ok := github.Mask(code)
		if !ok || got != want {
			t.Errorf("Mask(%q) = %q, %v", code, got, ok)
		}
		// actions/runner, ActionCommand.UnescapeData, in its order.
		back := strings.TrimPrefix(got, "::add-mask::")
		for _, m := range [][2]string{{"%0D", "\r"}, {"%0A", "\n"}, {"%25", "%"}} {
			back = strings.ReplaceAll(back, m[0], m[1])
		}
		if back != code {
			t.Errorf("the runner masks %q for %q", back, code)
		}
	}
	for _, blank := range []string{"", " ", "\n\t"} {
		if _, ok := github.Mask(blank); ok {
			t.Errorf("Mask(%q): the runner does not mask it", blank)
		}
	}
}
