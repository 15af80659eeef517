# SPDX-License-Identifier: Apache-2.0
#
# Filters the output of go test -v: one line for each package that passes, and for a package that
# fails the output of its failed tests.
#
# A line of output belongs to the top-level test that was named last. It is held back until that
# test, or its package, has ended.

function keep(line) {
	if (!(test in output)) order[++tests] = test
	output[test] = output[test] line "\n"
}

function show(   i) {
	for (i = 1; i <= tests; i++) printf "%s", output[order[i]]
	forget()
}

function forget() {
	split("", output)
	split("", order)
	tests = 0
	test = ""
}

/^=== (RUN|PAUSE|CONT|NAME) / { test = $3; sub(/\/.*/, "", test); next }
/^--- (PASS|SKIP): / { output[$3] = ""; test = ""; next }
/^--- FAIL: / { test = $3; keep($0); next }
/^ +--- (PASS|SKIP): / || /^(PASS|FAIL)$/ || /no test files\]$/ { next }
/^ok / { forget(); print; fflush(); next }
/^FAIL\t/ { show(); print; fflush(); next }
{ keep($0) }
END { show() }
