package broker

// Who is away: whom that keeps from being asked, who is asked instead, and what
// of it is on record.

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

// says has a responder say, by a clock, that it is away until then; zero: back.
func (h *human) says(t testing.TB, now, until time.Time) wire.AwayMessage {
	t.Helper()
	env, err := wire.SignAway(h.sign, relayName, now, until, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return wire.AwayMessage{Away: &env}
}

// away is says, sent; it must be taken.
func (s *seat) away(now, until time.Time) {
	s.f.t.Helper()
	r := s.say(wire.VerbAway, s.says(s.f.t, now, until))
	if r.Refused != nil || r.Away == nil {
		s.f.t.Fatalf("%+v", r)
	}
}

// noted are the notes of absences on record.
func (f *fixture) noted(h *human) (out []lifecycle.Note) {
	f.t.Helper()
	_, all := whole(f.t, f.relay.rules.Load().config, AuditQuery{})
	for _, m := range all {
		if m.Subject == awayPrefix+h.signer() {
			n, err := lifecycle.DecodeNote(m.Data)
			if err != nil {
				f.t.Fatal(err)
			}
			out = append(out, n)
		}
	}
	return out
}

func noteOf(at, until time.Time) lifecycle.Note {
	return lifecycle.Note{At: at.UnixMilli(), Until: until.UnixMilli(), Envelope: []byte(`{"v":1,"kind":"away","body":"eA==","sig":"` + strings.Repeat("A", 85) + `A=="}`)}
}

func TestTheNewestWordOfAnAbsenceCounts(t *testing.T) {
	t.Parallel()
	zero := time.UnixMilli(1_800_000_000_000)
	m := func(n int) time.Time { return zero.Add(time.Duration(n) * time.Minute) }
	for _, c := range []struct {
		name  string
		notes [][2]int // minutes: said at, away until
		away  []int
		there []int
	}{
		{"nothing said", nil, nil, []int{-1, 0, 100}},
		{"away", [][2]int{{0, 60}}, []int{0, 59}, []int{-1, 60, 61}},
		{"back before its end", [][2]int{{0, 60}, {10, 10}}, []int{0, 9}, []int{10, 30}},
		{"longer", [][2]int{{0, 60}, {10, 90}}, []int{0, 10, 89}, []int{90}},
		{"shorter", [][2]int{{0, 60}, {10, 20}}, []int{0, 19}, []int{20, 59}},
		{"twice", [][2]int{{0, 10}, {20, 30}}, []int{5, 25}, []int{10, 15, 30}},
		{"back twice", [][2]int{{0, 60}, {5, 5}, {6, 6}}, []int{4}, []int{5, 7}},
		{"by a clock that is behind", [][2]int{{10, 60}, {9, 9}}, nil, []int{9, 10, 59}},
		{"long ago, and again", [][2]int{{-1000, -900}, {0, 60}}, []int{1}, []int{-950, 61}},
	} {
		a := &absences{}
		for i, n := range c.notes {
			if err := a.add(uint64(i+1), noteOf(m(n[0]), m(n[1]))); err != nil {
				t.Fatal(err)
			}
		}
		for _, at := range c.away {
			if _, away := a.at(m(at)); !away {
				t.Errorf("%s: not away after %d minutes", c.name, at)
			}
		}
		for _, at := range c.there {
			if until, away := a.at(m(at)); away {
				t.Errorf("%s: away after %d minutes, until %s", c.name, at, until)
			}
		}
	}
}

func TestFewerAreThereWhereAbsencesMeet(t *testing.T) {
	t.Parallel()
	zero := time.UnixMilli(1_800_000_000_000)
	m := func(n int) time.Time { return zero.Add(time.Duration(n) * time.Minute) }
	s := &store{absent: map[string]*absences{}}
	for who, notes := range map[string][][2]int{"ana": {{0, 30}}, "bob": {{20, 40}, {60, 70}}} {
		a := &absences{}
		for i, n := range notes {
			if err := a.add(uint64(i+1), noteOf(m(n[0]), m(n[1]))); err != nil {
				t.Fatal(err)
			}
		}
		s.absent[who] = a
	}
	for _, c := range []struct {
		n           int
		who         string
		first, last int
		want        bool
	}{
		{1, "ana", 0, 0, true},
		{1, "ana", -5, -1, false},
		{1, "ana", -5, 0, true},
		{1, "ana", 30, 90, false}, // back
		{1, "ana", 29, 90, true},  // a turn that has come stays
		{1, "ana bob", 0, 19, false},
		{1, "ana bob", 0, 20, true}, // both
		{1, "ana bob", 30, 90, false},
		{2, "ana bob", 0, 0, true}, // two must agree, and one is there
		{2, "ana bob", 40, 59, false},
		{2, "ana bob", 40, 60, true},
		{1, "carl", 0, 90, false}, // who has said nothing
		{2, "carl", 0, 0, true},
		{1, "", 0, 0, true}, // nobody at all
	} {
		var list []Responder
		for _, name := range strings.Fields(c.who) {
			list = append(list, Responder{Sign: name})
		}
		if got := s.fewer(c.n, list, m(c.first), m(c.last)); got != c.want {
			t.Errorf("fewer than %d of %q, minutes %d to %d: %t", c.n, c.who, c.first, c.last, got)
		}
	}
}

// tiersText has Bob asked three minutes after Ana.
func tiersText(f *fixture, dir string) string {
	return strings.Replace(f.configText(dir, onLoopback), f.bob.yaml(), strings.TrimSuffix(f.bob.yaml(), "}")+", after: 3m}", 1)
}

func TestWhoIsAwayIsNotAskedAndTheNextAreAtOnce(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var c clock
	o := Options{Now: c.now, opened: func(s *store) { c.store(s) }}
	text := tiersText(f, t.TempDir())
	f.start(text, o)
	ana, bob := f.sit(f.ana), f.sit(f.bob)
	project := listen(t, ana.nc, wire.ProjectSubject("rocket"))
	ana.pending()
	bob.pending()
	waiting := f.accepted(rocketRepo, "rocket")
	hint(t, ana.hints, changeOf(waiting))
	if p := bob.pending(); len(p.Items) != 0 || p.Away != nil {
		t.Fatalf("%+v", p)
	}

	// What waits already is Bob's now, and its job is told.
	until := c.now().Add(2 * time.Minute).Truncate(time.Second)
	ana.away(c.now(), until)
	hint(t, bob.hints, changeOf(waiting))
	hint(t, waiting.hints, changeOf(waiting))
	if p := bob.pending(); len(p.Items) != 1 || p.Items[0].Key != waiting.pub {
		t.Errorf("%+v", p)
	}
	want := func(j *job) {
		t.Helper()
		s := must(t, j.state())
		if s.Ready != 1 || s.Enrolled != 2 || !slices.Equal(s.OnCall, []string{"Bob"}) || !slices.Equal(s.Then, []string{"Bob"}) || s.After != 180 || !s.Skipped ||
			!slices.Equal(s.Away, []wire.Absent{{Name: "Ana", Until: until.Unix()}}) {
			t.Errorf("%+v", s)
		}
	}
	want(waiting)

	// A new one rings Bob at once, and Ana not at all; she may look, and answer.
	fresh := f.runOf("9", "1")
	must(t, fresh.send(fresh.nc))
	hint(t, bob.hints, changeOf(fresh))
	quiet(t, ana, ana.hints, fresh)
	quiet(t, ana, project, fresh)
	want(fresh)
	p := ana.pending()
	if len(p.Items) != 2 || p.Away == nil {
		t.Fatalf("%+v", p)
	}
	if a, err := wire.Open[wire.Away](*p.Away, f.ana.signer()); err != nil || a.Until != until.Unix() {
		t.Errorf("%+v, %v", a, err)
	}

	// All of it holds after a restart.
	f.relay.Close()
	f.start(text, o)
	waiting.connect()
	fresh.connect()
	ana, bob = f.sit(f.ana), f.sit(f.bob)
	bob.pending()
	want(waiting)
	if st := f.relay.Status().Away; len(st) != 1 || st[0].Name != "Ana" || !st[0].Until.Equal(until) {
		t.Errorf("%+v", st)
	}

	// It ends by itself: she is asked again, and Bob's turn stays his.
	ana.pending()
	c.move(2 * time.Minute)
	hint(t, waiting.hints, changeOf(waiting))
	hint(t, ana.hints, changeOf(fresh))
	ana.pending()
	if p := bob.pending(); len(p.Items) != 2 {
		t.Errorf("a turn that had come was taken back: %+v", p)
	}
	if s := must(t, fresh.state()); s.Ready != 2 || len(s.Away) != 0 || !slices.Equal(s.OnCall, []string{"Ana", "Bob"}) || !s.Skipped {
		t.Errorf("%+v", s)
	}
	// What comes now is Ana's first again.
	last := f.runOf("10", "1")
	must(t, last.send(last.nc))
	hint(t, ana.hints, changeOf(last))
	if p := bob.pending(); len(p.Items) != 2 {
		t.Errorf("%+v", p)
	}
	// Who was away answers like anybody else.
	ana.away(c.now(), c.now().Add(time.Hour))
	m, r := ana.answer(last, 1)
	must(t, r)
	must(t, last.got(1, m.Sealed.Hash()))
	must(t, last.done(1))
}

func TestNamesOfWhoIsAwayAreHiddenToo(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(strings.Replace(f.configText(t.TempDir(), onLoopback), "projects:", "names: hidden\nprojects:", 1), Options{})
	ana := f.sit(f.ana)
	now := time.Now()
	ana.away(now, now.Add(time.Hour))
	j := f.accepted(rocketRepo, "rocket")
	if s := must(t, j.state()); len(s.Away) != 1 || s.Away[0].Name != "" || s.Away[0].Until != now.Add(time.Hour).Unix() {
		t.Errorf("%+v", s)
	}
}

// Without anybody away: whom the workflow pins, and how many must agree, decide
// too whether the tiers before could answer at all.
func TestATierIsNotWaitedForInVain(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(tiersText(f, t.TempDir()), Options{})
	bob := f.sit(f.bob)
	bob.pending()
	for _, c := range []struct {
		name   string
		change func(*wire.Request)
		asked  bool
	}{
		{"anybody", nil, false},
		{"both", func(q *wire.Request) { q.Responders = []string{f.ana.signer(), f.bob.signer()} }, false},
		{"Bob alone", func(q *wire.Request) { q.Responders = []string{f.bob.signer()} }, true},
		{"two of them", func(q *wire.Request) {
			q.Responders, q.Approvals = []string{f.ana.signer(), f.bob.signer()}, 2
		}, true},
	} {
		j := f.job(rocketRepo, "rocket")
		j.ask("rocket", c.change)
		j.connect()
		s := must(t, j.send(j.nc))
		listed := slices.ContainsFunc(bob.pending().Items, func(i wire.Item) bool { return i.Key == j.pub })
		if listed != c.asked || s.Skipped != c.asked || (s.After != 0) != c.asked {
			t.Errorf("%s: listed %t, %+v", c.name, listed, s)
		}
		must(t, j.cancel())
	}
}

func TestOnlyTheNewestAbsenceCountsAndOnlyToThisRelay(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(f.configText(t.TempDir(), onLoopback), Options{})
	ana := f.sit(f.ana)
	now := time.Now()
	at := func(n int) time.Time { return now.Add(time.Duration(n) * time.Millisecond) }
	if r := ana.say(wire.VerbAway, wire.AwayMessage{}); r.Refused != nil || r.Away != nil {
		t.Errorf("there is something on record: %+v", r)
	}
	// Back, who never was away: nothing to record.
	ana.away(at(0), time.Time{})
	away := f.ana.says(t, at(1), now.Add(time.Hour))
	back := f.ana.says(t, at(2), time.Time{})
	for _, m := range []wire.AwayMessage{away, away, back, back} { // a lost reply is no second word
		if r := ana.say(wire.VerbAway, m); r.Refused != nil {
			t.Fatalf("%+v", r.Refused)
		}
	}
	// What waited in the network, and what somebody kept.
	refused(t, ana.say(wire.VerbAway, away), wire.RefusedTaken, "has said later that it is back")
	if r := ana.say(wire.VerbAway, wire.AwayMessage{}); r.Away == nil || string(r.Away.Body) != string(back.Away.Body) {
		t.Errorf("%+v", r)
	}
	if ana.pending().Away != nil {
		t.Error("she is away")
	}
	for name, c := range map[string]struct {
		m    wire.AwayMessage
		code string
		says string
	}{
		"to another relay": {func() wire.AwayMessage {
			env, err := wire.SignAway(f.ana.sign, "other.test", at(3), now.Add(time.Hour), time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			return wire.AwayMessage{Away: &env}
		}(), wire.RefusedNotYours, "other.test"},
		"signed by another":    {f.bob.says(t, at(3), now.Add(time.Hour)), wire.RefusedSignature, ""},
		"signed long ago":      {f.ana.says(t, now.Add(-wire.AwayWithin-time.Minute), now.Add(time.Hour)), wire.RefusedLimit, "is a clock wrong?"},
		"signed in the future": {f.ana.says(t, now.Add(wire.AwayWithin+time.Minute), now.Add(time.Hour)), wire.RefusedLimit, "is a clock wrong?"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, ana.say(wire.VerbAway, c.m), c.code, c.says) })
	}
	if n := f.noted(f.ana); len(n) != 2 || n[0].Person != "Ana" || n[0].Until <= n[0].At || n[1].Until != n[1].At || n[1].Prev == "" {
		t.Errorf("%+v", n)
	}
}

