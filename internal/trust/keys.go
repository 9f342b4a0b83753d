package trust

// This file holds the issuers' public keys: where they come from, when they are
// asked for, and what happens when they do not come. go-oidc's own key set asks
// at every unknown key and every bad signature, waits without an end, reads
// without a limit, and takes an empty set for the new one; a stranger with a
// made-up token could keep a relay busy with it, or an issuer's bad minute end
// every job of that issuer.

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/continuousauth/action/internal/wire"
)

const (
	maxKeySet   = 256 << 10        // bytes of a discovery document or key set
	maxKeys     = 50               // usable keys in a key set
	minRSA      = 2048             // bits: RFC 7518 section 3.3
	maxRSA      = 8192             // bits: a larger one costs more to verify with than a token is worth
	fetchWithin = 10 * time.Second // for discovery and key set together
	waitAtMost  = 5 * time.Second  // that one verification waits for a fetch
	askEvery    = time.Minute      // that unknown keys make us ask one issuer
	freshEvery  = 15 * time.Minute // background refresh
	againAfter  = 30 * time.Second // background refresh after a failure
	atOnce      = 8                // fetches of Warm
)

// Keys holds the key sets of the configured issuers. All its methods may be
// called at once from several goroutines.
type Keys struct {
	sets map[string]*keySet // by issuer URL; never changed
	now  func() time.Time
	http *http.Client
	log  *slog.Logger

	waiting atomic.Int64 // how many tokens wait for any issuer's keys
}

// KeysOptions are what Keys needs from outside; each may be its zero value.
type KeysOptions struct {
	Now  func() time.Time // nil: time.Now
	HTTP *http.Client     // nil: one of our own, bounded. Redirects are restricted in either
	Log  *slog.Logger     // nil: nothing is logged
}

// keySet is what is known of one issuer's keys.
type keySet struct {
	issuer Issuer
	local  bool // the issuer is plain http on loopback: for development

	mu     sync.Mutex
	keys   map[string][]crypto.PublicKey // by key id; never changed, only replaced
	got    time.Time                     // when the keys were fetched; zero: never
	asked  time.Time                     // when an unknown key last made us ask
	failed error                         // of the last fetch
	flight chan struct{}                 // closed when the fetch under way is over; nil: none
}

// NewKeys takes the issuers, and fetches nothing yet. It refuses an issuer whose
// URL is not exactly of the form https://HOST[:PORT][/PATH] (http on a loopback
// address, for development), one that stands there twice, and one whose tokens
// its provider's row must not be used for ([ci.Provider.CheckIssuer]).
func NewKeys(issuers []Issuer, o KeysOptions) (*Keys, error) {
	k := &Keys{sets: map[string]*keySet{}, now: o.Now, log: o.Log, http: client(o.HTTP)}
	if k.now == nil {
		k.now = time.Now
	}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	for _, i := range issuers {
		i = i.named()
		switch {
		case i.Provider == nil:
			return nil, fmt.Errorf("issuer %s: no CI provider is named for it", shown(i.URL))
		case !issuerName.MatchString(i.Name):
			return nil, fmt.Errorf("issuer %s: %s is not a name ([a-z0-9._-], at most 63 characters)", shown(i.URL), shown(i.Name))
		}
		local, err := checkIssuer(i.URL)
		if err != nil {
			return nil, fmt.Errorf("issuer %s: %w", shown(i.URL), err)
		}
		if err := i.Provider.CheckIssuer(i.URL); err != nil {
			return nil, fmt.Errorf("issuer %s: %w", shown(i.URL), err)
		}
		for _, alg := range i.algs() {
			if alg != "RS256" && alg != "ES256" {
				return nil, fmt.Errorf("issuer %s: algorithm %s is not accepted; use RS256 or ES256", shown(i.URL), shown(alg))
			}
		}
		if i.KeySet != "" {
			if err := checkKeySet(i.KeySet, local); err != nil {
				return nil, fmt.Errorf("issuer %s: key set: %w", shown(i.URL), err)
			}
		}
		if k.sets[i.URL] != nil {
			return nil, fmt.Errorf("issuer %s stands there twice", shown(i.URL))
		}
		i.Algs = slices.Clone(i.algs())
		k.sets[i.URL] = &keySet{issuer: i, local: local}
	}
	return k, nil
}

