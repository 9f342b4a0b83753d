//go:build !windows && !darwin

package main

// The desktop of a system with D-Bus and X or Wayland. Notifications go over D-Bus,
// which no other user can listen to; windows are zenity's, and what they say of a
// job is written to its standard input, for arguments can be read by every user of
// the machine.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"html"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/ncruces/zenity"

	"github.com/continuousauth/action/internal/wire"
)

func lacksDesktop(s surroundings) string {
	if s.env.get("DISPLAY") == "" && s.env.get("WAYLAND_DISPLAY") == "" {
		return "a display: neither DISPLAY nor WAYLAND_DISPLAY is set here (over ssh, or before the desktop is up, there is none)"
	}
	if zenityPath() == "" {
		return "zenity, which shows the windows; install the package of that name"
	}
	return ""
}

// zenityPath finds the program that the library finds.
func zenityPath() string {
	for _, name := range []string{"qarma", "zenity", "matedialog"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// zenityPanes are windows of zenity.
type zenityPanes struct{ env environ }

func newPanes(env environ) panes { return zenityPanes{env} }

// show is panes'. Its text has the keyboard, which can do nothing to it, and Enter
// is the first button's: whoever types when it comes up has chosen Later at worst.
func (z zenityPanes) show(ctx context.Context, s sheetOf) (choice, error) {
	args := []string{
		"--text-info", "--title", s.title, "--font", "Monospace 10", "--width", "760", "--height", "620",
		"--cancel-label", "Close", "--ok-label", "Later",
	}
	labels := map[string]choice{"": chosenClose}
	for _, b := range []struct {
		label string
		means choice
		here  bool
	}{{s.proceed, chosenProceed, s.proceed != ""}, {"Decline…", chosenDecline, s.decline}} {
		if b.here {
			args, labels[b.label] = append(args, "--extra-button", b.label), b.means
		}
	}
	path := zenityPath()
	if path == "" {
		return 0, errors.New("zenity is not there any more")
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.WaitDelay = z.env, time.Second
	cmd.Stdin = strings.NewReader(s.text)
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err == nil {
		return chosenLater, nil
	}
	// It ends with 1 for each of the other buttons, and for a display that is gone.
	var e *exec.ExitError
	if errors.As(err, &e) && e.ExitCode() == 1 {
		if c, ok := labels[string(bytes.TrimSuffix(out, []byte("\n")))]; ok && (c != chosenClose || !bytes.Contains(e.Stderr, []byte("cannot open display"))) {
			return c, nil
		}
	}
	return 0, zenityFailed(err)
}

// enter is panes'.
func (z zenityPanes) enter(ctx context.Context, f fieldOf) (string, error) {
	options := []zenity.Option{
		zenity.Context(ctx), zenity.Title(f.title), zenity.OKLabel(f.proceed), zenity.CancelLabel("Back"), zenity.Width(520),
	}
	if f.hidden {
		options = append(options, zenity.HideText())
	}
	// Zenity takes a backslash for the beginning of a character.
	line, err := zenity.Entry(strings.ReplaceAll(f.text, `\`, `\\`), options...)
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.Is(err, zenity.ErrCanceled):
		return "", errBack
	case err != nil:
		return "", zenityFailed(err)
	}
	return line, nil
}

// zenityFailed says why, in one line: what it has written is its own.
func zenityFailed(err error) error {
	why := err.Error()
	var e *exec.ExitError
	if errors.As(err, &e) {
		why = e.Error()
		if said := strings.TrimSpace(string(e.Stderr)); said != "" {
			lines := strings.Split(said, "\n")
			why += ": " + lines[len(lines)-1]
		}
	}
	return fmt.Errorf("zenity: %s", wire.Clean(why, 200))
}

const (
	notifications = "org.freedesktop.Notifications"
	bellPath      = "/org/freedesktop/Notifications"
	// whoRings is the name that a desktop shows, and by which it is muted there.
	whoRings = "cfa-responder"
)

// busBell shows notifications by D-Bus.
type busBell struct {
	env     environ
	touches chan touch

	mu     sync.Mutex
	conn   *dbus.Conn
	waits  uint32 // id of what is shown of what waits; 0: nothing
	remark uint32
}

func newBell(env environ) bell { return &busBell{env: env, touches: make(chan touch, 8)} }

func (b *busBell) touched() <-chan touch { return b.touches }

// address is where the session's bus is. Nothing is started where there is none.
func (b *busBell) address() (string, error) {
	if a := b.env.get("DBUS_SESSION_BUS_ADDRESS"); a != "" {
		return a, nil
	}
	if dir := b.env.get("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		return "unix:path=" + dbus.EscapeBusAddressValue(filepath.Join(dir, "bus")), nil
	}
	return "", errors.New("neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set here, so there is no way to the desktop's notifications")
}

// connected gives the connection, a new one where the last is gone.
func (b *busBell) connected() (*dbus.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conn != nil && b.conn.Connected() {
		return b.conn, nil
	}
	address, err := b.address()
	if err != nil {
		return nil, err
	}
	conn, err := dbus.Connect(address)
	if err != nil {
		return nil, fmt.Errorf("the session's D-Bus: %w", err)
	}
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	for _, member := range []string{"ActionInvoked", "NotificationClosed"} {
		err = errors.Join(err, conn.AddMatchSignal(dbus.WithMatchSender(notifications), dbus.WithMatchInterface(notifications), dbus.WithMatchMember(member)))
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("the session's D-Bus: %w", err)
	}
	b.conn, b.waits, b.remark = conn, 0, 0
	go b.listen(signals)
	return conn, nil
}

// dismissedByHuman is a notification's end by its reader, in the specification's
// numbers.
const dismissedByHuman = 2

// listen hears what is done with the notifications, until the connection ends.
func (b *busBell) listen(signals <-chan *dbus.Signal) {
	for s := range signals {
		var id, reason uint32
		var action string
		t := clicked
		switch s.Name {
		case notifications + ".ActionInvoked":
			if dbus.Store(s.Body, &id, &action) != nil {
				continue
			}
		case notifications + ".NotificationClosed":
			if dbus.Store(s.Body, &id, &reason) != nil {
				continue
			}
			t = dismissed
		default:
			continue
		}
		b.mu.Lock()
		ours := id != 0 && id == b.waits
		if ours && t == dismissed {
			b.waits = 0
		}
		b.mu.Unlock()
		if !ours || t == dismissed && reason != dismissedByHuman {
			continue
		}
		select {
		case b.touches <- t:
		default:
		}
	}
}

// ring is bell's.
func (b *busBell) ring(ctx context.Context, n notice) (heard bool, err error) {
	conn, err := b.connected()
	if err != nil {
		return false, err
	}
	server := conn.Object(notifications, bellPath)
	var can []string
	if err := server.CallWithContext(ctx, notifications+".GetCapabilities", 0).Store(&can); err != nil {
		return false, fmt.Errorf("no notification can be shown: %w", err)
	}
	body := n.body
	if slices.Contains(can, "body-markup") {
		body = html.EscapeString(body)
	}
	b.mu.Lock()
	replaces := b.waits
	if n.remark {
		replaces = b.remark
	}
	b.mu.Unlock()
	hints := map[string]dbus.Variant{"urgency": dbus.MakeVariant(byte(1))}
	expires := int32(-1) // as that desktop does
	var actions []string
	if !n.remark && !n.minor {
		hints["urgency"], expires = dbus.MakeVariant(byte(2)), 0 // it stays until it is touched
	}
	if !n.remark {
		actions = []string{"default", "Show", "show", "Show"}
		if !n.calm && replaces != 0 {
			// What takes an old one's place is seen by nobody who has not seen that.
			_ = server.CallWithContext(ctx, notifications+".CloseNotification", 0, replaces).Err
			replaces = 0
		}
	}
	if n.calm {
		hints["suppress-sound"] = dbus.MakeVariant(true)
	}
	var id uint32
	if err := server.CallWithContext(ctx, notifications+".Notify", 0, whoRings, replaces, "dialog-password", n.title, body, actions, hints, expires).Store(&id); err != nil {
		return false, fmt.Errorf("no notification can be shown: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n.remark {
		b.remark = id
	} else {
		b.waits = id
	}
	return slices.Contains(can, "actions"), nil
}

// hush is bell's.
func (b *busBell) hush(ctx context.Context) {
	b.mu.Lock()
	id, conn := b.waits, b.conn
	b.waits = 0
	b.mu.Unlock()
	if id != 0 {
		_ = conn.Object(notifications, bellPath).CallWithContext(ctx, notifications+".CloseNotification", 0, id).Err
	}
}
