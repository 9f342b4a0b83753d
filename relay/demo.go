package main

// The demo is the main job on real programs: a relay with its embedded server, a
// responder and a CI job, each a process of its own, and a development issuer in
// the place of the CI's. Nothing in it is special to the demo but the issuer's
// address in two files.

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/service"
	"github.com/continuousauth/action/internal/wire"
)

type demoCmd struct {
	Bin  string        `type:"existingdir" placeholder:"DIR" help:"Where cfa and cfa-responder are; without it they are built from the checkout."`
	Wait time.Duration `default:"5m" help:"How long the job waits for you."`
}

const (
	demoRepository = "example/rocket"
	demoService    = "npm"
)

// Run shows one request from its start to its end.
func (d *demoCmd) Run(ctx context.Context, sio stdio) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	otp, err := demoOTP(sio)
	if err != nil {
		return err
	}
	if otp == "" && !term.IsTerminal(int(sio.in.Fd())) {
		return &exit{exitUsage, errors.New("there is no terminal to ask you for a code at; give one: make demo OTP=123456")}
	}
	dir, err := os.MkdirTemp("", "cfa-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	say := newTranscript(sio.out)

	bin, err := programs(ctx, d.Bin, dir, say, ours)
	if err != nil {
		return err
	}
	cast, err := casting(ctx, dir, bin, say)
	if err != nil {
		return err
	}
	defer cast.issuer.Close()

	say.step("The relay's file names the issuer, the rule for the job, and your two public keys. It calls you Ana.")
	config := filepath.Join(dir, "cfa.yaml")
	file := fmt.Sprintf("host: localhost\nlisten:\n  nats: 127.0.0.1:0\ndata: %s\n%s", filepath.Join(dir, "data"), cast.rules)
	if err := os.WriteFile(config, []byte(file), 0o600); err != nil {
		return err
	}
	say.show(file)

	say.step("The relay starts, with its NATS server inside.")
	relay, url, err := startRelay(ctx, bin["cfa-relay"], config)
	if err != nil {
		return err
	}
	defer relay.stop()
	say.show("$ cfa-relay serve --config cfa.yaml\nserving " + url)

	return cast.request(ctx, sio, say, otp, d.Wait, url, nil)
}

// ours is the three programs, and where each is in the checkout.
var ours = map[string]string{"cfa": "./action", "cfa-relay": "./relay", "cfa-responder": "./responder"}

// demoOTP is the code that is to be answered with, or "" where a human will type
// one.
func demoOTP(sio stdio) (string, error) {
	otp := sio.getenv("CFA_DEMO_OTP")
	if otp == "" {
		return "", nil
	}
	// Before anything is built: a code of another form than the job asks for
	// would leave everybody waiting for one that never comes.
	format, err := wire.ParseFormat(service.Format(demoService))
	if err == nil {
		err = format.Check(otp)
	}
	if err != nil {
		return "", &exit{exitUsage, errors.New("OTP must be six digits, as npm's codes are: make demo OTP=123456")}
	}
	return otp, nil
}

// cast is everybody in a demo but the relay: who issues tokens, who asks, and who
// answers.
type cast struct {
	dir           string
	bin           map[string]string
	issuer        *devissuer.Issuer
	keyFile, pins string
	sign          string // the signing key of who answers
	rules         string // issuers and projects, as a relay's file has them
}

// casting makes the issuer, a human's keys and pins, and what a relay has to know
// of both.
func casting(ctx context.Context, dir string, bin map[string]string, say *transcript) (*cast, error) {
	c := &cast{dir: dir, bin: bin, keyFile: filepath.Join(dir, "responder.key"), pins: filepath.Join(dir, "pins.yaml")}
	say.step("A development issuer stands in for GitHub's: it signs ID tokens for a job of %s.", demoRepository)
	var err error
	if c.issuer, err = devissuer.Start(ctx); err != nil {
		return nil, err
	}
	claims := devissuer.GitHubClaims(demoRepository, map[string]any{"environment": "npm"})
	c.issuer.AddJob("release", claims)
	if err := c.human(ctx, claims, say); err != nil {
		c.issuer.Close()
		return nil, err
	}
	return c, nil
}

