package main

// The way browser: a page on loopback, which a one-time link of this user's opens.
// The page itself is internal/page; here are its words, its link and what opens it.

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/continuousauth/action/internal/answer"
	web "github.com/continuousauth/action/internal/page"
)

// browserWay is the page with what this user's commands ask of it.
type browserWay struct{ *web.Page }

func openBrowserWay(s surroundings, part func(any) error) (answer.Asker, error) {
	if err := part(&struct{}{}); err != nil {
		return nil, err
	}
	p, err := web.New(web.Config{Describe: describePage, Log: s.log})
	if err != nil {
		return nil, err
	}
	return browserWay{p}, nil
}

// describePage puts a prompt into the words of every way to ask.
func describePage(p answer.Prompt, now time.Time) web.Words {
	tell := teller{mute: true, now: func() time.Time { return now }}
	var w web.Words
	if p.Standing == answer.Verified {
		w.Sentence = harmless(sentence(p, now)) + "."
	}
	if known(p.Standing) {
		for _, row := range tell.table(p) {
			w.Rows = append(w.Rows, [2]string{row[0], harmless(row[1])})
		}
	}
	return w
}

// oblige is obliging's.
func (b browserWay) oblige(_ context.Context, do string, _ []string) (string, bool, error) {
	if do != wishPage {
		return "", false, nil
	}
	link, err := b.Link()
	return link, true, err
}

const wishPage = "page"

type openCmd struct {
	place `embed:""`
	Print bool `help:"Print the link instead of opening it. Whoever follows it first, within two minutes, can answer in your place."`
}

// Run opens the page of the background program.
func (c *openCmd) Run(ctx context.Context, std stdio, env environ) error {
	t, err := c.once(ctx, env, wish{Do: wishPage})
	if err != nil {
		return err
	}
	if c.Print {
		_, err := fmt.Fprintln(std.out, t.Text)
		return err
	}
	socket, err := socketPath(env, c.Socket)
	if err != nil {
		return err
	}
	if err := openPage(ctx, env, filepath.Dir(socket), t.Text); err != nil {
		return &exit{exitUnavailable, fmt.Errorf("the page cannot be opened: %w; cfa-responder open --print prints a link for you to follow", err)}
	}
	fmt.Fprintln(std.err, "the page is open in your browser; if it is not, cfa-responder open --print prints a link")
	return nil
}

// openPage has the browser follow a one-time link. Handed over as an argument, its
// secret could be read by every user of the machine, who could be faster; so the
// argument is a file that this user alone can read, and the link stands in that.
func openPage(ctx context.Context, env environ, dir, link string) error {
	f, err := os.CreateTemp(dir, "open-*.html") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	// The link is of this program's own making: it holds no character that means
	// anything in HTML.
	_, err = fmt.Fprintf(f, "<!doctype html>\n<meta charset=\"utf-8\">\n<meta name=\"referrer\" content=\"no-referrer\">\n<meta http-equiv=\"refresh\" content=\"0; url=%s\">\n<title>cfa-responder</title>\n<p><a href=\"%[1]s\">Open the page</a></p>\n", link)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := launch(runtime.GOOS, env, f.Name()); err != nil {
		return err
	}
	// It must stay until the browser has read it, which nothing tells of.
	select {
	case <-time.After(readWithin):
	case <-ctx.Done():
	}
	return nil
}

// readWithin is how long a browser has to start and read the file.
const readWithin = 20 * time.Second
