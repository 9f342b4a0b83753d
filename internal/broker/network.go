package broker

// The NATS side: an embedded server, or one that exists. Either way the relay
// has four connections, one for each account it acts in, and clients come in
// through the auth callout.
//
//	SYS    who is connected; closing connections
//	AUTH   the callout, and nothing else
//	CFA    jobs, responders and the relay; no JetStream
//	STORE  the relay's stream; nobody else is ever placed there

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"github.com/continuousauth/action/internal/acme"
	"github.com/continuousauth/action/internal/wire"
)

type network struct {
	server                          *server.Server // nil: external
	callout, client, store, system  *nats.Conn
	issuer                          nkeys.KeyPair // signs the callout's answers
	users                           nkeys.KeyPair // signs jobs' and responders' users: another key in operator mode only
	xkey                            nkeys.KeyPair // nil: callout in the clear, in this process or on loopback
	account                         string        // where jobs and responders are placed
	asked                           string        // operator mode: the account of the callout; else empty
	secure                          bool
	listenHost                      string
	webSocketHost, webSocketProfile string
	once                            sync.Once               // of close
	jetStream                       *server.JetStreamConfig // the embedded server's, while it is opened anew

	acme        *acme.Manager                    // nil: the certificate is in files
	fatal       <-chan string                    // why an embedded server cannot go on
	certificate func() (*tls.Certificate, error) // what new connections get; nil: there is no TLS of this process's
}

// ownConnection is one of the relay's own, with what it is for.
type ownConnection struct {
	name string
	conn *nats.Conn
}

func (n *network) own() []ownConnection {
	return []ownConnection{{"callout", n.callout}, {"client", n.client}, {"store", n.store}, {"system", n.system}}
}

func (r *Relay) openNetwork(ctx context.Context, c *Config) (*network, error) {
	if c.NATS != nil {
		return joinNetwork(ctx, c, r.log)
	}
	return embedNetwork(ctx, c, r.log, r.opts.embed, r.asked)
}

