# Every way to build, run, check and measure the project; `make` alone lists them.
# CI runs the same targets through .ci/run, so that what passes here passes there.

# How long `make fuzz` spends on each fuzz target, e.g. FUZZTIME=5m or FUZZTIME=1000x.
FUZZTIME ?= 10s
# `make test RACE=` for a machine without a C compiler: the race detector needs one.
RACE ?= -race

# Linters and test drivers have a module of their own: the root go.mod then holds only what the programs use.
TOOL := go tool -modfile=tools/go.mod
# It alone would bring hundreds of modules into the others' module, and takes minutes to compile.
GORELEASER := go tool -modfile=tools/release/go.mod goreleaser
# CircleCI's program has one of its own: what it needs would hold back what the others use.
ORB_TOOL := go tool -modfile=tools/orb/go.mod
GO_WANTED := $(shell sed -n 's/^go //p' go.mod)
PROGRAMS := bin/cfa bin/cfa-relay bin/cfa-responder

.DEFAULT_GOAL := help
.PHONY: help demo cluster test test-clients soak lint bench fuzz build cross release-check release-snapshot clean need-go $(PROGRAMS)

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-24s %s\n", $$1, $$2}'

# By the environment: a recipe's text is the argv of its shell, which every user of the machine can read.
ifdef OTP
demo cluster: export CFA_DEMO_OTP := $(OTP)
endif
demo: need-go ## a job asks, you type a code, the job has it; OTP=123456 answers by itself
	@go run ./relay demo

cluster: need-go ## three NATS servers and two relays on this machine until Ctrl-C; OTP=123456 asks, kills one, answers, ends
	@go run ./relay cluster demo

test: need-go ## all tests under the race detector; RACE= turns it off
	@go test $(RACE) -timeout 8m ./...

# Only the tests in files tagged `clients`: the others in their packages have run in `make test`. None found is an error,
# because a misspelt tag would otherwise pass for a green run. Six at once on any machine: most of them wait most of the time.
test-clients: need-go ## what is too much for each run, tagged `clients`: other people's programs (act, ...), 3,000 jobs at once
	@set -eu; \
	files=$$(grep -rlE --include='*_test.go' '^//go:build .*clients' internal responder) || { echo "test-clients: no test file under internal or responder is tagged 'clients'" >&2; exit 1; }; \
	names=$$(sed -n 's/^func \(Test[A-Za-z0-9_]*\)(.*/\1/p' $$files | paste -s -d '|' -); \
	test -n "$$names" || { echo "test-clients: the files tagged 'clients' hold no test" >&2; exit 1; }; \
	go test -tags clients -parallel 6 -timeout 14m -run "^($$names)\$$" $$(printf './%s\n' $$files | sed 's|/[^/]*$$||' | sort -u)

# What was found is said with the seed that found it: `make soak SEED=…` goes the same way again.
soak: export SOAK := $(or $(SOAK),10m)
soak: export SEED := $(SEED)
soak: need-go ## jobs, responders and faults at random for SOAK (10m); SEED= goes a way again
	@go test -tags soak -run '^TestSoak$$' -count 1 -timeout 0 -v ./internal/e2e

