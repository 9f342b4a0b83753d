package broker

// Enrolment in the record: invitations, who has come by one, and who was let in.
//
// The rules it keeps: nobody is enrolled but by an administrator's word at the
// relay's own socket, about keys that have proved to be there; what is enrolled or
// removed is on record before it counts, so that each relay knows it, after a
// restart too; and the relay's file wins, because it is what somebody has reviewed.
// An invitation lets its holder do one thing, and the relay keeps only its public
// key: who reads the record cannot join by it.

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

const (
	invitationPrefix = "cfa.store.v1.invitation."
	enrolmentPrefix  = "cfa.store.v1.enrolment." // and the project, and the responder's connecting key
)

const (
	// maxInvitations bounds those that are good at one time: each lets somebody
	// connect.
	maxInvitations = 100
	// maxEnrolled bounds the places that the record has, over all projects.
	maxEnrolled = 1000
	// joinedLasts is how long somebody who has joined may wait for an administrator.
	joinedLasts = 3 * 24 * time.Hour
)

// noted is the last note on a subject.
type noted struct {
	seq uint64
	n   lifecycle.Note
}

// enrolments is what the record says of who was invited and who is enrolled.
type enrolments struct {
	invited  map[string]noted // by the invitation's key
	enrolled map[string]noted // by project and connecting key
}

// seat names a responder's place in a project.
func seatOf(project, connect string) string { return project + "." + connect }

// seeEnrolment puts a note into the index, unless a newer one is there. It says
// whether it did.
func (s *store) seeEnrolment(seq uint64, n lifecycle.Note) bool {
	if err := proven(n); err != nil {
		s.log.Error("a note of an enrolment is not what somebody has signed, and is ignored", "sequence", seq, "error", err)
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	all, key := s.enrolments.invited, n.Name
	if n.About == lifecycle.AboutEnrolment {
		all, key = s.enrolments.enrolled, seatOf(n.Name, n.Connect)
	}
	if seq <= all[key].seq {
		return false
	}
	all[key] = noted{seq, n}
	return true
}

// proven says whether a note's keys are those of whoever signed what it holds.
func proven(n lifecycle.Note) error {
	if n.Envelope == nil {
		return nil // nobody has come by this invitation
	}
	var m wire.JoinMessage
	if err := wire.Decode(n.Envelope, lifecycle.MaxNote, &m); err != nil {
		return err
	}
	claimed, err := wire.ClaimedInvitation(m)
	if err != nil {
		return err
	}
	if n.About == lifecycle.AboutInvitation {
		claimed = n.Name
	}
	b, err := wire.OpenJoin(m, claimed)
	if err != nil {
		return err
	}
	if b.Connect != n.Connect {
		return errors.New("it is about other keys")
	}
	return m.Speaks(b.Key, n.Key)
}

// former are the signing keys that vouch for an enrolment's: proven before it was
// taken in.
func former(n lifecycle.Note) []string {
	var m wire.JoinMessage
	if json.Unmarshal(n.Envelope, &m) != nil {
		return nil
	}
	return wire.Former(n.Key, m.Chain)
}

// invitation is the last note of one that is good now.
func (s *store) invitation(key string, now time.Time) (lifecycle.Note, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, ok := s.enrolments.invited[key]
	return i.n, ok && time.UnixMilli(i.n.Until).After(now)
}

// invitations are those that are good now, the oldest first.
func (s *store) invitations(now time.Time) []lifecycle.Note {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []noted
	for key, i := range s.enrolments.invited {
		if !time.UnixMilli(i.n.Until).After(now) {
			delete(s.enrolments.invited, key)
			continue
		}
		out = append(out, i)
	}
	return inOrder(out)
}

// places are the responders that are enrolled by the record, those first who have
// been for longest.
func (s *store) places() []lifecycle.Note {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []noted
	for _, e := range s.enrolments.enrolled {
		if e.n.Until == 0 {
			out = append(out, e)
		}
	}
	return inOrder(out)
}

func inOrder(list []noted) (out []lifecycle.Note) {
	slices.SortFunc(list, func(a, b noted) int { return cmp.Compare(a.seq, b.seq) })
	for _, e := range list {
		out = append(out, e.n)
	}
	return out
}

// decided says whether somebody who has come by an invitation was let in since, or
// let in and removed.
func (s *store) decided(n lifecycle.Note) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, ok := s.enrolments.enrolled[seatOf(n.Project, n.Connect)]
	return ok && e.seq > s.enrolments.invited[n.Name].seq
}

