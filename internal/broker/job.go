package broker

// A job's messages. The main job of the relay is [Relay.ask]: everything between
// a request arriving and its humans being told, in order.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

func (r *Relay) jobMessage(ctx context.Context, key, verb string, data []byte) (wire.Reply, error) {
	switch verb {
	case wire.VerbRequest:
		var m wire.RequestMessage
		if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
			return wire.Reply{}, err
		}
		return r.ask(ctx, key, m)
	case wire.VerbState:
		var m wire.StateQuery
		if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
			return wire.Reply{}, err
		}
		return r.state(ctx, key)
	case wire.VerbAlive:
		var m wire.AliveMessage
		if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
			return wire.Reply{}, err
		}
		return r.alive(ctx, key, m)
	case wire.VerbGot, wire.VerbRejected, wire.VerbNext, wire.VerbDone, wire.VerbCancel:
		var m wire.StepMessage
		if err := wire.Decode(data, wire.MaxMessage, &m); err != nil {
			return wire.Reply{}, err
		}
		return r.step(ctx, key, verb, m.Step)
	}
	return wire.Reply{}, refuse(wire.RefusedMalformed, "this relay knows no such message of a job", "upgrade the older of the two sides")
}

// ask takes a request: proves the job, applies the project's rules, records it
// and tells the humans. The same request again is answered with its state.
func (r *Relay) ask(ctx context.Context, key string, m wire.RequestMessage) (wire.Reply, error) {
	rules, began := r.rules.Load(), r.now()
	c := rules.config

	job, err := rules.verifier.Verify(ctx, trust.Evidence{Key: key, Token: m.Token, Request: &m.Request})
	if err != nil {
		return wire.Reply{}, err
	}
	rule, err := c.policy.Match(job.Request.Project, job)
	if err != nil {
		return wire.Reply{}, err
	}
	if !job.Bound {
		if err := r.store.claimToken(ctx, job.TokenID, key, job.IssuedAt); err != nil {
			return wire.Reply{}, err
		}
	}
	// What was asked before is not judged by today's clock: a job that
	// reconnects late must still learn how its request ended.
	known, unknown := r.store.last(ctx, key)
	switch {
	case unknown == nil && known.rec.Digest == job.Digest.String():
		r.back(known)
		return r.reply(known), nil
	case unknown != nil && !errors.Is(unknown, errUnknown):
		return wire.Reply{}, unknown
	}
	if r.draining.Load() {
		return wire.Reply{}, errDraining
	}
	if why := r.store.crowded(); why != "" {
		return wire.Reply{}, refuse(wire.RefusedBusy, why, "tell the relay's administrator")
	}
	if err := r.suitable(c, job.Request); err != nil {
		return wire.Reply{}, err
	}
	if err := r.notForgotten(job.Request); err != nil {
		return wire.Reply{}, err
	}
	if err := r.notDeclined(ctx, job.Request.Project, job.Facts.Group); err != nil {
		return wire.Reply{}, err
	}
	if unknown != nil { // of another request under this key the transition speaks
		at := place{run: job.Facts.Group, project: job.Request.Project, kind: job.Request.Ask}
		release, err := r.store.reserve(key, at)
		if err != nil && r.store.refresh(ctx, at) {
			release, err = r.store.reserve(key, at)
		}
		if err != nil {
			return wire.Reply{}, err
		}
		defer release()
	}
	approvals := max(job.Request.Approvals, 1)
	after, err := r.store.transition(ctx, key, lifecycle.Ask{
		Key: key, Digest: job.Digest.String(),
		Project: job.Request.Project, Rule: rule, Group: job.Facts.Group, Kind: job.Request.Ask,
		Request: m.Request.Encode(), Deadline: r.deadline(job.Request),
		Attempts: c.asking(job.Request.Project).Attempts, Approvals: approvals,
	})
	if err != nil && !errors.Is(err, lifecycle.ErrSame) {
		return wire.Reply{}, err
	}
	after.accepts = acceptableOf(&job.Request)
	r.store.know(key, after.accepts)
	r.log.Info("decision", "what", "request", "key", key, "digest", job.Digest.String(), "project", job.Request.Project, "rule", rule, "outcome", "accepted",
		"issuer", job.Issuer.URL, "repository", wire.CleanName(job.Facts.Repository, 200), "workflow", wire.CleanName(job.Facts.WorkflowFile, 200), "ref", wire.CleanName(job.Facts.Ref, 200), "run", wire.CleanName(job.Facts.RunID, 40))
	r.meters.request.Observe(max(0, r.now().Sub(began).Seconds()))
	r.tellProject(after)
	return r.reply(after), nil
}

