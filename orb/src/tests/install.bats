#!/usr/bin/env bats

setup() {
	load common
	setup_home
	printf '#!%s\necho the released cfa\n' "$bin/sh" >"$BATS_TEST_TMPDIR/released"
	sum=$(sha256sum <"$BATS_TEST_TMPDIR/released")
	sum=${sum%% *}
	export released=$BATS_TEST_TMPDIR/released
	stub curl <<'STUB'
printf '%s\n' "$@" >>"$seen/curl"
while [ "$1" != --output ]; do shift; done
if [ -x "$2" ]; then echo "made executable before it was checked" >&2; exit 9; fi
cat "$released" >"$2"
exit "${CURL_STATUS:-0}"
STUB
	stub uname <<'STUB'
if [ "$1" = -s ]; then echo "${SYSTEM:-Linux}"; else echo "${MACHINE:-x86_64}"; fi
STUB
	export CIRCLE_WORKFLOW_JOB_ID=1f2e3d4c-5b6a-4978-8695-a4b3c2d1e0f9
	export CFA_ORB_VERSION= CFA_ORB_SHA256= CFA_ORB_SHA256_LINUX_AMD64= CFA_ORB_SHA256_LINUX_ARM64= \
		CFA_ORB_SHA256_DARWIN_AMD64= CFA_ORB_SHA256_DARWIN_ARM64= CFA_ORB_SOURCE=https://releases.example/download
	cfa=$HOME/.cfa/bin/cfa
}

install() { run ${shell:-sh} "$scripts/install.sh"; }

refused() { # refused WORDS: the step failed with them, and nothing is there
	[ "$status" -ne 0 ] && [[ $output == *"$1"* ]] && [ ! -e "$cfa" ] && [ -z "$(ls -A "$HOME/.cfa/bin" 2>/dev/null)" ]
}

@test "the file with the digest is installed, and later steps find it" {
	for shell in "${shells[@]}"; do
		export BASH_ENV=$BATS_TEST_TMPDIR/bash_env
		: >"$BASH_ENV"
		rm -rf "$HOME/.cfa"
		for version in 1.2.3 v1.2.3; do
			CFA_ORB_VERSION=$version CFA_ORB_SHA256=$sum install
			[ "$status" -eq 0 ]
			[ "$("$cfa")" = "the released cfa" ]
			[ "$(bash -c cfa)" = "the released cfa" ]
		done
		[ "$(grep -c . "$BASH_ENV")" -eq 1 ]
		[ "$(ls -A "$HOME/.cfa/bin" | tr '\n' ' ')" = "cfa job " ]
	done
	grep -qx 'https://releases.example/download/v1.2.3/cfa_1.2.3_linux_amd64' "$seen/curl"
	grep -qx -e '--proto' "$seen/curl"
	grep -qx '=https' "$seen/curl"
}

@test "a directory in its place is refused, and nothing lands in it" {
	mkdir -p "$cfa"
	CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$sum install
	[ "$status" -ne 0 ]
	[[ $output == *"cfa is a directory"* ]]
	[ -z "$(ls -A "$cfa")" ]
	[ ! -e "$seen/curl" ]
}

@test "a digest in capitals is one" {
	CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$(printf %s "$sum" | tr a-f A-F) install
	[ "$status" -eq 0 ]
}

@test "each machine has its own file and digest" {
	for one in "Linux x86_64 linux_amd64" "Linux aarch64 linux_arm64" "Darwin x86_64 darwin_amd64" "Darwin arm64 darwin_arm64"; do
		read -r SYSTEM MACHINE target <<<"$one"
		export SYSTEM MACHINE
		rm -rf "$HOME/.cfa" "$seen/curl"
		export "CFA_ORB_SHA256_$(printf %s "$target" | tr a-z A-Z)=$sum"
		CFA_ORB_VERSION=v1.2.3 install
		[ "$status" -eq 0 ]
		grep -qx "https://releases.example/download/v1.2.3/cfa_1.2.3_$target" "$seen/curl"
		export "CFA_ORB_SHA256_$(printf %s "$target" | tr a-z A-Z)="
	done
	export SYSTEM=Linux MACHINE=x86_64 CFA_ORB_SHA256_DARWIN_ARM64=$sum
	CIRCLE_WORKFLOW_JOB_ID=another CFA_ORB_VERSION=v1.2.3 install
	refused "sha256 is not given"
}

