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

// noNamespace says why this machine gives the tests no /var/lib/kubelet of their own; nil where it does. TestMain sets it once.
var noNamespace error

func TestMain(m *testing.M) {
	logs := flag.Bool("kubelet-logs", false, "show what the device manager and the plugin log (with a klog verbosity of 4)")
	flag.Parse()
	code, again, err := devicemanager.RunIsolated()
	if again {
		os.Exit(code)
	}
	noNamespace = err
	if err := setLogs(*logs); err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

// setLogs shows all logs or none: those of a hundred restarts hide what a test says.
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
			return fmt.Errorf("set klog's flag %s: %w", name, err)
		}
	}
	return nil
}
