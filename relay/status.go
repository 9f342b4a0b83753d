package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/continuousauth/action/internal/broker"
)

// running finds a running relay by its configuration's data directory.
type running struct {
	Config string `required:"" placeholder:"FILE" env:"CFA_RELAY_CONFIG" help:"The relay's configuration, which says where its data is."`
}

// ask asks the relay whose data directory is data.
func ask(ctx context.Context, data, method, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	body, err := broker.Admin(ctx, data, method, path)
	if errors.Is(err, broker.ErrNoRelay) {
		return nil, &exit{exitUnavailable, err}
	}
	return body, err
}

type statusCmd struct {
	running `embed:""`
}

// Run prints the status as JSON. Of the file it reads only where the relay is, so
// that a mistake in it hides neither the relay nor why its reload failed.
func (s *statusCmd) Run(ctx context.Context, io stdio) error {
	data, err := broker.DataDir(s.Config)
	if err != nil {
		return &exit{exitConfig, err}
	}
	body, err := ask(ctx, data, http.MethodGet, "/v1/status")
	if err != nil {
		return err
	}
	_, err = io.out.Write(body)
	return err
}

type reloadCmd struct {
	running `embed:""`
}

// Run asks for a reload and says whether it was taken.
func (s *reloadCmd) Run(ctx context.Context, io stdio) error {
	config, err := broker.ReadConfig(s.Config)
	if err != nil {
		return &exit{exitConfig, err}
	}
	if _, err := ask(ctx, config.Data, http.MethodPost, "/v1/reload"); err != nil {
		return err
	}
	_, err = fmt.Fprintln(io.out, "reloaded")
	return err
}
