package broker

// A responder's messages.

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

func (r *Relay) deskMessage(ctx context.Context, key, verb string, data []byte) (wire.Reply, error) {
	// Looked up at each message: who is removed from the file is out at once,
	// even where the connection outlives it by a moment.
	d := r.rules.Load().config.desks[key]
	if verb == wire.VerbJoin && d == nil {
		var m wire.JoinMessage
		if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
			return wire.Reply{}, err
		}
		return r.join(ctx, key, m)
	}
	if d == nil {
		return wire.Reply{}, refuse(wire.RefusedNotYours, "this responder is not enrolled here", "ask the relay's administrator for an invitation, or to add its two keys to a project's `responders`")
	}
	switch verb {
	case wire.VerbPending:
		var m wire.PendingQuery
		if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
			return wire.Reply{}, err
		}
		return r.pending(ctx, d, m)
	case wire.VerbOpen:
		var m wire.OpenMessage
		if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
			return wire.Reply{}, err
		}
		return r.open(ctx, d, m)
	case wire.VerbAnswer:
		var m wire.AnswerMessage
		if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
			return wire.Reply{}, err
		}
		return r.answer(ctx, d, m)
	case wire.VerbDecline:
		var m wire.DeclineMessage
		if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
			return wire.Reply{}, err
		}
		return r.decline(ctx, d, m)
	case wire.VerbRotate:
		var m wire.RotateMessage
		if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
			return wire.Reply{}, err
		}
		return r.rotate(ctx, d, m)
	case wire.VerbAway:
		var m wire.AwayMessage
		if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
			return wire.Reply{}, err
		}
		return r.away(ctx, d, m)
	}
	return wire.Reply{}, refuse(wire.RefusedMalformed, "this relay knows no such message of a responder", "upgrade the older of the two sides")
}

// pageSize leaves room in a message for what stands around a page.
const pageSize = 48 << 10

// pending lists what waits in a responder's projects, a page at a time, and how
// those that it still shows have ended.
func (r *Relay) pending(ctx context.Context, d *desk, m wire.PendingQuery) (wire.Reply, error) {
	if len(m.Known) > 64 {
		return wire.Reply{}, refuse(wire.RefusedMalformed, "more than 64 requests asked after at once", "")
	}
	page := &wire.Page{}
	c, now := r.rules.Load().config, r.now()
	// Who is away is listed all that others are: whoever looks may answer.
	page.Away = r.store.ownAway(d.sign, now)
	var mine []*entry
	for _, e := range r.store.those(func(e *entry) bool { return e.rec.Key > m.After && slices.Contains(d.projects, e.rec.Project) }) {
		known := *e // what the index holds is never changed
		if r.turnOf(&known, c.enrolment(e.rec.Project, d), now) {
			mine = append(mine, &known)
		}
	}
	slices.SortFunc(mine, func(a, b *entry) int { return strings.Compare(a.rec.Key, b.rec.Key) })
	size := 0
	for _, key := range m.Known {
		if wire.CheckConnectKey(key) != nil {
			return wire.Reply{}, refuse(wire.RefusedMalformed, "not a request's key", "")
		}
		if _, open := r.store.recent(key); open {
			continue
		}
		e, err := r.store.last(ctx, key)
		if err != nil || !e.rec.State.Final() || !slices.Contains(d.projects, e.rec.Project) {
			continue
		}
		ended := wire.Ended{Key: key, State: r.view(e)}
		// Who is on call and whose responder showed it is no news of what is over.
		ended.State.Answer, ended.State.Decline, ended.State.OnCall, ended.State.Opened, ended.State.Away = nil, nil, nil, nil, nil
		data, err := json.Marshal(ended)
		if err != nil {
			continue
		}
		// Half a page at most: the other half is for what waits. What does not
		// fit is asked after again.
		if size+len(data) > pageSize/2 {
			break
		}
		size += len(data)
		page.Ended = append(page.Ended, ended)
	}
	for _, e := range mine {
		env, err := wire.DecodeEnvelope(e.rec.Request)
		if err != nil {
			continue
		}
		item := wire.Item{Key: e.rec.Key, Request: env, State: r.view(*e)}
		data, err := json.Marshal(item)
		if err != nil {
			continue
		}
		if size += len(data); size > pageSize && len(page.Items) > 0 {
			page.More = true
			break
		}
		page.Items = append(page.Items, item)
	}
	return wire.Reply{Page: page}, nil
}

// theirs is an open or ended request of one of the responder's projects, which
// takes its answers.
func (r *Relay) theirs(ctx context.Context, d *desk, key string, digest wire.Digest) (entry, error) {
	if err := wire.CheckConnectKey(key); err != nil {
		return entry{}, err
	}
	e, err := r.known(ctx, key)
	if err != nil {
		return entry{}, err
	}
	// Another project's requests do not exist for it, whatever else is wrong
	// with its message.
	if !slices.Contains(d.projects, e.rec.Project) {
		return entry{}, errUnknown
	}
	// Nor does one that it has not been asked about yet.
	if !e.rec.State.Final() && !r.turnOf(&e, r.rules.Load().config.enrolment(e.rec.Project, d), r.now()) {
		return entry{}, errUnknown
	}
	if e.rec.Digest != digest.String() {
		return entry{}, errOther
	}
	answerers, err := e.answerers()
	if err != nil {
		return entry{}, err
	}
	r.store.know(key, answerers)
	if !answerers.takes(d.sign, d.former) {
		return entry{}, refuse(wire.RefusedNotYours, "this request accepts answers of other responders only", "the workflow pins them by their signing keys (`responders`)")
	}
	return e, nil
}

