package main

// Opening a link in the human's browser. The link has been checked, and its host
// is one that the human allows; still it comes from a CI job, so it reaches the
// browser as one argument, by no shell, and with no character that a careless
// opener could take for more.

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"time"

	"github.com/continuousauth/action/internal/wire"
)

// openable is what is handed to an opener: xdg-open is a shell script, and what
// it calls may be another.
var openable = regexp.MustCompile(`^https://[A-Za-z0-9._~:/?@&=%+,-]+$`)

var errNoBrowser = errors.New("there is no desktop here to open it on")

// browser gives a way to open links on this system, as the environment says.
func browser(system string, env environ) func(link string) error {
	return func(link string) error {
		name, args, err := opener(system, env, link)
		if err != nil {
			return err
		}
		return start(env, name, args)
	}
}

// launch opens a file of our own on this system.
func launch(system string, env environ, file string) error {
	name, args, err := starter(system, env, file)
	if err != nil {
		return err
	}
	return start(env, name, args)
}

func start(env environ, name string, args []string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("%s is not there to open it with", name)
	}
	// Some openers stay until the browser is closed, and some fail at once.
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = env
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		cancel()
		return fmt.Errorf("%s does not start", name)
	}
	ended := make(chan error, 1)
	go func() {
		defer cancel()
		ended <- cmd.Wait()
	}()
	timer := time.NewTimer(openWithin)
	defer timer.Stop()
	select {
	case err := <-ended:
		if err != nil {
			return fmt.Errorf("%s failed (%w)", name, err)
		}
	case <-timer.C:
	}
	return nil
}

// openWithin is how long an opener has to fail: one that is still there is a
// browser.
const openWithin = 2 * time.Second

// opener is the program that opens a link, and its arguments.
func opener(system string, env environ, link string) (name string, args []string, err error) {
	if wire.CheckLink(link) != nil || !openable.MatchString(link) {
		return "", nil, errors.New("it holds characters that are not handed to another program")
	}
	return starter(system, env, link)
}

// starter is opener for what needs no check.
func starter(system string, env environ, what string) (name string, args []string, err error) {
	switch system {
	case "windows":
		return "rundll32", []string{"url.dll,FileProtocolHandler", what}, nil
	case "darwin":
		return "open", []string{what}, nil
	}
	// Without a desktop xdg-open looks for a browser in the terminal, which is ours.
	if env.get("DISPLAY") == "" && env.get("WAYLAND_DISPLAY") == "" {
		return "", nil, errNoBrowser
	}
	return "xdg-open", []string{what}, nil
}