// loadEnrolments reads who is enrolled, before anybody is let in by it.
func (s *store) loadEnrolments(ctx context.Context) error {
	cons, err := s.stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, FilterSubjects: []string{invitationPrefix + "*", enrolmentPrefix + "*.*"}})
	if err != nil {
		return fmt.Errorf("store: enrolments: %w", err)
	}
	if info, err := cons.Info(ctx); err != nil {
		return fmt.Errorf("store: enrolments: %w", err)
	} else if info.NumPending == 0 {
		return nil
	}
	it, err := cons.Messages()
	if err != nil {
		return fmt.Errorf("store: enrolments: %w", err)
	}
	defer context.AfterFunc(ctx, it.Stop)()
	defer it.Stop()
	for {
		m, err := it.Next()
		if err != nil {
			return fmt.Errorf("store: enrolments: %w", errors.Join(err, context.Cause(ctx)))
		}
		meta, err := m.Metadata()
		if err != nil {
			return fmt.Errorf("store: enrolments: %w", err)
		}
		if n, err := lifecycle.DecodeNote(m.Data()); err != nil {
			s.log.Error("a record cannot be read", "sequence", meta.Sequence.Stream, "error", err)
		} else {
			s.seeEnrolment(meta.Sequence.Stream, n)
		}
		if meta.NumPending == 0 {
			return nil
		}
	}
}

// errSame says that what is to be noted stands there already.
var errSame = errors.New("as it is already")

// noteEnrolment appends what decide makes of the last note on a subject, read from
// the stream's leader; seq 0: there is none. Who else appends meanwhile is read
// and decided on anew.
func (s *store) noteEnrolment(ctx context.Context, subject string, decide func(last lifecycle.Note, there bool, now time.Time) (lifecycle.Note, error)) (lifecycle.Note, error) {
	op := operationID()
	for try := 0; ; try++ {
		var last lifecycle.Note
		var seq uint64
		prev := ""
		m, err := s.stream.GetLastMsgForSubject(ctx, subject)
		switch {
		case err == nil:
			if last, err = lifecycle.DecodeNote(m.Data); err != nil {
				return last, fmt.Errorf("%w: note %d: %w", errStore, m.Sequence, err)
			}
			seq, prev = m.Sequence, lifecycle.Hash(m.Data)
			// What follow would have brought is news only here.
			if s.seeEnrolment(seq, last) && s.enrolled != nil {
				s.enrolled(last)
			}
		case !errors.Is(err, jetstream.ErrMsgNotFound):
			return last, fmt.Errorf("%w: read: %w", errStore, err)
		}
		if last.Op == op {
			return last, nil // the acknowledgement was lost
		}
		now := s.now()
		n, err := decide(last, seq != 0, now)
		if errors.Is(err, errSame) {
			return last, nil
		}
		if err != nil {
			return last, err
		}
		n.V, n.Op, n.Prev, n.At = lifecycle.Version, op, prev, now.UnixMilli()
		if n.Until < 0 { // it ends now
			n.Until = n.At
		}
		data, err := n.Encode()
		if err != nil {
			return last, err
		}
		one, cancel := context.WithTimeout(ctx, storeWithin)
		ack, err := s.js.PublishMsg(one, &nats.Msg{Subject: subject, Data: data}, jetstream.WithExpectLastSequencePerSubject(seq), jetstream.WithRetryAttempts(0))
		cancel()
		if err == nil {
			s.seeEnrolment(ack.Sequence, n)
			return n, nil
		}
		// As with a request's records: the next reading says what has become of it.
		if ctx.Err() != nil || try == 8 {
			return last, fmt.Errorf("%w: append: %w", errStore, err)
		}
		if err := pause(ctx, time.Duration(try+1)*5*time.Millisecond); err != nil {
			return last, fmt.Errorf("%w: append: %w", errStore, err)
		}
	}
}

// endsNow is a note's end that is when it is written.
const endsNow = -1

