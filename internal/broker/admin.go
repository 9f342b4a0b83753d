package broker

// Administration of a running relay: HTTP on a unix socket in its data
// directory, which only its own user can open. Every command that talks to a
// running relay does so here.

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Socket is the path of the administration socket of a relay whose data
// directory is data.
func Socket(data string) string { return filepath.Join(data, "admin.sock") }

// Status is what a running relay says of itself.
type Status struct {
	Relay      string            `json:"relay"`
	NATS       string            `json:"nats"`
	WebSocket  string            `json:"websocket,omitempty"`
	Jobs       int               `json:"jobs"`       // connected
	Responders int               `json:"responders"` // connected
	Open       int               `json:"open"`       // requests that wait
	Away       []Absentee        `json:"away,omitempty"`
	Keys       map[string]string `json:"keys"` // age of each issuer's key set; "missing" where it never came
	LastReload *LastReload       `json:"last_reload,omitempty"`
	// Certificate is the one that new connections get; nil: TLS is another's.
	Certificate *CertificateStatus `json:"certificate,omitempty"`
}

// CertificateStatus is how the relay's certificate is.
type CertificateStatus struct {
	Expires *time.Time `json:"expires,omitempty"` // nil: there is none yet
	Error   string     `json:"error,omitempty"`   // why there is none, or none newer
}

// LastReload is how the last reload went.
type LastReload struct {
	At    time.Time `json:"at"`
	Error string    `json:"error,omitempty"` // why nothing was changed
}

func (r *Relay) serveAdmin(data string) error {
	path := Socket(data)
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("administration socket: %w", err)
	}
	// A socket that a dead relay left behind is removed; a living relay's is not.
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return fmt.Errorf("another relay runs with the data directory %s", data)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("administration socket: %w", err)
	}
	l, err := listenPrivate(path)
	if err != nil {
		return fmt.Errorf("administration socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(r.Status()); err != nil {
			r.log.Warn("status not sent", "error", err)
		}
	})
	mux.HandleFunc("POST /v1/reload", func(w http.ResponseWriter, _ *http.Request) {
		if err := r.Reload(); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	r.serveEnrolment(mux)
	audits := make(chan struct{}, auditsAtOnce)
	mux.HandleFunc("GET /v1/audit", func(w http.ResponseWriter, req *http.Request) {
		select {
		case audits <- struct{}{}:
			defer func() { <-audits }()
			r.serveAudit(w, req)
		default:
			http.Error(w, fmt.Sprintf("%d audits are going on already; wait for one of them to end", auditsAtOnce), http.StatusTooManyRequests)
		}
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	r.goDo(func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			r.log.Error("administration socket", "error", err)
		}
	})
	r.goDo(func() {
		<-r.ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
	})
	return nil
}

// Status says how the relay is.
func (r *Relay) Status() Status {
	rules := r.rules.Load()
	s := Status{Relay: rules.config.Host, NATS: r.ClientURL(), WebSocket: r.WebSocketURL(), Open: r.store.count(), Away: r.absentees(), Keys: map[string]string{}, LastReload: r.reloaded.Load()}
	s.Jobs, s.Responders = r.count()
	ages := rules.keys.Ages()
	for _, i := range rules.config.issuers {
		s.Keys[i.URL] = "missing"
		if age, ok := ages[i.URL]; ok {
			s.Keys[i.URL] = age.Round(time.Second).String()
		}
	}
	s.Certificate = r.net.certificateStatus()
	return s
}

func (n *network) certificateStatus() *CertificateStatus {
	if n.certificate == nil {
		return nil
	}
	s := &CertificateStatus{}
	if _, err := n.certificate(); err != nil {
		s.Error = err.Error()
	} else if n.acme != nil {
		s.Error = n.acme.Failed()
	}
	if end, ok := n.certificateEnd(); ok {
		s.Expires = &end
	}
	return s
}

// ErrNoRelay says that no relay runs with a data directory.
var ErrNoRelay = errors.New("no relay answers")

// Admin asks a running relay through its socket and gives the answer's body.
func Admin(ctx context.Context, data, method, path string) ([]byte, error) {
	body, err := adminStream(ctx, data, method, path)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(io.LimitReader(body, 4<<20))
}

// adminStream is Admin for an answer that is read as it comes.
func adminStream(ctx context.Context, data, method, path string) (io.ReadCloser, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", Socket(data))
	}}}
	req, err := http.NewRequestWithContext(ctx, method, "http://relay"+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := client.Do(req)
	if err != nil {
		var request *url.Error // its text names an address that there is not
		if errors.As(err, &request) {
			err = request.Err
		}
		return nil, fmt.Errorf("%w at %s; does it run, and as this user? (%w)", ErrNoRelay, Socket(data), err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
		if err != nil {
			return nil, err
		}
		return nil, errors.New(strings.TrimSpace(string(body)))
	}
	return resp.Body, nil
}
