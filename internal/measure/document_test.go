// SPDX-License-Identifier: Apache-2.0

package measure

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	Child()
	goleak.VerifyTestMain(m)
}

func TestResultsReplaceThePartBetweenTheMarkers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.md")
	begin, end := markers("bench-compare")
	if err := os.WriteFile(file, []byte("a\n"+begin+"old\n"+end+"b\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"first\n", "second\n"} {
		if err := ReplaceResults(file, "bench-compare", text); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if want := "a\n" + begin + "\nsecond\n\n" + end + "b\n"; err != nil || string(got) != want {
		t.Errorf("the file holds %q, want %q", got, want)
	}
	if err := os.WriteFile(file, []byte("a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ReplaceResults(file, "bench-observed", "x"); err == nil {
		t.Error("ReplaceResults accepts a file without the markers of its target")
	}
}
