package trust

// This file compiles rules once into a value that never changes, and matches
// jobs against it. Everything doubtful is refused when the rules are compiled,
// where a person reads the error, and not when a job comes.

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/continuousauth/action/internal/ci"
	"github.com/continuousauth/action/internal/wire"
)

// allowUnbound is what a rule's allow must say where the CI cannot name the
// job's key in the token.
const allowUnbound = "unbound"

// Policy is a set of compiled rules, by project. It never changes, and may be
// used by several goroutines.
type Policy struct {
	projects map[string][]*rule
	further  []Issuer
}

type rule struct {
	name   string // for the record: project/ci[0] line 12
	title  string // for a reader of the file: rule 1 (line 12)
	issuer Issuer
	wants  []*want // ids first
	allow  []string
	names  map[string]bool // full names of the claims it decides on
}

// want is what a rule wants of one claim.
type want struct {
	claim    string // full name
	shown    string // as the rule writes it
	exact    []string
	patterns []pattern
	fold     bool
}

type pattern struct {
	text string
	re   *regexp.Regexp
	fold *regexp.Regexp // without regard to case; nil where case counts
}

// Compile checks the rules of each project and compiles them. issuers are those
// of the configuration; a rule's provider is the name of one of them. (Not of a
// CI: an enterprise server gives out ids of its own, and a rule for one server's
// repository 1234 must not fit another's.) The error joins all that is wrong,
// each with the project and the line.
func Compile(projects map[string][]Rule, issuers []Issuer) (*Policy, error) {
	byIssuer := map[string]Issuer{}
	configured := map[string]bool{} // URLs
	for _, i := range issuers {
		i = i.named()
		if i.Provider == nil {
			return nil, fmt.Errorf("issuer %s: no CI provider is named for it", shown(i.URL))
		}
		if other, twice := byIssuer[i.Name]; twice {
			return nil, fmt.Errorf("issuers %s and %s are both named %q: the ids of the one's repositories would pass for the other's; give each a name of its own", shown(other.URL), shown(i.URL), i.Name)
		}
		byIssuer[i.Name] = i
		configured[i.URL] = true
	}
	p := &Policy{projects: map[string][]*rule{}}
	var errs []error
	for _, project := range slices.Sorted(maps.Keys(projects)) {
		rules := projects[project]
		in := func(err error) error { return fmt.Errorf("project %s: %w", shown(project), err) }
		if err := wire.CheckProject(project); err != nil {
			errs = append(errs, in(err))
			continue
		}
		switch {
		case len(rules) == 0:
			errs = append(errs, in(errors.New("it has no rules, so no job could ask; add one or remove the project")))
		case len(rules) > maxRules:
			errs = append(errs, in(fmt.Errorf("it has %d rules; at most %d are allowed", len(rules), maxRules)))
			continue
		}
		for i, source := range rules {
			c := compiler{source: source, project: project, index: i}
			compiled, err := c.compile(byIssuer)
			if err != nil {
				errs = append(errs, in(err))
				continue
			}
			p.projects[project] = append(p.projects[project], compiled)
			for _, further := range furtherIssuers(compiled) {
				if !configured[further.URL] {
					configured[further.URL] = true
					p.further = append(p.further, further)
				}
			}
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return p, nil
}

// furtherIssuers are those that follow from the ids of a rule, such as CircleCI's
// issuer of each organization. They follow only from the CI's own issuer: a
// server of one's own has no share in them.
func furtherIssuers(r *rule) []Issuer {
	provider := r.issuer.Provider
	if provider.Issuers == nil || r.issuer.URL != provider.Issuer {
		return nil
	}
	exact := map[string][]string{}
	for _, w := range r.wants {
		exact[w.claim] = slices.Clone(w.exact)
	}
	var out []Issuer
	for _, url := range provider.Issuers(exact) {
		further := r.issuer
		further.URL, further.KeySet = url, ""
		out = append(out, further)
	}
	return out
}

// Issuers are the issuers that follow from the rules, beside those that Compile
// was given: [NewKeys] needs both.
func (p *Policy) Issuers() []Issuer { return slices.Clone(p.further) }

// Projects are the names of the projects, sorted.
func (p *Policy) Projects() []string { return slices.Sorted(maps.Keys(p.projects)) }

// compiler holds one rule while it is compiled.
type compiler struct {
	source  Rule
	project string
	index   int
}

func (c *compiler) at(line int, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if line == 0 {
		line = c.source.Line
	}
	if line == 0 {
		return fmt.Errorf("rule %d: %s", c.index+1, text)
	}
	return fmt.Errorf("line %d: %s", line, text)
}

func (c *compiler) compile(issuers map[string]Issuer) (*rule, error) {
	s := c.source
	issuer, ok := issuers[s.Provider]
	if !ok {
		names := slices.Sorted(maps.Keys(issuers))
		return nil, c.at(0, "%s is not the name of an issuer that is configured here%s (configured: %s)", shown(s.Provider), Suggest(s.Provider, names), join(names))
	}
	r := &rule{
		name:   fmt.Sprintf("%s/ci[%d]", c.project, c.index),
		title:  fmt.Sprintf("rule %d", c.index+1),
		issuer: issuer,
		names:  map[string]bool{},
	}
	if s.Line != 0 {
		r.name += fmt.Sprintf(" line %d", s.Line)
		r.title += fmt.Sprintf(" (line %d)", s.Line)
	}
	if len(s.Claims) > maxClaims {
		return nil, c.at(0, "more than %d claims in one rule", maxClaims)
	}
	for _, name := range slices.SortedFunc(maps.Keys(s.Claims), byName) {
		w, err := c.want(name, s.Claims[name], issuer.Provider)
		if err != nil {
			return nil, err
		}
		if r.names[w.claim] {
			return nil, c.at(line(s.Claims[name]), "%s stands twice in this rule, once with its full name; give one list of values", quote(w.claim))
		}
		r.names[w.claim] = true
		r.wants = append(r.wants, w)
	}
	for _, id := range issuer.Provider.IDs {
		if !r.names[id] {
			return nil, c.at(0, "the rule does not name %s; every rule for %s must, because a name can be given up and taken by somebody else, and an id cannot", last(id), issuer.Provider.Title)
		}
	}
	var err error
	r.allow, err = c.allow(issuer.Provider)
	return r, err
}

// notForRules are claims that look like grounds for a decision and are none.
var notForRules = map[string]string{
	"sub": "a repository's administrator can change what stands in it; name the claims it is made of",
	"aud": "it is compared with the relay and the key by itself",
	"jti": "it is another in every token",
}

func (c *compiler) want(name string, values []Value, p *ci.Provider) (*want, error) {
	at := line(values)
	claim, err := c.claim(name, at, p)
	if err != nil {
		return nil, err
	}
	// Where a CI has no better id, its row says so.
	if why, not := notForRules[claim.Name]; not && !slices.Contains(p.IDs, claim.Name) {
		return nil, c.at(at, "%s is nothing to decide on: %s", claim.Name, why)
	}
	if len(values) == 0 || len(values) > maxValues {
		return nil, c.at(at, "%s has %d values; 1 to %d are allowed", name, len(values), maxValues)
	}
	w := &want{claim: claim.Name, shown: name, fold: slices.Contains(p.Fold, claim.Name)}
	for _, v := range values {
		switch {
		case v.Text == "":
			return nil, c.at(v.Line, "%s has an empty value", name)
		case len(v.Text) > maxValue:
			return nil, c.at(v.Line, "%s has a value of %d bytes; at most %d are allowed", name, len(v.Text), maxValue)
		case v.Pattern && slices.Contains(p.IDs, claim.Name):
			return nil, c.at(v.Line, "%s is an id and may not be a pattern: list the ids", name)
		case v.Pattern && claim.Kind == ci.Bool:
			return nil, c.at(v.Line, "%s is true or false and may not be a pattern", name)
		case v.Pattern:
			compiled, err := compilePattern(v.Text, w.fold)
			if err != nil {
				return nil, c.at(v.Line, "%s: pattern %s: %v", name, shown(v.Text), err)
			}
			w.patterns = append(w.patterns, compiled)
		case claim.Kind == ci.Bool && v.Text != "true" && v.Text != "false":
			return nil, c.at(v.Line, "%s is a boolean: write true or false", name)
		case v.boolean && claim.Kind != ci.Bool && claim.Kind != ci.Scalar && claim.Kind != ci.Any:
			return nil, c.at(v.Line, "%s is a text: write %q, in quotes", name, v.Text)
		case p.IDForm != nil && slices.Contains(p.IDs, claim.Name) && !p.IDForm.MatchString(v.Text):
			return nil, c.at(v.Line, "%s is %s, which no job's id can be; an id of %s is %s", name, shown(v.Text), p.Title, p.IDLooks)
		default:
			w.exact = append(w.exact, v.Text)
		}
	}
	return w, nil
}

// line is where the values of a claim begin.
func line(values []Value) int {
	if len(values) == 0 {
		return 0
	}
	return values[0].Line
}

// last is the part of a claim's name after its last slash.
func last(name string) string { return name[strings.LastIndexByte(name, '/')+1:] }

// claim finds the claim that a rule's name means.
func (c *compiler) claim(name string, at int, p *ci.Provider) (ci.Claim, error) {
	var known []string
	var found []ci.Claim
	for _, claim := range p.Claims {
		if claim.Name == name {
			return claim, nil
		}
		if last(claim.Name) == name {
			found = append(found, claim)
		}
		known = append(known, last(claim.Name))
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return ci.Claim{}, c.at(at, "%s can mean several claims of %s; write the full name", shown(name), p.Title)
	}
	if claim, ok := p.Claim(name); ok {
		return claim, nil
	}
	if hint := Suggest(name, known); hint != "" {
		return ci.Claim{}, c.at(at, "%s has no claim %s that a rule can name%s", p.Title, shown(name), hint)
	}
	return ci.Claim{}, c.at(at, "%s has no claim %s that a rule can name; there are %s", p.Title, shown(name), join(known))
}

func (c *compiler) allow(p *ci.Provider) ([]string, error) {
	known := []string{allowUnbound}
	for _, h := range p.Hazards {
		known = append(known, h.Word)
	}
	for i, word := range c.source.Allow {
		if !slices.Contains(known, word) {
			return nil, c.at(c.source.allowLine, "allow: %s is no danger that jobs of %s have%s (there are %s)", shown(word), p.Title, Suggest(word, known), join(known))
		}
		if slices.Contains(c.source.Allow[:i], word) {
			return nil, c.at(c.source.allowLine, "allow: %s stands there twice", shown(word))
		}
	}
	if !p.Bound && !slices.Contains(c.source.Allow, allowUnbound) {
		return nil, c.at(0, "ID tokens of %s cannot name the job's key, so that the relay's word for it must do; add `allow: [%s]` to the rule if this is meant", p.Title, allowUnbound)
	}
	return slices.Clone(c.source.Allow), nil
}

// samples are unlike each other and unlike anything that a pattern is written
// for: one that matches them all says nothing. None has a space, so that \S+
// counts as such a pattern too.
var samples = []string{"a", "0", "~", "-", "refs/heads/x", "A-b_c.d@e:f!", "[{(|)}]"}

// compilePattern compiles a pattern alone first and then so that it must match
// the whole: as ^main|release$ it would let main-attacker in, and a pattern with
// an unpaired bracket could end the group that is put around it.
func compilePattern(text string, fold bool) (pattern, error) {
	if len(text) > maxPattern {
		return pattern{}, fmt.Errorf("%d bytes, at most %d are allowed", len(text), maxPattern)
	}
	if _, err := regexp.Compile(text); err != nil {
		return pattern{}, errors.New(wire.CleanName(strings.TrimPrefix(err.Error(), "error parsing regexp: "), 200))
	}
	p := pattern{text: text}
	var err error
	if p.re, err = regexp.Compile(`^(?:` + text + `)$`); err != nil {
		// \Q without \E, for one: it would take the end of the group for text.
		return pattern{}, errors.New("it does not compile where it must match the whole of a value; close what it opens")
	}
	if fold {
		if p.fold, err = regexp.Compile(`^(?i:` + text + `)$`); err != nil {
			return pattern{}, errors.New("it does not compile where case does not count")
		}
	}
	if p.re.MatchString("") {
		return pattern{}, errors.New("it matches the empty text; say what must stand there")
	}
	if !slices.ContainsFunc(samples, func(s string) bool { return !p.re.MatchString(s) }) {
		return pattern{}, errors.New("it matches everything; leave the claim out if it does not matter")
	}
	return p, nil
}

// Mismatch says why a job may not do something in a project.
type Mismatch struct {
	Project string
	// Known says that there is such a project.
	Known bool
	// Owner says that the id of the job's owner stands in one of the project's
	// rules, so that the job is likely one of the project's own.
	Owner bool
	Rules []RuleMismatch
}

// RuleMismatch is why one rule does not fit.
type RuleMismatch struct {
	Rule string   // rule 1 (line 12)
	Why  []string // never empty

	owner bool
	wants []string // what the job can be run with to fit; nil: it cannot be made to fit
}

// Match says which rule of the project a verified job fits. rule names it for
// the record: its project, place and line (electron/ci[0] line 12). The error is
// a [*Mismatch].
func (p *Policy) Match(project string, job *Job) (rule string, err error) {
	rules, known := p.projects[project]
	m := &Mismatch{Project: project, Known: known}
	for _, r := range rules {
		why := r.mismatch(job)
		if len(why) == 0 {
			return r.name, nil
		}
		owner := r.ownedBy(job)
		m.Owner = m.Owner || owner
		m.Rules = append(m.Rules, RuleMismatch{Rule: r.title, Why: why, owner: owner, wants: r.mending(job, len(why))})
	}
	return "", m
}

// ownedBy says whether the rule names the owner of the job's repository.
func (r *rule) ownedBy(job *Job) bool {
	if r.issuer.Name != job.Issuer.Name {
		return false
	}
	id, ok := job.Claims.String(r.issuer.Provider.Owner)
	for _, w := range r.wants {
		if ok && w.claim == r.issuer.Provider.Owner && slices.Contains(w.exact, id) {
			return true
		}
	}
	return false
}

func (r *rule) mismatch(job *Job) (why []string) {
	if r.issuer.Name != job.Issuer.Name || r.issuer.Provider != job.Issuer.Provider {
		return []string{fmt.Sprintf("the ID token is from the issuer %s, the rule is for %s", shown(job.Issuer.Name), shown(r.issuer.Name))}
	}
	for _, w := range r.wants {
		if text := w.mismatch(job.Claims); text != "" {
			why = append(why, text)
		}
	}
	if !job.Bound && !slices.Contains(r.allow, allowUnbound) {
		why = append(why, fmt.Sprintf("the ID token does not name the job's key; add `allow: [%s]` to the rule if this is meant", allowUnbound))
	}
	for _, h := range r.issuer.Provider.Hazards {
		if slices.Contains(r.allow, h.Word) || h.Lifts != "" && r.names[h.Lifts] || !h.In(job.Claims) {
			continue
		}
		why = append(why, fmt.Sprintf("%s; add `allow: [%s]` to the rule if this is meant", h.Why, h.Word))
	}
	return why
}

// mending is what a job must be run with to fit, as it says in the rule. nil where
// that would not do: another repository is another job, and a danger, or a token
// that names no key, is for the rule to allow. whys is how much does not fit.
func (r *rule) mending(job *Job, whys int) (wants []string) {
	if r.issuer.Name != job.Issuer.Name || r.issuer.Provider != job.Issuer.Provider {
		return nil
	}
	for _, w := range r.wants {
		if w.mismatch(job.Claims) == "" {
			continue
		}
		if slices.Contains(r.issuer.Provider.IDs, w.claim) {
			return nil
		}
		wants = append(wants, w.shown+" "+w.list())
	}
	if len(wants) < whys {
		return nil
	}
	return wants
}

// mismatch is "" if the claims fit.
func (w *want) mismatch(claims ci.Claims) string {
	v, there := claims[w.claim]
	switch v := v.(type) {
	case string:
		if w.fits(v) {
			return ""
		}
	case bool:
		if w.fits(fmt.Sprint(v)) {
			return ""
		}
	case json.Number:
		// As it is written: another spelling of the same number does not fit.
		if w.fits(v.String()) {
			return ""
		}
	case []any:
		for _, item := range v {
			if s, ok := item.(string); ok && w.fits(s) {
				return ""
			}
		}
	}
	want := "the rule wants " + w.list()
	if !there {
		return fmt.Sprintf("the ID token has no %s, %s", w.shown, want)
	}
	return fmt.Sprintf("%s is %s, %s", w.shown, shown(claims.Text(w.claim)), want)
}

// list is the accepted values.
func (w *want) list() string {
	wants := make([]string, 0, len(w.exact)+len(w.patterns))
	for _, e := range w.exact {
		wants = append(wants, shown(e))
	}
	for _, p := range w.patterns {
		wants = append(wants, "what matches "+shown(p.text))
	}
	if n := len(wants); n > 5 {
		wants = append(wants[:5], fmt.Sprintf("%d more", n-5))
	}
	return strings.Join(wants, " or ")
}

func (w *want) fits(s string) bool {
	// Folding is for ASCII only: to Unicode the Kelvin sign is a k, and to
	// whoever reads the rule it is not.
	fold := w.fold && ascii(s)
	for _, e := range w.exact {
		if s == e || fold && ascii(e) && strings.EqualFold(s, e) {
			return true
		}
	}
	for _, p := range w.patterns {
		if p.re.MatchString(s) || fold && p.fold.MatchString(s) {
			return true
		}
	}
	return false
}

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// Bounds of a mismatch's text: it goes into a log, and to the job.
const (
	mostRules = 8
	mostWhys  = 12
)

// Error says for each rule which claim did not fit which value. Of many rules,
// those are shown that came nearest.
func (m *Mismatch) Error() string {
	if !m.Known {
		return fmt.Sprintf("there is no project %s", shown(m.Project))
	}
	return m.text(m.Rules)
}

// noMatch is all that a stranger is told: whether a project exists, and what its
// rules say, is nobody's business but its own.
const noMatch = "there is no such project here, or none of its rules fits this job; whoever runs the relay can see which claim it was in its log, with `cfa-relay audit list --refusals`, or with `cfa-relay check --token-file`"

// ToJob is what the job itself may be told: the full text of those rules that
// name the job's owner, and else one text, the same for a project that there is
// not.
func (m *Mismatch) ToJob() string {
	if !m.Known || !m.Owner {
		return noMatch
	}
	return m.text(slices.DeleteFunc(slices.Clone(m.Rules), func(r RuleMismatch) bool { return !r.owner }))
}

// Mend says what would let the job ask, as far as ToJob tells it of the rules: ""
// for a stranger.
func (m *Mismatch) Mend() string {
	if !m.Known || !m.Owner {
		return ""
	}
	var nearest *RuleMismatch
	for i, r := range m.Rules {
		if r.owner && r.wants != nil && (nearest == nil || len(r.wants) < len(nearest.wants)) {
			nearest = &m.Rules[i]
		}
	}
	if nearest == nil {
		return fmt.Sprintf("if this job is meant to ask, have the relay's administrator change a rule under projects.%s.ci in the relay's file, or add one", m.Project)
	}
	return fmt.Sprintf("run the job with %s, as %s wants it; or, if it is meant to ask as it is, have the relay's administrator change that rule, under projects.%s.ci in the relay's file",
		strings.Join(nearest.wants, " and "), nearest.Rule, m.Project)
}

func (m *Mismatch) text(rules []RuleMismatch) string {
	shownRules := slices.Clone(rules)
	if len(shownRules) > mostRules {
		slices.SortStableFunc(shownRules, func(a, b RuleMismatch) int { return len(a.Why) - len(b.Why) })
		shownRules = shownRules[:mostRules]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "no rule of the project %s fits this job", shown(m.Project))
	for i, r := range shownRules {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		why := r.Why
		if len(why) > mostWhys {
			why = append(slices.Clone(why[:mostWhys]), fmt.Sprintf("and %d more", len(r.Why)-mostWhys))
		}
		b.WriteString(sep + r.Rule + ": " + strings.Join(why, ", "))
	}
	if n := len(rules) - len(shownRules); n > 0 {
		fmt.Fprintf(&b, "; and %d more that fit even less", n)
	}
	return b.String()
}

// Suggest is "; did you mean X?" where a known name is near, else "".
func Suggest(name string, known []string) string {
	best, near := "", 3
	for _, k := range known {
		if d := distance(strings.ToLower(name), k); d < near && d < len(k) {
			best, near = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is how many characters must be changed, added or left out to make b
// of a (Levenshtein).
func distance(a, b string) int {
	if len(a) > 100 {
		return len(a)
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			before, row[j+1] = row[j+1], min(before+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
