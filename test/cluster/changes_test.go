package cluster

import (
	"testing"
	"time"

	"qatplugin/internal/lookalike"
)

func TestTheNodeFollowsTheHostWhileAPodRuns(t *testing.T) {
	n := openNode(t)
	h := startHost(t)
	h.add(cyPF, "sym;asym")
	in := n.install("qat_plugin/overlays/debug", h.paths())
	in.ready()
	n.offers(map[string]int64{cy: 16})
	w := n.ask("runs", cy, 1)
	free := ""
	for _, vf := range h.VFs(cyPF) {
		if vf != w.got.Env["QAT0"] {
			free = vf
		}
	}

	for _, step := range []struct {
		what     string
		do       func() error
		resource string
		count    int
	}{
		{"a PF with 16 VFs is plugged in", func() error { h.add(dcPF, "dc"); return nil }, dc, 16},
		{"a VF that nobody has goes", func() error { return h.RemoveVF(free) }, cy, 15},
		{"the VF is back", func() error { return h.AddVF(lookalike.VF{Address: free, PF: cyPF}) }, cy, 16},
		{"all VFs of a PF go", func() error { return h.SetVFs(dcPF, 0) }, dc, 0},
		{"they are back", func() error { return h.SetVFs(dcPF, 16) }, dc, 16},
		{"the PF goes", func() error { return h.RemovePF(dcPF) }, dc, 0},
	} {
		began := time.Now()
		must(t, step.do())
		done := time.Now()
		seen := n.offers(map[string]int64{step.resource: int64(step.count)})
		sent := in.sent(step.resource, step.count, began)
		t.Logf("%-30s the host took %7.1f ms; then the list was sent after %6.1f ms, and the Node had it after %6.1f ms", step.what,
			ms(done.Sub(began)), ms(sent.Sub(done)), ms(seen.Sub(done)))
	}
	w.untouched("changes of the host")
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
