#!/usr/bin/env bash
# Prints the hashes of what package managers will read of a release, as goreleaser left it in DIST.
#
#   tools/release/packages.sh DIST >DIST/packages.txt
#
# The rule it keeps: a tap, a bucket or a PKGBUILD says what runs on other people's machines as much as a program does, so
# it is in the list that a human approves, and push.sh pushes nothing that is not.
set -euo pipefail
export LC_ALL=C

fail() {
	printf 'packages.sh: %s\n' "$1" >&2
	exit 1
}

[ "$#" -eq 1 ] || fail "usage: packages.sh DIST"
cd "$1"
for kind in aur homebrew scoop; do [ -d "$kind" ] || fail "$1 has no folder $kind: goreleaser has not finished there"; done
if command -v sha256sum >/dev/null; then hash=(sha256sum); else hash=(shasum -a 256); fi # macOS has the other

files=$(find aur homebrew scoop -type f | sort)
[ -n "$files" ] || fail "$1 has nothing for package managers"
while IFS= read -r file; do "${hash[@]}" "$file"; done <<<"$files"
