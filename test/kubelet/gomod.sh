#!/bin/bash
# gomod.sh [VERSION]: brings go.mod and go.sum of this module up to date.
#
# Without VERSION: after a change of the main module's go.mod, or of this module's imports.
# With VERSION (such as 1.36.3): for another release of Kubernetes. k8s.io/kubernetes is made for use as a program: it requires its own
# modules (k8s.io/api and so on) at v0.0.0, and each must be replaced by the release of the same number.
set -euo pipefail
cd "$(dirname "$0")"
if [ $# -gt 0 ]; then
	version=$1 module=v0.${1#1.}
	dir=$(cd / && go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
	{
		printf 'module qatplugin/test/kubelet\n\ngo 1.26.0\n\nrequire (\n\tqatplugin v0.0.0\n\tk8s.io/kubernetes v%s\n)\n\nreplace (\n\tqatplugin => ../..\n' "$version"
		grep -oE '^\s+k8s\.io/[a-z0-9-]+( v0\.0\.0$| =>)' "$dir/go.mod" | awk '{print $1}' | sort -u | sed "s#.*#\t& => & $module#"
		printf ')\n'
	} >go.mod
	: >go.sum
fi
go mod tidy
