// SPDX-License-Identifier: Apache-2.0

package draapi

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"

	"qatplugin/draapi/kubelettest"
)

const (
	oldUID = "11111111-1111-1111-1111-111111111111"
	newUID = "22222222-2222-2222-2222-222222222222"
)

func (h *host) registrySocket(suffix string) string {
	return filepath.Join(h.kubelet.Root(), "plugins_registry", driverName+suffix+"-reg.sock")
}

func (h *host) draSocket(suffix string) string {
	return filepath.Join(h.kubelet.Root(), "plugins", driverName, "dra"+suffix+".sock")
}

func (h *host) waitHealth(device string, want kubelettest.Health) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	isWanted := func(got kubelettest.Health) bool { return got == want }
	if err := h.kubelet.WaitHealth(ctx, driverName, nodeName, device, isWanted); err != nil {
		h.t.Fatal(err)
	}
}

func TestKubeletReceivesHealthWithItsReason(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	devices := tree(t, nil, color("1"), color("2"))
	h.start(p, devices)
	h.waitHealth("1", kubelettest.Health{Healthy: true})
	devices = tree(t, devices, broken("1", "it fades"), color("2"))
	p.publish(devices)
	h.waitHealth("1", kubelettest.Health{Message: "it fades"})
	h.waitHealth("2", kubelettest.Health{Healthy: true})

	h.prepare(h.allocate("paint", 1, result("one", "2")))
	p.publish(tree(t, devices, color("1")))
	h.waitHealth("2", kubelettest.Health{Message: "the device has left the host"})
	h.waitHealth("1", kubelettest.Health{Healthy: true})
}

func TestKubeletRestarts(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	devices := tree(t, nil, color("1"))
	r := h.start(p, devices)
	claim := h.allocate("paint", 1, result("one", "1"))
	before := description(h.prepare(claim))
	for range 3 {
		h.kubelet.Stop()
		await(t, "the check to fail", func() bool { return r.CheckRegistered(t.Context()) != nil })
		if err := r.CheckRegistered(t.Context()); err.Error() != "the kubelet is not connected" {
			t.Errorf("check: %v", err)
		}
		h.startKubelet()
		h.waitRegistered(1)
		await(t, "the check to succeed", func() bool { return r.CheckRegistered(t.Context()) == nil })
		if diff := cmp.Diff(before, description(h.prepare(claim))); diff != "" {
			t.Errorf("answer (-before +after):\n%s", diff)
		}
		h.waitHealth("1", kubelettest.Health{Healthy: true})
	}
}

func TestSocketsThatDisappearAreCreatedAgain(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	r := h.start(p, tree(t, nil, color("1")))
	for _, path := range []string{
		h.registrySocket(""), h.draSocket(""), filepath.Dir(h.draSocket("")), filepath.Dir(h.registrySocket("")),
	} {
		before, err := os.Stat(h.registrySocket(""))
		if err != nil {
			t.Fatal(err)
		}
		// A rename, because the sockets may be created again before the directory is empty.
		if err := os.Rename(path, filepath.Join(t.TempDir(), "old")); err != nil {
			t.Fatal(err)
		}
		if path == filepath.Dir(h.registrySocket("")) { // which the kubelet creates when it starts
			h.kubelet.Stop()
			h.startKubelet()
		}
		await(t, "the sockets after the removal of "+path, func() bool {
			registry, err := os.Stat(h.registrySocket(""))
			_, draErr := os.Stat(h.draSocket(""))
			isNew := err == nil && (!os.SameFile(before, registry) || !before.ModTime().Equal(registry.ModTime()))
			return err == nil && draErr == nil && (isNew || !strings.HasPrefix(h.registrySocket(""), path))
		})
		claim := h.allocate("paint", 1, result("one", "1"))
		await(t, "the registration", func() bool {
			_, err := h.tryPrepare(claim)
			return err == nil && r.CheckRegistered(t.Context()) == nil
		})
		h.unprepare(claim)
	}
}

