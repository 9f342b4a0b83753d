package e2e

// The main job and its ends, as a user of the three programs sees them.

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/devissuer"
	"github.com/continuousauth/action/internal/dial"
	"github.com/continuousauth/action/internal/wire"
)

func TestACodeReachesTheNextStepOfTheWorkflow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.robot(w.humans[0])
	outputs := filepath.Join(w.dir, "github_output")
	if err := os.WriteFile(outputs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	j := w.jobIn([]string{"GITHUB_OUTPUT=" + outputs}, "--message", "publish 1.2.3", "--responders", w.humans[0].sign)
	if code := j.wait(); code != 0 {
		t.Fatalf("cfa ended with %d", code)
	}
	step, err := os.ReadFile(outputs)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`(?m)^code<<(\S+)\n` + testCode + `\n`, `(?m)^responder<<`, `(?m)^request-id<<`} {
		if !regexp.MustCompile(want).Match(step) {
			t.Errorf("the step's outputs do not match %s:\n%s", want, step)
		}
	}
	// The runner masks from the command on; the code stands nowhere else.
	mask := "::add-mask::" + testCode
	if !strings.Contains(j.out.String(), mask) {
		t.Error("the code was not masked")
	}
	if rest := strings.Replace(j.out.String()+j.err.String(), mask, "", 1); strings.Contains(rest, testCode) {
		t.Error("the code stands in the log")
	}
}

func TestOnStdoutStandsTheCodeAndNothingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.robot(w.humans[0])
	j := w.job("--output", "stdout")
	if code := j.wait(); code != 0 {
		t.Fatalf("cfa ended with %d", code)
	}
	if got := j.out.String(); got != testCode+"\n" {
		t.Fatalf("stdout is %q", got)
	}
}

func TestTheLogShowsTheMatchCodeThatTheHumanSees(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.listen(w.humans[0])
	j := w.job("--output", "stdout")
	match := j.waitFor(`[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}`)[0]
	h.waitFor(regexp.QuoteMeta(match))
	for _, fact := range []string{repository, "refs/heads/main"} {
		h.waitFor(regexp.QuoteMeta(fact))
	}
}

func TestADeclineEndsTheJobWith80AndSaysWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.listen(w.humans[0])
	j := w.job("--output", "stdout")
	h.waitFor(regexp.QuoteMeta(repository))
	if _, err := io.WriteString(h.in, "d 1 not today\n"); err != nil {
		t.Fatal(err)
	}
	if code := j.wait(); code != 80 {
		t.Fatalf("cfa ended with %d", code)
	}
	if !strings.Contains(j.err.String(), "not today") || j.out.String() != "" {
		t.Fatal("the log does not give the human's reason, or stdout holds something")
	}
}

func TestASignalWithdrawsTheRequestAndThePromptDisappears(t *testing.T) {
	t.Parallel()
	for _, s := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			h := w.listen(w.humans[0])
			j := w.job("--output", "stdout")
			h.waitFor(regexp.QuoteMeta(repository))
			j.signal(s)
			if code := j.wait(); code != 82 {
				t.Fatalf("cfa ended with %d", code)
			}
			h.waitFor(`(?i)withdrawn|cancelled`)
		})
	}
}

func TestNobodyAnswersAndTheJobEndsWith81(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	j := w.job("--output", "stdout", "--timeout", "3s")
	j.waitFor(`(?i)nobody is on call`)
	if code := j.wait(); code != 81 {
		t.Fatalf("cfa ended with %d", code)
	}
}

func TestARefusalNamesTheClaimToTheProjectsOwnerOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// The owner's other repository is told what does not fit; a stranger and a
	// project that there is not are told the same.
	sibling := devissuer.GitHubClaims("example/other", map[string]any{"repository_owner_id": w.claims["repository_owner_id"]})
	stranger := devissuer.GitHubClaims("stranger/thing", nil)
	w.issuer.AddJob("sibling", sibling)
	w.issuer.AddJob("stranger", stranger)
	ask := func(job, project string) string {
		args := append([]string{"request", "--project", project, "--output", "stdout"}, w.flags...)
		p := run(t, w.issuer.GitHubEnv(job), "cfa", args...)
		if p.code != 77 {
			t.Fatalf("%s ended with %d", job, p.code)
		}
		return p.err.String()
	}
	if log := ask("sibling", project); !strings.Contains(log, "repository_id") {
		t.Errorf("the owner is not told which claim did not fit:\n%s", log)
	}
	reason := regexp.MustCompile(`(?m)^.*refused.*$`)
	known, unknown := ask("stranger", project), ask("stranger", "no-such-project")
	if strings.Contains(known, "repository_id") {
		t.Errorf("a stranger is told about the project's rules:\n%s", known)
	}
	a := strings.ReplaceAll(reason.FindString(known), project, "X")
	b := strings.ReplaceAll(reason.FindString(unknown), "no-such-project", "X")
	if a == "" || a != b {
		t.Errorf("a stranger can tell an unknown project from one without a rule:\n%s\n%s", a, b)
	}
}

