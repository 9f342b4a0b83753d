package registrytest

// The second factor: what is demanded, and how a link is followed.

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// link is a page that somebody is to visit, and what asks for its outcome.
type link struct {
	made    time.Time
	path    string // of its page, before its id
	visited bool
	dead    bool
	token   string
}

// demand gives the answer of a registry to a request without the factor that it
// wants; r.mu is held.
func (r *Registry) demand(otp string) (reply, bool) {
	if r.config.Factor == None {
		return reply{}, false
	}
	if otp != "" {
		if used, ok := r.codes[otp]; ok && (r.config.Uses == 0 || used < r.config.Uses) {
			r.codes[otp]++
			return reply{}, false
		}
		r.wrong++
		if r.config.WrongLimit > 0 && r.wrong > r.config.WrongLimit {
			return limited(0), true
		}
	}
	// Wrong, used up and missing look the same: the real registry tells nobody which.
	answer := reply{status: http.StatusUnauthorized, header: map[string]string{"www-authenticate": "OTP"}}
	if r.config.Notice != "" {
		answer.header["npm-notice"] = r.config.Notice
	}
	if r.config.Factor == Code {
		answer.body = map[string]string{"error": "You must provide a one-time pass. Upgrade your client to npm@latest in order to use 2FA."}
		return answer, true
	}
	auth := r.newLink("/auth/cli/")
	answer.body = map[string]string{
		"message": "Two-factor authentication is required.", "authUrl": auth, "doneUrl": strings.Replace(auth, "/auth/cli/", "/done/", 1),
	}
	return answer, true
}

// newLink makes a link, and gives its page's address; r.mu is held.
func (r *Registry) newLink(path string) string {
	id := uuid()
	r.links[id] = &link{made: time.Now(), path: path, token: random(32)}
	return r.base() + path + id
}

// link gives a link that lives, or nil; r.mu is held.
func (r *Registry) link(id string) *link {
	if l, ok := r.links[id]; ok && !l.dead && (r.config.LinkLife == 0 || time.Since(l.made) <= r.config.LinkLife) {
		return l
	}
	return nil
}

// page is what stands behind authUrl and doneUrl; r.mu is held.
func (r *Registry) page(method, path string) reply {
	at := strings.LastIndexByte(path, '/') + 1
	l := r.link(path[at:])
	if l == nil || method != http.MethodGet {
		return notFound
	}
	if path[:at] == l.path {
		// Opening the page is the tap of the finger here: no browser takes part.
		if !l.visited && r.config.Spoiled > 0 {
			r.config.Spoiled--
		} else if !l.visited {
			r.codes[l.token] = 0
		}
		l.visited = true
		return reply{status: http.StatusOK, body: "You may close this page."}
	}
	if l.visited {
		return reply{status: http.StatusOK, body: map[string]string{"token": l.token}}
	}
	answer := reply{status: http.StatusAccepted, body: struct{}{}}
	if r.config.RetryAfter > 0 {
		answer.header = map[string]string{"retry-after": strconv.Itoa(r.config.RetryAfter)}
	}
	return answer
}

// ExpireLinks ends all links that were handed out, as time would.
func (r *Registry) ExpireLinks() {
	r.change(func() {
		for _, l := range r.links {
			l.dead = true
		}
	})
}

// Links are the addresses of the pages that nobody has visited and that still live.
func (r *Registry) Links() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var open []string
	for _, id := range names(r.links) {
		if l := r.links[id]; !l.visited && !l.dead {
			open = append(open, r.base()+l.path+id)
		}
	}
	return open
}

// Visit is the human: it opens the page of a link of this registry, also of one
// that claims to be elsewhere.
func (r *Registry) Visit(authURL string) error {
	path, ok := strings.CutPrefix(authURL, r.base())
	if !ok {
		// A test leaves loopback for nothing.
		return fmt.Errorf("%s is no page of this registry", authURL)
	}
	resp, err := r.Client().Get(r.URL() + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the page answers %s", resp.Status)
	}
	return nil
}

// base is what the addresses of links begin with.
func (r *Registry) base() string {
	if r.config.LinkBase != "" {
		return r.config.LinkBase
	}
	return r.URL()
}

func uuid() string {
	h := random(16)
	// Version 4, variant 1: npm refuses a stage id that is none.
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-a" + h[17:20] + "-" + h[20:]
}
