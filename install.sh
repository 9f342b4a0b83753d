#!/bin/sh
# Installs one program of a release of Continuous Factor Authentication, where no package manager is at hand: in a CI job.
#
#   CFA_VERSION=v1.2.3 CFA_SHA256=<hex> sh install.sh DIR
#
# puts cfa into DIR. CFA_PROGRAM=cfa-responder (or cfa-relay) takes another of them.
#
# The rule it keeps: what is installed is the file that you named, or nothing. You name it by its digest, which stands in
# your own repository; this script never learns it from where the file comes from, because who can change the one can
# change the other. Nothing is made executable, or given its name, before the digest has been compared.
set -eu

releases=https://github.com/continuousauth/action/releases

fail() {
	printf 'install.sh: %s\n' "$1" >&2
	exit 1
}

# shared: begins
# What stands up to the end of the shared part is the same text in install.sh and in the orb's installation step, which
# can include nothing from outside the orb. A test compares the two.

# is_version TEXT: it becomes part of an address.
is_version() {
	printf '%s\n' "$1" | awk 'NR > 1 || !/^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.]+)?$/ { bad = 1 } END { exit bad }'
}

# find_machine: sets system and machine as the machine names them, and os, arch and exe as a release does; os and arch are
# empty where it knows none.
find_machine() {
	exe=
	system=$(uname -s)
	case $system in
	Linux) os=linux ;;
	Darwin) os=darwin ;;
	MINGW* | MSYS* | CYGWIN*) os=windows exe=.exe ;;
	*) os= ;;
	esac
	machine=$(uname -m)
	case $machine in
	x86_64 | amd64) arch=amd64 ;;
	aarch64 | arm64) arch=arm64 ;;
	*) arch= ;;
	esac
}

# need_digest GIVEN AS: sets wanted to what was given, in small letters; AS is what its giver knows it by.
need_digest() {
	wanted=$(printf '%s' "$1" | tr 'A-F' 'a-f')
	case $wanted in *[!0-9a-f]*) fail "$2 is no SHA-256 digest: it has other characters than 0-9 and a-f" ;; esac
	[ "${#wanted}" -eq 64 ] || fail "$2 is no SHA-256 digest: it has ${#wanted} characters, not 64"
}

# need_place PATH: mv would put a file into a directory, under the name of a part, and all would seem well.
need_place() {
	[ ! -d "$1" ] || fail "$1 is a directory; nothing was installed. Remove it, or have another place taken"
}

# install_program URL NAME PATH AS: puts what is fetched to PATH, which is named by the digest in wanted, or ends.
install_program() {
	if command -v sha256sum >/dev/null; then
		digest() { sha256sum <"$1"; }
	elif command -v shasum >/dev/null; then
		digest() { shasum -a 256 <"$1"; }
	elif command -v openssl >/dev/null; then
		digest() { openssl dgst -sha256 -r <"$1"; }
	else
		fail "sha256sum, shasum and openssl are missing: without one of them, the file cannot be checked"
	fi
	need_place "$3"
	mkdir -p "${3%/*}"
	# Beside its place, so that the move is one step and no half of a program is ever found there.
	part=$(mktemp "${3%/*}/.${3##*/}.XXXXXX")
	trap 'rm -f "$part"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM

	if command -v curl >/dev/null; then
		curl --fail --silent --show-error --location --proto =https --tlsv1.2 --retry 3 --max-time 300 --max-filesize 100000000 --output "$part" "$1" ||
			fail "$1 could not be downloaded; the line above says why"
	elif command -v wget >/dev/null; then
		# BusyBox's wget knows these alone; that a redirection stays with HTTPS matters little, since the digest decides.
		wget -q -T 60 -O "$part" "$1" || fail "$1 could not be downloaded with wget; is there such a release?"
	else
		fail "curl and wget are missing: one of them is needed to download $1"
	fi

	got=$(digest "$part")
	got=${got%% *}
	[ "$got" = "$wanted" ] || fail "$2 is not the file that $4 names; nothing was installed.
  wanted $wanted
  got    $got ($(wc -c <"$part" | tr -d ' ') bytes)
A digest belongs to one version, and to one machine's file of it. A download that broke off, or a page in the file's
place, gives this too: try again. If it stays so, tell the project."
	chmod 755 "$part"
	mv -f "$part" "$3"
}
# shared: ends

dir=${1:-}
if [ "$#" -ne 1 ] || [ -z "$dir" ]; then fail "usage: CFA_VERSION=v1.2.3 CFA_SHA256=<hex> sh install.sh DIR"; fi
program=${CFA_PROGRAM:-cfa}
case $program in cfa | cfa-responder | cfa-relay) ;; *) fail "CFA_PROGRAM is '$program'; there are cfa, cfa-responder and cfa-relay" ;; esac

version=${CFA_VERSION:-}
[ -n "$version" ] || fail "CFA_VERSION is not set. Name a release, such as v1.2.3: $releases"
version=${version#v}
is_version "$version" || fail "CFA_VERSION is '$version', and no version such as v1.2.3"

find_machine
if [ "$program" = cfa-relay ] && [ "$os" != linux ]; then os=; fi
if [ -z "$os" ] || [ -z "$arch" ]; then
	fail "no $program is released for $system on $machine. With Go it can be built: make build, in a checkout of v$version."
fi
name=${program}_${version}_${os}_$arch$exe

[ -n "${CFA_SHA256:-}" ] || fail "CFA_SHA256 is not set, and without it anything could be installed.
Take the digest of $name from checksums.txt of the release, once, on your own machine, and write it into your CI's file:
  $releases/download/v$version/checksums.txt
To see that the release's own workflow has built the file that you have downloaded:
  gh attestation verify $name --repo continuousauth/action"
need_digest "$CFA_SHA256" CFA_SHA256

install_program "$releases/download/v$version/$name" "$name" "$dir/$program$exe" CFA_SHA256
printf 'install.sh: %s is %s\n' "$dir/$program$exe" "$name" >&2
