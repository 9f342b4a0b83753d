package broker

// Enrolment by invitation: what an invitation is good for, who is let in by it,
// and that the relay's file wins.

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

// invited is an invitation's key, on record.
func (f *fixture) invited(project, name string) nkeys.KeyPair {
	f.t.Helper()
	kp := newHuman(f.t, name).connect
	if err := f.relay.invite(f.t.Context(), Invite{Key: wire.PublicKey(kp), Project: project, Name: name, Until: time.Now().Add(time.Hour)}); err != nil {
		f.t.Fatal(err)
	}
	return kp
}

// joins is what somebody with an invitation sends.
func (h *human) joins(t testing.TB, invitation nkeys.KeyPair, now time.Time) wire.JoinMessage {
	t.Helper()
	m, err := wire.SignJoin(h.sign, h.connect, invitation, relayName, now)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// come has somebody connect by an invitation and say that they join.
func (f *fixture) come(h *human, invitation nkeys.KeyPair) wire.Reply {
	f.t.Helper()
	nc := f.mustConnect(invitation, "")
	defer nc.Close()
	return request(f.t, nc, wire.DeskSubject(wire.PublicKey(invitation), wire.VerbJoin), h.joins(f.t, invitation, time.Now()))
}

func (f *fixture) approve(h *human) {
	f.t.Helper()
	if _, err := f.relay.approve(f.t.Context(), h.name, "", wire.Fingerprint(h.signer(), h.key())); err != nil {
		f.t.Fatal(err)
	}
}

func state(t testing.TB, r wire.Reply) string {
	t.Helper()
	if r.Refused != nil || r.Joined == nil {
		t.Fatalf("%+v", r)
	}
	return r.Joined.State
}

func TestAnInvitedResponderIsLetInWhenItWasApprovedAndOutWhenItIsRemoved(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		cleo := newHuman(t, "Cleo")
		before := f.accepted(rocketRepo, "rocket")
		if s := must(t, before.state()); s.Enrolled != 2 {
			t.Fatalf("%d are enrolled", s.Enrolled)
		}
		invitation := f.invited("rocket", "Cleo")
		if s := state(t, f.come(cleo, invitation)); s != wire.JoinedWaiting {
			t.Fatal(s)
		}
		if nc, err := f.connect(cleo.connect, ""); err == nil {
			nc.Close()
			t.Fatal("let in before anybody has approved it")
		}
		f.approve(cleo)
		if s := state(t, f.come(cleo, invitation)); s != wire.JoinedEnrolled {
			t.Error(s)
		}
		hint(t, before.hints, changeOf(before)) // one more to wait for
		if s := must(t, before.state()); s.Enrolled != 3 {
			t.Errorf("%d are enrolled", s.Enrolled)
		}
		opt, gone := closed()
		seat := f.sit(cleo, opt)
		told := listen(t, seat.nc, wire.ProjectSubject("rocket"))
		if p := seat.pending(); len(p.Items) != 1 {
			t.Errorf("%d requests are listed", len(p.Items))
		}
		j := f.accepted(rocketRepo, "rocket")
		hint(t, told, changeOf(j))
		_, r := seat.answer(j, 1)
		if s := must(t, r); s.By != "Cleo" {
			t.Errorf("%+v", s)
		}
		out, err := f.relay.remove(t.Context(), "Cleo", "")
		if err != nil || len(out) != 1 {
			t.Fatalf("%+v, %v", out, err)
		}
		waitClosed(t, gone, 5*time.Second)
		if nc, err := f.connect(cleo.connect, ""); err == nil {
			nc.Close()
			t.Error("let in again")
		}
		refused(t, f.come(cleo, invitation), wire.RefusedNotYours, "was enrolled, and is not any more")
		if s := must(t, before.state()); s.Enrolled != 2 {
			t.Errorf("%d are enrolled", s.Enrolled)
		}
		// And once more, by another invitation.
		f.come(cleo, f.invited("rocket", "Cleo"))
		f.approve(cleo)
		f.sit(cleo).pending()
	})
}

