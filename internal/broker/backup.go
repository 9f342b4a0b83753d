package broker

// A backup of the record and its way back. A backup is the record as audit reads
// it: a stream that only grows is consistent up to any of its sequences, whatever
// goes on meanwhile.
//
// What is restored is the record and not the work: what was open is ended, since
// nobody knows what came of it, and what is not in the backup is not taken for
// something that never was. See [Relay.notForgotten] and [store.claimToken].

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/audit"
	"github.com/continuousauth/action/internal/lifecycle"
)

// Backup writes the record of the relay with this configuration to w: through the
// relay if it runs, else from its store. direct says that none runs.
func Backup(ctx context.Context, c *Config, w io.Writer, now time.Time) (h audit.Head, sum string, direct bool, err error) {
	a, err := OpenAudit(ctx, c, AuditQuery{})
	if err != nil {
		return h, "", false, err
	}
	defer a.Close()
	x := a.Extent
	if x.Format > storeFormat {
		return h, "", a.Direct, fmt.Errorf("%w (format %d, known %d)", ErrNewerStore, x.Format, storeFormat)
	}
	h = audit.Head{V: audit.BackupVersion, Format: x.Format, Relay: x.Relay, Stream: x.Stream, Created: x.Created, Made: now.UnixMilli(), Restored: x.Restored, Keep: x.Keep, First: x.First, Last: x.Last, Count: x.Last + 1 - x.First}
	out, err := audit.NewBackupWriter(w, h)
	if err != nil {
		return h, "", a.Direct, err
	}
	for {
		m, err := a.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = out.Add(m)
		}
		if err != nil {
			return h, "", a.Direct, err
		}
	}
	sum, err = out.Close()
	return h, sum, a.Direct, err
}

// RestoreOptions say what of a backup is taken.
type RestoreOptions struct {
	Names []string // other names than the file's that the relay had
	Keys  []string // signing keys that were enrolled once and are not in the file any more
	Check bool     // only check the backup
	Now   func() time.Time
}

// Restored is what was restored, or checked.
type Restored struct {
	Head     audit.Head
	Sum      string
	Requests int
	Ended    int // requests that were open
}

// NotSoundError says that what a backup holds is not as a relay wrote it.
type NotSoundError struct {
	Problems []audit.Problem
	Wrong    int
}

func (e *NotSoundError) Error() string {
	return fmt.Sprintf("the record in the backup is not as it should be: %s; nothing was written", count(e.Wrong, "problem"))
}

// ErrNotEmpty says that there is a record already.
var ErrNotEmpty = errors.New("there is a record already, and none is overwritten")

// waiting is a request that is open in a backup.
type waiting struct {
	rec  lifecycle.Record
	seq  uint64
	hash string
}

// inspected is what a backup holds, after all of it was read.
type inspected struct {
	Restored
	open  map[string]waiting
	note  string // the hash of the last restore's note; "": there is none
	bytes int64  // as the store counts them, about
}

// messageOverhead is what the store takes for a message beside subject and data:
// its frame, and the header that it is restored with.
const messageOverhead = 96

