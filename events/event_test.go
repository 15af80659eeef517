// SPDX-License-Identifier: Apache-2.0

package events

import "testing"

func TestActionString(t *testing.T) {
	for action, want := range map[Action]string{
		0:          "unknown",
		Add:        "add",
		Remove:     "remove",
		Change:     "change",
		Move:       "move",
		Online:     "online",
		Offline:    "offline",
		Bind:       "bind",
		Unbind:     "unbind",
		Create:     "create",
		Write:      "write",
		Delete:     "delete",
		Delete + 1: "unknown",
	} {
		if got := action.String(); got != want {
			t.Errorf("Action(%d) is %q, want %q", action, got, want)
		}
	}
}
