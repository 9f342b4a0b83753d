package trust

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/wire"
)

// What is remembered of a token must never outlive what it was believed for.
func TestATokenThatWasVerifiedIsStillHeldToEverythingElse(t *testing.T) {
	t.Parallel()
	w := github(t)
	if err := w.keys.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	token := w.token(t, nil)
	verify := func(e Evidence) error {
		_, err := w.v.Verify(t.Context(), e)
		return err
	}
	mine := Evidence{Key: w.key, Token: token}
	if err := verify(mine); err != nil {
		t.Fatal(err)
	}
	if _, _, known := w.v.recent.find(token); !known {
		t.Fatal("the token is not remembered, so this test shows nothing")
	}
	_, other := newKey(t)
	refused(t, verify(Evidence{Key: other, Token: token}), CodeAudience, "")

	cut := strings.LastIndexByte(token, '.') + 1
	swap := "A"
	if token[cut] == 'A' {
		swap = "B"
	}
	refused(t, verify(Evidence{Key: w.key, Token: token[:cut] + swap + token[cut+1:]}), CodeSignature, "")
	refused(t, verify(Evidence{Key: w.key, Token: token + "\n"}), CodeForm, "")

	w.clock.forward(11 * time.Minute)
	refused(t, verify(mine), CodeTime, "")
}

func TestATokenIsNotRememberedOverItsIssuersKeys(t *testing.T) {
	t.Parallel()
	w := github(t)
	if err := w.keys.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	token := w.token(t, nil)
	mine := Evidence{Key: w.key, Token: token}
	if _, err := w.v.Verify(t.Context(), mine); err != nil {
		t.Fatal(err)
	}
	if _, _, known := w.v.recent.find(token); !known {
		t.Fatal("the token is not remembered, so this test shows nothing")
	}
	w.Rotate() // the key that signed it is withdrawn
	w.clock.forward(2 * time.Minute)
	if err := w.keys.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := w.v.Verify(t.Context(), mine)
	refused(t, err, CodeSignature, "")
}

func TestWhatIsRefusedIsNotRemembered(t *testing.T) {
	t.Parallel()
	w := github(t)
	if err := w.keys.Warm(t.Context()); err != nil {
		t.Fatal(err)
	}
	forged := w.token(t, nil, devissuer.Header("kid", "made-up"))
	for range 2 {
		if _, err := w.v.Verify(t.Context(), Evidence{Key: w.key, Token: forged}); err == nil {
			t.Fatal("accepted")
		}
	}
	if len(w.v.recent.known) != 0 {
		t.Error("a refused token is remembered")
	}
	for range mostRecent + 10 {
		w.v.recent.add(wire.Audience("x", w.token(t, nil)), &token{}, &keySet{}, time.Time{})
	}
	if n := len(w.v.recent.known); n > mostRecent {
		t.Errorf("%d tokens are remembered", n)
	}
}

func TestWhatIsRememberedIsForgottenSoon(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var r recent
		size := func() int {
			synctest.Wait()
			r.mu.Lock()
			defer r.mu.Unlock()
			return len(r.known)
		}
		r.add("first", &token{}, &keySet{}, time.Time{})
		time.Sleep(10 * time.Second)
		r.add("second", &token{}, &keySet{}, time.Time{})
		if n := size(); n != 2 {
			t.Errorf("%d are remembered after 10 s", n)
		}
		time.Sleep(5 * time.Second)
		if _, _, known := r.find("second"); !known || size() != 1 {
			t.Errorf("the older one was not forgotten alone: %d are left", size())
		}
		time.Sleep(10 * time.Second)
		if n := size(); n != 0 {
			t.Errorf("%d are remembered for ever", n)
		}
		r.add("third", &token{}, &keySet{}, time.Time{})
		time.Sleep(keepRecent)
		if n := size(); n != 0 {
			t.Errorf("what came after a pause stays: %d", n)
		}
	})
}
