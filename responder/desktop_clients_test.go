//go:build clients && linux

package main

// The desktop as its human has it: a real X server, a window manager, a notification
// daemon on a bus of its own, zenity's windows; and a keyboard and a mouse. With
// CFA_PICTURES=DIR it leaves the pictures of docs/ there.

import (
	"bytes"
	"context"
	"html"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/continuousauth/action/internal/seal"
	"github.com/continuousauth/action/internal/wire"
)

// realDesktop is one, with nobody else at it.
type realDesktop struct {
	t       testing.TB
	display string // :N
	bus     string // address
	dunst   *exec.Cmd
	config  string

	mu      sync.Mutex
	notices []shownNotice // in order
}

// shownNotice is what a notification daemon was told.
type shownNotice struct {
	title, body string
	urgency     byte
	at          time.Time
}

// needs skips where a program is missing, but not in CI.
func needs(t testing.TB, programs ...string) {
	t.Helper()
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatalf("%s is missing; .ci/run installs it", name)
			}
			t.Skipf("%s is missing: .ci/run lists the package that has it", name)
		}
	}
}

func newRealDesktop(t testing.TB) *realDesktop {
	t.Helper()
	needs(t, "Xvfb", "openbox", "dbus-daemon", "dunst", "zenity", "xdotool")
	d := &realDesktop{t: t}

	// The server picks a display that is free, and tells it when it is ready.
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	x := exec.Command("Xvfb", "-displayfd", "3", "-screen", "0", "1024x768x24", "-nolisten", "tcp", "-dpi", "96")
	x.ExtraFiles = []*os.File{write}
	d.start(x)
	write.Close()
	d.display = ":" + firstOf(t, read)

	read, write, err = os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	// A configuration of its own: the machine's would start services of it.
	dir := t.TempDir()
	socket, err := os.MkdirTemp("", "cfa")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(socket) })
	config := filepath.Join(dir, "bus.conf")
	d.write(config, `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path=`+filepath.Join(socket, "bus")+`</listen><auth>EXTERNAL</auth>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`)
	bus := exec.Command("dbus-daemon", "--nofork", "--config-file", config, "--print-address=3")
	bus.ExtraFiles = []*os.File{write}
	d.start(bus)
	write.Close()
	d.bus = firstOf(t, read)

	d.start(d.at("openbox", "--sm-disable"))
	d.config = filepath.Join(dir, "dunstrc")
	d.write(d.config, `[global]
    mouse_left_click = do_action
    mouse_right_click = close_current
    origin = top-right
    offset = 16x16
    width = 420
    height = 300
    font = DejaVu Sans 10
    markup = full
    format = "<b>%s</b>\n%b"
`)
	d.watch()
	d.notifies()
	return d
}

func firstOf(t testing.TB, f *os.File) string {
	t.Helper()
	defer f.Close()
	_ = f.SetReadDeadline(time.Now().Add(30 * time.Second))
	var b bytes.Buffer
	buf := make([]byte, 256)
	for !strings.Contains(b.String(), "\n") {
		n, err := f.Read(buf)
		if err != nil {
			t.Fatalf("it did not start: %v", err)
		}
		b.Write(buf[:n])
	}
	return strings.TrimSpace(b.String())
}

func (d *realDesktop) write(path, text string) {
	d.t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

// env is what a program needs to be on this desktop.
func (d *realDesktop) env() []string {
	return []string{"DISPLAY=" + d.display, "WAYLAND_DISPLAY=", "DBUS_SESSION_BUS_ADDRESS=" + d.bus, "NO_AT_BRIDGE=1", "XDG_SESSION_TYPE=x11"}
}

func (d *realDesktop) at(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), d.env()...)
	return cmd
}

// start starts a program that ends with the test.
func (d *realDesktop) start(cmd *exec.Cmd) *exec.Cmd {
	d.t.Helper()
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	d.t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	return cmd
}

// notifies starts the notification daemon, and waits until it is there.
func (d *realDesktop) notifies() {
	d.t.Helper()
	d.dunst = d.start(d.at("dunst", "-conf", d.config))
	conn := d.dial()
	defer conn.Close()
	d.until("a notification daemon", func() bool {
		var owned bool
		err := conn.BusObject().Call("org.freedesktop.DBus.NameHasOwner", 0, notifications).Store(&owned)
		return err == nil && owned
	})
}

