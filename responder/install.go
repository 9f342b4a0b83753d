package main

// install, uninstall: having the system start the background program with its
// user's session, by what each system has for that and needs no administrator:
// systemd's user manager, launchd, or the registry's Run key.
//
// What is written is made by pure functions, one file for each system, so that
// each can be tested on any; what is there already and is not ours is left alone.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// ours stands in each file that install writes. One without it is somebody else's.
const ours = "Written by cfa-responder install"

// task is what is to be started.
type task struct {
	program string   // absolute
	args    []string // behind "run"
	home    string
	config  string // XDG_CONFIG_HOME, if the session has one that a service would not
	desktop bool   // with the desktop's session, not already at the login
	uid     int
}

// keeper is what a system starts and stops a user's programs by.
type keeper struct {
	what  string // for people
	place string // the file, or what stands for one
	text  string
	store textStore
	// mine says whether a text is ours, where it has no room for saying so.
	mine func(text string) bool

	// first has the system take in a new text, again one that replaces another,
	// same makes sure where nothing changed; stop undoes it, and after is for when
	// the text is gone.
	first, again, same, stop, after []command
	// rest is what the above can leave behind.
	rest []string
	// asks is how the system's own view of it is had, in words.
	asks []command
	// hint is what a human should know once it is there.
	hint string
}

// command is one that the system is told by.
type command struct {
	args []string
	// lax: it may fail, because what it undoes need not be there.
	lax bool
}

func tell(args ...string) command { return command{args: args} }
func lax(args ...string) command  { return command{args: args, lax: true} }

func (c command) String() string {
	words := make([]string, len(c.args))
	for i, a := range c.args {
		words[i] = shellWord(a)
	}
	return strings.Join(words, " ")
}

// textStore is where a keeper's text is.
type textStore interface {
	// read gives the text; fs.ErrNotExist if there is none.
	read() (string, error)
	write(text string) error
	remove() error
}

// keeperOf gives the keeper of a system.
func keeperOf(system string, t task) (keeper, error) {
	for _, s := range append([]string{t.program, t.home, t.config}, t.args...) {
		if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return keeper{}, usage("%q has a control character in it, which cannot be written down for a service", s)
		}
	}
	switch system {
	case "linux":
		return systemd(t)
	case "darwin":
		return launchd(t), nil
	case "windows":
		return startup(t)
	}
	return keeper{}, usage("it is not known here how %s starts a user's programs; start cfa-responder run from whatever starts your session", system)
}

// errNotOurs says that something else is where install would write.
var errNotOurs = errors.New("cfa-responder install has not written it")

// found reads what is there; errNotOurs if something else is.
func (k keeper) found() (text string, there bool, err error) {
	text, err = k.store.read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", false, nil
	case err != nil:
		return "", false, err
	case !k.isOurs(text):
		return text, true, fmt.Errorf("%s is there, and %w", k.place, errNotOurs)
	}
	return text, true, nil
}

// put makes the system start the program, and says what was done: nothing, where
// all is as it should be.
func (k keeper) put(ctx context.Context, w io.Writer) error {
	text, there, err := k.found()
	if err != nil {
		return usage("%w; it is left as it is. Move it away first, if it is not needed", err)
	}
	todo := k.same
	if !there || text != k.text {
		if err := k.store.write(k.text); err != nil {
			return fmt.Errorf("write %s: %w", k.place, err)
		}
		todo = k.first
		if there {
			todo = k.again
		}
		fmt.Fprintf(w, "written: %s\n", k.place)
	} else {
		fmt.Fprintf(w, "as it should be: %s\n", k.place)
	}
	return k.carryOut(ctx, w, todo)
}

// take undoes put, whatever of it is there.
func (k keeper) take(ctx context.Context, w io.Writer) error {
	_, there, err := k.found()
	if err != nil {
		return usage("%w; it is left as it is", err)
	}
	if !there {
		fmt.Fprintf(w, "nothing is installed (there is no %s)\n", k.place)
		return nil
	}
	// What cannot be told to end must not keep the rest from leaving.
	stopped := k.carryOut(ctx, w, k.stop)
	if err := k.store.remove(); err != nil {
		return errors.Join(stopped, fmt.Errorf("remove %s: %w", k.place, err))
	}
	for _, path := range k.rest {
		if err := os.Remove(path); err == nil {
			fmt.Fprintf(w, "removed: %s\n", path)
		}
	}
	fmt.Fprintf(w, "removed: %s\n", k.place)
	if stopped != nil {
		return stopped
	}
	return k.carryOut(ctx, w, k.after)
}

// commandWithin bounds one command: a stop waits until an answer has arrived.
const commandWithin = 2 * time.Minute

