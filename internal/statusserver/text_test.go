// SPDX-License-Identifier: Apache-2.0

package statusserver

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"qatplugin/internal/status"
)

var exampleTime = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func before(d time.Duration) *time.Time {
	at := exampleTime.Add(-d)
	return &at
}

// example returns a snapshot of a host with many problems.
func example() *status.Snapshot {
	reason := "its PF 0000:6b:00.0 is down"
	return &status.Snapshot{
		Time: exampleTime, Started: exampleTime.Add(-27 * time.Hour), Version: "v1.2.3", Mode: "dpdk", Node: "worker-1",
		Checks: []status.Check{{Name: "event-loop"}, {Name: "registered", Err: "kubelet.sock not found in /x"}},
		Loops: []status.Loop{{
			Name: "devices", Complete: true, MayMissEvents: true, Uevents: "no uevents reach this process",
			NextAudit: before(-30 * time.Second),
			Skipped:   map[string]string{"0000:6b:00.3": "hidden by -max-num-devices=2"},
		}},
		Resources: []status.Resource{{
			Name: "qat.intel.com/cy", Devices: 2, Phase: status.PhaseIdle, LastList: before(90 * time.Second),
		}},
		PFs: []status.PF{{
			Address: "0000:6b:00.0", Family: "4xxx", Driver: "4xxx", NUMANode: 0, State: "down", Services: "sym;asym",
			Resource: "cy", VFs: 3, TotalVFs: 16, Health: status.Unhealthy, Reason: "it is down",
			Heartbeat: status.Heartbeat{Last: "good", LastAt: before(5 * time.Second), Good: 7, Failed: 1},
		}},
		VFs: []status.VF{
			{
				Address: "0000:6b:00.1", PF: "0000:6b:00.0", Family: "4xxx", Driver: "vfio-pci", NUMANode: -1,
				IOMMUGroup: group(12), Node: "/dev/vfio/12", State: status.StateUnhealthy, Resource: "cy",
				Reason: reason, Holder: "app/web",
			},
			{Address: "0000:6b:00.2", PF: "0000:6b:00.0", State: status.StateListed, Resource: "cy"},
			{Address: "0000:6b:00.4", PF: "0000:6b:00.0", Family: "4xxx", State: status.StateUnhealthy, Reason: reason},
		},
		Counters: status.Counters{
			Uevents: map[string]map[string]uint64{"add": {"pci": 3}, "bind": {"pci": 2}}, Dropped: 5, Overflows: 1,
			Rejected: 2, Malformed: 1,
			Loops: map[string]status.LoopCounters{"devices": {Turns: 9, Resyncs: 1}},
			Binds: map[string]uint64{"bound": 2, "failed": 1},
		},
	}
}

var exampleEvents = []status.Event{
	{Time: *before(3 * time.Hour), Kind: status.KindResync, Loop: "devices", Text: "the socket's buffer was full"},
	{Time: *before(2 * time.Hour), Kind: status.KindChange, Resource: "cy", Device: "0000:6b:00.1", Text: "added"},
	{
		Time: *before(time.Minute), Kind: status.KindAllocation, Resource: "qat.intel.com/cy",
		Err: "0000:6b:00.1 has gone",
	},
	{
		Time: *before(time.Second), Kind: status.KindKubelet, Resource: "qat.intel.com/cy",
		Text: "the registration failed", Err: "refused",
	},
}

