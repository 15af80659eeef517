#!/bin/bash
# run.sh: the tests on a real Kubernetes of one node (README.md beside this file).
#
#   test/cluster/run.sh              all tests
#   TEST_ARGS='-test.v -test.run TestOverlays' test/cluster/run.sh
#   test/cluster/run.sh shell        the same node with a shell in place of the tests
#
# The exit status is 0 when the tests passed, 1 when they did not, and 77 when this machine cannot run them.
set -euo pipefail

# What it needs of Debian, besides what is unpacked and not installed (get_runtime).
declare -A PACKAGES=([unshare]=util-linux [setpriv]=util-linux [flock]=util-linux [openssl]=openssl [make]=make)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=${CLUSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/qatplugin/cluster}
logs=$cache/logs
image=$top/bin/image/intel-qat-plugin-amd64.docker.tar
started=${EPOCHREALTIME/./}

step() {
	local us=$((${EPOCHREALTIME/./} - started))
	printf 'cluster: %4d.%02ds %s\n' $((us / 1000000)) $((us % 1000000 / 10000)) "$*"
}

cannot() {
	echo "cluster: cannot run here: $*" >&2
	exit 77
}

fail() {
	echo "cluster: FAILED: $*" >&2
	exit 1
}

# need_programs installs what is missing when it may, and says what is missing when it may not.
need_programs() {
	local program missing=()
	[ "$(id -u)" = 0 ] || cannot "only root can make containers"
	[ "$(uname -m)" = x86_64 ] || cannot "the image that is tested is for x86_64, this is $(uname -m)"
	command -v go >/dev/null || cannot "go is missing"
	for program in "${!PACKAGES[@]}"; do
		command -v "$program" >/dev/null || missing+=("${PACKAGES[$program]}")
	done
	compile "$cache/probe" <<<'#include <stdio.h>
int main(void) { return 0; }' 2>/dev/null || missing+=(gcc libc6-dev)
	((${#missing[@]} == 0)) || install_packages "${missing[@]}"
	unshare --mount --pid --net --fork true 2>"$cache/unshare.log" || cannot "no namespaces of its own: $(head -n 1 "$cache/unshare.log")"
}

# compile PROGRAM compiles the C program on its standard input.
compile() { "$(go env CC)" -O -Wall -Werror -x c -o "$1" -; }

install_packages() {
	command -v apt-get >/dev/null || cannot "missing: $*"
	step "installing $*"
	{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"; } >"$cache/apt.log" 2>&1 ||
		cannot "apt-get install $* failed; see $cache/apt.log"
}

# get_runtime finds containerd, runc, the CNI plugins and a busybox that needs no library. They are unpacked from Debian's packages into the cache:
# an installed containerd would start as a service beside ours. Without Debian's archive the machine's own are taken.
get_runtime() {
	local packages=(containerd runc containernetworking-plugins busybox-static libseccomp2) files deb
	if command -v apt-get >/dev/null; then
		files=$(filenames "${packages[@]}") || { apt-get -qq update && files=$(filenames "${packages[@]}"); } || true
	fi
	if [ -n "${files:-}" ]; then
		runtime=$cache/runtime-$(sha256sum <<<"$files" | cut -c1-16)
		[ ! -e "$runtime.done" ] || return 0
		rm -rf "$cache"/runtime-* "$cache/deb"
		mkdir -p "$runtime" "$cache/deb"
		if (cd "$cache/deb" && apt-get -qq download "${packages[@]}") >"$cache/apt.log" 2>&1; then
			for deb in "$cache"/deb/*.deb; do dpkg -x "$deb" "$runtime"; done
			rm -rf "$cache/deb"
			touch "$runtime.done"
			step "fetched ${packages[*]}"
			return
		fi
		rm -rf "$cache/deb" "$runtime"
	fi
	for deb in containerd containerd-shim-runc-v2 ctr runc busybox; do
		command -v $deb >/dev/null || cannot "$deb is missing, and apt-get cannot download ${packages[*]}"
	done
	runtime=
}

# filenames names the packages' newest files, and with them their versions.
filenames() {
	local names
	names=$(apt-cache show --no-all-versions "$@" 2>/dev/null | awk '/^Filename:/ { print $2 }')
	[ "$(wc -l <<<"$names")" = $# ] && echo "$names"
}

# build_programs builds Kubernetes and etcd, unless the cache has them.
build_programs() {
	local version key began flags="-s -w" package
	version=$(cd "$here" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
	# Without these a program says that it is v0.0.0-master, and the API server and kubectl do not know how far apart they are.
	for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
		flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$version") -X $package.gitTreeState=clean"
	done
	key=$({ echo "$(go version) $flags" && cat "$here"/{go.mod,go.sum} "$here"/etcd/*.go; } | sha256sum | cut -c1-16)
	programs=$cache/programs-$key
	[ ! -e "$programs.done" ] || return 0
	step "building Kubernetes $version and etcd; from nothing that takes minutes"
	rm -rf "$cache"/programs-*
	began=$SECONDS
	(cd "$here" && go build -ldflags "$flags" -o "$programs/" tool) || fail "building Kubernetes failed"
	touch "$programs.done"
	step "built Kubernetes and etcd in $((SECONDS - began)) s: $(du -sh "$programs" | cut -f1)"
}

build_tests() {
	(cd "$here" && go test -c -o "$cache/cluster.test" .) || fail "the tests do not compile"
	compile "$cache/adf_ctl" <"$here/adf_ctl/adf_ctl.c" || fail "adf_ctl.c does not compile"
	step "built the tests"
}

build_image() {
	make -s -C "$top" image IMAGE=intel-qat-plugin VERSION=devel ARCH=amd64 >"$logs/image.log" 2>&1 ||
		{ cat "$logs/image.log" >&2; fail "make image failed"; }
	step "built the image: $(du -h "$image" | cut -f1)"
}

# sweep removes the control groups of this run, and of runs before it that were killed. A pod's processes are gone by then, or go in a moment.
sweep() {
	local group owner
	find /sys/fs/cgroup -maxdepth 2 -type d -name 'qatplugin-cluster-*' 2>/dev/null | while read -r group; do
		owner=${group##*-}
		[ "$owner" = $$ ] || [ ! -d "/proc/$owner" ] || continue
		for _ in {1..50}; do
			find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
			[ -d "$group" ] || continue 2
			sleep 0.1
		done
		echo "cluster: the control group $group is still in use" >&2
	done
}

finish() {
	local status=$?
	trap '' INT TERM HUP
	[ -z "${node:-}" ] || { kill -KILL "$node" && wait "$node"; } 2>/dev/null || true
	sweep
	exit $status
}

case ${1:-tests} in
tests | shell) ;;
*) echo "cluster: no such command: $1" >&2; exit 2 ;;
esac
mkdir -p "$cache"
need_programs
exec 9>"$cache/lock"
flock -n 9 || { step "waiting for another run to end"; flock 9; }
rm -rf "$logs"
mkdir -p "$logs"
export CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -trimpath -buildvcs=false"
get_runtime
build_programs
build_image
build_tests

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
[ "${1:-}" != shell ] || trap : INT # the shell's affair
sweep
export CLUSTER_TOP=$top CLUSTER_PROGRAMS=$programs CLUSTER_RUNTIME=$runtime CLUSTER_LOGS=$logs CLUSTER_CACHE=$cache CLUSTER_IMAGE=$image
export CLUSTER_CGROUP=qatplugin-cluster-$$ CLUSTER_STARTED=$started TEST_ARGS=${TEST_ARGS:--test.v}
# The node's processes are in namespaces that die with their first process; that one dies with unshare, and unshare with this shell, even
# when it is killed. The network namespace belongs to the first user namespace: it hears the kernel's uevents. env gives back the signals that
# bash takes from what runs in the background: Ctrl-C in the node's shell.
env --default-signal=INT,QUIT setpriv --pdeathsig KILL unshare --mount --propagation private --pid --net --mount-proc --fork --kill-child=KILL \
	bash "$here/node.sh" "${1:-tests}" <&0 9>&- &
node=$!
while :; do # a trapped signal ends wait, too
	status=0
	wait $node || status=$?
	kill -0 $node 2>/dev/null || break
done
node=
case $status in
0) step "done" ;;
77) ;;
*)
	echo "cluster: FAILED; the logs of all programs and pods are in $logs" >&2
	status=1
	;;
esac
exit $status
