#!/bin/sh
# Asks a human for a code by cfa request, and runs the command with it.
#
# The rule it keeps: the code is in this shell's memory and in the environment of the one command, and nowhere else. Not
# in a file, which a later step could read; not in an argument list, which every user of the machine can; and not in the
# log, where CircleCI masks only what stands in the project's settings.
#
# (A shell that is told to end while it waits here leaves the asking to cfa, which is told so itself where a whole step is
# ended, and which the relay notices to be gone where its machine is.)
{ set +x; } 2>/dev/null # a traced assignment would log the code
set -eu

fail() {
	printf 'cfa orb: %s\n' "$1" >&2
	exit 64
}

PATH=${HOME:-}/.cfa/bin:$PATH
export PATH
command=$CFA_ORB_COMMAND
name=$CFA_ORB_ENV_VAR
unset CFA_ORB_COMMAND CFA_ORB_ENV_VAR

# All that is wrong with the step is said before a human is asked for nothing.
case $command in *[![:space:]]*) ;; *) fail "the parameter command is empty, so a code would be asked for nothing" ;; esac
case $name in
'' | [0-9]* | *[!A-Za-z0-9_]*) fail "the parameter env_var is '$name', which is no name of an environment variable" ;;
esac
command -v cfa >/dev/null || fail "there is no cfa on the PATH: run cfa/install before this step, or leave 'install: false' away"

code=$(cfa request) || exit
[ -n "$code" ] || fail "cfa request ended well and gave no code; the command was not run"
export "$name=$code"
unset code
if command -v bash >/dev/null; then
	exec bash -eo pipefail -c "$command"
fi
exec sh -e -c "$command"