// embedNetwork runs a server in this process. Its keys are made anew at each
// start and never leave memory. asked is told each question of the callout, from
// before the first can come: the server waits for an answer for as long as for a
// CONNECT, also where nobody had heard the question, and whoever came back in the
// moment of a restart would hang at the door until they give up.
func embedNetwork(ctx context.Context, c *Config, log *slog.Logger, change func(*server.Options), asked nats.MsgHandler) (_ *network, err error) {
	n := &network{account: "CFA", secure: c.TLS.on()}
	kp, err := nkeys.CreateAccount()
	if err != nil {
		return nil, err
	}
	if n.issuer, err = newSigner(kp); err != nil {
		return nil, err
	}
	n.users = n.issuer
	issuer, err := n.issuer.PublicKey()
	if err != nil {
		return nil, err
	}
	accounts := map[string]*server.Account{}
	opts := &server.Options{
		ServerName: "cfa-relay", NoSigs: true, NoLog: true,
		AlwaysEnableNonce: true,
		DontListen:        true, // see listen
		// An ID token travels in CONNECT; the default of 4 KiB cuts long ones off.
		MaxControlLine: 32 << 10,
		MaxPayload:     256 << 10,
		// Counted from the TCP connect, queueing for the callout included: with
		// the default of 2 s a thousand simultaneous jobs refuse each other. As long
		// as package dial waits.
		AuthTimeout: 30,
		// A first PING after 2 s would reach those that still queue, and their
		// NATS clients take nothing but a PONG there: they would give up.
		DisableShortFirstPing: true,
		LameDuckDuration:      400 * time.Millisecond, // see close
		LameDuckGracePeriod:   300 * time.Millisecond,
		MaxConn:               64 << 10,
		JetStream:             true,
		StoreDir:              filepath.Join(c.Data, "store"),
		SyncAlways:            true, // the default forgets two minutes of acknowledged writes when power fails
		SystemAccount:         "SYS",
	}
	// In the server's own words, because its Go types have no limits of an
	// account, and it does not apply those of a user that a callout has minted.
	if err := opts.ProcessConfigString(fmt.Sprintf("accounts { SYS {}, AUTH {}, STORE {}, CFA { limits { max_payload: %d, max_subscriptions: %d } } }", wire.MaxMessage, clientSubscriptions)); err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	for _, a := range opts.Accounts {
		accounts[a.Name] = a
	}
	callout := &server.AuthCallout{Issuer: issuer, Account: "AUTH", AllowedAccounts: []string{"CFA"}}
	users := map[string]nkeys.KeyPair{}
	for _, name := range []string{"SYS", "AUTH", "CFA", "STORE"} {
		kp, err := nkeys.CreateUser()
		if err != nil {
			return nil, err
		}
		pub, err := kp.PublicKey()
		if err != nil {
			return nil, err
		}
		users[name] = kp
		opts.Nkeys = append(opts.Nkeys, &server.NkeyUser{Nkey: pub, Account: accounts[name]})
		callout.AuthUsers = append(callout.AuthUsers, pub)
	}
	opts.AuthCallout = callout
	if opts.Host, opts.Port, err = splitPort(c.Listen.NATS); err != nil {
		return nil, err
	}
	n.listenHost = opts.Host
	var serverTLS, webSocketTLS *tls.Config
	if n.secure {
		if serverTLS, webSocketTLS, err = n.listenerTLS(ctx, c, log); err != nil {
			return nil, err
		}
		defer func() {
			if err != nil && n.acme != nil {
				n.acme.Close()
			}
		}()
		opts.TLS, opts.TLSConfig, opts.TLSHandshakeFirst, opts.TLSTimeout = true, serverTLS, true, 10
	}
	if c.Listen.WebSocket != "" {
		host, port, err := splitPort(c.Listen.WebSocket)
		if err != nil {
			return nil, err
		}
		n.webSocketHost = host
		n.webSocketProfile = "wss"
		opts.Websocket = server.WebsocketOpts{
			Host: host, Port: port, TLSConfig: webSocketTLS, HandshakeTimeout: 10 * time.Second,
			// Browsers send an Origin, and only those listed may; without a
			// list no page of another host may use a visitor's network.
			AllowedOrigins: c.Listen.Origins, SameOrigin: len(c.Listen.Origins) == 0,
		}
		if !n.secure || c.Listen.Plain {
			opts.Websocket.NoTLS, opts.Websocket.TLSConfig = true, nil
			n.webSocketProfile = "ws"
		}
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if change != nil {
		change(opts)
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	n.server = srv
	fatal := make(chan string, 1)
	n.fatal = fatal
	srv.SetLogger(natsLog{log, fatal}, false, false)
	srv.Start()
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	// First, because for WebSocket the server listens by now.
	connect := func(name string, conn **nats.Conn) error {
		pub, _ := users[name].PublicKey()
		if *conn, err = nats.Connect("", nats.InProcessServer(srv), nats.Name("cfa-relay "+name), nats.NoEcho(),
			nats.Nkey(pub, users[name].Sign), nats.MaxReconnects(-1), quietErrors(log)); err != nil {
			return fmt.Errorf("embedded NATS server, account %s: %w", name, err)
		}
		return nil
	}
	if err := connect("AUTH", &n.callout); err != nil {
		select {
		case why := <-fatal:
			return nil, errors.New("embedded " + why)
		default:
			return nil, err
		}
	}
	if _, err = n.callout.QueueSubscribe(calloutSubject, "relay", asked); err == nil {
		err = n.callout.Flush()
	}
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: auth callout: %w", err)
	}
	ready := make(chan bool, 1)
	go func() { ready <- srv.ReadyForConnections(20 * time.Second) }()
	select {
	case ok := <-ready:
		if !ok {
			return nil, fmt.Errorf("embedded NATS server does not listen on %s", c.Listen.NATS)
		}
	case why := <-fatal:
		return nil, errors.New("embedded " + why)
	}
	// The server has made accounts of its own from those in the options.
	storeAccount, err := srv.LookupAccount("STORE")
	if err == nil {
		err = storeAccount.EnableJetStream(nil, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("embedded NATS server: %w", err)
	}
	for name, conn := range map[string]**nats.Conn{"SYS": &n.system, "CFA": &n.client, "STORE": &n.store} {
		if err := connect(name, conn); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// listenerTLS gives both listeners the relay's certificate.
func (n *network) listenerTLS(ctx context.Context, c *Config, log *slog.Logger) (nats, webSocket *tls.Config, err error) {
	if c.TLS.ACME == nil {
		if nats, err = serverCertificate(c.TLS, log); err != nil {
			return nil, nil, err
		}
		n.certificate = func() (*tls.Certificate, error) {
			return nats.GetCertificate(&tls.ClientHelloInfo{ServerName: c.Host})
		}
		return nats, nats, nil
	}
	o, err := c.acme(log)
	if err != nil {
		return nil, nil, err
	}
	if n.acme, err = acme.Open(ctx, o); err != nil {
		return nil, nil, err
	}
	n.certificate = n.acme.Certificate
	// nats-server has a GetConfigForClient of its own for WebSocket, so the
	// authority's protocol must be among those that the listener speaks.
	return n.acme.TLS(), n.acme.TLS("http/1.1", acme.Protocol), nil
}

// tlsAddress is a listener of this process that speaks TLS.
func (n *network) tlsAddress() *net.TCPAddr {
	addr, _ := n.server.Addr().(*net.TCPAddr)
	return addr
}

// listen opens an embedded server's door, once there is somebody to answer: who is
// turned away by a port that nobody listens on comes back in a moment.
func (n *network) listen() error {
	if n.server == nil {
		return nil
	}
	ready := make(chan struct{})
	n.server.AcceptLoop(ready)
	<-ready
	select {
	case why := <-n.fatal:
		return errors.New("embedded " + why)
	default:
		return nil
	}
}

// joinNetwork connects to servers that exist, with a user in each account.
func joinNetwork(ctx context.Context, c *Config, log *slog.Logger) (_ *network, err error) {
	n := &network{account: c.NATS.Account, secure: strings.HasPrefix(c.NATS.URL, "tls://")}
	defer func() {
		if err != nil {
			n.close()
		}
	}()
	files, err := c.NATS.read()
	if err != nil {
		return nil, err
	}
	n.issuer, n.users, n.xkey = files.issuer, files.users, files.xkey
	for name, conn := range map[string]**nats.Conn{"system": &n.system, "callout": &n.callout, "client": &n.client, "store": &n.store} {
		opts := []nats.Option{files.auth[name], nats.Name("cfa-relay " + name), nats.NoEcho(), nats.MaxReconnects(-1), nats.Timeout(10 * time.Second), nats.IgnoreAuthErrorAbort(), quietErrors(log)}
		if n.secure {
			opts = append(opts, nats.TLSHandshakeFirst(), nats.Secure(&tls.Config{MinVersion: tls.VersionTLS12}))
			if c.NATS.CAFile != "" {
				opts = append(opts, nats.RootCAs(c.NATS.CAFile))
			}
		}
		if *conn, err = nats.Connect(c.NATS.URL, opts...); err != nil {
			return nil, fmt.Errorf("join NATS at %s as nats.%s: %w%s", c.NATS.URL, name, err, c.NATS.hint(name, err))
		}
	}
	accounts, err := n.checkAccounts(ctx)
	if err != nil {
		return nil, err
	}
	if c.NATS.operator() {
		n.asked = accounts["nats.callout"]
		if err := n.checkClaims(ctx); err != nil {
			return nil, err
		}
	}
	return n, ctx.Err()
}

// checkAccounts asks the server where the relay's four users are. Without it a
// mistake would be silent: in the wrong account nobody's messages are heard, and
// nobody's connections are seen, so that none would be closed. It gives the
// account of each.
func (n *network) checkAccounts(ctx context.Context) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	users, accounts := map[string]string{}, map[string]string{}
	for _, u := range []struct {
		name string
		conn *nats.Conn
	}{{"nats.system", n.system}, {"nats.callout", n.callout}, {"nats.client", n.client}, {"nats.store", n.store}} {
		var info struct {
			Data struct {
				Account string `json:"account"`
			} `json:"data"`
		}
		m, err := u.conn.RequestWithContext(ctx, "$SYS.REQ.USER.INFO", nil)
		if err == nil {
			err = json.Unmarshal(m.Data, &info)
		}
		if err != nil {
			return nil, fmt.Errorf("which account is %s a user of? %w", u.name, err)
		}
		account := info.Data.Account
		if other, twice := users[account]; twice {
			return nil, fmt.Errorf("%s and %s are both users of the account %s; each needs one of its own", other, u.name, account)
		}
		users[account], accounts[u.name] = u.name, account
		if u.conn == n.client && account != n.account {
			if nkeys.IsValidPublicAccountKey(account) != nkeys.IsValidPublicAccountKey(n.account) {
				return nil, fmt.Errorf("nats.client is a user of the account %s, so the server is in %s mode; nats.account must be that", account, modeOf(account))
			}
			return nil, fmt.Errorf("nats.client is a user of the account %s, but jobs and responders are placed in %s (nats.account)", account, n.account)
		}
	}
	// Only the system account hears this.
	if _, err := n.system.RequestWithContext(ctx, "$SYS.REQ.SERVER.PING", nil); err != nil {
		return nil, fmt.Errorf("nats.system is not a user of the server's system account, without which no connection can be closed: %w", err)
	}
	return accounts, nil
}

// private refuses a file with a secret that more people can read than its owner
// (and, where mode allows it, its group).
func private(what, path string, mode os.FileMode) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&mode != 0 {
		return fmt.Errorf("%s: %s can be read by others (mode %04o); run: chmod 600 %s", what, path, info.Mode().Perm(), path)
	}
	return nil
}

// seedFile reads a seed of the kind that is wanted there: another one would be
// found out by the first who connects.
func seedFile(what, path string, kind nkeys.PrefixByte) (nkeys.KeyPair, error) {
	if err := private(what, path, 0o077); err != nil {
		return nil, err
	}
	data, err := readSmall(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	defer clear(data)
	kp, err := nkeys.ParseDecoratedNKey(data)
	if err != nil {
		if kp, err = nkeys.FromCurveSeed([]byte(strings.TrimSpace(string(data)))); err != nil {
			return nil, fmt.Errorf("%s: %s holds no nkey seed", what, path)
		}
	}
	pub, err := kp.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("%s: %s holds no nkey seed", what, path)
	}
	if is := nkeys.Prefix(pub); is != kind {
		return nil, fmt.Errorf("%s: %s holds the seed of the key %s, which is of the kind %s; here belongs one of the kind %s (%s…)", what, path, pub, is, kind, seedStart[kind])
	}
	return kp, nil
}

// seedStart is how seeds of each kind begin.
var seedStart = map[nkeys.PrefixByte]string{nkeys.PrefixByteUser: "SU", nkeys.PrefixByteAccount: "SA", nkeys.PrefixByteCurve: "SX"}

// maxSecretFile bounds a file with a seed or a user JWT, in bytes.
const maxSecretFile = 64 << 10

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSecretFile+1))
	if err == nil && len(data) > maxSecretFile {
		clear(data)
		return nil, fmt.Errorf("%s has more than %d bytes", path, maxSecretFile)
	}
	return data, err
}

