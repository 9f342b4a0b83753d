package wire

// Another version of the protocol. Its messages may have fields and shapes that
// this one does not know, so the version is looked for before a message is called
// malformed: "upgrade" is something that a reader can act on.

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// VersionError says that something came in a version that is not [Version]. It
// wraps [ErrVersion].
type VersionError struct{ Got int }

func (e *VersionError) Error() string {
	which := "upgrade this program"
	if e.OtherIsOlder() {
		which = "upgrade the other side"
	}
	return fmt.Sprintf("%v %d: this program speaks version %d; %s", ErrVersion, e.Got, Version, which)
}

func (e *VersionError) Unwrap() error { return ErrVersion }

// OtherIsOlder says which of the two sides must be upgraded.
func (e *VersionError) OtherIsOlder() bool { return e.Got < Version }

// CheckVersion refuses any version but this one.
func CheckVersion(v int) error {
	if v == Version {
		return nil
	}
	return &VersionError{v}
}

// CheckAudience refuses an ID token's audience that is one of this protocol's, but
// of another version. Whose it is, and for whom, is for others to check.
func CheckAudience(aud string) error {
	rest, ours := strings.CutPrefix(aud, "cfa:v")
	number, _, whole := strings.Cut(rest, ":")
	v, err := strconv.Atoi(number)
	if !ours || !whole || err != nil || strconv.Itoa(v) != number || v < 0 {
		return nil
	}
	return CheckVersion(v)
}

// foreign says whether what does not decode is of another version: the `v` of a
// reply or an envelope, or of an envelope in a message. Nothing else of it is read,
// and what it finds makes one refusal into another, never into a message.
func foreign(data []byte) error {
	var top map[string]json.RawMessage
	if json.Unmarshal(data, &top) != nil {
		return nil
	}
	if err := foreignIn(top); err != nil {
		return err
	}
	for _, field := range top {
		var inner map[string]json.RawMessage
		if json.Unmarshal(field, &inner) != nil || inner["sig"] == nil {
			continue
		}
		if err := foreignIn(inner); err != nil {
			return err
		}
	}
	return nil
}

func foreignIn(object map[string]json.RawMessage) error {
	var v int
	if object["v"] == nil || json.Unmarshal(object["v"], &v) != nil {
		return nil
	}
	return CheckVersion(v)
}
