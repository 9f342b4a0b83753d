package cluster

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"
)

func plan(t *testing.T) Plan {
	t.Helper()
	p := Plan{Host: "cfa.example.com", URL: "tls://cfa.example.com:4222", Data: "/var/lib/cfa", Relays: []string{"relay-1", "relay-2"}, Rest: "host: cfa.example.com\n"}
	for name, host := range map[string]string{"nats-1": "10.0.0.1", "nats-2": "nats-2.internal", "nats-3": "fd00::3"} {
		p.Nodes = append(p.Nodes, Node{Name: name, Host: host, Clients: "0.0.0.0:4222", WebSocket: "0.0.0.0:443", Routes: "0.0.0.0:6222", Dir: "/etc/nats", Store: "/var/lib/nats"})
	}
	return p
}

func written(t *testing.T, p Plan) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "cluster")
	if err := p.Write(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has the mode %04o", path, info.Mode().Perm())
		}
		data, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		out[filepath.ToSlash(name)] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A server that somebody breaks into must hold nothing by which jobs are let in,
// and a relay nothing of another relay's or a server's.
func TestEachMachineHasItsOwnSecretsOnly(t *testing.T) {
	t.Parallel()
	all := files(t, written(t, plan(t)))
	seeds := regexp.MustCompile(`\bS[A-Z2-7]{50,}`)
	have := map[string]map[string]bool{}
	for name, text := range all {
		machine, _, _ := strings.Cut(name, "/")
		if have[machine] == nil {
			have[machine] = map[string]bool{}
		}
		for _, s := range append(seeds.FindAllString(text, -1), regexp.MustCompile(`(?s)-----BEGIN PRIVATE KEY.*`).FindAllString(text, -1)...) {
			have[machine][s] = true
		}
	}
	for machine, n := range map[string]int{"nats-1": 1, "nats-2": 1, "nats-3": 1, "relay-1": 6, "relay-2": 6} {
		if len(have[machine]) != n {
			t.Errorf("%s has %d secrets, not %d", machine, len(have[machine]), n)
		}
	}
	shared := 0
	for s := range have["relay-1"] {
		if have["relay-2"][s] {
			shared++
		}
	}
	if shared != 2 || all["relay-1/issuer.nk"] != all["relay-2/issuer.nk"] || all["relay-1/xkey.nk"] != all["relay-2/xkey.nk"] {
		t.Errorf("the relays share %d secrets; it should be the issuer and the xkey", shared)
	}
	for name, text := range all {
		if strings.HasPrefix(name, "nats-") && seeds.MatchString(text) {
			t.Errorf("%s holds a seed", name)
		}
	}
	// And none of them can make a certificate that the servers would believe.
	for name, text := range all {
		if block, _ := pem.Decode([]byte(text)); block != nil && block.Type == "CERTIFICATE" && !strings.HasSuffix(name, "route-ca.pem") {
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil || c.IsCA {
				t.Errorf("%s: an authority %v, %v", name, c.IsCA, err)
			}
		}
	}
}

// The server itself reads what was written for it.
func TestTheServersTakeTheirFiles(t *testing.T) {
	t.Parallel()
	p := plan(t)
	p.Own = true
	dir := filepath.Join(t.TempDir(), "cluster")
	for i := range p.Nodes {
		p.Nodes[i].Dir = filepath.Join(dir, p.Nodes[i].Name) // the certificates are read, too
	}
	if err := p.Write(dir); err != nil {
		t.Fatal(err)
	}
	for _, n := range p.Nodes {
		o, err := server.ProcessConfigFile(filepath.Join(dir, n.Name, "nats.conf"))
		if err != nil {
			t.Fatal(err)
		}
		if o.ServerName != n.Name || o.Host != "0.0.0.0" || o.Port != 4222 || o.Websocket.Port != 443 || o.Cluster.Port != 6222 || o.StoreDir != "/var/lib/nats" || len(o.Routes) != 2 {
			t.Errorf("%s: %+v", n.Name, o)
		}
		for _, r := range o.Routes {
			if r.Hostname() == n.Host || r.Port() != "6222" {
				t.Errorf("%s has a route to %s", n.Name, r)
			}
		}
		if !o.SyncAlways || o.MaxControlLine != 32<<10 || o.AuthTimeout != 30 || !o.TLSHandshakeFirst || o.TLSConfig == nil || o.Websocket.TLSConfig == nil || !o.Websocket.SameOrigin || o.Cluster.TLSConfig == nil || !o.Cluster.NoAdvertise || o.SystemAccount != "SYS" {
			t.Errorf("%s: a setting is missing: %+v", n.Name, o)
		}
		if c := o.Cluster.TLSConfig; c.ClientCAs == nil || c.RootCAs == nil || c.ClientAuth != 4 { // both sides prove themselves
			t.Errorf("%s: routes prove nothing: %v", n.Name, c.ClientAuth)
		}
		a := o.AuthCallout
		if a == nil || !nkeys.IsValidPublicAccountKey(a.Issuer) || !nkeys.IsValidPublicCurveKey(a.XKey) || a.Account != "AUTH" || len(a.AuthUsers) != 8 {
			t.Fatalf("%s: the callout is %+v", n.Name, a)
		}
		users := map[string]int{}
		for _, u := range o.Nkeys {
			users[u.Account.Name]++
		}
		for _, account := range []string{"SYS", "AUTH", "CFA", "STORE"} {
			if users[account] != 2 {
				t.Errorf("%s: %d users in %s", n.Name, users[account], account)
			}
		}
	}
	// The certificate that clients see is the relay's by name, and by no address.
	pool := x509.NewCertPool()
	all := files(t, dir)
	pool.AppendCertsFromPEM([]byte(all["ca.pem"]))
	block, _ := pem.Decode([]byte(all["nats-1/cert.pem"]))
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: pool, DNSName: "cfa.example.com"}); err != nil || len(c.IPAddresses) > 0 {
		t.Error(err, c.IPAddresses)
	}
	if all["relay-1/ca.pem"] != all["ca.pem"] || !strings.Contains(all["relay-1/cfa.yaml"], "\n  ca-file: ca.pem\n") {
		t.Error("the relays do not know who signed it")
	}
}

func TestWhatIsNoClusterIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		change func(*Plan)
		why    string
	}{
		{"two servers", func(p *Plan) { p.Nodes = p.Nodes[:2] }, "it has 2 NATS servers; three go on without one"},
		{"no relay", func(p *Plan) { p.Relays = nil }, "it has no relay"},
		{"one name twice", func(p *Plan) { p.Relays = []string{"nats-1"} }, "two machines are called nats-1"},
		{"a path", func(p *Plan) { p.Relays = []string{"../relay"} }, `"../relay" is no name for a machine`},
		{"a host that is none", func(p *Plan) { p.Nodes[0].Host = `x" ]` }, `which is neither a host's name nor an address`},
		{"an address that is none", func(p *Plan) { p.Nodes[0].Clients = "4222" }, `listens on "4222", which is not host:port`},
	} {
		p := plan(t)
		c.change(&p)
		dir := filepath.Join(t.TempDir(), "cluster")
		if err := p.Write(dir); !errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s: something was written", c.name)
		}
	}
}

func TestAClusterIsNeverOverwritten(t *testing.T) {
	t.Parallel()
	dir := written(t, plan(t))
	before := files(t, dir)
	if err := plan(t).Write(dir); err == nil || !strings.Contains(err.Error(), "is there already, and stays as it is") {
		t.Error(err)
	}
	for name, text := range files(t, dir) {
		if before[name] != text {
			t.Errorf("%s was changed", name)
		}
	}
}
