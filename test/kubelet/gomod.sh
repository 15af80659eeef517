#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: test/kubelet/gomod.sh [VERSION]
#
# Brings go.mod and go.sum of this module up to date: without VERSION after a change of the main
# module's go.mod or of this module's imports, with VERSION, such as 1.36.3, for another release of
# Kubernetes.
#
# k8s.io/kubernetes is not meant to be imported. It requires its own modules, such as k8s.io/api, at
# v0.0.0, and each of them has to be replaced by the release with the same number.
set -euo pipefail
cd "$(dirname "$0")"
if [ $# -gt 0 ]; then
	version=$1 module=v0.${1#1.}
	dir=$(cd / && go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
	{
		printf 'module qatplugin/test/kubelet\n\ngo 1.26.0\n\n'
		printf 'require (\n\tqatplugin v0.0.0\n\tk8s.io/kubernetes v%s\n)\n\n' "$version"
		printf 'replace (\n\tqatplugin => ../..\n'
		grep -oE '^\s+k8s\.io/[a-z0-9-]+( v0\.0\.0$| =>)' "$dir/go.mod" |
			awk '{print $1}' | sort -u | sed "s#.*#\t& => & $module#"
		printf ')\n'
	} >go.mod
	: >go.sum
fi
go mod tidy
