package broker

// What is noted beside requests, each once for ever: who was dropped, whose an
// unbound token is, which run was declined. Absences, which go on, are in away.go;
// refusals, which are bounded, in refusals.go.

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

// noteDropped puts a message that was dropped on record, once for each key.
func (s *store) noteDropped(ctx context.Context, key, verb string) error {
	data, err := lifecycle.Note{V: lifecycle.Version, Op: operationID(), At: s.now().UnixMilli(), About: lifecycle.AboutDropped, Name: verb, Key: key}.Encode()
	if err != nil {
		return err
	}
	_, err = s.put(ctx, droppedPrefix+key, data, 0)
	if wasFirst(err) {
		return nil // it is there already
	}
	return err
}

// tokenAheadMost is how far ahead an issuer's clock may be, see package trust.
const tokenAheadMost = 60 * time.Second

// claimToken notes which key an unbound ID token came with, for as long as the
// record is kept: the second key is refused. Of one that was issued before the
// record was restored the note can be among what was lost, so there it counts only
// where it is.
func (s *store) claimToken(ctx context.Context, id, key string, issued time.Time) error {
	subject := unboundPrefix + id
	if at := s.restoredAt(); !at.IsZero() && issued.Before(at.Add(tokenAheadMost)) {
		m, err := s.newestOf(ctx, subject)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return refuse(wire.RefusedToken, fmt.Sprintf("this ID token was issued before this relay's record was restored from a backup (%s), or a moment after; which key it was used with before is not on record any more", at.UTC().Format(time.RFC3339)),
				"ask with a new token: run the job again")
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errStore, err)
		}
		return heldBy(m, key)
	}
	data, err := lifecycle.Note{V: lifecycle.Version, Op: operationID(), At: s.now().UnixMilli(), About: lifecycle.AboutToken, Name: id, Key: key}.Encode()
	if err != nil {
		return err
	}
	failpoint("before", "note token")
	_, appendErr := s.put(ctx, subject, data, 0)
	failpoint("after", "note token")
	if appendErr == nil {
		return nil
	}
	m, err := s.newestOf(ctx, subject)
	if err != nil {
		return fmt.Errorf("%w: %w", errStore, appendErr)
	}
	return heldBy(m, key)
}

// heldBy says whether a token's note is of this key.
func heldBy(m *jetstream.RawStreamMsg, key string) error {
	if n, err := lifecycle.DecodeNote(m.Data); err != nil || n.Key != key {
		return errTokenUsed
	}
	return nil
}

// declinedSubject is where it stands that a run of a CI was declined in a
// project. A run's name has characters that a subject cannot have.
func declinedSubject(project, run string) string {
	return declinePrefix + lifecycle.Hash([]byte(project+"\x00"+run))
}

// noteDeclined notes that a human has declined what a run asked, so that the run
// cannot ask again for as long as the record is kept: on each relay and after a
// restart, and without reading what all others have asked. The first decline of a
// run is the one that counts.
func (s *store) noteDeclined(ctx context.Context, rec lifecycle.Record) error {
	data, err := lifecycle.Note{V: lifecycle.Version, Op: operationID(), At: rec.At, About: lifecycle.AboutDeclined,
		Name: rec.Group, Key: rec.Key, Person: rec.ByName, Why: rec.Why}.Encode()
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		failpoint("before", "note declined")
		_, err = s.put(ctx, declinedSubject(rec.Project, rec.Group), data, 0)
		failpoint("after", "note declined")
		if err == nil {
			return nil
		}
		// Another relay may note the same at the same time. Of three replicas its
		// note is not there yet when ours is refused for it, and now and then one
		// is refused for nothing.
		_, there, readErr := s.declined(ctx, rec.Project, rec.Group)
		if readErr == nil && there {
			return nil
		}
		if try == 8 || !wasFirst(err) || pause(ctx, time.Duration(try)*5*time.Millisecond) != nil {
			return fmt.Errorf("%w: %w", errStore, err)
		}
	}
}

// declined says whether a run was declined in a project, and by whom.
func (s *store) declined(ctx context.Context, project, run string) (lifecycle.Note, bool, error) {
	m, err := s.newestOf(ctx, declinedSubject(project, run))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return lifecycle.Note{}, false, nil
	}
	if err != nil {
		return lifecycle.Note{}, false, fmt.Errorf("%w: read: %w", errStore, err)
	}
	n, err := lifecycle.DecodeNote(m.Data)
	if err != nil {
		return lifecycle.Note{}, false, fmt.Errorf("%w: note %d: %w", errStore, m.Sequence, err)
	}
	return n, true, nil
}
