package main

// cfa verify-receipt: who approved what, checked with nothing but the receipt, the
// files and the keys. It needs no relay, no CI and no network.

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/continuousauth/action/internal/receipt"
	"github.com/continuousauth/action/internal/wire"
)

type verifyReceiptCmd struct {
	Receipt  string   `arg:"" placeholder:"RECEIPT" help:"The receipt, as cfa approve wrote it."`
	Key      []string `placeholder:"KEYS" required:"" sep:"none" help:"Signing keys (A...) of those whose yes counts, separated by commas or spaces, or a file that holds them; again for more."`
	Artifact []string `placeholder:"FILES" sep:"none" help:"A file, or a pattern, that must be among those approved; again for more. Without it nothing is compared with the receipt's digests."`

	pinned []string
}

// AfterApply refuses what is wrong with the flags.
func (v *verifyReceiptCmd) AfterApply() error {
	for _, list := range v.Key {
		found, err := pinnedKeys(list)
		if err != nil {
			return fmt.Errorf("--key: %w", err)
		}
		v.pinned = append(v.pinned, keys(found)...)
	}
	if len(v.pinned) == 0 {
		return errors.New("--key names no key, so nobody's yes would count")
	}
	for _, key := range v.pinned {
		if err := wire.CheckSigningKey(key); err != nil {
			return fmt.Errorf("--key: %q is %s; `cfa-responder keys` prints it", wire.Clean(key, 60), plain(err))
		}
	}
	return nil
}

// Run checks, and prints what the receipt says once it is known to be good.
func (v *verifyReceiptCmd) Run(std stdio) error {
	paths, err := matching(v.Artifact)
	if err != nil {
		return usage("%w", err)
	}
	var files []receipt.File
	for _, path := range paths {
		f, err := receipt.Hash(path)
		if err != nil {
			return usage("--artifact: %w", err)
		}
		files = append(files, f)
	}
	data, err := readReceipt(v.Receipt)
	if err != nil {
		return usage("%w", err)
	}
	list, err := receipt.Read(data)
	if err == nil {
		err = receipt.Check(list, v.pinned, files)
	}
	if err != nil {
		return &exit{exitRefused, fmt.Errorf("%s: %w", wire.Clean(v.Receipt, 200), err)}
	}
	tellReceipts(std.out, list, files)
	return nil
}

// readReceipt reads a file of receipts, and no more of it than receipts have.
func readReceipt(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, receipt.MaxFile+1))
}

// tellReceipts prints checked receipts. Each line begins with a word of ours.
func tellReceipts(w io.Writer, list []receipt.Receipt, files []receipt.File) {
	row := func(label, format string, args ...any) {
		fmt.Fprintln(w, harmless(fmt.Sprintf("%-11s %s", label, fmt.Sprintf(format, args...))))
	}
	for _, r := range list {
		row("approved by", "%s, %s", r.Predicate.Responder, r.Predicate.Time().Format(time.RFC3339))
	}
	p := list[0].Predicate
	row("project", "%s at the relay %s, for %s", p.Project, p.Relay, p.Service)
	if p.Message != "" {
		row("message", "%q", wire.Clean(p.Message, wire.MaxText))
	}
	for _, name := range slices.Sorted(maps.Keys(p.Job)) {
		row("job", "%s: %s", wire.CleanName(name, 64), wire.CleanName(p.Job[name], 1024))
	}
	row("request", "%s, digest %s", wire.CleanName(p.Key, 56), p.Digest)
	for _, a := range p.Artifacts {
		compared := "not compared with a file"
		if slices.ContainsFunc(files, func(f receipt.File) bool { return f.SHA256 == a.SHA256 && f.Size == a.Size }) {
			compared = "the file that is here"
		}
		row("artifact", "%s, %d bytes, sha256 %s (%s)", wire.CleanName(a.Name, 200), a.Size, a.SHA256, compared)
	}
}
