#!/usr/bin/env bats
bats_require_minimum_version 1.5.0

setup() {
	load common
	setup_home
	stub_cfa "" 0
	stub npm <<'STUB'
printf '%s\n' npm "$@" >"$seen/ran"
exit "${NPM_STATUS:-0}"
STUB
}

args() { # args SCRIPT'S-COMMAND: what cfa was given
	rm -f "$seen/args"
	for shell in "${shells[@]}"; do
		CFA_ORB_COMMAND=$1 run $shell "$scripts/exec.sh"
		[ "$status" -eq "${2:-0}" ] || return 1
	done
	tr '\n' '|' <"$seen/args"
}

@test "plain words are handed on as they are" {
	[ "$(args 'npm publish')" = "exec|--|npm|publish|" ]
	[ "$(args $'npm publish\n')" = "exec|--|npm|publish|" ]
	[ "$(args 'npm publish --access=public  --tag next @octo/rocket ./a.tgz')" = "exec|--|npm|publish|--access=public|--tag|next|@octo/rocket|./a.tgz|" ]
	[ "$(cat "$seen/ran" | head -n 1)" = npm ]
}

@test "what needs a shell is run by one" {
	for command in 'npm publish dist/*.tgz' 'npm publish "$seen"' 'npm publish && true' $'npm publish\ntrue' 'npm publish ~' 'A=b npm publish' 'npm publish # now'; do
		[ "$(args "$command")" = "exec|--|bash|-eo|pipefail|-c|$(printf '%s' "$command" | tr '\n' '|')|" ]
	done
	[ "$(args 'cd .')" = "exec|--|bash|-eo|pipefail|-c|cd .|" ]
	CFA_ORB_COMMAND='not-there x' run -127 bash "$scripts/exec.sh"
	[ "$(tr '\n' '|' <"$seen/args")" = "exec|--|bash|-eo|pipefail|-c|not-there x|" ]
}

@test "without bash it is sh" {
	rm "$bin/bash"
	printf '#!%s\nprintf "%%s|" "$@" >"$seen/args"\n' "$bin/sh" >"$bin/cfa"
	CFA_ORB_COMMAND='npm publish *' run "$bin/sh" "$scripts/exec.sh"
	[ "$status" -eq 0 ]
	[ "$(cat "$seen/args")" = "exec|--|sh|-e|-c|npm publish *|" ]
}

@test "the exit code is the command's" {
	export NPM_STATUS=3
	[ "$(args 'npm publish' 3)" = "exec|--|npm|publish|" ]
}

@test "the parameters reach cfa by the environment, and the orb's own do not" {
	export CFA_RELAY=tls://cfa.example.com:4222 CFA_PROJECT=rocket CFA_MESSAGE='a b' CFA_ENV= CFA_APPROVALS=2
	[ "$(args 'npm publish')" = "exec|--|npm|publish|" ]
	[ "$(cat "$seen/env")" = $'CFA_APPROVALS=2\nCFA_ENV=\nCFA_MESSAGE=a b\nCFA_PROJECT=rocket\nCFA_RELAY=tls://cfa.example.com:4222' ]
}

@test "nothing to run, and nothing to run it with, are said" {
	CFA_ORB_COMMAND=$' \n' run sh "$scripts/exec.sh"
	[ "$status" -eq 64 ]
	[[ $output == *"command is empty"* ]]
	rm "$bin/cfa"
	CFA_ORB_COMMAND='npm publish' run sh "$scripts/exec.sh"
	[ "$status" -eq 64 ]
	[[ $output == *"no cfa on the PATH"* ]]
	[ ! -e "$seen/ran" ]
}
