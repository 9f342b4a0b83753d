package main

// The job's summary on GitHub: who was asked, who answered (or opened a link, which
// nobody answers) and when, how it ended. Keys were verified by this job; names are
// the relay's word.
// It stands on the run's page for as long as the run does.

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/continuousauth/action/internal/ask"
	"github.com/continuousauth/action/internal/wire"
)

// summary collects what is worth keeping of one or more requests.
type summary struct {
	mu       sync.Mutex
	requests []requestSummary
	receipt  string // sha256 of the receipts, hex
}

type requestSummary struct {
	project, id, match string
	onCall             string
	answers            []answered
	shown, opened      []string // keys, and names: of a link, which nobody answers
}

// answered is one answer, or why another was asked for after it.
type answered struct{ what, name string }

// event takes in what happened. Text in events is clean.
func (s *summary) event(e ask.Event, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, at := len(s.requests)-1, now.UTC().Format(" at 15:04:05 MST")
	switch e := e.(type) {
	case ask.Accepted:
		s.requests = append(s.requests, requestSummary{project: e.Project, id: e.ID, match: e.Match, onCall: onCall(e.OnCall, e.Ready, e.Enrolled) + alsoAway(e.Away)})
	case ask.Opened:
		if last >= 0 && e.Who != "" && e.Who != wire.SomeResponder {
			s.requests[last].opened = append(s.requests[last].opened, markdown(e.Who)+at)
		}
	case ask.Shown:
		if last >= 0 {
			s.requests[last].shown = append(s.requests[last].shown, "`"+e.Responder+"`"+at)
		}
	case ask.Taken:
		if last >= 0 {
			s.requests[last].answers = append(s.requests[last].answers, answered{what: "`" + e.Responder + "`" + at})
		}
	case ask.Named:
		s.name(e.Who)
	case ask.NewAttempt:
		if last >= 0 && len(s.requests[last].answers) > 0 {
			s.requests[last].answers = append(s.requests[last].answers, answered{what: markdown(againWords(e)), name: "-"})
		}
	}
}

// answered adds the name to the key that answered last, if it has none.
func (s *summary) answered(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.name(name)
}

func (s *summary) name(who string) {
	if len(s.requests) == 0 || who == "" {
		return
	}
	answers := s.requests[len(s.requests)-1].answers
	if n := len(answers); n > 0 && answers[n-1].name == "" {
		answers[n-1].name = markdown(who)
	}
}

func (s *summary) receipts(lines []byte) {
	sum := sha256.Sum256(lines)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.receipt = hex.EncodeToString(sum[:])
}

// write appends it to the file that GitHub names. It is written for each end, and
// an error of it changes none.
func (s *summary) write(path string, end error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, quiet := errors.AsType[*exit](end); path == "" || len(s.requests) == 0 && (end == nil || quiet && e.err == nil) {
		return nil // nobody was asked, and nothing of ours went wrong
	}
	var b strings.Builder
	b.WriteString("\n### Continuous Factor Authentication\n\n| | |\n|---|---|\n")
	row := func(what, value string) {
		if value != "" {
			fmt.Fprintf(&b, "| %s | %s |\n", what, value)
		}
	}
	for _, r := range s.requests {
		row("asked", "the humans of project `"+r.project+"`: "+markdown(r.onCall))
		row("match code", "`"+r.match+"`")
		var answers []string
		for _, a := range r.answers {
			if answers = append(answers, a.what); a.name != "-" && a.name != "" {
				answers = append(answers, a.name)
			}
		}
		row("answered", strings.Join(answers, ", "))
		if len(answers) == 0 {
			row("opened by", strings.Join(slices.Concat(r.shown, r.opened), ", "))
		}
		row("request", "`"+r.id+"`")
	}
	if s.receipt != "" {
		row("receipt", "sha256 `"+s.receipt+"`")
	}
	row("outcome", outcomeWords(end))
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(b.String())
	return errors.Join(err, f.Close())
}

func outcomeWords(end error) string {
	if end == nil {
		return "done"
	}
	if e, ok := errors.AsType[*exit](end); ok && e.err == nil {
		return fmt.Sprintf("the command ended with exit code %d", e.code)
	}
	return markdown(end.Error())
}

// markdown is text that stands there as it is: no link, no picture, no markup, no
// end of the table's cell. What people and relays say comes from outside.
func markdown(s string) string {
	var b strings.Builder
	for _, r := range harmless(s) {
		switch {
		case r == '<':
			b.WriteString("&lt;")
		case r == '&':
			b.WriteString("&amp;")
		case strings.ContainsRune("\\`*_{}[]()#+-.!|>~@:", r):
			b.WriteByte('\\')
			b.WriteRune(r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
