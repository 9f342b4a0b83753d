package main

// The two keys of a responder, and the file that says where they are. One connects
// to relays and signs nothing but their nonces, the other signs answers and is
// never seen by a relay's server, so that no hostile server can get an answer
// signed.
//
// The file is there in each case, so that keys which cannot be had just now (the
// keyring is locked, or this is another session) are never taken for none, and
// made anew: whoever does that is locked out of every relay.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/keyring"
	"github.com/continuousauth/action/internal/wire"
)

// keys are a responder's private keys.
type keys struct {
	connect nkeys.KeyPair // U…
	sign    nkeys.KeyPair // A…
}

func newKeys() (keys, error) {
	connect, err := wire.NewConnectKey()
	if err != nil {
		return keys{}, fmt.Errorf("make the connecting key: %w", err)
	}
	sign, err := wire.NewSigningKey()
	if err != nil {
		return keys{}, fmt.Errorf("make the signing key: %w", err)
	}
	return keys{connect, sign}, nil
}

const (
	maxKeyFile = 4 << 10
	keyHeader  = "# The private keys of a cfa-responder. Whoever has them answers in your name.\n"
)

// Forms in which keys are kept, as flags name them.
const (
	inKeyring = "keyring" // of the system
	inFile    = "file"    // sealed by a passphrase
	inPlain   = "plain"   // as they are, in a file that only its owner can read
)

// keyStore keeps a responder's keys.
type keyStore struct {
	path  string // of the file
	given bool   // somebody named the file
	pass  passphrases
}

// keyStoreAt is the store at path, or at the place where it is unless a flag says
// otherwise.
func keyStoreAt(std stdio, env environ, path string) (keyStore, error) {
	s := keyStore{given: path != "", pass: passphrases{std: std, env: env}}
	var err error
	s.path, err = env.file(path, "responder.key")
	return s, err
}

// String says where the store is, for people.
func (s keyStore) String() string { return s.path }

// kept is what a key file says.
type kept struct {
	form   string
	public publicKeys
	keys   keys   // plain only
	sealed []byte // file only
}

// publicKeys are what others may know of a responder's keys.
type publicKeys struct{ connect, sign string }

func (k keys) public() publicKeys {
	return publicKeys{wire.PublicKey(k.connect), wire.PublicKey(k.sign)}
}

// read reads the file; fs.ErrNotExist if there is none.
func (s keyStore) read() (kept, error) {
	data, err := readOwn(s.path, maxKeyFile, 0o077)
	if err != nil {
		return kept{}, err
	}
	defer clear(data)
	k, ok := parseKeyFile(data)
	if !ok {
		// Without a word of what stands in it: that may be a key.
		return kept{}, usage("%s is not a key file of cfa-responder; use another --key-file, or move it away and make new keys with cfa-responder keygen", s)
	}
	return k, nil
}

// parseKeyFile reads what a key file says:
//
//	connect: SU…
//	sign: SA…
//
// or, where the keys are elsewhere, which they are, so that they can be named, and
// held against what comes from there:
//
//	in: keyring
//	connect: U…
//	sign: A…
//
// or the same with "in: file", and what was sealed behind it.
func parseKeyFile(data []byte) (k kept, ok bool) {
	text, sealed, isSealed := cutSealed(data)
	lines := map[string]string{}
	for _, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, ": ")
		if _, twice := lines[name]; !ok || twice || name != "in" && name != "connect" && name != "sign" {
			return kept{}, false
		}
		lines[name] = value
	}
	form, elsewhere := lines["in"]
	if !elsewhere {
		k.form = inPlain
		k.keys, ok = parseSeeds(lines["connect"], lines["sign"])
		if !ok || isSealed {
			return kept{}, false
		}
		k.public = k.keys.public()
		return k, true
	}
	k = kept{form: form, public: publicKeys{lines["connect"], lines["sign"]}, sealed: sealed}
	return k, (form == inFile) == isSealed && (form == inFile || form == inKeyring) &&
		wire.CheckConnectKey(k.public.connect) == nil && wire.CheckSigningKey(k.public.sign) == nil
}

