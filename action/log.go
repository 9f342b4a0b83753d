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
		l.line("request accepted for project %s; %s; %s left", e.Project, onCall(e.OnCall, e.Ready, e.Enrolled), e.Left)
		l.line("")
		l.line("    match code:  %s", e.Match)
		l.line("")
		l.line("whoever answers sees the same code in the prompt; if it differs, it is not this job that asks")
	case ask.OnCall:
		if e.Ready == 0 {
			l.line("nobody is on call (%d could be); waiting for one of them to start cfa-responder", e.Enrolled)
		} else {
			l.line("%s", onCall(e.OnCall, e.Ready, e.Enrolled))
		}
	case ask.Escalated:
		who := strings.Join(e.Then, ", ")
		if who == "" {
			who = "others"
		}
		l.line("nobody has answered for %s; asking %s too", e.After, who)
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
	who := ""
	if len(names) > 0 {
		who = ": " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("%d of %d responders on call%s", ready, enrolled, who)
}