// checkIssuer says whether s can be an issuer. Issuers are compared byte by byte,
// so every other spelling of the same address is a mistake that would only show
// when a job is refused; and what stands before an @ in an address is not its
// host, whatever it looks like.
func checkIssuer(s string) (local bool, err error) {
	u, local, err := checkURL(s)
	if err != nil {
		return false, err
	}
	switch {
	case strings.ContainsAny(s, "?#%\\"):
		return false, errors.New("an issuer has no query, fragment or escapes")
	case strings.HasSuffix(s, "/"):
		return false, errors.New("an issuer does not end with a slash here; write it exactly as the iss claim of its tokens")
	case u.Path != "" && path.Clean(u.Path) != u.Path:
		return false, errors.New("its path has empty or dotted parts")
	case u.Host != strings.ToLower(u.Host) || strings.HasSuffix(u.Host, ":") || u.String() != s:
		return false, errors.New("write it in its plain form: https://host/path in lower-case, nothing before or after")
	}
	return local, nil
}

// checkKeySet says whether s can be where an issuer's keys are. Another host is
// fine (some issuers keep them elsewhere), a plain connection is not: whoever
// changes the keys on the way is the issuer.
func checkKeySet(s string, issuerIsLocal bool) error {
	_, local, err := checkURL(s)
	if err != nil {
		return err
	}
	if local && !issuerIsLocal {
		return errors.New("it is plain http, and the issuer is not")
	}
	return nil
}

func checkURL(s string) (u *url.URL, local bool, err error) {
	if len(s) > 500 {
		return nil, false, errors.New("it is longer than 500 characters")
	}
	for i := 0; i < len(s); i++ {
		if s[i] <= ' ' || s[i] >= 0x7F {
			return nil, false, errors.New("it has a space, or a character that is not ASCII")
		}
	}
	u, err = url.Parse(s)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "":
		return nil, false, errors.New("it is not an address (https://host/path)")
	case u.User != nil:
		return nil, false, errors.New("it has a user name, and what follows the @ is the real host")
	case u.Scheme == "https":
		return u, false, nil
	case u.Scheme == "http" && loopback(u.Hostname()):
		return u, true, nil
	case u.Scheme == "http":
		return nil, false, errors.New("it is plain http: anybody on the way could put in keys of their own; use https (http is for loopback only)")
	}
	return nil, false, errors.New("it does not begin with https://")
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

var errRedirect = errors.New("redirected to another host")

// client is the given client, or one of our own, that does not leave the host
// it was sent to: a redirect to another one would let a page of the issuer's
// host choose the issuer's keys, or send us into the network we run in.
func client(given *http.Client) *http.Client {
	c := http.Client{Transport: &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		ForceAttemptHTTP2:      true,
		TLSHandshakeTimeout:    fetchWithin,
		MaxResponseHeaderBytes: 64 << 10,
		// Fetches are minutes apart, and one that hung must not lend its
		// connection to the next.
		DisableKeepAlives: true,
	}}
	if given != nil {
		c = *given
	}
	c.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if len(via) > 3 || r.URL.Scheme != via[0].URL.Scheme || r.URL.Host != via[0].URL.Host {
			return errRedirect
		}
		return nil
	}
	return &c
}

// Keep takes over what old knows of issuers that are the same in both, so that
// new configuration does not forget keys that cannot be fetched just now.
func (k *Keys) Keep(old *Keys) {
	if old == nil {
		return
	}
	for url, s := range k.sets {
		o := old.sets[url]
		if o == nil || o.issuer.KeySet != s.issuer.KeySet || !slices.Equal(o.issuer.Algs, s.issuer.Algs) {
			continue
		}
		o.mu.Lock()
		keys, got, asked := o.keys, o.got, o.asked
		o.mu.Unlock()
		s.mu.Lock()
		if s.got.Before(got) {
			s.keys, s.got, s.asked = keys, got, asked
		}
		s.mu.Unlock()
	}
}

// Warm fetches the keys of all issuers, once and concurrently, so that the first
// job does not wait for them. Its error joins those of the issuers that failed;
// the others work.
func (k *Keys) Warm(ctx context.Context) error {
	slots := make(chan struct{}, atOnce)
	errs := make([]error, 0, len(k.sets))
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, s := range k.sets {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := k.refresh(ctx, s); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("keys of %s: %w", s.issuer.URL, err))
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Run refreshes the keys in the background until ctx ends: every 15 minutes, and
// 30 seconds after a failure.
func (k *Keys) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, s := range k.sets {
		wg.Go(func() {
			for {
				s.mu.Lock()
				wait := freshEvery
				switch {
				case s.failed != nil:
					wait = againAfter
				case s.got.IsZero():
					wait = 0
				}
				s.mu.Unlock()
				// Up to a tenth more, so that many relays that were started
				// together do not all ask together.
				timer := time.NewTimer(wait + rand.N(wait/10+1))
				select {
				case <-ctx.Done():
					timer.Stop()
					return
				case <-timer.C:
				}
				_ = k.refresh(ctx, s) // logged where it fails
			}
		})
	}
	wg.Wait()
}

