package audit

// A backup: all of a record in one file, from which the record can be made again,
// with the same sequences, so that what a checkpoint said of it stays so.
//
// The file is one gzip member. What is in it begins with a line, the [Head]; each
// message is a line that says where it stood, then its bytes as they were, then a
// line feed; and the last line has the SHA-256 of everything before it. So a
// backup can be read with zcat by whoever has lost everything else.
//
// The hash finds damage. It proves nothing, since whoever can change the file can
// hash it too: what the messages are worth, the [Verifier] says.

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

const (
	// BackupVersion of the file's format, in Head.V.
	BackupVersion = 1
	// backupLine bounds a line: a head with the longest name of a relay.
	backupLine = 4 << 10
	maxSubject = 256
)

// gzipHead is how the gzip member begins: no name, no time, no system, which are
// no part of a backup and would be room to hide a change in.
var gzipHead = []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}

var (
	// ErrBackup says that a file is not what a backup was written as.
	ErrBackup = errors.New("damaged backup")
	// ErrIncomplete says that a store lacks messages, so that there is no backup of
	// it from which they could get their sequences back.
	ErrIncomplete = errors.New("no backup can be made of that; see what audit verify says of it, and keep a copy of the directory that it is in")
	// ErrBackupVersion says that a newer program wrote it.
	ErrBackupVersion = errors.New("this backup was written by a newer cfa-relay: upgrade this one to read it")
)

// Head says what a backup is of.
type Head struct {
	V        int       `json:"cfa-backup"`         // BackupVersion
	Format   int       `json:"format"`             // of the store
	Relay    string    `json:"relay"`              // its name
	Stream   string    `json:"stream"`             // its name
	Created  time.Time `json:"created"`            // when the stream was made
	Made     int64     `json:"made"`               // when the backup was, unix milliseconds
	Restored int64     `json:"restored,omitempty"` // when the stream was itself restored from a backup, unix milliseconds; 0: never
	Keep     int64     `json:"keep"`               // for how long messages were kept, in seconds
	First    uint64    `json:"first"`              // the oldest sequence
	Last     uint64    `json:"last"`               // the newest; First-1: there is none
	Count    uint64    `json:"count"`              // how many messages follow: one for each sequence
}

func (h Head) check() error {
	switch {
	case h.V != BackupVersion:
		return fmt.Errorf("%w: its format is not %d", ErrBackup, BackupVersion)
	case h.Format < 0 || h.Made <= 0 || h.Restored < 0 || h.Keep < 0 || h.Created.Location() != time.UTC:
		return fmt.Errorf("%w: its head has a format or a time that there cannot be", ErrBackup)
	case !plainWord(h.Relay, 253) || !plainWord(h.Stream, 64):
		return fmt.Errorf("%w: its head names no relay or no stream", ErrBackup)
	case h.First < 1 || h.Last < h.First-1 || h.Last > 1<<62 || h.Count != h.Last+1-h.First:
		return fmt.Errorf("%w: the sequences of its head make no sense", ErrBackup)
	}
	return nil
}

// place is the line before a message.
type place struct {
	Seq     uint64    `json:"seq"`
	Subject string    `json:"subject"`
	Time    time.Time `json:"time"` // when the store took it
	Size    int       `json:"size"` // bytes of the message
}

func (p place) check(seq uint64) error {
	switch {
	case p.Seq != seq:
		return fmt.Errorf("%w: sequence %d stands where %d belongs", ErrBackup, p.Seq, seq)
	case !strings.HasPrefix(p.Subject, Prefix) || !plainWord(p.Subject, maxSubject) || strings.ContainsAny(p.Subject, "*>") || strings.Contains(p.Subject+".", ".."):
		return fmt.Errorf("%w: sequence %d has a subject that no record has", ErrBackup, seq)
	case p.Time.Location() != time.UTC:
		return fmt.Errorf("%w: the time of sequence %d is not in UTC", ErrBackup, seq)
	case p.Size < 0 || p.Size > MaxMessage:
		return fmt.Errorf("%w: sequence %d has more than %d bytes", ErrBackup, seq, MaxMessage)
	}
	return nil
}

// plainWord: ASCII without spaces, which is what names and subjects are made of.
func plainWord(s string, most int) bool {
	return s != "" && len(s) <= most && strings.IndexFunc(s, func(c rune) bool { return c <= ' ' || c > '~' }) < 0
}

// tail is the last line.
type tail struct {
	SHA256 string `json:"sha256"` // hex, of all before this line
}

// line gives the one form of a line.
func line(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return b.Bytes(), err
}

// BackupWriter writes a backup, message by message.
type BackupWriter struct {
	out  io.WriteCloser
	sum  hash.Hash
	next uint64
	last uint64
}

// NewBackupWriter writes h. What it is given to write to is left open.
func NewBackupWriter(w io.Writer, h Head) (*BackupWriter, error) {
	return writePlain(gzip.NewWriter(w), h)
}

// writePlain writes what is compressed in a backup.
func writePlain(w io.WriteCloser, h Head) (*BackupWriter, error) {
	h.V, h.Created, h.Count = BackupVersion, h.Created.UTC(), h.Last+1-h.First
	if err := h.check(); err != nil {
		return nil, err
	}
	b := &BackupWriter{out: w, sum: sha256.New(), next: h.First, last: h.Last}
	data, err := line(h)
	if err != nil {
		return nil, err
	}
	return b, b.write(data)
}

func (b *BackupWriter) write(parts ...[]byte) error {
	for _, p := range parts {
		b.sum.Write(p) // never fails
		if _, err := b.out.Write(p); err != nil {
			return err
		}
	}
	return nil
}