// encodeElsewhere is the file of keys that are not in it as they are.
func encodeElsewhere(form string, p publicKeys, sealed []byte) []byte {
	what := "# The private keys of this cfa-responder are in the system's keyring, under its name and the key after\n# \"sign\". These are the public halves.\n"
	if form == inFile {
		what = "# The private keys of this cfa-responder are sealed by a passphrase: what begins with BEGIN is a file of\n# age. These are the public halves.\n"
	}
	return fmt.Appendf(nil, "%sin: %s\nconnect: %s\nsign: %s\n%s", what, form, p.connect, p.sign, sealed)
}

// errNotTheseKeys: what a keyring or a passphrase gave is not what the file names.
var errNotTheseKeys = errors.New("they are not the keys that the file names")

// load gives the keys; fs.ErrNotExist if there are none. It may ask the human for
// a passphrase, or have the keyring ask.
func (s keyStore) load(ctx context.Context) (keys, error) {
	k, err := s.read()
	if err != nil {
		return keys{}, err
	}
	switch k.form {
	case inKeyring:
		return s.fromKeyring(ctx, k.public)
	case inFile:
		return s.pass.open(ctx, s.path, k)
	}
	return k.keys, nil
}

func (s keyStore) fromKeyring(ctx context.Context, p publicKeys) (keys, error) {
	secret, err := keyring.Get(ctx, p.sign)
	if err != nil {
		return keys{}, keyringError(err)
	}
	k, ok := parsePlain([]byte(secret))
	if !ok || k.public() != p {
		return keys{}, fmt.Errorf("the keyring has something under %s, and %w", p.sign, errNotTheseKeys)
	}
	return k, nil
}

// keyringError says what a human can do about it.
func keyringError(err error) error {
	switch {
	case errors.Is(err, keyring.ErrLocked):
		return &exit{exitLocked, errors.New("your keys are in the system's keyring, which is locked, and nobody unlocked it: its window was closed, or could not be shown here. " +
			"Unlock it on your desktop (Passwords and Keys, KWallet), and try again")}
	case errors.Is(err, keyring.ErrNone):
		return &exit{exitLocked, fmt.Errorf("your keys are in the system's keyring, and this session does not reach it (%w); try again in the session of your desktop, where `cfa-responder keys move --to file` also takes them out of the keyring", err)}
	case errors.Is(err, keyring.ErrNotFound):
		return usage("your keys were in the system's keyring, and are not there any more: somebody removed them, or it was replaced. Without a copy they are lost; move the key file away and have new ones enrolled")
	}
	return fmt.Errorf("your keys are in the system's keyring: %s", wire.Clean(err.Error(), 300))
}

// form is the form for new keys, where none was named.
func (s keyStore) form(ctx context.Context) (form, why string) {
	if s.given {
		return inPlain, ""
	}
	if err := keyring.Look(ctx); errors.Is(err, keyring.ErrNone) {
		return inFile, err.Error()
	}
	return inKeyring, ""
}

// create keeps new keys in a form ("": the best that is here), and says in words
// where; fs.ErrExist if there are some, which it leaves.
func (s keyStore) create(ctx context.Context, k keys, form string) (where string, err error) {
	if _, err := os.Lstat(s.path); err == nil {
		return "", fs.ErrExist // before anybody is asked for anything
	}
	why := ""
	if form == "" {
		form, why = s.form(ctx)
	}
	data, err := s.content(ctx, k, form, why)
	if err != nil {
		return "", err
	}
	defer clear(data)
	if err := writeNew(s.path, data); err != nil {
		if form == inKeyring {
			err = errors.Join(err, keyring.Delete(ctx, k.public().sign))
		}
		return "", err
	}
	return s.where(form), nil
}

// where says in words where keys of a form are.
func (s keyStore) where(form string) string {
	switch form {
	case inKeyring:
		return "the system's keyring (" + s.path + " says so)"
	case inFile:
		return s.path + ", sealed by your passphrase"
	}
	return s.path + " as they are: whoever reads it answers in your name"
}