lint: need-go ## formatting, vet, staticcheck, actionlint, shellcheck, the orb, module files
	@command -v shellcheck >/dev/null || { echo "shellcheck is missing: apt-get install shellcheck, or brew install shellcheck" >&2; exit 1; }
	@bad=$$(gofmt -l .) || exit 1; test -z "$$bad" || { printf 'not formatted, run gofmt -w on:\n%s\n' "$$bad" >&2; exit 1; }
	@go vet -tags clients ./...
	@$(TOOL) staticcheck -tags clients ./...
	@$(TOOL) actionlint .github/workflows/*.yml examples/github/*.yml
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && awk -v dir="$$dir" '/^```yaml/ {n++; on=1; next} /^```/ {on=0} on {print > (dir "/" n ".yml")}' README.md && \
		for f in $$(grep -l '^on:' "$$dir"/*.yml); do $(TOOL) actionlint "$$f" || exit 1; found=1; done; test -n "$$found" || { echo "lint: the README has no workflow to check" >&2; exit 1; }
	@shellcheck .ci/run ci/cfa-buildkite-plugin/hooks/* $$(find . -name '*.sh' -not -path './.git/*' -not -path '*/node_modules/*')
	@home=$$(mktemp -d) && trap 'rm -rf "$$home"' EXIT && circleci=$$($(ORB_TOOL) -n circleci-cli) && \
		HOME="$$home" CIRCLECI_CLI_SKIP_UPDATE_CHECK=true CIRCLECI_CLI_TELEMETRY_OPTOUT=1 "$$circleci" orb pack orb/src >/dev/null
	@for dir in . tools tools/release tools/orb; do (cd $$dir && go mod tidy -diff && go mod verify >/dev/null) || { echo "lint: $$dir/go.mod or go.sum is not as 'go mod tidy' leaves it, or a cached module was altered" >&2; exit 1; }; done
	@echo "lint: clean"

bench: need-go ## measure, each figure beside its floor
	@go test -run '^$$' -bench Delivery -benchtime 800x ./internal/broker
	@go test -run '^$$' -bench Cluster -benchtime 400x -timeout 20m ./internal/broker
	@go test -run '^$$' -bench Read -benchtime 800x ./internal/broker
	@go test -run '^$$' -bench Admission -benchtime 4x ./internal/broker
	@go test -run '^$$' -bench Memory -benchtime 1x -timeout 20m ./internal/broker
	@go test -run '^$$' -bench Among -benchtime 1x -timeout 20m ./internal/broker
	@go test -run '^$$' -bench Restart -benchtime 1x -timeout 20m ./internal/broker
	@go test -run '^$$' -bench Dead -benchtime 1x -timeout 20m ./internal/broker
	@go test -run '^$$' -bench 'Start|Exec|Size' -benchtime 20x ./internal/e2e
	@go test -run '^$$' -bench Step -benchtime 3x -timeout 20m ./internal/e2e
	@go test -run '^$$' -tags clients -bench Page -benchtime 20x ./internal/page
	@go test -tags clients -run '^$$' -bench DesktopNotification -benchtime 20x ./responder
	@go test -run '^$$' -bench Idle -benchtime 1x ./responder

# One at a time: go test runs no two fuzz targets at once, and each uses every core. None found is an error, as above.
fuzz: need-go ## each fuzz target for FUZZTIME (10s)
	@set -eu; \
	files=$$(grep -rlE --include='*_test.go' '^func Fuzz' .) || { echo "fuzz: no fuzz target found" >&2; exit 1; }; \
	for pkg in $$(printf '%s\n' $$files | sed 's|/[^/]*$$||' | sort -u); do \
		listed=$$(go test -list '^Fuzz' $$pkg) || { printf '%s\n' "$$listed" >&2; exit 1; }; \
		for target in $$(printf '%s\n' "$$listed" | grep '^Fuzz'); do \
			echo "$$pkg $$target"; \
			out=$$(go test -run '^$$' -fuzz "^$$target\$$" -fuzzminimizetime 10x -fuzztime $(FUZZTIME) $$pkg 2>&1) || { printf '%s\n' "$$out" >&2; exit 1; }; \
		done; \
	done

build: need-go $(PROGRAMS) ## the three programs, static and stripped, in bin/

bin/cfa: PACKAGE := ./action
bin/cfa-relay: PACKAGE := ./relay
bin/cfa-responder: PACKAGE := ./responder
$(PROGRAMS): need-go
	@CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o $@ $(PACKAGE)

cross: need-go ## whether programs and tests still compile for macOS and Windows
	@for os in darwin windows; do GOOS=$$os CGO_ENABLED=0 go vet ./... || { echo "cross: does not compile for $$os" >&2; exit 1; }; done

release-check: need-go ## whether GoReleaser takes .goreleaser.yaml
	@$(GORELEASER) check

release-snapshot: need-go ## everything that a release consists of, in dist/, for all systems; publishes nothing
	@$(GORELEASER) release --snapshot --clean --skip=publish,announce

clean: ## remove what builds and coverage runs leave
	@rm -rf bin dist release coverage.*

# Says in one line what is missing, where go itself would fail in the middle of something or, before 1.21, in riddles.
need-go:
	@command -v go >/dev/null || { echo "Go is missing: install Go $(GO_WANTED) or newer, https://go.dev/dl/" >&2; exit 1; }
	@have=$$(go env GOVERSION 2>/dev/null | sed 's/^.*go//; s/[^0-9.].*//'); \
	oldest=$$(printf '%s\n' "$(GO_WANTED)" "$${have:-0}" | sort -V | head -n 1); \
	test "$$oldest" = "$(GO_WANTED)" || { echo "Go $(GO_WANTED) or newer is needed, this is $${have:-older}: https://go.dev/dl/" >&2; exit 1; }
