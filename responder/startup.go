package main

// install on Windows: a value of the registry's Run key, which needs no
// administrator, as a task at the logon or a service would. Not the Startup
// folder: what lies there is a shortcut, in a binary form of Windows' own.

import "strings"

const (
	startupKey   = `Software\Microsoft\Windows\CurrentVersion\Run`
	startupValue = "cfa-responder"
	// maxStartup is how long a command may be there.
	maxStartup = 260
)

func startup(t task) (keeper, error) {
	words := append([]string{t.program, "run", "--detach"}, t.args...)
	for _, w := range words {
		if strings.Contains(w, `"`) {
			return keeper{}, usage("%q has a quotation mark in it, which no file's name has on Windows", w)
		}
	}
	k := keeper{
		what: "a value of the registry's Run key", place: `HKEY_CURRENT_USER\` + startupKey + `\` + startupValue, text: startupLine(words),
		store: runKey{}, mine: func(text string) bool { return strings.Contains(text, "run --detach") },
		first: []command{tell(words...)}, again: []command{tell(words...)}, same: []command{tell(words...)},
		hint: "It starts when you log in.",
	}
	if len(k.text) > maxStartup {
		return keeper{}, usage("the command that starts it has %d characters, and Windows starts none of more than %d; use shorter paths, or the places where files are without flags", len(k.text), maxStartup)
	}
	return k, nil
}

// startupLine is the command as Windows takes it apart: a quoted word ends at its
// quotation mark, before which backslashes count double.
func startupLine(words []string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = w
		if i == 0 || w == "" || strings.ContainsAny(w, " \t") {
			trimmed := strings.TrimRight(w, `\`)
			quoted[i] = `"` + w + w[len(trimmed):] + `"`
		}
	}
	return strings.Join(quoted, " ")
}