func (d *realDesktop) dial() *dbus.Conn {
	d.t.Helper()
	conn, err := dbus.Connect(d.bus)
	if err != nil {
		d.t.Fatal(err)
	}
	return conn
}

// watch keeps what the notification daemon is told.
func (d *realDesktop) watch() {
	d.t.Helper()
	conn := d.dial()
	d.t.Cleanup(func() { conn.Close() })
	if err := conn.BusObject().Call("org.freedesktop.DBus.Monitoring.BecomeMonitor", 0, []string{"type='method_call',interface='" + notifications + "',member='Notify'"}, uint32(0)).Err; err != nil {
		d.t.Fatal(err)
	}
	seen := make(chan *dbus.Message, 100)
	conn.Eavesdrop(seen)
	go func() {
		for m := range seen {
			if m.Type != dbus.TypeMethodCall || len(m.Body) != 8 {
				continue
			}
			n := shownNotice{at: time.Now()}
			n.title, _ = m.Body[3].(string)
			n.body, _ = m.Body[4].(string)
			hints, _ := m.Body[6].(map[string]dbus.Variant)
			n.urgency, _ = hints["urgency"].Value().(byte)
			d.mu.Lock()
			d.notices = append(d.notices, n)
			d.mu.Unlock()
		}
	}()
}

func (d *realDesktop) until(what string, ok func() bool) {
	d.t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), 60*time.Second)
	defer stop()
	for !ok() {
		select {
		case <-ctx.Done():
			d.picture("failed-" + strings.ReplaceAll(d.t.Name(), "/", "-"))
			d.t.Fatalf("there was never %s; notices: %+v", what, d.told())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (d *realDesktop) told() []shownNotice {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]shownNotice{}, d.notices...)
}

// notice waits for a notification with this in it, after the first n of them.
func (d *realDesktop) notice(n int, what string) (found shownNotice, next int) {
	d.t.Helper()
	d.until("a notification with "+strconv.Quote(what), func() bool {
		all := d.told()
		for i := n; i < len(all); i++ {
			if strings.Contains(all[i].title+"\n"+all[i].body, what) {
				found, next = all[i], i+1
				return true
			}
		}
		return false
	})
	return found, next
}

// xdo runs xdotool.
func (d *realDesktop) xdo(args ...string) (string, error) {
	out, err := d.at("xdotool", args...).Output()
	return strings.TrimSpace(string(out)), err
}

// window waits for the window of this title to have the keyboard.
func (d *realDesktop) window(title string) string {
	d.t.Helper()
	id := ""
	d.until("a window "+title, func() bool {
		out, err := d.xdo("search", "--onlyvisible", "--name", "^"+title+"$")
		if err != nil || out == "" {
			return false
		}
		id = strings.Fields(out)[0]
		focus, err := d.xdo("getactivewindow")
		if err == nil && focus == id {
			return true
		}
		_, _ = d.xdo("windowactivate", id)
		return false
	})
	return id
}

func (d *realDesktop) gone(title string) {
	d.t.Helper()
	d.until("no window "+title, func() bool {
		out, _ := d.xdo("search", "--onlyvisible", "--name", "^"+title+"$")
		return out == ""
	})
}

func (d *realDesktop) keys(keys ...string) {
	d.t.Helper()
	if _, err := d.xdo(append([]string{"key", "--delay", "40", "--clearmodifiers"}, keys...)...); err != nil {
		d.t.Fatal(err)
	}
}

func (d *realDesktop) types(text string) {
	d.t.Helper()
	if _, err := d.xdo("type", "--delay", "30", text); err != nil {
		d.t.Fatal(err)
	}
}

// press presses the nth button of a window of facts: Close, Later, and those that
// decide.
func (d *realDesktop) press(n int) {
	d.t.Helper()
	for range n {
		d.keys("Tab")
	}
	d.keys("space")
}

// click clicks the notification that is shown.
func (d *realDesktop) click() {
	d.t.Helper()
	id := ""
	d.until("a notification on the screen", func() bool {
		out, err := d.xdo("search", "--onlyvisible", "--class", "Dunst")
		if err == nil && out != "" {
			id = strings.Fields(out)[0]
		}
		return id != ""
	})
	if _, err := d.xdo("mousemove", "--window", id, "40", "20", "click", "1"); err != nil {
		d.t.Fatal(err)
	}
}

