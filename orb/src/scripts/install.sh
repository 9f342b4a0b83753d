#!/bin/sh
# Puts cfa into ~/.cfa/bin, where the orb's other steps look for it first.
#
# The rule it keeps: what is installed is the file that the configuration names by its digest, or nothing. The digest
# never comes from where the file comes from, because who can change the one can change the other. Nothing is made
# executable, or given its name, before the digest has been compared.
set -eu

fail() {
	printf 'cfa orb: %s\n' "$1" >&2
	exit 1
}
say() { printf 'cfa orb: %s\n' "$1"; }

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

bin=${HOME:?is not set, and cfa is installed below it}/.cfa/bin
version=${CFA_ORB_VERSION#v}
wanted=$CFA_ORB_SHA256
job=${CIRCLE_WORKFLOW_JOB_ID:-}

on_path() {
	# For the steps of the job's own that call cfa. Those of the orb find it without.
	if [ -n "${BASH_ENV:-}" ]; then
		# shellcheck disable=SC2016 # HOME and PATH are the later step's
		line='export PATH="$HOME/.cfa/bin:$PATH"'
		grep -qsxF "$line" "$BASH_ENV" || printf '%s\n' "$line" >>"$BASH_ENV"
	fi
}

need_place "$bin/cfa"

# The orb's commands install by themselves, with nothing named: that must not replace what this job has named before.
# What another job has left on this machine does not count; it could not know this job's id.
if [ -z "$wanted" ] && [ -n "$job" ] && [ -x "$bin/cfa" ] && [ "$(cat "$bin/job" 2>/dev/null)" = "$job" ]; then
	say "cfa is here already"
	exit 0
fi
rm -f "$bin/cfa" "$bin/job"

if [ -z "$version" ]; then
	[ -z "$wanted" ] || fail "sha256 is given and version is not: say which release it belongs to, such as v1.2.3."
	if found=$(command -v cfa); then
		say "using $found, which is on the PATH"
		exit 0
	fi
	fail "no release of cfa is named, and there is no cfa on the PATH; nothing was run.
Name a release by the parameters version and sha256 of the command cfa/install, before the other steps, and give those
'install: false'. The digests stand in checksums.txt of each release; take yours from there once, on your own machine:
  https://github.com/continuousauth/action/releases"
fi
is_version "$version" || fail "version is '$version', and no version such as v1.2.3"
case $CFA_ORB_SOURCE in https://*) ;; *) fail "source is '$CFA_ORB_SOURCE'; it must begin with https://" ;; esac

find_machine
if [ "$os" = windows ]; then os=; fi # no release of the orb names a digest for it
if [ -z "$wanted" ]; then
	case ${os}_$arch in
	linux_amd64) wanted=$CFA_ORB_SHA256_LINUX_AMD64 ;;
	linux_arm64) wanted=$CFA_ORB_SHA256_LINUX_ARM64 ;;
	darwin_amd64) wanted=$CFA_ORB_SHA256_DARWIN_AMD64 ;;
	darwin_arm64) wanted=$CFA_ORB_SHA256_DARWIN_ARM64 ;;
	esac
fi
if [ -z "$os" ] || [ -z "$arch" ]; then
	fail "the orb installs cfa on Linux and macOS, on x86-64 and arm64; this is $system on $machine. Put a cfa of your own on the PATH, and give the steps 'install: false'."
fi
name=cfa_${version}_${os}_$arch$exe

[ -n "$wanted" ] || fail "sha256 is not given, and without it anything could be installed; nothing was.
Take the digest of $name from checksums.txt of the release, once, on your own machine, and give it as sha256."
need_digest "$wanted" sha256

install_program "${CFA_ORB_SOURCE%/}/v$version/$name" "$name" "$bin/cfa" "the configuration"
printf '%s\n' "$job" >"$bin/job"
on_path
say "$bin/cfa is $name, by its digest"