// deadline is the request's, cut to the longest wait by this relay's clock: a
// job whose clock is some seconds ahead is not refused for it.
func (r *Relay) deadline(q wire.Request) int64 {
	return min(time.Unix(q.Deadline, 0).UnixMilli(), r.now().Add(lifecycle.LongestWait).UnixMilli())
}

// suitable checks what depends on this relay's file rather than on the proof.
func (r *Relay) suitable(c *Config, q wire.Request) error {
	now := r.now()
	left := time.Unix(q.Deadline, 0).Sub(now)
	limit := time.Duration(c.Limits.Wait)
	if left <= 0 {
		return refuse(wire.RefusedLimit, "the request's deadline has passed", "is the job's clock right?")
	}
	// A minute's grace: the deadline was made before the ID token was fetched.
	if left > limit+time.Minute {
		return refuse(wire.RefusedLimit, fmt.Sprintf("the request would wait for %s, longer than this relay allows (%s)", left.Round(time.Minute), limit), fmt.Sprintf("set a timeout of at most %s", limit))
	}
	if made := time.Unix(q.Made, 0).Sub(now); made > 5*time.Minute || made < -15*time.Minute {
		return refuse(wire.RefusedLimit, "the request was not made just now", "is the job's clock right?")
	}
	if people := c.Projects[q.Project].Approvals; people > max(q.Approvals, 1) {
		return refuse(wire.RefusedPolicy, fmt.Sprintf("in this project %d people must agree, and the request asks for 1", people),
			"set the Action's input, or the orb's parameter, `approvals` to 2 (cfa --approvals 2), and name the signing keys of those who may agree in `responders`")
	}
	if len(q.Responders) > 0 {
		able := 0
		for _, e := range c.enrolled(q.Project) {
			if acceptableOf(&q).takes(e.Sign, e.Former) {
				able++
			}
		}
		if able < max(q.Approvals, 1) {
			return refuse(wire.RefusedPolicy, "too few of the responders that this request accepts are enrolled for the project",
				"compare the workflow's `responders` with `projects."+q.Project+".responders` in the relay's file")
		}
	}
	return nil
}

// notForgotten refuses a request that was made before the record was restored from
// a backup and is not in it: it may have been answered or declined since the backup
// was made, and would be asked, and counted, a second time. Its key has signed when
// it was made, so it cannot be made younger; what a job asks anew has a new key.
// There is no margin for clocks: a job whose clock is ahead is at worst asked about
// again, as the same request, of which it takes one answer and no other.
func (r *Relay) notForgotten(q wire.Request) error {
	at := r.store.restoredAt()
	if at.IsZero() || !time.Unix(q.Made, 0).Before(at) {
		return nil
	}
	return refuse(wire.RefusedLimit, fmt.Sprintf("this request was made before this relay's record was restored from a backup (%s), and whether it was answered or declined before is not on record", at.UTC().Format(time.RFC3339)),
		"run the job again: a new request is taken")
}

