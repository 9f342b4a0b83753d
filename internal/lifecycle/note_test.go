package lifecycle

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

func notes() map[string]Note {
	hash := strings.Repeat("ab", 32)
	base := Note{V: Version, Op: "op1", At: 1, Name: "x"}
	with := func(change func(*Note)) Note { n := base; change(&n); return n }
	return map[string]Note{
		"away": with(func(n *Note) {
			n.About, n.Name, n.Key, n.Person, n.Until, n.Envelope = AboutAway, "AKEY", "AKEY", "Ana", 5, json.RawMessage(`{"v":1}`)
		}),
		"back": with(func(n *Note) {
			n.About, n.Name, n.Key, n.Until, n.Envelope, n.Prev = AboutAway, "AKEY", "AKEY", 1, json.RawMessage(`{"v":1}`), hash
		}),
		"pause": with(func(n *Note) {
			n.About, n.Name, n.Why, n.Prev = AboutPause, "rocket/ci[0]", "not started by me <b>", hash
		}),
		"enrol": with(func(n *Note) {
			n.About, n.Name, n.Key, n.Connect, n.Person = AboutEnrolment, "rocket", "AKEY", "UKEY", "Ana"
			n.Envelope = json.RawMessage(`{"v":1}`)
		}),
		"removed": with(func(n *Note) {
			n.About, n.Name, n.Key, n.Connect, n.Person, n.Until = AboutEnrolment, "rocket", "AKEY", "UKEY", "Ana", 1
			n.Envelope = json.RawMessage(`{"v":1}`)
		}),
		"invited": with(func(n *Note) {
			n.About, n.Name, n.Person, n.Project, n.Until = AboutInvitation, "IKEY", "Ana", "rocket", 5
		}),
		"joined": with(func(n *Note) {
			n.About, n.Name, n.Person, n.Project, n.Until, n.Key, n.Connect = AboutInvitation, "IKEY", "Ana", "rocket", 9, "AKEY", "UKEY"
			n.Envelope, n.Prev = json.RawMessage(`{"v":1}`), hash
		}),
		"declined": with(func(n *Note) {
			n.About, n.Name, n.Key, n.Person, n.Why = AboutDeclined, "1/77/1", "UKEY", "Ana", "not today"
		}),
		"restored": with(func(n *Note) {
			n.About, n.Name, n.Until, n.Why = AboutRestored, hash, 5, "sequences 1 to 7"
		}),
		"dropped": with(func(n *Note) { n.About, n.Name, n.Key = AboutDropped, "state", "UKEY" }),
		"token": with(func(n *Note) {
			n.About, n.Name, n.Key, n.Envelope = AboutToken, hash, "UKEY", json.RawMessage(`{"v":1}`)
		}),
	}
}

func TestANoteHasOneForm(t *testing.T) {
	t.Parallel()
	for name, n := range notes() {
		data, err := n.Encode()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		back, err := DecodeNote(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		again, err := back.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%s: %v, %s then %s", name, err, data, again)
		}
		for _, other := range []string{string(data) + " ", " " + string(data), strings.Replace(string(data), `"v":1`, `"V":1`, 1), strings.Replace(string(data), `"at":1`, `"at":1,"at":1`, 1), strings.Replace(string(data), `"at":1`, `"at":1,"code":"1"`, 1)} {
			if _, err := DecodeNote([]byte(other)); !errors.Is(err, ErrRecord) {
				t.Errorf("%s is read: %v", other, err)
			}
		}
		if _, err := DecodeNote(bytes.Replace(data, []byte(`"v":1`), []byte(`"v":2`), 1)); !errors.Is(err, ErrVersion) {
			t.Errorf("%s of a later format: %v", name, err)
		}
	}
}

func TestAnUnsoundNoteIsNotWritten(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Note){
		"no operation":         func(n *Note) { n.Op = "" },
		"no time":              func(n *Note) { n.At = 0 },
		"about nothing":        func(n *Note) { n.About = "" },
		"no name":              func(n *Note) { n.Name = "" },
		"a control character":  func(n *Note) { n.Why = "a\x1bb" },
		"a token without hash": func(n *Note) { n.About, n.Name = AboutToken, "x" },
		"declined, by nothing": func(n *Note) { n.About, n.Key = AboutDeclined, "" },
		"a token without key":  func(n *Note) { n.About, n.Key = AboutToken, "" },
		"away without an end":  func(n *Note) { *n = notes()["away"]; n.Until = 0 },
		"away, ended before":   func(n *Note) { *n = notes()["away"]; n.At = 6 },
		"away, by another key": func(n *Note) { *n = notes()["away"]; n.Name = "BKEY" },
		"away, unsigned":       func(n *Note) { *n = notes()["away"]; n.Envelope = nil },
		"restored, from what":  func(n *Note) { n.About, n.Name, n.Until = AboutRestored, "x", 5 },
		"restored, of no time": func(n *Note) { n.About = AboutRestored },
		"enrolled, no name":    func(n *Note) { *n = notes()["enrol"]; n.Person = "" },
		"enrolled, unsigned":   func(n *Note) { *n = notes()["enrol"]; n.Envelope = nil },
		"enrolled for a while": func(n *Note) { *n = notes()["enrol"]; n.Until = 5 },
		"invited to nothing":   func(n *Note) { *n = notes()["invited"]; n.Project = "" },
		"invited nobody":       func(n *Note) { *n = notes()["invited"]; n.Person = "" },
		"invited, ended":       func(n *Note) { *n = notes()["invited"]; n.At = 6 },
		"joined without a key": func(n *Note) { *n = notes()["joined"]; n.Connect = "" },
		"joined, unsigned":     func(n *Note) { *n = notes()["joined"]; n.Envelope = nil },
		"a project too many":   func(n *Note) { *n = notes()["enrol"]; n.Project = "boat" },
		"an envelope, no JSON": func(n *Note) { n.Envelope = json.RawMessage("x") },
		"too large":            func(n *Note) { n.Envelope = json.RawMessage(`{"x":"` + strings.Repeat("x", MaxNote) + `"}`) },
	} {
		n := notes()["token"]
		change(&n)
		if _, err := n.Encode(); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzDecodeNote(f *testing.F) {
	for _, n := range notes() {
		data, err := n.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := DecodeNote(data)
		if err != nil {
			return
		}
		again, err := n.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%q is read, and written as %q (%v)", data, again, err)
		}
	})
}
