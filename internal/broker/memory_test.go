package broker

// What a waiting job costs in memory: the growth of the relay's process by each
// connected job with an open request, against the growth of a bare server's by
// each connection with one subscription. Both servers are processes of their
// own, so that the clients' memory does not count.

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/wire"
)

// memoryServer is the environment variable that makes this test binary a server.
const memoryServer = "CFA_BENCH_MEMORY_SERVER"

func TestMain(m *testing.M) {
	if kind := os.Getenv(memoryServer); kind != "" {
		if err := serveForMemory(kind); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// serveForMemory runs a server, until it is told to end or its standard input
// does, and, for each line on that, collects its garbage and prints its resident
// memory in bytes.
func serveForMemory(kind string) error {
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer cancel()
	if path := os.Getenv(memoryServer + "_PROFILE"); path != "" {
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	var hello string
	switch kind {
	case "relay":
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(50) // as `cfa-relay serve` does
		}
		text, err := os.ReadFile(os.Getenv(memoryServer + "_CONFIG"))
		if err != nil {
			return err
		}
		c, err := ParseConfig(text, "/")
		if err != nil {
			return err
		}
		r, err := Start(ctx, c, crowded)
		if err != nil {
			return err
		}
		defer r.Close()
		defer r.Drain()
		r.traffic.mu.Lock()
		r.traffic.most = 1 << 30 // a key may send what thousands of jobs would
		r.traffic.mu.Unlock()
		hello = r.ClientURL()
	case "bare":
		s, stop, err := newBare(func(o *server.Options) {
			// At the address, and with the user, of the one before.
			if port, err := strconv.Atoi(os.Getenv(memoryServer + "_PORT")); err == nil {
				o.Port = port
			}
			if user := os.Getenv(memoryServer + "_USER"); user != "" {
				o.Nkeys[0].Nkey = user
			}
		})
		if err != nil {
			return err
		}
		defer stop()
		seed, err := s.user.Seed()
		if err != nil {
			return err
		}
		hello = s.url + " " + string(seed)
	}
	fmt.Println(hello)
	ended := make(chan error, 1)
	go func() {
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			debug.FreeOSMemory()
			statm, err := os.ReadFile("/proc/self/statm")
			if err != nil {
				ended <- err
				return
			}
			pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
			if err != nil {
				ended <- err
				return
			}
			fmt.Println(pages * os.Getpagesize())
		}
		ended <- nil
	}()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

type memoryProcess struct {
	b     testing.TB
	cmd   *exec.Cmd
	ask   interface{ Write([]byte) (int, error) }
	say   *bufio.Scanner
	hello []string
}

func startForMemory(b testing.TB, env ...string) *memoryProcess {
	b.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	p := &memoryProcess{b: b, cmd: cmd, ask: in, say: bufio.NewScanner(out)}
	if !p.say.Scan() {
		b.Fatal("the server said nothing")
	}
	p.hello = strings.Fields(p.say.Text())
	b.Cleanup(func() { in.Close(); cmd.Wait() })
	return p
}

// settled is the resident memory once it no longer falls: nats-server keeps
// what it has just written in a cache for ten seconds, the relay what it has
// verified for fifteen.
func (p *memoryProcess) settled() float64 {
	p.b.Helper()
	least, since := p.resident(), time.Now()
	for time.Since(since) < 16*time.Second {
		time.Sleep(time.Second)
		if now := p.resident(); now < least*0.99 {
			least, since = now, time.Now()
		}
	}
	return least
}

func (p *memoryProcess) resident() float64 {
	p.b.Helper()
	if _, err := p.ask.Write([]byte("\n")); err != nil {
		p.b.Fatal(err)
	}
	if !p.say.Scan() {
		p.b.Fatal("the server said nothing")
	}
	n, err := strconv.Atoi(p.say.Text())
	if err != nil {
		p.b.Fatal(err)
	}
	return float64(n)
}

// BenchmarkMemory reports KiB of resident memory per waiting job and per bare
// connection, both without TLS, and their ratio.
func BenchmarkMemory(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("%dJobs", n), func(b *testing.B) {
			if _, err := os.Stat("/proc/self/statm"); err != nil {
				b.Skip("resident memory is read from /proc")
			}
			for b.Loop() {
				f := newFixture(b)
				config := b.TempDir() + "/cfa.yaml"
				if err := os.WriteFile(config, []byte(f.configText(b.TempDir(), "listen: {nats: \"127.0.0.1:0\"}\n")), 0o600); err != nil {
					b.Fatal(err)
				}
				relay := startForMemory(b, memoryServer+"=relay", memoryServer+"_CONFIG="+config)
				bare := startForMemory(b, memoryServer+"=bare")
				seed, err := nkeys.FromSeed([]byte(bare.hello[1]))
				if err != nil {
					b.Fatal(err)
				}
				quiet := []nats.Option{nats.ReconnectBufSize(-1), nats.NoReconnect(), nats.Timeout(30 * time.Second)}
				var mu sync.Mutex
				var conns []*nats.Conn
				keep := func(nc *nats.Conn) { mu.Lock(); conns = append(conns, nc); mu.Unlock() }

				floorBefore := bare.settled()
				together(n, 16, func(int) {
					nc, err := nats.Connect(bare.hello[0], append(quiet, nats.Nkey(wire.PublicKey(seed), seed.Sign))...)
					if err != nil {
						b.Error(err)
						return
					}
					keep(nc)
					if _, err := nc.SubscribeSync(nats.NewInbox()); err != nil {
						b.Error(err)
					}
					nc.Flush()
				})
				floor := bare.settled() - floorBefore
				for _, nc := range conns {
					nc.Close() // two times 10,000 are more than many systems let one process open
				}
				conns = nil

				before := relay.settled()
				together(n, 16, func(int) {
					j := f.job(rocketRepo, "rocket")
					nc, err := nats.Connect(relay.hello[0], append(quiet, nats.Nkey(j.pub, j.key.Sign), nats.Token(j.token), nats.CustomInboxPrefix(wire.InboxPrefix(j.pub)))...)
					if err != nil {
						b.Error(err)
						return
					}
					keep(nc)
					// One subscription for hints and replies, as the bare one has.
					in, err := nc.SubscribeSync(wire.InboxPrefix(j.pub) + ".>")
					if err != nil {
						b.Error(err)
						return
					}
					data, err := json.Marshal(wire.RequestMessage{Request: j.env, Token: j.token})
					if err != nil {
						b.Error(err)
						return
					}
					if err := nc.PublishRequest(wire.JobSubject(j.pub, wire.VerbRequest), wire.InboxPrefix(j.pub)+".r", data); err != nil {
						b.Error(err)
						return
					}
					for {
						m, err := in.NextMsg(30 * time.Second)
						if err != nil {
							b.Error(err)
							return
						}
						if !strings.HasSuffix(m.Subject, ".r") {
							continue // a hint
						}
						var r wire.Reply
						if err := wire.Decode(m.Data, wire.MaxMessage, &r); err != nil || r.State == nil {
							b.Error("not accepted: ", err, r.Refused)
						}
						return
					}
				})
				ours := relay.settled() - before
				for _, nc := range conns {
					nc.Close()
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(ours/float64(n)/1024, "KiB/job")
				b.ReportMetric(floor/float64(n)/1024, "floor-KiB/conn")
				b.ReportMetric(ours/floor, "ratio")
			}
		})
	}
}
