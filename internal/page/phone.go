package page

// The page for a phone: reached by a name, over TLS, on a machine of its human's own.
//
// The rule it keeps: nothing is shown before a passkey, whose key never leaves the
// phone and which the phone gives only at that name and only to a human whom it has
// recognised (a finger, a face, a PIN). A phone gets its passkey by a link that
// works once and comes from the responder's own machine.

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"github.com/continuousauth/action/internal/wire"
)

// Phone is what a page for phones needs.
type Phone struct {
	Listen string // HOST:PORT
	Name   string // the domain name by which phones reach it, with a port if it is not that of Listen
	// Cert and Key are PEM files, read again when they change. Without them only the
	// name localhost is served, on loopback, for a tunnel of one's own.
	Cert, Key string
	// Load and Save keep what must be remembered: passkeys, whom to ring and the key
	// to ring with. Load gives nil where nothing was saved yet.
	Load func() ([]byte, error)
	Save func([]byte) error
}

const (
	// addLasts is how long a link to a new passkey works: it is carried to a phone.
	addLasts = 10 * time.Minute
	// ceremonyLasts is how long a human may take to show a finger.
	ceremonyLasts = 5 * time.Minute
	maxCeremonies = 64
	maxPhones     = 8
)

// ErrPhone says what is wrong with a phone that is named.
var ErrPhone = errors.New("no such phone")

// Known is a phone that has a passkey.
type Known struct {
	Name  string
	Added time.Time
	Used  time.Time // zero: never
	Rings bool
}

// phone is the page's phone side.
type phone struct {
	page   *Page
	config Phone
	log    *slog.Logger
	auth   *webauthn.WebAuthn
	host   string // of the name, without a port
	cert   certificate
	bell   bell

	mu         sync.Mutex
	store      store
	ceremonies map[string]ceremony
}

// ceremony is a passkey that is being made or asked for.
type ceremony struct {
	until time.Time
	name  string // of the phone that is added; "": one is asked for
	data  webauthn.SessionData
}

// store is what is saved.
type store struct {
	user   []byte
	push   pushKey
	phones []saved
}

// saved is one phone.
type saved struct {
	Name       string              `json:"name"`
	Added      time.Time           `json:"added"`
	Used       time.Time           `json:"used,omitzero"`
	Credential webauthn.Credential `json:"credential"`
	Ring       *subscription       `json:"ring,omitempty"`
}

// onDisk is the store's form.
type onDisk struct {
	V      int     `json:"v"`
	User   []byte  `json:"user"`
	Push   []byte  `json:"push"` // the private key with which it rings
	Phones []saved `json:"phones"`
}

// newPhone judges the settings as far as they can be without listening.
func newPhone(p *Page, c Phone) (*phone, error) {
	h := &phone{page: p, config: c, log: p.log, ceremonies: map[string]ceremony{}}
	host, port, err := net.SplitHostPort(c.Name)
	if err != nil {
		host, port = c.Name, ""
	}
	_, notPort := strconv.ParseUint(port, 10, 16)
	switch {
	case host == "" || host != strings.ToLower(host) || strings.ContainsAny(c.Name, "/@ ") || port != "" && notPort != nil:
		return nil, fmt.Errorf("name must be the domain name by which the phone reaches this machine, in lower case, as in cfa.home.example, and not %q", wire.CleanName(c.Name, 253))
	case net.ParseIP(host) != nil:
		return nil, fmt.Errorf("name is %s, an address, and a passkey can be bound to a name only; give this machine one", host)
	case (c.Cert == "") != (c.Key == ""):
		return nil, errors.New("cert and key belong together; one of them is missing")
	}
	at, listenPort, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen must be ADDRESS:PORT, as in 192.168.1.20:8443")
	}
	if c.Cert == "" && (host != "localhost" || !loopback(at)) {
		return nil, errors.New("cert and key are missing: a phone trusts, and gives a passkey to, a page with a certificate only; get one for the name by ACME (DNS challenge), or of your private network's own authority")
	}
	if c.Cert != "" {
		h.cert = certificate{cert: c.Cert, key: c.Key}
		if _, err := h.cert.get(nil); err != nil {
			return nil, err
		}
	}
	if port == "" {
		port = listenPort
	}
	h.host = host
	origin := h.place(port).origin()
	yes := true
	h.auth, err = webauthn.New(&webauthn.Config{
		RPID: host, RPDisplayName: "cfa-responder", RPOrigins: []string{origin},
		AttestationPreference:  protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{ResidentKey: protocol.ResidentKeyRequirementRequired, RequireResidentKey: &yes, UserVerification: protocol.VerificationRequired},
	})
	if err != nil {
		return nil, fmt.Errorf("passkeys for %s: %w", wire.CleanName(origin, 300), err)
	}
	if h.bell.client == nil {
		h.bell = newBell(origin)
	}
	return h, h.load()
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// place is where the page is, at a port.
func (h *phone) place(port string) place {
	p := place{scheme: "https", host: h.host, cookie: "__Host-cfa"}
	if h.config.Cert == "" {
		p.scheme, p.cookie = "http", "cfa-"+port
	}
	if !(p.scheme == "https" && port == "443" || p.scheme == "http" && port == "80") {
		p.host += ":" + port
	}
	return p
}

