package page

// Ringing a phone: Web Push (RFC 8030), encrypted for the phone (RFC 8291) and signed
// by this responder's own key (RFC 8292). The company whose push service carries it
// learns that this responder rings this phone, and when; nothing of what asks is in
// it, not even for the phone.

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"github.com/continuousauth/action/internal/answer"
)

const (
	// said is all that is sent.
	said = "something waits"
	// ringLasts is how long a push service keeps it for a phone that is away: a ring
	// of an hour ago is about what is over.
	ringLasts = 10 * time.Minute
	// ringEvery is how often a phone is rung at most; a burst is one ring.
	ringEvery  = 15 * time.Second
	pushWithin = 15 * time.Second
	maxPushURL = 1 << 10
	recordSize = 4096
)

var b64 = base64.RawURLEncoding

// subscription is where a phone is rung, as its browser gave it.
type subscription struct {
	Endpoint string `json:"endpoint"`
	P256dh   string `json:"p256dh"` // its public key
	Auth     string `json:"auth"`   // a secret of its own
}

// check refuses what cannot be a push service. The addresses that its name stands for
// are judged when it is connected to.
func (s subscription) check() error {
	u, err := url.Parse(s.Endpoint)
	switch {
	case err != nil || len(s.Endpoint) > maxPushURL || u.Scheme != "https" || u.User != nil || u.Fragment != "" || u.Hostname() == "":
		return errors.New("the push service's address is not an https URL")
	case u.Port() != "" && u.Port() != "443":
		return errors.New("the push service's address has a port of its own, as none has")
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil {
		return fmt.Errorf("the push service's address is %s, and not a name", ip)
	}
	_, _, err = s.keys()
	return err
}

func (s subscription) keys() (*ecdh.PublicKey, []byte, error) {
	raw, err := b64.DecodeString(s.P256dh)
	if err != nil {
		return nil, nil, errors.New("the phone's key is not base64url")
	}
	key, err := ecdh.P256().NewPublicKey(raw)
	if err != nil {
		return nil, nil, errors.New("the phone's key is no point of P-256")
	}
	auth, err := b64.DecodeString(s.Auth)
	if err != nil || len(auth) != 16 {
		return nil, nil, errors.New("the phone's secret has not 16 bytes")
	}
	return key, auth, nil
}

// seal encrypts text for the phone: RFC 8291, one record of RFC 8188. key and salt are
// for this message alone.
func (s subscription) seal(text []byte, key *ecdh.PrivateKey, salt []byte) ([]byte, error) {
	theirs, auth, err := s.keys()
	if err != nil {
		return nil, err
	}
	shared, err := key.ECDH(theirs)
	if err != nil {
		return nil, err
	}
	ours := key.PublicKey().Bytes()
	ikm, err := hkdf.Key(sha256.New, shared, auth, "WebPush: info\x00"+string(theirs.Bytes())+string(ours), 32)
	if err != nil {
		return nil, err
	}
	cek, err := hkdf.Key(sha256.New, ikm, salt, "Content-Encoding: aes128gcm\x00", 16)
	if err != nil {
		return nil, err
	}
	nonce, err := hkdf.Key(sha256.New, ikm, salt, "Content-Encoding: nonce\x00", 12)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(cek)
	if err != nil {
		return nil, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	out := append([]byte{}, salt...)
	out = binary.BigEndian.AppendUint32(out, recordSize)
	out = append(append(out, byte(len(ours))), ours...)
	return gcm.Seal(out, nonce, append(bytes.Clone(text), 2), nil), nil // 2: the last record
}

// pushKey is the responder's own, by which push services know it again (VAPID).
type pushKey struct{ key *ecdsa.PrivateKey }

func newPushKey() (pushKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return pushKey{key}, err
}

func parsePushKey(der []byte) (pushKey, error) {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err == nil {
		if k, ok := key.(*ecdsa.PrivateKey); ok && k.Curve == elliptic.P256() {
			return pushKey{k}, nil
		}
	}
	return pushKey{}, errors.New("the saved key to ring phones with is not readable; remove the file, and add your phones anew")
}

func (k pushKey) bytes() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(k.key)
	if err != nil {
		panic(err) // a key of P-256 that was made or read here
	}
	return der
}

func (k pushKey) public() string {
	pub, err := k.key.PublicKey.ECDH()
	if err != nil {
		panic(err) // as above
	}
	return b64.EncodeToString(pub.Bytes())
}

// vapid signs for one push service: RFC 8292.
func (k pushKey) vapid(endpoint, subject string, t time.Time) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil {
		return "", err
	}
	claims, err := json.Marshal(map[string]any{"aud": u.Scheme + "://" + u.Host, "exp": t.Add(time.Hour).Unix(), "sub": subject})
	if err != nil {
		return "", err
	}
	token := b64.EncodeToString([]byte(`{"typ":"JWT","alg":"ES256"}`)) + "." + b64.EncodeToString(claims)
	sum := sha256.Sum256([]byte(token))
	r, s, err := ecdsa.Sign(rand.Reader, k.key, sum[:])
	if err != nil {
		return "", err
	}
	sig := make([]byte, 64)
	r.FillBytes(sig[:32])
	s.FillBytes(sig[32:])
	return "vapid t=" + token + "." + b64.EncodeToString(sig) + ", k=" + k.public(), nil
}

