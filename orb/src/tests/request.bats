#!/usr/bin/env bats

setup() {
	load common
	setup_home
	stub_cfa 918273 0
	export CFA_ORB_COMMAND='printf "%s" "$CFA_CODE" >"$seen/got"' CFA_ORB_ENV_VAR=CFA_CODE
}

@test "the command finds the code in the variable that was named" {
	for shell in "${shells[@]}"; do
		export CFA_ORB_ENV_VAR=NPM_CONFIG_OTP CFA_ORB_COMMAND='printf "%s" "$NPM_CONFIG_OTP" >"$seen/got"'
		run $shell "$scripts/request.sh"
		[ "$status" -eq 0 ]
		[ "$(cat "$seen/got")" = 918273 ]
		[ "$(cat "$seen/args")" = request ]
		rm "$seen/got"
	done
}

@test "the parameters reach cfa by the environment, and the orb's own do not" {
	export CFA_RELAY=tls://cfa.example.com:4222 CFA_PROJECT=rocket CFA_APPROVALS=2 CFA_RESPONDERS='AABC AABD'
	for shell in "${shells[@]}"; do
		run $shell "$scripts/request.sh"
		[ "$status" -eq 0 ]
		[ "$(cat "$seen/args")" = request ]
		[ "$(cat "$seen/env")" = $'CFA_APPROVALS=2\nCFA_PROJECT=rocket\nCFA_RELAY=tls://cfa.example.com:4222\nCFA_RESPONDERS=AABC AABD' ]
	done
}

@test "the code is in no log, no file and no argument list" {
	for shell in "${shells[@]}"; do
		export CFA_ORB_COMMAND='tr "\0" "\n" <"/proc/$$/cmdline" >"$seen/cmdline"; tr "\0" "\n" <"/proc/$PPID/cmdline" >>"$seen/cmdline"'
		run $shell "$scripts/request.sh"
		[ "$status" -eq 0 ]
		[[ $output != *918273* ]]
		rm "$seen/answer"
		run grep -rl 918273 "$HOME" "$seen"
		[ "$status" -eq 1 ]
		printf 918273 >"$seen/answer"
	done
}

@test "a shell that traces does not trace the code" {
	for shell in "bash -xeo pipefail" "sh -xe"; do
		run $shell "$scripts/request.sh"
		[ "$status" -eq 0 ]
		[ "$(cat "$seen/got")" = 918273 ]
		[[ $output != *918273* ]]
		rm "$seen/got"
	done
}

@test "without a code the command is not run, and the step ends as cfa did" {
	for shell in "${shells[@]}"; do
		for code in 64 69 77 80 81 82; do
			stub_cfa 918273 "$code"
			run $shell "$scripts/request.sh"
			[ "$status" -eq "$code" ]
			[ ! -e "$seen/got" ]
		done
	done
}

@test "an empty code is none" {
	stub_cfa "" 0
	run sh "$scripts/request.sh"
	[ "$status" -eq 64 ]
	[[ $output == *"gave no code"* ]]
	[ ! -e "$seen/got" ]
}

@test "the command's exit code is the step's" {
	for shell in "${shells[@]}"; do
		CFA_ORB_COMMAND='exit 7' run $shell "$scripts/request.sh"
		[ "$status" -eq 7 ]
	done
}

@test "a failure inside the command ends it, as in any step" {
	CFA_ORB_COMMAND=$'false\necho went on' run bash "$scripts/request.sh"
	[ "$status" -eq 1 ]
	[[ $output != *"went on"* ]]
	CFA_ORB_COMMAND=$'false | cat\necho went on' run bash "$scripts/request.sh"
	[ "$status" -eq 1 ]
	[[ $output != *"went on"* ]]
}

@test "without bash the command is run by sh" {
	rm "$bin/bash"
	printf '#!%s\necho 918273\n' "$bin/sh" >"$bin/cfa"
	run "$bin/sh" "$scripts/request.sh"
	[ "$status" -eq 0 ]
	[ "$(cat "$seen/got")" = 918273 ]
}

@test "a wrong step is told so before a human is asked" {
	for name in "" 1CODE "A B" 'X$(id)' 'A=B' CODE-1 $'A\nB'; do
		CFA_ORB_ENV_VAR=$name run sh "$scripts/request.sh"
		[ "$status" -eq 64 ]
		[[ $output == *"no name of an environment variable"* ]]
	done
	for command in "" " " $'\n'; do
		CFA_ORB_COMMAND=$command run sh "$scripts/request.sh"
		[ "$status" -eq 64 ]
		[[ $output == *"command is empty"* ]]
	done
	rm "$bin/cfa"
	run sh "$scripts/request.sh"
	[ "$status" -eq 64 ]
	[[ $output == *"no cfa on the PATH"* ]]
	[ ! -e "$seen/args" ]
}

@test "what the orb installed goes before what is on the PATH" {
	mkdir -p "$HOME/.cfa/bin"
	printf '#!%s\necho 111111\n' "$bin/sh" >"$HOME/.cfa/bin/cfa"
	chmod 755 "$HOME/.cfa/bin/cfa"
	run sh "$scripts/request.sh"
	[ "$status" -eq 0 ]
	[ "$(cat "$seen/got")" = 111111 ]
}
