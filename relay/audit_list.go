package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf16"

	"github.com/continuousauth/action/internal/audit"
	"github.com/continuousauth/action/internal/broker"
	"github.com/continuousauth/action/internal/wire"
)

// choice is which of the record is shown.
type choice struct {
	Project string `placeholder:"NAME" help:"Of this project only."`
	OfRun   string `name:"run" placeholder:"ID" help:"Of this run of the CI only: its id, or all that the record has of it."`
	Outcome string `placeholder:"WORD" help:"Only what ended so, or stands so: ok, failed, unknown, declined, expired, cancelled, lost; pending, answered, delivered; done; open."`
}

func (c choice) filter() (audit.Filter, error) {
	if c.Outcome != "" && !slices.Contains(audit.Outcomes, c.Outcome) {
		return audit.Filter{}, &exit{exitUsage, fmt.Errorf("--outcome %q is none; use one of %s", wire.Clean(c.Outcome, 40), strings.Join(audit.Outcomes, ", "))}
	}
	return audit.Filter{Project: c.Project, Run: c.OfRun, Outcome: c.Outcome}, nil
}

type auditListCmd struct {
	record `embed:""`
	choice `embed:""`

	Since    string `placeholder:"TIME" help:"Asked since then: 24h or 7d ago, 2026-11-24, or 2026-11-24T15:04:05Z."`
	Until    string `placeholder:"TIME" help:"Asked before then."`
	Events   bool   `help:"Each record of each request, and who was away when, rather than a line for each request."`
	Refusals bool   `help:"What the relay has refused, rather than requests."`
	Format   string `enum:"table,jsonl,csv" default:"table" help:"table, jsonl or csv."`
	Limit    int    `default:"10000" help:"At most so many, the newest."`
}

