// Package page asks a human by a page in their browser, which the responder
// itself serves: never a relay, which must stay unable to read a code.
//
// The rules it keeps. Nothing is shown, and nothing is taken, without a session:
// a cookie and a token, both. A browser sends a cookie of 127.0.0.1 to every port
// there, so to whatever another user of the machine has it visit; the token is
// kept where only this page's own origin, port included, can read it. A session
// begins with a link that works once, and ends with the program, with whoever
// logs out, or when nobody has used it for half a day. A request that was not made
// by this page itself is refused before it is read: by its Host (a name that
// somebody has pointed at this address), by its Origin and by what the browser
// says of where it comes from. The page can be in no frame, loads nothing from
// elsewhere, and runs no script but its own file; what a prompt says reaches it
// as text, never as markup.
//
// What is judged is judged by the desk, as for every way to ask: this package
// hands on what a human decided.
package page

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

const (
	maxConns = 64       // at once, of anybody on this machine
	maxBody  = 64 << 10 // of a request
	// writeWithin is how long a browser may take to read a piece of what it is sent:
	// one that was put to sleep must not hold its connection for ever.
	writeWithin = 30 * time.Second
	// tick is how often words that hold an age are put anew, and with that how soon a
	// stream whose session has ended, or whose browser has gone, is.
	tick = 10 * time.Second
	// maxBackoff bounds the wait before it is listened again.
	maxBackoff = time.Minute
)

// Words are a prompt as it is put to people, in every way to ask alike.
type Words struct {
	Sentence string      `json:"sentence,omitempty"` // who wants what, of a verified one
	Rows     [][2]string `json:"rows,omitempty"`     // name and value, in the order in which they are shown
}

// Config is what a page needs.
type Config struct {
	// Describe puts a prompt into words.
	Describe func(p answer.Prompt, now time.Time) Words
	Log      *slog.Logger // nil: none
	Phone    *Phone       // nil: a page for this machine's own browser
}

// Page is an [answer.Asker]. Use it once.
type Page struct {
	config   Config
	log      *slog.Logger
	lobby    *answer.Lobby
	sessions sessions
	listen   func() (net.Listener, error)
	tick     time.Duration
	now      func() time.Time

	phone *phone // nil: see Config

	desk answer.Decisions // set before anything is served
	at   atomic.Pointer[place]
}

// place is where the page is: its origin, and what the Host of a request to it says.
type place struct {
	scheme, host string
	cookie       string // its name
}

func (p place) origin() string { return p.scheme + "://" + p.host }

// New makes a page on a random port of loopback, or for a phone.
func New(c Config) (*Page, error) {
	p := &Page{config: c, log: c.Log, lobby: answer.NewLobby(), tick: tick, now: time.Now}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.listen = func() (net.Listener, error) { return net.Listen("tcp4", "127.0.0.1:0") }
	p.sessions.now = func() time.Time { return p.now() }
	if c.Phone != nil {
		var err error
		if p.phone, err = newPhone(p, *c.Phone); err != nil {
			return nil, err
		}
		p.listen = p.phone.listen
	}
	return p, nil
}

// errAway says that nothing is listened at now.
var errAway = errors.New("the page cannot be reached now: nothing listens for it; the program tries again by itself, and its log says why")

// Link gives a link that lets one browser in, once, within [TicketLasts]. Its secret
// stands behind the #, which a browser sends nowhere.
func (p *Page) Link() (string, error) {
	at := p.at.Load()
	if at == nil {
		return "", errAway
	}
	return at.origin() + "/#" + p.sessions.ticket(TicketLasts, ""), nil
}

// Discreet is [answer.Discreet]'s: what waits is there for who looks.
func (p *Page) Discreet() {}

// Ask is [answer.Asker]'s.
func (p *Page) Ask(ctx context.Context, news <-chan answer.News, desk answer.Decisions) error {
	p.desk = desk
	serving, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { p.serve(serving) })
	if p.phone != nil {
		all.Go(func() { p.phone.rings(serving) })
	}
	err := p.lobby.Ask(ctx, news, desk)
	stop()
	all.Wait()
	return err
}

// serve serves until ctx ends, whatever happens to the listener meanwhile.
func (p *Page) serve(ctx context.Context) {
	wait := time.Second
	for ctx.Err() == nil {
		began := p.now()
		err := p.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if p.now().Sub(began) > maxBackoff {
			wait = time.Second
		}
		p.log.Error("page", "why", "it cannot be served", "error", err.Error(), "again_in", wait.String())
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		wait = min(2*wait, maxBackoff)
	}
}

