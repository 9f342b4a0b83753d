package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/continuousauth/action/internal/audit"
	"github.com/continuousauth/action/internal/broker"
)

type backupCmd struct {
	Config string `required:"" placeholder:"FILE" env:"CFA_RELAY_CONFIG" help:"The relay's configuration. If the relay runs, it is asked; if it does not and has its own store, that is read."`
	Out    string `required:"" placeholder:"FILE" help:"Where to write it, a file that is not there yet."`
}

// Run writes the backup and says what is in it.
func (b *backupCmd) Run(ctx context.Context, stdio stdio) error {
	config, err := broker.ReadConfig(b.Config)
	if err != nil {
		return &exit{exitConfig, err}
	}
	var h audit.Head
	var sum string
	err = writeWhole(b.Out, func(w io.Writer) (err error) {
		var direct bool
		h, sum, direct, err = broker.Backup(ctx, config, w, time.Now())
		if direct {
			fmt.Fprintln(stdio.err, "no relay runs: this was read from its store")
		}
		return err
	})
	var e *exit
	switch {
	case errors.As(err, &e):
		return err
	case errors.Is(err, audit.ErrBackup), errors.Is(err, audit.ErrIncomplete):
		return &exit{exitWrong, err}
	case err != nil:
		return storeExit(err)
	}
	fmt.Fprintf(stdio.out, "%s: %s of the relay %s, sequences %d to %d; sha256 %s\n", b.Out, count(int(h.Count), "message"), h.Relay, h.First, h.Last, sum)
	fmt.Fprintf(stdio.err, "keep it elsewhere, and see that it can be restored: cfa-relay restore --check --config %s %s\n", b.Config, b.Out)
	return nil
}

// writeWhole makes a file that was not there, of which others see all or nothing:
// what it says is on the disk before it has its name.
func writeWhole(path string, write func(io.Writer) error) (err error) {
	taken := &exit{exitUsage, fmt.Errorf("%s is there already, and is not overwritten", path)}
	// Before the work; and again after it.
	if _, err := os.Lstat(path); err == nil {
		return taken
	} else if !errors.Is(err, os.ErrNotExist) {
		return &exit{exitUsage, err}
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*.part") // mode 0600
	if err != nil {
		return &exit{exitUsage, err}
	}
	defer os.Remove(f.Name())
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("%s was not written: %w", path, err)
	}
	// A link fails where a file is; renaming would replace it.
	if err := os.Link(f.Name(), path); err != nil {
		if errors.Is(err, os.ErrExist) {
			return taken
		}
		// There are disks without links. On those the name is taken first.
		claim, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if errors.Is(err, os.ErrExist) {
			return taken
		}
		if err == nil {
			err = errors.Join(claim.Close(), os.Rename(f.Name(), path))
		}
		if err != nil {
			return fmt.Errorf("%s was not written: %w", path, err)
		}
	}
	if d, err := os.Open(dir); err == nil { // else it has its name after a moment
		_ = d.Sync()
		d.Close()
	}
	return nil
}

type restoreCmd struct {
	checks `embed:""`

	Config string `required:"" placeholder:"FILE" env:"CFA_RELAY_CONFIG" help:"The relay's configuration: where its data is to be, or the NATS server that it joins."`
	Check  bool   `help:"Only check the backup: read all of it, verify it as audit verify does, and write nothing."`
	File   string `arg:"" placeholder:"FILE" help:"The backup."`
}

// Run restores, and says what was lost.
func (r *restoreCmd) Run(ctx context.Context, stdio stdio) error {
	if err := r.sound(); err != nil {
		return err
	}
	config, err := broker.ReadConfig(r.Config)
	if err != nil {
		return &exit{exitConfig, err}
	}
	f, err := os.Open(r.File)
	if err != nil {
		return &exit{exitUsage, err}
	}
	defer f.Close()
	done, err := broker.Restore(ctx, config, f, broker.RestoreOptions{Names: r.FormerName, Keys: r.Former, Check: r.Check, Now: time.Now})
	var unsound *broker.NotSoundError
	switch {
	case errors.As(err, &unsound):
		problems(stdio.out, unsound.Problems, unsound.Wrong)
		return &exit{exitWrong, fmt.Errorf("%s: %w", r.File, err)}
	case errors.Is(err, audit.ErrBackup):
		return &exit{exitWrong, fmt.Errorf("%s: %w; nothing was written", r.File, err)}
	case errors.Is(err, audit.ErrBackupVersion):
		return &exit{exitConfig, fmt.Errorf("%s: %w; nothing was written", r.File, err)}
	case errors.Is(err, broker.ErrNotEmpty):
		return &exit{exitUsage, err}
	case err != nil:
		return storeExit(err)
	}
	made := time.UnixMilli(done.Head.Made).UTC().Format(time.RFC3339)
	fmt.Fprintf(stdio.out, "%s: %s of the relay %s, sequences %d to %d, %s, made at %s; sha256 %s\n",
		r.File, count(int(done.Head.Count), "message"), done.Head.Relay, done.Head.First, done.Head.Last, count(done.Requests, "request"), made, done.Sum)
	if r.Check {
		fmt.Fprintf(stdio.out, "good: it can be restored; of its requests %d are open, and would be cancelled\n", done.Ended)
		return nil
	}
	fmt.Fprintf(stdio.out, "restored; %s cancelled. What was recorded after %s is lost: a run that was declined since then can ask again, and a responder that was removed is enrolled again (cfa-relay responders list)\n", open(done.Ended), made)
	return nil
}

// open begins a sentence about requests that were.
func open(n int) string {
	if n == 1 {
		return "1 request that was open is"
	}
	return fmt.Sprintf("%d requests that were open are", n)
}
