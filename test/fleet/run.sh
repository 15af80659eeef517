#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: test/fleet/run.sh [ARGUMENT...]
#
# Measures fleets of nodes and writes the results into docs/scale.md. The arguments are flags of the
# program fleet: -sizes 10,100 measures these fleets.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
programs=$(test/cluster/programs.sh)
go -C test/fleet build -buildvcs=false -o ../../bin/fleet .
exec bin/fleet -programs "$programs" -doc docs/scale.md "$@"
