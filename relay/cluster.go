package main

// A cluster's files, out of the file of one relay; and a cluster on this machine
// that is started from just such files, by the real programs.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/continuousauth/action/deploy/cluster"
	"github.com/continuousauth/action/internal/broker"
	"github.com/continuousauth/action/internal/wire"
)

type clusterCmd struct {
	Init clusterInitCmd `cmd:"" help:"Write a folder with configuration and keys for each NATS server and each relay."`
	Demo clusterDemoCmd `cmd:"" help:"Run three NATS servers and two relays on this machine until Ctrl-C; with CFA_DEMO_OTP, one whole request."`
}

type clusterInitCmd struct {
	Config          string   `required:"" placeholder:"FILE" env:"CFA_RELAY_CONFIG" help:"The file of one relay, as cfa-relay init writes it: whom it lets in is what each relay of the cluster gets."`
	Out             string   `required:"" placeholder:"DIR" help:"Where the folders go. One that is there is never overwritten."`
	Node            []string `required:"" placeholder:"NAME=HOST" sep:"none" help:"A NATS server and where the others find it (repeat: three, or five)."`
	Relay           []string `default:"relay-1,relay-2" placeholder:"NAME" help:"A relay (repeat)."`
	URL             string   `placeholder:"URL" help:"How relays reach the servers. Default: tls://HOST:4222, HOST being the file's host, with the addresses of all servers."`
	Folder          string   `default:"/etc/nats" placeholder:"DIR" help:"Where a server's folder will be on its machine."`
	Store           string   `default:"/var/lib/nats" placeholder:"DIR" help:"Where a server keeps the record on its machine."`
	OwnCertificates bool     `help:"Make the certificate that clients see, too, by an authority of its own: they then need its ca.pem."`
}

// Run writes the folders. Nothing is made of a file that a relay would not take.
func (c *clusterInitCmd) Run(stdio stdio) error {
	config, err := broker.ReadConfig(c.Config)
	if err != nil {
		return &exit{exitConfig, err}
	}
	data, err := os.ReadFile(c.Config)
	if err != nil {
		return &exit{exitConfig, err}
	}
	rest, err := letsIn(data)
	if err != nil {
		return &exit{exitConfig, fmt.Errorf("%s: %w", c.Config, err)}
	}
	p := cluster.Plan{Host: config.Host, URL: c.URL, Data: "/var/lib/cfa", Relays: c.Relay, Rest: rest, Own: c.OwnCertificates}
	if p.URL == "" {
		p.URL = "tls://" + net.JoinHostPort(config.Host, "4222")
	}
	for _, pair := range c.Node {
		name, host, ok := strings.Cut(pair, "=")
		if !ok {
			return &exit{exitUsage, fmt.Errorf("--node %q is not NAME=HOST", wire.Clean(pair, 80))}
		}
		p.Nodes = append(p.Nodes, cluster.Node{Name: name, Host: host, Clients: "0.0.0.0:4222", WebSocket: "0.0.0.0:443", Routes: "0.0.0.0:6222", Dir: c.Folder, Store: c.Store})
	}
	if err := p.Write(c.Out); errors.Is(err, cluster.ErrPlan) {
		return &exit{exitUsage, err}
	} else if err != nil {
		return err
	}
	for _, name := range c.Relay {
		// By the code that `serve` reads it with.
		made, err := broker.ReadConfig(filepath.Join(c.Out, name, "cfa.yaml"))
		if err == nil {
			err = made.CheckFiles()
		}
		if err != nil {
			_ = os.RemoveAll(c.Out)
			return &exit{exitConfig, fmt.Errorf("a relay would not start with that, so nothing was left: %w", err)}
		}
	}
	for _, n := range p.Nodes {
		fmt.Fprintf(stdio.out, "%s: to %s on %s; it runs nats-server -c %s\n", filepath.Join(c.Out, n.Name), n.Dir, n.Host, filepath.ToSlash(filepath.Join(n.Dir, "nats.conf")))
	}
	for _, name := range c.Relay {
		fmt.Fprintf(stdio.out, "%s: to /etc/cfa where %s is to run; it runs cfa-relay serve --config /etc/cfa/cfa.yaml\n", filepath.Join(c.Out, name), name)
	}
	if !p.Own {
		fmt.Fprintf(stdio.out, "still missing: cert.pem and key.pem for %s, beside each nats.conf\n", p.Host)
	}
	fmt.Fprintf(stdio.out, "the relays' folders hold keys that let jobs in: take each to its machine, and then remove %s\n", c.Out)
	return nil
}

