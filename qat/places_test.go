// SPDX-License-Identifier: Apache-2.0

package qat

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/klog/v2"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"

	"qatplugin/internal/lookalike"
)

// fail makes List fail.
func (k *podResources) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.err = err
}

// count counts the calls of List.
func (k *podResources) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.listed
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
	k, socket := servePodResources(t)
	k.hold("web", vfs[3], vfs[2], "0000:7f:00.1", "x")
	config := Config{MaxNumDevices: 2, PodResourcesSocket: socket}
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
	k, socket := servePodResources(t)
	k.hold("web", vfs[3])
	log := captureLog(t)
	start(t, h, Config{PodResourcesSocket: socket}).becomes(map[string][]string{"cy": vfs})
	start(t, h, Config{MaxNumDevices: 2}).becomes(map[string][]string{"cy": vfs[:2]})
	if k.count() > 0 || strings.Contains(log(), "pods hold") {
		t.Errorf("the kubelet was asked %d times, log:\n%s", k.count(), log())
	}
}

// Without an answer the order is that of the bound VFs, and the log says why.
func TestLimitWithoutAnAnswerOfTheKubelet(t *testing.T) {
	const line = "Cannot find out which VFs pods hold, so others may get their places under the device limit"
	for name, tt := range map[string]struct {
		prepare func(k *podResources, socket string)
		config  Config
		want    string // in the line
	}{
		"no socket": {
			prepare: func(_ *podResources, socket string) { _ = os.Remove(socket) },
			want:    "no such file or directory: mount the host's directory",
		},
		"error": {
			prepare: func(k *podResources, _ string) { k.fail(errors.New("not now")) },
			want:    "not now",
		},
		"kubelet that has just started": {
			config: Config{PodName: "kube-system/plugin"},
			want:   "own pod kube-system/plugin",
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, vfs := newHostOf4BoundVFs(t)
			k, socket := servePodResources(t)
			k.hold("web", vfs[2:]...)
			if tt.prepare != nil {
				tt.prepare(k, socket)
			}
			log := captureLog(t)
			config := tt.config
			config.MaxNumDevices, config.PodResourcesSocket = 2, socket
			start(t, h, config).becomes(map[string][]string{"cy": vfs[:2]})
			if text := log(); strings.Count(text, line) != 1 || !strings.Contains(text, tt.want) {
				t.Errorf("log:\n%s\nwant one line %q with %q", text, line, tt.want)
			}
		})
	}
}

// A slowKubelet notes how long a call may take, and answers nothing.
type slowKubelet struct {
	podresourcesapi.UnimplementedPodResourcesListerServer
	allowed chan time.Duration
}

func (k *slowKubelet) List(
	ctx context.Context, _ *podresourcesapi.ListPodResourcesRequest,
) (*podresourcesapi.ListPodResourcesResponse, error) {
	deadline, _ := ctx.Deadline()
	k.allowed <- time.Until(deadline)
	return nil, errors.New("too slow")
}

func TestKubeletDelaysTheFirstListBriefly(t *testing.T) {
	h, vfs := newHostOf4BoundVFs(t)
	k := &slowKubelet{allowed: make(chan time.Duration, 1)}
	socket := serveKubelet(t, k)
	start(t, h, Config{MaxNumDevices: 2, PodResourcesSocket: socket}).becomes(map[string][]string{"cy": vfs[:2]})
	if allowed := <-k.allowed; allowed > 2*time.Second {
		t.Errorf("the call may take %v, want 2 s at most", allowed)
	}
}
