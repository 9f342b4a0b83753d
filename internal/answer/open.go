package answer

// Opening: the job is challenged, and proves itself or does not.

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

const (
	// openEvery is a little more than the relay lets through, since its clock
	// starts when the challenge arrives.
	openEvery = wire.ChallengeEvery + 250*time.Millisecond
	// renewBefore is how long before its end a proof is renewed, so that a
	// human who is typing then is not stopped.
	renewBefore = time.Minute
	// verifyWithin bounds one verification, which may have to fetch keys.
	verifyWithin = 20 * time.Second
	// maxAlives bounds the answers to one challenge that are verified: each
	// costs two signatures.
	maxAlives = 4
	// lateAnswer is how long the right answer is still waited for after a
	// wrong one: a straggler of an older challenge must not spoil this one.
	lateAnswer = 3 * time.Second
)

// challenge is one that is out.
type challenge struct {
	body  wire.Challenge
	at    time.Time
	until time.Time
	tries int
}

// proof is what a job has proved for one attempt.
type proof struct {
	job      *trust.Job
	alive    wire.Alive
	at       time.Time
	standing Standing // Verified, Foreign or Unpinned
	why      string   // why not Verified
	rule     string
	facts    Facts
	match    string
}

// Open says that a human is shown this prompt.
func (d *Desk) Open(id string) {
	d.post(func() {
		p := d.prompts[id]
		if p == nil {
			return
		}
		// A link dies sooner than a proof, and a new one comes with a new proof.
		if again := p.wanted && p.challenge == nil; again && (p.proved(now()) == nil || p.request.Ask == wire.AskLink) {
			// Asked again by hand: now, as far as the relay lets it through.
			p.failures, p.failed, p.anew = 0, "", true
			p.nextOpen = p.lastOpen.Add(openEvery)
		}
		p.wanted, p.quiet = true, false
	})
}

// tickPrompt does what is due for p and says when to look again.
func (d *Desk) tickPrompt(p *prompt, t time.Time) time.Time {
	due := t.Add(time.Minute)
	sooner := func(at time.Time) {
		if at.Before(due) {
			due = at
		}
	}
	if p.held != nil {
		sooner(d.tickHeld(p, t))
	}
	if p.held == nil {
		if !t.Before(p.deadline) {
			p.state.State = "expired"
			d.finish(p, d.ending(p))
			return due
		}
		sooner(p.deadline)
	}
	if c := p.challenge; c != nil {
		if t.Before(c.until) {
			sooner(c.until)
		} else {
			why := p.failed
			if c.tries == 0 {
				why = fmt.Sprintf("the job did not answer within %s, so nothing about it is verified; it may have ended, or be reconnecting", wire.AliveWithin)
			}
			d.openFailed(p, why)
		}
	}
	if p.proof != nil {
		if end := p.proof.at.Add(wire.OpeningLasts); t.Before(end) {
			sooner(end)
		} else {
			p.proof = nil
			if p.failed == "" && p.challenge == nil {
				p.failed = fmt.Sprintf("the job has not proved itself again within %s", wire.OpeningLasts)
			}
		}
	}
	if d.quit || !p.wanted || p.challenge != nil || p.agreed || p.phase() != Asking || p.unsupported != "" || d.conn == nil {
		return due
	}
	if proof := p.proved(t); proof != nil && !p.anew {
		if renew := proof.at.Add(wire.OpeningLasts - renewBefore); t.Before(renew) {
			sooner(renew)
			return due
		}
	}
	if wait := p.nextOpen.Sub(t); wait > 2*time.Minute { // the clock was set back
		p.nextOpen = t
	}
	next := p.nextOpen
	if soonest := p.lastOpen.Add(openEvery); soonest.After(next) && soonest.Sub(t) <= openEvery {
		next = soonest
	}
	if t.Before(next) {
		sooner(next)
		return due
	}
	d.challenge(p, t)
	sooner(t.Add(wire.AliveWithin))
	return due
}

// challenge sends p's job a challenge.
func (d *Desk) challenge(p *prompt, t time.Time) {
	nonce := make([]byte, 16)
	rand.Read(nonce) // never fails (crypto/rand)
	c := &challenge{
		body: wire.Challenge{Key: d.sign, Connect: d.connect, Digest: p.digest, Nonce: nonce, Chain: d.config.Chain},
		at:   t, until: t.Add(wire.AliveWithin),
	}
	env, err := wire.Sign(&c.body, d.config.Sign)
	if err != nil {
		d.openFailed(p, err.Error())
		return
	}
	p.challenge, p.lastOpen, p.anew = c, t, false
	conn, work := d.conn, d.work
	subject, msg := wire.DeskSubject(d.connect, wire.VerbOpen), wire.OpenMessage{Key: p.key, Challenge: env}
	go func() {
		ctx, cancel := context.WithTimeout(work, replyWithin)
		defer cancel()
		reply, err := conn.Request(ctx, subject, msg)
		d.post(func() { d.challenged(p, c, reply, err) })
	}()
}

