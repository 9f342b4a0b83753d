#!/bin/sh
# Makes the sources of a release's orb: those in src, with the release's version and digests as the defaults of
# cfa/install.
#
#   orb/release.sh v1.2.3 checksums.txt DIR
#
# DIR must not be there yet. What is in it is packed and published by CircleCI's own program:
#
#   circleci orb pack DIR >orb.yml && circleci orb publish orb.yml continuousauth/cfa@1.2.3
#
# The rule it keeps: an orb that names a version names all four of its digests, out of the checksums.txt that was
# released, or none is made. It must run after the release is there, and never on a checksums.txt that was downloaded
# without its attestation checked.
set -eu

fail() {
	printf 'orb/release.sh: %s\n' "$1" >&2
	exit 1
}

[ "$#" -eq 3 ] || fail "usage: orb/release.sh v1.2.3 checksums.txt DIR"
version=$1 checksums=$2 dir=$3
printf '%s\n' "$version" | awk 'NR > 1 || !/^v[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$/ { bad = 1 } END { exit bad }' ||
	fail "'$version' is no version such as v1.2.3"
[ -r "$checksums" ] || fail "$checksums cannot be read"
[ ! -e "$dir" ] || fail "$dir is there already"
src=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)/src

digest() { # digest NAME: of the file with that name
	awk -v name="$1" '
		{ sub(/\r$/, ""); file = $2; sub(/^\*/, "", file) }
		file == name { n++; sum = tolower($1) }
		END { if (n != 1 || length(sum) != 64 || sum ~ /[^0-9a-f]/) exit 1; print sum }
	' "$checksums" || fail "$checksums does not name exactly one digest of $1"
}

set -- version="$version"
for target in linux_amd64 linux_arm64 darwin_amd64 darwin_arm64; do
	sum=$(digest "cfa_${version#v}_$target") || exit 1
	set -- "$@" "sha256_$target=$sum"
done

cp -R "$src" "$dir"
for pair in "$@"; do
	awk -v key="${pair%%=*}" -v value="${pair#*=}" '
		/^  [a-z0-9_]+:$/ { here = ($1 == key ":") }
		here && /^    default: ""$/ { $0 = "    default: " value; n++ }
		{ print }
		END { exit n != 1 }
	' "$dir/commands/install.yml" >"$dir/commands/install.new" ||
		fail "install.yml has no empty default of ${pair%%=*} to fill in"
	mv -f "$dir/commands/install.new" "$dir/commands/install.yml"
done
printf 'orb/release.sh: %s holds the orb of %s\n' "$dir" "$version" >&2