// Restore makes the record of the relay with this configuration from the backup
// in f, where there is none. The backup is read to its end, and verified as audit
// verify does, before anything is written.
func Restore(ctx context.Context, c *Config, f io.ReadSeeker, o RestoreOptions) (*Restored, error) {
	b, err := checkBackup(c, f, o)
	if err != nil || o.Check {
		return &b.Restored, err
	}
	if b.bytes > c.Limits.Store {
		return nil, fmt.Errorf("the record in the backup takes about %d bytes, and limits.store lets it have %d: raise it", b.bytes, c.Limits.Store)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if !locks {
		return nil, errors.New("on this system nothing keeps a relay from starting meanwhile, so nothing is restored here; restore on another, and move the data directory")
	}
	// As root it would go well, and the relay could not open what is root's.
	if err := ownDirectory(c.Data); err != nil {
		return nil, err
	}
	release, err := hold(c.Data)
	if err != nil {
		return nil, fmt.Errorf("%w; end it first (with an external NATS server, every relay that joins it)", err)
	}
	defer release()
	if c.NATS != nil {
		n, err := joinNetwork(ctx, c, slog.New(slog.DiscardHandler))
		if err != nil {
			return nil, err
		}
		defer n.close()
		js, err := jetstream.New(n.store)
		if err != nil {
			return nil, err
		}
		if err := b.write(ctx, js, c, f, o.Now()); err != nil {
			return nil, err
		}
		return &b.Restored, finish(ctx, js, c, o.Now)
	}
	dir := filepath.Join(c.Data, "store")
	// Not synced message by message, which would take an hour for what can be done
	// in a minute: until all of it is on the disk, the store says that it is not
	// whole.
	js, closeStore, err := serveStore(dir, false)
	if err != nil {
		return nil, err
	}
	err = b.write(ctx, js, c, f, o.Now())
	closeStore()
	if err == nil {
		err = syncTree(c.Data)
	}
	if err != nil {
		return nil, err
	}
	js, closeStore, err = serveStore(dir, true)
	if err != nil {
		return nil, err
	}
	defer closeStore()
	return &b.Restored, finish(ctx, js, c, o.Now)
}

// checkBackup reads all of a backup and writes nothing.
func checkBackup(c *Config, f io.Reader, o RestoreOptions) (*inspected, error) {
	b := &inspected{open: map[string]waiting{}}
	in, err := audit.NewBackupReader(f)
	if err != nil {
		return b, err
	}
	h := in.Head
	b.Head = h
	switch {
	case h.Format > storeFormat:
		return b, fmt.Errorf("%w (the backup is of a store of format %d, known %d)", ErrNewerStore, h.Format, storeFormat)
	case h.Stream != streamName:
		return b, fmt.Errorf("the backup is of a stream %q, which no relay has", h.Stream)
	case h.Relay != c.Host && !slices.Contains(o.Names, h.Relay):
		return b, fmt.Errorf("the backup is of the relay %q, and `host` in the file is %q; if the relay had that name once, say so with --former-name", h.Relay, c.Host)
	}
	v := audit.NewVerifier(audit.Extent{Stream: h.Stream, Relay: c.Host, First: h.First, Last: h.Last, Keep: h.Keep}, func(project, key string) bool {
		return c.Enrolled(project, key) || slices.Contains(o.Keys, key)
	})
	v.Former = o.Names
	for {
		m, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return b, err
		}
		v.Add(m)
		b.bytes += int64(len(m.Data)+len(m.Subject)) + messageOverhead
		if m.Subject == audit.RestoredSubject {
			b.note = lifecycle.Hash(m.Data)
		}
		key, ok := strings.CutPrefix(m.Subject, requestPrefix)
		if !ok {
			continue
		}
		rec, err := lifecycle.Decode(m.Data)
		switch {
		case err != nil: // the Verifier has said so
		case rec.State.Final():
			delete(b.open, key)
		default:
			b.open[key] = waiting{rec, m.Seq, lifecycle.Hash(m.Data)}
		}
	}
	v.End()
	b.Sum, b.Requests, b.Ended = in.Sum, v.Requests, len(b.open)
	if v.Wrong > 0 {
		return b, &NotSoundError{v.Problems, v.Wrong}
	}
	return b, nil
}

// write puts the backup into a stream that says of itself that it is not whole.
func (b *inspected) write(ctx context.Context, js jetstream.JetStream, c *Config, f io.Reader, now time.Time) (err error) {
	if err := emptied(ctx, js); err != nil {
		return err
	}
	// Later than any restore before, whatever the clock says: what clients were
	// told goes on from there, see store.rev.
	at := max(now.UnixMilli(), b.Head.Restored+time.Second.Milliseconds())
	config := streamConfig(c)
	config.FirstSeq = b.Head.First
	config.Metadata = mark{format: b.Head.Format, restored: at, restoring: b.Sum}.in(nil)
	if _, err := js.CreateStream(ctx, config); err != nil {
		return fmt.Errorf("make the stream: %w", noRoom(err, c))
	}
	defer func() {
		if err == nil {
			return
		}
		// A relay would refuse it in any case, and the next restore remove it.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if gone := js.DeleteStream(ctx, streamName); gone != nil {
			err = fmt.Errorf("%w (and what was written is still there, as something that is not whole: %w)", err, gone)
		}
	}()
	in, err := audit.NewBackupReader(f)
	if err != nil {
		return err
	}
	p := &pouring{js: js, next: b.Head.First}
	for {
		m, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = p.put(ctx, m.Subject, m.Data, nats.Header{takenHeader: {m.Time.Format(time.RFC3339Nano)}})
		}
		if err != nil {
			return err
		}
	}
	if in.Sum != b.Sum {
		return errors.New("the backup was changed while it was restored")
	}
	note := lifecycle.Note{V: lifecycle.Version, Op: operationID(), Prev: b.note, At: at, About: lifecycle.AboutRestored, Name: b.Sum, Until: b.Head.Made,
		Why: fmt.Sprintf("sequences %d to %d of the relay %s", b.Head.First, b.Head.Last, b.Head.Relay)}
	data, err := note.Encode()
	if err != nil {
		return err
	}
	if err := p.put(ctx, audit.RestoredSubject, data, nil); err != nil {
		return err
	}
	for _, w := range slices.SortedFunc(maps.Values(b.open), func(a, b waiting) int { return cmp.Compare(a.seq, b.seq) }) {
		next, err := lifecycle.Apply(&w.rec, lifecycle.Restored{}, time.UnixMilli(at))
		if err != nil {
			return fmt.Errorf("end the request %s: %w", w.rec.Key, err)
		}
		data, err := next.After(w.hash, operationID()).Encode()
		if err != nil {
			return fmt.Errorf("end the request %s: %w", w.rec.Key, err)
		}
		if err := p.put(ctx, requestPrefix+w.rec.Key, data, nil); err != nil {
			return err
		}
	}
	return p.flush(ctx)
}

