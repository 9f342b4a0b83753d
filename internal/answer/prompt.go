package answer

// What the desk knows of one request, and what of that a human may see.

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

type prompt struct {
	key      string
	number   int
	digest   wire.Digest
	request  wire.Request // signed by key; whose key that is, only a proof says
	env      wire.Envelope
	state    wire.State // the relay's word
	deadline time.Time
	missing  time.Time // since when the relay has not listed it

	unsupported string // why this program cannot answer it at all
	barred      string // why the relay takes no answer of ours, for barredAt
	barredAt    int    // attempt
	taken       string // who was first, for takenAt
	takenAt     int
	last        string // hash of our last answer, to know it again
	note        string // what became of it
	vouchedAt   int    // attempt for which a match code of its group was typed
	agreed      bool   // this responder has said yes, and another person must too
	end         string // how it ended; set: over

	wanted    bool // an asker shows it
	quiet     bool // it came while the human is away
	anew      bool // to be opened again though a proof holds
	challenge *challenge
	proof     *proof
	failed    string // why the last opening failed
	failures  int    // in a row
	lastOpen  time.Time
	nextOpen  time.Time

	held  *held
	fetch *fetch // a source is being asked
	shown Prompt // last published
}

// unsupported says why this program must leave a request alone: "" if it need not.
func unsupported(r wire.Request, relay, sign string, chain []wire.Succession, t time.Time) string {
	_, pinned := wire.Vouched(sign, chain, r.Responders)
	switch {
	case time.Unix(r.Made, 0).Sub(t) > maxAhead:
		return fmt.Sprintf("it says that it was made later than it is now by this computer's clock, by more than %d minutes; if that clock is slow, set it right", int(maxAhead.Minutes()))
	case r.Relay != relay:
		// A name that was given wrong at this end looks like this too, and more
		// often than an attack does.
		name := wire.CleanName(r.Relay, 253)
		return fmt.Sprintf("it was made for another relay, %s, and the one that passed it on is %s here; if %[1]s is what its administrator calls that relay, start this responder with `--relay-name %[1]s`", name, relay)
	case r.Approvals > 1 && r.Ask == wire.AskLink:
		return "it needs two people for a link, which this version cannot take part in; answer it with a newer one"
	case len(r.Responders) > 0 && !pinned:
		return "its workflow accepts answers of other responders' keys only; add yours to `responders` there, if it should"
	}
	return ""
}

func final(state string) bool {
	switch state {
	case "pending", "answered", "delivered":
		return false
	}
	// What this version does not know cannot be answered either.
	return true
}

// setState takes in what the relay says of p, in a page or in a reply.
func (d *Desk) setState(p *prompt, s wire.State) {
	if s.Attempt < 1 {
		s.Attempt = 1
	}
	if s.Attempt != p.state.Attempt {
		p.failed, p.failures = "", 0
		p.nextOpen = p.lastOpen.Add(openEvery)
	}
	p.state = s
	p.unsupported = unsupported(p.request, d.relay, d.sign, d.config.Chain, now())
	if t := time.Unix(s.Deadline, 0); s.Deadline > 0 && t.Before(p.deadline) {
		p.deadline = t
	}
	d.settle(p, s)
	if final(s.State) {
		d.finish(p, d.ending(p))
	}
}

// whyLost is the relay's word for a job that it gave up. Shown as it stands it would
// tell a human that something was lost, a code perhaps.
const whyLost = "lost"

// ending says how the request ended, from the relay's state.
func (d *Desk) ending(p *prompt) string {
	who, why := d.by(p), wire.Clean(p.state.Why, 300)
	with := func(text string) string {
		if why == "" {
			return text
		}
		return text + ": " + why
	}
	switch p.state.State {
	case "done":
		switch p.request.Ask {
		case wire.AskApproval:
			return with("the relay says that it is approved")
		case wire.AskLink:
			return with("the relay says that the job is done with it")
		}
		if why == whyLost {
			return "the relay says that the job has what it asked for, and was not heard of again"
		}
		return with("the relay says that the job has what it asked for")
	case "declined":
		return with(who + " declined")
	case "expired":
		return "nobody answered in time"
	case "cancelled":
		if why == whyLost {
			return "the relay says that the job is gone"
		}
		return with("withdrawn")
	}
	return "the relay says it is " + wire.Clean(p.state.State, 40) + ", which this version does not know"
}

