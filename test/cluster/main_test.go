package cluster

import (
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv("CLUSTER_TOP") == "" {
		// The second line makes `go test` show "[no tests to run]" behind its "ok", even without -v: nothing is passed over in silence.
		fmt.Println("not on the test's node: run make e2e-cluster\ntesting: warning: no tests to run")
		return
	}
	goleak.VerifyTestMain(m)
}
