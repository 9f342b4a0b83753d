package main

// The human's log: what happens, for whoever reads the job's output.

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/continuousauth/action/internal/ask"
	"github.com/continuousauth/action/internal/wire"
)

// log writes lines that begin with "cfa: ". So none can begin with "::", and be
// taken for a command by GitHub's runner.
type log struct {
	mu  sync.Mutex
	w   io.Writer
	sum summary
}

func (l *log) line(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	io.WriteString(l.w, strings.TrimRight("cfa: "+harmless(fmt.Sprintf(format, args...)), " ")+"\n")
}

// to has what follows written elsewhere.
func (l *log) to(w io.Writer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.w = w
}

// harmless is text as one line without a runner's commands. GitHub's runner takes
// ##[…] for one wherever it stands in a line, Azure's ##vso[…].
var harmless = strings.NewReplacer("\r", " ", "\n", " ", "##[", "## [", "##vso[", "## vso[").Replace

// event tells what happened. Text in events is clean.
func (l *log) event(e ask.Event) {
	l.sum.event(e, time.Now())
	switch e := e.(type) {
	case ask.Trying:
		l.line("try %d failed: %s; next try in %s", e.Try, e.Why, e.Wait.Round(100*time.Millisecond))
	case ask.Connected:
		if e.Again {
			l.line("connected to relay %s again", e.Relay)
		} else {
			l.line("connected to relay %s", e.Relay)
		}
	case ask.Accepted:
		l.line("request accepted for project %s; %s; %s left", e.Project, onCall(e.OnCall, e.Ready, e.Enrolled)+alsoAway(e.Away), e.Left)
		l.line("")
		l.line("    match code:  %s", e.Match)
		l.line("")
		l.line("whoever answers sees the same code in the prompt; if it differs, it is not this job that asks")
	case ask.OnCall:
		start := "start cfa-responder"
		if len(e.Away) > 0 {
			start += ", or to be back"
		}
		switch {
		case e.Ready == 0:
			l.line("nobody is on call (%d could be)%s; waiting for one of them to %s", e.Enrolled, alsoAway(e.Away), start)
		case e.Ready < e.Need:
			l.line("warning: two people must agree, and %d of %d is on call%s%s; this waits for another to %s", e.Ready, e.Enrolled, named(e.OnCall), alsoAway(e.Away), start)
		default:
			l.line("%s%s", onCall(e.OnCall, e.Ready, e.Enrolled), alsoAway(e.Away))
		}
	case ask.Escalated:
		who := strings.Join(e.Then, ", ")
		if who == "" {
			who = "others"
		}
		switch {
		case e.Early && len(e.Away) > 0:
			l.line("%s; asking the next tier now: %s", away(e.Away), who)
		case e.Early:
			l.line("too few of those who are asked first can answer this request; asking the next tier now: %s", who)
		default:
			l.line("nobody has answered for %s; asking %s too", e.After, who)
		}
	case ask.Opened:
		// Not that somebody looks at it: that nobody can know.
		who := wire.SomeResponder
		if e.Who != "" && e.Who != who {
			who = e.Who + "'s responder"
		}
		l.line("%s shows the prompt", who)
	case ask.Changed:
		by := ""
		if e.By != "" {
			by = " by " + e.By
		}
		l.line("the relay says: %s%s", e.State, by)
	case ask.NewAttempt:
		l.line("attempt %d: %s", e.Attempt, againWords(e))
	case ask.Agreed:
		l.line("%s has agreed, 1 of 2; asking another person for the code", e.Responder)
	case ask.Taken:
		l.line("the answer is here, signed by %s", e.Responder)
	case ask.Reconnecting:
		l.line("connection lost, connecting again")
	case ask.Waiting:
		if e.Accepted {
			l.line("waiting for an answer, %s left", e.Left)
		} else {
			l.line("still trying to ask, %s left", e.Left)
		}
	case ask.Dropped:
		l.line("ignored: %s", e.What)
	case ask.Warning:
		l.line("warning: %s", e.What)
	}
}

// againWords says why an answer is needed once more.
func againWords(e ask.NewAttempt) string {
	return map[string]string{
		wire.ReasonRejected:    "the last code was no good, asking again",
		wire.ReasonUndelivered: "the last answer never arrived here, asking again",
		wire.ReasonNext:        "one more answer is needed",
	}[e.Reason]
}

func onCall(names []string, ready, enrolled int) string {
	return fmt.Sprintf("%d of %d responders on call%s", ready, enrolled, named(names))
}

func named(names []string) string {
	if len(names) == 0 {
		return ""
	}
	return ": " + strings.Join(names, ", ")
}

// away says who is, and until when: in UTC, like the times that a CI puts before a
// log's lines, and with the day, because an absence can be one of days.
func away(list []ask.Absent) string {
	var all []string
	for _, a := range list {
		until := ""
		if !a.Until.IsZero() {
			until = a.Until.UTC().Format(" until 2 Jan 15:04 UTC")
		}
		all = append(all, a.Who+" is away"+until)
	}
	return strings.Join(all, ", ")
}

func alsoAway(list []ask.Absent) string {
	if len(list) == 0 {
		return ""
	}
	return "; " + away(list)
}
