package page

// Ringing, against the RFC's own example and against a push service that decrypts what
// it is given as a phone does.

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

func decoded(t testing.TB, s string) []byte {
	t.Helper()
	b, err := b64.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 8291, appendix A.
func TestARingIsEncryptedAsTheRFCSays(t *testing.T) {
	t.Parallel()
	key, err := ecdh.P256().NewPrivateKey(decoded(t, "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"))
	if err != nil {
		t.Fatal(err)
	}
	s := subscription{P256dh: "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4", Auth: "BTBZMqHH6r4Tts7J_aSIgg"}
	got, err := s.seal([]byte("When I grow up, I want to be a watermelon"), key, decoded(t, "DGv6ra1nlYgDCS1FRnbzlw"))
	if err != nil {
		t.Fatal(err)
	}
	const want = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN"
	if b64.EncodeToString(got) != want {
		t.Errorf("sealed as %s", b64.EncodeToString(got))
	}
}

// receiver is a phone behind a push service.
type receiver struct {
	t      *testing.T
	key    *ecdh.PrivateKey
	auth   []byte
	server *httptest.Server
	rings  chan string // what it decrypted

	mu     sync.Mutex
	status int
	vapid  string
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{t: t, auth: make([]byte, 16), rings: make(chan string, 16), status: http.StatusCreated}
	var err error
	if r.key, err = ecdh.P256().GenerateKey(rand.Reader); err != nil {
		t.Fatal(err)
	}
	_, _ = rand.Read(r.auth)
	r.server = httptest.NewTLSServer(r)
	t.Cleanup(r.server.Close)
	return r
}

// bell reaches this server by the name example.com, which its certificate has.
func (r *receiver) bell() bell {
	transport := r.server.Client().Transport.(*http.Transport).Clone()
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, r.server.Listener.Addr().String())
	}
	r.t.Cleanup(transport.CloseIdleConnections)
	b := newBell("https://cfa.home.example")
	b.client.Transport = transport
	return b
}

func (r *receiver) subscription() subscription {
	return subscription{Endpoint: "https://example.com/push/secret-of-the-phone", P256dh: b64.EncodeToString(r.key.PublicKey().Bytes()), Auth: b64.EncodeToString(r.auth)}
}

func (r *receiver) answers(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

// ServeHTTP is http.Handler's.
func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	r.mu.Lock()
	status := r.status
	r.vapid = q.Header.Get("Authorization")
	r.mu.Unlock()
	w.WriteHeader(status)
	text, err := r.opens(body)
	if err != nil || q.Method != http.MethodPost || q.Header.Get("Content-Encoding") != "aes128gcm" || q.Header.Get("TTL") != "600" || q.Header.Get("Urgency") != "high" {
		text = fmt.Sprintf("not a ring: %v %v", err, q.Header)
	}
	r.rings <- text
}

// opens decrypts, by RFC 8188 and 8291 from the receiver's side.
func (r *receiver) opens(body []byte) (string, error) {
	if len(body) < 21+65+17 || body[20] != 65 {
		return "", errors.New("too short")
	}
	salt, raw, sealed := body[:16], body[21:86], body[86:]
	theirs, err := ecdh.P256().NewPublicKey(raw)
	if err != nil {
		return "", err
	}
	shared, err := r.key.ECDH(theirs)
	if err != nil {
		return "", err
	}
	prk, err := hkdf.Extract(sha256.New, shared, r.auth)
	if err != nil {
		return "", err
	}
	ikm, err := hkdf.Expand(sha256.New, prk, "WebPush: info\x00"+string(r.key.PublicKey().Bytes())+string(raw), 32)
	if err != nil {
		return "", err
	}
	if prk, err = hkdf.Extract(sha256.New, ikm, salt); err != nil {
		return "", err
	}
	cek, err := hkdf.Expand(sha256.New, prk, "Content-Encoding: aes128gcm\x00", 16)
	if err != nil {
		return "", err
	}
	nonce, err := hkdf.Expand(sha256.New, prk, "Content-Encoding: nonce\x00", 12)
	if err != nil {
		return "", err
	}
	block, err := aes.NewCipher(cek)
	if err != nil {
		return "", err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return "", err
	}
	text, err := gcm.Open(nil, nonce, sealed, nil)
	if err != nil || len(text) == 0 || text[len(text)-1] != 2 {
		return "", fmt.Errorf("it does not open: %w", err)
	}
	return string(text[:len(text)-1]), nil
}

