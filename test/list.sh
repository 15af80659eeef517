#!/bin/bash
# test/list.sh Benchmark|Fuzz: the main module's benchmarks or fuzz targets, a line each: its folder and its name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
grep -rE --include='*_test.go' --exclude-dir=kubelet --exclude-dir=.git "^func ${1:?Benchmark or Fuzz}[A-Z][A-Za-z0-9_]*\(" . |
	sed -E 's#^(.*)/[^/]*:func ([A-Za-z0-9_]+).*#\1 \2#' | sort
