package page

// The phone's page as far as it is settled without a phone; a browser's virtual
// authenticator does the rest (phone_clients_test.go).

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-webauthn/webauthn/webauthn"
)

// newPhoneStand is newStand for phones, at localhost.
func newPhoneStand(t *testing.T, change ...func(*Page)) *stand {
	t.Helper()
	var kept []byte
	return newStandOf(t, &Phone{Listen: "127.0.0.1:0", Name: "localhost", Load: func() ([]byte, error) { return kept, nil }, Save: func(b []byte) error { kept = b; return nil }}, change...)
}

// phone gives a phone a passkey, as if it had made one.
func (s *stand) phone(name string) (id string) {
	s.t.Helper()
	h := s.page.phone
	h.mu.Lock()
	defer h.mu.Unlock()
	h.store.phones = append(h.store.phones, saved{Name: name, Added: time.Now(), Credential: webauthn.Credential{ID: []byte("id of " + name)}})
	if err := h.save(); err != nil {
		s.t.Fatal(err)
	}
	return "id of " + name
}

func TestAPhonesPageShowsNothingBeforeAPasskey(t *testing.T) {
	t.Parallel()
	s := newPhoneStand(t)
	s.tell(prompt("A"))
	v := s.visitor()
	if status, text := v.post("/api/door", "{}"); status != http.StatusOK || !strings.Contains(text, `"phone":{"push":"B`) {
		t.Errorf("the door: %d %s", status, text)
	}
	for path, d := range deeds {
		if !d.open {
			if status, text := v.post(path, "{}"); status != http.StatusUnauthorized || strings.Contains(text, "electron") {
				t.Errorf("%s: %d %s", path, status, text)
			}
		}
	}
	// A link gives a passkey, and no session.
	link, err := s.page.AddPhone("pixel")
	if err != nil {
		t.Fatal(err)
	}
	_, ticket, _ := strings.Cut(link, "#")
	if status, _ := v.post("/api/enter", `{"ticket":"`+ticket+`"}`); status != http.StatusNotFound {
		t.Errorf("a link lets in without a passkey: %d", status)
	}
	// One that is for a browser makes no passkey.
	bare, err := s.page.Link()
	if err != nil {
		t.Fatal(err)
	}
	if status, _ := v.post("/api/passkey/make", `{"ticket":"`+bare[strings.Index(bare, "#")+1:]+`"}`); status != http.StatusUnauthorized {
		t.Errorf("a link without a name makes a passkey: %d", status)
	}
	status, text := v.post("/api/passkey/make", `{"ticket":"`+ticket+`"}`)
	if status != http.StatusOK || !strings.Contains(text, `"userVerification":"required"`) || !strings.Contains(text, `"residentKey":"required"`) || !strings.Contains(text, `"id":"localhost"`) {
		t.Errorf("what is asked of the phone: %d %s", status, text)
	}
	if status, _ := v.post("/api/passkey/make", `{"ticket":"`+ticket+`"}`); status != http.StatusUnauthorized {
		t.Errorf("a link works twice: %d", status)
	}
	for _, path := range []string{"/api/passkey/made", "/api/passkey/given"} {
		for _, body := range []string{`{"ceremony":"","credential":"{}"}`, `{"ceremony":"x","credential":"` + strings.Repeat("x", 999) + `"}`} {
			if status, _ := v.post(path, body); status != http.StatusUnauthorized {
				t.Errorf("%s %s: %d", path, body, status)
			}
		}
	}
	// The ceremony of making is none of asking, and each is good for one try.
	_, rest, _ := strings.Cut(text, `"ceremony":"`)
	ceremony, _, _ := strings.Cut(rest, `"`)
	for range 2 {
		if status, _ := v.post("/api/passkey/given", `{"ceremony":"`+ceremony+`","credential":"{}"}`); status != http.StatusUnauthorized {
			t.Errorf("a ceremony of the other kind: %d", status)
		}
	}
	for range 3 * maxCeremonies {
		v.post("/api/passkey/ask", "{}")
	}
	if n := len(s.page.phone.ceremonies); n > maxCeremonies {
		t.Errorf("%d ceremonies are kept", n)
	}
	if calls := s.desk.all(); len(calls) != 0 {
		t.Errorf("the desk was told %q", calls)
	}
}

