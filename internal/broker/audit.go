package broker

// The record, for those who check it: read through a running relay, or from the
// store of one that does not run. What is read is the messages as they are; what
// they are worth, package audit says, in the process of whoever asks.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/continuousauth/action/internal/audit"
	"github.com/continuousauth/action/internal/wire"
)

const (
	// auditsAtOnce bounds how many read the record through one relay: each reads
	// all of it.
	auditsAtOnce = 4
	// auditWrite is how long a reader may take for one message before it is cut
	// off: it holds one of the places.
	auditWrite = time.Minute
	// auditLine bounds a line of the answer: a message in base64, and the rest.
	auditLine = 2*audit.MaxMessage + 4<<10
)

// AuditQuery says what of the record is read. The zero value is all of it.
type AuditQuery struct {
	Since  time.Time // when the store took it; zero: from the beginning
	New    bool      // only what comes from now on
	Follow bool      // go on when the end is reached
}

// auditEvent is a line of the answer. The last one says that it is, so that an
// answer that was cut off is known from one that is whole.
type auditEvent struct {
	Extent  *audit.Extent  `json:"extent,omitempty"`
	Message *audit.Message `json:"message,omitempty"`
	End     bool           `json:"end,omitempty"`
	Error   string         `json:"error,omitempty"`
}

// Audit is a record that is being read.
type Audit struct {
	Extent audit.Extent
	// Direct says that no relay runs, and the store itself is open.
	Direct bool
	next   func() (audit.Message, error)
	close  func()
}

// Next is the next message, io.EOF after the last one.
func (a *Audit) Next() (audit.Message, error) { return a.next() }

// Close lets go of the relay or the store.
func (a *Audit) Close() { a.close() }

// OpenAudit reads the record of the relay with this configuration: through the
// relay if it runs, else from its store. It never opens a store that a relay has.
func OpenAudit(ctx context.Context, c *Config, q AuditQuery) (*Audit, error) {
	a, err := askAudit(ctx, c, q)
	if !errors.Is(err, ErrNoRelay) {
		return a, err
	}
	switch {
	case q.Follow:
		return nil, err // nothing comes where no relay runs
	case c.NATS != nil:
		return nil, fmt.Errorf("%w; the record is at the NATS server that the relay joins, and is read through a relay: start it with `cfa-relay serve`, on this machine and with this file", err)
	case !locks:
		return nil, fmt.Errorf("%w; on this system the store is read through a running relay only, because nothing keeps a relay from starting on it meanwhile", err)
	}
	return openAudit(ctx, c, q)
}

func askAudit(ctx context.Context, c *Config, q AuditQuery) (*Audit, error) {
	v := url.Values{}
	if !q.Since.IsZero() {
		v.Set("since", strconv.FormatInt(q.Since.Unix(), 10))
	}
	if q.Follow {
		v.Set("follow", "1")
	}
	if q.New {
		v.Set("new", "1")
	}
	body, err := adminStream(ctx, c.Data, http.MethodGet, "/v1/audit?"+v.Encode())
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 64<<10), auditLine)
	read := func() (auditEvent, error) {
		if !lines.Scan() {
			if ctx.Err() != nil {
				return auditEvent{}, context.Cause(ctx)
			}
			if err := lines.Err(); err != nil {
				return auditEvent{}, fmt.Errorf("the relay's answer broke off: %w", err)
			}
			return auditEvent{}, errors.New("the relay's answer broke off before its end; did the relay end? Ask again")
		}
		var e auditEvent
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return auditEvent{}, errors.New("the relay's answer is not what this program understands: are both of the same version?")
		}
		if e.Error != "" {
			return auditEvent{}, fmt.Errorf("the relay cannot read its record: %s", wire.Clean(e.Error, 500))
		}
		return e, nil
	}
	e, err := read()
	if err == nil && e.Extent == nil {
		err = errors.New("the relay's answer does not say what it is about: are both programs of the same version?")
	}
	if err == nil && (e.Extent.Relay != c.Host || e.Extent.Stream != streamName) {
		err = fmt.Errorf("the relay that answers calls itself %q, not %q as the file says: was the file changed since it started?", wire.CleanName(e.Extent.Relay, 253), c.Host)
	}
	if err != nil {
		body.Close()
		return nil, err
	}
	// By the asker's file, not by the relay's word.
	e.Extent.Keep = int64(time.Duration(c.Limits.Retention) / time.Second)
	return &Audit{
		Extent: *e.Extent,
		next: func() (audit.Message, error) {
			e, err := read()
			switch {
			case err != nil:
				return audit.Message{}, err
			case e.End:
				return audit.Message{}, io.EOF
			case e.Message == nil:
				return audit.Message{}, errors.New("the relay's answer has a line that says nothing: are both programs of the same version?")
			}
			return *e.Message, nil
		},
		close: func() { body.Close() },
	}, nil
}

