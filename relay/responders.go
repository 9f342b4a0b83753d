package main

// Who answers: those of the file, those of the record, and those who wait to be
// let in.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"golang.org/x/term"

	"github.com/continuousauth/action/internal/broker"
	"github.com/continuousauth/action/internal/wire"
)

type respondersCmd struct {
	List    respondersListCmd    `cmd:"" help:"Who answers, who waits to be approved, and who is invited."`
	Approve respondersApproveCmd `cmd:"" help:"Enrol somebody who has joined, once you have compared the fingerprint."`
	Remove  respondersRemoveCmd  `cmd:"" help:"Remove somebody who was enrolled so, or withdraw an invitation. They are disconnected at once."`
}

type respondersListCmd struct {
	running `embed:""`

	JSON bool `name:"json" help:"As JSON."`
}

// Run prints a line for each responder of each project.
func (c *respondersListCmd) Run(ctx context.Context, std stdio) error {
	data, err := broker.DataDir(c.Config)
	if err != nil {
		return &exit{exitConfig, err}
	}
	list, err := broker.AskResponders(ctx, data)
	if err != nil {
		return noRelay(err)
	}
	if c.JSON {
		out := json.NewEncoder(std.out)
		out.SetIndent("", "  ")
		return out.Encode(list)
	}
	out := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "PROJECT\tNAME\tSTATE\tFROM\tCONNECTED\tUNTIL\tFINGERPRINT\tKEY")
	for _, e := range list {
		connected, until, key := "", "", e.Connect
		if e.Connected {
			connected = "yes"
		}
		if !e.Until.IsZero() {
			until = stamp(e.Until)
		}
		if key == "" {
			key = e.Invitation
		}
		cells := clean([]string{e.Project, e.Name, e.State, e.From, connected, until, e.Fingerprint, key}, 64)
		for i, cell := range cells {
			if i > 0 {
				fmt.Fprint(out, "\t")
			}
			fmt.Fprint(out, cell)
		}
		fmt.Fprintln(out)
	}
	return out.Flush()
}

type respondersApproveCmd struct {
	running `embed:""`

	Who         string `arg:"" help:"Their name, or a key."`
	Project     string `placeholder:"NAME" help:"The project, where the name alone says too little."`
	Fingerprint string `placeholder:"FINGERPRINT" help:"What cfa-responder join shows them, as they have read it to you. Without it, it is asked for."`
}

// Run enrols who has joined. What is typed comes from the other side, by another
// way than the link: nothing on this screen could be copied instead.
func (c *respondersApproveCmd) Run(ctx context.Context, std stdio) error {
	data, err := broker.DataDir(c.Config)
	if err != nil {
		return &exit{exitConfig, err}
	}
	typed := c.Fingerprint
	if typed == "" {
		if std.in == nil || !term.IsTerminal(int(std.in.Fd())) {
			return &exit{exitUsage, errors.New("this is no terminal to ask on; give --fingerprint, as they have read it to you")}
		}
		fmt.Fprintf(std.err, "The fingerprint that cfa-responder join shows %s, as they read it to you: ", wire.CleanName(c.Who, 64))
		line, err := bufio.NewReader(io.LimitReader(std.in, 256)).ReadString('\n')
		if err != nil {
			return &exit{exitUsage, errors.New("nothing was typed, so nothing was changed")}
		}
		typed = line[:len(line)-1]
	}
	e, err := broker.AskApprove(ctx, data, c.Who, c.Project, typed)
	if err != nil {
		return noRelay(err)
	}
	_, err = fmt.Fprintf(std.out, "%s answers for %s now; signing key, for workflows that pin it: %s\n", e.Name, e.Project, e.Sign)
	return err
}

type respondersRemoveCmd struct {
	running `embed:""`

	Who     string `arg:"" help:"Their name, or a key: a signing, a connecting, or an invitation's."`
	Project string `placeholder:"NAME" help:"Only from this project. Default: from all that the record has them in."`
}

// Run says of each place what has become of it.
func (c *respondersRemoveCmd) Run(ctx context.Context, std stdio) error {
	data, err := broker.DataDir(c.Config)
	if err != nil {
		return &exit{exitConfig, err}
	}
	out, err := broker.AskRemove(ctx, data, c.Who, c.Project)
	if err != nil {
		return noRelay(err)
	}
	all, err := broker.AskResponders(ctx, data)
	if err != nil {
		return noRelay(err)
	}
	for _, e := range out {
		if slices.ContainsFunc(all, func(o broker.Enrollee) bool { return o.From == "file" && o.Sign == e.Sign && o.Project == e.Project }) {
			fmt.Fprintf(std.out, "%s still answers for %s: the relay's file has them, too; take them out there, and have it read with cfa-relay reload\n", e.Name, e.Project)
			continue
		}
		if e.Sign == "" {
			fmt.Fprintf(std.out, "the invitation of %s to %s is withdrawn\n", e.Name, e.Project)
			continue
		}
		fmt.Fprintf(std.out, "%s is removed from %s; workflows that pin %s still take its word: take it out there, too\n", e.Name, e.Project, e.Sign)
	}
	return nil
}
