// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	resourcev1 "k8s.io/api/resource/v1"

	"qatplugin/devtree"
	"qatplugin/internal/apitest"
	"qatplugin/internal/nodelock"
	"qatplugin/internal/program"
	"qatplugin/internal/status"
	"qatplugin/internal/testlog"
	"qatplugin/qat"
)

// TestClaimGetsVFsOfTheHost takes a VF from the kernel to a container and back.
func TestClaimGetsVFsOfTheHost(t *testing.T) {
	r := newRig(t)
	r.start("-v=2")
	r.awaitReady()
	r.addVFs(3)
	r.awaitDevices(3)
	d := r.devices()["0000-6b-00-1"]
	for name, want := range map[resourcev1.QualifiedName]any{
		"resource.kubernetes.io/pciBusID": "0000:6b:00.1",
		"pfAddress":                       pf,
		"family":                          "4xxx",
		"resource":                        "cy",
		"sym":                             true,
		"dc":                              false,
	} {
		a := d.Attributes[name]
		var got any
		switch {
		case a.StringValue != nil:
			got = *a.StringValue
		case a.BoolValue != nil:
			got = *a.BoolValue
		}
		if got != want {
			t.Errorf("attribute %s is %v, want %v", name, got, want)
		}
	}

	r.awaitRegistered(1)
	claim := r.allocate("web", "0000-6b-00-2", "0000-6b-00-1")
	devices, err := r.prepare(claim)
	must(t, err)
	env, nodes := r.edits(devices)
	want := []string{
		"QAT0=0000:6b:00.2", "QAT1=0000:6b:00.1", "QAT_0000_6b_00_1=0000:6b:00.1", "QAT_0000_6b_00_2=0000:6b:00.2",
	}
	slices.Sort(env)
	if diff := cmp.Diff(want, env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	if !slices.Contains(nodes, "/dev/vfio/vfio") || len(nodes) != 3 {
		t.Errorf("device nodes %q, want two groups and /dev/vfio/vfio", nodes)
	}

	s := r.snapshot()
	if s.DRA == nil || len(s.DRA.Claims) != 1 || s.DRA.Claims[0].Name != "default/web" || s.DRA.Devices != 3 ||
		s.DRA.Pool != node || len(s.DRA.Slices) != 1 || s.DRA.Slices[0].Devices != 3 {
		t.Errorf("status %+v", s.DRA)
	}
	holders := map[string]string{}
	for _, v := range s.VFs {
		holders[v.Address] = v.Holder
	}
	wantHolders := map[string]string{
		"0000:6b:00.1": "default/web", "0000:6b:00.2": "default/web", "0000:6b:00.3": "",
	}
	if diff := cmp.Diff(wantHolders, holders); diff != "" {
		t.Errorf("holders (-want +got):\n%s", diff)
	}
	if _, body := r.get("/metrics"); !strings.Contains(body, "\nqat_dra_claimed_devices 2\n") ||
		!strings.Contains(body, "\nqat_dra_prepares_total{result=\"success\"} 1\n") ||
		!strings.Contains(body, "\nqat_dra_slice_writes_total{operation=\"create\"} 1\n") {
		t.Errorf("metrics:\n%s", body)
	}
	r.unprepare(claim)
	if s := r.snapshot(); len(s.DRA.Claims) != 0 {
		t.Errorf("claims after unprepare: %+v", s.DRA.Claims)
	}
	var kinds []string
	for _, e := range events(r) {
		if !slices.Contains(kinds, e) {
			kinds = append(kinds, e)
		}
	}
	for _, kind := range []string{status.KindSlice, status.KindPublished, status.KindClaim, status.KindKubelet} {
		if !slices.Contains(kinds, kind) {
			t.Errorf("no event of the kind %s in %q", kind, kinds)
		}
	}

	r.stop()
	if len(r.devices()) != 3 {
		t.Error("the slices are gone after the end of the driver: its successor must find them")
	}
	if _, err := os.Stat(r.socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the status socket is left behind: %v", err)
	}
}

// events returns the kinds of the events in the journal.
func events(r *rig) (kinds []string) {
	_, body := r.get("/events?types=event&follow=false&last=1000")
	for line := range strings.Lines(body) {
		if _, rest, ok := strings.Cut(line, `"kind":"`); ok {
			kind, _, _ := strings.Cut(rest, `"`)
			kinds = append(kinds, kind)
		}
	}
	return kinds
}

// TestUnhealthyVFsHaveTaints fails the heartbeat of a PF, with each effect of taints.
func TestUnhealthyVFsHaveTaints(t *testing.T) {
	for _, effect := range []string{noSchedule, noExecute} {
		t.Run(effect, func(t *testing.T) {
			r := newRig(t)
			r.addVFs(2)
			r.start("-health-interval=1s", "-unhealthy-taint-effect", effect)
			r.awaitDevices(2)
			r.awaitRegistered(1)
			r.await("good heartbeat", func() bool { return r.snapshot().PFs[0].Heartbeat.Good > 0 })
			must(t, r.host.SetHeartbeat(pf, "-1"))
			taints := func() []resourcev1.DeviceTaint { return r.devices()["0000-6b-00-1"].Taints }
			r.await("taint", func() bool { return len(taints()) > 0 })
			taint := taints()[0]
			if len(taints()) != 1 || taint.Key != driver+"/unhealthy" || taint.Value != "heartbeat" ||
				string(taint.Effect) != effect {
				t.Errorf("taints %+v", taints())
			}
			_, err := r.prepare(r.allocate("web", "0000-6b-00-1"))
			if err == nil || !strings.Contains(err.Error(), "failed its heartbeat") {
				t.Errorf("prepare of an unhealthy VF: error %v", err)
			}
			must(t, r.host.SetHeartbeat(pf, "0"))
			r.await("end of the taints", func() bool { return len(taints()) == 0 })
		})
	}
}

// A VF is read again before a container gets it, unless the claim has admin access.
func TestVFThatIsGoneIsNotPrepared(t *testing.T) {
	qatPlugin, err := qat.New(qat.Config{SysfsRoot: t.TempDir(), DevRoot: t.TempDir()})
	must(t, err)
	p := &plugin{Plugin: qatPlugin}
	claim := claimOf("vf", "0000:6b:00.1")
	if err := p.Prepare(t.Context(), claim); !errors.Is(err, devtree.ErrGone) {
		t.Errorf("error %v, want %v", err, devtree.ErrGone)
	}
	claim.Devices[0].AdminAccess = true
	if err := p.Prepare(t.Context(), claim); err != nil || claim.Devices[0].Edits.Env["QAT0"] != "0000:6b:00.1" {
		t.Errorf("with admin access: %v, edits %+v", err, claim.Devices[0].Edits)
	}
}

func TestAPIServerThatIsAwayEndsNothing(t *testing.T) {
	r := newRig(t)
	r.addVFs(2)
	r.api.Fail(func(*apitest.Request) *apitest.Fault { return &apitest.Fault{Code: http.StatusServiceUnavailable} })
	r.start()
	r.await("failing check", func() bool { return r.notReady("[-]published failed: ") })
	if code, body := r.get("/livez"); code != 200 {
		t.Errorf("/livez without an API server: %d %s", code, body)
	}
	if s := r.snapshot(); s.DRA.PublishErr == "" {
		t.Errorf("status %+v", s.DRA)
	}
	r.api.Fail(nil)
	r.awaitReady()
	r.awaitDevices(2)
}

// The kubelet deletes all slices of its Node when it starts.
func TestSlicesReturnAfterTheKubeletHasDeletedThem(t *testing.T) {
	r := newRig(t)
	r.addVFs(2)
	r.start()
	r.awaitDevices(2)
	r.kubelet.Stop()
	r.api.DeleteSlices(node)
	must(t, r.kubelet.Restart())
	r.awaitDevices(2)
	r.awaitRegistered(1)
	r.awaitReady()
}

// A successor finds the claims of its predecessor.
func TestClaimsSurviveARestart(t *testing.T) {
	r := newRig(t)
	r.addVFs(2)
	r.start()
	r.awaitDevices(2)
	r.awaitRegistered(1)
	claim := r.allocate("web", "0000-6b-00-1")
	before, err := r.prepare(claim)
	must(t, err)
	r.stop()
	r.awaitRegistered(0)
	writes := len(r.api.Writes())
	r.start()
	r.awaitReady()
	r.awaitRegistered(1)
	if s := r.snapshot(); len(s.DRA.Claims) != 1 || s.DRA.Claims[0].Name != "default/web" {
		t.Errorf("claims %+v", s.DRA.Claims)
	}
	after, err := r.prepare(claim)
	must(t, err)
	if before[0].GetCdiDeviceIds()[0] != after[0].GetCdiDeviceIds()[0] {
		t.Errorf("devices %v, want %v", after, before)
	}
	if _, err := r.prepare(r.allocate("other", "0000-6b-00-1")); err == nil ||
		!strings.Contains(err.Error(), "default/web") {
		t.Errorf("a VF of another claim: error %v", err)
	}
	if n := len(r.api.Writes()); n != writes {
		t.Errorf("%d writes to the API server after the restart, though nothing has changed", n-writes)
	}
}

// Under a limit, the VFs that claims hold get their places first after a restart.
func TestVFsOfClaimsKeepTheirPlaces(t *testing.T) {
	r := newRig(t)
	r.addVFs(3)
	r.start()
	r.awaitDevices(3)
	r.awaitRegistered(1)
	_, err := r.prepare(r.allocate("web", "0000-6b-00-3"))
	must(t, err)
	r.stop()
	r.start("-max-num-devices=1")
	r.awaitReady()
	r.awaitDevices(1)
	if _, kept := r.devices()["0000-6b-00-3"]; !kept {
		t.Errorf("devices %v, want the VF that a claim holds", slices.Collect(maps.Keys(r.devices())))
	}
}

// A PF whose VFs claims hold is only changed when they are unprepared. It also waits for some
// seconds after that, as package provision tests.
func TestProvisioningWaitsForClaims(t *testing.T) {
	r := newRig(t)
	r.addVFs(2)
	rules := t.TempDir()
	r.start("-provisioning-dir", rules)
	r.awaitDevices(2)
	r.awaitRegistered(1)
	claim := r.allocate("web", "0000-6b-00-2")
	_, err := r.prepare(claim)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(rules, "qat.yaml"), []byte("rules:\n- services: [dc]\n"), 0o600))
	waiting := func() string {
		if p := r.snapshot().Provisioning; p != nil && len(p.PFs) > 0 {
			return p.PFs[0].State + " " + p.PFs[0].Reason
		}
		return ""
	}
	const reason = "waiting claim default/web holds 0000:6b:00.2"
	r.await("PF that waits for the claim", func() bool { return waiting() == reason })
	taints := func() []resourcev1.DeviceTaint { return r.devices()["0000-6b-00-1"].Taints }
	r.await("taint of the withdrawn VFs", func() bool { return len(taints()) == 1 })
	if taint := taints()[0]; taint.Value != status.ClassWithdrawn || taint.Effect != noSchedule {
		t.Errorf("taint %+v", taint)
	}
	r.unprepare(claim)
	r.await("PF that no longer waits for the claim", func() bool { return waiting() != reason })
}