// at is the place for a listener's port.
func (h *phone) at(port int) *place {
	at := h.place(fmt.Sprint(port))
	if _, p, err := net.SplitHostPort(h.config.Name); err == nil {
		at = h.place(p)
	}
	return &at
}

func (h *phone) listen() (net.Listener, error) {
	l, err := net.Listen("tcp", h.config.Listen)
	if err != nil || h.config.Cert == "" {
		return l, err
	}
	return tlsListener{tls.NewListener(l, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: h.cert.get, NextProtos: []string{"http/1.1"}}), l}, nil
}

// tlsListener has the address of what it listens on.
type tlsListener struct {
	net.Listener
	below net.Listener
}

// Addr is net.Listener's.
func (l tlsListener) Addr() net.Addr { return l.below.Addr() }

// certificate is read again when its file has changed: an ACME client renews it.
type certificate struct {
	cert, key string

	mu   sync.Mutex
	at   time.Time
	held *tls.Certificate
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := os.Stat(c.cert)
	if err == nil && (c.held == nil || !info.ModTime().Equal(c.at)) {
		var pair tls.Certificate
		// Certificate and key are replaced one after the other: in between, the old
		// pair serves.
		if pair, err = tls.LoadX509KeyPair(c.cert, c.key); err == nil {
			c.held, c.at = &pair, info.ModTime()
		}
	}
	if c.held == nil {
		return nil, fmt.Errorf("certificate: %w", err)
	}
	return c.held, nil
}

// WebAuthnID is webauthn.User's. There is one user: the responder's.
func (s store) WebAuthnID() []byte { return s.user }

// WebAuthnName is webauthn.User's.
func (s store) WebAuthnName() string { return "cfa-responder" }

// WebAuthnDisplayName is webauthn.User's.
func (s store) WebAuthnDisplayName() string { return "cfa-responder" }

// WebAuthnCredentials is webauthn.User's.
func (s store) WebAuthnCredentials() []webauthn.Credential {
	var all []webauthn.Credential
	for _, p := range s.phones {
		all = append(all, p.Credential)
	}
	return all
}

// user is what is known now, for a look that takes a while.
func (h *phone) user() store {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.store
	s.phones = append([]saved{}, s.phones...)
	return s
}

// load reads what was saved, or makes what a first start needs.
func (h *phone) load() error {
	data, err := h.config.Load()
	if err != nil {
		return err
	}
	if data == nil {
		h.store.user = make([]byte, 64)
		_, _ = rand.Read(h.store.user)
		if h.store.push, err = newPushKey(); err != nil {
			return err
		}
		return h.save()
	}
	var d onDisk
	if err := json.Unmarshal(data, &d); err != nil || d.V != 1 || len(d.User) != 64 || len(d.Phones) > maxPhones {
		return errors.New("what was saved of your phones is not readable; remove the file, and add them anew")
	}
	if h.store.push, err = parsePushKey(d.Push); err != nil {
		return err
	}
	h.store.user, h.store.phones = d.User, d.Phones
	return nil
}

// save is called with mu held, or before anything else has it.
func (h *phone) save() error {
	data, err := json.Marshal(onDisk{1, h.store.user, h.store.push.bytes(), append([]saved{}, h.store.phones...)})
	if err != nil {
		return err
	}
	return h.config.Save(data)
}