// by is who answered or declined: this responder, or somebody by the relay's
// word, which gives no name where it hides them.
func (d *Desk) by(p *prompt) string {
	switch {
	case d.mine(p):
		return "you"
	case p.state.By == "":
		return wire.SomeResponder
	}
	return wire.Clean(p.state.By, 64)
}

// mine says whether what ended or answered p is of this responder's making. The
// relay shows what was signed in some of its words only: a human who has just
// said no must not read, in the others, that somebody else did.
func (d *Desk) mine(p *prompt) bool {
	switch s := p.state; s.State {
	case "declined":
		if s.Decline != nil {
			no, err := wire.Open[wire.Decline](*s.Decline, d.sign)
			return err == nil && no.Digest == p.digest
		}
		h := p.held // until the relay has said what became of it
		return h != nil && h.verb == wire.VerbDecline && h.attempt == s.Attempt && !h.sent.IsZero()
	case "answered", "delivered", "done":
		if s.Sealed != "" && s.Sealed == p.last {
			return true
		}
		if s.Answer != nil { // of this responder, before it was started anew
			a, err := wire.Open[wire.Answer](*s.Answer, d.sign)
			return err == nil && a.Digest == p.digest && a.Attempt == s.Attempt
		}
	}
	return false
}

// finish ends a prompt and takes it off.
func (d *Desk) finish(p *prompt, how string) {
	p.end, p.held, p.challenge, p.proof = how, nil, nil, nil
	d.bury(p)
	d.log.Info("decision", "what", "request", "request", p.key, "project", p.request.Project, "outcome", p.state.State, "why", how)
	d.publishOne(p)
	delete(d.prompts, p.key)
}

// bury remembers that p has ended, for as long as an honest request could still
// be open: a job's own word must not have it remembered for ever.
func (d *Desk) bury(p *prompt) {
	if _, again := d.over[p.key]; !again && len(d.over) >= maxTombs {
		oldest := ""
		for key, o := range d.over {
			if oldest == "" || o.deadline.Before(d.over[oldest].deadline) {
				oldest = key
			}
		}
		delete(d.over, oldest)
	}
	d.over[p.key] = tomb{rev: p.state.Rev, deadline: minTime(p.deadline, now().Add(maxWait))}
}

func (p *prompt) phase() Phase {
	switch {
	case p.end != "":
		return Over
	case p.held != nil:
		return Sending
	case p.state.State == "pending" && p.takenAt != p.state.Attempt:
		return Asking
	}
	return Resting
}

// proved gives the proof that holds now for the attempt that is open, or nil.
func (p *prompt) proved(t time.Time) *proof {
	if p.proof == nil || p.proof.alive.Attempt != p.state.Attempt {
		return nil
	}
	// A clock that was set back must not stretch a proof.
	if age := t.Sub(p.proof.at); age >= wire.OpeningLasts || age < -time.Minute {
		return nil
	}
	return p.proof
}

func (p *prompt) standing(t time.Time) (Standing, string) {
	if proof := p.proved(t); proof != nil {
		return proof.standing, proof.why
	}
	switch {
	case p.failed != "":
		return Unproven, p.failed
	case p.challenge != nil:
		return Checking, "the job is being asked to prove itself"
	case p.unsupported != "":
		return Unopened, p.unsupported
	}
	return Unopened, "nothing about it is verified yet"
}

// obstacle is the one place that decides whether p may be answered now: "" if it
// may.
func (d *Desk) obstacle(p *prompt, t time.Time) string {
	switch p.phase() {
	case Over:
		return p.end
	case Sending:
		return "an answer is on its way"
	case Resting:
		switch {
		case p.state.Sealed != "" && p.state.Sealed == p.last:
			return "you answered"
		case p.takenAt == p.state.Attempt && p.taken != "":
			return p.taken
		case p.state.State == "delivered":
			return "the relay says that " + d.by(p) + " answered, and that the job has it"
		}
		return d.by(p) + " answered"
	}
	standing, why := p.standing(t)
	switch {
	case p.agreed:
		return agreed
	case p.unsupported != "":
		return p.unsupported
	case standing != Verified:
		return why
	case p.barredAt == p.state.Attempt && p.barred != "":
		return p.barred
	case !t.Before(p.deadline):
		return "its time is up"
	case d.quit:
		return "this responder is ending"
	case p.request.Ask == wire.AskLink:
		return d.stray(p)
	}
	return ""
}

