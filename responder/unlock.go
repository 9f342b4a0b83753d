package main

// unlock, and the background program until it has its keys. At a boot nobody is
// there to unlock a keyring or to type a passphrase, so the program says that its
// keys are locked, at its socket, and waits: for the keyring to be unlocked by
// whoever logs in, or for `cfa-responder unlock`, which asks its human in their
// own session and hands the keys over.
//
// The rule it keeps: it takes no other keys than those that its key file names.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/continuousauth/action/internal/keyring"
	"github.com/continuousauth/action/internal/wire"
)

const (
	// lookEvery is how often a keyring that was locked is looked at again. It is
	// asked nothing by that.
	lookEvery = 5 * time.Second
	// askOnce is how long the keyring's own window may stand there at the start.
	askOnce = 10 * time.Minute
)

var errKeysLocked = errors.New("the background program's keys are locked")

// lockedKeys says so, and what to do.
func lockedKeys(why string) error {
	return fmt.Errorf("%w (%s); cfa-responder unlock hands them over", errKeysLocked, why)
}

// keysAtHand gives the keys if nobody need be asked for them; why says what locks
// them, if something does.
func (s keyStore) keysAtHand(ctx context.Context) (k keys, why string, err error) {
	s.pass.unasked = true
	said, err := s.read()
	if err != nil {
		return keys{}, "", missingKeys(s, err)
	}
	switch said.form {
	case inKeyring:
		if err := keyring.Look(ctx); err != nil {
			return keys{}, wire.Clean(err.Error(), 300), nil
		}
		// Unlocked, it still may ask whether this program may have it.
		asking, stop := context.WithTimeout(ctx, askOnce)
		defer stop()
		k, err = s.fromKeyring(asking, said.public)
	default:
		k, err = s.load(ctx)
		if said.form == inFile {
			// What a passphrase costs to try, 256 MiB, is not to stay with a
			// program that is there all day.
			debug.FreeOSMemory()
		}
	}
	if e, ok := errors.AsType[*exit](err); ok && e.code == exitLocked {
		return keys{}, wire.Clean(err.Error(), 300), nil
	}
	return k, "", missingKeys(s, err)
}

// whenUnlocked gives the keys as soon as they can be had, and answers at the
// socket meanwhile that they are locked. say is told why, once for each reason.
func (s keyStore) whenUnlocked(ctx context.Context, ctl *control, say func(string)) (keys, error) {
	said, err := s.read()
	if err != nil {
		return keys{}, missingKeys(s, err)
	}
	if said.form == inPlain {
		return said.keys, nil
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g := &gate{ctl: ctl, public: said.public, why: "they are being fetched", handed: make(chan keys, 1)}
	served := make(chan struct{})
	go func() {
		defer close(served)
		g.serve(ctx)
	}()
	defer func() {
		stop()
		<-served
	}()

	// Each way to them may take as long as a human does, and none holds up another.
	type attempt struct {
		keys keys
		why  string
		err  error
	}
	attempts := make(chan attempt, 1)
	trying := true
	try := func() {
		k, why, err := s.keysAtHand(ctx)
		attempts <- attempt{k, why, err}
	}
	go try()
	asked := make(chan keys, 1)
	told := ""
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return keys{}, nil
		case k := <-g.handed:
			return k, nil
		case k := <-asked:
			return k, nil
		case a := <-attempts:
			trying = false
			if a.err != nil || a.why == "" {
				return a.keys, a.err
			}
			if a.why != told {
				if told == "" && said.form == inKeyring && s.canShow() {
					// Once, where it can be seen, the keyring is asked to show its
					// window: on a desktop that logs in by itself nothing else
					// would unlock it.
					go func() {
						asking, stop := context.WithTimeout(ctx, askOnce)
						defer stop()
						if k, err := s.fromKeyring(asking, said.public); err == nil {
							asked <- k
						}
					}()
				}
				told = a.why
				g.set(told)
				say(lockedKeys(told).Error())
			}
		case <-tick.C:
			if said.form == inKeyring && !trying {
				trying = true
				go try()
			}
		}
	}
}

