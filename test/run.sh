#!/bin/bash
# test/run.sh [STAGE...]: what `make test` does, stage by stage. Without a STAGE: all, in this order.
#
#   lint         gofmt, go vet and staticcheck, in every module
#   unit         the main module's tests, the fuzz targets' seeds included
#   deployments  the modules test/deployments and tools/image: what deployments/ renders, and the image
#   kubelet      the module test/kubelet: the plugin with the real kubelet's device manager
#   vm           test/vm/run.sh: the plugin on a real Linux kernel in QEMU
#   cluster      test/cluster/run.sh: the deployments on a real Kubernetes of one node
#
# As root on Debian it installs what is missing. What this machine cannot do is skipped with a line that says why; where CI=true that is a
# failure. A stage that fails does not keep the next from running. The exit status is 0 when all that ran passed, else 1.
set -uo pipefail
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd) && cd "$top" || exit 1

ALL=(lint unit deployments kubelet vm cluster)
CANNOT=77 # a stage's exit status when this machine cannot run it; the reason is in $state/reason

export HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
command -v go >/dev/null || PATH=$PATH:/usr/local/go/bin
command -v go >/dev/null || { echo "test: go is missing: https://go.dev/dl" >&2; exit 1; }
GOFLAGS="$(go env GOFLAGS) -buildvcs=false" && export GOFLAGS # in a checkout of another user git refuses to answer, and go would stop for it

state=$(mktemp -d) || exit 1
trap 'rm -rf "$state"' EXIT
trap 'echo "test: interrupted" >&2; exit 130' INT TERM

in_ci() { [ "${CI:-}" = true ]; }
say() { echo "$current: $*"; }

# fail REASON... ends a stage that failed; cannot REASON... ends one that this machine cannot run.
fail() {
	echo "$*" >"$state/reason"
	exit 1
}
cannot() {
	echo "$*" >"$state/reason"
	exit $CANNOT
}

# left_out WHAT: REASON notes what a stage that runs leaves out.
left_out() { echo "$current: $*" >>"$state/left_out"; }

# have_compiler tells whether C programs can be built, which the race detector needs; as root on Debian it sees to it.
have_compiler() {
	compiles && return
	[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return
	say "installing gcc and libc6-dev"
	{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends gcc libc6-dev; } >"$state/apt" 2>&1 ||
		{ cat "$state/apt" >&2; return 1; }
	compiles
}
compiles() { echo '#include <stdlib.h>
int main(void) { return 0; }' | "$(go env CC)" -x c -o "$state/a.out" - 2>/dev/null; }

# race_detector sets $race to go test's flag, or to nothing where the machine has no race detector.
race_detector() {
	race=(-race)
	have_compiler && return
	in_ci && fail "the race detector needs a C compiler, and this machine has none and gets none"
	race=()
	export CGO_ENABLED=0
	left_out "the race detector: it needs a C compiler, which only root can install here"
}

# go_test ARGS... runs go test and shows what test/show.awk leaves of it. What go itself complains of, such as code that does not compile,
# goes straight to standard error.
go_test() {
	go test -v "$@" | tee "$state/go_test" | awk -f "$top/test/show.awk"
	local result=${PIPESTATUS[0]}
	skips "$state/go_test"
	return "$result"
}

# skips FILE notes each test that was skipped, and its reason, from what `go test -v` said.
skips() {
	awk '
		/^=== (RUN|CONT|NAME) / { test = $3; next }
		/^ +[^ ]+\.go:[0-9]+: / { sub(/^ +[^ ]+\.go:[0-9]+: /, ""); reason[test] = $0; next }
		/^ *--- SKIP: / { print $3 ": " reason[$3] }' "$1" | tr -d '\r' | while read -r line; do left_out "$line"; done
}

# plain_builds has go build as test/vm/run.sh and test/cluster/run.sh do: the many packages of Kubernetes are then compiled once for all.
plain_builds() { export CGO_ENABLED=0 GOFLAGS="$GOFLAGS -trimpath"; }

stage_lint() {
	local failed=0 module staticcheck script unformatted
	unformatted=$(gofmt -l .)
	[ -z "$unformatted" ] || { say "gofmt would change:"; echo "$unformatted"; failed=1; }
	for script in test/*.sh test/*/*.sh .ci/run; do bash -n "$script" || failed=1; done
	staticcheck=$(go tool -modfile=tools/go.mod -n staticcheck) || return 1
	plain_builds
	for module in . test/kubelet test/cluster test/deployments tools/image; do
		say "module $module: go vet, staticcheck"
		(cd "$module" && go vet ./...) || failed=1
		(cd "$module" && "$staticcheck" ./...) || failed=1
	done
	return $failed
}

stage_unit() {
	local race
	race_detector
	go_test "${race[@]}" -timeout 15m ./...
}

# Without the race detector: what is tested is a program's output, and Helm and Kubernetes would be compiled once more for it. -count=1: go's
# cache of results does not see files outside of a module.
stage_deployments() {
	local failed=0 module
	plain_builds
	for module in test/deployments tools/image; do
		(cd "$module" && go_test -count=1 -timeout 15m ./...) || failed=1
	done
	return $failed
}

stage_kubelet() {
	local race
	race_detector
	cd test/kubelet || return
	say "the kubelet is compiled first; where it was not yet, that takes minutes"
	go_test "${race[@]}" -timeout 30m ./...
}

stage_vm() { machine test/vm/run.sh; }

stage_cluster() { machine test/cluster/run.sh; }

# machine SCRIPT runs a script that makes a machine of its own for its tests.
machine() {
	"$1" 2>&1 | tee "$state/machine"
	local result=${PIPESTATUS[0]}
	skips "$state/machine"
	[ "$result" != $CANNOT ] || cannot "$(sed -n "s/^$current: cannot run here: //p" "$state/machine" | tail -n 1)"
	return "$result"
}

# run STAGE runs one stage in a shell of its own and notes how it went.
run() {
	local began=$SECONDS result before word why
	current=$1
	echo "== $current"
	: >"$state/reason"
	before=$(wc -l <"$state/left_out")
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
		word=FAILED why="in CI it must run, but: $why"
	elif in_ci && [ "$word" = passed ] && [ "$(wc -l <"$state/left_out")" != "$before" ]; then
		word=FAILED why="in CI nothing may be left out"
	fi
	[ $word != FAILED ] || failed=1
	printf '== %s: %s after %d s%s\n\n' "$current" $word $((SECONDS - began)) "${why:+: $why}"
	printf '  %-11s %-8s %5d s  %s\n' "$current" $word $((SECONDS - began)) "$why" >>"$state/summary"
}

[ $# -gt 0 ] || set -- "${ALL[@]}"
for stage; do
	[[ " ${ALL[*]} " = *" $stage "* ]] || { echo "test: no stage $stage; there are: ${ALL[*]}" >&2; exit 2; }
done
failed=0
: >"$state/left_out"
for stage; do run "$stage"; done

echo "== summary"
sed 's/ *$//' "$state/summary"
if [ -s "$state/left_out" ]; then
	echo "left out:"
	sed 's/^/  /' "$state/left_out"
fi
if [ $failed = 0 ]; then word=passed; else word=FAILED; fi
echo "test: $word after $SECONDS s (exit status $failed)"
exit $failed
