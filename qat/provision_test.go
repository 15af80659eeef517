// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"qatplugin/internal/lookalike"
)

// provisioned makes a Config that provisions PFs by a configuration, and returns a function that
// changes it the way the kubelet changes a ConfigMap mount: it exchanges the link ..data.
func provisioned(t testing.TB, yaml string) (config Config, change func(yaml string)) {
	t.Helper()
	dir := t.TempDir()
	version := 0
	change = func(yaml string) {
		t.Helper()
		version++
		data := "..v" + string(rune('0'+version))
		must(t, os.Mkdir(filepath.Join(dir, data), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, data, "qat.yaml"), []byte(yaml), 0o600))
		must(t, os.Symlink(data, filepath.Join(dir, "..tmp")))
		must(t, os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")))
	}
	change(yaml)
	must(t, os.Symlink("..data/qat.yaml", filepath.Join(dir, "qat.yaml")))
	return Config{ProvisioningDir: dir}, change
}

// eventually waits until a condition of the host holds. The plugin need not publish a Tree for it.
func (r *running) eventually(condition func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(timeout); !condition(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("after %v the host is not as it should be", timeout)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestProvisioningCreatesAndBindsVFs(t *testing.T) {
	h := newHost(t) // with pfA for sym;asym
	must(t, h.AddPF(lookalike.PF{Address: pfB, Services: "dc"}))
	must(t, h.LoadDriver("c6xxvf"))
	config, _ := provisioned(t, "rules:\n- services: [sym, asym]\n  vfs: all\n")
	r := start(t, h, config)
	var a, b []string
	r.eventually(func() bool {
		a, b = h.VFs(pfA), h.VFs(pfB)
		return len(a) == 16 && len(b) == 16
	})
	r.becomes(map[string][]string{"cy": slices.Concat(a, b)})
}
