package receipt

// A receipt of a key that succeeds the one that is pinned.

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/wire"
)

func succession(t testing.TB, old, next nkeys.KeyPair) wire.Succession {
	t.Helper()
	s, err := wire.SignSuccession(old, next, time.Unix(at, 0))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// succeeded is a receipt by a key for which an older one vouches.
func succeeded(t testing.TB, next, old nkeys.KeyPair, attempt int, change func(*wire.Request)) []byte {
	t.Helper()
	list, err := Read(signed(t, next, attempt, change))
	if err != nil {
		t.Fatal(err)
	}
	return Encode(list[0].Statement, list[0].Sig, wire.PublicKey(next), succession(t, old, next))
}

func TestAReceiptBringsTheKeysThatVouchForItsOwn(t *testing.T) {
	t.Parallel()
	adas, bens, eves := wire.PublicKey(ada), wire.PublicKey(ben), wire.PublicKey(eve)
	for name, c := range map[string]struct {
		file   []byte
		pinned []string
		good   bool
	}{
		"the old key is pinned":             {succeeded(t, eve, ada, 1, nil), []string{adas}, true},
		"the new one is":                    {succeeded(t, eve, ada, 1, nil), []string{eves}, true},
		"another is":                        {succeeded(t, eve, ada, 1, nil), []string{bens}, false},
		"without the chain":                 {signed(t, eve, 1, nil), []string{adas}, false},
		"two people, one with a new key":    {lines(succeeded(t, eve, ada, 1, two), signed(t, ben, 2, two)), []string{adas, bens}, true},
		"one person with both of their own": {lines(signed(t, ada, 1, two), succeeded(t, eve, ada, 2, two)), []string{adas, bens}, false},
		"the same, both pinned":             {lines(signed(t, ada, 1, two), succeeded(t, eve, ada, 2, two)), []string{adas, eves}, false},
	} {
		list, err := Read(c.file)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := Check(list, c.pinned, nil); (err == nil) != c.good || err != nil && !errors.Is(err, ErrNotApproved) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := succeeded(t, eve, ada, 1, nil)
	receipt, chain, _ := bytes.Cut(good, []byte("\n"))
	for name, bad := range map[string][]byte{
		"the chain alone":      chain,
		"the chain first":      lines(chain, receipt),
		"the chain twice":      lines(good, chain),
		"another's":            lines(signed(t, ben, 1, nil), chain),
		"not in its one form":  bytes.Replace(good, []byte(`"next"`), []byte(`"Next"`), 1),
		"with space in it":     bytes.Replace(good, []byte(`{"successor":`), []byte(`{"successor": `), 1),
		"a signature is wrong": lines(receipt, bytes.Replace(chain, []byte(`"sig":"`), []byte(`"sig":"AAAA`), 1)),
		"more than can vouch":  lines(append([][]byte{receipt}, bytes.Split(bytes.Repeat(append(chain, '\n'), wire.MaxChain+1), []byte("\n"))...)...),
		"something between":    lines(receipt, []byte("{}"), chain),
	} {
		if _, err := Read(bad); err == nil {
			t.Errorf("%s is read", name)
		}
	}
}
