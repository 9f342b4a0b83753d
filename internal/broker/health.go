package broker

// Metrics and health, over HTTP on a listener of their own: for an
// administrator's programs, never for jobs or responders. It reads, and takes
// nothing.

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/netutil"

	"github.com/continuousauth/action/internal/metrics"
)

// healthConnections bounds who reads metrics at once; more wait in the system's
// queue.
const healthConnections = 32

// openHealth listens on listen.metrics, if there is one. It does before anything
// else that takes long, so that a relay that starts is seen to live and not yet to
// be ready.
func (r *Relay) openHealth(c *Config) error {
	if c.Listen.Metrics == "" {
		return nil
	}
	l, err := (&net.ListenConfig{}).Listen(r.ctx, "tcp", c.Listen.Metrics)
	if err != nil {
		return fmt.Errorf("listen.metrics: %w", err)
	}
	r.healthAddr = l.Addr().String()
	mux := http.NewServeMux()
	get := func(path string, f http.HandlerFunc) {
		mux.HandleFunc(path, func(w http.ResponseWriter, q *http.Request) {
			// GET alone: not even HEAD, which the mux would let through.
			if q.Method != http.MethodGet {
				w.Header().Set("Allow", http.MethodGet)
				http.Error(w, "GET only", http.StatusMethodNotAllowed)
				return
			}
			h := w.Header()
			h.Set("Cache-Control", "no-store")
			h.Set("X-Content-Type-Options", "nosniff")
			f(w, q)
		})
	}
	get("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		var b bytes.Buffer
		if err := r.meters.registry.Write(&b); err != nil {
			http.Error(w, "metrics failed", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", metrics.ContentType)
		w.Write(b.Bytes())
	})
	get("/livez", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "alive") })
	get("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := r.unready(); len(why) > 0 {
			http.Error(w, "not ready: "+strings.Join(why, "; "), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ready")
		r.eachIssuer(func(url string, _ time.Duration, there bool) {
			if !there {
				fmt.Fprintf(w, "missing: the keys of %s; its jobs are refused until they come\n", url)
			}
		})
	})
	srv := &http.Server{
		Handler: mux, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		MaxHeaderBytes: 8 << 10, DisableGeneralOptionsHandler: true,
		// What the server says of its clients, strangers among them, is their doing.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	// Outside of r.work, which Close waits for before the rest ends: up to the
	// last moment somebody may ask whether the relay is ready.
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := srv.Serve(netutil.LimitListener(l, healthConnections)); !errors.Is(err, http.ErrServerClosed) {
			r.log.Error("metrics", "error", err)
		}
	}()
	r.closeHealth = func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
		<-served
	}
	return nil
}

// HealthURL is where metrics are served; "" where they are not.
func (r *Relay) HealthURL() string {
	if r.healthAddr == "" {
		return ""
	}
	return "http://" + r.healthAddr
}

// unready says why the relay should be sent nobody now; nothing: it is ready.
func (r *Relay) unready() (why []string) {
	if !r.serving.Load() {
		// The last thing that a start does: issuers were asked for their keys
		// before, and those that did not come are said to be missing.
		return []string{"the relay is starting"}
	}
	if r.draining.Load() {
		why = append(why, "the relay is draining")
	}
	for _, c := range r.net.own() {
		if c.conn != nil && !c.conn.IsConnected() {
			why = append(why, "no connection to NATS ("+c.name+")")
		}
	}
	if r.net.certificate != nil {
		if _, err := r.net.certificate(); err != nil {
			why = append(why, "the certificate: "+err.Error())
		}
	}
	if s := r.unwritable(); s != "" {
		why = append(why, "the store: "+s)
	}
	return why
}

// unwritable says why the record cannot be written; "": it can.
func (r *Relay) unwritable() string {
	if p := r.probed.Load(); p != nil && *p != "" {
		return *p
	}
	return r.opened.Load().unwritable(r.now())
}
