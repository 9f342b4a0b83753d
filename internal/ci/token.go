// This file is the ways in which a CI hands a job its ID token: a service that is
// asked over HTTP, a command that prints it, a variable or file in which it
// stands. Each is bounded in time and size, asked again where that may help, and
// its errors are in words of our own: what a token service or a command says can
// hold the token.

package ci

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"time"
)

// tokenTry bounds one try to ask a token service.
const tokenTry = 10 * time.Second

// tokenService is a service that is asked for a token over HTTP.
type tokenService struct {
	who     string // "GitHub's token service"
	denied  string // what would mend it, where the service says no
	deny    func(status int) bool
	client  *http.Client
	request func(ctx context.Context) (*http.Request, error)
	// read takes the token out of a good answer. Its error goes to the user.
	read func(h http.Header, body []byte) (string, error)
}

// ask asks for a token with that audience, and again where that may help.
func (s *tokenService) ask(ctx context.Context, env Env, audience string) (string, error) {
	return env.retry(ctx, tokenTry, func(ctx context.Context) (string, error) {
		req, err := s.request(ctx)
		if err != nil {
			return "", final{err}
		}
		// A try must not be sent down the connection on which the last one hung.
		req.Close = true
		resp, err := s.client.Do(req)
		if err != nil {
			return "", s.failure(err)
		}
		defer resp.Body.Close()
		switch code := resp.StatusCode; {
		case code == http.StatusOK:
		case s.deny(code):
			return "", final{fmt.Errorf("%w: %s answered %d; %s", ErrNotGranted, s.who, code, s.denied)}
		case code == http.StatusTooManyRequests, code >= 500:
			return "", fmt.Errorf("%s answered %d", s.who, code)
		default:
			return "", final{fmt.Errorf("%s answered %d", s.who, code)}
		}
		body, err := readAll(resp.Body)
		if errors.Is(err, errTooLong) {
			return "", final{fmt.Errorf("%s answered with more than %d bytes", s.who, maxAnswer)}
		} else if err != nil {
			return "", s.failure(err)
		}
		token, err := s.read(resp.Header, body)
		if err != nil {
			return "", final{err}
		}
		if err := ours(token, audience); err != nil {
			return "", final{err}
		}
		return token, nil
	})
}

// actionsToken asks the token service of GitHub Actions and of what is made like
// it: GET $ACTIONS_ID_TOKEN_REQUEST_URL&audience=A with the bearer token of
// $ACTIONS_ID_TOKEN_REQUEST_TOKEN gives {"value": "<token>"}. grant is what a job
// without the right to ask has to add.
func actionsToken(ctx context.Context, env Env, audience, whose, grant string) (string, error) {
	if audience == "" {
		return "", fmt.Errorf("an ID token needs an audience: without one %s gives a token that others accept too", whose)
	}
	for _, name := range []string{"ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"} {
		if env.get(name) == "" {
			return "", fmt.Errorf("%w: %s is not set; %s", ErrNotGranted, name, grant)
		}
	}
	u, err := url.Parse(env.get("ACTIONS_ID_TOKEN_REQUEST_URL"))
	if err != nil || u.Host == "" {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is not an address")
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) {
		return "", errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is not https: the job's credential is not sent in the clear")
	}
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += "audience=" + url.QueryEscape(audience)
	who := whose + "'s token service"
	s := tokenService{
		who: who, denied: grant,
		deny:   func(code int) bool { return code == http.StatusUnauthorized || code == http.StatusForbidden },
		client: tokenClient(env.HTTP, http.ProxyFromEnvironment),
		request: func(ctx context.Context) (*http.Request, error) {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
			if err != nil {
				return nil, errors.New("ACTIONS_ID_TOKEN_REQUEST_URL is not an address")
			}
			req.Header.Set("Authorization", "Bearer "+env.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN"))
			req.Header.Set("Accept", "application/json")
			return req, nil
		},
		read: func(_ http.Header, body []byte) (string, error) {
			answer, err := decode(body, maxAnswer)
			if err != nil {
				// Not the reason: it can quote names out of the answer.
				return "", errors.New(who + " did not answer with the JSON object that was expected")
			}
			token, _ := answer.String("value")
			if token == "" {
				return "", errors.New(who + " answered without a token")
			}
			return token, nil
		},
	}
	return s.ask(ctx, env, audience)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

var errRedirect = errors.New("redirected to another host")

// tokenClient is the given client, or one of our own, that follows redirects to
// the same scheme, host and port only: anything else would take the job's
// credential there.
func tokenClient(given *http.Client, proxy func(*http.Request) (*url.URL, error)) *http.Client {
	c := http.Client{
		Timeout: tokenTry,
		Transport: &http.Transport{
			Proxy:                  proxy,
			TLSHandshakeTimeout:    tokenTry,
			ForceAttemptHTTP2:      true,
			MaxResponseHeaderBytes: maxAnswer,
		},
	}
	if given != nil {
		c = *given
	}
	c.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) > 3 || req.URL.Scheme != via[0].URL.Scheme || req.URL.Host != via[0].URL.Host {
			return errRedirect
		}
		return nil
	}
	return &c
}