// TestProblemsComeFirst shows all sections. Its expectation was written by hand from the example.
func TestProblemsComeFirst(t *testing.T) {
	const want = `QAT device plugin v1.2.3, mode dpdk, node worker-1
2026-03-04T05:06:07Z, up for 1d3h

PROBLEMS
  check registered                   kubelet.sock not found in /x
  kernel uevents                     no uevents reach this process
  PF 0000:6b:00.0                    it is down
  2 VFs: 0000:6b:00.1, 0000:6b:00.4  its PF 0000:6b:00.0 is down

NOT LISTED
  0000:6b:00.3  hidden by -max-num-devices=2

PAST FAILURES
  WHEN      WHAT        OF                REASON
  1s ago    kubelet     qat.intel.com/cy  the registration failed: refused
  1m0s ago  allocation  qat.intel.com/cy  0000:6b:00.1 has gone
  3h0m ago  resync      devices           the socket's buffer was full

RESOURCES
  NAME              DEVICES  HEALTHY  KUBELET  STREAMS  LISTS  LAST LIST  ALLOCATED  FAILED CALLS
  qat.intel.com/cy  2        0        idle     0        0      1m30s ago  0          0

PFS
  ADDRESS       FAMILY  DRIVER  NUMA  STATE  SERVICES  RESOURCE  VFS      HEALTH     HEARTBEAT
  0000:6b:00.0  4xxx    4xxx    0     down   sym;asym  cy        3 of 16  unhealthy  good 5s ago, 7 good, 1 failed

VFS
  ADDRESS       PF            DRIVER    NUMA  NODE          STATE      RESOURCE  HOLDER   REASON
  0000:6b:00.1  0000:6b:00.0  vfio-pci  -     /dev/vfio/12  unhealthy  cy        app/web  its PF 0000:6b:00.0 is down
  0000:6b:00.2  0000:6b:00.0  -         0     -             listed     cy
  0000:6b:00.4  0000:6b:00.0  -         0     -             unhealthy  -         -        its PF 0000:6b:00.0 is down

EVENT LOOPS
  NAME     COMPLETE  MISSES EVENTS  NEXT AUDIT  TURNS  RESYNCS  AUDITS  DRIFT
  devices  yes       yes            in 30s      9      1        0       0

SINCE THE START
  uevents            5: 3 pci add, 2 pci bind
  uevents dropped    5, in 1 overflows of the buffer
  messages rejected  2 not of the kernel, 1 malformed
  inotify events     0
  attempts to bind   2 bound, 1 failed
`
	var text bytes.Buffer
	writeText(&text, example(), exampleEvents)
	if diff := cmp.Diff(want, text.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTextOfAHealthyHostNamesNoProblem(t *testing.T) {
	var text bytes.Buffer
	writeText(&text, &status.Snapshot{
		Checks:       []status.Check{{Name: "registered"}},
		PFs:          []status.PF{{Address: "0000:6b:00.0", Health: status.Healthy}},
		VFs:          []status.VF{{Address: "0000:6b:00.1", State: status.StateListed}},
		Processes:    []status.Process{{ID: "SSL_dev0_0", Health: status.Healthy}},
		Provisioning: &status.Provisioning{PFs: []status.ProvisionedPF{{State: status.ProvisioningDone}}},
	}, []status.Event{{Kind: status.KindList}})
	if !strings.Contains(text.String(), "\nNo problems.\n") || strings.Contains(text.String(), "PROBLEMS") ||
		strings.Contains(text.String(), "FAILURES") {
		t.Errorf("the text names problems:\n%s", &text)
	}
}

func TestSkippedDevicesAreNamedByReason(t *testing.T) {
	var text bytes.Buffer
	writeText(&text, &status.Snapshot{Loops: []status.Loop{{
		Skipped: map[string]string{"A": "off", "B": "off", "C": "off", "D": "on"},
	}}}, nil)
	const want = "NOT LISTED\n  D                           on\n  3 devices: A, B and 1 more  off\n\n"
	if !strings.Contains(text.String(), want) {
		t.Errorf("no %q in:\n%s", want, &text)
	}
}

func TestEachProblemIsNamed(t *testing.T) {
	for _, tt := range []struct {
		snapshot status.Snapshot
		want     string
	}{
		{status.Snapshot{Loops: []status.Loop{{Name: "devices", Err: "stuck"}}}, "  loop devices  stuck\n"},
		{status.Snapshot{Resources: []status.Resource{{Name: "q/cy", Err: "refused"}}}, "  resource q/cy  refused\n"},
		{status.Snapshot{PFs: []status.PF{{Address: "A", Health: status.Unhealthy}}}, "  PF A  unhealthy\n"},
		{status.Snapshot{PFs: []status.PF{{Address: "A", Health: status.Healthy, ReadErr: "EIO"}}}, "  PF A  EIO\n"},
		{
			status.Snapshot{PFs: []status.PF{{Address: "A", Health: status.Healthy, Withdrawn: "it is provisioned"}}},
			"  PF A  it is provisioned\n",
		},
		{
			status.Snapshot{Processes: []status.Process{{ID: "SSL_dev0_0", Health: status.Unhealthy, Reason: "down"}}},
			"  process SSL_dev0_0  down\n",
		},
		{status.Snapshot{Provisioning: &status.Provisioning{Err: "line 3"}}, "  provisioning  line 3\n"},
		{
			status.Snapshot{Provisioning: &status.Provisioning{PFs: []status.ProvisionedPF{
				{Address: "A", State: status.ProvisioningWaiting, Reason: "pod x/y holds B"},
			}}},
			"  PF A  provisioning is waiting: pod x/y holds B\n",
		},
	} {
		var text bytes.Buffer
		writeText(&text, &tt.snapshot, nil)
		if !strings.Contains(text.String(), "\nPROBLEMS\n"+tt.want) {
			t.Errorf("no %q in:\n%s", tt.want, &text)
		}
	}
}

func TestOnlyTheNewestFailuresAreNamed(t *testing.T) {
	var events []status.Event
	for range maxFailures + 5 {
		events = append(events, status.Event{Kind: status.KindDrift, Device: "old"})
	}
	for range maxFailures {
		events = append(events, status.Event{Kind: status.KindDrift, Device: "new"})
	}
	var text bytes.Buffer
	writeText(&text, &status.Snapshot{}, events)
	if old, got := strings.Count(text.String(), " old"), strings.Count(text.String(), " new"); old != 0 || got != 10 {
		t.Errorf("%d old failures and %d new ones, want 0 and 10:\n%s", old, got, &text)
	}
}

func TestDurationsHaveTwoUnits(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:                  "0s",
		1500 * time.Millisecond:       "1s",
		59 * time.Second:              "59s",
		61 * time.Second:              "1m1s",
		time.Hour + 2*time.Minute:     "1h2m",
		23*time.Hour + 59*time.Minute: "23h59m",
		26 * time.Hour:                "1d2h",
	} {
		if got := duration(d); got != want {
			t.Errorf("duration(%v) = %s, want %s", d, got, want)
		}
	}
}

// TestDRADriverShowsItsPool shows the sections of a DRA driver. Its expectation was written by
// hand.
func TestDRADriverShowsItsPool(t *testing.T) {
	s := &status.Snapshot{
		Time: exampleTime, Started: exampleTime.Add(-time.Minute), Version: "v1.2.3", Mode: "dpdk", Node: "worker-1",
		Checks: []status.Check{{Name: "published", Err: "the API server does not answer"}},
		DRA: &status.DRA{
			Driver: "qat.intel.com", Pool: "worker-1", Devices: 3, Healthy: 1, Gone: 1, Registered: true,
			Skipped: []string{"0000_6b_00.1 has the name of another device"}, Runtime: "containerd://2.4.2",
			Slices: []status.ResourceSlice{{
				Name: "worker-1-qat.intel.com-0", Devices: 3, Tainted: 2, Generation: 1,
				Written: before(5 * time.Second),
			}},
			Claims: []status.Claim{{
				Name: "app/web", UID: "1-2", Prepared: *before(time.Minute),
				Devices: []status.ClaimDevice{{Address: "0000:6b:00.1"}, {Address: "0000:6b:00.2", AdminAccess: true}},
			}},
		},
	}
	const want = `QAT DRA driver v1.2.3, node worker-1
2026-03-04T05:06:07Z, up for 1m0s

PROBLEMS
  check published  the API server does not answer
  pool worker-1    0000_6b_00.1 has the name of another device
  pool worker-1    devices that claims hold and the host has lost: 1

POOL
  NAME      DRIVER         DEVICES  HEALTHY  GONE  KUBELET     RUNTIME
  worker-1  qat.intel.com  3        1        1     registered  containerd://2.4.2

RESOURCE SLICES
  NAME                      DEVICES  TAINTED  GENERATION  LAST WRITE
  worker-1-qat.intel.com-0  3        2        1           5s ago

CLAIMS
  NAME     PREPARED  VFS
  app/web  1m0s ago  0000:6b:00.1 0000:6b:00.2 (admin)

EVENT LOOPS
`
	var got strings.Builder
	writeText(&got, s, nil)
	if begin, _, _ := strings.Cut(got.String(), "  NAME  COMPLETE"); begin != want {
		t.Errorf("(-want +got):\n%s", cmp.Diff(want, begin))
	}
}
