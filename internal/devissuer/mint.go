// This file makes tokens: honest ones by default, and any other on request.

package devissuer

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
)

// minted are the claims that Mint adds by itself.
var minted = []string{"iss", "iat", "nbf", "exp", "jti"}

// A MintOption makes a token that no honest issuer would make.
type MintOption func(*mint)

type mint struct {
	alg       string
	key       crypto.Signer
	header    map[string]any
	rawHeader []byte
	payload   []byte
}

// Header sets a field of the token's header; a nil value leaves it out. It does
// not change how the token is signed: for that see [Alg].
func Header(name string, value any) MintOption {
	return func(m *mint) { m.header[name] = value }
}

// RawHeader makes these bytes the header.
func RawHeader(json []byte) MintOption { return func(m *mint) { m.rawHeader = json } }

// Payload makes these bytes the payload; the claims given to Mint are not used.
func Payload(json []byte) MintOption { return func(m *mint) { m.payload = json } }

// Key signs with another key (an RSA or P-256 one), under the issuer's key id.
func Key(k crypto.Signer) MintOption { return func(m *mint) { m.key = k } }

// Alg signs with that algorithm: RS256 (the default), RS384, RS512, ES256,
// HS256 with the issuer's public key (PEM) as the secret, or none.
func Alg(name string) MintOption { return func(m *mint) { m.alg = name } }

// Mint makes a token. The claims iss, iat, nbf (five minutes before), exp (five
// minutes after) and jti are there unless claims sets them; a nil value leaves
// a claim out.
func (i *Issuer) Mint(claims map[string]any, opts ...MintOption) (string, error) {
	m := mint{alg: "RS256", header: map[string]any{}}
	for _, opt := range opts {
		opt(&m)
	}
	i.mu.Lock()
	k := i.keys
	i.mu.Unlock()

	kid, key := keyID(k.rsa.Public()), crypto.Signer(k.rsa)
	if m.alg == "ES256" {
		kid, key = keyID(k.ec.Public()), k.ec
	}
	if m.key != nil {
		key = m.key
	}
	header := m.rawHeader
	if header == nil {
		var err error
		header, err = object(map[string]any{"typ": "JWT", "alg": m.alg, "kid": kid}, m.header)
		if err != nil {
			return "", fmt.Errorf("header: %w", err)
		}
	}
	payload := m.payload
	if payload == nil {
		now := i.now().Unix()
		var err error
		payload, err = object(map[string]any{
			"iss": i.url, "iat": now, "nbf": now - 300, "exp": now + 300, "jti": rand.Text(),
		}, claims)
		if err != nil {
			return "", fmt.Errorf("claims: %w", err)
		}
	}
	b64 := base64.RawURLEncoding.EncodeToString
	signed := b64(header) + "." + b64(payload)
	sig, err := sign(m.alg, key, k.rsa.Public(), []byte(signed))
	if err != nil {
		return "", fmt.Errorf("signature: %w", err)
	}
	return signed + "." + b64(sig), nil
}

// object is the JSON of base overlaid with over, without what over sets to nil.
func object(base, over map[string]any) ([]byte, error) {
	maps.Copy(base, over)
	maps.DeleteFunc(base, func(_ string, v any) bool { return v == nil })
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(base); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(b.Bytes()), nil
}

// sign makes a JWS signature (RFC 7518).
func sign(alg string, key crypto.Signer, public crypto.PublicKey, data []byte) ([]byte, error) {
	hash, isRSA := map[string]crypto.Hash{"RS256": crypto.SHA256, "RS384": crypto.SHA384, "RS512": crypto.SHA512}[alg]
	switch {
	case isRSA:
		k, ok := key.(*rsa.PrivateKey)
		if !ok {
			return nil, errKey
		}
		h := hash.New()
		h.Write(data)
		return rsa.SignPKCS1v15(nil, k, hash, h.Sum(nil))
	case alg == "ES256":
		k, ok := key.(*ecdsa.PrivateKey)
		if !ok || k.Params().BitSize != 256 {
			return nil, errKey
		}
		sum := sha256.Sum256(data)
		r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
		if err != nil {
			return nil, err
		}
		sig := make([]byte, 64)
		r.FillBytes(sig[:32])
		s.FillBytes(sig[32:])
		return sig, nil
	case alg == "HS256":
		// The classic confusion: a verifier that takes the algorithm from the
		// token uses the public key as the shared secret.
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return nil, err
		}
		h := hmac.New(sha256.New, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		h.Write(data)
		return h.Sum(nil), nil
	case alg == "none":
		return nil, nil
	}
	return nil, errors.New("unknown algorithm " + alg)
}
