package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// A machine can lose power between the chain and the key: then the old key is what
// there is, and the chain is one link too long.
func TestAChainCountsAsFarAsTheKeyThatThereIs(t *testing.T) {
	t.Parallel()
	var all []keys
	var chain []wire.Succession
	for i := range 4 {
		k, err := newKeys()
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, k); i > 0 {
			link, err := wire.SignSuccession(all[i-1].sign, k.sign, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			chain = append(chain, link)
		}
	}
	stranger, err := newKeys()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "responder.key")
	if got, err := readChain(nil, file, wire.PublicKey(all[0].sign)); got != nil || err != nil {
		t.Errorf("without a file: %v, %v", got, err)
	}
	data, err := json.Marshal(wire.RotateMessage{Chain: chain})
	if err != nil {
		t.Fatal(err)
	}
	write := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(file+".chain", data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(data)
	for i, k := range all {
		got, err := readChain(nil, file, wire.PublicKey(k.sign))
		if err != nil || len(got) != i || len(wire.Former(wire.PublicKey(k.sign), got)) != i {
			t.Errorf("key %d: %d links, %v", i, len(got), err)
		}
	}
	if _, err := readChain(nil, file, wire.PublicKey(stranger.sign)); err == nil || !strings.Contains(err.Error(), "leads to another signing key than yours") {
		t.Errorf("%v", err)
	}
	for name, bad := range map[string][]byte{"cut": data[:len(data)/2], "empty": nil, "another form": []byte(`{"chain":[],"x":1}`), "no chain": []byte(`{"chain":[]}`)} {
		write(bad)
		if _, err := readChain(nil, file, wire.PublicKey(all[3].sign)); err == nil || !strings.Contains(err.Error(), "move it away") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The most recent keys are what a chain keeps.
	store := keyStore{path: file, given: true}
	k := all[0]
	if _, err := store.create(t.Context(), k, inPlain); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file + ".chain"); err != nil {
		t.Fatal(err)
	}
	c := &rotateCmd{}
	c.KeyFile = file
	var names []string
	var have []wire.Succession
	for range wire.MaxChain + 2 {
		names = append(names, wire.PublicKey(k.sign))
		if k, have, err = c.rotate(t.Context(), nil, store, k, have); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := store.load(t.Context())
	if err != nil || wire.PublicKey(kept.sign) != wire.PublicKey(k.sign) || wire.PublicKey(kept.connect) != wire.PublicKey(all[0].connect) {
		t.Errorf("another key was kept: %v", err)
	}
	if got, err := readChain(nil, file, wire.PublicKey(kept.sign)); err != nil || !slices.Equal(wire.Former(wire.PublicKey(kept.sign), got), names[2:]) {
		t.Errorf("%d links, %v", len(got), err)
	}
	for _, f := range []string{file, file + ".chain"} {
		if info, err := os.Stat(f); err != nil || modesCount && info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", f, info.Mode(), err)
		}
	}
}
