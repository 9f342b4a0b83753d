//go:build unix

package child

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// sh is a command of the shell's. What it may need is on every Unix.
func sh(script string) Command {
	return Command{Argv: []string{"sh", "-c", script}, Env: []string{"PATH=" + os.Getenv("PATH")}}
}

func run(t *testing.T, c Command) (res Result, out, errs string) {
	t.Helper()
	var o, e bytes.Buffer
	c.Out, c.Err = &o, &e
	res, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return res, o.String(), e.String()
}

func TestWhatACommandWritesGoesOnByteForByte(t *testing.T) {
	t.Parallel()
	res, out, errs := run(t, sh(`printf 'a\033[1mb\000c\r\n'; printf 'no end' >&2; exit 3`))
	if out != "a\x1b[1mb\x00c\r\n" || errs != "no end" || res.Code != 3 {
		t.Errorf("code %d, out %q, err %q", res.Code, out, errs)
	}
	if string(res.Out) != out || string(res.Err) != errs {
		t.Errorf("kept %q and %q", res.Out, res.Err)
	}
}

func TestOutputComesWhileTheCommandRuns(t *testing.T) {
	t.Parallel()
	in, feed := io.Pipe()
	out, lines := io.Pipe()
	c := sh(`echo ready; read x; echo "got $x"`)
	c.Stdin, c.Out = in, lines
	p, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	n, err := out.Read(b)
	if err != nil || string(b[:n]) != "ready\n" {
		t.Fatalf("%q, %v", b[:n], err)
	}
	go func() { _, _ = io.WriteString(feed, "it\n"); feed.Close() }()
	if n, _ = out.Read(b); string(b[:n]) != "got it\n" {
		t.Errorf("%q", b[:n])
	}
	if _, err := p.Wait(); err != nil {
		t.Error(err)
	}
}

func TestASecretReachesItsCommandAndNoArgument(t *testing.T) {
	t.Parallel()
	const code = "918273"
	for name, c := range map[string]func() Command{
		"environment": func() Command {
			c := sh(`printf %s "$OTP" >&3; tr '\0' ' ' </proc/$$/cmdline 2>/dev/null || ps -o args= -p $$`)
			c.Env = append(c.Env, "OTP="+code)
			return c
		},
		"stdin": func() Command {
			c := sh(`cat >&3; tr '\0' ' ' </proc/$$/cmdline 2>/dev/null || ps -o args= -p $$`)
			c.Stdin = strings.NewReader(code)
			return c
		},
		"descriptor": func() Command {
			c := sh(`cat <&5 >&3; tr '\0' ' ' </proc/$$/cmdline 2>/dev/null || ps -o args= -p $$`)
			c.FD, c.Handed = 5, code
			return c
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "got")
			c := c()
			c.Argv = []string{"sh", "-c", `exec 3>"$1"; shift; eval "$1"`, "sh", path, c.Argv[2]}
			_, out, _ := run(t, c)
			got, err := os.ReadFile(path)
			if err != nil || string(got) != code {
				t.Errorf("the command got %q (%v)", got, err)
			}
			if !strings.Contains(out, "eval") || strings.Contains(out, code) {
				t.Errorf("its arguments are %q", out)
			}
		})
	}
}

func TestADescriptorThatCannotBeIsRefused(t *testing.T) {
	t.Parallel()
	for _, fd := range []int{1, 2, 10, -1} {
		c := sh("true")
		c.FD = fd
		if _, err := Run(t.Context(), c); err == nil {
			t.Errorf("descriptor %d was taken", fd)
		}
	}
}

func TestWhatIsHiddenIsTakenOutWhereverItIsCut(t *testing.T) {
	t.Parallel()
	const text = "x918273y 91827 918 918273918273\n9182 73 tail 91827"
	const want = "x***y 91827 918 ******\n9182 73 tail 91827"
	for cut := range len(text) {
		for _, second := range []int{cut, min(cut+3, len(text))} {
			h := newHider([]string{"918273"})
			got := string(h.next([]byte(text[:cut]))) + string(h.next([]byte(text[cut:second]))) + string(h.next([]byte(text[second:]))) + string(h.rest())
			if got != want {
				t.Fatalf("cut at %d and %d: %q", cut, second, got)
			}
		}
	}
	h := newHider([]string{"aab", "abc"})
	if got := string(h.next([]byte("aaabcab"))) + string(h.next([]byte("c"))) + string(h.rest()); got != "a***c***" {
		t.Errorf("two texts: %q", got)
	}
}