func TestAnInvitationIsGoodForOneWordOnly(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, f *fixture) {
		cleo := newHuman(t, "Cleo")
		invitation := f.invited("rocket", "Cleo")
		key := wire.PublicKey(invitation)
		opt, gone := closed()
		denied := make(chan string, 16)
		nc := f.mustConnect(invitation, "", opt, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { denied <- err.Error() }))
		began := time.Now()
		for _, subject := range []string{wire.ProjectSubject("rocket"), "cfa.v1.>", wire.InboxPrefix(f.ana.key()) + ".>"} {
			if _, err := nc.SubscribeSync(subject); err != nil {
				t.Fatal(err)
			}
		}
		for _, verb := range []string{wire.VerbPending, wire.VerbOpen, wire.VerbAnswer, wire.VerbDecline, wire.VerbAway} {
			if err := nc.PublishRequest(wire.DeskSubject(key, verb), wire.InboxPrefix(key)+".x", []byte("{}")); err != nil {
				t.Fatal(err)
			}
		}
		for _, subject := range []string{wire.JobSubject(key, wire.VerbRequest), wire.DeskSubject(cleo.key(), wire.VerbJoin), invitationPrefix + key} {
			if err := nc.PublishRequest(subject, wire.InboxPrefix(key)+".x", []byte("{}")); err != nil {
				t.Fatal(err)
			}
		}
		for range 3 + 5 + 3 {
			select {
			case d := <-denied:
				if !strings.Contains(strings.ToLower(d), "permissions violation") {
					t.Error(d)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("something was let through")
			}
		}
		// What it may say, it may.
		if s := state(t, request(t, nc, wire.DeskSubject(key, wire.VerbJoin), cleo.joins(t, invitation, time.Now()))); s != wire.JoinedWaiting {
			t.Error(s)
		}
		if jobs, responders := f.relay.count(); jobs != 0 || responders != 0 {
			t.Errorf("counted as %d jobs and %d responders", jobs, responders)
		}
		waitClosed(t, gone, idleAfter+15*time.Second)
		if after := time.Since(began); after < idleAfter-2*time.Second {
			t.Errorf("closed after %s", after)
		}
		// Nor is it a job's key, with a token of its CI.
		if nc, err := f.connect(invitation, f.token(rocketRepo, wire.Audience(relayName, key), nil)); err == nil {
			nc.Close()
			t.Error("let in as a job")
		}
	})
}

