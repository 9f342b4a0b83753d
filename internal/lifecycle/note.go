// What is recorded beside the requests, in the same stream: each note has a subject of its own, and the last one on it
// counts, as with a request's records.

package lifecycle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"
)

// About says what a note is about.
type About string

// What notes are about, and what their Name is.
const (
	AboutAway  About = "away"  // a responder is away until a time, or is back (Until is At); Name: its signing key
	AboutPause About = "pause" // a workflow's requests are paused until an administrator lifts it; Name: the rule or workflow
	// A responder was enrolled for a project, or removed (Until is At); Name: project, Envelope: what it proved. The
	// same once more is written before the one before has aged out.
	AboutEnrolment About = "enrolment"
	// Somebody was invited, has joined (Key, Connect and Envelope are there), or was turned away (Until is At); Name:
	// the invitation's key.
	AboutInvitation About = "invitation"
	AboutToken      About = "token"    // an unbound ID token was used, by this key and by no other; Name: the token's hash
	AboutDeclined   About = "declined" // a human has declined what a run of a CI asked; Name: the run, Key: the request's, Person: who
	AboutRestored   About = "restored" // the record was restored from a backup; Name: the SHA-256 that ends it, Until: when it was made, Why: what it reaches to
	AboutDropped    About = "dropped"  // a client's message was dropped, because its reply was to go into another's inbox; Name: its verb, Key: the client's
)

// MaxNote bounds an encoded note, in bytes.
const MaxNote = 8 << 10

// Note is one such record. Its JSON is the stream's format.
type Note struct {
	V        int             `json:"v"`    // Version
	Op       string          `json:"op"`   // id of this append, as Record.Op
	Prev     string          `json:"prev"` // Hash of the note before on this subject; "" for the first
	At       int64           `json:"at"`   // the writing relay's time, unix milliseconds
	About    About           `json:"about"`
	Name     string          `json:"name"`               // whom or what it is about
	Key      string          `json:"key,omitempty"`      // the key it is of: a job's, a responder's signing key
	Connect  string          `json:"connect,omitempty"`  // enrolment, invitation: the responder's connecting key
	Person   string          `json:"person,omitempty"`   // away, enrolment, invitation: the responder's name
	Project  string          `json:"project,omitempty"`  // invitation: that it is for
	Until    int64           `json:"until,omitempty"`    // unix milliseconds; 0: until it is taken back
	Why      string          `json:"why,omitempty"`      // a person's reason
	Envelope json.RawMessage `json:"envelope,omitempty"` // the signed envelope that caused it, where somebody signed one
}

func (n Note) sound() error {
	switch {
	case n.V != Version:
		return fmt.Errorf("version is not %d", Version)
	case !isID(n.Op), n.Prev != "" && !isHash(n.Prev):
		return errors.New("op is not an id, or prev is not a hash")
	case n.At <= 0 || n.Until < 0:
		return errors.New("time is missing or negative")
	case !slices.Contains([]About{AboutAway, AboutPause, AboutEnrolment, AboutInvitation, AboutToken, AboutDeclined, AboutDropped, AboutRestored}, n.About):
		return errors.New("about something unknown")
	case !isText(n.Name, 1, maxText) || !isText(n.Person, 0, MaxName) || !isText(n.Project, 0, maxWord) || !isText(n.Why, 0, MaxWhy):
		return errors.New("name, person or reason is missing, too long or not plain text")
	case n.Key != "" && !isID(n.Key), n.Connect != "" && !isID(n.Connect):
		return errors.New("malformed key")
	case n.Envelope != nil && !isObject(n.Envelope, MaxNote/2):
		return errors.New("the envelope is too large or not a JSON object")
	case n.About == AboutToken && (!isHash(n.Name) || n.Key == ""):
		return errors.New("a token's note holds its hash and the key that used it")
	case n.About == AboutDeclined && n.Key == "":
		return errors.New("a declined run's note holds the key of the request, whose record has the signed decline")
	case n.About == AboutDropped && n.Key == "":
		return errors.New("a dropped message's note holds the key that sent it")
	case n.About == AboutRestored && (!isHash(n.Name) || n.Until == 0):
		return errors.New("a restore's note holds the backup's hash and when it was made")
	case n.About == AboutEnrolment && (n.Key == "" || n.Connect == "" || n.Person == "" || n.Envelope == nil || n.Until != 0 && n.Until != n.At):
		return errors.New("an enrolment's note holds both keys, a name, and what its responder signed, and ends when it is written or not at all")
	case n.About == AboutInvitation && (!isID(n.Name) || n.Person == "" || n.Project == "" || n.Until < n.At):
		return errors.New("an invitation's note holds its key, a name, a project and its end")
	case n.About == AboutInvitation && ((n.Key == "") != (n.Envelope == nil) || (n.Connect == "") != (n.Envelope == nil)):
		return errors.New("an invitation's note holds both keys and what their holder signed, or none of these")
	case n.About != AboutInvitation && n.Project != "":
		return errors.New("only an invitation's note holds a project beside its name")
	case n.About == AboutAway && (n.Key == "" || n.Name != n.Key || n.Until < n.At || n.Envelope == nil):
		return errors.New("an absence's note holds the key, its end, and what the responder signed")
	}
	return nil
}

// Encode gives the note's one form, as Record.Encode does.
func (n Note) Encode() ([]byte, error) {
	if err := n.sound(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(n); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	out := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if len(out) > MaxNote {
		return nil, ErrTooLarge
	}
	return out, nil
}

// DecodeNote reads what Encode wrote, and nothing else.
func DecodeNote(data []byte) (Note, error) {
	if len(data) > MaxNote {
		return Note{}, ErrTooLarge
	}
	if !utf8.Valid(data) {
		return Note{}, fmt.Errorf("%w: not UTF-8", ErrRecord)
	}
	var head struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Note{}, fmt.Errorf("%w: not a JSON record with a version", ErrRecord)
	}
	if head.V > Version {
		return Note{}, fmt.Errorf("%w (format %d, known %d)", ErrVersion, head.V, Version)
	}
	var n Note
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&n); err != nil {
		return Note{}, fmt.Errorf("%w: not a note", ErrRecord)
	}
	again, err := n.Encode()
	if err != nil {
		return Note{}, err
	}
	if !bytes.Equal(again, data) {
		return Note{}, fmt.Errorf("%w: not in the one form that a note has", ErrRecord)
	}
	return n, nil
}
