package wire

// One key vouches for the next.

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
)

// line is n keys, and the chain of them.
func line(t testing.TB, n int) (keys []nkeys.KeyPair, names []string, chain []Succession) {
	t.Helper()
	for i := range n {
		kp, err := NewSigningKey()
		if err != nil {
			t.Fatal(err)
		}
		keys, names = append(keys, kp), append(names, PublicKey(kp))
		if i > 0 {
			chain = append(chain, follows(t, keys[i-1], kp))
		}
	}
	return keys, names, chain
}

func follows(t testing.TB, old, next nkeys.KeyPair) Succession {
	t.Helper()
	s, err := SignSuccession(old, next, time.Unix(1_795_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestAChainIsSignedAtBothEndsOfEachLink(t *testing.T) {
	t.Parallel()
	keys, names, chain := line(t, 4)
	if got, err := OpenChain(chain); err != nil || !slices.Equal(got, names) {
		t.Fatalf("%v, %v", got, err)
	}
	if got := Former(names[3], chain); !slices.Equal(got, names[:3]) {
		t.Errorf("%v", got)
	}
	_, _, long := line(t, MaxChain+2)
	thief, err := NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]Succession{
		"nothing":           nil,
		"too long":          long,
		"a gap":             {chain[0], chain[2]},
		"the other way":     {chain[1], chain[0]},
		"back to the start": append(slices.Clone(chain), follows(t, keys[3], keys[0])),
		"twice":             {chain[0], chain[0]},
		// Somebody else's key cannot be made one's own.
		"the newer key has not signed":  {{Successor: chain[0].Successor, Next: filled(64, 1)}},
		"nor by another's signature":    {{Successor: chain[0].Successor, Next: follows(t, keys[0], thief).Next}},
		"the older key has not signed":  {{Successor: signRaw(t, KindSuccessor, chain[0].Successor.Body, thief), Next: chain[0].Next}},
		"a statement of another kind":   {{Successor: mustSign(t, everyKind()[9].body, signKey), Next: chain[0].Next}},
		"a key that succeeds itself":    {{Successor: signRaw(t, KindSuccessor, []byte(`{"key":"`+names[0]+`","next":"`+names[0]+`","at":1}`), keys[0]), Next: chain[0].Next}},
		"a connecting key in its place": {{Successor: signRaw(t, KindSuccessor, []byte(`{"key":"`+names[0]+`","next":"`+PublicKey(jobKey)+`","at":1}`), keys[0]), Next: chain[0].Next}},
	} {
		if got, err := OpenChain(bad); err == nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	_, _, most := line(t, MaxChain+1)
	if _, err := OpenChain(most); err != nil {
		t.Errorf("as long as can be: %v", err)
	}
}

func TestAPinnedKeyStandsBehindThoseThatSucceedIt(t *testing.T) {
	t.Parallel()
	keys, names, chain := line(t, 3)
	thief, err := NewSigningKey()
	if err != nil {
		t.Fatal(err)
	}
	other := PublicKey(otherSign)
	for name, c := range map[string]struct {
		signer string
		chain  []Succession
		pinned []string
		want   string // "": nobody's
	}{
		"no pins":                           {names[2], chain, nil, names[2]},
		"itself":                            {names[2], nil, []string{names[2]}, names[2]},
		"the first":                         {names[2], chain, []string{other, names[0]}, names[0]},
		"the one before":                    {names[2], chain, []string{names[1]}, names[1]},
		"of two the older one":              {names[2], chain, []string{names[2], names[0]}, names[0]},
		"a later one than its own":          {names[0], nil, []string{names[1]}, ""},
		"another":                           {names[2], chain, []string{other}, ""},
		"without its chain":                 {names[2], nil, []string{names[0]}, ""},
		"with a part of it":                 {names[2], chain[:1], []string{names[0]}, ""},
		"with another's":                    {PublicKey(thief), chain, []string{names[0]}, ""},
		"a chain with a link that is wrong": {names[2], []Succession{chain[0], {chain[1].Successor, filled(64, 1)}}, []string{names[0]}, ""},
		"that chain, but pinned itself":     {names[2], []Succession{chain[0], {chain[1].Successor, filled(64, 1)}}, []string{names[2]}, names[2]},
	} {
		got, ok := Vouched(c.signer, c.chain, c.pinned)
		if ok != (c.want != "") || ok && got != c.want {
			t.Errorf("%s: %q, %t", name, got, ok)
		}
	}
	// In what is signed, and nowhere with another's key at its end.
	good := &Answer{Key: names[2], Digest: Digest{1}, Attempt: 1, Ask: AskCode, Decision: DecisionCode, Sealed: Digest{2}, Chain: chain}
	e := mustSign(t, good, keys[2])
	if a, err := Open[Answer](e, names[2]); err != nil || len(a.Chain) != 2 || len(ClaimedChain(e)) != 2 {
		t.Errorf("%+v, %v", a, err)
	}
	if len(e.Encode()) > MaxEnvelope/2 {
		t.Errorf("%d bytes", len(e.Encode()))
	}
	bad := *good
	bad.Chain = chain[:1]
	if _, err := Sign(&bad, keys[2]); err == nil || !strings.Contains(err.Error(), "ends with another key") {
		t.Errorf("%v", err)
	}
}

func FuzzChain(f *testing.F) {
	_, names, chain := line(f, 3)
	data := func(c []Succession) []byte { return mustJSON(f, RotateMessage{Chain: c}) }
	seed(f, func(b []byte) { f.Add(b) }, [][]byte{data(chain), data(chain[:1]), data(nil), []byte(`{"chain":[{}]}`)})
	f.Fuzz(func(t *testing.T, data []byte) {
		var m RotateMessage
		if Decode(data, MaxMessage, &m) != nil {
			return
		}
		keys, err := OpenChain(m.Chain)
		if err != nil {
			return
		}
		// Nobody has these keys but who signed the seeds.
		for _, key := range keys {
			if !slices.Contains(names, key) {
				t.Fatalf("%v", keys)
			}
		}
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		var again RotateMessage
		if err := Decode(out, MaxMessage, &again); err != nil {
			t.Fatal(err)
		}
	})
}
