# What the tests of the orb's scripts share: a home of their own, a PATH that holds nothing but what a script may need,
# and a cfa that notes how it was called.

# shells are what CircleCI runs a step by: with bash in the image, and without.
shells=("bash -eo pipefail" "sh -e")

setup_home() {
	scripts=$BATS_TEST_DIRNAME/../scripts
	HOME=$BATS_TEST_TMPDIR/home
	bin=$BATS_TEST_TMPDIR/bin
	seen=$BATS_TEST_TMPDIR/seen
	mkdir -p "$HOME" "$bin" "$seen"
	for tool in awk bash cat chmod cp cut dirname env grep head kill ls mkdir mktemp mv printf rm sed sh sha256sum sleep sort tr wc; do
		path=$(type -P "$tool") && ln -sf "$path" "$bin/$tool"
	done
	unset BASH_ENV
	export HOME seen
	PATH=$bin
}

# stub NAME: a program on the PATH with the script that comes on stdin. What was there may be a link to the machine's own
# program, which a write would go through to.
stub() {
	rm -f "$bin/$1"
	{
		printf '#!%s\n' "$bin/bash"
		cat
	} >"$bin/$1"
	chmod 755 "$bin/$1"
}

# stub_cfa CODE STATUS: a cfa that notes its arguments and its CFA_ variables, prints CODE, and ends with STATUS.
stub_cfa() {
	printf '%s' "$1" >"$seen/answer"
	printf '%s' "$2" >"$seen/status"
	stub cfa <<'STUB'
printf '%s\n' "$@" >"$seen/args"
env | grep '^CFA_' | sort >"$seen/env" || true
if [ "$1" = exec ]; then
	shift 2
	exec "$@"
fi
cat "$seen/answer"
exit "$(cat "$seen/status")"
STUB
}
