package broker

// The format of the store: what kinds of record a program must understand to go
// on with it. It stands in the stream's metadata, beside the stream's limits and
// not among its messages, which age out.
//
// A program upgrades an older store when it starts, and refuses a newer one
// before it has written anything. Within one format, relays of any versions serve
// one stream together, so that they can be replaced one after the other. Where a
// new version brings a new format, the first relay of it upgrades the store, and
// those that do not know it see that within a second and end: what they would
// append, or read, could mean something else by then. Records of the older
// format that they have appended until then are as readable as all before.

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// storeFormat is the one that this program writes.
//
//	0  as before there was a mark: no request ends as restored
//	1  the mark; requests and the record can be restored from a backup; responders
//	   are enrolled in the record, too
const storeFormat = 1

// upgrades has for each older format what makes the next one of it. A step is
// repeated where a relay ended in the middle of it, or two take it at once.
var upgrades = []func(context.Context, jetstream.Stream) error{
	0: func(context.Context, jetstream.Stream) error { return nil }, // the mark is all, and comes with the next update
}

// Keys of the stream's metadata.
const (
	formatKey    = "cfa-format"
	restoredKey  = "cfa-restored"  // when the record was restored from a backup, unix milliseconds
	restoringKey = "cfa-restoring" // the hash of the backup, while it is restored
)

var (
	// ErrNewerStore says that the store is of a format that this program does not
	// know. It has changed nothing.
	ErrNewerStore = errors.New("the store was written by a newer cfa-relay, and this one does not know its format: upgrade this one; there is no way back, except to restore a backup that is older than the upgrade")
	// ErrHalfRestored says that a restore of the store did not come to its end.
	ErrHalfRestored = errors.New("a restore of this store did not end, so it is not whole: run `cfa-relay restore` again")
)

// mark is what a stream's metadata says of it.
type mark struct {
	format    int
	restored  int64
	restoring string
}

// markOf reads it. What makes no sense is not guessed at.
func markOf(metadata map[string]string) (m mark, err error) {
	if s, ok := metadata[formatKey]; ok {
		if m.format, err = strconv.Atoi(s); err != nil || m.format < 1 {
			return mark{}, fmt.Errorf("the store says that its format is %q, which is none: was its stream edited?", s)
		}
	}
	if s, ok := metadata[restoredKey]; ok {
		if m.restored, err = strconv.ParseInt(s, 10, 64); err != nil || m.restored <= 0 {
			return mark{}, fmt.Errorf("the store says that it was restored at %q, which is no time: was its stream edited?", s)
		}
	}
	m.restoring = metadata[restoringKey]
	return m, nil
}

// usable says whether this program may go on with such a store.
func (m mark) usable(known int) error {
	switch {
	case m.format > known:
		return fmt.Errorf("%w (format %d, known %d)", ErrNewerStore, m.format, known)
	case m.restoring != "":
		return ErrHalfRestored
	}
	return nil
}

// in gives metadata with the mark in it. What others have put there stays.
func (m mark) in(metadata map[string]string) map[string]string {
	out := maps.Clone(metadata)
	if out == nil {
		out = map[string]string{}
	}
	for _, key := range []string{formatKey, restoredKey, restoringKey} {
		delete(out, key)
	}
	if m.format > 0 {
		out[formatKey] = strconv.Itoa(m.format)
	}
	if m.restored > 0 {
		out[restoredKey] = strconv.FormatInt(m.restored, 10)
	}
	if m.restoring != "" {
		out[restoringKey] = m.restoring
	}
	return out
}

// openStream opens the stream as config wants it, upgrading it to the format that
// has a step for each before it, or makes it.
func openStream(ctx context.Context, js jetstream.JetStream, config jetstream.StreamConfig, steps []func(context.Context, jetstream.Stream) error) (jetstream.Stream, mark, error) {
	format := len(steps)
	for {
		stream, err := js.Stream(ctx, config.Name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			m := mark{format: format}
			config.Metadata = m.in(nil)
			stream, err = js.CreateStream(ctx, config)
			if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) && ctx.Err() == nil {
				continue // another relay was first, and may be of another version
			}
			return stream, m, err
		}
		if err != nil {
			return nil, mark{}, err
		}
		have := stream.CachedInfo().Config
		m, err := markOf(have.Metadata)
		if err == nil {
			err = m.usable(format)
		}
		if err != nil {
			return nil, m, err
		}
		for ; m.format < format; m.format++ {
			if err := steps[m.format](ctx, stream); err != nil {
				return nil, m, fmt.Errorf("upgrade from format %d: %w", m.format, err)
			}
		}
		config.Metadata = m.in(have.Metadata)
		// Of a stream that was restored: a server that is started again without a
		// snapshot of it begins to count there.
		config.FirstSeq = have.FirstSeq
		stream, err = js.UpdateStream(ctx, config)
		return stream, m, err
	}
}

// checkMark sees what the stream says of itself now.
func (s *store) checkMark(ctx context.Context, config jetstream.StreamConfig) error {
	now, err := markOf(config.Metadata)
	if err == nil {
		err = now.usable(storeFormat)
	}
	s.mu.Lock()
	is := s.mark
	if err == nil && now.restored != 0 && now.restored != is.restored {
		err = errors.New("the store was restored from a backup while this relay ran: start it again")
	}
	if err != nil {
		s.outdated = err
	}
	s.mu.Unlock()
	if err != nil || now == is {
		return err
	}
	// A relay of an older version has started at the same time, and has put there
	// what it knew. Without the mark, the next one of its kind would not be refused.
	config.Metadata = is.in(config.Metadata)
	if _, err := s.js.UpdateStream(ctx, config); err != nil {
		s.log.Warn("the store's format is not marked; this is tried again", "error", err)
	}
	return nil
}

// restoredAt is when the record was restored from a backup; zero: never.
func (s *store) restoredAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mark.restored == 0 {
		return time.Time{}
	}
	return time.UnixMilli(s.mark.restored)
}

// rev is what clients are told of a record's sequence. They ignore what is older
// than what they have seen, and a record that was restored goes on from an
// earlier sequence than they may know: so from each restore on, it is greater by
// more than all that can have been recorded before.
func (s *store) rev(seq uint64) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return seq + uint64(s.mark.restored/1000)<<20
}
