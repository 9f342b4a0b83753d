// What the relay refused, beside the requests in the same stream: each relay writes on subjects of its own, so that the
// records of each form a chain with no other writer in between.

package lifecycle

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// MaxRefusal bounds an encoded refusal, in bytes. A share of the store divided by it is how many may be kept.
const MaxRefusal = 2 << 10

// Limits of what a refusal says, in bytes; longer texts are cut.
const (
	maxRefusalWhy = 600
	maxWord       = 64
)

// Refusal is one "no" of the relay to a job or a responder. Its JSON is the stream's format. What it says of the
// sender is the sender's own word, unless it is a key that it has proved to hold.
type Refusal struct {
	V       int    `json:"v"`    // Version
	Op      string `json:"op"`   // id of this append, as Record.Op
	Prev    string `json:"prev"` // Hash of the refusal before on this subject; "" for the first
	At      int64  `json:"at"`   // the writing relay's time, unix milliseconds
	Code    string `json:"code"` // the protocol's word for why
	Verb    string `json:"verb"` // what was refused: connect, request, …
	Key     string `json:"key,omitempty"`
	Project string `json:"project,omitempty"` // that it asked for, or that its request is of
	Why     string `json:"why"`               // as the relay's log has it
	Left    int64  `json:"left,omitempty"`    // how many were left out since the one before, because there were too many
}

func (f Refusal) sound() error {
	switch {
	case f.V != Version:
		return fmt.Errorf("version is not %d", Version)
	case !isID(f.Op), f.Prev != "" && !isHash(f.Prev):
		return errors.New("op is not an id, or prev is not a hash")
	case f.At <= 0 || f.Left < 0:
		return errors.New("time is missing, or less than nothing was left out")
	case !isID(f.Code), f.Key != "" && !isID(f.Key):
		return errors.New("malformed code or key")
	case !isText(f.Verb, 1, maxWord) || !isText(f.Project, 0, maxWord) || !isText(f.Why, 0, maxRefusalWhy):
		return errors.New("verb, project or reason is missing, too long or not plain text")
	}
	return nil
}

// Cut returns f with its texts as long as they may be.
func (f Refusal) Cut() Refusal {
	f.Verb, f.Project, f.Why = plain(f.Verb, maxWord), plain(f.Project, maxWord), plain(f.Why, maxRefusalWhy)
	return f
}

// Encode gives the refusal's one form, as Record.Encode does.
func (f Refusal) Encode() ([]byte, error) {
	if err := f.sound(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(f); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRecord, err)
	}
	out := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	if len(out) > MaxRefusal {
		return nil, ErrTooLarge
	}
	return out, nil
}

// DecodeRefusal reads what Encode wrote, and nothing else.
func DecodeRefusal(data []byte) (Refusal, error) {
	if len(data) > MaxRefusal {
		return Refusal{}, ErrTooLarge
	}
	if !utf8.Valid(data) {
		return Refusal{}, fmt.Errorf("%w: not UTF-8", ErrRecord)
	}
	var head struct {
		V int `json:"v"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return Refusal{}, fmt.Errorf("%w: not a JSON record with a version", ErrRecord)
	}
	if head.V > Version {
		return Refusal{}, fmt.Errorf("%w (format %d, known %d)", ErrVersion, head.V, Version)
	}
	var f Refusal
	if err := json.Unmarshal(data, &f); err != nil {
		return Refusal{}, fmt.Errorf("%w: not a refusal", ErrRecord)
	}
	again, err := f.Encode()
	if err != nil {
		return Refusal{}, err
	}
	if !bytes.Equal(again, data) {
		return Refusal{}, fmt.Errorf("%w: not in the one form that a refusal has", ErrRecord)
	}
	return f, nil
}