func TestAnUnreachableRelayEndsWith69(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	issuer, err := devissuer.Start(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer issuer.Close()
	issuer.AddJob("release", devissuer.GitHubClaims(repository, nil))
	p := run(t, issuer.GitHubEnv("release"), "cfa", "request", "--relay", "nats://"+addr, "--relay-name", "localhost", "--project", project, "--output", "stdout", "--timeout", "2s")
	if p.code != 69 {
		t.Fatalf("cfa ended with %d", p.code)
	}
}

// Promise 7. TestNothingSecretIsWrittenAnywhere greps all that the programs wrote,
// at their most talkative and however requests ended: logs, the relay's store, the
// responders' output and logs, the jobs' other output.
func TestNothingSecretIsWrittenAnywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.restart("--verbose")
	wrote := map[string][]byte{}
	keep := func(where, data string) {
		t.Helper()
		if data == "" {
			t.Errorf("%s is empty, so the search of it shows nothing", where)
		}
		wrote[where] = []byte(data)
	}
	ends := func(what string, j *process, code int) {
		t.Helper()
		if got := j.wait(); got != code {
			t.Fatalf("the job that is %s ended with %d", what, got)
		}
		if code != 0 && j.out.String() != "" {
			t.Errorf("the job that is %s wrote to stdout", what)
		}
		// The command that masks is GitHub's to take out of the log.
		keep("the log of the job that is "+what, strings.Replace(j.err.String(), "::add-mask::"+testCode, "", 1))
	}
	leaves := func(who string, h *process, log string) {
		t.Helper()
		h.signal(syscall.SIGTERM)
		h.wait()
		keep(who+"'s output", h.out.String()+h.err.String())
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		keep(who+"'s log", string(data))
	}

	log := filepath.Join(w.dir, "robot.log")
	h := w.listen(w.humans[0], "--answer-command", `printf %s "$CFA_TEST_CODE"`, "--unattended", "--log", log)
	ends("answered", w.job("--output", "stdout"), 0)
	w.relay.waitFor(`what=done`)
	// A command that prints its code, and a summary of the job.
	summary := filepath.Join(w.dir, "summary.md")
	x := start(t, append(w.issuer.GitHubEnv("release"), "GITHUB_STEP_SUMMARY="+summary), "cfa", append([]string{"exec", "--project", project, "--service", "tool", "--env", "OTP", "--refused", "wanted"}, append(slices.Clone(w.flags),
		"--", "sh", "-c", `test "$OTP" || { echo wanted; exit 1; }; echo "my code is $OTP"; echo "and $OTP" >&2`)...)...)
	if x.wait(); !strings.Contains(x.out.String(), "my code is ***") || !strings.Contains(x.err.String(), "and ***") {
		t.Errorf("the command was not run with its code: %s%s", x.out, x.err)
	}
	keep("the output of a command that printed its code", x.out.String())
	ends("running a command", x, 0)
	text, err := os.ReadFile(summary)
	if err != nil {
		t.Fatal(err)
	}
	keep("the job's summary", string(text))
	leaves("the robot", h, log)

	log = filepath.Join(w.dir, "human.log")
	h = w.listen(w.humans[0], "--log", log)
	say := func(line string) {
		t.Helper()
		if _, err := io.WriteString(h.in, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	j := w.job("--output", "stdout")
	h.waitFor(`#1 match code`)
	say("d 1 not today")
	ends("declined", j, 80)
	// Whoever was declined asks no more: a person runs it again.
	w.claims["run_attempt"] = "2"
	w.issuer.AddJob("release", w.claims)
	// The code is typed too late: what it is for is over.
	j = w.job("--output", "stdout")
	h.waitFor(`#2 match code`)
	say("2")
	h.waitFor(`#2 next line: code`)
	j.signal(syscall.SIGINT)
	ends("withdrawn", j, 82)
	h.waitFor(`#2 thrown away`)
	say(testCode)
	say(testCode) // and where a command is read
	h.waitFor(`no prompt with that number`)
	// An approval, with its receipt.
	artifact, receipt := filepath.Join(w.dir, "artifact"), filepath.Join(w.dir, "receipt")
	if err := os.WriteFile(artifact, []byte("bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := start(t, w.issuer.GitHubEnv("release"), "cfa", append([]string{"approve", "--project", project, "--artifact", artifact, "--responders", w.humans[0].sign, "--receipt", receipt}, w.flags...)...)
	match := a.waitFor(`match code:\s+(\S+)`)[1]
	h.waitFor(`#3 your turn`)
	say("3")
	say(match)
	ends("approved", a, 0)
	if text, err = os.ReadFile(receipt); err != nil {
		t.Fatal(err)
	}
	keep("the receipt", string(text))
	ends("not answered in time", w.job("--output", "stdout", "--timeout", "2s"), 81)
	w.issuer.AddJob("stranger", devissuer.GitHubClaims("stranger/thing", nil))
	ends("refused", run(t, w.issuer.GitHubEnv("stranger"), "cfa", append([]string{"request", "--project", project, "--output", "stdout"}, w.flags...)...), 77)
	leaves("the human", h, log)

	w.relay.waitFor(`level=DEBUG`) // it is talkative indeed
	w.relay.signal(syscall.SIGTERM)
	w.relay.wait()
	keep("the relay's output", w.relay.out.String()+w.relay.err.String())

	token, err := w.issuer.Mint(w.claims)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := os.ReadFile(w.humans[0].keys)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := json.Marshal(wire.Sealed{Enc: make([]byte, 32), Ciphertext: make([]byte, 16)})
	if err != nil {
		t.Fatal(err)
	}
	// The hash of six digits is as good as the digits.
	sum := sha256.Sum256([]byte(testCode))
	hexSum, base64Sum := hex.EncodeToString(sum[:]), base64.StdEncoding.EncodeToString(sum[:])
	const body = "a request's body" // that the store is read at all
	secrets := map[string]struct {
		look  *regexp.Regexp
		plant string
	}{
		"the code":                  {regexp.MustCompile(testCode), testCode},
		"the code's hash":           {regexp.MustCompile(`(?i)` + hexSum), hexSum},
		"the code's hash in base64": {regexp.MustCompile(regexp.QuoteMeta(strings.TrimRight(base64Sum, "="))), base64Sum},
		// Nobody knows its bytes here; the field that holds them has one name.
		"a sealed code": {regexp.MustCompile(`"ct\\?"\s*:`), string(sealed)},
		"an ID token":   {regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{20,}`), token},
		"a private key": {regexp.MustCompile(`\bS[UAX][A-Z2-7]{56}\b`), string(seed)},
		body:            {regexp.MustCompile(`"request":\{"v":1`), `"request":{"v":1`},
	}
	plant := filepath.Join(t.TempDir(), "planted")
	for what, secret := range secrets {
		if err := os.WriteFile(plant, []byte("x "+secret.plant+" x"), 0o600); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(plant)
		if err != nil {
			t.Fatal(err)
		}
		if !secret.look.Match(data) {
			t.Fatalf("the search does not find %s even where it was planted", what)
		}
	}
	stored := 0
	err = filepath.WalkDir(filepath.Join(w.dir, "data"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		stored += len(secrets[body].look.FindAll(data, -1))
		wrote[path] = data
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if stored < 4 {
		t.Fatalf("the store holds %d of the 4 accepted requests, so the search of it shows little", stored)
	}
	for where, data := range wrote {
		for what, secret := range secrets {
			if what != body && secret.look.Match(data) {
				t.Errorf("%s holds %s", where, what)
			}
		}
	}
}

// restart ends the relay and starts it again with more flags. It listens on
// another port then.
func (w *world) restart(flags ...string) {
	w.t.Helper()
	w.relay.signal(syscall.SIGTERM)
	w.relay.wait()
	w.relay = start(w.t, nil, "cfa-relay", append([]string{"serve", "--config", w.config}, flags...)...)
	w.url = w.relay.waitFor(`serving ((?:nats|tls)://\S+)\n`)[1]
	w.flags = append([]string{"--relay", w.url, "--relay-name", "localhost"}, w.tlsFlags()...)
}

func TestHiddenNamesStayOutOfTheJobsLog(t *testing.T) {
	t.Parallel()
	for _, names := range []string{"shown", "hidden"} {
		t.Run(names, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, with("names: "+names))
			w.robot(w.humans[0])
			j := w.job("--output", "stdout")
			if code := j.wait(); code != 0 {
				t.Fatalf("cfa ended with %d", code)
			}
			if shown := strings.Contains(j.err.String(), "Ana"); shown != (names == "shown") {
				t.Errorf("names: %s, and the log shows them: %v\n%s", names, shown, j.err)
			}
		})
	}
}

// certificate writes a self-signed certificate for localhost.
func certificate(t testing.TB, dir, prefix string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"ca.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(filepath.Join(dir, prefix+name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func secure(w *world) {
	certificate(w.t, w.dir, "")
	w.top += "tls: {cert: ca.pem, key: key.pem}\nlisten: {nats: \"127.0.0.1:0\", websocket: \"127.0.0.1:0\"}\n"
}

func TestTLSAndWebSocketAndAProxyAllCarryTheRequest(t *testing.T) {
	t.Parallel()
	w := newWorld(t, secure)
	w.robot(w.humans[0])
	t.Run("tls", func(t *testing.T) {
		if code := w.job("--output", "stdout").wait(); code != 0 {
			t.Fatalf("cfa ended with %d", code)
		}
	})
	wss := *w
	wss.flags = []string{"--relay", w.wss, "--relay-name", "localhost", "--ca-file", filepath.Join(w.dir, "ca.pem")}
	t.Run("websocket", func(t *testing.T) {
		if code := wss.job("--output", "stdout").wait(); code != 0 {
			t.Fatalf("cfa ended with %d", code)
		}
	})
	t.Run("websocket through HTTPS_PROXY", func(t *testing.T) {
		// Loopback is never proxied, so the relay gets another name.
		proxy, through := connectProxy(t, w.wss)
		named := wss
		named.flags = []string{"--relay", "wss://relay.example:443", "--relay-name", "localhost", "--ca-file", filepath.Join(w.dir, "ca.pem")}
		j := named.jobIn([]string{"HTTPS_PROXY=" + proxy}, "--output", "stdout")
		if code := j.wait(); code != 0 {
			t.Fatalf("cfa ended with %d", code)
		}
		if through.Load() == 0 {
			t.Fatal("the proxy was not used")
		}
	})
	t.Run("a certificate of an unknown authority", func(t *testing.T) {
		bad := *w
		bad.flags = []string{"--relay", w.url, "--relay-name", "localhost"}
		j := bad.job("--output", "stdout", "--timeout", "5s")
		if code := j.wait(); code != 69 {
			t.Fatalf("cfa ended with %d", code)
		}
		if !strings.Contains(j.err.String(), "ca-file") {
			t.Error("the error does not say what to do")
		}
	})
}

// connectProxy is an HTTP proxy that answers every CONNECT with target.
func connectProxy(t *testing.T, target string) (string, *atomic.Int32) {
	t.Helper()
	target = strings.TrimPrefix(target, "wss://")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var through atomic.Int32
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				br := bufio.NewReader(c)
				req, err := http.ReadRequest(br)
				if err != nil || req.Method != http.MethodConnect {
					return
				}
				up, err := net.Dial("tcp", target)
				if err != nil {
					return
				}
				defer up.Close()
				through.Add(1)
				fmt.Fprintf(c, "HTTP/1.1 200 OK\r\n\r\n")
				go func() { io.Copy(up, br); up.Close() }()
				io.Copy(c, up)
			}()
		}
	}()
	return "http://" + l.Addr().String(), &through
}

func TestSIGHUPTakesANewFileWholeOrNotAtAll(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bob := w.person("Bob")
	w.writeConfig("")
	w.relay.signal(syscall.SIGHUP)
	w.relay.waitFor(`configuration reloaded`)
	w.listen(bob) // who is let in now

	good, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	for bad, why := range map[string]string{"nonsense: true\n": "nonsense", "]\n": "did not find"} {
		if err := os.WriteFile(w.config, append([]byte(bad), good...), 0o600); err != nil {
			t.Fatal(err)
		}
		w.relay.signal(syscall.SIGHUP)
		w.relay.waitFor(`nothing was changed.*line 1.*` + why)
		// The relay runs well, and says what it made of the file.
		st := run(t, nil, "cfa-relay", "status", "--config", w.config)
		if st.code != 0 || !regexp.MustCompile(`"last_reload":\{"at":"[^"]+","error":"reload: nothing was changed: .*line 1.*`+why).MatchString(st.out.String()) {
			t.Errorf("status: %d %s", st.code, st.out)
		}
	}
	w.robot(w.humans[0]) // all is as it was
	if code := w.job("--output", "stdout").wait(); code != 0 {
		t.Fatalf("cfa ended with %d", code)
	}
	w.writeConfig("")
	st := run(t, nil, "cfa-relay", "status", "--config", w.config)
	if st.code != 0 || !strings.Contains(st.out.String(), `"relay":"localhost"`) {
		t.Errorf("status: %d %s", st.code, st.out)
	}
	w.relay.signal(syscall.SIGHUP)
	w.relay.waitFor(`configuration reloaded(?s:.*)configuration reloaded`)
	if st := run(t, nil, "cfa-relay", "status", "--config", w.config); strings.Contains(st.out.String(), `"error"`) {
		t.Errorf("a mistake that is mended is still told: %s", st.out)
	}
}

// A reload that comes while the relay starts, as from a deployment that does both
// at once, waits for the start. It ended the relay before.
func TestSIGHUPWhileTheRelayStartsIsAReload(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.relay.signal(syscall.SIGTERM)
	w.relay.wait()
	// The start waits for this issuer, and says so by asking it.
	asked, answer := make(chan struct{}, 16), make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		select {
		case <-answer:
		case <-r.Context().Done():
		}
		http.Error(rw, "not now", http.StatusInternalServerError)
	}))
	t.Cleanup(slow.Close)
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.config, bytes.Replace(text, []byte("issuers:\n"), []byte(fmt.Sprintf("issuers:\n  - {name: slow, provider: github, url: %q}\n", slow.URL)), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	relay := start(t, nil, "cfa-relay", "serve", "--config", w.config)
	select {
	case <-asked:
	case <-relay.done:
		t.Fatal("the relay ended")
	}
	relay.signal(syscall.SIGHUP)
	close(answer)
	relay.waitFor(`serving nats://`)
	relay.waitFor(`configuration reloaded`)
}

func TestARemovedResponderIsOutAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.person("Bob")
	w.writeConfig("")
	w.relay.signal(syscall.SIGHUP)
	w.relay.waitFor(`configuration reloaded`)
	h := w.listen(w.humans[1])
	w.humans = w.humans[:1]
	w.writeConfig("")
	w.relay.signal(syscall.SIGHUP)
	h.waitFor(`does not let this responder in any more`)
}

func TestCheckExplainsAToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	kp, err := wire.NewConnectKey()
	if err != nil {
		t.Fatal(err)
	}
	good := map[string]any{"aud": wire.Audience("localhost", wire.PublicKey(kp))}
	other := devissuer.GitHubClaims("example/rocket", map[string]any{"repository_id": "1"})
	for _, tc := range []struct {
		name   string
		claims map[string]any
		over   map[string]any
		tamper bool
		code   int
		want   string
	}{
		{"a good one", w.claims, good, false, 0, `(?s)signature is good.*rocket.*fits`},
		{"another repository", other, good, false, 77, `repository_id is "1", the rule wants`},
		{"another audience", w.claims, map[string]any{"aud": "sigstore"}, false, 77, `FAIL +audience`},
		{"a broken signature and another audience", w.claims, map[string]any{"aud": "sigstore"}, true, 77, `FAIL +signature`},
		{"a stranger's issuer", w.claims, map[string]any{"iss": "https://evil.example"}, false, 77, `FAIL +issuer`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			claims := map[string]any{}
			for k, v := range tc.claims {
				claims[k] = v
			}
			for k, v := range tc.over {
				claims[k] = v
			}
			token, err := w.issuer.Mint(claims)
			if err != nil {
				t.Fatal(err)
			}
			if tc.tamper {
				cut := strings.LastIndexByte(token, '.') + 1
				swap := byte('A')
				if token[cut] == 'A' {
					swap = 'B'
				}
				token = token[:cut] + string(swap) + token[cut+1:]
			}
			file := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			p := run(t, nil, "cfa-relay", "check", "--config", w.config, "--token-file", file)
			if p.code != tc.code || !regexp.MustCompile(tc.want).MatchString(p.out.String()) {
				t.Errorf("ended with %d:\n%s", p.code, p.out)
			}
			if strings.Contains(p.out.String()+p.err.String(), token) {
				t.Error("the token was printed")
			}
		})
	}
	bad := filepath.Join(t.TempDir(), "cfa.yaml")
	if err := os.WriteFile(bad, []byte("host: localhost\nprojcts: {}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p := run(t, nil, "cfa-relay", "check", "--config", bad); p.code != 78 || !strings.Contains(p.err.String(), "line 2") {
		t.Errorf("a wrong file: %d %s", p.code, p.err)
	}
}

