#!/bin/sh
# Runs the command by cfa exec.
#
# The rule it keeps: the command is run as it was written, and its end is this step's end. Plain words are handed on as
# they are, because cfa knows a tool by its words; anything that only a shell understands is handed to one.
set -eu

fail() {
	printf 'cfa orb: %s\n' "$1" >&2
	exit 64
}

PATH=${HOME:-}/.cfa/bin:$PATH
export PATH
command=$(printf '%s' "$CFA_ORB_COMMAND") # without the line feed that YAML's | leaves at its end
unset CFA_ORB_COMMAND
case $command in *[![:space:]]*) ;; *) fail "the parameter command is empty: there is nothing to run" ;; esac
command -v cfa >/dev/null || fail "there is no cfa on the PATH: run cfa/install before this step, or leave 'install: false' away"

case $command in
*[!A-Za-z0-9_@%+=:,./\ -]*) ;;
*)
	set -f
	# shellcheck disable=SC2086 # its words are what is wanted
	set -- $command
	set +f
	case $1 in
	-* | *=*) ;; # no program's name: an assignment
	*)
		# Only what is a file can be run without a shell: cd and export are none.
		case $(command -v "$1") in */*) exec cfa exec -- "$@" ;; esac
		;;
	esac
	;;
esac
if command -v bash >/dev/null; then
	exec cfa exec -- bash -eo pipefail -c "$command"
fi
exec cfa exec -- sh -e -c "$command"
