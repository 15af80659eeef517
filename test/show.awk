# Of what `go test -v` says, shows a line for each package that passed, and of one that did not, what its failed tests said.
#
# Output belongs to the top-level test that was named last; it is held until that test, or its package, is over.

function keep(line) {
	if (!(test in said)) order[++tests] = test
	said[test] = said[test] line "\n"
}

function show(   i) {
	for (i = 1; i <= tests; i++) printf "%s", said[order[i]]
	forget()
}

function forget() {
	split("", said)
	split("", order)
	tests = 0
	test = ""
}

/^=== (RUN|PAUSE|CONT|NAME) / { test = $3; sub(/\/.*/, "", test); next }
/^--- (PASS|SKIP): / { said[$3] = ""; test = ""; next }
/^--- FAIL: / { test = $3; keep($0); next }
/^ +--- (PASS|SKIP): / || /^(PASS|FAIL)$/ || /no test files\]$/ { next }
/^ok / { forget(); print; fflush(); next }
/^FAIL\t/ { show(); print; fflush(); next }
{ keep($0) }
END { show() }
