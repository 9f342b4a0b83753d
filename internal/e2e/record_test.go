package e2e

// What became of each request, by the relay's own record and by nothing that a
// test remembers: it is read through the relay as `cfa-relay audit` reads it, and
// verified as `audit verify` does.

import (
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/continuousauth/action/internal/audit"
	"github.com/continuousauth/action/internal/broker"
	"github.com/continuousauth/action/internal/lifecycle"
)

// history is one request's records, oldest first.
type history struct {
	key     string
	records []lifecycle.Record
}

func (h *history) last() lifecycle.Record { return h.records[len(h.records)-1] }

// story is what happened, in words: its events, without who looked at it, which
// depends on who was quicker, and how it ended.
func (h *history) story() string {
	var words []string
	for _, r := range h.records {
		if r.Event != lifecycle.EventOpened {
			words = append(words, string(r.Event))
		}
	}
	end := h.last()
	word := string(end.State)
	if end.Outcome != "" {
		word += " " + end.Outcome
	}
	return strings.Join(words, " ") + ": " + word
}

// evidence is the whole record of a relay.
type evidence struct {
	histories []*history // by who asked first
	refusals  []audit.Refused
	notes     map[string]int // what is noted beside the requests, by family
}

// of is the only request on record.
func (e *evidence) one(t testing.TB) *history {
	t.Helper()
	if len(e.histories) != 1 {
		t.Fatalf("%d requests are on record, not 1", len(e.histories))
	}
	return e.histories[0]
}

