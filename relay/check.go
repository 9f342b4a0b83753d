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

	WithoutFiles bool `help:"Do not look at the files that the configuration names (certificates, keys, credentials): for a check on another machine than the relay's."`
}

// Run checks the file and, if asked, one token against it. Nothing that it
// prints is the token.
func (c *checkCmd) Run(ctx context.Context, io stdio) error {
	config, err := broker.ReadConfig(c.Config)
	if err != nil {
		return &exit{exitConfig, err}
	}
	if c.WithoutFiles {
		return c.rest(ctx, io, config, " (the files that it names were not looked at)")
	}
	files := config.CheckFiles()
	if files == nil {
		return c.rest(ctx, io, config, "")
	}
	// All else first: where the certificates are on another machine, it is what
	// can be checked here.
	files = fmt.Errorf("%w\nThe rest of %s is good. If the files that it names are on another machine, check it here with --without-files", files, c.Config)
	if c.TokenFile != "" {
		files = errors.Join(c.rest(ctx, io, config, ""), files)
	}
	return &exit{exitConfig, files}
}

// rest says that the file is good, or what the relay would say of a token.
func (c *checkCmd) rest(ctx context.Context, io stdio, config *broker.Config, but string) error {
	if c.TokenFile == "" {
		fmt.Fprintf(io.out, "%s is good%s: relay %s, %s\n", c.Config, but, config.Host, count(len(config.Projects), "project"))
		if c := config.Certificate(); c != "" {
			fmt.Fprintln(io.out, c)
		}
		fmt.Fprintf(io.out, "the record is kept for %d days, in at most %d MiB\n", int(time.Duration(config.Limits.Retention).Hours())/24, config.Limits.Store>>20)
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

// count is n things.
func count(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return fmt.Sprintf("%d %s", n, thing)
}
