#!/usr/bin/env bash
# Puts the files of a release, as goreleaser left them in DIST, side by side into OUT, under the names that
# DIST/checksums.txt has.
#
#   tools/release/collect.sh DIST OUT
#
# The rule it keeps: nothing is collected that is not what it should be. Each file has the hash that goreleaser noted, and
# each program the hash that the checkout's own checksums.txt has named before. That file was made by other means and on
# another machine, so a difference means that one of the two builds is not what its sources say.
set -euo pipefail
export LC_ALL=C

fail() {
	printf 'collect.sh: %s\n' "$1" >&2
	exit 1
}

[ "$#" -eq 2 ] || fail "usage: collect.sh DIST OUT"
dist=$1 out=$2 promised=$(dirname "${BASH_SOURCE[0]}")/../../checksums.txt
[ -f "$dist/checksums.txt" ] || fail "$dist has no checksums.txt: goreleaser has not finished there"
[ -f "$promised" ] || fail "this commit has no checksums.txt, so it is no release; CONTRIBUTING.md says how one is made"
[ ! -e "$out" ] || fail "$out is there already: what lies in it would be released too"
mkdir -p "$out"

if command -v sha256sum >/dev/null; then hash=(sha256sum); else hash=(shasum -a 256); fi # macOS has the other

bare='^(cfa|cfa-responder|cfa-relay)_[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?_(linux|darwin|windows)_(amd64|arm64)(\.exe)?$'
made=$(mktemp)
trap 'rm -f "$made"' EXIT
while read -r sum name; do
	case $name in */* | .* | "") fail "checksums.txt names '$name', which is no file's name" ;; esac
	from=$dist/$name
	if [[ $name =~ $bare ]]; then
		# goreleaser keeps a program where it was built, by another name: dist/cfa_linux_amd64_v1/cfa.
		found=("$dist/${BASH_REMATCH[1]}_${BASH_REMATCH[3]}_${BASH_REMATCH[4]}_"v*/"${BASH_REMATCH[1]}${BASH_REMATCH[5]}")
		[ "${#found[@]}" -eq 1 ] || fail "$name: found ${#found[@]} times in $dist"
		from=${found[0]}
		printf '%s  %s\n' "$sum" "$name" >>"$made"
	fi
	[ -f "$from" ] || fail "$name is in checksums.txt and not in $dist"
	cp "$from" "$out/$name"
	got=$("${hash[@]}" "$out/$name")
	[ "${got%% *}" = "$sum" ] || fail "$name has another hash than checksums.txt says"
done <"$dist/checksums.txt"

if ! different=$(diff <(sort -k 2 "$promised") <(sort -k 2 "$made")); then
	printf '%s\n' "$different" >&2
	fail "what was built (>) is not what this commit's checksums.txt promises (<); nothing may be released"
fi
cp "$dist/checksums.txt" "$out/checksums.txt"
