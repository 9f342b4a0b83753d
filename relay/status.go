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

func (r running) ask(ctx context.Context, method, path string) ([]byte, error) {
	config, err := broker.ReadConfig(r.Config)
	if err != nil {
		return nil, &exit{exitConfig, err}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	body, err := broker.Admin(ctx, config.Data, method, path)
	if errors.Is(err, broker.ErrNoRelay) {
		return nil, &exit{exitUnavailable, err}
	}
	return body, err
}

type statusCmd struct {
	running `embed:""`
}

// Run prints the status as JSON.
func (s *statusCmd) Run(ctx context.Context, io stdio) error {
	body, err := s.ask(ctx, http.MethodGet, "/v1/status")
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
	if _, err := s.ask(ctx, http.MethodPost, "/v1/reload"); err != nil {
		return err
	}
	_, err := fmt.Fprintln(io.out, "reloaded")
	return err
}