// letsIn is a relay's file without what a relay on a cluster has not: a listener
// for clients, a certificate, and what it joins.
func letsIn(data []byte) (string, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		return "", err
	}
	drop := func(m *yaml.Node, keys ...string) {
		for i := 0; i+1 < len(m.Content); {
			if slices.Contains(keys, m.Content[i].Value) {
				m.Content = slices.Delete(m.Content, i, i+2)
			} else {
				i += 2
			}
		}
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind != yaml.MappingNode {
		return "", errors.New("the file is no mapping")
	}
	top := doc.Content[0]
	for i := 0; i+1 < len(top.Content); i += 2 {
		if top.Content[i].Value == "listen" {
			if drop(top.Content[i+1], "nats", "websocket", "origins", "plain-websocket"); len(top.Content[i+1].Content) == 0 {
				drop(top, "listen")
			}
			break
		}
	}
	drop(top, "tls", "data", "nats")
	doc.HeadComment, top.HeadComment = "", ""
	top.Content[0].HeadComment = "" // what stands first is about the file that it was
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(&doc), e.Close()); err != nil {
		return "", err
	}
	return b.String(), nil
}

type clusterDemoCmd struct {
	Bin  string        `type:"existingdir" placeholder:"DIR" help:"Where cfa, cfa-relay, cfa-responder and nats-server are; without it they are built from the checkout."`
	Wait time.Duration `default:"1h" help:"How long a job waits for you."`
}

// natsServer is nats-server's own program, of the version that go.mod names: the
// one that is inside a relay, too.
const natsServer = "github.com/nats-io/nats-server/v2"

// Run starts everything, and stops it when it is told to, or when the request that
// OTP answers has ended.
func (d *clusterDemoCmd) Run(ctx context.Context, sio stdio) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	otp, err := demoOTP(sio)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "cfa-cluster-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	say := newTranscript(sio.out)
	packages := map[string]string{"nats-server": natsServer}
	for name, pkg := range ours {
		packages[name] = pkg
	}
	bin, err := programs(ctx, d.Bin, dir, say, packages)
	if err != nil {
		return err
	}
	cast, err := casting(ctx, dir, bin, say)
	if err != nil {
		return err
	}
	defer cast.issuer.Close()

	say.step("cfa-relay cluster init would write these folders: three servers, two relays, and a secret only where it is needed.")
	plan, err := cluster.OnThisMachine(dir)
	if err != nil {
		return err
	}
	plan.Rest = "host: localhost\n" + cast.rules
	files := filepath.Join(dir, "files")
	if err := plan.Write(files); err != nil {
		return err
	}
	if err := list(files, say); err != nil {
		return err
	}

	say.step("The servers start, each as its machine would start it.")
	nodes := &natsNodes{led: newWatch("metadata leader", "stream leader")}
	defer nodes.stop()
	for _, n := range plan.Nodes {
		if err := nodes.start(ctx, bin["nats-server"], filepath.Join(files, n.Name, "nats.conf"), n.Name); err != nil {
			return err
		}
		say.show(fmt.Sprintf("$ nats-server -c %s/nats.conf   # process %d", n.Name, nodes.pid(n.Name)))
	}
	if err := nodes.led.wait(ctx, "metadata leader", nodes.ended()); err != nil {
		return fmt.Errorf("the servers have found no leader: %w\n%s", err, nodes.log.String())
	}

	say.step("The relays join them. They share what comes; either can do all of it.")
	for _, name := range plan.Relays {
		relay, url, err := startRelay(ctx, bin["cfa-relay"], filepath.Join(files, name, "cfa.yaml"))
		if err != nil {
			return err
		}
		defer relay.stop()
		say.show(fmt.Sprintf("$ cfa-relay serve --config %s/cfa.yaml   # process %d\nserving %s", name, relay.cmd.Process.Pid, url))
	}
	front, err := newDoor(plan.Nodes)
	if err != nil {
		return err
	}
	defer front.close()
	say.step("Jobs and responders know one address, behind which the three are: here %s, elsewhere a name with three addresses, or a load balancer.", front.url())
	ca := filepath.Join(files, "ca.pem")
	if otp != "" {
		return cast.request(ctx, sio, say, otp, d.Wait, front.url(), func() error {
			name, pid := nodes.leader()
			say.step("While it waits, the server that leads the record is killed: kill -9 %d, %s.", pid, name)
			return nodes.kill(name)
		}, "--ca-file", ca)
	}

	scripts := map[string]string{"ask": script(cast.issuer.GitHubEnv("release"), bin["cfa"], cast.asking(front.url(), d.Wait, "--ca-file", ca, "--output", "stdout")),
		"answer": script(nil, bin["cfa-responder"], cast.answering(front.url(), "--ca-file", ca))}
	for name, text := range scripts {
		// With the development issuer's own secret in it: for nobody else.
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			return err
		}
	}
	name, pid := nodes.leader()
	say.step("It is yours, until Ctrl-C. In other terminals:")
	say.show(fmt.Sprintf("%s   # asks, as a CI's job\n%s   # answers: 1, then any six digits\nkill -9 %d   # %s, which leads the record; the other two go on\n%s audit verify --config %s",
		filepath.Join(dir, "ask"), filepath.Join(dir, "answer"), pid, name, bin["cfa-relay"], filepath.Join(files, "relay-1", "cfa.yaml")))
	<-ctx.Done()
	return nil
}