func TestAResponderCannotFillTheRecordWithAbsences(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var c clock
	f.start(f.configText(t.TempDir(), onLoopback), Options{Now: c.now, opened: func(s *store) { c.store(s) }})
	ana := f.sit(f.ana)
	base := c.now()
	// Each a millisecond later, and what changes nothing is no record.
	said := 0
	next := func() time.Time { said++; return base.Add(time.Duration(said) * time.Millisecond) }
	for range wire.MaxAwayHour {
		ana.away(next(), base.Add(time.Hour))
		ana.away(next(), base.Add(time.Hour))
		ana.away(next(), time.Time{})
		ana.away(next(), time.Time{})
	}
	refused(t, ana.say(wire.VerbAway, f.ana.says(t, next(), base.Add(time.Hour))), wire.RefusedLimit, "10 times within an hour", "it may again in 1h0m")
	// That she is back she can say, and the others are not bound by it.
	ana.away(next(), time.Time{})
	bob := f.sit(f.bob)
	bob.away(next(), base.Add(time.Hour))
	if n := f.noted(f.ana); len(n) != 2*wire.MaxAwayHour {
		t.Errorf("%d notes", len(n))
	}
	c.move(time.Hour)
	ana.away(c.now(), c.now().Add(time.Hour))
	refused(t, ana.say(wire.VerbAway, f.ana.says(t, base, time.Time{})), wire.RefusedLimit, "is a clock wrong?")
}

