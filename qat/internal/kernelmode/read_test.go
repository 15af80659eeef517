// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"os"
	"path/filepath"
	"testing"
)

func TestIsCoprocessor(t *testing.T) {
	r := &reader{sysfs: t.TempDir()}
	a := address(t, addressA)
	dir := filepath.Join(r.sysfs, "bus/pci/devices", addressA)
	must(t, os.MkdirAll(dir, 0o755))
	for _, test := range []struct {
		vendor, class string
		want          bool
	}{
		{"0x8086", "0x0b4000", true},
		{"0x8087", "0x0b4000", false},
		{"0x8086", "0x020000", false},
		{"0x8086", "", false},
	} {
		must(t, os.WriteFile(filepath.Join(dir, "vendor"), []byte(test.vendor+"\n"), 0o600))
		must(t, os.WriteFile(filepath.Join(dir, "class"), []byte(test.class+"\n"), 0o600))
		if got := r.isCoprocessor(a); got != test.want {
			t.Errorf("vendor %s, class %s: got %v", test.vendor, test.class, got)
		}
	}
	must(t, os.RemoveAll(dir))
	if r.isCoprocessor(a) {
		t.Error("a function that does not exist is a co-processor")
	}
}
