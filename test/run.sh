#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: test/run.sh [STAGE...]
#
# Runs the stages of `make test`. Without arguments it runs all of them, in this order:
#
#   lint         gofmt, go vet and staticcheck in every module, and the project's own tools/lint
#   unit         the tests of the main module, with the seeds of the fuzz targets, and of tools and
#                test/compare; those of events and of the plugin also in the build without code
#                under the GPL
#   deployments  the modules test/deployments (what deployments/ renders), test/monitoring (alert
#                rules and the dashboard) and tools/image
#   chaos        the module test/chaos: the built plugin while its surroundings break (SEED=N)
#   kubelet      the module test/kubelet: the plugin with the real kubelet's device manager
#   browser      the module test/browser: the status page in a headless Chromium
#   vm           test/vm/run.sh: the plugin on a real Linux kernel
#   fleet        the module test/fleet: the DRA drivers of 20 nodes with a real API server
#   cluster      test/cluster/run.sh: the deployments on a real one-node Kubernetes
#
# As root on Debian it installs missing packages. A stage that cannot run on this machine is
# skipped, with the reason in the summary; with CI=true a skip is a failure. After a failed
# stage the next one runs all the same. The exit status is 0 if every stage that ran passed,
# else 1.
set -uo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) && cd "$top" || exit 1

ALL=(lint unit deployments chaos kubelet browser vm fleet cluster)
CANNOT=77 # exit status of a stage that cannot run on this machine; the reason is in $state/reason

export HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
command -v go >/dev/null || { echo "test: go not found: install it from https://go.dev/dl" >&2; exit 1; }
# In a checkout that belongs to another user, git refuses to run and go build would fail with
# it.
GOFLAGS="$(go env GOFLAGS) -buildvcs=false" && export GOFLAGS

state=$(mktemp -d) || exit 1
trap 'rm -rf "$state"' EXIT
trap 'echo "test: interrupted" >&2; exit 130' INT TERM

in_ci() { [ "${CI:-}" = true ]; }
say() { echo "$current: $*"; }

# fail REASON... ends a failed stage.
fail() {
	echo "$*" >"$state/reason"
	exit 1
}

# cannot REASON... ends a stage that cannot run on this machine.
cannot() {
	echo "$*" >"$state/reason"
	exit $CANNOT
}

# skipped WHAT... records what a stage that runs leaves out.
skipped() { echo "$current: $*" >>"$state/skipped"; }