func (c *cast) human(ctx context.Context, claims map[string]any, say *transcript) error {
	say.step("You make a responder's keys, and pin which repository stands behind the project \"rocket\".")
	keygen, err := output(ctx, c.bin["cfa-responder"], "keygen", "--key-file", c.keyFile)
	if err != nil {
		return err
	}
	connect := connectKey.FindString(keygen)
	c.sign = signKey.FindString(keygen)
	if connect == "" || c.sign == "" {
		return errors.New("cfa-responder keygen printed no keys")
	}
	if _, err := output(ctx, c.bin["cfa-responder"], "pins", "--pins", c.pins, "issuer", "--name", "development", "--provider", "github", "--url", c.issuer.URL()); err != nil {
		return err
	}
	if _, err := output(ctx, c.bin["cfa-responder"], "pins", "--pins", c.pins, "add", "rocket", "--provider", "development",
		"--repository", demoRepository, "--repository-id", text(claims, "repository_id"), "--repository-owner-id", text(claims, "repository_owner_id"),
		"--environment", "npm", "--confirm", demoRepository); err != nil {
		return err
	}
	c.rules = fmt.Sprintf(`issuers:
  - {name: development, provider: github, url: "%s"}
projects:
  rocket:
    ci:
      - provider: development
        repository_id: "%s"
        repository_owner_id: "%s"
        environment: npm
    responders:
      - {name: Ana, connect: %s, sign: %s}
`, c.issuer.URL(), text(claims, "repository_id"), text(claims, "repository_owner_id"), connect, c.sign)
	return nil
}

// asking are the arguments of a job's cfa, answering those of your responder.
func (c *cast) asking(url string, wait time.Duration, more ...string) []string {
	return append([]string{"request", "--relay", url, "--relay-name", "localhost", "--project", "rocket",
		"--service", demoService, "--message", "publish rocket 1.2.3", "--responders", c.sign, "--timeout", wait.String()}, more...)
}

func (c *cast) answering(url string, more ...string) []string {
	return append([]string{"listen", "--relay", url, "--relay-name", "localhost", "--key-file", c.keyFile, "--pins", c.pins}, more...)
}

// request is one request from its start to its end, with you as the human, or a
// command in your place. meanwhile happens while the job waits and nobody is on
// call; more is what both sides need to reach the relay.
func (c *cast) request(ctx context.Context, sio stdio, say *transcript, otp string, wait time.Duration, url string, meanwhile func() error, more ...string) error {
	outputs := filepath.Join(c.dir, "github_output")
	if err := os.WriteFile(outputs, nil, 0o600); err != nil {
		return err
	}
	seen := newWatch("nobody is on call", "accepted", "sealed")
	job := exec.CommandContext(ctx, c.bin["cfa"], c.asking(url, wait, more...)...)
	job.Env = append(c.issuer.GitHubEnv("release"), "PATH="+sio.getenv("PATH"), "GITHUB_OUTPUT="+outputs)
	job.Cancel = func() error { return job.Process.Signal(os.Interrupt) }
	job.WaitDelay = 10 * time.Second
	jobLines := say.prefixed("job    │ ", seen)
	job.Stdout, job.Stderr = jobLines, jobLines

	say.step("The job runs `cfa request` as a workflow step would. Nobody is on call yet, so it waits.")
	began := time.Now()
	running, err := start(job)
	if err != nil {
		return err
	}
	defer running.stop()
	if err := seen.wait(ctx, "nobody is on call", running.done); err != nil {
		return err
	}
	if meanwhile != nil {
		if err := meanwhile(); err != nil {
			return err
		}
	}
	if otp == "" {
		say.step("You start your responder. Compare the match code, type 1 and then any six digits.")
		jobLines.hold() // the terminal is the responder's for now
	} else {
		say.step("The responder starts; a command stands in for you and answers %s.", otp)
	}
	stopResponder, err := startResponder(ctx, sio, say, seen, otp, c.bin["cfa-responder"], c.answering(url, more...)...)
	if err != nil {
		return err
	}
	defer stopResponder()
	<-running.done
	took := time.Since(began)
	stopResponder()
	if otp == "" {
		say.step("Meanwhile, in the job:")
	}
	jobLines.Close()
	if running.err != nil {
		return fmt.Errorf("the job got no code: cfa ended with %w", running.err)
	}

	step, err := os.ReadFile(outputs)
	if err != nil {
		return err
	}
	code := githubOutput(string(step), "code")
	if code == "" || otp != "" && code != otp {
		return errors.New("the job's output is not the code that was given; this is a bug")
	}
	say.step("The next step of the workflow reads steps.NAME.outputs.code:")
	say.show("code = " + code)
	if accepted, ok := seen.at("accepted"); ok {
		say.note("%d ms from the start of cfa until the relay had accepted the request", accepted.Sub(began).Milliseconds())
	}
	if sent, ok := seen.at("sealed"); ok {
		say.note("%d ms from the answer to the end of the job", began.Add(took).Sub(sent).Milliseconds())
	}
	say.note("%.1f s in all. The relay never held the code: it was sealed to a key that the job made for this request.", took.Seconds())
	return nil
}