// script is a command with exactly this environment added, for a shell.
func script(env []string, bin string, args []string) string {
	quote := func(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
	words := []string{"exec", "env"}
	for _, w := range slices.Concat(env, []string{bin}, args) {
		words = append(words, quote(w))
	}
	return "#!/bin/sh\n" + strings.Join(words, " ") + "\n"
}

// list shows which files there are.
func list(dir string, say *transcript) error {
	folders, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, f := range folders {
		if !f.IsDir() {
			continue
		}
		files, err := os.ReadDir(filepath.Join(dir, f.Name()))
		if err != nil {
			return err
		}
		var names []string
		for _, file := range files {
			names = append(names, file.Name())
		}
		say.show(f.Name() + ": " + strings.Join(names, " "))
	}
	return nil
}

// natsNodes are the servers of a demo, and what they write.
type natsNodes struct {
	led *watch

	mu      sync.Mutex
	log     bytes.Buffer // of all, for who has to find out why
	names   []string
	running map[string]*process
	leads   string // whose record is the one that counts
	gone    chan struct{}
	once    sync.Once
}

func (n *natsNodes) start(ctx context.Context, bin, config, name string) error {
	n.ended()
	cmd := exec.CommandContext(ctx, bin, "-c", config)
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	p, err := start(cmd)
	if err != nil {
		return err
	}
	n.mu.Lock()
	if n.running == nil {
		n.running = map[string]*process{}
	}
	n.names, n.running[name] = append(n.names, name), p
	n.mu.Unlock()
	lines := &prefixWriter{t: &transcript{w: &n.log}, prefix: name + " ", seen: &watch{}}
	go func() {
		buf := make([]byte, 4096)
		for {
			k, err := r.Read(buf)
			if err != nil {
				return
			}
			n.mu.Lock()
			_, _ = lines.Write(buf[:k])
			text := string(buf[:k])
			if strings.Contains(text, "new stream leader for 'STORE > CFA'") {
				n.leads = name
			}
			n.mu.Unlock()
			n.led.see(text)
		}
	}()
	go func() {
		<-p.done
		_ = w.Close()
		n.once.Do(func() { close(n.gone) })
	}()
	return nil
}

// ended is closed when one of them has ended.
func (n *natsNodes) ended() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.gone == nil {
		n.gone = make(chan struct{})
	}
	return n.gone
}

func (n *natsNodes) pid(name string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.running[name].cmd.Process.Pid
}

// leader is the server that leads the record, as they said last; the first, if
// they have said nothing.
func (n *natsNodes) leader() (string, int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	name := n.leads
	if name == "" {
		name = n.names[0]
	}
	return name, n.running[name].cmd.Process.Pid
}

func (n *natsNodes) kill(name string) error {
	n.mu.Lock()
	p := n.running[name]
	n.mu.Unlock()
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	<-p.done
	return nil
}

func (n *natsNodes) stop() {
	n.mu.Lock()
	all := n.running
	n.mu.Unlock()
	var wg sync.WaitGroup
	for _, p := range all {
		wg.Go(p.stop)
	}
	wg.Wait()
}

// door is one address for several servers. It passes bytes on to one that takes
// the connection, the next one each time; TLS is between the two ends.
type door struct {
	l    net.Listener
	to   []string
	work sync.WaitGroup

	mu    sync.Mutex
	next  int
	conns map[net.Conn]bool // nil: closed
}

func newDoor(nodes []cluster.Node) (*door, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &door{l: l, conns: map[net.Conn]bool{}}
	for _, n := range nodes {
		d.to = append(d.to, n.Clients)
	}
	d.work.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			d.work.Go(func() { d.pass(c) })
		}
	})
	return d, nil
}

func (d *door) url() string {
	_, port, _ := net.SplitHostPort(d.l.Addr().String())
	return "tls://localhost:" + port
}

func (d *door) pass(c net.Conn) {
	defer d.drop(c)
	if !d.keep(c) {
		return
	}
	for range d.to {
		d.mu.Lock()
		to := d.to[d.next%len(d.to)]
		d.next++
		d.mu.Unlock()
		s, err := net.DialTimeout("tcp", to, 2*time.Second)
		if err != nil {
			continue
		}
		defer d.drop(s)
		if !d.keep(s) {
			return
		}
		done := make(chan struct{})
		go func() { _, _ = io.Copy(s, c); s.Close(); close(done) }()
		_, _ = io.Copy(c, s)
		c.Close()
		<-done
		return
	}
}

func (d *door) keep(c net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conns != nil {
		d.conns[c] = true
	}
	return d.conns != nil
}

func (d *door) drop(c net.Conn) {
	c.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.conns, c)
}

func (d *door) close() {
	d.l.Close()
	d.mu.Lock()
	for c := range d.conns {
		c.Close()
	}
	d.conns = nil
	d.mu.Unlock()
	d.work.Wait()
}
