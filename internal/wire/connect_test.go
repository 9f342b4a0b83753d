package wire

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"
)

func TestAConnectionIsForOneRelayAndOneKeyAndNow(t *testing.T) {
	t.Parallel()
	const relay = "relay.example.com"
	now := time.Unix(1_795_000_000, 0)
	shown := func(kp nkeys.KeyPair, relay string, at time.Time) string {
		t.Helper()
		s, err := SignConnect(kp, relay, at)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	raw := func(kind Kind, kp nkeys.KeyPair) string {
		return string(signRaw(t, kind, mustJSON(t, &Connect{Key: PublicKey(connectKey), Relay: relay, At: now.Unix()}), kp).Encode())
	}
	for name, c := range map[string]struct {
		shown string
		want  string // "": good
	}{
		"now":                        {shown(connectKey, relay, now), ""},
		"at the limit back":          {shown(connectKey, relay, now.Add(-ConnectWithin)), ""},
		"at the limit ahead":         {shown(connectKey, relay, now.Add(ConnectWithin)), ""},
		"too old":                    {shown(connectKey, relay, now.Add(-ConnectWithin-time.Second)), "signed 10m1s ago that it connects"},
		"too early":                  {shown(connectKey, relay, now.Add(ConnectWithin+time.Second)), "that it connects 10m1s from now"},
		"another relay":              {shown(connectKey, "hostile.example", now), "means the relay hostile.example, and this is relay.example.com"},
		"another key's own":          {shown(otherJob, relay, now), ErrSignature.Error()},
		"another's, naming this key": {raw(KindConnect, otherJob), ErrSignature.Error()},
		"another kind":               {raw(KindRequest, connectKey), "another kind"},
		"another kind, relabelled":   {strings.Replace(raw(KindCancel, connectKey), `"cancel"`, `"connect"`, 1), ErrSignature.Error()},
		"nothing":                    {"", ErrMalformed.Error()},
		"no envelope":                {`{"v":1}`, "incomplete envelope"},
		"too long":                   {shown(connectKey, relay, now) + strings.Repeat(" ", MaxEnvelope), "are allowed"},
	} {
		err := CheckConnect(c.shown, PublicKey(connectKey), relay, now)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	if _, err := SignConnect(connectKey, "no relay", now); err == nil {
		t.Error("signed for what is no relay's name")
	}
	if _, err := SignConnect(signKey, relay, now); err == nil {
		t.Error("signed by a key that does not connect")
	}
}
