// Package acmetest runs a certificate authority on loopback: Pebble, Let's
// Encrypt's own for tests, as a process, with its DNS server as another.
//
// The rule it keeps: **the authority comes by itself and looks.** Nothing tells it
// that a name is proved; it resolves the name, connects to its port 443, which is
// a TCP forwarder here, and wants the right handshake.
package acmetest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Options are how an authority is.
type Options struct {
	Life    time.Duration     // of its certificates; 0: its own default
	EAB     map[string]string // keys of the accounts that alone may ask, by id
	Blocked []string          // names that it does not certify
}

// Authority is one that runs.
type Authority struct {
	t         testing.TB
	Directory string
	CAFile    string // vouches for the authority's own listener
	port443   *forward
	dns       string // the DNS server's management
	manage    string
	client    *http.Client
	stop      []func()
}

// within bounds each wait for something that must happen.
const within = 60 * time.Second

// Both programs are built once for all tests that run at a time: the last of them
// removes them.
var (
	building sync.Mutex
	users    int
	built    string
)

func programs(t testing.TB) string {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	users++
	t.Cleanup(func() {
		building.Lock()
		defer building.Unlock()
		if users--; users == 0 {
			os.RemoveAll(built)
			built = ""
		}
	})
	if built != "" {
		return built
	}
	gomod, err := exec.Command("go", "env", "GOMOD").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "cfa-acme-")
	if err != nil {
		t.Fatal(err)
	}
	tools := filepath.Join(filepath.Dir(string(bytes.TrimSpace(gomod))), "tools", "go.mod")
	for _, name := range []string{"pebble", "pebble-challtestsrv"} {
		if out, err := exec.Command("go", "build", "-modfile="+tools, "-o", filepath.Join(dir, name), "github.com/letsencrypt/pebble/v2/cmd/"+name).CombinedOutput(); err != nil {
			os.RemoveAll(dir)
			t.Fatalf("build %s: %v\n%s", name, err, out)
		}
	}
	built = dir
	return built
}

// Start runs an authority until the test ends.
func Start(t testing.TB, o Options) *Authority {
	t.Helper()
	bin, dir := programs(t), t.TempDir()
	a := &Authority{t: t, CAFile: filepath.Join(dir, "pebble-ca.pem"), port443: newForward(t)}
	certificate(t, dir, a.CAFile)
	data, err := os.ReadFile(a.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(data)
	a.client = &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	// Neither program says which port it has got, so they are told one that was free
	// a moment ago. Where another took it meanwhile, once more.
	for tries := 0; ; tries++ {
		if a.start(bin, dir, o) {
			return a
		}
		a.Stop()
		if tries == 5 {
			t.Fatal("the authority does not start; its log is above")
		}
	}
}

func (a *Authority) start(bin, dir string, o Options) bool {
	dns, dnsManage, listen, manage := free(a.t), free(a.t), free(a.t), free(a.t)
	type profile struct {
		Description    string `json:"description"`
		ValidityPeriod uint64 `json:"validityPeriod"`
	}
	config := map[string]any{
		"listenAddress": listen, "managementListenAddress": manage, "certificate": filepath.Join(dir, "pebble.pem"), "privateKey": filepath.Join(dir, "pebble.key"),
		"httpPort": 1, "tlsPort": a.port443.port(), "retryAfter": map[string]int{"authz": 1, "order": 1}, "keyAlgorithm": "ecdsa",
		"profiles":                       map[string]profile{"default": {"for tests", uint64(o.Life.Seconds())}},
		"domainBlocklist":                o.Blocked,
		"externalAccountMACKeys":         o.EAB,
		"externalAccountBindingRequired": len(o.EAB) > 0,
	}
	data, err := json.Marshal(map[string]any{"pebble": config})
	if err != nil {
		a.t.Fatal(err)
	}
	file := filepath.Join(dir, "pebble.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		a.t.Fatal(err)
	}
	a.Directory, a.manage, a.dns = "https://"+listen+"/dir", "https://"+manage, "http://"+dnsManage
	nameserver := a.process(bin, "pebble-challtestsrv", nil, "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dnsserver", dns, "-management", dnsManage, "-http01", "", "-https01", "", "-tlsalpn01", "", "-doh", "")
	// Each order is looked at anew, and at once.
	authority := a.process(bin, "pebble", []string{"PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0"}, "-config", file, "-dnsserver", dns)
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		select {
		case <-nameserver:
			return false
		case <-authority:
			return false
		default:
		}
		if r, err := a.client.Get(a.Directory); err == nil {
			r.Body.Close()
			if r, err = a.client.Post(a.dns+"/clear-servfail", "application/json", bytes.NewReader([]byte(`{"host":"none.test"}`))); err == nil {
				r.Body.Close()
				return true
			}
		}
	}
	return false
}

