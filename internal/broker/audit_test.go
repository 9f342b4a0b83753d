package broker

// The record as those read it who check it: through the relay, beside it, and
// what was refused.

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/audit"
	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

// whole reads the record to its end.
func whole(t testing.TB, c *Config, q AuditQuery) (*Audit, []audit.Message) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a, err := OpenAudit(ctx, c, q)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var all []audit.Message
	for {
		m, err := a.Next()
		if errors.Is(err, io.EOF) {
			return a, all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, m)
	}
}

// until follows the record until a message is as wanted.
func until(t testing.TB, c *Config, wanted func(audit.Message) bool) audit.Message {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	a, err := OpenAudit(ctx, c, AuditQuery{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for {
		m, err := a.Next()
		if err != nil {
			t.Fatalf("it never came: %v", err)
		}
		if wanted(m) {
			return m
		}
	}
}

func refusalOf(code, verb string) func(audit.Message) bool {
	return func(m audit.Message) bool {
		r, ok, err := audit.RefusedOf(m)
		return ok && err == nil && r.Code == code && r.Verb == verb
	}
}

func checked(t testing.TB, c *Config, a *Audit, all []audit.Message) *audit.Verifier {
	t.Helper()
	v := audit.NewVerifier(a.Extent, c.Enrolled)
	for _, m := range all {
		v.Add(m)
	}
	v.End()
	for _, p := range v.Problems {
		t.Error(p)
	}
	return v
}

// audited checks what a test has made a relay write, where the relay still runs
// and that is not too much: whatever happened, the record must verify. A test may
// have put a message of its own there, or removed who answered from the file.
func (f *fixture) audited(r *Relay) {
	ctx, cancel := context.WithTimeout(r.ctx, 5*time.Second)
	defer cancel()
	var v *audit.Verifier
	err := readRecord(ctx, r.store.stream, r.rules.Load().config, AuditQuery{}, func(e auditEvent) error {
		switch {
		case e.Extent != nil && e.Extent.Last > 2000:
			return errors.New("too much")
		case e.Extent != nil:
			v = audit.NewVerifier(*e.Extent, func(string, string) bool { return true })
		case e.Message != nil:
			v.Add(*e.Message)
		}
		return nil
	})
	if err != nil {
		return
	}
	v.End()
	for _, p := range v.Problems {
		if p.Subject == audit.Prefix+"control" { // of a test that looks whether anybody else can read it
			continue
		}
		f.t.Errorf("the record does not verify: %s", p)
	}
}

// lived makes the relay write records of each sort.
func (f *fixture) lived() {
	f.t.Helper()
	ana := f.sit(f.ana)
	j := f.accepted(rocketRepo, "rocket")
	must(f.t, ana.say(wire.VerbOpen, f.ana.openMessage(f.t, j)))
	m, r := ana.answer(j, 1)
	must(f.t, r)
	must(f.t, j.got(1, m.Sealed.Hash()))
	must(f.t, j.step(&wire.Rejected{Key: j.pub, Digest: j.dig, Attempt: 1, Why: wire.RejectedRefused}))
	m, r = ana.answer(j, 2)
	must(f.t, r)
	must(f.t, j.got(2, m.Sealed.Hash()))
	must(f.t, j.done(2))
	must(f.t, ana.say(wire.VerbDecline, f.ana.declineMessage(f.t, f.accepted(rocketRepo, "rocket"), 1, "no")))
	must(f.t, f.accepted(boatRepo, "boat").cancel())
	stranger := f.job(otherRepo, "rocket")
	stranger.connect()
	refused(f.t, stranger.send(stranger.nc), wire.RefusedPolicy)
}

func TestTheRecordIsReadThroughTheRelayAndVerifies(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		f.lived()
		c := f.relay.rules.Load().config
		policy := until(t, c, refusalOf(wire.RefusedPolicy, wire.VerbRequest))
		a, all := whole(t, c, AuditQuery{})
		v := checked(t, c, a, all)
		if a.Direct || v.Requests != 3 || v.Refusals != 1 || v.Messages != len(all) || a.Extent.Last != all[len(all)-1].Seq {
			t.Errorf("%+v, %d messages, %d requests, %d refusals", a, v.Messages, v.Requests, v.Refusals)
		}
		r, _, _ := audit.RefusedOf(policy)
		if !r.Outside || r.Project != "rocket" || !strings.Contains(r.Why, "repository_id") {
			t.Errorf("the refusal: %+v", r)
		}
		if _, none := whole(t, c, AuditQuery{Since: time.Now().Add(time.Hour)}); len(none) != 0 {
			t.Errorf("%d messages since later", len(none))
		}
		if _, all := whole(t, c, AuditQuery{Since: time.Now().Add(-time.Hour)}); len(all) != v.Messages {
			t.Errorf("%d messages since an hour ago", len(all))
		}
	})
}