// notDeclined refuses a run that a human has declined: a workflow that asks on
// until somebody gives in is worn down by nobody's no. A CI whose tokens name no
// run has nothing to tell one by.
func (r *Relay) notDeclined(ctx context.Context, project, run string) error {
	if run == "" {
		return nil
	}
	n, declined, err := r.store.declined(ctx, project, run)
	if err != nil || !declined {
		return err
	}
	who, why := n.Person, n.Why
	if r.rules.Load().config.Names == "hidden" {
		who, why = "", ""
	}
	if who == "" {
		who = wire.SomeResponder
	}
	what := fmt.Sprintf("%s declined what this run asked (%s)", wire.Clean(who, 64), time.UnixMilli(n.At).UTC().Format("2006-01-02 15:04 UTC"))
	if why != "" {
		what += ", and said: " + wire.Clean(why, 500)
	}
	return refuse(wire.RefusedDeclined, what, "ask them why; this run cannot ask again, a re-run that a person starts can")
}

// state answers "I am here, and have revision r".
func (r *Relay) state(ctx context.Context, key string) (wire.Reply, error) {
	last := r.store.last
	if r.net.server != nil {
		// The stream is written by this relay alone, and what it has written is in
		// the index before anybody is told: each job asks every 15 s, and all of
		// them at once after a restart. Among several relays the leader is asked.
		last = r.known
	}
	e, err := last(ctx, key)
	if err != nil {
		return wire.Reply{}, err
	}
	r.back(e)
	return r.reply(e), nil
}

// back is called where a job may just have come back: whoever holds the sealed
// answer that it has missed sends it again when told that something happened.
func (r *Relay) back(e entry) {
	if e.rec.State == lifecycle.StateAnswered {
		r.tellProject(e)
	}
}

// alive passes the job's proof of life on to the responder that asked for it.
func (r *Relay) alive(ctx context.Context, key string, m wire.AliveMessage) (wire.Reply, error) {
	a, err := wire.Open[wire.Alive](m.Alive, key)
	if err != nil {
		return wire.Reply{}, err
	}
	if len(m.Token) > wire.MaxToken {
		return wire.Reply{}, refuse(wire.RefusedMalformed, "the ID token is too long", "")
	}
	e, err := r.current(ctx, key, a.Digest)
	if err != nil {
		return wire.Reply{}, err
	}
	d := r.rules.Load().config.desks[a.Connect]
	if d == nil || d.sign != a.Responder || !slices.Contains(d.projects, e.rec.Project) {
		return wire.Reply{}, refuse(wire.RefusedNotYours, "no responder of this project has asked for that", "")
	}
	if a.Link != "" {
		if err := r.leads(e, a.Link); err != nil {
			return wire.Reply{}, err
		}
	}
	if !r.alives.allow(key+d.connect, r.now()) {
		return wire.Reply{}, refuse(wire.RefusedTooSoon, "this responder was answered a moment ago", "")
	}
	if err := r.claimShown(ctx, key, m.Token); err != nil {
		return wire.Reply{}, err
	}
	r.push(wire.HintSubject(d.connect), wire.Hint{Hint: wire.HintAlive, Key: key, Rev: r.store.rev(e.seq), Envelope: &m.Alive, Token: m.Token})
	return r.reply(e), nil
}

// claimShown notes an unbound token as this key's before a responder is shown it:
// it may be another than the one that came with the request (a file's is replaced
// from time to time), and until it is somebody's, it is good for whoever has it.
// What a bound token proves is for the responder alone to say.
func (r *Relay) claimShown(ctx context.Context, key, token string) error {
	rules := r.rules.Load()
	claims, err := ci.Unverified(token)
	if err != nil {
		return nil // nobody's proof of anything
	}
	iss, _ := claims.String("iss")
	if !slices.ContainsFunc(rules.config.allIssuers(), func(i trust.Issuer) bool { return i.URL == iss && !i.Provider.Bound }) {
		return nil
	}
	job, err := rules.verifier.Verify(ctx, trust.Evidence{Key: key, Token: token})
	if err != nil {
		return err
	}
	return r.store.claimToken(ctx, job.TokenID, key, job.IssuedAt)
}

