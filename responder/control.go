package main

// The socket of the background program: other commands of the same user list what
// waits and answer it there, and a terminal attaches to it. Keys, pins and every
// judgement stay in the one program; what comes in is a decision, as from any way
// to ask, and is judged as such.
//
// The rule it keeps: only this user. The socket is made inside a directory that
// nobody else can enter. A code travels through it once, and is in no argument
// list and no file.
//
// Each side writes JSON, a line each: the client what it wants, with a number that
// the reply repeats; the server replies, and after "watch" the news.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/continuousauth/action/internal/answer"
	"github.com/continuousauth/action/internal/wire"
)

const (
	maxWish   = 64 << 10 // bytes of a client's line
	maxTold   = 4 << 20  // bytes of a server's line: everything that waits
	maxAtOnce = 32       // connections
	// helloWithin is how long whatever answers at the socket has to say what it is.
	helloWithin = 5 * time.Second
)

// wish is one line of a client.
type wish struct {
	ID     int              `json:"id"`
	Do     string           `json:"do"` // watch, list, past, open, answer, answer-all, source, follow, decline, away, status, unlock, quit
	Prompt string           `json:"prompt,omitempty"`
	Answer *answer.Answer   `json:"answer,omitempty"`
	All    *answer.Together `json:"all,omitempty"`
	Reason string           `json:"reason,omitempty"`
	Until  time.Time        `json:"until,omitzero"`
	Args   []string         `json:"args,omitempty"` // for a way to ask that is obliging
	Keys   string           `json:"keys,omitempty"` // private, as in a key file; see unlock.go
}

// told is one line of the server.
type told struct {
	ID     int             `json:"id,omitempty"` // of the wish that this replies to; 0: news
	Error  string          `json:"error,omitempty"`
	Kind   string          `json:"kind,omitempty"` // which error: see errorKinds
	Link   string          `json:"link,omitempty"`
	Text   string          `json:"text,omitempty"` // what an obliging way to ask has to say
	Left   []leftOut       `json:"left,omitempty"`
	List   []answer.Prompt `json:"list,omitempty"`
	Past   []answer.Past   `json:"past,omitempty"`
	Status *state          `json:"status,omitempty"`

	Prompt *answer.Prompt  `json:"news,omitempty"`
	Away   *answer.Absence `json:"away,omitempty"`
	Notice string          `json:"notice,omitempty"`
}

type leftOut struct {
	ID    string `json:"id"`
	Error string `json:"error"`
	Kind  string `json:"kind,omitempty"`
}

// state is what the background program says of itself.
type state struct {
	Version string        `json:"version"`
	PID     int           `json:"pid"`
	Since   time.Time     `json:"since"`
	Ways    []string      `json:"ways"`
	Relays  []answer.Line `json:"relays"`
	Waiting int           `json:"waiting"`
	Away    time.Time     `json:"away,omitzero"`    // until when the human is
	Locked  string        `json:"locked,omitempty"` // what keeps its keys from it, while something does
}

// errorKinds are the errors that mean something to a way to ask, by their names on
// the socket.
var errorKinds = []struct {
	name string
	err  error
}{
	{"code", answer.ErrCode}, {"match", answer.ErrMatch}, {"one-each", answer.ErrOneEach}, {"not-answerable", answer.ErrNotAnswerable}, {"until", answer.ErrUntil}, {"source", answer.ErrSource},
	{"locked", errKeysLocked},
}

func kindOf(err error) string {
	for _, k := range errorKinds {
		if errors.Is(err, k.err) {
			return k.name
		}
	}
	return ""
}

// remoteError is an error from the other side of the socket.
type remoteError struct{ text, kind string }

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Is(target error) bool {
	for _, k := range errorKinds {
		if k.name == e.kind && k.err == target {
			return true
		}
	}
	return false
}

func remote(text, kind string) error {
	if text == "" {
		return nil
	}
	err := &remoteError{text, kind}
	if errors.Is(err, errKeysLocked) {
		return &exit{exitLocked, err}
	}
	return err
}