func TestWhatAnInvitationIsNotGoodFor(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	var c clock
	f.start(f.configText(t.TempDir(), onLoopback), Options{Now: c.now, opened: func(s *store) { c.store(s) }})
	cleo, dan := newHuman(t, "Cleo"), newHuman(t, "Dan")
	say := func(invitation nkeys.KeyPair, m wire.JoinMessage) wire.Reply {
		t.Helper()
		_, err := f.relay.join(t.Context(), wire.PublicKey(invitation), m)
		if err == nil {
			return wire.Reply{}
		}
		return wire.Reply{Refused: f.relay.refusal(err)}
	}
	invitation := f.invited("rocket", "Cleo")
	other, err := wire.SignJoin(cleo.sign, cleo.connect, invitation, "other.test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	stranger := newHuman(t, "Stranger")
	mixed := cleo.joins(t, invitation, time.Now())
	mixed.Connect = dan.joins(t, invitation, time.Now()).Connect
	for name, m := range map[string]struct {
		m    wire.JoinMessage
		code string
		says string
	}{
		"to another relay":                 {other, wire.RefusedNotYours, "other.test"},
		"by another invitation":            {cleo.joins(t, stranger.connect, time.Now()), wire.RefusedSignature, ""},
		"with a key that is not its own":   {mixed, wire.RefusedSignature, ""},
		"signed long ago":                  {cleo.joins(t, invitation, time.Now().Add(-wire.ConnectWithin-time.Minute)), wire.RefusedLimit, "is a clock wrong?"},
		"with an enrolled signing key":     {(&human{"X", cleo.connect, f.ana.sign}).joins(t, invitation, time.Now()), wire.RefusedKeyUsed, "enrolled here with another"},
		"with an enrolled connecting key":  {(&human{"X", f.ana.connect, cleo.sign}).joins(t, invitation, time.Now()), wire.RefusedKeyUsed, "enrolled here with another"},
		"by somebody who is there already": {f.ana.joins(t, invitation, time.Now()), wire.RefusedKeyUsed, "enrolled for rocket already, as Ana"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, say(invitation, m.m), m.code, m.says) })
	}
	// Used once: who comes second, with the same link, is told.
	if s := state(t, f.come(cleo, invitation)); s != wire.JoinedWaiting {
		t.Fatal(s)
	}
	refused(t, f.come(dan, invitation), wire.RefusedTaken, "with other keys", "somebody else has read the link")
	if s := state(t, f.come(cleo, invitation)); s != wire.JoinedWaiting {
		t.Fatal(s)
	}
	if _, err := f.relay.approve(t.Context(), "Cleo", "", wire.Fingerprint(dan.signer(), dan.key())); err == nil || !strings.Contains(err.Error(), "somebody else may have used the invitation") {
		t.Errorf("approved by another's fingerprint: %v", err)
	}
	for _, who := range []string{"Dan", "", "Ana"} {
		if _, err := f.relay.approve(t.Context(), who, "", "x"); err == nil {
			t.Errorf("%q was approved", who)
		}
	}
	// Withdrawn before anybody has approved it.
	if out, err := f.relay.remove(t.Context(), "Cleo", ""); err != nil || len(out) != 1 || out[0].State != Waiting {
		t.Fatalf("%+v, %v", out, err)
	}
	closedDoor := func(what string, kp nkeys.KeyPair) {
		t.Helper()
		if nc, err := f.connect(kp, ""); err == nil {
			nc.Close()
			t.Errorf("%s: let in", what)
		}
	}
	closedDoor("withdrawn", invitation)
	closedDoor("never invited", stranger.connect)
	refused(t, say(invitation, cleo.joins(t, invitation, time.Now())), wire.RefusedNotYours, "not good any more")
	// Its time is over; and who has come by one has three days.
	late, waits := f.invited("rocket", "Dan"), f.invited("rocket", "Cleo")
	f.come(cleo, waits)
	c.move(time.Hour + time.Minute)
	closedDoor("over", late)
	if _, ok := f.relay.store.invitation(wire.PublicKey(waits), c.now()); !ok {
		t.Error("who waits is forgotten")
	}
	c.move(joinedLasts)
	if list := f.relay.store.invitations(c.now()); len(list) != 0 {
		t.Errorf("%+v", list)
	}
}