// leads checks where a link leads: a human follows it with the browser that is
// logged in to everything, so a job may send them to known places only. The
// responder asks the same of its own list.
func (r *Relay) leads(e entry, link string) error {
	if e.rec.Kind != lifecycle.KindLink {
		return refuse(wire.RefusedMalformed, "the alive answer holds a link, and the request asks for none", "")
	}
	env, err := wire.DecodeEnvelope(e.rec.Request)
	if err != nil {
		return err
	}
	q, err := wire.Open[wire.Request](env, e.rec.Key)
	if err != nil {
		return err
	}
	host := wire.LinkHost(link)
	if slices.Contains(r.rules.Load().config.Projects[q.Project].Links, host) {
		return nil
	}
	path, known := "", false
	if r.opts.LinkPath != nil {
		path, known = r.opts.LinkPath(q.Service, host)
	}
	if known && wire.LinkUnder(link, path) {
		return nil
	}
	r.log.Info("decision", "what", "link", "key", e.rec.Key, "project", q.Project, "outcome", "refused", "host", host)
	if known {
		// To allow the whole host is no advice: the login stands there too.
		return refuse(wire.RefusedPolicy, fmt.Sprintf("the link leads to %s, and there not to a page under %s, where the service %s asks for a second factor", host, path, q.Service),
			"find out what in this job shows such a link: a login that is confirmed there is a session for whoever began it")
	}
	return refuse(wire.RefusedPolicy, fmt.Sprintf("the link leads to %s, which is no host of the service %s", host, q.Service),
		fmt.Sprintf("if it is meant, add it to `projects.%s.links` in the relay's file", q.Project))
}

// step records what the job has signed: got, rejected, next, done or cancel.
func (r *Relay) step(ctx context.Context, key, verb string, env wire.Envelope) (wire.Reply, error) {
	raw := json.RawMessage(env.Encode())
	var in lifecycle.Input
	var digest wire.Digest
	var err error
	switch verb {
	case wire.VerbGot:
		var b wire.Got
		b, err = wire.Open[wire.Got](env, key)
		digest, in = b.Digest, lifecycle.Got{Attempt: b.Attempt, Sealed: b.Sealed.String(), Envelope: raw}
	case wire.VerbRejected:
		var b wire.Rejected
		b, err = wire.Open[wire.Rejected](env, key)
		digest, in = b.Digest, lifecycle.Reject{Attempt: b.Attempt, Why: b.Why, Shut: b.Shut, Envelope: raw}
	case wire.VerbNext:
		var b wire.Next
		b, err = wire.Open[wire.Next](env, key)
		digest, in = b.Digest, lifecycle.Next{Attempt: b.Attempt, Envelope: raw}
	case wire.VerbDone:
		var b wire.Done
		b, err = wire.Open[wire.Done](env, key)
		digest, in = b.Digest, lifecycle.Done{Outcome: b.Outcome, Envelope: raw}
	case wire.VerbCancel:
		var b wire.Cancel
		b, err = wire.Open[wire.Cancel](env, key)
		digest, in = b.Digest, lifecycle.Cancel{Why: b.Why, Envelope: raw}
	}
	if err != nil {
		return wire.Reply{}, err
	}
	if _, err := r.current(ctx, key, digest); err != nil {
		return wire.Reply{}, err
	}
	after, err := r.store.transition(ctx, key, in)
	if errors.Is(err, lifecycle.ErrSame) {
		return r.reply(after), nil
	}
	if err != nil {
		return wire.Reply{}, err
	}
	r.decided(verb, after)
	r.tellProject(after)
	return r.reply(after), nil
}

// current is the request that digest means, as this relay last saw it: good for
// checking what never changes in a request, and for nothing else.
func (r *Relay) current(ctx context.Context, key string, digest wire.Digest) (entry, error) {
	e, err := r.known(ctx, key)
	if err == nil && e.rec.Digest != digest.String() {
		return entry{}, errOther
	}
	return e, err
}

// known is the request that key names, as this relay last saw it.
func (r *Relay) known(ctx context.Context, key string) (entry, error) {
	if e, ok := r.store.recent(key); ok {
		return e, nil
	}
	return r.store.last(ctx, key)
}

var errOther = refuse(wire.RefusedKeyUsed, "this key names another request", "")

