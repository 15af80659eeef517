#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: test/cluster/gomod.sh [VERSION]
#
# Brings go.mod and go.sum of this module up to date: without VERSION after a change of the main
# module's go.mod or of this module's imports, with VERSION, such as 1.36.3, for another release of
# Kubernetes and the etcd that belongs to it.
#
# k8s.io/kubernetes is not meant to be imported. It requires its own modules, such as k8s.io/api, at
# v0.0.0, and each of them has to be replaced by the release with the same number.
set -euo pipefail
cd "$(dirname "$0")"
if [ $# -gt 0 ]; then
	version=$1 module=v0.${1#1.}
	gomod=$(cd / && go mod download -json "k8s.io/kubernetes@v$version" | sed -n 's/.*"GoMod": "\(.*\)".*/\1/p')
	etcd=$(awk '$1 == "go.etcd.io/etcd/client/v3" { print $2; exit }' "$gomod")
	{
		printf 'module qatplugin/test/cluster\n\ngo 1.26.0\n\ntool (\n\tqatplugin/test/cluster/etcd\n'
		for program in kube-apiserver kube-controller-manager kube-scheduler kubectl kubelet; do
			printf '\tk8s.io/kubernetes/cmd/%s\n' $program
		done
		printf ')\n\nrequire (\n\tgo.etcd.io/etcd/server/v3 %s\n\tk8s.io/kubernetes v%s\n\tqatplugin v0.0.0\n)\n\n' \
			"$etcd" "$version"
		printf 'replace (\n\tqatplugin => ../..\n'
		grep -oE '^\s+k8s\.io/[a-z0-9-]+( v0\.0\.0$| =>)' "$gomod" |
			awk '{print $1}' | sort -u | sed "s#.*#\t& => & $module#"
		printf ')\n'
	} >go.mod
	: >go.sum
fi
go mod tidy