// openAudit opens the store of a relay that does not run, with the lock that a
// relay takes: none can start meanwhile.
func openAudit(ctx context.Context, c *Config, q AuditQuery) (_ *Audit, err error) {
	dir := filepath.Join(c.Data, "store")
	if _, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("no relay runs with the data directory %s, and there is no record in it: %w", c.Data, err)
	}
	release, err := hold(c.Data)
	if err != nil {
		return nil, fmt.Errorf("%w, and does not answer at its socket: it is about to start or to end, or runs as another user; nothing was opened", err)
	}
	closers := []func(){release}
	closeAll := func() {
		for i := len(closers) - 1; i >= 0; i-- {
			closers[i]()
		}
		closers = nil
	}
	defer func() {
		if err != nil {
			closeAll()
		}
	}()
	js, closeStore, err := serveStore(dir, true)
	if err != nil {
		return nil, err
	}
	closers = append(closers, closeStore)
	stream, err := js.Stream(ctx, streamName)
	if err != nil {
		return nil, fmt.Errorf("the store in %s has no record: %w", dir, err)
	}
	// What a newer relay wrote is not told by what an older one takes it for.
	m, err := markOf(stream.CachedInfo().Config.Metadata)
	if err == nil {
		err = m.usable(storeFormat)
	}
	if err != nil {
		return nil, err
	}
	events := make(chan auditEvent)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		send := func(e auditEvent) error {
			select {
			case events <- e:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if err := readRecord(ctx, stream, c, q, send); err != nil {
			_ = send(auditEvent{Error: err.Error()}) // whoever has gone does not hear it
		}
	}()
	closers = append(closers, func() { cancel(); <-ended })
	read := func() (auditEvent, error) {
		select {
		case e := <-events:
			if e.Error != "" {
				return e, fmt.Errorf("read the record: %s", e.Error)
			}
			return e, nil
		case <-ctx.Done():
			return auditEvent{}, context.Cause(ctx)
		}
	}
	e, err := read()
	if err != nil {
		return nil, err
	}
	return &Audit{
		Extent: *e.Extent, Direct: true,
		next: func() (audit.Message, error) {
			e, err := read()
			if err == nil && e.End {
				err = io.EOF
			}
			if err != nil {
				return audit.Message{}, err
			}
			return *e.Message, nil
		},
		close: closeAll,
	}, nil
}

