package main

// Whose answer counts: keys, or a file of the repository that holds them, so that a
// new colleague is one line in one place, reviewed like any other.

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/continuousauth/action/internal/wire"
)

// maxKeysFile bounds a file of keys, in bytes.
const maxKeysFile = 64 << 10

// pinnedKeys reads each file in a list of keys and files, and gives the keys, in
// order and separated by spaces. A word with a slash or a dot in it is a file's name,
// relative to where the program runs: no key has either, so a key that was misspelt
// is never looked for on the disk.
func pinnedKeys(list string) (string, error) {
	var all []string
	for _, word := range keys(list) {
		if !strings.ContainsAny(word, "/.") {
			all = append(all, word)
			continue
		}
		found, err := readKeys(word)
		if err != nil {
			return "", fmt.Errorf("%q: %w", wire.Clean(word, 200), err)
		}
		for _, key := range found {
			if slices.Contains(all, key) {
				return "", fmt.Errorf("%q: %s stands there twice, or is named beside the file", wire.Clean(word, 200), key)
			}
			all = append(all, key)
		}
	}
	return strings.Join(all, " "), nil
}

// readKeys reads one file: on each line a signing key, perhaps a name after it for
// people to read, and a comment from # on.
func readKeys(path string) ([]string, error) {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("there is no such file; name it as it is seen from where this runs, and check the repository out first")
	}
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // a pipe would be waited for, for ever
		return nil, errors.New("it is not a file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeysFile+1))
	if err != nil {
		return nil, err
	}
	return parseKeys(data)
}

func parseKeys(data []byte) (list []string, err error) {
	if len(data) > maxKeysFile || !utf8.Valid(data) {
		return nil, fmt.Errorf("it has more than %d bytes, or is no text", maxKeysFile)
	}
	for n, line := range strings.Split(string(data), "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		// Strictly: a line that is skipped is somebody whose answer does not count,
		// and nobody knows why.
		if err := wire.CheckSigningKey(words[0]); err != nil {
			return nil, fmt.Errorf("line %d begins with %q, which is %s; `cfa-responder keys` prints it", n+1, wire.Clean(words[0], 60), plain(err))
		}
		if slices.Contains(list, words[0]) {
			return nil, fmt.Errorf("line %d: %s stands there twice", n+1, words[0])
		}
		list = append(list, words[0])
	}
	if len(list) == 0 {
		// Somebody meant to pin: an empty file must not let every key answer.
		return nil, errors.New("it holds no key")
	}
	return list, nil
}