// content keeps the keys where the form says, and gives what the file has to say.
func (s keyStore) content(ctx context.Context, k keys, form, why string) ([]byte, error) {
	plain, err := encodeKeys(k)
	if err != nil || form == inPlain {
		return plain, err
	}
	defer clear(plain)
	if form == inKeyring {
		if err := keyring.Set(ctx, k.public().sign, string(plain)); err != nil {
			if errors.Is(err, keyring.ErrLocked) {
				return nil, &exit{exitLocked, errors.New("the system's keyring is locked, and nobody unlocked it: its window was closed, or could not be shown here. Unlock it on your desktop, or keep the keys in a file that a passphrase seals: --in file")}
			}
			return nil, usage("the system's keyring: %s; keep the keys in a file that a passphrase seals instead: --in file", wire.Clean(err.Error(), 300))
		}
		return encodeElsewhere(inKeyring, k.public(), nil), nil
	}
	pass, err := s.pass.fresh(ctx, why)
	if err != nil {
		return nil, err
	}
	sealed, err := sealBy(plain, pass)
	if err != nil {
		return nil, fmt.Errorf("seal the keys: %w", err)
	}
	// What cannot be opened again would be lost.
	back, err := unsealBy(sealed, pass)
	if err != nil || !bytes.Equal(back, plain) {
		return nil, errors.New("the sealed keys do not open again; nothing was written")
	}
	clear(back)
	return encodeElsewhere(inFile, k.public(), sealed), nil
}

// parsePlain reads keys that are there as they are.
func parsePlain(data []byte) (keys, bool) {
	k, ok := parseKeyFile(data)
	return k.keys, ok && k.form == inPlain
}

func parseSeeds(connect, sign string) (k keys, ok bool) {
	var err1, err2 error
	k.connect, err1 = nkeys.FromSeed([]byte(connect))
	k.sign, err2 = nkeys.FromSeed([]byte(sign))
	if err1 != nil || err2 != nil ||
		wire.CheckConnectKey(wire.PublicKey(k.connect)) != nil || wire.CheckSigningKey(wire.PublicKey(k.sign)) != nil {
		return keys{}, false
	}
	return k, true
}

func encodeKeys(k keys) ([]byte, error) {
	connect, err := k.connect.Seed()
	if err != nil {
		return nil, err
	}
	sign, err := k.sign.Seed()
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%sconnect: %s\nsign: %s\n", keyHeader, connect, sign), nil
}

// writeNew writes a file that only its owner can read; fs.ErrExist if it is there.
func writeNew(path string, data []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("directory for the keys: %w", err)
	}
	// O_EXCL also refuses a symbolic link, wherever it points.
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := file.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	if _, err := file.Write(data); err != nil {
		return err
	}
	return file.Sync()
}

// readOwn reads a small file that must be its owner's alone: none of the
// permission bits in forbidden may be set. It looks at the file that it opened,
// not at the name, which can change in between.
func readOwn(path string, limit int64, forbidden fs.FileMode) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, usage("%s is not a file", path)
	case info.Size() > limit:
		return nil, usage("%s has %d bytes; at most %d are read", path, info.Size(), limit)
	case !owned(info):
		return nil, usage("%s belongs to another user, who could change it; make it yours: sudo chown \"$(id -u)\" %s", path, shellWord(path))
	case modesCount && info.Mode().Perm()&forbidden != 0:
		what := "written"
		if forbidden&0o044 != 0 {
			what = "read"
		}
		return nil, usage("%s can be %s by other users (mode %04o); make it yours alone: chmod 600 %s", path, what, info.Mode().Perm(), shellWord(path))
	}
	return io.ReadAll(io.LimitReader(file, limit))
}

// shellWord quotes s for a command that a person may copy.
func shellWord(s string) string {
	if strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-") == "" && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func loadKeys(ctx context.Context, s keyStore) (keys, error) {
	k, err := s.load(ctx)
	return k, missingKeys(s, err)
}

