package main

// The ways to ask a human. A new one is a file of its own, which makes an
// answer.Asker, and a row here.

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"github.com/continuousauth/action/internal/answer"
)

// way is one way to ask that the background program knows.
type way struct {
	name string
	// missing says what this machine lacks for it; "" if nothing.
	missing func(s surroundings) string
	// byItself: it is used where the file does not say which are, if nothing is
	// missing. One that tells somebody else's server anything never is.
	byItself bool
	// open makes it. part decodes its part of responder.yaml, strictly, and leaves
	// its argument alone where the file has none.
	open func(s surroundings, part func(any) error) (answer.Asker, error)
}

// surroundings are what a way may use of the process and its machine.
type surroundings struct {
	env environ
	std stdio
	log *slog.Logger
	// dir is where this program keeps what it must remember; only its user can
	// enter it.
	dir string
	// relays are the URLs of those that this responder is at.
	relays []string
}

// ways are all of them, in the order in which they are named to people.
var ways = []way{
	{name: "desktop", missing: lacksDesktop, byItself: true, open: openDesktop},
	{name: "browser", missing: func(surroundings) string { return "" }, byItself: true, open: openBrowserWay},
	// Not by itself: it listens where others of the network come.
	{name: "phone", missing: func(surroundings) string { return "" }, open: openPhoneWay},
	{name: "slack", missing: nothing, open: openSlack},
	{name: "webhook", missing: nothing, open: openWebhook},
}

// nothing is missing.
func nothing(surroundings) string { return "" }

// obliging is a way to ask that also does something for this user's commands.
type obliging interface {
	// oblige does what a wish says; known: it is one of this way's.
	oblige(ctx context.Context, do string, args []string) (text string, known bool, err error)
}

func findWay(name string) *way {
	if i := slices.IndexFunc(ways, func(w way) bool { return w.name == name }); i >= 0 {
		return &ways[i]
	}
	return nil
}

func wayNames() string {
	var names []string
	for _, w := range ways {
		names = append(names, w.name)
	}
	return strings.Join(names, ", ")
}

// chosen makes the ways that the settings name, or else those that are here.
func chosen(s surroundings, set settings) (names []string, askers []answer.Asker, err error) {
	for _, w := range ways {
		named := slices.Contains(set.Ask, w.name)
		if !named && (set.Ask != nil || !w.byItself) {
			continue
		}
		if lacks := w.missing(s); lacks != "" {
			if named {
				return nil, nil, usage("responder.yaml names %s as a way to ask, and this machine lacks %s", w.name, lacks)
			}
			continue
		}
		node := set.Ways[w.name]
		a, err := w.open(s, func(v any) error { return strictly(node, v) })
		if err != nil {
			return nil, nil, usage("%s: %w", w.name, err)
		}
		names, askers = append(names, w.name), append(askers, a)
	}
	return names, askers, nil
}

// obligedBy says which way a wish is for, so that who has not chosen it is told.
var obligedBy = map[string]string{wishPage: "browser", wishPhoneAdd: "phone", wishPhoneList: "phone", wishPhoneRemove: "phone"}
