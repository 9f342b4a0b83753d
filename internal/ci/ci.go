// Package ci knows the CI systems: how a job in each gets an ID token, and how
// to read the claims of one.
//
// The rule it keeps: everything that differs between CI systems stands in one
// row of one table, in one file per system, and nothing else in this project
// names one. A row says what a token of that system must contain, which claims
// tell one job from another, and which honest-looking jobs are not what they
// seem (hazards). Adding a system is adding a file and its row.
//
// What it does not do: it verifies no signature and decides on no token. The
// functions that read claims are given a payload that somebody else verified;
// the two exceptions say so in their names ([Unverified]) or work on the job's
// own token ([Provider.Token]). The reading itself is strict, because a payload
// that two programs read differently is how a verified token is made to say
// something else than it says: see [Decode].
package ci

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A Provider is a row of the table: one CI system.
type Provider struct {
	// Name is what configuration calls it ("github"); Title is what a human
	// reads ("GitHub Actions").
	Name, Title string

	// Issuer is the exact issuer that Name alone stands for; empty where each
	// organization or server has its own. Other instances of the same system
	// (an enterprise server) use this row with an issuer of their own, which
	// only configuration can name.
	Issuer string

	// Issuers gives further exact issuers that follow from the ids that a rule
	// names (claim name to allowed values). nil means none. It never makes an
	// issuer out of anything but a well-formed id: a value that could move the
	// issuer to another host or path gives nothing.
	Issuers func(rule map[string][]string) []string

	// Bound says that a job can get a token with an audience chosen at run
	// time, so that the audience can name the job's key. A token of such a
	// provider is never accepted without that.
	Bound bool

	// Unusable, if set, says why no token of this CI can be for a relay, and
	// what its users can do. Such a row is there to say so: no issuer of it is
	// accepted, and Token fails.
	Unusable string

	// Algs are the signature algorithms (RFC 7518 names) the issuer uses.
	Algs []string

	// Detect says whether this process runs in a job of this CI.
	Detect func(Env) bool

	// Token asks the CI for an ID token of this job with exactly that
	// audience. It is bounded in time and size, retries what may pass, and
	// fails with [ErrNotGranted] where the job was not given the right to ask.
	// No error text contains the token, the job's credential, or anything else
	// that the token service said.
	Token func(ctx context.Context, env Env, audience string) (string, error)

	// Claims lists the claims that are needed or can be used in a rule, and
	// their kinds; see [Provider.Check].
	Claims []Claim

	// Open says that a rule may name claims that are not listed, because whoever
	// runs the issuer chooses what it says.
	Open bool

	// Proof lists the claims that, together with iss, say which job this is. A
	// claim that is absent from two tokens is equal in them.
	Proof []string

	// IDs lists the claims that every rule must pin: ids, because a name can
	// be given up and taken by somebody else.
	IDs []string

	// IDForm is what the ids in IDs look like, and IDLooks says it in words. A
	// rule with something else in an id's place (a name, most often) could fit
	// no job, and whoever wrote it would learn that at their next release. nil:
	// they may have any form.
	IDForm  *regexp.Regexp
	IDLooks string

	// Owner is the claim with the id of who owns the repository or project.
	Owner string

	// Fold lists the claims whose values the CI itself compares without case.
	Fold []string

	// Hazards are the dangers that a rule has to allow by name.
	Hazards []Hazard

	// Facts gives what a human is shown. The claims must come from a verified
	// token.
	Facts func(Claims) Facts

	// Mask gives the line that, printed to the log, makes this CI hide code in
	// what is logged from then on. ok is false where that cannot be done: then,
	// unless there is a Redactor, the code must not be written to anything that
	// is logged. Use [Provider.Hide], which knows both ways.
	Mask func(code string) (line string, ok bool)

	// Redactor is the command that does the same when it is given the code on
	// its standard input; nil where there is none. Never in its arguments, which
	// everybody on the machine can read.
	Redactor []string

	// Outputs says that a step hands values on through the file that
	// $GITHUB_OUTPUT names.
	Outputs bool

	// serves says whether an issuer has the form of this CI's. It keeps what
	// can be bound from being called something that cannot; see [CheckIssuer].
	serves func(issuer string) bool

	// looks says what Detect looks for, for the error where nothing is found.
	looks string
}

// A Hazard is a danger that a job with good claims can still be: a rule lets
// such a job through only if it says so.
type Hazard struct {
	Word  string            // what a rule's `allow` list says
	Why   string            // one sentence for a refusal
	In    func(Claims) bool // whether these claims carry the danger; true when they do not say
	Lifts string            // if set: a rule that names this claim has decided, and needs no allow
}

// Facts is what a human is shown of a job. It holds only what verified claims
// say; what they do not say is "". The text is the CI's, not made safe for a
// terminal.
type Facts struct {
	Repository   string // owner/name as the CI writes it
	Workflow     string // the name the workflow gives itself: chosen by who can change the workflow
	WorkflowFile string // path in Repository, or owner/name/path where the file is another repository's
	Ref          string // full: refs/heads/main
	SHA          string // full
	Environment  string
	Event        string
	Actor        string // who set the run off: shown, never a ground for a decision
	RunURL       string // https, made from checked parts only
	RunID        string
	RunAttempt   string
	Job          string // the CI's id of the job
	Runner       string // what kind of runner
	Group        string // names the run attempt: what one run asks for together has the same
}