// missingKeys says what to do about keys that cannot be had.
func missingKeys(s keyStore, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return usage("there are no keys at %s; make them with cfa-responder keygen, and have whoever runs the relay enrol them; or take an invitation with cfa-responder join", s)
	}
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*exit](err); ok {
		return err
	}
	return usage("keys: %w", err)
}

type keygenCmd struct {
	Dir     string `help:"Make the key file in this directory." type:"path" placeholder:"DIR"`
	KeyFile string `help:"Make this key file." or:"CFA_KEY_FILE" type:"path" placeholder:"FILE"`
	In      string `help:"Keep the private keys in the system's keyring, in the key file sealed by a passphrase (file), or there as they are (plain). Default: plain in a file that you name; else the keyring, or file where there is none." enum:",keyring,file,plain" default:"" placeholder:"keyring|file|plain"`
	Name    string `help:"Your name, as colleagues and logs show it; default: your user name." or:"CFA_NAME" placeholder:"NAME"`
}

func (c *keygenCmd) Run(ctx context.Context, std stdio, env environ) error {
	path := c.KeyFile
	if c.Dir != "" {
		path = filepath.Join(c.Dir, "responder.key")
	}
	store, err := keyStoreAt(std, env, path)
	if err != nil {
		return err
	}
	name, err := personName(c.Name, env)
	if err != nil {
		return err
	}
	k, err := newKeys()
	if err != nil {
		return err
	}
	where, err := store.create(ctx, k, c.In)
	switch _, told := errors.AsType[*exit](err); {
	case errors.Is(err, fs.ErrExist):
		return usage("%s is there already, and is left as it is: a new key would lock you out of every relay that knows the old one; use cfa-responder keys to see its public half", store)
	case err != nil && !told:
		return fmt.Errorf("keep the keys: %w", err)
	case err != nil:
		return err
	}
	fmt.Fprintf(std.err, "Your private keys are in %s. Give these lines to whoever runs the relay, for `responders:` of a project:\n", where)
	return printEnrolment(std.out, name, k)
}

type keysCmd struct {
	Show keysShowCmd `cmd:"" default:"withargs" help:"Print the public keys, as lines for the relay's configuration."`
	Move keysMoveCmd `cmd:"" help:"Keep the private keys elsewhere from now on, and wipe them where they were."`
}

type keysShowCmd struct {
	KeyFile string `help:"The key file." or:"CFA_KEY_FILE" type:"path" placeholder:"FILE"`
	Name    string `help:"Your name, as colleagues and logs show it; default: your user name." or:"CFA_NAME" placeholder:"NAME"`
}

// Run needs no private key, and so asks nobody for one.
func (c *keysShowCmd) Run(std stdio, env environ) error {
	store, err := keyStoreAt(std, env, c.KeyFile)
	if err != nil {
		return err
	}
	name, err := personName(c.Name, env)
	if err != nil {
		return err
	}
	k, err := store.read()
	if err != nil {
		return missingKeys(store, err)
	}
	chain, err := readChain(env, c.KeyFile, k.public.sign)
	if err != nil {
		return err
	}
	if err := printPublic(std.out, name, k.public); err != nil {
		return err
	}
	if former := wire.Former(k.public.sign, chain); len(former) > 0 {
		_, err = fmt.Fprintf(std.out, "  former: [%s]\n", strings.Join(former, ", "))
	}
	return err
}

type keysMoveCmd struct {
	KeyFile string `help:"The key file." or:"CFA_KEY_FILE" type:"path" placeholder:"FILE"`
	To      string `help:"The system's keyring, the key file sealed by a passphrase (file), or the file as they are (plain)." required:"" enum:"keyring,file,plain" placeholder:"keyring|file|plain"`
}