// socketPath is where the background program of this user listens.
func socketPath(env environ, given string) (string, error) {
	if given != "" {
		return given, nil
	}
	if dir := env.get("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "cfa", "responder.sock"), nil
	}
	return env.file("", "responder.sock")
}

// control is the server's side: a way to ask that asks nobody by itself.
type control struct {
	path     string
	listener net.Listener
	lobby    *answer.Lobby
	state    func() state
	obliging []obliging
}

var errRunning = errors.New("the background program runs already")

// newControl listens at path. errRunning: another program does.
func newControl(path string, now func() state) (*control, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, usage("directory for the socket: %w", err)
	}
	if err := private(dir); err != nil {
		return nil, err
	}
	// What is there is somebody's, or left over from a program that was killed.
	if c, err := net.DialTimeout("unix", path, helloWithin); err == nil {
		c.Close()
		return nil, fmt.Errorf("%w (it answers at %s); cfa-responder status says what it does", errRunning, path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, usage("the socket of an earlier run cannot be removed: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, usage("socket: %w; name another place with --socket", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, usage("socket: %w", err)
	}
	return &control{path: path, listener: l, lobby: answer.NewLobby(), state: now}, nil
}

// private says why a directory is not this user's alone.
func private(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return usage("%w", err)
	case !owned(info):
		return usage("%s belongs to another user, who could answer in your place; name another place with --socket", dir)
	case modesCount && info.Mode().Perm()&0o022 != 0:
		return usage("others can write in %s (mode %04o); make it yours alone: chmod 700 %s", dir, info.Mode().Perm(), shellWord(dir))
	}
	return nil
}

// Discreet is answer.Discreet's.
func (c *control) Discreet() {}

// Ask is answer.Asker's.
func (c *control) Ask(ctx context.Context, news <-chan answer.News, desk answer.Decisions) error {
	serving, stop := context.WithCancel(ctx)
	var all sync.WaitGroup
	all.Go(func() { c.admit(&all, func(conn net.Conn) { c.serve(serving, conn) }) })
	err := c.lobby.Ask(ctx, news, desk)
	c.listener.Close() // which removes the socket
	stop()
	all.Wait()
	return err
}

// admit serves whoever connects, a bounded number at once, until the listener gives
// no more. Those that are there by then are all's to wait for.
func (c *control) admit(all *sync.WaitGroup, serve func(net.Conn)) {
	slots := make(chan struct{}, maxAtOnce)
	for {
		conn, err := c.listener.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		all.Go(func() {
			defer func() { <-slots }()
			serve(conn)
		})
	}
}

func (c *control) serve(ctx context.Context, conn net.Conn) {
	ctx, stop := context.WithCancel(ctx)
	var slow sync.WaitGroup
	defer func() {
		stop()
		slow.Wait()
	}()
	context.AfterFunc(ctx, func() { conn.Close() })
	_, desk, err := c.lobby.Join(ctx) // leaves with ctx; its news are dropped below
	if err != nil {
		return
	}
	var mu sync.Mutex
	say := func(t told) {
		mu.Lock()
		defer mu.Unlock()
		// A client that does not read holds only itself up, and not for ever.
		_ = conn.SetWriteDeadline(time.Now().Add(30 * time.Second))
		if err := json.NewEncoder(conn).Encode(t); err != nil {
			stop()
		}
	}
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 0, 4096), maxWish)
	for lines.Scan() {
		var w wish
		if err := wire.Decode(lines.Bytes(), maxWish, &w); err != nil {
			return // of another version, or no client at all
		}
		if w.Do == "watch" {
			news, _, err := c.lobby.Join(ctx)
			if err != nil {
				return
			}
			say(told{ID: w.ID})
			go func() {
				for n := range news {
					say(told{Prompt: n.Prompt, Away: n.Away, Notice: n.Notice})
				}
				stop() // the program ends, or the client has gone
			}()
			continue
		}
		if w.Do == "source" {
			// It takes as long as a human's finger, and what else its client wants
			// (to decline it, say) shall not wait for that.
			slow.Go(func() { say(c.grant(ctx, desk, w)) })
			continue
		}
		say(c.grant(ctx, desk, w))
	}
}

