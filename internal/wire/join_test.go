package wire

// Invitations, and what a newcomer proves by one.

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
)

func invited(t testing.TB) (Invitation, nkeys.KeyPair) {
	t.Helper()
	seed, err := otherJob.Seed()
	if err != nil {
		t.Fatal(err)
	}
	return Invitation{
		V: Version, Secret: string(seed), URL: "wss://relay.example.com", Relay: "relay.example.com", Project: "widgets", Name: "Ada", Until: 1_795_000_000,
		Pins: "pins:\n  widgets:\n    - provider: github\n      repository_id: \"1\"\n",
	}, otherJob
}

func TestAJoinIsSignedByAllThreeKeys(t *testing.T) {
	t.Parallel()
	_, invitation := invited(t)
	now := time.Unix(1_795_000_000, 0)
	good, err := SignJoin(signKey, connectKey, invitation, "relay.example.com", now)
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenJoin(good, PublicKey(invitation))
	if err != nil || b.Key != PublicKey(signKey) || b.Connect != PublicKey(connectKey) || b.Relay != "relay.example.com" || b.At != now.Unix() {
		t.Fatalf("%+v, %v", b, err)
	}
	stranger, err := NewConnectKey()
	if err != nil {
		t.Fatal(err)
	}
	by := func(sign, connect, invitation nkeys.KeyPair) JoinMessage {
		m, err := SignJoin(sign, connect, invitation, "relay.example.com", now)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	// What another has signed about its own keys proves nothing of these.
	for name, change := range map[string]func(*JoinMessage){
		"no signature of the connecting key":      func(m *JoinMessage) { m.Connect = nil },
		"another's in its place":                  func(m *JoinMessage) { m.Connect = by(signKey, stranger, invitation).Connect },
		"no signature of the invitation":          func(m *JoinMessage) { m.Invitation = nil },
		"another invitation's":                    func(m *JoinMessage) { m.Invitation = by(signKey, connectKey, stranger).Invitation },
		"the two exchanged":                       func(m *JoinMessage) { m.Connect, m.Invitation = m.Invitation, m.Connect },
		"another's join with these signatures":    func(m *JoinMessage) { m.Join = by(signKey, stranger, invitation).Join },
		"a signing key's signature that is wrong": func(m *JoinMessage) { m.Join.Sig = filled(64, 1) },
	} {
		m := good
		change(&m)
		if _, err := OpenJoin(m, PublicKey(invitation)); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := OpenJoin(good, PublicKey(stranger)); !errors.Is(err, ErrSignature) {
		t.Errorf("by another invitation: %v", err)
	}
	if _, err := SignJoin(signKey, invitation, invitation, "relay.example.com", now); err == nil {
		t.Error("the invitation's key is taken for a responder's")
	}
}

func TestAFingerprintIsOfBothKeysAndTypedAsPeopleType(t *testing.T) {
	t.Parallel()
	sign, connect := PublicKey(signKey), PublicKey(connectKey)
	f := Fingerprint(sign, connect)
	if len(f) != 19 || strings.Count(f, "-") != 3 || strings.Trim(f, crockford+"-") != "" {
		t.Fatalf("%q", f)
	}
	other, err := NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	if f == Fingerprint(PublicKey(other), connect) || f == Fingerprint(sign, PublicKey(jobKey)) {
		t.Error("another key has the same")
	}
	for typed, want := range map[string]bool{
		f: true, strings.ToLower(f): true, strings.ReplaceAll(f, "-", " "): true, strings.ReplaceAll(f, "-", ""): true, strings.ReplaceAll(strings.ReplaceAll(f, "0", "o"), "1", "l"): true,
		"": false, f[:14]: false, f + "0": false, "-": false,
	} {
		if got := SameFingerprint(typed, f); got != want {
			t.Errorf("%q is the same: %t", typed, got)
		}
	}
}

func TestALinkHoldsAllOfItAndNothingElse(t *testing.T) {
	t.Parallel()
	i, key := invited(t)
	i.TLSName, i.Cert = "tls.example.com", strings.Repeat("ab", 32)
	link, err := i.Link()
	if err != nil {
		t.Fatal(err)
	}
	pasted := " " + link[:40] + "\n  " + link[40:] + "\r\n"
	got, err := ParseLink(pasted)
	if err != nil || got != i {
		t.Fatalf("%+v, %v", got, err)
	}
	if kp, err := got.Key(); err != nil || PublicKey(kp) != PublicKey(key) {
		t.Errorf("its key is another: %v", err)
	}
	wrap := func(s string) string { return LinkScheme + base64.RawURLEncoding.EncodeToString([]byte(s)) }
	for name, bad := range map[string]string{
		"nothing":        "",
		"another scheme": "https://relay.example.com/" + planted,
		"cut":            link[:len(link)-3],
		"not base64":     LinkScheme + "!" + planted,
		"too long":       LinkScheme + strings.Repeat("A", MaxInvitation),
		"no JSON":        wrap(planted),
		"unknown field":  wrap(`{"` + planted + `":1}`),
	} {
		_, err := ParseLink(bad)
		if err == nil || strings.Contains(err.Error(), planted) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, change := range map[string]func(*Invitation){
		"another version":     func(i *Invitation) { i.V = 2 },
		"no secret":           func(i *Invitation) { i.Secret = "" },
		"a public key for it": func(i *Invitation) { i.Secret = PublicKey(key) },
		"a signing key's seed": func(i *Invitation) {
			seed, _ := signKey.Seed()
			i.Secret = string(seed)
		},
		"no relay":                func(i *Invitation) { i.Relay = "" },
		"a relay in capitals":     func(i *Invitation) { i.Relay = "Relay" },
		"no project":              func(i *Invitation) { i.Project = "" },
		"no name":                 func(i *Invitation) { i.Name = "" },
		"a name that lies":        func(i *Invitation) { i.Name = "Ada\u202e" },
		"no address":              func(i *Invitation) { i.URL = "" },
		"an address of two lines": func(i *Invitation) { i.URL = "wss://a\nb" },
		"half a hash":             func(i *Invitation) { i.Cert = "abab" },
		"a hash in capitals":      func(i *Invitation) { i.Cert = strings.Repeat("AB", 32) },
		"for ever":                func(i *Invitation) { i.Until = 0 },
		"a whole file":            func(i *Invitation) { i.Pins = strings.Repeat("x", MaxInvitation) },
	} {
		bad := i
		change(&bad)
		if _, err := bad.Link(); err == nil {
			t.Errorf("%s: a link is made of it", name)
		} else if bad.Secret != "" && strings.Contains(err.Error(), bad.Secret) {
			t.Errorf("%s: the secret is in the error", name)
		}
		if name == "a whole file" {
			continue
		}
		if _, err := ParseLink(wrap(string(mustJSON(t, bad)))); err == nil {
			t.Errorf("%s: it is read", name)
		}
	}
}

func FuzzParseLink(f *testing.F) {
	i, _ := invited(f)
	link, err := i.Link()
	if err != nil {
		f.Fatal(err)
	}
	seed(f, func(s string) { f.Add(s) }, []string{link, " " + link + "\n", LinkScheme, "cfa-join:e30", link[:50]})
	f.Fuzz(func(t *testing.T, s string) {
		i, err := ParseLink(s)
		if err != nil {
			return
		}
		link, err := i.Link()
		if err != nil {
			return // escapes of JSON grew
		}
		if again, err := ParseLink(link); err != nil || again != i {
			t.Fatalf("%+v became %+v: %v", i, again, err)
		}
	})
}
