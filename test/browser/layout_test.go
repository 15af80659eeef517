// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"archive/tar"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"

	"qatplugin/internal/status"
	"qatplugin/internal/testenv"
)

// looks are the looks in which a page is checked.
func looks() map[string]look {
	night, nightPhone := desktop, phone
	night.dark, nightPhone.dark = true, true
	return map[string]look{
		"desktop": desktop, "desktop, dark": night, "phone": phone, "phone, dark": nightPhone,
		"tablet": {width: 820, height: 1100, scale: 1, touch: true}, "wide": {width: 2560, height: 1300, scale: 1},
	}
}

// brokenNode returns a node that has everything that the page can show, with long names.
func brokenNode() *status.Snapshot {
	n := node(4)
	long := strings.Repeat("a_long_name_", 12) // a browser does not break it
	n.Node = long
	n.Checks[1].Err = "rpc error: code = Unavailable desc = " + long
	n.Resources[0].Err = long
	n.PFs[1].Health, n.PFs[1].Reason = status.Unhealthy, "the heartbeat failed "+long
	for i := range n.VFs[:20] {
		v := &n.VFs[i]
		switch i % 5 {
		case 0:
			v.Holder = "namespace/" + long
		case 1:
			v.State, v.Reason = status.StateUnhealthy, "PCI error "+long
		case 2:
			v.State, v.Reason = status.StateSkipped, "no driver"
		case 3:
			v.State, v.Reason = status.StateBinding, "it waits for its node"
		}
	}
	n.Provisioning = &status.Provisioning{
		File: "/etc/" + long, Err: long,
		PFs: []status.ProvisionedPF{
			{Address: n.PFs[0].Address, Rule: long + ":4", State: status.ProvisioningWaiting, Reason: long},
		},
	}
	return n
}

// openBroken opens the page of brokenNode, with events, telemetry, and the details of a VF.
func openBroken(t testing.TB, l look) (*server, *tab) {
	t.Helper()
	n := brokenNode()
	s := startServer(t, n)
	name, long := n.Resources[0].Name, strings.Repeat("x", 200)
	s.happen(status.Event{Kind: status.KindUevent, Action: "bind", Device: n.VFs[0].Address, Text: "listed"})
	s.happen(status.Event{Kind: status.KindList, Resource: name, Text: "64 devices", Seconds: 0.001})
	s.happen(status.Event{Kind: status.KindKubelet, Resource: name, Text: "refused", Err: long})
	l.still = true
	p := open(t, s.url(), l)
	p.waitCount("#map .cell", 64)
	p.waitCount("#events li", 3)
	for range 2 {
		s.send(status.MessageTelemetry, []status.Telemetry{busy(&n.PFs[0], map[string]float64{"cpr": 40, "pke": 10})})
	}
	p.waitCount("#utilization .line", 2)
	p.run("document.querySelector('#counters').closest('details').open = true")
	p.click(cell(n.VFs[1].Address))
	p.wait("!document.querySelector('#details').hidden")
	return s, p
}

func TestNothingOverflowsTheWindow(t *testing.T) {
	for name, l := range looks() {
		t.Run(name, func(t *testing.T) {
			_, p := openBroken(t, l)
			// On a phone, innerWidth grows with a page that is too wide.
			wide := eval[[]string](p, fmt.Sprintf(`[...document.querySelectorAll("body *")]
				.filter((e) => e.checkVisibility() && !e.closest(".scroll-x, .skip, .unseen, svg, .meta")
					&& (e.getBoundingClientRect().right > %d + 0.5 || e.getBoundingClientRect().left < -0.5))
				.map((e) => e.outerHTML.slice(0, 120))`, l.width))
			if len(wide) > 0 {
				t.Errorf("%d elements are outside of the window, such as %s", len(wide), wide[0])
			}
			if got := eval[int64](p, "document.scrollingElement.scrollWidth") - l.width; got > 0 {
				t.Errorf("the page is %d pixels wider than the window", got)
			}
		})
	}
}

func TestDarkModeHasADarkPage(t *testing.T) {
	lightness := func(l look) int {
		_, p := openNode(t, 1, l)
		return eval[int](p, `getComputedStyle(document.body).backgroundColor.match(/\d+/g)
			.slice(0, 3).reduce((n, v) => n + Number(v), 0)`)
	}
	night := desktop
	night.dark = true
	if light, dark := lightness(desktop), lightness(night); light < 600 || dark > 150 {
		t.Errorf("sum of the background's colours: %d in light mode, %d in dark mode", light, dark)
	}
}