func TestAPublicAddressWithoutTLSIsRefusedWithTheReason(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	text, err := os.ReadFile(w.config)
	if err != nil {
		t.Fatal(err)
	}
	public := filepath.Join(w.dir, "public.yaml")
	if err := os.WriteFile(public, []byte(strings.ReplaceAll(string(text), "127.0.0.1:0", "0.0.0.0:0")), 0o600); err != nil {
		t.Fatal(err)
	}
	p := run(t, nil, "cfa-relay", "serve", "--config", public)
	if p.code != 78 || !strings.Contains(p.err.String(), "there is no TLS") {
		t.Errorf("ended with %d: %s", p.code, p.err)
	}
}

// TestSeveralPromptsAtOnceAreEachAnswered: with two requests of a project open,
// an honest-looking prompt could be taken for another, so each match code is
// typed from its own job's log, and gives that job its own code.
func TestSeveralPromptsAtOnceAreEachAnswered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.listen(w.humans[0])
	match := regexp.MustCompile(`[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}`)
	type one struct {
		job   *process
		code  string
		match string
	}
	var jobs []one
	for i := range 3 {
		j := w.job("--output", "stdout", "--message", fmt.Sprintf("package %d", i))
		jobs = append(jobs, one{j, fmt.Sprintf("10000%d", i), j.waitFor(match.String())[0]})
	}
	for i := len(jobs) - 1; i >= 0; i-- {
		number := h.waitFor(fmt.Sprintf(`#(\d+) the job says: "package %d"`, i))[1]
		say := func(line string) {
			if _, err := io.WriteString(h.in, line+"\n"); err != nil {
				t.Fatal(err)
			}
		}
		if i > 0 {
			h.waitFor(fmt.Sprintf(`#%s match code: to be typed`, number))
		}
		say(number)
		// Only the last one, which stands alone, can be answered without it.
		if asked := h.waitFor(fmt.Sprintf(`#%s next line: (match )?code`, number)); asked[1] != "" {
			say(jobs[i].match)
		} else if i > 0 {
			t.Fatal("the match code need not be typed, though another request is open")
		}
		say(jobs[i].code)
		if code := jobs[i].job.wait(); code != 0 {
			t.Fatalf("cfa ended with %d", code)
		}
		if got := jobs[i].job.out.String(); got != jobs[i].code+"\n" {
			t.Fatalf("job %d got %q", i, got)
		}
	}
}