// AddPhone gives a link by which a phone gets a passkey, once.
func (p *Page) AddPhone(name string) (string, error) {
	at := p.at.Load()
	if at == nil {
		return "", errAway
	}
	h := p.phone
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case name == "" || wire.CleanName(name, 40) != name:
		return "", errors.New("a phone's name has 1 to 40 plain characters")
	case h.index(name) >= 0:
		return "", fmt.Errorf("there is a phone called %s already; remove it first, or name this one otherwise", name)
	case len(h.store.phones) >= maxPhones:
		return "", fmt.Errorf("there are %d phones, and no more can be; remove one first", maxPhones)
	}
	return at.origin() + "/#" + p.sessions.ticket(addLasts, name), nil
}

func (h *phone) index(name string) int {
	for i, s := range h.store.phones {
		if s.Name == name {
			return i
		}
	}
	return -1
}

// Phones are those that have a passkey.
func (p *Page) Phones() []Known {
	p.phone.mu.Lock()
	defer p.phone.mu.Unlock()
	var all []Known
	for _, s := range p.phone.store.phones {
		all = append(all, Known{s.Name, s.Added, s.Used, s.Ring != nil})
	}
	return all
}

// RemovePhone forgets a phone's passkey, and ends its sessions.
func (p *Page) RemovePhone(name string) error {
	h := p.phone
	h.mu.Lock()
	defer h.mu.Unlock()
	i := h.index(name)
	if i < 0 {
		return fmt.Errorf("%w: none is called %s", ErrPhone, wire.CleanName(name, 40))
	}
	id := string(h.store.phones[i].Credential.ID)
	before := h.store.phones
	h.store.phones = append(append([]saved{}, before[:i]...), before[i+1:]...)
	if err := h.save(); err != nil {
		h.store.phones = before
		return err
	}
	p.sessions.end(id)
	return nil
}

// begin keeps a ceremony, and gives its name.
func (h *phone) begin(name string, data webauthn.SessionData) string {
	id, _ := secret()
	t := h.page.now()
	h.mu.Lock()
	defer h.mu.Unlock()
	oldest := ""
	for k, c := range h.ceremonies {
		if !t.Before(c.until) {
			delete(h.ceremonies, k)
		} else if oldest == "" || c.until.Before(h.ceremonies[oldest].until) {
			oldest = k
		}
	}
	if len(h.ceremonies) >= maxCeremonies {
		delete(h.ceremonies, oldest)
	}
	h.ceremonies[id] = ceremony{t.Add(ceremonyLasts), name, data}
	return id
}

// ends uses a ceremony up.
func (h *phone) ends(id string, making bool) (ceremony, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c, ok := h.ceremonies[id]
	delete(h.ceremonies, id)
	return c, ok && h.page.now().Before(c.until) && (c.name != "") == making
}

// begun is what a phone is asked.
type begun struct {
	Ceremony string                        `json:"ceremony"`
	Make     *protocol.CredentialCreation  `json:"make,omitempty"`
	Ask      *protocol.CredentialAssertion `json:"ask,omitempty"`
}

// made is what it says to that; the credential is JSON of its own, by WebAuthn's rules
// and not by ours.
type made struct {
	Ceremony   string `json:"ceremony"`
	Credential string `json:"credential"`
}

// makePasskey begins to make one, for a phone that brings a link.
func makePasskey(c *call) {
	var q struct {
		Ticket string `json:"ticket"`
	}
	if !c.takes(&q) {
		return
	}
	name, ok := c.page.sessions.redeem(q.Ticket)
	if !ok || name == "" {
		refuse(c.w, http.StatusUnauthorized, "this link was used already, or is too old")
		return
	}
	h := c.page.phone
	user := h.user()
	options, data, err := h.auth.BeginRegistration(user, webauthn.WithExclusions(webauthn.Credentials(user.WebAuthnCredentials()).CredentialDescriptors()))
	if err != nil {
		h.log.Error("phone", "what", "a passkey cannot be asked for", "error", err.Error())
		refuse(c.w, http.StatusInternalServerError, "no passkey can be made now; the program's log says why")
		return
	}
	reply(c.w, begun{Ceremony: h.begin(name, *data), Make: options})
}