// Ages says, by issuer URL, how long ago the keys were fetched. An issuer whose
// keys never came is not in it.
func (k *Keys) Ages() map[string]time.Duration {
	ages := map[string]time.Duration{}
	for url, s := range k.sets {
		s.mu.Lock()
		if !s.got.IsZero() {
			ages[url] = k.now().Sub(s.got)
		}
		s.mu.Unlock()
	}
	return ages
}

// refresh waits for the fetch that is under way, or for a new one.
func (k *Keys) refresh(ctx context.Context, s *keySet) error {
	s.mu.Lock()
	over := k.fly(s)
	s.mu.Unlock()
	select {
	case <-over:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.failed
}

// fly starts a fetch unless one is under way. s.mu is held. The fetch has its
// own time limit and not its caller's context: others wait for it as well.
func (k *Keys) fly(s *keySet) <-chan struct{} {
	if s.flight != nil {
		return s.flight
	}
	over := make(chan struct{})
	s.flight = over
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), fetchWithin)
		defer cancel()
		began := k.now()
		keys, err := k.fetch(ctx, s)
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("no answer within %s", span(fetchWithin))
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		was := s.failed
		s.failed = err
		if err == nil {
			s.keys, s.got = keys, began
		}
		s.flight = nil
		close(over)
		switch {
		case err != nil:
			k.log.Warn("an issuer's keys were not fetched", "issuer", s.issuer.URL, "error", err.Error(), "kept", len(s.keys))
		case was != nil:
			k.log.Info("an issuer's keys are fetched again", "issuer", s.issuer.URL, "keys", len(keys))
		}
	}()
	return over
}

// mostWaiting is how many tokens wait for keys at once, of all issuers together:
// fewer than a relay has hands. A bound for each alone would let two issuers
// that hang hold them all.
const mostWaiting = 56

// queue has a token wait, if there is room.
func (k *Keys) queue() bool {
	if k.waiting.Add(1) > mostWaiting {
		k.waiting.Add(-1)
		return false
	}
	return true
}