// A runtime that ignores CDI gives no devices to containers, and reports no error.
func TestOldContainerRuntimeIsReported(t *testing.T) {
	r := newRig(t)
	n := r.api.AddNode(nodeWith("containerd://1.6.38"))
	r.addVFs(1)
	r.start()
	r.await("failing check", func() bool { return r.notReady("[-]runtime failed: ") })
	r.await("runtime in the status", func() bool {
		d := r.snapshot().DRA
		return d.RuntimeErr != "" && d.Runtime == n.Status.NodeInfo.ContainerRuntimeVersion
	})
	if !strings.Contains(r.log.String(), "containerd") {
		t.Errorf("the log does not say what to do:\n%s", r.log)
	}
}

// A device plugin gives pods the same VFs, and the scheduler does not know.
func TestDriverServesNothingBesideADevicePlugin(t *testing.T) {
	r := newRig(t)
	r.addVFs(1)
	gate, serving := program.NewGate(nodelock.DevicePlugin, r.devicePlugins(), ""), make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		_ = gate.Run(ctx, func(ctx context.Context) error {
			close(serving)
			<-ctx.Done()
			return nil
		})
	})
	defer func() {
		cancel()
		running.Wait()
		gate.Release()
	}()
	<-serving

	r.start()
	r.log.Await(t, `"Not serving the devices of this node, because another program serves them; `+
		`remove one of the two from the node" err="the device plugin has locked`)
	r.await("failing check", func() bool { return r.notReady("[-]first-look failed: the device plugin has locked ") })
	if code, body := r.get("/livez"); code != http.StatusOK {
		t.Errorf("/livez: %d %s", code, body)
	}
	if s := r.api.Slices(); len(s) > 0 {
		t.Errorf("the driver has written %d slices", len(s))
	}
	r.awaitRegistered(0)
	if r.host.Bound("vfio-pci") != nil {
		t.Error("the driver has bound VFs")
	}
}