func FuzzHiderLosesNothingElse(f *testing.F) {
	f.Add([]byte("x918273y"), uint8(3), "918273")
	f.Add([]byte("9191827391827"), uint8(7), "918273")
	f.Add([]byte("aaaa"), uint8(1), "aa")
	f.Fuzz(func(t *testing.T, text []byte, cut uint8, secret string) {
		h := newHider([]string{secret})
		at := min(int(cut), len(text))
		got := append(bytes.Clone(h.next(text[:at])), h.next(text[at:])...)
		got = append(got, h.rest()...)
		if secret == "" {
			if !bytes.Equal(got, text) {
				t.Fatalf("%q became %q", text, got)
			}
			return
		}
		if want := bytes.ReplaceAll(text, []byte(secret), []byte(stars)); !bytes.Equal(got, want) {
			t.Fatalf("%q without %q is %q, want %q", text, secret, got, want)
		}
	})
}

func TestASignalIsPassedOnToAllThatItStarted(t *testing.T) {
	t.Parallel()
	out, lines := io.Pipe()
	c := sh(`trap 'wait; exit 5' TERM; sh -c 'trap "echo inner; exit 4" TERM; echo ready; while :; do sleep 0.05; done' & wait`)
	c.Out = lines
	p, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	if n, _ := out.Read(b); string(b[:n]) != "ready\n" {
		t.Fatalf("%q", b[:n])
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if n, _ := out.Read(b); string(b[:n]) != "inner\n" {
		t.Errorf("%q", b[:n])
	}
	if res, err := p.Wait(); err != nil || res.Code != 5 {
		t.Errorf("%d, %v", res.Code, err)
	}
}

func TestDeathByASignalIsItsExitCode(t *testing.T) {
	t.Parallel()
	if res, _, _ := run(t, sh("kill -KILL $$")); res.Code != 128+9 {
		t.Errorf("code %d", res.Code)
	}
}

func TestStopKillsWhatDoesNotStop(t *testing.T) {
	t.Parallel()
	out, lines := io.Pipe()
	c := sh(`trap '' TERM; echo $$; while :; do sleep 0.05; done`)
	c.Out = lines
	p, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	if _, err := out.Read(b); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	p.Stop()
	if d := time.Since(begun); d < patience || d > 4*patience {
		t.Errorf("stopped after %s", d)
	}
	if res, err := p.Wait(); err != nil || res.Code != 128+9 {
		t.Errorf("%d, %v", res.Code, err)
	}
}

func TestWhatCannotBeRunIsSaid(t *testing.T) {
	t.Parallel()
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{{"no-such-program-at-all"}, {plain}, {"./nowhere"}, nil, {""}} {
		_, err := Run(t.Context(), Command{Argv: argv})
		if !errors.Is(err, ErrNotFound) {
			t.Errorf("%q: %v", argv, err)
		}
	}
}

// typing is a command with a terminal, and the codes that are typed there.
func typing(script string, codes ...string) (c Command, out *lockedBuffer, asked *int) {
	asked, out = new(int), &lockedBuffer{}
	c = sh(script)
	c.Terminal, c.Prompt, c.Out = true, regexp.MustCompile(`(?i)one-time password:\s*$`), out
	c.Reply = func(_ context.Context, n int, _ string) (string, error) {
		*asked = n
		if n > len(codes) {
			return "", errors.New("there are no more codes")
		}
		return codes[n-1], nil
	}
	return c, out, asked
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestACodeIsTypedAtThePromptAndItsEchoIsNotPassedOn(t *testing.T) {
	t.Parallel()
	for name, script := range map[string]string{
		"cooked":  `printf 'One-time password: '; read x; [ "$x" = 111111 ] && echo "wrong $x"; printf '\033[1mOne-time\033[0m password: '; read x; echo "took $x"; test -t 1`,
		"no echo": `stty -echo; printf 'One-time password: '; read x; echo; echo "wrong $x"; printf 'One-time password: '; read x; echo; echo "took $x"; stty echo`,
		// As a program in raw mode does that draws its line anew at each key.
		"drawn": `stty raw -echo
			ask() { printf 'One-time password: '; s=; while :; do c=$(dd bs=1 count=1 2>/dev/null | od -An -c | tr -d ' '); [ "$c" = '\r' ] && break; s=$s$c; printf '\r\033[KOne-time password: %s' "$s"; done; printf '\r\n'; }
			ask; printf 'wrong %s\r\n' "$s"; ask; printf 'took %s\r\n' "$s"`,
		// Slower than a terminal's echo takes, and with something between the digits.
		"slow": `stty raw -echo
			ask() { printf 'One-time password: '; s=; while :; do c=$(dd bs=1 count=1 2>/dev/null | od -An -c | tr -d ' '); [ "$c" = '\r' ] && break; s=$s$c; done
				printf '\r\033[KOne-time password: '; sleep 2.2; printf '\r\033[KOne-time password: '; echo "$s" | sed 's/./& /g; s/ /'"$(printf '\033')"'[1m/4' | tr -d '\n'; printf '\r\n'; }
			ask; printf 'wrong %s\r\n' "$s"; ask; printf 'took %s\r\n' "$s"`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, out, asked := typing(script, "111111", "918273")
			res, err := Run(t.Context(), c)
			if err != nil || res.Code != 0 || *asked != 2 {
				t.Fatalf("code %d, %d replies, %v; out %q", res.Code, *asked, err, out)
			}
			text := out.String()
			for _, part := range []string{"111", "918", "1 1", "9 1"} {
				if strings.Contains(text, part) {
					t.Errorf("what was typed is in the output: %q", text)
				}
			}
			if !strings.Contains(text, "wrong ***") || !strings.Contains(text, "took ***") {
				t.Errorf("out %q", text)
			}
		})
	}
}