// with gives the configuration with those that the record has enrolled. The file
// wins: what it says of a key stands, and a project that it does not name has
// nobody.
func (c *Config) with(places []lifecycle.Note) *Config {
	if len(places) == 0 {
		return c
	}
	next := *c
	next.Projects, next.desks = maps.Clone(c.Projects), map[string]*desk{}
	bySign := map[string]string{}
	for key, d := range c.desks {
		own := *d
		own.projects = slices.Clone(d.projects)
		next.desks[key] = &own
		bySign[d.sign] = key
	}
	// A rotation is a note in each project, and counts for all with the first.
	newest := map[string]lifecycle.Note{}
	for _, n := range places {
		if known, ok := newest[n.Connect]; !ok || slices.Contains(former(n), known.Key) {
			newest[n.Connect] = n
		}
	}
	for _, n := range places {
		if now := newest[n.Connect]; slices.Contains(former(now), n.Key) {
			n.Key, n.Envelope = now.Key, now.Envelope
		}
		p, ok := next.Projects[n.Name]
		if !ok || !c.takes(n) {
			continue
		}
		d := next.desks[n.Connect]
		if other, taken := bySign[n.Key]; taken && other != n.Connect || d != nil && d.sign != n.Key {
			continue // of two in the record the older one
		}
		if d == nil {
			d = &desk{connect: n.Connect, sign: n.Key, name: n.Person, former: former(n)}
			next.desks[n.Connect], bySign[n.Key] = d, n.Connect
		}
		if slices.Contains(d.projects, n.Name) {
			continue // the file has it, with what it says of it
		}
		d.projects = append(d.projects, n.Name)
		p.Responders = append(slices.Clone(p.Responders), Responder{Name: d.name, Connect: d.connect, Sign: d.sign, Former: d.former})
		next.Projects[n.Name] = p
	}
	return &next
}

// takes says whether the file leaves a place to the record: it does not where it
// has one of the two keys with another.
func (c *Config) takes(n lifecycle.Note) bool {
	for key, d := range c.desks {
		if (key == n.Connect) != (d.sign == n.Key) {
			return false
		}
	}
	return true
}

// reenrol makes what the record says count, and closes the connections that were
// granted by what it said before.
func (r *Relay) reenrol() {
	r.swap.Lock()
	old := r.rules.Load()
	next := *old
	next.config = old.file.with(r.store.places())
	r.rules.Store(&next)
	r.swap.Unlock()
	r.leave(old.config, next.config)
	var signs []string
	for key, d := range next.config.desks {
		if b := old.config.desks[key]; b == nil || b.sign != d.sign || !sameStrings(b.projects, d.projects) {
			signs = append(signs, d.sign)
		}
	}
	if len(signs) > 0 {
		r.turned(signs) // jobs that wait have one more to wait for
	}
}

// leave closes the connections of those who were enrolled and are not, or for
// other projects: what they may hear was granted when they connected.
func (r *Relay) leave(before, now *Config) {
	for key, d := range before.desks {
		// A next signing key changes nothing of what may be heard.
		if n := now.desks[key]; n == nil || n.sign != d.sign && !slices.Contains(n.former, d.sign) || !sameStrings(n.projects, d.projects) {
			r.kick(key)
		}
	}
}

// enrolmentSeen runs for each note that another relay has appended.
func (r *Relay) enrolmentSeen(n lifecycle.Note) {
	switch {
	case n.About == lifecycle.AboutEnrolment:
		r.reenrol()
	case n.Until <= n.At:
		r.kick(n.Name)
	}
}

// Invite is an invitation, as the relay keeps it.
type Invite struct {
	Key     string    // its public key, U…
	Project string    // that it is for
	Name    string    // what the responder will be called
	Until   time.Time // how long it is good for
}

