package main

// Prompts that one run asks for together, in lines: the facts once, a line each,
// and one question for all of them where one code will do.
//
// The rule it keeps: what a code is for is fixed before it is typed. Whoever joins
// the run meanwhile is not in it, and whoever leaves is named.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/continuousauth/action/internal/answer"
)

// run gives those that are asked for together with p and can be answered now, p
// among them, in order.
func (m *lineMode) run(p answer.Prompt) []answer.Prompt {
	var all []answer.Prompt
	for _, q := range slices.SortedFunc(maps.Values(m.prompts), byNumber) {
		if q.Answerable && q.Group != "" && q.Group == p.Group {
			all = append(all, q)
		}
	}
	return all
}

func byNumber(a, b answer.Prompt) int { return a.Number - b.Number }

// numbers lists prompts: #1, #2, #3.
func numbers(all []answer.Prompt) string {
	var s []string
	for _, p := range all {
		s = append(s, fmt.Sprintf("#%d", p.Number))
	}
	return strings.Join(s, ", ")
}

// openAll shows p and all that its run asks for too, and asks for what answers
// them.
func (m *lineMode) openAll(p answer.Prompt) {
	all := m.run(p)
	if len(all) < 2 {
		m.tell.say(p.Number, "note", "its run asks for nothing else that can be answered now")
		m.open(p)
		return
	}
	m.tell.together(func() { m.tell.several(all) })
	e := &entry{kind: enterCode, ask: all[0].Ask, number: all[0].Number, all: all}
	if slices.ContainsFunc(all, func(p answer.Prompt) bool { return p.TypeMatch }) {
		e.kind = enterMatch
	} else if !all[0].Reusable {
		m.enterAll(e, "")
		return
	}
	m.entry = e
}

// questionAll is question for several.
func (m *lineMode) questionAll(e *entry, ask func(what, hint string, hidden bool)) {
	if e.kind == enterMatch {
		ask("match code from the log of any of "+numbers(e.all), "Enter alone goes back", false)
		return
	}
	ask("code for each of "+numbers(e.all)+", "+e.all[0].Format, "not shown; Enter alone goes back", true)
}

// newsOfAll takes out of an open question what can no longer be answered by it.
func (m *lineMode) newsOfAll(e *entry, p answer.Prompt) {
	i := slices.IndexFunc(e.all, func(q answer.Prompt) bool { return q.ID == p.ID })
	if i < 0 || p.Answerable && p.Attempt == e.all[i].Attempt && p.Group == e.all[i].Group {
		return
	}
	e.all = slices.Delete(slices.Clone(e.all), i, i+1)
	if len(e.all) > 0 {
		m.tell.say(p.Number, "left out", "what you are typing goes to "+numbers(e.all)+" only")
		return
	}
	e.void = true
	m.tell.say(p.Number, "thrown away", "what you are typing goes nowhere; press Enter")
}

// enterAll takes a line for several: a match code or a code. Where each needs a
// code of its own they are asked in turn.
func (m *lineMode) enterAll(e *entry, line string) {
	code := ""
	if e.kind == enterMatch {
		e.match = line
	} else {
		code = line
	}
	together := answer.Together{Code: code, Match: e.match}
	for _, p := range e.all {
		together.Members = append(together.Members, answer.Member{ID: p.ID, Attempt: p.Attempt})
	}
	left, err := m.desk.AnswerAll(context.Background(), together)
	switch {
	case errors.Is(err, answer.ErrOneEach):
		m.entry = nil
		m.tell.say(e.number, "in turn", plain(err)+"; they are asked for one after the other")
		m.next(&entry{turn: e.all})
		return
	case errors.Is(err, answer.ErrCode) && e.kind == enterMatch: // as expected, see enter
		e.kind = enterCode
		return
	case err != nil:
		m.failed(e, err)
		return
	}
	m.entry = nil
	for _, p := range e.all {
		i := slices.IndexFunc(left, func(l answer.LeftOut) bool { return l.ID == p.ID })
		if i >= 0 {
			m.tell.say(p.Number, "not sent", plain(left[i].Err))
			continue
		}
		m.tell.say(p.Number, "sealed", "only this job can open it; it is on its way")
	}
}

// next asks for the code of the first that waits for its turn after e.
func (m *lineMode) next(e *entry) {
	for i, was := range e.turn {
		p, here := m.prompts[was.ID]
		if here && p.Answerable && p.Attempt == was.Attempt {
			m.entry = &entry{kind: enterCode, ask: p.Ask, id: p.ID, number: p.Number, attempt: p.Attempt, turn: e.turn[i+1:]}
			return
		}
		m.tell.say(was.Number, "left out", "it cannot be answered any more")
	}
}

// kin counts the others of p's run of which has been told, and gives the first.
func (t *teller) kin(p answer.Prompt) (first answer.Prompt, others int) {
	for _, q := range slices.SortedFunc(maps.Values(t.told), func(a, b telling) int { return byNumber(a.prompt, b.prompt) }) {
		if p.Group == "" || q.prompt.Group != p.Group || q.prompt.ID == p.ID || q.standing != answer.Verified || !q.prompt.Answerable {
			continue
		}
		if others++; others == 1 {
			first = q.prompt
		}
	}
	return first, others
}

// joins says what there is to say of one more of a run: what is not the same for
// all of them.
func (t *teller) joins(p, first answer.Prompt) {
	t.say(p.Number, "verified", fmt.Sprintf("the run of #%d %s %s too, in the project %s", first.Number, asks(p.Ask), p.Service, p.Project))
	var rows [][2]string
	for _, row := range t.table(p) {
		switch row[0] {
		case "asked at", "again", "the job says", "match code", "time left":
			rows = append(rows, row)
		}
	}
	t.rows(p.Number, append([][2]string{{"job", quoted(p.Facts.Job)}}, rows...))
}

// several says all of several of one run: the facts, which are the same for all, and
// a line for each.
func (t *teller) several(all []answer.Prompt) {
	p := all[0]
	t.say(p.Number, "together", fmt.Sprintf("%s, in one run, %s %s, in the project %s: %s", p.Facts.Repository, asks(p.Ask), p.Service, p.Project, numbers(all)))
	var rows [][2]string
	for _, row := range t.table(p) {
		if row[0] == "asked at" {
			break // from here on they differ
		}
		rows = append(rows, row)
	}
	t.rows(p.Number, rows)
	for _, p := range all {
		label := fmt.Sprintf("#%d", p.Number)
		if t.plain { // where every line begins with that
			label = "member"
		}
		t.rows(p.Number, [][2]string{{label, t.line(p)}})
	}
}

// line is what tells one of a run from the others, the job's own words at its end.
func (t *teller) line(p answer.Prompt) string {
	s := span(p.Deadline.Sub(t.now())) + " left"
	if p.Facts.Job != "" {
		s = "job " + quoted(p.Facts.Job) + ", " + s
	}
	if why := attemptReason(p); why != "" {
		s += ", " + why
	}
	if p.Message != "" {
		s += fmt.Sprintf(", says %q (which nobody has checked)", p.Message)
	}
	return s
}
