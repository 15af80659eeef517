// SPDX-License-Identifier: Apache-2.0

package program

import (
	"fmt"
	"io"
	"testing"

	"k8s.io/klog/v2"
)

// parse parses the flags that each program has.
func parse(args ...string) (*Options, error) {
	defer klog.CaptureState().Restore()
	o := DefaultOptions("/none/status.sock")
	return &o, o.Parse(o.NewFlagSet("x"), args, "x", io.Discard)
}

func TestAddressOfTheProbesCannotBeThatOfTheStatus(t *testing.T) {
	for _, tt := range []struct {
		health, http string
		same         bool
	}{
		{":8081", ":8081", true},
		{":8081", "127.0.0.1:8081", true},
		{"[::]:8081", "127.0.0.1:8081", true},
		{"127.0.0.1:8081", "127.0.0.1:8081", true},
		{"127.0.0.1:8081", "127.0.0.2:8081", false},
		{":8081", ":8080", false},
		{":0", ":0", false},
		{"", ":8081", false},
		{":8081", "", false},
		{"", "", false},
	} {
		_, err := parse("-health-address="+tt.health, "-http-address="+tt.http)
		want := fmt.Sprintf("-http-address: invalid value %q: must differ from -health-address; "+
			"without -health-address, /livez and /readyz are also served at -http-address", tt.http)
		if tt.same && (err == nil || err.Error() != want) || !tt.same && err != nil {
			t.Errorf("%q and %q: error %v, want one: %v", tt.health, tt.http, err, tt.same)
		}
	}
}

func TestTextFlagsAreRefusedWithJSON(t *testing.T) {
	for flag, want := range map[string]string{
		"-log_file=/tmp/x":    "-log_file has no effect with -logging-format=json: leave it out",
		"-skip_headers":       "-skip_headers has no effect with -logging-format=json: leave it out",
		"-logtostderr=true":   "",
		"-v=3":                "",
		"-vmodule=loop=4":     "",
		"-logging-format=yes": `-logging-format: invalid value "yes": must be text or json`,
	} {
		_, err := parse("-logging-format=json", flag)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if text != want {
			t.Errorf("%s: error %q, want %q", flag, text, want)
		}
		if _, err := parse("-log_file=", "-skip_headers=false", "-v=0", "-vmodule="); err != nil {
			t.Error(err)
		}
	}
}