// picture keeps what is on the screen, if somebody wants to see it.
func (d *realDesktop) picture(name string) {
	dir := os.Getenv("CFA_PICTURES")
	if dir == "" {
		return
	}
	time.Sleep(300 * time.Millisecond) // until it is drawn
	if out, err := d.at("import", "-window", "root", "-trim", "+repage", "+dither", "-colors", "64", filepath.Join(dir, name+".png")).CombinedOutput(); err != nil {
		d.t.Errorf("import: %v %s", err, out)
	}
}

// arguments are those of all programs on this desktop.
func (d *realDesktop) arguments() string {
	var b strings.Builder
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range all {
		if env, _ := os.ReadFile(filepath.Join(dir, "environ")); !bytes.Contains(env, []byte("DBUS_SESSION_BUS_ADDRESS="+d.bus+"\x00")) {
			continue
		}
		line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		b.Write(bytes.ReplaceAll(line, []byte{0}, []byte{' '}))
		b.WriteByte('\n')
	}
	return b.String()
}

const (
	factsWindow = "cfa-responder: request #1"
	codeWindow  = factsWindow + ", code"
	matchWindow = factsWindow + ", match code"
	noWindow    = factsWindow + ", decline"
)

func TestAHumanAnswersOnARealDesktop(t *testing.T) {
	t.Parallel()
	d := newRealDesktop(t)
	s := newScene(t)
	s.pin()
	p := s.background("ask: [desktop]\n", d.env()...)
	j := s.job(repo, map[string]any{"environment": "npm"}, func(r *wire.Request) { r.Message = "release v1.2.3" })
	s.relay.Ask(j)
	n, at := d.notice(0, "electron/asar wants a code for npm")
	if n.urgency != 2 || !strings.Contains(html.UnescapeString(n.body), "Match code: "+seal.Match(j.Digest)) {
		t.Errorf("the notification is %+v", n)
	}
	d.picture("desktop-notification")
	if out, _ := d.xdo("search", "--onlyvisible", "--name", "^cfa-responder: "); out != "" {
		t.Error("a window came before the notification was clicked")
	}
	d.click()
	d.window(factsWindow)
	d.picture("desktop-facts")
	if args := d.arguments(); !strings.Contains(args, factsWindow) {
		t.Errorf("the arguments are not seen: %s", args)
	} else if strings.Contains(args, seal.Match(j.Digest)) || strings.Contains(args, repo) {
		t.Error("what asks can be read off an argument list")
	}
	d.press(3)
	d.window(codeWindow)
	d.types("12345")
	d.keys("Return")
	d.until("the reason why 12345 is no code", func() bool { return strings.Contains(d.arguments(), "the code has 5 characters, not 6") })
	d.window(codeWindow)
	d.types(code)
	d.picture("desktop-code")
	if args := d.arguments(); strings.Contains(args, repo) {
		t.Error("what asks can be read off an argument list")
	}
	d.keys("Return")
	if c := got(t, j); c != code {
		t.Errorf("the job opened %q", c)
	}
	_, at = d.notice(at, "The relay says that the job has your code")
	d.gone("cfa-responder: .*")
	s.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })

	k := s.job(repo, nil, s.approval())
	s.relay.Ask(k)
	n, at = d.notice(at, "Your yes is wanted")
	if strings.Contains(n.body, seal.Match(k.Digest)) {
		t.Error("the match code that is to be typed is shown")
	}
	d.click()
	d.window("cfa-responder: request #2")
	d.picture("desktop-approval")
	d.press(3)
	d.window("cfa-responder: request #2, match code")
	d.types(seal.Match(j.Digest))
	d.keys("Return")
	d.until("the reason why that is no match code", func() bool { return strings.Contains(d.arguments(), "not this request's match code") })
	d.window("cfa-responder: request #2, match code")
	d.types(seal.Match(k.Digest))
	d.keys("Return")
	until(t, func() bool { return len(s.relay.Messages(wire.VerbAnswer)) == 2 })

	l := s.job(repo, nil, nil)
	s.relay.Ask(l)
	d.notice(at, "A code is wanted")
	d.click()
	d.window("cfa-responder: request #3")
	d.press(4)
	d.window("cfa-responder: request #3, decline")
	d.types("not mine")
	d.picture("desktop-decline")
	d.keys("Return")
	until(t, func() bool { return len(s.relay.Messages(wire.VerbDecline)) == 1 })
	for _, secret := range []string{code, "12345"} {
		s.nowhere(p, secret)
	}
	for _, n := range d.told() {
		if strings.Contains(n.title+n.body, code) {
			t.Errorf("the code is in a notification: %+v", n)
		}
	}
}