// invite records an invitation.
func (r *Relay) invite(ctx context.Context, i Invite) error {
	c, now := r.rules.Load().config, r.now()
	if err := wire.CheckConnectKey(i.Key); err != nil {
		return err
	}
	if _, ok := c.Projects[i.Project]; !ok {
		return fmt.Errorf("the relay's file has no project %s", wire.CleanName(i.Project, 63))
	}
	if err := checkPerson(i.Name); err != nil {
		return err
	}
	if d := i.Until.Sub(now); d <= 0 || d > wire.LongestInvitation+time.Minute {
		return fmt.Errorf("an invitation is good for %d days at most", int(wire.LongestInvitation/(24*time.Hour)))
	}
	if err := r.nameFree(c, i.Project, i.Name, ""); err != nil {
		return err
	}
	open := r.store.invitations(now)
	if len(open) >= maxInvitations {
		return fmt.Errorf("%d invitations are good now, as many as can be; withdraw some with `cfa-relay responders remove`", len(open))
	}
	for _, n := range open {
		if n.Project == i.Project && n.Person == i.Name && !r.store.decided(n) {
			return fmt.Errorf("%s is invited to %s already; withdraw that invitation first: `cfa-relay responders remove %s`", i.Name, i.Project, n.Name)
		}
	}
	if !r.store.room() {
		return errors.New("the relay's store is nearly full")
	}
	_, err := r.store.noteEnrolment(ctx, invitationPrefix+i.Key, func(_ lifecycle.Note, there bool, now time.Time) (lifecycle.Note, error) {
		if there {
			return lifecycle.Note{}, errors.New("that key is another invitation's")
		}
		return lifecycle.Note{About: lifecycle.AboutInvitation, Name: i.Key, Person: i.Name, Project: i.Project, Until: i.Until.UnixMilli()}, nil
	})
	if err == nil {
		r.log.Info("decision", "what", "invite", "project", i.Project, "name", i.Name, "invitation", i.Key, "outcome", "invited until "+i.Until.UTC().Format(time.RFC3339))
	}
	return err
}

// nameFree says whether a name is nobody's in a project yet, except that of a
// connecting key: two people of one name could not be told apart where it counts.
func (r *Relay) nameFree(c *Config, project, name, except string) error {
	for _, p := range c.enrolled(project) {
		if p.Name == name && p.Connect != except {
			return fmt.Errorf("%s has a responder called %s already; remove that one first, or take another name, such as '%s (desktop)'", project, name, name)
		}
	}
	return nil
}

func checkPerson(name string) error {
	if name == "" || len(name) > 64 || wire.Clean(name, 64) != name {
		return errors.New("the name is missing, longer than 64 characters or holds characters that could deceive a reader")
	}
	return nil
}

// join takes the word of somebody who has connected by an invitation. The same word
// again says how it stands.
func (r *Relay) join(ctx context.Context, invitation string, m wire.JoinMessage) (wire.Reply, error) {
	b, err := wire.OpenJoin(m, invitation)
	if err != nil {
		return wire.Reply{}, err
	}
	if err := m.Speaks(b.Key, b.Key); err != nil {
		return wire.Reply{}, err
	}
	c := r.rules.Load().config
	if b.Relay != c.Host {
		return wire.Reply{}, refuse(wire.RefusedNotYours, "it is said to the relay "+b.Relay+", and this is "+c.Host, "")
	}
	data, err := json.Marshal(m)
	if err != nil {
		return wire.Reply{}, err
	}
	came := false
	n, err := r.store.noteEnrolment(ctx, invitationPrefix+invitation, func(last lifecycle.Note, there bool, now time.Time) (lifecycle.Note, error) {
		switch {
		case !there || !time.UnixMilli(last.Until).After(now):
			return last, refuse(wire.RefusedNotYours, "this invitation is not good any more", "ask for another")
		case last.Key != "" && (last.Key != b.Key || last.Connect != b.Connect):
			return last, refuse(wire.RefusedTaken, "this invitation was used, with other keys", "if that was not you, somebody else has read the link: tell the relay's administrator, and ask for another")
		case last.Key != "":
			return last, errSame
		}
		if off := now.Sub(time.Unix(b.At, 0)); off.Abs() > wire.ConnectWithin {
			return last, refuse(wire.RefusedLimit, fmt.Sprintf("it was signed %s from now by this relay's clock, at most %s are allowed", off.Abs().Round(time.Second), wire.ConnectWithin), "is a clock wrong?")
		}
		for key, d := range c.desks {
			if (key == b.Connect) != (d.sign == b.Key) {
				return last, refuse(wire.RefusedKeyUsed, "one of these keys is enrolled here with another", "make new ones with another --key-file")
			}
			if key == b.Connect && slices.Contains(d.projects, last.Project) {
				return last, refuse(wire.RefusedKeyUsed, fmt.Sprintf("these keys are enrolled for %s already, as %s", last.Project, d.name), "")
			}
		}
		came = true
		last.Key, last.Connect, last.Envelope, last.Until = b.Key, b.Connect, data, now.Add(joinedLasts).UnixMilli()
		return last, nil
	})
	if err != nil {
		return wire.Reply{}, err
	}
	if came {
		r.log.Info("decision", "what", wire.VerbJoin, "project", n.Project, "name", n.Person, "invitation", invitation, "key", b.Connect, "responder", b.Key, "outcome", "waits for `cfa-relay responders approve`")
	}
	out := &wire.Joined{State: wire.JoinedWaiting, Project: n.Project, Name: n.Person}
	if d := r.rules.Load().config.desks[b.Connect]; d != nil && d.sign == b.Key && slices.Contains(d.projects, n.Project) {
		out.State, out.Name = wire.JoinedEnrolled, d.name
	} else if r.store.decided(n) {
		return wire.Reply{}, refuse(wire.RefusedNotYours, "who came by this invitation was enrolled, and is not any more", "ask for another")
	}
	return wire.Reply{Joined: out}, nil
}

