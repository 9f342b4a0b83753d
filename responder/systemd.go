package main

// install on Linux: a unit of systemd's user manager.

import (
	"path/filepath"
	"strings"
)

const (
	unitName      = "cfa-responder.service"
	desktopTarget = "graphical-session.target"
	loginTarget   = "default.target"
)

func systemd(t task) (keeper, error) {
	// How systemd takes these apart in a program's own name differs by version.
	if strings.ContainsAny(t.program, `$%"'\`) {
		return keeper{}, usage("the path of this program, %q, has one of $ %% \" ' \\ in it, which not every systemd starts; install it elsewhere", t.program)
	}
	config := filepath.Join(t.home, ".config")
	if t.config != "" {
		config = t.config
	}
	file := textFile(filepath.Join(config, "systemd", "user", unitName))
	sys := func(args ...string) command { return tell(append([]string{"systemctl", "--user"}, args...)...) }
	k := keeper{
		what: "a unit of systemd's user manager", place: string(file), text: unit(t), store: file,
		first: []command{sys("daemon-reload"), sys("enable", "--now", unitName)},
		again: []command{sys("daemon-reload"), sys("reenable", unitName), sys("restart", unitName)},
		same:  []command{sys("enable", "--now", unitName)},
		stop:  []command{sys("disable", "--now", unitName)},
		after: []command{sys("daemon-reload"), lax("systemctl", "--user", "reset-failed", unitName)},
		asks:  []command{sys("is-enabled", unitName), sys("is-active", unitName)},
		hint:  "It starts with your desktop's session, and ends with it.",
	}
	if !t.desktop {
		k.hint = "It starts at your first login, and ends with the last one; loginctl enable-linger has it there from the machine's start on."
	}
	for _, target := range []string{desktopTarget, loginTarget} {
		wants := filepath.Join(filepath.Dir(string(file)), target+".wants")
		k.rest = append(k.rest, filepath.Join(wants, unitName), wants)
	}
	k.rest = append(k.rest, file.unused(2)...)
	return k, nil
}

// unit is the unit's text.
func unit(t task) string {
	var b strings.Builder
	line := func(s ...string) { b.WriteString(strings.Join(s, "") + "\n") }
	line("# ", ours, ", which may write it anew. Settings of your own go beside it:")
	line("#     systemctl --user edit ", unitName)
	line("[Unit]")
	line("Description=Continuous Factor Authentication: shows what asks for a code")
	line("Documentation=https://github.com/continuousauth/action")
	if t.desktop {
		line("# Its windows need the display, which systemd knows from then on.")
		line("PartOf=", desktopTarget)
		line("After=", desktopTarget)
	}
	line("# What fails again and again is not tried for ever.")
	line("StartLimitIntervalSec=5min")
	line("StartLimitBurst=20")
	line()
	line("[Service]")
	line("Type=exec")
	words := []string{systemdWord(t.program), "run"}
	for _, a := range t.args {
		words = append(words, systemdWord(a))
	}
	line("ExecStart=", strings.Join(words, " "))
	if t.config != "" {
		line("Environment=", systemdWord("XDG_CONFIG_HOME="+t.config))
	}
	line("# It comes back from whatever ended it, but not with a file that cannot be right.")
	line("Restart=on-failure")
	line("RestartSec=5")
	line("RestartPreventExitStatus=64")
	line("# Told to end, it stays until the job has an answer that is on its way.")
	line("TimeoutStopSec=90")
	line("# What it has opened for you, such as your browser, does not end with it.")
	line("KillMode=process")
	line("OOMPolicy=continue")
	line()
	line("# It holds private keys. What it starts for you (a browser with its sandbox, a snap, a password manager's setgid")
	line("# command) must be able to gain privileges, so NoNewPrivileges is not here, nor what implies it; docs/responder.md")
	line("# has the lines for whoever uses none of these.")
	line("UMask=0077")
	line("LimitCORE=0")
	line()
	line("[Install]")
	if t.desktop {
		line("WantedBy=", desktopTarget)
	} else {
		line("WantedBy=", loginTarget)
	}
	return b.String()
}

// systemdWord quotes s as one word of a unit's line, of which no variable and no
// specifier is taken.
func systemdWord(s string) string {
	s = strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`).Replace(s)
	// In Environment= a dollar sign is one; in ExecStart= two are.
	if !strings.HasPrefix(s, "XDG_CONFIG_HOME=") {
		s = strings.ReplaceAll(s, "$", "$$")
	}
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./=:,@+-") == "" {
		return s
	}
	return `"` + s + `"`
}