// Intel's driver has the same name, and would delete the slices of this one.
func TestDriverServesNothingBesideIntelsDriver(t *testing.T) {
	t.Setenv("POD_UID", "11111111-2222-4333-8444-555555555555")
	r := newRig(t)
	r.addVFs(1)
	path := filepath.Join(r.kubelet.Root(), "plugins_registry", "qat.intel.com-reg.sock")
	intel, err := net.Listen("unix", path)
	must(t, err)
	defer intel.Close()
	r.start()
	r.log.Await(t, `"Not serving the devices of this node, .*" err="another DRA driver serves `+path+
		`: it must end first"`)
	if s := r.api.Slices(); len(s) > 0 {
		t.Errorf("the driver has written %d slices", len(s))
	}
	r.awaitRegistered(0)
}

// The process ends on SIGTERM, and its log is complete.
func TestProcessEndsOnSIGTERM(t *testing.T) {
	r := newRig(t)
	r.addVFs(1)
	cmd := exec.Command(os.Args[0], r.args()...)
	cmd.Env = append(os.Environ(), asProgram+"=1")
	log := testlog.NewBuffer()
	cmd.Stderr = log
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	r.awaitDevices(1)
	log.Await(t, "Registered with the kubelet")
	must(t, cmd.Process.Signal(syscall.SIGTERM))
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v, want status 0", err)
	}
	if text := log.String(); !strings.HasSuffix(text, "\"QAT DRA driver ended\"\n") {
		t.Errorf("the last line is missing from the log:\n%s", text)
	}
}

func TestProgramThatFailsExits(t *testing.T) {
	r := newRig(t)
	args := append(r.args(), "-kubelet-root=/"+strings.Repeat("x", 200), "-logtostderr=false") // unix(7)
	if status := run(t.Context(), args, io.Discard, io.Discard); status != 1 {
		t.Errorf("exit status %d, want 1", status)
	}
	r.log.Await(t, `"QAT DRA driver failed" err=`)
}