// How a responder stands, in [Enrollee].
const (
	Enrolled = "enrolled"
	Waiting  = "waiting" // it has joined, and is to be approved
	Invited  = "invited"
	Idle     = "idle" // enrolled by the record, which does not count: the file has it, too, or does not let it
)

// Enrollee is one responder in one project, or an invitation.
type Enrollee struct {
	Project     string    `json:"project"`
	Name        string    `json:"name"`
	State       string    `json:"state"`
	From        string    `json:"from"` // file or record
	Connect     string    `json:"connect,omitempty"`
	Sign        string    `json:"sign,omitempty"`
	Fingerprint string    `json:"fingerprint,omitempty"`
	Connected   bool      `json:"connected"`
	Since       time.Time `json:"since,omitzero"` // of what is in the record
	Until       time.Time `json:"until,omitzero"` // of an invitation, and of who has come by one
	Invitation  string    `json:"invitation,omitempty"`
}

// called says whether who names it: by its name, or by one of its keys.
func (e Enrollee) called(who string) bool {
	return who != "" && (who == e.Name || who == e.Connect || who == e.Sign || who == e.Invitation)
}

func (e Enrollee) String() string {
	return fmt.Sprintf("%s in %s (%s, %s)", e.Name, e.Project, e.State, cmp.Or(e.Connect, e.Invitation))
}

// Responders is everybody: enrolled by the file and by the record, waiting, and
// invited.
func (r *Relay) Responders() []Enrollee {
	rules, now := r.rules.Load(), r.now()
	var out []Enrollee
	for _, project := range slices.Sorted(maps.Keys(rules.file.Projects)) {
		for _, p := range rules.file.enrolled(project) {
			out = append(out, Enrollee{Project: project, Name: p.Name, State: Enrolled, From: "file", Connect: p.Connect, Sign: p.Sign, Fingerprint: wire.Fingerprint(p.Sign, p.Connect), Connected: r.conns.has(p.Connect)})
		}
	}
	for _, n := range r.store.places() {
		e := Enrollee{Project: n.Name, Name: n.Person, State: Enrolled, From: "record", Connect: n.Connect, Sign: n.Key, Fingerprint: wire.Fingerprint(n.Key, n.Connect), Connected: r.conns.has(n.Connect), Since: time.UnixMilli(n.At).UTC()}
		if d := rules.config.desks[n.Connect]; d == nil || d.sign != n.Key || !slices.Contains(d.projects, n.Name) {
			e.State, e.Connected = Idle, false
		} else if slices.ContainsFunc(rules.file.enrolled(n.Name), func(p Responder) bool { return p.Connect == n.Connect }) {
			// It is listed as the file's, too. Taken out there alone it would be enrolled
			// still, which must not come as a surprise.
			e.State, e.Connected = Idle, false
		}
		out = append(out, e)
	}
	for _, n := range r.store.invitations(now) {
		e := Enrollee{Project: n.Project, Name: n.Person, State: Invited, From: "record", Since: time.UnixMilli(n.At).UTC(), Until: time.UnixMilli(n.Until).UTC(), Invitation: n.Name}
		if n.Key != "" {
			if r.store.decided(n) {
				continue
			}
			e.State, e.Connect, e.Sign, e.Fingerprint = Waiting, n.Connect, n.Key, wire.Fingerprint(n.Key, n.Connect)
		}
		out = append(out, e)
	}
	return out
}