// A tool that asks again without ever ending its line is answered too, when it has
// nothing more to show.
func TestAPromptOnTheLineOfTheLastIsAnswered(t *testing.T) {
	t.Parallel()
	c, out, asked := typing(`stty -echo; printf 'One-time password: '; read x; printf '\rOne-time password: '; read y; printf '\nwrong %s, took %s\n' "$x" "$y"; test "$y" = 918273`, "111111", "918273")
	if res, err := Run(t.Context(), c); err != nil || res.Code != 0 || *asked != 2 || !strings.Contains(out.String(), "wrong ***, took ***") {
		t.Errorf("%d, %v, %d replies: %q", res.Code, err, *asked, out)
	}
}

// What a tool says after a code, on the line that the code was typed on, is not
// shown; who reads it to tell how the tool ended does.
func TestWhatIsNotShownIsKept(t *testing.T) {
	t.Parallel()
	c, out, _ := typing(`stty -echo; printf 'One-time password: '; read x; printf 'that was wrong 7\n'; exit 1`, "918273")
	res, err := Run(t.Context(), c)
	if err != nil || res.Code != 1 || !strings.Contains(string(res.Out), "that was wrong 7") || strings.Contains(out.String(), "wrong") {
		t.Errorf("%d, %v: kept %q, shown %q", res.Code, err, res.Out, out)
	}
}

func TestAQuestionThatIsNoSecretIsAnsweredByItself(t *testing.T) {
	t.Parallel()
	c, out, asked := typing(`printf 'Open it now? (Y/n) '; read x; printf 'One-time password: '; read y; echo "$x took it"`, "918273")
	c.Say = []Said{{regexp.MustCompile(`Open it now\? \(Y/n\)\s*$`), "n"}}
	var shown []string
	reply := c.Reply
	c.Reply = func(ctx context.Context, n int, text string) (string, error) {
		shown = append(shown, text)
		return reply(ctx, n, text)
	}
	if res, err := Run(t.Context(), c); err != nil || res.Code != 0 || *asked != 1 || !strings.Contains(out.String(), "n took it") {
		t.Errorf("%d, %v, %d replies: %q", res.Code, err, *asked, out)
	}
	if len(shown) != 1 || strings.Contains(shown[0], "Open it") || !strings.Contains(shown[0], "One-time") {
		t.Errorf("shown %q", shown)
	}
}

func TestAFailedReplyEndsTheCommand(t *testing.T) {
	t.Parallel()
	c, _, _ := typing(`printf 'One-time password: '; read x; printf 'One-time password: '; read x; echo "never $x"`, "111111")
	_, err := Run(t.Context(), c)
	if err == nil || err.Error() != "there are no more codes" {
		t.Errorf("%v", err)
	}
}

func TestACommandThatEndsWhileItIsAskedForEndsTheAsking(t *testing.T) {
	t.Parallel()
	c, _, _ := typing(`printf 'One-time password: '; sleep 0.3; exit 7`)
	c.Reply = func(ctx context.Context, _ int, _ string) (string, error) {
		<-ctx.Done()
		return "", nil
	}
	if res, err := Run(t.Context(), c); err != nil || res.Code != 7 {
		t.Errorf("%d, %v", res.Code, err)
	}
}

func TestWhatIsWrittenIsSeenAsItComesWithoutEscapes(t *testing.T) {
	t.Parallel()
	found := make(chan string, 1)
	link := regexp.MustCompile(`https://\S+`)
	c := sh(`printf '\033]8;;x\007go to \033[36mhttps://example.com/a\033[0m now\n'; read x`)
	in, feed := io.Pipe()
	c.Stdin = in
	c.See = func(text string) {
		if s := link.FindString(text); s != "" {
			select {
			case found <- s:
			default:
			}
		}
	}
	p, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if got := <-found; got != "https://example.com/a" {
		t.Errorf("%q", got)
	}
	feed.Close()
	if _, err := p.Wait(); err != nil {
		t.Error(err)
	}
}

func TestAProcessLeftRunningHoldsUpNothingForLong(t *testing.T) {
	t.Parallel()
	begun := time.Now()
	res, out, _ := run(t, sh(`sleep 60 & echo done`))
	if res.Code != 0 || out != "done\n" || time.Since(begun) > 6*patience {
		t.Errorf("code %d, %q, after %s", res.Code, out, time.Since(begun))
	}
}