func TestARemovedPhoneIsOutAtOnce(t *testing.T) {
	t.Parallel()
	s := newPhoneStand(t)
	gone, stays := s.phone("pixel"), s.phone("iphone")
	out, in := s.visitor(), s.visitor()
	out.cookie, out.token = s.page.sessions.begin(gone)
	in.cookie, in.token = s.page.sessions.begin(stays)
	stream := out.stream()
	out.next(stream, "hello", "")
	if err := s.page.RemovePhone("pixel"); err != nil {
		t.Fatal(err)
	}
	ended(t, stream)
	if status, _ := out.post("/api/open", `{"ids":[]}`); status != http.StatusUnauthorized {
		t.Errorf("the removed one: %d", status)
	}
	if status, _ := in.post("/api/open", `{"ids":[]}`); status != http.StatusOK {
		t.Errorf("the other one: %d", status)
	}
	if err := s.page.RemovePhone("pixel"); err == nil {
		t.Error("removed twice")
	}
	for _, name := range []string{"", "iphone", "a\nb", strings.Repeat("x", 41)} {
		if _, err := s.page.AddPhone(name); err == nil {
			t.Errorf("%q is added", name)
		}
	}
	// What is saved is what is there after a restart.
	again, err := newPhone(s.page, s.page.phone.config)
	if err != nil || len(again.store.phones) != 1 || again.store.phones[0].Name != "iphone" || string(again.store.user) != string(s.page.phone.store.user) || again.store.push.public() != s.page.phone.store.push.public() {
		t.Errorf("read back: %v %+v", err, again)
	}
	for len(s.page.Phones()) < maxPhones {
		s.phone("phone " + strings.Repeat("x", len(s.page.Phones())))
	}
	if _, err := s.page.AddPhone("one more"); err == nil || !strings.Contains(err.Error(), "remove one first") {
		t.Errorf("one more: %v", err)
	}
}

// pair writes a certificate for a name and gives the files and who trusts it.
func pair(t *testing.T, dir, name string) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	form := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool = x509.NewCertPool()
	pool.AppendCertsFromPEM(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return cert, key, pool
}

func TestAPhonesPageHasItsNameAndARenewedCertificate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key, pool := pair(t, dir, "cfa.home.example")
	s := newStandOf(t, &Phone{Listen: "127.0.0.1:0", Name: "cfa.home.example:443", Cert: cert, Key: key, Load: func() ([]byte, error) { return nil, nil }, Save: func([]byte) error { return nil }},
		func(p *Page) {})
	at := *s.page.at.Load()
	if at.origin() != "https://cfa.home.example" || at.cookie != "__Host-cfa" {
		t.Errorf("it is at %+v", at)
	}
	address := s.address()
	get := func(pool *x509.CertPool, host string) (int, error) {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "cfa.home.example"}, DisableKeepAlives: true}}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+address+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		a, err := client.Do(r)
		if err != nil {
			return 0, err
		}
		a.Body.Close()
		return a.StatusCode, nil
	}
	if status, err := get(pool, "cfa.home.example"); err != nil || status != http.StatusOK {
		t.Errorf("by its name: %d %v", status, err)
	}
	for _, host := range []string{address, "evil.example", "localhost", "cfa.home.example:8443"} {
		if status, err := get(pool, host); err != nil || status != http.StatusMisdirectedRequest {
			t.Errorf("by %s: %d %v", host, status, err)
		}
	}
	// What an ACME client writes is served without a restart.
	_, _, renewed := pair(t, dir, "cfa.home.example")
	later := time.Now().Add(time.Minute)
	if err := os.Chtimes(cert, later, later); err != nil {
		t.Fatal(err)
	}
	if status, err := get(renewed, "cfa.home.example"); err != nil || status != http.StatusOK {
		t.Errorf("after it was renewed: %d %v", status, err)
	}
}

func TestAPhonesSettingsAreJudgedAtTheStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cert, key, _ := pair(t, dir, "cfa.home.example")
	fine := func() ([]byte, error) { return nil, nil }
	for want, c := range map[string]Phone{
		"":                                     {Listen: "127.0.0.1:8443", Name: "cfa.home.example", Cert: cert, Key: key},
		"can be bound to a name only":          {Listen: "127.0.0.1:8443", Name: "192.168.1.20", Cert: cert, Key: key},
		"name must be the domain name":         {Listen: "127.0.0.1:8443", Name: "https://cfa.home.example", Cert: cert, Key: key},
		"cert and key belong together":         {Listen: "127.0.0.1:8443", Name: "cfa.home.example", Cert: cert},
		"cert and key are missing":             {Listen: "127.0.0.1:8443", Name: "cfa.home.example"},
		"a page with a certificate only":       {Listen: "0.0.0.0:8443", Name: "localhost"},
		"listen must be ADDRESS:PORT":          {Listen: "8443", Name: "cfa.home.example", Cert: cert, Key: key},
		"certificate: ":                        {Listen: "127.0.0.1:8443", Name: "cfa.home.example", Cert: filepath.Join(dir, "none"), Key: key},
		"what was saved of your phones is not": {Listen: "127.0.0.1:8443", Name: "localhost", Load: func() ([]byte, error) { return []byte("{"), nil }},
	} {
		if c.Load == nil {
			c.Load = fine
		}
		c.Save = func([]byte) error { return nil }
		_, err := New(Config{Describe: words, Phone: &c})
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v", want, err)
		}
	}
}