// TestJobsOfOneRunAreAnsweredTogether: three packages of a monorepo ask at once,
// and the human types one match code and one code; a job of another run that asks
// beside them gets nothing.
func TestJobsOfOneRunAreAnsweredTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := w.listen(w.humans[0])
	job := func(name, message string, over map[string]any) *process {
		claims := maps.Clone(w.claims)
		maps.Copy(claims, over)
		w.issuer.AddJob(name, claims)
		all := append([]string{"request", "--project", project, "--service", "npm", "--output", "stdout", "--message", message}, w.flags...)
		return start(t, w.issuer.GitHubEnv(name), "cfa", all...)
	}
	number := func(message string) string {
		return h.waitFor(fmt.Sprintf(`#(\d+) the job says: "%s"[^\n]*\n(?:#[^\n]*\n)*?#\d+ your turn`, message))[1]
	}
	stranger := job("stranger", "another run", map[string]any{"run_id": "424242", "check_run_id": "99"})
	other := number("another run")
	var jobs []*process
	var last string
	for i := range 3 {
		message := fmt.Sprintf("package %d", i)
		jobs = append(jobs, job(message, message, map[string]any{"check_run_id": strconv.Itoa(100 + i)}))
		last = number(message)
	}
	say := func(line string) {
		if _, err := io.WriteString(h.in, line+"\n"); err != nil {
			t.Fatal(err)
		}
	}
	say("a" + last)
	if all := h.waitFor(`next line: match code from the log of any of ([#\d, ]+)`)[1]; strings.Count(all, "#") != 3 || slices.Contains(strings.Split(all, ", "), "#"+other) {
		t.Fatalf("the match code is asked for %s, and the stranger is #%s", all, other)
	}
	match := `[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{4}`
	say(stranger.waitFor(match)[0])
	h.waitFor(`not sent: that is not this request's match code`)
	say(jobs[1].waitFor(match)[0])
	h.waitFor(`next line: code for each of`)
	say(testCode)
	for i, j := range jobs {
		if code := j.wait(); code != 0 {
			t.Fatalf("job %d ended with %d", i, code)
		}
		if got := j.out.String(); got != testCode+"\n" {
			t.Errorf("job %d got %q", i, got)
		}
	}
	stranger.signal(syscall.SIGTERM)
	if code := stranger.wait(); code != 82 || stranger.out.String() != "" {
		t.Errorf("the stranger ended with %d, and got %q", code, stranger.out)
	}
}

