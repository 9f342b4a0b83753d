//go:build windows || darwin

package main

// The desktop of macOS and Windows, by the library. No click on a notification is
// heard of there, so the window comes with it; what a stray Enter or space presses
// in it is Later.

import (
	"context"
	"errors"
	"os/exec"
	"runtime"
	"strings"

	"github.com/ncruces/zenity"
)

func lacksDesktop(surroundings) string {
	if runtime.GOOS == "darwin" {
		if _, err := exec.LookPath("osascript"); err != nil {
			return "osascript, which shows the windows and is part of macOS; it is not in PATH"
		}
	}
	return ""
}

type nativePanes struct{}

func newPanes(environ) panes { return nativePanes{} }

// maxNative bounds a window's text: it has no scrollbar there.
const maxNative = 60 // lines

// show is panes'.
func (nativePanes) show(ctx context.Context, s sheetOf) (choice, error) {
	text := s.text
	if lines := strings.Split(text, "\n"); len(lines) > maxNative {
		text = strings.Join(lines[:maxNative], "\n") + "\n… there is more: cfa-responder screen shows all of it"
	}
	options := []zenity.Option{zenity.Context(ctx), zenity.Title(s.title), zenity.CancelLabel("Later"), zenity.DefaultCancel()}
	yes, no := chosenProceed, chosenDecline
	switch {
	case s.proceed != "" && s.decline:
		options = append(options, zenity.OKLabel(s.proceed), zenity.ExtraButton("Decline…"))
	case s.proceed != "":
		options = append(options, zenity.OKLabel(s.proceed))
	case s.decline:
		yes = chosenDecline
		options = append(options, zenity.OKLabel("Decline…"))
	default:
		yes = chosenClose
		options = append(options, zenity.OKLabel("Close"))
	}
	err := zenity.Question(text, options...)
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case err == nil:
		return yes, nil
	case errors.Is(err, zenity.ErrExtraButton):
		return no, nil
	case errors.Is(err, zenity.ErrCanceled):
		return chosenLater, nil
	}
	return 0, err
}

// enter is panes'. The text of a field is one line on Windows.
func (nativePanes) enter(ctx context.Context, f fieldOf) (string, error) {
	text := f.text
	if runtime.GOOS == "windows" {
		lines := strings.Split(text, "\n")
		if text = lines[len(lines)-1]; strings.HasPrefix(lines[0], "Not taken") {
			text = lines[0]
		}
	}
	options := []zenity.Option{zenity.Context(ctx), zenity.Title(f.title), zenity.OKLabel(f.proceed), zenity.CancelLabel("Back")}
	if f.hidden {
		options = append(options, zenity.HideText())
	}
	line, err := zenity.Entry(text, options...)
	switch {
	case ctx.Err() != nil:
		return "", context.Cause(ctx)
	case errors.Is(err, zenity.ErrCanceled):
		return "", errBack
	}
	return line, err
}

type nativeBell struct{}

func newBell(environ) bell { return nativeBell{} }

func (nativeBell) touched() <-chan touch { return nil }

// ring is bell's. On Windows the library writes what it is given into a PowerShell
// script, between quotes in which $(…) is run: nothing that comes from outside may
// be in it, so it says that something waits, and the window says what.
func (nativeBell) ring(ctx context.Context, n notice) (heard bool, err error) {
	title, text := n.title, n.body
	if runtime.GOOS == "windows" {
		title, text = "cfa-responder", "A request waits for you."
		if n.remark {
			return false, nil
		}
	}
	if n.calm {
		return false, nil
	}
	return false, zenity.Notify(text, zenity.Context(ctx), zenity.Title(title))
}

func (nativeBell) hush(context.Context) {}
