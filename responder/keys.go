package main

// The two keys of a responder, and where they are kept. One connects to relays
// and signs nothing but their nonces, the other signs answers and is never seen
// by a relay's server, so that no hostile server can get an answer signed.

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nkeys"

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

// keyStore is a place for a responder's keys.
type keyStore interface {
	// load gives the keys; fs.ErrNotExist if there are none.
	load() (keys, error)
	// create keeps new keys; fs.ErrExist if there are some, which it leaves.
	create(keys) error
	// String says where it is, for people.
	String() string
}

// keyFile keeps the keys in a file that only its owner can read:
//
//	connect: SU…
//	sign: SA…
type keyFile string

const (
	maxKeyFile = 4 << 10
	keyHeader  = "# The private keys of a cfa-responder. Whoever has them answers in your name.\n"
)

func (f keyFile) String() string { return string(f) }

func (f keyFile) load() (keys, error) {
	data, err := readOwn(string(f), maxKeyFile, 0o077)
	if err != nil {
		return keys{}, err
	}
	k, ok := parseKeys(data)
	if !ok {
		// Without a word of what stands in it: that may be a key.
		return keys{}, usage("%s is not a key file of cfa-responder; use another --key-file, or move it away and make new keys with cfa-responder keygen", f)
	}
	return k, nil
}

func parseKeys(data []byte) (k keys, ok bool) {
	seeds := map[string]string{}
	for _, line := range strings.Split(string(data), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, seed, ok := strings.Cut(line, ": ")
		if _, twice := seeds[name]; !ok || twice || name != "connect" && name != "sign" {
			return keys{}, false
		}
		seeds[name] = seed
	}
	var err1, err2 error
	k.connect, err1 = nkeys.FromSeed([]byte(seeds["connect"]))
	k.sign, err2 = nkeys.FromSeed([]byte(seeds["sign"]))
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

func (f keyFile) create(k keys) (err error) {
	data, err := encodeKeys(k)
	if err != nil {
		return err
	}
	defer clear(data)
	if err := os.MkdirAll(filepath.Dir(string(f)), 0o700); err != nil {
		return fmt.Errorf("directory for the keys: %w", err)
	}
	// O_EXCL also refuses a symbolic link, wherever it points.
	file, err := os.OpenFile(string(f), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := file.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			err = errors.Join(err, os.Remove(string(f)))
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

// keyStoreAt picks the store; a file is the one there is.
func keyStoreAt(env environ, path string) (keyStore, error) {
	path, err := env.file(path, "responder.key")
	return keyFile(path), err
}

func loadKeys(s keyStore) (keys, error) {
	k, err := s.load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return keys{}, usage("there are no keys at %s; make them with cfa-responder keygen, and have whoever runs the relay enrol them", s)
	case err != nil:
		var e *exit
		if errors.As(err, &e) {
			return keys{}, err
		}
		return keys{}, usage("keys: %w", err)
	}
	return k, nil
}

type keygenCmd struct {
	Dir     string `help:"Make the key file in this directory." type:"path" placeholder:"DIR"`
	KeyFile string `help:"Make this key file." or:"CFA_KEY_FILE" type:"path" placeholder:"FILE"`
	Name    string `help:"Your name, as colleagues and logs show it; default: your user name." or:"CFA_NAME" placeholder:"NAME"`
}

func (c *keygenCmd) Run(std stdio, env environ) error {
	path := c.KeyFile
	if c.Dir != "" {
		path = filepath.Join(c.Dir, "responder.key")
	}
	store, err := keyStoreAt(env, path)
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
	switch err := store.create(k); {
	case errors.Is(err, fs.ErrExist):
		return usage("%s is there already, and is left as it is: a new key would lock you out of every relay that knows the old one; use cfa-responder keys to see its public half", store)
	case err != nil:
		return fmt.Errorf("keep the keys: %w", err)
	}
	fmt.Fprintf(std.err, "Your private keys are in %s. Give these lines to whoever runs the relay, for `responders:` of a project:\n", store)
	return printEnrolment(std.out, name, k)
}

type keysCmd struct {
	KeyFile string `help:"The key file." or:"CFA_KEY_FILE" type:"path" placeholder:"FILE"`
	Name    string `help:"Your name, as colleagues and logs show it; default: your user name." or:"CFA_NAME" placeholder:"NAME"`
}

func (c *keysCmd) Run(std stdio, env environ) error {
	store, err := keyStoreAt(env, c.KeyFile)
	if err != nil {
		return err
	}
	name, err := personName(c.Name, env)
	if err != nil {
		return err
	}
	k, err := loadKeys(store)
	if err != nil {
		return err
	}
	return printEnrolment(std.out, name, k)
}

// printEnrolment prints an entry of a project's `responders:`.
func printEnrolment(w io.Writer, name string, k keys) error {
	_, err := fmt.Fprintf(w, "- name: %s\n  connect: %s\n  sign: %s\n", yamlWord(name), wire.PublicKey(k.connect), wire.PublicKey(k.sign))
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