@test "a file with another digest is not installed, not even made executable" {
	echo "echo evil" >>"$released"
	CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$sum install
	refused "is not the file that the configuration names"
	[[ $output == *"wanted $sum"* ]]
}

@test "what was there before does not stay when the new one is refused" {
	CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$sum install
	[ "$status" -eq 0 ]
	echo "echo evil" >>"$released"
	CFA_ORB_VERSION=v1.2.4 CFA_ORB_SHA256=$sum install
	refused "is not the file"
}

@test "without a digest nothing is fetched" {
	CFA_ORB_VERSION=v1.2.3 install
	refused "sha256 is not given"
	for wrong in "${sum%?}" "${sum}0" "g${sum#?}" "$sum $sum"; do
		CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$wrong install
		refused "no SHA-256 digest"
	done
	CFA_ORB_SHA256=$sum install
	refused "version is not"
	[ ! -e "$seen/curl" ]
}

@test "what is no version, or no https, is no part of an address" {
	for wrong in latest 1.2 v1.2.3/../../x '1.2.3 x' $'1.2.3\nx' '$(id)'; do
		CFA_ORB_VERSION=$wrong CFA_ORB_SHA256=$sum install
		refused "no version such as"
	done
	for wrong in http://releases.example ftp://x "" /tmp; do
		CFA_ORB_SOURCE=$wrong CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$sum install
		refused "must begin with https://"
	done
	[ ! -e "$seen/curl" ]
}

@test "before there is a release, a cfa on the PATH is used" {
	stub_cfa "" 0
	install
	[ "$status" -eq 0 ]
	[[ $output == *"using $bin/cfa, which is on the PATH"* ]]
	[ ! -e "$cfa" ] && [ ! -e "$seen/curl" ]
}

@test "and without one, the step says what to give" {
	install
	refused "no release of cfa is named"
	[[ $output == *"version and sha256"* ]]
}

@test "the orb's own steps do not replace what this job has named" {
	CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$sum install
	[ "$status" -eq 0 ]
	rm "$seen/curl"
	install
	[ "$status" -eq 0 ]
	[[ $output == *"here already"* ]]
	CFA_ORB_VERSION=v9.9.9 CFA_ORB_SHA256_LINUX_AMD64=$sum install
	[ "$status" -eq 0 ]
	[[ $output == *"here already"* ]]
	[ ! -e "$seen/curl" ]
}

@test "what another job left on this machine does not count" {
	CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$sum install
	[ "$status" -eq 0 ]
	CIRCLE_WORKFLOW_JOB_ID=another install
	refused "no release of cfa is named"
	CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$sum install
	CIRCLE_WORKFLOW_JOB_ID= install
	refused "no release of cfa is named"
}

@test "a download that fails, and a machine that nothing is released for, are said" {
	CURL_STATUS=22 CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$sum install
	refused "could not be downloaded"
	for one in "Linux riscv64" "FreeBSD x86_64" "MINGW64_NT x86_64"; do
		read -r SYSTEM MACHINE <<<"$one"
		export SYSTEM MACHINE
		CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$sum install
		refused "this is $SYSTEM on $MACHINE"
	done
}

@test "wget does where there is no curl, and neither is said" {
	rm "$bin/curl"
	CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$sum install
	refused "curl and wget are missing"
	stub wget <<'STUB'
while [ "$1" != -O ]; do shift; done
cat "$released" >"$2"
STUB
	CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$sum install
	[ "$status" -eq 0 ]
	[ "$("$cfa")" = "the released cfa" ]
}

@test "shasum or openssl does where there is no sha256sum, and none of them is said" {
	sha256sum=$(cd "$bin" && ls -l sha256sum)
	sha256sum=${sha256sum##* -> }
	export sha256sum
	rm "$bin/sha256sum"
	CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$sum install
	refused "sha256sum, shasum and openssl are missing"
	[ ! -e "$seen/curl" ]
	stub openssl <<'STUB'
[ "$*" = "dgst -sha256 -r" ] && exec "$sha256sum"
STUB
	CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$sum install
	[ "$status" -eq 0 ]
	stub shasum <<'STUB'
[ "$*" = "-a 256" ] && exec "$sha256sum"
STUB
	rm "$bin/openssl"
	CFA_ORB_VERSION=v1.2.3 CFA_ORB_SHA256=$sum install
	[ "$status" -eq 0 ]
}