// decided logs one decision: who, what, which rule, how it stands.
func (r *Relay) decided(what string, e entry) {
	r.log.Info("decision", "what", what, "key", e.rec.Key, "digest", e.rec.Digest, "project", e.rec.Project, "rule", e.rec.Rule,
		"attempt", e.rec.Attempt, "outcome", string(e.rec.State), "by", e.rec.By, "why", wire.Clean(e.rec.Why, 200))
}

func (r *Relay) reply(e entry) wire.Reply {
	s := r.view(e)
	return wire.Reply{State: &s}
}

// view is what the relay says of a request.
func (r *Relay) view(e entry) wire.State {
	c := r.rules.Load().config
	hidden := c.Names == "hidden"
	s := wire.State{
		Rev: r.store.rev(e.seq), State: string(e.rec.State), Attempt: e.rec.Attempt, Reason: e.rec.Reason,
		Deadline: e.rec.Deadline / 1000, Why: e.rec.Why, Sealed: e.rec.Sealed,
	}
	if !hidden {
		s.By = e.rec.ByName
	}
	read := e.accepts == nil
	answerers, err := e.answerers()
	if err != nil { // the store is damaged: nobody is on call for that
		return s
	}
	if read {
		r.store.know(e.rec.Key, answerers)
	}
	now := r.now()
	for _, p := range c.enrolled(e.rec.Project) {
		if !answerers.takes(p.Sign, p.Former) || slices.Contains(e.rec.Shut, p.Sign) {
			continue
		}
		s.Enrolled++
		if !r.turnOf(&e, p, now) {
			continue
		}
		if until, away := r.store.awayUntil(p.Sign, now); away {
			a := wire.Absent{Until: until.Unix()}
			if !hidden {
				a.Name = p.Name
			}
			s.Away = append(s.Away, a)
			continue
		}
		if after := int64(time.Duration(p.After) / time.Second); after > 0 && e.rec.State == lifecycle.StatePending {
			if after > s.After {
				s.After, s.Then, s.Skipped = after, nil, !e.due(p, now)
			}
			if after == s.After && !hidden {
				s.Then = append(s.Then, p.Name)
			}
		}
		if !r.onCall(p.Connect) {
			continue
		}
		s.Ready++
		if !hidden {
			s.OnCall = append(s.OnCall, p.Name)
		}
	}
	for _, o := range e.rec.Opened {
		if o.Attempt != e.rec.Attempt {
			continue
		}
		name := o.Name
		if hidden {
			name = wire.SomeResponder
		}
		s.Opened = append(s.Opened, name)
	}
	switch e.rec.State {
	case lifecycle.StatePending:
		// The first of two: the job checks it before it signs that it wants the
		// second.
		if n := len(e.rec.Yes); n > 0 && e.rec.Yes[n-1].Attempt == e.rec.Attempt {
			if env, err := wire.DecodeEnvelope(e.rec.Yes[n-1].Envelope); err == nil {
				s.Answer = &env
			}
			if !hidden {
				s.By = e.rec.Yes[n-1].Name
			}
		}
	case lifecycle.StateAnswered, lifecycle.StateDelivered:
		if env, err := wire.DecodeEnvelope(e.rec.Answer); err == nil {
			s.Answer = &env
		}
	case lifecycle.StateDone:
		// A signed yes is all that an approval brings, and its job checks it.
		if n := len(e.rec.Yes); n > 0 && e.rec.Kind == lifecycle.KindApproval {
			if env, err := wire.DecodeEnvelope(e.rec.Yes[n-1].Envelope); err == nil {
				s.Answer = &env
			}
		}
	case lifecycle.StateDeclined:
		if env, err := wire.DecodeEnvelope(e.rec.Cause); err == nil {
			s.Decline = &env
		}
	}
	return s
}

// onCall says whether a responder was heard from lately: each re-reads every 15 s.
func (r *Relay) onCall(connect string) bool {
	r.heard.mu.Lock()
	at, ok := r.heard.at[connect]
	r.heard.mu.Unlock()
	return ok && r.now().Sub(at) < 3*wire.ReRead && !r.conns.gone(connect, at)
}