# have_compiler reports whether C programs can be built, which the race detector needs. As root
# on Debian it installs a compiler first.
have_compiler() {
	compiles && return
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return
	say "installing gcc and libc6-dev"
	{
		apt-get -qq update &&
			DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends gcc libc6-dev
	} >"$state/apt" 2>&1 || { cat "$state/apt" >&2; return 1; }
	compiles
}
compiles() { echo '#include <stdlib.h>
int main(void) { return 0; }' | "$(go env CC)" -x c -o "$state/a.out" - 2>/dev/null; }

# race_detector sets $race to the flag of go test, or to nothing on a machine without a C
# compiler.
race_detector() {
	race=(-race)
	have_compiler && return
	in_ci && fail "the race detector needs a C compiler, and none could be installed"
	race=()
	export CGO_ENABLED=0
	skipped "race detector: it needs a C compiler, which only root can install"
}

# go_test ARGS... runs go test and filters its output through test/show.awk. Errors of go
# itself, such as code that does not compile, go straight to standard error.
go_test() {
	go test -v "$@" | tee "$state/go_test" | awk -f "$top/test/show.awk"
	local result=${PIPESTATUS[0]}
	skips "$state/go_test"
	return "$result"
}

# skips FILE records each skipped test and its reason, from the output of go test -v.
skips() {
	awk '
		/^=== (RUN|CONT|NAME) / { test = $3; next }
		/^ +[^ ]+\.go:[0-9]+: / { sub(/^ +[^ ]+\.go:[0-9]+: /, ""); reason[test] = $0; next }
		/^ *--- SKIP: / { print $3 ": " reason[$3] }' "$1" | tr -d '\r' | while read -r line; do skipped "$line"; done
}

# plain_builds sets the build flags of test/vm/run.sh and test/cluster/run.sh, so that the
# packages of Kubernetes are compiled only once.
plain_builds() { export CGO_ENABLED=0 GOFLAGS="$GOFLAGS -trimpath"; }

stage_lint() {
	local failed=0 module staticcheck script unformatted
	unformatted=$(gofmt -l .)
	[ -z "$unformatted" ] || { say "not formatted with gofmt:"; echo "$unformatted"; failed=1; }
	for script in test/*.sh test/*/*.sh .ci/run; do bash -n "$script" || failed=1; done
	staticcheck=$(go tool -modfile=tools/go.mod -n staticcheck) || return 1
	plain_builds
	say "tools/lint: line lengths, SPDX headers, unused exports"
	go -C tools run ./lint || failed=1
	for module in . test/browser test/chaos test/compare test/kubelet test/cluster test/fleet test/deployments test/monitoring tools tools/image; do
		say "module $module: go vet, staticcheck"
		(cd "$module" && go vet ./...) || failed=1
		(cd "$module" && "$staticcheck" ./...) || failed=1
	done
	return $failed
}

stage_unit() {
	local race failed=0
	race_detector
	go_test "${race[@]}" -timeout 15m ./... || failed=1
	say "without code under the GPL: -tags nogpl"
	go vet -tags nogpl ./... || failed=1
	go_test "${race[@]}" -timeout 15m -tags nogpl ./events ./cmd/qat_plugin ./cmd/qat_dra_driver || failed=1
	(cd tools && go_test ./...) || failed=1
	(cd test/compare && go_test ./...) || failed=1
	return $failed
}

# These tests look at the output of programs. The race detector would only compile Helm and
# Kubernetes once more. -count=1: the test cache of go ignores files outside of the module.
stage_deployments() {
	local failed=0 module promtool
	plain_builds
	if promtool=$(test/promtool.sh); then
		export PROMTOOL=$promtool
	fi
	for module in test/deployments test/monitoring tools/image; do
		(cd "$module" && go_test -count=1 -timeout 15m ./...) || failed=1
	done
	return $failed
}

# -count=1: the test cache of go does not know that the test runs the program.
stage_chaos() {
	local race seed=${SEED:-1}
	race_detector
	cd test/chaos || return
	say "seed $seed (SEED=N make chaos: another order of the faults)"
	go_test "${race[@]}" -count=1 -timeout 4m . -args -seed "$seed"
}

stage_kubelet() {
	local race
	race_detector
	cd test/kubelet || return
	say "compiling the kubelet, which takes minutes the first time"
	go_test "${race[@]}" -timeout 30m ./...
}

# -count=1: the test cache of go does not know that the test runs the program.
stage_browser() {
	local race
	have_chromium || cannot "no chromium: only root on Debian can install it"
	race_detector
	cd test/browser || return
	go_test "${race[@]}" -count=1 -timeout 15m .
}

# have_chromium reports whether there is a Chromium. As root on Debian it installs one, and the
# font of the page.
have_chromium() {
	command -v chromium >/dev/null && return
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return
	say "installing chromium and fonts-inter"
	{
		apt-get -qq update &&
			DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium fonts-inter
	} >"$state/apt" 2>&1 || { cat "$state/apt" >&2; return 1; }
	command -v chromium >/dev/null
}

stage_vm() { machine test/vm/run.sh; }

# -count=1: the test cache of go does not know that the test runs programs.
stage_fleet() {
	local race programs
	race_detector
	programs=$(test/cluster/programs.sh) || fail "building Kubernetes and etcd failed"
	cd test/fleet || return
	FLEET_PROGRAMS=$programs go_test "${race[@]}" -count=1 -timeout 5m ./...
}

stage_cluster() { machine test/cluster/run.sh; }

# machine SCRIPT runs a script that creates a machine of its own for its tests.
machine() {
	"$1" 2>&1 | tee "$state/machine"
	local result=${PIPESTATUS[0]}
	skips "$state/machine"
	[ "$result" != $CANNOT ] || cannot "$(sed -n "s/^$current: cannot run here: //p" "$state/machine" | tail -n 1)"
	return "$result"
}

# run STAGE runs a stage in a subshell and records the result.
run() {
	local began=$SECONDS result before word why
	current=$1
	echo "== $current"
	: >"$state/reason"
	before=$(wc -l <"$state/skipped")
	("stage_$current") </dev/null
	result=$?
	why=$(cat "$state/reason")
	case $result in
	0) word=passed ;;
	"$CANNOT") word=skipped ;;
	130 | 143) exit "$result" ;;
	*) word=FAILED ;;
	esac
	if in_ci && [ "$word" = skipped ]; then
		word=FAILED why="must not be skipped in CI: $why"
	elif in_ci && [ "$word" = passed ] && [ "$(wc -l <"$state/skipped")" != "$before" ]; then
		word=FAILED why="nothing may be skipped in CI"
	fi
	[ $word != FAILED ] || failed=1
	printf '== %s: %s after %d s%s\n\n' "$current" $word $((SECONDS - began)) "${why:+: $why}"
	printf '  %-11s %-8s %5d s  %s\n' "$current" $word $((SECONDS - began)) "$why" >>"$state/summary"
}

[ $# -gt 0 ] || set -- "${ALL[@]}"
for stage; do
	[[ " ${ALL[*]} " = *" $stage "* ]] ||
		{ echo "test: no stage $stage: must be one of ${ALL[*]}" >&2; exit 2; }
done
failed=0
: >"$state/skipped"
for stage; do run "$stage"; done

echo "== summary"
sed 's/ *$//' "$state/summary"
if [ -s "$state/skipped" ]; then
	echo "skipped:"
	sed 's/^/  /' "$state/skipped"
fi
if [ $failed = 0 ]; then word=passed; else word=FAILED; fi
echo "test: $word after $SECONDS s (exit status $failed)"
exit $failed
