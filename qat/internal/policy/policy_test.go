// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"testing"
)

func TestCheckAcceptsKnownPolicies(t *testing.T) {
	for _, name := range append(Names(), string(None)) {
		if err := Policy(name).Check(); err != nil {
			t.Error(err)
		}
	}
}

func TestCheckNamesTheAllowedPolicies(t *testing.T) {
	for _, name := range []string{"none", "Balanced", "packed ", "balanced,packed"} {
		want := fmt.Sprintf("invalid allocation policy %q: must be balanced or packed", name)
		if err := Policy(name).Check(); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}