func TestWhatTheRelayDoesNotInviteTo(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	good := func() Invite {
		return Invite{Key: newHuman(t, "x").key(), Project: "rocket", Name: "Cleo", Until: time.Now().Add(time.Hour)}
	}
	first := good()
	if err := f.relay.invite(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*Invite)
		want   string
	}{
		"no such project":   {func(i *Invite) { i.Project = "nothing" }, "has no project nothing"},
		"somebody is there": {func(i *Invite) { i.Name = "Ana" }, "has a responder called Ana already"},
		"invited already":   {func(*Invite) {}, "is invited to rocket already"},
		"a name that lies":  {func(i *Invite) { i.Name = "Ada\u202e" }, "could deceive"},
		"no key":            {func(i *Invite) { i.Key = "x" }, "not a connecting key"},
		"for ever":          {func(i *Invite) { i.Until = time.Now().Add(wire.LongestInvitation + time.Hour) }, "7 days at most"},
		"for no time":       {func(i *Invite) { i.Until = time.Now().Add(-time.Second) }, "7 days at most"},
		"the same key":      {func(i *Invite) { i.Key, i.Name = first.Key, "Dan" }, "another invitation's"},
	} {
		i := good()
		c.change(&i)
		if err := f.relay.invite(t.Context(), i); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for n := range maxInvitations - 1 {
		i := good()
		i.Name = fmt.Sprintf("Cleo %d", n)
		if err := f.relay.invite(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	i := good()
	i.Name = "One more"
	if err := f.relay.invite(t.Context(), i); err == nil || !strings.Contains(err.Error(), "as many as can be") {
		t.Errorf("%v", err)
	}
}

func TestTheRelaysFileWins(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	cleo := newHuman(t, "Cleo")
	text := f.configText(t.TempDir(), onLoopback)
	parse := func(text string) *Config {
		t.Helper()
		c, err := ParseConfig([]byte(text), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	place := func(project, name, connect, sign string) lifecycle.Note {
		return lifecycle.Note{About: lifecycle.AboutEnrolment, Name: project, Person: name, Connect: connect, Key: sign}
	}
	base := parse(text)
	for name, c := range map[string]struct {
		places   []lifecycle.Note
		rocket   string // who answers there
		projects map[*human]string
	}{
		"nobody": {nil, "Ana Bob", map[*human]string{f.ana: "boat rocket", cleo: ""}},
		"one more": {[]lifecycle.Note{place("rocket", "Cleo", cleo.key(), cleo.signer())},
			"Ana Bob Cleo", map[*human]string{cleo: "rocket", f.ana: "boat rocket"}},
		"for two projects": {[]lifecycle.Note{place("rocket", "Cleo", cleo.key(), cleo.signer()), place("boat", "Cleo", cleo.key(), cleo.signer())},
			"Ana Bob Cleo", map[*human]string{cleo: "rocket boat"}},
		"a project that the file has not": {[]lifecycle.Note{place("gone", "Cleo", cleo.key(), cleo.signer())},
			"Ana Bob", map[*human]string{cleo: ""}},
		"who is in the file already": {[]lifecycle.Note{place("rocket", "Ann", f.ana.key(), f.ana.signer())},
			"Ana Bob", map[*human]string{f.ana: "boat rocket"}},
		"in the file for another project, by its name there": {[]lifecycle.Note{place("rocket", "Evelyn", f.eve.key(), f.eve.signer())},
			"Ana Bob Eve", map[*human]string{f.eve: "other rocket"}},
		"the file's signing key with another connecting key": {[]lifecycle.Note{place("rocket", "Ana", cleo.key(), f.ana.signer())},
			"Ana Bob", map[*human]string{cleo: "", f.ana: "boat rocket"}},
		"the file's connecting key with another signing key": {[]lifecycle.Note{place("rocket", "Ana", f.ana.key(), cleo.signer())},
			"Ana Bob", map[*human]string{f.ana: "boat rocket"}},
		"two in the record with one key": {[]lifecycle.Note{place("rocket", "Cleo", cleo.key(), cleo.signer()), place("rocket", "Dan", newHuman(t, "Dan").key(), cleo.signer())},
			"Ana Bob Cleo", nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := base.with(c.places)
			var names []string
			for _, p := range got.enrolled("rocket") {
				names = append(names, p.Name)
			}
			if strings.Join(names, " ") != c.rocket {
				t.Errorf("rocket has %v", names)
			}
			for h, want := range c.projects {
				projects := ""
				if d := got.desks[h.key()]; d != nil {
					if d.sign != h.signer() {
						t.Errorf("%s signs with another key", h.name)
					}
					projects = strings.Join(d.projects, " ")
				}
				if projects != want {
					t.Errorf("%s: %q", h.name, projects)
				}
			}
			if len(base.enrolled("rocket")) != 2 || len(base.desks[f.ana.key()].projects) != 2 {
				t.Fatal("the file's own was changed")
			}
		})
	}
}

func TestAReloadLeavesTheEnrolledInUnlessTheFileSaysOtherwise(t *testing.T) {
	t.Parallel()
	f, c := startReloadable(t)
	cleo := newHuman(t, "Cleo")
	f.come(cleo, f.invited("boat", "Cleo"))
	f.approve(cleo)
	opt, gone := closed()
	f.sit(cleo, opt).pending()
	if err := f.relay.Reload(); err != nil {
		t.Fatal(err)
	}
	f.sit(cleo).pending() // still
	waitClosed(t, gone, 5*time.Second)
	if _, err := f.relay.remove(t.Context(), "Ana", ""); err == nil || !strings.Contains(err.Error(), "stands in the relay's file, which wins") {
		t.Errorf("%v", err)
	}
	// Who is in both is the file's, and out of the record when it is told.
	base := c.text
	c.set(strings.Replace(base, "responders: ["+f.ana.yaml()+"]", "responders: ["+f.ana.yaml()+", "+cleo.yaml()+"]", 1))
	if err := f.relay.Reload(); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{Enrolled + " file", Idle + " record"} {
		found := false
		for _, e := range f.relay.Responders() {
			found = found || e.Name == "Cleo" && e.State+" "+e.From == want
		}
		if !found {
			t.Errorf("not %s: %+v", want, f.relay.Responders())
		}
	}
	c.set(base)
	if err := f.relay.Reload(); err != nil {
		t.Fatal(err)
	}
	// The file takes one of her keys for another's.
	dan := &human{"Dan", newHuman(t, "Dan").connect, cleo.sign}
	c.set(strings.Replace(c.text, "responders: ["+f.ana.yaml()+"]", "responders: ["+f.ana.yaml()+", "+dan.yaml()+"]", 1))
	if err := f.relay.Reload(); err != nil {
		t.Fatal(err)
	}
	if nc, err := f.connect(cleo.connect, ""); err == nil {
		nc.Close()
		t.Error("let in against the file")
	}
	found := false
	for _, e := range f.relay.Responders() {
		found = found || e.Name == "Cleo" && e.State == Idle
	}
	if !found {
		t.Errorf("%+v", f.relay.Responders())
	}
	f.sit(dan).pending()
}

func TestAnEnrolmentOutlivesTheRelayAndItsRecord(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	dir := t.TempDir()
	var c clock
	o := Options{Now: c.now, opened: func(s *store) { c.store(s) }}
	text := f.configText(dir, onLoopback)
	f.start(text, o)
	cleo, dan := newHuman(t, "Cleo"), newHuman(t, "Dan")
	f.come(cleo, f.invited("rocket", "Cleo"))
	f.approve(cleo)
	waits := f.invited("rocket", "Dan")
	f.come(dan, waits)
	f.relay.Close()

	f.start(text, o)
	f.sit(cleo).pending()
	if s := state(t, f.come(dan, waits)); s != wire.JoinedWaiting {
		t.Error(s)
	}
	f.approve(dan)
	if _, err := f.relay.remove(t.Context(), dan.key(), ""); err != nil {
		t.Fatal(err)
	}
	// Before the note has aged out it stands there once more, and no more than once.
	notes := func(h *human) (out []lifecycle.Note) {
		_, all := whole(t, f.relay.rules.Load().config, AuditQuery{})
		for _, m := range all {
			if m.Subject == enrolmentPrefix+"rocket."+h.key() {
				n, err := lifecycle.DecodeNote(m.Data)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, n)
			}
		}
		return out
	}
	c.move(minRetention/2 - time.Hour)
	f.relay.renewEnrolments(t.Context(), c.now())
	if n := notes(cleo); len(n) != 1 {
		t.Fatalf("%+v", n)
	}
	c.move(2 * time.Hour)
	for range 3 {
		f.relay.renewEnrolments(t.Context(), c.now())
	}
	n := notes(cleo)
	if len(n) != 2 || n[1].Prev == "" || n[1].Until != 0 || n[1].Key != cleo.signer() || string(n[1].Envelope) != string(n[0].Envelope) || n[1].At-n[0].At < (minRetention/2).Milliseconds() {
		t.Errorf("%+v", n)
	}
	if n := notes(dan); len(n) != 2 || n[1].Until != n[1].At {
		t.Errorf("who was removed: %+v", n)
	}
	// The secret of an invitation is nowhere.
	seed, err := waits.Seed()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	err = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), string(seed)) {
			t.Errorf("%s has it", path)
		}
		found += strings.Count(string(data), wire.PublicKey(waits))
		return err
	})
	if err != nil || found == 0 {
		t.Errorf("the store was not searched: %d, %v", found, err)
	}
	if strings.Contains(f.log.String(), string(seed)) {
		t.Error("the log has it")
	}
}

