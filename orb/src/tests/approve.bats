#!/usr/bin/env bats

setup() {
	load common
	setup_home
	stub_cfa "" 0
}

args() {
	for shell in "${shells[@]}"; do
		CFA_ORB_ARTIFACTS=$1 run $shell "$scripts/approve.sh"
		[ "$status" -eq 0 ] || return 1
	done
	tr '\n' '|' <"$seen/args"
}

@test "each line is an artifact, and stays a pattern" {
	cd "$BATS_TEST_TMPDIR"
	: >a.tgz
	: >b.tgz
	[ "$(args '*.tgz')" = "approve|--artifact=*.tgz|" ]
	[ "$(args $'*.tgz\n\ndist/a b.gem\n')" = "approve|--artifact=*.tgz|--artifact=dist/a b.gem|" ]
	[ "$(args '--receipt=x $(id)')" = 'approve|--artifact=--receipt=x $(id)|' ]
	[ "$(args '')" = "approve|" ]
}

@test "the parameters reach cfa by the environment, and the orb's own do not" {
	export CFA_MESSAGE='publish 1.2.3' CFA_RESPONDERS=AABC CFA_RECEIPT=r.json CFA_DETAILS=1 CFA_APPROVALS=2
	[ "$(args '*')" = "approve|--artifact=*|" ]
	[ "$(cat "$seen/env")" = $'CFA_APPROVALS=2\nCFA_DETAILS=1\nCFA_MESSAGE=publish 1.2.3\nCFA_RECEIPT=r.json\nCFA_RESPONDERS=AABC' ]
}

@test "nothing but a yes ends the step well" {
	for code in 64 77 80 81 82; do
		stub_cfa "" "$code"
		CFA_ORB_ARTIFACTS=x run sh "$scripts/approve.sh"
		[ "$status" -eq "$code" ]
	done
	rm "$bin/cfa"
	CFA_ORB_ARTIFACTS=x run sh "$scripts/approve.sh"
	[ "$status" -eq 64 ]
	[[ $output == *"no cfa on the PATH"* ]]
}
