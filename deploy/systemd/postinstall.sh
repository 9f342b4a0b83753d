#!/bin/sh
# After the package is there: its user, and systemd knows the unit. It starts nothing: there is no configuration yet.
set -eu
if command -v systemd-sysusers >/dev/null 2>&1; then
	systemd-sysusers /usr/lib/sysusers.d/cfa-relay.conf
elif ! id cfa >/dev/null 2>&1; then
	useradd --system --user-group --home-dir /var/lib/cfa --shell /usr/sbin/nologin cfa
fi
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	# An upgrade: the running relay drains, and the new one goes on with its record.
	systemctl try-restart cfa-relay.service
fi