// Whichever relay is told, all of them know.
func TestEachRelayOfAClusterKnowsWhoIsEnrolled(t *testing.T) {
	t.Parallel()
	x := newExternal(t, true)
	x.run(t)
	f := newFixture(t)
	f.server = x.server
	f.start(f.configText(t.TempDir(), x.section(0)), Options{})
	g := f.second(f.configText(t.TempDir(), x.section(1)), Options{})
	relays := []*Relay{f.relay, g.relay}
	cleo := newHuman(t, "Cleo")
	invitation := f.invited("rocket", "Cleo")
	for _, r := range relays {
		eventually(t, "each knows the invitation", func() bool { _, ok := r.store.invitation(wire.PublicKey(invitation), time.Now()); return ok })
	}
	f.come(cleo, invitation)
	eventually(t, "the second knows who has come", func() bool {
		n, ok := g.relay.store.invitation(wire.PublicKey(invitation), time.Now())
		return ok && n.Key != ""
	})
	g.approve(cleo)
	enrolled := func(r *Relay) bool { return r.rules.Load().config.desks[cleo.key()] != nil }
	for _, r := range relays {
		eventually(t, "each has her enrolled", func() bool { return enrolled(r) })
	}
	opt, gone := closed()
	f.sit(cleo, opt).pending()
	if _, err := f.relay.remove(t.Context(), "Cleo", ""); err != nil {
		t.Fatal(err)
	}
	waitClosed(t, gone, 5*time.Second)
	for _, r := range relays {
		eventually(t, "each has her removed", func() bool { return !enrolled(r) })
	}
}

