package receipt

// Checking receipts offline: who said yes, to what, and whether that is these
// files.

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/continuousauth/action/internal/wire"
)

// ErrNotApproved says that receipts are genuine, and are not a yes of these keys
// to these files.
var ErrNotApproved = errors.New("not approved")

func not(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrNotApproved}, args...)...)
}

// File is a file as it is on disk.
type File struct {
	Name   string // base name
	SHA256 wire.Digest
	Size   int64
}

// Hash reads a file once, and keeps nothing of it.
func Hash(path string) (f File, err error) {
	// Before it is opened: a pipe would be waited for, for ever.
	info, err := os.Stat(path)
	if err != nil {
		return File{}, err
	}
	if !info.Mode().IsRegular() {
		return File{}, fmt.Errorf("%s is not a file", path)
	}
	in, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer in.Close()
	h := sha256.New()
	n, err := io.Copy(h, in)
	if err != nil {
		return File{}, err
	}
	return File{Name: filepath.Base(path), SHA256: wire.Digest(h.Sum(nil)), Size: n}, nil
}

// Check says whether receipts, as [Read] gave them, are the yes of as many
// different pinned keys as their request needed, or of keys that these vouch for, and whether each of files was
// approved by it. Files that were approved and are not among files are not
// looked at. Its error wraps [ErrNotApproved].
func Check(receipts []Receipt, pinned []string, files []File) error {
	if len(receipts) == 0 || len(pinned) == 0 {
		return not("no receipt, or no key to check it with")
	}
	first := receipts[0].Predicate
	var people []string
	for _, r := range receipts {
		p := r.Predicate
		// Read has verified each. That is asked again because everything rests on it.
		if err := Verify(r.Statement, r.Sig, p.Responder); err != nil {
			return err
		}
		person, ok := wire.Vouched(p.Responder, r.Chain, pinned)
		switch {
		case !ok:
			return not("it is signed by %s, which is not among the keys given, and none of them vouches for it", p.Responder)
		case slices.Contains(people, person):
			return not("%s approved twice, and two people are two keys", p.Responder)
		case p.Digest != first.Digest:
			return not("the receipts are about two requests, %s and %s", first.Digest, p.Digest)
		case p.Approvals != first.Approvals || !slices.Equal(r.Subject, receipts[0].Subject):
			return not("the receipts contradict each other") // two of one digest cannot, unless a responder lies
		}
		people = append(people, person)
	}
	if len(people) < first.Approvals {
		return not("the request needed %d people, and %d approved", first.Approvals, len(people))
	}
	for _, f := range files {
		if err := approved(receipts[0].Content, f); err != nil {
			return err
		}
	}
	return nil
}

// approved says whether a file is one of those that were approved. What counts is
// the digest; the name only says which one was meant.
func approved(c Content, f File) error {
	if len(c.Predicate.Artifacts) == 0 {
		return not("it is about a message alone, and names no file")
	}
	for _, a := range c.Predicate.Artifacts {
		if a.SHA256 == f.SHA256 && a.Size == f.Size {
			return nil
		}
	}
	for _, a := range c.Predicate.Artifacts {
		if a.Name == f.Name {
			return not("%s is another file than the one that was approved: its sha256 is %s, and %s was approved", wire.CleanName(f.Name, 200), f.SHA256, a.SHA256)
		}
	}
	return not("%s (sha256 %s) is none of the files that were approved", wire.CleanName(f.Name, 200), f.SHA256)
}
