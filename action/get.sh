#!/usr/bin/env bash
# Gets the cfa that belongs to this checkout of the action, and names it in the step's output `cfa`.
#
# The rule it keeps: what runs is what this checkout says. A release's binary is used only where the checkout's
# checksums.txt names its hash; without one it is built from the checkout, with the runner's Go. The second use in a job
# finds what the first made.
set -euo pipefail

say() { printf 'cfa: %s\n' "$1"; }
fail() {
	printf '::error title=Continuous Factor Authentication::%s\n' "$1"
	exit 1
}

root=${GITHUB_ACTION_PATH:?is set by the runner}
: "${GITHUB_OUTPUT:?is set by the runner}"

case "${RUNNER_OS:-$(uname -s)}" in
Linux) os=linux ;;
macOS | Darwin) os=darwin ;;
Windows | MINGW* | MSYS*) os=windows ;;
*) os=other ;;
esac
case "${RUNNER_ARCH:-$(uname -m)}" in
X64 | x86_64 | amd64) arch=amd64 ;;
ARM64 | arm64 | aarch64) arch=arm64 ;;
*) arch=other ;;
esac
exe=
if [ "$os" = windows ]; then exe=.exe; fi

hashes() { # of the files named, as sha256sum prints them: macOS has shasum instead
	if command -v sha256sum >/dev/null; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}

# Prints "HASH NAME" of the release's binary for this machine, or nothing.
released() {
	if [ ! -f "$root/checksums.txt" ]; then return; fi
	awk -v end="_${os}_${arch}${exe}" '
		{ sub(/\r$/, ""); name = $2; sub(/^\*/, "", name) }
		name ~ /^cfa_[0-9][0-9A-Za-z.+-]*_[a-z0-9]+_[a-z0-9]+(\.exe)?$/ && substr(name, length(name) - length(end) + 1) == end { print $1, name; exit }
	' "$root/checksums.txt"
}

download() { # download HASH NAME TO
	local version=${2#cfa_}
	version=${version%%_*}
	curl --fail --silent --show-error --location --proto =https --tlsv1.2 --retry 3 --connect-timeout 20 --max-time 120 --max-filesize 100000000 --output "$3" \
		"https://github.com/continuousauth/action/releases/download/v$version/$2" || return 1
	local got
	got=$(hashes "$3")
	# Not built instead: a binary that is not the one of this commit is worth stopping for.
	if [ "${got%% *}" != "$1" ]; then fail "$2 is not the file that this version of the action names in checksums.txt; nothing was run. Try again, and tell the project if it stays so."; fi
	chmod +x "$3"
}

build() { # build TO
	local wanted have
	wanted=$(sed -n 's/^go //p' "$root/go.mod" | tr -d '\r')
	local mend="add actions/setup-go with go-version $wanted before this step"
	if ! command -v go >/dev/null; then fail "Go is missing on this runner, and cfa is built with it: $mend."; fi
	# What the job sets for its own builds is not for this one: GOOS of a job that cross-compiles would make a program that
	# does not run here, GOFLAGS=-mod=mod one that is not made of what go.sum names.
	unset GOOS GOARCH GOFLAGS GOEXPERIMENT GO111MODULE GOAMD64 GOARM64 GODEBUG
	export GOWORK=off CGO_ENABLED=0
	cd "$root"
	# Since 1.21 an older Go gets the version that go.mod wants by itself, unless GOTOOLCHAIN forbids it.
	if ! have=$(go env GOVERSION); then fail "the Go on this runner does not get Go $wanted by itself: $mend."; fi
	if ! awk -v have="${have#go}" -v wanted="$wanted" 'BEGIN {
		split(have, h, /[^0-9]+/); split(wanted, w, /[^0-9]+/)
		for (i = 1; i <= 3; i++) if (h[i] + 0 != w[i] + 0) exit !(h[i] + 0 > w[i] + 0)
	}'; then fail "the Go on this runner is $have, and cfa needs $wanted: $mend."; fi
	say "building from source with $have"
	GOOS=$(go env GOHOSTOS) GOARCH=$(go env GOHOSTARCH) \
		go build -mod=readonly -trimpath -buildvcs=false -ldflags "-s -w" -o "$1" ./action ||
		fail "cfa could not be built; the lines above say why. Without a way to the Go module proxy, set GOPROXY to one that this runner reaches."
}

# Named by what it is made of, in a folder that the runner empties after each job. (Its tool cache would outlive the job,
# and on a self-hosted runner another job could have put something there.)
temp=${RUNNER_TEMP:-$(mktemp -d)}
key=$(
	cd "$root"
	{
		find go.mod go.sum action internal -type f ! -name '*_test.go' ! -path '*/testdata/*'
		if [ -f checksums.txt ]; then echo checksums.txt; fi
	} | LC_ALL=C sort | while IFS= read -r file; do hashes "$file"; done | hashes - | cut -c 1-32
)
dir=$temp/cfa-$key
cfa=$dir/cfa$exe

if [ -x "$cfa" ]; then
	say "already here"
else
	mkdir -p "$dir"
	# Steps can run side by side: each makes its own, and the move is one step.
	part=$dir/cfa.$$$exe
	trap 'rm -f "$part"' EXIT
	read -r sum name <<<"$(released)" || true
	if [ -n "${name:-}" ] && download "$sum" "$name" "$part"; then
		say "using $name"
	else
		if [ -n "${name:-}" ]; then say "$name could not be downloaded"; fi
		(build "$part")
	fi
	mv -f "$part" "$cfa"
fi
printf 'cfa=%s\n' "$cfa" >>"$GITHUB_OUTPUT"