var (
	connectKey = regexp.MustCompile(`\bU[A-Z2-7]{55}\b`)
	signKey    = regexp.MustCompile(`\bA[A-Z2-7]{55}\b`)
)

func text(claims map[string]any, name string) string {
	s, _ := claims[name].(string)
	return s
}

// programs finds programs in folder, or builds them in the checkout where none is
// given.
func programs(ctx context.Context, folder, dir string, say *transcript, packages map[string]string) (map[string]string, error) {
	bin := map[string]string{}
	if folder != "" {
		for name := range packages {
			bin[name] = filepath.Join(folder, name)
			if _, err := os.Stat(bin[name]); err != nil {
				return nil, &exit{exitUsage, fmt.Errorf("--bin: %w; build it with make build", err)}
			}
		}
		return bin, nil
	}
	if _, err := exec.LookPath("go"); err != nil {
		return nil, &exit{exitUsage, errors.New("the demo builds its programs, and Go is missing; install Go, or give --bin")}
	}
	say.step("The programs are built.")
	for name, pkg := range packages {
		bin[name] = filepath.Join(dir, name)
		if out, err := output(ctx, "go", "build", "-o", bin[name], pkg); err != nil {
			return nil, fmt.Errorf("build %s (the demo runs in the checkout): %w\n%s", name, err, out)
		}
	}
	return bin, nil
}

func output(ctx context.Context, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(name), args[0], err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error // how it ended, once done
	once sync.Once
}

func (p *process) stop() {
	p.once.Do(func() {
		if p.cmd.Process.Signal(os.Interrupt) != nil {
			return
		}
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			p.cmd.Process.Kill()
			<-p.done
		}
	})
}

