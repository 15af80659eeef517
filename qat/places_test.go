// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"qatplugin/internal/lookalike"
)

// fail makes List fail.
func (k *kubelet) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

// count counts the calls of holders.
func (k *kubelet) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.asked
}

// captureLog returns a function that returns what was logged so far.
func captureLog(t *testing.T) func() string {
	t.Helper()
	text := &lockedBuffer{}
	state := klog.CaptureState()
	t.Cleanup(state.Restore)
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	klog.SetOutputBySeverity("INFO", text)
	return func() string { klog.Flush(); return text.String() }
}

type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// newHostOf4BoundVFs returns a host with four VFs that are bound.
func newHostOf4BoundVFs(t *testing.T) (h *lookalike.Host, vfs []string) {
	t.Helper()
	h = newHost(t)
	must(t, h.SetVFs(pfA, 4))
	bindAll(t, h, pfA)
	return h, h.VFs(pfA)
}

// The plugin ends and starts again. Without the kubelet's answer it would list the first VFs.
func TestVFsThatPodsHoldKeepTheirPlacesOverARestart(t *testing.T) {
	h, vfs := newHostOf4BoundVFs(t)
	k := &kubelet{}
	k.hold("web", vfs[3], vfs[2], "0000:7f:00.1", "x")
	config := Config{MaxNumDevices: 2, Holders: k.holders}
	t.Run("start", func(t *testing.T) {
		start(t, h, config).becomes(map[string][]string{"cy": vfs[2:]})
	})
	t.Run("restart", func(t *testing.T) {
		r := start(t, h, config)
		r.becomes(map[string][]string{"cy": vfs[2:]})
		k.hold("web", vfs[0]) // what pods hold later has no effect
		must(t, h.RemoveVF(vfs[3]))
		r.becomes(map[string][]string{"cy": {vfs[0], vfs[2]}})
	})
	if n := k.count(); n != 2 {
		t.Errorf("the kubelet was asked %d times, want once for each start", n)
	}
}

func TestKubeletIsAskedOnlyUnderALimit(t *testing.T) {
	h, vfs := newHostOf4BoundVFs(t)
	k := &kubelet{}
	k.hold("web", vfs[3])
	log := captureLog(t)
	start(t, h, Config{Holders: k.holders}).becomes(map[string][]string{"cy": vfs})
	start(t, h, Config{MaxNumDevices: 2}).becomes(map[string][]string{"cy": vfs[:2]})
	if k.count() > 0 || strings.Contains(log(), "pods hold") {
		t.Errorf("the kubelet was asked %d times, log:\n%s", k.count(), log())
	}
}

// Without an answer the order is that of the bound VFs, and the log says why.
func TestLimitWithoutAnAnswerOfTheKubelet(t *testing.T) {
	h, vfs := newHostOf4BoundVFs(t)
	k := &kubelet{}
	k.hold("web", vfs[2:]...)
	k.fail(errors.New("not now"))
	log := captureLog(t)
	start(t, h, Config{MaxNumDevices: 2, Holders: k.holders}).becomes(map[string][]string{"cy": vfs[:2]})
	const line = "Cannot find out which VFs pods hold, so others may get their places under the device limit"
	if text := log(); strings.Count(text, line) != 1 || !strings.Contains(text, `err="not now"`) {
		t.Errorf("log:\n%s\nwant one line %q with the error", text, line)
	}
}

func TestKubeletDelaysTheFirstListBriefly(t *testing.T) {
	h, vfs := newHostOf4BoundVFs(t)
	allowed := make(chan time.Duration, 1)
	tooSlow := func(ctx context.Context) (map[string]string, error) {
		deadline, _ := ctx.Deadline()
		allowed <- time.Until(deadline)
		return nil, errors.New("too slow")
	}
	start(t, h, Config{MaxNumDevices: 2, Holders: tooSlow}).becomes(map[string][]string{"cy": vfs[:2]})
	if d := <-allowed; d > 2*time.Second {
		t.Errorf("the call may take %v, want 2 s at most", d)
	}
}
