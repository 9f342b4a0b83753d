// Package githubtest is a stand-in for github.com as the place that releases are
// downloaded from: its real name, its real addresses, TLS with a certificate that
// a client has to verify, and the redirection to another host that it answers
// downloads with.
//
// The rule it keeps: programs reach it as they would reach the real one behind a
// company's proxy, so not a line of theirs is different for a test.
package githubtest

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

// Server serves the files of a folder, each by the last part of its address.
type Server struct {
	dir   string
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

// New starts one for the files of www, and puts what its clients need into dir. It
// ends with the test.
func New(t testing.TB, dir, www string) *Server {
	t.Helper()
	g := &Server{dir: dir, ca: filepath.Join(dir, "ca.pem"), mode: "whole"}
	proven, authority := certificate(t)
	unproven, _ := certificate(t)
	for name, data := range map[string][]byte{g.ca: authority, filepath.Join(dir, "wgetrc"): []byte("ca_certificate = " + g.ca + "\n")} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
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

// Env is what curl and wget need to find their way there.
func (g *Server) Env() []string {
	return []string{
		"https_proxy=" + g.proxy, "HTTPS_PROXY=" + g.proxy, "http_proxy=" + g.proxy, "no_proxy=", "NO_PROXY=",
		"CURL_CA_BUNDLE=" + g.ca, "CURL_HOME=" + g.dir, "WGETRC=" + filepath.Join(g.dir, "wgetrc"),
	}
}

func (g *Server) is(mode string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mode == mode
}

// Set says how it answers from now on: one of modes.
func (g *Server) Set(t testing.TB, mode string) {
	t.Helper()
	if !slices.Contains(modes, mode) {
		t.Fatalf("the stand-in for github.com knows no %q", mode)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mode = mode
}

// Heard is what it, and its proxy, have been asked for.
func (g *Server) Heard() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(slices.Concat(g.opened, g.asked), "\n") + "\n"
}

func (g *Server) serve(w http.ResponseWriter, r *http.Request, www string) {
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