// wantsYes says whether the attempt that alive is about asks for the first of two
// people's yes, which another's code follows: until the job has signed that it
// wants one more. A yes that was of no use leaves attempt 2 where 1 was.
func wantsYes(q wire.Request, alive wire.Alive) bool {
	return q.Ask == wire.AskCode && q.Approvals > 1 &&
		(alive.Attempt == 1 || alive.Attempt == 2 && alive.Reason == wire.ReasonRejected)
}

const agreed = "you have agreed to it, and another person must too"

// stray says why the link of a verified prompt must not be followed, "" if it
// may. It opens in the browser in which its human is logged in to everything, so
// the page must be known, and not by the job's or the relay's word.
func (d *Desk) stray(p *prompt) string {
	link := p.proof.alive.Link
	staged := slices.ContainsFunc(p.request.Artifacts, func(a wire.Artifact) bool { return a.Stage != "" })
	switch {
	case link == "" && staged:
		return "" // its human approves what is staged where they like: by the command or the registry's page
	case link == "":
		return "its job has made no link; it makes one when it is asked to prove itself again"
	}
	host := wire.LinkHost(link)
	if host != "" && slices.Contains(d.trust.Links[p.request.Project], host) {
		return ""
	}
	if host != "" && d.config.LinkPath != nil {
		path, known := d.config.LinkPath(p.request.Service, host)
		switch {
		case known && wire.LinkUnder(link, path):
			return ""
		case known:
			// To allow the whole host is no advice: the login stands there too.
			return fmt.Sprintf("its link leads to %s, and there not to a page under %s, where the service %s asks for a second factor, so it is not shown: a login that you confirm there is a session for whoever began it",
				wire.CleanName(host, 260), path, wire.CleanName(p.request.Service, 63))
		}
	}
	return fmt.Sprintf("its link leads to %s, which is no host that the service %s is known by, so it is not shown; if you know that host, allow it with `cfa-responder pins link-host %s %s`",
		wire.CleanName(host, 260), wire.CleanName(p.request.Service, 63), p.request.Project, wire.CleanName(host, 260))
}

// typeMatch says whether the human must type p's match code: because its CI
// cannot bind a token to a key, because the job wants it, because it asks for a
// yes, which is typed in no other way, because the human has said so of the
// project, or because another request of it is open, which an honest-looking
// prompt could be mistaken for. The strictest of them counts.
func (d *Desk) typeMatch(p *prompt) bool {
	if p.request.TypeMatch || d.trust.TypeMatch[p.request.Project] || p.request.Ask == wire.AskApproval || p.proof == nil || !p.proof.job.Bound || wantsYes(p.request, p.proof.alive) {
		return true
	}
	if p.vouchedAt == p.state.Attempt {
		return false
	}
	for _, other := range d.prompts {
		if other == p || other.request.Project != p.request.Project {
			continue
		}
		if ph := other.phase(); ph == Asking || ph == Sending {
			return true
		}
	}
	return false
}

