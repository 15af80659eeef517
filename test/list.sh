#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: test/list.sh Benchmark|Fuzz
#
# Lists the benchmarks or fuzz targets of the main module, one per line: directory and name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
grep -rE --include='*_test.go' --exclude-dir=kubelet --exclude-dir=.git \
	"^func ${1:?Benchmark or Fuzz}[A-Z][A-Za-z0-9_]*\(" . |
	sed -E 's#^(.*)/[^/]*:func ([A-Za-z0-9_]+).*#\1 \2#' | sort
