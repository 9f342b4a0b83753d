package wire

// Absences: how long, to whom, and which of two counts.

import (
	"strings"
	"testing"
	"time"
)

func TestAnAbsenceSaysToWhomAndForHowLong(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_795_000_000_500)
	good := Away{Key: PublicKey(signKey), Relay: "relay.example.com", At: now.UnixMilli(), Until: now.Add(time.Hour).Unix()}
	for _, c := range []struct {
		name   string
		change func(*Away)
		want   string
	}{
		{"good", func(*Away) {}, ""},
		{"back", func(a *Away) { a.Until = 0 }, ""},
		{"until the past", func(a *Away) { a.Until -= 7200 }, ""},
		{"as long as can be", func(a *Away) { a.Until = now.Add(LongestAway).Unix() }, ""},
		{"longer", func(a *Away) { a.Until = now.Add(LongestAway).Unix() + 1 }, "an absence of more than 30 days"},
		{"so long that it wraps", func(a *Away) { a.Until = 1<<63 - 1 }, "out of range"},
		{"at no time", func(a *Away) { a.At = 0 }, "out of range"},
		{"at a time that wraps", func(a *Away) { a.At = 1<<63 - 1 }, "out of range"},
		{"before all time", func(a *Away) { a.Until = -1 }, "out of range"},
		{"to no relay", func(a *Away) { a.Relay = "" }, "not a relay name"},
		{"by a connecting key", func(a *Away) { a.Key = PublicKey(jobKey) }, "key"},
	} {
		a := good
		c.change(&a)
		if err := a.check(); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestALaterWordIsLaterByAClockThatWasSetBackToo(t *testing.T) {
	t.Parallel()
	now := time.UnixMilli(1_795_000_000_500)
	for _, c := range []struct {
		name         string
		until, after time.Time
		at           int64
		back         bool
		end          time.Time
	}{
		{"away", now.Add(time.Hour), time.Time{}, now.UnixMilli(), false, now.Add(time.Hour).Truncate(time.Second)},
		{"away again", now.Add(time.Hour), now.Add(-time.Second), now.UnixMilli(), false, now.Add(time.Hour).Truncate(time.Second)},
		{"in the same millisecond", now.Add(time.Hour), now, now.UnixMilli() + 1, false, now.Add(time.Hour).Truncate(time.Second)},
		{"back, the clock set back", time.Time{}, now.Add(time.Minute), now.UnixMilli() + 60_001, true, now.Add(time.Minute + time.Millisecond)},
	} {
		e, err := SignAway(signKey, "relay.example.com", now, c.until, c.after)
		if err != nil {
			t.Fatal(err)
		}
		a, err := Open[Away](e, PublicKey(signKey))
		if err != nil {
			t.Fatal(err)
		}
		if a.At != c.at || a.Back() != c.back || !a.End().Equal(c.end) || a.Relay != "relay.example.com" {
			t.Errorf("%s: %+v, back %t, ends %s", c.name, a, a.Back(), a.End())
		}
	}
}
