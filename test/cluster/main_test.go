// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("CLUSTER_TOP") == "" {
		// The second line makes `go test` print "[no tests to run]" after its "ok", even
		// without -v.
		fmt.Println("not on the node of the test cluster: run make e2e-cluster\n" +
			"testing: warning: no tests to run")
		return
	}
	goleak.VerifyTestMain(m)
}

// timeout is for any step of a test. Only a broken test reaches it.
const timeout = 90 * time.Second

// poll calls check until it returns nil. It fails the test if check still returns an
// error after timeout.
func poll(t *testing.T, check func() error) {
	t.Helper()
	err := check()
	for end := time.Now().Add(timeout); err != nil; err = check() {
		if time.Now().After(end) {
			t.Fatalf("after %v: %v", timeout, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, elements ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elements...))
	must(t, err)
	return string(text)
}

// projectFile returns the path of a file or directory of the project.
func projectFile(elements ...string) string {
	return filepath.Join(append([]string{os.Getenv("CLUSTER_TOP")}, elements...)...)
}

// ms returns a duration in milliseconds.
func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
