package audit

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

func rows(s *story, f Filter) []*Row {
	l := Rows{Most: 100, Filter: f, Whole: true}
	for _, m := range s.messages {
		l.Add(m)
	}
	return l.Taken()
}

func words(rows []*Row) string {
	var out []string
	for _, r := range rows {
		out = append(out, r.Word())
	}
	return strings.Join(out, " ")
}

func TestARequestIsARowOfWhoAskedWhoSawAndHowItEnded(t *testing.T) {
	t.Parallel()
	s := told(t)
	all := rows(s, Filter{})
	if got := words(all); got != "ok declined unknown cancelled cancelled pending ok" {
		t.Fatalf("outcomes: %s", got)
	}
	r := all[0]
	if fmt.Sprint(r.Opened, r.By, r.Attempt, r.Refused, r.First) != "[Ana] [Ana Bob] 3 1 1" || r.Claims["repository"] != "example/rocket" || r.Service != "npm" || r.Rule != "rocket/ci[0] line 7" || r.Run != "1/77/1" {
		t.Errorf("%+v", r)
	}
	if fmt.Sprint(all[1].By) != "[Bob]" || all[1].Why != "not mine" {
		t.Errorf("%+v", all[1])
	}
}

func TestRowsAreFiltered(t *testing.T) {
	t.Parallel()
	s := told(t)
	second := rows(s, Filter{})[1].Asked
	for _, tc := range []struct {
		filter Filter
		want   string
	}{
		{Filter{Outcome: "ok"}, "ok ok"},
		{Filter{Outcome: "done"}, "ok unknown ok"},
		{Filter{Outcome: "declined"}, "declined"},
		{Filter{Outcome: "lost"}, "cancelled"},
		{Filter{Outcome: "open"}, "pending"},
		{Filter{Project: "boat"}, ""},
		{Filter{Project: "rocket", Outcome: "ok"}, "ok ok"},
		{Filter{Run: "77", Outcome: "ok"}, "ok ok"},
		{Filter{Run: "1/77/1", Outcome: "ok"}, "ok ok"},
		{Filter{Run: "7"}, ""},
		{Filter{Until: second}, "ok"},
		{Filter{Since: second, Until: second.Add(time.Second)}, "declined"},
		{Filter{Since: s.now}, ""},
	} {
		if got := words(rows(s, tc.filter)); got != tc.want {
			t.Errorf("%+v: %q, not %q", tc.filter, got, tc.want)
		}
	}
}

// However long the record is, so many rows are held and no more; a row that had
// to go does not come back by a later record.
func TestRowsAreBounded(t *testing.T) {
	t.Parallel()
	s := newStory(t)
	first := s.ask(nil)
	for range 30 {
		s.ask(nil)
	}
	first.cancel()
	l := Rows{Most: 5}
	for _, m := range s.messages {
		if l.Add(m); len(l.rows) > 10 {
			t.Fatalf("%d rows", len(l.rows))
		}
	}
	got := l.Taken()
	if len(got) != 5 || l.Dropped != 26 || got[4].First != 31 {
		t.Errorf("%d rows, %d dropped", len(got), l.Dropped)
	}
}

// Nothing that a person is shown has a sealed code's hash or a token's, wherever
// in a record it stands.
func TestWhatIsShownHoldsNoHashOfACodeOrAToken(t *testing.T) {
	t.Parallel()
	s := told(t)
	var shown []any
	for _, r := range rows(s, Filter{}) {
		shown = append(shown, r)
	}
	inside := 0
	for _, m := range s.messages {
		if strings.Contains(string(m.Data), sealed.String()) {
			inside++
		}
		if e, ok, err := EventOf(m); ok && err == nil {
			shown = append(shown, e)
		}
		if r, ok, err := RefusedOf(m); ok && err == nil {
			shown = append(shown, r)
		}
	}
	out, err := json.Marshal(shown)
	if err != nil {
		t.Fatal(err)
	}
	if inside == 0 {
		t.Fatal("the record does not have it either: this test shows nothing")
	}
	for _, secret := range []string{sealed.String(), lifecycle.Hash([]byte("t")), `"sealed"`, `"sig"`, `"envelope"`} {
		if strings.Contains(string(out), secret) {
			t.Errorf("%s is shown", secret)
		}
	}
}

func TestEventsSayWhoseWordTheyAre(t *testing.T) {
	t.Parallel()
	s := told(t)
	var said []string
	for _, m := range s.messages {
		if e, ok, err := EventOf(m); err != nil {
			t.Fatal(err)
		} else if ok && e.By != "" {
			said = append(said, e.Event+" "+e.By)
		}
	}
	if got := strings.Join(said, ", "); got != "opened Ana, answered Ana, opened Bob, declined Bob, answered Bob, answered Ana, answered Ana, answered Ana, approved Ana, approved Bob, away Ana, back Ana" {
		t.Error(got)
	}
	for _, m := range s.messages {
		e, _, err := EventOf(m)
		if err != nil || !e.OfResponder() {
			continue
		}
		if e.Key != wire.PublicKey(s.ana) || (e.Event == EventAway) != (e.Until.Sub(e.At) > 4*time.Hour) {
			t.Errorf("%+v", e)
		}
		if !(Filter{}).TakesEvent(e) || (Filter{Since: e.At.Add(1)}).TakesEvent(e) || (Filter{Project: "rocket"}).TakesEvent(e) || (Filter{Outcome: "open"}).TakesEvent(e) {
			t.Errorf("it is among others' events, or not among its own: %+v", e)
		}
	}
	nameless := newStory(t)
	j := nameless.ask(nil)
	j.open(nameless.ana, "")
	e, _, err := EventOf(nameless.messages[1])
	if err != nil || e.By != wire.PublicKey(nameless.ana) {
		t.Errorf("%+v: %v", e, err)
	}
}