// Add writes the next message. None can be left out.
func (b *BackupWriter) Add(m Message) error {
	if m.Seq > b.next && b.next <= b.last {
		return fmt.Errorf("%s missing in the store: %w", sequences(b.next, m.Seq-1), ErrIncomplete)
	}
	p := place{m.Seq, m.Subject, m.Time.UTC(), len(m.Data)}
	if b.next > b.last {
		return fmt.Errorf("sequence %d is more than the store said that it holds: %w", m.Seq, ErrIncomplete)
	}
	if err := p.check(b.next); err != nil {
		return fmt.Errorf("the store holds what no backup can: %w", err)
	}
	data, err := line(p)
	if err != nil {
		return err
	}
	b.next++
	return b.write(data, m.Data, []byte{'\n'})
}

// Close writes the end, and gives the hash in it.
func (b *BackupWriter) Close() (string, error) {
	if b.next <= b.last {
		return "", fmt.Errorf("%s missing at the store's end: %w", sequences(b.next, b.last), ErrIncomplete)
	}
	sum := hex.EncodeToString(b.sum.Sum(nil))
	data, err := line(tail{sum})
	if err != nil {
		return "", err
	}
	return sum, errors.Join(b.write(data), b.out.Close())
}

// BackupReader reads a backup, message by message. Nothing of it is to be believed
// before Next has given io.EOF.
type BackupReader struct {
	Head Head
	// Sum is the hash that ends the backup, once Next has given io.EOF.
	Sum string

	raw  *bufio.Reader // nil: what is read is not compressed
	in   *bufio.Reader
	sum  hash.Hash
	next uint64
}

// NewBackupReader reads the head.
func NewBackupReader(r io.Reader) (*BackupReader, error) {
	raw := bufio.NewReaderSize(r, 64<<10)
	head, err := raw.Peek(len(gzipHead))
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if !bytes.Equal(head, gzipHead) {
		return nil, fmt.Errorf("%w: it does not begin as one", ErrBackup)
	}
	gz, err := gzip.NewReader(raw)
	if err != nil {
		return nil, damaged(err)
	}
	gz.Multistream(false)
	b, err := readPlain(gz)
	if err != nil {
		return nil, err
	}
	b.raw = raw
	return b, nil
}

// readPlain reads what is compressed in a backup.
func readPlain(r io.Reader) (*BackupReader, error) {
	b := &BackupReader{in: bufio.NewReaderSize(r, backupLine), sum: sha256.New()}
	first, err := b.line()
	if err != nil {
		return nil, err
	}
	// The version first, and leniently: a later format may have anything else in it.
	var head struct {
		V int `json:"cfa-backup"`
	}
	if json.Unmarshal(first, &head) != nil || head.V < 1 {
		return nil, fmt.Errorf("%w: it has no head", ErrBackup)
	}
	if head.V > BackupVersion {
		return nil, fmt.Errorf("%w (format %d, known %d)", ErrBackupVersion, head.V, BackupVersion)
	}
	if err := strictly(first, &b.Head); err != nil {
		return nil, err
	}
	if err := b.Head.check(); err != nil {
		return nil, err
	}
	b.sum.Write(first)
	b.next = b.Head.First
	return b, nil
}

// strictly reads the one form of a line.
func strictly(data []byte, v any) error {
	if err := wire.Decode(data, backupLine, v); err != nil {
		return fmt.Errorf("%w: %w", ErrBackup, err)
	}
	again, err := line(v)
	if err != nil || !bytes.Equal(again, data) {
		return fmt.Errorf("%w: a line is not in the one form that it has", ErrBackup)
	}
	return nil
}

// damaged is an error of reading, where it says that the file is not whole.
func damaged(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it breaks off", ErrBackup)
	}
	return fmt.Errorf("%w: %w", ErrBackup, err)
}

// line is the next one, good until the next read.
func (b *BackupReader) line() ([]byte, error) {
	data, err := b.in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, fmt.Errorf("%w: a line has more than %d bytes", ErrBackup, backupLine)
	}
	if err != nil {
		return nil, damaged(err)
	}
	return data, nil
}

// Next is the next message; io.EOF where all were read and the end is good.
func (b *BackupReader) Next() (Message, error) {
	data, err := b.line()
	if err != nil {
		return Message{}, err
	}
	if b.next > b.Head.Last {
		return Message{}, b.end(data)
	}
	var p place
	if err := strictly(data, &p); err != nil {
		return Message{}, err
	}
	if err := p.check(b.next); err != nil {
		return Message{}, err
	}
	b.sum.Write(data)
	body := make([]byte, p.Size+1)
	if _, err := io.ReadFull(b.in, body); err != nil {
		return Message{}, damaged(err)
	}
	if body[p.Size] != '\n' {
		return Message{}, fmt.Errorf("%w: sequence %d does not end where it should", ErrBackup, p.Seq)
	}
	b.sum.Write(body)
	b.next++
	return Message{Seq: p.Seq, Subject: p.Subject, Time: p.Time, Data: body[:p.Size]}, nil
}

// end checks the last line, and that nothing follows.
func (b *BackupReader) end(data []byte) error {
	var t tail
	if err := strictly(data, &t); err != nil {
		return err
	}
	if sum := hex.EncodeToString(b.sum.Sum(nil)); t.SHA256 != sum {
		return fmt.Errorf("%w: its hash is not that of what it holds", ErrBackup)
	}
	// This also has gzip check its own sum and length.
	if _, err := b.in.ReadByte(); !errors.Is(err, io.EOF) {
		if err == nil {
			return fmt.Errorf("%w: something follows its end", ErrBackup)
		}
		return damaged(err)
	}
	if b.raw != nil {
		if _, err := b.raw.ReadByte(); !errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: something follows its end", ErrBackup)
		}
	}
	b.Sum = t.SHA256
	return io.EOF
}