// one is the only one of those in a state that who names.
func one(list []Enrollee, who, project string, states ...string) (Enrollee, error) {
	var found []Enrollee
	for _, e := range list {
		if e.called(who) && (project == "" || project == e.Project) && slices.Contains(states, e.State) {
			found = append(found, e)
		}
	}
	switch len(found) {
	case 0:
		return Enrollee{}, fmt.Errorf("nobody called %s is %s; `cfa-relay responders list` shows who there is", wire.CleanName(who, 64), strings.Join(states, " or "))
	case 1:
		return found[0], nil
	}
	var all []string
	for _, e := range found {
		all = append(all, e.String())
	}
	return Enrollee{}, fmt.Errorf("%s names several: %s; give a key, or --project", wire.CleanName(who, 64), strings.Join(all, "; "))
}

// approve enrols somebody who has joined. fingerprint is what the administrator
// was told by that person.
func (r *Relay) approve(ctx context.Context, who, project, fingerprint string) (Enrollee, error) {
	e, err := one(r.Responders(), who, project, Waiting)
	if err != nil {
		return e, err
	}
	if !wire.SameFingerprint(fingerprint, e.Fingerprint) {
		return e, fmt.Errorf("that is not the fingerprint of who has joined as %s: somebody else may have used the invitation. Nothing was changed; if it was no typing error, withdraw it: `cfa-relay responders remove %s`", e.Name, e.Invitation)
	}
	c := r.rules.Load().config
	if err := r.nameFree(c, e.Project, e.Name, e.Connect); err != nil {
		return e, err
	}
	if _, ok := c.Projects[e.Project]; !ok {
		return e, fmt.Errorf("the relay's file has no project %s any more", e.Project)
	}
	if n := len(r.store.places()); n >= maxEnrolled {
		return e, fmt.Errorf("the record has %d responders, as many as it may; remove some, or write them into the relay's file", n)
	}
	joined, good := r.store.invitation(e.Invitation, r.now())
	if !good || joined.Connect != e.Connect || joined.Key != e.Sign {
		return e, errors.New("that invitation was withdrawn, or has ended, in this moment; look again: `cfa-relay responders list`")
	}
	n, err := r.store.noteEnrolment(ctx, enrolmentPrefix+seatOf(e.Project, e.Connect), func(last lifecycle.Note, there bool, now time.Time) (lifecycle.Note, error) {
		if there && last.Until == 0 && last.Key == e.Sign {
			return last, errSame
		}
		return lifecycle.Note{About: lifecycle.AboutEnrolment, Name: e.Project, Person: e.Name, Key: e.Sign, Connect: e.Connect, Envelope: joined.Envelope}, nil
	})
	if err != nil {
		return e, err
	}
	r.reenrol()
	e.State, e.Until, e.Since = Enrolled, time.Time{}, time.UnixMilli(n.At).UTC()
	r.log.Info("decision", "what", "enrolment", "project", e.Project, "name", e.Name, "key", e.Connect, "responder", e.Sign, "outcome", "enrolled")
	return e, nil
}

// remove ends what the record has of somebody: enrolments, and invitations whether
// anybody has come by them or not.
func (r *Relay) remove(ctx context.Context, who, project string) ([]Enrollee, error) {
	var found []Enrollee
	keys := map[string]bool{}
	fromFile := false
	for _, e := range r.Responders() {
		if !e.called(who) || project != "" && project != e.Project {
			continue
		}
		if e.From == "file" {
			fromFile = true
			continue
		}
		found = append(found, e)
		keys[cmp.Or(e.Connect, e.Invitation)] = true
	}
	switch {
	case len(found) == 0 && fromFile:
		return nil, fmt.Errorf("%s stands in the relay's file, which wins: take it out there, and have it read with `cfa-relay reload`", wire.CleanName(who, 64))
	case len(found) == 0:
		return nil, fmt.Errorf("there is nobody called %s in the record; `cfa-relay responders list` shows who there is", wire.CleanName(who, 64))
	case len(keys) > 1:
		var all []string
		for _, e := range found {
			all = append(all, e.String())
		}
		return nil, fmt.Errorf("%s names several: %s; give a key, or --project", wire.CleanName(who, 64), strings.Join(all, "; "))
	}
	for _, e := range found {
		subject := invitationPrefix + e.Invitation
		if e.Invitation == "" {
			subject = enrolmentPrefix + seatOf(e.Project, e.Connect)
		}
		_, err := r.store.noteEnrolment(ctx, subject, func(last lifecycle.Note, there bool, now time.Time) (lifecycle.Note, error) {
			if !there || last.Until != 0 && last.Until <= now.UnixMilli() {
				return last, errSame
			}
			last.Until = endsNow
			return last, nil
		})
		if err != nil {
			return nil, err
		}
		if e.Invitation != "" {
			r.kick(e.Invitation)
		}
		r.log.Info("decision", "what", "enrolment", "project", e.Project, "name", e.Name, "key", cmp.Or(e.Connect, e.Invitation), "responder", e.Sign, "outcome", "removed")
	}
	r.reenrol()
	return found, nil
}

