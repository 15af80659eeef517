// SPDX-License-Identifier: Apache-2.0

// Package testenv helps tests that depend on the machine they run on, or on other programs.
package testenv

import (
	"os"
	"testing"
)

// Skip skips the test for a reason that lies in the machine. With CI=true it fails the test
// instead: in CI, every test must run.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("must not be skipped in CI: %s", reason)
	}
	t.Skip(reason)
}