// challenged is told how the relay took the challenge.
func (d *Desk) challenged(p *prompt, c *challenge, reply wire.Reply, err error) {
	if p.end != "" {
		return
	}
	if err == nil && reply.State != nil && reply.State.Rev >= p.state.Rev {
		d.setState(p, *reply.State)
	}
	if p.challenge != c || err == nil {
		return
	}
	var refused *wire.Refusal
	if !errors.As(err, &refused) {
		return // the answer may still come; if not, its time runs out
	}
	if refused.Code == wire.RefusedTooSoon || refused.Code == wire.RefusedBusy {
		p.challenge = nil
		p.nextOpen = now().Add(openEvery)
		return
	}
	d.openFailed(p, "the relay did not pass the challenge on: "+wire.Clean(refused.Error(), 300))
	d.readSoon()
}

// openFailed ends an opening. It is tried again by itself, ever less often.
func (d *Desk) openFailed(p *prompt, why string) {
	p.challenge, p.failed = nil, why
	wait := min(openEvery<<min(p.failures, 4), time.Minute)
	p.failures++
	p.nextOpen = now().Add(wait)
	d.log.Info("decision", "what", "open", "request", p.key, "project", p.request.Project, "outcome", "not verified", "why", why)
}

// alive takes in what may be a job's answer to a challenge.
func (d *Desk) alive(h wire.Hint) {
	p := d.prompts[h.Key]
	if p == nil || p.challenge == nil || h.Envelope == nil {
		return
	}
	c := p.challenge
	if !now().Before(c.until) || c.tries >= maxAlives {
		return
	}
	c.tries++
	t, work := d.trust, d.work
	e := trust.Evidence{Key: p.key, Token: h.Token, Request: &p.env, Alive: h.Envelope, Challenge: &c.body}
	project, digest := p.request.Project, p.digest
	go func() {
		ctx, cancel := context.WithTimeout(work, verifyWithin)
		defer cancel()
		proof, err := prove(ctx, t, e, project, digest)
		d.post(func() { d.proved(p, c, proof, err) })
	}()
}

// prove verifies the whole chain and holds it against the pins.
func prove(ctx context.Context, t Trust, e trust.Evidence, project string, digest wire.Digest) (*proof, error) {
	job, err := t.Verifier.Verify(ctx, e)
	if err != nil {
		return nil, err
	}
	// The verifier has said this already. It is asked again because all that
	// follows is sealed to this digest, and costs nothing.
	if job.Digest != digest {
		return nil, errors.New("the proof is for another request")
	}
	p := &proof{job: job, alive: job.Alive, standing: Verified, facts: factsOf(job), match: seal.Match(digest)}
	if t.Pins == nil {
		p.standing, p.why = Unpinned, unpinned(project)
		return p, nil
	}
	p.rule, err = t.Pins.Match(project, job)
	var mismatch *trust.Mismatch
	switch {
	case err == nil:
	case errors.As(err, &mismatch) && !mismatch.Known:
		p.standing, p.why = Unpinned, unpinned(project)
	default:
		p.standing, p.why = Foreign, "this is not what your pins say stands behind the project, so it cannot be answered here:\n"+cleanLines(err.Error(), 400)
	}
	return p, nil
}

func unpinned(project string) string {
	return "you have no pins for the project " + wire.CleanName(project, 63) + ", so nothing says which repository may ask in its name; if you know which, say so with `cfa-responder pins add`"
}

func (d *Desk) proved(p *prompt, c *challenge, proof *proof, err error) {
	if p.end != "" || p.challenge != c {
		return
	}
	t := now()
	if err == nil && !t.Before(c.until) {
		err = errors.New("the job's answer came too late")
	}
	if err != nil {
		p.failed = "the job's proof is not accepted: " + cleanLines(err.Error(), 400)
		if e, ok := errors.AsType[*trust.Error](err); ok && e.Code == trust.CodeTime {
			// The job fetched the token for this, a moment ago.
			p.failed += "\nThis computer's clock says " + t.Local().Format("15:04:05, 2 Jan 2006") + "; if that is wrong, set it right"
		}
		c.until = minTime(c.until, t.Add(lateAnswer))
		return
	}
	proof.at = t
	if n := proof.alive.Attempt; n != p.state.Attempt {
		// One of the two is behind. The job's word is signed, but an answer
		// goes through the relay, which takes one for its own attempt only.
		p.failed = fmt.Sprintf("the job says that it asks for attempt %d, the relay says %d", n, p.state.Attempt)
		if n > p.state.Attempt {
			p.proof, p.challenge = proof, nil // it holds as soon as the relay follows
			p.nextOpen = p.lastOpen.Add(openEvery)
		} else {
			c.until = minTime(c.until, t.Add(lateAnswer))
		}
		d.readSoon()
		return
	}
	p.proof, p.challenge, p.failed, p.failures = proof, nil, "", 0
	p.nextOpen = p.lastOpen.Add(openEvery)
	d.log.Info("decision", "what", "open", "request", p.key, "project", p.request.Project, "attempt", proof.alive.Attempt,
		"outcome", string(proof.standing), "rule", proof.rule, "repository", proof.facts.Repository, "why", proof.why)
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