// serveStore opens the store of a relay that does not run, whose lock the caller
// holds. Nothing listens.
func serveStore(dir string, syncAlways bool) (_ jetstream.JetStream, closeStore func(), err error) {
	opts := &server.Options{ServerName: "cfa-relay", NoSigs: true, NoLog: true, DontListen: true, JetStream: true, StoreDir: dir, SyncAlways: syncAlways}
	if err := opts.ProcessConfigString("accounts { SYS {}, STORE { jetstream: enabled, users: [{user: store, password: store}] } }\nsystem_account: SYS"); err != nil {
		return nil, nil, fmt.Errorf("open the store: %w", err)
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, nil, fmt.Errorf("open the store: %w", err)
	}
	srv.Start()
	var nc *nats.Conn
	closeStore = func() {
		if nc != nil {
			nc.Close()
		}
		srv.Shutdown()
		srv.WaitForShutdown()
	}
	defer func() {
		if err != nil {
			closeStore()
		}
	}()
	if !srv.ReadyForConnections(20 * time.Second) {
		return nil, nil, fmt.Errorf("the store in %s does not open", dir)
	}
	// Nothing listens: the password is for this process alone.
	if nc, err = nats.Connect("", nats.InProcessServer(srv), nats.UserInfo("store", "store"), nats.Name("cfa-relay store")); err != nil {
		return nil, nil, fmt.Errorf("open the store: %w", err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, nil, fmt.Errorf("open the store: %w", err)
	}
	return js, closeStore, nil
}

// serveAudit streams the record, one line a message.
func (r *Relay) serveAudit(w http.ResponseWriter, req *http.Request) {
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	v := req.URL.Query()
	q := AuditQuery{Follow: v.Get("follow") == "1", New: v.Get("new") == "1"}
	if s := v.Get("since"); s != "" {
		unix, err := strconv.ParseInt(s, 10, 64)
		if err != nil || unix < 0 {
			http.Error(w, "since is not a time", http.StatusBadRequest)
			return
		}
		q.Since = time.Unix(unix, 0)
	}
	out, control := json.NewEncoder(w), http.NewResponseController(w)
	w.Header().Set("Content-Type", "application/x-ndjson")
	err := readRecord(ctx, r.store.stream, r.rules.Load().config, q, func(e auditEvent) error {
		if err := control.SetWriteDeadline(time.Now().Add(auditWrite)); err != nil {
			return err
		}
		if err := out.Encode(e); err != nil {
			return err
		}
		if q.Follow || e.Message == nil {
			return control.Flush()
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		r.log.Warn("audit ended", "error", err)
		_ = out.Encode(auditEvent{Error: err.Error()}) // it may be that the reader has gone
	}
}

// readRecord gives a stream's extent, its messages in order, and the end.
func readRecord(ctx context.Context, stream jetstream.Stream, c *Config, q AuditQuery, each func(auditEvent) error) error {
	x, err := extentOf(ctx, stream, c)
	if err != nil {
		return err
	}
	from := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy}
	switch {
	case q.New:
		from.DeliverPolicy, from.OptStartSeq = jetstream.DeliverByStartSequencePolicy, x.Last+1
		x.First = x.Last + 1
	case !q.Since.IsZero():
		from.DeliverPolicy, from.OptStartTime = jetstream.DeliverByStartTimePolicy, &q.Since
	}
	if !q.Follow && x.Last < x.First {
		if err := each(auditEvent{Extent: &x}); err != nil {
			return err
		}
		return each(auditEvent{End: true})
	}
	cons, err := stream.OrderedConsumer(ctx, from)
	if err != nil {
		return err
	}
	info, err := cons.Info(ctx)
	if err != nil {
		return err
	}
	said := false
	if info.NumPending == 0 { // all of it is older than what is asked for
		x.First = x.Last + 1
		if err := each(auditEvent{Extent: &x}); err != nil {
			return err
		}
		if said = true; !q.Follow {
			return each(auditEvent{End: true})
		}
	}
	it, err := cons.Messages()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, it.Stop)()
	defer it.Stop()
	for {
		m, err := it.Next()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		seq := meta.Sequence.Stream
		if !said {
			if !q.Since.IsZero() {
				x.First = seq
			} else if seq > x.First {
				// The oldest can have aged out since the extent was asked for.
				// What is missing otherwise stays missing.
				now, err := extentOf(ctx, stream, c)
				if err != nil {
					return err
				}
				x.First = min(now.First, seq)
			}
			if err := each(auditEvent{Extent: &x}); err != nil {
				return err
			}
			said = true
		}
		if !q.Follow && seq > x.Last {
			return each(auditEvent{End: true})
		}
		if err := each(auditEvent{Message: &audit.Message{Seq: seq, Subject: m.Subject(), Time: takenAt(m.Headers(), meta.Timestamp), Data: m.Data()}}); err != nil {
			return err
		}
		if !q.Follow && (seq >= x.Last || meta.NumPending == 0) {
			return each(auditEvent{End: true})
		}
	}
}

// takenHeader is of messages that were restored: when the store before took them.
const takenHeader = "Cfa-Taken"

// takenAt is when a store first took a message.
func takenAt(h nats.Header, stamp time.Time) time.Time {
	if at, err := time.Parse(time.RFC3339Nano, h.Get(takenHeader)); err == nil && at.Before(stamp) {
		return at.UTC()
	}
	return stamp.UTC()
}

func extentOf(ctx context.Context, stream jetstream.Stream, c *Config) (audit.Extent, error) {
	info, err := stream.Info(ctx)
	if err != nil {
		return audit.Extent{}, err
	}
	m, err := markOf(info.Config.Metadata)
	if err != nil {
		return audit.Extent{}, err
	}
	x := audit.Extent{Stream: info.Config.Name, Relay: c.Host, First: info.State.FirstSeq, Last: info.State.LastSeq, Keep: int64(time.Duration(c.Limits.Retention) / time.Second),
		Format: m.format, Created: info.Created.UTC(), Restored: m.restored}
	if info.State.Msgs == 0 {
		x.First = x.Last + 1
	}
	return x, nil
}

// Enrolled says whether a signing key may answer in a project, by the file.
func (c *Config) Enrolled(project, sign string) bool {
	for _, e := range c.enrolled(project) {
		if e.Sign == sign {
			return true
		}
	}
	return false
}
