#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: test/cluster/programs.sh
#
# Builds the programs of Kubernetes and etcd unless they are in the cache, and prints their
# directory. CLUSTER_CACHE is the directory of the cache.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${CLUSTER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/qatplugin/cluster}
export CGO_ENABLED=0
for flag in -trimpath -buildvcs=false; do
	[[ " ${GOFLAGS:-} " = *" $flag "* ]] || export GOFLAGS="${GOFLAGS:-} $flag"
done

version=$(cd "$here" && go list -m -f '{{.Version}}' k8s.io/kubernetes)
# Without these flags the version of each program is v0.0.0-master, and kubectl cannot compare its
# version with that of the API server.
flags="-s -w"
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
	flags+=" -X $package.gitVersion=$version -X $package.gitMajor=1 -X $package.gitMinor=$(cut -d. -f2 <<<"$version") -X $package.gitTreeState=clean"
done
key=$({ echo "$(go version) $flags" && cat "$here"/{go.mod,go.sum} "$here"/etcd/*.go; } | sha256sum | cut -c1-16)
programs=$cache/programs-$key
mkdir -p "$cache"
exec 8>"$cache/programs.lock"
flock 8
if [ ! -e "$programs.done" ]; then
	echo "building Kubernetes $version and etcd, which takes minutes the first time" >&2
	rm -rf "$cache"/programs-*
	(cd "$here" && go build -ldflags "$flags" -o "$programs/" tool) >&2
	touch "$programs.done"
	echo "built Kubernetes and etcd in $SECONDS s: $(du -sh "$programs" | cut -f1)" >&2
fi
echo "$programs"