// grant does what one wish says.
func (c *control) grant(ctx context.Context, desk answer.Decisions, w wish) told {
	t := told{ID: w.ID}
	var err error
	switch {
	case w.Do == "list":
		t.List = c.lobby.Waiting()
	case w.Do == "past":
		t.Past = c.lobby.Past()
	case w.Do == "status":
		s := c.state()
		s.Waiting, s.Away = len(c.lobby.Waiting()), c.lobby.Away().Until
		t.Status = &s
	case w.Do == "open":
		desk.Open(w.Prompt)
	case w.Do == "answer" && w.Answer != nil:
		err = desk.Answer(ctx, *w.Answer)
	case w.Do == "source" && w.Answer != nil:
		err = desk.UseSource(ctx, *w.Answer)
	case w.Do == "answer-all" && w.All != nil:
		var left []answer.LeftOut
		left, err = desk.AnswerAll(ctx, *w.All)
		for _, l := range left {
			t.Left = append(t.Left, leftOut{l.ID, l.Err.Error(), kindOf(l.Err)})
		}
	case w.Do == "follow" && w.Answer != nil:
		t.Link, err = desk.Follow(ctx, *w.Answer)
	case w.Do == "quit":
		desk.Quit()
	case w.Do == "away":
		err = desk.Away(ctx, w.Until)
	case w.Do == "decline":
		err = desk.Decline(ctx, w.Prompt, w.Reason)
	default:
		for _, way := range c.obliging {
			text, known, err := way.oblige(ctx, w.Do, w.Args)
			if known {
				t.Text = text
				if err != nil {
					t.Error, t.Kind = err.Error(), kindOf(err)
				}
				return t
			}
		}
		if needs := obligedBy[w.Do]; needs != "" {
			err = fmt.Errorf("%s is no way by which the background program asks; name it under `ask` in responder.yaml, and restart it", needs)
			break
		}
		err = fmt.Errorf("%q is nothing that this version does; the background program may be older than this command: restart it", wire.CleanName(w.Do, 40))
	}
	if err != nil {
		t.Error, t.Kind = err.Error(), kindOf(err)
	}
	return t
}

// attached is a client: the desk of the background program, as if it were here.
type attached struct {
	conn net.Conn
	news *answer.Courier // so that news which nobody takes hold up no reply
	gone chan struct{}   // closed when nothing more can come

	mu      sync.Mutex
	next    int
	waiting map[int]chan told
}

var errNotRunning = errors.New("no background program runs")

// attach connects to the background program.
func attach(path string) (*attached, error) {
	if err := private(filepath.Dir(path)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, notRunning(path)
		}
		return nil, err
	}
	conn, err := net.DialTimeout("unix", path, helloWithin)
	if err != nil {
		return nil, notRunning(path)
	}
	a := &attached{conn: conn, news: answer.NewCourier(), gone: make(chan struct{}), waiting: map[int]chan told{}}
	go a.read()
	return a, nil
}

func notRunning(path string) error {
	return &exit{exitUnavailable, fmt.Errorf("%w (nothing answers at %s); start it with cfa-responder run, or have it started with you: cfa-responder install", errNotRunning, path)}
}

func (a *attached) read() {
	defer a.news.Close()
	defer close(a.gone)
	lines := bufio.NewScanner(a.conn)
	lines.Buffer(make([]byte, 0, 64<<10), maxTold)
	for lines.Scan() {
		var t told
		if json.Unmarshal(lines.Bytes(), &t) != nil {
			return
		}
		if t.ID == 0 {
			a.news.Tell(answer.News{Prompt: t.Prompt, Away: t.Away, Notice: t.Notice})
			continue
		}
		a.mu.Lock()
		c := a.waiting[t.ID]
		delete(a.waiting, t.ID)
		a.mu.Unlock()
		if c != nil {
			c <- t
		}
	}
}

