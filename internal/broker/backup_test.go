package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/audit"
	"github.com/continuousauth/action/internal/lifecycle"
	"github.com/continuousauth/action/internal/wire"
)

func (f *fixture) parse(text string) *Config {
	f.t.Helper()
	c, err := ParseConfig([]byte(text), f.t.TempDir())
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func backedUp(t testing.TB, c *Config) (file []byte, h audit.Head) {
	t.Helper()
	var b bytes.Buffer
	h, _, _, err := Backup(t.Context(), c, &b, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), h
}

func restore(t testing.TB, c *Config, file []byte, o RestoreOptions) (*Restored, error) {
	t.Helper()
	if o.Now == nil {
		o.Now = time.Now
	}
	return Restore(t.Context(), c, bytes.NewReader(file), o)
}

// What each request is after a restore: whatever it was when the backup was made,
// and whatever came after, nobody is asked a second time for it.
func TestAfterARestoreNothingThatWasOpenGoesOn(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	before := f.relay.rules.Load().config
	ana := f.sit(f.ana)
	waits, answered, delivered := f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket")
	over, no := f.accepted(rocketRepo, "rocket"), f.accepted(boatRepo, "boat")
	held, r := ana.answer(answered, 1)
	must(t, r)
	m, r := ana.answer(delivered, 1)
	must(t, r)
	must(t, delivered.got(1, m.Sealed.Hash()))
	must(t, over.cancel())
	must(t, ana.say(wire.VerbDecline, ana.declineMessage(t, no, 1, "not now")))
	all := func(c *Config) []audit.Message {
		t.Helper()
		a, all := whole(t, c, AuditQuery{})
		defer a.Close()
		return all
	}
	was := all(before)
	file, h := backedUp(t, before)

	// What comes after the backup is lost; what was told of it is not.
	for range 3 {
		must(t, f.accepted(rocketRepo, "rocket").cancel())
	}
	must(t, ana.say(wire.VerbOpen, ana.openMessage(t, waits)))
	seen := must(t, waits.state()).Rev
	f.relay.Close()

	text := f.configText(t.TempDir(), onLoopback)
	c := f.parse(text)
	// Some time ago, so that what is asked now is asked after it.
	done, err := restore(t, c, file, RestoreOptions{Now: func() time.Time { return time.Now().Add(-2 * time.Second) }})
	if err != nil {
		t.Fatal(err)
	}
	if done.Ended != 3 || done.Requests != 5 || done.Head != h {
		t.Errorf("%+v", done)
	}
	f.startConfig(c, Options{})
	for _, j := range []*job{waits, answered, delivered, over} {
		j.connect()
	}
	for _, tc := range []struct {
		j                *job
		state, why, what string
	}{
		{waits, "cancelled", "restored", "pending"}, {answered, "cancelled", "restored", "answered"},
		{delivered, "done", "restored", "delivered"}, {over, "cancelled", "the run was stopped", "ended"},
	} {
		// Asked again, as a job does that comes back: the same request, and how it ended.
		if s := must(t, tc.j.send(tc.j.nc)); s.State != tc.state || s.Why != tc.why {
			t.Errorf("what was %s is %s, %q", tc.what, s.State, s.Why)
		}
	}
	if s := must(t, waits.state()); s.Rev <= seen {
		t.Errorf("the job has seen revision %d, and would ignore %d", seen, s.Rev)
	}
	ana = f.sit(f.ana)
	if p := ana.pending(); len(p.Items) != 0 {
		t.Errorf("%d requests are listed", len(p.Items))
	}
	if r := ana.say(wire.VerbAnswer, ana.answerMessage(t, waits, 1)); r.Refused == nil {
		t.Error("an answer is taken")
	}
	// A job that holds its code has it, whatever the record has forgotten.
	if s := must(t, answered.got(1, held.Sealed.Hash())); s.State != "done" {
		t.Errorf("a late receipt: %+v", s)
	}
	// A key that was used stays used, and a run that was declined stays declined.
	waits.ask("rocket", func(q *wire.Request) { q.Message = "another" })
	refused(t, waits.send(waits.nc), wire.RefusedKeyUsed)
	again := f.job(boatRepo, "boat")
	again.connect()
	refused(t, again.send(again.nc), wire.RefusedDeclined, "not now")

	// The record before is still there, to the byte, the sequence and the time.
	now := all(c)
	if len(now) < len(was) {
		t.Fatalf("%d messages of %d", len(now), len(was))
	}
	for i, m := range was {
		if now[i].Seq != m.Seq || now[i].Subject != m.Subject || !bytes.Equal(now[i].Data, m.Data) || !now[i].Time.Equal(m.Time) {
			t.Fatalf("sequence %d is another: %+v", m.Seq, now[i])
		}
	}
	a, messages := whole(t, c, AuditQuery{})
	defer a.Close()
	if v := checked(t, c, a, messages); len(v.Restores) != 1 || v.Restores[0].Seq != h.Last+1 || v.Restores[0].Backup != done.Sum {
		t.Errorf("%+v", v.Restores)
	}
}

// What the backup does not have is not taken for something that never was.
func TestWhatWasAskedBeforeARestoreIsNotAskedAgain(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	file, _ := backedUp(t, f.relay.rules.Load().config)
	lost := f.accepted(rocketRepo, "rocket")
	f.relay.Close()

	c := f.parse(f.configText(t.TempDir(), onLoopback))
	// A second of a request's time is all of it that is signed.
	at := time.Unix(lost.req.Made+1, 0)
	if _, err := restore(t, c, file, RestoreOptions{Now: func() time.Time { return at }}); err != nil {
		t.Fatal(err)
	}
	f.startConfig(c, Options{})
	lost.connect()
	refused(t, lost.send(lost.nc), wire.RefusedLimit, "before this relay's record was restored", "run the job again")
	fresh := f.job(rocketRepo, "rocket")
	fresh.connect()
	fresh.ask("rocket", func(q *wire.Request) { q.Made, q.Deadline = at.Unix(), at.Unix()+1800 })
	if s := must(t, fresh.send(fresh.nc)); s.State != "pending" {
		t.Errorf("%+v", s)
	}
}

func TestAnUnboundTokenThatIsOlderThanARestoreIsNobodysAnyMore(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	s, hash := f.relay.store, func(of string) string { return lifecycle.Hash([]byte(of)) }
	now := time.Now()
	if err := s.claimToken(t.Context(), hash("known"), "UA", now); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.mark.restored = now.UnixMilli()
	s.mu.Unlock()
	for _, tc := range []struct {
		token, key string
		issued     time.Duration
		want       string
	}{
		{"known", "UA", 0, ""},
		{"known", "UB", 0, errTokenUsed.Error()},
		{"lost", "UA", -time.Hour, "not on record any more"},
		{"lost", "UB", tokenAheadMost - time.Second, "not on record any more"},
		{"new", "UA", tokenAheadMost + time.Second, ""},
		{"new", "UB", tokenAheadMost + time.Second, errTokenUsed.Error()},
	} {
		err := s.claimToken(t.Context(), hash(tc.token), tc.key, now.Add(tc.issued))
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s with %s: %v", tc.token, tc.key, err)
		}
	}
	// The marks are put back as they are by the relay; here they were never there.
	s.mu.Lock()
	s.mark.restored = 0
	s.mu.Unlock()
}