// snapshot is what a human may see of p now.
func (d *Desk) snapshot(p *prompt, t time.Time) Prompt {
	standing, _ := p.standing(t)
	why := d.obstacle(p, t)
	s := Prompt{
		ID: p.key, Number: p.number, Quiet: p.quiet,
		Phase: p.phase(), Standing: standing, Answerable: why == "", Why: why, Note: p.note,
		Relay: d.relay, Project: p.request.Project,
		Ask: p.request.Ask, Attempt: p.state.Attempt,
		Since: time.Unix(p.request.Made, 0), Deadline: p.deadline,
		Opened: names(p.state.Opened), By: wire.Clean(p.state.By, 64),
	}
	if s.Since.After(t) {
		s.Since = t
	}
	proof := p.proved(t)
	if proof == nil {
		return s
	}
	s.Facts, s.Rule = proof.facts, proof.rule
	if d.config.Memory != nil && proof.standing == Verified && s.Phase == Asking {
		s.New = d.config.Memory.New(d.relay, s.Project, s.Facts)
	}
	s.Service, s.Message = wire.CleanName(p.request.Service, 63), wire.Clean(p.request.Message, wire.MaxText)
	if f, err := wire.ParseFormat(p.request.Format); err == nil {
		s.Format = f.String()
	}
	s.Reason = proof.alive.Reason
	s.Source = d.source(p, proof)
	// Withheld where it must be typed: a code that can be copied off the prompt
	// shows nothing about the log.
	if s.TypeMatch = d.typeMatch(p); !s.TypeMatch {
		s.Match = proof.match
	}
	if kin := p.kin(t); kin != "" {
		sum := sha256.Sum256([]byte(kin))
		s.Group, s.Reusable = hex.EncodeToString(sum[:16]), d.reusable(p)
	}
	for _, a := range p.request.Artifacts {
		s.Artifacts = append(s.Artifacts, Artifact{
			Name: wire.CleanName(a.Name, 200), SHA256: a.SHA256.String(), Size: a.Size,
			Package: wire.CleanName(a.Package, 214), Version: wire.CleanName(a.Version, 256), Stage: a.Stage,
		})
	}
	if p.request.Ask == wire.AskApproval || p.request.Approvals > 1 {
		s.Approvals = max(p.request.Approvals, 1)
	}
	s.Yes = p.request.Ask == wire.AskApproval || wantsYes(p.request, proof.alive)
	if s.Approvals > 1 && proof.alive.Attempt > 1 && !wantsYes(p.request, proof.alive) &&
		(p.request.Ask == wire.AskCode || proof.alive.Reason == wire.ReasonNext) {
		s.Agreed = 1
	}
	s.Details = longText(proof.alive.Details)
	if p.request.Ask == wire.AskLink && proof.standing == Verified && proof.alive.Link != "" && d.stray(p) == "" {
		s.LinkHost = wire.LinkHost(proof.alive.Link)
		if !s.TypeMatch {
			s.Link = proof.alive.Link // its spelling was checked: it shows as it is
		}
	}
	return s
}

// publish tells the askers what has changed.
func (d *Desk) publish() {
	keys := make([]*prompt, 0, len(d.prompts))
	for _, p := range d.prompts {
		keys = append(keys, p)
	}
	slices.SortFunc(keys, func(a, b *prompt) int { return a.number - b.number })
	for _, p := range keys {
		d.publishOne(p)
	}
}

func (d *Desk) publishOne(p *prompt) {
	s := d.snapshot(p, now())
	p.endFetch(s)
	if reflect.DeepEqual(s, p.shown) {
		return
	}
	p.shown = s
	for _, c := range d.couriers {
		c.prompt(s)
	}
}

func names(list []string) string {
	list = list[:min(len(list), 16)]
	out := make([]string, len(list))
	for i, n := range list {
		out[i] = wire.Clean(n, 64)
	}
	return strings.Join(out, ", ")
}

// factsOf makes a verified token's facts fit to be shown.
func factsOf(job *trust.Job) Facts {
	f := job.Facts
	name := func(s string) string { return wire.CleanName(s, 200) }
	return Facts{
		Repository: name(f.Repository), Workflow: wire.Clean(f.Workflow, 100), WorkflowFile: name(f.WorkflowFile),
		Ref: name(f.Ref), SHA: name(f.SHA), Environment: name(f.Environment), Event: name(f.Event), Actor: name(f.Actor),
		RunURL: wire.CleanName(f.RunURL, 500), RunID: name(f.RunID), RunAttempt: name(f.RunAttempt), Job: name(f.Job),
		Runner: name(f.Runner), Group: name(f.Group),
	}
}

// longText makes the job's own lines safe to show: as many as fit a terminal's
// memory, none longer than a few of its rows.
func longText(s string) string {
	const most, width = 200, 300
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	more := len(lines) - most
	if more > 0 {
		lines = lines[:most]
	}
	for i, l := range lines {
		lines[i] = wire.Clean(l, width)
	}
	if more > 0 {
		lines = append(lines, fmt.Sprintf("(%d more lines)", more))
	}
	return strings.Join(lines, "\n")
}

// cleanLines is wire.Clean for text of several lines that this program made.
func cleanLines(s string, limit int) string {
	lines := strings.Split(s, "\n")
	if len(lines) > 20 {
		lines = append(lines[:20], fmt.Sprintf("(%d more lines)", len(lines)-20))
	}
	for i, l := range lines {
		lines[i] = wire.Clean(l, limit)
	}
	return strings.Join(lines, "\n")
}