// find gives the keys of that id. Only an id that is not known makes it ask the
// issuer, at most once a minute, and wait a few seconds; a known one is answered
// at once, whatever the network does.
func (k *Keys) find(ctx context.Context, s *keySet, kid string) ([]crypto.PublicKey, error) {
	s.mu.Lock()
	if keys := s.keys[kid]; keys != nil {
		s.mu.Unlock()
		return keys, nil
	}
	over := (<-chan struct{})(s.flight)
	if over == nil && elapsed(k.now(), s.asked, askEvery) {
		s.asked = k.now()
		over = k.fly(s)
	}
	// A token of an unknown key costs a stranger nothing, and each would hold one
	// of the relay's hands while an issuer does not answer.
	waits := over != nil && k.queue()
	s.mu.Unlock()
	late := over != nil && !waits
	if waits {
		timer := time.NewTimer(waitAtMost)
		defer timer.Stop()
		defer k.waiting.Add(-1)
		select {
		case <-over:
		case <-ctx.Done():
			late = true
		case <-timer.C:
			late = true
		}
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if keys := s.keys[kid]; keys != nil {
		return keys, nil
	}
	// Keys that were fetched this very minute answer the question: the issuer
	// has no such key. Older ones only say that nobody could be asked.
	if !s.got.IsZero() && !elapsed(k.now(), s.got, askEvery) {
		return nil, refuse(CodeSignature,
			fmt.Sprintf("the ID token is signed with a key (kid %s) that its issuer %s does not publish", shown(kid), s.issuer.URL),
			"if the issuer has changed its keys just now, try again in a minute")
	}
	why := "no answer yet"
	if s.failed != nil && !late {
		why = s.failed.Error()
	}
	return nil, &Error{Code: CodeKeys, Why: fmt.Sprintf("the keys of issuer %s cannot be fetched now", s.issuer.URL), Inside: why, Mend: "try again in a minute"}
}

// elapsed says whether d has passed since then. A clock that was set back must
// not stop us from asking until it has caught up.
func elapsed(now, then time.Time, d time.Duration) bool {
	passed := now.Sub(then)
	return then.IsZero() || passed > d || passed < -d
}

func (k *Keys) fetch(ctx context.Context, s *keySet) (map[string][]crypto.PublicKey, error) {
	from := s.issuer.KeySet
	if from == "" {
		body, err := k.get(ctx, s.issuer.URL+"/.well-known/openid-configuration")
		if err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
		// A map, because a struct would match names without regard to case.
		var document map[string]json.RawMessage
		var issuer, keySet string
		if json.Unmarshal(body, &document) != nil || json.Unmarshal(document["issuer"], &issuer) != nil || json.Unmarshal(document["jwks_uri"], &keySet) != nil {
			return nil, errors.New("discovery: not a discovery document")
		}
		// OpenID Connect Discovery section 4.3: else one issuer could pass its
		// keys off as another's.
		if issuer != s.issuer.URL {
			return nil, fmt.Errorf("discovery: the document is for another issuer, %s", shown(issuer))
		}
		if err := checkKeySet(keySet, s.local); err != nil {
			return nil, fmt.Errorf("discovery: jwks_uri %s: %w", shown(keySet), err)
		}
		from = keySet
	}
	body, err := k.get(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	keys, err := readKeys(body, s.issuer)
	if err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	return keys, nil
}

func (k *Keys) get(ctx context.Context, from string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, errors.New("not an address")
	}
	r.Header.Set("Accept", "application/json")
	resp, err := k.http.Do(r)
	if err != nil {
		if errors.Is(err, errRedirect) {
			return nil, errRedirect
		}
		// The server's own words can be in it.
		return nil, errors.New(wire.Clean(err.Error(), 300))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answered %d", resp.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxKeySet+1))
	if err != nil {
		return nil, errors.New(wire.Clean(err.Error(), 300))
	}
	if len(body) > maxKeySet {
		return nil, fmt.Errorf("answered with more than %d bytes", maxKeySet)
	}
	return body, nil
}

// readKeys reads a JWK set (RFC 7517) and takes what can verify this issuer's
// tokens: keys with an id, for signatures, of a type and size that belong to an
// algorithm it may use. Others are passed over (section 5), because issuers
// publish keys for other purposes too. A set without one that can be used is an
// error, so that an issuer's empty answer does not replace its keys.
func readKeys(body []byte, issuer Issuer) (map[string][]crypto.PublicKey, error) {
	var document map[string]json.RawMessage
	var raw []map[string]json.RawMessage
	if json.Unmarshal(body, &document) != nil || json.Unmarshal(document["keys"], &raw) != nil {
		return nil, errors.New("not a JWK set")
	}
	keys := map[string][]crypto.PublicKey{}
	n := 0
	for _, r := range raw {
		// Certificates are dropped unread: nothing here rests on them, and one
		// that Go's parser does not like would cost the key. So are the private
		// parts that a careless issuer publishes.
		plain := map[string]json.RawMessage{}
		for _, name := range []string{"kty", "use", "alg", "kid", "crv", "n", "e", "x", "y"} {
			if v, there := r[name]; there {
				plain[name] = v
			}
		}
		encoded, err := json.Marshal(plain)
		if err != nil {
			continue
		}
		var key jose.JSONWebKey
		if key.UnmarshalJSON(encoded) != nil || !key.Valid() || key.KeyID == "" || len(key.KeyID) > maxKeyID || key.Use != "" && key.Use != "sig" {
			continue
		}
		alg := ""
		switch k := key.Key.(type) {
		case *rsa.PublicKey:
			if bits := k.N.BitLen(); bits >= minRSA && bits <= maxRSA && k.E >= 3 && k.E%2 == 1 {
				alg = "RS256"
			}
		case *ecdsa.PublicKey:
			if k.Curve == elliptic.P256() {
				alg = "ES256"
			}
		}
		if !issuer.allows(alg) || key.Algorithm != "" && key.Algorithm != alg {
			continue
		}
		if n++; n > maxKeys {
			return nil, fmt.Errorf("more than %d keys", maxKeys)
		}
		keys[key.KeyID] = append(keys[key.KeyID], key.Key)
	}
	if n == 0 {
		return nil, errors.New("no key in it can be used")
	}
	return keys, nil
}
