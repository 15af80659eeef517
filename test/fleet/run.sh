#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: test/fleet/run.sh fleet|bench-dra [ARGUMENT...]
#
# Measures fleets of nodes and writes the results into docs/scale.md, or measures one driver and
# writes the results into docs/performance.md. The arguments are flags of the program fleet or
# drabench: `fleet -sizes 10,100` measures these fleets.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
target=${1:?fleet or bench-dra}
shift
programs=$(test/cluster/programs.sh)
export CGO_ENABLED=0
case $target in
fleet)
	go -C test/fleet build -buildvcs=false -o ../../bin/fleet .
	exec bin/fleet -programs "$programs" -doc docs/scale.md "$@"
	;;
bench-dra)
	make -s build
	go -C test/fleet build -buildvcs=false -ldflags "-s -w" -o ../../bin/ ./drabench ./helperdriver
	exec bin/drabench -programs "$programs" -driver bin/qat_dra_driver -helper bin/helperdriver -doc docs/performance.md "$@"
	;;
*)
	echo "fleet: unknown command $target: must be fleet or bench-dra" >&2
	exit 2
	;;
esac