// The store of a relay that has ended is read by itself, and by nobody else at
// the same time; never one that a relay has.
func TestTheStoreOfARelayThatHasEndedIsReadDirectly(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	f.lived()
	c := f.relay.rules.Load().config
	until(t, c, refusalOf(wire.RefusedPolicy, wire.VerbRequest))
	_, before := whole(t, c, AuditQuery{})
	if _, err := openAudit(t.Context(), c, AuditQuery{}); err == nil || !strings.Contains(err.Error(), "nothing was opened") {
		t.Fatalf("the store of a running relay: %v", err)
	}
	f.relay.Close()
	a, err := OpenAudit(t.Context(), c, AuditQuery{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hold(c.Data); err == nil {
		t.Error("a relay could start meanwhile")
	}
	a.Close()
	release, err := hold(c.Data)
	if err != nil {
		t.Fatalf("it is not let go of: %v", err)
	}
	release()
	direct, all := whole(t, c, AuditQuery{})
	if checked(t, c, direct, all); !direct.Direct || len(all) != len(before) {
		t.Fatalf("%d messages, and %d through the relay", len(all), len(before))
	}
	for i := range all {
		if all[i].Seq != before[i].Seq || all[i].Subject != before[i].Subject || !bytes.Equal(all[i].Data, before[i].Data) {
			t.Errorf("message %d is another one", i)
		}
	}
	// And a relay goes on with it.
	f.startConfig(c, Options{})
	f.accepted(boatRepo, "boat")
	a, all = whole(t, c, AuditQuery{})
	if checked(t, c, a, all); len(all) != len(before)+1 {
		t.Errorf("%d messages after a restart, %d before", len(all), len(before))
	}
}

func TestWhereNoRecordIsNoneIsMade(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := filepath.Join(t.TempDir(), "data")
	c, err := ParseConfig([]byte(f.configText(dir, onLoopback)), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenAudit(t.Context(), c, AuditQuery{}); err == nil || !strings.Contains(err.Error(), "no record in it") {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory is there now: %v", err)
	}
	if _, err := OpenAudit(t.Context(), c, AuditQuery{Follow: true}); !errors.Is(err, ErrNoRelay) {
		t.Errorf("following: %v", err)
	}
	c.NATS = &NATS{}
	if _, err := OpenAudit(t.Context(), c, AuditQuery{}); !errors.Is(err, ErrNoRelay) || !strings.Contains(err.Error(), "cfa-relay serve") {
		t.Errorf("an external server's: %v", err)
	}
}

func TestAnAnswerThatBreaksOffIsNoWholeRecord(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	f.accepted(rocketRepo, "rocket")
	c := f.relay.rules.Load().config
	a, err := OpenAudit(t.Context(), c, AuditQuery{Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := a.Next(); err != nil {
		t.Fatal(err)
	}
	go f.relay.Close()
	if _, err := a.Next(); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a relay that ended: %v", err)
	}
}

func TestOnlyWhatIsNewIsFollowed(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	f.accepted(rocketRepo, "rocket")
	c := f.relay.rules.Load().config
	a, err := OpenAudit(t.Context(), c, AuditQuery{Follow: true, New: true})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	j := f.accepted(boatRepo, "boat")
	m, err := a.Next()
	if err != nil || m.Subject != audit.RequestPrefix+j.pub {
		t.Errorf("%s: %v", m.Subject, err)
	}
}

// Who audits holds a connection and reads all of the record: so many, and no more.
func TestAuditsAreBounded(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	f.accepted(rocketRepo, "rocket")
	c := f.relay.rules.Load().config
	if _, err := Admin(t.Context(), c.Data, http.MethodGet, "/v1/audit?since=x"); err == nil || !strings.Contains(err.Error(), "not a time") {
		t.Errorf("since x: %v", err)
	}
	var open []*Audit
	for range auditsAtOnce {
		a, err := OpenAudit(t.Context(), c, AuditQuery{Follow: true})
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, a)
	}
	if _, err := OpenAudit(t.Context(), c, AuditQuery{}); err == nil || !strings.Contains(err.Error(), "wait for one of them to end") {
		t.Errorf("one more: %v", err)
	}
	for _, a := range open {
		a.Close()
	}
	// Their places are free again, as soon as the relay has noticed.
	late := time.Now().Add(20 * time.Second)
	for {
		a, err := OpenAudit(t.Context(), c, AuditQuery{})
		if err == nil {
			a.Close()
			return
		}
		if time.Now().After(late) {
			t.Fatalf("their places stay taken: %v", err)
		}
	}
}

func TestWhoIsNotLetInIsOnRecordWithoutTheirToken(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	c := f.relay.rules.Load().config
	j := f.job(rocketRepo, "rocket")
	bad := f.token(rocketRepo, "another audience", nil)
	if nc, err := f.connect(j.key, bad); err == nil {
		nc.Close()
		t.Fatal("let in")
	}
	m := until(t, c, refusalOf(wire.RefusedToken, "connect"))
	r, _, _ := audit.RefusedOf(m)
	if r.Key != j.pub || !r.Outside || !strings.Contains(r.Why, "audience") {
		t.Errorf("%+v", r)
	}
	for _, part := range strings.Split(bad, ".") {
		if bytes.Contains(m.Data, []byte(part)) {
			t.Error("the token is in it")
		}
	}
}

// quietLog is a refusalLog whose writer does not run, so that a test is the writer.
func quietLog(f *fixture, now func() time.Time) *refusalLog {
	s := &store{js: f.relay.store.js, stream: f.relay.store.stream, now: now, log: f.relay.log, most: 1 << 30}
	return newRefusalLog(s)
}

func (f *refusalLog) drain(ctx context.Context) {
	for len(f.queue) > 0 {
		f.append(ctx, <-f.queue)
	}
}

func left(t testing.TB, all []audit.Message) (kept int, out int64) {
	t.Helper()
	for _, m := range all {
		if r, ok, err := audit.RefusedOf(m); err != nil {
			t.Fatal(err)
		} else if ok {
			kept, out = kept+1, out+r.Left
		}
	}
	return kept, out
}

// A flood costs a bounded number of records, which say how many it was, and does
// not hide what others were refused.
func TestAFloodOfRefusalsIsCountedAndHidesNothing(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	c := f.relay.rules.Load().config
	var clock clock
	l := quietLog(f, clock.now)
	ctx := t.Context()
	no := lifecycle.Refusal{Code: wire.RefusedPolicy, Verb: wire.VerbRequest, Why: "no rule fits"}
	const flood = 1000
	for range flood {
		l.note(audit.RefusedOutside, "made-up-"+operationID()[:8], false, no)
	}
	for range flood {
		l.note(audit.RefusedOutside, "boat", true, no)
	}
	l.note(audit.RefusedOutside, "rocket", true, no)
	l.note(audit.RefusedInside, "rocket", true, no)
	l.drain(ctx)
	a, all := whole(t, c, AuditQuery{})
	checked(t, c, a, all)
	kept, out := left(t, all)
	if kept != 2*refusalsPerProject+2 || kept+int(out) != 2*flood+2 {
		t.Errorf("%d on record, %d left out", kept, out)
	}
	// The next minute has room again. What was left out last is said, also where
	// nothing comes after.
	l.note(audit.RefusedOutside, "", false, no)
	for range flood {
		l.note(audit.RefusedOutside, "", false, no)
	}
	clock.move(time.Minute)
	l.note(audit.RefusedOutside, "", false, no)
	l.drain(ctx)
	for range flood {
		l.note(audit.RefusedOutside, "", false, no)
	}
	l.drain(ctx)
	l.note(audit.RefusedOutside, "", false, no)
	l.sum(ctx)
	a, all = whole(t, c, AuditQuery{})
	checked(t, c, a, all)
	counted := 0
	for _, m := range all {
		if r, ok, _ := audit.RefusedOf(m); ok && r.Code == leftOut {
			counted++
		}
	}
	// Each one that was noted is on record, or counted there; a sum is no refusal.
	kept, out = left(t, all)
	if kept-counted+int(out) != 2*flood+2+1+flood+1+flood+1 {
		t.Errorf("%d on record, %d left out, %d sums", kept, out, counted)
	}
	if counted != 1 {
		t.Errorf("%d sums", counted)
	}
	// With nothing left out there is nothing to say.
	l.sum(ctx)
	if _, again := whole(t, c, AuditQuery{}); len(again) != len(all) {
		t.Error("a sum of nothing is on record")
	}
}

// However long it goes on, a flood fills its share of the store and no more, and
// leaves the other side's share alone.
func TestRefusalsFillNoMoreThanTheirShareOfTheStore(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	c := f.relay.rules.Load().config
	var clock clock
	l := quietLog(f, clock.now)
	const most = 25
	l.store.most = most * lifecycle.MaxRefusal * refusalShare
	no := lifecycle.Refusal{Code: wire.RefusedToken, Verb: "connect", Why: strings.Repeat(`"`, 3000)}
	for range 10 {
		for range 20 {
			l.note(audit.RefusedOutside, "", false, no)
		}
		l.drain(t.Context())
		clock.move(time.Minute)
	}
	l.note(audit.RefusedInside, "rocket", true, no)
	l.drain(t.Context())
	l.sum(t.Context())
	_, all := whole(t, c, AuditQuery{})
	bytes, sides := 0, map[bool]int{}
	for _, m := range all {
		if r, ok, _ := audit.RefusedOf(m); ok {
			sides[r.Outside]++
			bytes += len(m.Data)
		}
	}
	if sides[true] != most || sides[false] != 1 || int64(bytes) > 2*l.store.most/refusalShare {
		t.Errorf("%v on record, %d bytes", sides, bytes)
	}
	// Another run of the relay counts what is there.
	next := newRefusalLog(l.store)
	next.note(audit.RefusedOutside, "", false, no)
	next.drain(t.Context())
	if _, again := whole(t, c, AuditQuery{}); len(again) != len(all) || next.left[audit.RefusedOutside] != 1 {
		t.Errorf("%d more after a restart", len(again)-len(all))
	}
}

// An append whose acknowledgement is lost may have happened: the chain goes on
// from what is there.
func TestARefusalWhoseAcknowledgementIsLostBreaksNoChain(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	c := f.relay.rules.Load().config
	l := quietLog(f, time.Now)
	lose := true
	l.store.js = &heldStore{l.store.js, func(_ context.Context, _ *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
		ack, err := next()
		if lose {
			return nil, errors.New("no answer")
		}
		return ack, err
	}}
	no := lifecycle.Refusal{Code: wire.RefusedToken, Verb: "connect", Why: "expired"}
	l.note(audit.RefusedOutside, "", false, no)
	l.drain(t.Context())
	lose = false
	l.note(audit.RefusedOutside, "", false, no)
	l.drain(t.Context())
	a, all := whole(t, c, AuditQuery{})
	checked(t, c, a, all)
	if kept, out := left(t, all); kept != 2 || out != 1 {
		t.Errorf("%d on record, %d left out", kept, out)
	}
}

func TestARefusalOfTheProtocolsOwnCourseIsNotOnRecord(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	c := f.relay.rules.Load().config
	ana, bob := f.sit(f.ana), f.sit(f.bob)
	j := f.accepted(rocketRepo, "rocket")
	ana.answer(j, 1)
	_, r := bob.answer(j, 1)
	refused(t, r, wire.RefusedTaken)
	eve := f.sit(f.eve)
	refused(t, eve.say("nonsense", struct{}{}), wire.RefusedMalformed)
	m := until(t, c, refusalOf(wire.RefusedMalformed, "nonsense"))
	if got, _, _ := audit.RefusedOf(m); got.Outside || got.Key != f.eve.key() {
		t.Errorf("%+v", got)
	}
	_, all := whole(t, c, AuditQuery{})
	if kept, _ := left(t, all); kept != 1 {
		t.Errorf("%d refusals on record", kept)
	}
	if _, err := json.Marshal(all); err != nil {
		t.Fatal(err)
	}
}

// TestTheSubjectsAreThoseOfTheStore: package audit reads what this one writes.
func TestTheSubjectsAreThoseOfTheStore(t *testing.T) {
	t.Parallel()
	if requestPrefix != audit.RequestPrefix || unboundPrefix != audit.UnboundPrefix || droppedPrefix != audit.DroppedPrefix || declinePrefix != audit.DeclinedPrefix {
		t.Error("they are not")
	}
}