func madePasskey(c *call) {
	var q made
	if !c.takes(&q) {
		return
	}
	h := c.page.phone
	made, ok := h.ends(q.Ceremony, true)
	if !ok {
		refuse(c.w, http.StatusUnauthorized, "that took too long; begin again with a new link")
		return
	}
	user := h.user()
	parsed, err := protocol.ParseCredentialCreationResponseBytes([]byte(q.Credential))
	var credential *webauthn.Credential
	if err == nil {
		credential, err = h.auth.CreateCredential(user, made.data, parsed)
	}
	if err == nil && !credential.Flags.UserVerified {
		err = errors.New("the phone did not recognise its user")
	}
	if err != nil {
		h.log.Warn("decision", "what", "passkey", "phone", made.name, "outcome", "refused", "why", err.Error())
		refuse(c.w, http.StatusUnauthorized, "the passkey is not good")
		return
	}
	h.mu.Lock()
	if h.index(made.name) >= 0 || len(h.store.phones) >= maxPhones {
		h.mu.Unlock()
		refuse(c.w, http.StatusUnauthorized, "there is such a phone already, or there are too many")
		return
	}
	t := c.page.now()
	before := h.store.phones
	h.store.phones = append(append([]saved{}, before...), saved{Name: made.name, Added: t, Used: t, Credential: *credential})
	if err = h.save(); err != nil {
		h.store.phones = before
	}
	h.mu.Unlock()
	if err != nil {
		h.log.Error("phone", "what", "a passkey cannot be saved", "error", err.Error())
		refuse(c.w, http.StatusInternalServerError, "the passkey cannot be saved; the program's log says why")
		return
	}
	h.log.Info("decision", "what", "passkey", "phone", made.name, "outcome", "added")
	c.letIn(string(credential.ID))
}

// askPasskey asks for any of those that are known, without saying which these are.
func askPasskey(c *call) {
	h := c.page.phone
	options, data, err := h.auth.BeginDiscoverableLogin(webauthn.WithUserVerification(protocol.VerificationRequired))
	if err != nil {
		h.log.Error("phone", "what", "a passkey cannot be asked for", "error", err.Error())
		refuse(c.w, http.StatusInternalServerError, "no passkey can be asked for now; the program's log says why")
		return
	}
	reply(c.w, begun{Ceremony: h.begin("", *data), Ask: options})
}

func givenPasskey(c *call) {
	var q made
	if !c.takes(&q) {
		return
	}
	h := c.page.phone
	asked, ok := h.ends(q.Ceremony, false)
	if !ok {
		refuse(c.w, http.StatusUnauthorized, "that took too long; try again")
		return
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes([]byte(q.Credential))
	var credential *webauthn.Credential
	if err == nil {
		_, credential, err = h.auth.ValidatePasskeyLogin(func(_, handle []byte) (webauthn.User, error) {
			user := h.user()
			if string(handle) != string(user.user) {
				return nil, errors.New("it is another's")
			}
			return user, nil
		}, asked.data, parsed)
	}
	switch {
	case err != nil:
	case !credential.Flags.UserVerified:
		err = errors.New("the phone did not recognise its user")
	case credential.Authenticator.CloneWarning:
		err = errors.New("its counter went back, as that of a copy does")
	}
	if err != nil {
		h.log.Warn("decision", "what", "passkey", "outcome", "refused", "why", err.Error())
		refuse(c.w, http.StatusUnauthorized, "this passkey is not one of this responder's")
		return
	}
	h.mu.Lock()
	known := false
	for i := range h.store.phones {
		if p := &h.store.phones[i]; string(p.Credential.ID) == string(credential.ID) {
			p.Credential, p.Used, known = *credential, c.page.now(), true
		}
	}
	err = h.save()
	h.mu.Unlock()
	// A counter that is not kept would not show a copy.
	if err != nil || !known {
		refuse(c.w, http.StatusUnauthorized, "the passkey's use cannot be written down; the program's log says why")
		if err != nil {
			h.log.Error("phone", "what", "a passkey's use cannot be saved", "error", err.Error())
		}
		return
	}
	c.letIn(string(credential.ID))
}