// once listens and serves.
func (p *Page) once(ctx context.Context) error {
	l, err := p.listen()
	if err != nil {
		return err
	}
	defer l.Close()
	// A new port is a new origin: what was let in at the last one is not at this one.
	p.sessions.clear()
	port := l.Addr().(*net.TCPAddr).Port
	at := &place{scheme: "http", host: l.Addr().String(), cookie: fmt.Sprintf("cfa-%d", port)}
	if p.phone != nil {
		at = p.phone.at(port)
	}
	p.at.Store(at)
	defer p.at.Store(nil)
	serving, stop := context.WithCancel(ctx)
	defer stop()
	s := &http.Server{
		Handler:           p,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      writeWithin,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return serving },
		// What the server itself complains of is a stranger's doing, and holds
		// what they sent.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	var closing sync.WaitGroup
	closing.Add(1)
	context.AfterFunc(serving, func() {
		defer closing.Done()
		// A decision that is being handed to the desk may arrive; the streams have
		// just been told to end.
		ending, stop := context.WithTimeout(context.WithoutCancel(serving), 2*time.Second)
		defer stop()
		_ = s.Shutdown(ending)
		_ = s.Close()
	})
	err = s.Serve(netutil.LimitListener(l, maxConns))
	stop()
	closing.Wait()
	return err
}

//go:embed static
var static embed.FS

// files are all that is served without a session. Nothing in them is secret: they
// are the same for everybody who has this program.
var files = map[string]struct{ name, kind string }{
	"/":         {"index.html", "text/html; charset=utf-8"},
	"/page.js":  {"page.js", "text/javascript; charset=utf-8"},
	"/page.css": {"page.css", "text/css; charset=utf-8"},
	"/icon.svg": {"icon.svg", "image/svg+xml"},

	"/worker.js":            {"worker.js", "text/javascript; charset=utf-8"},
	"/manifest.webmanifest": {"manifest.webmanifest", "application/manifest+json"},
}

// policy lets the page load its own files and nothing else, run no script that is not
// one of them, not even by an attribute, make no markup out of text, and be in no frame.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types cfa"

func harden(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Frame-Options", "DENY")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Cross-Origin-Embedder-Policy", "require-corp")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=(), display-capture=(), usb=(), serial=(), hid=()")
}

// ServeHTTP is http.Handler's.
func (p *Page) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	harden(w.Header())
	at := p.at.Load()
	// A page elsewhere whose name was pointed at this address asks by that name.
	if at == nil || r.Host != at.host {
		refuse(w, http.StatusMisdirectedRequest, "this is not where this page is")
		return
	}
	site := r.Header.Get("Sec-Fetch-Site")
	if f, ok := files[r.URL.Path]; ok && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		// The page itself may be come to from anywhere: a link. Its parts are nobody
		// else's to load, nor is it anybody's to put into a frame.
		to := r.Header.Get("Sec-Fetch-Dest")
		if site != "" && (r.URL.Path != "/" && site != "same-origin" && site != "none" || to == "iframe" || to == "frame" || to == "object" || to == "embed") {
			refuse(w, http.StatusForbidden, "only this page itself loads this")
			return
		}
		data, err := static.ReadFile("static/" + f.name)
		if err != nil {
			refuse(w, http.StatusNotFound, "there is nothing here")
			return
		}
		w.Header().Set("Content-Type", f.kind)
		_, _ = w.Write(data)
		return
	}
	do, ok := deeds[r.URL.Path]
	switch {
	case !ok || do.phone && p.phone == nil || do.here && p.phone != nil:
		refuse(w, http.StatusNotFound, "there is nothing here")
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		refuse(w, http.StatusMethodNotAllowed, "this takes POST alone")
	// Browsers send Origin with each POST, and let no page choose it.
	case r.Header.Get("Origin") != at.origin(), site != "" && site != "same-origin":
		refuse(w, http.StatusForbidden, "only this page itself may ask this")
	// A form, which any page can send, cannot be of this type.
	case r.Header.Get("Content-Type") != "application/json":
		refuse(w, http.StatusUnsupportedMediaType, "this takes application/json alone")
	default:
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			refuse(w, http.StatusRequestEntityTooLarge, "that is too much, or it came too slowly")
			return
		}
		defer clear(body) // there may be a code in it
		c := &call{page: p, at: at, w: w, r: r, body: body}
		if !do.open {
			if c.session = p.sessions.find(c.cookie(), r.Header.Get(tokenHeader), !do.idle); c.session == nil {
				refuse(w, http.StatusUnauthorized, "you are not let in, or not any more")
				return
			}
		}
		do.do(c)
	}
}

// tokenHeader carries the half of a session that no other port is sent.
const tokenHeader = "X-CFA-Token"

// call is one request that has passed.
type call struct {
	page    *Page
	at      *place
	w       http.ResponseWriter
	r       *http.Request
	body    []byte
	session *session // nil: of a deed that is open
}

func (c *call) cookie() string {
	k, err := c.r.Cookie(c.at.cookie)
	if err != nil {
		return ""
	}
	return k.Value
}

// takes decodes the body; false: it was refused.
func (c *call) takes(v any) bool {
	if err := wire.Decode(c.body, maxBody, v); err != nil {
		refuse(c.w, http.StatusBadRequest, "that is not understood; load the page anew, which may be of an older version ("+strings.TrimPrefix(err.Error(), wire.ErrMalformed.Error()+": ")+")")
		return false
	}
	return true
}
