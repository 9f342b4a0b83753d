package trust

// This file explains a token to the person who runs a relay: each check of the
// chain in its order, and then each rule. It goes on where Verify would stop, as
// long as the token is believed to say anything at all.

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// Step is one check of an inspection.
type Step struct {
	Code Code // which check
	OK   bool
	Text string // what was found
	Mend string // what would mend it; may be empty
}

// Fit is what the rules of one project say of the token.
type Fit struct {
	Project string
	Rule    string    // the rule that fits; empty if none does
	Why     *Mismatch // why none does; nil if one does
}

// Inspection is what a relay would say of a token.
type Inspection struct {
	Steps []Step
	// Projects is empty where the token did not get so far that its claims could
	// be believed.
	Projects []Fit
	// Accepted says that every check is good; which project the job may ask in,
	// Projects says.
	Accepted bool
}

// Inspect says of a token, check by check, what Verify would say of it at
// connect, and what each project's rules would. It knows no key, so the audience
// may name any. A token that is good but for its audience or its times (an old
// one, say, or one fetched for the purpose) is still compared with the rules;
// one that is not signed by its issuer is not. p may be nil.
func (v *Verifier) Inspect(ctx context.Context, raw string, p *Policy) Inspection {
	in := Inspection{Accepted: true}
	add := func(code Code, err error, good string) bool {
		s := Step{Code: code, OK: err == nil, Text: good}
		var refused *Error
		if errors.As(err, &refused) {
			s.Code, s.Text, s.Mend = refused.Code, refused.Why, refused.Mend
		}
		in.Accepted = in.Accepted && s.OK
		in.Steps = append(in.Steps, s)
		return s.OK
	}

	raw = strings.TrimSpace(raw) // a file ends with a line break
	t, err := readToken(raw)
	if !add(CodeForm, err, "the form is that of an ID token, and it reads in one way only") {
		return in
	}
	set, err := v.issuer(t)
	if err != nil {
		add(CodeIssuer, err, "")
		return in
	}
	issuer := set.issuer
	add(CodeIssuer, nil, fmt.Sprintf("the issuer is %s, configured as %s", issuer.URL, issuer.Name))
	if !add(CodeAlgorithm, checkAlgorithm(t, issuer), "the algorithm is "+t.alg) {
		return in
	}
	second, err := v.signature(ctx, t, set)
	if !add(CodeSignature, err, fmt.Sprintf("the signature is good (key %s)", wire.CleanName(t.kid, 80))) {
		return in
	}
	aud, _ := t.audience()
	add(CodeAudience, v.audience(t, issuer, ""), fmt.Sprintf("the audience is %s", shown(aud)))
	issued, expires, err := t.times(v.now(), issuer.Provider.Bound)
	add(CodeTime, err, fmt.Sprintf("issued %s, expires %s", stamp(issued), stamp(expires)))
	if err := checkClaims(t, issuer); !add(CodeClaim, err, "every claim that a job's ID token needs is there, and of its type") {
		return in
	}
	// An old token is no new finding.
	if second != nil && in.Accepted {
		add(CodeClaim, refuse(CodeClaim, "the ID token's claims are refused by go-oidc", asGiven), "")
	}
	if p == nil {
		return in
	}
	job := &Job{Issuer: issuer, Claims: t.claims, Bound: issuer.Provider.Bound}
	for _, project := range p.Projects() {
		fit := Fit{Project: project}
		fit.Rule, err = p.Match(project, job)
		if err != nil {
			fit.Rule = ""
			errors.As(err, &fit.Why)
		}
		in.Projects = append(in.Projects, fit)
	}
	return in
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// String is the inspection as text: a line for each check, and one or more for
// each project.
func (in Inspection) String() string {
	var b strings.Builder
	for _, s := range in.Steps {
		mark := "ok  "
		if !s.OK {
			mark = "FAIL"
		}
		fmt.Fprintf(&b, "%s  %-9s  %s\n", mark, s.Code, s.Text)
		if s.Mend != "" {
			fmt.Fprintf(&b, "%17s%s\n", "", s.Mend)
		}
	}
	for _, f := range in.Projects {
		if f.Why == nil {
			fmt.Fprintf(&b, "project %s: %s fits\n", f.Project, f.Rule)
			continue
		}
		fmt.Fprintf(&b, "project %s: no rule fits\n", f.Project)
		for _, r := range f.Why.Rules {
			for _, why := range r.Why {
				fmt.Fprintf(&b, "  %s: %s\n", r.Rule, why)
			}
		}
	}
	return b.String()
}
