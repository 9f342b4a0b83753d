#!/usr/bin/env bash
# Builds the programs of a release with the go command alone, and prints their hashes as checksums.txt has them.
#
#   tools/release/binaries.sh VERSION DIR [OS/ARCH...]
#
# The rule it keeps: the same as .goreleaser.yaml's, said a second time and by other means. What is released is what both
# make, on two machines; so neither a changed builder nor a changed build machine goes unseen.
set -euo pipefail
export LC_ALL=C

fail() {
	printf 'binaries.sh: %s\n' "$1" >&2
	exit 1
}

[ "$#" -ge 2 ] || fail "usage: binaries.sh VERSION DIR [OS/ARCH...]"
version=${1#v}
dir=$2
shift 2
# It becomes part of file names and of the linker's arguments.
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$ ]] || fail "$version is no version such as 1.2.3"
if [ "$#" -eq 0 ]; then set -- {linux,darwin,windows}/{amd64,arm64}; fi

mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

# The toolchain of go.mod whatever newer one is there, and none of the machine's own flags.
GOTOOLCHAIN=go$(sed -n 's/^go //p' go.mod)
export GOTOOLCHAIN GOFLAGS=-mod=readonly GOWORK=off CGO_ENABLED=0 GOFIPS140=off GOAMD64=v1 GOARM64=v8.0
unset GOEXPERIMENT GODEBUG

names=()
for target in "$@"; do
	os=${target%/*} arch=${target#*/} exe=
	case $os/$arch in
	linux/amd64 | linux/arm64) programs="cfa:action cfa-responder:responder cfa-relay:relay" ;;
	darwin/amd64 | darwin/arm64) programs="cfa:action cfa-responder:responder" ;;
	windows/amd64 | windows/arm64) programs="cfa:action cfa-responder:responder" exe=.exe ;;
	*) fail "nothing is released for $target" ;;
	esac
	for program in $programs; do
		name=${program%:*}_${version}_${os}_$arch$exe
		GOOS=$os GOARCH=$arch go build -trimpath -buildvcs=false -ldflags "-s -w -X main.release=$version" -o "$dir/$name" "./${program#*:}"
		names+=("$name")
	done
done

cd "$dir"
if command -v sha256sum >/dev/null; then hash=(sha256sum); else hash=(shasum -a 256); fi # macOS has the other
printf '%s\n' "${names[@]}" | sort | while IFS= read -r name; do "${hash[@]}" "$name"; done
