package main

// Links: a factor that is given in a human's own browser. The tool makes one when
// a human opens the prompt, because it dies within minutes; where it is asked for
// whether the link was followed never leaves this job, since what comes of it is as
// good as a code.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/continuousauth/action/internal/ask"
	"github.com/continuousauth/action/internal/child"
	"github.com/continuousauth/action/internal/service"
	"github.com/continuousauth/action/internal/wire"
)

const (
	pollTry   = 30 * time.Second // for one answer
	pollFirst = 3 * time.Second  // between two, where the service does not say
	pollLeast = time.Second      // whatever the service says: no hot loop
	pollMost  = time.Minute
	pollBody  = 64 << 10
	// linkFresh is how old a link may be that is shown again: someone else opens
	// the prompt, or the same human once more.
	linkFresh = 4 * time.Minute
)

// following is one request to follow a link, under way.
type following struct {
	*execution
	task *task
	stop context.CancelCauseFunc

	mu     sync.Mutex
	link   string
	made   time.Time
	dead   bool // the link is of no use any more
	poller context.CancelFunc
	child  *child.Process // that waits by itself
	result string         // what came of it
	over   error          // why this cannot go on
}

// errFollowed ends the asking: there is an outcome.
var errFollowed = errors.New("the link was followed")

// waitedOut is how a tool ended that waited for its link by itself, and was not
// content with what came of it. It is read as the end of any other run is.
type waitedOut struct{ res child.Result }

func (w *waitedOut) Error() string {
	return fmt.Sprintf("it ended with exit code %d after it had shown a link", w.res.Code)
}

// follow asks a human to follow a link of the tool's. It gives what comes of it,
// which is as good as a code; "" if the tool waited by itself and ended well.
func (e *execution) follow(ctx context.Context, t *task) (string, error) {
	if err := e.sure(); err != nil && e.row.Link.Pair != nil { // what comes of it is a secret then
		return "", err
	}
	config := e.config(e.relay, e.provider, e.env, e.say)
	config.Ask, config.Format = wire.AskLink, "any"
	inner, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	f := &following{execution: e, task: t, stop: stop}
	// Its own context ends with the asking, the maker's with one opening.
	config.Link = func(opening context.Context) (string, error) { return f.make(inner, opening) }
	s, err := ask.New(config)
	if err != nil {
		return "", usage("%s", plain(err))
	}
	e.say.line("%s wants a link to be followed: asking for that (service %s) as a job on %s", e.row.Title, e.row.Name, e.provider.Title)
	asked := make(chan error, 1)
	go func() { asked <- s.Follow(ctx) }()
	select {
	case err = <-asked: // declined, timed out, stopped
		stop(err)
		f.quit()
		return "", err
	case <-inner.Done():
	}
	f.quit()
	if ctx.Err() != nil {
		return "", <-asked
	}
	f.mu.Lock()
	result, over := f.result, f.over
	f.mu.Unlock()
	e.finish(ctx, s, over == nil)
	if err := <-asked; err != nil && over == nil {
		e.say.line("the relay did not confirm the end of the request: %s", err)
	}
	if over != nil {
		return "", over
	}
	if result != "" {
		if err := e.conceal(result); err != nil {
			return "", err
		}
		e.code, e.given, e.proven, e.linked, e.session = result, time.Now(), false, true, nil
	}
	e.say.line("the link was followed")
	return result, nil
}

// quit ends what still runs for a link.
func (f *following) quit() {
	f.mu.Lock()
	c, poller := f.child, f.poller
	f.mu.Unlock()
	if poller != nil {
		poller()
	}
	if c != nil {
		c.Stop()
	}
}

// end says that there is an outcome: what came of the link, or why none will.
func (f *following) end(result string, over error) {
	f.mu.Lock()
	f.result, f.over = result, over
	f.mu.Unlock()
	f.stop(errFollowed)
}