func splitPort(addr string) (string, int, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not host:port", addr)
	}
	p, err := strconv.Atoi(port)
	if err != nil || p < 0 || p > 65535 {
		return "", 0, fmt.Errorf("%q has no port number", addr)
	}
	if p == 0 {
		p = server.RANDOM_PORT
	}
	return host, p, nil
}

func quietErrors(log *slog.Logger) nats.Option {
	return nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) {
		subject := ""
		if s != nil {
			subject = s.Subject
		}
		log.Warn("NATS", "subject", subject, "error", err)
	})
}

func (n *network) clientURL() string {
	if n.server == nil {
		return n.client.ConnectedUrl()
	}
	scheme := "nats"
	if n.secure {
		scheme = "tls"
	}
	addr, ok := n.server.Addr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	return scheme + "://" + net.JoinHostPort(n.listenHost, strconv.Itoa(addr.Port))
}

func (n *network) webSocketURL() string {
	if n.server == nil || n.webSocketProfile == "" {
		return ""
	}
	// The server says where it listens, also where the port was its choice.
	if ports := n.server.PortsInfo(time.Second); ports != nil {
		for _, p := range ports.WebSocket {
			if _, port, err := net.SplitHostPort(strings.TrimPrefix(strings.TrimPrefix(p, "wss://"), "ws://")); err == nil {
				return n.webSocketProfile + "://" + net.JoinHostPort(n.webSocketHost, port)
			}
		}
	}
	return ""
}

