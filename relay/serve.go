package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/continuousauth/action/internal/broker"
	"github.com/continuousauth/action/internal/service"
)

type serveCmd struct {
	Config  string `required:"" placeholder:"FILE" env:"CFA_RELAY_CONFIG" help:"The relay's configuration, cfa.yaml."`
	LogJSON bool   `help:"Write the log as JSON lines."`
	Verbose bool   `help:"Log each connection that is let in, too."`
}

// Run serves until the process is told to end, and then ends what is under way.
// SIGHUP reloads the configuration.
func (s *serveCmd) Run(ctx context.Context, io stdio) error {
	config, err := broker.ReadConfig(s.Config)
	if err != nil {
		return &exit{exitConfig, err}
	}
	if err := config.CheckFiles(); err != nil {
		return &exit{exitConfig, err}
	}
	level := slog.LevelInfo
	if s.Verbose {
		level = slog.LevelDebug
	}
	var h slog.Handler = slog.NewTextHandler(io.err, &slog.HandlerOptions{Level: level})
	if s.LogJSON {
		h = slog.NewJSONHandler(io.err, &slog.HandlerOptions{Level: level})
	}
	log := slog.New(h)
	// Before the start, which may wait for issuers: a SIGHUP that nobody takes
	// ends the process.
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	heap(io.getenv)
	relay, err := broker.Start(ctx, config, broker.Options{
		Log: log, Version: version(),
		Reread: func() (*broker.Config, error) { return broker.ReadConfig(s.Config) }, LinkPath: service.LinkPath,
	})
	if err != nil {
		return storeExit(err)
	}
	defer relay.Close()
	// What a program that started this one waits for, and where to connect
	// when the port was left to the system (":0").
	fmt.Fprintf(io.out, "serving %s\n", relay.ClientURL())
	if u := relay.WebSocketURL(); u != "" {
		fmt.Fprintf(io.out, "serving %s\n", u)
	}
	if u := relay.HealthURL(); u != "" {
		fmt.Fprintf(io.out, "metrics %s/metrics\n", u)
	}
	for {
		select {
		case <-hup:
			if err := relay.Reload(); err != nil {
				log.Error("reload failed", "error", err)
			}
		case <-ctx.Done():
			relay.Drain()
			log.Info("relay ends")
			return nil
		case <-relay.Done():
			if err := relay.Err(); err != nil {
				return storeExit(err)
			}
			return nil
		}
	}
}

// storeExit is the end by a store that cannot be had, or not by this program.
func storeExit(err error) error {
	if errors.Is(err, broker.ErrNewerStore) || errors.Is(err, broker.ErrHalfRestored) {
		return &exit{exitConfig, err}
	}
	return &exit{exitUnavailable, err}
}

// heap has the garbage collected twice as often as by default. Waiting jobs are
// what a relay's memory is full of, and each leaves more garbage when it comes in
// than it keeps: left to the default, they lie far apart. GOGC says otherwise.
func heap(getenv func(string) string) {
	if getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
}
