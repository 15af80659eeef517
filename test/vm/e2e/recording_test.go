// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/statusclient"
	"qatplugin/qat"
)

// recorderSocket is the status socket of a plugin whose recording a test replays.
const recorderSocket = "/run/status.sock"

// checkRecording replays the recording of the node's plugin, which must serve recorderSocket. Each
// decision must be the recorded one, and the lists after the last one those that the host should
// lead to.
func (n *node) checkRecording(t *testing.T) {
	t.Helper()
	var text bytes.Buffer
	start := monotonic()
	if err := statusclient.NewSocket(recorderSocket).WriteRecording(t.Context(), &text); err != nil {
		t.Fatal(err)
	}
	size := text.Len()
	replayed, err := qat.Replay(&text)
	if err != nil {
		t.Fatal(err)
	}
	last := replayed.Recordings[len(replayed.Recordings)-1]
	t.Logf("recording of %d bytes with %d events and steps, replayed in %s", size, len(last.Entries),
		ms(monotonic()-start))
	if len(last.Differences) > 0 {
		t.Errorf("the replay differs:\n%s", strings.Join(last.Differences, "\n"))
	}
	got := deviceLists{}
	for resource := range last.Tree.Resources() {
		for d := range resource.Devices() {
			numaNode := "-1"
			if len(d.NUMANodes) > 0 {
				numaNode = strings.Trim(fmt.Sprint(d.NUMANodes), "[]")
			}
			name := "qat.intel.com/" + resource.Name()
			got[name] = append(got[name], formatDevice(d.ID, numaNode, string(d.Health)))
		}
	}
	if diff := cmp.Diff(hostLists(t), got.sort()); diff != "" {
		t.Errorf("lists after the replay (-host +replay):\n%s", diff)
	}
}
