package clientstest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/continuousauth/action/internal/e2e/registrytest"
)

// A Home is a user's home folder on a machine that knows one registry, and has
// that registry's token, only.
type Home struct {
	t   testing.TB
	dir string
	reg *registrytest.Registry
}

// NewHome makes a home whose package managers publish to reg.
func NewHome(t testing.TB, reg *registrytest.Registry) *Home {
	t.Helper()
	h := &Home{t: t, dir: t.TempDir(), reg: reg}
	trust := ""
	if ca := reg.CA(); ca != nil {
		trust = "cafile=" + h.Write("ca.pem", string(ca)) + "\n"
	}
	h.Write(".npmrc", trust+"registry="+reg.URL()+"/\n//"+reg.Host()+"/:_authToken="+reg.Token()+"\nupdate-notifier=false\nfund=false\naudit=false\n"+
		// What a test does not wait for: the pauses before npm tries again by itself.
		"fetch-retry-mintimeout=50\nfetch-retry-maxtimeout=100\n")
	h.Write(".yarnrc.yml", "npmRegistryServer: \""+reg.URL()+"\"\nnpmAuthToken: \""+reg.Token()+"\"\nunsafeHttpWhitelist: [\"127.0.0.1\"]\n"+
		"enableTelemetry: false\nenableGlobalCache: false\nhttpRetry: 0\n")
	h.Write(".yarnrc", "registry \""+reg.URL()+"/\"\ndisable-self-update-check true\n")
	h.Write(".gitconfig", "[user]\n\tname = test\n\temail = test@example.com\n[init]\n\tdefaultBranch = main\n")
	return h
}

// Dir is the home folder.
func (h *Home) Dir() string { return h.dir }

// Write writes a file below the home folder and gives its full name.
func (h *Home) Write(name, content string) string {
	h.t.Helper()
	file := filepath.Join(h.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return file
}

// Env is the whole environment of a client in this home: nothing of the
// machine's own configuration, and nothing of a CI that the tests may run in,
// gets into it.
func (h *Home) Env(c Client) []string {
	h.t.Helper()
	env := []string{"PATH=" + searchPath(bin(h.t, c)), "HOME=" + h.dir, "XDG_CONFIG_HOME=" + filepath.Join(h.dir, ".config"),
		"XDG_CACHE_HOME=" + filepath.Join(h.dir, ".cache"), "TMPDIR=" + h.t.TempDir(), "LANG=C.UTF-8", "TERM=dumb", "NO_COLOR=1",
		// Changesets reads the registry from here only. And whatever else asks for a
		// host that is not this machine's own finds nobody.
		"npm_config_registry=" + h.reg.URL() + "/", "HTTP_PROXY=http://127.0.0.1:9", "HTTPS_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1,localhost",
		"PNPM_CONFIG_FETCH_RETRY_MINTIMEOUT=50", "PNPM_CONFIG_FETCH_RETRY_MAXTIMEOUT=100", // as in .npmrc, where pnpm does not look for it
		"NX_DAEMON=false", "NX_NO_CLOUD=true", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0"}
	if c == Gem {
		env = append(env, "RUBYGEMS_HOST="+h.reg.URL(), "GEM_HOST_API_KEY="+h.reg.Token())
	}
	if h.reg.CA() != nil {
		env = append(env, "NODE_EXTRA_CA_CERTS="+filepath.Join(h.dir, "ca.pem"), "SSL_CERT_FILE="+filepath.Join(h.dir, "ca.pem"))
	}
	return env
}

// Command is a client's command in a folder. env comes after [Home.Env], so that it wins.
func (h *Home) Command(c Client, dir string, env []string, args ...string) *exec.Cmd {
	h.t.Helper()
	all := append(h.Env(c), env...)
	// exec looks in this process's own PATH, which is not the client's.
	program := args[0]
	for _, folder := range bin(h.t, c) {
		if file := filepath.Join(folder, program); executable(file) {
			program = file
			break
		}
	}
	// The longest that any of them takes is seconds: what hangs here waits for a human.
	ctx, cancel := context.WithTimeout(h.t.Context(), 2*time.Minute)
	h.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, args[1:]...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = dir, all, 5*time.Second
	return cmd
}

func executable(file string) bool {
	info, err := os.Stat(file)
	return err == nil && !info.IsDir() && info.Mode()&0o111 != 0
}

// A Result is how a command ended.
type Result struct {
	Code   int
	Stdout string
	Stderr string
}

// Run runs a client's command without a terminal, to its end.
func (h *Home) Run(c Client, dir string, env []string, args ...string) Result {
	h.t.Helper()
	return Run(h.t, h.Command(c, dir, env, args...))
}

// Run runs a command to its end, whatever that is.
func Run(t testing.TB, cmd *exec.Cmd) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%v: %v\n%s%s", cmd.Args, err, &stdout, &stderr)
	}
	return Result{Code: cmd.ProcessState.ExitCode(), Stdout: stdout.String(), Stderr: stderr.String()}
}

// Git runs git in a folder of this home.
func (h *Home) Git(dir string, args ...string) {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.dir, "GIT_CONFIG_NOSYSTEM=1"}
	if out, err := cmd.CombinedOutput(); err != nil {
		h.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}
