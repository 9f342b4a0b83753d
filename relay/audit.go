package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/audit"
	"github.com/continuousauth/action/internal/broker"
	"github.com/continuousauth/action/internal/wire"
)

type auditCmd struct {
	Verify     auditVerifyCmd     `cmd:"" help:"Check the record: signatures, chains, and with a checkpoint whether it is still what it was."`
	Checkpoint auditCheckpointCmd `cmd:"" help:"Write a signed statement of everything so far, to be kept elsewhere."`
	List       auditListCmd       `cmd:"" help:"List requests, their records, or what was refused."`
	Tail       auditTailCmd       `cmd:"" help:"Show what is recorded as it comes."`
	Keygen     auditKeygenCmd     `cmd:"" help:"Make a key that signs checkpoints."`
}

// record is the record that a command reads.
type record struct {
	Config string `required:"" placeholder:"FILE" env:"CFA_RELAY_CONFIG" help:"The relay's configuration. If the relay runs, it is asked; if it does not and has its own store, that is read."`
}

// each reads the record, message by message, to its end.
func (r record) each(ctx context.Context, errs io.Writer, q broker.AuditQuery, begin func(*broker.Config, audit.Extent), each func(audit.Message) error) error {
	config, err := broker.ReadConfig(r.Config)
	if err != nil {
		return &exit{exitConfig, err}
	}
	a, err := broker.OpenAudit(ctx, config, q)
	if err != nil {
		return storeExit(err)
	}
	defer a.Close()
	if a.Direct {
		fmt.Fprintln(errs, "no relay runs: this is read from its store, and none can start until it is done")
	}
	begin(config, a.Extent)
	for {
		m, err := a.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return &exit{exitUnavailable, err}
		}
		if err := each(m); err != nil {
			return err
		}
	}
}

// checks is what verifying needs beside the record.
type checks struct {
	Former     []string `placeholder:"KEY" help:"A responder's signing key (A…) that was enrolled once and is not in the file any more. Repeat it for several."`
	FormerName []string `placeholder:"NAME" help:"A name (host) that the relay had once. Repeat it for several."`
}

// sound says whether what is named can be what it is called.
func (c checks) sound() error {
	for _, k := range c.Former {
		if err := wire.CheckSigningKey(k); err != nil {
			return &exit{exitUsage, fmt.Errorf("--former: %w", err)}
		}
	}
	for _, n := range c.FormerName {
		if err := wire.CheckRelayName(n); err != nil {
			return &exit{exitUsage, fmt.Errorf("--former-name: %w", err)}
		}
	}
	return nil
}

// verify reads all of the record into a Verifier and a Ledger.
func (c checks) verify(ctx context.Context, r record, errs io.Writer) (*audit.Verifier, *audit.Ledger, audit.Extent, error) {
	if err := c.sound(); err != nil {
		return nil, nil, audit.Extent{}, err
	}
	var v *audit.Verifier
	var l *audit.Ledger
	var x audit.Extent
	err := r.each(ctx, errs, broker.AuditQuery{}, func(config *broker.Config, extent audit.Extent) {
		x, l = extent, audit.NewLedger(extent)
		v = audit.NewVerifier(extent, func(project, key string) bool {
			return config.Enrolled(project, key) || slices.Contains(c.Former, key)
		})
		v.Former, l.Former = c.FormerName, c.FormerName
	}, func(m audit.Message) error {
		v.Add(m)
		l.Add(m)
		return nil
	})
	if err != nil {
		return nil, nil, x, err
	}
	v.End()
	return v, l, x, nil
}

type auditVerifyCmd struct {
	record `embed:""`
	checks `embed:""`

	Checkpoint    string `placeholder:"FILE" help:"A checkpoint: what of it is not so any more?"`
	CheckpointKey string `placeholder:"KEY" help:"The public half (O…) of the key that must have signed the checkpoint."`
}