// failure says what went wrong in words of our own: net/http's errors quote what
// a server sent, and the address of a redirect, where a server can write the
// credential that it was shown.
func (s *tokenService) failure(err error) error {
	if errors.Is(err, errRedirect) {
		return final{errors.New(s.who + " redirected to another host; the job's credential is not sent there")}
	}
	if t, ok := errors.AsType[net.Error](err); errors.Is(err, context.DeadlineExceeded) || (ok && t.Timeout()) {
		return errors.New(s.who + " did not answer in time")
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		reason := "its name or its time does not fit"
		if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
			reason = "it is signed by an authority that this machine does not know"
		}
		return final{errors.New(s.who + " shows a TLS certificate that is not trusted: " + reason)}
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return errors.New(s.who + " was not reached: its name was not found")
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return errors.New(s.who + " was not reached: the connection was refused or there is no way to it")
	}
	return errors.New(s.who + " broke the connection before it had answered")
}

// tokenCommand is a program that prints a token.
type tokenCommand struct {
	shown   string // what it is called in errors
	missing error  // where the program is not there
	failed  string // what may be wrong where it fails
}

// commandTry bounds one run of such a program.
const commandTry = 15 * time.Second

// run runs it, and again where that may help.
func (c *tokenCommand) run(ctx context.Context, env Env, audience, name string, args ...string) (string, error) {
	return env.retry(ctx, commandTry, func(ctx context.Context) (string, error) {
		out, err := env.run(ctx, name, args...)
		switch {
		case errors.Is(err, exec.ErrNotFound):
			return "", final{c.missing}
		case ctx.Err() != nil:
			return "", fmt.Errorf("`%s` did not end within %v", c.shown, commandTry)
		case err != nil:
			// Not its words: a program's error can hold what it printed.
			status := "failed"
			if x, ok := errors.AsType[*exec.ExitError](err); ok {
				status = fmt.Sprintf("ended with status %d", x.ExitCode())
			}
			return "", fmt.Errorf("`%s` %s; %s", c.shown, status, c.failed)
		case len(out) > maxAnswer:
			return "", final{fmt.Errorf("`%s` printed more than %d bytes", c.shown, maxAnswer)}
		}
		token := string(bytes.TrimSpace(out))
		if token == "" {
			return "", final{fmt.Errorf("`%s` printed no token", c.shown)}
		}
		if err := ours(token, audience); err != nil {
			return "", final{err}
		}
		return token, nil
	})
}

// Where a job of a CI that makes tokens before the job runs finds its own.
const (
	givenToken = "CFA_ID_TOKEN"
	givenFile  = "CFA_ID_TOKEN_FILE"
)

// given says whether the job was given a token.
func (e Env) given() bool { return e.get(givenToken) != "" || e.get(givenFile) != "" }

// staticToken is the token that the job was given, in a variable or in a file. It
// must have exactly that audience, which whoever set up the job wrote there: how
// says where.
func staticToken(env Env, audience, how string) (string, error) {
	if audience == "" {
		return "", errors.New("an ID token needs an audience: one that names no relay is good at every relay")
	}
	token, path := env.get(givenToken), env.get(givenFile)
	from := givenToken
	switch {
	case token == "" && path == "":
		return "", fmt.Errorf("%w: neither %s nor %s is set; %s, with the audience %s", ErrNotGranted, givenToken, givenFile, how, audience)
	case token != "" && path != "":
		return "", fmt.Errorf("%w: %s and %s are both set; set one of them", ErrGiven, givenToken, givenFile)
	case path != "":
		from = "the file of " + givenFile
		var err error
		if token, err = readTokenFile(path); err != nil {
			return "", fmt.Errorf("%w: %s %w", ErrGiven, from, err)
		}
	}
	token = strings.TrimSpace(token)
	claims, err := Unverified(token)
	if err != nil {
		return "", fmt.Errorf("%w: what %s holds is not an ID token: %w", ErrGiven, from, err)
	}
	if ours(token, audience) != nil {
		return "", fmt.Errorf("%w: the ID token in %s is not for the audience %s alone; %s, with that audience and no other", ErrGiven, from, audience, how)
	}
	// The relay's refusal of a connection carries no reason.
	if exp, ok := claims["exp"].(json.Number); ok {
		if s, err := exp.Int64(); err == nil && time.Since(time.Unix(s, 0)) > time.Minute {
			return "", fmt.Errorf("%w: the ID token in %s has expired; it was made before the job ran, so give the job a longer time limit, or ask earlier", ErrGiven, from)
		}
	}
	return token, nil
}

// readTokenFile reads a small regular file. Its error does not show the path: a
// token that was put into the wrong variable would be the path.
func readTokenFile(path string) (string, error) {
	// Looked at before it is opened: to open a pipe can take for ever.
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return "", errors.New("is not there, or is no plain file")
	}
	f, err := os.Open(path)
	if err != nil {
		return "", errors.New("cannot be read")
	}
	defer f.Close()
	data, err := readAll(io.Reader(f))
	if err != nil {
		return "", fmt.Errorf("cannot be read, or has more than %d bytes", maxAnswer)
	}
	return string(data), nil
}

// noToken is the token of a CI that cannot give one for a relay.
func noToken(why string) func(context.Context, Env, string) (string, error) {
	return func(context.Context, Env, string) (string, error) {
		return "", fmt.Errorf("%w: %s", ErrNotGranted, why)
	}
}
