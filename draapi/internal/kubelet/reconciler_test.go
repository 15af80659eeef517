// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"google.golang.org/grpc"

	"qatplugin/internal/unixsocket"
)

// newTestReconciler returns a reconciler that does nothing by itself, in a kubelet's directory.
func newTestReconciler(t *testing.T) *reconciler {
	t.Helper()
	root, err := os.MkdirTemp("", "k") // not t.TempDir, whose path is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	if err := os.Mkdir(filepath.Join(root, "plugins_registry"), 0o750); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Driver: "color.example.com", Root: root})
	if err != nil {
		t.Fatal(err)
	}
	servers := []*grpc.Server{grpc.NewServer(), grpc.NewServer()}
	r := newReconciler(s, servers[0], servers[1])
	t.Cleanup(func() {
		r.close()
		for _, server := range servers {
			server.Stop()
		}
		r.running.Wait()
	})
	return r
}

func identify(t *testing.T, path string) unixsocket.FileID {
	t.Helper()
	id, isSocket, err := unixsocket.Identify(path)
	if err != nil || !isSocket {
		t.Fatalf("%s: socket %t, %v", path, isSocket, err)
	}
	return id
}

// A driver can be stopped before the goroutine of a new socket serves it.
func TestStopIsNoErrorOfASocket(t *testing.T) {
	r := newTestReconciler(t)
	var log []string
	r.server.config.Log = funcr.New(func(_, text string) { log = append(log, text) }, funcr.Options{})
	r.dra.server.Stop()
	r.registry.server.Stop()
	r.reconcile(time.Now(), true)
	r.running.Wait()
	if len(log) > 0 {
		t.Errorf("log %q, want none", log)
	}
}

// The kubelet may have missed the event of the socket, for example if its queue overflowed.
func TestRegistrationSocketIsRenewedUntilTheKubeletAnswers(t *testing.T) {
	r := newTestReconciler(t)
	now := time.Now()
	next := r.reconcile(now, true)
	path := r.server.registryPath
	id := identify(t, path)
	dra := identify(t, r.server.draPath)
	for range 10 {
		if pause := next.Sub(now); pause <= 0 || pause > announceMax {
			t.Fatalf("the next pass is after %v", pause)
		}
		now = next
		renewAt := r.announceAt
		next = r.reconcile(now, false)
		after := identify(t, path)
		if renewed := after != id; renewed != !now.Before(renewAt) {
			t.Fatalf("renewed %t at %v, want it at %v", renewed, now, renewAt)
		}
		id = after
	}
	r.server.state.answer(nil)
	r.server.state.connections = 1
	for range 100 {
		next = r.reconcile(next, false)
	}
	if identify(t, path) != id {
		t.Error("the socket was renewed though the kubelet is connected")
	}
	if identify(t, r.server.draPath) != dra {
		t.Error("the other socket was renewed")
	}
	r.server.state.connections = 0 // the kubelet has ended
	next = r.reconcile(next, false)
	if pause := r.announceAt.Sub(next); pause > announceFirst || identify(t, path) != id {
		t.Errorf("the socket is renewed after %v", pause)
	}
}

func TestMissingDirectoryIsWaitedFor(t *testing.T) {
	r := newTestReconciler(t)
	dir := r.server.registryDir
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	r.reconcile(now, true)
	if err := r.server.Status().Err; err == nil || err.Error() != dir+" does not exist" {
		t.Errorf("status: %v", err)
	}
	if _, err := os.Stat(r.server.pluginDir); !os.IsNotExist(err) {
		t.Errorf("the plugin's directory: %v", err)
	}
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	r.reconcile(now, true)
	identify(t, r.server.registryPath)
	if err := r.server.Status().Err; err == nil || err.Error() != "the kubelet has not registered the driver yet" {
		t.Errorf("status: %v", err)
	}
}

// What causes no event is looked for in one pass, and not in one for each directory.
func TestQuietReconcilerWakesEachTenSeconds(t *testing.T) {
	r := newTestReconciler(t)
	now := r.reconcile(time.Now(), true)
	r.server.state.answer(nil)
	r.server.state.connections = 1
	now = r.reconcile(now, false) // finds the new directory
	for range 10 {
		next := r.reconcile(now, false)
		if pause := next.Sub(now); pause != compareInterval {
			t.Errorf("the next pass is after %v, want %v", pause, compareInterval)
		}
		now = next
	}
}
