#!/bin/sh
# Waits for a human's signed yes by cfa approve.
#
# The rule it keeps: nothing but a yes ends this step well. It only turns the lines of the parameter artifacts into
# arguments; the patterns are cfa's to match, which refuses one that matches nothing.
set -eu

fail() {
	printf 'cfa orb: %s\n' "$1" >&2
	exit 64
}

PATH=${HOME:-}/.cfa/bin:$PATH
export PATH
artifacts=$CFA_ORB_ARTIFACTS
unset CFA_ORB_ARTIFACTS
command -v cfa >/dev/null || fail "there is no cfa on the PATH: run cfa/install before this step, or leave 'install: false' away"

set -f # the patterns stay patterns
IFS='
'
# shellcheck disable=SC2086 # a line each
set -- $artifacts
unset IFS
n=$#
while [ "$n" -gt 0 ]; do
	one=$1
	shift
	set -- "$@" "--artifact=$one"
	n=$((n - 1))
done
exec cfa approve "$@"