// On an external server, where a relay of another configuration reads and writes.
func TestARecordMovesBetweenServers(t *testing.T) {
	t.Parallel()
	f := startExternal(t)
	ana := f.sit(f.ana)
	waits, over := f.accepted(rocketRepo, "rocket"), f.accepted(rocketRepo, "rocket")
	m, r := ana.answer(over, 1)
	must(t, r)
	must(t, over.got(1, m.Sealed.Hash()))
	must(t, over.done(1))
	file, _ := backedUp(t, f.relay.rules.Load().config)
	f.relay.Close()

	x := newExternal(t, true)
	x.run(t)
	f.server = x.server
	c := f.parse(f.configText(t.TempDir(), x.section(0)))
	if _, err := restore(t, c, file, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	f.startConfig(c, Options{})
	waits.connect()
	over.connect()
	if s := must(t, waits.state()); s.State != "cancelled" || s.Why != "restored" {
		t.Errorf("%+v", s)
	}
	if s := must(t, over.state()); s.State != "done" || s.Why != "" {
		t.Errorf("%+v", s)
	}
	// And back into a relay that has its server within, by way of what was restored.
	again, h := backedUp(t, c)
	if h.Restored == 0 {
		t.Error("the backup does not say that it is of a restored record")
	}
	rev := must(t, waits.state()).Rev
	f.relay.Close()
	f.server = nil
	c = f.parse(f.configText(t.TempDir(), onLoopback))
	// By a clock that was put back, too.
	if _, err := restore(t, c, again, RestoreOptions{Now: func() time.Time { return time.UnixMilli(h.Restored).Add(-time.Hour) }}); err != nil {
		t.Fatal(err)
	}
	f.startConfig(c, Options{})
	waits.connect()
	if s := must(t, waits.state()); s.State != "cancelled" || s.Rev <= rev {
		t.Errorf("%+v, and before it was revision %d", s, rev)
	}
	a, all := whole(t, c, AuditQuery{})
	defer a.Close()
	if v := checked(t, c, a, all); len(v.Restores) != 2 {
		t.Errorf("%+v", v.Restores)
	}
}

// A backup that is made while requests come and go is what was so at one moment.
func TestABackupIsOfOneMoment(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.start(f.configText(t.TempDir(), onLoopback), crowded)
	ctx, stop := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	first := make(chan struct{}, 1)
	busy.Go(func() {
		for ctx.Err() == nil {
			j := f.accepted(rocketRepo, "rocket")
			must(t, j.cancel())
			select {
			case first <- struct{}{}:
			default:
			}
		}
	})
	var last uint64
	for range 5 {
		<-first // something has happened since
		file, h := backedUp(t, f.relay.rules.Load().config)
		if h.Last <= last {
			t.Errorf("sequence %d again", h.Last)
		}
		last = h.Last
		if _, err := restore(t, f.parse(f.configText(t.TempDir(), onLoopback)), file, RestoreOptions{Check: true}); err != nil {
			t.Error(err)
		}
	}
	stop()
	busy.Wait()
}

// tree is what is below a directory, beside the lock.
func tree(t testing.TB, dir string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "lock" {
			files = append(files, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return files
}

func TestABackupThatIsNotAsItShouldBeWritesNothing(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	ana := f.sit(f.ana)
	j := f.accepted(rocketRepo, "rocket")
	m, r := ana.answer(j, 1)
	must(t, r)
	must(t, j.got(1, m.Sealed.Hash()))
	c := f.relay.rules.Load().config
	file, head := backedUp(t, c)
	f.relay.Close()

	_, messages := whole(t, c, AuditQuery{})
	// rewritten is the backup of other messages, with a hash that is right.
	rewritten := func(h audit.Head, messages []audit.Message) []byte {
		t.Helper()
		var b bytes.Buffer
		w, err := audit.NewBackupWriter(&b, h)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages {
			if err := w.Add(m); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	flipped := func(i int) []byte {
		out := bytes.Clone(file)
		out[i] ^= 0xff
		return out
	}
	forged := append([]audit.Message{}, messages...)
	forged[1].Data = bytes.Replace(forged[1].Data, []byte(`"by_name":"Ana"`), []byte(`"by_name":"Eve"`), 1)
	other := f.configText(t.TempDir(), onLoopback)
	for _, tc := range []struct {
		name string
		file []byte
		text string // the relay's file
		want error
		say  string
	}{
		{"its first byte", flipped(0), "", audit.ErrBackup, ""},
		{"a byte in the middle", flipped(len(file) / 2), "", audit.ErrBackup, ""},
		{"its last byte", flipped(len(file) - 1), "", audit.ErrBackup, ""},
		{"cut off", file[:len(file)-9], "", audit.ErrBackup, "breaks off"},
		{"nothing", nil, "", audit.ErrBackup, ""},
		{"a record was changed", rewritten(head, forged), "", nil, "1 problem"},
		{"a newer store's", rewritten(func() audit.Head { h := head; h.Format = storeFormat + 1; return h }(), messages), "", ErrNewerStore, "upgrade"},
		{"another relay's", file, strings.Replace(other, "host: relay.test", "host: other.test", 1), nil, "--former-name"},
		{"another's people", file, strings.ReplaceAll(other, f.ana.signer(), newHuman(t, "X").signer()), nil, "problem"},
		{"more than there is room for", file, other + "# small", nil, "limits.store"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			text := tc.text
			if text == "" {
				text = other
			}
			c, err := ParseConfig([]byte(text), t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			c.Data = dir
			if strings.HasSuffix(text, "# small") {
				c.Limits.Store = 2048
			}
			_, err = restore(t, c, tc.file, RestoreOptions{})
			if err == nil || tc.want != nil && !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.say) {
				t.Fatal(err)
			}
			if files := tree(t, dir); len(files) > 0 {
				t.Errorf("there is %q", files)
			}
		})
	}
	// The control: as it is, it is taken, also by a relay of another name that had this one.
	c = f.parse(strings.Replace(other, "host: relay.test", "host: other.test", 1))
	if _, err := restore(t, c, file, RestoreOptions{Names: []string{relayName}}); err != nil {
		t.Fatal(err)
	}
	if len(tree(t, c.Data)) == 0 {
		t.Error("nothing was written")
	}
}

func TestARecordIsNeverOverwritten(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	must(t, f.accepted(rocketRepo, "rocket").cancel())
	c := f.relay.rules.Load().config
	file, h := backedUp(t, c)
	if _, err := restore(t, c, file, RestoreOptions{}); err == nil || !strings.Contains(err.Error(), "another relay runs") {
		t.Errorf("beside a relay that runs: %v", err)
	}
	f.relay.Close()
	if _, err := restore(t, c, file, RestoreOptions{}); !errors.Is(err, ErrNotEmpty) || !strings.Contains(err.Error(), fmt.Sprintf("sequences 1 to %d", h.Last)) {
		t.Errorf("over a record: %v", err)
	}
	a, all := whole(t, c, AuditQuery{})
	a.Close()
	if len(all) != int(h.Count) {
		t.Errorf("%d messages of %d", len(all), h.Count)
	}
	// A relay that has served, and was asked nothing, has no record.
	c = f.parse(f.configText(t.TempDir(), onLoopback))
	f.startConfig(c, Options{})
	f.relay.Close()
	if _, err := restore(t, c, file, RestoreOptions{}); err != nil {
		t.Error(err)
	}
}

// breaking is a file that ends in an error at its second reading.
type breaking struct {
	*bytes.Reader
	after int64
	again bool
}

var errBroken = errors.New("input/output error")

func (b *breaking) Seek(offset int64, whence int) (int64, error) {
	b.again = true
	return b.Reader.Seek(offset, whence)
}

func (b *breaking) Read(p []byte) (int, error) {
	if b.again && b.Size()-int64(b.Len()) >= b.after {
		return 0, errBroken
	}
	return b.Reader.Read(p[:min(len(p), 512)])
}

func TestARestoreThatBreaksOffLeavesNothing(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	for range 4 {
		must(t, f.accepted(rocketRepo, "rocket").cancel())
	}
	c := f.relay.rules.Load().config
	file, h := backedUp(t, c)
	f.relay.Close()
	c = f.parse(f.configText(t.TempDir(), onLoopback))
	if _, err := Restore(t.Context(), c, &breaking{Reader: bytes.NewReader(file), after: int64(len(file) / 2)}, RestoreOptions{Now: time.Now}); !errors.Is(err, errBroken) {
		t.Fatal(err)
	}
	if a, err := OpenAudit(t.Context(), c, AuditQuery{}); err == nil {
		a.Close()
		t.Error("something was left")
	}
	// Killed in the middle, it leaves what says of itself that it is not whole.
	half := func() {
		t.Helper()
		js, closeStore, err := serveStore(filepath.Join(c.Data, "store"), true)
		if err != nil {
			t.Fatal(err)
		}
		defer closeStore()
		config := streamConfig(c)
		config.FirstSeq, config.Metadata = h.First, mark{format: storeFormat, restored: 1, restoring: "x"}.in(nil)
		if _, err := js.CreateStream(t.Context(), config); err != nil {
			t.Fatal(err)
		}
		if _, err := js.Publish(t.Context(), requestPrefix+"UA", []byte("half")); err != nil {
			t.Fatal(err)
		}
	}
	half()
	r, err := Start(t.Context(), c, Options{})
	if err == nil {
		r.Close()
	}
	if !errors.Is(err, ErrHalfRestored) {
		t.Errorf("a relay starts: %v", err)
	}
	if _, err := OpenAudit(t.Context(), c, AuditQuery{}); !errors.Is(err, ErrHalfRestored) {
		t.Errorf("an audit reads: %v", err)
	}
	if _, err := restore(t, c, file, RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	a, all := whole(t, c, AuditQuery{})
	defer a.Close()
	if checked(t, c, a, all); len(all) != int(h.Count)+1 {
		t.Errorf("%d messages of %d", len(all), h.Count)
	}
}

// Whose old end has aged out begins where it began, at each start.
func TestARestoredRecordBeginsWhereItBegan(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	must(t, f.accepted(rocketRepo, "rocket").cancel())
	must(t, f.accepted(rocketRepo, "rocket").cancel())
	c := f.relay.rules.Load().config
	_, messages := whole(t, c, AuditQuery{})
	_, h := backedUp(t, c)
	f.relay.Close()
	for _, kept := range []int{2, 0} {
		h.First = h.Last + 1 - uint64(kept)
		var b bytes.Buffer
		w, err := audit.NewBackupWriter(&b, h)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range messages[len(messages)-kept:] {
			if err := w.Add(m); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Close(); err != nil {
			t.Fatal(err)
		}
		c := f.parse(f.configText(t.TempDir(), onLoopback))
		if _, err := restore(t, c, b.Bytes(), RestoreOptions{}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			f.startConfig(c, Options{})
			a, all := whole(t, c, AuditQuery{})
			a.Close()
			if a.Extent.First != h.First || len(all) != kept+1 || all[kept].Seq != h.Last+1 {
				t.Errorf("of sequences %d to %d there are %d to %d", h.First, h.Last, a.Extent.First, a.Extent.Last)
			}
			checked(t, c, a, all)
			// A server of a cluster that has no snapshot begins to count there.
			if info, err := f.relay.store.stream.Info(t.Context()); err != nil || info.Config.FirstSeq != h.First {
				t.Errorf("%v: the stream is configured to begin at %d", err, info.Config.FirstSeq)
			}
			f.relay.Close()
		}
	}
}

// A store that takes no more says so, and keeps nothing of what it took.
func TestARestoreThatDoesNotFitLeavesNothing(t *testing.T) {
	t.Parallel()
	x := newExternal(t, true)
	x.run(t)
	f := newFixture(t)
	f.server = x.server
	f.start(f.configText(t.TempDir(), x.section(0)), Options{})
	for range 3 {
		must(t, f.accepted(rocketRepo, "rocket").cancel())
	}
	c := f.relay.rules.Load().config
	file, _ := backedUp(t, c)
	js := f.relay.store.js
	b, err := checkBackup(c, bytes.NewReader(file), RestoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// Another stream of the same server, with room for half of it.
	full := *c
	full.Limits.Store = b.bytes / 2
	if err := js.DeleteStream(t.Context(), streamName); err != nil {
		t.Fatal(err)
	}
	err = b.write(t.Context(), js, &full, bytes.NewReader(file), time.Now())
	if err == nil || !strings.Contains(err.Error(), "maximum bytes exceeded") {
		t.Fatal(err)
	}
	if _, err := js.Stream(t.Context(), streamName); !errors.Is(err, jetstream.ErrStreamNotFound) {
		t.Errorf("something was left: %v", err)
	}
	f.relay.Close()
}

func TestABackupThatCannotBeWrittenIsNone(t *testing.T) {
	t.Parallel()
	f := startFixture(t)
	must(t, f.accepted(rocketRepo, "rocket").cancel())
	r, w := io.Pipe()
	r.CloseWithError(errBroken)
	if _, _, _, err := Backup(t.Context(), f.relay.rules.Load().config, w, time.Now()); !errors.Is(err, errBroken) {
		t.Error(err)
	}
}