// Run moves the keys: they are at the new place, and have been read there, before
// they leave the old one.
func (c *keysMoveCmd) Run(ctx context.Context, std stdio, env environ) error {
	store, err := keyStoreAt(std, env, c.KeyFile)
	if err != nil {
		return err
	}
	was, err := store.read()
	if err != nil {
		return missingKeys(store, err)
	}
	if was.form == c.To && c.To != inFile { // a sealed file gets a new passphrase
		fmt.Fprintf(std.err, "Your private keys are in %s already.\n", store.where(c.To))
		return nil
	}
	k, err := loadKeys(ctx, store)
	if err != nil {
		return err
	}
	data, err := store.content(ctx, k, c.To, "")
	if err != nil {
		return err
	}
	defer clear(data)
	if err := replaceFile(store.path, data, was.form == inPlain); err != nil {
		return fmt.Errorf("move the keys: %w", err)
	}
	if was.form == inKeyring {
		if err := keyring.Delete(ctx, was.public.sign); err != nil {
			return fmt.Errorf("your private keys are in %s now, and could not be removed from the keyring; remove what stands there under cfa-responder by hand (%w)", store.where(c.To), keyringError(err))
		}
	}
	fmt.Fprintf(std.err, "Your private keys are in %s. A program that runs keeps those that it has.\n", store.where(c.To))
	if was.form == inPlain {
		fmt.Fprint(std.err, "What stood in the file before was overwritten; on an SSD, and in backups, it may be found all the same.\n")
	}
	return nil
}

// replace keeps keys in the place of those that are there, in the same form, all of
// them or none.
func (s keyStore) replace(ctx context.Context, k keys) error {
	was, err := s.read()
	if err != nil {
		return err
	}
	data, err := s.content(ctx, k, was.form, "")
	if err != nil {
		return err
	}
	defer clear(data)
	if err := replaceFile(s.path, data, was.form == inPlain); err != nil {
		if was.form == inKeyring {
			err = errors.Join(err, keyring.Delete(ctx, k.public().sign))
		}
		return err
	}
	if was.form == inKeyring && was.public.sign != k.public().sign {
		// The new key is kept, and counts: what is left of the old one is clutter.
		_ = keyring.Delete(ctx, was.public.sign)
	}
	return nil
}

// replaceFile puts data in a file's place, all of it or nothing, and then writes
// over what was there, if wipe.
func replaceFile(path string, data []byte, wipe bool) error {
	// A link stays one: what it points to is replaced.
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	var old *os.File
	if wipe {
		if old, err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
			return err
		}
		defer old.Close()
	}
	next := path + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a move that was interrupted
		return err
	}
	if err := writeNew(next, data); err != nil {
		return err
	}
	if runtime.GOOS == "windows" && old != nil { // which replaces no open file
		old.Close()
		if old, err = os.OpenFile(path, os.O_WRONLY, 0); err == nil {
			err = wipeFile(old)
			old.Close()
		}
		if err != nil {
			return errors.Join(err, os.Remove(next))
		}
		return os.Rename(next, path)
	}
	if err := os.Rename(next, path); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	if old == nil {
		return nil
	}
	return wipeFile(old)
}

// wipeFile writes over all of an open file.
func wipeFile(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(make([]byte, info.Size()), 0); err != nil {
		return err
	}
	return f.Sync()
}

// printEnrolment prints an entry of a project's `responders:`.
func printEnrolment(w io.Writer, name string, k keys) error {
	return printPublic(w, name, k.public())
}

func printPublic(w io.Writer, name string, p publicKeys) error {
	_, err := fmt.Fprintf(w, "- name: %s\n  connect: %s\n  sign: %s\n", yamlWord(name), p.connect, p.sign)
	return err
}

func personName(name string, env environ) (string, error) {
	for _, v := range []string{"USER", "LOGNAME", "USERNAME"} {
		if name == "" {
			name = env.get(v)
		}
	}
	if name == "" {
		return "NAME", nil
	}
	if len(name) > 64 || wire.Clean(name, 64) != name || strings.TrimSpace(name) != name {
		return "", usage("a name has 1 to 64 characters, no control or look-alike characters and no two spaces in a row; give another with --name")
	}
	return name, nil
}

// yamlWord quotes s where YAML could read it as something else than a text.
func yamlWord(s string) string {
	plain := s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-") == "" &&
		strings.Trim(s[:1], "._-") != ""
	switch strings.ToLower(s) {
	case "true", "false", "yes", "no", "on", "off", "null", "y", "n":
		plain = false
	}
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
}