// Two relays decide on one record; whichever was told, both know.
func TestEachRelayOfAClusterKnowsWhoIsAway(t *testing.T) {
	t.Parallel()
	x := newExternal(t, true)
	x.run(t)
	f := newFixture(t)
	f.server = x.server
	tiered := func(section int) string {
		return strings.Replace(f.configText(t.TempDir(), x.section(section)), f.bob.yaml(), strings.TrimSuffix(f.bob.yaml(), "}")+", after: 3m}", 1)
	}
	f.start(tiered(0), Options{})
	g := f.second(tiered(1), Options{})
	relays := map[string]*Relay{"the first": f.relay, "the second": g.relay}
	known := func(want time.Time) {
		t.Helper()
		for name, r := range relays {
			eventually(t, name+" knows it", func() bool {
				got, away := r.store.awayUntil(f.ana.signer(), time.Now())
				return away && got.Equal(want)
			})
		}
	}
	bob := f.sit(f.bob)
	bob.pending()
	j := f.accepted(rocketRepo, "rocket")
	for name, r := range relays {
		eventually(t, name+" knows the request", func() bool { _, ok := r.store.recent(j.pub); return ok })
	}
	until := time.Now().Add(time.Hour).Truncate(time.Second)
	if r := asDesk(t, g.relay, f.ana, wire.VerbAway, f.ana.says(t, time.Now(), until)); r.Refused != nil {
		t.Fatalf("%+v", r.Refused)
	}
	known(until)
	hint(t, bob.hints, changeOf(j))
	// At once and at both: the later word is what counts, whichever comes first.
	replies := make(chan wire.Reply, 2)
	base := time.Now()
	for i, r := range []*Relay{f.relay, g.relay} {
		m := f.ana.says(t, base.Add(time.Duration(i)*time.Millisecond), until.Add(time.Duration(i+1)*time.Minute))
		go func() { replies <- asDesk(t, r, f.ana, wire.VerbAway, m) }()
	}
	for range 2 {
		if r := <-replies; r.Refused != nil && r.Refused.Code != wire.RefusedTaken {
			t.Errorf("%+v", r.Refused)
		}
	}
	known(until.Add(2 * time.Minute))
}

// An append whose acknowledgement is lost is found again, and is one note.
func TestAnAbsenceIsRecordedOnceThoughItsAcknowledgementIsLost(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	lost := 0
	f.start(f.configText(t.TempDir(), onLoopback), held(func(_ context.Context, m *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
		ack, err := next()
		if strings.HasPrefix(m.Subject, awayPrefix) && lost == 0 {
			lost++
			return nil, fmt.Errorf("no acknowledgement of %d", ack.Sequence)
		}
		return ack, err
	}))
	ana := f.sit(f.ana)
	now := time.Now()
	ana.away(now, now.Add(time.Hour))
	if n := f.noted(f.ana); len(n) != 1 || lost != 1 {
		t.Errorf("%d notes, %d acknowledgements lost", len(n), lost)
	}
	if ana.pending().Away == nil {
		t.Error("she is not away")
	}
}
