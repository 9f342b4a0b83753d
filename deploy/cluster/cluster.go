// Package cluster writes what a cluster of relays starts from: for each NATS
// server and each relay a folder with its configuration and its keys.
//
// The rule it keeps: a machine gets the secrets that it needs and no others. The
// servers know public halves only, so that none of them can let anybody in; each
// relay has users of its own; and the authority behind the servers' certificates
// is forgotten when it has signed them.
package cluster

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/nats-io/nkeys"
)

//go:embed nats.conf
var natsConf []byte

//go:embed relay.yaml
var relayHead string

// Plan is which machines there are.
type Plan struct {
	Host   string   // the relay's name, for which the servers' certificates are
	URL    string   // how relays reach the servers; one URL, or several with commas
	Data   string   // each relay's data directory
	Nodes  []Node   // three or five
	Relays []string // their names
	Rest   string   // the relays' file from `host` on: whom it lets in
	// Own also makes the certificate that clients see, by an authority of its own
	// (ca.pem). Else cert.pem and key.pem are to be put beside nats.conf.
	Own bool
}

// Node is one NATS server.
type Node struct {
	Name      string
	Host      string // where the other servers find it
	Clients   string // what it listens on, host:port
	WebSocket string
	Routes    string
	Dir       string // where its folder will be on its machine
	Store     string // where its part of the record will be
}

// OnThisMachine is a plan of three servers and two relays on loopback, for a trial:
// its folders are to be written to dir/files. Rest is the caller's to say.
func OnThisMachine(dir string) (Plan, error) {
	p := Plan{Host: "localhost", Data: "data", Relays: []string{"relay-1", "relay-2"}, Own: true}
	ports, err := freePorts(9)
	if err != nil {
		return Plan{}, err
	}
	at := func(i int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(ports[i])) }
	var urls []string
	for i := range 3 {
		name := fmt.Sprintf("nats-%d", i+1)
		p.Nodes = append(p.Nodes, Node{Name: name, Host: "127.0.0.1", Clients: at(3 * i), WebSocket: at(3*i + 1), Routes: at(3*i + 2),
			Dir: filepath.Join(dir, "files", name), Store: filepath.Join(dir, "store", name)})
		urls = append(urls, fmt.Sprintf("tls://localhost:%d", ports[3*i]))
	}
	p.URL = strings.Join(urls, ",")
	return p, nil
}

// freePorts are ports of this machine that nobody listens on: servers of a cluster
// must know each other's before they start. They are below those that systems
// give to outgoing connections, of which one could take a port meanwhile.
func freePorts(n int) (ports []int, err error) {
	for try := 0; len(ports) < n; try++ {
		r, err := rand.Int(rand.Reader, big.NewInt(22_000))
		if err != nil {
			return nil, err
		}
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+r.Int64()))
		if err != nil {
			if try < 1000 {
				continue
			}
			return nil, err
		}
		defer l.Close() // after all are found, so that none is found twice
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// certificatesFor is how long the certificates are good that the servers show
// each other: nobody is there to renew them, and nobody else believes them.
const certificatesFor = 10 * 365 * 24 * time.Hour

var nameForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)

// ErrPlan says that a plan is not one of a cluster.
var ErrPlan = errors.New("this is no cluster")

