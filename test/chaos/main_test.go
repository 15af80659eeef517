// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"qatplugin/internal/testenv"
)

var (
	seed = flag.Uint64("seed", 1, "decides the order of the faults")
	only = flag.String("fault", "", "run only the faults whose names contain this")
)

// errNoNamespace is why this machine cannot isolate the tests, or nil. TestMain sets it.
var errNoNamespace error

// program is the path of the plugin. TestMain sets it.
var program string

func TestMain(m *testing.M) {
	flag.Parse()
	code, again, err := testenv.RunInNamespaces(unix.CLONE_NEWNS | unix.CLONE_NEWNET)
	if again {
		os.Exit(code)
	}
	if errNoNamespace = err; err == nil {
		errNoNamespace = loopbackUp()
	}
	dir, err := os.MkdirTemp("", "qat-chaos-")
	if err == nil {
		program, err = build(dir)
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// build builds the plugin, with the race detector if the test has it.
func build(dir string) (path string, err error) {
	path = filepath.Join(dir, "qat_plugin")
	// In a checkout that belongs to another user, git refuses to run and -buildvcs would fail.
	args := []string{"build", "-buildvcs=false", "-tags=grpcnotrace", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/qat_plugin")...)
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the plugin: %w\n%s", err, out)
	}
	return path, nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
