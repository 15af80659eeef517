// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"flag"
	"fmt"
	"io"
	"os"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/klog/v2"

	"qatplugin/test/kubelet/devicemanager"
)

// errNoNamespace is why this machine cannot give the tests a /var/lib/kubelet of their own, or nil.
// TestMain sets it.
var errNoNamespace error

func TestMain(m *testing.M) {
	logs := flag.Bool("kubelet-logs", false, "show the logs of the device manager and of the plugin, at verbosity 4")
	flag.Parse()
	code, again, err := devicemanager.RunIsolated()
	if again {
		os.Exit(code)
	}
	errNoNamespace = err
	if err := setLogs(*logs); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// setLogs shows or discards the logs.
func setLogs(show bool) error {
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	values := map[string]string{"logtostderr": "false", "stderrthreshold": "FATAL"}
	if show {
		values = map[string]string{"v": "4"}
	} else {
		klog.SetOutput(io.Discard)
	}
	for name, value := range values {
		if err := flags.Set(name, value); err != nil {
			return fmt.Errorf("set the flag -%s of klog: %w", name, err)
		}
	}
	return nil
}