// open passes a responder's challenge on to the job, and records that it looks.
func (r *Relay) open(ctx context.Context, d *desk, m wire.OpenMessage) (wire.Reply, error) {
	ch, err := wire.Open[wire.Challenge](m.Challenge, d.sign)
	if err != nil {
		return wire.Reply{}, err
	}
	if ch.Connect != d.connect {
		return wire.Reply{}, refuse(wire.RefusedNotYours, "the challenge names another connecting key", "")
	}
	e, err := r.theirs(ctx, d, m.Key, ch.Digest)
	if err != nil {
		return wire.Reply{}, err
	}
	if !r.challenges.allow(m.Key+d.connect, r.now()) {
		return wire.Reply{}, refuse(wire.RefusedTooSoon, "this request was opened here less than "+wire.ChallengeEvery.String()+" ago", "wait a moment")
	}
	after, err := r.store.transition(ctx, m.Key, lifecycle.Open{Key: d.sign, Name: d.name, Attempt: e.rec.Attempt, Envelope: m.Challenge.Encode()})
	switch {
	case err == nil:
		r.decided(wire.VerbOpen, after)
		r.changed(after)
	case errors.Is(err, lifecycle.ErrSame): // looked before, in this attempt
	default:
		return wire.Reply{}, err
	}
	r.push(wire.HintSubject(m.Key), wire.Hint{Hint: wire.HintChallenge, Key: m.Key, Rev: r.store.rev(after.seq), Envelope: &m.Challenge})
	return r.reply(after), nil
}

// answer records a responder's answer and streams its sealed code to the job.
// The first one wins; the same bytes again are passed on again, because only
// the job can say that it has them.
func (r *Relay) answer(ctx context.Context, d *desk, m wire.AnswerMessage) (wire.Reply, error) {
	a, err := wire.Open[wire.Answer](m.Answer, d.sign)
	if err != nil {
		return wire.Reply{}, err
	}
	e, err := r.theirs(ctx, d, m.Key, a.Digest)
	if err != nil {
		return wire.Reply{}, err
	}
	if a.Ask != e.rec.Kind {
		return wire.Reply{}, refuse(wire.RefusedMalformed, "the answer is to another kind of request", "")
	}
	var in lifecycle.Input
	switch {
	case a.Decision == wire.DecisionYes && m.Sealed == nil:
		in = lifecycle.Approve{Key: d.sign, Name: d.name, Attempt: a.Attempt, Envelope: m.Answer.Encode()}
	case a.Decision == wire.DecisionCode && m.Sealed != nil && m.Sealed.Check() == nil && m.Sealed.Hash() == a.Sealed:
		in = lifecycle.Answer{Key: d.sign, Name: d.name, Attempt: a.Attempt, Sealed: a.Sealed.String(), Envelope: m.Answer.Encode()}
	default:
		return wire.Reply{}, refuse(wire.RefusedMalformed, "the sealed code is not the one that was signed", "")
	}
	after, err := r.store.transition(ctx, m.Key, in)
	if err != nil && !errors.Is(err, lifecycle.ErrSame) {
		return wire.Reply{}, err
	}
	if after.rec.State == lifecycle.StateAnswered {
		r.push(wire.HintSubject(m.Key), wire.Hint{Hint: wire.HintAnswer, Key: m.Key, Rev: r.store.rev(after.seq), Envelope: &m.Answer, Sealed: m.Sealed})
	}
	if err == nil {
		r.decided(wire.VerbAnswer, after)
		r.tellProject(after)
		if after.rec.State != lifecycle.StateAnswered {
			r.push(wire.HintSubject(m.Key), wire.Hint{Hint: wire.HintState, Key: m.Key, Rev: r.store.rev(after.seq)})
		}
	}
	return r.reply(after), nil
}

// decline records a human's no.
func (r *Relay) decline(ctx context.Context, d *desk, m wire.DeclineMessage) (wire.Reply, error) {
	b, err := wire.Open[wire.Decline](m.Decline, d.sign)
	if err != nil {
		return wire.Reply{}, err
	}
	if _, err := r.theirs(ctx, d, m.Key, b.Digest); err != nil {
		return wire.Reply{}, err
	}
	after, err := r.store.transition(ctx, m.Key, lifecycle.Decline{Key: d.sign, Name: d.name, Attempt: b.Attempt, Reason: b.Reason, Envelope: m.Decline.Encode()})
	if err != nil && !errors.Is(err, lifecycle.ErrSame) {
		return wire.Reply{}, err
	}
	if err == nil {
		r.decided(wire.VerbDecline, after)
		r.changed(after)
	}
	// Not before the decline is on record, as it may come too late; and again
	// with each repetition of it, as a relay can end between the two.
	if after.rec.Group != "" {
		if err := r.store.noteDeclined(ctx, after.rec); err != nil {
			return wire.Reply{}, err
		}
	}
	return r.reply(after), nil
}
