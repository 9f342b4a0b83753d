package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/continuousauth/action/internal/broker"
	"github.com/continuousauth/action/internal/trust"
	"github.com/continuousauth/action/internal/wire"
)

type checkCmd struct {
	Config    string `required:"" placeholder:"FILE" env:"CFA_RELAY_CONFIG" help:"The configuration to check."`
	TokenFile string `placeholder:"FILE" help:"A file with an ID token: say which issuer it is of, which rule it matches, or which claim does not match which value of which rule."`
}

// Run checks the file and, if asked, one token against it. Nothing that it
// prints is the token.
func (c *checkCmd) Run(ctx context.Context, io stdio) error {
	config, err := broker.ReadConfig(c.Config)
	if err != nil {
		return &exit{exitConfig, err}
	}
	if err := config.CheckFiles(); err != nil {
		return &exit{exitConfig, err}
	}
	if c.TokenFile == "" {
		fmt.Fprintf(io.out, "%s is good: relay %s, %d projects\n", c.Config, config.Host, len(config.Projects))
		return nil
	}
	info, err := os.Stat(c.TokenFile)
	if err != nil {
		return &exit{exitUsage, err}
	}
	if info.Size() > wire.MaxToken+2 {
		return &exit{exitUsage, fmt.Errorf("%s has %d bytes; an ID token has at most %d", c.TokenFile, info.Size(), wire.MaxToken)}
	}
	data, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return &exit{exitUsage, err}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	found, err := config.Inspect(ctx, strings.TrimSpace(string(data)))
	if err != nil {
		return &exit{exitConfig, err}
	}
	fmt.Fprintln(io.out, strings.TrimRight(found.String(), "\n"))
	for _, step := range found.Steps {
		if step.Code == trust.CodeKeys && !step.OK {
			return &exit{exitUnavailable, errors.New("what the relay would say cannot be told now: the issuer's keys are not there")}
		}
	}
	fits := false
	for _, p := range found.Projects {
		fits = fits || p.Rule != ""
	}
	if !found.Accepted || !fits {
		return &exit{exitRefused, errors.New("the relay would refuse this token")}
	}
	return nil
}