func (p Plan) check() error {
	if n := len(p.Nodes); n != 3 && n != 5 {
		return fmt.Errorf("%w: it has %d NATS servers; three go on without one, five without two, and no other number does better", ErrPlan, n)
	}
	if len(p.Relays) == 0 {
		return fmt.Errorf("%w: it has no relay", ErrPlan)
	}
	names := slices.Clone(p.Relays)
	for _, n := range p.Nodes {
		names = append(names, n.Name)
		if net.ParseIP(n.Host) == nil && !regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`).MatchString(n.Host) {
			return fmt.Errorf("%w: %s is at %q, which is neither a host's name nor an address", ErrPlan, n.Name, n.Host)
		}
		for _, at := range []string{n.Clients, n.WebSocket, n.Routes} {
			if _, _, err := net.SplitHostPort(at); err != nil {
				return fmt.Errorf("%w: %s listens on %q, which is not host:port", ErrPlan, n.Name, at)
			}
		}
	}
	for i, name := range names {
		if !nameForm.MatchString(name) {
			return fmt.Errorf("%w: %q is no name for a machine; use a-z, 0-9 and -", ErrPlan, name)
		}
		if slices.Contains(names[:i], name) {
			return fmt.Errorf("%w: two machines are called %s", ErrPlan, name)
		}
	}
	return nil
}

// Write makes the folders in dir, which must not be there yet: what a cluster
// runs on is never overwritten.
func (p Plan) Write(dir string) (err error) {
	if err := p.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s is there already, and stays as it is; name another folder", dir)
	} else if err != nil {
		return err
	}
	defer func() {
		if err != nil { // half of it would be taken for the whole
			_ = os.RemoveAll(dir)
		}
	}()
	for _, name := range p.Relays {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			return err
		}
	}
	keys, err := p.keys(dir)
	if err != nil {
		return err
	}
	routes, err := newAuthority("routes of the cluster of " + p.Host)
	if err != nil {
		return err
	}
	var shown, shownKey, ca []byte
	if p.Own {
		a, err := newAuthority("servers of the cluster of " + p.Host)
		if err != nil {
			return err
		}
		names := []string{p.Host}
		if p.Host == "localhost" {
			names = append(names, "127.0.0.1", "::1")
		}
		if shown, shownKey, err = a.sign(names); err != nil {
			return err
		}
		ca = a.pem
	}
	for _, n := range p.Nodes {
		cert, key, err := routes.sign([]string{n.Host, n.Name})
		if err != nil {
			return err
		}
		files := map[string][]byte{"nats.conf": natsConf, "keys.conf": keys, "node.conf": p.node(n), "route-ca.pem": routes.pem, "route.pem": cert, "route-key.pem": key}
		if p.Own {
			files["cert.pem"], files["key.pem"] = shown, shownKey
		}
		if err := os.Mkdir(filepath.Join(dir, n.Name), 0o700); err != nil {
			return err
		}
		for name, data := range files {
			if err := write(filepath.Join(dir, n.Name, name), data); err != nil {
				return err
			}
		}
	}
	file, err := p.relay()
	if err != nil {
		return err
	}
	for _, name := range p.Relays {
		err := write(filepath.Join(dir, name, "cfa.yaml"), file)
		if err == nil && p.Own {
			err = write(filepath.Join(dir, name, "ca.pem"), ca)
		}
		if err != nil {
			return err
		}
	}
	if p.Own {
		return write(filepath.Join(dir, "ca.pem"), ca)
	}
	return nil
}

func write(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// keys makes the relays' keys, writes each seed to who needs it, and gives
// keys.conf.
func (p Plan) keys(dir string) ([]byte, error) {
	seed := func(name string, create func() (nkeys.KeyPair, error), relays ...string) (string, error) {
		kp, err := create()
		if err != nil {
			return "", err
		}
		s, err := kp.Seed()
		if err != nil {
			return "", err
		}
		defer clear(s)
		line := append(bytes.Clone(s), '\n')
		defer clear(line)
		for _, relay := range relays {
			if err := write(filepath.Join(dir, relay, name+".nk"), line); err != nil {
				return "", err
			}
		}
		return kp.PublicKey()
	}
	issuer, err := seed("issuer", nkeys.CreateAccount, p.Relays...)
	if err != nil {
		return nil, err
	}
	xkey, err := seed("xkey", nkeys.CreateCurveKeys, p.Relays...)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# The relays' public keys, the same on each machine.\ncallout_issuer: %s\ncallout_xkey: %s\n", issuer, xkey)
	var all []string
	for _, user := range []string{"system", "callout", "client", "store"} {
		var users []string
		for _, relay := range p.Relays {
			pub, err := seed(user, nkeys.CreateUser, relay)
			if err != nil {
				return nil, err
			}
			users, all = append(users, "{ nkey: "+pub+" }"), append(all, pub)
		}
		fmt.Fprintf(&b, "%s_users: [ %s ]\n", user, strings.Join(users, ", "))
	}
	fmt.Fprintf(&b, "relay_users: [ %s ]\n", strings.Join(all, ", "))
	return b.Bytes(), nil
}

// node is node.conf.
func (p Plan) node(n Node) []byte {
	var routes []string
	for _, o := range p.Nodes {
		if o.Name != n.Name {
			_, port, _ := net.SplitHostPort(o.Routes) // checked
			routes = append(routes, strconv.Quote("nats-route://"+net.JoinHostPort(o.Host, port)))
		}
	}
	in := func(name string) string { return strconv.Quote(path.Join(filepath.ToSlash(n.Dir), name)) }
	return fmt.Appendf(nil, `# What is this machine's own.
node_name: %q
clients_at: %q
websocket_at: %q
routes_at: %q
routes_to: [ %s ]
record_in: %q
certificate: %s
certificate_key: %s
route_certificate: %s
route_key: %s
route_authority: %s
`, n.Name, n.Clients, n.WebSocket, n.Routes, strings.Join(routes, ", "), filepath.ToSlash(n.Store),
		in("cert.pem"), in("key.pem"), in("route.pem"), in("route-key.pem"), in("route-ca.pem"))
}

// relay is the relays' file.
func (p Plan) relay() ([]byte, error) {
	head, err := template.New("relay.yaml").Parse(relayHead)
	if err != nil {
		return nil, err
	}
	quoted := p // none of these can become YAML of its own
	quoted.Data, quoted.URL = strconv.Quote(p.Data), strconv.Quote(p.URL)
	var b bytes.Buffer
	if err := head.Execute(&b, quoted); err != nil {
		return nil, err
	}
	b.WriteString(p.Rest)
	return b.Bytes(), nil
}

// authority signs certificates as long as this process keeps its key.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t, err := certificate(name)
	if err != nil {
		return nil, err
	}
	t.IsCA, t.MaxPathLenZero, t.KeyUsage = true, true, x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// sign makes a certificate for all of names, which are hosts or addresses.
func (a *authority) sign(names []string) (cert, private []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t, err := certificate(names[0])
	if err != nil {
		return nil, nil, err
	}
	// A server both calls and is called.
	t.KeyUsage, t.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return nil, nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), nil
}

func certificate(name string) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true,
		// Machines' clocks differ.
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(certificatesFor),
	}, nil
}
