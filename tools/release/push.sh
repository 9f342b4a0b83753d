#!/usr/bin/env bash
# Puts the files of a release that a package manager reads into that manager's repository.
#
#   PUSH_KEY=... tools/release/push.sh TAG LIST REMOTE FILE=PATH...
#
# The rule it keeps: what is pushed stands in LIST, which packages.sh made and a human approved: by its name, beside that
# list, and by its hash. And the key opens one repository, and is shown to one server, whose own key is known here. It goes to ssh
# by a file that nobody else can read and that is gone afterwards.
set -euo pipefail

fail() {
	printf 'push.sh: %s\n' "$1" >&2
	exit 1
}

[ "$#" -ge 4 ] || fail "usage: PUSH_KEY=... push.sh TAG LIST REMOTE FILE=PATH..."
tag=$1 list=$2 remote=$3
shift 3
if command -v sha256sum >/dev/null; then hash=(sha256sum); else hash=(shasum -a 256); fi # macOS has the other

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case $remote in
ssh://*)
	[ -n "${PUSH_KEY:-}" ] || fail "PUSH_KEY is not set: the environment 'packages' has no key for $remote"
	(umask 077 && printf '%s\n' "$PUSH_KEY" >"$work/key")
	# As GitHub's and the AUR's own pages give them. Asked of the server at first sight, it could be anybody's.
	cat >"$work/hosts" <<-'HOSTS'
		github.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl
		aur.archlinux.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEuBKrPzbawxA/k2g6NcyV5jmqwJ2s+zpgZGZ7tpLIcN
	HOSTS
	export GIT_SSH_COMMAND="ssh -F none -i $work/key -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile=$work/hosts"
	;;
esac
unset PUSH_KEY

git clone --quiet --depth 1 "$remote" "$work/to"
for pair in "$@"; do
	from=${pair%%=*} to=${pair#*=}
	[ -f "$from" ] || fail "there is no $from"
	mkdir -p "$work/to/$(dirname "$to")"
	cp "$from" "$work/to/$to"
	# Of the copy: nobody can change that one after it was looked at.
	got=$("${hash[@]}" <"$work/to/$to")
	grep -qxF "${got%% *}  ${from#"$(dirname "$list")"/}" "$list" || fail "$from is not the file that $list names; nothing was pushed"
	git -C "$work/to" add -- "$to"
done
# A second run, after one of the others failed, finds nothing to do.
if git -C "$work/to" diff --cached --quiet; then
	printf 'push.sh: %s has %s already\n' "$remote" "$tag"
	exit 0
fi
git -C "$work/to" -c user.name="CFA maintainers" -c user.email=maintainers@continuousauth.example commit --quiet --message "Release $tag"
git -C "$work/to" push --quiet origin HEAD
printf 'push.sh: %s has %s now\n' "$remote" "$tag"