// Providers is the table. The first row whose Detect says yes wins, so a row
// that is more specific than another stands before it: Forgejo's jobs say that
// they run on GitHub too, and what fits every issuer comes last.
var Providers = []*Provider{
	forgejo, github, circleCI, gitlab, buildkite, googleCloudBuild, jenkins, azure, bitbucket, semaphore, generic,
}

// Find returns the row of that name, or nil.
func Find(name string) *Provider {
	for _, p := range Providers {
		if p.Name == name {
			return p
		}
	}
	return nil
}

// ErrNoCI means that this process runs in no job of a CI that is known here.
var ErrNoCI = errors.New("not in a job of a known CI")

// ErrNotGranted means that the CI did not give this job the right to ask for an
// ID token; the error around it says what to change.
var ErrNotGranted = errors.New("this job may not ask for an ID token")

// ErrGiven means that the ID token which the job was given before it ran cannot be
// used; the error around it says why, and what to change.
var ErrGiven = errors.New("the ID token that this job was given is of no use")

// Detect finds the CI whose job this is. Its error is [ErrNoCI] and lists the
// CIs that are known and what was looked for.
func Detect(env Env) (*Provider, error) {
	var looked []string
	for _, p := range Providers {
		switch {
		case !p.Detect(env):
		case p.Unusable != "" && env.given():
			// A token of some other issuer, in a job whose log is this CI's.
			g := *generic
			g.Mask, g.Redactor, g.Outputs = p.Mask, p.Redactor, p.Outputs
			return &g, nil
		default:
			return p, nil
		}
		looked = append(looked, p.Title+" ("+p.looks+")")
	}
	return nil, fmt.Errorf("%w: looked for %s; run this as a step of a CI job", ErrNoCI, strings.Join(looked, ", "))
}

// Check says whether every claim that this provider's tokens must have is there
// and of its kind, and every optional one that is there is of its kind. The ids
// that rules pin must not be empty either: two jobs without an id would pass
// for the same. The error names the claim, never its value.
//
// It keeps out tokens that the same issuer signed for another purpose, which
// lack the claims of a job's token.
func (p *Provider) Check(c Claims) error {
	for _, want := range p.Claims {
		v, there := c[want.Name]
		switch {
		case !there && want.Optional:
		case !there:
			return fmt.Errorf("claim %q is missing; every ID token of a %s job has it", want.Name, p.Title)
		case !want.Kind.of(v):
			return fmt.Errorf("claim %q is %s; in an ID token of a %s job it is %s", want.Name, kindOf(v), p.Title, want.Kind)
		case (v == "" || v == nil) && slices.Contains(p.IDs, want.Name):
			return fmt.Errorf("claim %q is empty; an ID token of a %s job names its id there", want.Name, p.Title)
		}
	}
	return nil
}

// Requiring is p with further claims that every rule has to name, for an issuer
// whose claims only its owner knows: each must be there, a text or a number. It
// is p itself for none.
func (p *Provider) Requiring(ids []string) (*Provider, error) {
	if len(ids) == 0 {
		return p, nil
	}
	if !p.Open {
		return nil, fmt.Errorf("%s knows which claims its rules have to name; leave ids out", p.Title)
	}
	more := *p
	more.IDs, more.Claims = slices.Clone(p.IDs), slices.Clone(p.Claims)
	for _, id := range ids {
		switch {
		case !claimName.MatchString(id):
			return nil, fmt.Errorf("%q is not a claim's name", id)
		case slices.Contains(more.IDs, id):
			return nil, fmt.Errorf("the claim %s stands there twice, or every rule must name it in any case", id)
		case slices.Contains([]string{"iss", "aud", "exp", "iat", "nbf", "jti"}, id):
			return nil, fmt.Errorf("the claim %s is no id: it is checked by itself, or is another in every token", id)
		}
		more.IDs = append(more.IDs, id)
		more.Claims = slices.DeleteFunc(more.Claims, func(c Claim) bool { return c.Name == id })
		more.Claims = append(more.Claims, Claim{Name: id, Kind: Scalar})
	}
	return &more, nil
}

var claimName = regexp.MustCompile(`^[A-Za-z0-9_:/.-]{1,100}$`)

// Claim finds what p says of a claim by its full name. Of an open row it is also
// any name that a claim can have.
func (p *Provider) Claim(name string) (Claim, bool) {
	for _, c := range p.Claims {
		if c.Name == name {
			return c, true
		}
	}
	if p.Open && claimName.MatchString(name) {
		return Claim{Name: name, Kind: Any, Optional: true}, true
	}
	return Claim{}, false
}

// CheckIssuer says whether tokens of that issuer may be read as p's. Where a CI
// can name the job's key, nobody may call it one that cannot: a token with the
// audience of a relay alone would then be taken from whoever has it.
func (p *Provider) CheckIssuer(issuer string) error {
	if p.Unusable != "" {
		return errors.New(p.Unusable)
	}
	if p.Bound {
		return nil
	}
	for _, other := range Providers {
		if other.Bound && other.serves != nil && other.serves(issuer) {
			return fmt.Errorf("this is an issuer of %s, whose tokens can name the job's key: write %s for the provider, so that they must", other.Title, other.Name)
		}
	}
	return nil
}