func TestReducedMotionHasNoAnimations(t *testing.T) {
	for _, still := range []bool{false, true} {
		l := desktop
		l.still = still
		s, p := openNode(t, 1, l)
		v := s.snapshot.VFs[0]
		v.State = status.StateUnhealthy
		s.update([]status.VF{v})
		p.wait(fmt.Sprintf("document.querySelector(%q).classList.contains('changed')", cell(v.Address)))
		if got := eval[int](p, "document.getAnimations().length"); (got == 0) != still {
			t.Errorf("prefers-reduced-motion %t: %d animations", still, got)
		}
	}
}

// Paper is white, also for a browser in dark mode.
func TestPrintHasAllAndNoControls(t *testing.T) {
	sheet := look{width: 794, height: 1123, scale: 1, dark: true}
	s, p := openBroken(t, sheet)
	for n := range 40 {
		s.happen(status.Event{Kind: status.KindResync, Text: fmt.Sprint(n)})
	}
	p.waitCount("#events li", 43)
	call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Media: "print", Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: "dark"}},
	})
	for _, selector := range []string{"#search", "#pause", "#kinds", "footer"} {
		if eval[bool](p, fmt.Sprintf("document.querySelector(%q).checkVisibility()", selector)) {
			t.Errorf("%s is printed", selector)
		}
	}
	for _, selector := range []string{"#headline", "#problems", "#map .cell", "#events li", "#latency"} {
		if !eval[bool](p, fmt.Sprintf("document.querySelector(%q).checkVisibility()", selector)) {
			t.Errorf("%s is not printed", selector)
		}
	}
	p.run("window.list = document.querySelector('.scroll-y')")
	if hidden := eval[int](p, "list.scrollHeight - list.clientHeight"); hidden > 0 {
		t.Errorf("%d pixels of the events are not printed", hidden)
	}
	const white = "rgb(255, 255, 255)"
	got := eval[string](p, "getComputedStyle(document.querySelector('#verdict')).backgroundColor")
	if got != white {
		t.Errorf("the background is printed in %s, want %s", got, white)
	}
}

// axeVersion is the version of axe-core, Deque's accessibility checker, from the npm registry.
const axeVersion = "4.14.1"

// axe returns the script of axe-core.
func axe(t testing.TB) string {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		testenv.Skip(t, "no npm to download axe-core: install Node.js")
	}
	dir := t.TempDir()
	cmd := exec.Command("npm", "pack", "--silent", "axe-core@"+axeVersion)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("npm pack axe-core: %v\n%s", err, out)
	}
	file, err := os.Open(filepath.Join(dir, "axe-core-"+axeVersion+".tgz"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unzipped, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(unzipped); ; {
		header, err := archive.Next()
		if err != nil {
			t.Fatalf("find axe.min.js in the package: %v", err)
		}
		if header.Name == "package/axe.min.js" {
			script, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			return string(script)
		}
	}
}

func TestAccessibility(t *testing.T) {
	script := axe(t)
	check := func(t *testing.T, p *tab) {
		p.run(script)
		found := eval[[]json.RawMessage](p, `axe.run({
			runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
		}).then((result) => result.violations.flatMap((v) => v.nodes.map((n) => (
			{ rule: v.id, target: n.target.join(" "), why: n.failureSummary }
		))))`)
		for _, violation := range found {
			t.Errorf("%s", violation)
		}
		// axe-core cannot judge everything. It must have judged something.
		if got := eval[int](p, `axe.run().then((result) => result.passes.length)`); got < 20 {
			t.Errorf("axe-core has checked only %d rules", got)
		}
	}
	for name, l := range looks() {
		t.Run(name, func(t *testing.T) {
			s, p := openBroken(t, l)
			check(t, p)
			p.allowFailedRequests()
			s.stop()
			p.wait("document.querySelector('#connection').dataset.state === 'lost'")
			check(t, p)
		})
	}
	t.Run("without devices", func(t *testing.T) {
		_, p := openNode(t, 0, desktop)
		check(t, p)
	})
}