// readRecord reads the record of the relay with that file, and holds each request
// against what must be true of every one, whatever has happened:
//
//   - signatures and chains are good, and each record follows from the one before;
//   - it has ended in one way: nothing comes after its end, but for the late word
//     of a job that the relay's clock had given up;
//   - under one attempt there is one answer at most, and no answer is confirmed
//     twice, nor another than the one that was given;
//   - no sealed code is part of two requests.
//
// With open, requests may also still wait.
func readRecord(t testing.TB, config string, open bool) *evidence {
	t.Helper()
	c, err := broker.ReadConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	a, err := broker.OpenAudit(t.Context(), c, broker.AuditQuery{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	v := audit.NewVerifier(a.Extent, c.Enrolled)
	e := &evidence{notes: map[string]int{}}
	by := map[string]*history{}
	for {
		m, err := a.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		v.Add(m)
		if r, ok, err := audit.RefusedOf(m); ok {
			if err != nil {
				t.Fatal(err)
			}
			e.refusals = append(e.refusals, r)
			continue
		}
		key, ok := strings.CutPrefix(m.Subject, audit.RequestPrefix)
		if !ok {
			family, _, _ := strings.Cut(strings.TrimPrefix(m.Subject, audit.Prefix), ".")
			e.notes[family]++
			continue
		}
		rec, err := lifecycle.Decode(m.Data)
		if err != nil {
			t.Fatal(err)
		}
		h := by[key]
		if h == nil {
			h = &history{key: key}
			by[key] = h
			e.histories = append(e.histories, h)
		}
		h.records = append(h.records, rec)
	}
	v.End()
	for _, p := range v.Problems {
		t.Errorf("the record is not as it should be: %s", p)
	}
	sealed := map[string]string{} // whose each one is
	for _, h := range e.histories {
		for _, wrong := range h.wrongs(open) {
			t.Errorf("%s\n%s: %s", wrong, h.key, h.story())
		}
		for _, r := range h.records {
			if r.Sealed == "" {
				continue
			}
			if of, known := sealed[r.Sealed]; known && of != h.key {
				t.Errorf("one sealed code is on record for two requests, %s and %s", of, h.key)
			}
			sealed[r.Sealed] = h.key
		}
	}
	return e
}

// wrongs are what must not be true of any request.
func (h *history) wrongs(open bool) (out []string) {
	if h.records[0].Event != lifecycle.EventAsked {
		out = append(out, "it does not begin with being asked")
	}
	answered, got := map[int]string{}, map[int]bool{}
	ends := 0
	for i, r := range h.records {
		switch r.Event {
		case lifecycle.EventAnswered:
			if _, twice := answered[r.AnswerAttempt]; twice {
				out = append(out, "two answers are on record for one attempt")
			}
			answered[r.AnswerAttempt] = r.Sealed
		case lifecycle.EventGot:
			if got[r.AnswerAttempt] {
				out = append(out, "one answer was delivered twice")
			}
			got[r.AnswerAttempt] = true
			if answered[r.AnswerAttempt] != r.Sealed || r.Sealed == "" {
				out = append(out, "what was delivered is not what was answered")
			}
		}
		if !r.State.Final() {
			if ends > 0 {
				out = append(out, "it goes on after its end")
			}
			continue
		}
		ends++
		if late := r.Event == lifecycle.EventGot && i > 0 && h.records[i-1].State.Final(); ends > 1 && !late {
			out = append(out, "it has ended twice")
		}
	}
	if ends == 0 && !open {
		out = append(out, "it has not ended")
	}
	return out
}

// ended reads the record once all requests on it must have ended, and runs `audit
// verify` over it as an administrator would.
func (w *world) ended() *evidence {
	w.t.Helper()
	e := readRecord(w.t, w.config, false)
	if v := run(w.t, nil, "cfa-relay", "audit", "verify", "--config", w.config); v.code != 0 {
		w.t.Errorf("audit verify ended with %d", v.code)
	}
	return e
}

// tells checks how the only request on record went.
func (w *world) tells(story string) *evidence {
	w.t.Helper()
	e := w.ended()
	if got := e.one(w.t).story(); got != story {
		w.t.Errorf("on record is %q\nand not %q", got, story)
	}
	return e
}

// A request that breaks each of the rules is found out, or the tests that rely on
// them would show nothing.
func TestARecordThatBreaksARuleIsFoundOut(t *testing.T) {
	t.Parallel()
	rec := func(event lifecycle.Event, state lifecycle.State, attempt int, sealed string) lifecycle.Record {
		return lifecycle.Record{Event: event, State: state, Attempt: attempt, AnswerAttempt: attempt, Sealed: sealed}
	}
	asked := rec(lifecycle.EventAsked, lifecycle.StatePending, 1, "")
	answered := rec(lifecycle.EventAnswered, lifecycle.StateAnswered, 1, "a")
	got := rec(lifecycle.EventGot, lifecycle.StateDelivered, 1, "a")
	done := rec(lifecycle.EventDone, lifecycle.StateDone, 1, "a")
	lost := rec(lifecycle.EventLost, lifecycle.StateCancelled, 1, "a")
	late := rec(lifecycle.EventGot, lifecycle.StateDone, 1, "a")
	for name, tc := range map[string]struct {
		records []lifecycle.Record
		want    string // "": nothing
	}{
		"good":                    {[]lifecycle.Record{asked, answered, got, done}, ""},
		"a late word":             {[]lifecycle.Record{asked, answered, lost, late}, ""},
		"open":                    {[]lifecycle.Record{asked, answered}, "it has not ended"},
		"two ends":                {[]lifecycle.Record{asked, answered, got, done, lost}, "it has ended twice"},
		"on after the end":        {[]lifecycle.Record{asked, lost, asked, lost}, "it goes on after its end"},
		"two answers":             {[]lifecycle.Record{asked, answered, rec(lifecycle.EventAnswered, lifecycle.StateAnswered, 1, "b"), lost}, "two answers are on record for one attempt"},
		"twice":                   {[]lifecycle.Record{asked, answered, got, got, done}, "one answer was delivered twice"},
		"another":                 {[]lifecycle.Record{asked, answered, rec(lifecycle.EventGot, lifecycle.StateDelivered, 1, "b"), done}, "what was delivered is not what was answered"},
		"out of nothing":          {[]lifecycle.Record{asked, got, done}, "what was delivered is not what was answered"},
		"begun in the middle":     {[]lifecycle.Record{answered, got, done}, "it does not begin with being asked"},
		"an end after a late one": {[]lifecycle.Record{asked, answered, lost, late, done}, "it has ended twice"},
	} {
		wrongs := (&history{key: "U", records: tc.records}).wrongs(false)
		if tc.want == "" && len(wrongs) > 0 || tc.want != "" && !slices.Contains(wrongs, tc.want) {
			t.Errorf("%s: %q", name, wrongs)
		}
	}
}