// reopenStore ends the embedded server's JetStream and starts it again. After a
// write that failed it keeps the error and writes no more, and the error cannot be
// taken from it otherwise. What is on disk is read again; appends fail meanwhile, and
// whoever made them tries again.
func (n *network) reopenStore() error {
	if config := n.server.JetStreamConfig(); config != nil { // nil: the start after an earlier end has failed
		// It puts its own directory below the one that it is told: below its own
		// it would find nothing, and begin an empty record.
		config.StoreDir = filepath.Dir(config.StoreDir)
		if err := n.server.ShutdownJetStream(); err != nil {
			return fmt.Errorf("embedded NATS server: %w", err)
		}
		n.jetStream = config
	}
	config := *n.jetStream // which it changes
	if err := n.server.EnableJetStream(&config); err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	storeAccount, err := n.server.LookupAccount("STORE")
	if err == nil && !storeAccount.JetStreamEnabled() {
		err = storeAccount.EnableJetStream(nil, nil)
	}
	if err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	return nil
}

// quiet stops taking new messages. The callout goes on: whom it does not answer
// keeps an embedded server from ending.
func (n *network) quiet() {
	if n.client != nil {
		if err := n.client.Drain(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			n.client.Close()
		}
	}
}

// closeWithin bounds the wait for connections that the callout was asked about
// in the server's last moment: they would hold it up for the auth timeout. Its
// store is closed before them.
const closeWithin = 5 * time.Second

