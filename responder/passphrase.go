package main

// Keys that a passphrase seals, in the format of age, for machines without a
// keyring; and where a passphrase comes from: a human, or a file that a service
// manager gives this program alone. Never an argument, nor a variable: other
// programs can read both.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"filippo.io/age"
	"filippo.io/age/armor"
	"golang.org/x/term"
)

const (
	maxPassphrase = 1 << 10 // bytes
	// minPassphrase is the shortest that is taken, in characters: whoever gets the
	// file can try passphrases for as long as they like.
	minPassphrase = 12
)

// sealWork is scrypt's cost, 2^18: about a second, and 256 MiB, for each try.
// Tests make it cheaper, and one of the real program looks at it.
var sealWork = 18

// cutSealed cuts a key file into its lines and what is sealed in it.
func cutSealed(data []byte) (text, sealed []byte, ok bool) {
	i := bytes.Index(data, []byte(armor.Header))
	if i < 0 {
		return data, nil, false
	}
	return data[:i], bytes.Clone(data[i:]), true
}

// sealBy encrypts data by a passphrase, as text.
func sealBy(data []byte, passphrase string) ([]byte, error) {
	to, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		return nil, err
	}
	to.SetWorkFactor(sealWork)
	var out bytes.Buffer
	text := armor.NewWriter(&out)
	w, err := age.Encrypt(text, to)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(data); err != nil {
		return nil, err
	}
	if err := errors.Join(w.Close(), text.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

var errPassphrase = errors.New("the passphrase is wrong")

// unsealBy opens what sealBy has made; errPassphrase if it was by another passphrase.
func unsealBy(sealed []byte, passphrase string) ([]byte, error) {
	by, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, err
	}
	by.SetMaxWorkFactor(sealWork)
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(sealed)), by)
	if _, wrong := errors.AsType[*age.NoIdentityMatchError](err); wrong {
		return nil, errPassphrase
	}
	if err != nil {
		return nil, errors.New("it is damaged")
	}
	data, err := io.ReadAll(io.LimitReader(r, maxKeyFile))
	if err != nil {
		return nil, errors.New("it is damaged")
	}
	return data, nil
}

// passphrases is where a passphrase comes from.
type passphrases struct {
	std     stdio
	env     environ
	unasked bool // no human is to be asked
	input   bool // standard input is there for it, if it is no terminal
}

// credential is what a passphrase is called among a service's credentials.
const credential = "cfa-passphrase"

// file gives the passphrase of the file that is named for it; "" if none is.
func (p passphrases) file() (pass, path string, err error) {
	path = p.env.get("CFA_PASSPHRASE_FILE")
	if dir := p.env.get("CREDENTIALS_DIRECTORY"); path == "" && filepath.IsAbs(dir) {
		path = filepath.Join(dir, credential)
		if !stampOf(path).there {
			return "", "", nil
		}
	}
	if path == "" {
		return "", "", nil
	}
	data, err := readOwn(path, maxPassphrase, 0o077)
	if err != nil {
		return "", path, usage("the file of the passphrase: %w", err)
	}
	defer clear(data)
	if pass = strings.TrimRight(string(data), "\r\n"); pass == "" {
		return "", path, usage("the file of the passphrase, %s, is empty", path)
	}
	return pass, path, nil
}

