package deployments

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// top is the project's directory, and manifests that of what is tested.
const (
	top       = "../.."
	manifests = top + "/deployments"
)

var update = flag.Bool("update", false, "write testdata anew, from what is rendered now")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func readFile(t testing.TB, elements ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elements...))
	must(t, err)
	return text
}
