// SPDX-License-Identifier: Apache-2.0

package program

import (
	"slices"
	"testing"

	"qatplugin/internal/testlog"
	"qatplugin/qat"
)

func TestEventsAreNotReportedWithoutWhatTheyNeed(t *testing.T) {
	inPod := map[string]string{"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
	tests := map[string]struct {
		env  map[string]string
		node string
		want string
	}{
		"outside of a pod": {
			node: "worker-1",
			want: "not in a pod: KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT are not set",
		},
		"on an unknown node": {env: inPod, want: "the name of the node is unknown: NODE_NAME is not set"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			log := testlog.Capture(t)
			v := &view{server: Server{Options: &Options{QAT: qat.Config{NodeName: test.node}}}}
			reportEvents(t.Context(), v, func(name string) string { return test.env[name] })
			want := `"Not reporting Kubernetes Events" err="` + test.want + `"`
			if lines := log(); !slices.Equal(lines, []string{want}) {
				t.Errorf("log %q, want %q", lines, want)
			}
		})
	}
}
