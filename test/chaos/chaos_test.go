// SPDX-License-Identifier: Apache-2.0

package chaos

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"qatplugin/internal/testenv"
)

// fault breaks something, checks what must hold meanwhile, and repairs it.
type fault struct {
	name string
	run  func(t *testing.T, r *rig)
	fuse bool // it needs r.odd
}

func TestFaults(t *testing.T) {
	if errNoNamespace != nil {
		testenv.Skip(t, errNoNamespace.Error())
	}
	r := newRig(t)
	defer func() { r.plugin.kill() }()
	var err error
	if r.odd, err = mountOddFiles(t); err != nil {
		t.Run("files that never answer", func(t *testing.T) { testenv.Skip(t, err.Error()) })
	}
	r.checkWorks(t)
	time.Sleep(2 * healthInterval) // the first heartbeat opens files that stay open
	r.before = r.plugin.usage()
	auditor := r.startAuditor()

	list := faults()
	rand.New(rand.NewPCG(*seed, 0)).Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	var order []string
	for _, f := range list {
		order = append(order, f.name)
	}
	t.Logf("seed %d: %s", *seed, strings.Join(order, ", "))
	for _, f := range list {
		if f.fuse && r.odd == nil || !strings.Contains(f.name, *only) {
			continue
		}
		ok := t.Run(f.name, func(t *testing.T) {
			f.run(t, r)
			r.checkRecovered(t)
		})
		if !ok {
			t.FailNow() // later faults would fail for the same reason
		}
	}
	r.checkGrowth(t)
	eventually(t, recoverTimeout, "an audit", func() string {
		if log := auditor.text(); !strings.Contains(log, "Audited the host") {
			return log
		}
		return ""
	})
	auditor.terminate()
	if log := auditor.text(); strings.Contains(log, "Drift:") {
		t.Errorf("audits found changes that no event had reported:\n%s", log)
	}
}

// maxGrowth is by how much the plugin's resident memory may be above that at the start, in KiB.
const maxGrowth = 64 << 10

// checkGrowth ends the plugin and compares its memory and its goroutines.
func (r *rig) checkGrowth(t *testing.T) {
	after := r.plugin.usage()
	t.Logf("at the start: %s; at the end: %s", r.before, after)
	if after.resident > r.before.resident+maxGrowth {
		t.Errorf("resident memory grew from %d to %d KiB", r.before.resident, after.resident)
	}
	old := r.plugin.goroutines()
	r.startPlugin()
	r.checkWorks(t)
	fresh := r.plugin.goroutines()
	if len(old) > len(fresh)+16 {
		t.Errorf("%d goroutines, an instance that just started has %d:\n%s",
			len(old), len(fresh), strings.Join(old, "\n\n"))
	}
}