// A window that takes the keyboard while its human types elsewhere must do nothing
// with what is typed.
func TestWhatIsTypedForAnotherWindowAnswersNothing(t *testing.T) {
	t.Parallel()
	d := newRealDesktop(t)
	s := newScene(t)
	s.pin()
	s.background("ask: [desktop]\ndesktop: {window: at-once}\n", d.env()...)
	d.start(d.at("zenity", "--text-info", "--editable", "--title", "notes"))
	d.window("notes")
	d.types("my code is ")
	j := s.job(repo, nil, nil)
	s.relay.Ask(j)
	d.window(factsWindow)
	d.types(code + " y")
	d.window(factsWindow) // still there
	d.keys("Return")
	d.gone(factsWindow)
	// One window at a time: the next prompt's comes only if Enter has opened none.
	s.relay.Ask(s.job(repo, nil, nil))
	d.window("cfa-responder: request #2")
	out, _, _ := s.says("", "list")
	if !strings.Contains(out, "#1 verified") {
		t.Errorf("it does not wait any more: %s", out)
	}
	if n := len(s.relay.Messages(wire.VerbAnswer)) + len(s.relay.Messages(wire.VerbDecline)); n != 0 {
		t.Errorf("%d decisions left", n)
	}
}

func TestARealWindowIsClosedWhenSomebodyElseWasFirst(t *testing.T) {
	t.Parallel()
	d := newRealDesktop(t)
	s := newScene(t)
	s.pin()
	p := s.background("ask: [desktop]\n", d.env()...)
	j := s.job(repo, map[string]any{"actor": "<b>octocat</b>", "workflow": hostile + "<i>&amp;"}, nil)
	s.relay.Ask(j)
	n, at := d.notice(0, "A code is wanted")
	if strings.ContainsAny(n.body, "<>\x1b\u202e\u200b") || !strings.Contains(n.body, "&lt;b&gt;octocat&lt;/b&gt;") || !strings.Contains(n.body, "&lt;U+001B&gt;") {
		t.Errorf("the notification is %+v", n)
	}
	d.picture("desktop-hostile")
	d.click()
	d.window(factsWindow)
	d.press(3)
	d.window(codeWindow)
	d.types(code[:4])
	s.relay.Set(j, func(i *wire.Item) {
		i.State.State, i.State.By, i.State.Sealed = "answered", "grace", strings.Repeat("ab", 32)
	})
	_, at = d.notice(at, "what was typed went nowhere: grace answered")
	d.gone("cfa-responder: .*")
	d.picture("desktop-taken")

	// The windows' program, and then the notification daemon, are killed: it goes on.
	s.relay.Set(j, func(i *wire.Item) { i.State.State = "done" })
	k := s.job(repo, nil, nil)
	s.relay.Ask(k)
	_, at = d.notice(at, "A code is wanted")
	d.click()
	id := d.window("cfa-responder: request #2")
	pid, err := d.xdo("getwindowpid", id)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := strconv.Atoi(pid); err != nil {
		t.Fatal(err)
	} else if z, err := os.FindProcess(n); err != nil {
		t.Fatal(err)
	} else if err := z.Kill(); err != nil {
		t.Fatal(err)
	}
	_, at = d.notice(at, "Its window could not be shown; it rings again.")
	_ = d.dunst.Process.Kill()
	l := s.job(repo, nil, nil)
	s.relay.Ask(l)
	// Nothing can be clicked, so the windows come by themselves.
	d.window("cfa-responder: request #3")
	d.notifies()
	d.press(3)
	d.window("cfa-responder: request #3, match code") // two of the project are open
	d.types(seal.Match(l.Digest))
	d.keys("Return")
	d.window("cfa-responder: request #3, code")
	d.types(code)
	d.keys("Return")
	if c := got(t, l); c != code {
		t.Errorf("the job opened %q", c)
	}
	_, at = d.notice(at, "The relay says that the job has your code")
	s.relay.Ask(s.job(repo, nil, nil))
	d.notice(at, "2 requests wait for you")
	d.click()
	d.window("cfa-responder: request #2") // which still waits
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.ends(); err != nil {
		t.Errorf("ended with %v", err)
	}
	d.gone("cfa-responder: .*")
	log, err := os.ReadFile(s.logs())
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"desktop window", "desktop notification"} {
		if !bytes.Contains(log, []byte(want)) {
			t.Errorf("the log does not say %s", want)
		}
	}
	s.nowhere(p, code)
}