// Run prints each problem, with where it is.
func (c *auditVerifyCmd) Run(ctx context.Context, stdio stdio) error {
	var cp *audit.Checkpoint
	if c.Checkpoint != "" {
		// Before the record is read, which takes longer.
		data, err := readSmall(c.Checkpoint, audit.MaxCheckpoint)
		if err != nil {
			return &exit{exitUsage, err}
		}
		read, err := audit.ReadCheckpoint(data, c.CheckpointKey)
		if err != nil {
			return &exit{exitWrong, fmt.Errorf("%s: %w", c.Checkpoint, err)}
		}
		cp = &read
	} else if c.CheckpointKey != "" {
		return &exit{exitUsage, errors.New("--checkpoint-key is of a checkpoint, and none is named: add --checkpoint FILE")}
	}
	v, l, x, err := c.verify(ctx, c.record, stdio.err)
	if err != nil {
		return err
	}
	wrong := v.Wrong
	problems(stdio.out, v.Problems, v.Wrong)
	fmt.Fprintf(stdio.out, "%s, sequences %d to %d: %s, %s", count(v.Messages, "message"), x.First, x.Last, count(v.Requests, "request"), count(v.Refusals, "refusal"))
	if v.Left > 0 {
		fmt.Fprintf(stdio.out, " (and %d that were left out)", v.Left)
	}
	if v.Begun > 0 {
		fmt.Fprintf(stdio.out, "; of %s the beginning has aged out", count(v.Begun, "request"))
	}
	fmt.Fprintln(stdio.out)
	for _, r := range v.Restores {
		fmt.Fprintln(stdio.out, r)
	}
	if cp != nil {
		d := l.Compare(*cp, time.Now())
		wrong += d.Wrong
		problems(stdio.out, d.Problems, d.Wrong)
		fmt.Fprintf(stdio.out, "checkpoint of %s, sequences %d to %d, signed by %s: %d are as they were", time.Unix(cp.Made, 0).UTC().Format(time.RFC3339), cp.First, cp.Last, cp.Key, d.Same)
		if d.Gone > 0 {
			fmt.Fprintf(stdio.out, ", %d are gone from the old end", d.Gone)
		}
		if d.Unknown > 0 {
			fmt.Fprintf(stdio.out, ", %d cannot be compared because others of their block are gone", d.Unknown)
		}
		fmt.Fprintln(stdio.out)
		if i := slices.IndexFunc(v.Restores, func(r audit.Restore) bool { return cp.Last >= r.Seq && cp.Made <= r.At.Unix() }); d.Wrong > 0 && i >= 0 {
			fmt.Fprintf(stdio.out, "this checkpoint is younger than the backup that the record was restored from: from sequence %d on, what it has is lost\n", v.Restores[i].Seq)
		}
		if c.CheckpointKey == "" {
			fmt.Fprintln(stdio.err, "whoever writes a checkpoint names its key: give the one that you know with --checkpoint-key")
		}
	}
	if wrong > 0 {
		return &exit{exitWrong, fmt.Errorf("the record is not as it should be: %s", count(wrong, "problem"))}
	}
	fmt.Fprintln(stdio.out, "good: each record follows from the one before and from what was signed")
	return nil
}

func problems(w io.Writer, list []audit.Problem, all int) {
	for _, p := range list {
		fmt.Fprintln(w, p)
	}
	if n := all - len(list); n > 0 {
		fmt.Fprintf(w, "and %d more\n", n)
	}
}

type auditCheckpointCmd struct {
	record `embed:""`
	checks `embed:""`

	Key     string `required:"" placeholder:"FILE" help:"The file with the audit key, as audit keygen makes it. It is not the relay's: keep it elsewhere."`
	Out     string `placeholder:"FILE" help:"Where to write it, a file that is not there yet. Default: standard output."`
	Despite bool   `help:"Write it even though audit verify finds something wrong."`
}

// Run signs what is there now. The key never goes to the relay.
func (c *auditCheckpointCmd) Run(ctx context.Context, stdio stdio) error {
	kp, err := readAuditKey(c.Key)
	if err != nil {
		return &exit{exitUsage, err}
	}
	defer kp.Wipe()
	v, l, _, err := c.verify(ctx, c.record, stdio.err)
	if err != nil {
		return err
	}
	if v.Wrong > 0 && !c.Despite {
		problems(stdio.err, v.Problems, v.Wrong)
		return &exit{exitWrong, fmt.Errorf("the record is not as it should be: %s; nothing was signed (--despite signs it all the same)", count(v.Wrong, "problem"))}
	}
	file, made, err := l.Checkpoint(kp, time.Now())
	if err != nil {
		return err
	}
	if c.Out == "" {
		_, err = stdio.out.Write(file)
	} else {
		err = create(c.Out, file, 0o644)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(stdio.err, "%d messages, sequences %d to %d, signed by %s; keep it where the relay's administrator cannot change it\n", made.Count, made.First, made.Last, made.Key)
	return nil
}

type auditKeygenCmd struct {
	Out string `required:"" placeholder:"FILE" help:"Where to write the key, a file that is not there yet. Not on the relay's machine."`
}

// Run prints the public half.
func (c *auditKeygenCmd) Run(_ context.Context, stdio stdio) error {
	kp, err := audit.NewAuditKey()
	if err != nil {
		return err
	}
	defer kp.Wipe()
	seed, err := kp.Seed()
	if err != nil {
		return err
	}
	defer clear(seed)
	if err := create(c.Out, append(slices.Clone(seed), '\n'), 0o600); err != nil {
		return err
	}
	fmt.Fprintln(stdio.out, wire.PublicKey(kp))
	return nil
}

func readAuditKey(path string) (nkeys.KeyPair, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s can be read by others (mode %04o); run: chmod 600 %s", path, info.Mode().Perm(), path)
	}
	data, err := readSmall(path, 4<<10)
	if err != nil {
		return nil, err
	}
	defer clear(data)
	kp, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(data))))
	if err == nil {
		var pub string
		if pub, err = kp.PublicKey(); err == nil {
			err = audit.CheckAuditKey(pub)
		}
	}
	if err != nil {
		// The error of the library could quote the file.
		return nil, fmt.Errorf("%s holds no audit key (SO…); `cfa-relay audit keygen` makes one", path)
	}
	return kp, nil
}

// create writes a file that is not there yet: neither a key nor an older
// checkpoint is lost to a slip.
func create(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if errors.Is(err, os.ErrExist) {
		return &exit{exitUsage, fmt.Errorf("%s is there already, and is not overwritten", path)}
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func readSmall(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		clear(data)
		return nil, fmt.Errorf("%s has more than %d bytes", path, most)
	}
	return data, err
}
