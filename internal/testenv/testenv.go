// Package testenv says what a test may expect of the machine that it runs on.
package testenv

import (
	"os"
	"testing"
)

// Skip skips the test with its reason on a person's machine. Where CI=true it fails the test: in CI nothing is left out.
func Skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("in CI this test must run, but: %s", reason)
	}
	t.Skip(reason)
}