func TestTheDemoEndsWithTheCodeInTheNextStep(t *testing.T) {
	t.Parallel()
	bin := filepath.Dir(program(t, "cfa"))
	p := run(t, []string{"CFA_DEMO_OTP=654321"}, "cfa-relay", "demo", "--bin", bin)
	if p.code != 0 || !strings.Contains(p.out.String(), "code = 654321") {
		t.Fatalf("the demo ended with %d", p.code)
	}
}

// Promise 6. Who reads an ID token out of a log, or runs the relay that it was
// shown to, has none of what it takes to use it.
func TestAStolenIDTokenIsWorthNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := func() nkeys.KeyPair {
		t.Helper()
		kp, err := wire.NewConnectKey()
		if err != nil {
			t.Fatal(err)
		}
		return kp
	}
	job, thief := key(), key()
	mint := func(relay string, kp nkeys.KeyPair) string {
		t.Helper()
		claims := maps.Clone(w.claims)
		claims["aud"] = wire.Audience(relay, wire.PublicKey(kp))
		token, err := w.issuer.Mint(claims)
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	relay, err := dial.Parse(dial.Target{URL: w.url, Name: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	connect := func(kp nkeys.KeyPair, token string) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		c, err := relay.Connect(ctx, kp, token)
		if err == nil {
			c.Close()
		}
		return err
	}
	stolen := mint("localhost", job)
	// An honest client signs by the key that it shows, so this one is written out.
	asJob := func(t *testing.T) error {
		c, err := nats.Connect(w.url, nats.Nkey(wire.PublicKey(job), thief.Sign), nats.Token(stolen), nats.NoReconnect(), nats.Timeout(within))
		if err == nil {
			c.Close()
		}
		return err
	}
	for _, tc := range []struct {
		name    string
		connect func(t *testing.T) error
		refused error
		why     string // in the relay's log; the thief is told nothing
	}{
		{"with the thief's own key", func(*testing.T) error { return connect(thief, stolen) }, dial.ErrRefused, wire.PublicKey(thief) + `.*speaks for the key`},
		{"with the job's key shown and the thief's signature", asJob, nats.ErrAuthorization, wire.PublicKey(job) + `.*the nonce is not signed by the key that was shown`},
		{"at another relay than it names, even with its key", func(*testing.T) error { return connect(job, mint("elsewhere.example", job)) }, dial.ErrRefused, wire.PublicKey(job) + `.*the ID token's audience is`},
	} {
		if err := tc.connect(t); !errors.Is(err, tc.refused) {
			t.Errorf("%s: %v", tc.name, err)
		}
		w.relay.waitFor(tc.why)
	}
	// The control: this token, this relay, this key. What the thief tried used
	// nothing up.
	if err := connect(job, stolen); err != nil {
		t.Errorf("the job itself: %v", err)
	}
}