// An append whose acknowledgement is lost is found again, and is one note.
func TestAnInvitationIsRecordedOnceThoughItsAcknowledgementIsLost(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	lost := map[string]int{}
	f.start(f.configText(t.TempDir(), onLoopback), held(func(_ context.Context, m *nats.Msg, next func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
		ack, err := next()
		for _, prefix := range []string{invitationPrefix, enrolmentPrefix} {
			if strings.HasPrefix(m.Subject, prefix) {
				if lost[prefix]++; lost[prefix]%2 == 1 {
					return nil, fmt.Errorf("no acknowledgement of %d", ack.Sequence)
				}
			}
		}
		return ack, err
	}))
	cleo := newHuman(t, "Cleo")
	f.come(cleo, f.invited("rocket", "Cleo"))
	f.approve(cleo)
	if _, err := f.relay.remove(t.Context(), "Cleo", ""); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	_, all := whole(t, f.relay.rules.Load().config, AuditQuery{})
	for _, m := range all {
		for _, prefix := range []string{invitationPrefix, enrolmentPrefix} {
			if strings.HasPrefix(m.Subject, prefix) {
				count[prefix]++
			}
		}
	}
	if count[invitationPrefix] != 2 || count[enrolmentPrefix] != 2 {
		t.Errorf("%v notes, %v appends", count, lost)
	}
}

