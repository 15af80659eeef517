#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: test/cluster/run.sh [shell]
#
# Runs the tests on a real one-node Kubernetes; see README.md in this directory. With "shell" it
# starts the same node with a shell instead of the tests. To run some of the tests:
#
#   TEST_ARGS='-test.v -test.run TestOverlays' test/cluster/run.sh
#
# The exit status is 0 if the tests passed, 1 if they failed, and 77 if they cannot run on this
# machine.
set -euo pipefail

# Programs and their Debian packages, besides those that get_runtime only unpacks.
declare -A PACKAGES=([unshare]=util-linux [setpriv]=util-linux [flock]=util-linux [openssl]=openssl [make]=make)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
top=$(cd "$here/../.." && pwd)
cache=${CLUSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/qatplugin/cluster}
logs=$cache/logs
images=(intel-qat-plugin intel-qat-dra-driver)
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

# need_programs installs missing packages if it can.
need_programs() {
	local program missing=()
	[ "$(id -u)" = 0 ] || cannot "only root can create containers"
	[ "$(uname -m)" = x86_64 ] || cannot "the tested image is for x86_64, this machine is $(uname -m)"
	command -v go >/dev/null || cannot "go not found"
	for program in "${!PACKAGES[@]}"; do
		command -v "$program" >/dev/null || missing+=("${PACKAGES[$program]}")
	done
	compile "$cache/probe" <<<'#include <stdio.h>
int main(void) { return 0; }' 2>/dev/null || missing+=(gcc libc6-dev)
	((${#missing[@]} == 0)) || install_packages "${missing[@]}"
	unshare --mount --pid --net --fork true 2>"$cache/unshare.log" || cannot "namespaces cannot be created: $(head -n 1 "$cache/unshare.log")"
}

# compile PROGRAM compiles C source from standard input.
compile() { "$(go env CC)" -O -Wall -Werror -x c -o "$1" -; }

install_packages() {
	command -v apt-get >/dev/null || cannot "packages not installed: $*"
	step "installing $*"
	{ apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@"; } >"$cache/apt.log" 2>&1 ||
		cannot "apt-get install $* failed; see $cache/apt.log"
}

# get_runtime gets runc, the CNI plugins and a static busybox. It unpacks Debian's packages into the
# cache instead of installing them, so that the machine is not changed. Without access to Debian's
# archive it uses the programs of the machine.
get_runtime() {
	local packages=(runc containernetworking-plugins busybox-static libseccomp2) files deb program
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
		# Package lists that are weeks old name versions that the archive no longer has.
		if [ -z "${lists_updated:-}" ] && apt-get -qq update; then
			lists_updated=yes
			get_runtime
			return
		fi
	fi
	for program in runc busybox; do
		command -v $program >/dev/null || cannot "$program not found, and apt-get cannot download ${packages[*]}"
	done
	runtime=
}

# filenames PACKAGE... prints the file names of the newest versions, which contain the versions.
filenames() {
	local names
	names=$(apt-cache show --no-all-versions "$@" 2>/dev/null | awk '/^Filename:/ { print $2 }')
	[ "$(wc -l <<<"$names")" = $# ] && echo "$names"
}

# build_programs builds Kubernetes and etcd unless they are in the cache.
build_programs() {
	programs=$("$here/programs.sh" 2> >(while read -r line; do step "$line"; done)) || fail "building Kubernetes failed"
}

# build_containerd builds containerd, its shim and ctr unless they are in the cache.
build_containerd() {
	local module=github.com/containerd/containerd/v2 version key flags
	version=$(cd "$here/containerd" && go list -m -f '{{.Version}}' $module)
	# Without this flag containerd reports its version with the suffix +unknown.
	flags="-s -w -X $module/version.Version=$version"
	key=$({ echo "$(go version) $flags" && cat "$here"/containerd/go.{mod,sum}; } | sha256sum | cut -c1-16)
	containerd=$cache/containerd-$key
	[ ! -e "$containerd.done" ] || return 0
	step "building containerd $version, which takes a minute the first time"
	rm -rf "$cache"/containerd-*
	(cd "$here/containerd" && go build -ldflags "$flags" -o "$containerd/" tool) || fail "building containerd failed"
	touch "$containerd.done"
	step "built containerd: $(du -sh "$containerd" | cut -f1)"
}

# build_prometheus builds Prometheus, with the discovery of pods and no other one, unless it is in
# the cache.
build_prometheus() {
	local key tags=remove_all_sd,enable_kubernetes_sd
	key=$({ echo "$(go version) $tags" && cat "$here"/prometheus/go.{mod,sum}; } | sha256sum | cut -c1-16)
	prometheus=$cache/prometheus-$key
	[ ! -e "$prometheus" ] || return 0
	step "building Prometheus, which takes minutes the first time"
	rm -f "$cache"/prometheus-*
	(cd "$here/prometheus" && go build -tags "$tags" -ldflags "-s -w" -o "$prometheus.new" github.com/prometheus/prometheus/cmd/prometheus) ||
		fail "building Prometheus failed"
	mv "$prometheus.new" "$prometheus"
	step "built Prometheus: $(du -h "$prometheus" | cut -f1)"
}

build_tests() {
	(cd "$here" && go test -c -o "$cache/cluster.test" .) || fail "the tests do not compile"
	compile "$cache/adf_ctl" <"$here/adf_ctl/adf_ctl.c" || fail "adf_ctl.c does not compile"
	step "built the tests"
}

build_images() {
	local dir=$top/bin/image
	make -s -C "$top" image image-dra IMAGE="${images[0]}" DRA_IMAGE="${images[1]}" VERSION=devel ARCH=amd64 \
		>"$logs/image.log" 2>&1 || { cat "$logs/image.log" >&2; fail "make image image-dra failed"; }
	step "built the images: $(cd "$dir" && echo $(du -h "${images[@]/%/-amd64.docker.tar}"))"
}

# sweep removes the control groups of this run, and of earlier runs that were killed. The
# processes of the pods have ended by then, or end within moments.
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
*) echo "cluster: unknown command $1: must be shell, or nothing" >&2; exit 2 ;;
esac
mkdir -p "$cache"
need_programs
exec 9>"$cache/lock"
flock -n 9 || { step "waiting for another run to finish"; flock 9; }
rm -rf "$logs"
mkdir -p "$logs"
export CGO_ENABLED=0 GOFLAGS="${GOFLAGS:-} -trimpath -buildvcs=false"
get_runtime
build_programs
build_containerd
build_prometheus
build_images
build_tests

trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
[ "${1:-}" != shell ] || trap : INT # left to the shell
sweep
export CLUSTER_CONTAINERD=$containerd CLUSTER_PROMETHEUS=$prometheus
export CLUSTER_TOP=$top CLUSTER_PROGRAMS=$programs CLUSTER_RUNTIME=$runtime CLUSTER_LOGS=$logs CLUSTER_CACHE=$cache CLUSTER_IMAGES=${images[*]}
export CLUSTER_CGROUP=qatplugin-cluster-$$ CLUSTER_STARTED=$started TEST_ARGS=${TEST_ARGS:--test.v}
# The node's processes are in namespaces that end with their first process. That process ends
# with unshare, and unshare with this shell, even if it is killed. The network namespace belongs
# to the initial user namespace, so it receives uevents. env restores the signals that bash
# ignores in background processes, for Ctrl-C in the node's shell.
env --default-signal=INT,QUIT setpriv --pdeathsig KILL unshare --mount --propagation private --pid --net --mount-proc --fork --kill-child=KILL \
	bash "$here/node.sh" "${1:-tests}" <&0 9>&- &
node=$!
while :; do # a trapped signal interrupts wait
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