func (a *attached) close() { a.conn.Close() }

var errDetached = errors.New("the background program has ended, or was restarted; nothing was sent")

// ask sends one wish and waits for its reply.
func (a *attached) ask(ctx context.Context, w wish) (told, error) {
	c := make(chan told, 1)
	a.mu.Lock()
	a.next++
	w.ID = a.next
	a.waiting[w.ID] = c
	line, err := json.Marshal(w)
	if err == nil {
		_, err = a.conn.Write(append(line, '\n'))
	}
	clear(line)
	a.mu.Unlock()
	if err != nil {
		return told{}, errDetached
	}
	select {
	case t := <-c:
		return t, remote(t.Error, t.Kind)
	case <-a.gone:
		select {
		case t := <-c: // it was the last thing said
			return t, remote(t.Error, t.Kind)
		default:
			return told{}, errDetached
		}
	case <-ctx.Done():
		return told{}, context.Cause(ctx)
	}
}

// run has asker ask through the background program, until it, or the program,
// ends.
func (a *attached) run(ctx context.Context, asker answer.Asker) error {
	defer a.close()
	defer context.AfterFunc(ctx, a.close)()
	quit := &leaver{attached: a}
	reading, stop := context.WithCancel(ctx)
	defer stop()
	locked := make(chan error, 1)
	go func() {
		if _, err := a.ask(ctx, wish{Do: "watch"}); errors.Is(err, errKeysLocked) {
			locked <- err
			a.close()
		}
	}()
	err := asker.Ask(ctx, a.news.News(reading), quit)
	a.close()
	<-a.gone
	select {
	case err := <-locked:
		return err
	default:
	}
	if err == nil && ctx.Err() == nil && !quit.left() {
		return &exit{exitUnavailable, errDetached}
	}
	return err
}

// Open is answer.Decisions'.
func (a *attached) Open(id string) {
	go func() { _, _ = a.ask(context.Background(), wish{Do: "open", Prompt: id}) }()
}

// Answer is answer.Decisions'.
func (a *attached) Answer(ctx context.Context, d answer.Answer) error {
	_, err := a.ask(ctx, wish{Do: "answer", Answer: &d})
	return err
}

// AnswerAll is answer.Decisions'.
func (a *attached) AnswerAll(ctx context.Context, d answer.Together) ([]answer.LeftOut, error) {
	t, err := a.ask(ctx, wish{Do: "answer-all", All: &d})
	var left []answer.LeftOut
	for _, l := range t.Left {
		left = append(left, answer.LeftOut{ID: l.ID, Err: remote(l.Error, l.Kind)})
	}
	return left, err
}

// UseSource is answer.Decisions'.
func (a *attached) UseSource(ctx context.Context, d answer.Answer) error {
	_, err := a.ask(ctx, wish{Do: "source", Answer: &d})
	return err
}

// Follow is answer.Decisions'.
func (a *attached) Follow(ctx context.Context, d answer.Answer) (string, error) {
	t, err := a.ask(ctx, wish{Do: "follow", Answer: &d})
	return t.Link, err
}

// Decline is answer.Decisions'.
func (a *attached) Decline(ctx context.Context, id, reason string) error {
	_, err := a.ask(ctx, wish{Do: "decline", Prompt: id, Reason: reason})
	return err
}

// Away is answer.Decisions'.
func (a *attached) Away(ctx context.Context, until time.Time) error {
	_, err := a.ask(ctx, wish{Do: "away", Until: until})
	return err
}

// Quit is answer.Decisions'.
func (a *attached) Quit() { a.close() }

// leaver is an attached asker's desk: its Quit leaves the program running.
type leaver struct {
	*attached
	mu   sync.Mutex
	quit bool
}

// Quit detaches.
func (l *leaver) Quit() {
	l.mu.Lock()
	l.quit = true
	l.mu.Unlock()
	l.attached.Quit()
}

func (l *leaver) left() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.quit
}