func TestAnInvitationProposesTheProjectsRulesAsPins(t *testing.T) {
	t.Parallel()
	text := `host: relay.test
data: d
listen: {nats: "127.0.0.1:0"}
issuers: [github, {name: ghes, provider: github, url: "https://ghes.example.com/_services/token"}, {name: unused, provider: github, url: "https://unused.example.com/_services/token"}]
projects:
  rocket:
    links: [login.example.com]
    ci:
      - {provider: github, repository_id: "1", repository_owner_id: "2", ref: {pattern: 'refs/tags/v.+'}}
      - {provider: ghes, repository_id: "3", repository_owner_id: "4"}
    responders: [` + newHuman(t, "Ana").yaml() + `]
`
	c, err := ParseConfig([]byte(text), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pins, err := c.Pins("rocket")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"name: ghes", "https://ghes.example.com/_services/token", "pattern: refs/tags/v.+", "login.example.com", `repository_id: "3"`} {
		if !strings.Contains(pins, want) {
			t.Errorf("no %q in\n%s", want, pins)
		}
	}
	for _, not := range []string{"unused", "name: github"} {
		if strings.Contains(pins, not) {
			t.Errorf("%q in\n%s", not, pins)
		}
	}
	if _, err := c.Pins("nothing"); err == nil {
		t.Error("a project that there is not has pins")
	}
}

func TestAnAdministratorsSocketEnrolls(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	data := f.relay.rules.Load().config.Data
	cleo := newHuman(t, "Cleo")
	invitation := newHuman(t, "x").connect
	ctx := t.Context()
	if err := AskInvite(ctx, data, Invite{Key: wire.PublicKey(invitation), Project: "rocket", Name: "Cleo", Until: time.Now().Add(time.Hour)}); err != nil {
		t.Fatal(err)
	}
	f.come(cleo, invitation)
	list, err := AskResponders(ctx, data)
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for _, e := range list {
		states[e.Project+" "+e.Name] = e.State + " " + e.From
	}
	want := map[string]string{"rocket Ana": "enrolled file", "rocket Bob": "enrolled file", "boat Ana": "enrolled file", "other Eve": "enrolled file", "rocket Cleo": "waiting record"}
	if a, b := fmt.Sprint(states), fmt.Sprint(want); a != b {
		t.Errorf("%s\nnot %s", a, b)
	}
	if _, err := AskApprove(ctx, data, "Cleo", "", "AAAA"); err == nil {
		t.Error("approved by a wrong fingerprint")
	}
	e, err := AskApprove(ctx, data, "Cleo", "rocket", strings.ToLower(wire.Fingerprint(cleo.signer(), cleo.key())))
	if err != nil || e.State != Enrolled {
		t.Fatalf("%+v, %v", e, err)
	}
	if out, err := AskRemove(ctx, data, cleo.signer(), ""); err != nil || len(out) != 1 || out[0].Name != "Cleo" {
		t.Fatalf("%+v, %v", out, err)
	}
	if _, err := AskRemove(ctx, data, "Cleo", ""); err == nil || !strings.Contains(err.Error(), "nobody called Cleo") {
		t.Errorf("%v", err)
	}
}

// FuzzJoin decodes any bytes as what somebody with an invitation sends.
func FuzzJoin(f *testing.F) {
	cleo := newHuman(f, "Cleo")
	invitation := newHuman(f, "x").connect
	good, err := json.Marshal(cleo.joins(f, invitation, time.Unix(1_795_000_000, 0)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(strings.Replace(string(good), `"connect"`, `"Connect"`, 1)))
	f.Add([]byte(`{"join":{"v":1,"kind":"join","body":"e30=","sig":""},"connect":"","invitation":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var m wire.JoinMessage
		if wire.Decode(data, wire.MaxMessage, &m) != nil {
			return
		}
		b, err := wire.OpenJoin(m, wire.PublicKey(invitation))
		if err != nil {
			return
		}
		// Nobody has these keys but the one who signed the seed.
		if b.Key != cleo.signer() || b.Connect != cleo.key() {
			t.Fatalf("%+v", b)
		}
	})
}