// ownConnections are the relay's own, one for each account.
const ownConnections = 4

func (n *network) close() { n.once.Do(n.closeOnce) }

func (n *network) closeOnce() {
	if n.server != nil {
		if n.callout != nil {
			n.callout.FlushTimeout(time.Second) // its last answers must be there first
		}
		ended := make(chan struct{})
		go func() {
			// By way of the lame duck, which closes the door and then the
			// connections first: a server that is asked to let somebody in while
			// it shuts down fails with a nil pointer (2.15.2), and with it this
			// process.
			if n.server.NumClients() > ownConnections {
				n.server.LameDuckShutdown()
			}
			n.server.Shutdown()
			n.server.WaitForShutdown()
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(closeWithin):
		}
	}
	for _, c := range []*nats.Conn{n.callout, n.client, n.system, n.store} {
		if c != nil {
			c.Close()
		}
	}
	if n.acme != nil {
		n.acme.Close()
	}
}

// natsLog takes the server's own log into ours. Debug and trace are never on:
// they would write CONNECT lines, and with them ID tokens.
type natsLog struct {
	log   *slog.Logger
	fatal chan<- string // what a server of its own would end for, such as a taken port
}

func (l natsLog) Noticef(f string, a ...any) { l.log.Debug(serverWords(f, a)) }
func (l natsLog) Warnf(f string, a ...any)   { l.log.Warn(serverWords(f, a)) }
func (l natsLog) Errorf(f string, a ...any)  { l.log.Info(serverWords(f, a)) }
func (l natsLog) Fatalf(f string, a ...any) {
	why := serverWords(f, a)
	l.log.Error(why)
	select {
	case l.fatal <- why:
	default:
	}
}
func (l natsLog) Debugf(string, ...any) {}
func (l natsLog) Tracef(string, ...any) {}

// longWord is longer than a public key. The server quotes user names and what it
// cannot read, and there a client can have put its ID token or its seed.
var longWord = regexp.MustCompile(`[A-Za-z0-9_.=-]{57,}`)

func serverWords(f string, a []any) string {
	return "nats-server: " + longWord.ReplaceAllString(fmt.Sprintf(f, a...), "(a long word)")
}