func TestAPhoneIsRungAndToldNothing(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	s := newPhoneStand(t, func(p *Page) { p.phone.bell = r.bell() })
	s.phone("pixel")
	s.page.phone.mu.Lock()
	ring := r.subscription()
	s.page.phone.store.phones[0].Ring = &ring
	s.page.phone.mu.Unlock()
	s.tell(prompt("A"))
	select {
	case got := <-r.rings:
		if got != "something waits" {
			t.Errorf("it was told %q", got)
		}
	case <-time.After(within):
		t.Fatal("it was not rung")
	}
	r.mu.Lock()
	vapid := r.vapid
	r.mu.Unlock()
	verified(t, vapid, s.page.phone.store.push.public())

	// A burst is one ring, and the same prompt again is none.
	s.tell(prompt("B"))
	s.tell(prompt("C"))
	s.time.move(ringEvery)
	s.tell(prompt("A"))
	s.tell(prompt("D"))
	<-r.rings
	select {
	case <-r.rings:
		t.Error("it was rung for a burst or for what was known")
	case <-time.After(100 * time.Millisecond):
	}
	// While its human is away it is not rung; when they are back it is.
	s.time.move(ringEvery)
	quiet := prompt("Q")
	quiet.Quiet = true
	s.tell(quiet)
	select {
	case <-r.rings:
		t.Error("it was rung while its human is away")
	case <-time.After(100 * time.Millisecond):
	}
	s.tell(prompt("Q"))
	<-r.rings
	// Where it is not rung any more is forgotten.
	r.answers(http.StatusGone)
	s.time.move(ringEvery)
	s.tell(prompt("E"))
	<-r.rings
	s.waits(func() bool { return !s.page.Phones()[0].Rings })
	if log := s.logged(); strings.Contains(log, "secret-of-the-phone") || strings.Contains(log, "electron") {
		t.Errorf("the log says %s", log)
	}
}

// verified checks a VAPID header from the push service's side.
func verified(t *testing.T, header, public string) {
	t.Helper()
	var token, key string
	if _, err := fmt.Sscanf(strings.ReplaceAll(header, ",", ""), "vapid t=%s k=%s", &token, &key); err != nil || key != public {
		t.Fatalf("the header is %q: %v", header, err)
	}
	parts := strings.Split(token, ".")
	raw, sig := decoded(t, key), decoded(t, parts[2])
	pub, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), raw)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if len(sig) != 64 || !ecdsa.Verify(pub, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])) {
		t.Error("its signature is not good")
	}
	var claims struct {
		Aud, Sub string
		Exp      int64
	}
	if err := json.Unmarshal(decoded(t, parts[1]), &claims); err != nil || claims.Aud != "https://example.com" || claims.Sub != "https://cfa.home.example" || time.Until(time.Unix(claims.Exp, 0)) > 24*time.Hour {
		t.Errorf("it claims %+v, %v", claims, err)
	}
}

func TestAPushServiceIsOnTheInternet(t *testing.T) {
	t.Parallel()
	good := newReceiver(t).subscription()
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for _, endpoint := range []string{
		"", "http://example.com/x", "https://127.0.0.1/x", "https://[::1]/x", "https://10.0.0.1/", "https://8.8.8.8/", "https://example.com:8443/x", "https://user@example.com/",
		"https://example.com/#x", "https:///x", "file:///etc/passwd", "https://example.com/" + strings.Repeat("x", maxPushURL),
	} {
		s := good
		if s.Endpoint = endpoint; s.check() == nil {
			t.Errorf("%.60s is taken for a push service", endpoint)
		}
	}
	for name, s := range map[string]subscription{
		"no key":       {Endpoint: good.Endpoint, Auth: good.Auth},
		"no point":     {Endpoint: good.Endpoint, P256dh: b64.EncodeToString(make([]byte, 65)), Auth: good.Auth},
		"short secret": {Endpoint: good.Endpoint, P256dh: good.P256dh, Auth: good.Auth[:20]},
	} {
		if s.check() == nil {
			t.Errorf("%s is taken", name)
		}
	}
	// A name that leads into this machine's own network.
	key, err := newPushKey()
	if err != nil {
		t.Fatal(err)
	}
	s := good
	s.Endpoint = "https://localhost/x"
	if err := newBell("https://cfa.home.example").ring(t.Context(), s, key, time.Now()); err == nil || !strings.Contains(err.Error(), "not on the internet") || strings.Contains(err.Error(), s.Endpoint) {
		t.Errorf("localhost: %v", err)
	}
	for a, want := range map[string]bool{
		"1.1.1.1": true, "2606:4700::1": true, "127.0.0.1": false, "::1": false, "10.1.2.3": false, "172.16.0.1": false, "192.168.1.1": false, "169.254.169.254": false, "100.64.0.1": false,
		"0.0.0.0": false, "::": false, "fe80::1": false, "fd00::1": false, "224.0.0.1": false, "255.255.255.255": false, "64:ff9b::7f00:1": false, "2002:7f00:1::": false, "198.18.0.1": false,
	} {
		if got := public(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
}

func FuzzSubscription(f *testing.F) {
	f.Add("https://example.com/x", "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4", "BTBZMqHH6r4Tts7J_aSIgg")
	f.Add("https://127.0.0.1/", "", "")
	f.Fuzz(func(t *testing.T, endpoint, key, auth string) {
		s := subscription{endpoint, key, auth}
		if s.check() != nil {
			return
		}
		if !strings.HasPrefix(strings.ToLower(endpoint), "https://") {
			t.Errorf("%q is rung", endpoint)
		}
		own, err := ecdh.P256().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.seal([]byte(said), own, make([]byte, 16)); err != nil {
			t.Errorf("what was checked does not seal: %v", err)
		}
	})
}
