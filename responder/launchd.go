package main

// install on macOS: an agent of launchd, in the user's own session.

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"path/filepath"
	"strings"
)

const agentLabel = "io.github.continuousauth.cfa-responder"

// agentPath is where an agent looks for programs: what launchd gives it has not
// the places of Homebrew, where ykman and op are.
const agentPath = "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

func launchd(t task) keeper {
	file := textFile(filepath.Join(t.home, "Library", "LaunchAgents", agentLabel+".plist"))
	domain := fmt.Sprintf("gui/%d", t.uid)
	agent := domain + "/" + agentLabel
	// One that is loaded keeps its old text until it is out.
	load := []command{lax("launchctl", "bootout", agent), tell("launchctl", "enable", agent), tell("launchctl", "bootstrap", domain, string(file))}
	return keeper{
		what: "an agent of launchd", place: string(file), text: plist(t), store: file,
		first: load, again: load,
		// It fails where it is loaded already.
		same: []command{tell("launchctl", "enable", agent), lax("launchctl", "bootstrap", domain, string(file))},
		stop: []command{lax("launchctl", "bootout", agent)},
		asks: []command{tell("launchctl", "print", agent)},
		rest: []string{agentLog(t)},
		hint: "It starts when you log in. What it says is in " + agentLog(t) + ".",
	}
}

func agentLog(t task) string { return filepath.Join(t.home, "Library", "Logs", "cfa-responder.log") }

// plist is the agent's text.
func plist(t task) string {
	var b strings.Builder
	text := func(s string) string {
		var out bytes.Buffer
		_ = xml.EscapeText(&out, []byte(s)) // into memory
		return out.String()
	}
	line := func(depth int, s string) { b.WriteString(strings.Repeat("\t", depth) + s + "\n") }
	pair := func(key, value string) {
		line(1, "<key>"+key+"</key>")
		line(1, value)
	}
	str := func(s string) string { return "<string>" + text(s) + "</string>" }
	line(0, `<?xml version="1.0" encoding="UTF-8"?>`)
	line(0, `<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">`)
	line(0, "<!-- "+ours+", which may write it anew. -->")
	line(0, `<plist version="1.0">`)
	line(0, "<dict>")
	pair("Label", str(agentLabel))
	line(1, "<key>ProgramArguments</key>")
	line(1, "<array>")
	for _, a := range append([]string{t.program, "run"}, t.args...) {
		line(2, str(a))
	}
	line(1, "</array>")
	line(1, "<key>EnvironmentVariables</key>")
	line(1, "<dict>")
	line(2, "<key>PATH</key>")
	line(2, str(agentPath))
	if t.config != "" {
		line(2, "<key>XDG_CONFIG_HOME</key>")
		line(2, str(t.config))
	}
	line(1, "</dict>")
	// Only where windows can be shown.
	pair("LimitLoadToSessionType", str("Aqua"))
	pair("RunAtLoad", "<true/>")
	// It comes back from whatever ended it, but not when it was told to end.
	line(1, "<key>KeepAlive</key>")
	line(1, "<dict>")
	line(2, "<key>SuccessfulExit</key>")
	line(2, "<false/>")
	line(1, "</dict>")
	pair("ThrottleInterval", "<integer>30</integer>")
	// Told to end, it stays until the job has an answer that is on its way.
	pair("ExitTimeOut", "<integer>90</integer>")
	// What it has opened does not end with it.
	pair("AbandonProcessGroup", "<true/>")
	// A human waits for what it shows.
	pair("ProcessType", str("Interactive"))
	pair("Umask", "<integer>63</integer>") // 0077
	pair("StandardErrorPath", str(agentLog(t)))
	line(0, "</dict>")
	line(0, "</plist>")
	return b.String()
}