// process starts one of the two programs; the channel is closed when it ends.
func (a *Authority) process(bin, name string, env []string, args ...string) <-chan struct{} {
	a.t.Helper()
	cmd := exec.Command(filepath.Join(bin, name), args...)
	var log bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = append([]string{"PATH=" + os.Getenv("PATH")}, env...), &log, &log
	if err := cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cmd.Process.Kill()
			<-done
		})
	}
	a.stop = append(a.stop, stop)
	a.t.Cleanup(func() {
		stop()
		if a.t.Failed() {
			a.t.Logf("%s wrote:\n%s", name, &log)
		}
	})
	return done
}

// Stop ends it before the test does.
func (a *Authority) Stop() {
	for _, stop := range a.stop {
		stop()
	}
	a.stop = nil
}

// Port443 says which address the port 443 of every name leads to; "": none, who
// comes is sent away. Until the first time they wait.
func (a *Authority) Port443(to string) { a.port443.lead(to) }

// Forwarder is the address of that port 443.
func (a *Authority) Forwarder() string { return a.port443.l.Addr().String() }

// Unresolved has the DNS fail for a name.
func (a *Authority) Unresolved(name string) {
	a.t.Helper()
	body, err := json.Marshal(map[string]string{"host": name + "."})
	if err != nil {
		a.t.Fatal(err)
	}
	r, err := a.client.Post(a.dns+"/set-servfail", "application/json", bytes.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusOK {
		a.t.Fatalf("the DNS server says %s", r.Status)
	}
}

// Root is what vouches for the certificates that it gives, in PEM.
func (a *Authority) Root() []byte {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.manage+"/roots/0", nil)
	if err != nil {
		a.t.Fatal(err)
	}
	// It opens this listener beside the other one, and not before it.
	for {
		r, err := a.client.Do(req)
		if err == nil {
			defer r.Body.Close()
			data, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
			if err != nil || r.StatusCode != http.StatusOK {
				a.t.Fatalf("the authority's root: %s %v", r.Status, err)
			}
			return data
		}
		select {
		case <-ctx.Done():
			a.t.Fatal(err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// free is an address that nobody listens on now.
func free(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// certificate makes what the authority's own listener shows.
func certificate(t testing.TB, dir, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "the authority's listener"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for path, data := range map[string][]byte{file: cert, filepath.Join(dir, "pebble.pem"): cert, filepath.Join(dir, "pebble.key"): pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// forward is a TCP proxy: it passes bytes on and understands none. Who comes
// before it is said where to waits.
type forward struct {
	l    net.Listener
	mu   sync.Mutex
	to   string
	said chan struct{} // closed once somebody has said it
	once sync.Once
}

func newForward(t testing.TB) *forward {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &forward{l: l, said: make(chan struct{})}
	var work sync.WaitGroup
	open := map[net.Conn]bool{}
	track := func(c net.Conn, is bool) {
		f.mu.Lock()
		defer f.mu.Unlock()
		if open[c] = is; !is {
			delete(open, c)
			c.Close()
		}
	}
	t.Cleanup(func() {
		l.Close()
		f.once.Do(func() { close(f.said) })
		f.mu.Lock()
		for c := range open {
			c.Close()
		}
		f.mu.Unlock()
		work.Wait()
	})
	work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			<-f.said
			f.mu.Lock()
			to := f.to
			f.mu.Unlock()
			up, err := net.Dial("tcp", to)
			if to == "" || err != nil {
				c.Close()
				continue
			}
			track(c, true)
			track(up, true)
			for _, way := range [][2]net.Conn{{c, up}, {up, c}} {
				work.Go(func() {
					io.Copy(way[0], way[1])
					track(c, false)
					track(up, false)
				})
			}
		}
	})
	return f
}

func (f *forward) port() int {
	_, port, _ := net.SplitHostPort(f.l.Addr().String())
	n, _ := strconv.Atoi(port)
	return n
}

func (f *forward) lead(to string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.to = to
	f.once.Do(func() { close(f.said) })
}