// canShow says whether a window could be seen here.
func (s keyStore) canShow() bool {
	return runtime.GOOS != "linux" || s.pass.env.get("DISPLAY") != "" || s.pass.env.get("WAYLAND_DISPLAY") != ""
}

// gate answers at the socket as long as the keys are locked.
type gate struct {
	ctl    *control
	public publicKeys
	handed chan keys

	mu  sync.Mutex
	why string
}

func (g *gate) set(why string) {
	g.mu.Lock()
	g.why = why
	g.mu.Unlock()
}

func (g *gate) reason() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.why
}

// serve answers until ctx ends, and leaves the socket open for what comes after.
func (g *gate) serve(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	l, ok := g.ctl.listener.(*net.UnixListener)
	if !ok {
		return
	}
	defer context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Now()) })()
	defer func() { _ = l.SetDeadline(time.Time{}) }()
	g.ctl.admit(&all, func(conn net.Conn) {
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		g.talk(conn)
	})
}

func (g *gate) talk(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, 0, 4096), maxWish)
	for lines.Scan() {
		var w wish
		if err := wire.Decode(lines.Bytes(), maxWish, &w); err != nil {
			return
		}
		clear(lines.Bytes())
		t := told{ID: w.ID}
		var unlocked *keys
		var err error
		switch w.Do {
		case "status":
			s := g.ctl.state()
			s.Locked = g.reason()
			t.Status = &s
		case "unlock":
			if k, ok := parsePlain([]byte(w.Keys)); !ok || k.public() != g.public {
				err = fmt.Errorf("these are not the keys that the background program's key file names (sign: %s); name the same --key-file as it has", g.public.sign)
			} else {
				unlocked = &k
			}
		default:
			err = lockedKeys(g.reason())
		}
		if err != nil {
			t.Error, t.Kind = err.Error(), kindOf(err)
		}
		_ = conn.SetWriteDeadline(time.Now().Add(replyWithin))
		if json.NewEncoder(conn).Encode(t) != nil {
			return
		}
		if unlocked != nil {
			select {
			case g.handed <- *unlocked:
			default: // another was first, with the same
			}
			return
		}
	}
}

type unlockCmd struct {
	place `embed:""`
}

// Run asks for the keys here, where a human is, and hands them to the program that
// waits for them.
func (c *unlockCmd) Run(ctx context.Context, std stdio, env environ) error {
	t, err := c.once(ctx, env, wish{Do: "status"})
	if err != nil {
		return err
	}
	if t.Status == nil || t.Status.Locked == "" {
		fmt.Fprintln(std.err, "nothing is locked: the background program has its keys")
		return nil
	}
	store, err := keyStoreAt(std, env, c.KeyFile)
	if err != nil {
		return err
	}
	store.pass.input = true
	k, err := loadKeys(ctx, store)
	if err != nil {
		return err
	}
	plain, err := encodeKeys(k)
	if err != nil {
		return err
	}
	defer clear(plain)
	if _, err := c.once(ctx, env, wish{Do: "unlock", Keys: string(plain)}); err != nil {
		return err
	}
	fmt.Fprintln(std.err, "the background program has its keys")
	return nil
}

// ending is what is kept of a run that failed, for `cfa-responder status`: a
// service's own words are elsewhere on each system, and on one nowhere.
const ending = "responder.ended"

// noteEnding keeps why a run ended, or forgets an earlier one's end.
func noteEnding(path string, err error) {
	switch {
	case errors.Is(err, errRunning):
	case err == nil:
		_ = os.Remove(path)
	default:
		_ = os.WriteFile(path, []byte(wire.Clean(err.Error(), 1000)+"\n"), 0o600)
	}
}

// lastEnding gives why the last run failed, and when; "" if it did not.
func lastEnding(path string) (why string, at time.Time) {
	info, err := os.Lstat(path)
	if err != nil || !info.Mode().IsRegular() {
		return "", time.Time{}
	}
	data, err := readOwn(path, 8<<10, 0o022)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", time.Time{}
	}
	return wire.Clean(string(data), 1000), info.ModTime()
}