// Run shows what is chosen, oldest first.
func (c *auditListCmd) Run(ctx context.Context, stdio stdio) error {
	filter, err := c.filter()
	if err != nil {
		return err
	}
	now := time.Now()
	for _, t := range []struct {
		flag, said string
		to         *time.Time
	}{{"--since", c.Since, &filter.Since}, {"--until", c.Until, &filter.Until}} {
		if *t.to, err = parseTime(t.said, now); err != nil {
			return &exit{exitUsage, fmt.Errorf("%s: %w", t.flag, err)}
		}
	}
	switch {
	case c.Limit < 1 || c.Limit > 1_000_000:
		return &exit{exitUsage, fmt.Errorf("--limit %d: use 1 to 1000000", c.Limit)}
	case c.Events && c.Refusals:
		return &exit{exitUsage, fmt.Errorf("--events are of requests; --refusals have none: use one of them")}
	case c.Refusals && (c.OfRun != "" || c.Outcome != ""):
		return &exit{exitUsage, fmt.Errorf("--run and --outcome are of requests, and a refusal is none")}
	}
	q := broker.AuditQuery{}
	if !filter.Since.IsZero() {
		// Of what was asked before, and goes on, the first record must be seen
		// too: it says when that was.
		q.Since = filter.Since.Add(-wire.LongestWait - time.Hour)
	}
	rows := audit.Rows{Most: c.Limit, Filter: filter, Whole: c.Format == "jsonl"}
	var lines []line
	damaged, dropped := 0, 0
	err = c.each(ctx, stdio.err, q, func(*broker.Config, audit.Extent) {}, func(m audit.Message) error {
		var l line
		var wanted bool
		var err error
		switch {
		case c.Refusals:
			l, wanted, err = refusedLine(m, filter)
		case c.Events:
			l, wanted, err = eventLine(m, filter)
		default:
			rows.Add(m)
		}
		if err != nil {
			damaged++
		}
		if wanted {
			if lines = append(lines, l); len(lines) > 2*c.Limit {
				lines = slices.Clone(lines[len(lines)-c.Limit:])
				dropped += c.Limit + 1
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if extra := len(lines) - c.Limit; extra > 0 {
		lines, dropped = lines[extra:], dropped+extra
	}
	if !c.Refusals && !c.Events {
		for _, r := range rows.Taken() {
			lines = append(lines, rowLine(r))
		}
		damaged, dropped = rows.Damaged, rows.Dropped
	}
	head := rowHead
	if c.Refusals {
		head = refusedHead
	} else if c.Events {
		head = eventHead
	}
	if err := show(stdio.out, c.Format, head, lines); err != nil {
		return err
	}
	if dropped > 0 {
		fmt.Fprintf(stdio.err, "%d older ones are left out: raise --limit, or narrow it with --since, --until and --project\n", dropped)
	}
	if damaged > 0 {
		return &exit{exitWrong, fmt.Errorf("%s cannot be read; `cfa-relay audit verify` says which", count(damaged, "record"))}
	}
	return nil
}

// parseTime reads a time, or how long ago.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	ago := s
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n <= 36500 {
			ago = strconv.Itoa(24*n) + "h"
		}
	}
	if d, err := time.ParseDuration(ago); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateTime, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fmt.Errorf("%q is no time; write 24h or 7d (ago), 2026-11-24, or 2026-11-24T15:04:05Z (UTC unless it says otherwise)", wire.Clean(s, 40))
}

// line is one thing to show: as it is, for JSON, and as cells.
type line struct {
	value any
	cells []string
}

var (
	rowHead     = []string{"asked", "took", "outcome", "project", "service", "run", "rule", "attempt", "shown by", "answered by", "why", "key"}
	eventHead   = []string{"sequence", "at", "event", "state", "project", "run", "attempt", "by", "why", "key"}
	refusedHead = []string{"at", "code", "what", "who", "project", "left out", "why", "key"}
)

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func rowLine(r *audit.Row) line {
	return line{r, []string{stamp(r.Asked), r.Changed.Sub(r.Asked).Round(time.Second).String(), r.Word(), r.Project, r.Service, r.Run, r.Rule, strconv.Itoa(r.Attempt),
		strings.Join(r.Opened, ", "), strings.Join(r.By, ", "), r.Why, r.Key}}
}

func eventLine(m audit.Message, f audit.Filter) (line, bool, error) {
	e, ok, err := audit.EventOf(m)
	if !ok || err != nil || !f.TakesEvent(e) {
		return line{}, false, err
	}
	state := e.State
	if e.Outcome != "" {
		state += " " + e.Outcome
	}
	attempt := strconv.Itoa(e.Attempt)
	if e.OfResponder() {
		attempt = ""
	}
	if !e.Until.IsZero() {
		state = "until " + stamp(e.Until)
	}
	return line{e, []string{strconv.FormatUint(e.Seq, 10), stamp(e.At), e.Event, state, e.Project, e.Run, attempt, e.By, e.Why, e.Key}}, true, nil
}

func refusedLine(m audit.Message, f audit.Filter) (line, bool, error) {
	r, ok, err := audit.RefusedOf(m)
	if !ok || err != nil || !f.TakesRefused(r) {
		return line{}, false, err
	}
	who, left := audit.RefusedInside, ""
	if r.Outside {
		who = audit.RefusedOutside
	}
	if r.Left > 0 {
		left = strconv.FormatInt(r.Left, 10)
	}
	return line{r, []string{stamp(r.At), r.Code, r.Verb, who, r.Project, left, r.Why, r.Key}}, true, nil
}

// show prints lines. What they hold is others' words: a project's, a human's
// reason, a stranger's claim.
func show(w io.Writer, format string, head []string, lines []line) error {
	switch format {
	case "jsonl":
		for _, l := range lines {
			if err := printJSON(w, l.value); err != nil {
				return err
			}
		}
		return nil
	case "csv":
		out := csv.NewWriter(w)
		if err := out.Write(head); err != nil {
			return err
		}
		for _, l := range lines {
			cells := make([]string, len(l.cells))
			for i, c := range l.cells {
				cells[i] = cell(c)
			}
			if err := out.Write(cells); err != nil {
				return err
			}
		}
		out.Flush()
		return out.Error()
	}
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, strings.ToUpper(strings.Join(head, "\t")))
	for _, l := range lines {
		fmt.Fprintln(out, strings.Join(clean(l.cells, 60), "\t"))
	}
	return out.Flush()
}

func clean(cells []string, limit int) []string {
	out := make([]string, len(cells))
	for i, c := range cells {
		if out[i] = wire.Clean(c, limit); out[i] == "" {
			out[i] = "-"
		}
	}
	return out
}

// cell makes text of what a spreadsheet would take for a formula: a human's
// reason for a no must not run on the machine of who reads the audit.
func cell(s string) string {
	s = wire.Clean(s, 2000)
	if strings.IndexAny(strings.TrimLeft(s, " "), "=+-@") == 0 {
		return "'" + s
	}
	return s
}

// printJSON prints one line in ASCII: a terminal takes some other characters for
// its commands, or shows them in another order.
func printJSON(w io.Writer, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var b strings.Builder
	for _, c := range string(data) {
		switch {
		case c < 0x7F:
			b.WriteRune(c)
		case c > 0xFFFF:
			hi, lo := utf16.EncodeRune(c)
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		default:
			fmt.Fprintf(&b, `\u%04x`, c)
		}
	}
	b.WriteByte('\n')
	_, err = io.WriteString(w, b.String())
	return err
}

type auditTailCmd struct {
	record `embed:""`
	choice `embed:""`

	Format string `enum:"text,jsonl" default:"text" help:"text or jsonl."`
}

// Run goes on until it is told to end, or the relay ends.
func (c *auditTailCmd) Run(ctx context.Context, stdio stdio) error {
	filter, err := c.filter()
	if err != nil {
		return err
	}
	err = c.each(ctx, stdio.err, broker.AuditQuery{Follow: true, New: true}, func(_ *broker.Config, x audit.Extent) {
		fmt.Fprintf(stdio.err, "what comes after sequence %d:\n", x.Last)
	}, func(m audit.Message) error {
		l, wanted, err := eventLine(m, filter)
		what := "request"
		if e, ok := l.value.(audit.Event); ok && e.OfResponder() {
			what = "responder"
		}
		if !wanted && err == nil && c.OfRun == "" && c.Outcome == "" {
			l, wanted, err = refusedLine(m, filter)
			what = "refused"
		}
		if err != nil {
			fmt.Fprintf(stdio.err, "sequence %d cannot be read; `cfa-relay audit verify` says more\n", m.Seq)
		}
		if !wanted {
			return nil
		}
		if c.Format == "jsonl" {
			return printJSON(stdio.out, map[string]any{what: l.value})
		}
		_, err = fmt.Fprintln(stdio.out, what, strings.Join(clean(l.cells, 200), "  "))
		return err
	})
	if ctx.Err() != nil {
		return nil
	}
	return err
}
