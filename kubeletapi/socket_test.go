// SPDX-License-Identifier: Apache-2.0

package kubeletapi

import (
	"context"
	"net"
	"os"
	"testing"
	"time"

	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"qatplugin/internal/unixsocket"
	"qatplugin/kubeletapi/kubelettest"
)

func TestDeletedSocketIsReplaced(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	run(t, dir, p)
	now := tree(t, nil, "yellow", "1")
	p.publish(now)
	before := waitIDs(t, k, yellow, "1")
	path := socketOf(dir, "yellow")
	for range 10 {
		old := fileIDOf(t, path)
		remove(t, path)
		waitReplaced(t, path, old)
	}
	openStream(t, dir, "yellow").until(t, "1") // the new socket is served
	p.publish(tree(t, now, "yellow", "1", "2"))
	after := waitIDs(t, k, yellow, "1", "2")
	if got, want := after.Seq, before.Seq+1; got != want {
		t.Errorf("list number %d, want %d: the kubelet's stream must not be disturbed", got, want)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: socketOf(dir, "yellow")})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false) // as if the process was killed
	l.Close()
	run(t, dir, p)
	p.publish(tree(t, nil, "yellow", "1"))
	waitIDs(t, k, yellow, "1")
}

func TestFileInPlaceOfSocketIsLeftAlone(t *testing.T) {
	dir, p := kubeletDir(t), newFakePlugin()
	k := startKubelet(t, dir)
	path := socketOf(dir, "yellow")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := run(t, dir, p, withBackOff(time.Hour, time.Hour))
	p.publish(tree(t, tree(t, nil, "yellow", "1"), "blue", "x"))
	r.log.await(t, "the file exists and is not a socket")
	waitIDs(t, k, blue, "x")
	if text, err := os.ReadFile(path); string(text) != "precious" {
		t.Fatalf("the file contains %q, %v", text, err)
	}
	remove(t, path) // ends the pause
	waitIDs(t, k, yellow, "1")
}

func TestSecondManagerWaitsForFirst(t *testing.T) {
	dir, first, second := kubeletDir(t), newFakePlugin(), newFakePlugin()
	const gracePeriod = 200 * time.Millisecond
	registered := make(chan time.Time, 8)
	k := startKubelet(t, dir, kubelettest.OnRegister(func(context.Context, *pluginapi.RegisterRequest) error {
		registered <- time.Now()
		return nil
	}))
	r1 := run(t, dir, first)
	now := tree(t, nil, "yellow", "first")
	first.publish(now)
	waitIDs(t, k, yellow, "first")
	<-registered
	path := socketOf(dir, "yellow")
	before := fileIDOf(t, path)

	r2 := run(t, dir, second, fastRetries, func(c *config) { c.gracePeriod = gracePeriod })
	second.publish(tree(t, nil, "yellow", "second"))
	r2.log.await(t, unixsocket.ErrInUse.Error())
	for _, id := range []string{"a", "b", "c"} { // the first is not disturbed
		now = tree(t, now, "yellow", id)
		first.publish(now)
		waitIDs(t, k, yellow, id)
	}
	if after := fileIDOf(t, path); after != before {
		t.Errorf("the first Manager's socket is now %v, want %v", after, before)
	}
	if n := r2.log.count(unixsocket.ErrInUse.Error()); n != 1 {
		t.Errorf("%d log lines about the socket in use, want 1:\n%s", n, r2.log)
	}
	stopped := time.Now()
	if err := r1.stop(); err != nil {
		t.Errorf("first Run = %v", err)
	}
	waitIDs(t, k, yellow, "second")
	if pause := (<-registered).Sub(stopped); pause < gracePeriod {
		t.Errorf("the second Manager registered %v after the first stopped, want at least %v", pause, gracePeriod)
	}
}

// TestTwoManagersSurviveKubeletRestarts checks that one of two Managers, whichever, serves the
// resource after each restart of the kubelet, which deletes the sockets of both.
func TestTwoManagersSurviveKubeletRestarts(t *testing.T) {
	dir, first, second := kubeletDir(t), newFakePlugin(), newFakePlugin()
	k := startKubelet(t, dir)
	run(t, dir, first, fastRetries)
	run(t, dir, second, fastRetries)
	first.publish(tree(t, nil, "yellow", "same"))
	second.publish(tree(t, nil, "yellow", "same"))
	for range 30 {
		waitIDs(t, k, yellow, "same")
		restart(t, k)
	}
	waitIDs(t, k, yellow, "same")
}