// emptied removes what a restore has left that did not end, or a stream that was
// never used. A record is never removed.
func emptied(ctx context.Context, js jetstream.JetStream) error {
	stream, err := js.Stream(ctx, streamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	info := stream.CachedInfo()
	m, err := markOf(info.Config.Metadata)
	if err != nil {
		return err
	}
	if m.restoring == "" && info.State.LastSeq > 0 {
		return fmt.Errorf("%w: sequences %d to %d; if it is damaged or unwanted, put the directory `store` in the relay's `data` elsewhere (of an external NATS server, remove the stream %s)", ErrNotEmpty, info.State.FirstSeq, info.State.LastSeq, streamName)
	}
	return js.DeleteStream(ctx, streamName)
}

// pouring writes messages one after the other, many on their way at once.
type pouring struct {
	js   jetstream.JetStream
	next uint64
	sent []jetstream.PubAckFuture
	from uint64 // the sequence of the first of them
}

// pouringMost is how many are on their way at once.
const pouringMost = 128

// put writes a message that must become the next sequence. Whoever else writes
// into the stream makes that fail.
func (p *pouring) put(ctx context.Context, subject string, data []byte, h nats.Header) error {
	if len(p.sent) == 0 {
		p.from = p.next
	}
	f, err := p.js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: data, Header: h}, jetstream.WithExpectLastSequence(p.next-1), jetstream.WithRetryAttempts(0))
	if err != nil {
		return fmt.Errorf("write sequence %d: %w", p.next, err)
	}
	p.sent = append(p.sent, f)
	if p.next++; len(p.sent) < pouringMost {
		return nil
	}
	return p.flush(ctx)
}

// flush waits until what is on its way is written.
func (p *pouring) flush(ctx context.Context) error {
	for i, f := range p.sent {
		seq := p.from + uint64(i)
		select {
		case ack := <-f.Ok():
			if ack.Sequence != seq {
				return fmt.Errorf("sequence %d was written as %d: does somebody else write into the stream?", seq, ack.Sequence)
			}
		case err := <-f.Err():
			return fmt.Errorf("write sequence %d: %w (is the disk full, or does a relay run that writes into the stream?)", seq, err)
		case <-time.After(appendWithin):
			return fmt.Errorf("write sequence %d: the store does not answer", seq)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	p.sent = p.sent[:0]
	return nil
}

// appendWithin bounds the wait for one message to be written.
const appendWithin = 30 * time.Second

// finish upgrades what was restored, and says that it is whole.
func finish(ctx context.Context, js jetstream.JetStream, c *Config, now func() time.Time) error {
	stream, err := js.Stream(ctx, streamName)
	if err != nil {
		return err
	}
	have := stream.CachedInfo().Config
	m, err := markOf(have.Metadata)
	if err != nil {
		return err
	}
	m.restoring = ""
	config := streamConfig(c)
	config.FirstSeq, config.Metadata = have.FirstSeq, have.Metadata
	for ; m.format < storeFormat; m.format++ {
		if err := upgrades[m.format](ctx, stream); err != nil {
			return fmt.Errorf("upgrade from format %d: %w", m.format, err)
		}
	}
	config.Metadata = m.in(have.Metadata)
	if _, err = js.UpdateStream(ctx, config); err != nil {
		return err
	}
	// A request says in whole seconds when it was made: of this second none is taken.
	// It is over when this is, so that whoever asks from then on is heard.
	return pause(ctx, min(time.Second, time.UnixMilli(m.restored).Truncate(time.Second).Add(time.Second).Sub(now())))
}

// syncTree has everything below dir on the disk.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.IsDir() && !d.Type().IsRegular() {
			return nil // the socket of a relay that was killed
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}