// carryOut runs commands, or says which are to be run, where they are not there.
func (k keeper) carryOut(ctx context.Context, w io.Writer, todo []command) error {
	for i, c := range todo {
		path, err := exec.LookPath(c.args[0])
		if err != nil {
			fmt.Fprintf(w, "%s is not there; where it is, run:\n", c.args[0])
			for _, c := range todo[i:] {
				fmt.Fprintf(w, "    %s\n", c)
			}
			return nil
		}
		out, err := runCommand(ctx, path, c.args[1:]...)
		if err != nil && !c.lax {
			var left []string
			for _, c := range todo[i:] {
				left = append(left, c.String())
			}
			return fmt.Errorf("%s failed: %s (%w); what is left to be run, in a session of your own: %s", c, wire.Clean(out, 400), err, strings.Join(left, " && "))
		}
		if err == nil {
			fmt.Fprintf(w, "done: %s\n", c)
		}
	}
	return nil
}

// runCommand gives the first of what a command writes, on both its outputs.
func runCommand(ctx context.Context, path string, args ...string) (string, error) {
	ctx, stop := context.WithTimeout(ctx, commandWithin)
	defer stop()
	cmd := exec.CommandContext(ctx, path, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second // started programs may hold the pipe
	err := cmd.Run()
	return strings.TrimSpace(string(out.Next(4 << 10))), err
}

// view is the system's own view of the program, in words.
func (k keeper) view(ctx context.Context) string {
	var words []string
	for _, c := range k.asks {
		path, err := exec.LookPath(c.args[0])
		if err != nil {
			return c.args[0] + " is not there to say more"
		}
		out, _ := runCommand(ctx, path, c.args[1:]...) // which fails with its answer, if that is no
		line, _, _ := strings.Cut(out, "\n")
		words = append(words, wire.Clean(line, 100))
	}
	return strings.Join(words, ", ")
}

type installCmd struct {
	place   `embed:""`
	Print   bool   `help:"Show what would be written and run, and do neither."`
	Session string `help:"Linux: start with the desktop's session (graphical), so that windows can be shown, or at each login (always). Default: graphical where this is one." enum:"auto,graphical,always" default:"auto" placeholder:"auto|graphical|always"`
}

func (c *installCmd) Run(ctx context.Context, std stdio, env environ) error {
	t, note, err := c.task(ctx, std, env, c.Session)
	if err != nil {
		return err
	}
	k, err := keeperOf(runtime.GOOS, t)
	if err != nil {
		return err
	}
	if c.Print {
		fmt.Fprintf(std.err, "%s, %s:\n", k.what, k.place)
		if _, err := io.WriteString(std.out, k.text); err != nil {
			return err
		}
		for _, c := range k.first {
			fmt.Fprintf(std.err, "then: %s\n", c)
		}
		return nil
	}
	if err := c.ready(std, env); err != nil {
		return err
	}
	if strings.Contains(t.program, "go-build") {
		return usage("this program, %s, is a passing one of `go run`; build or install it first", t.program)
	}
	if err := k.put(ctx, std.err); err != nil {
		return err
	}
	for _, s := range []string{k.hint, note} {
		if s != "" {
			fmt.Fprintln(std.err, s)
		}
	}
	fmt.Fprintln(std.err, "cfa-responder status says what it does; cfa-responder uninstall undoes this")
	return nil
}

// ready says what the program lacks without which it would only fail, where its
// human does not see it.
func (p place) ready(std stdio, env environ) error {
	set, path, err := p.settings(env)
	if err != nil {
		return err
	}
	if _, err := set.relays(env, path); err != nil {
		return err
	}
	store, err := keyStoreAt(std, env, p.KeyFile)
	if err != nil {
		return err
	}
	_, err = store.read()
	return missingKeys(store, err)
}

type uninstallCmd struct {
	place `embed:""`
}

func (c *uninstallCmd) Run(ctx context.Context, std stdio, env environ) error {
	t, _, err := c.task(ctx, std, env, "always")
	if err != nil {
		return err
	}
	k, err := keeperOf(runtime.GOOS, t)
	if err != nil {
		return err
	}
	if runtime.GOOS == "windows" {
		// Nothing else there can tell it to.
		if a, err := c.attach(env); err == nil {
			_, _ = a.ask(ctx, wish{Do: "quit"})
			a.close()
		}
	}
	if err := k.take(ctx, std.err); err != nil {
		return err
	}
	if path, err := c.ended(env); err == nil {
		_ = os.Remove(path)
	}
	fmt.Fprintln(std.err, "keys, pins and settings are where they were")
	return nil
}

// absent is what status tells of a program that does not run.
type absent struct {
	Running   bool      `json:"running"`
	Installed string    `json:"installed,omitempty"` // where it says that it is to be started
	System    string    `json:"system,omitempty"`    // how the system puts it
	Ended     time.Time `json:"ended,omitzero"`      // when it failed last
	Why       string    `json:"why,omitempty"`
}

// absent says whether the program would be started by itself, and why it does not
// run, as far as that is known.
func (c *statusCmd) absent(ctx context.Context, std stdio, env environ) error {
	var a absent
	if t, _, err := c.task(ctx, std, env, "always"); err == nil {
		if k, err := keeperOf(runtime.GOOS, t); err == nil {
			if _, there, err := k.found(); there && err == nil {
				a.Installed, a.System = k.place, k.view(ctx)
			}
		}
	}
	if path, err := c.ended(env); err == nil {
		a.Why, a.Ended = lastEnding(path)
	}
	if c.JSON {
		return asJSON(std.out, a)
	}
	fmt.Fprintln(std.out, "not running")
	switch {
	case a.Installed == "":
		fmt.Fprintln(std.out, "installed no; cfa-responder install has it started with your session")
	case a.System == "":
		fmt.Fprintf(std.out, "installed %s\n", harmless(a.Installed))
	default:
		fmt.Fprintf(std.out, "installed %s: %s\n", harmless(a.Installed), harmless(a.System))
	}
	if a.Why != "" {
		fmt.Fprintf(std.out, "failed    %s: %s\n", a.Ended.Local().Format("2006-01-02 15:04:05"), harmless(a.Why))
	}
	return nil
}

// ended is where the end of a run that failed is noted.
func (p place) ended(env environ) (string, error) {
	path, err := env.file(p.Settings, "responder.yaml")
	return filepath.Join(filepath.Dir(path), ending), err
}

// task is what is to be started for this user, with these flags.
func (p place) task(ctx context.Context, std stdio, env environ, session string) (t task, note string, err error) {
	if t.program, err = steady(env); err != nil {
		return t, "", err
	}
	if t.args, err = p.flags(); err != nil {
		return t, "", err
	}
	for _, name := range []string{"HOME", "USERPROFILE"} {
		if dir := env.get(name); t.home == "" && filepath.IsAbs(dir) {
			t.home = dir
		}
	}
	if t.home == "" {
		return t, "", usage("there is no home directory in this environment, and so no place for a service of your own")
	}
	if dir := env.get("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		t.config = dir
	}
	t.uid = os.Getuid()
	if runtime.GOOS != "linux" {
		return t, "", nil
	}
	display := env.get("DISPLAY") != "" || env.get("WAYLAND_DISPLAY") != ""
	switch session {
	case "graphical":
		t.desktop = true
	case "auto":
		if path, err := exec.LookPath("systemctl"); err == nil && display {
			out, _ := runCommand(ctx, path, "--user", "is-active", desktopTarget)
			t.desktop = out == "active"
		}
		if display && !t.desktop {
			note = "This desktop does not tell systemd of its session, so windows are shown only once it has said where: have it run, when it starts,\n" +
				"    systemctl --user import-environment DISPLAY WAYLAND_DISPLAY XAUTHORITY && systemctl --user restart " + unitName
		}
	}
	return t, note, nil
}

// flags are those of p that were given, as arguments: a service knows nothing of
// the environment in which they were.
func (p place) flags() (args []string, err error) {
	for _, f := range []struct{ name, value string }{
		{"settings", p.Settings}, {"key-file", p.KeyFile}, {"pins", p.Pins}, {"socket", p.Socket}, {"log", p.Log},
	} {
		if f.value == "" {
			continue
		}
		path, err := filepath.Abs(f.value)
		if err != nil {
			return nil, err
		}
		args = append(args, "--"+f.name+"="+path)
	}
	for _, s := range p.Issuer {
		args = append(args, "--issuer="+s)
	}
	return args, nil
}

// steady is the path of this program by which it is still there after an update:
// package managers put a link on PATH to what has the version in its name.
func steady(env environ) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("where this program is: %w", err)
	}
	info, err := os.Stat(self)
	if err != nil {
		return "", fmt.Errorf("where this program is: %w", err)
	}
	for _, dir := range filepath.SplitList(env.get("PATH")) {
		path := filepath.Join(dir, filepath.Base(self))
		if other, err := os.Stat(path); err == nil && filepath.IsAbs(dir) && os.SameFile(info, other) {
			return path, nil
		}
	}
	return self, nil
}

// textFile is a keeper's text in a file.
type textFile string

const maxText = 64 << 10

func (f textFile) read() (string, error) {
	file, err := os.Open(string(f))
	if err != nil {
		return "", err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxText))
	return string(data), err
}

// write replaces the file, all of it or nothing.
func (f textFile) write(text string) error {
	if err := os.MkdirAll(filepath.Dir(string(f)), 0o755); err != nil {
		return err
	}
	next := string(f) + ".new"
	if err := os.WriteFile(next, []byte(text), 0o644); err != nil {
		return err
	}
	if err := os.Rename(next, string(f)); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	return nil
}

func (f textFile) remove() error { return os.Remove(string(f)) }

// unused are directories that are removed where nothing is in them: the file's own
// and so many above.
func (f textFile) unused(levels int) (dirs []string) {
	for dir := filepath.Dir(string(f)); levels > 0; levels-- {
		dirs, dir = append(dirs, dir), filepath.Dir(dir)
	}
	return dirs
}

// isOurs says whether install has written this.
func (k keeper) isOurs(text string) bool {
	if k.mine != nil {
		return k.mine(text)
	}
	return strings.Contains(text, ours)
}