// make gives the link to show now: the one that is out, while it may still be
// followed, else a new one.
func (f *following) make(ctx, opening context.Context) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.link != "" && !f.dead && time.Since(f.made) < linkFresh {
		return f.link, nil
	}
	if f.poller != nil {
		f.poller()
		f.poller = nil
	}
	if l := f.row.Link; l.Pair != nil {
		return f.pair(ctx, opening)
	}
	return f.wait(ctx, opening)
}

// pair runs the tool, which prints where to go and where to ask, and ends.
func (f *following) pair(ctx, opening context.Context) (string, error) {
	l := f.row.Link
	res, err := f.probe(opening, f.task)
	if err != nil {
		go f.end("", err)
		return "", err
	}
	if res.Code == 0 {
		// It did not want a factor after all.
		go f.end("", nil)
		return "", errors.New("the command has ended well without one")
	}
	auth, done, ok := l.Pair(res.Out)
	if !ok {
		verdict := f.row.Read(service.Run{Code: res.Code, Out: res.Out, Err: res.Err})
		switch {
		case opening.Err() != nil:
			return "", context.Cause(opening)
		case l.Shown != nil && (verdict == service.WantsLink || verdict == service.WantsCode && l.Enter != nil):
			return f.wait(ctx, opening)
		case verdict == service.Limited:
			return "", errors.New("the service answers that there were too many tries; open the prompt again in a minute")
		}
		f.say.line("%s gave no link:", f.row.Title)
		_, _ = f.io.err.Write(res.Err)
		go f.end("", ended(res.Code))
		return "", fmt.Errorf("%s ended with exit code %d and gave none", f.row.Title, res.Code)
	}
	if err := wire.CheckLink(auth); err != nil {
		return "", fmt.Errorf("the service gave a link that cannot be shown: %s", plain(err))
	}
	u, err := pollable(done)
	if err != nil {
		return "", err
	}
	f.link, f.made, f.dead = auth, time.Now(), false
	polling, cancel := context.WithCancel(ctx)
	f.poller = cancel
	go f.poll(polling, u)
	return auth, nil
}

// wait runs the tool where it shows a link and waits by itself until that was
// followed.
func (f *following) wait(ctx, opening context.Context) (string, error) {
	if f.child != nil {
		// Its link is too old to be shown, and dies with it.
		c := f.child
		f.child = nil
		c.Stop()
	}
	l := f.row.Link
	found := make(chan string, 1)
	c := child.Command{
		Argv: f.task.argv, Env: append(f.io.environ(), l.Terminal...), Out: f.io.out, Err: f.io.err, Terminal: !l.Pipe,
		See: func(text string) {
			if m := l.Shown.FindStringSubmatch(text); m != nil {
				select {
				case found <- m[len(m)-1]:
				default:
				}
			}
		},
	}
	p, err := child.Start(context.WithoutCancel(ctx), c)
	if err != nil {
		go f.end("", startFailure(err))
		return "", err
	}
	select {
	case link := <-found:
		if err := wire.CheckLink(link); err != nil {
			p.Stop()
			return "", fmt.Errorf("the tool shows a link that cannot be passed on: %s", plain(err))
		}
		f.link, f.made, f.dead, f.child = link, time.Now(), false, p
		go f.waited(p)
		return link, nil
	case <-p.Done():
		res, err := p.Wait()
		switch {
		case err != nil:
		case res.Code != 0 && f.read(res) == service.Limited:
			err = &waitedOut{res}
		default:
			err = ended(res.Code)
		}
		go f.end("", err)
		return "", errors.New("the command has ended and shown none")
	case <-opening.Done():
		p.Stop()
		return "", context.Cause(opening)
	}
}