// open gives the keys that are sealed in the file at path.
func (p passphrases) open(ctx context.Context, path string, k kept) (keys, error) {
	try := func(pass string) (keys, error) {
		data, err := unsealBy(k.sealed, pass)
		if err != nil {
			return keys{}, err
		}
		defer clear(data)
		opened, ok := parsePlain(data)
		if !ok || opened.public() != k.public {
			return keys{}, errNotTheseKeys
		}
		return opened, nil
	}
	said := func(err error, of string) error {
		if errors.Is(err, errPassphrase) {
			return &exit{exitLocked, fmt.Errorf("the keys in %s are sealed, and the passphrase %s is wrong", path, of)}
		}
		return usage("the keys in %s cannot be used: %w; put the file back from a backup, or move it away and have new keys enrolled", path, err)
	}
	pass, from, err := p.file()
	if err != nil {
		return keys{}, err
	}
	if from != "" {
		k, err := try(pass)
		if err != nil {
			return keys{}, said(err, "in "+from)
		}
		return k, nil
	}
	sealed := &exit{exitLocked, fmt.Errorf("the keys in %s are sealed, and nobody gave the passphrase", path)}
	if p.unasked {
		return keys{}, sealed
	}
	dev, err := p.std.terminal()
	if errors.Is(err, errNoTerminal) {
		if !p.input {
			sealed.err = fmt.Errorf("%w: there is no terminal to ask at. Name a file that has it, which only you can read, in CFA_PASSPHRASE_FILE", sealed.err)
			return keys{}, sealed
		}
		line, err := bufio.NewReaderSize(io.LimitReader(p.std.in, maxPassphrase), maxPassphrase).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) || strings.TrimRight(line, "\r\n") == "" {
			sealed.err = fmt.Errorf("%w; write it to standard input, one line", sealed.err)
			return keys{}, sealed
		}
		k, err := try(strings.TrimRight(line, "\r\n"))
		if err != nil {
			return keys{}, said(err, "on standard input")
		}
		return k, nil
	}
	if err != nil {
		return keys{}, err
	}
	defer dev.Close()
	fmt.Fprintf(dev.out, "The keys in %s are sealed.\n", path)
	for tries := 3; ; tries-- {
		pass, err := hidden(ctx, dev, "passphrase (not shown): ")
		if err != nil || pass == "" {
			return keys{}, sealed
		}
		k, err := try(pass)
		if err == nil {
			return k, nil
		}
		if !errors.Is(err, errPassphrase) || tries == 1 {
			return keys{}, said(err, "that was typed")
		}
		fmt.Fprintln(dev.out, "that is not it")
	}
}

// fresh gives a passphrase for something that is sealed from now on. why says why
// there is one at all, "" if the human wanted it.
func (p passphrases) fresh(ctx context.Context, why string) (string, error) {
	pass, from, err := p.file()
	if err != nil {
		return "", err
	}
	if from != "" {
		if problem := weak(pass); problem != "" {
			return "", usage("the passphrase in %s is %s", from, problem)
		}
		return pass, nil
	}
	dev, err := p.std.terminal()
	if errors.Is(err, errNoTerminal) {
		because := ""
		if why != "" {
			because = " (" + why + ")"
		}
		return "", usage("the keys are to be sealed by a passphrase%s, and there is no terminal to ask for one at; name a file that has it, which only you can read, in CFA_PASSPHRASE_FILE, or keep the keys as they are: --in plain", because)
	}
	if err != nil {
		return "", err
	}
	defer dev.Close()
	if why != "" {
		fmt.Fprintf(dev.out, "Your keys are kept in a file that a passphrase seals, because %s.\n", why)
	}
	for {
		pass, err := hidden(ctx, dev, fmt.Sprintf("new passphrase, at least %d characters; several words are best (not shown): ", minPassphrase))
		if err != nil || pass == "" {
			return "", errors.New("nothing was typed, and nothing was changed")
		}
		if problem := weak(pass); problem != "" {
			fmt.Fprintf(dev.out, "that is %s\n", problem)
			continue
		}
		again, err := hidden(ctx, dev, "the same again: ")
		switch {
		case err != nil:
			return "", errors.New("nothing was changed")
		case again != pass:
			fmt.Fprintln(dev.out, "those two differ")
			continue
		}
		return pass, nil
	}
}

// weak says why a passphrase will not do.
func weak(pass string) string {
	switch {
	case len(pass) > maxPassphrase-2:
		return "too long"
	case utf8.RuneCountInString(pass) < minPassphrase:
		return fmt.Sprintf("too short: whoever gets the file can try as many as they like, so it takes at least %d characters", minPassphrase)
	}
	return ""
}

// hidden asks a question at a terminal whose answer is not shown.
func hidden(ctx context.Context, dev *device, question string) (string, error) {
	fd := int(dev.in.Fd())
	// Before the question, not after it: whoever is quick, or pastes, would see
	// the beginning of the answer.
	was, err := term.MakeRaw(fd)
	if err != nil {
		return "", err
	}
	defer func() { _ = term.Restore(fd, was) }()
	// A signal must not leave the terminal without echo.
	defer context.AfterFunc(ctx, func() { _ = term.Restore(fd, was); dev.in.Close() })()
	t := term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{dev.in, dev.out}, "")
	if width, height, err := term.GetSize(fd); err == nil && width > 0 {
		_ = t.SetSize(width, height) // else it breaks lines at 80
	}
	answer, err := t.ReadPassword(question)
	if err == nil {
		err = ctx.Err()
	}
	return answer, err
}
