package broker

// A cluster in this process, from the files of deploy/cluster: three servers that
// each hold the record, TLS everywhere, and relays that join them.

import (
	"crypto/tls"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/continuousauth/action/deploy/cluster"
)

type trio struct {
	dir     string
	plan    cluster.Plan
	servers map[string]*server.Server
}

// newTrio makes the files, for the fixture's issuer and people. Nothing runs yet.
func newTrio(t testing.TB, f *fixture) *trio {
	t.Helper()
	root := t.TempDir()
	plan, err := cluster.OnThisMachine(root)
	if err != nil {
		t.Fatal(err)
	}
	// The relay's name is the fixture's; the certificate's is this machine's.
	plan.Rest = strings.Replace(f.configText(plan.Data, ""), "data: "+plan.Data+"\n", "", 1)
	x := &trio{dir: filepath.Join(root, "files"), servers: map[string]*server.Server{}, plan: plan}
	if err := x.plan.Write(x.dir); err != nil {
		t.Fatal(err)
	}
	return x
}

// run starts the servers, and waits until they are one cluster.
func (x *trio) run(t testing.TB) {
	t.Helper()
	var all []*server.Server
	for _, n := range x.plan.Nodes {
		o, err := server.ProcessConfigFile(filepath.Join(x.dir, n.Name, "nats.conf"))
		if err != nil {
			t.Fatal(err)
		}
		o.NoSigs, o.NoLog = true, true
		s, err := server.NewServer(o)
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
		if !s.ReadyForConnections(20 * time.Second) {
			t.Fatal("a server does not listen")
		}
		x.servers[n.Name], all = s, append(all, s)
	}
	eventually(t, "the three have a leader", func() bool {
		return slices.ContainsFunc(all, func(s *server.Server) bool { return s.JetStreamIsLeader() && len(s.JetStreamClusterPeers()) == 3 })
	})
}

// spawn starts them as processes of nats-server's own program, which can be killed.
func (x *trio) spawn(t testing.TB) map[string]*exec.Cmd {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "nats-server")
	if out, err := exec.Command("go", "build", "-o", bin, "github.com/nats-io/nats-server/v2").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	all, logs := map[string]*exec.Cmd{}, map[string]*syncBuffer{}
	for _, n := range x.plan.Nodes {
		cmd := exec.Command(bin, "-c", filepath.Join(x.dir, n.Name, "nats.conf"))
		logs[n.Name] = &syncBuffer{}
		cmd.Stderr = logs[n.Name]
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all[n.Name] = cmd
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	}
	for _, log := range logs {
		log.line(t, "Server is ready")
		log.line(t, "metadata leader")
	}
	return all
}

// start starts relay n, and makes it the fixture's.
func (x *trio) start(t testing.TB, f *fixture, n int, o Options) {
	t.Helper()
	c, err := ReadConfig(filepath.Join(x.dir, x.plan.Relays[n], "cfa.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	f.startConfig(c, o)
}

// tls is what jobs and responders need to know of the servers.
func (x *trio) tls(t testing.TB) []nats.Option {
	t.Helper()
	return []nats.Option{nats.Secure(&tls.Config{RootCAs: trusting(t, filepath.Join(x.dir, "ca.pem")).RootCAs, ServerName: "localhost", MinVersion: tls.VersionTLS12}), nats.TLSHandshakeFirst()}
}