// bell rings.
type bell struct {
	client  *http.Client
	subject string
}

// newBell makes one that reaches the internet alone: the address of a push service
// comes from a browser, and must not lead into the network that this machine is in.
func newBell(subject string) bell {
	d := &net.Dialer{Timeout: pushWithin, Control: func(_, address string, _ syscall.RawConn) error {
		a, err := netip.ParseAddrPort(address)
		if err != nil || !public(a.Addr().Unmap()) {
			return errors.New("its address is not on the internet")
		}
		return nil
	}}
	return bell{subject: subject, client: &http.Client{
		Timeout:       pushWithin,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     &http.Transport{DialContext: d.DialContext, Proxy: nil, TLSHandshakeTimeout: pushWithin, MaxResponseHeaderBytes: 16 << 10, DisableKeepAlives: true},
	}}
}

var notPublic = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"), netip.MustParsePrefix("198.18.0.0/15"),
	netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("2002::/16"), netip.MustParsePrefix("fec0::/10"),
}

func public(a netip.Addr) bool {
	if !a.IsGlobalUnicast() || a.IsPrivate() {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

var errGone = errors.New("the phone is not rung there any more")

// ring rings one phone.
func (b bell) ring(ctx context.Context, s subscription, k pushKey, t time.Time) error {
	if err := s.check(); err != nil {
		return err
	}
	key, err := ecdh.P256().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	salt := make([]byte, 16)
	_, _ = rand.Read(salt)
	body, err := s.seal([]byte(said), key, salt)
	if err != nil {
		return err
	}
	auth, err := k.vapid(s.Endpoint, b.subject, t)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.Endpoint, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", auth)
	r.Header.Set("Content-Encoding", "aes128gcm")
	r.Header.Set("Content-Type", "application/octet-stream")
	r.Header.Set("TTL", fmt.Sprint(int(ringLasts.Seconds())))
	r.Header.Set("Urgency", "high")
	r.Header.Set("Topic", "cfa") // a newer one takes the place of one that waits
	answer, err := b.client.Do(r)
	if err != nil {
		// Its text has the whole address, which is a secret of the phone's.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return err
	}
	defer answer.Body.Close()
	_, _ = io.CopyN(io.Discard, answer.Body, 4<<10)
	switch {
	case answer.StatusCode == http.StatusNotFound || answer.StatusCode == http.StatusGone:
		return errGone
	case answer.StatusCode >= 300:
		return fmt.Errorf("the push service answers %d", answer.StatusCode)
	}
	return nil
}

// ring takes a subscription, from a phone that is in.
func ring(c *call) {
	var s subscription
	if !c.takes(&s) {
		return
	}
	if err := s.check(); err != nil {
		refuse(c.w, http.StatusBadRequest, err.Error())
		return
	}
	h := c.page.phone
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.store.phones {
		if p := &h.store.phones[i]; string(p.Credential.ID) == c.session.about {
			was := p.Ring
			p.Ring = &s
			if err := h.save(); err != nil {
				p.Ring = was
				h.log.Error("phone", "what", "whom to ring cannot be saved", "error", err.Error())
				refuse(c.w, http.StatusInternalServerError, "it cannot be saved; the program's log says why")
				return
			}
			reply(c.w, struct{}{})
			return
		}
	}
	refuse(c.w, http.StatusUnauthorized, "this phone was removed")
}

// rings rings the phones when something new waits, until ctx ends.
func (h *phone) rings(ctx context.Context) {
	news, _, err := h.page.lobby.Join(ctx)
	if err != nil {
		return
	}
	known := map[string]bool{}
	var last time.Time
	for n := range news {
		p := n.Prompt
		switch {
		case p == nil:
		case p.Phase == answer.Over:
			delete(known, p.ID)
		case p.Phase == answer.Asking && !p.Quiet && !known[p.ID]:
			known[p.ID] = true
			// One ring says that something waits, whatever comes right after it.
			if t := h.page.now(); last.IsZero() || t.Sub(last) >= ringEvery {
				last = t
				h.ringAll(ctx)
			}
		}
	}
}

func (h *phone) ringAll(ctx context.Context) {
	h.mu.Lock()
	phones, key := append([]saved{}, h.store.phones...), h.store.push
	h.mu.Unlock()
	for _, p := range phones {
		if p.Ring == nil {
			continue
		}
		err := h.bell.ring(ctx, *p.Ring, key, h.page.now())
		if err == nil {
			continue
		}
		h.log.Warn("phone", "what", "it cannot be rung", "phone", p.Name, "error", err.Error())
		if !errors.Is(err, errGone) {
			continue
		}
		h.mu.Lock()
		for i := range h.store.phones {
			if s := &h.store.phones[i]; s.Ring != nil && *s.Ring == *p.Ring {
				s.Ring = nil
			}
		}
		if err := h.save(); err != nil {
			h.log.Error("phone", "what", "whom to ring cannot be saved", "error", err.Error())
		}
		h.mu.Unlock()
	}
}
