// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/status"
)

// openNode opens the page of a node with so many PFs of 16 VFs.
func openNode(t testing.TB, pfs int, l look) (*server, *tab) {
	t.Helper()
	s := startServer(t, node(pfs))
	p := open(t, s.url(), l)
	p.waitCount("#map .cell", 16*pfs)
	return s, p
}

func TestHeadlineSaysWhetherAllVFsAreOffered(t *testing.T) {
	s, p := openNode(t, 4, desktop)
	if got := p.text("#headline"); got != "All 64 VFs are offered" {
		t.Errorf("headline: %q", got)
	}
	if got := p.text("#problems"); got != "" {
		t.Errorf("problems: %q", got)
	}

	unbound := func(n int) status.VF {
		v := s.snapshot.VFs[n]
		v.State, v.Resource, v.Driver = status.StateSkipped, "", ""
		v.Reason = fmt.Sprintf("its IOMMU group %d cannot be used: %s in it is bound to nvme", n, v.PF)
		return v
	}
	removing := s.snapshot.VFs[63]
	removing.State, removing.Reason = status.StateSkipped, "it is being removed"
	s.update([]status.VF{unbound(1), unbound(2), removing})
	p.waitText("#headline", "3 of 64 VFs are not offered")
	want := "!\n2 VFs are not listed: its IOMMU group … cannot be used: … in it is bound to nvme\n" +
		s.snapshot.VFs[1].Address + "\n" + s.snapshot.VFs[2].Address + "\n" +
		"!\n1 VF is not listed: it is being removed\n" + removing.Address
	got := strings.Join(strings.FieldsFunc(p.text("#problems"), func(r rune) bool { return r == '\n' }), "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestHeadlineCountsOtherProblems(t *testing.T) {
	n := node(1)
	n.Resources[0].Phase, n.Resources[0].Err = status.PhaseFailed, "unsupported API version"
	n.Checks[1].Err = "qat.intel.com/cy is not registered"
	n.Loops[0].Uevents = "no uevent arrived within 1s"
	n.Provisioning = &status.Provisioning{Err: "a.yaml:3: unknown service \"syn\""}
	p := open(t, startServer(t, n).url(), desktop)
	p.waitText("#headline", "All 16 VFs are offered, and 4 problems need attention")
	for _, text := range []string{
		"Check kubelet fails: qat.intel.com/cy is not registered",
		"qat.intel.com/cy: registration refused: unsupported API version",
		"Kernel uevents may not arrive: no uevent arrived within 1s",
		"The provisioning configuration is not in force: a.yaml:3: unknown service \"syn\"",
	} {
		if got := p.text("#problems"); !strings.Contains(got, text) {
			t.Errorf("no %q in the problems:\n%s", text, got)
		}
	}
	if got := eval[string](p, "document.querySelector('#verdict').dataset.tone"); got != "bad" {
		t.Errorf("tone %q", got)
	}
}

func TestUnhealthyVFChangesItsCellAndGivesTheReason(t *testing.T) {
	s, p := openNode(t, 4, desktop)
	v := s.snapshot.VFs[5]
	look := fmt.Sprintf(`(() => {
		const cell = document.querySelector(%q);
		return getComputedStyle(cell).backgroundColor + " " + getComputedStyle(cell, "::before").content;
	})()`, cell(v.Address))
	before := eval[string](p, look)
	v.State, v.Reason = status.StateUnhealthy, "PCI error: BEGIN_RECOVERY"
	s.update([]status.VF{v})
	p.wait(fmt.Sprintf("document.querySelector(%q).dataset.state === 'unhealthy'", cell(v.Address)))
	after := eval[string](p, look)
	colour, mark, _ := strings.Cut(after, ") ")
	if colourBefore, _, _ := strings.Cut(before, ") "); colour == colourBefore || mark != `"!"` {
		t.Errorf("the cell was %s and is %s: it must have another colour and a mark", before, after)
	}
	want := "VF " + v.Address + ", unhealthy, PCI error: BEGIN_RECOVERY"
	if got := eval[string](p, fmt.Sprintf("document.querySelector(%q).ariaLabel", cell(v.Address))); got != want {
		t.Errorf("name of the cell: %q, want %q", got, want)
	}
	if got := p.text("#problems"); !strings.Contains(got, "1 VF is unhealthy: PCI error: BEGIN_RECOVERY") {
		t.Errorf("problems: %q", got)
	}
}

// A page that renders the whole map for one change is too slow on a host with 1024 VFs.
func TestOneChangedVFTouchesOneCell(t *testing.T) {
	s, p := openNode(t, 64, desktop)
	eval[bool](p, `(() => {
		window.touched = new Set();
		new MutationObserver((records) => {
			for (const r of records) touched.add(r.target.dataset.vf ?? r.target.className ?? r.target.nodeName);
		}).observe(document.querySelector("#map"), {
			subtree: true, childList: true, attributes: true, characterData: true,
		});
		return true;
	})()`)
	v := s.snapshot.VFs[500]
	v.State, v.Reason = status.StateUnhealthy, "test"
	s.update([]status.VF{v})
	p.wait(fmt.Sprintf("document.querySelector(%q).dataset.state === 'unhealthy'", cell(v.Address)))
	if diff := cmp.Diff([]string{v.Address}, eval[[]string](p, "[...touched]")); diff != "" {
		t.Errorf("touched elements of the map (-want +got):\n%s", diff)
	}
}

func TestMapFollowsVFsThatComeAndGo(t *testing.T) {
	s, p := openNode(t, 2, desktop)
	gone := s.snapshot.VFs[3]
	order := `[...document.querySelectorAll("#map .cell")].map((c) => c.dataset.vf)`
	before := eval[[]string](p, order)
	s.update(nil, gone.Address)
	p.wait(fmt.Sprintf("!document.querySelector(%q)", cell(gone.Address)))
	if got := p.text("#headline"); got != "All 31 VFs are offered" {
		t.Errorf("headline: %q", got)
	}
	s.update([]status.VF{gone})
	p.wait(fmt.Sprintf("document.querySelector(%q)", cell(gone.Address)))
	if diff := cmp.Diff(before, eval[[]string](p, order)); diff != "" {
		t.Errorf("order of the cells (-before +after):\n%s", diff)
	}

	var removed []string
	for _, v := range s.snapshot.VFs[16:] {
		removed = append(removed, v.Address)
	}
	s.update(nil, append(removed, s.snapshot.PFs[1].Address)...)
	p.waitCount("#map .pf", 1)
	p.waitCount("#map .numa", 1)
}

func TestFocusStaysInTheMapWhenItsVFGoes(t *testing.T) {
	s, p := openNode(t, 1, desktop)
	gone := s.snapshot.VFs[3].Address
	p.run(fmt.Sprintf("document.querySelector(%q).focus()", cell(gone)))
	s.update(nil, gone)
	p.wait(fmt.Sprintf("!document.querySelector(%q)", cell(gone)))
	if got, want := eval[string](p, "document.activeElement.dataset.vf"), s.snapshot.VFs[4].Address; got != want {
		t.Errorf("the focus is on %q, want %s", got, want)
	}
}

func TestDetailsOfAVFThatIsGone(t *testing.T) {
	s, p := openNode(t, 1, desktop)
	gone := s.snapshot.VFs[3].Address
	s.happen(status.Event{Kind: status.KindUevent, Action: "remove", Device: gone, Text: "gone"})
	p.click(cell(gone))
	s.update(nil, gone)
	p.wait("document.querySelector('#facts').innerText.includes('It does not exist.')")
	p.click("#details-close")
	p.click("#events button.address")
	p.waitText("#details-title", "VF "+gone)
	p.wait("document.querySelector('#history').innerText.includes('remove: gone')")
}

// In a guest there are VFs and no PFs. On a host, a PF can be read after its VFs.
func TestVFsWithoutTheirPF(t *testing.T) {
	n := node(1)
	pf := n.PFs[0]
	n.PFs, n.VFs = nil, n.VFs[:3]
	n.VFs[2].PF, n.VFs[2].NUMANode = "", -1
	s := startServer(t, n)
	p := open(t, s.url(), desktop)
	p.waitCount("#map .numa", 2)
	p.waitCount("#map h4 button:disabled", 2)
	s.send(status.MessageUpdate, status.Update{Time: time.Now(), PFs: []status.PF{pf}})
	p.waitCount("#map h4 button:disabled", 1)
	p.click("[data-pf='" + pf.Address + "']")
	p.waitText("#details-title", "PF "+pf.Address)
}

func TestDetailsOpenByKeyboard(t *testing.T) {
	s, p := openNode(t, 2, desktop)
	v := s.snapshot.VFs[1]
	v.Holder = "payments/proxy-1"
	s.update([]status.VF{v})
	p.wait(fmt.Sprintf("document.querySelector(%q).dataset.state === 'used'", cell(v.Address)))

	focused := func() string {
		return eval[string](p, `(({ dataset, id }) => dataset.vf ?? dataset.pf ?? id)(document.activeElement)`)
	}
	p.run("document.querySelector('#search').focus()")
	for range 10 { // the legend's buttons are before the map
		if p.press("Tab"); strings.HasPrefix(focused(), "0000:") {
			break
		}
	}
	for _, step := range []struct{ key, want string }{
		{"", "0000:10:00.1"}, // the first VF is in the tab order
		{"ArrowRight", v.Address},
		{"ArrowDown", "0000:10:01.2"}, // the second line has VFs 9 to 16
		{"ArrowUp", v.Address},
		{"ArrowUp", "0000:10:00.0"}, // its PF
		{"ArrowDown", "0000:10:00.1"},
		{"End", "0000:11:02.0"},
		{"Home", "0000:10:00.0"},
		{"ArrowDown", "0000:10:00.1"},
		{"ArrowRight", v.Address},
	} {
		if step.key != "" {
			p.press(step.key)
		}
		if got := focused(); got != step.want {
			t.Fatalf("key %q: the focus is on %s, want %s", step.key, got, step.want)
		}
	}
	if got := eval[int](p, `document.querySelectorAll('#map [tabindex="0"]').length`); got != 1 {
		t.Errorf("%d elements of the map are in the tab order, want 1", got)
	}

	p.press("Enter")
	p.wait("!document.querySelector('#details').hidden")
	if got := focused(); got != "details-title" {
		t.Errorf("the focus is on %s, want the title of the details", got)
	}
	details := p.text("#details")
	for _, text := range []string{
		v.Address, "In use", "payments/proxy-1", "cy", v.PF, "vfio-pci", v.Node, "102", "8086:4941",
	} {
		if !strings.Contains(details, text) {
			t.Errorf("no %q in the details:\n%s", text, details)
		}
	}
	v.State, v.Reason, v.Holder = status.StateUnhealthy, "the heartbeat failed", ""
	s.update([]status.VF{v})
	p.wait("document.querySelector('#facts').innerText.includes('the heartbeat failed')")
	p.press("Escape")
	p.wait("document.querySelector('#details').hidden")
	if got := focused(); got != v.Address {
		t.Errorf("after Escape, the focus is on %s, want %s", got, v.Address)
	}
}

func TestSearchFindsByAddressPodAndReason(t *testing.T) {
	s, p := openNode(t, 4, desktop)
	held, broken := s.snapshot.VFs[20], s.snapshot.VFs[40]
	held.Holder = "payments/proxy-1"
	broken.State, broken.Reason = status.StateSkipped, "no driver"
	s.update([]status.VF{held, broken})
	p.wait("document.querySelector('#problems').innerText.includes('no driver')")
	for _, c := range []struct {
		text, found string
		want        []string // nil: not compared
	}{
		{"payments", "1 VF", []string{held.Address}},
		{"DRIVER no", "1 VF", []string{broken.Address}},
		{s.snapshot.PFs[2].Address, "16 VFs", nil},
		{"group 103", "4 VFs", nil},
		{"nothing of this", "No match", []string{}},
		{"", "", nil},
	} {
		p.fill("#search", c.text)
		if got := p.text("#found"); got != c.found {
			t.Errorf("search for %q: found %q, want %q", c.text, got, c.found)
		}
		got := eval[[]string](p, `[...document.querySelectorAll("#map .pf:not(.out) .cell:not(.dim)")]
			.map((c) => c.dataset.vf)`)
		if diff := cmp.Diff(c.want, got); diff != "" && c.want != nil {
			t.Errorf("search for %q (-want +got):\n%s", c.text, diff)
		}
	}
	p.fill("#search", "payments")
	p.run("document.querySelector('#search').focus()")
	p.press("Enter")
	if got := eval[string](p, "document.activeElement.dataset.vf"); got != held.Address {
		t.Errorf("Enter in the search: the focus is on %q, want %s", got, held.Address)
	}
}

func TestEventsAreFilteredAndPaused(t *testing.T) {
	s, p := openNode(t, 1, desktop)
	v := s.snapshot.VFs[2]
	s.happen(status.Event{Kind: status.KindUevent, Action: "bind", Device: v.Address, Text: "listed"})
	s.happen(status.Event{Kind: status.KindChange, Resource: "qat.intel.com/cy", Device: v.Address, Text: "added"})
	s.happen(status.Event{Kind: status.KindList, Resource: "qat.intel.com/cy", Text: "16 devices", Seconds: 0.0015})
	kinds := `[...document.querySelectorAll("#events .kind")].map((k) => k.textContent).join()`
	p.wait(kinds + ` === "List,Change,Uevent"`)
	got := p.text("#events li:last-child")
	if !strings.Contains(got, "bind "+v.Address) || !strings.Contains(got, "listed") {
		t.Errorf("the uevent: %q", got)
	}
	if got := p.text("#events li:first-child"); !strings.Contains(got, "sent 1.5 ms after the event") {
		t.Errorf("the list: %q", got)
	}

	p.click("#kinds button")
	p.wait(kinds + ` === "Uevent"`)
	p.click("#kinds button")
	p.fill("#event-filter", "ADDED")
	p.wait(kinds + ` === "Change"`)
	p.fill("#event-filter", "")
	p.wait(kinds + ` === "List,Change,Uevent"`)

	p.click("#pause")
	s.happen(status.Event{Kind: status.KindResync, Text: "the socket overflowed"})
	p.wait("document.querySelector('#pause').textContent === 'Resume (1 new)'")
	if got := eval[string](p, kinds); got != "List,Change,Uevent" {
		t.Errorf("while paused, the events are %s", got)
	}
	p.click("#pause")
	p.wait(kinds + ` === "Resync,List,Change,Uevent"`)
}

// A change of all VFs of a PF is one row, also if its events arrive one after the other.
func TestEventsThatDifferInTheDeviceAreOneRow(t *testing.T) {
	s, p := openNode(t, 1, desktop)
	at := time.Now()
	change := func(vf, text string) {
		s.happen(status.Event{Kind: status.KindChange, Resource: "qat.intel.com/cy", Device: vf, Text: text, Time: at})
	}
	row := "document.querySelector('#events li:last-child .what').innerText"
	for i, v := range s.snapshot.VFs {
		if change(v.Address, "added"); i == 1 {
			p.wait(row + " === '0000:10:00.1 0000:10:00.2 cy added'")
		}
	}
	p.wait(row + " === '0000:10:00.1 0000:10:00.2 0000:10:00.3 0000:10:00.4 and 12 more cy added'")
	change("0000:10:00.1", "removed")
	p.waitCount("#events li", 2)
	if got := p.text("#events li:first-child .what"); got != "0000:10:00.1 cy removed" {
		t.Errorf("the row of the last event is %q", got)
	}
}

func TestPlots(t *testing.T) {
	s, p := openNode(t, 2, desktop)
	for i, seconds := range []float64{0.0002, 0.0004, 0.01} {
		at := time.Now().Add(-time.Duration(i) * time.Minute)
		s.happen(status.Event{Kind: status.KindList, Seconds: seconds, Time: at})
	}
	s.happen(status.Event{Kind: status.KindList}) // the first list of a stream, which no event led to
	s.happen(status.Event{Kind: status.KindList, Seconds: 5, Time: time.Now().Add(-time.Hour)})
	p.waitCount("#latency .dot", 3)
	want := "From an event until the list was sent to the kubelet: 3 lists, median 400 µs, longest 10 ms."
	if got := p.text("#latency-caption"); got != want {
		t.Errorf("caption of the latency: %q, want %q", got, want)
	}

	for _, percent := range []float64{10, 30} {
		s.send(status.MessageTelemetry, []status.Telemetry{
			busy(&s.snapshot.PFs[0], map[string]float64{"cpr": percent, "pke": 1, "ucs": 0}),
			busy(&s.snapshot.PFs[1], map[string]float64{"cpr": percent + 40}),
		})
	}
	p.waitCount("#utilization .line", 2)
	legend := strings.Join(strings.Fields(p.text("#utilization-legend")), " ")
	if want := "Compression 50% Public key 1%"; legend != want {
		t.Errorf("legend of the utilization: %q, want %q", legend, want)
	}
}

func TestServerEndsAndComesBack(t *testing.T) {
	s, p := openNode(t, 1, desktop)
	p.allowFailedRequests()
	s.happen(status.Event{Kind: status.KindResync, Text: "old"})
	p.waitCount("#events li", 1)
	s.stop()
	p.wait("/^Not connected since \\d\\d:\\d\\d:\\d\\d$/.test(document.querySelector('#connection').innerText)")
	p.wait("document.title.includes('not connected')")

	// The same process again, such as after a port-forward ended.
	s.happen(status.Event{Kind: status.KindResync, Text: "new"})
	s.start()
	p.wait("document.querySelector('#connection').innerText === 'Live'")
	p.waitCount("#events li", 2)

	// Another process, whose events have numbers from 1.
	s.stop()
	p.wait("document.querySelector('#connection').dataset.state === 'lost'")
	s.snapshot.Started, s.events = time.Now(), nil
	s.happen(status.Event{Kind: status.KindResync, Text: "of the new process"})
	s.start()
	p.wait("document.querySelector('#connection').dataset.state === 'live'")
	p.waitCount("#events li", 1)
	p.wait("document.querySelector('#events').innerText.includes('of the new process')")
}

// What the server sends is text and never markup.
func TestHostileText(t *testing.T) {
	const hostile = `<img src=x onerror="window.hacked = true"></script><b class=hacked>`
	n := node(2)
	n.Node, n.Version = hostile, hostile
	n.Checks = append(n.Checks, status.Check{Name: hostile, Err: hostile})
	n.Loops[0].Skipped = map[string]string{hostile: hostile}
	n.Resources = append(n.Resources, status.Resource{Name: hostile, Phase: hostile, Err: hostile})
	n.PFs[0].Health, n.PFs[0].Reason, n.PFs[0].Services, n.PFs[0].State = hostile, hostile, hostile, hostile
	n.VFs[0].State, n.VFs[0].Reason, n.VFs[0].Driver = status.StateUnhealthy, hostile, hostile
	n.VFs[1].Holder = hostile
	n.VFs[2].Address, n.VFs[2].PF = `0000:10:00.7"]`+hostile, hostile
	n.Provisioning = &status.Provisioning{
		File: hostile, Err: hostile, PFs: []status.ProvisionedPF{{Address: hostile, State: hostile, Reason: hostile}},
	}
	n.Counters.Uevents = map[string]map[string]uint64{hostile: {hostile: 1}}
	s := startServer(t, n)
	s.happen(status.Event{
		Kind: hostile, Action: hostile, Device: hostile, Resource: hostile, Devices: []string{hostile},
		Text: hostile, Err: hostile,
	})
	p := open(t, s.url(), desktop)
	p.waitCount("#map .cell", 32)
	p.waitCount("#events li", 1)
	for _, v := range n.VFs[:3] {
		p.run(fmt.Sprintf(`[...document.querySelectorAll("#map .cell")].find((c) => c.dataset.vf === %q).click()`,
			v.Address))
		p.waitText("#details-title", "VF "+v.Address)
	}
	s.send(status.MessageTelemetry, []status.Telemetry{busy(&n.PFs[0], map[string]float64{hostile: 3})})
	p.wait("document.querySelector('#utilization-legend').innerText.includes('onerror')")
	if got := eval[int](p, "document.querySelectorAll('img, .hacked').length"); got != 0 {
		t.Errorf("%d elements were made from text", got)
	}
	if eval[bool](p, "'hacked' in window") {
		t.Error("a script ran that was in a text")
	}
	if got := eval[int](p, "document.body.innerText.split('onerror').length"); got < 20 {
		t.Errorf("the page shows only %d of the texts", got)
	}
	got := eval[string](p, `(() => {
		try { document.body.innerHTML = "<b>x</b>"; return "none"; } catch (e) { return e.name; }
	})()`)
	if got != "TypeError" {
		t.Errorf("error of an insertion of HTML: %s, want a TypeError by Trusted Types", got)
	}
	p.forget("TrustedHTML")
}

func TestModeKernel(t *testing.T) {
	n := node(0)
	n.Mode = "kernel"
	n.Processes = []status.Process{
		{ID: "SHIM_dev0_0", Resource: "cy1_dc0", Health: status.Healthy},
		{ID: "SHIM_dev0_1", Resource: "cy1_dc0", Health: status.Unhealthy, Reason: "qat_dev0 is down"},
	}
	s := startServer(t, n)
	p := open(t, s.url(), desktop)
	p.waitText("#headline", "1 of 2 process units is not offered")
	if got := p.text("#problems"); !strings.Contains(got, "1 process unit is unhealthy: qat_dev0 is down") {
		t.Errorf("problems: %q", got)
	}
	p.waitCount("#map .cell[data-state=unhealthy]", 1)
	p.click(cell("SHIM_dev0_1"))
	p.waitText("#details-title", "Process unit SHIM_dev0_1")

	n.Processes[1].Health, n.Processes[1].Reason = status.Healthy, ""
	s.send(status.MessageUpdate, status.Update{Time: time.Now(), Processes: n.Processes[1:]})
	p.waitText("#headline", "The only process unit is offered")
	p.waitCount("#map .cell", 1)
}

func TestDRADriver(t *testing.T) {
	n := node(1)
	n.Resources = nil
	n.VFs[2].Holder = "default/web"
	n.DRA = &status.DRA{
		Driver: "qat.intel.com", Pool: "worker-1", Devices: 16, Healthy: 16, Registered: true,
		Runtime: "containerd://2.4.2",
		Slices:  []status.ResourceSlice{{Name: "worker-1-qat.intel.com-0", Devices: 16}},
		Claims: []status.Claim{{
			Name: "default/web", UID: "1-2", Prepared: time.Now(),
			Devices: []status.ClaimDevice{
				{Address: n.VFs[2].Address}, {Address: n.VFs[3].Address, AdminAccess: true},
			},
		}},
	}
	s := startServer(t, n)
	p := open(t, s.url(), desktop)
	p.waitText("#subline", "The API server has 16 devices in 1 ResourceSlice of this node.")
	p.waitCount("#slice-rows tr", 1)
	p.waitCount("#claim-rows tr", 1)
	for _, text := range []string{n.VFs[2].Address + ", " + n.VFs[3].Address + " (admin)", "default/web"} {
		if got := p.text("#claims"); !strings.Contains(got, text) {
			t.Errorf("no %q in the claims:\n%s", text, got)
		}
	}
	got := p.text("#pool-facts")
	if !strings.Contains(got, "16 of 16 healthy") || !strings.Contains(got, "containerd") {
		t.Errorf("facts: %q", got)
	}
	if !eval[bool](p, "document.querySelector('#resources-section').hidden") {
		t.Error("the page has resources")
	}
	if got := p.text("#about"); !strings.Contains(got, "QAT DRA driver") {
		t.Errorf("about: %q", got)
	}

	later := *n.DRA
	later.PublishErr, later.Claims, later.Gone = "no answer", []status.Claim{}, 1
	s.send(status.MessageUpdate, status.Update{Time: time.Now(), DRA: &later})
	p.waitText("#subline", "The API server does not have the newest state of all devices.")
	p.waitCount("#claim-rows tr", 0)
	if got := p.text("#problems"); !strings.Contains(got, "Claims hold 1 VF that the host has lost") {
		t.Errorf("problems: %q", got)
	}

	s.happen(status.Event{Kind: status.KindPublished, Text: "Tree 7", Seconds: 0.003})
	p.waitCount("#latency .dot", 1)
	if got := p.text("#latency-caption"); !strings.Contains(got, "until the API server had its effect") {
		t.Errorf("caption of the latencies: %q", got)
	}
}

// A screen reader hears a change, and one summary of many changes.
func TestChangesAreAnnounced(t *testing.T) {
	s, p := openNode(t, 4, desktop)
	p.run(`(() => {
		window.heard = [];
		new MutationObserver(() => heard.push(document.querySelector("#announcer").textContent))
			.observe(document.querySelector("#announcer"), { childList: true, characterData: true, subtree: true });
	})()`)
	v := s.snapshot.VFs[0]
	v.State, v.Reason = status.StateUnhealthy, "test"
	s.update([]status.VF{v})
	want := "VF " + v.Address + ": unhealthy, test. 1 of 64 VFs is not offered."
	p.wait(fmt.Sprintf("heard.join(' ') === %q", want))
	for _, v := range s.snapshot.VFs[1:31] {
		v.State, v.Reason = status.StateUnhealthy, "test"
		s.update([]status.VF{v})
	}
	p.wait("heard.at(-1).endsWith(' changes. 31 of 64 VFs are not offered.')")
	if got := eval[[]string](p, "heard"); len(got) > 4 {
		t.Errorf("%d announcements for 31 changes: %q", len(got), got)
	}
}