func TestWithoutADesktopItIsSaid(t *testing.T) {
	t.Parallel()
	needs(t, "zenity")
	dir := t.TempDir()
	file := filepath.Join(dir, "responder.yaml")
	if err := os.WriteFile(file, []byte("relays: [{url: wss://cfa.example}]\nask: [desktop]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cfa-responder", "keygen", "--key-file", filepath.Join(dir, "key"), "--name", "ada").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	for _, test := range []struct{ env, want string }{
		{"DISPLAY=", "this machine lacks a display: neither DISPLAY nor WAYLAND_DISPLAY is set here"},
		{"DISPLAY=:9 PATH=/nonexistent", "this machine lacks zenity"},
	} {
		path, err := exec.LookPath("cfa-responder")
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(path, "run", "--settings", file, "--key-file", filepath.Join(dir, "key"), "--pins", filepath.Join(dir, "pins"), "--socket", filepath.Join(dir, "s"))
		cmd.Env = append(append(os.Environ(), "WAYLAND_DISPLAY="), strings.Fields(test.env)...)
		out, err := cmd.CombinedOutput()
		if err == nil || cmd.ProcessState.ExitCode() != exitUsage || !strings.Contains(string(out), test.want) {
			t.Errorf("%s: %v %s", test.env, err, out)
		}
	}
}

// BenchmarkDesktopNotification measures from a prompt that a relay publishes, through
// the job's proof, to its notification on the screen.
func BenchmarkDesktopNotification(b *testing.B) {
	d := newRealDesktop(b)
	s := newScene(b)
	s.pin()
	s.background("ask: [desktop]\n", d.env()...)
	conn := d.dial()
	defer conn.Close()
	displayed := func() uint32 {
		v, err := conn.Object(notifications, bellPath).GetProperty("org.dunstproject.cmd0.displayedLength")
		if err != nil {
			b.Fatal(err)
		}
		n, _ := v.Value().(uint32)
		return n
	}
	wait := func(want bool) {
		for deadline := time.Now().Add(30 * time.Second); displayed() > 0 != want; {
			if time.Now().After(deadline) {
				b.Fatalf("displayed is never %t; %+v", want, d.told())
			}
			time.Sleep(time.Millisecond)
		}
	}
	// The floor: the same daemon, told at once.
	var floor time.Duration
	const floors = 10
	for range floors {
		var id uint32
		start := time.Now()
		server := conn.Object(notifications, bellPath)
		if err := server.Call(notifications+".Notify", 0, "floor", uint32(0), "", "A code is wanted", "", []string{}, map[string]dbus.Variant{}, int32(0)).Store(&id); err != nil {
			b.Fatal(err)
		}
		wait(true)
		floor += time.Since(start)
		if err := server.Call(notifications+".CloseNotification", 0, id).Err; err != nil {
			b.Fatal(err)
		}
		wait(false)
	}
	var all, slowest time.Duration
	for b.Loop() {
		time.Sleep(ringEvery) // a burst is held together for as long
		j := s.job(repo, nil, nil)
		start := time.Now()
		s.relay.Ask(j)
		wait(true)
		took := time.Since(start)
		all, slowest = all+took, max(slowest, took)
		if out, err := d.xdo("search", "--onlyvisible", "--class", "Dunst"); err != nil || out == "" {
			b.Fatal("dunst says that it shows something, and has no window")
		}
		s.relay.Set(j, func(i *wire.Item) { i.State.State = "cancelled" })
		wait(false)
	}
	b.ReportMetric(float64(all.Milliseconds())/float64(b.N), "ms/visible")
	b.ReportMetric(float64((floor/floors).Microseconds())/1000, "ms/floor")
	b.ReportMetric(float64(slowest.Milliseconds()), "ms/slowest")
	b.ReportMetric(0, "ns/op")
}