func start(cmd *exec.Cmd) (*process, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// startRelay starts a relay and waits until it says where it serves.
func startRelay(ctx context.Context, bin, config string) (*process, string, error) {
	cmd := exec.CommandContext(ctx, bin, "serve", "--config", config)
	var log bytes.Buffer
	cmd.Stderr = &log
	r, w := io.Pipe()
	cmd.Stdout = w
	p, err := start(cmd)
	if err != nil {
		return nil, "", err
	}
	line := make(chan string, 1)
	go func() {
		s := bufio.NewScanner(r)
		for s.Scan() {
			if url, ok := strings.CutPrefix(s.Text(), "serving "); ok {
				select {
				case line <- url:
				default:
				}
			}
		}
	}()
	select {
	case url := <-line:
		return p, url, nil
	case <-p.done:
		return nil, "", fmt.Errorf("the relay ended at once:\n%s", log.String())
	case <-ctx.Done():
		p.stop()
		return nil, "", context.Cause(ctx)
	}
}

// startResponder starts the human's side: at this terminal, or, where a code was
// given, with a command that prints it.
func startResponder(ctx context.Context, sio stdio, say *transcript, seen *watch, otp, bin string, args ...string) (stop func(), err error) {
	lines := say.prefixed("human  │ ", seen)
	if otp != "" {
		args = append(args, "--answer-command", `printf %s "$CFA_DEMO_OTP"`, "--unattended")
	}
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if otp != "" {
		cmd.Stdout, cmd.Stderr = lines, lines
	} else {
		// You are the human: the responder has the terminal to itself.
		cmd.Stdin, cmd.Stdout, cmd.Stderr = sio.in, os.Stdout, os.Stderr
	}
	p, err := start(cmd)
	if err != nil {
		return nil, err
	}
	return func() { p.stop(); lines.Close() }, nil
}

// githubOutput reads one value from a $GITHUB_OUTPUT file.
func githubOutput(file, name string) string {
	for lines := strings.Split(file, "\n"); len(lines) > 0; {
		line := lines[0]
		lines = lines[1:]
		if n, delimiter, ok := strings.Cut(line, "<<"); ok && !strings.Contains(n, "=") {
			var value []string
			for len(lines) > 0 && lines[0] != delimiter {
				value, lines = append(value, lines[0]), lines[1:]
			}
			if len(lines) == 0 {
				return ""
			}
			lines = lines[1:]
			if n == name {
				return strings.Join(value, "\n")
			}
		} else if v, ok := strings.CutPrefix(line, name+"="); ok {
			return v
		}
	}
	return ""
}

// transcript writes what a newcomer reads.
type transcript struct {
	mu sync.Mutex
	w  io.Writer
	n  int
}

func newTranscript(w io.Writer) *transcript { return &transcript{w: w} }

func (t *transcript) step(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n++
	fmt.Fprintf(t.w, "\n%d. %s\n", t.n, fmt.Sprintf(format, args...))
}

func (t *transcript) show(s string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range strings.Split(strings.TrimRight(s, "\n"), "\n") {
		fmt.Fprintf(t.w, "   %s\n", l)
	}
}

func (t *transcript) note(format string, args ...any) { t.show(fmt.Sprintf(format, args...)) }

// prefixed gives a writer that marks each line with who wrote it, and shows it
// to seen.
func (t *transcript) prefixed(prefix string, seen *watch) *prefixWriter {
	return &prefixWriter{t: t, prefix: prefix, seen: seen}
}

type prefixWriter struct {
	t      *transcript
	prefix string
	seen   *watch
	rest   []byte
	held   bool
	later  []string
}

func (p *prefixWriter) Write(b []byte) (int, error) {
	p.t.mu.Lock()
	defer p.t.mu.Unlock()
	p.rest = append(p.rest, b...)
	for {
		i := bytes.IndexByte(p.rest, '\n')
		if i < 0 {
			return len(b), nil
		}
		p.line(string(p.rest[:i]))
		p.rest = p.rest[i+1:]
	}
}

func (p *prefixWriter) line(l string) {
	p.seen.see(l)
	if p.held {
		p.later = append(p.later, l)
		return
	}
	fmt.Fprintf(p.t.w, "   %s%s\n", p.prefix, l)
}

// hold keeps lines back until Close, while somebody else has the terminal.
func (p *prefixWriter) hold() {
	p.t.mu.Lock()
	defer p.t.mu.Unlock()
	p.held = true
}

// Close writes what was held back, and a last line that had no end.
func (p *prefixWriter) Close() {
	p.t.mu.Lock()
	defer p.t.mu.Unlock()
	p.held = false
	for _, l := range p.later {
		fmt.Fprintf(p.t.w, "   %s%s\n", p.prefix, l)
	}
	p.later = nil
	if len(p.rest) > 0 {
		p.line(string(p.rest))
		p.rest = nil
	}
}

// watch notes when something first stood in somebody's output.
type watch struct {
	mu   sync.Mutex
	when map[string]time.Time
	come map[string]chan struct{}
}

func newWatch(words ...string) *watch {
	w := &watch{when: map[string]time.Time{}, come: map[string]chan struct{}{}}
	for _, word := range words {
		w.come[word] = make(chan struct{})
	}
	return w
}

func (w *watch) see(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for word, come := range w.come {
		if _, ok := w.when[word]; !ok && strings.Contains(strings.ToLower(line), word) {
			w.when[word] = time.Now()
			close(come)
		}
	}
}

func (w *watch) at(word string) (time.Time, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	t, ok := w.when[word]
	return t, ok
}

// wait waits until word has come; done ends it as a failure.
func (w *watch) wait(ctx context.Context, word string, done <-chan struct{}) error {
	select {
	case <-w.come[word]:
		return nil
	case <-done:
		return errors.New("the job ended before it could ask; its lines above say why")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
