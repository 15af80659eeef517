// SPDX-License-Identifier: Apache-2.0

package monitoring

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

const (
	top       = "../.." // the project's directory
	rulesFile = top + "/deployments/monitoring/rules.yaml"
	testsFile = "rules_test.yaml"
	page      = top + "/docs/monitoring.md"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, elements ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elements...))
	must(t, err)
	return string(text)
}