// rotate takes a responder's word that another signing key is its own from now on:
// the key that is enrolled vouches for it. What the file says, the file says.
func (r *Relay) rotate(ctx context.Context, d *desk, m wire.RotateMessage) (wire.Reply, error) {
	keys, err := wire.OpenChain(m.Chain)
	if err != nil {
		return wire.Reply{}, err
	}
	next := keys[len(keys)-1]
	c, file := r.rules.Load().config, r.rules.Load().file
	for key, other := range c.desks {
		if key != d.connect && other.sign == next {
			return wire.Reply{}, refuse(wire.RefusedKeyUsed, "that signing key is another responder's here", "")
		}
	}
	switch own := file.desks[d.connect]; {
	case own != nil && own.sign == next:
		return wire.Reply{Rotated: next}, nil
	case own != nil:
		return wire.Reply{}, refuse(wire.RefusedNotYours, "this responder stands in the relay's file, which its administrator changes", "give them the lines that `cfa-responder keys` prints")
	}
	done := 0
	for _, n := range r.store.places() {
		if n.Connect != d.connect {
			continue
		}
		_, err := r.store.noteEnrolment(ctx, enrolmentPrefix+seatOf(n.Name, n.Connect), func(last lifecycle.Note, there bool, now time.Time) (lifecycle.Note, error) {
			switch {
			case !there || last.Until != 0:
				return last, errSame // removed meanwhile
			case last.Key == next:
				done++
				return last, errSame
			case !slices.Contains(keys, last.Key):
				return last, refuse(wire.RefusedNotYours, "none of these keys is the one that is enrolled here", "ask the relay's administrator to remove it, and for an invitation")
			}
			var proof wire.JoinMessage
			if err := wire.Decode(last.Envelope, lifecycle.MaxNote, &proof); err != nil {
				return last, fmt.Errorf("%w: %w", errStore, err)
			}
			claimed, err := wire.ClaimedSigner(proof.Join)
			if err != nil {
				return last, fmt.Errorf("%w: %w", errStore, err)
			}
			// From the key that has joined on, or before, so that it can be verified alone.
			proof.Chain = m.Chain
			if err := proof.Speaks(claimed, next); err != nil {
				return last, refuse(wire.RefusedNotYours, "this chain does not begin with the key that was enrolled here, or before it", "after more than "+strconv.Itoa(wire.MaxChain)+" keys, ask for an invitation")
			}
			done++
			last.Key = next
			last.Envelope, err = json.Marshal(proof)
			return last, err
		})
		if err != nil {
			return wire.Reply{}, err
		}
		r.log.Info("decision", "what", wire.VerbRotate, "project", n.Name, "name", n.Person, "key", d.connect, "responder", next, "before", n.Key, "outcome", "its next signing key")
	}
	if done == 0 {
		return wire.Reply{}, refuse(wire.RefusedNotYours, "this responder is not enrolled here", "")
	}
	r.reenrol()
	return wire.Reply{Rotated: next}, nil
}

// renewEnrolments writes what is in force once more, before it ages out: the record
// is kept for a time, and somebody is enrolled for longer. Of several relays the
// store lets one.
func (r *Relay) renewEnrolments(ctx context.Context, now time.Time) {
	half := time.Duration(r.rules.Load().config.Limits.Retention) / 2
	old := func(n lifecycle.Note) bool { return n.Until == 0 && now.Sub(time.UnixMilli(n.At)) > half }
	for _, n := range r.store.places() {
		if !old(n) {
			continue
		}
		_, err := r.store.noteEnrolment(ctx, enrolmentPrefix+seatOf(n.Name, n.Connect), func(last lifecycle.Note, there bool, _ time.Time) (lifecycle.Note, error) {
			if !there || !old(last) {
				return last, errSame
			}
			return last, nil
		})
		if err != nil && r.ctx.Err() == nil {
			r.log.Warn("an enrolment could not be renewed on record; it is tried again, and ends when the record of it has aged out", "project", n.Name, "name", n.Person, "error", err)
		}
	}
}
