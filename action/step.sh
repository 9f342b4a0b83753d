#!/usr/bin/env bash
# Runs the subcommand of cfa that the Action's inputs ask for. The inputs are in the environment, as cfa reads them.
set -euo pipefail

: "${CFA_BINARY:?is set by the step before}"

case "${CFA_RUN:+run}${CFA_STAGE:+stage}${CFA_APPROVE:+approve}" in
run)
	exec "$CFA_BINARY" exec
	;;
stage)
	export CFA_RUN=$CFA_STAGE
	exec "$CFA_BINARY" stage
	;;
approve)
	if [ -n "${CFA_MESSAGE:-}" ]; then
		printf '::error title=Continuous Factor Authentication::%s\n' "\`approve\` is what the human reads, so \`message\` is one text too many; leave one out"
		exit 64
	fi
	export CFA_MESSAGE=$CFA_APPROVE
	# A step's own: two approvals of one job must not share a receipt.
	export CFA_RECEIPT=${CFA_RECEIPT:-${RUNNER_TEMP:?is set by the runner}/cfa-receipt-${GITHUB_ACTION:-$$}.jsonl}
	exec "$CFA_BINARY" approve
	;;
'')
	if [ -n "${CFA_ARTIFACT:-}" ]; then
		printf '::error title=Continuous Factor Authentication::%s\n' "\`artifacts\` are approved, and nothing says with which words; add the input \`approve\`"
		exit 64
	fi
	exec "$CFA_BINARY" request
	;;
*)
	printf '::error title=Continuous Factor Authentication::%s\n' "\`run\`, \`stage\` and \`approve\` are steps of their own; use the action once for each"
	exit 64
	;;
esac