// waited is for a tool that waits by itself: how it ends is the outcome, unless its
// link had only died.
func (f *following) waited(p *child.Process) {
	res, err := p.Wait()
	f.mu.Lock()
	current := f.child == p
	if current {
		f.child, f.dead = nil, true
	}
	f.mu.Unlock()
	switch {
	case !current: // stopped for another
	case err != nil:
		f.end("", err)
	case res.Code == 0:
		f.end("", nil)
	case f.row.Link.Died != nil && f.row.Link.Died(service.Run{Code: res.Code, Out: child.Plain(res.Out), Err: child.Plain(res.Err)}):
		f.say.line("the link was not followed in time; whoever opens the prompt again gets a new one")
	default:
		f.end("", &waitedOut{res})
	}
}

// pollable says whether an address may be asked: it is where a secret comes from.
func pollable(done string) (*url.URL, error) {
	u, err := url.Parse(done)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, errors.New("the service gave no address to ask whether the link was followed")
	}
	ip := net.ParseIP(u.Hostname())
	if u.Scheme != "https" && (u.Scheme != "http" || u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback())) {
		return nil, errors.New("the address to ask whether the link was followed is not https")
	}
	return u, nil
}

// poll asks the service whether the link was followed, in the service's own time:
// 202 and Retry-After until then, then 200 and the token.
func (f *following) poll(ctx context.Context, u *url.URL) {
	client := pollClient()
	pause := pollFirst
	for {
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return
		}
		token, wait, err := pollOnce(ctx, client, u.String())
		switch {
		case ctx.Err() != nil:
			return
		case token != "":
			f.end(token, nil)
			return
		case errors.Is(err, errLinkDead):
			f.mu.Lock()
			f.dead = true
			f.mu.Unlock()
			f.say.line("the link was not followed in time; whoever opens the prompt again gets a new one")
			return
		case err != nil:
			// What may pass: a registry that hangs or fails for a moment.
			pause = min(max(2*pause, pollFirst), pollMost)
		default:
			pause = wait
		}
	}
}

// pollClient asks the one host that the service named, and no other.
func pollClient() *http.Client {
	return &http.Client{
		Timeout: pollTry,
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			if len(via) > 3 || req.URL.Scheme != via[0].URL.Scheme || req.URL.Host != via[0].URL.Host {
				return errors.New("redirected to another host")
			}
			return nil
		},
	}
}

// errLinkDead says that nothing will come of a link any more.
var errLinkDead = errors.New("the link is not valid any more")

// pollOnce asks once. Its errors hold nothing of what the service said.
func pollOnce(ctx context.Context, client *http.Client, address string) (token string, wait time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return "", 0, errLinkDead
	}
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return "", 0, errors.New("not reached")
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, pollBody+1))
	if err != nil || len(body) > pollBody {
		return "", 0, errors.New("the answer broke off or is too long")
	}
	switch resp.StatusCode {
	case http.StatusOK:
		var v struct {
			Token string `json:"token"`
		}
		if json.Unmarshal(body, &v) != nil || v.Token == "" || len(v.Token) > wire.MaxCode || strings.ContainsFunc(v.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			return "", 0, errLinkDead
		}
		return v.Token, 0, nil
	case http.StatusAccepted, http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return "", retryAfter(resp.Header.Get("Retry-After")), nil
	case http.StatusNotFound, http.StatusGone, http.StatusUnauthorized, http.StatusForbidden:
		return "", 0, errLinkDead
	}
	return "", 0, fmt.Errorf("answered %d", resp.StatusCode)
}

// retryAfter reads the header in seconds (RFC 9110 10.2.3), within bounds.
func retryAfter(s string) time.Duration {
	n, err := strconv.Atoi(strings.TrimSpace(s))
	if err != nil || n < 0 {
		return pollFirst
	}
	return min(max(time.Duration(n)*time.Second, pollLeast), pollMost)
}

// shown asks a human to follow a link that the tool shows while it waits by
// itself. It is run when the prompt is opened, and not before.
func (e *execution) shown(ctx context.Context, t *task) error {
	_, err := e.follow(ctx, t)
	if w, is := errors.AsType[*waitedOut](err); is {
		return ended(w.res.Code)
	}
	return err
}
