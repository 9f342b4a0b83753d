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
	id, base := uuid(), r.config.LinkBase
	if base == "" {
		base = r.URL()
	}
	r.links[id] = &link{made: time.Now(), token: random(32)}
	answer.body = map[string]string{
		"message": "Two-factor authentication is required.", "authUrl": base + "/auth/cli/" + id, "doneUrl": base + "/done/" + id,
	}
	return answer, true
}

// page is what stands behind authUrl and doneUrl; r.mu is held.
func (r *Registry) page(method, path string) reply {
	id := path[strings.LastIndexByte(path, '/')+1:]
	l, ok := r.links[id]
	if !ok || method != http.MethodGet || l.dead || r.config.LinkLife > 0 && time.Since(l.made) > r.config.LinkLife {
		return notFound
	}
	if strings.HasPrefix(path, "/auth/") {
		// Opening the page is the tap of the finger here: no browser takes part.
		l.visited = true
		r.codes[l.token] = 0
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
			open = append(open, r.URL()+"/auth/cli/"+id)
		}
	}
	return open
}

// Visit is the human: it opens the page of a link.
func (r *Registry) Visit(authURL string) error {
	resp, err := r.Client().Get(authURL)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the page answers %s", resp.Status)
	}
	return nil
}

func uuid() string {
	h := random(16)
	// Version 4, variant 1: npm refuses a stage id that is none.
	return h[:8] + "-" + h[8:12] + "-4" + h[13:16] + "-a" + h[17:20] + "-" + h[20:]
}
