package clientstest

import (
	"io"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
)

// A Terminal is a command under a terminal of its own, and who types there.
type Terminal struct {
	t    testing.TB
	cmd  *exec.Cmd
	tty  *os.File
	read chan struct{} // closed when nothing more comes

	mu      sync.Mutex
	out     []byte
	seen    int           // up to where Expect has looked, in the text without escapes
	changed chan struct{} // closed at each output
}

// OnTerminal starts a command whose stdin, stdout and stderr are a terminal.
func OnTerminal(t testing.TB, cmd *exec.Cmd) *Terminal {
	t.Helper()
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: 200})
	if err != nil {
		t.Fatal(err)
	}
	term := &Terminal{t: t, cmd: cmd, tty: tty, read: make(chan struct{}), changed: make(chan struct{})}
	t.Cleanup(func() { _ = tty.Close() })
	go term.follow()
	return term
}

func (term *Terminal) follow() {
	defer close(term.read)
	buf := make([]byte, 4096)
	for {
		n, err := term.tty.Read(buf)
		term.mu.Lock()
		term.out = append(term.out, buf[:n]...)
		close(term.changed)
		term.changed = make(chan struct{})
		term.mu.Unlock()
		if err != nil {
			return // EIO, when the last process on the terminal has ended
		}
	}
}

// escapes are what colours and moves a terminal's text, whole or as far as it has come:
// it stands between the words that a person reads as one sentence.
var escapes = regexp.MustCompile(`\x1b(?:\[[0-9;?]*[ -/]*(?:[@-~]|$)|$)`)

// Expect waits until the output after the last match matches, without its
// colours, and gives the match with its groups.
func (term *Terminal) Expect(pattern string) []string {
	term.t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(time.Minute)
	for {
		term.mu.Lock()
		out, changed := escapes.ReplaceAll(term.out, nil)[term.seen:], term.changed
		if at := re.FindSubmatchIndex(out); at != nil {
			var groups []string
			for _, g := range re.FindSubmatch(out) {
				groups = append(groups, string(g))
			}
			term.seen += at[1]
			term.mu.Unlock()
			return groups
		}
		term.mu.Unlock()
		select {
		case <-changed:
		case <-term.read:
			term.t.Fatalf("the command ended, and its terminal never showed %q:\n%s", pattern, term.Output())
		case <-deadline:
			term.t.Fatalf("the terminal does not show %q:\n%q", pattern, term.Output())
		}
	}
}

// Type types a line.
func (term *Terminal) Type(line string) {
	term.t.Helper()
	if _, err := io.WriteString(term.tty, line+"\r"); err != nil {
		term.t.Fatal(err)
	}
}

// Output is all that the terminal showed so far, without its colours.
func (term *Terminal) Output() string {
	term.mu.Lock()
	defer term.mu.Unlock()
	return string(escapes.ReplaceAll(term.out, nil))
}

// Wait waits for the command's end. Its output is in Stdout.
func (term *Terminal) Wait() Result {
	term.t.Helper()
	_ = term.cmd.Wait()
	<-term.read
	return Result{Code: term.cmd.ProcessState.ExitCode(), Stdout: term.Output()}
}
