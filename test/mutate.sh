#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Usage: test/mutate.sh [PACKAGE...]
#
# Mutation testing: changes the code in one place at a time, such as < to <=, and runs the tests
# of its package. A change that no test notices shows what the tests do not check. PACKAGE is a
# pattern of go list, such as ./events or ./qat/...; without one, all packages of the product
# are tested.
#
# It prints each mutant that survived, timed out or is not covered by a test, and at the end,
# for each package:
#
#   killed    a test failed
#   survived  all tests passed
#   uncovered no test executes the code
#   timeout   the tests ran for five times as long as they normally take: they hung, or the machine
#             was busy
#   score     killed, in percent of killed, survived and uncovered
#
# Mutants that do not compile are not counted. A package takes about as long as its tests, times
# the number of mutants, divided by the number of CPUs. The machine should be idle otherwise.
# The exit status says only whether the tool ran: survivors are to be read, not to be brought to
# zero.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

gremlins=$(go tool -modfile=tools/go.mod -n gremlins)
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT

# Gremlins takes exit status 1 of go test for a killed mutant. go test ends with 1 also when the
# code does not compile, as after "a" + "b" became "a" - "b". The go that gremlins finds in PATH
# ends with 2 then, which it takes for a mutant that is not viable.
mkdir "$state/bin"
cat >"$state/bin/go" <<END
#!/bin/bash
[ "\$1" = test ] || exec "$(command -v go)" "\$@"
output=\$("$(command -v go)" "\$@" 2>&1)
status=\$?
echo "\$output"
! grep -qE '^FAIL.*\[(build|setup) failed\]' <<<"\$output" || exit 2
exit \$status
END
chmod +x "$state/bin/go"

# -count=1: a result from the cache would be no measure of how long the tests take. -vet=off:
# what vet dislikes in a mutant is not what a test noticed.
export PATH=$state/bin:$PATH GOFLAGS="$(go env GOFLAGS) -buildvcs=false -count=1 -vet=off"

if [ $# -gt 0 ]; then
	packages=$(go list -f '{{.Dir}}' "$@")
else
	packages=$(go list -f '{{.Dir}}' ./... |
		grep -vE "^$PWD/(internal/(arch|docs|lookalike|testenv)|test|examples|cmd/qat_demo|kubeletapi/kubelettest)(/|\$)")
fi

printf '%-24s %7s %9s %10s %8s %6s %6s\n' package killed survived uncovered timeout score time >"$state/summary"
for dir in $packages; do
	package=${dir#"$PWD/"} began=$SECONDS
	echo "== $package"
	# -E: the packages below it are tested apart.
	if ! "$gremlins" unleash "./$package" -E / --timeout-coefficient 5 --invert-logical --invert-loopctrl \
		--output-statuses lct >"$state/output"; then
		cat "$state/output"
		printf '%-24s failed: do its tests pass?\n' "$package" >>"$state/summary"
		continue
	fi
	awk -v package="$package" '/ at [^ ]+:[0-9]+:[0-9]+$/ { sub(/ at /, " at " package "/"); print }' "$state/output"
	awk -v package="$package" -v took=$((SECONDS - began)) '
		/Killed: / { gsub(/[^0-9,]/, ""); split($0, n, ","); killed = n[1]; survived = n[2]; uncovered = n[3] }
		/Timed out: / { gsub(/[^0-9,]/, ""); split($0, n, ","); timeout = n[1] }
		END {
			all = killed + survived + uncovered
			score = all ? sprintf("%d%%", 100 * killed / all) : "-"
			printf "%-24s %7d %9d %10d %8d %6s %5ds\n", package, killed, survived, uncovered, timeout, score, took
		}' "$state/output" >>"$state/summary"
done

echo "== summary"
cat "$state/summary"