// Both instances of a rolling update are registered at the same time, and the kubelet may call
// either.
func TestInstancesOfARollingUpdateShareClaims(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	devices := tree(t, nil, color("1"), color("2"))
	first := h.start(p, devices, WithPodUID(oldUID))
	kept, other := h.allocate("kept", 1, result("one", "1")), h.allocate("other", 1, result("one", "2"))
	before := description(h.prepare(kept))
	h.prepare(other)

	p = newFakePlugin()
	second := h.run(p, WithPodUID(newUID))
	p.publish(devices)
	h.waitRegistered(2)
	h.unprepare(other) // calls the second instance
	if claims := second.Claims(); len(claims) != 1 || claims[0].String() != "default/kept" {
		t.Errorf("claims of the second instance: %+v", claims)
	}
	if diff := cmp.Diff(before, description(h.prepare(kept))); diff != "" {
		t.Errorf("answer of the second instance (-want +got):\n%s", diff)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	h.waitRegistered(1)
	h.unprepare(kept)
	if files := h.files(); len(files) > 0 {
		t.Errorf("files: %q", files)
	}
}

func TestSecondInstanceWithoutPodUIDWaits(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	first := h.start(p, tree(t, nil, color("1")))
	p = newFakePlugin()
	second := h.run(p)
	p.publish(tree(t, nil, color("2")))
	await(t, "the second one to find the socket in use", func() bool {
		err := second.CheckRegistered(t.Context())
		return err != nil && strings.Contains(err.Error(), "another process serves it")
	})
	if err := first.CheckRegistered(t.Context()); err != nil {
		t.Errorf("the first instance: %v", err)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	await(t, "the second one to be registered", func() bool { return second.CheckRegistered(t.Context()) == nil })
}

// A killed instance leaves its sockets behind. The kubelet tries to connect to them forever.
func TestSocketsOfDeadInstancesAreRemoved(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	if err := os.MkdirAll(filepath.Dir(h.draSocket("")), 0o750); err != nil {
		t.Fatal(err)
	}
	long := time.Now().Add(-time.Hour)
	socket := func(path string, isOld bool) {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
		if isOld {
			if err := os.Chtimes(path, long, long); err != nil {
				t.Fatal(err)
			}
		}
	}
	dead := []string{h.draSocket("-" + oldUID), h.registrySocket("-" + oldUID), h.draSocket(""), h.registrySocket("")}
	for _, path := range dead {
		socket(path, true)
	}
	others := []string{h.draSocket("-" + newUID), h.registrySocket("-other")}
	socket(others[0], false) // may not listen yet
	socket(others[1], true)  // may be of driver color.example.com-other
	const ownUID = "33333333-3333-3333-3333-333333333333"
	h.start(p, tree(t, nil, color("1")), WithPodUID(ownUID))
	for _, path := range dead {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, path := range others {
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestEndOfRunLetsCallsFinish(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	r := h.start(p, tree(t, nil, color("1")))
	claim := h.allocate("paint", 1, result("one", "1"))
	called, finish := make(chan struct{}), make(chan struct{})
	p.setPrepare(func(context.Context, *Claim) error {
		close(called)
		<-finish
		return nil
	})
	prepared := make(chan error, 1)
	go func() {
		_, err := h.tryPrepare(claim)
		prepared <- err
	}()
	<-called
	r.cancel()
	select {
	case <-r.done:
		t.Error("Run returned with a call in progress")
	case <-time.After(400 * time.Millisecond): // twice the time that answers have to be written
	}
	close(finish)
	if err := <-prepared; err != nil {
		t.Errorf("prepare: %v", err)
	}
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	for _, path := range []string{h.registrySocket(""), h.draSocket("")} {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s after Run: %v", path, err)
		}
	}
	if n := len(h.files()); n != 1 {
		t.Errorf("%d files of claims after Run, want 1", n)
	}
}

// A second call for a claim waits for the first one, and not longer than its caller.
func TestCallEndsWithItsContext(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	h.start(p, tree(t, nil, color("1")))
	claim := h.allocate("paint", 1, result("one", "1"))
	called, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	p.setPrepare(func(ctx context.Context, _ *Claim) error {
		called <- struct{}{}
		<-ctx.Done()
		ended <- struct{}{}
		return ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	prepared := make(chan error, 1)
	go func() {
		_, err := h.kubelet.Prepare(ctx, driverName, claim)
		prepared <- err
	}()
	<-called
	short, stop := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer stop()
	if _, err := h.kubelet.Prepare(short, driverName, claim); err == nil {
		t.Error("the second call succeeded")
	}
	cancel()
	if err := <-prepared; err == nil {
		t.Error("the first call succeeded")
	}
	<-ended
	p.setPrepare(nil)
	h.prepare(claim)
}

func TestFailureOfWatchEndsRun(t *testing.T) {
	h, p := newHost(t), newFakePlugin()
	d := NewDriver(driverName, p, WithNodeName(nodeName), WithRESTConfig(h.api.Config()),
		WithKubeletRoot(h.kubelet.Root()), WithCDIDir(h.cdiDir))
	p.result <- errors.New("no colors")
	log := newLogRecorder()
	err := d.Run(klog.NewContext(t.Context(), log.logger()))
	if n := log.count("Watch failed"); n != 1 {
		t.Errorf("%d lines about it in the log:\n%s", n, log)
	}
	if err == nil || err.Error() != "watch devices of color.example.com: no colors" {
		t.Errorf("Run = %v", err)
	}
	if err := d.Run(t.Context()); err == nil || err.Error() != "a Driver can only run once" {
		t.Errorf("second Run = %v", err)
	}
}

func TestInvalidArgumentsAreReported(t *testing.T) {
	api := newHost(t).api.Config()
	valid := []Option{WithNodeName(nodeName), WithRESTConfig(api)}
	for _, tt := range []struct {
		name string
		opts []Option
		want string
	}{
		{"Color", valid, `invalid driver name "Color": `},
		{"1color", valid, `invalid driver name "1color": `},
		{strings.Repeat("c", 64), valid, `driver name "cccc`},
		{driverName, []Option{WithRESTConfig(api)}, "WithNodeName is required"},
		{driverName, []Option{WithNodeName(nodeName), nil}, "WithRESTConfig is required"},
		{driverName, append(valid, WithNodeName("a b")), `invalid node name "a b": `},
		{driverName, append(valid, WithPodUID("../x")), `invalid pod UID "../x": `},
		{driverName, append(valid, WithCDIDir("")), `invalid CDI directory "": `},
		{driverName, append(valid, WithKubeletRoot("")), `invalid kubelet directory "": `},
		{driverName, append(valid, WithKubeletRoot("/"+strings.Repeat("k", 80))), "the path of socket /kkk"},
	} {
		err := NewDriver(tt.name, newFakePlugin(), tt.opts...).Run(t.Context())
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("Run = %v, want %s…", err, tt.want)
		}
	}
	if err := NewDriver(driverName, nil, valid...).Run(t.Context()); err == nil || err.Error() != "the Plugin is nil" {
		t.Errorf("Run without a Plugin = %v", err)
	}
}
