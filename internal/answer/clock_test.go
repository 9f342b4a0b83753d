package answer

// What a human reads whose clock is wrong, or whose relay is not the one it was.

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/trust"
)

func TestAClockThatIsOffByMinutesIsSaidToTheHuman(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		off  time.Duration
		want string // "": it is verified all the same
	}{
		"right":        {0, ""},
		"a bit ahead":  {3 * time.Minute, ""},
		"ahead":        {12 * time.Minute, "the ID token was issued 12"},
		"hours ahead":  {3 * time.Hour, "the ID token was issued 3 h"},
		"a bit behind": {-30 * time.Second, ""},
		"behind":       {-5 * time.Minute, "from now"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, issuer := onTheWire(t)
			keys, err := trust.NewKeys([]trust.Issuer{{Name: "dev", Provider: ci.Find("github"), URL: issuer.URL()}}, trust.KeysOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if err := keys.Warm(t.Context()); err != nil {
				t.Fatal(err)
			}
			o.desk.trust.Verifier = trust.NewVerifier(relayName, keys, trust.Options{Now: func() time.Time { return time.Now().Add(tc.off) }})
			o.run()
			j := devJob(t, issuer, repo, nil, nil)
			o.relay.Ask(j)
			if tc.want == "" {
				o.human.wait(t, j.ID(), "verified", standing(Verified))
				return
			}
			p := o.human.wait(t, j.ID(), "unproven", standing(Unproven))
			if !strings.Contains(p.Why, tc.want) || !strings.Contains(p.Why, "This computer's clock says ") || !strings.Contains(p.Why, "set it right") {
				t.Errorf("the human is told %q", p.Why)
			}
		})
	}
}

func TestACertificateThatIsNotAcceptedAnyMoreIsSaidOnceAndTriedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := inMemory(t)
		var changed atomic.Bool
		dialled := o.desk.dial
		o.desk.dial = func(ctx context.Context) (relayConn, error) {
			if changed.Load() {
				return nil, fmt.Errorf("%w: relay.test shows a certificate of an unknown authority", dial.ErrTLS)
			}
			return dialled(ctx)
		}
		o.run()
		time.Sleep(time.Minute)
		changed.Store(true)
		o.relay.Cut()
		time.Sleep(10 * time.Minute)
		said := 0
		o.human.mu.Lock()
		for _, n := range o.human.notices {
			if strings.Contains(n, "unknown authority. It was accepted before, so either the relay's administrator has changed something, who can tell you, or somebody stands between you and the relay. Nothing is sent there; trying again") {
				said++
			}
		}
		o.human.mu.Unlock()
		if said != 1 {
			t.Errorf("said %d times: %q", said, o.human.notices)
		}
		if l := o.desk.Line(); l.Connected || !strings.Contains(l.Why, "unknown authority") {
			t.Errorf("%+v", l)
		}
		changed.Store(false) // put right
		time.Sleep(time.Minute)
		if l := o.desk.Line(); !l.Connected {
			t.Errorf("%+v", l)
		}
	})
}
