package release

// A stand-in for github.com: its real name, its real addresses, TLS with a
// certificate that a client has to verify, and the redirection to another host
// that it answers downloads with. Programs reach it as they would reach the real
// one behind a company's proxy, so not a line of theirs is different for a test.

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	front = "github.com"
	store = "release-assets.githubusercontent.com"
)

// github serves www, whose files are named as the last part of their address.
type github struct {
	proxy string // address of the proxy through which it is reached
	ca    string // file with the authority that signed its certificate

	mu     sync.Mutex
	mode   string
	asked  []string // each request: host and path
	opened []string // each host that the proxy was asked for
}

// What it can be told to do with a download.
var modes = []string{
	"whole",    // as the real one does
	"cut",      // the connection ends after half of the bytes that were announced
	"short",    // half of the file, announced as all of it
	"page",     // 200 and a page of HTML, as a captive portal answers
	"downhill", // redirected to http
	"unproven", // with a certificate that nobody signed
}

func newGitHub(t testing.TB, dir, www string) *github {
	t.Helper()
	g := &github{ca: filepath.Join(dir, "ca.pem"), mode: "whole"}
	proven, authority := certificate(t)
	unproven, _ := certificate(t)
	if err := os.WriteFile(g.ca, authority, 0o600); err != nil {
		t.Fatal(err)
	}

	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.serve(w, r, www) }))
	server.TLS = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if g.is("unproven") {
			return unproven, nil
		}
		return proven, nil
	}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // a client that hangs up is what some tests are about
	server.StartTLS()
	t.Cleanup(server.Close)

	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.mu.Lock()
		g.opened = append(g.opened, r.Method+" "+r.Host)
		g.mu.Unlock()
		host, _, _ := net.SplitHostPort(r.Host)
		if r.Method != http.MethodConnect || host != front && host != store {
			http.Error(w, "this proxy leads to the stand-in alone", http.StatusForbidden)
			return
		}
		to, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer to.Close()
		from, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer from.Close()
		if _, err := io.WriteString(from, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
			return
		}
		go func() {
			io.Copy(to, buffered)
			to.(*net.TCPConn).CloseWrite()
		}()
		io.Copy(from, to)
	}))
	t.Cleanup(proxy.Close)
	g.proxy = proxy.URL
	return g
}

// env is what a program needs to find its way there.
func (g *github) env(dir string) []string {
	return []string{
		"https_proxy=" + g.proxy, "HTTPS_PROXY=" + g.proxy, "http_proxy=" + g.proxy, "no_proxy=", "NO_PROXY=",
		"CURL_CA_BUNDLE=" + g.ca, "CURL_HOME=" + dir, "WGETRC=" + filepath.Join(dir, "wgetrc"),
	}
}

func (g *github) is(mode string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mode == mode
}

func (g *github) set(t testing.TB, mode string) {
	t.Helper()
	if !slices.Contains(modes, mode) {
		t.Fatalf("the stand-in for github.com knows no %q", mode)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mode = mode
}

func (g *github) heard() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(slices.Concat(g.opened, g.asked), "\n") + "\n"
}

func (g *github) serve(w http.ResponseWriter, r *http.Request, www string) {
	g.mu.Lock()
	g.asked = append(g.asked, "GET "+r.Host+r.URL.Path)
	mode := g.mode
	g.mu.Unlock()

	name := filepath.Base(r.URL.Path)
	data, err := os.ReadFile(filepath.Join(www, name))
	if r.Host == front {
		if err != nil || !strings.HasPrefix(r.URL.Path, "/continuousauth/action/releases/download/v") {
			w.WriteHeader(http.StatusNotFound)
			io.WriteString(w, "Not Found")
			return
		}
		scheme := "https://"
		if mode == "downhill" {
			scheme = "http://"
		}
		http.Redirect(w, r, scheme+store+"/assets/"+name, http.StatusFound)
		return
	}
	switch mode {
	case "cut":
		// The server ends the connection of a handler that wrote less than it announced.
		w.Header().Set("Content-Length", "1000000")
		w.Write(data[:len(data)/2])
	case "short":
		w.Write(data[:len(data)/2])
	case "page":
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<!doctype html><title>Please log in</title>")
	default:
		w.Write(data)
	}
}

// certificate makes an authority, and a certificate of it for both hosts.
func certificate(t testing.TB) (*tls.Certificate, []byte) {
	t.Helper()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: front}, DNSNames: []string{front, store}, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.CreateCertificate(rand.Reader, authority, authority, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.CreateCertificate(rand.Reader, leaf, authority, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{cert}, PrivateKey: key}, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root})
}
